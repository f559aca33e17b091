//! `[keys]`, `[storage]`, `[audit]`, `[policies]` and `[telemetry]`.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use data_encoding::BASE64;
use percent_encoding::{AsciiSet, CONTROLS, percent_decode_str, utf8_percent_encode};

use crate::audit::keep::settings::KeepRule;
use crate::audit::settings::RETENTION_MIN;
use crate::model::{Secret, Ttl};
use crate::outbound::settings::{Forbidden, SyslogSettings, check_address};

use super::section::Section;
use super::stream::{Stream, read_streams, read_syslog};

/// What seals the signing keys.
#[derive(Debug, Clone)]
pub struct Keys {
    /// `key_encryption_key`: 32 bytes, given in base64.
    pub key_encryption_key: Arc<Secret<[u8; 32]>>,
}

/// The database.
#[derive(Debug, Clone)]
pub struct Storage {
    /// `url`: `sqlite:///absolute/path` or `postgres://…`. May hold a password.
    pub url: Arc<Secret<String>>,
}

impl Storage {
    /// The file of an SQLite database.
    #[must_use]
    pub fn sqlite_file(&self) -> Option<PathBuf> {
        let rest = self.url.expose().strip_prefix("sqlite://")?;
        let path = rest.split_once('?').map_or(rest, |(path, _)| path);
        Some(PathBuf::from(percent_decode_str(path).decode_utf8().ok()?.into_owned()))
    }

    /// The URL for who only looks: an SQLite file that is not there is not made.
    #[must_use]
    pub fn url_to_look(&self) -> Secret<String> {
        let url = self.url.expose();
        if !url.starts_with("sqlite:") {
            return Secret::new(url.clone());
        }
        let (file, query) = url.split_once('?').unwrap_or((url, ""));
        let kept = query.split('&').filter(|part| !part.is_empty() && !part.starts_with("mode="));
        let query: Vec<&str> = kept.chain(["mode=rw"]).collect();
        Secret::new(format!("{file}?{}", query.join("&")))
    }

    /// The URL without what stands before the host: for logs and `doctor`.
    #[must_use]
    pub fn shown(&self) -> String {
        let url = self.url.expose();
        match url.split_once("://") {
            Some((scheme, rest)) => {
                let rest = rest.split_once('?').map_or(rest, |(rest, _)| rest);
                let end = rest.find('/').unwrap_or(rest.len());
                let from = rest.get(..end).and_then(|authority| authority.rfind('@')).map_or(0, |at| at + 1);
                format!("{scheme}://{}", rest.get(from..).unwrap_or_default())
            }
            None => String::new(),
        }
    }
}

/// When a decision may be acted on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Durability {
    /// Once it is on disk.
    #[default]
    Durable,
    /// At once; at most a second of decisions can be lost, and what is lost is counted.
    Buffered,
}

/// How long events keep their content: longer than the twelve months of PCI DSS 10.5.1.
const RETENTION: Ttl = Ttl::hours(24 * 400);

/// How the record is kept.
#[derive(Debug, Clone)]
pub struct Audit {
    /// `requests`: for services that say nothing of their own. Default `durable`.
    pub requests: Durability,
    /// `retention`: how long events keep their content. Default 400 days.
    pub retention: Ttl,
    /// `witnesses`: where checkpoints go.
    pub witnesses: Vec<Witness>,
    /// `[[audit.stream]]`: who gets the record as it grows.
    pub streams: Vec<Stream>,
    /// `spool` and `spool_megabytes`.
    pub spool: Spool,
    /// `[[audit.keep]]`: what an erasure of a person must leave.
    pub keep: Vec<KeepRule>,
}

/// Somebody who keeps checkpoints, so that the end of the record can't be cut unseen.
#[derive(Debug, Clone)]
pub enum Witness {
    /// An append-only file.
    File(PathBuf),
    /// A URL that takes each checkpoint as a POST.
    Webhook {
        /// `https://…`
        url: String,
        /// Whether it may be on this machine.
        allow_loopback: bool,
    },
    /// A syslog receiver that takes each checkpoint as a message.
    Syslog(SyslogSettings),
}

/// Where decisions go while the database is away.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Spool {
    /// `off`: nowhere; requests are refused meanwhile.
    Off,
    /// A file.
    File {
        /// The file: of a folder, `doorward.spool` in it.
        path: PathBuf,
        /// The room that is taken for it.
        bytes: u64,
        /// Whether the configuration names it. One that it does not name is left out where it can't
        /// be; one that it names is an error there.
        named: bool,
    },
}

impl Spool {
    /// The name of the file in its folder.
    const FILE: &str = "doorward.spool";
    /// Megabytes that are taken where the configuration says nothing: some forty thousand requests.
    const MEGABYTES: u32 = 64;
}

/// Where policies are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Policies {
    /// `dir`. Default `policies` beside the configuration.
    pub dir: PathBuf,
    /// `stale_max`: without news of revocations for so long, ordinary callers are refused. Default 60 s.
    pub stale_max: Ttl,
}

