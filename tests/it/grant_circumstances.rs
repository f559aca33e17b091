//! What must not decide who gets an entitlement, and what must: nodes that have not heard of each
//! other, people who are away, circumstances that pass, crowds that wait.

use std::path::Path;
use std::sync::Arc;

use doorward::control::access::sweep::UNFIT_MAX;
use doorward::control::access::{self, AccessError, Asked, Whose};
use doorward::control::lock_by_caller;
use doorward::control::session::{self, NewSession};
use doorward::identity::directory::Directory;
use doorward::model::{
    AccessRequest, Clock, Device, Grant, GrantId, GrantState, RequestId, RequestState, SessionId, SessionKind,
    Thumbprint, Ttl,
};
use doorward::policy::{PolicySet, load};

use crate::access_ledger::{Ledger, pool};
use crate::access_world::{Node, Rules, asked, caller, entitlement, groups, principal};
use crate::api_house::facts;
use crate::policy::{settings, shown};
use crate::support::{TestClock, databases, sqlite_database, temporary_folder};

async fn node(url: &str, clock: &TestClock, number: u8) -> Node {
    let node = Node::start(url, clock, number, u64::from(number) + 70).await;
    node.desk().policies.store(Rules::default().set());
    node
}

fn put(node: &Node, rules: Rules) {
    node.desk().policies.store(rules.set());
}

#[tokio::test]
async fn a52_an_entitlement_that_needs_more_approvals_by_now_gets_them() {
    for url in databases() {
        let node = node(&url, &TestClock::new(), 1).await;
        let (dev, lead, other) =
            (caller(&node, "dev0").await, caller(&node, "lead0").await, caller(&node, "lead1").await);
        let (request, _) = node.ask(&dev, &asked("one", Ttl::minutes(10))).await.unwrap();
        put(&node, Rules { stricter: true, ..Rules::default() });
        let first = node.approve(&lead, request.id).await.unwrap();
        assert_eq!((first.request.state, first.request.approvals_needed), (RequestState::Pending, 2));
        assert_eq!(node.approve(&other, request.id).await.unwrap().state, "active");
    }
}

#[tokio::test]
async fn a52_what_is_longer_than_its_entitlement_lasts_by_now_is_neither_granted_nor_begun() {
    for url in databases() {
        let clock = TestClock::new();
        let node = node(&url, &clock, 1).await;
        let (dev, lead) = (caller(&node, "dev0").await, caller(&node, "lead0").await);
        let (request, _) = node.ask(&dev, &asked("one", Ttl::hours(1))).await.unwrap();
        let mut later = asked("one", Ttl::hours(1));
        later.start = Some(node.now().plus(Ttl::minutes(5)));
        let (scheduled, _) = node.ask(&dev, &later).await.unwrap();
        let scheduled = node.approve(&lead, scheduled.id).await.unwrap().grant.unwrap();
        let shorter = Rules { shorter: true, ..Rules::default() };
        put(&node, shorter);
        assert!(matches!(node.approve(&lead, request.id).await, Err(AccessError::Ineligible(_))));
        clock.advance(Ttl::minutes(6));
        is_never_begun(&node, &clock, scheduled.id).await;
        assert!(node.held("dev0").is_empty());
        // Nor by fewer approvals than it needs by now.
        put(&node, Rules::default());
        later.start = Some(node.now().plus(Ttl::minutes(5)));
        let (scheduled, _) = node.ask(&dev, &later).await.unwrap();
        let scheduled = node.approve(&lead, scheduled.id).await.unwrap().grant.unwrap();
        put(&node, Rules { stricter: true, ..Rules::default() });
        clock.advance(Ttl::minutes(6));
        is_never_begun(&node, &clock, scheduled.id).await;
    }
}

/// A grant whose start has come does not begin by this node's policies: it is left to nodes that have others, and
/// ended where none had.
async fn is_never_begun(node: &Node, clock: &TestClock, id: GrantId) {
    let state = async || {
        node.sweep().await.unwrap();
        node.desk().store.grant_fetch(id).await.unwrap().unwrap().state.name()
    };
    assert_eq!(state().await, "scheduled");
    clock.advance(UNFIT_MAX);
    assert_eq!(state().await, "revoked");
}

