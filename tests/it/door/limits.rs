//! Too much, too big, too slow: a20 to a23, a71, rates, upstreams that are down or don't read.

use std::cell::{Cell, OnceCell};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use doorward::audit::{EventType, PersonalField};
use doorward::store::Store;
use http::Method;
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Frame;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::fixture::{BOTH, Plan, Speaks, full, host, read, with_door};
use super::upstream::Reply;
use crate::crash::events;
use crate::support::databases;

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut bytes = u32::try_from(payload.len()).unwrap().to_be_bytes()[1..].to_vec();
    bytes.extend([kind, flags]);
    bytes.extend(stream.to_be_bytes());
    bytes.extend(payload);
    bytes
}

/// GET / of the service, as a header block without any table.
fn block(service: &str) -> Vec<u8> {
    let authority = host(service);
    let mut block = vec![0x82, 0x87, 0x84, 0x01, u8::try_from(authority.len()).unwrap()];
    block.extend(authority.bytes());
    block
}

#[test]
fn a20_a21_floods_of_frames_end_their_connection_and_disturb_nobody() {
    type Flood = fn(u32, &str) -> Vec<u8>;
    let floods: [(&str, Flood); 7] = [
        ("rapid reset", |n, to| [frame(1, 5, n * 2 + 1, &block(to)), frame(3, 0, n * 2 + 1, &[0, 0, 0, 8])].concat()),
        ("continuation", |n, to| if n == 0 { frame(1, 1, 1, &block(to)) } else { frame(9, 0, 1, &[]) }),
        ("empty data", |n, to| if n == 0 { frame(1, 4, 1, &block(to)) } else { frame(0, 0, 1, &[]) }),
        ("settings", |_, _| frame(4, 0, 0, &[])),
        ("ping", |_, _| frame(6, 0, 0, &[0; 8])),
        ("priority", |n, _| frame(2, 0, n * 2 + 1, &[0, 0, 0, 0, 1])),
        ("window update", |_, _| frame(8, 0, 0, &[0, 0, 0, 1])),
    ];
    with_door(Plan::default(), async |door| {
        let (alice, bob) = (door.sign_in("alice").await, door.sign_in("bob").await);
        let mut other = door.client("app", Some(&bob), Speaks::Http2).await;
        // A service's host and the control host, which has a runtime and limits of its own.
        for (to, (what, flood)) in ["app", ""].into_iter().flat_map(|to| floods.map(|flood| (to, flood))) {
            let stream = door.connect(to, Some(&alice), Speaks::Http2).await.unwrap();
            let (mut reader, mut writer) = tokio::io::split(stream);
            let opening = [b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".as_slice(), &frame(4, 0, 0, &[])].concat();
            writer.write_all(&opening).await.unwrap();
            let reading = tokio::spawn(async move {
                let mut buffer = [0; 4096];
                while reader.read(&mut buffer).await.is_ok_and(|count| count > 0) {}
            });
            let mut sent = 0;
            for number in 0..20_000 {
                if reading.is_finished() || writer.write_all(&flood(number, to)).await.is_err() {
                    break;
                }
                sent = number;
                if number % 500 == 0 {
                    let asked = Instant::now();
                    assert_eq!(other.get("/x").await.status, 200, "{what}");
                    assert!(asked.elapsed() < Duration::from_secs(2), "{what}: {:?}", asked.elapsed());
                }
            }
            assert!(sent < 19_999, "{what} went on");
            let ended = tokio::time::timeout(Duration::from_secs(5), reading).await;
            assert!(ended.is_ok(), "{what}: the connection is still open");
            assert_eq!(other.get("/x").await.status, 200, "{what}");
        }
    });
}

#[test]
fn a22_heads_have_a_size_and_a_number_of_fields() {
    with_door(Plan::default(), async |door| {
        let alice = door.sign_in("alice").await;
        let big = "x".repeat(70 * 1024);
        let many: String = (0..150).map(|n| format!("X-{n}: 1\r\n")).collect();
        let crumbs: String = (0..150).map(|n| format!("Cookie: a{n}=1\r\n")).collect();
        for lines in [format!("X-Big: {big}\r\n"), many, crumbs, format!("Cookie: {big}\r\n")] {
            let request = format!("GET /x HTTP/1.1\r\nHost: {}\r\n{lines}\r\n", host("app"));
            let got = door.bytes("app", Some(&alice), request.as_bytes()).await;
            assert!(got.starts_with("HTTP/1.1 431 "), "{}", &got[..got.len().min(300)]);
        }
        let got = door.bytes("app", Some(&alice), format!("GET /{big} HTTP/1.1\r\nHost: a\r\n\r\n").as_bytes()).await;
        assert!(got.starts_with("HTTP/1.1 431 ") || got.starts_with("HTTP/1.1 414 "), "{}", &got[..got.len().min(300)]);
        let mut client = door.client("app", Some(&alice), Speaks::Http2).await;
        let pieces = "y".repeat(8 * 1024);
        let mut request = client.request(Method::GET, "/x");
        for number in 0..12 {
            request = request.header(format!("x-{number}"), &pieces);
        }
        // Answered, or the connection is given up.
        if let Ok(response) = client.send(request.body(full("")).unwrap()).await {
            assert_eq!(response.status(), 431);
        }
        // However small they are.
        let crumbs: Vec<(String, String)> = (0..150).map(|n| ("cookie".to_owned(), format!("a{n}=1"))).collect();
        let many: Vec<(String, String)> = (0..150).map(|n| (format!("x-{n}"), "1".to_owned())).collect();
        let [crumbs, many] =
            [&crumbs, &many].map(|fields| fields.iter().map(|(n, v)| (n.as_str(), v.as_str())).collect::<Vec<_>>());
        for (service, person, path) in [("app", Some(&alice), "/x"), ("", None, "/signin")] {
            let mut client = door.client(service, person, Speaks::Http2).await;
            let got = client.ask(Method::GET, path, &many, b"").await;
            assert_eq!((got.status.as_u16(), got.reason().as_str()), (431, "ambiguous_request"), "`{service}`");
        }
        // The control host too.
        for lines in [format!("X-Big: {big}\r\n"), (0..150).map(|n| format!("X-{n}: 1\r\n")).collect()] {
            let request = format!("GET /signin HTTP/1.1\r\nHost: {}\r\n{lines}\r\n", host(""));
            let got = door.bytes("", None, request.as_bytes()).await;
            assert!(got.starts_with("HTTP/1.1 431 "), "{}", &got[..got.len().min(300)]);
        }
        let mut control = door.client("", None, Speaks::Http2).await;
        let mut request = control.request(Method::GET, "/signin");
        for number in 0..12 {
            request = request.header(format!("x-{number}"), &pieces);
        }
        if let Ok(response) = control.send(request.body(full("")).unwrap()).await {
            assert_eq!(response.status(), 431);
        }
        assert_eq!(door.raw.count(), 0);
        let most: Vec<(String, String)> = (0..100).map(|n| (format!("x-{n}"), "1".to_owned())).collect();
        let most: Vec<(&str, &str)> = most.iter().map(|(n, v)| (n.as_str(), v.as_str())).collect();
        let mut client = door.client("app", Some(&alice), Speaks::Http2).await;
        assert_eq!(client.ask(Method::GET, "/x", &most, b"").await.status, 200);
        // Cookies that come one by one are one field.
        for (service, person, path, status) in [("app", Some(&alice), "/x", 200), ("", None, "/signin", 303)] {
            let mut client = door.client(service, person, Speaks::Http2).await;
            assert_eq!(client.ask(Method::GET, path, &crumbs, b"").await.status, status, "`{service}`");
        }
    });
}

#[test]
fn a22_a_head_that_is_too_long_once_it_is_decoded_is_refused_with_its_decision() {
    with_door(Plan::default(), async |door| {
        let alice = door.sign_in("alice").await;
        // Five bits a letter on the way (RFC 7541 appendix B).
        let pieces = "a".repeat(8 * 1024);
        for (service, person, path) in [("app", Some(&alice), "/x"), ("", None, "/signin")] {
            let mut client = door.client(service, person, Speaks::Http2).await;
            let mut request = client.request(Method::GET, path);
            for number in 0..12 {
                request = request.header(format!("x-{number}"), &pieces);
            }
            let got = read(client.send(request.body(full("")).unwrap()).await.unwrap()).await;
            assert_eq!((got.status.as_u16(), got.reason().as_str()), (431, "ambiguous_request"));
            got.decision();
            // The connection lives.
            assert_ne!(client.get(path).await.status, 431);
        }
        for target in ["/x?a=\"", "/x?a=<>"] {
            let request = format!("GET {target} HTTP/1.1\r\nHost: {}\r\n\r\n", host("app"));
            let got = door.bytes("app", Some(&alice), request.as_bytes()).await;
            assert!(got.starts_with("HTTP/1.1 400 ") && got.contains("application/problem+json"), "{got}");
            assert!(got.contains("doorward-decision: "), "{got}");
        }
        assert_eq!(door.raw.count(), 1);
    });
}

#[test]
fn a23_whoever_is_slow_is_let_go_and_others_come_in() {
    let plan = Plan {
        environment: vec![
            ("DOORWARD__SERVER__LIMITS__HANDSHAKE", "1s".to_owned()),
            ("DOORWARD__SERVER__LIMITS__HEADER", "1s".to_owned()),
            ("DOORWARD__SERVER__LIMITS__BODY_IDLE", "1s".to_owned()),
            ("DOORWARD__SERVER__LIMITS__KEEP_ALIVE", "2s".to_owned()),
        ],
        ..Plan::default()
    };
    with_door(plan, async |door| {
        let alice = door.sign_in("alice").await;
        let begun = Instant::now();
        let silent = async {
            let mut stream = tokio::net::TcpStream::connect(door.address).await.unwrap();
            let _ = stream.read_to_end(&mut Vec::new()).await;
        };
        let half_hello = async {
            let mut stream = tokio::net::TcpStream::connect(door.address).await.unwrap();
            stream.write_all(&[22, 3, 1, 1, 0, 1]).await.unwrap();
            let _ = stream.read_to_end(&mut Vec::new()).await;
        };
        let half_head = async {
            let mut stream = door.connect("app", Some(&alice), Speaks::Http1).await.unwrap();
            stream.write_all(b"GET /x HTTP/1.1\r\nHost: ").await.unwrap();
            let mut got = Vec::new();
            let _ = stream.read_to_end(&mut got).await;
            assert!(got.starts_with(b"HTTP/1.1 408 "), "{}", String::from_utf8_lossy(&got));
        };
        let half_preface = async {
            let mut stream = door.connect("app", Some(&alice), Speaks::Http2).await.unwrap();
            stream.write_all(b"PRI * HTTP").await.unwrap();
            let _ = stream.read_to_end(&mut Vec::new()).await;
        };
        let idle = async {
            for speaks in BOTH {
                let mut stream = door.connect("app", Some(&alice), speaks).await.unwrap();
                if speaks == Speaks::Http2 {
                    stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").await.unwrap();
                }
                let _ = stream.read_to_end(&mut Vec::new()).await;
            }
        };
        let half_body = async {
            let mut stream = door.connect("app", Some(&alice), Speaks::Http1).await.unwrap();
            let head = format!("POST /x HTTP/1.1\r\nHost: {}\r\nContent-Length: 100\r\n\r\nabc", host("app"));
            stream.write_all(head.as_bytes()).await.unwrap();
            let mut got = Vec::new();
            let _ = stream.read_to_end(&mut got).await;
            assert!(got.starts_with(b"HTTP/1.1 408 "), "{}", String::from_utf8_lossy(&got));
        };
        let others = async {
            for _ in 0..10 {
                assert_eq!(door.get("app", Some(&alice), Speaks::Http2, "/x").await.status, 200);
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        };
        let all = async { tokio::join!(silent, half_hello, half_head, half_preface, idle, half_body, others) };
        tokio::time::timeout(Duration::from_secs(12), all).await.expect("a slow client was kept");
        assert!(begun.elapsed() < Duration::from_secs(12));
    });
}

#[test]
fn a71_a_flood_without_identity_is_counted_not_kept() {
    with_door(Plan::default(), async |door| {
        let alice = door.sign_in("alice").await;
        let mut limited = 0;
        for speaks in BOTH {
            let mut client = door.client("web", None, speaks).await;
            for number in 0..300 {
                let got = client.get(&format!("/junk/{number}")).await;
                assert!([401, 429].contains(&got.status.as_u16()));
                limited += usize::from(got.status == 429);
            }
        }
        assert!(limited > 100, "{limited}");
        assert!(door.running().desk.recorder.state().counted > 100, "{:?}", door.running().desk.recorder.state());
        let got = door.get("app", Some(&alice), Speaks::Http2, "/x").await;
        assert_eq!(got.status, 200);
        door.recorded(got.decision()).await;
        assert_eq!(door.raw.count(), 1);
    });
}

#[test]
fn a71_a_flood_of_refusals_of_one_person_is_counted_with_their_name() {
    for database in databases() {
        let url = database.clone();
        let (dave, sent) = (OnceCell::new(), Cell::new(200));
        with_door(Plan { database: Some(database), ..Plan::default() }, async |door| {
            let (alice, barred) = (door.sign_in("alice").await, door.sign_in("dave").await);
            let counted = || door.running().desk.recorder.state().counted;
            let mut client = door.client("app", Some(&barred), Speaks::Http2).await;
            for number in 0..200 {
                let got = client.get(&format!("/barred/{number}")).await;
                assert!([403, 429].contains(&got.status.as_u16()), "{got:?}");
                if number < 30 {
                    door.recorded(got.decision()).await;
                }
            }
            let of_refused = counted();
            assert!(of_refused >= 50, "{of_refused}");
            // One whose session has ended is known by it all the same.
            door.revoke(&barred).await;
            while counted() < of_refused + 20 {
                let got = door.get("app", Some(&barred), Speaks::Http2, "/x").await;
                assert_eq!((got.status.as_u16(), got.reason().as_str()), (401, "session_ended"));
                sent.set(sent.get() + 1);
                assert!(sent.get() < 2000, "none of {} is counted", sent.get());
            }
            // Others lose nothing by it.
            for speaks in BOTH {
                for (path, status) in [("/x", 200), ("/admin/x", 403)] {
                    let got = door.get("app", Some(&alice), speaks, path).await;
                    assert_eq!(got.status, status, "{got:?}");
                    door.recorded(got.decision()).await;
                }
            }
            dave.set(barred.principal.to_string()).unwrap();
        });
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let events = runtime.block_on(async { events(&Store::open(&url).unwrap()).await });
        let of_dave = |kind| {
            let all = events.iter().filter(move |event| event.clear().kind == kind);
            all.filter(|event| event.personal(PersonalField::Principal) == dave.get().map(String::as_str))
        };
        let counted =
            of_dave(EventType::DecisionDenyCounted).map(|event| event.body["data"]["count"].as_u64().unwrap());
        let single = of_dave(EventType::DecisionDeny).count();
        assert_eq!(counted.sum::<u64>() + u64::try_from(single).unwrap(), sent.get(), "{single} one by one");
    }
}

#[test]
fn too_many_requests_of_one_are_told_when_to_come_again() {
    let tables = "[limits]\nrequests_per_second = 1\nburst = 5".to_owned();
    with_door(Plan { tables, ..Plan::default() }, async |door| {
        let (alice, bob) = (door.sign_in("alice").await, door.sign_in("bob").await);
        for speaks in BOTH {
            let mut client =
                door.client(if speaks == Speaks::Http1 { "app" } else { "web" }, Some(&alice), speaks).await;
            let mut last = client.get("/x").await;
            for _ in 0..10 {
                last = client.get("/x").await;
            }
            assert_eq!((last.status.as_u16(), last.reason().as_str()), (429, "rate_limited"));
            assert!(last.header("retry-after").unwrap().parse::<u64>().unwrap() >= 1);
            assert!(last.header("ratelimit").is_some() && last.header("ratelimit-policy").is_some(), "{last:?}");
        }
        assert_eq!(door.get("app", Some(&bob), Speaks::Http2, "/x").await.status, 200);
    });
}

#[test]
fn an_upstream_that_is_down_is_passed_over_and_nothing_is_sent_twice() {
    let services = vec![
        ("pair", "\"http://127.0.0.1:1\", {raw}".to_owned(), ""),
        ("down", "\"http://127.0.0.1:1\"".to_owned(), ""),
    ];
    with_door(Plan { services, ..Plan::default() }, async |door| {
        let alice = door.sign_in("alice").await;
        for speaks in BOTH {
            let mut client = door.client("pair", Some(&alice), speaks).await;
            for _ in 0..20 {
                assert_eq!(client.ask(Method::POST, "/x", &[], b"body").await.text(), "body");
            }
            let got = door.get("down", Some(&alice), speaks, "/x").await;
            assert_eq!((got.status.as_u16(), got.reason().as_str()), (502, "upstream_unavailable"));
        }
        door.raw.reply("/die", Reply::Close(Vec::new()));
        for speaks in BOTH {
            for method in [Method::POST, Method::PUT, Method::GET] {
                let before = door.raw.count();
                let mut client = door.client("pair", Some(&alice), speaks).await;
                assert_eq!(client.ask(method, "/die", &[], b"").await.status, 502);
                assert_eq!(door.raw.count(), before + 1, "a request was sent twice");
            }
        }
    });
}

#[test]
fn an_upstream_that_does_not_read_stops_the_client_not_the_memory() {
    with_door(Plan::default(), async |door| {
        let alice = door.sign_in("alice").await;
        door.raw.reply("/stall", Reply::Stall);
        for speaks in BOTH {
            let taken = Arc::new(AtomicUsize::new(0));
            let counter = Arc::clone(&taken);
            let frames = futures_util::stream::unfold((), move |()| {
                let counter = Arc::clone(&counter);
                async move {
                    counter.fetch_add(16 * 1024, Ordering::SeqCst);
                    Some((Ok(Frame::data(Bytes::from_static(&[0; 16 * 1024]))), ()))
                }
            });
            let mut client = door.client("app", Some(&alice), speaks).await;
            let request = client.request(Method::POST, "/stall").body(StreamBody::new(frames).boxed_unsync()).unwrap();
            let asked = tokio::time::timeout(Duration::from_millis(1500), client.send(request)).await;
            assert!(asked.is_err(), "{speaks:?} was answered");
            let taken = taken.load(Ordering::SeqCst);
            assert!(taken < 32 * 1024 * 1024, "{speaks:?}: {taken} bytes were taken from the client");
        }
    });
}

#[test]
fn a_service_whose_connections_are_all_in_use_says_so_and_serves_again_when_one_ends() {
    let tables = "[limits]\nconnections_per_upstream = 1".to_owned();
    with_door(Plan { tables, ..Plan::default() }, async |door| {
        let alice = door.sign_in("alice").await;
        let endless = b"HTTP/1.1 200 OK\r\ncontent-length: 1000000\r\n\r\nbegin".to_vec();
        door.raw.reply("/long", Reply::Bytes(endless));
        let mut holder = door.client("app", Some(&alice), Speaks::Http1).await;
        let request = holder.request(Method::GET, "/long").body(full("")).unwrap();
        let held = holder.send(request).await.unwrap();
        assert_eq!(held.status(), 200);
        for speaks in BOTH {
            let got = door.get("app", Some(&alice), speaks, "/short").await;
            assert_eq!((got.status.as_u16(), got.reason().as_str()), (503, "upstream_unavailable"), "{got:?}");
            assert!(got.text().contains("connections_per_upstream"), "{}", got.text());
            assert_eq!(got.headers["retry-after"], "2");
        }
        drop((held, holder));
        let began = Instant::now();
        while door.get("app", Some(&alice), Speaks::Http1, "/short").await.status != 200 {
            assert!(began.elapsed() < Duration::from_secs(5), "the connection was never given back");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    });
}

#[test]
fn who_holds_connections_to_the_plain_listener_leaves_the_next_one_waiting_and_takes_no_more_than_its_bound() {
    let environment = vec![("DOORWARD__TELEMETRY__LISTEN", "127.0.0.1:0".to_owned())];
    with_door(Plan { environment, ..Plan::default() }, async |door| {
        let address = door.running().telemetry.unwrap();
        let connect = async || tokio::net::TcpStream::connect(address).await.unwrap();
        let request = format!("GET /healthz HTTP/1.1\r\nHost: {address}\r\n\r\n");
        // Each is answered, and stays.
        let mut held = Vec::new();
        for _ in 0..64 {
            let mut stream = connect().await;
            stream.write_all(request.as_bytes()).await.unwrap();
            assert!(stream.read(&mut [0; 1024]).await.unwrap() > 0);
            held.push(stream);
        }
        let mut next = connect().await;
        next.write_all(request.as_bytes()).await.unwrap();
        let mut answer = [0; 1024];
        let early = tokio::time::timeout(Duration::from_millis(300), next.read(&mut answer)).await;
        assert!(early.is_err(), "it was taken beyond the bound");
        held.pop();
        let count = tokio::time::timeout(Duration::from_secs(5), next.read(&mut answer)).await.unwrap().unwrap();
        assert!(answer[..count].starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(&answer[..count]));
    });
}
