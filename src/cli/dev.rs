//! `doorward dev`: the whole door on loopback, left running.

use std::io::Write as _;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{SyncSender, sync_channel};

use serde_json::{Map, Value, json};
use tokio_util::sync::CancellationToken;

use crate::config;
use crate::model::{Clock, Entropy};
use crate::server::ambient::{SystemClock, SystemEntropy};
use crate::server::dev::door::{DOMAIN, DevError, DevOptions, Parts, prepare, remembered};
use crate::server::dev::provider::PEOPLE;
use crate::server::material::MaterialError;
use crate::server::run::{Running, Start, StartError, start};

use super::args::DevArgs;
use super::context::Context;
use super::failure::Failure;
use super::log::telling;
use super::serve::{configuration, start_failure, until_signalled};

/// Lines that may wait for a reader before further ones are dropped.
const LINES_MAX: usize = 64;

/// Prints without ever waiting for whoever reads: a thread does that.
#[derive(Clone)]
struct Lines(SyncSender<String>);

impl Lines {
    fn new() -> Self {
        let (sender, receiver) = sync_channel::<String>(LINES_MAX);
        // The thread ends with the last sender; it holds nothing that needs an end.
        let _ = std::thread::Builder::new().name("lines".to_owned()).spawn(move || {
            let mut out = std::io::stdout();
            while let Ok(line) = receiver.recv() {
                if writeln!(out, "{line}").and_then(|()| out.flush()).is_err() {
                    return;
                }
            }
        });
        Self(sender)
    }

    fn event(&self, value: &Value) {
        // A reader that is too slow misses a line; the door goes on.
        let _ = self.0.try_send(value.to_string());
    }
}

/// Where a door listens when nobody says so.
const LISTEN: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 8443);

fn failure(error: &DevError) -> Failure {
    Failure::usage(error.to_string()).in_lines()
}

/// Runs until it is told to stop.
///
/// # Errors
/// Exit 2 when a port is taken or files are wrong, 1 when something else is in the way.
pub fn run(context: &Context, args: &DevArgs) -> Result<(), Failure> {
    let _telling = telling(if args.json { "warn" } else { "doorward=info,warn" });
    let lines = Lines::new();
    if args.json {
        lines.event(&json!({ "event": "starting" }));
    }
    let temporary = match &args.dir {
        Some(_) => None,
        None => Some(
            tempfile::Builder::new()
                .prefix("doorward-dev-")
                .tempdir()
                .map_err(|error| Failure::failed(format!("making a temporary folder: {error}")))?,
        ),
    };
    let dir = args.dir.clone().or_else(|| temporary.as_ref().map(|dir| dir.path().to_path_buf())).unwrap_or_default();
    let listen = args.listen.or_else(|| remembered(&dir)).unwrap_or(LISTEN);
    let options = DevOptions { dir, listen, database: args.database.clone() };
    let beside = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .thread_name("dev-parts")
        .enable_all()
        .build()
        .map_err(|error| Failure::failed(format!("starting: {error}")))?;
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let entropy: Arc<dyn Entropy> = Arc::new(SystemEntropy);
    let parts = beside.block_on(prepare(&options, &clock, &entropy)).map_err(|error| failure(&error))?;
    let over = CancellationToken::new();
    let Parts { dir, config, listen, listener, provider, upstream } = parts;
    let issuer = provider.issuer().to_owned();
    let upstream_address = upstream.address();
    let serving = [
        beside.spawn(provider.serve(over.clone().cancelled_owned())),
        beside.spawn(upstream.serve(over.clone().cancelled_owned())),
    ];
    let outcome = if args.parts_only {
        drop(listener);
        let ready = json!({
            "event": "ready", "address": listen.to_string(), "config": config, "dir": dir, "parts_only": true,
            "provider": issuer, "upstream": format!("http://{upstream_address}"),
            "control": format!("https://{DOMAIN}:{}", listen.port()),
            "ca": dir.join("keys").join("ca.crt"),
            "telemetry": telemetry_of(&config),
            "people": people(),
            // The record's key is made by the `serve` that is yet to start.
            "env": environment(&format!("https://{DOMAIN}:{}", listen.port()), &dir, None),
        });
        if args.json {
            lines.event(&ready);
        } else {
            context.printer.talk_lines(&format!(
                "provider {issuer} and sample upstream http://{upstream_address} are running.\n\
                 Now run: doorward serve --config {}",
                config.display()
            ));
        }
        beside.block_on(until_signalled(|| {}))
    } else {
        door(context, args, &lines, &dir, &config, listener)
    };
    over.cancel();
    for task in serving {
        // A part that panicked has ended too.
        let _ = beside.block_on(async { tokio::time::timeout(std::time::Duration::from_secs(2), task).await });
    }
    beside.shutdown_background();
    outcome
}

