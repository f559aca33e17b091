//! What is read from files at start and at each reload: TLS, authorities, policies. All of it is
//! good, or none of it is taken.

use std::path::Path;
use std::sync::Arc;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

use crate::config::{
    Config, Environment, KeyPlaces, Named, Problem, Severity, Spool, Storage, certificate, check, database_folder,
};
use crate::credential::authority::Authority;
use crate::gateway::handshake::{SpiffeAnchors, TlsSide, TrustAnchors};
use crate::gateway::snapshot::usable;
use crate::identity::breakglass::InForce;
use crate::policy::{self, Diagnostic, LoadSettings, PolicySet, Service};
use crate::store::{SpoolError, Store, is_volatile};

/// Everything that files say, read once.
pub struct Material {
    /// TLS of the listener.
    pub tls: Arc<TlsSide>,
    /// The client authorities in DER, to see whether they changed.
    pub anchors: TrustAnchors,
    /// Our own authority.
    pub authority: Arc<Authority>,
    /// The emergency path.
    pub emergency: Option<Arc<InForce>>,
    /// The policies.
    pub policies: Arc<PolicySet>,
    /// What is not wrong but should be looked at.
    pub warnings: Vec<Problem>,
}

/// Everything that is wrong with the files, each with its place, under one line that says so.
#[derive(Debug)]
pub struct MaterialError {
    /// Errors, and warnings that were found with them.
    pub problems: Vec<Problem>,
}

impl MaterialError {
    /// One fault of a file.
    pub(in crate::server) fn of(file: &Path, message: impl std::fmt::Display) -> Self {
        let problem = Problem {
            file: file.to_path_buf(),
            line: None,
            column: None,
            severity: Severity::Error,
            message: message.to_string(),
            help: None,
        };
        Self { problems: vec![problem] }
    }

    /// The problems as they are told.
    #[must_use]
    pub fn lines(&self) -> Vec<String> {
        self.problems.iter().map(ToString::to_string).collect()
    }
}

impl std::fmt::Display for MaterialError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "the configuration can't be used\n{}", self.lines().join("\n"))
    }
}

impl std::error::Error for MaterialError {}

impl From<Vec<Problem>> for MaterialError {
    fn from(problems: Vec<Problem>) -> Self {
        Self { problems }
    }
}

impl From<Vec<Diagnostic>> for MaterialError {
    fn from(found: Vec<Diagnostic>) -> Self {
        Self { problems: found.into_iter().map(problem_of).collect() }
    }
}

/// What is wrong with a policy, beside what is wrong with the configuration.
fn problem_of(found: Diagnostic) -> Problem {
    let severity = match found.severity {
        policy::Severity::Error => Severity::Error,
        policy::Severity::Warning => Severity::Warning,
    };
    let Diagnostic { file, line, column, message, help, .. } = found;
    Problem { file, line, column, severity, message, help }
}

/// Gathers what is wrong, so that one run tells all of it.
#[derive(Default)]
struct Faults(Vec<Problem>);

impl Faults {
    fn keep<T>(&mut self, found: Result<T, MaterialError>) -> Option<T> {
        match found {
            Ok(found) => Some(found),
            Err(error) => {
                self.0.extend(error.problems);
                None
            }
        }
    }
}

/// Reads everything that the configuration names.
///
/// # Errors
/// All problems that were found.
pub fn read(config: &Config, environment: &Environment) -> Result<Material, MaterialError> {
    let mut faults = Faults::default();
    faults.0.extend(database(&config.storage, &config.places));
    let policies = faults.keep(policies(config));
    let mut warnings = config.warnings.clone();
    if let Some(policies) = &policies {
        faults.keep(upstreams(config, policies, environment));
        let hosts: Vec<String> = policies.services().flat_map(|service| service.hosts.iter().cloned()).collect();
        let (errors, notes): (Vec<Problem>, Vec<Problem>) =
            check::check_hosts(config, hosts.iter().map(String::as_str)).into_iter().partition(Problem::is_error);
        faults.0.extend(errors);
        warnings.extend(notes);
    }
    let in_memory = spool(&config.audit.spool, &config.places);
    let (errors, notes): (Vec<Problem>, Vec<Problem>) = in_memory.into_iter().partition(Problem::is_error);
    faults.0.extend(errors);
    warnings.extend(notes);
    warnings.extend(policies.iter().flat_map(|policies| policies.warnings().iter().cloned()).map(problem_of));
    let anchors = faults.keep(anchors(config));
    let tls = anchors.as_ref().and_then(|anchors| faults.keep(tls(config, anchors)));
    let authority = faults.keep(authority(config));
    match (policies, anchors, tls, authority) {
        (Some(policies), Some(anchors), Some(tls), Some(authority)) if faults.0.is_empty() => Ok(Material {
            tls: Arc::new(tls),
            anchors,
            emergency: config.breakglass.as_ref().map(|it| Arc::new(it.in_force())),
            authority: Arc::new(authority),
            policies: Arc::new(policies),
            warnings,
        }),
        _ => Err(faults.0.into()),
    }
}

