//! The event as JSON Schema (2020-12): what `audit export --format jsonl`, streams and the API write.
//!
//! INVARIANT: types, outcomes, personal fields, kinds of principals and the forms of ids are taken from
//! where they are defined, and objects are closed: an event with a key that is not here is not valid. Tests
//! hold what `line.rs` writes against it, for every type.

use serde_json::{Map, Value, json};

use super::event::{EventType, Outcome};
use super::leaf::{PersonalField, SALT_BYTES};
use super::line::Withheld;
use crate::model::{DecisionId, EventId, GrantId, NodeId, PrincipalKind, ServiceName, SessionId, UserRef};

/// The dialect.
const DIALECT: &str = "https://json-schema.org/draft/2020-12/schema";
/// What an id looks like after its prefix: 128 bits, of which the last character has three.
const TAIL: &str = "[0-9a-v]{25}[048cgkos]";

/// The schema of a line of `jsonl`: the event, and what proves it.
#[must_use]
pub fn line() -> Value {
    let mut properties = shown();
    properties.extend(proof());
    let withheld = "`filtered`: the export's filter left the content out; `pruned`: its time was over; \
        `erased`: a text in it named a person who was erased";
    properties.insert("withheld".to_owned(), described(words(Withheld::ALL.map(Withheld::name)), withheld));
    let kept = ["id", "actor", "body", "personal", "salts"];
    let only: Map<String, Value> = ["time", "node", "seq", "type", "service", "outcome", "withheld", "leaf"]
        .into_iter()
        .map(|key| (key.to_owned(), true.into()))
        .collect();
    json!({
        "$schema": DIALECT,
        "$id": format!("urn:doorward:{}:audit-event", env!("CARGO_PKG_VERSION")),
        "title": "Doorward audit event",
        "description": "One event of the record: a line of `doorward audit export --format jsonl` that is neither \
            its first (evidence) nor its last (end), and what a stream in the form `jsonl` carries.",
        "type": "object",
        "required": ["time", "node", "seq", "type", "outcome", "leaf"],
        "properties": properties,
        "additionalProperties": false,
        "if": { "required": ["withheld"] },
        "then": { "properties": only, "additionalProperties": false },
        "else": { "required": kept },
    })
}

/// The schema of the event alone, as the API shows it. `seq` comes within a second; an event that was
/// pruned or erased as a whole has no content.
#[must_use]
pub fn event() -> Value {
    let mut properties = shown();
    properties.insert("withheld".to_owned(), words([Withheld::Pruned, Withheld::Erased].map(Withheld::name)));
    json!({
        "type": "object",
        "required": ["id", "time", "node", "type", "outcome"],
        "properties": properties,
        "additionalProperties": false,
    })
}

/// The keys of the event itself, in the order in which they are written.
fn shown() -> Map<String, Value> {
    let kinds = PrincipalKind::ALL.map(PrincipalKind::name);
    let actor = object(
        "Who did it, as far as it is known. What is personal is missing once it was erased.",
        [
            ("kind", words(kinds)),
            ("id", described(id(UserRef::PREFIX), "A pseudonym: the same person has the same one.")),
            ("principal", described(text(), "`User::\"<provider>|<subject>\"`")),
            ("email", text()),
            ("session", id(SessionId::PREFIX)),
            ("device", text()),
            ("address", described(text(), "The IP address of the connection.")),
            ("certificate", described(bytes(32), "SHA-256 of the client certificate.")),
        ],
    );
    let subject =
        object("To whom it was done.", [("kind", words(kinds)), ("id", id(UserRef::PREFIX)), ("principal", text())]);
    let request = object(
        "The request that was judged, in its canonical form. There is no query string in the record.",
        [("method", text()), ("host", text()), ("path", text()), ("protocol", text())],
    );
    keys([
        ("id", described(id(EventId::PREFIX), "A decision's event has the decision's 16 bytes.")),
        ("time", json!({ "type": "string", "format": "date-time" })),
        ("node", described(id(NodeId::PREFIX), "Whose log it is in.")),
        ("seq", described(json!({ "type": "integer", "minimum": 0 }), "Its number in that log, without gaps.")),
        ("type", types()),
        (
            "service",
            described(json!({ "type": "string", "pattern": ServiceName::PATTERN }), "The service that it is about."),
        ),
        ("actor", actor),
        ("action", described(text(), "The action of the service, or the built-in one.")),
        ("resource", described(text(), "What it was done to.")),
        ("subject", subject),
        ("outcome", words(Outcome::ALL.map(Outcome::name))),
        ("reason", described(text(), "The reason of a refusal, or a word for a failure.")),
        ("decision", id(DecisionId::PREFIX)),
        ("grant", described(id(GrantId::PREFIX), "The grant that it belongs to.")),
        ("request", request),
        ("policy_version", described(text(), "Which policies judged.")),
        ("trace_id", json!({ "type": "string", "pattern": "^[0-9a-f]{32}$" })),
        ("data", json!({ "type": "object", "description": "What is special to the type." })),
        (
            "erased",
            described(
                json!({ "type": "array", "minItems": 1, "items": words(PersonalField::ALL.map(PersonalField::name)) }),
                "Personal values that were erased, by name.",
            ),
        ),
    ])
}

/// The keys of what proves the event.
fn proof() -> Map<String, Value> {
    let fields = || PersonalField::ALL.map(PersonalField::name);
    let salt = || bytes(SALT_BYTES);
    let values = fields().map(|name| (name, text()));
    let salts = std::iter::once(("body", salt())).chain(fields().map(|name| (name, salt())));
    let mut salts = closed(keys(salts));
    if let Some(salts) = salts.as_object_mut() {
        salts.insert("required".to_owned(), json!(["body"]));
    }
    keys([
        ("leaf", described(text(), "The exact bytes that the log's tree hashes (RFC 9162).")),
        ("body", described(text(), "The exact text that the leaf's `body` commits to.")),
        (
            "personal",
            described(closed(keys(values)), "What the leaf's `personal` commits to, as far as it was not erased."),
        ),
        ("salts", described(salts, "The salt of each commitment, base64url.")),
    ])
}

/// Every type of event, and what it says.
fn types() -> Value {
    let each = |kind: &EventType| json!({ "const": kind.name(), "description": kind.about() });
    json!({ "type": "string", "oneOf": EventType::ALL.iter().map(each).collect::<Vec<_>>() })
}

fn text() -> Value {
    json!({ "type": "string" })
}

fn id(prefix: &str) -> Value {
    json!({ "type": "string", "pattern": format!("^{prefix}{TAIL}$") })
}

/// So many bytes in base64url without padding.
fn bytes(count: usize) -> Value {
    json!({ "type": "string", "pattern": format!("^[A-Za-z0-9_-]{{{}}}$", (count * 4).div_ceil(3)) })
}

fn words<const N: usize>(words: [&str; N]) -> Value {
    json!({ "type": "string", "enum": words.to_vec() })
}

fn keys(of: impl IntoIterator<Item = (&'static str, Value)>) -> Map<String, Value> {
    of.into_iter().map(|(key, schema)| (key.to_owned(), schema)).collect()
}

fn closed(properties: Map<String, Value>) -> Value {
    json!({ "type": "object", "properties": properties, "additionalProperties": false })
}

fn object<const N: usize>(about: &str, of: [(&'static str, Value); N]) -> Value {
    described(closed(keys(of)), about)
}

fn described(mut schema: Value, about: &str) -> Value {
    if let Some(schema) = schema.as_object_mut() {
        schema.insert("description".to_owned(), about.into());
    }
    schema
}
