//! What a policy folder says, thing by thing, in words that an approver reads: what two folders are
//! compared by.
//!
//! INVARIANT: a thing is what it does. A comment, a line break or an order without meaning makes no
//! difference; a secret is named by where it comes from.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use super::cedar_file::CedarFile;
use super::diagnostic::{Report, Source};
use super::entitlement::{Entitlement, WhenFull};
use super::folder::Folder;
use super::policy_set::PolicySet;
use super::service::Service;
use super::settings::{
    AssertionMode, ClientCertificate, Injection, InjectionScheme, OnStale, RecordMode, SecretSource,
};
use super::upstream::{Upstream, UpstreamProtocol};
use super::workloads::Evidence;
use crate::model::{ServiceName, Ttl};

/// The field of a policy that holds its text.
pub const STATEMENT: &str = "text";

/// What kind of thing; in the order in which they are told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Kind {
    Service,
    Route,
    Entitlement,
    Policy,
    Group,
    Person,
    Issuer,
    TrustRule,
}

impl Kind {
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Service => "service",
            Self::Route => "route",
            Self::Entitlement => "entitlement",
            Self::Policy => "policy",
            Self::Group => "group",
            Self::Person => "person",
            Self::Issuer => "issuer",
            Self::TrustRule => "trust rule",
        }
    }
}

/// Which thing: of the installation where no service is named.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Key {
    pub(super) service: Option<ServiceName>,
    pub(super) kind: Kind,
    /// What makes it the same thing in both folders.
    pub(super) identity: String,
}

/// One thing.
#[derive(Debug, Clone, Default)]
pub(super) struct Thing {
    /// What it is called, where that is not its identity.
    pub(super) shown: Option<String>,
    /// What it does, in a form without spaces and comments; where both have one, it alone counts.
    pub(super) meaning: Option<String>,
    /// What has one value.
    pub(super) values: BTreeMap<&'static str, String>,
    /// What has many: told one by one.
    pub(super) lists: BTreeMap<&'static str, BTreeSet<String>>,
}

impl Thing {
    fn value(&mut self, name: &'static str, value: impl ToString) {
        self.values.insert(name, value.to_string());
    }

    fn optional(&mut self, name: &'static str, value: Option<impl ToString>) {
        if let Some(value) = value {
            self.value(name, value);
        }
    }

    fn list(&mut self, name: &'static str, values: impl IntoIterator<Item = impl ToString>) {
        self.lists.insert(name, values.into_iter().map(|value| value.to_string()).collect());
    }

    /// The whole of it, in a line.
    pub(super) fn summary(&self) -> String {
        if let Some(text) = self.values.get(STATEMENT) {
            return text.clone();
        }
        let values = self.values.iter().map(|(name, value)| format!("{name} {value}"));
        let lists = self.lists.iter().filter(|(_, values)| !values.is_empty());
        let lists = lists.map(|(name, values)| {
            format!("{name} {}", values.iter().map(String::as_str).collect::<Vec<_>>().join(", "))
        });
        values.chain(lists).collect::<Vec<_>>().join("; ")
    }
}

/// All things.
pub(super) type Inventory = BTreeMap<Key, Thing>;

/// Lists what the folder says; `set` is what was loaded from it.
pub(super) fn inventory(dir: &Path, set: &PolicySet) -> Inventory {
    let mut things = Inventory::new();
    for service in set.services() {
        let own =
            |kind, identity: &str| Key { service: Some(service.name.clone()), kind, identity: identity.to_owned() };
        things.insert(own(Kind::Service, service.name.as_str()), service_thing(dir, service));
        for route in service.routes() {
            let mut thing = Thing::default();
            thing.value("action", &route.action);
            things.insert(own(Kind::Route, &route.template), thing);
        }
        for (name, entitlement) in &service.entitlements {
            things.insert(own(Kind::Entitlement, name), entitlement_thing(service, entitlement));
        }
    }
    policies(dir, &mut things);
    shared(dir, set, &mut things);
    things
}

