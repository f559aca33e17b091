//! Posting a notice to an address: Standard Webhooks 1.0, or the form that Slack takes.
//!
//! INVARIANT: neither the address nor the receiver's answer is told in an error: an address may be
//! a secret, and an answer is somebody else's text.

use std::sync::Arc;

use http::{HeaderValue, Request, StatusCode, header};

use super::delivery::{Channel, SendError};
use super::notice::Notice;
use super::settings::{Format, WebhookSettings};
use super::signature;
use crate::model::{Clock, Secret, Timestamp, Ttl};
use crate::outbound::{Client, ClientSettings, OutboundError};

/// The longest pause that a receiver may ask for.
const RETRY_AFTER_MAX: u32 = 3600;

/// A webhook that is ready to be posted to.
pub struct Webhook {
    client: Client,
    url: Arc<Secret<String>>,
    key: Option<Arc<Secret<Vec<u8>>>>,
    format: Format,
    origin: Arc<str>,
}

impl Webhook {
    /// The channel of these settings; links lead to `origin`.
    ///
    /// # Errors
    /// When an authority's certificate can't be used.
    pub fn channel(
        settings: &WebhookSettings,
        origin: &Arc<str>,
        clock: &Arc<dyn Clock>,
    ) -> Result<Channel, OutboundError> {
        let client =
            ClientSettings { authorities: settings.authorities.clone(), allow_loopback: settings.allow_loopback };
        let webhook = Self {
            client: Client::new(client, Arc::clone(clock))?,
            url: Arc::clone(&settings.url),
            key: settings.key.clone(),
            format: settings.format,
            origin: Arc::clone(origin),
        };
        Ok(Channel::of_webhook(&settings.name, settings.events.clone(), webhook))
    }

    /// Posts once. Signed with the time of this trial.
    pub(in crate::notify) async fn send(&self, notice: &Notice, now: Timestamp) -> Result<(), SendError> {
        let body = match self.format {
            Format::Standard => notice.standard(&self.origin),
            Format::Slack => notice.slack(&self.origin),
        };
        let body = body.to_string().into_bytes();
        let id = notice.id.to_string();
        let mut request = Request::post(self.url.expose())
            .header(header::CONTENT_TYPE, "application/json")
            .header("webhook-id", &id)
            .header("webhook-timestamp", now.seconds());
        if let Some(key) = &self.key {
            request = request.header("webhook-signature", signature::sign(key, &id, now, &body));
        }
        let request = request.body(body).map_err(|_| SendError::again("the address can't be posted to"))?;
        let answer = self.client.send(request).await.map_err(|error| SendError::again(said(&error)))?;
        let status = answer.status();
        if status.is_success() {
            return Ok(());
        }
        let text = format!("the receiver answered {}", status.as_u16());
        if status == StatusCode::GONE {
            return Err(SendError::Never(text));
        }
        let pause = answer.headers().get(header::RETRY_AFTER).and_then(pause_of);
        Err(SendError::Again { text, pause })
    }
}

fn pause_of(value: &HeaderValue) -> Option<Ttl> {
    let seconds = value.to_str().ok()?.parse::<u32>().ok()?;
    Some(Ttl::seconds(seconds.min(RETRY_AFTER_MAX)))
}

/// What may be told of an error: never the path of the address.
fn said(error: &OutboundError) -> String {
    match error {
        OutboundError::Url { why, .. } => format!("the address is not used: {why}"),
        other => other.to_string(),
    }
}
