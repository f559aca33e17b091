//! The authorization code with PKCE (RFC 6749 §4.1, RFC 7636, RFC 8252 §7.3, RFC 9207).
//!
//! INVARIANTS: a code is bound to client, redirect URI, S256 challenge and the browser session that
//! asked; a wrong use burns it, and a second use ends the session that came from it (ATTACKS A40). Any
//! program on a person's computer can listen on loopback and open their browser, so no browser that is
//! signed in gives a code by itself: its person says on a page whether the program is theirs
//! (RFC 8252 §8.6), and only that page makes one.

use std::collections::BTreeMap;
use std::fmt;

use data_encoding::BASE64URL_NOPAD;
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use crate::audit::{Event, EventType, Outcome};
use crate::model::{Device, Session, SessionKind, Timestamp, Ttl};
use crate::store::{OauthCode, StoreError, StoredSession};

use super::super::caller::{Caller, ConnectionFacts, Proof};
use super::super::desk::{Desk, Token, hash_of};
use super::super::session::{self, NewSession};
use super::{CLIENT_ID, GrantError, Granted, end_reused, issue_tokens, known_client};

/// The longest `state` that is given back.
pub const STATE_BYTES_MAX: usize = 512;
/// How long a code is good.
const CODE_TTL: Ttl = Ttl::seconds(60);
/// The longest code or token that is looked at.
pub(super) const SECRET_BYTES_MAX: usize = 128;

/// What a browser is sent to us with (RFC 6749 §4.1.1). Empty texts are missing ones.
#[derive(Debug, Clone, Default)]
pub struct AuthorizeRequest {
    /// `code`
    pub response_type: String,
    /// `doorward-cli`
    pub client_id: String,
    /// `http://127.0.0.1:PORT/callback` or `http://[::1]:PORT/callback`
    pub redirect_uri: String,
    /// BASE64URL(SHA-256(verifier))
    pub code_challenge: String,
    /// `S256`
    pub code_challenge_method: String,
}

/// Why no code was made.
#[derive(Debug)]
pub enum AuthorizeError {
    /// Client or redirect URI are not ours: the browser must not be sent there.
    Untrusted(&'static str),
    /// The client asked wrongly, and is told so at its redirect URI: `error` and description.
    Asked(&'static str, &'static str),
    /// The caller is not a browser with a session.
    NoBrowserSession,
    /// The database did not do it.
    Store(StoreError),
}

impl fmt::Display for AuthorizeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Untrusted(what) | Self::Asked(_, what) => f.write_str(what),
            Self::NoBrowserSession => f.write_str("sign in with a browser first"),
            Self::Store(error) => write!(f, "the code could not be stored: {error}"),
        }
    }
}

impl std::error::Error for AuthorizeError {}

