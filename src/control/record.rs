//! Opening the record: the installation's pseudonym secret and this node's log.

use std::fmt;
use std::fs;
use std::io;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::Arc;

use crate::audit::{Pseudonyms, Sealing};
use crate::credential::seal::{SealError, Sealer};
use crate::model::{Entropy, NodeId, Timestamp};
use crate::store::{Log, Store, StoreError};

/// What the secret is called in the database, and what it is sealed for.
const PURPOSE: &str = "pseudonym";

/// Why the record could not be opened.
#[derive(Debug)]
pub enum OpenRecordError {
    /// The database did not do what it was asked.
    Store(StoreError),
    /// The pseudonym secret is sealed under another key.
    Sealed(SealError),
    /// The pseudonym secret is not on disk.
    File(io::Error),
}

impl fmt::Display for OpenRecordError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Store(_) => f.write_str("the record could not be opened"),
            Self::File(_) => f.write_str("the pseudonym secret could not be read from or kept on disk"),
            Self::Sealed(_) => f.write_str(
                "the record could not be opened: give the key-encryption key that this database was made with",
            ),
        }
    }
}

impl std::error::Error for OpenRecordError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Store(error) => Some(error),
            Self::Sealed(error) => Some(error),
            Self::File(error) => Some(error),
        }
    }
}

impl From<StoreError> for OpenRecordError {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

impl From<SealError> for OpenRecordError {
    fn from(error: SealError) -> Self {
        Self::Sealed(error)
    }
}

/// Opens the log of `node`. The pseudonym secret is made when there is none yet; of two nodes
/// that start at once, the first one's is kept.
///
/// # Errors
/// When the database is away, or was made with another key-encryption key.
pub async fn open(
    store: &Store,
    sealer: &Sealer,
    node: NodeId,
    now: Timestamp,
    entropy: Arc<dyn Entropy>,
) -> Result<Log, OpenRecordError> {
    let sealed = match store.installation_secret_fetch(PURPOSE).await? {
        Some(sealed) => sealed,
        None => {
            let fresh = sealer.seal(PURPOSE, &[], &entropy.bytes_32(), &*entropy)?;
            let mut tx = store.begin().await?;
            let kept = tx.installation_secret_keep(PURPOSE, &fresh, now).await?;
            tx.commit().await?;
            kept
        }
    };
    let pseudonyms = Pseudonyms::new(&sealer.open(PURPOSE, &[], &sealed)?);
    // ORDER: before anything is sealed, so that nothing is added to the trail of who was erased.
    pseudonyms.retire(store.pseudonyms_retired().await?);
    let sealing = Arc::new(Sealing::new(pseudonyms, entropy));
    Ok(store.log_open(node, sealing, now).await?)
}

/// What this node seals events with, from the sealed secret on disk.
///
/// # Errors
/// When there is none, or it was sealed under another key.
pub fn open_from_file(
    sealer: &Sealer,
    path: &Path,
    entropy: Arc<dyn Entropy>,
) -> Result<Arc<Sealing>, OpenRecordError> {
    let sealed = fs::read(path).map_err(OpenRecordError::File)?;
    let pseudonyms = Pseudonyms::new(&sealer.open(PURPOSE, &[], &sealed)?);
    Ok(Arc::new(Sealing::new(pseudonyms, entropy)))
}

/// Keeps the sealed pseudonym secret on disk, for a start without the database.
///
/// # Errors
/// When the database is away or the file can't be written.
pub async fn keep_file(store: &Store, path: &Path) -> Result<(), OpenRecordError> {
    let Some(sealed) = store.installation_secret_fetch(PURPOSE).await? else {
        return Ok(());
    };
    if fs::read(path).is_ok_and(|there| there == sealed) {
        return Ok(());
    }
    let fresh = path.with_extension("sealed.new");
    let written = fs::remove_file(&fresh)
        .or_else(|error| if error.kind() == io::ErrorKind::NotFound { Ok(()) } else { Err(error) })
        .and_then(|()| fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&fresh))
        .and_then(|mut file| file.write_all(&sealed).and_then(|()| file.sync_all()))
        .and_then(|()| fs::rename(&fresh, path));
    written.map_err(OpenRecordError::File)
}
