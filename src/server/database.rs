//! The database at start: reached, or not there yet.
//!
//! An installation that ran before can start without it, in emergency mode: signing keys and the
//! pseudonym secret come from sealed files beside the configuration, decisions go to the spool, and
//! nobody passes but by break-glass. [`ComeBack`] then asks for the database until it is there,
//! reads what a start reads, and ordinary callers pass again; no restart is needed.
//!
//! INVARIANT: a database that is there and is not this installation's (another key-encryption key,
//! other tables) is an error and no emergency.

use std::fs::Permissions;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::time::error::Elapsed;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::audit::Sealing;
use crate::config::Config;
use crate::control::record::{self, OpenRecordError};
use crate::control::signing_key::{self, KeyError, KeySettings, Loaded};
use crate::control::{ClockGuard, Desk};
use crate::credential::seal::Sealer;
use crate::gateway::worker::Shared;
use crate::identity::breakglass::settings::{OpeningRules, RECORDED_FILE, recorded_text};
use crate::identity::directory::Directory;
use crate::identity::provider::Providers;
use crate::model::{Entropy, NodeId, Timestamp};
use crate::store::{Recorder, RecorderParts, RecorderSettings, Spool, SpoolError, SpoolSettings, Store, StoreError};

use super::keys::KeyBox;
use super::reload::Reloader;
use super::run::{Start, StartError, outside};
use super::tasks::{self, Feed};

/// How long the database may take for a sign of life at start.
const LIFE_TIMEOUT: Duration = Duration::from_secs(5);
/// How long it may take to see to its tables.
const MIGRATE_TIMEOUT: Duration = Duration::from_secs(15);
/// The same where they are an earlier version's: an index over years of events takes minutes.
const UPGRADE_TIMEOUT: Duration = Duration::from_secs(900);
/// How often a database that was away at start is asked for.
const RETRY_EVERY: Duration = Duration::from_secs(1);

/// What the database gave at start, or the files in its place.
pub struct Opened {
    pub store: Store,
    pub sealer: Arc<Sealer>,
    pub node: NodeId,
    pub keys: KeyBox,
    pub recorder: Recorder,
    /// Why the database is away, in emergency mode.
    pub away: Option<String>,
}

/// Why the database was not reached.
enum ReachError {
    /// It is away: later it may be there.
    Away(StartError),
    /// It is not what it must be.
    Wrong(StartError),
}

/// The folder of what the gateway itself keeps on disk: beside the configuration.
fn state_file(config: &Config, name: &str) -> PathBuf {
    config.path.parent().unwrap_or_else(|| Path::new(".")).join(name)
}

/// Openings of the emergency path that were closed, for the next start.
pub const CLOSED_FILE: &str = "breakglass.closed";

/// Has closings kept on disk, and obeys those that are there.
///
/// # Errors
/// When the file can't be read: an opening that was closed must not open again.
pub fn keep_closings(config: &Config, directory: &Directory) -> Result<(), StartError> {
    let path = state_file(config, CLOSED_FILE);
    let doing = format!("reading closed openings of the emergency path from `{}`", path.display());
    directory.emergency.keep_in(path).map_err(outside(doing))
}

/// Keeps who was put on record as custodians, for `check` and a start without the database.
pub fn keep_custodians(config: &Path, rules: Option<&OpeningRules>) -> std::io::Result<()> {
    let path = config.parent().unwrap_or_else(|| Path::new(".")).join(RECORDED_FILE);
    match rules {
        Some(rules) => std::fs::write(path, recorded_text(rules)),
        None => match std::fs::remove_file(path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        },
    }
}

/// This node's id: made at the first start and kept in a file.
fn node_id(config: &Config, now: Timestamp, entropy: &dyn Entropy) -> Result<NodeId, StartError> {
    let path = state_file(config, "node.id");
    match std::fs::read_to_string(&path) {
        Ok(text) => {
            NodeId::parse(text.trim()).map_err(outside(format!("reading the node's id from `{}`", path.display())))
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            let id = NodeId::fresh(now, entropy);
            std::fs::write(&path, format!("{id}\n"))
                .map_err(outside(format!("writing the node's id to `{}`", path.display())))?;
            Ok(id)
        }
        Err(error) => Err(outside(format!("reading the node's id from `{}`", path.display()))(error)),
    }
}

fn key_settings(config: &Config) -> KeySettings {
    KeySettings {
        rotate_every: config.tokens.key_rotation,
        publish_lead: config.tokens.key_announce,
        file: Some(state_file(config, "signing-keys.sealed")),
        ..KeySettings::default()
    }
}

