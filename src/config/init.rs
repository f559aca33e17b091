//! A new installation on disk: a commented `doorward.toml`, keys, and example policies.
//!
//! INVARIANT: nothing that exists is overwritten. Every path is looked at before the first is
//! written, and each file is created with `create_new`, so a second `init` at the same moment
//! can't replace a key either. Keys are created with mode 0600, never narrowed afterwards.

use std::fmt;
use std::fs::{DirBuilder, OpenOptions};
use std::io::{self, Write};
use std::net::SocketAddr;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Component, Path, PathBuf};

use data_encoding::BASE64;

use crate::model::Secret;

const TEMPLATE: &str = include_str!("template.toml");
/// Where a database URL with a password is kept.
const DATABASE_URL: &str = "keys/database.url";

/// What a new installation is to be told.
#[derive(Debug)]
pub struct InitOptions {
    /// `server.listen`.
    pub listen: SocketAddr,
    /// `server.domain`.
    pub domain: String,
    /// `server.control_host`.
    pub control_host: String,
    /// `server.public_port`.
    pub public_port: Option<u16>,
    /// `storage.url`; a relative SQLite path starts at the new folder.
    /// With a password it is written to `keys/database.url`, and the file is named.
    pub storage_url: String,
    /// `telemetry.listen`; none is `off`.
    pub telemetry: Option<SocketAddr>,
    /// The file of a first witness of the record, relative to the folder.
    pub witness: Option<String>,
    /// Providers to begin with. Without any the file shows one in comments.
    pub providers: Vec<InitProvider>,
}

impl InitOptions {
    /// A door on this machine's loopback for a domain, to be changed in the file.
    #[must_use]
    pub fn for_domain(domain: &str) -> Self {
        Self {
            listen: SocketAddr::from(([127, 0, 0, 1], 8443)),
            domain: domain.to_owned(),
            control_host: format!("door.{domain}"),
            public_port: None,
            storage_url: "sqlite://doorward.db".to_owned(),
            telemetry: Some(SocketAddr::from(([127, 0, 0, 1], 9464))),
            witness: None,
            providers: Vec::new(),
        }
    }

    /// The names that the server's certificate has to cover.
    #[must_use]
    pub fn certificate_names(&self) -> Vec<String> {
        let mut names = vec![self.control_host.clone(), format!("*.{}", self.domain)];
        names.dedup();
        names
    }
}

/// A provider of the new file.
#[derive(Debug)]
pub struct InitProvider {
    /// Its local name.
    pub name: String,
    /// Its issuer.
    pub issuer: String,
    /// Our id there.
    pub client_id: String,
    /// Written to `keys/<name>.secret`.
    pub client_secret: Secret<String>,
    /// Scopes beside `openid profile email`.
    pub scopes: Vec<String>,
    /// Groups by claim value; none leaves them as `<name>|<value>`.
    pub groups: Vec<(String, String)>,
    /// Whether it may be on this machine.
    pub allow_loopback: bool,
    /// Whether it is that of `doorward dev`.
    pub development: bool,
}

/// What was made for the installation, all PEM but the last.
pub struct InitKeys {
    /// The authority's certificate: `keys/ca.crt`.
    pub ca_certificate: String,
    /// Its key: `keys/ca.key`.
    pub ca_key: Secret<String>,
    /// The door's chain, leaf first: `keys/server.crt`.
    pub server_certificate: String,
    /// Its key: `keys/server.key`.
    pub server_key: Secret<String>,
    /// What seals the signing keys: `keys/key-encryption.key`, in base64.
    pub key_encryption_key: Secret<[u8; 32]>,
}

/// Why nothing, or not everything, was written.
#[derive(Debug)]
pub enum InitError {
    /// Something is there already; nothing was written.
    Exists(PathBuf),
    /// The path of an example leaves the policies' folder.
    Outside(String),
    /// The provider's name is none, so no file can be named after it.
    ProviderName(String),
    /// A file could not be written.
    Write { path: PathBuf, cause: io::Error },
}

