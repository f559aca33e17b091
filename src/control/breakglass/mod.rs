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

use std::collections::HashMap;
use std::fmt;

use crate::audit::{EventType, PersonalField};
use crate::identity::breakglass::{KnownOpening, Opening};
use crate::model::{BreakGlassId, EventId, Grant, GrantEnd, GrantState, Principal, Timestamp};
use crate::policy::InstallationAction;
use crate::store::{Recorded, Store, StoreError, erased_principal};

use super::caller::Caller;
use super::desk::{Desk, event_id_of};

pub use close::{CloseError, CloseRequest, close};
pub use custodians::{note_custodians, record_custodians};
pub use drill::{Drilled, drill};
pub use ending::{follow, note_drill_overdue, record_ends, record_refusals};
pub use review::{FINDING_CHARS_MAX, ReviewError, review};
pub use terms::{CheckError, Checked, Presented, Terms, check, terms};

/// How many people must review an emergency.
pub const REVIEWERS: u32 = 2;
/// Emergency grants that are looked at at most.
const GRANTS_MAX: u32 = 1000;

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
    /// SHA-256 of the challenge that opened; none of a grant.
    pub challenge: Option<[u8; 32]>,
    /// Which of the two.
    pub tier: Tier,
    /// Who opened, by their own word; of a grant, its holder.
    pub opener: String,
    /// What else the custodians' file called the opener when it was opened.
    pub opener_names: Vec<String>,
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
            challenge: self.challenge,
            opener: self.opener.clone(),
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

