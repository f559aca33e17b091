//! Readings: what an upstream may take a path for that the gateway compares byte for byte.
//!
//! INVARIANT: patterns and paths are read by the same code, so in every reading a route still takes
//! what it takes byte for byte.

use std::borrow::Cow;

use percent_encoding::percent_decode_str;

/// One way to read a path. All of them decode and drop what the canonical form refuses anyway:
/// `;x`, dots and spaces around a segment. Upstreams differ in the rest, each in its own mixture.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Reading {
    /// Letters are taken without their case.
    caseless: bool,
    /// Empty segments are dropped, and so is a trailing slash.
    slashless: bool,
    /// `%2F` is a slash.
    decoded: bool,
}

impl Reading {
    /// The one that takes most for the same.
    pub(super) const WIDEST: Self = Self { caseless: true, slashless: true, decoded: true };

    /// Every mixture, the widest first.
    pub(super) fn all() -> impl Iterator<Item = Self> {
        const WAYS: [bool; 2] = [true, false];
        WAYS.into_iter().flat_map(|caseless| {
            WAYS.into_iter()
                .flat_map(move |slashless| WAYS.into_iter().map(move |decoded| Self { caseless, slashless, decoded }))
        })
    }

    /// What it makes of a segment: nothing where it drops it, several where it decodes a slash.
    pub(super) fn pieces(self, segment: &str) -> impl Iterator<Item = Cow<'_, str>> {
        let (plain, other) = if is_plain(segment) { (Some(segment), None) } else { (None, Some(self.others(segment))) };
        let plain = plain.filter(|piece| !(self.slashless && piece.is_empty()));
        plain.map(Cow::Borrowed).into_iter().chain(other.into_iter().flatten().map(Cow::Owned))
    }

    fn others(self, segment: &str) -> Vec<String> {
        let text = percent_decode_str(segment).decode_utf8_lossy();
        let pieces = text.splitn(if self.decoded { usize::MAX } else { 1 }, '/').map(|piece| {
            let piece = piece.split(';').next().unwrap_or_default();
            let piece = piece.trim_matches(|c: char| c == '.' || c.is_whitespace() || c.is_control());
            if self.caseless { without_case(piece) } else { piece.to_owned() }
        });
        pieces.filter(|piece| !(self.slashless && piece.is_empty())).collect()
    }
}

/// Whether every reading leaves a segment as it is, but for dropping an empty one.
pub(super) fn is_plain(segment: &str) -> bool {
    let plain = |b: u8| b.is_ascii_graphic() && !b.is_ascii_uppercase() && b != b';' && b != b'%';
    segment.bytes().all(plain) && !segment.starts_with('.') && !segment.ends_with('.')
}

/// Up first, since `ſ` is a small `S`; and then down, since `K` (Kelvin) is a capital `k`. `İ` stays
/// two characters either way, while regular expressions without case take it for an `i`.
fn without_case(text: &str) -> String {
    text.replace('İ', "i").to_uppercase().to_lowercase()
}
