//! `doorward policy schema`: what policies of a service may say.

use std::sync::Arc;

use clap::Args;
use serde_json::{Value, json};

use super::{FolderArgs, Printed, failed, joined, loaded, pretty, printed};
use crate::cli::args::Format;
use crate::model::ServiceName;
use crate::policy::{PolicySet, Service};

/// `policy schema`.
#[derive(Debug, Clone, Args)]
pub struct SchemaArgs {
    /// Which folder.
    #[command(flatten)]
    pub folder: FolderArgs,
    /// The service; without it, all of them.
    pub service: Option<String>,
    /// How to print; from the global `-o`.
    #[arg(skip)]
    pub output: Format,
}

/// Prints the generated schema: Cedar's notation, or with `-o json` the same with the service's name. Of all
/// services each begins with a comment that names it.
#[must_use]
pub fn schema(args: &SchemaArgs) -> Printed {
    let set = match loaded(&args.folder) {
        Ok(set) => set,
        Err(printed) => return printed,
    };
    let Some(named) = &args.service else { return all(&set, args.output) };
    let found = ServiceName::parse(named).ok().and_then(|name| set.service(&name).cloned());
    let Some(service) = found else {
        let known = joined(set.services().map(|service| service.name.as_str()), "none");
        return failed(2, format!("there is no service `{}`; there are: {known}", named.escape_debug()));
    };
    printed(
        0,
        match args.output {
            Format::Table | Format::Junit => format!("{}\n", service.schema().trim_end()),
            Format::Json => pretty(&item(&service)),
        },
    )
}

fn item(service: &Service) -> Value {
    json!({ "service": service.name.as_str(), "schema": service.schema() })
}

fn all(set: &PolicySet, output: Format) -> Printed {
    let text = match output {
        Format::Table | Format::Junit => {
            let one = |service: &Arc<Service>| format!("// {}\n{}\n", service.name, service.schema().trim_end());
            set.services().map(one).collect::<Vec<_>>().join("\n")
        }
        Format::Json => {
            let items: Vec<Value> = set.services().map(|service| item(service)).collect();
            pretty(&json!({ "items": items, "next": null }))
        }
    };
    printed(0, text)
}
