//! From HTTP/2 to an upstream of HTTP/1.1: what a frame can carry and a line can't (a18).

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::fixture::{Door, Person, Plan, Speaks, host, with_door};

const HEADERS: u8 = 1;
const DATA: u8 = 0;
const RST_STREAM: u8 = 3;
const GOAWAY: u8 = 7;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// A header block of literal fields (RFC 7541 §6.2.2), whatever is in them.
fn block(fields: &[(&str, &str)]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (name, value) in fields {
        bytes.push(0);
        for text in [name, value] {
            bytes.push(u8::try_from(text.len()).ok().filter(|length| *length < 127).unwrap());
            bytes.extend(text.bytes());
        }
    }
    bytes
}

/// What became of a stream.
#[derive(Debug, PartialEq, Eq)]
enum End {
    /// It was answered; the first bytes of the header block tell the status.
    Answered { ok: bool },
    /// It was reset, or the connection ended.
    Refused,
}

/// Sends frames on a connection of its own and waits for what becomes of stream 1.
async fn sent(door: &Door, person: &Person, frames: &[Vec<u8>]) -> End {
    let mut stream = door.connect("app", Some(person), Speaks::Http2).await.unwrap();
    let opening = [b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".as_slice(), &frame(4, 0, 0, &[])].concat();
    stream.write_all(&[opening, frames.concat()].concat()).await.unwrap();
    let told = async {
        loop {
            let mut header = [0; 9];
            if stream.read_exact(&mut header).await.is_err() {
                return End::Refused;
            }
            let mut payload = vec![0; u32::from_be_bytes([0, header[0], header[1], header[2]]) as usize];
            if stream.read_exact(&mut payload).await.is_err() {
                return End::Refused;
            }
            let of = u32::from_be_bytes([header[5], header[6], header[7], header[8]]);
            match header[3] {
                RST_STREAM | GOAWAY => return End::Refused,
                // `:status 200` is entry 8 of the static table; a table update may come before it.
                HEADERS if of == 1 => {
                    let status = payload.iter().find(|byte| **byte & 0xe0 != 0x20);
                    return End::Answered { ok: status == Some(&0x88) };
                }
                _ => {}
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(20), told).await.expect("an end of the stream")
}

/// A request's pseudo fields with one replaced.
fn with<'a>(authority: &'a str, name: &str, value: &'a str) -> Vec<(&'a str, &'a str)> {
    let mut fields = vec![(":method", "POST"), (":scheme", "https"), (":authority", authority), (":path", "/x")];
    for field in &mut fields {
        if field.0 == name {
            field.1 = value;
        }
    }
    fields
}

#[test]
fn a18_what_a_line_can_not_carry_is_refused_and_the_upstream_sees_nothing_of_it() {
    with_door(Plan::default(), async |door| {
        let alice = door.sign_in("alice").await;
        let own = host("app");
        let plain = || with(&own, "", "");
        let mut cases: Vec<Vec<(&str, &str)>> = Vec::new();
        for path in [
            "/x HTTP/1.1\r\nHost: evil",
            "/x\r\nevil: 1",
            "/x\nevil: 1",
            "/x\revil",
            "/x\0evil",
            "/x evil",
            "/x\tevil",
            "evil",
            "//evil",
            "*",
            "",
        ] {
            cases.push(with(&own, ":path", path));
        }
        for method in ["GET /evil HTTP/1.1\r\nA:", "GET\r\n", "PO ST", "PO\0ST", "POST:", "", "CONNECT"] {
            cases.push(with(&own, ":method", method));
        }
        let (crlf, space, user) = (format!("{own}\r\nevil: 1"), format!("{own} evil"), format!("evil@{own}"));
        let (null, slash, other) = (format!("{own}\0"), format!("{own}/evil"), host("web"));
        for authority in [&crlf, &space, &user, &null, &slash, &other, "evil.example", ""] {
            cases.push(with(authority, "", ""));
        }
        for scheme in ["https\r\nevil: 1", "ht tps", "https://evil", "\0", ""] {
            cases.push(with(&own, ":scheme", scheme));
        }
        for (name, value) in [
            ("a", "b\r\nevil: 1"),
            ("a", "b\nevil: 1"),
            ("a", "b\revil"),
            ("a", "b\0evil"),
            ("a\r\nevil", "1"),
            ("a\nevil", "1"),
            ("a\0evil", "1"),
            ("a evil", "1"),
            ("evil ", "1"),
            (" evil", "1"),
            ("evil:", "1"),
            ("a:evil", "1"),
            ("Evil", "1"),
            ("", "evil"),
            // Of the connection, which is this one and not the next (RFC 9113 §8.2.2).
            ("connection", "close"),
            ("connection", "evil"),
            ("keep-alive", "evil"),
            ("proxy-connection", "evil"),
            ("transfer-encoding", "chunked"),
            ("transfer-encoding", "evil"),
            ("upgrade", "evil"),
            ("te", "gzip"),
            // Pseudo fields that are none, twice, or late.
            (":evil", "1"),
            (":status", "200"),
            (":path", "/evil"),
            (":authority", "evil.example"),
            (":method", "GET"),
            // Another name of the host.
            ("host", "evil.example"),
            // Lengths that are none.
            ("content-length", "+3"),
            ("content-length", "3, 3"),
            ("content-length", "0x3"),
            ("content-length", "-1"),
            ("content-length", "18446744073709551616"),
        ] {
            cases.push([plain(), vec![(name, value)]].concat());
        }
        cases.push([plain(), vec![("content-length", "3"), ("content-length", "4")]].concat());
        cases.push(vec![
            ("a", "1"),
            (":method", "GET"),
            (":scheme", "https"),
            (":authority", &own),
            (":path", "/evil"),
        ]);
        for missing in [":method", ":scheme", ":path"] {
            cases.push(plain().into_iter().filter(|(name, _)| *name != missing).collect());
        }
        let one = async |fields: &Vec<(&str, &str)>| {
            let block = block(fields);
            let frames = [frame(HEADERS, END_HEADERS, 1, &block), frame(DATA, END_STREAM, 1, b"abc")];
            let end = sent(door, &alice, &frames).await;
            assert_ne!(end, End::Answered { ok: true }, "{fields:?}");
        };
        // A few at a time: each has a handshake of its own.
        for cases in cases.chunks(8) {
            futures_util::future::join_all(cases.iter().map(one)).await;
        }
        assert_eq!(door.raw.seen().first().map(|seen| seen.head.clone()), None, "the upstream saw something");
        // The parser cuts a fragment off before anything of ours sees it: what is judged is what is sent.
        let fields = with(&own, ":path", "/cut#../admin");
        let frames = [frame(HEADERS, END_HEADERS, 1, &block(&fields)), frame(DATA, END_STREAM, 1, b"abc")];
        if sent(door, &alice, &frames).await == (End::Answered { ok: true }) {
            assert_eq!(door.raw.last().line(), "POST /cut HTTP/1.1");
        }
        // What is whole passes, and `te: trailers` is the one that may be said.
        let fields = [plain(), vec![("te", "trailers"), ("content-length", "3")]].concat();
        let frames = [frame(HEADERS, END_HEADERS, 1, &block(&fields)), frame(DATA, END_STREAM, 1, b"abc")];
        assert_eq!(sent(door, &alice, &frames).await, End::Answered { ok: true });
        assert_eq!(door.raw.last().body, b"abc");
    });
}

#[test]
fn a18_a_body_of_another_length_than_was_said_is_no_request() {
    with_door(Plan::default(), async |door| {
        let alice = door.sign_in("alice").await;
        let own = host("app");
        let head = |length: &'static str, flags: u8| {
            let fields = [with(&own, "", ""), vec![("content-length", length)]].concat();
            frame(HEADERS, END_HEADERS | flags, 1, &block(&fields))
        };
        let smuggled = format!("0\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: {own}\r\n\r\n");
        let evil = |bytes: &[u8]| frame(DATA, END_STREAM, 1, bytes);
        let cases: Vec<(&str, Vec<Vec<u8>>)> = vec![
            ("less", vec![head("5", 0), evil(b"abc")]),
            ("more", vec![head("3", 0), evil(smuggled.as_bytes())]),
            ("more, in pieces", vec![head("3", 0), frame(DATA, 0, 1, b"abc"), evil(smuggled.as_bytes())]),
            ("none", vec![head("5", END_STREAM)]),
            ("some where none was said", vec![head("0", 0), evil(smuggled.as_bytes())]),
            (
                "trailers before the end",
                vec![
                    head("5", 0),
                    frame(DATA, 0, 1, b"abc"),
                    frame(HEADERS, END_HEADERS | END_STREAM, 1, &block(&[("a", "b")])),
                ],
            ),
        ];
        for (what, frames) in &cases {
            let end = sent(door, &alice, frames).await;
            assert_ne!(end, End::Answered { ok: true }, "{what}");
        }
        // A head may have gone on before its body was seen to be wrong; nothing became a second request.
        let bytes = String::from_utf8_lossy(&door.raw.all_bytes()).into_owned();
        assert!(!bytes.contains("smuggled"), "{bytes}");
        for seen in door.raw.seen() {
            assert_eq!(seen.line(), "POST /x HTTP/1.1");
            assert!(seen.body.len() <= 3, "{seen:?}");
        }
        // A pseudo field after the end of a body that was whole is dropped, and so is all that came with it.
        let fields = block(&[("a", "b"), (":path", "/smuggled")]);
        let trailers = frame(HEADERS, END_HEADERS | END_STREAM, 1, &fields);
        sent(door, &alice, &[head("3", 0), frame(DATA, 0, 1, b"abc"), trailers]).await;
        assert!(!String::from_utf8_lossy(&door.raw.all_bytes()).contains("smuggled"));
        // Nothing of it is left on a connection that the next request gets.
        for _ in 0..10 {
            assert_eq!(door.get("app", Some(&alice), Speaks::Http2, "/mine").await.text(), "GET /mine HTTP/1.1");
        }
    });
}
