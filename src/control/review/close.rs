//! A review is closed: what is undecided in it stays so, and stands in every report.

use serde_json::json;

use crate::audit::{EventType, Outcome};
use crate::model::{ReviewId, RuleState, Timestamp};

use super::super::caller::Caller;
use super::super::desk::Desk;
use super::{Review, ReviewError, doer, event, may};

/// Closes a review.
///
/// # Errors
/// When the caller may not, there is none, or it is over already.
pub async fn close(desk: &Desk, caller: &Caller, id: ReviewId, now: Timestamp) -> Result<Review, ReviewError> {
    may(desk, caller, now)?;
    let stored = desk.store.review_fetch(id).await?.ok_or(ReviewError::NotFound)?;
    let next = stored.state.closed(now).map_err(|over| ReviewError::Closed(over.at))?;
    let policies = desk.policies.load_full();
    let mut tx = desk.store.begin().await?;
    let Some(closed) = tx.review_close(id, &doer(caller), now).await? else { return Err(ReviewError::Closed(now)) };
    let review = Review::of(&policies, closed, tx.review_rules(id).await?);
    let count = |wanted: fn(&RuleState) -> bool| review.rules.iter().filter(|rule| wanted(&rule.stored.state)).count();
    let mut event = event(desk, EventType::ReviewClosed, Outcome::Success, &review, &policies, now)
        .with("before", json!({ "state": stored.state.name() }))
        .with("after", json!({ "state": next.name() }))
        .with("kept", count(|state| matches!(state, RuleState::Kept(_))))
        .with("to_remove", count(|state| matches!(state, RuleState::ToRemove(_) | RuleState::Removed { .. })));
    event.actor = caller.actor();
    tx.event_append(&event).await?;
    tx.commit().await?;
    Ok(review)
}
