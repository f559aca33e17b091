//! `/`: who one is, one's sessions, and what there is behind the door.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::response::Response;

use crate::control::service::{self, Reach, Reachable};
use crate::control::session::{self, Whose};
use crate::control::{Desk, StoredSession};
use crate::identity::breakglass::KnownOpening;
use crate::identity::cookie;
use crate::model::{SessionEnd, SessionId, SessionKind};
use crate::policy::ClientCertificate;

use super::form::Fields;
use super::page::{HomePage, OpeningLine, ServiceLine, SessionLine, moment, render, see_other};
use super::refusal::PageError;
use super::request;
use super::visit::{Visit, Visitor};

/// `GET /[?sessions_before]`
pub async fn home(State(desk): State<Arc<Desk>>, visit: Visit) -> Result<Response, PageError> {
    let Visitor { caller, form_token } = visit.visitor(&desk).await?;
    let before = match visit.query.get("sessions_before") {
        None => None,
        Some(id) => {
            Some(SessionId::parse(id).map_err(|_| PageError::Invalid("the link to older sessions is not whole"))?)
        }
    };
    let (sessions, older) = session::list(&desk, &caller, Whose::Own, before, visit.now).await?;
    let session = caller.session();
    let waiting = request::waiting(&desk, &caller, visit.now).await;
    let waiting = waiting.map_err(|error| PageError::Access(Box::new((error, caller.actor()))))?;
    let open = desk.directory.emergency.open(visit.now);
    Ok(render(&HomePage {
        emergencies: open.iter().map(|opening| opening_line(opening)).collect(),
        me: called(&caller),
        principal: session.principal.to_string(),
        email: session.email.clone(),
        groups: service::groups(&desk, &caller),
        sessions: sessions.iter().map(|stored| line(stored, session.id)).collect(),
        services: service::list(&desk, &caller, visit.now).iter().map(|it| service_line(&desk, it)).collect(),
        waiting,
        older: older.map(|id| id.to_string()),
        form_token,
    }))
}

/// How the visitor is called, for people to read.
pub fn called(caller: &crate::control::Caller) -> String {
    let session = caller.session();
    let named = session.name.clone().or_else(|| session.email.clone());
    named.unwrap_or_else(|| session.principal.subject().to_owned())
}

fn line(stored: &StoredSession, current: SessionId) -> SessionLine {
    let session = &stored.session;
    SessionLine {
        id: session.id.to_string(),
        kind: match session.kind {
            SessionKind::Browser => "browser",
            SessionKind::Cli => "command line",
            SessionKind::Workload => "workload",
        },
        device: session.device.as_ref().map(|device| device.id.clone()),
        since: moment(session.created_at),
        until: moment(session.expires_at),
        current: session.id == current,
    }
}

fn opening_line(opening: &KnownOpening) -> OpeningLine {
    OpeningLine {
        id: opening.id.to_string(),
        opener: opening.opener.clone(),
        scope: opening.scope.clone(),
        reason: opening.reason.clone(),
        until: moment(opening.expires),
    }
}

fn service_line(desk: &Desk, reachable: &Reachable) -> ServiceLine {
    let service = &reachable.service;
    let host = service.hosts.first().cloned().unwrap_or_default();
    let any = |wanted: fn(&Reach) -> bool| reachable.actions.iter().any(|(_, reach)| wanted(reach));
    let access = if any(|reach| matches!(reach, Reach::Allowed(_))) {
        "allowed"
    } else if any(|reach| matches!(reach, Reach::Requestable(_))) {
        "can be asked for"
    } else {
        "denied"
    };
    let lets_browsers_in = service.client_certificate == ClientCertificate::Optional;
    ServiceLine {
        name: service.name.to_string(),
        description: service.description.clone(),
        browser: lets_browsers_in && access == "allowed",
        url: desk.settings.url_of(&host),
        access,
        entitlements: reachable.requestable.iter().map(ToString::to_string).collect(),
    }
}

/// `POST /signout`
pub async fn sign_out(State(desk): State<Arc<Desk>>, visit: Visit, request: Request) -> Result<Response, PageError> {
    let form = Fields::form(request).await?;
    let visitor = visit.author(&desk, &form).await?;
    let (id, actor) = (visitor.caller.session().id, visitor.caller.actor());
    session::end(&desk, id, SessionEnd::Logout, &actor, None, visit.now).await?;
    Ok(see_other("/signed-out", &[cookie::unset(cookie::SESSION_COOKIE)]))
}

/// `POST /sessions/end`
pub async fn end_session(State(desk): State<Arc<Desk>>, visit: Visit, request: Request) -> Result<Response, PageError> {
    let form = Fields::form(request).await?;
    let visitor = visit.author(&desk, &form).await?;
    let id = form.get("session").and_then(|id| SessionId::parse(id).ok());
    let id = id.ok_or(PageError::NotFound("there is no such session"))?;
    let reason = form.get("reason").unwrap_or("ended in the console");
    session::revoke(&desk, &visitor.caller, id, reason, visit.now).await.map_err(PageError::Revoke)?;
    if id == visitor.caller.session().id {
        return Ok(see_other("/signed-out", &[cookie::unset(cookie::SESSION_COOKIE)]));
    }
    Ok(see_other("/", &[]))
}
