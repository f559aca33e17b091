//! Grants that end when nothing passes by them, at the door; and decisions that say which grant they
//! rested on and what would have helped.

use std::time::{Duration, Instant};

use doorward::model::{Grant, Ttl};
use futures_util::{SinkExt, StreamExt};
use http::Method;
use http_body_util::BodyExt;
use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::Message;

use super::exchange::body;
use super::fixture::{Door, Person, Speaks, full, host, with_door};
use super::grant_tokens::{api, granted, plan};
use super::grants::{self, grant};

/// Time passes, and the news of revocations keep coming.
fn later(door: &Door, ttl: Ttl) {
    door.clock.advance(ttl);
    door.running().shared.directory.confirm(door.running().desk.clock.now());
}

fn lazy(door: &Door, person: &Person) -> Grant {
    let now = door.running().desk.clock.now();
    let grant = Grant { idle: Some(Ttl::seconds(30)), ..grant(person, now, now.plus(Ttl::minutes(20))) };
    door.running().shared.directory.grant_enter(&grant);
    grant
}

#[test]
fn a56_a_grant_ends_when_nothing_passes_by_it_and_a_request_is_a_use() {
    with_door(grants::plan(), async |door| {
        let dave = door.sign_in("dave").await;
        let mut client = door.client("app", Some(&dave), Speaks::Http2).await;
        lazy(door, &dave);
        for _ in 0..4 {
            later(door, Ttl::seconds(29));
            assert_eq!(client.get("/x").await.status, 200);
        }
        // What is refused is no use.
        later(door, Ttl::seconds(20));
        assert_eq!(client.get("/admin/x").await.status, 403);
        later(door, Ttl::seconds(10));
        let over = client.get("/x").await;
        assert_eq!((over.status.as_u16(), over.reason().as_str()), (403, "no_policy_match"));
        assert_eq!(client.get("/x").await.status, 403, "and it does not come back");
    });
}

#[test]
fn a56_a_stream_is_a_use_while_bytes_move_and_is_cut_when_none_do() {
    with_door(grants::plan(), async |door| {
        let dave = door.sign_in("dave").await;
        lazy(door, &dave);
        let mut events = door.client("app", Some(&dave), Speaks::Http2).await;
        let request = events.request(Method::GET, "/sse").body(full("")).unwrap();
        let response = events.send(request).await.unwrap();
        let mut moving = response.into_body();
        let stream = door.connect("app", Some(&dave), Speaks::Http1).await.unwrap();
        let url = format!("wss://{}:{}/ws", host("app"), door.address.port());
        let (mut socket, _) = tokio_tungstenite::client_async(url, stream).await.unwrap();
        for turn in 0..4 {
            later(door, Ttl::seconds(20));
            // The upstream sends one each 20 ms; the first ones may have been under way before.
            for _ in 0..8 {
                assert!(moving.frame().await.unwrap().is_ok());
            }
            if turn % 2 == 0 {
                socket.send(Message::text("still here")).await.unwrap();
                assert_eq!(socket.next().await.unwrap().unwrap(), Message::text("still here"));
            }
        }
        drop((moving, events));
        tokio::time::sleep(Duration::from_millis(100)).await;
        later(door, Ttl::seconds(20));
        socket.send(Message::text("and here")).await.unwrap();
        assert_eq!(socket.next().await.unwrap().unwrap(), Message::text("and here"));
        // What passed is noted as a use after it has passed.
        tokio::time::sleep(Duration::from_millis(200)).await;
        let since = Instant::now();
        later(door, Ttl::seconds(31));
        let closed = async { while let Some(Ok(_)) = socket.next().await {} };
        tokio::time::timeout(Duration::from_secs(5), closed).await.expect("a silent stream outlived its grant");
        assert!(since.elapsed() < Duration::from_secs(2), "{:?}", since.elapsed());
    });
}

async fn why(door: &Door, person: &Person, decision: impl std::fmt::Display) -> Value {
    for _ in 0..40 {
        let got = api(door, Some(person), None, &format!("/api/v1/decisions/{decision}"), None).await;
        if got.status == 200 {
            return body(&got);
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("{decision} is not on record");
}

#[test]
fn why_names_the_grant_that_was_used_and_what_would_have_helped() {
    with_door(plan(), async |door| {
        let dave = door.sign_in("dave").await;
        let mut client = door.client("app", Some(&dave), Speaks::Http2).await;
        let refused = client.get("/x").await;
        assert_eq!(refused.status, 403);
        let told = why(door, &dave, refused.decision()).await;
        assert_eq!(
            told["helps"],
            json!([{ "entitlement": "app/open", "grant": null, "state": null, "request": null }])
        );
        assert_eq!((&told["grant"], &told["grants"]), (&Value::Null, &json!([])));
        let id = granted(door, &dave, "app", "10m").await;
        let told = why(door, &dave, refused.decision()).await;
        assert_eq!((&told["helps"][0]["grant"], &told["helps"][0]["state"]), (&json!(id), &json!("active")));
        let allowed = client.get("/x").await;
        let told = why(door, &dave, allowed.decision()).await;
        assert_eq!(told["grant"], json!(id));
        assert_eq!(told["grants"], json!([{ "id": id, "entitlement": "app/open" }]));
        let text = doorward::cli::why::told(&serde_json::from_value(told).unwrap());
        assert!(text.contains(&format!("grant       {id}")) && text.contains("app/open"), "{text}");
        // What does not hold of a credential is told to whom it names, later and not at the door.
        let scope = client.ask(Method::GET, "/x", &[("authorization", "Bearer x.y.z")], b"").await;
        assert_eq!((scope.status.as_u16(), scope.reason().as_str()), (401, "bad_credential"));
    });
}

#[test]
fn a53_whoever_may_not_ask_any_more_holds_nothing_from_the_next_request_on() {
    with_door(grants::plan(), async |door| {
        let dave = door.sign_in("dave").await;
        let mut client = door.client("app", Some(&dave), Speaks::Http2).await;
        lazy(door, &dave);
        assert_eq!(client.get("/x").await.status, 200);
        let asking = "permit (principal is User, action == Action::\"request\"";
        let nobody =
            grants::POLICY.replace(asking, "permit (principal in Group::\"security\", action == Action::\"request\"");
        assert_ne!(nobody, grants::POLICY);
        door.write("app/access.cedar", &nobody);
        door.running().reload().unwrap();
        assert_eq!(client.get("/x").await.status, 403);
        door.write("app/access.cedar", grants::POLICY);
        door.running().reload().unwrap();
        assert_eq!(client.get("/x").await.status, 200, "the grant itself is not over");
    });
}
