//! From the events of a record, one after the other, to what a report says. Memory does not grow with
//! the number of events.

use std::collections::{BTreeMap, BinaryHeap};

use data_encoding::HEXLOWER;
use sha2::{Digest, Sha256};

use super::exception::{DRILL_DAYS, Exception, Found, RETENTION_DAYS};
use super::follow::{Following, Window};
use super::population::{Population, belongs};
use super::seen::{Cited, Seen};
use crate::audit::event::EventType;
use crate::audit::format::ReadLine;
use crate::audit::line::{CheckedLine, Withheld};
use crate::audit::merkle::Hash;
use crate::model::{NodeId, Timestamp, Ttl};

/// Events of one population that are drawn as its sample.
pub const SAMPLE: usize = 10;
const DAY_HOURS: u32 = 24;

/// Which time a report is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Period {
    /// Not before this; none is from the beginning.
    pub from: Option<Timestamp>,
    /// Before this; none is until the record was taken.
    pub to: Option<Timestamp>,
}

impl Period {
    fn holds(&self, time: Timestamp) -> bool {
        self.from.is_none_or(|from| time >= from) && self.to.is_none_or(|to| time < to)
    }
}

/// Where a population lies in one log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span {
    /// Events of it.
    pub count: u64,
    /// The index of the first.
    pub first: u64,
    /// The index of the last.
    pub last: u64,
}

/// A population, counted.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Counted {
    /// How many events.
    pub count: u64,
    /// Of them those of which only the leaf is left.
    pub pruned: u64,
    /// When the first was.
    pub first: Option<Timestamp>,
    /// When the last was.
    pub last: Option<Timestamp>,
    /// Where they lie.
    pub spans: BTreeMap<NodeId, Span>,
    /// SHA-256 over the leaf hashes of its events in their order, hexadecimal.
    pub digest: String,
    /// Those with the smallest leaf hashes: drawn by nobody, and anybody draws the same.
    pub sample: Vec<Cited>,
}

impl Counted {
    /// No event.
    #[must_use]
    pub const fn empty() -> Self {
        Self {
            count: 0,
            pruned: 0,
            first: None,
            last: None,
            spans: BTreeMap::new(),
            digest: String::new(),
            sample: Vec::new(),
        }
    }
}

/// What was summed up beside the populations.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Totals {
    /// Events of the period.
    pub events: u64,
    /// Requests allowed.
    pub allowed: u64,
    /// Requests refused, one by one.
    pub refused: u64,
    /// Refusals that were only counted.
    pub refused_counted: u64,
    /// Decisions that could not be kept.
    pub lost: u64,
    /// Events whose content was pruned.
    pub pruned: u64,
    /// Events with erased personal values.
    pub erased: u64,
}

/// Everything that was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Gathered {
    /// Every population, empty ones too.
    pub populations: BTreeMap<Population, Counted>,
    /// Every kind of exception, none too.
    pub found: BTreeMap<Exception, Found>,
    /// Sums.
    pub totals: Totals,
    /// When the first event of the period was.
    pub first: Option<Timestamp>,
    /// When its last event was.
    pub last: Option<Timestamp>,
    /// What could not be done.
    pub limits: Vec<String>,
}

/// One of a sample while it is drawn.
struct Drawn {
    hash: Hash,
    cited: Cited,
}

impl PartialEq for Drawn {
    fn eq(&self, other: &Self) -> bool {
        self.hash == other.hash
    }
}

impl Eq for Drawn {}

impl PartialOrd for Drawn {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Drawn {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.hash.cmp(&other.hash)
    }
}

#[derive(Default)]
struct Counting {
    counted: Counted,
    digest: Sha256,
    drawn: BinaryHeap<Drawn>,
}

impl Counting {
    fn take(&mut self, seen: &Seen<'_>) {
        let (counted, time, index) = (&mut self.counted, seen.leaf.time, seen.index());
        counted.count += 1;
        counted.pruned += u64::from(!seen.has_content());
        counted.first = Some(counted.first.map_or(time, |first| first.min(time)));
        counted.last = counted.last.max(Some(time));
        let span = counted.spans.entry(seen.leaf.log).or_insert(Span { count: 0, first: index, last: index });
        span.count += 1;
        span.first = span.first.min(index);
        span.last = span.last.max(index);
        self.digest.update(seen.hash);
        let full = self.drawn.len() >= SAMPLE;
        if !full || self.drawn.peek().is_some_and(|largest| seen.hash < largest.hash) {
            self.drawn.push(Drawn { hash: seen.hash, cited: seen.cite() });
            if full {
                self.drawn.pop();
            }
        }
    }

