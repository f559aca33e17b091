//! Whether the tree of the database is still the one that its checkpoints, and those of a witness, are of:
//! a look that takes the same time however long the log is. `audit verify` looks at every event.
//!
//! 1. The last checkpoint is signed by a key that the root key certified, and the tiles lead to its root.
//! 2. The newest checkpoints that are kept, and those that a witness has, are of this tree as it was: a
//!    consistency proof leads from each to the last one.
//! 3. The newest leaves, and those under some tiles over the whole length, have the hashes of their tiles,
//!    and these tiles the hashes of those above them.

use std::fmt;

use crate::audit::checkpoint::{Checkpoint, LogName, installation_name, origin};
use crate::audit::installation::LogKey;
use crate::audit::merkle::{Hash, Node, leaf_hash, node_hash};
use crate::audit::note::{Note, NoteKey};
use crate::audit::proof::{consistency_ranges, is_consistent};
use crate::audit::tile::{Edge, TILE_WIDTH, Tile, TileId};
use crate::model::Timestamp;
use crate::store::{LogEntry, Store, StoreError, StoredCheckpoint};

use super::tree::{TreeError, range_hashes};

/// The newest checkpoints of a log that are looked at.
const CHECKPOINTS: i64 = 32;
/// Full tiles of leaves that are looked at, over the whole length.
const TILES: u64 = 16;
const WIDTH: u64 = TILE_WIDTH as u64;

/// What was found of a log that is what its checkpoints say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    /// Which.
    pub log: LogName,
    /// Leaves under the last checkpoint.
    pub size: u64,
    /// When that was made; none where there is none yet.
    pub time: Option<Timestamp>,
    /// Events that are numbered and not under a checkpoint yet.
    pub ahead: u64,
    /// Checkpoints that agree, the last one counted.
    pub checkpoints: usize,
    /// Checkpoints of witnesses that agree.
    pub witnessed: usize,
    /// Leaves that were compared with their tiles.
    pub leaves: u64,
}

/// What is wrong with a log.
#[derive(Debug)]
pub enum Fault {
    /// The database did not do what it was asked.
    Store(StoreError),
    /// The log is not the one that its checkpoints are of.
    Wrong(String),
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Store(error) => write!(f, "it could not be read: {error}"),
            Self::Wrong(what) => f.write_str(what),
        }
    }
}

impl std::error::Error for Fault {}

impl From<StoreError> for Fault {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

impl From<TreeError> for Fault {
    fn from(error: TreeError) -> Self {
        match error {
            TreeError::Store(error) => Self::Store(error),
            TreeError::Inconsistent { what } => Self::Wrong(what.to_owned()),
            TreeError::Sealed(_) | TreeError::Note(_) => Self::Wrong(error.to_string()),
        }
    }
}

fn wrong<T>(what: impl Into<String>) -> Result<T, Fault> {
    Err(Fault::Wrong(what.into()))
}

/// How thoroughly.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Depth {
    /// Checkpoints only: for a start.
    Checkpoints,
    /// Leaves and tiles, too.
    Leaves,
}

/// Looks at every log. `witnessed` are checkpoints that witnesses kept, of whichever log.
///
/// # Errors
/// When the database is away; what is wrong with a log is told beside its name.
pub async fn all(
    store: &Store,
    root: &NoteKey,
    witnessed: &[String],
) -> Result<Vec<(LogName, Result<Seen, Fault>)>, StoreError> {
    let mut found = Vec::new();
    found.push((LogName::Installation, one(store, root, LogName::Installation, witnessed, Depth::Leaves).await));
    for entry in store.log_list().await? {
        let name = LogName::Node(*entry.log.node());
        found.push((name, one(store, root, name, witnessed, Depth::Leaves).await));
    }
    Ok(found)
}

