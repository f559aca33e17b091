//! A pipeline's own token, from its own issuer: verified, recognised by a rule of `workloads.toml`, and
//! where it is not, put on record with all that was wanted and what came instead.

use std::collections::BTreeMap;

use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::audit::{Event, EventType, Outcome};
use crate::identity::token as reader;
use crate::identity::token::TokenError;
use crate::identity::workload::{ForeignError, IssuerSettings};
use crate::model::{DecisionId, Timestamp};
use crate::policy::{Recognised, Trial, TrustedIssuer};

use super::super::caller::ConnectionFacts;
use super::super::decision;
use super::super::desk::Desk;
use super::super::refused::put_on_record;
use super::exchange::ExchangeError;

/// A foreign token that a rule names.
pub(super) struct Foreign {
    pub recognised: Recognised,
    pub once: [u8; 32],
    pub remember_until: Timestamp,
    pub authenticated_at: Timestamp,
}

/// An exchange as it was asked for: over which connection, and under which decision it is refused.
#[derive(Debug, Clone, Copy)]
pub(super) struct Asked<'a> {
    pub connection: &'a ConnectionFacts,
    pub decision: Option<DecisionId>,
    pub now: Timestamp,
}

/// Reads a foreign token and finds the rule that names it.
pub(super) async fn foreign(desk: &Desk, token: &str, asked: Asked<'_>) -> Result<Foreign, ExchangeError> {
    let now = asked.now;
    let policies = desk.policies.load_full();
    let workloads = policies.workloads();
    let claimed = reader::claimed(token).map(|(_, issuer)| issuer);
    let Some(issuer) = claimed.as_deref().and_then(|iss| workloads.issuer(iss)) else {
        let iss = claimed.map(|iss| iss.chars().take(200).collect::<String>());
        refused(desk, asked, None, "unknown_issuer", json!({ "iss": iss })).await;
        return Err(ExchangeError::Subject);
    };
    let settings = settings(issuer);
    let verified = desk.providers.workloads().verify(token, &settings, &issuer.audience, now).await;
    let token = match verified {
        Ok(token) => token,
        Err(error) => {
            let data = json!({ "why": error.to_string(), "wanted_audience": issuer.audience });
            refused(desk, asked, Some(issuer), "bad_token", data).await;
            return Err(match error {
                // Looked at after the signature: its holder learns what the token says itself.
                ForeignError::Token(TokenError::Expired) => ExchangeError::Expired,
                ForeignError::Token(_) | ForeignError::Keys(_) => ExchangeError::Subject,
            });
        }
    };
    let recognised = match workloads.recognise(issuer, &token.claims) {
        Ok(recognised) => recognised,
        Err(trials) => {
            let why = told(&trials);
            refused(desk, asked, Some(issuer), "no_rule", json!({ "rules": trials_json(&trials) })).await;
            return Err(ExchangeError::NoRule(why));
        }
    };
    let mut once = Sha256::new();
    once.update(b"exchange\0");
    once.update(issuer.issuer.as_bytes());
    once.update(b"\0");
    match &token.jti {
        Some(jti) => once.update(jti.as_bytes()),
        // Without an id, nothing but its claims tells it from another: signatures can be made anew.
        None => once.update(Value::Object(token.claims.clone()).to_string().as_bytes()),
    }
    let first = desk.store.provider_issuer_hold(&format!("workload|{}", issuer.name), &issuer.issuer, now).await?;
    if first != issuer.issuer {
        let data = json!({ "first": first, "now": issuer.issuer });
        refused(desk, asked, Some(issuer), "issuer_changed", data).await;
        return Err(ExchangeError::Subject);
    }
    Ok(Foreign {
        recognised,
        once: once.finalize().into(),
        remember_until: token.expires_at,
        authenticated_at: token.issued_at.unwrap_or(now),
    })
}

/// How an issuer of the file is spoken to.
fn settings(issuer: &TrustedIssuer) -> IssuerSettings {
    IssuerSettings {
        issuer: issuer.issuer.clone(),
        jwks_file: issuer.jwks_file.clone(),
        ca: issuer.ca.clone(),
        allow_loopback: issuer.allow_loopback,
    }
}

/// Rule by rule and claim by claim, for the record.
fn trials_json(trials: &[Trial]) -> Value {
    let claim = |claim: &crate::policy::ClaimTrial| json!({ "claim": claim.claim, "wanted": claim.wanted, "got": claim.got, "holds": claim.holds });
    let rule =
        |trial: &Trial| json!({ "rule": trial.rule, "claims": trial.claims.iter().map(claim).collect::<Vec<_>>() });
    trials.iter().take(20).map(rule).collect()
}

/// What its holder may know: which claims did not hold, with the values that the token itself says,
/// but not what the rules want, which is the operator's.
fn told(trials: &[Trial]) -> String {
    if trials.is_empty() {
        return "its issuer has no rule".to_owned();
    }
    let failed = |trial: &Trial| {
        let claims = trial.claims.iter().filter(|claim| !claim.holds).map(|claim| match &claim.got {
            Some(got) => format!("`{}` is `{}`", claim.claim, got.escape_debug()),
            None => format!("`{}` is missing", claim.claim),
        });
        format!("{}: {}", trial.rule, claims.collect::<Vec<_>>().join(", "))
    };
    trials.iter().take(5).map(failed).collect::<Vec<_>>().join("; ")
}

/// Puts a refused exchange on record, with all that an operator needs, so that it is found by its decision.
pub(super) async fn refused(
    desk: &Desk,
    asked: Asked<'_>,
    issuer: Option<&TrustedIssuer>,
    reason: &'static str,
    data: Value,
) {
    let Asked { connection, decision, now } = asked;
    let id = decision.map_or_else(|| desk.event_id(now), decision::exchange_refused);
    let mut event = Event::new(id, now, EventType::ExchangeRefused, Outcome::Denied);
    event.decision = decision;
    event.actor.address = Some(connection.address);
    event.actor.certificate = connection.certificate.as_ref().map(|certificate| certificate.thumbprint);
    event.reason = Some(reason.into());
    if let Some(issuer) = issuer {
        event = event.with("issuer", issuer.name.clone());
    }
    if let Value::Object(data) = data {
        event.data.extend(data);
    }
    put_on_record(desk, event).await;
}

/// Claims that the record keeps: those that say which job it was.
pub(super) fn told_claims(claims: &BTreeMap<String, String>) -> BTreeMap<&str, &str> {
    const KEPT: [&str; 10] = [
        "sub",
        "repository",
        "repository_id",
        "ref",
        "environment",
        "run_id",
        "project_path",
        "project_id",
        "pipeline_id",
        "job_id",
    ];
    claims.iter().map(|(k, v)| (k.as_str(), v.as_str())).filter(|(name, _)| KEPT.contains(name)).collect()
}
