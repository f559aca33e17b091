//! What is read from files at start and at each reload: TLS, authorities, policies. All of it is
//! good, or none of it is taken.

use std::path::Path;
use std::sync::Arc;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

use crate::config::{Config, Environment, Problem, Spool, certificate, check};
use crate::credential::authority::Authority;
use crate::gateway::handshake::{SpiffeAnchors, TlsSide, TrustAnchors};
use crate::gateway::snapshot::usable;
use crate::identity::breakglass::InForce;
use crate::policy::{Diagnostic, LoadSettings, PolicySet, Service};
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
    pub warnings: Vec<String>,
}

/// Everything that is wrong with the files, each with its place, under one line that says so.
#[derive(Debug)]
pub struct MaterialError {
    /// The lines.
    pub problems: Vec<String>,
}

impl std::fmt::Display for MaterialError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "the configuration can't be used\n{}", self.problems.join("\n"))
    }
}

impl std::error::Error for MaterialError {}

impl From<Vec<Problem>> for MaterialError {
    fn from(problems: Vec<Problem>) -> Self {
        Self { problems: problems.iter().map(ToString::to_string).collect() }
    }
}

impl From<Vec<Diagnostic>> for MaterialError {
    fn from(problems: Vec<Diagnostic>) -> Self {
        Self { problems: problems.iter().map(ToString::to_string).collect() }
    }
}

fn one(file: &Path, message: impl std::fmt::Display) -> MaterialError {
    MaterialError { problems: vec![format!("{}: error: {message}", file.display())] }
}

/// Reads everything that the configuration names.
///
/// # Errors
/// All problems that were found.
pub fn read(config: &Config, environment: &Environment) -> Result<Material, MaterialError> {
    Store::check_url(config.storage.url.expose())
        .map_err(|error| one(&config.path, format!("`storage.url`: {error}")))?;
    let policies = policies(config)?;
    upstreams(config, &policies, environment)?;
    let hosts: Vec<String> = policies.services().flat_map(|service| service.hosts.iter().cloned()).collect();
    let (errors, notes): (Vec<Problem>, Vec<Problem>) =
        check::check_hosts(config, hosts.iter().map(String::as_str)).into_iter().partition(Problem::is_error);
    if !errors.is_empty() {
        return Err(errors.into());
    }
    let mut warnings: Vec<String> = config.warnings.iter().chain(&notes).map(ToString::to_string).collect();
    warnings.extend(spool(config)?);
    warnings.extend(policies.warnings().iter().map(ToString::to_string));
    let anchors = anchors(config)?;
    let tls = tls(config, &anchors)?;
    let ca = &config.trust.client_ca;
    let text =
        |path: &Path| std::fs::read_to_string(path).map_err(|error| one(path, format!("it can't be read: {error}")));
    let authority =
        Authority::load(&text(&ca.certificate)?, &text(&ca.key)?).map_err(|error| one(&ca.certificate, error))?;
    let emergency = config.breakglass.as_ref().map(|it| Arc::new(it.in_force()));
    Ok(Material {
        tls: Arc::new(tls),
        anchors,
        emergency,
        authority: Arc::new(authority),
        policies: Arc::new(policies),
        warnings,
    })
}

/// A spool that lies in memory: an error where the configuration names it, else there is none.
fn spool(config: &Config) -> Result<Option<String>, MaterialError> {
    let Spool::File { path, named, .. } = &config.audit.spool else {
        return Ok(None);
    };
    let folder = path.parent().unwrap_or(Path::new("."));
    if !is_volatile(folder).unwrap_or(false) {
        return Ok(None);
    }
    let problem = SpoolError::Volatile { folder: folder.to_owned() }.to_string();
    if *named {
        return Err(one(&config.path, problem));
    }
    Ok(Some(format!("{problem}; there is none now: with the database away requests are refused")))
}

/// Loads the policies that the configuration names.
///
/// # Errors
/// All problems that were found.
pub fn policies(config: &Config) -> Result<PolicySet, MaterialError> {
    let mapped = config.identity.providers.iter().filter_map(|provider| provider.groups.as_ref());
    let groups = mapped.flat_map(|map| map.values().cloned()).collect();
    let settings = LoadSettings { domain: config.server.domain.clone(), groups };
    Ok(crate::policy::load(&config.policies.dir, &settings)?)
}

/// What services name outside their own files: upstream certificates, and secrets of injected fields.
fn upstreams(config: &Config, policies: &PolicySet, environment: &Environment) -> Result<(), MaterialError> {
    let variable = |name: &str| environment.var(name).map(str::to_owned);
    let fault = |service: &Arc<Service>| {
        let fault = usable(service, &variable).err()?;
        let file = config.policies.dir.join(service.name.as_str()).join("service.toml");
        Some(format!("{}: error: {fault}", file.display()))
    };
    let problems: Vec<String> = policies.services().filter_map(fault).collect();
    if problems.is_empty() { Ok(()) } else { Err(MaterialError { problems }) }
}

fn anchors(config: &Config) -> Result<TrustAnchors, MaterialError> {
    let read = |path: &Path| certificate::authorities_of(path).map_err(|error| one(path, error));
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
        certificate::chain_of(&files.certificate).map_err(|error| one(&files.certificate, error))?;
    let key = PrivateKeyDer::from_pem_file(&files.key)
        .map_err(|error| one(&files.key, format!("the private key can't be read: {error}")))?;
    let breakglass = config.breakglass.as_ref().map(|it| Arc::new(it.rules.clone()));
    TlsSide::new(chain, key, anchors, breakglass).map_err(|error| one(&files.certificate, error))
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
