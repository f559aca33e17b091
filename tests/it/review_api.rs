//! Access reviews through the API: rules are taken down, decided by those who may, and followed until
//! what was to go is gone; on both engines.

use std::path::Path;
use std::sync::Arc;

use doorward::audit::{Event, EventType, Outcome};
use doorward::control::review;
use doorward::model::{NodeId, Principal, ServiceName, Ttl};
use doorward::policy::{LoadSettings, PolicySet, load};
use doorward::store::{EventFilter, Recorded};
use serde_json::{Value, json};

use crate::api_house::{Answer, Caller, House};
use crate::support::{copy_folder, databases, temporary_folder};

/// The policies of the product, with `access.cedar` of ops-api changed.
fn policies(change: impl Fn(&str) -> String) -> PolicySet {
    let folder = temporary_folder();
    copy_folder(&Path::new(env!("CARGO_MANIFEST_DIR")).join("policies"), folder.path());
    let file = folder.path().join("ops-api/access.cedar");
    let text = std::fs::read_to_string(&file).unwrap();
    let changed = change(&text);
    assert_ne!(changed, text, "the change is one");
    std::fs::write(&file, changed).unwrap();
    load(folder.path(), &LoadSettings { domain: "doorward.localhost".to_owned(), groups: Vec::new() }).unwrap()
}

/// Without the statement of that `@id`.
fn without(text: &str, id: &str) -> String {
    let start = text.find(&format!("@id(\"{id}\")")).unwrap();
    let end = start + text[start..].find(';').unwrap() + 1;
    format!("{}{}", &text[..start], &text[end..])
}

/// Begins a review and gives it with its rules, or the refusal.
async fn start(house: &House, caller: &Caller, body: &Value) -> Answer {
    let answer = house.json(caller, "/api/v1/reviews", body).await;
    if answer.status != 200 {
        return answer;
    }
    house.get(caller, &format!("/api/v1/reviews/{}", answer.text("/id"))).await
}

async fn decide(house: &House, caller: &Caller, id: &str, item: u64, decision: &str, reason: &str) -> Answer {
    let path = format!("/api/v1/reviews/{id}/items/{item}/decision");
    house.json(caller, &path, &json!({ "decision": decision, "reason": reason })).await
}

fn refused(answer: &Answer) -> (u16, &str) {
    (answer.status.as_u16(), answer.text("/reason"))
}

/// The number of the rule of that name.
fn item(review: &Answer, name: &str) -> u64 {
    let items = review.body["items"].as_array().unwrap();
    items.iter().find(|item| item["name"] == name).unwrap_or_else(|| panic!("{name}: {items:#?}"))["item"]
        .as_u64()
        .unwrap()
}

/// A rule as it is told.
async fn rule(house: &House, caller: &Caller, id: &str, item: u64) -> Value {
    let review = house.get(caller, &format!("/api/v1/reviews/{id}")).await;
    review.body["items"][usize::try_from(item).unwrap() - 1].clone()
}

async fn events(house: &House, kind: EventType) -> Vec<Recorded> {
    let filter = EventFilter { kind: Some(kind), ..EventFilter::default() };
    let mut found = house.desk.store.event_list(&filter, 100).await.unwrap();
    found.reverse();
    found
}

/// Puts on record that `who` came through by a permit.
async fn came_through(house: &House, who: &str, permit: &str) {
    let now = house.now();
    let mut event = Event::new(house.desk.event_id(now), now, EventType::DecisionAllow, Outcome::Success)
        .with("policies", vec![permit.to_owned()]);
    event.actor.principal = Principal::user("dev", who);
    event.service = ServiceName::parse("ops-api").ok();
    let mut tx = house.desk.store.begin().await.unwrap();
    tx.event_append(&event).await.unwrap();
    tx.commit().await.unwrap();
}

async fn sweep(house: &House) {
    // The duty is this node's for a minute.
    house.clock.advance(Ttl::minutes(2));
    review::sweep::round(&house.desk, NodeId::from_bytes([1; 16]), house.now()).await.unwrap();
}

