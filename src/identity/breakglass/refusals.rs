//! Which failed uses of the emergency path people are told of at once, and which are only counted:
//! the record has each of them, and nobody can bury a real one under a thousand of their own.
//!
//! INVARIANT: memory is bounded, whatever addresses and openings come: what finds no room of its own
//! is counted with its address, and where that has none either, with all others.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};

use crate::model::address::counted_address;
use crate::model::{BreakGlassId, Timestamp, Ttl};

/// How long further ones of the same are only counted.
const WINDOW: Ttl = Ttl::minutes(10);
/// Openings of one address that are told by themselves in a window; their ids are the sender's own.
const PER_ADDRESS_MAX: usize = 3;
/// What is told by itself on this node in a window.
const PER_NODE_MAX: usize = 32;

/// Whether somebody is told of it now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Telling {
    /// It is the first of its kind in this window.
    Now,
    /// It is counted.
    InACount,
}

/// Failures that nobody was told of one by one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Untold {
    /// From where; none: from several places.
    pub address: Option<IpAddr>,
    /// Of which opening, by their own word; none: of several, or of none that could be read.
    pub opening: Option<BreakGlassId>,
    /// How many.
    pub count: u64,
    /// The first of the window, which was told.
    pub since: Timestamp,
    /// The last.
    pub until: Timestamp,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
struct Key {
    address: Option<IpAddr>,
    opening: Option<BreakGlassId>,
}

#[derive(Debug)]
struct Entry {
    since: Timestamp,
    until: Timestamp,
    untold: u64,
}

/// The failures of the last window.
#[derive(Debug, Default)]
pub struct Refusals {
    entries: Mutex<HashMap<Key, Entry>>,
}

impl Refusals {
    /// Takes a failure from `address` of an opening, if one could be read.
    pub fn take(&self, address: IpAddr, opening: Option<BreakGlassId>, now: Timestamp) -> Telling {
        let mut entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        let address = counted_address(address);
        let own = Key { address: Some(address), opening };
        let of_address = Key { address: Some(address), opening: None };
        let of_all = Key { address: None, opening: None };
        if entries.contains_key(&own) {
            return count(&mut entries, own, now);
        }
        let here = entries.keys().filter(|key| key.address == Some(address)).count();
        let room = entries.len() < PER_NODE_MAX;
        if room && here < PER_ADDRESS_MAX {
            entries.insert(own, Entry { since: now, until: now, untold: 0 });
            return Telling::Now;
        }
        // A key of its own for what is counted of an address stands beside those that are told.
        let key = if here > 0 { of_address } else { of_all };
        count(&mut entries, key, now)
    }

    /// What windows that are over counted. Each is given once.
    pub fn due(&self, now: Timestamp) -> Vec<Untold> {
        let mut entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        let mut found = Vec::new();
        entries.retain(|key, entry| {
            let over = entry.since.plus(WINDOW).is_over(now);
            if over && entry.untold > 0 {
                let Key { address, opening } = *key;
                let Entry { since, until, untold } = *entry;
                found.push(Untold { address, opening, count: untold, since, until });
            }
            !over
        });
        found.sort_by_key(|it| (it.since, it.address, it.opening));
        found
    }
}

fn count(entries: &mut HashMap<Key, Entry>, key: Key, now: Timestamp) -> Telling {
    let entry = entries.entry(key).or_insert(Entry { since: now, until: now, untold: 0 });
    entry.untold = entry.untold.saturating_add(1);
    entry.until = now;
    Telling::InACount
}
