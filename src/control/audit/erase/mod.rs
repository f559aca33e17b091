//! The erasure of a person from the record.
//!
//! What happens when somebody is erased:
//!
//! 1. `target.rs` finds whose account and pseudonym is meant, and what names they had.
//! 2. `plan.rs` looks through all logs and counts what would go and what a rule keeps.
//! 3. [`erase`] writes it down: one transaction has the erasure's row, `audit.person_erased`, the tables
//!    beside the record, and the word that the pseudonym is nobody's any more.
//! 4. `batch.rs` takes the values and salts of the record, batch by batch; each commits with how far it
//!    came and with its `audit.erased`. `sweep.rs` goes on after a crash, looks for what came late, and
//!    takes what a rule held back when its time is over.
//!
//! INVARIANTS: leaves are never touched, so every proof stays; nothing that is written down here names
//! the person; only who has nothing open is erased, since what is open is decided by who somebody is.

mod batch;
mod plan;
pub mod sweep;
mod target;

use std::fmt;

use serde_json::json;

use crate::audit::{Event, EventType, Outcome};
use crate::control::breakglass::{EmergencyError, REVIEWERS, open_openings};
use crate::control::caller::Caller;
use crate::control::desk::Desk;
use crate::model::text::{REASON_CHARS_MAX, one_line};
use crate::model::{ClockDoubt, ErasureId, Timestamp, Ttl, UserRef};
use crate::notify::audience::mark_of;
use crate::policy::InstallationAction;
use crate::store::{Erasure, Goes, KeptByRule, RevocationKind, StoreError, Unfinished};

pub use plan::Plan;

/// When the logs are looked through once more after an erasure: by then every event of before has its
/// number, and every node knows that the pseudonym is nobody's.
const LOOK_AGAIN: Ttl = Ttl::minutes(5);
/// When events that name the person go: by then `audit.person_erased`, which tells of them, is under a
/// checkpoint, and nobody who verifies finds them gone without a word.
const TEXTS_AFTER: Ttl = Ttl::seconds(10);
/// Batches that an erasure does before it answers; the sweep does the rest.
const BATCHES_AT_ONCE: usize = 20;

/// What is asked for.
#[derive(Debug, Clone, Copy)]
pub struct Asked<'a> {
    /// Whom: an account, a pseudonym, or an address.
    pub person: &'a str,
    /// Why.
    pub reason: &'a str,
    /// What becomes of events whose text names the person; to be said where there are any.
    pub texts: Option<Texts>,
}

/// What becomes of events in whose text a person is named by account or address: a body has one
/// commitment, so it goes as a whole or stays as it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Texts {
    /// They lose all their content.
    Erase,
    /// They stay as they are.
    Keep,
}

/// Why nobody is erased.
#[derive(Debug)]
pub enum EraseError {
    /// No policy lets the caller.
    Denied,
    /// There is no such erasure.
    NoErasure,
    /// What was given names nobody by its form.
    Form,
    /// Nobody is known by it.
    Unknown,
    /// It names a program, not a person.
    NotAPerson,
    /// The address is of several accounts.
    Ambiguous(Vec<UserRef>),
    /// The reason is missing or too long.
    Reason,
    /// The reason names who is to be forgotten.
    ReasonNames,
    /// They are named in so many texts that no one meant to.
    TooManyTexts,
    /// Texts or paths of others name them, and it was not said what becomes of those.
    Texts(i64),
    /// Something of theirs is still open.
    Unfinished(Unfinished),
    /// They opened the emergency path, and it is open.
    Opening(String),
    /// Everything is kept by a rule.
    Kept(Vec<(KeptByRule, String)>),
    /// The trail was erased before.
    Already(ErasureId, Vec<(KeptByRule, String)>),
    /// What may go can't be told by this clock.
    Clock(ClockDoubt),
    /// The database did not do it.
    Store(StoreError),
}

