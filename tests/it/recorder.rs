//! The recorder, on both engines: group commit, a database that hangs, floods, the end.

use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, Instant};

use doorward::audit::{Event, EventType, Outcome, PersonalField};
use doorward::model::{Entropy, EventId, Principal, Timestamp};
use doorward::store::{Log, Recorded, Recorder, RecorderSettings, RefusalRates, Store, Unrecorded};
use futures_util::FutureExt;
use sqlx::{AnyConnection, Connection, Executor};
use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::leaf::decision;
use crate::store_record::{assert_gapless, opened};
use crate::support::{SeededEntropy, TestClock, databases};

pub const NOW: Timestamp = Timestamp::from_seconds(1_795_341_600);

struct Running {
    store: Store,
    log: Log,
    recorder: Recorder,
    cancel: CancellationToken,
    tracker: TaskTracker,
}

impl Running {
    async fn start(url: &str, settings: RecorderSettings) -> Self {
        let (store, log) = opened(url, 1).await;
        let (cancel, tracker) = (CancellationToken::new(), TaskTracker::new());
        let clock = Arc::new(TestClock::at(NOW));
        let (recorder, _) =
            Recorder::start(store.clone(), settings, clock, cancel.clone(), &tracker, &Handle::current()).unwrap();
        Self { store, log, recorder, cancel, tracker }
    }

    async fn end(&self) {
        self.cancel.cancel();
        self.tracker.close();
        self.tracker.wait().await;
    }
}

/// An event with an id of its own.
pub fn event(entropy: &dyn Entropy) -> Event {
    let mut event = decision(1, "/v1/deployments/staging");
    event.id = EventId::fresh(NOW, entropy);
    event
}

pub fn anonymous(entropy: &dyn Entropy, address: &str) -> Event {
    let mut event = Event::new(EventId::fresh(NOW, entropy), NOW, EventType::DecisionDeny, Outcome::Denied);
    event.actor.address = Some(address.parse().unwrap());
    event.reason = Some("no_credential".into());
    event
}

/// A refusal of somebody who is identified.
pub fn refusal(entropy: &dyn Entropy, name: &str) -> Event {
    let mut event = anonymous(entropy, "192.0.2.1");
    event.actor.principal = Principal::user("dev", name);
    event.reason = Some("session_ended".into());
    event
}

