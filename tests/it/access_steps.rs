//! One step of a small company after the other, each compared with what it may do to the books.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};

use doorward::control::access::{self, AccessError, Asked};
use doorward::control::{Caller, lock_by_caller};
use doorward::model::{
    AccessRequest, Clock, Grant, GrantId, GrantState, RequestId, RequestState, SessionId, Timestamp, Ttl,
};
use proptest::prelude::*;
use sqlx::AnyPool;

use crate::access_compared::Compared;
use crate::access_ledger::{Ledger, pool};
use crate::access_world::{ENTITLEMENTS, IDLE, Node, PEOPLE, Rules, asked, cut, groups, principal};
use crate::support::{TestClock, sqlite_database};

/// What somebody does. Numbers choose among what is there.
#[derive(Debug, Clone)]
pub enum Op {
    Ask {
        node: usize,
        who: usize,
        what: usize,
        minutes: u32,
        start: Option<u32>,
        emergency: bool,
    },
    Answer {
        node: usize,
        who: usize,
        which: usize,
        yes: bool,
    },
    Withdraw {
        node: usize,
        who: usize,
        which: usize,
    },
    Extend {
        node: usize,
        who: usize,
        which: usize,
        minutes: u32,
    },
    Drop {
        node: usize,
        who: usize,
        which: usize,
    },
    Revoke {
        node: usize,
        who: usize,
        which: usize,
    },
    Lock {
        node: usize,
        who: usize,
        set: bool,
    },
    /// The newest grants that are in force at a node are used there.
    Use {
        node: usize,
    },
    Sweep {
        node: usize,
    },
    /// The operation's caller goes away, or its node dies, after so many polls.
    Cut {
        polls: usize,
        dies: bool,
        op: Box<Op>,
    },
    /// The last operation once more.
    Again,
    SignOut {
        node: usize,
        who: usize,
    },
    SignIn {
        node: usize,
        who: usize,
        all: bool,
    },
    Follow {
        node: usize,
    },
    Restart {
        node: usize,
    },
    Change {
        rules: u8,
    },
    Advance {
        seconds: u32,
    },
    /// To the next end of something, and some milliseconds.
    ToEnd {
        beyond: i64,
    },
    Back {
        seconds: u32,
    },
}

/// Each change of the rules by itself, none, and some together.
const CHANGES: &[u8] = &[0, 0, 0, 1, 2, 4, 8, 16, 32, 64, 0b001_0001, 0b001_1000, 0b000_0110, 0b110_0000];

/// An operation, often one that fits the company's state.
pub fn op(back: bool) -> impl Strategy<Value = Op> {
    let node = || 0..2usize;
    let who = || 0..PEOPLE.len();
    let which = || 0..4usize;
    let ask = (node(), who(), 0..ENTITLEMENTS.len(), 1..70u32, proptest::option::weighted(0.2, 0..120u32), 0..12u8);
    let ask = ask.prop_map(|(node, who, what, minutes, start, emergency)| Op::Ask {
        node,
        who,
        what,
        minutes,
        start,
        emergency: emergency == 0,
    });
    let answer = (node(), who(), which(), 0..6u8);
    let answer = answer.prop_map(|(node, who, which, no)| Op::Answer { node, who, which, yes: no != 0 });
    let own = prop_oneof![3 => Just(usize::MAX), 1 => who()];
    let acting = prop_oneof![
        8 => ask,
        14 => answer,
        1 => (node(), own.clone(), which()).prop_map(|(node, who, which)| Op::Withdraw { node, who, which }),
        3 => (node(), own.clone(), which(), 1..70u32)
            .prop_map(|(node, who, which, minutes)| Op::Extend { node, who, which, minutes }),
        2 => (node(), own, which()).prop_map(|(node, who, which)| Op::Drop { node, who, which }),
        2 => (node(), 6..PEOPLE.len(), which()).prop_map(|(node, who, which)| Op::Revoke { node, who, which }),
        2 => (node(), who(), any::<bool>()).prop_map(|(node, who, set)| Op::Lock { node, who, set }),
        5 => node().prop_map(|node| Op::Sweep { node }),
    ];
    let cut = (0..40usize, any::<bool>(), acting.clone());
    let cut = cut.prop_map(|(polls, dies, op)| Op::Cut { polls, dies, op: Box::new(op) });
    let last =
        if back { (1..7200u32).prop_map(|seconds| Op::Back { seconds }).boxed() } else { Just(Op::Again).boxed() };
    prop_oneof![
        36 => acting,
        5 => cut,
        2 => Just(Op::Again),
        1 => (node(), who()).prop_map(|(node, who)| Op::SignOut { node, who }),
        2 => (node(), who(), any::<bool>()).prop_map(|(node, who, all)| Op::SignIn { node, who, all }),
        3 => node().prop_map(|node| Op::Follow { node }),
        3 => node().prop_map(|node| Op::Use { node }),
        1 => node().prop_map(|node| Op::Restart { node }),
        3 => proptest::sample::select(CHANGES).prop_map(|rules| Op::Change { rules }),
        4 => (1..5000u32).prop_map(|seconds| Op::Advance { seconds }),
        4 => (-1..2i64).prop_map(|beyond| Op::ToEnd { beyond }),
        2 => last,
    ]
}