#[tokio::test]
async fn a53_a_lock_of_another_node_counts_before_this_node_has_heard_of_it() {
    for url in databases() {
        let clock = TestClock::new();
        let (here, there) = (node(&url, &clock, 1).await, node(&url, &clock, 2).await);
        let (dev, lead, owner) =
            (caller(&here, "dev0").await, caller(&here, "lead0").await, caller(&here, "owner").await);
        let (request, _) = here.ask(&dev, &asked("one", Ttl::minutes(10))).await.unwrap();
        let (double, _) = here.ask(&owner, &asked("two", Ttl::minutes(10))).await.unwrap();
        here.approve(&lead, double.id).await.unwrap();
        for name in ["dev0", "lead0"] {
            let name = principal(name).to_string();
            lock_by_caller::set(there.desk(), &owner, &name, "gone", here.now()).await.unwrap();
        }
        let other = caller(&here, "lead1").await;
        assert!(matches!(here.approve(&other, request.id).await, Err(AccessError::Ineligible(_))));
        // An approval of somebody who is locked by now does not count.
        assert_eq!(here.approve(&other, double.id).await.unwrap().request.state, RequestState::Pending);
    }
}

#[tokio::test]
async fn a53_what_approved_a_scheduled_grant_has_to_stand_when_it_begins() {
    for url in databases() {
        let clock = TestClock::new();
        let node = node(&url, &clock, 1).await;
        let dev = caller(&node, "dev0").await;
        let (lead, other, owner) =
            (caller(&node, "lead0").await, caller(&node, "lead1").await, caller(&node, "owner").await);
        // Each grant with what happens before it begins, and how it ends or goes on.
        for (what, happens, state) in [
            ("two", "nothing", "active"),
            ("two", "an approver signs out", "active"),
            ("auto", "nothing", "active"),
            ("auto", "the hour of going through by itself ends", "active"),
            ("auto", "policy asks people", "revoked"),
            ("one", "approvers lose their right", "revoked"),
            ("two", "an approver is locked", "revoked"),
        ] {
            put(&node, Rules::default());
            let mut later = asked(what, Ttl::minutes(2));
            later.start = Some(node.now().plus(Ttl::minutes(5)));
            let (request, grant) = node.ask(&dev, &later).await.unwrap();
            let third = caller(&node, "lead2").await;
            let answering = match what {
                "two" => vec![&lead, if happens == "an approver signs out" { &third } else { &other }],
                "one" => vec![&lead],
                _ => Vec::new(),
            };
            let mut id = grant.map(|grant| grant.id);
            for approver in answering {
                id = node.approve(approver, request.id).await.unwrap().grant.map(|grant| grant.id);
            }
            match happens {
                "an approver signs out" => node.sign_out(third.session().id).await,
                "policy asks people" => {
                    let set = with(|text| text + "forbid (principal, action == Action::\"auto_approve\", resource);\n");
                    node.desk().policies.store(Arc::new(set));
                }
                "the hour of going through by itself ends" => {
                    let until = node.now().plus(Ttl::minutes(1)).seconds();
                    let rule = "forbid (principal, action == Action::\"auto_approve\", resource) ";
                    let set = with(|text| format!("{text}{rule}when {{ context.time.unix > {until} }};\n"));
                    node.desk().policies.store(Arc::new(set));
                }
                "approvers lose their right" => put(&node, Rules { few: true, ..Rules::default() }),
                "an approver is locked" => {
                    let name = principal("lead1").to_string();
                    lock_by_caller::set(node.desk(), &owner, &name, "gone", node.now()).await.unwrap();
                }
                _ => {}
            }
            clock.advance(Ttl::minutes(6));
            if state == "revoked" {
                is_never_begun(&node, &clock, id.unwrap()).await;
            }
            node.sweep().await.unwrap();
            let grant = node.desk().store.grant_fetch(id.unwrap()).await.unwrap().unwrap();
            assert_eq!(grant.state.name(), state, "{what}: {happens}: {:?}", grant.end_reason);
            assert_eq!(node.held("dev0").len(), usize::from(state == "active"), "{what}: {happens}");
            clock.advance(Ttl::minutes(3));
        }
    }
}

