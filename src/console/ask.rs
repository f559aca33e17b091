//! `/requests/new`: the form that asks for an entitlement, and what is sent by it.

use std::collections::BTreeMap;
use std::sync::Arc;

use askama::Template;
use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::response::Response;

use crate::control::access::{self, AccessError, Asked};
use crate::control::{Caller, Desk, service};
use crate::model::{EntitlementName, Timestamp, Ttl};
use crate::policy::Entitlement;

use super::form::Fields;
use super::page::{render, see_other};
use super::refusal::PageError;
use super::visit::{Visit, Visitor};

/// What comes before the name of an entitlement's parameter in the form; `gateway/refusal.rs` links to it so, too.
const PARAMETER: &str = "param.";

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
}

/// A parameter of an entitlement, and what was given.
struct ParameterField {
    name: String,
    description: String,
    /// Each with whether it was given.
    values: Vec<(String, bool)>,
    required: bool,
    given: String,
}

/// `/requests/new?entitlement=…`
#[derive(Template)]
#[template(path = "ask.html", config = "src/console/askama.toml")]
struct AskPage {
    entitlement: String,
    description: String,
    approvals: u32,
    shortest: String,
    longest: String,
    reason_required: bool,
    ticket: Option<String>,
    emergency_max: Option<String>,
    parameters: Vec<ParameterField>,
    actions: Vec<String>,
    /// What was wrong with what was sent.
    wrong: Option<String>,
    reason: String,
    given_ticket: String,
    length: String,
    emergency: bool,
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
        return Ok(render(&OffersPage { offers: offers.collect() }));
    };
    let definition = offered(&desk, &visitor.caller, name, visit.now)?;
    // The page of a refusal leads here with the parameters of what was refused.
    let given = Given { params: Given::of(&visit.query, &definition).params, ..Given::default() };
    Ok(render(&page(&definition, &given, None, visitor.form_token)))
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
    emergency: bool,
}

impl Given {
    fn of(form: &Fields, definition: &Entitlement) -> Self {
        let text = |name: &str| form.get(name).unwrap_or_default().to_owned();
        let given = |name: &String| Some((name.clone(), form.get(&format!("{PARAMETER}{name}"))?.trim().to_owned()));
        Self {
            reason: text("reason"),
            ticket: text("ticket"),
            length: form.get("for").map(|length| length.trim().to_owned()),
            params: definition.parameters.keys().filter_map(given).collect(),
            emergency: form.get("emergency") == Some("yes"),
        }
    }
}

fn page(definition: &Entitlement, given: &Given, wrong: Option<String>, form_token: String) -> AskPage {
    AskPage {
        entitlement: definition.name.to_string(),
        description: definition.description.clone(),
        approvals: definition.approvals,
        shortest: definition.min.to_string(),
        longest: definition.max.to_string(),
        reason_required: definition.reason_required,
        ticket: definition.ticket.as_ref().map(|pattern| pattern.as_str().to_owned()),
        emergency_max: definition.emergency_max.map(|longest| longest.min(definition.max).to_string()),
        parameters: definition
            .parameters
            .iter()
            .map(|(name, rule)| ParameterField {
                name: name.clone(),
                description: rule.description.clone(),
                values: rule
                    .values
                    .iter()
                    .map(|value| (value.clone(), given.params.get(name) == Some(value)))
                    .collect(),
                required: rule.required,
                given: given.params.get(name).cloned().unwrap_or_default(),
            })
            .collect(),
        actions: definition.actions.iter().map(ToString::to_string).collect(),
        wrong,
        reason: given.reason.clone(),
        given_ticket: given.ticket.clone(),
        length: given.length.clone().unwrap_or_else(|| definition.default.to_string()),
        emergency: given.emergency,
        form_token,
    }
}

/// `POST /requests`
pub async fn create(State(desk): State<Arc<Desk>>, visit: Visit, request: Request) -> Result<Response, PageError> {
    let form = Fields::form(request).await?;
    let Visitor { caller, form_token } = visit.author(&desk, &form).await?;
    let name = form.get("entitlement").ok_or(PageError::Invalid("say what is asked for"))?;
    let definition = offered(&desk, &caller, name, visit.now)?;
    let given = Given::of(&form, &definition);
    // What was typed stays, with what is wrong beside it.
    let again = |wrong: String| {
        let mut response = render(&page(&definition, &given, Some(wrong), form_token.clone()));
        *response.status_mut() = StatusCode::BAD_REQUEST;
        response
    };
    let length = match given.length.as_deref().map(Ttl::parse) {
        None => None,
        Some(Some(length)) => Some(length),
        Some(None) => return Ok(again("a length of time is written 90s, 15m, 1h30m or 1d".to_owned())),
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
    match access::create(&desk, &caller, &asked, visit.now).await {
        Ok((request, _)) => Ok(see_other(&format!("/requests/{}", request.id), &[])),
        Err(AccessError::Invalid(wrong)) => Ok(again(wrong)),
        Err(error) => Err(PageError::Access(Box::new((error, caller.actor())))),
    }
}
