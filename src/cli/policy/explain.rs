//! `doorward policy explain`: one hypothetical request, and why the answer is what it is.

use std::fmt::Write as _;
use std::net::IpAddr;

use clap::Args;
use serde_json::{Value, json};

use super::{FolderArgs, Printed, failed, joined, loaded, pretty, printed};
use crate::cli::args::Format;
use crate::model::{EntitlementName, ServiceName, Timestamp};
use crate::policy::{
    EntitlementAction, Explanation, InstallationAction, Question, Scenario, explain as explain_question,
};

/// `policy explain`.
#[derive(Debug, Clone, Args)]
#[command(after_help = "Examples:\n  \
    doorward policy explain --principal alice@example.com --group engineering \\\n    \
    ops-api POST /v1/deployments/prod\n  \
    doorward policy explain --principal 'corp|00u1' --group release-managers \\\n    \
    approve ops-api/deploy-prod\n  \
    doorward policy explain --principal 'corp|00u7' --group security \\\n    \
    lock installation")]
pub struct ExplainArgs {
    /// Which folder.
    #[command(flatten)]
    pub folder: FolderArgs,
    /// Who: an e-mail address (counts as verified) or an id `<provider>|<subject>`.
    #[arg(long, value_name = "WHO")]
    pub principal: String,
    /// A group that the provider tells; may be repeated.
    #[arg(long = "group", value_name = "GROUP")]
    pub groups: Vec<String>,
    /// An entitlement held; may be repeated.
    #[arg(long = "entitlement", value_name = "SERVICE/NAME")]
    pub entitlements: Vec<String>,
    /// When (RFC 3339); now if not given.
    #[arg(long, value_name = "TIME")]
    pub at: Option<String>,
    /// From where.
    #[arg(long, value_name = "IP", default_value = "127.0.0.1")]
    pub address: IpAddr,
    /// A method of sign-in; may be repeated.
    #[arg(long = "amr", value_name = "METHOD")]
    pub amr: Vec<String>,
    /// A trusted device with this id.
    #[arg(long, value_name = "ID")]
    pub device: Option<String>,
    /// SERVICE METHOD PATH, or a built-in action and `SERVICE/NAME` or `installation`.
    #[arg(value_name = "QUESTION", required = true, num_args = 2..=3)]
    pub question: Vec<String>,
    /// How to print; from the global `-o`.
    #[arg(skip)]
    pub output: Format,
}

/// Exit 0 whatever the answer is: the answer is the data.
#[must_use]
pub fn explain(args: &ExplainArgs, now: Timestamp) -> Printed {
    let set = match loaded(&args.folder) {
        Ok(set) => set,
        Err(printed) => return printed,
    };
    let (scenario, question) = match asked(args, now) {
        Ok(asked) => asked,
        Err(message) => return failed(2, message),
    };
    let explanation = match explain_question(&set, &scenario, &question) {
        Ok(explanation) => explanation,
        Err(error) => return failed(2, error),
    };
    printed(
        0,
        match args.output {
            Format::Table | Format::Junit => explanation_text(&explanation),
            Format::Json => pretty(&explanation_json(&explanation, &question)),
        },
    )
}

fn asked(args: &ExplainArgs, now: Timestamp) -> Result<(Scenario, Question), String> {
    let mut scenario = Scenario::of(&args.principal).map_err(|error| error.to_string())?;
    scenario.groups.clone_from(&args.groups);
    for name in &args.entitlements {
        scenario.entitlements.push(EntitlementName::parse(name).map_err(|error| error.to_string())?);
    }
    scenario.at = match &args.at {
        Some(text) => Timestamp::parse(text).ok_or_else(|| {
            format!("`--at {}` is not a time; write it as `2026-11-24T10:00:00Z`", text.escape_debug())
        })?,
        None => now,
    };
    scenario.address = args.address;
    scenario.amr.clone_from(&args.amr);
    scenario.device = args.device.clone().map(|id| (id, true));
    Ok((scenario, question(&args.question)?))
}

fn question(words: &[String]) -> Result<Question, String> {
    let spoken = |error: crate::model::NameError| error.to_string();
    match words {
        [service, method, path] => Ok(Question::Request {
            service: ServiceName::parse(service).map_err(spoken)?,
            method: method.clone(),
            path: path.clone(),
        }),
        [action, resource] if resource == "installation" => {
            let known = InstallationAction::ALL.map(InstallationAction::name).join(", ");
            let action = InstallationAction::parse(action).ok_or_else(|| {
                format!("`{}` is not done to the installation; there are: {known}", action.escape_debug())
            })?;
            Ok(Question::Installation(action))
        }
        [action, resource] => {
            let known = EntitlementAction::ALL.map(EntitlementAction::name).join(", ");
            let action = EntitlementAction::parse(action).ok_or_else(|| {
                format!(
                    "`{}` is not done to an entitlement; there are: {known}; a request is asked as SERVICE METHOD PATH",
                    action.escape_debug()
                )
            })?;
            Ok(Question::Entitlement(action, EntitlementName::parse(resource).map_err(spoken)?))
        }
        _ => Err("ask SERVICE METHOD PATH, or ACTION SERVICE/NAME, or ACTION installation".to_owned()),
    }
}

fn explanation_text(explanation: &Explanation) -> String {
    let answer = &explanation.answer;
    let mut text = String::new();
    let decision = match answer.reason() {
        None => "allow".to_owned(),
        Some(reason) => format!("deny ({reason})"),
    };
    let groups = joined(answer.subject.groups().iter().map(String::as_str), "none");
    let action = answer
        .action
        .as_ref()
        .map_or_else(|| "none: no route takes this request".to_owned(), |action| format!("Action::\"{action}\""));
    let deciding = joined(answer.policies().iter().map(|name| &**name), "none matched");
    for (name, value) in [
        ("decision", decision),
        ("principal", answer.subject.principal().to_string()),
        ("groups", groups),
        ("action", action),
        ("resource", answer.resource.clone()),
        ("policies", deciding),
    ] {
        let _ = writeln!(text, "{name:<10} {value}");
    }
    if let Some(route) = &answer.route {
        let _ = writeln!(text, "{:<10} {route}", "route");
    }
    for error in answer.errors() {
        let _ = writeln!(text, "{:<10} {error}", "error");
    }
    for (name, command) in &explanation.remedies {
        let _ = writeln!(text, "{:<10} {name}: {command}", "remedy");
    }
    text
}

fn explanation_json(explanation: &Explanation, question: &Question) -> Value {
    let answer = &explanation.answer;
    let principal = answer.subject.principal();
    let request = match question {
        Question::Request { service, method, path } => {
            json!({ "service": service.as_str(), "method": method, "path": path })
        }
        Question::Entitlement(..) | Question::Installation(_) => Value::Null,
    };
    let remedies: Vec<Value> = explanation
        .remedies
        .iter()
        .map(|(name, command)| json!({ "kind": "request_access", "entitlement": name.to_string(), "command": command }))
        .collect();
    json!({
        "outcome": if answer.allow() { "allow" } else { "deny" },
        "reason": answer.reason(),
        "principal": { "kind": principal.kind().name(), "id": principal.id() },
        "groups": answer.subject.groups(),
        "action": answer.action,
        "resource": answer.resource,
        "route": answer.route.as_deref(),
        "request": request,
        "policies": answer.policies().iter().map(|name| &**name).collect::<Vec<_>>(),
        "errors": answer.errors(),
        "remedy": remedies.first(),
        "remedies": remedies,
        "policy_version": explanation.version,
    })
}
