//! Around every answer of the control host: it gets the id of its decision, refusals are written
//! out, and refusals are put on record so that `doorward why` finds them.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use axum::Router;
use axum::extract::{Request, State};
use axum::http::header::{
    ALLOW, AUTHORIZATION, CACHE_CONTROL, CONTENT_TYPE, RETRY_AFTER, STRICT_TRANSPORT_SECURITY, WWW_AUTHENTICATE,
    X_CONTENT_TYPE_OPTIONS,
};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, Version};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use serde::Serialize;

use crate::audit::{Actor, Event, RequestFacts};
use crate::control::decision::DATA_REMEDY;
use crate::control::{ConnectionFacts, Desk, challenge, refused};
use crate::model::{DecisionId, Timestamp};
use crate::policy::InstallationAction;
use crate::wire::problem::PROBLEM_MEDIA_TYPE;
use crate::wire::{OauthError, Problem, Remedy};

use super::answer::{ApiError, Form, Refused};
use super::lost;

/// What is acted on where no service and nobody's thing is.
const INSTALLATION: &str = "Installation::\"doorward\"";

/// Names the decision in every answer.
pub const DECISION_HEADER: HeaderName = HeaderName::from_static("doorward-decision");
/// Names openings of the emergency path that are in force: `brk_…; expires=TIME`, with commas between.
pub const EMERGENCY_HEADER: HeaderName = HeaderName::from_static("doorward-breakglass");
/// The nonce for the next proof of possession (RFC 9449 §8.2), which a refusal has too.
pub(super) const NONCE_HEADER: HeaderName = HeaderName::from_static("dpop-nonce");
/// The longest scheme of `Authorization` that is answered.
const SCHEME_BYTES_MAX: usize = 32;
/// The decision that an answer will name, and who called and for what, noted on the way for the record of what
/// was refused later.
#[derive(Debug, Clone)]
pub(super) struct Trail {
    pub decision: DecisionId,
    noted: Arc<Mutex<Noted>>,
}

#[derive(Debug, Default)]
struct Noted {
    actor: Option<Actor>,
    about: Option<(&'static str, String)>,
}

impl Trail {
    pub fn note(&self, actor: Actor) {
        self.noted().actor = Some(actor);
    }

    /// The action that is asked for, and on what.
    pub fn about(&self, action: &'static str, resource: String) {
        self.noted().about = Some((action, resource));
    }

    /// An action on the installation.
    pub fn installation(&self, action: InstallationAction) {
        self.about(action.name(), INSTALLATION.to_owned());
    }

    fn noted(&self) -> MutexGuard<'_, Noted> {
        self.noted.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_known(&self) -> bool {
        self.noted().actor.is_some()
    }

