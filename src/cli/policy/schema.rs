//! `doorward policy schema`: what policies of a service may say.

use clap::Args;
use serde_json::json;

use super::{FolderArgs, Printed, failed, joined, loaded, pretty, printed};
use crate::cli::args::Format;
use crate::model::ServiceName;

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