/// Looks at one log.
///
/// # Errors
/// The first thing that is wrong.
pub async fn one(
    store: &Store,
    root: &NoteKey,
    log: LogName,
    witnessed: &[String],
    depth: Depth,
) -> Result<Seen, Fault> {
    let installation = installation_name(root.public());
    let entry = match log {
        LogName::Installation => None,
        LogName::Node(node) => store.log_list().await?.into_iter().find(|entry| *entry.log.node() == node),
    };
    let keys = keys_of(store, root, log, entry.as_ref()).await?;
    let witnessed = witnessed_of(witnessed, &installation, log, &keys)?;
    let numbered = entry.as_ref().map_or(0, |entry| u64::try_from(entry.size).unwrap_or(0));
    let Some(last) = store.checkpoint_last(log).await? else {
        if let Some(seen) = witnessed.iter().map(|checkpoint| checkpoint.size).max().filter(|size| *size > 0) {
            return wrong(format!(
                "a witness has a checkpoint of {seen} events, and there is none here: it was cut off"
            ));
        }
        return Ok(Seen { log, size: 0, time: None, ahead: numbered, checkpoints: 0, witnessed: 0, leaves: 0 });
    };
    let named = origin(&installation, log);
    opened(&last, &named, &keys)?;
    let edge = edge(store, log, &last).await?;
    if edge != last.root {
        return wrong(format!("its tiles lead to another root than its last checkpoint, of {} events", last.size));
    }
    let mut checkpoints = 1;
    for kept in store.checkpoints_before(log, last.size, CHECKPOINTS).await? {
        opened(&kept, &named, &keys)?;
        leads(store, log, (kept.size, kept.root), &last).await?;
        checkpoints += 1;
    }
    for checkpoint in &witnessed {
        if checkpoint.size > last.size {
            let text =
                format!("a witness has seen {} events, and there are {}: it was cut off", checkpoint.size, last.size);
            return wrong(text);
        }
        leads(store, log, (checkpoint.size, checkpoint.root), &last).await.map_err(|fault| match fault {
            Fault::Wrong(what) => Fault::Wrong(format!("against a witness: {what}")),
            Fault::Store(_) => fault,
        })?;
    }
    if entry.is_some() && numbered < last.size {
        return wrong(format!("it has {numbered} events, and its last checkpoint is of {}", last.size));
    }
    let leaves = match (&entry, depth) {
        (Some(entry), Depth::Leaves) => leaves(store, entry, last.size).await?,
        _ => 0,
    };
    Ok(Seen {
        log,
        size: last.size,
        time: Some(last.time),
        ahead: numbered.saturating_sub(last.size),
        checkpoints,
        witnessed: witnessed.len(),
        leaves,
    })
}

/// The keys that may sign a log's checkpoints.
async fn keys_of(store: &Store, root: &NoteKey, log: LogName, entry: Option<&LogEntry>) -> Result<Vec<NoteKey>, Fault> {
    let named = origin(root.name(), log);
    let (LogName::Node(node), Some(entry)) = (log, entry) else {
        return Ok(NoteKey::new(&named, *root.public()).into_iter().collect());
    };
    let mut keys = Vec::new();
    for kept in store.log_key_list(entry.log).await? {
        let key = kept.public_key.as_slice().try_into().ok().and_then(|public| NoteKey::new(&named, public));
        let Some(key) = key else { return wrong("a key of it can't be read") };
        let certified = LogKey { key: key.clone(), certificate: kept.certificate.clone() };
        if !certified.is_certified(root, node) {
            return wrong("a key of it is not certified by the root key");
        }
        keys.push(key);
    }
    Ok(keys)
}

/// Of a witness's notes those of this log, each with a signature that holds.
fn witnessed_of(
    notes: &[String],
    installation: &str,
    log: LogName,
    keys: &[NoteKey],
) -> Result<Vec<Checkpoint>, Fault> {
    let mut found = Vec::new();
    for text in notes {
        let unread = |error: &dyn fmt::Display| Fault::Wrong(format!("a witness's checkpoint can't be read: {error}"));
        let note = Note::parse(text).map_err(|error| unread(&error))?;
        let checkpoint = Checkpoint::parse(&note.text).map_err(|error| unread(&error))?;
        match checkpoint.log(installation) {
            Some(of) if of == log => {}
            Some(_) => continue,
            None => {
                return wrong(format!("a witness's checkpoint is of another installation, `{}`", checkpoint.origin));
            }
        }
        if !keys.iter().any(|key| note.verify(key).is_ok()) {
            return wrong("a witness's checkpoint is not signed by a key of this log");
        }
        found.push(checkpoint);
    }
    Ok(found)
}

