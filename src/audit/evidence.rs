//! What goes with exported events so that they prove themselves: the export's own statement, the
//! checkpoints, the installation log, and for each log the hashes of what lies before and after the
//! exported range.
//!
//! INVARIANT: each part has one exact text and is checked against it; the statement is signed by the
//! root key, so that neither filter nor range, nor how much of it has no content, can be changed afterwards.

use data_encoding::BASE64;
use serde::{Deserialize, Serialize};

use super::checkpoint::LogName;
use super::filter::{Filter, FilterText};
use super::merkle::Hash;
use super::note::{Note, NoteError, NoteKey, NoteSigner};
use crate::model::{NodeId, Timestamp};

/// The first line of a statement.
const STATEMENT_HEAD: &str = "doorward export v1";

/// One log in an export: the leaves `from..to` of `size` are in it, line by line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Extent {
    /// `nod_…`
    pub log: String,
    /// How many leaves the log has by its checkpoint.
    pub size: u64,
    /// The first leaf that is in the export.
    pub from: u64,
    /// The first that is not in it any more.
    pub to: u64,
    /// How many of them the filter leaves out, where leaves don't show whom it wants: by actor, grant or
    /// session.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub filtered: Option<u64>,
}

impl Extent {
    /// The log.
    #[must_use]
    pub fn node(&self) -> Option<NodeId> {
        match LogName::parse(&self.log) {
            Some(LogName::Node(node)) => Some(node),
            _ => None,
        }
    }
}

/// What of the record was gone when an export began. A line without its content proves nothing of why, so
/// more than this may not be gone of it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Gone {
    /// Events of before this may have been pruned by the time that they were read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pruned_before: Option<String>,
    /// Events that were erased as a whole, and those that were about to be.
    pub events: u64,
    /// Personal values that were erased.
    pub values: u64,
    /// Of them those of which the record tells behind the checkpoints.
    pub values_ahead: u64,
    /// Whose these are: pseudonyms. Older exports don't say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub people_ahead: Option<Vec<String>>,
    /// Everybody who was erased: pseudonyms. For where the events that tell of it are not there; an older export,
    /// or one of very many, doesn't say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub people: Option<Vec<String>>,
}

impl Gone {
    /// Events of before this may have been pruned.
    #[must_use]
    pub fn pruned_to(&self) -> Option<Timestamp> {
        Timestamp::parse(self.pruned_before.as_deref()?)
    }
}

/// What an export says of itself. Older ones say nothing of what was gone, nor how long the installation log
/// was.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StatementText {
    /// When it was made.
    pub made_at: String,
    /// What was asked for.
    pub filter: FilterText,
    /// The installation's root key.
    pub root_key: String,
    /// Every log, in the order in which their events stand.
    pub logs: Vec<Extent>,
    /// How many leaves the installation log has.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub installation: Option<u64>,
    /// What was gone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gone: Option<Gone>,
}

impl StatementText {
    /// A statement of `now`.
    #[must_use]
    pub fn new(now: Timestamp, filter: &Filter, root_key: &NoteKey, logs: Vec<Extent>) -> Self {
        let (made_at, root_key) = (now.to_string(), root_key.to_string());
        Self { made_at, filter: filter.text(), root_key, logs, installation: None, gone: None }
    }

    /// The statement as a note.
    #[must_use]
    pub fn sign(&self, root: &NoteSigner) -> String {
        root.sign(&self.text())
    }

    fn text(&self) -> String {
        // Our shapes can always be written.
        format!("{STATEMENT_HEAD}\n{}\n", serde_json::to_string(self).unwrap_or_default())
    }

    /// Reads the note and checks that the root key that it names signed it. Whether that is the right
    /// root key is another question.
    ///
    /// # Errors
    /// When it is no statement, or the signature is wrong.
    pub fn open(note: &str) -> Result<Self, NoteError> {
        let note = Note::parse(note)?;
        let json = note.text.strip_prefix(STATEMENT_HEAD).and_then(|rest| rest.strip_prefix('\n'));
        let read: Self = json.and_then(|json| serde_json::from_str(json).ok()).ok_or(NoteError::Form)?;
        if read.text() != note.text {
            return Err(NoteError::Form);
        }
        note.verify(&NoteKey::parse(&read.root_key)?)?;
        Ok(read)
    }
}

