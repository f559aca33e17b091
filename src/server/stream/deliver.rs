//! One stream's rounds: who sends it, what is next, and when to try again.
//!
//! INVARIANTS: of several nodes one sends, by a lease that is longer than any trial. Each wait ends; a
//! trial takes ten seconds at most. What was not taken is tried again after a pause that doubles from one
//! second to a minute, with half as many events, so that a receiver that is only slow gets there and one
//! that does not take a certain event is asked for that one alone. The order is that of each log: what is
//! refused of one keeps none of the others waiting.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::batch::Batch;
use super::sink::{Refused, Sink, Source};
use super::state::StreamState;
use crate::config::Stream;
use crate::control::Desk;
use crate::control::audit::stream::{Holding, Taken, failed, lag, lag_events, taken};
use crate::model::{NodeId, Timestamp, Ttl};
use crate::outbound::OutboundError;
use crate::server::tree::host_of;
use crate::store::{StoreError, StreamPosition, StreamStart};

/// How long a node has a stream. Six trials go into it.
const LEASE: Ttl = Ttl::seconds(60);
/// With less left of it, it is taken anew before the next trial.
const LEASE_LEFT_MIN: Ttl = Ttl::seconds(30);
/// How often a node that does not send looks whether it should.
const STANDBY_EVERY: Duration = Duration::from_secs(5);
/// How long a stream rests when the database is away.
const REST: Duration = Duration::from_secs(5);
/// The longest pause after a trial that came to nothing.
const PAUSE_MAX: Duration = Duration::from_secs(60);
/// The longest that one log rests: that pause, and what chance adds to it.
const REST_MAX: Ttl = Ttl::seconds(75);
/// How long giving the stream back may take at the end.
const RELEASE_TIMEOUT: Duration = Duration::from_millis(500);

/// How a round ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Round {
    /// Another node sends.
    Standby,
    /// All of it is sent.
    Done,
    /// There is more to send.
    More,
    /// A batch was not taken.
    Failed,
}

/// What sends one stream.
#[derive(Debug)]
pub struct Sender {
    stream: Stream,
    sink: Sink,
    desk: Desking,
    state: StreamState,
    opened: bool,
    lease_until: Timestamp,
    /// How each log is sent.
    paces: BTreeMap<NodeId, Pace>,
    /// Trials in a row that came to nothing because of the receiver as a whole.
    failures: u32,
    /// Whether there are several logs: each rests by itself then.
    several: bool,
}

/// How one log is sent.
#[derive(Debug, Clone, Copy)]
struct Pace {
    /// Events of the next batch at most.
    batch: u32,
    /// Trials in a row that came to nothing.
    failures: u32,
    /// Until when it is let be where there are other logs.
    rests_until: Timestamp,
}

/// What became of one log's batch.
enum Sent {
    /// It is taken, or the round is over.
    So(Round),
    /// The receiver is there, and refuses what is in it.
    NotThese,
}

/// A desk, which has no form of its own to be shown in.
struct Desking(Arc<Desk>);

impl std::fmt::Debug for Desking {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Desk")
    }
}

impl Sender {
    /// What sends `stream`.
    ///
    /// # Errors
    /// When an authority's certificate can't be used.
    pub fn new(stream: Stream, desk: Arc<Desk>, state: StreamState) -> Result<Self, OutboundError> {
        let sink = Sink::new(&stream.receiver, &desk.clock)?;
        state.open(&stream.name);
        let (lease_until, paces) = (Timestamp::from_millis(0), BTreeMap::new());
        let desk = Desking(desk);
        Ok(Self { stream, sink, desk, state, opened: false, lease_until, paces, failures: 0, several: false })
    }

