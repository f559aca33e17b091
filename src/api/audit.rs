//! `audit/…`: the record read, followed, exported, and proven.

use std::sync::Arc;

use axum::body::{Body, Bytes};
use axum::extract::{Extension, RawQuery, State};
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use data_encoding::BASE64;
use serde_json::value::RawValue;
use serde_json::{Value, json};

use crate::audit::checkpoint::LogName;
use crate::audit::evidence::{Head, end_line};
use crate::audit::filter::{Filter, FilterText};
use crate::audit::line::event_json;
use crate::audit::proof::{consistency_ranges, inclusion_ranges};
use crate::control::Desk;
use crate::control::audit::export::{self, Export, Missing};
use crate::control::audit::read::{self, Positions};
use crate::control::audit::tree::range_hashes;
use crate::control::audit::{Recorded, StoredCheckpoint};
use crate::model::{EventId, NodeId};
use crate::policy::InstallationAction;
use crate::wire::Page;

use super::answer::ApiError;
use super::caller::Proven;
use super::decided::{Trail, answered};
use super::fields::Fields;
use super::paging::cursor;

/// Events of a page unless another number is asked for.
const PAGE: u32 = 100;
/// And at most.
const PAGE_MAX: u32 = 1000;

fn filter(desk: &Desk, fields: &Fields) -> Result<Filter, ApiError> {
    let text = |name: &str| fields.get(name).map(str::to_owned);
    let actor = fields.get("actor").map(|text| read::pseudonym(desk, text)).transpose()?;
    let written = FilterText {
        from: text("from"),
        to: text("to"),
        kind: text("type"),
        service: text("service"),
        actor,
        grant: text("grant"),
        session: text("session"),
    };
    Filter::parse(&written).map_err(|what| ApiError::Invalid(what.to_owned()))
}

fn number(fields: &Fields, name: &str) -> Result<Option<u64>, ApiError> {
    let read = fields.get(name).map(str::parse::<u64>).transpose();
    read.map_err(|_| ApiError::Invalid(format!("`{name}` is a whole number")))
}

fn items(events: &[Recorded]) -> Vec<Box<RawValue>> {
    let of = |event: &Recorded| RawValue::from_string(event_json(&event.log, event.seq, &event.sealed)).ok();
    events.iter().filter_map(of).collect()
}

/// `?from=&to=&service=&actor=&type=&grant=&session=&cursor=&limit=`, newest first; with `after` (empty
/// at first, then what `next` said) what came since, oldest first.
pub async fn events(
    State(desk): State<Arc<Desk>>,
    Proven { caller, now }: Proven,
    Extension(trail): Extension<Trail>,
    RawQuery(query): RawQuery,
) -> Result<Response, ApiError> {
    trail.installation(InstallationAction::ReadAudit);
    let known = ["from", "to", "service", "actor", "type", "grant", "session", "cursor", "after", "limit"];
    let fields = Fields::of_known(query.as_deref(), &known)?;
    let filter = filter(&desk, &fields)?;
    let limit = number(&fields, "limit")?.and_then(|limit| u32::try_from(limit).ok()).unwrap_or(PAGE);
    let limit = limit.clamp(1, PAGE_MAX);
    if let Some(after) = fields.get("after") {
        let positions = positions(after)?;
        let (found, next) = read::follow(&desk, &caller, &filter, &positions, limit, now).await?;
        return Ok(answered(&Page { items: items(&found), next: Some(written(&next)) }));
    }
    let before = cursor(&fields, EventId::parse)?;
    let found = read::search(&desk, &caller, &filter, before, limit, now).await?;
    let whole = found.len() < usize::try_from(limit).unwrap_or(usize::MAX);
    let next = found.last().filter(|_| !whole).map(|event| event.clear().id.to_string());
    Ok(answered(&Page { items: items(&found), next }))
}

