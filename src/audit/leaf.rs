//! The exact bytes under which an event is kept: leaf version 1.
//!
//! A leaf is one JSON object without white space:
//!
//! ```text
//! {"v":1,"log":"nod_…","seq":7,"time":"2026-11-22T10:00:00.000Z","type":"decision.allow",
//!  "service":"ops-api","outcome":"success","body":"…","personal":{"address":"…","principal":"…"}}
//! ```
//!
//! (`service` is left out where there is none). Up to `outcome` it is the clear part. `body` and
//! each entry of `personal` are commitments: base64url without padding of
//! SHA-256(salt ‖ name ‖ 0x00 ‖ value), with a salt of 16 random bytes for each, `body` the name
//! of the body, and the value in UTF-8 as stored. The salts are kept beside the leaf, first the
//! body's, then those of the personal fields by name; whoever is shown a value and its salt can
//! check it, and whoever is not learns nothing, even of a value with few possibilities.
//!
//! Personal is what names or places a person: see [`PersonalField`]. Session, certificate and
//! pseudonym stay in the body: they say that two events are of one person, not of whom.
//!
//! INVARIANT: the same sealed event, log and number give the same bytes, always.

use std::sync::{Arc, Mutex, PoisonError};

use data_encoding::BASE64URL_NOPAD;
use serde_json::Value;
use sha2::{Digest, Sha256};

use super::body::{body_of, personal_of};
use super::event::{Event, EventType, Outcome};
use super::json::Object;
use super::leaf_read::LeafError;
use super::line::Withheld;
use super::pseudonym::Pseudonyms;
use crate::model::{Entropy, EventId, GrantId, NodeId, ServiceName, SessionId, Timestamp, UserRef};

/// Bytes of one salt.
pub(super) const SALT_BYTES: usize = 16;
/// Random bytes that are drawn at once: the salts of some fifty events.
const SALT_STOCK_BYTES: usize = 4096;
/// Personal fields that there are.
const PERSONAL_FIELDS: usize = 6;
/// What stands for a body that was erased as a whole: a body always has its event's id.
pub(super) const ERASED_BODY: &str = "{}";
/// What the body is called in its commitment.
pub(super) const BODY: &str = "body";

/// What of an event is personal. In the order of their names, which is the order of their salts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum PersonalField {
    /// Where the connection came from.
    Address,
    /// The device: its name is often its owner's.
    Device,
    /// The actor's e-mail.
    Email,
    /// The path of the request: often a person's name or number is in it.
    Path,
    /// The actor: `User::"<provider>|<subject>"`.
    Principal,
    /// To whom it was done.
    Subject,
}

impl PersonalField {
    /// All of them, by name.
    pub const ALL: [Self; PERSONAL_FIELDS] =
        [Self::Address, Self::Device, Self::Email, Self::Path, Self::Principal, Self::Subject];

    /// Its name in the leaf.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Address => "address",
            Self::Device => "device",
            Self::Email => "email",
            Self::Path => "path",
            Self::Principal => "principal",
            Self::Subject => "subject",
        }
    }

    pub(super) fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|field| field.name() == name)
    }
}

/// What it takes to seal events: pseudonyms and a source of salts.
pub struct Sealing {
    pseudonyms: Pseudonyms,
    entropy: Arc<dyn Entropy>,
    salts: Mutex<SaltStock>,
}

/// Random bytes that were drawn together, since each draw has its own cost.
struct SaltStock {
    bytes: [u8; SALT_STOCK_BYTES],
    left: usize,
}

impl SaltStock {
    fn take(&mut self, count: usize, entropy: &dyn Entropy) -> Vec<u8> {
        if self.left < count {
            entropy.fill(&mut self.bytes);
            self.left = SALT_STOCK_BYTES;
        }
        let from = SALT_STOCK_BYTES - self.left;
        self.left -= count;
        let taken = self.bytes.get_mut(from..from + count).unwrap_or_default();
        let salts = taken.to_vec();
        // INVARIANT: no salt is given out twice.
        taken.fill(0);
        salts
    }
}

impl Sealing {
    /// Sealing with these pseudonyms and salts from `entropy`.
    #[must_use]
    pub fn new(pseudonyms: Pseudonyms, entropy: Arc<dyn Entropy>) -> Self {
        Self { pseudonyms, entropy, salts: Mutex::new(SaltStock { bytes: [0; SALT_STOCK_BYTES], left: 0 }) }
    }

