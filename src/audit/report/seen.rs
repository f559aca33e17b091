//! An event as a report sees it, and as a report cites it.

use std::fmt::Write as _;

use crate::audit::erase::ERASED;
use crate::audit::event::{EventType, Outcome};
use crate::audit::format::{Entry, ReadLine};
use crate::audit::leaf::PersonalField;
use crate::audit::leaf_read::Leaf;
use crate::audit::line::{CheckedLine, Withheld};
use crate::audit::merkle::Hash;
use crate::model::text::forges;
use crate::model::{NodeId, Timestamp};

/// The longest text that is cited of what came from outside, in characters.
const CITED_CHARS_MAX: usize = 160;

/// One event: its leaf always, its content unless that was pruned.
#[derive(Clone, Copy)]
pub struct Seen<'a> {
    /// What anyone can see of it.
    pub leaf: &'a Leaf,
    /// The hash of its leaf.
    pub hash: Hash,
    /// Personal values that were erased.
    pub erased: usize,
    /// Whether it was erased as a whole, and not pruned.
    pub erased_whole: bool,
    entry: Option<Entry<'a>>,
}

impl<'a> Seen<'a> {
    /// A line that was checked, with its content where it has one.
    #[must_use]
    pub fn of(checked: &'a CheckedLine, read: Option<&'a ReadLine>) -> Self {
        let entry = read.filter(|_| checked.withheld.is_none()).map(ReadLine::entry);
        let erased_whole = checked.withheld == Some(Withheld::Erased);
        Self { leaf: &checked.leaf, hash: checked.hash, erased: checked.erased, erased_whole, entry }
    }

    /// Whether its content is here.
    #[must_use]
    pub const fn has_content(&self) -> bool {
        self.entry.is_some()
    }

    /// Its place in its log.
    #[must_use]
    pub fn index(&self) -> u64 {
        u64::try_from(self.leaf.seq).unwrap_or(0)
    }

    /// A text of its body by its JSON pointer.
    #[must_use]
    pub fn text(&self, pointer: &str) -> Option<&'a str> {
        self.entry.and_then(|entry| entry.text(pointer))
    }

    /// A whole number of its body by its JSON pointer; nothing below zero.
    #[must_use]
    pub fn number(&self, pointer: &str) -> Option<u64> {
        self.entry.and_then(|entry| entry.number(pointer)).and_then(|number| u64::try_from(number).ok())
    }

    /// A personal field.
    #[must_use]
    pub fn personal(&self, field: PersonalField) -> Option<&'a str> {
        self.entry.and_then(|entry| entry.personal(field))
    }

    fn list(&self, pointer: &str) -> &'a [serde_json::Value] {
        let found = self.entry.and_then(|entry| entry.body.pointer(pointer)).and_then(serde_json::Value::as_array);
        found.map(Vec::as_slice).unwrap_or_default()
    }

    fn is_erased(&self, field: PersonalField) -> bool {
        self.entry.is_some_and(|entry| entry.sealed.erased().contains(&field))
    }

    fn flag(&self, pointer: &str) -> bool {
        self.entry.and_then(|entry| entry.body.pointer(pointer)?.as_bool()) == Some(true)
    }

    /// Whether a credential was shown that is none.
    #[must_use]
    pub fn is_bad_credential(&self) -> bool {
        self.leaf.kind == EventType::DecisionDeny && self.text("/reason") == Some("bad_credential")
    }

    /// Whether a grant came without the approvals that it else needs.
    #[must_use]
    pub fn is_emergency(&self) -> bool {
        self.flag("/data/emergency")
    }

    /// Whether a session was ended by somebody else than its owner.
    #[must_use]
    pub fn is_withdrawn_session(&self) -> bool {
        self.has_content() && self.text("/data/end") != Some("logout")
    }

    /// The event as it is cited.
    #[must_use]
    pub fn cite(&self) -> Cited {
        Cited {
            time: self.leaf.time,
            kind: self.leaf.kind,
            outcome: self.leaf.outcome,
            log: self.leaf.log,
            index: self.index(),
            id: self.text("/id").map(short),
            decision: self.text("/decision").map(short),
            who: self.who(),
            what: self.what(),
        }
    }

    fn who(&self) -> Option<String> {
        let name = |field, pointer| match (self.personal(field).map(bare), self.text(pointer)) {
            (Some(name), Some(id)) => Some(format!("{name} ({id})")),
            (Some(name), None) => Some(name),
            (None, Some(id)) if self.is_erased(field) => Some(format!("{ERASED} ({id})")),
            (None, Some(id)) => Some(id.to_owned()),
            (None, None) => None,
        };
        let actor = name(PersonalField::Principal, "/actor/id")
            .or_else(|| self.personal(PersonalField::Address).map(|address| format!("from {address}")));
        match (actor, name(PersonalField::Subject, "/subject/id")) {
            (Some(actor), Some(subject)) if actor != subject => Some(format!("{actor} → {subject}")),
            (actor, subject) => actor.or(subject),
        }
    }

    fn what(&self) -> String {
        let mut text = String::new();
        let mut add = |what: Option<&str>| {
            if let Some(what) = what {
                let gap = if text.is_empty() { "" } else { " · " };
                let _ = write!(text, "{gap}{}", short(what));
            }
        };
        add(self.text("/data/entitlement"));
        match (self.text("/request/method"), self.personal(PersonalField::Path)) {
            (Some(method), Some(path)) => add(Some(&format!("{method} {path}"))),
            _ => add(self.text("/action")),
        }
        if self.text("/data/entitlement").is_none() {
            add(self.leaf.service.as_ref().map(crate::model::ServiceName::as_str).or_else(|| self.text("/resource")));
        }
        add(self.text("/reason").or_else(|| self.text("/data/reason")));
        for what in ["/data/name", "/data/after/decision", "/data/after/reason"] {
            add(self.text(what));
        }
        for what in ["/data/scope", "/data/end", "/data/change", "/data/kind", "/data/what", "/data/version"] {
            add(self.text(what));
        }
        if matches!(self.leaf.kind, EventType::PolicyLoaded) {
            add(self.text("/policy_version"));
        }
        if !self.has_content() {
            add(Some(if self.erased_whole { "content erased" } else { "content pruned" }));
        }
        text
    }
}