impl fmt::Display for EraseError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Denied => f.write_str("no policy lets you erase people: that is for those who may `administer` here"),
            Self::NoErasure => f.write_str("there is no such erasure"),
            Self::Form => f.write_str("name the person as `<provider>|<subject>`, `usr_…` or by an e-mail address"),
            Self::Unknown => f.write_str("nobody of that name is known here, neither to a table nor to the record"),
            Self::NotAPerson => f.write_str("that is a workload or an opening of the emergency path, not a person"),
            Self::Ambiguous(found) => {
                write!(f, "{} accounts have had that address; name one by its pseudonym: ", found.len())?;
                for (position, pseudonym) in found.iter().enumerate() {
                    write!(f, "{}`{pseudonym}`", if position == 0 { "" } else { ", " })?;
                }
                Ok(())
            }
            Self::Reason => write!(f, "give a reason of 1 to {REASON_CHARS_MAX} characters that all show"),
            Self::ReasonNames => f.write_str(
                "the reason names the person, and it stays on record: refer to the request instead, such as its ticket",
            ),
            Self::TooManyTexts => f.write_str(
                "their account or address stands in the text of more than 10,000 events: a program writes it there, \
                 and erasing all of these is not an erasure of a person",
            ),
            Self::Texts(count) => write!(
                f,
                "the text or path of {} name{} this person, as somebody typed it: say whether these events are \
                 erased as a whole (`--texts erase`), with all that they tell of others, and \
                 paths of others go, or all stay (`--texts keep`)",
                counted(*count, "event"),
                if *count == 1 { "s" } else { "" }
            ),
            Self::Unfinished(open) => unfinished(f, open),
            Self::Opening(id) => write!(
                f,
                "the opening `{id}` of the emergency path is theirs by its opener's name, and it is open: \
                 `doorward breakglass close {id}` first"
            ),
            Self::Kept(kept) => {
                f.write_str("everything of this person is kept: ")?;
                for (position, (kept, reason)) in kept.iter().enumerate() {
                    let gap = if position == 0 { "" } else { "; " };
                    let (rule, events, until) = (&kept.rule, kept.events, kept.until);
                    write!(f, "{gap}by the rule `{rule}` ({reason}) {} until {until}", counted(events, "event"))?;
                }
                Ok(())
            }
            Self::Already(id, kept) => {
                write!(f, "the trail of that pseudonym was erased before: `{id}`")?;
                for (KeptByRule { rule, events, until }, _) in kept {
                    write!(f, "; the rule `{rule}` keeps {} until {until}", counted(*events, "event"))?;
                }
                Ok(())
            }
            Self::Clock(error) => error.fmt(f),
            Self::Store(error) => write!(f, "the person could not be erased: {error}"),
        }
    }
}

/// So many of something, as people say it.
fn counted(count: i64, one: &str) -> String {
    if count == 1 { format!("1 {one}") } else { format!("{count} {one}s") }
}

fn unfinished(f: &mut fmt::Formatter<'_>, open: &Unfinished) -> fmt::Result {
    let parts = [
        (open.sessions, "live session", "live sessions", "`doorward sessions --all`, `doorward revoke SESSION`"),
        (open.requests, "pending request", "pending requests", "`doorward deny REQUEST`"),
        (
            open.approvals,
            "approval that counts for a pending request",
            "approvals that count for pending requests",
            "`doorward deny REQUEST`, or wait for its answer",
        ),
        (open.grants, "grant that is not over", "grants that are not over", "`doorward revoke GRANT`"),
        (
            open.unreviewed,
            "emergency grant without its reviews",
            "emergency grants without their reviews",
            "`doorward breakglass review GRANT`",
        ),
        (
            open.locks,
            "lock, which an erasure would lift",
            "locks, which an erasure would lift",
            "`doorward unlock PRINCIPAL`",
        ),
    ];
    f.write_str("this person still has ")?;
    let there: Vec<_> = parts.into_iter().filter(|(count, ..)| *count > 0).collect();
    for (position, (count, one, several, command)) in there.iter().enumerate() {
        let what = if *count == 1 { one } else { several };
        write!(f, "{}{count} {what} ({command})", if position == 0 { "" } else { ", " })?;
    }
    f.write_str(": end these first")
}

impl std::error::Error for EraseError {}

impl From<StoreError> for EraseError {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

impl From<EmergencyError> for EraseError {
    fn from(error: EmergencyError) -> Self {
        match error {
            EmergencyError::NotFound => Self::Unknown,
            EmergencyError::Store(error) => Self::Store(error),
        }
    }
}

/// An erasure, and what rules hold back of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Told {
    /// The erasure.
    pub erasure: Erasure,
    /// What is held back, by rule, with the rule's own reason while the configuration has it.
    pub kept: Vec<(KeptByRule, String)>,
}

fn admit(desk: &Desk, caller: &Caller, now: Timestamp) -> Result<(), EraseError> {
    if caller.may(desk, InstallationAction::Administer, now) { Ok(()) } else { Err(EraseError::Denied) }
}

