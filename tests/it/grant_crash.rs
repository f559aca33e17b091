//! A57: an operation that is cut off at any of its steps, because its caller went away or its node
//! died, was done whole with its events, or not at all; and what was answered is there afterwards.

use doorward::control::Caller;
use doorward::control::access::{self, AccessError};
use doorward::model::{GrantId, GrantState, RequestId, RequestState, SessionId, Ttl};
use doorward::store::AccessRequestFilter;
use sqlx::{AnyPool, AssertSqlSafe};

use crate::access_ledger::{Ledger, pool};
use crate::access_world::{Node, asked, cut, groups};
use crate::support::{TestClock, databases, sqlite_database};

/// What is cut off.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum What {
    Ask,
    AskAtOnce,
    Approve,
    Deny,
    Withdraw,
    Begin,
    Expire,
    TimeOut,
    Extend,
    Drop,
    Revoke,
}

const ALL: [What; 11] = [
    What::Ask,
    What::AskAtOnce,
    What::Approve,
    What::Deny,
    What::Withdraw,
    What::Begin,
    What::Expire,
    What::TimeOut,
    What::Extend,
    What::Drop,
    What::Revoke,
];

struct Scene {
    url: String,
    clock: TestClock,
    node: Node,
    pool: AnyPool,
    dev: SessionId,
    lead: SessionId,
    seed: u64,
}

async fn begin(url: &str) -> Scene {
    let clock = TestClock::new();
    let node = Node::start(url, &clock, 1, 1).await;
    node.desk().policies.store(crate::access_world::Rules::default().set());
    let dev = node.sign_in("dev0", groups("dev0")).await.unwrap();
    let lead = node.sign_in("lead0", groups("lead0")).await.unwrap();
    Scene { url: url.to_owned(), node, pool: pool(url).await, dev, lead, seed: 1, clock }
}

impl Scene {
    async fn callers(&self) -> (Caller, Caller) {
        (self.node.caller(self.dev).await.unwrap(), self.node.caller(self.lead).await.unwrap())
    }

    async fn read(&self) -> Ledger {
        Ledger::read(&self.node.desk().store, &self.pool).await
    }

    /// What has to be there before: a request, and its grant where one is wanted.
    async fn prepare(&self, what: What) -> (Option<RequestId>, Option<GrantId>) {
        let (dev, lead) = self.callers().await;
        let mut it = asked("one", Ttl::minutes(10));
        // Whatever was left over is out of the way.
        self.clock.advance(Ttl::minutes(30));
        self.node.sweep().await.unwrap();
        let filter = AccessRequestFilter { state: Some(RequestState::Pending), ..AccessRequestFilter::default() };
        for old in self.node.desk().store.access_request_list(&filter, 100).await.unwrap() {
            access::withdraw(self.node.desk(), &dev, old.id, self.node.now()).await.unwrap();
        }
        match what {
            What::Ask | What::AskAtOnce => return (None, None),
            What::Begin => it.start = Some(self.node.now().plus(Ttl::minutes(5))),
            _ => {}
        }
        let (request, _) = self.node.ask(&dev, &it).await.unwrap();
        if matches!(what, What::Approve | What::Deny | What::Withdraw | What::TimeOut) {
            if what == What::TimeOut {
                self.clock.advance(Ttl::hours(25));
            }
            return (Some(request.id), None);
        }
        let grant = self.node.approve(&lead, request.id).await.unwrap().grant.unwrap();
        match what {
            What::Begin => self.clock.advance(Ttl::minutes(5)),
            What::Expire => self.clock.advance(Ttl::minutes(10)),
            _ => {}
        }
        (Some(request.id), Some(grant.id))
    }

    async fn perform(&self, what: What, on: (Option<RequestId>, Option<GrantId>)) -> Result<(), AccessError> {
        let (dev, lead) = self.callers().await;
        let (node, now) = (&self.node, self.node.now());
        let request = || on.0.unwrap();
        let grant = || on.1.unwrap();
        match what {
            What::Ask => node.ask(&dev, &asked("one", Ttl::minutes(10))).await.map(drop),
            What::AskAtOnce => node.ask(&dev, &asked("auto", Ttl::minutes(10))).await.map(drop),
            What::Approve => node.approve(&lead, request()).await.map(drop),
            What::Deny => access::deny(node.desk(), &lead, request(), None, now).await.map(drop),
            What::Withdraw => access::withdraw(node.desk(), &dev, request(), now).await.map(drop),
            What::Begin | What::Expire | What::TimeOut => node.sweep().await,
            What::Extend => access::extend(node.desk(), &dev, grant(), Ttl::minutes(5), now).await.map(drop),
            What::Drop => access::drop_grant(node.desk(), &dev, grant(), now).await.map(drop),
            What::Revoke => node.revoke(&dev, grant()).await.map(drop),
        }
    }

    /// Waits until the database has done, or undone, what was cut off.
    async fn settle(&self) {
        if self.url.starts_with("sqlite") {
            return self.pool.begin_with("begin immediate").await.unwrap().commit().await.unwrap();
        }
        let busy = "select count(*) from pg_stat_activity where datname = current_database() \
                    and pid <> pg_backend_pid() and state <> 'idle'";
        for _ in 0..2000 {
            let count: i64 = sqlx::query_scalar(busy).fetch_one(&self.pool).await.unwrap();
            if count == 0 {
                return;
            }
            tokio::task::yield_now().await;
        }
        panic!("a transaction is left open");
    }

