//! Who is asking, from all that was shown: certificate, token, cookie.
//!
//! INVARIANTS: every credential that is present is checked, and all of them must name one principal
//! and one session; one that does not hold is a refusal, never a reason to look at the next. What
//! can end in the life of a connection (certificate, session, authorities, locks, a token's grant) is
//! asked here on each request.

use std::rc::Rc;
use std::sync::Arc;

use http::HeaderMap;
use sha2::{Digest, Sha256};
use tokio_util::sync::CancellationToken;

use crate::identity::certificate::Issuer;
use crate::identity::cookie::SESSION_COOKIE;
use crate::identity::directory::{CookieHash, LiveGrant, LiveSession};
use crate::identity::session_use::step;
use crate::model::address::counted_address;
use crate::model::{EntitlementName, Principal, PrincipalKind, SessionId, Thumbprint, Timestamp};
use crate::policy::Subject;

use super::bearer::{VerifiedToken, bound_here, presented_token, verified_token};
use super::breakglass;
use super::cross_site::not_cross_site;
use super::handshake::Channel;
use super::hygiene::own_cookie;
use super::limit;
use super::lookup::Looked;
use super::membership::{self, Counted, counting};
use super::proof;
use super::refusal::Refusal;
use super::route::Routed;
use super::snapshot::Snapshot;
use super::subject::{of_identity, of_session, of_workload, remembered};
use super::worker::{CallerKey, Worker};

/// Who is asking, proven. Only [`authenticate`] makes one.
#[expect(clippy::manual_non_exhaustive, reason = "the field is the proof: only this file can make one")]
pub struct Caller {
    /// Who.
    pub principal: Principal,
    /// By what they are known again; none for an opening.
    pub key: Option<CallerKey>,
    /// Under which session; none for a provider's bearer token.
    pub session: Option<Arc<LiveSession>>,
    /// Their Cedar entities, with the entitlements of `grants`.
    pub subject: Rc<Subject>,
    /// The same without any entitlement.
    pub base: Rc<Subject>,
    /// Their grants that count for this request.
    pub grants: Vec<LiveGrant>,
    /// Entitlements that they hold for something else, and that may bar from this.
    pub barring: Vec<EntitlementName>,
    /// The grant that the token was made under: what is open ends with it, whatever else permits it.
    pub under: Option<LiveGrant>,
    /// Sessions of those who act for the principal, who acts now first: what is open ends with theirs too.
    pub acting: Vec<Arc<LiveSession>>,
    /// The e-mail, for the record.
    pub email: Option<Arc<str>>,
    /// The token, if one was shown.
    pub token: Option<Rc<VerifiedToken>>,
    /// The earliest end of certificate, session and token.
    pub ends_at: Timestamp,
    /// Cancelled when open streams must end.
    pub streams: CancellationToken,
    _proof: (),
}

/// The names and principals that the shown credentials claim; they must be one.
#[derive(Default)]
struct Claims {
    session: Option<SessionId>,
}

impl Claims {
    /// Adds what one credential names.
    fn session(&mut self, id: SessionId) -> Result<(), Refusal> {
        match self.session {
            Some(other) if other != id => Err(Refusal::BadCredential("credentials name different sessions")),
            _ => {
                self.session = Some(id);
                Ok(())
            }
        }
    }
}

