//! Budgets for HTTP/2 frames, with raw frames against a real hyper server behind the guard, and with a
//! real client that must not notice it.

use std::io;
use std::time::Duration;

use bytes::Bytes;
use doorward::gateway::guard_h2::{Frames, GuardControl, GuardH2, H2Limits, WireRefusal};
use http_body_util::{BodyExt, Full};
use hyper::service::service_fn;
use hyper::{Request, Response, body::Incoming};
use hyper_util::rt::{TokioExecutor, TokioIo};
use proptest::prelude::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::task::JoinHandle;
use tokio::time::Instant;

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const SETTINGS: [u8; 9] = [0, 0, 0, 4, 0, 0, 0, 0, 0];
/// `:method GET`, `:scheme https`, `:path /`, `:authority a`, all from the static table but the last.
const GET: &[u8] = &[0x82, 0x87, 0x84, 0x41, 0x01, b'a'];

fn run<F: Future>(future: F) -> F::Output {
    tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap().block_on(future)
}

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// Serves a connection; every body is sent back.
fn connect(limits: H2Limits) -> (DuplexStream, JoinHandle<usize>, GuardControl) {
    let (client, server) = tokio::io::duplex(256 * 1024);
    let control = GuardControl::new();
    let guard = GuardH2::new(server, limits, control.clone());
    let task_control = control.clone();
    let task = tokio::spawn(async move {
        let served = std::sync::Arc::new(std::sync::atomic::AtomicUsize::new(0));
        let service = service_fn(|request: Request<Incoming>| {
            let exchange = task_control.exchange();
            served.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            async move {
                let wait = request.headers().get("wait").and_then(|wait| wait.to_str().ok()?.parse().ok()).unwrap_or(0);
                let body = request.into_body().collect().await?.to_bytes();
                tokio::time::sleep(Duration::from_secs(wait)).await;
                drop(exchange);
                Ok::<_, hyper::Error>(Response::new(Full::new(body)))
            }
        });
        let _ended = hyper::server::conn::http2::Builder::new(TokioExecutor::new())
            .serve_connection(TokioIo::new(guard), service)
            .await;
        served.load(std::sync::atomic::Ordering::Relaxed)
    });
    (client, task, control)
}

/// Opens a raw connection and reads in the background; gives the last frame read, when it ended.
fn raw(limits: H2Limits) -> (tokio::io::WriteHalf<DuplexStream>, JoinHandle<Vec<u8>>, JoinHandle<usize>, GuardControl) {
    let (client, server, control) = connect(limits);
    let (mut reader, writer) = tokio::io::split(client);
    let reading = tokio::spawn(async move {
        let mut last = Vec::new();
        loop {
            let mut header = [0; 9];
            if reader.read_exact(&mut header).await.is_err() {
                return last;
            }
            let mut payload = vec![0; u32::from_be_bytes([0, header[0], header[1], header[2]]) as usize];
            if reader.read_exact(&mut payload).await.is_err() {
                return last;
            }
            last = [&header[..], &payload].concat();
        }
    });
    (writer, reading, server, control)
}

/// Sends frames until the connection ends; gives how many were sent, why it ended and the last word.
async fn flood(frames: impl Fn(u32) -> Vec<u8>, most: u32) -> (u32, Option<WireRefusal>, Vec<u8>) {
    let (mut writer, reading, server, control) = raw(H2Limits::default());
    writer.write_all(&[PREFACE, &SETTINGS].concat()).await.unwrap();
    let mut sent = 0;
    while sent < most && writer.write_all(&frames(sent)).await.is_ok() {
        sent += 1;
        if sent % 16 == 0 {
            tokio::task::yield_now().await;
        }
    }
    drop(writer);
    server.await.unwrap();
    (sent, control.refusal(), reading.await.unwrap())
}

fn assert_calm(name: &str, sent: u32, at_most: u32, refusal: Option<WireRefusal>, last: &[u8]) {
    assert!(sent <= at_most, "{name}: {sent} sent");
    assert!(matches!(refusal, Some(WireRefusal::Flood { .. })), "{name}: {refusal:?}");
    assert_eq!(last, frame(7, 0, 0, &[0x7f, 0xff, 0xff, 0xff, 0, 0, 0, 0xb]), "{name}");
}

