//! `doorward dev`: an ordinary installation in a folder, with a provider and an upstream beside it.
//!
//! Everything listens on loopback. Addresses are chosen before anything is written, so that the
//! `doorward.toml` is one that `doorward serve` can run while `doorward dev --parts-only` keeps
//! provider and upstream running.

use std::fmt;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::{Value, json};

use crate::config::{InitOptions, InitProvider};
use crate::gateway::listener;
use crate::model::{Clock, Entropy, Secret};
use crate::server::examples::POLICIES;
use crate::server::installation::{CreateError, create};

use super::provider::{DevProvider, DevProviderSettings};
use super::upstream::DevUpstream;

/// The domain of `dev`: resolvers answer names below `localhost` with loopback (RFC 6761 §6.3).
pub const DOMAIN: &str = "doorward.localhost";
/// What the example policies name as their upstream, to be replaced by the sample upstream.
const EXAMPLE_UPSTREAM: &str = "http://127.0.0.1:9080";
/// Where provider and upstream of a folder are, so that they can come back.
const PARTS_FILE: &str = "dev.json";
const CLIENT_ID: &str = "doorward";
const TELEMETRY_PORT: u16 = 9464;

/// What the caller decides.
#[derive(Debug, Clone)]
pub struct DevOptions {
    /// The folder; made if it isn't there.
    pub dir: PathBuf,
    /// Where the door listens: loopback, port 0 for a free one.
    pub listen: SocketAddr,
    /// A database other than SQLite in the folder.
    pub database: Option<String>,
}

/// Why there is no door to develop against.
#[derive(Debug)]
pub enum DevError {
    /// Not on loopback.
    NotLoopback(SocketAddr),
    /// A port is taken.
    Taken { address: SocketAddr, what: &'static str, cause: io::Error },
    /// The provider's port is taken, and its address is what the folder's people are known by.
    ProviderTaken { address: SocketAddr, cause: io::Error },
    /// The folder's files can't be made.
    Create(CreateError),
    /// The folder's files can't be read.
    Files { path: PathBuf, cause: String },
}

impl fmt::Display for DevError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotLoopback(address) => write!(
                f,
                "`doorward dev` signs in whoever asks, so it listens on loopback only, not on {address}; use `127.0.0.1:PORT`"
            ),
            Self::Taken { address, what, cause } => {
                write!(
                    f,
                    "listening on {address} for {what}: {cause}; free it, or take a free port with `--listen 127.0.0.1:0`"
                )
            }
            Self::ProviderTaken { address, cause } => write!(
                f,
                "listening on {address} for the development provider: {cause}; this folder's people are known by that \
                 address, so free it, or take another `--dir`"
            ),
            Self::Create(error) => error.fmt(f),
            Self::Files { path, cause } => {
                write!(f, "`{}` can't be used: {cause}; take another `--dir`", path.display())
            }
        }
    }
}

impl std::error::Error for DevError {}

/// Provider and upstream, bound, and the installation that goes with them.
pub struct Parts {
    /// The installation's folder.
    pub dir: PathBuf,
    /// Its `doorward.toml`.
    pub config: PathBuf,
    /// Where the door is to listen.
    pub listen: SocketAddr,
    /// The door's socket, unless something else is to listen.
    pub listener: std::net::TcpListener,
    /// The provider, to be served.
    pub provider: DevProvider,
    /// The sample upstream, to be served.
    pub upstream: DevUpstream,
}

fn loopback(port: u16) -> SocketAddr {
    SocketAddr::from((Ipv4Addr::LOCALHOST, port))
}

fn taken(address: SocketAddr, what: &'static str) -> impl FnOnce(io::Error) -> DevError {
    move |cause| DevError::Taken { address, what, cause }
}

/// A port that is free at this moment.
fn free_port() -> io::Result<u16> {
    Ok(std::net::TcpListener::bind(loopback(0))?.local_addr()?.port())
}

/// Makes the installation, or takes the one that is there, and binds everything.
///
/// # Errors
/// What is in the way, with nothing half-made.
pub async fn prepare(
    options: &DevOptions,
    clock: &Arc<dyn Clock>,
    entropy: &Arc<dyn Entropy>,
) -> Result<Parts, DevError> {
    if !options.listen.ip().is_loopback() {
        return Err(DevError::NotLoopback(options.listen));
    }
    let config = options.dir.join("doorward.toml");
    if config.exists() { again(options, config, clock, entropy).await } else { fresh(options, clock, entropy).await }
}

fn open(address: SocketAddr) -> Result<(std::net::TcpListener, SocketAddr), DevError> {
    let what = "the door";
    if address.port() != 0 {
        listener::probe(address).map_err(taken(address, what))?;
    }
    let socket = listener::open(address).map_err(taken(address, what))?;
    let bound = socket.local_addr().map_err(taken(address, what))?;
    Ok((socket, bound))
}

