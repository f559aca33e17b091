//! `/authorize`: OpenID Connect Core §3.1.2, code flow with PKCE only.
//!
//! INVARIANT: until client and redirect URI are known to be right, nothing is redirected.

use std::sync::Arc;

use axum::Form;
use axum::extract::{Query, State};
use axum::http::{StatusCode, header};
use axum::response::{Html, IntoResponse, Response};
use form_urlencoded::Serializer;

use super::Inner;
use super::memory::Grant;
use super::person::{PEOPLE, Person};

/// Parameters as they came: duplicates are errors (RFC 6749 §3.1).
pub(super) type Parameters = Vec<(String, String)>;

pub(super) async fn by_query(State(inner): State<Arc<Inner>>, Query(parameters): Query<Parameters>) -> Response {
    authorize(&inner, &parameters)
}

pub(super) async fn by_form(State(inner): State<Arc<Inner>>, Form(parameters): Form<Parameters>) -> Response {
    authorize(&inner, &parameters)
}

/// The one value of a parameter; nothing when it is empty, absent or given twice.
pub(super) fn single<'p>(parameters: &'p Parameters, name: &str) -> Option<&'p str> {
    let mut values = parameters.iter().filter(|(key, _)| key == name);
    let value = values.next().map(|(_, value)| value.as_str()).filter(|value| !value.is_empty());
    if values.next().is_some() { None } else { value }
}

fn authorize(inner: &Inner, parameters: &Parameters) -> Response {
    let asked = |name: &str| single(parameters, name);
    if asked("client_id") != Some(&inner.client_id) {
        return refusal_page("this provider does not know that `client_id`");
    }
    let Some(redirect_uri) = asked("redirect_uri").filter(|uri| inner.memory.has_redirect_uri(uri)) else {
        return refusal_page("that `redirect_uri` is not registered, to the letter, for this client");
    };
    let state = asked("state");
    let back = |answer: &[(&str, &str)]| redirect(inner, redirect_uri, state, answer);
    let fail = |code: &str, text: &str| back(&[("error", code), ("error_description", text)]);

    if asked("response_type") != Some("code") {
        return fail("unsupported_response_type", "only response_type=code");
    }
    if asked("response_mode").is_some_and(|mode| mode != "query") {
        return fail("invalid_request", "only response_mode=query");
    }
    if asked("request").is_some() || asked("request_uri").is_some() {
        return fail("request_not_supported", "request objects are not taken");
    }
    let scope = asked("scope").unwrap_or_default();
    if !scope.split(' ').any(|scope| scope == "openid") {
        return fail("invalid_scope", "the scope must have openid in it");
    }
    let challenge = asked("code_challenge").filter(|challenge| {
        challenge.len() == 43 && challenge.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
    });
    let (Some(challenge), Some("S256")) = (challenge, asked("code_challenge_method")) else {
        return fail("invalid_request", "PKCE with S256 is required");
    };
    let prompt = asked("prompt").unwrap_or_default();
    let chosen = asked("login_hint").and_then(Person::named);
    let Some(person) = chosen.filter(|_| prompt != "none") else {
        // There is no session of its own here, so `none` can't be answered with a sign-in.
        return if prompt == "none" { fail("login_required", "nobody is signed in") } else { choice_page(parameters) };
    };
    if inner.memory.is_disabled(person) {
        return fail("access_denied", "this person is disabled");
    }
    let now = inner.now();
    let code = inner.random();
    let grant = Grant {
        person,
        redirect_uri: redirect_uri.to_owned(),
        challenge: challenge.to_owned(),
        nonce: asked("nonce").map(str::to_owned),
        scope: scope.to_owned(),
        sid: inner.random(),
        authenticated_at: now,
    };
    inner.memory.code_insert(code.clone(), grant, now);
    back(&[("code", &code)])
}

fn redirect(inner: &Inner, redirect_uri: &str, state: Option<&str>, answer: &[(&str, &str)]) -> Response {
    let mut query = Serializer::new(String::new());
    query.extend_pairs(answer);
    if let Some(state) = state {
        query.append_pair("state", state);
    }
    // RFC 9207: which provider answers, so that two can't be mixed up.
    query.append_pair("iss", &inner.issuer);
    let joint = if redirect_uri.contains('?') { '&' } else { '?' };
    let location = format!("{redirect_uri}{joint}{}", query.finish());
    (StatusCode::SEE_OTHER, [(header::LOCATION, location)]).into_response()
}

fn refusal_page(message: &str) -> Response {
    (StatusCode::BAD_REQUEST, page("Sign-in refused", &format!("<p>{}</p>", escaped(message)))).into_response()
}

/// Four buttons; each asks the same again with a name.
fn choice_page(parameters: &Parameters) -> Response {
    let hidden: String = parameters
        .iter()
        .filter(|(name, _)| name != "login_hint")
        .map(|(name, value)| format!("<input type=\"hidden\" name=\"{}\" value=\"{}\">", escaped(name), escaped(value)))
        .collect();
    let buttons: String = PEOPLE
        .iter()
        .map(|person| {
            let groups = if person.groups.is_empty() { "no group".to_owned() } else { person.groups.join(", ") };
            format!(
                "<li><button name=\"login_hint\" value=\"{}\">{}</button> <span>{}</span></li>",
                person.name, person.full_name, groups
            )
        })
        .collect();
    let body = format!(
        "<p>This is the provider of <code>doorward dev</code>. It signs in whoever asks; there are no passwords.</p>\
         <form method=\"get\" action=\"/authorize\">{hidden}<ul>{buttons}</ul></form>"
    );
    page("Who are you?", &body).into_response()
}

/// A page without scripts. There is no `form-action` rule: browsers apply it to the redirect that
/// follows, which leads to the gateway.
pub(super) fn page(title: &str, body: &str) -> impl IntoResponse + use<> {
    let html = format!(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><title>{title}</title>\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\"><style>{STYLE}</style></head>\
         <body><main><h1>{title}</h1>{body}</main></body></html>\n"
    );
    let policy = "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'; base-uri 'none'";
    ([(header::CONTENT_SECURITY_POLICY, policy), (header::REFERRER_POLICY, "no-referrer")], Html(html))
}

const STYLE: &str = "body{font:1.1rem/1.5 system-ui,sans-serif;color:#1a1a1a;background:#fff;margin:0}\
main{max-width:34rem;margin:12vh auto;padding:0 1.5rem}ul{list-style:none;padding:0}li{margin:.8rem 0}\
button{font:inherit;padding:.5rem 1rem;min-width:11rem;text-align:left;border:1px solid #444;border-radius:.4rem;background:#f3f3f3;cursor:pointer}\
button:focus-visible{outline:3px solid #06c}span{color:#444;margin-left:.5rem}";

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;").replace('\'', "&#39;")
}
