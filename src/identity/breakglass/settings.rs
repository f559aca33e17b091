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

/// The file, beside the configuration, with the custodians that were last put on record.
pub const RECORDED_FILE: &str = "breakglass.recorded";

/// The custodians as they are put on record: how many must sign, then `NAME SHA256:…` of each key.
#[must_use]
pub fn recorded_text(rules: &OpeningRules) -> String {
    let mut text = format!("{}\n", rules.threshold);
    for key in rules.custodians.keys() {
        text.push_str(&format!("{} {}\n", key.name(), key.key.fingerprint(ssh_key::HashAlg::Sha256)));
    }
    text
}

/// What is different from what was last put on record, in words; `None` where nothing is, or nothing
/// was recorded yet.
#[must_use]
pub fn changed_since_recorded(folder: &Path, rules: &OpeningRules) -> Option<String> {
    let recorded = std::fs::read_to_string(folder.join(RECORDED_FILE)).ok()?;
    let now = recorded_text(rules);
    let (before, after): (Vec<&str>, Vec<&str>) = (recorded.lines().collect(), now.lines().collect());
    let mut said = Vec::new();
    if before.first() != after.first() {
        said.push(format!("the threshold was {}, it is {}", before.first().unwrap_or(&"-"), rules.threshold));
    }
    let (before, after) = (before.get(1..).unwrap_or_default(), after.get(1..).unwrap_or_default());
    said.extend(after.iter().filter(|key| !before.contains(key)).map(|key| format!("`{key}` came")));
    said.extend(before.iter().filter(|key| !after.contains(key)).map(|key| format!("`{key}` went")));
    (!said.is_empty()).then(|| said.join("; "))
}
