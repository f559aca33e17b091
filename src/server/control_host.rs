//! The control host: sign-in, OAuth 2.0, API and pages, on the control runtime.
//!
//! Its connections come from the data path's listeners with the client's hello read. The same
//! guards stand under its HTTP, and every request is read in the same one way before the router
//! sees it: a host that is not ours, or a path with two readings, gets no further.

use std::net::SocketAddr;
use std::panic::AssertUnwindSafe;
use std::pin::{Pin, pin};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::http::HeaderValue;
use axum::http::header::{ALLOW, CONTENT_LENGTH};
use axum::response::Response;
use bytes::{Bytes, BytesMut};
use futures_util::FutureExt;
use http::{Method, Request, StatusCode, Version};
use http_body_util::BodyExt;
use hyper::body::{Body as _, Incoming};
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio_rustls::StartHandshake;
use tokio_rustls::server::TlsStream;
use tokio_util::task::TaskTracker;
use tower::ServiceExt;

use crate::audit::{Actor, RequestFacts};
use crate::control::caller::{ConnectionFacts, actor_at};
use crate::control::{Desk, challenge, refused};
use crate::gateway::canonical::{Ambiguity, PathRules, canonical};
use crate::gateway::connection::{
    ControlConnection, Ended, h1_limits, h2_limits, last_words, until_end, wire_decision,
};
use crate::gateway::executor::Tracked;
use crate::gateway::guard::GuardControl;
use crate::gateway::guard_h1::GuardH1;
use crate::gateway::guard_h2::GuardH2;
use crate::gateway::handshake::{Channel, asked_name};
use crate::gateway::limit;
use crate::gateway::pipeline::{form_of, not_oversized};
use crate::gateway::refusal::Form;
use crate::gateway::refusal::Refusal;
use crate::gateway::worker::Shared;
use crate::identity::certificate::{ClientCertificate, Issuer};
use crate::model::DecisionId;
use crate::model::address::counted_address;

/// How long the last words on a refused connection may take.
const LAST_WORDS: Duration = Duration::from_secs(2);

/// The waiting that a body may cause before its rate counts, and the rate, in bytes a second.
const BODY_GRACE: Duration = Duration::from_secs(10);
const RATE_MIN: usize = 1024;
/// One byte more than any handler takes, so that it sees that there is more.
const KEPT_BYTES_MAX: usize = 64 * 1024 + 1;
/// The longest body that is read to its end.
const DRAINED_BYTES_MAX: usize = 1024 * 1024;

/// What answers from memory alone: the emergency path, and keys for upstreams that check assertions.
const WITHOUT_DATABASE: [&str; 3] = ["/api/v1/breakglass/", "/oauth2/jwks", "/.well-known/"];

/// Serves connections of the control host until the gateway drains.
pub async fn run(
    shared: Arc<Shared>,
    desk: Arc<Desk>,
    router: Router,
    mut connections: mpsc::Receiver<ControlConnection>,
) {
    let tasks = TaskTracker::new();
    loop {
        let connection = tokio::select! {
            connection = connections.recv() => connection,
            () = shared.draining.cancelled() => None,
        };
        let Some(connection) = connection else {
            break;
        };
        let serving = serve(Arc::clone(&shared), Arc::clone(&desk), router.clone(), tasks.clone(), connection);
        tasks.spawn(serving);
    }
    tasks.close();
    tasks.wait().await;
}

async fn serve(
    shared: Arc<Shared>,
    desk: Arc<Desk>,
    router: Router,
    tasks: TaskTracker,
    connection: ControlConnection,
) {
    let ControlConnection { accepted, stream, peer, counted } = connection;
    let Ok(stream) = TcpStream::from_std(stream) else {
        return;
    };
    let start = StartHandshake::from_parts(accepted, stream);
    let name = asked_name(start.client_hello().server_name()).unwrap_or_default();
    let (config, trust, epoch) = {
        let snapshot = shared.snapshot.load();
        (Arc::clone(&snapshot.tls.optional), Arc::clone(&snapshot.tls.trust), snapshot.trust_epoch)
    };
    let handshake = tokio::time::timeout(shared.settings.handshake.duration(), start.into_stream(config)).await;
    let Ok(Ok(stream)) = handshake else {
        return shared.metrics.handshake_failed("refused");
    };
    let Ok(channel) = Channel::new(peer, name, stream.get_ref().1, &trust, epoch, shared.clock.now()) else {
        return shared.metrics.handshake_failed("certificate");
    };
    let http2 = channel.http2;
    let facts = Arc::new(facts_of(&channel));
    let host = Host { facts, peer, channel: Arc::new(Mutex::new(channel)), shared, desk, router, tasks };
    if http2 {
        serve_h2(&host, stream).await;
    } else {
        serve_h1(&host, stream).await;
    }
    drop(counted);
}

