//! Sign-in of a device without a browser (RFC 8628).
//!
//! INVARIANTS: nothing is given before the person of a browser session agreed, and then once; the
//! page shows who asks from where; a device that polls too often waits longer.

use std::fmt;

use crate::audit::{Event, EventType, Outcome};
use crate::model::{SessionKind, Timestamp, Ttl};
use crate::store::{DeviceCode, DeviceState, StoreError};

use super::super::caller::{Caller, ConnectionFacts, Proof};
use super::super::desk::{Desk, Token, hash_of};
use super::super::session;
use super::code::{SECRET_BYTES_MAX, from_browser};
use super::{CLIENT_ID, GrantError, Granted, end_reused, issue_tokens, known_client};

/// How long a device waits between two polls; also what `slow_down` adds.
pub const DEVICE_INTERVAL: Ttl = Ttl::seconds(5);
/// The longest wait that polling too often leads to.
const INTERVAL_MAX: Ttl = Ttl::minutes(1);
/// Characters of a user code: no vowels and no digits (RFC 8628 §6.1).
const USER_CODE_LETTERS: &[u8; 20] = b"BCDFGHJKLMNPQRSTVWXZ";
/// Letters of a user code: 20^8 are 34 bits, for half an hour at most (`tokens.device_code`).
const USER_CODE_LENGTH: usize = 8;
/// How often a user code that is taken is drawn anew.
const DRAWS_MAX: usize = 3;
/// What is kept of what a device calls itself, in characters.
const AGENT_CHARS_MAX: usize = 200;

/// What a device is given.
pub struct DeviceStarted {
    /// It polls with this.
    pub device_code: Token,
    /// Its owner types this.
    pub user_code: String,
}

/// Who asks, as its owner is shown.
#[derive(Debug, Clone)]
pub struct Asking {
    /// Where the device asked from.
    pub address: std::net::IpAddr,
    /// What it called itself.
    pub agent: String,
    /// When.
    pub asked_at: Timestamp,
    /// Until when it may be answered.
    pub expires_at: Timestamp,
}

/// What its owner says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// The device is theirs.
    Agree,
    /// It is not.
    Refuse,
}

/// Why an answer changed nothing.
#[derive(Debug)]
pub enum AnswerError {
    /// The code is unknown, over or answered.
    Unknown,
    /// The caller is not a browser with a session.
    NoBrowserSession,
    /// The database did not do it.
    Store(StoreError),
}

impl fmt::Display for AnswerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unknown => f.write_str("no device waits with this code; check it or start again on the device"),
            Self::NoBrowserSession => f.write_str("sign in with a browser first"),
            Self::Store(error) => write!(f, "the answer could not be stored: {error}"),
        }
    }
}

impl std::error::Error for AnswerError {}

