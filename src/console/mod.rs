//! The pages of the control host: signing in and out, one's sessions and services, devices, requests.
//!
//! INVARIANTS: pages load nothing from anywhere and run no script; what changes state is a POST from
//! a page of ours, shown by `Origin` and by a form token that follows from the cookie; a form is never sent on to
//! another host but the program that asked for it, since browsers would stop it there without a word; every answer
//! names its decision, and a refusal is on record before it is answered. The API can do all that the
//! pages can.

mod ask;
mod device;
mod form;
mod home;
mod page;
mod program;
mod refusal;
mod request;
mod sign_in;
mod visit;

use std::sync::Arc;

use axum::Router;
use axum::extract::{Request, State};
use axum::http::header::{
    CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, REFERRER_POLICY, RETRY_AFTER, STRICT_TRANSPORT_SECURITY,
    WWW_AUTHENTICATE, X_CONTENT_TYPE_OPTIONS, X_FRAME_OPTIONS,
};
use axum::http::{HeaderName, HeaderValue, StatusCode};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};

use crate::control::{ConnectionFacts, Desk, challenge, refused};
use crate::model::DecisionId;

use program::FormTarget;
use refusal::{Answered, PageError, Refused};

/// Names the decision in every answer.
const DECISION_HEADER: HeaderName = HeaderName::from_static("doorward-decision");
const OPENER_POLICY: HeaderName = HeaderName::from_static("cross-origin-opener-policy");
const CSS: &str = include_str!("console.css");
const POLICY: &str =
    "default-src 'none'; style-src 'self'; img-src data:; form-action 'self'; frame-ancestors 'none'; base-uri 'none'";

/// What a page needs of its visitor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Needs {
    /// Nothing.
    Nobody,
    /// A browser that is signed in, else it is sent to sign in; a form is told so.
    Browser,
}

/// Every route of this room: method, path, what it needs.
pub const ROUTES: &[(&str, &str, Needs)] = &[
    ("GET", "/", Needs::Browser),
    ("GET", "/console.css", Needs::Nobody),
    ("GET", "/signin", Needs::Nobody),
    ("GET", "/signin/callback", Needs::Nobody),
    ("GET", "/signin/service", Needs::Browser),
    ("GET", "/signin/program", Needs::Browser),
    ("POST", "/signin/program", Needs::Browser),
    ("GET", "/signed-in", Needs::Nobody),
    ("GET", "/signed-out", Needs::Nobody),
    ("POST", "/signout", Needs::Browser),
    ("POST", "/sessions/end", Needs::Browser),
    ("GET", "/requests", Needs::Browser),
    ("POST", "/requests", Needs::Browser),
    ("GET", "/requests/new", Needs::Browser),
    ("GET", "/requests/{id}", Needs::Browser),
    ("POST", "/requests/{id}/answer", Needs::Browser),
    ("POST", "/requests/{id}/withdraw", Needs::Browser),
    ("POST", "/grants/{id}/drop", Needs::Browser),
    ("GET", "/device", Needs::Browser),
    ("POST", "/device", Needs::Browser),
    ("POST", "/oauth2/backchannel_logout", Needs::Nobody),
];

/// The pages, to be merged with the API's router, which answers for all other paths.
pub fn router(desk: Arc<Desk>) -> Router {
    let mut router = Router::new()
        .route("/", get(home::home))
        .route("/console.css", get(css))
        .route("/signin", get(sign_in::sign_in))
        .route("/signin/callback", get(sign_in::callback))
        .route("/signin/service", get(sign_in::service))
        .route("/signin/program", get(program::ask).post(program::answer))
        .route("/signed-in", get(sign_in::signed_in))
        .route("/signed-out", get(sign_in::signed_out))
        .route("/signout", post(home::sign_out))
        .route("/sessions/end", post(home::end_session))
        .route("/requests", get(request::list).post(ask::create))
        .route("/requests/new", get(ask::ask))
        .route("/requests/{id}", get(request::show))
        .route("/requests/{id}/answer", post(request::answer))
        .route("/requests/{id}/withdraw", post(request::withdraw))
        .route("/grants/{id}/drop", post(request::drop_grant))
        .route("/oauth2/backchannel_logout", post(sign_in::backchannel_logout));
    if desk.settings.device_code {
        router = router.route("/device", get(device::ask).post(device::answer));
    }
    router
        .method_not_allowed_fallback(async || PageError::Method)
        .layer(from_fn_with_state(Arc::clone(&desk), around))
        .with_state(desk)
}

async fn css() -> Response {
    ([(CONTENT_TYPE, HeaderValue::from_static("text/css; charset=utf-8"))], CSS).into_response()
}

/// Around every answer: the decision's id, refusals written out and recorded, and the headers that
/// keep a page to itself.
async fn around(State(desk): State<Arc<Desk>>, mut request: Request, next: Next) -> Response {
    let now = desk.clock.now();
    let decision = DecisionId::fresh(now, &*desk.entropy);
    let connection = request.extensions().get::<Arc<ConnectionFacts>>().cloned();
    let facts = refusal::facts(&desk, &request);
    // What goes on record on the way, of a sign-in, has the same id.
    request.extensions_mut().insert(decision);
    let page_wanted = refusal::page_wanted(request.headers());
    let path = request.uri().path().to_owned();
    let mut response = next.run(request).await;
    let mut told = None;
    if let Some(mut refused) = response.extensions_mut().remove::<Refused>() {
        told = refused.told();
        let status = response.status();
        let mut written = if page_wanted {
            page::refusal(&mut refused, &path, status, decision)
        } else {
            refused.problem(status, decision)
        };
        *written.status_mut() = status;
        if status == StatusCode::SERVICE_UNAVAILABLE {
            written.headers_mut().insert(RETRY_AFTER, HeaderValue::from_static("2"));
        }
        // RFC 9110 §15.5.2 wants one of every 401; a browser can make nothing of it and shows the page.
        let challenge = (status == StatusCode::UNAUTHORIZED).then(|| challenge::bearer(&desk.settings.origin, false));
        if let Some(challenge) = challenge.and_then(|text| HeaderValue::from_str(&text).ok()) {
            written.headers_mut().insert(WWW_AUTHENTICATE, challenge);
        }
        response = written;
    } else if let Some(Answered(reason)) = response.extensions_mut().remove::<Answered>() {
        told = Some((reason, None));
    }
    if let Some((reason, actor)) = told {
        let event = refused::denial(&desk, reason, actor, connection.as_deref(), facts, decision, now);
        refused::put_on_record(&desk, event).await;
    }
    if let Ok(value) = HeaderValue::from_str(&decision.to_string()) {
        response.headers_mut().insert(DECISION_HEADER, value);
    }
    let policy = match response.extensions_mut().remove::<FormTarget>() {
        Some(FormTarget(target)) => {
            HeaderValue::from_str(&POLICY.replace("form-action 'self'", &format!("form-action 'self' {target}"))).ok()
        }
        None => None,
    };
    let policy = policy.unwrap_or(HeaderValue::from_static(POLICY));
    response.headers_mut().insert(CONTENT_SECURITY_POLICY, policy);
    for (name, value) in [
        // There is no plain HTTP here to go back to (RFC 6797 §7.1).
        (STRICT_TRANSPORT_SECURITY, "max-age=31536000"),
        (X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (X_FRAME_OPTIONS, "DENY"),
        // Not `no-referrer`: with that a browser says `Origin: null` of our own forms.
        (REFERRER_POLICY, "same-origin"),
        (OPENER_POLICY, "same-origin"),
        (CACHE_CONTROL, "no-store"),
    ] {
        response.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    response
}
