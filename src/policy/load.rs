//! Loading: everything is read once, checked together, and taken whole or not at all.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::Path;
use std::sync::Arc;

use cedar_policy::{Effect, EntityUid};

use super::cedar_file::{CedarFile, Statement};
use super::diagnostic::{Diagnostic, Report, Source};
use super::entitlement::Entitlement;
use super::folder::{Folder, ServiceFolder};
use super::groups::Groups;
use super::judge::{Judge, could_match, is_about};
use super::kinds::Kinds;
use super::lint;
use super::people::People;
use super::policy_set::PolicySet;
use super::reads;
use super::route::Route;
use super::router::Router;
use super::rule;
use super::schema;
use super::service::{Engine, Service};
use super::service_file::ServiceFile;
use super::settings::ServiceSettings;
use super::sway::Sway;
use super::validate::{self, Validated};
use super::workloads::Workloads;
use crate::model::{ActionName, EntitlementName, ServiceName};

/// What loading needs to know of the installation.
#[derive(Debug, Clone)]
pub struct LoadSettings {
    /// Added to hosts without a dot: `ops-api` becomes `ops-api.<domain>`.
    pub domain: String,
    /// Groups that the configuration's providers give, where that is known: for misspelt ones.
    pub groups: Vec<String>,
}

/// A service that has been read and not yet put together.
pub(super) struct Draft {
    pub(super) name: ServiceName,
    pub(super) source: Source,
    pub(super) routes: Vec<Route>,
    pub(super) access: CedarFile,
    pub(super) entitlements: BTreeMap<String, (Entitlement, usize)>,
    settings: ServiceSettings,
    exact_paths: bool,
    hosts: Vec<(String, usize)>,
}

/// Reads a policy folder.
///
/// # Errors
/// Everything that is wrong with it, by place; nothing of it is then in force.
pub fn load(dir: &Path, settings: &LoadSettings) -> Result<PolicySet, Vec<Diagnostic>> {
    let report = Report::default();
    let set = read(dir, settings, &report);
    match set {
        Some(mut set) if !report.has_errors() => {
            set.warnings = report.into_sorted();
            Ok(set)
        }
        _ => {
            if !report.has_errors() {
                report.file_error(dir, "the policies could not be put together", "run `doorward policy check`");
            }
            Err(report.into_sorted())
        }
    }
}

fn read(dir: &Path, settings: &LoadSettings, report: &Report) -> Option<PolicySet> {
    let kinds = Kinds::new()?;
    let folder = Folder::read(dir, report);
    let groups = folder.files.get("groups.toml").map(|source| Groups::parse(source, report)).unwrap_or_default();
    let people = folder.files.get("people.toml").map(|source| People::parse(source, report)).unwrap_or_default();
    let names: Vec<&str> = folder.services.iter().map(|service| service.name.as_str()).collect();
    let workloads = folder.files.get("workloads.toml").map(|source| Workloads::parse(source, &names, report));
    let global = match folder.files.get("global.cedar") {
        Some(source) => CedarFile::parse(source, "global.cedar", report),
        None => None,
    };
    let drafts: Vec<Draft> = folder.services.iter().filter_map(|service| draft(service, settings, report)).collect();
    report_shared_hosts(&drafts, report);
    report_shared_names(&drafts, global.as_ref(), report);
    let world = validate::World {
        services: folder.services.iter().map(|service| service.name.clone()).collect(),
        entitlements: drafts
            .iter()
            .flat_map(|draft| draft.entitlements.values().map(|(entitlement, _)| entitlement.name.clone()))
            .collect(),
        // With a service that did not parse, what it defines is not known: no follow-up errors then.
        complete: drafts.len() == folder.services.len(),
    };
    let validated = validate::validate(&drafts, global.as_ref(), &world, report);
    lint::lint(&drafts, global.as_ref(), &groups, &settings.groups, &kinds, report);
    if report.has_errors() {
        return None;
    }
    assemble(
        drafts,
        global.as_ref(),
        &validated?,
        folder.version(),
        groups,
        people,
        workloads.unwrap_or_default(),
        kinds,
    )
}

fn draft(folder: &ServiceFolder, settings: &LoadSettings, report: &Report) -> Option<Draft> {
    let label = format!("{}/access.cedar", folder.name);
    let access = folder.files.get("access.cedar").and_then(|source| CedarFile::parse(source, &label, report));
    let source = folder.files.get("service.toml")?;
    let before = report.error_count();
    let file = ServiceFile::parse(source, &folder.name, &settings.domain, report)?;
    if report.error_count() != before {
        return None;
    }
    Some(Draft {
        name: folder.name.clone(),
        source: source.clone(),
        routes: file.routes.into_iter().map(|(route, _)| route).collect(),
        access: access?,
        entitlements: file.entitlements,
        settings: file.settings,
        exact_paths: file.exact_paths,
        hosts: file.hosts,
    })
}

fn report_shared_hosts(drafts: &[Draft], report: &Report) {
    let mut owners: HashMap<&str, &ServiceName> = HashMap::new();
    for draft in drafts {
        for (host, offset) in &draft.hosts {
            if let Some(owner) = owners.insert(host, &draft.name) {
                let message = format!("the host `{host}` belongs to `{owner}` already");
                report.error(&draft.source, *offset, message, "one host leads to one service");
            }
        }
    }
}