fn facts_of(channel: &Channel) -> ConnectionFacts {
    ConnectionFacts { address: channel.peer.ip().to_canonical(), certificate: channel.certificate.clone() }
}

#[derive(Clone)]
struct Host {
    facts: Arc<ConnectionFacts>,
    peer: SocketAddr,
    /// For asking again whether the client's authority is trusted still.
    channel: Arc<Mutex<Channel>>,
    shared: Arc<Shared>,
    desk: Arc<Desk>,
    router: Router,
    /// What hyper starts for an exchange is awaited as the connection is: a handler in mid-transaction must not
    /// outlive the database.
    tasks: TaskTracker,
}

impl Host {
    /// Reads the request in its one way and lets the router answer. What goes wrong in a handler is
    /// an answer too, and the process lives on.
    async fn answer(self, request: Request<Incoming>) -> Result<Response, std::convert::Infallible> {
        let form = form_of(request.method(), request.headers());
        let head_only = *request.method() == Method::HEAD;
        let protocol = if request.version() == Version::HTTP_2 { "h2" } else { "http/1.1" };
        let facts = refused::facts(&self.desk, request.method().as_str(), request.uri().path(), protocol);
        let passed = AssertUnwindSafe(self.pass(request)).catch_unwind().await;
        let mut response = match passed {
            Ok(Ok(response)) => response,
            Ok(Err(refusal)) => self.refuse(&refusal, form, facts).await,
            Err(_) => self.refuse(&Refusal::Internal, form, facts).await,
        };
        if head_only {
            // Over HTTP/2 hyper sends what it is given; `HEAD` gets none of it (RFC 9110 §9.3.2).
            let body = std::mem::take(response.body_mut());
            if let Some(length) = body.size_hint().exact().filter(|length| *length > 0) {
                response.headers_mut().entry(CONTENT_LENGTH).or_insert_with(|| length.into());
            }
        }
        Ok(response)
    }

    async fn pass(&self, mut request: Request<Incoming>) -> Result<Response, Refusal> {
        limit::control_request(&self.shared, counted_address(self.facts.address))?;
        not_oversized(&request, self.shared.settings.head_bytes)?;
        limit::fields(&self.shared, request.headers())?;
        let canonical = canonical(&request, PathRules { encoded_slash: false }).map_err(Refusal::Ambiguous)?;
        if canonical.host != self.shared.settings.control_host {
            return Err(Refusal::Misdirected);
        }
        if canonical.upgrade.is_some() {
            // There is none on this host.
            return Err(Refusal::Ambiguous(Ambiguity::MethodRefused));
        }
        self.still_trusted()?;
        let emergency = self.shared.emergency.load(Ordering::Acquire);
        if emergency && !WITHOUT_DATABASE.iter().any(|path| canonical.path.starts_with(path)) {
            return Err(Refusal::Emergency);
        }
        // The router sees the path that was judged, not the one that came.
        *request.uri_mut() = canonical.target().parse().map_err(|_| Refusal::Ambiguous(Ambiguity::TargetForm))?;
        request.extensions_mut().insert(Arc::clone(&self.facts));
        let (head, body) = request.into_parts();
        let grace = BODY_GRACE.min(self.shared.settings.body_idle.duration());
        let body = Body::from(sent(body, grace).await?);
        let Ok(response) = self.router.clone().oneshot(Request::from_parts(head, body)).await;
        Ok(response)
    }

    /// A connection outlives a reload: a certificate whose authority went with it is no credential.
    fn still_trusted(&self) -> Result<(), Refusal> {
        let ordinary = |certificate: &&ClientCertificate| certificate.issuer != Issuer::BreakGlass;
        if self.facts.certificate.as_ref().filter(ordinary).is_none() {
            return Ok(());
        }
        let snapshot = self.shared.snapshot.load();
        let channel = self.channel.lock().unwrap_or_else(PoisonError::into_inner);
        if channel.still_trusted(&snapshot.tls.trust, snapshot.trust_epoch, self.shared.clock.now()) {
            return Ok(());
        }
        Err(Refusal::BadCredential("the client certificate's authority is no longer trusted"))
    }

    /// Puts a refusal on record and writes it. Whoever asked is known by the session of the
    /// connection's certificate, else by address alone.
    async fn refuse(&self, refusal: &Refusal, form: Form, facts: RequestFacts) -> Response {
        let now = self.shared.clock.now();
        let decision = DecisionId::fresh(now, &*self.shared.entropy);
        let mut event = refused::denial(&self.desk, refusal.reason(), None, Some(&*self.facts), facts, decision, now);
        event.data.insert("host", self.shared.settings.control_host.as_str().into());
        event.data.insert("status", refusal.status().as_u16().into());
        if let Some(note) = refusal.note() {
            event.data.insert("note", note.into());
        }
        refused::put_on_record(&self.desk, event).await;
        let origin = &self.shared.settings.origin;
        let answer = refusal.response(decision, form, &challenge::metadata_url(origin), origin);
        let mut response = answer.map(|body| Body::from(body.into_own()));
        if response.status() == StatusCode::METHOD_NOT_ALLOWED {
            response.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD, POST"));
        }
        response
    }

