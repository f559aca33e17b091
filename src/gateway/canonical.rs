//! One reading of a request: host, path, query and upgrade as policy, audit and upstream see them.
//!
//! INVARIANT: `canonical` is idempotent, and the path that is judged is the path that is sent. What
//! two programs could read in two ways is refused, never repaired; the only rewriting is the normal
//! form of RFC 3986 §6.2.2: encoded unreserved characters are decoded, other encodings get upper-case
//! digits. Host and `:authority` follow RFC 9110 §7.2 and RFC 9113 §8.3.1, WebSocket RFC 6455 §4.2.1.

use std::fmt;
use std::net::Ipv6Addr;

use http::{HeaderMap, Method, Request, Version, header};

use super::length::plain_length;

/// The longest host name (RFC 1035 §2.3.4).
const HOST_BYTES_MAX: usize = 253;
/// The longest label of a host name.
const LABEL_BYTES_MAX: usize = 63;
/// The longest method; the registry's longest is `UPDATEREDIRECTREF`.
const METHOD_BYTES_MAX: usize = 32;

/// What a service allows in its paths.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct PathRules {
    /// `%2F` inside a segment is passed on as it is, instead of being refused.
    pub encoded_slash: bool,
}

/// A protocol that the client wants to change to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Upgrade {
    /// A complete RFC 6455 opening handshake.
    WebSocket,
    /// Another protocol, as the client named it.
    Other(String),
}

/// A request that can be read in one way only.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(clippy::manual_non_exhaustive, reason = "the rest of this crate must not make one either")]
pub struct Canonical {
    /// Its method, upper case.
    pub method: Method,
    /// The host asked for: lower case, without port and trailing dot; IPv6 in brackets.
    pub host: String,
    /// The port, where the client named one.
    pub port: Option<u16>,
    /// The path that policy, audit and upstream see.
    pub path: String,
    /// The query as it came, without `?`.
    pub query: Option<String>,
    /// The protocol change asked for.
    pub upgrade: Option<Upgrade>,
    /// Only this file makes one.
    proof: (),
}

impl Canonical {
    /// The request target for the upstream, in origin form.
    #[must_use]
    pub fn target(&self) -> String {
        match &self.query {
            None => self.path.clone(),
            Some(query) => format!("{}?{query}", self.path),
        }
    }
}

/// Why a request could be read in more than one way, or not at all.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Ambiguity {
    /// CONNECT, TRACE or TRACK: never passed on.
    MethodRefused,
    /// A method in lower case or with odd characters.
    MethodForm,
    /// `*`, authority form, or another scheme than http and https.
    TargetForm,
    /// Neither Host nor `:authority`.
    HostMissing,
    /// Two Host fields.
    HostRepeated,
    /// Not a host name, or user information in it.
    HostForm,
    /// The port is not a number of a port.
    PortForm,
    /// Host and `:authority` or absolute-form target name different hosts.
    HostDisagrees,
    /// The path doesn't begin with `/`.
    PathStart,
    /// A character that a path may not have unencoded.
    PathCharacter,
    /// `%` without two hexadecimal digits.
    PathEncoding,
    /// `/` in encoded form.
    EncodedSlash,
    /// `\`, also in encoded form.
    Backslash,
    /// A control character in encoded form.
    EncodedControl,
    /// `%25`, which another decoding would turn into something else.
    DoubleEncoding,
    /// `;`, also in encoded form.
    PathParameter,
    /// `?` or `#` in encoded form.
    EncodedDelimiter,
    /// `//`.
    EmptySegment,
    /// `.` or `..` as a segment, also in encoded form.
    DotSegment,
    /// A segment that ends in a dot or begins or ends with a space: some programs drop them.
    TrimmedSegment,
    /// The decoded path is not UTF-8.
    PathNotUtf8,
    /// A character that others fold into ASCII, or that can't be seen.
    Lookalike,
    /// A character that a query may not have unencoded.
    QueryCharacter,
    /// An upgrade that is not complete, or not alone.
    UpgradeForm,
    /// More than one length of the body, or one that is not in plain digits.
    LengthForm,
}

