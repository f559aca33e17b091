//! Connections to upstreams: one pool per service and thread.
//!
//! The least loaded of the healthy upstreams is taken; one that could not be reached is left alone
//! for a while that doubles up to a bound. Where a service has its upstreams checked (`[health]`), one
//! that fails its checks gets no new requests while another can take them; with none left that passes,
//! all are used as if nothing were known, since a check may be wrong and a refusal helps nobody. A
//! connection that is found dead before anything was sent on it is replaced; once anything was sent,
//! nothing is sent again, unless the upstream itself says that it did nothing of it.

use std::cell::{Cell, OnceCell, RefCell};
use std::error::Error;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use http::uri::Scheme;
use http::{Request, Response};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use socket2::{SockRef, TcpKeepalive};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio::time::Instant;
use tokio_rustls::TlsConnector;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::model::CheckedUpstream;
use crate::policy::{Upstream, UpstreamProtocol};

use super::body::Relay;
use super::handshake::{ALPN_H1, ALPN_H2};
use super::multiplexed::{Multiplexed, Stream};
use super::refusal::UpstreamFault;

/// Idle connections that are kept per upstream and thread.
const IDLE_MAX: usize = 64;
/// How long a connection may lie idle before it is not used again.
const IDLE_AGE_MAX: Duration = Duration::from_secs(20);
/// How long a connection may take to be ready again after its last answer.
const READY_TIMEOUT: Duration = Duration::from_millis(50);
/// How long an upstream that could not be reached is left alone at first, and at most.
const REST_FIRST: Duration = Duration::from_millis(250);
const REST_MAX: Duration = Duration::from_secs(5);
/// Connections of HTTP/2 that are being opened to one upstream at a time, per thread: of many requests that
/// come at once, most find room on what the first of them opened.
const OPENING_MAX: usize = 4;
/// When the system asks a silent peer whether it is still there, how often then, and how many times.
const PROBE_AFTER: Duration = Duration::from_secs(10);
const PROBE_EVERY: Duration = Duration::from_secs(5);
const PROBES: u32 = 3;

/// What is sent to an upstream as body: the client's, passing through.
pub type UpstreamBody = Relay;

struct Idle {
    sender: http1::SendRequest<UpstreamBody>,
    since: Instant,
}

/// One upstream as one thread sees it.
struct Target {
    address: Upstream,
    /// What its checks say, where it is checked.
    checked: Option<Arc<CheckedUpstream>>,
    idle: RefCell<Vec<Idle>>,
    multiplexed: RefCell<Vec<Rc<Multiplexed>>>,
    /// Whether it spoke HTTP/2 when it was reached last, or must.
    speaks_http2: Cell<bool>,
    opening: Semaphore,
    open: Cell<u32>,
    in_flight: Cell<u32>,
    rests_until: Cell<Option<Instant>>,
    rest: Cell<Duration>,
    /// Whether it took no connection when it was tried last, nor refused one.
    hangs: Cell<bool>,
    /// Its pool is gone: what comes back from an exchange is not kept for another one.
    retired: Cell<bool>,
}

impl Target {
    fn is_unhealthy(&self) -> bool {
        self.checked.as_ref().is_some_and(|checked| checked.is_unhealthy())
    }

    /// A place on the least loaded connection of HTTP/2 that has room and is heard of.
    fn stream(&self) -> Option<Stream> {
        let mut multiplexed = self.multiplexed.borrow_mut();
        multiplexed.retain(|one| !one.is_over(IDLE_AGE_MAX));
        let roomy = multiplexed.iter().filter(|one| one.has_room() && !one.is_silent());
        roomy.min_by_key(|one| one.load()).map(Multiplexed::stream)
    }

    /// The same, heard of or not, for when no other may be opened: it may only be slow.
    fn silent_stream(&self) -> Option<Stream> {
        let multiplexed = self.multiplexed.borrow();
        let roomy = multiplexed.iter().filter(|one| one.has_room() && !one.is_over(IDLE_AGE_MAX));
        roomy.min_by_key(|one| one.load()).map(Multiplexed::stream)
    }
}

