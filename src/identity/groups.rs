//! What a provider calls groups, in the words of this installation.
//!
//! INVARIANTS: a provider with a map gives only the groups that the map names; one without gives
//! groups that carry its name, `<provider>|<value>`, so that no provider can speak for another's
//! groups or for local ones (ATTACKS A70). Number and length are bounded.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

/// Groups of one person that are taken at most; the rest are dropped.
pub const GROUPS_MAX: usize = 200;
/// The longest value of a claim that is taken for a group, in bytes.
const VALUE_BYTES_MAX: usize = 256;

/// How the values of one provider's groups claim become groups.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GroupMap {
    provider: String,
    map: Option<BTreeMap<String, String>>,
}

impl GroupMap {
    /// The map of the provider of this name; none where the configuration sets none.
    #[must_use]
    pub const fn new(provider: String, map: Option<BTreeMap<String, String>>) -> Self {
        Self { provider, map }
    }

    /// The groups that a claim gives: sorted, each once. A claim that is neither a text nor a
    /// list gives none, and so does an entry that is no text.
    #[must_use]
    pub fn local(&self, claim: &Value) -> Vec<String> {
        let values: Vec<&str> = match claim {
            Value::String(one) => vec![one],
            Value::Array(list) => list.iter().filter_map(Value::as_str).collect(),
            _ => Vec::new(),
        };
        let plain =
            |value: &&str| !value.is_empty() && value.len() <= VALUE_BYTES_MAX && !value.chars().any(char::is_control);
        let groups: BTreeSet<String> = values
            .into_iter()
            .filter(plain)
            .filter_map(|value| match &self.map {
                Some(map) => map.get(value).cloned(),
                None => Some(format!("{}|{value}", self.provider)),
            })
            .collect();
        groups.into_iter().take(GROUPS_MAX).collect()
    }
}
