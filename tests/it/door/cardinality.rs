//! Many of everything that a client can make up (a25): no series of a metric and no table grows with it.

use std::collections::BTreeSet;

use http::Method;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::fixture::{BOTH, Door, Plan, host, with_door};

/// The names and labels of all series, without their values.
async fn series(door: &Door) -> BTreeSet<String> {
    let address = door.running().telemetry.unwrap();
    let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
    let request = format!("GET /metrics HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut got = String::new();
    stream.read_to_string(&mut got).await.unwrap();
    let lines = got.split_once("\r\n\r\n").unwrap().1.lines().filter(|line| !line.starts_with('#'));
    lines.filter_map(|line| line.rsplit_once(' ')).map(|(name, _)| name.to_owned()).collect()
}

/// Tokens, key names, paths, methods, hosts, names of the connection: `count` of each that were never seen before.
async fn flood(door: &Door, alice: &super::fixture::Person, from: usize, count: usize) {
    let jwt = |number: usize| {
        let part = |text: String| data_encoding::BASE64URL_NOPAD.encode(text.as_bytes());
        let head = part(format!("{{\"alg\":\"ES256\",\"typ\":\"at+jwt\",\"kid\":\"k{number}\"}}"));
        format!("{head}.{}.{}", part(format!("{{\"iss\":\"{}\",\"sub\":\"u{number}\"}}", door.origin)), "A".repeat(86))
    };
    for speaks in BOTH {
        let mut named = door.client("app", Some(alice), speaks).await;
        let mut nobody = door.client("web", None, speaks).await;
        let mut control = door.client("", None, speaks).await;
        for number in from..from + count {
            let bearer = format!("Bearer {}", jwt(number));
            let agent = format!("agent/{number}");
            let headers = [("authorization", bearer.as_str()), ("user-agent", &agent)];
            let path = format!("/made/up/{number}?q={number}");
            assert_eq!(named.ask(Method::GET, &path, &[], b"").await.status, 200);
            let made = Method::from_bytes(format!("M{number}").as_bytes()).unwrap();
            named.ask(made, &path, &[("x-made-up", "1")], b"").await;
            assert!([401, 429].contains(&nobody.ask(Method::GET, &path, &headers, b"").await.status.as_u16()));
            assert!([404, 429].contains(&control.get(&format!("/api/v1/{number}")).await.status.as_u16()));
        }
    }
    for number in from..from + count {
        let name = format!("h{number}.doorward.localhost");
        assert!(door.connect_with(door.tls(None), &name).await.is_err(), "{name}");
        let request = format!("GET /x HTTP/1.1\r\nHost: {name}\r\nConnection: close\r\n\r\n");
        if number % 10 == 0 {
            let got = door.bytes("web", None, request.as_bytes()).await;
            assert!(got.starts_with("HTTP/1.1 421 ") || got.starts_with("HTTP/1.1 429 "), "{got}");
        }
    }
}

#[test]
fn a25_no_series_comes_from_what_a_client_makes_up() {
    let tables = "[limits]\nrequests_per_second = 10000\nburst = 20000".to_owned();
    let environment = vec![("DOORWARD__TELEMETRY__LISTEN", "127.0.0.1:0".to_owned())];
    with_door(Plan { tables, environment, ..Plan::default() }, async |door| {
        let alice = door.sign_in("alice").await;
        // Every reason that will come has come once.
        flood(door, &alice, 0, 60).await;
        let before = series(door).await;
        assert!(before.len() > 20, "{before:?}");
        flood(door, &alice, 1000, 150).await;
        let after = series(door).await;
        // A fast machine meets the limit on those whom nobody knows in the second flood first.
        let is_limit = |name: &str| name.contains("reason=\"rate_limited\"");
        let new: Vec<_> = after.difference(&before).filter(|name| !is_limit(name)).collect();
        assert!(new.is_empty(), "{new:?}");
        for made_up in ["h1", "made", "agent", "M1", "u1", host("unknown").as_str()] {
            let told: Vec<_> = after.iter().filter(|name| name.contains(&format!("\"{made_up}"))).collect();
            assert!(told.is_empty(), "{told:?}");
        }
    });
}
