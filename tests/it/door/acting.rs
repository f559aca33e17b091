//! Acting for somebody by a token that was handed on (RFC 8693 §4): a45, and what ends it.

use std::path::Path;
use std::time::{Duration, Instant};

use data_encoding::BASE64URL_NOPAD;
use doorward::control::lock;
use doorward::model::{Principal, SessionId, Ttl};
use http::Method;
use http_body_util::BodyExt;
use serde_json::{Value, json};

use super::exchange::{AUDIENCE, EXCHANGE, ISSUER, PIPELINE, body, error, job, of_person, post, used};
use super::fixture::{BOTH, Door, Got, Person, Plan, Speaks, full, with_door};

const ACCESS_TOKEN: &str = "urn:ietf:params:oauth:token-type:access_token";
const JWT: &str = "urn:ietf:params:oauth:token-type:jwt";

/// Jobs of `main` and `next` may act for security, those of `lone` for nobody, those of `far` at `rpc` only.
fn plan() -> Plan {
    let change = |dir: &Path| {
        let mut rules = format!(
            "[[issuer]]\nname = \"ci\"\npreset = \"github-actions\"\nissuer = \"{ISSUER}\"\naudience = \"{AUDIENCE}\"\n\
             jwks_file = \"ci.jwks\"\n"
        );
        for (name, more) in [
            ("main", "acts_for = [\"security\"]\nservices = [\"app\", \"web\"]"),
            ("next", "acts_for = [\"security\"]"),
            ("lone", ""),
            ("far", "acts_for = [\"security\"]\nservices = [\"rpc\"]"),
        ] {
            rules.push_str(&format!(
                "[[rule]]\nname = \"{name}\"\nissuer = \"ci\"\n{more}\nclaims = {{ repository_id = \"74\", ref = \"refs/heads/{name}\" }}\n"
            ));
        }
        std::fs::write(dir.join("policies/workloads.toml"), rules).unwrap();
        std::fs::write(dir.join("policies/ci.jwks"), json!({ "keys": [PIPELINE.jwk()] }).to_string()).unwrap();
    };
    Plan { change: Some(change), ..Plan::default() }
}

fn job_of(door: &Door, rule: &str, jti: &str) -> String {
    job(door, &json!({ "ref": format!("refs/heads/{rule}"), "jti": jti }))
}

fn claims(token: &str) -> Value {
    serde_json::from_slice(&BASE64URL_NOPAD.decode(token.split('.').nth(1).unwrap().as_bytes()).unwrap()).unwrap()
}

fn token_in(got: &Got) -> String {
    assert_eq!(got.status, 200, "{}", got.text());
    body(got)["access_token"].as_str().unwrap().to_owned()
}

/// A token that this person hands on to a workload.
async fn handed(door: &Door, person: &Person, service: &str, to: &str, more: &[(&str, &str)]) -> String {
    let mut fields = vec![("audience", service), ("scope", "manage"), ("may_act", to)];
    fields.extend(more);
    token_in(&of_person(door, person, &[], &fields).await)
}

async fn act(door: &Door, subject: &str, actor: &str, more: &[(&str, &str)]) -> Got {
    let mut fields = vec![
        ("grant_type", EXCHANGE),
        ("subject_token", subject),
        ("subject_token_type", ACCESS_TOKEN),
        ("actor_token", actor),
        ("actor_token_type", JWT),
    ];
    fields.retain(|(name, _)| !more.iter().any(|(other, _)| other == name));
    fields.extend(more.iter().filter(|(_, value)| !value.is_empty()));
    post(door, None, "/oauth2/token", &[], &fields).await
}

