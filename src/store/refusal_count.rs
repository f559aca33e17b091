//! Refusals: one by one up to a rate, then counted. Those of somebody who is identified go by their
//! principal, so that nobody who is shut out fills the record by asking on; the others go by address. A
//! flood costs a bounded part of the record, and a flood of nobody takes nothing from those who are known.
//!
//! INVARIANT: memory is bounded, whatever addresses, principals and reasons come.

use std::collections::{BTreeMap, HashMap};
use std::hash::Hash;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;

use serde_json::{Map, Value};

use crate::audit::{Event, EventType, Outcome};
use crate::model::address::counted_address;
use crate::model::{Entropy, EventId, Principal, Timestamp, Ttl};

/// The window in which the rates are counted.
const WINDOW: Ttl = Ttl::seconds(10);
/// Addresses, and principals, that are told apart in one window; the refusals of others are only counted.
const KEYS_MAX: usize = 4096;
/// Reasons that are told apart; they come from a short list of ours.
const REASONS_MAX: usize = 32;
/// Principals of whom a counted event of their own tells; the refusals of others are in that of all.
const NAMED_MAX: usize = 32;

/// How many refusals are recorded one by one in each ten seconds.
#[derive(Debug, Clone, Copy)]
pub struct RefusalRates {
    /// Of one address without anybody identified; of IPv6, of one /64.
    pub per_address: u32,
    /// Of this node without anybody identified.
    pub per_node: u32,
    /// Of one principal: more than a page with all that belongs to it asks for.
    pub per_principal: u32,
    /// Of all principals at this node.
    pub named_per_node: u32,
}

impl Default for RefusalRates {
    fn default() -> Self {
        Self { per_address: 100, per_node: 1000, per_principal: 100, named_per_node: 1000 }
    }
}

/// Refusals of this window and of the next counted events.
#[derive(Debug, Default)]
pub(in crate::store) struct RefusalCount {
    addresses: Window<IpAddr>,
    principals: Window<Principal>,
    named: BTreeMap<Principal, Counted>,
    others: Counted,
    total: u64,
}

/// What was recorded one by one since `began`.
#[derive(Debug)]
struct Window<K> {
    began: Timestamp,
    admitted: u32,
    by_key: HashMap<K, u32>,
}

impl<K> Default for Window<K> {
    fn default() -> Self {
        Self { began: Timestamp::default(), admitted: 0, by_key: HashMap::new() }
    }
}

impl<K: Eq + Hash> Window<K> {
    fn admit(&mut self, now: Timestamp, key: K, per_key: u32, per_node: u32) -> bool {
        // Requests are not refused in the order in which they came: one that is a little older begins no window.
        if now.since(self.began) >= WINDOW || self.began.since(now) >= WINDOW {
            self.began = now;
            self.admitted = 0;
            self.by_key.clear();
        }
        let unknown_fits = self.by_key.len() < KEYS_MAX;
        if self.admitted >= per_node || !(unknown_fits || self.by_key.contains_key(&key)) {
            return false;
        }
        let seen = self.by_key.entry(key).or_insert(0);
        if *seen >= per_key {
            return false;
        }
        *seen += 1;
        self.admitted += 1;
        true
    }
}

#[derive(Debug, Default)]
struct Counted {
    count: u64,
    since: Option<Timestamp>,
    until: Timestamp,
    reasons: BTreeMap<Arc<str>, u64>,
}

impl Counted {
    fn add(&mut self, event: &Event) {
        self.count += 1;
        self.since.get_or_insert(event.time);
        self.until = event.time;
        let reason = event.reason.clone().unwrap_or_else(|| "unknown".into());
        if let Some(count) = self.reasons.get_mut(&reason) {
            *count += 1;
        } else if self.reasons.len() < REASONS_MAX {
            self.reasons.insert(reason, 1);
        }
    }

    fn event(self, principal: Option<Principal>, now: Timestamp, entropy: &dyn Entropy) -> Option<Event> {
        let since = self.since?;
        let reasons: Map<String, Value> =
            self.reasons.iter().map(|(reason, count)| (reason.to_string(), (*count).into())).collect();
        let id = EventId::fresh(now, entropy);
        let mut event = Event::new(id, now, EventType::DecisionDenyCounted, Outcome::Denied)
            .with("count", self.count)
            .with("reasons", reasons)
            .with("since", since.to_string())
            .with("until", self.until.to_string());
        event.actor.principal = principal;
        Some(event)
    }
}

impl RefusalCount {
    /// Whether `event` may be recorded by itself; else it is counted now.
    pub fn admit(&mut self, event: &Event, rates: RefusalRates) -> bool {
        let admitted = match &event.actor.principal {
            Some(principal) => {
                self.principals.admit(event.time, principal.clone(), rates.per_principal, rates.named_per_node)
            }
            None => self.addresses.admit(event.time, network(event.actor.address), rates.per_address, rates.per_node),
        };
        if !admitted {
            self.count(event);
        }
        admitted
    }

    /// Counts `event`, which is not recorded by itself.
    pub fn count(&mut self, event: &Event) {
        self.total += 1;
        match &event.actor.principal {
            Some(principal) if self.named.len() < NAMED_MAX || self.named.contains_key(principal) => {
                self.named.entry(principal.clone()).or_default().add(event);
            }
            _ => self.others.add(event),
        }
    }

    /// All that were ever counted.
    pub const fn total(&self) -> u64 {
        self.total
    }

    /// The events that tell of what was counted since the last ones: of some principals one each, and of all
    /// others one.
    pub fn events(&mut self, now: Timestamp, entropy: &dyn Entropy) -> Vec<Event> {
        let named = std::mem::take(&mut self.named).into_iter().map(|(principal, counted)| (Some(principal), counted));
        let others = (None, std::mem::take(&mut self.others));
        named.chain([others]).filter_map(|(principal, counted)| counted.event(principal, now, entropy)).collect()
    }
}

/// Events without an address are counted together.
fn network(address: Option<IpAddr>) -> IpAddr {
    address.map_or(IpAddr::V6(Ipv6Addr::UNSPECIFIED), counted_address)
}
