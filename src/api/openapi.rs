//! `/api/v1/openapi.json`: the API described (OpenAPI 3.1), made from the table of routes and the
//! shapes of `wire/`.

use std::sync::Arc;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use serde_json::{Map, Value, json};

use crate::control::Desk;

use super::decided::json as answer;
use super::{Needs, ROUTES, Route};

/// The document.
pub async fn document(State(desk): State<Arc<Desk>>) -> Response {
    answer(StatusCode::OK, "application/json", &describe(&desk.settings.origin))
}

/// Summary, shape of the answer, and what is sent.
fn words(method: &str, path: &str) -> (&'static str, Option<Value>, Option<Value>) {
    let shape = |name: &str| Some(json!({ "$ref": format!("#/components/schemas/{name}") }));
    let page = |name: &str| {
        Some(json!({
            "type": "object",
            "required": ["items", "next"],
            "properties": {
                "items": { "type": "array", "items": { "$ref": format!("#/components/schemas/{name}") } },
                "next": { "type": ["string", "null"], "description": "The `cursor` of the next page." },
            },
        }))
    };
    let body = |name: &str| {
        Some(json!({ "application/json": { "schema": { "$ref": format!("#/components/schemas/{name}") } } }))
    };
    let form = |fields: &[&str]| {
        let properties: Map<String, Value> =
            fields.iter().map(|name| ((*name).to_owned(), json!({ "type": "string" }))).collect();
        Some(
            json!({ "application/x-www-form-urlencoded": { "schema": { "type": "object", "properties": properties } } }),
        )
    };
    match path {
        "/api/v1/whoami" => ("The caller: principal, session, groups, grants", shape("Whoami"), None),
        "/api/v1/services" => ("All services, and what the caller may do with each", page("Service"), None),
        "/api/v1/entitlements" => ("What may be asked for", page("Entitlement"), None),
        "/api/v1/sessions" => {
            ("Live sessions: one's own, or with `all` those that one may revoke", page("Session"), None)
        }
        "/api/v1/sessions/{id}/revoke" => {
            ("Ends a session; one that is over is answered the same", shape("Session"), body("Revoke"))
        }
        "/api/v1/locks" if method == "GET" => {
            ("Who is barred, for those who may bar or read the record", page("Lock"), None)
        }
        "/api/v1/locks" => ("Bars a principal until the bar is lifted", shape("Lock"), body("NewLock")),
        "/api/v1/locks/clear" => ("Lifts the bar on a principal", shape("Lock"), body("NewLock")),
        "/api/v1/decisions/{id}" => ("A decision, from the record", shape("Decision"), None),
        "/api/v1/audit/events" => ("The record, newest first, or with `after` on from there", page("AuditEvent"), None),
        "/api/v1/audit/export" => {
            ("The record with everything that proves it, as lines of JSON", Some(json!({ "type": "object" })), None)
        }
        "/api/v1/audit/logs" => ("Every log and its size", page("AuditLog"), None),
        "/api/v1/audit/checkpoint" => ("The newest signed checkpoint of every log", page("AuditCheckpoint"), None),
        "/api/v1/audit/inclusion" => ("Proof that an event is in its log (RFC 9162 §2.1.3)", shape("AuditProof"), None),
        "/api/v1/audit/consistency" => ("Proof that a log only grew (RFC 9162 §2.1.4)", shape("AuditProof"), None),
        "/api/v1/openapi.json" => ("This document", Some(json!({ "type": "object" })), None),
        "/oauth2/authorize" => ("Sends a signed-in browser back with a code (RFC 6749 §4.1, PKCE S256)", None, None),
        "/oauth2/token" => (
            "Tokens and a certificate for a code, a refresh token or a device code",
            shape("TokenAnswer"),
            form(&[
                "grant_type",
                "client_id",
                "code",
                "redirect_uri",
                "code_verifier",
                "refresh_token",
                "device_code",
                "csr",
            ]),
        ),
        "/oauth2/device_authorization" => (
            "Begins the sign-in of a device without a browser (RFC 8628)",
            shape("DeviceAuthorization"),
            form(&["client_id"]),
        ),
        "/oauth2/introspect" => {
            ("Whether a token of one's own is good (RFC 7662)", shape("Introspection"), form(&["token"]))
        }
        "/oauth2/revoke" => (
            "Signs out: withdraws a refresh token and ends its session (RFC 7009)",
            None,
            form(&["token", "token_type_hint", "client_id"]),
        ),
        "/oauth2/jwks" => ("Our public keys (RFC 7517)", Some(json!({ "type": "object" })), None),
        "/.well-known/oauth-authorization-server" | "/.well-known/openid-configuration" => {
            ("What this authorization server can do (RFC 8414)", Some(json!({ "type": "object" })), None)
        }
        "/.well-known/oauth-protected-resource" => {
            ("Who issues tokens for this API (RFC 9728)", Some(json!({ "type": "object" })), None)
        }
        _ => ("", None, None),
    }
}

