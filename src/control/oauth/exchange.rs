//! Token exchange (RFC 8693): a session's, or a workload's own token for one of ours that is good at
//! one service.
//!
//! What happens when a pipeline exchanges its token: 1. its `iss` chooses the issuer of
//! `workloads.toml`, whose keys verify it (`identity/workload.rs`); 2. the first rule that holds names
//! it, and where none does, the record gets every claim that was wanted and what came instead; 3. one
//! transaction uses the token up, starts a session that ends with the new token, and writes who got
//! what; 4. the token is signed. One that has to ask for something first takes a token for the control
//! API instead, asks with it, and once it is granted exchanges that for one of the service that ends with
//! the grant (`cli/job.rs`). What it says of that beforehand is judged before its token is used up (`wanted.rs`).
//!
//! INVARIANTS: a token is for one service, and a scope can only narrow; it lasts a quarter of an
//! hour at most, no longer than its session, and no longer than the grant that it is asked for under;
//! a job may also have one for the control API, to ask for what it needs; of a session that has a certificate it is bound to
//! that, and to a DPoP key where a proof came along; a foreign token is exchanged once, whoever
//! brings it.

use std::collections::BTreeMap;
use std::fmt;

use serde_json::json;

use crate::credential::authority::Issued;
use crate::identity::certificate::Issuer;
use crate::identity::dpop::Proof;
use crate::identity::token as reader;
use crate::model::{ClockDoubt, DecisionId, GrantId, Principal, ServiceName, SessionKind, Timestamp, Ttl};
use crate::store::{StoreError, StoredSession, Tx, Use};

use super::super::access::AccessError;
use super::super::caller::{ConnectionFacts, actor_of, prove_token};
use super::super::credential::token_issued;
use super::super::desk::Desk;
use super::super::session::{self, NewSession, StartError, Started};
use super::delegate;
use super::foreign::{Asked, Foreign, foreign, refused, told_claims};
use super::target::{Target, held, lifetime, scope, target};
use super::token::{self, Binding, Minted, Wish};
use super::wanted::{Wanted, can_be_had};

/// A token of ours as the subject (RFC 8693 §3).
pub const TYPE_ACCESS_TOKEN: &str = "urn:ietf:params:oauth:token-type:access_token";
/// A token of somebody else.
pub const TYPE_JWT: &str = "urn:ietf:params:oauth:token-type:jwt";
/// The same, as pipelines call it.
pub const TYPE_ID_TOKEN: &str = "urn:ietf:params:oauth:token-type:id_token";
/// The certificate of the connection, of one of our sessions: `subject_token` is its thumbprint.
pub const TYPE_CERTIFICATE: &str = "urn:doorward:params:oauth:token-type:session-certificate";

/// What a client asks for.
#[derive(Debug, Clone, Default)]
pub struct ExchangeRequest {
    /// The subject's token.
    pub subject_token: String,
    /// What kind it is.
    pub subject_token_type: String,
    /// The token of a workload that acts for the subject, whose own token says that it may.
    pub actor_token: Option<String>,
    /// What kind that one is.
    pub actor_token_type: Option<String>,
    /// The workload that may act by the new token.
    pub may_act: Option<String>,
    /// What kind is wanted; only access tokens are made.
    pub requested_token_type: Option<String>,
    /// The service's name.
    pub audience: Option<String>,
    /// The service's address, instead of its name (RFC 8707).
    pub resource: Option<String>,
    /// Actions of the service, with blanks between; all where it is not said.
    pub scope: Option<String>,
    /// How many seconds it is to last.
    pub lifetime: Option<String>,
    /// The subject's own grant, which the token is to end with.
    pub grant: Option<String>,
    /// What a job that asks for the control API wants to do there.
    pub wanted: Option<Wanted>,
    /// A signing request, if a certificate is wanted.
    pub csr: Option<Vec<u8>>,
    /// A proof of possession that was verified for this request.
    pub proof: Option<Proof>,
    /// The decision that a refusal will name.
    pub decision: Option<DecisionId>,
}

