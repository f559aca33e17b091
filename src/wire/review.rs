//! Access reviews on paper.

use serde::{Deserialize, Serialize};

use super::{Principal, Time};

/// A review: of which service, until when, how far.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Review {
    /// `rev_…`
    pub id: String,
    /// Of which service.
    pub service: String,
    /// `open` or `closed`.
    pub state: String,
    /// The policies whose rules these are.
    pub policy_version: String,
    /// Who began it.
    pub started_by: Principal,
    /// When.
    pub started_at: Time,
    /// Until when its rules are to be decided.
    pub due_at: Time,
    /// Whether that is over and something is undecided.
    pub overdue: bool,
    /// Accounts and e-mail addresses of those who are to decide; none: all who may review.
    pub reviewers: Vec<String>,
    /// When it was closed.
    pub closed_at: Option<Time>,
    /// By whom.
    pub closed_by: Option<Principal>,
    /// How many rules it has.
    pub rules: u32,
    /// How many nobody decided on.
    pub undecided: u32,
    /// How many are to go and are not gone.
    pub to_remove: u32,
    /// Back to when uses were looked for; only of one review.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub used_since: Option<Time>,
    /// Its rules; only of one review.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub items: Option<Vec<ReviewRule>>,
}

/// One rule of it, as it was when the review began.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReviewRule {
    /// Its number, from 1.
    pub item: u32,
    /// `entitlement`, or `permit` for one that needs no grant.
    pub kind: String,
    /// `<service>/<entitlement>`, or the policy's name.
    pub name: String,
    /// What it is, in words.
    pub summary: String,
    /// The actions that it opens.
    pub actions: Vec<String>,
    /// The policies that it is made of.
    pub policies: Vec<ReviewPolicy>,
    /// SHA-256 of what it means, hexadecimal.
    pub sha256: String,
    /// What became of it in the policies: `same`, `changed` or `gone`.
    pub now: String,
    /// `undecided`, `keep`, `remove`, or `removed` once a rule that was to go is gone.
    pub state: String,
    /// What was decided.
    pub decision: Option<ReviewDecision>,
    /// When it was seen to be gone.
    pub removed_at: Option<Time>,
    /// Who uses it; only of one review.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub used: Option<ReviewUse>,
}

/// A policy that is part of a rule.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReviewPolicy {
    /// Its name: `@id`, else file and line.
    pub name: String,
    /// `request`, `approve`, `auto_approve`, `opens` or `permits`.
    pub roles: Vec<String>,
    /// Its text.
    pub text: String,
}

/// What a reviewer decided.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReviewDecision {
    /// `keep` or `remove`.
    pub decision: String,
    /// Why.
    pub reason: String,
    /// Who.
    pub by: Principal,
    /// When.
    pub at: Time,
}

/// Who uses a rule.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReviewUse {
    /// Grants of it that are active.
    pub grants_active: u32,
    /// Grants of it that were active in the last 90 days.
    pub grants_recent: u32,
    /// How many principals held it, or came through by it.
    pub people: u32,
    /// When somebody last came through by it.
    pub last_used: Option<Time>,
}

/// The body of `POST reviews`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StartReview {
    /// Of which service.
    pub service: String,
    /// In how long it is due: `14d`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub due: Option<String>,
    /// Accounts or e-mail addresses of those who are to decide.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub reviewers: Vec<String>,
}

/// The body of `POST reviews/{id}/items/{item}/decision`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NewDecision {
    /// `keep` or `remove`.
    pub decision: String,
    /// Why.
    pub reason: String,
}
