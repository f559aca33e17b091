//! Nonces for proofs of possession (RFC 9449 §8, §9): a proof with one was made a moment ago, and not
//! long before by somebody who had the key for an hour.
//!
//! A nonce is a stretch of time with a MAC over it, so nothing is kept, every node of the installation
//! takes what another gave, and each is over by itself. INVARIANT: one is good for the stretch that it
//! was given in and the next.

use aws_lc_rs::hmac;
use data_encoding::BASE64URL_NOPAD;
use subtle::ConstantTimeEq;

use crate::model::{Timestamp, Ttl};

/// What the secret is derived for.
pub const PURPOSE: &str = "dpop-nonce";
/// How long one stretch is.
const STRETCH: Ttl = Ttl::minutes(2);
/// Bytes of a nonce: the stretch's number, and as much of its MAC.
const NUMBER_BYTES: usize = 8;
const MAC_BYTES: usize = 16;

/// Makes nonces and knows its own again.
pub struct Nonces(hmac::Key);

impl std::fmt::Debug for Nonces {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Nonces(…)")
    }
}

impl Nonces {
    /// Under a secret that all nodes have.
    #[must_use]
    pub fn new(secret: &[u8]) -> Self {
        Self(hmac::Key::new(hmac::HMAC_SHA256, secret))
    }

    /// The one to be given out at `now`.
    #[must_use]
    pub fn current(&self, now: Timestamp) -> String {
        self.of(stretch(now))
    }

    fn of(&self, number: i64) -> String {
        let number = number.to_be_bytes();
        let mac = hmac::sign(&self.0, &number);
        let mac = mac.as_ref().iter().take(MAC_BYTES);
        let bytes: Vec<u8> = number.iter().take(NUMBER_BYTES).chain(mac).copied().collect();
        BASE64URL_NOPAD.encode(&bytes)
    }

    /// Whether it is one that was given out for this stretch of time or the one before; a node whose
    /// clock is ahead may have given the next.
    #[must_use]
    pub fn holds(&self, nonce: &str, now: Timestamp) -> bool {
        let number = stretch(now);
        let fits = |number: i64| bool::from(self.of(number).as_bytes().ct_eq(nonce.as_bytes()));
        [number, number - 1, number + 1].into_iter().fold(false, |found, number| fits(number) | found)
    }
}

const fn stretch(now: Timestamp) -> i64 {
    now.millis().div_euclid(STRETCH.as_millis())
}
