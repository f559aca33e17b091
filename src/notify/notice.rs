//! One notice: what an event means to people, and its forms.
//!
//! INVARIANT: only what is listed in [`TOLD_DATA`] leaves of an event's data, each value a short
//! text, number or flag; a text can't leave its place (chat markup, mail header).

use serde_json::{Map, Value, json};

use super::alert::Alert;
use crate::model::text::forges;
use crate::model::{EventId, Timestamp};
use crate::store::{Named, Recorded};

/// What of an event's data is told.
const TOLD_DATA: &[&str] = &[
    "entitlement",
    "request",
    "ticket",
    "for",
    "start",
    "emergency",
    "approvals_needed",
    "extends",
    "expires_at",
    "ends_at",
    "end_reason",
    "scope",
    "opener",
    "id",
    "breakglass",
    "finding",
    "threshold",
    "channel",
    "event",
    "type",
    "attempts",
    "error",
    "until",
    "framework",
    "format",
    "step_millis",
    "direction",
    "step",
    "custodians",
    "by",
    "why",
    "took_ms",
    "test",
    "count",
    "since",
    "last_drill",
    "due",
    "approvers_skipped",
    "params",
    "reason",
    "stream",
    "lag",
    "failures",
];
/// The longest text that is told, in characters.
const TEXT_CHARS_MAX: usize = 500;
/// Values of `params` that are told at most.
const PARAMS_MAX: usize = 16;

/// What is told.
#[derive(Debug, Clone, PartialEq)]
pub struct Notice {
    /// The event's id, and the message's.
    pub id: EventId,
    /// When it happened.
    pub time: Timestamp,
    /// The event's type.
    pub kind: String,
    /// Who did it, for people to read.
    pub actor: Option<String>,
    /// To whom.
    pub subject: Option<String>,
    /// About which service.
    pub service: Option<String>,
    /// To what.
    pub resource: Option<String>,
    /// `success`, `denied` or `failed`.
    pub outcome: &'static str,
    /// The event's reason.
    pub reason: Option<String>,
    /// The grant that it belongs to.
    pub grant: Option<String>,
    /// What of the event's data is told.
    pub data: Map<String, Value>,
    /// Whether it goes to people who may answer.
    pub to_approvers: bool,
}

impl Notice {
    /// The notice of a recorded event.
    #[must_use]
    pub fn of_event(event: &Recorded) -> Self {
        let clear = event.clear();
        let named = |who| event.named(who).map(short);
        Self {
            id: clear.id,
            time: clear.time,
            kind: clear.kind.name().to_owned(),
            actor: named(Named::ActorEmail).or_else(|| named(Named::Actor)),
            subject: named(Named::Subject),
            service: clear.service.as_ref().map(ToString::to_string),
            resource: event.text("/resource").map(short),
            outcome: clear.outcome.name(),
            reason: event.text("/reason").map(short),
            grant: clear.grant.map(|id| id.to_string()),
            data: told(event.body.get("data").and_then(Value::as_object)),
            to_approvers: false,
        }
    }

    /// The notice of something that is not on record yet.
    #[must_use]
    pub fn of_alert(alert: Alert) -> Self {
        Self {
            id: alert.id,
            time: alert.time,
            kind: alert.kind.to_owned(),
            actor: alert.actor.as_deref().map(short),
            subject: None,
            service: alert.service.as_deref().map(short),
            resource: None,
            outcome: "success",
            reason: None,
            grant: None,
            data: told(Some(&alert.data)),
            to_approvers: false,
        }
    }

    /// The same as a test message: nobody may take it for the real one.
    #[must_use]
    pub fn as_test(mut self) -> Self {
        self.data.insert("test".to_owned(), true.into());
        self
    }

    /// The same for people who may answer.
    #[must_use]
    pub const fn for_approvers(mut self) -> Self {
        self.to_approvers = true;
        self
    }

    fn stream(&self) -> &str {
        self.text("stream").unwrap_or("")
    }

    fn is_emergency(&self) -> bool {
        self.data.get("emergency") == Some(&Value::Bool(true))
    }

    fn text(&self, key: &str) -> Option<&str> {
        self.data.get(key).and_then(Value::as_str)
    }

