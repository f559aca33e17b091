//! `tests.toml`: tables of who asks for what and what has to come out.
//!
//! ```toml
//! [principal.alice]              # or name people by e-mail or id in the case
//! id = "dev|alice"
//! groups = ["engineering"]
//!
//! [[test]]
//! name = "production says what to ask for"
//! principal = "alice"
//! request = "POST /v1/deployments/prod"     # or: action = "approve", on = "ops-api/deploy-prod"
//! expect = "deny"
//! reason = "no_policy_match"
//! remedy = "ops-api/deploy-prod"            # a name, or the whole list in any order
//! ```

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::diagnostic::{Diagnostic, Report, Source};
use super::document::{self, Field, Table};
use super::folder::Folder;
use super::policy_set::{EntitlementAction, InstallationAction, PolicySet};
use super::scenario::{Answer, Question, Scenario};
use super::suggestion;
use crate::model::{EntitlementName, ServiceName, Timestamp};

/// One case of a table.
pub(super) struct Case {
    pub(super) service: Option<ServiceName>,
    pub(super) file: PathBuf,
    pub(super) line: usize,
    pub(super) name: String,
    /// Who asks, as the case has it.
    pub(super) who: String,
    pub(super) scenario: Scenario,
    pub(super) question: Question,
    expected: Expected,
}

struct Expected {
    allow: bool,
    reason: Option<String>,
    remedies: Option<Vec<String>>,
    policies: Option<Vec<String>>,
}

/// One case that was run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TestOutcome {
    /// The service; none for the table of `global.cedar`.
    pub service: Option<ServiceName>,
    /// The file.
    pub file: PathBuf,
    /// The line of the case.
    pub line: usize,
    /// Its name, else its question.
    pub name: String,
    /// What came out otherwise than expected; empty when it passed.
    pub problems: Vec<String>,
}

/// Runs every table of the folder against these policies.
///
/// # Errors
/// When a table can't be read.
pub fn run_tests(dir: &Path, set: &PolicySet) -> Result<Vec<TestOutcome>, Vec<Diagnostic>> {
    Ok(read(dir)?.into_iter().map(|case| case.run(set)).collect())
}

/// Reads every table of the folder.
pub(super) fn read(dir: &Path) -> Result<Vec<Case>, Vec<Diagnostic>> {
    let report = Report::default();
    let folder = Folder::read(dir, &report);
    let own = folder.services.iter().map(|service| (Some(&service.name), service.files.get("tests.toml")));
    let tables = std::iter::once((None, folder.files.get("tests.toml"))).chain(own);
    let mut cases = Vec::new();
    for (service, source) in tables {
        if let Some(source) = source {
            parse(source, service, &mut cases, &report);
        }
    }
    if report.has_errors() { Err(report.into_sorted()) } else { Ok(cases) }
}

fn parse(source: &Source, service: Option<&ServiceName>, cases: &mut Vec<Case>, report: &Report) {
    let Some(document) = document::parse(source, report) else { return };
    let mut root = Table::root(source, report, document.get_ref());
    let mut people = BTreeMap::new();
    if let Some(mut table) = root.take("principal").and_then(|field| field.table()) {
        people.extend(table.rest().filter_map(|(name, field)| Some((name.to_owned(), person(name, &field)?))));
    }
    for field in root.list("test") {
        let Some(table) = field.table() else { continue };
        let line = source.place(field.start()).0;
        cases.extend(case(table, source, line, service, &people));
    }
    root.finish();
}

/// `[principal.NAME]`.
fn person(name: &str, field: &Field<'_>) -> Option<Scenario> {
    let mut table = field.table()?;
    let id = table.take("id");
    let email = table.take("email");
    let Some(by) = id.as_ref().or(email.as_ref()) else {
        table.error(format!("the principal `{name}` has neither `id` nor `email`"), "give one or both");
        table.finish();
        return None;
    };
    let mut scenario = named(by)?;
    if let Some(email) = email.as_ref().and_then(Field::text) {
        scenario.email = Some(email.to_owned());
        scenario.email_verified = true;
    }
    if let Some(verified) = table.take("email_verified").and_then(|field| field.boolean()) {
        scenario.email_verified = verified;
    }
    scenario.groups = table.texts("groups");
    scenario.claims = table.take("claims").map(|field| field.json());
    if let Some(opener) = table.text("opener") {
        opener.clone_into(&mut scenario.opener);
    }
    scenario.custodians = table.texts("custodians");
    table.finish();
    Some(scenario)
}

