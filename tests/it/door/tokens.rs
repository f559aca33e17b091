//! Who is asking: a34 to a38, a42, a43, a68, a69.

use std::time::Duration;

use data_encoding::BASE64URL_NOPAD;
use doorward::model::{Clock, Ttl};
use http::Method;
use serde_json::{Value, json};

use super::exchange::used;
use super::fixture::{BOTH, Door, Person, Plan, Speaks, with_door};
use super::upstream::Reply;
use crate::fake_provider::Key;

/// The claims of a token of ours.
pub struct Token {
    pub typ: &'static str,
    pub claims: Value,
}

impl Token {
    /// A good one for the service `app`, bound to the person's certificate.
    pub fn of(door: &Door, person: &Person) -> Self {
        let now = door.clock.now().seconds();
        let thumbprint = {
            use rustls::pki_types::pem::PemObject;
            let der = rustls::pki_types::CertificateDer::from_pem_slice(person.certificate_pem.as_bytes()).unwrap();
            BASE64URL_NOPAD.encode(&<sha2::Sha256 as sha2::Digest>::digest(&der))
        };
        let claims = json!({
            "iss": door.origin, "sub": person.principal.id(), "aud": audience(door, "app"), "client_id": "doorward-cli",
            "iat": now, "exp": now + 300, "jti": "t", "sid": person.session.to_string(),
            "principal": person.principal.to_string(), "cnf": { "x5t#S256": thumbprint },
        });
        Self { typ: "at+jwt", claims }
    }

    pub fn with(mut self, name: &str, value: Value) -> Self {
        self.claims[name] = value;
        self
    }

    pub fn without(mut self, name: &str) -> Self {
        self.claims.as_object_mut().unwrap().remove(name);
        self
    }

    pub fn mint(&self, door: &Door) -> String {
        door.running().desk.keys.load().signing.sign(self.typ, &self.claims).unwrap()
    }
}

pub fn audience(door: &Door, service: &str) -> String {
    let snapshot = door.running().shared.snapshot.load();
    snapshot.service_at(&super::fixture::host(service)).unwrap().audience.to_string()
}

async fn with_token(
    door: &Door,
    service: &str,
    person: Option<&Person>,
    speaks: Speaks,
    token: &str,
) -> super::fixture::Got {
    let bearer = format!("Bearer {token}");
    door.client(service, person, speaks).await.ask(Method::GET, "/x", &[("authorization", &bearer)], b"").await
}

