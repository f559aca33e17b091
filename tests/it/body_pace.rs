//! The rate that a request's body must keep over HTTP/2, and the code that a stream is reset with.
//! Time is moved, not waited for.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use doorward::gateway::body::{BodyError, Permit, Relay};
use doorward::gateway::guard::PaceLimits;
use doorward::model::{Timestamp, Ttl};
use http::{Request, Response};
use http_body_util::{BodyExt, Empty, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::support::TestClock;

/// What one upload came to: why it failed, if it did, and when.
async fn upload(
    every: Duration,
    bytes: usize,
    count: usize,
    pace: Option<PaceLimits>,
) -> (Option<BodyError>, Duration) {
    let (client, server) = tokio::io::duplex(64 * 1024);
    let (told, mut failed) = mpsc::unbounded_channel();
    let serve = tokio::task::spawn_local(async move {
        let service = service_fn(move |request: Request<Incoming>| {
            let told = told.clone();
            async move {
                let clock = TestClock::new();
                let permit = Permit {
                    streams: CancellationToken::new(),
                    ends_at: Timestamp::from_millis(i64::MAX),
                    clock: Arc::new(clock),
                    granted: None,
                    uses: None,
                };
                let mut relay = Relay::new(request.into_body(), permit, Ttl::hours(1), u64::MAX, |_| {}).paced(pace);
                let mut failure = None;
                while let Some(frame) = relay.frame().await {
                    failure = frame.err();
                    if failure.is_some() {
                        break;
                    }
                }
                told.send(failure).unwrap();
                Ok::<_, Infallible>(Response::new(Empty::<Bytes>::new()))
            }
        });
        let _ended =
            hyper::server::conn::http2::Builder::new(Local).serve_connection(TokioIo::new(server), service).await;
    });
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(client)).await.unwrap();
    tokio::spawn(connection);
    let (body, source) = mpsc::channel::<Result<Frame<Bytes>, Infallible>>(1);
    let stream =
        futures_util::stream::unfold(source, |mut source| async { source.recv().await.map(|it| (it, source)) });
    let request = Request::post("http://a/x").body(StreamBody::new(Box::pin(stream))).unwrap();
    let answer = tokio::spawn(sender.send_request(request));
    let began = Instant::now();
    for _ in 0..count {
        if body.send(Ok(Frame::data(vec![7; bytes].into()))).await.is_err() {
            break;
        }
        tokio::time::sleep(every).await;
        if !failed.is_empty() {
            break;
        }
    }
    drop(body);
    let failure = failed.recv().await.unwrap();
    let took = began.elapsed();
    drop((answer, serve));
    (failure, took)
}

#[derive(Clone, Copy)]
struct Local;

impl<F: Future + 'static> hyper::rt::Executor<F> for Local {
    fn execute(&self, future: F) {
        tokio::task::spawn_local(future);
    }
}

fn run(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
    tokio::task::LocalSet::new().block_on(&runtime, test);
}

#[test]
fn a23_a_slow_body_over_http2_is_cut_and_a_steady_one_is_not() {
    for (every, bytes, cut) in [(1000, 200, true), (1000, 1200, false), (9000, 10, true), (20_000, 30_000, false)] {
        run(async move {
            let every = Duration::from_millis(every);
            let (failure, took) = upload(every, bytes, 60, Some(PaceLimits::default())).await;
            assert_eq!(failure, cut.then_some(BodyError::Idle), "{every:?} {bytes}");
            assert_eq!(took < Duration::from_secs(36), cut, "{every:?} {bytes} {took:?}");
        });
    }
}

#[test]
fn a_body_without_a_pace_may_take_its_time() {
    run(async {
        let (failure, took) = upload(Duration::from_secs(60), 1, 20, None).await;
        assert_eq!(failure, None);
        assert!(took >= Duration::from_secs(1200));
    });
}
