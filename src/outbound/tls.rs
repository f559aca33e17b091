//! The TLS of a client: whom it trusts, what it shows of itself, and by which clock.
//!
//! INVARIANT: a handshake is never resumed: a resumed one does not look at the certificate again, and
//! its end would go unseen.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::time_provider::TimeProvider;
use tokio_rustls::TlsConnector;
use url::Host;

use super::OutboundError;
use crate::model::Clock;

/// rustls asks our clock, so that a certificate's end is judged by the time that all else is.
struct RustlsTime(Arc<dyn Clock>);

impl fmt::Debug for RustlsTime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("RustlsTime")
    }
}

impl TimeProvider for RustlsTime {
    fn current_time(&self) -> Option<UnixTime> {
        let millis = u64::try_from(self.0.now().millis()).ok()?;
        Some(UnixTime::since_unix_epoch(Duration::from_millis(millis)))
    }
}

/// A certificate of ours that a server outside may ask for, and its key.
#[derive(Clone)]
pub struct ClientCertificate(Arc<CertifiedKey>);

impl ClientCertificate {
    /// What is shown; the key belongs to the chain's leaf.
    #[must_use]
    pub fn new(pair: CertifiedKey) -> Self {
        Self(Arc::new(pair))
    }
}

impl fmt::Debug for ClientCertificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ClientCertificate")
    }
}

/// A connector that trusts the public authorities and `authorities`.
///
/// # Errors
/// When an additional authority's certificate can't be used.
pub(in crate::outbound) fn connector(
    authorities: Vec<CertificateDer<'static>>,
    shown: Option<&ClientCertificate>,
    alpn: &[&[u8]],
    clock: Arc<dyn Clock>,
) -> Result<TlsConnector, OutboundError> {
    let authority = |error: &dyn fmt::Display| OutboundError::Authority(error.to_string());
    let mut roots = rustls::RootCertStore::empty();
    for certificate in webpki_root_certs::TLS_SERVER_ROOT_CERTS {
        roots.add(certificate.clone()).map_err(|e| authority(&e))?;
    }
    for certificate in authorities {
        roots.add(certificate).map_err(|e| authority(&e))?;
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let trusting = rustls::ClientConfig::builder_with_details(provider, Arc::new(RustlsTime(clock)))
        .with_safe_default_protocol_versions()
        .map_err(|e| authority(&e))?
        .with_root_certificates(roots);
    let mut config = match shown {
        Some(ClientCertificate(pair)) => {
            trusting.with_client_cert_resolver(Arc::new(SingleCertAndKey::from(Arc::clone(pair))))
        }
        None => trusting.with_no_client_auth(),
    };
    config.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
    config.resumption = rustls::client::Resumption::disabled();
    Ok(TlsConnector::from(Arc::new(config)))
}

/// The name that a server's certificate must stand for.
pub(in crate::outbound) fn server_name(host: &Host<String>) -> Result<ServerName<'static>, OutboundError> {
    Ok(match host {
        Host::Domain(name) => ServerName::try_from(name.clone())
            .map_err(|_| OutboundError::Url { url: name.clone(), why: "its host is no name of a server" })?,
        Host::Ipv4(v4) => ServerName::from(IpAddr::V4(*v4)),
        Host::Ipv6(v6) => ServerName::from(IpAddr::V6(*v6)),
    })
}