/// An operation with whom and what it is about.
#[derive(Debug, Clone)]
pub enum Act {
    Ask(Box<Asked>),
    Answer(RequestId, bool),
    Withdraw(RequestId),
    Extend(GrantId, Ttl),
    Drop(GrantId),
    Revoke(GrantId),
    Lock(usize, bool),
    Sweep,
}

/// What came of it; `None` where it was cut off.
pub type Came = Option<Result<(), AccessError>>;

pub struct SignIn {
    who: usize,
    id: SessionId,
    pub groups: Vec<String>,
    live: bool,
}

/// Two nodes on one database, everybody who works there, and their books.
pub struct Company {
    url: String,
    clock: TestClock,
    pool: AnyPool,
    nodes: Vec<Node>,
    sessions: Vec<SignIn>,
    pub rules: Rules,
    books: Ledger,
    /// Grants that were over on a node, with the end that they had then.
    over: [BTreeMap<GrantId, Timestamp>; 2],
    /// Grants that changed since a node has read the feed.
    unheard: [BTreeSet<GrantId>; 2],
    last: Option<Op>,
    pub duty: (usize, Timestamp),
    seed: u64,
    went_back: bool,
    /// The last use of grants that end for want of it, at each node.
    used: [BTreeMap<GrantId, Timestamp>; 2],
    /// The latest time that each node can know of since it began.
    seen: [Timestamp; 2],
}

struct Template {
    file: PathBuf,
    sessions: Vec<SessionId>,
}

async fn founded(url: &str, clock: &TestClock) -> Vec<SessionId> {
    let node = Node::start(url, clock, 1, 7).await;
    let other = Node::start(url, clock, 2, 8).await;
    let mut sessions = Vec::new();
    for who in PEOPLE {
        sessions.push(node.sign_in(who, groups(who)).await.unwrap());
    }
    node.desk().store.close().await;
    other.desk().store.close().await;
    sessions
}

