//! A month of 200 people on a clock that is moved by hand: two nodes, of which one starts anew each
//! night, policies that change each week, people who come, ask, answer, prolong, give back, are barred
//! and leave. In the end the record is whole and says what happened, and nobody holds anything.
//!
//! `DOORWARD_TEST_SEED` repeats a run, `DOORWARD_TEST_DAYS` makes it longer.

use std::collections::BTreeMap;

use doorward::audit::filter::Filter;
use doorward::audit::line::check_line;
use doorward::audit::verify::{Anchor, Verified, Verifier};
use doorward::control::access::{self, AccessError};
use doorward::control::audit::export::{Begun, begin};
use doorward::control::audit::root::Root;
use doorward::control::audit::tree::LogTree;
use doorward::control::lock_by_caller;
use doorward::model::{Grant, GrantId, RequestId, RequestState, SessionId, Timestamp, Ttl};

use crate::access_ledger::{Ledger, pool};
use crate::access_world::{Node, Rules, asked, groups, principal};
use crate::support::{TestClock, databases};

fn number(name: &str, usual: u64) -> u64 {
    match std::env::var(name) {
        Ok(text) => text.parse().unwrap_or_else(|_| panic!("{name} is no number: {text}")),
        Err(_) => usual,
    }
}

/// Numbers that follow from a seed (SplitMix64).
struct Chance(u64);

impl Chance {
    fn below(&mut self, end: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ mixed >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        usize::try_from((mixed ^ mixed >> 31) % end as u64).unwrap()
    }

    fn one_in(&mut self, many: usize) -> bool {
        self.below(many) == 0
    }
}

/// The rules of each week.
const WEEKS: [Rules; 5] = [
    Rules { wider: false, closed: false, linked: false, shorter: false, stricter: false, roomier: false, few: false },
    Rules { wider: true, closed: false, linked: true, shorter: false, stricter: false, roomier: true, few: false },
    Rules { wider: true, closed: false, linked: true, shorter: true, stricter: true, roomier: true, few: false },
    Rules { wider: false, closed: true, linked: false, shorter: false, stricter: false, roomier: false, few: true },
    Rules { wider: false, closed: false, linked: false, shorter: false, stricter: false, roomier: false, few: false },
];

