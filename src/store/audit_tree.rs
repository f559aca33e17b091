//! Trees over logs: tiles, checkpoints, the keys that sign them, the installation log's leaves, and
//! how far witnesses are.
//!
//! INVARIANT: tiles and the checkpoint that they lead to are written in one transaction, so the last
//! checkpoint always says how far the tiles reach.

use sqlx::FromRow;

use super::engine::{Store, StoreError, Tx};
use super::log::Log;
use crate::audit::checkpoint::LogName;
use crate::audit::merkle::Hash;
use crate::audit::tile::{Tile, TileId};
use crate::model::{NodeId, Timestamp};

/// The number of the installation's own log.
const INSTALLATION: i64 = 0;

const TILE: &str = "select hashes from audit_tile where log = $1 and level = $2 and place = $3";
const TILE_KEEP: &str = "\
    insert into audit_tile (log, level, place, hashes) values ($1, $2, $3, $4) \
    on conflict (log, level, place) do update set hashes = excluded.hashes";
const CHECKPOINT_LAST: &str =
    "select log, size, root, time, note from audit_checkpoint where log = $1 order by size desc limit 1";
const CHECKPOINTS_AFTER: &str =
    "select log, size, root, time, note from audit_checkpoint where log = $1 and size > $2 order by size limit $3";
const CHECKPOINTS_BEFORE: &str = "\
    select log, size, root, time, note from audit_checkpoint where log = $1 and size < $2 order by size desc limit $3";
const CHECKPOINT_INSERT: &str = "\
    insert into audit_checkpoint (log, size, root, time, note) values ($1, $2, $3, $4, $5) \
    on conflict (log, size) do nothing";
/// One row while the log is there.
const STAND: &str = "\
    select l.number, l.next_seq, c.size, c.root, e.leaf from audit_log l \
    left join audit_checkpoint c on c.log = l.number and c.size = \
    (select k.size from audit_checkpoint k where k.log = l.number order by k.size desc limit 1) \
    left join audit_event e on e.log = l.number and e.seq = $2 where l.number = $1";
const CHECKPOINT_PRUNE: &str = "\
    delete from audit_checkpoint where time < $1 \
    and size < (select max(c.size) from audit_checkpoint c where c.log = audit_checkpoint.log)";
const KEYS: &str = "\
    select public_key, created_at, certificate, sealed from audit_log_signer where log = $1 order by created_at, public_key";
const KEY_INSERT: &str = "\
    insert into audit_log_signer (log, public_key, created_at, certificate, sealed) values ($1, $2, $3, $4, $5)";
const STATEMENT_NUMBER: &str = "update counter set value = value + 1 where name = 'installation_log' returning value";
const STATEMENT_INSERT: &str = "insert into installation_leaf (seq, leaf) values ($1, $2)";
const STATEMENTS: &str = "select leaf from installation_leaf where seq < $1 order by seq";
const LEAVES: &str = "\
    select seq, leaf from audit_event where log = $1 and seq >= $2 order by seq limit $3";
const LOGS: &str = "select number, node, next_seq, opened_at, pruned_to from audit_log order by number";
const WITNESS: &str = "select size from audit_witness where node = $1 and witness = $2 and log = $3";
const WITNESS_KEEP: &str = "\
    insert into audit_witness (node, witness, log, size, delivered_at) values ($1, $2, $3, $4, $5) \
    on conflict (node, witness, log) do update set size = excluded.size, delivered_at = excluded.delivered_at";

/// A log as its row tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LogEntry {
    /// The log.
    pub log: Log,
    /// Its next number.
    pub size: i64,
    /// When it was made.
    pub opened_at: Timestamp,
    /// Below this number only leaves are left.
    pub pruned_to: i64,
}

/// A checkpoint as it is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredCheckpoint {
    /// How many leaves.
    pub size: u64,
    /// Their root.
    pub root: Hash,
    /// When it was made.
    pub time: Timestamp,
    /// The signed note.
    pub note: String,
}

#[derive(FromRow)]
struct CheckpointRow {
    log: i64,
    size: i64,
    root: Vec<u8>,
    time: i64,
    note: String,
}

impl TryFrom<CheckpointRow> for StoredCheckpoint {
    type Error = StoreError;

    fn try_from(row: CheckpointRow) -> Result<Self, StoreError> {
        let wrong = |column| StoreError::Inconsistent {
            table: "audit_checkpoint",
            column,
            row: format!("{}, {}", row.log, row.size),
        };
        Ok(Self {
            size: u64::try_from(row.size).map_err(|_| wrong("size"))?,
            root: Hash::try_from(row.root.as_slice()).map_err(|_| wrong("root"))?,
            time: Timestamp::from_millis(row.time),
            note: row.note,
        })
    }
}

