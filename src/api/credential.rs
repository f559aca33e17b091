//! `credentials`, `credentials/{id}`, `credentials/{id}/revoke`, and `leases`.

use std::sync::Arc;

use axum::extract::{Extension, Path, RawQuery, State};
use axum::response::Response;

use crate::control::Desk;
use crate::control::credential::{self, LEASES};
use crate::model::{CredentialId, LeaseId};
use crate::policy::InstallationAction;
use crate::wire::{Lease, Page, Revoke};

use super::answer::ApiError;
use super::caller::Proven;
use super::decided::{Trail, answered};
use super::fields::{Fields, Json};
use super::paging::{cursor, limit};
use super::session::whose;
use super::shape;

/// `?all=true&cursor=…&limit=…`
pub async fn list(
    State(desk): State<Arc<Desk>>,
    Proven { caller, now }: Proven,
    RawQuery(query): RawQuery,
) -> Result<Response, ApiError> {
    let fields = Fields::of_list(query.as_deref(), &["all", "cursor", "limit"])?;
    let whose = whose(&fields)?;
    let before = cursor(&fields, CredentialId::parse)?;
    let (found, next) = credential::list(&desk, &caller, whose, before, limit(&fields)?, now).await?;
    let items = found.iter().map(shape::credential).collect();
    Ok(answered(&Page { items, next: next.map(|id| id.to_string()) }))
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
    Ok(answered(&shape::credential(&held)))
}

/// Withdraws one.
pub async fn revoke(
    State(desk): State<Arc<Desk>>,
    Proven { caller, now }: Proven,
    Extension(trail): Extension<Trail>,
    Path(id): Path<String>,
    Json(body): Json<Revoke>,
) -> Result<Response, ApiError> {
    trail.installation(InstallationAction::Revoke);
    let held = credential::revoke(&desk, &caller, id_of(&id)?, &body.reason, now).await?;
    Ok(answered(&shape::credential(&held)))
}

/// Leases that are held: there are none, since nothing is issued outside.
pub async fn leases(Proven { .. }: Proven, RawQuery(query): RawQuery) -> Result<Response, ApiError> {
    let fields = Fields::of_list(query.as_deref(), &["all", "cursor", "limit"])?;
    whose(&fields)?;
    limit(&fields)?;
    cursor(&fields, LeaseId::parse)?;
    let [] = LEASES;
    Ok(answered(&Page::<Lease> { items: Vec::new(), next: None }))
}