    /// Rounds without end, until `over`; then another node may send at once.
    pub async fn run(mut self, over: CancellationToken) {
        loop {
            let rest = tokio::select! {
                done = self.round() => match done {
                    Ok(Round::Standby) => STANDBY_EVERY,
                    Ok(Round::Done) => self.stream.interval.duration(),
                    Ok(Round::More) => Duration::ZERO,
                    Ok(Round::Failed) => self.pause(),
                    // This node's log is not open yet: the database has not been there.
                    Err(StoreError::NoLog) => REST,
                    Err(error) => {
                        tracing::warn!(stream = self.stream.name, %error, "a stream waits for the database");
                        REST
                    }
                },
                () = over.cancelled() => break,
            };
            if tokio::time::timeout(rest, over.cancelled()).await.is_ok() {
                break;
            }
        }
        if let Ok(node) = self.desk.0.store.node() {
            // Without it another node waits for the end of the lease.
            let _ =
                tokio::time::timeout(RELEASE_TIMEOUT, self.desk.0.store.stream_release(&self.stream.name, &node)).await;
        }
    }

    /// One round: a batch of each log that has something new.
    ///
    /// # Errors
    /// When the database is away.
    pub async fn round(&mut self) -> Result<Round, StoreError> {
        let desk = Arc::clone(&self.desk.0);
        let node = desk.store.node()?;
        self.open().await?;
        let holds = self.hold(&node).await?;
        let positions = desk.store.stream_positions(&self.stream.name).await?;
        let now = desk.clock.now();
        self.state.note_lag(&self.stream.name, lag_events(&positions), lag(&positions, now));
        if holds == Holding::No {
            return Ok(Round::Standby);
        }
        self.several = positions.len() > 1;
        let (mut round, mut refused) = (Round::Done, false);
        for position in positions.iter().filter(|position| position.lag() > 0) {
            let pace = self.pace(*position.log.node());
            // A clock that was set back must not make it rest for longer.
            let rest = pace.rests_until.since(now);
            if self.several && pace.failures > 0 && !pace.rests_until.is_over(now) && rest <= REST_MAX {
                refused = true;
                continue;
            }
            if self.hold(&node).await? == Holding::No {
                return Ok(Round::Standby);
            }
            match self.batch(&node, position, lag_events(&positions)).await? {
                Sent::So(Round::Done) => {}
                Sent::So(Round::More) => round = Round::More,
                Sent::NotThese => refused = true,
                // What one log's batch met, the next one's would meet too.
                Sent::So(other) => return Ok(other),
            }
        }
        if refused && round == Round::Done {
            return Ok(Round::Failed);
        }
        if round == Round::Done {
            let positions = desk.store.stream_positions(&self.stream.name).await?;
            self.state.note_lag(&self.stream.name, lag_events(&positions), lag(&positions, desk.clock.now()));
        }
        Ok(round)
    }

    async fn open(&mut self) -> Result<(), StoreError> {
        if self.opened {
            return Ok(());
        }
        let start = if self.stream.from_beginning { StreamStart::Beginning } else { StreamStart::Now };
        let (kind, format) = (self.stream.receiver.kind(), self.stream.format.name());
        let store = &self.desk.0.store;
        store.stream_open(&self.stream.name, kind, format, start, self.desk.0.clock.now()).await?;
        self.opened = true;
        Ok(())
    }

    /// Takes the stream, or keeps it where enough of the lease is left.
    async fn hold(&mut self, node: &NodeId) -> Result<Holding, StoreError> {
        let now = self.desk.0.clock.now();
        let left = self.lease_until.since(now);
        // A clock that was set back must not make a lease longer than it is for others.
        if left > LEASE_LEFT_MIN && left <= LEASE {
            return Ok(Holding::Yes);
        }
        let until = now.plus(LEASE);
        let taken = self.desk.0.store.stream_take(&self.stream.name, node, until, now).await?;
        self.lease_until = if taken { until } else { Timestamp::from_millis(0) };
        Ok(if taken { Holding::Yes } else { Holding::No })
    }

    /// How a log is sent.
    fn pace(&self, log: NodeId) -> Pace {
        let new = Pace { batch: self.stream.batch, failures: 0, rests_until: Timestamp::from_millis(0) };
        self.paces.get(&log).copied().unwrap_or(new)
    }

