//! The templates and what is put into them.

use askama::Template;
use axum::http::header::{LOCATION, SET_COOKIE};
use axum::http::{HeaderValue, StatusCode};
use axum::response::{Html, IntoResponse, Response};

use crate::model::{DecisionId, Timestamp};

use super::refusal::Refused;

/// A provider that one can sign in at.
pub struct ProviderLink {
    /// Its local name.
    pub name: String,
    /// Where signing in at it begins.
    pub href: String,
}

/// `/signin`, where there is a choice.
#[derive(Template)]
#[template(path = "sign_in.html", config = "src/console/askama.toml")]
pub struct SignInPage {
    /// The choice.
    pub providers: Vec<ProviderLink>,
}

/// A session of the visitor.
pub struct SessionLine {
    /// `ses_…`
    pub id: String,
    /// Browser or command line.
    pub kind: &'static str,
    /// The device that was shown.
    pub device: Option<String>,
    /// Since when.
    pub since: String,
    /// Until when.
    pub until: String,
    /// Whether it is this one.
    pub current: bool,
}

/// A service as the visitor may use it.
pub struct ServiceLine {
    /// Its name.
    pub name: String,
    /// What its owner says of it.
    pub description: String,
    /// Whether a browser gets in; elsewhere a client certificate is needed.
    pub browser: bool,
    /// Where it is reached, with the port where that is not 443.
    pub url: String,
    /// `allowed`, `can be asked for` or `denied`.
    pub access: &'static str,
    /// What may be asked for.
    pub entitlements: Vec<String>,
}

/// An opening of the emergency path that is in force.
pub struct OpeningLine {
    /// `brk_…`
    pub id: String,
    /// Who opened.
    pub opener: String,
    /// What for.
    pub scope: String,
    /// Why.
    pub reason: String,
    /// Until when.
    pub until: String,
}

/// `/`
#[derive(Template)]
#[template(path = "home.html", config = "src/console/askama.toml")]
pub struct HomePage {
    /// Openings of the emergency path, for everybody to see.
    pub emergencies: Vec<OpeningLine>,
    /// How the visitor is called.
    pub me: String,
    /// Who that is.
    pub principal: String,
    /// The e-mail that the provider told.
    pub email: Option<String>,
    /// The visitor's groups.
    pub groups: Vec<String>,
    /// The visitor's sessions.
    pub sessions: Vec<SessionLine>,
    /// All services.
    pub services: Vec<ServiceLine>,
    /// How many requests wait for the visitor's answer, and whether there may be more.
    pub waiting: (usize, bool),
    /// Where older sessions are.
    pub older: Option<String>,
    /// What forms carry.
    pub form_token: String,
}

/// `/device` before a code is typed.
#[derive(Template)]
#[template(path = "device_code.html", config = "src/console/askama.toml")]
pub struct DeviceCodePage {
    /// How the visitor is called.
    pub me: String,
    /// What forms carry.
    pub form_token: String,
}

/// `/device` with a code.
#[derive(Template)]
#[template(path = "device.html", config = "src/console/askama.toml")]
pub struct DevicePage {
    /// The code as it is typed.
    pub user_code: String,
    /// Where the device asked from.
    pub address: String,
    /// What it calls itself.
    pub agent: String,
    /// When it asked.
    pub asked_at: String,
    /// Who would be signed in.
    pub me: String,
    /// What forms carry.
    pub form_token: String,
}

/// `/signin/program`
#[derive(Template)]
#[template(path = "program.html", config = "src/console/askama.toml")]
pub struct ProgramPage {
    /// Who would be acted as.
    pub me: String,
    /// The same as policies name them.
    pub principal: String,
    /// What the program shows too.
    pub letters: String,
    /// Where the browser comes from; the program is on the same computer.
    pub address: String,
    /// Where the program listens.
    pub listens: String,
    /// When it asked.
    pub asked_at: String,
    /// When what it gets ends.
    pub until: String,
    /// What it asked for, to be sent back with the answer.
    pub fields: [(&'static str, String); 6],
    /// What forms carry.
    pub form_token: String,
}

/// A page with a sentence.
#[derive(Template)]
#[template(path = "said.html", config = "src/console/askama.toml")]
pub struct SaidPage {
    /// In a few words.
    pub title: &'static str,
    /// In a sentence.
    pub detail: &'static str,
    /// Where to go next.
    pub link: Option<(&'static str, &'static str)>,
}

#[derive(Template)]
#[template(path = "refusal.html", config = "src/console/askama.toml")]
struct RefusalPage<'a> {
    title: &'a str,
    detail: Vec<(bool, String)>,
    reason: &'a str,
    command: Option<&'a str>,
    typed: &'a [(String, String)],
    href: &'a str,
    leads_to: &'a str,
    decision: &'a str,
}

/// A page as text; none where it can't be written.
pub fn text_of(page: &impl Template) -> Option<String> {
    page.render().inspect_err(|error| tracing::error!(%error, "a page could not be written")).ok()
}

/// Writes a page.
pub fn render(page: &impl Template) -> Response {
    match text_of(page) {
        Some(text) => Html(text).into_response(),
        None => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    }
}

/// Writes the page of a refusal, or the one that is shown instead.
pub fn refusal(refused: &mut Refused, path: &str, status: StatusCode, decision: DecisionId) -> Response {
    if let Some(page) = refused.page.take() {
        return Html(page).into_response();
    }
    let ((href, leads_to), decision) = (refused.leads_to(path, status), decision.to_string());
    render(&RefusalPage {
        title: refused.title,
        detail: prose(&sentence(&refused.detail)),
        reason: refused.reason,
        command: refused.command,
        typed: &refused.typed,
        href: &href,
        leads_to,
        decision: &decision,
    })
}

/// A message with what stands in backticks apart: each part, and whether it stood in them.
pub fn prose(message: &str) -> Vec<(bool, String)> {
    let parts: Vec<&str> = message.split('`').collect();
    if parts.len().is_multiple_of(2) {
        return vec![(false, message.to_owned())];
    }
    let parts = parts.into_iter().enumerate().map(|(place, part)| (place % 2 == 1, part.to_owned()));
    parts.filter(|(_, part)| !part.is_empty()).collect()
}

/// Messages are lower-case and without a full stop, since others go on behind them; a page does not.
pub fn sentence(message: &str) -> String {
    let mut characters = message.chars();
    let first = characters.next().map(|first| first.to_uppercase().to_string()).unwrap_or_default();
    format!("{first}{}.", characters.as_str())
}

/// Sends a browser on by GET, with cookies.
pub fn see_other(location: &str, cookies: &[String]) -> Response {
    let Ok(location) = HeaderValue::from_str(location) else {
        return StatusCode::INTERNAL_SERVER_ERROR.into_response();
    };
    let mut response = StatusCode::SEE_OTHER.into_response();
    response.headers_mut().insert(LOCATION, location);
    for cookie in cookies.iter().filter_map(|cookie| HeaderValue::from_str(cookie).ok()) {
        response.headers_mut().append(SET_COOKIE, cookie);
    }
    response
}

/// A time as people read it, to the minute.
pub fn moment(at: Timestamp) -> String {
    let text = at.to_string();
    let minute: String = text.chars().take("2026-11-22T10:15".len()).collect();
    format!("{} UTC", minute.replace('T', " "))
}
