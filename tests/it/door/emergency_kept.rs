//! That an opening can't be kept off the record, nor off the lists of what waits for a review: a59.

use std::path::Path;

use doorward::audit::EventType;
use doorward::control::breakglass::{self, CheckError, CloseError, CloseRequest, Presented};
use doorward::identity::breakglass::{ClosingError, QuorumError};
use doorward::model::breakglass::{Challenge, Scope};
use doorward::model::closing::{CLOSE_NAMESPACE, Closing};
use doorward::model::{BreakGlassId, Clock, ServiceName, Timestamp, Ttl};
use doorward::server::ambient::{SystemClock, SystemEntropy};

use super::breakglass::{certificate, challenge, evidence, rules, signed};
use super::emergency::{close, opened, plan};
use super::fixture::{Door, Person, Speaks, with_door};

const HERE: std::net::IpAddr = std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);

/// An opening of this id and scope, and whoever uses it.
fn with_id(dir: &Path, id: BreakGlassId, scope: Scope) -> (Challenge, Presented, Person) {
    let (key, asked) = challenge(&rules(dir, 2), scope, id.made_at());
    let asked = Challenge { id, ..asked };
    let both = evidence(dir, &asked, &["ann", "ben"]);
    let person = certificate(&key, &both);
    let presented = Presented { client_key: asked.client_key, evidence: both };
    (asked, presented, person)
}

async fn check(door: &Door, presented: &Presented) -> Result<(), CheckError> {
    let desk = &door.running().desk;
    breakglass::check(desk, presented, HERE, desk.clock.now()).await.map(drop)
}

async fn on_record(door: &Door) -> Vec<String> {
    let store = &door.running().desk.store;
    let events = store.emergency_events(EventType::BreakGlassOpened, |_| true).await.unwrap();
    events.iter().map(|event| event.text("/data/id").unwrap().to_owned()).collect()
}

#[test]
fn a59_an_opening_with_the_id_of_something_on_record_is_on_record_all_the_same() {
    with_door(plan(), async |door| {
        let (first, _, person) = opened(&door.dir, &["ann", "ben"]);
        let got = door.get("app", Some(&person), Speaks::Http1, "/x").await;
        assert_eq!(got.status, 200, "{}", got.text());
        let decided = door.recorded(got.decision()).await.clear().id;
        // A decision has its event's sixteen bytes: the record would take no second event of that id.
        let taken = BreakGlassId::from_bytes(*decided.bytes());
        let (_, _, person) = with_id(&door.dir, taken, Scope::All);
        assert_eq!(door.get("app", Some(&person), Speaks::Http1, "/x").await.status, 200);
        let mut both = [first.id.to_string(), taken.to_string()];
        let mut found = on_record(door).await;
        both.sort();
        found.sort();
        assert_eq!(found, both);
        let known = door.running().desk.directory.emergency.open(door.clock.now());
        assert!(known.iter().any(|it| it.id == taken), "people are told of it");
    });
}

#[test]
fn a59_an_id_of_another_time_than_the_beginning_opens_nothing() {
    with_door(plan(), async |door| {
        let now = SystemClock.now();
        for made_at in [now.minus(Ttl::hours(24)), now.minus(Ttl::millis(1)), now.plus(Ttl::hours(24))] {
            let (_, asked) = challenge(&rules(&door.dir, 2), Scope::All, now);
            let asked = Challenge { id: BreakGlassId::fresh(made_at, &SystemEntropy), ..asked };
            let evidence = evidence(&door.dir, &asked, &["ann", "ben"]);
            let refused = check(door, &Presented { client_key: asked.client_key, evidence }).await.unwrap_err();
            assert!(matches!(refused, CheckError::Quorum(QuorumError::Id { .. })), "{refused}");
        }
    });
}

#[test]
fn a59_an_id_that_was_opened_opens_nothing_with_another_challenge() {
    with_door(plan(), async |door| {
        let id = BreakGlassId::fresh(SystemClock.now(), &SystemEntropy);
        let app = Scope::Services(vec![ServiceName::parse("app").unwrap()]);
        let (_, narrow, first) = with_id(&door.dir, id, app);
        let (_, wide, second) = with_id(&door.dir, id, Scope::All);
        assert_eq!(door.get("app", Some(&first), Speaks::Http1, "/x").await.status, 200);
        for service in ["app", "web"] {
            let refused = door.get(service, Some(&second), Speaks::Http1, "/x").await;
            assert_eq!(refused.reason(), "bad_credential", "{}", refused.text());
        }
        let refused = check(door, &wide).await.unwrap_err();
        assert!(refused == CheckError::OtherChallenge && refused.is_final(), "{refused}");
        check(door, &narrow).await.unwrap();
        assert_eq!(door.get("app", Some(&first), Speaks::Http1, "/x").await.status, 200);
        assert_eq!(on_record(door).await, [id.to_string()]);
        // A node that heard of it from the record refuses the other one, too.
        let desk = &door.running().desk;
        let known = desk.directory.emergency.open(desk.clock.now()).remove(0);
        let elsewhere = doorward::identity::breakglass::EmergencyState::default();
        breakglass::follow(desk, desk.clock.now()).await.unwrap();
        let heard = desk.directory.emergency.open(desk.clock.now()).remove(0);
        assert_eq!(heard.challenge, known.challenge, "the record has the challenge's hash");
        elsewhere.know((*heard).clone());
        assert!(elsewhere.is_other(id, &[0; 32]) && !elsewhere.is_other(id, &known.challenge.unwrap()));
    });
}

#[test]
fn a_closing_of_another_time_or_of_what_can_not_be_open_is_refused() {
    with_door(plan(), async |door| {
        let now = SystemClock.now();
        let said = async |id: BreakGlassId, time: Timestamp| {
            let text = Closing { id, trust_domain: "doorward.localhost".to_owned(), time }.text();
            let signature = signed(&door.dir, "cid", CLOSE_NAMESPACE, &text);
            close(door, id, &CloseRequest { signature, statement: text.into_bytes(), evidence: None }).await
        };
        let made = |time: Timestamp| BreakGlassId::fresh(time, &SystemEntropy);
        for time in [now.plus(Ttl::hours(24 * 365 * 100)), now.plus(Ttl::minutes(6)), now.minus(Ttl::minutes(6))] {
            let refused = said(made(now), time).await;
            assert!(matches!(refused, Err(CloseError::Closing(ClosingError::Time { .. }))), "{time}: {refused:?}");
        }
        for made_at in [Timestamp::default(), now.minus(Ttl::minutes(66)), now.plus(Ttl::minutes(6))] {
            let refused = said(made(made_at), now).await;
            let expected = matches!(refused, Err(CloseError::Closing(ClosingError::NothingOpen { .. })));
            assert!(expected, "{made_at}: {refused:?}");
        }
        let store = &door.running().desk.store;
        assert!(store.emergency_events(EventType::BreakGlassClosed, |_| true).await.unwrap().is_empty());
        // Clocks may be a little off, and an opening may be closed before this node has seen it.
        said(made(now.minus(Ttl::minutes(59))), now.plus(Ttl::minutes(4))).await.unwrap();
        said(made(now.plus(Ttl::minutes(4))), now.minus(Ttl::minutes(4))).await.unwrap();
    });
}
