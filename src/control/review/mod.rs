//! Access reviews: the rules of a service are frozen when one begins, and reviewers decide of each whether
//! it stays. A rule that is to go is a finding until it is gone from the policies, which are their owners':
//! nothing here writes them.
//!
//! INVARIANTS: who decides may `review`, and is named where reviewers are. A decision is about the rule as it
//! was when the review began: where the policies say something else by now, it is refused. Nobody decides
//! alone about their own access: not on a rule whose only holder, approver, user or named principal is
//! themself, by whichever account.

mod close;
mod decide;
mod read;
mod start;
pub mod sweep;
mod uses;

use std::fmt;

use crate::audit::{Event, EventType, Outcome};
use crate::model::text::{REASON_CHARS_MAX, one_line};
use crate::model::{Person, Principal, ReviewId, RuleState, ServiceName, Timestamp, Ttl};
use crate::policy::{InstallationAction, PolicySet};
use crate::store::{Doer, RULES_MAX, StoreError, StoredReview, StoredRule};

use super::caller::Caller;
use super::desk::Desk;

pub use close::close;
pub use decide::decide;
pub use read::{fetch, list};
pub use start::{Wish, start};
pub use uses::Use;

/// The shortest and the longest time until a review is due.
pub const DUE: (Ttl, Ttl) = (Ttl::hours(1), Ttl::hours(24 * 366));
/// Named reviewers at most.
pub const REVIEWERS_MAX: usize = 50;
/// The longest name of a reviewer in bytes.
pub const REVIEWER_BYTES_MAX: usize = 320;

/// What became of a rule in the policies since its review began.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RuleNow {
    /// It means the same, whatever it is called.
    Same,
    /// What is called so means something else.
    Changed,
    /// It is not there any more.
    Gone,
}

impl RuleNow {
    /// As shown.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Same => "same",
            Self::Changed => "changed",
            Self::Gone => "gone",
        }
    }

    fn of(policies: &PolicySet, rule: &StoredRule) -> Self {
        if policies.rule(&rule.service, rule.kind, &rule.sha256).is_some() {
            return Self::Same;
        }
        let is_there = policies.has_rule(&rule.service, rule.kind, &rule.name, &rule.sha256);
        if is_there { Self::Changed } else { Self::Gone }
    }
}

/// A rule of a review with what is known of it now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReviewedRule {
    /// The rule, and what was decided.
    pub stored: StoredRule,
    /// What became of it in the policies.
    pub now: RuleNow,
    /// Who uses it; none where that was not asked for.
    pub used: Option<Use>,
}

/// A review with its rules.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Review {
    /// The review.
    pub stored: StoredReview,
    /// Its rules, in their order.
    pub rules: Vec<ReviewedRule>,
    /// Back to when uses were looked for; none where that was not asked for.
    pub used_since: Option<Timestamp>,
}

impl Review {
    /// Rules that nobody decided and that are still there.
    #[must_use]
    pub fn undecided(&self) -> usize {
        let left = |rule: &&ReviewedRule| rule.stored.state == RuleState::Undecided && rule.now != RuleNow::Gone;
        self.rules.iter().filter(left).count()
    }

    fn of(policies: &PolicySet, stored: StoredReview, rules: Vec<StoredRule>) -> Self {
        let now = |stored: StoredRule| ReviewedRule { now: RuleNow::of(policies, &stored), stored, used: None };
        Self { stored, rules: rules.into_iter().map(now).collect(), used_since: None }
    }
}

