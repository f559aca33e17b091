//! Bodies on their way through: counted, bounded, timed, and cut when the permit ends.
//!
//! INVARIANT: nothing flows through a [`Relay`] after its permit has ended: it is asked on every
//! frame, and an idle stream is woken by the permit's cancellation or its end, whichever is first.
//! Timers and cancellation are armed only when a stream actually waits, so that a short answer
//! that is already there costs neither. While its client takes nothing, `untaken.rs` looks after it.

use std::cell::{Cell, RefCell};
use std::fmt;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, LazyLock};
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body as HttpBody, Frame, SizeHint};
use hyper::body::Incoming;
use tokio::time::{Instant, Sleep};
use tokio_util::sync::{CancellationToken, DropGuard, WaitForCancellationFutureOwned};

use crate::identity::directory::Uses;
use crate::identity::session_use::SessionUse;
use crate::model::{Clock, Timestamp, Ttl};

use super::guard::{Exchange, Pace, PaceLimits};
use super::hygiene::Injected;
use super::untaken::{Open, Untaken};

/// Why a body ended before its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BodyError {
    /// The permit ended: session, lock, token, grant.
    Cut,
    /// Nothing came for too long.
    Idle,
    /// More came than may.
    TooLarge,
    /// The peer broke off.
    Peer,
}

impl fmt::Display for BodyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Cut => "the permit ended while the body was under way",
            Self::Idle => "the body stood still for too long",
            Self::TooLarge => "the body is longer than it may be",
            Self::Peer => "the body broke off",
        })
    }
}

/// What a stream is reset with when its permit ends: nothing broke (RFC 9113 §7).
static CANCEL: LazyLock<h2::Error> = LazyLock::new(|| h2::Reason::CANCEL.into());

impl std::error::Error for BodyError {
    /// hyper resets an HTTP/2 stream with the code that it finds here, else with `INTERNAL_ERROR`.
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Cut | Self::Idle | Self::TooLarge => Some(&*CANCEL),
            Self::Peer => None,
        }
    }
}

/// How long what is open may stay open.
#[derive(Clone)]
pub struct Permit {
    /// Cancelled at a revocation or lock.
    pub streams: CancellationToken,
    /// The earliest end of session, certificate, token and grant.
    pub ends_at: Timestamp,
    /// The time of day.
    pub clock: Arc<dyn Clock>,
    /// What it rests on beside its session, where there is such a thing.
    pub rests: Option<Arc<PermitRests>>,
}

/// What a permit rests on that can end or is used while it lasts. Kept behind one pointer: most have none.
pub struct PermitRests {
    /// Where it rests on grants: until when, in milliseconds, moved by who watches them.
    pub granted: Option<Arc<AtomicI64>>,
    /// Where it is noted that the grants that it rests on are used, if that matters.
    pub uses: Vec<Arc<Uses>>,
    /// Of a browser's session: what is sent over an open stream is a use of it.
    pub session: Option<Arc<SessionUse>>,
    /// Whoever watches grants, and those who act for the principal, does so for as long as these are kept.
    pub watched: Vec<DropGuard>,
}

impl Permit {
    /// Whether it is over.
    #[must_use]
    pub fn is_over(&self) -> bool {
        let now = self.clock.now();
        let granted = self.rests.as_ref().and_then(|rests| rests.granted.as_ref());
        let granted = granted.map(|until| Timestamp::from_millis(until.load(Ordering::Acquire)));
        self.streams.is_cancelled() || self.ends_at.is_over(now) || granted.is_some_and(|until| until.is_over(now))
    }

    /// Whether the grants that it rests on are over.
    #[must_use]
    pub fn is_grant_over(&self) -> bool {
        let granted = self.rests.as_ref().and_then(|rests| rests.granted.as_ref());
        granted.is_some_and(|until| Timestamp::from_millis(until.load(Ordering::Acquire)).is_over(self.clock.now()))
    }

