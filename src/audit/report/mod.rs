//! Reports for auditors: for each control of a framework what it asks, the events of the record that
//! are evidence for it, counted and provable, what stands out in them, and what the record can't show.
//!
//! 1. `gather.rs` takes the events of a verified record: populations (`population.rs`), what stands out
//!    (`exception.rs`), what must be followed over several events (`follow.rs`).
//! 2. `mapping.toml` says which of that is evidence for which control (`mapping.rs`).
//! 3. A [`Report`] puts both together; `html.rs`, `csv.rs`, `xlsx.rs` and `oscal.rs` write it.
//!
//! INVARIANT: a report says nothing that can't be counted again from an evidence export, but for openings
//! of before its events, which it calls the server's word.

pub mod csv;
pub mod exception;
mod follow;
pub mod gather;
pub mod html;
mod mapping;
mod orphan;
pub mod oscal;
pub mod population;
mod reviewed;
mod seen;
mod standing;
pub mod xlsx;

use data_encoding::BASE64;

use super::checkpoint::{Checkpoint, LogName, installation_name};
use super::evidence::{Evidence, StatementText};
use super::note::{Note, NoteKey};
use super::verify::Verified;
use crate::model::{NodeId, Timestamp};

pub use exception::{Exception, Found, Row, Weight};
pub use gather::{Counted, Gathered, Gatherer, Period, Span};
pub use mapping::{Control, Framework, FrameworkName, MappingError};
pub use population::Population;
pub use seen::Cited;

/// What the record says about a control. An auditor judges the control; this says what there is to
/// judge it by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// There are events, and nothing stands out that would have to be explained.
    Evidence,
    /// The same, and part of what the control asks is not in the record.
    Partial,
    /// There are exceptions.
    Exceptions,
    /// Nothing of the kind happened, which the record shows.
    Nothing,
    /// What the control asks for is not here.
    Gap,
}

impl Verdict {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::Evidence, Self::Partial, Self::Exceptions, Self::Nothing, Self::Gap];

    /// In words.
    #[must_use]
    pub const fn words(self) -> &'static str {
        match self {
            Self::Evidence => "evidence",
            Self::Partial => "evidence, with gaps",
            Self::Exceptions => "exceptions",
            Self::Nothing => "no occurrences",
            Self::Gap => "gap",
        }
    }

    /// What the words mean.
    #[must_use]
    pub const fn meaning(self) -> &'static str {
        match self {
            Self::Evidence => "events are on record, and none of them has to be explained",
            Self::Partial => {
                "events are on record, none has to be explained, and further evidence must come from elsewhere"
            }
            Self::Exceptions => "something has to be explained by somebody",
            Self::Nothing => "the record shows that nothing of the kind happened in the period",
            Self::Gap => "the record of this period holds nothing for it, and evidence must come from elsewhere",
        }
    }
}

/// A log as a report rests on it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReportedLog {
    /// Whose.
    pub node: NodeId,
    /// How it is called in the report: `L1`.
    pub label: String,
    /// How many leaves its tree has.
    pub size: u64,
    /// The first leaf that was read.
    pub from: u64,
    /// The first that was not read any more.
    pub to: u64,
    /// The root over all its leaves, base64.
    pub root: String,
}

/// Where a report comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Source {
    /// `doorward-<16 hex>`
    pub installation: String,
    /// The installation's root key.
    pub root_key: String,
    /// Whether a root key or checkpoint from outside held the record.
    pub anchored: bool,
    /// Checkpoints of a witness that agree.
    pub witnessed: usize,
    /// Lines that were verified.
    pub lines: u64,
    /// When the record was taken: what came later is not in it.
    pub as_of: Timestamp,
    /// Every log.
    pub logs: Vec<ReportedLog>,
    /// The server that it was taken from, `https://…`, if it was one.
    pub server: Option<String>,
}

