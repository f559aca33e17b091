//! Messages that could be read in two ways: a12 to a19.

use std::time::Duration;

use super::fixture::{BOTH, Plan, Speaks, host, with_door};
use super::upstream::Reply;

#[test]
fn a12_to_a16_a_message_that_can_be_read_in_two_ways_never_gets_through() {
    const H: &str = "Host: app.doorward.localhost\r\n";
    let chunked =
        |more: &str, body: &str| format!("POST /x HTTP/1.1\r\n{H}{more}Transfer-Encoding: chunked\r\n\r\n{body}");
    let with = |lines: &str| format!("POST /x HTTP/1.1\r\n{H}{lines}\r\n\r\nGET /smuggled HTTP/1.1\r\n{H}\r\n");
    let messages: Vec<String> = vec![
        // a12
        chunked("Content-Length: 4\r\n", "0\r\n\r\nGET /smuggled HTTP/1.1\r\n\r\n"),
        with("Content-Length: 3\r\nContent-Length: 4"),
        with("Content-Length: 0\r\nContent-Length: 0"),
        with("Content-Length: 0, 0"),
        with("Content-Length: +0"),
        with("Content-Length: -1"),
        with("Content-Length: 0x10"),
        with("Content-Length: 1 0"),
        with("Content-Length: 99999999999999999999999"),
        with("Content-Length:"),
        // a13
        format!("POST /x HTTP/1.0\r\n{H}Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
        with("Transfer-Encoding: ,chunked"),
        with("Transfer-Encoding: gzip, chunked"),
        with("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked"),
        with("Transfer-Encoding: identity"),
        with("Transfer-Encoding: chunked, identity"),
        with("Transfer-Encoding: xchunked"),
        with("Transfer-Encoding: \"chunked\""),
        with("Transfer-Encoding:\tchunked\u{b}"),
        // a14
        chunked("", "1\nx\r\n0\r\n\r\n"),
        chunked("", "0x1\r\nx\r\n0\r\n\r\n"),
        chunked("", "1_0\r\nx\r\n0\r\n\r\n"),
        chunked("", "ffffffffffffffffff\r\nx\r\n0\r\n\r\n"),
        chunked("", "1;\nx\r\nx\r\n0\r\n\r\n"),
        chunked("", "1\r\nxjunk\r\n0\r\n\r\n"),
        chunked("", "-1\r\nx\r\n0\r\n\r\n"),
        // a15
        format!("GET /x HTTP/1.1\n{H}\n"),
        format!("GET /x HTTP/1.1\r\n{H}A: b\n\r\n"),
        format!("GET /x HTTP/1.1\r\n{H}A: b\rc: d\r\n\r\n"),
        format!("GET /x HTTP/1.1\r\n{H}A: \0\r\n\r\n"),
        format!("GET /x HTTP/1.1\r\n{H}A: b\r\n folded\r\n\r\n"),
        format!("GET /x HTTP/1.1\r\n{H}A : b\r\n\r\n"),
        format!("GET /x HTTP/1.1\r\n{H}A\u{e9}: b\r\n\r\n"),
        format!("GET /x HTTP/1.1\r\n{H}no colon\r\n\r\n"),
        format!("GET  /x HTTP/1.1\r\n{H}\r\n"),
        format!("GET /x  HTTP/1.1\r\n{H}\r\n"),
        format!("GET /x HTTP/1.1 \r\n{H}\r\n"),
        format!(" GET /x HTTP/1.1\r\n{H}\r\n"),
        format!("GET /x HTTP/1.2\r\n{H}\r\n"),
        format!("GET /x HTTP/2.0\r\n{H}\r\n"),
        format!("GET /x\r\n{H}\r\n"),
        // a16
        "GET /x HTTP/1.1\r\n\r\n".to_owned(),
        format!("GET /x HTTP/1.1\r\n{H}{H}\r\n"),
        format!("GET /x HTTP/1.1\r\n{H}Host: evil.example\r\n\r\n"),
        "GET /x HTTP/1.1\r\nHost: a@app.doorward.localhost\r\n\r\n".to_owned(),
        "GET /x HTTP/1.1\r\nHost: app.doorward.localhost/admin\r\n\r\n".to_owned(),
        "GET /x HTTP/1.1\r\nHost: app.doorward.localhost, x\r\n\r\n".to_owned(),
        "GET /x HTTP/1.1\r\nHost:\r\n\r\n".to_owned(),
        format!("GET https://evil.example/x HTTP/1.1\r\n{H}\r\n"),
    ];
    with_door(Plan::default(), async |door| {
        let alice = door.sign_in("alice").await;
        let one = async |message: &str| {
            let got = door.bytes("app", Some(&alice), message.as_bytes()).await;
            let status: u16 = got.split(' ').nth(1).and_then(|s| s.parse().ok()).unwrap_or(0);
            assert!([400, 421, 501, 505].contains(&status), "{message:?} got {got}");
            assert!(got.contains("doorward-decision: dec_"), "{message:?} got {got}");
            assert_eq!(got.matches("HTTP/1.1 ").count(), 1, "{message:?} got {got}");
        };
        futures_util::future::join_all(messages.iter().map(|message| one(message))).await;
        // A bad chunk comes after a good head: that one may have begun, but never ended well.
        for seen in door.raw.seen() {
            assert_eq!(seen.line(), "POST /x HTTP/1.1", "smuggled: {}", seen.head);
            assert_eq!(seen.one("transfer-encoding"), Some("chunked"));
        }
        assert!(!String::from_utf8_lossy(&door.raw.all_bytes()).contains("smuggled"));
    });
}

#[test]
fn a12_and_a18_a_length_over_http2_is_one_plain_number_too() {
    with_door(Plan::default(), async |door| {
        let alice = door.sign_in("alice").await;
        let mut client = door.client("app", Some(&alice), Speaks::Http2).await;
        let body = b"0123456789";
        for lengths in [&["10", "10"][..], &["10", "11"], &["10, 10"], &["010"], &["+10"]] {
            let headers: Vec<(&str, &str)> = lengths.iter().map(|length| ("content-length", *length)).collect();
            let mut request = client.request(http::Method::POST, "/x");
            for (name, value) in headers {
                request = request.header(name, value);
            }
            // Some of them the library resets by itself.
            if let Ok(answer) = client.send(request.body(super::fixture::full(&body[..])).unwrap()).await {
                let got = super::fixture::read(answer).await;
                assert_eq!((got.status.as_u16(), got.reason().as_str()), (400, "ambiguous_request"), "{lengths:?}");
            }
            client = door.client("app", Some(&alice), Speaks::Http2).await;
        }
        assert_eq!(door.raw.count(), 0);
        let got = client.ask(http::Method::POST, "/x", &[("content-length", "10")], body).await;
        assert_eq!((got.status.as_u16(), door.raw.last().one("content-length")), (200, Some("10")));
    });
}

#[test]
fn a17_no_tunnel_before_a_101() {
    with_door(Plan::default(), async |door| {
        let alice = door.sign_in("alice").await;
        let own = host("app");
        let upgrade = |version: &str, path: &str| {
            format!(
                "GET {path} HTTP/1.1\r\nHost: {own}\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\
                 Sec-WebSocket-Version: {version}\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
            )
        };
        let pipelined = format!("GET /admin/secret HTTP/1.1\r\nHost: {own}\r\n\r\n");
        // A wrong version with a request behind it.
        let got = door.bytes("app", Some(&alice), format!("{}{pipelined}", upgrade("777", "/ws")).as_bytes()).await;
        assert!(!got.starts_with("HTTP/1.1 101"), "{got}");
        // An upstream that says 200 where a change was asked for.
        door.raw.reply("/no", Reply::Bytes(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nno".to_vec()));
        let got = door.bytes("app", Some(&alice), format!("{}{pipelined}", upgrade("13", "/no")).as_bytes()).await;
        assert!(got.starts_with("HTTP/1.1 400 ") && got.matches("HTTP/1.1 ").count() == 1, "{got}");
        let got = door.bytes("app", Some(&alice), upgrade("13", "/no").as_bytes()).await;
        assert!(got.starts_with("HTTP/1.1 200 ") && got.ends_with("no"), "{got}");
        for (method, target) in
            [("CONNECT", "app.doorward.localhost:443"), ("CONNECT", "/x"), ("CONNECT", ""), ("TRACE", "/x")]
        {
            let request = format!("{method} {target} HTTP/1.1\r\nHost: {own}\r\n\r\n");
            let got = door.bytes("app", Some(&alice), request.as_bytes()).await;
            let status: u16 = got.split(' ').nth(1).and_then(|s| s.parse().ok()).unwrap_or(0);
            assert!([400, 405, 501].contains(&status), "{method} {target}: {got}");
            assert!(status != 405 || !got.contains("plain form"), "{method} {target}: {got}");
        }
        let h2c = format!(
            "GET /x HTTP/1.1\r\nHost: {own}\r\nConnection: upgrade, http2-settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n\r\n"
        );
        let got = door.bytes("app", Some(&alice), h2c.as_bytes()).await;
        assert!(!got.starts_with("HTTP/1.1 101"), "{got}");
        // Nobody: no upgrade.
        let got = door.bytes("web", None, upgrade("13", "/ws").replace("app.", "web.").as_bytes()).await;
        assert!(got.starts_with("HTTP/1.1 401 "), "{got}");
        // Who may not, may not by an upgrade either.
        let dave = door.sign_in("dave").await;
        let got = door.bytes("app", Some(&dave), upgrade("13", "/ws").as_bytes()).await;
        assert!(got.starts_with("HTTP/1.1 403 "), "{got}");
        let bytes = String::from_utf8_lossy(&door.raw.all_bytes()).into_owned();
        assert!(!bytes.contains("/admin/secret"), "{bytes}");
        // By their places in a message: an id may spell any three letters, as time goes by.
        assert!(!bytes.contains("CONNECT ") && !bytes.to_ascii_lowercase().contains("upgrade: h2c"), "{bytes}");
    });
}

#[test]
fn a19_an_upstream_that_breaks_the_rules_costs_its_connection_and_nobody_elses_answer() {
    with_door(Plan::default(), async |door| {
        let alice = door.sign_in("alice").await;
        let garbage: [(&str, &[u8]); 7] = [
            ("/garbage", b"SSH-2.0-OpenSSH_9.6\r\n\r\n"),
            ("/two", b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\nab"),
            ("/space", b"HTTP/1.1 200 OK\r\nevil : 1\r\ncontent-length: 0\r\n\r\n"),
            ("/fold", b"HTTP/1.1 200 OK\r\nevil: 1\r\n folded\r\ncontent-length: 0\r\n\r\n"),
            ("/both", b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\nstolen"),
            ("/nothing", b""),
            ("/101", b"HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: upgrade\r\n\r\n"),
        ];
        for (path, bytes) in garbage {
            door.raw.reply(path, Reply::Close(bytes.to_vec()));
            for speaks in BOTH {
                let got = door.get("app", Some(&alice), speaks, path).await;
                assert!(!got.text().contains("stolen"));
                if path == "/both" || path == "/two" || path == "/fold" || path == "/space" {
                    // Either refused, or read as one message alone.
                    assert!([200, 502].contains(&got.status.as_u16()), "{path} {got:?}");
                } else {
                    assert_eq!(got.status, 502, "{path} {got:?}");
                    assert_eq!(got.reason(), "upstream_unavailable");
                }
            }
        }
        // Bytes after the end of an answer belong to nobody.
        let extra = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nokHTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\nstolen";
        door.raw.reply("/extra", Reply::Bytes(extra.to_vec()));
        for speaks in BOTH {
            let mut client = door.client("app", Some(&alice), speaks).await;
            for _ in 0..20 {
                let got = client.get("/extra").await;
                assert!(got.text() == "ok" || got.status == 502, "{got:?}");
                let got = client.get("/mine").await;
                assert!(got.text() == "GET /mine HTTP/1.1", "another answer came: {got:?}");
            }
        }
        // A body that is cut short is not an end.
        door.raw.reply("/short", Reply::Close(b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nabc".to_vec()));
        let mut client = door.client("app", Some(&alice), Speaks::Http2).await;
        let request = client.request(http::Method::GET, "/short").body(super::fixture::full("")).unwrap();
        let response = client.send(request).await.unwrap();
        assert!(http_body_util::BodyExt::collect(response.into_body()).await.is_err());
        // An answer before the request's end.
        let early = b"HTTP/1.1 413 Too Large\r\ncontent-length: 2\r\nconnection: close\r\n\r\nno".to_vec();
        door.raw.reply("/early", Reply::Early(early));
        for speaks in BOTH {
            let mut client = door.client("app", Some(&alice), speaks).await;
            let body = vec![b'x'; 256 * 1024];
            let asked = client.ask(http::Method::POST, "/early", &[], &body);
            let got = tokio::time::timeout(Duration::from_secs(5), asked).await.unwrap();
            assert!([413, 502].contains(&got.status.as_u16()), "{speaks:?} {got:?}");
            assert_eq!(door.get("app", Some(&alice), speaks, "/mine").await.text(), "GET /mine HTTP/1.1");
        }
    });
}
