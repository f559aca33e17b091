//! Requests and grants as a caller may see them: their own, those that they may answer or end, and
//! all for auditors. To others they don't exist.
//!
//! INVARIANT: what somebody may know of does not hang on how long ago they signed in, only what they may do to it:
//! who is told by a notice that a request waits finds it, and is told there to sign in again.

use std::collections::BTreeMap;

use crate::model::{
    AccessRequest, Approval, EntitlementName, Grant, GrantId, GrantState, RequestId, RequestState, Timestamp, Ttl,
};
use crate::policy::{EntitlementAction, InstallationAction, PolicySet};
use crate::store::{AccessRequestFilter, GRANT_PAGE_MAX, StoreError};

use super::super::caller::Caller;
use super::super::desk::Desk;
use super::human::{Human, Shelf, human_of};
use super::standing::{approves, is_enough, standing};
use super::{AccessError, might, person_of};

/// Rows that one list looks at at most to fill a page, once it can say where to go on.
const LOOK_MAX: u32 = 1000;
/// Rows that it looks at at most to find anything: what is further back than that is not listed.
const LOOK_ON_MAX: u32 = 100_000;
/// What counts as lately.
const LATELY: Ttl = Ttl::hours(30 * 24);

/// Whose requests or grants are wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Whose {
    /// The caller's own.
    Own,
    /// Requests that wait for the caller's answer.
    ToApprove,
    /// All that the caller may approve, revoke or audit.
    All,
}

/// A request with what belongs to it.
#[derive(Debug, Clone)]
pub struct Seen {
    /// The request.
    pub request: AccessRequest,
    /// What approvers answered.
    pub approvals: Vec<ApprovalSeen>,
    /// What was granted.
    pub grant: Option<Grant>,
    /// How far request and grant have come, as one word.
    pub state: &'static str,
    /// Grants of the entitlement to this person lately, when they asked.
    pub held_lately: i64,
    /// Whether this person had never held the entitlement when they asked.
    pub first_time: bool,
}

/// An answer of an approver, as it stands.
#[derive(Debug, Clone)]
pub struct ApprovalSeen {
    /// The answer.
    pub approval: Approval,
    /// Whether it is one of the approvals that the request has: by what is known now, while something hangs
    /// on it; then as it was.
    pub counts: bool,
}

impl Seen {
    /// How many approvals it has of those that it takes.
    #[must_use]
    pub fn approved(&self) -> usize {
        let needed = usize::try_from(self.request.approvals_needed).unwrap_or(usize::MAX);
        self.counting().count().min(needed)
    }

    /// Whether it waits though it has all the approvals that it takes, since one counts again that did not when
    /// the last was given. INVARIANT: what is pending is not granted because a lock was lifted, a group came back or
    /// somebody signed out; whoever may approve it looks at it and says so, and that is on record as what led to it.
    #[must_use]
    pub fn waits_for_a_word(&self) -> bool {
        let needed = self.request.approvals_needed > 0;
        needed && self.state == RequestState::Pending.name() && is_enough(self.counting().count(), &self.request)
    }

    fn counting(&self) -> impl Iterator<Item = &ApprovalSeen> {
        self.approvals.iter().filter(|given| given.counts)
    }

    /// Whether they have approved it, and more of it than that is wanted. Where enough approvals count already,
    /// since one that did not does again, anybody's next word is enough.
    pub(super) fn waits_for_others(&self, human: &Human) -> bool {
        let approved = self.counting().any(|given| human.is(&given.approval.by));
        approved && !is_enough(self.counting().count(), &self.request)
    }

    /// Why it can't be answered any more.
    pub(super) fn closed(&self, now: Timestamp) -> AccessError {
        let goes_on = self.grant.as_ref().is_some_and(|grant| match grant.state_at(now) {
            GrantState::Scheduled | GrantState::Queued | GrantState::Active { .. } => true,
            GrantState::Over { .. } => false,
        });
        let state = self.state;
        if goes_on { AccessError::Granted { state } } else { AccessError::Closed { state } }
    }
}

/// A grant with what belongs to it.
#[derive(Debug, Clone)]
pub struct GrantSeen {
    /// The grant.
    pub grant: Grant,
    /// How far it has come.
    pub state: &'static str,
}

/// The request of that id, if the caller may see it.
///
/// # Errors
/// When there is none for the caller, or the database is away.
pub async fn request_fetch(desk: &Desk, caller: &Caller, id: RequestId, now: Timestamp) -> Result<Seen, AccessError> {
    let missing = AccessError::NotFound { what: "request" };
    let found = desk.store.access_request_fetch(id).await?;
    let policies = desk.policies.load_full();
    let Some(request) = found else {
        judge_as_if_there(desk, &policies, caller, now);
        return Err(missing);
    };
    let own = request.requester.principal == *caller.principal();
    if own || may_see(desk, &policies, caller, &request.entitlement, now) {
        Ok(seen(desk, request, now).await?)
    } else {
        Err(missing)
    }
}

