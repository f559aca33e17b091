//! Hashes of leaves that this process has just committed: its tree takes them from here and need not
//! read every event back.
//!
//! What is not here is read from the database: after a start, when a commit's answer was lost, or for
//! events that were numbered otherwise.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::audit::merkle::Hash;

/// Hashes that are kept at most: 512 KiB.
const KEPT_MAX: usize = 16_384;

/// Hashes of leaves with consecutive numbers.
#[derive(Debug, Default)]
pub(in crate::store) struct FreshLeaves(Mutex<Run>);

#[derive(Debug, Default)]
struct Run {
    first: i64,
    hashes: VecDeque<Hash>,
}

impl FreshLeaves {
    /// Adds what was committed from number `first` on. What does not follow what is there replaces it,
    /// and so does what would be too much.
    pub fn push(&self, first: i64, hashes: Vec<Hash>) {
        let mut run = self.lock();
        let next = run.first + i64::try_from(run.hashes.len()).unwrap_or(0);
        if next == first && run.hashes.len() + hashes.len() <= KEPT_MAX {
            run.hashes.extend(hashes);
        } else {
            *run = Run { first, hashes: hashes.into() };
        }
    }

    /// Takes those from number `from` on, `most` at a time; earlier ones are forgotten.
    pub fn take(&self, from: i64, most: usize) -> Vec<Hash> {
        let mut run = self.lock();
        let Ok(before) = usize::try_from(from - run.first) else {
            // There is a gap before them.
            return Vec::new();
        };
        let before = before.min(run.hashes.len());
        run.hashes.drain(..before);
        let count = most.min(run.hashes.len());
        let taken: Vec<Hash> = run.hashes.drain(..count).collect();
        run.first = run.first.max(from) + i64::try_from(taken.len()).unwrap_or(0);
        taken
    }

    fn lock(&self) -> MutexGuard<'_, Run> {
        // A panic while it was held can have left a run that is shorter, never a wrong one.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