    fn end(self) -> Counted {
        let mut sample: Vec<Cited> = self.drawn.into_iter().map(|drawn| drawn.cited).collect();
        sample.sort_by_key(|cited| (cited.time, cited.log, cited.index));
        Counted { digest: HEXLOWER.encode(&self.digest.finalize()), sample, ..self.counted }
    }
}

/// Takes events and gives what is found of them.
pub struct Gatherer {
    period: Period,
    as_of: Timestamp,
    counting: BTreeMap<Population, Counting>,
    found: BTreeMap<Exception, Found>,
    following: Following,
    totals: Totals,
    first: Option<Timestamp>,
    last: Option<Timestamp>,
    /// Where the events that are read begin, if not with the record.
    begins: Option<Timestamp>,
    /// Whether openings of before that are known.
    earlier_told: bool,
}

impl Gatherer {
    /// Nothing yet of a record that was taken at `as_of`.
    #[must_use]
    pub fn new(period: Period, as_of: Timestamp) -> Self {
        Self {
            period,
            as_of,
            counting: Population::ALL.iter().map(|population| (*population, Counting::default())).collect(),
            found: Exception::ALL.iter().map(|exception| (*exception, Found::default())).collect(),
            following: Following::new(),
            totals: Totals::default(),
            first: None,
            last: None,
            begins: None,
            earlier_told: false,
        }
    }

    /// The events that are read begin at this time: what was before is not among them.
    #[must_use]
    pub const fn beginning_at(mut self, begins: Option<Timestamp>) -> Self {
        self.begins = begins;
        self
    }

    /// Where the events that are read begin, if not with the record, and when the period ends.
    #[must_use]
    pub fn unread_before(&self) -> Option<(Timestamp, Timestamp)> {
        self.begins.map(|begins| (begins, self.until()))
    }

    /// Takes openings of before the events that are read, one note each, that were not reviewed by the
    /// end of the period. They are all that there are.
    pub fn earlier_openings(&mut self, notes: impl IntoIterator<Item = String>) {
        self.earlier_told = true;
        let unreviewed = self.found.entry(Exception::UnreviewedBreakGlass).or_default();
        for note in notes {
            unreviewed.add(1, None, note);
        }
    }

    fn until(&self) -> Timestamp {
        self.period.to.map_or(self.as_of, |to| to.min(self.as_of))
    }

    /// Takes the next event; `read` is its content where it has one.
    pub fn take(&mut self, checked: &CheckedLine, read: Option<&ReadLine>) {
        if checked.withheld == Some(Withheld::Filtered) {
            return;
        }
        if !self.period.holds(checked.leaf.time) {
            if checked.leaf.time < self.until() {
                let seen = Seen::of(checked, read);
                self.following.emergency(&seen);
                self.following.drill(&seen);
            }
            return;
        }
        let seen = Seen::of(checked, read);
        self.first = Some(self.first.map_or(seen.leaf.time, |first| first.min(seen.leaf.time)));
        self.last = self.last.max(Some(seen.leaf.time));
        self.count(&seen, Population::Events);
        let mut all = [None; 4];
        let mut free = all.iter_mut();
        belongs(&seen, |population| {
            if let Some(place) = free.next() {
                *place = Some(population);
            }
        });
        for population in all.into_iter().flatten() {
            self.count(&seen, population);
        }
        self.sum(&seen);
        self.stands_out(&seen);
        self.following.take(&seen, &mut self.found);
    }

    fn count(&mut self, seen: &Seen<'_>, population: Population) {
        self.counting.entry(population).or_default().take(seen);
    }

    fn sum(&mut self, seen: &Seen<'_>) {
        let totals = &mut self.totals;
        totals.events += 1;
        match seen.leaf.kind {
            EventType::DecisionAllow => totals.allowed += 1,
            EventType::DecisionDeny => totals.refused += 1,
            EventType::DecisionDenyCounted => totals.refused_counted += seen.number("/data/count").unwrap_or(0),
            EventType::RecordLost => totals.lost += seen.number("/data/count").unwrap_or(1),
            _ => {}
        }
        totals.erased += u64::from(seen.erased > 0 || seen.erased_whole);
        if !seen.has_content() && !seen.erased_whole {
            totals.pruned += 1;
            let kept_until = seen.leaf.time.plus(Ttl::hours(RETENTION_DAYS * DAY_HOURS));
            if kept_until > self.as_of {
                self.found(Exception::PrunedEarly, seen, "its content is gone");
            }
        }
    }

