//! This node's tree grows with its log, beside the data path: what was numbered is hashed, tiles and
//! a signed checkpoint are kept, and the installation log is told.
//!
//! 1. At start the last checkpoint is checked: its signature, and that the tiles lead to its root. What
//!    does not agree is never built upon.
//! 2. The log's key is opened, or made and certified by the root key; `log.opened` goes into the
//!    installation log.
//! 3. Each pulse takes the leaves that are new, and one transaction keeps tiles and checkpoint.
//! 4. A key that is a year old is followed by another: `log.key_changed`, and an event in the log.
//!
//! INVARIANTS: a checkpoint is signed only over leaves that this process hashed itself, as it committed
//! them or as it read them, on top of a tree whose last checkpoint it checked. What a checkpoint is signed
//! over is in the database that keeps it: a database that went on in the place of another, without the last
//! commits of that one, has neither the last checkpoint nor leaves that this process remembers.

use std::fmt;

use crate::audit::checkpoint::{Checkpoint, LogName, origin};
use crate::audit::installation::{LogKey, Statement, StatementKind};
use crate::audit::merkle::{Hash, Node, cover, folded, leaf_hash};
use crate::audit::note::{NoteError, NoteKey, NoteSigner};
use crate::audit::tile::{Edge, Tile, TileId, tile_of};
use crate::audit::{Event, EventType, Outcome};
use crate::credential::seal::{SealError, Sealer};
use crate::model::{Entropy, EventId, Secret, Timestamp, Ttl};
use crate::store::{Grown, Log, SealedLogKey, Store, StoreError, StoredCheckpoint, Tx};

use super::root::Root;

/// What seeds are sealed for.
const PURPOSE: &str = "audit-log-key";
/// Leaves that are read at a time.
const LEAF_PAGE: i64 = 1000;
/// Leaves under one checkpoint at most, while there is more to do.
const LEAVES_MAX: usize = 20_000;
/// How long a key signs.
const KEY_LIFE: Ttl = Ttl::hours(24 * 365);
/// How often the installation log is told of a log's size.
const SIZED_EVERY: Ttl = Ttl::minutes(10);

/// Why a tree does not grow.
#[derive(Debug)]
pub enum TreeError {
    /// The database did not do what it was asked.
    Store(StoreError),
    /// A key is sealed under another key.
    Sealed(SealError),
    /// A key or note is damaged.
    Note(NoteError),
    /// What is kept does not agree with the last checkpoint.
    Inconsistent { what: &'static str },
}

impl fmt::Display for TreeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Store(error) => write!(f, "the tree of the log could not be kept: {error}"),
            Self::Sealed(error) => write!(f, "the key of the log could not be opened: {error}"),
            Self::Note(error) => write!(f, "the key or a checkpoint of the log is damaged: {error}"),
            Self::Inconsistent { what } => {
                write!(
                    f,
                    "the log is not the one that its last checkpoint is of: {what}; run `doorward audit verify` on the database"
                )
            }
        }
    }
}

impl std::error::Error for TreeError {}

/// What a database says that has taken the place of another without its last commits.
const LOST: TreeError =
    TreeError::Inconsistent { what: "its last checkpoint is not the one that this process has signed or checked" };

impl From<StoreError> for TreeError {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

impl From<SealError> for TreeError {
    fn from(error: SealError) -> Self {
        Self::Sealed(error)
    }
}

impl From<NoteError> for TreeError {
    fn from(error: NoteError) -> Self {
        Self::Note(error)
    }
}

/// The tree of this node's log.
pub struct LogTree {
    log: Log,
    edge: Edge,
    signer: NoteSigner,
    key_since: Timestamp,
    told_size: u64,
    told_at: Timestamp,
}

/// How a pulse went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Grew {
    /// How many leaves the tree has.
    pub size: u64,
    /// How many are new.
    pub added: u64,
}

