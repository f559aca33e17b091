//! What the policy says, asked on every request and remembered where it can't have changed.
//!
//! A decision is remembered under everything that its policies read: session and version or a provider's
//! token, the entitlements of the grants that are in force at this moment, policies, service, action, parameters, and method, path, host or address where a policy looks at them.
//! Where a policy reads the time or the age of a session, or a token narrows the scope, nothing is
//! remembered. Refusals are never remembered: something may have changed that would help.

use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;

use crate::model::{ActionName, EntitlementName, PrincipalKind, ServiceName, Timestamp};
use crate::policy::{Ambient, DenyReason, DeviceContext, RequestContext, SessionContext, Verdict};

use super::authenticate::Caller;
use super::handshake::Channel;
use super::membership::Rests;
use super::refusal::Refusal;
use super::remedy::Offer;
use super::route::Routed;
use super::snapshot::Snapshot;
use super::worker::{CallerKey, Worker};

/// Everything that a remembered decision was made from.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct DecisionKey {
    pub(super) generation: u64,
    pub(super) caller: CallerKey,
    entitlements: Vec<EntitlementName>,
    barring: Vec<EntitlementName>,
    service: ServiceName,
    action: ActionName,
    params: Vec<(Arc<str>, String)>,
    method: Option<String>,
    path: Option<String>,
    host: Option<String>,
    address: Option<IpAddr>,
}

/// A request that a policy permits. Only [`authorize`] makes one.
#[expect(clippy::manual_non_exhaustive, reason = "the field is the proof: only this file can make one")]
pub struct Permitted {
    /// The action that the route stands for.
    pub action: ActionName,
    /// What the policies said.
    pub verdict: Rc<Verdict>,
    /// Which entitlements that rests on.
    pub rests: Rc<Rests>,
    _proof: (),
}

/// Asks the service's policies.
///
/// # Errors
/// When there is no route, the token's scope is too narrow, or the policies do not permit it.
pub fn authorize(
    worker: &Worker,
    snapshot: &Snapshot,
    channel: &Channel,
    routed: &Routed,
    caller: &Caller,
    now: Timestamp,
) -> Result<Permitted, Refused> {
    let Some(matched) = &routed.matched else {
        return Err(Refused { refusal: Refusal::NoRoute, verdict: None });
    };
    let action = &matched.action;
    let scope = caller.token.as_ref().and_then(|token| token.scope.as_deref());
    if scope.is_some_and(|scope| !scope.iter().any(|name| name == action.as_str())) {
        let refusal = Refusal::ScopeInsufficient { action: action.as_str().into() };
        return Err(Refused { refusal, verdict: None });
    }
    let key = decision_key(snapshot, channel, routed, caller, action);
    if let Some(key) = &key
        && let Some((verdict, rests)) = worker.decisions.borrow_mut().get(key)
    {
        worker.shared.metrics.decisions_remembered.inc();
        return Ok(Permitted {
            action: action.clone(),
            verdict: Rc::clone(verdict),
            rests: Rc::clone(rests),
            _proof: (),
        });
    }
    let session = caller.session.as_ref().map(|live| &live.session);
    let context = RequestContext {
        method: routed.canonical.method.as_str(),
        path: &routed.canonical.path,
        host: &routed.canonical.host,
        params: &matched.params,
        ambient: Ambient {
            address: channel.peer.ip().to_canonical(),
            now,
            session: session.map(SessionContext::of),
            device: session.and_then(DeviceContext::of),
            token_scope: scope,
        },
    };
    let service = &routed.entry.service;
    let verdict = service.decide(&caller.subject, action, &context);
    if verdict.allow && !caller.barring.is_empty() {
        // What is held and does not count gives nothing here, and takes what it takes from all who hold it.
        let held = service.decide(&caller.subject.with_entitlements(&caller.barring), action, &context);
        if !held.allow {
            let refusal = match held.reason {
                DenyReason::ForbiddenByPolicy => Refusal::Forbidden { remedies: Vec::new() },
                DenyReason::NoPolicyMatch => Refusal::NoPolicyMatch { remedies: Vec::new() },
            };
            return Err(Refused { refusal, verdict: Some(held) });
        }
    }
    if verdict.allow {
        let rests = Rc::new(Rests::of(service, caller, action, &context));
        let verdict = Rc::new(verdict);
        if let Some(key) = key {
            worker.decisions.borrow_mut().put(key, (Rc::clone(&verdict), Rc::clone(&rests)));
        }
        return Ok(Permitted { action: action.clone(), verdict, rests, _proof: () });
    }
    let refusal = refusal_of(snapshot, routed, caller, action, context, &verdict);
    Err(Refused { refusal, verdict: Some(verdict) })
}