#[tokio::test]
async fn where_approvers_have_to_be_somewhere_a_scheduled_grant_begins_though_nobody_knows_where_they_are() {
    let clock = TestClock::new();
    let node = node(&sqlite_database(), &clock, 1).await;
    let set = with(|text| {
        text + "forbid (principal, action == Action::\"approve\", resource) \
                unless { context.address.isInRange(ip(\"192.0.2.0/24\")) };\n"
    });
    node.desk().policies.store(Arc::new(set));
    let dev = caller(&node, "dev0").await;
    let id = node.sign_in("lead0", groups("lead0")).await.unwrap();
    let lead = node.caller_from(id, "192.0.2.7".parse().unwrap()).await.unwrap();
    let mut later = asked("one", Ttl::minutes(10));
    later.start = Some(node.now().plus(Ttl::minutes(5)));
    let (request, _) = node.ask(&dev, &later).await.unwrap();
    assert_eq!(node.approve(&lead, request.id).await.unwrap().state, "scheduled");
    clock.advance(Ttl::minutes(6));
    node.sweep().await.unwrap();
    assert_eq!(node.held("dev0").len(), 1);
}

#[tokio::test]
async fn what_is_forbidden_unless_an_entitlement_is_held_is_opened_by_it() {
    let node = node(&sqlite_database(), &TestClock::new(), 1).await;
    let set = with(|text| {
        text + "forbid (principal, action == Action::\"read\", resource) \
                unless { principal in Entitlement::\"svc/auto\" };\n\
                forbid (principal in Group::\"guests\", action, resource == Entitlement::\"svc/one\");\n"
    });
    let opened = |name: &str| {
        let opened = set.service(entitlement(name).service()).unwrap().opened_by(&entitlement(name));
        opened.iter().map(ToString::to_string).collect::<Vec<_>>()
    };
    assert_eq!(opened("auto"), ["read", "write"]);
    assert_eq!(opened("one"), ["write"], "who may not have it is no use of it");
    node.desk().policies.store(Arc::new(set));
    let dev = caller(&node, "dev0").await;
    let (_, grant) = node.ask(&dev, &asked("auto", Ttl::minutes(5))).await.unwrap();
    assert!(grant.unwrap().actions.iter().any(|action| action.to_string() == "read"));
}

#[tokio::test]
async fn a_list_goes_on_from_what_its_reader_may_see_whatever_is_between() {
    const OTHERS: usize = 1100;
    for url in databases() {
        let clock = TestClock::new();
        let node = node(&url, &clock, 1).await;
        let (dev, other) = (caller(&node, "dev0").await, caller(&node, "dev1").await);
        let (first, first_grant) = node.ask(&dev, &asked("auto", Ttl::minutes(5))).await.unwrap();
        clock.advance(Ttl::millis(1));
        let (between, grant) = node.ask(&other, &asked("auto", Ttl::minutes(5))).await.unwrap();
        let (desk, mut tx) = (node.desk(), node.desk().store.begin().await.unwrap());
        for _ in 0..OTHERS {
            let id = RequestId::fresh(node.now(), &*desk.entropy);
            tx.access_request_insert(&AccessRequest { id, grant: None, ..between.clone() }).await.unwrap();
            let id = GrantId::fresh(node.now(), &*desk.entropy);
            tx.grant_insert(&Grant { id, request: between.id, ..grant.clone().unwrap() }).await.unwrap();
        }
        tx.commit().await.unwrap();
        clock.advance(Ttl::millis(1));
        let (last, last_grant) = node.ask(&dev, &asked("auto", Ttl::minutes(5))).await.unwrap();
        let requests = async |before| {
            let (found, next) =
                access::request_list(desk, &dev, Whose::All, None, before, 50, node.now()).await.unwrap();
            (found.iter().map(|seen| seen.request.id).collect::<Vec<_>>(), next)
        };
        assert_eq!(requests(None).await, (vec![last.id], Some(last.id)));
        assert_eq!(requests(Some(last.id)).await, (vec![first.id], Some(first.id)));
        assert_eq!(requests(Some(first.id)).await, (Vec::new(), None));
        let grants = async |before| {
            let (found, next) = access::grant_list(desk, &dev, Whose::All, before, 50, node.now()).await.unwrap();
            (found.iter().map(|seen| seen.grant.id).collect::<Vec<_>>(), next)
        };
        let (first, last) = (first_grant.unwrap().id, last_grant.unwrap().id);
        assert_eq!(grants(None).await, (vec![last], Some(last)));
        assert_eq!(grants(Some(last)).await, (vec![first], Some(first)));
        assert_eq!(grants(Some(first)).await, (Vec::new(), None));
    }
}

