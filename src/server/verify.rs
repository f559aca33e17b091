//! A record in a database, as `doorward audit verify` reads it: no server, no key-encryption key.

use crate::audit::checkpoint::LogName;
use crate::audit::evidence::{Evidence, Gone, StatementText};
use crate::audit::filter::Filter;
use crate::audit::note::NoteKey;
use crate::audit::verify::{Fault, Place};
use crate::control::audit::export::{self, Export};
use crate::control::audit::read::ReadError;
use crate::control::audit::root;
use crate::control::audit::tree::TreeError;
use crate::model::{Timestamp, Ttl};
use crate::store::{LogEntry, Recorded, Store, StoreError};

/// Events behind the last checkpoint that are read at a time.
const PAGE: u32 = 500;
/// A node makes a checkpoint each second. What has none for this long, nothing holds.
const CHECKPOINT_WITHIN: Ttl = Ttl::seconds(60);

/// A database, read as an export of everything.
pub struct Record {
    /// What is said of it, not signed.
    pub statement: StatementText,
    /// What goes with the events.
    pub evidence: Evidence,
    /// The events.
    pub export: Export,
    store: Store,
}

/// Why a record in a database is not looked at.
pub enum Unopened {
    /// The database can't be read, or has no record that could prove itself.
    Failed(String),
    /// It is not what it was.
    Fault(Fault),
}

impl From<ReadError> for Unopened {
    fn from(error: ReadError) -> Self {
        match &error {
            // There is a root key, and it signs the first checkpoint when it is made.
            ReadError::NotFound => Self::Fault(Fault::Gap {
                at: Place::Log(LogName::Installation),
                what: "it has no checkpoint".to_owned(),
            }),
            ReadError::Store(StoreError::Inconsistent { table, .. })
            | ReadError::Tree(TreeError::Store(StoreError::Inconsistent { table, .. })) => {
                Self::Fault(Fault::altered(&format!("`{table}`"), error.to_string()))
            }
            ReadError::Tree(TreeError::Inconsistent { .. }) => {
                Self::Fault(Fault::altered("the tree", error.to_string()))
            }
            _ => Self::Failed(error.to_string()),
        }
    }
}

/// Opens the record in the database at `url`. The root key is `key`, or the one that the database
/// names.
///
/// # Errors
/// When it can't be read, has no record that could prove itself, or what is beside the events is not what it
/// was.
pub async fn open(url: &str, key: Option<NoteKey>, now: Timestamp) -> Result<Record, Unopened> {
    let store = Store::open(url).map_err(|error| Unopened::Failed(error.to_string()))?;
    let key = match key {
        Some(key) => key,
        None => root::public(&store).await.map_err(|error| Unopened::Failed(error.to_string()))?,
    };
    let begun = export::begin(&store, &key, &Filter::default(), now).await?;
    let mut export = begun.export;
    export.compare_columns();
    Ok(Record { statement: begun.statement, evidence: begun.evidence, export, store })
}

impl Record {
    /// What is gone of it by now.
    ///
    /// # Errors
    /// When the database is away.
    pub async fn gone(&self) -> Result<Gone, ReadError> {
        export::gone(&self.store, &self.statement.logs).await
    }

    /// How many numbered events are not under a checkpoint by now. ORDER: after all others, since a server that
    /// runs goes on.
    ///
    /// # Errors
    /// One of them can't be read or is not what it was, one is missing, or they wait for too long.
    pub async fn ahead(&self, now: Timestamp) -> Result<u64, Fault> {
        let unread = |error: StoreError| Fault::altered("the database", error.to_string());
        let mut ahead = 0;
        for entry in self.store.log_list().await.map_err(unread)? {
            let last = self.store.checkpoint_last(LogName::Node(*entry.log.node())).await.map_err(unread)?;
            ahead += behind(&self.store, &entry, last.map_or(0, |last| last.size), now).await?;
        }
        Ok(ahead)
    }
}

/// How many events of a log stand behind its first `size`.
async fn behind(store: &Store, entry: &LogEntry, size: u64, now: Timestamp) -> Result<u64, Fault> {
    let log = *entry.log.node();
    let (mut next, mut limit, mut late) = (size, PAGE, false);
    loop {
        let at = Place::Event { log, index: next };
        let page = match store.event_range(entry.log, next, u64::MAX, limit).await {
            // Once more alone, to know which of them can't be read.
            Err(_) if limit > 1 => {
                limit = 1;
                continue;
            }
            page => page.map_err(|error| Fault::Altered { at, what: error.to_string() })?,
        };
        if page.is_empty() {
            break;
        }
        for event in &page {
            follows(event, Place::Event { log, index: next }, next)?;
            late |= event.clear().time.plus(CHECKPOINT_WITHIN).is_over(now);
            next += 1;
        }
    }
    let (at, numbered) = (Place::Event { log, index: next }, u64::try_from(entry.size).unwrap_or(0));
    if next < numbered.max(size) {
        let what = format!("the log has numbered {}, and it is not here", numbered.max(size));
        return Err(Fault::Gap { at, what });
    }
    if late {
        let what = format!(
            "{} events from it on are under no checkpoint, and not since a moment: checkpoints were taken away, or no \
             server has made any since a crash, and makes them when it starts",
            next - size
        );
        return Err(Fault::Truncated { at: Place::Event { log, index: size }, what });
    }
    Ok(next - size)
}

/// Whether the event that is due is there, and is what its leaf says.
fn follows(event: &Recorded, at: Place, due: u64) -> Result<(), Fault> {
    if event.seq.and_then(|seq| u64::try_from(seq).ok()) != Some(due) {
        return Err(Fault::Gap { at, what: "it is not here, and one after it is".to_owned() });
    }
    event.verify().map_err(|error| Fault::Altered { at, what: error.to_string() })
}
