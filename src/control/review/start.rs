//! A review begins: the rules of the service are taken down as they are.

use data_encoding::HEXLOWER;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::audit::{EventType, Outcome};
use crate::model::{ReviewId, ReviewState, RuleState, ServiceName, Timestamp, Ttl};
use crate::policy::Rule;
use crate::store::{RULES_MAX, StoredReview, StoredRule};

use super::super::caller::Caller;
use super::super::desk::Desk;
use super::{DUE, REVIEWER_BYTES_MAX, REVIEWERS_MAX, Review, ReviewError, doer, event, may};

/// The longest list of rules that stands in the event itself, in bytes: of data that is too long an event keeps only
/// a hash. Each rule's own hash is on record again with each decision about it.
const LISTED_BYTES_MAX: usize = 8 * 1024;

/// What is asked for.
#[derive(Debug)]
pub struct Wish {
    /// Of which service.
    pub service: ServiceName,
    /// In how long it is due; none: what was written is no length of time.
    pub due: Option<Ttl>,
    /// Who is to decide; none: all who may review.
    pub reviewers: Vec<String>,
}

/// Begins a review.
///
/// # Errors
/// When the caller may not, there is nothing to review, or one is open.
pub async fn start(desk: &Desk, caller: &Caller, wish: Wish, now: Timestamp) -> Result<Review, ReviewError> {
    may(desk, caller, now)?;
    let policies = desk.policies.load_full();
    if policies.service(&wish.service).is_none() {
        return Err(ReviewError::NoService(wish.service));
    }
    let due = wish.due.filter(|due| (DUE.0..=DUE.1).contains(due)).ok_or(ReviewError::Due)?;
    let is_name = |name: &String| {
        (1..=REVIEWER_BYTES_MAX).contains(&name.len()) && !name.contains(|c: char| c.is_whitespace() || c.is_control())
    };
    if wish.reviewers.len() > REVIEWERS_MAX || !wish.reviewers.iter().all(is_name) {
        return Err(ReviewError::Reviewers);
    }
    let rules = policies.rules(&wish.service);
    if rules.is_empty() {
        return Err(ReviewError::NoRules(wish.service));
    }
    if rules.len() > usize::try_from(RULES_MAX).unwrap_or(usize::MAX) {
        return Err(ReviewError::TooMany(rules.len()));
    }
    let id = ReviewId::fresh(now, &*desk.entropy);
    let frozen = |(number, rule): (u32, &Rule)| StoredRule {
        review: id,
        service: wish.service.clone(),
        number,
        kind: rule.kind,
        name: rule.name.clone(),
        definition: definition(rule),
        sha256: rule.sha256.clone(),
        state: RuleState::Undecided,
        reminded_at: None,
    };
    let rules: Vec<StoredRule> = (1..).zip(rules).map(frozen).collect();
    let stored = StoredReview {
        id,
        service: wish.service.clone(),
        policy_version: policies.version().to_string(),
        state: ReviewState::Open,
        started_by: doer(caller),
        started_at: now,
        due_at: now.plus(due),
        reviewers: wish.reviewers,
        closed_by: None,
    };
    let mut tx = desk.store.begin().await?;
    if !tx.review_insert(&stored).await? {
        drop(tx);
        let open = desk.store.review_list(Some(ReviewState::Open.name()), Some(&stored.service), None, 1).await?;
        return Err(ReviewError::AlreadyOpen(open.first().map_or(id, |review| review.id)));
    }
    for rule in &rules {
        tx.review_rule_insert(rule).await?;
    }
    let review = Review::of(&policies, stored, rules);
    let list: Vec<_> = review.rules.iter().map(|rule| told(&rule.stored)).collect();
    let list = Value::from(list);
    let text = list.to_string();
    let mut event = event(desk, EventType::ReviewStarted, Outcome::Success, &review, &policies, now)
        .with("before", Value::Null)
        .with("after", json!({ "state": review.stored.state.name() }))
        .with("reviewers", review.stored.reviewers.len())
        .with("rules", review.rules.len())
        .with("rules_sha256", HEXLOWER.encode(&Sha256::digest(text.as_bytes())));
    if text.len() <= LISTED_BYTES_MAX {
        event = event.with("rule_list", list);
    }
    event.actor = caller.actor();
    tx.event_append(&event).await?;
    tx.commit().await?;
    Ok(review)
}

/// What a rule is, for those who decide on it.
fn definition(rule: &Rule) -> String {
    let policy =
        |policy: &crate::policy::RulePolicy| json!({ "name": policy.name, "roles": policy.roles, "text": policy.text });
    let policies: Vec<_> = rule.policies.iter().map(policy).collect();
    json!({ "summary": rule.summary, "actions": rule.actions, "policies": policies }).to_string()
}

fn told(rule: &StoredRule) -> Value {
    json!({ "item": rule.number, "kind": rule.kind.name(), "name": rule.name, "sha256": rule.sha256 })
}