    /// Something moves under it.
    pub fn used(&self) {
        if let Some(rests) = &self.rests
            && !rests.uses.is_empty()
        {
            let now = self.clock.now();
            rests.uses.iter().for_each(|uses| uses.note(now));
        }
    }

    /// Its person sends something over an open stream.
    pub fn client_sent(&self) {
        if let Some(session) = self.rests.as_ref().and_then(|rests| rests.session.as_ref()) {
            session.stream_moved();
        }
    }

    /// How long it may still last, for a timer.
    #[must_use]
    pub fn remaining(&self) -> std::time::Duration {
        self.ends_at.since(self.clock.now()).duration()
    }
}

/// What has passed through a body so far; shared with whoever reports it.
#[derive(Debug, Default)]
pub struct Progress {
    /// Bytes of data.
    pub bytes: Cell<u64>,
    /// It came to its end.
    pub finished: Cell<bool>,
    /// It ended early, and why.
    pub failed: Cell<Option<BodyError>>,
    /// When the last frame passed, or its end did; none before the first.
    pub last: Cell<Option<Instant>>,
    /// Who sends it is being waited for: else it is the taker who takes his time.
    pub awaited: Cell<bool>,
}

/// What is to happen once the relay is gone, whether it came to its end or not.
pub trait Ending {
    /// Called once, with what passed.
    fn ended(&mut self, progress: &Progress);
}

/// A body that passes through.
pub struct Relay {
    /// None once it is in `open`; without that, there is nothing to pass.
    inner: Option<Incoming>,
    /// What has been read of it before it came here.
    first: Option<Frame<Bytes>>,
    permit: Permit,
    idle: Ttl,
    bytes_max: u64,
    progress: Rc<Progress>,
    ending: Option<Box<dyn Ending>>,
    waiting: Option<Waiting>,
    /// How slowly it may come; none where the connection's guard sees to that.
    pace: Option<Box<Pace>>,
    trailers: fn(&mut http::HeaderMap),
    /// What its trailers may not have either.
    injected: Option<Injected>,
    /// Who is told of it when it has more to come than its first piece.
    untaken: Option<Rc<Untaken>>,
    exchange: Option<Exchange>,
    open: Option<Rc<Open>>,
}

/// Armed only while the body waits.
struct Waiting {
    cut: Pin<Box<WaitForCancellationFutureOwned>>,
    timer: Pin<Box<Sleep>>,
}

impl Relay {
    /// A relay of `inner` under `permit`, at most `bytes_max` long, that may stand still for `idle`.
    /// `trailers` cleans the trailer section.
    #[must_use]
    pub fn new(inner: Incoming, permit: Permit, idle: Ttl, bytes_max: u64, trailers: fn(&mut http::HeaderMap)) -> Self {
        Self {
            inner: Some(inner),
            first: None,
            permit,
            idle,
            bytes_max,
            progress: Rc::default(),
            ending: None,
            waiting: None,
            pace: None,
            trailers,
            injected: None,
            untaken: None,
            exchange: None,
            open: None,
        }
    }

    /// A relay of nothing, in the place of one that had nothing to pass: `progress` goes on.
    #[must_use]
    pub fn of_nothing(permit: Permit, progress: Rc<Progress>) -> Self {
        Self {
            inner: None,
            first: None,
            permit,
            idle: Ttl::seconds(0),
            bytes_max: 0,
            progress,
            ending: None,
            waiting: None,
            pace: None,
            trailers: |_| {},
            injected: None,
            untaken: None,
            exchange: None,
            open: None,
        }
    }

    /// Passes this first, which has been read of it already.
    #[must_use]
    pub fn after(mut self, first: Option<Frame<Bytes>>) -> Self {
        self.first = first;
        self
    }

    /// Keeps these names out of its trailers.
    #[must_use]
    pub fn without(mut self, injected: Option<Injected>) -> Self {
        self.injected = injected;
        self
    }

    /// Has it looked after while its client does not take it.
    #[must_use]
    pub fn looked_after(mut self, untaken: Rc<Untaken>) -> Self {
        self.untaken = Some(untaken);
        self
    }

