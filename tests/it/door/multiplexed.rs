//! Upstreams of HTTP/2, whose connections many requests share: nobody waits for another's end, nothing goes
//! on a connection that is gone, and what can be sent again is.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt;
use h2::Reason;
use h2::server::SendResponse;
use http::{HeaderMap, Method, Request, Response};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Frame;
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

use super::fixture::{BOTH, Door, Plan, Speaks, full, host, read, service_toml, with_door};

/// What an upstream saw: how many connections, and of each request its url with the connection's number.
#[derive(Clone, Default)]
struct Seen {
    connections: Arc<AtomicUsize>,
    requests: Arc<Mutex<Vec<(usize, String)>>>,
}

impl Seen {
    fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }

    fn count(&self, path: &str) -> usize {
        self.requests.lock().unwrap().iter().filter(|(_, url)| url.ends_with(path)).count()
    }
}

/// How an upstream is to be.
#[derive(Clone, Default)]
struct Behaviour {
    /// Streams that it takes on one connection at a time.
    streams_max: Option<u32>,
    /// It is reached by TLS, and speaks HTTP/1.1 too.
    tls: Option<TlsAcceptor>,
    /// Its first connection goes away at the first request, which it has not begun with.
    goes_away: bool,
}

async fn upstream(behaviour: Behaviour) -> (SocketAddr, Seen) {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let (address, seen) = (listener.local_addr().unwrap(), Seen::default());
    let kept = seen.clone();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let (seen, behaviour) = (kept.clone(), behaviour.clone());
            let number = seen.connections.fetch_add(1, Ordering::SeqCst);
            tokio::spawn(async move {
                match &behaviour.tls {
                    None if behaviour.goes_away && number == 0 => gone_away(stream).await,
                    None => serve(stream, number, behaviour.streams_max, seen).await,
                    Some(tls) => {
                        let Ok(stream) = tls.accept(stream).await else { return };
                        if stream.get_ref().1.alpn_protocol() == Some(b"h2".as_slice()) {
                            serve(stream, number, behaviour.streams_max, seen).await;
                        } else {
                            upgraded(stream).await;
                        }
                    }
                }
            });
        }
    });
    (address, seen)
}

async fn serve<S: AsyncRead + AsyncWrite + Unpin>(stream: S, number: usize, streams_max: Option<u32>, seen: Seen) {
    let mut builder = h2::server::Builder::new();
    if let Some(most) = streams_max {
        builder.max_concurrent_streams(most);
    }
    let Ok(mut connection) = builder.handshake::<_, Bytes>(stream).await else { return };
    while let Some(Ok((request, respond))) = connection.accept().await {
        let url = request.uri().to_string();
        seen.requests.lock().unwrap().push((number, url));
        if request.uri().path() == "/mute" {
            // The system goes on to acknowledge what comes.
            std::future::pending::<()>().await;
        }
        let again = seen.count(request.uri().path()) > 1;
        tokio::spawn(answer(request, respond, again));
    }
}

async fn answer(request: Request<h2::RecvStream>, mut respond: SendResponse<Bytes>, again: bool) {
    let head = || Response::new(());
    let path = request.uri().path().to_owned();
    match path.as_str() {
        "/much" => {
            let mut body = respond.send_response(head(), false).unwrap();
            body.send_data(Bytes::from(vec![b'x'; 16 << 20]), true).unwrap();
            let _ = std::future::poll_fn(|context| body.poll_reset(context)).await;
        }
        "/held" => {
            let mut body = respond.send_response(head(), false).unwrap();
            let _ = std::future::poll_fn(|context| body.poll_reset(context)).await;
        }
        "/talk" => {
            let mut body = respond.send_response(head(), false).unwrap();
            tokio::time::sleep(Duration::from_millis(2500)).await;
            let _ = body.send_data(Bytes::from_static(b"the last word"), false);
            let mut trailers = HeaderMap::new();
            trailers.insert("grpc-status", "0".parse().unwrap());
            let _ = body.send_trailers(trailers);
            // Gone sooner, it would be reset.
            tokio::time::sleep(Duration::from_millis(500)).await;
            drop(request);
        }
        "/refused" if !again => respond.send_reset(Reason::REFUSED_STREAM),
        "/refused-always" => respond.send_reset(Reason::REFUSED_STREAM),
        "/broken" => respond.send_reset(Reason::INTERNAL_ERROR),
        _ => {
            let mut body = respond.send_response(head(), false).unwrap();
            let _ = body.send_data(Bytes::from_static(b"ok"), true);
        }
    }
}

