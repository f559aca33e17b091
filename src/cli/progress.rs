//! How far something long has come: one line on a terminal that is written over, and nothing off one.

use std::io::{self, IsTerminal, Write};
use std::sync::Arc;

use crate::model::{Clock, Timestamp};

use super::context::Context;

/// The line is not written more often than this.
const EVERY_MILLIS: i64 = 200;

/// One line of progress on standard error.
pub struct Progress {
    clock: Arc<dyn Clock>,
    what: &'static str,
    total: u64,
    began: Timestamp,
    told: Option<Timestamp>,
    shown: bool,
}

impl Progress {
    /// Progress of `what` over `total` events; nothing is written where no person looks.
    #[must_use]
    pub fn new(context: &Context, what: &'static str, total: u64) -> Self {
        Self {
            clock: Arc::clone(&context.clock),
            what,
            total,
            began: context.clock.now(),
            told: None,
            shown: io::stderr().is_terminal(),
        }
    }

    /// It has come so far.
    pub fn at(&mut self, done: u64) {
        if !self.shown {
            return;
        }
        let now = self.clock.now();
        if self.told.is_some_and(|told| now.millis() - told.millis() < EVERY_MILLIS) {
            return;
        }
        self.told = Some(now);
        let line = line(self.what, done, self.total, now.millis() - self.began.millis());
        // Where nobody sees it, it is lost, and nothing else is.
        let _ = write!(io::stderr(), "\r\u{1b}[K{line}");
        let _ = io::stderr().flush();
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if self.told.is_some() {
            let _ = write!(io::stderr(), "\r\u{1b}[K");
            let _ = io::stderr().flush();
        }
    }
}

/// `verifying: 420000 of 1000000 events (42 %), 180000/s`
#[must_use]
pub fn line(what: &str, done: u64, total: u64, millis: i64) -> String {
    let share = done.saturating_mul(100).checked_div(total).unwrap_or(100).min(100);
    let rate = done.saturating_mul(1000).checked_div(u64::try_from(millis).unwrap_or(0)).unwrap_or(0);
    format!("{what}: {done} of {total} events ({share} %), {rate}/s")
}
