//! Builds the gateway in one place, keeps it running, and takes it down in order.
//!
//! ORDER at start: files → database → keys → record → directory → listeners. Nothing listens before
//! everything that a request needs is there; without a database that is what the emergency path
//! needs (`database.rs`). ORDER at the end: no new connections, exchanges under
//! way end or are ended, then the record is written out, then the database is closed.

use std::fmt;
use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize};
use std::thread::JoinHandle;
use std::time::Duration;

use arc_swap::ArcSwap;
use prometheus_client::registry::Registry;
use tokio::runtime::Runtime;
use tokio::sync::{Notify, mpsc};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::audit::{Event, EventType, Outcome};
use crate::config::{Config, Environment};
use crate::control::{ClockGuard, Desk};
use crate::gateway::limit::{PREFLIGHTS_BURST, PREFLIGHTS_PER_SECOND};
use crate::gateway::listener;
use crate::gateway::lookup::Lookup;
use crate::gateway::metrics::Metrics;
use crate::gateway::snapshot::{Snapshot, limiter};
use crate::gateway::worker::Shared;
use crate::identity::directory::Directory;
use crate::identity::dpop_nonce::{self, Nonces};
use crate::identity::provider::Providers;
use crate::model::{Clock, Entropy, EventId, Timestamp, Ttl};
use crate::notify::Alerts;

use super::at_start::AtStart;
use super::bridge::{Browsers, ProviderTokens};
use super::database::{self, ComeBack, Opened};
use super::gauges::Gauges;
use super::keys::keys_of;
use super::material::{self, Material, MaterialError};
use super::notices::Notices;
use super::reload::{Reloaded, Reloader, watch, watched};
use super::settings::{desk_settings, gateway_settings, provider_settings};
use super::stream::StreamState;
use super::telemetry::Telemetry;
use super::tree::Keeper;
use super::{clock, control_host, emergency, probes, stream, tasks, telemetry};

/// Connections to the control host that may wait to be taken.
const CONTROL_QUEUE: usize = 256;
/// How long the record may take to be written out at the end, and again its last checkpoint.
const RECORD_END_TIMEOUT: Duration = Duration::from_secs(5);
/// How long what runs beside requests may take to end.
const TASKS_END_TIMEOUT: Duration = Duration::from_secs(1);
/// How long the database may take to be closed.
const STORE_END_TIMEOUT: Duration = Duration::from_secs(2);
/// How long the runtime may take to end.
const RUNTIME_END_TIMEOUT: Duration = Duration::from_secs(1);
/// How long [`Running::stop`] takes at most once exchanges had their `drain`: all of these, and a second for the
/// threads of the data path, which are cut then. Whoever kills a gateway that does not end must wait longer.
pub const END_MAX: Duration = Duration::from_secs(
    1 + 2 * RECORD_END_TIMEOUT.as_secs()
        + TASKS_END_TIMEOUT.as_secs()
        + STORE_END_TIMEOUT.as_secs()
        + RUNTIME_END_TIMEOUT.as_secs(),
);

/// Why the gateway did not start.
#[derive(Debug)]
pub enum StartError {
    /// Files are wrong; each line has its place. Exit code 2.
    Files(MaterialError),
    /// An address can't be listened on. Exit code 2.
    Listen { address: SocketAddr, what: &'static str, cause: std::io::Error },
    /// Something outside is not as it must be. Exit code 1.
    Outside { doing: String, cause: Box<dyn std::error::Error + Send + Sync> },
}

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Files(error) => error.fmt(f),
            Self::Listen { address, what, cause } => {
                write!(f, "listening on {address} for {what}: {cause}; free the port, or choose another")
            }
            Self::Outside { doing, cause } => {
                let (mut text, mut source) = (format!("{doing}: {cause}"), cause.source());
                while let Some(inner) = source {
                    let more = inner.to_string();
                    // Some errors say their causes themselves.
                    if !text.contains(&more) {
                        text.push_str(": ");
                        text.push_str(&more);
                    }
                    source = inner.source();
                }
                f.write_str(&text)
            }
        }
    }
}

