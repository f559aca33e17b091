//! What `[notify]` says, checked: made by `config/notify.rs`.

use std::sync::Arc;

use rustls::pki_types::CertificateDer;

pub use super::pattern::{EventPattern, TOLD};
pub use super::signature::key_of;
use crate::model::Secret;

/// What the mail channel is called in the database, in metrics and on record.
pub const MAIL_CHANNEL: &str = "mail";
/// What the channel is called that sends mail to those who may approve.
pub const APPROVERS_CHANNEL: &str = "mail_approvers";

/// Everyone who is told.
#[derive(Debug, Clone, Default)]
pub struct NotifySettings {
    /// `[[notify.webhook]]`
    pub webhooks: Vec<WebhookSettings>,
    /// `[notify.smtp]`
    pub smtp: Option<SmtpSettings>,
}

impl NotifySettings {
    /// Whether nobody is told.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.webhooks.is_empty() && self.smtp.is_none()
    }
}

/// The form of a webhook's body.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Format {
    /// JSON as Standard Webhooks has it: `type`, `timestamp`, `data`.
    #[default]
    Standard,
    /// What Slack and the programs that follow it take: `text` and `blocks`.
    Slack,
}

/// One address that is posted to.
#[derive(Debug, Clone)]
pub struct WebhookSettings {
    /// Its name in the database, in metrics and on record.
    pub name: String,
    /// Where to. May itself be a secret (Slack's are).
    pub url: Arc<Secret<String>>,
    /// The key that signs, 24 to 64 bytes; none where the receiver reads no signature.
    pub key: Option<Arc<Secret<Vec<u8>>>>,
    /// What it is told of.
    pub events: Vec<EventPattern>,
    /// In which form.
    pub format: Format,
    /// Authorities beside the public ones.
    pub authorities: Vec<CertificateDer<'static>>,
    /// It may be on this machine.
    pub allow_loopback: bool,
}

/// How a mail server is spoken to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum SmtpTls {
    /// TLS begun within the connection, and nothing without it (RFC 3207).
    #[default]
    Starttls,
    /// TLS from the first byte (RFC 8314).
    Implicit,
    /// None: only with a server on this machine.
    None,
}

/// The mail server, and who gets mail.
#[derive(Debug, Clone)]
pub struct SmtpSettings {
    /// Its name.
    pub host: String,
    /// Its port.
    pub port: u16,
    /// How it is spoken to.
    pub tls: SmtpTls,
    /// Who we are.
    pub from: String,
    /// User name and password.
    pub login: Option<(String, Arc<Secret<String>>)>,
    /// Who gets every mail.
    pub to: Vec<String>,
    /// Whether those who may approve a request get mail of it, and those whom an emergency passed over.
    pub to_approvers: bool,
    /// What is told of.
    pub events: Vec<EventPattern>,
    /// Authorities beside the public ones.
    pub authorities: Vec<CertificateDer<'static>>,
    /// It may be on this machine.
    pub allow_loopback: bool,
}
