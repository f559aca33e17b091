//! The command line: one file a command, over one client, one printer and one table of exit codes.
//!
//! What happens when a command runs: [`main`] reads the arguments (`args.rs`), builds the
//! [`Context`] (flags, environment, profile) and calls the command's file; a command that needs a
//! session asks `renewal.rs` for one with a fresh certificate and talks to the server through
//! `client.rs`; it ends in `Ok` or in one [`Failure`], which is printed and gives the exit code.

pub mod access_args;
pub mod approval;
pub mod args;
pub mod audit;
pub mod breakglass;
pub mod check;
pub mod client;
pub mod context;
pub mod curl;
pub mod demo;
pub mod dev;
pub mod dial;
pub mod doctor;
pub mod environment;
pub mod exit;
pub mod failure;
pub mod grants;
pub mod init;
pub mod job;
pub mod lock;
pub mod log;
pub mod login;
pub mod logout;
pub mod notices;
pub mod origin;
pub mod pages;
pub mod policy;
pub mod printer;
pub mod profile;
pub mod progress;
pub mod proxy;
pub mod renewal;
pub mod request;
pub mod requests;
pub mod review;
pub mod serve;
pub mod services;
pub mod sessions;
mod table;
pub mod token;
pub mod trust;
pub mod waiting;
pub mod whoami;
pub mod whole_id;
pub mod why;

use std::ffi::OsString;
use std::future::Future;
use std::process::ExitCode;
use std::sync::Arc;

use clap::Parser;

use self::args::{Arguments, Command, asks_for_json, raw_arguments};
use self::client::Banner;
use self::context::Context;
use self::environment::Environment;
use self::exit::Exit;
use self::failure::Failure;
use self::printer::Printer;
use crate::server::ambient::{SystemClock, SystemEntropy};
use crate::wire::Remedy;

/// Reads the process's arguments and runs the command that they name.
#[must_use]
pub fn main(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let arguments = raw_arguments(arguments);
    let in_json = asks_for_json(&arguments);
    match Arguments::try_parse_from(arguments) {
        Ok(arguments) => run(arguments).into(),
        Err(error) if in_json && error.use_stderr() => {
            let text = error.to_string();
            let failure = Failure::usage(text.strip_prefix("error: ").unwrap_or(&text).trim_end());
            Printer::standard(args::Format::Json).failure(&failure);
            failure.exit.into()
        }
        Err(error) => {
            // Help and version go to standard output, the rest to standard error; a reader that
            // went away has read enough.
            let _ = error.print();
            ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2))
        }
    }
}

/// Runs a command and tells how it ended.
#[must_use]
pub fn run(arguments: Arguments) -> Exit {
    let Arguments { global, command } = arguments;
    let context = Context {
        printer: Printer::standard(global.output),
        environment: Environment::of_process(),
        global,
        clock: Arc::new(SystemClock),
        entropy: Arc::new(SystemEntropy),
        banner: Banner::default(),
    };
    carried_out(&context, command)
}

/// Runs a command in these surroundings, tells what failed, and says how it ended.
fn carried_out(context: &Context, command: Command) -> Exit {
    let done = dispatch(context, command);
    // A failure in JSON stands alone, for scripts.
    if (done.is_ok() || context.printer.format() == args::Format::Table)
        && let Some(told) = context.banner.told()
    {
        context.printer.talk(&format!("The emergency path is open: {told}. `doorward breakglass list` says more."));
    }
    match done {
        Ok(()) => Exit::Done,
        Err(mut failure) => {
            told_how_to_sign_in(context, &mut failure);
            context.printer.failure(&failure);
            failure.exit
        }
    }
}

/// Puts this profile's own command into what says no more than to sign in.
fn told_how_to_sign_in(context: &Context, failure: &mut Failure) {
    let said = failure.problem.remedy.as_ref().and_then(|remedy| remedy.command.as_deref());
    if failure.exit == Exit::SignedOut && matches!(said, None | Some("doorward login")) {
        let command = context.sign_in_command(None);
        failure.problem.remedy = Some(Remedy::new("sign_in", Some(&command)));
    }
}

