//! Whom an erasure means: an account by its name, by its pseudonym, or by an address that only it has
//! had. Tables are asked first; who has left them all is looked for in the record.

use crate::audit::PersonalField;
use crate::control::desk::Desk;
use crate::model::{Principal, PrincipalKind, UserRef};
use crate::store::{ERASURE_LOOK, Recorded, StoreError, Traces, erased_pseudonym};

use super::{EraseError, already};

/// The longest name of a person that is read.
const PERSON_BYTES_MAX: usize = 600;

/// Who is meant.
#[derive(Debug, Clone)]
pub struct Target {
    /// Their pseudonym in the record.
    pub pseudonym: UserRef,
    /// Their account, addresses and names.
    pub traces: Traces,
    /// Whether a table beside the record knows them.
    pub known: bool,
}

impl Target {
    /// Whether the opener of an emergency who calls themselves so may be this person.
    pub fn is_called(&self, desk: &Desk, opener: &str) -> bool {
        let policies = desk.policies.load();
        let local = self.traces.emails.iter().filter_map(|email| email.split('@').next());
        let names = self.traces.names.iter().chain(&self.traces.emails).map(String::as_str);
        let account = [Some(self.traces.principal.subject()), policies.people().name_of(&self.traces.principal)];
        let mut all = names.chain(local).chain(account.into_iter().flatten());
        all.any(|name| name.eq_ignore_ascii_case(opener))
    }
}

/// Finds who is meant.
pub async fn find(desk: &Desk, person: &str) -> Result<Target, EraseError> {
    let person = person.trim();
    if person.is_empty() || person.len() > PERSON_BYTES_MAX || person.contains(char::is_control) {
        return Err(EraseError::Form);
    }
    if let Ok(pseudonym) = UserRef::parse(person) {
        return by_pseudonym(desk, pseudonym).await;
    }
    // What stands in tables where a person was is nobody.
    if let Some(pseudonym) = erased_pseudonym(person) {
        let pseudonym = UserRef::parse(pseudonym).map_err(|_| EraseError::Unknown)?;
        let before = desk.store.erasure_of(pseudonym).await?.ok_or(EraseError::Unknown)?;
        return Err(already(desk, before.id).await);
    }
    if let Some(principal) = Principal::parse(person) {
        return match principal.kind() {
            PrincipalKind::User => by_account(desk, principal).await,
            PrincipalKind::Workload | PrincipalKind::BreakGlass => Err(EraseError::NotAPerson),
        };
    }
    if person.contains('@') { by_email(desk, person).await } else { Err(EraseError::Form) }
}

async fn known(desk: &Desk, principal: Principal) -> Result<Target, EraseError> {
    let pseudonym = desk.store.pseudonym(&principal)?;
    let traces = desk.store.traces_of(&principal).await?;
    Ok(Target { pseudonym, traces, known: true })
}

async fn by_account(desk: &Desk, principal: Principal) -> Result<Target, EraseError> {
    if desk.store.account_list().await?.contains(&principal) {
        return known(desk, principal).await;
    }
    let target = Target {
        pseudonym: desk.store.pseudonym(&principal)?,
        traces: Traces { principal, emails: Vec::new(), names: Vec::new() },
        known: false,
    };
    // Only the record may know them still.
    match first_event(desk, target.pseudonym).await? {
        Some(_) => Ok(target),
        None => Err(EraseError::Unknown),
    }
}

async fn by_pseudonym(desk: &Desk, pseudonym: UserRef) -> Result<Target, EraseError> {
    if let Some(before) = desk.store.erasure_of(pseudonym).await? {
        return Err(already(desk, before.id).await);
    }
    for principal in desk.store.account_list().await? {
        if desk.store.pseudonym(&principal)? == pseudonym {
            return known(desk, principal).await;
        }
    }
    let event = first_event(desk, pseudonym).await?.ok_or(EraseError::Unknown)?;
    let principal = named_in(&event, pseudonym).ok_or(EraseError::NotAPerson)?;
    Ok(Target { pseudonym, traces: Traces { principal, emails: Vec::new(), names: Vec::new() }, known: false })
}

async fn by_email(desk: &Desk, email: &str) -> Result<Target, EraseError> {
    let mut accounts = desk.store.account_list_of_email(email).await?;
    let in_tables = !accounts.is_empty();
    if !in_tables {
        accounts = accounts_in_record(desk, email).await?;
    }
    match accounts.as_slice() {
        [] => Err(EraseError::Unknown),
        [principal] if in_tables => known(desk, principal.clone()).await,
        [principal] => by_account(desk, principal.clone()).await,
        several => {
            let pseudonyms: Result<Vec<UserRef>, StoreError> =
                several.iter().map(|principal| desk.store.pseudonym(principal)).collect();
            Err(EraseError::Ambiguous(pseudonyms?))
        }
    }
}

/// The person whose pseudonym it is, as an event names them.
fn named_in(event: &Recorded, pseudonym: UserRef) -> Option<Principal> {
    let field = if event.clear().actor == Some(pseudonym) { PersonalField::Principal } else { PersonalField::Subject };
    Principal::parse(event.personal(field)?).filter(|principal| principal.kind() == PrincipalKind::User)
}

/// The first event in which this pseudonym acts or is meant, and that has not lost what is theirs.
async fn first_event(desk: &Desk, pseudonym: UserRef) -> Result<Option<Recorded>, StoreError> {
    for entry in desk.store.log_list().await? {
        let mut from = 0;
        while from < entry.size {
            let places = (from, entry.size.min(from + ERASURE_LOOK));
            let found = desk.store.erasure_matching(entry.log, places, pseudonym, 1).await?;
            if let Some(event) = found.into_iter().next() {
                return Ok(Some(event));
            }
            from = places.1;
        }
    }
    Ok(None)
}

/// Accounts that acted under this address, as the record tells. What a rule keeps of an erasure still has the
/// address: where nothing else has it, that person was erased before.
async fn accounts_in_record(desk: &Desk, email: &str) -> Result<Vec<Principal>, EraseError> {
    let mut found: Vec<(Principal, Option<UserRef>)> = Vec::new();
    for entry in desk.store.log_list().await? {
        let mut from = 0;
        while from < entry.size {
            let places = (from, entry.size.min(from + ERASURE_LOOK));
            for (actor, personal) in desk.store.personal_with(entry.log, places, email).await? {
                let actor = actor.and_then(|actor| UserRef::parse(&actor).ok());
                found.extend(account_of(&personal, email).map(|principal| (principal, actor)));
            }
            found.sort();
            found.dedup();
            from = places.1;
        }
    }
    let (mut accounts, mut erased) = (Vec::new(), None);
    for (principal, actor) in found {
        let before = match actor {
            Some(actor) => desk.store.erasure_of(actor).await?,
            None => None,
        };
        match before {
            Some(before) => erased = Some(before.id),
            None => accounts.push(principal),
        }
    }
    accounts.dedup();
    match erased {
        Some(before) if accounts.is_empty() => Err(already(desk, before).await),
        _ => Ok(accounts),
    }
}

fn account_of(personal: &str, email: &str) -> Option<Principal> {
    let personal: serde_json::Value = serde_json::from_str(personal).ok()?;
    let text = |field: PersonalField| personal.get(field.name()).and_then(serde_json::Value::as_str);
    let same = text(PersonalField::Email)?.eq_ignore_ascii_case(email);
    let principal = Principal::parse(text(PersonalField::Principal)?)?;
    (same && principal.kind() == PrincipalKind::User).then_some(principal)
}
