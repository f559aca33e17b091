//! Access requests and the answers of approvers, on paper.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{Principal, Time};

/// Somebody asking for an entitlement.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AccessRequest {
    /// `req_…`
    pub id: String,
    /// `pending`, `approved`, `scheduled`, `active`, `expired`, `revoked`, `dropped`, `denied`,
    /// `withdrawn` or `timed_out`.
    pub state: String,
    /// `svc/name`
    pub entitlement: String,
    /// Who asks.
    pub principal: Principal,
    /// Why, in their words.
    pub reason: String,
    /// The ticket that it belongs to.
    #[serde(default)]
    pub ticket: Option<String>,
    /// What the entitlement asks beyond a reason.
    #[serde(default)]
    pub params: BTreeMap<String, String>,
    /// How long it is wanted, `30m`; the clock starts at activation.
    #[serde(rename = "for")]
    pub length: String,
    /// When it is to begin; none: as soon as it may.
    #[serde(default)]
    pub start: Option<Time>,
    /// Whether its owner says that it can't wait.
    pub emergency: bool,
    /// The grant that it prolongs.
    #[serde(default)]
    pub extends: Option<String>,
    /// Since when.
    pub created_at: Time,
    /// When it times out unanswered.
    pub answer_by: Time,
    /// How many approvals it takes.
    pub approvals_needed: u32,
    /// What approvers answered, oldest first.
    pub approvals: Vec<Approval>,
    /// `sha256:…` of the canonical request: what an approval names.
    pub hash: String,
    /// The actions that it opens; those of other services as `<service>/<action>`.
    pub actions: Vec<String>,
    /// The grant, once there is one.
    #[serde(default)]
    pub grant: Option<String>,
    /// When the grant ends, once that is known.
    #[serde(default)]
    pub expires_at: Option<Time>,
    /// What an approver may want to know.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub context: Option<ApprovalContext>,
}

/// One answer of one approver.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Approval {
    /// Who.
    pub by: Principal,
    /// Yes or no.
    pub answer: Answer,
    /// What they said to it.
    #[serde(default)]
    pub reason: Option<String>,
    /// When.
    pub time: Time,
    /// Of what they saw.
    pub hash: String,
    /// Whether it is one of the approvals that the request has: of what is asked now, by somebody who may still
    /// give it. While nothing hangs on it any more, as it was.
    #[serde(default = "counts")]
    pub counts: bool,
}

/// What an approval does of which an earlier server does not say it.
const fn counts() -> bool {
    true
}

/// What an approver says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Answer {
    /// Yes.
    Approve,
    /// No, which ends the request.
    Deny,
}

/// What helps to weigh a request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ApprovalContext {
    /// Whether this person never held the entitlement before.
    pub first_time: bool,
    /// Grants of the entitlement to this person in the 30 days before they asked.
    pub grants_30d: u32,
    /// Whether it was asked outside of Monday to Friday, 8 to 18 in the service's time zone.
    pub outside_hours: bool,
    /// The routes that it opens, `POST /v1/deployments/{env}`.
    pub routes: Vec<String>,
}

/// The body of `POST requests`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NewAccessRequest {
    /// `svc/name`
    pub entitlement: String,
    /// Why: up to 1,000 characters; required where the entitlement says so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// The ticket that it belongs to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ticket: Option<String>,
    /// How long, `30m`; else the entitlement's default.
    #[serde(default, rename = "for", skip_serializing_if = "Option::is_none")]
    pub length: Option<String>,
    /// When it is to begin; else as soon as it may.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub start: Option<Time>,
    /// What the entitlement asks beyond a reason.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub params: BTreeMap<String, String>,
    /// That it can't wait.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub emergency: bool,
    /// Only to be told what it takes.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub dry_run: bool,
}

/// What a request would take: the answer to `"dry_run": true`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DryRun {
    /// `svc/name`
    pub entitlement: String,
    /// How long it would be granted.
    #[serde(rename = "for")]
    pub length: String,
    /// When it would begin; none: at once.
    #[serde(default)]
    pub start: Option<Time>,
    /// How many approvals it takes; none where policy approves by itself.
    pub approvals_needed: u32,
    /// Who among those that this installation has seen could approve it.
    pub approvers: Vec<Principal>,
    /// The actions that it opens.
    pub actions: Vec<String>,
    /// It ends when it is not used for so long.
    #[serde(default)]
    pub idle: Option<String>,
    /// It begins so long after it was asked for at the earliest.
    #[serde(default)]
    pub earliest_start: Option<String>,
    /// So long after it the same person does not hold it again.
    #[serde(default, rename = "break")]
    pub break_after: Option<String>,
}

/// The body of `POST requests/{id}/approvals`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NewApproval {
    /// Yes or no.
    pub answer: Answer,
    /// What is said to it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// `hash` of the request that was looked at: an approval of anything else is refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hash: Option<String>,
}

/// The body of operations that take nothing: `{}`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Nothing {}
