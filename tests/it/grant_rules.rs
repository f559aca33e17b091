//! What an entitlement says of time: the use without which a grant ends, how long before it begins, the
//! break after it; who is one human over several accounts, and who waits first for a place; and attacks
//! on all of it: a50, a51, a52, a53, a54, a56.

use std::path::Path;
use std::sync::Arc;

use doorward::control::access::{self, AccessError, TooSoon, Wait};
use doorward::control::{Caller, lock};
use doorward::model::{Grant, GrantId, GrantState, RequestState, Timestamp, Ttl};
use doorward::policy::{PolicySet, load};
use serde_json::{Value, json};

use crate::access_world::{Node, Rules, asked, caller, principal};
use crate::api_house::{House, ORIGIN};
use crate::policy::{settings, shown};
use crate::support::{TestClock, databases, sqlite_database, temporary_folder};

/// The small company with more in an entitlement's table, and in `people.toml`.
fn with(name: &str, lines: &str, people: &str) -> Arc<PolicySet> {
    let folder = temporary_folder();
    Rules::default().write(folder.path());
    let file = folder.path().join("svc/service.toml");
    let text = std::fs::read_to_string(&file).unwrap();
    let head = format!("[entitlement.{name}]\n");
    assert!(text.contains(&head));
    let text = text.replace("extended_max = \"2h\"\n", "").replace(&head, &format!("{head}{lines}\n"));
    std::fs::write(&file, text).unwrap();
    if !people.is_empty() {
        std::fs::write(folder.path().join("people.toml"), people).unwrap();
    }
    Arc::new(load(Path::new(folder.path()), &settings()).unwrap_or_else(|found| panic!("{}", shown(&found))))
}

async fn node(url: &str, clock: &TestClock, number: u8, set: &Arc<PolicySet>) -> Node {
    let node = Node::start(url, clock, number, 800 + u64::from(number)).await;
    node.desk().policies.store(Arc::clone(set));
    node
}

async fn auto(node: &Node, dev: &Caller, length: Ttl) -> Grant {
    node.ask(dev, &asked("auto", length)).await.unwrap().1.unwrap()
}

async fn stored(node: &Node, id: GrantId) -> Grant {
    node.desk().store.grant_fetch(id).await.unwrap().unwrap()
}

/// A use at this node, as the data path notes it, and what is told of it.
async fn used(node: &Node, name: &str, id: GrantId) {
    let grant = node.desk().directory.grant(&principal(name), id).unwrap();
    grant.uses().unwrap().note(node.now());
    tend(node).await;
}

async fn tend(node: &Node) {
    access::exchange_uses(node.desk(), node.now()).await.unwrap();
    node.sweep().await.unwrap();
}

