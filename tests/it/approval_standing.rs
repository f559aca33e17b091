//! Which approvals count when others follow: as their approvers came, by who they are by now; and that people
//! are told of those that don't.

use std::sync::Arc;

use doorward::control::access::sweep::UNFIT_MAX;
use doorward::control::access::{self, AccessError, Asked, Seen, Whose};
use doorward::control::session::{self, NewSession};
use doorward::control::{Caller, lock_by_caller};
use doorward::model::{Device, RequestId, SessionKind, Thumbprint, Ttl};

use crate::access_ledger::pool;
use crate::access_world::{Node, asked, caller, groups, principal};
use crate::api_house::facts;
use crate::grant_circumstances::with;
use crate::support::{TestClock, databases};

async fn node(url: &str, clock: &TestClock) -> Node {
    let node = Node::start(url, clock, 1, 93).await;
    node.desk().policies.store(crate::access_world::Rules::default().set());
    node
}

/// Whoever approves has to come like this.
fn wants(node: &Node, condition: &str) {
    let rule = format!("forbid (principal, action == Action::\"approve\", resource) unless {{ {condition} }};\n");
    node.desk().policies.store(Arc::new(with(|text| text + &rule)));
}

/// `name`, who proved themselves by `amr`, on a device or on none.
async fn signed_in(node: &Node, name: &str, amr: &str, device: Option<&str>) -> Caller {
    let new = NewSession {
        groups: groups(name),
        amr: vec![amr.to_owned()],
        device: device.map(|id| Device { id: id.to_owned(), certificate: Thumbprint::of(id.as_bytes()) }),
        ..crate::support::new_session(SessionKind::Cli, principal(name), node.now())
    };
    let started = session::start(node.desk(), new, None, &facts(None), node.now()).await.unwrap();
    node.caller(started.stored.session.id).await.unwrap()
}

async fn request(node: &Node, dev: &Caller) -> RequestId {
    node.ask(dev, &asked("two", Ttl::minutes(5))).await.unwrap().0.id
}

#[tokio::test]
async fn a53_an_approval_counts_as_its_approver_came_however_they_sign_in_later() {
    for url in databases() {
        let clock = TestClock::new();
        let node = node(&url, &clock).await;
        let dev = caller(&node, "dev0").await;
        for condition in [
            "context has session && context.session.amr.contains(\"hwk\")",
            "context has device && context.device.id == \"desk\" && context.device.trusted",
        ] {
            wants(&node, condition);
            let id = request(&node, &dev).await;
            let first = signed_in(&node, "lead0", "hwk", Some("desk")).await;
            assert_eq!(node.approve(&first, id).await.unwrap().state, "pending");
            clock.advance(Ttl::seconds(1));
            let elsewhere = signed_in(&node, "lead0", "pwd", None).await;
            assert!(node.approve(&elsewhere, id).await.is_err());
            let second = signed_in(&node, "lead1", "hwk", Some("desk")).await;
            assert_eq!(node.approve(&second, id).await.unwrap().state, "active", "{condition}");
        }
    }
}

#[tokio::test]
async fn an_approval_of_which_nobody_knows_how_it_came_is_not_held_to_how_its_requester_came() {
    for url in databases() {
        let clock = TestClock::new();
        let node = node(&url, &clock).await;
        let dev = caller(&node, "dev0").await;
        let from = async |name: &str| {
            let id = node.sign_in(name, groups(name)).await.unwrap();
            node.caller_from(id, "192.0.2.7".parse().unwrap()).await.unwrap()
        };
        let outside = pool(&url).await;
        for (condition, state) in [
            ("context.address.isInRange(ip(\"192.0.2.0/24\"))", "active"),
            // Who they are is asked all the same.
            ("principal != User::\"dev|lead0\" || context.time.unix > 0", "active"),
            ("principal != User::\"dev|lead0\"", "pending"),
        ] {
            node.desk().policies.store(crate::access_world::Rules::default().set());
            let id = request(&node, &dev).await;
            assert_eq!(node.approve(&from("lead0").await, id).await.unwrap().state, "pending");
            // As rows are of before it was kept.
            let text = "update access_approval set address = null, amr = null, device = null";
            sqlx::query(text).execute(&outside).await.unwrap();
            wants(&node, condition);
            clock.advance(Ttl::seconds(1));
            assert_eq!(node.approve(&from("lead1").await, id).await.unwrap().state, state, "{condition}");
        }
    }
}

fn counts(seen: &Seen) -> Vec<bool> {
    seen.approvals.iter().map(|given| given.counts).collect()
}

