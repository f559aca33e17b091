//! `doorward policy …`: check, test, explain and show the schema of a policy folder, with no
//! server and no network.
//!
//! Results go to standard output, also findings, since they are what was asked for. Exit codes are
//! the house's: 0 done, 1 failed, 2 wrong usage or policies.

use std::fmt::Write as _;
use std::net::IpAddr;
use std::path::PathBuf;

use clap::{Args, Subcommand};
use serde_json::{Value, json};

use super::args::Format;
use super::trust::{TrustTestArgs, trust_test};
use crate::model::{EntitlementName, ServiceName, Timestamp};
use crate::policy::{
    Diagnostic, EntitlementAction, Explanation, InstallationAction, LoadSettings, PolicySet, Question, Scenario,
    TestOutcome, check as check_folder, explain as explain_question, load, run_tests,
};

/// What a command prints and how it ends.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Printed {
    /// The exit code.
    pub code: u8,
    /// For standard output.
    pub stdout: String,
    /// For standard error.
    pub stderr: String,
}

/// Check, test and explain policies.
#[derive(Debug, Clone, Subcommand)]
pub enum PolicyCommand {
    /// Parse, validate against the generated schemas, and lint.
    Check(CheckArgs),
    /// Run every `tests.toml`.
    Test(TestArgs),
    /// Answer one hypothetical request.
    Explain(ExplainArgs),
    /// Print the generated Cedar schema of a service.
    Schema(SchemaArgs),
    /// Judge past decisions by the policies of this folder (not built yet).
    #[command(hide = true)]
    Replay(LaterArgs),
    /// Compare two policy folders (not built yet).
    #[command(hide = true)]
    Diff(LaterArgs),
    /// Hold a token against the trust rules, claim by claim.
    TrustTest(TrustTestArgs),
}

/// Which folder.
#[derive(Debug, Clone, Args)]
pub struct FolderArgs {
    /// The policy folder.
    #[arg(long, value_name = "DIR", default_value = "policies")]
    pub dir: PathBuf,
    /// Added to hosts without a dot.
    #[arg(long, value_name = "DOMAIN", default_value = "doorward.localhost")]
    pub domain: String,
}

/// `policy check`.
#[derive(Debug, Clone, Args)]
pub struct CheckArgs {
    /// Which folder.
    #[command(flatten)]
    pub folder: FolderArgs,
    /// How to print; from the global `-o`.
    #[arg(skip)]
    pub output: Format,
}

/// `policy test`.
#[derive(Debug, Clone, Args)]
pub struct TestArgs {
    /// Which folder.
    #[command(flatten)]
    pub folder: FolderArgs,
    /// How to print; from the global `-o`.
    #[arg(skip)]
    pub output: Format,
}

/// `policy explain`.
#[derive(Debug, Clone, Args)]
#[command(after_help = "Examples:\n  \
    doorward policy explain --principal alice@example.com --group engineering ops-api POST /v1/deployments/prod\n  \
    doorward policy explain --principal 'corp|00u1' --group release-managers approve ops-api/deploy-prod\n  \
    doorward policy explain --principal 'corp|00u7' --group security lock installation")]
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

/// `policy schema`.
#[derive(Debug, Clone, Args)]
pub struct SchemaArgs {
    /// Which folder.
    #[command(flatten)]
    pub folder: FolderArgs,
    /// The service.
    pub service: String,
    /// How to print; from the global `-o`.
    #[arg(skip)]
    pub output: Format,
}

/// A command that is not built yet takes whatever comes.
#[derive(Debug, Clone, Args)]
pub struct LaterArgs {
    /// Ignored.
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, hide = true)]
    pub rest: Vec<String>,
}

