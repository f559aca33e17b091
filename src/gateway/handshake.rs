//! TLS: which certificate is demanded of whom, and what is known when the handshake is done.
//!
//! The name asked for (SNI) chooses before any certificate is looked at: a service that demands a
//! client certificate gets it in the handshake, others are asked for one, and an unknown or
//! missing name is refused with an alert. INVARIANTS: no session is ever resumed (no tickets, no
//! cache), so the client's chain is verified on each connection; and no early data is taken.

use std::cell::{Cell, OnceCell};
use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;

use rustls::client::danger::HandshakeSignatureValid;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{ClientHello, NoServerSessionStorage, ResolvesServerCert, WebPkiClientVerifier};
use rustls::sign::CertifiedKey;
use rustls::time_provider::TimeProvider;
use rustls::{CommonState, DigitallySignedStruct, DistinguishedName, RootCertStore, ServerConfig, SignatureScheme};
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::identity::breakglass::{Opening, OpeningRules, carries_opening, evidence_of};
use crate::identity::certificate::{ClientCertificate, Issuer, may_prove, may_vouch, trust_domain_of};
use crate::model::breakglass::Scope;
use crate::model::{Clock, Timestamp, Ttl};

use super::equip::ForwardedFields;

/// ALPN of HTTP/2 (RFC 9113 §3.1).
pub const ALPN_H2: &[u8] = b"h2";
/// ALPN of HTTP/1.1 (RFC 7301 §6).
pub const ALPN_H1: &[u8] = b"http/1.1";

/// Why a TLS side could not be built from its files.
#[derive(Debug)]
pub struct TlsError(pub String);

impl fmt::Display for TlsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for TlsError {}

/// The authorities whose client certificates are taken, each kind apart.
#[derive(Debug, Clone, Default)]
pub struct TrustAnchors {
    /// Our own authority.
    pub ours: Vec<CertificateDer<'static>>,
    /// Authorities of devices.
    pub devices: Vec<CertificateDer<'static>>,
    /// SPIFFE bundles, each of its trust domain.
    pub spiffe: Vec<SpiffeAnchors>,
}

/// The authorities of one SPIFFE trust domain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SpiffeAnchors {
    /// The trust domain, lower case.
    pub trust_domain: String,
    /// Its authorities.
    pub authorities: Vec<CertificateDer<'static>>,
}

/// One kind of authorities: their names and the verifier over exactly them.
#[derive(Debug)]
struct TrustClass {
    issuer: Issuer,
    /// The one trust domain that SPIFFE authorities may name somebody of.
    trust_domain: Option<String>,
    subjects: Vec<Vec<u8>>,
    verifier: Arc<dyn ClientCertVerifier>,
}

impl TrustClass {
    /// The chain holds under these authorities, each certificate is used as its key usage says, which webpki
    /// does not judge, and they name only whom they may: an authority of one trust domain says nothing of
    /// another's (SPIFFE, X.509-SVID §5.2).
    fn verify(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        at: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        let vouching: Vec<CertificateDer<'_>> =
            intermediates.iter().filter(|der| may_vouch(der)).map(|der| CertificateDer::from(der.as_ref())).collect();
        let verified = self.verifier.verify_client_cert(leaf, &vouching, at)?;
        if !may_prove(leaf) {
            return Err(rustls::Error::InvalidCertificate(rustls::CertificateError::InvalidPurpose));
        }
        let Some(domain) = &self.trust_domain else { return Ok(verified) };
        let named = ClientCertificate::read(leaf, Issuer::Spiffe).ok().and_then(|it| it.spiffe_id);
        match named.as_deref().and_then(trust_domain_of) {
            Some(named) if named == domain => Ok(verified),
            _ => Err(rustls::Error::InvalidCertificate(rustls::CertificateError::ApplicationVerificationFailure)),
        }
    }
}