impl Company {
    /// A company in the PostgreSQL database of that URL, or where it is empty in a SQLite file.
    pub async fn found(url: Option<String>) -> Option<Self> {
        let (clock, url) = (TestClock::new(), url?);
        let (url, sessions) = if url.is_empty() {
            static TEMPLATE: OnceLock<Template> = OnceLock::new();
            if TEMPLATE.get().is_none() {
                let url = sqlite_database();
                let sessions = founded(&url, &clock).await;
                let file = PathBuf::from(url.strip_prefix("sqlite://").unwrap());
                let _ = TEMPLATE.set(Template { file, sessions });
            }
            let template = TEMPLATE.get().unwrap();
            let url = sqlite_database();
            std::fs::copy(&template.file, url.strip_prefix("sqlite://").unwrap()).unwrap();
            (url, template.sessions.clone())
        } else {
            let sessions = founded(&url, &clock).await;
            (url, sessions)
        };
        clock.advance(Ttl::seconds(1));
        let sessions = sessions.into_iter().zip(PEOPLE).enumerate();
        let mut company = Self {
            pool: pool(&url).await,
            nodes: Vec::new(),
            sessions: sessions.map(|(who, (id, name))| SignIn { who, id, groups: groups(name), live: true }).collect(),
            rules: Rules::default(),
            books: Ledger::default(),
            over: Default::default(),
            unheard: Default::default(),
            last: None,
            duty: (0, Timestamp::from_millis(0)),
            seed: 1000,
            went_back: false,
            used: Default::default(),
            seen: Default::default(),
            url,
            clock,
        };
        for number in 0..2 {
            let node = company.begin_node(number).await;
            company.nodes.push(node);
        }
        Some(company)
    }

    pub async fn close(self) {
        for node in &self.nodes {
            node.desk().store.close().await;
        }
        self.pool.close().await;
        if let Some(file) = self.url.strip_prefix("sqlite://") {
            std::fs::remove_file(file).unwrap();
        }
    }

    async fn begin_node(&mut self, number: usize) -> Node {
        self.seed += 1;
        let node = Node::start(&self.url, &self.clock, u8::try_from(number).unwrap() + 1, self.seed).await;
        node.desk().policies.store(self.rules.set());
        self.unheard[number].clear();
        self.over[number].clear();
        let newest = sqlx::query_scalar("select max(time) from audit_event").fetch_one(&self.pool).await;
        self.seen[number] = self.now().max(Timestamp::from_millis(newest.unwrap()));
        node
    }

    fn now(&self) -> Timestamp {
        self.clock.now()
    }

    /// The newest session of somebody who is signed in.
    pub fn session(&self, who: usize) -> Option<&SignIn> {
        self.sessions.iter().filter(|it| it.who == who && it.live).max_by_key(|it| it.id)
    }

    /// The groups by which a request is judged.
    pub fn groups_for(&self, request: &AccessRequest) -> Vec<String> {
        let who = of(request.requester.principal.subject());
        let session = self.session(who).or_else(|| self.sessions.iter().find(|it| it.id == request.session));
        session.unwrap().groups.clone()
    }

    pub fn one(&self, left: usize, right: usize) -> bool {
        let human = |who: usize| match PEOPLE[who] {
            "twin" => "lead0",
            "lead1" if self.rules.linked => "lead0",
            "dev3" if self.rules.linked => "dev0",
            other => other,
        };
        human(left) == human(right)
    }

    /// The `which`th request: pending ones first, the newest first.
    fn request(&self, which: usize) -> Option<&AccessRequest> {
        let mut all: Vec<_> = self.books.requests.values().rev().collect();
        all.sort_by_key(|request| request.state != RequestState::Pending);
        all.get(which % all.len().max(1)).copied()
    }

    fn grant(&self, which: usize) -> Option<&Grant> {
        let mut all: Vec<_> = self.books.grants.values().rev().collect();
        all.sort_by_key(|grant| grant.state.ended_at().is_some());
        all.get(which % all.len().max(1)).copied()
    }

    /// When a grant was last used anywhere.
    pub fn last_use(&self, id: GrantId) -> Option<Timestamp> {
        self.used.iter().filter_map(|used| used.get(&id)).max().copied()
    }

    /// Whether a node must know that its clock is behind what it has seen.
    pub fn is_behind(&self, node: usize) -> bool {
        self.seen[node].since(self.now()) > Ttl::seconds(5)
    }

