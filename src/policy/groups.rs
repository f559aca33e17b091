//! `groups.toml`: groups of this installation, their members, and groups within groups.
//!
//! ```toml
//! [group.release-managers]
//! members = ["bob@example.com", "corp|00u17", 'Workload::"github|repo"']
//! includes = ["platform-leads", "corp|sre"]   # whoever is in these is in this one too
//! ```
//!
//! INVARIANT: an e-mail gives membership only if the provider verified it; its local part is
//! compared byte for byte, its domain without regard to ASCII case (RFC 5321 §2.4).

use std::collections::{BTreeMap, BTreeSet};

use super::diagnostic::{Report, Source};
use super::document::{self, Field, Table};
use super::suggestion;
use crate::model::Principal;

/// The groups of `groups.toml`.
#[derive(Debug, Clone, Default)]
pub struct Groups {
    by_email: BTreeMap<String, Vec<String>>,
    by_principal: BTreeMap<Principal, Vec<String>>,
    /// Group → groups that include it.
    parents: BTreeMap<String, Vec<String>>,
    names: BTreeSet<String>,
}

/// An address in the form that it is compared in.
pub(super) fn comparable(email: &str) -> Option<String> {
    let (local, domain) = email.split_once('@')?;
    let plain = !local.is_empty() && !domain.is_empty() && !domain.contains('@');
    let clean = !email.chars().any(|c| c.is_whitespace() || c.is_control());
    (plain && clean).then(|| format!("{local}@{}", domain.to_ascii_lowercase()))
}

impl Groups {
    pub(super) fn parse(source: &Source, report: &Report) -> Self {
        let mut groups = Self::default();
        let Some(document) = document::parse(source, report) else { return groups };
        let mut root = Table::root(source, report, document.get_ref());
        let Some(mut list) = root.take("group").and_then(|field| field.table()) else {
            root.error("the file holds no group", "write `[group.NAME]`, or remove the file");
            root.finish();
            return groups;
        };
        root.finish();
        let mut includes: Vec<(String, Field<'_>)> = Vec::new();
        for (name, field) in list.rest() {
            if name.is_empty() || name.contains('|') || name.chars().any(char::is_control) {
                field.error(
                    format!("`{}` can't be a group of this file", name.escape_debug()),
                    "a name with `|` belongs to a provider's groups; those can be included, not defined",
                );
                continue;
            }
            let Some(mut table) = field.table() else { continue };
            groups.names.insert(name.to_owned());
            for member in table.list("members") {
                groups.add_member(name, &member);
            }
            includes.extend(table.list("includes").into_iter().map(|included| (name.to_owned(), included)));
            table.finish();
        }
        for (name, field) in includes {
            let Some(included) = field.text() else { continue };
            groups.parents.entry(included.to_owned()).or_default().push(name.clone());
            if groups.ancestors(&name).contains(included) || included == name {
                let help = "a group can't include itself, also not by way of others";
                field.error(format!("`{name}` and `{}` include each other", included.escape_debug()), help);
            }
            // A name that no group of this file has may well be a provider's: a near miss is told.
            let near = suggestion::nearest(included, groups.names.iter().map(String::as_str));
            if let Some(near) = near.filter(|near| *near != included && !included.contains('|')) {
                report.warning(
                    source,
                    field.start(),
                    format!("`{}` is not a group of this file", included.escape_debug()),
                    format!("did you mean `{near}`?"),
                );
            }
        }
        groups
    }

    fn add_member(&mut self, group: &str, field: &Field<'_>) {
        let Some(text) = field.text() else { return };
        if let Some(principal) = Principal::parse(text) {
            self.by_principal.entry(principal).or_default().push(group.to_owned());
        } else if let Some(email) = comparable(text) {
            self.by_email.entry(email).or_default().push(group.to_owned());
        } else {
            field.error(
                format!("`{}` names nobody", text.escape_debug()),
                "write an e-mail address, an id `<provider>|<subject>`, or `Workload::\"…\"`",
            );
        }
    }

    /// Groups above one group.
    fn ancestors(&self, group: &str) -> BTreeSet<String> {
        let mut found = BTreeSet::new();
        let mut open: Vec<&str> = vec![group];
        while let Some(next) = open.pop() {
            for parent in self.parents.get(next).into_iter().flatten() {
                if found.insert(parent.clone()) {
                    open.push(parent);
                }
            }
        }
        found
    }

    /// All groups of a principal: what its provider told, what this file adds, and what includes those.
    pub(super) fn of(&self, principal: &Principal, verified_email: Option<&str>, told: &[String]) -> BTreeSet<String> {
        let by_email = verified_email.and_then(comparable).and_then(|email| self.by_email.get(&email));
        let own = self.by_principal.get(principal);
        let direct: BTreeSet<String> =
            told.iter().chain(by_email.into_iter().flatten()).chain(own.into_iter().flatten()).cloned().collect();
        let above: Vec<String> = direct.iter().flat_map(|group| self.ancestors(group)).collect();
        direct.into_iter().chain(above).collect()
    }

    /// Every group of the file: its members as they are compared, and the groups it takes in.
    pub(super) fn listed(&self) -> BTreeMap<String, (BTreeSet<String>, BTreeSet<String>)> {
        let mut listed: BTreeMap<String, (BTreeSet<String>, BTreeSet<String>)> =
            self.names.iter().map(|name| (name.clone(), Default::default())).collect();
        let emails = self.by_email.iter().map(|(email, groups)| (email.clone(), groups));
        let principals = self.by_principal.iter().map(|(principal, groups)| (principal.to_string(), groups));
        for (member, groups) in emails.chain(principals) {
            for group in groups {
                listed.entry(group.clone()).or_default().0.insert(member.clone());
            }
        }
        for (included, parents) in &self.parents {
            for parent in parents {
                listed.entry(parent.clone()).or_default().1.insert(included.clone());
            }
        }
        listed
    }

    /// The groups that the file defines.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.names.iter().map(String::as_str)
    }

    /// The groups of providers that the file includes.
    pub fn included(&self) -> impl Iterator<Item = &str> {
        self.parents.keys().map(String::as_str)
    }
}
