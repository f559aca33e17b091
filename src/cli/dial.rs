//! Connections from this machine: names, TCP and TLS, each within a bounded time.
//!
//! INVARIANT: names below `localhost` never leave this machine (RFC 6761 §6.3): no resolver is
//! asked for them.

use std::error::Error;
use std::fmt;
use std::fs;
use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{AlertDescription, CertificateError, ClientConfig, RootCertStore};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::origin::own_addresses;

/// How long resolving and connecting may take, over all addresses of a name.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a TLS handshake may take.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// Where Linux systems keep the authorities that they trust; those that are there are read.
const SYSTEM_BUNDLES: &[&str] = &["/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt"];

/// Why a server could not be reached.
#[derive(Debug)]
pub enum DialError {
    /// The name has no address.
    Resolve {
        /// The name.
        host: String,
        /// What the resolver said.
        source: Option<io::Error>,
    },
    /// No address took the connection.
    Connect {
        /// Host and port.
        server: String,
        /// What the last one said.
        source: io::Error,
    },
    /// It took too long.
    Slow {
        /// Host and port.
        server: String,
    },
    /// The handshake failed.
    Tls {
        /// Host and port.
        server: String,
        /// Why.
        source: io::Error,
    },
    /// Trust or identity can't be used.
    Settings(String),
}

impl fmt::Display for DialError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Resolve { host, source: Some(source) } => write!(f, "finding the address of `{host}`: {source}"),
            Self::Resolve { host, source: None } => write!(f, "`{host}` has no address"),
            Self::Connect { server, source } => write!(f, "connecting to `{server}`: {source}; is it running?"),
            Self::Slow { server } => write!(f, "`{server}` did not answer in {} s", CONNECT_TIMEOUT.as_secs()),
            Self::Tls { server, source } => match tls_error(source) {
                Some(rustls::Error::InvalidCertificate(CertificateError::UnknownIssuer)) => write!(
                    f,
                    "`{server}` has a certificate of an authority that is not trusted here; give its file with \
                     `--ca FILE` or `DOORWARD_CA`"
                ),
                Some(rustls::Error::InvalidCertificate(
                    CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
                )) => {
                    write!(f, "the certificate of `{server}` is for another name; is the server's address right?")
                }
                Some(error) => write!(f, "speaking TLS with `{server}`: {error}"),
                None => write!(f, "speaking TLS with `{server}`: {source}; is it a door?"),
            },
            Self::Settings(what) => f.write_str(what),
        }
    }
}

impl Error for DialError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::Resolve { source, .. } => source.as_ref().map(|e| e as &(dyn Error + 'static)),
            Self::Connect { source, .. } | Self::Tls { source, .. } => Some(source),
            Self::Slow { .. } | Self::Settings(_) => None,
        }
    }
}