    /// What happened in one line, without markup.
    #[must_use]
    pub fn headline(&self) -> String {
        let who = self.actor.as_deref().unwrap_or("doorward");
        let entitlement = self.text("entitlement").or(self.service.as_deref()).unwrap_or("an entitlement");
        let whose = self.subject.as_deref().or(self.actor.as_deref()).unwrap_or("somebody");
        let length = self.text("for").map(|length| format!(" for {length}")).unwrap_or_default();
        match self.kind.as_str() {
            "request.created" if self.is_emergency() => {
                format!("EMERGENCY: {who} took {entitlement}{length} without approval")
            }
            "request.created" => format!("{who} asks for {entitlement}{length}"),
            "request.approved" => format!("{who} approved {entitlement} for {whose}"),
            "request.denied" => format!("{who} denied {entitlement} to {whose}"),
            "request.withdrawn" => format!("{who} no longer asks for {entitlement}"),
            "request.timed_out" => format!("Nobody answered the request for {entitlement} in time"),
            "grant.active" if self.is_emergency() => {
                format!("EMERGENCY: {whose} holds {entitlement} without approval from now on{length}")
            }
            "grant.active" => format!("{whose} holds {entitlement} from now on{length}"),
            "grant.extended" => format!("{whose} holds {entitlement} for longer{length}"),
            "grant.expired" => format!("{entitlement} of {whose} has ended"),
            "grant.revoked" => format!("{who} revoked {entitlement} of {whose}"),
            "grant.dropped" => format!("{who} gave {entitlement} back"),
            "lock.set" => format!("{who} locked {whose}"),
            "lock.cleared" => format!("{who} unlocked {whose}"),
            "breakglass.opened" => {
                let opener = self.text("opener").unwrap_or(who);
                format!(
                    "EMERGENCY: {opener} opened the emergency path to {}",
                    self.text("scope").unwrap_or(entitlement)
                )
            }
            "breakglass.expired" => {
                let opener = self.text("opener").map(|who| format!(" of {who}")).unwrap_or_default();
                format!("The emergency opening{opener} has run out; two people review it")
            }
            "breakglass.closed" => format!("The emergency opening {} was closed", self.text("id").unwrap_or("")),
            "breakglass.reviewed" => format!("{who} reviewed the emergency {}", self.text("id").unwrap_or("")),
            "breakglass.drilled" => {
                let opener = self.text("opener").unwrap_or(who);
                let test = if self.data.contains_key("test") { "DRILL (test message)" } else { "DRILL" };
                format!("{test}: the emergency path was exercised by {opener}; nothing is open")
            }
            "breakglass.drill_overdue" => {
                let last = self.text("last_drill").unwrap_or("never");
                format!("A drill of the emergency path is overdue (last: {last}): run `doorward breakglass drill`")
            }
            "breakglass.refused" => match self.data.get("count") {
                Some(count) => format!("The emergency path was tried in vain {count} more times"),
                None => "Somebody failed to use the emergency path".to_owned(),
            },
            "breakglass.custodians_changed" => "The custodians of the emergency path changed".to_owned(),
            "clock.stepped" => {
                let (step, way) = (self.text("step").unwrap_or("a while"), self.text("direction").unwrap_or(""));
                format!("A node's clock stepped {way} by {step}: it grants nothing new until the clock can be believed")
            }
            "notice.dead" => {
                format!("A notice to {} could not be delivered", self.text("channel").unwrap_or("somebody"))
            }
            "audit.stream_stalled" => {
                format!("Stream {} of the record stands still: its receiver takes nothing", self.stream())
            }
            "audit.stream_recovered" => format!("Stream {} of the record goes on", self.stream()),
            "audit.stream_gap" => {
                format!("Events were pruned before stream {} of the record had sent them", self.stream())
            }
            other => format!("{other}{}", self.actor.as_deref().map(|who| format!(" by {who}")).unwrap_or_default()),
        }
    }

    /// Where a person looks at it, below the control host's origin.
    #[must_use]
    pub fn link(&self, origin: &str) -> String {
        match self.text("request") {
            Some(id) if is_id(id) => format!("{origin}/requests/{id}"),
            _ => format!("{origin}/"),
        }
    }

    /// Name and value of everything worth reading beside the headline.
    fn facts(&self) -> Vec<(String, String)> {
        let mut facts = Vec::new();
        if let Some(reason) = self.reason.as_deref().filter(|_| !self.data.contains_key("reason")) {
            facts.push(("reason".to_owned(), reason.to_owned()));
        }
        for (name, value) in &self.data {
            let shown = match value {
                Value::String(text) => text.clone(),
                Value::Object(params) => {
                    params.iter().map(|(key, value)| format!("{key}={}", plain(value))).collect::<Vec<_>>().join(" ")
                }
                other => plain(other),
            };
            facts.push((name.replace('_', " "), shown));
        }
        if let Some(grant) = &self.grant {
            facts.push(("grant".to_owned(), grant.clone()));
        }
        facts
    }