fn named(field: &Field<'_>) -> Option<Scenario> {
    match Scenario::of(field.text()?) {
        Ok(scenario) => Some(scenario),
        Err(error) => {
            field.error(error.to_string(), "");
            None
        }
    }
}

fn case(
    mut table: Table<'_>,
    source: &Source,
    line: usize,
    service: Option<&ServiceName>,
    people: &BTreeMap<String, Scenario>,
) -> Option<Case> {
    let name = table.text("name").map(str::to_owned);
    let who = table.require("principal", "name a `[principal.NAME]`, an e-mail address or an id");
    let mut scenario = who.as_ref().and_then(|field| principal(field, people));
    let who = who.as_ref().and_then(Field::text).unwrap_or_default().to_owned();
    if let Some(scenario) = &mut scenario {
        circumstances(&mut table, scenario);
    }
    let question = question(&mut table, service);
    let allow = table.require("expect", "write `expect = \"allow\"` or `\"deny\"`");
    let allow = allow.and_then(|field| field.choice(&[("allow", true), ("deny", false)]));
    let reasons = [("no_policy_match", ()), ("forbidden_by_policy", ()), ("no_route", ())];
    let reason = table.take("reason").filter(|field| field.choice(&reasons).is_some());
    let mut expected = Expected {
        allow: false,
        reason: reason.and_then(|field| field.text()).map(str::to_owned),
        remedies: table.take("remedy").map(|field| one_or_many(&field)),
        policies: table.take("policy").map(|field| one_or_many(&field)),
    };
    table.finish();
    expected.allow = allow?;
    let question = question?;
    let name = name.unwrap_or_else(|| shown(&question));
    let file = source.file().to_path_buf();
    Some(Case { service: service.cloned(), file, line, name, who, scenario: scenario?, question, expected })
}

fn principal(field: &Field<'_>, people: &BTreeMap<String, Scenario>) -> Option<Scenario> {
    let text = field.text()?;
    if let Some(scenario) = people.get(text) {
        return Some(scenario.clone());
    }
    if !text.contains(['@', '|', ':']) {
        let help = suggestion::help(text, people.keys().map(String::as_str));
        field.error(format!("there is no `[principal.{}]`", text.escape_debug()), help);
        return None;
    }
    named(field)
}

fn circumstances(table: &mut Table<'_>, scenario: &mut Scenario) {
    scenario.groups.extend(table.texts("groups"));
    for field in table.list("entitlements") {
        match field.text().map(EntitlementName::parse) {
            Some(Ok(name)) => scenario.entitlements.push(name),
            Some(Err(error)) => field.error(error.to_string(), ""),
            None => {}
        }
    }
    if let Some(field) = table.take("at") {
        match field.text().map(Timestamp::parse) {
            Some(Some(at)) => scenario.at = at,
            Some(None) => field.error("`at` is not a time", "write it as `2026-11-24T10:00:00Z`, in quotes"),
            None => {}
        }
    }
    if let Some(field) = table.take("address") {
        match field.text().map(str::parse) {
            Some(Ok(address)) => scenario.address = address,
            Some(Err(_)) => field.error("`address` is not an IP address", "write it as `10.0.0.1` or `2001:db8::1`"),
            None => {}
        }
    }
    scenario.amr.extend(table.texts("amr"));
    if let Some(age) = table.duration("auth_age") {
        scenario.auth_age = age;
    }
    if let Some(mut device) = table.take("device").and_then(|field| field.table()) {
        let id = device.text("id").unwrap_or("device").to_owned();
        scenario.device = Some((id, device.boolean("trusted", true)));
        device.finish();
    }
    scenario.scope = table.take("scope").map(|field| one_or_many(&field));
}

