//! More of a grant that goes on: while others extend or end it at the same moment, and up to what its
//! entitlement lasts in all.

use std::fmt::Debug;

use doorward::control::Caller;
use doorward::control::access::{self, AccessError, GrantSeen};
use doorward::model::{Grant, GrantState, RequestId, Ttl};
use sqlx::AnyPool;

use crate::access_ledger::pool;
use crate::access_world::{Node, Rules, asked, caller};
use crate::support::{TestClock, databases};

/// Somebody who holds `one` for 10 minutes, and two who may approve more of it.
struct Scene {
    clock: TestClock,
    node: Node,
    pool: AnyPool,
    is_postgres: bool,
    dev: Caller,
    leads: [Caller; 2],
}

impl Scene {
    async fn with(url: &str) -> Self {
        let clock = TestClock::new();
        let node = Node::start(url, &clock, 1, 91).await;
        node.desk().policies.store(Rules::default().set());
        let dev = caller(&node, "dev0").await;
        let leads = [caller(&node, "lead0").await, caller(&node, "lead1").await];
        Self { clock, pool: pool(url).await, is_postgres: url.starts_with("postgres"), node, dev, leads }
    }

    async fn granted(&self) -> Grant {
        let (request, _) = self.node.ask(&self.dev, &asked("one", Ttl::minutes(10))).await.unwrap();
        self.node.approve(&self.leads[0], request.id).await.unwrap().grant.unwrap()
    }

    async fn extend(&self, grant: &Grant, length: Ttl) -> Result<access::Seen, AccessError> {
        access::extend(self.node.desk(), &self.dev, grant.id, length, self.node.now()).await
    }

    async fn extension(&self, grant: &Grant, length: Ttl) -> RequestId {
        self.extend(grant, length).await.unwrap().request.id
    }

    async fn stored(&self, grant: &Grant) -> Grant {
        self.node.desk().store.grant_fetch(grant.id).await.unwrap().unwrap()
    }

    /// Until so many transactions wait for others. SQLite has one writer: there they wait as they come.
    async fn waiting(&self, wanted: i64) {
        let text = "select count(*) from pg_stat_activity where datname = current_database() \
                    and wait_event_type = 'Lock'";
        for _ in 0..20_000 {
            if !self.is_postgres || sqlx::query_scalar::<_, i64>(text).fetch_one(&self.pool).await.unwrap() == wanted {
                return;
            }
            tokio::task::yield_now().await;
        }
        panic!("nobody waits for anybody");
    }
}

fn is_over<T: Debug>(outcome: &Result<T, AccessError>) -> bool {
    matches!(outcome, Err(AccessError::Closed { .. } | AccessError::NotActive { .. }))
}

#[tokio::test]
async fn a_grant_that_is_prolonged_while_somebody_ends_it_is_over() {
    for url in databases() {
        let scene = Scene::with(&url).await;
        for dropped in [false, true] {
            let (node, grant) = (&scene.node, scene.granted().await);
            let more = scene.extension(&grant, Ttl::minutes(5)).await;
            let mut before = node.desk().store.begin().await.unwrap();
            assert!(before.access_request_hold(more, node.now()).await.unwrap().is_some());
            let ends = async || -> Result<GrantSeen, AccessError> {
                scene.waiting(1).await;
                match dropped {
                    true => access::drop_grant(node.desk(), &scene.dev, grant.id, node.now()).await,
                    false => node.revoke(&scene.dev, grant.id).await,
                }
            };
            let lets_go = async {
                scene.waiting(2).await;
                before.commit().await.unwrap();
            };
            let (approved, ended, ()) = tokio::join!(node.approve(&scene.leads[0], more), ends(), lets_go);
            let how = if dropped { "dropped" } else { "revoked" };
            assert_eq!(ended.unwrap().state, how);
            assert!(approved.is_ok() || is_over(&approved), "{approved:?}");
            let after = scene.stored(&grant).await;
            assert_eq!(after.state.name(), how);
            assert!(node.held("dev0").is_empty(), "{how}");
        }
    }
}

