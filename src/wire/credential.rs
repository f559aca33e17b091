//! Certificates and tokens that are out, on paper.

use serde::{Deserialize, Serialize};

use super::{Principal, Time};

/// Something that we issued and that is good at this moment. Never the thing itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Credential {
    /// `crd_…`
    pub id: String,
    /// `x509` or `token`.
    pub kind: String,
    /// Whose.
    pub principal: Principal,
    /// The session that it belongs to, `ses_…`.
    pub session: String,
    /// Where a token is good: a service's name, or our own address.
    #[serde(default)]
    pub audience: Option<String>,
    /// Actions that a token is narrowed to.
    #[serde(default)]
    pub scope: Option<String>,
    /// The grant that a token ends with, `grt_…`.
    #[serde(default)]
    pub grant: Option<String>,
    /// The workload that acts by a token for its principal.
    #[serde(default)]
    pub acting: Option<String>,
    /// SHA-256 of a certificate, or of the one that a token is bound to.
    #[serde(default)]
    pub thumbprint: Option<String>,
    /// Since when.
    pub issued_at: Time,
    /// Until when, if nothing ends it before.
    pub expires_at: Time,
    /// What ends with it when it is revoked: `credential`, itself alone, or its `session`.
    pub revoking_ends: String,
}

/// Our duty to withdraw a credential that somebody else made for us.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lease {
    /// `lea_…`
    pub id: String,
    /// The grant that it was issued under, `grt_…`.
    pub grant: String,
    /// How far it has come.
    pub state: String,
    /// When the credential ends.
    pub expires_at: Time,
}
