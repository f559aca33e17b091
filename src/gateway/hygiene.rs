//! Header hygiene: what a client may not tell an upstream, and what an upstream may not tell a client.
//!
//! INVARIANT: after `strip_client_headers` no name is left that any common upstream could take for a
//! statement of this gateway: identity and forwarding names go in every spelling (names are compared
//! with everything but letters and digits folded to `-`), and so does every name with `_`, because
//! CGI-like upstreams can't tell it from `-`. What is ours is written afterwards, by `equip`.
//! Hop-by-hop fields follow RFC 9110 §7.6.1, crumbs RFC 9113 §8.2.3.

use std::sync::Arc;

use http::header::{self, HeaderMap, HeaderName, HeaderValue};

/// Every cookie name that begins so, in any case, is ours.
const OWN_COOKIE_PREFIX: &[u8] = b"__host-doorward";
/// Names are folded into a buffer of this size; a longer one can match by its beginning only.
const FOLDED_BYTES_MAX: usize = 64;

/// Whether the client's `Authorization`, and the `DPoP` proof that belongs to it (RFC 9449), goes on to the upstream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PassAuthorization {
    /// The field is this gateway's.
    Withhold,
    /// The service asks for it: `pass_authorization = true`.
    Pass,
}

/// A cookie of ours came twice, so that nobody can say which one is meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Duplicate;

impl std::fmt::Display for Duplicate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("the cookie was sent more than once")
    }
}

impl std::error::Error for Duplicate {}

/// Hop-by-hop in both directions. `trailer` stays: it announces fields that do travel on.
const HOP_BY_HOP: [&str; 6] = ["connection", "keep-alive", "te", "transfer-encoding", "upgrade", "http2-settings"];

/// Beginnings of folded names that only proxies and identity servers may write: forwarding, identity
/// as the gateways of this world name it, client certificates. Sorted, none the beginning of another.
const RESERVED_PREFIXES: [&str; 54] = [
    "adfs-",
    "cf-access-",
    "cf-connecting-",
    "client-cert",
    "doorward-",
    "fastly-client-",
    "forwarded",
    "impersonate-",
    "iv-",
    "mellon-",
    "oam-",
    "oidc-claim-",
    "proxy-",
    "remote-",
    "shib-",
    "sm-",
    "ssl-",
    "tailscale-",
    "tls-client-",
    "x-accel-",
    "x-amzn-mtls-",
    "x-amzn-oidc-",
    "x-appengine-",
    "x-arr-",
    "x-auth-request-",
    "x-auth-user",
    "x-authenticated-",
    "x-authentik-",
    "x-azure-",
    "x-client-cert",
    "x-client-ssl",
    "x-client-verify",
    "x-cluster-",
    "x-consumer-",
    "x-credential-",
    "x-doorward",
    "x-envoy-",
    "x-forwarded",
    "x-goog-authenticated-",
    "x-goog-iap-",
    "x-middleware-",
    "x-ms-client-principal",
    "x-ms-token-",
    "x-original",
    "x-pomerium-",
    "x-real-",
    "x-remote-",
    "x-remoteuser",
    "x-rewrite",
    "x-spiffe-",
    "x-ssl-",
    "x-tls-",
    "x-vouch-",
    "x-webauth-",
];

/// Whole folded names of the same kind, sorted.
const RESERVED_NAMES: [&str; 56] = [
    "base-url",
    "client-ip",
    "eppn",
    "expect",
    "front-end-https",
    "host-override",
    "https",
    "proxy",
    "real-ip",
    "true-client-ip",
    "via",
    "x-anonymous-consumer",
    "x-auth-email",
    "x-auth-groups",
    "x-auth-id",
    "x-auth-login",
    "x-auth-name",
    "x-auth-roles",
    "x-auth-subject",
    "x-authuser",
    "x-base-url",
    "x-client-dn",
    "x-client-ip",
    "x-client-s-dn",
    "x-client-subject",
    "x-connecting-ip",
    "x-email",
    "x-endpoint-api-userinfo",
    "x-external-ip",
    "x-gateway-user",
    "x-groups",
    "x-gw-user",
    "x-host",
    "x-host-override",
    "x-http-destinationurl",
    "x-http-host-override",
    "x-http-method",
    "x-http-method-override",
    "x-id-token",
    "x-jwt-assertion",
    "x-jwt-payload",
    "x-method-override",
    "x-originating-ip",
    "x-override-url",
    "x-principal",
    "x-proto",
    "x-proxy-url",
    "x-proxyuser-ip",
    "x-roles",
    "x-scheme",
    "x-sendfile-type",
    "x-trusted-ip",
    "x-url-scheme",
    "x-user",
    "x-userinfo",
    "x-username",
];