#[test]
fn a34_to_a38_a_token_is_good_only_as_it_was_made() {
    with_door(Plan::default(), async |door| {
        let alice = door.sign_in("alice").await;
        let bob = door.sign_in("bob").await;
        let now = door.clock.now().seconds();
        let good = || Token::of(door, &alice);
        for speaks in BOTH {
            assert_eq!(with_token(door, "app", Some(&alice), speaks, &good().mint(door)).await.status, 200);
        }
        let before = door.raw.count();
        let encode = |header: Value, claims: &Value, signature: &[u8]| {
            let part = |value: &Value| BASE64URL_NOPAD.encode(value.to_string().as_bytes());
            format!("{}.{}.{}", part(&header), part(claims), BASE64URL_NOPAD.encode(signature))
        };
        let kid = door.running().desk.keys.load().signing.kid().to_owned();
        let jwk = door.running().desk.keys.load().signing.jwk();
        let whole = good().mint(door);
        let signature = BASE64URL_NOPAD.decode(whole.rsplit('.').next().unwrap().as_bytes()).unwrap();
        let hmac = {
            let header = json!({"alg": "HS256", "typ": "at+jwt", "kid": kid});
            let signed = encode(header, &good().claims, b"");
            let signed = signed.trim_end_matches('.');
            let key = aws_lc_rs::hmac::Key::new(aws_lc_rs::hmac::HMAC_SHA256, jwk.to_string().as_bytes());
            format!("{signed}.{}", BASE64URL_NOPAD.encode(aws_lc_rs::hmac::sign(&key, signed.as_bytes()).as_ref()))
        };
        let (head, tail) = whole.split_at(whole.len() - 10);
        let other = if tail.starts_with('A') { 'B' } else { 'A' };
        let mut bad: Vec<(&str, String)> = vec![
            ("alg none", encode(json!({"alg": "none", "typ": "at+jwt", "kid": kid}), &good().claims, b"")),
            ("alg None", encode(json!({"alg": "None", "typ": "at+jwt"}), &good().claims, &signature)),
            ("hs256 with the public key", hmac),
            (
                "kid traversal",
                encode(json!({"alg": "ES256", "typ": "at+jwt", "kid": "../../etc/passwd"}), &good().claims, &signature),
            ),
            (
                "jwk in the header",
                encode(json!({"alg": "ES256", "typ": "at+jwt", "kid": kid, "jwk": jwk}), &good().claims, b""),
            ),
            (
                "crit",
                encode(
                    json!({"alg": "ES256", "typ": "at+jwt", "kid": kid, "crit": ["x"], "x": 1}),
                    &good().claims,
                    &signature,
                ),
            ),
            ("two parts", whole.rsplit_once('.').unwrap().0.to_owned()),
            ("more after it", format!("{whole}.x")),
            ("another signature", format!("{head}{other}{}", &tail[1..])),
            ("no token", "abc".to_owned()),
            ("dots", ".".repeat(3000)),
        ];
        let mut wrong = |what, token: Token| bad.push((what, token.mint(door)));
        for typ in ["JWT", "logout+jwt", "id_token", "token-introspection+jwt", ""] {
            wrong("typ", Token { typ, claims: good().claims });
        }
        wrong("aud of another service", good().with("aud", audience(door, "web").into()));
        wrong("aud of the control host", good().with("aud", door.origin.clone().into()));
        wrong("aud list", good().with("aud", json!([audience(door, "app"), "https://evil.example"])));
        wrong("no aud", good().without("aud"));
        wrong("iss with a slash", good().with("iss", format!("{}/", door.origin).into()));
        wrong("iss in capitals", good().with("iss", door.origin.to_uppercase().into()));
        wrong("iss of another", good().with("iss", "https://evil.example".into()));
        wrong("expired", good().with("exp", (now - 120).into()));
        wrong("exp text", good().with("exp", (now + 300).to_string().into()));
        wrong("exp negative", good().with("exp", (-1).into()));
        wrong("exp huge", good().with("exp", json!(1e300)));
        wrong("no exp", good().without("exp"));
        wrong("not yet", good().with("nbf", (now + 600).into()));
        wrong("no session", good().without("sid"));
        wrong("principal of another", good().with("principal", bob.principal.to_string().into()));
        wrong("unbound", good().without("cnf"));
        wrong("bound to nothing", good().with("cnf", json!({})));
        wrong("bound to another", good().with("cnf", Token::of(door, &bob).claims["cnf"].clone()));
        wrong("session of another", good().with("sid", bob.session.to_string().into()));
        for (what, token) in &bad {
            let got = with_token(door, "app", Some(&alice), Speaks::Http2, token).await;
            assert_eq!(got.status, 401, "{what}: {}", got.text());
            assert_eq!(got.reason(), "bad_credential", "{what}");
            assert!(got.header("www-authenticate").is_some());
        }
        // a34: another's certificate, and none.
        let good_web = Token::of(door, &alice).with("aud", audience(door, "web").into()).mint(door);
        assert_eq!(with_token(door, "app", Some(&bob), Speaks::Http1, &whole).await.status, 401);
        assert_eq!(with_token(door, "web", None, Speaks::Http1, &good_web).await.status, 401);
        assert_eq!(with_token(door, "web", Some(&alice), Speaks::Http1, &good_web).await.status, 200);
        assert_eq!(door.raw.count(), before + 1);
    });
}

#[test]
fn a44_a_token_seen_before_is_judged_for_each_service_and_caller_anew() {
    with_door(Plan::default(), async |door| {
        let (alice, bob) = (door.sign_in("alice").await, door.sign_in("bob").await);
        // TLS goes by the machine's time, so everyone signs in before the clock is moved.
        let carol = door.sign_in("carol").await;
        let token = Token::of(door, &alice).mint(door);
        for _ in 0..3 {
            assert_eq!(with_token(door, "app", Some(&alice), Speaks::Http2, &token).await.status, 200);
            assert_eq!(with_token(door, "web", Some(&alice), Speaks::Http2, &token).await.status, 401);
            assert_eq!(with_token(door, "app", Some(&bob), Speaks::Http2, &token).await.status, 401);
        }
        // Different people at the same time get their own answers.
        let mut clients = Vec::new();
        for person in [&alice, &carol] {
            clients.push(door.client("app", Some(person), Speaks::Http2).await);
        }
        for _ in 0..50 {
            let [a, c] = &mut clients[..] else { unreachable!() };
            let (a, c) = tokio::join!(a.get("/x"), c.get("/x"));
            assert_eq!((a.status.as_u16(), c.status.as_u16()), (200, 403));
        }
        // The cache of tokens ends with the token.
        door.clock.advance(Ttl::seconds(330));
        let mut last = 0;
        for _ in 0..30 {
            last = with_token(door, "app", Some(&alice), Speaks::Http2, &token).await.status.as_u16();
            if last == 401 {
                break;
            }
            tokio::time::sleep(std::time::Duration::from_millis(100)).await;
        }
        assert_eq!(last, 401);
    });
}

