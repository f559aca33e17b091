//! `/requests/new`: the form that asks for an entitlement, and what is sent by it.
//!
//! INVARIANTS: what was typed is asked for whole or not at all: a parameter that the entitlement does not have is
//! refused and not left out, since what is left is wider. A form is sent once, however often its button is pressed.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use askama::Template;
use axum::extract::{Request, State};
use axum::response::Response;

use crate::control::access::{self, AccessError, Asked};
use crate::control::idempotency::{self, Key, Turn};
use crate::control::{Caller, Desk, service};
use crate::model::{EntitlementName, Timestamp, Ttl};
use crate::policy::Entitlement;

use super::form::Fields;
use super::home::called;
use super::page::{prose, render, see_other, sentence, text_of};
use super::refusal::{AWAY, PageError, SENT_ALREADY, words_of};
use super::visit::{Visit, Visitor};

/// What comes before the name of an entitlement's parameter in the form; `gateway/remedy.rs` links to it so, too.
pub const PARAMETER: &str = "param.";
/// The longest key of a form that is taken, in bytes.
const KEY_BYTES_MAX: usize = 255;
/// How often, and after what pause, the answer of the same form is looked for that was sent a moment ago.
const LOOKS: u32 = 30;
const LOOK_AGAIN: Duration = Duration::from_millis(100);
/// Under what the location of a form's answer is kept: the status that it was given with.
const KEPT_STATUS: u16 = 303;

/// An entitlement in the list of what may be asked for.
struct Offer {
    name: String,
    description: String,
}

/// `/requests/new` without an entitlement.
#[derive(Template)]
#[template(path = "offers.html", config = "src/console/askama.toml")]
struct OffersPage {
    offers: Vec<Offer>,
    me: String,
    form_token: String,
}

/// A parameter of an entitlement, and what was given.
struct ParameterField {
    name: String,
    description: String,
    /// Each with whether it was given.
    values: Vec<(String, bool)>,
    required: bool,
    given: String,
    /// Whether what was sent is not good here.
    faulty: bool,
}

/// `/requests/new?entitlement=…`
#[derive(Template)]
#[template(path = "ask.html", config = "src/console/askama.toml")]
struct AskPage {
    entitlement: String,
    description: String,
    /// How many must approve; none where policy approves by itself.
    approvals: u32,
    idle: Option<String>,
    earliest_start: Option<String>,
    break_after: Option<String>,
    shortest: String,
    longest: String,
    reason_required: bool,
    ticket: Option<String>,
    emergency_max: Option<String>,
    parameters: Vec<ParameterField>,
    actions: Vec<String>,
    /// What the link has and the entitlement does not take.
    untaken: Vec<String>,
    /// What was wrong with what was sent.
    wrong: Vec<(bool, String)>,
    reason: String,
    reason_faulty: bool,
    given_ticket: String,
    ticket_faulty: bool,
    length: String,
    length_faulty: bool,
    emergency: bool,
    /// What makes this form one, so that it is sent once.
    key: String,
    me: String,
    form_token: String,
}

/// `GET /requests/new[?entitlement[&param.NAME]]`
pub async fn ask(State(desk): State<Arc<Desk>>, visit: Visit) -> Result<Response, PageError> {
    let visitor = visit.visitor(&desk).await?;
    let Some(name) = visit.query.get("entitlement") else {
        let found = service::entitlements(&desk, &visitor.caller, visit.now);
        let offers = found
            .into_iter()
            .filter(|(_, allowed)| *allowed)
            .map(|(it, _)| Offer { name: it.name.to_string(), description: it.description });
        let me = called(&visitor.caller);
        return Ok(render(&OffersPage { offers: offers.collect(), me, form_token: visitor.form_token }));
    };
    let definition = offered(&desk, &visitor.caller, name, visit.now)?;
    // The page of a refusal leads here with the parameters of what was refused.
    let given = Given::linked(&visit.query, &definition);
    Ok(render(&page(&desk, &visitor, &definition, &given, None, visit.now)))
}

/// The definition of what the caller may ask for; to others it does not exist.
fn offered(desk: &Desk, caller: &Caller, name: &str, now: Timestamp) -> Result<Entitlement, PageError> {
    let found = EntitlementName::parse(name).ok().and_then(|name| {
        let all = service::entitlements(desk, caller, now);
        all.into_iter().find(|(it, allowed)| *allowed && it.name == name)
    });
    found.map(|(definition, _)| definition).ok_or(PageError::NotFound("there is nothing of that name to ask for"))
}

