//! `decisions/{id}`.

use std::sync::Arc;

use axum::extract::{Path, State};
use axum::response::Response;

use crate::control::{Desk, decision};
use crate::model::DecisionId;

use super::answer::ApiError;
use super::caller::Proven;
use super::decided::answered;
use super::shape;

/// A decision from the record.
pub async fn fetch(
    State(desk): State<Arc<Desk>>,
    Proven { caller, now }: Proven,
    Path(id): Path<String>,
) -> Result<Response, ApiError> {
    let id = DecisionId::parse(&id).map_err(|_| ApiError::NotFound("there is no such decision"))?;
    let explained = decision::fetch(&desk, &caller, id, now).await?;
    Ok(answered(&shape::decision(explained)))
}
