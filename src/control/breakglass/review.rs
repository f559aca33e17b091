//! The review of an emergency, after it is over: by two people, neither of them who opened it.

use std::fmt;

use crate::audit::{Event, EventType, Outcome};
use crate::identity::breakglass::InForce;
use crate::model::breakglass::is_same_name;
use crate::model::text::one_line;
use crate::model::{GrantId, Principal, Timestamp};
use crate::policy::{InstallationAction, PolicySet};
use crate::store::{Recorded, StoreError};

use super::super::caller::Caller;
use super::super::desk::Desk;
use super::{Emergency, EmergencyError, EmergencyState, Review, fetch, reviews_of};

/// The longest finding in characters.
pub const FINDING_CHARS_MAX: usize = 2000;

/// Why a review is not taken.
#[derive(Debug)]
pub enum ReviewError {
    /// No policy lets the caller review.
    Denied,
    /// There is none of that id.
    NotFound,
    /// It is still open.
    Open { id: String, until: Timestamp },
    /// The caller opened it.
    Opener,
    /// The caller, or another account of theirs, reviewed it before.
    Again,
    /// There is no finding, or an over-long one.
    Finding,
    /// The database did not do it.
    Store(StoreError),
}

impl fmt::Display for ReviewError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Denied => f.write_str("no policy lets you `review` here"),
            Self::NotFound => f.write_str("there is no such opening or emergency grant"),
            Self::Open { id, until } => {
                // What is under an id of the record is an opening or a grant.
                let verb = if GrantId::parse(id).is_ok() { "revoke" } else { "breakglass close" };
                write!(
                    f,
                    "it is open until {until}: it is reviewed when it is over; `doorward {verb} {id}` ends it now"
                )
            }
            Self::Opener => f.write_str("who opened does not review it; two others do"),
            Self::Again => f.write_str("you have reviewed it; another person must"),
            Self::Finding => write!(f, "a finding has 1 to {FINDING_CHARS_MAX} characters that all show"),
            Self::Store(error) => write!(f, "the review could not be kept: {error}"),
        }
    }
}

impl std::error::Error for ReviewError {}

impl From<StoreError> for ReviewError {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

impl From<EmergencyError> for ReviewError {
    fn from(error: EmergencyError) -> Self {
        match error {
            EmergencyError::NotFound => Self::NotFound,
            EmergencyError::Store(error) => Self::Store(error),
        }
    }
}

/// Adds the caller's review.
///
/// # Errors
/// When the caller may not, or it can't be kept.
pub async fn review(
    desk: &Desk,
    caller: &Caller,
    id: &str,
    finding: &str,
    now: Timestamp,
) -> Result<Emergency, ReviewError> {
    if !caller.may(desk, InstallationAction::Review, now) {
        return Err(ReviewError::Denied);
    }
    let finding = one_line(finding, FINDING_CHARS_MAX).ok_or(ReviewError::Finding)?;
    let emergency = fetch(desk, caller, id, now).await?;
    if emergency.state == EmergencyState::Active {
        return Err(ReviewError::Open { id: emergency.id, until: emergency.expires });
    }
    let policies = desk.policies.load_full();
    let in_force = desk.directory.emergency.in_force();
    if is_opener(&policies, in_force.as_deref(), &emergency, caller) {
        return Err(ReviewError::Opener);
    }
    let mut tx = desk.store.begin().await?;
    // ORDER: from here on nobody else reviews, so what is read stays true until the commit.
    tx.review_turn().await?;
    let is_of_it = |event: &Recorded| event.text("/data/id") == Some(id);
    let events = tx.emergency_events(EventType::BreakGlassReviewed, is_of_it).await?;
    let before = reviews_of(&events, emergency.opened_at);
    if before.iter().any(|review| is_reviewer(&policies, review, caller)) {
        return Err(ReviewError::Again);
    }
    let mut event = Event::new(desk.event_id(now), now, EventType::BreakGlassReviewed, Outcome::Success)
        .with("id", id)
        .with("finding", finding.as_str());
    event.actor = caller.actor();
    event.action = Some(InstallationAction::Review.name().into());
    event.resource = Some(id.into());
    if let Ok(grant) = GrantId::parse(id) {
        event.grant = Some(grant);
        tx.grant_reviewed(grant, u32::try_from(before.len() + 1).unwrap_or(u32::MAX)).await?;
    }
    tx.event_append(&event).await?;
    tx.commit().await?;
    let session = caller.session();
    let mut reviewed = emergency;
    reviewed.reviews = before;
    reviewed.reviews.push(Review { by: session.principal.clone(), email: session.email.clone(), finding, time: now });
    if let (true, Ok(id)) = (reviewed.is_reviewed(), crate::model::BreakGlassId::parse(id)) {
        desk.directory.emergency.reviewed(id);
    }
    Ok(reviewed)
}

fn verified(caller: &Caller) -> Option<&str> {
    let session = caller.session();
    session.email.as_deref().filter(|_| session.email_verified)
}

/// Whether the caller is who opened: by account, or by any of the names that an opener may have given.
/// This only ever refuses.
fn is_opener(policies: &PolicySet, in_force: Option<&InForce>, emergency: &Emergency, caller: &Caller) -> bool {
    let session = caller.session();
    if let Some((holder, email)) = &emergency.holder {
        return policies.people().are_one((holder, email.as_deref()), (&session.principal, verified(caller)));
    }
    let email = session.email.as_deref();
    let people = policies.people();
    let own = [
        Some(session.principal.subject()),
        session.name.as_deref(),
        email,
        email.and_then(|email| email.split('@').next()),
        people.name_of(&session.principal),
    ];
    // Whoever has two accounts opened by the name of either.
    let others = people.linked(&session.principal).map(Principal::subject);
    let now_called = in_force.map(|it| it.rules.custodians.names_of(&emergency.opener)).unwrap_or_default();
    let mut openers = std::iter::once(&emergency.opener).chain(&emergency.opener_names).chain(&now_called);
    let callers: Vec<&str> = own.into_iter().flatten().chain(others).collect();
    openers.any(|opener| callers.iter().any(|name| is_same_name(name, opener)))
}

fn is_reviewer(policies: &PolicySet, review: &Review, caller: &Caller) -> bool {
    let session = caller.session();
    policies.people().are_one((&review.by, review.email.as_deref()), (&session.principal, verified(caller)))
}
