//! What clients and upstreams read before anything else: metadata (RFC 8414, OpenID Connect
//! Discovery, RFC 9728) and our public keys (RFC 7517).

use std::sync::Arc;

use axum::extract::State;
use axum::http::header::CACHE_CONTROL;
use axum::http::{HeaderValue, StatusCode};
use axum::response::Response;
use serde_json::json as value;

use crate::control::Desk;
use crate::identity::dpop;
use crate::wire::ServerMetadata;
use crate::wire::oauth::{GRANT_DEVICE_CODE, GRANT_TOKEN_EXCHANGE};

use super::decided::{answered, json};

/// How long the metadata may be kept.
const METADATA_CACHE: HeaderValue = HeaderValue::from_static("public, max-age=300");
/// How long the keys may be kept: less than the next key is published before it signs.
const KEYS_CACHE: HeaderValue = HeaderValue::from_static("public, max-age=300");

fn cached(mut response: Response, cache: HeaderValue) -> Response {
    response.headers_mut().insert(CACHE_CONTROL, cache);
    response
}

fn texts(list: &[&str]) -> Vec<String> {
    list.iter().map(|text| (*text).to_owned()).collect()
}

/// `/.well-known/oauth-authorization-server`, and the same for who asks in OpenID's name.
pub async fn server(State(desk): State<Arc<Desk>>) -> Response {
    let origin = &desk.settings.origin;
    let at = |path: &str| format!("{origin}{path}");
    let mut grants = texts(&["authorization_code", "refresh_token", GRANT_TOKEN_EXCHANGE]);
    if desk.settings.device_code {
        grants.push(GRANT_DEVICE_CODE.to_owned());
    }
    let body = ServerMetadata {
        issuer: origin.clone(),
        authorization_endpoint: at("/oauth2/authorize"),
        token_endpoint: at("/oauth2/token"),
        jwks_uri: at("/oauth2/jwks"),
        device_authorization_endpoint: desk.settings.device_code.then(|| at("/oauth2/device_authorization")),
        revocation_endpoint: at("/oauth2/revoke"),
        introspection_endpoint: at("/oauth2/introspect"),
        response_types_supported: texts(&["code"]),
        response_modes_supported: texts(&["query"]),
        grant_types_supported: grants,
        token_endpoint_auth_methods_supported: texts(&["none"]),
        revocation_endpoint_auth_methods_supported: texts(&["none"]),
        code_challenge_methods_supported: texts(&["S256"]),
        authorization_response_iss_parameter_supported: true,
        tls_client_certificate_bound_access_tokens: true,
        id_token_signing_alg_values_supported: texts(&["ES256"]),
        subject_types_supported: texts(&["public"]),
        dpop_signing_alg_values_supported: texts(&dpop::ALGORITHMS),
        doorward_development: desk.settings.development.then_some(true),
    };
    cached(answered(&body), METADATA_CACHE)
}

/// `/.well-known/oauth-protected-resource`: the control API is a resource too.
pub async fn resource(State(desk): State<Arc<Desk>>) -> Response {
    let origin = &desk.settings.origin;
    let body = value!({
        "resource": origin,
        "authorization_servers": [origin],
        "bearer_methods_supported": ["header"],
        "tls_client_certificate_bound_access_tokens": true,
    });
    cached(answered(&body), METADATA_CACHE)
}

/// `/oauth2/jwks`
pub async fn jwks(State(desk): State<Arc<Desk>>) -> Response {
    let keys = desk.keys.load();
    cached(json(StatusCode::OK, "application/jwk-set+json", keys.public.json()), KEYS_CACHE)
}