fn service_thing(dir: &Path, service: &Service) -> Thing {
    let mut thing = Thing::default();
    thing.value("description", &service.description);
    thing.list("host", &service.hosts);
    thing.list("upstream", service.upstreams.iter().map(upstream));
    thing.list("origin", &service.origins);
    thing.list("injected header", service.inject.iter().map(|it| injection(dir, it)));
    thing.value("client_certificate", certificate(service.client_certificate));
    thing.value("unbound_bearer", service.unbound_bearer);
    thing.value("pass_authorization", service.pass_authorization);
    thing.value("encoded_slash", service.encoded_slash);
    thing.value("exact_paths", service.engine.router.exact_paths());
    thing.value("on_stale", stale(service.on_stale));
    thing.value("assertion", assertion(service.assertion));
    thing.optional("record", service.record.map(record));
    thing.value("time_zone", service.time_zone.iana_name().unwrap_or("fixed"));
    let limits = &service.limits;
    thing.value("limits.requests_per_second", limits.requests_per_second);
    thing.value("limits.burst", limits.burst);
    thing.optional("limits.body_bytes_max", limits.body_bytes_max);
    thing.value("limits.connections_per_upstream", limits.connections_per_upstream);
    let timeouts = &service.timeouts;
    thing.value("timeouts.connect", timeouts.connect);
    thing.value("timeouts.first_byte", timeouts.first_byte);
    thing.value("timeouts.body_idle", timeouts.body_idle);
    thing.value("timeouts.stream_idle", timeouts.stream_idle);
    if let Some(health) = &service.health {
        thing.value("health.path", &health.path);
        thing.optional("health.host", health.host.as_ref());
        thing.value("health.interval", health.interval);
        thing.value("health.timeout", health.timeout);
        thing.value("health.healthy_threshold", health.thresholds.healthy);
        thing.value("health.unhealthy_threshold", health.thresholds.unhealthy);
        thing.optional("health.status", health.status);
    }
    let tls = &service.upstream_tls;
    let file = |path: &Option<PathBuf>| path.as_ref().map(|path| file(dir, path));
    thing.optional("upstream_tls.ca", file(&tls.ca));
    thing.optional("upstream_tls.certificate", file(&tls.certificate));
    thing.optional("upstream_tls.key", file(&tls.key));
    thing.optional("upstream_tls.server_name", tls.server_name.as_ref());
    thing
}

pub(super) fn entitlement_thing(service: &Service, entitlement: &Entitlement) -> Thing {
    let mut thing = Thing::default();
    thing.value("description", &entitlement.description);
    thing.value("max", entitlement.max);
    thing.value("default", entitlement.default);
    thing.value("min", entitlement.min);
    thing.value("approvals", entitlement.approvals);
    thing.value("reason", if entitlement.reason_required { "required" } else { "optional" });
    thing.optional("ticket", entitlement.ticket.as_ref().map(|ticket| ticket.as_str()));
    thing.list("opens", service.opened_by(&entitlement.name));
    for (name, parameter) in &entitlement.parameters {
        let values = if parameter.values.is_empty() { "any text".to_owned() } else { parameter.values.join(" or ") };
        let needed = if parameter.required { "required" } else { "optional" };
        thing.lists.entry("parameter").or_default().insert(format!("{name}: {values}, {needed}"));
    }
    thing.optional("capacity", entitlement.capacity);
    if entitlement.capacity.is_some() {
        thing.value(
            "when_full",
            match entitlement.when_full {
                WhenFull::Queue => "queue",
                WhenFull::Refuse => "refuse",
            },
        );
    }
    thing.optional("idle", entitlement.idle);
    thing.optional("earliest_start", entitlement.earliest_start);
    thing.optional("break", entitlement.break_after);
    thing.value("scheduled_max", entitlement.scheduled_max);
    thing.optional("extended_max", entitlement.extended_max);
    thing.value("answer_within", entitlement.answer_within);
    thing
        .value("emergency", entitlement.emergency_max.map_or_else(|| "no".to_owned(), |max: Ttl| format!("for {max}")));
    thing
}

/// The Cedar policies, each by its `@id`. One without an id is the same as one that means the same.
fn policies(dir: &Path, things: &mut Inventory) {
    // It has been loaded, so there is nothing to report.
    let report = Report::default();
    let folder = Folder::read(dir, &report);
    let global = folder.files.get("global.cedar").map(|source| (None, "global.cedar".to_owned(), source));
    let own = folder.services.iter().filter_map(|service| {
        let source = service.files.get("access.cedar")?;
        Some((Some(&service.name), format!("{}/access.cedar", service.name), source))
    });
    for (service, label, source) in global.into_iter().chain(own) {
        for (identity, thing) in statements(source, &label, &report) {
            things.insert(Key { service: service.cloned(), kind: Kind::Policy, identity }, thing);
        }
    }
}

fn statements(source: &Source, label: &str, report: &Report) -> Vec<(String, Thing)> {
    let Some(file) = CedarFile::parse(source, label, report) else { return Vec::new() };
    let one = |statement: &super::cedar_file::Statement| {
        let mut thing = Thing::default();
        let meaning = statement.policy.to_json().map(|json| json.to_string()).ok();
        thing.value(STATEMENT, file.line(statement));
        let named = statement.policy.annotation("id").is_some_and(|id| !id.is_empty());
        let identity = match &meaning {
            Some(meaning) if !named => meaning.clone(),
            _ => statement.name.to_string(),
        };
        thing.meaning = meaning;
        thing.shown = Some(statement.name.to_string());
        (identity, thing)
    };
    file.statements.iter().map(one).collect()
}

