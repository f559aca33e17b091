//! What of an event goes when a person is erased, and what is left of it then.
//!
//! A leaf commits to each personal value under a salt of its own. The value and its salt are deleted;
//! the commitment stays in the leaf, and with it every proof. Without the salt nobody can try values
//! against it.

use serde_json::Value;

use super::event::EventType;
use super::json::Object;
use super::leaf::{PersonalField, SALT_BYTES, Sealed};
use crate::model::UserRef;

/// What is said in place of a personal value that was erased.
pub const ERASED: &str = "erased";

/// What of an actor is theirs.
const OF_ACTOR: [PersonalField; 5] = [
    PersonalField::Address,
    PersonalField::Device,
    PersonalField::Email,
    PersonalField::Path,
    PersonalField::Principal,
];

/// The personal values of an event that belong to this pseudonym: where it is the actor's, all but the
/// other one's name; where it is the subject's, that name alone.
#[must_use]
pub fn fields_of(sealed: &Sealed, subject: Option<&str>, pseudonym: UserRef) -> Vec<PersonalField> {
    let is_actor = sealed.clear().actor == Some(pseudonym);
    let is_subject = subject.is_some_and(|id| id == pseudonym.to_string());
    let theirs = |field: &PersonalField| match field {
        PersonalField::Subject => is_subject,
        field => is_actor && OF_ACTOR.contains(field),
    };
    sealed.personal().iter().map(|(field, _)| *field).filter(theirs).collect()
}

/// The personal values of an event and its salts as they are kept once `gone` is erased.
#[must_use]
pub fn without(sealed: &Sealed, gone: &[PersonalField]) -> (String, Vec<u8>) {
    let mut personal = String::new();
    let mut object = Object::open(&mut personal);
    let mut pieces = sealed.salts().chunks_exact(SALT_BYTES);
    let mut salts = pieces.next().unwrap_or_default().to_vec();
    for ((field, value), salt) in sealed.personal().iter().zip(pieces) {
        if !gone.contains(field) {
            object.whole(field.name(), value);
            salts.extend_from_slice(salt);
        }
    }
    object.close();
    (personal, salts)
}

/// The personal values that a leaf commits to and that are not there any more. The leaf is looked at and
/// not read: every event that is fetched comes through here.
pub(super) fn erased_beside(leaf: &[u8], personal: &[(PersonalField, String)]) -> Vec<PersonalField> {
    const COMMITMENTS: &str = "\"personal\":{";
    let Ok(text) = std::str::from_utf8(leaf) else { return Vec::new() };
    let Some(at) = text.rfind(COMMITMENTS) else { return Vec::new() };
    // Behind it there are names and base64url alone.
    let commitments = text.get(at + COMMITMENTS.len()..).unwrap_or_default();
    if commitments.matches(':').count() == personal.len() {
        return Vec::new();
    }
    let names = commitments.split(',').filter_map(|pair| pair.split('"').nth(1)).filter_map(PersonalField::parse);
    names.filter(|name| !personal.iter().any(|(field, _)| field == name)).collect()
}

/// What an event tells of an erasure.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ErasedTold {
    /// Personal values that were erased (`audit.erased`).
    pub values: u64,
    /// Events that are erased as a whole (`audit.person_erased`, before any of them is).
    pub events: u64,
    /// Of the values, those that were paths of other people's requests, which named who was erased.
    pub paths: u64,
}

impl ErasedTold {
    /// Counts what another event tells.
    pub const fn add(&mut self, more: Self) {
        self.values += more.values;
        self.events += more.events;
        self.paths += more.paths;
    }

    /// What is wrong where so many events are gone as a whole; nothing where as many were told of.
    #[must_use]
    pub fn missing(&self, gone: u64) -> Option<String> {
        let told = self.events;
        (gone > told).then(|| {
            format!("{gone} events have no content since they were erased, and erasures on record tell of {told}")
        })
    }

    /// What the event of this type and body tells, and of whom.
    pub(super) fn of(kind: EventType, body: &str) -> (Self, Option<UserRef>) {
        if !matches!(kind, EventType::AuditErased | EventType::AuditPersonErased) {
            return (Self::default(), None);
        }
        let body: Value = serde_json::from_str(body).unwrap_or_default();
        let number = |pointer: &str| body.pointer(pointer).and_then(Value::as_u64).unwrap_or(0);
        let told = match kind {
            EventType::AuditErased => Self { values: number("/data/fields"), events: 0, paths: number("/data/paths") },
            _ => Self { events: number("/data/texts").saturating_sub(number("/data/texts_left")), ..Self::default() },
        };
        (told, person(&body, "/data/pseudonym"))
    }
}

/// Whose values are gone from an event, by its body: those of [`fields_of`]. None among them is nobody, whose
/// values no erasure takes.
pub(super) fn whose(body: &str, gone: &[PersonalField]) -> Vec<Option<UserRef>> {
    if gone.is_empty() {
        return Vec::new();
    }
    let body: Value = serde_json::from_str(body).unwrap_or_default();
    let of = |field: &PersonalField| match field {
        PersonalField::Subject => person(&body, "/subject/id"),
        _ => person(&body, "/actor/id"),
    };
    let mut people: Vec<_> = gone.iter().map(of).collect();
    people.sort_unstable();
    people.dedup();
    people
}

fn person(body: &Value, pointer: &str) -> Option<UserRef> {
    UserRef::parse(body.pointer(pointer)?.as_str()?).ok()
}