    /// What stands out by its type alone.
    fn stands_out(&mut self, seen: &Seen<'_>) {
        let kind = match seen.leaf.kind {
            EventType::RecordLost => {
                let count = seen.number("/data/count").unwrap_or(1);
                let lost = self.found.entry(Exception::RecordsLost).or_default();
                lost.add(count, Some(seen.cite()), format!("{count} decisions are not on record"));
                return;
            }
            EventType::SessionEnd if seen.is_withdrawn_session() => {
                let why = seen.text("/data/end").unwrap_or("ended").to_owned();
                self.found(Exception::SessionsRevoked, seen, why);
                return;
            }
            EventType::AuditRead => {
                let what = seen.text("/data/what").unwrap_or("the record");
                self.found(Exception::AuditLeft, seen, format!("read: {}", super::seen::short(what)));
                return;
            }
            EventType::AuditExported => {
                let lines = seen.number("/data/lines");
                let note = lines.map_or_else(|| "exported".to_owned(), |lines| format!("exported: {lines} events"));
                self.found(Exception::AuditLeft, seen, note);
                return;
            }
            EventType::AuditStreamStalled | EventType::AuditStreamGap => {
                let stream = super::seen::short(seen.text("/data/stream").unwrap_or("a stream"));
                let note = match seen.number("/data/count") {
                    Some(count) => format!("{stream}: {count} events were pruned before they were sent"),
                    None => format!("{stream}: {}", super::seen::short(seen.text("/data/error").unwrap_or("no error"))),
                };
                self.found(Exception::StreamsBehind, seen, note);
                return;
            }
            EventType::AuditPersonErased => {
                let note = super::seen::erasure(seen);
                self.found(Exception::PeopleErased, seen, note);
                return;
            }
            EventType::CredentialRevokeFailed => Exception::RevocationFailed,
            EventType::NoticeDead => Exception::DeadNotices,
            EventType::ClockStepped => Exception::ClockStepped,
            EventType::PolicyRefused => Exception::PoliciesRefused,
            EventType::RequestDenied => Exception::RequestsDenied,
            EventType::GrantRevoked => Exception::GrantsRevoked,
            EventType::BreakGlassCustodiansChanged => Exception::CustodiansChanged,
            _ => return,
        };
        self.found(kind, seen, "");
    }

    fn found(&mut self, kind: Exception, seen: &Seen<'_>, note: impl Into<String>) {
        self.found.entry(kind).or_default().add(1, Some(seen.cite()), note);
    }

    /// After the last event.
    #[must_use]
    pub fn end(mut self) -> Gathered {
        let until = self.until();
        let drilled = self.following.drilled();
        let every = self.following.drill_every().unwrap_or(Ttl::hours(DRILL_DAYS * DAY_HOURS));
        let due_since = until.minus(every);
        if drilled.is_none_or(|last| last < due_since) {
            let last = drilled.map_or_else(|| "none".to_owned(), |last| last.to_string());
            let (kind, note) = match self.following.has_emergency_path() {
                // A drill of before what was read may be younger than that.
                true if self.begins.is_some_and(|begins| begins > due_since) => (
                    Exception::DrillOverdue,
                    format!("the last drill on record since {due_since} that was read: {last}"),
                ),
                true => (Exception::DrillOverdue, format!("the last drill on record: {last}")),
                false => (Exception::NoEmergencyPath, "no event of it in the period".to_owned()),
            };
            self.found.entry(kind).or_default().add(1, None, note);
        }
        for (count, what) in [(self.totals.pruned, "pruned"), (self.totals.erased, "with erased personal values")] {
            if count > 0 {
                let gone = self.found.entry(Exception::ContentGone).or_default();
                gone.add(count, None, format!("{count} events {what}"));
            }
        }
        let window = Window { begins: self.period.from.or(self.first).unwrap_or(until), until };
        let mut limits = self.following.end(window, &mut self.found);
        if let Some(begins) = self.begins.filter(|_| !self.earlier_told) {
            limits.push(format!(
                "the events that were read begin at {begins}: an opening of the emergency path before that stays an \
                 exception until two people have reviewed it, and is not in this report; one of an export from the \
                 beginning has it"
            ));
        }
        if self.totals.pruned > 0 {
            limits.push(format!(
                "{} events were pruned: they are counted by their type, and what their content would have shown or \
                 explained is not known",
                self.totals.pruned
            ));
        }
        Gathered {
            populations: self.counting.into_iter().map(|(population, counting)| (population, counting.end())).collect(),
            found: self.found,
            totals: self.totals,
            first: self.first,
            last: self.last,
            limits,
        }
    }
}
