//! The control host as a client meets it on the wire: refusals that are whole and on record, bodies
//! that nobody wanted, come slowly or not at all (a23), and faults of ours that cost one request (a26).

use std::backtrace::Backtrace;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use doorward::audit::PersonalField;
use doorward::model::{DecisionId, Entropy};
use doorward::server::ambient::SystemEntropy;
use http::Method;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::fixture::{BOTH, Door, Got, Plan, Speaks, host, with_door};

/// Method, path, headers, body; the status and the reason that must come.
type Case<'a> = (Method, &'a str, &'a [(&'a str, &'a str)], &'a [u8], u16, &'a str);

/// Every member of the contract, in an answer and in the record.
async fn assert_whole_and_recorded(door: &Door, what: &str, got: &Got, status: u16, reason: &str) {
    assert_eq!((got.status.as_u16(), got.reason().as_str()), (status, reason), "{what}: {}", got.text());
    let problem = got.problem();
    for member in ["type", "title", "detail", "decision", "reason"] {
        assert!(problem[member].as_str().is_some_and(|text| !text.is_empty()), "{what}: `{member}` in {problem}");
    }
    assert_eq!(problem["status"], status, "{what}");
    assert!(problem["remedy"]["kind"].is_string(), "{what}: {problem}");
    assert_eq!(problem["decision"], got.decision().to_string(), "{what}");
    if status == 401 {
        assert!(got.header("www-authenticate").unwrap().contains("resource_metadata=\""), "{what}: {got:?}");
    }
    let recorded = door.recorded(got.decision()).await;
    assert_eq!(recorded.text("/reason"), Some(reason), "{what}");
    assert_eq!(recorded.personal(PersonalField::Address), Some("127.0.0.1"), "{what}");
    // Whoever refused it, a guard of ours before the router too: what was asked, and under which policies.
    assert!(recorded.text("/policy_version").is_some(), "{what}: {}", recorded.body);
    assert!(recorded.text("/request/method").is_some(), "{what}: {}", recorded.body);
}

#[test]
fn every_refusal_of_the_control_host_is_whole_and_on_record() {
    let json: &[(&str, &str)] = &[("content-type", "application/json")];
    let long = vec![b'x'; 80_000];
    let bearer: &[(&str, &str)] = &[("authorization", "Bearer abc")];
    for speaks in BOTH {
        // Of nobody in particular ten are recorded one by one in ten seconds: a door has fewer here.
        with_door(Plan::default(), async |door| {
            let alice = door.sign_in("alice").await;
            let mut client = door.client("", Some(&alice), speaks).await;
            let cases: [Case<'_>; 10] = [
                (Method::GET, "/api/v1/%2e%2e/whoami", &[], b"", 400, "ambiguous_request"),
                (Method::TRACE, "/api/v1/whoami", &[], b"", 405, "ambiguous_request"),
                (Method::GET, "/api/v1/nowhere", &[], b"", 404, "no_route"),
                (Method::DELETE, "/api/v1/whoami", &[], b"", 405, "no_route"),
                (Method::GET, "/api/v1/whoami", bearer, b"", 401, "bad_credential"),
                (Method::GET, "/api/v1/audit/events", &[], b"", 403, "no_policy_match"),
                (Method::GET, "/api/v1/requests/req_06h01rs2cto0b2afh7rgi8mlbg", &[], b"", 404, "not_found"),
                (Method::POST, "/api/v1/requests", &[], b"x", 415, "invalid_request"),
                (Method::POST, "/api/v1/requests", json, b"{", 400, "invalid_request"),
                (Method::POST, "/api/v1/requests", json, &long, 413, "invalid_request"),
            ];
            for (method, path, headers, body, status, reason) in cases {
                let what = format!("{method} {path} {speaks:?}");
                let got = client.ask(method, path, headers, body).await;
                assert_whole_and_recorded(door, &what, &got, status, reason).await;
            }
            let got = door.client("", None, speaks).await.get("/api/v1/whoami").await;
            assert_whole_and_recorded(door, "nobody", &got, 401, "no_credential").await;
        });
    }
}

#[test]
fn what_no_router_of_the_control_host_sees_is_on_record_too() {
    with_door(Plan::default(), async |door| {
        let alice = door.sign_in("alice").await;
        // Another host, and messages that a guard refused.
        for (host, status) in [("app.doorward.localhost", "421"), ("a\r\nHost: b", "400"), ("b c", "400")] {
            let request = format!("GET /api/v1/whoami HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
            let got = door.bytes("", Some(&alice), request.as_bytes()).await;
            assert!(got.starts_with(&format!("HTTP/1.1 {status} ")), "{got}");
            let decision = got.lines().find_map(|line| line.strip_prefix("doorward-decision: ")).unwrap();
            let recorded = door.recorded(DecisionId::parse(decision.trim()).unwrap()).await;
            assert_eq!(recorded.text("/reason"), Some("ambiguous_request"), "{host}");
            let who = recorded.personal(PersonalField::Principal);
            assert_eq!(who, Some(alice.principal.to_string().as_str()), "{host}: whose session the certificate names");
        }
    });
}

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut bytes = u32::try_from(payload.len()).unwrap().to_be_bytes()[1..].to_vec();
    bytes.extend([kind, flags]);
    bytes.extend(stream.to_be_bytes());
    bytes.extend(payload);
    bytes
}

/// The head of a POST with a form of three bytes, as a header block without any table (RFC 7541 §6.2).
fn post(path: &str) -> Vec<u8> {
    let mut block = vec![0x83, 0x87];
    let fields: [(&[u8], &str); 4] = [
        (&[0x04], path),
        (&[0x01], &host("")),
        (&[0x0f, 0x10], "application/x-www-form-urlencoded"),
        (&[0x0f, 0x0d], "3"),
    ];
    for (name, value) in fields {
        block.extend(name);
        block.push(u8::try_from(value.len()).unwrap());
        block.extend(value.bytes());
    }
    block
}

