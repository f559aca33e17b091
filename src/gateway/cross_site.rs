//! Whose page a browser's request comes from: what it sends by itself, cookie and certificate, says who
//! asks and not that they meant to (`Origin`, RFC 6454; `Sec-Fetch-Site`, Fetch Metadata).

use http::{HeaderMap, Method};

use super::canonical::Canonical;
use super::refusal::Refusal;
use super::route::Routed;
use super::worker::Worker;

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
