//! Who, on paper.

use serde::{Deserialize, Serialize};

/// A principal, with what people call them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Principal {
    /// `User`, `Workload` or `BreakGlass`.
    pub kind: String,
    /// The Cedar entity id; a user's is `<provider>|<subject>`.
    pub id: String,
    /// The name that the provider told.
    #[serde(default)]
    pub name: Option<String>,
    /// The e-mail that the provider told.
    #[serde(default)]
    pub email: Option<String>,
}

impl Principal {
    /// The text form, `User::"<provider>|<subject>"`.
    #[must_use]
    pub fn text(&self) -> String {
        format!("{}::\"{}\"", self.kind, self.id)
    }
}