/// More names of identities: `x-user-…` with one of these; other `x-user-…` names are left to applications.
const RESERVED_USER_SUFFIXES: [&str; 9] = ["dn", "email", "group", "groups", "id", "login", "name", "role", "roles"];

// INVARIANT: the tables are searched by halving.
const _: () = assert!(are_sorted(&RESERVED_PREFIXES, Nested::Refused) && are_sorted(&RESERVED_NAMES, Nested::Allowed));

/// Whether a name may begin with the one before it.
#[derive(Clone, Copy)]
enum Nested {
    Allowed,
    Refused,
}

#[expect(clippy::indexing_slicing, reason = "evaluated by the compiler only, bounds checked by the loops")]
const fn are_sorted(names: &[&str], nested: Nested) -> bool {
    let mut place = 1;
    while place < names.len() {
        let (before, after) = (names[place - 1].as_bytes(), names[place].as_bytes());
        let mut at = 0;
        while at < before.len() && at < after.len() && before[at] == after[at] {
            at += 1;
        }
        let in_order = if at == before.len() {
            at < after.len() && matches!(nested, Nested::Allowed)
        } else {
            at < after.len() && before[at] < after[at]
        };
        if !in_order {
            return false;
        }
        place += 1;
    }
    true
}

/// Whether the client asked for trailers (`TE: trailers`); look before the field is stripped.
#[must_use]
pub fn accepts_trailers(headers: &HeaderMap) -> bool {
    options(headers, &header::TE).any(|option| option.eq_ignore_ascii_case(b"trailers"))
}

/// Takes out of a request what its client may not tell an upstream: hop-by-hop fields and those that
/// `Connection` names, identity and forwarding fields in every spelling, every name with `_`, our own
/// cookies and, unless the service wants it, `Authorization`. `Expect` goes too: it was answered here.
/// What is left of the cookies is one field.
pub fn strip_client_headers(headers: &mut HeaderMap, authorization: PassAuthorization) {
    remove_connection_options(headers);
    let mut doomed: Vec<HeaderName> = Vec::new();
    for name in headers.keys() {
        if is_refused_from_clients(name.as_str())
            || (authorization == PassAuthorization::Withhold
                && (name == header::AUTHORIZATION || name.as_str() == "dpop"))
        {
            doomed.push(name.clone());
        }
    }
    for name in doomed {
        headers.remove(name);
    }
    strip_own_cookies(headers);
}

/// Takes out of a request's trailers all that may not be in a head either, and what only a head may
/// have (RFC 9110 §6.5.1): an upstream that merges trailers would take them for fields of the request.
pub fn strip_client_trailers(trailers: &mut HeaderMap) {
    strip_trailers(trailers, is_refused_from_clients);
}

/// Takes out of a response what is between upstream and gateway only, what is ours to say, cookies
/// of our names, and `Alt-Svc`, which would lead clients past the gateway.
pub fn strip_response_headers(headers: &mut HeaderMap) {
    remove_connection_options(headers);
    let mut doomed: Vec<HeaderName> = Vec::new();
    for name in headers.keys() {
        if is_refused_from_upstreams(name.as_str()) {
            doomed.push(name.clone());
        }
    }
    for name in doomed {
        headers.remove(name);
    }
    strip_own_set_cookies(headers);
}

/// The same for a response's trailers.
pub fn strip_response_trailers(trailers: &mut HeaderMap) {
    strip_trailers(trailers, is_refused_from_upstreams);
}

