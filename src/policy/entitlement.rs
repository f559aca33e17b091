//! What may be asked for: `[entitlement.NAME]` of a `service.toml`.

use std::collections::BTreeMap;
use std::sync::Arc;

use regex::Regex;

use super::document::{Field, Table};
use super::suggestion;
use crate::model::text::{forges, shell_word};
use crate::model::{ActionName, EntitlementName, ServiceName, Ttl};

/// The longest value of a parameter in characters.
pub const PARAMETER_CHARS_MAX: usize = 200;

/// The longest grant that an entitlement may give.
const GRANT_MAX: Ttl = Ttl::hours(24 * 30);

/// The longest that anything is held without its approvals.
const EMERGENCY_MAX: Ttl = Ttl::hours(1);

/// An entitlement as its service defines it.
#[derive(Debug, Clone)]
pub struct Entitlement {
    /// `<service>/<name>`.
    pub name: EntitlementName,
    /// What it is for, for those who ask and approve.
    pub description: String,
    /// The longest grant.
    pub max: Ttl,
    /// How long a grant is when nothing is asked for.
    pub default: Ttl,
    /// The shortest grant.
    pub min: Ttl,
    /// How many people must approve.
    pub approvals: u32,
    /// Whether a reason must be given.
    pub reason_required: bool,
    /// What the ticket must look like; none: no ticket is needed.
    pub ticket: Option<TicketPattern>,
    /// The actions of the service that it opens, as its definition says.
    pub actions: Vec<ActionName>,
    /// What a request says beyond a reason: name → rule.
    pub parameters: BTreeMap<String, Parameter>,
    /// How many may hold it at once.
    pub capacity: Option<u32>,
    /// What a grant beyond the capacity does.
    pub when_full: WhenFull,
    /// A grant ends when it was not used for that long.
    pub idle: Option<Ttl>,
    /// A grant begins so long after its request at the earliest.
    pub earliest_start: Option<Ttl>,
    /// So long after a grant nobody holds it again.
    pub break_after: Option<Ttl>,
    /// How far ahead a start may be scheduled.
    pub scheduled_max: Ttl,
    /// The longest that a grant may become by extensions; beyond it a new request is needed.
    pub extended_max: Option<Ttl>,
    /// A request that nobody answered times out.
    pub answer_within: Ttl,
    /// How long it may be held at once without approvals, where that is allowed in an emergency.
    pub emergency_max: Option<Ttl>,
}

/// What happens to a grant beyond the capacity.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WhenFull {
    /// It waits for a place.
    Queue,
    /// It is refused.
    Refuse,
}

/// A parameter of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Parameter {
    /// What it is.
    pub description: String,
    /// The allowed values; none: any text of up to [`PARAMETER_CHARS_MAX`] characters.
    pub values: Vec<String>,
    /// Whether it must be given.
    pub required: bool,
}

impl Parameter {
    /// Whether this may be asked for.
    #[must_use]
    pub fn accepts(&self, value: &str) -> bool {
        let is_listed = self.values.is_empty() || self.values.iter().any(|allowed| allowed == value);
        let fits = !value.trim().is_empty() && value.chars().count() <= PARAMETER_CHARS_MAX;
        is_listed && fits && !value.chars().any(forges)
    }

    /// The value that a request has under this name, if it may be asked for.
    fn known<'a>(&self, name: &str, params: &'a [(Arc<str>, String)]) -> Option<&'a str> {
        let (_, value) = params.iter().find(|(own, _)| **own == *name)?;
        Some(value.as_str()).filter(|value| self.accepts(value))
    }
}

/// The rule of a ticket; always matched whole.
#[derive(Debug, Clone)]
pub struct TicketPattern {
    text: String,
    regex: Regex,
}

impl TicketPattern {
    fn parse(text: &str) -> Result<Self, String> {
        let regex = regex::RegexBuilder::new(&format!("^(?:{text})$"))
            .size_limit(1 << 20)
            .build()
            .map_err(|error| error.to_string())?;
        Ok(Self { text: text.to_owned(), regex })
    }

    /// The pattern as written.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Whether the whole ticket is of that form.
    #[must_use]
    pub fn matches(&self, ticket: &str) -> bool {
        self.regex.is_match(ticket)
    }
}

impl Entitlement {
    /// The command that asks for it, for a request with these parameters of its route; what the asker fills in is
    /// in capitals.
    #[must_use]
    pub fn command(&self, params: &[(Arc<str>, String)]) -> String {
        self.filled_in(format!("doorward request {}", self.name), params)
    }