    /// Whether a node may grant nothing, which it never does while clocks go as they should.
    pub fn doubts(&self, node: usize) -> bool {
        assert!(self.went_back || !self.nodes[node].doubts());
        self.nodes[node].doubts()
    }

    pub async fn step(&mut self, op: &Op) {
        // Ids of one millisecond have no order.
        self.clock.advance(Ttl::millis(1));
        self.seen = self.seen.map(|seen| seen.max(self.now()));
        let op = match op {
            Op::Again => match self.last.clone() {
                Some(last) => last,
                None => return,
            },
            other => other.clone(),
        };
        self.last = Some(op.clone());
        match op {
            Op::Cut { polls, dies, op } => self.act(&op, Some((polls, dies))).await,
            Op::SignOut { node, who } => {
                let Some(id) = self.session(who).map(|it| it.id) else { return };
                self.nodes[node].sign_out(id).await;
                self.sessions.iter_mut().filter(|it| it.id == id).for_each(|it| it.live = false);
                assert!(self.nodes[node].caller(id).await.is_none(), "a session that ended proves nobody");
                self.compare(None, &None).await;
            }
            Op::SignIn { node, who, all } => {
                let groups = if all { groups(PEOPLE[who]) } else { Vec::new() };
                if let Some(id) = self.nodes[node].sign_in(PEOPLE[who], groups.clone()).await {
                    self.sessions.push(SignIn { who, id, groups, live: true });
                }
            }
            Op::Follow { node } => {
                self.nodes[node].follow().await;
                self.unheard[node].clear();
                self.compare(None, &None).await;
            }
            Op::Use { node } => {
                let (now, desk) = (self.nodes[node].now(), Arc::clone(self.nodes[node].desk()));
                for name in PEOPLE {
                    let held = desk.directory.grants(&principal(name), now);
                    for grant in held.iter().filter(|grant| grant.uses().is_some()) {
                        grant.uses().unwrap().note(now);
                        self.used[node].insert(grant.id, now);
                    }
                }
                access::exchange_uses(&desk, now).await.unwrap();
                self.compare(None, &None).await;
            }
            Op::Restart { node } => self.restart(node).await,
            Op::Change { rules } => {
                self.rules = Rules::of(rules);
                self.nodes.iter().for_each(|node| node.desk().policies.store(self.rules.set()));
                self.compare(None, &None).await;
            }
            Op::Advance { seconds } => {
                self.clock.advance(Ttl::seconds(seconds));
                self.compare(None, &None).await;
            }
            Op::ToEnd { beyond } => {
                let now = self.now();
                let ends = self.books.grants.values().filter_map(|grant| match grant.state {
                    GrantState::Active { until, .. } => Some(until),
                    GrantState::Scheduled => Some(grant.starts_at),
                    GrantState::Queued | GrantState::Over { .. } => None,
                });
                if let Some(end) = ends.filter(|end| *end > now).min() {
                    self.clock.set(Timestamp::from_millis(end.millis() + beyond).max(now));
                    self.compare(None, &None).await;
                }
            }
            Op::Back { seconds } => {
                self.clock.set(self.now().minus(Ttl::seconds(seconds)));
                self.went_back |= seconds > 4;
                self.compare(None, &None).await;
            }
            acting => self.act(&acting, None).await,
        }
    }

    async fn restart(&mut self, node: usize) {
        let fresh = self.begin_node(node).await;
        std::mem::replace(&mut self.nodes[node], fresh).desk().store.close().await;
        self.compare(None, &None).await;
    }

