//! Opening the record: the installation's pseudonym secret and this node's log.

use std::fmt;
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
}

impl fmt::Display for OpenRecordError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Store(_) => f.write_str("the record could not be opened"),
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
    let sealing = Arc::new(Sealing::new(pseudonyms, entropy));
    Ok(store.log_open(node, sealing, now).await?)
}