/// Reads `nod_…:7,nod_…:9`; `now` is the end of every log.
fn positions(text: &str) -> Result<Positions, ApiError> {
    if text == "now" {
        return Ok(Vec::new());
    }
    let one = |part: &str| {
        let (log, seq) = part.split_once(':')?;
        Some((NodeId::parse(log).ok()?, seq.parse().ok()?))
    };
    let read: Option<Positions> = text.split(',').map(one).collect();
    read.ok_or_else(|| ApiError::Invalid("`after` is `now`, or the `next` of an answer before".to_owned()))
}

fn written(positions: &Positions) -> String {
    if positions.is_empty() {
        return "now".to_owned();
    }
    positions.iter().map(|(log, seq)| format!("{log}:{seq}")).collect::<Vec<_>>().join(",")
}

/// Reads `nod_…:7-9,nod_…:0-4`: leaves of logs that are missing of an export.
fn extents(text: &str) -> Result<Vec<Missing>, ApiError> {
    let one = |part: &str| {
        let (log, range) = part.split_once(':')?;
        let (from, to) = range.split_once('-')?;
        Some(Missing { log: NodeId::parse(log).ok()?, from: from.parse().ok()?, to: to.parse().ok()? })
    };
    let read: Option<Vec<Missing>> = text.split(',').map(one).collect();
    let read = read.filter(|missing| missing.iter().all(|missing| missing.from <= missing.to));
    read.ok_or_else(|| ApiError::Invalid("`rest` names leaves of logs that are missing: `nod_…:7-9`".to_owned()))
}

/// Lines of JSON: evidence, events, end. With `rest` of an export that broke off: its missing events, end.
pub async fn export(
    State(desk): State<Arc<Desk>>,
    Proven { caller, now }: Proven,
    Extension(trail): Extension<Trail>,
    RawQuery(query): RawQuery,
) -> Result<Response, ApiError> {
    trail.installation(InstallationAction::ExportAudit);
    let known = ["from", "to", "service", "actor", "type", "grant", "session", "rest"];
    let fields = Fields::of_known(query.as_deref(), &known)?;
    let filter = filter(&desk, &fields)?;
    let first = match fields.get("rest") {
        Some(rest) => Lines::Events(export::go_on_for(&desk, &caller, &filter, &extents(rest)?, now).await?, 0),
        None => {
            let (evidence, export) = export::begin_for(&desk, &caller, &filter, "evidence", now).await?;
            Lines::Head(Head { evidence }.line(), export)
        }
    };
    let stream = futures_util::stream::unfold(first, |state| async {
        match state {
            Lines::Head(head, export) => Some((Ok(Bytes::from(format!("{head}\n"))), Lines::Events(export, 0))),
            Lines::Events(mut export, count) => match export.next().await {
                Ok(Some(lines)) => {
                    let count = count + u64::try_from(lines.len()).unwrap_or(0);
                    let mut text = lines.join("\n");
                    text.push('\n');
                    Some((Ok(Bytes::from(text)), Lines::Events(export, count)))
                }
                Ok(None) => Some((Ok(Bytes::from(format!("{}\n", end_line(count)))), Lines::Over)),
                // The stream breaks off, and its end line is missing.
                Err(error) => Some((Err(std::io::Error::other(error.to_string())), Lines::Over)),
            },
            Lines::Over => None,
        }
    });
    Ok((StatusCode::OK, [(CONTENT_TYPE, "application/x-ndjson")], Body::from_stream(stream)).into_response())
}

/// What of an export comes next.
enum Lines {
    Head(String, Export),
    Events(Export, u64),
    Over,
}

/// Every log.
pub async fn logs(
    State(desk): State<Arc<Desk>>,
    Proven { caller, now }: Proven,
    Extension(trail): Extension<Trail>,
) -> Result<Response, ApiError> {
    trail.installation(InstallationAction::ReadAudit);
    let found = read::logs(&desk, &caller, now).await?;
    let items: Vec<Value> = found
        .iter()
        .map(|entry| {
            json!({
                "log": entry.log.node().to_string(), "size": entry.size,
                "opened_at": entry.opened_at.to_string(), "pruned_to": entry.pruned_to,
            })
        })
        .collect();
    Ok(answered(&Page::whole(items)))
}