/// The hashes that lead from a log's exported leaves to its root.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RangeProof {
    /// `nod_…`
    pub log: String,
    /// The complete subtrees that cover what lies before, left to right.
    pub left: Vec<String>,
    /// Those that cover what lies behind.
    pub right: Vec<String>,
}

impl RangeProof {
    /// A proof with these hashes.
    #[must_use]
    pub fn new(log: NodeId, left: &[Hash], right: &[Hash]) -> Self {
        let written = |hashes: &[Hash]| hashes.iter().map(|hash| BASE64.encode(hash)).collect();
        Self { log: log.to_string(), left: written(left), right: written(right) }
    }

    /// Reads hashes as they are written.
    #[must_use]
    pub fn hashes(written: &[String]) -> Option<Vec<Hash>> {
        written.iter().map(|text| Hash::try_from(BASE64.decode(text.as_bytes()).ok()?).ok()).collect()
    }
}

/// Everything that goes with the events of an export.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Evidence {
    /// The statement, a signed note.
    pub statement: String,
    /// A checkpoint of each log, the installation's first, each a signed note.
    pub checkpoints: Vec<String>,
    /// The leaves of the installation log.
    pub installation: Vec<String>,
    /// For each log what leads to its root.
    pub proofs: Vec<RangeProof>,
}

/// The first line of an export in one piece.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Head {
    /// What goes with the events.
    pub evidence: Evidence,
}

impl Head {
    /// Its one line.
    #[must_use]
    pub fn line(&self) -> String {
        serde_json::to_string(self).unwrap_or_default()
    }

    /// Reads a line that is one, in its exact form.
    #[must_use]
    pub fn parse(line: &str) -> Option<Self> {
        let read: Self = serde_json::from_str(line).ok()?;
        (read.line() == line).then_some(read)
    }
}

/// The last line of an export in one piece: without it, the export broke off.
#[must_use]
pub fn end_line(events: u64) -> String {
    format!("{{\"end\":{{\"lines\":{events}}}}}")
}

/// The files of an export in a folder beside `events.jsonl`.
pub mod file {
    /// The events, one a line.
    pub const EVENTS: &str = "events.jsonl";
    /// A signed note for each log.
    pub const CHECKPOINTS: &str = "checkpoints.txt";
    /// The leaves of the installation log, one a line.
    pub const INSTALLATION: &str = "installation.log";
    /// Hashes of what lies before and after.
    pub const PROOFS: &str = "proofs.json";
    /// The statement, and size and SHA-256 of every other file.
    pub const MANIFEST: &str = "manifest.json";
    /// How to verify it, for the auditor.
    pub const README: &str = "README.md";
}

/// A file of an export.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FileSum {
    /// Its name.
    pub name: String,
    /// Its size.
    pub bytes: u64,
    /// Its SHA-256 in hexadecimal digits.
    pub sha256: String,
}

/// `manifest.json`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// The version of this form: 1.
    pub v: u8,
    /// The statement, a signed note.
    pub statement: String,
    /// Every other file.
    pub files: Vec<FileSum>,
}

impl Manifest {
    /// The file's text.
    #[must_use]
    pub fn text(&self) -> String {
        format!("{}\n", serde_json::to_string_pretty(self).unwrap_or_default())
    }

    /// Reads the file's text, in its exact form.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let read: Self = serde_json::from_str(text).ok()?;
        (read.v == 1 && read.text() == text).then_some(read)
    }
}

/// The text of `proofs.json`.
#[must_use]
pub fn proofs_text(proofs: &[RangeProof]) -> String {
    format!("{}\n", serde_json::to_string_pretty(proofs).unwrap_or_default())
}
