//! Signing a browser in at a provider.
//!
//! 1. [`begin`] writes a row that is good once and for ten minutes: which provider, which browser
//!    (by the hash of a cookie), and, sealed, what the answer must match. The browser goes to the
//!    provider. 2. The provider sends it back with a code; [`complete`] takes the row out, so that no
//!    answer is good twice. 3. The provider turns the code into a person. 4. Link, session, cookie
//!    and event commit together. INVARIANTS: an answer counts only in the browser that began (login
//!    CSRF, ATTACKS A40, A42); the cookie's value is new, whatever the browser had before; a browser
//!    that signs in anew leaves its former session ended.

use std::collections::BTreeMap;
use std::fmt;

use crate::audit::{Actor, Event, EventType, Outcome};
use crate::credential::seal::SealError;
use crate::identity::cookie::CookieValue;
use crate::identity::directory::CookieHash;
use crate::identity::provider::{FlowSecrets, Identity, ProviderError};
use crate::model::{DecisionId, EventId, FlowId, Principal, Secret, Session, SessionEnd, SessionKind, Timestamp, Ttl};
use crate::store::{ProviderLink, SignInFlow, StoreError};

use super::caller::{ConnectionFacts, actor_of};
use super::desk::{Desk, hash_of};
use super::refused::put_on_record;
use super::return_to::ReturnTo;
use super::session::{self, NewSession, StartError, Started};

/// How long a person may take at the provider.
pub const FLOW_TTL: Ttl = Ttl::minutes(10);
/// What nonce and verifier are sealed for.
const FLOW_PURPOSE: &str = "sign_in_flow";
/// What a provider's refresh token is sealed for.
pub(super) const REFRESH_PURPOSE: &str = "provider_refresh_token";
/// The longest code that a provider may send, in bytes.
const CODE_BYTES_MAX: usize = 4096;
/// The longest `login_hint` that is passed on, in bytes.
const HINT_BYTES_MAX: usize = 256;
/// What is kept of a provider's error code, in characters.
const ERROR_CHARACTERS_MAX: usize = 64;
/// How far behind ours the clock of a provider may be that was asked for a new proof.
const AUTH_TIME_LEEWAY: Ttl = Ttl::minutes(1);

/// A sign-in that began: where the browser goes, and the cookie that it takes along.
#[derive(Debug)]
pub struct Begun {
    /// The provider's address for it.
    pub location: String,
    /// What binds the answer to this browser.
    pub binding: CookieValue,
}

/// What came back with the browser.
#[derive(Debug, Default)]
pub struct Callback {
    /// `state`
    pub state: String,
    /// `code`, where the provider agreed.
    pub code: Option<String>,
    /// `iss` (RFC 9207).
    pub iss: Option<String>,
    /// `error`, where it did not.
    pub error: Option<String>,
}

/// The browser that came back.
#[derive(Debug, Clone, Copy)]
pub struct Browser<'a> {
    /// Its flow cookie, if it has just one.
    pub binding: Option<&'a CookieValue>,
    /// The cookie of the session that it has until now.
    pub former: Option<&'a CookieHash>,
    /// Over which connection.
    pub connection: &'a ConnectionFacts,
}

/// A sign-in that is done.
#[derive(Debug)]
pub struct SignedIn {
    /// The session.
    pub session: Session,
    /// Its cookie at the control host.
    pub cookie: CookieValue,
    /// Where the browser wanted to go.
    pub return_to: ReturnTo,
}

/// Why a sign-in did not begin or end well.
#[derive(Debug)]
pub enum SignInError {
    /// No provider is configured.
    NoProvider,
    /// There is no provider of that name.
    UnknownProvider,
    /// The answer belongs to no sign-in of this browser, or to one that is over.
    NotBegun,
    /// The provider or the person said no, with this error code.
    Declined { error: String },
    /// The answer has neither code nor error, or one that is too long.
    Malformed,
    /// The provider vouches by a proof that is older than was asked for.
    ProofTooOld,
    /// The provider did not vouch for anybody.
    Provider(ProviderError),
    /// No session was started.
    Start(StartError),
    /// Something could not be sealed or opened.
    Seal(SealError),
    /// The database did not do it.
    Store(StoreError),
}

