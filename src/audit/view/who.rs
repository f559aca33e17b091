//! Who had access to what in a time: grants and openings of the emergency path that were in force, used or
//! not, and standing permissions where they were used.
//!
//! INVARIANT: a grant that began before the time counts if its end lies in it, so events of earlier times
//! go in too; uses count only within the time.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::Somebody;
use crate::audit::event::EventType;
use crate::audit::format::Entry;
use crate::model::Timestamp;

/// Grants, requests, openings and holders of standing permissions that are followed, of each at most.
pub const FOLLOWED_MAX: usize = 20_000;

/// The scope of an opening that is good for every service.
const ALL_SERVICES: &str = "all services";

/// An approval of a grant.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ApprovedBy {
    /// Who.
    pub by: Somebody,
    /// When.
    pub time: String,
}

/// Uses, counted.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Uses {
    /// How many requests were let through.
    pub count: u64,
    /// When first.
    #[serde(default)]
    pub first: Option<String>,
    /// When last.
    #[serde(default)]
    pub last: Option<String>,
}

/// That somebody had access to something.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AccessRow {
    /// Who.
    pub person: Somebody,
    /// Which service, of an opening several with commas between them; none: all of them.
    #[serde(default)]
    pub service: Option<String>,
    /// The entitlement of a grant, `svc/name`.
    #[serde(default)]
    pub entitlement: Option<String>,
    /// `standing`: a policy permits it always; `grant`; `break_glass`
    pub how: String,
    /// `grt_…`
    #[serde(default)]
    pub grant: Option<String>,
    /// `brk_…`
    #[serde(default)]
    pub opening: Option<String>,
    /// Since when, within the time that was asked for; none of a standing permission.
    #[serde(default)]
    pub from: Option<String>,
    /// Until when, within the time that was asked for.
    #[serde(default)]
    pub to: Option<String>,
    /// Who approved it, or signed the opening.
    pub approved_by: Vec<ApprovedBy>,
    /// Custodians who signed an opening.
    pub custodians: Vec<String>,
    /// Why it was asked for.
    #[serde(default)]
    pub reason: Option<String>,
    /// The ticket that was named.
    #[serde(default)]
    pub ticket: Option<String>,
    /// How often it was used, within the time.
    pub uses: Uses,
}

impl AccessRow {
    /// Whether it gave access to that service.
    #[must_use]
    pub fn is_of(&self, service: &str) -> bool {
        self.service.as_deref().is_none_or(|services| services.split(", ").any(|name| name == service))
    }

    /// What a page is continued after.
    #[must_use]
    pub fn place(&self) -> (String, String, String, String) {
        let text = |text: &Option<String>| text.clone().unwrap_or_default();
        (self.person.id.clone(), text(&self.service), text(&self.grant), text(&self.opening))
    }
}

/// Which rows are wanted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct WhoFilter {
    /// Not before this.
    pub from: Option<Timestamp>,
    /// Before this.
    pub to: Option<Timestamp>,
    /// Of this service.
    pub service: Option<String>,
    /// Of this person: pseudonym, principal or e-mail.
    pub person: Option<String>,
}

#[derive(Default)]
struct GrantTrack {
    holder: Option<Somebody>,
    entitlement: Option<String>,
    service: Option<String>,
    request: Option<String>,
    active_at: Option<Timestamp>,
    /// With the time of the event that said it: the latest is right.
    expires_at: Option<(Timestamp, Timestamp)>,
    ended_at: Option<Timestamp>,
}

#[derive(Default)]
struct RequestTrack {
    reason: Option<String>,
    ticket: Option<String>,
    approvals: Vec<ApprovedBy>,
}

struct OpeningTrack {
    who: Somebody,
    service: Option<String>,
    reason: Option<String>,
    custodians: Vec<String>,
    from: Timestamp,
    until: Timestamp,
}

#[derive(Default, Clone)]
struct Tally {
    count: u64,
    first: Option<Timestamp>,
    last: Option<Timestamp>,
}

impl Tally {
    fn add(&mut self, other: &Self) {
        self.count += other.count;
        self.first = [self.first, other.first].into_iter().flatten().min();
        self.last = self.last.max(other.last);
    }