impl Ambiguity {
    /// What was wrong, for the refusal's detail.
    #[must_use]
    pub const fn what(&self) -> &'static str {
        match self {
            Self::MethodRefused => "the method is not passed on by this gateway",
            Self::MethodForm => "the method has characters other than upper-case letters, digits, `-` and `_`",
            Self::TargetForm => "the target is neither a path nor an http or https url",
            Self::HostMissing => "no host is named",
            Self::HostRepeated => "more than one `Host` is given",
            Self::HostForm => "the host is not a host name or address",
            Self::PortForm => "the port is not a number from 1 to 65535",
            Self::HostDisagrees => "`Host` and the target name different hosts",
            Self::PathStart => "the path does not begin with `/`",
            Self::PathCharacter => "the path has a character that must be percent-encoded",
            Self::PathEncoding => "the path has a `%` without two hexadecimal digits",
            Self::EncodedSlash => "the path has an encoded slash, which this service does not allow",
            Self::Backslash => "the path has a backslash",
            Self::EncodedControl => "the path has an encoded control character",
            Self::DoubleEncoding => "the path has an encoded percent sign",
            Self::PathParameter => "the path has a semicolon",
            Self::EncodedDelimiter => "the path has an encoded `?` or `#`",
            Self::EmptySegment => "the path has an empty segment",
            Self::DotSegment => "the path has a dot segment",
            Self::TrimmedSegment => "a segment of the path ends in a dot or begins or ends with a space",
            Self::PathNotUtf8 => "the path is not UTF-8",
            Self::Lookalike => "the path has a character that is invisible or can be taken for another one",
            Self::QueryCharacter => "the query has a character that must be percent-encoded",
            Self::UpgradeForm => "the upgrade is not a complete, single HTTP/1.1 upgrade",
            Self::LengthForm => "`Content-Length` is not one number in plain digits",
        }
    }

    /// The status that it is refused with.
    #[must_use]
    pub const fn status(&self) -> u16 {
        match self {
            Self::MethodRefused => 405,
            _ => 400,
        }
    }
}

impl fmt::Display for Ambiguity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.what())
    }
}

impl std::error::Error for Ambiguity {}

/// Reads a request in the one way that there is, or says why there are several.
///
/// # Errors
/// The first [`Ambiguity`] found.
pub fn canonical<B>(request: &Request<B>, rules: PathRules) -> Result<Canonical, Ambiguity> {
    check_method(request.method())?;
    check_length(request.headers())?;
    let (host, port) = host_of(request)?;
    let uri = request.uri();
    // Authority form (`host:443`) has no path at all; `*` is a path that doesn't begin with a slash.
    if uri.path().is_empty() || uri.path() == "*" {
        return Err(Ambiguity::TargetForm);
    }
    let path = canonical_path(uri.path(), rules)?;
    let query = match uri.query() {
        None => None,
        Some(query) => {
            check_query(query)?;
            Some(query.to_owned())
        }
    };
    let upgrade = upgrade_of(request)?;
    Ok(Canonical { method: request.method().clone(), host, port, path, query, upgrade, proof: () })
}

/// The host and port that a request asks for; usable before the service, and so its rules, are known.
///
/// # Errors
/// No host, several, one that isn't a host, or two that differ.
pub fn host_of<B>(request: &Request<B>) -> Result<(String, Option<u16>), Ambiguity> {
    let uri = request.uri();
    if uri.scheme().is_some_and(|scheme| scheme != "http" && scheme != "https") {
        return Err(Ambiguity::TargetForm);
    }
    let mut fields = request.headers().get_all(header::HOST).iter();
    let field = fields.next();
    if fields.next().is_some() {
        return Err(Ambiguity::HostRepeated);
    }
    let field = field.map(|value| parse_host(value.as_bytes())).transpose()?;
    let target = uri.authority().map(|authority| parse_host(authority.as_str().as_bytes())).transpose()?;
    match (field, target) {
        (None, None) => Err(Ambiguity::HostMissing),
        // HTTP/1.1 needs the field even beside an absolute-form target (RFC 9112 §3.2).
        (None, Some(_)) if request.version() == Version::HTTP_11 => Err(Ambiguity::HostMissing),
        (Some(host), None) | (None, Some(host)) => Ok(host),
        (Some(field), Some(target)) if field == target => Ok(target),
        (Some(_), Some(_)) => Err(Ambiguity::HostDisagrees),
    }
}