#[tokio::test]
async fn a_review_takes_down_every_rule_with_who_may_ask_approve_and_come_in_without_a_grant() {
    for url in databases() {
        let house = House::new(&url).await;
        let (carol, _, _) = house.command_line("carol").await;
        came_through(&house, "alice", "engineers-look").await;
        let review = start(&house, &carol, &json!({ "service": "ops-api", "due": "7d" })).await;
        assert_eq!((review.status.as_u16(), review.text("/state")), (200, "open"), "{review:?}");
        assert_eq!((review.body["rules"].as_u64(), review.body["undecided"].as_u64()), (Some(5), Some(5)));
        assert_eq!(review.text("/policy_version"), &**house.desk.policies.load().version());
        let id = review.text("/id");
        let entitlement = &review.body["items"][item(&review, "ops-api/deploy-prod") as usize - 1];
        assert_eq!(
            (entitlement["kind"].as_str(), entitlement["actions"][0].as_str()),
            (Some("entitlement"), Some("deploy"))
        );
        let roles: Vec<_> = entitlement["policies"]
            .as_array()
            .unwrap()
            .iter()
            .map(|it| (it["roles"][0].as_str().unwrap(), it["name"].as_str().unwrap()))
            .collect();
        assert_eq!(
            roles,
            [
                ("opens", "deploy-prod-while-granted"),
                ("request", "engineers-ask-for-prod"),
                ("approve", "release-managers-approve-prod")
            ]
        );
        let shown = rule(&house, &carol, id, item(&review, "engineers-look")).await;
        assert_eq!((shown["kind"].as_str(), shown["used"]["people"].as_u64()), (Some("permit"), Some(1)), "{shown:#}");
        assert!(shown["used"]["last_used"].is_string() && shown["summary"].as_str().unwrap().contains("engineering"));
        // It is on record, with what was there before: nothing.
        let told = events(&house, EventType::ReviewStarted).await;
        assert_eq!(told.len(), 1);
        assert_eq!((told[0].text("/data/review"), told[0].text("/data/after/state")), (Some(id), Some("open")));
        assert_eq!(told[0].body["data"]["rule_list"].as_array().map(Vec::len), Some(5));
        assert_eq!(told[0].body["data"]["rules"], 5);
        assert_eq!(told[0].clear().service.as_ref().map(ServiceName::as_str), Some("ops-api"));
    }
}

#[tokio::test]
async fn a_service_of_many_rules_is_reviewed_as_any_other() {
    for url in databases() {
        let house = House::new(&url).await;
        let (carol, _, _) = house.command_line("carol").await;
        let many = |text: &str| {
            let permit = |number: u32| {
                format!(
                    "@id(\"one-of-many-{number}\")\npermit (principal in Group::\"g{number}\", action == Action::\"echo\", resource);\n"
                )
            };
            text.to_owned() + &(0..400).map(permit).collect::<String>()
        };
        house.desk.policies.store(Arc::new(policies(many)));
        let review = start(&house, &carol, &json!({ "service": "ops-api" })).await;
        assert_eq!(review.body["items"].as_array().map(Vec::len), Some(405), "{review:?}");
        // What reports count by is in the event, and a hash of all the rest.
        let told = events(&house, EventType::ReviewStarted).await;
        assert_eq!(
            (told[0].text("/data/review"), told[0].body["data"]["undecided"].as_u64()),
            (Some(review.text("/id")), Some(405))
        );
        assert!(told[0].text("/data/rules_sha256").is_some() && told[0].body["data"]["rule_list"].is_null());
        let last = decide(&house, &carol, review.text("/id"), 405, "remove", &"x".repeat(1000)).await;
        assert_eq!((last.status.as_u16(), last.text("/name")), (200, "one-of-many-399"), "{last:?}");
    }
}