/// The policies of the small company with more rules in `access.cedar`.
pub fn with(change: impl Fn(String) -> String) -> PolicySet {
    let folder = temporary_folder();
    let set = Rules::default();
    set.write(folder.path());
    let file = folder.path().join("svc/access.cedar");
    let text = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, change(text)).unwrap();
    load(Path::new(folder.path()), &settings()).unwrap_or_else(|found| panic!("{}", shown(&found)))
}

/// A session of twelve hours on a device.
async fn from_device(node: &Node, name: &str) -> SessionId {
    let new = NewSession {
        groups: groups(name),
        device: Some(Device { id: "laptop".to_owned(), certificate: Thumbprint::of(b"laptop") }),
        ends_by: Some(node.now().plus(Ttl::hours(12))),
        ..crate::support::new_session(SessionKind::Cli, principal(name), node.now())
    };
    session::start(node.desk(), new, None, &facts(None), node.now()).await.unwrap().stored.session.id
}

#[tokio::test]
async fn what_wants_a_trusted_device_can_be_asked_for_and_approved_from_one() {
    let node = node(&sqlite_database(), &TestClock::new(), 1).await;
    let set = with(|text| {
        text + "forbid (principal, action in [Action::\"request\", Action::\"approve\"], resource) \
                unless { context has device && context.device.trusted };\n"
    });
    node.desk().policies.store(Arc::new(set));
    let mut callers = Vec::new();
    for name in ["dev0", "lead0", "lead1"] {
        let id = from_device(&node, name).await;
        callers.push(node.caller(id).await.unwrap());
    }
    let without = caller(&node, "dev1").await;
    assert!(matches!(node.ask(&without, &asked("two", Ttl::minutes(5))).await, Err(AccessError::Denied(_))));
    let (request, _) = node.ask(&callers[0], &asked("two", Ttl::minutes(5))).await.unwrap();
    assert_eq!(node.approve(&callers[1], request.id).await.unwrap().state, "pending");
    // Signing in elsewhere too takes nothing from it.
    caller(&node, "dev0").await;
    caller(&node, "lead0").await;
    assert_eq!(node.approve(&callers[2], request.id).await.unwrap().state, "active");
}

#[tokio::test]
async fn an_approval_that_wanted_a_fresh_sign_in_is_not_lost_when_that_is_no_longer_fresh() {
    let clock = TestClock::new();
    let node = node(&sqlite_database(), &clock, 1).await;
    let set = with(|text| {
        text + "forbid (principal, action == Action::\"approve\", resource) \
                unless { context has session && context.session.auth_age_seconds < 600 };\n"
    });
    node.desk().policies.store(Arc::new(set));
    let dev = caller(&node, "dev0").await;
    let (request, _) = node.ask(&dev, &asked("two", Ttl::minutes(5))).await.unwrap();
    let lead = caller(&node, "lead0").await;
    assert_eq!(node.approve(&lead, request.id).await.unwrap().state, "pending");
    clock.advance(Ttl::hours(1));
    assert!(node.approve(&lead, request.id).await.is_err(), "the sign-in is an hour old");
    let other = caller(&node, "lead1").await;
    assert_eq!(node.approve(&other, request.id).await.unwrap().state, "active");
}

