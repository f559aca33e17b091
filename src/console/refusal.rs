//! What a page says instead of what was asked for: one enum, one exhaustive translation, on record
//! under the decision that the page names.

use axum::extract::Request;
use axum::http::header::{ACCEPT, CONTENT_TYPE};
use axum::http::{HeaderMap, HeaderValue, StatusCode, Version};
use axum::response::{IntoResponse, Response};

use crate::audit::{Actor, RequestFacts};
use crate::control::access::AccessError;
use crate::control::browser::OfferError;
use crate::control::caller::Unproven;
use crate::control::oauth::device::AnswerError;
use crate::control::return_to::ReturnTo;
use crate::control::session::RevokeError;
use crate::control::sign_in::SignInError;
use crate::control::{Desk, StoreError, refused};
use crate::identity::provider::ProviderError;
use crate::model::{DecisionId, RequestId};
use crate::wire::problem::PROBLEM_MEDIA_TYPE;
use crate::wire::{Problem, Remedy};

use super::page;

/// The kind of a remedy: signing in again.
const STEP_UP: &str = "step_up";
/// What is told while the database is away.
pub const AWAY: &str = "the database is away; what is open goes on. Try again in a moment";
/// What is told of a form that was sent already, with something else in it.
pub const SENT_ALREADY: &str = "this form made a request already, with something else in it: it is among your \
                                requests. Send it again to ask for this, too";