/// What a request needs of its connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Needs {
    /// Whatever the upstream speaks.
    Any,
    /// HTTP/1.1: the request asks for another protocol, which HTTP/2 has no way to say (RFC 9113 §8.6).
    Upgrade,
}

/// The upstreams of one service as one thread sees them.
pub struct Pool {
    targets: Vec<Rc<Target>>,
    tls: Arc<rustls::ClientConfig>,
    /// The same without an offer of HTTP/2, for upgrades: made with the first.
    tls_http1: OnceCell<Arc<rustls::ClientConfig>>,
    server_name: Option<String>,
    connect: Duration,
    connections_max: u32,
    tasks: TaskTracker,
    stopping: CancellationToken,
}

/// A way to send one request. Its upstream counts it as load until this is dropped.
pub struct Lane {
    target: Rc<Target>,
    sender: Option<Sender>,
}

enum Sender {
    Http1(http1::SendRequest<UpstreamBody>),
    Http2(Stream),
}

impl Drop for Lane {
    fn drop(&mut self) {
        self.target.in_flight.set(self.target.in_flight.get().saturating_sub(1));
        if let Some(Sender::Http1(sender)) = self.sender.take() {
            let mut idle = self.target.idle.borrow_mut();
            if !sender.is_closed() && !self.target.retired.get() && idle.len() < IDLE_MAX {
                idle.push(Idle { sender, since: Instant::now() });
            }
        }
    }
}

impl Lane {
    /// The scheme that requests name where they go out as HTTP/2, which is how they do: servers refuse one that
    /// is not the connection's own (RFC 9113 §8.3.1).
    #[must_use]
    pub fn http2_scheme(&self) -> Option<Scheme> {
        let scheme = if self.target.address.tls { Scheme::HTTPS } else { Scheme::HTTP };
        matches!(self.sender, Some(Sender::Http2(_))).then_some(scheme)
    }

    /// Sends the request. The lane must be kept until the answer's body has been read.
    ///
    /// # Errors
    /// The request itself when the connection was found dead with nothing sent on it; else what
    /// went wrong.
    pub async fn send(&mut self, request: Request<UpstreamBody>) -> Result<Response<Incoming>, Unsent> {
        let outcome = match &mut self.sender {
            Some(Sender::Http1(sender)) => sender.try_send_request(request).await,
            Some(Sender::Http2(stream)) => stream.sender().try_send_request(request).await,
            None => return Err(Unsent::Failed),
        };
        match outcome {
            Ok(response) => Ok(response),
            Err(mut error) => {
                let given_back = error.take_message();
                let refused = given_back.is_none() && self.is_refused(error.error());
                self.discard();
                match given_back {
                    Some(request) => Err(Unsent::Again(Box::new(request))),
                    None if refused => Err(Unsent::Refused),
                    None => Err(Unsent::Failed),
                }
            }
        }
    }

    /// Whether the upstream says that it has done nothing of a request (RFC 9113 §8.7): it refused the stream, or
    /// went away before it, which is what an error of a stream by a GOAWAY of the other side is.
    fn is_refused(&self, error: &hyper::Error) -> bool {
        let Some(cause) = error.source().and_then(|cause| cause.downcast_ref::<h2::Error>()) else {
            return false;
        };
        if let (true, Some(Sender::Http2(stream))) = (cause.is_go_away(), &self.sender) {
            stream.going();
        }
        cause.is_remote() && (cause.is_go_away() || cause.reason() == Some(h2::Reason::REFUSED_STREAM))
    }

    /// Gives the connection up: what was read from it can't be trusted to have ended cleanly. Of HTTP/2
    /// it is the one stream that is given up.
    pub fn discard(&mut self) {
        self.sender = None;
    }