/// The TLS error somewhere below an error.
#[must_use]
pub fn tls_error<'a>(error: &'a (dyn Error + 'static)) -> Option<&'a rustls::Error> {
    if let Some(found) = error.downcast_ref::<rustls::Error>() {
        return Some(found);
    }
    // An `io::Error` hides what it wraps from `source()`.
    let below = match error.downcast_ref::<io::Error>().and_then(io::Error::get_ref) {
        Some(inner) => Some(inner as &(dyn Error + 'static)),
        None => error.source(),
    };
    below.and_then(tls_error)
}

/// Whether the other side refused the certificate that this side showed.
#[must_use]
pub fn certificate_refused(error: &(dyn Error + 'static)) -> bool {
    matches!(
        tls_error(error),
        Some(rustls::Error::AlertReceived(
            AlertDescription::BadCertificate
                | AlertDescription::UnsupportedCertificate
                | AlertDescription::CertificateRevoked
                | AlertDescription::CertificateExpired
                | AlertDescription::CertificateUnknown
                | AlertDescription::UnknownCA
                | AlertDescription::CertificateRequired
                | AlertDescription::AccessDenied
        ))
    )
}

/// A certificate chain and its key, both PEM, that this side shows.
#[derive(Clone)]
pub struct Identity {
    /// The certificate first, then what vouches for it.
    pub certificate_pem: String,
    /// PKCS#8, SEC1 or PKCS#1.
    pub key_pem: String,
}

/// The roots of a PEM text with at least one certificate, or those of this machine.
fn roots(ca_pem: Option<&str>) -> Result<RootCertStore, DialError> {
    let mut roots = RootCertStore::empty();
    if let Some(pem) = ca_pem {
        let certificates = CertificateDer::pem_slice_iter(pem.as_bytes()).collect::<Result<Vec<_>, _>>();
        let certificates =
            certificates.map_err(|error| DialError::Settings(format!("the file of `--ca` is not PEM: {error}")))?;
        let (taken, _) = roots.add_parsable_certificates(certificates);
        if taken == 0 {
            return Err(DialError::Settings("there is no certificate in the file of `--ca`".to_owned()));
        }
        return Ok(roots);
    }
    roots.add_parsable_certificates(webpki_root_certs::TLS_SERVER_ROOT_CERTS.iter().cloned());
    for bundle in SYSTEM_BUNDLES.iter().map(Path::new) {
        let Ok(pem) = fs::read(bundle) else { continue };
        // A certificate of the system that can't be read is one that nothing is trusted for.
        roots.add_parsable_certificates(CertificateDer::pem_slice_iter(&pem).filter_map(Result::ok));
    }
    Ok(roots)
}

/// TLS settings: who may vouch for the server, and what is shown to it. HTTP/1.1 only.
///
/// # Errors
/// When the authorities, the certificate or the key can't be read or don't belong together.
pub fn tls_settings(ca_pem: Option<&str>, identity: Option<&Identity>) -> Result<Arc<ClientConfig>, DialError> {
    let wrong = |what: &str, error: &dyn fmt::Display| DialError::Settings(format!("{what}: {error}"));
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| wrong("preparing TLS", &error))?
        .with_root_certificates(roots(ca_pem)?);
    let mut config = match identity {
        None => builder.with_no_client_auth(),
        Some(identity) => {
            let chain = CertificateDer::pem_slice_iter(identity.certificate_pem.as_bytes())
                .collect::<Result<Vec<_>, _>>()
                .map_err(|error| wrong("reading the client certificate", &error))?;
            let key = PrivateKeyDer::from_pem_slice(identity.key_pem.as_bytes())
                .map_err(|error| wrong("reading the key of the client certificate", &error))?;
            builder.with_client_auth_cert(chain, key).map_err(|error| wrong("using the client certificate", &error))?
        }
    };
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

/// Connects to the first address of `host` that answers.
///
/// # Errors
/// When the name has no address, none answers, or it takes too long.
pub async fn connect(host: &str, port: u16) -> Result<TcpStream, DialError> {
    let server = format!("{host}:{port}");
    let connecting = async {
        let addresses: Vec<SocketAddr> = match own_addresses(host) {
            Some(addresses) => addresses.into_iter().map(|address| SocketAddr::new(address, port)).collect(),
            None => tokio::net::lookup_host((host, port))
                .await
                .map_err(|source| DialError::Resolve { host: host.to_owned(), source: Some(source) })?
                .collect(),
        };
        // Of several it is the first that was meant, and the others tell less.
        let mut first = None;
        for address in addresses {
            match TcpStream::connect(address).await {
                Ok(stream) => {
                    let _ = stream.set_nodelay(true);
                    return Ok(stream);
                }
                Err(error) => first = first.or(Some(error)),
            }
        }
        Err(match first {
            Some(source) => DialError::Connect { server: server.clone(), source },
            None => DialError::Resolve { host: host.to_owned(), source: None },
        })
    };
    match timeout(CONNECT_TIMEOUT, connecting).await {
        Ok(connected) => connected,
        Err(_) => Err(DialError::Slow { server }),
    }
}

/// Speaks TLS over a connection with the server of this name.
///
/// # Errors
/// When the name is none, the handshake fails, or it takes too long.
pub async fn secure(
    stream: TcpStream,
    name: &str,
    port: u16,
    config: Arc<ClientConfig>,
) -> Result<TlsStream<TcpStream>, DialError> {
    let server = format!("{name}:{port}");
    let server_name = ServerName::try_from(name.to_owned())
        .map_err(|_| DialError::Settings(format!("`{name}` is not the name of a server")))?;
    match timeout(HANDSHAKE_TIMEOUT, TlsConnector::from(config).connect(server_name, stream)).await {
        Ok(Ok(stream)) => Ok(stream),
        Ok(Err(source)) => Err(DialError::Tls { server, source }),
        Err(_) => Err(DialError::Slow { server }),
    }
}
