//! The emergency path on paper.

use serde::{Deserialize, Serialize};

use super::{Principal, Time};

/// What a challenge must say, told to anybody.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BreakGlassTerms {
    /// The installation's domain.
    pub trust_domain: String,
    /// SHA-256 of the custodians' file, in hexadecimal.
    pub custodians_sha256: String,
    /// How many custodians the challenge names.
    pub threshold: u32,
    /// How many must sign now: one more while an earlier opening waits for its review, where the
    /// configuration says so.
    pub needed: u32,
    /// How long an opening may last, in seconds.
    pub max_duration_seconds: i64,
    /// The time of the node that answers.
    pub time: Time,
    /// When the last drill was.
    #[serde(default)]
    pub drilled_at: Option<Time>,
}

/// Challenge and signatures, for a node to judge.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BreakGlassEvidence {
    /// SHA-256 of the client key's SubjectPublicKeyInfo, in hexadecimal.
    pub client_key_sha256: String,
    /// The challenge's text.
    pub challenge: String,
    /// SSHSIG signatures in PEM armour.
    pub signatures: Vec<String>,
}

/// What a node says of a challenge that it would take.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BreakGlassChecked {
    /// `brk_…`
    pub id: String,
    /// Who signed and counts.
    pub custodians: Vec<String>,
    /// Whether the opener signed as a custodian.
    pub opener_proven: bool,
    /// Until when it is good.
    pub expires: Time,
}

/// What a node says of a drill.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BreakGlassDrill {
    /// `brk_…`
    pub id: String,
    /// Who signed and counts.
    pub custodians: Vec<String>,
    /// From the challenge to this answer.
    pub took_seconds: i64,
    /// Whether it is on record.
    pub recorded: bool,
    /// What became of the test message on each channel of this node; none where this node was shown the
    /// drill before, and sent them then.
    #[serde(default)]
    pub channels: Option<Vec<DrillChannel>>,
}

/// A channel as a drill found it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DrillChannel {
    /// Its name: of a webhook, or `mail`.
    pub name: String,
    /// `taken`, `failed`, or `not_asked` where it is not told of openings.
    pub state: String,
    /// Why it failed.
    #[serde(default)]
    pub error: Option<String>,
}

/// The body of `POST breakglass/{id}/close`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BreakGlassClose {
    /// The statement.
    pub statement: String,
    /// Its signature, SSHSIG in PEM armour.
    pub signature: String,
    /// What opened it, where its client key signs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub evidence: Option<BreakGlassEvidence>,
}

/// That an opening is closed at the node that answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BreakGlassClosed {
    /// `brk_…`
    pub id: String,
    /// `closed`
    pub state: String,
    /// `custodian NAME` or `the client key`.
    pub by: String,
}

/// One person's review.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EmergencyReview {
    /// Who.
    pub by: Principal,
    /// What they found.
    pub finding: String,
    /// When.
    pub time: Time,
}

/// An opening, or a grant that was taken without approval.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Emergency {
    /// `brk_…` or `grt_…`.
    pub id: String,
    /// `custodians` or `approvals_skipped`.
    pub kind: String,
    /// `active`, `expired` or `closed`.
    pub state: String,
    /// Who opened.
    pub opener: String,
    /// Whether that is proven.
    pub opener_proven: bool,
    /// What for.
    pub scope: String,
    /// Why.
    pub reason: String,
    /// Who signed.
    pub custodians: Vec<String>,
    /// When it was first used.
    pub opened_at: Time,
    /// When it ends or would have.
    pub expires: Time,
    /// When it was closed.
    #[serde(default)]
    pub closed_at: Option<Time>,
    /// By whom, or why.
    #[serde(default)]
    pub closed_by: Option<String>,
    /// Whether enough people have reviewed it.
    pub reviewed: bool,
    /// How many reviews are missing.
    pub reviews_missing: u32,
    /// What reviewers found.
    pub reviews: Vec<EmergencyReview>,
}

/// The body of `POST breakglass/{id}/reviews`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NewReview {
    /// What was found: 1 to 2,000 characters.
    pub finding: String,
}
