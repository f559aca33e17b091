//! One thing that happened. Everything that leaves a trace is one of these, and nothing else is.
//!
//! INVARIANT: there is no field that could hold a secret, a token or a query string: a request is
//! remembered by method, host and path, a certificate by its thumbprint.

use std::net::IpAddr;
use std::sync::Arc;

use serde_json::Value;

use super::data::Data;
use crate::model::{DecisionId, EventId, GrantId, Principal, ServiceName, SessionId, Thumbprint, Timestamp};

macro_rules! event_types {
    ($($(#[doc = $doc:literal])* $name:ident = $text:literal,)*) => {
        /// What kind of thing happened. The dotted texts are the contract.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum EventType { $($(#[doc = $doc])* $name,)* }

        impl EventType {
            /// Every type that exists.
            pub const ALL: &'static [Self] = &[$(Self::$name,)*];

            /// The dotted name.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Self::$name => $text,)* }
            }

            /// What it says, in a sentence.
            #[must_use]
            pub const fn about(self) -> &'static str {
                match self { $(Self::$name => concat!($($doc),*).trim_ascii(),)* }
            }

            /// The type of that name.
            #[must_use]
            pub fn parse(text: &str) -> Option<Self> {
                match text { $($text => Some(Self::$name),)* _ => None }
            }
        }
    };
}

event_types! {
    /// A request may pass on to its upstream.
    DecisionAllow = "decision.allow",
    /// A request is refused.
    DecisionDeny = "decision.deny",
    /// Refusals before anyone was identified, counted.
    DecisionDenyCounted = "decision.deny_counted",
    /// A request that was passed on has ended: status, bytes, duration.
    ExchangeEnded = "exchange.ended",
    /// Buffered events that could not be kept, counted.
    RecordLost = "record.lost",
    /// Somebody signed in.
    SessionStart = "session.start",
    /// A session's certificate was issued or renewed.
    SessionRenewed = "session.renewed",
    /// The provider gave a session other groups.
    SessionGroups = "session.groups_changed",
    /// A session ended early.
    SessionEnd = "session.end",
    /// A sign-in failed.
    SignInFailed = "session.start_failed",
    /// A token was issued.
    TokenIssued = "token.issued",
    /// A token was refused or withdrawn.
    TokenRevoked = "token.revoked",
    /// A certificate was issued.
    CredentialIssued = "credential.issued",
    /// A principal was barred.
    LockSet = "lock.set",
    /// A bar was lifted.
    LockCleared = "lock.cleared",
    /// An entitlement was asked for.
    RequestCreated = "request.created",
    /// An approver said yes.
    RequestApproved = "request.approved",
    /// An approver said no.
    RequestDenied = "request.denied",
    /// The requester took it back.
    RequestWithdrawn = "request.withdrawn",
    /// Nobody answered in time.
    RequestTimedOut = "request.timed_out",
    /// An approval stopped counting, since what it opened became wider.
    RequestVoided = "request.voided",
    /// A grant waits for its start or for a place.
    GrantScheduled = "grant.scheduled",
    /// A grant became active.
    GrantActive = "grant.active",
    /// A grant lasts longer than before.
    GrantExtended = "grant.extended",
    /// A grant reached its end.
    GrantExpired = "grant.expired",
    /// A grant was ended by someone else than its holder.
    GrantRevoked = "grant.revoked",
    /// A grant was ended by its holder.
    GrantDropped = "grant.dropped",
    /// A workload's token was not exchanged.
    ExchangeRefused = "token.exchange_refused",
    /// A credential ended or was withdrawn.
    CredentialRevoked = "credential.revoked",
    /// A credential could not be withdrawn yet.
    CredentialRevokeFailed = "credential.revoke_failed",
    /// The emergency path was opened.
    BreakGlassOpened = "breakglass.opened",
    /// Somebody failed to use the emergency path.
    BreakGlassRefused = "breakglass.refused",
    /// An opening was closed before its end.
    BreakGlassClosed = "breakglass.closed",
    /// An opening reached its end.
    BreakGlassExpired = "breakglass.expired",
    /// An opening or an emergency grant was reviewed by one person.
    BreakGlassReviewed = "breakglass.reviewed",
    /// The emergency path was exercised without opening anything.
    BreakGlassDrilled = "breakglass.drilled",
    /// A drill sent a test message on each channel of one node: what became of it.
    BreakGlassChannelsTested = "breakglass.channels_tested",
    /// The emergency path was not exercised for too long.
    BreakGlassDrillOverdue = "breakglass.drill_overdue",
    /// Custodians or threshold are not those that were last recorded.
    BreakGlassCustodiansChanged = "breakglass.custodians_changed",
    /// A notice could not be delivered and is not tried again.
    NoticeDead = "notice.dead",
    /// A notice that was given up is tried again, on somebody's word.
    NoticeRetried = "notice.retried",
    /// Policies came into force.
    PolicyLoaded = "policy.loaded",
    /// Policies were refused; the old ones stay.
    PolicyRefused = "policy.refused",
    /// A signing key was made, promoted or retired.
    KeyChanged = "key.changed",
    /// The record was read.
    AuditRead = "audit.read",
    /// The record was exported.
    AuditExported = "audit.exported",
    /// A log was opened, or its key changed.
    AuditLogOpened = "audit.log_opened",
    /// Decisions that were spooled while the database was away were merged.
    AuditSpoolMerged = "audit.spool_merged",
    /// Old events were pruned; their hashes stay.
    AuditPruned = "audit.pruned",
    /// A stream's receiver took nothing for too long.
    AuditStreamStalled = "audit.stream_stalled",
    /// A stream's receiver takes events again.
    AuditStreamRecovered = "audit.stream_recovered",
    /// Events were pruned before a stream had sent them.
    AuditStreamGap = "audit.stream_gap",
    /// Personal values and their salts were erased: one batch of an erasure.
    AuditErased = "audit.erased",
    /// A person was erased from the record: whose pseudonym, why, how much, what is kept by which rule.
    AuditPersonErased = "audit.person_erased",
    /// An access review of a service was begun.
    ReviewStarted = "review.started",
    /// A reviewer decided to keep or to remove a rule, or decided otherwise than before.
    ReviewDecided = "review.decided",
    /// An access review was closed.
    ReviewClosed = "review.closed",
    /// Something of an access review is not done: a rule undecided when it was due, a removal still in the policies.
    ReviewOutstanding = "review.outstanding",
    /// A rule that a reviewer decided to remove is gone from the policies.
    ReviewRemoved = "review.rule_removed",
    /// The clock stepped.
    ClockStepped = "clock.stepped",
    /// The gateway began.
    NodeStarted = "node.started",
    /// The gateway ended in good order.
    NodeStopped = "node.stopped",
}

