//! What an installation is told of its custodians, read once: the allowed_signers file, bounded.

use std::path::Path;

use super::custodians::{Custodians, FILE_BYTES_MAX};
pub use super::quorum::OpeningRules;
pub use super::state::InForce;

/// Reads the custodians' file.
///
/// # Errors
/// That it can't be read, or the line that is wrong.
pub fn read_custodians(file: &Path) -> Result<Custodians, String> {
    let unread = |error: &dyn std::fmt::Display| format!("`{}` can't be read: {error}", file.display());
    let length = std::fs::metadata(file).map_err(|error| unread(&error))?.len();
    if usize::try_from(length).unwrap_or(usize::MAX) > FILE_BYTES_MAX {
        return Err(unread(&"it is larger than 256 KiB"));
    }
    let bytes = std::fs::read(file).map_err(|error| unread(&error))?;
    Custodians::parse(&bytes).map_err(|error| format!("{}: {error}", file.display()))
}