/// Reads up to the first request and says that it has begun with none (RFC 9113 §6.8).
async fn gone_away<S: AsyncRead + AsyncWrite + Unpin>(mut stream: S) {
    const HEADERS: u8 = 1;
    let mut preface = [0; 24];
    stream.read_exact(&mut preface).await.unwrap();
    stream.write_all(&[0, 0, 0, 4, 0, 0, 0, 0, 0]).await.unwrap();
    loop {
        let mut header = [0; 9];
        stream.read_exact(&mut header).await.unwrap();
        let length = usize::from(header[0]) << 16 | usize::from(header[1]) << 8 | usize::from(header[2]);
        stream.read_exact(&mut vec![0; length]).await.unwrap();
        if header[3] == HEADERS {
            break;
        }
    }
    stream.write_all(&[0, 0, 8, 7, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]).await.unwrap();
    let _ = stream.read(&mut [0; 64]).await;
}

/// Changes the protocol as it is asked to and hangs up.
async fn upgraded<S: AsyncRead + AsyncWrite + Unpin>(mut stream: S) {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let Ok(byte) = stream.read_u8().await else { return };
        head.push(byte);
    }
    let head = String::from_utf8(head).unwrap();
    let key = head.lines().find_map(|line| line.strip_prefix("sec-websocket-key: ")).unwrap_or_default();
    let accept = derive_accept_key(key.as_bytes());
    let answer = format!(
        "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\nsec-websocket-accept: {accept}\r\n\r\nhello"
    );
    stream.write_all(answer.as_bytes()).await.unwrap();
    let _ = stream.shutdown().await;
}

/// Puts `rpc` before this upstream.
fn put_before(door: &Door, upstream: &str, tables: &str) {
    door.write("rpc/service.toml", &service_toml(&format!("\"{upstream}\""), "", tables));
    door.running().reload().unwrap();
}

#[test]
fn an_answer_that_its_client_does_not_take_stops_no_other_on_its_connection() {
    with_door(Plan::default(), async |door| {
        let alice = door.sign_in("alice").await;
        let (address, seen) = upstream(Behaviour::default()).await;
        put_before(door, &format!("h2c://{address}"), "");
        for speaks in BOTH {
            let mut slow = door.client("rpc", Some(&alice), speaks).await;
            let request = slow.request(Method::GET, "/much").body(full("")).unwrap();
            let untaken = slow.send(request).await.unwrap();
            // Long enough for every buffer between upstream and client to be full.
            tokio::time::sleep(Duration::from_millis(700)).await;
            let others = futures_util::stream::iter(0..12)
                .map(|_| door.get("rpc", Some(&alice), Speaks::Http2, "/x"))
                .buffer_unordered(12)
                .collect::<Vec<_>>();
            let others = tokio::time::timeout(Duration::from_secs(8), others).await.expect("others were stopped");
            assert!(others.iter().all(|got| got.status == 200 && got.body == "ok"), "{others:?}");
            drop(untaken);
        }
        assert_eq!(seen.connections(), 1);
    });
}

#[test]
fn a_connection_that_says_nothing_any_more_gets_no_new_requests() {
    with_door(Plan::default(), async |door| {
        let alice = door.sign_in("alice").await;
        let (address, seen) = upstream(Behaviour::default()).await;
        put_before(door, &format!("h2c://{address}"), "[timeouts]\nfirst_byte = \"1s\"");
        let mut client = door.client("rpc", Some(&alice), Speaks::Http2).await;
        assert_eq!(client.get("/x").await.status, 200);
        let got = client.get("/mute").await;
        assert_eq!((got.status.as_u16(), got.reason().as_str()), (504, "upstream_unavailable"));
        for _ in 0..3 {
            assert_eq!(client.get("/x").await.status, 200);
        }
        assert_eq!(seen.connections(), 2);
    });
}

