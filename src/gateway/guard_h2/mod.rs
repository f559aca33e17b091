//! The counter under hyper's HTTP/2: h2 stops rapid reset, CONTINUATION and header bombs, but answers
//! floods of SETTINGS, PING and PRIORITY for ever, and tells no service about them. This guard reads
//! the nine bytes before each frame, keeps a budget per connection and window of time, and bounds how
//! long a client may leave a frame unfinished or its answers untaken. It accepts or refuses, never
//! rewrites; its only word of its own is the GOAWAY that ends a refused connection.

mod frames;

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Instant;

use super::guard::{Alarm, Pace, WriteWatch};
pub use super::guard::{GuardControl, PaceLimits, WireRefusal};
pub use frames::Frames;

/// The bounds of an HTTP/2 connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct H2Limits {
    /// Bytes of a frame's payload: the `SETTINGS_MAX_FRAME_SIZE` that hyper announces.
    pub frame_bytes_max: u32,
    /// Bytes of a header block, HEADERS and CONTINUATION together, still compressed.
    pub header_block_bytes_max: u32,
    /// Frames of a header block.
    pub header_block_frames_max: u32,
    /// The time after which counts begin anew.
    pub window: Duration,
    /// SETTINGS, PING, PRIORITY, GOAWAY and unknown frames in a window.
    pub control_frames_max: u32,
    /// RST_STREAM frames in a window, and half as many again as streams were opened in it.
    pub resets_max: u32,
    /// WINDOW_UPDATE frames in a window, and one more for each 128 bytes that were sent.
    pub window_updates_max: u32,
    /// Empty DATA frames that don't end their stream, in a window.
    pub empty_data_max: u32,
    /// How long preface and first SETTINGS may take.
    pub opening_timeout: Duration,
    /// How long a connection may stay without a request under way.
    pub idle_timeout: Duration,
    /// How slowly a client may send a frame or header block that it began.
    pub frame: PaceLimits,
    /// How slowly a client may take what we send.
    pub write: PaceLimits,
}

impl Default for H2Limits {
    fn default() -> Self {
        Self {
            frame_bytes_max: 16 * 1024,
            header_block_bytes_max: 64 * 1024,
            header_block_frames_max: 16,
            window: Duration::from_secs(10),
            control_frames_max: 1000,
            resets_max: 200,
            window_updates_max: 1000,
            empty_data_max: 200,
            opening_timeout: Duration::from_secs(10),
            idle_timeout: Duration::from_secs(180),
            frame: PaceLimits::default(),
            write: PaceLimits::default(),
        }
    }
}

/// A client's stream that yields HTTP/2 within budgets, or an error of kind `InvalidData`.
#[derive(Debug)]
pub struct GuardH2<S> {
    io: S,
    frames: Frames,
    control: GuardControl,
    limits: H2Limits,
    waiting: Waiting,
    pace: Pace,
    alarm: Alarm,
    writes: WriteWatch,
    /// Whether all that hyper wanted to write was taken, so that a frame of ours may follow.
    at_frame_end: bool,
    said_goodbye: bool,
}

/// For what the client is being waited, and until when.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Waiting {
    No,
    Opening(Instant),
    /// For a request, with nothing under way.
    Idle(Instant),
    /// For a request, while an exchange is open: no limit, the instant is that of the next look.
    Busy(Instant),
}

impl<S> GuardH2<S> {
    /// Puts a guard on a stream whose first byte has not been read.
    #[must_use]
    pub fn new(io: S, limits: H2Limits, control: GuardControl) -> Self {
        Self {
            io,
            frames: Frames::new(limits),
            control,
            limits,
            waiting: Waiting::No,
            pace: Pace::new(limits.frame),
            alarm: Alarm::default(),
            writes: WriteWatch::new(limits.write),
            at_frame_end: true,
            said_goodbye: false,
        }
    }

    /// The stream.
    pub fn into_inner(self) -> S {
        self.io
    }

    /// The stream.
    pub const fn inner(&self) -> &S {
        &self.io
    }

