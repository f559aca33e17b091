//! What can only be judged together: names with certificates, keys with their certificates, the
//! development provider with the address, providers with each other.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;

use super::certificate::{CertificateError, authorities_of, chain_of, covers, names_of, pair_of};
use super::problem::{KeyPlaces, Ledger, Problem, Severity};
use super::record::Storage;
use super::secret::warn_if_open;
use super::{Config, Places, Spool};

pub(in crate::config) fn whole(config: &Config, places: Places<'_>, ledger: &Ledger) {
    names(config, places, ledger);
    own_certificate(config, places, ledger);
    authorities(config, places, ledger);
    providers(config, places, ledger);
    development(config, places, ledger);
    spool(config, places, ledger);
}

/// What is full of decisions, and may be moved or cleared, is better not among keys.
fn spool(config: &Config, places: Places<'_>, ledger: &Ledger) {
    let Spool::File { path, named: true, .. } = &config.audit.spool else { return };
    let keys = [&config.server.tls.key, &config.trust.client_ca.key];
    if keys.into_iter().any(|key| key.parent() == path.parent()) {
        let message = format!("the spool `{}` lies in the folder of keys", path.display());
        let help = "give it a folder of its own, such as that of the database";
        ledger.warning(&places("audit.spool"), message, Some(help.to_owned()));
    }
}

/// What the policies' hosts and the configuration say about each other: a service must not take
/// the control host, and the certificate should cover every host.
#[must_use]
pub fn check_hosts<'h>(config: &Config, hosts: impl IntoIterator<Item = &'h str>) -> Vec<Problem> {
    let certificate = &config.server.tls.certificate;
    let names = leaf_names(certificate).unwrap_or_default();
    let mut problems = Vec::new();
    for host in hosts {
        if host == config.server.control_host {
            let message = format!("the service host `{host}` is the control host");
            let help = "give the service another host, or set `server.control_host`";
            problems.push(config.places.problem("server.control_host", Severity::Error, message, help));
        } else if !covers(&names, host) {
            let message =
                format!("the certificate `{}` does not cover the service host `{host}`", certificate.display());
            let help = format!("order one that has `{host}` or `*.{}` among its names", config.server.domain);
            problems.push(config.places.problem("server.tls.certificate", Severity::Warning, message, &help));
        }
    }
    problems
}

/// An SQLite database that is a folder, or whose folder is not there. A start refuses for it where it can't go on
/// without the database.
#[must_use]
pub fn check_database_folder(config: &Config) -> Option<Problem> {
    database_folder(&config.storage, &config.places)
}

/// The same of a configuration that has other faults.
#[must_use]
pub fn database_folder(storage: &Storage, places: &KeyPlaces) -> Option<Problem> {
    let file = storage.sqlite_file()?;
    if file.is_dir() {
        let message = format!("`storage.url` names the folder `{}`, where a file is needed", file.display());
        let help = "name a file in it, such as `doorward.db`";
        return Some(places.problem("storage.url", Severity::Error, message, help));
    }
    let folder = file.parent().filter(|folder| !folder.is_dir())?;
    let message = format!("the folder `{}` for the database in `storage.url` is not there", folder.display());
    Some(places.problem("storage.url", Severity::Error, message, "make the folder, or give another path"))
}

fn names(config: &Config, places: Places<'_>, ledger: &Ledger) {
    let (control, domain) = (&config.server.control_host, &config.server.domain);
    let within = control == domain || control.strip_suffix(domain.as_str()).is_some_and(|rest| rest.ends_with('.'));
    if !within {
        let message = format!("`server.control_host` is `{control}`, which is not `{domain}` or a name under it");
        let help =
            format!("browsers must see control host and services as one site: write `{domain}` or `door.{domain}`");
        ledger.error(&places("server.control_host"), message, Some(help));
    }
    if config.telemetry.listen.is_some_and(|address| meet(address, config.server.listen)) {
        let message = format!("`telemetry.listen` is {}, where the door itself listens", config.server.listen);
        ledger.error(&places("telemetry.listen"), message, Some("give it a port of its own".into()));
    }
}

/// Whether no two listeners can have both: an unspecified address is every address of the machine.
fn meet(one: SocketAddr, other: SocketAddr) -> bool {
    let (ip, other_ip) = (one.ip(), other.ip());
    // All of IPv6 is all of IPv4 too, where the system does not say otherwise.
    let all = |one: IpAddr, other: IpAddr| one.is_unspecified() && (one.is_ipv6() || other.is_ipv4());
    let same = ip == other_ip || all(ip, other_ip) || all(other_ip, ip);
    same && one.port() == other.port() && one.port() != 0
}

fn own_certificate(config: &Config, places: Places<'_>, ledger: &Ledger) {
    let tls = &config.server.tls;
    let place = |error: &CertificateError| match error {
        CertificateError::Unreadable { file, .. } if *file == tls.key => places("server.tls.key"),
        CertificateError::NoKey { .. } | CertificateError::Mismatch { .. } => places("server.tls.key"),
        _ => places("server.tls.certificate"),
    };
    if let Err(error) = pair_of(&tls.certificate, &tls.key) {
        ledger.error(&place(&error), error.to_string(), Some(error.help().to_owned()));
        return;
    }
    key_mode(&tls.key, "server.tls.key", places, ledger);
    let names = leaf_names(&tls.certificate).unwrap_or_default();
    let (control, domain) = (&config.server.control_host, &config.server.domain);
    if !covers(&names, control) {
        let message = format!(
            "the certificate `{}` does not cover the control host `{control}`: it is for {}",
            tls.certificate.display(),
            listed(&names)
        );
        let help = format!("order one for `{control}` and `*.{domain}`");
        ledger.error(&places("server.tls.certificate"), message, Some(help));
    }
}