impl LogTree {
    /// Opens the tree of this node's log, checks it against its last checkpoint, and tells the
    /// installation log that it is open.
    ///
    /// # Errors
    /// When the database is away, or what is kept does not agree.
    pub async fn open(
        store: &Store,
        sealer: &Sealer,
        root: &Root,
        now: Timestamp,
        entropy: &dyn Entropy,
    ) -> Result<Self, TreeError> {
        let log = store.own_log()?;
        let name = LogName::Node(*log.node());
        let edge = checked_edge(store, log, root).await?;
        let keys = store.log_key_list(log).await?;
        let (signer, key_since, certificate) = match keys.last() {
            Some(sealed) => {
                let seed = sealer.open(PURPOSE, &place(log, &sealed.public_key), &sealed.sealed)?;
                let signer = NoteSigner::of_seed(&origin(root.key().name(), name), &seed)?;
                (signer, Timestamp::from_millis(sealed.created_at), sealed.certificate.clone())
            }
            None => {
                let (signer, sealed) = make_key(log, root, sealer, now, entropy)?;
                let mut tx = store.begin().await?;
                tx.log_key_insert(log, &sealed).await?;
                tx.commit().await?;
                (signer, now, sealed.certificate)
            }
        };
        let key = LogKey { key: signer.key().clone(), certificate };
        if !key.is_certified(root.key(), *log.node()) {
            return Err(TreeError::Inconsistent { what: "its key is not certified by the root key" });
        }
        let size = edge.frontier().size();
        let tree = Self { log, edge, signer, key_since, told_size: size, told_at: now };
        let mut tx = store.begin().await?;
        if size == 0 {
            // INVARIANT: a log that the installation log names has a checkpoint, be it of nothing.
            let checkpoint = signed(&tree.signer, &tree.edge, now);
            tx.tree_keep(Some(log), &Grown { tiles: &[], checkpoint: &checkpoint }).await?;
        }
        append(&mut tx, root, tree.statement(StatementKind::Opened, Some(key), now), now).await?;
        tx.commit().await?;
        Ok(tree)
    }

    /// Takes what was numbered since, and keeps tiles and a checkpoint if there was something.
    ///
    /// # Errors
    /// When the database is away, or has not what this tree was built from. The tree stays as it was then.
    pub async fn grow(&mut self, store: &Store, now: Timestamp) -> Result<Grew, TreeError> {
        let mut edge = self.edge.clone();
        let before = edge.frontier().size();
        let stand = store.stand_fetch(self.log).await?.ok_or(LOST)?;
        // A commit of ours whose answer was lost, or another process of this node, may have kept more.
        let (kept, root) = stand.checkpoint.filter(|(kept, _)| *kept >= before).ok_or(LOST)?;
        let agrees = |edge: &Edge| edge.frontier().size() != kept || edge.frontier().root() == root;
        if !agrees(&edge) {
            return Err(LOST);
        }
        let (mut full, mut newest) = (Vec::new(), None);
        let mut push = |edge: &mut Edge, hash| {
            newest = Some(hash);
            edge.push(hash, &mut full);
            if agrees(edge) { Ok(()) } else { Err(LOST) }
        };
        loop {
            for hash in store.fresh_leaves(edge.frontier().size(), LEAVES_MAX) {
                push(&mut edge, hash)?;
            }
            let from = edge.frontier().size();
            let page = store.leaf_list(self.log, from, LEAF_PAGE).await?;
            let last = page.len() < usize::try_from(LEAF_PAGE).unwrap_or(usize::MAX);
            for (seq, leaf) in page {
                if u64::try_from(seq) != Ok(edge.frontier().size()) {
                    return Err(TreeError::Inconsistent { what: "an event is missing" });
                }
                push(&mut edge, leaf_hash(&leaf))?;
            }
            let size = edge.frontier().size();
            let added = usize::try_from(size - before).unwrap_or(usize::MAX);
            if last || (added >= LEAVES_MAX && size >= kept) {
                break;
            }
        }
        let size = edge.frontier().size();
        if size < kept || stand.next < before {
            return Err(TreeError::Inconsistent { what: "events under its last checkpoint are missing" });
        }
        if size > kept {
            let checkpoint = signed(&self.signer, &edge, now);
            full.extend(edge.partial());
            let mut tx = store.begin().await?;
            // ORDER: in the transaction that builds upon it, since the database may be another by now.
            let found = tx.stand_fetch(self.log, size - 1).await?.ok_or(LOST)?;
            if found.checkpoint != stand.checkpoint {
                // Whether what was kept meanwhile is of this tree shows at the next pulse.
                return Ok(Grew { size: before, added: 0 });
            }
            if found.next < size || found.leaf.map(|leaf| leaf_hash(&leaf)) != newest {
                return Err(TreeError::Inconsistent { what: "events that were committed are not in it" });
            }
            tx.tree_keep(Some(self.log), &Grown { tiles: &full, checkpoint: &checkpoint }).await?;
            tx.commit().await?;
        }
        self.edge = edge;
        Ok(Grew { size, added: size - before })
    }