/// The reasons of rules, as the configuration gives them.
fn explained(desk: &Desk, kept: Vec<KeptByRule>) -> Vec<(KeptByRule, String)> {
    let reason = |kept: &KeptByRule| desk.settings.keep.iter().find(|rule| rule.name == kept.rule);
    let with = |kept: KeptByRule| {
        let reason = reason(&kept).map_or_else(String::new, |rule| rule.reason.clone());
        (kept, reason)
    };
    kept.into_iter().map(with).collect()
}

/// Who was erased before, and what is kept of them.
async fn already(desk: &Desk, id: ErasureId) -> EraseError {
    match desk.store.erasure_kept(id).await {
        Ok(kept) => EraseError::Already(id, explained(desk, kept)),
        Err(error) => EraseError::Store(error),
    }
}

async fn told(desk: &Desk, erasure: Erasure) -> Result<Told, StoreError> {
    let kept = desk.store.erasure_kept(erasure.id).await?;
    Ok(Told { kept: explained(desk, kept), erasure })
}

/// Erasures, newest first, with the one after which the next page begins.
///
/// # Errors
/// When the caller may not, or the database is away.
pub async fn list(
    desk: &Desk,
    caller: &Caller,
    before: Option<ErasureId>,
    limit: u32,
    now: Timestamp,
) -> Result<(Vec<Told>, Option<ErasureId>), EraseError> {
    admit(desk, caller, now)?;
    let found = desk.store.erasure_list(before, limit).await?;
    let whole = found.len() >= usize::try_from(limit).unwrap_or(usize::MAX);
    let next = found.last().filter(|_| whole).map(|last| last.id);
    let mut items = Vec::with_capacity(found.len());
    for erasure in found {
        items.push(told(desk, erasure).await?);
    }
    Ok((items, next))
}

/// The erasure of that id.
///
/// # Errors
/// When the caller may not, there is none, or the database is away.
pub async fn fetch(desk: &Desk, caller: &Caller, id: ErasureId, now: Timestamp) -> Result<Told, EraseError> {
    admit(desk, caller, now)?;
    let erasure = desk.store.erasure_fetch(id).await?.ok_or(EraseError::NoErasure)?;
    Ok(told(desk, erasure).await?)
}

/// What an erasure of this person would take and leave. Nothing is changed.
///
/// # Errors
/// When the caller may not, nobody is meant, the reason is none, or they could not be erased now.
pub async fn dry_run(desk: &Desk, caller: &Caller, asked: &Asked<'_>, now: Timestamp) -> Result<Plan, EraseError> {
    admit(desk, caller, now)?;
    Ok(prepare(desk, asked, now).await?.0)
}

/// What is judged before anything goes, whether it goes or not: the plan, and the reason as it is kept.
async fn prepare(desk: &Desk, asked: &Asked<'_>, now: Timestamp) -> Result<(Plan, String), EraseError> {
    let reason = one_line(asked.reason, REASON_CHARS_MAX).ok_or(EraseError::Reason)?;
    let plan = plan::of(desk, target::find(desk, asked.person).await?, now).await?;
    if plan.target.traces.or_names_are_in(&reason) {
        return Err(EraseError::ReasonNames);
    }
    let mut tx = desk.store.begin().await?;
    let open = tx.person_unfinished(&plan.target.traces.principal, REVIEWERS, now).await?;
    drop(tx);
    judge(desk, &plan, open, now).await?;
    Ok((plan, reason))
}

/// What keeps a person from being erased.
async fn judge(desk: &Desk, plan: &Plan, open: Unfinished, now: Timestamp) -> Result<(), EraseError> {
    if open != Unfinished::default() {
        return Err(EraseError::Unfinished(open));
    }
    for opening in open_openings(desk, now).await? {
        if plan.target.is_called(desk, &opening.opener) {
            return Err(EraseError::Opening(opening.id));
        }
    }
    if plan.events == 0 && !plan.kept.is_empty() {
        return Err(EraseError::Kept(plan.kept.clone()));
    }
    Ok(())
}

