//! What policies and accounts do to requests between asking and granting: more than one approver,
//! accounts that turn out to be one human, changed definitions and lost rights; A50, A52, A53.

use std::path::Path;
use std::sync::Arc;

use doorward::control::access::sweep;
use doorward::model::{Clock, NodeId, Ttl};
use doorward::policy::{PolicySet, load};
use serde_json::{Value, json};

use crate::api_house::{Answer, Caller, House};
use crate::policy::{settings, shown};
use crate::support::{copy_folder, databases, temporary_folder};

/// The policies of the examples, changed: text → text in a file of `ops-api/`, and whole new files.
fn changed(changes: &[(&str, &str, &str)], more: &[(&str, &str)]) -> PolicySet {
    let folder = temporary_folder();
    let from = Path::new(env!("CARGO_MANIFEST_DIR")).join("policies");
    copy_folder(&from, folder.path());
    for (file, old, new) in changes {
        let path = folder.path().join("ops-api").join(file);
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(text.contains(old), "`{old}` is in {file}");
        std::fs::write(path, text.replace(old, new)).unwrap();
    }
    for (file, text) in more {
        std::fs::write(folder.path().join(file), text).unwrap();
    }
    load(folder.path(), &settings()).unwrap_or_else(|found| panic!("{}", shown(&found)))
}

const TWO: (&str, &str, &str) = ("service.toml", "approvals = 1", "approvals = 2");
/// Security may approve as well.
const SECURITY_TOO: (&str, &str, &str) = (
    "access.cedar",
    "// Nobody ever approves",
    "permit (principal in Group::\"security\", action == Action::\"approve\", resource == Entitlement::\"ops-api/deploy-prod\");\n// Nobody ever approves",
);

async fn ask(house: &House, caller: &Caller) -> String {
    let body = json!({ "entitlement": "ops-api/deploy-prod", "reason": "hotfix", "ticket": "OPS-12", "for": "30m" });
    let made = house.json(caller, "/api/v1/requests", &body).await;
    assert_eq!(made.status, 201, "{made:?}");
    made.text("/id").to_owned()
}

async fn answer(house: &House, caller: &Caller, id: &str, word: &str) -> Answer {
    house.json(caller, &format!("/api/v1/requests/{id}/approvals"), &json!({ "answer": word })).await
}

/// What is to begin in ten minutes does not: it is left to nodes with other policies for a while, and then it is over.
async fn is_never_begun(house: &House, requester: &Caller, id: &str) {
    for (minutes, state) in [(11, "scheduled"), (5, "revoked")] {
        house.clock.advance(Ttl::minutes(minutes));
        sweep::round(&house.desk, NodeId::from_bytes([1; 16]), house.clock.now()).await.unwrap();
        let request = house.get(requester, &format!("/api/v1/requests/{id}")).await;
        assert_eq!(request.text("/state"), state, "{request:?}");
    }
}

fn put(house: &House, set: PolicySet) {
    house.desk.policies.store(Arc::new(set));
}

#[tokio::test]
async fn two_people_are_needed_where_two_are_asked_for() {
    for url in databases() {
        let house = House::new(&url).await;
        put(&house, changed(&[TWO, SECURITY_TOO], &[]));
        let (alice, _, _) = house.command_line("alice").await;
        let (bob, _, _) = house.command_line("bob").await;
        let (carol, _, _) = house.command_line("carol").await;
        let id = ask(&house, &alice).await;
        let first = answer(&house, &bob, &id, "approve").await;
        assert_eq!((first.status.as_u16(), first.text("/state")), (200, "pending"), "{first:?}");
        let again = answer(&house, &bob, &id, "approve").await;
        assert_eq!(again.status, 409, "{again:?}");
        assert_eq!(answer(&house, &carol, &id, "approve").await.text("/state"), "active");
    }
}

