//! Being signed in: the saved session with a certificate that is good for a while, renewed where
//! it is not.
//!
//! A session's certificate is short-lived; whichever command comes next renews it, by the refresh
//! token and a new signing request for the key that was made at sign-in. Refresh tokens are good
//! once (using one twice ends the session), so a renewal holds the profile's lock from reading the
//! token to writing the next one.

use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair};
use x509_parser::pem::parse_x509_pem;

use crate::model::{BreakGlassId, Timestamp, Ttl};
use crate::wire::oauth::CLI_CLIENT_ID;
use crate::wire::{Time, TokenAnswer};

use super::client::{Client, ClientError};
use super::context::Context;
use super::dial::Identity;
use super::failure::Failure;
use super::origin::Origin;
use super::profile::{Profile, ProfileLock, SavedSession};

/// A certificate with less than this left is renewed, unless that is more than half of its life.
const MARGIN: Ttl = Ttl::minutes(10);

/// A saved session that may be used, and its server.
pub struct SignedIn {
    /// Where it is saved.
    pub profile: Profile,
    /// What is saved.
    pub session: SavedSession,
    /// Its server.
    pub origin: Origin,
    /// A client that shows its certificate.
    pub client: Client,
    /// The authorities that vouch for the server, where they are not this machine's.
    pub ca_pem: Option<String>,
}

/// How much longer a certificate is good.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Freshness {
    /// Long enough.
    Fresh,
    /// For a while: it is to be renewed.
    Ending,
    /// It is not.
    Over,
}

/// How fresh a session's certificate is: what can't be read is over. It is ending when less than a
/// third of its life is left, or less than ten minutes and half of its life. Its life is counted
/// from when it came: certificates start a little in the past, for clocks that disagree.
#[must_use]
pub fn freshness(session: &SavedSession, now: Timestamp) -> Freshness {
    let Some(until) = end(&session.certificate_pem) else { return Freshness::Over };
    if until.is_over(now) {
        return Freshness::Over;
    }
    let life = until.since(session.record.certificate_since.0).as_millis();
    let margin = (life / 3).max(MARGIN.as_millis().min(life / 2));
    if until.since(now).as_millis() < margin { Freshness::Ending } else { Freshness::Fresh }
}

/// When a certificate (PEM) ends.
fn end(certificate_pem: &str) -> Option<Timestamp> {
    let (_, block) = parse_x509_pem(certificate_pem.as_bytes()).ok()?;
    let certificate = block.parse_x509().ok()?;
    Some(Timestamp::from_seconds(certificate.validity().not_after.timestamp()))
}

/// A signing request (PKCS#10, PEM) for this key. The server takes nothing from it but the key.
///
/// # Errors
/// When the key can't be read or can't sign.
pub fn signing_request(key_pem: &str) -> Result<String, Failure> {
    let wrong = |error: rcgen::Error| Failure::failed(format!("making a certificate signing request: {error}"));
    let key = KeyPair::from_pem(key_pem).map_err(wrong)?;
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, CLI_CLIENT_ID);
    params.serialize_request(&key).and_then(|request| request.pem()).map_err(wrong)
}

/// The session under the profile that was asked for, its certificate renewed where that is due.
///
/// # Errors
/// Exit 3 when nobody is signed in or the session has ended; exit 6 when the certificate is over
/// and the server that could renew it can't be reached.
pub async fn signed_in(context: &Context) -> Result<SignedIn, Failure> {
    let profile = context.profile()?;
    let loading = profile.clone();
    let loaded = on_thread(move || loading.load()).await?;
    let Some(session) = loaded? else { return Err(context.nobody_signed_in()) };
    let origin = context.server_of(&session)?;
    let ca_pem = context.named_ca()?.or_else(|| session.ca_pem.clone());
    if session.record.session.starts_with(BreakGlassId::PREFIX) {
        return opened(context, profile, session, origin, ca_pem);
    }
    let session = match freshness(&session, context.clock.now()) {
        Freshness::Fresh => session,
        Freshness::Ending | Freshness::Over => renewed(context, &profile, &origin, ca_pem.as_deref()).await?,
    };
    let client = Client::new(origin.clone(), ca_pem.as_deref(), Some(&identity(&session)))?.noting(&context.banner);
    Ok(SignedIn { profile, session, origin, client, ca_pem })
}

