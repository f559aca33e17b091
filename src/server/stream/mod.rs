//! Streams of the record to receivers outside (`[[audit.stream]]`): one task a stream.
//!
//! 1. `deliver` reads on in the numbered logs, from where the stream's cursor is.
//! 2. `batch` writes what is wanted in the stream's form.
//! 3. `sink` hands it to the receiver, and says whether it was taken.
//! 4. `control::audit::stream` moves the cursor, or notes that it was not taken.
//!
//! INVARIANT: nothing waits for a stream, neither the door nor another stream. It reads what is on
//! record; while its receiver hangs, it holds one batch in memory and what comes stays on record.

mod batch;
mod deliver;
mod otlp;
pub mod sink;
mod state;

use std::sync::Arc;

use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

pub use batch::{Batch, Item};
pub use deliver::{Round, Sender};
pub use sink::{Refused, Sink};
pub use state::StreamState;

use crate::config::Stream;
use crate::control::Desk;
use crate::outbound::OutboundError;

/// Starts the streams, until `over`. While the database is away, they wait for it.
///
/// # Errors
/// When an authority's certificate can't be used.
pub fn spawn(
    streams: &[Stream],
    desk: &Arc<Desk>,
    state: &StreamState,
    tasks: &TaskTracker,
    over: &CancellationToken,
) -> Result<(), OutboundError> {
    for stream in streams {
        let sender = Sender::new(stream.clone(), Arc::clone(desk), state.clone())?;
        tasks.spawn(sender.run(over.clone()));
    }
    Ok(())
}
