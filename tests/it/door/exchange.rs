//! Tokens that were exchanged for, used at the door: a34 to a38, a45 to a47.

use std::sync::LazyLock;
use std::time::{Duration, Instant};

use data_encoding::BASE64URL_NOPAD;
use doorward::audit::{EventType, PersonalField};
use doorward::model::{Clock, Ttl};
use http::Method;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use sqlx::Executor as _;

use super::fixture::{Door, Got, Person, Plan, Speaks, with_door};
use super::record::hold_tables;
use crate::fake_provider::Key;
use crate::support::databases;

pub const ISSUER: &str = "https://ci.example.com";
pub const AUDIENCE: &str = "https://doorward.example.com";
pub const EXCHANGE: &str = "urn:ietf:params:oauth:grant-type:token-exchange";
const JWT: &str = "urn:ietf:params:oauth:token-type:jwt";
const CERTIFICATE: &str = "urn:doorward:params:oauth:token-type:session-certificate";

pub static PIPELINE: LazyLock<Key> = LazyLock::new(|| Key::new("ci"));

/// A door that trusts the pipeline issuer of this file.
pub fn trusting() -> Plan {
    let change = |dir: &std::path::Path| {
        let rules = format!(
            "[[issuer]]\nname = \"ci\"\npreset = \"github-actions\"\nissuer = \"{ISSUER}\"\naudience = \"{AUDIENCE}\"\n\
             jwks_file = \"ci.jwks\"\n\
             [[rule]]\nname = \"main\"\nissuer = \"ci\"\ngroups = [\"engineering\"]\nservices = [\"app\", \"web\"]\n\
             claims = {{ repository_id = \"74\", ref = \"refs/heads/main\" }}\n"
        );
        std::fs::write(dir.join("policies/workloads.toml"), rules).unwrap();
        std::fs::write(dir.join("policies/ci.jwks"), json!({ "keys": [PIPELINE.jwk()] }).to_string()).unwrap();
    };
    Plan { change: Some(change), ..Plan::default() }
}

pub fn job(door: &Door, more: &Value) -> String {
    let now = door.clock.now().seconds();
    let mut claims = json!({
        "iss": ISSUER, "aud": AUDIENCE, "sub": "repo:octo/app:ref:refs/heads/main", "iat": now, "exp": now + 300,
        "jti": format!("{now}-{}", data_encoding::HEXLOWER.encode(&aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256,
            more.to_string().as_bytes()).as_ref()[..4])),
        "repository": "octo/app", "repository_id": "74", "ref": "refs/heads/main", "run_id": "9",
    });
    claims.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    PIPELINE.sign(&json!({ "alg": "ES256", "typ": "JWT", "kid": "ci" }), &claims)
}

pub async fn post(
    door: &Door,
    person: Option<&Person>,
    path: &str,
    headers: &[(&str, &str)],
    fields: &[(&str, &str)],
) -> Got {
    let body = form_urlencoded::Serializer::new(String::new()).extend_pairs(fields).finish();
    let mut all = vec![("content-type", "application/x-www-form-urlencoded")];
    all.extend(headers);
    door.client("", person, Speaks::Http1).await.ask(Method::POST, path, &all, body.as_bytes()).await
}

fn thumbprint(person: &Person) -> String {
    use rustls::pki_types::pem::PemObject;
    let der = rustls::pki_types::CertificateDer::from_pem_slice(person.certificate_pem.as_bytes()).unwrap();
    BASE64URL_NOPAD.encode(&Sha256::digest(&der))
}

pub async fn of_person(door: &Door, person: &Person, headers: &[(&str, &str)], more: &[(&str, &str)]) -> Got {
    let shown = thumbprint(person);
    let mut fields =
        vec![("grant_type", EXCHANGE), ("subject_token", shown.as_str()), ("subject_token_type", CERTIFICATE)];
    fields.extend(more);
    post(door, Some(person), "/oauth2/token", headers, &fields).await
}

pub async fn of_job(door: &Door, token: &str, more: &[(&str, &str)]) -> Got {
    let mut fields = vec![("grant_type", EXCHANGE), ("subject_token", token), ("subject_token_type", JWT)];
    fields.extend(more);
    post(door, None, "/oauth2/token", &[], &fields).await
}

pub fn body(got: &Got) -> Value {
    serde_json::from_slice(&got.body).unwrap_or_else(|error| panic!("{error}: {got:?}"))
}

pub fn error(got: &Got) -> String {
    assert_eq!(got.status, 400, "{}", got.text());
    body(got)["error"].as_str().unwrap().to_owned()
}

pub async fn used(door: &Door, service: &str, person: Option<&Person>, token: &str, path: &str) -> Got {
    let bearer = format!("Bearer {token}");
    door.client(service, person, Speaks::Http2).await.ask(Method::GET, path, &[("authorization", &bearer)], b"").await
}

