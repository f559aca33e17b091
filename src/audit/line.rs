//! One line of an export: the event for people and programs, and beside it the exact leaf, body and
//! salts, with which anyone can check it.
//!
//! ```text
//! {"id":"evt_…","time":"…","node":"nod_…","seq":7,"type":"decision.allow", … ,
//!  "leaf":"…","body":"…","personal":{…},"salts":{"body":"…", …}}
//! ```
//!
//! Personal values that were erased are listed by name (`erased`), and are in neither `personal` nor
//! `salts`; the leaf still commits to them.
//!
//! A line whose content is not there says why (`withheld`): the filter of the export left it out, it was
//! pruned when its time was over, or erased since a text in it named a person who was. It has the clear
//! part and the leaf.
//!
//! INVARIANT: one leaf, body, personal fields and salts give one line. Who checks a line writes it
//! anew from them and compares bytes, so that even a space that was added is found.

use std::borrow::Cow;
use std::fmt;

use data_encoding::BASE64URL_NOPAD;
use serde::Deserialize;
use serde_json::value::RawValue;

use super::erase::{ERASED, ErasedTold, whose};
use super::event::EventType;
use super::json::Object;
use super::leaf::{PersonalField, SALT_BYTES, Sealed};
use super::leaf_read::Leaf;
use super::merkle::{Hash, leaf_hash};
use crate::model::UserRef;

/// The longest line that is read, in bytes.
pub const LINE_BYTES_MAX: usize = 1024 * 1024;

/// Why a line has no content.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Withheld {
    /// The export's filter left it out.
    Filtered,
    /// Its time was over.
    Pruned,
    /// A text in it named a person who was erased.
    Erased,
}

impl Withheld {
    /// Every reason that there is.
    pub const ALL: [Self; 3] = [Self::Filtered, Self::Pruned, Self::Erased];

    /// As it is written.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Filtered => "filtered",
            Self::Pruned => "pruned",
            Self::Erased => ERASED,
        }
    }

    fn parse(text: &str) -> Option<Self> {
        [Self::Filtered, Self::Pruned, Self::Erased].into_iter().find(|why| why.name() == text)
    }
}

/// What is wrong with a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LineError {
    /// It can't be read.
    Form,
    /// The leaf is none.
    Leaf,
    /// What stands in it is not what its leaf commits to.
    Commitment { what: &'static str },
    /// What is shown is not what leaf, body and personal fields say.
    Shown,
}

impl fmt::Display for LineError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Form => f.write_str("the line can't be read"),
            Self::Leaf => f.write_str("its `leaf` is not that of an event"),
            Self::Commitment { what } => write!(f, "its `{what}` is not what the leaf commits to"),
            Self::Shown => f.write_str("what it shows is not what its leaf and body say"),
        }
    }
}

impl std::error::Error for LineError {}

/// A value that a leaf commits to, and the salt under which it does.
#[derive(Debug, Clone)]
struct Opened<'a> {
    value: Cow<'a, str>,
    salt: Vec<u8>,
}

/// What a line is made of.
struct Content<'a> {
    body: Opened<'a>,
    personal: Vec<(PersonalField, Opened<'a>)>,
}

impl<'a> Content<'a> {
    fn of(sealed: &'a Sealed) -> Option<Self> {
        let mut salts = sealed.salts().chunks_exact(SALT_BYTES).map(<[u8]>::to_vec);
        let body = Opened { value: sealed.body().into(), salt: salts.next()? };
        let personal = sealed
            .personal()
            .iter()
            .zip(salts)
            .map(|((field, value), salt)| (*field, Opened { value: value.as_str().into(), salt }))
            .collect();
        Some(Self { body, personal })
    }

    fn text(&self, wanted: PersonalField) -> Option<&str> {
        self.personal.iter().find(|(field, _)| *field == wanted).map(|(_, opened)| &*opened.value)
    }
}

#[derive(Deserialize)]
struct Body<'a> {
    #[serde(borrow)]
    action: Option<&'a RawValue>,
    actor: Option<&'a RawValue>,
    data: Option<&'a RawValue>,
    decision: Option<&'a RawValue>,
    grant: Option<&'a RawValue>,
    id: Option<&'a RawValue>,
    policy_version: Option<&'a RawValue>,
    reason: Option<&'a RawValue>,
    request: Option<&'a RawValue>,
    resource: Option<&'a RawValue>,
    subject: Option<&'a RawValue>,
    trace_id: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct ActorBody<'a> {
    #[serde(borrow)]
    certificate: Option<&'a RawValue>,
    id: Option<&'a RawValue>,
    kind: Option<&'a RawValue>,
    session: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct RequestBody<'a> {
    #[serde(borrow)]
    host: Option<&'a RawValue>,
    method: Option<&'a RawValue>,
    protocol: Option<&'a RawValue>,
}