    /// Sends the next batch of one log.
    async fn batch(&mut self, node: &NodeId, position: &StreamPosition, lag: u64) -> Result<Sent, StoreError> {
        let desk = Arc::clone(&self.desk.0);
        let log = *position.log.node();
        let mut pace = self.pace(log);
        let events = desk.store.event_range(position.log, position.next, position.size, pace.batch).await?;
        let batch = Batch::of(log, &events, &self.stream.selection, self.stream.format, position.next);
        if events.first().and_then(|event| event.seq) != i64::try_from(position.next).ok() {
            tracing::error!(stream = self.stream.name, %log, seq = position.next, "an event of the record is missing");
            if events.is_empty() {
                return Ok(Sent::So(Round::Done));
            }
        }
        let name = &self.stream.name;
        let count = u64::try_from(batch.items.len()).unwrap_or(0);
        let from = Source { stream: name, host: host_of(&desk.settings.origin), format: self.stream.format };
        let sent = if count == 0 { Ok(()) } else { self.sink.send(&batch, from, desk.clock.now()).await };
        let now = desk.clock.now();
        let held = match &sent {
            Ok(()) => {
                let recovers = self.paces.iter().all(|(other, pace)| *other == log || pace.failures == 0);
                let batch = Taken { log: position.log, next: batch.next, count, recovers };
                taken(&desk, name, node, batch, now).await?
            }
            Err(error) => {
                let error = error.to_string();
                tracing::warn!(stream = name, error, "a batch of the record was not taken");
                self.state.note_failure(name);
                failed(&desk, name, node, &error, self.stream.stalled_after, lag, now).await?
            }
        };
        if held == Holding::No {
            self.lease_until = Timestamp::from_millis(0);
            return Ok(Sent::So(Round::Standby));
        }
        if let Err(error) = &sent {
            // Of those that wait, not of those that would fit: else the same few are sent again and again.
            let tried = u32::try_from(events.len()).unwrap_or(u32::MAX);
            pace.batch = (pace.batch.min(tried) / 2).max(1);
            let these = is_of_these(error);
            if these {
                pace.failures = pace.failures.saturating_add(1);
                let rest = u32::try_from(self.backoff(pace.failures).as_secs()).unwrap_or(u32::MAX);
                pace.rests_until = now.plus(Ttl::seconds(rest));
            } else {
                self.failures = self.failures.saturating_add(1);
            }
            self.paces.insert(log, pace);
            return Ok(if these { Sent::NotThese } else { Sent::So(Round::Failed) });
        }
        if count > 0 {
            self.state.note_sent(name, count);
            self.failures = 0;
        }
        pace.failures = 0;
        pace.batch = pace.batch.saturating_mul(2).min(self.stream.batch);
        self.paces.insert(log, pace);
        Ok(Sent::So(if batch.next < position.size { Round::More } else { Round::Done }))
    }

    /// The pause after a round that came to nothing.
    fn pause(&self) -> Duration {
        match (self.failures, self.several) {
            // Only some logs are refused, and those rest by themselves.
            (0, true) => self.stream.interval.duration(),
            (0, false) => self.backoff(self.paces.values().map(|pace| pace.failures).max().unwrap_or(0)),
            (failures, _) => self.backoff(failures),
        }
    }

    /// The pause after trials that came to nothing, up to a quarter longer by chance.
    fn backoff(&self, failures: u32) -> Duration {
        let doubled = Duration::from_secs(1 << failures.saturating_sub(1).min(6)).min(PAUSE_MAX);
        let mut byte = [0u8];
        self.desk.0.entropy.fill(&mut byte);
        doubled + doubled.mul_f64(f64::from(byte.first().copied().unwrap_or(0)) / 1020.0)
    }
}

/// Whether a receiver refuses what is in a batch, and not who sends it or at what rate.
const fn is_of_these(error: &Refused) -> bool {
    match error {
        Refused::Some { .. } => true,
        Refused::Status(status) => {
            matches!(*status, 400..=499) && !matches!(*status, 401 | 403 | 404 | 407 | 408 | 429)
        }
        Refused::Unanswered(_) => false,
    }
}