    /// The command by which a job asks for it, which gets its token by the same.
    #[must_use]
    pub fn command_of_job(&self, params: &[(Arc<str>, String)]) -> String {
        let (service, name) = (self.name.service(), self.name.name());
        format!("{} --wait", self.filled_in(format!("doorward token --service {service} --request {name}"), params))
    }

    /// Whether somebody can ask for it so that it is good for a request with these parameters of its route: what it
    /// demands and the request has may be asked for as it is there. What may be left out is no hindrance.
    #[must_use]
    pub fn fits(&self, params: &[(Arc<str>, String)]) -> bool {
        let of_request = |name: &str| params.iter().find(|(own, _)| **own == *name);
        let mut demanded = self.parameters.iter().filter(|(_, rule)| rule.required);
        demanded.all(|(name, rule)| of_request(name).is_none_or(|(_, value)| rule.accepts(value)))
    }

    /// Its own parameters that a request's route has too, with the request's values as far as they may be asked for:
    /// a grant of others would not be good for that request.
    pub fn known<'a>(&'a self, params: &'a [(Arc<str>, String)]) -> impl Iterator<Item = (&'a str, &'a str)> {
        self.parameters.iter().filter_map(move |(name, rule)| Some((name.as_str(), rule.known(name, params)?)))
    }

    fn filled_in(&self, mut command: String, params: &[(Arc<str>, String)]) -> String {
        if self.reason_required {
            command.push_str(" --reason TEXT");
        }
        if self.ticket.is_some() {
            command.push_str(" --ticket TICKET");
        }
        for (name, rule) in &self.parameters {
            // Whoever sends a request chooses its path: it never gets out of the one word that it stands in.
            match rule.known(name, params).and_then(|value| shell_word(&format!("{name}={value}"))) {
                Some(word) => command.push_str(&format!(" --param {word}")),
                None if rule.required => command.push_str(&format!(" --param {name}=VALUE")),
                None => {}
            }
        }
        command
    }

    pub(super) fn parse(service: &ServiceName, name: &str, field: &Field<'_>, actions: &[ActionName]) -> Option<Self> {
        let name = match EntitlementName::new(service.clone(), name) {
            Ok(name) => name,
            Err(error) => {
                field.error(error.to_string(), "");
                return None;
            }
        };
        let mut table = field.table()?;
        let description = table.require("description", "say what it opens, for those who ask and approve");
        let description = description.and_then(|field| field.text()).unwrap_or_default().to_owned();
        let (min, default, max) = lengths(&mut table);
        let emergency_max = emergency(&mut table, min);
        let ticket = table.take("ticket").and_then(|field| ticket(&field));
        let (earliest_start, scheduled_max) = starts(&mut table);
        let (break_after, extended_max) = rests(&mut table, max);
        let reason = [("required", true), ("optional", false)];
        let when_full = [("queue", WhenFull::Queue), ("refuse", WhenFull::Refuse)];
        let entitlement = Self {
            name,
            description,
            max,
            default,
            min,
            approvals: table.take("approvals").and_then(|field| field.small_number(1..=10)).unwrap_or(1),
            reason_required: table.take("reason").and_then(|field| field.choice(&reason)).unwrap_or(true),
            ticket,
            actions: table.list("actions").iter().filter_map(|field| opened(field, actions)).collect(),
            parameters: table.take("parameters").and_then(|field| parameters(&field)).unwrap_or_default(),
            capacity: table.take("capacity").and_then(|field| field.small_number(1..=1_000_000)),
            when_full: table.take("when_full").and_then(|field| field.choice(&when_full)).unwrap_or(WhenFull::Refuse),
            idle: table.duration("idle"),
            earliest_start,
            break_after,
            scheduled_max,
            extended_max,
            answer_within: table.duration("answer_within").unwrap_or(Ttl::hours(24)),
            emergency_max,
        };
        table.finish();
        Some(entitlement)
    }
}

/// `min ≤ default ≤ max`, each with a value that fits the others when it is not given.
fn lengths(table: &mut Table<'_>) -> (Ttl, Ttl, Ttl) {
    let max = table.duration("max").unwrap_or(Ttl::hours(1));
    let min = table.take("min");
    let shortest = min.as_ref().and_then(Field::duration).unwrap_or_else(|| Ttl::minutes(1).min(max));
    let default = table.take("default");
    let usual = default.as_ref().and_then(Field::duration).unwrap_or_else(|| Ttl::minutes(30).min(max).max(shortest));
    if max > GRANT_MAX {
        table.error(format!("in `max`: `{max}` is longer than `{GRANT_MAX}`"), "what lasts longer is not just in time");
    }
    if shortest > max
        && let Some(field) = min
    {
        field.error(
            format!("`min` is `{shortest}` and `max` is `{max}`"),
            "the shortest grant can't be longer than the longest",
        );
    } else if (usual < shortest || usual > max)
        && let Some(field) = default
    {
        field.error(
            format!("`default` is `{usual}`, outside of `{shortest}` to `{max}`"),
            "choose it between `min` and `max`",
        );
    }
    (shortest, usual, max)
}

