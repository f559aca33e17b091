//! The rules of `[[audit.keep]]`, as the configuration gives them.

use crate::audit::event::EventType;
use crate::audit::settings::TypePattern;
use crate::model::{Timestamp, Ttl};

/// One rule of `[[audit.keep]]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeepRule {
    /// What it is called, in answers and in the record.
    pub name: String,
    /// The types of events that it keeps.
    pub types: Vec<TypePattern>,
    /// The law or rule behind it.
    pub reason: String,
    /// How long, from the event's time.
    pub length: Ttl,
}

impl KeepRule {
    /// Until when it keeps such an event.
    #[must_use]
    pub fn until(&self, kind: EventType, time: Timestamp) -> Option<Timestamp> {
        self.types.iter().any(|pattern| pattern.wants(kind)).then(|| time.plus(self.length))
    }
}
