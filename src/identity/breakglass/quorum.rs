//! Whether enough custodians signed a challenge, and exactly why not (PROTOCOL.sshsig).
//!
//! INVARIANTS: M different custodians by name and by key, and the opener is none of them; one
//! signature that does not hold refuses all. Everything cheap is asked before any signature is
//! checked.

use std::fmt;

use sha2::{Digest, Sha256};
use ssh_key::{Algorithm, HashAlg, SshSig};

use crate::model::breakglass::{
    Challenge, ChallengeError, Evidence, SIGN_NAMESPACE, SIGNATURE_BYTES_MAX, SIGNATURES_MAX,
};
use crate::model::{Timestamp, Ttl};

use super::custodians::Custodians;

/// User presence, the lowest bit of an `sk-` signature's flags (PROTOCOL.u2f).
const USER_PRESENT: u8 = 0x01;

/// What a node goes by: its configuration.
#[derive(Debug, Clone)]
pub struct OpeningRules {
    /// Who may sign.
    pub custodians: Custodians,
    /// How many must.
    pub threshold: u32,
    /// How long an opening may last.
    pub duration_max: Ttl,
    /// The installation's domain.
    pub trust_domain: String,
}

/// A challenge that enough custodians signed. Only [`OpeningRules::open`] makes one.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(clippy::manual_non_exhaustive, reason = "the field is the proof: only this file can make one")]
pub struct Opening {
    /// What they signed.
    pub challenge: Challenge,
    /// SHA-256 of its text: what one opening is told from another by, since its id is the opener's own word.
    pub sha256: [u8; 32],
    /// Who they are: the custodians that count.
    pub custodians: Vec<String>,
    /// The keys that they signed with, `name SHA256:…` each: a file of custodians can change after it.
    pub keys: Vec<String>,
    /// Whether the opener signed as the custodian of that name.
    pub opener_proven: bool,
    _proof: (),
}

/// What is wrong with one signature.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SignatureFault {
    /// It is over-long or no SSHSIG.
    Unreadable,
    /// It was made for something else.
    Namespace { theirs: String, ours: &'static str },
    /// Its key is not in the file.
    NotACustodian(String),
    /// It does not hold for this challenge.
    OtherChallenge(String),
    /// The custodian signed before.
    Repeated(String),
    /// The key is not good yet.
    KeyNotYet(String),
    /// The key is not good any more.
    KeyOver(String),
    /// Nobody touched the hardware key.
    NoPresence(String),
}

impl fmt::Display for SignatureFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unreadable => f.write_str("can't be read; make it with `ssh-keygen -Y sign` or `breakglass sign`"),
            Self::Namespace { theirs, ours } => {
                write!(f, "has the namespace `{}`, not `{ours}`", theirs.escape_debug())
            }
            Self::NotACustodian(key) => write!(f, "is of the key {key}, which no custodian of the file has"),
            Self::OtherChallenge(name) => {
                write!(f, "of `{name}` is for another text, or the text was changed after it")
            }
            Self::Repeated(name) => write!(f, "is a second one of `{name}`: each custodian counts once"),
            Self::KeyNotYet(name) => write!(f, "is of a key of `{name}` that is not valid yet"),
            Self::KeyOver(name) => write!(f, "is of a key of `{name}` that is not valid any more"),
            Self::NoPresence(name) => write!(f, "of `{name}` was made without a touch of the hardware key"),
        }
    }
}

/// Why nothing is opened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum QuorumError {
    /// The challenge is none.
    Challenge(ChallengeError),
    /// It is for another installation.
    TrustDomain { theirs: String, ours: String },
    /// It goes by another file of custodians.
    OtherCustodians,
    /// It goes by another threshold.
    Threshold { theirs: u32, ours: u32 },
    /// It lasts longer than this installation allows.
    TooLong { max: Ttl },
    /// Its id was not made when it begins.
    Id { made_at: Timestamp, not_before: Timestamp },
    /// It has not begun; the clocks may disagree.
    NotYet { not_before: Timestamp, now: Timestamp },
    /// It is over; the clocks may disagree.
    Over { expires: Timestamp, now: Timestamp },
    /// It is bound to another client key.
    OtherKey,
    /// There are more than are looked at.
    TooMany,
    /// One signature, counted from 1, does not hold.
    Signature { number: usize, fault: SignatureFault },
    /// Too few custodians signed.
    TooFew { counted: Vec<String>, needed: u32, opener: Option<String> },
}