/// Requests, newest first, with the cursor of the next page: never of one that the caller may not see.
/// `state` is the word that people see.
///
/// # Errors
/// When the database is away.
pub async fn request_list(
    desk: &Desk,
    caller: &Caller,
    whose: Whose,
    state: Option<&str>,
    before: Option<RequestId>,
    limit: usize,
    now: Timestamp,
) -> Result<(Vec<Seen>, Option<RequestId>), AccessError> {
    let policies = desk.policies.load_full();
    let me = human_of(Shelf::Store(&desk.store), &policies, &person_of(caller.session()), now).await?;
    let (mut found, mut cursor, mut visible, mut looked) = (Vec::new(), before, None, 0);
    let all = whose == Whose::All && sees_all(desk, caller, now);
    let mut rights = Rights::default();
    loop {
        let filter = AccessRequestFilter {
            principal: (whose == Whose::Own).then_some(caller.principal()),
            state: (whose == Whose::ToApprove).then_some(RequestState::Pending),
            before: cursor,
        };
        let page = desk.store.access_request_list(&filter, GRANT_PAGE_MAX).await?;
        let last = page.len() < usize::try_from(GRANT_PAGE_MAX).unwrap_or(usize::MAX);
        for request in page {
            cursor = Some(request.id);
            looked += 1;
            let wanted = match whose {
                Whose::Own => true,
                Whose::ToApprove => {
                    request.state_at(now) == RequestState::Pending
                        && !me.is(&request.requester)
                        && rights.of(&request.entitlement, |name| {
                            might(desk, &policies, caller, EntitlementAction::Approve, name, now)
                        })
                }
                Whose::All => {
                    all || request.requester.principal == *caller.principal()
                        || rights.of(&request.entitlement, |name| may_see(desk, &policies, caller, name, now))
                }
            };
            if wanted {
                visible = cursor;
                let seen = seen(desk, request, now).await?;
                let answered = whose == Whose::ToApprove && seen.waits_for_others(&me);
                if !answered && state.is_none_or(|state| state == seen.state) {
                    found.push(seen);
                }
            }
            if found.len() >= limit || looked_enough(looked, visible.is_some()) {
                return Ok((found, visible));
            }
        }
        if last {
            return Ok((found, None));
        }
    }
}

/// The grant of that id, if the caller may see it.
///
/// # Errors
/// When there is none for the caller, or the database is away.
pub async fn grant_fetch(desk: &Desk, caller: &Caller, id: GrantId, now: Timestamp) -> Result<GrantSeen, AccessError> {
    let missing = AccessError::NotFound { what: "grant" };
    let found = desk.store.grant_fetch(id).await?;
    let policies = desk.policies.load_full();
    let Some(grant) = found else {
        judge_as_if_there(desk, &policies, caller, now);
        return Err(missing);
    };
    let own = grant.holder.principal == *caller.principal();
    if own || may_see(desk, &policies, caller, &grant.entitlement, now) {
        Ok(grant_seen(used_here(desk, grant), now))
    } else {
        Err(missing)
    }
}

/// Grants, newest first, with the cursor of the next page: never of one that the caller may not see.
///
/// # Errors
/// When the database is away.
pub async fn grant_list(
    desk: &Desk,
    caller: &Caller,
    whose: Whose,
    before: Option<GrantId>,
    limit: usize,
    now: Timestamp,
) -> Result<(Vec<GrantSeen>, Option<GrantId>), AccessError> {
    let policies = desk.policies.load_full();
    let own = (whose != Whose::All).then_some(caller.principal());
    let all = whose == Whose::All && sees_all(desk, caller, now);
    let (mut found, mut cursor, mut visible, mut looked) = (Vec::new(), before, None, 0);
    let mut rights = Rights::default();
    loop {
        let page = desk.store.grant_list(own, cursor, GRANT_PAGE_MAX).await?;
        let last = page.len() < usize::try_from(GRANT_PAGE_MAX).unwrap_or(usize::MAX);
        for grant in page {
            cursor = Some(grant.id);
            looked += 1;
            if all
                || grant.holder.principal == *caller.principal()
                || rights.of(&grant.entitlement, |name| may_see(desk, &policies, caller, name, now))
            {
                visible = cursor;
                found.push(grant_seen(used_here(desk, grant), now));
            }
            if found.len() >= limit || looked_enough(looked, visible.is_some()) {
                return Ok((found, visible));
            }
        }
        if last {
            return Ok((found, None));
        }
    }
}

