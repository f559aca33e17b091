//! The installation log: which logs there are. Its leaves are not events but statements about
//! logs, in the order of their making, and its checkpoints are signed by the root key itself.
//!
//! ```text
//! {"v":1,"log":"installation","seq":0,"time":"…","type":"log.opened","name":"nod_…","size":0,
//!  "root":"…base64…","key":"doorward-…/nod_…+hash+base64","certificate":"…a signed note…"}
//! ```
//!
//! `log.opened` stands at each start of a node, `log.key_changed` where its key is followed by another,
//! `log.sized` from time to time and `log.closed` when a node stops in good order. `key` and
//! `certificate` are there in the first two only: the certificate is the root key's note about key and log.
//!
//! INVARIANT: one statement has one text, which is what is hashed.

use data_encoding::BASE64;
use serde_json::Value;

use super::checkpoint::{LogName, installation_name, origin};
use super::json::Object;
use super::merkle::Hash;
use super::note::{Note, NoteKey, NoteSigner};
use crate::model::{NodeId, Timestamp};

/// The first line of what certifies a log's key.
const CERTIFICATE_HEAD: &str = "doorward log key v1";

/// What is said of a log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum StatementKind {
    /// A node began, with this key.
    Opened,
    /// From this size on, another key signs.
    KeyChanged,
    /// It has at least this size.
    Sized,
    /// A node stopped in good order.
    Closed,
}

impl StatementKind {
    /// The dotted name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Opened => "log.opened",
            Self::KeyChanged => "log.key_changed",
            Self::Sized => "log.sized",
            Self::Closed => "log.closed",
        }
    }

    fn parse(text: &str) -> Option<Self> {
        [Self::Opened, Self::KeyChanged, Self::Sized, Self::Closed].into_iter().find(|kind| kind.name() == text)
    }
}

/// A log's key and what the root key says of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogKey {
    /// The key.
    pub key: NoteKey,
    /// The root key's note.
    pub certificate: String,
}

impl LogKey {
    /// Certifies `key` for checkpoints of `log`.
    #[must_use]
    pub fn certify(root: &NoteSigner, log: NodeId, key: NoteKey) -> Self {
        let certificate = root.sign(&certified(root.key(), log, &key));
        Self { key, certificate }
    }

    /// Whether the root key says so.
    #[must_use]
    pub fn is_certified(&self, root: &NoteKey, log: NodeId) -> bool {
        Note::parse(&self.certificate).is_ok_and(|note| {
            note.text == certified(root, log, &self.key)
                && note.verify(root).is_ok()
                && self.key.name() == origin_of(root, log)
        })
    }
}

fn certified(root: &NoteKey, log: NodeId, key: &NoteKey) -> String {
    format!("{CERTIFICATE_HEAD}\n{}\n{key}\n", origin_of(root, log))
}

fn origin_of(root: &NoteKey, log: NodeId) -> String {
    origin(&installation_name(root.public()), LogName::Node(log))
}

/// One leaf of the installation log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Statement {
    /// Its place.
    pub seq: u64,
    /// When it was made.
    pub time: Timestamp,
    /// What it says.
    pub kind: StatementKind,
    /// Of which log.
    pub log: NodeId,
    /// The size that the log had.
    pub size: u64,
    /// Its root then.
    pub root: Hash,
    /// Its key, where it begins to sign.
    pub key: Option<LogKey>,
}

impl Statement {
    /// The leaf's exact text.
    #[must_use]
    pub fn leaf(&self) -> String {
        let mut out = String::with_capacity(256);
        let mut leaf = Object::open(&mut out);
        leaf.key("v").push('1');
        leaf.plain("log", LogName::Installation);
        leaf.key("seq").push_str(&self.seq.to_string());
        leaf.plain("time", self.time);
        leaf.text("type", self.kind.name());
        leaf.plain("name", self.log);
        leaf.key("size").push_str(&self.size.to_string());
        leaf.plain("root", BASE64.encode(&self.root));
        if let Some(key) = &self.key {
            leaf.whole("key", &key.key.to_string());
            leaf.whole("certificate", &key.certificate);
        }
        leaf.close();
        out
    }

    /// Reads a leaf; none unless it is in its exact form.
    #[must_use]
    pub fn parse(leaf: &str) -> Option<Self> {
        let value: Value = serde_json::from_str(leaf).ok()?;
        let text = |key: &str| value.get(key).and_then(Value::as_str);
        let kind = StatementKind::parse(text("type")?)?;
        let key = match kind {
            StatementKind::Opened | StatementKind::KeyChanged => {
                Some(LogKey { key: NoteKey::parse(text("key")?).ok()?, certificate: text("certificate")?.to_owned() })
            }
            StatementKind::Sized | StatementKind::Closed => None,
        };
        let read = Self {
            seq: value.get("seq")?.as_u64()?,
            time: Timestamp::parse(text("time")?)?,
            kind,
            log: NodeId::parse(text("name")?).ok()?,
            size: value.get("size")?.as_u64()?,
            root: Hash::try_from(BASE64.decode(text("root")?.as_bytes()).ok()?).ok()?,
            key,
        };
        (read.leaf() == leaf).then_some(read)
    }
}
