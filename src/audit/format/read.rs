//! From a line of an export back to the event, to be written in another form. Whether the line is true
//! is `line::check_line`'s to say.

use serde_json::Value;

use super::super::leaf::{Clear, SALT_BYTES, Sealed};
use super::super::leaf_read::Leaf;
use super::Entry;
use crate::model::{EventId, GrantId, SessionId, UserRef};

/// An event as a line of an export tells it.
#[derive(Debug, Clone)]
pub struct ReadLine {
    leaf: Leaf,
    sealed: Sealed,
    body: Value,
}

impl ReadLine {
    /// Reads a line. `None` for what is no event, and for one whose content is left out.
    #[must_use]
    pub fn parse(line: &[u8]) -> Option<Self> {
        let value: Value = serde_json::from_slice(line).ok()?;
        let text = |key: &str| value.get(key).and_then(Value::as_str);
        let leaf = Leaf::parse(text("leaf")?.as_bytes()).ok()?;
        let body_text = text("body")?;
        let body: Value = serde_json::from_str(body_text).ok()?;
        let of_body = |pointer: &str| body.pointer(pointer).and_then(Value::as_str);
        let clear = Clear {
            id: EventId::parse(of_body("/id")?).ok()?,
            time: leaf.time,
            kind: leaf.kind,
            service: leaf.service.clone(),
            outcome: leaf.outcome,
            actor: of_body("/actor/id").and_then(|id| UserRef::parse(id).ok()),
            session: of_body("/actor/session").and_then(|id| SessionId::parse(id).ok()),
            grant: of_body("/grant").and_then(|id| GrantId::parse(id).ok()),
        };
        let personal = value.get("personal")?;
        let salts = vec![0; SALT_BYTES * (1 + personal.as_object()?.len())];
        let sealed = Sealed::stored(clear, body_text.to_owned(), &personal.to_string(), salts).ok()?;
        let sealed = sealed.beside(text("leaf")?.as_bytes());
        Some(Self { leaf, sealed, body })
    }

    /// As the forms take it.
    #[must_use]
    pub const fn entry(&self) -> Entry<'_> {
        Entry { log: &self.leaf.log, seq: Some(self.leaf.seq), sealed: &self.sealed, body: &self.body }
    }
}
