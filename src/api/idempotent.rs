//! `Idempotency-Key` (draft-ietf-httpapi-idempotency-key-header) before every POST of the API that needs
//! somebody.
//!
//! INVARIANT: only what was done is answered again; a refusal is judged anew. What was done and then not
//! answered, for whatever cause, is not done a second time under its key. A key counts for one principal,
//! so that nobody reads another's answer.

use std::sync::Arc;

use axum::body::{Body, to_bytes};
use axum::extract::{FromRequestParts, Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use crate::control::Desk;
use crate::control::idempotency::{self, Key, Turn};

use super::answer::ApiError;
use super::caller::Proven;
use super::decided::json_text;
use super::fields::BODY_BYTES_MAX;

const KEY_HEADER: HeaderName = HeaderName::from_static("idempotency-key");
/// Says that an answer is of an earlier request.
const REPLAYED_HEADER: HeaderName = HeaderName::from_static("idempotency-replayed");
/// The longest key.
const KEY_BYTES_MAX: usize = 255;
/// The longest answer that is kept.
const ANSWER_BYTES_MAX: usize = 1024 * 1024;

/// Does once what comes with a key.
pub async fn once(State(desk): State<Arc<Desk>>, request: Request, next: Next) -> Response {
    if request.method() != Method::POST || !request.uri().path().starts_with("/api/") {
        return next.run(request).await;
    }
    match key_of(request.headers()) {
        Ok(None) => next.run(request).await,
        Ok(Some(text)) => keyed(&desk, request, next, &text).await.unwrap_or_else(IntoResponse::into_response),
        Err(error) => error.into_response(),
    }
}

fn key_of(headers: &HeaderMap) -> Result<Option<String>, ApiError> {
    let mut all = headers.get_all(&KEY_HEADER).iter();
    let (Some(key), None) = (all.next(), all.next()) else {
        let several = headers.contains_key(&KEY_HEADER);
        return if several { Err(ApiError::Invalid("`Idempotency-Key` is there twice".to_owned())) } else { Ok(None) };
    };
    let key = key.to_str().unwrap_or_default();
    if key.is_empty() || key.len() > KEY_BYTES_MAX || !key.bytes().all(|b| b.is_ascii_graphic() || b == b' ') {
        return Err(ApiError::Invalid(format!("`Idempotency-Key` has 1 to {KEY_BYTES_MAX} printable characters")));
    }
    Ok(Some(key.to_owned()))
}

async fn keyed(desk: &Arc<Desk>, request: Request, next: Next, text: &str) -> Result<Response, ApiError> {
    let (mut parts, body) = request.into_parts();
    let Proven { caller, now } = Proven::from_request_parts(&mut parts, desk).await?;
    let body = to_bytes(body, BODY_BYTES_MAX).await.map_err(|_| ApiError::TooLarge)?;
    let key = Key::of(caller.principal(), parts.uri.path(), text, &body);
    let taken = match idempotency::take(desk, key, now).await? {
        Turn::First(taken) => taken,
        Turn::Repeated { status, answer } => {
            let status = StatusCode::from_u16(status).map_err(|_| ApiError::Internal("a kept status is none"))?;
            let mut response = json_text(status, "application/json", answer.into_bytes());
            response.headers_mut().insert(REPLAYED_HEADER, HeaderValue::from_static("true"));
            return Ok(response);
        }
        Turn::AtWork => return Err(ApiError::AtWork),
        Turn::Done => return Err(ApiError::DoneUnanswered),
        Turn::OtherBody => return Err(ApiError::KeyReused),
    };
    let response = taken.within(next.run(Request::from_parts(parts, Body::from(body)))).await;
    if !response.status().is_success() {
        // A refusal did nothing. A failure may have come before or after it was done.
        let released = match response.status().is_server_error() {
            true => idempotency::release_undone(desk, taken).await,
            false => idempotency::release(desk, taken).await,
        };
        // Should the key not come free, its owner is told so at the next try, and gets it after a while.
        if let Err(error) = released {
            tracing::warn!(%error, "an idempotency key could not be given back");
        }
        return Ok(response);
    }
    let (head, body) = response.into_parts();
    let body = to_bytes(body, ANSWER_BYTES_MAX).await.map_err(|_| ApiError::Internal("an answer is too long"))?;
    let kept = match std::str::from_utf8(&body) {
        Ok(answer) => idempotency::keep(desk, taken, head.status.as_u16(), answer).await,
        Err(_) => return Err(ApiError::Internal("an answer is not UTF-8")),
    };
    // It is done and told; who repeats it is told that it is not known.
    if let Err(error) = kept {
        tracing::warn!(%error, "an answer could not be kept for its idempotency key");
    }
    Ok(Response::from_parts(head, Body::from(body)))
}