/// What an exchange gives.
pub struct Exchanged {
    /// The session behind it.
    pub stored: StoredSession,
    /// The token.
    pub access: Minted,
    /// The certificate of a workload that sent a signing request.
    pub certificate: Option<Issued>,
    /// Where it is good: a service's name, or our own address.
    pub audience: String,
    /// What it is narrowed to.
    pub scope: Option<String>,
    /// The grant that it ends with.
    pub grant: Option<GrantId>,
}

/// Why nothing was exchanged.
#[derive(Debug)]
pub enum ExchangeError {
    /// Something is missing or malformed.
    Invalid(&'static str),
    /// The subject's token does not hold, is not of this connection, or was used.
    Subject,
    /// A workload's token that its issuer signed and that is over.
    Expired,
    /// A workload's token that is good and was exchanged before.
    Reused,
    /// The session of the certificate that was named is over.
    SessionEnded,
    /// A workload's token that is good and that no rule names; told as far as the caller, who holds
    /// the token, may know.
    NoRule(String),
    /// There is no such service, or the rule doesn't reach it.
    Target,
    /// The service has no such action.
    Scope(String),
    /// What was handed on does not have this action.
    Wider(String),
    /// There is no such grant, or it is somebody else's.
    NoGrant,
    /// The subject's grant has not begun or is over.
    GrantNotActive {
        /// How far it has come.
        state: &'static str,
    },
    /// The subject's grant is of another service.
    GrantElsewhere {
        /// Which.
        service: ServiceName,
    },
    /// What a job wants to ask for would be refused.
    Wanted(Box<AccessError>),
    /// The proof was used before.
    Proof(&'static str),
    /// The principal is barred.
    Locked,
    /// The signing request can't be used.
    Certificate(String),
    /// The token could not be signed.
    Signing(String),
    /// The time of this node can't be believed.
    Clock(ClockDoubt),
    /// The database did not do it.
    Store(StoreError),
}

impl fmt::Display for ExchangeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Invalid(what) => f.write_str(what),
            Self::Subject => f.write_str(
                "`subject_token` is not good here: it does not hold, is bound to another key, or was exchanged before",
            ),
            // These two are told only to whoever holds a token that its issuer signed.
            Self::Expired => f.write_str("the job's token has expired; have its issuer give it a fresh one"),
            Self::Reused => f.write_str(
                "the job's token was exchanged before, and each is good for once; have its issuer give it a fresh one",
            ),
            Self::SessionEnded => f.write_str("the session of this certificate is over; sign in again"),
            Self::NoRule(why) => write!(f, "no rule of `workloads.toml` names this token: {why}"),
            Self::Target => f.write_str("there is no service of that name for this subject; give one `audience`"),
            Self::Scope(name) => write!(f, "the service has no action `{}`", name.escape_debug()),
            Self::Wider(name) => {
                write!(f, "`subject_token` was handed on without the action `{}`", name.escape_debug())
            }
            Self::NoGrant => f.write_str("the subject has no such grant; `doorward grants` lists one's own"),
            Self::GrantNotActive { state } => {
                write!(f, "the grant is not active ({state}), and a token would end with it; ask anew")
            }
            Self::GrantElsewhere { service } => {
                write!(f, "the grant is of `{service}`; a token under it is for that `audience`")
            }
            Self::Wanted(why) => why.fmt(f),
            Self::Proof(what) => f.write_str(what),
            Self::Locked => f.write_str("the principal is locked; ask whoever set the lock"),
            Self::Certificate(what) => f.write_str(what),
            Self::Signing(_) => f.write_str("the token could not be signed"),
            Self::Clock(doubt) => doubt.fmt(f),
            Self::Store(_) => f.write_str("the database is away; try again"),
        }
    }
}

impl std::error::Error for ExchangeError {}

