//! Connections to upstreams: one pool per service and thread.
//!
//! The least loaded of the healthy upstreams is taken; one that could not be reached is left alone
//! for a while that doubles up to a bound. Where a service has its upstreams checked (`[health]`), one
//! that fails its checks gets no new requests while another can take them; with none left that passes,
//! all are used as if nothing were known, since a check may be wrong and a refusal helps nobody. A
//! connection that is found dead before anything was sent on it is replaced; once anything was sent,
//! nothing is sent again, unless the upstream itself says that it did nothing of it.
//!
//! Where connections are shared (HTTP/2), and for as long as nobody knows yet whether they are (ALPN), few are
//! opened at a time, and who comes meanwhile waits for what they bring, no longer than a connection may take.
//! INVARIANT: who opens holds its turn and its place by what ends with its request, however that ends: nobody
//! waits for someone who is gone.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use hyper::client::conn::http1;
use tokio::sync::Semaphore;
use tokio::time::Instant;

use crate::model::{CheckedUpstream, ServiceName};
use crate::policy::{Upstream, UpstreamProtocol};

use super::connect::{ConnectError, Connected, Connector, Needs};
use super::lane::{Lane, Sender, UpstreamBody};
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
/// Connections that are being opened to one upstream at a time, per thread, where others may share them: of many
/// requests that come at once, most find room on what the first of them opened.
const OPENING_MAX: u32 = 4;

struct Idle {
    sender: http1::SendRequest<UpstreamBody>,
    since: Instant,
}

/// One upstream as one thread sees it.
pub(super) struct Target {
    address: Upstream,
    /// What its checks say, where it is checked.
    checked: Option<Arc<CheckedUpstream>>,
    idle: RefCell<Vec<Idle>>,
    multiplexed: RefCell<Vec<Rc<Multiplexed>>>,
    /// What it spoke when it was reached last, or must; `Auto` while nobody knows.
    speaks: Cell<UpstreamProtocol>,
    /// Turns of those who open what others may share.
    opening: Semaphore,
    open: Cell<u32>,
    in_flight: Cell<u32>,
    reached_at: Cell<Option<Instant>>,
    rests_until: Cell<Option<Instant>>,
    rest: Cell<Duration>,
    /// Whether it took no connection when it was tried last, nor refused one.
    hangs: Cell<bool>,
    /// Its pool is gone: what comes back from an exchange is not kept for another one.
    retired: Cell<bool>,
}

impl Target {
    fn new(address: Upstream, checked: Option<Arc<CheckedUpstream>>) -> Self {
        let speaks = match address.protocol {
            // Without TLS nobody is asked.
            UpstreamProtocol::Auto if !address.tls => UpstreamProtocol::Http1,
            known => known,
        };
        Self {
            address,
            checked,
            idle: RefCell::default(),
            multiplexed: RefCell::default(),
            speaks: Cell::new(speaks),
            opening: Semaphore::new(OPENING_MAX as usize),
            open: Cell::new(0),
            in_flight: Cell::new(0),
            reached_at: Cell::new(None),
            rests_until: Cell::new(None),
            rest: Cell::new(REST_FIRST),
            hangs: Cell::new(false),
            retired: Cell::new(false),
        }
    }

    /// Whether it is reached by TLS.
    pub(super) fn is_tls(&self) -> bool {
        self.address.tls
    }

    /// One request more is on its way to it.
    pub(super) fn entered(&self) {
        self.in_flight.set(self.in_flight.get() + 1);
    }

    /// One is not any more, and leaves its connection where that may be used again.
    pub(super) fn left(&self, connection: Option<http1::SendRequest<UpstreamBody>>) {
        self.in_flight.set(self.in_flight.get().saturating_sub(1));
        if let Some(sender) = connection {
            let mut idle = self.idle.borrow_mut();
            if !sender.is_closed() && !self.retired.get() && idle.len() < IDLE_MAX {
                idle.push(Idle { sender, since: Instant::now() });
            }
        }
    }

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

