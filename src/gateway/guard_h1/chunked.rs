//! Chunked bodies, read strictly byte by byte (RFC 9112 §7.1): what is refused is the first byte that
//! two readers could take differently, before any reader gets it. Data is skipped over, not looked at.

/// Bytes of chunk extensions in one body. Hardly anybody sends them but attackers.
const EXTENSION_BYTES_MAX: usize = 1024;
/// Bytes of all trailer fields of one body.
const TRAILER_BYTES_MAX: usize = 8 * 1024;
/// Hexadecimal digits of a chunk size, leading zeros included: no reader's number overflows.
const SIZE_DIGITS_MAX: u8 = 15;

/// Where in a chunked body the reading stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    Size {
        value: u64,
        digits: u8,
    },
    /// After `;` or `=`, where a token must begin.
    ExtensionStart {
        size: u64,
        in_value: bool,
    },
    Extension {
        size: u64,
        in_value: bool,
    },
    SizeLf {
        size: u64,
    },
    Data {
        left: u64,
    },
    DataCr,
    DataLf,
    TrailerStart,
    TrailerName,
    TrailerValue,
    TrailerLf,
    EndLf,
}

/// The reading of one chunked body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Chunked {
    place: Place,
    extension_bytes: usize,
    trailer_bytes: usize,
}

/// How far the reading came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    /// All bytes belong to the body, and it goes on.
    More,
    /// The body ends after that many bytes.
    End(usize),
    /// That many bytes are good, the next one is not.
    Refused(usize, &'static str),
}

impl Chunked {
    pub(super) const fn new() -> Self {
        Self { place: Place::Size { value: 0, digits: 0 }, extension_bytes: 0, trailer_bytes: 0 }
    }

    /// Reads on.
    pub(super) fn step(&mut self, bytes: &[u8]) -> Step {
        let mut at = 0;
        while let Some(&byte) = bytes.get(at) {
            if let Place::Data { left } = self.place {
                let available = (bytes.len() - at) as u64;
                let taken = available.min(left);
                self.place = if taken == left { Place::DataCr } else { Place::Data { left: left - taken } };
                at += usize::try_from(taken).unwrap_or(bytes.len() - at);
                continue;
            }
            match self.next(byte) {
                Ok(Some(place)) => self.place = place,
                Ok(None) => return Step::End(at + 1),
                Err(what) => return Step::Refused(at, what),
            }
            at += 1;
        }
        Step::More
    }

    /// The place after `byte`; none when it ends the body.
    fn next(&mut self, byte: u8) -> Result<Option<Place>, &'static str> {
        let place = match (self.place, byte) {
            (Place::Size { value, digits }, _) if byte.is_ascii_hexdigit() => {
                if digits == SIZE_DIGITS_MAX {
                    return Err("a chunk size has too many digits");
                }
                let digit = char::from(byte).to_digit(16).unwrap_or_default();
                Place::Size { value: value << 4 | u64::from(digit), digits: digits + 1 }
            }
            (Place::Size { digits: 0, .. }, _) => return Err("a chunk size is not hexadecimal"),
            (Place::Size { value: size, .. } | Place::Extension { size, .. }, b'\r') => Place::SizeLf { size },
            (Place::Size { value: size, .. } | Place::Extension { size, .. }, b';') => {
                self.count_extension()?;
                Place::ExtensionStart { size, in_value: false }
            }
            (Place::Size { .. }, _) => return Err("a chunk size is followed by something else"),
            (Place::Extension { size, in_value: false }, b'=') => {
                self.count_extension()?;
                Place::ExtensionStart { size, in_value: true }
            }
            (Place::ExtensionStart { size, in_value } | Place::Extension { size, in_value }, _) if is_token(byte) => {
                self.count_extension()?;
                Place::Extension { size, in_value }
            }
            (Place::ExtensionStart { .. } | Place::Extension { .. }, _) => {
                return Err("a chunk extension is not `;name=value`");
            }
            (Place::SizeLf { size: 0 }, b'\n') => Place::TrailerStart,
            (Place::SizeLf { size }, b'\n') => Place::Data { left: size },
            (Place::Data { left }, _) => Place::Data { left },
            (Place::DataCr, b'\r') => Place::DataLf,
            (Place::DataLf, b'\n') => Place::Size { value: 0, digits: 0 },
            (Place::DataCr | Place::DataLf, _) => return Err("a chunk is longer than its size"),
            (Place::TrailerStart, b'\r') => Place::EndLf,
            (Place::TrailerStart | Place::TrailerName, _) if is_token(byte) => {
                self.count_trailer()?;
                Place::TrailerName
            }
            (Place::TrailerName, b':') => Place::TrailerValue,
            (Place::TrailerStart | Place::TrailerName, _) => {
                return Err("a trailer field has a forbidden character in its name");
            }
            (Place::TrailerValue, b'\r') => Place::TrailerLf,
            (Place::TrailerValue, b'\t' | b' '..=b'~' | 0x80..=0xff) => {
                self.count_trailer()?;
                Place::TrailerValue
            }
            (Place::TrailerValue, _) => return Err("a trailer field has a forbidden character in its value"),
            (Place::TrailerLf, b'\n') => Place::TrailerStart,
            (Place::EndLf, b'\n') => return Ok(None),
            (Place::SizeLf { .. } | Place::TrailerLf | Place::EndLf, _) => {
                return Err("a line of the chunked body does not end in CRLF");
            }
        };
        Ok(Some(place))
    }

    const fn count_extension(&mut self) -> Result<(), &'static str> {
        self.extension_bytes += 1;
        if self.extension_bytes > EXTENSION_BYTES_MAX { Err("the chunk extensions are too long") } else { Ok(()) }
    }

    const fn count_trailer(&mut self) -> Result<(), &'static str> {
        self.trailer_bytes += 1;
        if self.trailer_bytes > TRAILER_BYTES_MAX { Err("the trailer section is too large") } else { Ok(()) }
    }
}

/// tchar of RFC 9110 §5.6.2.
const fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric()
        || matches!(
            byte,
            b'!' | b'#' | b'$' | b'%' | b'&' | b'\'' | b'*' | b'+' | b'-' | b'.' | b'^' | b'_' | b'`' | b'|' | b'~'
        )
}
