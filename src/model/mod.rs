//! The words of the house: ids, time, entropy, secrets, principals, services, sessions.
//!
//! Values and state machines only. Nothing here does I/O, waits, serialises or reads a clock:
//! time and chance come in as parameters, so every rule can be tested by a table.

pub mod access_request;
pub mod address;
pub mod breakglass;
pub mod clock_watch;
pub mod closing;
pub mod credential;
pub mod device;
pub mod entropy;
pub mod grant;
pub mod id;
pub mod principal;
pub mod review;
pub mod secret;
pub mod service;
pub mod session;
pub mod text;
pub mod time;
pub mod upstream_health;

pub use access_request::{AccessRequest, Answer, Approval, Circumstances, Person, RequestState};
pub use clock_watch::{ClockDoubt, ClockStep, ClockWatch};
pub use credential::{Credential, CredentialKind};
pub use device::{Device, Thumbprint};
pub use entropy::Entropy;
pub use grant::{Approved, Grant, GrantEnd, GrantState, GrantStuck};
pub use id::{
    BreakGlassId, CredentialId, DecisionId, ErasureId, EventId, FlowId, GrantId, IdError, KeyId, LeaseId, LockId,
    NodeId, RequestId, ReviewId, SessionId, UserRef,
};
pub use principal::{Principal, PrincipalKind};
pub use review::{Choice, Decision, ReviewOver, ReviewState, RuleKind, RuleState};
pub use secret::Secret;
pub use service::{ActionName, EntitlementName, NameError, OpenedAction, ServiceName};
pub use session::{Session, SessionEnd, SessionKind};
pub use time::{Clock, Timestamp, Ttl};
pub use upstream_health::{CheckedUpstream, HealthBoard, UpstreamHealth};