/// The plain listener for metrics and health.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Telemetry {
    /// `listen`: default `127.0.0.1:9464`; `off` for none.
    pub listen: Option<SocketAddr>,
}

pub(in crate::config) fn read_keys(mut section: Section<'_>) -> Option<Keys> {
    section.not_built("pkcs11");
    let help = "32 random bytes in base64: `openssl rand -base64 32 > FILE`, mode 0600; `doorward init` makes one";
    if !section.has("key_encryption_key") {
        section.missing("key_encryption_key", help);
    }
    let text = section.secret("key_encryption_key")?;
    let decoded = BASE64.decode(text.expose().trim().as_bytes()).ok();
    let Some(bytes) = decoded.and_then(|bytes| <[u8; 32]>::try_from(bytes).ok()) else {
        section.error("key_encryption_key", "`keys.key_encryption_key` is not 32 bytes in base64".into(), help);
        return None;
    };
    Some(Keys { key_encryption_key: Arc::new(Secret::new(bytes)) })
}

pub(in crate::config) fn read_storage(mut section: Section<'_>) -> Option<Storage> {
    let help = "write `sqlite://doorward.db` or `postgres://user@host/database`; with a password, `{ file = \"…\" }` or `{ env = \"…\" }`";
    if !section.has("url") {
        section.missing("url", help);
        return None;
    }
    let text = match section.is_text("url") {
        true => Arc::new(Secret::new(section.text("url")?)),
        false => section.secret("url")?,
    };
    let url = text.expose().trim();
    if let Some(file) = url.strip_prefix("sqlite://") {
        if file.is_empty() || file.starts_with(":memory:") {
            section.error("url", "`storage.url` names no file".into(), help);
            return None;
        }
        return Some(Storage { url: Arc::new(Secret::new(absolute_sqlite(file, section.folder()))) });
    }
    if url.starts_with("postgres://") || url.starts_with("postgresql://") {
        let Ok(parsed) = url::Url::parse(url) else {
            section.error("url", "`storage.url` is not a URL".into(), help);
            return None;
        };
        if section.is_text("url") && parsed.password().is_some() {
            let message = "`storage.url` has a password and stands in the file itself".to_owned();
            let help = "write the whole URL to a file and give `url = { file = \"…\" }`, or `{ env = \"…\" }`";
            section.error("url", message, help);
        }
        return Some(Storage { url: Arc::new(Secret::new(url.to_owned())) });
    }
    section.error("url", "`storage.url` is neither SQLite nor PostgreSQL".into(), help);
    None
}

/// What a path in an SQLite URL must not say plainly: the driver decodes `%`, and `?` ends the path.
const PATH_SET: &AsciiSet = &CONTROLS.add(b'%').add(b'?').add(b'#').add(b' ');

fn absolute_sqlite(file: &str, folder: &Path) -> String {
    let (path, query) = file.split_once('?').map_or((file, None), |(path, query)| (path, Some(query)));
    let decoded = percent_decode_str(path).decode_utf8_lossy().into_owned();
    let absolute = folder.join(decoded);
    let mut url = format!("sqlite://{}", utf8_percent_encode(&absolute.to_string_lossy(), PATH_SET));
    if let Some(query) = query {
        url.push('?');
        url.push_str(query);
    }
    url
}

pub(in crate::config) fn read_audit(mut section: Section<'_>, storage: Option<&Storage>) -> Audit {
    let retention = section.ttl("retention", RETENTION, RETENTION_MIN..=Ttl::hours(24 * 36500));
    let witnesses = section.sections("witnesses").into_iter().filter_map(read_witness).collect();
    let requests = section.parsed("requests", "`durable` or `buffered`", |text| match text {
        "durable" => Some(Durability::Durable),
        "buffered" => Some(Durability::Buffered),
        _ => None,
    });
    let spool = read_spool(&mut section, storage);
    let streams = read_streams(&mut section);
    let keep = super::keep::read(section.sections("keep"), retention);
    Audit { requests: requests.unwrap_or_default(), retention, witnesses, streams, spool, keep }
}

fn read_spool(section: &mut Section<'_>, storage: Option<&Storage>) -> Spool {
    let megabytes = section.count("spool_megabytes", Spool::MEGABYTES, 1..=65_536);
    let named = section.has("spool");
    // Asked as a text and as a path: `off` is no path.
    if named && section.text("spool").as_deref() == Some("off") {
        return Spool::Off;
    }
    let beside = storage.and_then(Storage::sqlite_file).and_then(|file| file.parent().map(Path::to_path_buf));
    let path = section.path("spool").unwrap_or_else(|| beside.unwrap_or_else(|| section.folder().to_path_buf()));
    let path = if path.is_dir() { path.join(Spool::FILE) } else { path };
    if let Some(folder) = path.parent().filter(|folder| named && !folder.is_dir()) {
        let message = format!("the folder `{}` for the spool is not there", folder.display());
        section.error("spool", message, "make the folder, or give another path; `spool = \"off\"` for none");
    } else if let Some(folder) = path.parent().filter(|folder| named && has_no_room_ever(folder)) {
        let message = format!("`{}` is no place for the spool: nothing can be kept there", folder.display());
        section.error("spool", message, "give a path on a disk; `spool = \"off\"` for none");
    }
    Spool::File { path, bytes: u64::from(megabytes) * 1024 * 1024, named }
}

