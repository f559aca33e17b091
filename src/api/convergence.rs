//! `policies/convergence`.

use std::sync::Arc;

use axum::extract::State;
use axum::response::Response;

use crate::control::{Desk, convergence};
use crate::wire::{NodePolicies, Page, Time};

use super::answer::ApiError;
use super::caller::Proven;
use super::decided::answered;

/// Which policies each node has in force.
pub async fn list(State(desk): State<Arc<Desk>>, Proven { caller, now }: Proven) -> Result<Response, ApiError> {
    let found = convergence::list(&desk, &caller, now).await?;
    let items = found.into_iter().map(|known| NodePolicies {
        node: known.node.to_string(),
        policy_version: known.version,
        since: known.since.map(Time),
        refused_at: known.refused_at.map(Time),
        agrees: known.agrees,
    });
    Ok(answered(&Page::whole(items.collect())))
}