/// The line of an event that was numbered.
#[must_use]
pub fn line_of(leaf_text: &str, leaf: &Leaf, sealed: &Sealed) -> String {
    match Content::of(sealed) {
        Some(content) if !sealed.is_gone() => write(leaf_text, leaf, &content).unwrap_or_default(),
        _ => withheld_line(leaf_text, leaf, sealed.withheld().unwrap_or(Withheld::Pruned)),
    }
}

/// The line of an event whose content is left out.
#[must_use]
pub fn withheld_line(leaf_text: &str, leaf: &Leaf, why: Withheld) -> String {
    let mut out = String::with_capacity(640 + leaf_text.len());
    let mut line = Object::open(&mut out);
    clear_part(&mut line, leaf);
    line.text("outcome", leaf.outcome.name());
    line.text("withheld", why.name());
    line.whole("leaf", leaf_text);
    line.close();
    out
}

/// The event as people and programs read it, without what proves it. `seq` is missing until it has a
/// number.
#[must_use]
pub fn event_json(node: &crate::model::NodeId, seq: Option<i64>, sealed: &Sealed) -> String {
    let leaf = Leaf::parse(&sealed.leaf(node, seq.unwrap_or(0)));
    let content = Content::of(sealed).filter(|_| !sealed.is_gone());
    let mut out = String::with_capacity(1024);
    let mut line = Object::open(&mut out);
    match (leaf, content) {
        (Ok(leaf), Some(content)) => {
            // A body that can't be read is none of ours; what is clear is shown all the same.
            let _ = shown(&mut line, &leaf, &content, seq.is_some());
            push_erased(&mut line, sealed.erased());
        }
        _ => {
            let clear = sealed.clear();
            line.plain("id", clear.id);
            line.plain("time", clear.time);
            line.plain("node", node);
            if let Some(seq) = seq {
                line.key("seq").push_str(&seq.to_string());
            }
            line.text("type", clear.kind.name());
            line.text_if("service", clear.service.as_ref().map(crate::model::ServiceName::as_str));
            line.text("outcome", clear.outcome.name());
            line.text("withheld", sealed.withheld().unwrap_or(Withheld::Pruned).name());
        }
    }
    line.close();
    out
}

fn clear_part(line: &mut Object<'_>, leaf: &Leaf) {
    line.plain("time", leaf.time);
    line.plain("node", leaf.log);
    line.key("seq").push_str(&leaf.seq.to_string());
    line.text("type", leaf.kind.name());
    line.text_if("service", leaf.service.as_ref().map(crate::model::ServiceName::as_str));
}

fn raw(line: &mut Object<'_>, key: &'static str, value: Option<&RawValue>) {
    if let Some(value) = value {
        line.key(key).push_str(value.get());
    }
}

fn whole_if(line: &mut Object<'_>, key: &'static str, value: Option<&str>) {
    if let Some(value) = value {
        line.whole(key, value);
    }
}

