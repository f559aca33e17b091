//! `doorward login`: makes a P-256 key, proves who is there in one of three ways, and saves the
//! session with the certificate that the server made for the key.
//!
//! The browser's way is RFC 8252: authorization code with PKCE (RFC 7636, S256) and a listener on
//! a loopback port for the answer, whose `state` and `iss` (RFC 9207) are compared. The key never
//! leaves this machine; the server gets a signing request for it.

mod device_code;
mod loopback;
mod pkce;
mod redirects;

use std::fs;
use std::io::IsTerminal;
use std::path::{Path, PathBuf};

use rcgen::KeyPair;
use serde_json::Value;

use crate::model::{Timestamp, Ttl};
use crate::wire::oauth::CLI_CLIENT_ID;
use crate::wire::{Time, TokenAnswer};

use self::loopback::Loopback;
use self::pkce::{Flow, Proof};
use super::args::{Format, LoginArgs};
use super::client::{Client, ClientError};
use super::context::Context;
use super::dial::Identity;
use super::exit::Exit;
use super::failure::Failure;
use super::origin::Origin;
use super::printer::left;
use super::profile::{Profile, ProfileRecord, SavedSession};
use super::renewal::{signing_request, take};

/// What every door tells strangers (RFC 8414).
const METADATA_PATH: &str = "/.well-known/oauth-authorization-server";
/// How long a person may take in the browser.
const SIGN_IN_TIMEOUT: Ttl = Ttl::minutes(10);

/// Signs in and saves the session.
///
/// # Errors
/// When the server can't be reached, the person or provider says no, or the profile can't be written.
pub async fn run(context: &Context, args: &LoginArgs) -> Result<(), Failure> {
    let profile = context.profile()?;
    let origin = server(context, &profile)?;
    let former = profile.load().ok().flatten().filter(|old| old.record.server == origin.to_string());
    let lives = former.as_ref().is_some_and(|old| !old.record.expires_at.0.is_over(context.clock.now()));
    let ca_pem = match context.named_ca()? {
        Some(pem) => Some(pem),
        // What was named at an earlier sign-in to this server still holds.
        None => former.and_then(|old| old.ca_pem),
    };
    let proof = if lives { Proof::New } else { Proof::Any };
    let signed_in = sign_in(context, args, &profile, &origin, ca_pem, proof).await;
    signed_in.map_err(|failure| if lives { failure } else { failure.without_session() })
}

async fn sign_in(
    context: &Context,
    args: &LoginArgs,
    profile: &Profile,
    origin: &Origin,
    ca_pem: Option<String>,
    proof: Proof,
) -> Result<(), Failure> {
    let device = device_identity(context, args)?;
    let client = Client::new(origin.clone(), ca_pem.as_deref(), device.as_ref())?;
    if args.sign_in_as.is_some() && !origin.is_loopback() {
        return Err(Failure::usage(format!(
            "`--as` works against `doorward dev` only, and {origin} is not on this machine"
        )));
    }
    // Before a browser shows a page that can't load, or an address is printed that leads nowhere.
    let metadata = metadata(&client, device.is_some()).await?;
    if args.sign_in_as.is_some() && metadata.get("doorward_development") != Some(&Value::Bool(true)) {
        return Err(Failure::usage(format!(
            "`--as` works against `doorward dev` only, and {origin} is another installation: its own provider signs \
             in, so leave `--as` out"
        )));
    }
    let key = KeyPair::generate().map_err(|error| Failure::failed(format!("making a key: {error}")))?;
    let key_pem = key.serialize_pem();
    let request = signing_request(&key_pem)?;
    let answer = if args.device_code {
        device_code::sign_in(context, &client, proof, &request).await?
    } else if let Some(name) = &args.sign_in_as {
        sign_in_as(context, &client, name, args.provider.as_deref(), proof, &request).await?
    } else {
        sign_in_by_browser(context, &client, args, proof, &request).await?
    };
    let saved = saved(origin, key_pem, &answer, ca_pem, context.clock.now())?;
    let lock = profile.lock()?;
    profile.save(&lock, &saved)?;
    drop(lock);
    told(context, profile, &answer)
}

/// What the server tells everybody. A service tells strangers nothing: whoever names its host, and not the control
/// host, learns which is wanted.
async fn metadata(client: &Client, shows_device: bool) -> Result<Value, Failure> {
    let is_service = |error: &ClientError| match error {
        ClientError::Refused(problem) => problem.status == 401,
        other => other.certificate_refused() && !shows_device,
    };
    match client.get(METADATA_PATH).await {
        Ok(json) => Ok(client.read(&json)?),
        Err(error) if is_service(&error) => Err(Failure::usage(format!(
            "{} is a service, where nobody signs in: name the control host with `--server` or `DOORWARD_SERVER`, \
             `server.control_host` in the installation's configuration",
            client.origin()
        ))),
        Err(error) => Err(error.into()),
    }
}

fn server(context: &Context, profile: &Profile) -> Result<Origin, Failure> {
    if let Some(origin) = context.named_server()? {
        return Ok(origin);
    }
    // A damaged profile is about to be replaced.
    let Some(saved) = profile.load().ok().flatten() else {
        return Err(Failure::usage(
            "which server? name it with `--server https://doorward.example.com` or `DOORWARD_SERVER`",
        ));
    };
    Origin::parse(&saved.record.server).map_err(|error| Failure::failed(error.to_string()))
}

