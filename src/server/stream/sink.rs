//! Handing a batch to a receiver outside.
//!
//! INVARIANT: what is told of an error is ours: neither an address that may be a secret nor the text of a
//! receiver's answer is in it.

use std::fmt;
use std::sync::Arc;

use http::{HeaderValue, Request, header};

use super::batch::{Batch, Item};
use super::otlp;
use crate::audit::Outcome;
use crate::audit::settings::StreamFormat;
use crate::config::{HttpReceiver, Receiver};
use crate::model::{Clock, NodeId, ServiceName, Timestamp};
use crate::notify::signature;
use crate::outbound::syslog::{Message, Severity, Syslog};
use crate::outbound::{Client, ClientSettings, OutboundError};

/// A receiver that is ready to be sent to.
#[derive(Debug)]
pub enum Sink {
    /// Syslog over TLS.
    Syslog(Syslog),
    /// A webhook.
    Webhook(Post),
    /// An OTLP endpoint for logs.
    Otlp(Post),
}

/// Why it is not certain that a receiver has a batch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refused {
    /// It answered with this status.
    Status(u16),
    /// It took some of the events and rejected so many of them.
    Some { rejected: u64, of: usize },
    /// There was no answer: the text says why.
    Unanswered(String),
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Status(status) => write!(f, "the receiver answered {status}"),
            Self::Some { rejected, of } => write!(f, "the receiver rejected {rejected} of {of} events"),
            Self::Unanswered(why) => f.write_str(why),
        }
    }
}

impl std::error::Error for Refused {}

/// Who sends, as the receiver is told.
#[derive(Debug, Clone, Copy)]
pub struct Source<'a> {
    /// The stream's name.
    pub stream: &'a str,
    /// The door's name.
    pub host: &'a str,
    /// The form of the lines.
    pub format: StreamFormat,
}

/// An address that is posted to.
#[derive(Debug)]
pub struct Post {
    client: Client,
    receiver: HttpReceiver,
}

impl Sink {
    /// The receiver of these settings.
    ///
    /// # Errors
    /// When an additional authority's certificate can't be used.
    pub fn new(receiver: &Receiver, clock: &Arc<dyn Clock>) -> Result<Self, OutboundError> {
        Ok(match receiver {
            Receiver::Syslog(settings) => Self::Syslog(Syslog::new(settings, Arc::clone(clock))?),
            Receiver::Webhook(settings) => Self::Webhook(Post::new(settings, clock)?),
            Receiver::Otlp(settings) => Self::Otlp(Post::new(settings, clock)?),
        })
    }

    /// Tries whether a batch would be taken, by one without events.
    ///
    /// # Errors
    /// When it would not.
    pub async fn probe(&self, from: Source<'_>, now: Timestamp) -> Result<(), Refused> {
        let nothing = Batch { log: NodeId::from_bytes([0; 16]), items: Vec::new(), next: 0 };
        self.send(&nothing, from, now).await
    }

    /// Sends a batch, once.
    ///
    /// # Errors
    /// When it is not certain that the receiver has all of it.
    pub async fn send(&self, batch: &Batch, from: Source<'_>, now: Timestamp) -> Result<(), Refused> {
        match self {
            Self::Syslog(syslog) => {
                let mut frames = Vec::new();
                for item in &batch.items {
                    push_message(&mut frames, batch, item, from.host);
                }
                syslog.deliver(&frames).await.map_err(|error| said(&error))
            }
            Self::Webhook(post) => post.lines(batch, from, now).await,
            Self::Otlp(post) => post.otlp(batch, from).await,
        }
    }
}

