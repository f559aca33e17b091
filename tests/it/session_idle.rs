//! The end of a browser's session that nobody uses (`[session] idle`), on both engines and two nodes.

use doorward::control::session::idle;
use doorward::model::{Clock, Ttl};

use crate::api_house::{Caller, House};
use crate::support::{TestClock, databases};

async fn nodes(url: &str, clock: &TestClock) -> [House; 2] {
    let idle = |settings: &mut doorward::control::DeskSettings| settings.idle = Some(Ttl::minutes(20));
    [House::node(url, clock.clone(), 1, 1, idle).await, House::node(url, clock.clone(), 2, 2, idle).await]
}

async fn answers(house: &House, browser: &Caller) -> (u16, String) {
    let answer = house.get(browser, "/api/v1/whoami").await;
    (answer.status.as_u16(), answer.text("/reason").to_owned())
}

#[tokio::test]
async fn a_browsers_session_ends_when_nobody_uses_it_and_goes_on_while_somebody_does() {
    for url in databases() {
        let clock = TestClock::new();
        let [house, other] = nodes(&url, &clock).await;
        let (browser, stored) = house.browser("alice").await;
        // In use for an hour, now at one node and now at the other, it goes on.
        for round in 0..12 {
            clock.advance(Ttl::minutes(15));
            let node = if round % 2 == 0 { &house } else { &other };
            assert_eq!(answers(node, &browser).await.0, 200, "{round}");
            assert_eq!(idle::round(node.desk.as_ref(), clock.now()).await.unwrap(), 0);
        }
        // To the moment at the node that knows of its last use, and never late at another.
        clock.advance(Ttl::millis(20 * 60_000 - 1));
        assert_eq!(answers(&other, &browser).await.0, 200);
        clock.advance(Ttl::minutes(20));
        for node in [&house, &other] {
            assert_eq!(answers(node, &browser).await, (401, "session_ended".to_owned()));
        }
        // Being refused is no use: the sweep ends it for good, once, on record.
        clock.advance(Ttl::minutes(1));
        let ended =
            idle::round(&house.desk, clock.now()).await.unwrap() + idle::round(&other.desk, clock.now()).await.unwrap();
        assert_eq!(ended, 1);
        let session = house.desk.store.session_fetch(stored.session.id).await.unwrap().unwrap().session;
        assert_eq!(session.ended.map(|(why, _)| why.name()), Some("idle"));
        assert!(house.desk.directory.session(session.id).unwrap().streams.is_cancelled(), "what was open is cut");
    }
}

#[tokio::test]
async fn what_is_sent_over_an_open_stream_is_a_use_and_what_is_shown_is_none() {
    for url in databases() {
        let clock = TestClock::new();
        let [house, other] = nodes(&url, &clock).await;
        let (browser, stored) = house.browser("alice").await;
        let known = house.desk.directory.session(stored.session.id).unwrap();
        for _ in 0..4 {
            clock.advance(Ttl::minutes(15));
            known.used.stream_moved();
            assert_eq!(idle::round(&house.desk, clock.now()).await.unwrap(), 0);
        }
        assert_eq!(answers(&other, &browser).await.0, 200, "the other node reads what was written");
        clock.advance(Ttl::minutes(22));
        // Too late: what moved on a session that is over does not bring it back.
        known.used.stream_moved();
        assert_eq!(idle::round(&house.desk, clock.now()).await.unwrap(), 1);
        assert!(known.streams.is_cancelled());
    }
}

#[tokio::test]
async fn a_use_is_written_now_and_then_and_not_at_each_request() {
    let clock = TestClock::new();
    let [house, _] = nodes(&databases()[0], &clock).await;
    let (browser, stored) = house.browser("alice").await;
    let written = async || house.desk.store.session_use_fetch(stored.session.id).await.unwrap();
    assert_eq!(answers(&house, &browser).await.0, 200);
    let first = written().await.unwrap();
    clock.advance(Ttl::seconds(59));
    assert_eq!(answers(&house, &browser).await.0, 200);
    assert_eq!(written().await, Some(first));
    clock.advance(Ttl::seconds(1));
    assert_eq!(answers(&house, &browser).await.0, 200);
    assert_eq!(written().await, Some(clock.now()));
    // A node that is behind does not take it back.
    house.desk.store.session_use_set(stored.session.id, first).await.unwrap();
    assert_eq!(written().await, Some(clock.now()));
}

#[tokio::test]
async fn a57_a_node_whose_clock_ran_ahead_ends_no_session_for_want_of_use() {
    for url in databases() {
        let (clock, ahead) = (TestClock::new(), TestClock::new());
        let [house, _] = nodes(&url, &clock).await;
        let bad = House::node(&url, ahead.clone(), 3, 3, |settings| settings.idle = Some(Ttl::minutes(20))).await;
        let (browser, stored) = house.browser("alice").await;
        ahead.step(3_600_000);
        assert_eq!(idle::round(&bad.desk, bad.desk.clock.now()).await.unwrap(), 0);
        assert_eq!(answers(&house, &browser).await.0, 200);
        let used = house.desk.store.session_use_fetch(stored.session.id).await.unwrap();
        assert_eq!(used, Some(clock.now()), "nor does it write a use that is to come");
        ahead.advance(Ttl::minutes(1));
        assert_eq!(idle::round(&bad.desk, bad.desk.clock.now()).await.unwrap(), 1, "its clock is believed by then");
    }
}
