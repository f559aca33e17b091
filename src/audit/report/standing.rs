//! Standing access: what people may do without a grant, told from what they did.
//!
//! The record holds decisions, not rights. So standing access is seen where it was used at least once in
//! the period: an allowed request that names no grant. It stands out where its last use lies 90 days or
//! more before the end of the period while its holder still signs in, is not barred, and was not refused
//! the same since.
//!
//! INVARIANT: only the latest of each thing counts, so the order of logs changes nothing.

use std::collections::BTreeMap;

use super::exception::{Exception, Found, UNUSED_DAYS};
use super::follow::{FOLLOWED_MAX, Table, Window};
use super::seen::{Cited, Seen, short};
use crate::audit::event::EventType;
use crate::model::{PrincipalKind, Timestamp, Ttl};

const DAY_HOURS: u32 = 24;

/// What one principal may do at one service, or what anybody may.
#[derive(Default)]
struct Use {
    last: Option<Box<Cited>>,
    refused: Option<Timestamp>,
}

/// Uses of standing access, and who is there to use it.
pub struct Standing {
    /// By service, action and pseudonym.
    uses: Table<Use>,
    signed_in: Table<Option<Timestamp>>,
}

/// One of a kind: `service action person`; neither service nor action can hold a space.
fn key(seen: &Seen<'_>) -> Option<String> {
    let (service, action) = (seen.leaf.service.as_ref()?, seen.text("/action")?);
    let person = seen.text("/actor/id")?;
    let is_emergency = seen.text("/actor/kind") == Some(PrincipalKind::BreakGlass.name());
    (!is_emergency).then(|| format!("{service} {} {person}", short(action)))
}

fn named(what: &str) -> String {
    let (service, action) = what.split_once(' ').unwrap_or((what, ""));
    format!("`{action}` of `{service}`")
}

impl Standing {
    pub const fn new() -> Self {
        Self { uses: Table::new(), signed_in: Table::new() }
    }

    /// Takes an event about it.
    pub fn take(&mut self, seen: &Seen<'_>) {
        match seen.leaf.kind {
            EventType::DecisionAllow if seen.text("/grant").is_none() => self.used(seen),
            EventType::DecisionDeny => {
                let policy = matches!(seen.text("/reason"), Some("no_policy_match" | "forbidden_by_policy"));
                if let Some(it) = key(seen).filter(|_| policy).and_then(|key| self.uses.of(&key)) {
                    it.refused = it.refused.max(Some(seen.leaf.time));
                }
            }
            EventType::SessionStart => {
                if let Some(last) = seen.text("/actor/id").and_then(|id| self.signed_in.of(id)) {
                    *last = (*last).max(Some(seen.leaf.time));
                }
            }
            _ => {}
        }
    }

    fn used(&mut self, seen: &Seen<'_>) {
        let Some(it) = key(seen).and_then(|key| self.uses.of(&key)) else { return };
        if it.last.as_ref().is_none_or(|last| last.time < seen.leaf.time) {
            it.last = Some(Box::new(seen.cite()));
        }
    }

    /// What stands out at the end; `locked` says since when somebody is barred. Gives what could not be judged.
    pub fn end(
        self,
        window: Window,
        locked: &BTreeMap<String, Timestamp>,
        found: &mut BTreeMap<Exception, Found>,
    ) -> Vec<String> {
        let mut limits = Vec::new();
        for (count, what) in [(self.uses.left_out, "uses of standing access"), (self.signed_in.left_out, "sign-ins")] {
            if count > 0 {
                limits.push(format!(
                    "{count} {what} were counted but not followed: {FOLLOWED_MAX} of a kind are; take a shorter period"
                ));
            }
        }
        let since = window.until.minus(Ttl::hours(UNUSED_DAYS * DAY_HOURS));
        if self.uses.rows.values().all(|it| it.last.is_none()) {
            return limits;
        }
        if window.begins > since {
            limits.push(format!(
                "standing access that nobody used for {UNUSED_DAYS} days can't be told from a period shorter than that: \
                 this one begins {}",
                window.begins
            ));
            return limits;
        }
        let mut add = |cited: &Cited, note: String| {
            found.entry(Exception::UnusedStanding).or_default().add(1, Some(cited.clone()), note);
        };
        let mut latest: BTreeMap<&str, &Cited> = BTreeMap::new();
        for (key, it) in &self.uses.rows {
            let (Some(last), Some((what, person))) = (&it.last, key.rsplit_once(' ')) else { continue };
            let newest = latest.entry(what).or_insert(last);
            if newest.time < last.time {
                *newest = last;
            }
            let is_here = self.signed_in.rows.get(person).copied().flatten().is_some_and(|time| time >= since);
            let was_refused = it.refused.is_some_and(|refused| refused > last.time);
            if last.time <= since && is_here && !was_refused && !locked.contains_key(person) {
                let what = named(what);
                add(last, format!("{person} signs in and has not used {what} without a grant since {}", last.time));
            }
        }
        for (what, last) in latest {
            if last.time <= since {
                add(last, format!("nobody has used {} without a grant since {}", named(what), last.time));
            }
        }
        limits
    }
}