impl fmt::Display for SignInError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoProvider => f.write_str("no identity provider is configured; add an `[[identity.provider]]`"),
            Self::UnknownProvider => f.write_str("there is no identity provider of that name"),
            Self::NotBegun => f.write_str(
                "this sign-in was not begun in this browser, took longer than ten minutes, or is done already; begin again",
            ),
            Self::Declined { error } => write!(f, "the identity provider did not sign you in: `{error}`"),
            Self::Malformed => f.write_str("the identity provider's answer has no code that can be used"),
            Self::ProofTooOld => f.write_str(
                "the identity provider did not ask you anew, and when it last did is too long ago for this; sign out \
                 there, then sign in here again",
            ),
            Self::Provider(error) => error.fmt(f),
            Self::Start(error) => error.fmt(f),
            Self::Seal(error) => error.fmt(f),
            Self::Store(error) => write!(f, "the sign-in could not be stored: {error}"),
        }
    }
}

impl std::error::Error for SignInError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Provider(error) => Some(error),
            Self::Start(error) => Some(error),
            Self::Seal(error) => Some(error),
            Self::Store(error) => Some(error),
            Self::NoProvider
            | Self::UnknownProvider
            | Self::NotBegun
            | Self::Declined { .. }
            | Self::Malformed
            | Self::ProofTooOld => None,
        }
    }
}

impl From<StoreError> for SignInError {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

impl From<SealError> for SignInError {
    fn from(error: SealError) -> Self {
        Self::Seal(error)
    }
}

impl SignInError {
    /// One word for the record and the page.
    #[must_use]
    pub const fn reason(&self) -> &'static str {
        match self {
            Self::NoProvider | Self::UnknownProvider => "no_provider",
            Self::NotBegun => "flow_unknown",
            Self::Declined { .. } => "provider_declined",
            Self::Malformed => "answer_malformed",
            Self::ProofTooOld => "proof_too_old",
            Self::Provider(ProviderError::Unreachable { .. } | ProviderError::AskedJustNow { .. }) => {
                "provider_unreachable"
            }
            Self::Provider(ProviderError::Metadata { .. }) => "provider_metadata",
            Self::Provider(ProviderError::Refused { .. }) => "provider_refused",
            Self::Provider(ProviderError::Token { .. }) => "provider_token",
            Self::Provider(ProviderError::MixUp { .. }) => "provider_mix_up",
            Self::Start(StartError::Locked) => "locked",
            Self::Start(StartError::Ended) => "session_ended",
            Self::Start(StartError::Certificate(_)) => "certificate",
            Self::Start(StartError::Store(_)) | Self::Store(_) => "unavailable",
            Self::Seal(_) => "sealed",
        }
    }
}

/// Begins a sign-in. `binding` is the browser's flow cookie, if it has one already: another tab
/// that is on its way stays good. A proof to the provider that is older than `max_age` is not good
/// enough where that is less than a session may become.
///
/// # Errors
/// When there is no such provider, it can't be asked for its description, or the database refused.
pub async fn begin(
    desk: &Desk,
    provider: &str,
    return_to: &ReturnTo,
    login_hint: Option<&str>,
    max_age: Option<Ttl>,
    binding: Option<CookieValue>,
    now: Timestamp,
) -> Result<Begun, SignInError> {
    let provider = desk.providers.get(provider).ok_or(SignInError::UnknownProvider)?;
    let text = || Secret::new(desk.token().expose().to_owned());
    let secrets = FlowSecrets { state: text(), nonce: text(), verifier: text() };
    let hint = login_hint.filter(|hint| hint.len() <= HINT_BYTES_MAX && !hint.chars().any(char::is_control));
    let max_age = max_age.map_or(desk.settings.lifetime, |asked| asked.min(desk.settings.lifetime));
    let location = provider.authorize_url(&secrets, hint, max_age, now).await.map_err(SignInError::Provider)?;
    let binding = binding.unwrap_or_else(|| CookieValue::fresh(&*desk.entropy));
    let id = FlowId::fresh(now, &*desk.entropy);
    let (nonce, verifier) = (secrets.nonce.expose(), secrets.verifier.expose());
    let kept = Secret::new(format!("{nonce}.{verifier}.{}", max_age.as_seconds()));
    let flow = SignInFlow {
        id,
        state_hash: hash_of(secrets.state.expose()),
        binding_hash: binding.hash(),
        provider: provider.name().to_string(),
        sealed: desk.sealer.seal(FLOW_PURPOSE, id.bytes(), kept.expose().as_bytes(), &*desk.entropy)?,
        return_to: return_to.to_string(),
        created_at: now,
        expires_at: now.plus(FLOW_TTL),
    };
    let mut tx = desk.store.begin().await?;
    tx.flow_insert(&flow).await?;
    tx.commit().await?;
    Ok(Begun { location, binding })
}

