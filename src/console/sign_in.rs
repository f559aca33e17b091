//! Signing in and out, the way to a service host, and a provider's word that somebody left.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::header::CONTENT_TYPE;
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};

use crate::control::recheck::{self, LogoutError};
use crate::control::return_to::ReturnTo;
use crate::control::sign_in::{self as control, Browser, Callback, FLOW_TTL, SignInError};
use crate::control::{ConnectionFacts, Desk, browser};
use crate::identity::cookie::{FLOW_COOKIE, Presented, SESSION_COOKIE};
use crate::identity::provider::ProviderError;
use crate::model::Ttl;

use super::form::Fields;
use super::page::{ProviderLink, SaidPage, SignInPage, render, see_other};
use super::refusal::{Answered, PageError};
use super::visit::Visit;

/// Where the browser goes afterwards, as the query says.
fn return_to(fields: &Fields) -> Result<ReturnTo, PageError> {
    match fields.get("return_to") {
        None => Ok(ReturnTo::root()),
        Some(text) => ReturnTo::parse_or_root(text)
            .ok_or(PageError::Invalid("the link names a place to return to that is no path of this site")),
    }
}

/// How old the person's proof to their provider may be, as the query says, in seconds.
fn max_age(fields: &Fields) -> Result<Option<Ttl>, PageError> {
    let seconds = fields.get("max_age").map(str::parse::<u32>).transpose();
    let wrong = PageError::Invalid("`max_age` in the link is no number of seconds");
    Ok(seconds.map_err(|_| wrong)?.map(Ttl::seconds))
}

/// `GET /signin?return_to&login_hint&provider&max_age`
pub async fn sign_in(State(desk): State<Arc<Desk>>, visit: Visit) -> Result<Response, PageError> {
    let to = return_to(&visit.query)?;
    let hint = visit.query.get("login_hint");
    let max_age = max_age(&visit.query)?;
    let named = match visit.query.get("provider") {
        Some(name) => name.to_owned(),
        None => {
            let mut providers = desk.providers.iter();
            match (providers.next(), providers.next()) {
                (None, _) => return Err(PageError::NotBegun(SignInError::NoProvider)),
                (Some(only), None) => only.name().to_string(),
                (Some(_), Some(_)) => return Ok(choice(&desk, &to, hint, max_age)),
            }
        }
    };
    let binding = match visit.flow {
        Presented::One(value) => Some(value),
        Presented::Absent | Presented::Bad => None,
    };
    let begun = control::begin(&desk, &named, &to, hint, max_age, binding, visit.now).await;
    let begun = begun.map_err(PageError::NotBegun)?;
    let cookie = begun.binding.set_for(FLOW_COOKIE, FLOW_TTL.as_seconds());
    Ok(see_other(&begun.location, &[cookie]))
}

fn choice(desk: &Desk, to: &ReturnTo, hint: Option<&str>, max_age: Option<Ttl>) -> Response {
    let link = |name: &str| {
        let mut query = form_urlencoded::Serializer::new(String::new());
        query.append_pair("provider", name).append_pair("return_to", to.as_str());
        if let Some(hint) = hint {
            query.append_pair("login_hint", hint);
        }
        if let Some(max_age) = max_age {
            query.append_pair("max_age", &max_age.as_seconds().to_string());
        }
        format!("/signin?{}", query.finish())
    };
    let providers = desk.providers.iter().map(|it| ProviderLink { name: it.name().to_string(), href: link(it.name()) });
    render(&SignInPage { providers: providers.collect() })
}

/// `GET /signin/callback?code&state[&iss]`
pub async fn callback(State(desk): State<Arc<Desk>>, visit: Visit) -> Result<Response, PageError> {
    let field = |name: &str| visit.query.get(name).map(str::to_owned);
    let callback = Callback {
        state: field("state").unwrap_or_default(),
        code: field("code"),
        iss: field("iss"),
        error: field("error"),
    };
    let former = match &visit.session {
        Presented::One(value) => Some(value.hash()),
        Presented::Absent | Presented::Bad => None,
    };
    let browser = Browser { binding: visit.binding(), former: former.as_ref(), connection: &visit.connection };
    let signed_in =
        control::complete(&desk, &callback, browser, visit.decision, visit.now).await.map_err(PageError::Failed)?;
    Ok(see_other(signed_in.return_to.as_str(), &[signed_in.cookie.set(SESSION_COOKIE)]))
}

/// `GET /signin/service?host&return_to&binding`
pub async fn service(State(desk): State<Arc<Desk>>, visit: Visit) -> Result<Response, PageError> {
    let to = return_to(&visit.query)?;
    let host = visit.query.get("host").ok_or(PageError::Invalid("the link names no host"))?;
    let binding = visit.query.get("binding").ok_or(PageError::Invalid("the link is not bound to a browser"))?;
    let visitor = visit.visitor(&desk).await?;
    let location =
        browser::offer(&desk, &visitor.caller, host, &to, binding, visit.now).await.map_err(PageError::Offer)?;
    Ok(see_other(&location, &[]))
}

/// `GET /signed-in`
pub async fn signed_in() -> Response {
    render(&SaidPage {
        title: "You are signed in",
        detail: "You may close this window and go back to your terminal.",
        link: None,
    })
}

/// `GET /signed-out`
pub async fn signed_out() -> Response {
    render(&SaidPage {
        title: "You are signed out",
        detail: "The session is over here and at every service. Your identity provider may still know you.",
        link: Some(("/", "Sign in again")),
    })
}

/// `POST /oauth2/backchannel_logout` (OIDC Back-Channel Logout 1.0 §2.5–2.8)
pub async fn backchannel_logout(State(desk): State<Arc<Desk>>, request: Request) -> Response {
    let now = desk.clock.now();
    let Some(connection) = request.extensions().get::<Arc<ConnectionFacts>>().cloned() else {
        return PageError::Internal.into_response();
    };
    let told = match Fields::form(request).await {
        Ok(form) => form.get("logout_token").map(str::to_owned),
        Err(_) => None,
    };
    let Some(token) = told else {
        return refused(StatusCode::BAD_REQUEST, Some("invalid_request"), "send `logout_token` as a form");
    };
    match recheck::logout(&desk, &token, &connection, now).await {
        Ok(ended) => {
            tracing::info!(ended, "a provider ended sessions");
            StatusCode::OK.into_response()
        }
        Err(error) => {
            tracing::warn!(%error, "a logout token was not obeyed");
            match error {
                // The record is where the database is.
                LogoutError::Store(_) => refused(StatusCode::SERVICE_UNAVAILABLE, None, "try again in a moment"),
                LogoutError::Provider(ProviderError::Unreachable { .. } | ProviderError::AskedJustNow { .. }) => {
                    refused(StatusCode::SERVICE_UNAVAILABLE, Some("provider_unreachable"), "try again in a moment")
                }
                // What exactly is wrong is for our log: the sender may be anybody.
                LogoutError::Unknown | LogoutError::Provider(_) | LogoutError::Replayed => {
                    refused(StatusCode::BAD_REQUEST, Some("bad_credential"), "the logout token is not good")
                }
            }
        }
    }
}

/// A refusal as the specification writes it; with a reason it goes on record.
fn refused(status: StatusCode, reason: Option<&'static str>, description: &'static str) -> Response {
    let body = serde_json::json!({ "error": "invalid_request", "error_description": description });
    let mut response =
        (status, [(CONTENT_TYPE, HeaderValue::from_static("application/json"))], body.to_string()).into_response();
    if let Some(reason) = reason {
        response.extensions_mut().insert(Answered(reason));
    }
    response
}
