//! `workloads.toml`: whose tokens and certificates of pipelines and machines count, and what they
//! are here.
//!
//! ```toml
//! [[issuer]]
//! name = "github"
//! preset = "github-actions"
//! audience = "https://doorward.example.com"
//!
//! [[rule]]
//! name = "deploy"                       # Workload::"github|deploy"
//! issuer = "github"
//! claims = { repository_id = "74", ref = "refs/heads/main" }
//! groups = ["deployers"]
//! ```
//!
//! INVARIANTS: a token is held against the rules of its issuer in the order of the file, and the
//! first that holds whole names it; no rule, no workload. A value is compared byte for byte, `*`
//! stands for any text, and a claim that is not there holds under no pattern. A certificate of a
//! SPIFFE bundle becomes a `Workload` by a rule with `spiffe`, and never a `User`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use super::diagnostic::{Report, Source};
use super::document::{self, Field, Table};
use super::schema;
use super::suggestion;
use super::workload_lint;
use crate::model::{Principal, ServiceName};

/// The provider of principals that are named by a SPIFFE certificate.
pub const SPIFFE_PROVIDER: &str = "spiffe";
/// What is shown of a claim's value, in characters.
const SHOWN_CHARS_MAX: usize = 200;

/// A kind of issuer that we know the claims of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Preset {
    /// GitHub Actions.
    GithubActions,
    /// GitLab CI, of gitlab.com or one's own.
    Gitlab,
    /// Service accounts of a Kubernetes cluster.
    Kubernetes,
    /// Any issuer with OpenID Connect Discovery, or with its keys in a file.
    Oidc,
}

impl Preset {
    const ALL: [(&'static str, Self); 4] = [
        ("github-actions", Self::GithubActions),
        ("gitlab", Self::Gitlab),
        ("kubernetes", Self::Kubernetes),
        ("oidc", Self::Oidc),
    ];

    /// As written.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::GithubActions => "github-actions",
            Self::Gitlab => "gitlab",
            Self::Kubernetes => "kubernetes",
            Self::Oidc => "oidc",
        }
    }

    /// The issuer, where there is but one.
    const fn issuer(self) -> Option<&'static str> {
        match self {
            Self::GithubActions => Some("https://token.actions.githubusercontent.com"),
            Self::Gitlab => Some("https://gitlab.com"),
            Self::Kubernetes | Self::Oidc => None,
        }
    }
}

/// An issuer whose tokens may be exchanged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TrustedIssuer {
    /// Its local name: half of each id.
    pub name: String,
    /// What kind it is.
    pub preset: Preset,
    /// Its `iss`, exactly.
    pub issuer: String,
    /// The `aud` that its tokens must have, and no other beside it.
    pub audience: String,
    /// Its keys in a file, where it can't be reached.
    pub jwks_file: Option<PathBuf>,
    /// A PEM file of authorities for connections to it, beside the public ones.
    pub ca: Option<PathBuf>,
    /// Whether it may be on this machine.
    pub allow_loopback: bool,
}

/// What a claim must be: one of these.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Wanted(pub(super) Vec<String>);

impl Wanted {
    fn holds(&self, value: &str) -> bool {
        self.0.iter().any(|pattern| matches(pattern, value))
    }

    pub(super) fn shown(&self) -> String {
        self.0.iter().map(|pattern| format!("`{pattern}`")).collect::<Vec<_>>().join(" or ")
    }

    pub(super) fn has_wildcard(&self) -> bool {
        self.0.iter().any(|pattern| pattern.contains('*'))
    }
}

/// Whether `value` is `pattern`, in which `*` stands for any text. Takes time linear in the value
/// for each star.
fn matches(pattern: &str, value: &str) -> bool {
    let mut parts = pattern.split('*');
    let first = parts.next().unwrap_or_default();
    let Some(mut rest) = value.strip_prefix(first) else { return false };
    let mut parts: Vec<&str> = parts.collect();
    let Some(last) = parts.pop() else { return rest.is_empty() };
    for part in parts {
        match rest.find(part) {
            Some(at) => rest = rest.get(at + part.len()..).unwrap_or_default(),
            None => return false,
        }
    }
    rest.ends_with(last)
}

/// What a rule looks at.
#[derive(Debug, Clone)]
pub(super) enum Evidence {
    /// Claims of a token of this issuer.
    Claims { issuer: String, claims: Vec<(String, Wanted)> },
    /// The SPIFFE id of a certificate.
    Spiffe(Wanted),
}

