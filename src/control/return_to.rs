//! Where a browser goes after signing in: a path of the same host and nothing else (ATTACKS A41,
//! RFC 9700 §4.11).
//!
//! Browsers read `\` as `/` in a path, drop tabs and line breaks, and take `//host` for another site. So
//! what is taken is far less than a URL: visible ASCII, one leading slash, no empty or dot segments. Behind
//! the `?` nothing leads elsewhere any more (WHATWG URL, query state).

use std::fmt;

/// The longest path with its query, in bytes. The way to a service carries the service's own in its query,
/// encoded, which may treble it; it must come through with a query of a few thousand characters.
pub const RETURN_TO_BYTES_MAX: usize = 8 * 1024;

/// A path, with its query, of the host that the browser is at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReturnTo(String);

impl ReturnTo {
    /// The host's front page.
    #[must_use]
    pub fn root() -> Self {
        Self("/".to_owned())
    }

    /// Takes the text if it can only be read as a path of the same host.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let path = text.split('?').next().unwrap_or_default();
        let visible = |b: u8| (0x21..=0x7e).contains(&b) && b != b'#';
        let fits = text.len() <= RETURN_TO_BYTES_MAX && text.bytes().all(visible) && !path.contains('\\');
        let plain = path.strip_prefix('/').is_some_and(|rest| rest.is_empty() || segments_are_plain(rest));
        (fits && plain).then(|| Self(text.to_owned()))
    }

    /// The same, but the front page for what is merely too long: that is no try to lead elsewhere, and whoever
    /// followed a link that long has to arrive somewhere.
    #[must_use]
    pub fn parse_or_root(text: &str) -> Option<Self> {
        if text.len() > RETURN_TO_BYTES_MAX { Some(Self::root()) } else { Self::parse(text) }
    }

    /// The path with its query.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Only the last segment may be empty, none may be `.` or `..` in any spelling, and none may begin
/// with what some reader decodes to a slash.
fn segments_are_plain(rest: &str) -> bool {
    let segments: Vec<String> = rest.split('/').map(str::to_ascii_lowercase).collect();
    let last = segments.len().saturating_sub(1);
    segments.iter().enumerate().all(|(place, segment)| {
        let dots = segment.replace("%2e", ".");
        let hidden = ["%2f", "%5c", "%25", "%0", "%1", "%7f"].iter().any(|start| segment.starts_with(start));
        (!segment.is_empty() || place == last) && dots != "." && dots != ".." && !hidden
    })
}

impl fmt::Display for ReturnTo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