impl From<StoreError> for AuthorizeError {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

/// Whether our client may be answered there: loopback, any port, one path (RFC 8252 §7.3).
fn is_ours(redirect_uri: &str) -> bool {
    let rest = ["http://127.0.0.1:", "http://[::1]:"].iter().find_map(|prefix| redirect_uri.strip_prefix(prefix));
    let port = rest.and_then(|rest| rest.strip_suffix("/callback"));
    port.is_some_and(|port| {
        let plain = port.bytes().all(|b| b.is_ascii_digit()) && !port.starts_with('0');
        plain && port.parse::<u16>().is_ok()
    })
}

/// A challenge or verifier is made of these (RFC 7636 §4.1).
fn is_unreserved(text: &str) -> bool {
    text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_' | b'~'))
}

/// Checks what a browser is sent to us with. Before anybody is asked to sign in.
///
/// # Errors
/// What is wrong, and whether the client may be told.
pub fn check(request: &AuthorizeRequest) -> Result<(), AuthorizeError> {
    if request.client_id != CLIENT_ID {
        return Err(AuthorizeError::Untrusted("`client_id` is not known here"));
    }
    if !is_ours(&request.redirect_uri) {
        return Err(AuthorizeError::Untrusted(
            "`redirect_uri` must be `http://127.0.0.1:PORT/callback` or `http://[::1]:PORT/callback`",
        ));
    }
    if request.response_type != "code" {
        return Err(AuthorizeError::Asked("unsupported_response_type", "`response_type` must be `code`"));
    }
    if request.code_challenge_method != "S256" {
        return Err(AuthorizeError::Asked("invalid_request", "`code_challenge_method` must be `S256`"));
    }
    let decoded = BASE64URL_NOPAD.decode(request.code_challenge.as_bytes());
    if !decoded.is_ok_and(|bytes| bytes.len() == 32) {
        return Err(AuthorizeError::Asked(
            "invalid_request",
            "`code_challenge` must be the base64url of a SHA-256 (RFC 7636)",
        ));
    }
    Ok(())
}

/// Where a browser is sent with an answer: the client's redirect URI, which is one without a query, the
/// client's own `state`, and who answers (RFC 9207).
#[must_use]
pub fn back_to_client(desk: &Desk, redirect_uri: &str, state: &str, answer: &[(&str, &str)]) -> String {
    let mut query = form_urlencoded::Serializer::new(String::new());
    query.extend_pairs(answer);
    if !state.is_empty() {
        query.append_pair("state", state);
    }
    query.append_pair("iss", &desk.settings.origin);
    format!("{redirect_uri}?{}", query.finish())
}

/// Whether the caller is a browser with a session, which alone can be asked.
///
/// # Errors
/// `NoBrowserSession`
pub fn is_browser(caller: &Caller) -> Result<(), AuthorizeError> {
    let browser = caller.proof() == Proof::Cookie && caller.session().kind == SessionKind::Browser;
    if browser { Ok(()) } else { Err(AuthorizeError::NoBrowserSession) }
}

/// The person of a browser session says that the program that asks is not theirs: on record, since
/// something on their computer wanted to be them.
///
/// # Errors
/// When the request is wrong, the caller is no browser, or the database refused.
pub async fn refuse(
    desk: &Desk,
    caller: &Caller,
    request: &AuthorizeRequest,
    now: Timestamp,
) -> Result<(), AuthorizeError> {
    check(request)?;
    is_browser(caller)?;
    let mut event = Event::new(desk.event_id(now), now, EventType::SignInFailed, Outcome::Denied);
    event.actor = caller.actor();
    event.reason = Some("program_refused".into());
    event.resource = Some(caller.session().id.to_string().into());
    let event = event.with("redirect_uri", request.redirect_uri.clone());
    let mut tx = desk.store.begin().await?;
    tx.event_append(&event).await?;
    tx.commit().await?;
    Ok(())
}

/// Makes a code for the person of a browser session, who was asked and agreed.
///
/// # Errors
/// When the request is wrong, the caller is no browser, or the database refused.
pub async fn authorize(
    desk: &Desk,
    caller: &Caller,
    request: &AuthorizeRequest,
    now: Timestamp,
) -> Result<Token, AuthorizeError> {
    check(request)?;
    is_browser(caller)?;
    let code = desk.token();
    let kept = OauthCode {
        hash: code.hash(),
        client_id: request.client_id.clone(),
        redirect_uri: request.redirect_uri.clone(),
        challenge: request.code_challenge.clone(),
        parent: caller.session().id,
        expires_at: now.plus(CODE_TTL),
        used: false,
        issued: None,
    };
    let mut tx = desk.store.begin().await?;
    tx.code_insert(&kept, now).await?;
    tx.commit().await?;
    Ok(code)
}

/// What the client brings for tokens (RFC 6749 §4.1.3).
#[derive(Debug, Clone, Default)]
pub struct CodeRequest {
    /// The code.
    pub code: String,
    /// `doorward-cli`
    pub client_id: String,
    /// The one that the code was sent to.
    pub redirect_uri: String,
    /// The PKCE verifier.
    pub code_verifier: String,
    /// A signing request, if a certificate is wanted.
    pub csr: Option<Vec<u8>>,
}

/// Exchanges a code for a session of the command line.
///
/// # Errors
/// When the code is not good for this client, or the session can't be started.
pub async fn exchange(
    desk: &Desk,
    request: &CodeRequest,
    connection: &ConnectionFacts,
    now: Timestamp,
) -> Result<Granted, GrantError> {
    known_client(&request.client_id)?;
    if request.code.is_empty() || request.code.len() > SECRET_BYTES_MAX || request.redirect_uri.is_empty() {
        return Err(GrantError::InvalidRequest("`code` and `redirect_uri` are needed"));
    }
    if !(43..=128).contains(&request.code_verifier.len()) || !is_unreserved(&request.code_verifier) {
        return Err(GrantError::InvalidRequest("`code_verifier` of 43 to 128 characters is needed (RFC 7636)"));
    }
    let hash = hash_of(&request.code);
    let mut tx = desk.store.begin().await?;
    let Some(code) = tx.code_use(&hash, now).await? else {
        let issued = tx.code_fetch(&hash).await?.and_then(|code| code.issued);
        let ended = match issued {
            Some(id) => end_reused(desk, &mut tx, id, "code_reused", connection, now).await?,
            None => None,
        };
        tx.commit().await?;
        session::obey(desk, ended.iter());
        return Err(GrantError::InvalidGrant);
    };
    let parent = tx.session_hold(code.parent, now).await?;
    let Some(parent) = parent.filter(|_| fits(&code, request)) else {
        // The code is burned: whoever holds it isn't the one who asked for it.
        let mut event = Event::new(desk.event_id(now), now, EventType::TokenRevoked, Outcome::Denied);
        event.actor.address = Some(connection.address);
        event.reason = Some("code_misused".into());
        event.resource = Some(code.parent.to_string().into());
        tx.event_append(&event).await?;
        tx.commit().await?;
        return Err(GrantError::InvalidGrant);
    };
    let new = from_browser(&parent, connection.device(now));
    let started = session::start_within(desk, &mut tx, new, request.csr.as_deref(), connection, now).await?;
    tx.code_issued(&hash, started.stored.session.id).await?;
    let (granted, started) = issue_tokens(desk, &mut tx, started, connection, now).await?;
    tx.commit().await?;
    session::enter(desk, &started);
    Ok(granted)
}

fn fits(code: &OauthCode, request: &CodeRequest) -> bool {
    let challenge = BASE64URL_NOPAD.encode(&Sha256::digest(request.code_verifier.as_bytes()));
    let proven = bool::from(challenge.as_bytes().ct_eq(code.challenge.as_bytes()));
    proven && code.client_id == request.client_id && code.redirect_uri == request.redirect_uri
}

/// The session of a command line that a browser session vouches for: the same sign-in, the device
/// that the command line shows itself, and no longer than the browser session.
pub(super) fn from_browser(parent: &StoredSession, device: Option<Device>) -> NewSession {
    let Session { principal, email, email_verified, name, groups, authenticated_at, amr, expires_at, .. } =
        parent.session.clone();
    NewSession {
        kind: SessionKind::Cli,
        principal,
        email,
        email_verified,
        name,
        groups,
        authenticated_at,
        amr,
        device,
        link: parent.link.clone(),
        ends_by: Some(expires_at),
        claims: BTreeMap::new(),
        cookie: None,
    }
}
