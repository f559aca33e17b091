//! What an exchange asks for: where the token is to be good, for which actions, for how long and under
//! which grant. Each is read here against what there is for the subject; `exchange.rs` and `delegate.rs`
//! put them together. INVARIANT: a grant that a token ends with is the subject's own, in force, and of
//! the service that the token is for.

use std::sync::Arc;

use crate::model::{GrantId, GrantState, ServiceName, SessionKind, Timestamp, Ttl};
use crate::policy::Service;

use super::super::desk::{ACCESS_TTL_MAX, Desk};
use super::exchange::{ExchangeError, ExchangeRequest, Subject};
use super::run;

/// Scopes that one token may list.
const SCOPES_MAX: usize = 64;

/// Where a token is to be good.
pub(super) enum Target {
    Service(Arc<Service>),
    /// The control API, for a job that has something to ask for first.
    Control,
}

/// The one service that is asked for, or for a job the control API.
pub(super) fn target(desk: &Desk, request: &ExchangeRequest, subject: &Subject) -> Result<Target, ExchangeError> {
    let is_control = |text: &str| text.strip_suffix('/').unwrap_or(text) == desk.settings.origin;
    let mut named = [request.audience.as_deref(), request.resource.as_deref()].into_iter().flatten().peekable();
    if named.peek().is_some() && named.all(is_control) {
        return match subject {
            Subject::Workload(_) => Ok(Target::Control),
            // A session has a certificate or tokens for it from its sign-in.
            Subject::Session(_) => Err(ExchangeError::Target),
        };
    }
    let policies = desk.policies.load();
    let reached = match subject {
        Subject::Workload(foreign) => Some(foreign.recognised.services.as_slice()),
        Subject::Session(stored) => match stored.session.kind {
            // What its rule says now.
            SessionKind::Workload => {
                policies.workloads().rule_of(&stored.session.principal).map(|rule| rule.services.as_slice())
            }
            SessionKind::Browser | SessionKind::Cli => Some([].as_slice()),
        },
    };
    target_of(desk, request, reached.ok_or(ExchangeError::Target)?)
}

/// The one service that is asked for, of those that are reached; none for all.
pub(super) fn target_of(
    desk: &Desk,
    request: &ExchangeRequest,
    reached: &[ServiceName],
) -> Result<Target, ExchangeError> {
    let policies = desk.policies.load();
    let by_name = |text: &str| ServiceName::parse(text).ok().and_then(|name| policies.service(&name)).cloned();
    let by_address = |text: &str| {
        let rest = text.strip_prefix("https://")?;
        let host = rest.split('/').next()?.split(':').next()?;
        policies.service_for_host(host).cloned()
    };
    let named = match (request.audience.as_deref(), request.resource.as_deref()) {
        (Some(audience), None) => by_name(audience),
        (None, Some(resource)) => by_address(resource),
        (Some(audience), Some(resource)) => {
            by_name(audience).filter(|one| by_address(resource).is_some_and(|other| other.name == one.name))
        }
        (None, None) => None,
    };
    let service = named.ok_or(ExchangeError::Target)?;
    let reaches = reached.is_empty() || reached.contains(&service.name);
    if reaches { Ok(Target::Service(service)) } else { Err(ExchangeError::Target) }
}

/// The scope in its one form: actions of the service, each once.
pub(super) fn scope(service: &Service, asked: Option<&str>) -> Result<Option<String>, ExchangeError> {
    let Some(asked) = asked else { return Ok(None) };
    let mut names: Vec<&str> = Vec::new();
    for name in asked.split(' ').filter(|name| !name.is_empty()) {
        if !service.actions().any(|action| action.as_str() == name) {
            return Err(ExchangeError::Scope(name.chars().take(100).collect()));
        }
        if !names.contains(&name) {
            names.push(name);
        }
        if names.len() > SCOPES_MAX {
            return Err(ExchangeError::Invalid("`scope` lists too many actions"));
        }
    }
    if names.is_empty() {
        return Err(ExchangeError::Invalid("`scope` names no action: leave it out for all that policies permit"));
    }
    Ok(Some(names.join(" ")))
}

/// The subject's own grant of the service, and its end. One that is somebody else's does not exist.
pub(super) async fn held(
    desk: &Desk,
    text: &str,
    subject: &Subject,
    target: &Target,
    now: Timestamp,
) -> Result<(GrantId, Timestamp), ExchangeError> {
    let id = GrantId::parse(text).map_err(|_| ExchangeError::NoGrant)?;
    let grant = desk.store.grant_fetch(id).await?.filter(|grant| grant.holder.principal == *subject.principal());
    let grant = grant.ok_or(ExchangeError::NoGrant)?;
    if !run::is_of(desk, &grant, subject.claims()).await? {
        return Err(ExchangeError::NoGrant);
    }
    let service = grant.entitlement.service();
    match target {
        Target::Service(target) if target.name == *service => {}
        Target::Service(_) | Target::Control => {
            return Err(ExchangeError::GrantElsewhere { service: service.clone() });
        }
    }
    let GrantState::Active { until, .. } = grant.state_at(now) else {
        return Err(ExchangeError::GrantNotActive { state: grant.state_at(now).name() });
    };
    // A token's end is in whole seconds.
    if Timestamp::from_seconds(until.seconds()).is_over(now) {
        return Err(ExchangeError::GrantNotActive { state: "it ends within this second" });
    }
    desk.directory.grant_enter(&grant);
    Ok((id, until))
}

/// `lifetime` in seconds: more than nothing, and no more than tokens last here.
pub(super) fn lifetime(desk: &Desk, asked: Option<&str>) -> Result<Ttl, ExchangeError> {
    let longest = desk.settings.access_ttl.min(ACCESS_TTL_MAX);
    let Some(text) = asked else { return Ok(longest) };
    let seconds = text.bytes().all(|b| b.is_ascii_digit()).then(|| text.parse::<u32>().ok()).flatten();
    match seconds.filter(|seconds| *seconds > 0).map(Ttl::seconds) {
        Some(ttl) if ttl <= longest => Ok(ttl),
        Some(_) => Err(ExchangeError::Invalid("`lifetime` is longer than tokens last here: at most 900 seconds")),
        None => Err(ExchangeError::Invalid("`lifetime` must be a number of seconds, from 1 to 900")),
    }
}