#[tokio::test]
async fn a50_an_approval_of_somebody_who_turns_out_to_be_the_requester_does_not_count() {
    for url in databases() {
        let house = House::new(&url).await;
        put(&house, changed(&[TWO, SECURITY_TOO], &[]));
        let (alice, _, _) = house.command_line("alice").await;
        let (bob, _, _) = house.command_line("bob").await;
        let (carol, _, _) = house.command_line("carol").await;
        let id = ask(&house, &alice).await;
        assert_eq!(answer(&house, &bob, &id, "approve").await.status, 200);
        // Only now it is known that both accounts are Alice's.
        let people = "[[person]]\nname = \"Alice\"\naccounts = [\"dev|alice\", \"dev|bob\"]\n";
        put(&house, changed(&[TWO, SECURITY_TOO], &[("people.toml", people)]));
        let second = answer(&house, &carol, &id, "approve").await;
        assert_eq!((second.status.as_u16(), second.text("/state")), (200, "pending"), "{second:?}");
    }
}

#[tokio::test]
async fn who_approved_may_still_say_no_while_others_are_awaited() {
    for url in databases() {
        let house = House::new(&url).await;
        put(&house, changed(&[TWO, SECURITY_TOO], &[]));
        let (alice, _, _) = house.command_line("alice").await;
        let (bob, _, _) = house.command_line("bob").await;
        let id = ask(&house, &alice).await;
        assert_eq!(answer(&house, &bob, &id, "approve").await.status, 200);
        let denied = answer(&house, &bob, &id, "deny").await;
        assert_eq!((denied.status.as_u16(), denied.text("/state")), (200, "denied"), "{denied:?}");
        let answers = denied.body["approvals"].as_array().unwrap();
        assert_eq!(answers.iter().map(|it| it["answer"].as_str().unwrap()).collect::<Vec<_>>(), ["deny"]);
    }
}

#[tokio::test]
async fn a52_an_approval_is_void_once_the_entitlement_opens_more() {
    for url in databases() {
        let house = House::new(&url).await;
        put(&house, changed(&[TWO, SECURITY_TOO], &[]));
        let (alice, _, _) = house.command_line("alice").await;
        let (bob, _, _) = house.command_line("bob").await;
        let (carol, _, _) = house.command_line("carol").await;
        let id = ask(&house, &alice).await;
        let waits = async |caller| house.get(caller, "/api/v1/requests?to_approve=true").await.body["items"].clone();
        assert_eq!(waits(&bob).await[0]["id"], id.as_str());
        assert_eq!(answer(&house, &bob, &id, "approve").await.status, 200);
        assert_eq!(waits(&bob).await, json!([]), "it waits for Carol");
        assert_eq!(waits(&carol).await[0]["id"], id.as_str());
        let wider = ("service.toml", "actions = [\"deploy\"]", "actions = [\"deploy\", \"admin\"]");
        put(&house, changed(&[TWO, SECURITY_TOO, wider], &[]));
        let next = answer(&house, &carol, &id, "approve").await;
        assert_eq!((next.status.as_u16(), next.text("/state")), (200, "pending"), "Bob saw something else: {next:?}");
        assert_eq!(next.body["actions"], json!(["admin", "deploy"]));
        assert_eq!(waits(&bob).await[0]["id"], id.as_str(), "and for Bob again, whose answer is void");
        assert_eq!(answer(&house, &bob, &id, "approve").await.text("/state"), "active");
    }
}

