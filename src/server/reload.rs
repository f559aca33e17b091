//! Reload: all files are read again and swapped in whole, or the old ones stay.
//!
//! A changed file and SIGHUP do the same. Policies, services, certificates and client authorities
//! change without losing a connection; what is only read at start (addresses, limits, lifetimes, database,
//! providers) needs a restart, and a reload that finds it changed says so (`at_start.rs`).

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use notify::{RecursiveMode, Watcher};
use tokio::sync::Notify;

use crate::audit::{Event, EventType, Outcome};
use crate::config::{Config, Environment};
use crate::control::Desk;
use crate::control::signing_key::KeyRing;
use crate::gateway::handshake::TrustAnchors;
use crate::gateway::snapshot::Snapshot;
use crate::gateway::worker::Shared;
use crate::model::EventId;
use crate::policy::{PolicySet, SecretSource};

use super::at_start::AtStart;
use super::gauges::{Gauges, Taken};
use super::keys::keys_of;
use super::material::{self, MaterialError};

/// How long files must be still before they are read: editors and copies write in steps.
const STILL: Duration = Duration::from_millis(250);
/// How often single files are looked at.
const LOOK_EVERY: Duration = Duration::from_millis(250);

/// What a reload came to: the keys that are other than at the start and count from the next one.
pub type Reloaded = Result<Vec<String>, MaterialError>;

type Told = Box<dyn Fn(&Reloaded) + Send + Sync>;

