//! Every way in which a request is refused, and the one translation of each to HTTP.
//!
//! The words are the contract's: problem+json (RFC 9457) with `reason` and `remedy`; 401 carries
//! `WWW-Authenticate` (RFC 6750 §3, RFC 9728 §5.1), 429 carries `Retry-After` and the RateLimit
//! fields. What the caller may not know looks like what does not exist.

use std::sync::Arc;

use http::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE, RETRY_AFTER, STRICT_TRANSPORT_SECURITY, WWW_AUTHENTICATE};
use http::{HeaderName, HeaderValue, Response, StatusCode};
use serde_json::{Value, json};

use crate::identity::dpop;
use crate::model::{DecisionId, GrantId};
use crate::policy::DenyReason;

use super::body::Body;
use super::canonical::Ambiguity;
use super::refusal_page::{Help, refusal_page};
use super::remedy::{Offer, while_held};

/// What our own answers say of plain HTTP: there is none here to go back to (RFC 6797 §7.1). What an upstream says of
/// it is the upstream's.
pub const STRICT_TRANSPORT: HeaderValue = HeaderValue::from_static("max-age=31536000");
/// Our answer's own name for the decision.
pub const DECISION_HEADER: HeaderName = HeaderName::from_static("doorward-decision");

/// Why a request is not passed on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refusal {
    /// It can be read in two ways.
    Ambiguous(Ambiguity),
    /// SNI and Host name different services (RFC 9110 §15.5.20).
    Misdirected,
    /// Nobody is named.
    NoCredential,
    /// A credential is present and does not hold, or two disagree. The text is for the record only.
    BadCredential(&'static str),
    /// The way back from signing in is used, too old or another browser's. The text is for the record only.
    SignInOver(&'static str),
    /// A token's key did not prove itself with this request (RFC 9449). The text is for the record.
    BadProof(&'static str),
    /// A proof that is good but for its nonce (RFC 9449 §9): one comes with the answer.
    NonceWanted,
    /// The grant that the token was made under is over, or can't be found.
    GrantOver(GrantId),
    /// The session has ended.
    SessionEnded,
    /// The opening of the emergency path was closed or has run out.
    OpeningOver,
    /// The opening of the emergency path is not for this service.
    OpeningElsewhere,
    /// An opening with too few signatures while an earlier one waits for its review.
    OpeningShort,
    /// The principal is barred.
    Locked,
    /// The device is not one that the policy trusts.
    DeviceUntrusted,
    /// The sign-in is too long ago for this; after a new one it would be permitted. Why it is not now.
    SignInTooOld(DenyReason),
    /// The service has no such route.
    NoRoute,
    /// No policy permits it. Holding one of these entitlements, which may be asked for, would.
    NoPolicyMatch { remedies: Vec<Offer> },
    /// A policy forbids it. It does not forbid it to who holds one of these, which may be asked for.
    Forbidden { remedies: Vec<Offer> },
    /// It comes from another site's page on the strength of a cookie or certificate alone.
    CrossSite,
    /// The token's scope does not have the action.
    ScopeInsufficient { action: Arc<str> },
    /// Too much too fast.
    RateLimited { retry_after_seconds: u64, quota: u32, window_seconds: u64 },
    /// Revocations have not been confirmed for too long.
    Stale,
    /// The node started without its database and serves the emergency path only.
    Emergency,
    /// The decision could not be recorded.
    AuditUnavailable,
    /// The database could not say in time whether what was shown holds.
    Unsettled,
    /// Its head has more fields than are read.
    FieldsTooMany,
    /// The upstream gave no answer.
    Upstream(UpstreamFault),
    /// The request's head is longer than this door takes.
    HeadTooLarge,
    /// The request's body is longer than the service takes.
    BodyTooLarge,
    /// The request's body broke off or could not be read.
    BodyBroken,
    /// The request's body stood still for too long.
    BodySlow,
    /// Something of ours went wrong.
    Internal,
}

/// What was wrong with the upstream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UpstreamFault {
    /// No connection could be had.
    Unreachable,
    /// Each connection that may be open is in use, or being opened.
    Busy,
    /// No answer began in time.
    Slow,
    /// What it answered is not HTTP that can be passed on.
    Broken,
    /// It says that it did nothing of the request.
    Refused,
    /// Another protocol is asked for, and it speaks HTTP/2 only: its name says so, or it does in TLS.
    NoUpgrade,
}

impl UpstreamFault {
    /// In one word, for the record.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Unreachable => "unreachable",
            Self::Busy => "busy",
            Self::Slow => "slow",
            Self::Broken => "broken",
            Self::Refused => "refused",
            Self::NoUpgrade => "no_upgrade",
        }
    }
}

