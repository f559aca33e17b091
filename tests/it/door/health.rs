//! Requests go to the upstreams that pass their checks.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use doorward::gateway::handshake::tls_time;
use doorward::gateway::probe::{ProbeError, handshake};
use doorward::gateway::snapshot::upstream_tls;
use doorward::model::{Clock, UpstreamHealth};
use http::Method;
use http_body_util::{BodyExt, Empty};
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;

use super::fixture::{Door, Plan, Speaks, full, service_toml, with_door};
use super::multiplexed::certified;
use super::upstream::{RawUpstream, Reply};

const HEALTH: &str =
    "[health]\npath = \"/healthz\"\ninterval = \"1s\"\nhealthy_threshold = 1\nunhealthy_threshold = 1\n";

async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    for _ in 0..400 {
        if holds() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(25)).await;
    }
    panic!("{what}: not within 10 s");
}

/// How many requests of callers each got.
fn counts(first: &RawUpstream, second: &RawUpstream) -> (usize, usize) {
    let of = |upstream: &RawUpstream| upstream.seen().iter().filter(|it| it.path() == "/ask").count();
    (of(first), of(second))
}

fn health(door: &Door, upstream: &RawUpstream) -> Option<UpstreamHealth> {
    let all = door.running().shared.directory.upstreams.list();
    all.iter().find(|it| it.1 == format!("http://{}", upstream.address)).map(|it| it.2)
}

async fn metrics(door: &Door) -> String {
    let address = door.running().telemetry.unwrap();
    let stream = tokio::net::TcpStream::connect(address).await.unwrap();
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    let request = http::Request::get("/metrics").header("host", address.to_string());
    let answer = sender.send_request(request.body(Empty::<Bytes>::new()).unwrap()).await.unwrap();
    String::from_utf8(answer.into_body().collect().await.unwrap().to_bytes().to_vec()).unwrap()
}

#[test]
fn an_upstream_that_fails_its_checks_gets_no_request_while_another_passes_and_all_do_when_none_does() {
    with_door(Plan::default(), async |door| {
        let (first, second) = (RawUpstream::open().await, RawUpstream::open().await);
        let status = |text: &str| Reply::Bytes(format!("HTTP/1.1 {text}\r\ncontent-length: 0\r\n\r\n").into_bytes());
        first.reply("/healthz", status("503 Service Unavailable"));
        second.reply("/healthz", status("200 OK"));
        let both = format!("\"http://{}\", \"http://{}\"", first.address, second.address);
        door.write("app/service.toml", &service_toml(&both, "", HEALTH));
        door.running().reload().unwrap();
        let (up, down) = (Some(UpstreamHealth::Healthy), Some(UpstreamHealth::Unhealthy));
        until("both are checked", || health(door, &first) == down && health(door, &second) == up).await;
        let alice = door.sign_in("alice").await;
        let mut client = door.client("app", Some(&alice), Speaks::Http1).await;
        for _ in 0..6 {
            assert_eq!(client.get("/ask").await.status, 200);
        }
        assert_eq!(counts(&first, &second), (0, 6));
        let shown = metrics(door).await;
        for (upstream, value) in [(&first, 0), (&second, 1)] {
            let line = format!(
                "doorward_upstream_healthy{{service=\"app\",upstream=\"http://{}\"}} {value}",
                upstream.address
            );
            assert!(shown.contains(&line), "{line} is not in\n{shown}");
        }
        let listed = door.get("", Some(&alice), Speaks::Http1, "/api/v1/services").await;
        let listed: serde_json::Value = serde_json::from_slice(&listed.body).unwrap();
        let app = listed["items"].as_array().unwrap().iter().find(|it| it["name"] == "app").unwrap().clone();
        assert_eq!(app["health"], serde_json::json!({ "state": "degraded", "healthy": 1, "upstreams": 2 }));
        // It mends, and the other breaks: requests follow.
        first.reply("/healthz", status("204 No Content"));
        second.reply("/healthz", status("500 Internal Server Error"));
        until("the checks say so", || health(door, &first) == up && health(door, &second) == down).await;
        for _ in 0..6 {
            assert_eq!(client.get("/ask").await.status, 200);
        }
        assert_eq!(counts(&first, &second), (6, 6));
        // None passes: all are used rather than none.
        first.reply("/healthz", status("500 Internal Server Error"));
        until("no upstream passes", || health(door, &first) == down && health(door, &second) == down).await;
        for _ in 0..4 {
            assert_eq!(client.get("/ask").await.status, 200);
        }
        let (of_first, of_second) = counts(&first, &second);
        assert_eq!(of_first + of_second, 16);
        for asked in first.seen().iter().filter(|it| it.path() == "/healthz") {
            assert!(asked.one("user-agent").unwrap().starts_with("doorward-health/"), "{}", asked.head);
            assert!(
                asked.one("authorization").is_none() && asked.one("doorward-assertion").is_none(),
                "{}",
                asked.head
            );
        }
        // Without `[health]` nothing is known of them any more, and both are asked again.
        door.write("app/service.toml", &service_toml(&both, "", ""));
        door.running().reload().unwrap();
        until("they are forgotten", || health(door, &first).is_none() && health(door, &second).is_none()).await;
        assert!(!metrics(door).await.contains("doorward_upstream_healthy{"));
    });
}

