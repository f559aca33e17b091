//! The installation's root key: Ed25519, made at the first start, sealed in the database. It signs
//! every log's key, the installation log's checkpoints and the statement of every export.
//!
//! Its public key is what an auditor holds against everything else (`DOORWARD_AUDIT_KEY`).

use std::fmt;

use crate::audit::checkpoint::{LogName, installation_name, origin};
use crate::audit::note::{NoteError, NoteKey, NoteSigner};
use crate::credential::seal::{SealError, Sealer};
use crate::model::{Entropy, Secret, Timestamp};
use crate::store::{Store, StoreError};

/// What the seed is sealed for and kept under.
const PURPOSE: &str = "audit-root";
/// Where the public key stands, in clear: for `audit verify` on a database, which has no
/// key-encryption key. It anchors nothing.
const PUBLIC: &str = "audit-root-public";

/// Why there is no root key.
#[derive(Debug)]
pub enum RootError {
    /// The database did not do what it was asked.
    Store(StoreError),
    /// It is sealed under another key.
    Sealed(SealError),
    /// What was sealed is no key.
    Key(NoteError),
    /// None was made yet.
    None,
}

impl fmt::Display for RootError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Store(error) => write!(f, "the record's root key could not be read: {error}"),
            Self::Sealed(error) => write!(f, "the record's root key could not be opened: {error}"),
            Self::Key(_) => f.write_str("the record's root key is damaged; restore the database from a backup"),
            Self::None => {
                f.write_str("there is no root key of the record yet: `doorward serve` makes one at its first start")
            }
        }
    }
}

impl std::error::Error for RootError {}

impl From<StoreError> for RootError {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

impl From<SealError> for RootError {
    fn from(error: SealError) -> Self {
        Self::Sealed(error)
    }
}

/// The public key that a database names.
///
/// # Errors
/// When it names none that can be read.
pub async fn public(store: &Store) -> Result<NoteKey, RootError> {
    let bytes = store.installation_secret_fetch(PUBLIC).await?.ok_or(RootError::None)?;
    let text = String::from_utf8(bytes).map_err(|_| RootError::Key(NoteError::Key))?;
    NoteKey::parse(&text).map_err(RootError::Key)
}

/// The root key, open.
#[derive(Debug)]
pub struct Root {
    statements: NoteSigner,
    checkpoints: NoteSigner,
}

impl Root {
    fn of_seed(seed: &Secret<Vec<u8>>) -> Result<Self, RootError> {
        // The name follows from the key, so the key is made once to learn it.
        let nameless = NoteSigner::of_seed("doorward", seed).map_err(RootError::Key)?;
        let name = installation_name(nameless.key().public());
        let statements = NoteSigner::of_seed(&name, seed).map_err(RootError::Key)?;
        let log = origin(&name, LogName::Installation);
        let checkpoints = NoteSigner::of_seed(&log, seed).map_err(RootError::Key)?;
        Ok(Self { statements, checkpoints })
    }

    /// Opens the root key, and makes it if there is none yet. Of two nodes that start at once the
    /// first one's is kept.
    ///
    /// # Errors
    /// When the database is away, or the key is sealed under another key-encryption key.
    pub async fn ensure(
        store: &Store,
        sealer: &Sealer,
        now: Timestamp,
        entropy: &dyn Entropy,
    ) -> Result<Self, RootError> {
        let sealed = match store.installation_secret_fetch(PURPOSE).await? {
            Some(sealed) => sealed,
            None => {
                let fresh = sealer.seal(PURPOSE, &[], NoteSigner::fresh_seed(entropy).expose(), entropy)?;
                let mut tx = store.begin().await?;
                let kept = tx.installation_secret_keep(PURPOSE, &fresh, now).await?;
                let root = Self::of_seed(&sealer.open(PURPOSE, &[], &kept)?)?;
                tx.installation_secret_keep(PUBLIC, root.key().to_string().as_bytes(), now).await?;
                tx.commit().await?;
                kept
            }
        };
        Self::of_seed(&sealer.open(PURPOSE, &[], &sealed)?)
    }

    /// Opens the root key that there is.
    ///
    /// # Errors
    /// When there is none, the database is away, or the key is sealed under another key-encryption key.
    pub async fn open(store: &Store, sealer: &Sealer) -> Result<Self, RootError> {
        let sealed = store.installation_secret_fetch(PURPOSE).await?.ok_or(RootError::None)?;
        Self::of_seed(&sealer.open(PURPOSE, &[], &sealed)?)
    }

    /// What signs statements and certificates.
    #[must_use]
    pub const fn signer(&self) -> &NoteSigner {
        &self.statements
    }

    /// What signs the installation log's checkpoints: the same key under the log's name.
    #[must_use]
    pub const fn log_signer(&self) -> &NoteSigner {
        &self.checkpoints
    }

    /// The public key.
    #[must_use]
    pub const fn key(&self) -> &NoteKey {
        self.statements.key()
    }
}
