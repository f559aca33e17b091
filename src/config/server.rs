//! `[server]`: where the door listens, under which names, and what it bears.

use std::net::SocketAddr;
use std::path::PathBuf;

use crate::model::{Timestamp, Ttl};

use super::section::Section;

/// Where it listens and under which names.
#[derive(Debug, Clone)]
pub struct Server {
    /// `listen`: the TLS port. Default `127.0.0.1:8443`; port 0 takes a free one.
    pub listen: SocketAddr,
    /// `domain`: a service without a dot in its host is found under this name. Lower case.
    pub domain: String,
    /// `control_host`: sign-in, API, console. Default: the domain itself. Lower case.
    pub control_host: String,
    /// `public_port`: the port that people type, where something maps it. Default: that of `listen`.
    pub public_port: Option<u16>,
    /// `[server.tls]`: the certificate that covers control host and services.
    pub tls: ServerTls,
    /// `drain`: how long open exchanges may go on after SIGTERM. Default 30 s.
    pub drain: Ttl,
    /// `clock_right_since`: events that nodes recorded by clocks that were ahead don't count; the clock was
    /// right then, and what is later on record was wrong. Default: all of the record counts.
    pub clock_right_since: Option<Timestamp>,
    /// `threads`: threads of the data path. Default: one per core.
    pub threads: Option<usize>,
    /// `[server.limits]`.
    pub limits: Limits,
}

/// PEM files: a chain with the leaf first, and its private key.
#[derive(Debug, Clone)]
pub struct ServerTls {
    /// `certificate`.
    pub certificate: PathBuf,
    /// `key`.
    pub key: PathBuf,
}

/// What one node, one address and one connection may use before anyone is signed in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// `connections`: open at a time on this node. Default 20000.
    pub connections: u32,
    /// `connections_per_address`: open at a time. Default 1000.
    pub connections_per_address: u32,
    /// `handshake`: TLS handshakes take no longer. Default 10 s.
    pub handshake: Ttl,
    /// `header`: a request's head arrives within this time of its first byte. Default 10 s.
    pub header: Ttl,
    /// `body_idle`: a request's body may pause so long. Default 60 s.
    pub body_idle: Ttl,
    /// `body_rate_min`: bytes per second of a request's body after its first 10 s. Default 1024; 0 is none.
    pub body_rate_min: u32,
    /// `keep_alive`: a connection without a request is closed after this time. Default 75 s.
    pub keep_alive: Ttl,
    /// `head_bytes`: of a request's head. Default 64 KiB.
    pub head_bytes: u32,
    /// `headers`: fields of a request's head. Default 100, and no more: the reader of HTTP/1 takes no longer heads.
    pub headers: u32,
    /// `http2_streams`: open at a time on one connection. Default 100.
    pub http2_streams: u32,
    /// `http2_control_frames`: per connection and 10 s, of the kinds that carry no request. Default 1000.
    pub http2_control_frames: u32,
    /// `requests_per_second_per_address`: before sign-in. Default 50.
    pub requests_per_second_per_address: u32,
    /// `burst_per_address`: before sign-in. Default 200.
    pub burst_per_address: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 20_000,
            connections_per_address: 1000,
            handshake: Ttl::seconds(10),
            header: Ttl::seconds(10),
            body_idle: Ttl::seconds(60),
            body_rate_min: 1024,
            keep_alive: Ttl::seconds(75),
            head_bytes: 64 * 1024,
            headers: 100,
            http2_streams: 100,
            http2_control_frames: 1000,
            requests_per_second_per_address: 50,
            burst_per_address: 200,
        }
    }
}

impl Server {
    /// The origin of a host as people type it (`https://host[:port]`, without port 443). The port
    /// is `public_port`, else the one that is really listened on.
    #[must_use]
    pub fn origin(&self, host: &str, listening: SocketAddr) -> String {
        match self.public_port.unwrap_or(listening.port()) {
            443 => format!("https://{host}"),
            port => format!("https://{host}:{port}"),
        }
    }
}

