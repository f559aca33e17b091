//! The paper: JSON shapes that the API writes and the command line and tests read, one file a
//! noun.
//!
//! INVARIANTS: a shape that is read from a caller refuses unknown fields; a shape that is read
//! from a server takes them, so that an older client goes on with a newer server. Keys never
//! change their meaning; times are RFC 3339 UTC with milliseconds.

pub mod access_request;
pub mod audit_stream;
pub mod breakglass;
pub mod convergence;
pub mod credential;
pub mod decision;
pub mod entitlement;
mod erasure;
pub mod grant;
pub mod lock;
pub mod notice;
pub mod oauth;
pub mod page;
pub mod principal;
pub mod problem;
pub mod review;
pub mod service;
pub mod session;
pub mod time;
pub mod whoami;

pub use access_request::{
    AccessRequest, Answer, Approval, ApprovalContext, DryRun, NewAccessRequest, NewApproval, Nothing,
};
pub use audit_stream::{AuditStream, AuditStreamPosition};
pub use breakglass::{
    BreakGlassChecked, BreakGlassClose, BreakGlassClosed, BreakGlassDrill, BreakGlassEvidence, BreakGlassTerms,
    DrillChannel, Emergency, EmergencyReview, NewReview,
};
pub use convergence::NodePolicies;
pub use credential::{Credential, Lease};
pub use decision::{Decision, DecisionEnded, DecisionExchange, DecisionGrant, DecisionHelp, DecisionRequest};
pub use entitlement::Entitlement;
pub use erasure::{Erasure, ErasureDryRun, KeptByRule, NewErasure, TextsChoice};
pub use grant::{Extend, Grant};
pub use lock::{Lock, NewLock};
pub use notice::{Notice, RetryNotice};
pub use oauth::{DeviceAuthorization, ExchangeAnswer, Introspection, OauthError, ServerMetadata, TokenAnswer};
pub use page::Page;
pub use principal::Principal;
pub use problem::{Problem, Remedy};
pub use review::{NewDecision, Review, ReviewDecision, ReviewPolicy, ReviewRule, ReviewUse, StartReview};
pub use service::{Access, Service, ServiceAction, ServiceHealth};
pub use session::{Device, Revoke, Session, SessionState};
pub use time::Time;
pub use whoami::{HeldGrant, Whoami};
