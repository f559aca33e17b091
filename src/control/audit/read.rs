//! Reading the record: the newest events that a filter wants, or on from where one was.
//!
//! INVARIANT: nobody reads without leave, and every reading is on record before it is answered: once
//! for each session, minute and filter, so that who follows the record does not fill it.

use std::fmt;

use crate::audit::filter::Filter;
use crate::audit::{Event, EventType, Outcome};
use crate::control::caller::Caller;
use crate::control::desk::{Desk, event_id_of};
use crate::model::{BreakGlassId, EventId, NodeId, Principal, Timestamp};
use crate::policy::InstallationAction;
use crate::store::{LogEntry, Position, Recorded, StoreError};

/// Why the record is not read.
#[derive(Debug)]
pub enum ReadError {
    /// No policy lets the caller.
    Denied(InstallationAction),
    /// There is no such log or event.
    NotFound,
    /// An export that broke off is of a log, or of leaves, that are not here.
    OtherLog,
    /// The database did not do it.
    Store(StoreError),
    /// The tree of the record is not as it must be.
    Tree(super::tree::TreeError),
    /// The root key can't be used.
    Root(super::root::RootError),
}

impl fmt::Display for ReadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Denied(action) => write!(f, "no policy lets you `{}` here", action.name()),
            Self::NotFound => f.write_str("there is no such thing in the record"),
            Self::OtherLog => f.write_str(
                "the export that broke off is of a log, or of events, that this installation does not have: begin anew",
            ),
            Self::Store(error) => write!(f, "the record could not be read: {error}"),
            Self::Tree(error) => error.fmt(f),
            Self::Root(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for ReadError {}

impl From<StoreError> for ReadError {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

impl From<super::tree::TreeError> for ReadError {
    fn from(error: super::tree::TreeError) -> Self {
        Self::Tree(error)
    }
}

impl From<super::root::RootError> for ReadError {
    fn from(error: super::root::RootError) -> Self {
        Self::Root(error)
    }
}

/// Lets the caller read, and puts that on record.
///
/// # Errors
/// When no policy lets them, or the reading can't be recorded.
pub async fn admit(desk: &Desk, caller: &Caller, what: &str, now: Timestamp) -> Result<(), ReadError> {
    let action = InstallationAction::ReadAudit;
    if !caller.may(desk, action, now) {
        return Err(ReadError::Denied(action));
    }
    let mut event = Event::new(read_id(caller, what, now), now, EventType::AuditRead, Outcome::Success);
    event.actor = caller.actor();
    event.action = Some(action.name().into());
    event.resource = Some("Installation::\"doorward\"".into());
    let event = event.with("what", what);
    let mut tx = desk.store.begin().await?;
    tx.event_append(&event).await?;
    tx.commit().await?;
    Ok(())
}

/// One id for a session, a minute and what is read in it: a second event with it is the same one.
fn read_id(caller: &Caller, what: &str, now: Timestamp) -> EventId {
    let minute = Timestamp::from_millis(now.seconds().div_euclid(60) * 60_000);
    let about = [b"audit.read".as_slice(), caller.session().id.bytes(), what.as_bytes()];
    event_id_of(&about, minute)
}

/// Whom `actor` means in a filter: a pseudonym as it is, a principal or an opening by theirs.
///
/// # Errors
/// When the record is not open yet.
pub fn pseudonym(desk: &Desk, actor: &str) -> Result<String, ReadError> {
    let opening = BreakGlassId::parse(actor).ok().map(Principal::breakglass);
    match opening.or_else(|| Principal::parse(actor)) {
        Some(principal) => Ok(desk.store.pseudonym(&principal)?.to_string()),
        None => Ok(actor.to_owned()),
    }
}

fn described(filter: &Filter) -> String {
    let text = serde_json::to_string(&filter.text()).unwrap_or_default();
    format!("events {text}")
}

/// The newest events that `filter` wants, older than `before`.
///
/// # Errors
/// When the caller may not, or the database is away.
pub async fn search(
    desk: &Desk,
    caller: &Caller,
    filter: &Filter,
    before: Option<EventId>,
    limit: u32,
    now: Timestamp,
) -> Result<Vec<Recorded>, ReadError> {
    admit(desk, caller, &described(filter), now).await?;
    Ok(desk.store.event_search(filter, before, limit).await?)
}

/// What a follower has read of each log: the next number.
pub type Positions = Vec<(NodeId, u64)>;

/// Events that came after `positions`, log by log, and the positions after them. A log that is not in
/// them is read from its end on.
///
/// # Errors
/// When the caller may not, or the database is away.
pub async fn follow(
    desk: &Desk,
    caller: &Caller,
    filter: &Filter,
    positions: &Positions,
    limit: u32,
    now: Timestamp,
) -> Result<(Vec<Recorded>, Positions), ReadError> {
    admit(desk, caller, &format!("follow {}", described(filter)), now).await?;
    let (mut found, mut next) = (Vec::new(), Vec::new());
    for entry in desk.store.log_list().await? {
        let size = u64::try_from(entry.size).unwrap_or(0);
        let node = *entry.log.node();
        let known = positions.iter().find(|(log, _)| *log == node).map(|(_, seq)| *seq);
        // A log of which nothing was known has begun since, if anything was known of others.
        let from = known.unwrap_or(if positions.is_empty() { size } else { 0 });
        let page = desk.store.event_follow(Position { log: entry.log, seq: from }, filter, limit).await?;
        let whole = page.len() < usize::try_from(limit).unwrap_or(usize::MAX);
        let last = page.last().and_then(|event| event.seq).and_then(|seq| u64::try_from(seq + 1).ok());
        next.push((node, if whole { size.max(last.unwrap_or(from)).max(from) } else { last.unwrap_or(from) }));
        found.extend(page);
    }
    found.sort_by_key(|event| (event.clear().time, event.clear().id));
    Ok((found, next))
}

/// Every log.
///
/// # Errors
/// When the caller may not, or the database is away.
pub async fn logs(desk: &Desk, caller: &Caller, now: Timestamp) -> Result<Vec<LogEntry>, ReadError> {
    admit(desk, caller, "logs", now).await?;
    Ok(desk.store.log_list().await?)
}
