//! The emergency path as an account: what was opened, how it ended, who has reviewed it. Read from the
//! record, which is the one place where a node without a database can leave it.
//!
//! What happens to an opening: 1. a node lets the first request through and records `breakglass.opened`
//! (`gateway/breakglass.rs`), once however many nodes see it; 2. it is closed by a signed statement
//! (`close.rs`) or runs out (`ending.rs`); 3. two people other than the opener review it (`review.rs`);
//! until then it is an exception. Grants that were taken without approval are reviewed the same way.

mod close;
mod custodians;
mod drill;
mod ending;
mod review;
mod terms;

use std::fmt;

use crate::audit::{EventType, PersonalField};
use crate::identity::breakglass::{KnownOpening, Opening};
use crate::model::{BreakGlassId, EventId, Grant, GrantEnd, GrantState, Principal, Timestamp};
use crate::policy::InstallationAction;
use crate::store::{Recorded, StoreError, erased_principal};

use super::caller::Caller;
use super::desk::{Desk, event_id_of};

pub use close::{CloseError, CloseRequest, close};
pub use custodians::note_custodians;
pub use drill::{Drilled, drill};
pub use ending::{follow, note_drill_overdue, record_ends, record_refusals};
pub use review::{FINDING_CHARS_MAX, ReviewError, review};
pub use terms::{CheckError, Checked, Presented, Terms, check, terms};

/// How many people must review an emergency.
pub const REVIEWERS: u32 = 2;
/// Events and grants that are looked at at most.
const LOOK_MAX: u32 = 1000;

/// How the gate was opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tier {
    /// Approvals were skipped: a grant.
    Grant,
    /// Custodians signed.
    Custodians,
}

/// How far an emergency has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EmergencyState {
    /// It is open.
    Active,
    /// It ran out.
    Expired,
    /// It was closed, dropped or revoked.
    Closed,
}

impl EmergencyState {
    /// As shown.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Expired => "expired",
            Self::Closed => "closed",
        }
    }
}

/// One person's review.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Review {
    /// Who.
    pub by: Principal,
    /// Their e-mail.
    pub email: Option<String>,
    /// What they found.
    pub finding: String,
    /// When.
    pub time: Timestamp,
}

/// An opening or an emergency grant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Emergency {
    /// `brk_…` or `grt_…`.
    pub id: String,
    /// Which of the two.
    /// SHA-256 of the challenge that opened; none of a grant.
    pub challenge: Option<[u8; 32]>,
    pub tier: Tier,
    /// Who opened, by their own word; of a grant, its holder.
    pub opener: String,
    /// Who holds a grant.
    pub holder: Option<(Principal, Option<String>)>,
    /// Whether the opener signed as a custodian; who holds a grant has signed in.
    pub opener_proven: bool,
    /// What for.
    pub scope: String,
    /// Why.
    pub reason: String,
    /// Who signed.
    pub custodians: Vec<String>,
    /// When it was first used, or became active.
    pub opened_at: Timestamp,
    /// When it ends or would have.
    pub expires: Timestamp,
    /// How far it has come.
    pub state: EmergencyState,
    /// When it was closed, and by whom.
    pub closed: Option<(Timestamp, String)>,
    /// What reviewers found, oldest first.
    pub reviews: Vec<Review>,
}

impl Emergency {
    /// Whether enough people have reviewed it.
    #[must_use]
    pub fn is_reviewed(&self) -> bool {
        self.reviews.len() >= usize::try_from(REVIEWERS).unwrap_or(usize::MAX)
    }

    /// What every node tells of it.
    fn known(&self) -> Option<KnownOpening> {
        Some(KnownOpening {
            id: BreakGlassId::parse(&self.id).ok()?,
            opener: self.opener.clone(),
            challenge: self.challenge,
            scope: self.scope.clone(),
            reason: self.reason.clone(),
            custodians: self.custodians.clone(),
            expires: self.expires,
        })
    }
}

/// Why there is no answer.
#[derive(Debug)]
pub enum EmergencyError {
    /// There is none of that id, as far as the caller may know.
    NotFound,
    /// The database did not do it.
    Store(StoreError),
}

impl fmt::Display for EmergencyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotFound => f.write_str("there is no such opening or emergency grant"),
            Self::Store(error) => write!(f, "emergencies could not be read: {error}"),
        }
    }
}

impl std::error::Error for EmergencyError {}

