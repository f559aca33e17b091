//! What came out otherwise, counted: one row for who, at what, in which direction and why.
//!
//! INVARIANT: the number of rows is bounded. Of many paths of one route the route is told instead;
//! beyond that, decisions are counted and said to be.

use std::collections::{BTreeMap, HashMap};

use serde_json::{Value, json};

use super::line::Line;
use crate::cli::args::Format;
use crate::cli::failure::Failure;
use crate::cli::policy::counted;
use crate::cli::printer::Printer;
use crate::model::{Principal, Timestamp};
use crate::policy::{Again, Past};

/// Paths of one route that are told one by one.
const PATHS_MAX: u32 = 20;
/// Rows that are told at all.
const ROWS_MAX: usize = 5000;

/// In which direction. Losses are told first: they are what breaks somebody's work.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Change {
    Lose,
    Gain,
}

impl Change {
    const fn name(self) -> &'static str {
        match self {
            Self::Lose => "lose",
            Self::Gain => "gain",
        }
    }
}

/// What makes decisions one row, but for the path.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct Key {
    change: Change,
    principal: Principal,
    service: String,
    action: String,
    method: String,
    was: String,
    now: Vec<String>,
    reason: Option<&'static str>,
    route: Option<String>,
}

#[derive(Debug, Clone)]
struct Row {
    email: Option<String>,
    count: u64,
    first: (Timestamp, String),
    last: (Timestamp, String),
}

/// The count of everything.
#[derive(Debug, Default)]
pub(super) struct Tally {
    rows: BTreeMap<(Key, String), Row>,
    paths: HashMap<Key, u32>,
    untold: u64,
    gain: u64,
    lose: u64,
    unchanged: u64,
    not_policy: BTreeMap<String, u64>,
    not_replayable: BTreeMap<String, u64>,
}

impl Tally {
    /// Counts a decision that was judged anew.
    pub(super) fn judged(&mut self, line: &Line, was_allowed: bool, past: &Past, again: &Again) {
        let change = match (was_allowed, again.allow) {
            (true, false) => Change::Lose,
            (false, true) => Change::Gain,
            (true, true) | (false, false) => {
                self.unchanged += 1;
                return;
            }
        };
        match change {
            Change::Lose => self.lose += 1,
            Change::Gain => self.gain += 1,
        }
        let key = Key {
            change,
            principal: past.principal.clone(),
            service: again
                .service
                .as_ref()
                .map(ToString::to_string)
                .or_else(|| line.service.clone())
                .unwrap_or_default(),
            action: again.action.as_ref().map(ToString::to_string).or_else(|| past.action.clone()).unwrap_or_default(),
            method: past.method.clone(),
            was: line.reason.clone().unwrap_or_else(|| "allowed".to_owned()),
            now: again.policies.iter().map(ToString::to_string).chain(again.errors.iter().cloned()).collect(),
            reason: again.reason,
            route: again.route.as_deref().map(str::to_owned),
        };
        let told = self.told(&key, &past.path);
        let id = line.decision.clone().unwrap_or_default();
        let place = (key, told);
        if let Some(row) = self.rows.get_mut(&place) {
            row.count += 1;
            row.first = row.first.clone().min((past.at, id.clone()));
            row.last = row.last.clone().max((past.at, id));
        } else if self.rows.len() < ROWS_MAX {
            let seen = (past.at, id);
            self.rows.insert(place, Row { email: past.email.clone(), count: 1, first: seen.clone(), last: seen });
        } else {
            self.untold += 1;
        }
    }

    /// The path, or the route's where that has too many of them already.
    fn told(&mut self, key: &Key, path: &str) -> String {
        let place = (key.clone(), path.to_owned());
        if self.rows.contains_key(&place) {
            return place.1;
        }
        let count = self.paths.entry(key.clone()).or_default();
        if *count < PATHS_MAX && self.rows.len() < ROWS_MAX {
            *count += 1;
            return place.1;
        }
        let pattern = key.route.as_deref().and_then(|route| route.split_once(' ')).map(|(_, pattern)| pattern);
        pattern.unwrap_or("(other paths)").to_owned()
    }

    /// Counts a refusal that no policy had a part in.
    pub(super) fn not_policy(&mut self, reason: String) {
        *self.not_policy.entry(reason).or_default() += 1;
    }

    /// Counts a decision of which something is not on record.
    pub(super) fn not_replayable(&mut self, missing: String) {
        *self.not_replayable.entry(missing).or_default() += 1;
    }