/// Where a log and its tree stand in the database, at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stand {
    /// The log's next number.
    pub next: u64,
    /// How many leaves the newest checkpoint is of, and their root.
    pub checkpoint: Option<(u64, Hash)>,
    /// The exact leaf that was asked for.
    pub leaf: Option<Vec<u8>>,
}

#[derive(FromRow)]
struct StandRow {
    number: i64,
    next_seq: i64,
    size: Option<i64>,
    root: Option<Vec<u8>>,
    leaf: Option<Vec<u8>>,
}

impl TryFrom<StandRow> for Stand {
    type Error = StoreError;

    fn try_from(row: StandRow) -> Result<Self, StoreError> {
        let wrong = |table, column| StoreError::Inconsistent { table, column, row: row.number.to_string() };
        let checkpoint = match (row.size, &row.root) {
            (Some(size), Some(root)) => Some((
                u64::try_from(size).map_err(|_| wrong("audit_checkpoint", "size"))?,
                Hash::try_from(root.as_slice()).map_err(|_| wrong("audit_checkpoint", "root"))?,
            )),
            _ => None,
        };
        let next = u64::try_from(row.next_seq).map_err(|_| wrong("audit_log", "next_seq"))?;
        Ok(Self { next, checkpoint, leaf: row.leaf })
    }
}

/// A log's key as it is kept.
#[derive(Debug, Clone, PartialEq, Eq, FromRow)]
pub struct SealedLogKey {
    /// The public key.
    pub public_key: Vec<u8>,
    /// When it was made, in milliseconds.
    pub created_at: i64,
    /// The root key's note about it.
    pub certificate: String,
    /// Its seed, sealed.
    pub sealed: Vec<u8>,
}

#[derive(FromRow)]
struct LogRow {
    number: i64,
    node: String,
    next_seq: i64,
    opened_at: i64,
    pruned_to: i64,
}

fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

fn tile_from(id: TileId, bytes: Vec<u8>) -> Result<Tile, StoreError> {
    let row = format!("{}/{}", id.level, id.index);
    Tile::from_bytes(id, &bytes).ok_or(StoreError::Inconsistent { table: "audit_tile", column: "hashes", row })
}

impl Store {
    /// This node's log.
    ///
    /// # Errors
    /// When it is not open yet.
    pub fn own_log(&self) -> Result<Log, StoreError> {
        self.desk().get().map(|desk| desk.log).ok_or(StoreError::NoLog)
    }

    /// Every node's log, in the order of their making.
    ///
    /// # Errors
    /// When the database is away or a row can't be.
    pub async fn log_list(&self) -> Result<Vec<LogEntry>, StoreError> {
        let rows: Vec<LogRow> = sqlx::query_as(LOGS).fetch_all(self.pool()).await?;
        let read = |row: LogRow| {
            let wrong = |_| StoreError::Inconsistent { table: "audit_log", column: "node", row: row.node.clone() };
            let node = NodeId::parse(&row.node).map_err(wrong)?;
            Ok(LogEntry {
                log: Log { number: row.number, node },
                size: row.next_seq,
                opened_at: Timestamp::from_millis(row.opened_at),
                pruned_to: row.pruned_to,
            })
        };
        rows.into_iter().map(read).collect()
    }

    async fn number_of(&self, log: LogName) -> Result<Option<i64>, StoreError> {
        match log {
            LogName::Installation => Ok(Some(INSTALLATION)),
            LogName::Node(node) => {
                let found = self.log_list().await?;
                Ok(found.iter().find(|entry| *entry.log.node() == node).map(|entry| entry.log.number))
            }
        }
    }

    /// A tile of a log.
    ///
    /// # Errors
    /// When the database is away or the row can't be.
    pub async fn tile_fetch(&self, log: LogName, id: TileId) -> Result<Option<Tile>, StoreError> {
        let Some(number) = self.number_of(log).await? else { return Ok(None) };
        let query = sqlx::query_scalar(TILE).bind(number).bind(i64::from(id.level)).bind(signed(id.index));
        let bytes: Option<Vec<u8>> = query.fetch_optional(self.pool()).await?;
        bytes.map(|bytes| tile_from(id, bytes)).transpose()
    }

