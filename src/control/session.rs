//! Sessions: started, renewed, regrouped, ended, told of.
//!
//! What happens when a session ends: 1. the guarded update finds it live and counts its version up;
//! 2. event and feed entry commit with it; 3. this node's directory ends it, which cuts its open
//! streams; 4. other nodes do the same when they read the feed. INVARIANT: of two that end one
//! session, one gets the row and writes the event.

use std::fmt;
use std::sync::Arc;

use sha2::{Digest, Sha256};
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::audit::{Actor, Event, EventType, Outcome};
use crate::credential::authority::{AuthorityError, Issued};
use crate::identity::directory::{CookieEntry, CookieHash, LiveSession};
use crate::model::{Device, Principal, Session, SessionEnd, SessionId, SessionKind, Timestamp};
use crate::policy::InstallationAction;
use crate::store::{RevocationKind, SESSION_PAGE_MAX, SessionCertificate, StoreError, StoredCookie, StoredSession, Tx};

use super::caller::{Caller, ConnectionFacts, actor_of};
use super::desk::Desk;

/// The longest reason that is taken from people, in characters.
pub const REASON_CHARS_MAX: usize = 1000;
/// Sessions that one provider's word may end at once.
const AT_ONCE_MAX: i64 = SESSION_PAGE_MAX;

/// A session to be.
#[derive(Debug, Clone)]
pub struct NewSession {
    /// How it will show itself.
    pub kind: SessionKind,
    /// Whose.
    pub principal: Principal,
    /// The e-mail that the provider told.
    pub email: Option<String>,
    /// Whether the provider verified it.
    pub email_verified: bool,
    /// The name that the provider told.
    pub name: Option<String>,
    /// Groups as policies name them.
    pub groups: Vec<String>,
    /// When the person proved themselves.
    pub authenticated_at: Timestamp,
    /// How.
    pub amr: Vec<String>,
    /// The device that was shown.
    pub device: Option<Device>,
    /// The sign-in at a provider that it rests on; its row is there.
    pub link: Option<String>,
    /// It ends no later than this, whatever the settings say.
    pub ends_by: Option<Timestamp>,
    /// The cookie that its browser gets: hash and host.
    pub cookie: Option<(CookieHash, String)>,
}

/// A session that was started or renewed.
#[derive(Debug)]
pub struct Started {
    /// As stored.
    pub stored: StoredSession,
    /// The certificate that was issued with it.
    pub certificate: Option<Issued>,
    cookie: Option<StoredCookie>,
}

impl Started {
    /// A session that goes on as it is.
    #[must_use]
    pub const fn unchanged(stored: StoredSession) -> Self {
        Self { stored, certificate: None, cookie: None }
    }
}

/// Why no session was started or renewed.
#[derive(Debug)]
pub enum StartError {
    /// The principal is barred.
    Locked,
    /// The session is over.
    Ended,
    /// No certificate could be made from the signing request.
    Certificate(AuthorityError),
    /// The database did not do it.
    Store(StoreError),
}

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Locked => f.write_str("the session could not be started: its principal is locked"),
            Self::Ended => f.write_str("the session is over; sign in again"),
            Self::Certificate(error) => fmt::Display::fmt(error, f),
            Self::Store(error) => write!(f, "the session could not be stored: {error}"),
        }
    }
}

impl std::error::Error for StartError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Certificate(error) => Some(error),
            Self::Store(error) => Some(error),
            Self::Locked | Self::Ended => None,
        }
    }
}

