//! What both guards share: the refusal, the talk with the connection's task, and time.
//!
//! A guard sits between TLS and hyper. It accepts or refuses the client's bytes, never rewrites them;
//! after a refusal every read fails, hyper gives up without an answer of its own, and the connection's
//! task asks [`GuardControl::refusal`] what to tell the client. Whether hyper's own result is an error
//! says nothing: it takes a failed read between two requests for the end of the connection.

use std::fmt;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicU8, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use futures_util::task::AtomicWaker;
use tokio::time::{Instant, Sleep};

/// Why a connection is not read any further.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum WireRefusal {
    /// Bytes that are not strictly the protocol, or could be read in two ways.
    Malformed {
        /// What was wrong.
        what: &'static str,
    },
    /// The head, or a header block, has too many bytes.
    HeadTooLarge,
    /// The head has too many fields.
    TooManyHeaders,
    /// Correct, but not offered here.
    NotImplemented {
        /// What was asked for.
        what: &'static str,
    },
    /// The head did not come in time.
    HeadTimeout,
    /// The body, or a frame, came too slowly.
    BodyTooSlow,
    /// Nothing was asked for long enough; no error, the connection just ends.
    Idle,
    /// The client does not take its answer.
    WriteStalled,
    /// More frames of a kind than their budget.
    Flood {
        /// Which frames.
        what: &'static str,
    },
    /// A frame longer than was allowed.
    FrameTooLarge,
}

impl WireRefusal {
    /// The HTTP status that says so, where HTTP/1 is spoken.
    #[must_use]
    pub const fn status(&self) -> u16 {
        match self {
            Self::Malformed { .. } | Self::FrameTooLarge => 400,
            Self::HeadTooLarge | Self::TooManyHeaders => 431,
            Self::NotImplemented { .. } => 501,
            Self::HeadTimeout | Self::BodyTooSlow | Self::Idle | Self::WriteStalled => 408,
            Self::Flood { .. } => 429,
        }
    }

    /// What was wrong, for the refusal's detail.
    #[must_use]
    pub const fn what(&self) -> &'static str {
        match self {
            Self::Malformed { what } | Self::NotImplemented { what } | Self::Flood { what } => what,
            Self::HeadTooLarge => "the header section is too large",
            Self::TooManyHeaders => "the header section has too many fields",
            Self::HeadTimeout => "the request head did not come in time",
            Self::BodyTooSlow => "the request came too slowly",
            Self::Idle => "the connection was idle",
            Self::WriteStalled => "the response was not taken",
            Self::FrameTooLarge => "a frame is too large",
        }
    }

    /// Whether there is anybody to tell: idle and stalled connections are just closed.
    #[must_use]
    pub const fn is_answered(&self) -> bool {
        !matches!(self, Self::Idle | Self::WriteStalled)
    }

    /// A GOAWAY frame that says so, where HTTP/2 is spoken (RFC 9113 §6.8 and §7).
    #[must_use]
    pub const fn goaway(&self) -> [u8; 17] {
        let code = match self {
            Self::Malformed { .. } | Self::NotImplemented { .. } => 0x1,
            Self::FrameTooLarge => 0x6,
            Self::Idle => 0x0,
            Self::HeadTooLarge
            | Self::TooManyHeaders
            | Self::HeadTimeout
            | Self::BodyTooSlow
            | Self::WriteStalled
            | Self::Flood { .. } => 0xb,
        };
        // Length 8, type 7, no flags, stream 0; any stream may have been worked on.
        [0, 0, 8, 7, 0, 0, 0, 0, 0, 0x7f, 0xff, 0xff, 0xff, 0, 0, 0, code]
    }
}

impl fmt::Display for WireRefusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.what())
    }
}

impl std::error::Error for WireRefusal {}

impl From<WireRefusal> for io::Error {
    fn from(refusal: WireRefusal) -> Self {
        Self::new(io::ErrorKind::InvalidData, refusal)
    }
}

const UNDECIDED: u8 = 0;
const TUNNEL: u8 = 1;
const NO_TUNNEL: u8 = 2;

