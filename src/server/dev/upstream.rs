//! The sample upstream behind every example service: says what it received, streams, upgrades.
//! HTTP/1.1 and cleartext HTTP/2 with prior knowledge (RFC 9113 §3.3) on one port.
//!
//! INVARIANT: `path` in its answers is the request target as it came over the wire, undecoded,
//! with its query; hyper reads an absolute-form target down to that part.

use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use axum::body::Body;
use axum::extract::ws::{Message, WebSocket, WebSocketUpgrade};
use axum::extract::{FromRequestParts, Request, State};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, Version, header};
use axum::response::{IntoResponse, Response};
use axum::{Json, Router};
use bytes::Bytes;
use data_encoding::BASE64;
use futures_util::stream;
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Frame;
use hyper::server::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use serde_json::{Map, Value, json};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;

use crate::model::Clock;

use super::super::accept;
use super::CONNECTIONS_MAX;

/// How HTTP/2 begins (RFC 9113 §3.4); no HTTP/1 method is `PRI`.
const PREFACE_START: &[u8; 4] = b"PRI ";
/// A new connection says what it speaks within this time.
const FIRST_BYTES_TIMEOUT: Duration = Duration::from_secs(10);
/// Between two events.
const EVENT_INTERVAL: Duration = Duration::from_secs(1);

/// The sample upstream, listening and not yet answering.
#[derive(Debug)]
pub struct DevUpstream {
    listener: TcpListener,
    address: SocketAddr,
    shared: Shared,
}

/// How many requests reached the upstream: what a refusal must not raise.
#[derive(Debug, Clone, Default)]
pub struct RequestCount(Arc<AtomicU64>);

impl RequestCount {
    /// The number so far.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

#[derive(Clone)]
struct Shared {
    clock: Arc<dyn Clock>,
    count: RequestCount,
    deployments: Arc<AtomicU64>,
    /// Ends upgraded connections, which their HTTP connection no longer owns.
    stopping: CancellationToken,
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} requests", self.count.total())
    }
}

impl DevUpstream {
    /// Listens; port 0 takes a free one.
    ///
    /// # Errors
    /// When the address is taken.
    pub async fn bind(address: SocketAddr, clock: Arc<dyn Clock>) -> io::Result<Self> {
        let listener = TcpListener::bind(address).await?;
        let address = listener.local_addr()?;
        let shared = Shared {
            clock,
            count: RequestCount::default(),
            deployments: Arc::default(),
            stopping: CancellationToken::new(),
        };
        Ok(Self { listener, address, shared })
    }

    /// Where it listens.
    #[must_use]
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// Counts requests while it serves.
    #[must_use]
    pub fn count(&self) -> RequestCount {
        self.shared.count.clone()
    }

    /// Answers until `shutdown` comes; open streams are then cut.
    pub async fn serve(self, shutdown: impl Future<Output = ()>) {
        let stopping = self.shared.stopping.clone();
        let _cut = stopping.drop_guard();
        let router = Router::new().fallback(answer).with_state(self.shared);
        accept::until(self.listener, CONNECTIONS_MAX, shutdown, move |stream| connection(stream, router.clone())).await;
    }
}

async fn connection(stream: TcpStream, router: Router) {
    let Ok(Ok(version)) = tokio::time::timeout(FIRST_BYTES_TIMEOUT, version_of(&stream)).await else { return };
    let service = TowerToHyperService::new(router);
    let io = TokioIo::new(stream);
    // A client that broke off is its own affair.
    if version == Version::HTTP_2 {
        let mut server = http2::Builder::new(TokioExecutor::new());
        server.timer(TokioTimer::new());
        let _ = server.serve_connection(io, service).await;
    } else {
        let mut server = http1::Builder::new();
        server.timer(TokioTimer::new());
        let _ = server.serve_connection(io, service).with_upgrades().await;
    }
}