/// Reads `host` or `host:port`: the host in lower case without trailing dot, IPv6 in brackets in
/// the form of RFC 5952.
///
/// # Errors
/// Anything else, user information included.
pub fn parse_host(text: &[u8]) -> Result<(String, Option<u16>), Ambiguity> {
    let text = std::str::from_utf8(text).map_err(|_| Ambiguity::HostForm)?;
    if let Some(rest) = text.strip_prefix('[') {
        let (address, rest) = rest.split_once(']').ok_or(Ambiguity::HostForm)?;
        let address: Ipv6Addr = address.parse().map_err(|_| Ambiguity::HostForm)?;
        let port = match rest.strip_prefix(':') {
            Some(port) => Some(parse_port(port)?),
            None if rest.is_empty() => None,
            None => return Err(Ambiguity::HostForm),
        };
        return Ok((format!("[{address}]"), port));
    }
    let (name, port) = match text.split_once(':') {
        Some((name, port)) => (name, Some(parse_port(port)?)),
        None => (text, None),
    };
    let name = name.strip_suffix('.').unwrap_or(name);
    let well_formed = name.len() <= HOST_BYTES_MAX
        && name.split('.').all(|label| {
            !label.is_empty()
                && label.len() <= LABEL_BYTES_MAX
                && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_')
        });
    if well_formed { Ok((name.to_ascii_lowercase(), port)) } else { Err(Ambiguity::HostForm) }
}

fn parse_port(text: &str) -> Result<u16, Ambiguity> {
    let plain = !text.is_empty() && !text.starts_with('0') && text.bytes().all(|byte| byte.is_ascii_digit());
    if !plain {
        return Err(Ambiguity::PortForm);
    }
    text.parse().map_err(|_| Ambiguity::PortForm)
}

/// CONNECT would be a tunnel; TRACE and TRACK would show the client what we add for the upstream.
fn check_method(method: &Method) -> Result<(), Ambiguity> {
    let name = method.as_str();
    if matches!(name, "CONNECT" | "TRACE" | "TRACK") {
        return Err(Ambiguity::MethodRefused);
    }
    // Upstreams differ on whether `get` is GET.
    let plain = name.len() <= METHOD_BYTES_MAX
        && name.starts_with(|first: char| first.is_ascii_uppercase())
        && name.bytes().all(|byte| byte.is_ascii_uppercase() || byte.is_ascii_digit() || byte == b'-' || byte == b'_');
    if plain { Ok(()) } else { Err(Ambiguity::MethodForm) }
}

/// At most one length, and that as everybody reads it (RFC 9110 §8.6). Over HTTP/1.1 the guard has seen to
/// it before; over HTTP/2 the frames say where a body ends, and whatever stands in the field goes upstream.
fn check_length(headers: &HeaderMap) -> Result<(), Ambiguity> {
    let mut fields = headers.get_all(header::CONTENT_LENGTH).iter();
    let Some(field) = fields.next() else { return Ok(()) };
    let plain = plain_length(field.as_bytes()).is_some();
    if plain && fields.next().is_none() { Ok(()) } else { Err(Ambiguity::LengthForm) }
}

/// The normal form of a path, in one pass over its bytes and one over its segments.
///
/// # Errors
/// Anything that an upstream could take for another path than the one that is judged.
pub fn canonical_path(path: &str, rules: PathRules) -> Result<String, Ambiguity> {
    let mut bytes = path.bytes();
    if bytes.next() != Some(b'/') {
        return Err(Ambiguity::PathStart);
    }
    if path.bytes().all(is_plain) {
        check_segments(path)?;
        return Ok(path.to_owned());
    }
    let mut normal = String::with_capacity(path.len());
    normal.push('/');
    let mut encoded = false;
    while let Some(byte) = bytes.next() {
        match byte {
            _ if is_plain(byte) => normal.push(char::from(byte)),
            b'%' => {
                let value = match (bytes.next().and_then(hex_value), bytes.next().and_then(hex_value)) {
                    (Some(high), Some(low)) => high << 4 | low,
                    _ => return Err(Ambiguity::PathEncoding),
                };
                if is_unreserved(value) {
                    normal.push(char::from(value));
                } else {
                    check_encoded(value, rules)?;
                    encoded = true;
                    normal.push('%');
                    normal.push(upper_hex(value >> 4));
                    normal.push(upper_hex(value & 0x0f));
                }
            }
            b'\\' => return Err(Ambiguity::Backslash),
            b';' => return Err(Ambiguity::PathParameter),
            _ => return Err(Ambiguity::PathCharacter),
        }
    }
    check_segments(&normal)?;
    if encoded {
        check_decoded(&normal)?;
    }
    Ok(normal)
}