async fn fetched(node: &Node, caller: &Caller, id: RequestId) -> Seen {
    access::request_fetch(node.desk(), caller, id, node.now()).await.unwrap()
}

/// Whether it waits for the caller's answer, as its list and its page say.
async fn waits_for(node: &Node, caller: &Caller, id: RequestId) -> bool {
    let (desk, now) = (node.desk(), node.now());
    let (listed, _) = access::request_list(desk, caller, Whose::ToApprove, None, None, 10, now).await.unwrap();
    let listed = listed.iter().any(|seen| seen.request.id == id);
    let seen = fetched(node, caller, id).await;
    assert_eq!(access::may_answer(desk, caller, &seen, now).await.unwrap(), listed);
    listed
}

#[tokio::test]
async fn an_approval_that_counts_no_more_is_told_as_such_and_is_given_anew() {
    for url in databases() {
        let clock = TestClock::new();
        let node = node(&url, &clock).await;
        let dev = caller(&node, "dev0").await;
        let id = request(&node, &dev).await;
        let first = signed_in(&node, "lead0", "pwd", None).await;
        assert_eq!(counts(&node.approve(&first, id).await.unwrap()), [true]);
        assert!(!waits_for(&node, &first, id).await);
        // Who approves comes with a key from now on.
        wants(&node, "context has session && context.session.amr.contains(\"hwk\")");
        assert_eq!(counts(&fetched(&node, &dev, id).await), [false]);
        clock.advance(Ttl::seconds(1));
        let again = signed_in(&node, "lead0", "hwk", None).await;
        assert!(waits_for(&node, &again, id).await);
        let seen = node.approve(&again, id).await.unwrap();
        assert_eq!((seen.state, counts(&seen)), ("pending", vec![true]));
        let twice = node.approve(&again, id).await;
        assert!(matches!(twice, Err(AccessError::AnsweredAlready)), "{twice:?}");
        clock.advance(Ttl::seconds(1));
        let second = signed_in(&node, "lead1", "hwk", None).await;
        let seen = node.approve(&second, id).await.unwrap();
        assert_eq!((seen.state, counts(&seen)), ("active", vec![true, true]));
        // What it began by stays what it was.
        node.sign_in("lead1", Vec::new()).await.unwrap();
        assert_eq!(counts(&fetched(&node, &dev, id).await), [true, true]);
    }
}

#[tokio::test]
async fn a_request_that_waited_for_a_lock_to_be_lifted_is_settled_by_whoever_answers_next() {
    for url in databases() {
        let clock = TestClock::new();
        let node = node(&url, &clock).await;
        let (dev, owner) = (caller(&node, "dev0").await, caller(&node, "owner").await);
        let (first, second) = (caller(&node, "lead0").await, caller(&node, "lead1").await);
        let id = request(&node, &dev).await;
        node.approve(&first, id).await.unwrap();
        let locked = principal("lead0").to_string();
        lock_by_caller::set(node.desk(), &owner, &locked, "lost a laptop", node.now()).await.unwrap();
        clock.advance(Ttl::seconds(1));
        let seen = node.approve(&second, id).await.unwrap();
        assert_eq!((seen.state, counts(&seen)), ("pending", vec![false, true]));
        assert!(!waits_for(&node, &second, id).await && waits_for(&node, &owner, id).await);
        assert!(!seen.waits_for_a_word());
        lock_by_caller::clear(node.desk(), &owner, &locked, "found it", node.now()).await.unwrap();
        clock.advance(Ttl::seconds(1));
        // Nobody looked at it when the lock was lifted, so that grants nothing: it is said what it takes.
        node.sweep().await.unwrap();
        let seen = fetched(&node, &dev, id).await;
        assert_eq!((seen.state, counts(&seen), seen.approved()), ("pending", vec![true, true], 2));
        assert!(seen.waits_for_a_word());
        for approver in [&first, &second] {
            assert!(waits_for(&node, approver, id).await);
        }
        let seen = node.approve(&second, id).await.unwrap();
        assert_eq!((seen.state, counts(&seen), seen.approved()), ("active", vec![true, true], 2));
        assert!(!seen.waits_for_a_word());
    }
}