    /// The checkpoint that it stands on, signed: whoever has it can say whether a log is still this one.
    #[must_use]
    pub fn note(&self) -> String {
        checkpoint_of(&self.signer, &self.edge).sign(&self.signer)
    }

    /// Tells the installation log of the size from time to time, and changes the key when it is old.
    ///
    /// # Errors
    /// When the database is away.
    pub async fn tend(
        &mut self,
        store: &Store,
        sealer: &Sealer,
        root: &Root,
        now: Timestamp,
        entropy: &dyn Entropy,
    ) -> Result<(), TreeError> {
        if self.key_since.plus(KEY_LIFE).is_over(now) {
            self.change_key(store, sealer, root, now, entropy).await?;
        }
        let size = self.edge.frontier().size();
        if size > self.told_size && self.told_at.plus(SIZED_EVERY).is_over(now) {
            self.tell(store, root, StatementKind::Sized, None, now).await?;
            (self.told_size, self.told_at) = (size, now);
        }
        Ok(())
    }

    /// Tells the installation log that this node stops in good order.
    ///
    /// # Errors
    /// When the database is away.
    pub async fn close(&self, store: &Store, root: &Root, now: Timestamp) -> Result<(), TreeError> {
        self.tell(store, root, StatementKind::Closed, None, now).await
    }

    async fn change_key(
        &mut self,
        store: &Store,
        sealer: &Sealer,
        root: &Root,
        now: Timestamp,
        entropy: &dyn Entropy,
    ) -> Result<(), TreeError> {
        let (signer, sealed) = make_key(self.log, root, sealer, now, entropy)?;
        let id = EventId::fresh(now, entropy);
        let mut event = Event::new(id, now, EventType::AuditLogOpened, Outcome::Success)
            .with("change", "key")
            .with("key_before", self.signer.key().to_string())
            .with("key", signer.key().to_string());
        event.resource = Some(self.log.node().to_string().into());
        let key = LogKey { key: signer.key().clone(), certificate: sealed.certificate.clone() };
        let mut tx = store.begin().await?;
        tx.log_key_insert(self.log, &sealed).await?;
        tx.event_append(&event).await?;
        let statement = self.statement(StatementKind::KeyChanged, Some(key), now);
        append(&mut tx, root, statement, now).await?;
        tx.commit().await?;
        (self.signer, self.key_since) = (signer, now);
        Ok(())
    }

    fn statement(&self, kind: StatementKind, key: Option<LogKey>, now: Timestamp) -> Statement {
        let frontier = self.edge.frontier();
        Statement { seq: 0, time: now, kind, log: *self.log.node(), size: frontier.size(), root: frontier.root(), key }
    }

    async fn tell(
        &self,
        store: &Store,
        root: &Root,
        kind: StatementKind,
        key: Option<LogKey>,
        now: Timestamp,
    ) -> Result<(), TreeError> {
        let mut tx = store.begin().await?;
        append(&mut tx, root, self.statement(kind, key, now), now).await?;
        tx.commit().await?;
        Ok(())
    }
}

/// Appends a statement to the installation log, with its tiles and checkpoint, in this transaction.
async fn append(tx: &mut Tx, root: &Root, mut statement: Statement, now: Timestamp) -> Result<(), TreeError> {
    // ORDER: the place first, since it holds the log.
    statement.seq = tx.statement_take().await?;
    let mut tiles = Vec::new();
    for (id, _) in Edge::tiles_of(statement.seq) {
        tiles.extend(tx.installation_tile(id).await?);
    }
    let what = "the installation log has lost tiles";
    let mut edge = Edge::of_tiles(statement.seq, &tiles).ok_or(TreeError::Inconsistent { what })?;
    let leaf = statement.leaf();
    let mut grown = Vec::new();
    edge.push(leaf_hash(leaf.as_bytes()), &mut grown);
    grown.extend(edge.partial());
    tx.statement_insert(statement.seq, &leaf).await?;
    let checkpoint = signed(root.log_signer(), &edge, now);
    tx.tree_keep(None, &Grown { tiles: &grown, checkpoint: &checkpoint }).await?;
    Ok(())
}