/// How it came out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// Done or allowed.
    Success,
    /// Refused by a rule.
    Denied,
    /// Tried and failed.
    Failed,
}

impl Outcome {
    /// Every outcome that there is.
    pub const ALL: [Self; 3] = [Self::Success, Self::Denied, Self::Failed];

    /// As stored and shown.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Success => "success",
            Self::Denied => "denied",
            Self::Failed => "failed",
        }
    }

    /// The outcome of that name.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        match text {
            "success" => Some(Self::Success),
            "denied" => Some(Self::Denied),
            "failed" => Some(Self::Failed),
            _ => None,
        }
    }
}

/// Who did it, as far as it is known. Principal, address, e-mail and device are personal: the leaf
/// holds commitments to them, and a pseudonym (`audit/leaf.rs`).
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Actor {
    /// The principal; none before anyone is identified, and for the system itself.
    pub principal: Option<Principal>,
    /// Where the connection came from.
    pub address: Option<IpAddr>,
    /// The e-mail that the provider told, for people to read.
    pub email: Option<Arc<str>>,
    /// Under which session.
    pub session: Option<SessionId>,
    /// From which device.
    pub device: Option<Arc<str>>,
    /// Which client certificate was shown.
    pub certificate: Option<Thumbprint>,
}

/// The request that a decision was about, in its canonical form. No query string.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RequestFacts {
    /// `GET`
    pub method: Arc<str>,
    /// Host without port.
    pub host: Arc<str>,
    /// The canonical path that policy and upstream saw.
    pub path: Arc<str>,
    /// `http/1.1` or `h2`.
    pub protocol: &'static str,
}

/// One event, before it gets its number.
#[derive(Debug, Clone, PartialEq)]
pub struct Event {
    /// Its id; a decision's event has the decision's sixteen bytes.
    pub id: EventId,
    /// When.
    pub time: Timestamp,
    /// What.
    pub kind: EventType,
    /// Who.
    pub actor: Actor,
    /// The action of the service, or the built-in one.
    pub action: Option<Arc<str>>,
    /// What it was done to (`Service::"ops-api"`, `ses_…`).
    pub resource: Option<Arc<str>>,
    /// To whom it was done, where that is someone: the owner of an ended session, the principal who
    /// was barred. Personal like the actor; `resource` and `data` never name a person.
    pub subject: Option<Principal>,
    /// The service, where it was about one.
    pub service: Option<ServiceName>,
    /// How it came out.
    pub outcome: Outcome,
    /// The contract's reason of a refusal, or a word for a failure.
    pub reason: Option<Arc<str>>,
    /// The decision that this belongs to.
    pub decision: Option<DecisionId>,
    /// The grant that this belongs to.
    pub grant: Option<GrantId>,
    /// The request that was judged.
    pub request: Option<RequestFacts>,
    /// Which policies judged.
    pub policy_version: Option<Arc<str>>,
    /// W3C trace id, 32 hexadecimal digits.
    pub trace_id: Option<Arc<str>>,
    /// What is special to the type.
    pub data: Data,
}

impl Event {
    /// An event with only what every event has; the rest is filled in by the caller.
    #[must_use]
    pub fn new(id: EventId, time: Timestamp, kind: EventType, outcome: Outcome) -> Self {
        Self {
            id,
            time,
            kind,
            actor: Actor::default(),
            action: None,
            resource: None,
            subject: None,
            service: None,
            outcome,
            reason: None,
            decision: None,
            grant: None,
            request: None,
            policy_version: None,
            trace_id: None,
            data: Data::default(),
        }
    }

    /// Adds one thing that is special to the type.
    #[must_use]
    pub fn with(mut self, key: &'static str, value: impl Into<Value>) -> Self {
        self.data.insert(key, value.into());
        self
    }
}
