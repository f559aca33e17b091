//! A node's clock that steps: what is believed of it, and that nothing new is granted, nothing that is
//! over is in force again and nothing lasts longer; a56, a57.

use std::sync::Arc;
use std::time::Duration;

use doorward::control::ClockGuard;
use doorward::control::access::{self, AccessError};
use doorward::control::audit::retention;
use doorward::model::clock_watch::{ClockDoubt, ClockWatch, StepAgainst, StepDirection};
use doorward::model::{Clock, Timestamp, Ttl};
use doorward::server::ambient::SystemClock;
use doorward::server::tasks;
use doorward::store::Use;

use crate::access_world::{Node, Rules, asked, caller};
use crate::api_house::House;
use crate::support::{TestClock, databases};

const SECOND: i64 = 1000;
const HOUR: i64 = 3600 * SECOND;

/// Two clocks and who watches them.
struct Watched {
    clock: TestClock,
    watch: ClockWatch,
}

impl Watched {
    fn new() -> Self {
        let clock = TestClock::new();
        clock.advance(Ttl::hours(1));
        Self { watch: ClockWatch::new(clock.now(), clock.running()), clock }
    }

    /// Steps, and looks: which way and how many milliseconds are seen.
    fn step(&mut self, millis: i64) -> Option<(StepDirection, i64)> {
        self.clock.step(millis);
        let step = self.watch.look(self.clock.now(), self.clock.running())?;
        assert_eq!(step.against, StepAgainst::Running);
        assert_eq!(step.shows, self.clock.now());
        Some((step.direction, step.size.as_millis()))
    }

    fn pass(&mut self, length: Ttl) -> Option<(StepDirection, i64)> {
        self.clock.advance(length);
        self.step(0)
    }

    /// The time that is gone by, less what the clock shows.
    fn ahead(&self) -> i64 {
        let running = i64::try_from(self.clock.running().as_millis()).unwrap();
        (running + self.watch.offset()).max(self.clock.now().millis()) - self.clock.now().millis()
    }
}

#[test]
fn a_step_of_more_than_five_seconds_is_seen_either_way_and_a_smaller_one_is_drift() {
    for (millis, seen) in [
        (5000, None),
        (-5000, None),
        (5001, Some((StepDirection::Forward, 5001))),
        (-5001, Some((StepDirection::Back, 5001))),
        (240 * HOUR, Some((StepDirection::Forward, 240 * HOUR))),
        (-HOUR, Some((StepDirection::Back, HOUR))),
    ] {
        let mut watched = Watched::new();
        assert_eq!(watched.step(millis), seen, "{millis}");
        assert_eq!(watched.watch.doubt().is_some(), seen.is_some(), "{millis}");
        assert_eq!(watched.step(0), None, "once");
        assert_eq!(watched.watch.may_be_ahead(), millis > 5000);
    }
}

#[test]
fn many_small_steps_are_one_large_one_and_slow_drift_is_none() {
    let mut watched = Watched::new();
    assert_eq!(watched.step(-3000), None);
    assert_eq!(watched.pass(Ttl::seconds(1)), None);
    assert!(watched.step(-3000).is_some());
    for direction in [1, -1] {
        let mut watched = Watched::new();
        for _ in 0..1000 {
            // An adjustment of 50 milliseconds a second.
            assert_eq!(watched.pass(Ttl::seconds(1)), None);
            assert_eq!(watched.step(direction * 50), None);
            assert!(watched.watch.doubt().is_none() && watched.ahead() <= 50);
        }
    }
}

#[test]
fn a_small_step_back_is_made_up_for_and_time_never_stands_still() {
    let mut watched = Watched::new();
    watched.step(-4000);
    assert_eq!(watched.ahead(), 4000);
    let mut before = watched.clock.now().millis() + watched.ahead();
    for _ in 0..100 {
        watched.pass(Ttl::millis(500));
        let now = watched.clock.now().millis() + watched.ahead();
        assert!((400..=500).contains(&(now - before)), "{}", now - before);
        before = now;
    }
    assert_eq!(watched.ahead(), 0);
}