/// Why something of a review is not done.
#[derive(Debug)]
pub enum ReviewError {
    /// No policy lets the caller review.
    Denied,
    /// There is no such review, or the caller may not know of it.
    NotFound,
    /// There is no such service.
    NoService(ServiceName),
    /// The service has no rule that could be reviewed.
    NoRules(ServiceName),
    /// The service has more rules than one review takes.
    TooMany(usize),
    /// A review of the service is open.
    AlreadyOpen(ReviewId),
    /// The time until it is due is too short or too long.
    Due,
    /// Too many reviewers, or a name that is none.
    Reviewers,
    /// There is no such rule in it.
    NoRule(u32),
    /// The review is over.
    Closed(Timestamp),
    /// Others were named to decide.
    NotReviewer,
    /// The rule is not what it was when the review began.
    Changed(u32),
    /// The rule is gone.
    Gone(u32),
    /// The rule is about the caller alone.
    OwnAccess(&'static str),
    /// There is no reason, or an over-long one.
    Reason,
    /// The database did not do it.
    Store(StoreError),
}

impl fmt::Display for ReviewError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Denied => f.write_str("no policy lets you `review` here"),
            Self::NotFound => f.write_str("there is no such access review"),
            Self::NoService(name) => write!(f, "there is no service `{name}`: `doorward services` lists them"),
            Self::NoRules(name) => write!(f, "the policies of `{name}` have no rule that lets anybody in"),
            Self::TooMany(count) => write!(f, "the service has {count} rules, and a review takes {RULES_MAX} at most"),
            Self::AlreadyOpen(id) => {
                write!(
                    f,
                    "the review {id} of this service is open: decide it, or close it with `doorward review close`"
                )
            }
            Self::Due => write!(f, "a review is due in {} to {}, written `90m`, `14d` or `1d12h`", DUE.0, DUE.1),
            Self::Reviewers => write!(
                f,
                "name at most {REVIEWERS_MAX} reviewers, each by e-mail or account (`<provider>|<subject>`), \
                 without spaces"
            ),
            Self::NoRule(number) => write!(f, "the review has no rule {number}: `doorward review show` lists them"),
            Self::Closed(at) => write!(f, "the review was closed at {at}, and nothing in it is decided any more"),
            Self::NotReviewer => f.write_str("other reviewers are named in this review; they decide"),
            Self::Changed(number) => write!(
                f,
                "rule {number} is not what it was when the review began: the policies were changed; close this review \
                 and start another to decide on the rule as it is"
            ),
            Self::Gone(number) => write!(f, "rule {number} is gone from the policies: there is nothing to decide"),
            Self::OwnAccess(what) => write!(f, "you are the only one {what}: another reviewer decides on this rule"),
            Self::Reason => write!(f, "give a reason of 1 to {REASON_CHARS_MAX} characters that all show"),
            Self::Store(error) => write!(f, "the access review could not be kept: {error}"),
        }
    }
}

impl std::error::Error for ReviewError {}

impl From<StoreError> for ReviewError {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

/// Whether the caller may review.
fn may(desk: &Desk, caller: &Caller, now: Timestamp) -> Result<(), ReviewError> {
    if caller.may(desk, InstallationAction::Review, now) { Ok(()) } else { Err(ReviewError::Denied) }
}

/// A reason as it is kept.
fn reason(text: &str) -> Result<String, ReviewError> {
    one_line(text, REASON_CHARS_MAX).ok_or(ReviewError::Reason)
}

fn doer(caller: &Caller) -> Doer {
    Doer { principal: caller.principal().clone(), email: caller.session().email.clone() }
}

fn person(caller: &Caller) -> Person {
    let session = caller.session();
    Person {
        principal: session.principal.clone(),
        email: session.email.clone(),
        email_verified: session.email_verified,
        name: session.name.clone(),
    }
}

/// Whether a name of a reviewer is that account or its verified address.
fn is_named(name: &str, principal: &Principal, email: Option<&str>) -> bool {
    name == principal.id() || name == principal.to_string() || email.is_some_and(|it| it.eq_ignore_ascii_case(name))
}

/// An event of a review: by whom, of which service, under which policies, and how much is undecided.
fn event(
    desk: &Desk,
    kind: EventType,
    outcome: Outcome,
    review: &Review,
    policies: &PolicySet,
    now: Timestamp,
) -> Event {
    let mut event = Event::new(desk.event_id(now), now, kind, outcome)
        .with("review", review.stored.id.to_string())
        .with("state", review.stored.state.name())
        .with("due_at", review.stored.due_at.to_string())
        .with("undecided", review.undecided());
    event.action = Some(InstallationAction::Review.name().into());
    event.resource = Some(review.stored.id.to_string().into());
    event.service = Some(review.stored.service.clone());
    event.policy_version = Some(policies.version().clone());
    event
}

/// The same about one rule.
fn of_rule(event: Event, rule: &StoredRule) -> Event {
    event
        .with("item", rule.number)
        .with("kind", rule.kind.name())
        .with("name", rule.name.as_str())
        .with("sha256", rule.sha256.as_str())
}
