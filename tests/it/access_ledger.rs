//! The books of requests and grants as an auditor reads them: all that the database holds at one
//! moment, what may become of it, and how many events each change must have left.

use std::collections::BTreeMap;

use doorward::model::{AccessRequest, Grant, GrantEnd, GrantId, GrantState, RequestId, RequestState, Timestamp};
use doorward::store::{ACCESS_REQUEST_PAGE_MAX, AccessRequestFilter, GRANT_PAGE_MAX, Store};
use sqlx::AnyPool;

/// Answers by request and principal: the word, the hash that was seen, when.
type Answers = BTreeMap<(String, String), (String, String, i64)>;

/// All that is written of requests and grants.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Ledger {
    pub requests: BTreeMap<RequestId, AccessRequest>,
    pub answers: Answers,
    pub grants: BTreeMap<GrantId, Grant>,
    /// Principals that are locked.
    pub locks: Vec<String>,
    /// Events of requests and grants by type.
    pub events: BTreeMap<String, i64>,
}

/// Counts by event type.
pub type Told = BTreeMap<&'static str, i64>;

pub async fn pool(url: &str) -> AnyPool {
    sqlx::any::install_default_drivers();
    sqlx::any::AnyPoolOptions::new().max_connections(1).connect(url).await.unwrap()
}

impl Ledger {
    pub async fn read(store: &Store, pool: &AnyPool) -> Self {
        let mut ledger = Self::default();
        loop {
            let before = ledger.requests.keys().next().copied();
            let filter = AccessRequestFilter { before, ..AccessRequestFilter::default() };
            let page = store.access_request_list(&filter, ACCESS_REQUEST_PAGE_MAX).await.unwrap();
            let last = page.len() < ACCESS_REQUEST_PAGE_MAX as usize;
            ledger.requests.extend(page.into_iter().map(|request| (request.id, request)));
            if last {
                break;
            }
        }
        loop {
            let page = store.grant_list(None, ledger.grants.keys().next().copied(), GRANT_PAGE_MAX).await.unwrap();
            let last = page.len() < GRANT_PAGE_MAX as usize;
            ledger.grants.extend(page.into_iter().map(|grant| (grant.id, grant)));
            if last {
                break;
            }
        }
        let rows: Vec<(String, String, String, String, i64)> =
            sqlx::query_as("select request, principal_id, answer, hash, time from access_approval")
                .fetch_all(pool)
                .await
                .unwrap();
        for (request, who, answer, hash, time) in rows {
            ledger.answers.insert((request, who), (answer, hash, time));
        }
        let locks = store.lock_list().await.unwrap();
        ledger.locks = locks.iter().map(|lock| lock.principal.subject().to_owned()).collect();
        let rows: Vec<(String, i64)> = sqlx::query_as(
            "select type, count(*) from audit_event where type like 'request.%' or type like 'grant.%' group by type",
        )
        .fetch_all(pool)
        .await
        .unwrap();
        ledger.events = rows.into_iter().collect();
        ledger
    }

    /// Grants that are in force at `now`.
    pub fn active(&self, now: Timestamp) -> impl Iterator<Item = &Grant> {
        self.grants.values().filter(move |grant| grant.state.is_active(now))
    }

    /// How many hold an entitlement of `svc` at `now`.
    pub fn holders(&self, name: &str, now: Timestamp) -> usize {
        self.active(now).filter(|grant| grant.entitlement.name() == name).count()
    }

    /// Grants that are not the same in both.
    pub fn changed_grants(&self, after: &Self) -> Vec<GrantId> {
        // A use is told of when there is time.
        let same = |before: &Grant, after: &Grant| *before == Grant { used_at: before.used_at, ..after.clone() };
        let changed = |(id, grant): &(&GrantId, &Grant)| self.grants.get(id).is_none_or(|before| !same(before, grant));
        after.grants.iter().filter(changed).map(|(id, _)| *id).collect()
    }

    /// Requests that are not the same in both.
    pub fn changed_requests(&self, after: &Self) -> Vec<RequestId> {
        let changed = |(id, request): &(&RequestId, &AccessRequest)| self.requests.get(id) != Some(*request);
        after.requests.iter().filter(changed).map(|(id, _)| *id).collect()
    }

    /// What happened since, each step allowed: gives the events that it must have left.
    pub fn became(&self, after: &Self, now: Timestamp) -> Told {
        let mut told = Told::new();
        for id in self.requests.keys() {
            assert!(after.requests.contains_key(id), "the request {id} is gone");
        }
        for (id, next) in &after.requests {
            request_step(self.requests.get(id), next, &mut told);
        }
        for (key, before) in &self.answers {
            let next = after.answers.get(key).unwrap_or_else(|| panic!("the answer {key:?} is gone"));
            // Whether an answer might be given anew, `access_compared.rs` asks.
            let anew = next.2 != before.2 && next.0 == "approve";
            assert!(
                before == next || anew || (&before.0, &before.1) != (&next.0, &next.1),
                "{key:?} was answered twice"
            );
        }
        for (key, next) in &after.answers {
            if self.answers.get(key) != Some(next) && next.0 == "approve" {
                *told.entry("request.approved").or_default() += 1;
            }
        }
        for id in self.grants.keys() {
            assert!(after.grants.contains_key(id), "the grant {id} is gone");
        }
        for (id, next) in &after.grants {
            grant_step(self.grants.get(id), next, now, &mut told);
        }
        told
    }