/// Ends a sign-in: a session for the browser that began it.
///
/// # Errors
/// When the answer is none of this browser's, or nobody is vouched for. It is on record then, under the
/// id of `decision`, which the refusal names.
pub async fn complete(
    desk: &Desk,
    callback: &Callback,
    browser: Browser<'_>,
    decision: DecisionId,
    now: Timestamp,
) -> Result<SignedIn, SignInError> {
    let Failed { error, whose } = match try_complete(desk, callback, browser, now).await {
        Ok(signed_in) => return Ok(signed_in),
        Err(failed) => failed,
    };
    let id = EventId::from_bytes(*decision.bytes());
    let mut event = Event::new(id, now, EventType::SignInFailed, Outcome::Failed);
    event.decision = Some(decision);
    event.actor = Actor { principal: whose, address: Some(browser.connection.address), ..Actor::default() };
    event.reason = Some(error.reason().into());
    put_on_record(desk, event).await;
    Err(error)
}

/// A sign-in that failed, and whose it was as far as the provider said so.
struct Failed {
    error: SignInError,
    whose: Option<Principal>,
}

impl From<SignInError> for Failed {
    fn from(error: SignInError) -> Self {
        Self { error, whose: None }
    }
}

async fn try_complete(
    desk: &Desk,
    callback: &Callback,
    browser: Browser<'_>,
    now: Timestamp,
) -> Result<SignedIn, Failed> {
    let binding = browser.binding.ok_or(SignInError::NotBegun)?;
    let flow = take(desk, &callback.state, binding, now).await?;
    let provider = desk.providers.get(&flow.provider).ok_or(SignInError::UnknownProvider)?;
    provider.is_answer_of(callback.iss.as_deref(), now).await.map_err(SignInError::Provider)?;
    if let Some(error) = &callback.error {
        let error = error.chars().filter(char::is_ascii_graphic).take(ERROR_CHARACTERS_MAX).collect();
        return Err(SignInError::Declined { error }.into());
    }
    let code = callback.code.as_deref().filter(|code| !code.is_empty() && code.len() <= CODE_BYTES_MAX);
    let code = code.ok_or(SignInError::Malformed)?;
    let Kept { nonce, verifier, max_age } = opened(desk, &flow)?;
    let mut identity = provider.exchange(code, &verifier, &nonce, now).await.map_err(SignInError::Provider)?;
    identity.authenticated_at = Some(proven_at(desk, &identity, flow.created_at, max_age)?);
    let return_to = ReturnTo::parse(&flow.return_to).unwrap_or_else(ReturnTo::root);
    let whose = identity.principal.clone();
    let started = start(desk, flow.id, identity, browser, return_to, now).await;
    started.map_err(|error| Failed { error, whose: Some(whose) })
}

/// Takes the row of a sign-in out, so that its answer is good once.
async fn take(desk: &Desk, state: &str, binding: &CookieValue, now: Timestamp) -> Result<SignInFlow, SignInError> {
    let mut tx = desk.store.begin().await?;
    let flow = tx.flow_take(&hash_of(state), &binding.hash()).await?;
    tx.commit().await?;
    flow.filter(|flow| !flow.expires_at.is_over(now)).ok_or(SignInError::NotBegun)
}

/// What a sign-in keeps sealed until its answer.
struct Kept {
    nonce: Secret<String>,
    verifier: Secret<String>,
    /// How old a proof was asked for.
    max_age: Ttl,
}

