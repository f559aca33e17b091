//! The rules of `[[audit.keep]]`, as the configuration gives them.

use crate::audit::event::EventType;
use crate::model::{Timestamp, Ttl};

/// Which types of events a rule is about: `*`, `breakglass.*` or `session.start`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TypePattern(String);

impl TypePattern {
    /// Reads a pattern. `None` where no type of event is of it, for such a rule would keep nothing.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let pattern = Self(text.to_owned());
        EventType::ALL.iter().any(|kind| pattern.holds(*kind)).then_some(pattern)
    }

    /// The type whose name is likest to what was meant, by `nearest` of all that there are.
    #[must_use]
    pub fn nearest(nearest: impl Fn(&[&'static str]) -> Option<&'static str>) -> Option<&'static str> {
        let known: Vec<&'static str> = EventType::ALL.iter().map(|kind| kind.name()).collect();
        nearest(&known)
    }

    /// Whether events of this type are of it.
    #[must_use]
    pub fn holds(&self, kind: EventType) -> bool {
        match self.0.strip_suffix(".*") {
            Some(area) => kind.name().split_once('.').is_some_and(|(of, _)| of == area),
            None => self.0 == "*" || self.0 == kind.name(),
        }
    }
}

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
        self.types.iter().any(|pattern| pattern.holds(kind)).then(|| time.plus(self.length))
    }
}