/// What somebody typed.
#[derive(Default)]
struct Given {
    reason: String,
    ticket: String,
    length: Option<String>,
    params: BTreeMap<String, String>,
    /// Parameters of a link that the entitlement does not have, or not with that value.
    untaken: Vec<String>,
    emergency: bool,
}

impl Given {
    /// What a form was filled in with, whether the entitlement has it or not.
    fn sent(form: &Fields) -> Self {
        let text = |name: &str| form.get(name).unwrap_or_default().to_owned();
        Self {
            reason: text("reason"),
            ticket: text("ticket"),
            length: form.get("for").map(|length| length.trim().to_owned()),
            params: params_of(form),
            untaken: Vec::new(),
            emergency: form.get("emergency") == Some("yes"),
        }
    }

    /// What a link fills in: parameters, as far as the entitlement takes them.
    fn linked(query: &Fields, definition: &Entitlement) -> Self {
        let taken = |name: &str, value: &String| {
            let rule = definition.parameters.get(name);
            rule.is_some_and(|rule| rule.values.is_empty() || rule.values.contains(value))
        };
        let (params, untaken): (BTreeMap<_, _>, BTreeMap<_, _>) =
            params_of(query).into_iter().partition(|(name, value)| taken(name, value));
        Self { params, untaken: untaken.into_keys().collect(), ..Self::default() }
    }
}

fn params_of(fields: &Fields) -> BTreeMap<String, String> {
    fields.beginning(PARAMETER).map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
}

fn page(
    desk: &Desk,
    visitor: &Visitor,
    definition: &Entitlement,
    given: &Given,
    wrong: Option<&str>,
    now: Timestamp,
) -> AskPage {
    let sent = wrong.is_some();
    let length = given.length.as_deref().map(Ttl::parse);
    let fits = |length: Ttl| (definition.min..=definition.max).contains(&length);
    let parameter = |(name, rule): (&String, &crate::policy::Parameter)| {
        let given = given.params.get(name);
        ParameterField {
            name: name.clone(),
            description: rule.description.clone(),
            values: rule.values.iter().map(|value| (value.clone(), given == Some(value))).collect(),
            required: rule.required,
            given: given.cloned().unwrap_or_default(),
            faulty: sent && given.map_or(rule.required, |value| !rule.accepts(value)),
        }
    };
    let ticket_fits = |ticket: &str| definition.ticket.as_ref().is_none_or(|pattern| pattern.matches(ticket));
    AskPage {
        entitlement: definition.name.to_string(),
        description: definition.description.clone(),
        approvals: access::approvals_wanted(desk, &visitor.caller, definition, now),
        idle: definition.idle.map(|idle| idle.to_string()),
        earliest_start: definition.earliest_start.map(|after| after.to_string()),
        break_after: definition.break_after.map(|rest| rest.to_string()),
        shortest: definition.min.to_string(),
        longest: definition.max.to_string(),
        reason_required: definition.reason_required,
        ticket: definition.ticket.as_ref().map(|pattern| pattern.as_str().to_owned()),
        emergency_max: definition.emergency_max.map(|longest| longest.min(definition.max).to_string()),
        parameters: definition.parameters.iter().map(parameter).collect(),
        actions: desk.policies.load().opened_by(&definition.name).iter().map(ToString::to_string).collect(),
        untaken: given.untaken.clone(),
        wrong: wrong.map(|wrong| prose(&sentence(wrong))).unwrap_or_default(),
        reason: given.reason.clone(),
        reason_faulty: sent && definition.reason_required && given.reason.trim().is_empty(),
        given_ticket: given.ticket.clone(),
        ticket_faulty: sent && !ticket_fits(given.ticket.trim()),
        length: given.length.clone().unwrap_or_else(|| definition.default.to_string()),
        length_faulty: sent && length.is_some_and(|length| !length.is_some_and(fits)),
        emergency: given.emergency,
        key: desk.token().expose().to_owned(),
        me: called(&visitor.caller),
        form_token: visitor.form_token.clone(),
    }
}

