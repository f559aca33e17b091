//! One connection, from its first byte to its end.

use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body::{Body as HttpBody, Frame, SizeHint};
use hyper::body::Incoming;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use rustls::server::Acceptor;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio_rustls::server::TlsStream;
use tokio_rustls::{LazyConfigAcceptor, StartHandshake};

use crate::audit::{Actor, Event, EventType, Outcome};
use crate::identity::breakglass::Telling;
use crate::model::{DecisionId, EventId};
use crate::policy::ClientCertificate;

use super::body::{Body, BodyError};
use super::executor::LocalExecutor;
use super::guard::{Exchange, GuardControl, PaceLimits, WireRefusal};
use super::guard_h1::{GuardH1, H1Limits};
use super::guard_h2::{GuardH2, H2Limits};
use super::handshake::{Channel, asked_name};
use super::pipeline::respond;
use super::settings::Settings;
use super::trust;
use super::worker::{Counted, Shared, Worker};

/// How long a connection with no exchange open is kept once draining has begun.
const SILENT_DRAIN: Duration = Duration::from_secs(1);
/// How long a request that has just come may take to hear that its client is not trusted any more.
const DISTRUSTED: Duration = Duration::from_millis(100);
/// How long the last words on a refused connection may take.
const LAST_WORDS: Duration = Duration::from_secs(2);

/// A connection to the control host on its way to the control runtime, its handshake begun.
pub struct ControlConnection {
    /// The client's hello, read.
    pub accepted: rustls::server::Accepted,
    /// The socket, of no runtime.
    pub stream: std::net::TcpStream,
    /// Where it came from.
    pub peer: SocketAddr,
    /// Counts it while it lasts.
    pub counted: Counted,
}

/// The guard's limits for HTTP/1.
#[must_use]
pub fn h1_limits(settings: &Settings) -> H1Limits {
    let pace = PaceLimits { bytes_per_second: settings.body_rate_min, ..PaceLimits::default() };
    H1Limits {
        head_bytes_max: settings.head_bytes,
        headers_max: settings.headers.min(H1Limits::default().headers_max),
        head_timeout: settings.head.duration(),
        idle_timeout: settings.keep_alive.duration(),
        body: pace,
        write: pace,
    }
}

/// Serves a connection of a service host, or hands one of the control host over.
///
/// Each step has its state on the heap while it lasts: thousands of connections wait for their next
/// request, and none of them needs room for a handshake, or for what only the other protocol has.
pub async fn serve(worker: Rc<Worker>, stream: TcpStream, peer: SocketAddr, counted: Counted) {
    let Some((channel, stream, counted)) = Box::pin(shake_hands(&worker, stream, peer, counted)).await else {
        return;
    };
    if channel.http2 {
        Box::pin(serve_h2(&worker, channel, stream)).await;
    } else {
        serve_h1(Rc::clone(&worker), channel, stream).await;
    }
    drop(counted);
}