    /// Keeps the exchange open for as long as this is.
    pub fn hold(&mut self, exchange: Exchange) {
        self.exchange = Some(exchange);
    }

    /// Demands a minimum rate of whoever sends it: only the time in which we wait for them counts.
    #[must_use]
    pub fn paced(mut self, limits: Option<PaceLimits>) -> Self {
        self.pace = limits.map(|limits| Box::new(Pace::new(limits)));
        self
    }

    /// What has passed so far.
    #[must_use]
    pub fn progress(&self) -> Rc<Progress> {
        Rc::clone(&self.progress)
    }

    /// Reports to `ending` when the relay is gone.
    #[must_use]
    pub fn reporting_to(mut self, ending: Box<dyn Ending>) -> Self {
        if self.is_end_stream() {
            self.progress.finished.set(true);
        }
        self.ending = Some(ending);
        self
    }

    /// What comes in; none of what was given up.
    fn with_inner<T>(&mut self, act: impl FnOnce(&mut Incoming) -> T) -> Option<T> {
        match &self.open {
            None => self.inner.as_mut().map(act),
            Some(open) => open.incoming.borrow_mut().as_mut().map(act),
        }
    }

    /// So many bytes are handed out. Where they are the last, the upstream has done its part.
    fn handed(&mut self, bytes: usize) {
        if self.is_end_stream() {
            self.progress.finished.set(true);
            return self.end();
        }
        if let Some(untaken) = self.untaken.take() {
            let open = Rc::new(Open {
                incoming: RefCell::new(self.inner.take()),
                ending: RefCell::new(self.ending.take()),
                exchange: RefCell::new(self.exchange.take()),
                permit: self.permit.clone(),
                progress: Rc::clone(&self.progress),
                untaken: Cell::default(),
                pace: RefCell::new(Pace::new(untaken.limits)),
                bytes_per_second: untaken.limits.bytes_per_second,
            });
            untaken.look_after(&open);
            self.open = Some(open);
        }
        if let Some(open) = &self.open {
            open.handed(bytes);
        }
    }

    /// Tells of the end, once.
    fn end(&mut self) {
        match &self.open {
            Some(open) => open.end(),
            None => {
                if let Some(mut ending) = self.ending.take() {
                    ending.ended(&self.progress);
                }
            }
        }
    }

    fn fail(&self, error: BodyError) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        self.progress.failed.set(Some(error));
        Poll::Ready(Some(Err(error)))
    }

    /// It ends before its end. This is told at the next poll and not at once: of an answer whose body fails, hyper
    /// drops what it has not written yet, its head too, and who gets nothing at all sends a request again that has
    /// been carried out.
    fn broke_off(&self, context: &Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        self.progress.failed.set(Some(BodyError::Peer));
        context.waker().wake_by_ref();
        Poll::Pending
    }

    fn wait(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let pace = &mut self.pace;
        let waiting = self.waiting.get_or_insert_with(|| {
            let mut until = Instant::now() + self.idle.duration().min(self.permit.remaining());
            if let Some(pace) = pace {
                until = until.min(pace.waiting());
            }
            Waiting {
                cut: Box::pin(self.permit.streams.clone().cancelled_owned()),
                timer: Box::pin(tokio::time::sleep_until(until)),
            }
        });
        if waiting.cut.as_mut().poll(context).is_ready() {
            return self.fail(BodyError::Cut);
        }
        if waiting.timer.as_mut().poll(context).is_ready() {
            let why = if self.permit.is_over() { BodyError::Cut } else { BodyError::Idle };
            return self.fail(why);
        }
        self.progress.awaited.set(true);
        Poll::Pending
    }
}

