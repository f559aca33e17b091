//! What an upstream is told: a01 to a05.

use http::Method;

use super::fixture::{BOTH, Plan, Speaks, with_door};
use super::upstream::Reply;

/// Header names that some upstream takes for a statement about who is asking.
const SPELLINGS: [&str; 16] = [
    "Doorward-Assertion",
    "DOORWARD-ASSERTION",
    "doorward_assertion",
    "Doorward_Assertion",
    "doorward-decision",
    "X-Forwarded-User",
    "x_forwarded_user",
    "Remote-User",
    "REMOTE_USER",
    "X-Auth-Request-User",
    "X-Auth-Request-Email",
    "Client-Cert",
    "X-Gw-User",
    "X-Remote-User",
    "X-Pomerium-Claim-Email",
    "Doorward-Groups",
];

#[test]
fn a01_no_spelling_of_an_identity_header_reaches_the_upstream() {
    with_door(Plan::default(), async |door| {
        let alice = door.sign_in("alice").await;
        for speaks in BOTH {
            let mut client = door.client("app", Some(&alice), speaks).await;
            for spelling in SPELLINGS {
                for values in [vec!["forged"], vec!["forged", "forged2"], vec!["a, forged"]] {
                    let headers: Vec<(&str, &str)> = values.iter().map(|value| (spelling, *value)).collect();
                    let got = client.ask(Method::GET, "/x", &headers, b"").await;
                    assert_eq!(got.status, 200, "{spelling}");
                    let seen = door.raw.last();
                    assert!(!seen.head.contains("forged"), "{spelling} {speaks:?}: {}", seen.head);
                    assert!(!seen.head.lines().skip(1).any(|line| line.split(':').next().unwrap().contains('_')));
                    assert!(seen.one("doorward-assertion").is_some(), "{}", seen.head);
                    assert_eq!(seen.one("doorward-decision"), got.header("doorward-decision"));
                }
            }
        }
        // The same in an upgrade.
        let upgrade = "GET /ws HTTP/1.1\r\nHost: app.doorward.localhost\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nRemote_User: forged\r\n\
             X-Forwarded-User: forged\r\nDoorward-Assertion: forged\r\n\r\n";
        let got = door.bytes("app", Some(&alice), upgrade.as_bytes()).await;
        assert!(got.starts_with("HTTP/1.1 101 "), "{got}");
        assert!(!door.raw.last().head.contains("forged"), "{}", door.raw.last().head);
        assert!(door.raw.last().one("doorward-assertion").is_some());
    });
}

#[test]
fn a02_hop_by_hop_fields_go_no_further_and_cannot_remove_ours() {
    with_door(Plan::default(), async |door| {
        let alice = door.sign_in("alice").await;
        for connection in [
            "close, doorward-assertion, X-Forwarded-For",
            "Doorward-Assertion\r\nConnection: FORWARDED, doorward-decision, close",
            "close, x-own, host, doorward-assertion, traceparent",
        ] {
            let request = format!(
                "GET /x HTTP/1.1\r\nHost: app.doorward.localhost\r\nConnection: {connection}\r\nX-Own: hop\r\n\
                 Keep-Alive: timeout=5\r\nProxy-Connection: keep-alive\r\nTE: trailers\r\nProxy-Authorization: Basic eDp5\r\n\r\n"
            );
            let got = door.bytes("app", Some(&alice), request.as_bytes()).await;
            // Some lists are refused whole; what passes must be clean.
            if got.starts_with("HTTP/1.1 400 ") {
                continue;
            }
            assert!(got.starts_with("HTTP/1.1 200 "), "{got}");
            let seen = door.raw.last();
            for ours in
                ["doorward-assertion", "doorward-decision", "forwarded", "x-forwarded-for", "host", "traceparent"]
            {
                assert!(seen.one(ours).is_some(), "{ours} is gone: {}", seen.head);
            }
            for theirs in ["keep-alive", "proxy-connection", "proxy-authorization"] {
                assert!(seen.one(theirs).is_none(), "{theirs} came through: {}", seen.head);
            }
            if connection.contains("x-own") {
                assert!(seen.one("x-own").is_none());
            }
        }
        assert!(door.raw.count() > 0);
    });
}

