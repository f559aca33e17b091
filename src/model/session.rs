//! One sign-in of one user on one device.
//!
//! INVARIANT: a session that ended never lives again: `ended` is set once, by a guarded update.

use std::collections::BTreeMap;

use super::device::{Device, Thumbprint};
use super::id::SessionId;
use super::principal::Principal;
use super::time::Timestamp;

/// What the one URI name of a session's client certificate starts with; the session's id follows.
pub const CERTIFICATE_URI_PREFIX: &str = "doorward:session:";

/// How the session shows itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum SessionKind {
    /// A browser with a cookie.
    Browser,
    /// Our command line with a client certificate.
    Cli,
    /// A workload's exchange.
    Workload,
}

impl SessionKind {
    /// As stored and shown.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Browser => "browser",
            Self::Cli => "cli",
            Self::Workload => "workload",
        }
    }

    /// The kind of that name.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        match text {
            "browser" => Some(Self::Browser),
            "cli" => Some(Self::Cli),
            "workload" => Some(Self::Workload),
            _ => None,
        }
    }
}

/// Why a session ended before its time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum SessionEnd {
    /// Its owner signed out.
    Logout,
    /// Somebody entitled to it ended it.
    Revoked,
    /// The provider ended it (back-channel logout or a refused re-check).
    Provider,
    /// A refresh token was used twice (RFC 9700 §4.14.2).
    RefreshReused,
    /// Nobody used it for too long.
    Idle,
}

impl SessionEnd {
    /// As stored and shown.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Logout => "logout",
            Self::Revoked => "revoked",
            Self::Provider => "provider",
            Self::RefreshReused => "refresh_reused",
            Self::Idle => "idle",
        }
    }

    /// The end of that name.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        match text {
            "logout" => Some(Self::Logout),
            "revoked" => Some(Self::Revoked),
            "provider" => Some(Self::Provider),
            "refresh_reused" => Some(Self::RefreshReused),
            "idle" => Some(Self::Idle),
            _ => None,
        }
    }
}

/// A session as the data path needs it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Session {
    /// Its id.
    pub id: SessionId,
    /// How it shows itself.
    pub kind: SessionKind,
    /// Whose it is.
    pub principal: Principal,
    /// The e-mail that the provider told; for people to read, never for identity.
    pub email: Option<String>,
    /// Whether the provider said `email_verified: true`, the JSON boolean.
    pub email_verified: bool,
    /// The name that the provider told.
    pub name: Option<String>,
    /// Groups as policies name them: local names, or `<provider>|<value>` where no map is set.
    pub groups: Vec<String>,
    /// When it was started.
    pub created_at: Timestamp,
    /// When the person proved themselves to the provider (`auth_time`, else sign-in).
    pub authenticated_at: Timestamp,
    /// Methods of that proof (`amr`, RFC 8176).
    pub amr: Vec<String>,
    /// When it ends by itself.
    pub expires_at: Timestamp,
    /// Counts changes (groups, end): remembered decisions are keyed by it.
    pub version: i64,
    /// The device that was shown at sign-in.
    pub device: Option<Device>,
    /// The newest client certificate that was issued to it; none for a browser.
    pub certificate: Option<Thumbprint>,
    /// What a workload was recognised by; nothing for people.
    pub claims: BTreeMap<String, String>,
    /// Why and when it ended early.
    pub ended: Option<(SessionEnd, Timestamp)>,
}

impl Session {
    /// Whether it may still be used at `now`.
    #[must_use]
    pub fn is_live(&self, now: Timestamp) -> bool {
        self.ended.is_none() && !self.expires_at.is_over(now)
    }
}
