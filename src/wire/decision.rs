//! A decision as the record remembers it, on paper.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::{Principal, Remedy, Time};

/// The answer to one request, from the record.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Decision {
    /// `dec_…`
    pub id: String,
    /// When.
    pub time: Time,
    /// `allow` or `deny`.
    pub outcome: String,
    /// Why it was refused.
    #[serde(default)]
    pub reason: Option<String>,
    /// Whose request; none where nobody was identified.
    #[serde(default)]
    pub principal: Option<Principal>,
    /// `usr_…`: whose it was, where the person was erased from the record.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub erased: Option<String>,
    /// What the route stands for.
    #[serde(default)]
    pub action: Option<String>,
    /// On what, as policies name it.
    #[serde(default)]
    pub resource: Option<String>,
    /// Which service.
    #[serde(default)]
    pub service: Option<String>,
    /// The request that was judged.
    #[serde(default)]
    pub request: Option<DecisionRequest>,
    /// Workloads that acted for the principal (RFC 8693 §4.1), which acted itself first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub act: Vec<String>,
    /// Which policies were in force, `sha256:…`.
    #[serde(default)]
    pub policy_version: Option<String>,
    /// The policies that decided.
    pub policies: Vec<String>,
    /// What went wrong while policies were evaluated; any error refuses.
    pub errors: Vec<String>,
    /// What would have helped.
    #[serde(default)]
    pub remedy: Option<Remedy>,
    /// What of the credentials, or of the request, did not hold.
    #[serde(default)]
    pub note: Option<String>,
    /// What of a job's token did not hold, for those who may read the record.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exchange: Option<DecisionExchange>,
    /// How its request ended, where it was let through and its upstream's answer was not passed on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended: Option<DecisionEnded>,
    /// `grt_…`: the grant that it rested on, or that its token was made under.
    #[serde(default)]
    pub grant: Option<String>,
    /// The grants that counted.
    #[serde(default)]
    pub grants: Vec<DecisionGrant>,
    /// Entitlements each of which would have allowed it.
    #[serde(default)]
    pub helps: Vec<DecisionHelp>,
    /// The log that holds the event.
    #[serde(default)]
    pub log: Option<String>,
    /// Its number there; none in the first moments.
    #[serde(default)]
    pub seq: Option<i64>,
}

/// A refused exchange of a job's token.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DecisionExchange {
    /// `unknown_issuer`, `bad_token`, `no_rule`, `issuer_changed` or `token_reused`.
    pub reason: String,
    /// What was wanted and what came, as the event `token.exchange_refused` has it.
    pub data: Map<String, Value>,
}

/// An answer of the door's own to a request that was let through.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DecisionEnded {
    /// `502`
    pub status: i64,
    /// As the answer had it: `upstream_unavailable`.
    pub reason: String,
    /// What was wrong, as the event `exchange.ended` has it: `unreachable`, `busy`, `slow`, `broken`, …
    #[serde(default)]
    pub fault: Option<String>,
    /// From the request's head to that answer.
    #[serde(default)]
    pub duration_ms: Option<i64>,
    /// When it was given.
    pub time: Time,
}

/// A grant that counted when something was judged.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DecisionGrant {
    /// `grt_…`
    pub id: String,
    /// `svc/name`
    pub entitlement: String,
}

/// An entitlement that would have allowed what was refused, and what there is of it by now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DecisionHelp {
    /// `svc/name`
    pub entitlement: String,
    /// `grt_…`: a grant of it that is not over.
    #[serde(default)]
    pub grant: Option<String>,
    /// How far that grant has come.
    #[serde(default)]
    pub state: Option<String>,
    /// `req_…`: a request for it that waits for an answer.
    #[serde(default)]
    pub request: Option<String>,
}

/// The canonical request, without its query.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DecisionRequest {
    /// `GET`
    pub method: String,
    /// Without port.
    pub host: String,
    /// As policy saw it.
    pub path: String,
}
