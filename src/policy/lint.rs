//! What is valid and still probably not meant.

use cedar_policy::{ActionConstraint, Effect, EntityUid, PrincipalConstraint, ResourceConstraint};
use serde_json::Value;

use super::cedar_file::{CedarFile, Statement};
use super::contradiction;
use super::diagnostic::Report;
use super::groups::Groups;
use super::kinds::Kinds;
use super::load::Draft;
use super::parameter_lint;
use super::scope_lint;
use super::suggestion;
use super::validate::entitlements_named;
use crate::model::EntitlementName;

pub(super) fn lint(
    drafts: &[Draft],
    global: Option<&CedarFile>,
    groups: &Groups,
    provided: &[String],
    kinds: &Kinds,
    report: &Report,
) {
    for draft in drafts {
        let shared = global.into_iter().flat_map(|file| &file.statements);
        let statements: Vec<&Statement> = draft.access.statements.iter().chain(shared).collect();
        entitlements(draft, &statements, report);
        for statement in &draft.access.statements {
            wide_permit(draft, statement, report);
        }
        contradiction::lint(&draft.access, Some(draft), report);
    }
    parameter_lint::lint(drafts, global, kinds, report);
    if let Some(file) = global {
        contradiction::lint(file, None, report);
    }
    for file in global.into_iter().chain(drafts.iter().map(|draft| &draft.access)) {
        misspelt_groups(file, groups, provided, report);
    }
    // What can't be read as it is meant may be mended into something that matches.
    if !report.has_errors() {
        scope_lint::lint(drafts, global, report);
    }
}

/// Entitlements that nobody may ask for or approve, and such that open nothing.
fn entitlements(draft: &Draft, statements: &[&Statement], report: &Report) {
    for (entitlement, offset) in draft.entitlements.values() {
        let name = &entitlement.name;
        let uid = format!("Entitlement::\"{name}\"");
        let permitted = |action: &str| {
            statements
                .iter()
                .any(|statement| statement.policy.effect() == Effect::Permit && admits(statement, action, &uid))
        };
        if !permitted("request") {
            let help = format!("permit it to somebody: `action == Action::\"request\", resource == {uid}`");
            report.warning(&draft.source, *offset, format!("nobody may request `{name}`"), help);
        } else if !permitted("approve") && !permitted("auto_approve") {
            let help = format!("permit it to somebody: `action == Action::\"approve\", resource == {uid}`");
            report.warning(&draft.source, *offset, format!("nobody may approve `{name}`"), help);
        }
        let opens = statements.iter().any(|statement| names_as_principal(statement, name));
        if !opens {
            let help = format!("a policy has to say what it opens: `principal in {uid}`");
            report.warning(&draft.source, *offset, format!("holding `{name}` changes nothing"), help);
        }
    }
}

/// Whether the policy's scope admits an action on an entitlement.
pub(super) fn admits(statement: &Statement, action: &str, entitlement: &str) -> bool {
    let is = |uid: &EntityUid, text: &str| uid.to_string() == text;
    let wanted = format!("Action::\"{action}\"");
    let by_action = match statement.policy.action_constraint() {
        ActionConstraint::Any => true,
        ActionConstraint::Eq(uid) => is(&uid, &wanted),
        ActionConstraint::In(uids) => uids.iter().any(|uid| is(uid, &wanted)),
    };
    let by_resource = match statement.policy.resource_constraint() {
        ResourceConstraint::Any => true,
        ResourceConstraint::Eq(uid) | ResourceConstraint::In(uid) => is(&uid, entitlement),
        ResourceConstraint::Is(kind) => kind.to_string() == "Entitlement",
        ResourceConstraint::IsIn(kind, uid) => kind.to_string() == "Entitlement" && is(&uid, entitlement),
    };
    by_action && by_resource
}

/// Whether the policy names the entitlement otherwise than as its resource.
pub(super) fn names_as_principal(statement: &Statement, entitlement: &EntitlementName) -> bool {
    let named = entitlements_named(&statement.policy);
    let times = named.iter().filter(|name| *name == entitlement).count();
    let entitlement = format!("Entitlement::\"{entitlement}\"");
    let as_resource = match statement.policy.resource_constraint() {
        ResourceConstraint::Eq(uid) | ResourceConstraint::In(uid) | ResourceConstraint::IsIn(_, uid) => {
            usize::from(uid.to_string() == entitlement)
        }
        ResourceConstraint::Any | ResourceConstraint::Is(_) => 0,
    };
    times > as_resource
}

/// Whether the policy is in force `unless` the entitlement is held.
pub(super) fn names_as_exception(statement: &Statement, entitlement: &EntitlementName) -> bool {
    fn names(value: &Value, id: &str) -> bool {
        match value {
            Value::String(text) => text == id,
            Value::Array(items) => items.iter().any(|item| names(item, id)),
            Value::Object(entries) => entries.values().any(|item| names(item, id)),
            Value::Null | Value::Bool(_) | Value::Number(_) => false,
        }
    }
    fn negated(value: &Value, id: &str) -> bool {
        match value {
            Value::Object(entries) => {
                entries.iter().any(|(key, item)| if key == "!" { names(item, id) } else { negated(item, id) })
            }
            Value::Array(items) => items.iter().any(|item| negated(item, id)),
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => false,
        }
    }
    let id = entitlement.to_string();
    let json = statement.policy.to_json().unwrap_or_default();
    let conditions = json.get("conditions").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    conditions.iter().any(|condition| {
        let body = condition.get("body").unwrap_or(&Value::Null);
        match condition.get("kind").and_then(Value::as_str) {
            Some("unless") => names(body, &id),
            _ => negated(body, &id),
        }
    })
}

/// A permit without any action covers asking for and approving entitlements too.
fn wide_permit(draft: &Draft, statement: &Statement, report: &Report) {
    let policy = &statement.policy;
    if policy.effect() != Effect::Permit || policy.action_constraint() != ActionConstraint::Any {
        return;
    }
    if policy.resource_constraint() != ResourceConstraint::Any {
        return;
    }
    let everyone = policy.principal_constraint() == PrincipalConstraint::Any && !policy.has_non_scope_constraint();
    if everyone {
        report.warning(
            &draft.access.source,
            statement.start,
            format!("the policy `{}` permits everything to everyone who can sign in", statement.name),
            "name a group, an action, or both",
        );
    } else if !draft.entitlements.is_empty() {
        report.warning(
            &draft.access.source,
            statement.start,
            format!("the policy `{}` also permits to approve and revoke this service's entitlements", statement.name),
            "write `resource is Service` if only requests are meant, or name the actions",
        );
    }
}

/// Groups that differ by one letter from one that `groups.toml` defines or a provider gives.
fn misspelt_groups(file: &CedarFile, groups: &Groups, provided: &[String], report: &Report) {
    let given = || groups.names().chain(provided.iter().map(String::as_str));
    for statement in &file.statements {
        for uid in statement.policy.entity_literals() {
            let id = uid.id().unescaped().to_owned();
            let known = uid.type_name().to_string() != "Group"
                || id.contains('|')
                || given().chain(groups.included()).any(|name| name == id);
            if known || id.chars().count() < 5 {
                continue;
            }
            if let Some(near) = suggestion::nearest(&id, given()).filter(|near| suggestion::is_one_slip(&id, near)) {
                let place =
                    if groups.names().any(|name| name == near) { "`groups.toml` has" } else { "providers give" };
                report.warning(
                    &file.source,
                    file.offset_of(statement, &uid),
                    format!("{place} no group `{}`", id.escape_debug()),
                    format!("did you mean `{near}`?"),
                );
            }
        }
    }
}