/// Checks everything that was shown and says who it is. `named` is whom good credentials named, also
/// where the answer is a refusal (a session that has ended, a lock): for the record.
///
/// # Errors
/// `NoCredential` when nothing names anybody; else what does not hold.
pub async fn authenticate(
    worker: &Worker,
    snapshot: &Snapshot,
    channel: &Channel,
    routed: &Routed,
    headers: &HeaderMap,
    now: Timestamp,
    named: &mut Option<Principal>,
) -> Result<Caller, Refusal> {
    let service = &routed.entry.service;
    let mut claims = Claims::default();
    let mut ends_at = Timestamp::from_millis(i64::MAX);
    let mut machine = None;
    let mut by_certificate = None;

    if let Some(opening) = &channel.opening {
        let caller = breakglass::caller(worker, snapshot, channel, opening, routed, headers, now, named);
        return Box::pin(caller).await;
    }
    let certificate = channel.certificate.as_ref();
    if let Some(certificate) = certificate {
        if !certificate.is_current(now) {
            return Err(Refusal::BadCredential("the client certificate has ended"));
        }
        if !channel.still_trusted(&snapshot.tls.trust, snapshot.trust_epoch, now) {
            return Err(Refusal::BadCredential("the client certificate's authority is no longer trusted"));
        }
        ends_at = ends_at.min(certificate.not_after);
        match (certificate.issuer, certificate.session) {
            (Issuer::Ours, Some(session)) => by_certificate = Some(session),
            (Issuer::Ours, None) => return Err(Refusal::BadCredential("a certificate of ours that names no session")),
            // A device is shown at sign-in and names nobody here.
            (Issuer::Device, _) => {}
            // A machine's names a workload where a trust rule says so, and never a user.
            (Issuer::Spiffe, _) => machine = certificate.spiffe_id.as_deref().map(|id| (certificate.thumbprint, id)),
            // Only `breakglass::caller` knows what to make of one, and it has been asked above.
            (Issuer::BreakGlass, _) => {
                return Err(Refusal::BadCredential("an emergency certificate without its opening"));
            }
        }
    }

    let cookie = own_cookie(headers, SESSION_COOKIE).map_err(|_| Refusal::BadCredential("two session cookies"))?;
    if let Some(value) = cookie {
        claims.session(cookie_session(worker, channel, value, &routed.canonical.host).await?)?;
    }

    let token = match presented_token(headers, service.pass_authorization)? {
        None => None,
        Some(shown) => {
            let token = verified_token(worker, snapshot, routed, shown.text, now)?;
            proof::check(worker, routed, headers, &token, shown, now, named).await?;
            Some(token)
        }
    };
    match (by_certificate, token.as_ref().and_then(|token| token.acting.first())) {
        (None, None) => {}
        (Some(session), None) => claims.session(session)?,
        // Who acts for somebody shows their own certificate, and a browser acts for nobody.
        (shown, Some(acting)) => {
            if shown.is_some_and(|session| session != acting.session) || cookie.is_some() {
                return Err(Refusal::BadCredential("a token of one who acts, beside another's credential"));
            }
        }
    }
    if let Some(token) = &token {
        bound_here(token, certificate.map(|c| c.thumbprint), service.client_certificate, service.unbound_bearer)?;
        ends_at = ends_at.min(token.expires_at);
        if let Some(session) = token.session {
            claims.session(session)?;
        }
    }

    let caller = match (claims.session, token) {
        (Some(id), token) => session_caller(worker, snapshot, id, token, ends_at, now, named).await?,
        (None, Some(token)) => bearer_caller(worker, snapshot, token, ends_at)?,
        (None, None) => match machine {
            Some(shown) => machine_caller(worker, snapshot, shown, ends_at)?,
            None => return Err(Refusal::NoCredential),
        },
    };
    if machine.is_some() && (caller.session.is_some() || caller.token.is_some()) {
        return Err(Refusal::BadCredential("a machine's certificate beside another credential"));
    }
    *named = Some(caller.principal.clone());
    if let (Some(_), Some(live)) = (cookie, &caller.session) {
        in_use(worker, live, now).await?;
    }
    if worker.shared.directory.is_locked(&caller.principal) {
        return Err(Refusal::Locked);
    }
    let mut caller = caller;
    if let Some(token) = caller.token.clone().filter(|token| !token.acting.is_empty()) {
        caller.acting = Box::pin(acting_sessions(worker, &token, now)).await?;
        let ends = caller.acting.iter().map(|live| live.session.expires_at);
        caller.ends_at = ends.fold(caller.ends_at, Timestamp::min);
    }
    if let Some(id) = caller.token.as_ref().and_then(|token| token.grant) {
        caller.under = Some(Box::pin(membership::under(worker, &caller.principal, id, now)).await?);
    }
    with_grants(worker, snapshot, channel, routed, &mut caller, now);
    if caller.token.is_none() {
        not_cross_site(worker, routed, headers)?;
    }
    Ok(caller)
}

