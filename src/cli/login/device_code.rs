//! Signing in with a browser on another device (RFC 8628).

use std::time::Duration;

use crate::cli::client::{Client, ClientError};
use crate::cli::context::Context;
use crate::cli::exit::Exit;
use crate::cli::failure::Failure;
use crate::cli::printer::plain;
use crate::model::Ttl;
use crate::wire::oauth::{CLI_CLIENT_ID, GRANT_DEVICE_CODE};
use crate::wire::{DeviceAuthorization, TokenAnswer};

use super::pkce::Proof;
use super::signing_in;

/// The pause between two polls when the server names none, and how much longer it gets when it
/// says `slow_down` (RFC 8628 §3.5).
const INTERVAL_SECONDS: i64 = 5;
/// The longest pause: a server can't put a command to sleep.
const INTERVAL_SECONDS_MAX: i64 = 60;

/// Shows address and code, and asks until somebody has answered there.
pub async fn sign_in(context: &Context, client: &Client, proof: Proof, request: &str) -> Result<TokenAnswer, Failure> {
    let asked = client.form("/oauth2/device_authorization", &[("client_id", CLI_CLIENT_ID)]).await;
    let started: DeviceAuthorization = asked.map_err(|error| match error {
        ClientError::Oauth(error, _) if error.error == "unauthorized_client" => {
            Failure::new(Exit::Failed, &error.error, "this installation does not allow sign-in by device code")
        }
        other => signing_in(other),
    })?;
    context.printer.talk_lines(&format!(
        "Open {} on any device and type the code\n\n    {}\n\nor open {}",
        plain(&page(client, proof, &started.verification_uri)),
        plain(&started.user_code),
        plain(&page(client, proof, &started.verification_uri_complete))
    ));
    let mut interval = if started.interval > 0 { started.interval } else { INTERVAL_SECONDS };
    let lasts = Ttl::seconds(u32::try_from(started.expires_in.clamp(0, 86_400)).unwrap_or(0));
    let end = context.clock.now().plus(lasts);
    let fields = [
        ("grant_type", GRANT_DEVICE_CODE),
        ("client_id", CLI_CLIENT_ID),
        ("device_code", &started.device_code),
        ("csr", request),
    ];
    while !end.is_over(context.clock.now()) {
        interval = interval.clamp(1, INTERVAL_SECONDS_MAX);
        tokio::time::sleep(Duration::from_secs(interval.unsigned_abs())).await;
        match client.form::<TokenAnswer>("/oauth2/token", &fields).await {
            Ok(answer) => return Ok(answer),
            Err(ClientError::Oauth(error, status)) => match error.error.as_str() {
                "authorization_pending" => {}
                "slow_down" => interval += INTERVAL_SECONDS,
                "expired_token" => break,
                _ => return Err(signing_in(ClientError::Oauth(error, status))),
            },
            // RFC 8628 §3.5: a connection that fails is tried again, less often.
            Err(ClientError::Slow { .. } | ClientError::Exchange { .. }) => interval *= 2,
            Err(error) => return Err(signing_in(error)),
        }
    }
    Err(Failure::failed("nobody signed in before the code ended; start again"))
}

/// The address that a person opens: the page for the code, after a new sign-in where one is wanted.
fn page(client: &Client, proof: Proof, address: &str) -> String {
    let origin = client.origin().to_string();
    match (proof, address.strip_prefix(&origin)) {
        (Proof::New, Some(path)) => {
            let mut query = form_urlencoded::Serializer::new(String::new());
            query.append_pair("max_age", "0").append_pair("return_to", path);
            format!("{origin}/signin?{}", query.finish())
        }
        (Proof::Any, _) | (Proof::New, None) => address.to_owned(),
    }
}
