//! A request head, read strictly (RFC 9112 §2–§6). httparse does the syntax in one pass; what it or
//! hyper forgives is refused here from the places of its parts, without a second pass.

use std::mem::MaybeUninit;

use httparse::Status;

use crate::gateway::guard::WireRefusal;
use crate::gateway::length::plain_length;

/// The most fields that a head can be allowed to have.
pub(super) const HEADERS_MAX: usize = 100;

/// What follows a head.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Follows {
    /// The next head.
    Nothing,
    /// That many bytes.
    Length(u64),
    /// Chunks.
    Chunked,
    /// Whatever the answer to the upgrade says.
    Verdict,
}

/// Reads a head at the start of `bytes`: its length and what follows it, or nothing if it isn't whole.
pub(super) fn parse(bytes: &[u8], headers_max: usize) -> Result<Option<(usize, Follows)>, WireRefusal> {
    let mut storage = [const { MaybeUninit::uninit() }; HEADERS_MAX];
    let storage = storage.get_mut(..headers_max.min(HEADERS_MAX)).unwrap_or_default();
    let mut request = httparse::Request::new(&mut []);
    let length = match request.parse_with_uninit_headers(bytes, storage) {
        Ok(Status::Complete(length)) => length,
        Ok(Status::Partial) => return Ok(None),
        Err(httparse::Error::TooManyHeaders) => return Err(WireRefusal::TooManyHeaders),
        Err(error) => return Err(malformed(describe(error))),
    };
    let head = bytes.get(..length).ok_or(malformed("the request head is not whole"))?;
    check_lines(head, &request)?;
    let version = request.version.ok_or(malformed("the request line has no version"))?;
    check_target(request.method.unwrap_or(""), request.path.unwrap_or("").as_bytes())?;
    check_fields(request.headers, version).map(|follows| Some((length, follows)))
}

const fn malformed(what: &'static str) -> WireRefusal {
    WireRefusal::Malformed { what }
}

const fn describe(error: httparse::Error) -> &'static str {
    match error {
        httparse::Error::HeaderName => "a field name has a forbidden character",
        httparse::Error::HeaderValue => "a field value has a forbidden character",
        httparse::Error::NewLine => "a line does not end in CRLF",
        httparse::Error::Status => "the request line is a status line",
        httparse::Error::Token => "the request line has a forbidden character",
        httparse::Error::TooManyHeaders => "the header section has too many fields",
        httparse::Error::Version => "the request line has another version than HTTP/1.0 and HTTP/1.1",
    }
}

/// httparse takes a bare LF for a line's end. Before every name and at the end there must be CRLF; as
/// it lets no CR or LF into anything else, that covers every line.
fn check_lines(head: &[u8], request: &httparse::Request<'_, '_>) -> Result<(), WireRefusal> {
    const BARE: WireRefusal = malformed("a line does not end in CRLF");
    if head.first().is_none_or(|first| *first == b'\r' || *first == b'\n') {
        return Err(malformed("there is an empty line before the request"));
    }
    if !head.ends_with(b"\r\n\r\n") {
        return Err(BARE);
    }
    let start = head.as_ptr() as usize;
    for header in request.headers.iter() {
        let place = (header.name.as_ptr() as usize).wrapping_sub(start);
        let before = place.checked_sub(2).and_then(|from| head.get(from..place));
        if before != Some(b"\r\n") {
            return Err(BARE);
        }
    }
    Ok(())
}

