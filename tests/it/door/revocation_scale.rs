//! How long it takes until what is open under a session that is ended is cut (fault F15): on the node
//! where it is ended, and on another over PostgreSQL. A few sessions by default; `tests/bench/revocation`
//! makes it many and prints what it takes.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use doorward::audit::Actor;
use doorward::config;
use doorward::control::session::{self, NewSession};
use doorward::control::{ConnectionFacts, Desk};
use doorward::model::{Principal, SessionEnd, SessionKind};
use doorward::server::ambient::{SystemClock, SystemEntropy};
use doorward::server::run::{Running, Start, start};
use futures_util::StreamExt;
use http::Method;
use http_body_util::BodyExt;
use rcgen::KeyPair;
use tokio::task::JoinSet;

use super::fixture::{Door, Http, Person, Plan, Speaks, full, host, with_door};
use super::upstream::Reply;

/// The aims: on the node, and on another.
const HERE: Duration = Duration::from_secs(1);
const THERE: Duration = Duration::from_secs(5);

fn sessions() -> usize {
    std::env::var("DOORWARD_BENCH_SESSIONS").ok().and_then(|text| text.parse().ok()).unwrap_or(30)
}

/// A session of its own principal with a certificate, as a sign-in makes it.
async fn person(desk: &Desk, number: usize) -> Person {
    let key = KeyPair::generate().unwrap();
    let now = desk.clock.now();
    let principal = Principal::user("dev", &format!("person-{number}")).unwrap();
    let new = NewSession {
        groups: vec!["engineering".to_owned()],
        ..crate::support::new_session(SessionKind::Cli, principal.clone(), now)
    };
    let facts = ConnectionFacts { address: IpAddr::V4(Ipv4Addr::LOCALHOST), certificate: None };
    let csr = crate::api_house::csr(&key);
    let started = session::start(desk, new, Some(csr.as_bytes()), &facts, now).await.unwrap();
    Person {
        key_pem: key.serialize_pem(),
        certificate_pem: started.certificate.as_ref().unwrap().pem.clone(),
        session: started.stored.session.id,
        principal,
    }
}

/// Something that is open under a session.
enum Open {
    Stream(Http, hyper::body::Incoming),
    Socket(Box<tokio_tungstenite::WebSocketStream<tokio_rustls::client::TlsStream<tokio::net::TcpStream>>>),
}

impl Open {
    /// One of three kinds, at the node that listens at `port`.
    async fn at(door: &Door, port: u16, person: &Person, number: usize) -> Self {
        let name = host("app");
        let connect = async |speaks: Speaks| {
            let mut tls = door.tls(Some(person));
            tls.alpn_protocols = vec![if speaks == Speaks::Http2 { b"h2".to_vec() } else { b"http/1.1".to_vec() }];
            let stream = tokio::net::TcpStream::connect(("127.0.0.1", port)).await.unwrap();
            let server = rustls::pki_types::ServerName::try_from(name.clone()).unwrap();
            tokio_rustls::TlsConnector::from(Arc::new(tls)).connect(server, stream).await.unwrap()
        };
        if number % 3 == 2 {
            let stream = connect(Speaks::Http1).await;
            let (socket, _) = tokio_tungstenite::client_async(format!("wss://{name}:{port}/ws"), stream).await.unwrap();
            return Self::Socket(Box::new(socket));
        }
        let speaks = if number.is_multiple_of(3) { Speaks::Http1 } else { Speaks::Http2 };
        let mut client = Http::over(connect(speaks).await, speaks, name, port).await;
        let request = client.request(Method::GET, "/long").body(full("")).unwrap();
        let answer = client.send(request).await.unwrap();
        assert_eq!(answer.status(), 200);
        let mut body = answer.into_body();
        assert!(body.frame().await.unwrap().is_ok());
        Self::Stream(client, body)
    }

    /// Waits until it is cut.
    async fn cut(self) -> Instant {
        match self {
            Self::Stream(_client, mut body) => while let Some(Ok(_)) = body.frame().await {},
            Self::Socket(mut socket) => while let Some(Ok(_)) = socket.next().await {},
        }
        Instant::now()
    }
}