/// The whole document, of a server at `origin`.
#[must_use]
pub fn describe(origin: &str) -> Value {
    let mut paths = Map::new();
    for route in ROUTES {
        let entry = paths.entry(route.path).or_insert_with(|| json!({}));
        if let Some(entry) = entry.as_object_mut() {
            entry.insert(route.method.to_ascii_lowercase(), operation(route));
        }
    }
    json!({
        "openapi": "3.1.0",
        "info": { "title": "Doorward", "version": env!("CARGO_PKG_VERSION"), "license": { "name": "Apache-2.0", "identifier": "Apache-2.0" } },
        "servers": [{ "url": origin }],
        "paths": paths,
        "components": {
            "securitySchemes": {
                "certificate": { "type": "mutualTLS", "description": "The certificate of a session, from `doorward login`." },
                "token": { "type": "http", "scheme": "bearer", "bearerFormat": "JWT" },
                "cookie": { "type": "apiKey", "in": "cookie", "name": "__Host-doorward" },
            },
            "schemas": schemas(),
        },
    })
}

fn operation(route: &Route) -> Value {
    let (summary, answer, sent) = words(route.method, route.path);
    let mut responses = Map::new();
    match answer {
        Some(schema) => {
            responses.insert(
                "200".to_owned(),
                json!({ "description": "Done", "content": { "application/json": { "schema": schema } } }),
            );
        }
        None if route.needs == Needs::Browser => {
            responses.insert("303".to_owned(), json!({ "description": "To the client, or to sign in" }));
        }
        None => {
            responses.insert("200".to_owned(), json!({ "description": "Done" }));
        }
    }
    let oauth = route.path.starts_with("/oauth2/") && route.method == "POST";
    let (kind, schema) =
        if oauth { ("application/json", "OauthError") } else { ("application/problem+json", "Problem") };
    let refused = json!({
        "description": "Refused",
        "content": { kind: { "schema": { "$ref": format!("#/components/schemas/{schema}") } } },
    });
    responses.insert("default".to_owned(), refused);
    let mut operation = json!({ "summary": summary, "responses": responses, "security": security(route.needs) });
    if let Some(operation) = operation.as_object_mut() {
        if let Some(sent) = sent {
            operation.insert("requestBody".to_owned(), json!({ "required": true, "content": sent }));
        }
        let parameters = parameters(route.path);
        if !parameters.is_empty() {
            operation.insert("parameters".to_owned(), parameters.into());
        }
    }
    operation
}

fn security(needs: Needs) -> Value {
    match needs {
        Needs::Nobody => json!([]),
        Needs::Browser => json!([{ "cookie": [] }]),
        Needs::Session => json!([{ "certificate": [] }, { "token": [] }, { "cookie": [] }]),
        Needs::Certificate => json!([{ "certificate": [] }]),
    }
}

fn parameters(path: &str) -> Vec<Value> {
    let parameter = |name: &str, place: &str, required: &str| json!({ "name": name, "in": place, "required": required == "required", "schema": { "type": "string" } });
    match path {
        "/api/v1/sessions" => vec![parameter("all", "query", "optional"), parameter("cursor", "query", "optional")],
        "/oauth2/authorize" => {
            let required = ["response_type", "client_id", "redirect_uri", "code_challenge", "code_challenge_method"];
            let optional = ["state", "login_hint", "provider"];
            let required = required.map(|name| parameter(name, "query", "required"));
            required.into_iter().chain(optional.map(|name| parameter(name, "query", "optional"))).collect()
        }
        "/api/v1/audit/events" => {
            ["from", "to", "service", "actor", "type", "grant", "session", "cursor", "after", "limit"]
                .map(|name| parameter(name, "query", "optional"))
                .to_vec()
        }
        "/api/v1/audit/export" => ["from", "to", "service", "actor", "type", "grant", "session"]
            .map(|name| parameter(name, "query", "optional"))
            .to_vec(),
        "/api/v1/audit/inclusion" => {
            vec![
                parameter("log", "query", "required"),
                parameter("index", "query", "required"),
                parameter("size", "query", "optional"),
            ]
        }
        "/api/v1/audit/consistency" => {
            vec![
                parameter("log", "query", "required"),
                parameter("from", "query", "required"),
                parameter("to", "query", "optional"),
            ]
        }
        path if path.contains("{id}") => vec![parameter("id", "path", "required")],
        _ => Vec::new(),
    }
}