impl std::error::Error for StartError {}

impl From<MaterialError> for StartError {
    fn from(error: MaterialError) -> Self {
        Self::Files(error)
    }
}

pub(in crate::server) fn outside<E: Into<Box<dyn std::error::Error + Send + Sync>>>(
    doing: impl Into<String>,
) -> impl FnOnce(E) -> StartError {
    let doing = doing.into();
    move |cause| StartError::Outside { doing, cause: cause.into() }
}

/// What the caller decides beside the configuration.
pub struct Start {
    /// The configuration, loaded.
    pub config: Config,
    /// The environment, for reloads.
    pub environment: Environment,
    /// A socket that is open already, of `config.server.listen`.
    pub listener: Option<std::net::TcpListener>,
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// Chance.
    pub entropy: Arc<dyn Entropy>,
}

/// A gateway that runs.
pub struct Running {
    /// Where it listens.
    pub address: SocketAddr,
    /// The control host's origin.
    pub origin: String,
    /// Where metrics are.
    pub telemetry: Option<SocketAddr>,
    /// The desk, for the commands that run inside (`demo`).
    pub desk: Arc<Desk>,
    /// The data path's shared state.
    pub shared: Arc<Shared>,
    /// Tells at once what can't wait for the database.
    pub alerts: Alerts,
    /// The record's tree.
    pub tree: Arc<Keeper>,
    reloader: Arc<Reloader>,
    runtime: Runtime,
    tasks: TaskTracker,
    recording: TaskTracker,
    end_recording: CancellationToken,
    threads: Vec<JoinHandle<()>>,
    drain: Ttl,
}

/// Starts everything. When it returns, requests are answered.
///
/// # Errors
/// What was wrong, with nothing left running.
pub fn start(mut start: Start) -> Result<Running, StartError> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .thread_name("control")
        .enable_all()
        .build()
        .map_err(outside("starting the control runtime"))?;
    let material = material::read(&start.config, &start.environment)?;
    for warning in &material.warnings {
        tracing::warn!("{warning}");
    }
    let threads = start
        .config
        .server
        .threads
        .unwrap_or_else(|| std::thread::available_parallelism().map_or(1, NonZeroUsize::get));
    let listeners = listeners(&mut start, threads)?;
    let address =
        listeners.first().and_then(|listener| listener.local_addr().ok()).unwrap_or(start.config.server.listen);
    let runtime_handle = runtime.handle().clone();
    let built = runtime_handle.block_on(build(start, material, address, listeners.len(), runtime.handle()))?;
    let mut running = Running {
        address,
        origin: built.origin,
        telemetry: built.telemetry,
        desk: built.desk,
        shared: built.shared,
        alerts: built.alerts,
        tree: built.tree,
        reloader: built.reloader,
        runtime,
        tasks: built.tasks,
        recording: built.recording,
        end_recording: built.end_recording,
        threads: Vec::with_capacity(listeners.len()),
        drain: built.drain,
    };
    for (number, listener) in listeners.into_iter().enumerate() {
        let shared = Arc::clone(&running.shared);
        let spawned =
            std::thread::Builder::new().name(format!("door-{number}")).spawn(move || data_thread(shared, listener));
        match spawned {
            Ok(thread) => running.threads.push(thread),
            Err(cause) => {
                // Those before it serve already.
                running.cut();
                running.stop();
                return Err(outside("starting a data-path thread")(cause));
            }
        }
    }
    Ok(running)
}

fn data_thread(shared: Arc<Shared>, socket: std::net::TcpListener) {
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return tracing::error!(%error, "a data-path thread could not start"),
    };
    let local = tokio::task::LocalSet::new();
    if let Err(error) = local.block_on(&runtime, listener::run(shared, socket)) {
        tracing::error!(%error, "a data-path thread ended");
    }
}

