//! Whether a closing is signed by somebody who may close: any one custodian, or the client key of the
//! opening itself, which then comes with what opened it.

use std::fmt;

use p256::pkcs8::EncodePublicKey;
use sha2::{Digest, Sha256};
use ssh_key::public::{EcdsaPublicKey, KeyData};
use ssh_key::{PublicKey, SshSig};

use crate::model::breakglass::{Challenge, DURATION_MAX, Evidence, SIGNATURE_BYTES_MAX};
use crate::model::closing::{CLOSE_NAMESPACE, Closing};
use crate::model::{BreakGlassId, Timestamp, Ttl};

use super::quorum::{OpeningRules, QuorumError, SignatureFault};

/// How far the clock of who closes, or of who opened, may be off.
const SKEW_MAX: Ttl = Ttl::minutes(5);

/// Who closed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ClosedBy {
    /// Whoever holds the opening's client key.
    Client,
    /// A custodian.
    Custodian(String),
}

impl fmt::Display for ClosedBy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Client => f.write_str("the client key"),
            Self::Custodian(name) => write!(f, "custodian {name}"),
        }
    }
}

/// A closing that somebody signed who may. Only [`OpeningRules::closes`] makes one.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(clippy::manual_non_exhaustive, reason = "the field is the proof: only this file can make one")]
pub struct Closed {
    /// What was signed.
    pub closing: Closing,
    /// By whom.
    pub by: ClosedBy,
    _proof: (),
}

/// Why nothing is closed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ClosingError {
    /// The statement is none.
    Unreadable,
    /// It is for another installation.
    TrustDomain { theirs: String, ours: String },
    /// It was not said just now; the clocks may disagree.
    Time { said: Timestamp, now: Timestamp },
    /// No opening of that id can be open now.
    NothingOpen { made_at: Timestamp, now: Timestamp },
    /// Its signature does not hold.
    Signature(SignatureFault),
    /// The opening ran out.
    Over { expires: Timestamp, now: Timestamp },
    /// It is signed by a client key, and what came with it does not show that this key opened.
    NotItsClient(String),
}

impl fmt::Display for ClosingError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unreadable => f.write_str("the statement is not in the form that `breakglass close` writes"),
            Self::TrustDomain { theirs, ours } => {
                write!(f, "the statement is for the installation `{}`, this one is `{ours}`", theirs.escape_debug())
            }
            Self::Time { said, now } => write!(
                f,
                "the statement is of {said} and it is {now} here: a closing is good for {SKEW_MAX}; close again, and if that time is right where it was made, one of the clocks is off"
            ),
            Self::NothingOpen { made_at, now } => write!(
                f,
                "the opening's id is of {made_at} and it is {now} here: an opening lasts for {DURATION_MAX} at most, so there is nothing to close"
            ),
            Self::Over { expires, now } => {
                write!(f, "the opening ran out at {expires} and it is {now} here: there is nothing to close")
            }
            Self::Signature(fault) => write!(f, "the signature {fault}"),
            Self::NotItsClient(why) => {
                write!(f, "the statement is signed by a key that is no custodian's and did not open this: {why}")
            }
        }
    }
}

impl std::error::Error for ClosingError {}

impl OpeningRules {
    /// Judges a closing and its signature at `now`. A client key closes only what its own evidence
    /// shows to be open. `opened` says whether this node let a challenge of that id and SHA-256 through: then
    /// the custodians were counted, and to end it they need not be those of now.
    ///
    /// # Errors
    /// The first thing that is wrong.
    pub fn closes(
        &self,
        statement: &[u8],
        signature: &[u8],
        evidence: Option<&Evidence>,
        opened: impl Fn(BreakGlassId, &[u8; 32]) -> bool,
        now: Timestamp,
    ) -> Result<Closed, ClosingError> {
        let closing = Closing::parse(statement).ok_or(ClosingError::Unreadable)?;
        if closing.trust_domain != self.trust_domain {
            let theirs = closing.trust_domain.chars().take(253).collect();
            return Err(ClosingError::TrustDomain { theirs, ours: self.trust_domain.clone() });
        }
        // A closing is kept and put on record whether its opening was seen here or not. What it says of
        // times is one person's word, and can't be left to fill the record or its future with others.
        if closing.time > now.plus(SKEW_MAX) || now > closing.time.plus(SKEW_MAX) {
            return Err(ClosingError::Time { said: closing.time, now });
        }
        let made_at = closing.id.made_at();
        if made_at > now.plus(SKEW_MAX) || now > made_at.plus(DURATION_MAX).plus(SKEW_MAX) {
            return Err(ClosingError::NothingOpen { made_at, now });
        }
        let by = match self.signer(CLOSE_NAMESPACE, statement, signature, now) {
            Ok(custodian) => ClosedBy::Custodian(custodian.name().to_owned()),
            Err(SignatureFault::NotACustodian(_)) if evidence.is_some() => {
                self.client(&closing, statement, signature, evidence, opened, now)?;
                ClosedBy::Client
            }
            Err(fault) => return Err(ClosingError::Signature(fault)),
        };
        Ok(Closed { closing, by, _proof: () })
    }

    fn client(
        &self,
        closing: &Closing,
        statement: &[u8],
        signature: &[u8],
        evidence: Option<&Evidence>,
        opened: impl Fn(BreakGlassId, &[u8; 32]) -> bool,
        now: Timestamp,
    ) -> Result<(), ClosingError> {
        let not_its = |why: &str| ClosingError::NotItsClient(why.to_owned());
        let evidence = evidence.ok_or_else(|| not_its("what opened it did not come along"))?;
        if signature.len() > SIGNATURE_BYTES_MAX {
            return Err(ClosingError::Signature(SignatureFault::Unreadable));
        }
        let signature = SshSig::from_pem(signature).map_err(|_| ClosingError::Signature(SignatureFault::Unreadable))?;
        let print = fingerprint(signature.public_key()).ok_or_else(|| not_its("client keys are P-256"))?;
        let judged_before = opened(closing.id, &Sha256::digest(&evidence.challenge).into());
        let challenge = if judged_before {
            Challenge::parse(&evidence.challenge).map_err(|error| not_its(&error.to_string()))?
        } else {
            let judged = self.open(&print, evidence, now).map_err(|error| match error {
                QuorumError::Over { expires, now } => ClosingError::Over { expires, now },
                other => not_its(&other.to_string()),
            });
            judged?.challenge
        };
        if challenge.expires.is_over(now) {
            return Err(ClosingError::Over { expires: challenge.expires, now });
        }
        if challenge.client_key != print {
            return Err(not_its("the challenge is bound to another client key"));
        }
        if challenge.id != closing.id {
            return Err(not_its("it opened something else"));
        }
        PublicKey::from(signature.public_key().clone())
            .verify(CLOSE_NAMESPACE, statement, &signature)
            .map_err(|_| not_its("the signature is for another statement"))
    }
}

/// SHA-256 of the SubjectPublicKeyInfo of a P-256 key, as a challenge names it.
fn fingerprint(key: &KeyData) -> Option<[u8; 32]> {
    let KeyData::Ecdsa(EcdsaPublicKey::NistP256(point)) = key else { return None };
    let key = p256::PublicKey::from_sec1_bytes(point.as_bytes()).ok()?;
    Some(Sha256::digest(key.to_public_key_der().ok()?.as_bytes()).into())
}
