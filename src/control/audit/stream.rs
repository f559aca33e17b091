//! Streams of the record to receivers outside: what became of a batch, and what people may know of it.
//!
//! 1. A batch was taken: the cursor moves, and if it had been told that nothing is taken, that it is again
//!    (`audit.stream_recovered`), in one transaction.
//! 2. A batch was not taken: since when, how often and why is kept. Once that has lasted for the
//!    stream's `stalled_after`, it is told, once (`audit.stream_stalled`).
//!
//! INVARIANT: there are two events for each time that a receiver stands still, whatever it does meanwhile
//! and however many nodes there are. They are in the record like all others and are streamed like all
//! others, which makes no further event: no stream feeds itself.

use crate::audit::{Event, EventType, Outcome};
use crate::control::caller::Caller;
use crate::control::desk::Desk;
use crate::model::{EventId, NodeId, Timestamp, Ttl};
use crate::store::{Log, StoreError, StoredStream, StreamPosition, Tx};

use super::read::{ReadError, admit};

/// A stream that no node has had in its configuration for so long is not waited for.
const FORGOTTEN_AFTER: Ttl = Ttl::hours(1);

/// A batch that was taken: of one log, up to a number.
#[derive(Debug, Clone, Copy)]
pub struct Taken {
    /// The log.
    pub log: Log,
    /// The number after the last event that was looked at.
    pub next: u64,
    /// How many events were sent; those that the stream does not carry are none of them.
    pub count: u64,
    /// Whether nothing of another log is refused, so that all of the stream goes on.
    pub recovers: bool,
}

/// Whether a node may go on with a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Holding {
    /// It still has it.
    Yes,
    /// Another node has it by now.
    No,
}

fn told(desk: &Desk, kind: EventType, outcome: Outcome, stream: &StoredStream, now: Timestamp) -> Event {
    let mut event = Event::new(EventId::fresh(now, &*desk.entropy), now, kind, outcome)
        .with("stream", stream.name.as_str())
        .with("kind", stream.kind.as_str());
    event.resource = Some(format!("Stream::\"{}\"", stream.name).into());
    event
}

/// Notes that a batch was taken.
///
/// # Errors
/// When the database is away; the batch is then sent once more.
pub async fn taken(
    desk: &Desk,
    name: &str,
    node: &NodeId,
    batch: Taken,
    now: Timestamp,
) -> Result<Holding, StoreError> {
    let mut tx = desk.store.begin().await?;
    let Some(stream) = tx.stream_hold(name, node, now).await? else { return Ok(Holding::No) };
    tx.stream_advance(name, batch.log, batch.next).await?;
    if batch.count > 0 && !batch.recovers {
        tx.stream_sent_some(name, batch.count, now).await?;
    } else if batch.count > 0 {
        tx.stream_sent(name, batch.count, now).await?;
        if let Some(stalled) = stream.stalled_at {
            let since = stream.failing_since.unwrap_or(stalled);
            let event = told(desk, EventType::AuditStreamRecovered, Outcome::Success, &stream, now)
                .with("since", since.to_string())
                .with("failures", stream.failures);
            tx.event_append(&event).await?;
        }
    }
    tx.commit().await?;
    Ok(Holding::Yes)
}

/// Notes that a batch was not taken, and tells of it once that has lasted too long. `lag` is how many
/// events wait.
///
/// # Errors
/// When the database is away.
pub async fn failed(
    desk: &Desk,
    name: &str,
    node: &NodeId,
    error: &str,
    stalled_after: Ttl,
    lag: u64,
    now: Timestamp,
) -> Result<Holding, StoreError> {
    let mut tx = desk.store.begin().await?;
    let Some(stream) = tx.stream_hold(name, node, now).await? else { return Ok(Holding::No) };
    tx.stream_failed(name, node, error, now).await?;
    let since = stream.failing_since.unwrap_or(now);
    if since.plus(stalled_after).is_over(now) && tx.stream_stalled(name, now).await? {
        let event = told(desk, EventType::AuditStreamStalled, Outcome::Failed, &stream, now)
            .with("since", since.to_string())
            .with("failures", stream.failures + 1)
            .with("lag", lag)
            .with("error", error);
        tx.event_append(&event).await?;
    }
    tx.commit().await?;
    Ok(Holding::Yes)
}