#[tokio::test]
async fn a53_an_approver_who_lost_the_right_does_not_count_whatever_else_policy_asks_of_approvers() {
    for condition in [
        "context has session && context.session.auth_age_seconds < 600",
        "context.address.isInRange(ip(\"192.0.2.0/24\"))",
    ] {
        let clock = TestClock::new();
        let node = node(&sqlite_database(), &clock, 1).await;
        let rule = format!("forbid (principal, action == Action::\"approve\", resource) unless {{ {condition} }};\n");
        node.desk().policies.store(Arc::new(with(|text| text + &rule)));
        let dev = caller(&node, "dev0").await;
        let (request, _) = node.ask(&dev, &asked("two", Ttl::minutes(5))).await.unwrap();
        let from = async |name: &str| {
            let id = node.sign_in(name, groups(name)).await.unwrap();
            node.caller_from(id, "192.0.2.7".parse().unwrap()).await.unwrap()
        };
        assert_eq!(node.approve(&from("lead0").await, request.id).await.unwrap().state, "pending");
        // Their provider took their group away.
        node.sign_in("lead0", Vec::new()).await.unwrap();
        let one = node.approve(&from("lead1").await, request.id).await.unwrap();
        assert_eq!(one.state, "pending", "{condition}");
        assert_eq!(node.approve(&from("lead2").await, request.id).await.unwrap().state, "active", "{condition}");
    }
}

#[tokio::test]
async fn where_the_requester_is_decides_nothing_of_who_approves_from_where() {
    for url in databases() {
        let node = node(&url, &TestClock::new(), 1).await;
        let set = with(|text| {
            text + "forbid (principal, action == Action::\"approve\", resource) \
                    unless { context.address.isInRange(ip(\"192.0.2.0/24\")) };\n"
        });
        node.desk().policies.store(Arc::new(set));
        let from = async |name: &str, address: &str| {
            let id = node.sign_in(name, groups(name)).await.unwrap();
            node.caller_from(id, address.parse().unwrap()).await.unwrap()
        };
        // The requester is at home, the leads are in the office.
        let dev = from("dev0", "198.51.100.9").await;
        let (request, _) = node.ask(&dev, &asked("two", Ttl::minutes(5))).await.unwrap();
        let outside = from("lead2", "198.51.100.9").await;
        assert!(node.approve(&outside, request.id).await.is_err(), "not from home");
        let first = from("lead0", "192.0.2.7").await;
        assert_eq!(node.approve(&first, request.id).await.unwrap().state, "pending");
        let second = from("lead1", "192.0.2.8").await;
        assert_eq!(node.approve(&second, request.id).await.unwrap().state, "active", "both approvals count");
    }
}

#[tokio::test]
async fn those_who_wait_for_a_place_keep_nobody_else_waiting() {
    let clock = TestClock::new();
    let node = node(&sqlite_database(), &clock, 1).await;
    let (dev, lead) = (caller(&node, "dev0").await, caller(&node, "lead0").await);
    for _ in 0..150 {
        let (request, _) = node.ask(&dev, &asked("queue", Ttl::hours(1))).await.unwrap();
        node.approve(&lead, request.id).await.unwrap();
        clock.advance(Ttl::millis(1));
    }
    let (_, grant) = node.ask(&dev, &asked("auto", Ttl::minutes(1))).await.unwrap();
    let mut later = asked("one", Ttl::minutes(10));
    later.start = Some(node.now().plus(Ttl::minutes(1)));
    let (request, _) = node.ask(&dev, &later).await.unwrap();
    let begins = node.approve(&lead, request.id).await.unwrap().grant.unwrap();
    clock.advance(Ttl::minutes(2));
    node.sweep().await.unwrap();
    let store = &node.desk().store;
    assert_eq!(store.grant_fetch(grant.unwrap().id).await.unwrap().unwrap().state.name(), "expired");
    assert_eq!(store.grant_fetch(begins.id).await.unwrap().unwrap().state.name(), "active");
    // One after the other, the first first.
    let waiting = |ledger: &Ledger| {
        let waits = |grant: &&doorward::model::Grant| grant.state == GrantState::Queued;
        ledger.grants.values().filter(waits).map(|grant| grant.id).collect::<Vec<_>>()
    };
    let pool = pool(store_url(&node)).await;
    let before = Ledger::read(store, &pool).await;
    clock.advance(Ttl::hours(1));
    node.sweep().await.unwrap();
    let after = Ledger::read(store, &pool).await;
    assert_eq!(waiting(&before)[1..], waiting(&after));
}