async fn provider_at(
    address: SocketAddr,
    door_port: u16,
    secret: Secret<String>,
    dir: &Path,
    clock: &Arc<dyn Clock>,
    entropy: &Arc<dyn Entropy>,
) -> Result<DevProvider, DevError> {
    let settings = DevProviderSettings {
        client_id: CLIENT_ID.to_owned(),
        client_secret: secret,
        redirect_uris: vec![format!("{}/signin/callback", origin(door_port))],
        key_file: Some(dir.join("keys").join("dev-provider.key")),
    };
    DevProvider::bind(address, settings, Arc::clone(clock), Arc::clone(entropy))
        .await
        .map_err(taken(address, "the development provider"))
}

fn origin(port: u16) -> String {
    if port == 443 { format!("https://{DOMAIN}") } else { format!("https://{DOMAIN}:{port}") }
}

fn files(path: &Path) -> impl FnOnce(io::Error) -> DevError + '_ {
    move |cause| DevError::Files { path: path.to_path_buf(), cause: cause.to_string() }
}

async fn fresh(options: &DevOptions, clock: &Arc<dyn Clock>, entropy: &Arc<dyn Entropy>) -> Result<Parts, DevError> {
    let dir = &options.dir;
    let keys = dir.join("keys");
    std::fs::create_dir_all(dir).map_err(files(dir))?;
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&keys).map_err(files(&keys))?;
    let dir = &dir.canonicalize().map_err(files(dir))?;
    let (listener, listen) = open(options.listen)?;
    let upstream =
        DevUpstream::bind(loopback(0), Arc::clone(clock)).await.map_err(taken(loopback(0), "the sample upstream"))?;
    let secret = data_encoding::BASE64URL_NOPAD.encode(&entropy.bytes_32());
    let provider = provider_at(loopback(0), listen.port(), Secret::new(secret.clone()), dir, clock, entropy).await?;
    let telemetry_port = match options.listen.port() {
        0 => free_port().map_err(taken(loopback(0), "metrics"))?,
        // Nobody asked for this one: where it is taken, another does.
        _ if std::net::TcpListener::bind(loopback(TELEMETRY_PORT)).is_ok() => TELEMETRY_PORT,
        _ => free_port().map_err(taken(loopback(0), "metrics"))?,
    };
    let installation = InitOptions {
        listen,
        control_host: DOMAIN.to_owned(),
        storage_url: options.database.clone().unwrap_or_else(|| "sqlite://doorward.db".to_owned()),
        telemetry: Some(loopback(telemetry_port)),
        witness: Some("witness.checkpoints".to_owned()),
        providers: vec![InitProvider {
            name: "dev".to_owned(),
            issuer: provider.issuer().to_owned(),
            client_id: CLIENT_ID.to_owned(),
            client_secret: Secret::new(secret),
            scopes: vec!["groups".to_owned(), "offline_access".to_owned()],
            groups: ["engineering", "release-managers", "security", "auditors"]
                .map(|group| (group.to_owned(), group.to_owned()))
                .to_vec(),
            allow_loopback: true,
            development: true,
        }],
        ..InitOptions::for_domain(DOMAIN)
    };
    let upstream_url = format!("http://{}", upstream.address());
    let examples: Vec<(&str, String)> =
        POLICIES.iter().map(|(path, text)| (*path, text.replace(EXAMPLE_UPSTREAM, &upstream_url))).collect();
    let examples: Vec<(&str, &str)> = examples.iter().map(|(path, text)| (*path, text.as_str())).collect();
    let config = create(dir, &installation, &examples, clock.now(), &**entropy).map_err(DevError::Create)?;
    let parts = json!({ "door": listen.to_string(), "provider": provider.issuer(), "upstream": upstream.address().to_string() });
    let path = dir.join(PARTS_FILE);
    std::fs::write(&path, format!("{parts:#}\n")).map_err(files(&path))?;
    Ok(Parts { dir: dir.clone(), config, listen, listener, provider, upstream })
}

/// Where the parts of a folder listen that may move.
#[derive(Debug, PartialEq, Eq)]
struct Addresses {
    door: SocketAddr,
    upstream: SocketAddr,
    telemetry: Option<SocketAddr>,
}

/// Where a folder's door listened last; none where there is no folder yet.
#[must_use]
pub fn remembered(dir: &Path) -> Option<SocketAddr> {
    let parts: Value = serde_json::from_str(&std::fs::read_to_string(dir.join(PARTS_FILE)).ok()?).ok()?;
    parts.get("door")?.as_str()?.parse().ok()
}

