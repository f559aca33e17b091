//! What is on record of sign-ins: groups, proof and claims are told once, when a session starts, and
//! again when its groups change. Decisions only name their session.
//!
//! INVARIANT: at most [`SIGN_INS_MAX`] are kept; of more, decisions are not replayable. Lists that
//! are equal are kept once, so one of them costs little.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use serde_json::Value;

use super::line::Line;
use crate::audit::{EventType, basis};
use crate::model::{Principal, SessionId, Timestamp};
use crate::policy::{Opening, Past, SignIn};

/// How many sign-ins, changes of groups and openings are kept.
const SIGN_INS_MAX: usize = 200_000;

/// The types of events that are taken.
pub(super) const KINDS: [EventType; 3] =
    [EventType::SessionStart, EventType::SessionGroups, EventType::BreakGlassOpened];

#[derive(Debug, Clone)]
struct Begun {
    /// None where an older door recorded it.
    told: Option<Told>,
}

#[derive(Debug, Clone)]
struct Told {
    sign_in: SignIn,
    groups: Arc<[String]>,
    email_verified: bool,
    claims: BTreeMap<String, String>,
}

#[derive(Debug, Clone)]
struct Regrouped {
    at: Timestamp,
    added: Arc<[String]>,
    removed: Arc<[String]>,
}

/// Sign-ins by session, and openings by principal.
#[derive(Debug, Default)]
pub(super) struct SignIns {
    begun: HashMap<SessionId, Begun>,
    regrouped: HashMap<SessionId, Vec<Regrouped>>,
    openings: HashMap<Principal, Opening>,
    lists: HashSet<Arc<[String]>>,
    taken: usize,
    full: bool,
}

impl SignIns {
    /// Whether the start of that session has been read.
    pub(super) fn knows(&self, session: SessionId) -> bool {
        self.begun.contains_key(&session)
    }

    /// Whether no more are kept.
    pub(super) const fn is_full(&self) -> bool {
        self.full
    }

    /// Takes an event of one of [`KINDS`]; leaves others.
    pub(super) fn take(&mut self, line: &Line) {
        if !KINDS.into_iter().any(|kind| line.is(kind)) {
            return;
        }
        if self.taken >= SIGN_INS_MAX {
            self.full = true;
            return;
        }
        self.taken += 1;
        let session = line.resource.as_deref().and_then(|id| SessionId::parse(id).ok());
        match session {
            Some(session) if line.is(EventType::SessionStart) => {
                let told = self.told(line);
                self.begun.insert(session, Begun { told });
            }
            Some(session) if line.is(EventType::SessionGroups) => {
                let added = self.list(line.texts(basis::GROUPS_ADDED).unwrap_or_default());
                let removed = self.list(line.texts(basis::GROUPS_REMOVED).unwrap_or_default());
                self.regrouped.entry(session).or_default().push(Regrouped { at: line.time.0, added, removed });
            }
            Some(_) | None => self.opened(line),
        }
    }

    fn told(&mut self, line: &Line) -> Option<Told> {
        let groups = line.texts(basis::GROUPS)?;
        let authenticated_at = Timestamp::parse(line.text(basis::AUTHENTICATED_AT)?)?;
        let amr = self.list(line.texts(basis::AMR).unwrap_or_default());
        let claims = line.data.get(basis::CLAIMS).and_then(Value::as_object).into_iter().flatten();
        Some(Told {
            sign_in: SignIn { created_at: line.time.0, authenticated_at, amr },
            groups: self.list(groups),
            email_verified: line.data.get(basis::EMAIL_VERIFIED).and_then(Value::as_bool).unwrap_or(false),
            claims: claims.filter_map(|(name, value)| Some((name.clone(), value.as_str()?.to_owned()))).collect(),
        })
    }

    fn opened(&mut self, line: &Line) {
        let principal = line.actor.principal.as_deref().and_then(Principal::parse);
        if let (Some(principal), Some(opener), Some(reason)) = (principal, line.text("opener"), line.text("reason")) {
            let custodians = line.texts("custodians").unwrap_or_default();
            let opening = Opening { opener: opener.to_owned(), custodians, reason: reason.to_owned() };
            self.openings.insert(principal, opening);
        }
    }

    /// The list, kept once however often it is told.
    fn list(&mut self, texts: Vec<String>) -> Arc<[String]> {
        if let Some(known) = self.lists.get(&*texts) {
            return Arc::clone(known);
        }
        let list: Arc<[String]> = texts.into();
        self.lists.insert(Arc::clone(&list));
        list
    }

    /// Adds what the sign-in tells to a decision of that session.
    ///
    /// # Errors
    /// What is not on record.
    pub(super) fn complete(&self, session: SessionId, past: &mut Past) -> Result<(), &'static str> {
        let begun = match self.begun.get(&session) {
            Some(begun) => begun,
            None if self.full => return Err("more sign-ins than are kept in memory; choose a shorter time"),
            None => return Err("no sign-in on record"),
        };
        let told = begun.told.as_ref().ok_or("no groups on record")?;
        past.sign_in = Some(told.sign_in.clone());
        past.email_verified = told.email_verified;
        past.claims.clone_from(&told.claims);
        past.groups = self.groups(session, &told.groups, past.at);
        Ok(())
    }

    /// The groups of a session as they were then.
    fn groups(&self, session: SessionId, first: &Arc<[String]>, at: Timestamp) -> Arc<[String]> {
        let Some(changes) = self.regrouped.get(&session) else { return Arc::clone(first) };
        let mut until: Vec<&Regrouped> = changes.iter().filter(|change| change.at <= at).collect();
        until.sort_by_key(|change| change.at);
        let mut groups = first.to_vec();
        for change in until {
            groups.retain(|group| !change.removed.contains(group));
            groups.extend(change.added.iter().cloned());
        }
        groups.into()
    }

    /// The opening of someone on the emergency path.
    pub(super) fn opening(&self, principal: &Principal) -> Option<&Opening> {
        self.openings.get(principal)
    }
}
