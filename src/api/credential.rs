//! `credentials`, `credentials/{id}`, `credentials/{id}/revoke`, and `leases`.

use std::sync::Arc;

use axum::extract::{Path, RawQuery, State};
use axum::http::StatusCode;
use axum::response::Response;

use crate::control::Desk;
use crate::control::credential::{self, LEASES};
use crate::control::session::Whose;
use crate::model::{CredentialId, LeaseId};
use crate::wire::{Lease, Page, Revoke};

use super::answer::ApiError;
use super::caller::Proven;
use super::decided::json;
use super::fields::{Fields, Json};
use super::paging::limit;
use super::shape;

const JSON: &str = "application/json";

fn flag(fields: &Fields, name: &str) -> Result<Whose, ApiError> {
    match fields.get(name) {
        None | Some("false") => Ok(Whose::Own),
        Some("true") => Ok(Whose::All),
        Some(_) => Err(ApiError::Invalid(format!("`{name}` is `true` or `false`"))),
    }
}

/// `?all=true&cursor=…&limit=…`
pub async fn list(
    State(desk): State<Arc<Desk>>,
    Proven { caller, now }: Proven,
    RawQuery(query): RawQuery,
) -> Result<Response, ApiError> {
    let fields = Fields::of_list(query.as_deref(), &["all", "cursor", "limit"])?;
    let whose = flag(&fields, "all")?;
    let before = fields.get("cursor").map(CredentialId::parse).transpose();
    let before = before.map_err(|error| ApiError::Invalid(format!("in `cursor`: {error}")))?;
    let (found, next) = credential::list(&desk, &caller, whose, before, limit(&fields)?, now).await?;
    let items = found.iter().map(shape::credential).collect();
    Ok(json(StatusCode::OK, JSON, &Page { items, next: next.map(|id| id.to_string()) }))
}

fn id_of(text: &str) -> Result<CredentialId, ApiError> {
    // What can't be an id names no credential.
    CredentialId::parse(text).map_err(|_| credential::WithdrawError::NotFound.into())
}

/// One of them.
pub async fn fetch(
    State(desk): State<Arc<Desk>>,
    Proven { caller, now }: Proven,
    Path(id): Path<String>,
) -> Result<Response, ApiError> {
    let held = credential::fetch(&desk, &caller, id_of(&id)?, now).await?;
    Ok(json(StatusCode::OK, JSON, &shape::credential(&held)))
}

/// Withdraws one.
pub async fn revoke(
    State(desk): State<Arc<Desk>>,
    Proven { caller, now }: Proven,
    Path(id): Path<String>,
    Json(body): Json<Revoke>,
) -> Result<Response, ApiError> {
    let held = credential::revoke(&desk, &caller, id_of(&id)?, &body.reason, now).await?;
    Ok(json(StatusCode::OK, JSON, &shape::credential(&held)))
}

/// Leases that are held: there are none, since nothing is issued outside.
pub async fn leases(Proven { .. }: Proven, RawQuery(query): RawQuery) -> Result<Response, ApiError> {
    let fields = Fields::of_list(query.as_deref(), &["all", "cursor", "limit"])?;
    flag(&fields, "all")?;
    limit(&fields)?;
    if let Some(Err(error)) = fields.get("cursor").map(LeaseId::parse) {
        return Err(ApiError::Invalid(format!("in `cursor`: {error}")));
    }
    let [] = LEASES;
    Ok(json(StatusCode::OK, JSON, &Page::<Lease> { items: Vec::new(), next: None }))
}
