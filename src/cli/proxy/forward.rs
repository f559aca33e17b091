//! Onward from the loopback proxy: the request goes to the door over TLS with the session's
//! certificate, the answer and both bodies stream back, upgrades pass through.
//!
//! A client's connection keeps its connection onward between its requests, as long as they go to
//! the same host with the same certificate.

use std::collections::BTreeSet;
use std::convert::Infallible;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use bytes::Bytes;
use http::header::{CONNECTION, CONTENT_TYPE, EXPECT, HOST, PROXY_AUTHENTICATE, TRANSFER_ENCODING, UPGRADE};
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response, StatusCode, Uri, Version};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::{Body as _, Incoming};
use hyper::client::conn::http1::{self, SendRequest};
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::cli::dial::{self, DialError};
use crate::cli::origin::Origin;
use crate::wire::problem::PROBLEM_MEDIA_TYPE;
use crate::wire::{Problem, Remedy};

use super::admit::{Admission, Denial};

/// How long a kept connection may take to be ready again before a new one is made.
const READY_TIMEOUT: Duration = Duration::from_millis(200);

/// What a proxied answer is made of.
pub type ProxyBody = BoxBody<Bytes, hyper::Error>;

/// What is needed onward at a moment.
#[derive(Clone)]
pub struct Onward {
    /// Changes with the certificate.
    pub generation: u64,
    /// TLS settings that show the certificate.
    pub tls: Arc<ClientConfig>,
    /// The certificate, to see that it changed.
    pub certificate_pem: String,
    /// The hosts that the door has, lower case.
    pub hosts: BTreeSet<String>,
    /// Why the session can't be used any more, if it can't.
    pub ended: Option<String>,
}

/// The proxy as its connections see it.
pub struct Door {
    /// Who may use it.
    pub admission: Admission,
    /// Where every request goes.
    pub server: Origin,
    /// What is needed for that.
    pub onward: ArcSwap<Onward>,
    /// Tasks of connections onward.
    pub tracker: TaskTracker,
    /// Ends them.
    pub end: CancellationToken,
}

/// A connection onward that may be used again.
pub(super) struct Kept {
    host: String,
    generation: u64,
    sender: SendRequest<Incoming>,
}

/// Answers one request of a client.
pub(super) async fn answer(
    door: &Door,
    kept: &Mutex<Option<Kept>>,
    request: Request<Incoming>,
) -> Result<Response<ProxyBody>, Infallible> {
    Ok(forwarded(door, kept, request).await.unwrap_or_else(|refusal| *refusal))
}

type Refusal = Box<Response<ProxyBody>>;

async fn forwarded(
    door: &Door,
    kept: &Mutex<Option<Kept>>,
    mut request: Request<Incoming>,
) -> Result<Response<ProxyBody>, Refusal> {
    let target = door.admission.admit(&request).map_err(|denial| denied(&denial))?;
    let onward = door.onward.load_full();
    if !onward.hosts.contains(&target.host) {
        return Err(denied(&Denial::Host(target.host)));
    }
    if let Some(ended) = &onward.ended {
        return Err(session_ended(ended));
    }
    let upgrade = wanted_upgrade(request.headers());
    let client_side = upgrade.is_some().then(|| hyper::upgrade::on(&mut request));
    rewrite(&mut request, &target.host, &target.path, door.server.port(), upgrade)
        .map_err(|what| denied(&Denial::Form(what)))?;

    let usable = take(kept).filter(|old| old.host == target.host && old.generation == onward.generation);
    if let Some(mut old) = ready(usable).await {
        match old.sender.try_send_request(request).await {
            Ok(response) => return Ok(returned(door, kept, old, response, client_side)),
            // It went away in between. What was not sent at all may be sent again.
            Err(mut error) => match error.take_message() {
                Some(unsent) => request = unsent,
                None => return Err(unreachable(&error.into_error())),
            },
        }
    }
    let mut sender = connected(door, &onward, &target.host).await?;
    let response = match sender.send_request(request).await {
        Ok(response) => response,
        Err(error) if dial::certificate_refused(&error) => {
            return Err(session_ended("the server does not take this session's certificate any more"));
        }
        Err(error) => return Err(unreachable(&error)),
    };
    let used = Kept { host: target.host, generation: onward.generation, sender };
    Ok(returned(door, kept, used, response, client_side))
}

/// The kept connection, if it still is one.
async fn ready(kept: Option<Kept>) -> Option<Kept> {
    let mut kept = kept?;
    matches!(timeout(READY_TIMEOUT, kept.sender.ready()).await, Ok(Ok(()))).then_some(kept)
}

fn take(kept: &Mutex<Option<Kept>>) -> Option<Kept> {
    kept.lock().unwrap_or_else(PoisonError::into_inner).take()
}