/// The newest checkpoint of every log, the installation's first.
pub async fn checkpoint(
    State(desk): State<Arc<Desk>>,
    Proven { caller, now }: Proven,
    Extension(trail): Extension<Trail>,
) -> Result<Response, ApiError> {
    trail.installation(InstallationAction::ReadAudit);
    let logs = read::logs(&desk, &caller, now).await?;
    let mut names = vec![LogName::Installation];
    names.extend(logs.iter().map(|entry| LogName::Node(*entry.log.node())));
    let mut items = Vec::new();
    for name in names {
        if let Some(last) = desk.store.checkpoint_last(name).await? {
            items.push(json!({
                "log": name.to_string(), "size": last.size, "root": BASE64.encode(&last.root),
                "time": last.time.to_string(), "note": last.note,
            }));
        }
    }
    Ok(answered(&Page::whole(items)))
}

async fn proven_log(
    desk: &Desk,
    fields: &Fields,
    size: Option<u64>,
) -> Result<(LogName, u64, Option<StoredCheckpoint>), ApiError> {
    let name = fields.get("log").and_then(LogName::parse);
    let name = name.ok_or_else(|| ApiError::Invalid("`log` is `installation` or `nod_…`".to_owned()))?;
    let last = desk.store.checkpoint_last(name).await?.ok_or(ApiError::NotFound("there is no such log"))?;
    let size = size.unwrap_or(last.size);
    if size > last.size {
        return Err(ApiError::Invalid(format!("the log has a checkpoint of {} events, not of more", last.size)));
    }
    Ok((name, size, Some(last).filter(|last| last.size == size)))
}

async fn proof(desk: &Desk, name: LogName, size: u64, ranges: Option<Vec<(u64, u64)>>) -> Result<Response, ApiError> {
    let ranges = ranges.ok_or_else(|| ApiError::Invalid("there is no such event, or no smaller tree".to_owned()))?;
    let unavailable = |error: crate::control::audit::tree::TreeError| ApiError::Unavailable(error.to_string());
    let hashes = range_hashes(&desk.store, name, &ranges).await.map_err(unavailable)?;
    let root = range_hashes(&desk.store, name, &[(0, size)]).await.map_err(unavailable)?;
    let written: Vec<String> = hashes.iter().map(|hash| BASE64.encode(hash)).collect();
    let root = root.first().map(|root| BASE64.encode(root));
    let body = json!({ "log": name.to_string(), "size": size, "root": root, "hashes": written });
    Ok(answered(&body))
}

/// `?log=nod_…&index=7&size=100`
pub async fn inclusion(
    State(desk): State<Arc<Desk>>,
    Proven { caller, now }: Proven,
    Extension(trail): Extension<Trail>,
    RawQuery(query): RawQuery,
) -> Result<Response, ApiError> {
    trail.installation(InstallationAction::ReadAudit);
    read::admit(&desk, &caller, "proofs", now).await?;
    let known = ["log", "index", "size"];
    let fields = Fields::of_known(query.as_deref(), &known)?;
    let (name, size, _) = proven_log(&desk, &fields, number(&fields, "size")?).await?;
    let index = number(&fields, "index")?.ok_or_else(|| ApiError::Invalid("`index` is needed".to_owned()))?;
    proof(&desk, name, size, inclusion_ranges(index, size)).await
}

/// `?log=nod_…&from=50&to=100`
pub async fn consistency(
    State(desk): State<Arc<Desk>>,
    Proven { caller, now }: Proven,
    Extension(trail): Extension<Trail>,
    RawQuery(query): RawQuery,
) -> Result<Response, ApiError> {
    trail.installation(InstallationAction::ReadAudit);
    read::admit(&desk, &caller, "proofs", now).await?;
    let known = ["log", "from", "to"];
    let fields = Fields::of_known(query.as_deref(), &known)?;
    let (name, size, _) = proven_log(&desk, &fields, number(&fields, "to")?).await?;
    let from = number(&fields, "from")?.ok_or_else(|| ApiError::Invalid("`from` is needed".to_owned()))?;
    proof(&desk, name, size, consistency_ranges(from, size)).await
}