#[test]
fn a35_a_key_that_was_taken_out_of_an_issuers_file_is_refused_after_the_reload() {
    with_door(trusting(), async |door| {
        let asked = [("audience", "app")];
        let got = of_job(door, &job(door, &json!({})), &asked).await;
        assert_eq!(got.status, 200, "{}", got.text());
        let other = Key::new("other");
        let keys = json!({ "keys": [other.jwk()] }).to_string();
        std::fs::write(door.dir.join("policies/ci.jwks"), keys).unwrap();
        door.running().reload().unwrap();
        let got = of_job(door, &job(door, &json!({ "run_id": "10" })), &asked).await;
        assert_eq!(got.status, 400, "{}", got.text());
    });
}

#[test]
fn a_lock_on_the_bare_id_of_a_workload_bars_the_workload() {
    let change = |dir: &std::path::Path| {
        trusting().change.unwrap()(dir);
        let bars = "permit (principal in Group::\"security\", action == Action::\"lock\", resource);\n";
        std::fs::write(dir.join("policies/global.cedar"), bars).unwrap();
    };
    with_door(Plan { change: Some(change), ..Plan::default() }, async |door| {
        let carol = door.sign_in("carol").await;
        let lock = async |path: &str, whom: &str| {
            let body = json!({ "principal": whom, "reason": "stolen" }).to_string();
            let headers = [("content-type", "application/json")];
            door.client("", Some(&carol), Speaks::Http1).await.ask(Method::POST, path, &headers, body.as_bytes()).await
        };
        let got = lock("/api/v1/locks", "ci|main").await;
        assert_eq!(
            (got.status.as_u16(), &body(&got)["principal"]["kind"]),
            (200, &json!("Workload")),
            "{}",
            got.text()
        );
        assert_eq!(body(&got)["known"], true);
        let got = of_job(door, &job(door, &json!({})), &[("audience", "app")]).await;
        assert_eq!(error(&got), "access_denied");
        assert_eq!(lock("/api/v1/locks/clear", "ci|main").await.status, 200);
        // A person of that id is meant as well, once there is a bar on them.
        assert_eq!(lock("/api/v1/locks", "User::\"ci|main\"").await.status, 200);
        let got = lock("/api/v1/locks", "ci|main").await;
        assert_eq!(got.status, 400, "{}", got.text());
        for form in ["User::\\\"ci|main\\\"", "Workload::\\\"ci|main\\\""] {
            assert!(got.text().contains(form), "{form}: {}", got.text());
        }
        // No rule has this name: a person who was not here yet.
        let got = lock("/api/v1/locks", "dev|erin").await;
        assert_eq!((got.status.as_u16(), &body(&got)["principal"]["kind"]), (200, &json!("User")), "{}", got.text());
        assert_eq!(body(&got)["known"], false);
        // A slip is told, and of a provider that there isn't nobody comes.
        let got = lock("/api/v1/locks", "ci|mian").await;
        assert_eq!(body(&got)["near"], "Workload::\"ci|main\"", "{}", got.text());
        let got = lock("/api/v1/locks", "DEV|erin").await;
        assert_eq!(got.status, 400, "{}", got.text());
        assert!(got.text().contains("`DEV`") && got.text().contains("`dev`, `ci`"), "{}", got.text());
    });
}

#[test]
fn why_says_of_a_refused_exchange_what_was_wanted_to_those_who_read_the_record() {
    let change = |dir: &std::path::Path| {
        trusting().change.unwrap()(dir);
        let reads = "permit (principal in Group::\"security\", action == Action::\"read_audit\", resource);\n";
        std::fs::write(dir.join("policies/global.cedar"), reads).unwrap();
    };
    with_door(Plan { change: Some(change), ..Plan::default() }, async |door| {
        let (carol, alice) = (door.sign_in("carol").await, door.sign_in("alice").await);
        let why = async |person: &Person, got: &Got| {
            door.recorded(got.decision()).await;
            let path = format!("/api/v1/decisions/{}", got.decision());
            door.client("", Some(person), Speaks::Http1).await.get(&path).await
        };
        let now = door.clock.now().seconds();
        let used = job(door, &json!({ "jti": "used" }));
        assert_eq!(of_job(door, &used, &[("audience", "web")]).await.status, 200);
        for (token, told, explained) in [
            (
                job(door, &json!({ "iat": now - 600, "exp": now - 300, "jti": "old" })),
                "has expired",
                "The token of `ci` is not good: the token has expired.",
            ),
            (used, "was exchanged before", "The token, which rule `main` names, was exchanged before."),
            (
                job(door, &json!({ "aud": "https://other.example.com", "jti": "aud" })),
                "is not good here",
                "Its `aud` is to be `https://doorward.example.com`.",
            ),
            (
                job(door, &json!({ "iss": "https://other.example.com", "jti": "iss" })),
                "is not good here",
                "No issuer of `workloads.toml` has the token's `iss`, `https://other.example.com`.",
            ),
            (
                job(door, &json!({ "ref": "refs/heads/evil", "jti": "ref" })),
                "`ref` is `refs/heads/evil`",
                "main: `ref` is `refs/heads/evil`, wanted is `refs/heads/main`",
            ),
        ] {
            let refused = of_job(door, &token, &[("audience", "web")]).await;
            let description = body(&refused)["error_description"].as_str().unwrap().to_owned();
            assert!(description.contains(told), "{description}");
            let answer = why(&carol, &refused).await;
            assert_eq!(answer.status, 200, "{}", answer.text());
            let text = doorward::cli::why::told(&serde_json::from_value(body(&answer)).unwrap());
            assert!(text.contains(explained), "{text}");
            assert_eq!(why(&alice, &refused).await.status, 404);
        }
    });
}

