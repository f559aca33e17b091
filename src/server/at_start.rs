//! What of a configuration counts from the start on and not from a reload, so that a reload can say of a
//! change that it waits for the next start.
//!
//! INVARIANT: every key is either here or taken by `Reloader::swap`: sections are taken apart by name, so a
//! new key does not compile before it is told which. Of values only hashes are kept, of secrets too.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Debug;

use sha2::{Digest, Sha256};

use crate::config::{
    Audit, Config, HttpReceiver, Identity, Keys, Limits, Policies, Provider, Receiver, Server, SessionSettings, Spool,
    Storage, Stream, Telemetry, Tokens,
};
use crate::notify::settings::{NotifySettings, SmtpSettings, WebhookSettings};

/// A hash of each key's value, by the key's dotted path.
pub struct AtStart(BTreeMap<String, [u8; 32]>);

/// Notes keys of one section, and names those that a reload takes.
macro_rules! section {
    ($into:ident, $path:literal, $of:expr => $kind:ident { $($key:ident),* } taken { $($taken:ident),* }) => {
        let $kind { $($key,)* $($taken: _,)* } = $of;
        $($into.note(concat!($path, ".", stringify!($key)), $key, &[]);)*
    };
}

impl AtStart {
    /// What this configuration says.
    #[must_use]
    pub fn of(config: &Config) -> Self {
        let mut this = Self(BTreeMap::new());
        let Config {
            server,
            identity,
            session,
            tokens,
            keys,
            storage,
            audit,
            policies,
            notify,
            telemetry,
            // Read again whole.
            trust: _,
            breakglass: _,
            path: _,
            secret_files: _,
            warnings: _,
            places: _,
        } = config;
        this.server(server);
        let (Identity { providers }, Keys { key_encryption_key }, Storage { url }) = (identity, keys, storage);
        for provider in providers {
            this.provider(provider);
        }
        section!(this, "session", session => SessionSettings {
            lifetime, idle, certificate_ttl, recheck, device_code
        } taken {});
        section!(this, "tokens", tokens => Tokens {
            access, refresh, assertion, device_code, key_rotation, key_announce
        } taken {});
        this.note("keys.key_encryption_key", &"", &[key_encryption_key.expose().as_slice()]);
        this.note("storage.url", &"", &[url.expose().as_bytes()]);
        this.audit(audit);
        section!(this, "policies", policies => Policies { stale_max } taken { dir });
        this.notify(notify);
        section!(this, "telemetry", telemetry => Telemetry { listen } taken {});
        this
    }

    /// The keys whose values `now` are others.
    #[must_use]
    pub fn changed(&self, now: &Self) -> Vec<String> {
        let keys: BTreeSet<&String> = self.0.keys().chain(now.0.keys()).collect();
        keys.into_iter().filter(|key| self.0.get(key.as_str()) != now.0.get(key.as_str())).cloned().collect()
    }

    /// A value shows its secrets to nobody, so they are hashed beside it.
    fn note(&mut self, key: impl Into<String>, value: &dyn Debug, secrets: &[&[u8]]) {
        let mut hash = Sha256::new();
        hash.update(format!("{value:?}"));
        for secret in secrets {
            // What is in a secret is never taken for the beginning of the next.
            hash.update(Sha256::digest(secret));
        }
        self.0.insert(key.into(), hash.finalize().into());
    }

    fn server(&mut self, server: &Server) {
        section!(self, "server", server => Server {
            listen, domain, control_host, public_port, drain, clock_right_since, threads
        } taken { tls, limits });
        section!(self, "server.limits", &server.limits => Limits {
            connections, connections_per_address, handshake, header, body_idle, body_rate_min, keep_alive,
            head_bytes, headers, http2_streams, http2_control_frames, requests_per_second_per_address,
            burst_per_address
        } taken {});
    }

    fn provider(&mut self, provider: &Provider) {
        let secret = provider.client_secret.as_ref().map(|secret| secret.expose().as_bytes());
        self.note(format!("identity.provider.{}", provider.name), provider, secret.as_slice());
    }

    fn audit(&mut self, audit: &Audit) {
        section!(self, "audit", audit => Audit { requests, retention, witnesses, keep } taken { streams, spool });
        match &audit.spool {
            Spool::Off => self.note("audit.spool", &"off", &[]),
            Spool::File { path, bytes, named: _ } => {
                self.note("audit.spool", path, &[]);
                self.note("audit.spool_megabytes", bytes, &[]);
            }
        }
        for stream in &audit.streams {
            self.stream(stream);
        }
    }

    fn stream(&mut self, stream: &Stream) {
        let mut secrets: Vec<&[u8]> = Vec::new();
        match &stream.receiver {
            Receiver::Syslog(_) => {}
            Receiver::Webhook(receiver) | Receiver::Otlp(receiver) => {
                let HttpReceiver { url, key, authorization, .. } = receiver;
                secrets.push(url.expose().as_bytes());
                secrets.push(key.as_ref().map(|key| key.expose().as_slice()).unwrap_or_default());
                secrets.push(authorization.as_ref().map(|value| value.expose().as_bytes()).unwrap_or_default());
            }
        }
        self.note(format!("audit.stream.{}", stream.name), stream, &secrets);
    }

    fn notify(&mut self, notify: &NotifySettings) {
        let NotifySettings { webhooks, smtp } = notify;
        for webhook in webhooks {
            let WebhookSettings { name, url, key, .. } = webhook;
            let key = key.as_ref().map(|key| key.expose().as_slice()).unwrap_or_default();
            self.note(format!("notify.webhook.{name}"), webhook, &[url.expose().as_bytes(), key]);
        }
        if let Some(smtp) = smtp {
            let SmtpSettings { login, .. } = smtp;
            let password = login.as_ref().map(|(_, password)| password.expose().as_bytes());
            self.note("notify.smtp", smtp, password.as_slice());
        }
    }
}
