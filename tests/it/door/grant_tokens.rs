//! Tokens that live and end with a grant: a34, a45, a54, a56; and the gate that a job waits at.

use std::path::Path;
use std::time::{Duration, Instant};

use doorward::audit::EventType;
use doorward::model::{Clock, Grant, GrantEnd, GrantId, GrantState, Ttl};
use doorward::server::ambient::SystemEntropy;
use http::Method;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use serde_json::{Value, json};

use super::exchange::{AUDIENCE, EXCHANGE, ISSUER, PIPELINE, body, error, job, of_job, of_person, post, used};
use super::fixture::{BOTH, Door, Got, Http, Person, Plan, Speaks, full, with_door};
use super::grants::cut;
use super::tokens::Token;

const ACCESS_TOKEN: &str = "urn:ietf:params:oauth:token-type:access_token";

/// Of the service `app` and of `web`: who holds `open` may do it, and people need nobody for that. Jobs
/// ask for `web/open`, and engineers, who may do it anyway, approve.
const POLICY: &str = r#"
permit (principal in Entitlement::"SERVICE/open", action == Action::"open", resource);
permit (principal in Group::"engineering", action == Action::"open", resource);
permit (principal, action == Action::"request", resource == Entitlement::"SERVICE/open");
permit (principal is User, action == Action::"auto_approve", resource == Entitlement::"SERVICE/open");
permit (principal in Group::"engineering", action in [Action::"approve", Action::"revoke"], resource == Entitlement::"SERVICE/open");
"#;

pub fn plan() -> Plan {
    let change = |dir: &Path| {
        for service in ["app", "web"] {
            let folder = dir.join("policies").join(service);
            std::fs::write(folder.join("access.cedar"), POLICY.replace("SERVICE", service)).unwrap();
            let path = folder.join("service.toml");
            let text = std::fs::read_to_string(&path).unwrap();
            let table = "[entitlement.open]\ndescription = \"Open\"\nmin = \"1s\"\nactions = [\"open\"]\n";
            std::fs::write(path, format!("{text}\n{table}")).unwrap();
        }
        let rules = format!(
            "[[issuer]]\nname = \"ci\"\npreset = \"github-actions\"\nissuer = \"{ISSUER}\"\naudience = \"{AUDIENCE}\"\n\
             jwks_file = \"ci.jwks\"\n\
             [[rule]]\nname = \"main\"\nissuer = \"ci\"\nservices = [\"web\"]\n\
             claims = {{ repository_id = \"74\", ref = \"refs/heads/main\" }}\n\
             [[rule]]\nname = \"next\"\nissuer = \"ci\"\nclaims = {{ repository_id = \"74\", ref = \"refs/heads/next\" }}\n"
        );
        std::fs::write(dir.join("policies/workloads.toml"), rules).unwrap();
        std::fs::write(dir.join("policies/ci.jwks"), json!({ "keys": [PIPELINE.jwk()] }).to_string()).unwrap();
    };
    Plan { change: Some(change), ..Plan::default() }
}

/// Asks the control API.
pub async fn api(door: &Door, person: Option<&Person>, token: Option<&str>, path: &str, sent: Option<Value>) -> Got {
    let bearer = token.map(|token| format!("Bearer {token}"));
    let mut headers = vec![("content-type", "application/json")];
    headers.extend(bearer.as_deref().map(|bearer| ("authorization", bearer)));
    let method = if sent.is_some() { Method::POST } else { Method::GET };
    let bytes = sent.map(|sent| sent.to_string()).unwrap_or_default();
    door.client("", person, Speaks::Http1).await.ask(method, path, &headers, bytes.as_bytes()).await
}

/// A grant of `SERVICE/open` that nobody has to approve.
pub async fn granted(door: &Door, person: &Person, service: &str, length: &str) -> String {
    let asked = json!({ "entitlement": format!("{service}/open"), "reason": "test", "for": length });
    let got = api(door, Some(person), None, "/api/v1/requests", Some(asked)).await;
    assert_eq!(got.status, 201, "{}", got.text());
    let request = body(&got);
    assert_eq!(request["state"], "active");
    request["grant"].as_str().unwrap().to_owned()
}

