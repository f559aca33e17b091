//! The strict reader under hyper's HTTP/1: it sees every byte of the client first and accepts or
//! refuses, never rewrites. hyper alone forgives what attackers play with (bare LF, `Content-Length`
//! twice or beside `Transfer-Encoding`, fragments …) before a service could see it.
//!
//! Chosen where RFC 9112 leaves a choice: no empty line before a request; no `Content-Length` twice,
//! even if equal; `chunked` is the only transfer coding; CONNECT, `*` and the upgrade to h2c are
//! refused; a request with `Upgrade` has no body and nothing behind it until it is answered.

mod chunked;
mod framing;
mod head;

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Instant;

use super::guard::{Alarm, Pace, Verdict, WriteWatch};
pub use super::guard::{GuardControl, PaceLimits, WireRefusal};
pub use framing::{Framing, Stage};

/// The bounds of an HTTP/1 connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct H1Limits {
    /// Bytes of a request's head.
    pub head_bytes_max: usize,
    /// Fields of a head; 100 at most.
    pub headers_max: usize,
    /// How long a head may take from its first byte.
    pub head_timeout: Duration,
    /// How long a connection may stay without a request, the first one included.
    pub idle_timeout: Duration,
    /// How slowly a client may send a body.
    pub body: PaceLimits,
    /// How slowly a client may take responses.
    pub write: PaceLimits,
}

impl Default for H1Limits {
    fn default() -> Self {
        Self {
            head_bytes_max: 64 * 1024,
            headers_max: head::HEADERS_MAX,
            head_timeout: Duration::from_secs(10),
            idle_timeout: Duration::from_secs(60),
            body: PaceLimits::default(),
            write: PaceLimits::default(),
        }
    }
}

/// A client's stream that yields strict HTTP/1 requests, or an error of kind `InvalidData`.
#[derive(Debug)]
pub struct GuardH1<S> {
    io: S,
    framing: Framing,
    control: GuardControl,
    limits: H1Limits,
    /// Bytes that came with, or as, a head that wasn't whole; empty on the fast path.
    held: Vec<u8>,
    /// How many of them may be handed on.
    cleared: usize,
    /// How many of them were.
    handed: usize,
    waiting: Waiting,
    pace: Pace,
    alarm: Alarm,
    writes: WriteWatch,
}

/// For what the client is being waited, and until when.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Waiting {
    No,
    /// For a request, with nothing under way.
    Idle(Instant),
    /// For a request, while an exchange is open: no limit, the instant is that of the next look.
    Busy(Instant),
    Head(Instant),
}

impl<S> GuardH1<S> {
    /// Puts a guard on a stream whose first byte has not been read.
    #[must_use]
    pub fn new(io: S, limits: H1Limits, control: GuardControl) -> Self {
        Self {
            io,
            framing: Framing::new(limits),
            control,
            limits,
            held: Vec::new(),
            cleared: 0,
            handed: 0,
            waiting: Waiting::No,
            pace: Pace::new(limits.body),
            alarm: Alarm::default(),
            writes: WriteWatch::new(limits.write),
        }
    }

    /// The stream, for the last words after a refusal: it has not been shut down then. What the guard
    /// still held is dropped.
    pub fn into_inner(self) -> S {
        self.io
    }

    /// The stream.
    pub const fn inner(&self) -> &S {
        &self.io
    }

    /// Hands on what is held and good; whether there was anything.
    fn hand_on(&mut self, buffer: &mut ReadBuf<'_>) -> bool {
        let Some(good) = self.held.get(self.handed..self.cleared).filter(|good| !good.is_empty()) else {
            return false;
        };
        let part = good.get(..buffer.remaining()).unwrap_or(good);
        buffer.put_slice(part);
        self.handed += part.len();
        if self.handed == self.cleared {
            self.held.drain(..self.cleared);
            self.handed = 0;
            self.cleared = 0;
            if self.held.is_empty() {
                // Split heads are rare: an idle connection should not keep their memory.
                self.held = Vec::new();
            }
        }
        true
    }

