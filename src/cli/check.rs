//! `doorward check`: everything that `serve` would refuse, with its place and what to do.

use serde_json::{Value, json};

use crate::config::{self, Config, Environment, Problem, check_database_folder};
use crate::server::material;

use super::args::{ConfigArgs, Format};
use super::context::Context;
use super::failure::Failure;
use super::policy::counted;

/// Checks configuration, certificates and policies without asking anything outside. In JSON every finding is an
/// item; for people, errors are the failure's lines, and what is only worth a look is talk.
///
/// # Errors
/// Exit 2 with every problem.
pub fn run(context: &Context, args: &ConfigArgs) -> Result<(), Failure> {
    let environment = Environment::of_process();
    let (mut found, services) = match config::survey(&args.config, &environment).whole() {
        Ok(config) => look(&config, &environment),
        // What hangs on the faults is told once they are mended.
        Err((mut problems, named)) => {
            problems.extend(named.iter().flat_map(|named| material::faults(named)));
            (problems, 0)
        }
    };
    found.sort_by_key(|problem| !problem.is_error());
    if context.printer.format() == Format::Json {
        let items: Vec<Value> = found.iter().map(item).collect();
        context.printer.json(&json!({ "items": items, "next": null }))?;
    }
    let lines: Vec<String> = found.iter().map(ToString::to_string).collect();
    if found.iter().any(Problem::is_error) {
        let told = format!("the configuration can't be used\n{}", lines.join("\n"));
        return Err(Failure::usage(told).in_lines());
    }
    if context.printer.format() == Format::Json {
        return Ok(());
    }
    for line in &lines {
        context.printer.talk_lines(line);
    }
    context.printer.talk(&format!(
        "{} is good: {}, {}",
        args.config.display(),
        counted(services, "service"),
        counted(lines.len(), "warning")
    ));
    Ok(())
}

/// What there is to say of a configuration that is good by itself, and how many services there are.
fn look(config: &Config, environment: &Environment) -> (Vec<Problem>, usize) {
    let (mut found, services) = match material::read(config, environment) {
        Ok(material) => (material.warnings, material.policies.services().count()),
        Err(error) => (config.warnings.iter().cloned().chain(error.problems).collect(), 0),
    };
    // Not refused wherever a configuration is read: the emergency path works without the database.
    found.extend(check_database_folder(config));
    (found, services)
}

/// As `policy check` prints what it finds.
fn item(found: &Problem) -> Value {
    json!({
        "file": found.file.display().to_string(),
        "line": found.line,
        "column": found.column,
        "severity": found.severity.name(),
        "message": found.message,
        "help": found.help,
    })
}
