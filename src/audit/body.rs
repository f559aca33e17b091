//! What of an event goes where: its personal fields, and its body, which is everything that is
//! neither clear nor personal. The leaf (`leaf.rs`) commits to both.

use super::event::Event;
use super::json::{self, Object};
use super::leaf::PersonalField;
use crate::model::UserRef;

pub(super) fn personal_of(event: &Event) -> Vec<(PersonalField, String)> {
    let actor = &event.actor;
    let mut fields = Vec::with_capacity(PersonalField::ALL.len());
    let mut add = |field, value: String| fields.push((field, value));
    if let Some(address) = actor.address {
        add(PersonalField::Address, address.to_string());
    }
    if let Some(device) = &actor.device {
        add(PersonalField::Device, json::capped(device).into_owned());
    }
    if let Some(email) = &actor.email {
        add(PersonalField::Email, json::capped(email).into_owned());
    }
    if let Some(request) = &event.request {
        add(PersonalField::Path, json::capped(&request.path).into_owned());
    }
    if let Some(principal) = &actor.principal {
        add(PersonalField::Principal, principal.to_string());
    }
    if let Some(subject) = &event.subject {
        add(PersonalField::Subject, subject.to_string());
    }
    fields
}

/// Everything that is neither clear nor personal, keys in their order.
pub(super) fn body_of(event: &Event, actor: Option<UserRef>, subject: Option<UserRef>) -> String {
    let mut out = String::with_capacity(640);
    let mut body = Object::open(&mut out);
    body.text_if("action", event.action.as_deref());
    {
        let mut object = Object::open(body.key("actor"));
        if let Some(certificate) = &event.actor.certificate {
            object.plain("certificate", certificate);
        }
        if let Some(actor) = actor {
            object.plain("id", actor);
        }
        object.text_if("kind", event.actor.principal.as_ref().map(|p| p.kind().name()));
        if let Some(session) = event.actor.session {
            object.plain("session", session);
        }
        object.close();
    }
    if !event.data.is_empty() {
        json::push_data(body.key("data"), &event.data);
    }
    if let Some(decision) = event.decision {
        body.plain("decision", decision);
    }
    if let Some(grant) = event.grant {
        body.plain("grant", grant);
    }
    body.plain("id", event.id);
    body.text_if("policy_version", event.policy_version.as_deref());
    body.text_if("reason", event.reason.as_deref());
    if let Some(request) = &event.request {
        let mut object = Object::open(body.key("request"));
        object.text("host", &request.host);
        object.text("method", &request.method);
        object.text("protocol", request.protocol);
        object.close();
    }
    body.text_if("resource", event.resource.as_deref());
    if let (Some(subject), Some(principal)) = (subject, &event.subject) {
        let mut object = Object::open(body.key("subject"));
        object.plain("id", subject);
        object.text("kind", principal.kind().name());
        object.close();
    }
    body.text_if("trace_id", event.trace_id.as_deref());
    body.close();
    out
}
