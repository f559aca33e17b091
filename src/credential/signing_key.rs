//! Keys that sign our tokens: ES256, a P-256 key pair (RFC 7518 §3.4) in PKCS#8.

use std::fmt;

use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair};

use crate::model::Secret;

/// The algorithm of these keys, as JOSE names it.
pub const ALGORITHM: &str = "ES256";

/// A private key and its public point.
pub struct KeyMaterial {
    /// PKCS#8 DER.
    pub pkcs8: Secret<Vec<u8>>,
    /// The public point, uncompressed: 0x04, x, y.
    pub public_point: Vec<u8>,
}

/// The bytes are no private key of P-256, or none could be made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NotAKey;

impl fmt::Display for NotAKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the bytes are no ES256 signing key in PKCS#8")
    }
}

impl std::error::Error for NotAKey {}

impl KeyMaterial {
    /// A new key, from the library's own source of chance: a key pair is the one thing that is not
    /// made from an `Entropy`, since the library tests candidates as it draws them.
    ///
    /// # Errors
    /// When the library can't make one.
    pub fn generate() -> Result<Self, NotAKey> {
        let pair = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).map_err(|_| NotAKey)?;
        let pkcs8 = pair.to_pkcs8v1().map_err(|_| NotAKey)?;
        Ok(Self { pkcs8: Secret::new(pkcs8.as_ref().to_vec()), public_point: pair.public_key().as_ref().to_vec() })
    }

    /// The key with this PKCS#8 DER.
    ///
    /// # Errors
    /// When the bytes are of no such key.
    pub fn from_pkcs8(pkcs8: Secret<Vec<u8>>) -> Result<Self, NotAKey> {
        let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, pkcs8.expose()).map_err(|_| NotAKey)?;
        let public_point = pair.public_key().as_ref().to_vec();
        Ok(Self { pkcs8, public_point })
    }
}
