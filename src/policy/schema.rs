//! The Cedar schema of one service, generated from its routes: an action per service action with
//! a typed context, so that a misspelt attribute or action in a policy is an error at load.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde_json::{Map, Value, json};

use super::route::Route;
use crate::model::ActionName;

/// Actions on an `Entitlement`, and `revoke` on either.
pub(super) const ENTITLEMENT_ACTIONS: [&str; 4] = ["request", "approve", "auto_approve", "revoke"];
/// Actions on the `Installation`.
pub(super) const INSTALLATION_ACTIONS: [&str; 6] =
    ["revoke", "lock", "read_audit", "export_audit", "review", "administer"];

/// Claims of a workload that policies may read, all optional texts: of GitHub Actions and GitLab.
const CLAIMS: [&str; 27] = [
    "iss",
    "sub",
    "aud",
    "actor",
    "actor_id",
    "repository",
    "repository_id",
    "repository_owner",
    "repository_owner_id",
    "repository_visibility",
    "ref",
    "ref_type",
    "ref_protected",
    "environment",
    "event_name",
    "workflow_ref",
    "job_workflow_ref",
    "run_id",
    "runner_environment",
    "project_id",
    "project_path",
    "namespace_id",
    "namespace_path",
    "pipeline_id",
    "pipeline_source",
    "job_id",
    "user_login",
];

/// Whether an action's name is taken by a built-in one.
pub(super) fn is_builtin(action: &str) -> bool {
    ENTITLEMENT_ACTIONS.contains(&action) || INSTALLATION_ACTIONS.contains(&action)
}

/// All built-in actions, each once.
pub(super) fn builtins() -> BTreeSet<&'static str> {
    ENTITLEMENT_ACTIONS.into_iter().chain(INSTALLATION_ACTIONS).collect()
}

/// Claims that the schema knows.
pub(super) fn claims() -> impl Iterator<Item = &'static str> {
    CLAIMS.into_iter()
}

/// Claims that name a person: no event keeps them.
const PERSONAL_CLAIMS: [&str; 3] = ["actor", "actor_id", "user_login"];

/// Whether the record keeps a claim, where a workload's token has it.
#[must_use]
pub fn is_claim_recorded(name: &str) -> bool {
    CLAIMS.contains(&name) && !PERSONAL_CLAIMS.contains(&name)
}

/// The attributes of a principal's type, for help texts.
pub(super) const fn attributes(entity_type: &str) -> &'static [&'static str] {
    match entity_type.as_bytes() {
        b"User" => &["email", "email_verified", "name", "provider"],
        b"Workload" => &["provider", "claims"],
        b"BreakGlass" => &["opener", "custodians", "reason"],
        _ => &[],
    }
}

/// `context.params` of one action: name → whether all routes of the action have it.
pub(super) type Params = BTreeMap<Arc<str>, bool>;

/// The parameters of each action.
pub(super) fn params_by_action<'r>(routes: impl IntoIterator<Item = &'r Route>) -> BTreeMap<ActionName, Params> {
    let mut counts: BTreeMap<ActionName, (usize, BTreeMap<Arc<str>, usize>)> = BTreeMap::new();
    for route in routes {
        let (total, names) = counts.entry(route.action.clone()).or_default();
        *total += 1;
        for name in route.params() {
            *names.entry(name.clone()).or_default() += 1;
        }
    }
    counts
        .into_iter()
        .map(|(action, (total, names))| (action, names.into_iter().map(|(name, n)| (name, n == total)).collect()))
        .collect()
}

/// The schema in Cedar's JSON form; without routes it is that of `global.cedar`.
pub(super) fn generate<'r>(routes: impl IntoIterator<Item = &'r Route>) -> Value {
    let mut actions = Map::new();
    for (action, params) in params_by_action(routes) {
        actions.insert(action.to_string(), applies(&["Service"], service_context(&params)));
    }
    for action in builtins() {
        let mut resources = Vec::new();
        if ENTITLEMENT_ACTIONS.contains(&action) {
            resources.push("Entitlement");
        }
        if INSTALLATION_ACTIONS.contains(&action) {
            resources.push("Installation");
        }
        actions.insert(action.to_owned(), applies(&resources, record(ambient())));
    }
    json!({ "": { "commonTypes": common_types(), "entityTypes": entity_types(), "actions": actions } })
}

fn applies(resources: &[&str], context: Value) -> Value {
    json!({ "appliesTo": {
        "principalTypes": ["User", "Workload", "BreakGlass"],
        "resourceTypes": resources,
        "context": context,
    } })
}

fn service_context(params: &Params) -> Value {
    let params =
        params.iter().map(|(name, required)| (name.to_string(), json!({ "type": "String", "required": required })));
    let mut attributes = ambient();
    for name in ["method", "path", "host"] {
        attributes.insert(name.to_owned(), json!({ "type": "String" }));
    }
    attributes.insert("params".to_owned(), record(params.collect()));
    record(attributes)
}

fn record(attributes: Map<String, Value>) -> Value {
    json!({ "type": "Record", "attributes": attributes })
}

fn fields(fields: &[(&str, Value)]) -> Map<String, Value> {
    fields.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect()
}

fn text() -> Value {
    json!({ "type": "String" })
}

fn texts() -> Value {
    json!({ "type": "Set", "element": { "type": "String" } })
}

fn long() -> Value {
    json!({ "type": "Long" })
}

fn boolean() -> Value {
    json!({ "type": "Boolean" })
}

fn optional(mut value: Value) -> Value {
    if let Some(object) = value.as_object_mut() {
        object.insert("required".to_owned(), Value::Bool(false));
    }
    value
}

fn ambient() -> Map<String, Value> {
    let named = |name: &str| json!({ "type": name });
    fields(&[
        ("address", json!({ "type": "Extension", "name": "ipaddr" })),
        ("time", named("Time")),
        ("session", optional(named("Session"))),
        ("device", optional(named("Device"))),
        ("token", optional(named("Token"))),
    ])
}

/// Records that every context has, named so that the schema can be read.
fn common_types() -> Value {
    json!({
        "Time": record(fields(&[("hour", long()), ("weekday", long()), ("unix", long())])),
        "Session": record(fields(&[("age_seconds", long()), ("auth_age_seconds", long()), ("amr", texts())])),
        "Device": record(fields(&[("id", text()), ("trusted", boolean())])),
        "Token": record(fields(&[("scope", texts())])),
    })
}

fn entity_types() -> Value {
    let claims = CLAIMS.iter().map(|claim| ((*claim).to_owned(), optional(text()))).collect();
    let user = fields(&[("email", text()), ("email_verified", boolean()), ("name", text()), ("provider", text())]);
    let workload = fields(&[("provider", text()), ("claims", record(claims))]);
    let breakglass = fields(&[("opener", text()), ("custodians", texts()), ("reason", text())]);
    json!({
        "User": { "memberOfTypes": ["Group", "Entitlement"], "shape": record(user) },
        "Workload": { "memberOfTypes": ["Group", "Entitlement"], "shape": record(workload) },
        "BreakGlass": { "shape": record(breakglass) },
        "Group": { "memberOfTypes": ["Group"] },
        "Entitlement": {},
        "Service": {},
        "Installation": {},
    })
}