    /// Each change left its one event.
    pub fn assert_told(&self, after: &Self, told: &Told) {
        for kind in after.events.keys().map(String::as_str).chain(told.keys().copied()) {
            let count = |ledger: &Self| ledger.events.get(kind).copied().unwrap_or_default();
            let (new, expected) = (count(after) - count(self), told.get(kind).copied().unwrap_or_default());
            assert_eq!(new, expected, "events `{kind}`: {new} are new and {expected} things happened");
        }
    }
}

fn request_step(before: Option<&AccessRequest>, next: &AccessRequest, told: &mut Told) {
    let id = next.id;
    assert_eq!(next.state == RequestState::Pending, next.closed_at.is_none(), "{id}");
    assert!(next.grant.is_none() || next.state == RequestState::Approved, "{id}");
    let Some(before) = before else {
        assert!(matches!(next.state, RequestState::Pending | RequestState::Approved), "{id} began as {:?}", next.state);
        *told.entry("request.created").or_default() += 1;
        return;
    };
    if before.state != RequestState::Pending {
        assert_eq!(before, next, "what is closed stays as it is");
        return;
    }
    let same = AccessRequest {
        hash: before.hash.clone(),
        actions: before.actions.clone(),
        approvals_needed: before.approvals_needed,
        state: before.state,
        closed_at: before.closed_at,
        grant: before.grant,
        ..next.clone()
    };
    assert_eq!(*before, same, "what was asked for never changes");
    if before.hash != next.hash {
        *told.entry("request.voided").or_default() += 1;
    } else {
        assert_eq!((&before.actions, before.approvals_needed), (&next.actions, next.approvals_needed), "{id}");
    }
    let event = match next.state {
        RequestState::Pending | RequestState::Approved => return,
        RequestState::Denied => "request.denied",
        RequestState::Withdrawn => "request.withdrawn",
        RequestState::TimedOut => "request.timed_out",
    };
    *told.entry(event).or_default() += 1;
}

fn grant_step(before: Option<&Grant>, next: &Grant, now: Timestamp, told: &mut Told) {
    let id = next.id;
    if let Some(before) = before {
        assert!(before.used_at <= next.used_at, "{id} was used");
        if *before == (Grant { used_at: before.used_at, ..next.clone() }) {
            return;
        }
        let same = Grant {
            state: before.state,
            end_reason: before.end_reason.clone(),
            starts_at: before.starts_at,
            used_at: before.used_at,
            ..next.clone()
        };
        assert_eq!(*before, same, "what was granted never changes");
        let waits = next.state == GrantState::Scheduled && !next.starts_at.is_over(now);
        assert!(before.starts_at == next.starts_at || waits && before.starts_at < next.starts_at, "{next:?}");
    }
    // As it was, with all that is known of its use by now.
    let now_over = before.map(|before| Grant { used_at: next.used_at, ..before.clone() }.state_at(now));
    let over_at = now_over.and_then(GrantState::ended_at);
    // What is over for want of use alone can be prolonged and ended until that is written down: it may have
    // been used without the database having heard of it.
    let ran_out = before.is_some_and(|grant| grant.state.at(now).ended_at().is_some());
    let event = match (before.map(|grant| grant.state), next.state) {
        (None, GrantState::Scheduled | GrantState::Queued) => "grant.scheduled",
        (Some(GrantState::Scheduled), GrantState::Queued) => return,
        (Some(GrantState::Scheduled | GrantState::Queued), GrantState::Scheduled) => "grant.scheduled",
        (None | Some(GrantState::Scheduled | GrantState::Queued), GrantState::Active { from, until }) => {
            assert_eq!((from, until), (now, now.plus(next.length)), "{id}: its clock starts now");
            assert!(next.starts_at.is_over(now), "{id} began too early");
            "grant.active"
        }
        (Some(GrantState::Active { from, until }), GrantState::Active { from: since, until: later }) => {
            assert!(from == since && until < later && !ran_out, "{id}: {until} became {later}");
            "grant.extended"
        }
        (Some(GrantState::Active { from, until }), GrantState::Over { from: since, until: last, end, at }) => {
            assert_eq!((Some(from), Some(until)), (since, last), "{id}: its end was moved");
            let natural = end == GrantEnd::Expired;
            assert!(if natural { over_at.is_some() } else { !ran_out }, "{id} ended as {end:?}");
            assert_eq!(at, over_at.filter(|_| natural).unwrap_or(now), "{id}");
            ended(end)
        }
        (Some(GrantState::Scheduled | GrantState::Queued), GrantState::Over { from, until, end, at }) => {
            assert_eq!((from, until, at), (None, None, now), "{id}");
            assert!(end != GrantEnd::Expired, "{id} never began");
            ended(end)
        }
        (before, next) => panic!("the grant {id} went from {before:?} to {next:?}"),
    };
    *told.entry(event).or_default() += 1;
}

const fn ended(end: GrantEnd) -> &'static str {
    match end {
        GrantEnd::Expired => "grant.expired",
        GrantEnd::Revoked => "grant.revoked",
        GrantEnd::Dropped => "grant.dropped",
    }
}