#[test]
fn a_clock_that_was_set_back_is_gone_by_no_more_until_it_has_come_up() {
    let mut watched = Watched::new();
    watched.step(-HOUR);
    for _ in 0..100 {
        assert_eq!(watched.pass(Ttl::minutes(10)), None);
        assert_eq!(watched.ahead(), HOUR, "time goes on as it did");
        assert!(matches!(watched.watch.doubt(), Some(ClockDoubt::Behind { .. })));
    }
    // Put right, it is believed once it is steady.
    assert_eq!(watched.step(HOUR - 2000), Some((StepDirection::Forward, HOUR - 2000)));
    assert!(!watched.watch.may_be_ahead());
    watched.pass(Ttl::seconds(59));
    assert!(matches!(watched.watch.doubt(), Some(ClockDoubt::Settling { .. })));
    watched.pass(Ttl::seconds(1));
    assert_eq!(watched.watch.doubt(), None);
    assert_eq!(watched.ahead(), 0);
}

#[test]
fn a_clock_that_was_set_forward_is_gone_by_at_once_and_believed_when_it_is_steady() {
    let mut watched = Watched::new();
    let before = watched.clock.now();
    watched.step(240 * HOUR);
    watched.pass(Ttl::seconds(30));
    // Put back before anybody believed it, it is as if nothing had been.
    assert_eq!(watched.step(-240 * HOUR), Some((StepDirection::Back, 240 * HOUR)));
    assert_eq!((watched.ahead(), watched.clock.now()), (0, before.plus(Ttl::seconds(30))));
    assert!(matches!(watched.watch.doubt(), Some(ClockDoubt::Settling { .. })) && !watched.watch.may_be_ahead());
    watched.pass(Ttl::seconds(60));
    assert_eq!(watched.watch.doubt(), None);
    // Put back too far, it is behind what was believed.
    watched.step(240 * HOUR);
    watched.step(-241 * HOUR);
    assert_eq!(watched.ahead(), HOUR);
    watched.step(HOUR);
    watched.pass(Ttl::seconds(60));
    assert_eq!((watched.watch.doubt(), watched.ahead()), (None, 0));
    // Once it is believed, to put it back is to set it back.
    watched.step(240 * HOUR);
    watched.pass(Ttl::seconds(60));
    assert_eq!(watched.watch.doubt(), None);
    watched.step(-240 * HOUR);
    assert!(matches!(watched.watch.doubt(), Some(ClockDoubt::Behind { .. })));
    assert_eq!(watched.ahead(), 240 * HOUR);
}

#[test]
fn at_a_start_the_record_is_believed_more_than_the_clock_but_for_small_skew() {
    for (behind, doubted) in [(-HOUR, false), (0, false), (5000, false), (5001, true), (HOUR, true)] {
        let mut watched = Watched::new();
        let latest = Timestamp::from_millis(watched.clock.now().millis() + behind);
        let step = watched.watch.hold_against_record(latest);
        assert_eq!(step.is_some(), doubted, "{behind}");
        assert!(step.is_none_or(|step| step.against == StepAgainst::Record && step.size.as_millis() == behind));
        assert_eq!(watched.watch.doubt().is_some(), doubted);
        watched.pass(Ttl::millis(3_600_001));
        assert_eq!(watched.watch.doubt(), None, "it has passed what was on record");
    }
}