    /// Gives the connection up because its answer is overdue. One of HTTP/2 on which nothing else came
    /// either gets no new requests until something does.
    pub fn in_vain(&mut self) {
        if let Some(Sender::Http2(stream)) = &self.sender {
            stream.in_vain();
        }
        self.discard();
    }
}

/// Why a request did not get an answer.
pub enum Unsent {
    /// Nothing of it was sent: it may go another way.
    Again(Box<Request<UpstreamBody>>),
    /// It was sent, at least its head, and the upstream says that it has done nothing of it: it may go another
    /// way, if there is another copy of it.
    Refused,
    /// Some of it was, or may have been.
    Failed,
}

/// One of the connections that a target may have, from its beginning on.
struct Place(Rc<Target>);

impl Place {
    fn of(target: &Rc<Target>) -> Self {
        target.open.set(target.open.get() + 1);
        Self(Rc::clone(target))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.open.set(self.0.open.get().saturating_sub(1));
    }
}

impl Drop for Pool {
    /// A reload brought another pool. The task of each connection holds its upstream, whose idle
    /// connections would hold their tasks: nobody else would ever close them.
    fn drop(&mut self) {
        for target in &self.targets {
            target.retired.set(true);
        }
        self.close_idle();
    }
}

impl Pool {
    /// A pool over these upstreams, with nothing open.
    #[must_use]
    pub fn new(
        upstreams: Vec<(Upstream, Option<Arc<CheckedUpstream>>)>,
        tls: Arc<rustls::ClientConfig>,
        server_name: Option<String>,
        connect: Duration,
        connections_max: u32,
        tasks: TaskTracker,
        stopping: CancellationToken,
    ) -> Self {
        let target = |(address, checked): (Upstream, _)| {
            Rc::new(Target {
                speaks_http2: Cell::new(address.protocol == UpstreamProtocol::Http2),
                address,
                checked,
                idle: RefCell::default(),
                multiplexed: RefCell::default(),
                opening: Semaphore::new(OPENING_MAX),
                open: Cell::new(0),
                in_flight: Cell::new(0),
                rests_until: Cell::new(None),
                hangs: Cell::new(false),
                rest: Cell::new(REST_FIRST),
                retired: Cell::new(false),
            })
        };
        Self {
            targets: upstreams.into_iter().map(target).collect(),
            tls,
            tls_http1: OnceCell::new(),
            server_name,
            connect,
            connections_max,
            tasks,
            stopping,
        }
    }

    /// The upstreams, best first: those that pass their checks, then those that could be reached, then
    /// the less loaded.
    fn by_preference(&self, now: Instant) -> Vec<Rc<Target>> {
        let mut targets = self.targets.clone();
        let rests = |target: &Target| target.rests_until.get().is_some_and(|until| until > now);
        targets.sort_by_key(|target| (target.is_unhealthy(), rests(target), target.in_flight.get()));
        targets
    }

    /// A lane to the best upstream that can be reached.
    ///
    /// # Errors
    /// When none can, all their connections are in use, or none speaks what the request needs.
    pub async fn lane(&self, needs: Needs) -> Result<Lane, UpstreamFault> {
        let serves = |target: &Target| needs == Needs::Any || target.address.protocol != UpstreamProtocol::Http2;
        if !self.targets.iter().any(|target| serves(target)) {
            return Err(UpstreamFault::NoUpgrade);
        }
        if let [only] = self.targets.as_slice() {
            return self.lane_to(only, needs).await;
        }
        let mut busy = false;
        for target in self.by_preference(Instant::now()) {
            if !serves(&target) {
                continue;
            }
            // One that takes requests and has all its connections in use is no reason to send them
            // to one that does not.
            if busy && target.is_unhealthy() {
                break;
            }
            match self.lane_to(&target, needs).await {
                Ok(lane) => return Ok(lane),
                Err(fault) => busy |= fault == UpstreamFault::Busy && !target.is_unhealthy(),
            }
        }
        Err(if busy { UpstreamFault::Busy } else { UpstreamFault::Unreachable })
    }