    /// It has taken a connection: what others may use of it is kept for them.
    fn reached(&self, needs: Needs, connected: Connected) -> Sender {
        self.reached_at.set(Some(Instant::now()));
        self.rests_until.set(None);
        self.rest.set(REST_FIRST);
        self.hangs.set(false);
        // Who needs an upgrade offers HTTP/1.1 alone, and learns nothing.
        let asked = self.address.protocol == UpstreamProtocol::Auto && needs == Needs::Any;
        let (spoken, sender) = match connected {
            Connected::Http1(sender) => (UpstreamProtocol::Http1, Sender::Http1(sender)),
            Connected::Http2(multiplexed) => {
                let stream = multiplexed.stream();
                // A pool that went meanwhile closes nothing that comes later.
                if !self.retired.get() {
                    self.multiplexed.borrow_mut().push(multiplexed);
                }
                (UpstreamProtocol::Http2, Sender::Http2(stream))
            }
        };
        if asked {
            self.speaks.set(spoken);
        }
        sender
    }
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

/// One that rests is tried, and meanwhile the others go elsewhere. Where the try is given up before anything
/// came of it, the next one tries.
struct Trial<'a> {
    target: &'a Target,
    rested_until: Option<Instant>,
    until: Instant,
}

impl<'a> Trial<'a> {
    fn of(target: &'a Target, length: Duration) -> Self {
        let (rested_until, until) = (target.rests_until.get(), Instant::now() + length);
        if rested_until.is_some() {
            target.rests_until.set(Some(until));
        }
        Self { target, rested_until, until }
    }
}

impl Drop for Trial<'_> {
    fn drop(&mut self) {
        // Else it is known by now whether it takes connections, from this one or another.
        if self.target.rests_until.get() == Some(self.until) {
            self.target.rests_until.set(self.rested_until);
        }
    }
}