/// Erases a person. What one transaction can't take goes on after the answer.
///
/// # Errors
/// When the caller may not, nobody is meant, they can't be erased, or the database is away.
pub async fn erase(desk: &Desk, caller: &Caller, asked: &Asked<'_>, now: Timestamp) -> Result<Told, EraseError> {
    admit(desk, caller, now)?;
    // What is kept is kept until a time: a clock that is not believed must not say that it is over.
    desk.clock_guard.check().map_err(EraseError::Clock)?;
    let (plan, reason) = prepare(desk, asked, now).await?;
    let named = plan.texts().saturating_add(plan.paths());
    let texts_left = match asked.texts {
        None if named > 0 => return Err(EraseError::Texts(named)),
        None | Some(Texts::Erase) => 0,
        Some(Texts::Keep) => named,
    };
    let pseudonym = plan.target.pseudonym;
    let erasure = Erasure {
        id: ErasureId::fresh(now, &*desk.entropy),
        pseudonym,
        requested_at: now,
        requested_by: desk.store.pseudonym(caller.principal())?,
        reason,
        state: crate::store::ErasureState::Running,
        events: 0,
        fields: 0,
        texts: 0,
        texts_left,
        finished_at: None,
    };
    begin(desk, caller, &plan, &erasure, now).await?;
    // ORDER: after the commit and before the answer, as the directory obeys.
    desk.store.pseudonym_retire(pseudonym)?;
    tracing::warn!(erasure = %erasure.id, events = plan.events, fields = plan.fields, "a person is erased from the record");
    match batch::some(desk, erasure.id, BATCHES_AT_ONCE, now).await {
        Ok(_) => let_go(desk).await,
        Err(error) => tracing::warn!(%error, erasure = %erasure.id, "an erasure was begun and goes on later"),
    }
    let erasure = desk.store.erasure_fetch(erasure.id).await?.ok_or(EraseError::NoErasure)?;
    Ok(told(desk, erasure).await?)
}

/// Has the database let go of what was deleted. Where it can't now, the sweep asks it again.
async fn let_go(desk: &Desk) {
    if let Err(error) = desk.store.let_go().await {
        tracing::warn!(%error, "the database could not be told to let go of what was erased");
    }
}

/// Writes it down, and clears the tables beside the record.
async fn begin(desk: &Desk, caller: &Caller, plan: &Plan, erasure: &Erasure, now: Timestamp) -> Result<(), EraseError> {
    let traces = &plan.target.traces;
    let mut tx = desk.store.begin().await?;
    let open = tx.person_unfinished(&traces.principal, REVIEWERS, now).await?;
    judge(desk, plan, open, now).await?;
    if let Err(error) = tx.erasure_insert(erasure, now.plus(LOOK_AGAIN)).await {
        drop(tx);
        let before = desk.store.erasure_of(erasure.pseudonym).await?;
        return Err(match before {
            Some(before) => already(desk, before.id).await,
            None => EraseError::Store(error),
        });
    }
    tx.person_erase(traces, erasure.pseudonym, mark_of, now).await?;
    for naming in plan.naming.iter().filter(|_| erasure.texts_left == 0) {
        // Nothing that names them is kept to find these again, so they are listed.
        tx.erasure_keep(erasure.id, naming.event, ("", now.plus(TEXTS_AFTER)), Goes::Whole).await?;
    }
    for naming in plan.paths.iter().filter(|_| erasure.texts_left == 0) {
        // ORDER: as these; a path has a commitment of its own, so that it goes alone.
        tx.erasure_keep(erasure.id, naming.event, ("", now.plus(TEXTS_AFTER)), Goes::Values).await?;
    }
    let kept = |(kept, reason): &(KeptByRule, String)| json!({ "rule": kept.rule, "reason": reason, "events": kept.events, "until": kept.until.to_string() });
    let mut event = Event::new(desk.event_id(now), now, EventType::AuditPersonErased, Outcome::Success)
        .with("erasure", erasure.id.to_string())
        .with("pseudonym", erasure.pseudonym.to_string())
        .with("reason", erasure.reason.as_str())
        .with("events", plan.events)
        .with("fields", plan.fields)
        .with("texts", plan.texts())
        .with("paths", plan.paths())
        .with("texts_left", erasure.texts_left)
        .with("kept", plan.kept.iter().map(kept).collect::<Vec<_>>());
    event.actor = caller.actor();
    event.action = Some(InstallationAction::Administer.name().into());
    event.resource = Some(erasure.pseudonym.to_string().into());
    tx.event_append(&event).await?;
    tx.revocation_append(RevocationKind::PersonErased, &erasure.pseudonym.to_string(), now).await?;
    tx.commit().await?;
    Ok(())
}