impl From<StoreError> for AnswerError {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

/// The letters of a user code alone, upper-case: how it is typed doesn't matter. `None` when it
/// can't be one.
fn plain(user_code: &str) -> Option<String> {
    let letters: String = user_code
        .chars()
        .filter(|c| !matches!(c, '-' | ' ' | '\u{2010}'..='\u{2015}'))
        .map(|c| c.to_ascii_uppercase())
        .take(USER_CODE_LENGTH + 1)
        .collect();
    let fits = letters.len() == USER_CODE_LENGTH && letters.bytes().all(|b| USER_CODE_LETTERS.contains(&b));
    fits.then_some(letters)
}

fn draw(desk: &Desk) -> String {
    let mut letters = String::with_capacity(USER_CODE_LENGTH);
    while letters.len() < USER_CODE_LENGTH {
        for byte in desk.entropy.bytes_32() {
            // 240 is the largest multiple of 20 in a byte: above it the letters would not be even.
            if byte < 240
                && letters.len() < USER_CODE_LENGTH
                && let Some(letter) = USER_CODE_LETTERS.get(usize::from(byte) % USER_CODE_LETTERS.len())
            {
                letters.push(char::from(*letter));
            }
        }
    }
    letters
}

/// Begins a device's sign-in.
///
/// # Errors
/// Where the installation doesn't allow it, the client is unknown, or the database refused.
pub async fn start(
    desk: &Desk,
    client_id: &str,
    agent: &str,
    connection: &ConnectionFacts,
    now: Timestamp,
) -> Result<DeviceStarted, GrantError> {
    allowed(desk)?;
    known_client(client_id)?;
    let device_code = desk.token();
    let agent: String = agent.chars().filter(|c| !c.is_control()).take(AGENT_CHARS_MAX).collect();
    let mut last = None;
    for _ in 0..DRAWS_MAX {
        let letters = draw(desk);
        let kept = DeviceCode {
            hash: device_code.hash(),
            user_code_hash: hash_of(&letters),
            client_id: CLIENT_ID.to_owned(),
            state: DeviceState::Pending,
            address: connection.address,
            agent: agent.clone(),
            created_at: now,
            expires_at: now.plus(desk.settings.device_code_ttl),
            interval: DEVICE_INTERVAL,
            next_poll_at: now,
        };
        let mut tx = desk.store.begin().await?;
        match tx.device_insert(&kept).await {
            Ok(()) => {
                tx.commit().await?;
                let (first, second) = letters.split_at(USER_CODE_LENGTH / 2);
                return Ok(DeviceStarted { device_code, user_code: format!("{first}-{second}") });
            }
            Err(error) if error.is_conflict() => last = Some(error),
            Err(error) => return Err(error.into()),
        }
    }
    Err(last.map_or(GrantError::SlowDown, GrantError::Store))
}

fn allowed(desk: &Desk) -> Result<(), GrantError> {
    if desk.settings.device_code {
        Ok(())
    } else {
        Err(GrantError::UnauthorizedClient("sign-in by device code is not allowed here; use `doorward login`"))
    }
}

/// Who waits with this user code.
///
/// # Errors
/// When nobody does, or the database is away.
pub async fn asking(desk: &Desk, user_code: &str, now: Timestamp) -> Result<Asking, AnswerError> {
    let letters = plain(user_code).ok_or(AnswerError::Unknown)?;
    let found = desk.store.device_fetch_by_user_code(&hash_of(&letters), now).await?;
    let code = found.filter(|code| code.state == DeviceState::Pending).ok_or(AnswerError::Unknown)?;
    Ok(Asking { address: code.address, agent: code.agent, asked_at: code.created_at, expires_at: code.expires_at })
}

/// Says whether the device that waits with this user code is the caller's.
///
/// # Errors
/// When none waits, the caller is no browser, or the database refused.
pub async fn answer(
    desk: &Desk,
    caller: &Caller,
    user_code: &str,
    answer: Answer,
    now: Timestamp,
) -> Result<(), AnswerError> {
    if caller.proof() != Proof::Cookie || caller.session().kind != SessionKind::Browser {
        return Err(AnswerError::NoBrowserSession);
    }
    let letters = plain(user_code).ok_or(AnswerError::Unknown)?;
    let agreed = match answer {
        Answer::Agree => Some(caller.session().id),
        Answer::Refuse => None,
    };
    let mut tx = desk.store.begin().await?;
    tx.device_answer(&hash_of(&letters), agreed, now).await?.ok_or(AnswerError::Unknown)?;
    if answer == Answer::Refuse {
        let mut event = Event::new(desk.event_id(now), now, EventType::SignInFailed, Outcome::Denied);
        event.actor = caller.actor();
        event.reason = Some("device_refused".into());
        tx.event_append(&event).await?;
    }
    tx.commit().await?;
    Ok(())
}

/// What a device polls with (RFC 8628 §3.4).
#[derive(Debug, Clone, Default)]
pub struct DeviceRequest {
    /// The device code.
    pub device_code: String,
    /// `doorward-cli`
    pub client_id: String,
    /// A signing request, if a certificate is wanted.
    pub csr: Option<Vec<u8>>,
}

/// Asks whether the owner has agreed, and if so starts the session.
///
/// # Errors
/// Until then, and once it can't be any more.
pub async fn poll(
    desk: &Desk,
    request: &DeviceRequest,
    connection: &ConnectionFacts,
    now: Timestamp,
) -> Result<Granted, GrantError> {
    allowed(desk)?;
    known_client(&request.client_id)?;
    if request.device_code.is_empty() || request.device_code.len() > SECRET_BYTES_MAX {
        return Err(GrantError::InvalidRequest("`device_code` is needed"));
    }
    let hash = hash_of(&request.device_code);
    let mut tx = desk.store.begin().await?;
    let code = tx.device_fetch(&hash).await?.ok_or(GrantError::InvalidGrant)?;
    if let DeviceState::Redeemed(issued) = code.state {
        let ended = end_reused(desk, &mut tx, issued, "code_reused", connection, now).await?;
        tx.commit().await?;
        session::obey(desk, ended.iter());
        return Err(GrantError::InvalidGrant);
    }
    if code.expires_at.is_over(now) {
        return Err(GrantError::ExpiredToken);
    }
    if now < code.next_poll_at {
        let interval = slower(code.interval);
        tx.device_polled(&hash, interval, now.plus(interval)).await?;
        tx.commit().await?;
        return Err(GrantError::SlowDown);
    }
    let agreed = match code.state {
        DeviceState::Approved(parent) => parent,
        DeviceState::Denied => return Err(GrantError::AccessDenied),
        DeviceState::Pending | DeviceState::Redeemed(_) => {
            tx.device_polled(&hash, code.interval, now.plus(code.interval)).await?;
            tx.commit().await?;
            return Err(GrantError::AuthorizationPending);
        }
    };
    let parent = tx.session_hold(agreed, now).await?.ok_or(GrantError::InvalidGrant)?;
    let new = from_browser(&parent, connection.device(now));
    let started = session::start_within(desk, &mut tx, new, request.csr.as_deref(), connection, now).await?;
    // No row: another poll was first, and this one's session is rolled back with it.
    tx.device_redeem(&hash, started.stored.session.id).await?.ok_or(GrantError::InvalidGrant)?;
    let (granted, started) = issue_tokens(desk, &mut tx, started, connection, now).await?;
    tx.commit().await?;
    session::enter(desk, &started);
    Ok(granted)
}

fn slower(interval: Ttl) -> Ttl {
    let longer = interval.as_millis().saturating_add(DEVICE_INTERVAL.as_millis()).min(INTERVAL_MAX.as_millis());
    Ttl::millis(u32::try_from(longer).unwrap_or(u32::MAX))
}
