//! A syslog receiver over TLS (RFC 5425) that reads octet counting to the letter, and the ways in which
//! one can misbehave.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use doorward::credential::authority::Authority;
use doorward::model::{Clock, Ttl};
use doorward::outbound::settings::{ClientCertificate, SyslogSettings};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

use crate::support::{SeededEntropy, TestClock, install_crypto};

/// How a receiver behaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Manner {
    /// Reads to the end, then ends its side.
    Good,
    /// Takes the connection and says nothing, not even TLS.
    Silent,
    /// Reads everything and never ends its side.
    Open,
    /// Reads one octet each ten milliseconds.
    Trickle,
    /// Ends the connection after the first message.
    Short,
    /// Reads the first octets, says `close_notify` in good order, and goes away with the rest unread.
    Polite,
    /// Talks without end.
    Chatty,
}

/// One message, divided as RFC 5424 §6 divides it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Received {
    pub priority: u8,
    pub time: String,
    pub host: String,
    pub app: String,
    pub process: String,
    pub kind: String,
    pub data: String,
    pub text: String,
}

impl Received {
    /// Reads a message strictly; panics where it is not one.
    pub fn parse(message: &str) -> Self {
        let rest = message.strip_prefix('<').expect("PRI");
        let (priority, rest) = rest.split_once('>').unwrap();
        let rest = rest.strip_prefix("1 ").expect("VERSION 1");
        let mut words = rest.splitn(6, ' ');
        let mut word = |max: usize| {
            let word = words.next().unwrap();
            assert!((1..=max).contains(&word.len()) && word.bytes().all(|b| b.is_ascii_graphic()), "{word}");
            word.to_owned()
        };
        let (time, host, app, process, kind) = (word(35), word(255), word(48), word(128), word(32));
        let rest = words.next().unwrap();
        let end = data_end(rest);
        let text = rest[end..].strip_prefix(' ').expect("a blank before MSG").to_owned();
        doorward::model::Timestamp::parse(&time).expect("TIMESTAMP");
        Self { priority: priority.parse().unwrap(), time, host, app, process, kind, data: rest[..end].to_owned(), text }
    }
}

/// Where structured data ends: elements in brackets, values in quotes, `\` before `"`, `\` and `]`.
fn data_end(rest: &str) -> usize {
    let bytes = rest.as_bytes();
    let (mut at, mut quoted) = (0, false);
    assert_eq!(bytes[0], b'[', "structured data begins");
    loop {
        match (bytes[at], quoted) {
            (b'\\', true) => {
                assert!(b"\"\\]".contains(&bytes[at + 1]), "only these are escaped");
                at += 1;
            }
            (b'"', _) => quoted = !quoted,
            (b']', true) => panic!("`]` is escaped in a value: {rest}"),
            (b']', false) if bytes.get(at + 1) != Some(&b'[') => return at + 1,
            _ => {}
        }
        at += 1;
    }
}

/// A receiver that runs.
#[derive(Clone)]
pub struct SyslogSink {
    pub port: u16,
    pub manner: Arc<Mutex<Manner>>,
    got: Arc<Mutex<Vec<String>>>,
    pub connections: Arc<AtomicUsize>,
    pub authority_pem: String,
    authority: CertificateDer<'static>,
    client: Option<(String, String)>,
}

/// Whether a certificate of the client is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Asks {
    Nothing,
    Certificate,
}