/// Reads files again and swaps what they say.
pub struct Reloader {
    path: PathBuf,
    environment: Environment,
    shared: Arc<Shared>,
    desk: Arc<Desk>,
    gauges: Gauges,
    /// What the start went by, and all goes by until the next.
    started: AtStart,
    /// Holds reloads apart, and remembers the authorities in force.
    anchors: Mutex<TrustAnchors>,
    told: Mutex<Vec<Told>>,
    /// The single files that the configuration names now.
    files: Mutex<Arc<Vec<PathBuf>>>,
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
        started: AtStart,
    ) -> Self {
        let (anchors, told, files) = (Mutex::new(anchors), Mutex::default(), Mutex::default());
        Self { path, environment, shared, desk, gauges, started, anchors, told, files }
    }

    /// Tells each outcome to `told`.
    pub fn on_reload(&self, told: Told) {
        self.told.lock().unwrap_or_else(PoisonError::into_inner).push(told);
    }

    /// Reads everything again. What is in force then is all but the keys that are given back.
    ///
    /// # Errors
    /// All problems that were found; then nothing has changed.
    pub fn reload(&self) -> Reloaded {
        let outcome = self.swap();
        let now = self.shared.clock.now();
        self.gauges.reloaded(if outcome.is_ok() { Taken::Yes } else { Taken::No }, now.seconds());
        let id = EventId::fresh(now, &*self.shared.entropy);
        let event = match &outcome {
            Ok(waiting) => {
                let mut event = Event::new(id, now, EventType::PolicyLoaded, Outcome::Success);
                event.policy_version = Some(Arc::clone(self.shared.snapshot.load().policies.version()));
                if waiting.is_empty() {
                    tracing::info!("files were read again and are in force");
                    event
                } else {
                    tracing::info!(
                        "files were read again: policies, services, certificates, authorities and `[breakglass]` are \
                         in force"
                    );
                    tracing::warn!(keys = %waiting.join(", "), "changed; counts from the next start");
                    event.with("at_next_start", waiting.clone())
                }
            }
            Err(error) => {
                let problems = error.lines();
                tracing::error!(problems = %problems.join("; "), "files were read again and refused; the old ones stay in force");
                let first: Vec<String> = problems.into_iter().take(10).collect();
                Event::new(id, now, EventType::PolicyRefused, Outcome::Failed).with("problems", first)
            }
        };
        self.shared.recorder.offer(event);
        for told in &*self.told.lock().unwrap_or_else(PoisonError::into_inner) {
            told(&outcome);
        }
        outcome
    }

    fn swap(&self) -> Reloaded {
        let mut anchors = self.anchors.lock().unwrap_or_else(PoisonError::into_inner);
        let (config, material) = material::read_again(&self.path, &self.environment)?;
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
        .map_err(|error| MaterialError::of(&config.path, error))?;
        self.shared.snapshot.store(Arc::new(snapshot));
        if !same {
            self.shared.authorities_changed.notify_waiters();
        }
        self.desk.directory.emergency.put_in_force(material.emergency.clone());
        let rules = material.emergency.as_ref().map(|it| &it.rules);
        self.desk.directory.openings_judge(rules, self.shared.clock.now());
        self.desk.policies.store(Arc::clone(&material.policies));
        self.desk.providers.workloads().forget_files();
        self.desk.authority.store(Arc::clone(&material.authority));
        *anchors = material.anchors;
        self.look_at(watched(&config, &material.policies).files);
        Ok(self.started.changed(&AtStart::of(&config)))
    }

    fn look_at(&self, files: Vec<PathBuf>) {
        *self.files.lock().unwrap_or_else(PoisonError::into_inner) = Arc::new(files);
    }

    fn files(&self) -> Arc<Vec<PathBuf>> {
        Arc::clone(&self.files.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Puts other keys in force. Their version is counted here alone, so that none comes twice, whoever
    /// brings them: what was remembered under earlier keys is worth nothing under these.
    pub fn replace_keys(&self, ring: &KeyRing) {
        let _held = self.anchors.lock().unwrap_or_else(PoisonError::into_inner);
        let before = self.shared.snapshot.load_full();
        let (desk, tokens) = keys_of(ring, before.keys.version + 1);
        self.shared.snapshot.store(Arc::new(before.with_keys(before.generation + 1, tokens)));
        self.desk.keys.store(desk);
    }
}

/// What a reload reads.
pub struct Watched {
    /// The folder of policies, with all below it: told of by the system.
    policies: PathBuf,
    /// Single files. They are looked at, since the folders that they lie in are often those of the
    /// database and the logs, where something changes with each batch of the record.
    files: Vec<PathBuf>,
}

/// What to watch for a configuration and the policies that it names.
#[must_use]
pub fn watched(config: &Config, policies: &PolicySet) -> Watched {
    let (tls, ca) = (&config.server.tls, &config.trust.client_ca);
    let mut files = vec![config.path.clone()];
    files.extend([&tls.certificate, &tls.key, &ca.certificate, &ca.key].map(Clone::clone));
    files.extend(config.trust.device_ca.iter().cloned());
    files.extend(config.trust.spiffe.iter().map(|bundle| bundle.bundle.clone()));
    files.extend(config.breakglass.iter().map(|path| path.custodians.clone()));
    for service in policies.services() {
        let tls = &service.upstream_tls;
        files.extend([&tls.ca, &tls.certificate, &tls.key].into_iter().flatten().cloned());
        files.extend(service.inject.iter().filter_map(|field| match &field.secret {
            SecretSource::File(path) => Some(path.clone()),
            SecretSource::Env(_) => None,
        }));
    }
    Watched { policies: config.policies.dir.clone(), files }
}

/// How a file looks from outside: where it really lies, its length and its last change. None, if
/// there is none.
type Look = Option<(PathBuf, u64, Option<SystemTime>)>;

fn look(files: &[PathBuf]) -> Vec<Look> {
    let one = |file: &PathBuf| {
        // A link that points elsewhere now is a change too.
        let real = std::fs::canonicalize(file).ok()?;
        let about = std::fs::metadata(&real).ok()?;
        Some((real, about.len(), about.modified().ok()))
    };
    files.iter().map(one).collect()
}

/// Whether a change in this file of the policies can matter: editors leave others beside them.
fn matters(path: &Path) -> bool {
    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    ![".tmp", ".swp", "~"].iter().any(|ending| name.ends_with(ending))
}

/// Watches the files and reloads when they have changed and lie still, until the gateway drains.
pub async fn watch(reloader: Arc<Reloader>, watched: Watched) {
    let changed = Arc::new(Notify::new());
    let ring = Arc::clone(&changed);
    let watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
        if let Ok(event) = event
            && !event.kind.is_access()
            && event.paths.iter().any(|path| matters(path))
        {
            ring.notify_one();
        }
    });
    let folder = watched.policies.display();
    // Kept: it watches as long as it lives.
    let _watcher = match watcher {
        Ok(mut watcher) => {
            if let Err(error) = watcher.watch(&watched.policies, RecursiveMode::Recursive) {
                tracing::warn!(%error, %folder, "the policies can't be watched; SIGHUP reloads");
            }
            Some(watcher)
        }
        Err(error) => {
            tracing::warn!(%error, %folder, "the policies can't be watched; SIGHUP reloads");
            None
        }
    };
    let draining = reloader.shared.draining.clone();
    reloader.look_at(watched.files);
    tokio::select! {
        () = reload_on(&reloader, &changed) => {}
        () = look_for_changes(&reloader, &changed) => {}
        () = draining.cancelled() => {}
    }
}

/// Reloads when it rings and is quiet again.
async fn reload_on(reloader: &Arc<Reloader>, changed: &Notify) {
    loop {
        changed.notified().await;
        while tokio::time::timeout(STILL, changed.notified()).await.is_ok() {}
        let reloader = Arc::clone(reloader);
        // Reading and validating policies takes milliseconds of work: not on the runtime's threads.
        let done = tokio::task::spawn_blocking(move || drop(reloader.reload())).await;
        if let Err(error) = done {
            tracing::error!(%error, "a reload broke off; the old files stay in force");
        }
    }
}

/// Rings when one of the files looks otherwise than before. Which they are may change with a reload.
async fn look_for_changes(reloader: &Reloader, changed: &Notify) {
    let mut before = None;
    loop {
        let files = reloader.files();
        let these = Arc::clone(&files);
        // A file on a disk that hangs keeps nothing else waiting.
        let Ok(now) = tokio::task::spawn_blocking(move || look(&these)).await else { return };
        if before.as_ref().is_some_and(|(of, before)| *of == files && *before != now) {
            changed.notify_one();
        }
        before = Some((files, now));
        tokio::time::sleep(LOOK_EVERY).await;
    }
}
