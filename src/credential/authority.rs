//! The installation's certificate authority: P-256, X.509 v3 (RFC 5280).
//!
//! INVARIANTS: what is issued has the names, usages and end that the caller gave, whatever the
//! signing request asked for; from a request only the public key is taken, and only a P-256 one
//! whose possession is proven by the request's signature. A session's certificate names the
//! session in one URI name, `doorward:session:ses_…`, and can't be an authority itself.

use std::fmt;

use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose, PublicKeyData, SanType, SerialNumber,
};
use rustls::pki_types::{CertificateDer, CertificateSigningRequestDer};
use time::OffsetDateTime;
use x509_parser::pem::parse_x509_pem;

use crate::model::session::CERTIFICATE_URI_PREFIX;
use crate::model::{Entropy, SessionId, Thumbprint, Timestamp, Ttl};

/// How far back a certificate's start lies, for clocks that disagree a little.
const BACKDATE: Ttl = Ttl::minutes(1);
/// The longest signing request that is read, in bytes.
const REQUEST_BYTES_MAX: usize = 8 * 1024;

/// Why no certificate was made.
#[derive(Debug)]
pub enum AuthorityError {
    /// The authority's own certificate or key could not be used.
    Authority(String),
    /// The signing request could not be used.
    Request(&'static str),
    /// The certificate could not be made.
    Issue(rcgen::Error),
}

impl fmt::Display for AuthorityError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Authority(what) => write!(f, "the certificate authority can't be used: {what}"),
            Self::Request(what) => {
                write!(
                    f,
                    "the certificate signing request can't be used: {what}; send a PKCS#10 request for a P-256 key, signed by it"
                )
            }
            Self::Issue(error) => write!(f, "the certificate could not be made: {error}"),
        }
    }
}

impl std::error::Error for AuthorityError {}

/// A certificate that was made.
#[derive(Debug, Clone)]
pub struct Issued {
    /// The certificate in PEM, alone.
    pub pem: String,
    /// The certificate in DER.
    pub der: Vec<u8>,
    /// SHA-256 of the DER.
    pub thumbprint: Thumbprint,
    /// When it ends.
    pub not_after: Timestamp,
}

/// A certificate with its private key in PEM, as `init` and `dev` write them.
pub struct IssuedWithKey {
    /// The certificate.
    pub certificate: Issued,
    /// Its private key, PKCS#8 PEM.
    pub key_pem: String,
}

/// The authority: its certificate and the means to sign with its key.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
    der: CertificateDer<'static>,
}

fn moment(at: Timestamp) -> OffsetDateTime {
    OffsetDateTime::from_unix_timestamp(at.seconds()).unwrap_or(OffsetDateTime::UNIX_EPOCH)
}

fn named(common_name: &str) -> DistinguishedName {
    let mut name = DistinguishedName::new();
    name.push(DnType::CommonName, common_name);
    name
}

fn serial(entropy: &dyn Entropy) -> SerialNumber {
    let mut bytes = [0u8; 16];
    entropy.fill(&mut bytes);
    // RFC 5280 §4.1.2.2: positive, so the highest bit is off; and never zero.
    bytes[0] = (bytes[0] & 0x7f) | 0x01;
    SerialNumber::from_slice(&bytes)
}

fn issued(certificate: &rcgen::Certificate, not_after: Timestamp) -> Issued {
    let der = certificate.der().to_vec();
    Issued {
        pem: certificate.pem(),
        thumbprint: Thumbprint::of(&der),
        der,
        not_after: Timestamp::from_seconds(not_after.seconds()),
    }
}

impl Authority {
    /// Makes a new authority: its certificate and key in PEM.
    ///
    /// # Errors
    /// When no key could be made.
    pub fn generate(
        common_name: &str,
        now: Timestamp,
        lifetime: Ttl,
        entropy: &dyn Entropy,
    ) -> Result<IssuedWithKey, AuthorityError> {
        let key = KeyPair::generate().map_err(AuthorityError::Issue)?;
        let not_after = now.plus(lifetime);
        let mut params = CertificateParams::default();
        params.distinguished_name = named(common_name);
        params.not_before = moment(now.minus(BACKDATE));
        params.not_after = moment(not_after);
        params.serial_number = Some(serial(entropy));
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let certificate = params.self_signed(&key).map_err(AuthorityError::Issue)?;
        Ok(IssuedWithKey { certificate: issued(&certificate, not_after), key_pem: key.serialize_pem() })
    }