#[test]
fn a_clock_is_held_against_the_database_s_as_far_as_its_answer_proves_something() {
    for (off, margin, expected) in [
        (0, 0, Some(None)),
        (5000, 0, Some(None)),
        (-5000, 0, Some(None)),
        (5001, 0, Some(Some(StepDirection::Forward))),
        (-5001, 0, Some(Some(StepDirection::Back))),
        // The answer was under way for longer than they are apart by more than five seconds.
        (5500, 500, None),
        (-5500, 500, None),
        (4501, 500, None),
        (5501, 500, Some(Some(StepDirection::Forward))),
        (HOUR, 1000, Some(Some(StepDirection::Forward))),
        (-HOUR, 1000, Some(Some(StepDirection::Back))),
    ] {
        for known in [0, HOUR, -HOUR] {
            let mut watched = Watched::new();
            let database = |off: i64| Timestamp::from_millis(watched.clock.now().millis() - off);
            let (first, second) = (database(known), database(off));
            watched.watch.hold_against_database(first, Ttl::seconds(0));
            let before = watched.watch.doubt();
            let step = watched.watch.hold_against_database(second, Ttl::millis(margin));
            let way = match watched.watch.doubt() {
                Some(ClockDoubt::Apart { direction, .. }) => Some(direction),
                None => None,
                other => panic!("{other:?}"),
            };
            let Some(expected) = expected else {
                assert_eq!((watched.watch.doubt(), step), (before, None), "{off} {margin} {known}");
                continue;
            };
            assert_eq!(way, expected, "{off} {margin} {known}");
            assert_eq!(watched.watch.may_be_ahead(), way == Some(StepDirection::Forward));
            let knew = known != 0 && (known > 0) == (off > 0);
            assert_eq!(step.is_some(), way.is_some() && !knew, "told once: {off} {margin} {known}");
            if let Some(step) = step {
                assert_eq!((step.against, step.size.as_millis()), (StepAgainst::Database, off.abs()));
                assert_eq!((Some(step.direction), step.expected), (way, second));
            }
        }
    }
}

#[test]
fn a_clock_that_was_set_forward_is_not_believed_while_the_database_says_otherwise() {
    let mut watched = Watched::new();
    watched.step(HOUR);
    let right = |watched: &Watched| Timestamp::from_millis(watched.clock.now().millis() - HOUR);
    watched.watch.hold_against_database(right(&watched), Ttl::seconds(0));
    watched.pass(Ttl::minutes(2));
    assert!(watched.watch.may_be_ahead());
    assert!(matches!(watched.watch.doubt(), Some(ClockDoubt::Apart { direction: StepDirection::Forward, .. })));
    let now = watched.clock.now();
    watched.watch.hold_against_database(now, Ttl::seconds(0));
    assert!(!watched.watch.may_be_ahead(), "it was the database that was behind");
    assert_eq!(watched.watch.doubt(), None);
}

async fn node(url: &str, clock: &TestClock, number: u8, seed: u64) -> Node {
    let node = Node::start(url, clock, number, seed).await;
    node.desk().policies.store(Rules::default().set());
    node
}

fn doubted<T: std::fmt::Debug>(outcome: Result<T, AccessError>) {
    assert!(matches!(outcome, Err(AccessError::Clock(_))), "{outcome:?}");
}

#[tokio::test]
async fn a56_while_a_clock_is_in_doubt_nothing_is_granted_prolonged_or_begun_and_nothing_is_lost() {
    for step in [-HOUR, 6 * SECOND] {
        for url in databases() {
            let clock = TestClock::new();
            let node = node(&url, &clock, 1, 500 + u64::from(step < 0)).await;
            let (dev, other) = (caller(&node, "dev0").await, caller(&node, "dev1").await);
            let lead = caller(&node, "lead0").await;
            let (pending, _) = node.ask(&dev, &asked("one", Ttl::minutes(30))).await.unwrap();
            let (_, held) = node.ask(&dev, &asked("auto", Ttl::minutes(20))).await.unwrap();
            let held = held.unwrap();
            let mut later = asked("auto", Ttl::minutes(20));
            later.start = Some(node.now().plus(Ttl::minutes(1)));
            let (_, later) = node.ask(&other, &later).await.unwrap();
            let later = later.unwrap();

            clock.step(step);
            doubted(node.ask(&other, &asked("auto", Ttl::minutes(1))).await);
            let mut emergency = asked("one", Ttl::minutes(5));
            emergency.emergency = true;
            doubted(node.ask(&other, &emergency).await);
            doubted(node.approve(&lead, pending.id).await);
            doubted(access::extend(node.desk(), &dev, held.id, Ttl::minutes(5), node.now()).await);
            clock.advance(Ttl::seconds(59));
            node.sweep().await.unwrap();
            clock.advance(Ttl::millis(500));
            node.sweep().await.unwrap();
            assert_eq!(node_state(&node, later.id).await, "scheduled");
            // What needs no belief in the clock goes on: asking, denying, ending.
            let (more, _) = node.ask(&other, &asked("one", Ttl::minutes(30))).await.unwrap();
            access::deny(node.desk(), &lead, more.id, None, node.now()).await.unwrap();

            if step < 0 {
                clock.step(-step);
                doubted(node.approve(&lead, pending.id).await);
                clock.advance(Ttl::seconds(60));
            } else {
                clock.advance(Ttl::seconds(1));
            }
            clock.advance(Ttl::seconds(5));
            node.sweep().await.unwrap();
            assert_eq!(node_state(&node, later.id).await, "active");
            assert!(node.approve(&lead, pending.id).await.unwrap().grant.is_some());
            access::extend(node.desk(), &dev, held.id, Ttl::minutes(5), node.now()).await.unwrap();
            node.desk().store.close().await;
        }
    }
}

