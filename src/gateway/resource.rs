//! What a service host says of itself to clients that come with tokens (RFC 9728). Public, like that
//! of the control host: it names no more than the host's own name does.

use http::header::{CACHE_CONTROL, CONTENT_TYPE, STRICT_TRANSPORT_SECURITY};
use http::{HeaderValue, Method, Response};
use serde_json::json;

use crate::control::challenge::METADATA_PATH;
use crate::identity::dpop;
use crate::policy::ClientCertificate;

use super::body::Body;
use super::refusal::STRICT_TRANSPORT;
use super::route::Routed;
use super::worker::Worker;

/// Where clients reach the service, without a slash at its end.
#[must_use]
pub fn address(worker: &Worker, routed: &Routed) -> String {
    let (host, port) = (&routed.canonical.host, worker.shared.settings.public_port);
    if port == 443 { format!("https://{host}") } else { format!("https://{host}:{port}") }
}

/// The metadata, where it is asked for.
#[must_use]
pub fn metadata(worker: &Worker, routed: &Routed) -> Option<Response<Body>> {
    let canonical = &routed.canonical;
    if canonical.path != METADATA_PATH || !matches!(canonical.method, Method::GET | Method::HEAD) {
        return None;
    }
    let (origin, service) = (&worker.shared.settings.origin, &routed.entry.service);
    let scopes: Vec<&str> = service.actions().map(crate::model::ActionName::as_str).collect();
    let unbound = service.unbound_bearer || service.client_certificate == ClientCertificate::Optional;
    // No `jwks_uri`: that would be keys of the service itself, and these are its authorization server's.
    let body = json!({
        "resource": address(worker, routed),
        "resource_name": service.description,
        "authorization_servers": [origin],
        "scopes_supported": scopes,
        "bearer_methods_supported": ["header"],
        "tls_client_certificate_bound_access_tokens": true,
        "dpop_signing_alg_values_supported": dpop::ALGORITHMS,
        "dpop_bound_access_tokens_required": false,
        "doorward_unbound_tokens": unbound,
    });
    let mut response = Response::new(Body::full(format!("{body}\n")));
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("public, max-age=300"));
    headers.insert(STRICT_TRANSPORT_SECURITY, STRICT_TRANSPORT);
    Some(response)
}