/// One `[[rule]]`.
#[derive(Debug, Clone)]
pub struct TrustRule {
    /// Its name: the other half of an id.
    pub name: String,
    /// Groups of whoever it names.
    pub groups: Vec<String>,
    /// Services that tokens may be had for; none for all.
    pub services: Vec<ServiceName>,
    /// Groups whose members it may act for, where their token says so too (RFC 8693 §4.4).
    pub acts_for: Vec<String>,
    pub(super) evidence: Evidence,
}

/// One claim held against a rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClaimTrial {
    /// Its name.
    pub claim: String,
    /// What the rule wants.
    pub wanted: String,
    /// What the token says, shortened; nothing where it is missing or no text.
    pub got: Option<String>,
    /// Whether it holds.
    pub holds: bool,
}

/// A token held against one rule, claim by claim.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trial {
    /// The rule.
    pub rule: String,
    /// All its claims.
    pub claims: Vec<ClaimTrial>,
}

impl Trial {
    /// Whether the rule names the token.
    #[must_use]
    pub fn holds(&self) -> bool {
        self.claims.iter().all(|claim| claim.holds)
    }
}

/// A workload that a rule names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recognised {
    /// Who.
    pub principal: Principal,
    /// The rule.
    pub rule: String,
    /// Groups.
    pub groups: Vec<String>,
    /// Services that tokens may be had for; none for all.
    pub services: Vec<ServiceName>,
    /// Claims that policies may read.
    pub claims: BTreeMap<String, String>,
}

/// All of the file.
#[derive(Debug, Clone, Default)]
pub struct Workloads {
    pub(super) issuers: Vec<TrustedIssuer>,
    pub(super) rules: Vec<TrustRule>,
}

impl Workloads {
    /// `services` are those of the folder.
    pub(super) fn parse(source: &Source, services: &[&str], report: &Report) -> Self {
        let mut workloads = Self::default();
        let Some(document) = document::parse(source, report) else { return workloads };
        let mut root = Table::root(source, report, document.get_ref());
        for field in root.list("issuer") {
            let Some(issuer) = issuer(source, &field) else { continue };
            let twice =
                workloads.issuers.iter().any(|known| known.name == issuer.name || known.issuer == issuer.issuer);
            if twice {
                let help = "a name and an `issuer` are there once: a job would be two principals";
                field.error(format!("the issuer `{}` is there twice", issuer.name.escape_debug()), help);
                continue;
            }
            workloads.issuers.push(issuer);
        }
        for field in root.list("rule") {
            let Some(rule) = rule(&field, &workloads.issuers) else { continue };
            if workloads.rules.iter().any(|known| known.name == rule.name) {
                let message = format!("two rules are named `{}`", rule.name.escape_debug());
                field.error(message, "the name is half of the workload's id: give each its own");
                continue;
            }
            workload_lint::lint(&rule, &workloads.issuers, &field);
            workload_lint::services(&rule, &field, services);
            workloads.rules.push(rule);
        }
        root.finish();
        workloads
    }

    /// Issuers, in the order of the file.
    #[must_use]
    pub fn issuers(&self) -> &[TrustedIssuer] {
        &self.issuers
    }

    /// Rules, in the order of the file.
    #[must_use]
    pub fn rules(&self) -> &[TrustRule] {
        &self.rules
    }

    /// The rule that names this workload by its token, if the file still has it.
    #[must_use]
    pub fn rule_of(&self, principal: &Principal) -> Option<&TrustRule> {
        self.rules.iter().find(|rule| match &rule.evidence {
            Evidence::Claims { issuer, .. } => Principal::workload(issuer, &rule.name).as_ref() == Some(principal),
            Evidence::Spiffe(_) => false,
        })
    }

    /// The rules of an issuer (local name) read a claim that `known` says no of.
    pub(super) fn claim_unknown(&self, issuer: &str, known: impl Fn(&str) -> bool) -> Option<&str> {
        let claims = self.rules.iter().filter_map(|rule| match &rule.evidence {
            Evidence::Claims { issuer: of, claims } if of == issuer => Some(claims),
            Evidence::Claims { .. } | Evidence::Spiffe(_) => None,
        });
        claims.flatten().map(|(claim, _)| claim.as_str()).find(|claim| !known(claim))
    }

    /// The trusted issuer whose tokens have this `iss`.
    #[must_use]
    pub fn issuer(&self, iss: &str) -> Option<&TrustedIssuer> {
        self.issuers.iter().find(|issuer| issuer.issuer == iss)
    }

