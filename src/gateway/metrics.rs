//! Counters of the data path: base units, `_total` where they only grow, and a fixed number of
//! series: services times a handful of outcomes, never a path, a person or a token.

use std::sync::atomic::AtomicU64;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};

use crate::model::ServiceName;

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ServiceLabel {
    service: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RefusalLabels {
    service: String,
    reason: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ReasonLabel {
    reason: String,
}

/// All counters of the data path.
#[derive(Debug, Clone)]
pub struct Metrics {
    allowed: Family<ServiceLabel, Counter>,
    refused: Family<RefusalLabels, Counter>,
    duration: Family<ServiceLabel, Histogram>,
    handshake_failures: Family<ReasonLabel, Counter>,
    /// Connections that are open.
    pub connections: Gauge,
    /// Exchanges under way.
    pub exchanges: Gauge,
    /// Decisions that were remembered and used again.
    pub decisions_remembered: Counter,
    /// When the revocation feed was last confirmed, in seconds since 1970.
    pub revocations_confirmed: Gauge<f64, AtomicU64>,
    /// From the commit of a revocation, anywhere, until this node has it from the feed.
    pub revocation_delay: Histogram,
}

/// The counters of one service.
#[derive(Debug, Clone)]
pub struct ServiceMetrics {
    /// Requests that were passed on.
    pub allowed: Counter,
    /// Time from a request's head to the end of its answer, in seconds.
    pub duration: Histogram,
    name: String,
    refused: Family<RefusalLabels, Counter>,
}

impl ServiceMetrics {
    /// Counts a refusal.
    pub fn refuse(&self, reason: &'static str) {
        let labels = RefusalLabels { service: self.name.clone(), reason: reason.to_owned() };
        self.refused.get_or_create(&labels).inc();
    }
}

fn buckets() -> Histogram {
    Histogram::new([0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 60.0])
}

impl Metrics {
    /// The counters, registered under `doorward_…`.
    #[must_use]
    pub fn new(registry: &mut Registry) -> Self {
        let metrics = Self {
            allowed: Family::default(),
            refused: Family::default(),
            duration: Family::new_with_constructor(buckets),
            handshake_failures: Family::default(),
            connections: Gauge::default(),
            exchanges: Gauge::default(),
            decisions_remembered: Counter::default(),
            revocations_confirmed: Gauge::default(),
            revocation_delay: buckets(),
        };
        registry.register("requests_allowed", "Requests that were passed on to an upstream", metrics.allowed.clone());
        registry.register("requests_refused", "Requests that were refused, by reason", metrics.refused.clone());
        registry.register_with_unit(
            "request_duration",
            "Time from a request's head to the end of its answer",
            Unit::Seconds,
            metrics.duration.clone(),
        );
        registry.register(
            "handshake_failures",
            "TLS handshakes that failed, by reason",
            metrics.handshake_failures.clone(),
        );
        registry.register("connections", "Connections that are open", metrics.connections.clone());
        registry.register("exchanges", "Exchanges under way", metrics.exchanges.clone());
        registry.register(
            "decisions_remembered",
            "Decisions that were remembered and used again",
            metrics.decisions_remembered.clone(),
        );
        registry.register_with_unit(
            "revocations_confirmed_timestamp",
            "When the revocation feed was last confirmed",
            Unit::Seconds,
            metrics.revocations_confirmed.clone(),
        );
        registry.register_with_unit(
            "revocation_delay",
            "Time from the commit of a revocation, lock or end of a grant until this node has it from the feed",
            Unit::Seconds,
            metrics.revocation_delay.clone(),
        );
        metrics
    }

    /// The counters of one service.
    #[must_use]
    pub fn service(&self, name: &ServiceName) -> ServiceMetrics {
        let label = ServiceLabel { service: name.to_string() };
        ServiceMetrics {
            allowed: self.allowed.get_or_create_owned(&label),
            duration: self.duration.get_or_create_owned(&label),
            name: name.to_string(),
            refused: self.refused.clone(),
        }
    }

    /// Counts a handshake that failed.
    pub fn handshake_failed(&self, reason: &'static str) {
        self.handshake_failures.get_or_create(&ReasonLabel { reason: reason.to_owned() }).inc();
    }
}
