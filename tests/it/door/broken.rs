//! Answers that break off after their head, and uploads that stand still: who waits for an answer gets one that
//! says what became of the request, and nobody sends it again because there was none.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::StreamExt;
use http::Method;
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Frame;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::exchange::body;
use super::fixture::{BOTH, ClientBody, Door, Got, Person, Plan, Speaks, full, read, service_toml, with_door};
use super::grant_tokens::api;
use super::upstream::Reply;

/// An upstream of HTTP/2 that answers the first request of each connection, and the next with a head alone before
/// it hangs up; and how many requests it got to their end.
async fn breaking() -> (SocketAddr, Arc<AtomicUsize>) {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let (address, carried_out) = (listener.local_addr().unwrap(), Arc::new(AtomicUsize::new(0)));
    let counted = Arc::clone(&carried_out);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(broken(stream, Arc::clone(&counted)));
        }
    });
    (address, carried_out)
}

async fn broken(mut stream: TcpStream, carried_out: Arc<AtomicUsize>) -> std::io::Result<()> {
    const END_STREAM: u8 = 1;
    let mut preface = [0; 24];
    stream.read_exact(&mut preface).await?;
    stream.write_all(&[0, 0, 0, 4, 0, 0, 0, 0, 0]).await?;
    let mut answered = false;
    loop {
        let mut header = [0; 9];
        stream.read_exact(&mut header).await?;
        let length = usize::from(header[0]) << 16 | usize::from(header[1]) << 8 | usize::from(header[2]);
        stream.read_exact(&mut vec![0; length]).await?;
        // DATA or HEADERS with which a request ends.
        if header[3] > 1 || header[4] & END_STREAM == 0 {
            continue;
        }
        carried_out.fetch_add(1, Ordering::SeqCst);
        let id = &header[5..];
        if answered {
            // `:status: 200` and `content-length: 10`, and no more.
            let block = [0x88, 0x0f, 0x0d, 2, b'1', b'0'];
            stream.write_all(&[&[0, 0, 6, 1, 4][..], id, &block].concat()).await?;
            stream.shutdown().await?;
            stream.read_to_end(&mut Vec::new()).await?;
            return Ok(());
        }
        // `:status: 204`.
        stream.write_all(&[&[0, 0, 1, 1, 5][..], id, &[0x89]].concat()).await?;
        answered = true;
    }
}

