//! The loopback proxy: who may use it, where it leads, and what passes through.

use std::collections::BTreeSet;
use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;

use arc_swap::ArcSwap;
use bytes::Bytes;
use data_encoding::BASE64;
use doorward::cli::args::ProxyArgs;
use doorward::cli::dial::{Identity, tls_settings};
use doorward::cli::origin::Origin;
use doorward::cli::proxy::{self, Admission, Denial, Door, Onward};
use doorward::cli::renewal::signing_request;
use doorward::model::{Secret, SessionId, Ttl};
use http::{Request, Response};
use http_body_util::Full;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::fake_door::{FakeDoor, json_reply, present};
use crate::support::SeededEntropy;

const SECRET: &str = "a-secret-of-this-run";
const HOST: &str = "ops-api.doorward.localhost";

fn basic(user: &str, password: &str) -> String {
    format!("Basic {}", BASE64.encode(format!("{user}:{password}").as_bytes()))
}

fn by_secret() -> Admission {
    Admission::by_secret(8443, Secret::new(SECRET.to_owned()))
}

/// A request as a client of a proxy sends it, with the right secret.
fn asked(uri: &str) -> http::request::Builder {
    Request::builder().uri(uri).header("proxy-authorization", basic("doorward", SECRET))
}

#[test]
fn a72_without_the_secret_nobody_is_admitted() {
    let uri = format!("http://{HOST}/status");
    let with = |value: &str| Request::builder().uri(&uri).header("proxy-authorization", value).body(()).unwrap();
    let without = Request::builder().uri(&uri).body(()).unwrap();
    assert_eq!(by_secret().admit(&without), Err(Denial::Secret));
    for wrong in [
        basic("doorward", ""),
        basic("doorward", "guess"),
        basic("doorward", &SECRET[..SECRET.len() - 1]),
        basic("doorward", &format!("{SECRET}x")),
        basic("other", SECRET),
        basic("", SECRET),
        format!("Bearer {SECRET}"),
        SECRET.to_owned(),
        "Basic".to_owned(),
        "Basic !!!".to_owned(),
        String::new(),
    ] {
        assert_eq!(by_secret().admit(&with(&wrong)), Err(Denial::Secret), "{wrong}");
    }
    let twice = asked(&uri).header("proxy-authorization", basic("doorward", "guess")).body(()).unwrap();
    assert_eq!(by_secret().admit(&twice), Err(Denial::Secret));
    let target = by_secret().admit(&with(&basic("doorward", SECRET).replace("Basic", "bAsIc"))).unwrap();
    assert_eq!((target.host.as_str(), target.path.as_str()), (HOST, "/status"));
}

#[test]
fn a72_a_web_page_is_refused_even_with_the_secret() {
    for (name, value) in [
        ("origin", "http://evil.example"),
        ("origin", "null"),
        ("Sec-Fetch-Site", "same-origin"),
        ("sec-fetch-mode", "navigate"),
        ("sec-fetch-dest", "document"),
    ] {
        let request = asked(&format!("http://{HOST}/status")).header(name, value).body(()).unwrap();
        assert_eq!(by_secret().admit(&request), Err(Denial::Browser), "{name}");
        let request = Request::builder().uri(format!("http://{HOST}/")).header(name, value).body(()).unwrap();
        assert_eq!(Admission::by_socket(8443).admit(&request), Err(Denial::Browser), "{name}");
    }
}

#[test]
fn a72_no_tunnel_is_made() {
    let request = asked(&format!("{HOST}:8443")).method("CONNECT").body(()).unwrap();
    assert_eq!(by_secret().admit(&request), Err(Denial::Tunnel));
}

#[test]
fn a72_only_a_whole_address_of_the_door_is_taken() {
    for uri in ["/status", "*", &format!("https://{HOST}/status")] {
        let request = asked(uri).header("host", HOST).body(()).unwrap();
        assert!(matches!(by_secret().admit(&request), Err(Denial::Form(_))), "{uri}");
    }
    for uri in [format!("http://{HOST}:22/"), "http://[::1]:9000/".to_owned()] {
        let request = asked(&uri).body(()).unwrap();
        assert!(matches!(by_secret().admit(&request), Err(Denial::Host(_))), "{uri}");
    }
    let request = asked(&format!("http://user:password@{HOST}/")).body(()).unwrap();
    assert!(matches!(by_secret().admit(&request), Err(Denial::Form(_))));
    for uri in [format!("http://{HOST}:8443/a?b"), format!("http://{}./a?b", HOST.to_uppercase())] {
        let target = by_secret().admit(&asked(&uri).body(()).unwrap()).unwrap();
        assert_eq!((target.host.as_str(), target.path.as_str()), (HOST, "/a?b"), "{uri}");
    }
}