/// Verifies client chains, each under the one kind of authority that its issuer's name points to,
/// so that a device authority can never vouch for a session.
#[derive(Debug)]
pub struct ClientTrust {
    classes: Vec<TrustClass>,
    hints: Vec<DistinguishedName>,
    mandatory: bool,
    /// The emergency path, where there is one.
    breakglass: Option<Arc<OpeningRules>>,
}

impl ClientTrust {
    /// Builds the verifier. `mandatory` demands a certificate in the handshake.
    ///
    /// # Errors
    /// When an anchor can't be read or our own is missing.
    pub fn new(
        anchors: &TrustAnchors,
        mandatory: Mandatory,
        breakglass: Option<Arc<OpeningRules>>,
    ) -> Result<Self, TlsError> {
        if anchors.ours.is_empty() {
            return Err(TlsError("our own client authority is missing: set `[trust] client_ca`".to_owned()));
        }
        let mut classes = Vec::new();
        let mut hints = Vec::new();
        let own = [(Issuer::Ours, None, &anchors.ours), (Issuer::Device, None, &anchors.devices)];
        let spiffe = anchors.spiffe.iter().map(|of| (Issuer::Spiffe, Some(&of.trust_domain), &of.authorities));
        for (issuer, trust_domain, ders) in own.into_iter().chain(spiffe) {
            if ders.is_empty() {
                continue;
            }
            let mut roots = RootCertStore::empty();
            let mut subjects = Vec::new();
            for der in ders {
                let (_, parsed) = X509Certificate::from_der(der)
                    .map_err(|e| TlsError(format!("a client authority's certificate can't be read: {e}")))?;
                subjects.push(parsed.subject().as_raw().to_vec());
                roots
                    .add(der.clone())
                    .map_err(|e| TlsError(format!("a client authority's certificate can't be used: {e}")))?;
            }
            let verifier = WebPkiClientVerifier::builder(Arc::new(roots))
                .build()
                .map_err(|e| TlsError(format!("client authorities can't be used: {e}")))?;
            hints.extend(verifier.root_hint_subjects().iter().cloned());
            classes.push(TrustClass { issuer, trust_domain: trust_domain.cloned(), subjects, verifier });
        }
        Ok(Self { classes, hints, mandatory: mandatory == Mandatory::Yes, breakglass })
    }

    /// Judges a certificate that carries an opening: by custodians alone, and alone in its chain.
    ///
    /// # Errors
    /// What is wrong with it, for the record.
    pub fn opening(&self, chain: &[CertificateDer<'_>], now: Timestamp) -> Result<Opening, String> {
        let rules = self.breakglass.as_ref().ok_or("there is no emergency path here")?;
        let [leaf] = chain else { return Err("an opening comes with one certificate".to_owned()) };
        let (key, evidence) = evidence_of(leaf).ok_or("the certificate's opening can't be read")?;
        let opening = rules.open(&key, &evidence, now).map_err(|error| error.to_string())?;
        if opening.challenge.scope == Scope::Drill {
            return Err("a drill opens nothing".to_owned());
        }
        Ok(opening)
    }

    /// The kind of authority that a chain must be verified under: the one that issued its last
    /// certificate; ours where nobody is named, so that it fails there.
    fn class_of(&self, leaf: &CertificateDer<'_>, intermediates: &[CertificateDer<'_>]) -> Option<&TrustClass> {
        let issued_by = |class: &TrustClass| {
            std::iter::once(leaf).chain(intermediates).any(|der| {
                X509Certificate::from_der(der)
                    .is_ok_and(|(_, parsed)| class.subjects.iter().any(|s| s == parsed.issuer().as_raw()))
            })
        };
        self.classes.iter().find(|class| issued_by(class)).or_else(|| self.classes.first())
    }

