//! What somebody needs who wants to open and has no configuration at hand, and whether a node would
//! take what custodians have signed. Neither needs a sign-in or a database; neither names custodians
//! to whoever does not hold their signatures.

use std::fmt;
use std::net::IpAddr;

use crate::audit::{Event, EventType, Outcome};
use crate::identity::breakglass::{Opening, QuorumError, Telling};
use crate::model::breakglass::{Challenge, Evidence};
use crate::model::{BreakGlassId, Timestamp, Ttl};

use super::super::desk::Desk;
use super::super::refused::put_on_record;

/// What a challenge must say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Terms {
    /// The installation's domain.
    pub trust_domain: String,
    /// SHA-256 of the custodians' file.
    pub custodians: [u8; 32],
    /// What the challenge says of how many must sign.
    pub threshold: u32,
    /// How many must sign now.
    pub needed: usize,
    /// How long an opening may last.
    pub duration_max: Ttl,
    /// The time of this node.
    pub now: Timestamp,
    /// When the last drill was.
    pub drilled_at: Option<Timestamp>,
}

/// The terms in force; `None` where there is no emergency path.
#[must_use]
pub fn terms(desk: &Desk, now: Timestamp) -> Option<Terms> {
    let emergency = &desk.directory.emergency;
    let in_force = emergency.in_force()?;
    let rules = &in_force.rules;
    Some(Terms {
        trust_domain: rules.trust_domain.clone(),
        custodians: *rules.custodians.sha256(),
        threshold: rules.threshold,
        needed: emergency.needed(&in_force, None),
        duration_max: rules.duration_max,
        now,
        drilled_at: emergency.drilled_at(),
    })
}

/// What somebody shows: a challenge with its signatures, and which client key it is for.
#[derive(Debug, Clone)]
pub struct Presented {
    /// SHA-256 of the client key's SubjectPublicKeyInfo.
    pub client_key: [u8; 32],
    /// Challenge and signatures.
    pub evidence: Evidence,
}

/// That a node would open.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Checked {
    /// What was judged.
    pub opening: Opening,
}

/// Why a node would not open.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CheckError {
    /// There is no emergency path here.
    NoPath,
    /// Challenge or signatures don't hold.
    Quorum(QuorumError),
    /// An earlier opening waits for its review, and that takes one custodian more.
    Unreviewed { signed: usize, needed: usize },
    /// The opening was closed.
    Closed,
    /// Another challenge was opened under its id.
    OtherChallenge,
    /// The challenge would open something.
    NoDrill,
    /// The challenge is one of a drill.
    Drill,
}

impl fmt::Display for CheckError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoPath => f.write_str("there is no emergency path here"),
            Self::Quorum(error) => error.fmt(f),
            Self::Unreviewed { signed, needed } => write!(
                f,
                "{signed} custodians have signed, and {needed} must while an earlier opening waits for its review (`doorward breakglass list`)"
            ),
            Self::Closed => f.write_str("this opening was closed; begin a new one"),
            Self::OtherChallenge => f.write_str("another challenge was opened under this id; begin a new one"),
            Self::NoDrill => f.write_str("the challenge would open something: it is not one of `breakglass drill`"),
            Self::Drill => f.write_str("the challenge is one of `breakglass drill`: it opens nothing"),
        }
    }
}

impl std::error::Error for CheckError {}

impl CheckError {
    /// Whether it stays so whatever else is signed: another challenge is needed.
    #[must_use]
    pub const fn is_final(&self) -> bool {
        match self {
            Self::Quorum(error) => error.is_final(),
            Self::Closed | Self::OtherChallenge => true,
            Self::NoPath | Self::Unreviewed { .. } | Self::NoDrill | Self::Drill => false,
        }
    }
}

/// Judges as the handshake does, and all that is asked at each request.
pub(super) fn judged(desk: &Desk, presented: &Presented, now: Timestamp) -> Result<Opening, CheckError> {
    let emergency = &desk.directory.emergency;
    let in_force = emergency.in_force().ok_or(CheckError::NoPath)?;
    let opening = in_force.rules.open(&presented.client_key, &presented.evidence, now).map_err(CheckError::Quorum)?;
    let needed = emergency.needed(&in_force, Some(opening.challenge.id));
    if opening.custodians.len() < needed {
        return Err(CheckError::Unreviewed { signed: opening.custodians.len(), needed });
    }
    if emergency.is_closed(opening.challenge.id) {
        return Err(CheckError::Closed);
    }
    desk.directory.opening(opening.challenge.id, &opening.sha256).map_err(|_| CheckError::OtherChallenge)?;
    Ok(opening)
}

/// Whether this node would open now. Nothing is used up.
///
/// # Errors
/// The first thing that is wrong.
pub async fn check(desk: &Desk, presented: &Presented, address: IpAddr, now: Timestamp) -> Result<Checked, CheckError> {
    let judged = judged(desk, presented, now).and_then(|opening| {
        let is_drill = opening.challenge.scope == crate::model::breakglass::Scope::Drill;
        if is_drill { Err(CheckError::Drill) } else { Ok(Checked { opening }) }
    });
    if let Err(error) = &judged {
        refused(desk, error, presented, address, now).await;
    }
    judged
}

/// Puts a failure on record, within the bounds of what nobody in particular may write there. People are
/// told of the first of an address and opening; of the others in a count (`ending::record_refusals`).
pub(super) async fn refused(desk: &Desk, error: &CheckError, presented: &Presented, address: IpAddr, now: Timestamp) {
    let opening: Option<BreakGlassId> = Challenge::parse(&presented.evidence.challenge).ok().map(|it| it.id);
    let mut event = Event::new(desk.event_id(now), now, EventType::BreakGlassRefused, Outcome::Denied)
        .with("why", error.to_string());
    if let Some(opening) = opening {
        event = event.with("id", opening.to_string());
    }
    if desk.directory.emergency.refusals.take(address, opening, now) == Telling::InACount {
        event = event.with("repeated", true);
    }
    event.reason = Some("opening_refused".into());
    event.actor.address = Some(address);
    put_on_record(desk, event).await;
}