/// Whether an encoded byte may stay encoded in a path.
const fn check_encoded(value: u8, rules: PathRules) -> Result<(), Ambiguity> {
    match value {
        0x00..=0x1f | 0x7f => Err(Ambiguity::EncodedControl),
        b'/' if rules.encoded_slash => Ok(()),
        b'/' => Err(Ambiguity::EncodedSlash),
        b'\\' => Err(Ambiguity::Backslash),
        b'%' => Err(Ambiguity::DoubleEncoding),
        b';' => Err(Ambiguity::PathParameter),
        b'?' | b'#' => Err(Ambiguity::EncodedDelimiter),
        _ => Ok(()),
    }
}

/// Segments of a path in normal form, an encoded slash counted as a slash: an upstream may decode
/// it before it resolves dots. Only a plain slash may end the path.
fn check_segments(normal: &str) -> Result<(), Ambiguity> {
    let mut segments = normal.split('/').skip(1).peekable();
    while let Some(segment) = segments.next() {
        if segment.is_empty() {
            if segments.peek().is_some() {
                return Err(Ambiguity::EmptySegment);
            }
            return Ok(());
        }
        if segment.contains('%') {
            segment.split("%2F").try_for_each(check_segment)?;
        } else {
            check_segment(segment)?;
        }
    }
    Ok(())
}

fn check_segment(segment: &str) -> Result<(), Ambiguity> {
    match segment {
        "" => Err(Ambiguity::EmptySegment),
        "." | ".." => Err(Ambiguity::DotSegment),
        _ if segment.ends_with('.') || segment.ends_with("%20") || segment.starts_with("%20") => {
            Err(Ambiguity::TrimmedSegment)
        }
        _ => Ok(()),
    }
}

/// What the encodings of a path in normal form decode to: UTF-8 (so nothing overlong) without
/// characters that folding, best-fit mapping or the eye takes for others.
fn check_decoded(normal: &str) -> Result<(), Ambiguity> {
    let decoded: Vec<u8> = percent_encoding::percent_decode_str(normal).collect();
    let decoded = std::str::from_utf8(&decoded).map_err(|_| Ambiguity::PathNotUtf8)?;
    if decoded.chars().any(is_lookalike) { Err(Ambiguity::Lookalike) } else { Ok(()) }
}

/// Characters that Unicode compatibility folding or Windows best-fit mapping turns into ASCII that
/// means something in a path, and those that nobody can see.
fn is_lookalike(character: char) -> bool {
    if character.is_ascii() {
        return false;
    }
    character.is_control()
        || character.is_whitespace()
        || matches!(character,
            // Full-width forms of all of ASCII: dots and slashes, but letters of `admin` too.
            '\u{ff01}'..='\u{ff5e}'
            // Small and vertical forms, leaders and ellipses.
            | '\u{fe10}'..='\u{fe19}' | '\u{fe30}' | '\u{fe50}'..='\u{fe6b}' | '\u{2024}'..='\u{2026}'
            // Slashes and backslashes.
            | '\u{2044}' | '\u{2215}' | '\u{2216}' | '\u{29f5}' | '\u{29f8}' | '\u{29f9}'
            // Full stops of other scripts, numbers with a full stop, `a/c` and its kin, `;` of Greek,
            // and the currency signs that stand where Japanese and Korean code pages have `\`.
            | '\u{3002}' | '\u{ff61}' | '\u{2488}'..='\u{249b}' | '\u{2100}' | '\u{2101}' | '\u{2105}' | '\u{2106}'
            | '\u{037e}' | '\u{00a5}' | '\u{20a9}'
            // Invisible: soft hyphen, joiners, direction marks and overrides, byte order mark, tags.
            | '\u{00ad}' | '\u{034f}' | '\u{061c}' | '\u{115f}' | '\u{1160}' | '\u{17b4}' | '\u{17b5}'
            | '\u{180b}'..='\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2060}'..='\u{206f}'
            | '\u{3164}' | '\u{fe00}'..='\u{fe0f}' | '\u{feff}' | '\u{ffa0}' | '\u{fff0}'..='\u{fffd}'
            | '\u{e0000}'..='\u{e0fff}')
}