/// Waits until `ready` says so, which the machine's load decides.
pub async fn until<F: Future<Output = bool>>(mut ready: impl FnMut() -> F) {
    let start = Instant::now();
    while !ready().await {
        assert!(start.elapsed() < Duration::from_secs(20), "it did not happen");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Holds the record so that nobody can write it, as a hanging database does.
pub async fn hang(url: &str) -> AnyConnection {
    sqlx::any::install_default_drivers();
    let mut connection = AnyConnection::connect(url).await.unwrap();
    if url.starts_with("sqlite") {
        connection.execute("begin exclusive").await.unwrap();
    } else {
        connection.execute("begin").await.unwrap();
        connection.execute("lock table audit_log in access exclusive mode").await.unwrap();
    }
    connection
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_waits_is_committed_together() {
    for url in databases() {
        let running = Running::start(&url, RecorderSettings::default()).await;
        let entropy = SeededEntropy::new(1);
        // The first may go alone; what comes while it is written goes together.
        let submitted: Vec<_> = (0..2000).map(|_| running.recorder.submit(event(&entropy))).collect();
        for answer in submitted {
            assert_eq!(answer.await, Ok(()));
        }
        let state = running.recorder.state();
        assert_eq!((state.rows, state.queued, state.unrecorded), (2000, 0, 0));
        assert!((4..=12).contains(&state.batches), "{state:?}");
        assert_eq!(state.last_durable, Some(NOW));
        running.end().await;
        assert_eq!(assert_gapless(&running.store, running.log).await.len(), 2000);
    }
}

#[tokio::test]
async fn an_answer_comes_to_a_thread_of_another_runtime() {
    for url in databases() {
        let running = Running::start(&url, RecorderSettings::default()).await;
        let recorder = running.recorder.clone();
        let answer = tokio::task::spawn_blocking(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            runtime.block_on(recorder.submit(event(&SeededEntropy::new(2))))
        });
        assert_eq!(answer.await.unwrap(), Ok(()));
        running.end().await;
    }
}

#[tokio::test]
async fn what_is_offered_or_committed_with_its_state_is_numbered_within_a_second() {
    for url in databases() {
        let running = Running::start(&url, RecorderSettings::default()).await;
        let entropy = SeededEntropy::new(3);
        let started = Instant::now();
        running.recorder.offer(event(&entropy));
        let mut tx = running.store.begin().await.unwrap();
        tx.event_append(&event(&entropy)).await.unwrap();
        tx.commit().await.unwrap();
        until(|| async { running.store.log_size(running.log).await.unwrap() == 2 }).await;
        assert!(started.elapsed() < Duration::from_millis(1500), "{:?}", started.elapsed());
        running.end().await;
        assert_eq!(assert_gapless(&running.store, running.log).await.len(), 2);
        assert_eq!(running.recorder.state().numbered, 1);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a61_a_hanging_database_refuses_within_two_seconds_and_all_is_well_after() {
    for url in databases() {
        let running = Running::start(&url, RecorderSettings::default()).await;
        let entropy = SeededEntropy::new(4);
        assert_eq!(running.recorder.submit(event(&entropy)).await, Ok(()));
        let mut holder = hang(&url).await;
        running.recorder.offer(event(&entropy));
        let started = Instant::now();
        let first = running.recorder.submit(event(&entropy));
        tokio::time::sleep(Duration::from_millis(700)).await;
        let second = running.recorder.submit(event(&entropy));
        assert_eq!((first.await, second.await), (Err(Unrecorded::Away), Err(Unrecorded::Away)));
        assert!(started.elapsed() < Duration::from_secs(2), "{:?}", started.elapsed());
        // From now on nobody waits for it.
        let started = Instant::now();
        assert_eq!(running.recorder.submit(event(&entropy)).await, Err(Unrecorded::Away));
        assert!(started.elapsed() < Duration::from_millis(50));
        running.recorder.offer(event(&entropy));
        assert!(running.recorder.state().away && running.recorder.state().last_error.is_some());
        holder.execute("rollback").await.unwrap();
        until(|| async { !running.recorder.state().away }).await;
        assert_eq!(running.recorder.submit(event(&entropy)).await, Ok(()));
        running.end().await;
        // One before, two offered, one after: no failed submission came in late.
        assert_eq!(assert_gapless(&running.store, running.log).await.len(), 4);
        assert_eq!(running.recorder.state().lost, 0);
    }
}

#[tokio::test]
async fn a61_a_broken_batch_is_refused_and_the_recorder_goes_on_when_it_is_mended() {
    for url in databases() {
        let running = Running::start(&url, RecorderSettings::default()).await;
        let entropy = SeededEntropy::new(5);
        sqlx::any::install_default_drivers();
        let mut outside = AnyConnection::connect(&url).await.unwrap();
        outside.execute("alter table audit_log rename to elsewhere").await.unwrap();
        assert_eq!(running.recorder.submit(event(&entropy)).await, Err(Unrecorded::Away));
        outside.execute("alter table elsewhere rename to audit_log").await.unwrap();
        until(|| async { !running.recorder.state().away }).await;
        assert_eq!(running.recorder.submit(event(&entropy)).await, Ok(()));
        running.end().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a71_the_last_fifth_of_the_queue_is_for_the_identified() {
    last_fifth_is_kept_from(|entropy| anonymous(entropy, "192.0.2.1")).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a71_refusals_of_the_identified_have_no_part_of_the_last_fifth() {
    last_fifth_is_kept_from(|entropy| refusal(entropy, "dave")).await;
}

async fn last_fifth_is_kept_from(junk: impl Fn(&dyn Entropy) -> Event) {
    for url in databases() {
        let settings = RecorderSettings { queue_max: 100, ..RecorderSettings::default() };
        let running = Running::start(&url, settings).await;
        let entropy = SeededEntropy::new(6);
        let mut holder = hang(&url).await;
        let first = running.recorder.submit(event(&entropy));
        until(|| async { running.recorder.state().queued == 0 }).await;
        let junk: Vec<_> = (0..90).map(|_| running.recorder.submit(junk(&entropy))).collect();
        let identified: Vec<_> = (0..30).map(|_| running.recorder.submit(event(&entropy))).collect();
        assert_eq!(running.recorder.state().queued, 100);
        assert_eq!(running.recorder.state().unrecorded, 20);
        holder.execute("rollback").await.unwrap();
        assert_eq!(first.await, Ok(()));
        let mut taken = [0, 0];
        for (kind, answers) in [junk, identified].into_iter().enumerate() {
            for answer in answers {
                taken[kind] += usize::from(answer.await == Ok(()));
            }
        }
        assert_eq!(taken, [80, 20]);
        running.end().await;
    }
}

#[tokio::test]
async fn a71_a_flood_of_nobody_is_counted() {
    for url in databases() {
        let settings = RecorderSettings {
            refusal_rates: RefusalRates { per_address: 5, per_node: 20, ..RefusalRates::default() },
            counted_every: Duration::from_millis(600),
            ..RecorderSettings::default()
        };
        let running = Running::start(&url, settings).await;
        let entropy = SeededEntropy::new(7);
        let mut answers = Vec::new();
        for number in 0..1000 {
            answers.push(running.recorder.refused(anonymous(&entropy, "192.0.2.1")));
            // One /64 is one address.
            answers.push(running.recorder.refused(anonymous(&entropy, &format!("2001:db8::{number:x}"))));
        }
        for number in 0..200 {
            answers.push(running.recorder.refused(anonymous(&entropy, &format!("198.51.100.{number}"))));
        }
        for answer in answers {
            assert_eq!(answer.await, Ok(()));
        }
        assert_eq!(running.recorder.state().counted, 2180);
        until(|| async { running.recorder.state().rows == 21 }).await;
        running.end().await;
        let events = assert_gapless(&running.store, running.log).await;
        assert_eq!(events.len(), 21);
        let counted = events.last().unwrap();
        assert_eq!(counted.clear().kind, EventType::DecisionDenyCounted);
        assert_eq!(counted.body["data"]["count"], 2180);
        assert_eq!(counted.body["data"]["reasons"]["no_credential"], 2180);
    }
}

#[tokio::test]
async fn a71_a_flood_of_refusals_of_somebody_is_counted_and_says_of_whom() {
    for url in databases() {
        let settings = RecorderSettings {
            refusal_rates: RefusalRates { per_principal: 5, named_per_node: 20, ..RefusalRates::default() },
            counted_every: Duration::from_millis(600),
            ..RecorderSettings::default()
        };
        let running = Running::start(&url, settings).await;
        let entropy = SeededEntropy::new(12);
        let refused = |event| running.recorder.refused(event);
        let mut answers: Vec<_> = (0..1000).map(|_| refused(refusal(&entropy, "dave"))).collect();
        // What one shut-out person does takes nothing from others, up to the node's bound.
        answers.extend((0..60).map(|number| refused(refusal(&entropy, &format!("p{number}")))));
        answers.push(refused(anonymous(&entropy, "192.0.2.1")));
        for answer in answers {
            assert_eq!(answer.await, Ok(()));
        }
        assert_eq!(running.recorder.state().counted, 995 + 45);
        until(|| async { running.recorder.state().rows == 21 + 33 }).await;
        running.end().await;
        let events = assert_gapless(&running.store, running.log).await;
        let (counted, single): (Vec<_>, Vec<_>) =
            events.iter().partition(|event| event.clear().kind == EventType::DecisionDenyCounted);
        let name = Principal::user("dev", "dave").unwrap().to_string();
        let dave = |event: &&&Recorded| event.personal(PersonalField::Principal) == Some(name.as_str());
        assert_eq!((single.len(), single.iter().filter(dave).count()), (21, 5));
        let told: Vec<_> = counted.iter().filter(dave).map(|event| &event.body["data"]["count"]).collect();
        assert_eq!(told, [&995]);
        // Of so many by name, then of the others together.
        let nameless: Vec<_> = counted.iter().filter(|it| it.personal(PersonalField::Principal).is_none()).collect();
        assert_eq!((counted.len(), nameless.len()), (33, 1));
        assert_eq!(nameless[0].body["data"]["count"], 14);
        assert_eq!(nameless[0].body["data"]["reasons"]["session_ended"], 14);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_lost_is_counted_and_told() {
    for url in databases() {
        let settings = RecorderSettings { queue_max: 10, ..RecorderSettings::default() };
        let running = Running::start(&url, settings).await;
        let entropy = SeededEntropy::new(8);
        for _ in 0..25 {
            running.recorder.offer(event(&entropy));
        }
        running.end().await;
        let events = assert_gapless(&running.store, running.log).await;
        assert_eq!(events.len(), 11);
        let lost = events.last().unwrap();
        assert_eq!((lost.clear().kind, &lost.body["data"]["count"]), (EventType::RecordLost, &15.into()));
        assert_eq!(running.recorder.state().lost, 15);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_buffered_waits_once_the_record_falls_behind_and_is_not_lost() {
    for url in databases() {
        let settings = RecorderSettings { queue_max: 100, ..RecorderSettings::default() };
        let running = Running::start(&url, settings).await;
        let entropy = SeededEntropy::new(10);
        let mut holder = hang(&url).await;
        let first = running.recorder.submit(event(&entropy));
        until(|| async { running.recorder.state().queued == 0 }).await;
        for _ in 0..75 {
            let answer = running.recorder.submit_buffered(event(&entropy)).now_or_never();
            assert_eq!(answer, Some(Ok(())), "it waits for nothing while there is room");
        }
        let mut waits: Vec<_> = (0..20).map(|_| running.recorder.submit_buffered(event(&entropy))).collect();
        assert!(waits.iter_mut().all(|answer| answer.now_or_never().is_none()), "the rest is for what can't wait");
        let gone = running.recorder.submit_buffered(event(&entropy));
        drop(gone);
        (0..5).for_each(|_| running.recorder.offer(event(&entropy)));
        holder.execute("rollback").await.unwrap();
        assert_eq!(first.await, Ok(()));
        for answer in waits {
            assert_eq!(answer.await, Ok(()));
        }
        running.end().await;
        assert_eq!(assert_gapless(&running.store, running.log).await.len(), 101);
        assert_eq!(running.recorder.state().lost, 0);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a61_what_is_buffered_is_refused_while_nothing_takes_the_record() {
    for url in databases() {
        let running = Running::start(&url, RecorderSettings::default()).await;
        let entropy = SeededEntropy::new(11);
        let mut holder = hang(&url).await;
        assert_eq!(running.recorder.submit(event(&entropy)).await, Err(Unrecorded::Away));
        assert_eq!(running.recorder.submit_buffered(event(&entropy)).await, Err(Unrecorded::Away));
        holder.execute("rollback").await.unwrap();
        until(|| async { !running.recorder.state().away }).await;
        assert_eq!(running.recorder.submit_buffered(event(&entropy)).await, Ok(()));
        running.end().await;
        assert_eq!(assert_gapless(&running.store, running.log).await.len(), 1);
    }
}

#[tokio::test]
async fn the_end_writes_what_waits_and_takes_nothing_more() {
    for url in databases() {
        let running = Running::start(&url, RecorderSettings::default()).await;
        let entropy = SeededEntropy::new(9);
        for _ in 0..700 {
            running.recorder.offer(event(&entropy));
        }
        let waits = running.recorder.submit(event(&entropy));
        running.end().await;
        assert_eq!(waits.await, Ok(()));
        assert_eq!(running.recorder.submit(event(&entropy)).await, Err(Unrecorded::Closed));
        assert_eq!(assert_gapless(&running.store, running.log).await.len(), 701);
    }
}
