//! What can't wait for the database: the emergency path was opened, refused, closed.
//!
//! INVARIANTS: handing an alert over never waits; telling it needs no database, and each place has
//! one bounded trial. The event that is recorded of the same thing has the alert's id, so a receiver
//! that is told twice can see that it is the same.

use std::sync::Arc;

use serde_json::{Map, Value};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::delivery::Channels;
use super::notice::Notice;
use crate::model::{Clock, EventId, Timestamp};

/// Alerts that may wait to be told. The emergency path is rate-limited far below it.
const QUEUE: usize = 64;

/// One thing to be told at once.
#[derive(Debug, Clone)]
pub struct Alert {
    /// The id of the event that records it.
    pub id: EventId,
    /// When.
    pub time: Timestamp,
    /// The event's type: `breakglass.opened`.
    pub kind: &'static str,
    /// Who did it, for people to read.
    pub actor: Option<String>,
    /// About which service.
    pub service: Option<String>,
    /// The event's data; what `notice` does not list is left out.
    pub data: Map<String, Value>,
}

/// Takes alerts. Clones share one queue.
#[derive(Debug, Clone)]
pub struct Alerts {
    queue: mpsc::Sender<Alert>,
}

impl Alerts {
    /// The two ends.
    #[must_use]
    pub fn new() -> (Self, mpsc::Receiver<Alert>) {
        let (queue, told) = mpsc::channel(QUEUE);
        (Self { queue }, told)
    }

    /// Has it told at once, as well as that is possible. Never waits; what finds the queue full is
    /// still on record and told from there.
    pub fn alert_now(&self, alert: Alert) {
        if let Err(error) = self.queue.try_send(alert) {
            tracing::error!(%error, "an alert could not be told at once");
        }
    }
}

/// Tells what comes, until `over`.
pub async fn run(
    mut alerts: mpsc::Receiver<Alert>,
    channels: Arc<Channels>,
    clock: Arc<dyn Clock>,
    over: CancellationToken,
) {
    loop {
        let alert = tokio::select! {
            alert = alerts.recv() => alert,
            () = over.cancelled() => return,
        };
        let Some(alert) = alert else { return };
        let notice = Notice::of_alert(alert);
        tokio::select! {
            () = channels.tell_all(&notice, clock.now()) => {}
            () = over.cancelled() => return,
        }
    }
}
