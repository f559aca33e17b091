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
//! 4. What has no content is no more than the statement lets be gone; of a whole record, no more than its own
//!    events tell of. Personal values that are gone are of people of whom the record, or where its events are not
//!    here, the statement, tells that they were erased.
//!
//! INVARIANT: nothing that can't be read is skipped; the first thing that is wrong ends it and is named.
//! Memory grows with the people who were erased, not with the number of events.

mod fault;
mod log;
mod told;

use std::collections::{BTreeMap, BTreeSet};

use super::checkpoint::{LogName, installation_name};
use super::erase::ErasedTold;
use super::event::EventType;
use super::evidence::{Evidence, Gone, StatementText};
use super::filter::{Filter, FilterText};
use super::line::{CheckedLine, LineError, Withheld};
use super::note::NoteKey;
use super::settings::RETENTION_MIN;
use crate::model::{Timestamp, UserRef};

use log::LogState;
use told::{Told, heads, witness};

pub use fault::{Fault, Place};

/// What is said where more is gone than was.
const EXPORT_ANEW: &str = ": if somebody was erased while it was under way, export anew";

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
    /// When it was exported, as its statement says.
    pub made_at: String,
    /// What was asked for, as its statement says.
    pub filter: FilterText,
    /// Logs of nodes.
    pub logs: usize,
    /// Lines that were checked.
    pub lines: u64,
    /// Of them left out by the filter.
    pub filtered: u64,
    /// Of them pruned.
    pub pruned: u64,
    /// Of before when those are, as the record says, or where it is not all here, its statement.
    pub pruned_before: Option<Timestamp>,
    /// Personal values that were erased.
    pub erased: u64,
    /// Events that were erased as a whole.
    pub erased_events: u64,
    /// Personal values that are gone and that no erasure on record tells of, where all of it is here: of an
    /// older export, which did not say how many were on their way; of another it is a fault.
    pub erased_untold: u64,
    /// Whether nothing here tells whose the erased values were, so that only their number was looked at.
    pub erased_of_unknown: bool,
    /// Numbered events that are not under a checkpoint yet, of a database.
    pub ahead: u64,
    /// Witnessed checkpoints that agree.
    pub witnessed: usize,
    /// Witnessed checkpoints of sizes outside what is here.
    pub unreached: usize,
    /// Whether a key or a witnessed checkpoint from elsewhere holds it.
    pub anchored: bool,
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
    /// Of whom values are gone, with the place of the first of them and how many lines were before it.
    erased_of: BTreeMap<UserRef, (u64, Place)>,
    /// Whose events lost their path alone, how many, and the first of them.
    paths_of: BTreeMap<Option<UserRef>, (u64, Place)>,
    /// Who was erased, as events tell.
    people_told: BTreeSet<UserRef>,
    /// Whether what told of an erasure was itself pruned.
    told_pruned: bool,
    gone: Option<Gone>,
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
        let size = u64::try_from(evidence.installation.len()).unwrap_or(u64::MAX);
        if let Some(due) = statement.installation.filter(|due| *due != size) {
            let at = Place::Log(LogName::Installation);
            let what = format!("it has {size} statements, and the export was made with {due}");
            return Err(if size < due { Fault::Truncated { at, what } } else { Fault::Altered { at, what } });
        }
        if let Some(before) = statement.gone.as_ref().and_then(|gone| gone.pruned_before.as_deref())
            && Timestamp::parse(before).is_none()
        {
            return Err(Fault::altered(part, "its `pruned_before` is no time"));
        }
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
        let mut verified = Verified {
            made_at: statement.made_at.clone(),
            filter: statement.filter.clone(),
            logs: logs.len(),
            anchored: anchor.key.is_some(),
            ..Verified::default()
        };
        for note in &anchor.witnessed {
            witness(note, &installation, &root, &told, &mut logs, &mut verified)?;
        }
        for log in &mut logs {
            log.thin();
        }
        let mut verifier = Self {
            filter,
            logs,
            current: 0,
            verified,
            pruned_latest: None,
            pruned_before: None,
            erased_told: ErasedTold::default(),
            erased_of: BTreeMap::new(),
            paths_of: BTreeMap::new(),
            people_told: BTreeSet::new(),
            told_pruned: false,
            gone: statement.gone.clone(),
        };
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

    /// What is gone by now: of a record that is read where it is kept, it may have become more meanwhile.
    pub fn renew(&mut self, gone: Gone) {
        self.gone = Some(gone);
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
            Some(Withheld::Filtered) => {
                self.verified.filtered += 1;
                log.filtered += 1;
            }
            Some(Withheld::Pruned) => {
                if let Some(gone) = &self.gone
                    && gone.pruned_to().is_none_or(|before| line.leaf.time >= before)
                {
                    let what = "its content is gone as if it was pruned, and when this was exported none of its time \
                                was: if it was on its way for more than a day, export anew";
                    return Err(Fault::Altered { at, what: what.into() });
                }
                self.verified.pruned += 1;
                self.pruned_latest = self.pruned_latest.max(Some(line.leaf.time));
                self.told_pruned |= matches!(line.leaf.kind, EventType::AuditErased | EventType::AuditPersonErased);
            }
            Some(Withheld::Erased) => self.verified.erased_events += 1,
            None => {}
        }
        // No pruning takes what is younger than the least that retention can be: what says so is none of ours, and
        // accounts for nothing.
        let oldest = line.leaf.time.minus(RETENTION_MIN);
        let before = line.pruned_before.as_deref().and_then(Timestamp::parse).filter(|before| *before <= oldest);
        self.pruned_before = self.pruned_before.max(before);
        if line.path_alone {
            // It may have named somebody else who was erased.
            for whose in &line.erased_of {
                self.paths_of.entry(*whose).or_insert_with(|| (0, at.clone())).0 += 1;
            }
        }
        for whose in line.erased_of.into_iter().filter(|_| !line.path_alone) {
            let Some(person) = whose else {
                let what = "a personal value of it is gone that is of nobody, and no erasure takes such";
                return Err(Fault::Altered { at, what: what.into() });
            };
            self.erased_of.entry(person).or_insert_with(|| (self.verified.lines, at.clone()));
        }
        self.people_told.extend(line.person_erased);
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
        let of_erased = self.all_of_erased();
        let mut verified = self.verified;
        let said = self.gone.as_ref().and_then(Gone::pruned_to);
        let told = |latest: Timestamp| self.pruned_before.filter(|before| latest < *before);
        verified.pruned_before = self.pruned_latest.and_then(|latest| told(latest).or(said));
        let wrong = |what: String| Err(Fault::altered("the events", what));
        if self.filter.is_all() {
            let meanwhile = self.gone.as_ref().and_then(Gone::pruned_to);
            let before = self.pruned_before.map(|before| meanwhile.map_or(before, |until| before.max(until)));
            if let Some(latest) = self.pruned_latest
                && before.is_none_or(|before| latest >= before)
            {
                return wrong(format!(
                    "an event of {latest} has no content, and no pruning that reaches it is on record"
                ));
            }
            // Where logs are pruned one after the other, what told of an erasure may go before what it took: what the
            // statement says is gone, below, is what is left then.
            if !self.told_pruned
                && let Some(what) = self.erased_told.missing(verified.erased_events)
            {
                return wrong(what);
            }
            let ahead = self.gone.as_ref().map_or(0, |gone| gone.values_ahead);
            let told = self.erased_told.values.saturating_add(ahead);
            verified.erased_untold = verified.erased.saturating_sub(told);
            if verified.erased_untold > 0 && self.gone.is_some() && !self.told_pruned {
                return wrong(format!(
                    "{} personal values are gone, and erasures on record tell of {told}{EXPORT_ANEW}",
                    verified.erased
                ));
            }
        }
        if let Some(gone) = &self.gone {
            for (count, due, what) in [
                (verified.erased_events, gone.events, "events were erased as a whole"),
                (verified.erased, gone.values, "personal values were erased"),
            ] {
                if count > due {
                    return wrong(format!("{count} {what}, and when this was exported it was {due}{EXPORT_ANEW}"));
                }
            }
        }
        verified.erased_of_unknown = !of_erased?;
        verified.anchored |= verified.witnessed > 0;
        Ok(verified)
    }

    /// Whether all values that are gone were those of people who were erased; `false` where nothing here tells who
    /// was. More may be gone of somebody who was erased than of somebody else: how many is no proof of whose.
    fn all_of_erased(&self) -> Result<bool, Fault> {
        if self.erased_of.is_empty() && self.paths_of.is_empty() {
            return Ok(true);
        }
        // The events that tell of it, all of them, and those that stand behind the checkpoints; else the statement.
        let whole = self.filter.is_all() && !self.told_pruned;
        let said = self.gone.as_ref().and_then(|gone| match (whole, gone.values_ahead) {
            (true, 0) => Some(gone.people_ahead.as_deref().unwrap_or_default()),
            (true, _) => gone.people_ahead.as_deref(),
            (false, _) => gone.people.as_deref(),
        });
        let Some(said) = said else { return Ok(false) };
        let said: BTreeSet<&str> = said.iter().map(String::as_str).collect();
        let is_told = |person: &UserRef| self.people_told.contains(person) || said.contains(&*person.to_string());
        let untold = self.erased_of.iter().filter(|(person, _)| !is_told(person));
        match untold.min_by_key(|(_, (lines, _))| *lines) {
            Some((person, (_, at))) => Err(Fault::Altered {
                at: at.clone(),
                what: format!(
                    "a personal value of `{person}` is gone, and no erasure of theirs is on record{EXPORT_ANEW}"
                ),
            }),
            None => self.all_paths_told(whole, is_told),
        }
    }

    /// Whether as many paths of others are gone as erasures tell of: those alone, since whom they named went with
    /// them. `false` where what tells of it is not here.
    fn all_paths_told(&self, whole: bool, is_told: impl Fn(&UserRef) -> bool) -> Result<bool, Fault> {
        let of_others = || self.paths_of.iter().filter(|(person, _)| !person.as_ref().is_some_and(&is_told));
        let (count, told) = (of_others().map(|(_, (count, _))| count).sum::<u64>(), self.erased_told.paths);
        let ahead = self.gone.as_ref().is_some_and(|gone| gone.values_ahead > 0);
        match of_others().next() {
            Some((_, (_, at))) if count > told && whole && !ahead => Err(Fault::Altered {
                at: at.clone(),
                what: format!("{count} paths of others are gone, and erasures on record tell of {told}{EXPORT_ANEW}"),
            }),
            _ => Ok(count <= told),
        }
    }

    fn rest_is_empty(&self) -> bool {
        self.logs.iter().skip(self.current + 1).all(|log| log.extent.from == log.extent.to)
    }
}