#[derive(Default)]
struct Shared {
    verdict: AtomicU8,
    reader: AtomicWaker,
    refusal: OnceLock<(WireRefusal, Standing)>,
    exchanges: AtomicUsize,
}

/// Whether an answer to the refusal can reach the client in one piece.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Standing {
    /// No exchange was open.
    Clear,
    /// A response may be half written; more bytes would be taken for a part of it.
    MidResponse,
}

/// What guard and connection task tell each other. Clones talk about the same connection.
#[derive(Clone, Default)]
pub struct GuardControl {
    shared: Arc<Shared>,
}

impl GuardControl {
    /// For a new connection.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Why the guard stopped, once it did.
    #[must_use]
    pub fn refusal(&self) -> Option<WireRefusal> {
        self.shared.refusal.get().map(|(refusal, _)| *refusal)
    }

    /// Whether the refusal may be answered on the wire: there is one, it is worth telling, and no
    /// response was under way when it came.
    #[must_use]
    pub fn may_answer(&self) -> bool {
        self.shared
            .refusal
            .get()
            .is_some_and(|(refusal, standing)| refusal.is_answered() && *standing == Standing::Clear)
    }

    /// The answer to an upgrade is 101: from now on bytes pass unread.
    pub fn tunnel(&self) {
        self.decide(TUNNEL);
    }

    /// The answer to an upgrade is another one: go on reading requests. Must be called for every
    /// upgrade request that gets no tunnel, refused ones included; for other requests never.
    pub fn no_tunnel(&self) {
        self.decide(NO_TUNNEL);
    }

    /// Marks an exchange as open until the value is dropped. Make it when the service is called and
    /// drop it with the last of the response body: idle time counts only while none is open. (As
    /// nobody wakes the guard for it, a connection ends between one and two idle times after its last
    /// response, exactly one after its last byte if hyper looks for the next request in between.)
    pub fn exchange(&self) -> Exchange {
        self.shared.exchanges.fetch_add(1, Ordering::Relaxed);
        Exchange { shared: Arc::clone(&self.shared) }
    }

    /// How many exchanges are open.
    #[must_use]
    pub fn open_exchanges(&self) -> usize {
        self.shared.exchanges.load(Ordering::Relaxed)
    }

    fn decide(&self, verdict: u8) {
        self.shared.verdict.store(verdict, Ordering::Release);
        self.shared.reader.wake();
    }

    /// The guard stops. `writes` tells whether bytes of a response are still on their way.
    pub(super) fn refuse(&self, refusal: WireRefusal, writes: &WriteWatch) -> io::Error {
        let clear = self.open_exchanges() == 0 && !writes.is_waiting();
        let standing = if clear { Standing::Clear } else { Standing::MidResponse };
        self.shared.refusal.get_or_init(|| (refusal, standing)).0.into()
    }

    /// Forgets an earlier verdict; called before the upgrade's head is handed on.
    pub(super) fn expect_verdict(&self) {
        self.shared.verdict.store(UNDECIDED, Ordering::Release);
    }

    pub(super) fn poll_verdict(&self, cx: &mut Context<'_>) -> Poll<Verdict> {
        // ORDER: registered before it is looked at, else a verdict in between wakes nobody.
        self.shared.reader.register(cx.waker());
        match self.shared.verdict.swap(UNDECIDED, Ordering::AcqRel) {
            TUNNEL => Poll::Ready(Verdict::Tunnel),
            NO_TUNNEL => Poll::Ready(Verdict::NoTunnel),
            _ => Poll::Pending,
        }
    }
}

impl fmt::Debug for GuardControl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GuardControl")
            .field("refusal", &self.refusal())
            .field("open_exchanges", &self.open_exchanges())
            .finish()
    }
}

/// An exchange that is open while this lives.
#[derive(Debug)]
#[must_use = "the exchange is over when this is dropped"]
pub struct Exchange {
    shared: Arc<Shared>,
}

impl Drop for Exchange {
    fn drop(&mut self) {
        self.shared.exchanges.fetch_sub(1, Ordering::Relaxed);
    }
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Shared")
    }
}

/// What became of an upgrade.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    Tunnel,
    NoTunnel,
}