/// The handshake of a service host's connection; none where it failed or was another's.
async fn shake_hands(
    worker: &Worker,
    stream: TcpStream,
    peer: SocketAddr,
    counted: Counted,
) -> Option<(Rc<Channel>, TlsStream<TcpStream>, Counted)> {
    let shared = &worker.shared;
    let failed = |reason| {
        shared.metrics.handshake_failed(reason);
        None
    };
    let handshake = shared.settings.handshake.duration();
    let deadline = tokio::time::Instant::now() + handshake;
    let hello = LazyConfigAcceptor::new(Acceptor::default(), stream);
    let hello = async {
        tokio::select! {
            start = hello => start,
            () = shared.draining.cancelled() => Err(std::io::ErrorKind::ConnectionAborted.into()),
        }
    };
    let start = match tokio::time::timeout_at(deadline, hello).await {
        Ok(Ok(start)) => start,
        Ok(Err(_)) => return failed("malformed"),
        Err(_) => return failed("timeout"),
    };
    let name = asked_name(start.client_hello().server_name());
    if name.as_deref() == Some(&*shared.settings.control_host) {
        hand_over(shared, start, peer, counted);
        return None;
    }
    let snapshot = shared.snapshot.load_full();
    let demanded = name.as_deref().and_then(|name| snapshot.demands_certificate(name));
    let config = match demanded {
        Some(ClientCertificate::Required) => &snapshot.tls.required,
        Some(ClientCertificate::Optional) => &snapshot.tls.optional,
        None => &snapshot.tls.refusing,
    };
    let stream = match tokio::time::timeout_at(deadline, start.into_stream(Arc::clone(config))).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => {
            note_handshake(shared, peer, name.as_deref(), &error.to_string());
            return failed(if demanded.is_none() { "unknown_name" } else { "refused" });
        }
        Err(_) => return failed("timeout"),
    };
    let state = stream.get_ref().1;
    let name = name.unwrap_or_default();
    match Channel::new(peer, name, state, &snapshot.tls.trust, snapshot.trust_epoch, worker.now()) {
        Ok(channel) => Some((Rc::new(channel), stream, counted)),
        Err(error) => {
            note_handshake(shared, peer, None, &error.to_string());
            failed("certificate")
        }
    }
}

fn hand_over(shared: &Shared, start: StartHandshake<TcpStream>, peer: SocketAddr, counted: Counted) {
    let Ok(stream) = start.io.into_std() else {
        return;
    };
    let connection = ControlConnection { accepted: start.accepted, stream, peer, counted };
    if shared.control.try_send(connection).is_err() {
        shared.metrics.handshake_failed("control_busy");
    }
}

/// A handshake that failed is a refusal of nobody in particular: recorded up to a rate, counted
/// beyond.
fn note_handshake(shared: &Shared, peer: SocketAddr, name: Option<&str>, error: &str) {
    let now = shared.clock.now();
    let id = EventId::fresh(now, &*shared.entropy);
    // What the verifier of openings said; nobody else begins so.
    let (kind, reason) = if error.contains("break-glass: ") {
        (EventType::BreakGlassRefused, "opening_refused")
    } else {
        (EventType::DecisionDeny, "no_credential")
    };
    let mut event = Event::new(id, now, kind, Outcome::Denied);
    let address = peer.ip().to_canonical();
    event.actor.address = Some(address);
    event.reason = Some(reason.into());
    if kind == EventType::BreakGlassRefused
        && shared.directory.emergency.refusals.take(address, None, now) == Telling::InACount
    {
        event.data.insert("repeated", true.into());
    }
    event.data.insert("handshake", error.chars().take(200).collect::<String>().into());
    if let Some(name) = name {
        event.data.insert("host", name.chars().take(253).collect::<String>().into());
    }
    drop(shared.recorder.refused(event));
}

/// The guard's limits for HTTP/2.
#[must_use]
pub fn h2_limits(settings: &Settings) -> H2Limits {
    let pace = PaceLimits { bytes_per_second: settings.body_rate_min, ..PaceLimits::default() };
    H2Limits {
        header_block_bytes_max: u32::try_from(settings.head_bytes).unwrap_or(u32::MAX),
        control_frames_max: settings.http2_control_frames,
        opening_timeout: settings.head.duration(),
        idle_timeout: settings.keep_alive.duration(),
        frame: pace,
        write: pace,
        ..H2Limits::default()
    }
}

