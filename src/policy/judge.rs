//! The judge of one policy set: per action the policies that could match it, prepared once.
//!
//! INVARIANT: a policy that can't be evaluated makes the verdict a refusal, also where another
//! policy permits: what the broken one would have said is not known.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use cedar_policy::{
    ActionConstraint, Authorizer, Context, Decision, EntityUid, Policy, PolicyId, PolicySet, PrincipalConstraint,
    Request, ResourceConstraint,
};

use super::cedar_file::Statement;
use super::context::Unbuilt;
use super::kinds::Kinds;
use super::reads::{self, Reads};
use super::subject::Subject;
use super::verdict::{DenyReason, Verdict};
use crate::model::PrincipalKind;

/// What is prepared for one action: per kind of principal the policies whose scope admits both.
#[derive(Debug)]
pub(super) struct Bench {
    action: EntityUid,
    user: PolicySet,
    workload: PolicySet,
    breakglass: PolicySet,
    reads: Reads,
}

impl Bench {
    const fn policies(&self, kind: PrincipalKind) -> &PolicySet {
        match kind {
            PrincipalKind::User => &self.user,
            PrincipalKind::Workload => &self.workload,
            PrincipalKind::BreakGlass => &self.breakglass,
        }
    }
}

/// A policy set, by action.
#[derive(Debug)]
pub(super) struct Judge {
    authorizer: Authorizer,
    benches: BTreeMap<Arc<str>, Bench>,
    names: HashMap<PolicyId, Arc<str>>,
}

impl Judge {
    /// Prepares the statements for these actions. `None` when two policies have one id, which
    /// their construction rules out.
    pub(super) fn new<'s>(
        statements: impl Iterator<Item = &'s Statement> + Clone,
        actions: impl IntoIterator<Item = Arc<str>>,
        kinds: &Kinds,
    ) -> Option<Self> {
        let mut benches = BTreeMap::new();
        for name in actions {
            let action = kinds.action(&name);
            let admitting = statements.clone().filter(|statement| could_match(&statement.policy, &action));
            let reads = admitting.clone().fold(Reads::default(), |reads, s| reads.and(Reads::of(&s.policy)));
            let of = |kind| {
                let policies = admitting.clone().map(|statement| &statement.policy).filter(|p| admits_kind(p, kind));
                PolicySet::from_policies(policies.cloned()).ok()
            };
            let user = of(PrincipalKind::User)?;
            let workload = of(PrincipalKind::Workload)?;
            let breakglass = of(PrincipalKind::BreakGlass)?;
            benches.insert(name, Bench { user, workload, breakglass, reads, action: action.clone() });
        }
        let names = statements.map(|statement| (statement.policy.id().clone(), statement.name.clone())).collect();
        Some(Self { authorizer: Authorizer::new(), benches, names })
    }

    /// What the policies of an action read.
    pub(super) fn reads(&self, action: &str) -> Option<Reads> {
        self.benches.get(action).map(|bench| bench.reads)
    }

    /// Attributes of principals that the policies of an action read; `None` where that can't be told.
    pub(super) fn attributes(&self, action: &str, kind: PrincipalKind) -> Option<BTreeSet<String>> {
        let Some(bench) = self.benches.get(action) else { return Some(BTreeSet::new()) };
        let mut found = BTreeSet::new();
        for policy in bench.policies(kind).policies() {
            found.extend(reads::attributes_of(policy)?);
        }
        Some(found)
    }

    /// Judges. The context is built for what the action's policies read.
    pub(super) fn decide(
        &self,
        subject: &Subject,
        action: &str,
        resource: &EntityUid,
        context: impl FnOnce(Reads) -> Result<Context, Unbuilt>,
    ) -> Verdict {
        let Some(bench) = self.benches.get(action) else {
            return Verdict::nothing_permits();
        };
        let context = match context(bench.reads) {
            Ok(context) => context,
            Err(Unbuilt(error)) => return Verdict::unjudged(format!("the context could not be built: {error}")),
        };
        // Without a schema nothing is checked here: policies were validated when they were loaded.
        let principal = subject.uid().clone();
        let request = match Request::new(principal, bench.action.clone(), resource.clone(), context, None) {
            Ok(request) => request,
            Err(error) => return Verdict::unjudged(error.to_string()),
        };
        let response =
            self.authorizer.is_authorized(&request, bench.policies(subject.principal().kind()), subject.entities());
        let diagnostics = response.diagnostics();
        let permitted = response.decision() == Decision::Allow;
        let mut policies: Vec<Arc<str>> = diagnostics.reason().map(|id| self.name(id)).collect();
        let mut errors = Vec::new();
        for error in diagnostics.errors() {
            let cedar_policy::AuthorizationError::PolicyEvaluationError(inner) = error;
            errors.push(format!("{}: {}", self.name(inner.policy_id()), inner.inner()));
        }
        policies.sort_unstable();
        policies.dedup();
        errors.sort_unstable();
        let forbidden = permitted || !policies.is_empty();
        let reason = if forbidden { DenyReason::ForbiddenByPolicy } else { DenyReason::NoPolicyMatch };
        Verdict { allow: permitted && errors.is_empty(), reason, policies, errors }
    }

    fn name(&self, id: &PolicyId) -> Arc<str> {
        self.names.get(id).cloned().unwrap_or_else(|| id.to_string().into())
    }
}

/// Whether the policy's scope admits the action.
pub(super) fn could_match(policy: &Policy, action: &EntityUid) -> bool {
    match policy.action_constraint() {
        ActionConstraint::Any => true,
        ActionConstraint::In(actions) => actions.contains(action),
        ActionConstraint::Eq(only) => only == *action,
    }
}

/// Whether the policy's scope admits requests to the service.
pub(super) fn is_about(policy: &Policy, service: &EntityUid) -> bool {
    match policy.resource_constraint() {
        ResourceConstraint::Any => true,
        ResourceConstraint::Eq(only) | ResourceConstraint::In(only) => only == *service,
        ResourceConstraint::Is(kind) => kind == *service.type_name(),
        ResourceConstraint::IsIn(kind, only) => kind == *service.type_name() && only == *service,
    }
}

/// Whether the policy's scope admits principals of that kind.
fn admits_kind(policy: &Policy, kind: PrincipalKind) -> bool {
    match policy.principal_constraint() {
        PrincipalConstraint::Any => true,
        PrincipalConstraint::Is(entity_type) | PrincipalConstraint::IsIn(entity_type, _) => {
            entity_type.to_string() == kind.name()
        }
        PrincipalConstraint::Eq(uid) => uid.type_name().to_string() == kind.name(),
        // Who is on the emergency path is in nothing but themself.
        PrincipalConstraint::In(uid) => kind != PrincipalKind::BreakGlass || uid.type_name().to_string() == kind.name(),
    }
}