#[tokio::test]
async fn extensions_that_are_approved_at_the_same_moment_all_count() {
    for url in databases() {
        let scene = Scene::with(&url).await;
        let (node, grant) = (&scene.node, scene.granted().await);
        let more = [scene.extension(&grant, Ttl::minutes(5)).await, scene.extension(&grant, Ttl::minutes(7)).await];
        let mut before = node.desk().store.begin().await.unwrap();
        before.grant_hold(grant.id).await.unwrap().unwrap();
        let lets_go = async {
            scene.waiting(2).await;
            before.commit().await.unwrap();
        };
        let approves = |at: usize| node.approve(&scene.leads[at], more[at]);
        let (one, two, ()) = tokio::join!(approves(0), approves(1), lets_go);
        assert_eq!((one.unwrap().request.state.name(), two.unwrap().request.state.name()), ("approved", "approved"));
        let end = grant.state.expires_at().unwrap().plus(Ttl::minutes(12));
        assert_eq!(scene.stored(&grant).await.state.expires_at(), Some(end));
    }
}

#[tokio::test]
async fn a56_whoever_waits_for_a_grant_until_it_has_run_out_prolongs_nothing() {
    for url in databases() {
        let scene = Scene::with(&url).await;
        let (node, grant) = (&scene.node, scene.granted().await);
        let end = grant.state.expires_at().unwrap();
        scene.clock.set(end.minus(Ttl::millis(1)));
        let more = scene.extension(&grant, Ttl::minutes(5)).await;
        let mut before = node.desk().store.begin().await.unwrap();
        before.grant_hold(grant.id).await.unwrap().unwrap();
        let lets_go = async {
            scene.waiting(1).await;
            scene.clock.set(end);
            before.commit().await.unwrap();
        };
        let (approved, ()) = tokio::join!(node.approve(&scene.leads[0], more), lets_go);
        assert!(is_over(&approved), "{approved:?}");
        let after = scene.stored(&grant).await;
        assert_eq!((after.state.expires_at(), after.state.at(end).name()), (Some(end), "expired"));
    }
}

#[tokio::test]
async fn more_than_an_entitlement_lasts_in_all_is_refused_to_who_asks_and_not_left_to_who_approves() {
    for url in databases() {
        let scene = Scene::with(&url).await;
        let (node, grant) = (&scene.node, scene.granted().await);
        // It lasts two hours in all, and an hour at a time.
        let first = scene.extension(&grant, Ttl::hours(1)).await;
        let second = scene.extension(&grant, Ttl::minutes(50)).await;
        node.approve(&scene.leads[0], first).await.unwrap();
        let refused = scene.extend(&grant, Ttl::minutes(51)).await;
        assert!(
            matches!(&refused, Err(AccessError::Invalid(text)) if text.contains("may last 2h in all") && text.contains("ask for less")),
            "{refused:?}"
        );
        // What fitted when it was asked for and does not by now is for the holder to ask anew.
        let third = scene.extension(&grant, Ttl::minutes(50)).await;
        node.approve(&scene.leads[0], second).await.unwrap();
        let late = node.approve(&scene.leads[0], third).await;
        assert!(matches!(&late, Err(AccessError::Ineligible(text)) if text.contains("deny it")), "{late:?}");
        let whole = scene.stored(&grant).await.state;
        assert!(matches!(whole, GrantState::Active { from, until } if until.since(from) == Ttl::hours(2)), "{whole:?}");
    }
}

#[tokio::test]
async fn what_somebody_held_before_is_told_as_it_was_when_they_asked() {
    for url in databases() {
        let scene = Scene::with(&url).await;
        let (node, grant) = (&scene.node, scene.granted().await);
        let told = async |id: RequestId| {
            let seen = access::request_fetch(node.desk(), &scene.dev, id, node.now()).await.unwrap();
            (seen.first_time, seen.held_lately)
        };
        assert_eq!(told(grant.request).await, (true, 0), "its own grant is not among them");
        let more = scene.extension(&grant, Ttl::minutes(5)).await;
        assert_eq!(told(more).await, (false, 1));
        // The grant of an extension is the one that is extended: it was held when more was asked for.
        node.approve(&scene.leads[0], more).await.unwrap();
        assert_eq!(told(more).await, (false, 1));
        scene.clock.advance(Ttl::minutes(20));
        let second = scene.granted().await;
        assert_eq!(told(second.request).await, (false, 1));
        // Nor does it change by what came later.
        assert_eq!(told(grant.request).await, (true, 0));
    }
}