/// Every emergency, newest first: to those who may read or export the record, review, lock or revoke; to others
/// those that are active.
///
/// # Errors
/// When the database is away.
pub async fn list(desk: &Desk, caller: &Caller, now: Timestamp) -> Result<Vec<Emergency>, EmergencyError> {
    let sees_all = [
        InstallationAction::ReadAudit,
        InstallationAction::ExportAudit,
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
    let mut found = Account::read(&desk.store, &[]).await?.openings(now);
    found.retain(|it| it.state == EmergencyState::Active);
    Ok(found)
}

async fn all(desk: &Desk, now: Timestamp) -> Result<Vec<Emergency>, StoreError> {
    let grants = desk.store.grant_list_emergency(None, GRANTS_MAX).await?;
    let account = Account::read(&desk.store, &grants).await?;
    let mut found = account.openings(now);
    for grant in &grants {
        let request = desk.store.access_request_fetch(grant.request).await?;
        let reason = request.map(|request| request.reason).unwrap_or_default();
        found.push(of_grant(grant, reason, account.of(&grant.id.to_string()), now));
    }
    found.sort_by(|one, other| other.opened_at.cmp(&one.opened_at).then_with(|| other.id.cmp(&one.id)));
    Ok(found)
}

/// What the record has of openings and emergency grants, read to its end.
///
/// Its size is that of what there is to review: an opening takes M signatures and a grant somebody who
/// signed in. What is on record of other ids, which a single custodian can close, is passed over.
struct Account {
    opened: Vec<Recorded>,
    of: HashMap<String, Vec<Recorded>>,
}

impl Account {
    async fn read(store: &Store, grants: &[Grant]) -> Result<Self, StoreError> {
        let opened = store.emergency_events(EventType::BreakGlassOpened, |_| true).await?;
        let ids = opened.iter().filter_map(|event| event.text("/data/id")).map(str::to_owned);
        let ids = ids.chain(grants.iter().map(|grant| grant.id.to_string()));
        let mut of: HashMap<String, Vec<Recorded>> = ids.map(|id| (id, Vec::new())).collect();
        for kind in [EventType::BreakGlassClosed, EventType::BreakGlassExpired, EventType::BreakGlassReviewed] {
            let is_known = |event: &Recorded| event.text("/data/id").is_some_and(|id| of.contains_key(id));
            let found = store.emergency_events(kind, is_known).await?;
            for event in found {
                if let Some(events) = event.text("/data/id").and_then(|id| of.get_mut(id)) {
                    events.push(event);
                }
            }
        }
        Ok(Self { opened, of })
    }

    /// What is on record of an id beside its opening.
    fn of(&self, id: &str) -> &[Recorded] {
        self.of.get(id).map_or(&[][..], Vec::as_slice)
    }

    fn openings(&self, now: Timestamp) -> Vec<Emergency> {
        self.opened.iter().filter_map(|event| of_opening(event, self, now)).collect()
    }
}

/// `None` where the event's body was pruned.
fn of_opening(event: &Recorded, account: &Account, now: Timestamp) -> Option<Emergency> {
    let id = event.text("/data/id")?.to_owned();
    let events = account.of(&id);
    let text = |pointer: &str| event.text(pointer).unwrap_or_default().to_owned();
    let expires = Timestamp::parse(event.text("/data/expires")?)?;
    let names = |pointer: &str| -> Vec<String> {
        let listed = event.body.pointer(pointer).and_then(serde_json::Value::as_array);
        listed.into_iter().flatten().filter_map(|name| Some(name.as_str()?.to_owned())).collect()
    };
    let closing = of_kind(events, EventType::BreakGlassClosed).min_by_key(|event| event.clear().time);
    let closed = closing.map(|event| (event.clear().time, event.text("/data/by").unwrap_or("somebody").to_owned()));
    let state = match &closed {
        Some((at, _)) if *at < expires => EmergencyState::Closed,
        _ if expires.is_over(now) => EmergencyState::Expired,
        _ => EmergencyState::Active,
    };
    Some(Emergency {
        challenge: event.text("/data/challenge_sha256").and_then(sha256_of),
        tier: Tier::Custodians,
        opener: text("/data/opener"),
        opener_names: names("/data/opener_names"),
        holder: None,
        opener_proven: event.body.pointer("/data/opener_proven").and_then(serde_json::Value::as_bool) == Some(true),
        scope: text("/data/scope"),
        reason: text("/data/reason"),
        custodians: names("/data/custodians"),
        opened_at: event.clear().time,
        expires,
        state,
        closed: closed.filter(|_| state == EmergencyState::Closed),
        reviews: reviews_of(events, event.clear().time),
        id,
    })
}

fn of_grant(grant: &Grant, reason: String, events: &[Recorded], now: Timestamp) -> Emergency {
    let opened_at = grant.state.active_at().unwrap_or(grant.created_at);
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
        challenge: None,
        tier: Tier::Grant,
        opener: holder.email.clone().or_else(|| holder.name.clone()).unwrap_or_else(|| holder.principal.to_string()),
        opener_names: Vec::new(),
        holder: Some((holder.principal.clone(), holder.email.clone())),
        opener_proven: true,
        scope: grant.entitlement.to_string(),
        reason,
        custodians: Vec::new(),
        opened_at,
        expires: end,
        state,
        closed,
        reviews: reviews_of(events, opened_at),
        id: grant.id.to_string(),
    }
}

fn of_kind(events: &[Recorded], kind: EventType) -> impl Iterator<Item = &Recorded> {
    events.iter().filter(move |event| event.clear().kind == kind)
}

/// The reviews among the events of one id. What was reviewed before it was opened was something else that
/// had its id.
fn reviews_of(events: &[Recorded], opened_at: Timestamp) -> Vec<Review> {
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
    };
    let reviews = of_kind(events, EventType::BreakGlassReviewed).filter(|event| event.clear().time >= opened_at);
    let mut found: Vec<Review> = reviews.filter_map(read).collect();
    found.sort_by_key(|review| review.time);
    found
}

fn sha256_of(text: &str) -> Option<[u8; 32]> {
    data_encoding::HEXLOWER.decode(text.as_bytes()).ok()?.try_into().ok()
}

/// The id of the event that records an opening, the same on every node that sees it.
#[must_use]
pub fn opened_event(opening: &Opening) -> EventId {
    one_id(EventType::BreakGlassOpened, &opening.sha256, opening.challenge.not_before)
}

/// The id of an event that several nodes may write of one thing.
fn one_id(kind: EventType, about: &[u8], time: Timestamp) -> EventId {
    event_id_of(&[kind.name().as_bytes(), about], time)
}
