//! OCSF 1.8.0: one JSON object an event. What OCSF has no place for is in `unmapped`, so that
//! nothing is lost on the way.
//!
//! INVARIANT: every object is valid against the schema of its class, whatever the event lacks:
//! where a class demands a user and none is known, the user's `uid` is `unknown`.

use serde_json::{Map, Value, json};

use super::Entry;
use super::ocsf_class::{Class, class_of, http_activity};
use crate::audit::erase::ERASED;
use crate::audit::event::{EventType, Outcome};
use crate::audit::leaf::PersonalField;

/// The version of the schema.
pub const VERSION: &str = "1.8.0";
const PRODUCT: &str = "Doorward";
const UNKNOWN: &str = "unknown";

/// The event as one line of JSON, without its end.
#[must_use]
pub fn line(entry: &Entry<'_>) -> String {
    Value::Object(object(entry)).to_string()
}

fn object(entry: &Entry<'_>) -> Map<String, Value> {
    let clear = entry.clear();
    let (class, mut activity, mut activity_name) = class_of(clear.kind);
    if class == Class::Http
        && let Some((id, name)) = entry.text("/request/method").and_then(http_activity)
    {
        (activity, activity_name) = (id, name);
    }
    let (category, class_id, category_name, class_name) = class.ids();
    let (status, status_name) = match clear.outcome {
        Outcome::Success => (1, "Success"),
        Outcome::Denied | Outcome::Failed => (2, "Failure"),
    };
    let (severity, severity_name) = severity(clear.kind, clear.outcome);
    let mut out = Map::new();
    let mut put = |key: &str, value: Value| {
        out.insert(key.to_owned(), value);
    };
    put("activity_id", activity.into());
    put("activity_name", activity_name.into());
    put("category_uid", category.into());
    put("category_name", category_name.into());
    put("class_uid", class_id.into());
    put("class_name", class_name.into());
    put("type_uid", (class_id * 100 + activity).into());
    put("type_name", format!("{class_name}: {activity_name}").into());
    put("time", clear.time.millis().into());
    put("severity_id", severity.into());
    put("severity", severity_name.into());
    put("status_id", status.into());
    put("status", status_name.into());
    if let Some(reason) = entry.text("/reason") {
        put("status_detail", reason.into());
    }
    put("message", clear.kind.name().into());
    put("metadata", metadata(entry));
    put("unmapped", unmapped(entry));
    of_class(entry, class, &mut put);
    out
}

fn of_class(entry: &Entry<'_>, class: Class, put: &mut impl FnMut(&str, Value)) {
    let has_source = !matches!(class, Class::Lifecycle);
    if has_source && let Some(address) = entry.personal(PersonalField::Address) {
        put("src_endpoint", json!({ "ip": address }));
    }
    if !matches!(class, Class::Http | Class::Lifecycle)
        && let Some(actor) = actor(entry)
    {
        put("actor", actor);
    }
    let service = entry.service().unwrap_or("doorward");
    match class {
        Class::Account => put("user", subject(entry)),
        Class::Authentication => {
            put("user", subject(entry));
            put("service", json!({ "name": service }));
            if let Some(session) = entry.text("/actor/session") {
                put("session", json!({ "uid": session }));
            }
        }
        Class::Entity => {
            let name = entry.text("/resource").unwrap_or_else(|| entry.clear().kind.name());
            put("entity", json!({ "name": name, "uid": name }));
        }
        Class::Access => {
            put("user", subject(entry));
            let entitlement = entry.text("/data/entitlement").or_else(|| entry.text("/resource")).unwrap_or(service);
            put("privileges", json!([entitlement]));
            put("resources", json!([{ "name": service }]));
        }
        Class::Http => http(entry, put),
        Class::Log => {
            put("log_name", entry.log.to_string().into());
            put("log_provider", PRODUCT.into());
        }
        Class::Lifecycle => {
            put("app", json!({ "name": PRODUCT, "version": env!("CARGO_PKG_VERSION"), "uid": entry.log.to_string() }));
        }
    }
}

