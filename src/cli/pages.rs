//! `doorward completions` and `doorward man`: written from the same definition that reads the
//! command line.

use std::fs;

use clap::CommandFactory;

use super::args::{Arguments, CompletionsArgs, ManArgs};
use super::failure::Failure;
use super::printer::Printer;

/// Writes a completion script to standard output.
///
/// # Errors
/// When it can't be written.
pub fn completions(printer: &Printer, args: &CompletionsArgs) -> Result<(), Failure> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Arguments::command(), "doorward", &mut script);
    printer.data(&String::from_utf8_lossy(&script))
}

/// Writes the main manual page to standard output, or all pages into a folder.
///
/// # Errors
/// When they can't be written.
pub fn man(printer: &Printer, args: &ManArgs) -> Result<(), Failure> {
    let Some(folder) = &args.out else {
        let mut page = Vec::new();
        clap_mangen::Man::new(Arguments::command())
            .render(&mut page)
            .map_err(|error| Failure::failed(format!("writing the manual page: {error}")))?;
        return printer.data(&String::from_utf8_lossy(&page));
    };
    let fails = |error| Failure::failed(format!("writing manual pages to `{}`: {error}", folder.display()));
    fs::create_dir_all(folder).map_err(fails)?;
    clap_mangen::generate_to(Arguments::command(), folder).map_err(fails)?;
    printer.talk(&format!("The manual pages are in {}.", folder.display()));
    Ok(())
}
