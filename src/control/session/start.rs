//! Starting a session, and giving it its next certificate.

use std::collections::BTreeMap;
use std::fmt;

use serde_json::{Map, Value};
use sha2::{Digest, Sha256};
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::audit::{Actor, Event, EventType, basis};
use crate::credential::authority::{AuthorityError, Issued};
use crate::identity::directory::{CookieEntry, CookieHash};
use crate::model::{Device, Principal, Session, SessionId, SessionKind, Timestamp};
use crate::policy::is_claim_recorded;
use crate::store::{RevocationKind, SessionCertificate, StoreError, StoredCookie, StoredSession, Tx};

use super::super::caller::{ConnectionFacts, actor_of};
use super::super::credential::certificate_issued;
use super::super::desk::Desk;
use super::event;

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
    /// What a workload was recognised by.
    pub claims: BTreeMap<String, String>,
    /// The cookie that its browser gets: hash and host.
    pub cookie: Option<(CookieHash, String)>,
}

impl NewSession {
    /// The session that it is, or would be: without a certificate.
    #[must_use]
    pub fn session(&self, id: SessionId, expires_at: Timestamp, now: Timestamp) -> Session {
        Session {
            id,
            kind: self.kind,
            principal: self.principal.clone(),
            email: self.email.clone(),
            email_verified: self.email_verified,
            name: self.name.clone(),
            groups: self.groups.clone(),
            created_at: now,
            authenticated_at: self.authenticated_at,
            amr: self.amr.clone(),
            expires_at,
            version: 1,
            device: self.device.clone(),
            certificate: None,
            claims: self.claims.clone(),
            ended: None,
        }
    }
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
    let session = Session { certificate: kept.map(|kept| kept.thumbprint), ..new.session(id, expires_at, now) };
    let stored = StoredSession {
        session,
        link: new.link,
        certificate_expires_at: kept.map(|kept| kept.expires_at),
        certificate_key: kept.map(|kept| kept.key),
    };
    tx.session_insert(&stored).await?;
    tx.person_seen(&stored.session).await?;
    let cookie = new.cookie.map(|(hash, host)| StoredCookie { hash, session: id, host, expires_at });
    if let Some(cookie) = &cookie {
        tx.session_cookie_insert(cookie, now).await?;
    }
    let actor = actor_of(&stored.session, connection);
    let mut event = event(desk, EventType::SessionStart, &actor, id, now)
        .with("kind", stored.session.kind.name())
        .with("expires_at", expires_at.to_string())
        .with(basis::GROUPS, stored.session.groups.clone())
        .with(basis::AUTHENTICATED_AT, stored.session.authenticated_at.to_string());
    if stored.session.email.is_some() {
        event = event.with(basis::EMAIL_VERIFIED, stored.session.email_verified);
    }
    if !stored.session.amr.is_empty() {
        event = event.with(basis::AMR, stored.session.amr.clone());
    }
    if !stored.session.claims.is_empty() {
        let claims = stored.session.claims.iter().filter(|(name, _)| is_claim_recorded(name));
        let claims: Map<String, Value> = claims.map(|(name, value)| (name.clone(), value.clone().into())).collect();
        event = event.with(basis::CLAIMS, claims);
    }
    tx.event_append(&event).await?;
    if let Some(kept) = kept {
        tx.event_append(&certificate_event(desk, EventType::CredentialIssued, &actor, id, &kept, now)).await?;
        certificate_issued(desk, tx, id, &kept, now).await?;
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
    certificate_issued(desk, tx, session.id, &kept, now).await?;
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