#[test]
fn a_workload_acts_for_a_person_by_what_was_handed_on_and_it_shows_everywhere() {
    with_door(plan(), async |door| {
        let carol = door.sign_in("carol").await;
        let subject = handed(door, &carol, "web", "ci|main", &[]).await;
        assert_eq!(claims(&subject)["may_act"]["sub"], "ci|main");
        // By itself it is the person's own: worth nothing to the workload that has it.
        assert_eq!(used(door, "web", None, &subject, "/admin/x").await.status, 401);
        assert_eq!(used(door, "web", Some(&carol), &subject, "/admin/x").await.status, 200);

        let got = act(door, &subject, &job_of(door, "main", "a"), &[]).await;
        let answer = body(&got);
        assert_eq!((&answer["aud"], &answer["scope"]), (&json!("web"), &json!("manage")), "{answer}");
        assert_eq!(answer["session"]["principal"]["id"], "ci|main", "the session that it is told of is its own");
        let token = token_in(&got);
        let told = claims(&token);
        assert_eq!((&told["sub"], &told["act"]["sub"]), (&json!("dev|carol"), &json!("ci|main")), "{told}");
        assert_eq!(told["sid"], carol.session.to_string());
        assert_eq!(told["act"]["sid"], answer["session"]["id"]);
        assert!(told.get("may_act").is_none() && told.get("cnf").is_none());
        assert!(told["exp"].as_i64() <= claims(&subject)["exp"].as_i64());

        let used_by = used(door, "web", None, &token, "/admin/x").await;
        assert_eq!(used_by.status, 200, "{}", used_by.text());
        assert_eq!(used(door, "web", None, &token, "/x").await.reason(), "scope_insufficient");
        let assertion = claims(door.raw.last().one("doorward-assertion").unwrap());
        assert_eq!((&assertion["sub"], &assertion["act"]["sub"]), (&json!("dev|carol"), &json!("ci|main")));
        // On record, and to be read back by the person whose decision it is.
        let recorded = door.recorded(used_by.decision()).await;
        assert_eq!(recorded.body["data"]["act"], json!(["Workload::\"ci|main\""]), "{:?}", recorded.body);
        let path = format!("/api/v1/decisions/{}", used_by.decision());
        let why = door.client("", Some(&carol), Speaks::Http1).await.get(&path).await;
        let why: doorward::wire::Decision = serde_json::from_slice(&why.body).unwrap();
        assert_eq!(why.act, ["Workload::\"ci|main\""]);
        assert!(doorward::cli::why::told(&why).contains("for whom Workload::\"ci|main\" acted"));
        // The person's own credential is told of no actor.
        let own = door.get("web", Some(&carol), Speaks::Http2, "/admin/x").await;
        assert!(door.recorded(own.decision()).await.body["data"].get("act").is_none());
        assert!(claims(door.raw.last().one("doorward-assertion").unwrap()).get("act").is_none());
        // And the token is among the person's credentials, with who acts by it.
        let listed = door.client("", Some(&carol), Speaks::Http1).await.get("/api/v1/credentials").await;
        let acting: Vec<Value> =
            body(&listed)["items"].as_array().unwrap().iter().map(|it| it["acting"].clone()).collect();
        assert!(acting.contains(&json!("Workload::\"ci|main\"")), "{}", listed.text());
    });
}

#[test]
fn who_acts_shows_their_own_certificate_and_nobody_elses() {
    with_door(plan(), async |door| {
        let (carol, alice) = (door.sign_in("carol").await, door.sign_in("alice").await);
        let subject = handed(door, &carol, "app", "ci|main", &[]).await;
        let key = rcgen::KeyPair::generate().unwrap();
        let csr = crate::api_house::csr(&key);
        let got = act(door, &subject, &job_of(door, "main", "csr"), &[("csr", &csr)]).await;
        let (token, answer) = (token_in(&got), body(&got));
        let machine = Person {
            key_pem: key.serialize_pem(),
            certificate_pem: answer["certificate"].as_str().unwrap().to_owned(),
            session: SessionId::parse(answer["session"]["id"].as_str().unwrap()).unwrap(),
            principal: Principal::workload("ci", "main").unwrap(),
        };
        for speaks in BOTH {
            let bearer = format!("Bearer {token}");
            let headers = [("authorization", bearer.as_str())];
            let by = async |person: &Person| {
                door.client("app", Some(person), speaks).await.ask(Method::GET, "/admin/x", &headers, b"").await
            };
            assert_eq!(by(&machine).await.status, 200);
            // Not even over the certificate of the person whose token it is.
            for person in [&carol, &alice] {
                assert_eq!(by(person).await.reason(), "bad_credential");
            }
        }
        // Without the token the workload is itself, and may nothing here.
        assert_eq!(door.get("app", Some(&machine), Speaks::Http2, "/admin/x").await.reason(), "no_policy_match");
        // A person's browser acts for nobody.
        let subject = handed(door, &carol, "web", "ci|main", &[]).await;
        let token = token_in(&act(door, &subject, &job_of(door, "main", "c"), &[]).await);
        let bearer = format!("Bearer {token}");
        let cookie = "__Host-doorward=AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";
        let headers = [("authorization", bearer.as_str()), ("cookie", cookie)];
        let got = door.client("web", None, Speaks::Http2).await.ask(Method::GET, "/admin/x", &headers, b"").await;
        assert_eq!(got.reason(), "bad_credential");
    });
}

