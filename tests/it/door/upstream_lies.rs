//! Upstreams that break the rules of HTTP/1.1, many at once and beside honest requests of others: what
//! one did is never another's answer (a19).

use std::time::{Duration, Instant};

use http::Method;

use super::fixture::{BOTH, Http, Person, Plan, Speaks, with_door};
use super::upstream::Reply;

const STOLEN: &str = "HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\nstolen";

/// Each lie, at a path of its own.
fn lies() -> Vec<(&'static str, Reply)> {
    let bytes = |text: &str| Reply::Bytes(text.as_bytes().to_vec());
    let close = |text: &str| Reply::Close(text.as_bytes().to_vec());
    vec![
        ("/lie/extra", bytes(&format!("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok{STOLEN}"))),
        ("/lie/extra-after-none", bytes(&format!("HTTP/1.1 204 No Content\r\n\r\n{STOLEN}"))),
        (
            "/lie/extra-after-not-modified",
            bytes(&format!("HTTP/1.1 304 Not Modified\r\ncontent-length: 6\r\n\r\nstolen{STOLEN}")),
        ),
        (
            "/lie/extra-after-chunks",
            bytes(&format!("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n{STOLEN}")),
        ),
        (
            "/lie/two-lengths",
            bytes(&format!("HTTP/1.1 200 OK\r\ncontent-length: 2\r\ncontent-length: 40\r\n\r\nok{STOLEN}")),
        ),
        (
            "/lie/length-and-chunks",
            bytes(&format!(
                "HTTP/1.1 200 OK\r\ncontent-length: 5\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n{STOLEN}"
            )),
        ),
        ("/lie/length-twice", bytes("HTTP/1.1 200 OK\r\ncontent-length: 2\r\ncontent-length: 2\r\n\r\nok")),
        ("/lie/length-list", bytes("HTTP/1.1 200 OK\r\ncontent-length: 2, 2\r\n\r\nok")),
        (
            "/lie/coding-beside-chunks",
            close("HTTP/1.1 200 OK\r\ntransfer-encoding: gzip, chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n"),
        ),
        (
            "/lie/chunks-twice",
            close("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n"),
        ),
        ("/lie/unknown-coding", close("HTTP/1.1 200 OK\r\ntransfer-encoding: foo\r\n\r\nok")),
        ("/lie/short", close("HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nabc")),
        ("/lie/short-chunk", close("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nff\r\nabc")),
        ("/lie/bad-chunk", bytes(&format!("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nxyz\r\n{STOLEN}"))),
        // Without a length an answer ends with its connection.
        ("/lie/split", close(&format!("HTTP/1.1 200 OK\r\na: b\r\n\r\n{STOLEN}"))),
        ("/lie/lone-cr", close("HTTP/1.1 200 OK\r\na: b\rset-cookie: stolen=1\r\ncontent-length: 2\r\n\r\nok")),
        ("/lie/null", close("HTTP/1.1 200 OK\r\na: b\0c\r\ncontent-length: 2\r\n\r\nok")),
        // It answers before it has read the request, and reads no more of it.
        ("/lie/early", Reply::Early(STOLEN.replace("\r\n\r\n", "\r\nconnection: close\r\n\r\n").into_bytes())),
        (
            "/lie/continues",
            bytes(&format!(
                "{}HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok",
                "HTTP/1.1 100 Continue\r\n\r\n".repeat(50)
            )),
        ),
        (
            "/lie/hints",
            bytes(&format!(
                "{}HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok",
                "HTTP/1.1 103 Early Hints\r\nlink: </stolen>\r\n\r\n".repeat(50)
            )),
        ),
        ("/lie/nothing", close("")),
        ("/lie/no-http", close("220 smtp.example.com ESMTP\r\n")),
    ]
}

