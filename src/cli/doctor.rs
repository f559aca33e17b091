//! `doorward doctor`: `check`, and then the outside is asked: providers, database, upstreams, clock.

use serde_json::json;

use crate::config::Environment;
use crate::config::doctor::{Finding, Health};
use crate::server::{doctor, material};

use super::args::{ConfigArgs, Format};
use super::context::Context;
use super::exit::Exit;
use super::failure::Failure;
use super::serve::configuration;

/// Looks at everything and prints what was seen.
///
/// # Errors
/// Exit 2 when `check` fails, 1 when something outside does not work.
pub async fn run(context: &Context, args: &ConfigArgs) -> Result<(), Failure> {
    let environment = Environment::of_process();
    let config = configuration(&args.config, &environment)?;
    let material =
        material::read(&config, &environment).map_err(|error| Failure::usage(error.to_string()).in_lines())?;
    let findings = doctor::examine(&config, &material, &context.clock).await;
    print(context, &findings)?;
    if findings.iter().any(|finding| finding.health == Health::Fail) {
        return Err(Failure::silent(Exit::Failed));
    }
    Ok(())
}

fn print(context: &Context, findings: &[Finding]) -> Result<(), Failure> {
    if context.printer.format() == Format::Json {
        let items: Vec<_> = findings
            .iter()
            .map(|finding| {
                json!({ "name": finding.name, "health": finding.health.name(), "detail": finding.detail, "fix": finding.fix })
            })
            .collect();
        return context.printer.json(&json!({ "items": items, "next": null }));
    }
    context.printer.table(&["", "what", "seen"], &rows(findings))
}

/// A row for each finding, and below it what to do where there is something: most need nothing, and a column of its
/// own would leave no room for paths.
fn rows(findings: &[Finding]) -> Vec<Vec<String>> {
    let mut rows = Vec::new();
    for finding in findings {
        rows.push(vec![finding.health.name().to_owned(), finding.name.clone(), finding.detail.clone()]);
        rows.extend(finding.fix.iter().map(|fix| vec![String::new(), String::new(), format!("to do: {fix}")]));
    }
    rows
}
