//! The certificate of an opening as the handshake finds it. Subject, dates, serial number and
//! everything else in it are whatever the client wrote, and are not looked at.

use sha2::{Digest, Sha256};
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::model::breakglass::{Evidence, SIGNATURE_BYTES_MAX, SIGNATURES_MAX};

/// The largest certificate that is read.
const CERTIFICATE_BYTES_MAX: usize = SIGNATURES_MAX * SIGNATURE_BYTES_MAX + 16_384;

/// The extension with challenge and signatures, in the experimental arc of RFC 1155 §3.1.3; it is
/// never critical, so that ordinary tools can show the certificate.
pub const EVIDENCE_OID: &[u64] = &[1, 3, 6, 1, 3, 61453, 1];

fn is_evidence(extension: &x509_parser::extensions::X509Extension<'_>) -> bool {
    extension.oid.iter().is_some_and(|arcs| arcs.eq(EVIDENCE_OID.iter().copied()))
}

/// Whether a certificate is on this path, and so on no other.
#[must_use]
pub fn carries_opening(der: &[u8]) -> bool {
    X509Certificate::from_der(der).is_ok_and(|(_, parsed)| parsed.extensions().iter().any(is_evidence))
}

/// SHA-256 of the certificate's key, and what its extension says. `None` where it has not exactly
/// one such extension, or one that is too large or malformed.
#[must_use]
pub fn evidence_of(der: &[u8]) -> Option<([u8; 32], Evidence)> {
    if der.len() > CERTIFICATE_BYTES_MAX {
        return None;
    }
    let (rest, parsed) = X509Certificate::from_der(der).ok()?;
    let mut found = parsed.extensions().iter().filter(|extension| is_evidence(extension));
    let (Some(one), None, true) = (found.next(), found.next(), rest.is_empty()) else { return None };
    let key: [u8; 32] = Sha256::digest(parsed.public_key().raw).into();
    Some((key, Evidence::from_der(one.value)?))
}
