//! From what operations answer to what stands on paper.

use crate::control::access::{ApprovalSeen, GrantSeen, Planned, Seen};
use crate::control::decision::Explained;
use crate::control::lock_by_caller::Acquaintance;
use crate::control::oauth::Granted;
use crate::control::oauth::exchange::{Exchanged, TYPE_ACCESS_TOKEN};
use crate::control::service::{Reach, Reachable};
use crate::control::{HeldCredential, Lock, StoredSession};
use crate::identity::directory::LiveGrant;
use crate::model::{Answer, CredentialKind, Person, Principal, Session, SessionId, Timestamp, Ttl};
use crate::policy::{Entitlement, PolicySet};
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

pub fn principal(principal: &Principal, email: Option<String>) -> wire::Principal {
    wire::Principal { kind: principal.kind().name().to_owned(), id: principal.id().to_owned(), name: None, email }
}

/// An active grant, for `whoami`.
pub fn grant_in_brief(grant: &LiveGrant) -> wire::HeldGrant {
    wire::HeldGrant {
        id: grant.id.to_string(),
        entitlement: grant.entitlement.to_string(),
        expires_at: grant.expires_at.into(),
    }
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

/// A request, with what an approver wants to know of it.
pub fn access_request(policies: &PolicySet, seen: &Seen) -> wire::AccessRequest {
    let request = &seen.request;
    let service = policies.service(request.entitlement.service());
    let home = request.entitlement.service();
    let opens =
        |route: &&crate::policy::Route| request.actions.iter().any(|opened| opened.is(home, home, &route.action));
    let routes = service.map(|service| service.routes().iter().filter(opens).map(|route| route.template.to_string()));
    wire::AccessRequest {
        id: request.id.to_string(),
        state: seen.state.to_owned(),
        entitlement: request.entitlement.to_string(),
        principal: someone(&request.requester),
        reason: request.reason.clone(),
        ticket: request.ticket.clone(),
        params: request.params.clone(),
        length: request.length.to_string(),
        start: request.start.map(wire::Time),
        emergency: request.emergency,
        extends: request.extends.map(|id| id.to_string()),
        created_at: request.created_at.into(),
        answer_by: request.answer_by.into(),
        approvals_needed: request.approvals_needed,
        approvals: seen.approvals.iter().map(approval).collect(),
        hash: request.hash.clone(),
        actions: request.actions.iter().map(ToString::to_string).collect(),
        grant: request.grant.map(|id| id.to_string()),
        expires_at: seen.grant.as_ref().and_then(|grant| grant.state.expires_at()).map(wire::Time),
        context: Some(wire::ApprovalContext {
            first_time: seen.first_time,
            grants_30d: u32::try_from(seen.held_lately).unwrap_or(u32::MAX),
            outside_hours: service.is_none_or(|service| !service.is_at_work(request.created_at)),
            routes: routes.map(Iterator::collect).unwrap_or_default(),
        }),
    }
}

/// One answer of one approver.
pub fn approval(seen: &ApprovalSeen) -> wire::Approval {
    let approval = &seen.approval;
    wire::Approval {
        by: someone(&approval.by),
        answer: match approval.answer {
            Answer::Approve => wire::Answer::Approve,
            Answer::Deny => wire::Answer::Deny,
        },
        reason: approval.reason.clone(),
        time: approval.time.into(),
        hash: approval.hash.clone(),
        counts: seen.counts,
    }
}

fn text(length: Ttl) -> String {
    length.to_string()
}

/// What a request would take.
pub fn dry_run(plan: &Planned) -> wire::DryRun {
    wire::DryRun {
        entitlement: plan.entitlement.to_string(),
        length: plan.length.to_string(),
        start: plan.start.map(wire::Time),
        approvals_needed: plan.approvals_needed,
        approvers: plan.approvers.iter().map(someone).collect(),
        actions: plan.actions.iter().map(ToString::to_string).collect(),
        idle: plan.idle.map(text),
        earliest_start: plan.earliest_start.map(text),
        break_after: plan.break_after.map(text),
    }
}

/// A grant.
pub fn grant(seen: &GrantSeen) -> wire::Grant {
    let grant = &seen.grant;
    wire::Grant {
        id: grant.id.to_string(),
        request: grant.request.to_string(),
        entitlement: grant.entitlement.to_string(),
        principal: someone(&grant.holder),
        state: seen.state.to_owned(),
        params: grant.params.clone(),
        actions: grant.actions.iter().map(ToString::to_string).collect(),
        emergency: grant.emergency,
        created_at: grant.created_at.into(),
        starts_at: Some(grant.starts_at.into()),
        active_at: grant.state.active_at().map(wire::Time),
        expires_at: grant.state.expires_at().map(wire::Time),
        ended_at: grant.state.ended_at().map(wire::Time),
        end_reason: grant.end_reason.clone(),
        idle: grant.idle.map(text),
        used_at: grant.used_at.map(wire::Time),
        idle_ends_at: grant.idle_ends_at().map(wire::Time),
        reviewed: grant.reviews >= crate::control::breakglass::REVIEWERS,
    }
}

/// A certificate or token that is out.
pub fn credential(held: &HeldCredential) -> wire::Credential {
    let credential = &held.credential;
    let revoking_ends = match credential.kind {
        CredentialKind::Token => "credential",
        CredentialKind::X509 => "session",
    };
    wire::Credential {
        id: credential.id.to_string(),
        kind: credential.kind.name().to_owned(),
        principal: wire::Principal { name: held.name.clone(), ..principal(&held.principal, held.email.clone()) },
        session: credential.session.to_string(),
        audience: credential.audience.clone(),
        scope: credential.scope.clone(),
        grant: credential.grant.map(|id| id.to_string()),
        acting: credential.acting.clone(),
        thumbprint: credential.thumbprint.map(|thumbprint| thumbprint.to_string()),
        issued_at: credential.issued_at.into(),
        expires_at: credential.expires_at.into(),
        revoking_ends: revoking_ends.to_owned(),
    }
}

fn someone(person: &Person) -> wire::Principal {
    let who = &person.principal;
    wire::Principal { name: person.name.clone(), ..principal(who, person.email.clone()) }
}

/// A bar on a principal; `active` while it holds.
pub fn lock(lock: &Lock, person: Option<Person>, active: bool) -> wire::Lock {
    let (name, email) = person.map_or((None, None), |person| (person.name, person.email));
    wire::Lock {
        id: lock.id.to_string(),
        principal: wire::Principal { name, ..principal(&lock.principal, email) },
        reason: lock.reason.clone(),
        set_at: lock.set_at.into(),
        active,
        known: None,
        near: None,
    }
}

/// A bar that was just set, and whether anybody whom it is on has been here.
pub fn lock_set(lock: &Lock, person: Option<Person>, acquaintance: Option<Acquaintance>) -> wire::Lock {
    let (known, near) = match acquaintance {
        None => (None, None),
        Some(Acquaintance::Known) => (Some(true), None),
        Some(Acquaintance::Unknown { near }) => (Some(false), near.map(|near| near.to_string())),
    };
    wire::Lock { known, near, ..self::lock(lock, person, true) }
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

/// What an exchange gives. `ca` is our authority's certificate.
pub fn exchange_answer(exchanged: Exchanged, ca: &str, now: Timestamp) -> wire::ExchangeAnswer {
    let Exchanged { stored, access, certificate, audience, scope, grant } = exchanged;
    let mut confirmation = serde_json::Map::new();
    if let Some(thumbprint) = access.bound_to {
        confirmation.insert("x5t#S256".to_owned(), thumbprint.to_string().into());
    }
    if let Some(key) = access.bound_key {
        confirmation.insert("jkt".to_owned(), key.to_string().into());
    }
    wire::ExchangeAnswer {
        issued_token_type: TYPE_ACCESS_TOKEN.to_owned(),
        token_type: if access.bound_key.is_some() { "DPoP" } else { "Bearer" }.to_owned(),
        expires_in: access.expires_at.since(now).as_seconds(),
        expires_at: access.expires_at.into(),
        access_token: access.text,
        aud: audience,
        scope,
        grant: grant.map(|id| id.to_string()),
        cnf: (!confirmation.is_empty()).then(|| confirmation.into()),
        session: session(&stored, stored.session.id, now),
        certificate_expires_at: certificate.as_ref().map(|issued| issued.not_after.into()),
        certificate: certificate.map(|issued| issued.pem),
        ca: ca.to_owned(),
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
    let health = reachable.healthy.map(|healthy| {
        let upstreams = reachable.service.upstreams.len();
        let state = match healthy {
            0 => "unhealthy",
            some if some < upstreams => "degraded",
            _ => "healthy",
        };
        wire::ServiceHealth { state: state.to_owned(), healthy, upstreams }
    });
    wire::Service {
        health,
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
        idle: definition.idle.map(text),
        earliest_start: definition.earliest_start.map(text),
        break_after: definition.break_after.map(text),
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
        erased: explained.erased.map(|pseudonym| pseudonym.to_string()),
        action: explained.action,
        resource: explained.resource,
        service: explained.service,
        request: explained.request.map(|(method, host, path)| wire::DecisionRequest { method, host, path }),
        act: explained.act,
        policy_version: explained.policy_version,
        policies: explained.policies,
        errors: explained.errors,
        // One that a later version wrote in another form is left out rather than the whole decision.
        remedy: explained.remedy.and_then(|remedy| serde_json::from_value(remedy).ok()),
        note: explained.note,
        exchange: explained.exchange.map(|it| wire::DecisionExchange { reason: it.reason, data: it.data }),
        ended: explained.ended.map(|it| wire::DecisionEnded {
            status: it.status,
            reason: it.reason,
            fault: it.fault,
            duration_ms: it.duration_ms,
            time: it.time.into(),
        }),
        grant: explained.grant,
        grants: explained.grants.into_iter().map(|(id, entitlement)| wire::DecisionGrant { id, entitlement }).collect(),
        helps: explained
            .helps
            .into_iter()
            .map(|help| wire::DecisionHelp {
                entitlement: help.entitlement,
                grant: help.grant.map(|(id, _)| id.to_string()),
                state: help.grant.map(|(_, state)| state.to_owned()),
                request: help.request.map(|id| id.to_string()),
            })
            .collect(),
        log: Some(explained.log.to_string()),
        seq: explained.seq,
    }
}
