//! A record in a database, as `doorward audit verify` reads it: no server, no key-encryption key.

use std::path::{Path, PathBuf};

use percent_encoding::percent_decode_str;
use rustix::fs::{Access, access};

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
/// A node makes a checkpoint each second. No node goes on for this long without one.
const CHECKPOINT_WITHIN: Ttl = Ttl::seconds(60);
/// How long a server that runs may take for the next one: what it merges is old when it comes.
const NEXT_CHECKPOINT: std::time::Duration = std::time::Duration::from_secs(3);

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
    /// There is no such file.
    Nothing(String),
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
    let url = to_look(url)?;
    let store = Store::open_to_read(&url).map_err(|error| Unopened::Failed(error.to_string()))?;
    let key = match key {
        Some(key) => key,
        None => root::public(&store).await.map_err(|error| Unopened::Failed(error.to_string()))?,
    };
    let begun = export::begin(&store, &key, &Filter::default(), now).await?;
    let mut export = begun.export;
    export.compare_columns();
    Ok(Record { statement: begun.statement, evidence: begun.evidence, export, store })
}

/// The URL under which nothing is written. An SQLite file is evidence: it is not made where it is not, and none of
/// its bytes is changed.
fn to_look(url: &str) -> Result<String, Unopened> {
    let Some(rest) = url.strip_prefix("sqlite:") else { return Ok(url.to_owned()) };
    let (place, query) = rest.split_once('?').unwrap_or((rest, ""));
    let file = percent_decode_str(place.strip_prefix("//").unwrap_or(place)).decode_utf8_lossy();
    let file = Path::new(&*file);
    if !file.is_file() {
        return Err(Unopened::Nothing(format!("there is no database `{}`", file.display())));
    }
    let ours = |part: &&str| part.is_empty() || part.starts_with("mode=") || part.starts_with("immutable=");
    let mut query: Vec<&str> = query.split('&').filter(|part| !ours(part)).collect();
    query.push("mode=ro");
    // SQLite shares what it knows of a log of writes by a file beside it. Where it can't make one, nobody writes
    // here, and there is no such log, it reads without.
    let beside = |end: &str| PathBuf::from(format!("{}{end}", file.display())).exists();
    let folder = file.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    if access(folder, Access::WRITE_OK).is_err() && !beside("-wal") && !beside("-journal") {
        query.push("immutable=1");
    }
    Ok(format!("sqlite:{place}?{}", query.join("&")))
}

impl Record {
    /// What is gone of it by now.
    ///
    /// # Errors
    /// When the database is away.
    pub async fn gone(&self, now: Timestamp) -> Result<Gone, ReadError> {
        let gone = |running| export::gone(&self.store, &self.statement.logs, running);
        let numbered = gone(None).await?;
        if gone(Some(now)).await?.values_ahead == numbered.values_ahead {
            return Ok(numbered);
        }
        // A server that runs numbers it in a moment; a row that never gets a number accounts for nothing.
        tokio::time::sleep(NEXT_CHECKPOINT).await;
        gone(None).await
    }

    /// How many numbered events are not under a checkpoint by now. ORDER: after all others, since a server that
    /// runs goes on.
    ///
    /// # Errors
    /// One of them can't be read or is not what it was, one is missing, or they wait for too long.
    pub async fn ahead(&self) -> Result<u64, Fault> {
        let unread = |error: StoreError| Fault::altered("the database", error.to_string());
        let mut ahead = 0;
        for entry in self.store.log_list().await.map_err(unread)? {
            let name = LogName::Node(*entry.log.node());
            let size = async || {
                let last = self.store.checkpoint_last(name).await.map_err(unread)?;
                Ok::<_, Fault>(last.map_or(0, |last| last.size))
            };
            let under = size().await?;
            ahead += match behind(&self.store, &entry, under).await {
                Err(Fault::Truncated { .. }) => {
                    tokio::time::sleep(NEXT_CHECKPOINT).await;
                    behind(&self.store, &entry, size().await?).await?
                }
                counted => counted?,
            };
        }
        Ok(ahead)
    }
}

/// How many events of a log stand behind its first `size`. A node that stopped from one moment to the next left
/// those of that moment; what is of longer, it made without a checkpoint, or that was taken away.
async fn behind(store: &Store, entry: &LogEntry, size: u64) -> Result<u64, Fault> {
    let log = *entry.log.node();
    let (mut next, mut limit) = (size, PAGE);
    let mut times: Option<(Timestamp, Timestamp)> = None;
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
            let time = event.clear().time;
            times = Some(times.map_or((time, time), |(first, last)| (first.min(time), last.max(time))));
            next += 1;
        }
    }
    let (at, numbered) = (Place::Event { log, index: next }, u64::try_from(entry.size).unwrap_or(0));
    if next < numbered.max(size) {
        let what = format!("the log has numbered {}, and it is not here", numbered.max(size));
        return Err(Fault::Gap { at, what });
    }
    if times.is_some_and(|(first, last)| first.plus(CHECKPOINT_WITHIN) < last) {
        let what = format!(
            "{} events from it on, of more than {CHECKPOINT_WITHIN}, are under no checkpoint: checkpoints were taken \
             away, or could not be made",
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