const fn looked_enough(looked: u32, goes_on: bool) -> bool {
    looked >= if goes_on { LOOK_MAX } else { LOOK_ON_MAX }
}

/// What one list has found out of the caller's rights: many rows are of few entitlements.
#[derive(Default)]
struct Rights(BTreeMap<EntitlementName, bool>);

impl Rights {
    fn of(&mut self, name: &EntitlementName, ask: impl FnOnce(&EntitlementName) -> bool) -> bool {
        if let Some(known) = self.0.get(name) {
            return *known;
        }
        *self.0.entry(name.clone()).or_insert(ask(name))
    }
}

/// Auditors and those who may revoke anything see all.
fn sees_all(desk: &Desk, caller: &Caller, now: Timestamp) -> bool {
    let rights = [InstallationAction::ReadAudit, InstallationAction::Revoke, InstallationAction::Administer];
    rights.into_iter().any(|right| caller.may(desk, right, now))
}

fn may_see(desk: &Desk, policies: &PolicySet, caller: &Caller, name: &EntitlementName, now: Timestamp) -> bool {
    might(desk, policies, caller, EntitlementAction::Approve, name, now)
        || might(desk, policies, caller, EntitlementAction::Revoke, name, now)
        || sees_all(desk, caller, now)
}

/// Asks of what is not there what would be asked of another's, so that time does not tell them apart.
fn judge_as_if_there(desk: &Desk, policies: &PolicySet, caller: &Caller, now: Timestamp) {
    if let Some(entitlement) = policies.entitlements().next() {
        std::hint::black_box(may_see(desk, policies, caller, &entitlement.name, now));
    }
}

pub(super) async fn seen(desk: &Desk, request: AccessRequest, now: Timestamp) -> Result<Seen, StoreError> {
    let approvals = desk.store.access_approval_list(request.id).await?;
    let grant = match request.grant {
        Some(id) => desk.store.grant_fetch(id).await?.map(|grant| used_here(desk, grant)),
        None => None,
    };
    let approvals = weighed(desk, &request, grant.as_ref(), approvals, now).await?;
    // As it was when they asked, however the request ends and whatever they are granted later.
    let first_time = desk.store.grants_held(&request, Timestamp::from_millis(0)).await? == 0;
    let held_lately = desk.store.grants_held(&request, request.created_at.minus(LATELY)).await?;
    let state = match (request.state_at(now), &grant) {
        (RequestState::Approved, Some(grant)) => match grant.state_at(now) {
            GrantState::Queued => "approved",
            state => state.name(),
        },
        (state, _) => state.name(),
    };
    Ok(Seen { request, approvals, grant, state, held_lately, first_time })
}

/// Whether each answer counts: asked while the request is pending or its grant waits to begin, as it is then.
/// What began or was closed was so by what counted at that time, which was written down.
async fn weighed(
    desk: &Desk,
    request: &AccessRequest,
    grant: Option<&Grant>,
    given: Vec<Approval>,
    now: Timestamp,
) -> Result<Vec<ApprovalSeen>, StoreError> {
    let waits = match (request.state, grant.map(|grant| grant.state_at(now))) {
        (RequestState::Pending, _) | (_, Some(GrantState::Scheduled | GrantState::Queued)) => true,
        (_, None | Some(GrantState::Active { .. } | GrantState::Over { .. })) => false,
    };
    let standing = if waits && given.iter().any(|approval| approves(request, approval)) {
        let policies = desk.policies.load_full();
        let requester = human_of(Shelf::Store(&desk.store), &policies, &request.requester, now).await?;
        standing(desk, Shelf::Store(&desk.store), &policies, request, &requester, &given, now).await?
    } else {
        given.iter().map(|approval| approves(request, approval) && approval.counted.unwrap_or(true)).collect()
    };
    Ok(given.into_iter().zip(standing).map(|(approval, counts)| ApprovalSeen { approval, counts }).collect())
}

/// The grant with the last use that this node knows of.
fn used_here(desk: &Desk, mut grant: Grant) -> Grant {
    if grant.idle.is_some() {
        let known = desk.directory.grant(&grant.holder.principal, grant.id);
        grant.used_at = grant.used_at.max(known.and_then(|known| known.used_at()));
    }
    grant
}

pub(super) fn grant_seen(grant: Grant, now: Timestamp) -> GrantSeen {
    GrantSeen { state: grant.state_at(now).name(), grant }
}