    /// Who is no longer trusted hears why at the next request ([`Self::still_trusted`]).
    async fn until_end<C: Future<Output = hyper::Result<()>>>(
        &self,
        control: &GuardControl,
        connection: Pin<&mut C>,
        shut_down: impl Fn(Pin<&mut C>),
    ) -> Ended {
        until_end(&self.shared, self.peer, control, pin!(std::future::pending()), connection, shut_down).await
    }

    fn actor(&self) -> Actor {
        actor_at(&self.shared.directory, &self.facts, self.shared.clock.now())
    }
}

/// Reads what a client sends, to its end: a handler that refuses before it has read would have the
/// stream reset under its answer (RFC 9113 §8.1), which some clients take for a failure. What is
/// longer than any handler takes is read and dropped up to a bound, and the handler says so.
async fn sent(mut body: Incoming, grace: Duration) -> Result<Bytes, Refusal> {
    let began = tokio::time::Instant::now();
    let (mut kept, mut total) = (BytesMut::new(), 0_usize);
    while total <= DRAINED_BYTES_MAX && !body.is_end_stream() {
        let earned = Duration::from_secs(u64::try_from(total / RATE_MIN).unwrap_or(u64::MAX));
        match tokio::time::timeout_at(began + grace + earned, body.frame()).await {
            Err(_) => return Err(Refusal::BodySlow),
            Ok(None) => break,
            Ok(Some(Err(_))) => return Err(Refusal::BodyBroken),
            Ok(Some(Ok(frame))) => {
                let Ok(data) = frame.into_data() else { continue };
                total = total.saturating_add(data.len());
                let room = KEPT_BYTES_MAX.saturating_sub(kept.len()).min(data.len());
                kept.extend_from_slice(data.get(..room).unwrap_or_default());
            }
        }
    }
    Ok(kept.freeze())
}

async fn serve_h1(host: &Host, stream: TlsStream<TcpStream>) {
    let control = GuardControl::new();
    let guard = GuardH1::new(stream, h1_limits(&host.shared.settings), control.clone());
    let service = service_fn({
        let (host, control) = (host.clone(), control.clone());
        move |request: Request<Incoming>| {
            let (host, control) = (host.clone(), control.clone());
            async move {
                let exchange = control.exchange();
                let asks_upgrade = request.headers().contains_key(http::header::UPGRADE);
                let response = host.answer(request).await;
                if asks_upgrade {
                    control.no_tunnel();
                }
                drop(exchange);
                response
            }
        }
    });
    let mut connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(None)
        .serve_connection(TokioIo::new(guard), service);
    let shut_down = http1::Connection::graceful_shutdown;
    if host.until_end(&control, Pin::new(&mut connection), shut_down).await == Ended::Cut {
        return;
    }
    let Some(refusal) = control.refusal() else { return };
    let decision = wire_decision(&host.shared, host.actor(), &host.shared.settings.control_host, refusal);
    if let (Some(decision), true) = (decision, control.may_answer()) {
        let mut stream = connection.into_parts().io.into_inner().into_inner();
        let words = async {
            stream.write_all(&last_words(refusal, decision)).await?;
            stream.shutdown().await
        };
        // The client may be gone; then there is nobody to tell.
        let _ = tokio::time::timeout(LAST_WORDS, words).await;
    }
}

async fn serve_h2(host: &Host, stream: TlsStream<TcpStream>) {
    let control = GuardControl::new();
    let settings = &host.shared.settings;
    let guard = GuardH2::new(stream, h2_limits(settings), control.clone());
    let service = service_fn({
        let (host, control) = (host.clone(), control.clone());
        move |request: Request<Incoming>| {
            let (host, exchange) = (host.clone(), control.exchange());
            async move {
                let response = host.answer(request).await;
                drop(exchange);
                response
            }
        }
    });
    let connection = http2::Builder::new(Tracked::new(host.tasks.clone()))
        .timer(TokioTimer::new())
        .max_concurrent_streams(settings.http2_streams)
        .max_header_list_size(u32::try_from(settings.head_bytes.saturating_mul(2)).unwrap_or(u32::MAX))
        .keep_alive_interval(Some(Duration::from_secs(30)))
        .keep_alive_timeout(Duration::from_secs(20))
        .serve_connection(TokioIo::new(guard), service);
    let mut connection = pin!(connection);
    let shut_down = http2::Connection::graceful_shutdown;
    if host.until_end(&control, connection.as_mut(), shut_down).await == Ended::Cut {
        return;
    }
    if let Some(refusal) = control.refusal() {
        let _ = wire_decision(&host.shared, host.actor(), &host.shared.settings.control_host, refusal);
    }
}
