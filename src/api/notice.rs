//! `notices` and `notices/{id}/retry`.

use std::sync::Arc;

use axum::extract::{Path, RawQuery, State};
use axum::response::Response;

use crate::control::notice::{self, NoticeError};
use crate::control::{Desk, NoticePlace, NoticeState, StoredNotice};
use crate::model::EventId;
use crate::wire::{Notice, Page, RetryNotice};

use super::answer::ApiError;
use super::caller::Proven;
use super::decided::answered;
use super::fields::{Fields, Json};
use super::paging::limit;

/// The longest name of a channel in bytes.
const CHANNEL_BYTES_MAX: usize = 63;

impl From<NoticeError> for ApiError {
    fn from(error: NoticeError) -> Self {
        let told = error.to_string();
        match error {
            NoticeError::Denied => Self::Denied(told),
            NoticeError::NotFound => Self::NotFound("there is no such notice"),
            NoticeError::NotDead => Self::Conflict("not_dead", told),
            NoticeError::Store(error) => Self::Unavailable(error.to_string()),
        }
    }
}

/// `?state=…&cursor=…&limit=…`
pub async fn list(
    State(desk): State<Arc<Desk>>,
    Proven { caller, now }: Proven,
    RawQuery(query): RawQuery,
) -> Result<Response, ApiError> {
    let fields = Fields::of_list(query.as_deref(), &["state", "cursor", "limit"])?;
    let state = match fields.get("state") {
        None => None,
        Some(word) => Some(
            NoticeState::parse(word)
                .ok_or_else(|| ApiError::Invalid("`state` is one of waiting, delivered, dead".to_owned()))?,
        ),
    };
    let after = fields.get("cursor").map(place).transpose()?;
    let limit = u32::try_from(limit(&fields)?).unwrap_or(1);
    let (found, next) = notice::list(&desk, &caller, state, after.as_ref(), limit, now).await?;
    let next = next.map(|place| format!("{}.{}", place.event, place.channel));
    Ok(answered(&Page { items: found.iter().map(shape).collect(), next }))
}

fn place(text: &str) -> Result<NoticePlace, ApiError> {
    let read = || {
        let (event, channel) = text.split_once('.')?;
        let event = EventId::parse(event).ok()?;
        let is_name = channel.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"_-".contains(&b));
        (is_name && channel.len() <= CHANNEL_BYTES_MAX).then(|| NoticePlace { event, channel: channel.to_owned() })
    };
    read().ok_or_else(|| ApiError::Invalid("`cursor` is the `next` of the page before".to_owned()))
}

/// Has what was given up tried again.
pub async fn retry(
    State(desk): State<Arc<Desk>>,
    Proven { caller, now }: Proven,
    Path(id): Path<String>,
    Json(body): Json<RetryNotice>,
) -> Result<Response, ApiError> {
    // What can't be an id names no notice.
    let id = EventId::parse(&id).map_err(|_| ApiError::from(NoticeError::NotFound))?;
    let again = notice::retry(&desk, &caller, id, body.channel.as_deref(), now).await?;
    Ok(answered(&Page::whole(again.iter().map(shape).collect())))
}

fn shape(notice: &StoredNotice) -> Notice {
    let waits = notice.state == NoticeState::Waiting;
    Notice {
        id: notice.event.to_string(),
        channel: notice.channel.clone(),
        kind: notice.kind.clone(),
        state: notice.state.name().to_owned(),
        attempts: u32::try_from(notice.attempts).unwrap_or(u32::MAX),
        next_at: waits.then(|| notice.next_at.into()),
        error: notice.error.clone(),
        created_at: notice.created_at.into(),
        ended_at: notice.ended_at.map(Into::into),
    }
}