fn plan() -> Plan {
    Plan {
        // What is looked at here is bytes, and each decision is on record all the same.
        environment: vec![("DOORWARD__AUDIT__REQUESTS", "buffered".to_owned())],
        tables: "[timeouts]\nfirst_byte = \"2s\"\nbody_idle = \"2s\"\n\
                 [limits]\nrequests_per_second = 100000\nburst = 100000\n"
            .to_owned(),
        ..Plan::default()
    }
}

/// One client's share: its own requests among lies; gives how many of its own were not answered.
async fn mixed(client: &mut Http, name: &str, paths: &[&str], count: usize) -> usize {
    let mut unanswered = 0;
    for number in 0..count {
        // A lie now and then, another one each time.
        if number % 5 == 4 {
            let path = paths[(number / 5 + name.len()) % paths.len()];
            let request = client.request(Method::GET, path).body(super::fixture::full("")).unwrap();
            // A broken answer resets its stream and not the client's connection.
            if let Ok(answer) = client.send(request).await {
                let body = http_body_util::BodyExt::collect(answer.into_body());
                let body = tokio::time::timeout(Duration::from_secs(8), body).await.expect(path);
                let text = body.map(|body| body.to_bytes()).unwrap_or_default();
                assert!(!text.windows(7).any(|part| part == b"GET /mi"), "{path}: another's answer");
            }
            continue;
        }
        let path = format!("/mine/{name}/{number}");
        let request = client.request(Method::GET, &path).body(super::fixture::full("")).unwrap();
        let got = super::fixture::read(client.send(request).await.unwrap()).await;
        match got.status.as_u16() {
            200 => assert_eq!(got.text(), format!("GET {path} HTTP/1.1"), "another's answer"),
            502 => unanswered += 1,
            other => panic!("{path}: {other} {}", got.text()),
        }
    }
    unanswered
}

#[test]
fn a19_in_ten_thousand_mixed_runs_nobody_gets_a_byte_of_anothers_answer() {
    with_door(plan(), async |door| {
        let people = [door.sign_in("alice").await, door.sign_in("bob").await];
        let mut all = lies();
        // Early answers hold their connection for two seconds: they have a test of their own.
        all.retain(|(_, reply)| !matches!(reply, Reply::Early(_)));
        for (path, reply) in &all {
            door.raw.reply(path, reply.clone());
        }
        let paths: Vec<&str> = all.iter().map(|(path, _)| *path).collect();
        let mut shares = Vec::new();
        for (number, person) in people.iter().cycle().take(20).enumerate() {
            let paths = &paths;
            shares.push(async move {
                let mut client = door.client("app", Some(person), Speaks::Http2).await;
                mixed(&mut client, &format!("{}-{number}", person.principal.id().replace('|', "-")), paths, 500).await
            });
        }
        let unanswered: usize = futures_util::future::join_all(shares).await.into_iter().sum();
        // Who was sent over a connection that had just been spoilt is told so, which is rare.
        assert!(unanswered < 400, "{unanswered} honest requests of 8,000 were not answered");
        let honest = door.raw.seen().iter().filter(|seen| seen.path().starts_with("/mine/")).count();
        assert!(honest >= 8000 - unanswered, "{honest}");
    });
}