pub(in crate::config) fn read(mut section: Section<'_>) -> Option<Server> {
    let listen = match section.has("listen") {
        true => section
            .parsed("listen", "an address and port such as `0.0.0.0:8443` or `[::]:8443`", |text| text.parse().ok()),
        false => Some(SocketAddr::from(([127, 0, 0, 1], 8443))),
    };
    let form = "a host name in lower case such as `door.example.com`";
    let domain = section.parsed("domain", form, host_name);
    if !section.has("domain") {
        section.missing("domain", "give the name under which services are found, such as `internal.example.com`");
    }
    let control_host = match section.has("control_host") {
        true => section.parsed("control_host", form, host_name),
        false => domain.clone(),
    };
    let public_port = section.has("public_port").then(|| section.count("public_port", 443, 1..=65535));
    let threads = section.has("threads").then(|| section.count("threads", 1, 1..=1024));
    let clock_right_since = match section.has("clock_right_since") {
        true => section.parsed("clock_right_since", "a time such as `2026-11-22T10:15:00Z`", Timestamp::parse),
        false => None,
    };
    let drain = section.ttl("drain", Ttl::seconds(30), Ttl::ZERO..=Ttl::hours(1));
    if section.texts("proxy_protocol_from").is_some_and(|networks| !networks.is_empty()) {
        let message = "`server.proxy_protocol_from` is not built yet; remove it or leave it empty".to_owned();
        section.error(
            "proxy_protocol_from",
            message,
            "let clients connect to doorward itself: it trusts no address that it did not see",
        );
    }
    let tls = read_tls(section.section("tls"));
    let limits = read_limits(section.section("limits"));
    Some(Server {
        listen: listen?,
        domain: domain?,
        control_host: control_host?,
        public_port: public_port.and_then(|port| u16::try_from(port).ok()),
        tls: tls?,
        drain,
        clock_right_since,
        threads: threads.and_then(|threads| usize::try_from(threads).ok()),
        limits,
    })
}

fn read_tls(mut section: Section<'_>) -> Option<ServerTls> {
    let certificate = section.path("certificate");
    let key = section.path("key");
    if !section.has("certificate") || !section.has("key") {
        let missing = if section.has("certificate") { "key" } else { "certificate" };
        section.missing(
            missing,
            "give the PEM files of the door's own certificate and key; `doorward init` makes a pair to start with",
        );
    }
    Some(ServerTls { certificate: certificate?, key: key? })
}

fn read_limits(mut section: Section<'_>) -> Limits {
    let default = Limits::default();
    let times = Ttl::seconds(1)..=Ttl::minutes(10);
    Limits {
        connections: section.count("connections", default.connections, 1..=1_000_000),
        connections_per_address: section.count(
            "connections_per_address",
            default.connections_per_address,
            1..=1_000_000,
        ),
        handshake: section.ttl("handshake", default.handshake, times.clone()),
        header: section.ttl("header", default.header, times.clone()),
        body_idle: section.ttl("body_idle", default.body_idle, Ttl::seconds(1)..=Ttl::hours(24)),
        body_rate_min: section.count("body_rate_min", default.body_rate_min, 0..=1_000_000),
        keep_alive: section.ttl("keep_alive", default.keep_alive, Ttl::seconds(1)..=Ttl::hours(1)),
        head_bytes: section.count("head_bytes", default.head_bytes, 4096..=1024 * 1024),
        headers: section.count_bounded(
            "headers",
            default.headers,
            16..=100,
            ": the reader of HTTP/1 takes no head of more than 100 fields",
        ),
        http2_streams: section.count("http2_streams", default.http2_streams, 1..=10_000),
        http2_control_frames: section.count("http2_control_frames", default.http2_control_frames, 100..=1_000_000),
        requests_per_second_per_address: section.count(
            "requests_per_second_per_address",
            default.requests_per_second_per_address,
            1..=1_000_000,
        ),
        burst_per_address: section.count("burst_per_address", default.burst_per_address, 1..=1_000_000),
    }
}

/// Whether this can be `server.domain`.
#[must_use]
pub fn is_host_name(text: &str) -> bool {
    host_name(text).is_some()
}

/// A DNS host name in the form that comparisons use: lower case, no port, no trailing dot (RFC 1123 §2.1).
pub(in crate::config) fn host_name(text: &str) -> Option<String> {
    let label = |label: &str| {
        let inner = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
        (1..=63).contains(&label.len()) && label.bytes().all(inner) && !label.starts_with('-') && !label.ends_with('-')
    };
    let numeric_end = text.rsplit('.').next().is_some_and(|last| last.bytes().all(|b| b.is_ascii_digit()));
    (text.len() <= 253 && text.split('.').all(label) && !numeric_end).then(|| text.to_owned())
}