    /// The pseudonyms of this installation.
    #[must_use]
    pub const fn pseudonyms(&self) -> &Pseudonyms {
        &self.pseudonyms
    }

    /// Where salts, and ids of the record's own events, come from.
    #[must_use]
    pub fn entropy(&self) -> &dyn Entropy {
        &*self.entropy
    }

    /// Divides `event` into its clear part, its body and its personal fields, and commits to them.
    #[must_use]
    pub fn seal(&self, event: &Event) -> Sealed {
        let actor = event.actor.principal.as_ref().map(|p| self.pseudonyms.of(p));
        let subject = event.subject.as_ref().map(|p| self.pseudonyms.of(p));
        let personal = personal_of(event);
        let salts = self
            .salts
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take(SALT_BYTES * (1 + personal.len()), &*self.entropy);
        Sealed::assemble(
            Clear {
                id: event.id,
                time: event.time,
                kind: event.kind,
                service: event.service.clone(),
                outcome: event.outcome,
                actor,
                session: event.actor.session,
                grant: event.grant,
            },
            body_of(event, actor, subject),
            personal,
            salts,
        )
    }
}

/// What of an event stands in columns of its own. `actor`, `session` and `grant` are in the body
/// too, which is what the leaf commits to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Clear {
    /// The event's id.
    pub id: EventId,
    /// When.
    pub time: Timestamp,
    /// What.
    pub kind: EventType,
    /// About which service.
    pub service: Option<ServiceName>,
    /// How it came out.
    pub outcome: Outcome,
    /// The actor's pseudonym.
    pub actor: Option<UserRef>,
    /// The actor's session.
    pub session: Option<SessionId>,
    /// The grant that it belongs to.
    pub grant: Option<GrantId>,
}

/// An event that is ready to be kept and lacks only its number.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sealed {
    clear: Clear,
    body: String,
    personal: Vec<(PersonalField, String)>,
    salts: Vec<u8>,
    commitments: Vec<[u8; 32]>,
    erased: Vec<PersonalField>,
}

impl Sealed {
    /// Puts together what was stored. The commitments are made anew.
    ///
    /// # Errors
    /// When `personal` is not an object of the fields that there are, or salts are missing.
    pub fn stored(clear: Clear, body: String, personal: &str, salts: Vec<u8>) -> Result<Self, LeafError> {
        let personal = read_personal(personal)?;
        if (body.is_empty() || body == ERASED_BODY) && personal.is_empty() && salts.is_empty() {
            return Ok(Self { clear, body, personal, salts, commitments: Vec::new(), erased: Vec::new() });
        }
        if salts.len() != SALT_BYTES * (1 + personal.len()) {
            return Err(LeafError::Salts);
        }
        Ok(Self::assemble(clear, body, personal, salts))
    }

    fn assemble(clear: Clear, body: String, personal: Vec<(PersonalField, String)>, salts: Vec<u8>) -> Self {
        let mut commitments = Vec::with_capacity(1 + personal.len());
        {
            let mut salt = salts.chunks_exact(SALT_BYTES);
            commitments.push(commitment(salt.next().unwrap_or_default(), BODY, &body));
            for (field, value) in &personal {
                commitments.push(commitment(salt.next().unwrap_or_default(), field.name(), value));
            }
        }
        Self { clear, body, personal, salts, commitments, erased: Vec::new() }
    }

    /// What a leaf alone tells: these commitments, the body's and then those of `fields`, and no content.
    pub(super) fn bare(clear: Clear, fields: impl Iterator<Item = PersonalField>, commitments: Vec<[u8; 32]>) -> Self {
        let personal = fields.map(|field| (field, String::new())).collect();
        Self { clear, body: String::new(), personal, salts: Vec::new(), commitments, erased: Vec::new() }
    }

    /// Knows by its leaf which personal values were erased.
    #[must_use]
    pub fn beside(mut self, leaf: &[u8]) -> Self {
        self.erased = if self.is_gone() { Vec::new() } else { super::erase::erased_beside(leaf, &self.personal) };
        self
    }

    /// Personal values that the leaf commits to and that were erased, as far as the leaf was there.
    #[must_use]
    pub fn erased(&self) -> &[PersonalField] {
        &self.erased
    }

    /// Whether the leaf is all that is left: pruned when its time was over, or erased as a whole.
    #[must_use]
    pub fn is_gone(&self) -> bool {
        self.withheld().is_some()
    }

