//! An approved entitlement in time.
//!
//! INVARIANTS: the clock starts at activation; what is over is over for ever; an extension moves the
//! end and nothing else; `expires_at <= now` is over, whatever any table still says.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::access_request::Person;
use super::id::{GrantId, RequestId};
use super::service::{ActionName, EntitlementName, OpenedAction, ServiceName};
use super::time::{Timestamp, Ttl};

/// How a grant ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum GrantEnd {
    /// By itself.
    Expired,
    /// By someone else, or by a rule.
    Revoked,
    /// By its holder.
    Dropped,
}

/// How far a grant has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum GrantState {
    /// It begins at `starts_at`.
    Scheduled,
    /// It waits for a place.
    Queued,
    /// Its holder is a member of the entitlement.
    Active {
        /// Since when.
        from: Timestamp,
        /// The first moment at which it is over.
        until: Timestamp,
    },
    /// It is over.
    Over {
        /// Since when it was active, if it ever was.
        from: Option<Timestamp>,
        /// How long it would have lasted, if it was active.
        until: Option<Timestamp>,
        /// How it ended.
        end: GrantEnd,
        /// When.
        at: Timestamp,
    },
}

/// Why a transition is impossible.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GrantStuck {
    /// It is over, and what is over stays over.
    Over,
    /// It is active already.
    Active,
    /// It is not active yet.
    NotActive,
}

impl GrantState {
    /// As stored and shown.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Scheduled => "scheduled",
            Self::Queued => "queued",
            Self::Active { .. } => "active",
            Self::Over { end: GrantEnd::Expired, .. } => "expired",
            Self::Over { end: GrantEnd::Revoked, .. } => "revoked",
            Self::Over { end: GrantEnd::Dropped, .. } => "dropped",
        }
    }

    /// The state at `now`: an active grant ends by itself.
    #[must_use]
    pub const fn at(self, now: Timestamp) -> Self {
        match self {
            Self::Active { from, until } if until.is_over(now) => {
                Self::Over { from: Some(from), until: Some(until), end: GrantEnd::Expired, at: until }
            }
            state => state,
        }
    }

    /// Whether its holder is a member at `now`.
    #[must_use]
    pub const fn is_active(self, now: Timestamp) -> bool {
        matches!(self.at(now), Self::Active { .. })
    }

    /// Starts the clock.
    ///
    /// # Errors
    /// When it runs already, or ran out.
    pub const fn activated(self, length: Ttl, now: Timestamp) -> Result<Self, GrantStuck> {
        match self.at(now) {
            Self::Scheduled | Self::Queued => Ok(Self::Active { from: now, until: now.plus(length) }),
            Self::Active { .. } => Err(GrantStuck::Active),
            Self::Over { .. } => Err(GrantStuck::Over),
        }
    }

    /// Moves the end by `length`. It never becomes earlier.
    ///
    /// # Errors
    /// When it is not active at `now`.
    pub const fn extended(self, length: Ttl, now: Timestamp) -> Result<Self, GrantStuck> {
        match self.at(now) {
            Self::Active { from, until } => Ok(Self::Active { from, until: until.plus(length) }),
            Self::Scheduled | Self::Queued => Err(GrantStuck::NotActive),
            Self::Over { .. } => Err(GrantStuck::Over),
        }
    }

    /// Ends it at `now`.
    ///
    /// # Errors
    /// When it is over already.
    pub const fn ended(self, end: GrantEnd, now: Timestamp) -> Result<Self, GrantStuck> {
        match self.at(now) {
            Self::Scheduled | Self::Queued => Ok(Self::Over { from: None, until: None, end, at: now }),
            Self::Active { from, until } => Ok(Self::Over { from: Some(from), until: Some(until), end, at: now }),
            Self::Over { .. } => Err(GrantStuck::Over),
        }
    }

    /// Since when it is or was active.
    #[must_use]
    pub const fn active_at(self) -> Option<Timestamp> {
        match self {
            Self::Scheduled | Self::Queued => None,
            Self::Active { from, .. } => Some(from),
            Self::Over { from, .. } => from,
        }
    }

    /// The end that its clock has or had.
    #[must_use]
    pub const fn expires_at(self) -> Option<Timestamp> {
        match self {
            Self::Scheduled | Self::Queued => None,
            Self::Active { until, .. } => Some(until),
            Self::Over { until, .. } => until,
        }
    }

    /// When it ended.
    #[must_use]
    pub const fn ended_at(self) -> Option<Timestamp> {
        match self {
            Self::Over { at, .. } => Some(at),
            Self::Scheduled | Self::Queued | Self::Active { .. } => None,
        }
    }
}

