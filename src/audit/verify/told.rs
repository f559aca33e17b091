//! What is told of logs beside their events: by the checkpoints of an export, by the installation log, and by
//! the checkpoints that a witness kept.

use std::collections::BTreeMap;

use super::Verified;
use super::fault::{Fault, Place};
use super::log::LogState;
use crate::audit::checkpoint::{Checkpoint, LogName, origin};
use crate::audit::installation::Statement;
use crate::audit::merkle::{Frontier, Hash, leaf_hash};
use crate::audit::note::{Note, NoteKey};
use crate::model::NodeId;

/// The checkpoints of an export, by their logs.
pub(super) fn heads(notes: &[String], installation: &str) -> Result<BTreeMap<LogName, (Note, Checkpoint)>, Fault> {
    let mut heads = BTreeMap::new();
    for text in notes {
        let part = "a checkpoint";
        let note = Note::parse(text).map_err(|error| Fault::altered(part, error.to_string()))?;
        let checkpoint = Checkpoint::parse(&note.text).map_err(|error| Fault::altered(part, error.to_string()))?;
        let log = checkpoint
            .log(installation)
            .ok_or_else(|| Fault::altered(part, format!("`{}` is no log of this installation", checkpoint.origin)))?;
        if heads.insert(log, (note, checkpoint)).is_some() {
            return Err(Fault::altered(part, format!("there are two of {log}")));
        }
    }
    Ok(heads)
}

/// What the installation log tells of a log.
#[derive(Default)]
pub(super) struct ToldOf {
    pub(super) keys: Vec<NoteKey>,
    pub(super) sizes: BTreeMap<u64, Hash>,
}

/// What the installation log tells.
pub(super) struct Told {
    pub(super) logs: BTreeMap<NodeId, ToldOf>,
    pub(super) roots: Vec<Hash>,
}

impl Told {
    pub(super) fn read(leaves: &[String], root: &NoteKey, head: Option<(Note, Checkpoint)>) -> Result<Self, Fault> {
        let whole = || Place::Log(LogName::Installation);
        let (note, checkpoint) =
            head.ok_or_else(|| Fault::Gap { at: whole(), what: "it has no checkpoint".to_owned() })?;
        // The log's checkpoints are signed by the root key under the log's own name.
        let signer = NoteKey::new(&origin(root.name(), LogName::Installation), *root.public());
        if signer.is_none_or(|key| note.verify(&key).is_err()) {
            return Err(Fault::Altered { at: whole(), what: "its checkpoint is not signed by the root key".into() });
        }
        let mut frontier = Frontier::default();
        let mut told = Self { logs: BTreeMap::new(), roots: vec![frontier.root()] };
        for (index, leaf) in leaves.iter().enumerate() {
            let wrong = |what: &str| Fault::altered(&format!("statement {index} of the installation log"), what);
            let statement = Statement::parse(leaf).ok_or_else(|| wrong("it can't be read"))?;
            if statement.seq != frontier.size() {
                let what = format!("statement {} stands in the place of {index}", statement.seq);
                return Err(Fault::Gap { at: whole(), what });
            }
            frontier.push(leaf_hash(leaf.as_bytes()));
            told.roots.push(frontier.root());
            let of = told.logs.entry(statement.log).or_default();
            if let Some(key) = &statement.key {
                if !key.is_certified(root, statement.log) {
                    return Err(wrong("its key is not certified by the root key"));
                }
                of.keys.push(key.key.clone());
            } else if of.keys.is_empty() {
                return Err(wrong("it is about a log that was not opened"));
            }
            let before = of.sizes.insert(statement.size, statement.root);
            if before.is_some_and(|before| before != statement.root) {
                let what = format!("the installation log has two roots for its size {}", statement.size);
                return Err(Fault::Forked { at: Place::Log(LogName::Node(statement.log)), what });
            }
        }
        if checkpoint.size > frontier.size() {
            let what = format!("it has {} statements, and its checkpoint says {}", frontier.size(), checkpoint.size);
            return Err(Fault::Truncated { at: whole(), what });
        }
        if checkpoint.size != frontier.size() || checkpoint.root != frontier.root() {
            return Err(Fault::Altered {
                at: whole(),
                what: "its leaves do not lead to the root of its checkpoint".into(),
            });
        }
        Ok(told)
    }
}

/// Puts one witnessed checkpoint beside the record.
pub(super) fn witness(
    text: &str,
    installation: &str,
    root: &NoteKey,
    told: &Told,
    logs: &mut [LogState],
    verified: &mut Verified,
) -> Result<(), Fault> {
    let part = "a witnessed checkpoint";
    let note = Note::parse(text).map_err(|error| Fault::altered(part, error.to_string()))?;
    let checkpoint = Checkpoint::parse(&note.text).map_err(|error| Fault::altered(part, error.to_string()))?;
    let log = checkpoint.log(installation).ok_or_else(|| {
        Fault::altered(part, format!("`{}` is no log of this installation: its root key is another", checkpoint.origin))
    })?;
    let unsigned = || Fault::altered(part, format!("of {log}: it is not signed by a key that the root key certified"));
    let LogName::Node(node) = log else {
        let signer = NoteKey::new(&checkpoint.origin, *root.public());
        let size = usize::try_from(checkpoint.size).unwrap_or(usize::MAX);
        let Some(known) = told.roots.get(size) else {
            let has = told.roots.len().saturating_sub(1);
            let what = format!("a witness has {size} statements of it, and it has {has}");
            return Err(Fault::Truncated { at: Place::Log(log), what });
        };
        if *known != checkpoint.root {
            let what = format!("a witness has another root for its first {size} statements");
            return Err(Fault::Forked { at: Place::Log(log), what });
        }
        if signer.is_none_or(|key| note.verify(&key).is_err()) {
            return Err(unsigned());
        }
        verified.witnessed += 1;
        return Ok(());
    };
    let missing = || Fault::Gap { at: Place::Log(log), what: "a witness knows it, and it is not here".to_owned() };
    let state = logs.iter_mut().find(|state| state.node == node).ok_or_else(missing)?;
    if checkpoint.size > state.extent.size {
        let what = format!(
            "a witness has seen {} events, and there are {}: the end was cut off, or this export is older than the \
             witness's checkpoint and a new one is needed",
            checkpoint.size, state.extent.size
        );
        return Err(Fault::Truncated { at: Place::Event { log: node, index: state.extent.size }, what });
    }
    let size = checkpoint.size;
    let forked = |()| Fault::Forked { at: Place::Log(log), what: format!("there are two roots for its size {size}") };
    state.know(size, checkpoint.root, true).map_err(forked)?;
    let keys = told.logs.get(&node).map(|of| of.keys.as_slice()).unwrap_or_default();
    // A root that is another's is the worse news and is told when its size is reached.
    if size == state.extent.size && checkpoint.root != state.root {
        return Err(state.fork(size, true));
    }
    if !keys.iter().any(|key| note.verify(key).is_ok()) { Err(unsigned()) } else { Ok(()) }
}