#[test]
fn a03_forwarding_fields_are_ours_alone() {
    with_door(Plan::default(), async |door| {
        let alice = door.sign_in("alice").await;
        let forged = [
            ("X-Forwarded-For", "6.6.6.6, garbage"),
            ("X-Forwarded-Host", "evil.example"),
            ("X-Forwarded-Proto", "http"),
            ("X-Forwarded-Port", "666"),
            ("X-Forwarded-Prefix", "/evil"),
            ("X-Forwarded-Uri", "/admin"),
            ("Forwarded", "for=6.6.6.6;host=evil.example"),
            ("X-Original-URL", "/admin"),
            ("X-Rewrite-URL", "/admin"),
            ("X-HTTP-Method-Override", "DELETE"),
            ("X-Real-IP", "6.6.6.6"),
            ("X-Envoy-External-Address", "6.6.6.6"),
            ("True-Client-IP", "6.6.6.6"),
        ];
        for speaks in BOTH {
            let got = door.client("app", Some(&alice), speaks).await.ask(Method::GET, "/x", &forged, b"").await;
            assert_eq!(got.status, 200);
            let seen = door.raw.last();
            for word in ["6.6.6.6", "evil", "/admin", "DELETE", "666"] {
                assert!(!seen.head.contains(word), "{word}: {}", seen.head);
            }
            assert_eq!(seen.one("x-forwarded-for"), Some("127.0.0.1"));
            assert_eq!(seen.one("x-forwarded-proto"), Some("https"));
            assert!(seen.one("x-forwarded-host").unwrap().starts_with("app.doorward.localhost"));
            assert!(seen.one("forwarded").is_some());
            assert_eq!(seen.line(), "GET /x HTTP/1.1");
        }
        // PROXY protocol from a peer that nobody trusts is no TLS.
        let mut stream = tokio::net::TcpStream::connect(door.address).await.unwrap();
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        stream.write_all(b"PROXY TCP4 6.6.6.6 127.0.0.1 1 2\r\n").await.unwrap();
        let mut answer = Vec::new();
        let _ =
            tokio::time::timeout(std::time::Duration::from_secs(12), stream.read_to_end(&mut answer)).await.unwrap();
        assert!(!answer.starts_with(b"HTTP"), "{answer:?}");
    });
}

fn with_a_secret(dir: &std::path::Path) {
    use std::os::unix::fs::PermissionsExt;
    for service in ["app", "web", "rpc"] {
        let file = dir.join("policies").join(service).join("role.secret");
        std::fs::write(&file, "reader").unwrap();
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).unwrap();
    }
}

#[test]
fn a01_what_is_injected_is_ours_in_every_spelling_and_in_trailers() {
    let tables = "[[inject]]\nheader = \"X-Api-Role\"\nsecret = { file = \"role.secret\" }".to_owned();
    with_door(Plan { tables, change: Some(with_a_secret), ..Plan::default() }, async |door| {
        let alice = door.sign_in("alice").await;
        let mut client = door.client("rpc", Some(&alice), Speaks::Http2).await;
        let mut request = client.request(Method::POST, "/x").header("te", "trailers");
        let mut trailers = http::HeaderMap::new();
        for name in ["x-api-role", "x.api.role", "x~api.role", "x_api_role", "remote-user", "via"] {
            request = request.header(name, "admin");
            trailers.insert(name, "admin".parse().unwrap());
        }
        trailers.insert("dpop", "admin".parse().unwrap());
        trailers.insert("x-end", "1".parse().unwrap());
        let frames = vec![
            Ok(hyper::body::Frame::data(bytes::Bytes::from_static(b"abc"))),
            Ok(hyper::body::Frame::trailers(trailers)),
        ];
        let body = http_body_util::StreamBody::new(futures_util::stream::iter(frames));
        let request = request.body(http_body_util::BodyExt::boxed_unsync(body)).unwrap();
        let got = super::fixture::read(client.send(request).await.unwrap()).await;
        assert_eq!(got.status, 200, "{got:?}");
        let seen = door.h2c.seen().pop().unwrap();
        assert_eq!(seen.headers.get_all("x-api-role").iter().collect::<Vec<_>>(), vec!["reader"]);
        let told = format!("{:?} {:?}", seen.headers, seen.trailers);
        assert!(!told.contains("admin"), "{told}");
        assert_eq!(seen.trailers.unwrap()["x-end"], "1");
    });
}

#[test]
fn an_upstream_is_told_that_a_gateway_stands_between_and_what_may_go_no_further_does_not() {
    with_door(Plan::default(), async |door| {
        let alice = door.sign_in("alice").await;
        for (speaks, via) in [(Speaks::Http1, "1.1 doorward"), (Speaks::Http2, "2.0 doorward")] {
            let mut client = door.client("app", Some(&alice), speaks).await;
            client.ask(Method::GET, "/x", &[("via", "1.0 forged"), ("max-forwards", "0")], b"").await;
            assert_eq!(door.raw.last().all("via"), [via]);
            client.ask(Method::OPTIONS, "/x", &[("max-forwards", "3")], b"").await;
            assert_eq!(door.raw.last().one("max-forwards"), Some("2"));
            let before = door.raw.count();
            let got = client.ask(Method::OPTIONS, "/x", &[("max-forwards", "0")], b"").await;
            assert_eq!((got.status.as_u16(), door.raw.count()), (204, before));
            let got = client.ask(Method::OPTIONS, "/admin/x", &[("max-forwards", "0")], b"").await;
            assert_eq!(got.status, 403, "it is judged as any request is");
            // A state belongs to its trace.
            let trace = format!("00-{}-{}-01", "a".repeat(32), "b".repeat(16));
            for (parent, state) in [(trace.as_str(), Some("c=d")), ("nonsense", None)] {
                client.ask(Method::GET, "/x", &[("traceparent", parent), ("tracestate", "c=d")], b"").await;
                assert_eq!(door.raw.last().one("tracestate"), state, "{parent}");
            }
        }
    });
}

