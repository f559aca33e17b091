//! Who calls the control host, proven: by a session's certificate, the control host's cookie, or a
//! token of ours (CONTRACT §4).
//!
//! INVARIANTS: a [`Caller`] is only made by [`prove`]. Every credential that is present must hold,
//! and all must name one session; one that doesn't hold is never passed over for another. A
//! certificate of our authority is good while the session that it names lives and it is current
//! itself: which of the session's certificates it is doesn't matter, since only the authority can
//! have made it for that session and it ends within `certificate_ttl`. The session is read from the
//! database each time, and so are locks: what was ended or barred by another node is so here at once.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use serde_json::Value;
use subtle::ConstantTimeEq;

use crate::audit::Actor;
use crate::identity::certificate::{ClientCertificate, Issuer};
use crate::identity::directory::{CookieEntry, CookieHash, Directory};
use crate::identity::token::{Expected, Verified, verify};
use crate::model::{Device, GrantId, GrantState, Principal, Session, SessionId, Thumbprint, Timestamp};
use crate::policy::{Ambient, InstallationAction};
use crate::store::{StoreError, StoredSession};

use super::desk::Desk;
use super::session::idle::use_now;

/// The media type of our access tokens (RFC 9068 §2.1).
pub const ACCESS_TOKEN_TYPE: &str = "at+jwt";

/// What the handshake and the socket say of a connection to the control host.
#[derive(Debug, Clone)]
pub struct ConnectionFacts {
    /// Where it came from.
    pub address: IpAddr,
    /// The client certificate whose chain was verified, if one was shown.
    pub certificate: Option<ClientCertificate>,
}

impl ConnectionFacts {
    /// The device that is shown, if its certificate is current.
    #[must_use]
    pub fn device(&self, now: Timestamp) -> Option<Device> {
        self.certificate.as_ref().filter(|certificate| certificate.is_current(now))?.device()
    }

    /// Whether a browser's session could begin over this connection: a session's certificate would disagree with
    /// its cookie, and so would a workload's or an opening's. A device's names nobody.
    #[must_use]
    pub fn lets_sign_in(&self) -> bool {
        self.certificate.as_ref().is_none_or(|certificate| match certificate.issuer {
            Issuer::Device => true,
            Issuer::Ours | Issuer::Spiffe | Issuer::BreakGlass => false,
        })
    }

    /// The thumbprint of the certificate that is shown and current.
    #[must_use]
    pub fn thumbprint(&self, now: Timestamp) -> Option<Thumbprint> {
        self.certificate.as_ref().filter(|certificate| certificate.is_current(now)).map(|it| it.thumbprint)
    }
}

/// One kind of credential as a request shows it.
#[derive(Debug)]
pub enum Shown<T> {
    /// Not at all.
    Absent,
    /// Once, in the right form.
    One(T),
    /// Several times, or in a form that can't be ours.
    Bad,
}

/// What a request says of where it was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Provenance {
    /// It changes nothing (GET, HEAD).
    Safe,
    /// `Origin` is ours.
    OurPage,
    /// No browser says anything of it: neither `Origin` nor `Sec-Fetch-Site`.
    NoPage,
    /// A page of another origin.
    OtherPage,
}

/// What a request shows.
#[derive(Debug)]
pub struct Evidence<'a> {
    /// Its connection.
    pub connection: &'a Arc<ConnectionFacts>,
    /// The session cookie, hashed.
    pub cookie: Shown<CookieHash>,
    /// The bearer token.
    pub bearer: Shown<&'a str>,
    /// Where it was made.
    pub provenance: Provenance,
}

/// Which credential spoke for the caller; the first that is present, in this order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Proof {
    /// The session's client certificate.
    Certificate,
    /// A token of ours.
    Bearer,
    /// The control host's cookie.
    Cookie,
}

/// Why nobody was proven.
#[derive(Debug)]
pub enum Unproven {
    /// Nothing was shown.
    NoCredential,
    /// Something does not hold or disagrees.
    BadCredential,
    /// The session is over.
    SessionEnded(Box<Actor>),
    /// The principal is barred.
    Locked(Box<Actor>),
    /// A page of another site made the request.
    CrossSite(Box<Actor>),
    /// It could not be looked up.
    Store(StoreError),
}

