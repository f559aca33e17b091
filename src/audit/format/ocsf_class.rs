//! Which class and activity of OCSF 1.8 stands for each type of event.
//!
//! INVARIANT: the match over types is exhaustive: a new type does not build until its class is
//! chosen.

use crate::audit::event::EventType;

/// A class of OCSF 1.8 that we write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Class {
    /// Account Change 3001
    Account,
    /// Authentication 3002
    Authentication,
    /// Entity Management 3004
    Entity,
    /// User Access Management 3005
    Access,
    /// HTTP Activity 4002
    Http,
    /// Event Log Activity 1008
    Log,
    /// Application Lifecycle 6002
    Lifecycle,
}

impl Class {
    /// Category, class and their captions.
    #[must_use]
    pub const fn ids(self) -> (u32, u32, &'static str, &'static str) {
        const IAM: &str = "Identity & Access Management";
        match self {
            Self::Account => (3, 3001, IAM, "Account Change"),
            Self::Authentication => (3, 3002, IAM, "Authentication"),
            Self::Entity => (3, 3004, IAM, "Entity Management"),
            Self::Access => (3, 3005, IAM, "User Access Management"),
            Self::Http => (4, 4002, "Network Activity", "HTTP Activity"),
            Self::Log => (1, 1008, "System Activity", "Event Log Activity"),
            Self::Lifecycle => (6, 6002, "Application Activity", "Application Lifecycle"),
        }
    }
}

/// Class, activity and its caption. An activity of `Http` follows from the method, so it has 99
/// here for what has none. 99 is named by the type itself.
#[must_use]
pub const fn class_of(kind: EventType) -> (Class, u32, &'static str) {
    use EventType as T;
    let other = kind.name();
    match kind {
        T::DecisionAllow | T::DecisionDeny | T::ExchangeEnded => (Class::Http, 99, other),
        T::SessionStart | T::SignInFailed => (Class::Authentication, 1, "Logon"),
        T::SessionEnd => (Class::Authentication, 2, "Logoff"),
        T::TokenIssued | T::ExchangeRefused => (Class::Authentication, 4, "Service Ticket Request"),
        T::SessionRenewed => (Class::Authentication, 5, "Service Ticket Renew"),
        T::CredentialIssued => (Class::Authentication, 3, "Authentication Ticket"),
        T::TokenRevoked | T::CredentialRevoked | T::CredentialRevokeFailed => (Class::Authentication, 99, other),
        T::LockSet => (Class::Account, 9, "Lock"),
        T::LockCleared => (Class::Account, 12, "Unlock"),
        T::SessionGroups => (Class::Account, 99, other),
        T::GrantActive | T::BreakGlassOpened => (Class::Access, 1, "Assign Privileges"),
        T::GrantExpired | T::GrantRevoked | T::GrantDropped | T::BreakGlassClosed | T::BreakGlassExpired => {
            (Class::Access, 2, "Revoke Privileges")
        }
        T::GrantScheduled | T::GrantExtended | T::BreakGlassRefused => (Class::Access, 99, other),
        T::RequestCreated | T::ReviewStarted => (Class::Entity, 1, "Create"),
        T::RequestApproved
        | T::RequestDenied
        | T::RequestWithdrawn
        | T::RequestTimedOut
        | T::RequestVoided
        | T::BreakGlassReviewed
        | T::BreakGlassCustodiansChanged
        | T::PolicyLoaded
        | T::PolicyRefused
        | T::KeyChanged
        | T::ReviewDecided
        | T::ReviewClosed => (Class::Entity, 3, "Update"),
        T::BreakGlassDrilled
        | T::BreakGlassChannelsTested
        | T::BreakGlassDrillOverdue
        | T::NoticeDead
        | T::NoticeRetried
        | T::ReviewOutstanding
        | T::ReviewRemoved
        | T::ClockStepped => (Class::Entity, 99, other),
        T::AuditRead
        | T::DecisionDenyCounted
        | T::RecordLost
        | T::AuditSpoolMerged
        | T::AuditStreamStalled
        | T::AuditStreamRecovered
        | T::AuditStreamGap => (Class::Log, 99, other),
        T::AuditExported => (Class::Log, 3, "Export"),
        T::AuditLogOpened => (Class::Log, 6, "Start"),
        T::AuditPruned | T::AuditErased | T::AuditPersonErased => (Class::Log, 2, "Delete"),
        T::NodeStarted => (Class::Lifecycle, 3, "Start"),
        T::NodeStopped => (Class::Lifecycle, 4, "Stop"),
    }
}

/// The activity of an HTTP method.
#[must_use]
pub fn http_activity(method: &str) -> Option<(u32, &'static str)> {
    Some(match method {
        "CONNECT" => (1, "Connect"),
        "DELETE" => (2, "Delete"),
        "GET" => (3, "Get"),
        "HEAD" => (4, "Head"),
        "OPTIONS" => (5, "Options"),
        "POST" => (6, "Post"),
        "PUT" => (7, "Put"),
        "TRACE" => (8, "Trace"),
        "PATCH" => (9, "Patch"),
        _ => return None,
    })
}