    fn told(&self) -> Uses {
        let text = |time: Option<Timestamp>| time.map(|time| time.to_string());
        Uses { count: self.count, first: text(self.first), last: text(self.last) }
    }
}

/// Uses that were counted elsewhere.
#[derive(Debug, Clone)]
pub struct CountedUses {
    /// Whose.
    pub who: Somebody,
    /// Of which service.
    pub service: Option<String>,
    /// Under which grant.
    pub grant: Option<String>,
    /// How many.
    pub count: u64,
    /// When first.
    pub first: Timestamp,
    /// When last.
    pub last: Timestamp,
}

/// Takes events and gives who had access.
pub struct WhoCollector {
    filter: WhoFilter,
    grants: BTreeMap<String, GrantTrack>,
    requests: BTreeMap<String, RequestTrack>,
    openings: BTreeMap<String, OpeningTrack>,
    /// Ends of openings, which may come before their beginnings: logs are one after the other.
    closed: BTreeMap<String, Timestamp>,
    people: BTreeMap<String, Somebody>,
    /// By person, service and grant.
    used: BTreeMap<(String, Option<String>, Option<String>), Tally>,
    left_out: u64,
}

/// The row of `key`; none where the table is full.
fn of<'t, T: Default>(table: &'t mut BTreeMap<String, T>, key: &str, left_out: &mut u64) -> Option<&'t mut T> {
    if !table.contains_key(key) && table.len() >= FOLLOWED_MAX {
        *left_out += 1;
        return None;
    }
    Some(table.entry(key.to_owned()).or_default())
}

impl WhoCollector {
    /// Nothing yet.
    #[must_use]
    pub const fn new(filter: WhoFilter) -> Self {
        Self {
            filter,
            grants: BTreeMap::new(),
            requests: BTreeMap::new(),
            openings: BTreeMap::new(),
            closed: BTreeMap::new(),
            people: BTreeMap::new(),
            used: BTreeMap::new(),
            left_out: 0,
        }
    }

    /// Takes an event of any kind.
    pub fn take(&mut self, entry: &Entry<'_>) {
        use EventType as T;
        let time = entry.clear().time;
        if self.filter.to.is_some_and(|to| time >= to) && entry.clear().kind != T::BreakGlassOpened {
            return;
        }
        for somebody in [Somebody::actor(entry), Somebody::subject(entry)].into_iter().flatten() {
            self.learn(&somebody);
        }
        match entry.clear().kind {
            T::RequestCreated => self.asked(entry),
            T::RequestApproved => self.approved(entry),
            T::GrantActive | T::GrantExtended | T::GrantExpired | T::GrantRevoked | T::GrantDropped => {
                self.granted(entry);
            }
            T::BreakGlassOpened => self.opened(entry),
            T::BreakGlassClosed | T::BreakGlassExpired => {
                if let Some(id) = entry.text("/data/id") {
                    let end = self.closed.entry(id.to_owned()).or_insert(time);
                    *end = (*end).min(time);
                }
            }
            T::DecisionAllow if self.filter.from.is_none_or(|from| time >= from) => {
                let Some(who) = Somebody::actor(entry) else { return };
                let counted = CountedUses {
                    who,
                    service: entry.service().map(str::to_owned),
                    grant: entry.clear().grant.map(|id| id.to_string()),
                    count: 1,
                    first: time,
                    last: time,
                };
                self.used(counted);
            }
            _ => {}
        }
    }

    /// Takes uses that were counted elsewhere.
    pub fn used(&mut self, counted: CountedUses) {
        self.learn(&counted.who);
        let key = (counted.who.id, counted.service, counted.grant);
        if !self.used.contains_key(&key) && self.used.len() >= FOLLOWED_MAX {
            self.left_out += counted.count;
            return;
        }
        let more = Tally { count: counted.count, first: Some(counted.first), last: Some(counted.last) };
        self.used.entry(key).or_default().add(&more);
    }

    fn learn(&mut self, somebody: &Somebody) {
        if let Some(known) = self.people.get_mut(&somebody.id) {
            known.learn(somebody);
        } else if self.people.len() < FOLLOWED_MAX {
            self.people.insert(somebody.id.clone(), somebody.clone());
        }
    }

