//! What can be wrong with a record, and where.

use std::fmt;

use crate::audit::checkpoint::LogName;
use crate::model::NodeId;

/// What is wrong with a record. Each kind has its exit code.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fault {
    /// Something is not what it was. 10
    Altered { at: Place, what: String },
    /// An event, or a whole log, is missing. 11
    Gap { at: Place, what: String },
    /// The end is missing. 12
    Truncated { at: Place, what: String },
    /// There is, or was, another history. 13
    Forked { at: Place, what: String },
}

impl Fault {
    /// The exit code of `audit verify`.
    #[must_use]
    pub const fn code(&self) -> u8 {
        match self {
            Self::Altered { .. } => 10,
            Self::Gap { .. } => 11,
            Self::Truncated { .. } => 12,
            Self::Forked { .. } => 13,
        }
    }

    /// One word for it.
    #[must_use]
    pub const fn word(&self) -> &'static str {
        match self {
            Self::Altered { .. } => "altered",
            Self::Gap { .. } => "gap",
            Self::Truncated { .. } => "truncated",
            Self::Forked { .. } => "forked",
        }
    }

    /// Where it is.
    #[must_use]
    pub const fn place(&self) -> &Place {
        match self {
            Self::Altered { at, .. } | Self::Gap { at, .. } | Self::Truncated { at, .. } | Self::Forked { at, .. } => {
                at
            }
        }
    }

    /// Something that is not about one event was altered.
    #[must_use]
    pub fn altered(part: &str, what: impl Into<String>) -> Self {
        Self::Altered { at: Place::Part(part.to_owned()), what: what.into() }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (Self::Altered { at, what }
        | Self::Gap { at, what }
        | Self::Truncated { at, what }
        | Self::Forked { at, what }) = self;
        write!(f, "{}: {at}: {what}", self.word())
    }
}

impl std::error::Error for Fault {}

/// Where something is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// At an event.
    Event {
        /// In this log.
        log: NodeId,
        /// At this place of it.
        index: u64,
    },
    /// In a log as a whole.
    Log(LogName),
    /// In something else that belongs to the record.
    Part(String),
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Event { log, index } => write!(f, "event {index} of {log}"),
            Self::Log(log) => write!(f, "log {log}"),
            Self::Part(part) => f.write_str(part),
        }
    }
}
