//! Notices on paper.

use serde::{Deserialize, Serialize};

use super::Time;

/// One event on its way to one channel.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Notice {
    /// The event: `evt_…`.
    pub id: String,
    /// Who is told: the name of a webhook, `mail`, or `mail_approvers`.
    pub channel: String,
    /// The event's type.
    #[serde(rename = "type")]
    pub kind: String,
    /// `waiting`, `delivered` or `dead`.
    pub state: String,
    /// Trials that were begun.
    pub attempts: u32,
    /// When the next one is due, while it waits.
    pub next_at: Option<Time>,
    /// What went wrong last.
    pub error: Option<String>,
    /// Since when.
    pub created_at: Time,
    /// When it was taken or given up.
    pub ended_at: Option<Time>,
}

/// The body of `POST notices/{id}/retry`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RetryNotice {
    /// Only on this channel; else on all that gave it up.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub channel: Option<String>,
}