impl From<StoreError> for StartError {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

impl From<AuthorityError> for StartError {
    fn from(error: AuthorityError) -> Self {
        Self::Certificate(error)
    }
}

/// Starts a session: one transaction, then this node knows it.
///
/// # Errors
/// When the principal is locked, the signing request can't be used, or the database refused.
pub async fn start(
    desk: &Desk,
    new: NewSession,
    csr: Option<&[u8]>,
    connection: &ConnectionFacts,
    now: Timestamp,
) -> Result<Started, StartError> {
    let mut tx = desk.store.begin().await?;
    let started = start_within(desk, &mut tx, new, csr, connection, now).await?;
    tx.commit().await?;
    enter(desk, &started);
    Ok(started)
}

/// Starts a session within a larger transaction. Once that is committed, [`enter`] makes this
/// node know it.
///
/// # Errors
/// As [`start`].
pub async fn start_within(
    desk: &Desk,
    tx: &mut Tx,
    new: NewSession,
    csr: Option<&[u8]>,
    connection: &ConnectionFacts,
    now: Timestamp,
) -> Result<Started, StartError> {
    if desk.directory.is_locked(&new.principal) {
        return Err(StartError::Locked);
    }
    let id = SessionId::fresh(now, &*desk.entropy);
    let by_settings = now.plus(desk.settings.lifetime);
    let expires_at = new.ends_by.map_or(by_settings, |cap| cap.min(by_settings));
    if expires_at.is_over(now) {
        return Err(StartError::Ended);
    }
    let certificate = csr.map(|csr| certify(desk, csr, id, expires_at, now)).transpose()?;
    let kept = certificate.as_ref().map(|(_, kept)| *kept);
    let session = Session {
        id,
        kind: new.kind,
        principal: new.principal,
        email: new.email,
        email_verified: new.email_verified,
        name: new.name,
        groups: new.groups,
        created_at: now,
        authenticated_at: new.authenticated_at,
        amr: new.amr,
        expires_at,
        version: 1,
        device: new.device,
        certificate: kept.map(|kept| kept.thumbprint),
        ended: None,
    };
    let stored = StoredSession {
        session,
        link: new.link,
        certificate_expires_at: kept.map(|kept| kept.expires_at),
        certificate_key: kept.map(|kept| kept.key),
    };
    tx.session_insert(&stored).await?;
    let cookie = new.cookie.map(|(hash, host)| StoredCookie { hash, session: id, host, expires_at });
    if let Some(cookie) = &cookie {
        tx.session_cookie_insert(cookie, now).await?;
    }
    let actor = actor_of(&stored.session, connection);
    let mut event = event(desk, EventType::SessionStart, &actor, id, now)
        .with("kind", stored.session.kind.name())
        .with("expires_at", expires_at.to_string());
    if !stored.session.amr.is_empty() {
        event = event.with("amr", stored.session.amr.clone());
    }
    tx.event_append(&event).await?;
    if let Some(kept) = kept {
        tx.event_append(&certificate_event(desk, EventType::CredentialIssued, &actor, id, &kept, now)).await?;
    }
    Ok(Started { stored, certificate: certificate.map(|(issued, _)| issued), cookie })
}

/// Makes this node know a session that was committed.
pub fn enter(desk: &Desk, started: &Started) {
    desk.directory.insert(started.stored.session.clone());
    if let Some(cookie) = &started.cookie {
        let entry = CookieEntry { session: cookie.session, host: cookie.host.as_str().into() };
        desk.directory.cookie_insert(cookie.hash, entry);
    }
}

/// Issues a session its next certificate: one transaction.
///
/// # Errors
/// When the session is over, the signing request can't be used, or the database refused.
pub async fn renew(
    desk: &Desk,
    stored: &StoredSession,
    csr: &[u8],
    connection: &ConnectionFacts,
    now: Timestamp,
) -> Result<Started, StartError> {
    let mut tx = desk.store.begin().await?;
    let started = renew_within(desk, &mut tx, stored, csr, connection, now).await?;
    tx.commit().await?;
    enter(desk, &started);
    Ok(started)
}

/// Issues a session its next certificate within a larger transaction; [`enter`] follows its commit.
///
/// # Errors
/// As [`renew`].
pub async fn renew_within(
    desk: &Desk,
    tx: &mut Tx,
    stored: &StoredSession,
    csr: &[u8],
    connection: &ConnectionFacts,
    now: Timestamp,
) -> Result<Started, StartError> {
    let session = &stored.session;
    let (issued, kept) = certify(desk, csr, session.id, session.expires_at, now)?;
    let stored = tx.session_certify(session.id, &kept, now).await?.ok_or(StartError::Ended)?;
    let actor = actor_of(session, connection);
    let event = certificate_event(desk, EventType::SessionRenewed, &actor, session.id, &kept, now);
    tx.event_append(&event).await?;
    tx.revocation_append(RevocationKind::SessionChanged, &session.id.to_string(), now).await?;
    Ok(Started { stored, certificate: Some(issued), cookie: None })
}

/// Makes a certificate that ends with the session at the latest, and where sessions end by being
/// idle, no later than that: renewing it is what shows that the session is in use.
fn certify(
    desk: &Desk,
    csr: &[u8],
    id: SessionId,
    session_end: Timestamp,
    now: Timestamp,
) -> Result<(Issued, SessionCertificate), AuthorityError> {
    let ttl = desk.settings.idle.map_or(desk.settings.certificate_ttl, |idle| idle.min(desk.settings.certificate_ttl));
    let not_after = now.plus(ttl).min(session_end);
    let issued = desk.authority.load().issue_session(csr, id, now, not_after, &*desk.entropy)?;
    let (_, parsed) = X509Certificate::from_der(&issued.der)
        .map_err(|_| AuthorityError::Request("what was made of it can't be read"))?;
    let key = Sha256::digest(parsed.public_key().raw).into();
    let kept = SessionCertificate { thumbprint: issued.thumbprint, expires_at: issued.not_after, key };
    Ok((issued, kept))
}

fn event(desk: &Desk, kind: EventType, actor: &Actor, id: SessionId, now: Timestamp) -> Event {
    let mut event = Event::new(desk.event_id(now), now, kind, Outcome::Success);
    event.actor = actor.clone();
    event.resource = Some(id.to_string().into());
    event
}

fn certificate_event(
    desk: &Desk,
    kind: EventType,
    actor: &Actor,
    id: SessionId,
    kept: &SessionCertificate,
    now: Timestamp,
) -> Event {
    event(desk, kind, actor, id, now)
        .with("kind", "x509")
        .with("thumbprint", kept.thumbprint.to_string())
        .with("expires_at", kept.expires_at.to_string())
}

/// Ends a session if it is live; `None` when it was over. Whether the actor may is the caller's
/// to know.
///
/// # Errors
/// When the database refused.
pub async fn end(
    desk: &Desk,
    id: SessionId,
    why: SessionEnd,
    actor: &Actor,
    reason: Option<&str>,
    now: Timestamp,
) -> Result<Option<StoredSession>, StoreError> {
    let mut tx = desk.store.begin().await?;
    let ended = end_within(desk, &mut tx, id, why, actor, reason, now).await?;
    tx.commit().await?;
    obey(desk, ended.iter());
    Ok(ended)
}

/// Ends a session within a larger transaction; [`obey`] follows its commit.
///
/// # Errors
/// When the database refused.
pub async fn end_within(
    desk: &Desk,
    tx: &mut Tx,
    id: SessionId,
    why: SessionEnd,
    actor: &Actor,
    reason: Option<&str>,
    now: Timestamp,
) -> Result<Option<StoredSession>, StoreError> {
    let Some(ended) = tx.session_end(id, why, now).await? else { return Ok(None) };
    let mut event = event(desk, EventType::SessionEnd, actor, id, now).with("end", why.name());
    event.subject = Some(ended.session.principal.clone());
    if let Some(reason) = reason {
        event = event.with("reason", reason);
    }
    tx.event_append(&event).await?;
    tx.revocation_append(RevocationKind::SessionEnded, &id.to_string(), now).await?;
    Ok(Some(ended))
}

/// Makes this node obey what was committed of sessions: ended ones are cut, others are updated.
pub fn obey<'a>(desk: &Desk, changed: impl Iterator<Item = &'a StoredSession>) {
    for stored in changed {
        desk.directory.insert(stored.session.clone());
    }
}

