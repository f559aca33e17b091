//! Bars on principals, on paper.

use serde::{Deserialize, Serialize};

use super::{Principal, Time};

/// A bar on a principal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lock {
    /// `lck_…`
    pub id: String,
    /// Who is barred.
    pub principal: Principal,
    /// Why.
    pub reason: String,
    /// Since when.
    pub set_at: Time,
    /// Whether it still holds.
    pub active: bool,
    /// Whether anybody of that id has been here, or is named by a rule; said where the bar was just set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub known: Option<bool>,
    /// `User::"<provider>|<subject>"`: who may have been meant, where nobody of that id is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub near: Option<String>,
}

/// The body of `POST locks` and `POST locks/clear`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NewLock {
    /// `User::"<provider>|<subject>"`, `<provider>|<subject>`, or an e-mail or name that only one
    /// person has.
    pub principal: String,
    /// Why, for the record: 1 to 1,000 characters.
    pub reason: String,
}
