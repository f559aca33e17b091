//! The control host: sign-in, OAuth 2.0, API and pages, on the control runtime.
//!
//! Its connections come from the data path's listeners with the client's hello read. The same
//! guards stand under its HTTP, and every request is read in the same one way before the router
//! sees it: a host that is not ours, or a path with two readings, gets no further.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::http::HeaderValue;
use axum::http::header::ALLOW;
use axum::response::{IntoResponse, Response};
use http::{Request, StatusCode};
use hyper::body::Incoming;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use serde_json::json;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio_rustls::StartHandshake;
use tokio_rustls::server::TlsStream;
use tokio_util::task::TaskTracker;
use tower::ServiceExt;

use crate::control::caller::ConnectionFacts;
use crate::gateway::canonical::{Ambiguity, PathRules, canonical};
use crate::gateway::connection::{ControlConnection, SILENT_DRAIN, h1_limits, last_words};
use crate::gateway::guard::GuardControl;
use crate::gateway::guard_h1::GuardH1;
use crate::gateway::guard_h2::{GuardH2, H2Limits};
use crate::gateway::handshake::{Channel, asked_name};
use crate::gateway::limit;
use crate::gateway::pipeline::form_of;
use crate::gateway::record::counted_address;
use crate::gateway::refusal::Form;
use crate::gateway::refusal::Refusal;
use crate::gateway::worker::Shared;
use crate::model::DecisionId;

/// How long the last words on a refused connection may take.
const LAST_WORDS: Duration = Duration::from_secs(2);

/// What answers from memory alone: the emergency path, and keys for upstreams that check assertions.
const WITHOUT_DATABASE: [&str; 3] = ["/api/v1/breakglass/", "/oauth2/jwks", "/.well-known/"];

/// Serves connections of the control host until the gateway drains.
pub async fn run(shared: Arc<Shared>, router: Router, mut connections: mpsc::Receiver<ControlConnection>) {
    let tasks = TaskTracker::new();
    loop {
        let connection = tokio::select! {
            connection = connections.recv() => connection,
            () = shared.draining.cancelled() => None,
        };
        let Some(connection) = connection else {
            break;
        };
        tasks.spawn(serve(Arc::clone(&shared), router.clone(), connection));
    }
    tasks.close();
    tasks.wait().await;
}

async fn serve(shared: Arc<Shared>, router: Router, connection: ControlConnection) {
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
    let host = Host { facts: Arc::new(facts_of(&channel)), shared: Arc::clone(&shared), router };
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
    shared: Arc<Shared>,
    router: Router,
}

impl Host {
    /// Reads the request in its one way and lets the router answer.
    async fn answer(self, mut request: Request<Incoming>) -> Result<Response, std::convert::Infallible> {
        if let Err(refusal) = limit::control_request(&self.shared, counted_address(self.facts.address)) {
            let decision = DecisionId::fresh(self.shared.clock.now(), &*self.shared.entropy);
            let metadata = format!("{}/.well-known/oauth-protected-resource", self.shared.settings.origin);
            return Ok(refusal
                .response(decision, Form::Problem, &metadata, &self.shared.settings.origin)
                .map(|body| Body::from(body.into_own())));
        }
        let canonical = match canonical(&request, PathRules { encoded_slash: false }) {
            Ok(canonical) => canonical,
            Err(ambiguity) => return Ok(self.refuse(ambiguity.status(), ambiguity.what())),
        };
        if canonical.host != self.shared.settings.control_host {
            return Ok(self.refuse(421, "the connection was made for another host"));
        }
        if canonical.upgrade.is_some() {
            return Ok(self.refuse(Ambiguity::MethodRefused.status(), "there is no upgrade on this host"));
        }
        let emergency = self.shared.emergency.load(Ordering::Acquire);
        if emergency && !WITHOUT_DATABASE.iter().any(|path| canonical.path.starts_with(path)) {
            let decision = DecisionId::fresh(self.shared.clock.now(), &*self.shared.entropy);
            let metadata = format!("{}/.well-known/oauth-protected-resource", self.shared.settings.origin);
            let refusal = Refusal::Emergency.response(
                decision,
                form_of(request.method(), request.headers()),
                &metadata,
                &self.shared.settings.origin,
            );
            return Ok(refusal.map(|body| Body::from(body.into_own())));
        }
        // The router sees the path that was judged, not the one that came.
        match canonical.target().parse() {
            Ok(uri) => *request.uri_mut() = uri,
            Err(_) => return Ok(self.refuse(400, "the path can't be read")),
        }
        request.extensions_mut().insert(Arc::clone(&self.facts));
        let Ok(response) = self.router.oneshot(request.map(Body::new)).await;
        Ok(response)
    }

    fn refuse(&self, status: u16, what: &str) -> Response {
        let decision = DecisionId::fresh(self.shared.clock.now(), &*self.shared.entropy);
        let status = StatusCode::from_u16(status).unwrap_or(StatusCode::BAD_REQUEST);
        let body = json!({
            "type": "urn:doorward:problem:ambiguous_request",
            "title": "The request can be read in more than one way",
            "status": status.as_u16(),
            "detail": format!("{what}. Send it in its plain form."),
            "decision": decision.to_string(),
            "reason": "ambiguous_request",
            "remedy": { "kind": "none" },
        });
        let headers =
            [("content-type", "application/problem+json".to_owned()), ("doorward-decision", decision.to_string())];
        let mut response = (status, headers, body.to_string()).into_response();
        if status == StatusCode::METHOD_NOT_ALLOWED {
            response.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD, POST"));
        }
        response
    }
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
    let mut asked = false;
    let ended = loop {
        tokio::select! {
            biased;
            ended = std::pin::Pin::new(&mut connection) => break ended,
            () = host.shared.draining.cancelled(), if !asked => {
                asked = true;
                std::pin::Pin::new(&mut connection).graceful_shutdown();
            }
            () = tokio::time::sleep(SILENT_DRAIN), if asked => {
                if control.open_exchanges() == 0 {
                    return;
                }
            }
            () = host.shared.stopping.cancelled() => return,
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "a connection to the control host ended badly");
    }
    if let (Some(refusal), true) = (control.refusal(), control.may_answer()) {
        let decision = DecisionId::fresh(host.shared.clock.now(), &*host.shared.entropy);
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
    let guard = GuardH2::new(stream, H2Limits::default(), control.clone());
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
    let connection = http2::Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .max_concurrent_streams(host.shared.settings.http2_streams)
        .serve_connection(TokioIo::new(guard), service);
    let mut connection = std::pin::pin!(connection);
    let mut asked = false;
    loop {
        tokio::select! {
            biased;
            _ = connection.as_mut() => break,
            () = host.shared.draining.cancelled(), if !asked => {
                asked = true;
                connection.as_mut().graceful_shutdown();
            }
            () = tokio::time::sleep(SILENT_DRAIN), if asked => {
                if control.open_exchanges() == 0 {
                    return;
                }
            }
            () = host.shared.stopping.cancelled() => return,
        }
    }
}
