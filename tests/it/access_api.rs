//! Just-in-time access through the API: asked, answered by somebody else, used up or ended; and what
//! must not work.

use doorward::model::Ttl;
use serde_json::{Value, json};

use crate::api_house::{Answer, Caller, House};
use crate::support::databases;

fn asked() -> Value {
    json!({ "entitlement": "ops-api/deploy-prod", "reason": "hotfix", "ticket": "OPS-12", "for": "30m" })
}

async fn ask(house: &House, caller: &Caller) -> Answer {
    let made = house.json(caller, "/api/v1/requests", &asked()).await;
    assert_eq!(made.status, 201, "{made:?}");
    made
}

async fn answer(house: &House, caller: &Caller, id: &str, body: &Value) -> Answer {
    house.json(caller, &format!("/api/v1/requests/{id}/approvals"), body).await
}

#[tokio::test]
async fn a_request_is_approved_by_another_held_for_its_time_and_over() {
    for url in databases() {
        let house = House::new(&url).await;
        let (alice, _, _) = house.command_line("alice").await;
        let (bob, _, _) = house.command_line("bob").await;
        let made = ask(&house, &alice).await;
        let id = made.text("/id").to_owned();
        assert_eq!((made.text("/state"), &made.body["actions"]), ("pending", &json!(["deploy"])));
        assert_eq!(made.body["context"]["routes"], json!(["POST /v1/deployments/{env}"]));
        assert_eq!(
            (&made.body["context"]["first_time"], &made.body["context"]["outside_hours"]),
            (&json!(true), &json!(true))
        );

        let waiting = house.get(&bob, "/api/v1/requests?to_approve=true").await;
        assert_eq!(waiting.body["items"][0]["id"], id.as_str());
        // An approval of something else than was looked at is none.
        let other = answer(&house, &bob, &id, &json!({ "answer": "approve", "hash": "sha256:00" })).await;
        assert_eq!((other.status.as_u16(), other.text("/reason")), (409, "changed"));
        let yes = json!({ "answer": "approve", "hash": made.text("/hash"), "reason": "as agreed" });
        let approved = answer(&house, &bob, &id, &yes).await;
        assert_eq!((approved.status.as_u16(), approved.text("/state")), (200, "active"), "{approved:?}");
        assert_eq!(
            (approved.text("/approvals/0/by/id"), approved.text("/approvals/0/reason")),
            ("dev|bob", "as agreed")
        );
        let grant = approved.text("/grant").to_owned();
        assert_eq!(house.get(&alice, &format!("/api/v1/grants/{grant}")).await.text("/state"), "active");

        // What is decided stays so.
        let late = answer(&house, &bob, &id, &json!({ "answer": "deny" })).await;
        assert_eq!((late.status.as_u16(), late.text("/reason")), (409, "closed"));
        assert!(late.text("/detail").contains("it is active"), "{late:?}");

        house.clock.advance(Ttl::minutes(31));
        assert_eq!(house.get(&alice, &format!("/api/v1/grants/{grant}")).await.text("/state"), "expired");
        assert_eq!(house.get(&alice, &format!("/api/v1/requests/{id}")).await.text("/state"), "expired");
        let dropped = house.json(&alice, &format!("/api/v1/grants/{grant}/drop"), &json!({})).await;
        assert_eq!((dropped.status.as_u16(), dropped.text("/reason")), (409, "not_active"));
        assert!(dropped.text("/detail").ends_with("there is nothing to end"), "{dropped:?}");
    }
}

#[tokio::test]
async fn a_parameter_that_is_wanted_is_not_given_by_nothing() {
    let house = House::new(&databases()[0]).await;
    let (alice, _, _) = house.command_line("alice").await;
    let ask = async |params: Value| {
        let asked = json!({ "entitlement": "deploy-pipeline/promote-prod", "reason": "r", "ticket": "CHG-1", "params": params });
        house.json(&alice, "/api/v1/requests", &asked).await
    };
    for params in [json!({}), json!({ "pipeline": "" }), json!({ "pipeline": "  " })] {
        let refused = ask(params).await;
        assert_eq!(refused.status, 400, "{refused:?}");
        assert!(refused.text("/detail").contains("`--param pipeline=VALUE`"), "{refused:?}");
    }
    assert_eq!(ask(json!({ "pipeline": "web" })).await.status, 201);
}

#[tokio::test]
async fn a50_nobody_approves_their_own_request() {
    let house = House::new(&databases()[0]).await;
    let (bob, _, _) = house.command_line("bob").await;
    let made = ask(&house, &bob).await;
    // Bob may approve, but not himself: neither by the command line nor with a browser's session.
    let (browser, _) = house.browser("bob").await;
    let mut browser = browser;
    browser.headers.push(("origin", crate::api_house::ORIGIN.to_owned()));
    for caller in [&bob, &browser] {
        for word in ["approve", "deny"] {
            let refused = answer(&house, caller, made.text("/id"), &json!({ "answer": word })).await;
            assert_eq!((refused.status.as_u16(), refused.text("/reason")), (403, "self_approval"), "{refused:?}");
        }
    }
    assert_eq!(house.get(&bob, &format!("/api/v1/requests/{}", made.text("/id"))).await.text("/state"), "pending");
}