#[test]
fn a34_a_session_gets_a_token_for_one_service_bound_to_its_certificate() {
    with_door(Plan::default(), async |door| {
        let (alice, bob) = (door.sign_in("alice").await, door.sign_in("bob").await);
        let got =
            of_person(door, &alice, &[], &[("audience", "app"), ("scope", "open open"), ("lifetime", "60")]).await;
        assert_eq!(got.status, 200, "{}", got.text());
        let answer = body(&got);
        assert_eq!(
            (&answer["aud"], &answer["scope"], &answer["token_type"]),
            (&json!("app"), &json!("open"), &json!("Bearer"))
        );
        assert_eq!(answer["cnf"], json!({ "x5t#S256": thumbprint(&alice) }));
        assert!((1..=60).contains(&answer["expires_in"].as_i64().unwrap()));
        assert_eq!(got.header("cache-control"), Some("no-store"));
        let token = answer["access_token"].as_str().unwrap();
        assert_eq!(used(door, "app", Some(&alice), token, "/x").await.status, 200);
        assert_eq!(used(door, "app", Some(&alice), token, "/admin/x").await.reason(), "scope_insufficient");
        // At another service, over another's certificate, or over none it is worth nothing.
        for (service, person) in [("web", Some(&alice)), ("app", Some(&bob)), ("web", None), ("web", Some(&bob))] {
            assert_eq!(used(door, service, person, token, "/x").await.status, 401, "{service}");
        }
        // The thumbprint of a certificate that the connection does not show is no subject.
        let shown = thumbprint(&alice);
        let fields = [
            ("grant_type", EXCHANGE),
            ("subject_token", shown.as_str()),
            ("subject_token_type", CERTIFICATE),
            ("audience", "app"),
        ];
        for person in [None, Some(&bob)] {
            assert_eq!(error(&post(door, person, "/oauth2/token", &[], &fields).await), "invalid_request");
        }
        // Withdrawn, it is refused at its next use, and its session goes on.
        assert_eq!(
            post(door, None, "/oauth2/revoke", &[], &[("token", token), ("client_id", "doorward-cli")]).await.status,
            200
        );
        assert_eq!(used(door, "app", Some(&alice), token, "/x").await.reason(), "bad_credential");
        assert_eq!(door.get("app", Some(&alice), Speaks::Http2, "/x").await.status, 200);
    });
}

#[test]
fn a45_what_is_asked_for_can_only_narrow() {
    with_door(trusting(), async |door| {
        let alice = door.sign_in("alice").await;
        let ask = async |more: &[(&str, &str)]| error(&of_person(door, &alice, &[], more).await);
        assert_eq!(ask(&[]).await, "invalid_target");
        assert_eq!(ask(&[("audience", "nothing")]).await, "invalid_target");
        assert_eq!(
            ask(&[("audience", "app"), ("resource", "https://web.doorward.localhost/")]).await,
            "invalid_target"
        );
        assert_eq!(ask(&[("resource", "https://app.doorward.localhost/x#y")]).await, "invalid_target");
        assert_eq!(ask(&[("audience", "app"), ("scope", "open everything")]).await, "invalid_scope");
        assert_eq!(ask(&[("audience", "app"), ("scope", " ")]).await, "invalid_request");
        for lifetime in ["0", "-1", "901", "99999999999999999999", "1e3", "5m", " 5"] {
            assert_eq!(ask(&[("audience", "app"), ("lifetime", lifetime)]).await, "invalid_request", "{lifetime}");
        }
        assert_eq!(ask(&[("audience", "app"), ("actor_token", "x")]).await, "invalid_request");
        assert_eq!(ask(&[("audience", "app"), ("requested_token_type", JWT)]).await, "invalid_request");
        let by_address = of_person(door, &alice, &[], &[("resource", "https://app.doorward.localhost:1/x")]).await;
        assert_eq!(body(&by_address)["aud"], "app");
        // A session that has ended gives nothing.
        door.revoke(&alice).await;
        let over = of_person(door, &alice, &[], &[("audience", "app")]).await;
        assert_eq!((over.status.as_u16(), body(&over)["error"].as_str()), (401, Some("invalid_client")));
    });
}