/// An opening: nothing renews it, and no server has to be reached for it.
fn opened(
    context: &Context,
    profile: Profile,
    session: SavedSession,
    origin: Origin,
    ca_pem: Option<String>,
) -> Result<SignedIn, Failure> {
    let ends = session.record.expires_at.0;
    if ends.is_over(context.clock.now()) {
        let detail = format!("the opening `{}` ended at {ends}", session.record.session);
        return Err(Failure::signed_out("session_ended", detail, "doorward breakglass open"));
    }
    let client = Client::new(origin.clone(), ca_pem.as_deref(), Some(&identity(&session)))?.noting(&context.banner);
    Ok(SignedIn { profile, session, origin, client, ca_pem })
}

fn identity(session: &SavedSession) -> Identity {
    Identity { certificate_pem: session.certificate_pem.clone(), key_pem: session.key_pem.clone() }
}

/// Runs what blocks (waiting for a lock) beside the runtime.
async fn on_thread<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, Failure> {
    tokio::task::spawn_blocking(work).await.map_err(|error| Failure::failed(format!("using the profile: {error}")))
}

async fn renewed(
    context: &Context,
    profile: &Profile,
    origin: &Origin,
    ca_pem: Option<&str>,
) -> Result<SavedSession, Failure> {
    let locking = profile.clone();
    let lock = on_thread(move || locking.lock()).await??;
    // Somebody else may have renewed it, or signed out, while this one waited.
    let Some(session) = profile.load_locked(&lock)? else { return Err(context.nobody_signed_in()) };
    let found = freshness(&session, context.clock.now());
    if found == Freshness::Fresh {
        return Ok(session);
    }
    // A certificate that is over is not shown: the handshake would fail with it.
    let shown = (found == Freshness::Ending).then(|| identity(&session));
    let client = Client::new(origin.clone(), ca_pem, shown.as_ref())?;
    match renew(context, profile, &lock, &client, &session).await {
        Ok(session) => Ok(session),
        Err(RenewError::Ask(ClientError::Oauth(error, _))) if error.error == "invalid_grant" => {
            Err(Failure::signed_out(
                "session_ended",
                "the session has ended; sign in again",
                &context.sign_in_command(Some(&session.record.server)),
            ))
        }
        // What is left of the old one is enough for now; the next command tries again.
        Err(RenewError::Ask(ClientError::Dial(_) | ClientError::Exchange { .. } | ClientError::Slow { .. }))
            if found == Freshness::Ending =>
        {
            Ok(session)
        }
        Err(RenewError::Ask(error)) => Err(error.into()),
        Err(RenewError::Save(failure)) => Err(failure),
    }
}

enum RenewError {
    Ask(ClientError),
    Save(Failure),
}

async fn renew(
    context: &Context,
    profile: &Profile,
    lock: &ProfileLock,
    client: &Client,
    session: &SavedSession,
) -> Result<SavedSession, RenewError> {
    let request = signing_request(&session.key_pem).map_err(RenewError::Save)?;
    let fields = [
        ("grant_type", "refresh_token"),
        ("client_id", CLI_CLIENT_ID),
        ("refresh_token", &session.record.refresh_token),
        ("csr", &request),
    ];
    let answer: TokenAnswer = client.form("/oauth2/token", &fields).await.map_err(RenewError::Ask)?;
    let mut next = session.clone();
    let now = context.clock.now();
    take(&mut next, &answer, now);
    let certificate = answer.certificate.as_deref();
    profile.renew(lock, &next.record, certificate).map_err(|error| RenewError::Save(error.into()))?;
    Ok(next)
}

/// Puts what a token answer says into a saved session.
pub fn take(session: &mut SavedSession, answer: &TokenAnswer, now: Timestamp) {
    let record = &mut session.record;
    record.session.clone_from(&answer.session.id);
    record.principal = answer.session.principal.clone();
    record.expires_at = answer.session.expires_at;
    record.refresh_token.clone_from(&answer.refresh_token);
    record.refresh_token_expires_at =
        Time(Timestamp::from_seconds(now.seconds().saturating_add(answer.refresh_token_expires_in)));
    if let Some(pem) = &answer.certificate {
        session.certificate_pem.clone_from(pem);
        record.certificate_since = Time(now);
        if let Some(until) = end(pem) {
            record.certificate_expires_at = Time(until);
        }
    }
    if answer.audit_key.is_some() {
        record.audit_key.clone_from(&answer.audit_key);
    }
}
