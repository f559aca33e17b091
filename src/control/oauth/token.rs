//! Access tokens of ours: minted (RFC 9068), told of (RFC 7662), withdrawn (RFC 7009).
//!
//! INVARIANTS: a token has one audience, lasts a quarter of an hour at most and no longer than its
//! session and the certificate that it is bound to; a session that has a certificate has no unbound
//! tokens (CONTRACT §4).

use data_encoding::BASE64URL_NOPAD;
use serde_json::{Map, Value};

use crate::audit::{Event, EventType, Outcome, basis};
use crate::identity::acting::{self, Acting};
use crate::model::{GrantId, Principal, Session, SessionEnd, Thumbprint, Timestamp, Ttl};
use crate::store::{StoreError, StoredSession};

use super::super::caller::{
    ACCESS_TOKEN_TYPE, AccessToken, Caller, ConnectionFacts, Proof, Unproven, actor_of, grant_holds, read_token,
};
use super::super::desk::{ACCESS_TTL_MAX, Desk, hash_of};
use super::super::session;
use super::code::SECRET_BYTES_MAX;
use super::{CLIENT_ID, GrantError, known_client};

/// A token that was minted.
pub struct Minted {
    /// The JWT.
    pub text: String,
    /// Its own id.
    pub id: String,
    /// When it ends.
    pub expires_at: Timestamp,
    /// The certificate that it is bound to.
    pub bound_to: Option<Thumbprint>,
    /// The key that it is bound to.
    pub bound_key: Option<Thumbprint>,
}

/// Mints a token for the control API.
pub(super) fn mint(
    desk: &Desk,
    stored: &StoredSession,
    connection: &ConnectionFacts,
    now: Timestamp,
) -> Result<(Minted, Wish), GrantError> {
    let session = &stored.session;
    let bound = match (session.certificate, stored.certificate_expires_at) {
        (Some(thumbprint), Some(end)) => Some((thumbprint, end)),
        _ => connection
            .certificate
            .as_ref()
            .filter(|certificate| certificate.is_current(now))
            .map(|certificate| (certificate.thumbprint, certificate.not_after)),
    };
    let ttl = desk.settings.access_ttl.min(ACCESS_TTL_MAX);
    // A certificate that is over can't be shown, so it doesn't shorten: the token is of no use then.
    let bound = bound.map(|(thumbprint, end)| (thumbprint, if end.is_over(now) { session.expires_at } else { end }));
    let audience = desk.settings.origin.clone();
    let wish = Wish { audience, scope: None, ttl, grant: None, acting: Vec::new(), may_act: None };
    let minted = mint_for(desk, stored, &wish, Binding { certificate: bound, key: None }, now)?;
    Ok((minted, wish))
}

/// What a token is to be.
pub(in crate::control) struct Wish {
    /// Where it is good.
    pub audience: String,
    /// Actions that it is narrowed to.
    pub scope: Option<String>,
    /// How long it lasts at most: no longer than `grant`.
    pub ttl: Ttl,
    /// The grant that it ends with.
    pub grant: Option<GrantId>,
    /// Who acts by it for its subject, who acts now first.
    pub acting: Vec<Acting>,
    /// Which workload may come to act by it.
    pub may_act: Option<Principal>,
}

/// What a token is bound to.
#[derive(Clone, Copy)]
pub(super) struct Binding {
    /// A client certificate and its end (RFC 8705 §3.1).
    pub certificate: Option<(Thumbprint, Timestamp)>,
    /// A key that proves itself with each request (RFC 9449 §6.1).
    pub key: Option<Thumbprint>,
}

/// Signs a token of a session.
pub(super) fn mint_for(
    desk: &Desk,
    stored: &StoredSession,
    wish: &Wish,
    binding: Binding,
    now: Timestamp,
) -> Result<Minted, GrantError> {
    let session = &stored.session;
    let end = now.plus(wish.ttl).min(session.expires_at);
    let end = binding.certificate.map_or(end, |(_, certificate_end)| end.min(certificate_end));
    let mut id = [0u8; 16];
    desk.entropy.fill(&mut id);
    let id = BASE64URL_NOPAD.encode(&id);
    let mut claims = Map::new();
    let mut claim = |name: &str, value: Value| claims.insert(name.to_owned(), value);
    claim("iss", desk.settings.origin.clone().into());
    claim("sub", session.principal.id().into());
    claim("aud", wish.audience.clone().into());
    claim("client_id", CLIENT_ID.into());
    claim("iat", now.seconds().into());
    claim("exp", end.seconds().into());
    claim("jti", id.clone().into());
    claim("sid", session.id.to_string().into());
    claim("principal", session.principal.to_string().into());
    if let Some(scope) = &wish.scope {
        claim("scope", scope.clone().into());
    }
    if let Some(grant) = wish.grant {
        claim("grant", grant.to_string().into());
    }
    if let Some(act) = acting::claim(&wish.acting, &desk.settings.origin) {
        claim(acting::ACT, act);
    }
    if let Some(actor) = &wish.may_act {
        claim(acting::MAY_ACT, acting::may_act_claim(actor, &desk.settings.origin));
    }
    let mut confirmation = Map::new();
    if let Some((thumbprint, _)) = binding.certificate {
        confirmation.insert("x5t#S256".to_owned(), thumbprint.to_string().into());
    }
    if let Some(key) = binding.key {
        confirmation.insert("jkt".to_owned(), key.to_string().into());
    }
    if !confirmation.is_empty() {
        claim("cnf", confirmation.into());
    }
    let keys = desk.keys.load();
    let text = keys.signing.sign(ACCESS_TOKEN_TYPE, &claims).map_err(|error| GrantError::Signing(error.to_string()))?;
    let expires_at = Timestamp::from_seconds(end.seconds());
    let bound_to = binding.certificate.map(|(thumbprint, _)| thumbprint);
    Ok(Minted { text, id, expires_at, bound_to, bound_key: binding.key })
}

