//! One service as the rest of the house sees it: settings, routes, entitlements, and the judge of
//! its own small policy set (its `access.cedar` and `global.cedar`).

use std::collections::{BTreeMap, BTreeSet};

use cedar_policy::EntityUid;
use jiff::tz::TimeZone;

use super::context::{self, Ambient, RequestContext};
use super::entitlement::Entitlement;
use super::judge::Judge;
use super::policy_set::{EntitlementAction, PolicySet};
use super::reads::Reads;
use super::route::{Matched, Route};
use super::router::Router;
use super::settings::{
    AssertionMode, ClientCertificate, HealthCheck, Injection, OnStale, RecordMode, ServiceLimits, ServiceSettings,
    ServiceTimeouts,
};
use super::subject::Subject;
use super::upstream::{Upstream, UpstreamTls};
use super::verdict::Verdict;
use crate::model::{ActionName, EntitlementName, PrincipalKind, ServiceName, Timestamp};

/// A protected upstream.
#[derive(Debug)]
pub struct Service {
    /// The name of its folder.
    pub name: ServiceName,
    /// For people.
    pub description: String,
    /// Whole names, lower case.
    pub hosts: Vec<String>,
    /// Where requests go.
    pub upstreams: Vec<Upstream>,
    /// How TLS upstreams are recognised, and we by them.
    pub upstream_tls: UpstreamTls,
    /// Whether the handshake demands a client certificate.
    pub client_certificate: ClientCertificate,
    /// Whether a token without binding is taken.
    pub unbound_bearer: bool,
    /// Whether the client's own `Authorization` goes to the upstream.
    pub pass_authorization: bool,
    /// When revocations could not be confirmed.
    pub on_stale: OnStale,
    /// Origins whose cross-site requests are taken.
    pub origins: Vec<String>,
    /// What the upstream is told about the caller.
    pub assertion: AssertionMode,
    /// Whether `%2F` in a path is taken.
    pub encoded_slash: bool,
    /// Overrides `[audit] requests`.
    pub record: Option<RecordMode>,
    /// Its limits.
    pub limits: ServiceLimits,
    /// Its timeouts.
    pub timeouts: ServiceTimeouts,
    /// How its upstreams are checked, where they are.
    pub health: Option<HealthCheck>,
    /// Headers that the upstream gets from us.
    pub inject: Vec<Injection>,
    /// Where `context.time` is.
    pub time_zone: TimeZone,
    /// What may be asked for, by name within the service.
    pub entitlements: BTreeMap<String, Entitlement>,
    pub(super) engine: Engine,
}

/// What decides for one service.
#[derive(Debug)]
pub(super) struct Engine {
    pub(super) router: Router,
    pub(super) actions: BTreeSet<ActionName>,
    pub(super) uid: EntityUid,
    /// Its own actions.
    pub(super) requests: Judge,
    /// Built-in actions on its entitlements.
    pub(super) desk: Judge,
    /// Entitlements that its policies name, or that it defines: what could change a refusal.
    pub(super) remedies: BTreeSet<EntitlementName>,
    /// Which of its actions an entitlement opens.
    pub(super) opens: BTreeMap<EntitlementName, BTreeSet<ActionName>>,
    /// Which of its actions holding an entitlement may take away.
    pub(super) bars: BTreeMap<EntitlementName, BTreeSet<ActionName>>,
    /// Which it can only take away.
    pub(super) only_bars: BTreeMap<EntitlementName, BTreeSet<ActionName>>,
    /// Texts that its policies compare with.
    pub(super) texts: BTreeSet<String>,
    pub(super) schema: String,
}

impl Service {
    pub(super) fn new(
        name: ServiceName,
        settings: ServiceSettings,
        entitlements: BTreeMap<String, Entitlement>,
        engine: Engine,
    ) -> Self {
        Self {
            name,
            description: settings.description,
            hosts: settings.hosts,
            upstreams: settings.upstreams,
            upstream_tls: settings.upstream_tls,
            client_certificate: settings.client_certificate,
            unbound_bearer: settings.unbound_bearer,
            pass_authorization: settings.pass_authorization,
            on_stale: settings.on_stale,
            origins: settings.origins,
            assertion: settings.assertion,
            encoded_slash: settings.encoded_slash,
            record: settings.record,
            limits: settings.limits,
            timeouts: settings.timeouts,
            health: settings.health,
            inject: settings.inject,
            time_zone: settings.time_zone,
            entitlements,
            engine,
        }
    }

    /// What a method and canonical path stand for; the most specific route wins.
    #[must_use]
    pub fn route(&self, method: &str, path: &str) -> Option<Matched> {
        self.engine.router.find(method, path)
    }

    /// Its routes as written.
    #[must_use]
    pub fn routes(&self) -> &[Route] {
        self.engine.router.routes()
    }

    /// Whether it is Monday to Friday, 8 to 18, where the service is at home.
    #[must_use]
    pub fn is_at_work(&self, now: Timestamp) -> bool {
        let Ok(moment) = jiff::Timestamp::from_millisecond(now.millis()) else { return false };
        let local = moment.to_zoned(self.time_zone.clone());
        let weekend = matches!(local.weekday(), jiff::civil::Weekday::Saturday | jiff::civil::Weekday::Sunday);
        !weekend && (8..18).contains(&local.hour())
    }

