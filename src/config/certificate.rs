//! What certificates in files say: their names, whether a key belongs to them, whether they are
//! authorities. Validity in time is `doctor`'s to judge, since it needs the time.

use std::fmt;
use std::path::{Path, PathBuf};

use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::FromDer;

/// The largest certificate or key file that is read: a bundle of all public authorities fits.
const PEM_BYTES_MAX: u64 = 4 * 1024 * 1024;

/// Why a file of certificates or a key can't be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CertificateError {
    /// It can't be read.
    Unreadable { file: PathBuf, cause: String },
    /// It has no certificate in PEM form.
    NoCertificate { file: PathBuf },
    /// A certificate in it is malformed.
    Malformed { file: PathBuf, cause: String },
    /// It has no private key in PEM form, or one of a kind that isn't taken.
    NoKey { file: PathBuf, cause: String },
    /// Key and certificate don't belong together.
    Mismatch { certificate: PathBuf, key: PathBuf },
    /// A certificate that should be an authority's isn't.
    NotAnAuthority { file: PathBuf },
}

impl CertificateError {
    /// What to do.
    #[must_use]
    pub const fn help(&self) -> &'static str {
        match self {
            Self::Unreadable { .. } => "check the path and the rights of the user that runs doorward",
            Self::NoCertificate { .. } => "give a PEM file with `-----BEGIN CERTIFICATE-----` in it",
            Self::Malformed { .. } => "look at it with `openssl x509 -text -in FILE`",
            Self::NoKey { .. } => "give an unencrypted PEM key, ECDSA P-256 or P-384, Ed25519 or RSA",
            Self::Mismatch { .. } => {
                "give the key with which this certificate was ordered; the leaf stands first in the chain"
            }
            Self::NotAnAuthority { .. } => {
                "an authority's certificate has basicConstraints CA:TRUE (RFC 5280 §4.2.1.9)"
            }
        }
    }
}

impl fmt::Display for CertificateError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unreadable { file, cause } => {
                write!(f, "`{}` can't be read: {cause}", file.display())
            }
            Self::NoCertificate { file } => {
                write!(f, "`{}` has no certificate in it", file.display())
            }
            Self::Malformed { file, cause } => write!(f, "`{}` has a malformed certificate: {cause}", file.display()),
            Self::NoKey { file, cause } => {
                write!(f, "`{}` has no usable private key: {cause}", file.display())
            }
            Self::Mismatch { certificate, key } => {
                write!(f, "the key `{}` does not belong to the certificate `{}`", key.display(), certificate.display())
            }
            Self::NotAnAuthority { file } => {
                write!(f, "`{}` is not an authority's certificate", file.display())
            }
        }
    }
}

impl std::error::Error for CertificateError {}

/// The certificates of a PEM file, at least one, each well-formed.
///
/// # Errors
/// When the file can't be read, is empty of certificates or has a malformed one.
pub fn chain_of(file: &Path) -> Result<Vec<CertificateDer<'static>>, CertificateError> {
    let pem = read(file)?;
    let malformed = |cause: String| CertificateError::Malformed { file: file.to_path_buf(), cause };
    let chain: Vec<_> =
        CertificateDer::pem_slice_iter(&pem).collect::<Result<_, _>>().map_err(|error| malformed(error.to_string()))?;
    for certificate in &chain {
        X509Certificate::from_der(certificate).map_err(|error| malformed(error.to_string()))?;
    }
    if chain.is_empty() {
        return Err(CertificateError::NoCertificate { file: file.to_path_buf() });
    }
    Ok(chain)
}

/// The authorities of a PEM file: every certificate in it must be one.
///
/// # Errors
/// As [`chain_of`], and when one isn't an authority's.
pub fn authorities_of(file: &Path) -> Result<Vec<CertificateDer<'static>>, CertificateError> {
    let chain = chain_of(file)?;
    let is_authority =
        |der: &CertificateDer<'_>| X509Certificate::from_der(der).is_ok_and(|(_, parsed)| parsed.is_ca());
    if chain.iter().all(is_authority) {
        Ok(chain)
    } else {
        Err(CertificateError::NotAnAuthority { file: file.to_path_buf() })
    }
}

/// A chain and the key that belongs to its leaf.
///
/// # Errors
/// As [`chain_of`], when there is no usable key, or when the two don't belong together.
pub fn pair_of(certificate: &Path, key: &Path) -> Result<CertifiedKey, CertificateError> {
    let chain = chain_of(certificate)?;
    let pem = read(key)?;
    let no_key = |cause: String| CertificateError::NoKey { file: key.to_path_buf(), cause };
    let private = PrivateKeyDer::from_pem_slice(&pem).map_err(|error| no_key(error.to_string()))?;
    CertifiedKey::from_der(chain, private, &aws_lc_rs::default_provider()).map_err(|error| match error {
        rustls::Error::InconsistentKeys(_) => {
            CertificateError::Mismatch { certificate: certificate.to_path_buf(), key: key.to_path_buf() }
        }
        other => no_key(other.to_string()),
    })
}

/// The DNS names of a certificate, lower case, wildcards as `*.name`.
#[must_use]
pub fn names_of(certificate: &CertificateDer<'_>) -> Vec<String> {
    let Ok((_, parsed)) = X509Certificate::from_der(certificate) else {
        return Vec::new();
    };
    let Ok(Some(extension)) = parsed.subject_alternative_name() else {
        return Vec::new();
    };
    let name = |general: &GeneralName<'_>| match general {
        GeneralName::DNSName(name) => Some(name.to_ascii_lowercase()),
        _ => None,
    };
    extension.value.general_names.iter().filter_map(name).collect()
}

/// Whether one of a certificate's names stands for a host: a wildcard for exactly one label (RFC 9525 §6.3).
#[must_use]
pub fn covers(names: &[String], host: &str) -> bool {
    let above = host.split_once('.').map(|(_, above)| above);
    names.iter().any(|name| match name.strip_prefix("*.") {
        Some(suffix) => above == Some(suffix),
        None => name == host,
    })
}

fn read(file: &Path) -> Result<Vec<u8>, CertificateError> {
    let unreadable = |cause: String| CertificateError::Unreadable { file: file.to_path_buf(), cause };
    let metadata = std::fs::metadata(file).map_err(|error| unreadable(error.to_string()))?;
    if metadata.len() > PEM_BYTES_MAX {
        return Err(unreadable("it is larger than 4 MiB".into()));
    }
    std::fs::read(file).map_err(|error| unreadable(error.to_string()))
}
