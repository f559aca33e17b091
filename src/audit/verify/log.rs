//! One log while its lines come: what of it is known beforehand, and whether its leaves lead there.

use std::collections::BTreeMap;

use super::Verified;
use super::fault::{Fault, Place};
use super::told::Told;
use crate::audit::checkpoint::{Checkpoint, LogName};
use crate::audit::evidence::{Extent, RangeProof};
use crate::audit::merkle::{Frontier, Hash, cover};
use crate::audit::note::Note;
use crate::model::NodeId;

/// Sizes of one log that are looked at on the way at most; of more, every second one is left out, the
/// largest never.
const SIZES_MAX: usize = 32_768;

/// A root that is known for a size.
struct Known {
    root: Hash,
    witnessed: bool,
}

pub(super) struct LogState {
    pub(super) node: NodeId,
    pub(super) extent: Extent,
    pub(super) root: Hash,
    right: Vec<Hash>,
    pub(super) frontier: Frontier,
    known: BTreeMap<u64, Known>,
    passed: u64,
    /// Lines that the filter left out, so far.
    pub(super) filtered: u64,
}

impl LogState {
    pub(super) fn new(
        node: NodeId,
        extent: &Extent,
        proof: Option<&RangeProof>,
        head: Option<(Note, Checkpoint)>,
        told: &Told,
    ) -> Result<Self, Fault> {
        let whole = || Place::Log(LogName::Node(node));
        let wrong = |what: &str| Fault::Altered { at: whole(), what: what.to_owned() };
        let told_of = told.logs.get(&node).ok_or_else(|| wrong("the installation log does not name it"))?;
        let (note, checkpoint) =
            head.ok_or_else(|| Fault::Gap { at: whole(), what: "it has no checkpoint".to_owned() })?;
        if !told_of.keys.iter().any(|key| note.verify(key).is_ok()) {
            return Err(wrong("its checkpoint is not signed by a key that the root key certified"));
        }
        if checkpoint.size != extent.size || extent.from > extent.to || extent.to > extent.size {
            return Err(wrong("its size or range is not that of its checkpoint"));
        }
        let proof = proof.filter(|proof| proof.log == extent.log).ok_or_else(|| wrong("it has no proof"))?;
        let hashes = |written| RangeProof::hashes(written).ok_or_else(|| wrong("its proof can't be read"));
        let (left, right) = (hashes(&proof.left)?, hashes(&proof.right)?);
        let frontier = Frontier::with_peaks(extent.from, &left)
            .ok_or_else(|| wrong("its proof has not the hashes that it needs"))?;
        let mut log = Self {
            node,
            extent: extent.clone(),
            root: checkpoint.root,
            right,
            frontier,
            known: BTreeMap::new(),
            passed: extent.from,
            filtered: 0,
        };
        for (size, root) in &told_of.sizes {
            if *size > extent.size {
                let what = format!("the installation log says that it had {size} events, and it has {}", extent.size);
                return Err(Fault::Truncated { at: Place::Event { log: node, index: extent.size }, what });
            }
            log.known.insert(*size, Known { root: *root, witnessed: false });
        }
        Ok(log)
    }

    /// Notes a root for a size, if there is none yet.
    pub(super) fn know(&mut self, size: u64, root: Hash, witnessed: bool) -> Result<(), ()> {
        let known = self.known.entry(size).or_insert(Known { root, witnessed });
        known.witnessed |= witnessed;
        if known.root == root { Ok(()) } else { Err(()) }
    }

    /// Leaves out every second size while there are too many, never the largest one.
    pub(super) fn thin(&mut self) {
        while self.known.len() > SIZES_MAX {
            let last = self.known.keys().next_back().copied();
            let mut odd = false;
            self.known.retain(|size, _| {
                odd = !odd;
                odd || Some(*size) == last
            });
        }
    }

    /// Compares the root with what is known for this size.
    pub(super) fn look(&mut self) -> Result<(), Fault> {
        let size = self.frontier.size();
        let Some(known) = self.known.get(&size) else { return Ok(()) };
        if known.root == self.frontier.root() {
            self.passed = size;
            return Ok(());
        }
        Err(self.fork(size, known.witnessed))
    }

    pub(super) fn fork(&self, size: u64, witnessed: bool) -> Fault {
        let at = Place::Event { log: self.node, index: self.passed };
        let who = if witnessed { "a witness" } else { "the installation log" };
        let what = format!(
            "the events from it to {} do not lead to the root that {who} has for {size} events",
            size.saturating_sub(1)
        );
        if witnessed { Fault::Forked { at, what } } else { Fault::Altered { at, what } }
    }

    /// After the last line of the log: does everything lead to the checkpoint's root?
    pub(super) fn close(&mut self, verified: &mut Verified) -> Result<(), Fault> {
        if let Some(due) = self.extent.filtered.filter(|due| self.filtered > *due) {
            let what = format!("{} events are left out by the filter, and it leaves out {due}", self.filtered);
            return Err(Fault::Altered { at: Place::Log(LogName::Node(self.node)), what });
        }
        let at = Place::Event { log: self.node, index: self.passed };
        let nodes = cover(self.extent.to, self.extent.size);
        let fits = nodes.len() == self.right.len()
            && nodes.iter().zip(&self.right).all(|(node, hash)| self.frontier.push_node(node.level, *hash));
        if !fits {
            return Err(Fault::Altered { at, what: "its proof has not the hashes that it needs".into() });
        }
        if self.frontier.root() != self.root {
            let last = self.extent.to.saturating_sub(1);
            let what = format!("the events from it to {last} do not lead to the root of the log's checkpoint");
            return Err(Fault::Altered { at, what });
        }
        let size = self.extent.size;
        if let Some(known) = self.known.get(&size)
            && known.root != self.root
        {
            return Err(self.fork(size, known.witnessed));
        }
        for (at, known) in &self.known {
            let reached = (*at > self.extent.from && *at <= self.extent.to) || *at == size || *at == 0;
            match (known.witnessed, reached) {
                (true, true) => verified.witnessed += 1,
                (true, false) => verified.unreached += 1,
                (false, _) => {}
            }
        }
        Ok(())
    }
}
