//! `/device`: a person says whether the device that shows a code is theirs (RFC 8628 §3.3, §5.4).
//!
//! INVARIANT: the page shows who asks, from where and since when before anything can be agreed to,
//! and agreeing is a form of its own: a link with the code in it signs nobody in.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::response::Response;

use crate::control::Desk;
use crate::control::oauth::device::{self, Answer};

use super::form::Fields;
use super::home::called;
use super::page::{DeviceCodePage, DevicePage, SaidPage, moment, render};
use super::refusal::PageError;
use super::visit::{Visit, Visitor};

/// `GET /device[?user_code]`
pub async fn ask(State(desk): State<Arc<Desk>>, visit: Visit) -> Result<Response, PageError> {
    let Visitor { caller, form_token } = visit.visitor(&desk).await?;
    let Some(user_code) = visit.query.get("user_code") else {
        return Ok(render(&DeviceCodePage { me: called(&caller), form_token }));
    };
    let asking = device::asking(&desk, user_code, visit.now).await.map_err(PageError::Device)?;
    Ok(render(&DevicePage {
        user_code: user_code.to_owned(),
        address: asking.address.to_string(),
        agent: asking.agent,
        asked_at: moment(asking.asked_at),
        me: called(&caller),
        form_token,
    }))
}

/// `POST /device`
pub async fn answer(State(desk): State<Arc<Desk>>, visit: Visit, request: Request) -> Result<Response, PageError> {
    let form = Fields::form(request).await?;
    let Visitor { caller, .. } = visit.author(&desk, &form).await?;
    let user_code = form.get("user_code").ok_or(PageError::Invalid("type the code that the device shows"))?;
    let (said, page) = match form.get("answer") {
        Some("agree") => (
            Answer::Agree,
            SaidPage {
                title: "The device is signed in",
                detail: "You may close this window and go back to it. It is among your sessions, where you can end it.",
                link: Some(("/", "Your sessions")),
            },
        ),
        Some("refuse") => (
            Answer::Refuse,
            SaidPage {
                title: "The device was refused",
                detail: "It gets nothing. If you did not start it, somebody tried to sign in as you: tell your security team.",
                link: None,
            },
        ),
        _ => return Err(PageError::Invalid("say whether the device is yours")),
    };
    device::answer(&desk, &caller, user_code, said, visit.now).await.map_err(PageError::Device)?;
    Ok(render(&page))
}
