//! Parameters of entitlements that do not bind what was approved, though approvers would take them for a bound.
//!
//! INVARIANT: conservative. A grant counts for the approved value where the route has a segment of the parameter's
//! name, and for each value where it has none (`model/grant.rs`). What a policy opens only where `context.params has`
//! the parameter is not open on the other routes, and nothing is said of those.

use serde_json::Value;

use super::cedar_file::{CedarFile, Statement};
use super::contradiction::path;
use super::diagnostic::Report;
use super::kinds::Kinds;
use super::load::{Draft, Opens, opened};
use super::route::Route;
use crate::model::EntitlementName;

/// Routes that one warning names.
const ROUTES_TOLD_MAX: usize = 3;

/// Warns of parameters that no route of what their entitlement opens has, and of those that only some have.
pub(super) fn lint(drafts: &[Draft], global: Option<&CedarFile>, kinds: &Kinds, report: &Report) {
    let entitlements = drafts.iter().flat_map(|draft| draft.entitlements.values().map(move |it| (draft, it)));
    let asking: Vec<_> = entitlements.filter(|(_, (entitlement, _))| !entitlement.parameters.is_empty()).collect();
    if asking.is_empty() {
        return;
    }
    let opens: Vec<(&Draft, Opens)> =
        drafts.iter().map(|draft| (draft, opened_by(draft, statements(draft, global), kinds))).collect();
    for (draft, (entitlement, offset)) in asking {
        let name = &entitlement.name;
        for parameter in entitlement.parameters.keys() {
            let (mut binds, mut unbound) = (false, Vec::new());
            for (service, by) in &opens {
                let listed = |route: &Route| service.name == draft.name && entitlement.actions.contains(&route.action);
                let routes = service.routes.iter().filter(|route| listed(route) || is_opened(by, name, route));
                let (with, without): (Vec<&Route>, Vec<&Route>) =
                    routes.partition(|route| route.params().any(|own| **own == **parameter));
                binds |= !with.is_empty();
                if !without.is_empty() {
                    let by = statements(service, global).filter(|statement| !is_needed(parameter, statement));
                    let by = opened_by(service, by, kinds);
                    unbound.extend(without.into_iter().filter(|route| is_opened(&by, name, route)));
                }
            }
            let parameter = parameter.escape_debug();
            if !binds {
                report.warning(
                    &draft.source,
                    *offset,
                    format!("the parameter `{parameter}` of `{name}` binds nothing: no route of what it opens has a `{{{parameter}}}`"),
                    "name it as a route names the segment that it is, or say in its description that it is only told",
                );
            } else if !unbound.is_empty() {
                let routes = told(&unbound);
                report.warning(
                    &draft.source,
                    *offset,
                    format!("the parameter `{parameter}` of `{name}` binds only in part: it also opens {routes} without a `{{{parameter}}}`, for each value"),
                    format!("name the segment so there, give those routes an action of their own, or let the policy ask for `context.params has {parameter}`"),
                );
            }
        }
    }
}

/// The policies that judge a service.
fn statements<'s>(draft: &'s Draft, global: Option<&'s CedarFile>) -> impl Iterator<Item = &'s Statement> + Clone {
    draft.access.statements.iter().chain(global.into_iter().flat_map(|file| &file.statements))
}

fn opened_by<'s>(draft: &Draft, statements: impl Iterator<Item = &'s Statement> + Clone, kinds: &Kinds) -> Opens {
    opened(&draft.actions(), statements, &kinds.service(draft.name.as_str()), kinds)
}

fn is_opened(by: &Opens, name: &EntitlementName, route: &Route) -> bool {
    by.get(name).is_some_and(|actions| actions.contains(&route.action))
}

/// Whether the policy matches nothing but requests that have the parameter.
fn is_needed(parameter: &str, statement: &Statement) -> bool {
    let json = statement.policy.to_json().unwrap_or_default();
    let conditions = json.get("conditions").and_then(Value::as_array);
    let mut whens = conditions.into_iter().flatten().filter(|it| it.get("kind").is_some_and(|kind| kind == "when"));
    whens.any(|when| when.get("body").is_some_and(|body| asks_for(parameter, body)))
}

/// Whether an expression that holds has asked for it, by itself or joined by `&&`.
fn asks_for(parameter: &str, node: &Value) -> bool {
    if let Some(both) = node.get("&&") {
        return ["left", "right"].into_iter().filter_map(|side| both.get(side)).any(|side| asks_for(parameter, side));
    }
    let Some(has) = node.get("has") else { return false };
    // `context.params has db`, and `context has params.db`.
    let below: Vec<&str> = match has.get("attr") {
        Some(Value::Array(attributes)) => attributes.iter().filter_map(Value::as_str).collect(),
        Some(attribute) => attribute.as_str().into_iter().collect(),
        None => Vec::new(),
    };
    let whole = has.get("left").and_then(path).map(|left| format!("{left}.{}", below.join(".")));
    whole.is_some_and(|whole| whole == format!("context.params.{parameter}"))
}

/// Routes as they are written, the first few by name.
fn told(routes: &[&Route]) -> String {
    let mut names: Vec<String> =
        routes.iter().take(ROUTES_TOLD_MAX).map(|route| format!("`{}`", route.template)).collect();
    match routes.len().saturating_sub(ROUTES_TOLD_MAX) {
        0 => {}
        more => names.push(format!("{more} more")),
    }
    names.join(", ")
}
