//! What went wrong, on paper: problem details (RFC 9457).

use std::fmt;

use serde::{Deserialize, Serialize};

/// The media type of a [`Problem`].
pub const PROBLEM_MEDIA_TYPE: &str = "application/problem+json";

/// A refusal or failure.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Problem {
    /// `urn:doorward:problem:<reason>`
    #[serde(rename = "type")]
    pub kind: String,
    /// The reason in words, the same for every occurrence.
    pub title: String,
    /// The HTTP status.
    pub status: u16,
    /// This occurrence in words, and what to do.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
    /// `dec_…`: what `doorward why` explains.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub decision: Option<String>,
    /// The reason as scripts read it, `no_policy_match`.
    pub reason: String,
    /// What would help.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub remedy: Option<Remedy>,
}

/// What would help against a refusal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Remedy {
    /// `request_access`, `sign_in`, `step_up`, `device`, `retry` or `none`.
    pub kind: String,
    /// What to ask for, `svc/name`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub entitlement: Option<String>,
    /// The command that does it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub command: Option<String>,
}

impl Problem {
    /// A problem of this reason, with nothing optional in it.
    #[must_use]
    pub fn new(status: u16, reason: &str, title: &str) -> Self {
        Self {
            kind: format!("urn:doorward:problem:{reason}"),
            title: title.to_owned(),
            status,
            detail: None,
            decision: None,
            reason: reason.to_owned(),
            remedy: None,
        }
    }

    /// Says what happened this time.
    #[must_use]
    pub fn with_detail(mut self, detail: impl Into<String>) -> Self {
        self.detail = Some(detail.into());
        self
    }

    /// Says what would help.
    #[must_use]
    pub fn with_remedy(mut self, remedy: Remedy) -> Self {
        self.remedy = Some(remedy);
        self
    }
}

impl Remedy {
    /// Help of this kind, with the command that does it.
    #[must_use]
    pub fn new(kind: &str, command: Option<&str>) -> Self {
        Self { kind: kind.to_owned(), entitlement: None, command: command.map(str::to_owned) }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.title)?;
        if let Some(detail) = &self.detail {
            write!(f, ": {detail}")?;
        }
        Ok(())
    }
}
