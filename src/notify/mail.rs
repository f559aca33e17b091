//! Sending a notice by mail, over TLS that is rustls with aws-lc-rs.
//!
//! INVARIANT: the server's address is judged like every other of the outside, and the connection
//! goes to the address that was judged; without TLS only to this machine.

use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use lettre::message::header::ContentType;
use lettre::message::{Mailbox, Message};
use lettre::transport::smtp::authentication::Credentials;
use lettre::transport::smtp::client::{Certificate, Tls, TlsParameters};
use lettre::{AsyncSmtpTransport, AsyncTransport, Tokio1Executor};

use super::delivery::{Channel, SendError};
use super::notice::Notice;
use super::settings::{APPROVERS_CHANNEL, MAIL_CHANNEL, SmtpSettings, SmtpTls};
use crate::outbound::judged_addresses;

/// How long each step of a conversation may take.
const STEP_TIMEOUT: Duration = Duration::from_secs(5);
/// How long the whole may take.
const SEND_TIMEOUT: Duration = Duration::from_secs(20);
/// Recipients of one mail at most.
const RECIPIENTS_MAX: usize = 100;

/// A mail server that is ready to be spoken to.
pub struct Mail {
    settings: SmtpSettings,
    origin: Arc<str>,
}

impl Mail {
    /// The channel of these settings; links lead to `origin`.
    #[must_use]
    pub fn channel(settings: &SmtpSettings, origin: &Arc<str>) -> Channel {
        let mail = Self { settings: settings.clone(), origin: Arc::clone(origin) };
        Channel::of_mail(MAIL_CHANNEL, settings.events.clone(), mail)
    }

    /// The channel of these settings for people whom an event waits for.
    #[must_use]
    pub fn people(settings: &SmtpSettings, origin: &Arc<str>) -> Channel {
        let mail = Self { settings: settings.clone(), origin: Arc::clone(origin) };
        Channel::of_people(APPROVERS_CHANNEL, mail)
    }

    /// Sends once, to all fixed addresses in one mail.
    pub(in crate::notify) async fn send(&self, notice: &Notice) -> Result<(), SendError> {
        let mut to = self.settings.to.clone();
        to.sort_unstable();
        to.dedup();
        to.truncate(RECIPIENTS_MAX);
        self.send_to(notice, &to).await
    }

    /// Sends once, to these in one mail.
    pub(in crate::notify) async fn send_to(&self, notice: &Notice, to: &[String]) -> Result<(), SendError> {
        let message = match self.message(notice, to) {
            Ok(message) => message,
            Err(text) => return Err(SendError::Never(text)),
        };
        match tokio::time::timeout(SEND_TIMEOUT, self.deliver(message)).await {
            Ok(sent) => sent,
            Err(_) => Err(SendError::again("the mail server did not answer in time")),
        }
    }

    fn message(&self, notice: &Notice, to: &[String]) -> Result<Message, String> {
        let wrong = |error: &dyn std::fmt::Display| format!("the mail can't be written: {error}");
        let from: Mailbox = self.settings.from.parse().map_err(|error| wrong(&error))?;
        let domain = from.email.domain().to_owned();
        let time = UNIX_EPOCH + Duration::from_secs(u64::try_from(notice.time.seconds()).unwrap_or(0));
        let mut message = Message::builder()
            .from(from)
            .date(time)
            // The same for each trial: who gets it twice can see that it is the same.
            .message_id(Some(format!("<{}@{domain}>", notice.id)))
            .subject(format!("[doorward] {}", notice.headline()));
        for address in to {
            message = message.to(address.parse::<Mailbox>().map_err(|error| wrong(&error))?);
        }
        let message = message.header(ContentType::TEXT_PLAIN).body(notice.mail(&self.origin));
        message.map_err(|error| wrong(&error))
    }

    async fn deliver(&self, message: Message) -> Result<(), SendError> {
        let SmtpSettings { host, port, allow_loopback, .. } = &self.settings;
        let addresses = judged_addresses(host, *port, *allow_loopback)
            .await
            .map_err(|error| SendError::again(error.to_string()))?;
        let mut last = SendError::again("the mail server's name has no address");
        for address in addresses {
            if self.settings.tls == SmtpTls::None && !address.ip().is_loopback() {
                return Err(SendError::Never("mail without TLS goes to this machine only".to_owned()));
            }
            let mut transport = AsyncSmtpTransport::<Tokio1Executor>::builder_dangerous(address.ip().to_string())
                .port(*port)
                .timeout(Some(STEP_TIMEOUT))
                .tls(self.tls().map_err(SendError::Never)?);
            if let Some((user, password)) = &self.settings.login {
                transport = transport.credentials(Credentials::new(user.clone(), password.expose().clone()));
            }
            match transport.build().send(message.clone()).await {
                Ok(_) => return Ok(()),
                Err(error) if error.is_permanent() => {
                    let code = error.status().map_or_else(String::new, |code| format!(" with {code}"));
                    return Err(SendError::again(format!("the mail server refused{code}")));
                }
                Err(error) => last = SendError::again(format!("the mail server could not be used: {error}")),
            }
        }
        Err(last)
    }

    fn tls(&self) -> Result<Tls, String> {
        let unusable = |error: lettre::transport::smtp::Error| format!("an authority can't be used: {error}");
        let parameters = || {
            let mut parameters = TlsParameters::builder(self.settings.host.clone());
            for authority in &self.settings.authorities {
                parameters =
                    parameters.add_root_certificate(Certificate::from_der(authority.to_vec()).map_err(unusable)?);
            }
            parameters.build_rustls().map_err(unusable)
        };
        Ok(match self.settings.tls {
            SmtpTls::Starttls => Tls::Required(parameters()?),
            SmtpTls::Implicit => Tls::Wrapper(parameters()?),
            SmtpTls::None => Tls::None,
        })
    }
}
