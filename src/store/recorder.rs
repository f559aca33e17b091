//! The recorder: many requests wait for one durable write.
//!
//! 1. A request's decision is put into the queue (`submit`) and its task waits; what need not be
//!    waited for (the end of an exchange, decisions of a buffered service) is put there by `offer`.
//! 2. One task takes all that waits, seals it, writes it in one transaction with its numbers, and
//!    answers everyone at once. While it writes, the next batch gathers.
//! 3. Twice a second it also writes what was only offered, and numbers events that were committed
//!    with their state.
//! 4. When a batch can't be written in time, everyone who waits is told `Unrecorded::Away`, and so is
//!    everyone who comes while the task asks the database for a sign of life. What was offered
//!    waits for its return as far as the queue reaches; what is lost is counted and told of by a
//!    `record.lost` event.
//!
//! INVARIANT: `Ok` is answered only after the commit. A submission that failed is never written
//! again; one whose commit succeeded after its time had run out is an allow without an end, which
//! reads "possibly forwarded".
//! INVARIANT: the queue is bounded, and the last fifth of it is for those who are identified.

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
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::engine::{Store, StoreError};
use super::log::Desk;
use super::refusal_count::{RefusalCount, RefusalRates};
use crate::audit::{Event, EventType, Outcome, Sealed};
use crate::model::{Clock, EventId, Timestamp};

/// Pauses before a batch is tried again within its time: a database that restarts is not away.
const RETRY_PAUSES: [Duration; 4] =
    [Duration::from_millis(20), Duration::from_millis(80), Duration::from_millis(200), Duration::from_millis(400)];
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
    /// How often offered events are written and committed ones numbered.
    pub pulse: Duration,
    /// How often a database that is away is asked for a sign of life.
    pub probe: Duration,
    /// How often counted refusals are told of.
    pub counted_every: Duration,
    /// Which refusals of nobody are recorded one by one.
    pub refusal_rates: RefusalRates,
}