/// What was answered to those who did something.
#[derive(Debug, Default)]
struct Counted(BTreeMap<&'static str, i64>);

impl Counted {
    fn add(&mut self, what: &'static str) {
        *self.0.entry(what).or_default() += 1;
    }

    fn of(&self, what: &str) -> i64 {
        self.0.get(what).copied().unwrap_or_default()
    }

    /// Counts `what`, or why it was refused.
    fn outcome<T>(&mut self, what: &'static str, outcome: Result<T, AccessError>) -> Option<T> {
        let refused = match outcome {
            Ok(done) => {
                self.add(what);
                return Some(done);
            }
            Err(AccessError::Store(error)) => panic!("{what}: {error}"),
            Err(AccessError::NotFound { .. } | AccessError::NoEntitlement(_)) => "refused: not found",
            Err(AccessError::Invalid(_)) => "refused: does not fit",
            Err(AccessError::Denied(_)) => "refused: no policy",
            Err(AccessError::SelfApproval) => "refused: own request",
            Err(AccessError::AnsweredAlready) => "refused: answered already",
            Err(AccessError::Closed { .. } | AccessError::Granted { .. }) => "refused: closed",
            Err(AccessError::Changed { .. }) => "refused: changed",
            Err(AccessError::Ineligible(_)) => "refused: requester may not",
            Err(AccessError::Full { .. }) => "refused: no place",
            Err(AccessError::NotActive { .. }) => "refused: grant is over",
            Err(AccessError::TooSoon(_)) => "refused: too soon",
            Err(AccessError::SignInTooOld(_)) => "refused: sign-in too old",
            Err(AccessError::Clock(doubt)) => panic!("{what}: {doubt}"),
        };
        self.add(refused);
        None
    }
}

struct Month {
    url: String,
    clock: TestClock,
    nodes: Vec<Node>,
    chance: Chance,
    people: Vec<String>,
    present: BTreeMap<String, SessionId>,
    pending: Vec<RequestId>,
    grants: Vec<(GrantId, String)>,
    counted: Counted,
    rules: Rules,
    seed: u64,
    active_max: usize,
    restarts: u32,
}

impl Month {
    async fn begin(url: &str, seed: u64) -> Self {
        let clock = TestClock::new();
        let mut people: Vec<String> = (0..160).map(|number| format!("dev{number}")).collect();
        people.extend((0..38).map(|number| format!("lead{number}")));
        people.extend(["owner0".to_owned(), "owner1".to_owned()]);
        let nodes = vec![Node::start(url, &clock, 1, seed).await, Node::start(url, &clock, 2, seed + 1).await];
        Self {
            url: url.to_owned(),
            clock,
            nodes,
            chance: Chance(seed),
            people,
            present: BTreeMap::new(),
            pending: Vec::new(),
            grants: Vec::new(),
            counted: Counted::default(),
            rules: WEEKS[0],
            seed: seed + 1,
            active_max: 0,
            restarts: 0,
        }
    }

    fn now(&self) -> Timestamp {
        self.nodes[0].now()
    }

    fn put(&mut self, rules: Rules) {
        self.rules = rules;
        self.nodes.iter().for_each(|node| node.desk().policies.store(rules.set()));
    }

    /// One that is signed in and has this group, by chance.
    fn somebody(&mut self, prefix: &str) -> Option<(String, SessionId)> {
        let here: Vec<_> = self.present.iter().filter(|(name, _)| name.starts_with(prefix)).collect();
        let at = self.chance.below(here.len().max(1));
        here.get(at).map(|(name, id)| ((*name).clone(), **id))
    }

    async fn sign_in(&mut self, name: &str) {
        if let Some(id) = self.nodes[0].sign_in(name, groups(name)).await {
            self.present.insert(name.to_owned(), id);
            self.counted.add("signed in");
        } else {
            self.counted.add("barred at sign-in");
        }
    }

    async fn day(&mut self, day: usize) {
        let morning = self.now();
        self.put(WEEKS[day / 7 % WEEKS.len()]);
        for owner in ["owner0", "owner1"] {
            self.sign_in(owner).await;
        }
        for _ in 0..24 {
            let at = self.chance.below(self.people.len() - 2);
            let name = self.people[at].clone();
            if !self.present.contains_key(&name) {
                self.sign_in(&name).await;
            }
        }
        for _ in 0..8 {
            let lead = format!("lead{}", self.chance.below(38));
            if !self.present.contains_key(&lead) {
                self.sign_in(&lead).await;
            }
        }
        // Ten hours of work, with many things that happen.
        for number in 0..80 {
            self.clock.advance(Ttl::millis(u32::try_from(self.chance.below(900_000)).unwrap() + 1));
            // Now on this node, now on that: each hears of what the other did before it is asked.
            let node = number / 10 % 2;
            if number % 10 == 0 {
                self.nodes[node].follow().await;
            }
            if number % 3 == 0 {
                self.nodes[node].sweep().await.unwrap();
            }
            self.something(node).await;
            self.look(node);
        }
        // The night: most leave, a node starts anew, the clock goes on to the next morning.
        for (name, id) in std::mem::take(&mut self.present) {
            if self.chance.one_in(3) || name.starts_with("owner") {
                self.nodes[1].sign_out(id).await;
                self.counted.add("signed out");
            } else {
                self.present.insert(name, id);
            }
        }
        self.seed += 1;
        let fresh = Node::start(&self.url, &self.clock, 1, self.seed).await;
        fresh.desk().policies.store(self.rules.set());
        // The old one is gone without a word, as if it were killed.
        self.nodes[0] = fresh;
        self.restarts += 1;
        self.clock.set(morning.plus(Ttl::hours(24)));
    }

    async fn something(&mut self, node: usize) {
        match self.chance.below(100) {
            0..50 => self.ask(node).await,
            50..82 => self.answer(node).await,
            82..86 => self.prolong(node).await,
            86..92 => self.give_back(node).await,
            92..94 => self.withdraw(node).await,
            94..97 => self.end(node).await,
            _ => self.bar(node).await,
        }
    }

    async fn ask(&mut self, node: usize) {
        let Some((_, session)) = self.somebody("") else { return };
        let Some(caller) = self.nodes[node].caller(session).await else { return self.counted.add("not let in") };
        let names = ["one", "one", "one", "two", "two", "queue", "refuse", "auto", "auto"];
        let name = names[self.chance.below(names.len())];
        let minutes = [1, 5, 10, 15, 20, 30, 45, 60, 20, 20, 60, 30, 45, 20, 90, 0][self.chance.below(16)];
        let mut it = asked(name, Ttl::minutes(minutes));
        it.emergency = self.chance.one_in(25);
        if self.chance.one_in(8) {
            let hours = u32::try_from(self.chance.below(100)).unwrap();
            it.start = Some(self.now().plus(Ttl::hours(hours)));
        }
        let made = self.nodes[node].ask(&caller, &it).await;
        let Some((request, grant)) = self.counted.outcome("asked", made) else { return };
        match grant {
            Some(grant) => self.granted(grant),
            None => self.pending.push(request.id),
        }
    }

    fn granted(&mut self, grant: Grant) {
        self.counted.add("granted");
        self.grants.push((grant.id, grant.holder.principal.subject().to_owned()));
    }

    async fn answer(&mut self, node: usize) {
        let who = if self.chance.one_in(8) { "" } else { "lead" };
        let Some((_, session)) = self.somebody(who) else { return };
        if self.pending.is_empty() {
            return;
        }
        let at = self.pending.len() - 1 - self.chance.below(self.pending.len().min(6));
        let id = self.pending[at];
        let Some(caller) = self.nodes[node].caller(session).await else { return self.counted.add("not let in") };
        if self.chance.one_in(12) {
            let denied = access::deny(self.nodes[node].desk(), &caller, id, None, self.now()).await;
            if self.counted.outcome("denied", denied).is_some() {
                self.pending.remove(at);
            }
            return;
        }
        let approved = self.nodes[node].approve(&caller, id).await;
        let closed = matches!(approved, Err(AccessError::Closed { .. } | AccessError::Granted { .. }));
        if let Some(seen) = self.counted.outcome("approved", approved)
            && seen.request.state == RequestState::Approved
        {
            self.pending.remove(at);
            match seen.request.extends {
                Some(_) => self.counted.add("prolonged"),
                None => self.granted(seen.grant.unwrap()),
            }
        } else if closed {
            self.pending.remove(at);
        }
    }

    /// One of the newest grants, if its holder is signed in.
    fn held(&mut self) -> Option<(GrantId, SessionId)> {
        let back = self.chance.below(self.grants.len().clamp(1, 4)) + 1;
        let (id, holder) = self.grants.get(self.grants.len().checked_sub(back)?)?;
        Some((*id, *self.present.get(holder)?))
    }

    async fn prolong(&mut self, node: usize) {
        let Some((id, session)) = self.held() else { return };
        let Some(caller) = self.nodes[node].caller(session).await else { return self.counted.add("not let in") };
        let minutes = [5, 15, 30][self.chance.below(3)];
        let made = access::extend(self.nodes[node].desk(), &caller, id, Ttl::minutes(minutes), self.now()).await;
        let Some(seen) = self.counted.outcome("asked for more", made) else { return };
        match seen.request.state {
            RequestState::Pending => self.pending.push(seen.request.id),
            _ => self.counted.add("prolonged"),
        }
    }

    async fn give_back(&mut self, node: usize) {
        let Some((id, session)) = self.held() else { return };
        let Some(caller) = self.nodes[node].caller(session).await else { return self.counted.add("not let in") };
        let dropped = access::drop_grant(self.nodes[node].desk(), &caller, id, self.now()).await;
        if self.counted.outcome("dropped", dropped).is_some() {
            assert!(
                self.nodes[node].desk().directory.grants(caller.principal(), self.now()).iter().all(|it| it.id != id)
            );
        }
    }

    async fn withdraw(&mut self, node: usize) {
        let Some((_, session)) = self.somebody("") else { return };
        let Some(caller) = self.nodes[node].caller(session).await else { return self.counted.add("not let in") };
        let at = self.chance.below(self.pending.len().max(1));
        let Some(id) = self.pending.get(at).copied() else { return };
        let withdrawn = access::withdraw(self.nodes[node].desk(), &caller, id, self.now()).await;
        if self.counted.outcome("withdrawn", withdrawn).is_some() {
            self.pending.remove(at);
        }
    }

    async fn end(&mut self, node: usize) {
        let Some((_, session)) = self.somebody("owner") else { return };
        let Some(caller) = self.nodes[node].caller(session).await else { return };
        let Some((id, _)) = self.held() else { return };
        let revoked = self.nodes[node].revoke(&caller, id).await;
        self.counted.outcome("revoked", revoked);
    }

    /// Bars somebody, or lifts the oldest bar where there are some.
    async fn bar(&mut self, node: usize) {
        let Some((_, session)) = self.somebody("owner") else { return };
        let Some((name, _)) = self.somebody("dev") else { return };
        let Some(caller) = self.nodes[node].caller(session).await else { return };
        let (desk, now) = (self.nodes[node].desk(), self.now());
        let barred = desk.store.lock_list().await.unwrap();
        if let [oldest, _, ..] = barred.as_slice() {
            let name = oldest.principal.to_string();
            lock_by_caller::clear(desk, &caller, &name, "it is well", now).await.unwrap();
            self.counted.add("unbarred");
        } else if lock_by_caller::set(desk, &caller, &principal(&name).to_string(), "a test", now).await.is_ok() {
            self.counted.add("barred");
        }
    }

    fn look(&mut self, node: usize) {
        self.active_max = self.active_max.max(self.nodes[node].desk().directory.grants_active(self.now()));
    }
}

/// The longest that the rules of this month ever allow.
fn longest(name: &str) -> Ttl {
    WEEKS.iter().map(|rules| rules.max(name)).max().unwrap()
}

/// Each grant by itself: who approved it, how long it lasted, that it is over.
fn check_books(books: &Ledger, end: Timestamp) {
    for request in books.requests.values() {
        assert_ne!(request.state, RequestState::Pending, "{request:?}");
        let id = request.id.to_string();
        let theirs = books.answers.range((id.clone(), String::new())..).take_while(|((of, _), _)| *of == id);
        let approved = theirs.filter(|(_, (word, seen, _))| word == "approve" && *seen == request.hash);
        let who: Vec<&str> = approved.map(|((_, who), _)| who.as_str()).collect();
        assert!(!who.contains(&request.requester.principal.id()), "{request:?} was approved by who asked");
        let enough = who.len() >= usize::try_from(request.approvals_needed).unwrap();
        assert!(request.state != RequestState::Approved || enough, "{who:?} approved {request:?}");
    }
    for grant in books.grants.values() {
        assert!(grant.state.ended_at().is_some_and(|at| at <= end), "{grant:?}");
        let name = grant.entitlement.name();
        assert!(grant.length <= longest(name), "{grant:?}");
        let (Some(from), Some(until)) = (grant.state.active_at(), grant.state.expires_at()) else { continue };
        let more: i64 = books
            .requests
            .values()
            .filter(|it| it.extends == Some(grant.id) && it.state == RequestState::Approved)
            .map(|it| it.length.as_millis())
            .sum();
        assert_eq!(until.since(from).as_millis(), grant.length.as_millis() + more, "{grant:?}");
        assert!(grant.state.ended_at().unwrap() <= until, "{grant:?}");
        if name == "one" {
            assert!(until.since(from) <= Ttl::hours(2), "{grant:?}");
        }
    }
    for name in ["queue", "refuse"] {
        // At each beginning, whoever else holds it.
        let held: Vec<(Timestamp, Timestamp)> = books
            .grants
            .values()
            .filter(|grant| grant.entitlement.name() == name)
            .filter_map(|grant| Some((grant.state.active_at()?, grant.state.ended_at()?)))
            .collect();
        for (from, _) in &held {
            let at_once = held.iter().filter(|(since, end)| since <= from && from < end).count();
            assert!(at_once <= 2, "{at_once} held {name} at {from}");
        }
    }
}

/// The whole record, exported and verified as an auditor does.
async fn verified(nodes: &[Node], now: Timestamp) -> Verified {
    for node in nodes {
        let desk = node.desk();
        let log = desk.store.own_log().unwrap();
        while desk.store.number_pending(log, now).await.unwrap() > 0 {}
        let root = Root::open(&desk.store, &desk.sealer).await.unwrap();
        let mut tree = LogTree::open(&desk.store, &desk.sealer, &root, now, &*desk.entropy).await.unwrap();
        while tree.grow(&desk.store, now).await.unwrap().added > 0 {}
    }
    let desk = nodes[0].desk();
    let root = Root::open(&desk.store, &desk.sealer).await.unwrap();
    let Begun { statement, mut evidence, mut export } =
        begin(&desk.store, root.key(), &Filter::default(), now).await.unwrap();
    evidence.statement = statement.sign(root.signer());
    let anchor = Anchor { key: Some(root.key().clone()), witnessed: Vec::new() };
    let mut verifier = Verifier::new(&evidence, &anchor).unwrap();
    while let Some(page) = export.next().await.unwrap() {
        for line in page {
            verifier.take(check_line(&line)).unwrap();
        }
    }
    verifier.end().unwrap()
}

async fn month(url: &str, seed: u64, days: usize) {
    let mut month = Month::begin(url, seed).await;
    for day in 0..days {
        month.day(day).await;
    }
    let last = month.now();
    // Everything that anybody could still have is over: starts of a week ahead, waits, and lengths.
    for _ in 0..24 * 10 {
        month.clock.advance(Ttl::hours(1));
        month.nodes[0].sweep().await.unwrap();
    }
    let now = month.now();
    for node in &mut month.nodes {
        node.follow().await;
        assert_eq!(node.desk().directory.grants_active(now), 0);
    }
    let pool = pool(url).await;
    let books = Ledger::read(&month.nodes[0].desk().store, &pool).await;
    check_books(&books, now);
    // What was answered, what the tables hold, and what the record tells are one.
    let (counted, told) = (&month.counted, |kind: &str| books.events.get(kind).copied().unwrap_or_default());
    let count = |number: usize| i64::try_from(number).unwrap();
    let state = |state| count(books.requests.values().filter(|request| request.state == state).count());
    assert_eq!(counted.of("asked") + counted.of("asked for more"), count(books.requests.len()));
    assert_eq!(told("request.created"), count(books.requests.len()));
    assert_eq!((told("request.approved"), told("request.denied")), (counted.of("approved"), counted.of("denied")));
    assert_eq!(
        (state(RequestState::Denied), state(RequestState::Withdrawn)),
        (counted.of("denied"), counted.of("withdrawn"))
    );
    assert_eq!(told("request.withdrawn"), counted.of("withdrawn"));
    assert_eq!(told("request.timed_out"), state(RequestState::TimedOut));
    assert_eq!(count(books.grants.len()), counted.of("granted"));
    let began = count(books.grants.values().filter(|grant| grant.state.active_at().is_some()).count());
    assert_eq!((told("grant.active"), told("grant.extended")), (began, counted.of("prolonged")));
    assert_eq!(told("grant.dropped"), counted.of("dropped"));
    let ends = told("grant.expired") + told("grant.dropped") + told("grant.revoked");
    assert_eq!(ends, count(books.grants.len()), "each ended once");
    let all: i64 = sqlx::query_scalar("select count(*) from audit_event").fetch_one(&pool).await.unwrap();
    let verified = verified(&month.nodes, now).await;
    assert_eq!(count(usize::try_from(verified.lines).unwrap()), all, "{verified:?}");
    assert!(verified.anchored && verified.pruned == 0, "{verified:?}");

    println!("{} people, {days} days to {last}, seed {seed}, {} starts of a node", month.people.len(), month.restarts);
    counted.0.iter().for_each(|(what, count)| println!("  {what:<28}{count:>6}"));
    println!("  {:<28}{:>6}", "timed out", state(RequestState::TimedOut));
    for end in ["expired", "dropped", "revoked"] {
        println!("  {:<28}{:>6}", format!("grants that {end}"), told(&format!("grant.{end}")));
    }
    println!("  {:<28}{:>6}", "approvals made void", told("request.voided"));
    println!("  {:<28}{:>6}", "grants at once, at most", month.active_max);
    println!("  {:<28}{:>6}", "events, all verified", verified.lines);
    assert!(days < 30 || books.requests.len() > 700, "{} requests are no month", books.requests.len());
}

#[tokio::test]
async fn a_month_of_200_people_ends_with_nobody_holding_anything_and_a_whole_record() {
    let days = usize::try_from(number("DOORWARD_TEST_DAYS", 30)).unwrap();
    let seed = number("DOORWARD_TEST_SEED", 20_261_122);
    println!("DOORWARD_TEST_SEED={seed}");
    month(&databases()[0], seed, days).await;
}