#[tokio::test]
async fn decisions_give_way_until_the_review_is_closed_and_each_is_on_record_with_what_was_before() {
    for url in databases() {
        let house = House::new(&url).await;
        let (carol, _, _) = house.command_line("carol").await;
        let review = start(&house, &carol, &json!({ "service": "ops-api" })).await;
        let (id, look) = (review.text("/id"), item(&review, "engineers-look"));
        let first = decide(&house, &carol, id, look, "keep", "all need it").await;
        assert_eq!(
            (first.status.as_u16(), first.text("/state"), first.text("/decision/reason")),
            (200, "keep", "all need it"),
            "{first:?}"
        );
        house.clock.advance(Ttl::seconds(1));
        let second = decide(&house, &carol, id, look, "remove", " too wide ").await;
        assert_eq!((second.text("/state"), second.text("/decision/reason")), ("remove", "too wide"));
        let told = events(&house, EventType::ReviewDecided).await;
        assert_eq!(told.len(), 2);
        assert_eq!(
            (told[0].body["data"]["before"].clone(), told[0].text("/data/after/decision")),
            (Value::Null, Some("keep"))
        );
        assert_eq!(
            (told[1].text("/data/before/decision"), told[1].text("/data/after/decision")),
            (Some("keep"), Some("remove"))
        );
        assert_eq!(told[1].body["data"]["undecided"], 4);
        let closed = house.json(&carol, &format!("/api/v1/reviews/{id}/close"), &json!({})).await;
        assert_eq!(
            (closed.text("/state"), closed.body["to_remove"].as_u64(), closed.body["undecided"].as_u64()),
            ("closed", Some(1), Some(4))
        );
        assert_eq!(events(&house, EventType::ReviewClosed).await[0].text("/data/after/state"), Some("closed"));
        // What is over is over.
        assert_eq!(refused(&decide(&house, &carol, id, look, "keep", "after all").await), (409, "review_closed"));
        let again = house.json(&carol, &format!("/api/v1/reviews/{id}/close"), &json!({})).await;
        assert_eq!(refused(&again), (409, "review_closed"));
    }
}

#[tokio::test]
async fn bad_input_is_told_what_is_wrong_with_it() {
    for url in databases() {
        let house = House::new(&url).await;
        let (carol, _, _) = house.command_line("carol").await;
        let (alice, _, _) = house.command_line("alice").await;
        let ops = json!({ "service": "ops-api" });
        // Who may not review starts, decides and closes nothing, and is not told that there is one.
        assert_eq!(start(&house, &alice, &ops).await.status, 403);
        let review = start(&house, &carol, &ops).await;
        let (id, look) = (review.text("/id"), item(&review, "engineers-look"));
        assert_eq!(decide(&house, &alice, id, look, "keep", "mine").await.status, 403);
        assert_eq!(house.json(&alice, &format!("/api/v1/reviews/{id}/close"), &json!({})).await.status, 403);
        assert_eq!(house.get(&alice, &format!("/api/v1/reviews/{id}")).await.status, 404);
        assert_eq!(house.get(&alice, "/api/v1/reviews").await.body["items"], json!([]));
        assert_eq!(house.get(&Caller::default(), "/api/v1/reviews").await.status, 401);
        assert_eq!(start(&house, &carol, &json!({ "service": "nowhere" })).await.status, 404);
        for body in [
            json!({ "service": "../etc" }),
            json!({ "service": "ops-api", "due": "59m" }),
            json!({ "service": "ops-api", "due": "400d" }),
            json!({ "service": "ops-api", "due": "soon" }),
            json!({ "service": "ops-api", "reviewers": ["a b"] }),
            json!({ "service": "ops-api", "reviewers": vec!["x"; 51] }),
            json!({ "service": "ops-api", "more": 1 }),
            json!({}),
        ] {
            assert_eq!(start(&house, &carol, &body).await.status, 400, "{body}");
        }
        let second = start(&house, &carol, &ops).await;
        assert_eq!(refused(&second), (409, "review_open"));
        assert!(second.text("/detail").contains(id), "{second:?}");
        for (item, decision, reason, status) in [
            (look, "keep", "", 400),
            (look, "keep", "  \n ", 400),
            (look, "keep", &*"x".repeat(1001), 400),
            (look, "maybe", "x", 400),
            (99, "keep", "x", 404),
            (0, "keep", "x", 404),
        ] {
            assert_eq!(decide(&house, &carol, id, item, decision, reason).await.status, status, "{item} {decision}");
        }
        let unknown = "rev_06h01rs2cto0b2afh7rgi8mlb0";
        assert_eq!(decide(&house, &carol, unknown, 1, "keep", "x").await.status, 404);
        assert_eq!(decide(&house, &carol, "grt_x", 1, "keep", "x").await.status, 404);
        assert_eq!(house.json(&carol, &format!("/api/v1/reviews/{unknown}/close"), &json!({})).await.status, 404);
        for wrong in ["state=gone", "cursor=rev_x", "limit=0", "service=A"] {
            assert_eq!(house.get(&carol, &format!("/api/v1/reviews?{wrong}")).await.status, 400, "{wrong}");
        }
    }
}

