//! `doorward.toml` and the environment, read once into typed, checked settings.
//!
//! 1. `document` parses the file and lays `DOORWARD__SECTION__KEY` over it; every value keeps its place.
//! 2. Each section's file takes its keys out of a `section::Section`, with bounds and defaults.
//! 3. `check` compares what can only be judged together: names with certificates, keys with their
//!    certificates, lifetimes with each other, the development provider with the address.
//!
//! INVARIANT: nothing that is written in the file is ignored. A key is used, or unknown, or not
//! built yet, and the last two are errors. All problems are reported at once.

mod breakglass;
pub mod certificate;
pub mod check;
pub mod doctor;
mod document;
mod emergency;
mod identity;
mod init;
mod keep;
mod name;
mod notify;
mod problem;
mod receiver;
mod record;
mod secret;
mod section;
mod server;
mod session;
mod stream;
mod trust;

use std::cell::RefCell;
use std::path::{Path, PathBuf};

pub use breakglass::BreakGlass;
pub use certificate::{CertificateError, authorities_of, chain_of, covers, names_of, pair_of};
pub use check::{check_database_folder, check_hosts, database_folder};
pub use document::Environment;
pub use emergency::{EmergencyConfig, load_breakglass};
pub use identity::{Identity, Provider};
pub use init::{InitError, InitKeys, InitOptions, InitProvider, write_installation};
pub use problem::{KeyPlaces, Problem, Severity};
pub use record::{Audit, Durability, Keys, Policies, Spool, Storage, Telemetry, Witness, witness_file_fault};
pub use server::{Limits, Server, ServerTls, is_host_name};
pub use session::{SessionSettings, Tokens};
pub use stream::{HttpReceiver, Receiver, Stream};
pub use trust::{CertificateAndKey, SpiffeBundle, Trust};

use crate::notify::settings::NotifySettings;
use problem::{Ledger, Place};
use section::{Reading, Section};

/// The largest configuration file that is read.
const FILE_BYTES_MAX: u64 = 1024 * 1024;

/// Everything that an installation is told. All paths are absolute.
#[derive(Debug, Clone)]
pub struct Config {
    /// The file that it was read from.
    pub path: PathBuf,
    /// `[server]`: where it listens and under which names.
    pub server: Server,
    /// `[trust]`: whose client certificates count.
    pub trust: Trust,
    /// `[identity]`: who vouches for people.
    pub identity: Identity,
    /// `[session]`: how long a sign-in lasts.
    pub session: SessionSettings,
    /// `[tokens]`: how long tokens and the keys that sign them last.
    pub tokens: Tokens,
    /// `[keys]`: what seals the signing keys.
    pub keys: Keys,
    /// `[storage]`: the database.
    pub storage: Storage,
    /// `[audit]`: how the record is kept.
    pub audit: Audit,
    /// `[policies]`: where they are.
    pub policies: Policies,
    /// `[notify]`: who is told of what.
    pub notify: NotifySettings,
    /// `[breakglass]`: the emergency path, where there is one.
    pub breakglass: Option<BreakGlass>,
    /// `[telemetry]`: the plain listener for metrics and health.
    pub telemetry: Telemetry,
    /// Secrets that came from files: the key's dotted path and the file.
    pub secret_files: Vec<(String, PathBuf)>,
    /// What is worth a look and no reason to refuse.
    pub warnings: Vec<Problem>,
    /// Where keys stand that are judged with what lies outside.
    pub places: KeyPlaces,
}

/// A configuration as far as it can be read.
#[derive(Debug)]
pub struct Survey {
    config: Option<Config>,
    named: Option<Named>,
    problems: Vec<Problem>,
}

/// What a configuration names that lies outside of it, so that its own faults don't hide what is wrong there.
#[derive(Debug)]
pub struct Named {
    /// `[storage]`, where it could be read.
    pub storage: Option<Storage>,
    /// `audit.spool`.
    pub spool: Spool,
    /// `policies.dir`.
    pub policies: PathBuf,
    /// `server.domain`, where it could be read.
    pub domain: Option<String>,
    /// Where the keys stand.
    pub places: KeyPlaces,
}

