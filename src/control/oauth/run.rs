//! Which run of a pipeline a grant is for.
//!
//! All jobs that one rule of `workloads.toml` names are one principal (`Workload::"ci|deploy"`): policies,
//! locks and approvals are about the rule, since nobody can write a policy for a run that does not exist
//! yet. What somebody approves is about one run, though: they looked at what that one deploys. So a grant
//! that a job asked for is given to jobs of the same run only, whichever of them comes (one that waits
//! longer than its session lasts comes with a fresh token of its issuer), and a later run asks for itself.
//! Nor does it take back, prolong or end what another run asked for, or end that one's sessions and tokens.
//! Reading goes by the rule all the same: the approvers and auditors of a rule see what all its runs asked for, a
//! job that follows one which was cut off has to find what its pipeline waits for, and reasons that one run must
//! not read of another belong to two rules.
//! The run is what the issuer says of it: `run_id` of GitHub, `pipeline_id` of GitLab. An issuer that knows
//! no runs (a Kubernetes service account, a machine) has one holder, its rule, and what it is granted it
//! has until it ends. A grant counts for a workload by a token that was made under it and by nothing else
//! (`gateway/membership.rs`), so that this is asked for each.

use std::collections::BTreeMap;

use crate::model::{AccessRequest, Grant, Session};
use crate::store::StoreError;

use super::super::desk::Desk;

/// Claims that say which run it is, of whichever issuer.
const RUN_CLAIMS: [&str; 2] = ["run_id", "pipeline_id"];

fn run_of(claims: &BTreeMap<String, String>) -> Option<(&str, &str)> {
    RUN_CLAIMS.into_iter().find_map(|name| claims.get(name).map(|value| (name, value.as_str())))
}

/// Whether one session may do what the other's holder may: the same principal, and of the jobs of one rule the
/// same run.
#[must_use]
pub(in crate::control) fn is_same(one: &Session, other: &Session) -> bool {
    one.principal == other.principal && run_of(&one.claims) == run_of(&other.claims)
}

/// Whether a grant is for who has these claims: asked for by the same run, or by nobody who has runs.
///
/// # Errors
/// When the database is away.
pub(in crate::control) async fn is_of(
    desk: &Desk,
    grant: &Grant,
    claims: &BTreeMap<String, String>,
) -> Result<bool, StoreError> {
    let Some(request) = desk.store.access_request_fetch(grant.request).await? else { return Ok(false) };
    asked(desk, &request, claims).await
}

/// Whether a request is of who has these claims.
///
/// # Errors
/// When the database is away.
pub(in crate::control) async fn asked(
    desk: &Desk,
    request: &AccessRequest,
    claims: &BTreeMap<String, String>,
) -> Result<bool, StoreError> {
    match desk.store.session_fetch(request.session).await? {
        Some(asked) => Ok(run_of(&asked.session.claims) == run_of(claims)),
        // Sessions are kept for a day after their end: who asked is not known any more, so it is no run.
        None => Ok(run_of(claims).is_none()),
    }
}
