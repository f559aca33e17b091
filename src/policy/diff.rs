//! `doorward policy diff`: what changes between two policy folders, and which decisions with it.
//!
//! Two readings, one beside the other: thing by thing what the files say (`inventory.rs`), and what
//! comes out. For the second every case of both folders' `tests.toml` is asked of both sets.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::diagnostic::Diagnostic;
use super::inventory::{Inventory, Key, Thing, inventory};
use super::load::{LoadSettings, load};
use super::policy_set::PolicySet;
use super::scenario::Question;
use super::test_table::{self, Case, shown};
use crate::model::ServiceName;

/// The field that is told where what a thing means differs, and no field of its own does.
const MEANING: &str = "meaning";

/// One thing that is said otherwise. What is only in the new folder has no `old`, what is only in
/// the old one no `new`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// What kind of thing: `route`, `entitlement`, `policy` …
    pub kind: &'static str,
    /// Whose; none for what belongs to the installation.
    pub service: Option<ServiceName>,
    /// Which.
    pub name: String,
    /// What of it; none where the whole thing came or went.
    pub field: Option<&'static str>,
    /// As it was.
    pub old: Option<String>,
    /// As it will be.
    pub new: Option<String>,
}

impl Change {
    /// `added`, `removed` or `changed`.
    #[must_use]
    pub const fn word(&self) -> &'static str {
        match (&self.old, &self.new) {
            (None, _) => "added",
            (Some(_), None) => "removed",
            (Some(_), Some(_)) => "changed",
        }
    }
}

/// What one set answers to a case.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reply {
    /// Whether it is allowed.
    pub allow: bool,
    /// Why not.
    pub reason: Option<String>,
    /// The policies that decided.
    pub policies: Vec<Arc<str>>,
}

/// A case that comes out otherwise.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Turn {
    /// The service whose table it is in; none for the table of `global.cedar`.
    pub service: Option<ServiceName>,
    /// The table.
    pub file: PathBuf,
    /// The line of the case.
    pub line: usize,
    /// Its name.
    pub name: String,
    /// Who asks, as the case has it.
    pub who: String,
    /// For what: `POST /v1/deployments/prod`, `approve ops-api/deploy-prod`.
    pub question: String,
    /// What the old set answers.
    pub old: Reply,
    /// What the new set answers.
    pub new: Reply,
}

/// All that differs.
#[derive(Debug, Clone)]
pub struct Difference {
    /// What the files say otherwise.
    pub changes: Vec<Change>,
    /// Cases that come out otherwise.
    pub turns: Vec<Turn>,
    /// How many cases were asked of both.
    pub cases: usize,
}

/// Compares two policy folders.
///
/// # Errors
/// Everything that is wrong with either, by place: what can't be loaded can't be compared.
pub fn diff(old: &Path, new: &Path, settings: &LoadSettings) -> Result<Difference, Vec<Diagnostic>> {
    let mut wrong = Vec::new();
    let mut read = |dir: &Path| {
        let set = load(dir, settings).map_err(|found| wrong.extend(found)).ok()?;
        let cases = test_table::read(dir).map_err(|found| wrong.extend(found)).ok()?;
        Some((inventory(dir, &set), set, cases))
    };
    let (old, new) = (read(old), read(new));
    let (Some((old_things, old_set, old_cases)), Some((new_things, new_set, new_cases))) = (old, new) else {
        return Err(wrong);
    };
    // A case that both tables have is asked once, and is told of by its place in the new one.
    let mut asked = BTreeSet::new();
    let all = new_cases.into_iter().chain(old_cases);
    let cases: Vec<Case> =
        all.filter(|case| asked.insert(format!("{:?} {:?}", case.question, case.scenario))).collect();
    let turns = cases.iter().filter_map(|case| turn(case, &old_set, &new_set)).collect();
    Ok(Difference { changes: changes(&old_things, &new_things), turns, cases: cases.len() })
}