#[test]
fn a45_nobody_acts_whom_the_token_or_the_rules_do_not_name_and_nothing_gets_wider() {
    with_door(plan(), async |door| {
        let (carol, alice) = (door.sign_in("carol").await, door.sign_in("alice").await);
        // Whom a person may name: one whose rule acts for a group of theirs, and with a scope.
        let name = async |person: &Person, fields: &[(&str, &str)]| error(&of_person(door, person, &[], fields).await);
        for workload in ["ci|lone", "ci|none", "dev|carol", "User::\"dev|carol\"", "x", "ci|", "|main"] {
            let fields = [("audience", "web"), ("scope", "manage"), ("may_act", workload)];
            assert_eq!(name(&carol, &fields).await, "invalid_request", "{workload}");
        }
        assert_eq!(name(&carol, &[("audience", "web"), ("may_act", "ci|main")]).await, "invalid_request", "no scope");
        let of_alice = [("audience", "web"), ("scope", "open"), ("may_act", "ci|main")];
        assert_eq!(name(&alice, &of_alice).await, "invalid_request", "alice is not of security");

        let subject = handed(door, &carol, "web", "ci|main", &[("lifetime", "60")]).await;
        let plain = token_in(&of_person(door, &carol, &[], &[("audience", "web"), ("scope", "manage")]).await);
        let good = || job_of(door, "main", "unused");
        let refused = async |subject: &str, actor: &str, more: &[(&str, &str)], word: &str, what: &str| {
            let got = act(door, subject, actor, more).await;
            assert_eq!(error(&got), word, "{what}: {}", got.text());
        };
        let invalid = "invalid_request";
        refused(&plain, &good(), &[], invalid, "an actor without may_act").await;
        refused(&subject, &job_of(door, "next", "n"), &[], invalid, "another actor").await;
        refused(&subject, &job_of(door, "lone", "l"), &[], invalid, "one whose rule acts for nobody").await;
        refused(&subject, &subject, &[("actor_token_type", ACCESS_TOKEN)], invalid, "itself").await;
        refused(&subject, &good(), &[("actor_token_type", "")], invalid, "no type").await;
        refused(&subject, "", &[("actor_token", "")], invalid, "a type without a token").await;
        refused(&subject, &good(), &[("subject_token_type", JWT)], invalid, "another type of subject").await;
        refused(&subject, &good(), &[("grant", "grt_06h01rs2cto0b2afh7rgi8mlb0")], invalid, "a grant").await;
        refused(&subject, &good(), &[("lifetime", "901")], invalid, "longer than tokens last").await;
        for cut in [1, 20, subject.len() / 2] {
            refused(&subject[..subject.len() - cut], &good(), &[], invalid, "truncated").await;
        }
        let foreign = crate::fake_provider::Key::new("ci")
            .sign(&json!({ "alg": "ES256", "kid": "ci" }), &json!({ "iss": ISSUER }));
        refused(&subject, &foreign, &[], invalid, "an actor of another key").await;
        refused(&foreign, &good(), &[], invalid, "a subject of another key").await;
        refused(&subject, &good(), &[("scope", "manage open")], "invalid_scope", "a wider scope").await;
        refused(&subject, &good(), &[("scope", "open")], "invalid_scope", "another scope").await;
        refused(&subject, &good(), &[("audience", "app")], "invalid_target", "another service").await;
        refused(&subject, &good(), &[("audience", &door.origin)], "invalid_target", "the control host").await;
        let far = handed(door, &carol, "web", "ci|far", &[]).await;
        refused(&far, &job_of(door, "far", "f"), &[], "invalid_target", "a service that its rule does not reach").await;
        // Nothing of all that used the actor's token up but what came to the last step.
        let token = token_in(&act(door, &subject, &job_of(door, "main", "good"), &[("lifetime", "900")]).await);
        assert!(
            claims(&token)["exp"].as_i64() <= claims(&subject)["exp"].as_i64(),
            "no longer than what was handed on"
        );
        let again = act(door, &subject, &job_of(door, "main", "good"), &[]).await;
        assert_eq!(error(&again), invalid, "the actor's token is good once");
        // What comes of it can't be handed on by itself.
        refused(&token, &job_of(door, "next", "t"), &[], invalid, "no may_act in it").await;
        // The rule is asked each time.
        let rules = std::fs::read_to_string(door.dir.join("policies/workloads.toml")).unwrap();
        door.write(
            "workloads.toml",
            &rules.replace("acts_for = [\"security\"]\nservices = [\"app\"", "services = [\"app\""),
        );
        door.running().reload().unwrap();
        refused(&subject, &job_of(door, "main", "late"), &[], invalid, "the rule is gone").await;
        door.write("workloads.toml", &rules);
        door.running().reload().unwrap();
        // Over, and of a session that is over.
        door.clock.advance(Ttl::seconds(61));
        door.settled().await;
        refused(&subject, &job_of(door, "main", "over"), &[], invalid, "an expired subject").await;
        let subject = handed(door, &carol, "web", "ci|main", &[]).await;
        door.revoke(&carol).await;
        refused(&subject, &job_of(door, "main", "ended"), &[], invalid, "a session that ended").await;
    });
}

