//! What was approved for one value of a parameter is not for another; a52.

use std::path::Path;
use std::time::{Duration, Instant};

use http::Method;
use http_body_util::BodyExt;
use serde_json::{Value, json};

use super::exchange::{body, of_person};
use super::fixture::{Door, Got, Person, Plan, Speaks, full, with_door};
use super::grant_tokens::api;
use super::grants::cut;

const POLICY: &str = r#"
permit (principal in Entitlement::"app/open", action == Action::"open", resource);
permit (principal is User, action in [Action::"request", Action::"auto_approve"], resource == Entitlement::"app/open");
"#;

/// `open` asks for a `pipeline`, which is the one segment of most paths, and may be told a `note`.
fn plan() -> Plan {
    let change = |dir: &Path| {
        let folder = dir.join("policies/app");
        std::fs::write(folder.join("access.cedar"), POLICY).unwrap();
        let path = folder.join("service.toml");
        let text = std::fs::read_to_string(&path).unwrap();
        let tables = "[[route]]\nmatch = \"* /{pipeline}\"\naction = \"open\"\n\
                      [entitlement.open]\ndescription = \"Open\"\nmin = \"1s\"\nactions = [\"open\"]\n\
                      [entitlement.open.parameters]\npipeline = {}\nnote = { required = false }\n";
        std::fs::write(path, format!("{text}\n{tables}")).unwrap();
    };
    Plan { change: Some(change), ..Plan::default() }
}

async fn granted(door: &Door, person: &Person, pipeline: &str) -> String {
    let params = json!({ "pipeline": pipeline, "note": "told" });
    let asked = json!({ "entitlement": "app/open", "reason": "test", "params": params });
    let got = api(door, Some(person), None, "/api/v1/requests", Some(asked)).await;
    assert_eq!(got.status, 201, "{}", got.text());
    body(&got)["grant"].as_str().unwrap().to_owned()
}

/// The grant that `why` names as what would help by now.
async fn in_hand(door: &Door, person: &Person, refused: &Got) -> Value {
    door.recorded(refused.decision()).await;
    let got = api(door, Some(person), None, &format!("/api/v1/decisions/{}", refused.decision()), None).await;
    let decision = body(&got);
    assert_eq!(decision["helps"][0]["entitlement"], "app/open", "{decision}");
    decision["helps"][0]["grant"].clone()
}

#[test]
fn a52_a_grant_counts_for_the_value_of_the_parameter_that_was_approved() {
    with_door(plan(), async |door| {
        let dave = door.sign_in("dave").await;
        let mut client = door.client("app", Some(&dave), Speaks::Http2).await;
        let before = client.get("/web").await;
        assert_eq!(before.status, 403);
        let grant = granted(door, &dave, "web").await;
        // What was refused would be allowed by now, and another value is still to be asked for.
        assert_eq!(in_hand(door, &dave, &before).await, grant.as_str());
        assert_eq!(in_hand(door, &dave, &client.get("/payments").await).await, Value::Null);
        // Twice, so that what is remembered is asked too.
        for _ in 0..2 {
            assert_eq!(client.get("/web").await.status, 200);
            for other in ["/payments", "/WEB"] {
                let refused = client.get(other).await;
                assert_eq!((refused.status.as_u16(), refused.reason().as_str()), (403, "no_policy_match"), "{other}");
                let remedy = refused.problem()["remedy"].clone();
                assert_eq!((&remedy["kind"], &remedy["entitlement"]), (&"request_access".into(), &"app/open".into()));
            }
            // A route without it is opened by each value.
            assert_eq!(client.get("/web/x").await.status, 200);
        }
        let token = of_person(door, &dave, &[], &[("audience", "app"), ("grant", &grant)]).await;
        let bearer = format!("Bearer {}", body(&token)["access_token"].as_str().unwrap());
        let by_token = [("authorization", bearer.as_str())];
        assert_eq!(client.ask(Method::GET, "/web", &by_token, b"").await.status, 200);
        let refused = client.ask(Method::GET, "/payments", &by_token, b"").await;
        assert_eq!(refused.status, 403);
        let on_record = door.recorded(refused.decision()).await;
        assert_eq!(on_record.body["data"]["grants"], json!([]), "none counted: {}", on_record.body);
        // Each as the policies see it.
        granted(door, &dave, "two words").await;
        assert_eq!(client.get("/two%20words").await.status, 200);
        assert_eq!(client.get("/payments").await.status, 403);
        granted(door, &dave, "payments").await;
        assert_eq!(client.get("/payments").await.status, 200);
    });
}

