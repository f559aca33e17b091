//! Something that we issued and that lets its holder in: a certificate or a token.
//!
//! INVARIANT: nothing here could be shown in its place: a token is known by its id, a certificate by its
//! thumbprint.

use super::device::Thumbprint;
use super::id::{CredentialId, GrantId, SessionId};
use super::time::Timestamp;

/// What kind of thing it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CredentialKind {
    /// A client certificate of a session or workload.
    X509,
    /// An access token.
    Token,
}

impl CredentialKind {
    /// As stored and shown.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::X509 => "x509",
            Self::Token => "token",
        }
    }

    /// The kind of that name.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        match text {
            "x509" => Some(Self::X509),
            "token" => Some(Self::Token),
            _ => None,
        }
    }
}

/// A credential as it was issued.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Credential {
    /// Its id here.
    pub id: CredentialId,
    /// What it is.
    pub kind: CredentialKind,
    /// The session that it belongs to and ends with.
    pub session: SessionId,
    /// Where a token is good: a service's name, or our own address.
    pub audience: Option<String>,
    /// Actions that a token is narrowed to.
    pub scope: Option<String>,
    /// The grant that a token ends with.
    pub grant: Option<GrantId>,
    /// The workload that acts by a token, as policies name it.
    pub acting: Option<String>,
    /// A certificate's own, or that of the certificate that a token is bound to.
    pub thumbprint: Option<Thumbprint>,
    /// A token's own id.
    pub jti: Option<String>,
    /// Since when it is out.
    pub issued_at: Timestamp,
    /// When it ends by itself.
    pub expires_at: Timestamp,
}
