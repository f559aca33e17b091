//! The statement that closes an opening of the emergency path before its end (CONTRACT §8).
//!
//! INVARIANT: like a challenge it has exactly one text, and [`Closing::parse`] takes no other.

use super::id::BreakGlassId;
use super::time::Timestamp;

/// What a closing is signed under (`ssh-keygen -Y sign -n`).
pub const CLOSE_NAMESPACE: &str = "doorward-breakglass-close";
/// The longest closing in bytes.
pub const CLOSING_BYTES_MAX: usize = 1024;

const TITLE: &str = "Doorward break-glass closing, version 1";

/// That an opening is over from now on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Closing {
    /// Which opening.
    pub id: BreakGlassId,
    /// Which installation: its domain.
    pub trust_domain: String,
    /// When it was said.
    pub time: Timestamp,
}

impl Closing {
    /// The text that is signed.
    #[must_use]
    pub fn text(&self) -> String {
        format!("{TITLE}\nid: {}\ntrust domain: {}\ntime: {}\n", self.id, self.trust_domain, self.time)
    }

    /// Reads a closing in its one form; `None` for anything else.
    #[must_use]
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        if bytes.len() > CLOSING_BYTES_MAX {
            return None;
        }
        let text = std::str::from_utf8(bytes).ok()?;
        let mut lines = text.split('\n');
        if lines.next() != Some(TITLE) {
            return None;
        }
        let id = BreakGlassId::parse(lines.next()?.strip_prefix("id: ")?).ok()?;
        let trust_domain = lines.next()?.strip_prefix("trust domain: ")?.to_owned();
        let time = Timestamp::parse(lines.next()?.strip_prefix("time: ")?)?;
        let closing = Self { id, trust_domain, time };
        (closing.text() == text).then_some(closing)
    }
}