impl fmt::Display for QuorumError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Challenge(error) => error.fmt(f),
            Self::TrustDomain { theirs, ours } => {
                write!(f, "the challenge is for the installation `{}`, this one is `{ours}`", theirs.escape_debug())
            }
            Self::OtherCustodians => f.write_str(
                "the challenge was made for another file of custodians than the one in force here; make a new one",
            ),
            Self::Threshold { theirs, ours } => {
                write!(f, "the challenge says that {theirs} must sign, this installation {ours}; make a new one")
            }
            Self::TooLong { max } => write!(f, "the challenge lasts longer than the {max} that is allowed here"),
            Self::Id { made_at, not_before } => write!(
                f,
                "the challenge begins at {not_before} and its id is of {made_at}: `breakglass open` makes both at once; make a new one"
            ),
            Self::NotYet { not_before, now } => write!(
                f,
                "the challenge begins at {not_before} and it is {now} here: nothing is signed in advance; if that time is right where it was made, one of the clocks is off"
            ),
            Self::Over { expires, now } => write!(
                f,
                "the challenge ended at {expires} and it is {now} here: make a new one; if it is not over where it was made, one of the clocks is off"
            ),
            Self::OtherKey => f.write_str("the challenge is bound to another client key"),
            Self::TooMany => write!(f, "there are more than {SIGNATURES_MAX} signatures"),
            Self::Signature { number, fault } => write!(f, "signature {number} {fault}"),
            Self::TooFew { counted, needed, opener } => {
                let who = if counted.is_empty() { "nobody".to_owned() } else { counted.join(", ") };
                write!(f, "{} of {needed} custodians have signed ({who})", counted.len())?;
                match opener {
                    Some(name) => write!(f, "; `{name}` opens and does not count"),
                    None => Ok(()),
                }
            }
        }
    }
}

impl std::error::Error for QuorumError {}

impl QuorumError {
    /// Whether it stays so whatever else is signed: another challenge is needed.
    #[must_use]
    pub const fn is_final(&self) -> bool {
        match self {
            Self::Challenge(_)
            | Self::TrustDomain { .. }
            | Self::OtherCustodians
            | Self::Threshold { .. }
            | Self::TooLong { .. }
            | Self::Id { .. }
            | Self::Over { .. }
            | Self::OtherKey => true,
            Self::NotYet { .. } | Self::TooMany | Self::Signature { .. } | Self::TooFew { .. } => false,
        }
    }
}

impl OpeningRules {
    /// Judges a challenge and its signatures at `now`, for the client key of this fingerprint.
    ///
    /// # Errors
    /// The first thing that is wrong.
    pub fn open(&self, client_key: &[u8; 32], evidence: &Evidence, now: Timestamp) -> Result<Opening, QuorumError> {
        if evidence.signatures.len() > SIGNATURES_MAX {
            return Err(QuorumError::TooMany);
        }
        let challenge = Challenge::parse(&evidence.challenge).map_err(QuorumError::Challenge)?;
        self.holds(&challenge, now)?;
        if challenge.client_key != *client_key {
            return Err(QuorumError::OtherKey);
        }
        // Whichever line has the name: who opens does not count with another key of theirs either.
        let opener = self.custodians.called(&challenge.opener);
        let (mut signed, mut keys): (Vec<&str>, Vec<String>) = (Vec::new(), Vec::new());
        for (index, signature) in evidence.signatures.iter().enumerate() {
            let fault = |fault| QuorumError::Signature { number: index + 1, fault };
            let custodian = self.signer(SIGN_NAMESPACE, &evidence.challenge, signature, now).map_err(fault)?;
            if signed.contains(&custodian.name()) {
                return Err(fault(SignatureFault::Repeated(custodian.name().to_owned())));
            }
            signed.push(custodian.name());
            keys.push(format!("{} {}", custodian.name(), custodian.key.fingerprint(HashAlg::Sha256)));
        }
        let opener = opener.filter(|name| signed.contains(name));
        let counted: Vec<String> =
            signed.iter().filter(|name| Some(**name) != opener).map(|name| (*name).to_owned()).collect();
        if counted.len() < usize::try_from(self.threshold.max(2)).unwrap_or(usize::MAX) {
            let opener = opener.map(str::to_owned);
            return Err(QuorumError::TooFew { counted, needed: self.threshold, opener });
        }
        let sha256 = Sha256::digest(&evidence.challenge).into();
        Ok(Opening { challenge, sha256, custodians: counted, keys, opener_proven: opener.is_some(), _proof: () })
    }

