//! A reviewer decides on one rule, or decides otherwise than before.

use serde_json::{Value, json};

use crate::audit::{EventType, Outcome};
use crate::model::{Choice, Decision, ReviewId, ReviewState, RuleKind, RuleState, Timestamp};
use crate::policy::PolicySet;
use crate::store::{StoredReview, StoredRule};

use super::super::access::human::{Human, Shelf, human_of};
use super::super::caller::Caller;
use super::super::desk::Desk;
use super::{Review, ReviewError, RuleNow, event, is_named, may, of_rule, person, reason, uses};

/// Keeps a decision, with its reason.
///
/// # Errors
/// When the caller may not decide on it, the review is over, or the rule is not what it was.
pub async fn decide(
    desk: &Desk,
    caller: &Caller,
    (id, number): (ReviewId, u32),
    choice: Choice,
    why: &str,
    now: Timestamp,
) -> Result<Review, ReviewError> {
    may(desk, caller, now)?;
    let why = reason(why)?;
    let stored = desk.store.review_fetch(id).await?.ok_or(ReviewError::NotFound)?;
    if let ReviewState::Closed { at } = stored.state {
        return Err(ReviewError::Closed(at));
    }
    let policies = desk.policies.load_full();
    let human = human_of(Shelf::Store(&desk.store), &policies, &person(caller), now).await?;
    is_reviewer(&stored, caller)?;
    let rules = desk.store.review_rules(id).await?;
    let rule = rules.iter().find(|rule| rule.number == number).ok_or(ReviewError::NoRule(number))?;
    match RuleNow::of(&policies, rule) {
        RuleNow::Same => {}
        RuleNow::Changed => return Err(ReviewError::Changed(number)),
        RuleNow::Gone => return Err(ReviewError::Gone(number)),
    }
    if let Some(what) = own_access(desk, &policies, &human, rule, now).await? {
        return Err(ReviewError::OwnAccess(what));
    }
    let mut tx = desk.store.begin().await?;
    // ORDER: from here on nobody else decides in this review, so what is counted stays true until the commit.
    let Some(stored) = tx.review_hold(id).await? else { return Err(ReviewError::Closed(now)) };
    let mut rules = tx.review_rules(id).await?;
    let rule = rules.iter_mut().find(|rule| rule.number == number).ok_or(ReviewError::NoRule(number))?;
    let decision = Decision { by: person(caller), reason: why.to_owned(), at: now };
    let before = told(&rule.state);
    rule.state = rule.state.clone().decided(choice, decision.clone()).map_err(|_| ReviewError::Gone(number))?;
    if !tx.review_rule_decide((id, number), choice, &decision).await? {
        return Err(ReviewError::Gone(number));
    }
    let decided = rule.clone();
    let review = Review::of(&policies, stored, rules);
    let event = event(desk, EventType::ReviewDecided, Outcome::Success, &review, &policies, now);
    let mut event = of_rule(event, &decided).with("before", before).with("after", told(&decided.state));
    event.actor = caller.actor();
    tx.event_append(&event).await?;
    tx.commit().await?;
    Ok(review)
}

fn told(state: &RuleState) -> Value {
    match state.decision() {
        None => Value::Null,
        Some((choice, decision)) => json!({ "decision": choice.name(), "reason": decision.reason }),
    }
}

/// Where reviewers are named, only they decide: by their account or by an address that was verified.
fn is_reviewer(review: &StoredReview, caller: &Caller) -> Result<(), ReviewError> {
    let session = caller.session();
    let email = session.email.as_deref().filter(|_| session.email_verified);
    let named = review.reviewers.iter().any(|name| is_named(name, &session.principal, email));
    if named || review.reviewers.is_empty() { Ok(()) } else { Err(ReviewError::NotReviewer) }
}

/// Whether the rule is about this human alone, and how.
async fn own_access(
    desk: &Desk,
    policies: &PolicySet,
    human: &Human,
    rule: &StoredRule,
    now: Timestamp,
) -> Result<Option<&'static str>, ReviewError> {
    let defined = policies.rule(&rule.service, rule.kind, &rule.sha256);
    if defined.is_some_and(|rule| human.accounts().any(|account| rule.is_only_for(&account.to_string()))) {
        return Ok(Some("whom it names"));
    }
    let about = uses::about(desk, rule, now).await?;
    let alone = |people: &std::collections::BTreeSet<crate::model::Principal>| {
        !people.is_empty() && people.iter().all(|account| human.has(account))
    };
    Ok(match rule.kind {
        RuleKind::Entitlement if alone(&about.people) => Some("who held it in the last 90 days"),
        RuleKind::Entitlement if alone(&about.approvers) => Some("who approved it in the last 90 days"),
        RuleKind::Permit if alone(&about.people) => Some("who used it in the last 90 days"),
        RuleKind::Entitlement | RuleKind::Permit => None,
    })
}