impl HttpBody for Relay {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = &mut *self;
        if let Some(open) = &this.open {
            open.asked();
        }
        if let Some(why) = this.progress.failed.get() {
            return this.fail(why);
        }
        if this.permit.is_over() {
            return this.fail(BodyError::Cut);
        }
        let polled = match this.first.take() {
            Some(first) => Some(Poll::Ready(Some(Ok(first)))),
            None => this.with_inner(|inner| Pin::new(inner).poll_frame(context)),
        };
        let Some(polled) = polled else {
            return if this.open.is_some() { this.fail(BodyError::Cut) } else { Poll::Ready(None) };
        };
        match polled {
            Poll::Pending => this.wait(context),
            Poll::Ready(None) => {
                if !this.progress.finished.replace(true) {
                    this.progress.last.set(Some(Instant::now()));
                }
                Poll::Ready(None)
            }
            Poll::Ready(Some(Err(_))) => this.broke_off(context),
            Poll::Ready(Some(Ok(frame))) => {
                this.waiting = None;
                this.progress.awaited.set(false);
                this.progress.last.set(Some(Instant::now()));
                let (frame, length) = match frame.into_data() {
                    Ok(data) => {
                        let length = u64::try_from(data.len()).unwrap_or(u64::MAX);
                        let bytes = this.progress.bytes.get().saturating_add(length);
                        if bytes > this.bytes_max {
                            return this.fail(BodyError::TooLarge);
                        }
                        this.progress.bytes.set(bytes);
                        this.permit.used();
                        if let Some(pace) = &mut this.pace {
                            pace.moved(data.len());
                        }
                        let length = data.len();
                        (Frame::data(data), length)
                    }
                    Err(frame) => match frame.into_trailers() {
                        Ok(mut trailers) => {
                            (this.trailers)(&mut trailers);
                            if let Some(injected) = &this.injected {
                                injected.strip(&mut trailers);
                            }
                            (Frame::trailers(trailers), 0)
                        }
                        Err(other) => (other, 0),
                    },
                };
                this.handed(length);
                Poll::Ready(Some(Ok(frame)))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        if self.first.is_some() {
            return false;
        }
        match &self.open {
            None => self.inner.as_ref().is_none_or(HttpBody::is_end_stream),
            Some(open) => open.incoming.borrow().as_ref().is_some_and(HttpBody::is_end_stream),
        }
    }

    fn size_hint(&self) -> SizeHint {
        let left = match &self.open {
            None => Some(self.inner.as_ref().map_or_else(|| SizeHint::with_exact(0), HttpBody::size_hint)),
            Some(open) => open.incoming.borrow().as_ref().map(HttpBody::size_hint),
        }
        .unwrap_or_default();
        let first = self.first.as_ref().and_then(Frame::data_ref).map_or(0, |data| data.len() as u64);
        match left.exact() {
            Some(left) => SizeHint::with_exact(left.saturating_add(first)),
            None => left,
        }
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.end();
    }
}

/// What the gateway answers with.
#[expect(clippy::large_enum_variant, reason = "there is one for each answer, and a box would be an allocation more")]
pub enum Body {
    /// Bytes of our own; `None` once they are taken.
    Full(Option<Bytes>),
    /// The upstream's answer, passing through.
    Relay(Relay),
}

impl Body {
    /// A body of these bytes.
    #[must_use]
    pub fn full(bytes: impl Into<Bytes>) -> Self {
        Self::Full(Some(bytes.into()).filter(|bytes| !bytes.is_empty()))
    }

    /// The bytes of our own; none of what passes through.
    #[must_use]
    pub fn into_own(self) -> Bytes {
        match self {
            Self::Full(bytes) => bytes.unwrap_or_default(),
            Self::Relay(_) => Bytes::new(),
        }
    }

    /// A body of nothing.
    #[must_use]
    pub const fn empty() -> Self {
        Self::Full(None)
    }
}

impl HttpBody for Body {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match self.get_mut() {
            Self::Full(bytes) => Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes)))),
            Self::Relay(relay) => Pin::new(relay).poll_frame(context),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Full(bytes) => bytes.is_none(),
            Self::Relay(relay) => relay.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Full(bytes) => SizeHint::with_exact(bytes.as_ref().map_or(0, |bytes| bytes.len() as u64)),
            Self::Relay(relay) => relay.size_hint(),
        }
    }
}
