//! `locks`, `locks/clear`.

use std::sync::Arc;

use axum::extract::{Extension, RawQuery, State};
use axum::response::Response;

use crate::control::{Desk, lock_by_caller};
use crate::policy::InstallationAction;
use crate::wire::{Lock, NewLock};

use super::answer::ApiError;
use super::caller::Proven;
use super::decided::{Trail, answered};
use super::fields::Json;
use super::paging::{self, Order};
use super::shape;

/// All who are barred, oldest first: `?cursor=…&limit=…`
pub async fn list(
    State(desk): State<Arc<Desk>>,
    Proven { caller, now }: Proven,
    RawQuery(query): RawQuery,
) -> Result<Response, ApiError> {
    let locks = lock_by_caller::list(&desk, &caller, now).await?;
    let items = locks.iter().map(|lock| shape::lock(lock, None, true)).collect();
    Ok(answered(&paging::of_whole(query.as_deref(), items, Order::Ascending, |lock: &Lock| &lock.id)?))
}

/// Bars a principal.
pub async fn set(
    State(desk): State<Arc<Desk>>,
    Proven { caller, now }: Proven,
    Extension(trail): Extension<Trail>,
    Json(body): Json<NewLock>,
) -> Result<Response, ApiError> {
    trail.installation(InstallationAction::Lock);
    let lock = lock_by_caller::set(&desk, &caller, &body.principal, &body.reason, now).await?;
    let person = lock_by_caller::person(&desk, &lock).await;
    let acquaintance = lock_by_caller::acquaintance(&desk, &lock, now).await;
    Ok(answered(&shape::lock_set(&lock, person, acquaintance)))
}

/// Lifts the bar.
pub async fn clear(
    State(desk): State<Arc<Desk>>,
    Proven { caller, now }: Proven,
    Extension(trail): Extension<Trail>,
    Json(body): Json<NewLock>,
) -> Result<Response, ApiError> {
    trail.installation(InstallationAction::Lock);
    let lock = lock_by_caller::clear(&desk, &caller, &body.principal, &body.reason, now).await?;
    let person = lock_by_caller::person(&desk, &lock).await;
    Ok(answered(&shape::lock(&lock, person, false)))
}
