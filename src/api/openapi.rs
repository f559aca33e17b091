//! `/api/v1/openapi.json`: the API described (OpenAPI 3.1), made from the table of routes and the
//! shapes of `wire/`.

use std::sync::Arc;

use axum::extract::State;
use axum::response::Response;
use serde_json::{Map, Value, json};

use crate::control::Desk;

use super::decided::answered;
use super::{Needs, ROUTES, Route, schema};

/// The document.
pub async fn document(State(desk): State<Arc<Desk>>) -> Response {
    answered(&describe(&desk.settings.origin))
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
        "/api/v1/requests" if method == "GET" => (
            "Requests: one's own, those that wait for one's answer, or all that concern one",
            page("AccessRequest"),
            None,
        ),
        "/api/v1/requests" => (
            "Asks for an entitlement, or with `dry_run` what it would take",
            shape("AccessRequest"),
            body("NewAccessRequest"),
        ),
        "/api/v1/requests/{id}" => ("A request", shape("AccessRequest"), None),
        "/api/v1/requests/{id}/approvals" if method == "GET" => ("What approvers answered", page("Approval"), None),
        "/api/v1/requests/{id}/approvals" => ("Approves or denies", shape("AccessRequest"), body("NewApproval")),
        "/api/v1/requests/{id}/withdraw" => ("Takes back one's own request", shape("AccessRequest"), body("Nothing")),
        "/api/v1/grants" => ("Grants: one's own, or all that concern one", page("Grant"), None),
        "/api/v1/grants/{id}" => ("A grant", shape("Grant"), None),
        "/api/v1/grants/{id}/extend" => {
            ("Asks for more time with one's own grant", shape("AccessRequest"), body("Extend"))
        }
        "/api/v1/grants/{id}/drop" => ("Gives back one's own grant", shape("Grant"), body("Nothing")),
        "/api/v1/grants/{id}/revoke" => ("Ends a grant", shape("Grant"), body("Revoke")),
        "/api/v1/credentials" => (
            "Certificates and tokens that are good now: one's own, or with `all` those that one may revoke",
            page("Credential"),
            None,
        ),
        "/api/v1/credentials/{id}" => ("A certificate or token that is good now", shape("Credential"), None),
        "/api/v1/credentials/{id}/revoke" => (
            "Withdraws a token, or a certificate together with its session; told as it was",
            shape("Credential"),
            body("Revoke"),
        ),
        "/api/v1/leases" => (
            "Credentials that others made for us and that we are to give back; nothing of that kind is issued yet",
            page("Lease"),
            None,
        ),
        "/api/v1/locks" if method == "GET" => {
            ("Who is barred, for those who may bar or read the record", page("Lock"), None)
        }
        "/api/v1/locks" => ("Bars a principal until the bar is lifted", shape("Lock"), body("NewLock")),
        "/api/v1/locks/clear" => ("Lifts the bar on a principal", shape("Lock"), body("NewLock")),
        "/api/v1/notices" => (
            "Notices and what became of them, newest event first, for those who may read the record or bar",
            page("Notice"),
            None,
        ),
        "/api/v1/notices/{id}/retry" => {
            ("Has what was given up of an event tried again", page("Notice"), body("RetryNotice"))
        }
        "/api/v1/reviews" if method == "GET" => {
            ("Access reviews, newest first, for those who may review", page("Review"), None)
        }
        "/api/v1/reviews" => ("Begins a review of who may do what at a service", shape("Review"), body("StartReview")),
        "/api/v1/reviews/{id}" => ("An access review with its rules and who uses them", shape("Review"), None),
        "/api/v1/reviews/{id}/items/{item}/decision" => (
            "Decides that a rule is kept or to be removed; an earlier decision gives way",
            shape("ReviewRule"),
            body("NewDecision"),
        ),
        "/api/v1/reviews/{id}/close" => {
            ("Closes an access review; what is undecided stays so", shape("Review"), body("Nothing"))
        }
        "/api/v1/breakglass" => ("Openings and emergency grants, newest first", page("Emergency"), None),
        "/api/v1/breakglass/terms" => ("What a challenge must say", shape("BreakGlassTerms"), None),
        "/api/v1/breakglass/check" => {
            ("Whether this node would open", shape("BreakGlassChecked"), body("BreakGlassEvidence"))
        }
        "/api/v1/breakglass/drills" => {
            ("A drill: everything but opening", shape("BreakGlassDrill"), body("BreakGlassEvidence"))
        }
        "/api/v1/breakglass/{id}" => ("An opening or emergency grant", shape("Emergency"), None),
        "/api/v1/breakglass/{id}/close" => {
            ("Closes an opening at this node", shape("BreakGlassClosed"), body("BreakGlassClose"))
        }
        "/api/v1/breakglass/{id}/reviews" => ("Adds the caller's review", shape("Emergency"), body("NewReview")),
        "/api/v1/decisions/{id}" => ("A decision, from the record", shape("Decision"), None),
        "/api/v1/audit/events" => ("The record, newest first, or with `after` on from there", page("AuditEvent"), None),
        "/api/v1/audit/export" => {
            ("The record with everything that proves it, as lines of JSON", Some(json!({ "type": "string" })), None)
        }
        "/api/v1/audit/who" => ("Who had access to what in a time, and how", page("AccessRow"), None),
        "/api/v1/audit/grants/{id}" => {
            ("Everything about one grant, from its request to its last use", shape("GrantView"), None)
        }
        "/api/v1/audit/logs" => ("Every log and its size", page("AuditLog"), None),
        "/api/v1/audit/checkpoint" => ("The newest signed checkpoint of every log", page("AuditCheckpoint"), None),
        "/api/v1/audit/inclusion" => ("Proof that an event is in its log (RFC 9162 §2.1.3)", shape("AuditProof"), None),
        "/api/v1/audit/consistency" => ("Proof that a log only grew (RFC 9162 §2.1.4)", shape("AuditProof"), None),
        "/api/v1/audit/streams" => {
            ("Receivers outside that get the record as it grows, and how far each is", page("AuditStream"), None)
        }
        "/api/v1/audit/schema" => {
            ("The schema of an event (JSON Schema 2020-12)", Some(json!({ "type": "object" })), None)
        }
        "/api/v1/audit/erasures" if method == "GET" => {
            ("People who were erased from the record, newest first, by pseudonym", page("Erasure"), None)
        }
        "/api/v1/audit/erasures" => (
            "Erases a person: their values and salts go, leaves and proofs stay; with `dry_run` tells what would go",
            Some(json!({ "anyOf": [shape("Erasure"), shape("ErasureDryRun")] })),
            body("NewErasure"),
        ),
        "/api/v1/audit/erasures/{id}" => ("An erasure, and what rules hold back of it", shape("Erasure"), None),
        "/api/v1/policies/convergence" => ("Which policies each node has in force", page("NodePolicies"), None),
        "/api/v1/openapi.json" => ("This document", Some(json!({ "type": "object" })), None),
        "/oauth2/authorize" => (
            "Asks the person of a signed-in browser, who sends it back with a code (RFC 6749 §4.1, PKCE S256)",
            None,
            None,
        ),
        "/oauth2/token" => (
            "Tokens and a certificate for a code, a refresh token or a device code; a token for one service by exchange \
             (RFC 8693), which `grant` lets end with that grant. A job that takes one for this API first may say what \
             for, by `wanted_audience`, `wanted_scope` and `wanted_request` (the body of `POST /api/v1/requests`); what \
             it could not have is refused before its own token is used up",
            Some(json!({ "anyOf": [shape("TokenAnswer"), shape("ExchangeAnswer")] })),
            form(&[
                "grant_type",
                "client_id",
                "code",
                "redirect_uri",
                "code_verifier",
                "refresh_token",
                "device_code",
                "csr",
                "subject_token",
                "subject_token_type",
                "actor_token",
                "actor_token_type",
                "may_act",
                "requested_token_type",
                "audience",
                "resource",
                "scope",
                "lifetime",
                "grant",
                "wanted_audience",
                "wanted_scope",
                "wanted_request",
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
            "schemas": schema::all(),
        },
    })
}