impl From<StoreError> for ExchangeError {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

impl From<StartError> for ExchangeError {
    fn from(error: StartError) -> Self {
        match error {
            StartError::Locked => Self::Locked,
            StartError::Ended => Self::Subject,
            StartError::Certificate(error) => Self::Certificate(error.to_string()),
            StartError::Store(error) => Self::Store(error),
        }
    }
}

impl From<AccessError> for ExchangeError {
    fn from(error: AccessError) -> Self {
        match error {
            AccessError::Store(error) => Self::Store(error),
            AccessError::Clock(doubt) => Self::Clock(doubt),
            why => Self::Wanted(Box::new(why)),
        }
    }
}

impl From<super::GrantError> for ExchangeError {
    fn from(error: super::GrantError) -> Self {
        match error {
            super::GrantError::Signing(why) => Self::Signing(why),
            super::GrantError::Store(error) => Self::Store(error),
            _ => Self::Subject,
        }
    }
}

/// Whose token it is.
pub(super) enum Subject {
    Session(Box<StoredSession>),
    Workload(Box<Foreign>),
}

impl Subject {
    pub(super) const fn principal(&self) -> &Principal {
        match self {
            Self::Session(stored) => &stored.session.principal,
            Self::Workload(foreign) => &foreign.recognised.principal,
        }
    }

