//! The record's tree, beside everything else: it grows on the control runtime, and its checkpoints go
//! to the witnesses.
//!
//! INVARIANT: nothing waits for a tree or a witness. What does not agree with the last checkpoint is
//! never built upon: the door goes on, the tree stands still, and metric, log and `doctor` say so.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{Mutex as AsyncMutex, OnceCell};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::audit::checkpoint::{Checkpoint, LogName, installation_name};
use crate::audit::note::Note;
use crate::config::Witness;
use crate::control::Desk;
use crate::control::audit::root::Root;
use crate::control::audit::tree::{LogTree, TreeError};
use crate::control::audit::tree_check::{self, Depth, Fault};
use crate::control::audit::{StoredCheckpoint, retention};
use crate::model::{Clock, Timestamp, Ttl};
use crate::outbound::syslog::{Message, Severity, Syslog};
use crate::outbound::{Client, ClientSettings};

use super::witness_file;

/// How often the tree grows: a checkpoint at least each second while events come.
const GROW_EVERY: Duration = Duration::from_millis(500);
/// How long one growth may take.
const GROW_TIMEOUT: Duration = Duration::from_secs(10);
/// How often witnesses are looked after.
const WITNESS_EVERY: Duration = Duration::from_secs(1);
/// How long one delivery may take.
const DELIVER_TIMEOUT: Duration = Duration::from_secs(10);
/// How long reading a witness's file may take.
const WITNESS_READ_TIMEOUT: Duration = Duration::from_secs(5);
/// Checkpoints that are delivered at a time.
const WITNESS_PAGE: i64 = 64;
/// How often old events and old checkpoints are pruned.
const PRUNE_EVERY: Duration = Duration::from_secs(600);
/// How long checkpoints are kept, the last ones excepted.
const CHECKPOINTS_KEPT: Ttl = Ttl::hours(24 * 7);

/// How the tree and its witnesses are doing, for metrics.
#[derive(Debug, Default)]
pub struct TreeState {
    /// Leaves that are under a checkpoint.
    pub size: AtomicU64,
    /// 1 while the tree agrees with its last checkpoint.
    pub consistent: AtomicI64,
    /// What each witness lacks, by its place in the configuration.
    lag: Mutex<BTreeMap<usize, WitnessLag>>,
}

/// What a witness lacks.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct WitnessLag {
    /// Events under checkpoints.
    pub events: i64,
    /// The age of the oldest of those checkpoints, in seconds.
    pub seconds: i64,
}

impl TreeState {
    /// What the slowest witness lacks.
    #[must_use]
    pub fn lag(&self) -> WitnessLag {
        let lag = self.lag.lock().unwrap_or_else(PoisonError::into_inner);
        let most = |of: fn(&WitnessLag) -> i64| lag.values().map(of).max().unwrap_or(0);
        WitnessLag { events: most(|lag| lag.events), seconds: most(|lag| lag.seconds) }
    }

    fn note_lag(&self, place: usize, lag: WitnessLag) {
        self.lag.lock().unwrap_or_else(PoisonError::into_inner).insert(place, lag);
    }
}

/// What is there once the database is.
struct Kept {
    root: Root,
    standing: AsyncMutex<Standing>,
}

/// How this node's tree stands.
enum Standing {
    /// It agrees with its last checkpoint, and grows.
    Grows(Box<LogTree>),
    /// The database has not what it was built from any more. It is opened anew, held against the checkpoint
    /// that it stood on.
    Doubted(String),
    /// What is kept does not agree: nothing is built upon it by this process.
    Still,
}

/// A witness, and what a webhook is asked through: made once, since making one reads all public authorities.
struct Taker {
    witness: Witness,
    client: OnceCell<Client>,
}

/// The tree of this node, and the root key. Before the database is there, there is neither.
pub struct Keeper {
    kept: OnceCell<Kept>,
    witnesses: Vec<Taker>,
    retention: Ttl,
    /// For metrics.
    pub state: Arc<TreeState>,
}

impl Keeper {
    /// A keeper that has opened nothing yet.
    #[must_use]
    pub fn new(witnesses: Vec<Witness>, retention: Ttl) -> Self {
        let taker = |witness| Taker { witness, client: OnceCell::new() };
        let witnesses = witnesses.into_iter().map(taker).collect();
        Self { kept: OnceCell::new(), witnesses, retention, state: Arc::default() }
    }

