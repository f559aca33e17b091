//! All policies of an installation, loaded whole and never changed afterwards.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use cedar_policy::EntityUid;
use jiff::tz::TimeZone;

use super::context::{self, Ambient};
use super::diagnostic::Diagnostic;
use super::entitlement::Entitlement;
use super::groups::Groups;
use super::judge::Judge;
use super::kinds::Kinds;
use super::people::People;
use super::reads::Reads;
use super::rule::Rule;
use super::service::Service;
use super::subject::{Facts, Subject};
use super::verdict::Verdict;
use super::workloads::Workloads;
use crate::model::{EntitlementName, OpenedAction, ServiceName};

/// Built-in actions on `Installation::"doorward"`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum InstallationAction {
    /// End anyone's grant, credential or session.
    Revoke,
    /// Bar a principal, and unbar.
    Lock,
    /// Read anyone's decisions and events.
    ReadAudit,
    /// Take the record out.
    ExportAudit,
    /// Review break-glass openings and who may do what; run reports.
    Review,
    /// Change the installation.
    Administer,
}

impl InstallationAction {
    /// All of them.
    pub const ALL: [Self; 6] =
        [Self::Revoke, Self::Lock, Self::ReadAudit, Self::ExportAudit, Self::Review, Self::Administer];

    /// The id of the Cedar action.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Revoke => "revoke",
            Self::Lock => "lock",
            Self::ReadAudit => "read_audit",
            Self::ExportAudit => "export_audit",
            Self::Review => "review",
            Self::Administer => "administer",
        }
    }

    /// The action of that name.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|action| action.name() == text)
    }
}

/// Built-in actions on an `Entitlement`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum EntitlementAction {
    /// Ask for it.
    Request,
    /// Say yes or no to one who asks.
    Approve,
    /// Get it without anyone's answer.
    AutoApprove,
    /// End anyone's grant of it.
    Revoke,
}

impl EntitlementAction {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Request, Self::Approve, Self::AutoApprove, Self::Revoke];

    /// The id of the Cedar action.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Request => "request",
            Self::Approve => "approve",
            Self::AutoApprove => "auto_approve",
            Self::Revoke => "revoke",
        }
    }

    /// The action of that name.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|action| action.name() == text)
    }
}

/// The policies in force, or to be.
#[derive(Debug)]
pub struct PolicySet {
    pub(super) version: Arc<str>,
    pub(super) services: BTreeMap<ServiceName, Arc<Service>>,
    pub(super) rules: BTreeMap<ServiceName, Vec<Rule>>,
    pub(super) hosts: HashMap<String, Arc<Service>>,
    pub(super) groups: Groups,
    pub(super) people: People,
    pub(super) workloads: Workloads,
    pub(super) installation: Judge,
    pub(super) installation_uid: EntityUid,
    pub(super) kinds: Kinds,
    pub(super) warnings: Vec<Diagnostic>,
}

impl PolicySet {
    /// `sha256:<64 hex>` over names and bytes of all policy files; `tests.toml` don't count.
    #[must_use]
    pub const fn version(&self) -> &Arc<str> {
        &self.version
    }

    /// What is worth a look and was taken nevertheless.
    #[must_use]
    pub fn warnings(&self) -> &[Diagnostic] {
        &self.warnings
    }

    /// All services, by name.
    pub fn services(&self) -> impl Iterator<Item = &Arc<Service>> {
        self.services.values()
    }

    /// The service of that name.
    #[must_use]
    pub fn service(&self, name: &ServiceName) -> Option<&Arc<Service>> {
        self.services.get(name)
    }

    /// The service of a host: lower case, no port, no trailing dot.
    #[must_use]
    pub fn service_for_host(&self, host: &str) -> Option<&Arc<Service>> {
        self.hosts.get(host)
    }

    /// The definition of an entitlement.
    #[must_use]
    pub fn entitlement(&self, name: &EntitlementName) -> Option<&Entitlement> {
        self.service(name.service())?.entitlements.get(name.name())
    }

    /// All entitlements, by name.
    pub fn entitlements(&self) -> impl Iterator<Item = &Entitlement> {
        self.services().flat_map(|service| service.entitlements.values())
    }

    /// What holding an entitlement may open: actions of its own service first, then those of others whose
    /// policies name it.
    #[must_use]
    pub fn opened_by(&self, name: &EntitlementName) -> Vec<OpenedAction> {
        let own = self.service(name.service()).into_iter();
        let own = own.flat_map(|service| service.opened_by(name)).map(OpenedAction::own);
        let others = self.services().filter(|service| service.name != *name.service());
        let elsewhere = others.flat_map(|service| {
            let opened = service.opened_by(name).into_iter();
            opened.map(|action| OpenedAction::elsewhere(service.name.clone(), action))
        });
        own.chain(elsewhere).collect()
    }

    /// Accounts that are one human.
    #[must_use]
    pub const fn people(&self) -> &People {
        &self.people
    }

    /// Whose pipelines and machines are known.
    #[must_use]
    pub const fn workloads(&self) -> &Workloads {
        &self.workloads
    }

    /// The groups of `groups.toml`.
    #[must_use]
    pub const fn groups(&self) -> &Groups {
        &self.groups
    }

    /// Builds what is judged, once for many decisions.
    #[must_use]
    pub fn subject(&self, facts: &Facts<'_>) -> Subject {
        Subject::new(facts, &self.groups, &self.version, &self.kinds)
    }

    /// Judges a built-in action on the installation, by `global.cedar` alone.
    #[must_use]
    pub fn installation_decide(&self, subject: &Subject, action: InstallationAction, ambient: &Ambient<'_>) -> Verdict {
        let build = |reads| context::of_builtin(ambient, reads, &TimeZone::UTC);
        self.installation.decide(subject, action.name(), &self.installation_uid, build)
    }

    /// Which circumstances the policies of a built-in action on an entitlement read.
    #[must_use]
    pub fn entitlement_reads(&self, name: &EntitlementName, action: EntitlementAction) -> Reads {
        self.service(name.service()).map_or(Reads::EVERYTHING, |service| service.desk_reads(action))
    }

    /// Judges a built-in action on an entitlement, by its service's policies. One that no service
    /// defines is permitted to nobody.
    #[must_use]
    pub fn entitlement_decide(
        &self,
        subject: &Subject,
        action: EntitlementAction,
        name: &EntitlementName,
        ambient: &Ambient<'_>,
    ) -> Verdict {
        let Some(service) =
            self.service(name.service()).filter(|service| service.entitlements.contains_key(name.name()))
        else {
            return Verdict::nothing_permits();
        };
        service.decide_desk(subject, action, &self.kinds.entitlement(name), ambient)
    }
}
