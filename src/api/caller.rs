//! From a request's head to the evidence that `control/caller.rs` judges.

use std::sync::Arc;

use axum::extract::FromRequestParts;
use axum::http::header::{AUTHORIZATION, ORIGIN};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderName, Method};

use crate::control::Desk;
use crate::control::caller::{Caller, ConnectionFacts, Evidence, Provenance, Shown, prove};
use crate::identity::cookie::{self, Presented};
use crate::model::Timestamp;

use super::answer::ApiError;
use super::decided::Trail;

/// Our token, where `Authorization` is the upstream's.
const TOKEN_HEADER: HeaderName = HeaderName::from_static("doorward-token");
const FETCH_SITE_HEADER: HeaderName = HeaderName::from_static("sec-fetch-site");

/// A caller that was proven, and the one `now` of the operation.
pub struct Proven {
    /// Who.
    pub caller: Caller,
    /// When.
    pub now: Timestamp,
}

impl FromRequestParts<Arc<Desk>> for Proven {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, desk: &Arc<Desk>) -> Result<Self, ApiError> {
        let now = desk.clock.now();
        let connection = connection(parts)?;
        let evidence = evidence(desk, parts, &connection);
        let caller = prove(desk, evidence, now).await?;
        if let Some(trail) = parts.extensions.get::<Trail>() {
            trail.note(caller.actor());
        }
        Ok(Self { caller, now })
    }
}

/// The connection that the listener noted.
pub struct Connection(pub Arc<ConnectionFacts>);

impl FromRequestParts<Arc<Desk>> for Connection {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &Arc<Desk>) -> Result<Self, ApiError> {
        connection(parts).map(Self)
    }
}

fn connection(parts: &Parts) -> Result<Arc<ConnectionFacts>, ApiError> {
    parts
        .extensions
        .get::<Arc<ConnectionFacts>>()
        .cloned()
        .ok_or(ApiError::Internal("the listener did not note the connection's facts"))
}

fn evidence<'a>(desk: &Desk, parts: &'a Parts, connection: &'a Arc<ConnectionFacts>) -> Evidence<'a> {
    let cookie = match cookie::presented(&parts.headers, cookie::SESSION_COOKIE) {
        Presented::Absent => Shown::Absent,
        Presented::One(value) => Shown::One(value.hash()),
        Presented::Bad => Shown::Bad,
    };
    Evidence {
        connection,
        cookie,
        bearer: bearer(&parts.headers),
        provenance: provenance(&parts.method, &parts.headers, &desk.settings.origin),
    }
}

/// The one token of a request, from either header.
fn bearer(headers: &HeaderMap) -> Shown<&str> {
    let authorization = headers.get_all(AUTHORIZATION).iter().map(|value| {
        let (scheme, token) = value.to_str().ok()?.split_once(' ')?;
        scheme.eq_ignore_ascii_case("bearer").then_some(token.trim_start())
    });
    let own = headers.get_all(&TOKEN_HEADER).iter().map(|value| value.to_str().ok());
    let mut all = authorization.chain(own);
    match (all.next(), all.next()) {
        (None, _) => Shown::Absent,
        (Some(Some(token)), None) if !token.is_empty() => Shown::One(token),
        _ => Shown::Bad,
    }
}

fn provenance(method: &Method, headers: &HeaderMap, ours: &str) -> Provenance {
    if matches!(*method, Method::GET | Method::HEAD) {
        return Provenance::Safe;
    }
    let mut origins = headers.get_all(ORIGIN).iter();
    // Either of the two that names another site is enough.
    let other = |site: &http::HeaderValue| matches!(site.as_bytes(), b"cross-site" | b"same-site");
    let from_other = headers.get_all(&FETCH_SITE_HEADER).iter().any(other);
    match (origins.next(), origins.next()) {
        (_, Some(_)) => Provenance::OtherPage,
        _ if from_other => Provenance::OtherPage,
        (Some(origin), None) if origin.as_bytes() == ours.as_bytes() => Provenance::OurPage,
        (Some(_), None) => Provenance::OtherPage,
        (None, None) => Provenance::NoPage,
    }
}

/// Whether a browser shows nothing of a session but its cookie: all else would disagree with the cookie that
/// signing in gives.
pub fn has_only_cookie(parts: &Parts) -> bool {
    parts.extensions.get::<Arc<ConnectionFacts>>().is_none_or(|connection| connection.lets_sign_in())
        && !parts.headers.contains_key(AUTHORIZATION)
        && !parts.headers.contains_key(&TOKEN_HEADER)
}

/// Who calls, for endpoints that go on without.
pub async fn proven(
    desk: &Desk,
    parts: &Parts,
    now: Timestamp,
) -> Result<Result<Caller, crate::control::caller::Unproven>, ApiError> {
    let connection = connection(parts)?;
    Ok(prove(desk, evidence(desk, parts, &connection), now).await)
}