/// What a path may have unencoded: pchar of RFC 3986 without `;`, and the slash.
const fn is_plain(byte: u8) -> bool {
    is_unreserved(byte)
        || matches!(byte, b'/' | b'!' | b'$' | b'&' | b'\'' | b'(' | b')' | b'*' | b'+' | b',' | b'=' | b':' | b'@')
}

const fn is_unreserved(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~')
}

const fn hex_value(digit: u8) -> Option<u8> {
    match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        b'A'..=b'F' => Some(digit - b'A' + 10),
        _ => None,
    }
}

const fn upper_hex(nibble: u8) -> char {
    match nibble {
        0..=9 => (b'0' + nibble) as char,
        _ => (b'A' + nibble - 10) as char,
    }
}

/// The query goes on as it came, so it must be one that every program ends at the same place.
fn check_query(query: &str) -> Result<(), Ambiguity> {
    if query.bytes().all(|byte| (0x21..=0x7e).contains(&byte) && byte != b'#') {
        Ok(())
    } else {
        Err(Ambiguity::QueryCharacter)
    }
}

/// The protocol change that a request asks for. A handshake that is nearly one is refused: a
/// gateway that takes it for a tunnel while the upstream doesn't lets the next request pass unseen.
fn upgrade_of<B>(request: &Request<B>) -> Result<Option<Upgrade>, Ambiguity> {
    let headers = request.headers();
    let mut fields = headers.get_all(header::UPGRADE).iter();
    let Some(field) = fields.next() else {
        return Ok(None);
    };
    let protocol = field.to_str().map_err(|_| Ambiguity::UpgradeForm)?;
    let single = fields.next().is_none() && !protocol.is_empty() && !protocol.contains(',');
    let has_body = headers.contains_key(header::TRANSFER_ENCODING)
        || headers.get(header::CONTENT_LENGTH).is_some_and(|length| length != "0");
    if !single || has_body || request.version() != Version::HTTP_11 || !connection_names(headers, "upgrade") {
        return Err(Ambiguity::UpgradeForm);
    }
    if !protocol.eq_ignore_ascii_case("websocket") {
        // HTTP/2 is chosen in the handshake; h2c inside TLS exists only to smuggle.
        if protocol.get(..3).is_some_and(|start| start.eq_ignore_ascii_case("h2c")) {
            return Err(Ambiguity::UpgradeForm);
        }
        return Ok(Some(Upgrade::Other(protocol.to_owned())));
    }
    let version = only(headers, "sec-websocket-version");
    let key = only(headers, "sec-websocket-key")
        .and_then(|key| data_encoding::BASE64.decode(key).ok())
        .is_some_and(|key| key.len() == 16);
    if request.method() == Method::GET && version == Some(b"13") && key {
        Ok(Some(Upgrade::WebSocket))
    } else {
        Err(Ambiguity::UpgradeForm)
    }
}

/// The value of a field that is there exactly once.
fn only<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a [u8]> {
    let mut values = headers.get_all(name).iter();
    let value = values.next()?;
    values.next().is_none().then(|| value.as_bytes())
}

/// Whether `Connection` has that option.
fn connection_names(headers: &HeaderMap, option: &str) -> bool {
    headers.get_all(header::CONNECTION).iter().any(|value| {
        value
            .as_bytes()
            .split(|byte| *byte == b',')
            .any(|name| name.trim_ascii().eq_ignore_ascii_case(option.as_bytes()))
    })
}
