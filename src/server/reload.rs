//! Reload: all files are read again and swapped in whole, or the old ones stay.
//!
//! A changed file and SIGHUP do the same. Policies, services, certificates and client authorities
//! change without losing a connection; what is only read at start (addresses, database, providers)
//! needs a restart.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use notify::{RecursiveMode, Watcher};
use tokio::sync::Notify;

use crate::audit::{Event, EventType, Outcome};
use crate::config::{Config, Environment};
use crate::control::Desk;
use crate::gateway::handshake::TrustAnchors;
use crate::gateway::snapshot::{Snapshot, TokenKeys};
use crate::gateway::worker::Shared;
use crate::identity::breakglass::settings::RECORDED_FILE;
use crate::model::EventId;

use super::database;
use super::gauges::{Gauges, Taken};
use super::material::{self, MaterialError};

/// How long files must be still before they are read: editors and copies write in steps.
const STILL: Duration = Duration::from_millis(250);

type Told = Box<dyn Fn(&Result<(), MaterialError>) + Send + Sync>;

/// Reads files again and swaps what they say.
pub struct Reloader {
    path: PathBuf,
    environment: Environment,
    shared: Arc<Shared>,
    desk: Arc<Desk>,
    gauges: Gauges,
    /// Holds reloads apart, and remembers the authorities in force.
    anchors: Mutex<TrustAnchors>,
    told: Mutex<Vec<Told>>,
}

impl Reloader {
    /// A reloader over the gateway's state.
    #[must_use]
    pub fn new(
        path: PathBuf,
        environment: Environment,
        shared: Arc<Shared>,
        desk: Arc<Desk>,
        gauges: Gauges,
        anchors: TrustAnchors,
    ) -> Self {
        Self { path, environment, shared, desk, gauges, anchors: Mutex::new(anchors), told: Mutex::default() }
    }

    /// Tells each outcome to `told`.
    pub fn on_reload(&self, told: Told) {
        self.told.lock().unwrap_or_else(PoisonError::into_inner).push(told);
    }

    /// Reads everything again.
    ///
    /// # Errors
    /// All problems that were found; then nothing has changed.
    pub fn reload(&self) -> Result<(), MaterialError> {
        let outcome = self.swap();
        let now = self.shared.clock.now();
        self.gauges.reloaded(if outcome.is_ok() { Taken::Yes } else { Taken::No }, now.seconds());
        let id = EventId::fresh(now, &*self.shared.entropy);
        let event = match &outcome {
            Ok(()) => {
                tracing::info!("files were read again and are in force");
                let mut event = Event::new(id, now, EventType::PolicyLoaded, Outcome::Success);
                event.policy_version = Some(Arc::clone(self.shared.snapshot.load().policies.version()));
                event
            }
            Err(error) => {
                tracing::error!(problems = ?error.problems, "files were read again and refused; the old ones stay in force");
                let first: Vec<String> = error.problems.iter().take(10).cloned().collect();
                Event::new(id, now, EventType::PolicyRefused, Outcome::Failed).with("problems", first)
            }
        };
        self.shared.recorder.offer(event);
        for told in &*self.told.lock().unwrap_or_else(PoisonError::into_inner) {
            told(&outcome);
        }
        outcome
    }

    fn swap(&self) -> Result<(), MaterialError> {
        let mut anchors = self.anchors.lock().unwrap_or_else(PoisonError::into_inner);
        let (_, material) = material::read_again(&self.path, &self.environment)?;
        for warning in &material.warnings {
            tracing::warn!("{warning}");
        }
        let before = self.shared.snapshot.load_full();
        let same = anchors.ours == material.anchors.ours
            && anchors.devices == material.anchors.devices
            && anchors.spiffe == material.anchors.spiffe;
        let environment = |name: &str| self.environment.var(name).map(str::to_owned);
        let snapshot = Snapshot::new(
            before.generation + 1,
            Arc::clone(&material.policies),
            Arc::new(material.tls.by(&self.shared.clock)),
            before.trust_epoch + u64::from(!same),
            Arc::clone(&before.keys),
            &self.shared.metrics,
            Some(&before),
            &environment,
        )
        .map_err(|error| MaterialError { problems: vec![error.to_string()] })?;
        self.shared.snapshot.store(Arc::new(snapshot));
        if !same {
            self.shared.authorities_changed.notify_waiters();
        }
        self.desk.directory.emergency.put_in_force(material.emergency.clone());
        self.desk.policies.store(Arc::clone(&material.policies));
        self.desk.authority.store(Arc::clone(&material.authority));
        *anchors = material.anchors;
        Ok(())
    }

