//! A batch: some events of one log in their order, each in the stream's form.

use crate::audit::format::{Entry, cef, ocsf};
use crate::audit::line::line_of;
use crate::audit::settings::{Selection, StreamFormat};
use crate::audit::{Clear, Leaf};
use crate::model::NodeId;
use crate::store::Recorded;

/// Bytes of lines after which a batch is full. One event is always in it.
const BATCH_BYTES_MAX: usize = 1024 * 1024;

/// An event on its way.
#[derive(Debug, Clone)]
pub struct Item {
    /// What stands in columns of its own.
    pub clear: Clear,
    /// Its number.
    pub seq: i64,
    /// The trace that it belongs to, 32 hexadecimal digits.
    pub trace_id: Option<String>,
    /// It, in the stream's form, without a line's end.
    pub line: String,
}

/// Events of one log.
#[derive(Debug, Clone)]
pub struct Batch {
    /// The log.
    pub log: NodeId,
    /// What is sent, in the order of their numbers.
    pub items: Vec<Item>,
    /// The number after the last event that was looked at.
    pub next: u64,
}

impl Batch {
    /// A batch of what `selection` wants of `events`, which follow each other in `log` from number `next`.
    #[must_use]
    pub fn of(log: NodeId, events: &[Recorded], selection: &Selection, format: StreamFormat, next: u64) -> Self {
        let mut batch = Self { log, items: Vec::new(), next };
        let mut bytes = 0;
        for event in events {
            let Some(seq) = event.seq else { continue };
            if selection.wants(event.clear()) {
                let line = line(event, seq, format);
                bytes += line.len();
                if bytes > BATCH_BYTES_MAX && !batch.items.is_empty() {
                    break;
                }
                let trace_id = event.text("/trace_id").map(str::to_owned);
                batch.items.push(Item { clear: event.clear().clone(), seq, trace_id, line });
            }
            batch.next = u64::try_from(seq + 1).unwrap_or(batch.next);
        }
        batch
    }

    /// First and last number of what is sent; none where nothing is.
    #[must_use]
    pub fn numbers(&self) -> Option<(i64, i64)> {
        Some((self.items.first()?.seq, self.items.last()?.seq))
    }
}

fn line(event: &Recorded, seq: i64, format: StreamFormat) -> String {
    let entry = Entry { log: &event.log, seq: Some(seq), sealed: &event.sealed, body: &event.body };
    match format {
        StreamFormat::Ocsf => ocsf::line(&entry),
        StreamFormat::Cef => cef::line(&entry),
        StreamFormat::Jsonl => {
            let stored = event.leaf.clone().unwrap_or_else(|| event.sealed.leaf(&event.log, seq));
            let text = String::from_utf8_lossy(&stored);
            match Leaf::parse(text.as_bytes()) {
                Ok(leaf) => line_of(&text, &leaf, &event.sealed),
                // A leaf that can't be read was altered: what is kept of the event shows that by itself.
                Err(_) => crate::audit::line::event_json(&event.log, Some(seq), &event.sealed),
            }
        }
    }
}
