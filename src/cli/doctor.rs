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
    let rows: Vec<Vec<String>> = findings
        .iter()
        .map(|finding| {
            vec![
                finding.health.name().to_owned(),
                finding.name.clone(),
                finding.detail.clone(),
                finding.fix.clone().unwrap_or_default(),
            ]
        })
        .collect();
    context.printer.table(&["", "what", "seen", "what to do"], &rows)
}