    async fn lane_to(&self, target: &Rc<Target>, needs: Needs) -> Result<Lane, UpstreamFault> {
        let sender = match self.pooled(target, needs).await {
            Some(sender) => sender,
            None => Box::pin(self.fresh(target, needs)).await?,
        };
        target.in_flight.set(target.in_flight.get() + 1);
        Ok(Lane { target: Rc::clone(target), sender: Some(sender) })
    }

    async fn pooled(&self, target: &Target, needs: Needs) -> Option<Sender> {
        if needs == Needs::Any
            && let Some(stream) = target.stream()
        {
            return Some(Sender::Http2(stream));
        }
        loop {
            let idle = target.idle.borrow_mut().pop()?;
            if idle.sender.is_closed() || idle.since.elapsed() > IDLE_AGE_MAX {
                continue;
            }
            let mut sender = idle.sender;
            // The connection's task may still be finishing the last exchange; a dead one says so. One
            // that was answered early and still takes somebody's slow upload is given up: nobody
            // waits for another's body.
            if matches!(tokio::time::timeout(READY_TIMEOUT, sender.ready()).await, Ok(Ok(()))) {
                return Some(Sender::Http1(sender));
            }
        }
    }

    /// A connection of its own, or a place on one of HTTP/2 that somebody else has opened meanwhile.
    async fn fresh(&self, target: &Rc<Target>, needs: Needs) -> Result<Sender, UpstreamFault> {
        if needs == Needs::Upgrade || !target.speaks_http2.get() {
            return self.opened(target, needs).await;
        }
        let turn = tokio::time::timeout(self.connect, target.opening.acquire()).await;
        if let Some(stream) = target.stream() {
            return Ok(Sender::Http2(stream));
        }
        let opened = match turn {
            Ok(Ok(_turn)) => self.opened(target, needs).await,
            Ok(Err(_)) | Err(_) => Err(UpstreamFault::Busy),
        };
        match opened {
            Err(UpstreamFault::Busy) => target.silent_stream().map(Sender::Http2).ok_or(UpstreamFault::Busy),
            other => other,
        }
    }

    async fn opened(&self, target: &Rc<Target>, needs: Needs) -> Result<Sender, UpstreamFault> {
        if target.open.get() >= self.connections_max {
            return Err(UpstreamFault::Busy);
        }
        let rests_until = target.rests_until.get();
        // One that refuses connections says so at once; for one that takes none, one request waits and not each.
        if target.hangs.get() && rests_until.is_some_and(|until| until > Instant::now()) {
            return Err(UpstreamFault::Unreachable);
        }
        if rests_until.is_some() {
            // While this one tries whether it is back, the others go elsewhere.
            target.rests_until.set(Some(Instant::now() + self.connect));
        }
        // Taken before anything is waited for: many may come at once.
        let place = Place::of(target);
        match tokio::time::timeout(self.connect, self.connect(target, place, needs)).await {
            Ok(Ok(sender)) => {
                target.hangs.set(false);
                target.rest.set(REST_FIRST);
                target.rests_until.set(None);
                Ok(sender)
            }
            // It may speak HTTP/2 only, and everything else that it is asked goes well.
            Ok(Err(())) if needs == Needs::Upgrade && target.speaks_http2.get() => Err(UpstreamFault::Unreachable),
            failed @ (Ok(Err(())) | Err(_)) => {
                target.hangs.set(failed.is_err());
                let rest = target.rest.get();
                target.rests_until.set(Some(Instant::now() + rest));
                target.rest.set((rest * 2).min(REST_MAX));
                Err(UpstreamFault::Unreachable)
            }
        }
    }