impl Default for RecorderSettings {
    fn default() -> Self {
        Self {
            queue_max: 8192,
            batch_max: 512,
            write_timeout: Duration::from_millis(1500),
            pulse: Duration::from_millis(500),
            probe: Duration::from_millis(250),
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
    /// The database did not take it in time.
    Away,
    /// The recorder has ended.
    Closed,
}

impl fmt::Display for Unrecorded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Full => "the decision could not be recorded: too many wait for the database",
            Self::Away => "the decision could not be recorded: the database is away or hangs",
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

/// How the recorder is doing.
#[derive(Debug, Clone, Default)]
pub struct RecorderState {
    /// Events that wait.
    pub queued: usize,
    /// Whether the database is away.
    pub away: bool,
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
    /// Refusals of nobody that were only counted.
    pub counted: u64,
    /// What the database said last time it did not do what it was asked.
    pub last_error: Option<Arc<str>>,
    /// When something was last made durable.
    pub last_durable: Option<Timestamp>,
}

/// Takes events from any thread and runtime. Clones are the same recorder.
#[derive(Clone)]
pub struct Recorder(Arc<Shared>);

struct Shared {
    queue: Mutex<Queue>,
    wake: Notify,
    settings: RecorderSettings,
}

#[derive(Default)]
struct Queue {
    entries: VecDeque<Entry>,
    /// Entries for whose end somebody waits.
    waiting: usize,
    closed: bool,
    /// Lost events that no `record.lost` has told of yet.
    lost_untold: u64,
    refusals: RefusalCount,
    state: RecorderState,
}

struct Entry {
    event: Event,
    reply: Option<oneshot::Sender<Result<(), Unrecorded>>>,
    attempts: u8,
}

impl Recorder {
    /// Starts the recorder's task on `runtime`. When `cancel` is cancelled it takes nothing more,
    /// writes what waits, and ends; `tracker` waits for it.
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
        let desk = store.desk().get().cloned().ok_or(StoreError::NoLog)?;
        let queue = Mutex::new(Queue::default());
        let shared = Arc::new(Shared { queue, wake: Notify::new(), settings });
        let writer = Writer { shared: Arc::clone(&shared), store, desk, clock };
        let task = tracker.spawn_on(writer.run(cancel), runtime);
        Ok((Self(shared), task))
    }

    /// Records `event` and tells when it is durable. Errors come at once when the queue is full or
    /// the database is known to be away, else within the time that a batch may take, twice.
    pub fn submit(&self, event: Event) -> Submitted {
        let mut queue = self.0.lock();
        let refused = if queue.closed {
            Some(Unrecorded::Closed)
        } else if queue.state.away {
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

    /// Records `event` within a second, and never waits. What does not fit is counted as lost.
    pub fn offer(&self, event: Event) {
        let mut queue = self.0.lock();
        if queue.closed || queue.entries.len() >= self.0.room(&event) {
            queue.lose(1);
            return;
        }
        queue.entries.push_back(Entry { event, reply: None, attempts: 0 });
        let full_batch = queue.entries.len() == self.0.settings.batch_max;
        drop(queue);
        if full_batch {
            self.0.wake.notify_one();
        }
    }

    /// Records a refusal of somebody who is not identified: by itself up to a rate per address
    /// and node, else in a count. A counted one is answered with `Ok` at once.
    pub fn refused_anonymous(&self, event: Event) -> Submitted {
        let mut queue = self.0.lock();
        let room = queue.entries.len() < self.0.room(&event) && !queue.state.away && !queue.closed;
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
        RecorderState { queued: queue.entries.len(), counted: queue.refusals.total(), ..queue.state.clone() }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Queue> {
        // A panic while it was held left counts behind at worst.
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How long the queue may be for `event` to be taken. Events of this node itself have no
    /// address and count as identified.
    fn room(&self, event: &Event) -> usize {
        let identified = event.actor.principal.is_some() || event.actor.address.is_none();
        let max = self.settings.queue_max;
        if identified { max } else { max - max / 5 }
    }
}

impl Queue {
    fn lose(&mut self, count: u64) {
        self.lost_untold += count;
        self.state.lost += count;
    }

    fn take(&mut self, most: usize) -> Vec<Entry> {
        let count = self.entries.len().min(most);
        let batch: Vec<Entry> = self.entries.drain(..count).collect();
        self.waiting -= batch.iter().filter(|entry| entry.reply.is_some()).count();
        batch
    }

    /// Everyone who waits is told; what was offered stays, in front of what came later.
    fn fail(&mut self, batch: Vec<Entry>, room: usize) {
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

/// The task's side.
struct Writer {
    shared: Arc<Shared>,
    store: Store,
    desk: Desk,
    clock: Arc<dyn Clock>,
}

impl Writer {
    async fn run(self, cancel: CancellationToken) {
        let settings = self.shared.settings;
        let mut pulse = Instant::now() + settings.pulse;
        let mut counted = Instant::now() + settings.counted_every;
        loop {
            tokio::select! {
                () = self.shared.wake.notified() => {}
                () = sleep_until(pulse) => {}
                () = cancel.cancelled() => break,
            }
            let now = Instant::now();
            if now >= counted {
                counted = now + settings.counted_every;
                self.tell_counted();
            }
            let beat = now >= pulse;
            let well = self.write_due(beat).await;
            if well && beat {
                self.number().await;
            }
            if beat {
                pulse = Instant::now() + settings.pulse;
            }
            if !well {
                tokio::select! {
                    () = self.wait_for_life() => {}
                    () = cancel.cancelled() => break,
                }
            }
        }
        self.end().await;
    }

    /// Takes nothing more, writes what waits, and counts what can't be written.
    async fn end(&self) {
        self.shared.lock().closed = true;
        self.tell_counted();
        if self.write_due(true).await {
            self.number().await;
        }
        let mut queue = self.shared.lock();
        let left = queue.take(usize::MAX).len();
        queue.lose(u64::try_from(left).unwrap_or(u64::MAX));
        if queue.lost_untold > 0 {
            tracing::error!(
                lost = queue.lost_untold,
                "audit events were lost: the database did not take them before the end"
            );
        }
    }

    /// Writes batches while somebody waits, or a batch is full, or `all` is asked for. Says
    /// whether the database took them.
    async fn write_due(&self, all: bool) -> bool {
        loop {
            let (batch, told) = {
                let mut queue = self.shared.lock();
                let full = queue.entries.len() >= self.shared.settings.batch_max;
                let lost = queue.lost_untold > 0;
                if !(queue.waiting > 0 || full || (all && (lost || !queue.entries.is_empty()))) {
                    return true;
                }
                (queue.take(self.shared.settings.batch_max), queue.lost_untold)
            };
            if !self.write(batch, told).await {
                return false;
            }
        }
    }

    /// Writes one batch and answers it.
    async fn write(&self, batch: Vec<Entry>, told: u64) -> bool {
        let sealing = &self.desk.sealing;
        let mut events: Vec<Sealed> = batch.iter().map(|entry| sealing.seal(&entry.event)).collect();
        if told > 0 {
            events.push(sealing.seal(&self.lost_event(told)));
        }
        let settings = self.shared.settings;
        let done = timeout(settings.write_timeout, self.write_with_retries(&events)).await;
        match done {
            Ok(Ok(())) => {
                let mut queue = self.shared.lock();
                queue.lost_untold -= told;
                queue.state.batches += 1;
                queue.state.rows += u64::try_from(events.len()).unwrap_or(0);
                queue.state.last_durable = Some(self.clock.now());
                drop(queue);
                for reply in batch.into_iter().filter_map(|entry| entry.reply) {
                    // Whoever does not wait any more needs no answer.
                    let _ = reply.send(Ok(()));
                }
                true
            }
            Ok(Err(error)) => self.failed(batch, &error.to_string()),
            Err(_) => self.failed(batch, "the database did not answer in time"),
        }
    }

    fn failed(&self, batch: Vec<Entry>, error: &str) -> bool {
        tracing::error!(error, "the record can't be written: requests are refused until the database is back");
        let mut queue = self.shared.lock();
        queue.state.away = true;
        queue.state.last_error = Some(error.into());
        queue.fail(batch, self.shared.settings.queue_max);
        false
    }

    async fn write_with_retries(&self, events: &[Sealed]) -> Result<(), StoreError> {
        let mut pauses = RETRY_PAUSES.iter();
        loop {
            match self.write_once(events).await {
                Ok(()) => return Ok(()),
                Err(error) => match pauses.next() {
                    Some(pause) => sleep(*pause).await,
                    None => return Err(error),
                },
            }
        }
    }

    async fn write_once(&self, events: &[Sealed]) -> Result<(), StoreError> {
        let mut tx = self.store.begin().await?;
        tx.record_batch(self.desk.log, events).await?;
        tx.commit().await
    }

    /// Returns once the database takes a write again.
    async fn wait_for_life(&self) {
        let settings = self.shared.settings;
        loop {
            sleep(settings.probe).await;
            // An empty batch takes the log's row and commits: all that a full one needs.
            if let Ok(Ok(())) = timeout(settings.write_timeout, self.write_once(&[])).await {
                tracing::info!("the record can be written again");
                self.shared.lock().state.away = false;
                return;
            }
        }
    }

    async fn number(&self) {
        loop {
            let now = self.clock.now();
            let work = self.store.number_pending(self.desk.log, now);
            let error = match timeout(self.shared.settings.write_timeout, work).await {
                Ok(Ok(0)) => return,
                Ok(Ok(numbered)) => {
                    self.shared.lock().state.numbered += numbered;
                    continue;
                }
                Ok(Err(error)) => error.to_string(),
                Err(_) => "the database did not answer in time".to_owned(),
            };
            tracing::warn!(error, "committed audit events could not be numbered yet");
            self.shared.lock().state.last_error = Some(error.into());
            return;
        }
    }

    fn tell_counted(&self) {
        let now = self.clock.now();
        let mut queue = self.shared.lock();
        if let Some(event) = queue.refusals.event(now, self.desk.sealing.entropy()) {
            // One event each ten seconds: it need not ask whether there is room.
            queue.entries.push_back(Entry { event, reply: None, attempts: 0 });
        }
    }

    fn lost_event(&self, count: u64) -> Event {
        let now = self.clock.now();
        let id = EventId::fresh(now, self.desk.sealing.entropy());
        Event::new(id, now, EventType::RecordLost, Outcome::Failed).with("count", count)
    }
}
