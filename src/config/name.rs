//! What the configuration calls a thing of which there are several (`name = "…"`): it stands in the
//! database, in metrics and on record.

use std::collections::BTreeSet;

use super::section::Section;

/// A name that has the form of one.
pub(in crate::config) fn parse(text: &str) -> Option<String> {
    let mut bytes = text.bytes();
    let first = bytes.next()?.is_ascii_lowercase();
    let rest = bytes.all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-' || b == b'_');
    (first && rest && text.len() <= 63).then(|| text.to_owned())
}

/// The `name` of a table.
pub(in crate::config) fn read(section: &mut Section<'_>) -> Option<String> {
    section.parsed("name", "1 to 63 characters of `a-z`, `0-9`, `-` and `_`, a letter first", parse)
}

/// The `name` of a table that no other has, of those that are `taken`; `help` says why it must not.
pub(in crate::config) fn read_own(
    section: &mut Section<'_>,
    taken: &mut BTreeSet<String>,
    help: &str,
) -> Option<String> {
    let name = read(section)?;
    if !taken.insert(name.clone()) {
        section.error("name", format!("the name `{name}` is given twice"), help);
    }
    Some(name)
}