    /// The body in the form of Standard Webhooks.
    #[must_use]
    pub fn standard(&self, origin: &str) -> Value {
        let mut data = self.data.clone();
        let fields = [
            ("event", Some(self.id.to_string())),
            ("actor", self.actor.clone()),
            ("subject", self.subject.clone()),
            ("service", self.service.clone()),
            ("resource", self.resource.clone()),
            ("outcome", Some(self.outcome.to_owned())),
            ("reason", self.reason.clone()),
            ("grant", self.grant.clone()),
            ("text", Some(self.headline())),
            ("link", Some(self.link(origin))),
        ];
        for (name, value) in fields {
            if let Some(value) = value {
                // What the event itself says of it stays.
                data.entry(name).or_insert(Value::String(value));
            }
        }
        json!({ "type": self.kind, "timestamp": self.time.to_string(), "data": data })
    }

    /// The body in the form that Slack takes.
    #[must_use]
    pub fn slack(&self, origin: &str) -> Value {
        let headline = escape_slack(&self.headline());
        let facts: Vec<String> = self
            .facts()
            .iter()
            .map(|(name, value)| format!("*{}:* {}", escape_slack(name), escape_slack(value)))
            .collect();
        let link = self.link(origin);
        let mut blocks = vec![json!({ "type": "section", "text": { "type": "mrkdwn", "text": headline } })];
        if !facts.is_empty() {
            // Slack refuses a section of more than 3,000 characters.
            let text: String = facts.join("\n").chars().take(2_900).collect();
            blocks.push(json!({ "type": "section", "text": { "type": "mrkdwn", "text": text } }));
        }
        blocks.push(json!({
            "type": "context",
            "elements": [{ "type": "mrkdwn", "text": format!("<{link}|Open in Doorward> · {} · {}", self.kind, self.time) }],
        }));
        json!({ "text": format!("{headline}\n{link}"), "blocks": blocks })
    }

    /// The body of a mail.
    #[must_use]
    pub fn mail(&self, origin: &str) -> String {
        let mut text = format!("{}\n\n", self.headline());
        for (name, value) in self.facts() {
            text.push_str(&format!("{name}: {value}\n"));
        }
        text.push_str(&format!("\n{}\n", self.link(origin)));
        text.push_str(&self.what_to_do());
        text.push_str(&format!("{} {} {}\n", self.kind, self.time, self.id));
        text
    }

    /// The ready commands for whom it waits for; nothing for others.
    fn what_to_do(&self) -> String {
        let id = self.text("request").filter(|id| is_id(id)).filter(|_| self.to_approvers);
        match id {
            None => String::new(),
            Some(id) if self.is_emergency() => format!(
                "\nNobody was asked: you were passed over. To end it now, or to review it when it is over:\n\n  \
                 doorward show {id}\n  doorward revoke GRANT --reason TEXT\n  doorward breakglass list --unreviewed\n\n"
            ),
            Some(id) => format!(
                "\nTo answer on the command line:\n\n  doorward approve {id}\n  doorward deny {id} --reason TEXT\n\n"
            ),
        }
    }
}

fn is_id(text: &str) -> bool {
    text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
}

fn plain(value: &Value) -> String {
    match value {
        Value::String(text) => short(text),
        other => short(&other.to_string()),
    }
}

/// A text of one line and bounded length.
fn short(text: &str) -> String {
    text.chars().map(|c| if forges(c) { ' ' } else { c }).take(TEXT_CHARS_MAX).collect()
}

fn told(data: Option<&Map<String, Value>>) -> Map<String, Value> {
    let listed = |key: &String| TOLD_DATA.contains(&key.as_str());
    let simple = |value: &Value| match value {
        Value::String(text) => Some(Value::String(short(text))),
        Value::Number(_) | Value::Bool(_) => Some(value.clone()),
        Value::Null | Value::Array(_) | Value::Object(_) => None,
    };
    let entries = data.into_iter().flatten().filter(|(key, _)| listed(key));
    let told = entries.filter_map(|(key, value)| {
        let value = match value {
            Value::Object(params) if key == "params" => Value::Object(
                params.iter().take(PARAMS_MAX).filter_map(|(key, value)| Some((short(key), simple(value)?))).collect(),
            ),
            other => simple(other)?,
        };
        Some((key.clone(), value))
    });
    told.collect()
}

/// Slack's three special signs; without them no text can be a link, a mention or a channel.
fn escape_slack(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            other => out.push(other),
        }
    }
    out
}