    /// The newest checkpoint of a log.
    ///
    /// # Errors
    /// When the database is away or the row can't be.
    pub async fn checkpoint_last(&self, log: LogName) -> Result<Option<StoredCheckpoint>, StoreError> {
        let Some(number) = self.number_of(log).await? else { return Ok(None) };
        let row: Option<CheckpointRow> =
            sqlx::query_as(CHECKPOINT_LAST).bind(number).fetch_optional(self.pool()).await?;
        row.map(StoredCheckpoint::try_from).transpose()
    }

    /// Checkpoints of a log for more than `size` leaves, the smallest first.
    ///
    /// # Errors
    /// When the database is away or a row can't be.
    pub async fn checkpoints_after(
        &self,
        log: LogName,
        size: i64,
        limit: i64,
    ) -> Result<Vec<StoredCheckpoint>, StoreError> {
        let Some(number) = self.number_of(log).await? else { return Ok(Vec::new()) };
        let query = sqlx::query_as(CHECKPOINTS_AFTER).bind(number).bind(size).bind(limit);
        let rows: Vec<CheckpointRow> = query.fetch_all(self.pool()).await?;
        rows.into_iter().map(StoredCheckpoint::try_from).collect()
    }

    /// The hashes of leaves of this node's log from place `from` on that this process has committed and
    /// nobody has taken yet. Where there are none, `leaf_list` has them.
    #[must_use]
    pub fn fresh_leaves(&self, from: u64, most: usize) -> Vec<Hash> {
        self.desk().get().map(|desk| desk.fresh.take(signed(from), most)).unwrap_or_default()
    }

    /// The newest checkpoints of a log for fewer than `size` leaves, the largest first.
    ///
    /// # Errors
    /// When the database is away or a row can't be.
    pub async fn checkpoints_before(
        &self,
        log: LogName,
        size: u64,
        limit: i64,
    ) -> Result<Vec<StoredCheckpoint>, StoreError> {
        let Some(number) = self.number_of(log).await? else { return Ok(Vec::new()) };
        let query = sqlx::query_as(CHECKPOINTS_BEFORE).bind(number).bind(signed(size)).bind(limit);
        let rows: Vec<CheckpointRow> = query.fetch_all(self.pool()).await?;
        rows.into_iter().map(StoredCheckpoint::try_from).collect()
    }

    /// The exact leaves of a log from place `from` on, with their places.
    ///
    /// # Errors
    /// When the database is away.
    pub async fn leaf_list(&self, log: Log, from: u64, limit: i64) -> Result<Vec<(i64, Vec<u8>)>, StoreError> {
        let query = sqlx::query_as(LEAVES).bind(log.number).bind(signed(from)).bind(limit);
        Ok(query.fetch_all(self.pool()).await?)
    }

    /// Where a log and its tree stand; none where the log is not there.
    ///
    /// # Errors
    /// When the database is away or a row can't be.
    pub async fn stand_fetch(&self, log: Log) -> Result<Option<Stand>, StoreError> {
        // No leaf has that number.
        let query = sqlx::query_as(STAND).bind(log.number).bind(-1_i64);
        let row: Option<StandRow> = query.fetch_optional(self.pool()).await?;
        row.map(Stand::try_from).transpose()
    }

    /// The first `size` leaves of the installation log.
    ///
    /// # Errors
    /// When the database is away.
    pub async fn statement_list(&self, size: u64) -> Result<Vec<String>, StoreError> {
        Ok(sqlx::query_scalar(STATEMENTS).bind(signed(size)).fetch_all(self.pool()).await?)
    }

    /// Keys that sign or signed this log, oldest first.
    ///
    /// # Errors
    /// When the database is away.
    pub async fn log_key_list(&self, log: Log) -> Result<Vec<SealedLogKey>, StoreError> {
        Ok(sqlx::query_as(KEYS).bind(log.number).fetch_all(self.pool()).await?)
    }

    /// How many leaves of `log` a witness of `node` has.
    ///
    /// # Errors
    /// When the database is away.
    pub async fn witness_reached(&self, node: &NodeId, witness: &str, log: LogName) -> Result<i64, StoreError> {
        let Some(number) = self.number_of(log).await? else { return Ok(0) };
        let query = sqlx::query_scalar(WITNESS).bind(node.to_string()).bind(witness.to_owned()).bind(number);
        Ok(query.fetch_optional(self.pool()).await?.unwrap_or(0))
    }