    /// Under which kind of authority a chain was verified in a handshake that used this verifier.
    fn kind_of(&self, chain: &[CertificateDer<'_>]) -> Option<Issuer> {
        let (leaf, intermediates) = chain.split_first()?;
        self.class_of(leaf, intermediates).map(|class| class.issuer)
    }

    /// Verifies a chain again, as it is asked when the set of authorities has changed under an
    /// open connection, and says under which kind it holds.
    ///
    /// # Errors
    /// When it no longer holds.
    pub fn verify(&self, chain: &[CertificateDer<'_>], now: Timestamp) -> Result<Issuer, rustls::Error> {
        let unknown = || rustls::Error::InvalidCertificate(rustls::CertificateError::UnknownIssuer);
        let (leaf, intermediates) = chain.split_first().ok_or_else(unknown)?;
        let class = self.class_of(leaf, intermediates).ok_or_else(unknown)?;
        let seconds = u64::try_from(now.seconds()).unwrap_or(0);
        let at = UnixTime::since_unix_epoch(std::time::Duration::from_secs(seconds));
        class.verify(leaf, intermediates, at)?;
        Ok(class.issuer)
    }
}

/// Whether the handshake demands a client certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mandatory {
    /// Without one the handshake fails.
    Yes,
    /// It is asked for, and verified if shown.
    No,
}

impl ClientCertVerifier for ClientTrust {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &self.hints
    }

    fn client_auth_mandatory(&self) -> bool {
        self.mandatory
    }

    fn verify_client_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        let unknown = || rustls::Error::InvalidCertificate(rustls::CertificateError::UnknownIssuer);
        // INVARIANT: what carries an opening is on that path and on no other.
        if carries_opening(leaf) {
            let chain: Vec<CertificateDer<'_>> = std::iter::once(leaf).chain(intermediates).cloned().collect();
            let seconds = i64::try_from(now.as_secs()).unwrap_or(i64::MAX);
            // rustls tells whole seconds: an opening that began within this one has begun.
            let within = Timestamp::from_seconds(seconds).plus(Ttl::millis(999));
            return match self.opening(&chain, within) {
                Ok(_) => Ok(ClientCertVerified::assertion()),
                Err(why) => Err(rustls::Error::General(format!("break-glass: {why}"))),
            };
        }
        let class = self.class_of(leaf, intermediates).ok_or_else(unknown)?;
        class.verify(leaf, intermediates, now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        match self.classes.first() {
            Some(class) => class.verifier.verify_tls12_signature(message, certificate, signature),
            None => Err(rustls::Error::General("no client authority".to_owned())),
        }
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        match self.classes.first() {
            Some(class) => class.verifier.verify_tls13_signature(message, certificate, signature),
            None => Err(rustls::Error::General("no client authority".to_owned())),
        }
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.classes.first().map(|class| class.verifier.supported_verify_schemes()).unwrap_or_default()
    }
}

/// The server's one certificate, whatever name is asked for; the name was judged before.
#[derive(Debug)]
struct OneCertificate(Arc<CertifiedKey>);

impl ResolvesServerCert for OneCertificate {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.0))
    }
}

/// No certificate at all: the handshake ends with an alert.
#[derive(Debug)]
struct NoCertificate;

impl ResolvesServerCert for NoCertificate {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        None
    }
}

/// The TLS side of the listener as one reload made it.
#[derive(Debug)]
pub struct TlsSide {
    /// For services that demand a client certificate.
    pub required: Arc<ServerConfig>,
    /// For services where it is optional, and the control host.
    pub optional: Arc<ServerConfig>,
    /// For names that nobody has.
    pub refusing: Arc<ServerConfig>,
    /// The verifier, for asking again.
    pub trust: Arc<ClientTrust>,
    /// What openings are judged by, for asking again.
    pub breakglass: Option<Arc<OpeningRules>>,
    /// When the server's own certificate ends.
    pub not_after: Timestamp,
}

/// rustls asks the clock that the node goes by, so that a certificate's time is judged by the time that
/// all else is: also while the machine's clock is set back.
struct RustlsTime(Arc<dyn Clock>);

