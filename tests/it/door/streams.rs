//! What is long: streams, upgrades, bodies, and their end; a28.

use std::time::{Duration, Instant};

use bytes::Bytes;
use doorward::model::Ttl;
use futures_util::{SinkExt, StreamExt};
use http::Method;
use http_body_util::BodyExt;
use tokio_tungstenite::tungstenite::Message;

use super::fixture::{BOTH, Door, Person, Plan, Speaks, full, host, with_door};

type Socket = tokio_tungstenite::WebSocketStream<tokio_rustls::client::TlsStream<tokio::net::TcpStream>>;

async fn websocket(door: &Door, person: &Person) -> Socket {
    let stream = door.connect("app", Some(person), Speaks::Http1).await.unwrap();
    let url = format!("wss://{}:{}/ws", host("app"), door.address.port());
    let (socket, response) = tokio_tungstenite::client_async(url, stream).await.unwrap();
    assert_eq!(response.status(), 101);
    assert!(response.headers().contains_key("doorward-decision"));
    socket
}

#[test]
fn a28_a_session_that_ends_takes_its_streams_along() {
    with_door(Plan::default(), async |door| {
        let alice = door.sign_in("alice").await;
        let mut http2 = door.client("app", Some(&alice), Speaks::Http2).await;
        let mut http1 = door.client("app", Some(&alice), Speaks::Http1).await;
        assert_eq!(http2.get("/x").await.status, 200);
        assert_eq!(http1.get("/x").await.status, 200);
        let mut socket = websocket(door, &alice).await;
        socket.send(Message::text("hello")).await.unwrap();
        assert_eq!(socket.next().await.unwrap().unwrap(), Message::text("hello"));
        let mut streams = Vec::new();
        for speaks in BOTH {
            let mut client = door.client("app", Some(&alice), speaks).await;
            let request = client.request(Method::GET, "/sse").body(full("")).unwrap();
            let mut body = client.send(request).await.unwrap().into_body();
            for _ in 0..3 {
                assert!(body.frame().await.unwrap().is_ok());
            }
            streams.push((speaks, client, body));
        }
        let before = door.raw.count();
        let ended = Instant::now();
        door.revoke(&alice).await;
        for client in [&mut http2, &mut http1] {
            let got = client.get("/x").await;
            assert_eq!((got.status.as_u16(), got.reason().as_str()), (401, "session_ended"));
        }
        for (speaks, _client, mut body) in streams {
            let cut = tokio::time::timeout(Duration::from_secs(1), async {
                loop {
                    match body.frame().await {
                        Some(Ok(_)) => {}
                        other => return other,
                    }
                }
            });
            let last = cut.await.expect("a stream outlived its session");
            if speaks == Speaks::Http2 {
                let error = last.expect("a stream that is cut has no proper end").unwrap_err();
                assert!(format!("{error:?}").contains("CANCEL"), "{error:?}");
            }
        }
        let cut =
            tokio::time::timeout(Duration::from_secs(1), async { while let Some(Ok(_)) = socket.next().await {} });
        cut.await.expect("a WebSocket outlived its session");
        assert!(ended.elapsed() < Duration::from_secs(1), "{:?}", ended.elapsed());
        assert_eq!(door.raw.count(), before);
        // The upstream is told too.
        for _ in 0..20 {
            if door.raw.open.load(std::sync::atomic::Ordering::SeqCst) <= 2 {
                break;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    });
}

#[test]
fn a28_a_certificate_that_ends_in_mid_connection_is_no_credential_any_more() {
    with_door(Plan::default(), async |door| {
        let alice = door.sign_in("alice").await;
        let mut clients = Vec::new();
        for speaks in BOTH {
            clients.push(door.client("app", Some(&alice), speaks).await);
        }
        for client in &mut clients {
            assert_eq!(client.get("/x").await.status, 200);
        }
        let before = door.raw.count();
        door.clock.advance(Ttl::hours(2));
        for client in &mut clients {
            let got = client.get("/x").await;
            assert_eq!((got.status.as_u16(), got.reason().as_str()), (401, "bad_credential"));
        }
        assert_eq!(door.raw.count(), before);
    });
}

/// Another authority in the place of ours.
fn replace_authority(door: &Door) {
    let mut params = rcgen::CertificateParams::default();
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    params.distinguished_name.push(rcgen::DnType::CommonName, "another authority");
    let key = rcgen::KeyPair::generate().unwrap();
    std::fs::write(door.dir.join("keys/ca.key"), key.serialize_pem()).unwrap();
    std::fs::write(door.dir.join("keys/ca.crt"), params.self_signed(&key).unwrap().pem()).unwrap();
}

#[test]
fn a28_what_is_open_under_an_authority_that_is_removed_is_cut() {
    with_door(Plan::default(), async |door| {
        let alice = door.sign_in("alice").await;
        let mut idle = door.client("app", Some(&alice), Speaks::Http1).await;
        assert_eq!(idle.get("/x").await.status, 200);
        let mut socket = websocket(door, &alice).await;
        socket.send(Message::text("hello")).await.unwrap();
        assert_eq!(socket.next().await.unwrap().unwrap(), Message::text("hello"));
        let mut streams = Vec::new();
        for speaks in BOTH {
            let mut client = door.client("app", Some(&alice), speaks).await;
            let request = client.request(Method::GET, "/sse").body(full("")).unwrap();
            let mut body = client.send(request).await.unwrap().into_body();
            assert!(body.frame().await.unwrap().is_ok());
            streams.push((client, body));
        }
        // A reload that changes no authority changes nothing for them.
        door.running().reload().unwrap();
        socket.send(Message::text("still")).await.unwrap();
        assert_eq!(socket.next().await.unwrap().unwrap(), Message::text("still"));
        replace_authority(door);
        door.running().reload().unwrap();
        for (_client, mut body) in streams {
            let cut =
                tokio::time::timeout(Duration::from_secs(5), async { while let Some(Ok(_)) = body.frame().await {} });
            cut.await.expect("a stream outlived its authority");
        }
        let cut =
            tokio::time::timeout(Duration::from_secs(5), async { while let Some(Ok(_)) = socket.next().await {} });
        cut.await.expect("a WebSocket outlived its authority");
        let got = idle.get("/x").await;
        assert_eq!((got.status.as_u16(), got.reason().as_str()), (401, "bad_credential"));
    });
}

#[test]
fn websocket_messages_pass_both_ways() {
    with_door(Plan::default(), async |door| {
        let alice = door.sign_in("alice").await;
        let mut socket = websocket(door, &alice).await;
        for size in [0, 1, 125, 126, 70_000] {
            let message = Message::binary(vec![7u8; size]);
            socket.send(message.clone()).await.unwrap();
            assert_eq!(socket.next().await.unwrap().unwrap(), message);
        }
        socket.close(None).await.unwrap();
    });
}

#[test]
fn grpc_passes_with_its_trailers() {
    with_door(Plan::default(), async |door| {
        let alice = door.sign_in("alice").await;
        for speaks in BOTH {
            let headers = [("content-type", "application/grpc"), ("te", "trailers")];
            let mut client = door.client("rpc", Some(&alice), speaks).await;
            let got = client.ask(Method::POST, "/pkg.Service/Method", &headers, b"\0\0\0\0\x02hi").await;
            assert_eq!(got.status, 200, "{}", got.text());
            assert_eq!(got.body, Bytes::from_static(b"\0\0\0\0\x02hi"));
            if speaks == Speaks::Http2 {
                assert_eq!(got.trailers.unwrap()["grpc-status"], "0");
            }
            let seen = door.h2c.seen().pop().unwrap();
            assert_eq!(seen.target.rsplit_once("/pkg.").map(|(_, rest)| rest), Some("Service/Method"));
            assert_eq!(seen.headers["te"], "trailers");
            assert_eq!(seen.headers["content-type"], "application/grpc");
        }
    });
}

#[test]
fn a_mebibyte_passes_both_ways_unchanged() {
    with_door(Plan::default(), async |door| {
        let alice = door.sign_in("alice").await;
        let body: Vec<u8> = (0..1024 * 1024u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
        for speaks in BOTH {
            for service in ["app", "rpc"] {
                let got = door.client(service, Some(&alice), speaks).await.ask(Method::PUT, "/big", &[], &body).await;
                assert_eq!(got.status, 200);
                assert!(got.body == body, "{service} {speaks:?}: {} bytes", got.body.len());
            }
        }
    });
}

/// An answer of which the client takes the beginning and then no more.
async fn untaken(
    door: &Door,
    person: &Person,
    speaks: Speaks,
) -> (super::fixture::Http, http::Response<hyper::body::Incoming>) {
    let mut client = door.client("app", Some(person), speaks).await;
    let request = client.request(Method::GET, "/much").body(full("")).unwrap();
    let response = client.send(request).await.unwrap();
    assert_eq!(response.status(), 200);
    (client, response)
}

async fn until_open(door: &Door, wanted: usize, limit: Duration) -> Duration {
    let began = Instant::now();
    while door.raw.open.load(std::sync::atomic::Ordering::SeqCst) != wanted {
        let open = door.raw.open.load(std::sync::atomic::Ordering::SeqCst);
        assert!(began.elapsed() < limit, "{open} connections to the upstream are open after {limit:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    began.elapsed()
}

fn much() -> super::upstream::Reply {
    const LENGTH: usize = 64 << 20;
    let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {LENGTH}\r\n\r\n");
    super::upstream::Reply::Bytes([head.as_bytes(), &vec![b'x'; LENGTH]].concat())
}

#[test]
fn a28_what_its_client_does_not_take_is_cut_all_the_same() {
    with_door(Plan::default(), async |door| {
        door.raw.reply("/much", much());
        for speaks in BOTH {
            let alice = door.sign_in("alice").await;
            let (_client, response) = untaken(door, &alice, speaks).await;
            until_open(door, 1, Duration::from_secs(5)).await;
            // Long enough for every buffer between upstream and client to be full.
            tokio::time::sleep(Duration::from_millis(700)).await;
            door.revoke(&alice).await;
            until_open(door, 0, Duration::from_millis(1500)).await;
            let decision = response.headers()["doorward-decision"].to_str().unwrap().to_owned();
            assert_eq!(ended(door, &decision).await, "permit_ended", "{speaks:?}");
        }
    });
}

#[test]
fn a23_an_answer_that_is_not_taken_holds_its_upstream_for_some_seconds_only() {
    // What was read in one piece may take longer, at the least rate.
    let environment = vec![("DOORWARD__SERVER__LIMITS__BODY_RATE_MIN", "1000000".to_owned())];
    with_door(Plan { environment, ..Plan::default() }, async |door| {
        door.raw.reply("/much", much());
        let alice = door.sign_in("alice").await;
        let mut held = Vec::new();
        for speaks in BOTH {
            held.push(untaken(door, &alice, speaks).await);
        }
        until_open(door, 2, Duration::from_secs(5)).await;
        // HTTP/1 has its connection cut by the guard, a stream of HTTP/2 is given up.
        until_open(door, 0, Duration::from_secs(25)).await;
        let decision = held[1].1.headers()["doorward-decision"].to_str().unwrap().to_owned();
        assert_eq!(ended(door, &decision).await, "idle");
        // The connection lives, and so do its other streams.
        assert_eq!(held[1].0.get("/x").await.status, 200);
    });
}

#[test]
fn the_end_of_a_long_stream_is_found_by_the_time_of_its_end() {
    with_door(Plan::default(), async |door| {
        let alice = door.sign_in("alice").await;
        let mut client = door.client("app", Some(&alice), Speaks::Http2).await;
        let request = client.request(Method::GET, "/sse").body(full("")).unwrap();
        let response = client.send(request).await.unwrap();
        let decision = response.headers()["doorward-decision"].to_str().unwrap().to_owned();
        let mut body = response.into_body();
        assert!(body.frame().await.unwrap().is_ok());
        let desk = &door.running().desk;
        let began = desk.clock.now();
        door.clock.advance(Ttl::hours(2));
        drop((body, client));
        ended(door, &decision).await;
        door.settled().await;
        let from = Some(began.plus(Ttl::minutes(90)));
        let kind = Some(doorward::audit::EventType::ExchangeEnded);
        let filter = doorward::audit::filter::Filter { from, kind, ..Default::default() };
        let found = desk.store.event_search(&filter, None, 100).await.unwrap();
        assert!(found.iter().any(|event| event.text("/decision") == Some(&decision)), "{found:?}");
        let event = found.iter().find(|event| event.text("/decision") == Some(&decision)).unwrap();
        let bounds = desk.store.event_bounds(desk.store.own_log().unwrap(), from, None).await.unwrap().unwrap();
        let seq = u64::try_from(event.seq.unwrap()).unwrap();
        assert!((bounds.0..=bounds.1).contains(&seq), "{bounds:?}");
    });
}

/// Why an exchange ended.
async fn ended(door: &Door, decision: &str) -> String {
    let filter =
        doorward::store::EventFilter { kind: Some(doorward::audit::EventType::ExchangeEnded), ..Default::default() };
    for _ in 0..60 {
        let events = door.running().desk.store.event_list(&filter, 100).await.unwrap();
        if let Some(event) = events.iter().find(|event| event.text("/decision") == Some(decision)) {
            return event.text("/reason").unwrap_or("done").to_owned();
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("the end of {decision} is not on record");
}
