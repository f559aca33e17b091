//! `grants`, `grants/{id}`, `grants/{id}/extend`, `…/drop`, `…/revoke`.

use std::sync::Arc;

use axum::extract::{Path, RawQuery, State};
use axum::response::Response;

use crate::control::Desk;
use crate::control::access::{self, AccessError};
use crate::model::GrantId;
use crate::wire::{Extend, Nothing, Page, Revoke};

use super::access_request::{length, whose};
use super::answer::ApiError;
use super::caller::Proven;
use super::decided::answered;
use super::fields::{Fields, Json};
use super::paging::{cursor, limit};
use super::shape;

/// `?mine|all=true&cursor=…&limit=…`
pub async fn list(
    State(desk): State<Arc<Desk>>,
    Proven { caller, now }: Proven,
    RawQuery(query): RawQuery,
) -> Result<Response, ApiError> {
    let fields = Fields::of_list(query.as_deref(), &["mine", "all", "cursor", "limit"])?;
    let whose = whose(&fields, &["mine", "all"])?;
    let before = cursor(&fields, GrantId::parse)?;
    let (found, next) = access::grant_list(&desk, &caller, whose, before, limit(&fields)?, now).await?;
    let items = found.iter().map(shape::grant).collect();
    Ok(answered(&Page { items, next: next.map(|id| id.to_string()) }))
}

fn id_of(text: &str) -> Result<GrantId, ApiError> {
    // What can't be an id names no grant.
    GrantId::parse(text).map_err(|_| AccessError::NotFound { what: "grant" }.into())
}

/// One grant.
pub async fn fetch(
    State(desk): State<Arc<Desk>>,
    Proven { caller, now }: Proven,
    Path(id): Path<String>,
) -> Result<Response, ApiError> {
    let seen = access::grant_fetch(&desk, &caller, id_of(&id)?, now).await?;
    Ok(answered(&shape::grant(&seen)))
}

/// Asks for more time with a grant: a request of its own.
pub async fn extend(
    State(desk): State<Arc<Desk>>,
    Proven { caller, now }: Proven,
    Path(id): Path<String>,
    Json(body): Json<Extend>,
) -> Result<Response, ApiError> {
    let seen = access::extend(&desk, &caller, id_of(&id)?, length(&body.length)?, now).await?;
    Ok(answered(&shape::access_request(&desk.policies.load(), &seen)))
}

/// Gives a grant back.
pub async fn drop(
    State(desk): State<Arc<Desk>>,
    Proven { caller, now }: Proven,
    Path(id): Path<String>,
    Json(Nothing {}): Json<Nothing>,
) -> Result<Response, ApiError> {
    let seen = access::drop_grant(&desk, &caller, id_of(&id)?, now).await?;
    Ok(answered(&shape::grant(&seen)))
}

/// Ends a grant.
pub async fn revoke(
    State(desk): State<Arc<Desk>>,
    Proven { caller, now }: Proven,
    Path(id): Path<String>,
    Json(body): Json<Revoke>,
) -> Result<Response, ApiError> {
    let seen = access::revoke(&desk, &caller, id_of(&id)?, &body.reason, now).await?;
    Ok(answered(&shape::grant(&seen)))
}