/// The event of a token that was exchanged for.
pub(super) fn exchanged_event(
    desk: &Desk,
    session: &Session,
    connection: &ConnectionFacts,
    minted: &Minted,
    wish: &Wish,
    now: Timestamp,
) -> Event {
    let mut event = issued_event(desk, session, connection, minted, now).with("audience", wish.audience.clone());
    event.grant = wish.grant;
    if let Some(scope) = &wish.scope {
        event = event.with("scope", scope.clone());
    }
    if let Some(key) = minted.bound_key {
        event = event.with("bound_key", key.to_string());
    }
    if !wish.acting.is_empty() {
        let acting: Vec<String> = wish.acting.iter().map(|actor| actor.principal.to_string()).collect();
        event = event.with(basis::ACT, acting);
    }
    if let Some(actor) = &wish.may_act {
        event = event.with("may_act", actor.to_string());
    }
    event
}

/// The event of a token: its id and end, never itself.
pub(super) fn issued_event(
    desk: &Desk,
    session: &Session,
    connection: &ConnectionFacts,
    minted: &Minted,
    now: Timestamp,
) -> Event {
    let mut event = Event::new(desk.event_id(now), now, EventType::TokenIssued, Outcome::Success);
    event.actor = actor_of(session, connection);
    event.resource = Some(session.id.to_string().into());
    let event = event
        .with("jti", minted.id.clone())
        .with("audience", desk.settings.origin.clone())
        .with("expires_at", minted.expires_at.to_string());
    match minted.bound_to {
        Some(thumbprint) => event.with("bound_to", thumbprint.to_string()),
        None => event,
    }
}

/// Withdraws a refresh token on its holder's word: its whole session ends, since both are one
/// sign-out. A token that is unknown or over is withdrawn already (RFC 7009 §2.2).
///
/// # Errors
/// When the client is not ours or the database refused.
pub async fn revoke(
    desk: &Desk,
    token: &str,
    client_id: &str,
    connection: &ConnectionFacts,
    now: Timestamp,
) -> Result<(), GrantError> {
    known_client(client_id)?;
    if token.is_empty() || token.len() > SECRET_BYTES_MAX {
        return Ok(());
    }
    let mut tx = desk.store.begin().await?;
    let Some(found) = tx.refresh_fetch(&hash_of(token)).await? else { return Ok(()) };
    let Some(stored) = tx.session_fetch(found.session).await? else { return Ok(()) };
    let actor = actor_of(&stored.session, connection);
    let ended = session::end_within(desk, &mut tx, found.session, SessionEnd::Logout, &actor, None, now).await?;
    tx.commit().await?;
    session::obey(desk, ended.iter());
    Ok(())
}

/// Withdraws one access token of ours on its holder's word: it is refused from its next use on, at
/// every node. One that does not hold is withdrawn already (RFC 7009 §2.2).
///
/// # Errors
/// When the database refused.
pub async fn revoke_access(
    desk: &Desk,
    text: &str,
    connection: &ConnectionFacts,
    now: Timestamp,
) -> Result<(), GrantError> {
    let Ok(token) = read_any(desk, text, now) else { return Ok(()) };
    let Some(jti) = token.verified.claims.get("jti").and_then(Value::as_str) else { return Ok(()) };
    let mut tx = desk.store.begin().await?;
    if tx.token_revoke(jti, token.verified.expires_at, now).await? {
        let mut event = Event::new(desk.event_id(now), now, EventType::TokenRevoked, Outcome::Success);
        event.actor.address = Some(connection.address);
        event.actor.certificate = connection.certificate.as_ref().map(|certificate| certificate.thumbprint);
        event.subject = Some(token.principal.clone());
        event.resource = Some(token.session.to_string().into());
        tx.event_append(&event.with("jti", jti)).await?;
    }
    tx.commit().await?;
    desk.directory.token_revoke(jti, token.verified.expires_at);
    Ok(())
}

/// Reads a token of ours for this host or any service.
pub(super) fn read_any(desk: &Desk, text: &str, now: Timestamp) -> Result<AccessToken, Unproven> {
    let policies = desk.policies.load();
    let services = policies.services().map(|service| service.name.as_str());
    let audiences: Vec<&str> = std::iter::once(desk.settings.origin.as_str()).chain(services).collect();
    read_token(desk, text, &audiences, now)
}

/// What a token says, to the person whose it is.
#[derive(Debug, Clone)]
pub struct Told {
    /// All claims.
    pub claims: Map<String, Value>,
}

/// Tells what an access token says, if it is good now and the caller's own. `None` for every other
/// (RFC 7662 §2.2): a caller learns nothing of tokens of others.
///
/// # Errors
/// When the database is away.
pub async fn introspect(desk: &Desk, caller: &Caller, token: &str, now: Timestamp) -> Result<Option<Told>, StoreError> {
    if caller.proof() != Proof::Certificate {
        return Ok(None);
    }
    let Ok(token) = read_any(desk, token, now) else { return Ok(None) };
    if token.principal != *caller.principal() {
        return Ok(None);
    }
    let stored = desk.store.session_fetch(token.session).await?;
    let live = stored.is_some_and(|stored| stored.session.is_live(now)) && grant_holds(desk, &token, now).await?;
    Ok(live.then_some(Told { claims: token.verified.claims }))
}
