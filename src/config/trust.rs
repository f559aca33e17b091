//! `[trust]`: whose client certificates count.

use std::path::PathBuf;

use super::section::Section;
use super::server::host_name;

/// Whose client certificates count, and for what.
#[derive(Debug, Clone)]
pub struct Trust {
    /// `[trust.client_ca]`: our own authority, which certifies sessions.
    pub client_ca: CertificateAndKey,
    /// `device_ca`: PEM files of authorities that certify devices, shown at sign-in.
    pub device_ca: Vec<PathBuf>,
    /// `[[trust.spiffe]]`: bundles of SPIFFE trust domains.
    pub spiffe: Vec<SpiffeBundle>,
}

/// Two PEM files that belong together.
#[derive(Debug, Clone)]
pub struct CertificateAndKey {
    /// `certificate`.
    pub certificate: PathBuf,
    /// `key`: PKCS#8 or SEC1.
    pub key: PathBuf,
}

/// The authorities of one SPIFFE trust domain (SPIFFE X509-SVID §4).
#[derive(Debug, Clone)]
pub struct SpiffeBundle {
    /// `trust_domain`, as in `spiffe://<trust_domain>/…`. Lower case.
    pub trust_domain: String,
    /// `bundle`: a PEM file of authorities.
    pub bundle: PathBuf,
}

pub(in crate::config) fn read(mut section: Section<'_>) -> Option<Trust> {
    let device_ca = section.paths("device_ca");
    let spiffe = section.sections("spiffe").into_iter().filter_map(read_bundle).collect();
    let mut authority = section.section("client_ca");
    authority.not_built("pkcs11");
    let certificate = authority.path("certificate");
    let key = authority.path("key");
    if !authority.has("certificate") || !authority.has("key") {
        let missing = if authority.has("certificate") { "key" } else { "certificate" };
        authority
            .missing(missing, "give the PEM files of the authority that certifies sessions; `doorward init` makes one");
    }
    Some(Trust { client_ca: CertificateAndKey { certificate: certificate?, key: key? }, device_ca, spiffe })
}

fn read_bundle(mut section: Section<'_>) -> Option<SpiffeBundle> {
    // SPIFFE-ID §2.1 allows `_` too; names that are host names as well are all that is met.
    let trust_domain =
        section.parsed("trust_domain", "a trust domain such as `prod.example.com`, without `spiffe://`", host_name);
    let bundle = section.path("bundle");
    for key in ["trust_domain", "bundle"] {
        if !section.has(key) {
            section.missing(key, "each `[[trust.spiffe]]` has a `trust_domain` and a `bundle`");
        }
    }
    Some(SpiffeBundle { trust_domain: trust_domain?, bundle: bundle? })
}