fn http(entry: &Entry<'_>, put: &mut impl FnMut(&str, Value)) {
    let mut request = Map::new();
    if let Some(method) = entry.text("/request/method") {
        request.insert("http_method".to_owned(), method.into());
    }
    let mut url = Map::new();
    if let Some(host) = entry.text("/request/host") {
        url.insert("hostname".to_owned(), host.into());
        put("dst_endpoint", json!({ "hostname": host, "svc_name": entry.service().unwrap_or("doorward") }));
    }
    if let Some(path) = entry.personal(PersonalField::Path) {
        url.insert("path".to_owned(), path.into());
        if let Some(host) = entry.text("/request/host") {
            url.insert("url_string".to_owned(), format!("https://{host}{path}").into());
        }
        request.insert("url".to_owned(), url.into());
    }
    if let Some(protocol) = entry.text("/request/protocol") {
        request.insert("version".to_owned(), protocol.into());
    }
    request.insert(
        "uid".to_owned(),
        entry.text("/decision").map_or_else(|| entry.clear().id.to_string(), str::to_owned).into(),
    );
    put("http_request", request.into());
    if let Some(status) = entry.number("/data/status").filter(|status| (100..600).contains(status)) {
        put("http_response", json!({ "code": status }));
    }
    if let Some(duration) = entry.number("/data/duration_ms").filter(|duration| *duration >= 0) {
        put("duration", duration.into());
    }
}

/// Who did it.
fn user(entry: &Entry<'_>) -> Option<Value> {
    let uid = entry.text("/actor/id")?;
    let mut user = Map::new();
    user.insert("uid".to_owned(), uid.into());
    if let Some(name) = entry.shown(PersonalField::Principal) {
        user.insert("name".to_owned(), name.into());
    }
    if let Some(email) = entry.personal(PersonalField::Email).filter(|email| email.contains('@')) {
        user.insert("email_addr".to_owned(), email.into());
    }
    Some(user.into())
}

fn actor(entry: &Entry<'_>) -> Option<Value> {
    let user = user(entry);
    let session = entry.text("/actor/session");
    if user.is_none() && session.is_none() {
        return None;
    }
    let mut actor = Map::new();
    actor.extend(user.map(|user| ("user".to_owned(), user)));
    actor.extend(session.map(|uid| ("session".to_owned(), json!({ "uid": uid }))));
    Some(actor.into())
}

/// To whom it was done: the subject, else who did it to themselves.
fn subject(entry: &Entry<'_>) -> Value {
    match (entry.text("/subject/id"), entry.shown(PersonalField::Subject)) {
        (Some(uid), Some(name)) => json!({ "uid": uid, "name": name }),
        (Some(uid), None) => json!({ "uid": uid }),
        (None, _) => user(entry).unwrap_or_else(|| json!({ "uid": UNKNOWN })),
    }
}

fn metadata(entry: &Entry<'_>) -> Value {
    let clear = entry.clear();
    let mut metadata = json!({
        "version": VERSION,
        "product": { "name": PRODUCT, "vendor_name": PRODUCT, "version": env!("CARGO_PKG_VERSION") },
        "uid": clear.id.to_string(),
        "event_code": clear.kind.name(),
        "log_name": entry.log.to_string(),
    });
    if let Some(map) = metadata.as_object_mut() {
        map.extend(entry.seq.map(|seq| ("sequence".to_owned(), seq.into())));
        map.extend(entry.text("/decision").map(|id| ("correlation_uid".to_owned(), id.into())));
    }
    metadata
}

fn unmapped(entry: &Entry<'_>) -> Value {
    let mut unmapped = entry.body.as_object().cloned().unwrap_or_default();
    // These have their places.
    for key in ["id", "request", "reason"] {
        unmapped.remove(key);
    }
    // An address or a path must be one; that there was one is told here.
    let erased: Vec<&str> = entry.sealed.erased().iter().map(|field| field.name()).collect();
    if !erased.is_empty() {
        unmapped.insert(ERASED.to_owned(), json!(erased));
    }
    unmapped.into()
}

/// How much it matters by itself.
const fn severity(kind: EventType, outcome: Outcome) -> (u32, &'static str) {
    match kind {
        EventType::BreakGlassOpened
        | EventType::BreakGlassCustodiansChanged
        | EventType::RecordLost
        | EventType::CredentialRevokeFailed => (4, "High"),
        EventType::ClockStepped
        | EventType::NoticeDead
        | EventType::BreakGlassRefused
        | EventType::BreakGlassDrillOverdue
        | EventType::PolicyRefused => (3, "Medium"),
        _ => match outcome {
            Outcome::Success => (1, "Informational"),
            Outcome::Denied => (2, "Low"),
            Outcome::Failed => (3, "Medium"),
        },
    }
}