    /// Holds a token's claims against each rule of its issuer. That they are the issuer's own is the
    /// caller's to have checked.
    ///
    /// # Errors
    /// When no rule names it: every rule, claim by claim.
    pub fn recognise(&self, issuer: &TrustedIssuer, claims: &Map<String, Value>) -> Result<Recognised, Vec<Trial>> {
        let mut trials = Vec::new();
        for rule in &self.rules {
            let Evidence::Claims { issuer: of, claims: wanted } = &rule.evidence else { continue };
            if *of != issuer.name {
                continue;
            }
            let trial =
                Trial { rule: rule.name.clone(), claims: wanted.iter().map(|one| tried(one, claims)).collect() };
            let holds = trial.holds();
            trials.push(trial);
            if holds && let Some(principal) = Principal::workload(&issuer.name, &rule.name) {
                return Ok(Recognised {
                    principal,
                    rule: rule.name.clone(),
                    groups: rule.groups.clone(),
                    services: rule.services.clone(),
                    claims: readable(claims),
                });
            }
        }
        Err(trials)
    }

    /// Every rule of an issuer held against a token's claims, also those after the first that holds.
    #[must_use]
    pub fn trials(&self, issuer: &TrustedIssuer, claims: &Map<String, Value>) -> Vec<Trial> {
        let of_issuer = |rule: &TrustRule| match &rule.evidence {
            Evidence::Claims { issuer: of, claims: wanted } if *of == issuer.name => {
                Some(Trial { rule: rule.name.clone(), claims: wanted.iter().map(|one| tried(one, claims)).collect() })
            }
            Evidence::Claims { .. } | Evidence::Spiffe(_) => None,
        };
        self.rules.iter().filter_map(of_issuer).collect()
    }

    /// The workload of a verified certificate with this SPIFFE id, if a rule names it.
    #[must_use]
    pub fn recognise_spiffe(&self, id: &str) -> Option<Recognised> {
        let named = |rule: &&TrustRule| matches!(&rule.evidence, Evidence::Spiffe(wanted) if wanted.holds(id));
        let rule = self.rules.iter().find(named)?;
        let claims = BTreeMap::from([("sub".to_owned(), id.to_owned())]);
        Some(Recognised {
            principal: Principal::workload(SPIFFE_PROVIDER, id)?,
            rule: rule.name.clone(),
            groups: rule.groups.clone(),
            services: rule.services.clone(),
            claims,
        })
    }
}

/// A claim's value as text: `/a/b` is a JSON pointer into a nested one.
fn value_of(claims: &Map<String, Value>, name: &str) -> Option<String> {
    let value = match name.strip_prefix('/') {
        None => claims.get(name)?,
        Some(pointer) => {
            let mut steps = pointer.split('/');
            let first = claims.get(steps.next()?)?;
            steps.try_fold(first, |value, step| value.get(step))?
        }
    };
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Bool(value) => Some(value.to_string()),
        Value::Number(number) if number.is_i64() || number.is_u64() => Some(number.to_string()),
        Value::Number(_) | Value::Null | Value::Array(_) | Value::Object(_) => None,
    }
}

fn tried((claim, wanted): &(String, Wanted), claims: &Map<String, Value>) -> ClaimTrial {
    let got = value_of(claims, claim);
    let holds = got.as_deref().is_some_and(|value| wanted.holds(value));
    let got = got.map(|value| value.chars().take(SHOWN_CHARS_MAX).collect());
    ClaimTrial { claim: claim.clone(), wanted: wanted.shown(), got, holds }
}

/// The claims that the schema knows, where they are texts.
fn readable(claims: &Map<String, Value>) -> BTreeMap<String, String> {
    schema::claims()
        .filter_map(|name| value_of(claims, name).map(|value| (name.to_owned(), value)))
        .filter(|(_, value)| value.len() <= 1024)
        .collect()
}

/// A name that can be half of an id.
fn local_name(table: &mut Table<'_>, of: &str) -> Option<String> {
    let field = table.require("name", &format!("each {of} has a `name`, half of its workloads' ids"))?;
    let name = field.text()?;
    let plain = name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'));
    if name.is_empty() || name.len() > 64 || !plain {
        field.error(
            format!("`{}` can't be a name here", name.escape_debug()),
            "1 to 64 of a-z, A-Z, 0-9, `-`, `_`, `.`",
        );
        return None;
    }
    Some(name.to_owned())
}

