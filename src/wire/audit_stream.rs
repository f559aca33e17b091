//! Streams of the record on paper.

use serde::{Deserialize, Serialize};

use super::Time;

/// A stream of the record to a receiver outside, and how far it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuditStream {
    /// Its name in the configuration.
    pub name: String,
    /// `syslog`, `webhook` or `otlp`.
    pub kind: String,
    /// `jsonl`, `ocsf` or `cef`.
    pub format: String,
    /// `sending`, `failing`, `stalled`, or `unattended` where no node has it in its configuration.
    pub state: String,
    /// Events that were taken.
    pub sent: u64,
    /// When the last ones were.
    pub sent_at: Option<Time>,
    /// Events on record that it has not come to.
    pub lag_events: u64,
    /// The age of the oldest of them, in seconds.
    pub lag_seconds: u64,
    /// Since when nothing is taken.
    pub failing_since: Option<Time>,
    /// How often that was tried since.
    pub failures: u64,
    /// What went wrong last.
    pub error: Option<String>,
    /// How far it has each log.
    pub positions: Vec<AuditStreamPosition>,
}

/// How far a stream has one log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuditStreamPosition {
    /// The log: `nod_…`.
    pub log: String,
    /// The number of the next event that is sent.
    pub next: u64,
    /// How many events the log has.
    pub size: u64,
}
