//! Gauges that are set when they are asked for: the record's queue, certificates, build.

use std::sync::atomic::Ordering;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::{Registry, Unit};

use crate::gateway::worker::Shared;
use crate::model::{Ttl, UpstreamHealth};
use crate::store::Keeping;

use super::tree::TreeState;

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct BuildLabels {
    version: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RecordLabel {
    kind: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct StateLabel {
    state: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct UpstreamLabels {
    service: String,
    upstream: String,
}

/// A count that is kept elsewhere and only rises.
type LostCounter = prometheus_client::metrics::counter::Counter;

/// The gauges.
#[derive(Debug, Clone, Default)]
pub struct Gauges {
    queued: Gauge,
    record: Family<RecordLabel, Gauge>,
    away: Gauge,
    tree_size: Gauge,
    tree_consistent: Gauge,
    witness_lag_events: Gauge,
    witness_lag: Gauge,
    state: Family<StateLabel, Gauge>,
    spool_events: Gauge,
    spool_bytes: Gauge,
    spool_room: Gauge,
    lost: LostCounter,
    certificate_end: Gauge,
    policy_services: Gauge,
    upstream_healthy: Family<UpstreamLabels, Gauge>,
    grants_active: Gauge,
    breakglass_open: Gauge,
    breakglass_unreviewed: Gauge,
    breakglass_drill_age: Gauge,
    breakglass_drill_overdue: Gauge,
    reload_success: Gauge,
    reload_time: Gauge,
}

impl Gauges {
    /// The gauges, registered.
    #[must_use]
    pub fn new(registry: &mut Registry) -> Self {
        let gauges = Self::default();
        let build = Family::<BuildLabels, Gauge>::default();
        build.get_or_create(&BuildLabels { version: env!("CARGO_PKG_VERSION") }).set(1);
        registry.register("build_info", "The version that runs; always 1", build);
        registry.register("audit_queue_events", "Events that wait to be written", gauges.queued.clone());
        registry.register("audit_events", "Events since the start, by what became of them", gauges.record.clone());
        registry.register("audit_away", "1 while the database does not take the record", gauges.away.clone());
        registry.register("audit_state", "Where the record goes: 1 for one of the states", gauges.state.clone());
        registry.register("audit_spool_events", "Events in the spool", gauges.spool_events.clone());
        registry.register_with_unit("audit_spool", "Bytes used of the spool", Unit::Bytes, gauges.spool_bytes.clone());
        registry.register_with_unit("audit_spool_room", "Bytes of the spool", Unit::Bytes, gauges.spool_room.clone());
        registry.register("audit_lost", "Offered events that were lost", gauges.lost.clone());
        registry.register("audit_tree_events", "Events under a signed checkpoint", gauges.tree_size.clone());
        registry.register(
            "audit_tree_consistent",
            "1 while the tree agrees with its last checkpoint",
            gauges.tree_consistent.clone(),
        );
        registry.register(
            "audit_witness_lag_events",
            "Events under checkpoints that a witness lacks",
            gauges.witness_lag_events.clone(),
        );
        registry.register_with_unit(
            "audit_witness_lag",
            "Age of the oldest checkpoint that a witness lacks",
            Unit::Seconds,
            gauges.witness_lag.clone(),
        );
        registry.register_with_unit(
            "server_certificate_end_timestamp",
            "When the listener's certificate ends",
            Unit::Seconds,
            gauges.certificate_end.clone(),
        );
        registry.register(
            "upstream_healthy",
            "1 while an upstream passes its checks, of services with `[health]`",
            gauges.upstream_healthy.clone(),
        );
        registry.register("policy_services", "Services in force", gauges.policy_services.clone());
        registry.register("grants_active", "Grants in force as this node knows them", gauges.grants_active.clone());
        registry.register("breakglass_open", "Openings of the emergency path in force", gauges.breakglass_open.clone());
        registry.register(
            "breakglass_unreviewed",
            "Openings of the emergency path that wait for their review",
            gauges.breakglass_unreviewed.clone(),
        );
        registry.register_with_unit(
            "breakglass_drill_age",
            "Time since the emergency path was last drilled; -1 where it never was",
            Unit::Seconds,
            gauges.breakglass_drill_age.clone(),
        );
        registry.register(
            "breakglass_drill_overdue",
            "1 where there is an emergency path and its last drill is too old",
            gauges.breakglass_drill_overdue.clone(),
        );
        registry.register("reload_success", "1 if the last reload was taken", gauges.reload_success.clone());
        registry.register_with_unit(
            "reload_timestamp",
            "When files were last taken or refused",
            Unit::Seconds,
            gauges.reload_time.clone(),
        );
        gauges.reload_success.set(1);
        gauges
    }

    fn set_emergency(&self, shared: &Shared) {
        let (emergency, now) = (&shared.directory.emergency, shared.clock.now());
        let count = |number: usize| i64::try_from(number).unwrap_or(i64::MAX);
        self.grants_active.set(count(shared.directory.grants_active(now)));
        self.breakglass_open.set(count(emergency.open(now).len()));
        self.breakglass_unreviewed.set(count(emergency.unreviewed()));
        let age = emergency.drilled_at().map(|at| now.since(at));
        self.breakglass_drill_age.set(age.map_or(-1, Ttl::as_seconds));
        let overdue = emergency.in_force().is_some_and(|it| age.is_none_or(|age| age > it.drill_every));
        self.breakglass_drill_overdue.set(i64::from(overdue));
    }

    /// Notes how a reload ended.
    pub fn reloaded(&self, taken: Taken, at_seconds: i64) {
        self.reload_success.set(i64::from(taken == Taken::Yes));
        self.reload_time.set(at_seconds);
    }

    /// Sets what is only known when asked.
    pub fn set(&self, shared: &Shared, tree: &TreeState) {
        self.tree_size.set(i64::try_from(tree.size.load(Ordering::Relaxed)).unwrap_or(i64::MAX));
        self.tree_consistent.set(tree.consistent.load(Ordering::Relaxed));
        let lag = tree.lag();
        self.witness_lag_events.set(lag.events);
        self.witness_lag.set(lag.seconds);
        let state = shared.recorder.state();
        let whole = |number: u64| i64::try_from(number).unwrap_or(i64::MAX);
        self.queued.set(i64::try_from(state.queued).unwrap_or(i64::MAX));
        self.away.set(i64::from(state.away));
        for (name, keeping) in
            [("database", Keeping::Database), ("spool", Keeping::Spool), ("refusing", Keeping::Nowhere)]
        {
            let label = StateLabel { state: name };
            self.state.get_or_create(&label).set(i64::from(state.keeping == keeping));
        }
        let spool = state.spool.unwrap_or_default();
        self.spool_events.set(whole(spool.events));
        self.spool_bytes.set(whole(spool.bytes));
        self.spool_room.set(whole(spool.size));
        self.lost.inner().store(state.lost, Ordering::Relaxed);
        for (kind, count) in [("written", state.rows), ("lost", state.lost), ("unrecorded", state.unrecorded)] {
            self.record.get_or_create(&RecordLabel { kind }).set(whole(count));
        }
        self.set_emergency(shared);
        // What a reload took away has no series any more.
        self.upstream_healthy.clear();
        for (service, upstream, health) in shared.directory.upstreams.list() {
            let labels = UpstreamLabels { service: service.to_string(), upstream };
            self.upstream_healthy.get_or_create(&labels).set(i64::from(health != UpstreamHealth::Unhealthy));
        }
        let snapshot = shared.snapshot.load();
        self.certificate_end.set(snapshot.tls.not_after.seconds());
        self.policy_services.set(i64::try_from(snapshot.policies.services().count()).unwrap_or(i64::MAX));
    }
}

/// Whether a reload was taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Taken {
    /// It is in force.
    Yes,
    /// The old one stays.
    No,
}
