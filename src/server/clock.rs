//! Looks at the node's clock while it runs, and tells where it stepped: on record, at once in every
//! notice channel, and as metrics. What a step means is in `model/clock_watch.rs`.

use std::sync::Arc;
use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use tokio_util::task::TaskTracker;

use crate::audit::{Event, EventType, Outcome};
use crate::control::Desk;
use crate::gateway::worker::Shared;
use crate::model::ClockStep;
use crate::notify::Alerts;
use crate::notify::alert::Alert;

/// How often both clocks are looked at.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// After so many looks the node's time is held against the database's clock again: a minute.
const COMPARE_LOOKS: u32 = 120;
/// After so many where that one did not answer.
const COMPARE_AGAIN_LOOKS: u32 = 10;
/// How long the database may take to say its time.
const COMPARE_TIMEOUT: Duration = Duration::from_secs(2);

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Direction {
    direction: &'static str,
}

#[derive(Clone, Default)]
struct ClockMetrics {
    steps: Family<Direction, Counter>,
    believed: Gauge,
}

impl ClockMetrics {
    fn new(registry: &mut Registry) -> Self {
        let metrics = Self::default();
        registry.register("clock_steps", "Steps of this node's clock of more than 5 s", metrics.steps.clone());
        registry.register(
            "clock_believed",
            "1 while this node's clock is believed; 0 while nothing new is granted by it",
            metrics.believed.clone(),
        );
        for direction in ["back", "forward"] {
            let _ = metrics.steps.get_or_create(&Direction { direction });
        }
        metrics
    }
}

/// Starts it, until the gateway stops.
pub fn spawn(tasks: &TaskTracker, shared: &Arc<Shared>, desk: &Arc<Desk>, alerts: &Alerts, registry: &mut Registry) {
    let metrics = ClockMetrics::new(registry);
    tasks.spawn(watch(Arc::clone(shared), Arc::clone(desk), alerts.clone(), metrics));
}

async fn watch(shared: Arc<Shared>, desk: Arc<Desk>, alerts: Alerts, metrics: ClockMetrics) {
    let mut believed = true;
    let mut looks_left = COMPARE_LOOKS;
    loop {
        let steps = desk.clock_guard.take_steps();
        for step in &steps {
            tell(&desk, &alerts, &metrics, step);
        }
        // A clock that stepped is held against the database's at once: before it is believed by itself, and so
        // that one that was set right is believed soon.
        looks_left = if steps.is_empty() { looks_left.saturating_sub(1) } else { 0 };
        if looks_left == 0 {
            let asked = tokio::time::timeout(COMPARE_TIMEOUT, desk.clock_guard.compare(&desk.store)).await;
            looks_left = if matches!(asked, Ok(Ok(true))) { COMPARE_LOOKS } else { COMPARE_AGAIN_LOOKS };
        }
        let doubt = desk.clock_guard.check().err();
        metrics.believed.set(i64::from(doubt.is_none()));
        match &doubt {
            Some(doubt) if believed => tracing::error!("{doubt}"),
            None if !believed => tracing::warn!("this node's clock is believed again; grants are given here"),
            Some(_) | None => {}
        }
        believed = doubt.is_none();
        if tokio::time::timeout(LOOK_EVERY, shared.stopping.cancelled()).await.is_ok() {
            return;
        }
    }
}

fn tell(desk: &Desk, alerts: &Alerts, metrics: &ClockMetrics, step: &ClockStep) {
    let direction = step.direction.name();
    let against = step.against.name();
    tracing::error!(direction, against, size = %step.size, shows = %step.shows, expected = %step.expected, "the clock stepped");
    metrics.steps.get_or_create(&Direction { direction }).inc();
    let now = desk.clock.now();
    let event = Event::new(desk.event_id(now), now, EventType::ClockStepped, Outcome::Success)
        .with("direction", direction)
        .with("step", step.size.to_string())
        .with("step_millis", step.size.as_millis())
        .with("shows", step.shows.to_string())
        .with("expected", step.expected.to_string())
        .with("against", against);
    let kind = EventType::ClockStepped.name();
    alerts.alert_now(Alert { id: event.id, time: now, kind, actor: None, service: None, data: event.data.to_map() });
    desk.recorder.offer(event);
}
