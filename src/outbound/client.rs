//! One exchange with a server outside: HTTP/1.1 over TLS, or plain on this machine.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, Request, Response, Uri, header};
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use rustls::pki_types::CertificateDer;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use url::{Host, Url};

use super::address::{self, Forbidden};
use super::tls::{self, ClientCertificate, server_name};
use crate::model::Clock;

/// How long a connection may take, TLS included.
pub(in crate::outbound) const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// How long the whole exchange may take.
pub(in crate::outbound) const EXCHANGE_TIMEOUT: Duration = Duration::from_secs(10);
/// The largest answer that is read, in bytes.
const ANSWER_BYTES_MAX: usize = 1024 * 1024;
/// Header fields of an answer at most.
const ANSWER_HEADERS_MAX: usize = 100;
/// Bytes of an answer's head at most.
const ANSWER_HEAD_BYTES_MAX: usize = 64 * 1024;
/// Addresses of one name that are tried.
const ADDRESSES_MAX: usize = 4;

/// Why an exchange gave no answer.
#[derive(Debug)]
pub enum OutboundError {
    /// The address is not of a kind that is used: the text says why.
    Url { url: String, why: &'static str },
    /// The name could not be resolved.
    Resolve { host: String, source: std::io::Error },
    /// The name resolved to an address that is not spoken to.
    Address { host: String, address: IpAddr, why: Forbidden },
    /// No connection, or its TLS failed.
    Connect { host: String, source: std::io::Error },
    /// The exchange broke off or was no HTTP.
    Http { host: String, source: hyper::Error },
    /// The exchange of something else than HTTP broke off.
    Broken { host: String, source: std::io::Error },
    /// The request could not be made.
    Request(http::Error),
    /// There was no answer in time.
    Timeout { host: String },
    /// The answer was larger than 1 MiB.
    TooLarge { host: String },
    /// The certificates of an additional authority can't be used.
    Authority(String),
}

impl fmt::Display for OutboundError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Url { url, why } => write!(f, "`{url}` is not asked: {why}"),
            Self::Resolve { host, source } => write!(f, "the name `{host}` could not be resolved: {source}"),
            Self::Address { host, address, why } => write!(f, "`{host}` is `{address}` and is not asked: {why}"),
            Self::Connect { host, source } => write!(f, "no connection to `{host}`: {source}"),
            Self::Http { host, source } => write!(f, "the exchange with `{host}` broke off: {source}"),
            Self::Broken { host, source } => write!(f, "the exchange with `{host}` broke off: {source}"),
            Self::Request(error) => write!(f, "the request could not be made: {error}"),
            Self::Timeout { host } => write!(f, "`{host}` did not answer within {} s", EXCHANGE_TIMEOUT.as_secs()),
            Self::TooLarge { host } => write!(f, "the answer of `{host}` was larger than 1 MiB"),
            Self::Authority(what) => write!(f, "the additional certificate authority can't be used: {what}"),
        }
    }
}

impl std::error::Error for OutboundError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Resolve { source, .. } | Self::Connect { source, .. } | Self::Broken { source, .. } => Some(source),
            Self::Http { source, .. } => Some(source),
            Self::Request(error) => Some(error),
            Self::Url { .. }
            | Self::Address { .. }
            | Self::Timeout { .. }
            | Self::TooLarge { .. }
            | Self::Authority(_) => None,
        }
    }
}

/// What one client may do.
#[derive(Debug, Clone, Default)]
pub struct ClientSettings {
    /// Authorities that are trusted beside the public ones.
    pub authorities: Vec<CertificateDer<'static>>,
    /// Whether servers on this machine may be asked, also without TLS.
    pub allow_loopback: bool,
}

/// A client with its own trust and address rules. Clones share the trust.
#[derive(Clone)]
pub struct Client {
    tls: TlsConnector,
    allow_loopback: bool,
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client").field("allow_loopback", &self.allow_loopback).finish_non_exhaustive()
    }
}

/// Where a request goes, read from its URL.
struct Target {
    host: Host<String>,
    name: String,
    port: u16,
    tls: bool,
    /// What the `Host` field says.
    authority: String,
    /// The request target in origin form.
    path: Uri,
}

impl Client {
    /// A client that trusts the public authorities and those of `settings`.
    ///
    /// # Errors
    /// When an additional authority's certificate can't be used.
    pub fn new(settings: ClientSettings, clock: Arc<dyn Clock>) -> Result<Self, OutboundError> {
        Self::showing(settings, None, clock)
    }

