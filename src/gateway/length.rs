//! The one reading of `Content-Length`.

/// Digits only, no sign, no list, no leading zero, which some programs take for octal, and small enough for every
/// reader (RFC 9110 §8.6).
#[must_use]
pub fn plain_length(value: &[u8]) -> Option<u64> {
    let plain = match value {
        [] | [b'0', _, ..] => false,
        digits => digits.len() <= 18 && digits.iter().all(u8::is_ascii_digit),
    };
    plain.then(|| value.iter().fold(0, |length, digit| length * 10 + u64::from(digit - b'0')))
}