    /// Takes an authority's certificate and PKCS#8 key, both PEM, and sees that they belong together.
    ///
    /// # Errors
    /// When one can't be read, the certificate is none of an authority, or they are no pair.
    pub fn load(certificate_pem: &str, key_pem: &str) -> Result<Self, AuthorityError> {
        let wrong = |what: String| AuthorityError::Authority(what);
        let key = KeyPair::from_pem(key_pem).map_err(|e| wrong(format!("its key can't be read: {e}")))?;
        let (_, block) = parse_x509_pem(certificate_pem.as_bytes())
            .map_err(|e| wrong(format!("its certificate is not PEM: {e}")))?;
        let parsed = block.parse_x509().map_err(|e| wrong(format!("its certificate can't be read: {e}")))?;
        if !parsed.is_ca() {
            return Err(wrong("its certificate is not that of an authority (`CA:TRUE` is missing)".to_owned()));
        }
        if parsed.public_key().raw != key.subject_public_key_info().as_slice() {
            return Err(wrong("its key does not belong to its certificate".to_owned()));
        }
        let der = CertificateDer::from(block.contents.clone());
        let issuer = Issuer::from_ca_cert_der(&der, key).map_err(|e| wrong(e.to_string()))?;
        Ok(Self { issuer, pem: certificate_pem.to_owned(), der })
    }

    /// The authority's certificate in PEM.
    #[must_use]
    pub fn pem(&self) -> &str {
        &self.pem
    }

    /// The authority's certificate in DER.
    #[must_use]
    pub const fn der(&self) -> &CertificateDer<'static> {
        &self.der
    }

    /// Makes the client certificate of a session from a PKCS#10 request (RFC 2986), PEM or DER.
    ///
    /// # Errors
    /// When the request is over-long, can't be read, is not signed by its key, or the key is not P-256.
    pub fn issue_session(
        &self,
        request: &[u8],
        session: SessionId,
        now: Timestamp,
        not_after: Timestamp,
        entropy: &dyn Entropy,
    ) -> Result<Issued, AuthorityError> {
        if request.len() > REQUEST_BYTES_MAX {
            return Err(AuthorityError::Request("it is longer than 8 KiB"));
        }
        let mut asked = match std::str::from_utf8(request) {
            Ok(text) if text.trim_start().starts_with("-----BEGIN") => CertificateSigningRequestParams::from_pem(text),
            _ => CertificateSigningRequestParams::from_der(&CertificateSigningRequestDer::from(request)),
        }
        .map_err(|_| AuthorityError::Request("it can't be read or its signature does not hold"))?;
        if asked.public_key.algorithm() != &rcgen::PKCS_ECDSA_P256_SHA256 {
            return Err(AuthorityError::Request("its key is not a P-256 key"));
        }
        // INVARIANT: nothing that the request asked for beside its key is kept.
        let mut params = CertificateParams::default();
        params.distinguished_name = named(&session.to_string());
        let uri = format!("{CERTIFICATE_URI_PREFIX}{session}");
        params.subject_alt_names = vec![SanType::URI(uri.try_into().map_err(AuthorityError::Issue)?)];
        params.not_before = moment(now.minus(BACKDATE));
        params.not_after = moment(not_after);
        params.serial_number = Some(serial(entropy));
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        params.use_authority_key_identifier_extension = true;
        asked.params = params;
        let certificate = asked.signed_by(&self.issuer).map_err(AuthorityError::Issue)?;
        Ok(issued(&certificate, not_after))
    }

    /// Makes a server certificate with a fresh key for these DNS names and addresses.
    ///
    /// # Errors
    /// When a name is none.
    pub fn issue_server(
        &self,
        names: &[String],
        now: Timestamp,
        lifetime: Ttl,
        entropy: &dyn Entropy,
    ) -> Result<IssuedWithKey, AuthorityError> {
        let not_after = now.plus(lifetime);
        let mut params = CertificateParams::new(names.to_vec()).map_err(AuthorityError::Issue)?;
        params.distinguished_name = named(names.first().map_or("doorward", String::as_str));
        params.not_before = moment(now.minus(BACKDATE));
        params.not_after = moment(not_after);
        params.serial_number = Some(serial(entropy));
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        params.use_authority_key_identifier_extension = true;
        let key = KeyPair::generate().map_err(AuthorityError::Issue)?;
        let certificate = params.signed_by(&key, &self.issuer).map_err(AuthorityError::Issue)?;
        Ok(IssuedWithKey { certificate: issued(&certificate, not_after), key_pem: key.serialize_pem() })
    }
}
