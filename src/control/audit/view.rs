//! The record as people ask it: everything about one grant, and who had access to what in a time.
//!
//! INVARIANT: as in `read.rs` nobody asks without leave, and that it was asked is on record first; what is
//! on record of it names nobody but by pseudonym.

use serde_json::json;

use crate::audit::PersonalField;
use crate::audit::format::Entry;
use crate::audit::view::who::{CountedUses, FOLLOWED_MAX};
use crate::audit::view::{AccessRow, GrantCollector, GrantView, Somebody, WhoCollector, WhoFilter};
use crate::control::caller::Caller;
use crate::control::desk::Desk;
use crate::model::{EventId, GrantId, ServiceName, Timestamp, Ttl, UserRef};
use crate::store::{EVENT_PAGE_MAX, Recorded, StoreError};

use super::read::{self, ReadError};

/// Events of one grant that are read at most.
const GRANT_EVENTS_MAX: usize = 200_000;
/// Events about access that are read at most.
const ACCESS_EVENTS_MAX: usize = 500_000;
/// The longest time that is asked for.
pub const TIME_MAX: Ttl = Ttl::hours(24 * 400);
/// An opening of the emergency path begins at most so long before its use.
const OPENING_MAX: Ttl = Ttl::hours(2);

fn entry(event: &Recorded) -> Entry<'_> {
    Entry { log: &event.log, seq: event.seq, sealed: &event.sealed, body: &event.body }
}

/// Everything about a grant.
///
/// # Errors
/// When the caller may not read, there is no such grant, or the database is away.
pub async fn grant(desk: &Desk, caller: &Caller, id: GrantId, now: Timestamp) -> Result<GrantView, ReadError> {
    read::admit(desk, caller, &format!("grant {id}"), now).await?;
    let mut collector = GrantCollector::new(&id.to_string());
    let (mut after, mut seen) = (None, 0);
    while seen < GRANT_EVENTS_MAX {
        let page = desk.store.event_list_of_grant(id, after, EVENT_PAGE_MAX).await?;
        page.iter().for_each(|event| collector.take(&entry(event)));
        seen += page.len();
        after = page.last().map(|event| event.clear().id);
        if page.len() < usize::try_from(EVENT_PAGE_MAX).unwrap_or(usize::MAX) {
            break;
        }
    }
    // What happened before there was a grant says only which request it was about.
    if let Some(held) = desk.store.grant_fetch(id).await?
        && let Some(request) = desk.store.access_request_fetch(held.request).await?
    {
        let times = (request.created_at, held.created_at);
        let mut unseen = |event: &Recorded| {
            if event.clear().grant.is_none() {
                collector.take(&entry(event));
            }
        };
        each_access(desk, times, &mut unseen).await?;
    }
    collector.end(now).map_err(|_| ReadError::NotFound)
}

/// Gives every event that tells of access of these times to `each`. Whether there were too many.
async fn each_access(
    desk: &Desk,
    times: (Timestamp, Timestamp),
    mut each: impl FnMut(&Recorded),
) -> Result<bool, StoreError> {
    let (mut after, mut seen) = (None::<EventId>, 0);
    while seen < ACCESS_EVENTS_MAX {
        let page = desk.store.event_list_of_access(times, after, EVENT_PAGE_MAX).await?;
        page.iter().for_each(&mut each);
        seen += page.len();
        after = page.last().map(|event| event.clear().id);
        if page.len() < usize::try_from(EVENT_PAGE_MAX).unwrap_or(usize::MAX) {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Who had access to what.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Asked {
    /// Not before this.
    pub from: Timestamp,
    /// Before this.
    pub to: Timestamp,
    /// Of this service.
    pub service: Option<ServiceName>,
    /// Of this person: pseudonym, principal, opening or e-mail.
    pub person: Option<String>,
}

/// What was found of who had access.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Found {
    /// Every row, in order of people.
    Rows(Vec<AccessRow>),
    /// More than can be told at once.
    TooMany,
}

/// Every row of who had access to what in that time.
///
/// # Errors
/// When the caller may not read, or the database is away.
pub async fn who(desk: &Desk, caller: &Caller, asked: &Asked, now: Timestamp) -> Result<Found, ReadError> {
    let person = asked.person.as_deref().map(|person| read::pseudonym(desk, person)).transpose()?;
    let named = person.as_ref().map(|person| if UserRef::parse(person).is_ok() { person.as_str() } else { "one" });
    let service = asked.service.as_ref().map(ServiceName::as_str);
    let what = json!({
        "from": asked.from.to_string(), "to": asked.to.to_string(), "service": service, "person": named,
    });
    read::admit(desk, caller, &format!("who had access {what}"), now).await?;
    let filter = WhoFilter { from: Some(asked.from), to: Some(asked.to), service: service.map(str::to_owned), person };
    let mut collector = WhoCollector::new(filter);
    let reach = desk.store.grant_reach(asked.from, asked.to).await?;
    let since = reach.map_or(asked.from, |oldest| oldest.min(asked.from)).min(asked.from.minus(OPENING_MAX));
    if each_access(desk, (since, asked.to), |event| collector.take(&entry(event))).await? {
        return Ok(Found::TooMany);
    }
    let most = u32::try_from(FOLLOWED_MAX).unwrap_or(u32::MAX);
    for counted in desk.store.event_count_uses((asked.from, asked.to), service, most.saturating_add(1)).await? {
        let Some(newest) = desk.store.event_fetch(&counted.event).await? else { continue };
        collector.used(CountedUses {
            who: whose(&newest),
            service: counted.service,
            grant: counted.grant.map(|id| id.to_string()),
            count: counted.count,
            first: counted.first,
            last: counted.last,
        });
    }
    if collector.left_out() > 0 {
        return Ok(Found::TooMany);
    }
    Ok(Found::Rows(collector.end(now)))
}

/// Whose an event is; of one that was pruned only the pseudonym is left.
fn whose(event: &Recorded) -> Somebody {
    let id = event.clear().actor.map(|id| id.to_string()).unwrap_or_default();
    Somebody::actor(&entry(event)).unwrap_or(Somebody {
        id,
        kind: String::new(),
        principal: event.personal(PersonalField::Principal).map(str::to_owned),
        email: None,
    })
}
