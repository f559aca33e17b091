//! One human, however many accounts: those that `people.toml` links, those with an equal verified
//! e-mail address, and those that these lead to. This only ever refuses.

use std::collections::BTreeSet;

use crate::model::{Person, Principal, Session, Timestamp, Ttl};
use crate::policy::PolicySet;
use crate::store::{Store, StoreError, Tx};

/// How long an address that was verified for an account links it.
pub(in crate::control) const LINKED_FOR: Ttl = Ttl::hours(24 * 90);
/// Accounts of one human that are followed at most.
const ACCOUNTS_MAX: usize = 100;

/// The accounts and addresses of one human.
#[derive(Debug, Clone)]
pub(in crate::control) struct Human {
    accounts: BTreeSet<Principal>,
    emails: BTreeSet<String>,
}

impl Human {
    /// Whether that is them.
    pub fn is(&self, person: &Person) -> bool {
        self.has(&person.principal)
            || address(person.verified_email()).is_some_and(|email| self.emails.contains(&email))
    }

    /// Their accounts.
    pub fn accounts(&self) -> impl Iterator<Item = &Principal> {
        self.accounts.iter()
    }

    /// Whether that account is theirs.
    pub fn has(&self, account: &Principal) -> bool {
        self.accounts.contains(account)
    }
}

fn address(email: Option<&str>) -> Option<String> {
    email.map(str::to_ascii_lowercase)
}

/// Where people are looked up: within a transaction only by its own connection.
pub(in crate::control) enum Shelf<'a> {
    Store(&'a Store),
    Tx(&'a mut Tx),
}

impl Shelf<'_> {
    /// The same once more.
    pub(super) const fn again(&mut self) -> Shelf<'_> {
        match self {
            Self::Store(store) => Shelf::Store(store),
            Self::Tx(tx) => Shelf::Tx(tx),
        }
    }

    /// Whether an account is barred: the database is asked, since another node may have set a lock that this
    /// one has not heard of.
    pub(super) async fn is_locked(&mut self, who: &Principal) -> Result<bool, StoreError> {
        let lock = match self {
            Self::Store(store) => store.lock_fetch(who).await?,
            Self::Tx(tx) => tx.lock_fetch(who).await?,
        };
        Ok(lock.is_some())
    }

    /// The newest live session of an account.
    pub(super) async fn session_newest(
        &mut self,
        of: &Principal,
        now: Timestamp,
    ) -> Result<Option<Session>, StoreError> {
        let stored = match self {
            Self::Store(store) => store.session_list(Some(of), None, 1, now).await?.into_iter().next(),
            Self::Tx(tx) => tx.session_newest(of, now).await?,
        };
        Ok(stored.map(|stored| stored.session))
    }

    async fn emails(&mut self, of: &Principal, since: Timestamp) -> Result<Vec<String>, StoreError> {
        match self {
            Self::Store(store) => store.account_emails(of, since).await,
            Self::Tx(tx) => tx.account_emails(of, since).await,
        }
    }

    async fn accounts(&mut self, email: &str, since: Timestamp) -> Result<Vec<Principal>, StoreError> {
        match self {
            Self::Store(store) => store.email_accounts(email, since).await,
            Self::Tx(tx) => tx.email_accounts(email, since).await,
        }
    }
}

/// Everyone who is the same human as `person`.
pub(in crate::control) async fn human_of(
    mut shelf: Shelf<'_>,
    policies: &PolicySet,
    person: &Person,
    now: Timestamp,
) -> Result<Human, StoreError> {
    let since = now.minus(LINKED_FOR);
    let mut human = Human { accounts: BTreeSet::new(), emails: BTreeSet::new() };
    let mut accounts = vec![person.principal.clone()];
    let mut emails: Vec<String> = address(person.verified_email()).into_iter().collect();
    loop {
        if let Some(account) = accounts.pop() {
            if human.accounts.len() < ACCOUNTS_MAX && human.accounts.insert(account.clone()) {
                accounts.extend(policies.people().linked(&account).cloned());
                emails.extend(shelf.emails(&account, since).await?.iter().filter_map(|email| address(Some(email))));
            }
        } else if let Some(email) = emails.pop() {
            if human.emails.insert(email.clone()) {
                accounts.extend(shelf.accounts(&email, since).await?);
            }
        } else {
            return Ok(human);
        }
    }
}