    fn taken(&self) -> Noted {
        std::mem::take(&mut *self.noted())
    }
}

/// Wraps the routes of the control host. Those that are wrapped already stay as they are.
pub fn decided(router: Router, desk: Arc<Desk>) -> Router {
    router
        .fallback(async || ApiError::NoRoute)
        .method_not_allowed_fallback(async || ApiError::Method)
        .layer(from_fn_with_state(desk, decide))
}

async fn decide(State(desk): State<Arc<Desk>>, mut request: Request, next: Next) -> Response {
    let now = desk.clock.now();
    let decision = DecisionId::fresh(now, &*desk.entropy);
    let trail = Trail { decision, noted: Arc::default() };
    request.extensions_mut().insert(trail.clone());
    let connection = request.extensions().get::<Arc<ConnectionFacts>>().cloned();
    let facts = facts(&desk, &request);
    let scheme = scheme_of(request.headers());
    let is_a_person = lost::is_a_person(request.uri().path(), request.headers());
    let mut response = next.run(request).await;
    if response.headers().contains_key(&DECISION_HEADER) {
        return response;
    }
    if let Some(refused) = response.extensions_mut().remove::<Refused>() {
        let status = response.status();
        if let Some(cause) = &refused.cause {
            tracing::warn!(%decision, cause, "a control request could not be answered");
        }
        if refused.recorded {
            let mut noted = trail.taken();
            noted.actor = refused.actor.clone().map(|actor| *actor).or(noted.actor);
            let event = denial(&desk, &refused, noted, connection.as_deref(), facts, decision, now);
            refused::put_on_record(&desk, event).await;
        }
        let kept = [ALLOW, NONCE_HEADER].map(|name| (response.headers_mut().remove(&name), name));
        response = match refused.reason {
            reason @ "no_route" if is_a_person && status == StatusCode::NOT_FOUND => lost::page(reason, decision),
            _ => written(&desk, refused, status, scheme.as_deref(), decision),
        };
        for (value, name) in kept {
            if let Some(value) = value {
                response.headers_mut().insert(name, value);
            }
        }
    }
    let headers = response.headers_mut();
    if let Ok(value) = HeaderValue::from_str(&decision.to_string()) {
        headers.insert(DECISION_HEADER, value);
    }
    if trail.is_known()
        && let Some(value) = banner(&desk, now)
    {
        headers.insert(EMERGENCY_HEADER, value);
    }
    // There is no plain HTTP here to go back to (RFC 6797 §7.1).
    headers.entry(STRICT_TRANSPORT_SECURITY).or_insert(HeaderValue::from_static("max-age=31536000"));
    // What is about a person or decided for one is kept by nobody, unless a route says otherwise.
    headers.entry(CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}

/// What every signed-in caller is told while the emergency path is open.
fn banner(desk: &Desk, now: Timestamp) -> Option<HeaderValue> {
    let open = desk.directory.emergency.open(now);
    let told: Vec<String> = open.iter().map(|it| format!("{}; expires={}", it.id, it.expires)).collect();
    (!told.is_empty()).then(|| HeaderValue::from_str(&told.join(", ")).ok()).flatten()
}

fn facts(desk: &Desk, request: &Request) -> RequestFacts {
    let protocol = if request.version() == Version::HTTP_2 { "h2" } else { "http/1.1" };
    refused::facts(desk, request.method().as_str(), request.uri().path(), protocol)
}

fn denial(
    desk: &Desk,
    refused: &Refused,
    Noted { actor, about }: Noted,
    connection: Option<&ConnectionFacts>,
    facts: RequestFacts,
    decision: DecisionId,
    now: Timestamp,
) -> Event {
    let mut event = refused::denial(desk, refused.reason, actor, connection, facts, decision, now);
    if let Form::Problem { remedy: Some(remedy), .. } = &refused.form
        && let Ok(remedy) = serde_json::to_value(remedy)
    {
        event = event.with(DATA_REMEDY, remedy);
    }
    if let Some((action, resource)) = about {
        (event.action, event.resource) = (Some(action.into()), Some(resource.into()));
    }
    event
}

/// The scheme by which a client tried to authenticate itself, where it is none of ours.
fn scheme_of(headers: &HeaderMap) -> Option<String> {
    let scheme = headers.get(AUTHORIZATION)?.to_str().ok()?.split(' ').next()?;
    let is_word = (1..=SCHEME_BYTES_MAX).contains(&scheme.len()) && scheme.bytes().all(|b| b.is_ascii_alphanumeric());
    (is_word && !scheme.eq_ignore_ascii_case("bearer")).then(|| scheme.to_owned())
}

fn written(desk: &Desk, refused: Refused, status: StatusCode, scheme: Option<&str>, decision: DecisionId) -> Response {
    let is_oauth = matches!(refused.form, Form::Oauth { .. });
    let decision = Some(decision.to_string());
    let mut response = match refused.form {
        Form::Problem { title, detail, remedy } => {
            // A script finds every member in every refusal.
            let remedy = Some(remedy.unwrap_or_else(|| Remedy::new("none", None)));
            let problem = Problem { detail, decision, remedy, ..Problem::new(status.as_u16(), refused.reason, title) };
            json(status, PROBLEM_MEDIA_TYPE, &problem)
        }
        Form::Oauth { description } => {
            json(status, "application/json", &OauthError::new(refused.reason, &description, decision))
        }
    };
    let headers = response.headers_mut();
    if status == StatusCode::UNAUTHORIZED {
        let challenge = match scheme {
            // A client is answered in the scheme that it used (RFC 6749 §5.2).
            Some(scheme) if is_oauth => format!("{scheme} realm=\"doorward\""),
            _ => challenge::bearer(&desk.settings.origin, refused.reason != "no_credential"),
        };
        if let Ok(challenge) = HeaderValue::from_str(&challenge) {
            headers.insert(WWW_AUTHENTICATE, challenge);
        }
    }
    if status == StatusCode::SERVICE_UNAVAILABLE {
        headers.insert(RETRY_AFTER, HeaderValue::from_static("2"));
    }
    response
}

/// What was asked for, as JSON.
pub(super) fn answered<T: Serialize>(body: &T) -> Response {
    json(StatusCode::OK, "application/json", body)
}

/// A JSON answer of this media type. Our shapes can always be written.
pub(super) fn json<T: Serialize>(status: StatusCode, media_type: &'static str, body: &T) -> Response {
    json_text(status, media_type, serde_json::to_vec(body).unwrap_or_default())
}

/// An answer of JSON that is written already.
pub(super) fn json_text(status: StatusCode, media_type: &'static str, text: Vec<u8>) -> Response {
    (status, [(CONTENT_TYPE, HeaderValue::from_static(media_type))], text).into_response()
}