impl fmt::Display for InitError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exists(path) => write!(
                f,
                "`{}` exists and is not overwritten; give another folder with `--dir`, or move it away",
                path.display()
            ),
            Self::Outside(path) => write!(f, "`{path}` is not a path inside the policies' folder"),
            Self::ProviderName(name) => write!(
                f,
                "`{}` is not a provider's name; use `a-z`, `0-9`, `-` and `_`, a letter first",
                name.escape_debug()
            ),
            Self::Write { path, cause } => write!(f, "`{}` can't be written: {cause}", path.display()),
        }
    }
}

impl std::error::Error for InitError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Write { cause, .. } => Some(cause),
            _ => None,
        }
    }
}

/// Writes a new installation and answers the path of its `doorward.toml`. `examples` are paths
/// below `policies/` with their texts.
///
/// # Errors
/// When anything that would be written exists, or can't be written.
pub fn write_installation(
    dir: &Path,
    options: &InitOptions,
    keys: &InitKeys,
    examples: &[(&str, &str)],
) -> Result<PathBuf, InitError> {
    for provider in &options.providers {
        if super::name::parse(&provider.name).is_none() {
            return Err(InitError::ProviderName(provider.name.clone()));
        }
    }
    let sealed = BASE64.encode(keys.key_encryption_key.expose());
    let config = dir.join("doorward.toml");
    let mut files = vec![
        New::public("keys/ca.crt", keys.ca_certificate.clone()),
        New::private("keys/ca.key", keys.ca_key.expose().clone()),
        New::public("keys/server.crt", keys.server_certificate.clone()),
        New::private("keys/server.key", keys.server_key.expose().clone()),
        New::private("keys/key-encryption.key", format!("{sealed}\n")),
    ];
    for provider in &options.providers {
        let text = format!("{}\n", provider.client_secret.expose());
        files.push(New::private(&secret_path(provider), text));
    }
    if has_password(&options.storage_url) {
        files.push(New::private(DATABASE_URL, format!("{}\n", options.storage_url)));
    }
    for (path, text) in examples {
        if !Path::new(path).components().all(|part| matches!(part, Component::Normal(_))) {
            return Err(InitError::Outside((*path).to_owned()));
        }
        files.push(New::public(&format!("policies/{path}"), (*text).to_owned()));
    }
    // ORDER: the configuration comes last, so that where it stands everything stands.
    files.push(New::public("doorward.toml", render(options)));
    for file in &files {
        let path = dir.join(&file.path);
        if path.symlink_metadata().is_ok() {
            return Err(InitError::Exists(path));
        }
    }
    make_folder(&dir.join("policies"), 0o755)?;
    make_folder(&dir.join("keys"), 0o700)?;
    for file in files {
        file.write(dir)?;
    }
    Ok(config)
}

struct New {
    path: PathBuf,
    text: Secret<String>,
    mode: u32,
}

impl New {
    fn public(path: &str, text: String) -> Self {
        Self { path: path.into(), text: Secret::new(text), mode: 0o644 }
    }

    fn private(path: &str, text: String) -> Self {
        Self { path: path.into(), text: Secret::new(text), mode: 0o600 }
    }

    fn write(&self, dir: &Path) -> Result<(), InitError> {
        let path = dir.join(&self.path);
        if let Some(parent) = path.parent() {
            make_folder(parent, 0o755)?;
        }
        let written =
            OpenOptions::new().write(true).create_new(true).mode(self.mode).open(&path).and_then(|mut file| {
                file.write_all(self.text.expose().as_bytes())?;
                file.sync_all()
            });
        written.map_err(|cause| match cause.kind() {
            io::ErrorKind::AlreadyExists => InitError::Exists(path),
            _ => InitError::Write { path, cause },
        })
    }
}

fn make_folder(path: &Path, mode: u32) -> Result<(), InitError> {
    let made = DirBuilder::new().recursive(true).mode(mode).create(path);
    made.map_err(|cause| InitError::Write { path: path.to_path_buf(), cause })
}

/// Whether a database URL may not stand in `doorward.toml` itself, which anybody may read.
fn has_password(storage_url: &str) -> bool {
    url::Url::parse(storage_url).is_ok_and(|url| url.password().is_some())
}

fn secret_path(provider: &InitProvider) -> String {
    format!("keys/{}.secret", provider.name)
}

