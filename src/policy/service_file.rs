//! `service.toml`: hosts, upstreams, routes, limits and entitlements of one service. Strict:
//! unknown keys are errors, and all errors of a file are told at once.

use std::collections::BTreeMap;
use std::path::Path;

use jiff::tz::TimeZone;

use super::diagnostic::{Report, Source};
use super::document::{self, Field, Table};
use super::entitlement::Entitlement;
use super::health;
use super::reading::Reading;
use super::route::{Route, Segment, same_place};
use super::schema;
use super::settings::{
    AssertionMode, ClientCertificate, Injection, InjectionScheme, OnStale, RecordMode, SecretSource, ServiceLimits,
    ServiceSettings, ServiceTimeouts,
};
use super::upstream::{Upstream, UpstreamTls};
use crate::model::{ActionName, ServiceName, Ttl};

/// What a `service.toml` says.
pub(super) struct ServiceFile {
    pub(super) settings: ServiceSettings,
    /// Each with the place of its `match`.
    pub(super) routes: Vec<(Route, usize)>,
    pub(super) exact_paths: bool,
    /// Each with its place.
    pub(super) entitlements: BTreeMap<String, (Entitlement, usize)>,
    /// Each with its place, for the search for hosts named twice.
    pub(super) hosts: Vec<(String, usize)>,
}

/// Headers that the gateway makes or strips itself.
const OWN_HEADERS: [&str; 12] = [
    "host",
    "connection",
    "content-length",
    "transfer-encoding",
    "upgrade",
    "te",
    "trailer",
    "keep-alive",
    "forwarded",
    "traceparent",
    "doorward-assertion",
    "doorward-decision",
];

impl ServiceFile {
    pub(super) fn parse(source: &Source, name: &ServiceName, domain: &str, report: &Report) -> Option<Self> {
        let document = document::parse(source, report)?;
        let mut root = Table::root(source, report, document.get_ref());
        let folder = source.file().parent().unwrap_or(Path::new(""));
        let hosts = hosts(&mut root, name, domain);
        let routes = routes(&mut root, source, report);
        let mut actions: Vec<ActionName> = routes.iter().map(|(route, _)| route.action.clone()).collect();
        actions.sort();
        actions.dedup();
        let entitlements = entitlements(&mut root, name, &actions);
        let settings = ServiceSettings {
            description: root.text("description").unwrap_or_default().to_owned(),
            hosts: hosts.iter().map(|(host, _)| host.clone()).collect(),
            upstreams: upstreams(&mut root),
            upstream_tls: root.take("upstream_tls").and_then(|field| upstream_tls(&field, folder)).unwrap_or_default(),
            client_certificate: choice(
                &mut root,
                "client_certificate",
                &[("required", ClientCertificate::Required), ("optional", ClientCertificate::Optional)],
                ClientCertificate::Required,
            ),
            unbound_bearer: root.boolean("unbound_bearer", false),
            pass_authorization: root.boolean("pass_authorization", false),
            on_stale: choice(
                &mut root,
                "on_stale",
                &[("refuse", OnStale::Refuse), ("continue", OnStale::Continue)],
                OnStale::Refuse,
            ),
            origins: root.list("origins").iter().filter_map(origin).collect(),
            assertion: choice(
                &mut root,
                "assertion",
                &[
                    ("session", AssertionMode::Session),
                    ("request", AssertionMode::Request),
                    ("off", AssertionMode::Off),
                ],
                AssertionMode::Session,
            ),
            encoded_slash: root.boolean("encoded_slash", false),
            record: root.take("record").and_then(|field| {
                field.choice(&[("durable", RecordMode::Durable), ("buffered", RecordMode::Buffered)])
            }),
            limits: root.take("limits").and_then(|field| limits(&field)).unwrap_or_default(),
            timeouts: root.take("timeouts").and_then(|field| timeouts(&field)).unwrap_or_default(),
            health: root.take("health").and_then(|field| health::parse(&field)),
            inject: root.list("inject").iter().filter_map(|field| injection(field, folder)).collect(),
            time_zone: root.take("time_zone").and_then(|field| time_zone(&field)).unwrap_or(TimeZone::UTC),
        };
        let exact_paths = root.boolean("exact_paths", false);
        if !exact_paths {
            warn_of_mistakable(&routes, source, report);
        }
        root.finish();
        Some(Self { settings, routes, exact_paths, entitlements, hosts })
    }
}

