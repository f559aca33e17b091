//! The signature of Standard Webhooks 1.0: `v1,` and the base64 of HMAC-SHA256 over
//! `id.timestamp.body`, under a secret that is written `whsec_` and base64.

use aws_lc_rs::hmac;
use data_encoding::BASE64;

use crate::model::{Secret, Timestamp};

/// What every secret starts with.
const PREFIX: &str = "whsec_";
/// Shortest and longest key in bytes.
const KEY_BYTES: std::ops::RangeInclusive<usize> = 24..=64;

/// Reads a secret.
#[must_use]
pub fn key_of(text: &str) -> Option<Secret<Vec<u8>>> {
    let bytes = BASE64.decode(text.trim().strip_prefix(PREFIX)?.as_bytes()).ok()?;
    KEY_BYTES.contains(&bytes.len()).then(|| Secret::new(bytes))
}

/// The value of `webhook-signature`.
#[must_use]
pub fn sign(key: &Secret<Vec<u8>>, id: &str, at: Timestamp, body: &[u8]) -> String {
    let key = hmac::Key::new(hmac::HMAC_SHA256, key.expose());
    let mut signing = hmac::Context::with_key(&key);
    signing.update(format!("{id}.{}.", at.seconds()).as_bytes());
    signing.update(body);
    format!("v1,{}", BASE64.encode(signing.sign().as_ref()))
}
