//! Whether a record is what it was: events against their leaves, leaves against the trees, trees
//! against checkpoints, checkpoints against keys, and the whole against what is anchored outside: the
//! root key and the checkpoints that a witness kept.
//!
//! 1. The statement names the root key; the installation log's checkpoint is signed by it and its leaves
//!    lead to that checkpoint. They name every log and its keys.
//! 2. Every log's checkpoint is signed by a key that the root key certified.
//! 3. The events of each log come in their order. Their leaves, with the hashes of what lies before and
//!    after, lead to that checkpoint, and on the way to every root that the installation log or a
//!    witness has for a size that is passed.
//!
//! INVARIANT: nothing that can't be read is skipped; the first thing that is wrong ends it and is named.
//! Memory does not grow with the number of events.

use std::collections::BTreeMap;
use std::fmt;

use super::checkpoint::{Checkpoint, LogName, installation_name, origin};
use super::evidence::{Evidence, Extent, RangeProof, StatementText};
use super::filter::Filter;
use super::installation::Statement;
use super::line::{CheckedLine, ErasedTold, LineError, Withheld};
use super::merkle::{Frontier, Hash, cover, leaf_hash};
use super::note::{Note, NoteKey};
use crate::model::{NodeId, Timestamp};

/// Sizes of one log that are looked at on the way at most; of more, every second one is left out, the
/// largest never.
const SIZES_MAX: usize = 32_768;

/// What is wrong with a record. Each kind has its exit code.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fault {
    /// Something is not what it was. 10
    Altered { at: Place, what: String },
    /// An event, or a whole log, is missing. 11
    Gap { at: Place, what: String },
    /// The end is missing. 12
    Truncated { at: Place, what: String },
    /// There is, or was, another history. 13
    Forked { at: Place, what: String },
}

impl Fault {
    /// The exit code of `audit verify`.
    #[must_use]
    pub const fn code(&self) -> u8 {
        match self {
            Self::Altered { .. } => 10,
            Self::Gap { .. } => 11,
            Self::Truncated { .. } => 12,
            Self::Forked { .. } => 13,
        }
    }

    /// One word for it.
    #[must_use]
    pub const fn word(&self) -> &'static str {
        match self {
            Self::Altered { .. } => "altered",
            Self::Gap { .. } => "gap",
            Self::Truncated { .. } => "truncated",
            Self::Forked { .. } => "forked",
        }
    }

    /// Where it is.
    #[must_use]
    pub const fn place(&self) -> &Place {
        match self {
            Self::Altered { at, .. } | Self::Gap { at, .. } | Self::Truncated { at, .. } | Self::Forked { at, .. } => {
                at
            }
        }
    }

    /// Something that is not about one event was altered.
    #[must_use]
    pub fn altered(part: &str, what: impl Into<String>) -> Self {
        Self::Altered { at: Place::Part(part.to_owned()), what: what.into() }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (Self::Altered { at, what }
        | Self::Gap { at, what }
        | Self::Truncated { at, what }
        | Self::Forked { at, what }) = self;
        write!(f, "{}: {at}: {what}", self.word())
    }
}

impl std::error::Error for Fault {}

/// Where something is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// At an event.
    Event {
        /// In this log.
        log: NodeId,
        /// At this place of it.
        index: u64,
    },
    /// In a log as a whole.
    Log(LogName),
    /// In something else that belongs to the record.
    Part(String),
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Event { log, index } => write!(f, "event {index} of {log}"),
            Self::Log(log) => write!(f, "log {log}"),
            Self::Part(part) => f.write_str(part),
        }
    }
}

/// What the auditor has from elsewhere.
#[derive(Debug, Clone, Default)]
pub struct Anchor {
    /// The installation's root key.
    pub key: Option<NoteKey>,
    /// Checkpoints that a witness kept, each a signed note.
    pub witnessed: Vec<String>,
}

/// What was found of a record that is whole.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Verified {
    /// Logs of nodes.
    pub logs: usize,
    /// Lines that were checked.
    pub lines: u64,
    /// Of them left out by the filter.
    pub filtered: u64,
    /// Of them pruned.
    pub pruned: u64,
    /// Personal values that were erased.
    pub erased: u64,
    /// Events that were erased as a whole.
    pub erased_events: u64,
    /// Personal values that are gone and that no erasure on record tells of, so far as all of it is here.
    pub erased_untold: u64,
    /// Witnessed checkpoints that agree.
    pub witnessed: usize,
    /// Witnessed checkpoints of sizes outside what is here.
    pub unreached: usize,
    /// Whether a key or a witnessed checkpoint from elsewhere holds it.
    pub anchored: bool,
}

/// A root that is known for a size.
struct Known {
    root: Hash,
    witnessed: bool,
}

struct LogState {
    node: NodeId,
    extent: Extent,
    root: Hash,
    right: Vec<Hash>,
    frontier: Frontier,
    known: BTreeMap<u64, Known>,
    passed: u64,
}