/// Ends a grant by its holder: `drop` or `revoke`.
async fn end(door: &Door, person: &Person, grant: &str, how: &str) {
    let sent = if how == "revoke" { json!({ "reason": "test" }) } else { json!({}) };
    let got = api(door, Some(person), None, &format!("/api/v1/grants/{grant}/{how}"), Some(sent)).await;
    assert_eq!(got.status, 200, "{}", got.text());
}

async fn token_of(door: &Door, person: &Person, grant: &str) -> Value {
    let got = of_person(door, person, &[], &[("audience", "app"), ("grant", grant)]).await;
    assert_eq!(got.status, 200, "{}", got.text());
    body(&got)
}

/// A stream that goes on, opened by a token or by the certificate alone.
async fn stream(door: &Door, person: &Person, bearer: Option<&str>) -> (Http, Incoming) {
    let mut client = door.client("app", Some(person), Speaks::Http2).await;
    let mut request = client.request(Method::GET, "/sse");
    if let Some(bearer) = bearer {
        request = request.header("authorization", bearer);
    }
    let response = client.send(request.body(full("")).unwrap()).await.unwrap();
    assert_eq!(response.status(), 200);
    let mut body = response.into_body();
    assert!(body.frame().await.unwrap().is_ok());
    (client, body)
}

#[test]
fn a56_a_token_of_a_grant_ends_with_it_on_its_connection_and_cuts_what_is_open_though_another_grant_permits() {
    with_door(plan(), async |door| {
        let dave = door.sign_in("dave").await;
        for (speaks, how) in BOTH.into_iter().zip(["drop", "revoke"]) {
            let (first, second) = (granted(door, &dave, "app", "30m").await, granted(door, &dave, "app", "1h").await);
            let answer = token_of(door, &dave, &first).await;
            assert_eq!(answer["grant"], first.as_str());
            let bearer = format!("Bearer {}", answer["access_token"].as_str().unwrap());
            let mut client = door.client("app", Some(&dave), speaks).await;
            let by_token = [("authorization", bearer.as_str())];
            assert_eq!(client.ask(Method::GET, "/x", &by_token, b"").await.status, 200);
            let (_kept, mut open) = stream(door, &dave, Some(&bearer)).await;
            let (_other, mut by_certificate) = stream(door, &dave, None).await;
            let before = door.raw.count();

            end(door, &dave, &first, how).await;
            let ended = Instant::now();
            let refused = client.ask(Method::GET, "/x", &by_token, b"").await;
            assert_eq!((refused.status.as_u16(), refused.reason().as_str()), (401, "bad_credential"), "{how}");
            assert_eq!(refused.problem()["title"], "The grant of this token is over");
            assert!(refused.problem()["detail"].as_str().unwrap().contains(&first));
            assert!(refused.header("www-authenticate").unwrap().contains("invalid_token"));
            let late = cut(&mut open).await.duration_since(ended);
            assert!(late < Duration::from_secs(1), "cut {late:?} after its end");
            // The person goes on by the other grant, and so does what was opened without the token.
            assert_eq!(client.get("/x").await.status, 200);
            for _ in 0..3 {
                assert!(by_certificate.frame().await.unwrap().is_ok());
            }
            assert_eq!(door.raw.count(), before + 1, "nothing of the refused request went on");
            let on_record = door.recorded(refused.decision()).await;
            assert_eq!(on_record.body["data"]["note"], "a token whose grant is over", "{:?}", on_record.body);
            assert_eq!(on_record.clear().grant, Some(GrantId::parse(&first).unwrap()));
            end(door, &dave, &second, how).await;
        }
    });
}

