//! The challenge of the emergency path: what custodians read and sign, and what travels with it.
//!
//! INVARIANT: a challenge has exactly one text. [`Challenge::parse`] takes only what
//! [`Challenge::text`] writes, so nobody signs one thing and is held to another.

use std::fmt;

use data_encoding::HEXLOWER;

use super::id::BreakGlassId;
use super::service::ServiceName;
use super::text::{REASON_CHARS_MAX, misleads, shows_nothing};
use super::time::{Timestamp, Ttl};

/// What custodians sign a challenge under (`ssh-keygen -Y sign -n`).
pub const SIGN_NAMESPACE: &str = "doorward-breakglass";
/// The longest that any opening lasts, whatever a configuration says.
pub const DURATION_MAX: Ttl = Ttl::hours(1);
/// The longest challenge in bytes.
pub const CHALLENGE_BYTES_MAX: usize = 8192;
/// The longest signature in bytes, armour included.
pub const SIGNATURE_BYTES_MAX: usize = 4096;
/// The most signatures that are looked at.
pub const SIGNATURES_MAX: usize = 16;
/// The most services that one challenge names.
const SERVICES_MAX: usize = 64;
/// The longest name of an opener, in characters.
const NAME_CHARS_MAX: usize = 100;

/// The scope of a drill; no service can be called so.
const DRILL: &str = "nothing (a drill)";
const TITLE: &str = "Doorward break-glass challenge, version 1";
const ADVICE: &str = "Sign only if you know who asks and why. Enough signatures open the door.";

/// What an opening is good for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Scope {
    /// Every service.
    All,
    /// These, at least one, sorted.
    Services(Vec<ServiceName>),
    /// None: a drill walks the whole path and opens nothing.
    Drill,
}

impl Scope {
    /// Whether this service is within.
    #[must_use]
    pub fn holds(&self, service: &ServiceName) -> bool {
        match self {
            Self::All => true,
            Self::Services(names) => names.contains(service),
            Self::Drill => false,
        }
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::All => f.write_str("all services"),
            Self::Drill => f.write_str(DRILL),
            Self::Services(names) => {
                let names: Vec<&str> = names.iter().map(ServiceName::as_str).collect();
                f.write_str(&names.join(", "))
            }
        }
    }
}

/// What is asked of the custodians.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Challenge {
    /// Its id, which is the opening's.
    pub id: BreakGlassId,
    /// Who asks.
    pub opener: String,
    /// What for.
    pub scope: Scope,
    /// Why.
    pub reason: String,
    /// From when on.
    pub not_before: Timestamp,
    /// Until when.
    pub expires: Timestamp,
    /// Which installation: its domain.
    pub trust_domain: String,
    /// SHA-256 of the file of custodians that the opener knows.
    pub custodians: [u8; 32],
    /// How many of them must sign.
    pub threshold: u32,
    /// SHA-256 of the client key's SubjectPublicKeyInfo.
    pub client_key: [u8; 32],
    /// Chance.
    pub nonce: [u8; 32],
}

/// Why a text is no challenge.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ChallengeError {
    /// It is too long, or no UTF-8.
    Unreadable,
    /// A line is not what stands there in a challenge.
    Line { number: usize, expected: &'static str },
    /// It is not in the one form that a challenge has.
    Form,
    /// It ends before it begins, or lasts more than an hour.
    Times,
}

impl fmt::Display for ChallengeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unreadable => write!(f, "the challenge is longer than {CHALLENGE_BYTES_MAX} bytes or no UTF-8"),
            Self::Line { number, expected } => write!(f, "line {number} of the challenge is not {expected}"),
            Self::Form => f.write_str("the challenge was changed: it is not in the form that `open` writes"),
            Self::Times => f.write_str("the challenge ends before it begins, or lasts more than 1h"),
        }
    }
}

impl std::error::Error for ChallengeError {}

/// One line of which every character is seen: what custodians read is what is compared.
fn plain(text: &str, chars_max: usize) -> bool {
    !text.is_empty()
        && text.trim() == text
        && text.chars().count() <= chars_max
        && !text.chars().any(|c| misleads(c) || shows_nothing(c))
}