    fn asked(&mut self, entry: &Entry<'_>) {
        let text = |pointer: &str| entry.text(pointer).map(str::to_owned);
        let Some(request) = entry.text("/data/request").and_then(|id| of(&mut self.requests, id, &mut self.left_out))
        else {
            return;
        };
        request.reason = text("/data/reason").filter(|reason| !reason.is_empty());
        request.ticket = text("/data/ticket");
    }

    fn approved(&mut self, entry: &Entry<'_>) {
        let Some(by) = Somebody::actor(entry) else { return };
        if let Some(request) = entry.text("/data/request").and_then(|id| of(&mut self.requests, id, &mut self.left_out))
            && request.approvals.iter().all(|approval| approval.by.id != by.id)
        {
            request.approvals.push(ApprovedBy { by, time: entry.clear().time.to_string() });
        }
    }

    fn granted(&mut self, entry: &Entry<'_>) {
        let clear = entry.clear();
        let text = |pointer: &str| entry.text(pointer).map(str::to_owned);
        let Some(id) = clear.grant.map(|id| id.to_string()) else { return };
        let Some(grant) = of(&mut self.grants, &id, &mut self.left_out) else { return };
        grant.holder = grant.holder.take().or_else(|| Somebody::subject(entry));
        grant.entitlement = grant.entitlement.take().or_else(|| text("/data/entitlement"));
        grant.service = grant.service.take().or_else(|| entry.service().map(str::to_owned));
        match clear.kind {
            EventType::GrantActive | EventType::GrantExtended => {
                let end = entry.text("/data/expires_at").and_then(Timestamp::parse);
                if let Some(end) = end.filter(|_| grant.expires_at.is_none_or(|(said, _)| said <= clear.time)) {
                    grant.expires_at = Some((clear.time, end));
                }
                if clear.kind == EventType::GrantActive {
                    grant.active_at = Some(clear.time);
                    grant.request = text("/data/request");
                }
            }
            _ => grant.ended_at = Some(clear.time),
        }
    }

    fn opened(&mut self, entry: &Entry<'_>) {
        let text = |pointer: &str| entry.text(pointer).map(str::to_owned);
        let (Some(id), Some(who)) = (text("/data/id"), Somebody::actor(entry)) else { return };
        if self.openings.len() >= FOLLOWED_MAX {
            self.left_out += 1;
            return;
        }
        let time = |pointer: &str| entry.text(pointer).and_then(Timestamp::parse);
        let custodians = entry.body.pointer("/data/custodians").and_then(Value::as_array);
        let track = OpeningTrack {
            who,
            service: text("/data/scope").filter(|scope| scope != ALL_SERVICES),
            reason: text("/data/reason"),
            custodians: custodians.into_iter().flatten().filter_map(|name| name.as_str().map(str::to_owned)).collect(),
            from: time("/data/not_before").unwrap_or(entry.clear().time),
            until: time("/data/expires").unwrap_or(entry.clear().time),
        };
        self.openings.insert(id, track);
    }

    /// What did not fit.
    #[must_use]
    pub const fn left_out(&self) -> u64 {
        self.left_out
    }

    /// After the last event of a record that was taken at `as_of`: every row, in order of people.
    #[must_use]
    pub fn end(mut self, as_of: Timestamp) -> Vec<AccessRow> {
        // What is in force still is told until its planned end.
        let until = self.filter.to.unwrap_or(as_of);
        let mut rows = self.grant_rows(until);
        rows.extend(self.opening_rows(until));
        rows.extend(self.standing_rows());
        for row in &mut rows {
            if let Some(known) = self.people.get(&row.person.id) {
                row.person.learn(known);
            }
            for approval in &mut row.approved_by {
                if let Some(known) = self.people.get(&approval.by.id) {
                    approval.by.learn(known);
                }
            }
        }
        let filter = &self.filter;
        rows.retain(|row| {
            filter
                .person
                .as_deref()
                .is_none_or(|wanted| row.person.is(wanted) || row.opening.as_deref() == Some(wanted))
                && filter.service.as_deref().is_none_or(|wanted| row.is_of(wanted))
        });
        rows.sort_by_key(AccessRow::place);
        rows
    }