/// Checks a record while its lines come.
pub struct Verifier {
    filter: Filter,
    logs: Vec<LogState>,
    current: usize,
    verified: Verified,
    pruned_latest: Option<Timestamp>,
    pruned_before: Option<Timestamp>,
    erased_told: ErasedTold,
}

impl Verifier {
    /// Checks everything that goes with the events.
    ///
    /// # Errors
    /// The first thing that is wrong.
    pub fn new(evidence: &Evidence, anchor: &Anchor) -> Result<Self, Fault> {
        let statement = StatementText::open(&evidence.statement)
            .map_err(|error| Fault::altered("the statement of the export", error.to_string()))?;
        Self::of_statement(&statement, evidence, anchor)
    }

    /// The same for a record whose statement needs no signature, since it was made just now by whoever
    /// verifies.
    ///
    /// # Errors
    /// The first thing that is wrong.
    pub fn of_statement(statement: &StatementText, evidence: &Evidence, anchor: &Anchor) -> Result<Self, Fault> {
        let part = "the statement of the export";
        let root = NoteKey::parse(&statement.root_key).map_err(|error| Fault::altered(part, error.to_string()))?;
        if let Some(expected) = &anchor.key
            && *expected != root
        {
            let what = format!("it is signed by the root key `{root}`, not by the one that was given, `{expected}`");
            return Err(Fault::altered(part, what));
        }
        let filter = Filter::parse(&statement.filter).map_err(|what| Fault::altered(part, what))?;
        let installation = installation_name(root.public());
        if root.name() != installation {
            return Err(Fault::altered(part, "the root key has another name than it must have"));
        }
        let mut heads = heads(&evidence.checkpoints, &installation)?;
        let told = Told::read(&evidence.installation, &root, heads.remove(&LogName::Installation))?;
        let mut logs = Vec::new();
        let mut proofs = evidence.proofs.iter();
        for extent in &statement.logs {
            let node = extent.node().ok_or_else(|| Fault::altered(part, "a log in it has no name"))?;
            logs.push(LogState::new(node, extent, proofs.next(), heads.remove(&LogName::Node(node)), &told)?);
        }
        if proofs.next().is_some() || !heads.is_empty() {
            return Err(Fault::altered(
                "the proofs or checkpoints",
                "there are some of logs that are not in the export",
            ));
        }
        for node in told.logs.keys() {
            if !logs.iter().any(|log| log.node == *node) {
                let what = "the installation log names it, and it is not here".to_owned();
                return Err(Fault::Gap { at: Place::Log(LogName::Node(*node)), what });
            }
        }
        let mut verified = Verified { logs: logs.len(), anchored: anchor.key.is_some(), ..Verified::default() };
        for note in &anchor.witnessed {
            witness(note, &installation, &root, &told, &mut logs, &mut verified)?;
        }
        for log in &mut logs {
            log.thin();
        }
        let erased_told = ErasedTold::default();
        let mut verifier =
            Self { filter, logs, current: 0, verified, pruned_latest: None, pruned_before: None, erased_told };
        verifier.skip_ended()?;
        Ok(verifier)
    }

    /// Which event has to come next.
    #[must_use]
    pub fn next(&self) -> Option<Place> {
        let log = self.logs.get(self.current)?;
        Some(Place::Event { log: log.node, index: log.frontier.size() })
    }

    /// How many lines there are to be.
    #[must_use]
    pub fn lines_total(&self) -> u64 {
        self.logs.iter().map(|log| log.extent.to.saturating_sub(log.extent.from)).sum()
    }

    /// Takes the next line, checked by itself.
    ///
    /// # Errors
    /// What is wrong, if it is.
    pub fn take(&mut self, line: Result<CheckedLine, LineError>) -> Result<(), Fault> {
        let Some(log) = self.logs.get_mut(self.current) else {
            return Err(Fault::altered("the events", "there are more lines than the export says"));
        };
        let index = log.frontier.size();
        let at = Place::Event { log: log.node, index };
        let line = line.map_err(|error| Fault::Altered { at: at.clone(), what: error.to_string() })?;
        let seq = u64::try_from(line.leaf.seq).unwrap_or(u64::MAX);
        if line.leaf.log != log.node || seq > index {
            return Err(Fault::Gap { at, what: format!("event {seq} of {} stands in its place", line.leaf.log) });
        }
        if seq < index {
            return Err(Fault::Altered {
                at,
                what: format!("event {seq} stands in its place, which was there before"),
            });
        }
        let wanted = self.filter.surely_wants(&line.leaf);
        match line.withheld {
            Some(Withheld::Filtered) if wanted => {
                return Err(Fault::Altered {
                    at,
                    what: "its content was left out against the export's own filter".into(),
                });
            }
            Some(Withheld::Filtered) => self.verified.filtered += 1,
            Some(Withheld::Pruned) => {
                self.verified.pruned += 1;
                self.pruned_latest = self.pruned_latest.max(Some(line.leaf.time));
            }
            Some(Withheld::Erased) => self.verified.erased_events += 1,
            None => {}
        }
        self.pruned_before = self.pruned_before.max(line.pruned_before.as_deref().and_then(Timestamp::parse));
        self.verified.lines += 1;
        self.verified.erased += u64::try_from(line.erased).unwrap_or(0);
        self.erased_told.add(line.erased_told);
        log.frontier.push(line.hash);
        log.look()?;
        self.skip_ended()
    }

