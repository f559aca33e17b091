//! Who the custodians are is on record: when file or threshold are not those of the last time, a node
//! says who came and who went.

use serde_json::Value;
use ssh_key::HashAlg;

use crate::audit::{Event, EventType, Outcome};
use crate::identity::breakglass::{InForce, OpeningRules};
use crate::model::Timestamp;
use crate::store::{RECORD_TIMEOUT, Recorded, StoreError};

use super::super::desk::Desk;
use super::one_id;

/// Compares the custodians in force with those of the record, and records what is different.
///
/// # Errors
/// When the database is away.
pub async fn note_custodians(desk: &Desk, in_force: Option<&InForce>, now: Timestamp) -> Result<(), StoreError> {
    let kind = EventType::BreakGlassCustodiansChanged;
    let events = desk.store.emergency_events(kind, |_| true).await?;
    let last = events.iter().max_by_key(|event| event.clear().time);
    let (keys, threshold, sha256) = in_force.map_or_else(
        || (Vec::new(), 0, String::new()),
        |it| (keys_of(&it.rules), it.rules.threshold, data_encoding::HEXLOWER.encode(it.rules.custodians.sha256())),
    );
    let before: Vec<String> = last.map(recorded_keys).unwrap_or_default();
    let threshold_before = last.and_then(|event| event.body.pointer("/data/threshold")?.as_u64());
    let same_file = last.map_or(keys.is_empty(), |event| event.text("/data/sha256") == Some(sha256.as_str()));
    if same_file && threshold_before.unwrap_or_default() == u64::from(threshold) {
        return Ok(());
    }
    let added: Vec<String> = keys.iter().filter(|key| !before.contains(key)).cloned().collect();
    let removed: Vec<String> = before.iter().filter(|key| !keys.contains(key)).cloned().collect();
    if last.is_some() {
        tracing::warn!(
            ?added,
            ?removed,
            threshold,
            threshold_before,
            "custodians of the emergency path are not those that were last recorded; if nobody changed them, somebody did"
        );
    }
    let about = format!("{sha256} {threshold} {}", last.map(|event| event.clear().id.to_string()).unwrap_or_default());
    let event = Event::new(one_id(kind, about.as_bytes(), now), now, kind, Outcome::Success)
        .with("sha256", sha256)
        .with("threshold", threshold)
        .with("keys", keys)
        .with("added", added)
        .with("removed", removed);
    let mut tx = desk.store.begin().await?;
    tx.event_append(&event).await?;
    tx.commit().await
}

/// Puts on record, by the spool where the database is away, that custodians or threshold are others than those
/// that were in force here. Gives whether it is kept.
pub async fn record_custodians(desk: &Desk, before: Option<&InForce>, after: Option<&InForce>, now: Timestamp) -> bool {
    let read = |in_force: Option<&InForce>| {
        in_force.map_or_else(
            || (Vec::new(), 0, String::new()),
            |it| (keys_of(&it.rules), it.rules.threshold, data_encoding::HEXLOWER.encode(it.rules.custodians.sha256())),
        )
    };
    let (keys_before, threshold_before, sha256_before) = read(before);
    let (keys, threshold, sha256) = read(after);
    if sha256 == sha256_before && threshold == threshold_before {
        return true;
    }
    let added: Vec<String> = keys.iter().filter(|key| !keys_before.contains(key)).cloned().collect();
    let removed: Vec<String> = keys_before.iter().filter(|key| !keys.contains(key)).cloned().collect();
    tracing::warn!(
        ?added,
        ?removed,
        threshold,
        threshold_before,
        "custodians of the emergency path have changed; if nobody changed them, somebody did"
    );
    let kind = EventType::BreakGlassCustodiansChanged;
    let event = Event::new(desk.event_id(now), now, kind, Outcome::Success)
        .with("sha256", sha256)
        .with("threshold", threshold)
        .with("keys", keys)
        .with("added", added)
        .with("removed", removed);
    matches!(tokio::time::timeout(RECORD_TIMEOUT, desk.recorder.submit(event)).await, Ok(Ok(())))
}

/// `name SHA256:…` of each key.
fn keys_of(rules: &OpeningRules) -> Vec<String> {
    let named = |key: &crate::identity::breakglass::custodians::CustodianKey| {
        format!("{} {}", key.name(), key.key.fingerprint(HashAlg::Sha256))
    };
    rules.custodians.keys().iter().map(named).collect()
}

fn recorded_keys(event: &Recorded) -> Vec<String> {
    let listed = event.body.pointer("/data/keys").and_then(Value::as_array);
    listed.into_iter().flatten().filter_map(|key| Some(key.as_str()?.to_owned())).collect()
}
