//! The recorder's task: batches into the database, into the spool while that is away, and from the
//! spool (`spool_merge.rs`) into the database when it is back.
//!
//! INVARIANT: events reach the log in the order of their decisions, each once: an id that is there
//! already is left as it is, so a merge that broke off begins anew.

use std::pin::{Pin, pin};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep, sleep_until, timeout};
use tokio_util::sync::CancellationToken;

use super::engine::{Store, StoreError};
use super::log::Log;
use super::recorder::{Entry, Keeping, Shared, Unrecorded, gives_way};
use super::spool::SpoolState;
use super::spool_file::Room;
use crate::audit::{Event, EventType, Outcome, Sealed, Sealing};
use crate::model::{Clock, EventId, Principal, PrincipalKind};

/// Pauses before a batch is tried again within its time: a database that restarts is not away.
const RETRY_PAUSES: [Duration; 4] =
    [Duration::from_millis(20), Duration::from_millis(80), Duration::from_millis(200), Duration::from_millis(400)];
/// Events that are sealed before others may have the core: a tenth of a millisecond.
const SEALED_AT_ONCE: usize = 32;

/// Does `work` to its end while `other` goes on too, which a disk that is always busy must not hold up. Gives
/// what `other` came to, if it ended meanwhile.
pub(super) async fn beside<T>(
    work: impl Future<Output = ()>,
    mut other: Pin<&mut impl Future<Output = T>>,
) -> Option<T> {
    let (mut work, mut ended) = (pin!(work), None);
    loop {
        tokio::select! {
            () = &mut work => return ended,
            done = &mut other, if ended.is_none() => ended = Some(done),
        }
    }
}

/// The task's side.
pub(in crate::store) struct Writer {
    pub shared: Arc<Shared>,
    pub store: Store,
    pub sealing: Arc<Sealing>,
    pub clock: Arc<dyn Clock>,
}

impl Writer {
    pub async fn run(self, cancel: CancellationToken) {
        let settings = self.shared.settings;
        if self.shared.spool.as_ref().is_some_and(|spool| spool.state().events > 0) || self.log().is_err() {
            // What an earlier process left comes first, and without a log there is only the spool.
            self.keep(if self.shared.spool.is_some() { Keeping::Spool } else { Keeping::Nowhere });
        }
        let mut pulse = Instant::now() + settings.pulse;
        let mut counted = Instant::now() + settings.counted_every;
        let mut looked = Instant::now() + settings.spool_look;
        loop {
            if self.keeping() != Keeping::Database {
                self.be_away(&mut counted, &cancel).await;
                if cancel.is_cancelled() {
                    break;
                }
                continue;
            }
            tokio::select! {
                () = self.shared.wake.notified() => {}
                () = sleep_until(pulse) => {}
                () = cancel.cancelled() => break,
            }
            let now = Instant::now();
            self.tell_counted_when_due(&mut counted);
            let beat = now >= pulse;
            let well = self.write_due(beat).await;
            if well && beat {
                self.number().await;
                if now >= looked {
                    looked = now + settings.spool_look;
                    self.look_after_spool().await;
                }
            }
            if beat {
                pulse = Instant::now() + settings.pulse;
            }
        }
        self.end().await;
    }

    pub(super) fn keeping(&self) -> Keeping {
        self.shared.lock().state.keeping
    }

    pub(super) fn keep(&self, keeping: Keeping) {
        let state = &mut self.shared.lock().state;
        state.keeping = keeping;
        state.away = keeping != Keeping::Database;
    }

    fn log(&self) -> Result<Log, StoreError> {
        self.store.desk().get().map(|desk| desk.log).ok_or(StoreError::NoLog)
    }

    /// Takes nothing more, writes what waits, and counts what can't be written.
    async fn end(&self) {
        self.shared.lock().closed = true;
        self.tell_counted();
        if self.keeping() == Keeping::Database && self.write_due(true).await {
            self.number().await;
        } else {
            // What the database has not taken by now goes to the spool, where there is one.
            self.spool_due(true).await;
        }
        let mut queue = self.shared.lock();
        queue.send_away(Unrecorded::Closed);
        let left = queue.take(usize::MAX, 0).len();
        queue.lose(u64::try_from(left).unwrap_or(u64::MAX));
        if queue.lost_untold > 0 {
            tracing::error!(
                lost = queue.lost_untold,
                "audit events were lost: neither database nor spool took them before the end"
            );
        }
    }

    /// How much one round may take: what is there now, and what was lost. What comes meanwhile is the next
    /// round's, so that whoever goes on asking keeps this task from nothing else.
    fn round(&self) -> usize {
        let queue = self.shared.lock();
        queue.entries.len() + queue.crowd.len() + 1
    }