async fn node_state(node: &Node, id: doorward::model::GrantId) -> &'static str {
    let grant = node.desk().store.grant_fetch(id).await.unwrap().unwrap();
    grant.state.name()
}

#[tokio::test]
async fn a56_a_clock_that_is_set_back_revives_nothing_and_prolongs_nothing() {
    for url in databases() {
        let clock = TestClock::new();
        let node = node(&url, &clock, 1, 510).await;
        let dev = caller(&node, "dev0").await;
        let (_, short) = node.ask(&dev, &asked("auto", Ttl::minutes(1))).await.unwrap();
        let (_, long) = node.ask(&dev, &asked("auto", Ttl::minutes(10))).await.unwrap();
        let (short, long) = (short.unwrap(), long.unwrap());
        clock.advance(Ttl::minutes(2));
        clock.step(-HOUR);
        let held = |node: &Node| node.held("dev0").into_iter().map(|(id, _, _)| id).collect::<Vec<_>>();
        assert_eq!(held(&node), [long.id], "what was over is over");
        clock.advance(Ttl::minutes(7));
        assert_eq!(held(&node), [long.id]);
        clock.advance(Ttl::millis(59_999));
        assert_eq!(held(&node), [long.id]);
        clock.advance(Ttl::millis(1));
        assert!(held(&node).is_empty(), "it lasted ten minutes");
        // It ends on record too, though nothing new begins.
        node.sweep().await.unwrap();
        for id in [short.id, long.id] {
            assert_eq!(node_state(&node, id).await, "expired");
        }
        node.desk().store.close().await;
    }
}

#[tokio::test]
async fn a56_a_node_that_starts_with_a_clock_that_was_set_back_holds_it_against_the_record() {
    for url in databases() {
        let clock = TestClock::new();
        let before = node(&url, &clock, 1, 520).await;
        let (dev, lead) = (caller(&before, "dev0").await, caller(&before, "lead0").await);
        let (_, held) = before.ask(&dev, &asked("auto", Ttl::minutes(10))).await.unwrap();
        let (pending, _) = before.ask(&dev, &asked("one", Ttl::minutes(30))).await.unwrap();
        let (held, last) = (held.unwrap(), before.now());
        clock.advance(Ttl::minutes(1));
        before.desk().store.close().await;

        clock.step(-HOUR);
        let after = node(&url, &clock, 1, 521).await;
        let steps = after.desk().clock_guard.take_steps();
        assert!(steps.iter().any(|step| step.against == StepAgainst::Record), "{steps:?}");
        doubted(after.approve(&lead, pending.id).await);
        // Ten minutes are ten minutes: one had passed.
        clock.advance(Ttl::minutes(8));
        assert_eq!(after.held("dev0").len(), 1);
        clock.advance(Ttl::minutes(2));
        assert!(after.held("dev0").is_empty(), "{held:?} lasts longer");
        clock.set(last.plus(Ttl::millis(1)));
        assert!(after.approve(&lead, pending.id).await.is_ok(), "the clock has passed what is on record");
        // What is granted from then on is not cut short.
        assert_eq!(after.held("dev0").len(), 1);
        clock.advance(Ttl::minutes(29));
        assert_eq!(after.held("dev0").len(), 1);

        // An operator may say that what is later on record was wrong.
        clock.step(-HOUR);
        let other = node(&url, &clock, 2, 523).await;
        assert!(other.desk().clock_guard.check().is_err());
        let (desk, since) = (other.desk(), Some(clock.now().minus(Ttl::minutes(1))));
        let fresh = doorward::control::ClockGuard::new(std::sync::Arc::new(clock.clone()));
        fresh.begin(&desk.store, &desk.directory, since, clock.now()).await.unwrap();
        assert!(fresh.check().is_ok());
        other.desk().store.close().await;
        clock.step(HOUR);

        // Another node's clock may be a little ahead.
        clock.step(-4 * SECOND);
        let other = node(&url, &clock, 2, 522).await;
        assert!(other.desk().clock_guard.check().is_ok());
        other.desk().store.close().await;
        after.desk().store.close().await;
    }
}