/// Two policies of one name could not be told apart in a decision.
fn report_shared_names(drafts: &[Draft], global: Option<&CedarFile>, report: &Report) {
    let mut seen: BTreeSet<Arc<str>> = BTreeSet::new();
    let global_names: BTreeSet<Arc<str>> =
        global.into_iter().flat_map(|file| &file.statements).map(|statement| statement.name.clone()).collect();
    for file in global.into_iter().chain(drafts.iter().map(|draft| &draft.access)) {
        seen.clear();
        for statement in &file.statements {
            let elsewhere = file.source.file().file_name().is_some_and(|name| name != "global.cedar")
                && global_names.contains(&statement.name);
            if !seen.insert(statement.name.clone()) || elsewhere {
                let message = format!("two policies are named `{}`", statement.name);
                report.error(&file.source, statement.start, message, "give each its own `@id`, on lines of its own");
            }
        }
    }
}

impl Draft {
    pub(super) fn actions(&self) -> BTreeSet<ActionName> {
        self.routes.iter().map(|route| route.action.clone()).collect()
    }
}

/// Actions by entitlement.
pub(super) type Opens = BTreeMap<EntitlementName, BTreeSet<ActionName>>;

/// Which actions of a service each entitlement opens: those that a policy which names it could match, also one that
/// forbids them `unless` it is held. What is named as the resource alone is asked for, and opens nothing.
pub(super) fn opened<'s>(
    actions: &BTreeSet<ActionName>,
    statements: impl Iterator<Item = &'s Statement> + Clone,
    service: &EntityUid,
    kinds: &Kinds,
) -> Opens {
    let mut opens = Opens::new();
    for statement in statements.filter(|statement| is_about(&statement.policy, service)) {
        let named = validate::entitlements_named(&statement.policy).into_iter();
        let opens_it = |name: &EntitlementName| {
            lint::names_as_principal(statement, name)
                && (statement.policy.effect() == Effect::Permit || lint::names_as_exception(statement, name))
        };
        for name in named.filter(opens_it) {
            let matching =
                actions.iter().filter(|action| could_match(&statement.policy, &kinds.action(action.as_str())));
            opens.entry(name).or_default().extend(matching.cloned());
        }
    }
    opens
}

/// From which actions of a service holding an entitlement may bar, and from which it can only bar, since no
/// policy gives anything by it.
fn barred<'s>(
    actions: &BTreeSet<ActionName>,
    statements: impl Iterator<Item = &'s Statement> + Clone,
    service: &EntityUid,
    kinds: &Kinds,
) -> (Opens, Opens) {
    let (mut gives, mut takes) = (Opens::new(), Opens::new());
    for statement in statements.filter(|statement| is_about(&statement.policy, service)) {
        for name in validate::entitlements_named(&statement.policy) {
            let sway = Sway::of(&statement.policy, &name);
            let matching =
                || actions.iter().filter(|action| could_match(&statement.policy, &kinds.action(action.as_str())));
            if sway.gives {
                gives.entry(name.clone()).or_default().extend(matching().cloned());
            }
            if sway.takes {
                takes.entry(name).or_default().extend(matching().cloned());
            }
        }
    }
    let mut only = takes.clone();
    for (name, actions) in &mut only {
        actions.retain(|action| !gives.get(name).is_some_and(|given| given.contains(action)));
    }
    (takes, only)
}

#[expect(clippy::too_many_arguments, reason = "each is one file of the folder")]
fn assemble(
    drafts: Vec<Draft>,
    global: Option<&CedarFile>,
    validated: &Validated,
    version: Arc<str>,
    groups: Groups,
    people: People,
    workloads: Workloads,
    kinds: Kinds,
) -> Option<PolicySet> {
    let shared: &[Statement] = global.map_or(&[], |file| &file.statements);
    let mut services = BTreeMap::new();
    let mut rules = BTreeMap::new();
    let mut hosts = HashMap::new();
    for draft in drafts {
        let statements = draft.access.statements.iter().chain(shared);
        let actions = draft.actions();
        let own: BTreeSet<EntitlementName> = draft.entitlements.values().map(|(e, _)| e.name.clone()).collect();
        let named = statements.clone().flat_map(|statement| validate::entitlements_named(&statement.policy));
        let mut texts = BTreeSet::new();
        statements.clone().for_each(|statement| reads::texts_of(&statement.policy, &mut texts));
        let uid = kinds.service(draft.name.as_str());
        let opens = opened(&actions, statements.clone(), &uid, &kinds);
        let (bars, only_bars) = barred(&actions, statements.clone(), &uid, &kinds);
        let engine = Engine {
            texts,
            opens,
            bars,
            only_bars,
            uid,
            requests: Judge::new(statements.clone(), actions.iter().map(|action| action.as_str().into()), &kinds)?,
            desk: Judge::new(statements.clone(), schema::ENTITLEMENT_ACTIONS.map(Arc::from), &kinds)?,
            remedies: own.into_iter().chain(named).collect(),
            schema: validated.schemas.get(&draft.name)?.clone(),
            router: Router::new(draft.routes, draft.exact_paths),
            actions,
        };
        let entitlements = draft.entitlements.into_iter().map(|(name, (entitlement, _))| (name, entitlement)).collect();
        let service = Arc::new(Service::new(draft.name.clone(), draft.settings, entitlements, engine));
        for host in &service.hosts {
            hosts.insert(host.clone(), service.clone());
        }
        rules.insert(draft.name.clone(), rule::rules(&service, &draft.access, global, &kinds));
        services.insert(draft.name, service);
    }
    Some(PolicySet {
        version,
        services,
        rules,
        hosts,
        groups,
        people,
        workloads,
        installation: Judge::new(shared.iter(), schema::INSTALLATION_ACTIONS.map(Arc::from), &kinds)?,
        installation_uid: kinds.installation(),
        kinds,
        warnings: Vec::new(),
    })
}