/// `telemetry.listen` of the configuration, where there is an address.
fn telemetry(config: &Path) -> Result<Option<SocketAddr>, DevError> {
    let text = std::fs::read_to_string(config).map_err(files(config))?;
    let table: toml::Table = text
        .parse()
        .map_err(|error: toml::de::Error| DevError::Files { path: config.to_path_buf(), cause: error.to_string() })?;
    let listen = table.get("telemetry").and_then(|section| section.get("listen")).and_then(toml::Value::as_str);
    Ok(listen.and_then(|listen| listen.parse().ok()))
}

/// Writes the new addresses where the old ones stand, as `fresh` wrote them; all else stays.
fn moved(dir: &Path, config: &Path, before: &Addresses, now: &Addresses) -> Result<(), DevError> {
    let rewrite = |path: &Path, pairs: &[(String, String)]| {
        let text = std::fs::read_to_string(path).map_err(files(path))?;
        let new = pairs.iter().fold(text.clone(), |text, (old, new)| text.replace(old, new));
        if new == text { Ok(()) } else { std::fs::write(path, new).map_err(files(path)) }
    };
    let listen = |address: SocketAddr| format!("listen = \"{address}\"");
    let callback = |address: SocketAddr| format!("{}/signin/callback\n", origin(address.port()));
    let mut pairs = vec![(callback(before.door), callback(now.door))];
    // The two that listen must not be taken for each other: first all of one, then of the other.
    if let (Some(old), Some(new)) = (before.telemetry, now.telemetry) {
        pairs.push((listen(old), "listen = \"telemetry\"".to_owned()));
        pairs.push((listen(before.door), listen(now.door)));
        pairs.push(("listen = \"telemetry\"".to_owned(), listen(new)));
    } else {
        pairs.push((listen(before.door), listen(now.door)));
    }
    rewrite(config, &pairs)?;
    if before.upstream == now.upstream {
        return Ok(());
    }
    let upstream = [(format!("\"http://{}\"", before.upstream), format!("\"http://{}\"", now.upstream))];
    let policies = dir.join("policies");
    for entry in std::fs::read_dir(&policies).map_err(files(&policies))?.flatten() {
        let service = entry.path().join("service.toml");
        if service.is_file() {
            rewrite(&service, &upstream)?;
        }
    }
    Ok(())
}

async fn again(
    options: &DevOptions,
    config: PathBuf,
    clock: &Arc<dyn Clock>,
    entropy: &Arc<dyn Entropy>,
) -> Result<Parts, DevError> {
    let dir = options.dir.canonicalize().map_err(files(&options.dir))?;
    let path = dir.join(PARTS_FILE);
    let text = std::fs::read_to_string(&path).map_err(files(&path))?;
    let wrong = |cause: &str| DevError::Files { path: path.clone(), cause: cause.to_owned() };
    let parts: Value = serde_json::from_str(&text).map_err(|error| wrong(&error.to_string()))?;
    let address = |name: &str| -> Result<SocketAddr, DevError> {
        let text = parts.get(name).and_then(Value::as_str).ok_or_else(|| wrong("an address is missing"))?;
        text.trim_start_matches("http://").parse().map_err(|_| wrong("an address can't be read"))
    };
    let before = Addresses { door: address("door")?, upstream: address("upstream")?, telemetry: telemetry(&config)? };
    let (listener, listen) = match options.listen {
        any if any.port() == 0 && any.ip() == before.door.ip() => open(before.door).or_else(|_| open(any))?,
        asked => open(asked)?,
    };
    let secret_path = dir.join("keys").join("dev.secret");
    let secret = std::fs::read_to_string(&secret_path).map_err(files(&secret_path))?.trim().to_owned();
    let provider = provider_at(address("provider")?, listen.port(), Secret::new(secret), &dir, clock, entropy).await;
    let provider = provider.map_err(|error| match error {
        DevError::Taken { address, cause, .. } => DevError::ProviderTaken { address, cause },
        error => error,
    })?;
    // Nobody asked for these two by their ports.
    let upstream = match DevUpstream::bind(before.upstream, Arc::clone(clock)).await {
        Ok(upstream) => upstream,
        Err(_) => DevUpstream::bind(loopback(0), Arc::clone(clock))
            .await
            .map_err(taken(loopback(0), "the sample upstream"))?,
    };
    let telemetry = match before.telemetry {
        Some(address) if std::net::TcpListener::bind(address).is_err() => {
            Some(loopback(free_port().map_err(taken(loopback(0), "metrics"))?))
        }
        as_before => as_before,
    };
    let now = Addresses { door: listen, upstream: upstream.address(), telemetry };
    if now != before {
        moved(&dir, &config, &before, &now)?;
        let parts = json!({ "door": now.door.to_string(), "provider": provider.issuer(), "upstream": now.upstream.to_string() });
        std::fs::write(&path, format!("{parts:#}\n")).map_err(files(&path))?;
    }
    Ok(Parts { dir, config, listen, listener, provider, upstream })
}