    /// The client is being waited for: ready with a refusal when that has taken too long.
    fn poll_patience(&mut self, cx: &mut Context<'_>) -> Poll<WireRefusal> {
        loop {
            let (deadline, refusal) = if !self.frames.is_settled() {
                let deadline = match self.waiting {
                    Waiting::Opening(deadline) => deadline,
                    _ => Instant::now() + self.limits.opening_timeout,
                };
                self.waiting = Waiting::Opening(deadline);
                (deadline, WireRefusal::HeadTimeout)
            } else if self.frames.is_unfinished() {
                self.waiting = Waiting::No;
                (self.pace.waiting(), WireRefusal::BodyTooSlow)
            } else {
                let busy = self.control.open_exchanges() > 0 || self.writes.is_waiting();
                let later = || Instant::now() + self.limits.idle_timeout;
                self.waiting = match self.waiting {
                    Waiting::Idle(deadline) | Waiting::Busy(deadline) if busy => Waiting::Busy(deadline),
                    Waiting::Idle(deadline) => Waiting::Idle(deadline),
                    Waiting::No | Waiting::Opening(_) if busy => Waiting::Busy(later()),
                    Waiting::No | Waiting::Opening(_) | Waiting::Busy(_) => Waiting::Idle(later()),
                };
                match self.waiting {
                    Waiting::Idle(deadline) | Waiting::Busy(deadline) => (deadline, WireRefusal::Idle),
                    Waiting::No | Waiting::Opening(_) => return Poll::Pending,
                }
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

impl<S: AsyncWrite + Unpin> GuardH2<S> {
    /// Ends the connection: tells the client once, if that can be done without waiting.
    fn refuse(&mut self, cx: &mut Context<'_>, refusal: WireRefusal) -> io::Error {
        let error = self.control.refuse(refusal, &self.writes);
        if self.at_frame_end && !self.said_goodbye {
            self.said_goodbye = true;
            if Pin::new(&mut self.io).poll_write(cx, &refusal.goaway()).is_ready() {
                let _sent_or_not = Pin::new(&mut self.io).poll_flush(cx);
            }
        }
        error
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for GuardH2<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        loop {
            if buffer.remaining() == 0 {
                return Poll::Ready(Ok(()));
            }
            if let Some(refusal) = this.frames.refusal().or_else(|| this.control.refusal()) {
                return Poll::Ready(Err(this.refuse(cx, refusal)));
            }
            let before = buffer.filled().len();
            if Pin::new(&mut this.io).poll_read(cx, buffer)?.is_pending() {
                let refusal = ready!(this.poll_patience(cx));
                return Poll::Ready(Err(this.refuse(cx, refusal)));
            }
            let fresh = buffer.filled().get(before..).unwrap_or_default();
            if fresh.is_empty() {
                return Poll::Ready(Ok(()));
            }
            this.pace.moved(fresh.len());
            let requests = this.frames.requests();
            let passed = this.frames.inspect(fresh, Instant::now());
            if requests != this.frames.requests() {
                // Only a request ends idleness: pings would keep a connection for ever.
                this.waiting = Waiting::No;
            }
            buffer.set_filled(before + passed);
            if let Some(refusal) = this.frames.refusal() {
                // Kept at once: h2 may give up over the beginning of the frame and never read again.
                drop(this.control.refuse(refusal, &this.writes));
            }
            if passed > 0 {
                return Poll::Ready(Ok(()));
            }
        }
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for GuardH2<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let outcome = Pin::new(&mut this.io).poll_write(cx, bytes);
        this.note(&outcome, bytes.len());
        this.writes.judge(cx, &this.control, outcome, |taken| *taken)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let outcome = Pin::new(&mut this.io).poll_write_vectored(cx, slices);
        this.note(&outcome, slices.iter().map(|slice| slice.len()).sum());
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
        let outcome = Pin::new(&mut this.io).poll_shutdown(cx);
        this.writes.judge(cx, &this.control, outcome, |()| 0)
    }
}

impl<S> GuardH2<S> {
    /// Notes how much of what hyper offered was taken.
    fn note(&mut self, outcome: &Poll<io::Result<usize>>, offered: usize) {
        match outcome {
            Poll::Ready(Ok(taken)) => {
                self.frames.wrote(*taken);
                self.at_frame_end = *taken == offered;
            }
            Poll::Ready(Err(_)) | Poll::Pending => self.at_frame_end = false,
        }
    }
}
