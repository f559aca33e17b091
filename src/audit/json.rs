//! JSON of the record: keys sorted, no white space, texts capped, and everything escaped that
//! could move a cursor, break a line or turn the direction of reading.
//!
//! INVARIANT: one value has one text. Whoever checks a leaf hashes the stored text and never
//! writes it anew, but two nodes must not write the same thing differently.

use std::borrow::Cow;
use std::fmt::Write as _;

use serde_json::{Map, Value};
use sha2::{Digest, Sha256};

use super::data::Data;
use crate::model::text::misleads;

/// The longest text that is kept whole, in bytes. Of a longer one its beginning is kept, with its
/// length and the SHA-256 of the whole.
pub const TEXT_BYTES_MAX: usize = 2048;
/// The most that `data` may take; of more, only length and SHA-256 are kept.
pub const DATA_BYTES_MAX: usize = 16 * 1024;

/// `text`, or what is kept of it.
#[must_use]
pub fn capped(text: &str) -> Cow<'_, str> {
    if text.len() <= TEXT_BYTES_MAX {
        return Cow::Borrowed(text);
    }
    let start = text.get(..text.floor_char_boundary(TEXT_BYTES_MAX)).unwrap_or_default();
    let digest = hex(&Sha256::digest(text.as_bytes()));
    Cow::Owned(format!("{start}…[{} bytes, sha256:{digest}]", text.len()))
}

/// Writes one JSON object, key by key; the caller gives the keys in their order.
pub struct Object<'a> {
    out: &'a mut String,
    empty: bool,
}

impl<'a> Object<'a> {
    /// Opens `{`.
    pub fn open(out: &'a mut String) -> Self {
        out.push('{');
        Self { out, empty: true }
    }

    /// Writes the key, which needs no escaping, and gives the place for its value.
    pub fn key(&mut self, key: &'static str) -> &mut String {
        if !self.empty {
            self.out.push(',');
        }
        self.empty = false;
        self.out.push('"');
        self.out.push_str(key);
        self.out.push_str("\":");
        self.out
    }

    /// A text.
    pub fn text(&mut self, key: &'static str, value: &str) {
        push_text(self.key(key), value);
    }

    /// A text that is capped already, or that a reader must get back whole.
    pub fn whole(&mut self, key: &'static str, value: &str) {
        push_whole(self.key(key), value);
    }

    /// A text, if there is one.
    pub fn text_if(&mut self, key: &'static str, value: Option<&str>) {
        if let Some(value) = value {
            self.text(key, value);
        }
    }

    /// A value whose text form needs neither cap nor escape: an id, a time.
    pub fn plain(&mut self, key: &'static str, value: impl std::fmt::Display) {
        let out = self.key(key);
        // Writing to a `String` can't fail.
        let _ = write!(out, "\"{value}\"");
    }

    /// Closes `}`.
    pub fn close(self) {
        self.out.push('}');
    }
}

/// Appends `data`, or what is kept of it.
pub fn push_data(out: &mut String, data: &Data) {
    let start = out.len();
    push_entries(out, data.iter());
    let written = out.get(start..).unwrap_or_default();
    if written.len() > DATA_BYTES_MAX {
        let digest = hex(&Sha256::digest(written.as_bytes()));
        let bytes = written.len();
        out.truncate(start);
        let _ = write!(out, "{{\"cut_bytes\":{bytes},\"cut_sha256\":\"{digest}\"}}");
    }
}

fn push_map(out: &mut String, map: &Map<String, Value>) {
    let mut entries: Vec<_> = map.iter().collect();
    entries.sort_unstable_by_key(|(key, _)| *key);
    push_entries(out, entries.into_iter().map(|(key, value)| (key.as_str(), value)));
}

/// Entries that come by name.
fn push_entries<'a>(out: &mut String, entries: impl Iterator<Item = (&'a str, &'a Value)>) {
    out.push('{');
    for (index, (key, value)) in entries.enumerate() {
        if index > 0 {
            out.push(',');
        }
        push_text(out, key);
        out.push(':');
        push_value(out, value);
    }
    out.push('}');
}

fn push_value(out: &mut String, value: &Value) {
    match value {
        Value::String(text) => push_text(out, text),
        Value::Array(items) => {
            out.push('[');
            for (index, item) in items.iter().enumerate() {
                if index > 0 {
                    out.push(',');
                }
                push_value(out, item);
            }
            out.push(']');
        }
        Value::Object(map) => push_map(out, map),
        Value::Null | Value::Bool(_) | Value::Number(_) => {
            let _ = write!(out, "{value}");
        }
    }
}

/// Appends a JSON string of what is kept of `text`.
pub fn push_text(out: &mut String, text: &str) {
    push_whole(out, &capped(text));
}

fn push_whole(out: &mut String, text: &str) {
    out.push('"');
    let mut rest = text;
    loop {
        // Most of it is copied as it is: a leaf within a line has a quotation mark every few bytes.
        let run = plain_run(rest.as_bytes());
        let Some((plain, behind)) = rest.split_at_checked(run) else { break };
        out.push_str(plain);
        let mut characters = behind.chars();
        let Some(character) = characters.next() else { break };
        push_character(out, character);
        rest = characters.as_str();
    }
    out.push('"');
}

/// How many bytes from the first on stand for themselves.
fn plain_run(bytes: &[u8]) -> usize {
    // Sixteen at a time, without a branch for each: that is one comparison for the processor.
    let whole = bytes.chunks_exact(16).take_while(|piece| piece.iter().fold(true, |all, byte| all & is_plain(*byte)));
    let run = 16 * whole.count();
    let rest = bytes.get(run..).unwrap_or_default();
    run + rest.iter().position(|byte| !is_plain(*byte)).unwrap_or(rest.len())
}

/// Printable ASCII that stands for itself in a JSON string.
const fn is_plain(byte: u8) -> bool {
    matches!(byte, 0x20..0x7f) && byte != b'"' && byte != b'\\'
}

fn push_character(out: &mut String, character: char) {
    match character {
        '"' => out.push_str("\\\""),
        '\\' => out.push_str("\\\\"),
        character if character.is_control() || misleads(character) => {
            let mut units = [0u16; 2];
            for unit in character.encode_utf16(&mut units) {
                let _ = write!(out, "\\u{unit:04x}");
            }
        }
        character => out.push(character),
    }
}

/// Lower-case hexadecimal digits.
fn hex(bytes: &[u8]) -> String {
    data_encoding::HEXLOWER.encode(bytes)
}
