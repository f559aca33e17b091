//! Conditions of one policy that can't all hold: one attribute that would have to be two things, a
//! method that no route of its actions has, an hour that no day has.
//!
//! INVARIANT: conservative. Only what every match needs is looked at: the scope, and what stands in
//! `when` alone or joined by `&&`. What is below `||`, `!`, `if` or `unless` may be otherwise, and a
//! policy that can't be walked says nothing.

use std::collections::BTreeMap;

use cedar_policy::ActionConstraint;
use serde_json::{Map, Value};

use super::cedar_file::{CedarFile, Statement};
use super::diagnostic::Report;
use super::load::Draft;
use super::route::{Methods, Route};

/// Whole numbers that a context attribute can be.
const RANGES: [(&str, i64, i64); 2] = [("context.time.hour", 0, 23), ("context.time.weekday", 1, 7)];

/// Warns of the policies of a file that contradict themselves; `draft` is the service whose file it is.
pub(super) fn lint(file: &CedarFile, draft: Option<&Draft>, report: &Report) {
    for statement in &file.statements {
        if let Some(why) = contradiction(statement, draft) {
            report.warning(
                &file.source,
                statement.start,
                format!("the policy `{}` can never match: {why}", statement.name),
                "correct or remove it; what may be one thing or another is written with `||`, or as two policies",
            );
        }
    }
}

fn contradiction(statement: &Statement, draft: Option<&Draft>) -> Option<String> {
    let needs = Needs::of(&statement.policy.to_json().ok()?);
    for (path, literals) in &needs.equal {
        if let [first, rest @ ..] = literals.as_slice()
            && let Some(other) = rest.iter().find(|other| *other != first)
        {
            return Some(format!("`{path}` would have to be {} and {}", shown(first), shown(other)));
        }
    }
    for (path, least, most) in RANGES {
        let bounds = needs.bounds.get(path).copied().unwrap_or((i64::MIN, i64::MAX));
        let of_day = (bounds.0.max(least), bounds.1.min(most));
        if of_day.0 > of_day.1 {
            return Some(format!("`{path}` is {least} to {most}, and it would have to be another number"));
        }
    }
    let Value::String(method) = needs.equal.get("context.method")?.first()? else { return None };
    let routes = routes(statement, draft?)?;
    let serves = |route: &&Route| match &route.methods {
        Methods::Any => true,
        // `GET` also serves `HEAD`.
        Methods::Listed(listed) => listed.iter().any(|one| one == method || (one == "GET" && method == "HEAD")),
    };
    if routes.iter().any(serves) {
        return None;
    }
    Some(format!("no route of its action has the method `{}`", method.escape_debug()))
}

/// The routes of the actions that a policy names; none where one of them is no route's.
fn routes<'d>(statement: &Statement, draft: &'d Draft) -> Option<Vec<&'d Route>> {
    let named = match statement.policy.action_constraint() {
        ActionConstraint::Any => return None,
        ActionConstraint::Eq(uid) => vec![uid],
        ActionConstraint::In(uids) => uids,
    };
    let mut found = Vec::new();
    for uid in named {
        let of_action: Vec<&Route> =
            draft.routes.iter().filter(|route| route.action.as_str() == uid.id().unescaped()).collect();
        if of_action.is_empty() {
            return None;
        }
        found.extend(of_action);
    }
    Some(found)
}

/// What holds of every request that a policy matches.
#[derive(Default)]
struct Needs {
    /// What an attribute equals, by its path.
    equal: BTreeMap<String, Vec<Value>>,
    /// Between which whole numbers an attribute is, both included.
    bounds: BTreeMap<String, (i64, i64)>,
}

impl Needs {
    /// Reads a policy in Cedar's JSON form.
    fn of(policy: &Value) -> Self {
        let mut needs = Self::default();
        for variable in ["principal", "resource"] {
            let scope = policy.get(variable).filter(|scope| scope.get("op").is_some_and(|op| op == "=="));
            if let Some(entity) = scope.and_then(|scope| scope.get("entity")) {
                needs.equal.entry(variable.to_owned()).or_default().push(bare(entity));
            }
        }
        let conditions = policy.get("conditions").and_then(Value::as_array);
        let whens = conditions.into_iter().flatten().filter(|it| it.get("kind").is_some_and(|kind| kind == "when"));
        whens.filter_map(|when| when.get("body")).for_each(|body| needs.take(body));
        needs
    }

    fn take(&mut self, node: &Value) {
        let Some((operator, operands)) = node.as_object().filter(|object| object.len() == 1).and_then(only) else {
            return;
        };
        let (Some(left), Some(right)) = (operands.get("left"), operands.get("right")) else { return };
        if operator == "&&" {
            self.take(left);
            self.take(right);
            return;
        }
        let (path, literal, turned) = match (path(left), literal(right), path(right), literal(left)) {
            (Some(path), Some(literal), ..) => (path, literal, false),
            (_, _, Some(path), Some(literal)) => (path, literal, true),
            _ => return,
        };
        if operator == "==" {
            self.equal.entry(path.clone()).or_default().push(literal.clone());
        }
        let Some(number) = literal.as_i64() else { return };
        let (least, most) = match (operator, turned) {
            ("==", _) => (number, number),
            ("<", false) | (">", true) => (i64::MIN, number.saturating_sub(1)),
            ("<=", false) | (">=", true) => (i64::MIN, number),
            (">", false) | ("<", true) => (number.saturating_add(1), i64::MAX),
            (">=", false) | ("<=", true) => (number, i64::MAX),
            _ => return,
        };
        let bounds = self.bounds.entry(path).or_insert((i64::MIN, i64::MAX));
        *bounds = (bounds.0.max(least), bounds.1.min(most));
    }
}

fn only(object: &Map<String, Value>) -> Option<(&str, &Value)> {
    object.iter().next().map(|(name, value)| (name.as_str(), value))
}

/// `principal`, `context.time.hour`: a variable and the attributes below it.
pub(super) fn path(node: &Value) -> Option<String> {
    let (form, inner) = only(node.as_object()?)?;
    match form {
        "Var" => inner.as_str().map(str::to_owned),
        "." => Some(format!("{}.{}", path(inner.get("left")?)?, inner.get("attr")?.as_str()?)),
        _ => None,
    }
}

/// A text, number, truth value or entity; a set or an extension's value may be written in several ways.
fn literal(node: &Value) -> Option<Value> {
    let (form, value) = only(node.as_object()?)?;
    match value {
        _ if form != "Value" => None,
        Value::String(_) | Value::Number(_) | Value::Bool(_) => Some(value.clone()),
        Value::Object(_) => value.get("__entity").map(bare),
        Value::Null | Value::Array(_) => None,
    }
}

/// An entity's type and id, wherever it stands.
fn bare(entity: &Value) -> Value {
    let entity = entity.get("__entity").unwrap_or(entity);
    serde_json::json!({ "type": entity.get("type"), "id": entity.get("id") })
}

fn shown(literal: &Value) -> String {
    match (literal.get("type").and_then(Value::as_str), literal.get("id").and_then(Value::as_str)) {
        (Some(kind), Some(id)) => format!("`{kind}::\"{}\"`", id.escape_debug()),
        _ => format!("`{literal}`"),
    }
}
