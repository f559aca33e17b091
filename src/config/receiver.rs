//! What receivers outside have in common, of notices (`notify.rs`) and of the record (`stream.rs`): an
//! address, authorities beside the public ones, a key that signs.

use std::sync::Arc;

use crate::model::Secret;
use crate::notify::settings::key_of;

use super::certificate::authorities_of;
use super::section::Section;

/// `url`, which may itself be a secret.
pub(in crate::config) fn read_url(section: &mut Section<'_>, allow_loopback: bool) -> Option<Arc<Secret<String>>> {
    let url = match section.is_text("url") {
        true => section.text("url").map(|url| Arc::new(Secret::new(url))),
        false => section.secret("url"),
    };
    url.filter(|url| {
        let fault = url_fault(url.expose(), allow_loopback);
        if let Some(fault) = fault {
            let help = "write `https://host/path`, or `{ file = \"…\" }` where the address itself is a secret";
            section.error("url", format!("`{}` {fault}", section.path_of("url")), help);
        }
        fault.is_none()
    })
}

fn url_fault(text: &str, allow_loopback: bool) -> Option<&'static str> {
    let Ok(url) = url::Url::parse(text) else { return Some("is not a URL") };
    if !url.username().is_empty() || url.password().is_some() || url.fragment().is_some() {
        return Some("has a user or a fragment in it");
    }
    match url.scheme() {
        _ if url.host().is_none() => Some("names no host"),
        "https" => None,
        "http" if allow_loopback => None,
        _ => Some("is not https"),
    }
}

/// `ca`.
pub(in crate::config) fn read_authorities(
    section: &mut Section<'_>,
) -> Vec<rustls::pki_types::CertificateDer<'static>> {
    let Some(file) = section.path("ca") else { return Vec::new() };
    authorities_of(&file).unwrap_or_else(|error| {
        section.error("ca", error.to_string(), error.help());
        Vec::new()
    })
}

/// `secret`: the key that signs. Whether there must be one is the caller's to say.
pub(in crate::config) fn read_key(section: &mut Section<'_>) -> Option<Arc<Secret<Vec<u8>>>> {
    let secret = section.secret("secret")?;
    let key = key_of(secret.expose());
    if key.is_none() {
        let help = "write `whsec_` and 24 to 64 random bytes in base64: `echo whsec_$(openssl rand -base64 32)`";
        section.error("secret", format!("`{}` is no key of Standard Webhooks", section.path_of("secret")), help);
    }
    key.map(Arc::new)
}
