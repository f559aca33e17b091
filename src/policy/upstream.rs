//! Where a service's requests go, as its `service.toml` says.

use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;

/// How to talk to an upstream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum UpstreamProtocol {
    /// HTTP/1.1.
    Http1,
    /// HTTP/2, over cleartext by prior knowledge (RFC 9113 §3.3).
    Http2,
    /// What ALPN says.
    Auto,
}

/// One upstream.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Upstream {
    /// Whether to speak TLS.
    pub tls: bool,
    /// A name or an address; IPv6 without brackets.
    pub host: String,
    /// The port.
    pub port: u16,
    /// The protocol.
    pub protocol: UpstreamProtocol,
}

/// How TLS upstreams are recognised, and we by them. Paths are absolute.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct UpstreamTls {
    /// CA certificates, PEM; none: the system's.
    pub ca: Option<PathBuf>,
    /// Our client certificate, PEM.
    pub certificate: Option<PathBuf>,
    /// Its key, PEM.
    pub key: Option<PathBuf>,
    /// The name that its certificate must have, where it is not the host.
    pub server_name: Option<String>,
}

impl fmt::Display for Upstream {
    /// As a `service.toml` has it, its port always there.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = match (self.tls, self.protocol) {
            (false, UpstreamProtocol::Http1 | UpstreamProtocol::Auto) => "http",
            (true, UpstreamProtocol::Http1 | UpstreamProtocol::Auto) => "https",
            (false, UpstreamProtocol::Http2) => "h2c",
            (true, UpstreamProtocol::Http2) => "h2",
        };
        let host = if self.host.contains(':') { format!("[{}]", self.host) } else { self.host.clone() };
        write!(f, "{scheme}://{host}:{}", self.port)
    }
}

impl Upstream {
    /// Host and port as a request to it names them (RFC 9110 §7.2): the port where it is not the
    /// scheme's own.
    #[must_use]
    pub fn authority(&self) -> String {
        let host = if self.host.contains(':') { format!("[{}]", self.host) } else { self.host.clone() };
        let standard = if self.tls { 443 } else { 80 };
        if self.port == standard { host } else { format!("{host}:{}", self.port) }
    }

    /// Reads `http://h:p`, `https://h:p`, `h2c://h:p` or `h2://h:p`.
    pub(super) fn parse(text: &str) -> Result<Self, (String, &'static str)> {
        const HELP: &str = "write `http://host:port`, `https://…`, `h2c://…` (HTTP/2 without TLS) or `h2://…`";
        let not = || (format!("`{}` is not an upstream", text.escape_debug()), HELP);
        let (scheme, rest) = text.split_once("://").ok_or_else(not)?;
        let (tls, protocol) = match scheme {
            "http" => (false, UpstreamProtocol::Http1),
            "https" => (true, UpstreamProtocol::Auto),
            "h2c" => (false, UpstreamProtocol::Http2),
            "h2" => (true, UpstreamProtocol::Http2),
            _ => return Err(not()),
        };
        let authority = rest.strip_suffix('/').unwrap_or(rest);
        if authority.contains(['/', '?', '#', '@', '\\', ' ']) {
            let message = format!("the upstream `{}` has more than a host and a port", text.escape_debug());
            return Err((message, "paths are passed on as they are; credentials belong into `[[inject]]`"));
        }
        let (host, port) = split_port(authority).ok_or_else(not)?;
        let port = match port {
            Some(port) => port.parse().ok().filter(|port| *port != 0).ok_or_else(not)?,
            None if tls => 443,
            None => 80,
        };
        check_host(&host)?;
        Ok(Self { tls, host, port, protocol })
    }
}

/// Host and port of `host`, `host:port`, `[v6]` or `[v6]:port`.
fn split_port(authority: &str) -> Option<(String, Option<&str>)> {
    if let Some(rest) = authority.strip_prefix('[') {
        let (address, tail) = rest.split_once(']')?;
        let address: std::net::Ipv6Addr = address.parse().ok()?;
        let port = if tail.is_empty() { None } else { Some(tail.strip_prefix(':')?) };
        return Some((address.to_string(), port));
    }
    match authority.split_once(':') {
        Some((host, port)) => Some((host.to_ascii_lowercase(), Some(port))),
        None => Some((authority.to_ascii_lowercase(), None)),
    }
}

fn check_host(host: &str) -> Result<(), (String, &'static str)> {
    if let Ok(address) = host.parse::<IpAddr>() {
        let link_local = match address.to_canonical() {
            IpAddr::V4(v4) => v4.is_link_local(),
            IpAddr::V6(v6) => v6.is_unicast_link_local(),
        };
        if link_local || address.is_unspecified() || address.is_multicast() {
            let message = format!("`{address}` can't be an upstream");
            return Err((
                message,
                "link-local addresses answer with a machine's own credentials; name a host that serves",
            ));
        }
        return Ok(());
    }
    let label = |label: &str| {
        let inside = label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_');
        !label.is_empty() && label.len() <= 63 && inside && !label.starts_with('-') && !label.ends_with('-')
    };
    // `127.1` and `2130706433` are addresses to some resolvers: a name's last label is not a number.
    let numeric = host.rsplit('.').next().is_some_and(|last| last.bytes().all(|b| b.is_ascii_digit()));
    if host.len() > 253 || !host.split('.').all(label) || numeric {
        return Err((
            format!("`{}` is not a host", host.escape_debug()),
            "write a name like `api.internal` or a whole address",
        ));
    }
    Ok(())
}