    /// As [`Client::new`], and shows `certificate` to servers that ask for one.
    ///
    /// # Errors
    /// When an additional authority's certificate can't be used.
    pub fn showing(
        settings: ClientSettings,
        certificate: Option<&ClientCertificate>,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, OutboundError> {
        let tls = tls::connector(settings.authorities, certificate, &[b"http/1.1"], clock)?;
        Ok(Self { tls, allow_loopback: settings.allow_loopback })
    }

    /// Asks once, and reads the whole answer. A redirect is an answer like any other.
    ///
    /// # Errors
    /// When the address is not allowed, or there was no whole answer within time and size.
    pub async fn send(&self, request: Request<Vec<u8>>) -> Result<Response<Vec<u8>>, OutboundError> {
        let target = self.target(request.uri())?;
        let host = target.name.clone();
        match tokio::time::timeout(EXCHANGE_TIMEOUT, self.exchange(&target, request)).await {
            Ok(answer) => answer,
            Err(_) => Err(OutboundError::Timeout { host }),
        }
    }

    /// Asks for a JSON document.
    ///
    /// # Errors
    /// As [`Client::send`], and when `url` can't be a request's address.
    pub async fn get(&self, url: &str, bearer: Option<&str>) -> Result<Response<Vec<u8>>, OutboundError> {
        let mut request = Request::get(url).header(header::ACCEPT, "application/json");
        if let Some(token) = bearer {
            let mut value = HeaderValue::from_str(&format!("Bearer {token}"))
                .map_err(|error| OutboundError::Request(error.into()))?;
            value.set_sensitive(true);
            request = request.header(header::AUTHORIZATION, value);
        }
        self.send(request.body(Vec::new()).map_err(OutboundError::Request)?).await
    }

    fn target(&self, uri: &Uri) -> Result<Target, OutboundError> {
        let text = uri.to_string();
        let refused = |why: &'static str| OutboundError::Url { url: text.chars().take(200).collect(), why };
        // The URL crate reads hosts as browsers do, so that `0x7f.1` and `2130706433` are addresses here.
        let url = Url::parse(&text).map_err(|_| refused("it is no whole URL"))?;
        if !url.username().is_empty() || url.password().is_some() || uri_has_userinfo(uri) {
            return Err(OutboundError::Url {
                url: url.host_str().unwrap_or_default().to_owned(),
                why: "it has a user name or password in it",
            });
        }
        let tls = match url.scheme() {
            "https" => true,
            "http" => false,
            _ => return Err(refused("only https is spoken")),
        };
        let host = url.host().ok_or_else(|| refused("it names no host"))?.to_owned();
        let port = url.port_or_known_default().ok_or_else(|| refused("it names no port"))?;
        let plain_allowed = self.allow_loopback && is_loopback(&host);
        if !tls && !plain_allowed {
            return Err(refused("plain http is spoken only with this machine, and only with `allow_loopback = true`"));
        }
        let path = url[url::Position::BeforePath..url::Position::AfterQuery]
            .parse()
            .map_err(|_| refused("its path can't be asked for"))?;
        let name = host.to_string();
        let authority = url.port().map_or_else(|| name.clone(), |port| format!("{name}:{port}"));
        Ok(Target { host, name, port, tls, authority, path })
    }

    async fn exchange(&self, target: &Target, request: Request<Vec<u8>>) -> Result<Response<Vec<u8>>, OutboundError> {
        let host = || target.name.clone();
        let stream = tokio::time::timeout(CONNECT_TIMEOUT, connect(&target.host, target.port, self.allow_loopback))
            .await
            .map_err(|_| OutboundError::Timeout { host: host() })??;
        let request = outgoing(target, request)?;
        if target.tls {
            let name = server_name(&target.host)?;
            let stream = tokio::time::timeout(CONNECT_TIMEOUT, self.tls.connect(name, stream))
                .await
                .map_err(|_| OutboundError::Timeout { host: host() })?
                .map_err(|source| OutboundError::Connect { host: host(), source })?;
            speak(stream, request, target).await
        } else {
            speak(stream, request, target).await
        }
    }
}

/// Resolves, judges every address, and connects to one of those that were judged: a name that
/// changes its answer between the two can't lead elsewhere.
pub(in crate::outbound) async fn connect(
    host: &Host<String>,
    port: u16,
    allow_loopback: bool,
) -> Result<TcpStream, OutboundError> {
    let mut last = std::io::Error::new(std::io::ErrorKind::NotFound, "the name has no address");
    for address in judged(host, port, allow_loopback).await? {
        match TcpStream::connect(address).await {
            Ok(stream) => return Ok(stream),
            Err(error) => last = error,
        }
    }
    Err(OutboundError::Connect { host: host.to_string(), source: last })
}

/// The addresses of `host`, each judged: for what speaks something else than HTTP to the outside.
///
/// # Errors
/// When it has none, or one that is not spoken to.
pub async fn judged_addresses(host: &str, port: u16, allow_loopback: bool) -> Result<Vec<SocketAddr>, OutboundError> {
    let parsed =
        Host::parse(host).map_err(|_| OutboundError::Url { url: host.to_owned(), why: "it is no name of a host" })?;
    judged(&parsed, port, allow_loopback).await
}

async fn judged(host: &Host<String>, port: u16, allow_loopback: bool) -> Result<Vec<SocketAddr>, OutboundError> {
    let addresses = resolve(host, port).await?;
    for address in &addresses {
        address::check(address.ip(), allow_loopback).map_err(|why| OutboundError::Address {
            host: host.to_string(),
            address: address.ip(),
            why,
        })?;
    }
    Ok(addresses)
}

async fn resolve(host: &Host<String>, port: u16) -> Result<Vec<SocketAddr>, OutboundError> {
    let at = |ip: IpAddr| vec![SocketAddr::new(ip, port)];
    Ok(match host {
        Host::Ipv4(v4) => at(IpAddr::V4(*v4)),
        Host::Ipv6(v6) => at(IpAddr::V6(*v6)),
        // RFC 6761 §6.3: these names are this machine, whatever a resolver says.
        Host::Domain(_) if is_loopback(host) => {
            let both = [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)];
            both.into_iter().flat_map(at).collect()
        }
        Host::Domain(name) => tokio::net::lookup_host((name.as_str(), port))
            .await
            .map_err(|source| OutboundError::Resolve { host: name.clone(), source })?
            .take(ADDRESSES_MAX)
            .collect(),
    })
}

