//! One syslog message (RFC 5424).
//!
//! INVARIANT: no value can end its own field: what is printed in the header is printable ASCII without
//! blanks, and in structured data `"`, `\` and `]` are escaped (§6.3.3). The text comes last and may
//! hold anything but is one line here.

use std::fmt::Write as _;

use crate::model::Timestamp;

/// Facility 13, "log audit" (§6.2.1).
const FACILITY: u8 = 13;
/// The longest host name, process id and message id (§6).
const HOST_MAX: usize = 255;
const PROCESS_MAX: usize = 128;
const MESSAGE_ID_MAX: usize = 32;
/// The project has no enterprise number; this one is for documentation (RFC 5612), so that nobody
/// else's is taken.
const STRUCTURED_DATA_ID: &str = "doorward@32473";

/// How grave a message is (§6.2.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Severity {
    /// Something did not work.
    Error,
    /// Something was refused.
    Warning,
    /// Something is as it should be.
    Informational,
}

impl Severity {
    const fn number(self) -> u8 {
        match self {
            Self::Error => 3,
            Self::Warning => 4,
            Self::Informational => 6,
        }
    }
}

/// One message.
#[derive(Debug, Clone, Copy)]
pub struct Message<'a> {
    /// How grave.
    pub severity: Severity,
    /// When it happened.
    pub time: Timestamp,
    /// HOSTNAME: the door's name.
    pub host: &'a str,
    /// PROCID: which node's log it is of.
    pub process: &'a str,
    /// MSGID: what kind of thing happened.
    pub kind: &'a str,
    /// Structured data: name and value, where there is one. Names are ours and need no escaping.
    pub data: &'a [(&'static str, Option<&'a str>)],
    /// MSG: UTF-8 without a byte order mark, since it would not be JSON or CEF any more with one; by §6.4
    /// that makes it `MSG-ANY`.
    pub text: &'a str,
}

impl Message<'_> {
    /// Appends it as it goes over a stream: its length in octets, a blank, and the message
    /// (RFC 5425 §4.3.1).
    pub fn push_frame(&self, out: &mut Vec<u8>) {
        let message = self.line();
        out.extend_from_slice(message.len().to_string().as_bytes());
        out.push(b' ');
        out.extend_from_slice(message.as_bytes());
    }

    /// The message.
    #[must_use]
    pub fn line(&self) -> String {
        let mut out = String::with_capacity(256 + self.text.len());
        let priority = FACILITY * 8 + self.severity.number();
        // Writing to a `String` can't fail.
        let _ = write!(out, "<{priority}>1 {} ", self.time);
        push_word(&mut out, self.host, HOST_MAX);
        out.push_str(" doorward ");
        push_word(&mut out, self.process, PROCESS_MAX);
        out.push(' ');
        push_word(&mut out, self.kind, MESSAGE_ID_MAX);
        let _ = write!(out, " [origin software=\"doorward\" swVersion=\"{}\"]", env!("CARGO_PKG_VERSION"));
        out.push('[');
        out.push_str(STRUCTURED_DATA_ID);
        for (name, value) in self.data {
            let Some(value) = value else { continue };
            let _ = write!(out, " {name}=\"");
            push_value(&mut out, value);
            out.push('"');
        }
        out.push_str("] ");
        out.push_str(self.text);
        out
    }
}

/// A word of the header: printable ASCII, `-` where there is none.
fn push_word(out: &mut String, word: &str, max: usize) {
    let before = out.len();
    out.extend(word.chars().filter(char::is_ascii_graphic).take(max));
    if out.len() == before {
        out.push('-');
    }
}

fn push_value(out: &mut String, value: &str) {
    for character in value.chars() {
        match character {
            '"' | '\\' | ']' => {
                out.push('\\');
                out.push(character);
            }
            character if character.is_control() => out.push(' '),
            character => out.push(character),
        }
    }
}
