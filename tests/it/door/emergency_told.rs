//! Who hears of the emergency path, through the whole door with real receivers: drills that try each
//! channel, drills that are overdue, and failures that nobody can drown others with.

use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::post;
use doorward::audit::EventType;
use doorward::control::breakglass::{self, Presented};
use doorward::identity::breakglass::refusals::Refusals;
use doorward::identity::breakglass::{ChannelOutcome, Telling};
use doorward::model::breakglass::{Evidence, Scope};
use doorward::model::{BreakGlassId, Clock, Timestamp, Ttl};
use doorward::server::ambient::SystemClock;
use doorward::store::Recorded;
use serde_json::Value;

use super::breakglass::{challenge, evidence, prepared, rules};
use super::fixture::{Door, Plan, with_door};

const HERE: std::net::IpAddr = std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);
const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";

/// What came by which path.
type Came = Arc<Mutex<Vec<(String, Value)>>>;

/// A receiver on a port of its own: `/good` takes, `/bad` answers 500.
fn receiver() -> (u16, Came) {
    let came = Came::default();
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let port = listener.local_addr().unwrap().port();
    let kept = Arc::clone(&came);
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async move {
            let take = |name: &'static str, status: StatusCode| {
                post(move |State(came): State<Came>, body: Bytes| async move {
                    let body = serde_json::from_slice(&body).unwrap();
                    came.lock().unwrap().push((name.to_owned(), body));
                    status
                })
            };
            let router = Router::new()
                .route("/good", take("good", StatusCode::NO_CONTENT))
                .route("/bad", take("bad", StatusCode::INTERNAL_SERVER_ERROR))
                .route("/deaf", take("deaf", StatusCode::NO_CONTENT))
                .with_state(kept);
            let listener = tokio::net::TcpListener::from_std(listener).unwrap();
            crate::fake_provider::serve(listener, router).await;
        });
    });
    (port, came)
}

/// The port of this thread's receiver: what changes the files is told nothing.
fn with_receiver(drill_every: &str, channels: &[&str], test: impl AsyncFnOnce(&Door, &Came)) {
    fn change(dir: &Path) {
        prepared(dir);
        let path = dir.join("doorward.toml");
        let text = std::fs::read_to_string(&path).unwrap();
        let more = CHANNELS.with_borrow(Clone::clone);
        std::fs::write(dir.join("hook.secret"), SECRET).unwrap();
        std::fs::write(&path, text + &more).unwrap();
    }
    let (port, came) = receiver();
    let mut text = format!("drill_every = \"{drill_every}\"\n");
    for name in channels {
        let events = if *name == "deaf" { "lock.*" } else { "breakglass.*" };
        text.push_str(&format!(
            "[[notify.webhook]]\nname = \"{name}\"\nurl = \"http://127.0.0.1:{port}/{name}\"\nsecret = {{ file = \"hook.secret\" }}\n\
             allow_loopback = true\nevents = [\"{events}\"]\n"
        ));
    }
    CHANNELS.set(text);
    with_door(Plan { change: Some(change), ..Plan::default() }, async |door| test(door, &came).await);
}

thread_local! {
    static CHANNELS: std::cell::RefCell<String> = const { std::cell::RefCell::new(String::new()) };
}

fn of_kind(came: &Came, name: &str, kind: &str) -> Vec<Value> {
    let came = came.lock().unwrap();
    let wanted = came.iter().filter(|(to, body)| to == name && body["type"] == kind);
    wanted.map(|(_, body)| body.clone()).collect()
}