/// The target is a path or an http(s) url in ASCII that no reader cuts short, and that `http::Uri` takes: what
/// that refuses, hyper would answer by itself, without a decision.
fn check_target(method: &str, target: &[u8]) -> Result<(), WireRefusal> {
    if method == "CONNECT" {
        return Err(WireRefusal::NotImplemented { what: "CONNECT is not offered" });
    }
    let form = target.first() == Some(&b'/')
        || starts_with_ignoring_case(target, b"http://")
        || starts_with_ignoring_case(target, b"https://");
    if !form {
        return Err(malformed("the target is neither a path nor an http or https url"));
    }
    const UNENCODED: WireRefusal = malformed("the target has a character that must be percent-encoded");
    let mut in_path = true;
    for byte in target {
        match byte {
            b'#' => return Err(malformed("the target has a fragment")),
            b'\\' if in_path => return Err(malformed("the target has a backslash")),
            b'?' => in_path = false,
            b'<' | b'>' => return Err(UNENCODED),
            b'`' if in_path => return Err(UNENCODED),
            b'"' if !in_path => return Err(UNENCODED),
            0x21..=0x7e => {}
            _ => return Err(UNENCODED),
        }
    }
    // A url has an authority too, which few requests have and many rules are about.
    if target.first() != Some(&b'/') && http::Uri::try_from(target).is_err() {
        return Err(malformed("the target is not a url"));
    }
    Ok(())
}

fn starts_with_ignoring_case(bytes: &[u8], prefix: &[u8]) -> bool {
    bytes.get(..prefix.len()).is_some_and(|start| start.eq_ignore_ascii_case(prefix))
}

/// Host, and all that says where the request ends.
fn check_fields(headers: &[httparse::Header<'_>], version: u8) -> Result<Follows, WireRefusal> {
    let mut hosts = 0_usize;
    let mut length: Option<u64> = None;
    let mut chunked = false;
    let mut upgrade = false;
    for header in headers {
        let name = header.name.as_bytes();
        match name.len() {
            4 if name.eq_ignore_ascii_case(b"host") => hosts += 1,
            7 if name.eq_ignore_ascii_case(b"upgrade") => {
                if upgrade {
                    return Err(malformed("there is more than one `Upgrade`"));
                }
                // HTTP/2 is chosen in the TLS handshake; as an upgrade it serves to smuggle.
                if starts_with_ignoring_case(header.value, b"h2c") {
                    return Err(WireRefusal::NotImplemented { what: "the upgrade to h2c is not offered" });
                }
                upgrade = true;
            }
            14 if name.eq_ignore_ascii_case(b"content-length") => {
                if length.is_some() {
                    return Err(malformed("there is more than one `Content-Length`"));
                }
                length = Some(parse_length(header.value)?);
            }
            17 if name.eq_ignore_ascii_case(b"transfer-encoding") => {
                if chunked {
                    return Err(malformed("there is more than one `Transfer-Encoding`"));
                }
                if !header.value.eq_ignore_ascii_case(b"chunked") {
                    return Err(WireRefusal::NotImplemented {
                        what: "a transfer coding other than `chunked` is not offered",
                    });
                }
                chunked = true;
            }
            _ => {}
        }
    }
    match (hosts, version) {
        (1, _) | (0, 0) => {}
        (0, _) => return Err(malformed("there is no `Host`")),
        _ => return Err(malformed("there is more than one `Host`")),
    }
    if chunked && length.is_some() {
        return Err(malformed("there are both `Content-Length` and `Transfer-Encoding`"));
    }
    if chunked && version == 0 {
        return Err(malformed("HTTP/1.0 has no `Transfer-Encoding`"));
    }
    let follows = match length {
        _ if chunked => Follows::Chunked,
        Some(length) if length > 0 => Follows::Length(length),
        _ => Follows::Nothing,
    };
    match (upgrade, follows) {
        (false, follows) => Ok(follows),
        (true, _) if version == 0 => Err(malformed("HTTP/1.0 has no `Upgrade`")),
        (true, Follows::Nothing) => Ok(Follows::Verdict),
        (true, _) => Err(malformed("a request with `Upgrade` has a body")),
    }
}

fn parse_length(value: &[u8]) -> Result<u64, WireRefusal> {
    plain_length(value).ok_or(malformed("`Content-Length` is not a plain number"))
}