    /// The next batch of a round, while somebody waits, or a batch is full, or `all` is asked for; and how
    /// many lost events it is to tell of.
    fn batch_due(&self, all: bool, left: &mut usize) -> Option<(Vec<Entry>, u64)> {
        let mut queue = self.shared.lock();
        let full = queue.entries.len() >= self.shared.settings.batch_max;
        let lost = queue.lost_untold > 0;
        let waits = queue.waiting > 0 || !queue.crowd.is_empty() || full;
        if *left == 0 {
            if waits {
                // The next round begins at once.
                self.shared.wake.notify_one();
            }
            return None;
        }
        if !(waits || (all && (lost || !queue.entries.is_empty()))) {
            return None;
        }
        let batch = queue.take(self.shared.settings.batch_max, self.shared.settings.room_for_buffered());
        *left = left.saturating_sub(batch.len().max(1));
        Some((batch, queue.lost_untold))
    }

    /// Writes batches into the database. Says whether it took them.
    async fn write_due(&self, all: bool) -> bool {
        let mut left = self.round();
        while let Some((batch, told)) = self.batch_due(all, &mut left) {
            if !self.write(batch, told).await {
                return false;
            }
        }
        true
    }

    fn sealed(&self, batch: &[Entry], told: u64) -> Vec<Sealed> {
        let sealing = self.sealing();
        let mut events = Vec::with_capacity(batch.len() + 1);
        for entries in batch.chunks(SEALED_AT_ONCE) {
            events.extend(entries.iter().map(|entry| sealing.seal(&entry.event)));
            // Where there is one core for all, a request that came meanwhile goes first.
            std::thread::yield_now();
        }
        if told > 0 {
            events.push(sealing.seal(&self.lost_event(told)));
        }
        events
    }