/// Why a page is another than was asked for.
#[derive(Debug)]
pub enum PageError {
    /// Signing in comes first.
    SignIn { return_to: String, reason: &'static str },
    /// A form came whose session is over: nothing of it was done.
    TooLate { return_to: String, reason: &'static str, typed: Vec<(String, String)> },
    /// The page that a form was on is shown again, with what was typed and what was wrong.
    Again { error: Box<PageError>, page: Option<String> },
    /// The same form is being sent already.
    AtWork,
    /// What the form asked for was done already, and what was answered is lost.
    DoneUnanswered,
    /// The form was sent already, with something else in it.
    KeyReused,
    /// Nobody is proven, and signing in would not help.
    Unproven(Unproven),
    /// The caller is proven, but no browser with a cookie.
    NoBrowser,
    /// The form is none of our pages'.
    Form(Box<Actor>),
    /// The request is not what it must be.
    Invalid(&'static str),
    /// There is nothing here.
    NotFound(&'static str),
    /// The method is not for this path.
    Method,
    /// A sign-in did not begin.
    NotBegun(SignInError),
    /// A sign-in did not end well. It is on record already.
    Failed(SignInError),
    /// The browser can't be handed over to a service.
    Offer(OfferError),
    /// A session was not ended.
    Revoke(RevokeError),
    /// A device was not answered.
    Device(AnswerError),
    /// A request was not entered or answered, or a grant not given back; and whose word that was.
    Access(Box<(AccessError, Actor)>),
    /// The database is away.
    Unavailable(StoreError),
    /// The server is put together wrongly.
    Internal,
}

impl From<Unproven> for PageError {
    fn from(error: Unproven) -> Self {
        Self::Unproven(error)
    }
}

impl From<StoreError> for PageError {
    fn from(error: StoreError) -> Self {
        Self::Unavailable(error)
    }
}

/// What is written on the page.
#[derive(Debug, Clone)]
pub struct Refused {
    /// In a few words.
    pub title: &'static str,
    /// In a sentence, with what to do.
    pub detail: String,
    /// As scripts read it.
    pub reason: &'static str,
    /// A command that helps.
    pub command: Option<&'static str>,
    /// Where to go from there; none: where its path belongs.
    pub link: Option<(String, &'static str)>,
    /// What was typed and not sent, each with what it is.
    pub typed: Vec<(String, String)>,
    /// The page that is shown instead of the refusal's own.
    pub page: Option<String>,
    /// The kind of what would help, where the status does not say it.
    remedy: Option<&'static str>,
    actor: Option<Box<Actor>>,
    recorded: bool,
}

impl PageError {
    fn refused(self) -> (StatusCode, Refused) {
        let page = |status, title, detail: String, reason| (status, Refused::new(title, detail, reason));
        match self {
            // Answered by a redirect; this is what it would say.
            Self::SignIn { reason, .. } => {
                page(StatusCode::UNAUTHORIZED, "Sign in first", "nobody is signed in".to_owned(), reason)
            }
            Self::TooLate { return_to, reason, typed } => {
                let title = "Your session is over; nothing was sent";
                let detail = "sign in again and send it once more".to_owned();
                let link = Some((sign_in_at(&return_to, None), "Sign in again"));
                (StatusCode::UNAUTHORIZED, Refused { link, typed, ..Refused::new(title, detail, reason) })
            }
            Self::Again { error, page } => {
                let (status, refused) = error.refused();
                (status, Refused { page, ..refused })
            }
            Self::AtWork => {
                let detail = "this form was sent a moment ago and has no answer yet; look among your requests before \
                              you ask again"
                    .to_owned();
                page(StatusCode::CONFLICT, "The same is being done", detail, "in_progress")
            }
            Self::DoneUnanswered => {
                let detail = "what this form asked for was done, and the answer got lost; it is among your requests";
                page(StatusCode::CONFLICT, "It was done already", detail.to_owned(), "already_done")
            }
            Self::KeyReused => {
                let (status, title) = (StatusCode::UNPROCESSABLE_ENTITY, "It was sent already");
                page(status, title, SENT_ALREADY.to_owned(), "idempotency_key_reused")
            }
            Self::Unproven(unproven) => unproven_page(unproven),
            Self::NoBrowser => {
                let detail =
                    "these pages go by a browser's own sign-in, and this one shows a certificate or token of another \
                     session: choose none for this site, or use the command line, which has the same"
                        .to_owned();
                let (status, refused) = page(StatusCode::FORBIDDEN, "This is for browsers", detail, "bad_credential");
                (status, Refused { command: Some("doorward whoami"), ..refused })
            }
            Self::Form(actor) => {
                let detail =
                    "the form was not sent by a page of ours, or is an old one; open the page again".to_owned();
                let (status, refused) =
                    page(StatusCode::FORBIDDEN, "This form is not good any more", detail, "forbidden_by_policy");
                (status, Refused { actor: Some(actor), ..refused })
            }
            Self::Invalid(what) => {
                page(StatusCode::BAD_REQUEST, "The request is not right", what.to_owned(), "invalid_request")
            }
            Self::NotFound(what) => page(StatusCode::NOT_FOUND, "Not found", what.to_owned(), "not_found"),
            Self::Method => {
                let detail = "this address is for something else".to_owned();
                page(StatusCode::METHOD_NOT_ALLOWED, "Not this way", detail, "no_route")
            }
            Self::NotBegun(SignInError::Store(error)) => Self::Unavailable(error).refused(),
            Self::NotBegun(error) => sign_in_page(&error),
            // `sign_in::complete` has put it on record itself.
            Self::Failed(error) => {
                let (status, page) = sign_in_page(&error);
                (status, Refused { recorded: false, ..page })
            }
            Self::Offer(error) => match error {
                OfferError::NoSuchHost => {
                    page(StatusCode::NOT_FOUND, "No such service for browsers", error.to_string(), "no_route")
                }
                OfferError::Binding => {
                    page(StatusCode::BAD_REQUEST, "The link is not whole", error.to_string(), "invalid_request")
                }
                OfferError::NoBrowserSession => Self::NoBrowser.refused(),
                OfferError::Store(error) => Self::Unavailable(error).refused(),
            },
            Self::Revoke(error) => match error {
                RevokeError::NotFound => page(StatusCode::NOT_FOUND, "No such session", error.to_string(), "not_found"),
                RevokeError::Denied => page(StatusCode::FORBIDDEN, "Not yours", error.to_string(), "no_policy_match"),
                RevokeError::Reason => {
                    page(StatusCode::BAD_REQUEST, "A reason is needed", error.to_string(), "invalid_request")
                }
                RevokeError::Store(error) => Self::Unavailable(error).refused(),
            },
            Self::Device(error) => match error {
                AnswerError::Unknown => {
                    page(StatusCode::NOT_FOUND, "No device waits with this code", error.to_string(), "not_found")
                }
                AnswerError::NoBrowserSession => Self::NoBrowser.refused(),
                AnswerError::Store(error) => Self::Unavailable(error).refused(),
            },
            Self::Access(refused) => {
                let (error, actor) = *refused;
                let (status, page) = access_page(error);
                (status, Refused { actor: Some(Box::new(actor)), ..page })
            }
            Self::Unavailable(error) => {
                tracing::warn!(%error, "a page could not be answered");
                let (status, refused) =
                    page(StatusCode::SERVICE_UNAVAILABLE, "Not available just now", AWAY.to_owned(), "unavailable");
                (status, Refused { recorded: false, ..refused })
            }
            Self::Internal => {
                tracing::error!("the listener did not note the facts of a connection");
                let detail = "the request could not be answered".to_owned();
                page(StatusCode::INTERNAL_SERVER_ERROR, "Something is wrong here", detail, "internal")
            }
        }
    }
}

fn unproven_page(unproven: Unproven) -> (StatusCode, Refused) {
    let detail = unproven.to_string();
    let page = |status, title, reason, actor| (status, Refused { actor, ..Refused::new(title, detail, reason) });
    match unproven {
        Unproven::NoCredential => page(StatusCode::UNAUTHORIZED, "Sign in first", "no_credential", None),
        Unproven::BadCredential => {
            page(StatusCode::UNAUTHORIZED, "What this browser shows does not hold", "bad_credential", None)
        }
        Unproven::SessionEnded(actor) => {
            page(StatusCode::UNAUTHORIZED, "The session is over", "session_ended", Some(actor))
        }
        Unproven::Locked(actor) => page(StatusCode::FORBIDDEN, "You are locked out", "locked", Some(actor)),
        Unproven::CrossSite(actor) => {
            page(StatusCode::FORBIDDEN, "The request came from another site", "forbidden_by_policy", Some(actor))
        }
        Unproven::Store(error) => PageError::Unavailable(error).refused(),
    }
}

/// What was wrong, for the page where it was typed.
pub fn words_of(error: &AccessError) -> String {
    match error {
        // What exactly is for the operator's log.
        AccessError::Store(_) => AWAY.to_owned(),
        error => error.to_string(),
    }
}

fn access_page(error: AccessError) -> (StatusCode, Refused) {
    let detail = words_of(&error);
    let remedy = matches!(error, AccessError::SignInTooOld(_)).then_some(STEP_UP);
    let (status, title, reason) = match error {
        AccessError::NotFound { .. } | AccessError::NoEntitlement(_) => {
            (StatusCode::NOT_FOUND, "Not found", "not_found")
        }
        AccessError::Invalid(_) => (StatusCode::BAD_REQUEST, "The request is not right", "invalid_request"),
        AccessError::Denied(_) => (StatusCode::FORBIDDEN, "No policy lets you", "no_policy_match"),
        AccessError::SignInTooOld(_) => {
            (StatusCode::FORBIDDEN, "Your sign-in is too long ago for this", "no_policy_match")
        }
        AccessError::SelfApproval => (StatusCode::FORBIDDEN, "Somebody else has to answer", "self_approval"),
        AccessError::AnsweredAlready => (StatusCode::CONFLICT, "You have answered already", "already_answered"),
        AccessError::Closed { .. } | AccessError::Granted { .. } => {
            (StatusCode::CONFLICT, "The request is closed", "request_closed")
        }
        AccessError::Changed { .. } => {
            (StatusCode::CONFLICT, "The request changed: look at it again", "request_changed")
        }
        AccessError::Ineligible(_) => (StatusCode::CONFLICT, "It can't be granted", "ineligible"),
        AccessError::Full { .. } => (StatusCode::CONFLICT, "All places are taken", "capacity"),
        AccessError::TooSoon(_) => (StatusCode::CONFLICT, "It is too soon", "too_soon"),
        AccessError::Clock(_) => (StatusCode::SERVICE_UNAVAILABLE, "Nothing new is granted now", "clock_stepped"),
        AccessError::NotActive { .. } => (StatusCode::CONFLICT, "It is not active", "not_active"),
        AccessError::Store(error) => return PageError::Unavailable(error).refused(),
    };
    (status, Refused { remedy, ..Refused::new(title, detail, reason) })
}

fn sign_in_page(error: &SignInError) -> (StatusCode, Refused) {
    tracing::warn!(%error, reason = error.reason(), "a sign-in failed");
    let (status, title) = match error {
        SignInError::NoProvider => (StatusCode::SERVICE_UNAVAILABLE, "Nobody can sign in yet"),
        SignInError::UnknownProvider => (StatusCode::NOT_FOUND, "No such identity provider"),
        SignInError::NotBegun => (StatusCode::BAD_REQUEST, "This sign-in can't be completed"),
        SignInError::Declined { .. } | SignInError::ProofTooOld => (StatusCode::FORBIDDEN, "You were not signed in"),
        SignInError::Malformed => (StatusCode::BAD_REQUEST, "The identity provider's answer is of no use"),
        SignInError::Provider(ProviderError::Unreachable { .. } | ProviderError::AskedJustNow { .. }) => {
            (StatusCode::SERVICE_UNAVAILABLE, "The identity provider can't be reached")
        }
        SignInError::Provider(_) => (StatusCode::BAD_GATEWAY, "The identity provider's answer does not hold"),
        SignInError::Start(_) => (StatusCode::FORBIDDEN, "No session was started"),
        SignInError::Seal(_) => (StatusCode::INTERNAL_SERVER_ERROR, "Something is wrong here"),
        SignInError::Store(_) => (StatusCode::SERVICE_UNAVAILABLE, "Not available just now"),
    };
    // What exactly did not hold is for the operator's log.
    let detail = match error {
        SignInError::Provider(ProviderError::Unreachable { provider, .. }) => format!(
            "the identity provider `{provider}` does not answer; try again in a moment. Sessions that are open go on"
        ),
        SignInError::Provider(ProviderError::Token { provider, .. } | ProviderError::Metadata { provider, .. }) => {
            format!("what the identity provider `{provider}` says can't be taken; its operator finds why in our log")
        }
        SignInError::Seal(_) | SignInError::Store(_) => "the sign-in could not be stored; try again".to_owned(),
        other => other.to_string(),
    };
    let command = matches!(error, SignInError::Provider(_)).then_some("doorward doctor");
    (status, Refused { command, ..Refused::new(title, detail, error.reason()) })
}

/// Where a browser signs in to come back there, by a proof to its provider no older than `max_age` seconds.
pub fn sign_in_at(return_to: &str, max_age: Option<u32>) -> String {
    // What can't be gone back to must not become a dead end after signing in.
    let return_to = ReturnTo::parse(return_to).unwrap_or_else(ReturnTo::root);
    let mut query = form_urlencoded::Serializer::new(String::new());
    if let Some(seconds) = max_age {
        query.append_pair("max_age", &seconds.to_string());
    }
    format!("/signin?{}", query.append_pair("return_to", return_to.as_str()).finish())
}

/// Where a page of a refusal leads on to, by the path that was asked for.
fn way_on(path: &str, status: StatusCode) -> (String, &'static str) {
    let at = |href: &str, text| (href.to_owned(), text);
    if status == StatusCode::UNAUTHORIZED {
        return at("/signin", "Sign in");
    }
    match path {
        "/signin" | "/signin/callback" | "/signin/service" => at("/signin", "Sign in"),
        "/requests" | "/requests/new" => at("/requests/new", "What you may ask for"),
        "/device" => at("/device", "Type a code"),
        _ => match path.strip_prefix("/requests/").and_then(|rest| rest.split('/').next()) {
            Some(id) if status != StatusCode::NOT_FOUND && RequestId::parse(id).is_ok() => {
                (format!("/requests/{id}"), "Back to the request")
            }
            Some(_) => at("/requests", "Your requests"),
            None if path.starts_with("/grants/") => at("/requests", "Your requests"),
            None => at("/", "The front page"),
        },
    }
}

impl IntoResponse for PageError {
    fn into_response(self) -> Response {
        if let Self::SignIn { return_to, .. } = &self {
            return page::see_other(&sign_in_at(return_to, None), &[]);
        }
        let (status, refused) = self.refused();
        let mut response = status.into_response();
        response.extensions_mut().insert(refused);
        response
    }
}

/// Whether a page can be read by who asks: all but programs that say what they read (RFC 9110 §12.5.1).
pub fn page_wanted(headers: &HeaderMap) -> bool {
    let mut accepted = headers.get_all(ACCEPT).iter().filter_map(|value| value.to_str().ok()).peekable();
    let takes = |range: &str| {
        let mut parts = range.split(';').map(str::trim);
        let kind = parts.next().unwrap_or_default().to_ascii_lowercase();
        let refused = parts.any(|part| part.strip_prefix("q=").is_some_and(|q| q.parse() == Ok(0.0_f32)));
        matches!(kind.as_str(), "text/html" | "text/*" | "*/*") && !refused
    };
    accepted.peek().is_none() || accepted.flat_map(|value| value.split(',')).any(takes)
}

impl Refused {
    const fn new(title: &'static str, detail: String, reason: &'static str) -> Self {
        Self {
            title,
            detail,
            reason,
            command: None,
            link: None,
            typed: Vec::new(),
            page: None,
            remedy: None,
            actor: None,
            recorded: true,
        }
    }

    /// Where its page leads on to, which answers `path`.
    pub fn leads_to(&self, path: &str, status: StatusCode) -> (String, &'static str) {
        match &self.link {
            Some(link) => link.clone(),
            None if self.remedy == Some(STEP_UP) => (sign_in_at(&way_on(path, status).0, Some(0)), "Sign in again"),
            None => way_on(path, status),
        }
    }

    /// The refusal for programs (RFC 9457), as the API writes it.
    pub fn problem(&self, status: StatusCode, decision: DecisionId) -> Response {
        let kind = match (self.remedy, status) {
            (Some(remedy), _) => remedy,
            (None, StatusCode::UNAUTHORIZED) => "sign_in",
            (None, StatusCode::SERVICE_UNAVAILABLE) => "retry",
            (None, _) => "none",
        };
        let problem = Problem {
            detail: Some(self.detail.clone()),
            decision: Some(decision.to_string()),
            remedy: Some(Remedy::new(kind, self.command)),
            ..Problem::new(status.as_u16(), self.reason, self.title)
        };
        let body = serde_json::to_vec(&problem).unwrap_or_default();
        ([(CONTENT_TYPE, HeaderValue::from_static(PROBLEM_MEDIA_TYPE))], body).into_response()
    }

    /// The reason for the record, and who is refused as far as the handler knows; nothing where it is there already.
    pub fn told(&mut self) -> Option<(&'static str, Option<Actor>)> {
        self.recorded.then(|| (self.reason, self.actor.take().map(|actor| *actor)))
    }
}

/// A refusal that is written out already and only goes on record, for this reason.
#[derive(Debug, Clone, Copy)]
pub struct Answered(pub &'static str);

/// The request as the record names it, before it is taken apart.
pub fn facts(desk: &Desk, request: &Request) -> RequestFacts {
    let protocol = if request.version() == Version::HTTP_2 { "h2" } else { "http/1.1" };
    refused::facts(desk, request.method().as_str(), request.uri().path(), protocol)
}
