//! Grants on paper.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{Principal, Time};

/// An approved entitlement in time.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Grant {
    /// `grt_…`
    pub id: String,
    /// `req_…`: what was approved.
    pub request: String,
    /// `svc/name`
    pub entitlement: String,
    /// Who holds it.
    pub principal: Principal,
    /// `scheduled`, `queued`, `active`, `expired`, `revoked` or `dropped`.
    pub state: String,
    /// What was asked beyond a reason.
    #[serde(default)]
    pub params: BTreeMap<String, String>,
    /// The actions that it opens, as they were approved.
    pub actions: Vec<String>,
    /// Whether it was taken first and answers for itself later.
    pub emergency: bool,
    /// Since when it is there.
    pub created_at: Time,
    /// When it is to begin.
    #[serde(default)]
    pub starts_at: Option<Time>,
    /// When it began.
    #[serde(default)]
    pub active_at: Option<Time>,
    /// When it ends by itself.
    #[serde(default)]
    pub expires_at: Option<Time>,
    /// When it ended.
    #[serde(default)]
    pub ended_at: Option<Time>,
    /// Why it ended early, in the words of who ended it.
    #[serde(default)]
    pub end_reason: Option<String>,
    /// It ends when it is not used for so long, `15m`.
    #[serde(default)]
    pub idle: Option<String>,
    /// When it was last used; kept only where it ends for want of use.
    #[serde(default)]
    pub used_at: Option<Time>,
    /// When it ends for want of use, if nobody uses it before.
    #[serde(default)]
    pub idle_ends_at: Option<Time>,
    /// Whether an emergency was reviewed afterwards.
    pub reviewed: bool,
}

/// The body of `POST grants/{id}/extend`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Extend {
    /// How much longer, `30m`.
    #[serde(rename = "for")]
    pub length: String,
}
