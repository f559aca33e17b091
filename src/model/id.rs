//! Identifiers: a prefix and a UUIDv7 in lower-case base32hex (RFC 4648 §7) without padding,
//! so that they sort by the time at which they were made (RFC 9562 §5.7).
//!
//! INVARIANT: a value of these types has been parsed or made here; its text form is canonical,
//! so two ids are equal exactly when their texts are.

use std::fmt;

use data_encoding::BASE32HEX_NOPAD;
use uuid::Builder;

use super::entropy::Entropy;
use super::time::Timestamp;

/// Characters of an id after its prefix: 16 bytes in base32 without padding.
const TAIL_LENGTH: usize = 26;

/// Why a text is not an id of the kind that was asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum IdError {
    /// The text does not start with the prefix of this kind.
    Prefix { expected: &'static str },
    /// What follows the prefix is not 26 lower-case base32hex characters of a UUID.
    Tail { expected: &'static str },
}

impl fmt::Display for IdError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Prefix { expected } => {
                write!(f, "an id that starts with `{expected}` is needed here")
            }
            Self::Tail { expected } => {
                write!(
                    f,
                    "this is not a whole id: `{expected}` and {TAIL_LENGTH} characters of `0-9a-v`; copy it again"
                )
            }
        }
    }
}

impl std::error::Error for IdError {}

/// Writes an id without allocating: every request writes several.
fn write(f: &mut fmt::Formatter<'_>, prefix: &str, bytes: &[u8; 16]) -> fmt::Result {
    let mut tail = [0u8; TAIL_LENGTH];
    BASE32HEX_NOPAD.encode_mut(bytes, &mut tail);
    tail.make_ascii_lowercase();
    f.write_str(prefix)?;
    f.write_str(str::from_utf8(&tail).map_err(|_| fmt::Error)?)
}

fn decode(prefix: &'static str, text: &str) -> Result<[u8; 16], IdError> {
    let tail = text.strip_prefix(prefix).ok_or(IdError::Prefix { expected: prefix })?;
    let malformed = IdError::Tail { expected: prefix };
    if tail.len() != TAIL_LENGTH || tail.bytes().any(|b| b.is_ascii_uppercase()) {
        return Err(malformed);
    }
    let bytes = BASE32HEX_NOPAD.decode(tail.to_ascii_uppercase().as_bytes()).map_err(|_| malformed.clone())?;
    bytes.try_into().map_err(|_| malformed)
}

/// The sixteen bytes of a UUIDv7 made at `now` with 74 random bits.
fn fresh(now: Timestamp, entropy: &dyn Entropy) -> [u8; 16] {
    let mut random = [0u8; 10];
    entropy.fill(&mut random);
    let millis = u64::try_from(now.millis()).unwrap_or(0);
    Builder::from_unix_timestamp_millis(millis, &random).into_uuid().into_bytes()
}

macro_rules! ids {
    ($($(#[$doc:meta])* $name:ident = $prefix:literal;)*) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name([u8; 16]);

        impl $name {
            /// What every id of this kind starts with.
            pub const PREFIX: &'static str = $prefix;

            /// A new id, sorted after all that were made in an earlier millisecond.
            #[must_use]
            pub fn fresh(now: Timestamp, entropy: &dyn Entropy) -> Self {
                Self(fresh(now, entropy))
            }

            /// Reads the canonical text form.
            ///
            /// # Errors
            /// When prefix, length or alphabet are not those of this kind of id.
            pub fn parse(text: &str) -> Result<Self, IdError> {
                decode($prefix, text).map(Self)
            }

            /// When it was made, as it says itself (RFC 9562 §5.7).
            #[must_use]
            pub fn made_at(&self) -> Timestamp {
                let millis = self.0.iter().take(6).fold(0, |millis, byte| millis << 8 | i64::from(*byte));
                Timestamp::from_millis(millis)
            }

            /// The same with another time.
            #[must_use]
            pub fn at(self, time: Timestamp) -> Self {
                let mut bytes = self.0;
                let millis = u64::try_from(time.millis()).unwrap_or(0).to_be_bytes();
                bytes.iter_mut().zip(millis.iter().skip(2)).for_each(|(byte, new)| *byte = *new);
                Self(bytes)
            }

            /// The sixteen bytes of the UUID.
            #[must_use]
            pub const fn bytes(&self) -> &[u8; 16] {
                &self.0
            }

            /// The id with these sixteen bytes.
            #[must_use]
            pub const fn from_bytes(bytes: [u8; 16]) -> Self {
                Self(bytes)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write(f, $prefix, &self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write(f, $prefix, &self.0)
            }
        }

        impl std::str::FromStr for $name {
            type Err = IdError;
            fn from_str(text: &str) -> Result<Self, IdError> {
                Self::parse(text)
            }
        }
    )*};
}

ids! {
    /// One sign-in of one user on one device.
    SessionId = "ses_";
    /// One answer of the policy engine to one request.
    DecisionId = "dec_";
    /// One entry of the record. A decision and its event share their sixteen bytes.
    EventId = "evt_";
    /// A principal asking for an entitlement.
    RequestId = "req_";
    /// An approved entitlement in time.
    GrantId = "grt_";
    /// A certificate or token that we issued.
    CredentialId = "crd_";
    /// Our duty to withdraw a credential.
    LeaseId = "lea_";
    /// A bar on a principal.
    LockId = "lck_";
    /// One opening of the emergency path.
    BreakGlassId = "brk_";
    /// A review of who may do what at a service.
    ReviewId = "rev_";
    /// A signing key of the installation.
    KeyId = "key_";
    /// A sign-in under way.
    FlowId = "flw_";
    /// One node of an installation.
    NodeId = "nod_";
    /// One erasure of a person from the record.
    ErasureId = "ers_";
    /// The pseudonym of a principal in the record.
    UserRef = "usr_";
}
