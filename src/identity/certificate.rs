//! Client certificates as the handshake left them: whose authority vouches for them, when they
//! end, and which session, device or workload they name.
//!
//! INVARIANT: [`ClientCertificate::read`] is only called on a certificate whose chain the
//! handshake has verified under the authority of the same [`Issuer`]; it proves nothing itself.

use x509_parser::prelude::{FromDer, GeneralName, KeyUsage, X509Certificate};

use crate::model::session::CERTIFICATE_URI_PREFIX;
use crate::model::{Device, SessionId, Thumbprint, Timestamp};

/// Which trust of `[trust]` verified the chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Issuer {
    /// Our own authority: it names a session.
    Ours,
    /// A device authority: it names a device at sign-in, and nobody at a service.
    Device,
    /// A SPIFFE bundle: it names a workload.
    Spiffe,
    /// Custodians: the certificate is its client's own, and what they signed is in it.
    BreakGlass,
}

/// What a verified client certificate says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientCertificate {
    /// Who vouches for it.
    pub issuer: Issuer,
    /// SHA-256 of its DER.
    pub thumbprint: Thumbprint,
    /// When it begins.
    pub not_before: Timestamp,
    /// When it ends: asked again on every request.
    pub not_after: Timestamp,
    /// The session that it was issued to, of ours only.
    pub session: Option<SessionId>,
    /// The one SPIFFE id among its names.
    pub spiffe_id: Option<String>,
    /// The subject's common name, else its serial number in hexadecimal.
    pub common_name: String,
}

/// Why a verified certificate is of no use all the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CertificateError {
    /// It can't be read as X.509.
    Unreadable,
    /// One of ours that names no session, or several.
    NoSession,
    /// A SPIFFE certificate with none or several URI names, or one that names no workload (X.509-SVID §2).
    NoSpiffeId,
}

/// The longest SPIFFE id, in bytes (SPIFFE-ID §2.3).
const SPIFFE_ID_BYTES_MAX: usize = 2048;

/// The trust domain of a SPIFFE id of a workload; `None` for what is no such id (SPIFFE-ID §2.1, §2.2):
/// so that no two readers take one for different workloads, there is but one way to write each.
#[must_use]
pub fn trust_domain_of(spiffe_id: &str) -> Option<&str> {
    let (domain, path) = spiffe_id.strip_prefix("spiffe://")?.split_once('/')?;
    let of_domain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'.' | b'-' | b'_');
    let of_path = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_');
    let segment = |segment: &str| !matches!(segment, "" | "." | "..") && segment.bytes().all(of_path);
    let holds = spiffe_id.len() <= SPIFFE_ID_BYTES_MAX
        && !domain.is_empty()
        && domain.bytes().all(of_domain)
        && path.split('/').all(segment);
    holds.then_some(domain)
}

/// What its key usage says that a certificate's key may do; `None` where it says nothing, `Err` where it can't
/// be read.
fn key_usage_of(der: &[u8]) -> Result<Option<KeyUsage>, CertificateError> {
    let (_, parsed) = X509Certificate::from_der(der).map_err(|_| CertificateError::Unreadable)?;
    let usage = parsed.key_usage().map_err(|_| CertificateError::Unreadable)?;
    Ok(usage.map(|extension| *extension.value))
}

/// Whether a certificate may vouch for others by its key usage (RFC 5280 §4.2.1.3, §6.1.4 (n)).
#[must_use]
pub fn may_vouch(der: &[u8]) -> bool {
    key_usage_of(der).is_ok_and(|usage| usage.is_none_or(|usage| usage.key_cert_sign()))
}

/// Whether a certificate may prove its client by its key usage: it signs in the handshake (RFC 5246 §7.4.6), and
/// vouches for nobody (RFC 5280 §4.2.1.9, X.509-SVID §5.2).
#[must_use]
pub fn may_prove(der: &[u8]) -> bool {
    key_usage_of(der).is_ok_and(|usage| usage.is_none_or(|usage| usage.digital_signature() && !usage.key_cert_sign()))
}

impl ClientCertificate {
    /// Reads the end-entity certificate of a chain that was verified under `issuer`.
    ///
    /// # Errors
    /// When it can't be read or names nobody.
    pub fn read(der: &[u8], issuer: Issuer) -> Result<Self, CertificateError> {
        let (rest, parsed) = X509Certificate::from_der(der).map_err(|_| CertificateError::Unreadable)?;
        if !rest.is_empty() {
            return Err(CertificateError::Unreadable);
        }
        let names = parsed.subject_alternative_name().map_err(|_| CertificateError::Unreadable)?;
        let uris: Vec<&str> = names
            .iter()
            .flat_map(|extension| &extension.value.general_names)
            .filter_map(|name| match name {
                GeneralName::URI(uri) => Some(*uri),
                _ => None,
            })
            .collect();
        let only_uri = match uris.as_slice() {
            [one] => Some(*one),
            _ => None,
        };
        let session = match issuer {
            Issuer::Ours => Some(
                only_uri
                    .and_then(|uri| uri.strip_prefix(CERTIFICATE_URI_PREFIX))
                    .and_then(|text| SessionId::parse(text).ok())
                    .ok_or(CertificateError::NoSession)?,
            ),
            Issuer::Device | Issuer::Spiffe | Issuer::BreakGlass => None,
        };
        let spiffe_id = match issuer {
            Issuer::Spiffe => Some(
                only_uri.filter(|uri| trust_domain_of(uri).is_some()).ok_or(CertificateError::NoSpiffeId)?.to_owned(),
            ),
            Issuer::Ours | Issuer::Device | Issuer::BreakGlass => None,
        };
        let common_name = parsed.subject().iter_common_name().next().and_then(|name| name.as_str().ok());
        let validity = parsed.validity();
        Ok(Self {
            issuer,
            thumbprint: Thumbprint::of(der),
            not_before: Timestamp::from_seconds(validity.not_before.timestamp()),
            not_after: Timestamp::from_seconds(validity.not_after.timestamp()),
            session,
            spiffe_id,
            common_name: common_name.map_or_else(|| parsed.raw_serial_as_string(), str::to_owned),
        })
    }

    /// Whether it may be used at `now`.
    #[must_use]
    pub const fn is_current(&self, now: Timestamp) -> bool {
        self.not_before.is_over(now) && !self.not_after.is_over(now)
    }

    /// The device that a device authority's certificate names.
    #[must_use]
    pub fn device(&self) -> Option<Device> {
        (self.issuer == Issuer::Device).then(|| Device { id: self.common_name.clone(), certificate: self.thumbprint })
    }
}
