//! `doorward policy trust-test`: a token held against the trust rules, claim by claim, with no server
//! and no network. The signature is checked where the issuer's keys are in a file; else it is said
//! that it was not.

use std::fmt::Write as _;
use std::path::PathBuf;

use clap::Args;
use data_encoding::BASE64URL_NOPAD;
use serde_json::{Map, Value, json};

use super::args::Format;
use super::job::read;
use super::policy::{FolderArgs, Printed};
use crate::identity::workload::{key_set, times, verify_with};
use crate::model::Timestamp;
use crate::policy::{PolicySet, Trial, TrustedIssuer};

/// `policy trust-test`.
#[derive(Debug, Clone, Args)]
#[command(
    after_help = "With `-o json` each of `checks` has `holds`: true, false, or null for what was not checked, as a\n\
signature is not where the issuer has no `jwks_file`. What was not checked changes no exit code.\n\n\
Example:\n  doorward policy trust-test --token-file token.jwt --dir policies"
)]
pub struct TrustTestArgs {
    /// Which folder.
    #[command(flatten)]
    pub folder: FolderArgs,
    /// The file with the token.
    #[arg(long, value_name = "FILE")]
    pub token_file: PathBuf,
    /// How to print; from the global `-o`.
    #[arg(skip)]
    pub output: Format,
}

fn usage(message: impl std::fmt::Display) -> Printed {
    Printed { code: 2, stdout: String::new(), stderr: format!("{message}\n") }
}

/// The claims of a token, whoever signed it.
fn unverified(token: &str) -> Option<Map<String, Value>> {
    let payload = BASE64URL_NOPAD.decode(token.split('.').nth(1)?.as_bytes()).ok()?;
    serde_json::from_slice(&payload).ok()
}

/// What there is to say of signature, audience and times: a word, and whether it holds; nothing where
/// nobody looked.
fn checked(
    token: &str,
    issuer: &TrustedIssuer,
    claims: &Map<String, Value>,
    now: Timestamp,
) -> Vec<(&'static str, String, Option<bool>)> {
    let mut checks = Vec::new();
    let audience = claims.get("aud").map_or_else(|| "nothing".to_owned(), Value::to_string);
    let wanted = json!(issuer.audience);
    let fits = claims.get("aud").is_some_and(|aud| *aud == wanted || *aud == json!([wanted]));
    checks.push(("audience", format!("wanted `{}`, got {audience}", issuer.audience), Some(fits)));
    match &issuer.jwks_file {
        None => {
            checks.push(("signature", "not checked: the issuer has no `jwks_file`".to_owned(), None));
            checks.push(match times(claims, now) {
                Ok(()) => ("times", "hold".to_owned(), Some(true)),
                Err(error) => ("times", error.to_string(), Some(false)),
            });
        }
        Some(path) => {
            let keys = std::fs::read(path).map_err(|error| error.to_string()).and_then(|json| key_set(&json));
            let verdict = keys.and_then(|keys| {
                let read = verify_with(token, &keys, &issuer.issuer, &issuer.audience, now);
                read.map(drop).map_err(|error| error.to_string())
            });
            match verdict {
                Ok(()) => checks.push(("signature", "holds, and so do audience and times".to_owned(), Some(true))),
                Err(why) => checks.push(("signature", why, Some(false))),
            }
        }
    }
    checks
}

/// Exit 0 when a rule names the token, 1 when none does, 2 when it can't be read.
#[must_use]
pub fn trust_test(
    args: &TrustTestArgs,
    policies: impl FnOnce() -> Result<PolicySet, Printed>,
    now: Timestamp,
) -> Printed {
    let token = match read(&args.token_file) {
        Ok(token) => token,
        Err(failure) => return usage(failure.problem.detail.unwrap_or_default()),
    };
    let Some(claims) = unverified(&token) else { return usage("the file has no signed JWT in it") };
    let set = match policies() {
        Ok(set) => set,
        Err(printed) => return printed,
    };
    let workloads = set.workloads();
    let iss = claims.get("iss").and_then(Value::as_str).unwrap_or_default();
    let Some(issuer) = workloads.issuer(iss) else {
        let known: Vec<&str> = workloads.issuers().iter().map(|issuer| issuer.issuer.as_str()).collect();
        let known = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
        let message = format!("no `[[issuer]]` has the token's `iss`, `{}`; there are: {known}", iss.escape_debug());
        return Printed { code: 1, stdout: String::new(), stderr: format!("{message}\n") };
    };
    let checks = checked(&token, issuer, &claims, now);
    let trials = workloads.trials(issuer, &claims);
    let recognised = workloads.recognise(issuer, &claims).ok();
    let code = u8::from(recognised.is_none() || checks.iter().any(|(_, _, holds)| *holds == Some(false)));
    let stdout = match args.output {
        Format::Json => {
            let checks: Vec<Value> = checks
                .iter()
                .map(|(name, what, holds)| json!({ "check": name, "detail": what, "holds": holds }))
                .collect();
            let value = json!({
                "issuer": issuer.name,
                "preset": issuer.preset.name(),
                "principal": recognised.as_ref().map(|found| found.principal.to_string()),
                "groups": recognised.as_ref().map(|found| found.groups.clone()),
                "checks": checks,
                "rules": trials.iter().map(trial_json).collect::<Vec<_>>(),
            });
            format!("{value:#}\n")
        }
        Format::Table | Format::Junit => {
            let mut text = String::new();
            let _ = writeln!(text, "{:<10} {} ({})", "issuer", issuer.name, issuer.preset.name());
            for (name, what, holds) in &checks {
                let _ = writeln!(text, "{name:<10} {}{what}", if *holds == Some(false) { "NO: " } else { "" });
            }
            for trial in &trials {
                trial_text(&mut text, trial);
            }
            let end = match &recognised {
                Some(found) if code == 0 => format!("{}, groups {}", found.principal, found.groups.join(", ")),
                Some(found) => format!("would be {}, but the token is not taken", found.principal),
                None => "nobody: no rule holds whole".to_owned(),
            };
            let _ = writeln!(text, "{:<10} {end}", "this is");
            text
        }
    };
    Printed { code, stdout, stderr: String::new() }
}

fn trial_text(text: &mut String, trial: &Trial) {
    let _ = writeln!(text, "{:<10} {} {}", "rule", trial.rule, if trial.holds() { "holds" } else { "does not hold" });
    for claim in &trial.claims {
        let got = claim.got.as_ref().map_or_else(|| "nothing".to_owned(), |got| format!("`{}`", got.escape_debug()));
        let word = if claim.holds { "ok" } else { "NO" };
        let _ = writeln!(text, "  {word:<2}  {}: wanted {}, got {got}", claim.claim, claim.wanted);
    }
}

fn trial_json(trial: &Trial) -> Value {
    let claims: Vec<Value> = trial
        .claims
        .iter()
        .map(|claim| json!({ "claim": claim.claim, "wanted": claim.wanted, "got": claim.got, "holds": claim.holds }))
        .collect();
    json!({ "rule": trial.rule, "holds": trial.holds(), "claims": claims })
}