    /// Puts other keys in force.
    pub fn replace_keys(&self, desk: Arc<crate::control::Keys>, tokens: Arc<TokenKeys>) {
        let _held = self.anchors.lock().unwrap_or_else(PoisonError::into_inner);
        let before = self.shared.snapshot.load_full();
        self.shared.snapshot.store(Arc::new(before.with_keys(before.generation + 1, tokens)));
        self.desk.keys.store(desk);
    }
}

/// The folders whose changes mean a reload.
fn folders(config: &Config) -> Vec<(PathBuf, RecursiveMode)> {
    let parent = |path: &Path| path.parent().map(Path::to_path_buf);
    let mut folders = vec![(config.policies.dir.clone(), RecursiveMode::Recursive)];
    let files = [&config.path, &config.server.tls.certificate, &config.trust.client_ca.certificate];
    let more = config.trust.device_ca.iter().chain(config.trust.spiffe.iter().map(|bundle| &bundle.bundle));
    for file in files.into_iter().chain(more) {
        if let Some(folder) = parent(file).filter(|folder| !folders.iter().any(|(known, _)| known == folder)) {
            folders.push((folder, RecursiveMode::NonRecursive));
        }
    }
    folders
}

/// Whether a change in this file can matter: the database and our own state lie in the same folder.
fn matters(path: &Path, witnesses: &[PathBuf]) -> bool {
    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    let ours = ["node.id", "signing-keys.sealed", "pseudonym.sealed", database::CLOSED_FILE, RECORDED_FILE];
    let endings = [".db", ".db-wal", ".db-shm", ".db-journal", ".spool", ".log", ".tmp", ".swp", "~"];
    !witnesses.iter().any(|file| file == path)
        && !ours.iter().any(|own| name.starts_with(own))
        && !endings.iter().any(|ending| name.ends_with(ending))
}

/// Watches the files and reloads when they have changed and lie still, until the gateway drains.
///
/// The files of witnesses, which this process appends to, may lie in the same folders and don't count.
pub async fn watch(reloader: Arc<Reloader>, config_folders: Vec<(PathBuf, RecursiveMode)>, witnesses: Vec<PathBuf>) {
    let changed = Arc::new(Notify::new());
    let ring = Arc::clone(&changed);
    let watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
        if let Ok(event) = event
            && !event.kind.is_access()
            && event.paths.iter().any(|path| matters(path, &witnesses))
        {
            ring.notify_one();
        }
    });
    let mut watcher = match watcher {
        Ok(watcher) => watcher,
        Err(error) => return tracing::warn!(%error, "files can't be watched; SIGHUP reloads"),
    };
    for (folder, mode) in &config_folders {
        if let Err(error) = watcher.watch(folder, *mode) {
            tracing::warn!(%error, folder = %folder.display(), "a folder can't be watched; SIGHUP reloads");
        }
    }
    let draining = reloader.shared.draining.clone();
    loop {
        tokio::select! {
            () = changed.notified() => {}
            () = draining.cancelled() => return,
        }
        while tokio::time::timeout(STILL, changed.notified()).await.is_ok() {}
        let reloader = Arc::clone(&reloader);
        // Reading and validating policies takes milliseconds of work: not on the runtime's threads.
        let done = tokio::task::spawn_blocking(move || drop(reloader.reload())).await;
        if let Err(error) = done {
            tracing::error!(%error, "a reload broke off; the old files stay in force");
        }
    }
}

/// What to watch for a configuration.
#[must_use]
pub fn watched(config: &Config) -> Vec<(PathBuf, RecursiveMode)> {
    folders(config)
}