#[test]
fn an_upstream_gets_no_more_streams_on_a_connection_than_it_takes() {
    with_door(Plan::default(), async |door| {
        let alice = door.sign_in("alice").await;
        let (address, seen) = upstream(Behaviour { streams_max: Some(4), ..Behaviour::default() }).await;
        put_before(door, &format!("h2c://{address}"), "");
        let mut client = door.client("rpc", Some(&alice), Speaks::Http2).await;
        let mut held = Vec::new();
        for _ in 0..20 {
            let request = client.request(Method::GET, "/held").body(full("")).unwrap();
            let sent = tokio::time::timeout(Duration::from_secs(5), client.send(request));
            let response = sent.await.expect("an answer").unwrap();
            assert_eq!(response.status(), 200);
            held.push(response);
        }
        assert_eq!(seen.connections(), 5);
        // Many at once, with nothing open yet.
        let (address, _) = upstream(Behaviour { streams_max: Some(4), ..Behaviour::default() }).await;
        put_before(door, &format!("h2c://{address}"), "");
        let many = futures_util::stream::iter(0..20)
            .map(|_| door.get("rpc", Some(&alice), Speaks::Http2, "/x"))
            .buffer_unordered(20)
            .collect::<Vec<_>>();
        assert!(many.await.iter().all(|got| got.status == 200));
    });
}