impl Refusal {
    /// The contract's reason.
    #[must_use]
    pub const fn reason(&self) -> &'static str {
        match self {
            Self::Ambiguous(_)
            | Self::Misdirected
            | Self::FieldsTooMany
            | Self::HeadTooLarge
            | Self::BodyTooLarge
            | Self::BodyBroken
            | Self::BodySlow => "ambiguous_request",
            Self::NoCredential => "no_credential",
            Self::BadCredential(_)
            | Self::SignInOver(_)
            | Self::BadProof(_)
            | Self::NonceWanted
            | Self::GrantOver(_)
            | Self::OpeningElsewhere
            | Self::OpeningShort => "bad_credential",
            Self::SessionEnded | Self::OpeningOver => "session_ended",
            Self::Locked => "locked",
            Self::DeviceUntrusted => "device_untrusted",
            Self::NoRoute => "no_route",
            Self::SignInTooOld(reason) => reason.name(),
            Self::NoPolicyMatch { .. } => "no_policy_match",
            Self::Forbidden { .. } | Self::CrossSite => "forbidden_by_policy",
            Self::ScopeInsufficient { .. } => "scope_insufficient",
            Self::RateLimited { .. } => "rate_limited",
            Self::Stale | Self::Emergency => "stale",
            Self::AuditUnavailable | Self::Unsettled | Self::Internal => "audit_unavailable",
            Self::Upstream(_) => "upstream_unavailable",
        }
    }

    /// The HTTP status.
    #[must_use]
    pub fn status(&self) -> StatusCode {
        match self {
            Self::Ambiguous(ambiguity) => StatusCode::from_u16(ambiguity.status()).unwrap_or(StatusCode::BAD_REQUEST),
            Self::Misdirected => StatusCode::MISDIRECTED_REQUEST,
            Self::NoCredential
            | Self::BadCredential(_)
            | Self::SignInOver(_)
            | Self::BadProof(_)
            | Self::NonceWanted
            | Self::GrantOver(_)
            | Self::SessionEnded
            | Self::OpeningOver
            | Self::OpeningElsewhere
            | Self::OpeningShort => StatusCode::UNAUTHORIZED,
            Self::Locked
            | Self::DeviceUntrusted
            | Self::SignInTooOld(_)
            | Self::NoPolicyMatch { .. }
            | Self::Forbidden { .. }
            | Self::CrossSite
            | Self::ScopeInsufficient { .. } => StatusCode::FORBIDDEN,
            Self::NoRoute => StatusCode::NOT_FOUND,
            Self::RateLimited { .. } => StatusCode::TOO_MANY_REQUESTS,
            Self::Stale
            | Self::Emergency
            | Self::AuditUnavailable
            | Self::Unsettled
            | Self::Upstream(UpstreamFault::Busy | UpstreamFault::Refused) => StatusCode::SERVICE_UNAVAILABLE,
            Self::Upstream(UpstreamFault::Slow) => StatusCode::GATEWAY_TIMEOUT,
            Self::Upstream(UpstreamFault::Unreachable | UpstreamFault::Broken) => StatusCode::BAD_GATEWAY,
            Self::Upstream(UpstreamFault::NoUpgrade) => StatusCode::NOT_IMPLEMENTED,
            Self::FieldsTooMany | Self::HeadTooLarge => StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
            Self::BodyTooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Self::BodyBroken => StatusCode::BAD_REQUEST,
            Self::BodySlow => StatusCode::REQUEST_TIMEOUT,
            Self::Internal => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }

    const fn title(&self) -> &'static str {
        match self {
            Self::Ambiguous(_) => "The request can be read in more than one way",
            Self::Misdirected => "This connection was made for another service",
            Self::NoCredential => "You are not signed in",
            Self::BadCredential(_) => "The credential is not valid here",
            Self::SignInOver(_) => "This sign-in is over",
            Self::BadProof(_) => "The token's key did not prove itself",
            Self::NonceWanted => "The proof needs a nonce",
            Self::GrantOver(_) => "The grant of this token is over",
            Self::SessionEnded => "Your session has ended",
            Self::OpeningOver => "The opening is over",
            Self::OpeningElsewhere => "The opening is not for this service",
            Self::OpeningShort => "The opening needs one custodian more",
            Self::Locked => "You are locked out",
            Self::DeviceUntrusted => "This device is not trusted",
            Self::SignInTooOld(_) => "Your sign-in is too long ago for this",
            Self::NoRoute => "There is nothing here",
            Self::NoPolicyMatch { .. } => "You don't have access to this",
            Self::Forbidden { .. } => "A policy forbids this",
            Self::CrossSite => "Another site's page may not do this for you",
            Self::ScopeInsufficient { .. } => "The token's scope is too narrow",
            Self::RateLimited { .. } => "Too many requests",
            Self::Stale => "Revocations can't be confirmed",
            Self::Emergency => "The database is away: only break-glass is served",
            Self::AuditUnavailable => "The decision can't be recorded",
            Self::Unsettled => "What was shown can't be looked up",
            Self::FieldsTooMany => "The request has too many header fields",
            Self::Upstream(UpstreamFault::Busy | UpstreamFault::Refused) => "The service behind the door is busy",
            Self::Upstream(UpstreamFault::NoUpgrade) => "The service behind the door changes to no other protocol",
            Self::Upstream(_) => "The service behind the door does not answer",
            Self::HeadTooLarge => "The header section is too large",
            Self::BodyTooLarge => "The body is too large",
            Self::BodyBroken => "The body can't be read",
            Self::BodySlow => "The body does not come",
            Self::Internal => "Something went wrong on our side",
        }
    }

    fn detail(&self) -> String {
        match self {
            // There is no plainer form of a method.
            Self::Ambiguous(Ambiguity::MethodRefused) => format!("{}.", Ambiguity::MethodRefused.what()),
            Self::Ambiguous(ambiguity) => format!("{}. Send it in its plain form.", ambiguity.what()),
            Self::Misdirected => {
                "The host of the request is not the name that the connection was made for. Open a new connection to the host.".to_owned()
            }
            Self::NoCredential => "No client certificate, token or cookie names who is asking. Sign in with `doorward login`.".to_owned(),
            Self::BadCredential(_) => "What was shown does not prove one principal and one session at this service. Sign in again with `doorward login`.".to_owned(),
            Self::SignInOver(_) => "The way back from signing in is good once, for a minute, in the browser that asked for it. Open the page that you wanted again.".to_owned(),
            Self::NonceWanted => "The `DPoP` proof has no `nonce` of this door, or an old one. Make it again with the one in `DPoP-Nonce`.".to_owned(),
            Self::BadProof(_) => "The token is bound to a key. Send it as `Authorization: DPoP` with a fresh `DPoP` proof of that key, made for this request.".to_owned(),
            Self::GrantOver(id) => format!("The token was made under the grant {id} and has ended with it. Ask anew with `doorward request`, then get another with `doorward token`."),
            Self::SessionEnded => "The session was signed out, revoked or has run out. Sign in again with `doorward login`.".to_owned(),
            Self::OpeningOver => "The opening of the emergency path was closed or has run out. Where the emergency goes on, another is made with `doorward breakglass open`.".to_owned(),
            Self::OpeningElsewhere => "This opening of the emergency path does not cover the service. What custodians signed can't be widened: where it is needed, another opening that names this service is made with `doorward breakglass open`.".to_owned(),
            Self::OpeningShort => "An earlier opening of the emergency path waits for its review, and until then one custodian more must sign: add a signature with `doorward breakglass open --resume`, or have two people review the earlier one.".to_owned(),
            Self::Locked => "An administrator has barred this account. Ask your security team.".to_owned(),
            Self::DeviceUntrusted => "The policy of this service asks for a trusted device. Sign in from one.".to_owned(),
            Self::SignInTooOld(_) => "The policy of this service asks for a sign-in of lately. Sign in again with `doorward login`.".to_owned(),
            Self::NoRoute => "No route of this service matches the method and path.".to_owned(),
            Self::NoPolicyMatch { remedies } if remedies.is_empty() => {
                "No policy permits this, and there is nothing that you could ask for to change it. Ask the owner of the service.".to_owned()
            }
            Self::Forbidden { remedies } if remedies.is_empty() => {
                "A policy forbids this whatever else is permitted. `doorward why` names it.".to_owned()
            }
            Self::NoPolicyMatch { remedies } => format!("No policy permits this now. {}", while_held(remedies)),
            Self::Forbidden { remedies } => format!("A policy forbids this now. {}", while_held(remedies)),
            Self::CrossSite => "The request comes from a page of another origin and carries nothing but a cookie or certificate. The service can list the origin.".to_owned(),
            Self::ScopeInsufficient { action } => format!("The token is not good for the action `{action}`. Ask for a token with it in its scope."),
            Self::RateLimited { retry_after_seconds, .. } => format!("Wait {retry_after_seconds} s and go on more slowly."),
            Self::Stale => "This node has not been able to confirm revocations lately and lets nobody through until it can. Try again soon.".to_owned(),
            Self::Emergency => "This node started without its database and knows neither sessions nor revocations. It serves everybody again once the database is back; what can't wait goes by `doorward breakglass open`.".to_owned(),
            Self::AuditUnavailable => "Nothing is let through unrecorded, and the record can't be written at the moment. Try again soon.".to_owned(),
            Self::Unsettled => "Whether what was shown holds can't be looked up in the database at the moment. Try again soon; where a `DPoP` proof was sent, with a fresh one.".to_owned(),
            Self::FieldsTooMany => "The request's head has more fields than this door reads. Send fewer; each cookie that is sent by itself is one.".to_owned(),
            Self::Upstream(UpstreamFault::Unreachable) => "No upstream of the service could be reached. Try again soon, or tell its owner.".to_owned(),
            Self::Upstream(UpstreamFault::Busy) => "Each connection to the service's upstreams that may be open is in use, or being opened. Try again soon; its owner can allow more with `connections_per_upstream` under `[limits]` of its service.toml.".to_owned(),
            Self::Upstream(UpstreamFault::Slow) => "The upstream did not begin its answer in time. Whether it did what was asked is not known.".to_owned(),
            Self::Upstream(UpstreamFault::Broken) => "The upstream's answer could not be passed on. Whether it did what was asked is not known.".to_owned(),
            Self::Upstream(UpstreamFault::Refused) => "The upstream takes no more requests on its connection and says that it has not begun with this one. Nothing was done; try again.".to_owned(),
            Self::Upstream(UpstreamFault::NoUpgrade) => "The service's upstreams speak HTTP/2 only, as its service.toml has it (`h2://` or `h2c://`) or they say themselves in TLS (ALPN). There nothing can be upgraded, a WebSocket neither; nothing was sent to them. Where they speak HTTP/1.1 too, its owner can name them with `https://` or `http://`; over TLS they must agree to `http/1.1`.".to_owned(),
            Self::HeadTooLarge => "Target and header fields are together longer than this door takes. Send fewer or shorter ones.".to_owned(),
            Self::BodyTooLarge => "The request's body is longer than this service takes.".to_owned(),
            Self::BodyBroken => "The request's body broke off or is not framed as it must be. Whether the upstream did something is not known.".to_owned(),
            Self::BodySlow => "The request's body stood still for too long. Whether the upstream did something is not known.".to_owned(),
            Self::Internal => "The request was not passed on. The decision's id helps us find out why.".to_owned(),
        }
    }

    /// What was wrong with an exchange that had been let through, in one word for the record.
    #[must_use]
    pub const fn fault(&self) -> Option<&'static str> {
        match self {
            Self::Upstream(fault) => Some(fault.name()),
            Self::BodyTooLarge => Some("body_too_large"),
            Self::BodyBroken => Some("body_broken"),
            Self::BodySlow => Some("body_slow"),
            _ => None,
        }
    }

    /// What the record keeps beyond the reason.
    #[must_use]
    pub const fn note(&self) -> Option<&'static str> {
        match self {
            Self::BadCredential(note) | Self::SignInOver(note) | Self::BadProof(note) => Some(note),
            Self::NonceWanted => Some(dpop::NONCE_WANTED.0),
            Self::Ambiguous(ambiguity) => Some(ambiguity.what()),
            Self::GrantOver(_) => Some("a token whose grant is over"),
            Self::OpeningElsewhere => Some("the opening is not for this service"),
            Self::OpeningShort => Some("an earlier opening waits for its review: one more custodian must sign"),
            Self::CrossSite => Some("cross-site request with ambient credentials"),
            Self::Misdirected => Some("SNI and Host differ"),
            Self::Unsettled => Some("what was shown could not be looked up in time"),
            Self::FieldsTooMany => Some("the head has too many fields"),
            Self::HeadTooLarge => Some("the header section is too large"),
            _ => None,
        }
    }
}

