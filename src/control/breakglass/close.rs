//! Closing an opening before its end, on the word of its client key or of any one custodian.
//!
//! INVARIANT: closing needs no database and no account. ORDER: the disk keeps it and streams are cut
//! before it is recorded: who closes on the worst day does not wait for the record.

use std::fmt;
use std::net::IpAddr;

use sha2::{Digest, Sha256};

use crate::audit::{Event, EventType, Outcome};
use crate::identity::breakglass::{Closed, ClosedBy, ClosingError, Happening, KnownOpening};
use crate::model::breakglass::{Challenge, Evidence};
use crate::model::{BreakGlassId, Principal, Timestamp};
use crate::store::RECORD_TIMEOUT;

use super::super::desk::Desk;
use super::one_id;

/// What somebody shows who wants to close.
#[derive(Debug, Clone)]
pub struct CloseRequest {
    /// The statement.
    pub statement: Vec<u8>,
    /// Its signature, SSHSIG in PEM armour.
    pub signature: Vec<u8>,
    /// What opened it, where its client key signs.
    pub evidence: Option<Evidence>,
}

/// Why it is not closed.
#[derive(Debug)]
pub enum CloseError {
    /// There is no emergency path here.
    NoPath,
    /// The statement is for another opening than the one that was named.
    OtherOpening,
    /// The statement does not hold.
    Closing(ClosingError),
    /// Its signer has closed so many others that nobody has opened here.
    TooMany,
    /// The disk does not keep it: it is closed here until this node starts again.
    Disk(std::io::Error),
}

impl fmt::Display for CloseError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoPath => f.write_str("there is no emergency path here"),
            Self::OtherOpening => f.write_str("the statement names another opening"),
            Self::Closing(error) => error.fmt(f),
            Self::TooMany => f.write_str(
                "by this key a thousand openings are closed that this node has not seen; have another custodian close this one, or close it at a node that has seen it",
            ),
            Self::Disk(error) => write!(
                f,
                "it is closed here and its streams are cut, but the disk does not keep that: {error}; this node would honour it again after a start"
            ),
        }
    }
}

impl std::error::Error for CloseError {}

/// Closes the opening of that id on this node. Gives who closed.
///
/// # Errors
/// When the statement does not hold, or the disk does not keep it.
pub async fn close(
    desk: &Desk,
    id: BreakGlassId,
    request: &CloseRequest,
    address: IpAddr,
    now: Timestamp,
) -> Result<Closed, CloseError> {
    let emergency = &desk.directory.emergency;
    let in_force = emergency.in_force().ok_or(CloseError::NoPath)?;
    let closed = in_force
        .rules
        .closes(
            &request.statement,
            &request.signature,
            request.evidence.as_ref(),
            |id, challenge| desk.directory.has_opened(id, challenge),
            now,
        )
        .map_err(CloseError::Closing)?;
    if closed.closing.id != id {
        return Err(CloseError::OtherOpening);
    }
    if !emergency.can_close(id, &closed.by, now) {
        return Err(CloseError::TooMany);
    }
    let known = emergency.known(id).filter(|it| !it.expires.is_over(now) && !emergency.is_closed(id));
    let first = !emergency.is_closed(id);
    let kept = emergency.close(id, &closed.by, now);
    desk.directory.opening_cut(id);
    if first {
        let opening = known.map(|known| KnownOpening::clone(&known)).or_else(|| shown(request));
        record(desk, &closed, opening, address, now).await;
    }
    kept.map_err(CloseError::Disk)?;
    Ok(closed)
}

/// What the client key's evidence says of the opening.
fn shown(request: &CloseRequest) -> Option<KnownOpening> {
    let text = &request.evidence.as_ref()?.challenge;
    let challenge = Challenge::parse(text).ok()?;
    Some(KnownOpening {
        id: challenge.id,
        challenge: Some(Sha256::digest(text).into()),
        opener: challenge.opener,
        scope: challenge.scope.to_string(),
        reason: challenge.reason,
        custodians: Vec::new(),
        expires: challenge.expires,
    })
}

async fn record(desk: &Desk, closed: &Closed, opening: Option<KnownOpening>, address: IpAddr, now: Timestamp) {
    let id = closed.closing.id;
    let kind = EventType::BreakGlassClosed;
    let event_id = one_id(kind, id.bytes(), closed.closing.time);
    let mut event = Event::new(event_id, now, kind, Outcome::Success)
        .with("id", id.to_string())
        .with("by", closed.by.to_string())
        .with("said_at", closed.closing.time.to_string());
    if closed.by == ClosedBy::Client {
        event.actor.principal = Some(Principal::breakglass(id));
    }
    event.actor.address = Some(address);
    if !matches!(tokio::time::timeout(RECORD_TIMEOUT, desk.recorder.submit(event)).await, Ok(Ok(()))) {
        tracing::error!(opening = %id, by = %closed.by, "an opening was closed and that is not on record");
    }
    tracing::warn!(opening = %id, by = %closed.by, "the emergency path was closed");
    if let Some(opening) = opening {
        let by = Some(closed.by.to_string());
        desk.directory.emergency.happened(Happening { event: event_id, kind: kind.name(), time: now, opening, by });
    }
}
