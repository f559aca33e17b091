//! The clock of a door that runs is set: what is refused, what goes on, what is told; a56, F7.

use doorward::audit::EventType;
use doorward::model::Ttl;
use doorward::store::EventFilter;

use super::exchange::of_person;
use super::fixture::{Door, Speaks, with_door};
use super::grant_tokens::{api, granted, plan};

const HOUR: i64 = 3_600_000;

async fn steps(door: &Door, count: usize) -> Vec<(String, String)> {
    let filter = EventFilter { kind: Some(EventType::ClockStepped), ..EventFilter::default() };
    for _ in 0..60 {
        let found = door.running().desk.store.event_list(&filter, 10).await.unwrap();
        if found.len() >= count {
            let text = |at: &str, event: &doorward::store::Recorded| event.text(at).unwrap_or_default().to_owned();
            return found.iter().map(|it| (text("/data/direction", it), text("/data/step", it))).collect();
        }
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    panic!("a step of the clock is not on record");
}

#[test]
fn a56_a_clock_that_is_set_back_stops_grants_and_exchanges_and_nothing_that_is_open() {
    with_door(plan(), async |door| {
        let alice = door.sign_in("alice").await;
        let short = granted(door, &alice, "app", "1m").await;
        door.clock.step(-HOUR);
        let asked = serde_json::json!({ "entitlement": "app/open", "reason": "test" });
        let refused = api(door, Some(&alice), None, "/api/v1/requests", Some(asked.clone())).await;
        assert_eq!((refused.status.as_u16(), refused.reason().as_str()), (503, "clock_stepped"), "{}", refused.text());
        let exchange = of_person(door, &alice, &[], &[("audience", "app")]).await;
        assert_eq!(exchange.status, 503, "{}", exchange.text());
        assert!(exchange.text().contains("temporarily_unavailable") && exchange.text().contains("clock"));
        assert_eq!(door.get("app", Some(&alice), Speaks::Http2, "/x").await.status, 200);
        let step = steps(door, 1).await.remove(0);
        assert_eq!(step.0, "back");
        assert!(step.1.starts_with("59m") || step.1.starts_with("1h"), "{step:?}");
        // The grant ends when it should.
        let id = doorward::model::GrantId::parse(&short).unwrap();
        let directory = &door.running().desk.directory;
        let held = |now| directory.grant(&alice.principal, id).is_some_and(|grant| grant.is_live(now));
        assert!(held(door.running().desk.clock.now()));
        door.clock.advance(Ttl::minutes(1));
        assert!(!held(door.running().desk.clock.now()));

        door.clock.step(HOUR);
        assert_eq!(steps(door, 2).await.iter().map(|it| it.0.as_str()).collect::<Vec<_>>(), ["forward", "back"]);
        door.clock.advance(Ttl::seconds(61));
        let again = api(door, Some(&alice), None, "/api/v1/requests", Some(asked)).await;
        assert_eq!(again.status, 201, "{}", again.text());
        assert_eq!(of_person(door, &alice, &[], &[("audience", "app")]).await.status, 200);
    });
}

#[test]
fn f7_what_is_over_by_a_clock_that_was_set_forward_is_over_and_nobody_falls_over() {
    with_door(plan(), async |door| {
        let alice = door.sign_in("alice").await;
        let grant = granted(door, &alice, "app", "10m").await;
        let mut client = door.client("app", Some(&alice), Speaks::Http2).await;
        assert_eq!(client.get("/x").await.status, 200);
        door.clock.step(240 * HOUR);
        let over = client.get("/x").await;
        assert_eq!(over.status, 401, "{}", over.text());
        let step = steps(door, 1).await.remove(0);
        assert!(step.0 == "forward" && (step.1.starts_with("10d") || step.1.starts_with("9d23h59m")), "{step:?}");
        // Nobody believed it: back again, all goes on.
        door.clock.step(-240 * HOUR);
        steps(door, 2).await;
        let bob = door.sign_in("bob").await;
        assert_eq!(door.get("app", Some(&bob), Speaks::Http2, "/x").await.status, 200);
        let stored = door.running().desk.store.grant_fetch(doorward::model::GrantId::parse(&grant).unwrap()).await;
        assert_eq!(stored.unwrap().unwrap().state.name(), "active", "no other node was told so");
    });
}