    async fn connect(&self, target: &Rc<Target>, place: Place, needs: Needs) -> Result<Sender, ()> {
        let address = &target.address;
        let stream = TcpStream::connect((address.host.as_str(), address.port)).await.map_err(|_| ())?;
        stream.set_nodelay(true).map_err(|_| ())?;
        // A peer that is gone without a word is found out below HTTP, where no server counts how often it is asked.
        let probes = TcpKeepalive::new().with_time(PROBE_AFTER).with_interval(PROBE_EVERY).with_retries(PROBES);
        SockRef::from(&stream).set_tcp_keepalive(&probes).map_err(|_| ())?;
        if !address.tls {
            return match address.protocol {
                UpstreamProtocol::Http2 => self.http2(target, place, TokioIo::new(stream)).await,
                UpstreamProtocol::Http1 | UpstreamProtocol::Auto => self.http1(place, TokioIo::new(stream)).await,
            };
        }
        let name = self.server_name.clone().unwrap_or_else(|| address.host.clone());
        let name = ServerName::try_from(name).map_err(|_| ())?;
        let tls = match needs {
            Needs::Any => &self.tls,
            Needs::Upgrade => self.tls_http1.get_or_init(|| {
                let mut tls = (*self.tls).clone();
                tls.alpn_protocols = vec![ALPN_H1.to_vec()];
                Arc::new(tls)
            }),
        };
        let stream = TlsConnector::from(Arc::clone(tls)).connect(name, stream).await.map_err(|_| ())?;
        let agreed_http2 = stream.get_ref().1.alpn_protocol() == Some(ALPN_H2);
        if address.protocol == UpstreamProtocol::Auto && needs == Needs::Any {
            target.speaks_http2.set(agreed_http2);
        }
        match address.protocol {
            UpstreamProtocol::Http1 => self.http1(place, TokioIo::new(stream)).await,
            UpstreamProtocol::Http2 => self.http2(target, place, TokioIo::new(stream)).await,
            UpstreamProtocol::Auto if agreed_http2 => self.http2(target, place, TokioIo::new(stream)).await,
            UpstreamProtocol::Auto => self.http1(place, TokioIo::new(stream)).await,
        }
    }

    async fn http1<I>(&self, place: Place, io: I) -> Result<Sender, ()>
    where
        I: hyper::rt::Read + hyper::rt::Write + Unpin + Send + 'static,
    {
        let (sender, connection) = http1::Builder::new().handshake(io).await.map_err(|_| ())?;
        self.keep(place, connection.with_upgrades());
        Ok(Sender::Http1(sender))
    }

    async fn http2<I>(&self, target: &Rc<Target>, place: Place, io: I) -> Result<Sender, ()>
    where
        I: hyper::rt::Read + hyper::rt::Write + Unpin + 'static,
    {
        let (multiplexed, running) = Multiplexed::open(io, self.tasks.clone()).await?;
        self.keep(place, running);
        let stream = multiplexed.stream();
        // A pool that went meanwhile closes nothing that comes later.
        if !target.retired.get() {
            target.multiplexed.borrow_mut().push(multiplexed);
        }
        Ok(Sender::Http2(stream))
    }

    /// Runs a connection until it ends; until then it has its place.
    fn keep<F: Future<Output = hyper::Result<()>> + 'static>(&self, place: Place, connection: F) {
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

    /// Closes what lies idle: nothing new is to come.
    pub fn close_idle(&self) {
        for target in &self.targets {
            target.idle.borrow_mut().clear();
            target.multiplexed.borrow_mut().clear();
        }
    }

    /// Forgets idle connections that are too old or closed, so that they don't lie about.
    pub fn sweep(&self) {
        for target in &self.targets {
            target.idle.borrow_mut().retain(|idle| !idle.sender.is_closed() && idle.since.elapsed() <= IDLE_AGE_MAX);
            target.multiplexed.borrow_mut().retain(|one| !one.is_over(IDLE_AGE_MAX));
        }
    }
}
