//! The arguments of just-in-time access: asking, answering, holding, ending, barring.

use clap::Args;
use clap::builder::PossibleValuesParser;

use super::args::{length, moment, parameter, reason};
use crate::model::{EntitlementName, Timestamp, Ttl};

/// The states that a request can be listed by.
const REQUEST_STATES: [&str; 10] =
    ["pending", "approved", "scheduled", "active", "expired", "revoked", "dropped", "denied", "withdrawn", "timed_out"];

pub(super) const REQUEST_EXAMPLES: &str = "\
Examples:
  doorward request ops-api/deploy-prod --reason \"hotfix\" \\
    --ticket OPS-12 --for 30m
  doorward request ops-api/deploy-prod --reason \"hotfix\" \\
    --ticket OPS-12 --wait --timeout 10m
  doorward request ops-api/deploy-prod --reason \"hotfix\" \\
    --ticket OPS-12 --dry-run             whether it fits, who could approve

With --wait: exit 0 once it is approved or active, 4 when it is denied, 5 when the wait ran out,
1 when it ended otherwise (never answered, withdrawn).";

/// `doorward request`
#[derive(Debug, Clone, Args)]
pub struct RequestArgs {
    /// What to ask for, `service/name`
    #[arg(value_parser = EntitlementName::parse)]
    pub entitlement: EntitlementName,
    /// Why it is needed; most entitlements require it
    #[arg(long, value_name = "TEXT", value_parser = reason)]
    pub reason: Option<String>,
    /// How long it is needed: 90s, 15m, 1h30m, 1d
    #[arg(long = "for", value_name = "LENGTH", value_parser = length)]
    pub length: Option<Ttl>,
    /// The ticket that it belongs to
    #[arg(long, value_name = "TICKET")]
    pub ticket: Option<String>,
    /// When it is to begin, 2026-11-22T10:15:00Z
    #[arg(long, value_name = "TIME", value_parser = moment)]
    pub start: Option<Timestamp>,
    /// A parameter of the entitlement
    #[arg(long = "param", value_name = "KEY=VALUE", value_parser = parameter)]
    pub params: Vec<(String, String)>,
    /// Say that it can't wait
    #[arg(long)]
    pub emergency: bool,
    /// Only say what it would take, and who could approve
    #[arg(long, conflicts_with = "wait")]
    pub dry_run: bool,
    /// Wait until it is decided
    #[arg(long)]
    pub wait: bool,
    /// How long to wait [default: 10m]
    #[arg(long, value_name = "LENGTH", requires = "wait", value_parser = length)]
    pub timeout: Option<Ttl>,
}

/// `doorward requests`
#[derive(Debug, Clone, Args)]
pub struct RequestsArgs {
    /// Your own (the default)
    #[arg(long, conflicts_with_all = ["to_approve", "all"])]
    pub mine: bool,
    /// Those that wait for your answer
    #[arg(long, conflicts_with = "all")]
    pub to_approve: bool,
    /// All that you may approve, revoke or audit
    #[arg(long)]
    pub all: bool,
    /// Only those in this state
    #[arg(long, value_name = "STATE", value_parser = PossibleValuesParser::new(REQUEST_STATES))]
    pub state: Option<String>,
}

/// `doorward show`
#[derive(Debug, Clone, Args)]
pub struct ShowArgs {
    /// A request (`req_…`) or grant (`grt_…`), or the beginning of its id
    #[arg(value_name = "ID")]
    pub id: String,
}

/// `doorward approve`
#[derive(Debug, Clone, Args)]
pub struct ApproveArgs {
    /// The request, or the beginning of its id
    #[arg(value_name = "REQUEST")]
    pub id: String,
    /// A remark, for the record
    #[arg(long, value_name = "TEXT", value_parser = reason)]
    pub reason: Option<String>,
    /// Don't ask back on a terminal
    #[arg(long)]
    pub yes: bool,
}

/// `doorward withdraw`
#[derive(Debug, Clone, Args)]
pub struct WithdrawArgs {
    /// The request, or the beginning of its id
    #[arg(value_name = "REQUEST")]
    pub id: String,
}

/// `doorward deny`
#[derive(Debug, Clone, Args)]
pub struct DenyArgs {
    /// The request, or the beginning of its id
    #[arg(value_name = "REQUEST")]
    pub id: String,
    /// Why, for its owner and the record
    #[arg(long, value_name = "TEXT", value_parser = reason)]
    pub reason: Option<String>,
}

/// `doorward grants`
#[derive(Debug, Clone, Args)]
pub struct GrantsArgs {
    /// Your own (the default)
    #[arg(long, conflicts_with = "all")]
    pub mine: bool,
    /// All that you may approve, revoke or audit
    #[arg(long)]
    pub all: bool,
}

/// `doorward extend`
#[derive(Debug, Clone, Args)]
pub struct ExtendArgs {
    /// The grant, or the beginning of its id
    #[arg(value_name = "GRANT")]
    pub id: String,
    /// How much longer: 90s, 15m, 1h30m
    #[arg(long = "for", value_name = "LENGTH", value_parser = length)]
    pub length: Ttl,
}

/// `doorward drop`
#[derive(Debug, Clone, Args)]
pub struct DropArgs {
    /// The grant, or the beginning of its id
    #[arg(value_name = "GRANT")]
    pub id: String,
}

/// `doorward revoke`
#[derive(Debug, Clone, Args)]
pub struct RevokeArgs {
    /// The grant, lease or session, or the beginning of its id
    #[arg(value_name = "GRANT|LEASE|SESSION")]
    pub id: String,
    /// Why, for the record
    #[arg(long, value_name = "TEXT", value_parser = reason)]
    pub reason: String,
}

/// `doorward lock`, `doorward unlock`
#[derive(Debug, Clone, Args)]
pub struct LockArgs {
    /// `User::"dev|alice"`, `dev|alice`, or an e-mail or name that one person has
    #[arg(value_name = "PRINCIPAL")]
    pub principal: String,
    /// Why, for the record
    #[arg(long, value_name = "TEXT", value_parser = reason)]
    pub reason: String,
}