/// Whether two names are one: people don't tell them apart by capital letters. This only ever refuses.
#[must_use]
pub fn is_same_name(one: &str, other: &str) -> bool {
    one == other || one.to_lowercase() == other.to_lowercase()
}

impl Challenge {
    /// Whether opener and reason can stand in a challenge: one line of plain text each.
    #[must_use]
    pub fn is_plain(&self) -> bool {
        plain(&self.opener, NAME_CHARS_MAX) && plain(&self.reason, REASON_CHARS_MAX)
    }

    /// The text that custodians read and sign.
    #[must_use]
    pub fn text(&self) -> String {
        format!(
            "{TITLE}\n{ADVICE}\nid: {}\nopener: {}\nscope: {}\nreason: {}\nnot before: {}\nexpires: {}\n\
             trust domain: {}\ncustodians sha256: {}\nthreshold: {}\nclient key sha256: {}\nnonce: {}\n",
            self.id,
            self.opener,
            self.scope,
            self.reason,
            self.not_before,
            self.expires,
            self.trust_domain,
            HEXLOWER.encode(&self.custodians),
            self.threshold,
            HEXLOWER.encode(&self.client_key),
            HEXLOWER.encode(&self.nonce),
        )
    }

    /// Reads a challenge in its one form.
    ///
    /// # Errors
    /// When anything is not as [`Challenge::text`] writes it.
    pub fn parse(bytes: &[u8]) -> Result<Self, ChallengeError> {
        let text = std::str::from_utf8(bytes).map_err(|_| ChallengeError::Unreadable)?;
        if bytes.len() > CHALLENGE_BYTES_MAX {
            return Err(ChallengeError::Unreadable);
        }
        let mut lines = Lines { lines: text.split('\n'), number: 0 };
        lines.exact(TITLE, "the title")?;
        lines.exact(ADVICE, "the advice")?;
        let challenge = Self {
            id: lines.read("id: ", |text| BreakGlassId::parse(text).ok())?,
            opener: lines.read("opener: ", |text| plain(text, NAME_CHARS_MAX).then(|| text.to_owned()))?,
            scope: lines.read("scope: ", scope)?,
            reason: lines.read("reason: ", |text| plain(text, REASON_CHARS_MAX).then(|| text.to_owned()))?,
            not_before: lines.read("not before: ", Timestamp::parse)?,
            expires: lines.read("expires: ", Timestamp::parse)?,
            trust_domain: lines.read("trust domain: ", |text| plain(text, 253).then(|| text.to_owned()))?,
            custodians: lines.read("custodians sha256: ", digest)?,
            threshold: lines.read("threshold: ", |text| text.parse().ok())?,
            client_key: lines.read("client key sha256: ", digest)?,
            nonce: lines.read("nonce: ", digest)?,
        };
        if challenge.text() != text {
            return Err(ChallengeError::Form);
        }
        let length = challenge.expires.since(challenge.not_before);
        if length <= Ttl::ZERO || length > DURATION_MAX {
            return Err(ChallengeError::Times);
        }
        Ok(challenge)
    }
}

fn digest(text: &str) -> Option<[u8; 32]> {
    HEXLOWER.decode(text.as_bytes()).ok()?.try_into().ok()
}

fn scope(text: &str) -> Option<Scope> {
    if text == "all services" {
        return Some(Scope::All);
    }
    if text == DRILL {
        return Some(Scope::Drill);
    }
    let names: Vec<ServiceName> = text.split(", ").map(|name| ServiceName::parse(name).ok()).collect::<Option<_>>()?;
    let sorted = names.iter().zip(names.iter().skip(1)).all(|(one, next)| one.as_str() < next.as_str());
    (sorted && names.len() <= SERVICES_MAX).then_some(Scope::Services(names))
}

struct Lines<'a> {
    lines: std::str::Split<'a, char>,
    number: usize,
}

