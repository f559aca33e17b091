//! The read side of a leaf: its bytes back to what anyone can see of an event, and whether what is kept
//! beside it is what it commits to. INVARIANT: only the exact form that `leaf.rs` writes is taken.

use std::fmt;

use data_encoding::BASE64URL_NOPAD;
use serde_json::Value;

use super::event::{EventType, Outcome};
use super::leaf::{BODY, Clear, PersonalField, Sealed, commitment, in_order};
use crate::model::{EventId, NodeId, ServiceName, Timestamp};

/// A leaf that was read: what anyone can see of an event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Leaf {
    /// Whose log.
    pub log: NodeId,
    /// At which place.
    pub seq: i64,
    /// When.
    pub time: Timestamp,
    /// What.
    pub kind: EventType,
    /// About which service.
    pub service: Option<ServiceName>,
    /// How it came out.
    pub outcome: Outcome,
    body: [u8; 32],
    personal: Vec<(PersonalField, [u8; 32])>,
}

impl Leaf {
    /// Reads the bytes of a leaf of version 1. Only the exact form is taken.
    ///
    /// # Errors
    /// When the bytes are of no leaf, of another version, or of the same meaning in another form.
    pub fn parse(bytes: &[u8]) -> Result<Self, LeafError> {
        let value: Value = serde_json::from_slice(bytes).map_err(|_| LeafError::Form)?;
        let leaf = Self::from_value(&value).ok_or(LeafError::Form)?;
        // INVARIANT: one meaning, one form; else two different leaves could be called the same.
        if leaf.bytes() == bytes { Ok(leaf) } else { Err(LeafError::Form) }
    }

    fn from_value(value: &Value) -> Option<Self> {
        let text = |key: &str| value.get(key).and_then(Value::as_str);
        if value.get("v")?.as_u64()? != 1 {
            return None;
        }
        let service = match value.get("service") {
            Some(name) => Some(ServiceName::parse(name.as_str()?).ok()?),
            None => None,
        };
        let personal = value
            .get("personal")?
            .as_object()?
            .iter()
            .map(|(name, commitment)| Some((PersonalField::parse(name)?, read_commitment(commitment.as_str()?)?)))
            .collect::<Option<Vec<_>>>()?;
        Some(Self {
            log: NodeId::parse(text("log")?).ok()?,
            seq: value.get("seq")?.as_i64()?,
            time: Timestamp::parse(text("time")?)?,
            kind: EventType::parse(text("type")?)?,
            service,
            outcome: Outcome::parse(text("outcome")?)?,
            body: read_commitment(text(BODY)?)?,
            personal: in_order(personal),
        })
    }

    fn bytes(&self) -> Vec<u8> {
        let mut commitments = vec![self.body];
        commitments.extend(self.personal.iter().map(|(_, commitment)| *commitment));
        let clear = Clear {
            id: EventId::from_bytes([0; 16]),
            time: self.time,
            kind: self.kind,
            service: self.service.clone(),
            outcome: self.outcome,
            actor: None,
            session: None,
            grant: None,
        };
        Sealed::bare(clear, self.personal(), commitments).leaf(&self.log, self.seq)
    }

    /// Whether this leaf commits to `body`.
    #[must_use]
    pub fn holds_body(&self, salt: &[u8], body: &str) -> bool {
        commitment(salt, BODY, body) == self.body
    }

    /// Whether this leaf commits to `value` in this field.
    #[must_use]
    pub fn holds_personal(&self, field: PersonalField, salt: &[u8], value: &str) -> bool {
        let found = self.personal.iter().find(|(name, _)| *name == field);
        found.is_some_and(|(name, expected)| commitment(salt, name.name(), value) == *expected)
    }

    /// Compares everything that is kept beside a leaf with it: clear part, body, each personal
    /// field and its salt.
    ///
    /// # Errors
    /// Names the first thing that is not what the leaf commits to.
    pub fn verify(&self, sealed: &Sealed) -> Result<(), LeafError> {
        let clear = sealed.clear();
        if (clear.time, clear.kind, clear.outcome) != (self.time, self.kind, self.outcome)
            || clear.service != self.service
        {
            return Err(LeafError::Altered { what: "the clear part" });
        }
        if !sealed.is_gone() && !sealed.columns_agree() {
            return Err(LeafError::Altered { what: "id, actor, session or grant" });
        }
        let mut commitments = sealed.commitments().iter();
        if sealed.is_gone() {
            return Ok(());
        }
        if commitments.next() != Some(&self.body) {
            return Err(LeafError::Altered { what: BODY });
        }
        // A personal field that is gone was erased, which breaks nothing; one that is there must be
        // what was committed to.
        for ((field, _), commitment) in sealed.personal().iter().zip(commitments) {
            if !self.personal.contains(&(*field, *commitment)) {
                return Err(LeafError::Altered { what: field.name() });
            }
        }
        Ok(())
    }

    /// The personal fields that it commits to.
    pub fn personal(&self) -> impl Iterator<Item = PersonalField> {
        self.personal.iter().map(|(field, _)| *field)
    }
}

/// Why a leaf, or what is kept beside it, is not as it was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LeafError {
    /// The bytes are not those of a leaf of version 1.
    Form,
    /// The personal fields are not an object of known names.
    Personal,
    /// There are not as many salts as commitments.
    Salts,
    /// The leaf commits to something else.
    Altered { what: &'static str },
}

impl fmt::Display for LeafError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Form => f.write_str("the bytes are not those of an audit leaf of version 1"),
            Self::Personal => f.write_str("the personal fields of an audit event can't be read"),
            Self::Salts => f.write_str("salts of an audit event are missing"),
            Self::Altered { what } => {
                write!(f, "`{what}` of an audit event is not what its leaf commits to: it was altered")
            }
        }
    }
}

impl std::error::Error for LeafError {}

fn read_commitment(text: &str) -> Option<[u8; 32]> {
    BASE64URL_NOPAD.decode(text.as_bytes()).ok()?.try_into().ok()
}