#[tokio::test]
async fn a57_a_node_whose_clock_ran_ahead_ends_nothing_for_the_others_until_it_is_believed() {
    for url in databases() {
        let (clock, ahead) = (TestClock::new(), TestClock::new());
        let (good, bad) = (node(&url, &clock, 1, 530).await, node(&url, &ahead, 2, 531).await);
        let dev = caller(&good, "dev0").await;
        let (_, held) = good.ask(&dev, &asked("auto", Ttl::minutes(10))).await.unwrap();
        let held = held.unwrap();
        ahead.step(240 * HOUR);
        assert!(bad.held("dev0").is_empty());
        bad.sweep().await.unwrap();
        assert_eq!(node_state(&good, held.id).await, "active");
        assert_eq!(good.held("dev0").len(), 1);
        ahead.advance(Ttl::minutes(1));
        bad.sweep().await.unwrap();
        assert_eq!(node_state(&good, held.id).await, "expired", "its clock is believed by then");
        good.desk().store.close().await;
        bad.desk().store.close().await;
    }
}

#[tokio::test]
async fn a57_a_node_that_starts_with_a_clock_ahead_of_its_database_ends_and_grants_nothing() {
    for url in databases() {
        let now = SystemClock.now();
        let (clock, ahead) = (TestClock::at(now), TestClock::at(now.plus(Ttl::minutes(10))));
        let (good, bad) = (node(&url, &clock, 1, 550).await, node(&url, &ahead, 2, 551).await);
        let (dev, other) = (caller(&good, "dev0").await, caller(&bad, "dev1").await);
        let (_, held) = good.ask(&dev, &asked("auto", Ttl::minutes(8))).await.unwrap();
        let held = held.unwrap();
        let (guard, store) = (&bad.desk().clock_guard, &bad.desk().store);
        let databases_own = url.starts_with("postgres");
        guard.compare(store).await.unwrap();
        assert_eq!((guard.may_be_ahead(), guard.check().is_err()), (databases_own, databases_own), "{url}");
        if databases_own {
            let steps = guard.take_steps();
            let [step] = steps.as_slice() else { panic!("{steps:?}") };
            assert_eq!((step.direction, step.against), (StepDirection::Forward, StepAgainst::Database));
            doubted(bad.ask(&other, &asked("auto", Ttl::minutes(1))).await);
            // It goes on as long as they are apart, and is told once.
            ahead.advance(Ttl::minutes(2));
            bad.sweep().await.unwrap();
            guard.compare(store).await.unwrap();
            assert!(guard.may_be_ahead() && guard.take_steps().is_empty());
            assert_eq!(node_state(&good, held.id).await, "active");
            assert_eq!(good.held("dev0").len(), 1);
            // One that is set right is still ahead by the time that it went by until then.
            ahead.step(-12 * 60 * SECOND);
            guard.compare(store).await.unwrap();
            assert!(guard.may_be_ahead() && guard.check().is_err());

            let right = ClockGuard::new(Arc::new(SystemClock));
            right.compare(store).await.unwrap();
            assert!(right.check().is_ok() && right.take_steps().is_empty());
            let behind = TestClock::at(now.minus(Ttl::minutes(10)));
            let guard = ClockGuard::new(Arc::new(behind.clone()));
            guard.compare(store).await.unwrap();
            let steps = guard.take_steps();
            assert!(steps.iter().all(|step| step.direction == StepDirection::Back) && steps.len() == 1, "{steps:?}");
            assert!(guard.check().is_err() && !guard.may_be_ahead());
            behind.set(SystemClock.now());
            guard.compare(store).await.unwrap();
            assert!(guard.check().is_ok());
        }
        good.desk().store.close().await;
        bad.desk().store.close().await;
    }
}

