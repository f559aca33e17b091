//! One check of one upstream (`[health]`): a GET that bears nobody's credentials, over a connection
//! of its own that is secured as requests are, judged by the status of its answer.
//!
//! It runs on the control plane's runtime, never on a thread of the data path. INVARIANT: it ends
//! within the check's timeout, whatever the upstream does; of the body nothing is read.

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use http::header::{HOST, USER_AGENT};
use http::{Method, Request, StatusCode, Version};
use http_body_util::Empty;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_util::task::TaskTracker;

use crate::policy::{HealthCheck, Service, Upstream, UpstreamProtocol};

use super::connect::{Needs, offered};
use super::executor::Tracked;
use super::handshake::ALPN_H2;

/// Why a check failed.
#[derive(Debug)]
pub enum ProbeError {
    /// No connection came about.
    Unreachable(String),
    /// TLS was not agreed on.
    Tls(String),
    /// The answer was none.
    Answer(String),
    /// It answered with a status that does not count as good.
    Status(StatusCode),
    /// It took longer than the check may.
    Late,
}

impl fmt::Display for ProbeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unreachable(cause) => write!(f, "it can't be reached: {cause}"),
            Self::Tls(cause) => write!(f, "TLS was not agreed on: {cause}"),
            Self::Answer(cause) => write!(f, "it gave no answer: {cause}"),
            Self::Status(status) => write!(f, "it answered {status}"),
            Self::Late => f.write_str("it did not answer in time"),
        }
    }
}

impl std::error::Error for ProbeError {}

/// Asks an upstream of a service; its status where that is good.
///
/// # Errors
/// Why it is not.
pub async fn probe(
    service: &Service,
    upstream: &Upstream,
    check: &HealthCheck,
    tls: &Arc<rustls::ClientConfig>,
    tasks: &TaskTracker,
) -> Result<StatusCode, ProbeError> {
    let asked = async {
        let stream = reached(upstream).await?;
        if !upstream.tls {
            return ask(stream, upstream, check, upstream.protocol, tasks).await;
        }
        let stream = secured(service, upstream, tls, stream).await?;
        let agreed_http2 = stream.get_ref().1.alpn_protocol() == Some(ALPN_H2);
        let protocol = match upstream.protocol {
            UpstreamProtocol::Auto if agreed_http2 => UpstreamProtocol::Http2,
            other => other,
        };
        ask(stream, upstream, check, protocol, tasks).await
    };
    let status = tokio::time::timeout(check.timeout.duration(), asked).await.map_err(|_| ProbeError::Late)??;
    let good = check.status.map_or_else(|| status.is_success(), |wanted| status.as_u16() == wanted);
    if good { Ok(status) } else { Err(ProbeError::Status(status)) }
}

/// Agrees on TLS with an upstream of a service as requests do, and sends nothing.
///
/// # Errors
/// Why that fails.
pub async fn handshake(
    service: &Service,
    upstream: &Upstream,
    tls: &Arc<rustls::ClientConfig>,
) -> Result<(), ProbeError> {
    let agreed = async { secured(service, upstream, tls, reached(upstream).await?).await.map(drop) };
    let limit = service.timeouts.connect.duration();
    tokio::time::timeout(limit, agreed).await.map_err(|_| ProbeError::Late)?
}

async fn reached(upstream: &Upstream) -> Result<TcpStream, ProbeError> {
    let connected = TcpStream::connect((upstream.host.as_str(), upstream.port)).await;
    connected.map_err(|error| ProbeError::Unreachable(error.to_string()))
}

async fn secured(
    service: &Service,
    upstream: &Upstream,
    tls: &Arc<rustls::ClientConfig>,
    stream: TcpStream,
) -> Result<TlsStream<TcpStream>, ProbeError> {
    let name = service.upstream_tls.server_name.clone().unwrap_or_else(|| upstream.host.clone());
    let name = ServerName::try_from(name).map_err(|error| ProbeError::Tls(error.to_string()))?;
    let connector = TlsConnector::from(Arc::clone(tls));
    let connector = connector.with_alpn(offered(upstream.protocol, Needs::Any));
    connector.connect(name, stream).await.map_err(|error| ProbeError::Tls(error.to_string()))
}

async fn ask<S: AsyncRead + AsyncWrite + Unpin + Send + 'static>(
    stream: S,
    upstream: &Upstream,
    check: &HealthCheck,
    protocol: UpstreamProtocol,
    tasks: &TaskTracker,
) -> Result<StatusCode, ProbeError> {
    let failed = |error: hyper::Error| ProbeError::Answer(error.to_string());
    let authority = check.host.clone().unwrap_or_else(|| upstream.authority());
    let request = Request::builder()
        .method(Method::GET)
        .header(USER_AGENT, concat!("doorward-health/", env!("CARGO_PKG_VERSION")));
    if protocol == UpstreamProtocol::Http2 {
        let scheme = if upstream.tls { "https" } else { "http" };
        let request = request.version(Version::HTTP_2).uri(format!("{scheme}://{authority}{}", check.path));
        let request = request.body(Empty::<Bytes>::new()).map_err(|error| ProbeError::Answer(error.to_string()))?;
        let (mut sender, connection) =
            http2::handshake(Tracked::new(tasks.clone()), TokioIo::new(stream)).await.map_err(failed)?;
        return tokio::select! {
            answer = sender.send_request(request) => answer.map(|answer| answer.status()).map_err(failed),
            ended = connection => Err(ended.map_or_else(failed, |()| ProbeError::Answer("it closed".to_owned()))),
        };
    }
    let request = request.uri(&check.path).header(HOST, authority).header(http::header::CONNECTION, "close");
    let request = request.body(Empty::<Bytes>::new()).map_err(|error| ProbeError::Answer(error.to_string()))?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(failed)?;
    let mut connection = std::pin::pin!(connection);
    let mut answer = std::pin::pin!(sender.send_request(request));
    // The connection ends by itself once the head is there and the answer has no body: then the answer
    // is ready too, and counts.
    let early = tokio::select! {
        biased;
        answer = &mut answer => return answer.map(|answer| answer.status()).map_err(failed),
        ended = &mut connection => ended,
    };
    match answer.await {
        Ok(answer) => Ok(answer.status()),
        Err(error) => Err(early.map_or_else(failed, |()| failed(error))),
    }
}
