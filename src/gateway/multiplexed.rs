//! One connection of HTTP/2 to an upstream, which many requests share (RFC 9113).
//!
//! INVARIANT: no set of streams can take the connection's window whole: it is as large as the windows of all
//! the streams that may be on it at a time. So one answer that its client does not take stops no other, and
//! holds no more memory than its own window.
//!
//! Whether the other side is still there is told by what is heard of it, never by asking it: common servers
//! of gRPC end a connection that is pinged oftener than once in five minutes while its streams are silent.

use std::cell::{Cell, RefCell};
use std::io::{Error, IoSlice};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use hyper::client::conn::http2;
use hyper::rt::{Read, ReadBufCursor, Write};
use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_util::task::TaskTracker;

use super::executor::LocalExecutor;
use super::lane::UpstreamBody;

/// Requests that are put on one connection at a time, where the upstream does not want fewer.
const STREAMS_MAX: u32 = 64;
/// What an upstream may send of one answer before somebody takes it.
const STREAM_WINDOW_BYTES: u32 = 256 * 1024;
/// The same of all answers of a connection.
const CONNECTION_WINDOW_BYTES: u32 = STREAM_WINDOW_BYTES * STREAMS_MAX;
/// How long a new connection is waited for to say how many streams it takes, which is the first thing that an
/// upstream says (RFC 9113 §3.4).
const SETTINGS_TIMEOUT: Duration = Duration::from_secs(1);
/// How long nothing at all may be heard after a request before the next ones go another way.
const SILENCE_MAX: Duration = Duration::from_secs(5);

/// The connection.
pub struct Multiplexed {
    sender: http2::SendRequest<UpstreamBody>,
    /// How many streams the upstream takes at a time, as it said last.
    granted: Box<dyn Fn() -> usize>,
    streams: Cell<u32>,
    /// When the last stream on it ended, or it was opened.
    free_since: Cell<Instant>,
    /// The upstream takes nothing new on it.
    going: Cell<bool>,
    signs: Rc<Signs>,
}

/// What was heard of the other side.
#[derive(Default)]
struct Signs {
    first: Notify,
    /// Since when a request waits for any sign at all.
    silent_since: Cell<Option<Instant>>,
    /// A request has waited in vain for as long as it may.
    in_vain: Cell<bool>,
}

impl Multiplexed {
    /// Begins to speak HTTP/2 over `io`. What comes with it must run for as long as the connection is to last.
    ///
    /// # Errors
    /// When the connection breaks at once.
    pub async fn open<I>(
        io: I,
        tasks: TaskTracker,
    ) -> Result<(Rc<Self>, impl Future<Output = hyper::Result<()>> + 'static), ()>
    where
        I: Read + Write + Unpin + 'static,
    {
        let signs = Rc::new(Signs::default());
        let (sender, connection) = http2::Builder::new(LocalExecutor::new(tasks))
            .initial_stream_window_size(STREAM_WINDOW_BYTES)
            .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
            .handshake(Heard { io, signs: Rc::clone(&signs) })
            .await
            .map_err(|_| ())?;
        // One that says nothing is tried all the same.
        let _ = tokio::time::timeout(SETTINGS_TIMEOUT, signs.first.notified()).await;
        let connection = Rc::new(RefCell::new(connection));
        let seen = Rc::downgrade(&connection);
        let granted = move || {
            let connection = seen.upgrade();
            connection.map_or(0, |it| it.try_borrow().map_or(0, |it| it.current_max_send_streams()))
        };
        let running = std::future::poll_fn(move |context| Pin::new(&mut *connection.borrow_mut()).poll(context));
        let multiplexed = Self {
            sender,
            granted: Box::new(granted),
            streams: Cell::new(0),
            free_since: Cell::new(Instant::now()),
            going: Cell::new(false),
            signs,
        };
        Ok((Rc::new(multiplexed), running))
    }

    /// Whether one more request can be put on it without waiting for another one's end.
    #[must_use]
    pub fn has_room(&self) -> bool {
        self.streams.get() < STREAMS_MAX && (self.streams.get() as usize) < (self.granted)()
    }

    /// How many requests are on it.
    #[must_use]
    pub fn load(&self) -> u32 {
        self.streams.get()
    }

    /// Whether nothing has been heard for too long while something is waited for. It may be slow, or gone.
    #[must_use]
    pub fn is_silent(&self) -> bool {
        let signs = &self.signs;
        signs.in_vain.get() || signs.silent_since.get().is_some_and(|since| since.elapsed() > SILENCE_MAX)
    }

    /// Whether nothing new may go on it: it is closed, or free and silent, or free for longer than `idle`.
    #[must_use]
    pub fn is_over(&self, idle: Duration) -> bool {
        let is_free = self.streams.get() == 0;
        self.sender.is_closed()
            || self.going.get()
            || is_free && (self.is_silent() || self.free_since.get().elapsed() > idle)
    }

    /// A place for one request on it.
    #[must_use]
    pub fn stream(self: &Rc<Self>) -> Stream {
        let now = Instant::now();
        self.streams.set(self.streams.get() + 1);
        if self.signs.silent_since.get().is_none() {
            self.signs.silent_since.set(Some(now));
        }
        Stream { on: Rc::clone(self), since: now }
    }
}

/// The place of one request on a connection, counted until this is dropped.
pub struct Stream {
    on: Rc<Multiplexed>,
    since: Instant,
}

impl Stream {
    /// What sends the request.
    #[must_use]
    pub fn sender(&self) -> http2::SendRequest<UpstreamBody> {
        self.on.sender.clone()
    }

    /// The answer is overdue. Where nothing else was heard either, the next requests go another way.
    pub fn in_vain(&self) {
        if self.on.signs.silent_since.get().is_some_and(|since| since <= self.since) {
            self.on.signs.in_vain.set(true);
        }
    }

    /// The upstream has said that it takes nothing new on this connection.
    pub fn going(&self) {
        self.on.going.set(true);
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.on.streams.set(self.on.streams.get().saturating_sub(1));
        self.on.free_since.set(Instant::now());
    }
}

/// Notes that something came.
struct Heard<I> {
    io: I,
    signs: Rc<Signs>,
}

impl<I: Read + Unpin> Read for Heard<I> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: ReadBufCursor<'_>,
    ) -> Poll<Result<(), Error>> {
        let polled = Pin::new(&mut self.io).poll_read(context, buffer);
        if polled.is_ready() {
            self.signs.first.notify_one();
            self.signs.silent_since.set(None);
            self.signs.in_vain.set(false);
        }
        polled
    }
}

impl<I: Write + Unpin> Write for Heard<I> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<Result<usize, Error>> {
        Pin::new(&mut self.io).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Result<(), Error>> {
        Pin::new(&mut self.io).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Result<(), Error>> {
        Pin::new(&mut self.io).poll_shutdown(context)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<Result<usize, Error>> {
        Pin::new(&mut self.io).poll_write_vectored(context, slices)
    }
}