/// Opens the database and all that a start reads of it first; or, with the database away, what the
/// emergency path needs.
///
/// # Errors
/// When the database is wrong; when it is away and this installation never ran, or has no spool.
pub async fn open(
    start: &Start,
    recording: &TaskTracker,
    end: &CancellationToken,
    runtime: &tokio::runtime::Handle,
) -> Result<Opened, StartError> {
    let config = &start.config;
    let now = start.clock.now();
    let place = config.storage.shown();
    let store = Store::open(config.storage.url.expose()).map_err(outside(format!("opening the database `{place}`")))?;
    let sealer =
        Sealer::new(config.keys.key_encryption_key.expose()).map_err(outside("using the key-encryption key"))?;
    let node = node_id(config, now, &*start.entropy)?;
    let settings = key_settings(config);
    let reached = match reach(&store, &sealer, node, config, &settings, now, &start.entropy).await {
        Ok(loaded) => Ok(loaded),
        Err(ReachError::Away(error)) => Err(error),
        Err(ReachError::Wrong(error)) => return Err(error),
    };
    let spool = open_spool(config, &start.entropy).await?;
    let (loaded, sealing, away) = match reached {
        Ok(loaded) => (loaded, store.sealing().map_err(outside("opening the record"))?, None),
        Err(error) => {
            let why = error.to_string();
            let Some((loaded, sealing)) = from_files(config, &sealer, &settings, now, &start.entropy, &why) else {
                return Err(error);
            };
            if spool.is_none() {
                tracing::error!("there is no start without the database, since there is no spool for its decisions");
                return Err(error);
            }
            tracing::error!(why, "the database is away: emergency mode, only break-glass callers are served");
            (loaded, sealing, Some(why))
        }
    };
    for alert in &loaded.alerts {
        tracing::warn!(%alert, "a signing key needs attention");
    }
    let parts = RecorderParts {
        store: store.clone(),
        spool,
        sealing,
        settings: RecorderSettings::default(),
        clock: Arc::clone(&start.clock),
    };
    let (recorder, _) = Recorder::start_with(parts, end.clone(), recording, runtime);
    let keys = KeyBox::new(loaded.ring, settings);
    Ok(Opened { store, sealer: Arc::new(sealer), node, keys, recorder, away })
}

/// Migrations, the record's log, the signing keys. What is sealed is kept on disk too, for a start
/// without the database.
async fn reach(
    store: &Store,
    sealer: &Sealer,
    node: NodeId,
    config: &Config,
    settings: &KeySettings,
    now: Timestamp,
    entropy: &Arc<dyn Entropy>,
) -> Result<Loaded, ReachError> {
    let place = config.storage.shown();
    let waiting = || outside(format!("waiting for the database `{place}`"));
    let preparing = || outside(format!("preparing the database `{place}`"));
    if let Some(file) = config.storage.sqlite_file() {
        let made = std::fs::OpenOptions::new().append(true).create(true).mode(0o600).open(&file);
        made.map_err(outside(format!("opening the database file `{}`", file.display()))).map_err(ReachError::Away)?;
        for_owner_alone(&file);
    }
    let judged = |error: StoreError| {
        let wrong = error.is_wrong();
        let error = preparing()(error);
        if wrong { ReachError::Wrong(error) } else { ReachError::Away(error) }
    };
    let late = |late: Elapsed| ReachError::Away(waiting()(late));
    tokio::time::timeout(LIFE_TIMEOUT, store.ping()).await.map_err(late)?.map_err(judged)?;
    // ORDER: before anybody is told that the tables are brought up to date: these may be nobody's to touch.
    let fault = tokio::time::timeout(LIFE_TIMEOUT, store.tables_fault()).await.map_err(late)?.map_err(judged)?;
    if let Some(fault) = fault {
        return Err(judged(StoreError::Tables(fault)));
    }
    let earlier = tokio::time::timeout(LIFE_TIMEOUT, store.is_of_earlier_version()).await;
    let limit = if earlier.map_err(late)?.map_err(judged)? {
        // Who comes back to it each second says so once.
        static TOLD: AtomicBool = AtomicBool::new(false);
        if !TOLD.swap(true, Ordering::Relaxed) {
            tracing::warn!(database = place, "the tables are brought up to date; with many events this takes minutes");
        }
        UPGRADE_TIMEOUT
    } else {
        MIGRATE_TIMEOUT
    };
    tokio::time::timeout(limit, store.migrate()).await.map_err(late)?.map_err(judged)?;
    // ORDER: the log first, since making keys is an event.
    if let Err(error) = record::open(store, sealer, node, now, Arc::clone(entropy)).await {
        let away = matches!(&error, OpenRecordError::Store(cause @ StoreError::Database(_)) if !cause.is_wrong());
        let error = outside("opening the record")(error);
        return Err(if away { ReachError::Away(error) } else { ReachError::Wrong(error) });
    }
    if let Err(error) = record::keep_file(store, &pseudonym_file(config)).await {
        tracing::warn!(%error, "the pseudonym secret could not be kept on disk: no start without the database");
    }
    signing_key::load_or_create(store, sealer, now, &**entropy, settings).await.map_err(|error| {
        let away = matches!(&error, KeyError::Store(cause) if !cause.is_wrong());
        let error = outside("loading the signing keys")(error);
        if away { ReachError::Away(error) } else { ReachError::Wrong(error) }
    })
}

