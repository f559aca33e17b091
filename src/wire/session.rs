//! Sessions on paper.

use serde::{Deserialize, Serialize};

use super::{Principal, Time};

/// Whether a session may still be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SessionState {
    /// It may.
    Live,
    /// It may not, and never again.
    Ended,
}

/// A device that was shown at sign-in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Device {
    /// As its certificate names it.
    pub id: String,
}

/// One sign-in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Session {
    /// `ses_…`
    pub id: String,
    /// `browser`, `cli` or `workload`.
    pub kind: String,
    /// Whose it is.
    pub principal: Principal,
    /// Where it was started, if a device certificate was shown.
    #[serde(default)]
    pub device: Option<Device>,
    /// Groups as policies name them.
    pub groups: Vec<String>,
    /// When it was started.
    pub created_at: Time,
    /// When its owner proved themselves to the provider.
    pub authenticated_at: Time,
    /// When it ends by itself, or when it ended.
    pub expires_at: Time,
    /// When the newest client certificate ends, where there is one.
    #[serde(default)]
    pub certificate_expires_at: Option<Time>,
    /// Whether it is the caller's own of this very request.
    pub current: bool,
    /// Live or ended.
    pub state: SessionState,
    /// Why it ended early: `logout`, `revoked`, `provider`, `refresh_reused`, `idle`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub end: Option<String>,
}

/// The body of `POST sessions/{id}/revoke`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Revoke {
    /// Why, for the record: 1 to 1,000 characters.
    pub reason: String,
}