impl fmt::Display for Unproven {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoCredential => f.write_str("the request shows no credential; sign in"),
            Self::BadCredential => f.write_str("a credential of the request does not hold; sign in again"),
            Self::SessionEnded(_) => f.write_str("the session is over; sign in again"),
            Self::Locked(_) => f.write_str("the principal is locked; ask whoever set the lock"),
            Self::CrossSite(_) => f.write_str("the request was made by a page of another site"),
            Self::Store(error) => write!(f, "the session could not be looked up: {error}"),
        }
    }
}

impl std::error::Error for Unproven {}

impl From<StoreError> for Unproven {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

/// A caller of the control host, proven.
#[derive(Debug, Clone)]
pub struct Caller {
    stored: StoredSession,
    connection: Arc<ConnectionFacts>,
    proof: Proof,
}

impl Caller {
    /// The session, live when it was proven.
    #[must_use]
    pub const fn session(&self) -> &Session {
        &self.stored.session
    }

    /// The session with what only the control plane needs.
    #[must_use]
    pub const fn stored(&self) -> &StoredSession {
        &self.stored
    }

    /// Who.
    #[must_use]
    pub const fn principal(&self) -> &Principal {
        &self.stored.session.principal
    }

    /// Over which connection.
    #[must_use]
    pub const fn connection(&self) -> &Arc<ConnectionFacts> {
        &self.connection
    }

    /// By what.
    #[must_use]
    pub const fn proof(&self) -> Proof {
        self.proof
    }

    /// The caller as the record names them.
    #[must_use]
    pub fn actor(&self) -> Actor {
        actor_of(self.session(), &self.connection)
    }

    /// The circumstances of a question to the policies.
    #[must_use]
    pub fn ambient(&self, now: Timestamp) -> Ambient<'_> {
        Ambient::of_session(self.session(), self.connection.address, now)
    }

    /// Whether the policies let the caller do this to the installation.
    #[must_use]
    pub fn may(&self, desk: &Desk, action: InstallationAction, now: Timestamp) -> bool {
        let policies = desk.policies.load();
        let subject = desk.subject_now(&policies, self.session(), now);
        policies.installation_decide(&subject, action, &self.ambient(now)).allow
    }
}

/// The person of a session, at a connection, as the record names them.
#[must_use]
pub fn actor_of(session: &Session, connection: &ConnectionFacts) -> Actor {
    Actor {
        principal: Some(session.principal.clone()),
        address: Some(connection.address),
        email: session.email.as_deref().map(Arc::from),
        session: Some(session.id),
        device: session.device.as_ref().map(|device| device.id.as_str().into()),
        certificate: connection.certificate.as_ref().map(|certificate| certificate.thumbprint),
    }
}

/// Who is at a connection as the record may name them when nobody was proven or asked: the person whose
/// live session its certificate names, else address and certificate alone. Nothing is decided by it.
#[must_use]
pub fn actor_at(directory: &Directory, connection: &ConnectionFacts, now: Timestamp) -> Actor {
    let named = certificate_session(connection, now).ok().flatten();
    match named.and_then(|id| directory.session(id)).filter(|known| known.session.is_live(now)) {
        Some(known) => actor_of(&known.session, connection),
        None => Actor {
            address: Some(connection.address),
            certificate: connection.certificate.as_ref().map(|certificate| certificate.thumbprint),
            ..Actor::default()
        },
    }
}