fn changes(old: &Inventory, new: &Inventory) -> Vec<Change> {
    let keys: BTreeSet<&Key> = old.keys().chain(new.keys()).collect();
    let mut found = Vec::new();
    for key in keys {
        let change = |thing: &Thing, field, old, new| Change {
            kind: key.kind.name(),
            service: key.service.clone(),
            name: thing.shown.clone().unwrap_or_else(|| key.identity.clone()),
            field,
            old,
            new,
        };
        match (old.get(key), new.get(key)) {
            (None, None) => {}
            (None, Some(thing)) => found.push(change(thing, None, None, Some(thing.summary()))),
            (Some(thing), None) => found.push(change(thing, None, Some(thing.summary()), None)),
            (Some(before), Some(after)) => {
                if before.meaning.is_some() && before.meaning == after.meaning {
                    continue;
                }
                let told_before = found.len();
                for (field, old, new) in differing(&before.values, &after.values) {
                    let none = || Some("none".to_owned());
                    found.push(change(after, Some(field), old.cloned().or_else(none), new.cloned().or_else(none)));
                }
                for (field, old, new) in differing(&before.lists, &after.lists) {
                    let empty = BTreeSet::new();
                    let (old, new) = (old.unwrap_or(&empty), new.unwrap_or(&empty));
                    let gone = old.difference(new).map(|item| change(after, Some(field), Some(item.clone()), None));
                    let come = new.difference(old).map(|item| change(after, Some(field), None, Some(item.clone())));
                    found.extend(gone.chain(come));
                }
                // INVARIANT: what means something else is never passed over, whatever its fields tell of it.
                if found.len() == told_before && before.meaning != after.meaning {
                    let meaning = |thing: &Thing| Some(thing.meaning.clone().unwrap_or_else(|| "none".to_owned()));
                    found.push(change(after, Some(MEANING), meaning(before), meaning(after)));
                }
            }
        }
    }
    found
}

/// Fields that are not the same, by name.
fn differing<'m, T: PartialEq>(
    old: &'m BTreeMap<&'static str, T>,
    new: &'m BTreeMap<&'static str, T>,
) -> impl Iterator<Item = (&'static str, Option<&'m T>, Option<&'m T>)> {
    let names: BTreeSet<&'static str> = old.keys().chain(new.keys()).copied().collect();
    names.into_iter().map(|name| (name, old.get(name), new.get(name))).filter(|(_, old, new)| old != new)
}

fn turn(case: &Case, old: &PolicySet, new: &PolicySet) -> Option<Turn> {
    let (old, new) = (reply(case, old), reply(case, new));
    (old.allow != new.allow).then(|| Turn {
        service: case.service.clone(),
        file: case.file.clone(),
        line: case.line,
        name: case.name.clone(),
        who: case.who.clone(),
        question: shown(&case.question),
        old,
        new,
    })
}

/// What a set answers. What it does not have is not there for anybody: an entitlement that it does
/// not define is held by nobody, and a service that it does not have is no way in.
fn reply(case: &Case, set: &PolicySet) -> Reply {
    let mut scenario = case.scenario.clone();
    scenario.entitlements.retain(|name| set.entitlement(name).is_some());
    match scenario.ask(set, &case.question) {
        Ok(answer) => Reply {
            allow: answer.allow(),
            reason: answer.reason().map(str::to_owned),
            policies: answer.policies().to_vec(),
        },
        Err(error) => {
            let missing = match &case.question {
                Question::Request { service, .. } if set.service(service).is_none() => "no_service".to_owned(),
                Question::Entitlement(_, name) if set.entitlement(name).is_none() => "no_entitlement".to_owned(),
                Question::Request { .. } | Question::Entitlement(..) | Question::Installation(_) => error.to_string(),
            };
            Reply { allow: false, reason: Some(missing), policies: Vec::new() }
        }
    }
}