/// Waits for what is to come.
async fn until<T>(mut found: impl AsyncFnMut() -> Option<T>) -> T {
    for _ in 0..150 {
        if let Some(found) = found().await {
            return found;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    panic!("it did not come");
}

async fn recorded(door: &Door, kind: EventType) -> Vec<Recorded> {
    use doorward::store::EventFilter;
    let filter = EventFilter { kind: Some(kind), ..EventFilter::default() };
    door.running().desk.store.event_list(&filter, 100).await.unwrap()
}

fn drill_of(dir: &Path, signers: &[&str], now: Timestamp) -> Presented {
    let (_, asked) = challenge(&rules(dir, 2), Scope::Drill, now);
    Presented { client_key: asked.client_key, evidence: evidence(dir, &asked, signers) }
}

#[test]
fn a_drill_tries_each_channel_once_and_says_what_became_of_it() {
    with_receiver("90d", &["good", "bad", "deaf"], async |door, came| {
        let desk = &door.running().desk;
        let drill = drill_of(&door.dir, &["ann", "cid"], SystemClock.now());
        let drilled = breakglass::drill(desk, &drill, HERE, desk.clock.now()).await.unwrap();
        let channels = drilled.channels.unwrap();
        let found: Vec<(&str, bool)> = channels
            .iter()
            .map(|test| (test.channel.as_str(), matches!(test.outcome, ChannelOutcome::Taken)))
            .collect();
        assert_eq!(found, [("good", true), ("bad", false), ("deaf", false)]);
        assert_eq!(channels[1].outcome, ChannelOutcome::Failed("the receiver answered 500".to_owned()));
        assert_eq!(channels[2].outcome, ChannelOutcome::NotAsked);
        // Shown again and again it tells nobody any more.
        for _ in 0..3 {
            let again = breakglass::drill(desk, &drill, HERE, desk.clock.now()).await.unwrap();
            assert_eq!((again.channels, again.recorded), (None, true));
        }
        let tests: Vec<Value> = of_kind(came, "good", "breakglass.drilled")
            .into_iter()
            .filter(|body| body["data"]["test"] == true)
            .collect();
        assert_eq!(tests.len(), 1, "{tests:?}");
        let text = tests[0]["data"]["text"].as_str().unwrap();
        assert!(text.starts_with("DRILL (test message)") && text.contains("nothing is open"), "{text}");
        assert_eq!(of_kind(came, "deaf", "breakglass.drilled").len(), 0);
        // What became of it is on record, and is itself told to nobody.
        let tested = until(async || recorded(door, EventType::BreakGlassChannelsTested).await.pop()).await;
        let said = tested.body["data"]["channels"].to_string();
        assert!(said.contains("good: taken") && said.contains("bad: failed: the receiver answered 500"), "{said}");
        assert_eq!(recorded(door, EventType::BreakGlassDrilled).await.len(), 1, "one drill, however often it is shown");
        assert_eq!(of_kind(came, "good", "breakglass.channels_tested").len(), 0);
    });
}

#[test]
fn an_overdue_drill_is_told_once_a_week_until_there_is_one() {
    with_receiver("24h", &["good"], async |door, came| {
        let desk = &door.running().desk;
        let overdue = async |count: usize| {
            until(async || {
                let told = of_kind(came, "good", "breakglass.drill_overdue");
                (told.len() >= count).then_some(told)
            })
            .await
        };
        // A path that was never drilled is overdue from the first day on.
        let told = overdue(1).await;
        let text = told[0]["data"]["text"].as_str().unwrap();
        assert!(text.contains("overdue (last: never)") && text.contains("doorward breakglass drill"), "{text}");
        let drill = drill_of(&door.dir, &["ann", "ben"], desk.clock.now());
        breakglass::drill(desk, &drill, HERE, desk.clock.now()).await.unwrap();
        door.clock.advance(Ttl::hours(25));
        assert_eq!(overdue(2).await.len(), 2);
        door.clock.advance(Ttl::hours(7 * 24));
        assert_eq!(overdue(3).await.len(), 3);
        let events = recorded(door, EventType::BreakGlassDrillOverdue).await;
        assert_eq!(events.len(), 3);
        // Who looks for a time finds them: ids begin with it.
        for event in events {
            let clear = event.clear();
            assert_eq!(clear.id.bytes()[..6], clear.time.millis().to_be_bytes()[2..]);
        }
    });
}

#[test]
fn failures_at_the_emergency_path_are_all_on_record_and_told_once_and_in_a_count() {
    with_receiver("90d", &["good"], async |door, came| {
        let desk = &door.running().desk;
        let (_, asked) = challenge(&rules(&door.dir, 2), Scope::All, SystemClock.now());
        let evidence: Evidence = evidence(&door.dir, &asked, &["ann"]);
        let few = Presented { client_key: asked.client_key, evidence };
        for _ in 0..8 {
            breakglass::check(desk, &few, HERE, desk.clock.now()).await.unwrap_err();
        }
        let told = until(async || of_kind(came, "good", "breakglass.refused").pop()).await;
        assert_eq!(told["data"]["id"], asked.id.to_string());
        until(async || (recorded(door, EventType::BreakGlassRefused).await.len() == 8).then_some(())).await;
        door.clock.advance(Ttl::minutes(11));
        let counted = until(async || {
            of_kind(came, "good", "breakglass.refused").into_iter().find(|body| body["data"]["count"] == 7)
        })
        .await;
        assert!(counted["data"]["text"].as_str().unwrap().contains("in vain 7 more times"), "{counted}");
        assert_eq!(of_kind(came, "good", "breakglass.refused").len(), 2, "one of eight, and the count");
    });
}

#[test]
fn what_is_told_of_failures_is_bounded_whoever_makes_them() {
    let now = Timestamp::from_seconds(1_790_000_000);
    let id = |number: u8| Some(BreakGlassId::from_bytes([number; 16]));
    let address = |number: u8| std::net::IpAddr::from([192, 0, 2, number]);
    let refusals = Refusals::default();
    assert_eq!(refusals.take(address(1), id(1), now), Telling::Now);
    assert_eq!(refusals.take(address(1), id(1), now), Telling::InACount);
    // Another opening, and another address, are told; an address that makes up openings is not for long.
    assert_eq!(refusals.take(address(2), id(1), now), Telling::Now);
    let told = (10..200).filter(|number| refusals.take(address(1), id(*number), now) == Telling::Now).count();
    assert_eq!(told, 2);
    let told = (3..250).filter(|number| refusals.take(address(*number), None, now) == Telling::Now).count();
    assert!(told < 32, "{told}");
    // One /64 is one sender.
    let six = |text: &str| text.parse::<std::net::IpAddr>().unwrap();
    let fresh = Refusals::default();
    assert_eq!(fresh.take(six("2001:db8::1"), None, now), Telling::Now);
    assert_eq!(fresh.take(six("2001:db8::2"), None, now), Telling::InACount);
    assert_eq!(fresh.take(six("::ffff:192.0.2.1"), None, now), Telling::Now);
    assert_eq!(fresh.take(address(1), None, now), Telling::InACount);
    // Nothing is lost: what was not told is in the counts, each once.
    assert!(refusals.due(now).is_empty());
    let later = now.plus(Ttl::minutes(10));
    let counted: u64 = refusals.due(later).iter().map(|untold| untold.count).sum();
    assert_eq!(counted, u64::try_from(1 + 188 + 247 - told).unwrap());
    assert!(refusals.due(later).is_empty());
    assert_eq!(refusals.take(address(1), id(1), later), Telling::Now);
}