/// What is wrong with what a configuration names that has faults of its own. What hangs on those faults is not
/// told.
#[must_use]
pub fn faults(named: &Named) -> Vec<Problem> {
    let mut found = Vec::new();
    if let Some(storage) = &named.storage {
        found.extend(database(storage, &named.places));
        found.extend(database_folder(storage, &named.places));
    }
    found.extend(spool(&named.spool, &named.places));
    // A folder that is not there has been told of as a fault of the configuration.
    if named.policies.is_dir() {
        let domain = named.domain.clone().unwrap_or_else(|| "localhost".to_owned());
        let loaded = policy::load(&named.policies, &LoadSettings { domain, groups: Vec::new() });
        found.extend(loaded.err().into_iter().flatten().map(problem_of));
    }
    found.retain(Problem::is_error);
    found
}

/// A database URL that no database could be opened at.
fn database(storage: &Storage, places: &KeyPlaces) -> Option<Problem> {
    let error = Store::check_url(storage.url.expose()).err()?.to_string();
    // The driver puts this before its words, and once more before those that were another's.
    let told = error.rsplit("error with configuration: ").next().unwrap_or_default();
    let help = "write `sqlite://doorward.db` or `postgres://user@host/database`, with options that the database has: \
                `?sslmode=verify-full`";
    Some(places.problem("storage.url", Severity::Error, format!("`storage.url`: {told}"), help))
}

/// A spool that lies in memory: an error where the configuration names it, else there is none.
fn spool(spool: &Spool, places: &KeyPlaces) -> Option<Problem> {
    let Spool::File { path, named, .. } = spool else { return None };
    let folder = path.parent().unwrap_or(Path::new("."));
    if !is_volatile(folder).unwrap_or(false) {
        return None;
    }
    let told = SpoolError::Volatile { folder: folder.to_owned() }.to_string();
    let (message, help) = told.split_once(": ").unwrap_or((told.as_str(), ""));
    Some(match named {
        true => places.problem("audit.spool", Severity::Error, message.to_owned(), help),
        // It lies beside the database.
        false => {
            let message = format!("{message}; there is none now: with the database away requests are refused");
            places.problem("storage.url", Severity::Warning, message, help)
        }
    })
}

fn authority(config: &Config) -> Result<Authority, MaterialError> {
    let ca = &config.trust.client_ca;
    let text = |path: &Path| {
        std::fs::read_to_string(path).map_err(|error| MaterialError::of(path, format!("it can't be read: {error}")))
    };
    let (certificate, key) = (text(&ca.certificate)?, text(&ca.key)?);
    Authority::load(&certificate, &key).map_err(|error| MaterialError::of(&ca.certificate, error))
}

/// Loads the policies that the configuration names.
///
/// # Errors
/// All problems that were found.
pub fn policies(config: &Config) -> Result<PolicySet, MaterialError> {
    let mapped = config.identity.providers.iter().filter_map(|provider| provider.groups.as_ref());
    let groups = mapped.flat_map(|map| map.values().cloned()).collect();
    let settings = LoadSettings { domain: config.server.domain.clone(), groups };
    Ok(policy::load(&config.policies.dir, &settings)?)
}

/// What services name outside their own files: upstream certificates, and secrets of injected fields.
fn upstreams(config: &Config, policies: &PolicySet, environment: &Environment) -> Result<(), MaterialError> {
    let variable = |name: &str| environment.var(name).map(str::to_owned);
    let fault = |service: &Arc<Service>| {
        let fault = usable(service, &variable).err()?;
        let file = config.policies.dir.join(service.name.as_str()).join("service.toml");
        Some(MaterialError::of(&file, fault).problems)
    };
    let problems: Vec<Problem> = policies.services().filter_map(fault).flatten().collect();
    if problems.is_empty() { Ok(()) } else { Err(MaterialError { problems }) }
}

fn anchors(config: &Config) -> Result<TrustAnchors, MaterialError> {
    let read = |path: &Path| certificate::authorities_of(path).map_err(|error| MaterialError::of(path, error));
    let mut anchors = TrustAnchors { ours: read(&config.trust.client_ca.certificate)?, ..TrustAnchors::default() };
    for path in &config.trust.device_ca {
        anchors.devices.extend(read(path)?);
    }
    for bundle in &config.trust.spiffe {
        let (trust_domain, authorities) = (bundle.trust_domain.clone(), read(&bundle.bundle)?);
        anchors.spiffe.push(SpiffeAnchors { trust_domain, authorities });
    }
    Ok(anchors)
}

fn tls(config: &Config, anchors: &TrustAnchors) -> Result<TlsSide, MaterialError> {
    let files = &config.server.tls;
    let chain: Vec<CertificateDer<'static>> =
        certificate::chain_of(&files.certificate).map_err(|error| MaterialError::of(&files.certificate, error))?;
    let key = PrivateKeyDer::from_pem_file(&files.key)
        .map_err(|error| MaterialError::of(&files.key, format!("the private key can't be read: {error}")))?;
    let breakglass = config.breakglass.as_ref().map(|it| Arc::new(it.rules.clone()));
    TlsSide::new(chain, key, anchors, breakglass).map_err(|error| MaterialError::of(&files.certificate, error))
}

/// Reads the configuration again and everything that it names.
///
/// # Errors
/// All problems that were found.
pub fn read_again(path: &Path, environment: &Environment) -> Result<(Config, Material), MaterialError> {
    let config = crate::config::load(path, environment)?;
    let material = read(&config, environment)?;
    Ok((config, material))
}