#[test]
fn what_is_handed_on_again_names_all_who_had_it() {
    with_door(plan(), async |door| {
        let carol = door.sign_in("carol").await;
        let subject = handed(door, &carol, "web", "ci|main", &[]).await;
        let first = act(door, &subject, &job_of(door, "main", "1"), &[("may_act", "ci|next")]).await;
        let first = token_in(&first);
        assert_eq!(claims(&first)["may_act"]["sub"], "ci|next");
        let second = token_in(&act(door, &first, &job_of(door, "next", "2"), &[]).await);
        let told = claims(&second);
        assert_eq!((&told["sub"], &told["act"]["sub"]), (&json!("dev|carol"), &json!("ci|next")), "{told}");
        assert_eq!(told["act"]["act"]["sub"], "ci|main");
        assert!(told["act"]["act"].get("act").is_none());
        let got = used(door, "web", None, &second, "/admin/x").await;
        assert_eq!(got.status, 200, "{}", got.text());
        let recorded = door.recorded(got.decision()).await;
        assert_eq!(recorded.body["data"]["act"], json!(["Workload::\"ci|next\"", "Workload::\"ci|main\""]));
        // Whoever handed it on is part of it: without them it is over.
        let within = SessionId::parse(told["act"]["act"]["sid"].as_str().unwrap()).unwrap();
        end(door, within).await;
        assert_eq!(used(door, "web", None, &second, "/admin/x").await.reason(), "bad_credential");
        // And it goes round no more often than it may.
        let mut token = handed(door, &carol, "web", "ci|main", &[]).await;
        for round in 0..4 {
            let (rule, next) = if round % 2 == 0 { ("main", "ci|next") } else { ("next", "ci|main") };
            token = token_in(&act(door, &token, &job_of(door, rule, &format!("r{round}")), &[("may_act", next)]).await);
        }
        assert_eq!(error(&act(door, &token, &job_of(door, "main", "r4"), &[]).await), "invalid_request");
    });
}

async fn end(door: &Door, id: SessionId) {
    let desk = &door.running().desk;
    let end = doorward::model::SessionEnd::Revoked;
    let actor = doorward::audit::Actor::default();
    doorward::control::session::end(desk, id, end, &actor, Some("test"), desk.clock.now()).await.unwrap();
}

#[test]
fn acting_ends_with_the_person_with_the_workload_and_with_a_lock_on_either() {
    with_door(plan(), async |door| {
        let desk = &door.running().desk;
        for what in ["person", "workload", "lock of the workload", "token"] {
            let carol = door.sign_in("carol").await;
            let subject = handed(door, &carol, "web", "ci|main", &[]).await;
            let got = act(door, &subject, &job_of(door, "main", what), &[]).await;
            let (token, answer) = (token_in(&got), body(&got));
            let bearer = format!("Bearer {token}");
            let mut client = door.client("web", None, Speaks::Http2).await;
            let request = client.request(Method::GET, "/admin/stream").header("authorization", &bearer);
            door.raw.reply(
                "/admin/stream",
                super::upstream::Reply::Bytes(b"HTTP/1.1 200 OK\r\ncontent-length: 1000000\r\n\r\nbegin".to_vec()),
            );
            let response = client.send(request.body(full("")).unwrap()).await.unwrap();
            assert_eq!(response.status(), 200);
            let mut stream = response.into_body();
            assert!(stream.frame().await.unwrap().is_ok());
            let actor = doorward::audit::Actor::default();
            let workload = Principal::workload("ci", "main").unwrap();
            let now = desk.clock.now();
            match what {
                "person" => door.revoke(&carol).await,
                "workload" => end(door, SessionId::parse(answer["session"]["id"].as_str().unwrap()).unwrap()).await,
                "token" => {
                    let fields = [("token", token.as_str()), ("client_id", "doorward-cli")];
                    assert_eq!(post(door, None, "/oauth2/revoke", &[], &fields).await.status, 200);
                }
                _ => {
                    lock::set(&desk.store, actor, &workload, "test", now, &*desk.entropy).await.unwrap();
                    desk.directory.lock(&workload);
                }
            }
            let ended = Instant::now();
            let frame = tokio::time::timeout(Duration::from_secs(5), stream.frame()).await.expect(what);
            assert!(frame.is_none_or(|frame| frame.is_err()), "{what}");
            assert!(ended.elapsed() < Duration::from_secs(1), "{what}: cut after {:?}", ended.elapsed());
            let refused = used(door, "web", None, &token, "/admin/x").await;
            let reason = match what {
                "person" => "session_ended",
                "lock of the workload" => "locked",
                _ => "bad_credential",
            };
            assert_eq!(refused.reason(), reason, "{what}");
            if what.starts_with("lock") {
                let (actor, now) = (doorward::audit::Actor::default(), desk.clock.now());
                lock::clear(&desk.store, actor, &workload, "test", now, &*desk.entropy).await.unwrap();
                desk.directory.unlock(&workload);
            }
        }
    });
}