fn dispatch(context: &Context, command: Command) -> Result<(), Failure> {
    let tests = matches!(command, Command::Policy(policy::PolicyCommand::Offline(policy::OfflineCommand::Test(_))));
    if context.printer.format() == args::Format::Junit && !tests {
        return Err(Failure::usage("`-o junit` is for `doorward policy test` only; use `-o table` or `-o json`"));
    }
    match command {
        // Those that run or look at an installation.
        Command::Demo => demo::run(context),
        Command::Dev(args) => dev::run(context, &args),
        Command::Init(args) => init::run(context, &args),
        Command::Serve(args) => serve::run(context, &args),
        Command::Check(args) => check::run(context, &args),
        Command::Doctor(args) => wait_for(doctor::run(context, &args)),
        Command::Policy(policy::PolicyCommand::Offline(command)) => policies(context, command),
        Command::Breakglass(command) => breakglass::run(context, &command),

        // Those of a client.
        Command::Login(args) => wait_for(login::run(context, &args)),
        Command::Logout => wait_for(logout::run(context)),
        Command::Whoami => wait_for(whoami::run(context)),
        Command::Services => wait_for(services::run(context)),
        Command::Sessions(args) => wait_for(sessions::run(context, &args)),
        Command::Curl(args) => wait_for(async { Err(curl::run(context, &args).await) }),
        Command::Proxy(args) => wait_for(proxy::run(context, &args)),
        Command::Request(args) => wait_for(request::run(context, &args)),
        Command::Requests(args) => wait_for(requests::run(context, &args)),
        Command::Show(args) => wait_for(requests::show(context, &args)),
        Command::Approve(args) => wait_for(approval::approve(context, &args)),
        Command::Deny(args) => wait_for(approval::deny(context, &args)),
        Command::Withdraw(args) => wait_for(approval::withdraw(context, &args)),
        Command::Grants(args) => wait_for(grants::run(context, &args)),
        Command::Extend(args) => wait_for(grants::extend(context, &args)),
        Command::Drop(args) => wait_for(grants::drop(context, &args)),
        Command::Revoke(args) => wait_for(grants::revoke(context, &args)),
        Command::Lock(args) => wait_for(lock::lock(context, &args)),
        Command::Unlock(args) => wait_for(lock::unlock(context, &args)),
        Command::Notices(args) => wait_for(notices::run(context, &args)),
        Command::Review(command) => wait_for(review::run(context, &command)),
        Command::Token(args) => wait_for(token::run(context, &args)),
        Command::Audit(command) => audit::run(context, command),
        Command::Policy(policy::PolicyCommand::Replay(args)) => wait_for(policy::replay::run(context, &args)),
        Command::Why(args) => wait_for(why::run(context, &args)),
        Command::Completions(args) => pages::completions(&context.printer, &args),
        Command::Man(args) => pages::man(&context.printer, &args),
    }
}

/// Prints what a policy command found, where it wants it.
fn policies(context: &Context, command: policy::OfflineCommand) -> Result<(), Failure> {
    let printed = policy::run(command, context.printer.format(), context.clock.now());
    // Texts of policies are read by those who let them in: they hide nothing there.
    context.printer.data(&match context.printer.format() {
        args::Format::Json => printer::escaped(&printed.stdout),
        args::Format::Table | args::Format::Junit => printer::plain_lines(&printed.stdout),
    })?;
    match (printed.code, printed.stderr.trim_end()) {
        (0, talk) => {
            if !talk.is_empty() {
                context.printer.talk_lines(talk);
            }
            Ok(())
        }
        (2, "") => Err(Failure::silent(Exit::Usage)),
        (_, "") => Err(Failure::silent(Exit::Failed)),
        // The failure is told as an error already.
        (2, talk) => {
            let lines: Vec<String> = talk.lines().map(|line| line.replacen(": error: ", ": ", 1)).collect();
            Err(Failure::usage(lines.join("\n")).in_lines())
        }
        (_, talk) => Err(Failure::failed(talk).in_lines()),
    }
}

/// Runs a client's command on a runtime of one thread.
fn wait_for(command: impl Future<Output = Result<(), Failure>>) -> Result<(), Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::failed(format!("starting: {error}")))?;
    let ended = runtime.block_on(command);
    // A resolver that still waits must not keep the process.
    runtime.shutdown_background();
    ended
}
