//! The judge: loads `policies/`, generates each service's Cedar schema, decides, explains, tests.
//!
//! Reading the folder is its only I/O ([`load`]); what comes out is whole, validated and never
//! changes. Default deny; a forbid beats a permit; an evaluation error refuses.
//!
//! The walk of a decision: `service.rs` finds the route (`router.rs`), `subject.rs` has the
//! principal's entities ready, `context.rs` builds what `reads.rs` found to be read, and
//! `judge.rs` asks Cedar with the policies of that one action.

mod cedar_file;
mod check;
mod context;
mod contradiction;
mod diagnostic;
mod diff;
mod document;
mod entitlement;
mod explain;
mod folder;
mod groups;
mod health;
mod inventory;
mod judge;
mod kinds;
mod lint;
mod load;
mod parameter_lint;
mod people;
mod policy_set;
mod reading;
mod reads;
mod replay;
mod route;
mod router;
mod rule;
mod scenario;
mod schema;
mod scope_lint;
mod service;
mod service_file;
mod settings;
mod subject;
mod suggestion;
mod sway;
mod test_table;
mod upstream;
mod validate;
mod verdict;
mod workload_lint;
mod workloads;

pub use check::{Checked, check};
pub use context::{Ambient, DeviceContext, RequestContext, SessionContext};
pub use diagnostic::{Diagnostic, Severity};
pub use diff::{Change, Difference, Reply, Turn, diff};
pub use entitlement::{Entitlement, PARAMETER_CHARS_MAX, Parameter, TicketPattern, WhenFull};
pub use explain::{Explanation, explain};
pub use groups::Groups;
pub use inventory::STATEMENT;
pub use load::{LoadSettings, load};
pub use people::People;
pub use policy_set::{EntitlementAction, InstallationAction, PolicySet};
pub use reads::Reads;
pub use replay::{Again, Held, Opening, Past, Replay, SignIn};
pub use route::{Matched, Methods, Route};
pub use rule::{Rule, RulePolicy};
pub use scenario::{Answer, Question, Scenario, ScenarioError};
pub use schema::is_claim_recorded;
pub use service::Service;
pub use settings::{
    AssertionMode, ClientCertificate, HealthCheck, Injection, InjectionScheme, OnStale, RecordMode, SecretSource,
    ServiceLimits, ServiceTimeouts,
};
pub use subject::{BreakGlassFacts, Facts, Subject};
pub use suggestion::nearest;
pub use test_table::{TestOutcome, run_tests};
pub use upstream::{Upstream, UpstreamProtocol, UpstreamTls};
pub use verdict::{DenyReason, Verdict};
pub use workloads::{ClaimTrial, Preset, Recognised, SPIFFE_PROVIDER, Trial, TrustRule, TrustedIssuer, Workloads};