/// The text of `doorward.toml`.
fn render(options: &InitOptions) -> String {
    let port = options.public_port.unwrap_or(options.listen.port());
    let port_text = if port == 443 { String::new() } else { format!(":{port}") };
    let redirect_uri = format!("https://{}{port_text}/signin/callback", options.control_host);
    let public_port = match options.public_port {
        Some(port) => format!("public_port = {port}"),
        None => "# public_port = 443".to_owned(),
    };
    let providers = match options.providers.as_slice() {
        [] => EXAMPLE_PROVIDER.to_owned(),
        providers => providers.iter().map(|provider| render_provider(provider) + "\n").collect(),
    };
    let telemetry = options.telemetry.map_or_else(|| "off".to_owned(), |address| address.to_string());
    let storage_url = match has_password(&options.storage_url) {
        true => format!("{{ file = {} }}", quoted(DATABASE_URL)),
        false => quoted(&options.storage_url),
    };
    let witnesses = options.witness.as_ref().map_or_else(
        || "# witnesses = [{ file = \"/mnt/worm/witness.checkpoints\" }, { webhook = \"https://…\" }]".to_owned(),
        |file| format!("witnesses = [{{ file = {} }}]", quoted(file)),
    );
    TEMPLATE
        .replace("{{witnesses}}", &witnesses)
        .replace("{{listen}}", &quoted(&options.listen.to_string()))
        .replace("{{domain}}", &quoted(&options.domain))
        .replace("{{control_host}}", &quoted(&options.control_host))
        .replace("{{public_port}}", &public_port)
        .replace("{{redirect_uri}}", &redirect_uri)
        .replace("{{storage_url}}", &storage_url)
        .replace("{{telemetry}}", &quoted(&telemetry))
        .replace("{{providers}}", &providers)
}

const EXAMPLE_PROVIDER: &str = r#"# [[identity.provider]]
# name = "corp"
# issuer = "https://id.example.com"
# client_id = "doorward"
# client_secret = { file = "keys/corp.secret" }
# `offline_access` where the provider wants it for the regular re-check.
# scopes = ["openid", "profile", "email"]
# Where its tokens say the groups, and what they are called here. Without a map the group of a
# value is `corp|value`; with one, values that are not in it are no group.
# groups_claim = "groups"
# groups = { "eng-all" = "engineering", "sec-team" = "security" }
# Its access tokens are taken as bearer tokens if they are made for one of these audiences: that of an API, as the
# provider calls it. Never the client id, which ID tokens are made for.
# bearer_audiences = ["https://doorward.example.com"]
# Its keys, where it can't be reached; the authority of its certificate; whether it is on this machine.
# jwks_file = "trust/corp.jwks.json"
# ca = "trust/corp.crt"
# allow_loopback = false
"#;

fn render_provider(provider: &InitProvider) -> String {
    let mut text = format!(
        "[[identity.provider]]\nname = {}\nissuer = {}\nclient_id = {}\nclient_secret = {{ file = {} }}\n",
        quoted(&provider.name),
        quoted(&provider.issuer),
        quoted(&provider.client_id),
        quoted(&secret_path(provider)),
    );
    if !provider.scopes.is_empty() {
        let scopes = ["openid", "profile", "email"].into_iter().chain(provider.scopes.iter().map(String::as_str));
        let scopes: Vec<_> = scopes.map(quoted).collect();
        text.push_str(&format!("scopes = [{}]\n", scopes.join(", ")));
    }
    if !provider.groups.is_empty() {
        let pairs: Vec<_> =
            provider.groups.iter().map(|(theirs, ours)| format!("{} = {}", quoted(theirs), quoted(ours))).collect();
        text.push_str(&format!("groups = {{ {} }}\n", pairs.join(", ")));
    }
    if provider.allow_loopback {
        text.push_str("# It runs on this machine.\nallow_loopback = true\n");
    }
    if provider.development {
        text.push_str("# It signs in whoever asks: refused unless the door listens on loopback.\ndevelopment = true\n");
    }
    text
}

/// A TOML string, escaped.
fn quoted(text: &str) -> String {
    toml::Value::String(text.to_owned()).to_string()
}