fn listeners(start: &mut Start, threads: usize) -> Result<Vec<std::net::TcpListener>, StartError> {
    let refused = |address| move |cause| StartError::Listen { address, what: "services and the control host", cause };
    let mut address = start.config.server.listen;
    let first = match start.listener.take() {
        Some(listener) => listener,
        None => {
            listener::probe(address).map_err(refused(address))?;
            listener::open(address).map_err(refused(address))?
        }
    };
    address = first.local_addr().map_err(refused(address))?;
    let mut all = vec![first];
    while all.len() < threads.max(1) {
        all.push(listener::open(address).map_err(refused(address))?);
    }
    Ok(all)
}

/// Everything but the data-path threads.
struct Built {
    origin: String,
    telemetry: Option<SocketAddr>,
    desk: Arc<Desk>,
    shared: Arc<Shared>,
    alerts: Alerts,
    tree: Arc<Keeper>,
    reloader: Arc<Reloader>,
    tasks: TaskTracker,
    recording: TaskTracker,
    end_recording: CancellationToken,
    drain: Ttl,
}

async fn build(
    mut start: Start,
    material: Material,
    address: SocketAddr,
    threads: usize,
    runtime: &tokio::runtime::Handle,
) -> Result<Built, StartError> {
    // From here on nobody asks the machine for the time but by this.
    let clock_guard = Arc::new(ClockGuard::new(Arc::clone(&start.clock)));
    start.clock = Arc::clone(&clock_guard) as Arc<dyn Clock>;
    let (tasks, recording, end_recording) = (TaskTracker::new(), TaskTracker::new(), CancellationToken::new());
    let telemetry_listener = match start.config.telemetry.listen {
        None => None,
        Some(address) => Some(telemetry::open(address).await.map_err(|cause| StartError::Listen {
            address,
            what: "metrics and health",
            cause,
        })?),
    };
    let Opened { store, sealer, node, keys, recorder, away } =
        database::open(&start, &recording, &end_recording, runtime).await?;
    let Start { config, environment, clock, entropy, .. } = start;
    let now = clock.now();
    let origin = config.server.origin(&config.server.control_host, address);
    let public_port = config.server.public_port.unwrap_or(address.port());
    let providers =
        Providers::new(provider_settings(&config), &origin, &clock).map_err(outside("reading the providers"))?;
    let providers = Arc::new(providers);
    let directory = Arc::new(Directory::default());
    directory.emergency.put_in_force(material.emergency.clone());
    database::keep_closings(&config, &directory)?;
    let feed = match away {
        None => {
            let since = config.server.clock_right_since;
            Some(database::take_up(&store, &providers, &directory, &clock_guard, since, now).await?)
        }
        Some(_) => None,
    };
    let (desk_keys, token_keys) = keys_of(keys.ring(), 0);
    let mut registry = Registry::with_prefix("doorward");
    let metrics = Metrics::new(&mut registry);
    let gauges = Gauges::new(&mut registry);
    let environment_of = |name: &str| environment.var(name).map(str::to_owned);
    let snapshot = Snapshot::new(
        1,
        Arc::clone(&material.policies),
        Arc::new(material.tls.by(&clock)),
        1,
        token_keys,
        &metrics,
        None,
        &environment_of,
    )
    .map_err(|error| MaterialError::of(&config.path, error))?;
    let desk = Arc::new(Desk {
        store: store.clone(),
        recorder: recorder.clone(),
        directory: Arc::clone(&directory),
        policies: Arc::new(ArcSwap::new(Arc::clone(&material.policies))),
        keys: Arc::new(ArcSwap::new(desk_keys)),
        authority: Arc::new(ArcSwap::new(Arc::clone(&material.authority))),
        providers: Arc::clone(&providers),
        sealer: Arc::clone(&sealer),
        clock: Arc::clone(&clock),
        clock_guard,
        entropy: Arc::clone(&entropy),
        settings: desk_settings(&config, &origin, public_port),
    });
    let tree = Arc::new(Keeper::new(config.audit.witnesses.clone(), config.audit.retention));
    if feed.is_some() {
        tree.open(&desk, now).await.map_err(outside("opening the record's tree"))?;
    }
    let settings = gateway_settings(&config, &origin, public_port);
    let drain = config.server.drain;
    let (control, connections) = mpsc::channel(CONTROL_QUEUE);
    let lookup = Lookup::new(runtime.clone(), tasks.clone(), store.clone(), Arc::clone(&directory), Arc::clone(&clock));
    let shared = Arc::new(Shared {
        anonymous: limiter(settings.anonymous_per_second, settings.anonymous_burst),
        unasked: limiter(settings.anonymous_per_second, settings.anonymous_burst),
        preflights: limiter(PREFLIGHTS_PER_SECOND, PREFLIGHTS_BURST),
        control_requests: limiter(settings.anonymous_per_second, settings.anonymous_burst),
        settings,
        snapshot: ArcSwap::from_pointee(snapshot),
        directory,
        recorder: recorder.clone(),
        lookup,
        bearer: Arc::new(ProviderTokens::new(Arc::clone(&providers))),
        codes: Arc::new(Browsers::new(Arc::clone(&desk), runtime.clone(), tasks.clone())),
        control,
        nonces: Nonces::new(sealer.derive(dpop_nonce::PURPOSE).expose()),
        clock: Arc::clone(&clock),
        entropy: Arc::clone(&entropy),
        metrics: metrics.clone(),
        emergency: AtomicBool::new(away.is_some()),
        connections: AtomicUsize::new(0),
        by_address: papaya::HashMap::new(),
        authorities_changed: Notify::new(),
        draining: CancellationToken::new(),
        stopping: CancellationToken::new(),
    });
    let reloader = Arc::new(Reloader::new(
        config.path.clone(),
        environment,
        Arc::clone(&shared),
        Arc::clone(&desk),
        gauges.clone(),
        material.anchors.clone(),
        AtStart::of(&config),
    ));
    let notices = Notices {
        settings: &config.notify,
        origin: &origin,
        store: &store,
        clock: &clock,
        entropy: &entropy,
        desk: &desk,
    };
    let alerts = notices
        .start(&mut registry, &tasks, &shared.draining)
        .map_err(outside("reading the authorities of `[notify]`"))?;
    let streams = StreamState::new(&mut registry);
    stream::spawn(&config.audit.streams, &desk, &streams, &tasks, &shared.stopping)
        .map_err(outside("reading the authorities of `[[audit.stream]]`"))?;
    clock::spawn(&tasks, &shared, &desk, &alerts, &mut registry);
    emergency::spawn(&tasks, &shared, &desk, &alerts, config.path.clone());
    let telemetry_address = telemetry_listener.as_ref().and_then(|listener| listener.local_addr().ok());
    if let Some(listener) = telemetry_listener {
        let state = Arc::clone(&tree.state);
        let telemetry = Arc::new(Telemetry { shared: Arc::clone(&shared), registry, gauges, tree: state });
        tasks.spawn(telemetry::run(telemetry, listener, shared.stopping.clone()));
    }
    let router = crate::api::router(Arc::clone(&desk)).merge(crate::console::router(Arc::clone(&desk)));
    tasks.spawn(probes::run(Arc::clone(&shared), tasks.clone()));
    tasks.spawn(control_host::run(Arc::clone(&shared), Arc::clone(&desk), router, connections));
    tree.spawn(&tasks, &desk, &shared.stopping);
    tasks.spawn(watch(Arc::clone(&reloader), watched(&config, &material.policies)));
    note_start(&desk, address, threads, &material, away.as_deref(), now);
    match feed {
        Some(feed) => tasks::spawn_all(&tasks, feed, keys, &shared, &desk, &reloader),
        None => {
            let back = ComeBack { config, node, keys, shared: Arc::clone(&shared), desk: Arc::clone(&desk) };
            tasks.spawn(back.run(Arc::clone(&reloader), tasks.clone()));
        }
    }
    Ok(Built {
        origin,
        telemetry: telemetry_address,
        desk,
        shared,
        tree,
        alerts,
        reloader,
        tasks,
        recording,
        end_recording,
        drain,
    })
}