/// Ends the sessions that rest on the provider's session `sid`: at most as many as one page.
///
/// # Errors
/// When the database refused.
pub async fn end_by_provider_session(
    desk: &Desk,
    provider: &str,
    sid: &str,
    now: Timestamp,
) -> Result<usize, StoreError> {
    let ids = desk.store.link_sessions_by_sid(provider, sid, now).await?;
    end_all(desk, &ids, now).await
}

/// Ends all sessions of a provider's subject.
///
/// # Errors
/// When the database refused.
pub async fn end_by_principal(desk: &Desk, principal: &Principal, now: Timestamp) -> Result<usize, StoreError> {
    let mut ended = 0;
    loop {
        let found = desk.store.session_list(Some(principal), None, AT_ONCE_MAX, now).await?;
        let ids: Vec<SessionId> = found.iter().map(|stored| stored.session.id).collect();
        let done = end_all(desk, &ids, now).await?;
        ended += done;
        // Nothing ended means that others did it meanwhile.
        if done == 0 {
            return Ok(ended);
        }
    }
}

/// Ends the sessions that rest on one sign-in, because its provider refused it.
///
/// # Errors
/// When the database refused.
pub async fn end_by_link(desk: &Desk, link: &str, now: Timestamp) -> Result<usize, StoreError> {
    let found = desk.store.session_list_by_link(link, now).await?;
    let ids: Vec<SessionId> = found.iter().map(|stored| stored.session.id).collect();
    end_all(desk, &ids, now).await
}