fn one_or_many(field: &Field<'_>) -> Vec<String> {
    if field.is_text() {
        return field.text().map(str::to_owned).into_iter().collect();
    }
    field.list().iter().filter_map(Field::text).map(str::to_owned).collect()
}

fn question(table: &mut Table<'_>, service: Option<&ServiceName>) -> Option<Question> {
    match (table.take("request"), table.take("action"), table.take("on")) {
        (Some(request), None, None) => {
            let text = request.text()?;
            let Some((method, path)) = text.split_once(' ') else {
                request.error(
                    format!("`{}` is not a request", text.escape_debug()),
                    "write a method and a path: `GET /status`",
                );
                return None;
            };
            let Some(service) = service else {
                request.error("this table belongs to no service", "ask for built-in actions here: `action` and `on`");
                return None;
            };
            Some(Question::Request { service: service.clone(), method: method.to_owned(), path: path.to_owned() })
        }
        (None, Some(action), Some(on)) => builtin(&action, &on),
        _ => {
            table.error("a test asks either for a `request` or for an `action` with `on`", "write one of the two");
            None
        }
    }
}

fn builtin(action: &Field<'_>, on: &Field<'_>) -> Option<Question> {
    let resource = on.text()?;
    if resource == "installation" {
        let words = InstallationAction::ALL.map(|action| (action.name(), action));
        return action.choice(&words).map(Question::Installation);
    }
    let words = EntitlementAction::ALL.map(|action| (action.name(), action));
    match EntitlementName::parse(resource) {
        Ok(name) => action.choice(&words).map(|action| Question::Entitlement(action, name)),
        Err(error) => {
            on.error(error.to_string(), "or write `on = \"installation\"`");
            None
        }
    }
}

pub(super) fn shown(question: &Question) -> String {
    match question {
        Question::Request { method, path, .. } => format!("{method} {path}"),
        Question::Entitlement(action, name) => format!("{} {name}", action.name()),
        Question::Installation(action) => format!("{} installation", action.name()),
    }
}

impl Case {
    fn run(self, set: &PolicySet) -> TestOutcome {
        let problems = match self.scenario.ask(set, &self.question) {
            Ok(answer) => self.expected.compare(&answer),
            Err(error) => vec![error.to_string()],
        };
        TestOutcome { service: self.service, file: self.file, line: self.line, name: self.name, problems }
    }
}

impl Expected {
    fn compare(&self, answer: &Answer) -> Vec<String> {
        let mut problems = Vec::new();
        let word = |allow| if allow { "allow" } else { "deny" };
        let deciding = list(answer.policies().iter().map(|name| &**name));
        if answer.allow() != self.allow {
            let why =
                if deciding.is_empty() { "no policy matched".to_owned() } else { format!("decided by {deciding}") };
            problems.push(format!("expected {}, got {} ({why})", word(self.allow), word(answer.allow())));
        }
        if let Some(reason) = &self.reason
            && answer.reason() != Some(reason)
        {
            problems.push(format!("expected the reason `{reason}`, got `{}`", answer.reason().unwrap_or("none")));
        }
        if let Some(expected) = &self.remedies {
            let mut expected = expected.clone();
            expected.sort();
            let mut found: Vec<String> = answer.remedies.iter().map(ToString::to_string).collect();
            found.sort();
            if expected != found {
                let or_none = |text: String| if text.is_empty() { "none".to_owned() } else { text };
                let expected = or_none(list(expected.iter().map(String::as_str)));
                let found = or_none(list(found.iter().map(String::as_str)));
                problems.push(format!("expected the remedy {expected}, got {found}"));
            }
        }
        for policy in self.policies.iter().flatten() {
            if !answer.policies().iter().any(|name| **name == **policy) {
                let found = if deciding.is_empty() { "none" } else { &deciding };
                problems.push(format!("expected `{policy}` to decide, got {found}"));
            }
        }
        problems.extend(answer.errors().iter().map(|error| format!("could not be evaluated: {error}")));
        problems
    }
}

fn list<'a>(words: impl Iterator<Item = &'a str>) -> String {
    words.map(|word| format!("`{word}`")).collect::<Vec<_>>().join(", ")
}
