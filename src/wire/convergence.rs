//! Which policies a node has in force, on paper.

use serde::{Deserialize, Serialize};

use super::Time;

/// What one node has in force.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodePolicies {
    /// `nod_…`
    pub node: String,
    /// The version of its policies; none where it has loaded none for very long.
    pub policy_version: Option<String>,
    /// Since when.
    pub since: Option<Time>,
    /// When it last refused files that it was to load, if that was after.
    pub refused_at: Option<Time>,
    /// Whether it is what the node that answers has in force.
    pub agrees: bool,
}
