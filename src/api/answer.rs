//! What a request is answered when it isn't answered what it asked for: one enum for the API, one
//! for OAuth endpoints, and one translation of each.
//!
//! A refusal leaves its handler without a body, as a [`Refused`] in the response's extensions:
//! `decided.rs` knows the decision's id and writes it.

use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};

use crate::audit::Actor;
use crate::control::access::AccessError;
use crate::control::audit::read::ReadError;
use crate::control::caller::Unproven;
use crate::control::credential::WithdrawError;
use crate::control::decision::DecisionError;
use crate::control::lock::LockError;
use crate::control::lock_by_caller::ChangeLockError;
use crate::control::oauth::GrantError;
use crate::control::oauth::exchange::ExchangeError;
use crate::control::session::RevokeError;
use crate::wire::Remedy;

/// Why the API does not do what it was asked.
#[derive(Debug)]
pub enum ApiError {
    /// Nobody is proven.
    Unproven(Unproven),
    /// There is no such thing, or the caller may not know.
    NotFound(&'static str),
    /// There is no such entitlement.
    NoEntitlement(String),
    /// No policy lets the caller do it.
    Denied(String),
    /// No policy lets the caller do it before they have signed in again.
    SignInTooOld(String),
    /// The request is not what it must be.
    Invalid(String),
    /// The body is too long.
    TooLarge,
    /// The body is of another kind.
    MediaType(&'static str),
    /// No policy could allow it.
    Forbidden(&'static str, String),
    /// The state of things does not let it happen.
    Conflict(&'static str, String),
    /// The first request with this idempotency key is at work.
    AtWork,
    /// What was asked under the idempotency key was done, and its answer is lost.
    DoneUnanswered,
    /// The idempotency key was used for something else.
    KeyReused,
    /// There is no such route.
    NoRoute,
    /// The route has no such method.
    Method,
    /// The database is away.
    Unavailable(String),
    /// The time of this node can't be believed.
    Clock(String),
    /// The server is put together wrongly.
    Internal(&'static str),
}

/// What `decided.rs` makes an answer of.
#[derive(Debug, Clone)]
pub struct Refused {
    /// The reason as scripts read it.
    pub reason: &'static str,
    /// In which form it is written.
    pub form: Form,
    /// Who was refused, as far as it is known.
    pub actor: Option<Box<Actor>>,
    /// Whether it is put on record.
    pub recorded: bool,
    /// What is for the operator's log alone.
    pub cause: Option<String>,
}

/// In which form a refusal is written.
#[derive(Debug, Clone)]
pub enum Form {
    /// RFC 9457.
    Problem {
        /// The reason in words.
        title: &'static str,
        /// This occurrence in words.
        detail: Option<String>,
        /// What would help.
        remedy: Option<Remedy>,
    },
    /// RFC 6749 §5.2.
    Oauth {
        /// For people.
        description: String,
    },
}

impl From<Unproven> for ApiError {
    fn from(error: Unproven) -> Self {
        Self::Unproven(error)
    }
}

impl From<crate::control::StoreError> for ApiError {
    fn from(error: crate::control::StoreError) -> Self {
        Self::Unavailable(error.to_string())
    }
}

impl From<WithdrawError> for ApiError {
    fn from(error: WithdrawError) -> Self {
        match error {
            WithdrawError::NotFound => Self::NotFound("there is no such credential, or it is over"),
            WithdrawError::Denied => Self::Denied(error.to_string()),
            WithdrawError::Reason => Self::Invalid(error.to_string()),
            WithdrawError::Store(error) => Self::Unavailable(error.to_string()),
        }
    }
}

impl From<RevokeError> for ApiError {
    fn from(error: RevokeError) -> Self {
        match error {
            RevokeError::NotFound => Self::NotFound("there is no such session"),
            RevokeError::Denied => Self::Denied(error.to_string()),
            RevokeError::Reason => Self::Invalid(error.to_string()),
            RevokeError::Store(error) => Self::Unavailable(error.to_string()),
        }
    }
}

impl From<AccessError> for ApiError {
    fn from(error: AccessError) -> Self {
        let told = error.to_string();
        match error {
            AccessError::NoEntitlement(_) => Self::NoEntitlement(told),
            AccessError::NotFound { what: "grant" } => Self::NotFound("there is no such grant"),
            AccessError::NotFound { .. } => Self::NotFound("there is no such request"),
            AccessError::Invalid(_) => Self::Invalid(told),
            AccessError::Denied(_) => Self::Denied(told),
            AccessError::SignInTooOld(_) => Self::SignInTooOld(told),
            AccessError::SelfApproval => Self::Forbidden("self_approval", told),
            AccessError::AnsweredAlready => Self::Conflict("answered_already", told),
            AccessError::Closed { .. } | AccessError::Granted { .. } => Self::Conflict("closed", told),
            AccessError::Changed { .. } => Self::Conflict("changed", told),
            AccessError::Ineligible(_) => Self::Conflict("ineligible", told),
            AccessError::Full { .. } => Self::Conflict("full", told),
            AccessError::NotActive { .. } => Self::Conflict("not_active", told),
            AccessError::TooSoon(_) => Self::Conflict("too_soon", told),
            AccessError::Clock(_) => Self::Clock(told),
            AccessError::Store(error) => Self::Unavailable(error.to_string()),
        }
    }
}

impl From<LockError> for ApiError {
    fn from(error: LockError) -> Self {
        let told = error.to_string();
        match error {
            LockError::Reason => Self::Invalid(told),
            LockError::AlreadyLocked { .. } => Self::Conflict("already_locked", told),
            LockError::NotLocked { .. } => Self::Conflict("not_locked", told),
            LockError::Store(error) => Self::Unavailable(error.to_string()),
        }
    }
}

impl From<ChangeLockError> for ApiError {
    fn from(error: ChangeLockError) -> Self {
        let told = error.to_string();
        match error {
            ChangeLockError::Denied => Self::Denied(told),
            ChangeLockError::Oneself => Self::Conflict("self_lock", told),
            ChangeLockError::Nobody(_) => Self::NotFound(
                "nobody who is signed in or locked is called so; name the principal, `User::\"<provider>|<subject>\"`",
            ),
            ChangeLockError::Provider { .. } | ChangeLockError::Several(_) => Self::Invalid(told),
            ChangeLockError::Lock(error) => error.into(),
        }
    }
}

impl From<DecisionError> for ApiError {
    fn from(error: DecisionError) -> Self {
        match error {
            DecisionError::NotFound => Self::NotFound("there is no such decision"),
            DecisionError::Store(error) => Self::Unavailable(error.to_string()),
        }
    }
}

impl From<ReadError> for ApiError {
    fn from(error: ReadError) -> Self {
        match error {
            ReadError::Denied(_) => Self::Denied(error.to_string()),
            ReadError::NotFound => Self::NotFound("there is no such thing in the record"),
            ReadError::OtherLog => Self::Invalid(error.to_string()),
            ReadError::Store(_) | ReadError::Tree(_) | ReadError::Root(_) => Self::Unavailable(error.to_string()),
        }
    }
}

const SIGN_IN: &str = "doorward login";

impl ApiError {
    fn status(&self) -> StatusCode {
        match self {
            Self::Unproven(Unproven::NoCredential | Unproven::BadCredential | Unproven::SessionEnded(_)) => {
                StatusCode::UNAUTHORIZED
            }
            Self::Unproven(Unproven::Locked(_) | Unproven::CrossSite(_))
            | Self::Denied(_)
            | Self::SignInTooOld(_)
            | Self::Forbidden(..) => StatusCode::FORBIDDEN,
            Self::Unproven(Unproven::Store(_)) | Self::Unavailable(_) | Self::Clock(_) => {
                StatusCode::SERVICE_UNAVAILABLE
            }
            Self::NotFound(_) | Self::NoEntitlement(_) | Self::NoRoute => StatusCode::NOT_FOUND,
            Self::Invalid(_) => StatusCode::BAD_REQUEST,
            Self::Conflict(..) | Self::AtWork | Self::DoneUnanswered => StatusCode::CONFLICT,
            Self::KeyReused => StatusCode::UNPROCESSABLE_ENTITY,
            Self::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Self::MediaType(_) => StatusCode::UNSUPPORTED_MEDIA_TYPE,
            Self::Method => StatusCode::METHOD_NOT_ALLOWED,
            Self::Internal(_) => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }

    fn refused(self) -> Refused {
        let problem = |reason, title, detail: Option<String>, remedy| Refused {
            reason,
            form: Form::Problem { title, detail, remedy },
            actor: None,
            recorded: true,
            cause: None,
        };
        let sign_in = || Some(Remedy::new("sign_in", Some(SIGN_IN)));
        let retry = || Some(Remedy::new("retry", None));
        match self {
            Self::Unproven(unproven) => {
                let detail = Some(unproven.to_string());
                match unproven {
                    Unproven::NoCredential => problem("no_credential", "Nobody is signed in", detail, sign_in()),
                    Unproven::BadCredential => problem("bad_credential", "A credential is not good", detail, sign_in()),
                    Unproven::SessionEnded(actor) => {
                        let refused = problem("session_ended", "The session is over", detail, sign_in());
                        Refused { actor: Some(actor), ..refused }
                    }
                    Unproven::Locked(actor) => {
                        let refused = problem("locked", "The principal is locked", detail, None);
                        Refused { actor: Some(actor), ..refused }
                    }
                    Unproven::CrossSite(actor) => {
                        let title = "The request came from another site";
                        Refused { actor: Some(actor), ..problem("forbidden_by_policy", title, detail, None) }
                    }
                    Unproven::Store(error) => Self::Unavailable(error.to_string()).refused(),
                }
            }
            Self::NotFound(what) => problem("not_found", "Not found", Some(what.to_owned()), None),
            Self::NoEntitlement(detail) => problem("not_found", "Not found", Some(detail), None),
            Self::Denied(detail) => problem("no_policy_match", "No policy allows it", Some(detail), None),
            Self::SignInTooOld(detail) => {
                let remedy = Some(Remedy::new("step_up", Some(SIGN_IN)));
                problem("no_policy_match", "The sign-in is too long ago for this", Some(detail), remedy)
            }
            Self::Invalid(detail) => problem("invalid_request", "The request is not right", Some(detail), None),
            Self::Forbidden(reason, detail) => problem(reason, "It is not for you to do", Some(detail), None),
            Self::Conflict(reason, detail) => problem(reason, "It can't be done as things stand", Some(detail), None),
            Self::AtWork => {
                let detail = "the first request with this `Idempotency-Key` has no answer yet; if that lasts, look at \
                              what became of it before you ask again under a new key";
                problem("in_progress", "The same is being done", Some(detail.to_owned()), retry())
            }
            Self::DoneUnanswered => {
                let detail = "what was first asked under this `Idempotency-Key` was done, and its answer got lost; \
                              look at what became of it, and ask for anything more under a new key";
                problem("already_done", "It was done already", Some(detail.to_owned()), None)
            }
            Self::KeyReused => {
                let detail = "this `Idempotency-Key` was used for another body; take a new one";
                problem("idempotency_key_reused", "The key is used", Some(detail.to_owned()), None)
            }
            Self::TooLarge => {
                let detail = "the body is longer than anything that is wanted here".to_owned();
                problem("invalid_request", "The body is too long", Some(detail), None)
            }
            Self::MediaType(expected) => {
                let detail = format!("send the body as `{expected}`");
                problem("invalid_request", "The body is of another kind", Some(detail), None)
            }
            Self::NoRoute => {
                let detail = "`/api/v1/openapi.json` describes what is there".to_owned();
                problem("no_route", "There is nothing here", Some(detail), None)
            }
            Self::Method => {
                let detail = "`Allow` says which methods this path has".to_owned();
                problem("no_route", "The method is not for this path", Some(detail), None)
            }
            Self::Unavailable(cause) => {
                let detail = "the database is away; what is open goes on, nothing new is granted".to_owned();
                let refused = problem("unavailable", "The control plane can't answer now", Some(detail), retry());
                Refused { recorded: false, cause: Some(cause), ..refused }
            }
            Self::Clock(detail) => problem("clock_stepped", "Nothing new is granted now", Some(detail), retry()),
            Self::Internal(cause) => {
                let detail = "the decision's id helps to find out why".to_owned();
                let refused = problem("internal", "The request could not be answered", Some(detail), None);
                Refused { cause: Some(cause.to_owned()), ..refused }
            }
        }
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let mut response = self.status().into_response();
        response.extensions_mut().insert(self.refused());
        response
    }
}

/// Why an OAuth endpoint does not do what it was asked.
#[derive(Debug)]
pub enum OauthFailure {
    /// A grant gives nothing.
    Grant(GrantError),
    /// The body is not a form that can be read.
    Form(&'static str),
    /// The body is too long.
    TooLarge,
    /// There is no such grant here.
    UnsupportedGrantType(&'static str),
    /// Nothing was exchanged.
    Exchange(ExchangeError),
    /// The proof of possession does not hold.
    Proof(&'static str),
    /// The proof needs a nonce, which comes with the answer.
    NonceWanted,
    /// The server is put together wrongly.
    Internal(&'static str),
}

impl From<GrantError> for OauthFailure {
    fn from(error: GrantError) -> Self {
        Self::Grant(error)
    }
}

impl From<ExchangeError> for OauthFailure {
    fn from(error: ExchangeError) -> Self {
        Self::Exchange(error)
    }
}

impl OauthFailure {
    /// The error word (RFC 6749 §5.2, RFC 7009 §2.2.1, RFC 8628 §3.5) and its status.
    fn word(&self) -> (&'static str, StatusCode) {
        let bad = StatusCode::BAD_REQUEST;
        match self {
            Self::Grant(error) => match error {
                GrantError::InvalidRequest(_) | GrantError::Certificate(_) => ("invalid_request", bad),
                GrantError::InvalidClient => ("invalid_client", StatusCode::UNAUTHORIZED),
                GrantError::InvalidGrant => ("invalid_grant", bad),
                GrantError::UnauthorizedClient(_) => ("unauthorized_client", bad),
                GrantError::AccessDenied => ("access_denied", bad),
                GrantError::AuthorizationPending => ("authorization_pending", bad),
                GrantError::SlowDown => ("slow_down", bad),
                GrantError::ExpiredToken => ("expired_token", bad),
                GrantError::Signing(_) => ("server_error", StatusCode::INTERNAL_SERVER_ERROR),
                GrantError::Store(_) => ("temporarily_unavailable", StatusCode::SERVICE_UNAVAILABLE),
            },
            Self::Form(_) => ("invalid_request", bad),
            Self::TooLarge => ("invalid_request", StatusCode::PAYLOAD_TOO_LARGE),
            Self::UnsupportedGrantType(_) => ("unsupported_grant_type", bad),
            Self::Proof(_) => ("invalid_dpop_proof", bad),
            Self::NonceWanted => ("use_dpop_nonce", bad),
            Self::Exchange(error) => match error {
                ExchangeError::Invalid(_)
                | ExchangeError::Subject
                | ExchangeError::Expired
                | ExchangeError::Reused
                | ExchangeError::Certificate(_) => ("invalid_request", bad),
                // Whoever shows it is nobody any more (RFC 6749 §5.2).
                ExchangeError::SessionEnded => ("invalid_client", StatusCode::UNAUTHORIZED),
                ExchangeError::NoRule(_)
                | ExchangeError::NoGrant
                | ExchangeError::GrantNotActive { .. }
                | ExchangeError::GrantElsewhere { .. } => ("invalid_grant", bad),
                ExchangeError::Target => ("invalid_target", bad),
                ExchangeError::Scope(_) | ExchangeError::Wider(_) => ("invalid_scope", bad),
                ExchangeError::Wanted(why) => (wanted_word(why), bad),
                ExchangeError::Proof(_) => ("invalid_dpop_proof", bad),
                ExchangeError::Locked => ("access_denied", bad),
                ExchangeError::Signing(_) => ("server_error", StatusCode::INTERNAL_SERVER_ERROR),
                ExchangeError::Clock(_) | ExchangeError::Store(_) => {
                    ("temporarily_unavailable", StatusCode::SERVICE_UNAVAILABLE)
                }
            },
            Self::Internal(_) => ("server_error", StatusCode::INTERNAL_SERVER_ERROR),
        }
    }

    fn description(&self) -> String {
        match self {
            Self::Grant(error) => error.to_string(),
            Self::Exchange(error) => error.to_string(),
            Self::Form(what) | Self::UnsupportedGrantType(what) | Self::Proof(what) => (*what).to_owned(),
            Self::NonceWanted => "make the DPoP proof again with the `nonce` in `DPoP-Nonce`".to_owned(),
            Self::TooLarge => "the body is too long".to_owned(),
            Self::Internal(_) => "the request could not be answered".to_owned(),
        }
    }

    fn cause(&self) -> Option<String> {
        match self {
            Self::Grant(GrantError::Store(error)) => Some(error.to_string()),
            Self::Grant(GrantError::Signing(error)) => Some(error.clone()),
            Self::Exchange(ExchangeError::Store(error)) => Some(error.to_string()),
            Self::Exchange(ExchangeError::Signing(error)) => Some(error.clone()),
            Self::Internal(cause) => Some((*cause).to_owned()),
            _ => None,
        }
    }
}

/// Why what a job wants to ask for would be refused: in OAuth's words where it has one (RFC 6749 §5.2), else in
/// those of the API, which would refuse it (RFC 6749 §8.5 lets there be others).
const fn wanted_word(why: &AccessError) -> &'static str {
    match why {
        AccessError::Denied(_) | AccessError::SignInTooOld(_) | AccessError::SelfApproval => "access_denied",
        AccessError::NoEntitlement(_) | AccessError::NotFound { .. } => "not_found",
        AccessError::TooSoon(_) => "too_soon",
        AccessError::Full { .. } => "full",
        AccessError::Ineligible(_) => "ineligible",
        AccessError::Invalid(_)
        | AccessError::AnsweredAlready
        | AccessError::Closed { .. }
        | AccessError::Granted { .. }
        | AccessError::Changed { .. }
        | AccessError::NotActive { .. }
        | AccessError::Clock(_)
        | AccessError::Store(_) => "invalid_request",
    }
}

impl IntoResponse for OauthFailure {
    fn into_response(self) -> Response {
        let (reason, status) = self.word();
        // A device that waits is not refused, nor who needs a nonce first; a database that is away can't keep the event.
        let waits =
            matches!(self, Self::NonceWanted | Self::Grant(GrantError::AuthorizationPending | GrantError::SlowDown));
        let refused = Refused {
            reason,
            form: Form::Oauth { description: self.description() },
            actor: None,
            recorded: !waits && !status.is_server_error(),
            cause: self.cause(),
        };
        let mut response = status.into_response();
        response.extensions_mut().insert(refused);
        response
    }
}