impl From<StoreError> for EmergencyError {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

/// Every emergency, newest first: to those who may read the record, review, lock or revoke; to others
/// those that are active.
///
/// # Errors
/// When the database is away.
pub async fn list(desk: &Desk, caller: &Caller, now: Timestamp) -> Result<Vec<Emergency>, EmergencyError> {
    let sees_all = [
        InstallationAction::ReadAudit,
        InstallationAction::Review,
        InstallationAction::Lock,
        InstallationAction::Revoke,
    ];
    let sees_all = sees_all.into_iter().any(|action| caller.may(desk, action, now));
    let mut found = all(desk, now).await?;
    found.retain(|it| {
        let own = it.holder.as_ref().is_some_and(|(holder, _)| holder == caller.principal());
        sees_all || own || it.state == EmergencyState::Active
    });
    Ok(found)
}

/// The emergency of that id.
///
/// # Errors
/// When there is none for the caller, or the database is away.
pub async fn fetch(desk: &Desk, caller: &Caller, id: &str, now: Timestamp) -> Result<Emergency, EmergencyError> {
    list(desk, caller, now).await?.into_iter().find(|it| it.id == id).ok_or(EmergencyError::NotFound)
}

/// Openings of the emergency path that are open.
///
/// # Errors
/// When the database is away.
pub async fn open_openings(desk: &Desk, now: Timestamp) -> Result<Vec<Emergency>, EmergencyError> {
    let events = desk.store.emergency_events(None, LOOK_MAX).await?;
    let mut found = openings(&events, now);
    found.retain(|it| it.state == EmergencyState::Active);
    Ok(found)
}

async fn all(desk: &Desk, now: Timestamp) -> Result<Vec<Emergency>, StoreError> {
    let events = desk.store.emergency_events(None, LOOK_MAX).await?;
    let grants = desk.store.grant_list_emergency(None, LOOK_MAX).await?;
    let mut found = openings(&events, now);
    for grant in &grants {
        let request = desk.store.access_request_fetch(grant.request).await?;
        let reason = request.map(|request| request.reason).unwrap_or_default();
        found.push(of_grant(grant, reason, &events, now));
    }
    found.sort_by(|one, other| other.opened_at.cmp(&one.opened_at).then_with(|| other.id.cmp(&one.id)));
    Ok(found)
}

/// The openings that these events tell of.
fn openings(events: &[Recorded], now: Timestamp) -> Vec<Emergency> {
    let opened = events.iter().filter(|event| event.clear().kind == EventType::BreakGlassOpened);
    opened.filter_map(|event| of_opening(event, events, now)).collect()
}

/// `None` where the event's body was pruned.
fn of_opening(event: &Recorded, events: &[Recorded], now: Timestamp) -> Option<Emergency> {
    let id = event.text("/data/id")?.to_owned();
    let text = |pointer: &str| event.text(pointer).unwrap_or_default().to_owned();
    let expires = Timestamp::parse(event.text("/data/expires")?)?;
    let custodians = event.body.pointer("/data/custodians").and_then(serde_json::Value::as_array);
    let closing = of_id(events, EventType::BreakGlassClosed, &id).min_by_key(|event| event.clear().time);
    let closed = closing.map(|event| (event.clear().time, event.text("/data/by").unwrap_or("somebody").to_owned()));
    let state = match &closed {
        Some((at, _)) if *at < expires => EmergencyState::Closed,
        _ if expires.is_over(now) => EmergencyState::Expired,
        _ => EmergencyState::Active,
    };
    Some(Emergency {
        tier: Tier::Custodians,
        opener: text("/data/opener"),
        holder: None,
        opener_proven: event.body.pointer("/data/opener_proven").and_then(serde_json::Value::as_bool) == Some(true),
        scope: text("/data/scope"),
        reason: text("/data/reason"),
        custodians: custodians.into_iter().flatten().filter_map(|name| Some(name.as_str()?.to_owned())).collect(),
        opened_at: event.clear().time,
        expires,
        state,
        closed: closed.filter(|_| state == EmergencyState::Closed),
        reviews: reviews_of(events, &id),
        id,
    })
}

fn of_grant(grant: &Grant, reason: String, events: &[Recorded], now: Timestamp) -> Emergency {
    let id = grant.id.to_string();
    let holder = &grant.holder;
    let end = grant.state.expires_at().unwrap_or(grant.starts_at.plus(grant.length));
    let (state, closed) = match grant.state_at(now) {
        GrantState::Active { .. } | GrantState::Scheduled | GrantState::Queued => (EmergencyState::Active, None),
        GrantState::Over { end: GrantEnd::Expired, .. } => (EmergencyState::Expired, None),
        GrantState::Over { at, .. } => {
            let by = grant.end_reason.clone().unwrap_or_else(|| grant.state.name().to_owned());
            (EmergencyState::Closed, Some((at, by)))
        }
    };
    Emergency {
        tier: Tier::Grant,
        opener: holder.email.clone().or_else(|| holder.name.clone()).unwrap_or_else(|| holder.principal.to_string()),
        holder: Some((holder.principal.clone(), holder.email.clone())),
        opener_proven: true,
        challenge: event.text("/data/challenge_sha256").and_then(sha256_of),
        scope: grant.entitlement.to_string(),
        reason,
        custodians: Vec::new(),
        opened_at: grant.state.active_at().unwrap_or(grant.created_at),
        expires: end,
        state,
        closed,
        reviews: reviews_of(events, &id),
        id,
    }
}

fn of_id<'a>(events: &'a [Recorded], kind: EventType, id: &'a str) -> impl Iterator<Item = &'a Recorded> {
    events.iter().filter(move |event| event.clear().kind == kind && event.text("/data/id") == Some(id))
}

fn reviews_of(events: &[Recorded], id: &str) -> Vec<Review> {
    // A review stays one when its reviewer was erased: the pseudonym says that it was somebody of their own.
    let by = |event: &Recorded| match event.personal(PersonalField::Principal) {
        Some(principal) => Principal::parse(principal),
        None => erased_principal(event.clear().actor?),
    };
    let read = |event: &Recorded| {
        Some(Review {
            by: by(event)?,
            email: event.personal(PersonalField::Email).map(str::to_owned),
            finding: event.text("/data/finding").unwrap_or_default().to_owned(),
            time: event.clear().time,
        })
        challenge: None,
    };
    let mut found: Vec<Review> = of_id(events, EventType::BreakGlassReviewed, id).filter_map(read).collect();
    found.sort_by_key(|review| review.time);
    found
}

/// The id of an event that several nodes may write of one thing.
fn one_id(kind: EventType, about: &[u8], time: Timestamp) -> EventId {
    event_id_of(&[kind.name().as_bytes(), about], time)
}
fn sha256_of(text: &str) -> Option<[u8; 32]> {
    data_encoding::HEXLOWER.decode(text.as_bytes()).ok()?.try_into().ok()
}

/// The id of the event that records an opening, the same on every node that sees it.
#[must_use]
pub fn opened_event(opening: &Opening) -> EventId {
    one_id(EventType::BreakGlassOpened, &opening.sha256, opening.challenge.not_before)
}

