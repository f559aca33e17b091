//! The address of a server as people type it: `https://doorward.example.com[:port]`.
//!
//! INVARIANT: the scheme is https; the host is lower case, without a dot at its end; there is no
//! path, query, fragment or user. Two origins are equal exactly when their texts are.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use url::{Host, Url};

/// Why a text is not the address of a server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OriginError {
    text: String,
    why: &'static str,
}

impl fmt::Display for OriginError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`{}` is not the address of a server: {}", self.text, self.why)
    }
}

impl std::error::Error for OriginError {}

/// A server's host and port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Origin {
    host: Host,
    port: u16,
}

impl Origin {
    /// Reads `https://host[:port]`, with or without a slash at its end.
    ///
    /// # Errors
    /// Says what is wrong with the text.
    pub fn parse(text: &str) -> Result<Self, OriginError> {
        let wrong = |why| OriginError { text: text.escape_debug().take(200).collect(), why };
        let url = Url::parse(text).map_err(|_| wrong("write it as `https://doorward.example.com`"))?;
        if url.scheme() != "https" {
            return Err(wrong("only `https://` is spoken"));
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err(wrong("it must not hold a user name or password"));
        }
        if !matches!(url.path(), "" | "/") || url.query().is_some() || url.fragment().is_some() {
            return Err(wrong("it must end after host and port"));
        }
        let host = match url.host().ok_or_else(|| wrong("it has no host"))? {
            Host::Domain(name) => Host::Domain(name.trim_end_matches('.').to_owned()),
            Host::Ipv4(address) => Host::Ipv4(address),
            Host::Ipv6(address) => Host::Ipv6(address),
        };
        Ok(Self { host, port: url.port().unwrap_or(443) })
    }

    /// The host as TLS and DNS name it: an IPv6 address without brackets.
    #[must_use]
    pub fn host(&self) -> String {
        match &self.host {
            Host::Domain(name) => name.clone(),
            Host::Ipv4(address) => address.to_string(),
            Host::Ipv6(address) => address.to_string(),
        }
    }

    /// The port.
    #[must_use]
    pub const fn port(&self) -> u16 {
        self.port
    }

    /// Host and port as the `Host` header has them.
    #[must_use]
    pub fn authority(&self) -> String {
        if self.port == 443 { self.host.to_string() } else { format!("{}:{}", self.host, self.port) }
    }

    /// Whether it can only be on this machine.
    #[must_use]
    pub fn is_loopback(&self) -> bool {
        match &self.host {
            Host::Domain(name) => is_localhost(name),
            Host::Ipv4(address) => address.is_loopback(),
            Host::Ipv6(address) => address.is_loopback(),
        }
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "https://{}", self.authority())
    }
}

/// Whether a name is `localhost` or below it, which is always this machine (RFC 6761 §6.3).
#[must_use]
pub fn is_localhost(host: &str) -> bool {
    let host = host.trim_end_matches('.').to_ascii_lowercase();
    host == "localhost" || host.ends_with(".localhost")
}

/// The addresses of a host that needs no resolver, to be tried in this order: an address, or a name below
/// `localhost`, which is this machine by either protocol.
#[must_use]
pub fn own_addresses(host: &str) -> Option<Vec<IpAddr>> {
    if is_localhost(host) {
        return Some(vec![IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)]);
    }
    host.trim_start_matches('[').trim_end_matches(']').parse().ok().map(|address: IpAddr| vec![address])
}
