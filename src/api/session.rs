//! `whoami`, `sessions`, `sessions/{id}/revoke`.

use std::sync::Arc;

use axum::extract::{Extension, Path, RawQuery, State};
use axum::response::Response;

use crate::control::session::{self, Whose};
use crate::control::{Desk, service};
use crate::model::SessionId;
use crate::policy::InstallationAction;
use crate::wire::{Page, Revoke, Whoami};

use super::answer::ApiError;
use super::caller::Proven;
use super::decided::{Trail, answered};
use super::fields::{Fields, Json};
use super::paging::{cursor, limit};
use super::shape;

/// What Doorward knows of the caller.
pub async fn whoami(State(desk): State<Arc<Desk>>, Proven { caller, now }: Proven) -> Response {
    let shown = shape::session(caller.stored(), caller.session().id, now);
    let body = Whoami {
        principal: shape::person(caller.session()),
        expires_at: shown.expires_at,
        session: shown,
        groups: service::groups(&desk, &caller),
        grants: desk.directory.grants(caller.principal(), now).iter().map(shape::grant_in_brief).collect(),
    };
    answered(&body)
}

/// `?all=true&cursor=…`
pub async fn list(
    State(desk): State<Arc<Desk>>,
    Proven { caller, now }: Proven,
    RawQuery(query): RawQuery,
) -> Result<Response, ApiError> {
    let fields = Fields::of_list(query.as_deref(), &["all", "cursor", "limit"])?;
    let whose = whose(&fields)?;
    let before = cursor(&fields, SessionId::parse)?;
    let limit = limit(&fields)?;
    let (mut found, mut next) = session::list(&desk, &caller, whose, before, now).await?;
    if found.len() > limit {
        found.truncate(limit);
        next = found.last().map(|stored| stored.session.id);
    }
    let items = found.iter().map(|stored| shape::session(stored, caller.session().id, now)).collect();
    Ok(answered(&Page { items, next: next.map(|id| id.to_string()) }))
}

/// One's own, or with `all=true` everybody's.
pub(super) fn whose(fields: &Fields) -> Result<Whose, ApiError> {
    match fields.get("all") {
        None | Some("false") => Ok(Whose::Own),
        Some("true") => Ok(Whose::All),
        Some(_) => Err(ApiError::Invalid("`all` is `true` or `false`".to_owned())),
    }
}

/// Ends a session; one that is over is answered the same.
pub async fn revoke(
    State(desk): State<Arc<Desk>>,
    Proven { caller, now }: Proven,
    Extension(trail): Extension<Trail>,
    Path(id): Path<String>,
    Json(body): Json<Revoke>,
) -> Result<Response, ApiError> {
    trail.installation(InstallationAction::Revoke);
    // What can't be an id names no session.
    let id = SessionId::parse(&id).map_err(|_| ApiError::NotFound("there is no such session"))?;
    let ended = session::revoke(&desk, &caller, id, &body.reason, now).await?;
    Ok(answered(&shape::session(&ended, caller.session().id, now)))
}