fn strip_trailers(trailers: &mut HeaderMap, refused: fn(&str) -> bool) {
    let mut doomed: Vec<HeaderName> = Vec::new();
    for name in trailers.keys() {
        let head_only = matches!(
            name.as_str(),
            "authorization"
                | "cookie"
                | "set-cookie"
                | "host"
                | "content-length"
                | "content-type"
                | "content-encoding"
                | "content-range"
                | "trailer"
                | "origin"
                | "cache-control"
                | "max-forwards"
                | "range"
                | "www-authenticate"
                | "dpop"
                | "traceparent"
                | "tracestate"
        );
        if head_only || refused(name.as_str()) {
            doomed.push(name.clone());
        }
    }
    for name in doomed {
        trailers.remove(name);
    }
}

/// The names of the fields that a service's upstream gets from us, folded: a client's own of such a name, in
/// any spelling that an upstream may take for it, would speak in our place.
#[derive(Debug, Clone)]
pub struct Injected(Arc<[Box<str>]>);

impl Injected {
    /// None where nothing is injected.
    #[must_use]
    pub fn of<'a>(names: impl Iterator<Item = &'a HeaderName>) -> Option<Self> {
        let folded: Arc<[Box<str>]> = names.map(|name| folded(name.as_str())).collect();
        (!folded.is_empty()).then_some(Self(folded))
    }

    /// Takes them out of a client's head or trailers.
    pub fn strip(&self, headers: &mut HeaderMap) {
        let is_one = |name: &HeaderName| {
            let bytes = || name.as_str().bytes().map(fold_byte);
            self.0.iter().any(|of| bytes().eq(of.bytes()))
        };
        let doomed: Vec<HeaderName> = headers.keys().filter(|name| is_one(name)).cloned().collect();
        for name in doomed {
            headers.remove(name);
        }
    }
}

fn folded(name: &str) -> Box<str> {
    name.bytes().map(|byte| char::from(fold_byte(byte))).collect::<String>().into()
}

const fn fold_byte(byte: u8) -> u8 {
    if byte.is_ascii_alphanumeric() { byte } else { b'-' }
}

/// The value of a cookie of ours. One that isn't text is given as the empty string: present, and
/// the credential of nobody.
///
/// # Errors
/// It came more than once.
pub fn own_cookie<'a>(headers: &'a HeaderMap, name: &str) -> Result<Option<&'a str>, Duplicate> {
    let mut found = None;
    for crumb in headers.get_all(header::COOKIE).iter().flat_map(crumbs) {
        let mut halves = crumb.splitn(2, |byte| *byte == b'=');
        let same = halves.next().is_some_and(|key| key.trim_ascii() == name.as_bytes());
        if same {
            if found.is_some() {
                return Err(Duplicate);
            }
            found = Some(halves.next().and_then(|value| std::str::from_utf8(value.trim_ascii()).ok()).unwrap_or(""));
        }
    }
    Ok(found)
}

/// Removes the options of `Connection` and all hop-by-hop fields.
fn remove_connection_options(headers: &mut HeaderMap) {
    if headers.contains_key(header::CONNECTION) {
        let named: Vec<HeaderName> = options(headers, &header::CONNECTION)
            .filter(|option| !option.eq_ignore_ascii_case(b"close") && !option.eq_ignore_ascii_case(b"keep-alive"))
            .filter_map(|option| HeaderName::from_bytes(option).ok())
            .collect();
        for name in named {
            headers.remove(name);
        }
    }
}

/// The elements of a comma-separated field, over all its lines.
fn options<'a>(headers: &'a HeaderMap, name: &HeaderName) -> impl Iterator<Item = &'a [u8]> {
    headers.get_all(name).iter().flat_map(|value| value.as_bytes().split(|byte| *byte == b',')).map(<[u8]>::trim_ascii)
}

fn is_refused_from_clients(name: &str) -> bool {
    if is_plain(name) {
        return false;
    }
    if name.contains('_') || HOP_BY_HOP.contains(&name) {
        return true;
    }
    let mut buffer = [0_u8; FOLDED_BYTES_MAX];
    let folded = fold(name, &mut buffer);
    // A name that has one of the beginnings comes right behind it in the order.
    let behind = RESERVED_PREFIXES.partition_point(|prefix| *prefix <= folded);
    behind
        .checked_sub(1)
        .and_then(|place| RESERVED_PREFIXES.get(place))
        .is_some_and(|prefix| folded.starts_with(prefix))
        || (name.len() <= FOLDED_BYTES_MAX && RESERVED_NAMES.binary_search(&folded).is_ok())
        || folded.strip_prefix("x-user-").is_some_and(|suffix| RESERVED_USER_SUFFIXES.contains(&suffix))
}

