//! CSV (RFC 4180) for spreadsheets.
//!
//! INVARIANT: no field can be taken for a formula: what begins with a sign that a spreadsheet
//! would calculate gets a `'` in front (OWASP, CSV injection). The header never changes its order;
//! new columns come last.

use std::borrow::Cow;

use super::Entry;
use crate::audit::leaf::PersonalField;

/// The names of the columns.
pub const HEADER: [&str; 24] = [
    "time",
    "type",
    "outcome",
    "reason",
    "actor",
    "actor_kind",
    "principal",
    "email",
    "session",
    "device",
    "address",
    "subject",
    "service",
    "action",
    "resource",
    "method",
    "host",
    "path",
    "decision",
    "grant",
    "policy_version",
    "id",
    "log",
    "seq",
];

/// The line of the header.
#[must_use]
pub fn header() -> String {
    line(HEADER)
}

/// The line of one event.
#[must_use]
pub fn row(entry: &Entry<'_>) -> String {
    let clear = entry.clear();
    let text = |pointer: &str| entry.text(pointer).unwrap_or_default();
    let personal = |field| entry.shown(field).unwrap_or_default();
    let (time, id, log) = (clear.time.to_string(), clear.id.to_string(), entry.log.to_string());
    let seq = entry.seq.map(|seq| seq.to_string()).unwrap_or_default();
    line([
        &*time,
        clear.kind.name(),
        clear.outcome.name(),
        text("/reason"),
        text("/actor/id"),
        text("/actor/kind"),
        personal(PersonalField::Principal),
        personal(PersonalField::Email),
        text("/actor/session"),
        personal(PersonalField::Device),
        personal(PersonalField::Address),
        personal(PersonalField::Subject),
        entry.service().unwrap_or_default(),
        text("/action"),
        text("/resource"),
        text("/request/method"),
        text("/request/host"),
        personal(PersonalField::Path),
        text("/decision"),
        text("/grant"),
        text("/policy_version"),
        &*id,
        &*log,
        &*seq,
    ])
}

/// One line of fields, each safe in a spreadsheet, ended by CRLF.
#[must_use]
pub fn line<'a>(fields: impl IntoIterator<Item = &'a str>) -> String {
    let mut out = String::with_capacity(256);
    for (index, field) in fields.into_iter().enumerate() {
        if index > 0 {
            out.push(',');
        }
        let field = safe(field);
        if field.contains(['"', ',', '\r', '\n']) {
            out.push('"');
            out.push_str(&field.replace('"', "\"\""));
            out.push('"');
        } else {
            out.push_str(&field);
        }
    }
    out.push_str("\r\n");
    out
}

/// The field, or the field that no spreadsheet calculates. Blanks in front are looked through,
/// since some programs drop them.
fn safe(field: &str) -> Cow<'_, str> {
    let starts = field.starts_with(['\t', '\r', '\n'])
        || field.trim_start().starts_with(['=', '+', '-', '@', '＝', '＋', '－', '＠']);
    if starts { Cow::Owned(format!("'{field}")) } else { Cow::Borrowed(field) }
}
