//! `audit/who` and `audit/grants/{id}`: the record as people ask it.

use std::sync::Arc;

use axum::extract::{Extension, Path, RawQuery, State};
use axum::response::Response;

use crate::audit::view::AccessRow;
use crate::control::Desk;
use crate::control::audit::read::ReadError;
use crate::control::audit::view::{self, Asked, Found, TIME_MAX};
use crate::model::{GrantId, ServiceName, Timestamp};
use crate::policy::InstallationAction;
use crate::wire::Page;

use super::answer::ApiError;
use super::caller::Proven;
use super::decided::{Trail, answered};
use super::fields::Fields;
use super::paging::limit;

/// The longest name of a person that is looked for.
const PERSON_BYTES_MAX: usize = 512;
const DAY_MILLIS: i64 = 86_400_000;

/// Everything about one grant.
pub async fn grant(
    State(desk): State<Arc<Desk>>,
    Proven { caller, now }: Proven,
    Extension(trail): Extension<Trail>,
    Path(id): Path<String>,
) -> Result<Response, ApiError> {
    trail.installation(InstallationAction::ReadAudit);
    // What can't be an id names no grant.
    let id = GrantId::parse(&id).map_err(|_| ApiError::from(ReadError::NotFound))?;
    let view = view::grant(&desk, &caller, id, now).await?;
    Ok(answered(&view))
}

/// `?from=&to=&service=&person=&cursor=&limit=`; without times: this day, UTC.
pub async fn who(
    State(desk): State<Arc<Desk>>,
    Proven { caller, now }: Proven,
    Extension(trail): Extension<Trail>,
    RawQuery(query): RawQuery,
) -> Result<Response, ApiError> {
    trail.installation(InstallationAction::ReadAudit);
    let known = ["from", "to", "service", "person", "cursor", "limit"];
    let fields = Fields::of_known(query.as_deref(), &known)?;
    let asked = asked(&fields, now)?;
    let limit = limit(&fields)?;
    let cursor = fields.get("cursor").map(place).transpose()?;
    let Found::Rows(rows) = view::who(&desk, &caller, &asked, now).await? else {
        let text = "there is more than can be told at once: ask for a shorter time, or for one `service`";
        return Err(ApiError::Invalid(text.to_owned()));
    };
    let mut rest = rows.into_iter().skip_while(|row| cursor.as_ref().is_some_and(|place| row.place() <= *place));
    let items: Vec<AccessRow> = rest.by_ref().take(limit).collect();
    let next = items.last().filter(|_| rest.next().is_some()).map(written);
    Ok(answered(&Page { items, next }))
}

fn asked(fields: &Fields, now: Timestamp) -> Result<Asked, ApiError> {
    let time = |name: &str| {
        let read = fields.get(name).map(|text| Timestamp::parse(text).ok_or(text)).transpose();
        read.map_err(|_| ApiError::Invalid(format!("`{name}` is a time, 2026-11-22T10:15:00Z")))
    };
    let today = Timestamp::from_millis(now.millis() - now.millis().rem_euclid(DAY_MILLIS));
    let (from, to) = (time("from")?.unwrap_or(today), time("to")?.unwrap_or(now));
    if from >= to {
        return Err(ApiError::Invalid(format!("the time is empty: `from` {from} is not before `to` {to}")));
    }
    if to.since(from) > TIME_MAX {
        return Err(ApiError::Invalid(format!("ask for {TIME_MAX} at most; an export has all times")));
    }
    let service = fields.get("service").map(ServiceName::parse).transpose();
    let service = service.map_err(|_| ApiError::Invalid("`service` is the name of a service".to_owned()))?;
    let person = fields.get("person").map(str::to_owned);
    if person.as_ref().is_some_and(|person| person.len() > PERSON_BYTES_MAX) {
        return Err(ApiError::Invalid(format!("`person` has {PERSON_BYTES_MAX} bytes at most")));
    }
    Ok(Asked { from, to, service, person })
}

/// Where the next page goes on.
fn written(row: &AccessRow) -> String {
    let (person, service, grant, opening) = row.place();
    format!("{person}~{service}~{grant}~{opening}")
}

fn place(text: &str) -> Result<(String, String, String, String), ApiError> {
    let parts: Vec<String> = text.split('~').map(str::to_owned).collect();
    let read = <[String; 4]>::try_from(parts);
    let wrong = |_| ApiError::Invalid("`cursor` is the `next` of an answer before".to_owned());
    read.map(|[person, service, grant, opening]| (person, service, grant, opening)).map_err(wrong)
}