async fn end_all(desk: &Desk, ids: &[SessionId], now: Timestamp) -> Result<usize, StoreError> {
    if ids.is_empty() {
        return Ok(0);
    }
    let actor = Actor::default();
    let mut tx = desk.store.begin().await?;
    let mut ended = Vec::with_capacity(ids.len());
    for id in ids {
        ended.extend(end_within(desk, &mut tx, *id, SessionEnd::Provider, &actor, None, now).await?);
    }
    tx.commit().await?;
    obey(desk, ended.iter());
    Ok(ended.len())
}

/// Gives the sessions that rest on one sign-in the groups that its provider tells now. Gives how
/// many had others.
///
/// # Errors
/// When the database refused.
pub async fn groups_replace(
    desk: &Desk,
    link: &str,
    groups: &[String],
    now: Timestamp,
) -> Result<usize, StoreError> {
    let found = desk.store.session_list_by_link(link, now).await?;
    let mut tx = desk.store.begin().await?;
    let mut changed = Vec::new();
    for stored in &found {
        let id = stored.session.id;
        let Some(regrouped) = tx.session_regroup(id, groups, now).await? else { continue };
        let mut event = event(desk, EventType::SessionGroups, &Actor::default(), id, now);
        event.subject = Some(regrouped.session.principal.clone());
        let without = |from: &[String], other: &[String]| -> Vec<String> {
            from.iter().filter(|group| !other.contains(group)).cloned().collect()
        };
        let event = event
            .with("added", without(groups, &stored.session.groups))
            .with("removed", without(&stored.session.groups, groups));
        tx.event_append(&event).await?;
        tx.revocation_append(RevocationKind::SessionChanged, &id.to_string(), now).await?;
        changed.push(regrouped);
    }
    tx.commit().await?;
    obey(desk, changed.iter());
    Ok(changed.len())
}

/// The session as this node obeys it, read from the database if this node hasn't heard of it.
///
/// # Errors
/// When the database is away.
pub async fn fetch(desk: &Desk, id: SessionId, now: Timestamp) -> Result<Option<Arc<LiveSession>>, StoreError> {
    if let Some(known) = desk.directory.session(id) {
        return Ok(Some(known));
    }
    let Some(stored) = desk.store.session_fetch(id).await? else { return Ok(None) };
    if !stored.session.expires_at.is_over(now) {
        desk.directory.insert(stored.session);
    }
    Ok(desk.directory.session(id))
}