/// A checkpoint that is kept is what its note says, and that is signed.
fn opened(kept: &StoredCheckpoint, named: &str, keys: &[NoteKey]) -> Result<(), Fault> {
    let opened = keys.iter().find_map(|key| Checkpoint::open(&kept.note, key).ok());
    match opened {
        Some(checkpoint)
            if checkpoint.size == kept.size && checkpoint.root == kept.root && checkpoint.origin == named =>
        {
            Ok(())
        }
        Some(_) => wrong(format!("the checkpoint of {} events is not what its signed note says", kept.size)),
        None => wrong(format!("the checkpoint of {} events is not signed by a key of the log", kept.size)),
    }
}

/// The root that the tiles at the right edge lead to.
async fn edge(store: &Store, log: LogName, last: &StoredCheckpoint) -> Result<Hash, Fault> {
    let mut tiles = Vec::new();
    for (id, _) in Edge::tiles_of(last.size) {
        tiles.extend(store.tile_fetch(log, id).await?);
    }
    let edge = Edge::of_tiles(last.size, &tiles);
    edge.map_or_else(|| wrong("tiles of it are missing"), |edge| Ok(edge.frontier().root()))
}

/// Whether the tree was once that of `size` and `root`.
async fn leads(store: &Store, log: LogName, (size, root): (u64, Hash), last: &StoredCheckpoint) -> Result<(), Fault> {
    if size == 0 {
        return Ok(());
    }
    let ranges = if size == last.size { Some(Vec::new()) } else { consistency_ranges(size, last.size) };
    let Some(ranges) = ranges else { return wrong("a checkpoint is of no size that it had") };
    let proof = range_hashes(store, log, &ranges).await?;
    if is_consistent(size, &root, last.size, &last.root, &proof) {
        return Ok(());
    }
    wrong(format!("its first {size} events are not those that a checkpoint was signed over"))
}

/// Compares the newest leaves, and those of some full tiles, with their tiles, and those with the tiles
/// above. Gives how many leaves that were.
async fn leaves(store: &Store, entry: &LogEntry, size: u64) -> Result<u64, Fault> {
    let log = LogName::Node(*entry.log.node());
    let full = size / WIDTH;
    let mut compared = 0;
    let mut places: Vec<u64> =
        (0..TILES.min(full)).map(|at| at * full.saturating_sub(1) / TILES.min(full).saturating_sub(1).max(1)).collect();
    places.extend((!size.is_multiple_of(WIDTH)).then_some(full));
    places.dedup();
    for place in places {
        let Some(tile) = store.tile_fetch(log, TileId { level: 0, index: place }).await? else {
            return wrong(format!("the tile of events {} and on is missing", place * WIDTH));
        };
        let count = WIDTH.min(size - place * WIDTH);
        let leaves = store.leaf_list(entry.log, place * WIDTH, i64::try_from(count).unwrap_or(0)).await?;
        for (at, hash) in (place * WIDTH..place * WIDTH + count).zip(&tile.hashes) {
            let leaf = leaves.get(usize::try_from(at - place * WIDTH).unwrap_or(usize::MAX));
            match leaf {
                Some((seq, bytes)) if u64::try_from(*seq) == Ok(at) && leaf_hash(bytes) == *hash => compared += 1,
                Some((seq, _)) if u64::try_from(*seq) == Ok(at) => {
                    return wrong(format!("event {at} is not the one that was hashed"));
                }
                _ => return wrong(format!("event {at} is missing")),
            }
        }
        if count == WIDTH {
            above(store, log, &tile).await?;
        }
    }
    Ok(compared)
}

/// Whether a full tile has the hash that the tile above has of it.
async fn above(store: &Store, log: LogName, tile: &Tile) -> Result<(), Fault> {
    let half = |side: u64| tile.node(Node { level: 7, index: tile.id.index * 2 + side });
    let place = TileId { level: 1, index: tile.id.index / WIDTH };
    let hash = store
        .tile_fetch(log, place)
        .await?
        .and_then(|above| above.hashes.get(usize::try_from(tile.id.index % WIDTH).unwrap_or(usize::MAX)).copied());
    match (half(0), half(1), hash) {
        (Some(left), Some(right), Some(hash)) if node_hash(&left, &right) == hash => Ok(()),
        _ => wrong(format!(
            "the tile of events {} and on is not the one that its log was built on",
            tile.id.index * WIDTH
        )),
    }
}
