//! What the corridor needs to know of the configuration.

use crate::model::Ttl;
use crate::policy::RecordMode;

/// Settings of the data path. They hold for the life of the process; what can be reloaded is in
/// [`super::snapshot::Snapshot`].
#[derive(Debug, Clone)]
pub struct Settings {
    /// The control host's name: lower case, no port.
    pub control_host: String,
    /// The control host's origin, which is also the issuer of our tokens.
    pub origin: String,
    /// The port that people see.
    pub public_port: u16,
    /// How long a client may take for its TLS handshake.
    pub handshake: Ttl,
    /// How long it may take for a request's head.
    pub head: Ttl,
    /// How long a connection may lie idle between requests.
    pub keep_alive: Ttl,
    /// How long a request's body may stand still.
    pub body_idle: Ttl,
    /// The slowest that a body may come after its first ten seconds, in bytes a second.
    pub body_rate_min: u32,
    /// The longest head in bytes.
    pub head_bytes: usize,
    /// The most header fields.
    pub headers: usize,
    /// Streams that one HTTP/2 connection may have open.
    pub http2_streams: u32,
    /// Control frames that one HTTP/2 connection may send in ten seconds.
    pub http2_control_frames: u32,
    /// Connections that are open at once.
    pub connections: usize,
    /// Connections of one address that are open at once.
    pub connections_per_address: usize,
    /// Refusals of one address a second, before anyone is identified.
    pub anonymous_per_second: u32,
    /// How many of them may come at once.
    pub anonymous_burst: u32,
    /// After that long without confirmation of the revocation feed, ordinary callers are refused.
    pub stale_max: Ttl,
    /// A browser's session that was not used for so long is over.
    pub session_idle: Option<Ttl>,
    /// How requests are recorded where the service does not say.
    pub record: RecordMode,
    /// How long an assertion to an upstream is good, at most 60 s.
    pub assertion_ttl: Ttl,
    /// How long open exchanges may take to end at shutdown.
    pub drain: Ttl,
}
