//! The recorder: many requests wait for one durable write.
//!
//! 1. A request's decision is put into the queue (`submit`) and its task waits; what can't be waited
//!    for (the end of an exchange) is put there by `offer`. The decision of a buffered service waits
//!    only when the record falls behind (`submit_buffered`).
//! 2. One task takes all that waits, seals it, writes it in one transaction with its numbers, and
//!    answers everyone at once. While it writes, the next batch gathers.
//! 3. Twice a second it also writes what was only offered, and numbers events that were committed
//!    with their state.
//! 4. When the database does not take a batch in time, the spool does (`spool.rs`), and so it goes
//!    on until the database gives a sign of life and all of the spool is in it
//!    (`record_writer.rs`).
//! 5. With neither, everyone who waits is told `Unrecorded::Away`, and so is everyone who comes
//!    until one of them is back. What was offered waits as far as the queue reaches; what is lost is
//!    counted and told of by a `record.lost` event.
//!
//! INVARIANT: `Ok` is answered only after the commit, or after the spool is on the disk. A
//! submission that failed is never written again; one whose commit succeeded after its time had
//! run out is an allow without an end, which reads "possibly forwarded".
//! INVARIANT: the queue is bounded, and the last fifth of it is for those who are identified and let through.

use std::collections::VecDeque;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::{Notify, oneshot};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::engine::{Store, StoreError};
use super::record_writer::Writer;
use super::refusal_count::{RefusalCount, RefusalRates};
use super::spool::{Spool, SpoolState};
use crate::audit::{Event, EventType, Sealing};
use crate::model::{Clock, Timestamp};

/// How long an answer waits for its event to be durable: longer than one batch may take, with or without a
/// spool ([`RecorderSettings`]), and short enough that everybody is answered within the two seconds that the house
/// promises.
pub const RECORD_TIMEOUT: Duration = Duration::from_millis(1800);
/// After so many batches that failed with it, an offered event is given up.
const ATTEMPTS_MAX: u8 = 4;

/// Bounds of the recorder.
#[derive(Debug, Clone, Copy)]
pub struct RecorderSettings {
    /// Events that wait at most.
    pub queue_max: usize,
    /// Events in one transaction at most.
    pub batch_max: usize,
    /// How long a batch may take, tries included. Under the two seconds after which a request that
    /// waits is refused.
    pub write_timeout: Duration,
    /// The same where there is a spool, which then gets its own time.
    pub spool_after: Duration,
    /// How often offered events are written and committed ones numbered.
    pub pulse: Duration,
    /// How often a database that is away is asked for a sign of life.
    pub probe: Duration,
    /// How often a spool that gave an error, or kept events, is looked at while it is not needed.
    pub spool_look: Duration,
    /// How often counted refusals are told of.
    pub counted_every: Duration,
    /// Which refusals are recorded one by one.
    pub refusal_rates: RefusalRates,
}

impl RecorderSettings {
    /// How long the queue may be for what waits for room. The rest is for what can't wait.
    pub(in crate::store) const fn room_for_buffered(&self) -> usize {
        self.queue_max - self.queue_max / 4
    }
}

impl Default for RecorderSettings {
    fn default() -> Self {
        Self {
            queue_max: 8192,
            batch_max: 512,
            write_timeout: Duration::from_millis(1500),
            spool_after: Duration::from_millis(700),
            pulse: Duration::from_millis(500),
            probe: Duration::from_millis(250),
            spool_look: Duration::from_secs(5),
            counted_every: Duration::from_secs(10),
            refusal_rates: RefusalRates::default(),
        }
    }
}

/// Why an event is not on durable record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unrecorded {
    /// Too much waits already.
    Full,
    /// Neither database nor spool took it in time.
    Away,
    /// The recorder has ended.
    Closed,
}

impl fmt::Display for Unrecorded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Full => "the decision could not be recorded: too many wait for the database",
            Self::Away => "the decision could not be recorded: the database is away or hangs, and no spool took it",
            Self::Closed => "the decision could not be recorded: the gateway is stopping",
        })
    }
}