impl fmt::Debug for RustlsTime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("RustlsTime")
    }
}

impl TimeProvider for RustlsTime {
    fn current_time(&self) -> Option<UnixTime> {
        let millis = u64::try_from(self.0.now().millis()).ok()?;
        Some(UnixTime::since_unix_epoch(std::time::Duration::from_millis(millis)))
    }
}

/// The clock that the node goes by, as rustls asks it.
#[must_use]
pub fn tls_time(clock: &Arc<dyn Clock>) -> Arc<dyn TimeProvider> {
    Arc::new(RustlsTime(Arc::clone(clock)))
}

impl TlsSide {
    /// The clock that certificates are judged by here.
    #[must_use]
    pub fn time(&self) -> Arc<dyn TimeProvider> {
        Arc::clone(&self.required.time_provider)
    }

    /// The same, judging certificates by this clock.
    #[must_use]
    pub fn by(&self, clock: &Arc<dyn Clock>) -> Self {
        let time = tls_time(clock);
        let side = |config: &Arc<ServerConfig>| {
            let mut config = ServerConfig::clone(config);
            config.time_provider = Arc::clone(&time);
            Arc::new(config)
        };
        Self {
            required: side(&self.required),
            optional: side(&self.optional),
            refusing: side(&self.refusing),
            trust: Arc::clone(&self.trust),
            breakglass: self.breakglass.clone(),
            not_after: self.not_after,
        }
    }

    /// Builds all of it from the server's chain and key and the client authorities.
    ///
    /// # Errors
    /// When the key does not belong to the certificate, or an authority can't be used.
    pub fn new(
        chain: Vec<CertificateDer<'static>>,
        key: PrivateKeyDer<'static>,
        anchors: &TrustAnchors,
        breakglass: Option<Arc<OpeningRules>>,
    ) -> Result<Self, TlsError> {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let leaf =
            chain.first().ok_or_else(|| TlsError("the server's certificate file has no certificate".to_owned()))?;
        let (_, parsed) = X509Certificate::from_der(leaf)
            .map_err(|e| TlsError(format!("the server's certificate can't be read: {e}")))?;
        let not_after = Timestamp::from_seconds(parsed.validity().not_after.timestamp());
        let certified = CertifiedKey::from_der(chain, key, &provider)
            .map_err(|e| TlsError(format!("the server's certificate and key can't be used together: {e}")))?;
        certified
            .keys_match()
            .map_err(|e| TlsError(format!("the server's key does not belong to its certificate: {e}")))?;
        let certified = Arc::new(certified);
        let side =
            |trust: Arc<ClientTrust>, resolver: Arc<dyn ResolvesServerCert>| -> Result<Arc<ServerConfig>, TlsError> {
                let mut config = ServerConfig::builder_with_provider(Arc::clone(&provider))
                    .with_safe_default_protocol_versions()
                    .map_err(|e| TlsError(format!("TLS 1.3 and 1.2 can't be offered: {e}")))?
                    .with_client_cert_verifier(trust)
                    .with_cert_resolver(resolver);
                config.alpn_protocols = vec![ALPN_H2.to_vec(), ALPN_H1.to_vec()];
                // INVARIANT: nothing is resumed. rustls verifies no client certificate on resumption.
                config.session_storage = Arc::new(NoServerSessionStorage {});
                config.send_tls13_tickets = 0;
                config.max_early_data_size = 0;
                Ok(Arc::new(config))
            };
        let mandatory = Arc::new(ClientTrust::new(anchors, Mandatory::Yes, breakglass.clone())?);
        let asking = Arc::new(ClientTrust::new(anchors, Mandatory::No, breakglass.clone())?);
        let one: Arc<dyn ResolvesServerCert> = Arc::new(OneCertificate(certified));
        Ok(Self {
            required: side(Arc::clone(&mandatory), Arc::clone(&one))?,
            optional: side(Arc::clone(&asking), one)?,
            refusing: side(asking, Arc::new(NoCertificate))?,
            trust: mandatory,
            breakglass,
            not_after,
        })
    }
}