#[test]
fn over_a_socket_the_host_header_names_the_host() {
    let request = Request::builder().uri("/status").header("host", format!("{HOST}:80")).body(()).unwrap();
    assert_eq!(Admission::by_socket(8443).admit(&request).unwrap().host, HOST);
    let twice = Request::builder().uri("/").header("host", HOST).header("host", "other").body(()).unwrap();
    assert!(matches!(Admission::by_socket(8443).admit(&twice), Err(Denial::Form(_))));
}

/// A proxy with alice's session in front of a door.
fn proxy_to(door: &FakeDoor) -> Arc<Door> {
    let key_pem = rcgen::KeyPair::generate().unwrap().serialize_pem();
    let now = present();
    let issued = door
        .authority
        .issue_session(
            signing_request(&key_pem).unwrap().as_bytes(),
            SessionId::fresh(now, &SeededEntropy::new(3)),
            now,
            now.plus(Ttl::hours(1)),
            &SeededEntropy::new(4),
        )
        .unwrap();
    let identity = Identity { certificate_pem: issued.pem.clone(), key_pem };
    let server = Origin::parse(&door.origin).unwrap();
    Arc::new(Door {
        admission: Admission::by_secret(server.port(), Secret::new(SECRET.to_owned())),
        onward: ArcSwap::from_pointee(Onward {
            generation: 0,
            tls: tls_settings(Some(&door.ca_pem), Some(&identity)).unwrap(),
            certificate_pem: issued.pem,
            hosts: BTreeSet::from([HOST.to_owned()]),
            ended: None,
        }),
        server,
        tracker: TaskTracker::new(),
        end: CancellationToken::new(),
    })
}

/// A client's connection to the proxy.
fn connect(proxy: &Arc<Door>) -> DuplexStream {
    let (here, there) = tokio::io::duplex(64 * 1024);
    let proxy = Arc::clone(proxy);
    tokio::spawn(async move { proxy::client(&proxy, there).await });
    here
}

/// Sends one request and reads the answer's head and, by its content-length, its body.
async fn ask(stream: &mut DuplexStream, head: &str, body: &str) -> (String, String) {
    stream.write_all(format!("{head}\r\n\r\n{body}").as_bytes()).await.unwrap();
    let mut bytes = Vec::new();
    while !bytes.ends_with(b"\r\n\r\n") {
        bytes.push(stream.read_u8().await.unwrap());
    }
    let head = String::from_utf8(bytes).unwrap().to_ascii_lowercase();
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")).map_or(0, |n| n.parse().unwrap());
    let mut body = vec![0; length];
    stream.read_exact(&mut body).await.unwrap();
    (head, String::from_utf8(body).unwrap())
}

fn head(method: &str, uri: &str, more: &str) -> String {
    format!("{method} {uri} HTTP/1.1\r\nhost: whatever\r\nproxy-authorization: {}{more}", basic("doorward", SECRET))
}