impl Caller {
    /// The caller of an opening, once `breakglass.rs` has asked everything of it.
    pub(super) fn of_opening(
        principal: Principal,
        subject: Subject,
        ends_at: Timestamp,
        streams: CancellationToken,
        _asked: &breakglass::Asked,
    ) -> Self {
        Self::named(principal, None, Rc::new(subject), ends_at, streams)
    }

    /// Who is named, and no more: without session, token and e-mail, and with no grant looked at yet.
    fn named(
        principal: Principal,
        key: Option<CallerKey>,
        subject: Rc<Subject>,
        ends_at: Timestamp,
        streams: CancellationToken,
    ) -> Self {
        Self {
            principal,
            key,
            session: None,
            base: Rc::clone(&subject),
            subject,
            grants: Vec::new(),
            barring: Vec::new(),
            under: None,
            acting: Vec::new(),
            email: None,
            token: None,
            ends_at,
            streams,
            _proof: (),
        }
    }
}

/// The session of a cookie of this host. Anybody can make cookies up, so looks for them count as refusals of
/// their address, before they are made.
async fn cookie_session(worker: &Worker, channel: &Channel, value: &str, host: &str) -> Result<SessionId, Refusal> {
    let unknown = Refusal::BadCredential("an unknown session cookie");
    if value.len() != 43 {
        return Err(unknown);
    }
    let hash: CookieHash = Sha256::digest(value.as_bytes()).into();
    let directory = &worker.shared.directory;
    let entry = match directory.cookie(&hash) {
        Some(entry) => entry,
        None => {
            let address = counted_address(channel.peer.ip());
            if let refused @ Refusal::RateLimited { .. } = limit::anonymous(&worker.shared, address, unknown.clone()) {
                return Err(refused);
            }
            let looked = worker.shared.lookup.cookie(hash).await;
            directory.cookie(&hash).ok_or_else(|| in_doubt(looked).unwrap_or_else(|| unknown.clone()))?
        }
    };
    if *entry.host == *host { Ok(entry.session) } else { Err(unknown) }
}

/// What is not known is refused as such only where the store could be asked.
fn in_doubt(looked: Looked) -> Option<Refusal> {
    match looked {
        Looked::Settled => None,
        Looked::InDoubt => Some(Refusal::Unsettled),
    }
}

/// The session, as this node or else the store knows it.
async fn known_session(worker: &Worker, id: SessionId) -> Result<Option<Arc<LiveSession>>, Refusal> {
    let directory = &worker.shared.directory;
    if let Some(live) = directory.session(id) {
        return Ok(Some(live));
    }
    let looked = worker.shared.lookup.session(id).await;
    match directory.session(id) {
        None => in_doubt(looked).map_or(Ok(None), Err),
        known => Ok(known),
    }
}

/// The sessions of those who act by a token: each must live and be theirs, and none of them barred.
async fn acting_sessions(
    worker: &Worker,
    token: &VerifiedToken,
    now: Timestamp,
) -> Result<Vec<Arc<LiveSession>>, Refusal> {
    let directory = &worker.shared.directory;
    let mut sessions = Vec::with_capacity(token.acting.len());
    for actor in &token.acting {
        if directory.is_locked(&actor.principal) {
            return Err(Refusal::Locked);
        }
        let live = known_session(worker, actor.session).await?;
        let live = live.filter(|live| live.session.principal == actor.principal);
        let live = live.ok_or(Refusal::BadCredential("a token of one who acts in an unknown session"))?;
        if !live.session.is_live(now) {
            return Err(Refusal::BadCredential("a token of one who acted in a session that is over"));
        }
        sessions.push(live);
    }
    Ok(sessions)
}

/// A browser's session is over once nobody has used it for too long; this use is noted.
async fn in_use(worker: &Worker, live: &LiveSession, now: Timestamp) -> Result<(), Refusal> {
    let Some(idle) = worker.shared.settings.session_idle else { return Ok(()) };
    let created_at = live.session.created_at;
    if live.used.is_idle(created_at, idle, now) {
        // It may have been used at another node.
        let looked = worker.shared.lookup.session_use(live.session.id).await;
        if live.used.is_idle(created_at, idle, now) {
            return Err(in_doubt(looked).unwrap_or(Refusal::SessionEnded));
        }
    }
    if live.used.note(step(idle), now) {
        worker.shared.lookup.session_used(live.session.id, now);
    }
    Ok(())
}