#[test]
fn a19_a_lie_costs_its_own_answer_and_its_connection() {
    with_door(plan(), async |door| {
        let alice: Person = door.sign_in("alice").await;
        for (path, reply) in lies() {
            door.raw.reply(path, reply);
        }
        for speaks in BOTH {
            for (path, _) in lies() {
                let mut client = door.client("app", Some(&alice), speaks).await;
                let request = client.request(Method::POST, path).body(super::fixture::full("abc")).unwrap();
                let answer = tokio::time::timeout(Duration::from_secs(8), client.send(request)).await.expect(path);
                if let Ok(answer) = answer {
                    assert!(answer.headers().get("set-cookie").is_none(), "{path}");
                    let status = answer.status().as_u16();
                    let body = http_body_util::BodyExt::collect(answer.into_body());
                    let body = tokio::time::timeout(Duration::from_secs(8), body).await.expect(path);
                    let body = body.map(|body| body.to_bytes());
                    match path {
                        // Whole, and then came more than was said.
                        "/lie/extra" | "/lie/extra-after-chunks" | "/lie/continues" | "/lie/hints" => {
                            assert!(status == 502 || body.unwrap() == "ok", "{path} {status}");
                        }
                        "/lie/extra-after-none" => assert!([204, 502].contains(&status), "{path} {status}"),
                        "/lie/extra-after-not-modified" => assert!([304, 502].contains(&status), "{path} {status}"),
                        // Without a length an answer ends with its connection, and all of it is this one's.
                        "/lie/split" => {
                            assert!([200, 502].contains(&status), "{path} {status}");
                        }
                        "/lie/short" | "/lie/short-chunk" | "/lie/bad-chunk" => {
                            assert!(status == 502 || body.is_err(), "{path} {status}: an end that is none");
                        }
                        "/lie/early" => assert!([200, 502].contains(&status), "{path} {status}"),
                        _ => assert_eq!(status, 502, "{path}"),
                    }
                }
                let next = door.get("app", Some(&alice), speaks, "/mine").await;
                assert_eq!(next.text(), "GET /mine HTTP/1.1", "after {path}");
            }
        }
    });
}

#[test]
fn an_answer_without_content_has_no_length() {
    with_door(plan(), async |door| {
        let alice = door.sign_in("alice").await;
        door.raw.reply("/none", Reply::Close(b"HTTP/1.1 204 No Content\r\ncontent-length: 5\r\n\r\n".to_vec()));
        door.raw.reply("/same", Reply::Close(b"HTTP/1.1 304 Not Modified\r\ncontent-length: 5\r\n\r\n".to_vec()));
        for speaks in BOTH {
            let none = door.get("app", Some(&alice), speaks, "/none").await;
            assert_eq!((none.status.as_u16(), none.header("content-length")), (204, None), "{speaks:?}");
            // What a GET would have had (RFC 9110 §8.6) may be told, and is over HTTP/2 alone.
            let same = door.get("app", Some(&alice), speaks, "/same").await;
            assert_eq!(same.status, 304, "{speaks:?}");
            assert!([None, Some("5")].contains(&same.header("content-length")), "{speaks:?}");
        }
    });
}

#[test]
fn a19_a_flood_of_interim_answers_ends_and_disturbs_nobody() {
    with_door(plan(), async |door| {
        let (alice, bob) = (door.sign_in("alice").await, door.sign_in("bob").await);
        for (path, head) in [
            ("/flood/100", "HTTP/1.1 100 Continue\r\n\r\n"),
            ("/flood/103", "HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\n"),
        ] {
            door.raw.reply(path, Reply::Flood(head.as_bytes().to_vec()));
            let mut other = door.client("app", Some(&bob), Speaks::Http2).await;
            let flooded = async {
                let asked = Instant::now();
                let got = door.get("app", Some(&alice), Speaks::Http2, path).await;
                (got, asked.elapsed())
            };
            let meanwhile = async {
                let mut slowest = Duration::ZERO;
                for _ in 0..20 {
                    let asked = Instant::now();
                    assert_eq!(other.get("/mine").await.text(), "GET /mine HTTP/1.1");
                    slowest = slowest.max(asked.elapsed());
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
                slowest
            };
            let ((got, took), slowest) = tokio::join!(flooded, meanwhile);
            assert!([502, 504].contains(&got.status.as_u16()), "{path}: {got:?}");
            assert!(took < Duration::from_secs(6), "{path} took {took:?}");
            assert!(slowest < Duration::from_secs(1), "others waited {slowest:?} during {path}");
        }
        // The upstream's side of the flood is closed too.
        for _ in 0..100 {
            if door.raw.open.load(std::sync::atomic::Ordering::SeqCst) <= 2 {
                return;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!("{:?} connections to the upstream are open", door.raw.open);
    });
}
