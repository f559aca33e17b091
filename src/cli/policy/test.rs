//! `doorward policy test`: every `tests.toml` of a folder, for people, programs and CI.

use std::fmt::Write as _;

use clap::Args;
use serde_json::{Value, json};

use super::{FolderArgs, Printed, failed, listed, loaded, pretty, printed};
use crate::cli::args::Format;
use crate::model::ServiceName;
use crate::policy::{TestOutcome, run_tests};

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