/// Groups, people and workloads.
fn shared(dir: &Path, set: &PolicySet, things: &mut Inventory) {
    let mut add = |kind, identity: &str, thing| {
        things.insert(Key { service: None, kind, identity: identity.to_owned() }, thing);
    };
    for (name, (members, includes)) in set.groups().listed() {
        let mut thing = Thing::default();
        thing.list("member", members);
        thing.list("included group", includes);
        add(Kind::Group, &name, thing);
    }
    for (name, accounts) in set.people().listed() {
        let mut thing = Thing::default();
        thing.list("account", &accounts);
        // A name is for people to read and may be there twice, or not at all: the accounts tell persons apart.
        let first = accounts.first().map(ToString::to_string).unwrap_or_default();
        thing.shown = Some(name.to_owned()).filter(|name| !name.is_empty());
        add(Kind::Person, &format!("{name} {first}"), thing);
    }
    for issuer in set.workloads().issuers() {
        let mut thing = Thing::default();
        thing.value("preset", issuer.preset.name());
        thing.value("issuer", &issuer.issuer);
        thing.value("audience", &issuer.audience);
        thing.optional("jwks_file", issuer.jwks_file.as_ref().map(|path| file(dir, path)));
        thing.optional("ca", issuer.ca.as_ref().map(|path| file(dir, path)));
        thing.value("allow_loopback", issuer.allow_loopback);
        add(Kind::Issuer, &issuer.name, thing);
    }
    for (place, rule) in set.workloads().rules().iter().enumerate() {
        let mut thing = Thing::default();
        thing.list("group", &rule.groups);
        thing.list("service", &rule.services);
        thing.list("acts for", &rule.acts_for);
        // The first rule that holds names a token or a certificate, so its place is part of what it says.
        thing.value("place", place + 1);
        match &rule.evidence {
            Evidence::Claims { issuer, claims } => {
                thing.value("issuer", issuer);
                thing.list("claim", claims.iter().map(|(name, wanted)| format!("{name} = {}", wanted.shown())));
            }
            Evidence::Spiffe(wanted) => thing.value("spiffe", wanted.shown()),
        }
        add(Kind::TrustRule, &rule.name, thing);
    }
}

/// A file that the folder names, as it is seen from there: two folders are in two places.
fn file(dir: &Path, path: &Path) -> String {
    path.strip_prefix(dir).unwrap_or(path).display().to_string()
}

fn upstream(upstream: &Upstream) -> String {
    let scheme = match (upstream.tls, upstream.protocol) {
        (false, UpstreamProtocol::Http1 | UpstreamProtocol::Auto) => "http",
        (false, UpstreamProtocol::Http2) => "h2c",
        (true, UpstreamProtocol::Http1 | UpstreamProtocol::Auto) => "https",
        (true, UpstreamProtocol::Http2) => "h2",
    };
    let bracketed = upstream.host.contains(':');
    let host = if bracketed { format!("[{}]", upstream.host) } else { upstream.host.clone() };
    format!("{scheme}://{host}:{}", upstream.port)
}

fn injection(dir: &Path, injection: &Injection) -> String {
    let scheme = match &injection.scheme {
        InjectionScheme::Plain => "plain".to_owned(),
        InjectionScheme::Basic { user } => format!("basic as {user}"),
        InjectionScheme::Bearer => "bearer".to_owned(),
    };
    let source = match &injection.secret {
        SecretSource::File(path) => format!("file {}", file(dir, path)),
        SecretSource::Env(name) => format!("variable {name}"),
    };
    format!("{} ({scheme}, from {source})", injection.header)
}

const fn certificate(value: ClientCertificate) -> &'static str {
    match value {
        ClientCertificate::Required => "required",
        ClientCertificate::Optional => "optional",
    }
}

const fn stale(value: OnStale) -> &'static str {
    match value {
        OnStale::Refuse => "refuse",
        OnStale::Continue => "continue",
    }
}

const fn assertion(value: AssertionMode) -> &'static str {
    match value {
        AssertionMode::Session => "session",
        AssertionMode::Request => "request",
        AssertionMode::Off => "off",
    }
}

const fn record(value: RecordMode) -> &'static str {
    match value {
        RecordMode::Durable => "durable",
        RecordMode::Buffered => "buffered",
    }
}
