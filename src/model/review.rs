//! An access review: the rules of one service as they were when it began, each kept or to be removed.
//!
//! INVARIANT: a review that is closed is not opened again, and nothing in it is decided any more. A rule
//! that is to go stays so until it is gone; one that is gone and comes back is to go again.

use super::access_request::Person;
use super::time::Timestamp;

/// How far a review is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReviewState {
    /// Its rules are decided.
    Open,
    /// It is over.
    Closed {
        /// Since when.
        at: Timestamp,
    },
}

/// The review is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReviewOver {
    /// Since when.
    pub at: Timestamp,
}

impl ReviewState {
    /// As stored and shown.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Closed { .. } => "closed",
        }
    }

    /// What becomes of it when it is closed at `now`.
    ///
    /// # Errors
    /// When it is over already.
    pub const fn closed(self, now: Timestamp) -> Result<Self, ReviewOver> {
        match self {
            Self::Open => Ok(Self::Closed { at: now }),
            Self::Closed { at } => Err(ReviewOver { at }),
        }
    }
}

/// What kind of rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum RuleKind {
    /// Something that may be asked for: who may ask, who approves, what it opens.
    Entitlement,
    /// A permit that needs no grant.
    Permit,
}

impl RuleKind {
    /// As stored and shown.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Entitlement => "entitlement",
            Self::Permit => "permit",
        }
    }

    /// The kind of that name.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        [Self::Entitlement, Self::Permit].into_iter().find(|kind| kind.name() == text)
    }
}

/// What a reviewer wants of a rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Choice {
    /// It stays.
    Keep,
    /// It is to go.
    Remove,
}

impl Choice {
    /// As stored and shown.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Keep => "keep",
            Self::Remove => "remove",
        }
    }

    /// The choice of that name.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        [Self::Keep, Self::Remove].into_iter().find(|choice| choice.name() == text)
    }
}

/// A reviewer's decision about one rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decision {
    /// Who.
    pub by: Person,
    /// Why.
    pub reason: String,
    /// When.
    pub at: Timestamp,
}

/// How far one rule of a review is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RuleState {
    /// Nobody has decided.
    Undecided,
    /// It stays.
    Kept(Decision),
    /// It is to go, and is still in the policies.
    ToRemove(Decision),
    /// It was to go, and is gone.
    Removed {
        /// The decision.
        decision: Decision,
        /// When it was seen to be gone.
        at: Timestamp,
    },
}

impl RuleState {
    /// As stored and shown.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Undecided => "undecided",
            Self::Kept(_) => "keep",
            Self::ToRemove(_) => "remove",
            Self::Removed { .. } => "removed",
        }
    }

    /// The decision, where there is one.
    #[must_use]
    pub const fn decision(&self) -> Option<(Choice, &Decision)> {
        match self {
            Self::Undecided => None,
            Self::Kept(decision) => Some((Choice::Keep, decision)),
            Self::ToRemove(decision) | Self::Removed { decision, .. } => Some((Choice::Remove, decision)),
        }
    }

    /// What it becomes by a decision; an earlier one gives way. A rule that is gone needs none any more.
    ///
    /// # Errors
    /// The state as it is, when the rule is gone.
    pub fn decided(self, choice: Choice, decision: Decision) -> Result<Self, Self> {
        match (self, choice) {
            (gone @ Self::Removed { .. }, _) => Err(gone),
            (Self::Undecided | Self::Kept(_) | Self::ToRemove(_), Choice::Keep) => Ok(Self::Kept(decision)),
            (Self::Undecided | Self::Kept(_) | Self::ToRemove(_), Choice::Remove) => Ok(Self::ToRemove(decision)),
        }
    }

    /// What it becomes by a look into the policies of `now`: nothing, where that changes nothing.
    #[must_use]
    pub fn seen(&self, is_there: bool, now: Timestamp) -> Option<Self> {
        match (self, is_there) {
            (Self::ToRemove(decision), false) => Some(Self::Removed { decision: decision.clone(), at: now }),
            (Self::Removed { decision, .. }, true) => Some(Self::ToRemove(decision.clone())),
            (Self::Undecided | Self::Kept(_) | Self::ToRemove(_) | Self::Removed { .. }, _) => None,
        }
    }
}