fn store_url(node: &Node) -> &str {
    node.desk().store.place().split('?').next().unwrap()
}

#[tokio::test]
async fn a_scheduled_grant_waits_for_a_holder_of_whom_nothing_is_known_any_more() {
    for url in databases() {
        let clock = TestClock::new();
        let node = node(&url, &clock, 1).await;
        let dev = node.caller(from_device(&node, "dev0").await).await.unwrap();
        let lead = caller(&node, "lead0").await;
        let mut grants = Vec::new();
        for days in [3, 6] {
            let mut later = asked("one", Ttl::hours(1));
            later.start = Some(node.now().plus(Ttl::hours(24 * days)));
            let (request, _) = node.ask(&dev, &later).await.unwrap();
            grants.push(node.approve(&lead, request.id).await.unwrap().grant.unwrap().id);
        }
        clock.advance(Ttl::hours(72));
        session::sweep(node.desk(), node.now()).await.unwrap();
        assert!(node.desk().store.session_fetch(dev.session().id).await.unwrap().is_none());
        let state = async |at: usize| node.desk().store.grant_fetch(grants[at]).await.unwrap().unwrap().state.name();
        node.sweep().await.unwrap();
        assert_eq!(state(0).await, "scheduled", "nobody knows whether they may have it");
        clock.advance(Ttl::hours(2));
        caller(&node, "dev0").await;
        node.sweep().await.unwrap();
        assert_eq!(state(0).await, "active");
        // Not for ever, and not for somebody who may not ask any more.
        node.sign_in("dev0", Vec::new()).await.unwrap();
        clock.advance(Ttl::hours(70));
        is_never_begun(&node, &clock, grants[1]).await;
    }
}

#[tokio::test]
async fn twelve_second_approvals_at_once_all_count() {
    for url in databases() {
        let clock = TestClock::new();
        let node = node(&url, &clock, 1).await;
        let dev = caller(&node, "dev0").await;
        let (lead, other) = (caller(&node, "lead0").await, caller(&node, "lead1").await);
        let mut requests = Vec::new();
        for _ in 0..12 {
            let (request, _) = node.ask(&dev, &asked("two", Ttl::minutes(10))).await.unwrap();
            node.approve(&lead, request.id).await.unwrap();
            requests.push(request.id);
        }
        let approvals = requests.iter().map(|id| node.approve(&other, *id));
        for approved in futures_util::future::join_all(approvals).await {
            assert_eq!(approved.unwrap().state, "active");
        }
    }
}

#[tokio::test]
async fn two_approvals_on_two_nodes_that_race_for_the_last_place_make_one_grant() {
    for url in databases() {
        let clock = TestClock::new();
        let (here, there) = (node(&url, &clock, 1).await, node(&url, &clock, 2).await);
        let (dev, other) = (caller(&here, "dev0").await, caller(&here, "dev1").await);
        let lead = caller(&here, "lead0").await;
        let pool = pool(&url).await;
        for round in 0..10 {
            clock.advance(Ttl::minutes(30));
            let (one, _) = here.ask(&dev, &asked("refuse", Ttl::minutes(10))).await.unwrap();
            let (two, _) = here.ask(&other, &asked("refuse", Ttl::minutes(10))).await.unwrap();
            let (left, right) = tokio::join!(here.approve(&lead, one.id), there.approve(&lead, two.id));
            let full = |result: &Result<access::Seen, AccessError>| matches!(result, Err(AccessError::Full { .. }));
            assert!(left.is_ok() != right.is_ok() && (full(&left) || full(&right)), "{round}: {left:?}, {right:?}");
            assert_eq!(Ledger::read(&here.desk().store, &pool).await.holders("refuse", here.now()), 1);
        }
    }
}