fn serve_h1(worker: Rc<Worker>, channel: Rc<Channel>, stream: TlsStream<TcpStream>) -> impl Future<Output = ()> {
    let control = GuardControl::new();
    let guard = GuardH1::new(stream, h1_limits(&worker.shared.settings), control.clone());
    let service = service_fn({
        let (worker, channel, control) = (Rc::clone(&worker), Rc::clone(&channel), control.clone());
        move |request: Request<Incoming>| {
            let exchange = control.exchange();
            let (worker, channel, control) = (Rc::clone(&worker), Rc::clone(&channel), control.clone());
            // On the heap for as long as it takes: hyper keeps the room of its future for the next one.
            Box::pin(async move { respond(worker, channel, Some(control), request).await.map(|r| held(r, exchange)) })
        }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(None)
        .max_header_size(worker.shared.settings.head_bytes.saturating_mul(2))
        .serve_connection(TokioIo::new(guard), service)
        .with_upgrades();
    let mut connection = Box::pin(connection);
    async move {
        let shut_down = http1::UpgradeableConnection::graceful_shutdown;
        let untrusted = pin!(trust::lost(Arc::clone(&worker.shared), Rc::clone(&channel)));
        let driven = until_end(&worker.shared, channel.peer, &control, untrusted, connection.as_mut(), shut_down);
        if driven.await == Ended::Cut {
            return;
        }
        let Some(refusal) = control.refusal() else {
            return;
        };
        let Some(decision) = wire_decision(&worker.shared, refused_actor(&channel), &channel.name, refusal) else {
            return;
        };
        if control.may_answer() {
            let stream = Pin::into_inner(connection).into_parts().map(|parts| parts.io.into_inner().into_inner());
            // The client may be gone; then there is nobody to tell.
            let _ = tokio::time::timeout(LAST_WORDS, Box::pin(say(stream, last_words(refusal, decision)))).await;
        }
    }
}

async fn say(stream: Option<TlsStream<TcpStream>>, words: Vec<u8>) -> std::io::Result<()> {
    let Some(mut stream) = stream else { return Ok(()) };
    stream.write_all(&words).await?;
    stream.shutdown().await
}

async fn serve_h2(worker: &Rc<Worker>, channel: Rc<Channel>, stream: TlsStream<TcpStream>) {
    let control = GuardControl::new();
    let settings = &worker.shared.settings;
    let guard = GuardH2::new(stream, h2_limits(settings), control.clone());
    let service = service_fn({
        let (worker, channel, control) = (Rc::clone(worker), Rc::clone(&channel), control.clone());
        move |request: Request<Incoming>| {
            let exchange = control.exchange();
            let (worker, channel) = (Rc::clone(&worker), Rc::clone(&channel));
            async move { respond(worker, channel, None, request).await.map(|r| held(r, exchange)) }
        }
    });
    let connection = http2::Builder::new(LocalExecutor::new(worker.tasks.clone()))
        .timer(TokioTimer::new())
        .max_concurrent_streams(settings.http2_streams)
        // h2 refuses more than this without a word of ours; what lies between is refused where a decision is made.
        .max_header_list_size(u32::try_from(settings.head_bytes.saturating_mul(2)).unwrap_or(u32::MAX))
        .keep_alive_interval(Some(Duration::from_secs(30)))
        .keep_alive_timeout(Duration::from_secs(20))
        .serve_connection(TokioIo::new(guard), service);
    let mut connection = pin!(connection);
    let shut_down = http2::Connection::graceful_shutdown;
    let untrusted = pin!(trust::lost(Arc::clone(&worker.shared), Rc::clone(&channel)));
    let driven = until_end(&worker.shared, channel.peer, &control, untrusted, connection.as_mut(), shut_down);
    if driven.await == Ended::Cut {
        return;
    }
    if let Some(refusal) = control.refusal() {
        let _ = wire_decision(&worker.shared, refused_actor(&channel), &channel.name, refusal);
    }
}

/// How a connection was over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// By itself, or by either side's error.
    ByItself,
    /// It was cut: nothing more is said on it.
    Cut,
}

/// Drives a connection until it ends, is drained, or is cut because its client is `untrusted` from then on.
pub async fn until_end<C: Future<Output = hyper::Result<()>>>(
    shared: &Shared,
    peer: SocketAddr,
    control: &GuardControl,
    mut untrusted: Pin<&mut impl Future<Output = ()>>,
    mut connection: Pin<&mut C>,
    shut_down: impl Fn(Pin<&mut C>),
) -> Ended {
    let (mut asked, mut distrusted, mut cut_at) = (false, false, None::<tokio::time::Instant>);
    let ended = loop {
        tokio::select! {
            biased;
            ended = connection.as_mut() => break ended,
            () = shared.draining.cancelled(), if !asked => {
                asked = true;
                shut_down(connection.as_mut());
            }
            () = tokio::time::sleep(SILENT_DRAIN), if asked => {
                // hyper waits for a first request that may never come.
                if control.open_exchanges() == 0 {
                    return Ended::Cut;
                }
            }
            () = untrusted.as_mut(), if !distrusted => {
                distrusted = true;
                cut_at = Some(tokio::time::Instant::now() + DISTRUSTED);
            }
            () = until(cut_at), if cut_at.is_some() => {
                cut_at = None;
                // What is open is cut; without anything open the next request hears why.
                if control.open_exchanges() > 0 {
                    return Ended::Cut;
                }
            }
            () = shared.stopping.cancelled() => return Ended::Cut,
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, %peer, "a connection ended badly");
    }
    Ended::ByItself
}

async fn until(at: Option<tokio::time::Instant>) {
    if let Some(at) = at {
        tokio::time::sleep_until(at).await;
    }
}

fn refused_actor(channel: &Channel) -> Actor {
    Actor {
        address: Some(channel.peer.ip().to_canonical()),
        certificate: channel.certificate.as_ref().map(|certificate| certificate.thumbprint),
        ..Actor::default()
    }
}

/// Puts a message on record that a guard refused, as far as it is answered at all: who sent it is
/// known by address and certificate alone.
#[must_use]
pub fn wire_decision(shared: &Shared, actor: Actor, host: &str, refusal: WireRefusal) -> Option<DecisionId> {
    if !refusal.is_answered() {
        return None;
    }
    let now = shared.clock.now();
    let decision = DecisionId::fresh(now, &*shared.entropy);
    let mut event = Event::new(EventId::from_bytes(*decision.bytes()), now, EventType::DecisionDeny, Outcome::Denied);
    event.decision = Some(decision);
    event.actor = actor;
    event.reason = Some("ambiguous_request".into());
    event.data.insert("note", refusal.what().into());
    event.data.insert("host", host.into());
    event.data.insert("status", refusal.status().into());
    drop(shared.recorder.refused(event));
    Some(decision)
}

/// The answer to a message that hyper never saw, and the end of its connection.
#[must_use]
pub fn last_words(refusal: WireRefusal, decision: DecisionId) -> Vec<u8> {
    let status = http::StatusCode::from_u16(refusal.status()).unwrap_or(http::StatusCode::BAD_REQUEST);
    let body = serde_json::json!({
        "type": "urn:doorward:problem:ambiguous_request",
        "title": "The request can't be read safely",
        "status": status.as_u16(),
        "detail": format!("{}. The connection is closed.", refusal.what()),
        "decision": decision.to_string(),
        "reason": "ambiguous_request",
        "remedy": { "kind": "none" },
    })
    .to_string();
    format!(
        "HTTP/1.1 {} {}\r\ncontent-type: application/problem+json\r\ncontent-length: {}\r\ncache-control: no-store\r\n\
         doorward-decision: {decision}\r\nconnection: close\r\n\r\n{body}",
        status.as_u16(),
        status.canonical_reason().unwrap_or("Refused"),
        body.len(),
    )
    .into_bytes()
}

/// A body that marks its exchange as open until it is gone, or given up.
pub struct Held {
    body: Body,
    _exchange: Option<Exchange>,
}

fn held(response: Response<Body>, exchange: Exchange) -> Response<Held> {
    response.map(|mut body| match &mut body {
        Body::Full(_) => Held { body, _exchange: Some(exchange) },
        Body::Relay(relay) => {
            relay.hold(exchange);
            Held { body, _exchange: None }
        }
    })
}

impl HttpBody for Held {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