/// The session of a browser's cookie at `host`, read from the database if this node hasn't heard
/// of it. A cookie of another host is none.
///
/// # Errors
/// When the database is away.
pub async fn fetch_by_cookie(
    desk: &Desk,
    hash: &CookieHash,
    host: &str,
    now: Timestamp,
) -> Result<Option<Arc<LiveSession>>, StoreError> {
    let entry = match desk.directory.cookie(hash) {
        Some(entry) => entry,
        None => match desk.store.session_cookie_fetch(hash).await? {
            Some(cookie) if !cookie.expires_at.is_over(now) => {
                let entry = CookieEntry { session: cookie.session, host: cookie.host.into() };
                desk.directory.cookie_insert(*hash, entry.clone());
                entry
            }
            _ => return Ok(None),
        },
    };
    if *entry.host == *host { fetch(desk, entry.session, now).await } else { Ok(None) }
}

/// Whose sessions are asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Whose {
    /// The caller's.
    Own,
    /// All that the caller may revoke.
    All,
}

/// Live sessions, newest first, and whether there are more.
///
/// # Errors
/// When the database is away.
pub async fn list(
    desk: &Desk,
    caller: &Caller,
    whose: Whose,
    before: Option<SessionId>,
    now: Timestamp,
) -> Result<(Vec<StoredSession>, Option<SessionId>), StoreError> {
    let principal = match whose {
        Whose::All if may_end_others(desk, caller, now) => None,
        Whose::All | Whose::Own => Some(caller.principal()),
    };
    let mut found = desk.store.session_list(principal, before, SESSION_PAGE_MAX + 1, now).await?;
    let page = usize::try_from(SESSION_PAGE_MAX).unwrap_or(usize::MAX);
    let more = found.len() > page;
    found.truncate(page);
    let next = found.last().filter(|_| more).map(|stored| stored.session.id);
    Ok((found, next))
}

fn may_end_others(desk: &Desk, caller: &Caller, now: Timestamp) -> bool {
    caller.may(desk, InstallationAction::Revoke, now) || caller.may(desk, InstallationAction::Administer, now)
}

/// Why a session was not revoked.
#[derive(Debug)]
pub enum RevokeError {
    /// There is none, or the caller may not know that there is.
    NotFound,
    /// The caller may look at it but not end it.
    Denied,
    /// The reason is missing or too long.
    Reason,
    /// The database did not do it.
    Store(StoreError),
}

impl fmt::Display for RevokeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotFound => f.write_str("there is no such session"),
            Self::Denied => f.write_str("no policy lets you revoke sessions of others"),
            Self::Reason => write!(f, "give a reason of 1 to {REASON_CHARS_MAX} characters"),
            Self::Store(error) => write!(f, "the session could not be ended: {error}"),
        }
    }
}

impl std::error::Error for RevokeError {}

impl From<StoreError> for RevokeError {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

/// Ends a session on a caller's word: one's own always, others' where policy says so. One that is
/// over already stays as it is and is answered the same.
///
/// # Errors
/// When the caller may not, or the database refused.
pub async fn revoke(
    desk: &Desk,
    caller: &Caller,
    id: SessionId,
    reason: &str,
    now: Timestamp,
) -> Result<StoredSession, RevokeError> {
    let reason = reason.trim();
    if reason.is_empty() || reason.chars().count() > REASON_CHARS_MAX {
        return Err(RevokeError::Reason);
    }
    let stored = desk.store.session_fetch(id).await?.ok_or(RevokeError::NotFound)?;
    if stored.session.principal != *caller.principal() && !caller.may(desk, InstallationAction::Revoke, now) {
        let known = caller.may(desk, InstallationAction::Administer, now);
        return Err(if known { RevokeError::Denied } else { RevokeError::NotFound });
    }
    let ended = end(desk, id, SessionEnd::Revoked, &caller.actor(), Some(reason), now).await?;
    match ended {
        Some(ended) => Ok(ended),
        None => desk.store.session_fetch(id).await?.ok_or(RevokeError::NotFound),
    }
}