#[test]
fn a_refusal_arrives_whole_where_the_body_was_still_under_way() {
    with_door(Plan::default(), async |door| {
        for path in ["/oauth2/introspect", "/api/v1/requests", "/oauth2/backchannel_logout"] {
            let mut stream = door.connect("", None, Speaks::Http2).await.unwrap();
            let opening = [b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".as_slice(), &frame(4, 0, 0, &[])].concat();
            stream.write_all(&opening).await.unwrap();
            stream.write_all(&frame(1, 4, 1, &post(path))).await.unwrap();
            stream.flush().await.unwrap();
            tokio::time::sleep(Duration::from_millis(100)).await;
            stream.write_all(&frame(0, 1, 1, b"a=1")).await.unwrap();
            stream.flush().await.unwrap();
            let (mut got, mut buffer) = (Vec::new(), [0; 4096]);
            while let Ok(Ok(count @ 1..)) =
                tokio::time::timeout(Duration::from_millis(700), stream.read(&mut buffer)).await
            {
                got.extend_from_slice(&buffer[..count]);
            }
            let (mut kinds, mut rest) = (Vec::new(), &got[..]);
            while rest.len() >= 9 {
                kinds.push((rest[3], rest[4]));
                let length = usize::from(rest[0]) << 16 | usize::from(rest[1]) << 8 | usize::from(rest[2]);
                rest = &rest[9 + length..];
            }
            assert!(kinds.contains(&(0, 1)), "{path} was answered to the end: {kinds:?}");
            // NO_ERROR too: there are clients that take any reset for a failure.
            assert!(kinds.iter().all(|(kind, _)| *kind != 3), "{path} was reset: {kinds:?}");
        }
    });
}

#[test]
fn a23_a_body_to_the_control_host_that_does_not_come_is_given_up() {
    let environment = vec![("DOORWARD__SERVER__LIMITS__BODY_IDLE", "1s".to_owned())];
    with_door(Plan { environment, ..Plan::default() }, async |door| {
        let began = Instant::now();
        for speaks in BOTH {
            let mut client = door.client("", None, speaks).await;
            let silent = futures_util::stream::pending::<Result<hyper::body::Frame<bytes::Bytes>, _>>();
            let body = http_body_util::BodyExt::boxed_unsync(http_body_util::StreamBody::new(silent));
            let request = client
                .request(Method::POST, "/oauth2/token")
                .header("content-type", "application/x-www-form-urlencoded")
                .body(body)
                .unwrap();
            let response = client.send(request).await.unwrap();
            assert_eq!(response.status(), 408, "{speaks:?}");
        }
        assert!(began.elapsed() < Duration::from_secs(9), "{:?}", began.elapsed());
    });
}

/// Chance that fails once at a place that a test names, as a fault in our code would.
#[derive(Debug, Default)]
struct Trap(Mutex<Option<&'static str>>);

impl Trap {
    fn set(&self, place: &'static str) {
        *self.0.lock().unwrap() = Some(place);
    }

    fn is_set(&self) -> bool {
        self.0.lock().unwrap().is_some()
    }
}

impl Entropy for Trap {
    fn fill(&self, target: &mut [u8]) {
        let place = *self.0.lock().unwrap();
        if let Some(place) = place
            && Backtrace::force_capture().to_string().contains(place)
        {
            *self.0.lock().unwrap() = None;
            panic!("a test's fault at {place}");
        }
        SystemEntropy.fill(target);
    }
}

#[test]
fn a26_a_fault_in_a_handler_costs_that_request_and_nothing_else() {
    let trap = Arc::new(Trap::default());
    let entropy: Option<Arc<dyn Entropy>> = Some(Arc::clone(&trap) as Arc<dyn Entropy>);
    with_door(Plan { entropy, ..Plan::default() }, async |door| {
        let (alice, bob) = (door.sign_in("alice").await, door.sign_in("bob").await);
        for speaks in BOTH {
            // Before anything goes upstream, and after the upstream has answered.
            for (place, passed) in [("traceparent", 0), ("src/gateway/record.rs", 1)] {
                let mut client = door.client("app", Some(&alice), speaks).await;
                let mut other = door.client("app", Some(&bob), speaks).await;
                assert_eq!(client.get("/first").await.status, 200);
                assert_eq!(other.get("/first").await.status, 200);
                let before = door.raw.count();
                trap.set(place);
                let mut fresh = door.client("web", Some(&alice), speaks).await;
                let got = fresh.get(&format!("/second/{speaks:?}")).await;
                assert!(!trap.is_set(), "{place} was not met");
                assert_eq!(got.status, 500, "{place} {speaks:?}: {}", got.text());
                assert_eq!(door.raw.count(), before + passed, "{place} {speaks:?}");
                assert!(!got.text().contains("test's fault"), "{}", got.text());
                door.recorded(got.decision()).await;
                // The same connection, another one, and one that was open.
                assert_eq!(fresh.get("/third").await.status, 200, "{place} {speaks:?}");
                assert_eq!(client.get("/third").await.status, 200, "{place} {speaks:?}");
                assert_eq!(other.get("/third").await.status, 200, "{place} {speaks:?}");
            }
            let mut client = door.client("", Some(&alice), speaks).await;
            trap.set("src/control/");
            let got = client.get("/signin").await;
            assert!(!trap.is_set(), "the control host's fault was not met");
            assert_eq!(got.status, 500, "{}", got.text());
            door.recorded(got.decision()).await;
            assert_eq!(client.get("/api/v1/whoami").await.status, 200);
        }
    });
}