#[tokio::test]
async fn a56_a_clock_that_goes_back_puts_no_grant_in_force_again() {
    let clock = TestClock::new();
    let node = node(&sqlite_database(), &clock, 1).await;
    let dev = caller(&node, "dev0").await;
    let (_, grant) = node.ask(&dev, &asked("auto", Ttl::minutes(1))).await.unwrap();
    let grant = grant.unwrap();
    assert_eq!(node.held("dev0").len(), 1);
    clock.advance(Ttl::minutes(1));
    assert!(node.held("dev0").is_empty());
    // Before any sweep has written it down.
    clock.set(node.now().minus(Ttl::seconds(30)));
    assert!(node.held("dev0").is_empty(), "it was over");
    node.desk().directory.grant_enter(&grant);
    assert!(node.held("dev0").is_empty(), "nor by an older view of it");
    // A longer one of a node whose clock is behind counts.
    let directory: &Directory = &node.desk().directory;
    let longer = grant.state.extended(Ttl::minutes(5), clock.now()).unwrap();
    directory.grant_enter(&doorward::model::Grant { state: longer, ..grant.clone() });
    assert_eq!(node.held("dev0").len(), 1);
    // Once it is written down as over, it is so for every node, at whatever time.
    clock.advance(Ttl::minutes(10));
    node.sweep().await.unwrap();
    clock.set(node.now().minus(Ttl::hours(1)));
    let store = &node.desk().store;
    assert_eq!(store.grant_fetch(grant.id).await.unwrap().unwrap().state.name(), "expired");
    let dropped = access::drop_grant(node.desk(), &dev, grant.id, node.now()).await;
    assert!(matches!(dropped, Err(AccessError::NotActive { .. })), "{dropped:?}");
    let other = Node::start(store_url(&node), &clock, 2, 99).await;
    assert!(other.held("dev0").is_empty() && node.held("dev0").is_empty());
}

#[tokio::test]
async fn a56_whoever_waits_for_their_turn_until_a_grant_has_run_out_prolongs_nothing() {
    for url in databases() {
        let clock = TestClock::new();
        let node = node(&url, &clock, 1).await;
        let (dev, lead) = (caller(&node, "dev0").await, caller(&node, "lead0").await);
        let (request, _) = node.ask(&dev, &asked("one", Ttl::minutes(10))).await.unwrap();
        let grant = node.approve(&lead, request.id).await.unwrap().grant.unwrap();
        let (_, auto) = node.ask(&dev, &asked("auto", Ttl::minutes(10))).await.unwrap();
        let end = grant.state.expires_at().unwrap();
        clock.set(end.minus(Ttl::millis(1)));
        let came = node.now();
        let more = access::extend(node.desk(), &dev, grant.id, Ttl::minutes(5), came).await.unwrap();
        // Somebody else has the request, until after the grant's end.
        let mut before = node.desk().store.begin().await.unwrap();
        assert!(before.access_request_hold(more.request.id, came).await.unwrap().is_some());
        let waits = access::approve(node.desk(), &lead, more.request.id, None, None, came);
        let ends = async {
            clock.set(end);
            before.commit().await.unwrap();
        };
        let (answered, ()) = tokio::join!(waits, ends);
        let timed_out = RequestState::TimedOut.name();
        assert!(matches!(answered, Err(AccessError::Closed { state }) if state == timed_out), "{answered:?}");
        let denied = access::deny(node.desk(), &lead, more.request.id, None, came).await;
        assert!(matches!(denied, Err(AccessError::Closed { state }) if state == timed_out), "{denied:?}");
        // Nor where policy approves by itself, and what has run out is not ended once more.
        let auto = auto.unwrap();
        let prolonged = access::extend(node.desk(), &dev, auto.id, Ttl::minutes(5), came).await;
        assert!(matches!(prolonged, Err(AccessError::NotActive { .. })), "{prolonged:?}");
        let dropped = access::drop_grant(node.desk(), &dev, auto.id, came).await;
        assert!(matches!(dropped, Err(AccessError::NotActive { .. })), "{dropped:?}");
        for id in [grant.id, auto.id] {
            let after = node.desk().store.grant_fetch(id).await.unwrap().unwrap();
            assert_eq!((after.state.expires_at(), after.state.at(end).name()), (Some(end), "expired"));
        }
        assert!(node.held("dev0").is_empty());
    }
}

