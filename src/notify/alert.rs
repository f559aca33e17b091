//! What can't wait for the database: the emergency path was opened, refused, closed.
//!
//! INVARIANTS: handing an alert over never waits; telling it needs no database, and each place has
//! one bounded trial. A test message says that it is one in its headline and in its data. The event that is recorded of the same thing has the alert's id, so a receiver
//! that is told twice can see that it is the same.

use std::sync::Arc;

use serde_json::{Map, Value};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::delivery::{Channels, Tried};
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

/// Something on its way to the channels.
#[derive(Debug)]
pub struct Telling {
    alert: Alert,
    /// Set where it is a test: of which type channels must want events to be sent it, and who waits for
    /// what became of it.
    test: Option<(&'static str, oneshot::Sender<Vec<Tried>>)>,
}

/// Takes alerts. Clones share one queue.
#[derive(Debug, Clone)]
pub struct Alerts {
    queue: mpsc::Sender<Telling>,
}

impl Alerts {
    /// The two ends.
    #[must_use]
    pub fn new() -> (Self, mpsc::Receiver<Telling>) {
        let (queue, told) = mpsc::channel(QUEUE);
        (Self { queue }, told)
    }

    /// Has it told at once, as well as that is possible. Never waits; what finds the queue full is
    /// still on record and told from there.
    pub fn alert_now(&self, alert: Alert) {
        self.hand_over(Telling { alert, test: None });
    }

    /// Sends it as a test message on every channel that wants events of type `kind`, and says what
    /// became of it on each; `answer` breaks off where the queue is full.
    pub fn test_now(&self, alert: Alert, kind: &'static str, answer: oneshot::Sender<Vec<Tried>>) {
        self.hand_over(Telling { alert, test: Some((kind, answer)) });
    }

    fn hand_over(&self, telling: Telling) {
        if let Err(error) = self.queue.try_send(telling) {
            tracing::error!(%error, "an alert could not be told at once");
        }
    }
}

/// Tells what comes, until `over`. No alert waits for a channel that hangs with another.
pub async fn run(
    mut alerts: mpsc::Receiver<Telling>,
    channels: Arc<Channels>,
    clock: Arc<dyn Clock>,
    over: CancellationToken,
) {
    let mut under_way = JoinSet::new();
    loop {
        let telling = tokio::select! {
            telling = alerts.recv(), if under_way.len() < QUEUE => telling,
            Some(_) = under_way.join_next() => continue,
            () = over.cancelled() => return,
        };
        let Some(telling) = telling else { break };
        let (channels, now) = (Arc::clone(&channels), clock.now());
        under_way.spawn(async move {
            let notice = Notice::of_alert(telling.alert);
            match telling.test {
                None => channels.tell_all(&notice, now).await,
                // Who does not wait any more needs no answer.
                Some((kind, answer)) => drop(answer.send(channels.test_all(&notice.as_test(), kind, now).await)),
            }
        });
    }
    while under_way.join_next().await.is_some() {}
}
