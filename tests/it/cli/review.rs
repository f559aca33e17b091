//! Access reviews on the command line: what is sent, what is printed, and how it ends.

use doorward::cli::args::Format;
use doorward::cli::exit::Exit;
use doorward::cli::review::{Choice, DecideArgs, ListArgs, ReviewCommand, ShowArgs, StartArgs, run};
use doorward::model::{ServiceName, Ttl};
use serde_json::{Value, json};

use super::Person;
use super::access::page;
use super::fake_door::{FakeDoor, Reply, Seen, json_reply, present};
use super::renewal::sign_in;

const FIRST: &str = "rev_06h01rs2cto0b2afh7rgi8mlb0";
const SECOND: &str = "rev_06h01rs2cto0b2afh7rgi8mlb4";

fn rule_json(decision: &str) -> Value {
    json!({
        "item": 1, "kind": "permit", "name": "everyone-reads\u{1b}[2J", "summary": "permit (…);", "actions": ["read", "list"],
        "policies": [{"name": "everyone-reads", "roles": ["permits"], "text": "permit (principal, action, resource);"}],
        "sha256": "ab", "now": "changed", "state": decision, "removed_at": null,
        "decision": {
            "decision": decision, "reason": "nobody needs it", "at": present().to_string(),
            "by": {"kind": "User", "id": "dev|carol", "name": null, "email": "carol@example.com"},
        },
        "used": {"grants_active": 0, "grants_recent": 0, "people": 7, "last_used": null},
    })
}

fn review_json(id: &str, state: &str) -> Value {
    let now = present();
    json!({
        "id": id, "service": "wiki", "state": state, "policy_version": "sha256:00",
        "started_by": {"kind": "User", "id": "dev|carol", "name": null, "email": null},
        "started_at": now.to_string(), "due_at": now.plus(Ttl::hours(48)).to_string(), "overdue": false,
        "reviewers": ["carol@example.com"], "closed_at": null, "closed_by": null, "rules": 2, "undecided": 1,
        "to_remove": 1, "added_later": true,
    })
}

fn answer(seen: &Seen) -> Reply {
    let post = seen.method == http::Method::POST;
    match seen.path.as_str() {
        "/api/v1/reviews" if post => json_reply(200, &review_json(FIRST, "open")),
        "/api/v1/reviews" => page(&[review_json(FIRST, "open"), review_json(SECOND, "closed")]),
        path if path == format!("/api/v1/reviews/{FIRST}/close") => json_reply(200, &review_json(FIRST, "closed")),
        path if path == format!("/api/v1/reviews/{FIRST}/items/1/decision") => json_reply(200, &rule_json("remove")),
        path if path == format!("/api/v1/reviews/{FIRST}") => {
            let mut review = review_json(FIRST, "open");
            review["items"] = json!([rule_json("remove")]);
            json_reply(200, &review)
        }
        path if path.ends_with("/items/2/decision") => {
            let problem =
                json!({"type": "t", "title": "It is not for you to do", "status": 403, "reason": "own_access"});
            json_reply(403, &problem)
        }
        _ => json_reply(404, &json!({"type": "t", "title": "Not found", "status": 404, "reason": "not_found"})),
    }
}

async fn scene(format: Format) -> (FakeDoor, Person) {
    let door = FakeDoor::open(answer).await;
    let person = Person::with(&door, format);
    sign_in(&person, &door, Ttl::hours(1), "one");
    (door, person)
}

fn show(id: &str) -> ReviewCommand {
    ReviewCommand::Show(ShowArgs { id: id.to_owned() })
}

fn decide(item: u32) -> ReviewCommand {
    let reason = "nobody needs it".to_owned();
    ReviewCommand::Decide(DecideArgs { id: FIRST.to_owned(), item, choice: Choice::Remove, reason })
}

#[tokio::test]
async fn a_review_is_begun_under_a_key_and_shown_with_its_rules() {
    let start = ReviewCommand::Start(StartArgs {
        service: ServiceName::parse("wiki").unwrap(),
        due: Ttl::hours(48),
        reviewers: vec!["carol@example.com".to_owned()],
    });
    let (door, person) = scene(Format::Table).await;
    run(&person.context, &start).await.unwrap();
    let seen = door.seen();
    let sent = seen.iter().find(|seen| seen.method == http::Method::POST).unwrap();
    let body: Value = serde_json::from_str(&sent.body).unwrap();
    assert_eq!(body, json!({ "service": "wiki", "due": "2d", "reviewers": ["carol@example.com"] }));
    assert!(sent.header("idempotency-key").is_some_and(|key| key.len() == 64));
    let told = person.out.text();
    for part in [FIRST, "1 of 2", "read, list", "none seen", "carol@example.com: nobody needs it", "changed", "permits"]
    {
        assert!(told.contains(part), "{part}: {told}");
    }
    assert!(!told.contains('\u{1b}'), "a name moves no cursor");

    let (_door, person) = scene(Format::Json).await;
    run(&person.context, &start).await.unwrap();
    let printed: Value = serde_json::from_str(&person.out.text()).unwrap();
    assert_eq!((&printed["id"], &printed["added_later"]), (&json!(FIRST), &json!(true)));
}

#[tokio::test]
async fn a_decision_is_sent_with_its_reason_and_a_refusal_ends_with_four() {
    let (door, person) = scene(Format::Table).await;
    run(&person.context, &decide(1)).await.unwrap();
    let sent = door.seen().pop().unwrap();
    let body: Value = serde_json::from_str(&sent.body).unwrap();
    assert_eq!(body, json!({ "decision": "remove", "reason": "nobody needs it" }));
    assert!(person.talk.text().contains("until it is gone from the policies"), "{}", person.talk.text());
    assert_eq!(run(&person.context, &decide(2)).await.unwrap_err().exit, Exit::Denied);
    assert_eq!(run(&person.context, &decide(3)).await.unwrap_err().exit, Exit::Failed);
    let close = ReviewCommand::Close(ShowArgs { id: FIRST.to_owned() });
    run(&person.context, &close).await.unwrap();
    assert!(person.talk.text().contains("1 of 2 rules to be removed, 1 undecided"), "{}", person.talk.text());
}

#[tokio::test]
async fn reviews_are_listed_and_an_id_may_be_cut_short_where_it_is_one_things() {
    let (door, person) = scene(Format::Table).await;
    let service = ServiceName::parse("wiki").ok();
    let list = ListArgs { state: Some("open".to_owned()), service, limit: 5, cursor: None };
    run(&person.context, &ReviewCommand::List(list)).await.unwrap();
    assert_eq!(door.seen().pop().unwrap().query, "limit=5&state=open&service=wiki");
    assert!(person.out.text().contains(SECOND) && person.out.text().contains("TO REMOVE"), "{}", person.out.text());
    assert_eq!(run(&person.context, &show(&FIRST[..20])).await.unwrap_err().exit, Exit::Usage, "two begin so");
    assert_eq!(run(&person.context, &show("rev_zz")).await.unwrap_err().exit, Exit::Failed);
    for wrong in ["", "rev_", "grt_06h0", "rev_../x", "nonsense"] {
        assert_eq!(run(&person.context, &show(wrong)).await.unwrap_err().exit, Exit::Usage, "{wrong}");
    }
}
