//! Which circumstances a policy reads: the key of a remembered decision, and what of the context
//! must be built at all.
//!
//! INVARIANT: conservative. `context` used in any way but `context.name` and `context has name`
//! counts as reading everything; a policy that can't be walked does too.

use std::collections::BTreeSet;

use cedar_policy::Policy;
use serde_json::Value;

/// Circumstances that some policy of an action reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Reads {
    /// `context.method`.
    pub method: bool,
    /// `context.path`.
    pub path: bool,
    /// `context.host`.
    pub host: bool,
    /// `context.address`.
    pub address: bool,
    /// Anything that changes with the clock: `context.time` and the ages of `context.session`.
    /// A decision that reads it must not be remembered.
    pub time: bool,
    /// `context.session`.
    pub session: bool,
    /// `context.device`.
    pub device: bool,
    /// `context.token`.
    pub token: bool,
    /// `context.params`.
    pub params: bool,
}

impl Reads {
    /// All of them.
    pub const EVERYTHING: Self = Self {
        method: true,
        path: true,
        host: true,
        address: true,
        time: true,
        session: true,
        device: true,
        token: true,
        params: true,
    };

    /// What either reads.
    #[must_use]
    pub const fn and(self, other: Self) -> Self {
        Self {
            method: self.method | other.method,
            path: self.path | other.path,
            host: self.host | other.host,
            address: self.address | other.address,
            time: self.time | other.time,
            session: self.session | other.session,
            device: self.device | other.device,
            token: self.token | other.token,
            params: self.params | other.params,
        }
    }

    /// What one policy reads, in its scope and its conditions.
    pub(super) fn of(policy: &Policy) -> Self {
        let mut reads = Self::default();
        match policy.to_json() {
            Ok(json) => walk(&json, &mut reads),
            Err(_) => reads = Self::EVERYTHING,
        }
        reads
    }

    fn note(&mut self, attribute: &str, below: Option<&str>) {
        match attribute {
            "method" => self.method = true,
            "path" => self.path = true,
            "host" => self.host = true,
            "address" => self.address = true,
            "time" => self.time = true,
            "session" => {
                self.session = true;
                // Only the methods of sign-in and the session's mere presence stand still.
                self.time |= below != Some("amr");
            }
            "device" => self.device = true,
            "token" => self.token = true,
            "params" => self.params = true,
            _ => *self = Self::EVERYTHING,
        }
    }
}

/// Texts that a policy compares with, added to `found`: what a parameter may have to be to matter.
pub(super) fn texts_of(policy: &Policy, found: &mut BTreeSet<String>) {
    fn texts(node: &Value, found: &mut BTreeSet<String>) {
        match node {
            Value::Object(members) => {
                if let Some(text) = only_member(node, "Value").and_then(Value::as_str) {
                    found.insert(text.to_owned());
                }
                members.values().for_each(|member| texts(member, found));
            }
            Value::Array(items) => items.iter().for_each(|item| texts(item, found)),
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
        }
    }
    if let Ok(json) = policy.to_json() {
        texts(&json, found);
    }
}

/// Attributes of anything but the context that a policy reads, at any depth: `principal.claims.ref`
/// gives `claims` and `ref`. `None` where the policy can't be walked.
pub(super) fn attributes_of(policy: &Policy) -> Option<BTreeSet<String>> {
    fn attributes(node: &Value, found: &mut BTreeSet<String>) {
        for form in [".", "has"] {
            let Some(access) = only_member(node, form) else { continue };
            if access.get("left").is_some_and(is_below_context) {
                return;
            }
            found.extend(access.get("attr").and_then(Value::as_str).map(str::to_owned));
        }
        match node {
            Value::Object(members) => members.values().for_each(|member| attributes(member, found)),
            Value::Array(items) => items.iter().for_each(|item| attributes(item, found)),
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
        }
    }
    let mut found = BTreeSet::new();
    attributes(&policy.to_json().ok()?, &mut found);
    Some(found)
}

/// Whether the node is `context` or something within it.
fn is_below_context(node: &Value) -> bool {
    is_context(node) || only_member(node, ".").and_then(|access| access.get("left")).is_some_and(is_below_context)
}

/// The attribute of `context.attribute`, if the node is that.
fn context_attribute(node: &Value) -> Option<&str> {
    let access = only_member(node, ".")?;
    is_context(access.get("left")?).then(|| access.get("attr")?.as_str())?
}

fn only_member<'v>(node: &'v Value, key: &str) -> Option<&'v Value> {
    node.as_object().filter(|object| object.len() == 1)?.get(key)
}

fn is_context(node: &Value) -> bool {
    only_member(node, "Var").is_some_and(|name| name == "context")
}

fn walk(node: &Value, reads: &mut Reads) {
    if is_context(node) {
        *reads = Reads::EVERYTHING;
        return;
    }
    if let Some(attribute) = context_attribute(node) {
        reads.note(attribute, None);
        return;
    }
    // `context.session.amr`: one level below, known for the session.
    if let Some(access) = only_member(node, ".")
        && let Some(attribute) = access.get("left").and_then(context_attribute)
        && let Some(below) = access.get("attr").and_then(Value::as_str)
    {
        reads.note(attribute, Some(below));
        return;
    }
    if let Some(access) = only_member(node, "has")
        && let Some(below) = access.get("attr").and_then(Value::as_str)
    {
        match access.get("left") {
            // Whether there is a session does not change with the clock.
            Some(left) if is_context(left) && below == "session" => {
                reads.session = true;
                return;
            }
            Some(left) if is_context(left) => {
                reads.note(below, None);
                return;
            }
            _ => {}
        }
    }
    match node {
        Value::Object(members) => members.values().for_each(|member| walk(member, reads)),
        Value::Array(items) => items.iter().for_each(|item| walk(item, reads)),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}
