//! How an event lies in the spool, and the chain over what lies there.
//!
//! A record is one JSON object without white space that holds all of the sealed event (clear part,
//! body, personal fields, salts), so that merging it into the database makes the same leaf as if it
//! had been written there at once. The chain is SHA-256(previous ‖ record), beginning from a value
//! of the spool's own; `audit.spool_merged` names begin and end of it, so whoever has the merged
//! events in their order can make it anew.

use std::fmt;

use data_encoding::BASE64URL_NOPAD;
use serde_json::Value;
use sha2::{Digest, Sha256};

use super::event::{EventType, Outcome};
use super::json::Object;
use super::leaf::{Clear, Sealed};
use crate::model::{EventId, GrantId, ServiceName, SessionId, Timestamp, UserRef};

/// A place in the chain.
pub type Chain = [u8; 32];

/// The chain after `record`.
#[must_use]
pub fn chained(previous: &Chain, record: &[u8]) -> Chain {
    let mut hash = Sha256::new();
    hash.update(previous);
    hash.update(record);
    hash.finalize().into()
}

/// The record of `event`.
#[must_use]
pub fn record_of(event: &Sealed) -> Vec<u8> {
    let clear = event.clear();
    let mut out = String::with_capacity(512 + event.body().len());
    let mut record = Object::open(&mut out);
    if let Some(actor) = clear.actor {
        record.plain("actor", actor);
    }
    record.whole("body", event.body());
    if let Some(grant) = clear.grant {
        record.plain("grant", grant);
    }
    record.plain("id", clear.id);
    record.text("outcome", clear.outcome.name());
    record.whole("personal", &event.personal_json());
    record.text("salts", &BASE64URL_NOPAD.encode(event.salts()));
    record.text_if("service", clear.service.as_ref().map(ServiceName::as_str));
    if let Some(session) = clear.session {
        record.plain("session", session);
    }
    record.key("time").push_str(&clear.time.millis().to_string());
    record.text("type", clear.kind.name());
    record.close();
    out.into_bytes()
}

/// Reads a record back.
///
/// # Errors
/// When it is none.
pub fn event_of(record: &[u8]) -> Result<Sealed, SpoolRecordError> {
    let value: Value = serde_json::from_slice(record).map_err(|_| SpoolRecordError)?;
    read(&value).ok_or(SpoolRecordError)
}

fn read(value: &Value) -> Option<Sealed> {
    let text = |key: &str| value.get(key).and_then(Value::as_str);
    let clear = Clear {
        id: EventId::parse(text("id")?).ok()?,
        time: Timestamp::from_millis(value.get("time")?.as_i64()?),
        kind: EventType::parse(text("type")?)?,
        service: text("service").map(ServiceName::parse).transpose().ok()?,
        outcome: Outcome::parse(text("outcome")?)?,
        actor: text("actor").map(UserRef::parse).transpose().ok()?,
        session: text("session").map(SessionId::parse).transpose().ok()?,
        grant: text("grant").map(GrantId::parse).transpose().ok()?,
    };
    let salts = BASE64URL_NOPAD.decode(text("salts")?.as_bytes()).ok()?;
    Sealed::stored(clear, text("body")?.to_owned(), text("personal")?, salts).ok()
}

/// A record that can't be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SpoolRecordError;

impl fmt::Display for SpoolRecordError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a record of the spool can't be read")
    }
}

impl std::error::Error for SpoolRecordError {}