#[tokio::test]
async fn a57_a_node_whose_clock_ran_ahead_forgets_nothing_that_the_others_count_on() {
    for url in databases() {
        let (clock, ahead) = (TestClock::new(), TestClock::new());
        let good = House::node(&url, clock.clone(), 1, 540, |_| {}).await;
        let mut bad = node(&url, &ahead, 2, 541).await;
        let (store, now) = (&good.desk.store, clock.now());
        let soon = now.plus(Ttl::minutes(15));
        let (browser, signed_in) = good.browser("alice").await;
        assert_eq!(store.use_once(&[7; 32], soon).await.unwrap(), Use::First);
        let mut tx = store.begin().await.unwrap();
        assert!(tx.token_revoke("withdrawn", soon, now).await.unwrap());
        tx.commit().await.unwrap();
        bad.follow().await;
        for log in store.log_list().await.unwrap() {
            while store.number_pending(log.log, now).await.unwrap() > 0 {}
        }

        ahead.step(240 * HOUR);
        tasks::tidy(bad.desk(), bad.now()).await.unwrap();
        assert_eq!(store.use_once(&[7; 32], soon).await.unwrap(), Use::Again, "what was used once is used");
        assert_eq!(store.revoked_token_list(now).await.unwrap().len(), 1);
        let feed = store.revocation_since(0, 10).await.unwrap();
        assert!(feed.iter().any(|entry| entry.subject == "withdrawn"), "nobody else has read it");
        assert!(store.session_fetch(signed_in.session.id).await.unwrap().is_some());
        let third = House::node(&url, clock.clone(), 3, 542, |_| {}).await;
        assert_eq!(third.get(&browser, "/api/v1/whoami").await.status, 200, "its cookie is there");
        assert_eq!(retention::prune(bad.desk(), Ttl::hours(24), bad.now()).await.unwrap(), 0);
        // Nor does the node itself forget what would be good again.
        ahead.step(-240 * HOUR);
        assert!(bad.desk().directory.is_token_revoked("withdrawn"));

        ahead.step(240 * HOUR);
        tasks::tidy(bad.desk(), bad.now()).await.unwrap();
        ahead.advance(Ttl::minutes(1));
        tasks::tidy(bad.desk(), bad.now()).await.unwrap();
        assert_eq!(store.revocation_since(0, 10).await.unwrap(), [], "its clock is believed by then");
        assert!(!bad.desk().directory.is_token_revoked("withdrawn"));
        assert_eq!(store.use_once(&[7; 32], soon).await.unwrap(), Use::First);
        assert!(store.session_fetch(signed_in.session.id).await.unwrap().is_none());
        assert!(retention::prune(bad.desk(), Ttl::hours(24), bad.now()).await.unwrap() > 0);
        for desk in [&good.desk, &third.desk, bad.desk()] {
            desk.store.close().await;
        }
    }
}

#[test]
fn the_two_clocks_of_a_test_go_together() {
    let clock = TestClock::new();
    clock.advance(Ttl::seconds(3));
    clock.set(clock.now().plus(Ttl::seconds(4)));
    clock.step(-HOUR);
    assert_eq!(clock.running(), Duration::from_secs(7));
}