    /// Opens root key and tree, once. A tree that does not agree stands still.
    ///
    /// # Errors
    /// When the database is away or keys don't open.
    pub async fn open(&self, desk: &Desk, now: Timestamp) -> Result<(), TreeOpenError> {
        self.kept.get_or_try_init(|| self.opened(desk, now)).await.map(drop)
    }

    async fn opened(&self, desk: &Desk, now: Timestamp) -> Result<Kept, TreeOpenError> {
        let root = Root::ensure(&desk.store, &desk.sealer, now, &*desk.entropy).await.map_err(TreeOpenError::Root)?;
        let standing = AsyncMutex::new(self.opened_tree(desk, &root, None, now).await?);
        Ok(Kept { root, standing })
    }

    /// Opens the tree, if what is kept agrees with the checkpoints that are kept, those that a witness's file
    /// has, and that which this process stood on.
    async fn opened_tree(
        &self,
        desk: &Desk,
        root: &Root,
        stood_on: Option<&str>,
        now: Timestamp,
    ) -> Result<Standing, TreeOpenError> {
        // ORDER: before anything is signed again.
        match self.compare(desk, root, stood_on).await {
            Ok(()) => {}
            Err(Fault::Wrong(what)) => {
                tracing::error!(what, "the record was altered: no checkpoint is signed over it; see `doorward doctor`");
                return Ok(Standing::Still);
            }
            Err(Fault::Store(error)) => return Err(TreeOpenError::Tree(error.into())),
        }
        match LogTree::open(&desk.store, &desk.sealer, root, now, &*desk.entropy).await {
            Ok(tree) => {
                self.state.consistent.store(1, Ordering::Relaxed);
                Ok(Standing::Grows(Box::new(tree)))
            }
            Err(error @ TreeError::Inconsistent { .. }) => {
                tracing::error!(%error, "the record was altered: no checkpoint is signed over it");
                Ok(Standing::Still)
            }
            Err(error) => Err(TreeOpenError::Tree(error)),
        }
    }

    /// Holds this node's log and the installation log against the checkpoints that are kept, against those
    /// that a witness's file has, and against that which this process stood on.
    async fn compare(&self, desk: &Desk, root: &Root, stood_on: Option<&str>) -> Result<(), Fault> {
        let witnesses: Vec<&Witness> = self.witnesses.iter().map(|taker| &taker.witness).collect();
        let mut notes = witnessed(&witnesses).await;
        notes.extend(stood_on.map(str::to_owned));
        let installation = installation_name(root.key().public());
        // Notes of another installation say nothing of this one; `doctor` tells of them.
        let of_here = |note: &String| {
            let checkpoint = Note::parse(note).and_then(|note| Checkpoint::parse(&note.text));
            checkpoint.is_ok_and(|checkpoint| checkpoint.log(&installation).is_some())
        };
        let notes: Vec<String> = notes.into_iter().filter(of_here).collect();
        let own = LogName::Node(*desk.store.own_log()?.node());
        for log in [LogName::Installation, own] {
            let seen = tree_check::one(&desk.store, root.key(), log, &notes, Depth::Checkpoints).await?;
            tracing::debug!(%log, size = seen.size, checkpoints = seen.checkpoints, witnessed = seen.witnessed, "agrees");
        }
        Ok(())
    }

    /// The root key, as auditors hold it; none before the database is there.
    #[must_use]
    pub fn key(&self) -> Option<String> {
        self.kept.get().map(|kept| kept.root.key().to_string())
    }

    /// Starts everything that goes on beside requests, until `stopping`.
    pub fn spawn(self: &Arc<Self>, tasks: &TaskTracker, desk: &Arc<Desk>, stopping: &CancellationToken) {
        tasks.spawn(Arc::clone(self).run(Arc::clone(desk), stopping.clone()));
        tasks.spawn(Arc::clone(self).deliver(Arc::clone(desk), stopping.clone()));
        tasks.spawn(Arc::clone(self).prune(Arc::clone(desk), stopping.clone()));
    }