fn note_start(
    desk: &Desk,
    address: SocketAddr,
    threads: usize,
    material: &Material,
    away: Option<&str>,
    now: Timestamp,
) {
    let id = || EventId::fresh(now, &*desk.entropy);
    let started = Event::new(id(), now, EventType::NodeStarted, Outcome::Success)
        .with("version", env!("CARGO_PKG_VERSION"))
        .with("listen", address.to_string())
        .with("threads", threads);
    desk.recorder.offer(match away {
        None => started,
        Some(why) => started.with("emergency", why),
    });
    let mut loaded = Event::new(id(), now, EventType::PolicyLoaded, Outcome::Success);
    loaded.policy_version = Some(Arc::clone(material.policies.version()));
    desk.recorder.offer(loaded);
}

impl Running {
    /// Reads all files again; what is wrong changes nothing. What is given back waits for the next start.
    ///
    /// # Errors
    /// All problems that were found.
    pub fn reload(&self) -> Reloaded {
        self.reloader.reload()
    }

    /// Tells each reload's outcome.
    pub fn on_reload(&self, told: impl Fn(&Reloaded) + Send + Sync + 'static) {
        self.reloader.on_reload(Box::new(told));
    }

    /// The runtime of everything but the data path.
    #[must_use]
    pub const fn runtime(&self) -> &Runtime {
        &self.runtime
    }