fn listed(names: &[String]) -> String {
    const SHOWN_MAX: usize = 5;
    match names {
        [] => "no name at all".to_owned(),
        _ => {
            let shown: Vec<_> = names.iter().take(SHOWN_MAX).map(|name| format!("`{}`", name.escape_debug())).collect();
            let rest = if names.len() > SHOWN_MAX { ", …" } else { "" };
            shown.join(", ") + rest
        }
    }
}

fn authorities(config: &Config, places: Places<'_>, ledger: &Ledger) {
    let own = &config.trust.client_ca;
    let tell = |dotted: &str, error: &CertificateError| {
        ledger.error(&places(dotted), error.to_string(), Some(error.help().to_owned()));
    };
    match authorities_of(&own.certificate).and_then(|_| pair_of(&own.certificate, &own.key)) {
        Ok(_) => key_mode(&own.key, "trust.client_ca.key", places, ledger),
        Err(error) => {
            let key = match &error {
                CertificateError::Unreadable { file, .. } => *file == own.key,
                CertificateError::NoKey { .. } | CertificateError::Mismatch { .. } => true,
                _ => false,
            };
            tell(if key { "trust.client_ca.key" } else { "trust.client_ca.certificate" }, &error);
        }
    }
    for (index, file) in config.trust.device_ca.iter().enumerate() {
        if let Err(error) = authorities_of(file) {
            tell(&format!("trust.device_ca.{index}"), &error);
        }
    }
    let mut domains = HashMap::new();
    for (index, bundle) in config.trust.spiffe.iter().enumerate() {
        if let Err(error) = authorities_of(&bundle.bundle) {
            tell(&format!("trust.spiffe.{index}.bundle"), &error);
        }
        if domains.insert(&bundle.trust_domain, index).is_some() {
            let message = format!("the trust domain `{}` is given twice", bundle.trust_domain);
            let help = "put all its authorities into one bundle";
            ledger.error(&places(&format!("trust.spiffe.{index}.trust_domain")), message, Some(help.into()));
        }
    }
}

fn providers(config: &Config, places: Places<'_>, ledger: &Ledger) {
    let providers = &config.identity.providers;
    let mut by_name = HashMap::new();
    let mut by_issuer = HashMap::new();
    for (index, provider) in providers.iter().enumerate() {
        let at = |key: &str| places(&format!("identity.provider.{index}.{key}"));
        if by_name.insert(&provider.name, index).is_some() {
            let message = format!("the provider name `{}` is given twice", provider.name);
            let help = "a name stands for one issuer for good: it is the first half of every user's id";
            ledger.error(&at("name"), message, Some(help.into()));
        }
        if by_issuer.insert(provider.issuer.trim_end_matches('/'), index).is_some() {
            let message = format!("the issuer `{}` is given twice", provider.issuer);
            let help = "one issuer has one name, else one person would be two users";
            ledger.error(&at("issuer"), message, Some(help.into()));
        }
        if let Some(Err(error)) = provider.ca.as_deref().map(chain_of) {
            ledger.error(&at("ca"), error.to_string(), Some(error.help().to_owned()));
        }
        if let Some(fault) = provider.jwks_file.as_deref().and_then(key_set_fault) {
            let help = "save what the provider's `jwks_uri` answers";
            ledger.error(&at("jwks_file"), fault, Some(help.into()));
        }
    }
}

fn key_set_fault(file: &Path) -> Option<String> {
    let text = match std::fs::read(file) {
        Ok(text) => text,
        Err(error) => return Some(format!("`{}` can't be read: {error}", file.display())),
    };
    let keys = serde_json::from_slice::<serde_json::Value>(&text).ok();
    let keys = keys.as_ref().and_then(|set| set.get("keys")?.as_array());
    match keys {
        Some(keys) if !keys.is_empty() => None,
        Some(_) => Some(format!("`{}` is a key set without keys", file.display())),
        None => Some(format!("`{}` is not a JSON Web Key Set", file.display())),
    }
}

/// The development provider signs in whoever asks: it may only stand behind a door on loopback.
fn development(config: &Config, places: Places<'_>, ledger: &Ledger) {
    if config.server.listen.ip().is_loopback() {
        return;
    }
    for (index, provider) in config.identity.providers.iter().enumerate().filter(|(_, provider)| provider.development) {
        let message = format!(
            "the provider `{}` is the development one, which signs in whoever asks, and the door listens on {}",
            provider.name, config.server.listen
        );
        let help = "listen on 127.0.0.1, or replace the provider by a real one";
        let place = places(&format!("identity.provider.{index}.development"));
        ledger.error(&place, message, Some(help.into()));
    }
}

fn leaf_names(certificate: &Path) -> Option<Vec<String>> {
    chain_of(certificate).ok()?.first().map(names_of)
}

fn key_mode(key: &Path, dotted: &str, places: Places<'_>, ledger: &Ledger) {
    if let Ok(metadata) = std::fs::metadata(key) {
        warn_if_open(ledger, &places(dotted), key, &metadata);
    }
}
