//! From what operations answer to what stands on paper.

use crate::control::decision::Explained;
use crate::control::oauth::Granted;
use crate::control::service::{Reach, Reachable};
use crate::control::{Lock, StoredSession};
use crate::model::{Principal, Session, SessionId, Timestamp};
use crate::policy::Entitlement;
use crate::wire;

/// A principal by what their session tells of them.
pub fn person(session: &Session) -> wire::Principal {
    wire::Principal {
        kind: session.principal.kind().name().to_owned(),
        id: session.principal.id().to_owned(),
        name: session.name.clone(),
        email: session.email.clone(),
    }
}

fn principal(principal: &Principal, email: Option<String>) -> wire::Principal {
    wire::Principal { kind: principal.kind().name().to_owned(), id: principal.id().to_owned(), name: None, email }
}

/// A session, as the caller under session `current` sees it.
pub fn session(stored: &StoredSession, current: SessionId, now: Timestamp) -> wire::Session {
    let session = &stored.session;
    let state = if session.is_live(now) { wire::SessionState::Live } else { wire::SessionState::Ended };
    wire::Session {
        id: session.id.to_string(),
        kind: session.kind.name().to_owned(),
        principal: person(session),
        device: session.device.as_ref().map(|device| wire::Device { id: device.id.clone() }),
        groups: session.groups.clone(),
        created_at: session.created_at.into(),
        authenticated_at: session.authenticated_at.into(),
        expires_at: session.ended.map_or(session.expires_at, |(_, at)| at).into(),
        certificate_expires_at: stored.certificate_expires_at.map(wire::Time),
        current: session.id == current,
        state,
        end: session.ended.map(|(why, _)| why.name().to_owned()),
    }
}

/// A bar on a principal; `active` while it holds.
pub fn lock(lock: &Lock, active: bool) -> wire::Lock {
    wire::Lock {
        id: lock.id.to_string(),
        principal: principal(&lock.principal, None),
        reason: lock.reason.clone(),
        set_at: lock.set_at.into(),
        active,
    }
}

/// What a grant gives. `ca` is our authority's certificate.
pub fn token_answer(granted: Granted, ca: &str, audit_key: Option<String>, now: Timestamp) -> wire::TokenAnswer {
    let seconds = |end: Timestamp| end.since(now).as_seconds();
    wire::TokenAnswer {
        expires_in: seconds(granted.access.expires_at),
        access_token: granted.access.text,
        token_type: "Bearer".to_owned(),
        refresh_token: granted.refresh.expose().to_owned(),
        refresh_token_expires_in: seconds(granted.refresh_expires_at),
        session: session(&granted.stored, granted.stored.session.id, now),
        certificate_expires_at: granted.certificate.as_ref().map(|issued| issued.not_after.into()),
        certificate: granted.certificate.map(|issued| issued.pem),
        ca: ca.to_owned(),
        audit_key,
    }
}

/// A service as the caller may use it; `url` is where its first host is reached.
pub fn service(reachable: &Reachable, url: String) -> wire::Service {
    let actions: Vec<wire::ServiceAction> = reachable
        .actions
        .iter()
        .map(|(name, reach)| {
            let (access, entitlement) = match reach {
                Reach::Allowed(more) => (wire::Access::Allowed, more.as_ref().map(ToString::to_string)),
                Reach::Requestable(name) => (wire::Access::Requestable, Some(name.to_string())),
                Reach::Denied => (wire::Access::Denied, None),
            };
            wire::ServiceAction { name: name.as_str().to_owned(), access, entitlement }
        })
        .collect();
    wire::Service {
        name: reachable.service.name.as_str().to_owned(),
        description: reachable.service.description.clone(),
        url,
        hosts: reachable.service.hosts.clone(),
        access: actions.iter().map(|action| action.access).max().unwrap_or(wire::Access::Denied),
        actions,
        entitlements: reachable.requestable.iter().map(ToString::to_string).collect(),
    }
}

/// An entitlement, and whether the caller may ask for it.
pub fn entitlement(definition: &Entitlement, may_request: Requestable) -> wire::Entitlement {
    wire::Entitlement {
        name: definition.name.to_string(),
        description: definition.description.clone(),
        approvals: definition.approvals,
        max: definition.max.to_string(),
        default: definition.default.to_string(),
        min: definition.min.to_string(),
        reason_required: definition.reason_required,
        ticket: definition.ticket.as_ref().map(|pattern| pattern.as_str().to_owned()),
        may_request: may_request == Requestable::Yes,
    }
}

/// Whether a caller may ask for an entitlement.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Requestable {
    /// They may.
    Yes,
    /// They may not.
    No,
}

/// A decision from the record.
pub fn decision(explained: Explained) -> wire::Decision {
    let (whose, email) = (explained.principal, explained.email);
    wire::Decision {
        id: explained.id.to_string(),
        time: explained.time.into(),
        outcome: if explained.allowed { "allow" } else { "deny" }.to_owned(),
        reason: explained.reason,
        principal: whose.map(|whose| principal(&whose, email)),
        action: explained.action,
        service: explained.service,
        request: explained.request.map(|(method, host, path)| wire::DecisionRequest { method, host, path }),
        policy_version: explained.policy_version,
        policies: explained.policies,
        errors: explained.errors,
        // One that a later version wrote in another form is left out rather than the whole decision.
        remedy: explained.remedy.and_then(|remedy| serde_json::from_value(remedy).ok()),
        log: Some(explained.log.to_string()),
        seq: explained.seq,
    }
}