impl std::error::Error for Unrecorded {}

/// The answer to a submission: waits until the event is durable, or will not be.
#[derive(Debug)]
#[must_use = "an event is on record only once this says so"]
pub struct Submitted(Answer);

#[derive(Debug)]
enum Answer {
    Known(Result<(), Unrecorded>),
    Waiting(oneshot::Receiver<Result<(), Unrecorded>>),
}

impl Submitted {
    /// The answer, where there is nothing to wait for.
    #[must_use]
    pub const fn known(&self) -> Option<Result<(), Unrecorded>> {
        match &self.0 {
            Answer::Known(answer) => Some(*answer),
            Answer::Waiting(_) => None,
        }
    }
}

impl Future for Submitted {
    type Output = Result<(), Unrecorded>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        match &mut self.0 {
            Answer::Known(answer) => Poll::Ready(*answer),
            Answer::Waiting(receiver) => {
                Pin::new(receiver).poll(context).map(|answer| answer.unwrap_or(Err(Unrecorded::Closed)))
            }
        }
    }
}

/// Where events are made durable.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Keeping {
    /// In the database.
    #[default]
    Database,
    /// In the spool: the database is away, or has just come back.
    Spool,
    /// Nowhere: what must be recorded is refused.
    Nowhere,
}

/// How the recorder is doing.
#[derive(Debug, Clone, Default)]
pub struct RecorderState {
    /// Events that wait.
    pub queued: usize,
    /// Whether the database is away.
    pub away: bool,
    /// Where events go.
    pub keeping: Keeping,
    /// Events that went to the spool since the start.
    pub spooled: u64,
    /// Events of the spool that were merged since the start.
    pub merged: u64,
    /// The spool, where there is one.
    pub spool: Option<SpoolState>,
    /// Transactions that were committed.
    pub batches: u64,
    /// Events that were committed.
    pub rows: u64,
    /// Events of others that got their number.
    pub numbered: u64,
    /// Submissions that were answered with an error.
    pub unrecorded: u64,
    /// Offered events that were lost.
    pub lost: u64,
    /// Refusals that were only counted.
    pub counted: u64,
    /// What the database said last time it did not do what it was asked.
    pub last_error: Option<Arc<str>>,
    /// When something was last made durable.
    pub last_durable: Option<Timestamp>,
}

/// Takes events from any thread and runtime. Clones are the same recorder.
#[derive(Clone)]
pub struct Recorder(Arc<Shared>);

/// What the recorder and its task share.
pub(in crate::store) struct Shared {
    queue: Mutex<Queue>,
    pub wake: Notify,
    pub spool: Option<Spool>,
    pub settings: RecorderSettings,
}

#[derive(Default)]
pub(in crate::store) struct Queue {
    pub entries: VecDeque<Entry>,
    /// Entries for whose end somebody waits.
    pub waiting: usize,
    /// What waits for room, and is answered when it has it.
    pub crowd: VecDeque<Entry>,
    pub closed: bool,
    /// Lost events that no `record.lost` has told of yet.
    pub lost_untold: u64,
    pub refusals: RefusalCount,
    pub state: RecorderState,
}

pub(in crate::store) struct Entry {
    pub event: Event,
    pub reply: Option<oneshot::Sender<Result<(), Unrecorded>>>,
    pub attempts: u8,
}

/// What a recorder stands on.
pub struct RecorderParts {
    /// The database, whose log need not be open yet: until it is, events go to the spool.
    pub store: Store,
    /// The spool, where there is one.
    pub spool: Option<Spool>,
    /// What events are sealed with.
    pub sealing: Arc<Sealing>,
    /// Bounds.
    pub settings: RecorderSettings,
    /// Time.
    pub clock: Arc<dyn Clock>,
}