/// A refusal with what the policies said, for the record.
pub struct Refused {
    /// The refusal.
    pub refusal: Refusal,
    /// The verdict, where policies were asked at all.
    pub verdict: Option<Verdict>,
}

/// Why, and what would help: an entitlement that may be asked for, a trusted device, or a new sign-in.
fn refusal_of(
    snapshot: &Snapshot,
    routed: &Routed,
    caller: &Caller,
    action: &ActionName,
    mut context: RequestContext<'_>,
    verdict: &Verdict,
) -> Refusal {
    let service = &routed.entry.service;
    let helpful = service.remedy(&snapshot.policies, &caller.subject, action, &context);
    let is_job = caller.subject.principal().kind() == PrincipalKind::Workload;
    let params = context.params;
    let offer = |name: EntitlementName| {
        let asked = snapshot.policies.entitlement(&name)?;
        // A job is not signed in: it asks, waits and gets its token by one command.
        let command = |params: &[(Arc<str>, String)]| match is_job {
            true => asked.command_of_job(params),
            false => asked.command(params),
        };
        let known = asked.known(params).map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
        Some(Offer { name, command: command(params), recorded: command(&[]), params: known })
    };
    let remedies: Vec<Offer> = helpful.into_iter().filter_map(offer).collect();
    let shown = context.ambient.device.clone();
    if remedies.is_empty() && shown.is_none() && service.reads(action).device {
        context.ambient.device = Some(DeviceContext { id: "", trusted: true });
        if service.decide(&caller.subject, action, &context).allow {
            return Refusal::DeviceUntrusted;
        }
    }
    // The device was lent above to see whether it would help; it is given back.
    context.ambient.device = shown;
    if remedies.is_empty()
        && service.reads(action).session
        && let Some(session) = context.ambient.session.as_mut()
    {
        (session.created_at, session.authenticated_at) = (context.ambient.now, context.ambient.now);
        if service.decide(&caller.subject, action, &context).allow {
            return Refusal::SignInTooOld(verdict.reason);
        }
    }
    match verdict.reason {
        DenyReason::ForbiddenByPolicy => Refusal::Forbidden { remedies },
        DenyReason::NoPolicyMatch => Refusal::NoPolicyMatch { remedies },
    }
}

/// The key under which the decision may be remembered; none where it may not be.
fn decision_key(
    snapshot: &Snapshot,
    channel: &Channel,
    routed: &Routed,
    caller: &Caller,
    action: &ActionName,
) -> Option<DecisionKey> {
    let service = &routed.entry.service;
    let reads = service.reads(action);
    let known = caller.key?;
    if reads.time || reads.session || (reads.token && caller.token.is_some()) {
        return None;
    }
    let canonical = &routed.canonical;
    Some(DecisionKey {
        generation: snapshot.generation,
        caller: known,
        entitlements: caller.subject.entitlements().to_vec(),
        barring: caller.barring.clone(),
        service: service.name.clone(),
        action: action.clone(),
        params: routed.matched.as_ref()?.params.clone(),
        method: reads.method.then(|| canonical.method.to_string()),
        path: reads.path.then(|| canonical.path.clone()),
        host: reads.host.then(|| canonical.host.clone()),
        address: reads.address.then(|| channel.peer.ip().to_canonical()),
    })
}