impl Source {
    /// What a verified export says of itself. None where it can't be read, which verifying it has
    /// ruled out.
    #[must_use]
    pub fn of(
        statement: &StatementText,
        evidence: &Evidence,
        verified: &Verified,
        server: Option<String>,
    ) -> Option<Self> {
        let root = NoteKey::parse(&statement.root_key).ok()?;
        let installation = installation_name(root.public());
        let heads: Vec<Checkpoint> = evidence
            .checkpoints
            .iter()
            .map(|note| Checkpoint::parse(&Note::parse(note).ok()?.text).ok())
            .collect::<Option<_>>()?;
        let mut logs = Vec::with_capacity(statement.logs.len());
        for (number, extent) in (1..).zip(&statement.logs) {
            let node = extent.node()?;
            let head = heads.iter().find(|head| head.log(&installation) == Some(LogName::Node(node)))?;
            logs.push(ReportedLog {
                node,
                label: format!("L{number}"),
                size: extent.size,
                from: extent.from,
                to: extent.to,
                root: BASE64.encode(&head.root),
            });
        }
        Some(Self {
            installation,
            root_key: statement.root_key.clone(),
            anchored: verified.anchored,
            witnessed: verified.witnessed,
            lines: verified.lines,
            as_of: Timestamp::parse(&statement.made_at)?,
            logs,
            server,
        })
    }

    /// The log of that node.
    #[must_use]
    pub fn log(&self, node: NodeId) -> Option<&ReportedLog> {
        self.logs.iter().find(|log| log.node == node)
    }

    /// Where the server proves that an event is in its log.
    #[must_use]
    pub fn proof_url(&self, cited: &Cited) -> Option<String> {
        let (server, log) = (self.server.as_ref()?, self.log(cited.log)?);
        Some(format!("{server}/api/v1/audit/inclusion?log={}&index={}&size={}", cited.log, cited.index, log.size))
    }
}

/// A report, ready to be written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// By what it is ordered.
    pub framework: Framework,
    /// Which time it is about.
    pub period: Period,
    /// When it was made.
    pub made_at: Timestamp,
    /// What it rests on.
    pub source: Source,
    /// What was found.
    pub gathered: Gathered,
}

impl Report {
    /// The beginning of the period: as asked for, else of what there is.
    #[must_use]
    pub fn begins(&self) -> Timestamp {
        self.period.from.or(self.gathered.first).unwrap_or(self.source.as_of)
    }

    /// Its end: as asked for, else when the record was taken.
    #[must_use]
    pub fn ends(&self) -> Timestamp {
        self.period.to.unwrap_or(self.source.as_of)
    }

    /// What is counted for a population.
    #[must_use]
    pub fn counted(&self, population: Population) -> &Counted {
        static NONE: Counted = Counted::empty();
        self.gathered.populations.get(&population).unwrap_or(&NONE)
    }

    /// What is found of a kind.
    #[must_use]
    pub fn found(&self, exception: Exception) -> &Found {
        static NONE: Found = Found::none();
        self.gathered.found.get(&exception).unwrap_or(&NONE)
    }

    /// Events that are evidence for a control; one that is in two populations counts in both.
    #[must_use]
    pub fn occurrences(&self, control: &Control) -> u64 {
        control.populations.iter().map(|population| self.counted(*population).count).sum()
    }

    /// How many of this weight stand out for a control.
    #[must_use]
    pub fn weighing(&self, control: &Control, weight: Weight) -> u64 {
        let of_weight = control.exceptions.iter().filter(|exception| exception.weight() == weight);
        of_weight.map(|exception| self.found(*exception).count).sum()
    }

    /// What the record says about a control.
    #[must_use]
    pub fn verdict(&self, control: &Control) -> Verdict {
        let (some, gaps) = (self.occurrences(control) > 0, !control.gaps.is_empty());
        if self.weighing(control, Weight::Exception) > 0 {
            return Verdict::Exceptions;
        }
        match (some, gaps) {
            (true, false) => Verdict::Evidence,
            (true, true) => Verdict::Partial,
            (false, false) => Verdict::Nothing,
            (false, true) => Verdict::Gap,
        }
    }
}
