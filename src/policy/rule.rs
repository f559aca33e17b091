//! The rules of a service as an access review takes them, one by one: each entitlement with who may ask
//! for it, who approves and what it opens, and each permit that needs no grant.
//!
//! INVARIANT: the hash of a rule is over what it means. A comment, a line break or another `@id` changes
//! nothing of it; who may do what, under which condition, does.

use std::collections::BTreeSet;

use cedar_policy::{Effect, Policy, PrincipalConstraint};
use data_encoding::HEXLOWER;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::cedar_file::{CedarFile, Statement};
use super::inventory::entitlement_thing;
use super::judge::could_match;
use super::kinds::Kinds;
use super::lint::admits;
use super::policy_set::{EntitlementAction, PolicySet};
use super::service::Service;
use super::validate::entitlements_named;
use crate::model::{RuleKind, ServiceName};

/// What holding an entitlement lets its holder do.
const OPENS: &str = "opens";
/// What lets somebody do something without a grant.
const PERMITS: &str = "permits";
/// What a policy may let people do with an entitlement.
const ROLES: [EntitlementAction; 3] =
    [EntitlementAction::Request, EntitlementAction::Approve, EntitlementAction::AutoApprove];

/// A policy that is part of a rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RulePolicy {
    /// `@id`, else file and line.
    pub name: String,
    /// `request`, `approve`, `auto_approve`, `opens` or `permits`.
    pub roles: Vec<&'static str>,
    /// Its text in one line.
    pub text: String,
    /// Whom it names, where its head names one principal alone.
    principal: Option<String>,
    /// Whether it has an `@id`.
    named: bool,
    meaning: Value,
}

/// A rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    /// What kind.
    pub kind: RuleKind,
    /// `ops-api/deploy-prod`, or the permit's name.
    pub name: String,
    /// What it is, in words.
    pub summary: String,
    /// The actions of the service that it opens.
    pub actions: Vec<String>,
    /// The policies that it is made of.
    pub policies: Vec<RulePolicy>,
    /// SHA-256 of what it means, hexadecimal.
    pub sha256: String,
    /// Whether its name is its own, not that of its line.
    named: bool,
}

impl Rule {
    fn new(kind: RuleKind, name: String, summary: String, actions: Vec<String>, policies: Vec<RulePolicy>) -> Self {
        // A permit is what it says, under whatever name; an entitlement is asked for by its name.
        let defined = (kind == RuleKind::Entitlement).then(|| json!({ "name": name, "definition": summary }));
        let mut meanings: Vec<String> = policies
            .iter()
            .map(|policy| json!({ "roles": policy.roles, "policy": policy.meaning }).to_string())
            .collect();
        meanings.sort_unstable();
        let meaning = json!({ "kind": kind.name(), "entitlement": defined, "actions": actions, "policies": meanings });
        let sha256 = HEXLOWER.encode(&Sha256::digest(meaning.to_string().as_bytes()));
        let named = kind == RuleKind::Entitlement || policies.iter().all(|policy| policy.named);
        Self { kind, name, summary, actions, policies, sha256, named }
    }

    /// Whether that principal is the only one whom the rule names in one of its roles: nobody else may ask,
    /// nobody else may approve, or nobody else is permitted.
    #[must_use]
    pub fn is_only_for(&self, principal: &str) -> bool {
        let roles: BTreeSet<&str> = self.policies.iter().flat_map(|policy| policy.roles.iter().copied()).collect();
        roles.into_iter().filter(|role| *role != OPENS).any(|role| {
            let mut of_role = self.policies.iter().filter(|policy| policy.roles.contains(&role));
            of_role.all(|policy| policy.principal.as_deref() == Some(principal))
        })
    }
}

impl PolicySet {
    /// The rules of a service, entitlements first; none where there is no such service.
    #[must_use]
    pub fn rules(&self, service: &ServiceName) -> &[Rule] {
        self.rules.get(service).map_or(&[], Vec::as_slice)
    }

    /// The rule that means this.
    #[must_use]
    pub fn rule(&self, service: &ServiceName, kind: RuleKind, sha256: &str) -> Option<&Rule> {
        self.rules(service).iter().find(|rule| rule.kind == kind && rule.sha256 == sha256)
    }

    /// Whether a rule is still there: the same under any name, or another under its name. A permit without an
    /// `@id` is called by its line, which is no name: it is known by what it means alone.
    #[must_use]
    pub fn has_rule(&self, service: &ServiceName, kind: RuleKind, name: &str, sha256: &str) -> bool {
        let is_it = |rule: &Rule| rule.sha256 == sha256 || (rule.named && rule.name == name);
        self.rules(service).iter().any(|rule| rule.kind == kind && is_it(rule))
    }
}

/// Lists the rules of a service.
pub(super) fn rules(service: &Service, own: &CedarFile, global: Option<&CedarFile>, kinds: &Kinds) -> Vec<Rule> {
    let files = || std::iter::once(own).chain(global);
    let all = || files().flat_map(|file| file.statements.iter().map(move |statement| (file, statement)));
    let permits = || all().filter(|(_, statement)| statement.policy.effect() == Effect::Permit);
    let mut found = Vec::new();
    for entitlement in service.entitlements.values() {
        let uid = kinds.entitlement(&entitlement.name).to_string();
        let mut policies = Vec::new();
        for (file, statement) in permits() {
            let mut roles: Vec<&'static str> = ROLES
                .into_iter()
                .map(EntitlementAction::name)
                .filter(|action| admits(statement, action, &uid))
                .collect();
            if roles.is_empty() && entitlements_named(&statement.policy).contains(&entitlement.name) {
                roles.push(OPENS);
            }
            if !roles.is_empty() {
                policies.push(part(file, statement, roles));
            }
        }
        let actions = service.opened_by(&entitlement.name).iter().map(ToString::to_string).collect();
        let summary = entitlement_thing(service, entitlement).summary();
        found.push(Rule::new(RuleKind::Entitlement, entitlement.name.to_string(), summary, actions, policies));
    }
    for (file, statement) in permits().filter(|(_, statement)| !is_by_entitlement(&statement.policy)) {
        let matching =
            |action: &&crate::model::ActionName| could_match(&statement.policy, &kinds.action(action.as_str()));
        let actions: Vec<String> = service.actions().filter(matching).map(ToString::to_string).collect();
        if !actions.is_empty() {
            let policy = part(file, statement, vec![PERMITS]);
            let (name, summary) = (policy.name.clone(), policy.text.clone());
            found.push(Rule::new(RuleKind::Permit, name, summary, actions, vec![policy]));
        }
    }
    found
}

fn part(file: &CedarFile, statement: &Statement, roles: Vec<&'static str>) -> RulePolicy {
    let mut meaning = statement.policy.to_json().unwrap_or_default();
    if let Some(meaning) = meaning.as_object_mut() {
        meaning.remove("annotations");
    }
    let named = statement.policy.annotation("id").is_some_and(|id| !id.is_empty());
    let principal = match statement.policy.principal_constraint() {
        PrincipalConstraint::Eq(uid) => Some(uid.to_string()),
        _ => None,
    };
    RulePolicy { name: statement.name.to_string(), roles, text: file.line(statement), principal, named, meaning }
}

/// Whether its head lets only holders of an entitlement through.
fn is_by_entitlement(policy: &Policy) -> bool {
    match policy.principal_constraint() {
        PrincipalConstraint::In(uid) | PrincipalConstraint::IsIn(_, uid) => {
            uid.type_name().to_string() == "Entitlement"
        }
        _ => false,
    }
}