/// Writes the event's own keys, in the order of the contract.
fn shown(line: &mut Object<'_>, leaf: &Leaf, content: &Content<'_>, numbered: bool) -> Option<()> {
    let body: Body<'_> = serde_json::from_str(&content.body.value).ok()?;
    raw(line, "id", body.id);
    line.plain("time", leaf.time);
    line.plain("node", leaf.log);
    if numbered {
        line.key("seq").push_str(&leaf.seq.to_string());
    }
    line.text("type", leaf.kind.name());
    line.text_if("service", leaf.service.as_ref().map(crate::model::ServiceName::as_str));
    if let Some(actor) = body.actor {
        let actor: ActorBody<'_> = serde_json::from_str(actor.get()).ok()?;
        let mut object = Object::open(line.key("actor"));
        raw(&mut object, "kind", actor.kind);
        raw(&mut object, "id", actor.id);
        whole_if(&mut object, "principal", content.text(PersonalField::Principal));
        whole_if(&mut object, "email", content.text(PersonalField::Email));
        raw(&mut object, "session", actor.session);
        whole_if(&mut object, "device", content.text(PersonalField::Device));
        whole_if(&mut object, "address", content.text(PersonalField::Address));
        raw(&mut object, "certificate", actor.certificate);
        object.close();
    }
    raw(line, "action", body.action);
    raw(line, "resource", body.resource);
    if let Some(subject) = body.subject {
        let subject: ActorBody<'_> = serde_json::from_str(subject.get()).ok()?;
        let mut object = Object::open(line.key("subject"));
        raw(&mut object, "kind", subject.kind);
        raw(&mut object, "id", subject.id);
        whole_if(&mut object, "principal", content.text(PersonalField::Subject));
        object.close();
    }
    line.text("outcome", leaf.outcome.name());
    raw(line, "reason", body.reason);
    raw(line, "decision", body.decision);
    raw(line, "grant", body.grant);
    if let Some(request) = body.request {
        let request: RequestBody<'_> = serde_json::from_str(request.get()).ok()?;
        let mut object = Object::open(line.key("request"));
        raw(&mut object, "method", request.method);
        raw(&mut object, "host", request.host);
        whole_if(&mut object, "path", content.text(PersonalField::Path));
        raw(&mut object, "protocol", request.protocol);
        object.close();
    }
    raw(line, "policy_version", body.policy_version);
    raw(line, "trace_id", body.trace_id);
    raw(line, "data", body.data);
    Some(())
}

/// The names of personal values that were erased, where any was.
fn push_erased(line: &mut Object<'_>, erased: &[PersonalField]) {
    if erased.is_empty() {
        return;
    }
    let names: Vec<&str> = erased.iter().map(|field| field.name()).collect();
    let list = line.key(ERASED);
    list.push('[');
    for (position, name) in names.iter().enumerate() {
        list.push_str(if position == 0 { "\"" } else { ",\"" });
        list.push_str(name);
        list.push('"');
    }
    list.push(']');
}

fn write(leaf_text: &str, leaf: &Leaf, content: &Content<'_>) -> Option<String> {
    let mut out = String::with_capacity(3072);
    let mut line = Object::open(&mut out);
    shown(&mut line, leaf, content, true)?;
    let there = |field: &PersonalField| content.personal.iter().any(|(name, _)| name == field);
    push_erased(&mut line, &leaf.personal().filter(|field| !there(field)).collect::<Vec<_>>());
    line.whole("leaf", leaf_text);
    line.whole("body", &content.body.value);
    let mut personal = Object::open(line.key("personal"));
    for (field, opened) in &content.personal {
        personal.whole(field.name(), &opened.value);
    }
    personal.close();
    let mut salts = Object::open(line.key("salts"));
    salts.plain("body", BASE64URL_NOPAD.encode(&content.body.salt));
    for (field, opened) in &content.personal {
        salts.plain(field.name(), BASE64URL_NOPAD.encode(&opened.salt));
    }
    salts.close();
    line.close();
    Some(out)
}

#[derive(Deserialize)]
struct Outer<'a> {
    #[serde(borrow)]
    leaf: Cow<'a, str>,
    #[serde(borrow)]
    withheld: Option<Cow<'a, str>>,
    #[serde(borrow)]
    body: Option<Cow<'a, str>>,
    #[serde(borrow)]
    personal: Option<Values<'a>>,
    #[serde(borrow)]
    salts: Option<Values<'a>>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
struct Values<'a> {
    #[serde(borrow)]
    body: Option<Cow<'a, str>>,
    #[serde(borrow)]
    address: Option<Cow<'a, str>>,
    #[serde(borrow)]
    device: Option<Cow<'a, str>>,
    #[serde(borrow)]
    email: Option<Cow<'a, str>>,
    #[serde(borrow)]
    path: Option<Cow<'a, str>>,
    #[serde(borrow)]
    principal: Option<Cow<'a, str>>,
    #[serde(borrow)]
    subject: Option<Cow<'a, str>>,
}

impl<'a> Values<'a> {
    const fn of(&mut self, field: PersonalField) -> &mut Option<Cow<'a, str>> {
        match field {
            PersonalField::Address => &mut self.address,
            PersonalField::Device => &mut self.device,
            PersonalField::Email => &mut self.email,
            PersonalField::Path => &mut self.path,
            PersonalField::Principal => &mut self.principal,
            PersonalField::Subject => &mut self.subject,
        }
    }
}