/// How the refusal is to be written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// problem+json, for programs.
    Problem,
    /// A page, for a person's browser.
    Page,
}

impl Refusal {
    /// The refusal as problem+json.
    #[must_use]
    pub fn problem(&self, decision: DecisionId) -> Value {
        json!({
            "type": format!("urn:doorward:problem:{}", self.reason()),
            "title": self.title(),
            "status": self.status().as_u16(),
            "detail": self.detail(),
            "decision": decision.to_string(),
            "reason": self.reason(),
            "remedy": self.remedy().to_json(),
        })
    }

    /// The whole answer. `resource_metadata` is where RFC 9728 metadata of the service is, `origin` the
    /// control host's, where access can be asked for.
    #[must_use]
    pub fn response(&self, decision: DecisionId, form: Form, resource_metadata: &str, origin: &str) -> Response<Body> {
        self.response_with(decision, form, resource_metadata, origin, None)
    }

    /// The same; `sign_in` is where the browser that gets the page signs in, should that help it.
    #[must_use]
    pub fn response_with(
        &self,
        decision: DecisionId,
        form: Form,
        resource_metadata: &str,
        origin: &str,
        sign_in: Option<&str>,
    ) -> Response<Body> {
        let (content_type, bytes) = match form {
            Form::Problem => ("application/problem+json", format!("{}\n", self.problem(decision))),
            Form::Page => {
                let remedy = self.remedy();
                let (command, asks) = (remedy.command(), remedy.pages(origin));
                // A browser that comes from signing in, or may go there, wants its page and no command line: that
                // has a session of its own.
                let help = match (self, sign_in) {
                    (Self::SignInOver(_), _) => Help { again: Some("/"), ..Help::default() },
                    (_, Some(_)) => Help { sign_in, ..Help::default() },
                    (_, None) => Help { command: command.as_deref(), asks: &asks, ..Help::default() },
                };
                let mut detail = self.detail();
                if sign_in.is_some() {
                    detail = detail.replace(" with `doorward login`", "");
                }
                let page = refusal_page(self.title(), &detail, self.reason(), help, &decision.to_string());
                ("text/html; charset=utf-8", page)
            }
        };
        let mut response = Response::new(Body::full(bytes));
        *response.status_mut() = self.status();
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        headers.insert(STRICT_TRANSPORT_SECURITY, STRICT_TRANSPORT);
        if form == Form::Page {
            const POLICY: &str =
                "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'; base-uri 'none'";
            headers.insert(http::header::CONTENT_SECURITY_POLICY, HeaderValue::from_static(POLICY));
            headers.insert(http::header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
        }
        if let Ok(value) = HeaderValue::from_str(&decision.to_string()) {
            headers.insert(DECISION_HEADER, value);
        }
        let challenge = match self {
            Self::NoCredential => Some(format!("Bearer resource_metadata=\"{resource_metadata}\"")),
            Self::BadCredential(_)
            | Self::SignInOver(_)
            | Self::GrantOver(_)
            | Self::SessionEnded
            | Self::OpeningOver
            | Self::OpeningElsewhere
            | Self::OpeningShort => {
                Some(format!("Bearer error=\"invalid_token\", resource_metadata=\"{resource_metadata}\""))
            }
            Self::BadProof(_) => {
                let algorithms = dpop::ALGORITHMS.join(" ");
                let error = "error=\"invalid_dpop_proof\"";
                Some(format!("DPoP {error}, algs=\"{algorithms}\", resource_metadata=\"{resource_metadata}\""))
            }
            Self::NonceWanted => {
                let algorithms = dpop::ALGORITHMS.join(" ");
                let error = "error=\"use_dpop_nonce\"";
                Some(format!("DPoP {error}, algs=\"{algorithms}\", resource_metadata=\"{resource_metadata}\""))
            }
            Self::ScopeInsufficient { action } => {
                let error = format!("error=\"insufficient_scope\", scope=\"{action}\"");
                Some(format!("Bearer {error}, resource_metadata=\"{resource_metadata}\""))
            }
            _ => None,
        };
        if let Some(value) = challenge.and_then(|text| HeaderValue::from_str(&text).ok()) {
            headers.insert(WWW_AUTHENTICATE, value);
        }
        match self {
            Self::RateLimited { retry_after_seconds, quota, window_seconds } => {
                headers.insert(RETRY_AFTER, HeaderValue::from(*retry_after_seconds));
                let texts = [
                    ("ratelimit-policy", format!("\"default\";q={quota};w={window_seconds}")),
                    ("ratelimit", format!("\"default\";r=0;t={retry_after_seconds}")),
                ];
                for (name, text) in texts {
                    if let Ok(value) = HeaderValue::from_str(&text) {
                        headers.insert(HeaderName::from_static(name), value);
                    }
                }
            }
            Self::Stale
            | Self::Emergency
            | Self::AuditUnavailable
            | Self::Unsettled
            | Self::Upstream(UpstreamFault::Busy | UpstreamFault::Refused) => {
                headers.insert(RETRY_AFTER, HeaderValue::from_static("2"));
            }
            Self::Ambiguous(ambiguity) if ambiguity.status() == 405 => {
                headers.insert(ALLOW, HeaderValue::from_static("GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS"));
            }
            _ => {}
        }
        response
    }
}
