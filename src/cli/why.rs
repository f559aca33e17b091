//! `doorward why dec_…`: a decision explained from the record.

use serde_json::Value;

use crate::model::DecisionId;
use crate::wire::{Decision, DecisionExchange, DecisionHelp};

use super::args::{Format, WhyArgs};
use super::context::Context;
use super::failure::Failure;
use super::printer::plain;
use super::renewal::signed_in;

/// Prints what was decided, about whom and what, by which policies, and what would change it.
///
/// # Errors
/// Exit 2 when the id is none; exit 1 when there is no such decision that the caller may read.
pub async fn run(context: &Context, args: &WhyArgs) -> Result<(), Failure> {
    let id = DecisionId::parse(&args.decision)
        .map_err(|error| Failure::usage(format!("`{}`: {error}", args.decision.escape_debug())))?;
    let here = signed_in(context).await?;
    let json = here.client.get(&format!("/api/v1/decisions/{id}")).await?;
    if context.printer.format() == Format::Json {
        return context.printer.resource(&json);
    }
    let decision: Decision = here.client.read(&json)?;
    context.printer.data(&told(&decision))
}

/// The decision in sentences and names, for people.
#[must_use]
pub fn told(decision: &Decision) -> String {
    let who = decision.principal.as_ref().map_or_else(
        || match &decision.erased {
            Some(pseudonym) => format!("a person who was erased from the record ({pseudonym})"),
            None => "a caller who proved no identity".to_owned(),
        },
        |principal| match principal.name.as_deref().or(principal.email.as_deref()) {
            Some(name) => format!("{name} ({})", principal.id),
            None => principal.text(),
        },
    );
    let verb = if decision.outcome == "allow" { "was allowed" } else { "was refused" };
    let what = match (&decision.action, &decision.service) {
        (Some(action), Some(service)) => format!(" `{action}` on {service}"),
        (None, Some(service)) => format!(" at {service}"),
        _ => String::new(),
    };
    let by = decision.act.first().map(|actor| format!(", for whom {actor} acted,")).unwrap_or_default();
    // Each line by itself: what is in the record may have line breaks of its own.
    let mut text = format!("{}\n", plain(&format!("{}: {who}{by} {verb}{what}.", decision.id)));
    if let Some(reason) = &decision.reason {
        let what = decision.note.as_deref().map(|note| format!(": {note}")).unwrap_or_default();
        text.push_str(&format!("{}\n", plain(&format!("Because {}{what}.", explained(reason)))));
    }
    if let Some(exchange) = &decision.exchange {
        for line in exchanged(exchange) {
            text.push_str(&format!("{}\n", plain(&line)));
        }
    }
    if let Some(ended) = &decision.ended {
        let why = ended.fault.as_deref().map(|fault| format!(": {}", at_fault(fault))).unwrap_or_default();
        let took = ended.duration_ms.map(|took| format!(" after {took} ms")).unwrap_or_default();
        let line = format!("It was answered {} {}{took}{why}.", ended.status, ended.reason);
        text.push_str(&format!("{}\n", plain(&line)));
    }
    text.push('\n');
    let mut pair = |name: &str, value: &str| text.push_str(&format!("{name:<12}{}\n", plain(value)));
    pair("time", &decision.time.to_string());
    if let Some(request) = &decision.request {
        pair("request", &format!("{} https://{}{}", request.method, request.host, request.path));
    }
    if let Some(resource) = &decision.resource {
        pair("resource", resource);
    }
    if let Some(reason) = &decision.reason {
        pair("reason", reason);
    }
    decision.act.iter().for_each(|actor| pair("by", actor));
    match decision.policies.as_slice() {
        [] => pair("policies", "none matched"),
        policies => policies.iter().for_each(|policy| pair("policy", policy)),
    }
    decision.errors.iter().for_each(|error| pair("error", error));
    if let Some(grant) = &decision.grant {
        pair("grant", grant);
    }
    for grant in &decision.grants {
        pair("held", &format!("{} ({})", grant.entitlement, grant.id));
    }
    if let Some(version) = &decision.policy_version {
        pair("judged by", version);
    }
    if let (Some(log), Some(seq)) = (&decision.log, decision.seq) {
        pair("record", &format!("{log} number {seq}"));
    }
    if !decision.helps.is_empty() {
        text.push('\n');
    }
    for help in &decision.helps {
        let told = format!("Holding `{}` would have allowed it{}.", help.entitlement, in_hand(help));
        text.push_str(&format!("{}\n", plain(&told)));
    }
    if let Some(command) = decision.remedy.as_ref().and_then(|remedy| remedy.command.as_ref()) {
        text.push_str(&format!("To do: {}\n", plain(command)));
    }
    text
}