#[tokio::test]
async fn a47_of_fifty_approvals_at_once_one_makes_a_grant() {
    for url in databases() {
        let house = House::new(&url).await;
        let (alice, _, _) = house.command_line("alice").await;
        let (bob, _, _) = house.command_line("bob").await;
        let made = ask(&house, &alice).await;
        let yes = json!({ "answer": "approve", "hash": made.text("/hash") });
        let all = (0..50).map(|_| answer(&house, &bob, made.text("/id"), &yes));
        let answers = crate::idempotency::futures_join(all).await;
        let done = answers.iter().filter(|answer| answer.status == 200).count();
        assert_eq!(done, 1, "{answers:?}");
        let grants = house.get(&alice, "/api/v1/grants").await;
        assert_eq!(grants.body["items"].as_array().unwrap().len(), 1);
    }
}

#[tokio::test]
async fn a54_what_is_of_others_is_as_if_it_did_not_exist() {
    let house = House::new(&databases()[0]).await;
    let (alice, _, _) = house.command_line("alice").await;
    let (bob, _, _) = house.command_line("bob").await;
    let (dave, _, _) = house.command_line("dave").await;
    let made = ask(&house, &alice).await;
    let (id, hash) = (made.text("/id"), made.text("/hash"));
    let approved = answer(&house, &bob, id, &json!({ "answer": "approve", "hash": hash })).await;
    let grant = approved.text("/grant");
    for path in [format!("/api/v1/requests/{id}"), format!("/api/v1/grants/{grant}")] {
        assert_eq!(house.get(&dave, &path).await.status, 404);
    }
    for (path, body) in [
        (format!("/api/v1/requests/{id}/withdraw"), json!({})),
        (format!("/api/v1/grants/{grant}/drop"), json!({})),
        (format!("/api/v1/grants/{grant}/extend"), json!({ "for": "5m" })),
        (format!("/api/v1/grants/{grant}/revoke"), json!({ "reason": "x" })),
    ] {
        assert_eq!(house.json(&dave, &path, &body).await.status, 404, "{path}");
    }
    assert_eq!(house.get(&dave, "/api/v1/requests?all=true").await.body["items"], json!([]));
    assert_eq!(house.get(&dave, "/api/v1/grants?all=true").await.body["items"], json!([]));
    // Bob sees the grant, since he approves such; it is not his to drop.
    let drop = house.json(&bob, &format!("/api/v1/grants/{grant}/drop"), &json!({})).await;
    assert_eq!(drop.status, 403);
    assert_eq!(house.get(&alice, &format!("/api/v1/grants/{grant}")).await.text("/state"), "active");
}

#[tokio::test]
async fn a55_a_request_with_more_or_other_than_it_may_say_is_refused() {
    let house = House::new(&databases()[0]).await;
    let (alice, _, _) = house.command_line("alice").await;
    let with = |key: &str, value: Value| {
        let mut body = asked();
        body[key] = value;
        body
    };
    let cases = [
        (with("principal", json!("dev|bob")), 400),
        (with("approvals_needed", json!(0)), 400),
        (with("state", json!("approved")), 400),
        (with("for", json!("0s")), 400),
        (with("for", json!("-5m")), 400),
        (with("for", json!("1s")), 400),
        (with("for", json!("2h")), 400),
        (with("for", json!("9223372036854775807d")), 400),
        (with("for", json!(1800)), 400),
        (with("reason", json!("   ")), 400),
        (with("reason", json!("x".repeat(1001))), 400),
        (with("reason", json!("x".repeat(10 * 1024 * 1024))), 413),
        (with("reason", json!("a\u{0}b")), 400),
        (with("ticket", json!("OPS-1\nX")), 400),
        (with("ticket", Value::Null), 400),
        (with("params", json!({ "env": "prod" })), 400),
        (with("entitlement", json!("ops-api/deploy-prod ")), 404),
        (with("entitlement", json!("OPS-API/deploy-prod")), 404),
        (with("entitlement", json!("ops-api/none")), 404),
        (with("start", json!("tomorrow")), 400),
        (with("start", json!("9999-12-31T00:00:00Z")), 400),
        (with("start", json!("2020-01-01T00:00:00Z")), 400),
        (with("emergency", json!(true)), 400),
    ];
    for (body, status) in cases {
        let short: String = body.to_string().chars().take(300).collect();
        let refused = house.json(&alice, "/api/v1/requests", &body).await;
        assert_eq!(refused.status.as_u16(), status, "{short}: {:?}", refused.body);
    }
    assert_eq!(house.get(&alice, "/api/v1/requests").await.body["items"], json!([]));
}

