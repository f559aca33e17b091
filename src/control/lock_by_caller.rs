//! Barring and unbarring on a caller's word: who may, whom they name, and that this node obeys
//! before it answers.
//!
//! Whoever is named by id need not have been here: a bar may be set on somebody who comes tomorrow. Of a
//! provider that there isn't nobody ever comes, and of an id that is not known here that is said.

use std::fmt;

use crate::model::{BreakGlassId, Person, Principal, PrincipalKind, SessionId, Timestamp};
use crate::policy::{InstallationAction, SPIFFE_PROVIDER, nearest};
use crate::store::{Lock, PERSON_PAGE_MAX, SESSION_PAGE_MAX, StoreError};

use super::caller::Caller;
use super::desk::Desk;
use super::lock::{self, LockError};

/// Pages of live sessions that are searched for a name.
const PAGES_MAX: usize = 200;
/// Pages of people that are searched for who may have been meant.
const PEOPLE_PAGES_MAX: usize = 20;

/// Why nobody was barred or unbarred.
#[derive(Debug)]
pub enum ChangeLockError {
    /// No policy lets the caller.
    Denied,
    /// Nobody is called so.
    Nobody(String),
    /// Nobody ever comes from there.
    Provider {
        /// As it was named.
        name: String,
        /// Those that there are.
        known: Vec<String>,
    },
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
            Self::Provider { name, known } => {
                write!(
                    f,
                    "no provider or issuer is called `{}`, so nobody of that id ever comes; name the principal, \
                     `User::\"<provider>|<subject>\"`, with one of those that there are: ",
                    name.escape_debug()
                )?;
                if known.is_empty() { f.write_str("none") } else { listed(f, known) }
            }
            Self::Several(found) => {
                f.write_str("several are called so; name one: ")?;
                listed(f, found)
            }
            Self::Oneself => f.write_str("you would lock yourself out; ask somebody else who may lock"),
            Self::Lock(error) => error.fmt(f),
        }
    }
}

fn listed<T: fmt::Display>(f: &mut fmt::Formatter<'_>, items: &[T]) -> fmt::Result {
    for (position, item) in items.iter().enumerate() {
        write!(f, "{}`{item}`", if position == 0 { "" } else { ", " })?;
    }
    Ok(())
}

impl std::error::Error for ChangeLockError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Lock(error) => Some(error),
            Self::Denied | Self::Nobody(_) | Self::Provider { .. } | Self::Several(_) | Self::Oneself => None,
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

/// Whether anybody of an id has been here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Acquaintance {
    /// Somebody has, or a rule names them.
    Known,
    /// Nobody has, as far as is remembered.
    Unknown {
        /// Who may have been meant.
        near: Option<Principal>,
    },
}

/// Whether anybody whom a bar is on has been here. The bar stands whether or not this can be said.
pub async fn acquaintance(desk: &Desk, lock: &Lock, now: Timestamp) -> Option<Acquaintance> {
    let principal = &lock.principal;
    if is_known(desk, principal, now).await.ok()? {
        return Some(Acquaintance::Known);
    }
    let people = people_of(desk, principal.provider()).await.ok()?;
    let policies = desk.policies.load();
    let jobs = policies.workloads().rules().iter().filter_map(|rule| {
        let job = Principal::workload(principal.provider(), &rule.name)?;
        policies.workloads().rule_of(&job).is_some().then(|| (rule.name.clone(), job))
    });
    let all: Vec<(String, Principal)> = people.into_iter().chain(jobs).collect();
    let meant = nearest(principal.subject(), all.iter().map(|(word, _)| word.as_str()));
    let near = meant.and_then(|meant| all.iter().find(|(word, _)| word == meant)).map(|(_, near)| near.clone());
    Some(Acquaintance::Unknown { near: near.filter(|near| near != principal) })
}

/// Whether somebody of this id has been here lately, or is named by a rule.
async fn is_known(desk: &Desk, principal: &Principal, now: Timestamp) -> Result<bool, StoreError> {
    let by_rule = match principal.kind() {
        PrincipalKind::Workload => {
            let policies = desk.policies.load();
            let rules = policies.workloads();
            let machine = rules.recognise_spiffe(principal.subject()).map(|known| known.principal);
            rules.rule_of(principal).is_some() || machine.as_ref() == Some(principal)
        }
        PrincipalKind::BreakGlass => BreakGlassId::parse(principal.id())
            .is_ok_and(|id| desk.directory.emergency.open(now).iter().any(|opening| opening.id == id)),
        PrincipalKind::User => false,
    };
    Ok(by_rule
        || desk.store.person_fetch(principal).await?.is_some()
        || !desk.store.session_list(Some(principal), None, 1, now).await?.is_empty())
}

/// People of a provider, each under what they may have been called: subject and e-mail.
async fn people_of(desk: &Desk, provider: &str) -> Result<Vec<(String, Principal)>, StoreError> {
    let (mut found, mut after) = (Vec::new(), None);
    for _ in 0..PEOPLE_PAGES_MAX {
        let page = desk.store.person_list(after.as_ref(), PERSON_PAGE_MAX).await?;
        after = page.last().map(|last| last.person.principal.clone());
        for Person { principal, email, .. } in page.into_iter().map(|known| known.person) {
            if principal.provider() == provider {
                found.push((principal.subject().to_owned(), principal.clone()));
                found.extend(email.map(|email| (email, principal)));
            }
        }
        if after.is_none() {
            break;
        }
    }
    Ok(found)
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

/// Gives back a principal of whom somebody may come, or has come, or is barred.
async fn may_come(
    desk: &Desk,
    caller: &Caller,
    principal: Principal,
    now: Timestamp,
) -> Result<Principal, ChangeLockError> {
    let provider = principal.provider();
    let policies = desk.policies.load_full();
    let issuers = policies.workloads().issuers();
    let has_provider = principal.kind() != PrincipalKind::BreakGlass && principal.id().contains('|');
    let comes = if has_provider {
        desk.providers.get(provider).is_some()
            || issuers.iter().any(|issuer| issuer.name == provider)
            || provider == SPIFFE_PROVIDER
            // The caller came from there.
            || provider == caller.principal().provider()
    } else {
        BreakGlassId::parse(principal.id()).is_ok()
    };
    // What was taken out of the configuration may have left people and bars behind.
    if comes
        || desk.directory.is_locked(&principal)
        || desk.store.lock_fetch(&principal).await?.is_some()
        || is_known(desk, &principal, now).await?
    {
        return Ok(principal);
    }
    if !has_provider {
        return Err(ChangeLockError::Nobody(principal.to_string().chars().take(200).collect()));
    }
    let known = desk.providers.iter().map(|provider| provider.name().to_string());
    let known = known.chain(issuers.iter().map(|issuer| issuer.name.clone())).collect();
    Err(ChangeLockError::Provider { name: provider.chars().take(200).collect(), known })
}

async fn named(desk: &Desk, caller: &Caller, name: &str, now: Timestamp) -> Result<Principal, ChangeLockError> {
    if !caller.may(desk, InstallationAction::Lock, now) {
        return Err(ChangeLockError::Denied);
    }
    let name = name.trim();
    // As lists and messages show an opening.
    if let Ok(opening) = BreakGlassId::parse(name) {
        return may_come(desk, caller, Principal::breakglass(opening), now).await;
    }
    if let Some(principal) = Principal::parse(name) {
        let principal = if name.contains("::") { principal } else { whole(desk, principal).await? };
        return may_come(desk, caller, principal, now).await;
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
