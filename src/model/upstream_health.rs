//! What active checks found out about upstreams: a small state machine for each, and the board that
//! they all are on.
//!
//! The prober notes outcomes, the data path asks one atomic. Before its first outcome an upstream is
//! `Unknown` and used like a healthy one; the first outcome decides at once, later ones only after so
//! many of a kind in a row, so that one slow answer moves nothing.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU8, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use super::ServiceName;

/// How an upstream stands with its checks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UpstreamHealth {
    /// Not asked yet: used like a healthy one.
    Unknown,
    /// It answers as it should.
    Healthy,
    /// It does not: it gets no new requests while another can take them.
    Unhealthy,
}

impl UpstreamHealth {
    /// As it is written.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Unknown => "unknown",
            Self::Healthy => "healthy",
            Self::Unhealthy => "unhealthy",
        }
    }

    const fn of(code: u8) -> Self {
        match code {
            1 => Self::Healthy,
            2 => Self::Unhealthy,
            _ => Self::Unknown,
        }
    }

    const fn code(self) -> u8 {
        match self {
            Self::Unknown => 0,
            Self::Healthy => 1,
            Self::Unhealthy => 2,
        }
    }
}

/// So many outcomes of a kind in a row change the state; both at least 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Thresholds {
    /// Good ones, until it is healthy again.
    pub healthy: u32,
    /// Bad ones, until it is not.
    pub unhealthy: u32,
}

/// What one check came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// It answered as it should.
    Good,
    /// It did not, or not in time.
    Bad,
}

/// One upstream of one service on the board.
#[derive(Debug, Default)]
pub struct CheckedUpstream {
    state: AtomicU8,
    /// Outcomes in a row that speak against the state.
    against: AtomicU32,
}

impl CheckedUpstream {
    /// The state of now.
    #[must_use]
    pub fn health(&self) -> UpstreamHealth {
        UpstreamHealth::of(self.state.load(Ordering::Relaxed))
    }

    /// Whether its checks say that it can't take requests.
    #[must_use]
    pub fn is_unhealthy(&self) -> bool {
        self.health() == UpstreamHealth::Unhealthy
    }

    /// Notes an outcome; gives the new state where it changed. Outcomes of one upstream come one
    /// after the other.
    pub fn note(&self, outcome: Outcome, thresholds: Thresholds) -> Option<UpstreamHealth> {
        let (told, needed) = match (self.health(), outcome) {
            (UpstreamHealth::Unknown, Outcome::Good) => (UpstreamHealth::Healthy, 1),
            (UpstreamHealth::Unknown, Outcome::Bad) => (UpstreamHealth::Unhealthy, 1),
            (UpstreamHealth::Healthy, Outcome::Bad) => (UpstreamHealth::Unhealthy, thresholds.unhealthy),
            (UpstreamHealth::Unhealthy, Outcome::Good) => (UpstreamHealth::Healthy, thresholds.healthy),
            (UpstreamHealth::Healthy, Outcome::Good) | (UpstreamHealth::Unhealthy, Outcome::Bad) => {
                self.against.store(0, Ordering::Relaxed);
                return None;
            }
        };
        if self.against.fetch_add(1, Ordering::Relaxed) + 1 < needed {
            return None;
        }
        self.against.store(0, Ordering::Relaxed);
        self.state.store(told.code(), Ordering::Relaxed);
        Some(told)
    }
}

type Key = (ServiceName, String);

/// All checked upstreams of this node, by service and address. It holds what the policies in force
/// name: [`HealthBoard::retain`] drops the rest.
#[derive(Debug, Default)]
pub struct HealthBoard {
    upstreams: Mutex<HashMap<Key, Arc<CheckedUpstream>>>,
}

impl HealthBoard {
    /// The entry of an upstream, made if it is new. Who keeps it hears every change.
    #[must_use]
    pub fn of(&self, service: &ServiceName, address: &str) -> Arc<CheckedUpstream> {
        let mut upstreams = self.upstreams.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(upstreams.entry((service.clone(), address.to_owned())).or_default())
    }

    /// How many of these upstreams are not unhealthy.
    #[must_use]
    pub fn usable<'a>(&self, service: &ServiceName, addresses: impl Iterator<Item = &'a str>) -> usize {
        let upstreams = self.upstreams.lock().unwrap_or_else(PoisonError::into_inner);
        let mut key = (service.clone(), String::new());
        addresses
            .filter(|address| {
                key.1.clear();
                key.1.push_str(address);
                upstreams.get(&key).is_none_or(|upstream| !upstream.is_unhealthy())
            })
            .count()
    }

    /// Forgets what `keep` says no to.
    pub fn retain(&self, mut keep: impl FnMut(&ServiceName, &str) -> bool) {
        let mut upstreams = self.upstreams.lock().unwrap_or_else(PoisonError::into_inner);
        upstreams.retain(|(service, address), _| keep(service, address));
    }

    /// Every entry: service, address, state.
    #[must_use]
    pub fn list(&self) -> Vec<(ServiceName, String, UpstreamHealth)> {
        let upstreams = self.upstreams.lock().unwrap_or_else(PoisonError::into_inner);
        upstreams.iter().map(|((service, address), it)| (service.clone(), address.clone(), it.health())).collect()
    }
}