/// Tells of each stream that had not sent what was just pruned of a log, numbers `pruned.0` to before
/// `pruned.1`. It still sends the leaves of those events, in their order.
pub(super) async fn note_gaps(
    tx: &mut Tx,
    desk: &Desk,
    log: Log,
    pruned: (i64, i64),
    now: Timestamp,
) -> Result<(), StoreError> {
    let (from, to) = pruned;
    for (name, next) in tx.stream_list_behind(log, to, now.minus(FORGOTTEN_AFTER)).await? {
        let from = next.max(from);
        let mut event =
            Event::new(EventId::fresh(now, &*desk.entropy), now, EventType::AuditStreamGap, Outcome::Failed)
                .with("stream", name.as_str())
                .with("log", log.node().to_string())
                .with("from", from)
                .with("to", to)
                .with("count", to - from);
        event.resource = Some(format!("Stream::\"{name}\"").into());
        tx.event_append(&event).await?;
        tracing::warn!(stream = name, count = to - from, "events were pruned before a stream had sent them");
    }
    Ok(())
}

/// A stream, and how far it is.
#[derive(Debug, Clone)]
pub struct StreamSeen {
    /// As it is kept.
    pub stream: StoredStream,
    /// How far it has each log.
    pub positions: Vec<StreamPosition>,
}

/// How a stream is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StreamState {
    /// It is sent.
    Sending,
    /// The last trial came to nothing.
    Failing,
    /// That has lasted so long that it was told.
    Stalled,
    /// No node has it in its configuration.
    Unattended,
}

impl StreamState {
    /// As shown.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Sending => "sending",
            Self::Failing => "failing",
            Self::Stalled => "stalled",
            Self::Unattended => "unattended",
        }
    }
}

impl StreamSeen {
    /// Reads one stream's positions.
    ///
    /// # Errors
    /// When the database is away or a row can't be.
    pub async fn of(store: &crate::store::Store, stream: StoredStream) -> Result<Self, StoreError> {
        let positions = store.stream_positions(&stream.name).await?;
        Ok(Self { stream, positions })
    }

    /// How it is doing.
    #[must_use]
    pub fn state(&self, now: Timestamp) -> StreamState {
        /// Nodes note that they have it far more often than that.
        const UNSEEN: Ttl = Ttl::minutes(2);
        let stream = &self.stream;
        if stream.seen_at.plus(UNSEEN).is_over(now) {
            StreamState::Unattended
        } else if stream.stalled_at.is_some() {
            StreamState::Stalled
        } else if stream.failing_since.is_some() {
            StreamState::Failing
        } else {
            StreamState::Sending
        }
    }

    /// Events that are still to be looked at.
    #[must_use]
    pub fn lag_events(&self) -> u64 {
        lag_events(&self.positions)
    }

    /// How old the oldest of them is.
    #[must_use]
    pub fn lag(&self, now: Timestamp) -> Ttl {
        lag(&self.positions, now)
    }
}

/// Events of all logs that are still to be looked at.
#[must_use]
pub fn lag_events(positions: &[StreamPosition]) -> u64 {
    positions.iter().map(StreamPosition::lag).sum()
}

/// How old the oldest of them is.
#[must_use]
pub fn lag(positions: &[StreamPosition], now: Timestamp) -> Ttl {
    let waiting = positions.iter().filter(|position| position.lag() > 0);
    waiting.filter_map(|position| position.time).map(|time| now.since(time)).max().unwrap_or(Ttl::ZERO)
}

/// Every stream that is or was configured, for those who may read the record.
///
/// # Errors
/// When the caller may not, or the database is away.
pub async fn list(desk: &Desk, caller: &Caller, now: Timestamp) -> Result<Vec<StreamSeen>, ReadError> {
    admit(desk, caller, "streams", now).await?;
    let mut seen = Vec::new();
    for stream in desk.store.stream_list().await? {
        seen.push(StreamSeen::of(&desk.store, stream).await?);
    }
    Ok(seen)
}
