//! A record in a database, as `doorward audit verify` reads it: no server, no key-encryption key.

use crate::audit::evidence::{Evidence, StatementText};
use crate::audit::filter::Filter;
use crate::audit::note::NoteKey;
use crate::control::audit::export::{self, Export};
use crate::control::audit::read::ReadError;
use crate::control::audit::root;
use crate::model::Timestamp;
use crate::store::Store;

/// A database, read as an export of everything.
pub struct Record {
    /// What is said of it, not signed.
    pub statement: StatementText,
    /// What goes with the events.
    pub evidence: Evidence,
    /// The events.
    pub export: Export,
}

/// Opens the record in the database at `url`. The root key is `key`, or the one that the database
/// names.
///
/// # Errors
/// When it can't be read, or has no record that could prove itself.
pub async fn open(url: &str, key: Option<NoteKey>, now: Timestamp) -> Result<Record, String> {
    let store = Store::open(url).map_err(|error| error.to_string())?;
    let key = match key {
        Some(key) => key,
        None => root::public(&store).await.map_err(|error| error.to_string())?,
    };
    let begun =
        export::begin(&store, &key, &Filter::default(), now).await.map_err(|error: ReadError| error.to_string())?;
    let mut export = begun.export;
    export.compare_columns();
    Ok(Record { statement: begun.statement, evidence: begun.evidence, export })
}
