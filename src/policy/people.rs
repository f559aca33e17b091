//! `people.toml`: accounts that belong to one human, so that nobody approves twice or for themself.
//! This rule only ever refuses.
//!
//! ```toml
//! [[person]]
//! name = "Alice Example"
//! accounts = ["corp|00u1", "contractors|alice"]
//! ```

use std::collections::BTreeMap;

use super::diagnostic::{Report, Source};
use super::document::{self, Table};
use super::groups::comparable;
use crate::model::Principal;

/// The linked accounts.
#[derive(Debug, Clone, Default)]
pub struct People {
    names: Vec<String>,
    by_account: BTreeMap<Principal, usize>,
}

impl People {
    pub(super) fn parse(source: &Source, report: &Report) -> Self {
        let mut people = Self::default();
        let Some(document) = document::parse(source, report) else { return people };
        let mut root = Table::root(source, report, document.get_ref());
        let persons = root.require("person", "write `[[person]]` with `accounts`, or remove the file");
        for (index, field) in persons.map(|field| field.list()).unwrap_or_default().into_iter().enumerate() {
            let Some(mut person) = field.table() else { continue };
            let name = person.text("name").unwrap_or_default().to_owned();
            for account in person.list("accounts") {
                let Some(text) = account.text() else { continue };
                let Some(principal) = Principal::parse(text) else {
                    account.error(
                        format!("`{}` is no account", text.escape_debug()),
                        "write its id, `<provider>|<subject>`",
                    );
                    continue;
                };
                if people.by_account.insert(principal, index).is_some() {
                    account.error(
                        format!("`{}` is listed twice", text.escape_debug()),
                        "an account belongs to one person",
                    );
                }
            }
            person.finish();
            people.names.push(name);
        }
        root.finish();
        people
    }

    /// Every person: the name given, and the accounts.
    pub(super) fn listed(&self) -> impl Iterator<Item = (&str, Vec<&Principal>)> {
        self.names.iter().enumerate().map(|(index, name)| {
            let own = self.by_account.iter().filter(|(_, person)| **person == index);
            (name.as_str(), own.map(|(account, _)| account).collect())
        })
    }

    /// The name given to the person of an account, where it is linked.
    #[must_use]
    pub fn name_of(&self, account: &Principal) -> Option<&str> {
        self.names.get(*self.by_account.get(account)?).map(String::as_str)
    }

    /// The accounts that are linked with one, itself among them.
    pub fn linked(&self, account: &Principal) -> impl Iterator<Item = &Principal> {
        let person = self.by_account.get(account);
        self.by_account.iter().filter(move |(_, other)| Some(*other) == person).map(|(account, _)| account)
    }

    /// Whether two accounts are one human: the same account, linked here, or equal verified e-mails.
    #[must_use]
    pub fn are_one(&self, left: (&Principal, Option<&str>), right: (&Principal, Option<&str>)) -> bool {
        let linked = |account| self.by_account.get(account);
        let email = |address: Option<&str>| address.and_then(comparable).map(|email| email.to_ascii_lowercase());
        left.0 == right.0
            || linked(left.0).is_some_and(|person| Some(person) == linked(right.0))
            || email(left.1).is_some_and(|address| Some(address) == email(right.1))
    }
}