    /// Writes one batch and answers it.
    async fn write(&self, batch: Vec<Entry>, told: u64) -> bool {
        let events = self.sealed(&batch, told);
        let settings = self.shared.settings;
        let limit = if self.shared.spool.is_some() { settings.spool_after } else { settings.write_timeout };
        let error = match timeout(limit, self.write_with_retries(&events)).await {
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
                return true;
            }
            Ok(Err(error)) => error.to_string(),
            Err(_) => "the database did not answer in time".to_owned(),
        };
        if self.shared.spool.is_some() {
            tracing::error!(error, "the database does not take the record: decisions go to the spool until it is back");
            self.note(error);
            self.keep(Keeping::Spool);
            self.spool_batch(batch, told).await;
        } else {
            tracing::error!(error, "the record can't be written: requests are refused until the database is back");
            self.note(error);
            self.keep(Keeping::Nowhere);
            self.shared.lock().fail(batch, settings.queue_max);
        }
        false
    }

    pub(super) fn note(&self, error: impl Into<Arc<str>>) {
        self.shared.lock().state.last_error = Some(error.into());
    }

    async fn write_with_retries(&self, events: &[Sealed]) -> Result<(), StoreError> {
        let mut pauses = RETRY_PAUSES.iter();
        loop {
            match self.write_once(events).await {
                Ok(_) => return Ok(()),
                Err(error) => match pauses.next() {
                    Some(pause) => sleep(*pause).await,
                    None => return Err(error),
                },
            }
        }
    }

    pub(super) async fn write_once(&self, events: &[Sealed]) -> Result<usize, StoreError> {
        let log = self.log()?;
        let mut tx = self.store.begin().await?;
        let added = tx.record_batch(log, events).await?;
        tx.commit().await?;
        Ok(added)
    }

    /// The sealing of the store's log once that is open: it hears of pseudonyms that are retired.
    pub(super) fn sealing(&self) -> Arc<Sealing> {
        self.store.sealing().unwrap_or_else(|_| Arc::clone(&self.sealing))
    }

    pub(super) async fn merge_once(&self, events: &[Sealed]) -> Result<usize, StoreError> {
        let log = self.log()?;
        let mut tx = self.store.begin().await?;
        let added = tx.record_merge(log, events, self.clock.now()).await?;
        tx.commit().await?;
        Ok(added)
    }

    /// Keeps events elsewhere until the database is back and has all of them.
    async fn be_away(&self, counted: &mut Instant, cancel: &CancellationToken) {
        let settings = self.shared.settings;
        let mut life = pin!(self.wait_for_life());
        let mut pulse = Instant::now() + settings.probe;
        loop {
            let back = tokio::select! {
                () = &mut life => true,
                () = self.shared.wake.notified() => beside(self.spool_due(false), life.as_mut()).await.is_some(),
                () = sleep_until(pulse) => {
                    self.tell_counted_when_due(counted);
                    let back = beside(self.spool_due(true), life.as_mut()).await.is_some();
                    pulse = Instant::now() + settings.probe;
                    back
                }
                () = cancel.cancelled() => return,
            };
            if back {
                if self.merge(cancel).await {
                    tracing::info!("the record is written to the database again");
                    return self.keep(Keeping::Database);
                }
                life.set(self.wait_for_life());
            }
        }
    }

    /// A spool that gave an error, or answered too late, may hold events that were not merged when the
    /// database came back.
    async fn look_after_spool(&self) {
        let in_doubt = |state: SpoolState| state.error.is_some() || state.events > 0;
        let Some(spool) = self.shared.spool.as_ref().filter(|spool| in_doubt(spool.state())) else {
            return;
        };
        // New decisions go behind the old ones only where those can be read back now.
        if spool.probe().await.is_ok() && spool.state().events > 0 && spool.answers_reads().await {
            self.keep(Keeping::Spool);
        }
    }

    /// Returns once the database takes a write again.
    async fn wait_for_life(&self) {
        let settings = self.shared.settings;
        loop {
            sleep(settings.probe).await;
            // An empty batch takes the log's row and commits: all that a full one needs.
            match timeout(settings.write_timeout, self.write_once(&[])).await {
                Ok(Ok(_)) => return,
                Ok(Err(error)) => self.note(error.to_string()),
                Err(_) => self.note("the database did not answer in time"),
            }
        }
    }

    /// Writes batches into the spool. One that gave an error is asked for a sign of life first.
    pub(super) async fn spool_due(&self, all: bool) {
        let Some(spool) = &self.shared.spool else {
            return;
        };
        if self.keeping() == Keeping::Nowhere {
            if let Err(error) = spool.probe().await {
                return self.note(error.to_string());
            }
            tracing::warn!("the spool takes decisions again");
            self.keep(Keeping::Spool);
        }
        let mut left = self.round();
        while let Some((batch, told)) = self.batch_due(all, &mut left) {
            if !self.spool_batch(batch, told).await {
                return;
            }
        }
    }

    /// Writes one batch into the spool and answers it. Says whether the spool does its work.
    async fn spool_batch(&self, batch: Vec<Entry>, told: u64) -> bool {
        let Some(spool) = &self.shared.spool else {
            return false;
        };
        let room = |event: &Event| match event.actor.principal.as_ref().map(Principal::kind) {
            _ if gives_way(event) => Room::GivesWay,
            Some(PrincipalKind::BreakGlass) => Room::Emergency,
            Some(PrincipalKind::User | PrincipalKind::Workload) | None => Room::Identified,
        };
        let mut rooms: Vec<Room> = batch.iter().map(|entry| room(&entry.event)).collect();
        rooms.resize(batch.len() + usize::from(told > 0), Room::Identified);
        let events: Vec<(Sealed, Room)> = self.sealed(&batch, told).into_iter().zip(rooms).collect();
        match spool.append(&events).await {
            Ok(taken) => {
                let now = self.clock.now();
                let mut queue = self.shared.lock();
                if told > 0 && taken.last() == Some(&true) {
                    queue.lost_untold -= told;
                }
                let count = taken.iter().filter(|taken| **taken).count();
                queue.state.spooled += u64::try_from(count).unwrap_or(0);
                queue.state.last_durable = Some(now);
                for (entry, taken) in batch.into_iter().zip(taken) {
                    match (entry.reply, taken) {
                        // Whoever does not wait any more needs no answer.
                        (Some(reply), true) => {
                            let _ = reply.send(Ok(()));
                        }
                        (Some(reply), false) => {
                            queue.state.unrecorded += 1;
                            let _ = reply.send(Err(Unrecorded::Full));
                        }
                        (None, true) => {}
                        (None, false) => queue.lose(1),
                    }
                }
                true
            }
            Err(error) => {
                tracing::error!(%error, "neither database nor spool takes the record: requests are refused");
                self.note(error.to_string());
                self.keep(Keeping::Nowhere);
                self.shared.lock().fail(batch, self.shared.settings.queue_max);
                false
            }
        }
    }

    async fn number(&self) {
        loop {
            let Ok(log) = self.log() else {
                return;
            };
            let now = self.clock.now();
            let work = self.store.number_pending(log, now);
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
            self.note(error);
            return;
        }
    }

    fn tell_counted_when_due(&self, counted: &mut Instant) {
        let now = Instant::now();
        if now >= *counted {
            *counted = now + self.shared.settings.counted_every;
            self.tell_counted();
        }
    }

    fn tell_counted(&self) {
        if self.keeping() == Keeping::Nowhere {
            // The count goes on until it can be told.
            return;
        }
        let now = self.clock.now();
        let mut queue = self.shared.lock();
        let events = queue.refusals.events(now, self.sealing.entropy());
        // A few events each ten seconds: they need not ask whether there is room.
        queue.entries.extend(events.into_iter().map(|event| Entry { event, reply: None, attempts: 0 }));
    }

    fn lost_event(&self, count: u64) -> Event {
        let now = self.clock.now();
        let id = EventId::fresh(now, self.sealing.entropy());
        Event::new(id, now, EventType::RecordLost, Outcome::Failed).with("count", count)
    }
}
