//! When a browser's session was last used, as far as this node knows: what its idle end is judged by.
//!
//! A use is noted in memory at each request and written every now and then ([`step`]), so that other
//! nodes and the sweep learn of it. INVARIANT: a session is never taken to be in use longer than it was;
//! a node that has not served it lately may take it to be idle one step early, never late.

use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};

use crate::model::{Timestamp, Ttl};

/// The longest between two writes, and the shortest.
const STEP_MAX: i64 = 60_000;
const STEP_MIN: i64 = 1000;
/// How many writes an idle time is made of at least.
const STEPS: i64 = 20;

/// How often the use of a session is written where sessions end after being idle for so long.
#[must_use]
pub fn step(idle: Ttl) -> Ttl {
    let millis = (idle.as_millis() / STEPS).clamp(STEP_MIN, STEP_MAX);
    Ttl::millis(u32::try_from(millis).unwrap_or(u32::MAX))
}

/// Uses of one session.
#[derive(Debug, Default)]
pub struct SessionUse {
    seen: AtomicI64,
    written: AtomicI64,
    moved: AtomicBool,
}

impl SessionUse {
    /// The session was used then, as another node has written.
    pub fn learn(&self, at: Timestamp) {
        self.seen.fetch_max(at.millis(), Ordering::AcqRel);
        self.written.fetch_max(at.millis(), Ordering::AcqRel);
    }

    /// Whether it has not been used for `idle`, as far as this node knows.
    #[must_use]
    pub fn is_idle(&self, created_at: Timestamp, idle: Ttl, now: Timestamp) -> bool {
        let last = self.seen.load(Ordering::Acquire).max(created_at.millis());
        Timestamp::from_millis(last).plus(idle).is_over(now)
    }

    /// It is used at `now`; true where that is to be written, which is for one caller to do.
    #[must_use]
    pub fn note(&self, step: Ttl, now: Timestamp) -> bool {
        self.seen.fetch_max(now.millis(), Ordering::AcqRel);
        let written = self.written.load(Ordering::Acquire);
        Timestamp::from_millis(written).plus(step).is_over(now)
            && self.written.compare_exchange(written, now.millis(), Ordering::AcqRel, Ordering::Acquire).is_ok()
    }

    /// Its person has sent something over an open stream: noted by the next round of the sweep, since
    /// who carries bytes asks no clock.
    pub fn stream_moved(&self) {
        self.moved.store(true, Ordering::Release);
    }

    /// Whether something was sent over an open stream since this was last asked.
    #[must_use]
    pub fn has_moved(&self) -> bool {
        self.moved.swap(false, Ordering::AcqRel)
    }
}