#[tokio::test]
async fn a72_the_secret_goes_no_further_and_the_certificate_does() {
    let door = FakeDoor::open(|seen| {
        let mut reply = json_reply(200, &serde_json::json!({"body": seen.body}));
        reply.headers_mut().insert("keep-alive", "timeout=5".parse().unwrap());
        reply.headers_mut().insert("x-kept", "yes".parse().unwrap());
        reply
    })
    .await;
    let proxy = proxy_to(&door);
    let mut stream = connect(&proxy);
    let more = "\r\nconnection: x-hop, close-not\r\nx-hop: 1\r\nkeep-alive: 5\r\nproxy-connection: keep-alive\r\n\
                x-end: 2\r\ncontent-length: 5";
    let uri = format!("http://{HOST}/v1/x?a=b");
    let (answer, body) = ask(&mut stream, &head("POST", &uri, more), "hello").await;
    assert!(answer.starts_with("http/1.1 200"), "{answer}");
    assert!(answer.contains("x-kept: yes") && !answer.contains("keep-alive"), "{answer}");
    assert!(body.contains("hello"));
    let seen = &door.seen()[0];
    assert_eq!(seen.method, "POST");
    assert_eq!((seen.path.as_str(), seen.query.as_str()), ("/v1/x", "a=b"));
    assert_eq!(seen.header("host"), Some(format!("{HOST}:{}", door.address.port()).as_str()));
    assert_eq!(seen.server_name.as_deref(), Some(HOST));
    assert!(seen.certificate.is_some());
    assert_eq!(seen.header("x-end"), Some("2"));
    for gone in ["proxy-authorization", "x-hop", "keep-alive", "proxy-connection", "connection"] {
        assert!(!seen.headers.contains_key(gone), "{gone}: {seen:?}");
    }
}

#[tokio::test]
async fn a72_a_refused_request_reaches_nobody() {
    let door = FakeDoor::open(|_| json_reply(200, &serde_json::json!({}))).await;
    let proxy = proxy_to(&door);
    for (line, status) in [
        (format!("GET http://{HOST}/ HTTP/1.1\r\nhost: {HOST}"), "407"),
        (head("GET", "http://evil.example/", ""), "403"),
        (head("GET", "http://doorward.localhost/", ""), "403"),
        (head("GET", &format!("http://{HOST}.evil.example/"), ""), "403"),
        (head("GET", &format!("http://{HOST}/"), "\r\nsec-fetch-site: cross-site"), "403"),
        (head("CONNECT", &format!("{HOST}:443"), ""), "405"),
        (head("GET", "/", ""), "400"),
    ] {
        let (answer, body) = ask(&mut connect(&proxy), &line, "").await;
        assert!(answer.starts_with(&format!("http/1.1 {status}")), "{line}: {answer}");
        assert!(answer.contains("application/problem+json") && body.contains("detail"), "{answer}{body}");
        assert_eq!(status == "407", answer.contains("proxy-authenticate: basic"), "{answer}");
    }
    assert!(door.seen().is_empty());
}

#[tokio::test]
async fn a_clients_connection_keeps_one_onward_until_the_certificate_changes() {
    let door = FakeDoor::open(|_| Response::new(Full::new(Bytes::from_static(b"ok")))).await;
    let proxy = proxy_to(&door);
    let mut stream = connect(&proxy);
    let line = head("GET", &format!("http://{HOST}/"), "");
    for _ in 0..3 {
        assert_eq!(ask(&mut stream, &line, "").await.1, "ok");
    }
    assert_eq!(door.seen().iter().map(|seen| seen.connection).collect::<Vec<_>>(), [0, 0, 0]);
    let mut next = (**proxy.onward.load()).clone();
    next.generation += 1;
    proxy.onward.store(Arc::new(next));
    assert_eq!(ask(&mut stream, &line, "").await.1, "ok");
    assert_eq!(door.seen()[3].connection, 1);
}

#[tokio::test]
async fn a_body_of_unknown_length_arrives_whatever_the_method() {
    let door = FakeDoor::open(|_| Response::new(Full::new(Bytes::from_static(b"ok")))).await;
    let proxy = proxy_to(&door);
    for method in ["GET", "POST", "DELETE"] {
        let line = head(method, &format!("http://{HOST}/"), "\r\ntransfer-encoding: chunked");
        let (answer, _) = ask(&mut connect(&proxy), &line, "5\r\nhello\r\n1\r\n!\r\n0\r\n\r\n").await;
        assert!(answer.starts_with("http/1.1 200"), "{answer}");
    }
    let old = head("GET", &format!("http://{HOST}/"), "").replace("HTTP/1.1", "HTTP/1.0");
    assert!(ask(&mut connect(&proxy), &old, "").await.0.contains(" 200"));
    let bodies: Vec<_> = door.seen().into_iter().map(|seen| seen.body).collect();
    assert_eq!(bodies, ["hello!", "hello!", "hello!", ""]);
}

