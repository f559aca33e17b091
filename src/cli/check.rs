//! `doorward check`: everything that `serve` would refuse, with its place and what to do.

use serde_json::{Value, json};

use crate::config::{Environment, check_database_folder};
use crate::server::material;

use super::args::{ConfigArgs, Format};
use super::context::Context;
use super::failure::Failure;
use super::policy::counted;
use super::serve::configuration;

/// Checks configuration, certificates and policies without asking anything outside. What is only
/// worth a look is talk in a table's place, and items in JSON.
///
/// # Errors
/// Exit 2 with every problem.
pub fn run(context: &Context, args: &ConfigArgs) -> Result<(), Failure> {
    let environment = Environment::of_process();
    let config = configuration(&args.config, &environment)?;
    let material =
        material::read(&config, &environment).map_err(|error| Failure::usage(error.to_string()).in_lines())?;
    // Not refused wherever a configuration is read: the emergency path works without the database.
    if let Some(problem) = check_database_folder(&config) {
        return Err(Failure::usage(format!("the configuration can't be used\n{problem}")).in_lines());
    }
    if context.printer.format() == Format::Json {
        let warning = |text: &String| json!({ "severity": "warning", "message": text });
        let items: Vec<Value> = material.warnings.iter().map(warning).collect();
        return context.printer.json(&json!({ "items": items, "next": null }));
    }
    for warning in &material.warnings {
        context.printer.talk_lines(warning);
    }
    let services = material.policies.services().count();
    context.printer.talk(&format!(
        "{} is good: {}, {}",
        args.config.display(),
        counted(services, "service"),
        counted(material.warnings.len(), "warning")
    ));
    Ok(())
}