/// Finds out who calls.
///
/// # Errors
/// When nobody is proven; the person is named in it as far as the record may know.
pub async fn prove(desk: &Desk, evidence: Evidence<'_>, now: Timestamp) -> Result<Caller, Unproven> {
    let certificate = certificate_session(evidence.connection, now)?;
    let bearer = match evidence.bearer {
        Shown::Absent => None,
        Shown::One(token) => Some(read_token(desk, token, &[&desk.settings.origin], now)?),
        Shown::Bad => return Err(Unproven::BadCredential),
    };
    let cookie = match evidence.cookie {
        Shown::Absent => None,
        Shown::One(hash) => Some(cookie_session(desk, &hash, now).await?),
        Shown::Bad => return Err(Unproven::BadCredential),
    };
    let named = [certificate, bearer.as_ref().map(|token| token.session), cookie];
    let mut sessions = named.into_iter().flatten();
    let Some(id) = sessions.next() else { return Err(Unproven::NoCredential) };
    if sessions.any(|other| other != id) || is_foreign(evidence.connection) {
        return Err(Unproven::BadCredential);
    }
    let stored = desk.store.session_fetch(id).await?.ok_or(Unproven::BadCredential)?;
    if let Some(token) = &bearer {
        token_fits(token, &stored.session, evidence.connection, now)?;
        if !grant_holds(desk, token, now).await? {
            return Err(Unproven::BadCredential);
        }
    }
    let proof = match (certificate, &bearer) {
        (Some(_), _) => Proof::Certificate,
        (None, Some(_)) => Proof::Bearer,
        (None, None) => Proof::Cookie,
    };
    let caller = Caller { stored, connection: Arc::clone(evidence.connection), proof };
    // The feed may have told this node what the read just missed.
    let ended_here = desk.directory.session(id).is_some_and(|known| known.session.ended.is_some());
    if ended_here || !caller.session().is_live(now) {
        return Err(Unproven::SessionEnded(Box::new(caller.actor())));
    }
    if cookie.is_some() && !use_now(desk, caller.session(), now).await? {
        return Err(Unproven::SessionEnded(Box::new(caller.actor())));
    }
    // Another node may have set a lock that this one has not heard of yet.
    if desk.directory.is_locked(caller.principal()) || desk.store.lock_fetch(caller.principal()).await?.is_some() {
        return Err(Unproven::Locked(Box::new(caller.actor())));
    }
    // A browser attaches cookies and certificates by itself, so only a token shows intent.
    let by_itself = bearer.is_none();
    let refused = match evidence.provenance {
        Provenance::Safe | Provenance::OurPage => false,
        Provenance::NoPage => by_itself && cookie.is_some(),
        Provenance::OtherPage => by_itself,
    };
    if refused {
        return Err(Unproven::CrossSite(Box::new(caller.actor())));
    }
    Ok(caller)
}

/// The session that the connection's certificate names, if it is one of ours.
fn certificate_session(connection: &ConnectionFacts, now: Timestamp) -> Result<Option<SessionId>, Unproven> {
    match &connection.certificate {
        Some(certificate) if certificate.issuer == Issuer::Ours => {
            if !certificate.is_current(now) {
                return Err(Unproven::BadCredential);
            }
            certificate.session.map(Some).ok_or(Unproven::BadCredential)
        }
        _ => Ok(None),
    }
}

/// The certificate of a workload, or of an opening, never goes together with a person's session. One
/// of a device does: it says from where.
fn is_foreign(connection: &ConnectionFacts) -> bool {
    connection.certificate.as_ref().is_some_and(|certificate| match certificate.issuer {
        Issuer::Spiffe | Issuer::BreakGlass => true,
        Issuer::Ours | Issuer::Device => false,
    })
}

async fn cookie_session(desk: &Desk, hash: &CookieHash, now: Timestamp) -> Result<SessionId, Unproven> {
    let cookie = desk.store.session_cookie_fetch(hash).await?.ok_or(Unproven::BadCredential)?;
    if cookie.host != desk.settings.host() || cookie.expires_at.is_over(now) {
        return Err(Unproven::BadCredential);
    }
    let entry = CookieEntry { session: cookie.session, host: cookie.host.into() };
    desk.directory.cookie_insert(*hash, entry);
    Ok(cookie.session)
}

/// An access token of ours whose signature, audience and times hold.
#[derive(Debug)]
pub(super) struct AccessToken {
    pub session: SessionId,
    pub principal: Principal,
    pub bound_to: Option<Thumbprint>,
    /// The key that it is bound to (RFC 9449 §6.1): at a service only, since no proof is read here.
    pub bound_key: Option<Thumbprint>,
    /// The grant that it was made under.
    pub grant: Option<GrantId>,
    pub verified: Verified,
}

