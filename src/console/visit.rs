//! Who looks at a page: the browser's cookies and the caller that they prove.

use std::sync::Arc;

use axum::extract::FromRequestParts;
use axum::http::header::{AUTHORIZATION, ORIGIN};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderName, Method};
use subtle::ConstantTimeEq;

use crate::control::caller::{Caller, Evidence, Proof, Provenance, Shown, Unproven, prove};
use crate::control::{ConnectionFacts, Desk};
use crate::identity::cookie::{self, CookieValue, Presented};
use crate::model::{DecisionId, SessionKind, Timestamp};

use super::ask::PARAMETER;
use super::form::Fields;
use super::refusal::PageError;

const TOKEN_HEADER: HeaderName = HeaderName::from_static("doorward-token");
const FETCH_SITE_HEADER: HeaderName = HeaderName::from_static("sec-fetch-site");

/// One look at a page, and the one `now` of it.
pub struct Visit {
    /// Over which connection.
    pub connection: Arc<ConnectionFacts>,
    /// The session cookie.
    pub session: Presented,
    /// The cookie of a sign-in under way.
    pub flow: Presented,
    /// The path and query that were asked for.
    pub here: String,
    /// The query's fields.
    pub query: Fields,
    /// When.
    pub now: Timestamp,
    /// The id that the answer has.
    pub decision: DecisionId,
    provenance: Provenance,
    has_token: bool,
}

/// A browser that is signed in.
pub struct Visitor {
    /// Who.
    pub caller: Caller,
    /// What a form of theirs must carry.
    pub form_token: String,
}

impl FromRequestParts<Arc<Desk>> for Visit {
    type Rejection = PageError;

    async fn from_request_parts(parts: &mut Parts, desk: &Arc<Desk>) -> Result<Self, PageError> {
        let connection = parts.extensions.get::<Arc<ConnectionFacts>>().cloned().ok_or(PageError::Internal)?;
        let here = parts.uri.path_and_query().map_or("/", |path| path.as_str()).to_owned();
        Ok(Self {
            connection,
            session: cookie::presented(&parts.headers, cookie::SESSION_COOKIE),
            flow: cookie::presented(&parts.headers, cookie::FLOW_COOKIE),
            here,
            query: Fields::query(parts.uri.query())?,
            now: desk.clock.now(),
            decision: parts.extensions.get::<DecisionId>().copied().ok_or(PageError::Internal)?,
            provenance: provenance(&parts.method, &parts.headers, &desk.settings.origin),
            has_token: parts.headers.contains_key(AUTHORIZATION) || parts.headers.contains_key(TOKEN_HEADER),
        })
    }
}

fn provenance(method: &Method, headers: &HeaderMap, ours: &str) -> Provenance {
    if matches!(*method, Method::GET | Method::HEAD) {
        return Provenance::Safe;
    }
    let mut origins = headers.get_all(ORIGIN).iter();
    let site = headers.get(&FETCH_SITE_HEADER).map(|site| site.as_bytes());
    match (origins.next(), origins.next(), site) {
        (Some(origin), None, None | Some(b"same-origin")) if origin.as_bytes() == ours.as_bytes() => {
            Provenance::OurPage
        }
        (None, None, None | Some(b"same-origin" | b"none")) => Provenance::NoPage,
        _ => Provenance::OtherPage,
    }
}

impl Visit {
    /// The browser's session.
    ///
    /// # Errors
    /// `SignIn` where signing in would help; else why nobody is proven.
    pub async fn visitor(&self, desk: &Desk) -> Result<Visitor, PageError> {
        // Signing in anew does not help against a cookie that is there twice.
        let (cookie, form_token) = match &self.session {
            Presented::Absent => (Shown::Absent, String::new()),
            Presented::One(value) => (Shown::One(value.hash()), value.form_token()),
            Presented::Bad => return Err(Unproven::BadCredential.into()),
        };
        // Pages are for cookies: a token here has lost its way.
        let bearer = if self.has_token { Shown::Bad } else { Shown::Absent };
        let evidence = Evidence { connection: &self.connection, cookie, bearer, provenance: self.provenance };
        let caller = prove(desk, evidence, self.now).await.map_err(|unproven| self.unproven(unproven))?;
        if caller.proof() != Proof::Cookie || caller.session().kind != SessionKind::Browser {
            return Err(PageError::NoBrowser);
        }
        Ok(Visitor { caller, form_token })
    }

    fn unproven(&self, unproven: Unproven) -> PageError {
        let alone = self.connection.lets_sign_in() && !self.has_token;
        let reason = match unproven {
            Unproven::NoCredential => "no_credential",
            Unproven::SessionEnded(_) => "session_ended",
            Unproven::BadCredential if alone => "bad_credential",
            unproven => return unproven.into(),
        };
        PageError::SignIn { return_to: self.here.clone(), reason }
    }

    /// The browser's session, and that this form is one of our own pages'.
    ///
    /// # Errors
    /// As [`Visit::visitor`], but a form is not sent to sign in: browsers let no form of ours lead to a provider
    /// (`form-action`), and what it asked for is not done later by itself. And when its token is not the cookie's.
    pub async fn author(&self, desk: &Desk, form: &Fields) -> Result<Visitor, PageError> {
        let visitor = self.visitor(desk).await.map_err(|error| match error {
            PageError::SignIn { reason, .. } => self.too_late(form, reason),
            error => error,
        })?;
        let token = form.get("form").unwrap_or_default();
        if bool::from(token.as_bytes().ct_eq(visitor.form_token.as_bytes())) {
            Ok(visitor)
        } else {
            Err(PageError::Form(Box::new(visitor.caller.actor())))
        }
    }

    /// That the session of a form is over, with the way back and what was typed.
    fn too_late(&self, form: &Fields, reason: &'static str) -> PageError {
        // Another site's page puts no words of its own on ours.
        if self.provenance == Provenance::OtherPage {
            return PageError::TooLate { return_to: "/".to_owned(), reason, typed: Vec::new() };
        }
        let typed = |(name, value): (&str, &str)| {
            let label = match name {
                "reason" => "What you wrote",
                "ticket" => "Ticket",
                "for" => "How long",
                "user_code" => "The code",
                other => other.strip_prefix(PARAMETER)?,
            };
            (!value.trim().is_empty()).then(|| (label.to_owned(), value.to_owned()))
        };
        PageError::TooLate { return_to: self.page_of(form), reason, typed: form.all().filter_map(typed).collect() }
    }

    /// The page that the form was on.
    fn page_of(&self, form: &Fields) -> String {
        let path = self.here.split('?').next().unwrap_or_default();
        let with = |page: &str, wanted: fn(&str) -> bool| {
            let fields = form.all().filter(|(name, _)| wanted(name));
            let query = form_urlencoded::Serializer::new(String::new()).extend_pairs(fields).finish();
            format!("{page}?{query}")
        };
        match path {
            "/requests" => with("/requests/new", |name| name == "entitlement" || name.starts_with(PARAMETER)),
            "/device" => with(path, |name| name == "user_code"),
            "/signin/program" => with(path, |name| !matches!(name, "form" | "answer")),
            _ if path.starts_with("/grants/") => "/requests".to_owned(),
            _ => match path.strip_prefix("/requests/").and_then(|rest| rest.split('/').next()) {
                Some(id) => format!("/requests/{id}"),
                None => "/".to_owned(),
            },
        }
    }

    /// The browser's flow cookie, if it has just one.
    #[must_use]
    pub const fn binding(&self) -> Option<&CookieValue> {
        match &self.flow {
            Presented::One(value) => Some(value),
            Presented::Absent | Presented::Bad => None,
        }
    }
}
