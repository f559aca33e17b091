//! The caller on paper.

use serde::{Deserialize, Serialize};

use super::{Principal, Session, Time};

/// What Doorward knows of the caller.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Whoami {
    /// Who.
    pub principal: Principal,
    /// Under which session.
    pub session: Session,
    /// Groups as policies name them, those of `groups.toml` included.
    pub groups: Vec<String>,
    /// Entitlements that are active now.
    pub grants: Vec<HeldGrant>,
    /// When the session ends.
    pub expires_at: Time,
}

/// An active grant, in brief.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HeldGrant {
    /// `grt_…`
    pub id: String,
    /// `svc/name`
    pub entitlement: String,
    /// When it ends.
    pub expires_at: Time,
}