#[tokio::test]
async fn a_text_that_could_look_like_another_is_refused_by_its_field() {
    let house = House::new(&databases()[0]).await;
    let (alice, _, _) = house.command_line("alice").await;
    let (bob, _, _) = house.command_line("bob").await;
    for forger in ["\u{1b}[2J", "\u{9b}2J", "\u{202e}", "\u{2066}", "\u{2028}", "\u{7f}"] {
        let mut body = asked();
        body["reason"] = json!(format!("hot{forger}fix"));
        let refused = house.json(&alice, "/api/v1/requests", &body).await;
        assert_eq!(refused.status, 400, "{forger:?}");
        assert!(refused.text("/detail").starts_with("`reason` has the character U+"), "{refused:?}");
        let mut body = asked();
        body["ticket"] = json!(format!("OPS-1{forger}2"));
        let refused = house.json(&alice, "/api/v1/requests", &body).await;
        assert!(refused.text("/detail").starts_with("`ticket` has the character U+"), "{refused:?}");
    }
    // A line break is what forms send, and means a blank.
    let mut body = asked();
    body["reason"] = json!(" hotfix\r\nfor  2m\n\topens all \n");
    let made = house.json(&alice, "/api/v1/requests", &body).await;
    assert_eq!((made.status.as_u16(), made.text("/reason")), (201, "hotfix for  2m  opens all"));
    let no = json!({ "answer": "deny", "reason": "no\u{202e}" });
    assert_eq!(answer(&house, &bob, made.text("/id"), &no).await.status, 400);
}

#[tokio::test]
async fn lists_are_paged_by_a_cursor() {
    let house = House::new(&databases()[0]).await;
    let (alice, _, _) = house.command_line("alice").await;
    for _ in 0..5 {
        ask(&house, &alice).await;
        house.clock.advance(Ttl::millis(5));
    }
    let (mut seen, mut path) = (Vec::new(), "/api/v1/requests?limit=2".to_owned());
    loop {
        let page = house.get(&alice, &path).await;
        seen.extend(page.body["items"].as_array().unwrap().iter().map(|item| item["id"].as_str().unwrap().to_owned()));
        let Some(next) = page.body["next"].as_str() else { break };
        path = format!("/api/v1/requests?limit=2&cursor={next}");
    }
    let mut sorted = seen.clone();
    sorted.sort();
    sorted.dedup();
    sorted.reverse();
    assert_eq!((seen.len(), &seen), (5, &sorted), "each once, newest first");
    for wrong in [
        "limit=0",
        "limit=201",
        "limit=x",
        "cursor=req_1",
        "all=yes",
        "mine=true&all=true",
        "state=open",
        "stat=denied",
        "all=true&all=true",
    ] {
        assert_eq!(house.get(&alice, &format!("/api/v1/requests?{wrong}")).await.status, 400, "{wrong}");
    }
    assert_eq!(house.get(&alice, "/api/v1/requests?state=denied").await.body["items"], json!([]));
}

#[tokio::test]
async fn who_asked_for_more_of_a_grant_waits_no_longer_than_it_lasts() {
    for url in databases() {
        let house = House::new(&url).await;
        let (alice, _, _) = house.command_line("alice").await;
        let (bob, _, _) = house.command_line("bob").await;
        let (carol, _, _) = house.command_line("carol").await;
        let extended = async || {
            let wish =
                json!({ "entitlement": "ops-api/deploy-prod", "reason": "hotfix", "ticket": "OPS-1", "for": "10m" });
            let made = house.json(&alice, "/api/v1/requests", &wish).await;
            let path = format!("/api/v1/requests/{}/approvals", made.text("/id"));
            let approved = house.json(&bob, &path, &json!({ "answer": "approve" })).await;
            let grant = approved.text("/grant").to_owned();
            let more = house.json(&alice, &format!("/api/v1/grants/{grant}/extend"), &json!({ "for": "5m" })).await;
            assert_eq!((more.status.as_u16(), more.text("/state")), (200, "pending"), "{more:?}");
            assert_eq!(more.text("/answer_by"), approved.text("/expires_at"));
            (grant, more.text("/id").to_owned())
        };
        for (how, body, who, state) in
            [("drop", json!({}), &alice, "withdrawn"), ("revoke", json!({ "reason": "enough" }), &carol, "timed_out")]
        {
            let (grant, more) = extended().await;
            let ended = house.json(who, &format!("/api/v1/grants/{grant}/{how}"), &body).await;
            assert_eq!(ended.status, 200, "{ended:?}");
            let seen = house.get(&alice, &format!("/api/v1/requests/{more}")).await;
            assert_eq!(seen.text("/state"), state, "{seen:?}");
            let (path, yes) = (format!("/api/v1/requests/{more}/approvals"), json!({ "answer": "approve" }));
            assert_eq!(house.json(&bob, &path, &yes).await.status, 409);
        }
    }
}
