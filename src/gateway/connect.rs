//! A new connection to an upstream: TCP, TLS where its name says so, and the HTTP that it must speak or, by
//! ALPN (RFC 7301), agrees to.
//!
//! How long that may take, and how many may be open, is for the pool to say (`upstream.rs`).

use std::fmt;
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use rustls::AlertDescription;
use rustls::pki_types::ServerName;
use socket2::{SockRef, TcpKeepalive};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::policy::{Upstream, UpstreamProtocol};

use super::handshake::{ALPN_H1, ALPN_H2};
use super::lane::UpstreamBody;
use super::multiplexed::Multiplexed;

/// When the system asks a silent peer whether it is still there, how often then, and how many times.
const PROBE_AFTER: Duration = Duration::from_secs(10);
const PROBE_EVERY: Duration = Duration::from_secs(5);
const PROBES: u32 = 3;

/// What a request needs of its connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Needs {
    /// Whatever the upstream speaks.
    Any,
    /// HTTP/1.1: the request asks for another protocol, which HTTP/2 has no way to say (RFC 9113 §8.6).
    Upgrade,
}

/// A connection that came about, by what it speaks. It runs by itself.
pub enum Connected {
    /// HTTP/1.1.
    Http1(http1::SendRequest<UpstreamBody>),
    /// HTTP/2.
    Http2(Rc<Multiplexed>),
}

/// Why none did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ConnectError {
    /// Nothing was reached, or not what was to be; and what was in the way.
    Failed(String),
    /// It was reached for an upgrade, and says that it does not speak HTTP/1.1.
    NotHttp1,
}

fn failed<E: fmt::Display>(error: E) -> ConnectError {
    ConnectError::Failed(error.to_string())
}

/// What connections to the upstreams of one service are made with.
pub struct Connector {
    tls: Arc<rustls::ClientConfig>,
    server_name: Option<String>,
    tasks: TaskTracker,
    stopping: CancellationToken,
}

impl Connector {
    /// Makes connections that run on `tasks`, at the longest until `stopping`.
    #[must_use]
    pub fn new(
        tls: Arc<rustls::ClientConfig>,
        server_name: Option<String>,
        tasks: TaskTracker,
        stopping: CancellationToken,
    ) -> Self {
        Self { tls, server_name, tasks, stopping }
    }

    /// Connects to an upstream. The connection keeps `place` until it is over, and it is given back at once where
    /// none comes about.
    ///
    /// # Errors
    /// When none does.
    pub async fn connect<P: 'static>(
        &self,
        upstream: &Upstream,
        needs: Needs,
        place: P,
    ) -> Result<Connected, ConnectError> {
        let stream = TcpStream::connect((upstream.host.as_str(), upstream.port)).await.map_err(failed)?;
        stream.set_nodelay(true).map_err(failed)?;
        // A peer that is gone without a word is found out below HTTP, where no server counts how often it is asked.
        let probes = TcpKeepalive::new().with_time(PROBE_AFTER).with_interval(PROBE_EVERY).with_retries(PROBES);
        SockRef::from(&stream).set_tcp_keepalive(&probes).map_err(failed)?;
        if !upstream.tls {
            return match upstream.protocol {
                UpstreamProtocol::Http2 => self.http2(place, TokioIo::new(stream)).await,
                UpstreamProtocol::Http1 | UpstreamProtocol::Auto => self.http1(place, TokioIo::new(stream)).await,
            };
        }
        let name = self.server_name.clone().unwrap_or_else(|| upstream.host.clone());
        let name = ServerName::try_from(name).map_err(failed)?;
        let tls = TlsConnector::from(Arc::clone(&self.tls));
        let agreed = tls.with_alpn(offered(upstream.protocol, needs)).connect(name, stream).await;
        let stream = agreed.map_err(|error| match needs {
            Needs::Upgrade if speaks_nothing_offered(&error) => ConnectError::NotHttp1,
            Needs::Upgrade | Needs::Any => failed(error),
        })?;
        let agreed_http2 = stream.get_ref().1.alpn_protocol() == Some(ALPN_H2);
        match upstream.protocol {
            UpstreamProtocol::Http1 => self.http1(place, TokioIo::new(stream)).await,
            UpstreamProtocol::Http2 => self.http2(place, TokioIo::new(stream)).await,
            UpstreamProtocol::Auto if agreed_http2 => self.http2(place, TokioIo::new(stream)).await,
            UpstreamProtocol::Auto => self.http1(place, TokioIo::new(stream)).await,
        }
    }

    async fn http1<P, I>(&self, place: P, io: I) -> Result<Connected, ConnectError>
    where
        P: 'static,
        I: hyper::rt::Read + hyper::rt::Write + Unpin + Send + 'static,
    {
        let (sender, connection) = http1::Builder::new().handshake(io).await.map_err(failed)?;
        self.keep(place, connection.with_upgrades());
        Ok(Connected::Http1(sender))
    }

    async fn http2<P, I>(&self, place: P, io: I) -> Result<Connected, ConnectError>
    where
        P: 'static,
        I: hyper::rt::Read + hyper::rt::Write + Unpin + 'static,
    {
        let (multiplexed, running) =
            Multiplexed::open(io, self.tasks.clone()).await.map_err(|()| failed("it does not speak HTTP/2"))?;
        self.keep(place, running);
        Ok(Connected::Http2(multiplexed))
    }

    /// Runs a connection until it ends; until then it has its place.
    fn keep<P, F>(&self, place: P, connection: F)
    where
        P: 'static,
        F: Future<Output = hyper::Result<()>> + 'static,
    {
        let stopping = self.stopping.clone();
        self.tasks.spawn_local(async move {
            tokio::select! {
                ended = connection => {
                    if let Err(error) = ended {
                        tracing::debug!(%error, "a connection to an upstream ended badly");
                    }
                }
                () = stopping.cancelled() => {}
            }
            drop(place);
        });
    }
}

/// What an upstream of this protocol is offered (ALPN, RFC 7301): each of a service's what it speaks.
#[must_use]
pub fn offered(protocol: UpstreamProtocol, needs: Needs) -> Vec<Vec<u8>> {
    match (protocol, needs) {
        (UpstreamProtocol::Http1, _) | (_, Needs::Upgrade) => vec![ALPN_H1.to_vec()],
        (UpstreamProtocol::Http2, Needs::Any) => vec![ALPN_H2.to_vec()],
        (UpstreamProtocol::Auto, Needs::Any) => vec![ALPN_H2.to_vec(), ALPN_H1.to_vec()],
    }
}

/// Whether the other side of a handshake says that it speaks nothing of what it was offered (RFC 7301 §3.2).
fn speaks_nothing_offered(error: &io::Error) -> bool {
    let cause = error.get_ref().and_then(|cause| cause.downcast_ref::<rustls::Error>());
    matches!(cause, Some(rustls::Error::AlertReceived(AlertDescription::NoApplicationProtocol)))
}
