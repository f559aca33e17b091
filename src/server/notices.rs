//! Starts what tells people: one task a channel, and one for what can't wait for the database.

use std::sync::Arc;

use futures_util::future::BoxFuture;
use prometheus_client::registry::Registry;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::control::{Desk, access};
use crate::model::{Clock, Entropy};
use crate::notify::Audience;
use crate::notify::delivery::Round;
use crate::notify::{Alerts, Channels, Counted, NotifySettings, alert};
use crate::outbound::OutboundError;
use crate::store::{Recorded, Store, StoreError};

/// What telling needs of the house.
pub struct Notices<'a> {
    /// Who is told.
    pub settings: &'a NotifySettings,
    /// The control host, where links lead.
    pub origin: &'a str,
    /// Where the record is.
    pub store: &'a Store,
    /// Time.
    pub clock: &'a Arc<dyn Clock>,
    /// Chance.
    pub entropy: &'a Arc<dyn Entropy>,
    /// Knows whom a request waits for.
    pub desk: &'a Arc<Desk>,
}

fn audience(desk: &Arc<Desk>) -> Audience {
    let desk = Arc::clone(desk);
    Arc::new(move |event: Recorded| -> BoxFuture<'static, Result<Vec<String>, StoreError>> {
        let desk = Arc::clone(&desk);
        Box::pin(async move { access::audience(&desk, &event, desk.clock.now()).await })
    })
}

impl Notices<'_> {
    /// Starts everything, until `over`. While the database is away, channels wait for it.
    ///
    /// # Errors
    /// When an authority's certificate can't be used.
    pub fn start(
        &self,
        registry: &mut Registry,
        tasks: &TaskTracker,
        over: &CancellationToken,
    ) -> Result<Alerts, OutboundError> {
        let channels = Arc::new(Channels::new(self.settings, self.origin, self.clock, Counted::new(registry))?);
        let round = Arc::new(Round {
            store: self.store.clone(),
            channels: Arc::clone(&channels),
            clock: Arc::clone(self.clock),
            entropy: Arc::clone(self.entropy),
            audience: audience(self.desk),
        });
        for place in 0..channels.iter().count() {
            tasks.spawn(Arc::clone(&round).run_all(place, over.clone()));
        }
        let (alerts, queue) = Alerts::new();
        tasks.spawn(alert::run(queue, channels, Arc::clone(self.clock), over.clone()));
        Ok(alerts)
    }
}
