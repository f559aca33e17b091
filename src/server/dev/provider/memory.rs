//! What the provider remembers between requests: codes under way, who is disabled, which of its
//! sessions ended.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::model::{Timestamp, Ttl};

use super::person::Person;

/// A code is good for so long (RFC 6749 §4.1.2 recommends at most 10 min).
const CODE_TTL: Ttl = Ttl::seconds(60);
/// Codes and ended sessions that are remembered; the oldest go first.
const ENTRIES_MAX: usize = 10_000;

/// A sign-in between `/authorize` and `/token`.
#[derive(Debug, Clone)]
pub(super) struct Grant {
    pub(super) person: &'static Person,
    pub(super) redirect_uri: String,
    pub(super) challenge: String,
    pub(super) nonce: Option<String>,
    pub(super) scope: String,
    pub(super) sid: String,
    pub(super) authenticated_at: Timestamp,
}

/// Why a code gives nothing.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum CodeError {
    /// Never given out, over, or forgotten.
    Unknown,
    /// Used before: the sessions of that sign-in are ended (RFC 6749 §4.1.2).
    Replayed,
}

struct Code {
    grant: Grant,
    expires_at: Timestamp,
    used: bool,
}

#[derive(Default)]
struct Tables {
    codes: BTreeMap<String, Code>,
    codes_in_order: VecDeque<String>,
    ended: BTreeSet<String>,
    ended_in_order: VecDeque<String>,
    disabled: BTreeSet<String>,
    groups: BTreeMap<String, Vec<String>>,
    redirect_uris: Vec<String>,
}

pub(super) struct Memory(Mutex<Tables>);

impl Memory {
    pub(super) fn new(redirect_uris: Vec<String>) -> Self {
        Self(Mutex::new(Tables { redirect_uris, ..Tables::default() }))
    }

    pub(super) fn code_insert(&self, code: String, grant: Grant, now: Timestamp) {
        let mut tables = self.lock();
        while tables.codes_in_order.len() >= ENTRIES_MAX {
            if let Some(oldest) = tables.codes_in_order.pop_front() {
                tables.codes.remove(&oldest);
            }
        }
        tables.codes_in_order.push_back(code.clone());
        tables.codes.insert(code, Code { grant, expires_at: now.plus(CODE_TTL), used: false });
    }

    /// Uses a code up, whatever comes of it.
    pub(super) fn code_take(&self, code: &str, now: Timestamp) -> Result<Grant, CodeError> {
        let mut tables = self.lock();
        let entry = tables.codes.get_mut(code).ok_or(CodeError::Unknown)?;
        let (used, over) = (entry.used, entry.expires_at.is_over(now));
        entry.used = true;
        let grant = entry.grant.clone();
        if used {
            tables.end(grant.sid);
            return Err(CodeError::Replayed);
        }
        if over { Err(CodeError::Unknown) } else { Ok(grant) }
    }

    pub(super) fn session_end(&self, sid: &str) {
        self.lock().end(sid.to_owned());
    }

    /// Whether refresh and access tokens of this sign-in still count.
    pub(super) fn is_live(&self, person: &Person, sid: &str) -> bool {
        let tables = self.lock();
        !tables.ended.contains(sid) && !tables.disabled.contains(person.name)
    }

    pub(super) fn is_disabled(&self, person: &Person) -> bool {
        self.lock().disabled.contains(person.name)
    }

    pub(super) fn groups_of(&self, person: &Person) -> Vec<String> {
        let given = self.lock().groups.get(person.name).cloned();
        given.unwrap_or_else(|| person.groups.iter().map(|group| (*group).to_owned()).collect())
    }

    pub(super) fn has_redirect_uri(&self, uri: &str) -> bool {
        self.lock().redirect_uris.iter().any(|registered| registered == uri)
    }

    /// Whether a registered redirect URI is on the same origin.
    pub(super) fn has_origin(&self, uri: &url::Url) -> bool {
        let same = |registered: &String| url::Url::parse(registered).is_ok_and(|known| known.origin() == uri.origin());
        self.lock().redirect_uris.iter().any(same)
    }

    pub(super) fn disable(&self, name: &str) {
        self.lock().disabled.insert(name.to_owned());
    }

    pub(super) fn enable(&self, name: &str) {
        self.lock().disabled.remove(name);
    }

    pub(super) fn set_groups(&self, name: &str, groups: &[&str]) {
        let groups = groups.iter().map(|group| (*group).to_owned()).collect();
        self.lock().groups.insert(name.to_owned(), groups);
    }

    pub(super) fn register_redirect_uri(&self, uri: &str) {
        self.lock().redirect_uris.push(uri.to_owned());
    }

    fn lock(&self) -> MutexGuard<'_, Tables> {
        // Each change is one insert or remove: a panic elsewhere can't have left half of one.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Tables {
    fn end(&mut self, sid: String) {
        if self.ended.contains(&sid) {
            return;
        }
        while self.ended_in_order.len() >= ENTRIES_MAX {
            if let Some(oldest) = self.ended_in_order.pop_front() {
                self.ended.remove(&oldest);
            }
        }
        self.ended_in_order.push_back(sid.clone());
        self.ended.insert(sid);
    }
}