    /// Ends the data path at once, whatever is under way.
    fn cut(&mut self) {
        self.shared.draining.cancel();
        self.shared.stopping.cancel();
        for thread in self.threads.drain(..) {
            // A thread that panicked has ended too.
            let _ = thread.join();
        }
    }

    /// Takes it down in order: exchanges under way have the drain time to end.
    pub fn stop(self) {
        let Self { shared, tree, runtime, tasks, recording, end_recording, threads, drain, desk, .. } = self;
        shared.draining.cancel();
        let stopping = shared.stopping.clone();
        let (ended, wait) = std::sync::mpsc::channel::<()>();
        let joiner = std::thread::Builder::new().name("drain".to_owned()).spawn(move || {
            for thread in threads {
                // A thread that panicked has ended too.
                let _ = thread.join();
            }
            drop(ended);
        });
        // The channel closes when all threads have ended; else the drain time is over.
        let _ = wait.recv_timeout(drain.duration());
        stopping.cancel();
        if let Ok(joiner) = joiner {
            let _ = joiner.join();
        }
        let now = desk.clock.now();
        let id = EventId::fresh(now, &*desk.entropy);
        desk.recorder.offer(Event::new(id, now, EventType::NodeStopped, Outcome::Success));
        end_recording.cancel();
        tasks.close();
        recording.close();
        runtime.block_on(async {
            if tokio::time::timeout(RECORD_END_TIMEOUT, recording.wait()).await.is_err() {
                tracing::error!("the record could not be written out in time");
            }
            // ORDER: after the last event is written, so that the last checkpoint is over it too.
            if tokio::time::timeout(RECORD_END_TIMEOUT, tree.close(&desk)).await.is_err() {
                tracing::error!("the last checkpoint could not be made in time");
            }
            let _ = tokio::time::timeout(TASKS_END_TIMEOUT, tasks.wait()).await;
            let _ = tokio::time::timeout(STORE_END_TIMEOUT, desk.store.close()).await;
        });
        runtime.shutdown_timeout(RUNTIME_END_TIMEOUT);
    }
}
