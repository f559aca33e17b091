//! Who could answer a request: people who have signed in lately, by what their provider told of them
//! last.
//!
//! INVARIANT: this says whom to tell and whom to name; who may answer is judged when they do.

use crate::audit::EventType;
use crate::model::{EntitlementName, Person, Principal, RequestId, RequestState, Timestamp};
use crate::policy::{Ambient, EntitlementAction, Facts, PolicySet, SessionContext};
use crate::store::{KnownPerson, PERSON_PAGE_MAX, Recorded, StoreError};

use super::super::desk::Desk;
use super::human::{Shelf, human_of};

/// People that are looked at at most.
const LOOK_MAX: usize = 10_000;
/// People that are found at most.
const FOUND_MAX: usize = 100;

/// Who could approve a request of `requester` for `name`, coming as the requester came.
pub(super) async fn approvers(
    desk: &Desk,
    policies: &PolicySet,
    requester: &Person,
    name: &EntitlementName,
    ambient: &Ambient<'_>,
    now: Timestamp,
) -> Result<Vec<Person>, StoreError> {
    let human = human_of(Shelf::Store(&desk.store), policies, requester, now).await?;
    let (mut found, mut after, mut looked): (Vec<Person>, Option<Principal>, usize) = (Vec::new(), None, 0);
    loop {
        let page = desk.store.person_list(after.as_ref(), PERSON_PAGE_MAX).await?;
        let last = page.len() < usize::try_from(PERSON_PAGE_MAX).unwrap_or(usize::MAX);
        looked += page.len();
        after = page.last().map(|known| known.person.principal.clone());
        for known in page {
            let passed_over = human.is(&known.person)
                || desk.directory.is_locked(&known.person.principal)
                || !could_approve(desk, policies, &known, name, ambient, now);
            if !passed_over {
                found.push(known.person);
            }
            if found.len() == FOUND_MAX {
                return Ok(found);
            }
        }
        if last || looked >= LOOK_MAX {
            return Ok(found);
        }
    }
}

fn could_approve(
    desk: &Desk,
    policies: &PolicySet,
    known: &KnownPerson,
    name: &EntitlementName,
    ambient: &Ambient<'_>,
    now: Timestamp,
) -> bool {
    let KnownPerson { person, groups, amr, .. } = known;
    let active = desk.directory.entitlements(&person.principal, now);
    let subject = policies.subject(&Facts {
        principal: &person.principal,
        email: person.email.as_deref(),
        email_verified: person.email_verified,
        name: person.name.as_deref(),
        groups,
        entitlements: &active,
        claims: None,
        breakglass: None,
    });
    // As if they had just signed in, as they did last: a policy that wants that is not held against them.
    let session = SessionContext { created_at: now, authenticated_at: now, amr };
    let ambient = Ambient { address: ambient.address, now, session: Some(session), device: None, token_scope: None };
    policies.entitlement_decide(&subject, EntitlementAction::Approve, name, &ambient).allow
}

/// The e-mail addresses of those whom an event waits for: who may approve a request that is pending, and
/// who was passed over by an emergency. An address that no provider vouches for gets nothing.
///
/// # Errors
/// When the database is away.
pub async fn audience(desk: &Desk, event: &Recorded, now: Timestamp) -> Result<Vec<String>, StoreError> {
    if event.clear().kind != EventType::RequestCreated {
        return Ok(Vec::new());
    }
    let Some(id) = event.text("/data/request").and_then(|id| RequestId::parse(id).ok()) else {
        return Ok(Vec::new());
    };
    let Some(request) = desk.store.access_request_fetch(id).await? else { return Ok(Vec::new()) };
    // What policy approved by itself waits for nobody, and neither does what was answered meanwhile.
    if !request.emergency && request.state_at(now) != RequestState::Pending {
        return Ok(Vec::new());
    }
    let policies = desk.policies.load_full();
    let ambient = Ambient { address: request.address, now, session: None, device: None, token_scope: None };
    let people = approvers(desk, &policies, &request.requester, &request.entitlement, &ambient, now).await?;
    let mut addresses: Vec<String> = people.iter().filter_map(Person::verified_email).map(str::to_owned).collect();
    addresses.sort_by_cached_key(|address| address.to_ascii_lowercase());
    addresses.dedup_by(|one, other| one.eq_ignore_ascii_case(other));
    Ok(addresses)
}