fn push_message(frames: &mut Vec<u8>, batch: &Batch, item: &Item, host: &str) {
    let (id, log, seq) = (item.clear.id.to_string(), batch.log.to_string(), item.seq.to_string());
    let message = Message {
        severity: match item.clear.outcome {
            Outcome::Success => Severity::Informational,
            Outcome::Denied => Severity::Warning,
            Outcome::Failed => Severity::Error,
        },
        time: item.clear.time,
        host,
        process: &log,
        kind: item.clear.kind.name(),
        data: &[
            ("id", Some(&id)),
            ("log", Some(&log)),
            ("seq", Some(&seq)),
            ("type", Some(item.clear.kind.name())),
            ("outcome", Some(item.clear.outcome.name())),
            ("service", item.clear.service.as_ref().map(ServiceName::as_str)),
        ],
        text: &item.line,
    };
    message.push_frame(frames);
}

impl Post {
    fn new(receiver: &HttpReceiver, clock: &Arc<dyn Clock>) -> Result<Self, OutboundError> {
        let settings =
            ClientSettings { authorities: receiver.authorities.clone(), allow_loopback: receiver.allow_loopback };
        let client = Client::showing(settings, receiver.certificate.as_ref(), Arc::clone(clock))?;
        Ok(Self { client, receiver: receiver.clone() })
    }

    /// Lines, signed as Standard Webhooks 1.0 has it. The id says which events they are, so that a
    /// receiver knows a batch that it has already.
    async fn lines(&self, batch: &Batch, from: Source<'_>, now: Timestamp) -> Result<(), Refused> {
        let mut body = Vec::new();
        for item in &batch.items {
            body.extend_from_slice(item.line.as_bytes());
            body.push(b'\n');
        }
        let id = match batch.numbers() {
            Some((first, last)) => format!("{}-{}-{first}-{last}", from.stream, batch.log),
            None => format!("{}-trial", from.stream),
        };
        let media_type = match from.format {
            StreamFormat::Jsonl | StreamFormat::Ocsf => "application/x-ndjson",
            StreamFormat::Cef => "text/plain; charset=utf-8",
        };
        let mut request = Request::post(self.receiver.url.expose())
            .header(header::CONTENT_TYPE, media_type)
            .header("webhook-id", &id)
            .header("webhook-timestamp", now.seconds());
        if let Some(key) = &self.receiver.key {
            request = request.header("webhook-signature", signature::sign(key, &id, now, &body));
        }
        self.post(request, body).await.map(drop)
    }

    /// An `ExportLogsServiceRequest` in protobuf (OTLP 1.x, "OTLP/HTTP").
    async fn otlp(&self, batch: &Batch, from: Source<'_>) -> Result<(), Refused> {
        let request = Request::post(self.receiver.url.expose()).header(header::CONTENT_TYPE, "application/x-protobuf");
        let answer = self.post(request, otlp::request(batch, from.host)).await?;
        // The receiver says so where it took only some; those that it has it knows by their ids.
        match otlp::rejected(&answer) {
            Some(0) => Ok(()),
            None => Err(Refused::Unanswered("the receiver's answer is none of OTLP".to_owned())),
            Some(rejected) => Err(Refused::Some { rejected, of: batch.items.len() }),
        }
    }

    async fn post(&self, mut request: http::request::Builder, body: Vec<u8>) -> Result<Vec<u8>, Refused> {
        if let Some(value) = &self.receiver.authorization {
            let mut value = HeaderValue::from_str(value.expose().trim())
                .map_err(|_| Refused::Unanswered("`authorization` is no value of a header field".to_owned()))?;
            value.set_sensitive(true);
            request = request.header(header::AUTHORIZATION, value);
        }
        let request =
            request.body(body).map_err(|_| Refused::Unanswered("the address can't be posted to".to_owned()))?;
        let answer = self.client.send(request).await.map_err(|error| said(&error))?;
        let status = answer.status();
        if !status.is_success() {
            return Err(Refused::Status(status.as_u16()));
        }
        Ok(answer.into_body())
    }
}

/// What may be told of an error: never the path of an address.
fn said(error: &OutboundError) -> Refused {
    Refused::Unanswered(match error {
        OutboundError::Url { why, .. } => format!("the address is not used: {why}"),
        other => other.to_string(),
    })
}