/// An object whose fields are written `name: type`; a `?` after the type says that it may be null.
fn object(fields: &[(&str, &str)]) -> Value {
    let mut properties = Map::new();
    for (name, kind) in fields {
        let (kind, nullable) = kind.strip_suffix('?').map_or((*kind, false), |kind| (kind, true));
        let schema = match kind {
            "time" => json!({ "type": "string", "format": "date-time" }),
            "strings" => json!({ "type": "array", "items": { "type": "string" } }),
            "string" | "integer" | "boolean" => json!({ "type": kind }),
            list if list.ends_with("[]") => {
                json!({ "type": "array", "items": { "$ref": format!("#/components/schemas/{}", list.trim_end_matches("[]")) } })
            }
            reference => json!({ "$ref": format!("#/components/schemas/{reference}") }),
        };
        let schema = if nullable { json!({ "anyOf": [schema, { "type": "null" }] }) } else { schema };
        properties.insert((*name).to_owned(), schema);
    }
    json!({ "type": "object", "properties": properties })
}

fn schemas() -> Value {
    json!({
        "Principal": object(&[("kind", "string"), ("id", "string"), ("name", "string?"), ("email", "string?")]),
        "Device": object(&[("id", "string")]),
        "Session": object(&[
            ("id", "string"), ("kind", "string"), ("principal", "Principal"), ("device", "Device?"),
            ("groups", "strings"), ("created_at", "time"), ("authenticated_at", "time"), ("expires_at", "time"),
            ("certificate_expires_at", "time?"), ("current", "boolean"), ("state", "string"), ("end", "string"),
        ]),
        "Grant": object(&[("id", "string"), ("entitlement", "string"), ("expires_at", "time")]),
        "Whoami": object(&[
            ("principal", "Principal"), ("session", "Session"), ("groups", "strings"), ("grants", "Grant[]"),
            ("expires_at", "time"),
        ]),
        "ServiceAction": object(&[("name", "string"), ("access", "string"), ("entitlement", "string?")]),
        "Service": object(&[
            ("name", "string"), ("description", "string"), ("url", "string"), ("hosts", "strings"),
            ("access", "string"), ("actions", "ServiceAction[]"), ("entitlements", "strings"),
        ]),
        "Entitlement": object(&[
            ("name", "string"), ("description", "string"), ("approvals", "integer"), ("max", "string"),
            ("default", "string"), ("min", "string"), ("reason_required", "boolean"), ("ticket", "string?"),
            ("may_request", "boolean"),
        ]),
        "Revoke": object(&[("reason", "string")]),
        "Lock": object(&[
            ("id", "string"), ("principal", "Principal"), ("reason", "string"), ("set_at", "time"),
            ("active", "boolean"),
        ]),
        "NewLock": object(&[("principal", "string"), ("reason", "string")]),
        "DecisionRequest": object(&[("method", "string"), ("host", "string"), ("path", "string")]),
        "Decision": object(&[
            ("id", "string"), ("time", "time"), ("outcome", "string"), ("reason", "string?"),
            ("principal", "Principal?"), ("action", "string?"), ("service", "string?"), ("request", "DecisionRequest?"),
            ("policy_version", "string?"), ("policies", "strings"), ("errors", "strings"), ("remedy", "Remedy?"),
            ("log", "string?"), ("seq", "integer?"),
        ]),
        "AuditEvent": object(&[
            ("id", "string"), ("time", "time"), ("node", "string"), ("seq", "integer?"), ("type", "string"),
            ("service", "string?"), ("outcome", "string"), ("reason", "string?"), ("decision", "string?"), ("grant", "string?"),
        ]),
        "AuditLog": object(&[("log", "string"), ("size", "integer"), ("opened_at", "time"), ("pruned_to", "integer")]),
        "AuditCheckpoint": object(&[
            ("log", "string"), ("size", "integer"), ("root", "string"), ("time", "time"), ("note", "string"),
        ]),
        "AuditProof": object(&[("log", "string"), ("size", "integer"), ("root", "string"), ("hashes", "strings")]),
        "Remedy": object(&[("kind", "string"), ("entitlement", "string"), ("command", "string")]),
        "Problem": object(&[
            ("type", "string"), ("title", "string"), ("status", "integer"), ("detail", "string"),
            ("decision", "string"), ("reason", "string"), ("remedy", "Remedy"),
        ]),
        "OauthError": object(&[("error", "string"), ("error_description", "string"), ("decision", "string?")]),
        "TokenAnswer": object(&[
            ("access_token", "string"), ("token_type", "string"), ("expires_in", "integer"),
            ("refresh_token", "string"), ("refresh_token_expires_in", "integer"), ("session", "Session"),
            ("certificate", "string"), ("certificate_expires_at", "time"), ("ca", "string"), ("audit_key", "string?"),
        ]),
        "DeviceAuthorization": object(&[
            ("device_code", "string"), ("user_code", "string"), ("verification_uri", "string"),
            ("verification_uri_complete", "string"), ("expires_in", "integer"), ("interval", "integer"),
        ]),
        "Introspection": object(&[
            ("active", "boolean"), ("scope", "string"), ("client_id", "string"), ("token_type", "string"),
            ("exp", "integer"), ("iat", "integer"), ("sub", "string"), ("aud", "string"), ("iss", "string"),
            ("jti", "string"), ("sid", "string"),
        ]),
    })
}
