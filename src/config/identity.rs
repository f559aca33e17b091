//! `[[identity.provider]]`: who vouches for people and pipelines.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;

use url::{Host, Url};

use crate::model::Secret;

use super::name;
use super::section::Section;

/// The longest list of providers.
const PROVIDERS_MAX: usize = 64;

/// Who vouches for people.
#[derive(Debug, Clone)]
pub struct Identity {
    /// In the order of the file.
    pub providers: Vec<Provider>,
}

/// An OpenID Connect provider.
#[derive(Debug, Clone)]
pub struct Provider {
    /// `name`: its local name, the first half of every user's id. Never changes hands.
    pub name: String,
    /// `issuer`: exactly as its tokens say.
    pub issuer: String,
    /// `client_id`: ours at this provider.
    pub client_id: String,
    /// `client_secret`; none for a public client or a provider that is used for bearer tokens only.
    pub client_secret: Option<Arc<Secret<String>>>,
    /// `scopes`: always with `openid`. Default `openid profile email`.
    pub scopes: Vec<String>,
    /// `groups_claim`: where its tokens say the groups. Default `groups`.
    pub groups_claim: String,
    /// `groups`: claim value → local group. Without it a value is the group `<name>|<value>`.
    pub groups: Option<BTreeMap<String, String>>,
    /// `bearer_audiences`: its tokens are taken as bearer tokens if made for one of these.
    pub bearer_audiences: Vec<String>,
    /// `jwks_file`: its keys, where it can't be reached.
    pub jwks_file: Option<PathBuf>,
    /// `ca`: a PEM file of authorities for connections to it. Default: the public ones.
    pub ca: Option<PathBuf>,
    /// `allow_loopback`: it may be on this machine.
    pub allow_loopback: bool,
    /// `development`: it is the provider of `doorward dev`, which signs in whoever asks.
    pub development: bool,
}

pub(in crate::config) fn read(mut section: Section<'_>) -> Identity {
    // One that is given and wrong is told as that.
    if section.lists_none("provider") {
        let message = "no `[[identity.provider]]` is given: nobody can sign in".to_owned();
        section.ledger().warning(section.place(), message, Some("add your OpenID Connect provider".into()));
    }
    let tables = section.sections("provider");
    if tables.len() > PROVIDERS_MAX {
        section.error("provider", format!("{} providers are given", tables.len()), "at most 64 are taken");
    }
    let providers = tables.into_iter().take(PROVIDERS_MAX).filter_map(read_provider).collect();
    Identity { providers }
}

fn read_provider(mut section: Section<'_>) -> Option<Provider> {
    for key in ["name", "issuer", "client_id"] {
        if !section.has(key) {
            section.missing(key, "each `[[identity.provider]]` has a `name`, an `issuer` and a `client_id`");
        }
    }
    let name = name::read(&mut section);
    let allow_loopback = section.flag("allow_loopback");
    let development = section.flag("development");
    let issuer = section.text("issuer");
    let issuer = issuer.filter(|issuer| match issuer_fault(issuer, allow_loopback) {
        None => true,
        Some((message, help)) => {
            section.error("issuer", message, help);
            false
        }
    });
    let client_id = section.parsed("client_id", "the id that the provider gave this client", |text| {
        (!text.is_empty()).then(|| text.to_owned())
    });
    let provider = Provider {
        client_secret: section.secret("client_secret"),
        scopes: read_scopes(&mut section),
        groups_claim: section.text("groups_claim").unwrap_or_else(|| "groups".into()),
        groups: section.text_map("groups"),
        bearer_audiences: section
            .texts("bearer_audiences")
            .unwrap_or_default()
            .into_iter()
            .map(|(text, _)| text)
            .collect(),
        jwks_file: section.path("jwks_file"),
        ca: section.path("ca"),
        allow_loopback,
        development,
        name: name?,
        issuer: issuer?,
        client_id: client_id?,
    };
    if let Some(audience) = provider.bearer_audiences.iter().find(|audience| audience.trim().is_empty()) {
        let message = format!("`{}` has the empty audience `{audience}`", section.path_of("bearer_audiences"));
        section.error("bearer_audiences", message, "name the audience that its tokens for doorward carry in `aud`");
    }
    if provider.bearer_audiences.contains(&provider.client_id) {
        let message = format!(
            "`{}` has the `client_id` `{}`, which ID tokens are made for: those that show it are refused, others look \
             like access tokens",
            section.path_of("bearer_audiences"),
            provider.client_id
        );
        let help = "let the provider make access tokens for an audience of their own, such as \
                    `https://doorward.example.com`, and name that";
        section.ledger().warning(&section.place_of("bearer_audiences"), message, Some(help.to_owned()));
    }
    Some(provider)
}

fn read_scopes(section: &mut Section<'_>) -> Vec<String> {
    let Some(given) = section.texts("scopes") else {
        return ["openid", "profile", "email"].map(String::from).to_vec();
    };
    let mut scopes: Vec<String> = given.into_iter().map(|(scope, _)| scope).collect();
    if let Some(bad) = scopes.iter().find(|scope| scope.is_empty() || scope.contains(char::is_whitespace)) {
        section.error("scopes", format!("`{bad}` is not one scope"), "write each scope as a string of its own");
    }
    // Without it the answer is not OpenID Connect and has no identity in it (OIDC Core §3.1.2.1).
    if !scopes.iter().any(|scope| scope == "openid") {
        scopes.insert(0, "openid".into());
    }
    scopes
}

/// Why an issuer can't be used (OIDC Discovery §3; addresses as DESIGN's "Outside addresses").
fn issuer_fault(issuer: &str, allow_loopback: bool) -> Option<(String, &'static str)> {
    const FORM: &str = "write the provider's issuer as its discovery document does, such as `https://id.example.com`";
    let Ok(url) = Url::parse(issuer) else {
        return Some((format!("the issuer `{}` is not a URL", issuer.escape_debug()), FORM));
    };
    if url.query().is_some() || url.fragment().is_some() || !url.username().is_empty() || url.password().is_some() {
        return Some((format!("the issuer `{issuer}` has a query, a fragment or a user in it"), FORM));
    }
    let (loopback, link_local) = match url.host() {
        Some(Host::Domain(name)) => (name == "localhost" || name.ends_with(".localhost"), false),
        Some(Host::Ipv4(address)) => (address.is_loopback() || address.is_unspecified(), address.is_link_local()),
        Some(Host::Ipv6(address)) => {
            let mapped = address.to_ipv4_mapped().map_or(IpAddr::V6(address), IpAddr::V4);
            let link_local = match mapped {
                IpAddr::V4(address) => address.is_link_local(),
                IpAddr::V6(address) => address.is_unicast_link_local(),
            };
            (mapped.is_loopback() || mapped.is_unspecified(), link_local)
        }
        None => return Some((format!("the issuer `{issuer}` names no host"), FORM)),
    };
    if link_local {
        return Some((format!("the issuer `{issuer}` is a link-local address"), "use the provider's public name"));
    }
    if loopback && !allow_loopback {
        let help = "if a provider really runs on this machine, add `allow_loopback = true` to it";
        return Some((format!("the issuer `{issuer}` is on this machine"), help));
    }
    match url.scheme() {
        "https" => None,
        "http" if loopback => None,
        "http" => {
            let help = "use https; plain http is taken from a provider on this machine only";
            Some((format!("the issuer `{issuer}` is not https"), help))
        }
        _ => Some((format!("the issuer `{issuer}` is not https"), FORM)),
    }
}