    /// Whether the operation shows in the books.
    fn is_done(what: What, on: (Option<RequestId>, Option<GrantId>), before: &Ledger, after: &Ledger) -> bool {
        let request = |state: RequestState| after.requests[&on.0.unwrap()].state == state;
        let grant = || after.grants[&on.1.unwrap()].state;
        match what {
            What::Ask | What::Extend => after.requests.len() > before.requests.len(),
            What::AskAtOnce => after.grants.len() > before.grants.len(),
            What::Approve => request(RequestState::Approved),
            What::Deny => request(RequestState::Denied),
            What::Withdraw => request(RequestState::Withdrawn),
            What::TimeOut => request(RequestState::TimedOut),
            What::Begin => matches!(grant(), GrantState::Active { .. }),
            What::Expire | What::Drop | What::Revoke => matches!(grant(), GrantState::Over { .. }),
        }
    }
}

/// Cuts the operation off after each number of polls, until it comes to its end. Gives how often it
/// was cut before and after it took effect.
async fn at_each_step(scene: &mut Scene, what: What, dies: bool) -> (usize, usize) {
    let (mut nothing, mut whole) = (0, 0);
    for polls in 0..400 {
        let on = scene.prepare(what).await;
        let before = scene.read().await;
        let came = cut(polls, scene.perform(what, on)).await;
        scene.settle().await;
        let after = scene.read().await;
        let told = before.became(&after, scene.node.now());
        before.assert_told(&after, &told);
        let done = Scene::is_done(what, on, &before, &after);
        assert_eq!(done, !told.is_empty(), "{what:?} after {polls} polls did a part: {told:?}");
        if done {
            whole += 1
        } else {
            nothing += 1
        }
        if dies {
            scene.seed += 1;
            let fresh = Node::start(&scene.url, &scene.clock, 1, scene.seed).await;
            // What the dead one had open is there until the new one runs.
            std::mem::replace(&mut scene.node, fresh).desk().store.close().await;
            scene.node.desk().policies.store(crate::access_world::Rules::default().set());
        } else {
            scene.node.follow().await;
        }
        // The node obeys the books, whatever it was cut off in.
        let held: Vec<GrantId> = scene.node.held("dev0").into_iter().map(|(id, _, _)| id).collect();
        let mut theirs: Vec<GrantId> = after.active(scene.node.now()).map(|grant| grant.id).collect();
        let mut known = held.clone();
        known.sort_unstable();
        theirs.sort_unstable();
        assert_eq!(known, theirs, "{what:?} after {polls} polls");
        if let Some(outcome) = came {
            outcome.unwrap();
            assert!(done, "{what:?} was answered and is not there");
            return (nothing, whole);
        }
        if !done {
            // Who repeats it, gets it.
            scene.perform(what, on).await.unwrap();
        }
    }
    panic!("{what:?} never comes to its end");
}

async fn all(dies: bool) {
    for url in databases() {
        let mut scene = begin(&url).await;
        // Each start of a node on PostgreSQL takes its time: there those that change most.
        let few = [What::AskAtOnce, What::Approve, What::Begin, What::Revoke];
        let these: &[What] = if dies && url.starts_with("postgres") { &few } else { &ALL };
        for what in these.iter().copied() {
            let (nothing, whole) = at_each_step(&mut scene, what, dies).await;
            println!(
                "{what:?}: cut off at {} steps; {nothing} times nothing of it was there, {whole} times all",
                nothing + whole
            );
            assert!(nothing > 0 && whole > 0, "{what:?} has steps");
        }
        let told = scene.read().await.events;
        println!("{told:?}");
    }
}

#[tokio::test]
async fn a57_an_operation_whose_caller_goes_away_at_any_step_is_done_whole_or_not_at_all() {
    all(false).await;
}

#[tokio::test]
async fn a57_an_operation_whose_node_dies_at_any_step_is_done_whole_or_not_at_all() {
    all(true).await;
}

/// What a statement of an operation may write.
const WRITES: [(&str, &str); 9] = [
    ("access_request", "insert"),
    ("access_request", "update"),
    ("access_approval", "insert"),
    ("access_grant", "insert"),
    ("access_grant", "update"),
    ("audit_event", "insert"),
    ("revocation", "insert"),
    ("counter", "update"),
    ("entitlement_counter", "update"),
];

#[tokio::test]
async fn a57_an_operation_that_fails_at_any_of_its_writes_did_nothing_and_can_be_repeated() {
    let scene = begin(&sqlite_database()).await;
    for what in ALL {
        let mut failed = Vec::new();
        for (table, write) in WRITES {
            let on = scene.prepare(what).await;
            let before = scene.read().await;
            let trigger = format!(
                "create trigger broken before {write} on {table} begin select raise(abort, 'the disk is broken'); end"
            );
            sqlx::query(AssertSqlSafe(trigger)).execute(&scene.pool).await.unwrap();
            let came = scene.perform(what, on).await;
            sqlx::query("drop trigger broken").execute(&scene.pool).await.unwrap();
            let after = scene.read().await;
            if Scene::is_done(what, on, &before, &after) {
                came.unwrap();
                continue;
            }
            let by_itself = matches!(what, What::Begin | What::Expire | What::TimeOut);
            assert!(matches!(came, Err(AccessError::Store(_))) || by_itself, "{what:?}, {table}: {came:?}");
            assert_eq!(before, after, "{what:?} failed at {table} and did a part");
            failed.push(table);
            scene.perform(what, on).await.unwrap();
            let repeated = scene.read().await;
            assert!(Scene::is_done(what, on, &before, &repeated), "{what:?} after a failure at {table}");
            let told = after.became(&repeated, scene.node.now());
            after.assert_told(&repeated, &told);
            let held = scene.node.held("dev0").len();
            assert_eq!(held, repeated.active(scene.node.now()).count(), "{what:?} after a failure at {table}");
        }
        println!("{what:?} fails as a whole at {}", failed.join(", "));
        assert!(failed.len() > 1 && failed.contains(&"audit_event"), "{what:?}: {failed:?}");
    }
}
