//! `doorward curl`: becomes curl, with the session's certificate and the authorities that vouch
//! for the door. Only paths of files stand in its arguments. curl itself takes names below
//! `localhost` to this machine.

use std::ffi::OsString;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::Command;

use super::args::CurlArgs;
use super::context::Context;
use super::failure::Failure;
use super::renewal::signed_in;

/// Renews the certificate where that is due and becomes curl. It only returns to say why not.
pub async fn run(context: &Context, args: &CurlArgs) -> Failure {
    match prepared(context, args).await {
        // The process goes on as curl: its signals and exit code are curl's.
        Ok(mut command) => Failure::failed(format!("starting curl: {}", command.exec())),
        Err(failure) => failure,
    }
}

async fn prepared(context: &Context, args: &CurlArgs) -> Result<Command, Failure> {
    let program = found(context).ok_or_else(|| {
        Failure::failed("`curl` is not installed (it is not in `PATH`); install it, or use `doorward proxy`")
    })?;
    let mut command = Command::new(program);
    if asks_about_curl(&args.arguments) {
        command.args(&args.arguments);
        return Ok(command);
    }
    let here = signed_in(context).await?;
    command.arg("--cert").arg(here.profile.certificate_path()).arg("--key").arg(here.profile.key_path());
    let named = context.global.ca.clone().or_else(|| context.environment.path("DOORWARD_CA"));
    let ca = named.or_else(|| here.session.ca_pem.is_some().then(|| here.profile.ca_path()));
    if let Some(ca) = ca {
        command.arg("--cacert").arg(ca);
    }
    // Last, so that what is said there goes before what is said here.
    command.args(&args.arguments);
    Ok(command)
}

/// Whether curl is only asked about itself, for which nobody needs to be signed in.
fn asks_about_curl(arguments: &[OsString]) -> bool {
    match arguments {
        [only] => ["--help", "-h", "--version", "-V"].iter().any(|flag| only == flag),
        [help, _category] => ["--help", "-h"].iter().any(|flag| help == flag),
        _ => false,
    }
}

fn found(context: &Context) -> Option<PathBuf> {
    let folders = context.environment.path("PATH")?;
    let programs = std::env::split_paths(&folders).map(|folder| folder.join("curl")).collect::<Vec<_>>();
    programs.into_iter().find(|program| {
        program.metadata().is_ok_and(|metadata| metadata.is_file() && metadata.permissions().mode() & 0o111 != 0)
    })
}