/// `Url` drops an empty user name, as in `https://@host`; what could be read two ways is refused.
fn uri_has_userinfo(uri: &Uri) -> bool {
    uri.authority().is_some_and(|authority| authority.as_str().contains('@'))
}

fn is_loopback(host: &Host<String>) -> bool {
    match host {
        Host::Domain(name) => {
            let name = name.strip_suffix('.').unwrap_or(name);
            name == "localhost" || name.ends_with(".localhost")
        }
        Host::Ipv4(v4) => v4.is_loopback(),
        Host::Ipv6(v6) => v6.is_loopback() || v6.to_ipv4_mapped().is_some_and(|v4| v4.is_loopback()),
    }
}

fn outgoing(target: &Target, request: Request<Vec<u8>>) -> Result<Request<Full<Bytes>>, OutboundError> {
    let (mut parts, body) = request.into_parts();
    parts.uri = target.path.clone();
    let authority = HeaderValue::from_str(&target.authority).map_err(|error| OutboundError::Request(error.into()))?;
    parts.headers.insert(header::HOST, authority);
    parts.headers.insert(header::USER_AGENT, HeaderValue::from_static(concat!("doorward/", env!("CARGO_PKG_VERSION"))));
    parts.headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
    Ok(Request::from_parts(parts, Full::new(Bytes::from(body))))
}

/// One request and its answer on a connection that is used for nothing else.
async fn speak<S>(stream: S, request: Request<Full<Bytes>>, target: &Target) -> Result<Response<Vec<u8>>, OutboundError>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let broken = |source: hyper::Error| OutboundError::Http { host: target.name.clone(), source };
    let (mut sender, connection) = http1::Builder::new()
        .max_headers(ANSWER_HEADERS_MAX)
        .max_buf_size(ANSWER_HEAD_BYTES_MAX)
        .handshake(TokioIo::new(stream))
        .await
        .map_err(broken)?;
    let exchange = async {
        let (parts, body) = sender.send_request(request).await.map_err(broken)?.into_parts();
        let body = Limited::new(body, ANSWER_BYTES_MAX).collect().await.map_err(|error| {
            match error.downcast::<hyper::Error>() {
                Ok(source) => broken(*source),
                Err(error) => {
                    debug_assert!(error.is::<LengthLimitError>());
                    OutboundError::TooLarge { host: target.name.clone() }
                }
            }
        })?;
        Ok(Response::from_parts(parts, body.to_bytes().to_vec()))
    };
    tokio::pin!(exchange);
    // The connection is driven here and not by a task of its own: it ends with this function.
    tokio::select! {
        answer = &mut exchange => answer,
        ended = connection => match ended {
            Ok(()) => exchange.await,
            Err(source) => Err(broken(source)),
        },
    }
}
