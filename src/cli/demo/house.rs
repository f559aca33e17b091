//! The house of the story: a door on loopback with provider and sample upstream, in a temporary
//! folder.
//!
//! INVARIANT: nothing outlives [`House::close`]: every thread and task is joined, and the folder is
//! removed.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tempfile::TempDir;
use tokio::runtime::Runtime;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::cli::failure::Failure;
use crate::cli::origin::Origin;
use crate::cli::serve::{configuration, start_failure};
use crate::config::Environment;
use crate::model::{Clock, Entropy, Ttl};
use crate::server::ambient::{SystemClock, SystemEntropy};
use crate::server::dev::door::{DOMAIN, DevOptions, Parts, prepare};
use crate::server::dev::upstream::RequestCount;
use crate::server::run::{Running, Start, start};

/// How long provider and upstream may take to end.
const END_TIMEOUT: Duration = Duration::from_secs(2);
/// How long the door waits for exchanges under way: the story has ended all of its own by then.
const DRAIN: Ttl = Ttl::seconds(1);

/// A door that is open, and what stands beside it.
pub struct House {
    folder: TempDir,
    control: Origin,
    service: Origin,
    telemetry: Option<SocketAddr>,
    reached: RequestCount,
    running: Running,
    runtime: Runtime,
    over: CancellationToken,
    serving: Vec<JoinHandle<()>>,
}

impl House {
    /// Makes the installation and opens the door on free ports; provider, upstream and story run on
    /// `runtime`.
    ///
    /// # Errors
    /// What is in the way.
    pub fn open(runtime: Runtime) -> Result<Self, Failure> {
        let folder = tempfile::Builder::new()
            .prefix("doorward-demo-")
            .tempdir()
            .map_err(|error| Failure::failed(format!("making a temporary folder: {error}")))?;
        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        let entropy: Arc<dyn Entropy> = Arc::new(SystemEntropy);
        let listen = SocketAddr::from(([127, 0, 0, 1], 0));
        let options = DevOptions { dir: folder.path().join("door"), listen, database: None };
        let parts = runtime
            .block_on(prepare(&options, &clock, &entropy))
            .map_err(|error| Failure::failed(error.to_string()))?;
        let Parts { config, listener, provider, upstream, .. } = parts;
        let (over, reached) = (CancellationToken::new(), upstream.count());
        let serving = vec![
            runtime.spawn(provider.serve(over.clone().cancelled_owned())),
            runtime.spawn(upstream.serve(over.clone().cancelled_owned())),
        ];
        // What the person has set for a door of their own is not for this one.
        let environment = Environment::default();
        let mut config = configuration(&config, &environment)?;
        config.server.drain = DRAIN;
        let running = start(Start { config, environment, listener: Some(listener), clock, entropy })
            .map_err(|error| start_failure(&error))?;
        let address = |text: &str| Origin::parse(text).map_err(|error| Failure::failed(error.to_string()));
        let control = address(&running.origin)?;
        let service = address(&running.desk.settings.url_of(&format!("ops-api.{DOMAIN}")))?;
        let telemetry = running.telemetry;
        Ok(Self { folder, control, service, telemetry, reached, running, runtime, over, serving })
    }

    /// The runtime of provider, upstream and story.
    pub const fn runtime(&self) -> &Runtime {
        &self.runtime
    }

    /// The control host.
    pub const fn control(&self) -> &Origin {
        &self.control
    }

    /// The sample service, as its clients see it.
    pub const fn service(&self) -> &Origin {
        &self.service
    }

    /// Where metrics and health are.
    pub const fn telemetry(&self) -> Option<SocketAddr> {
        self.telemetry
    }

    /// How many requests came through to the service so far.
    pub fn reached(&self) -> u64 {
        self.reached.total()
    }

    /// The door's configuration.
    pub fn config(&self) -> String {
        self.folder.path().join("door").join("doorward.toml").to_string_lossy().into_owned()
    }

    /// Whether custodians are named.
    pub fn has_emergency_path(&self) -> bool {
        self.running.desk.directory.emergency.in_force().is_some()
    }

    /// Everything that is removed at the end.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// The authority of the door's certificates.
    pub fn ca(&self) -> PathBuf {
        self.folder.path().join("door").join("keys").join("ca.crt")
    }

    /// Closes the door, ends the rest and removes the folder.
    ///
    /// # Errors
    /// When the folder can't be removed.
    pub fn close(self) -> Result<(), Failure> {
        let Self { folder, running, runtime, over, serving, .. } = self;
        // ORDER: the service ends first, and with it the door's idle connections to it, for whose end
        // the door would wait.
        over.cancel();
        for task in serving {
            // A part that panicked has ended too.
            let _ = runtime.block_on(async { tokio::time::timeout(END_TIMEOUT, task).await });
        }
        running.stop();
        runtime.shutdown_timeout(END_TIMEOUT);
        let path = folder.path().to_path_buf();
        folder.close().map_err(|error| Failure::failed(format!("removing `{}`: {error}", path.display())))
    }
}