impl SyslogSink {
    pub async fn start(clock: &TestClock, asks: Asks) -> Self {
        install_crypto();
        let entropy = SeededEntropy::new(77);
        let made = Authority::generate("log", clock.now(), Ttl::hours(24 * 30), &entropy).unwrap();
        let authority = Authority::load(&made.certificate.pem, &made.key_pem).unwrap();
        let leaf =
            authority.issue_server(&["localhost".to_owned()], clock.now(), Ttl::hours(24 * 20), &entropy).unwrap();
        let chain = vec![CertificateDer::from(leaf.certificate.der.clone())];
        let key = PrivateKeyDer::from_pem_slice(leaf.key_pem.as_bytes()).unwrap();
        let builder = rustls::ServerConfig::builder();
        let (builder, client) = match asks {
            Asks::Nothing => (builder.with_no_client_auth(), None),
            Asks::Certificate => {
                // rustls judges a client's certificate by the machine's clock.
                let now = doorward::model::Timestamp::from_seconds(
                    i64::try_from(std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap().as_secs()).unwrap(),
                );
                let made = Authority::generate("clients", now, Ttl::hours(24), &entropy).unwrap();
                let authority = Authority::load(&made.certificate.pem, &made.key_pem).unwrap();
                let key = rcgen::KeyPair::generate().unwrap();
                let mut parameters = rcgen::CertificateParams::new(vec!["doorward".to_owned()]).unwrap();
                parameters.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ClientAuth];
                let issuer_key = rcgen::KeyPair::from_pem(&made.key_pem).unwrap();
                let issuer = rcgen::Issuer::from_ca_cert_der(authority.der(), issuer_key).unwrap();
                let certificate = parameters.signed_by(&key, &issuer).unwrap();
                let mut roots = rustls::RootCertStore::empty();
                roots.add(authority.der().clone()).unwrap();
                let verifier = WebPkiClientVerifier::builder(Arc::new(roots)).build().unwrap();
                (builder.with_client_cert_verifier(verifier), Some((certificate.pem(), key.serialize_pem())))
            }
        };
        let config = builder.with_single_cert(chain, key).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let sink = Self {
            port: listener.local_addr().unwrap().port(),
            manner: Arc::new(Mutex::new(Manner::Good)),
            got: Arc::default(),
            connections: Arc::default(),
            authority_pem: authority.pem().to_owned(),
            authority: authority.der().clone(),
            client,
        };
        let serving = sink.clone();
        let acceptor = TlsAcceptor::from(Arc::new(config));
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                serving.connections.fetch_add(1, Ordering::SeqCst);
                let (serving, acceptor) = (serving.clone(), acceptor.clone());
                tokio::spawn(async move { drop(serving.serve(stream, acceptor).await) });
            }
        });
        sink
    }

    /// How it is reached.
    pub fn settings(&self) -> SyslogSettings {
        SyslogSettings {
            host: url::Host::Domain("localhost".to_owned()),
            port: self.port,
            authorities: vec![self.authority.clone()],
            certificate: None,
            allow_loopback: true,
        }
    }

    /// How it is reached with a certificate that it takes.
    pub fn settings_with_certificate(&self) -> SyslogSettings {
        let (certificate, key) = self.client.as_ref().unwrap();
        let chain = vec![CertificateDer::from_pem_slice(certificate.as_bytes()).unwrap()];
        let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap();
        let provider = rustls::crypto::aws_lc_rs::default_provider();
        let pair = rustls::sign::CertifiedKey::from_der(chain, key, &provider).unwrap();
        SyslogSettings { certificate: Some(ClientCertificate::new(pair)), ..self.settings() }
    }

    pub fn behave(&self, manner: Manner) {
        *self.manner.lock().unwrap() = manner;
    }

    /// What came, in its order.
    pub fn got(&self) -> Vec<Received> {
        self.got.lock().unwrap().iter().map(|message| Received::parse(message)).collect()
    }

    async fn serve(&self, stream: TcpStream, acceptor: TlsAcceptor) -> std::io::Result<()> {
        let manner = *self.manner.lock().unwrap();
        if manner == Manner::Silent {
            // Held open until the client goes.
            let mut stream = stream;
            let mut scratch = [0; 1024];
            while stream.read(&mut scratch).await? > 0 {}
            return Ok(());
        }
        let mut stream = acceptor.accept(stream).await?;
        match manner {
            Manner::Good | Manner::Silent => {
                while let Some(message) = frame(&mut stream).await? {
                    self.got.lock().unwrap().push(message);
                }
                stream.shutdown().await
            }
            Manner::Open => {
                while frame(&mut stream).await?.is_some() {}
                std::future::pending().await
            }
            Manner::Trickle => loop {
                if stream.read_u8().await.is_err() {
                    return Ok(());
                }
                tokio::time::sleep(std::time::Duration::from_millis(10)).await;
            },
            Manner::Short => {
                frame(&mut stream).await?;
                Ok(())
            }
            Manner::Polite => {
                stream.read_u8().await?;
                stream.get_mut().1.send_close_notify();
                stream.flush().await
            }
            Manner::Chatty => loop {
                stream.write_all(&[b'x'; 1024]).await?;
            },
        }
    }
}

/// MSG-LEN SP SYSLOG-MSG, MSG-LEN without a leading zero (RFC 5425 §4.3); none at the end.
async fn frame<R: AsyncRead + Unpin>(stream: &mut R) -> std::io::Result<Option<String>> {
    let mut length = 0usize;
    let mut digits = 0;
    loop {
        let octet = match stream.read_u8().await {
            Ok(octet) => octet,
            Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof && digits == 0 => return Ok(None),
            Err(error) => return Err(error),
        };
        match octet {
            b' ' if digits > 0 => break,
            b'1'..=b'9' => {}
            b'0' if digits > 0 => {}
            other => panic!("{other:#x} where a length is expected"),
        }
        digits += 1;
        length = length * 10 + usize::from(octet - b'0');
    }
    let mut message = vec![0; length];
    stream.read_exact(&mut message).await?;
    Ok(Some(String::from_utf8(message).unwrap()))
}
