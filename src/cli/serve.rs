//! `doorward serve`: the gateway, until it is told to stop.

use std::io::IsTerminal;
use std::sync::Arc;

use tokio::signal::unix::{Signal, SignalKind, signal};

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
        StartError::Files(_) => Failure::usage(error.to_string()).in_lines(),
        StartError::Listen { .. } => Failure::usage(error.to_string()),
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
        Failure::usage(format!("the configuration can't be used\n{}", lines.join("\n"))).in_lines()
    })
}

/// The signals that end a process or have it read its files again, heard from when this is made.
struct Signals {
    term: Signal,
    int: Signal,
    hup: Signal,
}

impl Signals {
    /// Needs a runtime's context.
    fn hear() -> Result<Self, Failure> {
        let hear = |kind| signal(kind).map_err(|error| Failure::failed(format!("waiting for signals: {error}")));
        Ok(Self {
            term: hear(SignalKind::terminate())?,
            int: hear(SignalKind::interrupt())?,
            hup: hear(SignalKind::hangup())?,
        })
    }

    /// Returns with SIGTERM or SIGINT; SIGHUP calls `reload`.
    async fn until_end(mut self, reload: impl Fn()) {
        loop {
            tokio::select! {
                _ = self.term.recv() => return,
                _ = self.int.recv() => return,
                _ = self.hup.recv() => tokio::task::block_in_place(&reload),
            }
        }
    }
}

/// Waits for SIGTERM or SIGINT; SIGHUP calls `reload`.
///
/// # Errors
/// When signals can't be waited for.
pub async fn until_signalled(reload: impl Fn()) -> Result<(), Failure> {
    Signals::hear()?.until_end(reload).await;
    Ok(())
}

/// Runs the gateway of a configuration.
///
/// # Errors
/// Exit 2 when files or addresses are wrong, 1 when something outside is in the way.
pub fn run(context: &Context, args: &ConfigArgs) -> Result<(), Failure> {
    // The pool tells of each connection that it could not open, many times a second; the store tells what is wrong.
    let _telling = telling("doorward=info,warn,sqlx_core::pool=off");
    let environment = Environment::of_process();
    let config = configuration(&args.config, &environment)?;
    // Heard before anybody can see that it runs: an end that comes at once is an end in order.
    let hearing = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
    let hearing = hearing.map_err(|error| Failure::failed(format!("starting a runtime for signals: {error}")))?;
    let signals = hearing.block_on(async { Signals::hear() })?;
    let running = start(Start {
        config,
        environment,
        listener: None,
        clock: Arc::new(SystemClock),
        entropy: Arc::new(SystemEntropy),
    })
    .map_err(|error| start_failure(&error))?;
    tracing::info!(address = %running.address, control = %running.origin, "ready");
    // Elsewhere the log has it, of which each line is JSON.
    if std::io::stderr().is_terminal() {
        context.printer.talk(&format!("doorward listens on {}, control host {}", running.address, running.origin));
    }
    // Without systemd there is nobody to tell.
    let _ = sd_notify::notify(&[sd_notify::NotifyState::Ready]);
    hearing.block_on(signals.until_end(|| {
        let _ = sd_notify::notify(&[sd_notify::NotifyState::Reloading]);
        // What was wrong is in the log and the record; the old files stay in force.
        drop(running.reload());
        let _ = sd_notify::notify(&[sd_notify::NotifyState::Ready]);
    }));
    let _ = sd_notify::notify(&[sd_notify::NotifyState::Stopping]);
    tracing::info!("draining");
    running.stop();
    Ok(())
}