impl Survey {
    /// The configuration, if `serve` would take it.
    ///
    /// # Errors
    /// Every problem that was found, warnings too: errors first, each kind in the order of the file; and what it
    /// names, unless it is no TOML at all.
    pub fn whole(self) -> Result<Config, (Vec<Problem>, Option<Box<Named>>)> {
        match self.config {
            Some(config) if !self.problems.iter().any(Problem::is_error) => {
                Ok(Config { warnings: self.problems, ..config })
            }
            _ => Err((self.problems, self.named.map(Box::new))),
        }
    }
}

/// Reads and checks a configuration.
///
/// # Errors
/// Every problem that was found, warnings too: errors first, each kind in the order of the file.
pub fn load(path: &Path, environment: &Environment) -> Result<Config, Vec<Problem>> {
    survey(path, environment).whole().map_err(|(problems, _)| problems)
}

/// Reads a configuration, and what it names where it has faults.
#[must_use]
pub fn survey(path: &Path, environment: &Environment) -> Survey {
    let path = std::path::absolute(path).unwrap_or_else(|_| path.to_path_buf());
    let text = match read(&path) {
        Ok(text) => text,
        Err(problem) => return Survey { config: None, named: None, problems: vec![problem] },
    };
    let ledger = Ledger::new(&path, &text);
    let (config, named) = understand(&path, &text, environment, &ledger);
    Survey { config, named, problems: ledger.into_problems() }
}

/// Everything that `serve` would refuse, and the warnings. Empty when all is well. Policies are
/// checked by `policy::load`.
#[must_use]
pub fn check(path: &Path, environment: &Environment) -> Vec<Problem> {
    match load(path, environment) {
        Ok(config) => config.warnings,
        Err(problems) => problems,
    }
}

fn read(path: &Path) -> Result<String, Problem> {
    let wrong = |error: &dyn std::fmt::Display, help: &str| {
        Problem::in_file(path, format!("the configuration can't be read: {error}"), help)
    };
    let metadata = std::fs::metadata(path)
        .map_err(|error| wrong(&error, "make one with `doorward init`, or name it with `--config`"))?;
    if metadata.len() > FILE_BYTES_MAX {
        return Err(wrong(&"it is larger than 1 MiB", "name a `doorward.toml` with `--config`"));
    }
    std::fs::read_to_string(path).map_err(|error| wrong(&error, "it must be a readable UTF-8 text file"))
}

fn understand(path: &Path, text: &str, environment: &Environment, ledger: &Ledger) -> (Option<Config>, Option<Named>) {
    let Some(mut document) = document::parse(text, ledger) else { return (None, None) };
    document::apply_overrides(&mut document, environment.vars(), ledger);
    let folder = path.parent().unwrap_or(Path::new("."));
    let reading = Reading { ledger, environment, folder, secret_files: RefCell::default() };
    let mut root = Section::root(&reading, &document);
    let server = server::read(root.section("server"));
    let trust = trust::read(root.section("trust"));
    let identity = identity::read(root.section("identity"));
    let session = session::read_session(root.section("session"));
    let tokens = session::read_tokens(root.section("tokens"));
    let keys = record::read_keys(root.section("keys"));
    let storage = record::read_storage(root.section("storage"));
    let audit = record::read_audit(root.section("audit"), storage.as_ref());
    let policies = record::read_policies(root.section("policies"));
    let notify = notify::read(root.section("notify"));
    let telemetry = record::read_telemetry(root.section("telemetry"));
    let breakglass = breakglass::read(root.section("breakglass"), server.as_ref().map(|server| server.domain.as_str()));
    drop(root);
    let place = |dotted: &str| document::place_of(&document, dotted);
    let places = KeyPlaces::of(ledger, &place);
    let named = Named {
        storage: storage.clone(),
        spool: audit.spool.clone(),
        policies: policies.dir.clone(),
        domain: server.as_ref().map(|server| server.domain.clone()),
        places: places.clone(),
    };
    let secret_files = reading.secret_files.take();
    let (Some(server), Some(trust), Some(keys), Some(storage)) = (server, trust, keys, storage) else {
        return (None, Some(named));
    };
    let config = Config {
        path: path.to_path_buf(),
        server,
        trust,
        identity,
        session,
        tokens,
        keys,
        storage,
        audit,
        policies,
        notify,
        breakglass,
        telemetry,
        secret_files,
        warnings: Vec::new(),
        places,
    };
    check::whole(&config, &place, ledger);
    (Some(config), Some(named))
}

/// Finds the place of a dotted path.
type Places<'a> = &'a dyn Fn(&str) -> Place;
