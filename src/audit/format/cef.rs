//! CEF version 0, as ArcSight and those after it read it.
//!
//! INVARIANT: one event is one line. In the head `\` and `|` are escaped, in the extension `\`
//! and `=`; line breaks become `\n`, other control characters blanks.

use super::Entry;
use crate::audit::event::Outcome;
use crate::audit::leaf::PersonalField;

/// The line of one event, without its end.
#[must_use]
pub fn line(entry: &Entry<'_>) -> String {
    let clear = entry.clear();
    let kind = clear.kind.name();
    let severity = match clear.outcome {
        Outcome::Success => 3,
        Outcome::Denied => 5,
        Outcome::Failed => 7,
    };
    let name = clear.kind.name().replace(['.', '_'], " ");
    let version = env!("CARGO_PKG_VERSION");
    let mut out = format!("CEF:0|Doorward|doorward|{version}|{}|{}|{severity}|", head(kind), head(&name));
    let (time, id, log) = (clear.time.millis().to_string(), clear.id.to_string(), entry.log.to_string());
    let seq = entry.seq.map(|seq| seq.to_string());
    let pairs = [
        ("rt", Some(&*time)),
        ("externalId", Some(&*id)),
        ("outcome", Some(clear.outcome.name())),
        ("reason", entry.text("/reason")),
        ("act", entry.text("/action")),
        ("src", entry.personal(PersonalField::Address).filter(|address| !address.contains(':'))),
        (
            "c6a2Label",
            entry
                .personal(PersonalField::Address)
                .filter(|address| address.contains(':'))
                .map(|_| "Source IPv6 Address"),
        ),
        ("c6a2", entry.personal(PersonalField::Address).filter(|address| address.contains(':'))),
        ("suid", entry.text("/actor/id")),
        ("suser", entry.shown(PersonalField::Principal)),
        ("duid", entry.text("/subject/id")),
        ("duser", entry.shown(PersonalField::Subject)),
        ("destinationServiceName", entry.service()),
        ("requestMethod", entry.text("/request/method")),
        ("dhost", entry.text("/request/host")),
        ("request", entry.shown(PersonalField::Path)),
        ("cs1Label", entry.text("/decision").map(|_| "decision")),
        ("cs1", entry.text("/decision")),
        ("cs2Label", entry.text("/grant").map(|_| "grant")),
        ("cs2", entry.text("/grant")),
        ("cs3Label", entry.text("/actor/session").map(|_| "session")),
        ("cs3", entry.text("/actor/session")),
        ("cs4Label", entry.text("/resource").map(|_| "resource")),
        ("cs4", entry.text("/resource")),
        ("cs5Label", Some("log")),
        ("cs5", Some(&*log)),
        ("cn1Label", seq.as_ref().map(|_| "seq")),
        ("cn1", seq.as_deref()),
    ];
    let mut first = true;
    for (key, value) in pairs {
        let Some(value) = value else { continue };
        if !first {
            out.push(' ');
        }
        first = false;
        out.push_str(key);
        out.push('=');
        extension(&mut out, value);
    }
    out
}

fn head(text: &str) -> String {
    text.replace('\\', "\\\\").replace('|', "\\|").replace(char::is_control, " ")
}

fn extension(out: &mut String, text: &str) {
    for character in text.chars() {
        match character {
            '\\' => out.push_str("\\\\"),
            '=' => out.push_str("\\="),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            character if character.is_control() => out.push(' '),
            character => out.push(character),
        }
    }
}
