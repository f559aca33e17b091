//! A caller's Cedar entities: what policies are told of a session, of a workload, and of whom a provider's
//! token names. They are built once, and again when session, entitlements or policies have changed.

use std::rc::Rc;

use crate::model::{EntitlementName, Session};
use crate::policy::{Facts, Recognised, Subject};

use super::bearer::BearerIdentity;
use super::snapshot::Snapshot;
use super::worker::{BuiltSubject, CallerKey, Worker};

/// A caller's Cedar entities, built once per change of session, grants or policies.
pub(super) fn remembered(
    worker: &Worker,
    snapshot: &Snapshot,
    key: CallerKey,
    entitlements: &[EntitlementName],
    build: impl FnOnce() -> Subject,
) -> Rc<Subject> {
    let key = (key, entitlements.to_vec());
    let mut subjects = worker.subjects.borrow_mut();
    if let Some(built) = subjects.get(&key)
        && built.generation == snapshot.generation
    {
        return Rc::clone(&built.subject);
    }
    let subject = Rc::new(build());
    subjects.put(key, BuiltSubject { generation: snapshot.generation, subject: Rc::clone(&subject) });
    subject
}

/// What policies are told of a session.
pub(super) fn of_session(snapshot: &Snapshot, session: &Session) -> Subject {
    let claims = (!session.claims.is_empty()).then(|| serde_json::json!(session.claims));
    snapshot.policies.subject(&Facts {
        principal: &session.principal,
        email: session.email.as_deref(),
        email_verified: session.email_verified,
        name: session.name.as_deref(),
        groups: &session.groups,
        entitlements: &[],
        claims: claims.as_ref(),
        breakglass: None,
    })
}

/// What policies are told of a workload that a rule names.
pub(super) fn of_workload(snapshot: &Snapshot, recognised: &Recognised) -> Subject {
    let claims = serde_json::json!(recognised.claims);
    snapshot.policies.subject(&Facts {
        principal: &recognised.principal,
        email: None,
        email_verified: false,
        name: None,
        groups: &recognised.groups,
        entitlements: &[],
        claims: Some(&claims),
        breakglass: None,
    })
}

/// What policies are told of whom a provider's token names.
pub(super) fn of_identity(snapshot: &Snapshot, identity: &BearerIdentity) -> Subject {
    snapshot.policies.subject(&Facts {
        principal: &identity.principal,
        email: identity.email.as_deref(),
        email_verified: identity.email_verified,
        name: identity.name.as_deref(),
        groups: &identity.groups,
        entitlements: &[],
        claims: None,
        breakglass: None,
    })
}