/// What an erasure of a person took and left, in words.
#[must_use]
pub fn erasure(seen: &Seen<'_>) -> String {
    let number = |pointer: &str| seen.number(pointer).unwrap_or(0);
    let (fields, events, texts) = (number("/data/fields"), number("/data/events"), number("/data/texts"));
    let mut note = format!("{fields} values of {events} events");
    let left = number("/data/texts_left");
    if texts > left {
        let _ = write!(note, ", {} events as a whole", texts - left);
    }
    if left > 0 {
        let _ = write!(note, "; the text of {left} events still names them");
    }
    for kept in seen.list("/data/kept") {
        let text = |key: &str| kept.get(key).and_then(serde_json::Value::as_str).map(short).unwrap_or_default();
        let events = kept.get("events").and_then(serde_json::Value::as_u64).unwrap_or(0);
        let _ = write!(note, "; {events} events kept by `{}` until {}", text("rule"), text("until"));
    }
    note
}

/// A principal as it is cited: people by their id alone.
fn bare(principal: &str) -> String {
    let id = principal.strip_prefix("User::\"").and_then(|rest| rest.strip_suffix('"'));
    short(id.unwrap_or(principal))
}

/// What is cited of a text: no character that forges, and its beginning if it is long.
#[must_use]
pub fn short(text: &str) -> String {
    let mut kept: String = text.chars().take(CITED_CHARS_MAX).map(|c| if forges(c) { '\u{fffd}' } else { c }).collect();
    if text.chars().nth(CITED_CHARS_MAX).is_some() {
        kept.push('…');
    }
    kept
}

/// An event as a report cites it: enough to find and to prove it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cited {
    /// When.
    pub time: Timestamp,
    /// What kind.
    pub kind: EventType,
    /// How it came out.
    pub outcome: Outcome,
    /// In which log.
    pub log: NodeId,
    /// At which place of it.
    pub index: u64,
    /// `evt_…`, unless it was pruned.
    pub id: Option<String>,
    /// `dec_…`, what `doorward why` takes.
    pub decision: Option<String>,
    /// Who, by whom, to whom.
    pub who: Option<String>,
    /// What it was about.
    pub what: String,
}
