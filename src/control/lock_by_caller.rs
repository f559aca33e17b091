//! Barring and unbarring on a caller's word: who may, whom they name, and that this node obeys
//! before it answers.

use std::fmt;

use crate::model::{Person, Principal, SessionId, Timestamp};
use crate::policy::InstallationAction;
use crate::store::{Lock, SESSION_PAGE_MAX, StoreError};

use super::caller::Caller;
use super::desk::Desk;
use super::lock::{self, LockError};

/// Pages of live sessions that are searched for a name.
const PAGES_MAX: usize = 200;

/// Why nobody was barred or unbarred.
#[derive(Debug)]
pub enum ChangeLockError {
    /// No policy lets the caller.
    Denied,
    /// Nobody is called so.
    Nobody(String),
    /// Several are called so.
    Several(Vec<Principal>),
    /// Whoever bars themselves can't lift the bar.
    Oneself,
    /// It could not be done.
    Lock(LockError),
}

impl fmt::Display for ChangeLockError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Denied => f.write_str("no policy lets you lock or unlock anybody"),
            Self::Nobody(name) => write!(
                f,
                "nobody who is signed in or locked is called `{}`; name the principal, `User::\"<provider>|<subject>\"`",
                name.escape_debug()
            ),
            Self::Several(found) => {
                f.write_str("several are called so; name one: ")?;
                for (position, principal) in found.iter().enumerate() {
                    write!(f, "{}`{principal}`", if position == 0 { "" } else { ", " })?;
                }
                Ok(())
            }
            Self::Oneself => f.write_str("you would lock yourself out; ask somebody else who may lock"),
            Self::Lock(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for ChangeLockError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Lock(error) => Some(error),
            Self::Denied | Self::Nobody(_) | Self::Several(_) | Self::Oneself => None,
        }
    }
}

impl From<StoreError> for ChangeLockError {
    fn from(error: StoreError) -> Self {
        Self::Lock(error.into())
    }
}

impl From<LockError> for ChangeLockError {
    fn from(error: LockError) -> Self {
        Self::Lock(error)
    }
}

/// Bars whom `name` names.
///
/// # Errors
/// When the caller may not, nobody, several or the caller are meant, or it can't be done.
pub async fn set(
    desk: &Desk,
    caller: &Caller,
    name: &str,
    reason: &str,
    now: Timestamp,
) -> Result<Lock, ChangeLockError> {
    let principal = named(desk, caller, name, now).await?;
    if principal == *caller.principal() {
        return Err(ChangeLockError::Oneself);
    }
    let set = lock::set(&desk.store, caller.actor(), &principal, reason, now, &*desk.entropy).await;
    // One that stands already is obeyed here by now, too.
    if matches!(set, Ok(_) | Err(LockError::AlreadyLocked { .. })) {
        desk.directory.lock(&principal);
        // Somebody may have lifted it since, which this node may have heard of before it came to here.
        lift(desk, &principal).await;
    }
    Ok(set?)
}

/// Lifts the bar on whom `name` names.
///
/// # Errors
/// As [`set`].
pub async fn clear(
    desk: &Desk,
    caller: &Caller,
    name: &str,
    reason: &str,
    now: Timestamp,
) -> Result<Lock, ChangeLockError> {
    let principal = named(desk, caller, name, now).await?;
    let cleared = lock::clear(&desk.store, caller.actor(), &principal, reason, now, &*desk.entropy).await;
    // A bar that only this node knows goes with it.
    if matches!(cleared, Ok(_) | Err(LockError::NotLocked { .. })) {
        lift(desk, &principal).await;
    }
    Ok(cleared?)
}

/// Lets a principal through here, unless somebody bars them.
async fn lift(desk: &Desk, principal: &Principal) {
    if let Err(error) = lock::lift(&desk.store, &desk.directory, principal).await {
        // Doubt bars; whether the bar stands may have been told of already, and is asked again.
        tracing::warn!(%error, "whether a bar still stands could not be asked");
        desk.directory.doubt_locks();
    }
}

/// Whom a bar is on, as far as they are known. The bar stands whether or not this can be said.
pub async fn person(desk: &Desk, lock: &Lock) -> Option<Person> {
    let known = desk.store.person_fetch(&lock.principal).await;
    known.ok().flatten().map(|known| known.person)
}

/// All bars, for those who may set them or read the record; for others there are none.
///
/// # Errors
/// When the database is away.
pub async fn list(desk: &Desk, caller: &Caller, now: Timestamp) -> Result<Vec<Lock>, LockError> {
    let may = [InstallationAction::Lock, InstallationAction::ReadAudit];
    if may.into_iter().any(|action| caller.may(desk, action, now)) {
        lock::list(&desk.store).await
    } else {
        Ok(Vec::new())
    }
}

/// Whom a bare id means, `<provider>|<subject>`: lists show those of people and of workloads alike.
async fn whole(desk: &Desk, user: Principal) -> Result<Principal, ChangeLockError> {
    let Some(workload) = Principal::workload(user.provider(), user.subject()) else { return Ok(user) };
    let locks = desk.store.lock_list().await?;
    let locked = |principal: &Principal| locks.iter().any(|lock| lock.principal == *principal);
    let policies = desk.policies.load();
    let rules = policies.workloads();
    let machine = rules.recognise_spiffe(user.subject()).is_some_and(|known| known.principal == workload);
    if !(machine || rules.rule_of(&workload).is_some() || locked(&workload)) {
        return Ok(user);
    }
    let is_user = desk.providers.get(user.provider()).is_some()
        || locked(&user)
        || desk.store.person_fetch(&user).await?.is_some();
    if is_user { Err(ChangeLockError::Several(vec![user, workload])) } else { Ok(workload) }
}

async fn named(desk: &Desk, caller: &Caller, name: &str, now: Timestamp) -> Result<Principal, ChangeLockError> {
    if !caller.may(desk, InstallationAction::Lock, now) {
        return Err(ChangeLockError::Denied);
    }
    let name = name.trim();
    if let Some(principal) = Principal::parse(name) {
        return if name.contains("::") { Ok(principal) } else { whole(desk, principal).await };
    }
    let mut found: Vec<Principal> = Vec::new();
    let mut meet = |principal: &Principal| {
        if !found.contains(principal) {
            found.push(principal.clone());
        }
    };
    let same = |text: Option<&str>| text.is_some_and(|text| !name.is_empty() && text.eq_ignore_ascii_case(name));
    for lock in desk.store.lock_list().await? {
        if same(Some(lock.principal.subject())) {
            meet(&lock.principal);
        }
    }
    let mut before: Option<SessionId> = None;
    for _ in 0..PAGES_MAX {
        let page = desk.store.session_list(None, before, SESSION_PAGE_MAX, now).await?;
        for stored in &page {
            let session = &stored.session;
            let whose = &session.principal;
            if same(session.email.as_deref()) || same(session.name.as_deref()) || same(Some(whose.subject())) {
                meet(whose);
            }
        }
        let Some(last) = page.last() else { break };
        before = Some(last.session.id);
    }
    match found.len() {
        0 => Err(ChangeLockError::Nobody(name.chars().take(200).collect())),
        1 => found.pop().ok_or_else(|| ChangeLockError::Nobody(name.to_owned())),
        _ => Err(ChangeLockError::Several(found)),
    }
}
