//! The strict reader under hyper's HTTP/1, with a real hyper server behind it. Time stands still but
//! for the timers: a connection that nobody refuses ends as idle, at once.

mod messages;
mod waiting;

use std::collections::VecDeque;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};

use bytes::Bytes;
use doorward::gateway::canonical::{PathRules, canonical};
use doorward::gateway::guard_h1::{GuardControl, GuardH1, H1Limits, WireRefusal};
use http_body_util::{BodyExt, Full};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response, body::Incoming};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};

use messages::Expect::{self, Ambiguous, Refused, Served};
use messages::messages;

/// A client that sends its pieces one by one, then nothing, and takes everything.
struct Pieces {
    pieces: VecDeque<Vec<u8>>,
    breath: bool,
    written: Arc<Mutex<Vec<u8>>>,
}

impl AsyncRead for Pieces {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        // A pause before each piece, so that hyper and the service work on what they have.
        self.breath = !self.breath;
        if self.breath {
            if !self.pieces.is_empty() {
                cx.waker().wake_by_ref();
            }
            return Poll::Pending;
        }
        let Some(mut piece) = self.pieces.pop_front() else { return Poll::Pending };
        let rest = piece.split_off(piece.len().min(buffer.remaining()));
        buffer.put_slice(&piece);
        if !rest.is_empty() {
            self.pieces.push_front(rest);
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Pieces {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.written.lock().unwrap().extend_from_slice(bytes);
        Poll::Ready(Ok(bytes.len()))
    }
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Outcome {
    /// What the service would have passed on: method, target, body.
    served: Vec<String>,
    /// What the canonical reading refused.
    ambiguous: usize,
    refusal: Option<WireRefusal>,
    /// Status codes that hyper wrote by itself or for the service.
    statuses: Vec<u16>,
}

fn statuses(written: &[u8]) -> Vec<u16> {
    String::from_utf8_lossy(written)
        .match_indices("HTTP/1.")
        .map(|(place, _)| String::from_utf8_lossy(&written[place + 9..place + 12]).parse().unwrap())
        .collect()
}

async fn serve<S: AsyncRead + AsyncWrite + Unpin + Send + 'static>(
    io: S,
    limits: H1Limits,
) -> (Vec<String>, usize, GuardControl) {
    let control = GuardControl::new();
    let served = Arc::new(Mutex::new(Vec::new()));
    let ambiguous = Arc::new(Mutex::new(0));
    let guard = GuardH1::new(io, limits, control.clone());
    let service = service_fn(|request: Request<Incoming>| {
        let (control, served, ambiguous) = (control.clone(), served.clone(), ambiguous.clone());
        async move {
            let exchange = control.exchange();
            let upgrade = request.headers().contains_key("upgrade");
            let read = canonical(&request, PathRules::default());
            let status = match read {
                Err(why) => {
                    *ambiguous.lock().unwrap() += 1;
                    why.status()
                }
                Ok(read) => {
                    let body = request.into_body().collect().await?.to_bytes();
                    let line = format!("{} {} {}", read.method, read.target(), String::from_utf8_lossy(&body));
                    served.lock().unwrap().push(line.trim_end().to_owned());
                    200
                }
            };
            if upgrade {
                control.no_tunnel();
            }
            drop(exchange);
            Ok::<_, hyper::Error>(Response::builder().status(status).body(Full::new(Bytes::new())).unwrap())
        }
    });
    let _ended = http1::Builder::new().serve_connection(TokioIo::new(guard), service).await;
    let served = served.lock().unwrap().clone();
    let ambiguous = *ambiguous.lock().unwrap();
    (served, ambiguous, control)
}

async fn send(pieces: Vec<Vec<u8>>) -> Outcome {
    let written = Arc::new(Mutex::new(Vec::new()));
    let io = Pieces { pieces: pieces.into(), breath: false, written: written.clone() };
    let (served, ambiguous, control) = serve(io, H1Limits::default()).await;
    let statuses = statuses(&written.lock().unwrap());
    Outcome { served, ambiguous, refusal: control.refusal(), statuses }
}

fn run<F: Future>(future: F) -> F::Output {
    tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap().block_on(future)
}

fn check(name: &str, expect: Expect, outcome: &Outcome, cut: &str) {
    let context = format!("{name} cut {cut}: {outcome:?}");
    match expect {
        Refused(statuses, before) => {
            let refusal = outcome.refusal.unwrap_or_else(|| panic!("{context}"));
            assert!(statuses.contains(&refusal.status()) && refusal != WireRefusal::Idle, "{context}");
            assert!(
                outcome.served.iter().map(String::as_str).eq(before.filter(|_| !outcome.served.is_empty())),
                "{context}"
            );
            // hyper says nothing of its own about it.
            assert!(outcome.statuses.iter().all(|status| *status == 200), "{context}");
            assert!(outcome.statuses.len() <= usize::from(before.is_some()), "{context}");
            assert_eq!(outcome.ambiguous, 0, "{context}");
        }
        Ambiguous => {
            assert_eq!((outcome.served.len(), outcome.ambiguous), (0, 1), "{context}");
            assert_eq!(outcome.statuses, [400], "{context}");
        }
        Served(requests) => {
            assert_eq!(outcome.served, requests, "{context}");
            assert_eq!(outcome.statuses.len(), requests.len(), "{context}");
            // HTTP/1.0 ends by itself.
            assert!(matches!(outcome.refusal, None | Some(WireRefusal::Idle)), "{context}");
        }
    }
}

#[test]
fn a12_to_a17_hostile_messages_never_become_two_requests() {
    let messages = messages();
    assert!(messages.len() >= 109, "{}", messages.len());
    for (name, bytes, expect) in messages {
        let outcome = run(send(vec![bytes]));
        check(name, expect, &outcome, "nowhere");
    }
}

#[test]
fn a12_to_a17_no_cut_of_the_bytes_changes_the_outcome() {
    for (name, bytes, expect) in messages() {
        for place in 1..bytes.len() {
            let outcome = run(send(vec![bytes[..place].to_vec(), bytes[place..].to_vec()]));
            check(name, expect, &outcome, &place.to_string());
        }
        let outcome = run(send(bytes.iter().map(|byte| vec![*byte]).collect()));
        check(name, expect, &outcome, "everywhere");
    }
}

#[test]
fn a12_a_bad_message_behind_a_good_one_leaves_one_request() {
    let good = "GET /good HTTP/1.1\r\nHost: a\r\n\r\n";
    for (name, bytes, expect) in messages() {
        if !matches!(expect, Refused(_, None)) {
            continue;
        }
        let outcome = run(send(vec![[good.as_bytes(), &bytes].concat()]));
        assert!(outcome.refusal.is_some_and(|refusal| refusal != WireRefusal::Idle), "{name}: {outcome:?}");
        assert!(outcome.served.is_empty() || outcome.served == ["GET /good"], "{name}: {outcome:?}");
        assert_eq!(outcome.ambiguous, 0, "{name}");
    }
}

#[test]
fn a22_heads_that_are_too_large_are_refused() {
    let head = |fields: usize, bytes: usize| {
        let mut text = String::from("GET /x HTTP/1.1\r\nHost: a\r\n");
        for field in 1..fields {
            text.push_str(&format!("X-{field}: {}\r\n", "y".repeat(bytes)));
        }
        text.push_str("\r\n");
        text.into_bytes()
    };
    for pieces in [1, 2, 7] {
        let cut = |bytes: Vec<u8>| bytes.chunks(bytes.len().div_ceil(pieces)).map(<[u8]>::to_vec).collect::<Vec<_>>();
        assert_eq!(run(send(cut(head(100, 500)))).served, ["GET /x"]);
        assert_eq!(run(send(cut(head(101, 1)))).refusal, Some(WireRefusal::TooManyHeaders));
        let outcome = run(send(cut(head(50, 1400))));
        assert_eq!((outcome.refusal, outcome.served.len()), (Some(WireRefusal::HeadTooLarge), 0));
        let long = format!("GET /{} HTTP/1.1\r\nHost: a\r\n\r\n", "x".repeat(66_000)).into_bytes();
        assert_eq!(run(send(cut(long))).refusal, Some(WireRefusal::HeadTooLarge));
    }
    let endless = vec![b"GET /x HTTP/1.1\r\n".to_vec(), b"X: ".to_vec(), vec![b'y'; 70_000]];
    assert_eq!(run(send(endless)).refusal, Some(WireRefusal::HeadTooLarge));
}

#[test]
fn a_refused_connection_can_still_be_told_why() {
    run(async {
        let (mut client, server) = tokio::io::duplex(4096);
        let control = GuardControl::new();
        let guard = GuardH1::new(server, H1Limits::default(), control.clone());
        let task = tokio::spawn(async move {
            let service =
                service_fn(|_: Request<Incoming>| async { Ok::<_, io::Error>(Response::new(Full::new(Bytes::new()))) });
            let mut connection = http1::Builder::new().serve_connection(TokioIo::new(guard), service);
            let _either = Pin::new(&mut connection).await;
            let mut io = connection.into_parts().io.into_inner().into_inner();
            assert!(control.may_answer());
            io.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await.unwrap();
        });
        client.write_all(b"GET /x HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n").await.unwrap();
        let mut answer = String::new();
        client.read_to_string(&mut answer).await.unwrap();
        assert_eq!(answer, "HTTP/1.1 400 Bad Request\r\n\r\n");
        task.await.unwrap();
    });
}