#[test]
fn where_no_connection_has_room_and_none_may_be_opened_nothing_is_sent_and_it_says_so() {
    with_door(Plan::default(), async |door| {
        let alice = door.sign_in("alice").await;
        let (address, seen) = upstream(Behaviour { streams_max: Some(4), ..Behaviour::default() }).await;
        put_before(door, &format!("h2c://{address}"), "[limits]\nconnections_per_upstream = 2");
        let mut client = door.client("rpc", Some(&alice), Speaks::Http2).await;
        let mut held = Vec::new();
        for _ in 0..8 {
            let request = client.request(Method::GET, "/held").body(full("")).unwrap();
            held.push(client.send(request).await.unwrap());
        }
        let got = client.get("/x").await;
        assert_eq!((got.status.as_u16(), got.reason().as_str()), (503, "upstream_unavailable"));
        assert!(got.text().contains("connections_per_upstream") && !got.text().contains("not known"), "{}", got.text());
        assert_eq!((seen.connections(), seen.count("/x")), (2, 0));
        held.pop();
        for _ in 0..100 {
            if client.get("/x").await.status == 200 {
                return;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!("the place of a stream was never given back");
    });
}

#[test]
fn what_an_upstream_did_nothing_of_goes_another_way_and_is_never_called_unknown() {
    with_door(Plan::default(), async |door| {
        let alice = door.sign_in("alice").await;
        let (address, seen) = upstream(Behaviour::default()).await;
        put_before(door, &format!("h2c://{address}"), "");
        let mut client = door.client("rpc", Some(&alice), Speaks::Http2).await;
        assert_eq!(client.get("/refused").await.status, 200);
        assert_eq!(seen.count("/refused"), 2);
        // A body is gone once it was sent, and tries have an end.
        let with_body = client.ask(Method::POST, "/refused-always", &[], b"a body").await;
        assert_eq!(seen.count("/refused-always"), 1);
        let without = client.get("/refused-always").await;
        assert_eq!(seen.count("/refused-always"), 4);
        for got in [with_body, without] {
            assert_eq!((got.status.as_u16(), got.reason().as_str()), (503, "upstream_unavailable"));
            assert_eq!(got.problem()["remedy"]["kind"], "retry");
            assert!(got.text().contains("Nothing was done"), "{}", got.text());
            assert_eq!(got.headers["retry-after"], "2");
        }
        // What it may have begun with is not sent again.
        let got = client.get("/broken").await;
        assert_eq!((got.status.as_u16(), seen.count("/broken")), (502, 1));
        assert!(got.text().contains("not known"), "{}", got.text());

        let (address, seen) = upstream(Behaviour { goes_away: true, ..Behaviour::default() }).await;
        put_before(door, &format!("h2c://{address}"), "");
        assert_eq!(client.get("/x").await.status, 200);
        assert_eq!((seen.connections(), seen.count("/x")), (2, 1));
    });
}

/// A certificate for 127.0.0.1, and what accepts connections with it.
fn certified() -> (String, TlsAcceptor) {
    let key = rcgen::KeyPair::generate().unwrap();
    let certificate = rcgen::CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap().self_signed(&key).unwrap();
    let der = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
    let chain = vec![certificate.der().clone()];
    let mut config = rustls::ServerConfig::builder().with_no_client_auth().with_single_cert(chain, der).unwrap();
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    (certificate.pem(), TlsAcceptor::from(Arc::new(config)))
}

#[test]
fn an_upgrade_goes_over_http1_and_all_else_over_http2_with_its_own_scheme() {
    with_door(Plan::default(), async |door| {
        let alice = door.sign_in("alice").await;
        let handshake = format!(
            "GET /ws HTTP/1.1\r\nHost: {}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
             Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
            host("rpc")
        );
        let (pem, tls) = certified();
        let ca = door.dir.join("upstream.crt");
        std::fs::write(&ca, pem).unwrap();
        let (address, seen) = upstream(Behaviour { tls: Some(tls), ..Behaviour::default() }).await;
        put_before(door, &format!("https://{address}"), &format!("[upstream_tls]\nca = \"{}\"", ca.display()));
        // Before anything is known of it, with a connection of HTTP/2 open, and after an upgrade.
        for _ in 0..2 {
            let got = door.bytes("rpc", Some(&alice), handshake.as_bytes()).await;
            assert!(got.starts_with("HTTP/1.1 101 ") && got.ends_with("hello"), "{got}");
            assert_eq!(door.get("rpc", Some(&alice), Speaks::Http1, "/x").await.status, 200);
        }
        let requests = seen.requests.lock().unwrap().clone();
        let connections: BTreeSet<usize> = requests.iter().map(|(number, _)| *number).collect();
        assert!(requests.len() == 2 && connections.len() == 1, "{requests:?}");
        assert!(requests.iter().all(|(_, url)| url.starts_with("https://")), "{requests:?}");

        let (address, seen) = upstream(Behaviour::default()).await;
        put_before(door, &format!("h2c://{address}"), "");
        let got = door.bytes("rpc", Some(&alice), handshake.as_bytes()).await;
        assert!(got.starts_with("HTTP/1.1 501 ") && got.contains("upstream_unavailable"), "{got}");
        assert_eq!(seen.connections(), 0);
        assert_eq!(door.get("rpc", Some(&alice), Speaks::Http1, "/x").await.status, 200);
        assert!(seen.requests.lock().unwrap().iter().all(|(_, url)| url.starts_with("http://")));
    });
}

#[test]
fn a_call_whose_client_has_said_all_goes_on_until_its_upstream_has() {
    with_door(Plan::default(), async |door| {
        let alice = door.sign_in("alice").await;
        let (address, _) = upstream(Behaviour::default()).await;
        put_before(door, &format!("h2c://{address}"), "[timeouts]\nbody_idle = \"1s\"");
        let mut client = door.client("rpc", Some(&alice), Speaks::Http2).await;
        let first = futures_util::stream::iter([Ok(Frame::data(Bytes::from_static(b"\0\0\0\0\x02hi")))]);
        let body = StreamBody::new(first.chain(futures_util::stream::pending())).boxed_unsync();
        let request = client.request(Method::POST, "/talk").header("content-type", "application/grpc");
        let response = client.send(request.body(body).unwrap()).await.unwrap();
        let got = tokio::time::timeout(Duration::from_secs(10), read(response)).await.unwrap();
        assert_eq!((got.status.as_u16(), got.text().as_str()), (200, "the last word"));
        assert_eq!(got.trailers.unwrap()["grpc-status"], "0");
    });
}