    /// Goes on to the next log when one has all its lines.
    fn skip_ended(&mut self) -> Result<(), Fault> {
        while let Some(log) = self.logs.get_mut(self.current)
            && log.frontier.size() == log.extent.to
        {
            log.close(&mut self.verified)?;
            self.current += 1;
        }
        Ok(())
    }

    /// After the last line.
    ///
    /// # Errors
    /// When there should have been more, or old events are missing their content without a reason.
    pub fn end(self) -> Result<Verified, Fault> {
        if let Some(at) = self.next() {
            let what = "the record ends before it".to_owned();
            return Err(match self.current + 1 == self.logs.len() || self.rest_is_empty() {
                true => Fault::Truncated { at, what },
                false => Fault::Gap { at, what: "it and all that follow it, of other logs too, are missing".into() },
            });
        }
        if self.filter.is_all()
            && let Some(latest) = self.pruned_latest
            && self.pruned_before.is_none_or(|before| latest >= before)
        {
            let what = format!("an event of {latest} has no content, and no pruning that reaches it is on record");
            return Err(Fault::altered("the events", what));
        }
        if self.filter.is_all()
            && let Some(what) = self.erased_told.missing(self.verified.erased_events)
        {
            return Err(Fault::altered("the events", what));
        }
        let mut verified = self.verified;
        if self.filter.is_all() {
            verified.erased_untold = verified.erased.saturating_sub(self.erased_told.values);
        }
        verified.anchored |= verified.witnessed > 0;
        Ok(verified)
    }

    fn rest_is_empty(&self) -> bool {
        self.logs.iter().skip(self.current + 1).all(|log| log.extent.from == log.extent.to)
    }
}

impl LogState {
    fn new(
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
        };
        for (size, root) in &told_of.sizes {
            if *size > extent.size {
                let what = format!("the installation log says that it had {size} events, and it has {}", extent.size);
                return Err(Fault::Truncated { at: Place::Event { log: node, index: extent.size }, what });
            }
            log.know(*size, *root, false).map_err(|()| Fault::Forked {
                at: whole(),
                what: format!("the installation log has two roots for its size {size}"),
            })?;
        }
        Ok(log)
    }

    /// Notes a root for a size, if there is none yet.
    fn know(&mut self, size: u64, root: Hash, witnessed: bool) -> Result<(), ()> {
        let known = self.known.entry(size).or_insert(Known { root, witnessed });
        known.witnessed |= witnessed;
        if known.root == root { Ok(()) } else { Err(()) }
    }

    /// Leaves out every second size while there are too many, never the largest one.
    fn thin(&mut self) {
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
    fn look(&mut self) -> Result<(), Fault> {
        let size = self.frontier.size();
        let Some(known) = self.known.get(&size) else { return Ok(()) };
        if known.root == self.frontier.root() {
            self.passed = size;
            return Ok(());
        }
        Err(self.fork(size, known.witnessed))
    }

    fn fork(&self, size: u64, witnessed: bool) -> Fault {
        let at = Place::Event { log: self.node, index: self.passed };
        let who = if witnessed { "a witness" } else { "the installation log" };
        let what = format!(
            "the events from it to {} do not lead to the root that {who} has for {size} events",
            size.saturating_sub(1)
        );
        if witnessed { Fault::Forked { at, what } } else { Fault::Altered { at, what } }
    }

    /// After the last line of the log: does everything lead to the checkpoint's root?
    fn close(&mut self, verified: &mut Verified) -> Result<(), Fault> {
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

fn heads(notes: &[String], installation: &str) -> Result<BTreeMap<LogName, (Note, Checkpoint)>, Fault> {
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
struct ToldOf {
    keys: Vec<NoteKey>,
    sizes: BTreeMap<u64, Hash>,
}

/// What the installation log tells.
struct Told {
    logs: BTreeMap<NodeId, ToldOf>,
    roots: Vec<Hash>,
}

impl Told {
    fn read(leaves: &[String], root: &NoteKey, head: Option<(Note, Checkpoint)>) -> Result<Self, Fault> {
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
                return Err(wrong("the log had another root at that size"));
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
fn witness(
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
        let what = format!("a witness has seen {} events, and there are {}", checkpoint.size, state.extent.size);
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