    /// The part of `from..to` that lies in the time that was asked for.
    fn within(&self, from: Timestamp, to: Timestamp, until: Timestamp) -> Option<(Timestamp, Timestamp)> {
        let from = self.filter.from.map_or(from, |first| first.max(from));
        let to = to.min(until);
        (from < to).then_some((from, to))
    }

    /// All uses under one grant, which are taken out.
    fn uses_of(&mut self, wanted: impl Fn(&(String, Option<String>, Option<String>)) -> bool) -> Tally {
        let mut sum = Tally::default();
        self.used.retain(|key, tally| {
            let take = wanted(key);
            if take {
                sum.add(tally);
            }
            !take
        });
        sum
    }

    fn grant_rows(&mut self, until: Timestamp) -> Vec<AccessRow> {
        let mut uses: BTreeMap<String, Tally> = BTreeMap::new();
        self.used.retain(|(_, _, grant), tally| {
            let Some(grant) = grant.as_ref().filter(|id| self.grants.contains_key(*id)) else { return true };
            uses.entry(grant.clone()).or_default().add(tally);
            false
        });
        let mut rows = Vec::new();
        for (id, track) in std::mem::take(&mut self.grants) {
            let used = uses.remove(&id).unwrap_or_default();
            let (Some(holder), Some(active)) = (track.holder, track.active_at) else { continue };
            let planned = track.expires_at.map(|(_, end)| end);
            let end = [planned, track.ended_at].into_iter().flatten().min().unwrap_or(until);
            let Some((from, to)) = self.within(active, end, until) else { continue };
            let request = track.request.as_ref().and_then(|id| self.requests.get(id));
            rows.push(AccessRow {
                person: holder,
                service: track.service,
                entitlement: track.entitlement,
                how: "grant".to_owned(),
                grant: Some(id),
                opening: None,
                from: Some(from.to_string()),
                to: Some(to.to_string()),
                approved_by: request.map(|request| request.approvals.clone()).unwrap_or_default(),
                custodians: Vec::new(),
                reason: request.and_then(|request| request.reason.clone()),
                ticket: request.and_then(|request| request.ticket.clone()),
                uses: used.told(),
            });
        }
        rows
    }

    fn opening_rows(&mut self, until: Timestamp) -> Vec<AccessRow> {
        let mut rows = Vec::new();
        for (id, track) in std::mem::take(&mut self.openings) {
            let used = self.uses_of(|(who, ..)| *who == track.who.id);
            let end = self.closed.get(&id).map_or(track.until, |closed| track.until.min(*closed));
            let Some((from, to)) = self.within(track.from, end, until) else { continue };
            rows.push(AccessRow {
                person: track.who,
                service: track.service,
                entitlement: None,
                how: "break_glass".to_owned(),
                grant: None,
                opening: Some(id),
                from: Some(from.to_string()),
                to: Some(to.to_string()),
                approved_by: Vec::new(),
                custodians: track.custodians,
                reason: track.reason,
                ticket: None,
                uses: used.told(),
            });
        }
        rows
    }

    /// What is left: permissions that were used without a grant that is known.
    fn standing_rows(&mut self) -> Vec<AccessRow> {
        let used = std::mem::take(&mut self.used);
        let row = |((who, service, grant), tally): ((String, Option<String>, Option<String>), Tally)| {
            let person = Somebody { id: who, ..Somebody::default() };
            let person = self.people.get(&person.id).cloned().unwrap_or(person);
            let how = match (&grant, person.kind.as_str()) {
                (Some(_), _) => "grant",
                (None, "BreakGlass") => "break_glass",
                (None, _) => "standing",
            };
            AccessRow {
                person,
                service,
                entitlement: None,
                how: how.to_owned(),
                grant,
                opening: None,
                from: None,
                to: None,
                approved_by: Vec::new(),
                custodians: Vec::new(),
                reason: None,
                ticket: None,
                uses: tally.told(),
            }
        };
        used.into_iter().map(row).collect()
    }
}