/// Runs one of them. `now` is the time of a question that names none.
#[must_use]
pub fn run(mut command: PolicyCommand, format: Format, now: Timestamp) -> Printed {
    match &mut command {
        PolicyCommand::Check(args) => args.output = format,
        PolicyCommand::Test(args) => args.output = format,
        PolicyCommand::Explain(args) => args.output = format,
        PolicyCommand::Schema(args) => args.output = format,
        PolicyCommand::TrustTest(args) => args.output = format,
        PolicyCommand::Replay(_) | PolicyCommand::Diff(_) => {}
    }
    match &command {
        PolicyCommand::Check(args) => check(args),
        PolicyCommand::Test(args) => test(args),
        PolicyCommand::Explain(args) => explain(args, now),
        PolicyCommand::Schema(args) => schema(args),
        PolicyCommand::Replay(_) => later("replay"),
        PolicyCommand::Diff(_) => later("diff"),
        PolicyCommand::TrustTest(args) => match loaded(&args.folder) {
            Ok(set) => trust_test(args, &set, now),
            Err(printed) => printed,
        },
    }
}

fn later(name: &str) -> Printed {
    failed(1, format!("`doorward policy {name}` is not built yet"))
}

fn failed(code: u8, message: impl std::fmt::Display) -> Printed {
    Printed { code, stdout: String::new(), stderr: format!("{message}\n") }
}

fn printed(code: u8, stdout: String) -> Printed {
    Printed { code, stdout, stderr: String::new() }
}

/// JSON as the house prints it: two spaces, a line end.
fn pretty(value: &Value) -> String {
    format!("{value:#}\n")
}

fn settings(folder: &FolderArgs) -> LoadSettings {
    LoadSettings { domain: folder.domain.clone() }
}

/// The policies, or why there are none.
fn loaded(folder: &FolderArgs) -> Result<PolicySet, Printed> {
    load(&folder.dir, &settings(folder)).map_err(|found| failed(2, listed(&found).trim_end()))
}

fn listed(found: &[Diagnostic]) -> String {
    found.iter().fold(String::new(), |mut text, diagnostic| {
        let _ = writeln!(text, "{diagnostic}");
        text
    })
}

/// Exit 2 if anything is an error.
#[must_use]
pub fn check(args: &CheckArgs) -> Printed {
    let checked = check_folder(&args.folder.dir, &settings(&args.folder));
    let code = if checked.failed() { 2 } else { 0 };
    if args.output == Format::Json {
        let items: Vec<Value> = checked.diagnostics.iter().map(diagnostic_json).collect();
        return printed(code, pretty(&json!({ "items": items, "next": null })));
    }
    let mut text = listed(&checked.diagnostics);
    if let Some(policies) = checked.policies.as_ref().filter(|_| code == 0) {
        let services = policies.services().count();
        let entitlements = policies.entitlements().count();
        let warnings = checked.diagnostics.len();
        let _ = writeln!(
            text,
            "{} is good: {}, {}, {}; version {}",
            args.folder.dir.display(),
            counted(services, "service"),
            counted(entitlements, "entitlement"),
            counted(warnings, "warning"),
            policies.version(),
        );
    }
    printed(code, text)
}

pub(super) fn counted(count: usize, word: &str) -> String {
    format!("{count} {word}{}", if count == 1 { "" } else { "s" })
}

fn diagnostic_json(found: &Diagnostic) -> Value {
    json!({
        "file": found.file.display().to_string(),
        "line": found.line,
        "column": found.column,
        "severity": found.severity.name(),
        "message": found.message,
        "help": found.help,
    })
}

/// Exit 1 if a test fails, 2 if policies or tables can't be read.
#[must_use]
pub fn test(args: &TestArgs) -> Printed {
    let set = match loaded(&args.folder) {
        Ok(set) => set,
        Err(printed) => return printed,
    };
    let outcomes = match run_tests(&args.folder.dir, &set) {
        Ok(outcomes) => outcomes,
        Err(found) => return failed(2, listed(&found).trim_end()),
    };
    let code = u8::from(outcomes.iter().any(|outcome| !outcome.problems.is_empty()));
    printed(
        code,
        match args.output {
            Format::Table => tests_table(&outcomes),
            Format::Json => {
                let items: Vec<Value> = outcomes.iter().map(test_json).collect();
                pretty(&json!({ "items": items, "next": null }))
            }
            Format::Junit => junit(&outcomes),
        },
    )
}

