//! Erasures of people from the record, on paper. Nothing here names who was erased.

use serde::{Deserialize, Serialize};

use super::Time;

/// What a rule of `[[audit.keep]]` holds back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeptByRule {
    /// The rule's name.
    pub rule: String,
    /// The law or rule behind it; empty where the configuration has no such rule any more.
    pub reason: String,
    /// How many events.
    pub events: i64,
    /// When the last of them is erased too.
    pub until: Time,
}

/// An erasure.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Erasure {
    /// `ers_…`
    pub id: String,
    /// `usr_…`, as which the erased trail goes on.
    pub pseudonym: String,
    /// `running`, `kept` or `done`.
    pub state: String,
    /// Why.
    pub reason: String,
    /// Who erased, `usr_…`.
    pub requested_by: String,
    /// When.
    pub requested_at: Time,
    /// Events that lost values so far.
    pub events: i64,
    /// Values that went so far, each with its salt.
    pub fields: i64,
    /// Events that lost all their content, since a text in them named the person.
    pub texts: i64,
    /// Events in whose text the person was found and left.
    pub texts_left: i64,
    /// What is held back, and goes by itself.
    pub kept: Vec<KeptByRule>,
    /// When all was erased.
    pub finished_at: Option<Time>,
}

/// What an erasure would take and leave.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErasureDryRun {
    /// `usr_…`
    pub pseudonym: String,
    /// Events that would lose values.
    pub events: i64,
    /// Values that would go.
    pub fields: i64,
    /// Events in whose text the person is named: `texts` says what becomes of them.
    pub texts: i64,
    /// Requests of others in whose path the person is named: `texts` says whether that goes.
    #[serde(default)]
    pub paths: i64,
    /// What would be held back.
    pub kept: Vec<KeptByRule>,
}

/// The body of `POST audit/erasures`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NewErasure {
    /// `<provider>|<subject>`, `usr_…`, or an e-mail address of one account.
    pub person: String,
    /// Why, without naming them: it stays on record.
    pub reason: String,
    /// What becomes of events in whose text the person is named; to be said where there are any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub texts: Option<TextsChoice>,
    /// Whether only to tell what would go.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub dry_run: bool,
}

/// What becomes of events in whose text a person is named by account or address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TextsChoice {
    /// They lose all their content.
    Erase,
    /// They stay as they are.
    Keep,
}