fn choice<T: Copy>(table: &mut Table<'_>, key: &'static str, choices: &[(&'static str, T)], default: T) -> T {
    table.take(key).and_then(|field| field.choice(choices)).unwrap_or(default)
}

fn hosts(root: &mut Table<'_>, name: &ServiceName, domain: &str) -> Vec<(String, usize)> {
    let whole = |host: &str| if host.contains('.') { host.to_owned() } else { format!("{host}.{domain}") };
    let Some(field) = root.take("hosts") else {
        return vec![(whole(name.as_str()), 0)];
    };
    let fields = field.list();
    if fields.is_empty() {
        field.error("`hosts` is empty", "name at least one, or leave the key out: then the folder's name is the host");
    }
    let mut hosts: Vec<(String, usize)> = Vec::new();
    for field in fields {
        let Some(text) = field.text() else { continue };
        let host = whole(text);
        let label = |label: &str| {
            let inside = label.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
            !label.is_empty() && label.len() <= 63 && inside && !label.starts_with('-') && !label.ends_with('-')
        };
        if host.len() > 253 || !host.split('.').all(label) {
            field.error(
                format!("`{}` is not a host", text.escape_debug()),
                "lower case, no port, no wildcard; without a dot the installation's domain is added",
            );
        } else if hosts.iter().any(|(known, _)| *known == host) {
            field.error(format!("the host `{host}` is named twice"), "remove one");
        } else {
            hosts.push((host, field.start()));
        }
    }
    hosts
}

fn upstreams(root: &mut Table<'_>) -> Vec<Upstream> {
    let Some(field) = root.require("upstreams", "say where requests go: `upstreams = [\"http://127.0.0.1:9080\"]`")
    else {
        return Vec::new();
    };
    let fields = field.list();
    if fields.is_empty() {
        field.error("`upstreams` is empty", "name at least one");
    }
    let mut found: Vec<Upstream> = Vec::new();
    for field in fields {
        match field.text().map(Upstream::parse) {
            Some(Ok(upstream)) if found.contains(&upstream) => {
                field.error("this upstream is named twice", "remove one")
            }
            Some(Ok(upstream)) => found.push(upstream),
            Some(Err((message, help))) => field.error(message, help),
            None => {}
        }
    }
    found
}

fn routes(root: &mut Table<'_>, source: &Source, report: &Report) -> Vec<(Route, usize)> {
    let help = "a service without routes refuses everything: write `[[route]]` with `match` and `action`";
    let fields = root.require("route", help).map(|field| field.list()).unwrap_or_default();
    let mut found: Vec<(Route, usize)> = Vec::new();
    for field in fields {
        let Some(mut table) = field.table() else { continue };
        let pattern = table.require("match", "write `match = \"GET /status\"`");
        let action = table.require("action", "write `action = \"status\"`").and_then(|field| action(&field));
        table.finish();
        let Some((pattern, text, action)) =
            pattern.and_then(|f| f.text().map(|text| (f, text))).zip(action).map(|((f, t), a)| (f, t, a))
        else {
            continue;
        };
        let route = match Route::parse(text, action) {
            Ok(route) => route,
            Err(error) => {
                pattern.error(error.message, error.help);
                continue;
            }
        };
        if let Some((method, near)) = route.misspelt_method() {
            let message = format!("no such method is known: `{method}`");
            report.warning(source, pattern.start(), message, format!("did you mean `{near}`?"));
        }
        if let Some((earlier, offset)) = found.iter().find(|(earlier, _)| route.collides_with(earlier)) {
            let (line, _) = source.place(*offset);
            report.error(
                source,
                pattern.start(),
                format!(
                    "the route `{}` is never reached: `{}` on line {line} takes the same requests",
                    route.template, earlier.template
                ),
                "remove one, or give them different methods",
            );
            continue;
        }
        found.push((route, pattern.start()));
    }
    found
}

/// Routes that an upstream may serve for one another: the router then takes neither.
fn warn_of_mistakable(routes: &[(Route, usize)], source: &Source, report: &Report) {
    let places: Vec<Vec<Segment>> = routes.iter().map(|(route, _)| route.read(Reading::WIDEST)).collect();
    for (index, ((route, offset), place)) in routes.iter().zip(&places).enumerate() {
        let earlier = routes.iter().zip(&places).take(index).find(|((earlier, _), other)| {
            route.action != earlier.action && route.shares_methods(earlier) && same_place(place, other)
        });
        if let Some(((earlier, _), _)) = earlier {
            let message = format!(
                "to an upstream `{}` may be the same as `{}`: what both would take is refused",
                route.template, earlier.template
            );
            let help = "give both one action, or set `exact_paths = true` if the upstream tells them apart";
            report.warning(source, *offset, message, help);
        }
    }
}

fn action(field: &Field<'_>) -> Option<ActionName> {
    match ActionName::parse(field.text()?) {
        Ok(action) if schema::is_builtin(action.as_str()) => {
            field.error(
                format!("the action `{action}` is built in"),
                "choose another name: built-in actions are about entitlements and the installation, not about requests",
            );
            None
        }
        Ok(action) => Some(action),
        Err(error) => {
            field.error(error.to_string(), "");
            None
        }
    }
}

fn entitlements(
    root: &mut Table<'_>,
    service: &ServiceName,
    actions: &[ActionName],
) -> BTreeMap<String, (Entitlement, usize)> {
    let help = "write `[entitlement.NAME]`; it is asked for as `<service>/NAME`";
    let Some(mut table) = root.take("entitlement").and_then(|field| field.table_like(help)) else {
        return BTreeMap::new();
    };
    table
        .rest()
        .filter_map(|(name, field)| {
            let entitlement = Entitlement::parse(service, name, &field, actions)?;
            Some((name.to_owned(), (entitlement, field.key_start())))
        })
        .collect()
}

fn upstream_tls(field: &Field<'_>, folder: &Path) -> Option<UpstreamTls> {
    let mut table = field.table()?;
    let mut path = |key| table.text(key).map(|text| folder.join(text));
    let (ca, certificate, key) = (path("ca"), path("certificate"), path("key"));
    let server_name = table.text("server_name").map(str::to_owned);
    if certificate.is_some() != key.is_some() {
        table.error("`certificate` and `key` belong together", "give both or neither");
    }
    table.finish();
    Some(UpstreamTls { ca, certificate, key, server_name })
}

/// An origin as browsers send it: `https://host[:port]`.
fn origin(field: &Field<'_>) -> Option<String> {
    let text = field.text()?;
    let parsed = url::Url::parse(text).ok().map(|url| url.origin().ascii_serialization());
    if parsed.as_deref() == Some(text) && (text.starts_with("https://") || text.starts_with("http://")) {
        return Some(text.to_owned());
    }
    let help = parsed.filter(|origin| origin != "null").map_or_else(
        || "write it as browsers do: `https://app.example.com`".to_owned(),
        |origin| format!("browsers write it `{origin}`"),
    );
    field.error(format!("`{}` is not an origin", text.escape_debug()), help);
    None
}

fn limits(field: &Field<'_>) -> Option<ServiceLimits> {
    let mut table = field.table()?;
    let standard = ServiceLimits::default();
    let mut small = |key, default| table.take(key).and_then(|f| f.small_number(1..=10_000_000)).unwrap_or(default);
    let requests_per_second = small("requests_per_second", standard.requests_per_second);
    let burst = small("burst", standard.burst.max(requests_per_second));
    let connections_per_upstream = small("connections_per_upstream", standard.connections_per_upstream);
    let body_bytes_max = table.take("body_bytes_max").and_then(|field| field.number(0..=1 << 50));
    table.finish();
    Some(ServiceLimits { requests_per_second, burst, body_bytes_max, connections_per_upstream })
}

fn timeouts(field: &Field<'_>) -> Option<ServiceTimeouts> {
    let mut table = field.table()?;
    let standard = ServiceTimeouts::default();
    let mut length = |key, default: Ttl| table.duration(key).unwrap_or(default);
    let timeouts = ServiceTimeouts {
        connect: length("connect", standard.connect),
        first_byte: length("first_byte", standard.first_byte),
        body_idle: length("body_idle", standard.body_idle),
        stream_idle: length("stream_idle", standard.stream_idle),
    };
    table.finish();
    Some(timeouts)
}

fn injection(field: &Field<'_>, folder: &Path) -> Option<Injection> {
    let mut table = field.table()?;
    let header = table.require("header", "write `header = \"Authorization\"`").and_then(|field| header(&field));
    let word = table.take("scheme").and_then(|field| field.choice(&[("plain", 0), ("basic", 1), ("bearer", 2)]));
    let user = table.take("user");
    let scheme = match (word.unwrap_or(0), &user) {
        (1, Some(field)) => {
            let user = field.text().unwrap_or_default();
            if user.contains(':') || user.chars().any(char::is_control) {
                field
                    .error("`user` has a `:` or a control character", "basic authentication can't carry it (RFC 7617)");
            }
            InjectionScheme::Basic { user: user.to_owned() }
        }
        (1, None) => {
            table.error("`user` is missing", "`scheme = \"basic\"` needs a `user` beside the secret");
            return None;
        }
        (_, Some(field)) => {
            field.error("`user` belongs to `scheme = \"basic\"`", "remove it, or set the scheme");
            return None;
        }
        (2, None) => InjectionScheme::Bearer,
        (_, None) => InjectionScheme::Plain,
    };
    let secret = table.require("secret", "write `secret = { file = \"…\" }` or `{ env = \"…\" }`");
    let secret = secret.and_then(|field| secret_source(&field, folder));
    table.finish();
    Some(Injection { header: header?, scheme, secret: secret? })
}

fn header(field: &Field<'_>) -> Option<String> {
    let text = field.text()?;
    let token = |b: u8| b.is_ascii_alphanumeric() || b == b'-';
    if text.is_empty() || text.len() > 100 || !text.bytes().all(token) {
        field.error(format!("`{}` is not the name of a header", text.escape_debug()), "letters, digits and `-`");
        return None;
    }
    let lower = text.to_ascii_lowercase();
    if OWN_HEADERS.contains(&lower.as_str()) || lower.starts_with("x-forwarded-") {
        field.error(format!("the header `{text}` is made by the gateway"), "choose another");
        return None;
    }
    Some(text.to_owned())
}

fn secret_source(field: &Field<'_>, folder: &Path) -> Option<SecretSource> {
    let mut table = field.table()?;
    let file = table.text("file");
    let env = table.text("env");
    let source = match (file, env) {
        (Some(file), None) if !file.is_empty() => Some(SecretSource::File(folder.join(file))),
        (None, Some(env)) if !env.is_empty() => Some(SecretSource::Env(env.to_owned())),
        _ => {
            table.error("a secret has exactly one source", "write `{ file = \"…\" }` or `{ env = \"…\" }`");
            None
        }
    };
    table.finish();
    source
}

fn time_zone(field: &Field<'_>) -> Option<TimeZone> {
    let text = field.text()?;
    match TimeZone::get(text) {
        Ok(zone) => Some(zone),
        Err(_) => {
            field.error(
                format!("`{}` is not a time zone known here", text.escape_debug()),
                "write an IANA name like `Europe/Berlin`; the system's tzdata must be installed",
            );
            None
        }
    }
}
