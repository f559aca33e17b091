//! What a `service.toml` sets, typed, with the defaults in one place.

use std::path::PathBuf;

use jiff::tz::TimeZone;

use super::upstream::{Upstream, UpstreamTls};
use crate::model::Ttl;
use crate::model::upstream_health::Thresholds;

/// Whether a client certificate is demanded in the handshake.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ClientCertificate {
    /// The handshake fails without one.
    Required,
    /// For browsers and callers with a token only.
    Optional,
}

/// What happens to ordinary callers when revocations could not be confirmed for too long.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum OnStale {
    /// They are refused.
    Refuse,
    /// They go on.
    Continue,
}

/// What the upstream is told about the caller in `Doorward-Assertion`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum AssertionMode {
    /// Who and which session; signed once in a few seconds.
    Session,
    /// Also decision, method and path; signed for each request.
    Request,
    /// Nothing.
    Off,
}

/// When a decision counts as recorded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum RecordMode {
    /// When it is durable.
    Durable,
    /// When it is queued.
    Buffered,
}

/// How the secret becomes a header's value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum InjectionScheme {
    /// As it is.
    Plain,
    /// `Basic base64(user:secret)` (RFC 7617).
    Basic {
        /// The user.
        user: String,
    },
    /// `Bearer secret`.
    Bearer,
}

/// Where a secret is; it is read by whoever needs it, never kept here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SecretSource {
    /// A file; relative ones are relative to the service's folder.
    File(PathBuf),
    /// An environment variable.
    Env(String),
}

/// A header that the upstream gets from us and the client can't set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Injection {
    /// The header, as written.
    pub header: String,
    /// The form of its value.
    pub scheme: InjectionScheme,
    /// The secret in it.
    pub secret: SecretSource,
}

/// `[limits]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ServiceLimits {
    /// For each principal.
    pub requests_per_second: u32,
    /// How many may come at once.
    pub burst: u32,
    /// The largest request body in bytes; none: endless ones pass too.
    pub body_bytes_max: Option<u64>,
    /// Connections of one data-path core to one upstream.
    pub connections_per_upstream: u32,
}

impl Default for ServiceLimits {
    fn default() -> Self {
        Self { requests_per_second: 100, burst: 200, body_bytes_max: None, connections_per_upstream: 1024 }
    }
}

/// `[timeouts]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ServiceTimeouts {
    /// To reach the upstream.
    pub connect: Ttl,
    /// From the end of the request to the head of the response.
    pub first_byte: Ttl,
    /// Between two pieces of a body.
    pub body_idle: Ttl,
    /// The same for upgrades and streams.
    pub stream_idle: Ttl,
}

impl Default for ServiceTimeouts {
    fn default() -> Self {
        Self {
            connect: Ttl::seconds(5),
            first_byte: Ttl::seconds(60),
            body_idle: Ttl::seconds(60),
            stream_idle: Ttl::hours(1),
        }
    }
}

/// `[health]`: how each upstream is asked whether it can take requests.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HealthCheck {
    /// The path of the GET, which bears no credentials of anybody.
    pub path: String,
    /// The host to ask for; none: the upstream's own address.
    pub host: Option<String>,
    /// Between two checks of one upstream.
    pub interval: Ttl,
    /// For connection, handshake and the head of the answer together; never longer than the interval.
    pub timeout: Ttl,
    /// Outcomes in a row that change the state.
    pub thresholds: Thresholds,
    /// The one status that is good; none: any of 200 to 299.
    pub status: Option<u16>,
}

/// Everything of a `service.toml` but routes and entitlements.
#[derive(Debug, Clone)]
pub(super) struct ServiceSettings {
    pub(super) description: String,
    pub(super) hosts: Vec<String>,
    pub(super) upstreams: Vec<Upstream>,
    pub(super) upstream_tls: UpstreamTls,
    pub(super) client_certificate: ClientCertificate,
    pub(super) unbound_bearer: bool,
    pub(super) pass_authorization: bool,
    pub(super) on_stale: OnStale,
    pub(super) origins: Vec<String>,
    pub(super) assertion: AssertionMode,
    pub(super) encoded_slash: bool,
    pub(super) record: Option<RecordMode>,
    pub(super) limits: ServiceLimits,
    pub(super) timeouts: ServiceTimeouts,
    pub(super) health: Option<HealthCheck>,
    pub(super) inject: Vec<Injection>,
    pub(super) time_zone: TimeZone,
}
