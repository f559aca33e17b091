//! Certificates and tokens that are out: who sees which, until when, and withdrawing them.

use doorward::control::session;
use doorward::model::Ttl;
use serde_json::{Value, json};

use crate::api_house::{Caller, House, csr};
use crate::support::databases;

async fn listed(house: &House, caller: &Caller, query: &str) -> Vec<Value> {
    let answer = house.get(caller, &format!("/api/v1/credentials{query}")).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    answer.body["items"].as_array().unwrap().clone()
}

/// Sorted: what is issued in one moment has no order.
fn kinds(items: &[Value]) -> Vec<&str> {
    let mut kinds: Vec<&str> = items.iter().map(|item| item["kind"].as_str().unwrap()).collect();
    kinds.sort_unstable();
    kinds
}

fn of_kind<'a>(items: &'a [Value], kind: &str) -> &'a Value {
    items.iter().find(|item| item["kind"] == kind).unwrap()
}

#[tokio::test]
async fn what_is_issued_is_listed_until_it_ends_and_nothing_of_it_could_be_used() {
    for url in databases() {
        let house = House::new(&url).await;
        let (alice, answer, key) = house.command_line("alice").await;
        let items = listed(&house, &alice, "").await;
        assert_eq!(kinds(&items), ["token", "x509"], "{items:?}");
        let (token, certificate) = (of_kind(&items, "token"), of_kind(&items, "x509"));
        for item in &items {
            assert_eq!((&item["principal"]["id"], &item["session"]), (&json!("dev|alice"), &answer["session"]["id"]));
            assert!(!item.to_string().contains(answer["access_token"].as_str().unwrap()));
        }
        assert_eq!(
            (&token["audience"], &token["revoking_ends"]),
            (&json!("https://doorward.localhost:8443"), &json!("credential"))
        );
        assert_eq!(certificate["expires_at"], answer["certificate_expires_at"]);
        assert_eq!(token["thumbprint"], certificate["thumbprint"], "the token is bound to the certificate");
        // Renewed, there are two certificates until the first ends by itself, and two tokens.
        house.clock.advance(Ttl::minutes(10));
        let refresh = answer["refresh_token"].as_str().unwrap();
        assert_eq!(house.refresh(&alice, refresh, &[("csr", &csr(&key))]).await.status, 200);
        assert_eq!(kinds(&listed(&house, &alice, "").await), ["token", "token", "x509", "x509"]);
        house.clock.advance(Ttl::minutes(5));
        assert_eq!(kinds(&listed(&house, &alice, "").await), ["token", "x509", "x509"], "the first token is over");
        // One by one, and at what the cursor names.
        let mut seen = Vec::new();
        let mut cursor = String::new();
        loop {
            let page = house.get(&alice, &format!("/api/v1/credentials?limit=1{cursor}")).await;
            seen.extend(page.body["items"].as_array().unwrap().clone());
            let Some(next) = page.body["next"].as_str() else { break };
            cursor = format!("&cursor={next}");
        }
        assert_eq!(seen, listed(&house, &alice, "").await);
        let one = house.get(&alice, &format!("/api/v1/credentials/{}", seen[0]["id"].as_str().unwrap())).await;
        assert_eq!(one.body, seen[0]);
        // A certificate may be shown for less than its session; what is swept was over.
        house.clock.advance(Ttl::minutes(60));
        session::sweep(&house.desk, house.now()).await.unwrap();
        let (again, _, _) = house.command_line("alice").await;
        assert_eq!(listed(&house, &again, "").await.len(), 2);
    }
}

#[tokio::test]
async fn a54_of_others_one_sees_what_one_may_revoke_and_revoking_ends_just_that() {
    for url in databases() {
        let house = House::new(&url).await;
        let (alice, _, _) = house.command_line("alice").await;
        let (bob, answer, _) = house.command_line("bob").await;
        let (carol, _, _) = house.command_line("carol").await;
        assert_eq!(listed(&house, &alice, "?all=true").await.len(), 2, "alice may revoke nobody's");
        assert_eq!(listed(&house, &carol, "?all=true").await.len(), 6);
        assert_eq!(listed(&house, &carol, "").await.len(), 2);
        let bobs = listed(&house, &bob, "").await;
        let bobs = [of_kind(&bobs, "token").clone(), of_kind(&bobs, "x509").clone()];
        let path = |item: &Value| format!("/api/v1/credentials/{}", item["id"].as_str().unwrap());
        let reason = json!({ "reason": "leaked" });
        assert_eq!(house.get(&alice, &path(&bobs[0])).await.status, 404);
        assert_eq!(house.json(&alice, &format!("{}/revoke", path(&bobs[0])), &reason).await.status, 404);
        for body in [json!({ "reason": " " }), json!({}), json!({ "reason": "x", "more": 1 })] {
            assert_eq!(house.json(&carol, &format!("{}/revoke", path(&bobs[0])), &body).await.status, 400, "{body}");
        }
        // The token alone: it is refused, and its session goes on.
        let with_token = Caller { bearer: answer["access_token"].as_str().map(str::to_owned), ..bob.clone() };
        assert_eq!(house.get(&with_token, "/api/v1/whoami").await.status, 200);
        let revoked = house.json(&carol, &format!("{}/revoke", path(&bobs[0])), &reason).await;
        assert_eq!((revoked.status.as_u16(), &revoked.body["id"]), (200, &bobs[0]["id"]));
        assert_eq!(house.get(&with_token, "/api/v1/whoami").await.text("/reason"), "bad_credential");
        assert_eq!(kinds(&listed(&house, &bob, "").await), ["x509"]);
        assert_eq!(house.json(&carol, &format!("{}/revoke", path(&bobs[0])), &reason).await.status, 404, "it is over");
        // The certificate takes its session along, which it says before.
        assert_eq!(bobs[1]["revoking_ends"], "session");
        assert_eq!(house.json(&carol, &format!("{}/revoke", path(&bobs[1])), &reason).await.status, 200);
        assert_eq!(house.get(&bob, "/api/v1/whoami").await.text("/reason"), "session_ended");
        assert_eq!(listed(&house, &carol, "?all=true").await.len(), 4);
        // One's own, without anybody's leave.
        let own = listed(&house, &alice, "").await;
        assert_eq!(house.json(&alice, &format!("{}/revoke", path(&own[0])), &reason).await.status, 200);
    }
}

#[tokio::test]
async fn there_are_no_leases_and_bad_questions_are_told_so() {
    let house = House::new(&databases()[0]).await;
    let (alice, _, _) = house.command_line("alice").await;
    let leases = house.get(&alice, "/api/v1/leases?all=true&limit=5").await;
    assert_eq!((leases.status.as_u16(), &leases.body), (200, &json!({ "items": [], "next": null })));
    for path in ["credentials", "leases"] {
        for query in
            ["all=maybe", "limit=0", "limit=201", "limit=x", "cursor=x", "cursor=ses_06h01rs2cto0b2afh7rgi8mlb0"]
        {
            assert_eq!(house.get(&alice, &format!("/api/v1/{path}?{query}")).await.status, 400, "{path}?{query}");
        }
    }
    for id in ["x", "crd_x", "crd_06h01rs2cto0b2afh7rgi8mlb0"] {
        assert_eq!(house.get(&alice, &format!("/api/v1/credentials/{id}")).await.status, 404, "{id}");
    }
}
