//! Which events a channel wants: `request.created`, `request.*` or `*`.

use std::fmt;

/// One pattern over event types.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EventPattern {
    /// Everything that is told at all.
    All,
    /// Every type under this word: `request.*`.
    Under(String),
    /// This type.
    Exactly(String),
}

/// What is told at all: the first words of the types.
pub const TOLD: &[&str] =
    &["request", "grant", "lock", "breakglass", "credential", "notice", "audit", "policy", "clock"];

/// What is about telling itself, and would be told of without end, or to nobody's use.
const NEVER_TOLD: &[&str] = &["breakglass.channels_tested", "notice.retried"];

impl EventPattern {
    /// Reads a pattern; its first word must be one that is told.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        if text == "*" {
            return Some(Self::All);
        }
        let (area, rest) = text.split_once('.')?;
        let word = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_lowercase() || b == b'_');
        match rest {
            _ if !TOLD.contains(&area) => None,
            "*" => Some(Self::Under(area.to_owned())),
            rest if word(rest) && !NEVER_TOLD.contains(&text) => Some(Self::Exactly(text.to_owned())),
            _ => None,
        }
    }

    /// Whether it wants events of this type.
    #[must_use]
    pub fn wants(&self, kind: &str) -> bool {
        let area = kind.split_once('.').map_or(kind, |(area, _)| area);
        if NEVER_TOLD.contains(&kind) {
            return false;
        }
        match self {
            Self::All => TOLD.contains(&area),
            Self::Under(wanted) => wanted == area,
            Self::Exactly(wanted) => wanted == kind,
        }
    }
}

impl fmt::Display for EventPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::All => f.write_str("*"),
            Self::Under(area) => write!(f, "{area}.*"),
            Self::Exactly(kind) => f.write_str(kind),
        }
    }
}
