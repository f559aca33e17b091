//! What the configuration says of the record's events: their types, which of them a stream carries, and
//! in which form. Made by `config/stream.rs`; what must be kept is in `keep/settings.rs`.

use std::fmt;

use super::event::EventType;
use super::leaf::Clear;
use crate::model::{ServiceName, Ttl};

/// The least that `[audit] retention` can be: no event of less than this before is pruned.
pub const RETENTION_MIN: Ttl = Ttl::hours(24);

/// The form in which a stream writes events.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum StreamFormat {
    /// The line of an export, with what proves it.
    #[default]
    Jsonl,
    /// OCSF, one JSON object.
    Ocsf,
    /// ArcSight Common Event Format.
    Cef,
}

impl StreamFormat {
    /// As it is written.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Jsonl => "jsonl",
            Self::Ocsf => "ocsf",
            Self::Cef => "cef",
        }
    }

    /// The form of that name.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        [Self::Jsonl, Self::Ocsf, Self::Cef].into_iter().find(|format| format.name() == text)
    }
}

/// Which types of events are meant: `*`, `decision.*` or `decision.deny`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TypePattern {
    /// Every type.
    All,
    /// Every type under this word.
    Under(String),
    /// This type.
    Exactly(EventType),
}

impl TypePattern {
    /// Reads a pattern. `None` where it stands for no type that there is: it would be about nothing.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        if text == "*" {
            return Some(Self::All);
        }
        match text.strip_suffix(".*") {
            Some(area) => {
                let pattern = Self::Under(area.to_owned());
                EventType::ALL.iter().any(|kind| pattern.wants(*kind)).then_some(pattern)
            }
            None => EventType::parse(text).map(Self::Exactly),
        }
    }

    /// The type whose name is likest to what was meant, by `nearest` of all that there are.
    #[must_use]
    pub fn nearest(nearest: impl Fn(&[&'static str]) -> Option<&'static str>) -> Option<&'static str> {
        let known: Vec<&'static str> = EventType::ALL.iter().map(|kind| kind.name()).collect();
        nearest(&known)
    }

    /// Whether it stands for this type.
    #[must_use]
    pub fn wants(&self, kind: EventType) -> bool {
        match self {
            Self::All => true,
            Self::Under(area) => kind.name().split_once('.').is_some_and(|(first, _)| first == area),
            Self::Exactly(wanted) => *wanted == kind,
        }
    }
}

impl fmt::Display for TypePattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::All => f.write_str("*"),
            Self::Under(area) => write!(f, "{area}.*"),
            Self::Exactly(kind) => f.write_str(kind.name()),
        }
    }
}

/// Which events a stream carries. Empty: all.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Selection {
    /// Of one of these types.
    pub types: Vec<TypePattern>,
    /// About one of these services.
    pub services: Vec<ServiceName>,
}

impl Selection {
    /// Whether an event is carried.
    #[must_use]
    pub fn wants(&self, clear: &Clear) -> bool {
        let by_type = self.types.is_empty() || self.types.iter().any(|pattern| pattern.wants(clear.kind));
        let by_service =
            self.services.is_empty() || clear.service.as_ref().is_some_and(|service| self.services.contains(service));
        by_type && by_service
    }
}