impl Recorder {
    /// Starts a recorder without a spool over a log that is open.
    ///
    /// # Errors
    /// When this node's log is not open yet.
    pub fn start(
        store: Store,
        settings: RecorderSettings,
        clock: Arc<dyn Clock>,
        cancel: CancellationToken,
        tracker: &TaskTracker,
        runtime: &Handle,
    ) -> Result<(Self, JoinHandle<()>), StoreError> {
        let sealing = store.sealing()?;
        let parts = RecorderParts { store, spool: None, sealing, settings, clock };
        Ok(Self::start_with(parts, cancel, tracker, runtime))
    }

    /// Starts the recorder's task on `runtime`. When `cancel` is cancelled it takes nothing more,
    /// writes what waits, and ends; `tracker` waits for it. What a spool holds from before is merged
    /// first.
    #[must_use]
    pub fn start_with(
        parts: RecorderParts,
        cancel: CancellationToken,
        tracker: &TaskTracker,
        runtime: &Handle,
    ) -> (Self, JoinHandle<()>) {
        let RecorderParts { store, spool, sealing, settings, clock } = parts;
        let queue = Mutex::new(Queue::default());
        let shared = Arc::new(Shared { queue, wake: Notify::new(), spool, settings });
        let writer = Writer { shared: Arc::clone(&shared), store, sealing, clock };
        let task = tracker.spawn_on(writer.run(cancel), runtime);
        (Self(shared), task)
    }

    /// Records `event` and tells when it is durable. Errors come at once when the queue is full or
    /// the database is known to be away, else within the time that a batch may take, twice.
    pub fn submit(&self, event: Event) -> Submitted {
        let mut queue = self.0.lock();
        let refused = if queue.closed {
            Some(Unrecorded::Closed)
        } else if queue.state.keeping == Keeping::Nowhere {
            Some(Unrecorded::Away)
        } else if queue.entries.len() >= self.0.room(&event) {
            Some(Unrecorded::Full)
        } else {
            None
        };
        if let Some(reason) = refused {
            queue.state.unrecorded += 1;
            return Submitted(Answer::Known(Err(reason)));
        }
        let (reply, receiver) = oneshot::channel();
        queue.waiting += 1;
        let first = queue.waiting == 1;
        queue.entries.push_back(Entry { event, reply: Some(reply), attempts: 0 });
        drop(queue);
        if first {
            self.0.wake.notify_one();
        }
        Submitted(Answer::Waiting(receiver))
    }

    /// Records `event` within a second and answers as soon as it is in the queue, of which it leaves the last
    /// quarter free: who comes faster than can be written waits, in the order of their coming, instead of losing
    /// what others did. While the database is away it is [`Self::submit`]: the spool's room is bounded.
    pub fn submit_buffered(&self, event: Event) -> Submitted {
        let mut queue = self.0.lock();
        if queue.closed || queue.state.keeping != Keeping::Database {
            drop(queue);
            return self.submit(event);
        }
        if queue.crowd.len() >= self.0.settings.queue_max {
            queue.state.unrecorded += 1;
            return Submitted(Answer::Known(Err(Unrecorded::Full)));
        }
        if queue.crowd.is_empty() && queue.entries.len() < self.0.settings.room_for_buffered() {
            self.push_offered(queue, event);
            return Submitted(Answer::Known(Ok(())));
        }
        let (reply, receiver) = oneshot::channel();
        queue.crowd.push_back(Entry { event, reply: Some(reply), attempts: 0 });
        let first = queue.crowd.len() == 1;
        drop(queue);
        if first {
            self.0.wake.notify_one();
        }
        Submitted(Answer::Waiting(receiver))
    }

    /// Records `event` within a second, and never waits. What does not fit is counted as lost.
    pub fn offer(&self, event: Event) {
        let mut queue = self.0.lock();
        if queue.closed || queue.entries.len() >= self.0.room(&event) {
            queue.lose(1);
            return;
        }
        self.push_offered(queue, event);
    }

