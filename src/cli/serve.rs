//! `doorward serve`: the gateway, until it is told to stop.

use std::sync::Arc;

use tokio::signal::unix::{SignalKind, signal};

use crate::config::{self, Environment};
use crate::server::ambient::{SystemClock, SystemEntropy};
use crate::server::run::{Start, StartError, start};

use super::args::ConfigArgs;
use super::context::Context;
use super::exit::Exit;
use super::failure::Failure;
use super::log::telling;

/// Why it did not start, with its exit code.
#[must_use]
pub fn start_failure(error: &StartError) -> Failure {
    match error {
        StartError::Files(_) | StartError::Listen { .. } => Failure::usage(error.to_string()),
        StartError::Outside { .. } => Failure::new(Exit::Failed, "start_failed", error.to_string()),
    }
}

/// Loads a configuration, or says everything that is wrong with it.
///
/// # Errors
/// Exit 2 with a line for each problem.
pub fn configuration(path: &std::path::Path, environment: &Environment) -> Result<config::Config, Failure> {
    config::load(path, environment).map_err(|problems| {
        let lines: Vec<String> = problems.iter().map(ToString::to_string).collect();
        Failure::usage(lines.join("\n"))
    })
}

/// Waits for SIGTERM or SIGINT; SIGHUP calls `reload`.
///
/// # Errors
/// When signals can't be waited for.
pub async fn until_signalled(reload: impl Fn()) -> Result<(), Failure> {
    let listen = |kind| signal(kind).map_err(|error| Failure::failed(format!("waiting for signals: {error}")));
    let (mut term, mut int, mut hup) =
        (listen(SignalKind::terminate())?, listen(SignalKind::interrupt())?, listen(SignalKind::hangup())?);
    loop {
        tokio::select! {
            _ = term.recv() => return Ok(()),
            _ = int.recv() => return Ok(()),
            _ = hup.recv() => tokio::task::block_in_place(&reload),
        }
    }
}

/// Runs the gateway of a configuration.
///
/// # Errors
/// Exit 2 when files or addresses are wrong, 1 when something outside is in the way.
pub fn run(context: &Context, args: &ConfigArgs) -> Result<(), Failure> {
    let _telling = telling("doorward=info,warn");
    let environment = Environment::of_process();
    let config = configuration(&args.config, &environment)?;
    let running = start(Start {
        config,
        environment,
        listener: None,
        clock: Arc::new(SystemClock),
        entropy: Arc::new(SystemEntropy),
    })
    .map_err(|error| start_failure(&error))?;
    tracing::info!(address = %running.address, control = %running.origin, "ready");
    context.printer.talk(&format!("doorward listens on {}, control host {}", running.address, running.origin));
    // Without systemd there is nobody to tell.
    let _ = sd_notify::notify(&[sd_notify::NotifyState::Ready]);
    let outcome = running.runtime().block_on(until_signalled(|| {
        let _ = sd_notify::notify(&[sd_notify::NotifyState::Reloading]);
        // What was wrong is in the log and the record; the old files stay in force.
        drop(running.reload());
        let _ = sd_notify::notify(&[sd_notify::NotifyState::Ready]);
    }));
    let _ = sd_notify::notify(&[sd_notify::NotifyState::Stopping]);
    tracing::info!("draining");
    running.stop();
    outcome
}