fn telemetry_of(path: &Path) -> Option<String> {
    let config = config::load(path, &config::Environment::of_process()).ok()?;
    config.telemetry.listen.map(|address| format!("http://{address}"))
}

fn people() -> Vec<&'static str> {
    PEOPLE.iter().map(|person| person.name).collect()
}

fn environment(origin: &str, dir: &Path, audit_key: Option<String>) -> Map<String, Value> {
    let mut env = Map::new();
    env.insert("DOORWARD_SERVER".to_owned(), origin.into());
    env.insert("DOORWARD_CA".to_owned(), dir.join("keys").join("ca.crt").display().to_string().into());
    if let Some(key) = audit_key {
        env.insert("DOORWARD_AUDIT_KEY".to_owned(), key.into());
    }
    env
}

fn door(
    context: &Context,
    args: &DevArgs,
    lines: &Lines,
    dir: &Path,
    path: &Path,
    listener: std::net::TcpListener,
) -> Result<(), Failure> {
    let environment_of = config::Environment::of_process();
    let config = configuration(path, &environment_of)?;
    let running = start(Start {
        config,
        environment: environment_of,
        listener: Some(listener),
        clock: Arc::new(SystemClock),
        entropy: Arc::new(SystemEntropy),
    })
    .map_err(|error: StartError| start_failure(&error))?;
    if args.json {
        let told = lines.clone();
        running.on_reload(move |outcome| {
            let problems = outcome.as_ref().err().map(MaterialError::lines);
            let mut line = json!({ "event": "reloaded", "ok": problems.is_none(), "problems": problems });
            let waiting = outcome.as_ref().ok().filter(|waiting| !waiting.is_empty());
            if let (Some(waiting), Some(line)) = (waiting, line.as_object_mut()) {
                line.insert("at_next_start".to_owned(), json!(waiting));
            }
            told.event(&line);
        });
        lines.event(&ready(&running, dir, path));
    } else {
        tell(context, &running, dir);
    }
    let outcome = running.runtime().block_on(until_signalled(|| drop(running.reload())));
    if args.json {
        lines.event(&json!({ "event": "stopping" }));
    }
    running.stop();
    outcome
}

/// The line that says that requests are answered.
#[must_use]
pub fn ready(running: &Running, dir: &Path, path: &Path) -> Value {
    let snapshot = running.shared.snapshot.load();
    let services: Map<String, Value> = snapshot
        .policies
        .services()
        .filter_map(|service| {
            let host = service.hosts.first()?;
            Some((service.name.to_string(), running.desk.settings.url_of(host).into()))
        })
        .collect();
    json!({
        "event": "ready",
        "address": running.address.to_string(),
        "control": running.origin,
        "telemetry": running.telemetry.map(|address| format!("http://{address}")),
        "config": path,
        "ca": dir.join("keys").join("ca.crt"),
        "dir": dir,
        "services": services,
        "people": people(),
        "env": environment(&running.origin, dir, running.tree.key()),
    })
}

fn tell(context: &Context, running: &Running, dir: &Path) {
    let mut text = format!("The door is open at {} (control host {}).\n\nServices:\n", running.address, running.origin);
    let snapshot = running.shared.snapshot.load();
    for service in snapshot.policies.services() {
        if let Some(host) = service.hosts.first() {
            text.push_str(&format!("  {:<16} {}\n", service.name.as_str(), running.desk.settings.url_of(host)));
        }
    }
    text.push_str("\nPeople: ");
    text.push_str(&people().join(", "));
    text.push_str(&format!(
        "\n\nIn another terminal:\n  export DOORWARD_SERVER={}\n  export DOORWARD_CA={}\n  export DOORWARD_AUDIT_KEY={}\n  \
         doorward login --as alice\n  doorward services\n  doorward curl {}/status\n\n\
         Everything is in {}. Ctrl-C ends it.",
        running.origin,
        dir.join("keys").join("ca.crt").display(),
        running.tree.key().unwrap_or_default(),
        running.desk.settings.url_of(&format!("ops-api.{DOMAIN}")),
        dir.display(),
    ));
    context.printer.talk_lines(&text);
}