/// What of a job's token did not hold, in lines.
fn exchanged(exchange: &DecisionExchange) -> Vec<String> {
    let value = |name: &str| exchange.data.get(name).and_then(Value::as_str);
    let named = |name: &str| value(name).map_or_else(|| "none".to_owned(), |value| format!("`{value}`"));
    match exchange.reason.as_str() {
        "unknown_issuer" => vec![format!("No issuer of `workloads.toml` has the token's `iss`, {}.", named("iss"))],
        "bad_token" => vec![
            format!("The token of {} is not good: {}.", named("issuer"), value("why").unwrap_or("it does not hold")),
            format!("Its `aud` is to be {}.", named("wanted_audience")),
        ],
        "no_rule" => {
            let rules = exchange.data.get("rules").and_then(Value::as_array);
            let rules: Vec<String> = rules.into_iter().flatten().map(tried).collect();
            let first = format!("No rule of `workloads.toml` names this token of {}.", named("issuer"));
            std::iter::once(first).chain(rules).collect()
        }
        "issuer_changed" => vec![format!(
            "The name {} belongs to the issuer {} for good, and not to {}.",
            named("issuer"),
            named("first"),
            named("now")
        )],
        "token_reused" => vec![format!("The token, which rule {} names, was exchanged before.", named("rule"))],
        other => vec![format!("The exchange was refused: {other}.")],
    }
}

/// A rule that did not hold, and the claims that it fails for.
fn tried(rule: &Value) -> String {
    let text = |value: &Value, name: &str| value.get(name).and_then(Value::as_str).map(str::to_owned);
    let claims = rule.get("claims").and_then(Value::as_array).into_iter().flatten();
    let failed = claims.filter(|claim| claim.get("holds").and_then(Value::as_bool) != Some(true)).map(|claim| {
        let got = text(claim, "got").map_or_else(|| "missing".to_owned(), |got| format!("`{got}`"));
        let [claim, wanted] = ["claim", "wanted"].map(|name| text(claim, name).unwrap_or_default());
        format!("`{claim}` is {got}, wanted is {wanted}")
    });
    format!("{}: {}", text(rule, "rule").unwrap_or_default(), failed.collect::<Vec<_>>().join("; "))
}

/// What there is by now of what would have helped.
fn in_hand(help: &DecisionHelp) -> String {
    let grant = help.grant.as_ref().map(|id| match help.state.as_deref() {
        Some("active") => format!("; {id} is active by now: try again"),
        state => format!("; {id} is {} and not active yet", state.unwrap_or("there")),
    });
    let request = || help.request.as_ref().map(|id| format!("; {id} waits for its answer"));
    grant.or_else(request).unwrap_or_default()
}

/// What was wrong with an exchange, as half a sentence.
fn at_fault(fault: &str) -> &str {
    match fault {
        "unreachable" => "no upstream could be reached",
        "busy" => "each connection to the upstreams that may be open was in use",
        "slow" => "the upstream did not begin its answer in time",
        "broken" => "the upstream's answer could not be passed on",
        "refused" => "the upstream said that it had done nothing of it",
        "no_upgrade" => "the upstreams change to no other protocol",
        "body_too_large" => "the request's body was longer than the service takes",
        "body_broken" => "the request's body broke off",
        "body_slow" => "the request's body stood still for too long",
        other => other,
    }
}

/// A reason as half a sentence.
fn explained(reason: &str) -> &str {
    match reason {
        "no_credential" => "no proof of identity came with it",
        "bad_credential" => "a proof of identity did not hold, or two disagreed",
        "session_ended" => "the session had ended",
        "locked" => "the principal is locked",
        "device_untrusted" => "the device is not one that is trusted",
        "no_route" => "the service has no route for this method and path",
        "no_policy_match" => "no policy permits it",
        "forbidden_by_policy" => "a policy forbids it",
        "scope_insufficient" => "the token is narrowed to other actions",
        "rate_limited" => "there were too many requests",
        "stale" => "this node could not confirm for too long who is revoked",
        "audit_unavailable" => "the decision could not be recorded",
        "upstream_unavailable" => "the service behind the door did not answer",
        "ambiguous_request" => "the request could be read two ways",
        other => other,
    }
}