    /// Lets the tree grow until `stopping`.
    pub async fn run(self: Arc<Self>, desk: Arc<Desk>, stopping: CancellationToken) {
        while tokio::time::timeout(GROW_EVERY, stopping.cancelled()).await.is_err() {
            self.grow(&desk).await;
        }
    }

    async fn grow(&self, desk: &Desk) {
        let now = desk.clock.now();
        if !self.kept.initialized() && self.open(desk, now).await.is_err() {
            return;
        }
        let Some(Kept { root, standing }) = self.kept.get() else { return };
        let mut standing = standing.lock().await;
        let anew = matches!(*standing, Standing::Doubted(_));
        if let Standing::Doubted(stood_on) = &*standing {
            let opened = self.opened_tree(desk, root, Some(stood_on), now);
            let opened = tokio::time::timeout(GROW_TIMEOUT, opened).await;
            match opened {
                Ok(Ok(opened)) => *standing = opened,
                Ok(Err(error)) => return tracing::warn!(%error, "the record's tree could not be opened anew"),
                Err(_) => return tracing::warn!("the record's tree was not opened anew in time"),
            }
        }
        let Standing::Grows(tree) = &mut *standing else { return };
        let work = async {
            let grew = tree.grow(&desk.store, now).await?;
            tree.tend(&desk.store, &desk.sealer, root, now, &*desk.entropy).await?;
            Ok::<_, TreeError>(grew)
        };
        let worked = tokio::time::timeout(GROW_TIMEOUT, work).await;
        match worked {
            Ok(Ok(grew)) => self.state.size.store(grew.size, Ordering::Relaxed),
            Ok(Err(error @ TreeError::Inconsistent { .. })) => {
                self.state.consistent.store(0, Ordering::Relaxed);
                tracing::error!(%error, "the record is not the one that the tree was built from: nothing is signed over it");
                // What a tree that was just opened can't grow from is not looked at again and again.
                *standing = if anew { Standing::Still } else { Standing::Doubted(tree.note()) };
            }
            Ok(Err(error)) => tracing::warn!(%error, "the record's tree could not grow"),
            Err(_) => tracing::warn!("the record's tree did not grow in time"),
        }
    }

    /// After the last event was written: a last checkpoint, and the installation log's `log.closed`.
    pub async fn close(&self, desk: &Desk) {
        self.grow(desk).await;
        let Some(Kept { root, standing }) = self.kept.get() else { return };
        let standing = standing.lock().await;
        let Standing::Grows(tree) = &*standing else { return };
        let done = tree.close(&desk.store, root, desk.clock.now());
        if !matches!(tokio::time::timeout(GROW_TIMEOUT, done).await, Ok(Ok(()))) {
            tracing::warn!("the end of this node's log is not in the installation log");
        }
        for (place, taker) in self.witnesses.iter().enumerate() {
            if let Witness::File(_) = taker.witness {
                self.serve_or_tell(desk, place, taker).await;
            }
        }
    }

    /// Delivers checkpoints until `stopping`, each witness by itself, so that one that hangs holds up
    /// nobody.
    pub async fn deliver(self: Arc<Self>, desk: Arc<Desk>, stopping: CancellationToken) {
        let each = self.witnesses.iter().enumerate().map(|(place, taker)| {
            let (keeper, desk, stopping) = (Arc::clone(&self), Arc::clone(&desk), stopping.clone());
            async move {
                while tokio::time::timeout(WITNESS_EVERY, stopping.cancelled()).await.is_err() {
                    keeper.serve_or_tell(&desk, place, taker).await;
                }
            }
        });
        futures_util::future::join_all(each).await;
    }

    /// Lets the tree grow, and brings each witness up to date, once.
    pub async fn attend(&self, desk: &Desk) {
        self.grow(desk).await;
        for (place, taker) in self.witnesses.iter().enumerate() {
            self.serve_or_tell(desk, place, taker).await;
        }
    }

    /// Brings one witness up to date, and says where that did not succeed: at the end too, where what it lacks
    /// comes with the next start only.
    async fn serve_or_tell(&self, desk: &Desk, place: usize, taker: &Taker) {
        if let Err(error) = self.serve(desk, place, taker).await {
            let witness = name_of(&taker.witness);
            tracing::warn!(witness, error, "a checkpoint did not reach its witness yet");
        }
    }