fn too_soon<T: std::fmt::Debug>(outcome: Result<T, AccessError>) -> (Timestamp, Wait) {
    match outcome {
        Err(AccessError::TooSoon(TooSoon { from, because, .. })) => (from, because),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_grant_that_nobody_uses_ends_and_says_why() {
    for url in databases() {
        let clock = TestClock::new();
        let set = with("auto", "idle = \"5m\"", "");
        let node = node(&url, &clock, 1, &set).await;
        let dev = caller(&node, "dev0").await;
        let grant = auto(&node, &dev, Ttl::minutes(30)).await;
        assert_eq!(grant.idle, Some(Ttl::minutes(5)));
        clock.advance(Ttl::minutes(4));
        used(&node, "dev0", grant.id).await;
        assert_eq!(stored(&node, grant.id).await.used_at, Some(node.now()));
        clock.advance(Ttl::millis(299_999));
        tend(&node).await;
        assert_eq!(node.held("dev0").len(), 1);
        let end = node.now().plus(Ttl::millis(1));
        clock.advance(Ttl::millis(1));
        // To the moment where it is used, and as it is shown; on record a moment later.
        assert!(node.held("dev0").is_empty());
        let seen = access::grant_fetch(node.desk(), &dev, grant.id, node.now()).await.unwrap();
        assert_eq!(seen.state, "expired");
        let extended = access::extend(node.desk(), &dev, grant.id, Ttl::minutes(1), node.now()).await;
        assert!(matches!(extended, Err(AccessError::NotActive { .. })), "{extended:?}");
        clock.advance(Ttl::seconds(2));
        tend(&node).await;
        let over = stored(&node, grant.id).await;
        assert_eq!((over.state.name(), over.state.ended_at()), ("expired", Some(end)));
        assert_eq!(over.end_reason.as_deref(), Some("it was not used for 5m"));
        node.desk().store.close().await;
    }
}

#[tokio::test]
async fn a_use_on_any_node_counts_on_all() {
    for url in databases() {
        let clock = TestClock::new();
        let set = with("auto", "idle = \"5m\"", "");
        let (here, mut there) = (node(&url, &clock, 1, &set).await, node(&url, &clock, 2, &set).await);
        let dev = caller(&here, "dev0").await;
        let grant = auto(&here, &dev, Ttl::minutes(30)).await;
        there.follow().await;
        for _ in 0..5 {
            clock.advance(Ttl::minutes(4));
            used(&there, "dev0", grant.id).await;
            tend(&here).await;
        }
        assert_eq!((here.held("dev0").len(), there.held("dev0").len()), (1, 1));
        // One who has not heard of the use yet lets nobody through, and has when it hears of it.
        clock.advance(Ttl::minutes(4));
        used(&there, "dev0", grant.id).await;
        clock.advance(Ttl::minutes(1));
        assert!(here.held("dev0").is_empty());
        here.sweep().await.unwrap();
        tend(&here).await;
        assert_eq!(here.held("dev0").len(), 1, "it was used a minute ago");
        // A node that starts knows of it too.
        let third = node(&url, &clock, 3, &set).await;
        assert_eq!(third.held("dev0").len(), 1);
        clock.advance(Ttl::minutes(4));
        assert!(third.held("dev0").is_empty() && here.held("dev0").is_empty() && there.held("dev0").is_empty());
        for node in [&here, &there, &third] {
            node.desk().store.close().await;
        }
    }
}

#[tokio::test]
async fn a_use_of_the_last_moment_is_not_overtaken_by_whoever_ends_it() {
    for url in databases() {
        let clock = TestClock::new();
        let set = with("auto", "idle = \"5m\"", "");
        let (here, mut there) = (node(&url, &clock, 1, &set).await, node(&url, &clock, 2, &set).await);
        let dev = caller(&here, "dev0").await;
        let grant = auto(&here, &dev, Ttl::minutes(30)).await;
        there.follow().await;
        clock.advance(Ttl::millis(299_900));
        let at = there.desk().directory.grant(&principal("dev0"), grant.id).unwrap();
        at.uses().unwrap().note(there.now());
        clock.advance(Ttl::millis(500));
        tend(&here).await;
        assert_eq!(stored(&here, grant.id).await.state.name(), "active");
        tend(&there).await;
        clock.advance(Ttl::seconds(3));
        tend(&here).await;
        assert_eq!(stored(&here, grant.id).await.state.name(), "active");
        assert_eq!((here.held("dev0").len(), there.held("dev0").len()), (1, 1));
        // Whoever read it before it was used does not end it.
        let mut before = stored(&here, grant.id).await;
        before.used_at = None;
        let over = GrantState::Over {
            from: before.state.active_at(),
            until: before.state.expires_at(),
            end: doorward::model::GrantEnd::Expired,
            at: here.now(),
        };
        let mut tx = here.desk().store.begin().await.unwrap();
        assert!(tx.grant_save(&before, over, None).await.unwrap().is_none());
        drop(tx);
        here.desk().store.close().await;
        there.desk().store.close().await;
    }
}

#[tokio::test]
async fn a_grant_whose_last_use_is_not_told_yet_can_be_revoked() {
    for url in databases() {
        let clock = TestClock::new();
        let set = with("auto", "idle = \"5m\"", "");
        let (here, mut there) = (node(&url, &clock, 1, &set).await, node(&url, &clock, 2, &set).await);
        let (dev, owner) = (caller(&here, "dev0").await, caller(&here, "owner").await);
        let grant = auto(&here, &dev, Ttl::minutes(30)).await;
        there.follow().await;
        clock.advance(Ttl::millis(299_900));
        there.desk().directory.grant(&principal("dev0"), grant.id).unwrap().uses().unwrap().note(there.now());
        clock.advance(Ttl::millis(500));
        assert_eq!((here.held("dev0").len(), there.held("dev0").len()), (0, 1), "only there it is known to be used");
        assert_eq!(here.revoke(&owner, grant.id).await.unwrap().state, "revoked");
        there.follow().await;
        assert!(there.held("dev0").is_empty());
        for node in [&here, &there] {
            node.desk().store.close().await;
        }
    }
}

#[tokio::test]
async fn a_grant_with_a_lead_time_begins_so_long_after_its_request_and_not_before() {
    for url in databases() {
        let clock = TestClock::new();
        let set = with("one", "earliest_start = \"10m\"", "");
        let node = node(&url, &clock, 1, &set).await;
        let (dev, lead) = (caller(&node, "dev0").await, caller(&node, "lead0").await);
        let asked_at = node.now();
        let mut soon = asked("one", Ttl::minutes(20));
        soon.start = Some(asked_at.plus(Ttl::minutes(9)));
        let (from, because) = too_soon(node.ask(&dev, &soon).await);
        assert_eq!((from, because), (asked_at.plus(Ttl::minutes(10)), Wait::Lead(Ttl::minutes(10))));
        too_soon(access::plan(node.desk(), &dev, &soon, node.now()).await);
        soon.start = None;
        let plan = access::plan(node.desk(), &dev, &soon, node.now()).await.unwrap();
        assert_eq!((plan.start, plan.earliest_start), (Some(from), Some(Ttl::minutes(10))));
        let (request, _) = node.ask(&dev, &soon).await.unwrap();
        assert_eq!(request.start, Some(from));
        clock.advance(Ttl::minutes(4));
        let grant = node.approve(&lead, request.id).await.unwrap().grant.unwrap();
        assert_eq!((grant.state, grant.starts_at), (GrantState::Scheduled, from));
        clock.set(from.minus(Ttl::millis(1)));
        node.sweep().await.unwrap();
        assert!(node.held("dev0").is_empty());
        clock.set(from);
        node.sweep().await.unwrap();
        assert_eq!(stored(&node, grant.id).await.state.expires_at(), Some(from.plus(Ttl::minutes(20))));
        // In an emergency nobody waits.
        let mut now = asked("one", Ttl::minutes(5));
        now.emergency = true;
        let plan = access::plan(node.desk(), &dev, &now, node.now()).await.unwrap();
        assert_eq!((plan.start, plan.earliest_start, plan.approvals_needed), (None, None, 0));
        assert_eq!(node.ask(&dev, &now).await.unwrap().1.unwrap().state.name(), "active");
        node.desk().store.close().await;
    }
}

#[tokio::test]
async fn after_a_grant_its_holder_has_a_break_under_whatever_account() {
    for url in databases() {
        let clock = TestClock::new();
        let people = "[[person]]\nname = \"Dee\"\naccounts = [\"dev|dev0\", \"dev|dev3\"]\n";
        let set = with("auto", "break = \"15m\"\nextended_max = \"30m\"", people);
        let node = node(&url, &clock, 1, &set).await;
        let (dev, same, other) =
            (caller(&node, "dev0").await, caller(&node, "dev3").await, caller(&node, "dev1").await);
        let first = auto(&node, &dev, Ttl::minutes(10)).await;
        let end = first.state.expires_at().unwrap();
        let rested = end.plus(Ttl::minutes(15));
        for holder in [&dev, &same] {
            let (from, because) = too_soon(node.ask(holder, &asked("auto", Ttl::minutes(5))).await);
            assert_eq!((from, because), (rested, Wait::Break(Ttl::minutes(15))));
        }
        assert!(node.ask(&other, &asked("auto", Ttl::minutes(5))).await.is_ok(), "it is nobody else's break");
        // It can be asked for now that it begins afterwards, and given back early the break begins early.
        let mut later = asked("auto", Ttl::minutes(5));
        later.start = Some(rested);
        let (_, scheduled) = node.ask(&same, &later).await.unwrap();
        assert_eq!(scheduled.unwrap().state, GrantState::Scheduled);
        clock.advance(Ttl::minutes(5));
        access::drop_grant(node.desk(), &dev, first.id, node.now()).await.unwrap();
        let (from, _) = too_soon(node.ask(&dev, &asked("auto", Ttl::minutes(5))).await);
        assert_eq!(from, node.now().plus(Ttl::minutes(15)));
        clock.set(from);
        let second = auto(&node, &dev, Ttl::minutes(5)).await;
        assert!(second.state.is_active(node.now()));
        // What was scheduled under the other account waits for the new break.
        clock.set(rested);
        node.sweep().await.unwrap();
        let waits = stored(&node, scheduled_of(&node, "dev3").await).await;
        let until = second.state.expires_at().unwrap().plus(Ttl::minutes(15));
        assert_eq!((waits.state, waits.starts_at), (GrantState::Scheduled, until));
        clock.set(until);
        node.sweep().await.unwrap();
        assert!(stored(&node, waits.id).await.state.is_active(node.now()));
        node.desk().store.close().await;
    }
}

async fn scheduled_of(node: &Node, name: &str) -> GrantId {
    let all = node.desk().store.grant_list(Some(&principal(name)), None, 10).await.unwrap();
    all.iter().find(|grant| matches!(grant.state, GrantState::Scheduled)).unwrap().id
}

#[tokio::test]
async fn a47_two_of_one_human_who_race_past_the_break_get_one_grant() {
    for url in databases() {
        let clock = TestClock::new();
        let people = "[[person]]\nname = \"Dee\"\naccounts = [\"dev|dev0\", \"dev|dev3\"]\n";
        let set = with("auto", "break = \"15m\"\nextended_max = \"30m\"", people);
        let node = node(&url, &clock, 1, &set).await;
        let (dev, same) = (caller(&node, "dev0").await, caller(&node, "dev3").await);
        let wish = asked("auto", Ttl::minutes(5));
        let all = (0..20).map(|turn| node.ask(if turn % 2 == 0 { &dev } else { &same }, &wish));
        let _ = futures_util::future::join_all(all).await;
        let mut active = 0;
        for name in ["dev0", "dev3"] {
            active += node.held(name).len();
        }
        assert_eq!(active, 1);
        node.desk().store.close().await;
    }
}

#[test]
fn what_an_entitlement_says_of_time_must_fit_together() {
    for (lines, expected) in [
        ("break = \"15m\"", "`break` without `extended_max`"),
        ("break = \"60d\"\nextended_max = \"1h\"", "longer than `30d`"),
        ("earliest_start = \"2h\"\nscheduled_max = \"1h\"", "nothing could ever begin"),
        ("earliest_start = \"soon\"", "earliest_start"),
        ("breaks = \"15m\"", "did you mean `break`?"),
    ] {
        let folder = temporary_folder();
        Rules::default().write(folder.path());
        let file = folder.path().join("svc/service.toml");
        let text = std::fs::read_to_string(&file).unwrap();
        let text = text.replace("[entitlement.auto]\n", &format!("[entitlement.auto]\n{lines}\n"));
        std::fs::write(&file, text).unwrap();
        let told = shown(&load(folder.path(), &settings()).unwrap_err());
        assert!(told.contains(expected) && told.contains("service.toml:"), "{lines}\n{told}");
    }
}

#[tokio::test]
async fn a52_when_an_entitlement_says_otherwise_of_time_earlier_approvals_are_void() {
    for lines in ["idle = \"5m\"", "earliest_start = \"1m\"", "break = \"5m\"\nextended_max = \"2h\""] {
        let clock = TestClock::new();
        let node = node(&sqlite_database(), &clock, 1, &Rules::default().set()).await;
        let dev = caller(&node, "dev0").await;
        let (lead, second) = (caller(&node, "lead0").await, caller(&node, "lead2").await);
        let (request, _) = node.ask(&dev, &asked("two", Ttl::minutes(20))).await.unwrap();
        node.approve(&lead, request.id).await.unwrap();
        node.desk().policies.store(with("two", lines, ""));
        let answered = node.approve(&second, request.id).await.unwrap();
        assert_eq!(answered.request.state, RequestState::Pending, "{lines}: the first was to something else");
        let looked = access::approve(node.desk(), &lead, request.id, Some(&request.hash), None, node.now()).await;
        assert!(matches!(looked, Err(AccessError::Changed { .. })), "{looked:?}");
        assert!(node.approve(&lead, request.id).await.unwrap().grant.is_some());
    }
}

/// `lead1` is `lead0` by `people.toml`, and `twin` has the verified address of `lead0`: so `lead1` and
/// `twin` are one, though nothing links those two.
#[tokio::test]
async fn a50_accounts_are_one_human_over_others_that_link_them() {
    for url in databases() {
        let clock = TestClock::new();
        let rules = Rules { linked: true, ..Rules::default() };
        let node = node(&url, &clock, 1, &rules.set()).await;
        let bridge = caller(&node, "lead0").await;
        let (one, other) = (caller(&node, "lead1").await, caller(&node, "twin").await);
        let (request, _) = node.ask(&one, &asked("one", Ttl::minutes(5))).await.unwrap();
        for own in [&other, &bridge, &one] {
            let refused = node.approve(own, request.id).await;
            assert!(matches!(refused, Err(AccessError::SelfApproval)), "{refused:?}");
            let denied = access::deny(node.desk(), own, request.id, None, node.now()).await;
            assert!(matches!(denied, Err(AccessError::SelfApproval)), "{denied:?}");
        }
        let plan = access::plan(node.desk(), &one, &asked("one", Ttl::minutes(5)), node.now()).await.unwrap();
        assert!(plan.approvers.iter().all(|who| !["lead0", "lead1", "twin"].contains(&who.principal.subject())));
        // Nor do they count as two of two.
        let dev = caller(&node, "dev0").await;
        let (two, _) = node.ask(&dev, &asked("two", Ttl::minutes(5))).await.unwrap();
        assert_eq!(node.approve(&one, two.id).await.unwrap().state, "pending");
        let again = node.approve(&other, two.id).await;
        assert!(matches!(again, Err(AccessError::AnsweredAlready)), "{again:?}");
        let third = caller(&node, "lead2").await;
        assert_eq!(node.approve(&third, two.id).await.unwrap().state, "active");
        node.desk().store.close().await;
    }
}

#[tokio::test]
async fn who_waits_for_a_place_gets_it_before_a_fresh_approval() {
    for url in databases() {
        let clock = TestClock::new();
        let node = node(&url, &clock, 1, &Rules::default().set()).await;
        let lead = caller(&node, "lead0").await;
        let mut grants = Vec::new();
        for name in ["dev0", "dev1"] {
            let dev = caller(&node, name).await;
            let (request, _) = node.ask(&dev, &asked("queue", Ttl::minutes(10))).await.unwrap();
            grants.push(node.approve(&lead, request.id).await.unwrap().grant.unwrap());
            clock.advance(Ttl::seconds(1));
        }
        assert_eq!(grants[1].state, GrantState::Queued);
        let late = caller(&node, "dev2").await;
        let (request, _) = node.ask(&late, &asked("queue", Ttl::minutes(10))).await.unwrap();
        clock.set(grants[0].state.expires_at().unwrap());
        // The place is free, nobody has swept, and somebody waits for it.
        let fresh = node.approve(&lead, request.id).await.unwrap().grant.unwrap();
        assert_eq!(fresh.state, GrantState::Queued);
        node.sweep().await.unwrap();
        assert!(stored(&node, grants[1].id).await.state.is_active(node.now()));
        assert_eq!(stored(&node, fresh.id).await.state, GrantState::Queued);
        node.desk().store.close().await;
    }
}

#[tokio::test]
async fn a53_a_lock_that_another_node_set_a_moment_ago_bars_from_the_api() {
    for url in databases() {
        let house = House::new(&url).await;
        let (alice, _, _) = house.command_line("alice").await;
        assert_eq!(house.get(&alice, "/api/v1/grants").await.status, 200);
        // As another node does it: this one has not read the feed.
        let who = doorward::model::Principal::user("dev", "alice").unwrap();
        let actor = doorward::audit::Actor::default();
        lock::set(&house.desk.store, actor, &who, "gone", house.now(), &*house.desk.entropy).await.unwrap();
        assert!(!house.desk.directory.is_locked(&who));
        let refused = house.get(&alice, "/api/v1/grants").await;
        assert_eq!((refused.status.as_u16(), refused.text("/reason")), (403, "locked"), "{refused:?}");
        let asked = json!({ "entitlement": "ops-api/deploy-prod", "reason": "x", "ticket": "OPS-1" });
        assert_eq!(house.json(&alice, "/api/v1/requests", &asked).await.status, 403);
    }
}

fn ask() -> Value {
    json!({ "entitlement": "ops-api/deploy-prod", "reason": "hotfix", "ticket": "OPS-12", "for": "30m" })
}

#[tokio::test]
async fn a51_an_approval_needs_a_post_of_our_own_page_or_of_no_page() {
    let house = House::new(&databases()[0]).await;
    let (alice, _, _) = house.command_line("alice").await;
    let made = house.json(&alice, "/api/v1/requests", &ask()).await;
    let path = format!("/api/v1/requests/{}/approvals", made.text("/id"));
    let yes = json!({ "answer": "approve", "hash": made.text("/hash") });
    let (browser, _) = house.browser("bob").await;
    let (certified, _, _) = house.command_line("bob").await;
    for headers in [
        vec![],
        vec![("origin", "https://evil.example".to_owned())],
        vec![("origin", "null".to_owned())],
        vec![("sec-fetch-site", "cross-site".to_owned())],
        vec![("origin", ORIGIN.to_owned()), ("sec-fetch-site", "same-site".to_owned())],
    ] {
        let none = headers.is_empty();
        for caller in [&browser, &certified] {
            let mut caller = caller.clone();
            let by_cookie = caller.cookie.is_some();
            caller.headers.extend(headers.clone());
            // A program that shows its certificate says nothing of pages.
            if none && !by_cookie {
                continue;
            }
            let refused = house.json(&caller, &path, &yes).await;
            assert_eq!(refused.status, 403, "{headers:?} {refused:?}");
            // Nor is anything else than a POST an answer, or one of another kind than JSON.
            assert_eq!(house.get(&caller, &format!("{path}?answer=approve")).await.status, 200);
            let form = house.form(&caller, &path, &[("answer", "approve")]).await;
            assert!(form.status.is_client_error(), "{form:?}");
        }
    }
    for method in ["HEAD", "PUT", "PATCH", "DELETE"] {
        let answer = house.send(&certified, method, &path, Some("application/json"), yes.to_string().into()).await;
        assert!(method == "HEAD" || answer.status == 405, "{method} {answer:?}");
    }
    assert_eq!(house.get(&alice, &format!("/api/v1/requests/{}", made.text("/id"))).await.text("/state"), "pending");
    assert_eq!(house.json(&certified, &path, &yes).await.text("/state"), "active");
}

#[tokio::test]
async fn a52_a_request_can_not_be_edited_and_what_was_approved_is_what_is_granted() {
    let house = House::new(&databases()[0]).await;
    let (alice, _, _) = house.command_line("alice").await;
    let (bob, _, _) = house.command_line("bob").await;
    let made = house.json(&alice, "/api/v1/requests", &ask()).await;
    let path = format!("/api/v1/requests/{}", made.text("/id"));
    for (method, target) in
        [("PUT", path.clone()), ("PATCH", path.clone()), ("POST", path.clone()), ("DELETE", path.clone())]
    {
        let edit = json!({ "for": "1h", "entitlement": "ops-api/deploy-prod", "principal": "dev|dave" });
        let answer = house.send(&alice, method, &target, Some("application/json"), edit.to_string().into()).await;
        assert_eq!(answer.status, 405, "{method} {answer:?}");
    }
    // The same wish made otherwise is another request with another hash, whose approval does not fit.
    let mut longer = ask();
    longer["for"] = json!("1h");
    let other = house.json(&alice, "/api/v1/requests", &longer).await;
    assert_ne!(other.text("/hash"), made.text("/hash"));
    let body = json!({ "answer": "approve", "hash": made.text("/hash") });
    let crossed = house.json(&bob, &format!("/api/v1/requests/{}/approvals", other.text("/id")), &body).await;
    assert_eq!((crossed.status.as_u16(), crossed.text("/reason")), (409, "changed"), "{crossed:?}");
    let approved = house.json(&bob, &format!("{path}/approvals"), &body).await;
    assert_eq!(
        (approved.text("/state"), approved.text("/for"), approved.text("/principal/id")),
        ("active", "30m", "dev|alice")
    );
}

#[tokio::test]
async fn a56_lengths_of_no_time_less_than_none_and_without_end_are_refused() {
    let house = House::new(&databases()[0]).await;
    let (alice, _, _) = house.command_line("alice").await;
    let (bob, _, _) = house.command_line("bob").await;
    let lengths = [
        "0s",
        "0",
        "-1s",
        "-30m",
        "1",
        "9223372036854775807s",
        "9223372036854775808ms",
        "99999999999999999999d",
        "1h1h",
        "1s1h",
        "1.5h",
        "1e3s",
        "١h",
        "30m ",
        "∞",
        "",
    ];
    for length in lengths {
        let mut wish = ask();
        wish["for"] = json!(length);
        let refused = house.json(&alice, "/api/v1/requests", &wish).await;
        assert_eq!(refused.status, 400, "{length}: {refused:?}");
    }
    let made = house.json(&alice, "/api/v1/requests", &ask()).await;
    let yes = json!({ "answer": "approve" });
    let approved = house.json(&bob, &format!("/api/v1/requests/{}/approvals", made.text("/id")), &yes).await;
    let grant = approved.text("/grant").to_owned();
    for length in lengths {
        let body = json!({ "for": length });
        let refused = house.json(&alice, &format!("/api/v1/grants/{grant}/extend"), &body).await;
        assert_eq!(refused.status, 400, "{length}: {refused:?}");
    }
    for start in ["-infinity", "9999999-01-01T00:00:00Z", "0000-01-01T00:00:00Z", "now"] {
        let mut wish = ask();
        wish["start"] = json!(start);
        let answer = house.json(&alice, "/api/v1/requests", &wish).await;
        assert!(answer.status == 400 || answer.text("/start").is_empty(), "{start}: {answer:?}");
    }
    assert_eq!(
        house.get(&alice, &format!("/api/v1/grants/{grant}")).await.text("/expires_at"),
        approved.text("/expires_at")
    );
}

#[tokio::test]
async fn the_api_says_when_it_may_begin_and_what_a_grant_of_it_hangs_on() {
    let house = House::new(&databases()[0]).await;
    let (bob, _, _) = house.command_line("bob").await;
    let all = house.get(&bob, "/api/v1/entitlements").await;
    let of = |name: &str| {
        let items = all.body["items"].as_array().unwrap();
        items.iter().find(|item| item["name"] == name).cloned().unwrap_or_else(|| panic!("{all:?}"))
    };
    for entitlement in house.desk.policies.load().entitlements() {
        let shown = of(&entitlement.name.to_string());
        for (key, value) in [
            ("idle", entitlement.idle),
            ("earliest_start", entitlement.earliest_start),
            ("break", entitlement.break_after),
        ] {
            assert_eq!(shown[key], value.map_or(Value::Null, |length| json!(length.to_string())), "{shown}");
        }
    }
}
