//! What an erasure must not take: events that a law or rule wants kept whole for some time.

pub mod settings;

use super::event::EventType;
use crate::model::Timestamp;
use settings::KeepRule;

/// The rule that keeps such an event the longest at `now`, and until when; `None`: it may be erased.
#[must_use]
pub fn kept_by(rules: &[KeepRule], kind: EventType, time: Timestamp, now: Timestamp) -> Option<(&KeepRule, Timestamp)> {
    let all = rules.iter().filter_map(|rule| Some((rule, rule.until(kind, time)?)));
    all.filter(|(_, until)| !until.is_over(now)).max_by_key(|(_, until)| *until)
}
