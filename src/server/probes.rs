//! Checks of upstreams (`[health]`): who is due is asked, a bounded number at a time, and what came
//! of it goes on the board that the data path reads. Nothing of it runs where requests do.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::{Id, JoinSet};
use tokio::time::Instant;
use tokio_util::task::TaskTracker;

use crate::gateway::probe::probe;
use crate::gateway::snapshot::ServiceEntry;
use crate::gateway::worker::Shared;
use crate::model::upstream_health::Outcome;
use crate::model::{ServiceName, UpstreamHealth};
use crate::policy::{HealthCheck, Upstream};

/// How often it is seen who is due.
const ROUND: Duration = Duration::from_millis(250);
/// Checks under way at a time.
const AT_ONCE_MAX: usize = 64;

type Key = (ServiceName, String);

struct Prober {
    shared: Arc<Shared>,
    tasks: TaskTracker,
    /// When each is asked next. It holds what the policies in force name.
    due: HashMap<Key, Instant>,
    running: JoinSet<()>,
    asked: HashMap<Id, Key>,
    generation: u64,
}

/// Checks until the gateway drains.
pub async fn run(shared: Arc<Shared>, tasks: TaskTracker) {
    let draining = shared.draining.clone();
    let mut prober =
        Prober { shared, tasks, due: HashMap::new(), running: JoinSet::new(), asked: HashMap::new(), generation: 0 };
    while tokio::time::timeout(ROUND, draining.cancelled()).await.is_err() {
        prober.round();
    }
}

impl Prober {
    fn round(&mut self) {
        while let Some(done) = self.running.try_join_next_with_id() {
            let id = done.map_or_else(|error| error.id(), |(id, ())| id);
            self.asked.remove(&id);
        }
        let snapshot = self.shared.snapshot.load_full();
        if snapshot.generation != self.generation {
            self.generation = snapshot.generation;
            let named = |service: &ServiceName, address: &str| {
                let of_service = snapshot.checked().find(|entry| entry.service.name == *service);
                of_service.is_some_and(|entry| entry.service.upstreams.iter().any(|it| it.to_string() == address))
            };
            self.due.retain(|(service, address), _| named(service, address));
            self.shared.directory.upstreams.retain(named);
        }
        let now = Instant::now();
        for entry in snapshot.checked() {
            let Some(check) = &entry.service.health else { continue };
            for upstream in &entry.service.upstreams {
                let key = (entry.service.name.clone(), upstream.to_string());
                let at = self.due.entry(key.clone()).or_insert(now);
                let is_asked = self.asked.values().any(|asked| *asked == key);
                if *at > now || is_asked || self.asked.len() >= AT_ONCE_MAX {
                    continue;
                }
                *at = now + check.interval.duration();
                let asking = ask(
                    Arc::clone(&self.shared),
                    Arc::clone(entry),
                    upstream.clone(),
                    check.clone(),
                    self.tasks.clone(),
                );
                let id = self.running.spawn(asking).id();
                self.asked.insert(id, key);
            }
        }
    }
}

async fn ask(
    shared: Arc<Shared>,
    entry: Arc<ServiceEntry>,
    upstream: Upstream,
    check: HealthCheck,
    tasks: TaskTracker,
) {
    let (service, address) = (&entry.service.name, upstream.to_string());
    let outcome = probe(&entry.service, &upstream, &check, &entry.upstreams.tls, &tasks).await;
    let good = if outcome.is_ok() { Outcome::Good } else { Outcome::Bad };
    let Some(changed) = shared.directory.upstreams.of(service, &address).note(good, check.thresholds) else { return };
    match (changed, outcome) {
        (UpstreamHealth::Unhealthy, Err(why)) => {
            tracing::warn!(%service, upstream = address, %why, "an upstream fails its checks: while another can take them it gets no requests");
        }
        (UpstreamHealth::Healthy | UpstreamHealth::Unknown | UpstreamHealth::Unhealthy, _) => {
            tracing::info!(%service, upstream = address, "an upstream passes its checks");
        }
    }
}
