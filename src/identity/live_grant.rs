//! A grant as the data path knows it: until when it is in force, and when it was used.
//!
//! INVARIANT: the data path only reads and raises numbers here; whoever tells the database of uses looks
//! at them beside it (`control/access/idle.rs`).

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use tokio_util::sync::CancellationToken;

use crate::model::{ActionName, Approved, EntitlementName, GrantId, OpenedAction, ServiceName, Timestamp, Ttl};

/// A grant as the data path asks it.
#[derive(Debug, Clone)]
pub struct LiveGrant {
    /// Its id.
    pub id: GrantId,
    /// What its holder is a member of.
    pub entitlement: EntitlementName,
    /// The actions that were approved.
    pub actions: Arc<[OpenedAction]>,
    /// What was asked for and approved beyond them: name → value.
    pub params: Arc<BTreeMap<String, String>>,
    /// When it became active.
    pub active_at: Timestamp,
    /// When it ends by itself.
    pub expires_at: Timestamp,
    /// Cancelled when it is ended early, or was once seen to be over.
    pub over: CancellationToken,
    /// Where it ends for want of use.
    pub idle: Option<Idle>,
}

/// How long a grant may go unused, and when it was used.
#[derive(Debug, Clone)]
pub struct Idle {
    length: Ttl,
    uses: Arc<Uses>,
}

/// The last use of a grant, in milliseconds.
#[derive(Debug, Default)]
pub struct Uses {
    /// That is known here.
    last: AtomicI64,
    /// That the database was told of, or told.
    told: AtomicI64,
}

impl Idle {
    /// Entered as committed: last used then, as far as the database knows.
    pub(super) fn entered(length: Ttl, uses: Arc<Uses>, used: Timestamp) -> Self {
        uses.told(used);
        Self { length, uses }
    }

    /// A use that the database is to be told of by now.
    pub(super) fn untold(&self, id: GrantId, now: Timestamp) -> Option<UntoldUse> {
        let (last, told) = (self.uses.last.load(Ordering::Relaxed), self.uses.told.load(Ordering::Relaxed));
        let due = now.millis().saturating_sub(told) >= self.length.as_millis() / TOLD_PART;
        let at = Timestamp::from_millis(last);
        (last > told && due).then(|| UntoldUse { id, at, uses: Arc::clone(&self.uses) })
    }
}

impl Uses {
    /// The database knows of a use at that time.
    pub(super) fn told(&self, at: Timestamp) {
        self.note(at);
        self.told.fetch_max(at.millis(), Ordering::Relaxed);
    }

    /// It is used at `now`.
    pub fn note(&self, now: Timestamp) {
        self.last.fetch_max(now.millis(), Ordering::Relaxed);
    }
}

/// A use that the database has not been told of.
#[derive(Debug)]
pub struct UntoldUse {
    /// Of which grant.
    pub id: GrantId,
    /// When.
    pub at: Timestamp,
    uses: Arc<Uses>,
}

impl UntoldUse {
    /// The database was told of it.
    pub fn told(&self) {
        self.uses.told.fetch_max(self.at.millis(), Ordering::Relaxed);
    }
}

/// Each use is told within this part of the time that a grant may go unused: whoever ends it for want
/// of use then knows of all that count.
const TOLD_PART: i64 = 8;

impl LiveGrant {
    /// Whether it is in force at `now`. Once it was over here, a clock that goes back does not put it in
    /// force again.
    #[must_use]
    pub fn is_live(&self, now: Timestamp) -> bool {
        if self.expires_at.is_over(now) {
            self.over.cancel();
        }
        !self.over.is_cancelled() && !self.is_unused(now)
    }

    /// Whether it was not used for as long as it may be, as far as this node knows. Another may know of
    /// a use, so it is not over for good before that is written down.
    #[must_use]
    pub fn is_unused(&self, now: Timestamp) -> bool {
        self.idle_ends_at().is_some_and(|end| end.is_over(now))
    }

    /// When it ends for want of use.
    #[must_use]
    pub fn idle_ends_at(&self) -> Option<Timestamp> {
        let idle = self.idle.as_ref()?;
        Some(Timestamp::from_millis(idle.uses.last.load(Ordering::Relaxed)).plus(idle.length))
    }

    /// Where its uses are noted, if that matters.
    #[must_use]
    pub fn uses(&self) -> Option<&Arc<Uses>> {
        self.idle.as_ref().map(|idle| &idle.uses)
    }

    /// When it was last used, where that matters.
    #[must_use]
    pub fn used_at(&self) -> Option<Timestamp> {
        Some(Timestamp::from_millis(self.uses()?.last.load(Ordering::Relaxed)))
    }

    /// Whether it counts for this action of any service, with these parameters of its route: as approved.
    #[must_use]
    pub fn counts_for(&self, service: &ServiceName, action: &ActionName, params: &[(Arc<str>, String)]) -> bool {
        let approved = Approved { entitlement: &self.entitlement, actions: &self.actions, params: &self.params };
        approved.covers(service, action, params)
    }
}
