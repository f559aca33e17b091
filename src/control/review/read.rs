//! Reviews as those may see them who may review.

use crate::model::{ReviewId, ServiceName, Timestamp};
use crate::policy::InstallationAction;

use super::super::caller::Caller;
use super::super::desk::Desk;
use super::{Review, ReviewError, uses};

/// Reviews, newest first, and where the next page begins; none for those who may not review.
///
/// # Errors
/// When the database is away.
pub async fn list(
    desk: &Desk,
    caller: &Caller,
    (state, service): (Option<&str>, Option<&ServiceName>),
    before: Option<ReviewId>,
    limit: usize,
    now: Timestamp,
) -> Result<(Vec<Review>, Option<ReviewId>), ReviewError> {
    if !caller.may(desk, InstallationAction::Review, now) {
        return Ok((Vec::new(), None));
    }
    let asked = u32::try_from(limit).unwrap_or(u32::MAX).saturating_add(1);
    let mut found = desk.store.review_list(state, service, before, asked).await?;
    let more = found.len() > limit;
    found.truncate(limit);
    let next = found.last().filter(|_| more).map(|review| review.id);
    let policies = desk.policies.load_full();
    let mut reviews = Vec::with_capacity(found.len());
    for stored in found {
        let rules = desk.store.review_rules(stored.id).await?;
        reviews.push(Review::of(&policies, stored, rules));
    }
    Ok((reviews, next))
}

/// One review, with who uses its rules.
///
/// # Errors
/// When there is none that the caller may know of, or the database is away.
pub async fn fetch(desk: &Desk, caller: &Caller, id: ReviewId, now: Timestamp) -> Result<Review, ReviewError> {
    if !caller.may(desk, InstallationAction::Review, now) {
        return Err(ReviewError::NotFound);
    }
    let stored = desk.store.review_fetch(id).await?.ok_or(ReviewError::NotFound)?;
    let rules = desk.store.review_rules(id).await?;
    let policies = desk.policies.load_full();
    let mut review = Review::of(&policies, stored, rules);
    uses::of_review(desk, &mut review, now).await?;
    Ok(review)
}
