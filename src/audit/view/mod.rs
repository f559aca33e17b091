//! The record as people ask it: everything about one grant (`grant.rs`), and who had access to what in a
//! time (`who.rs`). Events go in, in any order of logs; what comes out is told as JSON as it is, by the
//! server and from an export alike.
//!
//! INVARIANT: every table has a bound, and what did not fit is counted and told.

pub mod grant;
pub mod who;
mod words;

use serde::{Deserialize, Serialize};

use super::format::Entry;
use super::leaf::PersonalField;

pub use grant::{GrantCollector, GrantView};
pub use who::{AccessRow, WhoCollector, WhoFilter};

/// Somebody, as the record tells of them.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Somebody {
    /// The pseudonym `usr_…`: the same in every event, erased or not.
    pub id: String,
    /// `User`, `Workload`, `BreakGlass`
    pub kind: String,
    /// `User::"dev|alice"`; nothing where it was erased.
    #[serde(default)]
    pub principal: Option<String>,
    /// As their provider told it; nothing where it was erased or is not known.
    #[serde(default)]
    pub email: Option<String>,
}

impl Somebody {
    /// Who did it; nobody where the system did.
    #[must_use]
    pub fn actor(entry: &Entry<'_>) -> Option<Self> {
        Some(Self {
            id: entry.text("/actor/id")?.to_owned(),
            kind: entry.text("/actor/kind").unwrap_or_default().to_owned(),
            principal: entry.personal(PersonalField::Principal).map(str::to_owned),
            email: entry.personal(PersonalField::Email).map(str::to_owned),
        })
    }

    /// To whom it was done. Their e-mail is not in such an event, unless they did it themselves.
    #[must_use]
    pub fn subject(entry: &Entry<'_>) -> Option<Self> {
        let id = entry.text("/subject/id")?;
        if let Some(actor) = Self::actor(entry).filter(|actor| actor.id == id) {
            return Some(actor);
        }
        Some(Self {
            id: id.to_owned(),
            kind: entry.text("/subject/kind").unwrap_or_default().to_owned(),
            principal: entry.personal(PersonalField::Subject).map(str::to_owned),
            email: None,
        })
    }

    /// The same person with what another event tells beyond this.
    fn learn(&mut self, other: &Self) {
        if self.id == other.id {
            self.principal = self.principal.take().or_else(|| other.principal.clone());
            self.email = self.email.take().or_else(|| other.email.clone());
        }
    }

    /// Whether `wanted` names them: pseudonym, principal with or without its kind, or e-mail.
    #[must_use]
    pub fn is(&self, wanted: &str) -> bool {
        let bare = self.principal.as_deref().map(bare);
        self.id == wanted
            || self.principal.as_deref() == Some(wanted)
            || bare == Some(wanted)
            || self.email.as_deref().is_some_and(|email| email.eq_ignore_ascii_case(wanted))
    }

    /// As people read it: e-mail, else principal, else pseudonym.
    #[must_use]
    pub fn told(&self) -> &str {
        self.email.as_deref().or_else(|| self.principal.as_deref().map(bare)).unwrap_or(&self.id)
    }
}

/// A principal without its kind: `dev|alice`.
fn bare(principal: &str) -> &str {
    let quoted = principal.split_once("::\"").map_or(principal, |(_, rest)| rest);
    quoted.strip_suffix('"').unwrap_or(quoted)
}
