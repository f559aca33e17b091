//! Who uses a rule: holders of an entitlement, and those whom a permit let through.
//!
//! What passed the door is looked for in the newest decisions about the service, back to 90 days where that is
//! not too much; back to when it reached is told with it.

use std::collections::{BTreeMap, BTreeSet};

use crate::audit::filter::Filter;
use crate::audit::{EventType, PersonalField};
use crate::model::{EntitlementName, GrantId, Principal, RuleKind, ServiceName, Timestamp, Ttl};
use crate::store::{EVENT_PAGE_MAX, Recorded, StoreError, StoredRule};

use super::super::desk::Desk;
use super::Review;

/// How far back.
const SINCE: Ttl = Ttl::hours(24 * 90);
/// By which steps, in days; the last is [`SINCE`].
const STEPS_DAYS: [u32; 7] = [1, 3, 7, 14, 30, 60, 90];
/// After how long no further step is made.
const PATIENCE: Ttl = Ttl::seconds(5);
/// Pages of decisions that are read at most.
const PAGES_MAX: usize = 20;
/// Grants whose approvers are asked for at most, the latest.
const GRANTS_MAX: usize = 200;
/// People who are remembered of one rule at most.
const PEOPLE_MAX: usize = 1_000;

/// What is known of a rule's use.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Use {
    /// Grants that are active.
    pub active: usize,
    /// Grants that were active in the last 90 days, those that still are among them.
    pub recent: usize,
    /// Who held it, or was let through by it.
    pub people: BTreeSet<Principal>,
    /// Who approved what was granted; asked for only where somebody decides.
    pub approvers: BTreeSet<Principal>,
    /// When somebody last came through by it.
    pub last: Option<Timestamp>,
}

impl Use {
    fn by(&mut self, who: Option<Principal>, at: Timestamp) {
        self.last = self.last.max(Some(at));
        if self.people.len() < PEOPLE_MAX {
            self.people.extend(who);
        }
    }
}

/// What passed the door.
#[derive(Default)]
struct Passed {
    permits: BTreeMap<String, Use>,
    grants: BTreeMap<GrantId, Timestamp>,
    since: Option<Timestamp>,
}

/// Reads back, in steps that grow, until it is far enough, enough was read, or it took too long.
async fn passed(desk: &Desk, service: &ServiceName, now: Timestamp) -> Result<Passed, StoreError> {
    let (mut passed, mut to, mut pages) = (Passed::default(), now.plus(Ttl::seconds(1)), 0);
    let began = desk.clock.now();
    for days in STEPS_DAYS {
        let from = now.minus(Ttl::hours(24 * days));
        let filter = Filter {
            kind: Some(EventType::DecisionAllow),
            service: Some(service.clone()),
            from: Some(from),
            to: Some(to),
            ..Filter::default()
        };
        let mut before = None;
        loop {
            let events = desk.store.event_search(&filter, before, EVENT_PAGE_MAX).await?;
            events.iter().for_each(|event| passed.take(event));
            let whole = events.len() >= usize::try_from(EVENT_PAGE_MAX).unwrap_or(usize::MAX);
            let Some(last) = events.last().filter(|_| whole) else { break };
            (before, pages) = (Some(last.clear().id), pages + 1);
            if pages >= PAGES_MAX {
                passed.since = Some(last.clear().time);
                return Ok(passed);
            }
        }
        (passed.since, to) = (Some(from), from);
        if desk.clock.now().since(began) > PATIENCE {
            break;
        }
    }
    Ok(passed)
}

impl Passed {
    fn take(&mut self, event: &Recorded) {
        let (clear, who) = (event.clear(), event.personal(PersonalField::Principal).and_then(Principal::parse));
        if let Some(grant) = clear.grant {
            let last = self.grants.entry(grant).or_insert(clear.time);
            *last = (*last).max(clear.time);
        }
        let policies = event.body.pointer("/data/policies").and_then(serde_json::Value::as_array);
        for name in policies.into_iter().flatten().filter_map(serde_json::Value::as_str) {
            self.permits.entry(name.to_owned()).or_default().by(who.clone(), clear.time);
        }
    }
}

/// Grants of an entitlement that are or were active lately.
async fn granted(
    desk: &Desk,
    rule: &StoredRule,
    passed: &Passed,
    now: Timestamp,
) -> Result<(Use, Vec<GrantId>), StoreError> {
    let Ok(name) = EntitlementName::parse(&rule.name) else { return Ok(Default::default()) };
    let held = desk.store.grant_ends(&name, now.minus(SINCE)).await?;
    let mut used = Use { recent: held.len(), ..Use::default() };
    for grant in &held {
        used.active += usize::from(!grant.at.is_over(now));
        used.last = used.last.max(passed.grants.get(&grant.id).copied());
        if used.people.len() < PEOPLE_MAX {
            used.people.insert(grant.principal.clone());
        }
    }
    Ok((used, held.iter().map(|grant| grant.id).collect()))
}

/// Notes of each rule who uses it.
///
/// # Errors
/// When the database is away.
pub(super) async fn of_review(desk: &Desk, review: &mut Review, now: Timestamp) -> Result<(), StoreError> {
    let passed = passed(desk, &review.stored.service, now).await?;
    for rule in &mut review.rules {
        rule.used = Some(match rule.stored.kind {
            RuleKind::Entitlement => granted(desk, &rule.stored, &passed, now).await?.0,
            RuleKind::Permit => passed.permits.get(&rule.stored.name).cloned().unwrap_or_default(),
        });
    }
    review.used_since = passed.since;
    Ok(())
}

/// Who uses one rule, and who approved it.
///
/// # Errors
/// When the database is away.
pub(super) async fn about(desk: &Desk, rule: &StoredRule, now: Timestamp) -> Result<Use, StoreError> {
    match rule.kind {
        RuleKind::Permit => {
            let passed = passed(desk, &rule.service, now).await?;
            Ok(passed.permits.get(&rule.name).cloned().unwrap_or_default())
        }
        RuleKind::Entitlement => {
            let (mut used, grants) = granted(desk, rule, &Passed::default(), now).await?;
            for id in grants.into_iter().take(GRANTS_MAX) {
                let Some(grant) = desk.store.grant_fetch(id).await? else { continue };
                let answers = desk.store.access_approval_list(grant.request).await?;
                let yes = answers.into_iter().filter(|answer| answer.answer == crate::model::Answer::Approve);
                used.approvers.extend(yes.map(|answer| answer.by.principal));
            }
            Ok(used)
        }
    }
}