#[tokio::test]
async fn where_more_than_enough_count_no_more_are_told_than_it_takes() {
    for url in databases() {
        let clock = TestClock::new();
        let node = node(&url, &clock).await;
        let (dev, owner) = (caller(&node, "dev0").await, caller(&node, "owner").await);
        let (first, second) = (caller(&node, "lead0").await, caller(&node, "lead1").await);
        // Who settles it: somebody else, and who counts already under another account of theirs.
        for (name, counted) in [("owner", [true, true, true]), ("twin", [true, true, false])] {
            let third = caller(&node, name).await;
            let id = request(&node, &dev).await;
            node.approve(&first, id).await.unwrap();
            let locked = principal("lead0").to_string();
            lock_by_caller::set(node.desk(), &owner, &locked, "lost a laptop", node.now()).await.unwrap();
            clock.advance(Ttl::seconds(1));
            node.approve(&second, id).await.unwrap();
            lock_by_caller::clear(node.desk(), &owner, &locked, "found it", node.now()).await.unwrap();
            clock.advance(Ttl::seconds(1));
            let seen = node.approve(&third, id).await.unwrap();
            assert_eq!((seen.state, counts(&seen), seen.approved()), ("active", counted.to_vec(), 2), "{name}");
        }
    }
}

#[tokio::test]
async fn what_did_not_count_when_it_was_decided_is_told_so_ever_after() {
    for url in databases() {
        let clock = TestClock::new();
        let node = node(&url, &clock).await;
        let (dev, owner) = (caller(&node, "dev0").await, caller(&node, "owner").await);
        let (first, second, third) =
            (caller(&node, "lead0").await, caller(&node, "lead1").await, caller(&node, "lead2").await);
        let locked = principal("lead0").to_string();
        for (decided, expected) in [
            ("active", vec![false, true, true]),
            ("denied", vec![false, true, false]),
            ("withdrawn", vec![false, true]),
            ("timed_out", vec![false, true]),
        ] {
            let id = request(&node, &dev).await;
            node.approve(&first, id).await.unwrap();
            lock_by_caller::set(node.desk(), &owner, &locked, "lost a laptop", node.now()).await.unwrap();
            clock.advance(Ttl::seconds(1));
            assert_eq!(node.approve(&second, id).await.unwrap().state, "pending");
            clock.advance(Ttl::seconds(1));
            let (desk, now) = (node.desk(), node.now());
            match decided {
                "active" => drop(node.approve(&third, id).await.unwrap()),
                "denied" => drop(access::deny(desk, &third, id, None, now).await.unwrap()),
                "withdrawn" => drop(access::withdraw(desk, &dev, id, now).await.unwrap()),
                _ => {
                    clock.advance(Ttl::hours(4));
                    node.sweep().await.unwrap();
                }
            }
            let told = async || {
                let seen = fetched(&node, &dev, id).await;
                (seen.state, counts(&seen))
            };
            assert_eq!(told().await, (decided, expected.clone()));
            lock_by_caller::clear(node.desk(), &owner, &locked, "found it", node.now()).await.unwrap();
            clock.advance(Ttl::seconds(1));
            assert_eq!(told().await, (decided, expected));
        }
    }
}

#[tokio::test]
async fn what_counts_of_a_grant_that_begins_later_is_kept_as_it_is_then() {
    for url in databases() {
        let clock = TestClock::new();
        let node = node(&url, &clock).await;
        let (dev, owner) = (caller(&node, "dev0").await, caller(&node, "owner").await);
        let (first, second) = (caller(&node, "lead0").await, caller(&node, "lead1").await);
        let locked = principal("lead1").to_string();
        for (barred, state, expected) in [(false, "active", [true, true]), (true, "revoked", [true, false])] {
            let later = Asked { start: Some(node.now().plus(Ttl::minutes(5))), ..asked("two", Ttl::minutes(5)) };
            let (request, _) = node.ask(&dev, &later).await.unwrap();
            node.approve(&first, request.id).await.unwrap();
            clock.advance(Ttl::seconds(1));
            let seen = node.approve(&second, request.id).await.unwrap();
            assert_eq!((seen.state, counts(&seen)), ("scheduled", vec![true, true]));
            if barred {
                lock_by_caller::set(node.desk(), &owner, &locked, "lost a laptop", node.now()).await.unwrap();
            }
            clock.advance(Ttl::minutes(5));
            node.sweep().await.unwrap();
            if barred {
                // What it may not begin by is left to others for a while.
                clock.advance(UNFIT_MAX);
                node.sweep().await.unwrap();
                lock_by_caller::clear(node.desk(), &owner, &locked, "found it", node.now()).await.unwrap();
            } else {
                // Whoever lost the right since is no matter.
                node.sign_in("lead1", Vec::new()).await.unwrap();
            }
            let seen = fetched(&node, &dev, request.id).await;
            assert_eq!((seen.state, counts(&seen)), (state, expected.to_vec()), "{:?}", seen.grant);
            clock.advance(Ttl::minutes(6));
            node.sign_in("lead1", groups("lead1")).await.unwrap();
        }
    }
}
