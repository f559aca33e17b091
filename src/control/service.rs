//! What there is behind the door, and what of it a caller may use or ask for.
//!
//! A policy may look at what only a request has (its parameters), so this is the answer for sample
//! requests: each route with empty parameters and with those that the policies themselves name.
//! What is decided at use is what counts.

use std::sync::Arc;

use crate::model::{ActionName, EntitlementName, Timestamp};
use crate::policy::{Entitlement, EntitlementAction, Methods, PolicySet, RequestContext, Route, Service, Subject};

use super::caller::Caller;
use super::desk::Desk;

/// Sample requests of one route that are judged at most.
const SAMPLES_MAX: usize = 64;

/// What a caller may do with an action.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reach {
    /// Use it; and ask for this, which opens more of it (other parameters).
    Allowed(Option<EntitlementName>),
    /// Ask for this, which opens it.
    Requestable(EntitlementName),
    /// Nothing.
    Denied,
}

/// A service as one caller may use it.
#[derive(Debug, Clone)]
pub struct Reachable {
    /// The service.
    pub service: Arc<Service>,
    /// Of its upstreams, those that pass their checks; none where they are not checked.
    pub healthy: Option<usize>,
    /// Its actions, by name.
    pub actions: Vec<(ActionName, Reach)>,
    /// Its entitlements that the caller may ask for.
    pub requestable: Vec<EntitlementName>,
}

/// All services, by name, as the caller may use them.
#[must_use]
pub fn list(desk: &Desk, caller: &Caller, now: Timestamp) -> Vec<Reachable> {
    let policies = desk.policies.load();
    let subject = desk.subject_now(&policies, caller.session(), now);
    let healthy = |service: &Service| {
        service.health.as_ref()?;
        let addresses: Vec<String> = service.upstreams.iter().map(ToString::to_string).collect();
        Some(desk.directory.upstreams.usable(&service.name, addresses.iter().map(String::as_str)))
    };
    let one = |service: &Arc<Service>| Reachable {
        healthy: healthy(service),
        ..reachable(&policies, service, &subject, caller, now)
    };
    policies.services().map(one).collect()
}

/// All entitlements with whether the caller may ask for them.
#[must_use]
pub fn entitlements(desk: &Desk, caller: &Caller, now: Timestamp) -> Vec<(Entitlement, bool)> {
    let policies = desk.policies.load();
    let subject = desk.subject_now(&policies, caller.session(), now);
    let found = policies.entitlements();
    found.map(|it| (it.clone(), may_request(&policies, &subject, &it.name, caller, now))).collect()
}

/// The caller's groups, those of `groups.toml` included.
#[must_use]
pub fn groups(desk: &Desk, caller: &Caller) -> Vec<String> {
    let policies = desk.policies.load();
    desk.subject(&policies, caller.session(), &[]).groups().to_vec()
}

fn may_request(
    policies: &PolicySet,
    subject: &Subject,
    name: &EntitlementName,
    caller: &Caller,
    now: Timestamp,
) -> bool {
    policies.entitlement_decide(subject, EntitlementAction::Request, name, &caller.ambient(now)).allow
}

fn reachable(
    policies: &PolicySet,
    service: &Arc<Service>,
    subject: &Subject,
    caller: &Caller,
    now: Timestamp,
) -> Reachable {
    let requestable: Vec<EntitlementName> = service
        .entitlements
        .values()
        .map(|entitlement| entitlement.name.clone())
        .filter(|name| may_request(policies, subject, name, caller, now))
        .collect();
    let reach = |action: &ActionName| {
        let (mut allowed, mut remedy) = (false, None);
        for route in service.routes().iter().filter(|route| route.action == *action) {
            for params in samples(service, route) {
                let context = neutral(service, route, &params, caller, now);
                if service.decide(subject, action, &context).allow {
                    allowed = true;
                } else if remedy.is_none() {
                    remedy = service.remedy(policies, subject, action, &context).into_iter().next();
                }
            }
        }
        if allowed {
            return Reach::Allowed(remedy);
        }
        let opens = |name: &&EntitlementName| {
            service.entitlements.get(name.name()).is_some_and(|entitlement| entitlement.actions.contains(action))
        };
        match remedy.or_else(|| requestable.iter().find(opens).cloned()) {
            Some(name) => Reach::Requestable(name),
            None => Reach::Denied,
        }
    };
    let actions = service.actions().map(|action| (action.clone(), reach(action))).collect();
    Reachable { service: Arc::clone(service), healthy: None, actions, requestable }
}

fn neutral<'a>(
    service: &'a Service,
    route: &'a Route,
    params: &'a [(Arc<str>, String)],
    caller: &'a Caller,
    now: Timestamp,
) -> RequestContext<'a> {
    let method = match &route.methods {
        Methods::Any => "GET",
        Methods::Listed(methods) => methods.first().map_or("GET", String::as_str),
    };
    let path = route.template.split_once(' ').map_or("/", |(_, path)| path);
    let host = service.hosts.first().map_or("", String::as_str);
    RequestContext { method, path, host, params, ambient: caller.ambient(now) }
}

/// Parameters to ask with: all empty, and each with every text that the policies name. Bounded by
/// [`SAMPLES_MAX`].
fn samples(service: &Service, route: &Route) -> Vec<Vec<(Arc<str>, String)>> {
    let names: Vec<Arc<str>> = route.params().cloned().collect();
    let mut found: Vec<Vec<String>> = vec![Vec::new()];
    for _ in &names {
        let values: Vec<&str> = std::iter::once("").chain(service.texts()).collect();
        let longer = |sample: &Vec<String>, value: &str| {
            let mut sample = sample.clone();
            sample.push(value.to_owned());
            sample
        };
        found = values.iter().flat_map(|value| found.iter().map(move |sample| longer(sample, value))).collect();
        found.truncate(SAMPLES_MAX);
    }
    found.into_iter().map(|values| names.iter().cloned().zip(values).collect()).collect()
}