/// Reads an access token of ours.
pub(super) fn read_token(
    desk: &Desk,
    token: &str,
    audiences: &[&str],
    now: Timestamp,
) -> Result<AccessToken, Unproven> {
    let keys = desk.keys.load();
    let expected = Expected { issuer: &desk.settings.origin, audiences, types: &[ACCESS_TOKEN_TYPE] };
    let verified = verify(token, &keys.public, &expected, now).map_err(|_| Unproven::BadCredential)?;
    let text = |name: &str| verified.claims.get(name).and_then(Value::as_str);
    if text("jti").is_some_and(|jti| desk.directory.is_token_revoked(jti)) {
        return Err(Unproven::BadCredential);
    }
    let session = text("sid").and_then(|id| SessionId::parse(id).ok()).ok_or(Unproven::BadCredential)?;
    let principal = text("principal").and_then(Principal::parse).ok_or(Unproven::BadCredential)?;
    let (mut bound_to, mut bound_key) = (None, None);
    if let Some(cnf) = verified.claims.get("cnf") {
        let cnf = cnf.as_object().filter(|cnf| !cnf.is_empty()).ok_or(Unproven::BadCredential)?;
        for (name, value) in cnf {
            let thumbprint = value.as_str().and_then(Thumbprint::parse).ok_or(Unproven::BadCredential)?;
            match name.as_str() {
                "x5t#S256" => bound_to = Some(thumbprint),
                "jkt" => bound_key = Some(thumbprint),
                // A confirmation that we don't know is one that we can't check.
                _ => return Err(Unproven::BadCredential),
            }
        }
    }
    let grant = match verified.claims.get("grant") {
        None => None,
        Some(id) => {
            let id = id.as_str().and_then(|id| GrantId::parse(id).ok());
            Some(id.ok_or(Unproven::BadCredential)?)
        }
    };
    Ok(AccessToken { session, principal, bound_to, bound_key, grant, verified })
}

/// Whether the grant that a token was made under is in force; a token under none needs none.
pub(super) async fn grant_holds(desk: &Desk, token: &AccessToken, now: Timestamp) -> Result<bool, StoreError> {
    let Some(id) = token.grant else { return Ok(true) };
    let grant = desk.store.grant_fetch(id).await?;
    Ok(grant.is_some_and(|grant| {
        grant.holder.principal == token.principal && matches!(grant.state_at(now), GrantState::Active { .. })
    }))
}

/// The live session of an access token for this host, if the token holds and belongs to the
/// connection: for a token that is shown to be exchanged.
///
/// # Errors
/// When the database is away.
pub(super) async fn prove_token(
    desk: &Desk,
    token: &str,
    connection: &ConnectionFacts,
    now: Timestamp,
) -> Result<Option<StoredSession>, StoreError> {
    let Ok(token) = read_token(desk, token, &[&desk.settings.origin], now) else { return Ok(None) };
    let Some(stored) = desk.store.session_fetch(token.session).await? else { return Ok(None) };
    let ended_here = desk.directory.session(token.session).is_some_and(|known| known.session.ended.is_some());
    let live = !ended_here && stored.session.is_live(now);
    let own = certificate_session(connection, now).is_ok_and(|named| named.is_none_or(|id| id == token.session));
    let fits = own && token_fits(&token, &stored.session, connection, now).is_ok();
    let fits = fits && grant_holds(desk, &token, now).await?;
    Ok((live && fits).then_some(stored))
}

/// RFC 8705 §3: a bound token is only good over the certificate that it names, and a session that
/// has a certificate has no tokens but bound ones.
fn token_fits(
    token: &AccessToken,
    session: &Session,
    connection: &ConnectionFacts,
    now: Timestamp,
) -> Result<(), Unproven> {
    let fits = match (token.bound_to, connection.thumbprint(now)) {
        (Some(bound), Some(shown)) => bool::from(bound.bytes().ct_eq(shown.bytes())),
        (Some(_), None) => false,
        (None, _) => session.certificate.is_none(),
    };
    if fits && token.bound_key.is_none() && token.principal == session.principal {
        Ok(())
    } else {
        Err(Unproven::BadCredential)
    }
}
