//! Refusals before anyone was identified: one by one up to a rate per address and node, then
//! counted. A flood of junk costs a bounded part of the record.
//!
//! INVARIANT: memory is bounded, whatever addresses and reasons come.

use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;

use serde_json::{Map, Value};

use crate::audit::{Event, EventType, Outcome};
use crate::model::{Entropy, EventId, Timestamp, Ttl};

/// The window in which the rates are counted.
const WINDOW: Ttl = Ttl::seconds(10);
/// Addresses that are told apart in one window; the refusals of others are only counted.
const ADDRESSES_MAX: usize = 4096;
/// Reasons that are told apart; they come from a short list of ours.
const REASONS_MAX: usize = 32;

/// How many refusals of nobody are recorded one by one in each ten seconds.
#[derive(Debug, Clone, Copy)]
pub struct RefusalRates {
    /// Of one address; of IPv6, of one /64.
    pub per_address: u32,
    /// Of this node.
    pub per_node: u32,
}

impl Default for RefusalRates {
    fn default() -> Self {
        Self { per_address: 10, per_node: 200 }
    }
}

/// Refusals of this window and of the next counted event.
#[derive(Debug, Default)]
pub(in crate::store) struct RefusalCount {
    window: Timestamp,
    by_address: HashMap<IpAddr, u32>,
    in_window: u32,
    counted: Counted,
    total: u64,
}

#[derive(Debug, Default)]
struct Counted {
    count: u64,
    since: Option<Timestamp>,
    until: Timestamp,
    reasons: BTreeMap<Arc<str>, u64>,
}

impl RefusalCount {
    /// Whether `event` may be recorded by itself; else it is counted now.
    pub fn admit(&mut self, event: &Event, rates: RefusalRates) -> bool {
        let now = event.time;
        if now.since(self.window) >= WINDOW || now < self.window {
            self.window = now;
            self.in_window = 0;
            self.by_address.clear();
        }
        if self.in_window < rates.per_node && self.address_admits(event.actor.address, rates) {
            self.in_window += 1;
            return true;
        }
        self.count(event);
        false
    }

    fn address_admits(&mut self, address: Option<IpAddr>, rates: RefusalRates) -> bool {
        let network = network(address);
        if self.by_address.len() >= ADDRESSES_MAX && !self.by_address.contains_key(&network) {
            return false;
        }
        let seen = self.by_address.entry(network).or_insert(0);
        *seen = seen.saturating_add(1);
        *seen <= rates.per_address
    }

    /// Counts `event`, which is not recorded by itself.
    pub fn count(&mut self, event: &Event) {
        self.total += 1;
        let counted = &mut self.counted;
        counted.count += 1;
        counted.since.get_or_insert(event.time);
        counted.until = event.time;
        let reason = event.reason.clone().unwrap_or_else(|| "unknown".into());
        if let Some(count) = counted.reasons.get_mut(&reason) {
            *count += 1;
        } else if counted.reasons.len() < REASONS_MAX {
            counted.reasons.insert(reason, 1);
        }
    }

    /// All that were ever counted.
    pub const fn total(&self) -> u64 {
        self.total
    }

    /// The event that tells of what was counted since the last one, if anything was.
    pub fn event(&mut self, now: Timestamp, entropy: &dyn Entropy) -> Option<Event> {
        let counted = std::mem::take(&mut self.counted);
        let since = counted.since?;
        let reasons: Map<String, Value> =
            counted.reasons.iter().map(|(reason, count)| (reason.to_string(), (*count).into())).collect();
        let id = EventId::fresh(now, entropy);
        let event = Event::new(id, now, EventType::DecisionDenyCounted, Outcome::Denied)
            .with("count", counted.count)
            .with("reasons", reasons)
            .with("since", since.to_string())
            .with("until", counted.until.to_string());
        Some(event)
    }
}

/// Who has one IPv6 address has its /64.
fn network(address: Option<IpAddr>) -> IpAddr {
    match address {
        Some(IpAddr::V6(address)) => match address.to_ipv4_mapped() {
            Some(address) => IpAddr::V4(address),
            None => IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() >> 64 << 64)),
        },
        Some(address) => address,
        None => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
    }
}
