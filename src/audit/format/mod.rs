//! The record in the forms that other programs read: CSV, OCSF and CEF. Pure functions from one
//! event to its text, so that an export streams whatever its length.
//!
//! INVARIANT: every form tells log, number and id of its event, so that a row can be found again
//! in the record; none of them is proof by itself, which is what `jsonl` and `evidence` are for.

pub mod cef;
pub mod csv;
pub mod ocsf;
mod ocsf_class;
mod read;

pub use read::ReadLine;

use serde_json::Value;

use super::erase::ERASED;
use super::leaf::{Clear, PersonalField, Sealed};
use crate::model::NodeId;

/// One event of the record, as a form is made of it.
#[derive(Debug, Clone, Copy)]
pub struct Entry<'a> {
    /// The log that numbers it.
    pub log: &'a NodeId,
    /// Its number, once it has one.
    pub seq: Option<i64>,
    /// Clear part, body and personal fields.
    pub sealed: &'a Sealed,
    /// The body, read.
    pub body: &'a Value,
}

impl<'a> Entry<'a> {
    /// What stands in columns of its own.
    #[must_use]
    pub const fn clear(&self) -> &'a Clear {
        self.sealed.clear()
    }

    /// A personal field; nothing where it was erased or is unknown.
    #[must_use]
    pub fn personal(&self, field: PersonalField) -> Option<&'a str> {
        self.sealed.personal().iter().find(|(name, _)| *name == field).map(|(_, value)| value.as_str())
    }

    /// A personal field as it is shown: `erased` where it was.
    #[must_use]
    pub fn shown(&self, field: PersonalField) -> Option<&'a str> {
        self.personal(field).or_else(|| self.sealed.erased().contains(&field).then_some(ERASED))
    }

    /// A text of the body by its JSON pointer.
    #[must_use]
    pub fn text(&self, pointer: &str) -> Option<&'a str> {
        self.body.pointer(pointer).and_then(Value::as_str)
    }

    /// A whole number of the body by its JSON pointer.
    #[must_use]
    pub fn number(&self, pointer: &str) -> Option<i64> {
        self.body.pointer(pointer).and_then(Value::as_i64)
    }

    /// The service, where it is about one.
    #[must_use]
    pub fn service(&self) -> Option<&'a str> {
        self.clear().service.as_ref().map(crate::model::ServiceName::as_str)
    }
}