#[test]
fn a_request_that_waits_for_its_answer_is_cut_when_its_token_ends() {
    with_door(Plan::default(), async |door| {
        let alice = door.sign_in("alice").await;
        door.raw.reply("/slow", Reply::Stall);
        for speaks in BOTH {
            let mut client = door.client("app", Some(&alice), speaks).await;
            let ends = door.clock.now().seconds() + 2;
            let bearer = format!("Bearer {}", Token::of(door, &alice).with("exp", ends.into()).mint(door));
            let got = client.ask(Method::GET, "/slow", &[("authorization", &bearer)], b"").await;
            assert_eq!((got.status.as_u16(), got.reason().as_str()), (401, "session_ended"), "{speaks:?}");
            let late = door.clock.now().millis() - ends * 1000;
            assert!((0..1000).contains(&late), "{speaks:?}: {late} ms after its end");
        }
    });
}

#[test]
fn a68_credentials_that_disagree_are_refused() {
    with_door(Plan::default(), async |door| {
        let (alice, bob) = (door.sign_in("alice").await, door.sign_in("bob").await);
        let of_bob = Token::of(door, &bob).mint(door);
        for speaks in BOTH {
            let got = with_token(door, "app", Some(&alice), speaks, &of_bob).await;
            assert_eq!((got.status.as_u16(), got.reason().as_str()), (401, "bad_credential"));
            let mut client = door.client("app", Some(&alice), speaks).await;
            let bearer = format!("Bearer {}", Token::of(door, &alice).mint(door));
            for headers in [
                vec![("authorization", bearer.as_str()), ("doorward-token", of_bob.as_str())],
                vec![("authorization", bearer.as_str()), ("authorization", bearer.as_str())],
                vec![("doorward-token", of_bob.as_str())],
                vec![("authorization", "Basic YWxpY2U6eA==")],
                vec![("authorization", "")],
                vec![("authorization", "Bearer ")],
                vec![("cookie", "__Host-doorward=AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA")],
                vec![("cookie", "__Host-doorward=")],
            ] {
                let got = client.ask(Method::GET, "/x", &headers, b"").await;
                assert_eq!(got.status, 401, "{headers:?}");
                assert_eq!(got.reason(), "bad_credential", "{headers:?}");
            }
        }
        assert_eq!(door.raw.count(), 0);
    });
}

#[test]
fn a69_another_sites_page_cannot_use_a_certificate() {
    let plan = Plan { lines: "origins = [\"https://friend.example\"]".to_owned(), ..Plan::default() };
    with_door(plan, async |door| {
        let alice = door.sign_in("alice").await;
        let own = format!("https://app.doorward.localhost:{}", door.address.port());
        let sibling = format!("https://web.doorward.localhost:{}", door.address.port());
        for speaks in BOTH {
            let mut client = door.client("app", Some(&alice), speaks).await;
            for (headers, status) in [
                (vec![("origin", "https://evil.example")], 403),
                (vec![("origin", sibling.as_str())], 403),
                (vec![("origin", "null")], 403),
                (vec![("origin", "https://app.doorward.localhost")], 403),
                (vec![("sec-fetch-site", "cross-site")], 403),
                (vec![("sec-fetch-site", "same-site")], 403),
                (vec![("origin", own.as_str()), ("sec-fetch-site", "cross-site")], 403),
                (vec![("origin", "https://friend.example"), ("origin", "https://evil.example")], 403),
                (vec![("origin", own.as_str())], 200),
                (vec![("origin", own.as_str()), ("sec-fetch-site", "same-origin")], 200),
                (vec![("origin", "https://friend.example"), ("sec-fetch-site", "cross-site")], 200),
                (vec![], 200),
            ] {
                for method in [Method::POST, Method::DELETE, Method::PUT, Method::PATCH] {
                    let got = client.ask(method, "/x", &headers, b"x").await;
                    assert_eq!(got.status, status, "{headers:?}");
                }
            }
        }
        let upgrade = "GET /ws HTTP/1.1\r\nHost: app.doorward.localhost\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nOrigin: https://evil.example\r\n\r\n";
        let got = door.bytes("app", Some(&alice), upgrade.as_bytes()).await;
        assert!(got.starts_with("HTTP/1.1 403 "), "{got}");
    });
}