/// A new connection to the door in the name of `host`.
async fn connected(door: &Door, onward: &Onward, host: &str) -> Result<SendRequest<Incoming>, Refusal> {
    let failed = |error: DialError| match &error {
        DialError::Tls { source, .. } if dial::certificate_refused(source) => {
            session_ended("the server does not take this session's certificate any more")
        }
        _ => unreachable(&error),
    };
    let port = door.server.port();
    let stream = dial::connect(&door.server.host(), port).await.map_err(failed)?;
    let stream = dial::secure(stream, host, port, Arc::clone(&onward.tls)).await.map_err(failed)?;
    let (sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(|error| unreachable(&error))?;
    let end = door.end.clone();
    door.tracker.spawn(async move {
        // Its error reaches the one who asked.
        end.run_until_cancelled(connection.with_upgrades()).await.map(Result::ok);
    });
    Ok(sender)
}

/// The answer as the client gets it; the connection onward is kept, or joined with the client's
/// where both agreed on another protocol.
fn returned(
    door: &Door,
    kept: &Mutex<Option<Kept>>,
    used: Kept,
    mut response: Response<Incoming>,
    client_side: Option<OnUpgrade>,
) -> Response<ProxyBody> {
    let switched = response.status() == StatusCode::SWITCHING_PROTOCOLS;
    let protocol = response.headers().get(UPGRADE).cloned();
    strip(response.headers_mut());
    match (switched, protocol, client_side) {
        (true, Some(protocol), Some(client_side)) => {
            response.headers_mut().insert(CONNECTION, HeaderValue::from_static("upgrade"));
            response.headers_mut().insert(UPGRADE, protocol);
            let server_side = hyper::upgrade::on(&mut response);
            let end = door.end.clone();
            door.tracker.spawn(async move { end.run_until_cancelled(join(client_side, server_side)).await });
        }
        (true, _, _) => {
            return *problem(Problem::new(502, "unreachable", "The door switched protocols unasked"));
        }
        (false, _, _) => *kept.lock().unwrap_or_else(PoisonError::into_inner) = Some(used),
    }
    response.map(BodyExt::boxed)
}

async fn join(client_side: OnUpgrade, server_side: OnUpgrade) {
    if let (Ok(client), Ok(server)) = tokio::join!(client_side, server_side) {
        // How it ends is between the two.
        let _ = tokio::io::copy_bidirectional(&mut TokioIo::new(client), &mut TokioIo::new(server)).await;
    }
}

/// The protocol that a request wants to switch to.
fn wanted_upgrade(headers: &HeaderMap) -> Option<HeaderValue> {
    let asked = headers
        .get_all(CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .any(|option| option.trim().eq_ignore_ascii_case("upgrade"));
    headers.get(UPGRADE).filter(|_| asked).cloned()
}

/// Makes the request to a proxy one to the server.
fn rewrite(
    request: &mut Request<Incoming>,
    host: &str,
    path: &str,
    port: u16,
    upgrade: Option<HeaderValue>,
) -> Result<(), &'static str> {
    *request.uri_mut() = path.parse::<Uri>().map_err(|_| "the path can't be read")?;
    *request.version_mut() = Version::HTTP_11;
    // A GET with a body of unknown length would lose it: hyper sends one only where a header says so.
    let chunked = !request.body().is_end_stream() && request.body().size_hint().exact().is_none();
    let headers = request.headers_mut();
    strip(headers);
    if chunked {
        headers.insert(TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
    }
    // Whoever expects `100 Continue` gets it from this proxy, as the body is read.
    headers.remove(EXPECT);
    let authority = if port == 443 { host.to_owned() } else { format!("{host}:{port}") };
    headers.insert(HOST, HeaderValue::from_str(&authority).map_err(|_| "the host can't be read")?);
    if let Some(protocol) = upgrade {
        headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
        headers.insert(UPGRADE, protocol);
    }
    Ok(())
}

/// Removes what is meant for this hop only (RFC 9110 §7.6.1), the proxy's secret among it.
pub(super) fn strip(headers: &mut HeaderMap) {
    let named: Vec<HeaderName> = headers
        .get_all(CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter_map(|option| option.trim().parse().ok())
        .collect();
    named.iter().for_each(|name| drop(headers.remove(name)));
    for name in [
        "connection",
        "keep-alive",
        "proxy-connection",
        "proxy-authorization",
        "proxy-authenticate",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    ] {
        headers.remove(name);
    }
}

fn denied(denial: &Denial) -> Refusal {
    let status = denial.status();
    let problem_kind = match denial {
        Denial::Form(_) => "ambiguous_request",
        Denial::Secret => "no_credential",
        Denial::Browser | Denial::Tunnel | Denial::Host(_) => "proxy_refused",
    };
    let told = Problem::new(status.as_u16(), problem_kind, "The proxy refused this request");
    let mut response = problem(told.with_detail(denial.to_string()));
    if *denial == Denial::Secret {
        let challenge = HeaderValue::from_static("Basic realm=\"doorward proxy\"");
        response.headers_mut().insert(PROXY_AUTHENTICATE, challenge);
    }
    // What else such a client sends is not read.
    response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    response
}

fn session_ended(detail: &str) -> Refusal {
    let told = Problem::new(401, "session_ended", "The session has ended").with_detail(detail);
    problem(told.with_remedy(Remedy::new("sign_in", Some("doorward login"))))
}

fn unreachable(error: &dyn std::error::Error) -> Refusal {
    let told = Problem::new(502, "unreachable", "The door could not be reached");
    problem(told.with_detail(error.to_string()))
}

fn problem(told: Problem) -> Refusal {
    let status = StatusCode::from_u16(told.status).unwrap_or(StatusCode::BAD_GATEWAY);
    let body = serde_json::to_vec(&told).unwrap_or_default();
    let body = Full::new(Bytes::from(body)).map_err(|never| match never {}).boxed();
    let mut response = Response::new(body);
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(PROBLEM_MEDIA_TYPE));
    Box::new(response)
}
