//! A principal asking for an entitlement, and how that ends.
//!
//! INVARIANT: only a pending request changes, and only before it has timed out; every other state is
//! final. What happens after an approval is the grant's (`model/grant.rs`).

use std::collections::BTreeMap;
use std::net::IpAddr;

use super::grant::Approved;
use super::id::{GrantId, RequestId, SessionId};
use super::principal::Principal;
use super::service::{EntitlementName, OpenedAction};
use super::time::{Timestamp, Ttl};

/// Who, with what a provider told of them when they asked or answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Person {
    /// The account.
    pub principal: Principal,
    /// The e-mail that the provider told.
    pub email: Option<String>,
    /// Whether it is verified.
    pub email_verified: bool,
    /// The name that the provider told.
    pub name: Option<String>,
}

impl Person {
    /// The e-mail, if the provider vouches for it.
    #[must_use]
    pub fn verified_email(&self) -> Option<&str> {
        self.email.as_deref().filter(|_| self.email_verified)
    }
}

/// How far a request has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum RequestState {
    /// It waits for answers.
    Pending,
    /// It was granted.
    Approved,
    /// An approver said no.
    Denied,
    /// The requester took it back.
    Withdrawn,
    /// Nobody answered in time.
    TimedOut,
}

impl RequestState {
    /// As stored and shown.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Approved => "approved",
            Self::Denied => "denied",
            Self::Withdrawn => "withdrawn",
            Self::TimedOut => "timed_out",
        }
    }

    /// The state of that name.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        [Self::Pending, Self::Approved, Self::Denied, Self::Withdrawn, Self::TimedOut]
            .into_iter()
            .find(|state| state.name() == text)
    }

    /// What becomes of it by `end`.
    ///
    /// # Errors
    /// The state as it is, when it is final.
    pub const fn closed(self, end: Self) -> Result<Self, Self> {
        match (self, end) {
            (Self::Pending, Self::Approved | Self::Denied | Self::Withdrawn | Self::TimedOut) => Ok(end),
            (other, _) => Err(other),
        }
    }
}

/// A request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AccessRequest {
    /// Its id.
    pub id: RequestId,
    /// What is asked for.
    pub entitlement: EntitlementName,
    /// Who asks.
    pub requester: Person,
    /// Under which session.
    pub session: SessionId,
    /// From where.
    pub address: IpAddr,
    /// Why.
    pub reason: String,
    /// The ticket that it belongs to.
    pub ticket: Option<String>,
    /// What the entitlement asks beyond a reason.
    pub params: BTreeMap<String, String>,
    /// How long; the clock starts at activation.
    pub length: Ttl,
    /// When it is to begin; none: as soon as it may.
    pub start: Option<Timestamp>,
    /// Whether approvals are skipped because it can't wait.
    pub emergency: bool,
    /// The grant that it prolongs.
    pub extends: Option<GrantId>,
    /// `sha256:…` of the canonical request, the entitlement's definition and the actions that it opens.
    pub hash: String,
    /// The actions that it opens.
    pub actions: Vec<OpenedAction>,
    /// How many people must approve; none where policy approves.
    pub approvals_needed: u32,
    /// How far it has come, as stored; ask [`Self::state_at`].
    pub state: RequestState,
    /// When it was made.
    pub created_at: Timestamp,
    /// When it times out unanswered.
    pub answer_by: Timestamp,
    /// When it was closed.
    pub closed_at: Option<Timestamp>,
    /// What was granted.
    pub grant: Option<GrantId>,
}

impl AccessRequest {
    /// What an approval of it would be of.
    #[must_use]
    pub const fn to_be_approved(&self) -> Approved<'_> {
        Approved { entitlement: &self.entitlement, actions: self.actions.as_slice(), params: &self.params }
    }

    /// How far it has come at `now`: a pending one times out by itself.
    #[must_use]
    pub const fn state_at(&self, now: Timestamp) -> RequestState {
        match self.state {
            RequestState::Pending if self.answer_by.is_over(now) => RequestState::TimedOut,
            state => state,
        }
    }
}

/// What an approver says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Answer {
    /// Yes.
    Approve,
    /// No, which ends the request.
    Deny,
}

impl Answer {
    /// As stored and shown.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Approve => "approve",
            Self::Deny => "deny",
        }
    }

    /// The answer of that name.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        match text {
            "approve" => Some(Self::Approve),
            "deny" => Some(Self::Deny),
            _ => None,
        }
    }
}

/// One answer of one account.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Approval {
    /// Who.
    pub by: Person,
    /// Yes or no.
    pub answer: Answer,
    /// What they said to it.
    pub reason: Option<String>,
    /// Of what they saw.
    pub hash: String,
    /// When.
    pub time: Timestamp,
    /// How they came; none of what was answered before that was kept, or of somebody who was erased.
    pub came: Option<Circumstances>,
    /// Whether it was an approval that counted when its request was closed or its grant began; none until then,
    /// and of what was closed before that was kept.
    pub counted: Option<bool>,
}

/// How somebody came who answered, as policies see it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Circumstances {
    /// Where from.
    pub address: IpAddr,
    /// How they had proven themselves (`amr`, RFC 8176).
    pub amr: Vec<String>,
    /// The device on which they had signed in, where there was one: a trusted one, since no other is kept
    /// with a session.
    pub device: Option<String>,
}