fn opened(desk: &Desk, flow: &SignInFlow) -> Result<Kept, SignInError> {
    let closed = SealError::Closed { purpose: FLOW_PURPOSE };
    let sealed = desk.sealer.open(FLOW_PURPOSE, flow.id.bytes(), &flow.sealed)?;
    let mut parts = std::str::from_utf8(sealed.expose()).unwrap_or_default().split('.');
    let (Some(nonce), Some(verifier)) = (parts.next(), parts.next()) else { return Err(closed.into()) };
    let max_age = match parts.next() {
        Some(seconds) => Ttl::seconds(seconds.parse().map_err(|_| closed)?),
        // It began before this version kept it.
        None => desk.settings.lifetime,
    };
    Ok(Kept { nonce: Secret::new(nonce.to_owned()), verifier: Secret::new(verifier.to_owned()), max_age })
}

/// When the person proved themselves to their provider, which was asked for a proof no older than `max_age`.
///
/// Whoever holds the browser can take that question out of the address on its way, so the answer is compared
/// where a new proof was wanted: a sign-in with an old one would only lead back to the refusal that wanted it.
/// Else an older proof is taken for what it is: some providers know no `max_age`. A provider that answers without `auth_time`, against OIDC Core §2, tells nothing of the age:
/// it counts as the oldest that a session can have, so that people can sign in and a policy that wants a
/// proof of lately does not take a silent sign-in for one.
fn proven_at(desk: &Desk, identity: &Identity, begun_at: Timestamp, max_age: Ttl) -> Result<Timestamp, SignInError> {
    let wanted_new = max_age < desk.settings.lifetime;
    match identity.authenticated_at {
        Some(at) if wanted_new && at < begun_at.minus(max_age).minus(AUTH_TIME_LEEWAY) => Err(SignInError::ProofTooOld),
        Some(at) => Ok(at),
        None => {
            tracing::warn!(
                provider = %identity.provider,
                "an identity provider tells no `auth_time` although `max_age` asks for it: how old its sign-ins are is unknown"
            );
            Ok(begun_at.minus(desk.settings.lifetime))
        }
    }
}

/// Link, session, cookie and event in one transaction.
async fn start(
    desk: &Desk,
    flow: FlowId,
    identity: Identity,
    Browser { former, connection, .. }: Browser<'_>,
    return_to: ReturnTo,
    now: Timestamp,
) -> Result<SignedIn, SignInError> {
    // A flow is completed once, so its id names its sign-in from here on.
    let link = flow.to_string();
    let sealed = match &identity.refresh_token {
        Some(token) => {
            let sealed =
                desk.sealer.seal(REFRESH_PURPOSE, link.as_bytes(), token.expose().as_bytes(), &*desk.entropy)?;
            Some(sealed)
        }
        None => None,
    };
    let cookie = CookieValue::fresh(&*desk.entropy);
    let former = match former {
        Some(hash) => desk.store.session_cookie_fetch(hash).await?.map(|cookie| cookie.session),
        None => None,
    };
    let mut tx = desk.store.begin().await?;
    // ORDER: as `session/mod.rs` has it: the former session's row before what is kept of the person.
    let former = match former {
        Some(id) => tx.session_hold(id, now).await?.map(|stored| stored.session.id),
        None => None,
    };
    let kept = ProviderLink {
        id: link.clone(),
        provider: identity.provider.to_string(),
        subject: identity.subject,
        sid: identity.sid,
        next_check_at: sealed.as_ref().map(|_| now.plus(desk.settings.recheck)),
        sealed,
    };
    tx.link_insert(&kept, now).await?;
    let new = NewSession {
        kind: SessionKind::Browser,
        principal: identity.principal,
        email: identity.email,
        email_verified: identity.email_verified,
        name: identity.name,
        groups: identity.groups,
        authenticated_at: identity.authenticated_at.unwrap_or(now),
        amr: identity.amr,
        device: connection.device(now),
        link: Some(link),
        ends_by: None,
        claims: BTreeMap::new(),
        cookie: Some((cookie.hash(), desk.settings.host().to_owned())),
    };
    let started = session::start_within(desk, &mut tx, new, None, connection, now).await.map_err(SignInError::Start)?;
    let ended = match former {
        Some(former) => {
            let actor = actor_of(&started.stored.session, connection);
            let why = Some("signed in anew");
            session::end_within(desk, &mut tx, former, SessionEnd::Logout, &actor, why, now).await?
        }
        None => None,
    };
    tx.commit().await?;
    session::obey(desk, ended.iter());
    session::enter(desk, &started);
    let Started { stored, .. } = started;
    Ok(SignedIn { session: stored.session, cookie, return_to })
}
