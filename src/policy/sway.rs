//! Which way a policy sways who holds an entitlement: a permit that asks for it gives, a forbid of its
//! holders takes. A grant that was not approved for an action gives nothing there, and still takes.

use cedar_policy::{Effect, Policy, PrincipalConstraint};
use serde_json::Value;

use crate::model::EntitlementName;

/// What holding an entitlement may change by one policy, compared with not holding it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Sway {
    /// Something is permitted that was not.
    pub gives: bool,
    /// Something is not permitted that was.
    pub takes: bool,
}

impl Sway {
    const BOTH: Self = Self { gives: true, takes: true };
    const NONE: Self = Self { gives: false, takes: false };

    const fn and(self, other: Self) -> Self {
        Self { gives: self.gives | other.gives, takes: self.takes | other.takes }
    }

    const fn turned(self) -> Self {
        Self { gives: self.takes, takes: self.gives }
    }

    /// Of one policy. What can't be read sways both ways.
    pub(super) fn of(policy: &Policy, entitlement: &EntitlementName) -> Self {
        let id = entitlement.to_string();
        let head = match policy.principal_constraint() {
            PrincipalConstraint::In(uid) | PrincipalConstraint::IsIn(_, uid) => {
                uid.type_name().to_string() == "Entitlement" && uid.id().unescaped() == id
            }
            PrincipalConstraint::Any | PrincipalConstraint::Is(_) | PrincipalConstraint::Eq(_) => false,
        };
        let Ok(json) = policy.to_json() else { return Self::BOTH };
        let conditions = json.get("conditions").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
        let matches = conditions.iter().fold(Self { gives: head, takes: false }, |so_far, condition| {
            let body = truth(condition.get("body").unwrap_or(&Value::Null), &id);
            let is_unless = condition.get("kind").and_then(Value::as_str) == Some("unless");
            so_far.and(if is_unless { body.turned() } else { body })
        });
        match policy.effect() {
            Effect::Permit => matches,
            Effect::Forbid => matches.turned(),
        }
    }
}

/// Which way holding it sways the truth of an expression.
fn truth(node: &Value, id: &str) -> Sway {
    let Some(entries) = node.as_object() else { return Sway::NONE };
    entries.iter().fold(Sway::NONE, |so_far, (operator, operands)| {
        let sides = || ["left", "right", "arg"].into_iter().filter_map(|side| operands.get(side));
        so_far.and(match operator.as_str() {
            "&&" | "||" => sides().fold(Sway::NONE, |both, side| both.and(truth(side, id))),
            "!" => sides().fold(Sway::NONE, |both, side| both.and(truth(side, id))).turned(),
            "in" | "is" if names(operands, id) && is_plain(operands) => Sway { gives: true, takes: false },
            // Whatever else looks at it, compares or chooses by it may turn it round.
            _ if names(operands, id) => Sway::BOTH,
            _ => Sway::NONE,
        })
    })
}

/// Whether a membership is asked of a variable, and in entities that are written out.
fn is_plain(operands: &Value) -> bool {
    let is_value = |node: &Value| node.get("Value").is_some();
    let is_written = |node: &Value| {
        is_value(node) || node.get("Set").and_then(Value::as_array).is_some_and(|items| items.iter().all(is_value))
    };
    operands.get("left").is_some_and(|left| left.get("Var").is_some())
        && ["right", "in"].into_iter().filter_map(|side| operands.get(side)).all(is_written)
}

fn names(node: &Value, id: &str) -> bool {
    match node {
        Value::String(text) => text == id,
        Value::Array(items) => items.iter().any(|item| names(item, id)),
        Value::Object(entries) => entries.values().any(|item| names(item, id)),
        Value::Null | Value::Bool(_) | Value::Number(_) => false,
    }
}