#[tokio::test]
async fn a_decision_on_a_rule_that_was_changed_or_went_meanwhile_is_refused() {
    for url in databases() {
        let house = House::new(&url).await;
        let (carol, _, _) = house.command_line("carol").await;
        let review = start(&house, &carol, &json!({ "service": "ops-api" })).await;
        let id = review.text("/id");
        let (look, staging, prod) = (
            item(&review, "engineers-look"),
            item(&review, "engineers-deploy-staging"),
            item(&review, "ops-api/deploy-prod"),
        );
        // One is wider, one is gone, somebody else approves; a comment and a line break change nothing.
        let changed = policies(|text| {
            let text = text.replace("Action::\"ws\"]", "Action::\"ws\", Action::\"admin\"]");
            let text = text.replace("Group::\"release-managers\"", "Group::\"engineering\"");
            let text = text.replace("@id(\"security-administers\")", "// Of late.\n@id(\"security-administers\")\n");
            without(&text, "engineers-deploy-staging")
        });
        house.desk.policies.store(Arc::new(changed));
        for (number, now, reason) in
            [(look, "changed", "rule_changed"), (staging, "gone", "rule_gone"), (prod, "changed", "rule_changed")]
        {
            assert_eq!(rule(&house, &carol, id, number).await["now"], now);
            let answer = decide(&house, &carol, id, number, "keep", "it was fine").await;
            assert_eq!(refused(&answer), (409, reason), "{answer:?}");
        }
        let same = item(&review, "security-administers");
        assert_eq!(rule(&house, &carol, id, same).await["now"], "same");
        assert_eq!(decide(&house, &carol, id, same, "keep", "needed").await.status, 200);
        // Nobody has to decide about what is gone: two that changed and one that did not are left.
        let left = house.get(&carol, &format!("/api/v1/reviews/{id}")).await;
        assert_eq!(left.body["undecided"], 3, "{left:?}");
    }
}

#[tokio::test]
async fn a_permit_without_an_id_is_known_by_what_it_means_wherever_it_stands() {
    for url in databases() {
        let house = House::new(&url).await;
        let (carol, _, _) = house.command_line("carol").await;
        let own = "permit (principal in Group::\"security\", action == Action::\"echo\", resource);\n";
        let other = "permit (principal in Group::\"engineering\", action == Action::\"admin\", resource);\n";
        house.desk.policies.store(Arc::new(policies(|text| format!("{text}{own}"))));
        let review = start(&house, &carol, &json!({ "service": "ops-api" })).await;
        let (id, number) = (review.text("/id"), 6);
        let name = review.text("/items/5/name").to_owned();
        assert!(name.starts_with("ops-api/access.cedar:"), "{review:?}");
        // Another stands on its line now, and it is further down.
        house.desk.policies.store(Arc::new(policies(|text| format!("{text}{other}{own}"))));
        assert_eq!(rule(&house, &carol, id, number).await["now"], "same");
        assert_eq!(decide(&house, &carol, id, number, "remove", "security looks elsewhere").await.status, 200);
        house.desk.policies.store(Arc::new(policies(|text| format!("{text}{other}"))));
        sweep(&house).await;
        assert_eq!(rule(&house, &carol, id, number).await["state"], "removed");
        assert_eq!(events(&house, EventType::ReviewRemoved).await[0].text("/data/name"), Some(&*name));
    }
}