/// The name that a client asked for: lower case, without the trailing dot.
#[must_use]
pub fn asked_name(sni: Option<&str>) -> Option<String> {
    let name = sni?;
    let name = name.strip_suffix('.').unwrap_or(name);
    (!name.is_empty()).then(|| name.to_ascii_lowercase())
}

/// What the handshake proved. It lives as long as the connection, longer than any one proof: what
/// can end in between is asked again on each request.
#[derive(Debug)]
pub struct Channel {
    /// Where the connection came from.
    pub peer: SocketAddr,
    /// The name that was asked for in the handshake.
    pub name: String,
    /// `h2` was agreed.
    pub http2: bool,
    /// The verified client certificate, where one was shown that names somebody.
    pub certificate: Option<ClientCertificate>,
    /// The opening that the certificate stands for, judged when the handshake was done.
    pub opening: Option<Opening>,
    /// Its chain, for verifying again.
    chain: Vec<CertificateDer<'static>>,
    /// The set of authorities that last verified it.
    epoch: Cell<u64>,
    /// What upstreams are told of it, once there was a request.
    pub forwarded: OnceCell<ForwardedFields>,
}

impl Channel {
    /// What is known when a handshake under the authorities of `epoch` is done. A certificate that
    /// was verified but can't be read, or names nobody, refuses the connection.
    ///
    /// # Errors
    /// When the shown certificate is of no use.
    pub fn new(
        peer: SocketAddr,
        name: String,
        state: &CommonState,
        trust: &ClientTrust,
        epoch: u64,
        now: Timestamp,
    ) -> Result<Self, TlsError> {
        let chain: Vec<CertificateDer<'static>> =
            state.peer_certificates().unwrap_or_default().iter().map(|c| c.clone().into_owned()).collect();
        let mut opening = None;
        let certificate = match chain.first() {
            None => None,
            Some(leaf) if carries_opening(leaf) => {
                let proven = trust.opening(&chain, now).map_err(TlsError)?;
                let read = ClientCertificate::read(leaf, Issuer::BreakGlass)
                    .map_err(|e| TlsError(format!("the client's certificate can't be read: {e:?}")))?;
                let (not_before, not_after) = (proven.challenge.not_before, proven.challenge.expires);
                opening = Some(proven);
                // Its own dates are the client's word; the challenge's are the custodians'.
                Some(ClientCertificate { not_before, not_after, ..read })
            }
            Some(leaf) => {
                let issuer = trust
                    .kind_of(&chain)
                    .ok_or_else(|| TlsError("the client's certificate is of no known authority".to_owned()))?;
                let read = ClientCertificate::read(leaf, issuer)
                    .map_err(|e| TlsError(format!("the client's certificate names nobody: {e:?}")))?;
                Some(read)
            }
        };
        Ok(Self {
            peer,
            name,
            http2: state.alpn_protocol() == Some(ALPN_H2),
            certificate,
            opening,
            chain,
            epoch: Cell::new(epoch),
            forwarded: OnceCell::new(),
        })
    }

    /// Whether the client's chain holds under the authorities of now. Verified again only when
    /// they changed since it was last asked.
    #[must_use]
    pub fn still_trusted(&self, trust: &ClientTrust, epoch: u64, now: Timestamp) -> bool {
        if self.chain.is_empty() || self.epoch.get() == epoch {
            return true;
        }
        let holds = trust
            .verify(&self.chain, now)
            .is_ok_and(|issuer| self.certificate.as_ref().is_some_and(|certificate| certificate.issuer == issuer));
        if holds {
            self.epoch.set(epoch);
        }
        holds
    }
}