/// `emergency = true` and, if an hour is too long, `emergency_max`.
fn emergency(table: &mut Table<'_>, min: Ttl) -> Option<Ttl> {
    let allowed = table.boolean("emergency", false);
    let field = table.take("emergency_max");
    let length = field.as_ref().and_then(Field::duration).unwrap_or(EMERGENCY_MAX.max(min));
    if let Some(field) = field {
        if !allowed {
            field.error("`emergency_max` without `emergency = true`", "say whether approvals may be skipped at all");
        } else if length > EMERGENCY_MAX || length < min {
            field.error(
                format!("`emergency_max` is `{length}`, outside of `{min}` to `{EMERGENCY_MAX}`"),
                "what skips approvals is short",
            );
        }
    }
    allowed.then_some(length.min(EMERGENCY_MAX))
}

/// `earliest_start` and `scheduled_max`, between which a grant begins that does not begin at once.
fn starts(table: &mut Table<'_>) -> (Option<Ttl>, Ttl) {
    let latest = table.duration("scheduled_max").unwrap_or(Ttl::hours(24 * 7));
    let field = table.take("earliest_start");
    let earliest = field.as_ref().and_then(Field::duration);
    if let (Some(field), Some(earliest)) = (field, earliest)
        && earliest > latest
    {
        field.error(
            format!("`earliest_start` is `{earliest}` and `scheduled_max` is `{latest}`"),
            "nothing could ever begin: make one shorter or the other longer",
        );
    }
    (earliest, latest)
}

/// `break` and `extended_max`: what could be prolonged without end would never have its break.
fn rests(table: &mut Table<'_>, max: Ttl) -> (Option<Ttl>, Option<Ttl>) {
    let extended_max = table.take("extended_max").and_then(|field| at_least(&field, max));
    let field = table.take("break");
    let pause = field.as_ref().and_then(Field::duration);
    if let (Some(field), Some(pause)) = (field, pause) {
        if pause > GRANT_MAX {
            field.error(format!("`break` is `{pause}`, longer than `{GRANT_MAX}`"), "choose a shorter one");
        } else if extended_max.is_none() {
            field.error(
                "`break` without `extended_max`: extensions would do without the break",
                format!("say how long a grant may become by extensions, `extended_max = \"{max}\"` for none"),
            );
        }
    }
    (pause, extended_max)
}

fn at_least(field: &Field<'_>, max: Ttl) -> Option<Ttl> {
    let length = field.duration()?;
    if length < max {
        field.error(
            format!("`{}` is `{length}`, shorter than `max` (`{max}`)", field.name()),
            "one whole grant must fit",
        );
    }
    Some(length)
}

fn ticket(field: &Field<'_>) -> Option<TicketPattern> {
    match TicketPattern::parse(field.text()?) {
        Ok(pattern) => Some(pattern),
        Err(error) => {
            let reason = error.lines().last().unwrap_or_default().trim().to_owned();
            field.error(
                format!("`{}` is not a regular expression: {reason}", field.name()),
                "write it like `^[A-Z]+-[0-9]+$`",
            );
            None
        }
    }
}

fn opened(field: &Field<'_>, actions: &[ActionName]) -> Option<ActionName> {
    let text = field.text()?;
    let found = actions.iter().find(|action| action.as_str() == text).cloned();
    if found.is_none() {
        let help = suggestion::help(text, actions.iter().map(ActionName::as_str));
        field.error(format!("no route of this service leads to an action `{}`", text.escape_debug()), help);
    }
    found
}

fn parameters(field: &Field<'_>) -> Option<BTreeMap<String, Parameter>> {
    let mut found = BTreeMap::new();
    for (name, field) in field.table()?.rest() {
        let Some(mut table) = field.table() else { continue };
        let values = table.texts("values");
        let parameter = Parameter {
            description: table.text("description").unwrap_or_default().to_owned(),
            required: table.boolean("required", true),
            values,
        };
        table.finish();
        found.insert(name.to_owned(), parameter);
    }
    Some(found)
}