#[test]
fn an_answer_that_breaks_right_after_its_head_is_told_and_its_request_is_not_sent_again() {
    with_door(Plan::default(), async |door| {
        let alice = door.sign_in("alice").await;
        door.raw.reply("/breaks", Reply::Close(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n".to_vec()));
        for speaks in BOTH {
            let (address, carried_out) = breaking().await;
            door.write("rpc/service.toml", &service_toml(&format!("\"h2c://{address}\""), "", ""));
            door.running().reload().unwrap();
            for service in ["app", "rpc"] {
                let before = door.raw.count();
                let mut client = door.client(service, Some(&alice), speaks).await;
                assert!(client.get("/x").await.status.is_success(), "{service} {speaks:?}");
                let request = client.request(Method::POST, "/breaks").body(full("once")).unwrap();
                let answer = client.send(request).await.unwrap_or_else(|error| panic!("{service} {speaks:?}: {error}"));
                assert!(answer.headers().contains_key("doorward-decision"), "{service} {speaks:?}: {answer:?}");
                // Where the head came alone it was passed on, and then there is no good end.
                if answer.status() == 200 {
                    assert!(answer.into_body().collect().await.is_err(), "{service} {speaks:?}");
                } else {
                    let got = read(answer).await;
                    assert_eq!((got.status.as_u16(), got.reason().as_str()), (502, "upstream_unavailable"));
                }
                let count =
                    if service == "app" { door.raw.count() - before } else { carried_out.load(Ordering::SeqCst) };
                assert_eq!(count, 2, "{service} {speaks:?}");
            }
        }
    });
}

#[test]
fn what_came_with_the_head_of_an_answer_is_passed_on_whole() {
    with_door(Plan::default(), async |door| {
        let alice = door.sign_in("alice").await;
        let chunks = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nab\r\n3\r\ncde\r\n0\r\n\r\n";
        door.raw.reply("/chunks", Reply::Bytes(chunks.as_bytes().to_vec()));
        let none = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n";
        door.raw.reply("/none", Reply::Bytes(none.as_bytes().to_vec()));
        door.raw.reply("/length", Reply::Bytes(b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nabcde".to_vec()));
        door.raw.reply("/until-closed", Reply::Close(b"HTTP/1.1 200 OK\r\n\r\nabcde".to_vec()));
        for speaks in BOTH {
            let mut client = door.client("app", Some(&alice), speaks).await;
            for (path, wanted) in
                [("/chunks", "abcde"), ("/none", ""), ("/length", "abcde"), ("/until-closed", "abcde")]
            {
                let got = client.get(path).await;
                assert_eq!((got.status.as_u16(), got.text().as_str()), (200, wanted), "{path} {speaks:?}");
            }
        }
    });
}

/// A body of these pieces, with such a pause before each but the first.
fn paused(pieces: usize, pause: Duration) -> ClientBody {
    let pieces = futures_util::stream::iter(0..pieces).then(move |number| async move {
        if number > 0 {
            tokio::time::sleep(pause).await;
        }
        Ok(Frame::data(Bytes::from_static(b"piece ")))
    });
    StreamBody::new(pieces).boxed_unsync()
}

/// Sends such a body; the answer and how long it took.
async fn upload(door: &Door, person: &Person, service: &str, speaks: Speaks, body: ClientBody) -> (Got, Duration) {
    let mut client = door.client(service, Some(person), speaks).await;
    let began = Instant::now();
    let request = client.request(Method::POST, "/upload").body(body).unwrap();
    let sent = tokio::time::timeout(Duration::from_secs(30), client.send(request));
    let got = read(sent.await.expect("an answer").unwrap()).await;
    (got, began.elapsed())
}

#[test]
fn a_client_that_pauses_its_upload_is_not_told_that_the_upstream_is_late() {
    let tables = "[timeouts]\nfirst_byte = \"1s\"".to_owned();
    with_door(Plan { tables, ..Plan::default() }, async |door| {
        let alice = door.sign_in("alice").await;
        let uploads = BOTH.into_iter().flat_map(|speaks| ["app", "rpc"].map(|service| (speaks, service)));
        let uploads = uploads
            .map(|(speaks, service)| upload(door, &alice, service, speaks, paused(2, Duration::from_millis(2500))));
        for (got, _) in futures_util::future::join_all(uploads).await {
            assert_eq!((got.status.as_u16(), got.text().as_str()), (200, "piece piece "));
        }
        // One that has all of it and says nothing is late, and so is one that takes no more of it.
        door.raw.reply("/upload", Reply::Stall);
        for body in [paused(1, Duration::ZERO), full(vec![b'x'; 64 << 20])] {
            let (got, took) = upload(door, &alice, "app", Speaks::Http2, body).await;
            assert_eq!((got.status.as_u16(), got.reason().as_str()), (504, "upstream_unavailable"));
            assert!(took < Duration::from_secs(10), "{took:?}");
        }
    });
}

#[test]
fn an_upload_that_stands_still_is_called_so_over_both_protocols() {
    // Without a limit of the service's it is the guard that ends it over HTTP/1.
    for tables in ["[timeouts]\nbody_idle = \"1s\"", ""] {
        with_door(Plan { tables: tables.to_owned(), ..Plan::default() }, async |door| {
            let alice = door.sign_in("alice").await;
            let still = || paused(2, Duration::from_secs(60));
            let uploads = BOTH.map(|speaks| upload(door, &alice, "app", speaks, still()));
            for (got, _) in futures_util::future::join_all(uploads).await {
                assert_eq!((got.status.as_u16(), got.reason().as_str()), (408, "ambiguous_request"), "{tables}");
                assert!(got.text().contains("stood still"), "{}", got.text());
            }
        });
    }
}

#[test]
fn why_tells_how_a_request_ended_that_was_let_through() {
    with_door(Plan::default(), async |door| {
        let alice = door.sign_in("alice").await;
        let gone = TcpListener::bind(("127.0.0.1", 0)).await.unwrap().local_addr().unwrap();
        door.write("rpc/service.toml", &service_toml(&format!("\"http://{gone}\""), "", ""));
        door.running().reload().unwrap();
        let got = door.get("rpc", Some(&alice), Speaks::Http2, "/x").await;
        assert_eq!((got.status.as_u16(), got.reason().as_str()), (502, "upstream_unavailable"));
        let path = format!("/api/v1/decisions/{}", got.decision());
        let asked = async {
            loop {
                let told = api(door, Some(&alice), None, &path, None).await;
                if told.status == 200 && !body(&told)["ended"].is_null() {
                    return body(&told);
                }
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        };
        let told = tokio::time::timeout(Duration::from_secs(5), asked).await.expect("its end is on record");
        assert_eq!(told["outcome"], "allow");
        let ended = &told["ended"];
        assert_eq!(ended["status"], 502);
        assert_eq!(ended["reason"], "upstream_unavailable");
        assert_eq!(ended["fault"], "unreachable");
        let text = doorward::cli::why::told(&serde_json::from_value(told.clone()).unwrap());
        assert!(text.contains("It was answered 502") && text.contains("no upstream could be reached"), "{text}");
    });
}
