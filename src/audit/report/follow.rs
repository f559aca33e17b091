//! What has to be followed over several events: grants to their use, openings to their reviews, locks
//! to their end, requests to their approvals, failures of one account within one hour; credentials
//! (`orphan.rs`), standing access (`standing.rs`) and access reviews (`reviewed.rs`) to what became of them.
//!
//! INVARIANTS: logs come one after the other, so nothing here rests on the order of events of two
//! logs. Every table has a bound; what did not fit is counted, and the report says so.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};

use super::exception::{Exception, FAILURES_PER_HOUR, Found, REVIEWERS};
use super::orphan::Orphans;
use super::reviewed::Reviewed;
use super::seen::{Cited, Seen, short};
use super::standing::Standing;
use crate::audit::event::EventType;
use crate::audit::leaf::PersonalField;
use crate::model::{NodeId, Timestamp, Ttl};

/// Things of one kind that are followed at most.
pub const FOLLOWED_MAX: usize = 50_000;
/// People who are remembered for one thing at most.
const PEOPLE_MAX: usize = 16;
/// Accounts and addresses of one hour that are counted at once at most.
const FAILING_MAX: usize = 5_000;
const HOUR_SECONDS: i64 = 3600;

/// The time that is judged.
#[derive(Debug, Clone, Copy)]
pub struct Window {
    /// Its beginning: as asked for, else the first event.
    pub begins: Timestamp,
    /// Its end: as asked for, else when the record was taken.
    pub until: Timestamp,
}

/// A table with a bound.
pub(super) struct Table<T> {
    pub(super) rows: BTreeMap<String, T>,
    /// How many did not fit.
    pub(super) left_out: u64,
}

impl<T: Default> Table<T> {
    pub(super) const fn new() -> Self {
        Self { rows: BTreeMap::new(), left_out: 0 }
    }

    pub(super) fn of(&mut self, id: &str) -> Option<&mut T> {
        if !self.rows.contains_key(id) && self.rows.len() >= FOLLOWED_MAX {
            self.left_out += 1;
            return None;
        }
        Some(self.rows.entry(id.to_owned()).or_default())
    }
}

#[derive(Default)]
struct GrantTrack {
    active: Option<Box<Cited>>,
    used: bool,
    ended: Option<Timestamp>,
    emergency: bool,
    request: Option<String>,
    holder: Option<String>,
}

#[derive(Default)]
struct RequestTrack {
    needed: Option<u64>,
    approvers: BTreeSet<String>,
}

#[derive(Default)]
struct OpeningTrack {
    opened: Option<Box<Cited>>,
    opener: Option<String>,
    ended: bool,
}

#[derive(Default)]
struct LockTrack {
    set: Option<Box<Cited>>,
    cleared: bool,
    barred: Option<String>,
}

struct Failing {
    count: u64,
    first: Box<Cited>,
}

/// Everything that is followed.
pub struct Following {
    grants: Table<GrantTrack>,
    requests: Table<RequestTrack>,
    openings: Table<OpeningTrack>,
    /// Who reviewed what has this id, and when last.
    reviews: Table<BTreeMap<String, Timestamp>>,
    locks: Table<LockTrack>,
    failing: BTreeMap<(i64, String), Failing>,
    failing_let_go: u64,
    running: BTreeMap<NodeId, bool>,
    drilled: Option<Timestamp>,
    /// How old a drill may be, as the record said last, and when.
    drill_every: Option<(Timestamp, Ttl)>,
    emergency_path: bool,
    orphans: Orphans,
    standing: Standing,
    reviewed: Reviewed,
}

