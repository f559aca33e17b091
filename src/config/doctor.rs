//! What `doorward doctor` can say from the configuration and this machine alone: how long
//! certificates still last, who may read the keys, whether upstreams answer.
//!
//! INVARIANT: nothing here changes anything, and every wait ends.

use std::fmt;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::time::Duration;

use rustls::pki_types::CertificateDer;
use tokio::net::TcpStream;
use x509_parser::certificate::X509Certificate;
use x509_parser::prelude::FromDer;

use crate::model::{Timestamp, Ttl};

use super::Config;
use super::certificate::chain_of;

/// An upstream answers a connection within this time.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// A clock that is further off is worth a warning.
const CLOCK_WARN_MILLIS: u64 = 5_000;
/// By a clock that is further off, tokens are refused and grants end at the wrong time.
const CLOCK_FAIL_MILLIS: u64 = 60_000;
/// Certificates that end sooner are worth a warning.
const RENEW_BEFORE: Ttl = Ttl::hours(24 * 30);

/// How well something is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Health {
    /// As it should be.
    Ok,
    /// Works, and won't for ever.
    Warn,
    /// Does not work.
    Fail,
}

impl Health {
    /// As printed.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Warn => "warn",
            Self::Fail => "fail",
        }
    }
}

/// One thing that was looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// What was looked at, such as `certificate server.tls`.
    pub name: String,
    /// How well it is.
    pub health: Health,
    /// What was seen.
    pub detail: String,
    /// What to do; none when all is well.
    pub fix: Option<String>,
}

impl Finding {
    /// All is well.
    #[must_use]
    pub fn ok(name: &str, detail: String) -> Self {
        Self { name: name.to_owned(), health: Health::Ok, detail, fix: None }
    }

    /// Worth a look.
    #[must_use]
    pub fn warn(name: &str, detail: String, fix: &str) -> Self {
        Self { name: name.to_owned(), health: Health::Warn, detail, fix: Some(fix.to_owned()) }
    }

    /// Broken.
    #[must_use]
    pub fn fail(name: &str, detail: String, fix: &str) -> Self {
        Self { name: name.to_owned(), health: Health::Fail, detail, fix: Some(fix.to_owned()) }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:<4} {}: {}", self.health.name(), self.name, self.detail)?;
        match &self.fix {
            Some(fix) => write!(f, "\n     fix: {fix}"),
            None => Ok(()),
        }
    }
}

/// How long the certificates of the configuration last. Of a file with several the worst counts.
#[must_use]
pub fn certificates(config: &Config, now: Timestamp) -> Vec<Finding> {
    let mut findings = vec![
        lifetime("certificate server.tls", &config.server.tls.certificate, now),
        lifetime("certificate trust.client_ca", &config.trust.client_ca.certificate, now),
    ];
    for (index, file) in config.trust.device_ca.iter().enumerate() {
        findings.push(lifetime(&format!("certificate trust.device_ca.{index}"), file, now));
    }
    for bundle in &config.trust.spiffe {
        findings.push(lifetime(&format!("certificate trust.spiffe {}", bundle.trust_domain), &bundle.bundle, now));
    }
    for provider in &config.identity.providers {
        if let Some(file) = &provider.ca {
            findings.push(lifetime(&format!("certificate of provider {}", provider.name), file, now));
        }
    }
    findings
}

fn lifetime(name: &str, file: &Path, now: Timestamp) -> Finding {
    let chain = match chain_of(file) {
        Ok(chain) => chain,
        Err(error) => return Finding::fail(name, error.to_string(), error.help()),
    };
    let worst = chain.iter().map(|certificate| judge(name, certificate, now)).max_by_key(|finding| finding.health);
    worst.unwrap_or_else(|| {
        Finding::fail(name, format!("`{}` has no certificate in it", file.display()), "give a PEM file")
    })
}

fn judge(name: &str, certificate: &CertificateDer<'_>, now: Timestamp) -> Finding {
    let Ok((_, parsed)) = X509Certificate::from_der(certificate) else {
        return Finding::fail(name, "the certificate is malformed".into(), "replace it");
    };
    let subject = parsed.subject().to_string();
    let starts = Timestamp::from_seconds(parsed.validity().not_before.timestamp());
    let ends = Timestamp::from_seconds(parsed.validity().not_after.timestamp());
    if now < starts {
        let detail = format!("`{subject}` is valid only from {starts}");
        return Finding::fail(name, detail, "set this machine's clock, or wait");
    }
    if ends.is_over(now) {
        return Finding::fail(
            name,
            format!("`{subject}` ended {ends}"),
            "replace it; a running door takes the new file up by itself",
        );
    }
    let left = days(ends.since(now));
    // What was made for a short life is renewed by whoever made it: half of it may pass unremarked.
    let short_lived = ends.since(starts).as_millis() / 2;
    if ends.since(now).as_millis() < RENEW_BEFORE.as_millis().min(short_lived) {
        return Finding::warn(name, format!("`{subject}` ends {ends}, in {left}"), "renew it");
    }
    Finding::ok(name, format!("`{subject}` ends {ends}, in {left}"))
}

