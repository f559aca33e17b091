//! Upstreams of HTTP/2, whose connections many requests share: nobody waits for another's end, nothing goes
//! on a connection that is gone, and what can be sent again is. Of those reached by TLS nobody knows at first
//! whether they are such.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

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

use super::fixture::{BOTH, Door, Got, Http, Person, Plan, Speaks, full, host, read, service_toml, with_door};

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
    /// It is reached by TLS, and speaks what is agreed on.
    tls: Option<TlsAcceptor>,
    /// How long it lets a connection wait before it says anything.
    late: Duration,
    /// Connections on which it says nothing at all, by number.
    mute: Range<usize>,
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
                if behaviour.mute.contains(&number) {
                    std::future::pending::<()>().await;
                }
                tokio::time::sleep(behaviour.late).await;
                match &behaviour.tls {
                    None if behaviour.goes_away && number == 0 => gone_away(stream).await,
                    None => serve(stream, number, behaviour.streams_max, seen).await,
                    Some(tls) => {
                        let Ok(stream) = tls.accept(stream).await else { return };
                        if stream.get_ref().1.alpn_protocol() == Some(b"h2".as_slice()) {
                            serve(stream, number, behaviour.streams_max, seen).await;
                        } else {
                            serve_http1(stream).await;
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

/// Answers over HTTP/1.1; what is at `/last` is the last on its connection. Where it is asked to it changes the
/// protocol and hangs up.
async fn serve_http1<S: AsyncRead + AsyncWrite + Unpin>(mut stream: S) {
    let key = loop {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let Ok(byte) = stream.read_u8().await else { return };
            head.push(byte);
        }
        let head = String::from_utf8(head).unwrap();
        if let Some(key) = head.lines().find_map(|line| line.strip_prefix("sec-websocket-key: ")) {
            break key.to_owned();
        }
        let is_last = head.starts_with("GET /last ");
        let fields = if is_last { "content-length: 2\r\nconnection: close" } else { "content-length: 2" };
        let answer = format!("HTTP/1.1 200 OK\r\n{fields}\r\n\r\nok");
        if stream.write_all(answer.as_bytes()).await.is_err() || is_last {
            let _ = stream.shutdown().await;
            return;
        }
    };
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
        assert_eq!(seen.count("/refused-always"), 9);
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

/// A certificate for 127.0.0.1, and what accepts connections with it to speak one of these.
pub fn certified(protocols: &[&str]) -> (String, TlsAcceptor) {
    let key = rcgen::KeyPair::generate().unwrap();
    let certificate = rcgen::CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap().self_signed(&key).unwrap();
    let der = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
    let chain = vec![certificate.der().clone()];
    let mut config = rustls::ServerConfig::builder().with_no_client_auth().with_single_cert(chain, der).unwrap();
    config.alpn_protocols = protocols.iter().map(|name| name.as_bytes().to_vec()).collect();
    (certificate.pem(), TlsAcceptor::from(Arc::new(config)))
}

/// Puts `rpc` before an upstream that is reached by TLS to speak one of these.
async fn put_before_tls(door: &Door, protocols: &[&str], behaviour: Behaviour, tables: &str) -> Seen {
    let (pem, tls) = certified(protocols);
    let ca = door.dir.join("upstream.crt");
    std::fs::write(&ca, pem).unwrap();
    let (address, seen) = upstream(Behaviour { tls: Some(tls), ..behaviour }).await;
    let tables = format!("{tables}\n[upstream_tls]\nca = \"{}\"", ca.display());
    put_before(door, &format!("https://{address}"), &tables);
    seen
}

/// So many requests at once.
async fn burst(door: &Door, person: &Person, count: usize) -> Vec<Got> {
    let asked = (0..count).map(|_| door.get("rpc", Some(person), Speaks::Http2, "/x"));
    futures_util::future::join_all(asked).await
}

/// A request whose client does not wait for its answer.
async fn given_up(client: &mut Http, after: Duration) {
    let request = client.request(Method::GET, "/x").body(full("")).unwrap();
    assert!(tokio::time::timeout(after, client.send(request)).await.is_err(), "it was answered");
}

fn is_unreachable(got: &Got) -> bool {
    got.status == 502 && got.text().contains("No upstream of the service could be reached")
}

#[test]
fn requests_that_come_before_it_is_known_what_an_upstream_speaks_wait_for_the_first_to_learn_it() {
    with_door(Plan::default(), async |door| {
        let alice = door.sign_in("alice").await;
        let late = Duration::from_secs(1);
        // How many connections there may be, and how many are made at most for twenty requests that share them.
        for (limit, most) in [(1, 1), (2, 2), (1000, 4)] {
            let tables = format!("[limits]\nconnections_per_upstream = {limit}");
            let behaviour = Behaviour { late, ..Behaviour::default() };
            let seen = put_before_tls(door, &["h2", "http/1.1"], behaviour, &tables).await;
            let got = burst(door, &alice, 20).await;
            assert!(got.iter().all(|got| got.status == 200), "{limit}: {got:?}");
            assert!(seen.connections() <= most, "{limit}: {}", seen.connections());
        }
        // Of HTTP/1.1 each has one for itself, as many as there may be.
        let behaviour = Behaviour { late, ..Behaviour::default() };
        put_before_tls(door, &["http/1.1"], behaviour, "").await;
        let got = burst(door, &alice, 20).await;
        assert!(got.iter().all(|got| got.status == 200), "{got:?}");
        let behaviour = Behaviour { late, ..Behaviour::default() };
        put_before_tls(door, &["http/1.1"], behaviour, "[limits]\nconnections_per_upstream = 1").await;
        let got = burst(door, &alice, 20).await;
        let (served, refused): (Vec<Got>, Vec<Got>) = got.into_iter().partition(|got| got.status == 200);
        assert!(!served.is_empty(), "{refused:?}");
        for got in refused {
            assert_eq!((got.status.as_u16(), got.reason().as_str()), (503, "upstream_unavailable"));
            assert!(got.text().contains("connections_per_upstream"), "{}", got.text());
        }
    });
}

#[test]
fn where_http2_is_known_to_be_spoken_what_others_are_opening_is_waited_for() {
    with_door(Plan::default(), async |door| {
        let alice = door.sign_in("alice").await;
        for limit in [1, 2] {
            let behaviour = Behaviour { late: Duration::from_millis(700), ..Behaviour::default() };
            let (address, seen) = upstream(behaviour).await;
            put_before(door, &format!("h2c://{address}"), &format!("[limits]\nconnections_per_upstream = {limit}"));
            let got = burst(door, &alice, 20).await;
            assert!(got.iter().all(|got| got.status == 200), "{limit}: {got:?}");
            assert!(seen.connections() <= limit, "{limit}: {}", seen.connections());
        }
    });
}

#[test]
fn who_waits_for_a_connection_that_is_given_up_goes_on_without_it() {
    with_door(Plan::default(), async |door| {
        let alice = door.sign_in("alice").await;
        let tables = "[limits]\nconnections_per_upstream = 1\n[timeouts]\nconnect = \"20s\"";
        let behaviour = Behaviour { mute: 0..1, ..Behaviour::default() };
        let seen = put_before_tls(door, &["h2", "http/1.1"], behaviour, tables).await;
        let mut leader = door.client("rpc", Some(&alice), Speaks::Http2).await;
        let began = Instant::now();
        let others = async {
            while seen.connections() == 0 {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            burst(door, &alice, 8).await
        };
        let ((), got) = tokio::join!(given_up(&mut leader, Duration::from_secs(2)), others);
        assert!(got.iter().all(|got| got.status == 200), "{got:?}");
        assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
        assert_eq!(seen.connections(), 2);
    });
}

#[test]
fn an_upstream_that_takes_no_connection_is_never_called_busy() {
    with_door(Plan::default(), async |door| {
        let alice = door.sign_in("alice").await;
        let tables = "[limits]\nconnections_per_upstream = 1\n[timeouts]\nconnect = \"1s\"";
        let both: &[&str] = &["h2", "http/1.1"];
        // Before it is known what it speaks; all are told within the time of one try or two.
        put_before_tls(door, both, Behaviour { mute: 0..usize::MAX, ..Behaviour::default() }, tables).await;
        let began = Instant::now();
        let got = burst(door, &alice, 8).await;
        assert!(got.iter().all(is_unreachable), "{got:?}");
        assert!(began.elapsed() < Duration::from_secs(6), "{:?}", began.elapsed());
        // HTTP/1.1, as is known: one request tries again, and has the only place while it does.
        let behaviour = Behaviour { mute: 1..usize::MAX, ..Behaviour::default() };
        let seen = put_before_tls(door, &["http/1.1"], behaviour, tables).await;
        assert_eq!(door.get("rpc", Some(&alice), Speaks::Http1, "/last").await.status, 200);
        for _ in 0..100 {
            let got = door.get("rpc", Some(&alice), Speaks::Http1, "/x").await;
            if is_unreachable(&got) {
                break;
            }
            // The connection that was told to be the last may not be gone yet.
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        assert_eq!(seen.connections(), 2);
        tokio::time::sleep(Duration::from_millis(400)).await;
        let got = burst(door, &alice, 8).await;
        assert!(got.iter().all(is_unreachable), "{got:?}");
        assert!(seen.connections() > 2);
    });
}

#[test]
fn a_try_at_an_upstream_that_rests_which_is_given_up_keeps_nobody_from_the_next() {
    with_door(Plan::default(), async |door| {
        let alice = door.sign_in("alice").await;
        let behaviour = Behaviour { mute: 0..2, ..Behaviour::default() };
        let seen = put_before_tls(door, &["h2", "http/1.1"], behaviour, "[timeouts]\nconnect = \"4s\"").await;
        assert!(is_unreachable(&door.get("rpc", Some(&alice), Speaks::Http1, "/x").await));
        tokio::time::sleep(Duration::from_millis(400)).await;
        given_up(&mut door.client("rpc", Some(&alice), Speaks::Http2).await, Duration::from_millis(500)).await;
        assert_eq!(seen.connections(), 2);
        let since = Instant::now();
        while door.get("rpc", Some(&alice), Speaks::Http1, "/x").await.status != 200 {
            assert!(since.elapsed() < Duration::from_secs(2), "nobody tries what another one gave up");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    });
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
        let seen = put_before_tls(door, &["h2", "http/1.1"], Behaviour::default(), "").await;
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

        let is_told = |got: &str| got.starts_with("HTTP/1.1 501 ") && got.contains("upstream_unavailable");
        let (address, seen) = upstream(Behaviour::default()).await;
        put_before(door, &format!("h2c://{address}"), "");
        let got = door.bytes("rpc", Some(&alice), handshake.as_bytes()).await;
        assert!(is_told(&got), "{got}");
        assert_eq!(seen.connections(), 0);
        assert_eq!(door.get("rpc", Some(&alice), Speaks::Http1, "/x").await.status, 200);
        assert!(seen.requests.lock().unwrap().iter().all(|(_, url)| url.starts_with("http://")));

        // By TLS it says so itself, before anything is known of it and after: all else goes on as it did.
        let seen = put_before_tls(door, &["h2"], Behaviour::default(), "").await;
        for _ in 0..2 {
            let got = door.bytes("rpc", Some(&alice), handshake.as_bytes()).await;
            assert!(is_told(&got) && got.contains("ALPN"), "{got}");
            assert_eq!(door.get("rpc", Some(&alice), Speaks::Http1, "/x").await.status, 200);
        }
        assert_eq!(seen.count("/x"), 2);
        // One of those that speak HTTP/1.1 may be back soon.
        let gone = TcpListener::bind(("127.0.0.1", 0)).await.unwrap().local_addr().unwrap();
        let file = std::fs::read_to_string(door.dir.join("policies/rpc/service.toml")).unwrap();
        door.write("rpc/service.toml", &file.replace("upstreams = [", &format!("upstreams = [\"https://{gone}\", ")));
        door.running().reload().unwrap();
        let got = door.bytes("rpc", Some(&alice), handshake.as_bytes()).await;
        assert!(got.starts_with("HTTP/1.1 502 ") && got.contains("could be reached"), "{got}");
    });
}

#[test]
fn each_upstream_of_a_service_is_offered_what_it_speaks() {
    with_door(Plan::default(), async |door| {
        let alice = door.sign_in("alice").await;
        put_before_tls(door, &["http/1.1"], Behaviour::default(), "").await;
        let gone = TcpListener::bind(("127.0.0.1", 0)).await.unwrap().local_addr().unwrap();
        let file = std::fs::read_to_string(door.dir.join("policies/rpc/service.toml")).unwrap();
        door.write("rpc/service.toml", &file.replace("upstreams = [", &format!("upstreams = [\"h2://{gone}\", ")));
        door.running().reload().unwrap();
        assert_eq!(door.get("rpc", Some(&alice), Speaks::Http1, "/x").await.status, 200);
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
