//! Things that are kept in the database or on disk and must not be read there: AES-256-GCM
//! (NIST SP 800-38D) under the key-encryption key.
//!
//! INVARIANT: what was sealed for one purpose and place opens for no other: both are bound as
//! associated data, so who can write the database can't move a sealed value.
//! INVARIANT: a nonce is 96 random bits. A key may seal 2^32 times (§8.3); we seal a few times an
//! hour.

use std::fmt;

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use aws_lc_rs::hmac;

use crate::model::{Entropy, Secret};

/// The first byte of every sealed value: how it was sealed.
const VERSION: u8 = 1;
/// Bytes of the key-encryption key.
pub const KEY_BYTES: usize = 32;

/// Why something could not be sealed or opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SealError {
    /// The key-encryption key has another length.
    KeyLength { bytes: usize },
    /// The value was sealed under another key, for another purpose or place, or was altered.
    Closed { purpose: &'static str },
    /// The value could not be encrypted.
    Seal { purpose: &'static str },
}

impl fmt::Display for SealError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::KeyLength { bytes } => {
                write!(f, "the key-encryption key has {bytes} bytes, {KEY_BYTES} are needed; `doorward init` makes one")
            }
            Self::Closed { purpose } => write!(
                f,
                "a sealed `{purpose}` does not open under the key-encryption key: the key is another one, or the value was altered"
            ),
            Self::Seal { purpose } => write!(f, "a `{purpose}` could not be sealed"),
        }
    }
}

impl std::error::Error for SealError {}

/// Seals and opens under one key-encryption key.
pub struct Sealer {
    sealing: LessSafeKey,
    deriving: hmac::Key,
}

impl fmt::Debug for Sealer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Sealer(…)")
    }
}

impl Sealer {
    /// Seals under this key of 32 bytes.
    ///
    /// # Errors
    /// When the key has another length.
    pub fn new(key: &[u8]) -> Result<Self, SealError> {
        let bytes = key.len();
        let sealing = UnboundKey::new(&AES_256_GCM, key).map_err(|_| SealError::KeyLength { bytes })?;
        Ok(Self { sealing: LessSafeKey::new(sealing), deriving: hmac::Key::new(hmac::HMAC_SHA256, key) })
    }

    /// A secret for this purpose (a word of ours) that every node with the same key has and that says
    /// nothing of the key or of another purpose's (HMAC as in RFC 5869 §2.3).
    #[must_use]
    pub fn derive(&self, purpose: &'static str) -> Secret<[u8; 32]> {
        let tag = hmac::sign(&self.deriving, &bound(purpose, b"derived"));
        let mut secret = [0u8; 32];
        for (target, source) in secret.iter_mut().zip(tag.as_ref()) {
            *target = *source;
        }
        Secret::new(secret)
    }

    /// Seals `plain` for this purpose (a word of ours) and place (what the value belongs to: an id,
    /// a row's other columns). Gives version, nonce, ciphertext and tag.
    ///
    /// # Errors
    /// When the cipher refuses, which it does for over-long values only.
    pub fn seal(
        &self,
        purpose: &'static str,
        place: &[u8],
        plain: &[u8],
        entropy: &dyn Entropy,
    ) -> Result<Vec<u8>, SealError> {
        let mut nonce = [0u8; NONCE_LEN];
        entropy.fill(&mut nonce);
        let mut text = plain.to_vec();
        self.sealing
            .seal_in_place_append_tag(Nonce::assume_unique_for_key(nonce), Aad::from(bound(purpose, place)), &mut text)
            .map_err(|_| SealError::Seal { purpose })?;
        let mut sealed = Vec::with_capacity(1 + NONCE_LEN + text.len());
        sealed.push(VERSION);
        sealed.extend_from_slice(&nonce);
        sealed.append(&mut text);
        Ok(sealed)
    }

    /// Opens what was sealed for this purpose and place.
    ///
    /// # Errors
    /// When it was sealed under another key, for another purpose or place, or was altered. Which
    /// of these it was can't be told.
    pub fn open(&self, purpose: &'static str, place: &[u8], sealed: &[u8]) -> Result<Secret<Vec<u8>>, SealError> {
        let closed = SealError::Closed { purpose };
        let (version, rest) = sealed.split_first().ok_or(closed)?;
        let (nonce, text) = rest.split_at_checked(NONCE_LEN).ok_or(closed)?;
        if *version != VERSION {
            return Err(closed);
        }
        let nonce = Nonce::try_assume_unique_for_key(nonce).map_err(|_| closed)?;
        let mut text = text.to_vec();
        let plain =
            self.sealing.open_in_place(nonce, Aad::from(bound(purpose, place)), &mut text).map_err(|_| closed)?.len();
        text.truncate(plain);
        Ok(Secret::new(text))
    }
}

/// Version, purpose and place so that no two pairs give the same bytes.
fn bound(purpose: &str, place: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(32 + purpose.len() + place.len());
    bytes.extend_from_slice(b"doorward sealed 1\0");
    bytes.extend_from_slice(purpose.as_bytes());
    bytes.push(0);
    bytes.extend_from_slice(place);
    bytes
}
