//! `audit/streams` and `audit/schema`: who gets the record, and what its events look like.

use std::sync::Arc;

use axum::extract::{Extension, State};
use axum::response::Response;

use crate::audit::schema;
use crate::control::Desk;
use crate::control::audit::stream::{self, StreamSeen};
use crate::model::Timestamp;
use crate::policy::InstallationAction;
use crate::wire::{AuditStream, AuditStreamPosition, Page};

use super::answer::ApiError;
use super::caller::Proven;
use super::decided::{Trail, answered};

/// Every stream that is or was configured.
pub async fn list(
    State(desk): State<Arc<Desk>>,
    Proven { caller, now }: Proven,
    Extension(trail): Extension<Trail>,
) -> Result<Response, ApiError> {
    trail.installation(InstallationAction::ReadAudit);
    let found = stream::list(&desk, &caller, now).await?;
    let items = found.iter().map(|seen| shape(seen, now)).collect();
    Ok(answered(&Page::whole(items)))
}

/// The schema of an event; it says nothing of anybody.
pub async fn event_schema(Proven { .. }: Proven) -> Response {
    answered(&schema::line())
}

fn shape(seen: &StreamSeen, now: Timestamp) -> AuditStream {
    let count = |number: i64| u64::try_from(number).unwrap_or(0);
    let stream = &seen.stream;
    let position = |position: &crate::control::audit::StreamPosition| AuditStreamPosition {
        log: position.log.node().to_string(),
        next: position.next,
        size: position.size,
    };
    AuditStream {
        name: stream.name.clone(),
        kind: stream.kind.clone(),
        format: stream.format.clone(),
        state: seen.state(now).name().to_owned(),
        sent: count(stream.sent),
        sent_at: stream.sent_at.map(Into::into),
        lag_events: seen.lag_events(),
        lag_seconds: count(seen.lag(now).as_seconds()),
        failing_since: stream.failing_since.map(Into::into),
        failures: count(stream.failures),
        error: stream.error.clone(),
        positions: seen.positions.iter().map(position).collect(),
    }
}