/// The device certificate and its key, from flags or environment: both or none.
fn device_identity(context: &Context, args: &LoginArgs) -> Result<Option<Identity>, Failure> {
    let named = |flag: &Option<PathBuf>, name| flag.clone().or_else(|| context.environment.path(name));
    let certificate = named(&args.device_certificate, "DOORWARD_DEVICE_CERTIFICATE");
    let key = named(&args.device_key, "DOORWARD_DEVICE_KEY");
    let read = |path: &Path| {
        fs::read_to_string(path).map_err(|error| Failure::usage(format!("reading `{}`: {error}", path.display())))
    };
    match (certificate, key) {
        (None, None) => Ok(None),
        (Some(certificate), Some(key)) => {
            Ok(Some(Identity { certificate_pem: read(&certificate)?, key_pem: read(&key)? }))
        }
        (Some(_), None) => Err(Failure::usage("a device certificate needs its key: `--device-key FILE`")),
        (None, Some(_)) => Err(Failure::usage("a device key needs its certificate: `--device-certificate FILE`")),
    }
}

async fn sign_in_by_browser(
    context: &Context,
    client: &Client,
    args: &LoginArgs,
    proof: Proof,
    request: &str,
) -> Result<TokenAnswer, Failure> {
    let listener = Loopback::bind().await?;
    let flow = Flow::start(&*context.entropy, listener.redirect_uri());
    let url = format!("{}{}", client.origin(), flow.authorize_path(None, args.provider.as_deref(), proof));
    // Off a terminal a browser would come up unasked, or there is none.
    let opened = !args.print_url && std::io::stderr().is_terminal() && open::that_detached(&url).is_ok();
    // With `-o json` standard output is the session's.
    if args.print_url && context.printer.format() != Format::Json {
        context.printer.talk("Open this address to sign in:");
        context.printer.line(&url)?;
    } else if opened {
        context
            .printer
            .talk_lines(&format!("The browser was opened to sign in. If it wasn't, open this address:\n{url}"));
    } else {
        context.printer.talk_lines(&format!("Open this address to sign in:\n{url}"));
    }
    context.printer.talk(&format!("It asks whether this program is yours and shows {}.", flow.letters()));
    let answering =
        listener.answer(&flow, client.origin(), |code| async { exchange(client, &flow, code, request).await });
    match tokio::time::timeout(SIGN_IN_TIMEOUT.duration(), answering).await {
        Ok(answer) => answer,
        Err(_) => Err(Failure::failed(format!("nobody signed in within {SIGN_IN_TIMEOUT}; start again"))),
    }
}

async fn sign_in_as(
    context: &Context,
    client: &Client,
    name: &str,
    provider: Option<&str>,
    proof: Proof,
    request: &str,
) -> Result<TokenAnswer, Failure> {
    // Nothing listens there: the redirect to it is read, not followed.
    let flow = Flow::start(&*context.entropy, "http://127.0.0.1:1/callback".to_owned());
    let path = flow.authorize_path(Some(name), provider, proof);
    let callback = redirects::follow(client, &path, flow.redirect_uri(), name).await?;
    let code = flow.code(client.origin(), &callback)?;
    exchange(client, &flow, code, request).await
}

async fn exchange(client: &Client, flow: &Flow, code: String, request: &str) -> Result<TokenAnswer, Failure> {
    let fields = [
        ("grant_type", "authorization_code"),
        ("client_id", CLI_CLIENT_ID),
        ("code", &code),
        ("redirect_uri", flow.redirect_uri()),
        ("code_verifier", flow.verifier()),
        ("csr", request),
    ];
    client.form("/oauth2/token", &fields).await.map_err(signing_in)
}

/// A failure to sign in; an OAuth error here says nothing of an older session.
fn signing_in(error: ClientError) -> Failure {
    if let ClientError::Oauth(refused, _) = &error
        && refused.error == "invalid_client"
    {
        return Failure::new(Exit::Failed, &refused.error, error.to_string());
    }
    let mut failure = Failure::from(error);
    if failure.exit == Exit::SignedOut && failure.problem.status == 0 {
        failure.exit = Exit::Failed;
        failure.problem.remedy = None;
    }
    failure
}

fn saved(
    origin: &Origin,
    key_pem: String,
    answer: &TokenAnswer,
    ca_pem: Option<String>,
    now: Timestamp,
) -> Result<SavedSession, Failure> {
    let Some(certificate_pem) = answer.certificate.clone() else {
        return Err(Failure::failed("the server made no certificate for the session"));
    };
    let record = ProfileRecord {
        server: origin.to_string(),
        session: answer.session.id.clone(),
        principal: answer.session.principal.clone(),
        expires_at: answer.session.expires_at,
        certificate_since: Time(now),
        certificate_expires_at: answer.certificate_expires_at.unwrap_or(Time(now)),
        refresh_token: answer.refresh_token.clone(),
        refresh_token_expires_at: Time(now),
        audit_key: answer.audit_key.clone(),
    };
    let mut session = SavedSession { record, key_pem, certificate_pem, ca_pem };
    take(&mut session, answer, now);
    Ok(session)
}

fn told(context: &Context, profile: &Profile, answer: &TokenAnswer) -> Result<(), Failure> {
    if context.printer.format() == Format::Json {
        return context.printer.json(&answer.session);
    }
    let who = &answer.session.principal;
    let name = who.name.as_deref().or(who.email.as_deref()).unwrap_or(&who.id);
    let until = answer.session.expires_at;
    context.printer.talk(&format!(
        "Signed in as {name} ({}) until {until}, {} from now{}.",
        who.id,
        left(until.0, context.clock.now()),
        if profile.name() == "default" { String::new() } else { format!(", under the profile `{}`", profile.name()) }
    ));
    Ok(())
}
