//! The log of a running gateway: one JSON object a line on standard error, `DOORWARD_LOG` chooses what.
//!
//! INVARIANT: nobody waits for whoever reads it. A pipe that is full, or a terminal that was stopped,
//! must not hold a thread of the data path, so lines go through a bounded queue to a thread of their
//! own; what finds no room is lost and counted, and the count is a line of its own once there is room.

use std::io::{self, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::time::Duration;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::MakeWriter;

/// Lines that may wait to be written.
pub const LINES_MAX: usize = 4096;
/// How long the end waits for what is in the queue: whoever does not read would keep it for ever.
const LAST_LINES: Duration = Duration::from_millis(500);
/// How often it is looked whether lines were lost while no new ones come.
const IDLE: Duration = Duration::from_secs(1);

enum Message {
    Line(Vec<u8>),
    /// Answered when all lines before it are written.
    Mark(SyncSender<()>),
}

/// Where lines are put.
#[derive(Clone)]
pub struct Lines {
    queue: SyncSender<Message>,
    lost: Arc<AtomicU64>,
}

/// Writes out what is left when it goes.
#[must_use = "what is left in the log is written when this goes"]
pub struct Telling(Lines);

impl Lines {
    /// A queue to `sink`, which one thread of its own writes to.
    ///
    /// # Errors
    /// When there can be no thread.
    pub fn to(sink: impl Write + Send + 'static) -> io::Result<Self> {
        let (queue, waiting) = sync_channel(LINES_MAX);
        let lost = Arc::new(AtomicU64::new(0));
        let counted = Arc::clone(&lost);
        // It ends with the process: nobody may have to wait for a reader that does not read.
        std::thread::Builder::new().name("log".to_owned()).spawn(move || write(&waiting, &counted, sink))?;
        Ok(Self { queue, lost })
    }

    /// How many found no room and were not told of yet.
    #[must_use]
    pub fn lost(&self) -> u64 {
        self.lost.load(Ordering::Relaxed)
    }

    /// Waits until what was put here is written, for as long as `most`; whether it was.
    #[must_use]
    pub fn written_within(&self, most: Duration) -> bool {
        let (mark, written) = sync_channel(1);
        self.queue.try_send(Message::Mark(mark)).is_ok() && written.recv_timeout(most).is_ok()
    }
}

impl Write for Lines {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        if self.queue.try_send(Message::Line(line.to_vec())).is_err() {
            self.lost.fetch_add(1, Ordering::Relaxed);
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Lines {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}

impl Drop for Telling {
    fn drop(&mut self) {
        // What a reader does not take now it would not take later.
        let _ = self.0.written_within(LAST_LINES);
    }
}

fn write(waiting: &Receiver<Message>, lost: &AtomicU64, mut sink: impl Write) {
    loop {
        // A log that can't be written has nowhere to say so.
        match waiting.recv_timeout(IDLE) {
            Ok(Message::Line(line)) => drop(sink.write_all(&line)),
            Ok(Message::Mark(mark)) => drop(mark.try_send(())),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return,
        }
        let count = lost.swap(0, Ordering::Relaxed);
        if count > 0 {
            drop(sink.write_all(told_of(count).as_bytes()));
        }
        drop(sink.flush());
    }
}

fn told_of(count: u64) -> String {
    format!(
        "{{\"level\":\"WARN\",\"message\":\"lines of this log were lost, since nobody read them in time\",\"lines\":{count},\"target\":\"doorward::cli::log\"}}\n"
    )
}

/// Sends logs to standard error.
pub fn telling(default: &str) -> Option<Telling> {
    let filter = EnvFilter::try_from_env("DOORWARD_LOG").unwrap_or_else(|_| EnvFilter::new(default));
    let lines = Lines::to(io::stderr()).ok()?;
    // An error says that a test installed one before.
    let _ = tracing_subscriber::fmt()
        .json()
        .flatten_event(true)
        .with_current_span(false)
        .with_span_list(false)
        .with_env_filter(filter)
        .with_writer(lines.clone())
        .try_init();
    Some(Telling(lines))
}