/// A grant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Grant {
    /// Its id.
    pub id: GrantId,
    /// The request that it came from.
    pub request: RequestId,
    /// What is granted.
    pub entitlement: EntitlementName,
    /// To whom.
    pub holder: Person,
    /// What the request said beyond a reason.
    pub params: BTreeMap<String, String>,
    /// The actions that it opened when it was approved.
    pub actions: Vec<OpenedAction>,
    /// Whether approvals were skipped.
    pub emergency: bool,
    /// How many people have reviewed it since.
    pub reviews: u32,
    /// When it was approved.
    pub created_at: Timestamp,
    /// When it may begin.
    pub starts_at: Timestamp,
    /// How long it lasts from its activation.
    pub length: Ttl,
    /// How far it has come, as stored; ask [`Grant::state_at`].
    pub state: GrantState,
    /// Why it ended early, in words.
    pub end_reason: Option<String>,
    /// It ends when it was not used for so long.
    pub idle: Option<Ttl>,
    /// When it was last used, as far as is known; kept only where it ends for want of use.
    pub used_at: Option<Timestamp>,
}

impl Grant {
    /// What was approved.
    #[must_use]
    pub const fn approved(&self) -> Approved<'_> {
        Approved { entitlement: &self.entitlement, actions: self.actions.as_slice(), params: &self.params }
    }

    /// When it ends for want of use, if nobody uses it before.
    #[must_use]
    pub fn idle_ends_at(&self) -> Option<Timestamp> {
        let (GrantState::Active { from, .. }, Some(idle)) = (self.state, self.idle) else { return None };
        Some(self.used_at.map_or(from, |used| used.max(from)).plus(idle))
    }

    /// How far it has come at `now`: it ends by itself at its end, and for want of use before.
    #[must_use]
    pub fn state_at(&self, now: Timestamp) -> GrantState {
        match (self.state, self.idle_ends_at()) {
            (GrantState::Active { from, until }, Some(at)) if at < until && at.is_over(now) => {
                GrantState::Over { from: Some(from), until: Some(until), end: GrantEnd::Expired, at }
            }
            (state, _) => state.at(now),
        }
    }
}

/// What was approved of an entitlement, or is to be.
#[derive(Debug, Clone, Copy)]
pub struct Approved<'a> {
    /// Of which.
    pub entitlement: &'a EntitlementName,
    /// The actions that it opens.
    pub actions: &'a [OpenedAction],
    /// What was asked for beyond them.
    pub params: &'a BTreeMap<String, String>,
}

impl Approved<'_> {
    /// Whether it is good for this action of any service, with these parameters of its route, whatever
    /// policies open by the entitlement since. Where a parameter of the route has the name of one that
    /// was approved, its value is that one: approvers say yes to one thing, not to all that are like it.
    #[must_use]
    pub fn covers(self, service: &ServiceName, action: &ActionName, params: &[(Arc<str>, String)]) -> bool {
        let home = self.entitlement.service();
        self.actions.iter().any(|approved| approved.is(home, service, action))
            && params.iter().all(|(name, value)| self.params.get(&**name).is_none_or(|approved| approved == value))
    }
}