#[tokio::test]
async fn an_upgrade_passes_through() {
    let door = FakeDoor::open(|_| json_reply(500, &serde_json::json!({}))).await;
    let proxy = proxy_to(&door);
    let mut stream = connect(&proxy);
    let more = "\r\nconnection: Upgrade\r\nupgrade: websocket\r\nsec-websocket-key: x";
    let (answer, _) = ask(&mut stream, &head("GET", &format!("http://{HOST}/ws"), more), "").await;
    assert!(answer.starts_with("http/1.1 101"), "{answer}");
    assert!(answer.contains("upgrade: websocket") && answer.contains("connection: upgrade"), "{answer}");
    stream.write_all(b"ping").await.unwrap();
    let mut echoed = [0; 4];
    stream.read_exact(&mut echoed).await.unwrap();
    assert_eq!(&echoed, b"ping");
    assert_eq!(door.seen()[0].header("sec-websocket-key"), Some("x"));
}

#[tokio::test]
async fn an_ended_session_is_a_401_that_says_what_to_do() {
    let door = FakeDoor::open(|_| json_reply(200, &serde_json::json!({}))).await;
    let proxy = proxy_to(&door);
    let mut next = (**proxy.onward.load()).clone();
    next.ended = Some("the session has ended".to_owned());
    proxy.onward.store(Arc::new(next));
    let (answer, body) = ask(&mut connect(&proxy), &head("GET", &format!("http://{HOST}/"), ""), "").await;
    assert!(answer.starts_with("http/1.1 401"), "{answer}");
    assert!(body.contains("session_ended") && body.contains("doorward login"), "{body}");
    assert!(door.seen().is_empty());
}

#[tokio::test]
async fn a_door_that_is_away_is_a_502() {
    let door = FakeDoor::open(|_| json_reply(200, &serde_json::json!({}))).await;
    let mut proxy = Arc::into_inner(proxy_to(&door)).unwrap();
    proxy.server = Origin::parse(&format!("https://doorward.localhost:{}", crate::support::free_port())).unwrap();
    let proxy = Arc::new(proxy);
    let (answer, body) = ask(&mut connect(&proxy), &head("GET", &format!("http://{HOST}/"), ""), "").await;
    assert!(answer.starts_with("http/1.1 502") && body.contains("unreachable"), "{answer}{body}");
}

#[tokio::test]
async fn a72_the_socket_is_for_its_owner_only_and_goes_with_the_proxy() {
    use tokio::net::UnixStream;

    let door = FakeDoor::open(|seen| match seen.path.as_str() {
        "/api/v1/services" => json_reply(
            200,
            &serde_json::json!({"items": [{"name": "ops-api", "description": "", "url": "https://x", "hosts": [HOST],
                "access": "allowed", "actions": [], "entitlements": []}], "next": null}),
        ),
        _ => Response::new(Full::new(Bytes::from_static(b"ok"))),
    })
    .await;
    let person = super::Person::at(&door);
    super::renewal::sign_in(&person, &door, Ttl::hours(1), "one");
    let path = person.home.path().join("door.sock");
    std::fs::write(&path, "not a socket").unwrap();
    let args = ProxyArgs { listen: None, socket: Some(path.clone()) };
    let failure = proxy::run(&person.context, &args).await.unwrap_err();
    assert_eq!(failure.exit.code(), 2);
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "not a socket");
    std::fs::remove_file(&path).unwrap();

    {
        let running = proxy::run(&person.context, &args);
        let using = async {
            let mut stream = loop {
                match UnixStream::connect(&path).await {
                    Ok(stream) => break stream,
                    Err(_) => tokio::task::yield_now().await,
                }
            };
            assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
            stream
                .write_all(format!("GET / HTTP/1.1\r\nhost: {HOST}\r\nconnection: close\r\n\r\n").as_bytes())
                .await
                .unwrap();
            let mut text = String::new();
            stream.read_to_string(&mut text).await.unwrap();
            assert!(text.starts_with("HTTP/1.1 200") && text.ends_with("ok"), "{text}");
        };
        tokio::select! {
            ended = running => panic!("it ended: {ended:?}"),
            () = using => {}
        }
    }
    assert!(!path.exists());
    assert_eq!(person.out.text().trim(), path.to_str().unwrap());
}
