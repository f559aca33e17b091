//! `/signin/program`: a person says whether the program on this computer that asks to act as them is
//! theirs (RFC 8252 §8.6). `/oauth2/authorize` sends browsers here that are signed in.
//!
//! INVARIANT: nothing is given before the person agreed by a form of this page, in the browser whose
//! session it is; the page shows who would be acted as, where the answer goes, and letters that the
//! program shows too. What the program asks for is checked again when it is agreed to.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::response::Response;

use crate::control::Desk;
use crate::control::oauth::code::{self, AuthorizeError, AuthorizeRequest, STATE_BYTES_MAX};
use crate::wire::oauth::program_letters;

use super::form::Fields;
use super::home::called;
use super::page::{ProgramPage, moment, render, see_other};
use super::refusal::PageError;
use super::visit::{Visit, Visitor};

/// The one origin beside ours that a form of the page may lead to: browsers hold `form-action` against
/// redirects too.
#[derive(Debug, Clone)]
pub struct FormTarget(pub String);

/// What is asked for, and the client's own `state`.
fn asked(fields: &Fields) -> Result<(AuthorizeRequest, String), PageError> {
    let text = |name: &str| fields.get(name).unwrap_or_default().to_owned();
    let asked = AuthorizeRequest {
        response_type: text("response_type"),
        client_id: text("client_id"),
        redirect_uri: text("redirect_uri"),
        code_challenge: text("code_challenge"),
        code_challenge_method: text("code_challenge_method"),
    };
    let state = text("state");
    if state.len() > STATE_BYTES_MAX {
        return Err(PageError::Invalid("what the program asks is too long"));
    }
    code::check(&asked).map_err(page_error)?;
    Ok((asked, state))
}

fn page_error(error: AuthorizeError) -> PageError {
    match error {
        AuthorizeError::Untrusted(what) | AuthorizeError::Asked(_, what) => PageError::Invalid(what),
        AuthorizeError::NoBrowserSession => PageError::NoBrowser,
        AuthorizeError::Store(error) => PageError::Unavailable(error),
    }
}

/// `http://127.0.0.1:PORT` of a redirect URI that was checked. Policies of browsers have no word for an
/// IPv6 address, so for one any plain address is let through; the form is ours all the same.
fn target(redirect_uri: &str) -> FormTarget {
    let origin = redirect_uri.strip_suffix("/callback").unwrap_or_default();
    FormTarget(if origin.contains('[') { "http:".to_owned() } else { origin.to_owned() })
}

/// `GET /signin/program`
pub async fn ask(State(desk): State<Arc<Desk>>, visit: Visit) -> Result<Response, PageError> {
    let Visitor { caller, form_token } = visit.visitor(&desk).await?;
    let (asked, state) = asked(&visit.query)?;
    let target = target(&asked.redirect_uri);
    let mut page = render(&ProgramPage {
        me: called(&caller),
        principal: caller.principal().id().to_owned(),
        letters: program_letters(&asked.code_challenge),
        address: visit.connection.address.to_string(),
        // What a page shows is no link: only the place, without its scheme.
        listens: asked.redirect_uri.strip_prefix("http://").unwrap_or_default().replace("/callback", ""),
        asked_at: moment(visit.now),
        until: moment(caller.session().expires_at),
        fields: [
            ("response_type", asked.response_type),
            ("client_id", asked.client_id),
            ("redirect_uri", asked.redirect_uri),
            ("code_challenge", asked.code_challenge),
            ("code_challenge_method", asked.code_challenge_method),
            ("state", state),
        ],
        form_token,
    });
    page.extensions_mut().insert(target);
    Ok(page)
}

/// `POST /signin/program`
pub async fn answer(State(desk): State<Arc<Desk>>, visit: Visit, request: Request) -> Result<Response, PageError> {
    let form = Fields::form(request).await?;
    let Visitor { caller, .. } = visit.author(&desk, &form).await?;
    let (asked, state) = asked(&form)?;
    let back = |answer: &[(&str, &str)]| {
        let mut sent = see_other(&code::back_to_client(&desk, &asked.redirect_uri, &state, answer), &[]);
        sent.extensions_mut().insert(target(&asked.redirect_uri));
        sent
    };
    match form.get("answer") {
        Some("agree") => {
            let code = code::authorize(&desk, &caller, &asked, visit.now).await.map_err(page_error)?;
            Ok(back(&[("code", code.expose())]))
        }
        Some("refuse") => {
            code::refuse(&desk, &caller, &asked, visit.now).await.map_err(page_error)?;
            let description = "its person says that this program is not theirs";
            Ok(back(&[("error", "access_denied"), ("error_description", description)]))
        }
        _ => Err(PageError::Invalid("say whether the program is yours")),
    }
}