#[tokio::test]
async fn what_is_to_go_is_a_finding_until_it_is_gone_and_again_when_it_comes_back_under_another_name() {
    for url in databases() {
        let house = House::new(&url).await;
        let (carol, _, _) = house.command_line("carol").await;
        let before = house.desk.policies.load_full();
        let review = start(&house, &carol, &json!({ "service": "ops-api" })).await;
        let (id, staging) = (review.text("/id"), item(&review, "engineers-deploy-staging"));
        assert_eq!(decide(&house, &carol, id, staging, "remove", "staging is open").await.status, 200);
        sweep(&house).await;
        assert_eq!(events(&house, EventType::ReviewRemoved).await.len(), 0);
        assert_eq!(events(&house, EventType::ReviewOutstanding).await.len(), 0);
        // It is told again after a week, once.
        house.clock.advance(Ttl::hours(24 * 7));
        sweep(&house).await;
        sweep(&house).await;
        let told = events(&house, EventType::ReviewOutstanding).await;
        assert_eq!(told.len(), 1);
        assert_eq!(
            (told[0].text("/data/what"), told[0].text("/data/name")),
            (Some("to_remove"), Some("engineers-deploy-staging"))
        );
        house.desk.policies.store(Arc::new(policies(|text| without(text, "engineers-deploy-staging"))));
        sweep(&house).await;
        sweep(&house).await;
        let told = events(&house, EventType::ReviewRemoved).await;
        assert_eq!((told.len(), told[0].body["data"]["item"].as_u64()), (1, Some(staging)));
        let (carol, _, _) = house.command_line("carol").await;
        assert_eq!(rule(&house, &carol, id, staging).await["state"], "removed");
        // The same under another name is the same.
        let renamed = policies(|text| text.replace("engineers-deploy-staging", "harmless"));
        house.desk.policies.store(Arc::new(renamed));
        sweep(&house).await;
        let told = events(&house, EventType::ReviewOutstanding).await;
        assert_eq!((told.len(), told[1].text("/data/what")), (2, Some("back")));
        assert_eq!(rule(&house, &carol, id, staging).await["state"], "remove");
        house.desk.policies.store(before);
    }
}

#[tokio::test]
async fn what_is_undecided_when_it_is_due_is_put_on_record_each_week() {
    for url in databases() {
        let house = House::new(&url).await;
        let (carol, _, _) = house.command_line("carol").await;
        let review = start(&house, &carol, &json!({ "service": "ops-api", "due": "1d" })).await;
        assert_eq!(decide(&house, &carol, review.text("/id"), 1, "keep", "needed").await.status, 200);
        sweep(&house).await;
        assert_eq!(events(&house, EventType::ReviewOutstanding).await.len(), 0);
        house.clock.advance(Ttl::hours(24));
        sweep(&house).await;
        sweep(&house).await;
        let told = events(&house, EventType::ReviewOutstanding).await;
        assert_eq!((told.len(), told[0].body["data"]["undecided"].as_u64()), (1, Some(4)));
        house.clock.advance(Ttl::hours(24 * 7));
        sweep(&house).await;
        assert_eq!(events(&house, EventType::ReviewOutstanding).await.len(), 2);
        let (carol, _, _) = house.command_line("carol").await;
        let listed = house.get(&carol, "/api/v1/reviews?state=open&service=ops-api").await;
        assert_eq!(listed.body["items"][0]["overdue"], true);
        // Closing it makes nothing decided; another review takes its place.
        let path = format!("/api/v1/reviews/{}/close", review.text("/id"));
        assert_eq!(house.json(&carol, &path, &json!({})).await.status, 200);
        house.clock.advance(Ttl::hours(24 * 7));
        sweep(&house).await;
        let told = events(&house, EventType::ReviewOutstanding).await;
        assert_eq!((told.len(), told[2].text("/data/state")), (3, Some("closed")));
        let (carol, _, _) = house.command_line("carol").await;
        start(&house, &carol, &json!({ "service": "ops-api" })).await;
        house.clock.advance(Ttl::hours(24 * 7));
        sweep(&house).await;
        assert_eq!(events(&house, EventType::ReviewOutstanding).await.len(), 3);
    }
}