fn issuer(source: &Source, field: &Field<'_>) -> Option<TrustedIssuer> {
    let mut table = field.table()?;
    let name = local_name(&mut table, "`[[issuer]]`");
    if name.as_deref() == Some(SPIFFE_PROVIDER) {
        field.error("`spiffe` is what certificates of SPIFFE bundles are named by", "give the issuer another name");
    }
    let preset = table.take("preset").map_or(Some(Preset::Oidc), |field| field.choice(&Preset::ALL));
    let written = table.take("issuer");
    let issuer = match (&written, preset.and_then(Preset::issuer)) {
        (Some(field), _) => field.text().map(str::to_owned),
        (None, Some(known)) => Some(known.to_owned()),
        (None, None) => {
            field.error("`issuer` is missing", "write the `iss` of its tokens, exactly");
            None
        }
    };
    let allow_loopback = table.boolean("allow_loopback", false);
    if let (Some(issuer), Some(written)) = (&issuer, &written) {
        let https = issuer.starts_with("https://") || (allow_loopback && issuer.starts_with("http://"));
        if !https {
            written.error(format!("`{}` is not `https://…`", issuer.escape_debug()), "its keys are fetched from there");
        }
    }
    let help = "name what jobs ask their token for, such as our own address: a token that was made for another \
                service must not be good here";
    let audience = table.require("audience", help);
    let audience = audience.and_then(|field| {
        let text = field.text()?;
        if text.trim().is_empty() || text.contains('*') {
            field.error(format!("`{}` is no audience", text.escape_debug()), help);
            return None;
        }
        Some(text.to_owned())
    });
    let folder = source.file().parent().unwrap_or_else(|| Path::new("."));
    let mut path = |key: &'static str| table.text(key).map(|text| folder.join(text));
    let jwks_file = path("jwks_file");
    let ca = path("ca");
    table.finish();
    Some(TrustedIssuer {
        name: name?,
        preset: preset?,
        issuer: issuer?,
        audience: audience?,
        jwks_file,
        ca,
        allow_loopback,
    })
}

fn rule(field: &Field<'_>, issuers: &[TrustedIssuer]) -> Option<TrustRule> {
    let mut table = field.table()?;
    let name = local_name(&mut table, "`[[rule]]`");
    let groups = table.texts("groups");
    let services = table
        .list("services")
        .iter()
        .filter_map(|field| {
            let text = field.text()?;
            let parsed = ServiceName::parse(text);
            parsed.map_err(|error| field.error(error.to_string(), "write the names of services")).ok()
        })
        .collect();
    let acts_for = table.texts("acts_for");
    let of = table.take("issuer");
    let claims = table.take("claims");
    let spiffe = table.take("spiffe");
    if spiffe.is_some() && !acts_for.is_empty() {
        field.error("`acts_for` is for rules of tokens", "who acts for somebody exchanges a token: leave it out here");
    }
    table.finish();
    let evidence = match (of, claims, spiffe) {
        (Some(of), claims, None) => {
            let text = of.text()?;
            if !issuers.iter().any(|issuer| issuer.name == text) {
                let help = suggestion::help(text, issuers.iter().map(|issuer| issuer.name.as_str()));
                of.error(format!("there is no issuer `{}` above", text.escape_debug()), help);
                return None;
            }
            let Some(claims) = claims else {
                field.error("`claims` is missing", "without claims every token of the issuer would do");
                return None;
            };
            let claims = claims.table()?.rest().filter_map(|(name, field)| wanted_claim(name, &field)).collect();
            Evidence::Claims { issuer: text.to_owned(), claims }
        }
        (None, None, Some(spiffe)) => Evidence::Spiffe(wanted(&spiffe)?),
        _ => {
            let help = "write `issuer` and `claims` for tokens, or `spiffe` for certificates";
            field.error("a rule looks at one kind of evidence", help);
            return None;
        }
    };
    Some(TrustRule { name: name?, groups, services, acts_for, evidence })
}

fn wanted_claim(name: &str, field: &Field<'_>) -> Option<(String, Wanted)> {
    if matches!(name, "iss" | "aud" | "exp" | "nbf" | "iat" | "jti") {
        field.error(format!("`{name}` is checked for every token"), "leave it out; the audience belongs to the issuer");
        return None;
    }
    Some((name.to_owned(), wanted(field)?))
}

fn wanted(field: &Field<'_>) -> Option<Wanted> {
    let texts: Vec<String> = if field.is_text() {
        field.text().map(str::to_owned).into_iter().collect()
    } else {
        field.list().iter().filter_map(Field::text).map(str::to_owned).collect()
    };
    if texts.is_empty() || texts.iter().any(String::is_empty) {
        field
            .error(format!("`{}` must be a text or a list of texts", field.name()), "numbers and truths in quotes too");
        return None;
    }
    Some(Wanted(texts))
}
