//! What the configuration says of a receiver outside, checked.

use rustls::pki_types::CertificateDer;
use url::Host;

pub use super::address::{Forbidden, check as check_address};
pub use super::tls::ClientCertificate;

/// A syslog receiver that is spoken to over TLS.
#[derive(Debug, Clone)]
pub struct SyslogSettings {
    /// Its name or address; its certificate must stand for it.
    pub host: Host<String>,
    /// Its port.
    pub port: u16,
    /// Authorities beside the public ones.
    pub authorities: Vec<CertificateDer<'static>>,
    /// What is shown to a receiver that asks for a certificate.
    pub certificate: Option<ClientCertificate>,
    /// It may be on this machine.
    pub allow_loopback: bool,
}

impl SyslogSettings {
    /// The port that RFC 5425 §4.1 gives it.
    pub const PORT: u16 = 6514;

    /// Reads `host`, `host:port` or `[address]:port`.
    #[must_use]
    pub fn parse_address(text: &str) -> Option<(Host<String>, u16)> {
        let (host, port) = match text.rsplit_once(':') {
            Some((host, port)) if !host.contains(':') || host.ends_with(']') => (host, port.parse().ok()?),
            _ => (text, Self::PORT),
        };
        (!host.is_empty() && port > 0).then_some(())?;
        Some((Host::parse(host).ok()?, port))
    }

    /// As it is written: `host:port`.
    #[must_use]
    pub fn address(&self) -> String {
        format!("{}:{}", self.host, self.port)
    }
}
