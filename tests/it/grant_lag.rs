//! Grants that wait to begin while the policies of one node are not those of another: one that lags ends nothing
//! that another begins, and keeps nobody from doing so; what no node may begin is over after a while.

use std::sync::Arc;

use doorward::audit::EventType;
use doorward::control::access::sweep::UNFIT_MAX;
use doorward::control::access::{self, Asked};
use doorward::control::{Caller, lock_by_caller};
use doorward::model::{Grant, GrantId, Ttl};
use sqlx::AnyPool;

use crate::access_ledger::pool;
use crate::access_world::{Node, Rules, asked, caller, groups, principal};
use crate::grant_circumstances::with;
use crate::support::{TestClock, databases};

/// How long before its start a grant of these tests is approved.
const AHEAD: Ttl = Ttl::minutes(5);

async fn node(url: &str, clock: &TestClock, number: u8) -> Node {
    let node = Node::start(url, clock, number, u64::from(number) + 170).await;
    put(&node, Rules::default());
    node
}

fn put(node: &Node, rules: Rules) {
    node.desk().policies.store(rules.set());
}

async fn scheduled(node: &Node, holder: &Caller, lead: &Caller) -> GrantId {
    let later = Asked { start: Some(node.now().plus(AHEAD)), ..asked("one", Ttl::minutes(30)) };
    let (request, _) = node.ask(holder, &later).await.unwrap();
    node.approve(lead, request.id).await.unwrap().grant.unwrap().id
}

async fn stored(node: &Node, id: GrantId) -> Grant {
    node.desk().store.grant_fetch(id).await.unwrap().unwrap()
}

async fn count(pool: &AnyPool, kind: EventType) -> i64 {
    let query = sqlx::query_scalar("select count(*) from audit_event where type = $1").bind(kind.name());
    query.fetch_one(pool).await.unwrap()
}

#[tokio::test]
async fn a_node_that_lags_leaves_what_it_may_not_begin_to_one_that_may_and_nothing_is_open_meanwhile() {
    for url in databases() {
        let clock = TestClock::new();
        let (new, old) = (node(&url, &clock, 1).await, node(&url, &clock, 2).await);
        let (dev, lead) = (caller(&new, "dev0").await, caller(&new, "lead0").await);
        let lags = [
            // The entitlement is there already, and its permits are not.
            Arc::new(with(|text| text + "forbid (principal, action == Action::\"request\", resource);\n")),
            Arc::new(with(|text| text + "forbid (principal, action == Action::\"approve\", resource);\n")),
            Rules { closed: true, ..Rules::default() }.set(),
            // Or its definition is another still.
            Rules { shorter: true, ..Rules::default() }.set(),
            Rules { stricter: true, ..Rules::default() }.set(),
            Rules { wider: true, ..Rules::default() }.set(),
        ];
        for (turn, lag) in lags.into_iter().enumerate() {
            let id = scheduled(&new, &dev, &lead).await;
            old.desk().policies.store(lag);
            clock.advance(AHEAD);
            // The first to look has no duty that would keep the other from its own.
            for _ in 0..3 {
                old.sweep().await.unwrap();
            }
            assert_eq!(stored(&new, id).await.state.name(), "scheduled", "{turn}");
            assert!(old.held("dev0").is_empty() && new.held("dev0").is_empty(), "{turn}");
            new.sweep().await.unwrap();
            assert_eq!(stored(&new, id).await.state.name(), "active", "{turn}");
            access::drop_grant(new.desk(), &dev, id, new.now()).await.unwrap();
        }
        for node in [&new, &old] {
            node.desk().store.close().await;
        }
    }
}

#[tokio::test]
async fn a53_who_may_not_have_it_by_any_node_is_let_in_by_none_and_is_told_so_after_a_while() {
    for url in databases() {
        let clock = TestClock::new();
        let (here, there) = (node(&url, &clock, 1).await, node(&url, &clock, 2).await);
        let outside = pool(&url).await;
        let (dev, lead) = (caller(&here, "dev0").await, caller(&here, "lead0").await);
        let id = scheduled(&here, &dev, &lead).await;
        // Their provider took their group away.
        here.sign_in("dev0", Vec::new()).await.unwrap();
        clock.advance(AHEAD);
        let sweep = async || {
            here.sweep().await.unwrap();
            there.sweep().await.unwrap();
            assert!(here.held("dev0").is_empty() && there.held("dev0").is_empty());
            stored(&here, id).await
        };
        let waits = sweep().await;
        assert_eq!(waits.state.name(), "scheduled");
        clock.set(waits.starts_at.plus(UNFIT_MAX).minus(Ttl::millis(1)));
        assert_eq!(sweep().await.state.name(), "scheduled");
        assert_eq!(count(&outside, EventType::GrantRevoked).await, 0);
        clock.advance(Ttl::millis(1));
        let over = sweep().await;
        assert_eq!(over.state.name(), "revoked");
        assert_eq!(over.end_reason.as_deref(), Some("the requester may not ask for `svc/one` any more"));
        assert_eq!(count(&outside, EventType::GrantRevoked).await, 1);
        // What is over stays so, whoever they are again.
        here.sign_in("dev0", groups("dev0")).await.unwrap();
        assert_eq!(sweep().await.state.name(), "revoked");
        for node in [&here, &there] {
            node.desk().store.close().await;
        }
    }
}

#[tokio::test]
async fn a53_a_grant_of_somebody_who_is_locked_when_it_begins_waits_for_nobody() {
    for url in databases() {
        let clock = TestClock::new();
        let node = node(&url, &clock, 1).await;
        let (dev, lead, owner) =
            (caller(&node, "dev0").await, caller(&node, "lead0").await, caller(&node, "owner").await);
        let id = scheduled(&node, &dev, &lead).await;
        let locked = principal("dev0").to_string();
        lock_by_caller::set(node.desk(), &owner, &locked, "gone", node.now()).await.unwrap();
        clock.advance(AHEAD);
        node.sweep().await.unwrap();
        let over = stored(&node, id).await;
        assert_eq!((over.state.name(), over.end_reason.as_deref()), ("revoked", Some("the requester is locked")));
        node.desk().store.close().await;
    }
}