#[test]
fn upstreams_that_all_fail_their_checks_and_are_all_in_use_are_called_busy() {
    with_door(Plan::default(), async |door| {
        let (first, second) = (RawUpstream::open().await, RawUpstream::open().await);
        for upstream in [&first, &second] {
            let fails = b"HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\n\r\n".to_vec();
            upstream.reply("/healthz", Reply::Bytes(fails));
            let endless = b"HTTP/1.1 200 OK\r\ncontent-length: 1000000\r\n\r\nbegin".to_vec();
            upstream.reply("/long", Reply::Bytes(endless));
        }
        let both = format!("\"http://{}\", \"http://{}\"", first.address, second.address);
        let tables = format!("{HEALTH}[limits]\nconnections_per_upstream = 1");
        door.write("app/service.toml", &service_toml(&both, "", &tables));
        door.running().reload().unwrap();
        let down = Some(UpstreamHealth::Unhealthy);
        until("both are checked", || health(door, &first) == down && health(door, &second) == down).await;
        let alice = door.sign_in("alice").await;
        let mut held = Vec::new();
        for _ in 0..2 {
            let mut client = door.client("app", Some(&alice), Speaks::Http1).await;
            let request = client.request(Method::GET, "/long").body(full("")).unwrap();
            let answer = client.send(request).await.unwrap();
            assert_eq!(answer.status(), 200);
            held.push((client, answer));
        }
        let got = door.get("app", Some(&alice), Speaks::Http1, "/ask").await;
        assert_eq!((got.status.as_u16(), got.reason().as_str()), (503, "upstream_unavailable"), "{got:?}");
        assert!(got.text().contains("connections_per_upstream"), "{}", got.text());
    });
}

#[test]
fn a_check_speaks_as_requests_do_and_ends_in_time() {
    with_door(Plan::default(), async |door| {
        let stalled = RawUpstream::open().await;
        stalled.reply("/healthz", Reply::Stall);
        let both = format!("\"h2c://{}\", \"http://{}\"", door.h2c.address, stalled.address);
        door.write("app/service.toml", &service_toml(&both, "", &HEALTH.replace("/healthz", "/healthz?deep")));
        door.running().reload().unwrap();
        let state = |scheme: &str, address: std::net::SocketAddr| {
            let all = door.running().shared.directory.upstreams.list();
            all.iter().find(|it| it.1 == format!("{scheme}://{address}")).map(|it| it.2)
        };
        until("HTTP/2 is asked as HTTP/2", || state("h2c", door.h2c.address) == Some(UpstreamHealth::Healthy)).await;
        until("what stalls is given up", || state("http", stalled.address) == Some(UpstreamHealth::Unhealthy)).await;
    });
}

/// What `doorward doctor` does with each upstream that is reached by TLS.
#[test]
fn whether_the_certificate_of_an_upstream_holds_is_found_out_without_a_request() {
    with_door(Plan::default(), async |door| {
        let (pem, acceptor) = certified(&["http/1.1"]);
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let _ = acceptor.accept(stream).await;
            }
        });
        let ca = door.dir.join("upstream.crt");
        std::fs::write(&ca, pem).unwrap();
        let clock: Arc<dyn Clock> = Arc::new(door.clock.clone());
        for (tables, holds) in [(format!("[upstream_tls]\nca = \"{}\"", ca.display()), true), (String::new(), false)] {
            door.write("rpc/service.toml", &service_toml(&format!("\"https://{address}\""), "", &tables));
            door.running().reload().unwrap();
            let snapshot = door.running().shared.snapshot.load_full();
            let service = snapshot.policies.services().find(|service| service.name.as_str() == "rpc").unwrap();
            let tls = upstream_tls(service, tls_time(&clock)).unwrap();
            let told = handshake(service, &service.upstreams[0], &tls).await;
            assert_eq!(told.is_ok(), holds, "{told:?}");
            assert!(holds || matches!(&told, Err(ProbeError::Tls(why)) if why.contains("certificate")), "{told:?}");
        }
    });
}
