//! `doorward init`: a new installation on disk.

use crate::config::{InitOptions, is_host_name};
use crate::server::examples::POLICIES;
use crate::server::installation::create;

use super::args::InitArgs;
use super::context::Context;
use super::failure::Failure;

/// Writes `doorward.toml`, an authority, keys and the example policies.
///
/// # Errors
/// Exit 2 when something that would be written exists or the domain is none; nothing is written then.
pub fn run(context: &Context, args: &InitArgs) -> Result<(), Failure> {
    if !is_host_name(&args.domain) {
        return Err(Failure::usage(format!(
            "`{}` is no domain for hosts: give a DNS name in lower case, such as `example.com`",
            args.domain.escape_debug()
        )));
    }
    let options = InitOptions::for_domain(&args.domain);
    let config = create(&args.dir, &options, POLICIES, context.clock.now(), &*context.entropy)
        .map_err(|error| Failure::usage(error.to_string()))?;
    context.printer.talk_lines(&format!(
        "Wrote {}, keys/ and policies/.\n\nNext:\n  1. name your OpenID provider in it (the section is there, in comments)\n  \
         2. point policies/*/service.toml at your services\n  3. doorward check --config {}\n  4. doorward serve --config {}",
        config.display(),
        config.display(),
        config.display()
    ));
    Ok(())
}