#[tokio::test]
async fn a52_what_another_service_opens_is_approved_too_and_what_was_approved_is_void_once_it_opens_more() {
    let metrics = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("policies/metrics/access.cedar"));
    let more = "permit (principal in Entitlement::\"ops-api/deploy-prod\", action == Action::\"manage\", resource);\n";
    let metrics = format!("{}{more}", metrics.unwrap());
    let elsewhere = [("metrics/access.cedar", metrics.as_str())];
    for url in databases() {
        let house = House::new(&url).await;
        put(&house, changed(&[SECURITY_TOO], &[]));
        let (alice, _, _) = house.command_line("alice").await;
        let (bob, _, _) = house.command_line("bob").await;
        let (carol, _, _) = house.command_line("carol").await;
        // Approved before, to begin after.
        let start = house.clock.now().plus(Ttl::minutes(10));
        let body: Value = json!({
            "entitlement": "ops-api/deploy-prod", "reason": "hotfix", "ticket": "OPS-12", "start": start.to_string()
        });
        let scheduled = house.json(&alice, "/api/v1/requests", &body).await;
        assert_eq!(scheduled.body["actions"], json!(["deploy"]));
        assert_eq!(answer(&house, &bob, scheduled.text("/id"), "approve").await.text("/state"), "scheduled");

        put(&house, changed(&[TWO, SECURITY_TOO], &[]));
        let id = ask(&house, &alice).await;
        assert_eq!(answer(&house, &bob, &id, "approve").await.text("/state"), "pending");
        put(&house, changed(&[TWO, SECURITY_TOO], &elsewhere));
        let next = answer(&house, &carol, &id, "approve").await;
        assert_eq!((next.status.as_u16(), next.text("/state")), (200, "pending"), "Bob saw something else: {next:?}");
        assert_eq!(next.body["actions"], json!(["deploy", "metrics/manage"]));
        let granted = answer(&house, &bob, &id, "approve").await;
        assert_eq!(granted.text("/state"), "active", "{granted:?}");
        let grant = house.get(&alice, &format!("/api/v1/grants/{}", granted.text("/grant"))).await;
        assert_eq!(grant.body["actions"], json!(["deploy", "metrics/manage"]), "{grant:?}");

        put(&house, changed(&[SECURITY_TOO], &elsewhere));
        is_never_begun(&house, &alice, scheduled.text("/id")).await;
    }
}

#[tokio::test]
async fn a_parameter_that_could_look_like_another_line_is_refused_by_its_name() {
    let house = House::new(&databases()[0]).await;
    put(&house, changed(&[("service.toml", "approvals = 1", "approvals = 1\nparameters.note = {}")], &[]));
    let (alice, _, _) = house.command_line("alice").await;
    for (note, status) in [("a\nfor  2m", 400), ("a\u{202e}b", 400), ("a b", 201)] {
        let body: Value = json!({
            "entitlement": "ops-api/deploy-prod", "reason": "hotfix", "ticket": "OPS-12", "params": { "note": note }
        });
        let made = house.json(&alice, "/api/v1/requests", &body).await;
        assert_eq!(made.status.as_u16(), status, "{note:?}: {made:?}");
        assert!(status == 201 || made.text("/detail").starts_with("`note` has the character U+"), "{made:?}");
    }
    // One that is left empty is not given.
    let optional = "approvals = 1\nparameters.note = { required = false }";
    put(&house, changed(&[("service.toml", "approvals = 1", optional)], &[]));
    let body = json!({
        "entitlement": "ops-api/deploy-prod", "reason": "hotfix", "ticket": "OPS-12", "params": { "note": " " }
    });
    let made = house.json(&alice, "/api/v1/requests", &body).await;
    assert_eq!((made.status.as_u16(), &made.body["params"]), (201, &json!({})), "{made:?}");
}

#[tokio::test]
async fn a53_the_right_to_ask_is_asked_again_when_a_request_is_granted_and_when_it_begins() {
    for url in databases() {
        let house = House::new(&url).await;
        let (alice, _, _) = house.command_line("alice").await;
        let (bob, _, _) = house.command_line("bob").await;
        let id = ask(&house, &alice).await;
        let nobody_asks = ("access.cedar", "@id(\"engineers-ask-for-prod\")\npermit", "@id(\"nobody-asks\")\nforbid");
        put(&house, changed(&[nobody_asks], &[]));
        let late = answer(&house, &bob, &id, "approve").await;
        assert_eq!((late.status.as_u16(), late.text("/reason")), (409, "ineligible"), "{late:?}");

        // Scheduled while it was allowed, and not begun once it is not.
        put(&house, changed(&[], &[]));
        let start = house.clock.now().plus(Ttl::minutes(10));
        let body: Value = json!({
            "entitlement": "ops-api/deploy-prod", "reason": "hotfix", "ticket": "OPS-12", "start": start.to_string()
        });
        let made = house.json(&alice, "/api/v1/requests", &body).await;
        assert_eq!(answer(&house, &bob, made.text("/id"), "approve").await.text("/state"), "scheduled");
        put(&house, changed(&[nobody_asks], &[]));
        is_never_begun(&house, &alice, made.text("/id")).await;
    }
}