fn days(ttl: Ttl) -> String {
    const DAY_SECONDS: i64 = 86_400;
    match ttl.as_seconds() / DAY_SECONDS {
        0 => ttl.to_string(),
        1 => "1 day".to_owned(),
        days => format!("{days} days"),
    }
}

/// Who may read keys and secrets, and who may replace the configuration and policies.
#[must_use]
pub fn file_modes(config: &Config) -> Vec<Finding> {
    let mut findings = vec![
        readable_by_owner("key server.tls", &config.server.tls.key),
        readable_by_owner("key trust.client_ca", &config.trust.client_ca.key),
        writable_by_owner("configuration", &config.path),
        writable_by_owner("policies", &config.policies.dir),
    ];
    let secrets = config.secret_files.iter();
    findings.extend(secrets.map(|(name, file)| readable_by_owner(&format!("secret {name}"), file)));
    if let Some(file) = config.storage.sqlite_file().filter(|file| file.exists()) {
        findings.push(readable_by_owner("database", &file));
    }
    findings
}

fn readable_by_owner(name: &str, file: &Path) -> Finding {
    by_mode(name, file, 0o077, "others than its owner may read it", |file| format!("chmod 600 {file}"))
}

fn writable_by_owner(name: &str, file: &Path) -> Finding {
    by_mode(name, file, 0o022, "others than its owner may change it", |file| format!("chmod go-w {file}"))
}

fn by_mode(name: &str, file: &Path, refused: u32, why: &str, fix: impl Fn(String) -> String) -> Finding {
    let name = format!("file mode of {name}");
    match std::fs::metadata(file) {
        Ok(metadata) => {
            let mode = metadata.permissions().mode() & 0o7777;
            let shown = format!("`{}` is {mode:04o}, owner {}", file.display(), metadata.uid());
            match mode & refused {
                0 => Finding::ok(&name, shown),
                _ => Finding::warn(&name, format!("{shown}: {why}"), &fix(file.display().to_string())),
            }
        }
        Err(error) => Finding::fail(&name, format!("`{}`: {error}", file.display()), "check the path"),
    }
}

/// What providers say of our clock: each by its name, and by how many milliseconds we are ahead of it. The one
/// furthest off counts; none where nobody said a time.
#[must_use]
pub fn clock(told: &[(String, i64)]) -> Option<Finding> {
    let (provider, ahead) = told.iter().max_by_key(|(_, ahead)| ahead.unsigned_abs())?;
    let fix = "have this machine's clock set by NTP (`timedatectl`); if it is right, the provider's is wrong";
    Some(clock_off("clock", &format!("the provider `{provider}`"), *ahead, fix))
}

/// The database's clock, of which we are so many milliseconds ahead.
#[must_use]
pub fn clock_of_database(ahead: i64) -> Finding {
    let fix = "have this machine's clock and the database's set by NTP (`timedatectl`): a node grants nothing new while \
               they are more than 5 s apart (deploy/runbooks/clock.md)";
    clock_off("clock and database", "the database", ahead, fix)
}

fn clock_off(name: &str, whose: &str, ahead: i64, fix: &str) -> Finding {
    let way = if ahead < 0 { "behind" } else { "ahead of" };
    let off = ahead.unsigned_abs();
    let seconds = off.div_ceil(1000);
    let seen = format!("this machine is {seconds} s {way} {whose}");
    if off <= CLOCK_WARN_MILLIS {
        Finding::ok(name, format!("within 5 s of what {whose} says"))
    } else if off <= CLOCK_FAIL_MILLIS {
        Finding::warn(name, seen, fix)
    } else {
        Finding::fail(name, seen, fix)
    }
}

/// Whether something listens at each upstream: `(service, host, port)`. All are asked at once.
pub async fn upstreams(upstreams: &[(String, String, u16)]) -> Vec<Finding> {
    futures_util::future::join_all(upstreams.iter().map(|(service, host, port)| reach(service, host, *port))).await
}

async fn reach(service: &str, host: &str, port: u16) -> Finding {
    let name = format!("upstream of {service}");
    let connected = tokio::time::timeout(CONNECT_TIMEOUT, TcpStream::connect((host, port))).await;
    let fix = "start the upstream, or correct `upstreams` in its service.toml";
    match connected {
        Ok(Ok(_)) => Finding::ok(&name, format!("`{host}:{port}` takes connections")),
        Ok(Err(error)) => Finding::fail(&name, format!("`{host}:{port}`: {error}"), fix),
        Err(_) => Finding::fail(&name, format!("`{host}:{port}` does not answer within 3 s"), fix),
    }
}