/// How long one side may make the other wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PaceLimits {
    /// The waiting that every connection may cause before its rate counts.
    pub grace: Duration,
    /// The waiting that fast bytes can earn, at most.
    pub credit_max: Duration,
    /// Each so many bytes earn one second.
    pub bytes_per_second: u32,
}

impl Default for PaceLimits {
    /// 1 KB/s after 10 s; a good rate earns pauses of up to 30 s.
    fn default() -> Self {
        Self { grace: Duration::from_secs(10), credit_max: Duration::from_secs(30), bytes_per_second: 1024 }
    }
}

/// Waiting as a budget: it is spent while the peer makes us wait and earned by bytes, so only the
/// peer's own slowness counts, never ours, and a stream without anything to move costs nothing.
#[derive(Debug)]
pub(super) struct Pace {
    limits: PaceLimits,
    credit: Duration,
    waiting_since: Option<Instant>,
}

impl Pace {
    pub(super) fn new(limits: PaceLimits) -> Self {
        Self { limits, credit: limits.grace, waiting_since: None }
    }

    /// Bytes moved. The clock is read only if the peer was being waited for.
    pub(super) fn moved(&mut self, bytes: usize) {
        if let Some(since) = self.waiting_since.take() {
            self.credit = self.credit.saturating_sub(since.elapsed());
        }
        if self.credit < self.limits.credit_max {
            let micros = (bytes as u64).saturating_mul(1_000_000) / u64::from(self.limits.bytes_per_second.max(1));
            self.credit = self
                .credit
                .saturating_add(Duration::from_micros(micros))
                .min(self.limits.credit_max.max(self.limits.grace));
        }
    }

    /// Whether the peer is being waited for.
    pub(super) const fn is_waiting(&self) -> bool {
        self.waiting_since.is_some()
    }

    /// The peer is being waited for; the time at which it has used up its credit.
    pub(super) fn waiting(&mut self) -> Instant {
        *self.waiting_since.get_or_insert_with(Instant::now) + self.credit
    }
}

/// One timer for deadlines that mostly move later: it is set when it is first needed and set again
/// only when it rings too early or a nearer deadline comes, so a busy connection never touches it.
#[derive(Debug, Default)]
pub(super) struct Alarm {
    sleep: Option<Pin<Box<Sleep>>>,
}

impl Alarm {
    /// Ready when `deadline` has passed; else the task is woken then, or earlier.
    pub(super) fn poll_due(&mut self, cx: &mut Context<'_>, deadline: Instant) -> Poll<()> {
        let sleep = self.sleep.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(deadline)));
        if deadline < sleep.deadline() {
            sleep.as_mut().reset(deadline);
        }
        loop {
            ready!(sleep.as_mut().poll(cx));
            if deadline <= Instant::now() {
                return Poll::Ready(());
            }
            sleep.as_mut().reset(deadline);
        }
    }
}

/// The writing half of a guard: bytes pass, but a client that does not take them ends the connection.
#[derive(Debug)]
pub(super) struct WriteWatch {
    pace: Pace,
    alarm: Alarm,
}

impl WriteWatch {
    pub(super) fn new(limits: PaceLimits) -> Self {
        Self { pace: Pace::new(limits), alarm: Alarm::default() }
    }

    /// Whether the client has not taken all yet.
    pub(super) const fn is_waiting(&self) -> bool {
        self.pace.is_waiting()
    }

    /// Judges the outcome of a write (`bytes` taken), flush or shutdown (none).
    pub(super) fn judge<T>(
        &mut self,
        cx: &mut Context<'_>,
        control: &GuardControl,
        outcome: Poll<io::Result<T>>,
        bytes: impl FnOnce(&T) -> usize,
    ) -> Poll<io::Result<T>> {
        match &outcome {
            Poll::Ready(Ok(taken)) => {
                self.pace.moved(bytes(taken));
                outcome
            }
            Poll::Ready(Err(_)) => outcome,
            Poll::Pending => {
                let deadline = self.pace.waiting();
                ready!(self.alarm.poll_due(cx, deadline));
                Poll::Ready(Err(control.refuse(WireRefusal::WriteStalled, self)))
            }
        }
    }
}
