//! The closed loop: each stream of each connection sends its next request when the last one's body
//! has been read to its end. Latency is of whole requests, and in `--handshakes` of connecting too.

use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::{BodyExt, Empty};
use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use hyper::header::{HOST, HeaderName, HeaderValue};
use hyper::{Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::client::Resumption;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::{Handshakes, Idle, Load, Protocol, Target};

/// A connection or answer that takes longer is an error.
const PATIENCE: Duration = Duration::from_secs(20);
/// Connections of `idle` that are being opened at one time.
const OPENING_MAX: usize = 32;
/// Bytes that an HTTP/2 stream may have under way: enough for a loopback to never wait for credit.
const WINDOW_BYTES: u32 = 4 << 20;

type Fault = Box<dyn std::error::Error>;

/// Where to connect, ready to be used again and again.
struct Endpoint {
    address: SocketAddr,
    tls: Option<(TlsConnector, ServerName<'static>)>,
    protocol: Protocol,
    host: String,
    path: String,
    token_header: HeaderName,
    tokens: Vec<HeaderValue>,
}

impl Endpoint {
    fn new(target: &Target, resumption: Resumption) -> Self {
        let token_header: HeaderName = target.token_header.parse().expect("a header name");
        let bearer = token_header == hyper::header::AUTHORIZATION;
        let token = |file| {
            let text = std::fs::read_to_string(file).expect("a token file");
            let text = if bearer { format!("Bearer {}", text.trim()) } else { text.trim().to_owned() };
            let mut value = HeaderValue::from_str(&text).unwrap();
            value.set_sensitive(true);
            value
        };
        Self {
            address: target.connect,
            tls: (!target.plain).then(|| {
                let name = ServerName::try_from(target.host.clone()).expect("a host name");
                (TlsConnector::from(Arc::new(tls(target, resumption))), name)
            }),
            protocol: target.protocol,
            host: target.host.clone(),
            path: target.path.clone(),
            token_header,
            tokens: target.token_files.iter().map(token).collect(),
        }
    }

    async fn connect(&self) -> Result<Sender, Fault> {
        let stream = TcpStream::connect(self.address).await?;
        stream.set_nodelay(true)?;
        match &self.tls {
            None => self.speak(stream).await,
            Some((connector, name)) => self.speak(connector.connect(name.clone(), stream).await?).await,
        }
    }

    async fn speak<S: AsyncRead + AsyncWrite + Unpin + Send + 'static>(&self, stream: S) -> Result<Sender, Fault> {
        let io = TokioIo::new(stream);
        Ok(match self.protocol {
            Protocol::H1 => {
                let (sender, connection) = http1::handshake(io).await?;
                tokio::task::spawn_local(connection);
                Sender::H1(sender)
            }
            Protocol::H2 => {
                let (sender, connection) = http2::Builder::new(TokioExecutor::new())
                    .initial_stream_window_size(WINDOW_BYTES)
                    .initial_connection_window_size(WINDOW_BYTES * 4)
                    .handshake(io)
                    .await?;
                tokio::task::spawn_local(connection);
                Sender::H2(sender)
            }
        })
    }

    fn request(&self, number: usize) -> Request<Empty<Bytes>> {
        let request = match self.protocol {
            Protocol::H1 => Request::get(&self.path).header(HOST, &self.host),
            Protocol::H2 => Request::get(format!("https://{}{}", self.host, self.path)),
        };
        let mut request = request.body(Empty::new()).unwrap();
        if !self.tokens.is_empty() {
            request.headers_mut().insert(&self.token_header, self.tokens[number % self.tokens.len()].clone());
        }
        request
    }
}

fn tls(target: &Target, resumption: Resumption) -> ClientConfig {
    let mut provider = rustls::crypto::aws_lc_rs::default_provider();
    provider.cipher_suites.retain(|suite| suite.suite() == rustls::CipherSuite::TLS13_AES_128_GCM_SHA256);
    if !target.post_quantum {
        provider.kx_groups.retain(|group| group.name() == rustls::NamedGroup::X25519);
    }
    let mut roots = RootCertStore::empty();
    let ca = target.ca.as_ref().expect("--ca, unless --plain");
    for certificate in CertificateDer::pem_file_iter(ca).expect("a PEM file") {
        roots.add(certificate.expect("a certificate")).expect("a CA");
    }
    let builder = ClientConfig::builder_with_provider(Arc::new(provider))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_root_certificates(roots);
    let mut config = match (&target.cert, &target.key) {
        (Some(chain), Some(key)) => {
            let chain = CertificateDer::pem_file_iter(chain).unwrap().map(Result::unwrap).collect();
            builder.with_client_auth_cert(chain, PrivateKeyDer::from_pem_file(key).unwrap()).unwrap()
        }
        _ => builder.with_no_client_auth(),
    };
    config.resumption = resumption;
    config.alpn_protocols = vec![match target.protocol {
        Protocol::H1 => b"http/1.1".to_vec(),
        Protocol::H2 => b"h2".to_vec(),
    }];
    config
}

enum Sender {
    H1(http1::SendRequest<Empty<Bytes>>),
    H2(http2::SendRequest<Empty<Bytes>>),
}

impl Sender {
    /// Sends one request and reads its answer whole; tells status and bytes, and of a refusal the
    /// beginning of its text.
    async fn exchange(&mut self, request: Request<Empty<Bytes>>) -> Result<(u16, u64, String), Fault> {
        let response: Response<Incoming> = match self {
            Self::H1(sender) => {
                sender.ready().await?;
                sender.send_request(request).await?
            }
            Self::H2(sender) => {
                sender.ready().await?;
                sender.send_request(request).await?
            }
        };
        let status = response.status();
        let (mut body, mut bytes, mut text) = (response.into_body(), 0, Vec::new());
        while let Some(frame) = body.frame().await {
            if let Ok(data) = frame?.into_data() {
                bytes += data.len() as u64;
                if !status.is_success() && text.len() < 2000 {
                    text.extend_from_slice(&data);
                }
            }
        }
        Ok((status.as_u16(), bytes, String::from_utf8_lossy(&text).into_owned()))
    }

    /// Another handle on the same connection; only HTTP/2 has one.
    fn another(&self) -> Option<Self> {
        match self {
            Self::H1(_) => None,
            Self::H2(sender) => Some(Self::H2(sender.clone())),
        }
    }
}

/// What was seen, while it was to be counted.
#[derive(Default)]
struct Tally {
    counting: Cell<bool>,
    over: Cell<bool>,
    bytes: Cell<u64>,
    non_2xx: Cell<u64>,
    errors: Cell<u64>,
    latencies_us: RefCell<Vec<u32>>,
    first_fault: RefCell<Option<String>>,
}

impl Tally {
    fn note(
        &self,
        started: Instant,
        result: Result<Result<(u16, u64, String), Fault>, tokio::time::error::Elapsed>,
    ) -> bool {
        let fault = |text: String| {
            self.first_fault.borrow_mut().get_or_insert(text);
        };
        let (whole, status, bytes) = match result {
            Ok(Ok((status, bytes, text))) => {
                if !(200..300).contains(&status) {
                    fault(format!("{status}: {text}"));
                }
                (true, status, bytes)
            }
            Ok(Err(error)) => {
                fault(error.to_string());
                (false, 0, 0)
            }
            Err(_) => {
                fault(format!("no answer in {PATIENCE:?}"));
                (false, 0, 0)
            }
        };
        if self.counting.get() {
            if whole {
                self.latencies_us.borrow_mut().push(u32::try_from(started.elapsed().as_micros()).unwrap_or(u32::MAX));
                self.bytes.set(self.bytes.get() + bytes);
                self.non_2xx.set(self.non_2xx.get() + u64::from(!(200..300).contains(&status)));
            } else {
                self.errors.set(self.errors.get() + 1);
            }
        }
        whole
    }
}

/// One stream's loop, until time is over. A broken connection is opened anew.
async fn worker(endpoint: Rc<Endpoint>, tally: Rc<Tally>, number: usize, mut sender: Option<Sender>, fresh: bool) {
    while !tally.over.get() {
        let started = Instant::now();
        let one = async {
            if fresh || sender.is_none() {
                sender = Some(endpoint.connect().await?);
            }
            let sender = sender.as_mut().ok_or("no connection")?;
            sender.exchange(endpoint.request(number)).await
        };
        let result = tokio::time::timeout(PATIENCE, one).await;
        if !tally.note(started, result) {
            sender = None;
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

/// Runs the load and tells its figures.
pub async fn load(load: Load) -> Value {
    let resumption = match load.handshakes {
        Some(Handshakes::Resumed) => Resumption::in_memory_sessions(load.connections * 8),
        Some(Handshakes::Full) | None => Resumption::disabled(),
    };
    let endpoint = Rc::new(Endpoint::new(&load.target, resumption));
    let tally = Rc::new(Tally::default());
    let mut workers = Vec::new();
    for number in 0..load.connections {
        let first = endpoint.connect().await.expect("the target takes a connection");
        let others: Vec<_> = (1..load.streams).map(|_| first.another().expect("streams need h2")).collect();
        for sender in std::iter::once(first).chain(others) {
            let (endpoint, tally) = (endpoint.clone(), tally.clone());
            let fresh = load.handshakes.is_some();
            workers.push(tokio::task::spawn_local(worker(endpoint, tally, number, Some(sender), fresh)));
        }
    }
    tokio::time::sleep(Duration::from_secs_f64(load.warmup)).await;
    tally.counting.set(true);
    let (started, cpu) = (Instant::now(), cpu_us(&load.target.pids));
    tokio::time::sleep(Duration::from_secs_f64(load.seconds)).await;
    tally.counting.set(false);
    let (seconds, cpu) = (started.elapsed().as_secs_f64(), cpu_us(&load.target.pids) - cpu);
    tally.over.set(true);
    for worker in workers {
        worker.await.unwrap();
    }
    let mut latencies = tally.latencies_us.take();
    latencies.sort_unstable();
    let requests = latencies.len();
    let at = |part: f64| latencies.get(((requests as f64 * part) as usize).min(requests.saturating_sub(1)));
    json!({
        "requests": requests,
        "seconds": seconds,
        "rps": requests as f64 / seconds,
        "bytes": tally.bytes.get(),
        "p50_us": at(0.5),
        "p99_us": at(0.99),
        "errors": tally.errors.get(),
        "non_2xx": tally.non_2xx.get(),
        "first_fault": tally.first_fault.take(),
        "cpu_us_per_request": (requests > 0 && !load.target.pids.is_empty()).then(|| cpu / requests as f64),
        "cpu_busy": cpu / 1e6 / seconds,
        "rss_kib": rss_kib(&load.target.pids),
    })
}

/// Opens the connections, sends one request on each, holds them, and tells the memory.
pub async fn idle(idle: Idle) -> Value {
    let endpoint = Rc::new(Endpoint::new(&idle.target, Resumption::disabled()));
    let before = rss_kib(&idle.target.pids);
    let gate = Rc::new(tokio::sync::Semaphore::new(OPENING_MAX));
    let opening: Vec<_> = (0..idle.connections)
        .map(|number| {
            let (endpoint, gate) = (endpoint.clone(), gate.clone());
            tokio::task::spawn_local(async move {
                let _permit = gate.acquire().await.ok()?;
                let one = async {
                    let mut sender = endpoint.connect().await.ok()?;
                    let (status, ..) = sender.exchange(endpoint.request(number)).await.ok()?;
                    Some((sender, status))
                };
                tokio::time::timeout(PATIENCE, one).await.ok().flatten()
            })
        })
        .collect();
    let mut held = Vec::new();
    for task in opening {
        held.extend(task.await.unwrap());
    }
    tokio::time::sleep(Duration::from_secs_f64(idle.seconds)).await;
    let after = rss_kib(&idle.target.pids);
    json!({
        "connections": held.len(),
        "errors": idle.connections - held.len(),
        "non_2xx": held.iter().filter(|(_, status)| !(200..300).contains(status)).count(),
        "rss_before_kib": before,
        "rss_kib": after,
    })
}

/// User and system time of the processes so far, in µs: fields 14 and 15 of `/proc/PID/stat`, in
/// ticks of a hundredth of a second on every Linux that this runs on.
fn cpu_us(pids: &[u32]) -> f64 {
    let ticks = |pid: &u32| {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).expect("the measured process lives");
        let fields: Vec<_> = stat.rsplit(") ").next().unwrap().split(' ').collect();
        fields[11].parse::<f64>().unwrap() + fields[12].parse::<f64>().unwrap()
    };
    pids.iter().map(ticks).sum::<f64>() * 10_000.0
}

fn rss_kib(pids: &[u32]) -> u64 {
    let resident = |pid: &u32| {
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("the measured process lives");
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap_or("0");
        line.split_whitespace().next().and_then(|n| n.parse::<u64>().ok()).unwrap_or(0)
    };
    pids.iter().map(resident).sum()
}