    /// Judges what a read added to `buffer` behind `before`, and takes back what may not pass yet.
    fn judge(&mut self, buffer: &mut ReadBuf<'_>, before: usize) {
        let fresh = buffer.filled().get(before..).unwrap_or_default();
        let was_body = self.framing.stage() == Stage::Body;
        if was_body {
            self.pace.moved(fresh.len());
        }
        let passed = if self.held.is_empty() {
            let passed = self.framing.inspect(fresh);
            if passed < fresh.len() {
                if self.framing.stage() == Stage::Head {
                    self.held.extend_from_slice(fresh.get(passed..).unwrap_or_default());
                }
                buffer.set_filled(before + passed);
            }
            passed
        } else {
            self.held.extend_from_slice(fresh);
            buffer.set_filled(before);
            self.cleared = self.framing.inspect(&self.held);
            self.cleared
        };
        self.waiting = match (self.framing.stage(), self.waiting) {
            // The clock of a head starts at its first byte and stays, whatever trickles in.
            (Stage::Head, Waiting::Head(deadline)) if passed == 0 => Waiting::Head(deadline),
            (Stage::Head, _) => Waiting::Head(Instant::now() + self.limits.head_timeout),
            (Stage::Hold, _) => {
                self.control.expect_verdict();
                Waiting::No
            }
            (Stage::Body, _) => {
                if !was_body {
                    self.pace = Pace::new(self.limits.body);
                }
                Waiting::No
            }
            (Stage::Idle | Stage::Tunnel | Stage::Refused(_), _) => Waiting::No,
        };
    }

    /// The client is being waited for: ready with a refusal when that has taken too long.
    fn poll_patience(&mut self, cx: &mut Context<'_>) -> Poll<WireRefusal> {
        loop {
            let (deadline, refusal) = match self.framing.stage() {
                Stage::Body => (self.pace.waiting(), WireRefusal::BodyTooSlow),
                Stage::Idle | Stage::Head => {
                    // A response under way is not idleness, however long it is silent.
                    let busy = self.control.open_exchanges() > 0 || self.writes.is_waiting();
                    self.waiting = match self.waiting {
                        Waiting::Head(deadline) => Waiting::Head(deadline),
                        Waiting::Idle(deadline) | Waiting::Busy(deadline) if busy => Waiting::Busy(deadline),
                        Waiting::Idle(deadline) => Waiting::Idle(deadline),
                        Waiting::No if busy => Waiting::Busy(Instant::now() + self.limits.idle_timeout),
                        Waiting::No | Waiting::Busy(_) => Waiting::Idle(Instant::now() + self.limits.idle_timeout),
                    };
                    match self.waiting {
                        Waiting::Head(deadline) => (deadline, WireRefusal::HeadTimeout),
                        Waiting::Idle(deadline) | Waiting::Busy(deadline) => (deadline, WireRefusal::Idle),
                        Waiting::No => return Poll::Pending,
                    }
                }
                Stage::Hold | Stage::Tunnel | Stage::Refused(_) => return Poll::Pending,
            };
            ready!(self.alarm.poll_due(cx, deadline));
            if matches!(self.waiting, Waiting::Busy(_)) {
                self.waiting = Waiting::No;
                continue;
            }
            return Poll::Ready(refusal);
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for GuardH1<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        loop {
            if buffer.remaining() == 0 || this.hand_on(buffer) {
                return Poll::Ready(Ok(()));
            }
            match this.framing.stage() {
                Stage::Tunnel => return Pin::new(&mut this.io).poll_read(cx, buffer),
                Stage::Refused(refusal) => return Poll::Ready(Err(this.control.refuse(refusal, &this.writes))),
                Stage::Hold => match ready!(this.control.poll_verdict(cx)) {
                    Verdict::Tunnel => this.framing.tunnel(),
                    Verdict::NoTunnel => this.framing.no_tunnel(),
                },
                Stage::Idle | Stage::Head | Stage::Body => {
                    let before = buffer.filled().len();
                    if Pin::new(&mut this.io).poll_read(cx, buffer)?.is_pending() {
                        let refusal = ready!(this.poll_patience(cx));
                        return Poll::Ready(Err(this.control.refuse(refusal, &this.writes)));
                    }
                    if buffer.filled().len() == before {
                        // The end. A head that isn't whole goes down with it.
                        return Poll::Ready(Ok(()));
                    }
                    this.judge(buffer, before);
                    if buffer.filled().len() > before {
                        return Poll::Ready(Ok(()));
                    }
                }
            }
        }
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for GuardH1<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let outcome = Pin::new(&mut this.io).poll_write(cx, bytes);
        this.writes.judge(cx, &this.control, outcome, |taken| *taken)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let outcome = Pin::new(&mut this.io).poll_write_vectored(cx, slices);
        this.writes.judge(cx, &this.control, outcome, |taken| *taken)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let outcome = Pin::new(&mut this.io).poll_flush(cx);
        this.writes.judge(cx, &this.control, outcome, |()| 0)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.control.refusal().is_some() {
            // hyper would close the stream before the connection's task could say why it was refused.
            return Poll::Ready(Ok(()));
        }
        let outcome = Pin::new(&mut this.io).poll_shutdown(cx);
        this.writes.judge(cx, &this.control, outcome, |()| 0)
    }
}