fn suite(outcome: &TestOutcome) -> &str {
    outcome.service.as_ref().map_or("global", ServiceName::as_str)
}

fn tests_table(outcomes: &[TestOutcome]) -> String {
    let mut text = String::new();
    for outcome in outcomes {
        let word = if outcome.problems.is_empty() { "ok" } else { "FAILED" };
        let _ = writeln!(text, "{word:<6}  {}: {}", suite(outcome), outcome.name);
        for problem in &outcome.problems {
            let _ = writeln!(text, "        {}:{}: {problem}", outcome.file.display(), outcome.line);
        }
    }
    let wrong = outcomes.iter().filter(|outcome| !outcome.problems.is_empty()).count();
    let _ = writeln!(text, "{} passed, {wrong} failed", outcomes.len() - wrong);
    text
}

fn test_json(outcome: &TestOutcome) -> Value {
    json!({
        "service": outcome.service.as_ref().map(ServiceName::as_str),
        "name": outcome.name,
        "file": outcome.file.display().to_string(),
        "line": outcome.line,
        "passed": outcome.problems.is_empty(),
        "problems": outcome.problems,
    })
}

/// The JUnit XML that CI systems read: one suite a service.
fn junit(outcomes: &[TestOutcome]) -> String {
    let mut suites: Vec<(&str, Vec<&TestOutcome>)> = Vec::new();
    for outcome in outcomes {
        match suites.iter_mut().find(|(name, _)| *name == suite(outcome)) {
            Some((_, cases)) => cases.push(outcome),
            None => suites.push((suite(outcome), vec![outcome])),
        }
    }
    let mut text =
        String::from("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<testsuites name=\"doorward policy test\">\n");
    for (name, cases) in suites {
        let failures = cases.iter().filter(|case| !case.problems.is_empty()).count();
        let _ = writeln!(
            text,
            "  <testsuite name=\"{}\" tests=\"{}\" failures=\"{failures}\" errors=\"0\" skipped=\"0\">",
            xml(name),
            cases.len()
        );
        for case in cases {
            let head = format!(
                "    <testcase classname=\"{}\" name=\"{}\" file=\"{}\" line=\"{}\"",
                xml(name),
                xml(&case.name),
                xml(&case.file.display().to_string()),
                case.line
            );
            if case.problems.is_empty() {
                let _ = writeln!(text, "{head}/>");
            } else {
                let message = xml(&case.problems.join("; "));
                let _ = writeln!(text, "{head}>\n      <failure message=\"{message}\"/>\n    </testcase>");
            }
        }
        text.push_str("  </testsuite>\n");
    }
    text.push_str("</testsuites>\n");
    text
}

fn xml(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            // XML 1.0 has no way to write other control characters.
            c if c.is_control() => escaped.push(' '),
            c => escaped.push(c),
        }
    }
    escaped
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

fn joined<'a>(words: impl Iterator<Item = &'a str>, none: &str) -> String {
    let words: Vec<&str> = words.collect();
    if words.is_empty() { none.to_owned() } else { words.join(", ") }
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

/// Prints the generated schema: Cedar's notation, or with `-o json` the same with the service's name.
#[must_use]
pub fn schema(args: &SchemaArgs) -> Printed {
    let set = match loaded(&args.folder) {
        Ok(set) => set,
        Err(printed) => return printed,
    };
    let found = ServiceName::parse(&args.service).ok().and_then(|name| set.service(&name).cloned());
    let Some(service) = found else {
        let known = joined(set.services().map(|service| service.name.as_str()), "none");
        return failed(2, format!("there is no service `{}`; there are: {known}", args.service.escape_debug()));
    };
    printed(
        0,
        match args.output {
            Format::Table | Format::Junit => format!("{}\n", service.schema().trim_end()),
            Format::Json => pretty(&json!({ "service": service.name.as_str(), "schema": service.schema() })),
        },
    )
}