    fn push_offered(&self, mut queue: MutexGuard<'_, Queue>, event: Event) {
        queue.entries.push_back(Entry { event, reply: None, attempts: 0 });
        let full_batch = queue.entries.len() == self.0.settings.batch_max;
        drop(queue);
        if full_batch {
            self.0.wake.notify_one();
        }
    }

    /// Records a refusal: by itself up to a rate per node and principal, or address where nobody is
    /// identified, else in a count. A counted one is answered with `Ok` at once.
    pub fn refused(&self, event: Event) -> Submitted {
        let mut queue = self.0.lock();
        let room =
            queue.entries.len() < self.0.room(&event) && queue.state.keeping != Keeping::Nowhere && !queue.closed;
        if !room {
            queue.refusals.count(&event);
        } else if queue.refusals.admit(&event, self.0.settings.refusal_rates) {
            drop(queue);
            return self.submit(event);
        }
        Submitted(Answer::Known(Ok(())))
    }

    /// How it is doing now.
    #[must_use]
    pub fn state(&self) -> RecorderState {
        let queue = self.0.lock();
        RecorderState {
            queued: queue.entries.len(),
            counted: queue.refusals.total(),
            spool: self.0.spool.as_ref().map(Spool::state),
            ..queue.state.clone()
        }
    }
}

impl Shared {
    pub fn lock(&self) -> MutexGuard<'_, Queue> {
        // A panic while it was held left counts behind at worst.
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How long the queue may be for `event` to be taken.
    fn room(&self, event: &Event) -> usize {
        let max = self.settings.queue_max;
        if gives_way(event) { max - max / 5 } else { max }
    }
}

/// Whether `event` leaves the last fifth to others: what nobody identified sent, and every refusal, since
/// it lets nothing through and may be had as often as somebody asks. Events of this node itself have no
/// address and count as identified.
pub(in crate::store) fn gives_way(event: &Event) -> bool {
    let nobody = event.actor.principal.is_none() && event.actor.address.is_some();
    nobody || event.kind == EventType::DecisionDeny
}

impl Queue {
    pub fn lose(&mut self, count: u64) {
        self.lost_untold += count;
        self.state.lost += count;
    }

    /// Takes a batch, and lets others in up to `room`.
    pub fn take(&mut self, most: usize, room: usize) -> Vec<Entry> {
        let count = self.entries.len().min(most);
        let batch: Vec<Entry> = self.entries.drain(..count).collect();
        self.waiting -= batch.iter().filter(|entry| entry.reply.is_some()).count();
        while self.entries.len() < room {
            let Some(mut entry) = self.crowd.pop_front() else { break };
            // Whoever does not wait any more was told that it is not on record.
            if entry.reply.take().is_some_and(|reply| reply.send(Ok(())).is_ok()) {
                self.entries.push_back(entry);
            }
        }
        batch
    }

    /// Who waits for room is told that there is none.
    pub fn send_away(&mut self, why: Unrecorded) {
        for entry in self.crowd.drain(..) {
            self.state.unrecorded += 1;
            // Whoever does not wait any more needs no answer.
            let _ = entry.reply.map(|reply| reply.send(Err(why)));
        }
    }

    /// Everyone who waits is told; what was offered stays, in front of what came later.
    pub fn fail(&mut self, batch: Vec<Entry>, room: usize) {
        self.send_away(Unrecorded::Away);
        let behind = std::mem::take(&mut self.entries);
        self.waiting = 0;
        let tried = batch.into_iter().map(|entry| Entry { attempts: entry.attempts + 1, ..entry });
        for mut entry in tried.chain(behind) {
            if let Some(reply) = entry.reply.take() {
                self.state.unrecorded += 1;
                // Whoever does not wait any more needs no answer.
                let _ = reply.send(Err(Unrecorded::Away));
            } else if entry.attempts >= ATTEMPTS_MAX || self.entries.len() >= room {
                self.lose(1);
            } else {
                self.entries.push_back(entry);
            }
        }
    }
}
