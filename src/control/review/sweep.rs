//! What time and new policies do to reviews: a rule that was to go is seen to be gone, or to be back; what
//! stays undone is put on record again each week, so that every report of a longer period shows it.

use crate::audit::{Event, EventType, Outcome};
use crate::model::{NodeId, RuleState, Timestamp, Ttl};
use crate::policy::PolicySet;
use crate::store::{StoreError, StoredReview, StoredRule};

use super::super::desk::Desk;
use super::{Review, event, of_rule};

/// How often what is undone is put on record again.
const REMIND_EVERY: Ttl = Ttl::hours(7 * 24);
/// How long a node has the duty before another may take it.
const DUTY: Ttl = Ttl::minutes(1);
/// Rows that are read at a time.
const BATCH: u32 = 200;
/// Pages of rules that one round looks at at most.
const PAGES_MAX: usize = 100;

/// One round; nothing while another node has the duty.
///
/// # Errors
/// When the database is away.
pub async fn round(desk: &Desk, node: NodeId, now: Timestamp) -> Result<(), StoreError> {
    if desk.clock_guard.may_be_ahead() {
        return Ok(());
    }
    let now = now.min(desk.clock.now());
    let policies = desk.policies.load_full();
    let mut due = desk.store.review_list_due(now, now.minus(REMIND_EVERY), BATCH).await?;
    let mut rules = desk.store.review_rules_to_remove(None, BATCH).await?;
    if due.is_empty() && rules.is_empty() {
        return Ok(());
    }
    let mut tx = desk.store.begin().await?;
    let ours = tx.duty_take("review", node, now.plus(DUTY), now).await?;
    tx.commit().await?;
    if !ours {
        return Ok(());
    }
    for review in due.drain(..) {
        remind(desk, &policies, review, now).await?;
    }
    for _ in 0..PAGES_MAX {
        for rule in &rules {
            look(desk, &policies, rule, now).await?;
        }
        let whole = rules.len() >= usize::try_from(BATCH).unwrap_or(usize::MAX);
        let Some(last) = rules.last().filter(|_| whole) else { break };
        rules = desk.store.review_rules_to_remove(Some((last.review, last.number)), BATCH).await?;
    }
    Ok(())
}

/// A review that is due or closed: puts on record how much is undecided.
async fn remind(desk: &Desk, policies: &PolicySet, stored: StoredReview, now: Timestamp) -> Result<(), StoreError> {
    let rules = desk.store.review_rules(stored.id).await?;
    let review = Review::of(policies, stored, rules);
    let mut tx = desk.store.begin().await?;
    if tx.review_remind(review.stored.id, now, now.minus(REMIND_EVERY)).await? {
        if review.undecided() > 0 {
            let event = event(desk, EventType::ReviewOutstanding, Outcome::Failed, &review, policies, now);
            tx.event_append(&event.with("what", "undecided")).await?;
        }
        tx.commit().await?;
    }
    Ok(())
}

/// A rule that is or was to go: looks whether it is there.
async fn look(desk: &Desk, policies: &PolicySet, rule: &StoredRule, now: Timestamp) -> Result<(), StoreError> {
    let is_there = policies.has_rule(&rule.service, rule.kind, &rule.name, &rule.sha256);
    let seen = rule.state.seen(is_there, now);
    let told = rule.reminded_at.or_else(|| rule.state.decision().map(|(_, decision)| decision.at));
    if seen.is_none() && !(is_there && told.is_none_or(|told| told.plus(REMIND_EVERY).is_over(now))) {
        return Ok(());
    }
    let mut tx = desk.store.begin().await?;
    let (done, kind, outcome, what) = match seen {
        Some(RuleState::Removed { .. }) => {
            (tx.review_rule_gone(rule, now).await?, EventType::ReviewRemoved, Outcome::Success, "removed")
        }
        Some(RuleState::ToRemove(_)) => {
            (tx.review_rule_back(rule, now).await?, EventType::ReviewOutstanding, Outcome::Failed, "back")
        }
        Some(RuleState::Undecided | RuleState::Kept(_)) => return Ok(()),
        None => {
            let done = tx.review_rule_remind(rule, now, now.minus(REMIND_EVERY)).await?;
            (done, EventType::ReviewOutstanding, Outcome::Failed, "to_remove")
        }
    };
    if done {
        let mut event = Event::new(desk.event_id(now), now, kind, outcome)
            .with("review", rule.review.to_string())
            .with("what", what);
        event.resource = Some(rule.review.to_string().into());
        event.service = Some(rule.service.clone());
        event.policy_version = Some(policies.version().clone());
        tx.event_append(&of_rule(event, rule)).await?;
        tx.commit().await?;
    }
    Ok(())
}
