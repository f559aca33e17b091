//! What may be asked for, on paper.

use serde::{Deserialize, Serialize};

/// An entitlement as its service defines it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entitlement {
    /// `svc/name`
    pub name: String,
    /// What its owner says of it.
    pub description: String,
    /// Approvals that a request needs.
    pub approvals: u32,
    /// The longest that may be asked for, `1h`.
    pub max: String,
    /// What is given when no length is asked for, `30m`.
    pub default: String,
    /// The shortest that may be asked for, `2s`.
    pub min: String,
    /// Whether a reason must be given.
    pub reason_required: bool,
    /// The pattern that a ticket must match; none where no ticket is asked for.
    #[serde(default)]
    pub ticket: Option<String>,
    /// A grant ends when it is not used for so long.
    #[serde(default)]
    pub idle: Option<String>,
    /// A grant begins so long after its request at the earliest.
    #[serde(default)]
    pub earliest_start: Option<String>,
    /// So long after a grant the same person does not hold it again.
    #[serde(default, rename = "break")]
    pub break_after: Option<String>,
    /// Whether this caller may ask for it.
    pub may_request: bool,
}