    /// Brings one witness up to date, as far as it takes it.
    async fn serve(&self, desk: &Desk, place: usize, taker: &Taker) -> Result<(), String> {
        if !self.kept.initialized() {
            return Ok(());
        }
        let own = desk.store.own_log().map_err(|error| error.to_string())?;
        let node = *own.node();
        let name = name_of(&taker.witness);
        let host = host_of(&desk.settings.origin);
        let (mut lag_events, mut lag_seconds) = (0, 0);
        let now = desk.clock.now();
        let mut outcome = Ok(());
        for log in [LogName::Installation, LogName::Node(node)] {
            let reached = desk.store.witness_reached(&node, &name, log).await.map_err(|error| error.to_string())?;
            let due =
                desk.store.checkpoints_after(log, reached, WITNESS_PAGE).await.map_err(|error| error.to_string())?;
            if let (Some(first), Some(last)) = (due.first(), due.last()) {
                lag_seconds = lag_seconds.max(now.since(first.time).as_seconds());
                lag_events += i64::try_from(last.size).unwrap_or(0) - reached;
            }
            let Some(last) = due.last().map(|checkpoint| checkpoint.size) else { continue };
            let delivered = tokio::time::timeout(DELIVER_TIMEOUT, hand_over(taker, host, log, &due, &desk.clock)).await;
            match delivered {
                Ok(Ok(())) => {
                    let noted = desk.store.witness_note(&node, &name, log, last, now).await;
                    noted.map_err(|error| error.to_string())?;
                }
                Ok(Err(error)) => outcome = Err(error),
                Err(_) => outcome = Err("it did not take it in time".to_owned()),
            }
        }
        let left = |lag: i64| if outcome.is_ok() { 0 } else { lag };
        self.state.note_lag(place, WitnessLag { events: left(lag_events), seconds: left(lag_seconds) });
        outcome
    }

    /// Prunes what is older than the retention until `stopping`.
    pub async fn prune(self: Arc<Self>, desk: Arc<Desk>, stopping: CancellationToken) {
        while tokio::time::timeout(PRUNE_EVERY, stopping.cancelled()).await.is_err() {
            if !self.kept.initialized() {
                continue;
            }
            let now = desk.clock.now();
            let pruned = async {
                retention::prune(&desk, self.retention, now).await?;
                let mut tx = desk.store.begin().await?;
                tx.checkpoint_prune(now.minus(CHECKPOINTS_KEPT)).await?;
                tx.commit().await
            };
            if let Err(error) = pruned.await {
                tracing::warn!(%error, "old events could not be pruned");
            }
        }
    }
}

/// The newest checkpoints that witnesses' files have. A file that is not there yet, or can't be read, has none.
pub async fn witnessed(witnesses: &[&Witness]) -> Vec<String> {
    let mut notes = Vec::new();
    for witness in witnesses {
        let Witness::File(path) = witness else { continue };
        let from = path.clone();
        // A disk that hangs does not keep a start waiting.
        let reading = tokio::task::spawn_blocking(move || witness_file::newest(&from));
        let error = match tokio::time::timeout(WITNESS_READ_TIMEOUT, reading).await {
            Ok(Ok(Ok(found))) => {
                notes.extend(found);
                continue;
            }
            Ok(Ok(Err(error))) if error.kind() == std::io::ErrorKind::NotFound => continue,
            Ok(Ok(Err(error))) => error.to_string(),
            Ok(Err(error)) => error.to_string(),
            Err(_) => format!("it was not read within {} s", WITNESS_READ_TIMEOUT.as_secs()),
        };
        tracing::warn!(path = %path.display(), error, "a witness's file can't be read");
    }
    notes
}

/// Why there is no keeper of the tree.
#[derive(Debug)]
pub enum TreeOpenError {
    /// The root key can't be used.
    Root(crate::control::audit::root::RootError),
    /// The tree can't be opened.
    Tree(TreeError),
}