/// Looks at the first bytes without taking them.
async fn version_of(stream: &TcpStream) -> io::Result<Version> {
    let mut first = [0u8; PREFACE_START.len()];
    loop {
        let seen = stream.peek(&mut first).await?;
        let bytes = first.get(..seen).unwrap_or_default();
        if seen == 0 || !PREFACE_START.starts_with(bytes) {
            return Ok(Version::HTTP_11);
        }
        if seen == PREFACE_START.len() {
            return Ok(Version::HTTP_2);
        }
        // Part of the preface: what is already there would be seen again at once.
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

async fn answer(State(shared): State<Shared>, request: Request) -> Response {
    shared.count.0.fetch_add(1, Ordering::Relaxed);
    let path = request.uri().path().to_owned();
    if is_grpc(request.headers()) {
        return grpc_echo(request);
    }
    match path.as_str() {
        "/status" if is_read(request.method()) => {
            Json(json!({ "service": service_of(&request), "status": "ok", "time": shared.clock.now().to_string() }))
                .into_response()
        }
        "/events" if is_read(request.method()) => events(&shared),
        "/ws" => websocket(shared, request).await,
        "/echo" => echo(request).await,
        _ if path.starts_with("/echo/") => echo(request).await,
        _ => match path.strip_prefix("/v1/deployments/").filter(|environment| is_segment(environment)) {
            Some(environment) if request.method() == Method::POST => deploy(&shared, environment, &request),
            _ => anything(&request),
        },
    }
}

fn is_read(method: &Method) -> bool {
    method == Method::GET || method == Method::HEAD
}

fn is_segment(text: &str) -> bool {
    !text.is_empty() && !text.contains('/')
}

/// The first label of the host: one upstream stands behind all example services.
fn service_of(request: &Request) -> String {
    let host = request.headers().get(header::HOST).and_then(|host| host.to_str().ok());
    let host = host.or_else(|| request.uri().authority().map(|authority| authority.as_str()));
    let name = host.and_then(|host| host.split(['.', ':']).next()).filter(|name| !name.is_empty());
    name.unwrap_or("upstream").to_owned()
}

fn target_of(request: &Request) -> String {
    request.uri().path_and_query().map_or_else(|| request.uri().to_string(), ToString::to_string)
}

/// What was received: `{method, path, headers, body_bytes}`. The body is counted as it comes, so
/// it may have any length. Of HTTP/2 the authority is told as the pseudo-header that it is.
async fn echo(request: Request) -> Response {
    let (method, path) = (request.method().to_string(), target_of(&request));
    let mut headers = header_map(request.headers());
    if request.version() == Version::HTTP_2
        && let Some(authority) = request.uri().authority()
    {
        headers.insert(":authority".to_owned(), Value::from(authority.as_str()));
    }
    let mut body = request.into_body();
    let mut body_bytes: u64 = 0;
    while let Some(frame) = body.frame().await {
        match frame {
            Ok(frame) => body_bytes += frame.data_ref().map_or(0, |data| u64::try_from(data.len()).unwrap_or(0)),
            Err(_) => return (StatusCode::BAD_REQUEST, "the body broke off\n").into_response(),
        }
    }
    Json(json!({ "method": method, "path": path, "headers": headers, "body_bytes": body_bytes })).into_response()
}

/// Name → value, or name → list of values where a name came more than once.
fn header_map(headers: &HeaderMap) -> Map<String, Value> {
    let text = |value: &HeaderValue| Value::from(String::from_utf8_lossy(value.as_bytes()).into_owned());
    headers
        .keys()
        .map(|name| {
            let mut values: Vec<Value> = headers.get_all(name).iter().map(text).collect();
            let value = if values.len() == 1 { values.remove(0) } else { Value::Array(values) };
            (name.as_str().to_owned(), value)
        })
        .collect()
}

fn deploy(shared: &Shared, environment: &str, request: &Request) -> Response {
    let number = shared.deployments.fetch_add(1, Ordering::Relaxed) + 1;
    let id = format!("deploy-{number}");
    let location = format!("/v1/deployments/{environment}/{id}");
    let body = json!({
        "id": id,
        "service": service_of(request),
        "environment": environment,
        "state": "started",
        "started_at": shared.clock.now().to_string(),
    });
    (StatusCode::CREATED, [(header::LOCATION, location)], Json(body)).into_response()
}

/// For every other path, so that any example service has something to show.
fn anything(request: &Request) -> Response {
    Json(json!({
        "service": service_of(request),
        "method": request.method().as_str(),
        "path": target_of(request),
        "signed_in_upstream_as": basic_user(request.headers()),
    }))
    .into_response()
}

/// Whom a basic-auth header names: how an old application would know its caller.
fn basic_user(headers: &HeaderMap) -> Option<String> {
    let value = headers.get(header::AUTHORIZATION)?.to_str().ok()?;
    let (scheme, encoded) = value.split_once(' ')?;
    let decoded = BASE64.decode(encoded.trim().as_bytes()).ok().filter(|_| scheme.eq_ignore_ascii_case("basic"))?;
    let (user, _) = std::str::from_utf8(&decoded).ok()?.split_once(':')?;
    Some(user.to_owned())
}

/// One event at once and then one a second, without end.
fn events(shared: &Shared) -> Response {
    let clock = Arc::clone(&shared.clock);
    let mut interval = tokio::time::interval(EVENT_INTERVAL);
    interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let events = stream::unfold((interval, clock, 1u64), |(mut interval, clock, number)| async move {
        interval.tick().await;
        let data = json!({ "number": number, "time": clock.now().to_string() });
        let event = Bytes::from(format!("id: {number}\ndata: {data}\n\n"));
        Some((Ok::<_, Infallible>(event), (interval, clock, number + 1)))
    });
    let headers = [(header::CONTENT_TYPE, "text/event-stream"), (header::CACHE_CONTROL, "no-store")];
    (headers, Body::from_stream(events)).into_response()
}

async fn websocket(shared: Shared, request: Request) -> Response {
    let (mut parts, _) = request.into_parts();
    match WebSocketUpgrade::from_request_parts(&mut parts, &()).await {
        Ok(upgrade) => upgrade.on_upgrade(move |socket| async move {
            tokio::select! {
                () = shared.stopping.cancelled() => {}
                () = websocket_echo(socket) => {}
            }
        }),
        Err(rejection) => rejection.into_response(),
    }
}

async fn websocket_echo(mut socket: WebSocket) {
    while let Some(Ok(message)) = socket.recv().await {
        let back = matches!(message, Message::Text(_) | Message::Binary(_));
        if back && socket.send(message).await.is_err() {
            return;
        }
    }
}

fn is_grpc(headers: &HeaderMap) -> bool {
    headers.get(header::CONTENT_TYPE).is_some_and(|kind| kind.as_bytes().starts_with(b"application/grpc"))
}

/// Any gRPC method gets its messages back as they come, and a status in the trailers.
fn grpc_echo(request: Request) -> Response {
    let kind = request.headers().get(header::CONTENT_TYPE).cloned();
    let frames = stream::unfold(Some(request.into_body()), |body| async move {
        let mut body = body?;
        while let Some(Ok(frame)) = body.frame().await {
            if let Ok(data) = frame.into_data() {
                return Some((Ok::<_, Infallible>(Frame::data(data)), Some(body)));
            }
        }
        let mut trailers = HeaderMap::new();
        trailers.insert("grpc-status", HeaderValue::from_static("0"));
        Some((Ok(Frame::trailers(trailers)), None))
    });
    let mut response = Response::new(Body::new(StreamBody::new(frames)));
    if let Some(kind) = kind {
        response.headers_mut().insert(header::CONTENT_TYPE, kind);
    }
    response
}