/// A line that holds in itself: whether its leaf is in the tree is another question.
#[derive(Debug, Clone)]
pub struct CheckedLine {
    /// The leaf, read.
    pub leaf: Leaf,
    /// The hash of the leaf.
    pub hash: Hash,
    /// Why its content is not there, if it is not.
    pub withheld: Option<Withheld>,
    /// Personal fields that were erased.
    pub erased: usize,
    /// Whose they were, each once; none among them is nobody, whose values no erasure takes.
    pub erased_of: Vec<Option<UserRef>>,
    /// Whether its path alone was erased, as where it named somebody else.
    pub path_alone: bool,
    /// Until when old events were pruned, if the event says that.
    pub pruned_before: Option<String>,
    /// What was erased, if the event says that.
    pub erased_told: ErasedTold,
    /// Who was erased, if the event says that.
    pub person_erased: Option<UserRef>,
}

/// Checks everything about a line (without its line feed) that can be checked by itself.
///
/// # Errors
/// What is wrong with it.
pub fn check_line(line: &str) -> Result<CheckedLine, LineError> {
    let outer: Outer<'_> = serde_json::from_str(line).map_err(|_| LineError::Form)?;
    let leaf = Leaf::parse(outer.leaf.as_bytes()).map_err(|_| LineError::Leaf)?;
    let hash = leaf_hash(outer.leaf.as_bytes());
    let bare = |leaf, withheld| CheckedLine {
        leaf,
        hash,
        withheld,
        erased: 0,
        erased_of: Vec::new(),
        path_alone: false,
        pruned_before: None,
        erased_told: ErasedTold::default(),
        person_erased: None,
    };
    let withheld = match &outer.withheld {
        Some(why) => Some(Withheld::parse(why).ok_or(LineError::Form)?),
        None => None,
    };
    if let Some(why) = withheld {
        let same = withheld_line(&outer.leaf, &leaf, why) == line;
        return if same { Ok(bare(leaf, withheld)) } else { Err(LineError::Shown) };
    }
    let content = opened(outer.body, outer.personal, outer.salts).ok_or(LineError::Form)?;
    if !leaf.holds_body(&content.body.salt, &content.body.value) {
        return Err(LineError::Commitment { what: "body" });
    }
    for (field, opened) in &content.personal {
        if !leaf.holds_personal(*field, &opened.salt, &opened.value) {
            return Err(LineError::Commitment { what: field.name() });
        }
    }
    if write(&outer.leaf, &leaf, &content).as_deref() != Some(line) {
        return Err(LineError::Shown);
    }
    let there = |field: &PersonalField| content.personal.iter().any(|(name, _)| name == field);
    let gone: Vec<PersonalField> = leaf.personal().filter(|field| !there(field)).collect();
    let pruned_before = (leaf.kind == EventType::AuditPruned)
        .then(|| serde_json::from_str::<serde_json::Value>(&content.body.value).ok())
        .flatten()
        .and_then(|body| body.pointer("/data/before")?.as_str().map(str::to_owned));
    let (erased_told, person_erased) = ErasedTold::of(leaf.kind, &content.body.value);
    let erased_of = whose(&content.body.value, &gone);
    let path_alone = gone == [PersonalField::Path];
    let (erased, bare) = (gone.len(), bare(leaf, None));
    Ok(CheckedLine { erased, erased_of, path_alone, pruned_before, erased_told, person_erased, ..bare })
}

fn opened<'a>(
    body: Option<Cow<'a, str>>,
    personal: Option<Values<'a>>,
    salts: Option<Values<'a>>,
) -> Option<Content<'a>> {
    let (mut personal, mut salts) = (personal?, salts?);
    let salt =
        |text: Cow<'a, str>| BASE64URL_NOPAD.decode(text.as_bytes()).ok().filter(|salt| salt.len() == SALT_BYTES);
    let body = Opened { value: body?, salt: salt(salts.body.take()?)? };
    if personal.body.is_some() {
        return None;
    }
    let mut fields = Vec::with_capacity(PersonalField::ALL.len());
    for field in PersonalField::ALL {
        match (personal.of(field).take(), salts.of(field).take()) {
            (Some(value), Some(text)) => fields.push((field, Opened { value, salt: salt(text)? })),
            (None, None) => {}
            _ => return None,
        }
    }
    Some(Content { body, personal: fields })
}