    /// Whether anybody gains or loses.
    pub(super) const fn changed(&self) -> bool {
        self.gain + self.lose > 0
    }

    /// Losses before gains, the most frequent first.
    fn sorted(&self) -> Vec<(&Key, &str, &Row)> {
        let mut rows: Vec<_> = self.rows.iter().map(|((key, path), row)| (key, path.as_str(), row)).collect();
        rows.sort_by_key(|(key, _, row)| (key.change, std::cmp::Reverse(row.count)));
        rows
    }

    /// Prints what came out.
    ///
    /// # Errors
    /// When it can't be written.
    pub(super) fn print(&self, printer: &Printer) -> Result<(), Failure> {
        if printer.format() == Format::Json {
            let items: Vec<Value> = self.sorted().into_iter().map(item).collect();
            let value = json!({ "items": items, "next": null, "summary": self.summary_json() });
            return printer.json(&value);
        }
        let rows: Vec<Vec<String>> = self.sorted().into_iter().map(columns).collect();
        if !rows.is_empty() {
            let header = ["CHANGE", "WHO", "SERVICE", "ACTION", "REQUEST", "COUNT", "DECIDED BY", "FIRST", "LAST"];
            printer.table(&header, &rows)?;
            printer.line("")?;
        }
        printer.data(&self.summary())
    }

    fn summary(&self) -> String {
        let replayed = self.gain + self.lose + self.unchanged;
        let missing: u64 = self.not_replayable.values().sum();
        let (gain, lose) =
            (if self.gain == 1 { "gains" } else { "gain" }, if self.lose == 1 { "loses" } else { "lose" });
        let mut text = format!(
            "{} replayed: {} {gain}, {} {lose}, {} unchanged, {missing} not replayable",
            counted(usize::try_from(replayed).unwrap_or(usize::MAX), "decision"),
            self.gain,
            self.lose,
            self.unchanged,
        );
        if missing > 0 {
            text.push_str(&format!(" ({})", reasons(&self.not_replayable)));
        }
        text.push('\n');
        let other: u64 = self.not_policy.values().sum();
        if other > 0 {
            let other = counted(usize::try_from(other).unwrap_or(usize::MAX), "other refusal");
            text.push_str(&format!("{other}, not by a service's policies: {}\n", reasons(&self.not_policy)));
        }
        if self.untold > 0 {
            text.push_str(&format!("{} of those that gain or lose are in no row: there are too many\n", self.untold));
        }
        text
    }

    fn summary_json(&self) -> Value {
        json!({
            "replayed": self.gain + self.lose + self.unchanged,
            "gain": self.gain,
            "lose": self.lose,
            "unchanged": self.unchanged,
            "not_replayable": self.not_replayable,
            "not_policy": self.not_policy,
            "not_listed": self.untold,
        })
    }
}

fn reasons(counts: &BTreeMap<String, u64>) -> String {
    counts.iter().map(|(reason, count)| format!("{count} {reason}")).collect::<Vec<_>>().join(", ")
}

fn decided_by(key: &Key) -> String {
    match (key.reason, key.now.is_empty()) {
        (None, _) => key.now.join(", "),
        (Some(reason), true) => reason.to_owned(),
        (Some(reason), false) => format!("{reason}: {}", key.now.join(", ")),
    }
}

fn columns((key, path, row): (&Key, &str, &Row)) -> Vec<String> {
    vec![
        key.change.name().to_owned(),
        row.email.clone().unwrap_or_else(|| key.principal.to_string()),
        key.service.clone(),
        key.action.clone(),
        format!("{} {path}", key.method),
        row.count.to_string(),
        decided_by(key),
        row.first.1.clone(),
        row.last.1.clone(),
    ]
}

fn item((key, path, row): (&Key, &str, &Row)) -> Value {
    let seen = |seen: &(Timestamp, String)| json!({ "decision": seen.1, "time": seen.0.to_string() });
    json!({
        "change": key.change.name(),
        "principal": { "kind": key.principal.kind().name(), "id": key.principal.id(), "email": row.email },
        "service": key.service,
        "action": key.action,
        "route": key.route,
        "request": { "method": key.method, "path": path },
        "count": row.count,
        "was": key.was,
        "now": key.reason.unwrap_or("allowed"),
        "policies": key.now,
        "first": seen(&row.first),
        "last": seen(&row.last),
    })
}