/// Takes from others what an older door, or a copy, left them: the record has people in it, and sealed keys.
fn for_owner_alone(file: &Path) {
    // What SQLite keeps beside it has the same in it.
    for ending in ["", "-wal", "-shm"] {
        let mut name = file.as_os_str().to_owned();
        name.push(ending);
        let path = PathBuf::from(name);
        let Ok(about) = std::fs::metadata(&path) else { continue };
        if about.permissions().mode() & 0o077 == 0 {
            continue;
        }
        if let Err(error) = std::fs::set_permissions(&path, Permissions::from_mode(0o600)) {
            tracing::warn!(%error, file = %path.display(), "others than its owner may read the database");
        }
    }
}

fn pseudonym_file(config: &Config) -> PathBuf {
    state_file(config, "pseudonym.sealed")
}

/// Keys and sealing from the sealed files; `None` where one of them is not there or does not open.
fn from_files(
    config: &Config,
    sealer: &Sealer,
    settings: &KeySettings,
    now: Timestamp,
    entropy: &Arc<dyn Entropy>,
    why: &str,
) -> Option<(Loaded, Arc<Sealing>)> {
    let sealing = record::open_from_file(sealer, &pseudonym_file(config), Arc::clone(entropy))
        .inspect_err(|error| tracing::error!(%error, "there is no start without the database"));
    let keys = signing_key::load_from_file(sealer, now, settings, why)
        .inspect_err(|error| tracing::error!(%error, "there is no start without the database"));
    Some((keys.ok()?, sealing.ok()?))
}

/// The spool that the configuration asks for. One that it does not name may not be possible.
async fn open_spool(config: &Config, entropy: &Arc<dyn Entropy>) -> Result<Option<Spool>, StartError> {
    let crate::config::Spool::File { path, bytes, named } = &config.audit.spool else {
        return Ok(None);
    };
    let settings = SpoolSettings { path: path.clone(), bytes: *bytes };
    match Spool::open(settings, Arc::clone(entropy)).await {
        Ok(spool) => Ok(Some(spool)),
        Err(SpoolError::Volatile { .. }) if !named => Ok(None),
        Err(error) => Err(outside(format!("opening the spool `{}`", path.display()))(error)),
    }
}

/// What is read of the database before ordinary callers may pass, at start and when it is back.
///
/// # Errors
/// When the database is away, or does not fit the configuration.
pub async fn take_up(
    store: &Store,
    providers: &Providers,
    directory: &Directory,
    clock: &ClockGuard,
    clock_right_since: Option<Timestamp>,
    now: Timestamp,
) -> Result<Feed, StartError> {
    let since = clock_right_since;
    clock.begin(store, directory, since, now).await.map_err(outside("holding the clock against the record"))?;
    clock.compare(store).await.map_err(outside("holding the clock against the database's"))?;
    providers.hold_issuers(store, now).await.map_err(outside("checking the providers"))?;
    Feed::begin(store, directory, now).await.map_err(outside("reading revocations and locks"))
}

/// Waits for a database that was away at start.
pub struct ComeBack {
    pub config: Config,
    pub node: NodeId,
    pub keys: KeyBox,
    pub shared: Arc<Shared>,
    pub desk: Arc<Desk>,
}

impl ComeBack {
    /// Ends emergency mode once the database is there, or with the gateway.
    pub async fn run(mut self, reloader: Arc<Reloader>, tasks: TaskTracker) {
        let mut told = String::new();
        while tokio::time::timeout(RETRY_EVERY, self.shared.draining.cancelled()).await.is_err() {
            match self.attempt().await {
                Ok((loaded, feed)) => {
                    self.keys.replace(loaded.ring);
                    reloader.replace_keys(self.keys.ring());
                    // ORDER: revocations and locks are known before anyone passes.
                    self.shared.emergency.store(false, Ordering::Release);
                    tracing::warn!("the database is back: ordinary callers are served again");
                    return tasks::spawn_all(&tasks, feed, self.keys, &self.shared, &self.desk, &reloader);
                }
                Err(error) => {
                    let error = error.to_string();
                    if error != told {
                        tracing::error!(error, "emergency mode goes on");
                        told = error;
                    }
                }
            }
        }
    }

    async fn attempt(&self) -> Result<(Loaded, Feed), StartError> {
        let (desk, now) = (&self.desk, self.shared.clock.now());
        let settings = self.keys.settings();
        let reached = reach(&desk.store, &desk.sealer, self.node, &self.config, settings, now, &desk.entropy).await;
        let loaded = reached.map_err(|(ReachError::Away(error) | ReachError::Wrong(error))| error)?;
        let (providers, directory) = (&desk.providers, &self.shared.directory);
        let since = self.config.server.clock_right_since;
        let feed = take_up(&desk.store, providers, directory, &desk.clock_guard, since, now).await?;
        Ok((loaded, feed))
    }
}