#[test]
fn a56_whoever_needs_no_grant_has_a_token_that_ends_with_one_all_the_same() {
    with_door(plan(), async |door| {
        let alice = door.sign_in("alice").await;
        let grant = granted(door, &alice, "app", "30m").await;
        let answer = token_of(door, &alice, &grant).await;
        let bearer = format!("Bearer {}", answer["access_token"].as_str().unwrap());
        let (mut client, mut open) = stream(door, &alice, Some(&bearer)).await;
        let by_token = [("authorization", bearer.as_str())];
        let allowed = client.ask(Method::GET, "/x", &by_token, b"").await;
        let event = door.recorded(allowed.decision()).await;
        assert_eq!(event.clear().grant, Some(GrantId::parse(&grant).unwrap()));
        // Which grants counted is on record beside it, so that the decision can be judged anew.
        assert!(event.body["data"]["grants"].is_array(), "{}", event.body);
        end(door, &alice, &grant, "drop").await;
        let ended = Instant::now();
        assert_eq!(client.ask(Method::GET, "/x", &by_token, b"").await.status, 401);
        assert!(cut(&mut open).await.duration_since(ended) < Duration::from_secs(1));
        assert_eq!(client.get("/x").await.status, 200);
    });
}

#[test]
fn a45_the_end_of_a_grant_caps_its_token_and_an_extension_does_not_prolong_it() {
    with_door(plan(), async |door| {
        let dave = door.sign_in("dave").await;
        let grant = granted(door, &dave, "app", "8s").await;
        let end = {
            let got = api(door, Some(&dave), None, &format!("/api/v1/grants/{grant}"), None).await;
            body(&got)["expires_at"].as_str().unwrap().to_owned()
        };
        let more = [("audience", "app"), ("grant", grant.as_str()), ("lifetime", "900")];
        let answer = body(&of_person(door, &dave, &[], &more).await);
        assert!((1..=8).contains(&answer["expires_in"].as_i64().unwrap()), "{answer}");
        assert!(answer["expires_at"].as_str().unwrap() <= end.as_str(), "{} is after {end}", answer["expires_at"]);
        let shorter = [("audience", "app"), ("grant", grant.as_str()), ("lifetime", "2")];
        assert!(body(&of_person(door, &dave, &[], &shorter).await)["expires_in"].as_i64().unwrap() <= 2);
        // It is on record what was issued under what.
        let id = GrantId::parse(&grant).unwrap();
        let filter = doorward::store::EventFilter { kind: Some(EventType::TokenIssued), ..Default::default() };
        let mut found = false;
        for _ in 0..60 {
            let events = door.running().desk.store.event_list(&filter, 200).await.unwrap();
            found = events.iter().any(|event| event.clear().grant == Some(id));
            if found {
                break;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        assert!(found, "no token.issued names the grant");

        let mut client = door.client("app", Some(&dave), Speaks::Http2).await;
        let bearer = format!("Bearer {}", answer["access_token"].as_str().unwrap());
        let by_token = [("authorization", bearer.as_str())];
        assert_eq!(client.ask(Method::GET, "/x", &by_token, b"").await.status, 200);
        let (_kept, mut open) = stream(door, &dave, Some(&bearer)).await;
        let path = format!("/api/v1/grants/{grant}/extend");
        let extended = api(door, Some(&dave), None, &path, Some(json!({ "for": "10m" }))).await;
        assert_eq!(body(&extended)["state"], "active", "{}", extended.text());
        door.clock.advance(Ttl::seconds(9));
        assert_eq!(client.ask(Method::GET, "/x", &by_token, b"").await.reason(), "bad_credential");
        assert_eq!(client.get("/x").await.status, 200, "the grant itself goes on");
        cut(&mut open).await;
    });
}

#[test]
fn a54_a_grant_of_another_does_not_exist_and_one_of_another_service_or_time_gives_nothing() {
    with_door(plan(), async |door| {
        let (dave, alice) = (door.sign_in("dave").await, door.sign_in("alice").await);
        let of_alice = granted(door, &alice, "app", "30m").await;
        let ask = async |grant: &str| {
            let got = of_person(door, &dave, &[], &[("audience", "app"), ("grant", grant)]).await;
            assert_eq!(error(&got), "invalid_grant", "{grant}");
            body(&got)["error_description"].as_str().unwrap().to_owned()
        };
        let unknown = ask("grt_06h01rs2cto0b2afh7rgi8mlb0").await;
        for other in [of_alice.as_str(), "grt_1", "req_06h01rs2cto0b2afh7rgi8mlb0", &of_alice[..20]] {
            assert_eq!(ask(other).await, unknown, "{other}");
        }
        let elsewhere = granted(door, &dave, "web", "30m").await;
        assert!(ask(&elsewhere).await.contains("`web`"));
        let over = granted(door, &dave, "app", "30m").await;
        end(door, &dave, &over, "drop").await;
        assert!(ask(&over).await.contains("dropped"));
        let later = door.clock.now().plus(Ttl::hours(1)).to_string();
        let asked = json!({ "entitlement": "app/open", "reason": "test", "start": later });
        let scheduled = body(&api(door, Some(&dave), None, "/api/v1/requests", Some(asked)).await);
        assert!(ask(scheduled["grant"].as_str().unwrap()).await.contains("scheduled"));
    });
}

#[test]
fn a34_a_grant_that_a_token_claims_must_be_its_holders_and_known_somewhere() {
    with_door(plan(), async |door| {
        let (dave, alice) = (door.sign_in("dave").await, door.sign_in("alice").await);
        let (own, of_alice) = (granted(door, &dave, "app", "30m").await, granted(door, &alice, "app", "30m").await);
        let use_it = async |grant: Value| {
            used(door, "app", Some(&dave), &Token::of(door, &dave).with("grant", grant).mint(door), "/x").await
        };
        assert_eq!(use_it(own.clone().into()).await.status, 200);
        for wrong in [
            of_alice.into(),
            "grt_06h01rs2cto0b2afh7rgi8mlb0".into(),
            "grt_1".into(),
            "".into(),
            Value::Null,
            json!(7),
            json!([]),
        ] {
            let got = use_it(wrong.clone()).await;
            assert_eq!((got.status.as_u16(), got.reason().as_str()), (401, "bad_credential"), "{wrong}");
        }
        // One that another node gave a moment ago is found in the store, and its end as well.
        let now = door.clock.now();
        let store = &door.running().desk.store;
        let known = store.grant_fetch(GrantId::parse(&own).unwrap()).await.unwrap().unwrap();
        let made = |state| Grant { id: GrantId::fresh(now, &SystemEntropy), state, ..known.clone() };
        let until = now.plus(Ttl::minutes(30));
        let active = made(GrantState::Active { from: now, until });
        let over = made(GrantState::Over { from: Some(now), until: Some(until), end: GrantEnd::Revoked, at: now });
        let mut tx = store.begin().await.unwrap();
        tx.grant_insert(&active).await.unwrap();
        tx.grant_insert(&over).await.unwrap();
        tx.commit().await.unwrap();
        assert!(door.running().shared.directory.grant(&dave.principal, active.id).is_none());
        assert_eq!(use_it(active.id.to_string().into()).await.status, 200);
        assert_eq!(use_it(over.id.to_string().into()).await.status, 401);
        assert!(door.running().shared.directory.has_ended(over.id), "it need not be looked for again");
    });
}

#[test]
fn a_token_whose_grant_is_over_is_good_nowhere() {
    with_door(plan(), async |door| {
        let dave = door.sign_in("dave").await;
        let grant = granted(door, &dave, "app", "30m").await;
        let answer = token_of(door, &dave, &grant).await;
        let token = answer["access_token"].as_str().unwrap();
        let ask = async || body(&post(door, Some(&dave), "/oauth2/introspect", &[], &[("token", token)]).await);
        let told = ask().await;
        assert_eq!((&told["active"], &told["grant"]), (&json!(true), &json!(grant)));
        // None such is made for the control API; were there one, it would end in the same way.
        let control =
            Token::of(door, &dave).with("aud", door.origin.clone().into()).with("grant", grant.clone().into());
        let control = control.mint(door);
        let exchange = async || {
            let fields = [
                ("grant_type", EXCHANGE),
                ("subject_token", control.as_str()),
                ("subject_token_type", ACCESS_TOKEN),
                ("audience", "app"),
            ];
            post(door, Some(&dave), "/oauth2/token", &[], &fields).await
        };
        assert_eq!(api(door, Some(&dave), Some(&control), "/api/v1/whoami", None).await.status, 200);
        assert_eq!(exchange().await.status, 200);
        end(door, &dave, &grant, "drop").await;
        assert_eq!(ask().await, json!({ "active": false }));
        assert_eq!(api(door, Some(&dave), Some(&control), "/api/v1/whoami", None).await.reason(), "bad_credential");
        assert_eq!(error(&exchange().await), "invalid_request");
    });
}

#[test]
fn a_job_asks_at_the_gate_in_its_own_session_and_goes_on_with_a_token_of_the_grant() {
    with_door(plan(), async |door| {
        let (alice, dave) = (door.sign_in("alice").await, door.sign_in("dave").await);
        let own = job(door, &json!({ "jti": "gate" }));
        let got = of_job(door, &own, &[("audience", &door.origin)]).await;
        assert_eq!(got.status, 200, "{}", got.text());
        let session = body(&got);
        assert_eq!(session["aud"], door.origin.as_str());
        let api_token = session["access_token"].as_str().unwrap();
        let asked = json!({ "entitlement": "web/open", "reason": "deploy" });
        let request = body(&api(door, None, Some(api_token), "/api/v1/requests", Some(asked)).await);
        let id = request["id"].as_str().unwrap();
        assert_eq!((&request["state"], &request["principal"]["id"]), (&json!("pending"), &json!("ci|main")));
        let path = format!("/api/v1/requests/{id}");
        assert_eq!(body(&api(door, None, Some(api_token), &path, None).await)["state"], "pending");
        // The session is worth nothing at a service, and never approves what it asked for.
        assert_eq!(used(door, "web", None, api_token, "/x").await.status, 401);
        let answers = format!("{path}/approvals");
        let yes = json!({ "answer": "approve", "hash": request["hash"] });
        assert_eq!(api(door, None, Some(api_token), &answers, Some(yes.clone())).await.status, 403);
        assert_eq!(api(door, Some(&dave), None, &path, None).await.status, 404, "it is no business of a stranger");
        let approved = body(&api(door, Some(&alice), None, &answers, Some(yes)).await);
        let grant = approved["grant"].as_str().unwrap_or_else(|| panic!("{approved}"));

        let exchange = async |audience: &str| {
            let fields = [
                ("grant_type", EXCHANGE),
                ("subject_token", api_token),
                ("subject_token_type", ACCESS_TOKEN),
                ("audience", audience),
                ("grant", grant),
            ];
            post(door, None, "/oauth2/token", &[], &fields).await
        };
        let got = exchange("web").await;
        assert_eq!(got.status, 200, "{}", got.text());
        let answer = body(&got);
        assert_eq!((&answer["grant"], &answer["session"]["id"]), (&json!(grant), &session["session"]["id"]));
        let token = answer["access_token"].as_str().unwrap();
        let mut client = door.client("web", None, Speaks::Http2).await;
        let bearer = format!("Bearer {token}");
        assert_eq!(client.ask(Method::GET, "/x", &[("authorization", &bearer)], b"").await.status, 200);
        // What the rule does not reach, its session does not either.
        assert_eq!(error(&exchange("app").await), "invalid_target");
        assert_eq!(error(&exchange(&door.origin).await), "invalid_target", "a session is not prolonged by itself");

        // The same run comes with a fresh token, and goes on. Another run of the same rule is the same
        // principal, and what was approved for this one is not for it; without the grant's token it is
        // in nothing, and asks for itself. Another rule's job holds nothing anyway.
        let later = job(door, &json!({ "jti": "later", "run_id": "10" }));
        assert_eq!(error(&of_job(door, &later, &[("audience", "web"), ("grant", grant)]).await), "invalid_grant");
        let plain = body(&of_job(door, &later, &[("audience", "web")]).await);
        let plain = plain["access_token"].as_str().unwrap();
        let refused = used(door, "web", None, plain, "/x").await;
        assert_eq!(refused.reason(), "no_policy_match");
        // A job is told what a job can run.
        let remedy = refused.problem()["remedy"].clone();
        assert_eq!((&remedy["kind"], &remedy["entitlement"]), (&json!("request_access"), &json!("web/open")));
        assert_eq!(remedy["command"], "doorward token --service web --request open --reason TEXT --wait");
        let same = body(&of_job(door, &job(door, &json!({ "jti": "same" })), &[("audience", "web")]).await);
        let same = same["access_token"].as_str().unwrap();
        assert_eq!(used(door, "web", None, same, "/x").await.reason(), "no_policy_match", "by the grant's token alone");
        let next = job(door, &json!({ "jti": "next run" }));
        let again = body(&of_job(door, &next, &[("audience", "web"), ("grant", grant)]).await);
        let again = again["access_token"].as_str().unwrap();
        assert_eq!(used(door, "web", None, again, "/x").await.status, 200);
        let other = job(door, &json!({ "jti": "other", "ref": "refs/heads/next" }));
        assert_eq!(error(&of_job(door, &other, &[("audience", "web"), ("grant", grant)]).await), "invalid_grant");
        assert_eq!(
            of_job(door, &other, &[("audience", "web")]).await.status,
            200,
            "a wrong grant does not use the token up"
        );

        let path = format!("/api/v1/grants/{grant}/revoke");
        assert_eq!(api(door, Some(&alice), None, &path, Some(json!({ "reason": "stop" }))).await.status, 200);
        let over = client.ask(Method::GET, "/x", &[("authorization", &bearer)], b"").await;
        assert_eq!((over.status.as_u16(), over.reason().as_str()), (401, "bad_credential"));
        assert_eq!(used(door, "web", None, again, "/x").await.status, 401);
    });
}

#[test]
fn a54_what_one_run_asked_for_no_other_run_of_its_rule_takes_back_prolongs_or_ends() {
    with_door(plan(), async |door| {
        let alice = door.sign_in("alice").await;
        let token = async |jti: &str, run: &str| {
            let own = job(door, &json!({ "jti": jti, "run_id": run }));
            body(&of_job(door, &own, &[("audience", &door.origin)]).await)["access_token"].as_str().unwrap().to_owned()
        };
        // Two jobs of one run, and one of another.
        let (first, second, other) = (token("a", "9").await, token("b", "9").await, token("c", "10").await);
        let asked = async || {
            let asked = json!({ "entitlement": "web/open", "reason": "deploy", "for": "10m" });
            body(&api(door, None, Some(&first), "/api/v1/requests", Some(asked)).await)
        };
        let act = async |token: &str, path: &str, sent: Value| api(door, None, Some(token), path, Some(sent)).await;
        let withdraws = async |token: &str, request: &Value| {
            act(token, &format!("/api/v1/requests/{}/withdraw", request["id"].as_str().unwrap()), json!({})).await
        };

        let request = asked().await;
        let refused = withdraws(&other, &request).await;
        assert_eq!((refused.status.as_u16(), refused.reason().as_str()), (403, "no_policy_match"));
        assert_eq!(body(&withdraws(&second, &request).await)["state"], "withdrawn");

        let request = asked().await;
        let answers = format!("/api/v1/requests/{}/approvals", request["id"].as_str().unwrap());
        let yes = json!({ "answer": "approve", "hash": request["hash"] });
        let approved = body(&api(door, Some(&alice), None, &answers, Some(yes)).await);
        let path = format!("/api/v1/grants/{}", approved["grant"].as_str().unwrap());
        let more = json!({ "for": "5m" });
        let why = json!({ "reason": "over" });
        for (verb, sent) in [("extend", more.clone()), ("drop", json!({})), ("revoke", why)] {
            let refused = act(&other, &format!("{path}/{verb}"), sent).await;
            assert_eq!((refused.status.as_u16(), refused.reason().as_str()), (403, "no_policy_match"), "{verb}");
        }
        assert_eq!(body(&api(door, None, Some(&first), &path, None).await)["state"], "active");
        let extension = body(&act(&second, &format!("{path}/extend"), more).await);
        assert_eq!(extension["state"], "pending", "{extension}");
        assert_eq!(withdraws(&other, &extension).await.status, 403);
        assert_eq!(body(&act(&second, &format!("{path}/drop"), json!({})).await)["state"], "dropped");
    });
}

#[test]
fn a54_what_one_run_holds_no_other_run_of_its_rule_ends() {
    with_door(plan(), async |door| {
        let token = async |jti: &str, run: &str| {
            let own = job(door, &json!({ "jti": jti, "run_id": run }));
            body(&of_job(door, &own, &[("audience", &door.origin)]).await)["access_token"].as_str().unwrap().to_owned()
        };
        let (first, second, other) = (token("a", "9").await, token("b", "9").await, token("c", "10").await);
        let get = async |token: &str, path: &str| api(door, None, Some(token), path, None).await;
        let session = body(&get(&first, "/api/v1/whoami").await)["session"]["id"].as_str().unwrap().to_owned();
        let listed = body(&get(&first, "/api/v1/credentials").await)["items"].as_array().unwrap().clone();
        let held = listed.iter().find(|held| held["session"] == session.as_str()).unwrap();
        let why = json!({ "reason": "over" });
        let ends = [
            format!("/api/v1/credentials/{}/revoke", held["id"].as_str().unwrap()),
            format!("/api/v1/sessions/{session}/revoke"),
        ];
        for path in &ends {
            let refused = api(door, None, Some(&other), path, Some(why.clone())).await;
            assert_eq!((refused.status.as_u16(), refused.reason().as_str()), (403, "no_policy_match"), "{path}");
            assert_eq!(get(&first, "/api/v1/whoami").await.status, 200, "{path}");
        }
        for path in &ends {
            let ended = api(door, None, Some(&second), path, Some(why.clone())).await;
            assert_eq!(ended.status, 200, "{path}: {}", ended.text());
        }
        assert_eq!(get(&first, "/api/v1/whoami").await.status, 401);
        assert_eq!(get(&other, "/api/v1/whoami").await.status, 200);
    });
}

#[test]
fn a_wish_that_can_not_be_met_does_not_use_a_jobs_token_up() {
    let change = |dir: &Path| {
        plan().change.unwrap()(dir);
        let path = dir.join("policies/web/access.cedar");
        let bars = "forbid (principal == Workload::\"ci|next\", action == Action::\"request\", resource);\n";
        std::fs::write(&path, std::fs::read_to_string(&path).unwrap() + bars).unwrap();
    };
    with_door(Plan { change: Some(change), ..Plan::default() }, async |door| {
        let alice = door.sign_in("alice").await;
        let own = job(door, &json!({ "jti": "wish" }));
        let ask = async |token: &str, wanted: &[(&str, &str)]| {
            let fields = [&[("audience", door.origin.as_str())][..], wanted].concat();
            of_job(door, token, &fields).await
        };
        let fits = json!({ "entitlement": "web/open", "reason": "deploy" });
        let but = |key: &str, value: Value| {
            let mut wish = fits.clone();
            wish[key] = value;
            wish.to_string()
        };
        let (unreasoned, long) = (but("reason", Value::Null), but("for", json!("9999h")));
        let (elsewhere, unknown) = (but("entitlement", json!("app/open")), but("entitlement", json!("web/nope")));
        let fits = fits.to_string();
        let table: &[(&[(&str, &str)], &str)] = &[
            (&[("wanted_audience", "web"), ("wanted_scope", "open nope")], "invalid_scope"),
            (&[("wanted_audience", "app")], "invalid_target"),
            (&[("wanted_audience", "No Name")], "invalid_target"),
            (&[("wanted_scope", "open")], "invalid_request"),
            (&[("wanted_request", &fits)], "invalid_request"),
            (&[("wanted_audience", "web"), ("wanted_request", "{}")], "invalid_request"),
            (&[("wanted_audience", "web"), ("wanted_request", &unreasoned)], "invalid_request"),
            (&[("wanted_audience", "web"), ("wanted_request", &long)], "invalid_request"),
            (&[("wanted_audience", "web"), ("wanted_request", &elsewhere)], "invalid_request"),
            (&[("wanted_audience", "web"), ("wanted_request", &unknown)], "not_found"),
        ];
        for (wanted, word) in table {
            assert_eq!(error(&ask(&own, wanted).await), *word, "{wanted:?}");
        }
        // Nor one for a token of a service itself.
        let table: &[(&[(&str, &str)], &str)] = &[
            (&[("audience", "web"), ("scope", "nope")], "invalid_scope"),
            (&[("audience", "app")], "invalid_target"),
            (&[("audience", "web"), ("lifetime", "0")], "invalid_request"),
            (&[("audience", "web"), ("grant", "grt_06h01rs2cto0b2afh7rgi8mlb0")], "invalid_grant"),
            (&[("audience", "web"), ("csr", "AAAA")], "invalid_request"),
            (&[("audience", "web"), ("wanted_audience", "web")], "invalid_request"),
        ];
        for (fields, word) in table {
            assert_eq!(error(&of_job(door, &own, fields).await), *word, "{fields:?}");
        }
        let of_alice = of_person(door, &alice, &[], &[("audience", "web"), ("wanted_audience", "web")]).await;
        assert_eq!(error(&of_alice), "invalid_request");

        // Who may not ask is told so, and has the token for what they may do.
        let next = job(door, &json!({ "jti": "next", "ref": "refs/heads/next" }));
        let wanted = [("wanted_audience", "web"), ("wanted_scope", "open"), ("wanted_request", fits.as_str())];
        assert_eq!(error(&ask(&next, &wanted).await), "access_denied");
        assert_eq!(of_job(door, &next, &[("audience", "web")]).await.status, 200);
        // Whose token does not hold learns nothing of services, scopes and entitlements.
        let old = job(door, &json!({ "jti": "old", "exp": door.clock.now().seconds() - 60 }));
        let told = async |wanted: &[(&str, &str)]| body(&ask(&old, wanted).await)["error_description"].clone();
        let plain = told(&[]).await;
        for wanted in [
            &[("wanted_audience", "web"), ("wanted_scope", "nope")][..],
            &[("wanted_audience", "app")],
            &[("wanted_audience", "web"), ("wanted_request", unknown.as_str())],
        ] {
            assert_eq!(told(wanted).await, plain, "{wanted:?}");
        }

        // A wish that fits gets a plain session, in which nothing was asked for yet; and that uses the token up.
        let got = ask(&own, &wanted).await;
        assert_eq!((got.status.as_u16(), &body(&got)["scope"]), (200, &Value::Null), "{}", got.text());
        let session = body(&got);
        let requests = api(door, None, session["access_token"].as_str(), "/api/v1/requests", None).await;
        assert_eq!(body(&requests)["items"], json!([]));
        assert_eq!(error(&ask(&own, &wanted).await), "invalid_request");
    });
}

#[test]
fn a45_what_a_job_may_ask_of_the_control_host_is_one_plain_token() {
    with_door(plan(), async |door| {
        let alice = door.sign_in("alice").await;
        let ask = async |jti: &str, more: &[(&str, &str)]| {
            let mut fields = vec![("audience", door.origin.as_str())];
            fields.extend(more);
            error(&of_job(door, &job(door, &json!({ "jti": jti })), &fields).await)
        };
        assert_eq!(ask("a", &[("scope", "open")]).await, "invalid_request");
        assert_eq!(ask("b", &[("resource", "https://web.doorward.localhost")]).await, "invalid_target");
        assert_eq!(ask("c", &[("grant", "grt_06h01rs2cto0b2afh7rgi8mlb0")]).await, "invalid_grant");
        // A person has a certificate for it.
        let got = of_person(door, &alice, &[], &[("audience", &door.origin)]).await;
        assert_eq!(error(&got), "invalid_target");
        let with_slash = format!("{}/", door.origin);
        let got = of_job(door, &job(door, &json!({ "jti": "d" })), &[("resource", &with_slash)]).await;
        assert_eq!(body(&got)["aud"], door.origin.as_str());
    });
}