#[test]
fn a21_floods_of_control_frames_end_within_their_budget() {
    type Flood = (&'static str, fn(u32) -> Vec<u8>);
    let floods: [Flood; 7] = [
        ("settings", |_| SETTINGS.to_vec()),
        ("settings with a value", |_| frame(4, 0, 0, &[0, 3, 0, 0, 0, 100])),
        ("ping", |place| frame(6, 0, 0, &u64::from(place).to_be_bytes())),
        ("priority", |place| frame(2, 0, place * 2 + 1, &[0, 0, 0, 0, 16])),
        ("priority update", |_| frame(0x10, 0, 0, &[0, 0, 0, 1])),
        ("unknown", |_| frame(0xee, 0, 0, b"x")),
        ("window update", |_| frame(8, 0, 0, &[0, 0, 0, 1])),
    ];
    for (name, frames) in floods {
        let (sent, refusal, last) = run(flood(frames, 20_000));
        // What lies in the pipe when the door closes was sent too.
        assert_calm(name, sent, 1100, refusal, &last);
    }
}

#[test]
fn a20_rapid_reset_ends_within_two_thousand_frames() {
    let frames = |place: u32| [frame(1, 5, place * 2 + 1, GET), frame(3, 0, place * 2 + 1, &[0, 0, 0, 8])].concat();
    let (sent, refusal, last) = run(flood(frames, 20_000));
    // h2 may be the first to lose its patience.
    assert!(sent <= 1000, "{sent}");
    assert!(refusal.is_none() || matches!(refusal, Some(WireRefusal::Flood { .. })));
    assert_eq!((last.get(3), last.get(16)), (Some(&7), Some(&0xb)));
}

#[test]
fn a20_resets_alone_are_counted_by_the_guard() {
    let mut frames = Frames::new(H2Limits::default());
    let now = run(async { Instant::now() });
    frames.inspect(&[PREFACE, &SETTINGS].concat(), now);
    let mut sent = 0;
    while frames.refusal().is_none() {
        frames.inspect(&[frame(1, 5, sent * 2 + 1, GET), frame(3, 0, sent * 2 + 1, &[0, 0, 0, 8])].concat(), now);
        sent += 1;
    }
    assert_eq!(sent, 401);
    // One in three taken back goes on for ever.
    let mut frames = Frames::new(H2Limits::default());
    frames.inspect(&[PREFACE, &SETTINGS].concat(), now);
    for place in 0..10_000 {
        frames.inspect(&frame(1, 5, place * 2 + 1, GET), now);
        if place % 3 == 0 {
            frames.inspect(&frame(3, 0, place * 2 + 1, &[0, 0, 0, 8]), now);
        }
    }
    assert_eq!(frames.refusal(), None);
}

#[test]
fn a20_empty_data_and_continuation_floods_end() {
    let frames = |place: u32| match place {
        0 => frame(1, 4, 1, &[0x83, 0x87, 0x84, 0x41, 0x01, b'a']),
        _ => frame(0, 0, 1, b""),
    };
    let (sent, refusal, last) = run(flood(frames, 20_000));
    assert!(sent <= 300, "{sent}");
    assert!(refusal.is_none() || matches!(refusal, Some(WireRefusal::Flood { .. })), "{refusal:?}");
    assert_eq!((last.get(3), last.get(16)), (Some(&7), Some(&0xb)));

    let frames = |place: u32| match place {
        0 => frame(1, 1, 1, GET),
        _ => frame(9, 0, 1, b""),
    };
    let (sent, refusal, last) = run(flood(frames, 20_000));
    assert!(sent <= 32, "{sent}");
    assert!(refusal.is_none() || matches!(refusal, Some(WireRefusal::Flood { .. })), "{refusal:?}");
    assert_eq!((last.get(3), last.get(16)), (Some(&7), Some(&0xb)));

    let mut frames = Frames::new(H2Limits::default());
    frames.inspect(&[PREFACE, &SETTINGS, &frame(1, 1, 1, GET)].concat(), run(async { Instant::now() }));
    for _ in 0..16 {
        assert_eq!(frames.refusal(), None);
        frames.inspect(&frame(9, 0, 1, b""), run(async { Instant::now() }));
    }
    assert!(matches!(frames.refusal(), Some(WireRefusal::Flood { .. })));
}

#[test]
fn a22_header_blocks_are_bounded() {
    let frames = |place: u32| match place {
        0 => frame(1, 1, 1, &vec![0; 16_384]),
        _ => frame(9, 0, 1, &vec![0; 16_384]),
    };
    let (sent, refusal, _) = run(flood(frames, 100));
    assert!(sent < 24, "{sent}");
    assert_eq!(refusal, Some(WireRefusal::HeadTooLarge));
}

#[test]
fn a21_the_budget_is_per_window() {
    let mut frames = Frames::new(H2Limits::default());
    let start = run(async { Instant::now() });
    frames.inspect(&[PREFACE, &SETTINGS].concat(), start);
    for window in 0..5 {
        let now = start + Duration::from_secs(10) * window;
        for _ in 0..999 {
            frames.inspect(&frame(6, 0, 0, &[0; 8]), now);
        }
        assert_eq!(frames.refusal(), None, "{window}");
    }
}

#[test]
fn a21_who_is_sent_much_may_update_much() {
    let mut frames = Frames::new(H2Limits::default());
    let start = run(async { Instant::now() });
    frames.inspect(&[PREFACE, &SETTINGS].concat(), start);
    for round in 0..20_000_u32 {
        frames.wrote(16_384);
        let now = start + Duration::from_millis(u64::from(round));
        frames.inspect(&[frame(8, 0, 0, &[0, 0, 64, 0]), frame(8, 0, 1, &[0, 0, 64, 0])].concat(), now);
    }
    assert_eq!(frames.refusal(), None);
}

#[test]
fn what_is_not_http2_is_refused() {
    for (name, bytes) in [
        ("http/1", b"GET / HTTP/1.1\r\nHost: a\r\n\r\n".to_vec()),
        ("broken preface", b"PRI * HTTP/2.0\r\n\r\nSX\r\n\r\n".to_vec()),
        ("no settings", [PREFACE, &frame(6, 0, 0, &[0; 8])].concat()),
        ("settings acknowledged first", [PREFACE, &frame(4, 1, 0, b"")].concat()),
        ("push promise", [PREFACE, &SETTINGS, &frame(5, 4, 1, &[0, 0, 0, 2])].concat()),
        ("frame in a block", [PREFACE, &SETTINGS, &frame(1, 1, 1, GET), &frame(6, 0, 0, &[0; 8])].concat()),
        ("continuation of nothing", [PREFACE, &SETTINGS, &frame(9, 4, 1, GET)].concat()),
        ("frame too large", [PREFACE, &SETTINGS, &[0, 0x40, 1, 0, 0, 0, 0, 0, 1][..]].concat()),
        ("settings too large", [PREFACE, &SETTINGS, &frame(4, 0, 0, &[0; 6 * 65])].concat()),
    ] {
        let (served, refusal) = run(async {
            let (mut writer, _reading, server, control) = raw(H2Limits::default());
            let _cut_off = writer.write_all(&bytes).await;
            (server.await.unwrap(), control.refusal())
        });
        assert!(
            matches!(refusal, Some(WireRefusal::Malformed { .. } | WireRefusal::FrameTooLarge)),
            "{name}: {refusal:?}"
        );
        assert_eq!(served, 0, "{name}");
    }
}

#[test]
fn a23_an_opening_a_frame_and_idleness_have_their_time() {
    let cases: [(&str, Vec<u8>, WireRefusal, u64); 6] = [
        ("nothing", Vec::new(), WireRefusal::HeadTimeout, 10),
        ("half a preface", PREFACE[..9].to_vec(), WireRefusal::HeadTimeout, 10),
        ("no settings", PREFACE.to_vec(), WireRefusal::HeadTimeout, 10),
        ("half a frame", [PREFACE, &SETTINGS, &frame(6, 0, 0, &[0; 8])[..12]].concat(), WireRefusal::BodyTooSlow, 10),
        ("half a block", [PREFACE, &SETTINGS, &frame(1, 1, 1, GET)].concat(), WireRefusal::BodyTooSlow, 10),
        ("no request", [PREFACE, &SETTINGS].concat(), WireRefusal::Idle, 180),
    ];
    for (name, bytes, expected, seconds) in cases {
        run(async {
            let start = Instant::now();
            let (mut writer, _reading, server, control) = raw(H2Limits::default());
            writer.write_all(&bytes).await.unwrap();
            server.await.unwrap();
            assert_eq!(control.refusal(), Some(expected), "{name}");
            let waited = start.elapsed();
            assert!(
                waited >= Duration::from_secs(seconds) && waited < Duration::from_secs(seconds + 1),
                "{name}: {waited:?}"
            );
        });
    }
}

#[test]
fn a23_pings_do_not_keep_an_idle_connection() {
    run(async {
        let start = Instant::now();
        let (mut writer, reading, server, control) = raw(H2Limits::default());
        writer.write_all(&[PREFACE, &SETTINGS].concat()).await.unwrap();
        while writer.write_all(&frame(6, 0, 0, &[0; 8])).await.is_ok() {
            tokio::time::sleep(Duration::from_secs(5)).await;
        }
        server.await.unwrap();
        assert_eq!(control.refusal(), Some(WireRefusal::Idle));
        assert!(start.elapsed() < Duration::from_secs(190));
        // It is told so, without blame.
        assert_eq!(reading.await.unwrap(), frame(7, 0, 0, &[0x7f, 0xff, 0xff, 0xff, 0, 0, 0, 0]));
    });
}

#[test]
fn a23_an_h2_client_that_takes_nothing_is_cut_off() {
    run(async {
        let (client, server) = tokio::io::duplex(4096);
        let control = GuardControl::new();
        let guard = GuardH2::new(server, H2Limits::default(), control.clone());
        let task = tokio::spawn(async move {
            let service = service_fn(|_: Request<Incoming>| async {
                Ok::<_, io::Error>(Response::new(Full::new(Bytes::from(vec![0; 1 << 20]))))
            });
            let _ended = hyper::server::conn::http2::Builder::new(TokioExecutor::new())
                .serve_connection(TokioIo::new(guard), service)
                .await;
        });
        let (_unread, mut writer) = tokio::io::split(client);
        let window = frame(8, 0, 0, &[0x10, 0, 0, 0]);
        let settings = frame(4, 0, 0, &[0, 4, 0x10, 0, 0, 0]);
        writer.write_all(&[PREFACE, &settings, &window, &frame(1, 5, 1, GET)].concat()).await.unwrap();
        let start = Instant::now();
        task.await.unwrap();
        assert_eq!(control.refusal(), Some(WireRefusal::WriteStalled));
        assert!(start.elapsed() < Duration::from_secs(31));
    });
}

#[test]
fn a_real_client_does_not_notice_the_guard() {
    run(async {
        let (client, server, control) = connect(H2Limits::default());
        let (mut sender, connection) =
            hyper::client::conn::http2::handshake::<_, _, Full<Bytes>>(TokioExecutor::new(), TokioIo::new(client))
                .await
                .unwrap();
        let driver = tokio::spawn(connection);
        let mut answers = Vec::new();
        for place in 0..3000_usize {
            let body = Bytes::from(vec![b'x'; place % 50 * 1000]);
            let request = Request::builder()
                .method("POST")
                .uri("https://a/x")
                .header("cookie", "a=b")
                .body(Full::new(body))
                .unwrap();
            sender.ready().await.unwrap();
            answers.push((place, tokio::spawn(sender.send_request(request))));
            if answers.len() == 20 {
                for (place, answer) in answers.drain(..) {
                    let body = answer.await.unwrap().unwrap().into_body().collect().await.unwrap().to_bytes();
                    assert_eq!(body.len(), place % 50 * 1000);
                }
            }
        }
        for (_, answer) in answers {
            answer.await.unwrap().unwrap().into_body().collect().await.unwrap();
        }
        // Silence while an answer is being made is not idleness.
        let request = Request::builder().uri("https://a/x").header("wait", "5000").body(Full::default()).unwrap();
        assert!(sender.send_request(request).await.is_ok());
        assert_eq!(control.refusal(), None);
        drop(sender);
        driver.await.unwrap().unwrap();
        assert_eq!(server.await.unwrap(), 3001);
    });
}

fn frames_of_a_client() -> impl Strategy<Value = Vec<u8>> {
    let kind = prop_oneof![0_u8..=9, any::<u8>()];
    let one = (kind, any::<u8>(), 0_u32..8, proptest::collection::vec(any::<u8>(), 0..40))
        .prop_map(|(kind, flags, stream, payload)| frame(kind, flags, stream, &payload));
    proptest::collection::vec(one, 0..40).prop_map(|frames| [PREFACE, &SETTINGS, &frames.concat()].concat())
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a21_no_cut_of_the_bytes_changes_the_count(bytes in frames_of_a_client(), cuts in proptest::collection::vec(1_usize..30, 1..50)) {
        let limits = H2Limits { control_frames_max: 10, resets_max: 3, window_updates_max: 3, empty_data_max: 2, ..H2Limits::default() };
        let now = run(async { Instant::now() });
        let mut whole = Frames::new(limits);
        let passed = whole.inspect(&bytes, now);
        let mut cut = Frames::new(limits);
        let mut rest = &bytes[..];
        let mut total = 0;
        for size in cuts.iter().cycle() {
            if rest.is_empty() || cut.refusal().is_some() {
                break;
            }
            let (piece, tail) = rest.split_at((*size).min(rest.len()));
            total += cut.inspect(piece, now);
            rest = tail;
        }
        prop_assert_eq!(whole.refusal(), cut.refusal());
        prop_assert_eq!(passed, total);
        prop_assert_eq!(passed == bytes.len(), whole.refusal().is_none());
    }
}
