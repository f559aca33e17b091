//! How streams are doing, for metrics.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::{Registry, Unit};

use crate::model::Ttl;

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct StreamLabel {
    stream: String,
}

/// Lags and counts by stream. Clones share them.
#[derive(Debug, Clone, Default)]
pub struct StreamState {
    lag_events: Family<StreamLabel, Gauge>,
    lag: Family<StreamLabel, Gauge>,
    sent: Family<StreamLabel, Counter>,
    failures: Family<StreamLabel, Counter>,
}

impl StreamState {
    /// The metrics, registered.
    #[must_use]
    pub fn new(registry: &mut Registry) -> Self {
        let state = Self::default();
        registry.register(
            "audit_stream_lag_events",
            "Events on record that a stream has not come to",
            state.lag_events.clone(),
        );
        registry.register_with_unit(
            "audit_stream_lag",
            "Age of the oldest event that a stream has not come to",
            Unit::Seconds,
            state.lag.clone(),
        );
        registry.register("audit_stream_events", "Events that a stream's receiver took", state.sent.clone());
        registry.register(
            "audit_stream_failures",
            "Batches that a stream's receiver did not take",
            state.failures.clone(),
        );
        state
    }

    /// Makes a stream known: what has not happened yet is 0 and not absent.
    pub fn open(&self, stream: &str) {
        drop(self.sent.get_or_create(&label(stream)));
        drop(self.failures.get_or_create(&label(stream)));
    }

    /// Notes how far behind a stream is.
    pub fn note_lag(&self, stream: &str, events: u64, age: Ttl) {
        self.lag_events.get_or_create(&label(stream)).set(i64::try_from(events).unwrap_or(i64::MAX));
        self.lag.get_or_create(&label(stream)).set(age.as_seconds());
    }

    /// Notes that events were taken.
    pub fn note_sent(&self, stream: &str, events: u64) {
        self.sent.get_or_create(&label(stream)).inc_by(events);
    }

    /// Notes that a batch was not taken.
    pub fn note_failure(&self, stream: &str) {
        self.failures.get_or_create(&label(stream)).inc();
    }
}

fn label(stream: &str) -> StreamLabel {
    StreamLabel { stream: stream.to_owned() }
}
