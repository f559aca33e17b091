//! What an upstream that knows nothing of us makes of our assertions and tokens: npm `jose` in
//! `tests/idp/upstream.mjs`, which has nothing from us but the address of our keys.

use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use doorward::model::Ttl;
use http::{Method, Request};
use serde_json::{Value, json};

use super::exchange::{body, of_person};
use super::fixture::{BOTH, Door, Plan, full, read, with_door};

struct Upstream {
    port: u16,
    process: Child,
}

impl Drop for Upstream {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Upstream {
    /// `None` where it is not installed.
    fn start() -> Option<Self> {
        let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/idp");
        if !folder.join("node_modules/jose").exists() {
            let required = std::env::var("DOORWARD_TEST_REQUIRE_POSTGRES").is_ok_and(|value| value == "1");
            assert!(!required, "npm `jose` is missing: `npm ci --prefix tests/idp`");
            println!("note: the stock JOSE library is left out; `npm ci --prefix tests/idp` installs it");
            return None;
        }
        let mut process = Command::new("node")
            .args(["upstream.mjs", "--until-stdin-ends"])
            .current_dir(folder)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(process.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let ready: Value = serde_json::from_str(&line).unwrap();
        Some(Self { port: u16::try_from(ready["port"].as_u64().unwrap()).unwrap(), process })
    }

    /// Speaks to it past the door.
    async fn ask(&self, method: Method, path: &str, sent: &Value) -> (u16, Value) {
        let address = format!("127.0.0.1:{}", self.port);
        let stream = tokio::net::TcpStream::connect(&address).await.unwrap();
        let io = hyper_util::rt::TokioIo::new(stream);
        let (mut sender, connection) = hyper::client::conn::http1::handshake(io).await.unwrap();
        tokio::spawn(connection);
        let request = Request::builder().method(method).uri(path).header("host", address);
        let got = read(sender.send_request(request.body(full(sent.to_string())).unwrap()).await.unwrap()).await;
        (got.status.as_u16(), body(&got))
    }

    async fn trusts(&self, door: &Door) {
        let known = json!({
            "jwks": format!("{}/oauth2/jwks", door.origin), "issuer": door.origin, "ca": door.ca_pem,
            "port": door.address.port(), "audience": super::tokens::audience(door, "stock"),
        });
        assert_eq!(self.ask(Method::POST, "/_door", &known).await.0, 200);
    }

    async fn fetches(&self) -> u64 {
        self.ask(Method::GET, "/_fetches", &Value::Null).await.1["fetches"].as_u64().unwrap()
    }
}

#[test]
fn a_stock_library_of_another_language_takes_our_assertions_and_tokens_also_after_the_keys_rotate() {
    let Some(upstream) = Upstream::start() else { return };
    let plan = Plan {
        services: vec![("stock", format!("\"http://127.0.0.1:{}\"", upstream.port), "")],
        environment: vec![
            ("DOORWARD__TOKENS__KEY_ROTATION", "1h".to_owned()),
            ("DOORWARD__TOKENS__KEY_ANNOUNCE", "10m".to_owned()),
            ("DOORWARD__SESSION__CERTIFICATE_TTL", "12h".to_owned()),
        ],
        ..Plan::default()
    };
    with_door(plan, async |door| {
        upstream.trusts(door).await;
        let alice = door.sign_in("alice").await;
        let mut kids = Vec::new();
        for round in 0..2 {
            for speaks in BOTH {
                let got = door.get("stock", Some(&alice), speaks, "/x").await;
                assert_eq!(got.status, 200, "{round}: {}", got.text());
                let told = body(&got);
                assert_eq!((&told["claims"]["sub"], &told["claims"]["aud"]), (&json!("dev|alice"), &json!("stock")));
                assert_eq!(told["claims"]["groups"], json!(["engineering"]));
                kids.push(told["kid"].as_str().unwrap().to_owned());
            }
            let answer = body(&of_person(door, &alice, &[], &[("audience", "stock"), ("scope", "open")]).await);
            let token = answer["access_token"].as_str().unwrap();
            let (status, told) =
                upstream.ask(Method::POST, "/_token", &json!({ "token": token, "audience": "stock" })).await;
            assert_eq!((status, &told["claims"]["scope"]), (200, &json!("open")), "{told}");
            assert_eq!(told["claims"]["cnf"], answer["cnf"]);
            // Not for another service, not bent, and not as another kind of token.
            for (token, audience) in [(token.to_owned(), "app"), (bent(token), "stock")] {
                let sent = json!({ "token": token, "audience": audience });
                assert_eq!(upstream.ask(Method::POST, "/_token", &sent).await.0, 401);
            }
            if round == 0 {
                assert_eq!(upstream.fetches().await, 1, "keys are fetched once");
                rotate(door).await;
            }
        }
        assert_ne!(kids.first(), kids.last(), "another key signs now");
        // The next key was announced before it signed, so whoever had the set needed no new one.
        assert_eq!(upstream.fetches().await, 1, "the keys were there before they were used");
        // What comes past the door has no assertion, and a made-up one is none.
        assert_eq!(upstream.ask(Method::GET, "/x", &Value::Null).await.0, 401);
    });
}

/// A token with another bit in its signature.
fn bent(token: &str) -> String {
    let place = token.len() - 20;
    let other = if token.as_bytes()[place] == b'A' { "B" } else { "A" };
    format!("{}{other}{}", &token[..place], &token[place + 1..])
}

/// Lets the time come when the next key signs.
async fn rotate(door: &Door) {
    let kid = || door.running().desk.keys.load().signing.kid().to_owned();
    let before = kid();
    door.clock.advance(Ttl::minutes(61));
    for _ in 0..100 {
        if kid() != before {
            return door.settled().await;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("the keys did not rotate");
}