/// Whether it is one of the kernel's own file systems, such as `/proc`: they have no blocks.
fn has_no_room_ever(folder: &Path) -> bool {
    rustix::fs::statvfs(folder).is_ok_and(|about| about.f_blocks == 0)
}

fn read_witness(mut section: Section<'_>) -> Option<Witness> {
    /// The first three say which kind it is, the others go with one of them.
    const KEYS: [&str; 7] = ["file", "webhook", "syslog", "ca", "certificate", "key", "allow_loopback"];
    let given: Vec<_> = KEYS.into_iter().take(3).filter(|kind| section.has(kind)).collect();
    if let [first, _, ..] = given.as_slice() {
        let message = "a witness is a file, a webhook or a syslog receiver, and only one of them".to_owned();
        section.error(first, message, "write one witness for each");
        KEYS.into_iter().for_each(|key| section.skip(key));
        return None;
    }
    match given.first() {
        Some(&"file") => {
            section.skip("allow_loopback");
            let file = section.path("file")?;
            if let Some(fault) = witness_file_fault(&file) {
                section.error("file", fault, "name a file in a folder that is there; the file itself is made");
            }
            Some(Witness::File(file))
        }
        Some(&"webhook") => {
            let allow_loopback = section.flag("allow_loopback");
            let url = section.parsed("webhook", "a URL `https://…`", |text| {
                let url = url::Url::parse(text).ok()?;
                (url.scheme() == "https" || (allow_loopback && url.scheme() == "http")).then(|| text.to_owned())
            })?;
            if let Some(why) = address_fault(&url, allow_loopback) {
                let message = format!("nothing is sent to the witness `{}`: {why}", url.escape_debug());
                section.error("webhook", message, "name a host that keeps checkpoints away from this machine");
            }
            Some(Witness::Webhook { url, allow_loopback })
        }
        Some(_) => read_syslog(&mut section, "syslog").map(Witness::Syslog),
        None => {
            let forms = "`{ file = \"…\" }`, `{ webhook = \"https://…\" }` or `{ syslog = \"host:6514\" }`";
            section.missing("file", &format!("a witness is {forms}"));
            KEYS.into_iter().for_each(|key| section.skip(key));
            None
        }
    }
}

/// Why checkpoints can't be kept in this file; what can be seen without writing to it.
#[must_use]
pub fn witness_file_fault(file: &Path) -> Option<String> {
    match std::fs::metadata(file) {
        Ok(about) if about.is_dir() => {
            Some(format!("the witness `{}` is a folder, where a file is needed", file.display()))
        }
        Ok(_) => None,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            let folder = file.parent().filter(|folder| !folder.is_dir())?;
            Some(format!("the folder `{}` for the witness is not there", folder.display()))
        }
        Err(error) => Some(format!("the witness `{}` can't be used: {error}", file.display())),
    }
}

/// Why this address is never spoken to, as far as it can be said without asking for its name.
fn address_fault(url: &str, allow_loopback: bool) -> Option<Forbidden> {
    let judged = |address| check_address(address, allow_loopback).err();
    match url::Url::parse(url).ok()?.host()? {
        url::Host::Ipv4(address) => judged(address.into()),
        url::Host::Ipv6(address) => judged(address.into()),
        url::Host::Domain(name) => {
            let here = name == "localhost" || name.ends_with(".localhost");
            (here && !allow_loopback).then_some(Forbidden::Loopback)
        }
    }
}

pub(in crate::config) fn read_policies(mut section: Section<'_>) -> Policies {
    let dir = section.path("dir").unwrap_or_else(|| section.folder().join("policies"));
    let stale_max = section.ttl("stale_max", Ttl::seconds(60), Ttl::seconds(5)..=Ttl::hours(24));
    if !dir.is_dir() {
        let message = format!("the policies' folder `{}` is not there", dir.display());
        section.error(
            "dir",
            message,
            "give the folder that has one folder for each service; `doorward init` makes examples",
        );
    }
    Policies { dir, stale_max }
}

pub(in crate::config) fn read_telemetry(mut section: Section<'_>) -> Telemetry {
    let default = SocketAddr::from(([127, 0, 0, 1], 9464));
    let form = "an address and port such as `127.0.0.1:9464`, or `off`";
    let listen = section.parsed("listen", form, |text| match text {
        "off" => Some(None),
        address => address.parse::<SocketAddr>().ok().map(Some),
    });
    let listen = listen.unwrap_or(Some(default));
    if let Some(address) = listen.filter(|address| !address.ip().is_loopback()) {
        let message = format!("`telemetry.listen` is {address}: metrics and health are plain HTTP without sign-in");
        let help = "listen on loopback, or make sure that only your monitoring reaches that address";
        section.ledger().warning(&section.place_of("listen"), message, Some(help.into()));
    }
    Telemetry { listen }
}