fn signed(signer: &NoteSigner, edge: &Edge, now: Timestamp) -> StoredCheckpoint {
    let checkpoint = checkpoint_of(signer, edge);
    StoredCheckpoint { size: checkpoint.size, root: checkpoint.root, time: now, note: checkpoint.sign(signer) }
}

fn checkpoint_of(signer: &NoteSigner, edge: &Edge) -> Checkpoint {
    let (size, root) = (edge.frontier().size(), edge.frontier().root());
    Checkpoint { origin: signer.key().name().to_owned(), size, root }
}

fn make_key(
    log: Log,
    root: &Root,
    sealer: &Sealer,
    now: Timestamp,
    entropy: &dyn Entropy,
) -> Result<(NoteSigner, SealedLogKey), TreeError> {
    let seed: Secret<Vec<u8>> = NoteSigner::fresh_seed(entropy);
    let signer = NoteSigner::of_seed(&origin(root.key().name(), LogName::Node(*log.node())), &seed)?;
    let public_key = signer.key().public().to_vec();
    let sealed = sealer.seal(PURPOSE, &place(log, &public_key), seed.expose(), entropy)?;
    let certificate = LogKey::certify(root.signer(), *log.node(), signer.key().clone()).certificate;
    Ok((signer, SealedLogKey { public_key, created_at: now.millis(), certificate, sealed }))
}

/// What a sealed seed is bound to.
fn place(log: Log, public_key: &[u8]) -> Vec<u8> {
    let mut bytes = format!("{}\0", log.node()).into_bytes();
    bytes.extend_from_slice(public_key);
    bytes
}

/// The edge that the last checkpoint is of, if tiles and signature agree with it.
async fn checked_edge(store: &Store, log: Log, root: &Root) -> Result<Edge, TreeError> {
    let name = LogName::Node(*log.node());
    let Some(last) = store.checkpoint_last(name).await? else {
        return Ok(Edge::default());
    };
    let mut tiles = Vec::new();
    for (id, _) in Edge::tiles_of(last.size) {
        tiles.extend(store.tile_fetch(name, id).await?);
    }
    let wrong = |what| TreeError::Inconsistent { what };
    let edge = Edge::of_tiles(last.size, &tiles).ok_or(wrong("tiles are missing"))?;
    if edge.frontier().root() != last.root {
        return Err(wrong("its tiles lead to another root"));
    }
    let keys = store.log_key_list(log).await?;
    let named = origin(root.key().name(), name);
    let opened = keys.iter().find_map(|key| {
        let key = NoteKey::new(&named, key.public_key.as_slice().try_into().ok()?)?;
        Checkpoint::open(&last.note, &key).ok()
    });
    match opened {
        Some(checkpoint) if checkpoint.size == last.size && checkpoint.root == last.root => Ok(edge),
        _ => Err(wrong("the last checkpoint is not signed by a key of the log")),
    }
}

/// The hashes of complete subtrees, from the tiles.
///
/// # Errors
/// When the database is away or a tile is missing.
pub async fn node_hashes(store: &Store, log: LogName, nodes: &[Node]) -> Result<Vec<Hash>, TreeError> {
    let mut seen: Vec<Tile> = Vec::new();
    let mut hashes = Vec::with_capacity(nodes.len());
    for node in nodes {
        let id: TileId = tile_of(*node);
        if !seen.iter().any(|tile| tile.id == id) {
            let tile = store.tile_fetch(log, id).await?;
            seen.push(tile.ok_or(TreeError::Inconsistent { what: "a tile is missing" })?);
        }
        let tile = seen.iter().find(|tile| tile.id == id);
        let hash = tile.and_then(|tile| tile.node(*node));
        hashes.push(hash.ok_or(TreeError::Inconsistent { what: "a tile is shorter than its tree" })?);
    }
    Ok(hashes)
}

/// The hashes over ranges of leaves, for a proof.
///
/// # Errors
/// When the database is away or a tile is missing.
pub async fn range_hashes(store: &Store, log: LogName, ranges: &[(u64, u64)]) -> Result<Vec<Hash>, TreeError> {
    let mut hashes = Vec::with_capacity(ranges.len());
    for (begin, end) in ranges {
        hashes.push(folded(&node_hashes(store, log, &cover(*begin, *end)).await?));
    }
    Ok(hashes)
}
