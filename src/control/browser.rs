//! Handing a browser that is signed in at the control host over to a service host.
//!
//! Cookies of one host are not seen by another, so the service host gets its own: 1. it sets a flow
//! cookie and sends the browser here with that cookie's hash; 2. [`offer`] writes a code for this
//! session, host and browser, good once and for a minute; 3. the browser brings the code back, and
//! [`redeem`] turns it into a cookie of that host. INVARIANTS: a code is worth nothing in a browser
//! that was not sent by that host; it is worth nothing for a host whose service demands a client
//! certificate; the session is one and the same, so its end ends every host's cookie.

use std::fmt;

use data_encoding::BASE64URL_NOPAD;
use subtle::ConstantTimeEq;

use crate::audit::{Event, EventType, Outcome};
use crate::identity::cookie::CookieValue;
use crate::identity::directory::CookieEntry;
use crate::model::{Session, SessionId, SessionKind, Timestamp, Ttl};
use crate::policy::ClientCertificate;
use crate::store::{ServiceHandover, StoreError, StoredCookie};

use super::caller::{Caller, Proof};
use super::desk::{Desk, hash_of};
use super::return_to::ReturnTo;

/// How long a browser may take from the control host to the service host.
pub const CODE_TTL: Ttl = Ttl::minutes(1);
/// Where a service host takes the code.
pub const CALLBACK_PATH: &str = "/.doorward/callback";
/// The longest code and cookie that are looked at, in bytes.
const SECRET_BYTES_MAX: usize = 128;

/// Why a browser was not handed over.
#[derive(Debug)]
pub enum OfferError {
    /// No service with this host lets browsers in.
    NoSuchHost,
    /// The binding is not the hash of a flow cookie.
    Binding,
    /// The caller is not a browser with a session here.
    NoBrowserSession,
    /// The database did not do it.
    Store(StoreError),
}

impl fmt::Display for OfferError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoSuchHost => f.write_str(
                "no service with this host lets browsers in; its owner can say `client_certificate = \"optional\"`",
            ),
            Self::Binding => f.write_str("the link to sign in is not whole; open the service's page again"),
            Self::NoBrowserSession => f.write_str("sign in with a browser first"),
            Self::Store(error) => write!(f, "the browser could not be handed over: {error}"),
        }
    }
}

impl std::error::Error for OfferError {}

impl From<StoreError> for OfferError {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

/// Why a code was not taken.
#[derive(Debug)]
pub enum RedeemError {
    /// It is unknown, used, over, of another host or another browser; or its session is over.
    Unknown,
    /// The database did not do it.
    Store(StoreError),
}

impl fmt::Display for RedeemError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unknown => f.write_str("the code is unknown, used, over, or another browser's"),
            Self::Store(error) => write!(f, "the code could not be looked up: {error}"),
        }
    }
}

impl std::error::Error for RedeemError {}

impl From<StoreError> for RedeemError {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

/// A browser that is signed in at a service host.
#[derive(Debug)]
pub struct Redeemed {
    /// Its cookie there.
    pub cookie: CookieValue,
    /// Its session.
    pub session: SessionId,
    /// Where it wanted to go: a path of that host.
    pub return_to: String,
}

/// Whether a service with this host lets browsers in.
fn lets_browsers_in(desk: &Desk, host: &str) -> bool {
    let policies = desk.policies.load();
    policies.service_for_host(host).is_some_and(|service| service.client_certificate == ClientCertificate::Optional)
}

/// Makes a code for the caller's browser, and gives the address that it goes to with it.
///
/// # Errors
/// When the host is none that lets browsers in, the caller is no browser, or the database refused.
pub async fn offer(
    desk: &Desk,
    caller: &Caller,
    host: &str,
    return_to: &ReturnTo,
    binding: &str,
    now: Timestamp,
) -> Result<String, OfferError> {
    if caller.proof() != Proof::Cookie || caller.session().kind != SessionKind::Browser {
        return Err(OfferError::NoBrowserSession);
    }
    let binding_hash = BASE64URL_NOPAD.decode(binding.as_bytes()).ok().and_then(|bytes| bytes.try_into().ok());
    let binding_hash: [u8; 32] = binding_hash.ok_or(OfferError::Binding)?;
    let host = host.to_ascii_lowercase();
    if !lets_browsers_in(desk, &host) {
        return Err(OfferError::NoSuchHost);
    }
    let code = desk.token();
    let location = format!("{}{CALLBACK_PATH}?code={}", desk.settings.url_of(&host), code.expose());
    let handover = ServiceHandover {
        code_hash: code.hash(),
        binding_hash,
        session: caller.session().id,
        host,
        return_to: return_to.to_string(),
        created_at: now,
        expires_at: now.plus(CODE_TTL),
    };
    let mut tx = desk.store.begin().await?;
    tx.handover_insert(&handover).await?;
    tx.commit().await?;
    Ok(location)
}

/// Turns a code into a cookie of `host`, for the browser whose flow cookie there is `flow`.
///
/// # Errors
/// When the code is not good, whatever the cause, or the database refused.
pub async fn redeem(desk: &Desk, code: &str, host: &str, flow: &str, now: Timestamp) -> Result<Redeemed, RedeemError> {
    if code.len() > SECRET_BYTES_MAX || flow.len() > SECRET_BYTES_MAX {
        return Err(RedeemError::Unknown);
    }
    let mut tx = desk.store.begin().await?;
    let handover = tx.handover_take(&hash_of(code)).await?.ok_or(RedeemError::Unknown)?;
    let fits = bool::from(handover.binding_hash.ct_eq(&hash_of(flow)))
        && handover.host == host
        && !handover.expires_at.is_over(now)
        && lets_browsers_in(desk, host);
    let stored = if fits { tx.session_fetch(handover.session).await? } else { None };
    let good =
        stored.filter(|stored| stored.session.is_live(now) && !desk.directory.is_locked(&stored.session.principal));
    let Some(stored) = good else {
        // A code that came to the wrong place is used up all the same.
        tx.commit().await?;
        return Err(RedeemError::Unknown);
    };
    let cookie = CookieValue::fresh(&*desk.entropy);
    let kept = StoredCookie {
        hash: cookie.hash(),
        session: stored.session.id,
        host: handover.host,
        expires_at: stored.session.expires_at,
    };
    tx.session_cookie_insert(&kept, now).await?;
    tx.event_append(&cookie_event(desk, &stored.session, host, now)).await?;
    tx.commit().await?;
    let session = stored.session.id;
    desk.directory.insert(stored.session);
    desk.directory.cookie_insert(kept.hash, CookieEntry { session, host: kept.host.into() });
    Ok(Redeemed { cookie, session, return_to: handover.return_to })
}

/// A session got a cookie at another host: a credential like any other.
fn cookie_event(desk: &Desk, session: &Session, host: &str, now: Timestamp) -> Event {
    let mut event = Event::new(desk.event_id(now), now, EventType::CredentialIssued, Outcome::Success);
    event.actor.principal = Some(session.principal.clone());
    event.actor.session = Some(session.id);
    event.resource = Some(session.id.to_string().into());
    event.service = desk.policies.load().service_for_host(host).map(|service| service.name.clone());
    event.with("kind", "cookie").with("host", host)
}