    /// Whom and what an operation is about; `None` where there is nothing such.
    fn resolve(&self, op: &Op) -> Option<(usize, usize, Act)> {
        let person = |who: usize, own: &str| if who == usize::MAX { of(own) } else { who };
        Some(match *op {
            Op::Ask { node, who, what, minutes, start, emergency } => {
                let mut it = asked(ENTITLEMENTS[what], Ttl::minutes(minutes));
                it.emergency = emergency;
                it.start = start.map(|minutes| self.now().plus(Ttl::minutes(minutes)));
                (node, who, Act::Ask(Box::new(it)))
            }
            Op::Answer { node, who, which, yes } => (node, who, Act::Answer(self.request(which)?.id, yes)),
            Op::Withdraw { node, who, which } => {
                let request = self.request(which)?;
                (node, person(who, request.requester.principal.subject()), Act::Withdraw(request.id))
            }
            Op::Extend { node, who, which, minutes } => {
                let grant = self.grant(which)?;
                let who = person(who, grant.holder.principal.subject());
                (node, who, Act::Extend(grant.id, Ttl::minutes(minutes)))
            }
            Op::Drop { node, who, which } => {
                let grant = self.grant(which)?;
                (node, person(who, grant.holder.principal.subject()), Act::Drop(grant.id))
            }
            Op::Revoke { node, who, which } => (node, who, Act::Revoke(self.grant(which)?.id)),
            Op::Lock { node, who, set } => (node, of("owner"), Act::Lock(who, set)),
            Op::Sweep { node } => (node, 0, Act::Sweep),
            _ => return None,
        })
    }

    async fn act(&mut self, op: &Op, cut_off: Option<(usize, bool)>) {
        let Some((node, who, act)) = self.resolve(op) else { return };
        let caller = match self.session(who).map(|it| it.id) {
            Some(id) => self.nodes[node].caller(id).await,
            None => None,
        };
        if caller.is_none() && !matches!(act, Act::Sweep) {
            return;
        }
        if matches!(act, Act::Sweep) {
            // As each node does all the time.
            for node in &self.nodes {
                access::exchange_uses(node.desk(), node.now()).await.unwrap();
            }
        }
        let operation = perform(&self.nodes[node], caller.as_ref(), &act);
        let came = match cut_off {
            None => Some(operation.await),
            Some((polls, _)) => cut(polls, operation).await,
        };
        if came.is_none() {
            self.settle().await;
        }
        self.compare(Some((node, who, &act)), &came).await;
        if matches!(act, Act::Sweep) && !self.doubts(node) {
            self.duty = (node, self.nodes[node].now().plus(Ttl::seconds(5)));
        }
        if came.is_none() && cut_off.is_some_and(|(_, dies)| dies) {
            self.restart(node).await;
        }
    }

    /// Waits until the database has done, or undone, what was cut off.
    async fn settle(&self) {
        if self.url.starts_with("sqlite") {
            self.pool.begin_with("begin immediate").await.unwrap().commit().await.unwrap();
            return;
        }
        let busy = "select count(*) from pg_stat_activity where datname = current_database() \
                    and pid <> pg_backend_pid() and state <> 'idle'";
        for _ in 0..10_000 {
            let count: i64 = sqlx::query_scalar(busy).fetch_one(&self.pool).await.unwrap();
            if count == 0 {
                return;
            }
            tokio::task::yield_now().await;
        }
    }

    /// Reads the books and compares them with what they may say after that.
    async fn compare(&mut self, done: Option<(usize, usize, &Act)>, came: &Came) {
        // Who acted says what time it is.
        let now = done.map_or_else(|| self.now(), |(node, _, _)| self.nodes[node].now());
        let after = Ledger::read(&self.nodes[0].desk().store, &self.pool).await;
        let before = std::mem::take(&mut self.books);
        let told = before.became(&after, now);
        before.assert_told(&after, &told);
        let changed = before.changed_grants(&after);
        match done {
            None => {
                assert!(changed.is_empty() && before.requests == after.requests && before.answers == after.answers);
            }
            Some((node, who, act)) => {
                let whole = Compared { company: self, before: &before, after: &after, now, who };
                whole.check(act, came, node);
                for (number, unheard) in self.unheard.iter_mut().enumerate() {
                    if number != node || came.is_none() {
                        unheard.extend(&changed);
                    }
                }
            }
        }
        self.books = after;
        self.members();
    }