#[test]
fn a69_a_page_of_a_listed_origin_may_ask_first_and_no_other() {
    let plan = Plan { lines: "origins = [\"https://friend.example\"]".to_owned(), ..Plan::default() };
    with_door(plan, async |door| {
        let asks = ("access-control-request-method", "DELETE");
        let names = ("access-control-request-headers", "content-type, x-app");
        for speaks in BOTH {
            let mut client = door.client("web", None, speaks).await;
            let friend = ("origin", "https://friend.example");
            let got = client.ask(Method::OPTIONS, "/x", &[friend, asks, names], b"").await;
            assert_eq!(got.status, 204, "{got:?}");
            for (name, value) in [
                ("access-control-allow-origin", "https://friend.example"),
                ("access-control-allow-credentials", "true"),
                ("access-control-allow-methods", "DELETE"),
                ("access-control-allow-headers", "content-type, x-app"),
                ("vary", "Origin"),
            ] {
                assert_eq!(got.header(name), Some(value), "{name}");
            }
            for headers in [
                vec![("origin", "https://evil.example"), asks],
                vec![("origin", "null"), asks],
                vec![friend, ("origin", "https://evil.example"), asks],
                vec![friend],
                vec![asks],
                vec![friend, ("access-control-request-method", "GET, POST")],
                vec![friend, asks, ("access-control-request-headers", "a;b")],
            ] {
                let got = client.ask(Method::OPTIONS, "/x", &headers, b"").await;
                assert_eq!(
                    (got.status.as_u16(), got.header("access-control-allow-origin")),
                    (401, None),
                    "{headers:?}"
                );
            }
            let got = client.ask(Method::POST, "/x", &[friend, asks], b"").await;
            assert_eq!(got.status, 401);
        }
        assert_eq!(door.raw.count(), 0);
    });
}

fn with_a_provider_of_tokens(dir: &std::path::Path) {
    let keys = dir.join("keys/corp.jwks.json");
    std::fs::write(&keys, json!({ "keys": [Key::new("none").jwk()] }).to_string()).unwrap();
    let path = dir.join("doorward.toml");
    let text = std::fs::read_to_string(&path).unwrap();
    let provider = "name = \"corp\"\nissuer = \"https://corp.example\"\nclient_id = \"door\"\n\
        jwks_file = \"keys/corp.jwks.json\"\nbearer_audiences = [\"api\"]\ngroups_claim = \"groups\"\n\
        groups = { eng = \"engineering\" }\n";
    std::fs::write(path, format!("{text}\n[[identity.provider]]\n{provider}")).unwrap();
}

/// A token of that provider, good for an hour.
fn of_provider(door: &Door, key: &Key) -> String {
    let now = door.running().desk.clock.now().seconds();
    let claims = json!({ "iss": "https://corp.example", "aud": "api", "sub": "alice", "groups": ["eng"],
        "iat": now, "exp": now + 3600 });
    key.sign(&json!({ "alg": "ES256", "typ": "at+jwt", "kid": key.kid }), &claims)
}

/// Asks until it is let through: keys are fetched once somebody wants them.
async fn until_taken(door: &Door, token: &str) {
    for _ in 0..100 {
        if used(door, "web", None, token, "/x").await.status == 200 {
            return;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("a provider's token is not taken");
}

#[test]
fn a36_a_providers_token_is_worth_nothing_a_minute_after_its_key_was_withdrawn() {
    let plan =
        Plan { change: Some(with_a_provider_of_tokens), lines: "unbound_bearer = true".to_owned(), ..Plan::default() };
    with_door(plan, async |door| {
        let publish = |key: &Key| {
            std::fs::write(door.dir.join("keys/corp.jwks.json"), json!({ "keys": [key.jwk()] }).to_string()).unwrap();
        };
        let (leaked, fresh) = (Key::new("leaked"), Key::new("fresh"));
        publish(&leaked);
        let token = of_provider(door, &leaked);
        until_taken(door, &token).await;
        publish(&fresh);
        door.clock.advance(Ttl::seconds(31));
        until_taken(door, &of_provider(door, &fresh)).await;
        door.clock.advance(Ttl::seconds(31));
        let refused = used(door, "web", None, &token, "/x").await;
        assert_eq!((refused.status.as_u16(), refused.reason().as_str()), (401, "bad_credential"));
        until_taken(door, &of_provider(door, &fresh)).await;
    });
}