async fn session_caller(
    worker: &Worker,
    snapshot: &Snapshot,
    id: SessionId,
    token: Option<Rc<VerifiedToken>>,
    ends_at: Timestamp,
    now: Timestamp,
    named: &mut Option<Principal>,
) -> Result<Caller, Refusal> {
    let directory = &worker.shared.directory;
    let live = known_session(worker, id).await?.ok_or(Refusal::BadCredential("an unknown session"))?;
    *named = Some(live.session.principal.clone());
    if !live.session.is_live(now) {
        return Err(Refusal::SessionEnded);
    }
    if token.as_ref().is_some_and(|token| token.principal != live.session.principal) {
        return Err(Refusal::BadCredential("token and session name different principals"));
    }
    let id = token.as_ref().and_then(|token| token.id.as_deref().map(|id| (id, token.expires_at)));
    let streams = match id {
        None => live.streams.clone(),
        Some((id, ends)) => directory
            .token_streams(id, ends, &live.streams)
            .ok_or(Refusal::BadCredential("a token that was withdrawn"))?,
    };
    let key = CallerKey::Session(live.session.id, live.session.version);
    let subject = remembered(worker, snapshot, key, &[], || of_session(snapshot, &live.session));
    let ends_at = ends_at.min(live.session.expires_at);
    let caller = Caller::named(live.session.principal.clone(), Some(key), subject, ends_at, streams);
    Ok(Caller { email: live.session.email.as_deref().map(Into::into), session: Some(live), token, ..caller })
}

/// Makes the caller a member of the entitlements of their grants that count for this request.
pub fn with_grants(
    worker: &Worker,
    snapshot: &Snapshot,
    channel: &Channel,
    routed: &Routed,
    caller: &mut Caller,
    now: Timestamp,
) {
    let Counted { grants, names, barring } = counting(worker, snapshot, channel, routed, caller, now);
    caller.subject = match caller.key {
        _ if names.is_empty() => Rc::clone(&caller.base),
        Some(key) => remembered(worker, snapshot, key, &names, || caller.base.with_entitlements(&names)),
        None => Rc::new(caller.base.with_entitlements(&names)),
    };
    (caller.grants, caller.barring) = (grants, barring);
}

/// A machine by its SPIFFE certificate: the workload that a rule of `workloads.toml` names.
fn machine_caller(
    worker: &Worker,
    snapshot: &Snapshot,
    (certificate, id): (Thumbprint, &str),
    ends_at: Timestamp,
) -> Result<Caller, Refusal> {
    let recognised = snapshot.policies.workloads().recognise_spiffe(id);
    let recognised = recognised.ok_or(Refusal::BadCredential("a machine that no rule of `workloads.toml` names"))?;
    let key = CallerKey::Certificate(certificate);
    let subject = remembered(worker, snapshot, key, &[], || of_workload(snapshot, &recognised));
    let streams = worker.shared.directory.sessionless(&recognised.principal);
    Ok(Caller::named(recognised.principal, Some(key), subject, ends_at, streams))
}

/// A caller by a provider's token alone.
fn bearer_caller(
    worker: &Worker,
    snapshot: &Snapshot,
    token: Rc<VerifiedToken>,
    ends_at: Timestamp,
) -> Result<Caller, Refusal> {
    let identity = token.identity.as_ref().ok_or(Refusal::BadCredential("a token of no session"))?;
    debug_assert!(identity.principal.kind() == PrincipalKind::User, "providers name users");
    let key = CallerKey::Token(token.hash);
    let subject = remembered(worker, snapshot, key, &[], || of_identity(snapshot, identity));
    let streams = worker.shared.directory.sessionless(&identity.principal);
    let caller = Caller::named(identity.principal.clone(), Some(key), subject, ends_at, streams);
    Ok(Caller { email: identity.email.as_deref().map(Into::into), token: Some(token), ..caller })
}