    /// Who is let through on each node: holders within the time of their grants, and nobody else.
    fn members(&mut self) {
        let heard = self.unheard.iter().zip(&self.used);
        for ((node, (unheard, used)), over) in self.nodes.iter().zip(heard).zip(&mut self.over) {
            let now = node.now();
            for name in PEOPLE {
                let held = node.held(name);
                for (id, entitlement, until) in &held {
                    let grant = &self.books.grants[id];
                    assert_eq!((grant.holder.principal.subject(), &grant.entitlement), (name, entitlement));
                    assert!(*until > now && grant.state.expires_at().is_some_and(|end| *until <= end), "{grant:?}");
                    assert!(self.went_back || grant.state.active_at().is_some_and(|from| from <= now), "{grant:?}");
                    assert!(grant.state.is_active(now) || unheard.contains(id), "{name} still passes by {grant:?}");
                    let used = self.used.iter().filter_map(|used| used.get(id)).max().copied();
                    let used = used.max(grant.state.active_at());
                    let idle = grant.idle.is_some() && used.is_some_and(|used| used.plus(IDLE).is_over(now));
                    assert!(self.went_back || !idle, "{name} passes by {grant:?}, which nobody uses");
                    assert!(over.get(id).is_none_or(|end| end < until), "{name} passes again by {grant:?}");
                }
                if self.went_back {
                    // What a node has seen to be over is over there, though the books may not say so yet.
                    continue;
                }
                let theirs = self.books.active(now).filter(|grant| grant.holder.principal.subject() == name);
                for grant in theirs.filter(|grant| !unheard.contains(&grant.id)) {
                    let there = held.iter().find(|(id, _, _)| *id == grant.id);
                    // Of a use elsewhere a node hears when there is time.
                    let used = used.get(&grant.id).copied().max(grant.state.active_at());
                    if grant.idle.is_some() && there.is_none() && used.is_some_and(|used| used.plus(IDLE).is_over(now))
                    {
                        continue;
                    }
                    let until = there.unwrap_or_else(|| panic!("{name} does not pass by {grant:?}")).2;
                    assert_eq!(Some(until), grant.state.expires_at(), "{grant:?}");
                }
            }
            let ended = self.books.grants.values().filter(|grant| !unheard.contains(&grant.id));
            let ended = ended.filter_map(|grant| match grant.state.at(now) {
                GrantState::Over { until: Some(until), .. } => Some((grant.id, until)),
                _ => None,
            });
            over.extend(ended);
        }
    }
}

pub fn of(name: &str) -> usize {
    PEOPLE.iter().position(|it| *it == name).unwrap()
}

async fn perform(node: &Node, caller: Option<&Caller>, act: &Act) -> Result<(), AccessError> {
    let (desk, now) = (node.desk(), node.now());
    let caller = || caller.unwrap();
    match act {
        Act::Ask(asked) => node.ask(caller(), asked).await.map(drop),
        Act::Answer(id, true) => node.approve(caller(), *id).await.map(drop),
        Act::Answer(id, false) => access::deny(desk, caller(), *id, None, now).await.map(drop),
        Act::Withdraw(id) => access::withdraw(desk, caller(), *id, now).await.map(drop),
        Act::Extend(id, length) => access::extend(desk, caller(), *id, *length, now).await.map(drop),
        Act::Drop(id) => access::drop_grant(desk, caller(), *id, now).await.map(drop),
        Act::Revoke(id) => node.revoke(caller(), *id).await.map(drop),
        Act::Lock(who, set) => {
            let name = principal(PEOPLE[*who]).to_string();
            let done = if *set {
                lock_by_caller::set(desk, caller(), &name, "a test", now).await
            } else {
                lock_by_caller::clear(desk, caller(), &name, "a test", now).await
            };
            done.map(drop).map_err(|error| AccessError::Denied(error.to_string()))
        }
        Act::Sweep => node.sweep().await,
    }
}