impl Lines<'_> {
    fn exact(&mut self, wanted: &str, expected: &'static str) -> Result<(), ChallengeError> {
        self.number += 1;
        let wrong = ChallengeError::Line { number: self.number, expected };
        if self.lines.next() == Some(wanted) { Ok(()) } else { Err(wrong) }
    }

    fn read<T>(&mut self, key: &'static str, parse: impl FnOnce(&str) -> Option<T>) -> Result<T, ChallengeError> {
        self.number += 1;
        let wrong = ChallengeError::Line { number: self.number, expected: key };
        self.lines.next().and_then(|line| line.strip_prefix(key)).and_then(parse).ok_or(wrong)
    }
}

/// Challenge and signatures as they stand in the certificate's extension.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Evidence {
    /// The challenge's text.
    pub challenge: Vec<u8>,
    /// SSHSIG signatures in PEM armour.
    pub signatures: Vec<Vec<u8>>,
}

const OCTET_STRING: u8 = 0x04;
const SEQUENCE: u8 = 0x30;

impl Evidence {
    /// DER: `SEQUENCE { challenge OCTET STRING, signatures SEQUENCE OF OCTET STRING }`.
    #[must_use]
    pub fn to_der(&self) -> Vec<u8> {
        let signatures: Vec<u8> = self.signatures.iter().flat_map(|one| wrapped(OCTET_STRING, one)).collect();
        let mut inner = wrapped(OCTET_STRING, &self.challenge);
        inner.extend(wrapped(SEQUENCE, &signatures));
        wrapped(SEQUENCE, &inner)
    }

    /// Reads what [`Evidence::to_der`] wrote, within the bounds of size and number.
    #[must_use]
    pub fn from_der(der: &[u8]) -> Option<Self> {
        let bytes_max = CHALLENGE_BYTES_MAX + SIGNATURES_MAX * (SIGNATURE_BYTES_MAX + 4) + 16;
        if der.len() > bytes_max {
            return None;
        }
        let (inner, rest) = unwrapped(SEQUENCE, der)?;
        let (challenge, list) = unwrapped(OCTET_STRING, inner)?;
        let (mut list, end) = unwrapped(SEQUENCE, list)?;
        if !rest.is_empty() || !end.is_empty() || challenge.len() > CHALLENGE_BYTES_MAX {
            return None;
        }
        let mut signatures = Vec::new();
        while !list.is_empty() {
            let (one, rest) = unwrapped(OCTET_STRING, list)?;
            if one.len() > SIGNATURE_BYTES_MAX || signatures.len() == SIGNATURES_MAX {
                return None;
            }
            signatures.push(one.to_vec());
            list = rest;
        }
        let evidence = Self { challenge: challenge.to_vec(), signatures };
        // One form only: a length written the long way is not ours.
        (evidence.to_der() == der).then_some(evidence)
    }
}

fn wrapped(tag: u8, content: &[u8]) -> Vec<u8> {
    let mut out = vec![tag];
    match content.len() {
        short @ 0..=0x7f => out.push(u8::try_from(short).unwrap_or_default()),
        long => {
            let bytes = long.to_be_bytes();
            let significant: Vec<u8> = bytes.into_iter().skip_while(|byte| *byte == 0).collect();
            out.push(0x80 | u8::try_from(significant.len()).unwrap_or_default());
            out.extend(significant);
        }
    }
    out.extend_from_slice(content);
    out
}

fn unwrapped(tag: u8, der: &[u8]) -> Option<(&[u8], &[u8])> {
    let (found, rest) = der.split_first()?;
    let (first, rest) = rest.split_first()?;
    let (length, rest) = match usize::from(*first) {
        short @ 0..=0x7f => (short, rest),
        long => {
            let count = long & 0x7f;
            let (bytes, rest) = rest.split_at_checked(count)?;
            let fits = (1..=4).contains(&count);
            (fits.then(|| bytes.iter().fold(0usize, |sum, byte| (sum << 8) | usize::from(*byte)))?, rest)
        }
    };
    if *found == tag { rest.split_at_checked(length) } else { None }
}
