//! Services on paper, as this caller may use them.

use std::fmt;

use serde::{Deserialize, Serialize};

/// What the caller may do with a service or an action.
///
/// Ordered from least to most.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Access {
    /// Nothing, and there is nothing to ask for.
    Denied,
    /// Nothing now, but there is an entitlement to ask for.
    Requestable,
    /// Use it.
    Allowed,
}

impl fmt::Display for Access {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Denied => "denied",
            Self::Requestable => "requestable",
            Self::Allowed => "allowed",
        })
    }
}

/// A service behind the door.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Service {
    /// Its folder's name.
    pub name: String,
    /// What its owner says of it.
    pub description: String,
    /// Where it is reached, of its first host.
    pub url: String,
    /// All of its hosts.
    pub hosts: Vec<String>,
    /// How its upstreams stand with their checks, where they are checked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub health: Option<ServiceHealth>,
    /// The best that holds for any of its actions.
    pub access: Access,
    /// Its actions. What a policy decides by a request's own details can only be told at use.
    pub actions: Vec<ServiceAction>,
    /// What may be asked for by this caller, `svc/name`.
    pub entitlements: Vec<String>,
}

/// How the upstreams of a service stand with their checks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceHealth {
    /// `healthy`, `degraded` (some fail) or `unhealthy` (all do; they are used all the same).
    pub state: String,
    /// Those that pass.
    pub healthy: usize,
    /// All.
    pub upstreams: usize,
}

/// One action of a service.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceAction {
    /// As its routes name it.
    pub name: String,
    /// What the caller may do with it.
    pub access: Access,
    /// What to ask for where it is requestable, or where more of it is (other parameters), `svc/name`.
    #[serde(default)]
    pub entitlement: Option<String>,
}