#[test]
fn a04_health_checkers_get_no_way_in() {
    with_door(Plan::default(), async |door| {
        for speaks in BOTH {
            let mut client = door.client("web", None, speaks).await;
            for agent in ["kube-probe/1.31", "ELB-HealthChecker/2.0", "GoogleHC/1.0", "Consul Health Check"] {
                for path in ["/healthz", "/readyz", "/ping", "/metrics", "/.well-known/acme-challenge/x", "/x"] {
                    let got = client.ask(Method::GET, path, &[("user-agent", agent)], b"").await;
                    assert_eq!(got.status, 401, "{agent} {path}");
                }
            }
        }
        assert_eq!(door.raw.count(), 0);
    });
}

#[test]
fn a05_credentials_of_ours_never_reach_an_upstream_nor_follow_its_redirects() {
    with_door(Plan::default(), async |door| {
        let alice = door.sign_in("alice").await;
        let token = super::tokens::Token::of(door, &alice).mint(door);
        let elsewhere =
            format!("HTTP/1.1 302 Found\r\nlocation: http://{}/stolen\r\ncontent-length: 0\r\n\r\n", door.raw.address);
        door.raw.reply("/redirect", Reply::Bytes(elsewhere.into_bytes()));
        door.raw.reply("/error", Reply::Bytes(b"HTTP/1.1 500 Oops\r\ncontent-length: 0\r\n\r\n".to_vec()));
        let set = "HTTP/1.1 200 OK\r\nset-cookie: __Host-doorward=evil\r\nset-cookie: __host-Doorward-flow=evil\r\n\
             set-cookie: own=1\r\ndoorward-decision: dec_forged\r\ncontent-length: 0\r\n\r\n";
        door.raw.reply("/cookies", Reply::Bytes(set.as_bytes().to_vec()));
        for speaks in BOTH {
            let mut client = door.client("app", Some(&alice), speaks).await;
            for (path, status) in [("/x", 200), ("/redirect", 302), ("/error", 500), ("/cookies", 200)] {
                let bearer = format!("Bearer {token}");
                for (name, value) in [("authorization", bearer.as_str()), ("doorward-token", token.as_str())] {
                    let before = door.raw.count();
                    let headers = [(name, value), ("cookie", "own=yes"), ("dpop", "abc")];
                    let got = client.ask(Method::GET, path, &headers, b"").await;
                    assert_eq!(got.status, status, "{path}: {}", got.text());
                    assert_eq!(door.raw.count(), before + 1, "a redirect was followed");
                    let seen = door.raw.last();
                    assert!(!seen.head.contains(&token), "{}", seen.head);
                    assert!(seen.one("authorization").is_none() && seen.one("doorward-token").is_none());
                    assert!(seen.one("dpop").is_none(), "{}", seen.head);
                    assert_eq!(seen.one("cookie"), Some("own=yes"));
                    let cookies: Vec<_> = got.headers.get_all("set-cookie").iter().collect();
                    assert_eq!(cookies, if path == "/cookies" { vec!["own=1"] } else { vec![] });
                    assert_eq!(got.headers.get_all("doorward-decision").iter().count(), 1);
                    assert_ne!(got.header("doorward-decision"), Some("dec_forged"));
                }
            }
        }
    });
}

#[test]
fn a18_cookie_crumbs_of_http2_arrive_joined() {
    with_door(Plan::default(), async |door| {
        let alice = door.sign_in("alice").await;
        let crumbs = [("cookie", "a=1"), ("cookie", "b=2"), ("cookie", "c=3")];
        let got = door.client("app", Some(&alice), Speaks::Http2).await.ask(Method::GET, "/x", &crumbs, b"").await;
        assert_eq!(got.status, 200);
        assert_eq!(door.raw.last().one("cookie"), Some("a=1; b=2; c=3"));
    });
}

#[test]
fn head_gets_of_our_own_answers_the_length_and_no_content() {
    with_door(Plan::default(), async |door| {
        let alice = door.sign_in("alice").await;
        for speaks in BOTH {
            let mut client = door.client("app", Some(&alice), speaks).await;
            for path in ["/admin/x", "/nowhere/at/all"] {
                let whole = client.get(path).await;
                let head = client.ask(Method::HEAD, path, &[], b"").await;
                assert_eq!((head.status, head.body.len()), (whole.status, 0), "{speaks:?} {path}");
                let length: usize = head.header("content-length").unwrap().parse().unwrap();
                assert!(whole.status == 200 || length > 100, "{head:?}");
            }
            let mut control = door.client("", None, speaks).await;
            for path in ["/api/v1/whoami", "/requests", "/nowhere", "/a/../b"] {
                let head = control.ask(Method::HEAD, path, &[], b"").await;
                assert_eq!(head.body.len(), 0, "{speaks:?} {path}: {head:?}");
            }
        }
    });
}