#[tokio::test]
async fn a56_an_extension_in_the_last_millisecond_counts_and_one_after_it_does_not() {
    for url in databases() {
        let clock = TestClock::new();
        let node = node(&url, &clock, 1).await;
        let (dev, lead) = (caller(&node, "dev0").await, caller(&node, "lead0").await);
        for late in [false, true] {
            let (request, _) = node.ask(&dev, &asked("one", Ttl::minutes(10))).await.unwrap();
            let grant = node.approve(&lead, request.id).await.unwrap().grant.unwrap();
            let end = grant.state.expires_at().unwrap();
            clock.set(end.minus(Ttl::millis(1)));
            let more = access::extend(node.desk(), &dev, grant.id, Ttl::minutes(5), node.now()).await.unwrap();
            if late {
                clock.set(end);
            }
            let answered = node.approve(&lead, more.request.id).await;
            clock.set(end);
            let after = node.desk().store.grant_fetch(grant.id).await.unwrap().unwrap();
            if late {
                assert!(matches!(answered, Err(AccessError::Closed { state: "timed_out" })), "{answered:?}");
                assert_eq!((after.state.expires_at(), after.state.at(end).name()), (Some(end), "expired"));
                assert!(node.held("dev0").iter().all(|(id, _, _)| *id != grant.id));
                let asked = access::extend(node.desk(), &dev, grant.id, Ttl::minutes(5), node.now()).await;
                assert!(matches!(asked, Err(AccessError::NotActive { .. })), "{asked:?}");
            } else {
                assert_eq!(after.state.expires_at(), Some(end.plus(Ttl::minutes(5))), "{answered:?}");
                assert!(node.held("dev0").iter().any(|(id, _, _)| *id == grant.id));
                clock.set(end.plus(Ttl::minutes(5)));
                assert!(node.held("dev0").is_empty());
            }
        }
    }
}

/// The policies of the small company before `one` came.
fn before_one() -> PolicySet {
    let folder = temporary_folder();
    Rules::default().write(folder.path());
    for file in ["svc/service.toml", "svc/access.cedar"] {
        let file = folder.path().join(file);
        let text = std::fs::read_to_string(&file).unwrap();
        let text = text.replace("[entitlement.one]", "[entitlement.seven]").replace("svc/one", "svc/seven");
        std::fs::write(&file, text).unwrap();
    }
    load(Path::new(folder.path()), &settings()).unwrap_or_else(|found| panic!("{}", shown(&found)))
}

#[tokio::test]
async fn a_node_that_has_not_got_an_entitlement_yet_leaves_its_scheduled_grants_to_one_that_has() {
    for url in databases() {
        let clock = TestClock::new();
        let (new, old) = (node(&url, &clock, 1).await, node(&url, &clock, 2).await);
        let (dev, lead) = (caller(&new, "dev0").await, caller(&new, "lead0").await);
        let mut grants = Vec::new();
        for minutes in [5, 60] {
            let later = Asked { start: Some(new.now().plus(Ttl::minutes(minutes))), ..asked("one", Ttl::minutes(10)) };
            let (request, _) = new.ask(&dev, &later).await.unwrap();
            grants.push(new.approve(&lead, request.id).await.unwrap().grant.unwrap().id);
        }
        old.desk().policies.store(Arc::new(before_one()));
        let state = async |at: usize| new.desk().store.grant_fetch(grants[at]).await.unwrap().unwrap().state.name();
        clock.advance(Ttl::minutes(5));
        // The first to look has no duty that would keep the other from its own.
        for _ in 0..3 {
            old.sweep().await.unwrap();
        }
        assert_eq!(state(0).await, "scheduled");
        new.sweep().await.unwrap();
        assert_eq!(state(0).await, "active");
        // Where no node has it, it is over in the end.
        clock.advance(Ttl::minutes(56));
        old.sweep().await.unwrap();
        assert_eq!(state(1).await, "scheduled");
        clock.advance(Ttl::minutes(15));
        old.sweep().await.unwrap();
        assert_eq!(state(1).await, "revoked");
        for node in [&new, &old] {
            node.desk().store.close().await;
        }
    }
}
