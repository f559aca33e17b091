//! What is bounded by time, and what waits for an upgrade's answer.

use std::io;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use doorward::gateway::guard_h1::{GuardControl, GuardH1, H1Limits, WireRefusal};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response, body::Incoming};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::Instant;

use super::{run, serve};

/// The client's end of a connection whose other end is served.
fn connect(limits: H1Limits) -> (tokio::io::DuplexStream, tokio::task::JoinHandle<(Vec<String>, usize, GuardControl)>) {
    let (client, server) = tokio::io::duplex(64 * 1024);
    (client, tokio::spawn(serve(server, limits)))
}

#[test]
fn a23_a_head_has_ten_seconds_from_its_first_byte() {
    run(async {
        let (mut client, server) = connect(H1Limits::default());
        tokio::time::sleep(Duration::from_secs(50)).await;
        let start = Instant::now();
        for byte in b"GET /x HTTP/1.1\r\nHost: a\r\n" {
            if client.write_all(&[*byte]).await.is_err() {
                break;
            }
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
        let (served, _, control) = server.await.unwrap();
        assert_eq!((served.len(), control.refusal()), (0, Some(WireRefusal::HeadTimeout)));
        assert!(control.may_answer());
        assert!(start.elapsed() >= Duration::from_secs(10));
    });
}

#[test]
fn a23_an_idle_connection_ends_quietly() {
    run(async {
        let start = Instant::now();
        let (_client, server) = connect(H1Limits::default());
        let (_, _, control) = server.await.unwrap();
        assert_eq!(control.refusal(), Some(WireRefusal::Idle));
        assert!(!control.may_answer());
        let waited = start.elapsed();
        assert!(waited >= Duration::from_secs(60) && waited < Duration::from_secs(61), "{waited:?}");
    });
}

#[test]
fn a23_idle_time_begins_again_with_each_request() {
    run(async {
        let (mut client, server) = connect(H1Limits::default());
        let start = Instant::now();
        for _ in 0..5 {
            tokio::time::sleep(Duration::from_secs(50)).await;
            client.write_all(b"GET /x HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
        }
        let (served, _, control) = server.await.unwrap();
        assert_eq!((served.len(), control.refusal()), (5, Some(WireRefusal::Idle)));
        let waited = start.elapsed();
        assert!(waited >= Duration::from_secs(310) && waited < Duration::from_secs(311), "{waited:?}");
    });
}

#[test]
fn a23_a_slow_body_is_cut_and_a_steady_one_is_not() {
    for (every, bytes, cut) in
        [(1000, 200, true), (1000, 1200, false), (9000, 10, true), (500, 1, true), (20_000, 30_000, false)]
    {
        run(async {
            let (mut client, server) = connect(H1Limits::default());
            let start = Instant::now();
            let length = bytes * 60;
            client
                .write_all(format!("POST /x HTTP/1.1\r\nHost: a\r\nContent-Length: {length}\r\n\r\n").as_bytes())
                .await
                .unwrap();
            for _ in 0..60 {
                if client.write_all(&vec![b'y'; bytes]).await.is_err() {
                    break;
                }
                tokio::time::sleep(Duration::from_millis(every)).await;
            }
            let waited = start.elapsed();
            let (served, _, control) = server.await.unwrap();
            if cut {
                assert_eq!((served.len(), control.refusal()), (0, Some(WireRefusal::BodyTooSlow)), "{every} {bytes}");
                assert!(waited < Duration::from_secs(35), "{waited:?}");
                assert!(!control.may_answer());
            } else {
                assert_eq!((served.len(), control.refusal()), (1, Some(WireRefusal::Idle)), "{every} {bytes}");
            }
        });
    }
}

#[test]
fn a23_a_body_that_stops_is_cut_after_its_credit() {
    run(async {
        let (mut client, server) = connect(H1Limits::default());
        client.write_all(b"POST /x HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n").await.unwrap();
        for _ in 0..100 {
            client.write_all(format!("1000\r\n{}\r\n", "y".repeat(4096)).as_bytes()).await.unwrap();
        }
        let start = Instant::now();
        let (_, _, control) = server.await.unwrap();
        assert_eq!(control.refusal(), Some(WireRefusal::BodyTooSlow));
        let waited = start.elapsed();
        assert!(waited >= Duration::from_secs(29) && waited < Duration::from_secs(31), "{waited:?}");
    });
}

/// Serves one endless response, chunk after chunk as the channel gives them.
fn stream(
    limits: H1Limits,
    buffer: usize,
) -> (tokio::io::DuplexStream, tokio::sync::mpsc::Sender<Bytes>, tokio::task::JoinHandle<GuardControl>) {
    let (client, server) = tokio::io::duplex(buffer);
    let (sender, receiver) = tokio::sync::mpsc::channel::<Bytes>(1);
    let control = GuardControl::new();
    let guard = GuardH1::new(server, limits, control.clone());
    let receiver = Arc::new(Mutex::new(Some(receiver)));
    let task = tokio::spawn(async move {
        let service = service_fn(|_: Request<Incoming>| {
            let (receiver, exchange) = (receiver.clone(), control.exchange());
            async move {
                let receiver = receiver.lock().unwrap().take().unwrap();
                let frames =
                    futures_util::stream::unfold((receiver, exchange), |(mut receiver, exchange)| async move {
                        let bytes = receiver.recv().await?;
                        Some((Ok::<_, io::Error>(hyper::body::Frame::data(bytes)), (receiver, exchange)))
                    });
                Ok::<_, io::Error>(Response::new(http_body_util::StreamBody::new(Box::pin(frames))))
            }
        });
        let _ended = http1::Builder::new().serve_connection(TokioIo::new(guard), service).await;
        control
    });
    (client, sender, task)
}

#[test]
fn a23_a_silent_stream_is_not_idle() {
    run(async {
        let (mut client, sender, server) = stream(H1Limits::default(), 64 * 1024);
        client.write_all(b"GET /events HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
        let mut buffer = vec![0; 4096];
        for _ in 0..5 {
            tokio::time::sleep(Duration::from_secs(1000)).await;
            sender.send(Bytes::from_static(b"data: x\n\n")).await.unwrap();
            assert!(client.read(&mut buffer).await.unwrap() > 0);
        }
        assert!(!server.is_finished());
        drop(sender);
        let start = Instant::now();
        assert_eq!(server.await.unwrap().refusal(), Some(WireRefusal::Idle));
        let waited = start.elapsed();
        assert!(waited >= Duration::from_secs(60) && waited <= Duration::from_secs(121), "{waited:?}");
    });
}

#[test]
fn a23_a_client_that_takes_nothing_is_cut_off() {
    run(async {
        let (mut client, sender, server) = stream(H1Limits::default(), 4096);
        client.write_all(b"GET /big HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
        let start = Instant::now();
        while sender.send(Bytes::from(vec![b'x'; 16 * 1024])).await.is_ok() {}
        let control = server.await.unwrap();
        assert_eq!(control.refusal(), Some(WireRefusal::WriteStalled));
        assert!(!control.may_answer());
        assert!(start.elapsed() < Duration::from_secs(31), "{:?}", start.elapsed());
    });
}

#[test]
fn a23_a_client_that_takes_its_time_is_served() {
    run(async {
        let (mut client, sender, server) = stream(H1Limits::default(), 4096);
        client.write_all(b"GET /big HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").await.unwrap();
        let reader = tokio::spawn(async move {
            let (mut total, mut buffer) = (0, vec![0; 4096]);
            loop {
                tokio::time::sleep(Duration::from_secs(2)).await;
                match client.read(&mut buffer).await {
                    Ok(0) | Err(_) => return total,
                    Ok(length) => total += length,
                }
            }
        });
        for _ in 0..20 {
            sender.send(Bytes::from(vec![b'x'; 16 * 1024])).await.unwrap();
        }
        drop(sender);
        assert_eq!(server.await.unwrap().refusal(), None);
        assert!(reader.await.unwrap() > 20 * 16 * 1024);
    });
}

/// A guard alone, with the other ends of its stream and control in the test's hands.
fn alone() -> (tokio::io::DuplexStream, GuardH1<tokio::io::DuplexStream>, GuardControl) {
    let (client, server) = tokio::io::duplex(4096);
    let control = GuardControl::new();
    (client, GuardH1::new(server, H1Limits::default(), control.clone()), control)
}

const UPGRADE: &[u8] = b"GET /ws HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n";

#[test]
fn a17_nothing_is_read_between_an_upgrade_and_its_answer() {
    run(async {
        let (mut client, mut guard, control) = alone();
        let mut buffer = vec![0; 4096];
        client.write_all(UPGRADE).await.unwrap();
        assert_eq!(guard.read(&mut buffer).await.unwrap(), UPGRADE.len());
        client.write_all(b"\x81\x00raw").await.unwrap();
        assert!(tokio::time::timeout(Duration::from_secs(3600), guard.read(&mut buffer)).await.is_err());
        let other = control.clone();
        tokio::spawn(async move {
            tokio::time::sleep(Duration::from_secs(1)).await;
            other.tunnel();
        });
        assert_eq!(guard.read(&mut buffer).await.unwrap(), 5);
        client.write_all(b"GET / smuggled\n\n").await.unwrap();
        assert_eq!(guard.read(&mut buffer).await.unwrap(), 16);
        // A tunnel's silence is the pipeline's to bound.
        assert!(tokio::time::timeout(Duration::from_secs(86_400), guard.read(&mut buffer)).await.is_err());
        assert_eq!(control.refusal(), None);
    });
}

#[test]
fn a17_without_a_tunnel_the_next_bytes_are_a_request() {
    run(async {
        let (mut client, mut guard, control) = alone();
        let mut buffer = vec![0; 4096];
        for _ in 0..2 {
            client.write_all(UPGRADE).await.unwrap();
            assert_eq!(guard.read(&mut buffer).await.unwrap(), UPGRADE.len());
            control.no_tunnel();
        }
        client.write_all(b"\x81\x00raw\r\n\r\n").await.unwrap();
        let error = guard.read(&mut buffer).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
        assert_eq!(control.refusal().map(|refusal| refusal.status()), Some(400));
    });
}

#[test]
fn a17_bytes_behind_an_upgrade_refuse_it() {
    run(async {
        let (mut client, mut guard, control) = alone();
        client.write_all(&[UPGRADE, b"GET /admin HTTP/1.1\r\nHost: a\r\n\r\n"].concat()).await.unwrap();
        let mut buffer = vec![0; 4096];
        assert!(guard.read(&mut buffer).await.is_err());
        assert_eq!(control.refusal().map(|refusal| refusal.status()), Some(400));
        assert!(control.may_answer());
        // An early verdict, or one that nobody waits for, opens nothing.
        let (mut client, mut guard, control) = alone();
        control.tunnel();
        client.write_all(b"GET /x HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
        assert!(guard.read(&mut buffer).await.is_ok());
        control.tunnel();
        client.write_all(b"raw\n\n").await.unwrap();
        assert!(guard.read(&mut buffer).await.is_err());
    });
}

#[test]
fn a17_a_verdict_before_its_upgrade_counts_for_nothing() {
    run(async {
        let (mut client, mut guard, control) = alone();
        control.tunnel();
        let mut buffer = vec![0; 4096];
        client.write_all(UPGRADE).await.unwrap();
        assert_eq!(guard.read(&mut buffer).await.unwrap(), UPGRADE.len());
        client.write_all(b"raw").await.unwrap();
        assert!(tokio::time::timeout(Duration::from_secs(60), guard.read(&mut buffer)).await.is_err());
    });
}