    /// Whether these rules are those of the challenge, and it is good at `now`: all that can change
    /// while a connection is open.
    ///
    /// # Errors
    /// What is not so.
    pub fn holds(&self, challenge: &Challenge, now: Timestamp) -> Result<(), QuorumError> {
        if challenge.trust_domain != self.trust_domain {
            let theirs = challenge.trust_domain.clone();
            return Err(QuorumError::TrustDomain { theirs, ours: self.trust_domain.clone() });
        }
        if challenge.custodians != *self.custodians.sha256() {
            return Err(QuorumError::OtherCustodians);
        }
        if challenge.threshold != self.threshold {
            return Err(QuorumError::Threshold { theirs: challenge.threshold, ours: self.threshold });
        }
        if challenge.expires.since(challenge.not_before) > self.duration_max {
            return Err(QuorumError::TooLong { max: self.duration_max });
        }
        // An id of another time could be one that the record, a review or a closing has already.
        let made_at = challenge.id.made_at();
        if made_at != challenge.not_before {
            return Err(QuorumError::Id { made_at, not_before: challenge.not_before });
        }
        if !challenge.not_before.is_over(now) {
            return Err(QuorumError::NotYet { not_before: challenge.not_before, now });
        }
        if challenge.expires.is_over(now) {
            return Err(QuorumError::Over { expires: challenge.expires, now });
        }
        Ok(())
    }

    /// The custodian who signed `text` under `namespace`.
    pub(super) fn signer(
        &self,
        namespace: &'static str,
        text: &[u8],
        signature: &[u8],
        now: Timestamp,
    ) -> Result<&super::custodians::CustodianKey, SignatureFault> {
        if signature.len() > SIGNATURE_BYTES_MAX {
            return Err(SignatureFault::Unreadable);
        }
        let signature = SshSig::from_pem(signature).map_err(|_| SignatureFault::Unreadable)?;
        if signature.namespace() != namespace {
            let theirs = signature.namespace().chars().take(80).collect();
            return Err(SignatureFault::Namespace { theirs, ours: namespace });
        }
        let custodian = self.custodians.of_key(signature.public_key()).ok_or_else(|| {
            SignatureFault::NotACustodian(signature.public_key().fingerprint(HashAlg::Sha256).to_string())
        })?;
        let name = || custodian.name().to_owned();
        if custodian.valid_after.is_some_and(|after| !after.is_over(now)) {
            return Err(SignatureFault::KeyNotYet(name()));
        }
        if custodian.valid_before.is_some_and(|before| before.is_over(now)) {
            return Err(SignatureFault::KeyOver(name()));
        }
        custodian.key.verify(namespace, text, &signature).map_err(|_| SignatureFault::OtherChallenge(name()))?;
        let hardware = matches!(custodian.key.algorithm(), Algorithm::SkEd25519 | Algorithm::SkEcdsaSha2NistP256);
        // Flags and counter are the last five bytes of what the hardware signed.
        let flags = signature.signature_bytes().iter().rev().nth(4).copied().unwrap_or_default();
        if hardware && flags & USER_PRESENT == 0 {
            return Err(SignatureFault::NoPresence(name()));
        }
        Ok(custodian)
    }
}
