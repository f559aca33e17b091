//! From the beginning of an id to the whole id.
//!
//! INVARIANT: a beginning stands for an id only if just one thing that the caller may see begins
//! so; what several share is refused with their names, never guessed.

use serde::Deserialize;

use super::client::Client;
use super::exit::Exit;
use super::failure::Failure;
use super::renewal::SignedIn;
use crate::model::{GrantId, LeaseId, RequestId, SessionId};

/// Characters of a whole id after its prefix.
const TAIL_CHARS: usize = 26;
/// How many of those that begin the same are named.
const CANDIDATES_MAX: usize = 5;

/// What an id may be of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// `req_…`
    Request,
    /// `grt_…`
    Grant,
    /// `lea_…`
    Lease,
    /// `ses_…`
    Session,
}

impl Kind {
    const fn prefix(self) -> &'static str {
        match self {
            Self::Request => RequestId::PREFIX,
            Self::Grant => GrantId::PREFIX,
            Self::Lease => LeaseId::PREFIX,
            Self::Session => SessionId::PREFIX,
        }
    }

    /// Where the caller's own are, and those of others that concern them.
    const fn lists(self) -> &'static [&'static str] {
        match self {
            Self::Request => &["/api/v1/requests", "/api/v1/requests?all=true"],
            Self::Grant => &["/api/v1/grants", "/api/v1/grants?all=true"],
            Self::Lease => &["/api/v1/leases", "/api/v1/leases?all=true"],
            Self::Session => &["/api/v1/sessions", "/api/v1/sessions?all=true"],
        }
    }
}

#[derive(Deserialize)]
struct Named {
    id: String,
}

/// The kind and the rest of an id, or of its beginning.
///
/// # Errors
/// Exit 2 when it is of none of these kinds, or can't be the beginning of an id.
pub fn read(kinds: &[Kind], text: &str) -> Result<Kind, Failure> {
    let shown: String = text.chars().take(60).collect();
    let Some((kind, tail)) = kinds.iter().find_map(|kind| Some((*kind, text.strip_prefix(kind.prefix())?))) else {
        let wanted: Vec<String> = kinds.iter().map(|kind| format!("`{}…`", kind.prefix())).collect();
        return Err(Failure::usage(format!(
            "`{}`: an id that starts with {} is needed here",
            shown.escape_debug(),
            wanted.join(" or ")
        )));
    };
    let fits = tail.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'v').contains(&b));
    if tail.is_empty() || tail.len() > TAIL_CHARS || !fits {
        return Err(Failure::usage(format!(
            "`{}` is neither an id nor the beginning of one: `{}` and up to {TAIL_CHARS} characters of `0-9a-v`",
            shown.escape_debug(),
            kind.prefix()
        )));
    }
    Ok(kind)
}

/// The whole id that this text is, or is the beginning of.
///
/// # Errors
/// Exit 2 when it is of none of these kinds, or several begin so; exit 1 when none does.
pub async fn find(here: &SignedIn, kinds: &[Kind], text: &str) -> Result<(Kind, String), Failure> {
    find_by(&here.client, kinds, text).await
}

/// Whether the text is a whole id already, for which nobody has to be asked.
#[must_use]
pub const fn is_whole(kind: Kind, text: &str) -> bool {
    text.len() == kind.prefix().len() + TAIL_CHARS
}

/// The same as [`find`], for whoever this client speaks.
///
/// # Errors
/// As [`find`].
pub async fn find_by(client: &Client, kinds: &[Kind], text: &str) -> Result<(Kind, String), Failure> {
    let kind = read(kinds, text)?;
    if is_whole(kind, text) {
        return Ok((kind, text.to_owned()));
    }
    let mut found: Vec<String> = Vec::new();
    for path in kind.lists() {
        for item in client.list(path).await?.items {
            let Named { id } = client.read(item.get())?;
            if id.starts_with(text) && !found.contains(&id) {
                found.push(id);
            }
        }
    }
    match found.as_slice() {
        [] => Err(Failure::new(Exit::Failed, "not_found", format!("nothing that you may see begins with `{text}`"))),
        [one] => Ok((kind, one.clone())),
        several => {
            let mut named: Vec<_> = several.iter().take(CANDIDATES_MAX).map(|id| format!("`{id}`")).collect();
            if several.len() > CANDIDATES_MAX {
                named.push(format!("{} more", several.len() - CANDIDATES_MAX));
            }
            Err(Failure::usage(format!("`{text}` is the beginning of several: {}", named.join(", "))))
        }
    }
}
