//! Whose page a browser's request comes from: what it sends by itself, cookie and certificate, says who
//! asks and not that they meant to (`Origin`, RFC 6454; `Sec-Fetch-Site`, Fetch Metadata).

use http::header::{
    ACCESS_CONTROL_ALLOW_CREDENTIALS, ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS,
    ACCESS_CONTROL_ALLOW_ORIGIN, ACCESS_CONTROL_MAX_AGE, ACCESS_CONTROL_REQUEST_HEADERS, ACCESS_CONTROL_REQUEST_METHOD,
    ORIGIN, VARY,
};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Response, StatusCode};

use super::body::Body;
use super::canonical::Canonical;
use super::refusal::Refusal;
use super::route::Routed;
use super::worker::Worker;

/// Fields of a request that are a credential of ours: a page of another origin has none to give.
const OWN_CREDENTIALS: [&str; 3] = ["authorization", "doorward-token", "dpop"];

/// A browser sends cookie and certificate by itself, also for another site's page: then an unsafe
/// method or an upgrade is refused unless the service lists the origin.
pub(super) fn not_cross_site(worker: &Worker, routed: &Routed, headers: &HeaderMap) -> Result<(), Refusal> {
    let Canonical { method, host, upgrade, .. } = &routed.canonical;
    if !is_unsafe(method) && upgrade.is_none() {
        return Ok(());
    }
    let origins = headers.get_all(http::header::ORIGIN);
    let mut listed = false;
    for origin in &origins {
        let own = is_own_origin(origin.as_bytes(), host, worker.shared.settings.public_port);
        listed = routed.entry.service.origins.iter().any(|o| o.as_bytes() == origin.as_bytes());
        if !own && !listed {
            return Err(Refusal::CrossSite);
        }
    }
    for site in &headers.get_all("sec-fetch-site") {
        if !listed && !matches!(site.as_bytes(), b"same-origin" | b"none") {
            return Err(Refusal::CrossSite);
        }
    }
    Ok(())
}

/// What a browser that asks first is told (a preflight, Fetch §3.2.2), where the service lists the page's
/// origin. It asks without any credential, so nobody could be let through for it: the answer is ours, names
/// nobody and goes nowhere, and the request that follows passes every step.
pub(super) fn preflight(routed: &Routed, headers: &HeaderMap) -> Option<Response<Body>> {
    let origins = &routed.entry.service.origins;
    if origins.is_empty() || routed.canonical.method != Method::OPTIONS {
        return None;
    }
    let origin = only(headers, &ORIGIN)?;
    let method = only(headers, &ACCESS_CONTROL_REQUEST_METHOD)?;
    let wanted = headers.get(ACCESS_CONTROL_REQUEST_HEADERS);
    let is_listed = origins.iter().any(|listed| listed.as_bytes() == origin.as_bytes());
    let are_words = |value: &HeaderValue, between: &[u8]| {
        value
            .as_bytes()
            .iter()
            .all(|byte| byte.is_ascii_alphanumeric() || b"-_.~!#$%&'*+^`|".contains(byte) || between.contains(byte))
    };
    // Nobody's page brings a credential of ours.
    let is_ours =
        |name: &[u8]| OWN_CREDENTIALS.iter().any(|own| own.as_bytes().eq_ignore_ascii_case(name.trim_ascii()));
    let brings_ours = wanted.is_some_and(|names| names.as_bytes().split(|byte| *byte == b',').any(is_ours));
    if brings_ours {
        return None;
    }
    if !is_listed || !are_words(method, b"") || wanted.is_some_and(|names| !are_words(names, b", ")) {
        return None;
    }
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::NO_CONTENT;
    let answer = response.headers_mut();
    answer.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin.clone());
    answer.insert(ACCESS_CONTROL_ALLOW_CREDENTIALS, HeaderValue::from_static("true"));
    answer.insert(ACCESS_CONTROL_ALLOW_METHODS, method.clone());
    if let Some(names) = wanted {
        answer.insert(ACCESS_CONTROL_ALLOW_HEADERS, names.clone());
    }
    // Short: the list may change with the next policies.
    answer.insert(ACCESS_CONTROL_MAX_AGE, HeaderValue::from_static("60"));
    answer.insert(VARY, HeaderValue::from_static("Origin"));
    Some(response)
}

/// The value of a field that is there exactly once.
fn only<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a HeaderValue> {
    let mut values = headers.get_all(name).iter();
    values.next().filter(|_| values.next().is_none())
}

/// `https://HOST` with our port, or without one where it is 443.
fn is_own_origin(origin: &[u8], host: &str, port: u16) -> bool {
    let Some(rest) = std::str::from_utf8(origin).ok().and_then(|text| text.strip_prefix("https://")) else {
        return false;
    };
    match rest.rsplit_once(':') {
        Some((name, digits)) if digits.bytes().all(|b| b.is_ascii_digit()) => {
            name.eq_ignore_ascii_case(host) && digits.parse() == Ok(port)
        }
        _ => rest.eq_ignore_ascii_case(host) && port == 443,
    }
}

/// Whether a request changes something, as its method says (RFC 9110 §9.2.1).
fn is_unsafe(method: &Method) -> bool {
    !matches!(*method, Method::GET | Method::HEAD | Method::OPTIONS)
}
