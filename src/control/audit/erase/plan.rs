//! What an erasure would take from the record, counted; nothing is changed.

use std::collections::BTreeMap;

use crate::audit::erase::fields_of;
use crate::audit::keep::kept_by;
use crate::audit::{EventType, PersonalField};
use crate::control::desk::Desk;
use crate::model::{Timestamp, UserRef};
use crate::store::{ERASURE_BATCH, ERASURE_LOOK, KeptByRule, Log, Naming, Recorded, StoreError};

use super::target::Target;
use super::{EraseError, explained};

/// Events in whose text one person is named at most: more is a program that writes them everywhere.
const NAMING_MAX: usize = 10_000;
/// Paths of others in which they are named at most.
const PATHS_MAX: usize = 100_000;

/// What would go and what would stay.
#[derive(Debug, Clone)]
pub struct Plan {
    /// Whose.
    pub(super) target: Target,
    /// Events that would lose values.
    pub events: i64,
    /// Values that would go, each with its salt.
    pub fields: i64,
    /// Events in whose text the person is named: they could only go as a whole.
    pub(super) naming: Vec<Naming>,
    /// Requests of others in whose path the person is named, and which would lose it.
    pub(super) paths: Vec<Naming>,
    /// What rules keep, with the law or rule behind each.
    pub kept: Vec<(KeptByRule, String)>,
}

impl Plan {
    /// Whose trail it is about.
    #[must_use]
    pub const fn pseudonym(&self) -> UserRef {
        self.target.pseudonym
    }

    /// In how many events a text names the person.
    #[must_use]
    pub fn texts(&self) -> i64 {
        i64::try_from(self.naming.len()).unwrap_or(i64::MAX)
    }
}

impl Plan {
    /// In how many paths of others the person is named; events that go as a whole are none of these.
    #[must_use]
    pub fn paths(&self) -> i64 {
        i64::try_from(self.paths.len()).unwrap_or(i64::MAX)
    }
}

/// The place behind the last of a look's events, or behind the look.
pub(super) fn next_place(found: &[Recorded], (_, to): (i64, i64)) -> i64 {
    let full = found.len() >= usize::try_from(ERASURE_BATCH).unwrap_or(usize::MAX);
    found.last().filter(|_| full).and_then(|event| event.seq).map_or(to, |seq| seq + 1)
}

/// Looks through all logs.
pub(super) async fn of(desk: &Desk, mut target: Target, now: Timestamp) -> Result<Plan, EraseError> {
    let mut counted = Counted::default();
    for entry in desk.store.log_list().await? {
        look_through(desk, entry.log, entry.size, &mut target, &mut counted, now).await?;
    }
    if !target.known && counted.events == 0 && counted.kept.is_empty() {
        return Err(EraseError::Unknown);
    }
    let kept = counted.kept.into_iter().map(|(rule, (events, until))| KeptByRule { rule, events, until }).collect();
    let naming = naming(desk, &target).await?;
    let mut paths = paths(desk, &target).await?;
    paths.retain(|event| naming.binary_search_by_key(&event.event, |naming| naming.event).is_err());
    let (events, fields) = (counted.events, counted.fields);
    Ok(Plan { target, events, fields, naming, paths, kept: explained(desk, kept) })
}

/// What tells that events lost content: `audit verify` holds a record to it, so it never goes as a whole.
const fn is_account(kind: EventType) -> bool {
    matches!(kind, EventType::AuditErased | EventType::AuditPersonErased | EventType::AuditPruned)
}

/// Events in whose body a text names the person: somebody typed it, into a reason or a finding.
async fn naming(desk: &Desk, target: &Target) -> Result<Vec<Naming>, EraseError> {
    let mut found: Vec<Naming> = Vec::new();
    for telling in target.traces.telling() {
        for entry in desk.store.log_list().await? {
            let mut from = 0;
            while from < entry.size {
                let places = (from, entry.size.min(from + ERASURE_LOOK));
                let mut page = desk.store.erasure_naming(entry.log, places, &telling, ERASURE_BATCH).await?;
                let full = page.len() >= usize::try_from(ERASURE_BATCH).unwrap_or(usize::MAX);
                from = page.last().filter(|_| full).map_or(places.1, |last| last.seq + 1);
                page.retain(|event| !is_account(event.kind) && target.traces.are_in(&event.body));
                found.extend(page.into_iter().map(|event| Naming { body: String::new(), ..event }));
                if found.len() > NAMING_MAX {
                    return Err(EraseError::TooManyTexts);
                }
            }
        }
    }
    found.sort_by_key(|event| event.event);
    found.dedup_by_key(|event| event.event);
    Ok(found)
}