#[test]
fn a_pipeline_exchanges_its_token_once_and_a_refusal_says_which_claim() {
    with_door(trusting(), async |door| {
        let token = job(door, &json!({}));
        let got = of_job(door, &token, &[("audience", "web"), ("lifetime", "120")]).await;
        assert_eq!(got.status, 200, "{}", got.text());
        let answer = body(&got);
        assert_eq!(answer["session"]["kind"], "workload");
        assert_eq!(
            answer["session"]["principal"],
            json!({ "kind": "Workload", "id": "ci|main", "name": "main", "email": null })
        );
        let access = answer["access_token"].as_str().unwrap();
        assert_eq!(used(door, "web", None, access, "/x").await.status, 200);
        assert_eq!(error(&of_job(door, &token, &[("audience", "web")]).await), "invalid_request", "used already");
        assert_eq!(
            error(&of_job(door, &job(door, &json!({"jti": "t"})), &[("audience", "rpc")]).await),
            "invalid_target"
        );
        let other = job(door, &json!({ "ref": "refs/heads/evil", "jti": "o" }));
        let refused = of_job(door, &other, &[("audience", "web")]).await;
        assert_eq!(error(&refused), "invalid_grant");
        let told = body(&refused)["error_description"].as_str().unwrap().to_owned();
        assert!(told.contains("`ref` is `refs/heads/evil`") && !told.contains("refs/heads/main"), "{told}");
        let now = door.clock.now().seconds();
        for (what, claims) in [
            ("aud", json!({ "aud": "https://other.example.com" })),
            ("aud list", json!({ "aud": [AUDIENCE, "x"] })),
            ("iss", json!({ "iss": format!("{ISSUER}/") })),
            ("expired", json!({ "exp": now - 1 })),
            ("no exp", json!({ "exp": null })),
            ("for years", json!({ "exp": now + 90_000_000 })),
            ("not yet", json!({ "nbf": now + 600 })),
        ] {
            let mut claims = claims;
            claims["jti"] = what.into();
            assert_eq!(
                error(&of_job(door, &job(door, &claims), &[("audience", "web")]).await),
                "invalid_request",
                "{what}"
            );
        }
        let forged =
            Key::new("ci").sign(&json!({ "alg": "ES256", "kid": "ci" }), &json!({ "iss": ISSUER, "aud": AUDIENCE }));
        assert_eq!(error(&of_job(door, &forged, &[("audience", "web")]).await), "invalid_request");
        // The operator reads what was wanted and what came.
        let event = found(door, EventType::ExchangeRefused, "no_rule").await;
        let claim = event
            .pointer("/rules/0/claims")
            .unwrap()
            .as_array()
            .unwrap()
            .iter()
            .find(|c| c["claim"] == "ref")
            .unwrap()
            .clone();
        assert_eq!(
            claim,
            json!({ "claim": "ref", "wanted": "`refs/heads/main`", "got": "refs/heads/evil", "holds": false })
        );
        // RFC 6749 §5.2, whatever the claims quote.
        let quoting = job(door, &json!({ "ref": "a\"b\\c \u{e9}", "jti": "q" }));
        let told = body(&of_job(door, &quoting, &[("audience", "web")]).await)["error_description"].clone();
        let allowed = |byte: u8| matches!(byte, b' '..=b'~') && byte != b'"' && byte != b'\\';
        assert!(
            told.as_str().unwrap().contains("`ref` is `a") && told.as_str().unwrap().bytes().all(allowed),
            "{told}"
        );
        // A lock bars every job of the rule.
        door.clock.advance(Ttl::seconds(121));
        assert_eq!(used(door, "web", None, access, "/x").await.status, 401, "it has ended");
    });
}