    /// Notes that a witness of `node` has `size` leaves of `log`.
    ///
    /// # Errors
    /// When the database is away.
    pub async fn witness_note(
        &self,
        node: &NodeId,
        witness: &str,
        log: LogName,
        size: u64,
        now: Timestamp,
    ) -> Result<(), StoreError> {
        let Some(number) = self.number_of(log).await? else { return Ok(()) };
        let mut tx = self.begin().await?;
        sqlx::query(WITNESS_KEEP)
            .bind(node.to_string())
            .bind(witness.to_owned())
            .bind(number)
            .bind(signed(size))
            .bind(now.millis())
            .execute(tx.connection())
            .await?;
        tx.commit().await
    }
}

/// What of a tree is written together.
pub struct Grown<'a> {
    /// Tiles that are new or have grown.
    pub tiles: &'a [Tile],
    /// What they lead to.
    pub checkpoint: &'a StoredCheckpoint,
}

impl Tx {
    /// Where a log and its tree stand, with the leaf at place `newest`; none where the log is not there.
    ///
    /// # Errors
    /// When the database is away or a row can't be.
    pub async fn stand_fetch(&mut self, log: Log, newest: u64) -> Result<Option<Stand>, StoreError> {
        let query = sqlx::query_as(STAND).bind(log.number).bind(signed(newest));
        let row: Option<StandRow> = query.fetch_optional(self.connection()).await?;
        row.map(Stand::try_from).transpose()
    }

    /// Keeps a log's tiles and the checkpoint that they lead to. Without a log it is the
    /// installation's own.
    ///
    /// # Errors
    /// When the database refuses.
    pub async fn tree_keep(&mut self, log: Option<Log>, grown: &Grown<'_>) -> Result<(), StoreError> {
        let number = log.map_or(INSTALLATION, |log| log.number);
        for tile in grown.tiles {
            sqlx::query(TILE_KEEP)
                .bind(number)
                .bind(i64::from(tile.id.level))
                .bind(signed(tile.id.index))
                .bind(tile.bytes())
                .execute(self.connection())
                .await?;
        }
        let checkpoint = grown.checkpoint;
        sqlx::query(CHECKPOINT_INSERT)
            .bind(number)
            .bind(signed(checkpoint.size))
            .bind(checkpoint.root.to_vec())
            .bind(checkpoint.time.millis())
            .bind(checkpoint.note.clone())
            .execute(self.connection())
            .await?;
        Ok(())
    }

    /// A tile of the installation log, read while it is held.
    ///
    /// # Errors
    /// When the database is away or the row can't be.
    pub async fn installation_tile(&mut self, id: TileId) -> Result<Option<Tile>, StoreError> {
        let query = sqlx::query_scalar(TILE).bind(INSTALLATION).bind(i64::from(id.level)).bind(signed(id.index));
        let bytes: Option<Vec<u8>> = query.fetch_optional(self.connection()).await?;
        bytes.map(|bytes| tile_from(id, bytes)).transpose()
    }

    /// Takes the next place of the installation log and holds the log until this transaction ends.
    ///
    /// # Errors
    /// When the database refuses.
    pub async fn statement_take(&mut self) -> Result<u64, StoreError> {
        let next: i64 = sqlx::query_scalar(STATEMENT_NUMBER).fetch_one(self.connection()).await?;
        Ok(u64::try_from(next - 1).unwrap_or(0))
    }

    /// Writes a leaf of the installation log at the place that was taken.
    ///
    /// # Errors
    /// When the database refuses.
    pub async fn statement_insert(&mut self, seq: u64, leaf: &str) -> Result<(), StoreError> {
        sqlx::query(STATEMENT_INSERT).bind(signed(seq)).bind(leaf.to_owned()).execute(self.connection()).await?;
        Ok(())
    }

    /// Keeps a new key of a log.
    ///
    /// # Errors
    /// When the database refuses.
    pub async fn log_key_insert(&mut self, log: Log, key: &SealedLogKey) -> Result<(), StoreError> {
        sqlx::query(KEY_INSERT)
            .bind(log.number)
            .bind(key.public_key.clone())
            .bind(key.created_at)
            .bind(key.certificate.clone())
            .bind(key.sealed.clone())
            .execute(self.connection())
            .await?;
        Ok(())
    }

    /// Forgets checkpoints of before `cutoff`, the last one of each log excepted.
    ///
    /// # Errors
    /// When the database refuses.
    pub async fn checkpoint_prune(&mut self, cutoff: Timestamp) -> Result<(), StoreError> {
        sqlx::query(CHECKPOINT_PRUNE).bind(cutoff.millis()).execute(self.connection()).await?;
        Ok(())
    }
}