/// Requests of others that have the person in their path, as it is or percent-encoded.
async fn paths(desk: &Desk, target: &Target) -> Result<Vec<Naming>, EraseError> {
    let mut found: Vec<Naming> = Vec::new();
    for telling in target.traces.telling() {
        for entry in desk.store.log_list().await? {
            let mut from = 0;
            while from < entry.size {
                let (places, of) =
                    ((from, entry.size.min(from + ERASURE_LOOK)), (target.pseudonym, plain_part(&telling)));
                let mut page = desk.store.erasure_naming_paths(entry.log, places, of, ERASURE_BATCH).await?;
                let full = page.len() >= usize::try_from(ERASURE_BATCH).unwrap_or(usize::MAX);
                from = page.last().filter(|_| full).map_or(places.1, |last| last.seq + 1);
                page.retain(|event| path_names(target, &event.body));
                found.extend(page.into_iter().map(|event| Naming { body: String::new(), ..event }));
                if found.len() > PATHS_MAX {
                    return Err(EraseError::TooManyTexts);
                }
            }
        }
    }
    found.sort_by_key(|event| event.event);
    found.dedup_by_key(|event| event.event);
    Ok(found)
}

/// What of an address or account stands in a path in whichever way that is encoded: the longest part of
/// letters and digits, of an address before its `@`, since the other one is everybody's.
fn plain_part(telling: &str) -> &str {
    let own = telling.split_once('@').map_or(telling, |(name, _)| name);
    own.split(|c: char| !c.is_ascii_alphanumeric()).max_by_key(|part| part.len()).unwrap_or_default()
}

/// Whether the path among these personal values names the person, as it is or decoded, twice at most: a
/// service may hand on what was encoded already.
fn path_names(target: &Target, personal: &str) -> bool {
    let values: serde_json::Value = serde_json::from_str(personal).unwrap_or_default();
    let Some(path) = values.get(PersonalField::Path.name()).and_then(serde_json::Value::as_str) else { return false };
    let once = percent_encoding::percent_decode_str(path).decode_utf8_lossy();
    let twice = percent_encoding::percent_decode_str(&once).decode_utf8_lossy();
    [path, &*once, &*twice].into_iter().any(|text| target.traces.are_in(text))
}

#[derive(Default)]
struct Counted {
    events: i64,
    fields: i64,
    kept: BTreeMap<String, (i64, Timestamp)>,
}

async fn look_through(
    desk: &Desk,
    log: Log,
    size: i64,
    target: &mut Target,
    counted: &mut Counted,
    now: Timestamp,
) -> Result<(), StoreError> {
    let mut from = 0;
    while from < size {
        let places = (from, size.min(from + ERASURE_LOOK));
        let found = desk.store.erasure_matching(log, places, target.pseudonym, ERASURE_BATCH).await?;
        for event in &found {
            count(desk, event, target, counted, now);
        }
        from = next_place(&found, places);
    }
    Ok(())
}

fn count(desk: &Desk, event: &Recorded, target: &mut Target, counted: &mut Counted, now: Timestamp) {
    let fields = fields_of(&event.sealed, event.text("/subject/id"), target.pseudonym);
    if fields.is_empty() {
        return;
    }
    // Under which addresses they acted may be known to the record alone.
    if fields.contains(&PersonalField::Email)
        && let Some(email) = event.personal(PersonalField::Email)
        && !target.traces.emails.iter().any(|known| known == email)
    {
        target.traces.emails.push(email.to_owned());
    }
    let clear = event.clear();
    match kept_by(&desk.settings.keep, clear.kind, clear.time, now) {
        Some((rule, until)) => {
            let kept = counted.kept.entry(rule.name.clone()).or_insert((0, until));
            kept.0 += 1;
            kept.1 = kept.1.max(until);
        }
        None => {
            counted.events += 1;
            counted.fields += i64::try_from(fields.len()).unwrap_or(i64::MAX);
        }
    }
}
