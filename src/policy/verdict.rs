//! What the judge answers.

use std::sync::Arc;

/// Why a verdict is a refusal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum DenyReason {
    /// No policy permits it.
    NoPolicyMatch,
    /// A policy forbids it, or a policy that decides could not be evaluated.
    ForbiddenByPolicy,
}

impl DenyReason {
    /// As in refusals and the record.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::NoPolicyMatch => "no_policy_match",
            Self::ForbiddenByPolicy => "forbidden_by_policy",
        }
    }
}

/// One answer of the judge.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict {
    /// Whether the action may be done.
    pub allow: bool,
    /// Meaningful when `allow` is false.
    pub reason: DenyReason,
    /// The policies that decided: `@id` annotation, else `<file>:<line>`; sorted.
    pub policies: Vec<Arc<str>>,
    /// Policies that could not be evaluated, and why. Any makes the verdict a refusal.
    pub errors: Vec<String>,
}

impl Verdict {
    /// A refusal because nothing permits it.
    #[must_use]
    pub const fn nothing_permits() -> Self {
        Self { allow: false, reason: DenyReason::NoPolicyMatch, policies: Vec::new(), errors: Vec::new() }
    }

    /// A refusal because it could not be judged.
    pub(super) fn unjudged(error: String) -> Self {
        Self { allow: false, reason: DenyReason::ForbiddenByPolicy, policies: Vec::new(), errors: vec![error] }
    }
}