impl std::fmt::Display for TreeOpenError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Root(error) => error.fmt(f),
            Self::Tree(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for TreeOpenError {}

/// The name of the host in an origin.
pub(in crate::server) fn host_of(origin: &str) -> &str {
    let host = origin.split_once("://").map_or(origin, |(_, host)| host);
    host.rsplit_once(':').map_or(host, |(host, _)| host)
}

/// A witness's name in the database.
fn name_of(witness: &Witness) -> String {
    match witness {
        Witness::File(path) => format!("file:{}", path.display()),
        Witness::Webhook { url, .. } => format!("webhook:{url}"),
        Witness::Syslog(settings) => format!("syslog:{}", settings.address()),
    }
}

async fn hand_over(
    taker: &Taker,
    host: &str,
    log: LogName,
    due: &[StoredCheckpoint],
    clock: &Arc<dyn Clock>,
) -> Result<(), String> {
    match &taker.witness {
        Witness::File(path) => {
            let (path, text) =
                (path.clone(), due.iter().map(|checkpoint| checkpoint.note.as_str()).collect::<String>());
            let written = tokio::task::spawn_blocking(move || append(&path, &text)).await;
            written.map_err(|error| error.to_string())?.map_err(|error| error.to_string())
        }
        Witness::Webhook { url, allow_loopback } => {
            let settings = ClientSettings { authorities: Vec::new(), allow_loopback: *allow_loopback };
            let made =
                taker.client.get_or_try_init(|| std::future::ready(Client::new(settings, Arc::clone(clock)))).await;
            let client = made.map_err(|error| error.to_string())?;
            // One that is newer says all that the older ones said.
            let Some(newest) = due.last() else { return Ok(()) };
            let request = http::Request::post(url.as_str())
                .header(http::header::CONTENT_TYPE, "text/plain; charset=utf-8")
                .body(newest.note.clone().into_bytes())
                .map_err(|error| error.to_string())?;
            let answer = client.send(request).await.map_err(|error| error.to_string())?;
            if answer.status().is_success() { Ok(()) } else { Err(format!("it answered {}", answer.status())) }
        }
        Witness::Syslog(settings) => {
            let syslog = Syslog::new(settings, Arc::clone(clock)).map_err(|error| error.to_string())?;
            let mut frames = Vec::new();
            for checkpoint in due {
                push_checkpoint(&mut frames, host, log, checkpoint);
            }
            syslog.deliver(&frames).await.map_err(|error| error.to_string())
        }
    }
}

/// A checkpoint as a syslog message. A note has several lines, and a receiver may write line ends in some
/// way of its own: so it stands in one line of JSON, from which it comes back byte by byte.
fn push_checkpoint(frames: &mut Vec<u8>, host: &str, log: LogName, checkpoint: &StoredCheckpoint) {
    let (log, size) = (log.to_string(), checkpoint.size.to_string());
    let text = serde_json::json!({
        "log": log, "size": checkpoint.size, "time": checkpoint.time.to_string(), "note": checkpoint.note,
    });
    let message = Message {
        severity: Severity::Informational,
        time: checkpoint.time,
        host,
        process: &log,
        kind: "audit.checkpoint",
        data: &[("log", Some(&log)), ("size", Some(&size))],
        text: &text.to_string(),
    };
    message.push_frame(frames);
}

/// Appends notes to a witness file; what a crash left torn at its end is cut off first.
fn append(path: &Path, text: &str) -> std::io::Result<()> {
    use std::io::{Read, Seek, SeekFrom, Write};
    /// More than any note has.
    const TAIL: u64 = 64 * 1024;
    let mut file = std::fs::OpenOptions::new().create(true).truncate(false).read(true).write(true).open(path)?;
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(TAIL)))?;
    let mut tail = Vec::new();
    file.read_to_end(&mut tail)?;
    let whole = whole_end(&tail);
    let torn = u64::try_from(tail.len() - whole).unwrap_or(0);
    if torn > 0 {
        file.set_len(length - torn)?;
    }
    file.seek(SeekFrom::End(0))?;
    file.write_all(text.as_bytes())?;
    file.sync_data()
}

/// Where the last whole note of this end of a file ends.
fn whole_end(tail: &[u8]) -> usize {
    let Some(line_end) = tail.iter().rposition(|byte| *byte == b'\n').map(|at| at + 1) else { return 0 };
    let lines = tail.get(..line_end).unwrap_or_default();
    let mut end = 0;
    let mut at = 0;
    for line in lines.split_inclusive(|byte| *byte == b'\n') {
        at += line.len();
        if line.starts_with("— ".as_bytes()) {
            end = at;
        }
    }
    end
}