/// The data of an event of this kind with this reason.
async fn found(door: &Door, kind: EventType, reason: &str) -> Value {
    let store = &door.running().desk.store;
    for _ in 0..60 {
        let filter = doorward::store::EventFilter { kind: Some(kind), ..Default::default() };
        for recorded in store.event_list(&filter, 200).await.unwrap() {
            if recorded.body["reason"] == reason {
                return recorded.body["data"].clone();
            }
        }
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    panic!("no {} with {reason}", kind.name());
}

#[test]
fn a47_of_fifty_who_exchange_one_token_at_once_one_gets_a_session() {
    with_door(trusting(), async |door| {
        let token = job(door, &json!({ "jti": "race" }));
        let answers =
            futures_util::future::join_all((0..50).map(|_| of_job(door, &token, &[("audience", "web")]))).await;
        assert_eq!(answers.iter().filter(|got| got.status == 200).count(), 1);
    });
}

#[test]
fn a_pipeline_that_sends_a_signing_request_gets_a_certificate_that_ends_with_its_token() {
    with_door(trusting(), async |door| {
        let key = rcgen::KeyPair::generate().unwrap();
        let csr = crate::api_house::csr(&key);
        let got = of_job(door, &job(door, &json!({ "jti": "csr" })), &[("audience", "app"), ("csr", &csr)]).await;
        assert_eq!(got.status, 200, "{}", got.text());
        let answer = body(&got);
        let certificate_pem = answer["certificate"].as_str().unwrap().to_owned();
        assert_eq!(answer["certificate_expires_at"], answer["expires_at"]);
        let machine = Person {
            key_pem: key.serialize_pem(),
            certificate_pem,
            session: doorward::model::SessionId::parse(answer["session"]["id"].as_str().unwrap()).unwrap(),
            principal: doorward::model::Principal::workload("ci", "main").unwrap(),
        };
        let token = answer["access_token"].as_str().unwrap();
        assert_eq!(used(door, "app", Some(&machine), token, "/x").await.status, 200);
        assert_eq!(door.get("app", Some(&machine), Speaks::Http1, "/x").await.status, 200);
        door.revoke(&machine).await;
        assert_eq!(door.get("app", Some(&machine), Speaks::Http1, "/x").await.reason(), "session_ended");
    });
}

/// A proof by this key.
fn proof(key: &Key, door: &Door, method: &str, url: &str, token: Option<&str>, more: &Value) -> String {
    let mut jwk = key.jwk();
    for name in ["alg", "use", "kid"] {
        jwk.as_object_mut().unwrap().remove(name);
    }
    let now = door.clock.now();
    let nonce = door.running().shared.nonces.current(now);
    let mut claims = json!({
        "htm": method, "htu": url, "iat": now.seconds(), "jti": format!("{method}{url}{more}"), "nonce": nonce,
    });
    if let Some(token) = token {
        claims["ath"] = BASE64URL_NOPAD.encode(&Sha256::digest(token.as_bytes())).into();
    }
    claims.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    claims.as_object_mut().unwrap().retain(|_, value| !value.is_null());
    key.sign(&json!({ "alg": "ES256", "typ": "dpop+jwt", "jwk": jwk }), &claims)
}

#[test]
fn a46_a_token_that_is_bound_to_a_key_is_good_with_a_fresh_proof_of_it_and_once() {
    with_door(trusting(), async |door| {
        let port = door.address.port();
        let (key, thief) = (Key::new("mine"), Key::new("theirs"));
        let at_token = proof(&key, door, "POST", &format!("{}/oauth2/token", door.origin), None, &json!({}));
        let job_token = job(door, &json!({ "jti": "dpop" }));
        let fields =
            [("grant_type", EXCHANGE), ("subject_token", &job_token), ("subject_token_type", JWT), ("audience", "web")];
        let got = post(door, None, "/oauth2/token", &[("dpop", &at_token)], &fields).await;
        assert_eq!(got.status, 200, "{}", got.text());
        let answer = body(&got);
        assert_eq!(answer["token_type"], "DPoP");
        let token = answer["access_token"].as_str().unwrap().to_owned();
        let url = format!("https://web.doorward.localhost:{port}/x");
        let ask = async |authorization: String, proofs: &[String]| {
            let mut headers = vec![("authorization", authorization.as_str())];
            headers.extend(proofs.iter().map(|proof| ("dpop", proof.as_str())));
            door.client("web", None, Speaks::Http1).await.ask(Method::GET, "/x?q=1", &headers, b"").await
        };
        let good = proof(&key, door, "GET", &url, Some(&token), &json!({}));
        assert_eq!(ask(format!("DPoP {token}"), std::slice::from_ref(&good)).await.status, 200);
        let now = door.clock.now().seconds();
        let of = |key: &Key, method: &str, url: &str, token: Option<&str>, more: Value| {
            proof(key, door, method, url, token, &more)
        };
        let spelled = of(&key, "GET", &url.replace("/x", "/%78"), Some(&token), json!({}));
        assert_eq!(ask(format!("DPoP {token}"), &[spelled]).await.status, 200, "another spelling of the same path");
        let bad = [
            ("replayed", vec![good.clone()]),
            ("none", vec![]),
            (
                "two",
                vec![
                    of(&key, "GET", &url, Some(&token), json!({"jti": "a"})),
                    of(&key, "GET", &url, Some(&token), json!({"jti": "b"})),
                ],
            ),
            ("another key", vec![of(&thief, "GET", &url, Some(&token), json!({}))]),
            ("htm", vec![of(&key, "POST", &url, Some(&token), json!({}))]),
            ("htu path", vec![of(&key, "GET", &format!("{url}y"), Some(&token), json!({}))]),
            ("htu host", vec![of(&key, "GET", &url.replace("web", "app"), Some(&token), json!({}))]),
            ("htu scheme", vec![of(&key, "GET", &url.replace("https", "http"), Some(&token), json!({}))]),
            ("no ath", vec![of(&key, "GET", &url, None, json!({"jti": "c"}))]),
            ("ath", vec![of(&key, "GET", &url, Some("other"), json!({"jti": "d"}))]),
            ("old", vec![of(&key, "GET", &url, Some(&token), json!({"iat": now - 120, "jti": "e"}))]),
            ("ahead", vec![of(&key, "GET", &url, Some(&token), json!({"iat": now + 120, "jti": "f"}))]),
            ("no iat", vec![of(&key, "GET", &url, Some(&token), json!({"iat": null, "jti": "g"}))]),
            ("no jti", vec![of(&key, "GET", &url, Some(&token), json!({"jti": null}))]),
            ("rubbish", vec!["a.b.c".to_owned()]),
        ];
        for (what, proofs) in bad {
            let got = ask(format!("DPoP {token}"), &proofs).await;
            assert_eq!((got.status.as_u16(), got.reason().as_str()), (401, "bad_credential"), "{what}");
            assert!(got.header("www-authenticate").unwrap().contains("invalid_dpop_proof"), "{what}");
        }
        let fresh = of(&key, "GET", &url, Some(&token), json!({ "jti": "downgrade" }));
        assert_eq!(ask(format!("Bearer {token}"), &[fresh]).await.status, 401, "never as a bearer token");
        assert_eq!(ask(format!("Bearer {token}"), &[]).await.status, 401, "never as a bearer token");
        // Fifty at once with one proof: one passes.
        let once = of(&key, "GET", &url, Some(&token), json!({ "jti": "once" }));
        let shown = [once];
        let answers = futures_util::future::join_all((0..50).map(|_| ask(format!("DPoP {token}"), &shown))).await;
        assert_eq!(answers.iter().filter(|got| got.status == 200).count(), 1);
        assert!(door.raw.seen().iter().all(|got| got.all("dpop").is_empty()), "a proof never leaves the door");
    });
}

/// A token of the pipeline for `web` that is bound to this key.
async fn bound_token(door: &Door, key: &Key) -> String {
    let at_token = proof(key, door, "POST", &format!("{}/oauth2/token", door.origin), None, &json!({}));
    let job_token = job(door, &json!({ "jti": "bound" }));
    let fields =
        [("grant_type", EXCHANGE), ("subject_token", &job_token), ("subject_token_type", JWT), ("audience", "web")];
    let got = post(door, None, "/oauth2/token", &[("dpop", &at_token)], &fields).await;
    body(&got)["access_token"].as_str().unwrap().to_owned()
}

/// One GET with a bound token and a proof.
async fn proven(door: &Door, token: &str, proof: &str) -> Got {
    let authorization = format!("DPoP {token}");
    let headers = [("authorization", authorization.as_str()), ("dpop", proof)];
    door.client("web", None, Speaks::Http2).await.ask(Method::GET, "/x", &headers, b"").await
}

#[test]
fn a46_proofs_that_a_database_which_hangs_leaves_in_doubt_are_refused_and_not_used_up_later() {
    for database in databases() {
        let held = database.clone();
        with_door(Plan { database: Some(database), ..trusting() }, async |door| {
            let key = Key::new("mine");
            let token = bound_token(door, &key).await;
            let url = format!("https://web.doorward.localhost:{}/x", door.address.port());
            let fresh = |jti: String| proof(&key, door, "GET", &url, Some(&token), &json!({ "jti": jti }));
            assert_eq!(proven(door, &token, &fresh("before".to_owned())).await.status, 200, "{held}");
            // More than may be asked for at once.
            let proofs: Vec<String> = (0..48).map(|n| fresh(format!("held {n}"))).collect();
            let mut holder = hold_tables(&held, "used_once").await;
            let asked = Instant::now();
            let answers = futures_util::future::join_all(proofs.iter().map(|one| proven(door, &token, one))).await;
            for got in &answers {
                assert_eq!((got.status.as_u16(), got.reason().as_str()), (503, "audit_unavailable"), "{held}: {got:?}");
                assert_eq!(got.problem()["remedy"]["kind"], "retry", "{held}");
                assert!(got.headers.contains_key("retry-after") && got.text().contains("proof"), "{}", got.text());
            }
            assert!(asked.elapsed() < Duration::from_secs(10), "{held}: {:?}", asked.elapsed());
            holder.execute("rollback").await.unwrap();
            let freed = Instant::now();
            for n in 0.. {
                if proven(door, &token, &fresh(format!("after {n}"))).await.status == 200 {
                    break;
                }
                assert!(freed.elapsed() < Duration::from_secs(10), "{held}: it does not come back");
            }
            for one in &proofs {
                assert_eq!(proven(door, &token, one).await.status, 200, "{held}: a proof was used up for nobody");
            }
        });
    }
}

#[test]
fn a46_who_sends_proofs_too_fast_is_refused_by_name_before_one_is_used_up() {
    let tables = "[limits]\nrequests_per_second = 1\nburst = 12".to_owned();
    with_door(Plan { tables, ..trusting() }, async |door| {
        let key = Key::new("mine");
        let token = bound_token(door, &key).await;
        let url = format!("https://web.doorward.localhost:{}/x", door.address.port());
        let mut passed = 0;
        let (refused, got) = loop {
            let one = proof(&key, door, "GET", &url, Some(&token), &json!({ "jti": format!("fast {passed}") }));
            let got = proven(door, &token, &one).await;
            if got.status != 200 {
                break (one, got);
            }
            passed += 1;
            assert!(passed < 60, "nothing is counted");
        };
        assert_eq!((got.status.as_u16(), got.reason().as_str()), (429, "rate_limited"));
        assert!(passed >= 12, "each was counted more than once: {passed}");
        let recorded = door.recorded(got.decision()).await;
        let main = doorward::model::Principal::workload("ci", "main").unwrap().to_string();
        assert_eq!(recorded.personal(PersonalField::Principal), Some(main.as_str()));
        let began = Instant::now();
        loop {
            let got = proven(door, &token, &refused).await;
            if got.status != 429 {
                assert_eq!(got.status, 200, "the refused proof was used up: {}", got.text());
                break;
            }
            assert!(began.elapsed() < Duration::from_secs(10));
            tokio::time::sleep(Duration::from_millis(300)).await;
        }
    });
}

#[test]
fn a_cookie_that_can_not_be_looked_for_is_refused_as_in_doubt_and_nobody_is_sent_to_sign_in() {
    let Some(database) = databases().into_iter().find(|url| url.starts_with("postgres")) else {
        // Of SQLite only those who write are held.
        return;
    };
    let held = database.clone();
    with_door(Plan { database: Some(database), ..Plan::default() }, async |door| {
        let cookie = format!("__Host-doorward={}", "A".repeat(43));
        let ask = async || {
            let headers = [("cookie", cookie.as_str()), ("accept", "text/html")];
            door.client("web", None, Speaks::Http2).await.ask(Method::GET, "/x", &headers, b"").await
        };
        assert_eq!(ask().await.status, 303);
        let mut holder = hold_tables(&held, "session_cookie").await;
        let got = ask().await;
        assert_eq!((got.status.as_u16(), got.header("location")), (503, None), "{got:?}");
        holder.execute("rollback").await.unwrap();
        let freed = Instant::now();
        while ask().await.status != 303 {
            assert!(freed.elapsed() < Duration::from_secs(10), "it does not come back");
        }
    });
}

#[test]
fn a46_a_proof_needs_a_nonce_of_this_moment_which_comes_with_every_answer() {
    with_door(trusting(), async |door| {
        let (key, port) = (Key::new("mine"), door.address.port());
        let endpoint = format!("{}/oauth2/token", door.origin);
        let job_token = job(door, &json!({ "jti": "nonce" }));
        let fields =
            [("grant_type", EXCHANGE), ("subject_token", &job_token), ("subject_token_type", JWT), ("audience", "web")];
        let at_token = async |more: Value| {
            let proof = proof(&key, door, "POST", &endpoint, None, &more);
            post(door, None, "/oauth2/token", &[("dpop", &proof)], &fields).await
        };
        // As a stock client does it: without one, told which, and again.
        let first = at_token(json!({ "nonce": null, "jti": "a" })).await;
        assert_eq!(error(&first), "use_dpop_nonce");
        let nonce = first.header("dpop-nonce").expect("a nonce").to_owned();
        assert_eq!(first.header("cache-control"), Some("no-store"));
        for wrong in [json!(""), json!("x"), json!(nonce[1..]), json!(nonce.to_uppercase()), json!(1), json!([nonce])] {
            assert_eq!(
                error(&at_token(json!({ "nonce": wrong, "jti": wrong.to_string() })).await),
                "use_dpop_nonce",
                "{wrong}"
            );
        }
        // A proof that does not hold gets no word about nonces.
        assert_eq!(error(&at_token(json!({ "htm": "GET", "nonce": null, "jti": "b" })).await), "invalid_dpop_proof");
        let got = at_token(json!({ "nonce": nonce, "jti": "c" })).await;
        assert_eq!(got.status, 200, "{}", got.text());
        assert_eq!(got.header("dpop-nonce"), Some(nonce.as_str()));
        let token = body(&got)["access_token"].as_str().unwrap().to_owned();

        let url = format!("https://web.doorward.localhost:{port}/x");
        let ask = async |more: Value| {
            let proof = proof(&key, door, "GET", &url, Some(&token), &more);
            let authorization = format!("DPoP {token}");
            let headers = [("authorization", authorization.as_str()), ("dpop", proof.as_str())];
            door.client("web", None, Speaks::Http2).await.ask(Method::GET, "/x", &headers, b"").await
        };
        let refused = ask(json!({ "nonce": null, "jti": "d" })).await;
        assert_eq!((refused.status.as_u16(), refused.reason().as_str()), (401, "bad_credential"));
        let challenge = refused.header("www-authenticate").unwrap();
        assert!(
            challenge.contains("use_dpop_nonce") && challenge.contains("resource_metadata=\"https://"),
            "{challenge}"
        );
        let nonce = refused.header("dpop-nonce").unwrap().to_owned();
        assert_eq!(door.raw.count(), 0);
        let got = ask(json!({ "nonce": nonce, "jti": "e" })).await;
        assert_eq!((got.status.as_u16(), got.header("dpop-nonce").is_some()), (200, true));
        assert!(door.raw.last().all("dpop-nonce").is_empty());
        // One goes on into the next stretch of time, and no longer.
        door.clock.advance(Ttl::minutes(2));
        door.settled().await;
        let got = ask(json!({ "nonce": nonce, "jti": "f" })).await;
        assert_eq!(got.status, 200, "{}", got.text());
        let next = got.header("dpop-nonce").unwrap().to_owned();
        assert_ne!(next, nonce);
        door.clock.advance(Ttl::minutes(2));
        door.settled().await;
        assert!(
            ask(json!({ "nonce": nonce, "jti": "g" }))
                .await
                .header("www-authenticate")
                .unwrap()
                .contains("use_dpop_nonce")
        );
        assert_eq!(ask(json!({ "nonce": next, "jti": "h" })).await.status, 200);
    });
}

#[test]
fn a_service_host_says_where_its_tokens_come_from() {
    with_door(Plan::default(), async |door| {
        let got = door.get("web", None, Speaks::Http1, "/.well-known/oauth-protected-resource").await;
        assert_eq!(got.status, 200);
        let metadata = body(&got);
        assert_eq!(metadata["resource"], format!("https://web.doorward.localhost:{}", door.address.port()));
        assert_eq!(metadata["authorization_servers"], json!([door.origin]));
        assert_eq!(metadata["scopes_supported"], json!(["manage", "open"]));
        assert!(metadata.get("jwks_uri").is_none(), "those would be keys of the service itself");
        let path = "/.well-known/oauth-protected-resource";
        let head = door.client("web", None, Speaks::Http2).await.ask(Method::HEAD, path, &[], b"").await;
        assert_eq!((head.status.as_u16(), head.body.len()), (200, 0));
        assert_eq!(head.header("content-length"), Some(got.body.len().to_string().as_str()));
        let refused = door.get("web", None, Speaks::Http1, "/x").await;
        let challenge = refused.header("www-authenticate").unwrap();
        assert!(
            challenge
                .contains(&format!("{}/.well-known/oauth-protected-resource", metadata["resource"].as_str().unwrap()))
        );
        assert_eq!(door.raw.count(), 0);
    });
}

#[test]
fn a46_a_token_that_is_bound_to_a_key_is_withdrawn_like_any_and_no_credential_where_no_proof_is_read() {
    with_door(Plan::default(), async |door| {
        let alice = door.sign_in("alice").await;
        let key = Key::new("mine");
        let at_token = proof(&key, door, "POST", &format!("{}/oauth2/token", door.origin), None, &json!({}));
        let answer = body(&of_person(door, &alice, &[("dpop", &at_token)], &[("audience", "app")]).await);
        let token = answer["access_token"].as_str().unwrap();
        let ask = async || body(&post(door, Some(&alice), "/oauth2/introspect", &[], &[("token", token)]).await);
        let told = ask().await;
        assert_eq!(
            (&told["active"], &told["token_type"], &told["cnf"]),
            (&json!(true), &json!("DPoP"), &answer["cnf"])
        );
        let fields = [("token", token), ("client_id", "doorward-cli")];
        assert_eq!(post(door, None, "/oauth2/revoke", &[], &fields).await.status, 200);
        assert_eq!(ask().await, json!({ "active": false }));
        let control = super::tokens::Token::of(door, &alice).with("aud", door.origin.clone().into());
        let bearer = async |token: String| {
            let bearer = format!("Bearer {token}");
            let mut client = door.client("", Some(&alice), Speaks::Http1).await;
            client.ask(Method::GET, "/api/v1/whoami", &[("authorization", &bearer)], b"").await.status
        };
        let bound = control.claims["cnf"].clone();
        assert_eq!(bearer(control.mint(door)).await, 200);
        for cnf in
            [answer["cnf"].clone(), json!({}), json!({ "x5t#S256": bound["x5t#S256"], "other": "x" }), json!("x")]
        {
            let control = super::tokens::Token::of(door, &alice).with("aud", door.origin.clone().into());
            assert_eq!(bearer(control.with("cnf", cnf.clone()).mint(door)).await, 401, "{cnf}");
        }
    });
}
