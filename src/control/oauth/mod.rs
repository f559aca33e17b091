//! The authorization server of our own command line (RFC 6749, 7636, 8252, 8628, 9700): what its
//! grants have in common.
//!
//! INVARIANTS: the one client is public and proves itself by PKCE, by being first, or by the
//! session's key; every code and token is good once; nothing issued outlives its session.

pub mod code;
mod delegate;
pub mod device;
pub mod exchange;
mod foreign;
pub mod refresh;
pub(super) mod run;
mod target;
pub mod token;
pub mod wanted;

use std::fmt;

use crate::audit::{Actor, Event, EventType, Outcome};
use crate::credential::authority::Issued;
use crate::model::{SessionEnd, SessionId, Timestamp};
use crate::store::{RefreshToken, StoreError, StoredSession, Tx};

use super::caller::{ConnectionFacts, actor_of};
use super::credential::token_issued;
use super::desk::{Desk, Token};
use super::session::{self, StartError};

/// The `client_id` of our command line.
pub const CLIENT_ID: &str = "doorward-cli";

/// What a grant gives.
pub struct Granted {
    /// The session that was started or goes on.
    pub stored: StoredSession,
    /// Its certificate, where a signing request was sent.
    pub certificate: Option<Issued>,
    /// A token for the control API.
    pub access: token::Minted,
    /// The next refresh token.
    pub refresh: Token,
    /// When the refresh token ends.
    pub refresh_expires_at: Timestamp,
}

/// Why a grant gives nothing. The words of RFC 6749 §5.2 and RFC 8628 §3.5; what is told beyond
/// them says what to do and never which of several checks failed.
#[derive(Debug)]
pub enum GrantError {
    /// Something is missing or malformed.
    InvalidRequest(&'static str),
    /// The client is none of ours, or its certificate is not the session's.
    InvalidClient,
    /// The code or token is unknown, over, used, or not for this use.
    InvalidGrant,
    /// This client may not do that here.
    UnauthorizedClient(&'static str),
    /// The person said no, or is locked.
    AccessDenied,
    /// Nobody has answered yet.
    AuthorizationPending,
    /// The device asks too often.
    SlowDown,
    /// The device's code is over.
    ExpiredToken,
    /// The signing request can't be used.
    Certificate(String),
    /// The token could not be signed.
    Signing(String),
    /// The database did not do it.
    Store(StoreError),
}

impl fmt::Display for GrantError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::InvalidRequest(what) | Self::UnauthorizedClient(what) => f.write_str(what),
            Self::InvalidClient => f.write_str("the client is not known, or shows a key that is not its session's"),
            Self::InvalidGrant => f.write_str("the code or token is not good; sign in again with `doorward login`"),
            Self::AccessDenied => f.write_str("the sign-in was refused"),
            Self::AuthorizationPending => f.write_str("nobody has agreed yet; ask again after the interval"),
            Self::SlowDown => f.write_str("wait five seconds more between two polls"),
            Self::ExpiredToken => f.write_str("nobody agreed in time; start again"),
            Self::Certificate(what) => f.write_str(what),
            Self::Signing(_) => f.write_str("the token could not be signed"),
            Self::Store(_) => f.write_str("the database is away; try again"),
        }
    }
}

impl std::error::Error for GrantError {}

impl From<StoreError> for GrantError {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

impl From<StartError> for GrantError {
    fn from(error: StartError) -> Self {
        match error {
            StartError::Locked => Self::AccessDenied,
            StartError::Ended => Self::InvalidGrant,
            StartError::Certificate(error) => Self::Certificate(error.to_string()),
            StartError::Store(error) => Self::Store(error),
        }
    }
}

/// Sees that the client is ours.
fn known_client(client_id: &str) -> Result<(), GrantError> {
    if client_id == CLIENT_ID { Ok(()) } else { Err(GrantError::InvalidClient) }
}

/// Issues the tokens that every grant ends with, within its transaction.
async fn issue_tokens(
    desk: &Desk,
    tx: &mut Tx,
    started: session::Started,
    connection: &ConnectionFacts,
    now: Timestamp,
) -> Result<(Granted, session::Started), GrantError> {
    let session = &started.stored.session;
    let refresh = desk.token();
    let ttl = desk.settings.idle.map_or(desk.settings.refresh_ttl, |idle| idle.min(desk.settings.refresh_ttl));
    let refresh_expires_at = now.plus(ttl).min(session.expires_at);
    let kept = RefreshToken {
        hash: refresh.hash(),
        session: session.id,
        client_id: CLIENT_ID.to_owned(),
        expires_at: refresh_expires_at,
        used: false,
    };
    tx.refresh_insert(&kept, now).await?;
    let (access, wish) = token::mint(desk, &started.stored, connection, now)?;
    tx.event_append(&token::issued_event(desk, session, connection, &access, now)).await?;
    token_issued(desk, tx, session.id, &access, &wish, now).await?;
    let granted = Granted {
        stored: started.stored.clone(),
        certificate: started.certificate.clone(),
        access,
        refresh,
        refresh_expires_at,
    };
    Ok((granted, started))
}

/// Something that is good once was used again: whoever was first may not be its owner, so the
/// session that came from it ends (RFC 9700 §4.14.2, RFC 6749 §4.1.2).
async fn end_reused(
    desk: &Desk,
    tx: &mut Tx,
    id: SessionId,
    what: &'static str,
    connection: &ConnectionFacts,
    now: Timestamp,
) -> Result<Option<StoredSession>, StoreError> {
    let actor = Actor {
        address: Some(connection.address),
        certificate: connection.certificate.as_ref().map(|certificate| certificate.thumbprint),
        ..Actor::default()
    };
    let ended = session::end_within(desk, tx, id, SessionEnd::RefreshReused, &actor, Some(what), now).await?;
    if let Some(ended) = &ended {
        let mut event = Event::new(desk.event_id(now), now, EventType::TokenRevoked, Outcome::Denied);
        event.actor = Actor { principal: None, email: None, ..actor_of(&ended.session, connection) };
        event.subject = Some(ended.session.principal.clone());
        event.resource = Some(id.to_string().into());
        event.reason = Some(what.into());
        tx.event_append(&event).await?;
    }
    Ok(ended)
}