    /// Why its content is gone, if it is.
    #[must_use]
    pub fn withheld(&self) -> Option<Withheld> {
        match self.body.as_str() {
            "" => Some(Withheld::Pruned),
            ERASED_BODY => Some(Withheld::Erased),
            _ => None,
        }
    }

    /// What stands in columns of its own.
    #[must_use]
    pub const fn clear(&self) -> &Clear {
        &self.clear
    }

    /// Everything that is neither clear nor personal, as JSON.
    #[must_use]
    pub fn body(&self) -> &str {
        &self.body
    }

    /// The personal fields by name.
    #[must_use]
    pub fn personal(&self) -> &[(PersonalField, String)] {
        &self.personal
    }

    /// The personal fields as one JSON object, as they are stored.
    #[must_use]
    pub fn personal_json(&self) -> String {
        let size: usize = self.personal.iter().map(|(_, value)| value.len() + 16).sum();
        let mut out = String::with_capacity(2 + size);
        let mut object = Object::open(&mut out);
        for (field, value) in &self.personal {
            object.whole(field.name(), value);
        }
        object.close();
        out
    }

    /// The salts: the body's, then those of the personal fields by name, 16 bytes each.
    #[must_use]
    pub fn salts(&self) -> &[u8] {
        &self.salts
    }

    /// The leaf at place `seq` of the log `log`.
    #[must_use]
    pub fn leaf(&self, log: &NodeId, seq: i64) -> Vec<u8> {
        let mut out = String::with_capacity(256 + 64 * self.commitments.len());
        let mut leaf = Object::open(&mut out);
        leaf.key("v").push('1');
        leaf.plain("log", log);
        leaf.key("seq").push_str(&seq.to_string());
        leaf.plain("time", self.clear.time);
        leaf.text("type", self.clear.kind.name());
        leaf.text_if("service", self.clear.service.as_ref().map(ServiceName::as_str));
        leaf.text("outcome", self.clear.outcome.name());
        let mut commitments = self.commitments.iter();
        if let Some(body) = commitments.next() {
            push_commitment(leaf.key(BODY), body);
        }
        let mut personal = Object::open(leaf.key("personal"));
        for ((field, _), commitment) in self.personal.iter().zip(commitments) {
            push_commitment(personal.key(field.name()), commitment);
        }
        personal.close();
        leaf.close();
        out.into_bytes()
    }

    /// What its leaf commits to: the body, then the personal fields by name.
    pub(super) fn commitments(&self) -> &[[u8; 32]] {
        &self.commitments
    }

    /// Whether the columns that repeat what the body says repeat it truly.
    pub(super) fn columns_agree(&self) -> bool {
        let Ok(body) = serde_json::from_str::<Value>(&self.body) else {
            return false;
        };
        let text = |pointer: &str| body.pointer(pointer).and_then(Value::as_str).map(str::to_owned);
        text("/id") == Some(self.clear.id.to_string())
            && text("/actor/id") == self.clear.actor.map(|id| id.to_string())
            && text("/actor/session") == self.clear.session.map(|id| id.to_string())
            && text("/grant") == self.clear.grant.map(|id| id.to_string())
    }
}

pub(super) fn commitment(salt: &[u8], name: &str, value: &str) -> [u8; 32] {
    let mut hash = Sha256::new();
    hash.update(salt);
    hash.update(name.as_bytes());
    hash.update([0]);
    hash.update(value.as_bytes());
    hash.finalize().into()
}

fn push_commitment(out: &mut String, commitment: &[u8; 32]) {
    out.push('"');
    BASE64URL_NOPAD.encode_append(commitment, out);
    out.push('"');
}

pub(super) fn in_order<T>(mut fields: Vec<(PersonalField, T)>) -> Vec<(PersonalField, T)> {
    fields.sort_unstable_by_key(|(field, _)| *field);
    fields
}

fn read_personal(text: &str) -> Result<Vec<(PersonalField, String)>, LeafError> {
    let Ok(Value::Object(map)) = serde_json::from_str(text) else {
        return Err(LeafError::Personal);
    };
    let fields = map
        .into_iter()
        .map(|(name, value)| match (PersonalField::parse(&name), value) {
            (Some(field), Value::String(value)) => Ok((field, value)),
            _ => Err(LeafError::Personal),
        })
        .collect::<Result<Vec<_>, _>>()?;
    Ok(in_order(fields))
}
