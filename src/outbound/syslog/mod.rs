//! Syslog over TLS (RFC 5424 in RFC 5425): messages are written, and it is known whether they were
//! taken.
//!
//! 1. One connection carries one batch: each message with its length before it.
//! 2. Then we say that nothing more comes (`close_notify`), and wait for the receiver to end its side.
//!    It must (RFC 5425 §4.4), and it can only do so in good order once it has read everything.
//! 3. Only that counts as taken, and only where the receiver's machine has acknowledged all that we sent:
//!    a machine whose program ended its side with something unread resets the connection instead. A
//!    write that succeeded has reached a buffer of our own machine and no more, and syslog has no answer.
//!
//! That a receiver's TLS has read something and its program crashed before it looked at it, nobody here can
//! see.
//!
//! INVARIANT: a delivery has an end, whatever the receiver does; nothing that it says is kept.

mod message;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use url::Host;

pub use message::{Message, Severity};

use super::OutboundError;
use super::client::{CONNECT_TIMEOUT, EXCHANGE_TIMEOUT, connect};
use super::settings::SyslogSettings;
use super::tls::{connector, server_name};
use crate::model::Clock;

/// What a receiver may say before it is taken for something else, in bytes: syslog has no answers.
const ANSWER_BYTES_MAX: usize = 16 * 1024;

/// After a write that failed it is waited so long for the alert that says why.
const LAST_WORDS_TIMEOUT: Duration = Duration::from_secs(1);
/// How often it is looked whether all was acknowledged; mostly it was before the first look.
const LOOK_EVERY: Duration = Duration::from_millis(5);

/// A way to one receiver. Clones share the trust.
#[derive(Clone)]
pub struct Syslog {
    tls: TlsConnector,
    host: Host<String>,
    port: u16,
    allow_loopback: bool,
}

impl fmt::Debug for Syslog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Syslog").field("host", &self.host).field("port", &self.port).finish_non_exhaustive()
    }
}

impl Syslog {
    /// The way of these settings.
    ///
    /// # Errors
    /// When an additional authority's certificate can't be used.
    pub fn new(settings: &SyslogSettings, clock: Arc<dyn Clock>) -> Result<Self, OutboundError> {
        let tls = connector(settings.authorities.clone(), settings.certificate.as_ref(), &[], clock)?;
        Ok(Self { tls, host: settings.host.clone(), port: settings.port, allow_loopback: settings.allow_loopback })
    }

    /// Delivers `frames`, messages with their lengths as [`Message::push_frame`] writes them. Of none, it
    /// is only tried whether the receiver would take them.
    ///
    /// # Errors
    /// When it is not certain that the receiver has all of them, within ten seconds.
    pub async fn deliver(&self, frames: &[u8]) -> Result<(), OutboundError> {
        match timeout(EXCHANGE_TIMEOUT, self.exchange(frames)).await {
            Ok(done) => done,
            Err(_) => Err(OutboundError::Timeout { host: self.host.to_string() }),
        }
    }

    async fn exchange(&self, frames: &[u8]) -> Result<(), OutboundError> {
        let host = || self.host.to_string();
        let slow = |_| OutboundError::Timeout { host: host() };
        let broken = |source| OutboundError::Connect { host: host(), source };
        let stream = timeout(CONNECT_TIMEOUT, connect(&self.host, self.port, self.allow_loopback));
        let stream = stream.await.map_err(slow)??;
        let name = server_name(&self.host)?;
        let stream = timeout(CONNECT_TIMEOUT, self.tls.connect(name, stream)).await.map_err(slow)?.map_err(broken)?;
        write_whole(stream, frames).await.map_err(|source| OutboundError::Broken { host: host(), source })
    }
}

/// Writes everything, ends our side, and waits until the receiver has ended its own after all of it.
async fn write_whole(stream: TlsStream<TcpStream>, frames: &[u8]) -> std::io::Result<()> {
    let (mut reading, mut writing) = tokio::io::split(stream);
    {
        let write = async {
            writing.write_all(frames).await?;
            writing.flush().await?;
            // Says `close_notify` and ends our side; the other one stays open.
            writing.shutdown().await
        };
        let ended = until_end(&mut reading);
        tokio::pin!(write, ended);
        let wrote = tokio::select! {
            biased;
            // One that refuses our certificate says so in an alert; one that ends first has not read all.
            over = &mut ended => return Err(over.err().unwrap_or_else(ended_early)),
            wrote = &mut write => wrote,
        };
        match wrote {
            Ok(()) => ended.await?,
            Err(error) => {
                let said = timeout(LAST_WORDS_TIMEOUT, ended).await;
                return Err(said.ok().and_then(Result::err).unwrap_or(error));
            }
        }
    }
    acknowledged(reading.unsplit(writing).get_ref().0).await
}

fn ended_early() -> std::io::Error {
    std::io::Error::new(std::io::ErrorKind::ConnectionAborted, "it ended the connection before everything was sent")
}

/// Waits until everything that was sent is acknowledged, after both sides have ended: the socket is then
/// connected to nobody any more, without an error. One that was reset has an error.
async fn acknowledged(stream: &TcpStream) -> std::io::Result<()> {
    while stream.peer_addr().is_ok() {
        tokio::time::sleep(LOOK_EVERY).await;
    }
    match stream.take_error()? {
        Some(error) => Err(error),
        None => Ok(()),
    }
}

/// Reads until the receiver ends its side, and drops what it says.
async fn until_end<R: AsyncRead + Unpin>(reading: &mut R) -> std::io::Result<()> {
    use std::io::{Error, ErrorKind};
    let mut scratch = [0; 1024];
    let mut said = 0;
    loop {
        match reading.read(&mut scratch).await {
            Ok(0) => return Ok(()),
            // Its side of the connection ended without `close_notify`, after all of ours was read.
            Err(error) if error.kind() == ErrorKind::UnexpectedEof => return Ok(()),
            Err(error) => return Err(error),
            Ok(length) => said += length,
        }
        if said > ANSWER_BYTES_MAX {
            return Err(Error::new(ErrorKind::InvalidData, "it answers, which a syslog receiver does not"));
        }
    }
}