/// Opens something under each of `count` sessions at `port`, ends the sessions one after the other at
/// `desk`, and gives how long each took until its stream was cut, sorted.
async fn cut_times(door: &Door, desk: &Desk, port: u16, count: usize, offset: usize) -> Vec<Duration> {
    let mut open = Vec::new();
    for number in 0..count {
        let person = person(&door.running().desk, offset + number).await;
        open.push((person.session, Open::at(door, port, &person, number).await));
    }
    let mut waiting = JoinSet::new();
    let mut ids = Vec::new();
    for (id, one) in open {
        ids.push(id);
        waiting.spawn(async move { (id, one.cut().await) });
    }
    let mut ended = BTreeMap::new();
    for id in ids {
        let begun = Instant::now();
        let now = desk.clock.now();
        session::end(desk, id, SessionEnd::Revoked, &Actor::default(), Some("test"), now).await.unwrap().unwrap();
        ended.insert(id, begun);
    }
    let mut times = Vec::new();
    let all = async {
        while let Some(done) = waiting.join_next().await {
            let (id, at) = done.unwrap();
            times.push(at.saturating_duration_since(ended[&id]));
        }
    };
    tokio::time::timeout(Duration::from_secs(30), all).await.expect("a stream outlived its session");
    times.sort_unstable();
    times
}

fn told(what: &str, times: &[Duration], aim: Duration) {
    let at = |share: usize| times[(times.len() * share / 100).min(times.len() - 1)];
    println!(
        "revocation {what}: {} sessions, p50 {:.1} ms, p99 {:.1} ms, longest {:.1} ms (aim {} ms)",
        times.len(),
        at(50).as_secs_f64() * 1e3,
        at(99).as_secs_f64() * 1e3,
        at(100).as_secs_f64() * 1e3,
        aim.as_millis()
    );
    assert!(at(99) <= aim, "{what}: p99 {:?}", at(99));
}

/// Another node of the installation: the same files but its own identity, on ports of its own.
fn another(door: &Door, folder: &Path) -> Running {
    crate::support::copy_folder(&door.dir, folder);
    for own in std::fs::read_dir(folder).unwrap().flatten() {
        let name = own.file_name().to_string_lossy().into_owned();
        if name == "node.id" || name.contains(".spool") || name.starts_with("doorward.db") {
            std::fs::remove_file(own.path()).unwrap();
        }
    }
    let variables = [
        ("DOORWARD__SERVER__THREADS", "1".to_owned()),
        ("DOORWARD__SERVER__DRAIN", "0s".to_owned()),
        ("DOORWARD__SERVER__LISTEN", "127.0.0.1:0".to_owned()),
        ("DOORWARD__TELEMETRY__LISTEN", "127.0.0.1:0".to_owned()),
        ("DOORWARD__AUDIT__REQUESTS", "buffered".to_owned()),
    ];
    let environment: config::Environment =
        variables.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
    let config = config::load(&folder.join("doorward.toml"), &environment).unwrap_or_else(|problems| {
        panic!("{}", problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))
    });
    let (clock, entropy) = (Arc::new(SystemClock), Arc::new(SystemEntropy));
    start(Start { config, environment, listener: None, clock, entropy }).unwrap_or_else(|error| panic!("{error}"))
}

#[test]
fn f15_what_is_open_is_cut_within_a_second_on_the_node_and_within_five_on_another() {
    let database = crate::postgres::fresh_database();
    let two_nodes = database.is_some();
    let plan =
        Plan { database, environment: vec![("DOORWARD__AUDIT__REQUESTS", "buffered".to_owned())], ..Plan::default() };
    with_door(plan, async |door| {
        let count = sessions();
        let endless = b"HTTP/1.1 200 OK\r\ncontent-length: 1000000\r\n\r\nbegin".to_vec();
        door.raw.reply("/long", Reply::Bytes(endless));
        let desk = Arc::clone(&door.running().desk);
        let here = cut_times(door, &desk, door.address.port(), count, 0).await;
        told("on the node", &here, HERE);
        if !two_nodes {
            println!("note: another node needs PostgreSQL");
            return;
        }
        let folder = crate::support::temporary_folder();
        let (dir, from) = (folder.path().join("other"), &door);
        let other = tokio::task::block_in_place(|| another(from, &dir));
        let port = other.address.port();
        let there = cut_times(door, &desk, port, count, count).await;
        told("on another node", &there, THERE);
        // What the node itself says of how late it heard.
        let mut metrics = String::new();
        let telemetry = other.telemetry.unwrap();
        {
            use tokio::io::{AsyncReadExt, AsyncWriteExt};
            let mut stream = tokio::net::TcpStream::connect(telemetry).await.unwrap();
            let request = format!("GET /metrics HTTP/1.1\r\nHost: {telemetry}\r\nConnection: close\r\n\r\n");
            stream.write_all(request.as_bytes()).await.unwrap();
            stream.read_to_string(&mut metrics).await.unwrap();
        }
        assert!(metrics.contains("doorward_revocation_delay_seconds_count"), "{metrics}");
        tokio::task::block_in_place(|| other.stop());
    });
}
