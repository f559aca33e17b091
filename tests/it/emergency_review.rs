//! Reviews of emergencies through the API: two people, never who opened it, and only once it is over.

use std::net::{IpAddr, Ipv4Addr};

use doorward::audit::{Event, EventType, Outcome};
use doorward::control::breakglass::{self, ReviewError};
use doorward::model::{BreakGlassId, EventId, Principal, Timestamp, Ttl};
use serde_json::{Value, json};

use crate::api_house::{Answer, Caller, House};
use crate::support::databases;

/// Puts an opening of `opener` on record as the door does.
pub async fn opened(house: &House, opener: &str) -> BreakGlassId {
    opened_by_one_called(house, opener, &[]).await
}

async fn opened_by_one_called(house: &House, opener: &str, names: &[&str]) -> BreakGlassId {
    let now = house.now();
    let id = BreakGlassId::fresh(now, &*house.desk.entropy);
    let event_id = house.desk.event_id(now);
    let mut event = Event::new(event_id, now, EventType::BreakGlassOpened, Outcome::Success)
        .with("id", id.to_string())
        .with("opener", opener)
        .with("opener_names", names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>())
        .with("opener_proven", false)
        .with("custodians", vec!["ann".to_owned(), "ben".to_owned()])
        .with("scope", "all services")
        .with("reason", "provider is down")
        .with("not_before", now.to_string())
        .with("expires", now.plus(Ttl::minutes(10)).to_string());
    event.actor.principal = Some(Principal::breakglass(id));
    event.actor.address = Some(IpAddr::V4(Ipv4Addr::LOCALHOST));
    let mut tx = house.desk.store.begin().await.unwrap();
    tx.event_append(&event).await.unwrap();
    tx.commit().await.unwrap();
    id
}

async fn review(house: &House, caller: &Caller, id: &str, finding: &str) -> Answer {
    house.json(caller, &format!("/api/v1/breakglass/{id}/reviews"), &json!({ "finding": finding })).await
}

#[tokio::test]
async fn two_people_other_than_the_opener_review_an_opening_once_it_is_over() {
    for url in databases() {
        let house = House::new(&url).await;
        let (alice, _, _) = house.command_line("alice").await;
        let (bob, _, _) = house.command_line("bob").await;
        let (carol, _, _) = house.command_line("carol").await;
        let id = opened(&house, "Bob").await.to_string();
        // While it is open everyone sees it, and nobody reviews it.
        let seen = house.get(&alice, "/api/v1/breakglass").await;
        assert_eq!(seen.text("/items/0/state"), "active", "{seen:?}");
        let early = review(&house, &carol, &id, "early").await;
        assert_eq!(early.text("/reason"), "still_open");
        assert!(early.text("/detail").contains(&format!("`doorward breakglass close {id}` ends it")), "{early:?}");
        house.clock.advance(Ttl::minutes(11));
        // Who may not review does not see it any more; who opened does not review.
        let seen = house.get(&alice, "/api/v1/breakglass").await;
        assert_eq!(seen.body["items"].as_array().map(Vec::len), Some(0));
        assert_eq!(house.get(&alice, &format!("/api/v1/breakglass/{id}")).await.status, 404);
        assert_eq!(review(&house, &alice, &id, "fine").await.status, 403);
        let own = review(&house, &bob, &id, "fine").await;
        assert_eq!((own.status.as_u16(), own.text("/reason")), (403, "self_review"), "{own:?}");
        assert_eq!(review(&house, &carol, &id, "  ").await.status, 400);
        assert_eq!(review(&house, &carol, "brk_06h01rs2cto0b2afh7rgi8mlb0", "x").await.status, 404);
        let first = review(&house, &carol, &id, "only restarts").await;
        assert_eq!((first.status.as_u16(), first.body["reviewed"].as_bool()), (200, Some(false)), "{first:?}");
        assert_eq!(review(&house, &carol, &id, "again").await.text("/reason"), "already_reviewed");
        let listed = house.get(&carol, &format!("/api/v1/breakglass/{id}")).await;
        assert_eq!(listed.body["reviews_missing"], 1);
        assert_eq!(listed.text("/reviews/0/finding"), "only restarts");
    }
}

#[tokio::test]
async fn who_opened_by_another_name_of_their_custodian_line_does_not_review() {
    for url in databases() {
        let house = House::new(&url).await;
        let (bob, _, _) = house.command_line("bob").await;
        let (carol, _, _) = house.command_line("carol").await;
        let id = opened_by_one_called(&house, "b.smith", &["Bob", "b.smith"]).await.to_string();
        house.clock.advance(Ttl::minutes(11));
        let own = review(&house, &bob, &id, "fine").await;
        assert_eq!((own.status.as_u16(), own.text("/reason")), (403, "self_review"), "{own:?}");
        assert_eq!(review(&house, &carol, &id, "only restarts").await.status, 200);
    }
}