fn operation(route: &Route) -> Value {
    let (summary, answer, sent) = words(route.method, route.path);
    let mut responses = Map::new();
    match answer {
        // What is asked for is made, what it would take is told.
        Some(schema) if (route.method, route.path) == ("POST", "/api/v1/requests") => {
            let told = json!({ "$ref": "#/components/schemas/DryRun" });
            for (status, schema) in [("200", told), ("201", schema)] {
                let content = json!({ "application/json": { "schema": schema } });
                responses.insert(status.to_owned(), json!({ "description": "Done", "content": content }));
            }
        }
        Some(schema) => {
            // Lines of JSON, as many as there are events.
            let lines = route.path == "/api/v1/audit/export";
            let media_type = if lines { "application/x-ndjson" } else { "application/json" };
            let content = json!({ media_type: { "schema": schema } });
            responses.insert("200".to_owned(), json!({ "description": "Done", "content": content }));
        }
        None if route.needs == Needs::Browser => {
            responses.insert(
                "303".to_owned(),
                json!({ "description": "To the page that asks, to sign in, or to the client with an error" }),
            );
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
        let parameters = parameters(route);
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

fn parameters(route: &Route) -> Vec<Value> {
    let parameter = |name: &str, place: &str, required: bool, kind: &str| json!({ "name": name, "in": place, "required": required, "schema": schema::of(kind) });
    let query = |name: &str, kind: &str| parameter(name, "query", false, kind);
    let mut found = match (route.method, route.path) {
        ("GET", "/api/v1/sessions") => {
            vec![query("all", "boolean"), query("cursor", "id:ses_"), query("limit", "limit")]
        }
        ("GET", "/api/v1/services") => vec![query("cursor", "cursor"), query("limit", "limit")],
        ("GET", "/api/v1/entitlements") => vec![query("cursor", "cursor"), query("limit", "limit")],
        ("GET", "/api/v1/locks") => vec![query("cursor", "id:lck_"), query("limit", "limit")],
        ("GET", "/api/v1/breakglass") => vec![query("cursor", "id:(brk|grt)_"), query("limit", "limit")],
        ("GET", "/api/v1/credentials") => {
            vec![query("all", "boolean"), query("cursor", "id:crd_"), query("limit", "limit")]
        }
        ("GET", "/api/v1/leases") => {
            vec![query("all", "boolean"), query("cursor", "id:lea_"), query("limit", "limit")]
        }
        ("GET", "/api/v1/requests") => {
            let state = "one:pending|approved|scheduled|active|expired|revoked|dropped|denied|withdrawn|timed_out";
            let flags = ["mine", "to_approve", "all"].map(|name| query(name, "boolean"));
            let page = [query("state", state), query("cursor", "id:req_"), query("limit", "limit")];
            flags.into_iter().chain(page).collect()
        }
        ("GET", "/api/v1/grants") => {
            vec![query("mine", "boolean"), query("all", "boolean"), query("cursor", "id:grt_"), query("limit", "limit")]
        }
        ("GET", "/api/v1/notices") => {
            let state = query("state", "one:waiting|delivered|dead");
            vec![state, query("cursor", "notice_place"), query("limit", "limit")]
        }
        ("GET", "/api/v1/reviews") => {
            let state = query("state", "one:open|closed");
            vec![state, query("service", "service"), query("cursor", "id:rev_"), query("limit", "limit")]
        }
        ("GET", "/api/v1/audit/erasures") => vec![query("cursor", "id:ers_"), query("limit", "limit")],
        (_, "/oauth2/authorize") => {
            let required = ["response_type", "client_id", "redirect_uri", "code_challenge", "code_challenge_method"];
            let optional = ["state", "login_hint", "provider"];
            let required = required.map(|name| parameter(name, "query", true, "string"));
            required.into_iter().chain(optional.map(|name| query(name, "string"))).collect()
        }
        (_, "/api/v1/audit/events") => {
            let text = ["from", "to", "service", "actor", "type", "grant", "session", "cursor", "after"];
            text.map(|name| query(name, "string")).into_iter().chain([query("limit", "integer")]).collect()
        }
        (_, "/api/v1/audit/export") => ["from", "to", "service", "actor", "type", "grant", "session", "rest"]
            .map(|name| query(name, "string"))
            .to_vec(),
        (_, "/api/v1/audit/who") => {
            let text = ["from", "to", "service", "person", "cursor"].map(|name| query(name, "string"));
            text.into_iter().chain([query("limit", "limit")]).collect()
        }
        (_, "/api/v1/audit/inclusion") => {
            vec![
                parameter("log", "query", true, "string"),
                parameter("index", "query", true, "string"),
                query("size", "string"),
            ]
        }
        (_, "/api/v1/audit/consistency") => {
            vec![
                parameter("log", "query", true, "string"),
                parameter("from", "query", true, "string"),
                query("to", "string"),
            ]
        }
        _ => Vec::new(),
    };
    if route.path.contains("{id}") {
        let kind = match route.path.split('/').nth(3) {
            Some("sessions") => "id:ses_",
            Some("requests") => "id:req_",
            Some("grants") => "id:grt_",
            Some("credentials") => "id:crd_",
            Some("decisions") => "id:dec_",
            Some("notices") => "id:evt_",
            Some("reviews") => "id:rev_",
            Some("audit") if route.path.contains("/erasures/") => "id:ers_",
            Some("breakglass") if route.path.ends_with("/close") => "id:brk_",
            Some("audit") => "id:grt_",
            Some("breakglass") => "id:(brk|grt)_",
            _ => "string",
        };
        found.push(parameter("id", "path", true, kind));
    }
    if route.path.contains("{item}") {
        found.push(parameter("item", "path", true, "item"));
    }
    if route.method == "POST" && route.path.starts_with("/api/") && route.needs != Needs::Nobody {
        let key = json!({ "type": "string", "pattern": "^[!-~]{1,255}$" });
        found.push(json!({ "name": "Idempotency-Key", "in": "header", "required": false, "schema": key }));
    }
    found
}