fn is_refused_from_upstreams(name: &str) -> bool {
    HOP_BY_HOP.contains(&name)
        || name.starts_with("doorward-")
        || matches!(name, "alt-svc" | "proxy-connection" | "proxy-authenticate" | "proxy-authentication-info")
}

/// The names that nearly every request has, so that they cost one look.
fn is_plain(name: &str) -> bool {
    matches!(
        name,
        "host"
            | "user-agent"
            | "accept"
            | "accept-encoding"
            | "accept-language"
            | "content-type"
            | "content-length"
            | "cookie"
            | "origin"
            | "referer"
            | "authorization"
            | "cache-control"
            | "pragma"
            | "traceparent"
            | "tracestate"
            | "sec-fetch-dest"
            | "sec-fetch-mode"
            | "sec-fetch-site"
            | "sec-fetch-user"
            | "sec-ch-ua"
            | "sec-ch-ua-mobile"
            | "sec-ch-ua-platform"
            | "priority"
            | "if-none-match"
            | "if-modified-since"
            | "upgrade-insecure-requests"
            | "range"
    )
}

/// A name with everything but letters and digits turned into `-`; `HeaderName` is lower case already,
/// so most names are their own folded form.
fn fold<'a>(name: &'a str, buffer: &'a mut [u8; FOLDED_BYTES_MAX]) -> &'a str {
    if name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-') {
        return name;
    }
    let mut length = 0;
    for (slot, byte) in buffer.iter_mut().zip(name.bytes()) {
        *slot = fold_byte(byte);
        length += 1;
    }
    buffer.get(..length).and_then(|folded| std::str::from_utf8(folded).ok()).unwrap_or_default()
}

/// Cookie pairs of one field.
fn crumbs(value: &HeaderValue) -> impl Iterator<Item = &[u8]> {
    value.as_bytes().split(|byte| *byte == b';').map(<[u8]>::trim_ascii).filter(|crumb| !crumb.is_empty())
}

/// Whether a pair is of a name of ours. Leading `=` are of a nameless cookie, which browsers send
/// without it and which must not become ours that way.
fn is_own_crumb(crumb: &[u8]) -> bool {
    let start = crumb.iter().position(|byte| *byte != b'=' && !byte.is_ascii_whitespace()).unwrap_or(crumb.len());
    crumb
        .get(start..)
        .and_then(|rest| rest.get(..OWN_COOKIE_PREFIX.len()))
        .is_some_and(|prefix| prefix.eq_ignore_ascii_case(OWN_COOKIE_PREFIX))
}

/// Takes our cookies out and joins what is left into one field; untouched where there is nothing to do.
fn strip_own_cookies(headers: &mut HeaderMap) {
    let mut fields = headers.get_all(header::COOKIE).iter();
    let Some(first) = fields.next() else {
        return;
    };
    if fields.next().is_none() && !crumbs(first).any(is_own_crumb) && !first.is_empty() {
        return;
    }
    let mut kept: Vec<u8> = Vec::new();
    for crumb in headers.get_all(header::COOKIE).iter().flat_map(crumbs).filter(|crumb| !is_own_crumb(crumb)) {
        if !kept.is_empty() {
            kept.extend_from_slice(b"; ");
        }
        kept.extend_from_slice(crumb);
    }
    headers.remove(header::COOKIE);
    if !kept.is_empty()
        && let Ok(mut value) = HeaderValue::from_bytes(&kept)
    {
        value.set_sensitive(true);
        headers.insert(header::COOKIE, value);
    }
}

/// Takes out of a response the cookies of our names.
fn strip_own_set_cookies(headers: &mut HeaderMap) {
    if !headers.get_all(header::SET_COOKIE).iter().any(|value| is_own_crumb(value.as_bytes())) {
        return;
    }
    let kept: Vec<HeaderValue> =
        headers.get_all(header::SET_COOKIE).iter().filter(|value| !is_own_crumb(value.as_bytes())).cloned().collect();
    headers.remove(header::SET_COOKIE);
    for value in kept {
        headers.append(header::SET_COOKIE, value);
    }
}