    /// Texts that its policies compare with: what a parameter may have to be to matter.
    pub fn texts(&self) -> impl Iterator<Item = &str> {
        self.engine.texts.iter().map(String::as_str)
    }

    /// Its actions, by name.
    pub fn actions(&self) -> impl Iterator<Item = &ActionName> {
        self.engine.actions.iter()
    }

    /// Its actions that holding an entitlement may open: those of permits that name it, and those
    /// that its definition lists.
    #[must_use]
    pub fn opened_by(&self, name: &EntitlementName) -> Vec<ActionName> {
        let mut found: BTreeSet<ActionName> = self.engine.opens.get(name).cloned().unwrap_or_default();
        if name.service() == &self.name
            && let Some(definition) = self.entitlements.get(name.name())
        {
            found.extend(definition.actions.iter().cloned());
        }
        found.into_iter().collect()
    }

    /// Whether holding an entitlement can only bar from this action: its policies ask for it, and none gives
    /// anything for it.
    #[must_use]
    pub fn only_bars(&self, name: &EntitlementName, action: &ActionName) -> bool {
        self.engine.only_bars.get(name).is_some_and(|actions| actions.contains(action))
    }

    /// Whether holding an entitlement may bar from this action, whatever it gives besides.
    #[must_use]
    pub fn bars(&self, name: &EntitlementName, action: &ActionName) -> bool {
        self.engine.bars.get(name).is_some_and(|actions| actions.contains(action))
    }

    /// Its generated schema in Cedar's own notation.
    #[must_use]
    pub fn schema(&self) -> &str {
        &self.engine.schema
    }

    /// Which circumstances the policies that could match an action read: what a remembered
    /// decision must be keyed by, beside subject, action and parameters.
    #[must_use]
    pub fn reads(&self, action: &ActionName) -> Reads {
        self.engine.requests.reads(action.as_str()).unwrap_or(Reads::EVERYTHING)
    }

    /// The same of a built-in action on one of its entitlements.
    pub(super) fn desk_reads(&self, action: EntitlementAction) -> Reads {
        self.engine.desk.reads(action.name()).unwrap_or(Reads::EVERYTHING)
    }

    /// Attributes of principals of a kind that the policies of an action read, its own or a built-in
    /// one on its entitlements; `None` where that can't be told.
    pub(super) fn principal_attributes(&self, action: &str, kind: PrincipalKind) -> Option<BTreeSet<String>> {
        let judge = if EntitlementAction::parse(action).is_some() { &self.engine.desk } else { &self.engine.requests };
        judge.attributes(action, kind)
    }

    /// Judges one request.
    #[must_use]
    pub fn decide(&self, subject: &Subject, action: &ActionName, context: &RequestContext<'_>) -> Verdict {
        let build = |reads| context::of_request(context, reads, &self.time_zone);
        self.engine.requests.decide(subject, action.as_str(), &self.engine.uid, build)
    }

    /// Judges a built-in action on one of its entitlements.
    pub(super) fn decide_desk(
        &self,
        subject: &Subject,
        action: EntitlementAction,
        resource: &EntityUid,
        ambient: &Ambient<'_>,
    ) -> Verdict {
        let build = |reads| context::of_builtin(ambient, reads, &self.time_zone);
        self.engine.desk.decide(subject, action.name(), resource, build)
    }

    /// Entitlements that would turn a refusal of this request: the principal may `request` them,
    /// with the parameters of this request where it demands them, and holding one makes [`Self::decide`] allow. What
    /// is had most easily comes first.
    #[must_use]
    pub fn remedy(
        &self,
        policies: &PolicySet,
        subject: &Subject,
        action: &ActionName,
        context: &RequestContext<'_>,
    ) -> Vec<EntitlementName> {
        let permits =
            |action, name: &EntitlementName| policies.entitlement_decide(subject, action, name, &context.ambient).allow;
        let candidates = self.engine.remedies.iter().filter(|name| !subject.entitlements().contains(name));
        let mut found: Vec<EntitlementName> = candidates
            .filter(|name| {
                policies.entitlement(name).is_none_or(|definition| definition.fits(context.params))
                    && permits(EntitlementAction::Request, name)
                    && self.decide(&subject.with_entitlement(name), action, context).allow
            })
            .cloned()
            .collect();
        // The first is the one whose command is told. What policy approves by itself comes before what people must
        // approve, and few of them before many; of equals what opens the fewest actions, for the shortest time; the
        // name settles the rest, so that the same refusal always says the same. One alone is not asked about again.
        found.sort_by_cached_key(|name| {
            let definition = policies.entitlement(name);
            let by_itself = permits(EntitlementAction::AutoApprove, name);
            let approvals = definition.filter(|_| !by_itself).map_or(0, |definition| definition.approvals);
            (approvals, policies.opened_by(name).len(), definition.map(|definition| definition.max), name.clone())
        });
        found
    }
}
