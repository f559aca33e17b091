//! What a configuration means to each room: providers, data path, control plane.

use crate::config::Config;
use crate::control::DeskSettings;
use crate::gateway::settings::Settings;
use crate::identity::provider::ProviderSettings;
use crate::policy::RecordMode;

/// The providers of a configuration.
#[must_use]
pub fn provider_settings(config: &Config) -> Vec<ProviderSettings> {
    let of = |provider: &crate::config::Provider| ProviderSettings {
        name: provider.name.clone(),
        issuer: provider.issuer.clone(),
        client_id: provider.client_id.clone(),
        client_secret: provider.client_secret.clone(),
        scopes: provider.scopes.clone(),
        groups_claim: provider.groups_claim.clone(),
        groups: provider.groups.clone(),
        bearer_audiences: provider.bearer_audiences.clone(),
        jwks_file: provider.jwks_file.clone(),
        ca: provider.ca.clone(),
        allow_loopback: provider.allow_loopback,
    };
    config.identity.providers.iter().map(of).collect()
}

/// What the data path goes by.
pub fn gateway_settings(config: &Config, origin: &str, public_port: u16) -> Settings {
    let limits = &config.server.limits;
    let size = |number: u32| usize::try_from(number).unwrap_or(usize::MAX);
    Settings {
        control_host: config.server.control_host.clone(),
        origin: origin.to_owned(),
        public_port,
        handshake: limits.handshake,
        head: limits.header,
        keep_alive: limits.keep_alive,
        body_idle: limits.body_idle,
        body_rate_min: limits.body_rate_min,
        head_bytes: size(limits.head_bytes),
        headers: size(limits.headers),
        http2_streams: limits.http2_streams,
        http2_control_frames: limits.http2_control_frames,
        connections: size(limits.connections),
        connections_per_address: size(limits.connections_per_address),
        anonymous_per_second: limits.requests_per_second_per_address,
        anonymous_burst: limits.burst_per_address,
        stale_max: config.policies.stale_max,
        session_idle: Some(config.session.idle),
        record: match config.audit.requests {
            crate::config::Durability::Durable => RecordMode::Durable,
            crate::config::Durability::Buffered => RecordMode::Buffered,
        },
        assertion_ttl: config.tokens.assertion,
        drain: config.server.drain,
    }
}

/// What the control plane goes by.
pub fn desk_settings(config: &Config, origin: &str, public_port: u16) -> DeskSettings {
    DeskSettings {
        origin: origin.to_owned(),
        domain: config.server.domain.clone(),
        public_port,
        lifetime: config.session.lifetime,
        idle: Some(config.session.idle),
        certificate_ttl: config.session.certificate_ttl,
        recheck: config.session.recheck,
        device_code: config.session.device_code,
        device_code_ttl: config.tokens.device_code,
        access_ttl: config.tokens.access,
        refresh_ttl: config.tokens.refresh,
        development: config.identity.providers.iter().any(|provider| provider.development),
        keep: config.audit.keep.clone(),
    }
}
