//! The time that a node goes by, and whether anything new may be granted by it: the state of
//! `model/clock_watch.rs` for all threads of the process.
//!
//! INVARIANT: asking for the time never waits: it reads both clocks and one number. Whoever grants
//! something asks [`ClockGuard::check`] first, which looks at both clocks itself, so that there is no
//! moment after a step in which something is granted.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::identity::directory::Directory;
use crate::model::{Clock, ClockDoubt, ClockStep, ClockWatch, Timestamp, Ttl};
use crate::store::{Store, StoreError};

/// Steps that wait to be told at most; of more the first ones.
const STEPS_MAX: usize = 32;
/// An answer that took longer says too little of what the time is now.
const ANSWER_MAX: Duration = Duration::from_secs(2);

/// A clock that does not run back.
pub struct ClockGuard {
    clock: Arc<dyn Clock>,
    /// Running time and this are the earliest that it may be.
    offset: AtomicI64,
    seen: Mutex<Seen>,
}

struct Seen {
    watch: ClockWatch,
    untold: VecDeque<ClockStep>,
}

impl ClockGuard {
    /// Goes by `clock`, and believes it for now.
    #[must_use]
    pub fn new(clock: Arc<dyn Clock>) -> Self {
        let watch = ClockWatch::new(clock.now(), clock.running());
        let offset = AtomicI64::new(watch.offset());
        Self { clock, offset, seen: Mutex::new(Seen { watch, untold: VecDeque::new() }) }
    }

    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Looks at both clocks.
    fn look(&self) -> MutexGuard<'_, Seen> {
        let mut seen = self.seen();
        let step = seen.watch.look(self.clock.now(), self.clock.running());
        self.offset.store(seen.watch.offset(), Ordering::Release);
        keep(&mut seen.untold, step);
        seen
    }

    /// Whether something new may be granted by this clock at this moment.
    ///
    /// # Errors
    /// Why not.
    pub fn check(&self) -> Result<(), ClockDoubt> {
        self.look().watch.doubt().map_or(Ok(()), Err)
    }

    /// Whether the clock stepped forward and is not believed yet, or is ahead of the database's: what is
    /// over by it is over here, and is not to be written down as over for all.
    #[must_use]
    pub fn may_be_ahead(&self) -> bool {
        self.look().watch.may_be_ahead()
    }

    /// Holds the clock of a node that begins at `now` against what is on record: the newest event of all
    /// nodes says until when nothing new is granted, the newest of this node how much earlier the grants
    /// of before end. Where an operator says that clocks are right since some time, nothing that is
    /// recorded later keeps the node from granting.
    ///
    /// # Errors
    /// When the database is away.
    pub async fn begin(
        &self,
        store: &Store,
        directory: &Directory,
        right_since: Option<Timestamp>,
        now: Timestamp,
    ) -> Result<(), StoreError> {
        let (latest, here) = store.log_latest().await?;
        if let Some(latest) = latest.map(|latest| right_since.map_or(latest, |since| since.min(latest))) {
            let mut seen = self.look();
            let step = seen.watch.hold_against_record(latest);
            keep(&mut seen.untold, step);
        }
        if let Some(here) = here {
            directory.began_behind(here, now);
        }
        Ok(())
    }

    /// Holds the time that this node goes by against the clock of its database, where that has one of its
    /// own: at a start, since a clock that was wrong before it does not step, and again while it runs. Gives
    /// whether that was settled: an answer that took too long proves nothing.
    ///
    /// # Errors
    /// When the database is away; what was known before holds.
    pub async fn compare(&self, store: &Store) -> Result<bool, StoreError> {
        let asked = self.clock.running();
        let Some(answered) = store.clock_fetch().await? else { return Ok(true) };
        let took = self.clock.running().saturating_sub(asked);
        if took > ANSWER_MAX {
            tracing::debug!(?took, "the database was too slow to hold the clock against its own");
            return Ok(false);
        }
        // It read its clock at some moment in between.
        let half = Ttl::millis(u32::try_from(took.as_millis()).unwrap_or(u32::MAX) / 2);
        let mut seen = self.look();
        let step = seen.watch.hold_against_database(answered.plus(half), half);
        keep(&mut seen.untold, step);
        Ok(true)
    }

    /// Steps that were seen and not taken yet, the oldest first.
    #[must_use]
    pub fn take_steps(&self) -> Vec<ClockStep> {
        self.look().untold.drain(..).collect()
    }
}

fn keep(untold: &mut VecDeque<ClockStep>, step: Option<ClockStep>) {
    if let Some(step) = step.filter(|_| untold.len() < STEPS_MAX) {
        untold.push_back(step);
    }
}

impl Clock for ClockGuard {
    fn now(&self) -> Timestamp {
        let running = i64::try_from(self.clock.running().as_millis()).unwrap_or(i64::MAX);
        let earliest = running.saturating_add(self.offset.load(Ordering::Acquire));
        self.clock.now().max(Timestamp::from_millis(earliest))
    }

    fn running(&self) -> Duration {
        self.clock.running()
    }
}