#[test]
fn of_an_emergency_grant_that_is_open_it_is_said_what_ends_a_grant() {
    let until = Timestamp::from_seconds(1_795_341_600);
    let told = ReviewError::Open { id: "grt_06h01rs2cto0b2afh7rgi8mlb0".to_owned(), until }.to_string();
    assert!(told.ends_with("`doorward revoke grt_06h01rs2cto0b2afh7rgi8mlb0` ends it now"), "{told}");
}

#[tokio::test]
async fn the_second_review_makes_it_reviewed() {
    for url in databases() {
        let house = House::new(&url).await;
        let (bob, _, _) = house.command_line("bob").await;
        let (carol, _, _) = house.command_line("carol").await;
        let id = opened(&house, "erin").await.to_string();
        house.clock.advance(Ttl::minutes(11));
        assert_eq!(review(&house, &carol, &id, "one").await.status, 200);
        let second = review(&house, &bob, &id, "two").await;
        assert_eq!(second.body["reviewed"], Value::Bool(true), "{second:?}");
        let listed = house.get(&carol, &format!("/api/v1/breakglass/{id}")).await;
        let found: Vec<&str> =
            listed.body["reviews"].as_array().unwrap().iter().filter_map(|it| it["finding"].as_str()).collect();
        assert_eq!((found, listed.text("/state")), (vec!["one", "two"], "expired"));
    }
}

#[tokio::test]
async fn without_an_emergency_path_nothing_of_it_is_told() {
    let house = House::new(&databases()[0]).await;
    let nobody = Caller::default();
    let terms = house.get(&nobody, "/api/v1/breakglass/terms").await;
    assert_eq!(terms.status, 404);
    let body = json!({ "client_key_sha256": "00".repeat(32), "challenge": "x", "signatures": [] });
    assert_eq!(house.json(&nobody, "/api/v1/breakglass/check", &body).await.status, 404);
}

#[tokio::test]
async fn neither_closings_nor_later_openings_hide_an_opening_that_waits_for_its_review() {
    const MANY: usize = 1001;
    for url in databases() {
        let house = House::new(&url).await;
        let (bob, _, _) = house.command_line("bob").await;
        let (carol, _, _) = house.command_line("carol").await;
        let id = opened(&house, "erin").await.to_string();
        house.clock.advance(Ttl::minutes(11));
        // Newer by their ids, as one custodian's word once made them; and as many openings after it.
        let far = house.now().plus(Ttl::hours(24 * 365 * 100));
        let mut tx = house.desk.store.begin().await.unwrap();
        for _ in 0..MANY {
            let other = BreakGlassId::fresh(house.now(), &*house.desk.entropy).to_string();
            let at = EventId::fresh(far, &*house.desk.entropy);
            let closing = Event::new(at, house.now(), EventType::BreakGlassClosed, Outcome::Success);
            tx.event_append(&closing.with("id", other.as_str()).with("by", "custodian ann")).await.unwrap();
            let now = house.now();
            let later = Event::new(house.desk.event_id(now), now, EventType::BreakGlassOpened, Outcome::Success)
                .with("id", BreakGlassId::fresh(now, &*house.desk.entropy).to_string())
                .with("expires", now.plus(Ttl::minutes(10)).to_string());
            tx.event_append(&later).await.unwrap();
        }
        tx.commit().await.unwrap();
        house.clock.advance(Ttl::minutes(11));
        let emergency = &house.desk.directory.emergency;
        breakglass::follow(&house.desk, house.now()).await.unwrap();
        assert_eq!(emergency.unreviewed(), MANY + 1);
        let listed = house.get(&carol, &format!("/api/v1/breakglass/{id}")).await;
        assert_eq!((listed.status.as_u16(), listed.text("/state")), (200, "expired"), "{listed:?}");
        for (who, reviewed) in [(&carol, false), (&bob, true)] {
            let answer = review(&house, who, &id, "only restarts").await;
            assert_eq!((answer.status.as_u16(), answer.body["reviewed"].as_bool()), (200, Some(reviewed)));
        }
        breakglass::follow(&house.desk, house.now()).await.unwrap();
        assert_eq!(emergency.unreviewed(), MANY);
    }
}

#[tokio::test]
async fn what_was_reviewed_before_it_was_opened_is_not_reviewed() {
    let house = House::new(&databases()[0]).await;
    let (carol, _, _) = house.command_line("carol").await;
    let id = opened(&house, "erin").await;
    house.clock.advance(Ttl::minutes(11));
    assert_eq!(review(&house, &carol, &id.to_string(), "one").await.status, 200);
    // Another challenge of the same id, at a node that knew of neither.
    house.clock.advance(Ttl::minutes(1));
    let now = house.now();
    let again = Event::new(house.desk.event_id(now), now, EventType::BreakGlassOpened, Outcome::Success)
        .with("id", id.to_string())
        .with("expires", now.plus(Ttl::minutes(10)).to_string());
    let mut tx = house.desk.store.begin().await.unwrap();
    tx.event_append(&again).await.unwrap();
    tx.commit().await.unwrap();
    house.clock.advance(Ttl::minutes(11));
    let found = review(&house, &carol, &id.to_string(), "two").await;
    assert_eq!((found.status.as_u16(), found.body["reviews_missing"].as_u64()), (200, Some(1)), "{found:?}");
}