/// `POST /requests`
pub async fn create(State(desk): State<Arc<Desk>>, visit: Visit, request: Request) -> Result<Response, PageError> {
    let form = Fields::form(request).await?;
    let visitor = visit.author(&desk, &form).await?;
    let name = form.get("entitlement").ok_or(PageError::Invalid("say what is asked for"))?;
    let definition = offered(&desk, &visitor.caller, name, visit.now)?;
    let given = Given::sent(&form);
    // What was typed stays, with what is wrong beside it.
    let again = |error: PageError, wrong: &str| PageError::Again {
        error: Box::new(error),
        page: text_of(&page(&desk, &visitor, &definition, &given, Some(wrong), visit.now)),
    };
    let length = match given.length.as_deref().map(Ttl::parse) {
        None => None,
        Some(Some(length)) => Some(length),
        Some(None) => {
            let wrong = "a length of time is written `90s`, `15m`, `1h30m` or `1d`";
            return Err(again(PageError::Invalid(wrong), wrong));
        }
    };
    let filled = |text: &String| Some(text.trim().to_owned()).filter(|text| !text.is_empty());
    let asked = Asked {
        entitlement: definition.name.clone(),
        reason: filled(&given.reason),
        ticket: filled(&given.ticket),
        length,
        start: None,
        params: given.params.clone(),
        emergency: given.emergency,
    };
    let entered = match form.get("key") {
        None => enter(&desk, &visitor.caller, &asked, visit.now).await,
        Some(key) if key.len() > KEY_BYTES_MAX => return Err(PageError::Invalid("the form's key is too long")),
        Some(key) => match once(&desk, &visitor.caller, key, &form, &asked, visit.now).await {
            Err(PageError::KeyReused) => return Err(again(PageError::KeyReused, SENT_ALREADY)),
            Err(error @ PageError::Unavailable(_)) => return Err(again(error, AWAY)),
            answered => answered?,
        },
    };
    let error = match entered {
        Ok(location) => return Ok(see_other(&location, &[])),
        Err(error) => error,
    };
    let wrong = words_of(&error);
    let hidden = match &error {
        AccessError::NotFound { .. } | AccessError::NoEntitlement(_) | AccessError::Denied(_) => true,
        AccessError::Invalid(_)
        | AccessError::SignInTooOld(_)
        | AccessError::SelfApproval
        | AccessError::AnsweredAlready
        | AccessError::Closed { .. }
        | AccessError::Granted { .. }
        | AccessError::Changed { .. }
        | AccessError::Ineligible(_)
        | AccessError::Full { .. }
        | AccessError::TooSoon(_)
        | AccessError::NotActive { .. }
        | AccessError::Clock(_)
        | AccessError::Store(_) => false,
    };
    let error = PageError::Access(Box::new((error, visitor.caller.actor())));
    Err(if hidden { error } else { again(error, &wrong) })
}

/// Enters the request; gives the page that it has.
async fn enter(desk: &Desk, caller: &Caller, asked: &Asked, now: Timestamp) -> Result<String, AccessError> {
    let (request, _) = access::create(desk, caller, asked, now).await?;
    Ok(format!("/requests/{}", request.id))
}

/// The same, once for each form: who sends it again is led to what the first made.
async fn once(
    desk: &Desk,
    caller: &Caller,
    key: &str,
    form: &Fields,
    asked: &Asked,
    now: Timestamp,
) -> Result<Result<String, AccessError>, PageError> {
    // The form's token is the session's, and one that is sent after signing in again asks for the same.
    let key = Key::of(caller.principal(), "/requests", key, form.without("form").as_bytes());
    let mut turn = idempotency::take(desk, key, now).await?;
    for _ in 0..LOOKS {
        if turn != Turn::AtWork {
            break;
        }
        tokio::time::sleep(LOOK_AGAIN).await;
        turn = idempotency::take(desk, key, now).await?;
    }
    let taken = match turn {
        Turn::First(taken) => taken,
        Turn::Repeated { answer, .. } => return Ok(Ok(answer)),
        Turn::AtWork => return Err(PageError::AtWork),
        Turn::Done => return Err(PageError::DoneUnanswered),
        Turn::OtherBody => return Err(PageError::KeyReused),
    };
    let entered = taken.within(enter(desk, caller, asked, now)).await;
    let kept = match &entered {
        Ok(location) => idempotency::keep(desk, taken, KEPT_STATUS, location).await,
        // What was refused did nothing; of what failed it can't be told.
        Err(_) => idempotency::release_undone(desk, taken).await,
    };
    // It is as it is; who repeats it is told that it is not known, or asks anew after a while.
    if let Err(error) = kept {
        tracing::warn!(%error, "what became of a form could not be kept");
    }
    Ok(entered)
}
