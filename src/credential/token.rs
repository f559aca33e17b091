//! Making signed tokens: ES256 JWTs under the installation's keys (RFC 7515, RFC 7518 §3.4).

use std::fmt;

use data_encoding::BASE64URL_NOPAD;
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use serde::Serialize;
use serde_json::{Value, json};

use crate::model::Secret;

/// A private ES256 key of the installation with its name.
pub struct SigningKey {
    kid: String,
    encoding: EncodingKey,
    /// The public point, uncompressed: 0x04, x, y.
    public_point: Vec<u8>,
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SigningKey({})", self.kid)
    }
}

impl SigningKey {
    /// A key from its PKCS#8 DER and uncompressed public point.
    #[must_use]
    pub fn new(kid: String, pkcs8: &Secret<Vec<u8>>, public_point: Vec<u8>) -> Self {
        Self { kid, encoding: EncodingKey::from_ec_der(pkcs8.expose()), public_point }
    }

    /// Its name in the key set.
    #[must_use]
    pub fn kid(&self) -> &str {
        &self.kid
    }

    /// Signs `claims` as a JWT of this `typ` (`at+jwt`, `JWT` …).
    ///
    /// # Errors
    /// When the claims can't be written as JSON or the key can't sign.
    pub fn sign<T: Serialize>(&self, typ: &str, claims: &T) -> Result<String, jsonwebtoken::errors::Error> {
        let mut header = Header::new(Algorithm::ES256);
        header.typ = Some(typ.to_owned());
        header.kid = Some(self.kid.clone());
        jsonwebtoken::encode(&header, claims, &self.encoding)
    }

    /// Its public half as a JWK (RFC 7517).
    #[must_use]
    pub fn jwk(&self) -> Value {
        public_jwk(&self.kid, &self.public_point)
    }
}

/// The JWK of an uncompressed P-256 point.
#[must_use]
pub fn public_jwk(kid: &str, public_point: &[u8]) -> Value {
    let coordinate = |from: usize| BASE64URL_NOPAD.encode(public_point.get(from..from + 32).unwrap_or_default());
    json!({ "kty": "EC", "crv": "P-256", "alg": "ES256", "use": "sig", "kid": kid, "x": coordinate(1), "y": coordinate(33) })
}