#[test]
fn a_refusal_tells_the_command_for_what_was_refused_and_the_record_keeps_it_in_the_path_alone() {
    with_door(plan(), async |door| {
        let dave = door.sign_in("dave").await;
        let mut client = door.client("app", Some(&dave), Speaks::Http2).await;
        let command = |word: &str| format!("doorward request app/open --reason TEXT --param {word}");
        for (path, word) in [
            ("/web", "pipeline=web"),
            ("/two%20words", "'pipeline=two words'"),
            ("/$(id)", "'pipeline=$(id)'"),
            ("/it's", "pipeline=VALUE"),
        ] {
            let refused = client.get(path).await;
            assert_eq!(refused.problem()["remedy"]["command"], command(word), "{path}");
            let recorded = door.recorded(refused.decision()).await;
            assert_eq!(recorded.body["data"]["remedy"]["command"], command("pipeline=VALUE"), "{}", recorded.body);
            let why = api(door, Some(&dave), None, &format!("/api/v1/decisions/{}", refused.decision()), None).await;
            assert_eq!(body(&why)["remedy"]["command"], command(word), "{path}");
            let page = client.ask(Method::GET, path, &[("accept", "text/html")], b"").await;
            assert!(page.text().contains(word.trim_matches('\'')), "{}", page.text());
        }
    });
}

#[test]
fn a52_a_grant_of_another_value_gives_nothing_and_still_bars_from_what_holders_may_not() {
    with_door(plan(), async |door| {
        let dave = door.sign_in("dave").await;
        let text = format!(
            "{POLICY}permit (principal is User, action == Action::\"open\", resource is Service);\n\
             forbid (principal in Entitlement::\"app/open\", action == Action::\"open\", resource) \
             when {{ context has params && context.params has pipeline && context.params.pipeline == \"secret\" }};\n"
        );
        door.write("app/access.cedar", &text);
        door.running().reload().unwrap();
        let mut client = door.client("app", Some(&dave), Speaks::Http2).await;
        // Remembered while nothing was held.
        for _ in 0..2 {
            assert_eq!(client.get("/secret").await.status, 200);
        }
        granted(door, &dave, "web").await;
        for _ in 0..2 {
            let refused = client.get("/secret").await;
            assert_eq!((refused.status.as_u16(), refused.reason().as_str()), (403, "forbidden_by_policy"));
            assert_eq!(client.get("/payments").await.status, 200);
        }
        // Whoever may not ask for it any more holds it all the same, for every value.
        let nobody_asks = text.replace("permit (principal is User, action in", "forbid (principal, action in");
        assert_ne!(nobody_asks, text);
        door.write("app/access.cedar", &nobody_asks);
        door.running().reload().unwrap();
        for _ in 0..2 {
            let refused = client.get("/secret").await;
            assert_eq!((refused.status.as_u16(), refused.reason().as_str()), (403, "forbidden_by_policy"));
            assert_eq!(client.get("/web").await.status, 200, "permitted without it");
        }
    });
}

#[test]
fn a52_a_stream_ends_with_the_grant_of_its_parameter_though_one_of_another_goes_on() {
    with_door(plan(), async |door| {
        let dave = door.sign_in("dave").await;
        let grant = granted(door, &dave, "sse").await;
        granted(door, &dave, "payments").await;
        let mut client = door.client("app", Some(&dave), Speaks::Http2).await;
        let request = client.request(Method::GET, "/sse").body(full("")).unwrap();
        let response = client.send(request).await.unwrap();
        assert_eq!(response.status(), 200);
        let mut events = response.into_body();
        assert!(events.frame().await.unwrap().is_ok());
        let dropped = api(door, Some(&dave), None, &format!("/api/v1/grants/{grant}/drop"), Some(json!({}))).await;
        assert_eq!(dropped.status, 200, "{}", dropped.text());
        let ended = Instant::now();
        assert!(cut(&mut events).await.duration_since(ended) < Duration::from_secs(1));
        assert_eq!(client.get("/sse").await.status, 403);
        assert_eq!(client.get("/payments").await.status, 200);
    });
}