impl Following {
    /// Nothing yet.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            grants: Table::new(),
            requests: Table::new(),
            openings: Table::new(),
            reviews: Table::new(),
            locks: Table::new(),
            failing: BTreeMap::new(),
            failing_let_go: 0,
            running: BTreeMap::new(),
            drilled: None,
            drill_every: None,
            emergency_path: false,
            orphans: Orphans::new(),
            standing: Standing::new(),
            reviewed: Reviewed::new(),
        }
    }

    /// Whether there was anything of the emergency path.
    #[must_use]
    pub const fn has_emergency_path(&self) -> bool {
        self.emergency_path
    }

    /// When the last drill was.
    #[must_use]
    pub const fn drilled(&self) -> Option<Timestamp> {
        self.drilled
    }

    /// How old a drill may be, where the record says so.
    #[must_use]
    pub fn drill_every(&self) -> Option<Ttl> {
        self.drill_every.map(|(_, every)| every)
    }

    /// Takes an event about drills, of the period or of before it.
    pub fn drill(&mut self, seen: &Seen<'_>) {
        match seen.leaf.kind {
            EventType::BreakGlassDrilled if seen.leaf.outcome == crate::audit::Outcome::Success => {
                self.drilled = self.drilled.max(Some(seen.leaf.time));
            }
            EventType::BreakGlassDrillOverdue => {
                let every = seen.text("/data/drill_every").and_then(Ttl::parse);
                self.drill_every = self.drill_every.max(every.map(|every| (seen.leaf.time, every)));
            }
            _ => {}
        }
    }

    /// Takes an event; what stands out by itself goes to `found`.
    pub fn take(&mut self, seen: &Seen<'_>, found: &mut BTreeMap<Exception, Found>) {
        use EventType as T;
        self.emergency_path |= matches!(
            seen.leaf.kind,
            T::BreakGlassOpened
                | T::BreakGlassClosed
                | T::BreakGlassExpired
                | T::BreakGlassDrilled
                | T::BreakGlassCustodiansChanged
        );
        self.orphans.take(seen);
        self.standing.take(seen);
        self.reviewed.take(seen);
        match seen.leaf.kind {
            T::DecisionAllow => {
                if let Some(grant) = seen.text("/grant").and_then(|id| self.grants.of(id)) {
                    grant.used = true;
                }
            }
            T::SignInFailed | T::ExchangeRefused => self.failed(seen, found),
            T::DecisionDeny if seen.is_bad_credential() => self.failed(seen, found),
            T::GrantActive => self.activated(seen),
            T::GrantExpired | T::GrantRevoked | T::GrantDropped => {
                if let Some(grant) = seen.text("/grant").and_then(|id| self.grants.of(id)) {
                    grant.ended = Some(grant.ended.map_or(seen.leaf.time, |ended| ended.min(seen.leaf.time)));
                }
            }
            T::RequestCreated => {
                if let Some(request) = seen.text("/data/request").and_then(|id| self.requests.of(id)) {
                    request.needed = seen.number("/data/approvals_needed");
                }
            }
            T::RequestApproved => self.approved(seen, found),
            T::BreakGlassOpened | T::BreakGlassClosed | T::BreakGlassExpired | T::BreakGlassReviewed => {
                self.emergency(seen);
            }
            T::BreakGlassDrilled | T::BreakGlassDrillOverdue => self.drill(seen),
            T::LockSet | T::LockCleared => {
                if let Some(lock) = seen.text("/resource").and_then(|id| self.locks.of(id)) {
                    if seen.leaf.kind == T::LockSet {
                        lock.barred = seen.text("/subject/id").map(str::to_owned);
                        lock.set = Some(Box::new(seen.cite()));
                    } else {
                        lock.cleared = true;
                    }
                }
            }
            T::NodeStarted => {
                if self.running.insert(seen.leaf.log, true) == Some(true) {
                    let note = "this start follows a start without a stop between them";
                    found.entry(Exception::UncleanStops).or_default().add(1, Some(seen.cite()), note);
                }
            }
            T::NodeStopped => {
                self.running.insert(seen.leaf.log, false);
            }
            T::DecisionDeny
            | T::DecisionDenyCounted
            | T::ExchangeEnded
            | T::RecordLost
            | T::SessionStart
            | T::SessionRenewed
            | T::SessionGroups
            | T::SessionEnd
            | T::TokenIssued
            | T::TokenRevoked
            | T::CredentialIssued
            | T::RequestDenied
            | T::RequestWithdrawn
            | T::RequestTimedOut
            | T::RequestVoided
            | T::GrantScheduled
            | T::GrantExtended
            | T::CredentialRevoked
            | T::CredentialRevokeFailed
            | T::BreakGlassRefused
            | T::BreakGlassCustodiansChanged
            | T::BreakGlassChannelsTested
            | T::NoticeDead
            | T::NoticeRetried
            | T::PolicyLoaded
            | T::PolicyRefused
            | T::KeyChanged
            | T::AuditRead
            | T::AuditExported
            | T::AuditLogOpened
            | T::AuditSpoolMerged
            | T::AuditPruned
            | T::AuditErased
            | T::ReviewStarted
            | T::ReviewDecided
            | T::ReviewClosed
            | T::ReviewOutstanding
            | T::ReviewRemoved
            | T::AuditStreamStalled
            | T::AuditStreamRecovered
            | T::AuditStreamGap
            | T::AuditPersonErased
            | T::ClockStepped => {}
        }
    }

    /// Takes an event of openings and their reviews, of the period or of before it: an opening stays an
    /// exception in every report until it is reviewed (CONTRACT §8).
    pub fn emergency(&mut self, seen: &Seen<'_>) {
        let Some(id) = seen.text("/data/id") else { return };
        match seen.leaf.kind {
            EventType::BreakGlassOpened => {
                if let Some(opening) = self.openings.of(id) {
                    opening.opener = seen.text("/actor/id").map(str::to_owned);
                    opening.opened.get_or_insert_with(|| Box::new(seen.cite()));
                }
            }
            EventType::BreakGlassClosed | EventType::BreakGlassExpired => {
                if let Some(opening) = self.openings.of(id) {
                    opening.ended = true;
                }
            }
            EventType::BreakGlassReviewed => {
                if let (Some(who), Some(people)) = (seen.text("/actor/id"), self.reviews.of(id))
                    && (people.len() < PEOPLE_MAX || people.contains_key(who))
                {
                    let last = people.entry(who.to_owned()).or_insert(seen.leaf.time);
                    *last = seen.leaf.time.max(*last);
                }
            }
            _ => {}
        }
    }

    fn activated(&mut self, seen: &Seen<'_>) {
        let Some(grant) = seen.text("/grant").and_then(|id| self.grants.of(id)) else { return };
        grant.active = Some(Box::new(seen.cite()));
        grant.emergency = seen.is_emergency();
        grant.request = seen.text("/data/request").map(str::to_owned);
        grant.holder = seen.text("/subject/id").map(str::to_owned);
    }

    fn approved(&mut self, seen: &Seen<'_>, found: &mut BTreeMap<Exception, Found>) {
        let Some(approver) = seen.text("/actor/id") else { return };
        if seen.text("/subject/id") == Some(approver) {
            let note = "requester and approver are one account";
            found.entry(Exception::SelfApproved).or_default().add(1, Some(seen.cite()), note);
        }
        if let Some(request) = seen.text("/data/request").and_then(|id| self.requests.of(id))
            && request.approvers.len() < PEOPLE_MAX
        {
            request.approvers.insert(approver.to_owned());
        }
    }

    /// Counts a failure for its account and for its address.
    fn failed(&mut self, seen: &Seen<'_>, found: &mut BTreeMap<Exception, Found>) {
        let hour = seen.leaf.time.seconds().div_euclid(HOUR_SECONDS);
        let address = seen.personal(PersonalField::Address).map(|address| format!("address {}", short(address)));
        let account = seen.text("/actor/id").map(|id| match seen.personal(PersonalField::Principal) {
            Some(name) => format!("account {} ({id})", short(name)),
            None => format!("account {id}"),
        });
        for who in [address, account].into_iter().flatten() {
            match self.failing.entry((hour, who)) {
                Entry::Occupied(mut entry) => entry.get_mut().count += 1,
                Entry::Vacant(entry) => {
                    entry.insert(Failing { count: 1, first: Box::new(seen.cite()) });
                }
            }
        }
        if self.failing.len() > FAILING_MAX {
            self.let_go(hour, found);
        }
    }

    /// Makes room: judges earlier hours, of which this log has no more. Where that is not enough, those who
    /// failed once go, so that a flood of addresses does not hide the one that guesses.
    fn let_go(&mut self, now: i64, found: &mut BTreeMap<Exception, Found>) {
        let kept = std::mem::take(&mut self.failing);
        let crowded = kept.range((now, String::new())..).nth(FAILING_MAX / 2).is_some();
        for ((hour, who), failing) in kept {
            if hour >= now && !(crowded && failing.count == 1) {
                self.failing.insert((hour, who), failing);
            } else if !judge(hour, &who, failing, found) {
                self.failing_let_go += 1;
            }
        }
        while self.failing.len() > FAILING_MAX {
            let Some(((hour, who), failing)) = self.failing.pop_first() else { return };
            if !judge(hour, &who, failing, found) {
                self.failing_let_go += 1;
            }
        }
    }

    /// What stands out at the end, and in words what could not be followed.
    pub fn end(mut self, window: Window, found: &mut BTreeMap<Exception, Found>) -> Vec<String> {
        while let Some(((hour, who), failing)) = self.failing.pop_first() {
            judge(hour, &who, failing, found);
        }
        self.grants(found);
        self.openings(window, found);
        let mut locked: BTreeMap<String, Timestamp> = BTreeMap::new();
        for (_, lock) in std::mem::take(&mut self.locks.rows) {
            if let (Some(set), false) = (lock.set, lock.cleared) {
                if let Some(barred) = lock.barred {
                    locked.entry(barred).or_insert(set.time);
                }
                found.entry(Exception::LocksStanding).or_default().add(1, Some(*set), "not lifted by the end");
            }
        }
        let mut limits = self.limits();
        let ended = |id: &str| self.grants.rows.get(id).and_then(|grant| grant.ended);
        limits.extend(self.orphans.end(&locked, ended, found));
        limits.extend(self.standing.end(window, &locked, found));
        limits.extend(self.reviewed.end(window, found));
        limits
    }

    fn grants(&self, found: &mut BTreeMap<Exception, Found>) {
        let mut add = |kind: Exception, cited: &Cited, note: String| {
            found.entry(kind).or_default().add(1, Some(cited.clone()), note);
        };
        for (id, grant) in &self.grants.rows {
            let Some(active) = &grant.active else { continue };
            if !grant.used {
                let end = if grant.ended.is_some() { "it has ended" } else { "no end of it is on record yet" };
                add(Exception::UnusedGrants, active, format!("{id} was not used; {end}"));
            }
            if grant.emergency {
                let reviewers = self.reviewers(id, grant.holder.as_deref(), active.time);
                if reviewers < REVIEWERS {
                    let note = format!("{id} has {reviewers} of {REVIEWERS} reviewers");
                    add(Exception::UnreviewedEmergencyGrants, active, note);
                }
                continue;
            }
            let request = grant.request.as_ref().and_then(|id| self.requests.rows.get(id));
            if let Some(request) = request
                && let Some(needed) = request.needed
            {
                let approvers = u64::try_from(request.approvers.len()).unwrap_or(u64::MAX);
                if approvers < needed {
                    let note = format!("{id} has {approvers} of {needed} approvers");
                    add(Exception::UnapprovedGrants, active, note);
                }
            }
        }
    }

    fn openings(&self, window: Window, found: &mut BTreeMap<Exception, Found>) {
        for (id, opening) in &self.openings.rows {
            let Some(opened) = &opening.opened else { continue };
            let reviewers = self.reviewers(id, opening.opener.as_deref(), opened.time);
            if reviewers < REVIEWERS {
                let end = if opening.ended { "it has ended" } else { "no end of it is on record" };
                let when = if opened.time < window.begins { ", opened before the period," } else { "" };
                let note = format!("{id}{when} has {reviewers} of {REVIEWERS} reviewers; {end}");
                let unreviewed = found.entry(Exception::UnreviewedBreakGlass).or_default();
                unreviewed.add(1, Some((**opened).clone()), note);
            }
        }
    }

    /// Who reviewed it, other than the person it is about. What was reviewed before it began was something else
    /// that had its id.
    fn reviewers(&self, id: &str, but: Option<&str>, began: Timestamp) -> usize {
        let counts = |(who, time): &(&String, &Timestamp)| Some(who.as_str()) != but && **time >= began;
        self.reviews.rows.get(id).map_or(0, |people| people.iter().filter(counts).count())
    }

    fn limits(&self) -> Vec<String> {
        let parts = [
            (self.grants.left_out, "events about grants"),
            (self.requests.left_out, "events about access requests"),
            (self.openings.left_out, "events about openings"),
            (self.reviews.left_out, "reviews"),
            (self.locks.left_out, "events about locks"),
        ];
        let mut limits: Vec<String> = parts
            .iter()
            .filter(|(count, _)| *count > 0)
            .map(|(count, what)| {
                format!(
                    "{count} {what} were counted but not followed: {FOLLOWED_MAX} of a kind are; take a shorter period"
                )
            })
            .collect();
        if self.failing_let_go > 0 {
            limits.push(format!(
                "failures of {} accounts and addresses in one hour were too many to be counted together: those below the \
                 threshold may be above it over all nodes; take a shorter period",
                self.failing_let_go
            ));
        }
        limits
    }
}

/// Notes who failed too often. Gives whether they did.
fn judge(hour: i64, who: &str, failing: Failing, found: &mut BTreeMap<Exception, Found>) -> bool {
    if failing.count < FAILURES_PER_HOUR {
        return false;
    }
    let from = Timestamp::from_seconds(hour.saturating_mul(HOUR_SECONDS));
    let note = format!("{} failures of {who} in the hour from {from}", failing.count);
    found.entry(Exception::FailedSignIns).or_default().add(1, Some(*failing.first), note);
    true
}