    pub(super) const fn claims(&self) -> &BTreeMap<String, String> {
        match self {
            Self::Session(stored) => &stored.session.claims,
            Self::Workload(foreign) => &foreign.recognised.claims,
        }
    }
}

/// Exchanges.
///
/// # Errors
/// What is wrong with the subject or with what is asked for.
pub async fn exchange(
    desk: &Desk,
    request: &ExchangeRequest,
    connection: &ConnectionFacts,
    now: Timestamp,
) -> Result<Exchanged, ExchangeError> {
    desk.clock_guard.check().map_err(ExchangeError::Clock)?;
    let ttl = lifetime(desk, request.lifetime.as_deref())?;
    if request.requested_token_type.as_deref().is_some_and(|kind| kind != TYPE_ACCESS_TOKEN) {
        return Err(ExchangeError::Invalid("only access tokens are made: leave `requested_token_type` out"));
    }
    // RFC 8707 §2: no fragment.
    if request.resource.as_deref().is_some_and(|resource| resource.contains('#')) {
        return Err(ExchangeError::Target);
    }
    let too_long = |token: &String| token.is_empty() || token.len() > reader::TOKEN_BYTES_MAX;
    if request.actor_token.as_ref().is_some_and(too_long)
        || request.actor_token.is_some() != request.actor_token_type.is_some()
    {
        return Err(ExchangeError::Invalid("`actor_token` and `actor_token_type` go together"));
    }
    if request.subject_token.is_empty() || request.subject_token.len() > reader::TOKEN_BYTES_MAX {
        return Err(ExchangeError::Invalid("`subject_token` is needed"));
    }
    if let Some(actor_token) = &request.actor_token {
        return delegate::exchange(desk, request, actor_token, ttl, connection, now).await;
    }
    let subject = match request.subject_token_type.as_str() {
        TYPE_ACCESS_TOKEN => {
            let stored = prove_token(desk, &request.subject_token, connection, now).await?;
            Subject::Session(Box::new(stored.ok_or(ExchangeError::Subject)?))
        }
        TYPE_CERTIFICATE => {
            Subject::Session(Box::new(by_certificate(desk, &request.subject_token, connection, now).await?))
        }
        TYPE_JWT | TYPE_ID_TOKEN => {
            let asked = Asked { connection, decision: request.decision, now };
            Subject::Workload(Box::new(foreign(desk, &request.subject_token, asked).await?))
        }
        _ => {
            return Err(ExchangeError::Invalid(
                "`subject_token_type` must be that of an access token of ours, of a JWT, or of an ID token",
            ));
        }
    };
    let target = target(desk, request, &subject)?;
    let scope = match &target {
        Target::Service(service) => scope(service, request.scope.as_deref())?,
        Target::Control if request.scope.is_some() => {
            return Err(ExchangeError::Invalid("a token for the control API has no `scope`: leave it out"));
        }
        Target::Control if request.proof.is_some() => {
            return Err(ExchangeError::Invalid(
                "the control API takes no tokens that are bound to a key: leave the DPoP proof out",
            ));
        }
        Target::Control => None,
    };
    match (&request.wanted, &subject, &target) {
        (None, ..) => {}
        // ORDER: after its token is verified, and before that is used up.
        (Some(wanted), Subject::Workload(foreign), Target::Control) => {
            can_be_had(desk, wanted, foreign, ttl, connection, now).await?;
        }
        (Some(_), ..) => {
            return Err(ExchangeError::Invalid(
                "`wanted_audience` and what goes with it are for a job that asks for the control API first",
            ));
        }
    }
    let audience = match &target {
        Target::Service(service) => service.name.as_str().to_owned(),
        Target::Control => desk.settings.origin.clone(),
    };
    let grant = match request.grant.as_deref() {
        None => None,
        Some(text) => Some(held(desk, text, &subject, &target, now).await?),
    };
    let ttl = grant.map_or(ttl, |(_, end)| ttl.min(end.since(now)));
    let grant = grant.map(|(id, _)| id);
    let may_act = match (request.may_act.as_deref(), &subject, &target) {
        (None, ..) => None,
        (Some(text), Subject::Session(stored), Target::Service(_)) if scope.is_some() => {
            Some(delegate::nominated(desk, text, &stored.session, now)?)
        }
        (Some(_), ..) => {
            return Err(ExchangeError::Invalid(
                "`may_act` goes with a session's token for one service and with a `scope`: say what is handed on",
            ));
        }
    };
    let wish = Wish { audience: audience.clone(), scope: scope.clone(), ttl, grant, acting: Vec::new(), may_act };
    let (stored, access, certificate) = match subject {
        Subject::Session(stored) => of_session(desk, *stored, request, &wish, connection, now).await?,
        Subject::Workload(foreign) => of_workload(desk, *foreign, request, &wish, connection, now).await?,
    };
    Ok(Exchanged { stored, access, certificate, audience, scope, grant })
}

/// The session of the connection's certificate, whose thumbprint the request repeats: so that a
/// certificate that a program shows by itself is never exchanged by mistake.
pub(super) async fn by_certificate(
    desk: &Desk,
    named: &str,
    connection: &ConnectionFacts,
    now: Timestamp,
) -> Result<StoredSession, ExchangeError> {
    let certificate = connection.certificate.as_ref().filter(|certificate| {
        let is_named = certificate.thumbprint.to_string() == named;
        is_named && certificate.issuer == Issuer::Ours && certificate.is_current(now)
    });
    let id = certificate.and_then(|certificate| certificate.session).ok_or(ExchangeError::Subject)?;
    let stored = desk.store.session_fetch(id).await?.ok_or(ExchangeError::Subject)?;
    let ended_here = desk.directory.session(id).is_some_and(|known| known.session.ended.is_some());
    if ended_here || !stored.session.is_live(now) {
        return Err(ExchangeError::SessionEnded);
    }
    Ok(stored)
}

async fn of_session(
    desk: &Desk,
    stored: StoredSession,
    request: &ExchangeRequest,
    wish: &Wish,
    connection: &ConnectionFacts,
    now: Timestamp,
) -> Result<(StoredSession, Minted, Option<Issued>), ExchangeError> {
    let principal = &stored.session.principal;
    if desk.directory.is_locked(principal) || desk.store.lock_fetch(principal).await?.is_some() {
        return Err(ExchangeError::Locked);
    }
    if request.csr.is_some() {
        return Err(ExchangeError::Invalid(
            "`csr` is for workloads: a session renews its certificate by its refresh token",
        ));
    }
    let shown = connection.certificate.as_ref().filter(|certificate| certificate.session == Some(stored.session.id));
    let certificate = shown.map(|certificate| (certificate.thumbprint, certificate.not_after));
    if stored.session.certificate.is_some() && certificate.is_none() {
        return Err(ExchangeError::Subject);
    }
    let binding = Binding { certificate, key: request.proof.map(|proof| proof.key) };
    let mut tx = desk.store.begin().await?;
    used_now(&mut tx, request).await?;
    // Nobody ends it while its token is being made.
    let stored = tx.session_hold(stored.session.id, now).await?.ok_or(ExchangeError::Subject)?;
    let access = token::mint_for(desk, &stored, wish, binding, now)?;
    tx.event_append(&token::exchanged_event(desk, &stored.session, connection, &access, wish, now)).await?;
    token_issued(desk, &mut tx, stored.session.id, &access, wish, now).await?;
    tx.commit().await?;
    Ok((stored, access, None))
}

async fn of_workload(
    desk: &Desk,
    foreign: Foreign,
    request: &ExchangeRequest,
    wish: &Wish,
    connection: &ConnectionFacts,
    now: Timestamp,
) -> Result<(StoredSession, Minted, Option<Issued>), ExchangeError> {
    let rule = foreign.recognised.rule.clone();
    let tx = desk.store.begin().await?;
    let mut tx = used_foreign(desk, tx, &foreign, Asked { connection, decision: request.decision, now }).await?;
    let new = new_session(&foreign, wish.ttl, now);
    used_now(&mut tx, request).await?;
    let started: Started = session::start_within(desk, &mut tx, new, request.csr.as_deref(), connection, now).await?;
    let issued = started.certificate.clone();
    let binding = Binding {
        certificate: issued.as_ref().map(|issued| (issued.thumbprint, issued.not_after)),
        key: request.proof.map(|proof| proof.key),
    };
    let access = token::mint_for(desk, &started.stored, wish, binding, now)?;
    let mut event = token::exchanged_event(desk, &started.stored.session, connection, &access, wish, now);
    event = event.with("rule", rule).with("claims", json!(told_claims(&started.stored.session.claims)));
    event.actor = actor_of(&started.stored.session, connection);
    tx.event_append(&event).await?;
    token_issued(desk, &mut tx, started.stored.session.id, &access, wish, now).await?;
    tx.commit().await?;
    session::enter(desk, &started);
    Ok((started.stored, access, issued))
}

/// The session of a job that ends with its token.
pub(super) fn new_session(foreign: &Foreign, ttl: Ttl, now: Timestamp) -> NewSession {
    let Foreign { recognised, authenticated_at, .. } = foreign;
    NewSession {
        kind: SessionKind::Workload,
        principal: recognised.principal.clone(),
        email: None,
        email_verified: false,
        name: Some(recognised.rule.clone()),
        groups: recognised.groups.clone(),
        authenticated_at: *authenticated_at,
        amr: Vec::new(),
        device: None,
        link: None,
        ends_by: Some(Timestamp::from_seconds(now.plus(ttl).seconds())),
        claims: recognised.claims.clone(),
        cookie: None,
    }
}

/// Uses a job's token up within `tx`, and gives that back. Where it was used before, that is on record, and
/// nothing of the transaction is kept.
pub(super) async fn used_foreign(
    desk: &Desk,
    mut tx: Tx,
    foreign: &Foreign,
    asked: Asked<'_>,
) -> Result<Tx, ExchangeError> {
    if tx.use_once(&foreign.once, foreign.remember_until).await? == Use::First {
        return Ok(tx);
    }
    drop(tx);
    refused(desk, asked, None, "token_reused", json!({ "rule": foreign.recognised.rule })).await;
    Err(ExchangeError::Reused)
}

/// A proof that came along is used up.
pub(super) async fn used_now(tx: &mut Tx, request: &ExchangeRequest) -> Result<(), ExchangeError> {
    if let Some(proof) = &request.proof
        && tx.use_once(&proof.once, proof.remember_until).await? == Use::Again
    {
        return Err(ExchangeError::Proof("the DPoP proof was used before"));
    }
    Ok(())
}