/// The upstreams of one service as one thread sees them.
pub struct Pool {
    service: ServiceName,
    targets: Vec<Rc<Target>>,
    connector: Connector,
    connect: Duration,
    connections_max: u32,
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
        service: ServiceName,
        upstreams: Vec<(Upstream, Option<Arc<CheckedUpstream>>)>,
        connector: Connector,
        connect: Duration,
        connections_max: u32,
    ) -> Self {
        let target = |(address, checked)| Rc::new(Target::new(address, checked));
        Self { service, targets: upstreams.into_iter().map(target).collect(), connector, connect, connections_max }
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
        let (mut healthy_is_busy, mut told) = (false, None);
        for target in self.by_preference(Instant::now()) {
            if !serves(&target) {
                continue;
            }
            // One that takes requests and has all its connections in use is no reason to send them
            // to one that does not.
            if healthy_is_busy && target.is_unhealthy() {
                break;
            }
            match self.lane_to(&target, needs).await {
                Ok(lane) => return Ok(lane),
                Err(fault) => {
                    healthy_is_busy |= fault == UpstreamFault::Busy && !target.is_unhealthy();
                    told = Some(told.map_or(fault, |before| of_several(before, fault)));
                }
            }
        }
        Err(told.unwrap_or(UpstreamFault::Unreachable))
    }

    async fn lane_to(&self, target: &Rc<Target>, needs: Needs) -> Result<Lane, UpstreamFault> {
        let sender = match self.pooled(target, needs).await {
            Some(sender) => sender,
            None => Box::pin(self.fresh(target, needs)).await?,
        };
        Ok(Lane::to(target, sender))
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
        if needs == Needs::Upgrade || target.speaks.get() == UpstreamProtocol::Http1 {
            return self.opened(target, needs).await;
        }
        let began = Instant::now();
        for turns in 1..=OPENING_MAX {
            match self.in_turn(target, turns, began).await {
                // No more may be opened, and what others are opening may have room. Who wants one turn more than
                // they leave waits for the next of them to be done, and who has all knows that nobody is opening.
                Err(UpstreamFault::Busy) => {}
                other => return other,
            }
        }
        target.silent_stream().map(Sender::Http2).ok_or(UpstreamFault::Busy)
    }

    /// The same once it has so many of the turns, which are waited for as long as a connection may take.
    async fn in_turn(&self, target: &Rc<Target>, turns: u32, began: Instant) -> Result<Sender, UpstreamFault> {
        let turn = tokio::time::timeout_at(began + self.connect, target.opening.acquire_many(turns)).await;
        if let Some(stream) = target.stream() {
            return Ok(Sender::Http2(stream));
        }
        if target.speaks.get() == UpstreamProtocol::Http1 {
            // As has been told meanwhile: each has a connection for itself, and nobody waits for another's.
            drop(turn);
            return match self.pooled(target, Needs::Any).await {
                Some(sender) => Ok(sender),
                None => self.opened(target, Needs::Any).await,
            };
        }
        match turn {
            Ok(Ok(_turn)) => self.opened(target, Needs::Any).await,
            // Nothing says that what it takes is in use where it took nothing in all that time.
            Ok(Err(_)) | Err(_) => {
                let was_reached = target.reached_at.get().is_some_and(|at| at >= began);
                let fault = if was_reached { UpstreamFault::Busy } else { UpstreamFault::Unreachable };
                target.silent_stream().map(Sender::Http2).ok_or(fault)
            }
        }
    }

    async fn opened(&self, target: &Rc<Target>, needs: Needs) -> Result<Sender, UpstreamFault> {
        let is_full = target.open.get() >= self.connections_max;
        let rests = target.rests_until.get().is_some_and(|until| until > Instant::now());
        // One that refuses connections says so at once; for one that takes none, one request waits and not each.
        // Nor are its places in use: who fills them is trying.
        if target.hangs.get() && (rests || is_full) {
            return Err(UpstreamFault::Unreachable);
        }
        if is_full {
            return Err(UpstreamFault::Busy);
        }
        // Taken before anything is waited for: many may come at once.
        let (place, _trial) = (Place::of(target), Trial::of(target, self.connect));
        let connecting = self.connector.connect(&target.address, needs, place);
        let cause = match tokio::time::timeout(self.connect, connecting).await {
            Ok(Ok(connected)) => return Ok(target.reached(needs, connected)),
            Ok(Err(ConnectError::NotHttp1)) => return Err(UpstreamFault::NoUpgrade),
            // It may speak HTTP/2 only, and everything else that it is asked goes well.
            Ok(Err(ConnectError::Failed(_)))
                if needs == Needs::Upgrade && target.speaks.get() == UpstreamProtocol::Http2 =>
            {
                return Err(UpstreamFault::Unreachable);
            }
            Ok(Err(ConnectError::Failed(cause))) => Some(cause),
            Err(_) => None,
        };
        target.hangs.set(cause.is_none());
        // Told once and not at each try, until it is reached again.
        if target.rests_until.get().is_none() {
            let cause = cause.as_deref().unwrap_or("no connection came about in time");
            tracing::warn!(service = %self.service, upstream = %target.address, cause, "an upstream can't be reached");
        }
        let rest = target.rest.get();
        target.rests_until.set(Some(Instant::now() + rest));
        target.rest.set((rest * 2).min(REST_MAX));
        Err(UpstreamFault::Unreachable)
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

/// What is told where several upstreams did not do: soonest what may be over in a moment, and last what no other
/// try would change.
fn of_several(one: UpstreamFault, other: UpstreamFault) -> UpstreamFault {
    let among = |fault: UpstreamFault| one == fault || other == fault;
    if among(UpstreamFault::Busy) {
        UpstreamFault::Busy
    } else if among(UpstreamFault::Unreachable) {
        UpstreamFault::Unreachable
    } else {
        one
    }
}
