//! Checkpoints (C2SP tlog-checkpoint): a log's name, size and root, signed by the log's key.
//!
//! A log is named by the installation and the node: `doorward-<16 hex>/nod_…`, and the
//! installation's own log `doorward-<16 hex>/installation`; the sixteen digits are the beginning of the
//! SHA-256 of the root key. So a checkpoint can't be shown for another installation's.

use std::fmt;

use data_encoding::{BASE64, HEXLOWER};
use sha2::{Digest, Sha256};

use super::merkle::Hash;
use super::note::{Note, NoteError, NoteKey, NoteSigner};
use crate::model::NodeId;

/// What the installation's own log is called.
const INSTALLATION: &str = "installation";

/// Which log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum LogName {
    /// The log that names all logs.
    Installation,
    /// The log of a node.
    Node(NodeId),
}

impl LogName {
    /// Reads `installation` or `nod_…`.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        if text == INSTALLATION { Some(Self::Installation) } else { NodeId::parse(text).ok().map(Self::Node) }
    }
}

impl fmt::Display for LogName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Installation => f.write_str(INSTALLATION),
            Self::Node(node) => node.fmt(f),
        }
    }
}

/// The name of an installation's root key: what all its logs' names begin with.
#[must_use]
pub fn installation_name(root_public: &[u8; 32]) -> String {
    let digest: [u8; 32] = Sha256::digest(root_public).into();
    format!("doorward-{}", HEXLOWER.encode(digest.first_chunk::<8>().unwrap_or(&[0; 8])))
}

/// How a log is called in its checkpoints, and how its key is.
#[must_use]
pub fn origin(installation: &str, log: LogName) -> String {
    format!("{installation}/{log}")
}

/// What a checkpoint says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Checkpoint {
    /// The log's whole name.
    pub origin: String,
    /// How many leaves it has.
    pub size: u64,
    /// The root over them.
    pub root: Hash,
}

impl Checkpoint {
    /// The text that is signed.
    #[must_use]
    pub fn text(&self) -> String {
        format!("{}\n{}\n{}\n", self.origin, self.size, BASE64.encode(&self.root))
    }

    /// The checkpoint as a note, signed.
    #[must_use]
    pub fn sign(&self, signer: &NoteSigner) -> String {
        signer.sign(&self.text())
    }

    /// Reads the text of a note.
    ///
    /// # Errors
    /// When it is of another form; extension lines are refused too.
    pub fn parse(text: &str) -> Result<Self, NoteError> {
        let mut lines = text.split('\n');
        let (Some(origin), Some(size), Some(root), Some(""), None) =
            (lines.next(), lines.next(), lines.next(), lines.next(), lines.next())
        else {
            return Err(NoteError::Form);
        };
        let size = size.parse().map_err(|_| NoteError::Form)?;
        let root = BASE64.decode(root.as_bytes()).map_err(|_| NoteError::Form)?;
        let root = Hash::try_from(root).map_err(|_| NoteError::Form)?;
        let read = Self { origin: origin.to_owned(), size, root };
        if read.text() == text { Ok(read) } else { Err(NoteError::Form) }
    }

    /// Reads a note and checks that `key` signed it.
    ///
    /// # Errors
    /// When it is no checkpoint, or not signed by that key.
    pub fn open(note: &str, key: &NoteKey) -> Result<Self, NoteError> {
        let note = Note::parse(note)?;
        note.verify(key)?;
        Self::parse(&note.text)
    }

    /// Which log of this installation it is about.
    #[must_use]
    pub fn log(&self, installation: &str) -> Option<LogName> {
        LogName::parse(self.origin.strip_prefix(installation)?.strip_prefix('/')?)
    }
}