#[tokio::test]
async fn nobody_decides_alone_about_what_only_they_hold_approve_use_or_are_named_in() {
    for url in databases() {
        let house = House::new(&url).await;
        let (alice, _, _) = house.command_line("alice").await;
        let (bob, _, _) = house.command_line("bob").await;
        let (carol, _, _) = house.command_line("carol").await;
        house.desk.policies.store(Arc::new(policies(|text| {
            format!("{text}\n@id(\"for-carol\")\npermit (principal == User::\"dev|carol\", action == Action::\"echo\", resource);\n")
        })));
        let review = start(&house, &carol, &json!({ "service": "ops-api" })).await;
        let id = review.text("/id");
        // Whom it names.
        let named = item(&review, "for-carol");
        let answer = decide(&house, &carol, id, named, "keep", "I like it").await;
        assert_eq!(refused(&answer), (403, "own_access"), "{answer:?}");
        assert_eq!(decide(&house, &bob, id, named, "remove", "one of many").await.status, 200);
        // Who used it alone: until somebody else did too.
        let admin = item(&review, "security-administers");
        came_through(&house, "carol", "security-administers").await;
        assert_eq!(refused(&decide(&house, &carol, id, admin, "keep", "mine").await), (403, "own_access"));
        came_through(&house, "erin", "security-administers").await;
        assert_eq!(decide(&house, &carol, id, admin, "keep", "ours").await.status, 200);
        // Who approved it alone; another decides.
        let prod = item(&review, "ops-api/deploy-prod");
        let asked = json!({ "entitlement": "ops-api/deploy-prod", "reason": "a release", "ticket": "OPS-1" });
        let request = house.json(&alice, "/api/v1/requests", &asked).await;
        let path = format!("/api/v1/requests/{}/approvals", request.text("/id"));
        assert_eq!(house.json(&bob, &path, &json!({ "answer": "approve" })).await.status, 200);
        let answer = decide(&house, &bob, id, prod, "keep", "I approve it").await;
        assert_eq!(refused(&answer), (403, "own_access"), "{answer:?}");
        assert!(answer.text("/detail").contains("who approved it"), "{answer:?}");
        let shown = rule(&house, &carol, id, prod).await;
        assert_eq!((shown["used"]["grants_active"].as_u64(), shown["used"]["people"].as_u64()), (Some(1), Some(1)));
        assert_eq!(decide(&house, &carol, id, prod, "keep", "releases need it").await.status, 200);
    }
}

#[tokio::test]
async fn where_reviewers_are_named_only_they_decide() {
    for url in databases() {
        let house = House::new(&url).await;
        let (bob, _, _) = house.command_line("bob").await;
        let (carol, _, _) = house.command_line("carol").await;
        let body = json!({ "service": "ops-api", "reviewers": ["BOB@example.com", "dev|erin"] });
        let review = start(&house, &carol, &body).await;
        let (id, look) = (review.text("/id"), item(&review, "engineers-look"));
        assert_eq!(refused(&decide(&house, &carol, id, look, "keep", "fine").await), (403, "not_reviewer"));
        assert_eq!(decide(&house, &bob, id, look, "keep", "fine").await.status, 200);
    }
}

#[tokio::test]
async fn reviews_are_listed_page_by_page_and_an_idempotency_key_begins_one_only() {
    for url in databases() {
        let house = House::new(&url).await;
        let (mut carol, _, _) = house.command_line("carol").await;
        for service in ["metrics", "legacy-wiki"] {
            house.clock.advance(Ttl::seconds(1));
            assert_eq!(start(&house, &carol, &json!({ "service": service })).await.status, 200);
        }
        house.clock.advance(Ttl::seconds(1));
        carol.headers.push(("idempotency-key", "once".to_owned()));
        let first = start(&house, &carol, &json!({ "service": "ops-api" })).await;
        let again = start(&house, &carol, &json!({ "service": "ops-api" })).await;
        assert_eq!((again.status.as_u16(), again.text("/id")), (200, first.text("/id")), "{again:?}");
        let (mut found, mut path) = (Vec::new(), "/api/v1/reviews?limit=1".to_owned());
        for _ in 0..5 {
            let page = house.get(&carol, &path).await;
            found.push(page.text("/items/0/service").to_owned());
            let Some(next) = page.body["next"].as_str() else { break };
            path = format!("/api/v1/reviews?limit=1&cursor={next}");
        }
        assert_eq!(found, ["ops-api", "legacy-wiki", "metrics"]);
        let one = house.get(&carol, "/api/v1/reviews?service=metrics").await;
        assert_eq!(one.body["items"].as_array().map(Vec::len), Some(1));
        assert!(one.body["items"][0]["items"].is_null(), "rules are told of one review");
    }
}
