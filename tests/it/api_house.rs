//! A control host in memory for the tests of sessions, OAuth and the API: a real database, the
//! policies that come with the product, a clock that is moved by hand, and HTTP through the router.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::{Arc, OnceLock};

use arc_swap::ArcSwap;
use axum::Router;
use axum::body::{Body, to_bytes};
use axum::http::{HeaderMap, Request, StatusCode};
use data_encoding::BASE64URL_NOPAD;
use doorward::control::audit::root::Root;
use doorward::control::audit::tree::LogTree;
use doorward::control::session::{self, NewSession};
use doorward::control::{ClockGuard, ConnectionFacts, Desk, DeskSettings, Keys, record, signing_key};
use doorward::credential::authority::Authority;
use doorward::credential::seal::Sealer;
use doorward::identity::certificate::{ClientCertificate, Issuer};
use doorward::identity::cookie::{CookieValue, SESSION_COOKIE};
use doorward::identity::directory::Directory;
use doorward::identity::provider::Providers;
use doorward::model::{Clock, Entropy, NodeId, Principal, SessionId, SessionKind, Thumbprint, Timestamp, Ttl};
use doorward::policy::PolicySet;
use doorward::store::{ProviderLink, Recorder, RecorderSettings, Store, StoredSession};
use doorward::{api, console};
use rcgen::{CertificateParams, KeyPair};
use serde_json::Value;
use sha2::{Digest, Sha256};
use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower::ServiceExt;

use crate::policy::examples;
use crate::support::{SeededEntropy, TestClock, install_crypto};

pub const ORIGIN: &str = "https://doorward.localhost:8443";
pub const REDIRECT: &str = "http://127.0.0.1:49152/callback";

/// A control host.
pub struct House {
    pub desk: Arc<Desk>,
    pub clock: TestClock,
    router: Router,
}

/// Who calls, with what.
#[derive(Clone, Default)]
pub struct Caller {
    pub certificate: Option<ClientCertificate>,
    pub cookie: Option<String>,
    pub bearer: Option<String>,
    pub headers: Vec<(&'static str, String)>,
}

impl Caller {
    /// What the forms of our pages carry for this browser.
    pub fn form_token(&self) -> String {
        let cookie = self.cookie.as_deref().unwrap().strip_prefix(SESSION_COOKIE).unwrap();
        CookieValue::parse(&cookie[1..]).unwrap().form_token()
    }
}

/// What was answered.
#[derive(Debug)]
pub struct Answer {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Value,
}

impl Answer {
    pub fn text(&self, pointer: &str) -> &str {
        self.body.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
    }

    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map(|value| value.to_str().unwrap()).unwrap_or_default()
    }
}

/// A person as a provider would tell of them.
pub fn groups_of(person: &str) -> &'static [&'static str] {
    match person {
        "alice" => &["engineering"],
        "bob" => &["engineering", "release-managers"],
        "carol" => &["security", "auditors"],
        _ => &[],
    }
}

impl House {
    pub async fn new(url: &str) -> Self {
        Self::with(url, |_| {}).await
    }

    pub async fn with(url: &str, change: impl FnOnce(&mut DeskSettings)) -> Self {
        Self::node(url, TestClock::new(), 1, 42, change).await
    }

    /// One of several nodes on a database, or one that starts again: `seed` is never used twice.
    pub async fn node(
        url: &str,
        clock: TestClock,
        number: u8,
        seed: u64,
        change: impl FnOnce(&mut DeskSettings),
    ) -> Self {
        // Read once: a test may start many nodes.
        static EXAMPLES: OnceLock<Arc<PolicySet>> = OnceLock::new();
        install_crypto();
        let now = clock.now();
        let entropy: Arc<dyn Entropy> = Arc::new(SeededEntropy::new(seed));
        let store = Store::open(url).unwrap();
        store.migrate().await.unwrap();
        let sealer = Arc::new(Sealer::new(&[9; 32]).unwrap());
        record::open(&store, &sealer, NodeId::from_bytes([number; 16]), now, Arc::clone(&entropy)).await.unwrap();
        let clock_guard = Arc::new(ClockGuard::new(Arc::new(clock.clone())));
        let shared_clock = Arc::clone(&clock_guard) as Arc<dyn Clock>;
        let (recorder, _) = Recorder::start(
            store.clone(),
            RecorderSettings::default(),
            Arc::clone(&shared_clock),
            CancellationToken::new(),
            &TaskTracker::new(),
            &Handle::current(),
        )
        .unwrap();
        let settings = signing_key::KeySettings::default();
        let loaded = signing_key::load_or_create(&store, &sealer, now, &*entropy, &settings).await.unwrap();
        let authority = Authority::generate("Test", now, Ttl::hours(24 * 365), &*entropy).unwrap();
        let authority = Authority::load(&authority.certificate.pem, &authority.key_pem).unwrap();
        let mut settings = DeskSettings {
            origin: ORIGIN.to_owned(),
            domain: "doorward.localhost".to_owned(),
            public_port: 8443,
            lifetime: Ttl::hours(12),
            idle: None,
            certificate_ttl: Ttl::hours(1),
            recheck: Ttl::minutes(15),
            device_code: true,
            device_code_ttl: Ttl::minutes(10),
            access_ttl: Ttl::minutes(15),
            refresh_ttl: Ttl::hours(12),
            development: false,
            keep: Vec::new(),
        };
        change(&mut settings);
        let desk = Arc::new(Desk {
            store,
            recorder,
            directory: Arc::new(Directory::default()),
            policies: Arc::new(ArcSwap::new(Arc::clone(EXAMPLES.get_or_init(|| Arc::new(examples()))))),
            keys: Arc::new(ArcSwap::from_pointee(Keys::of(&loaded.ring))),
            authority: Arc::new(ArcSwap::from_pointee(authority)),
            providers: Arc::new(Providers::new(Vec::new(), ORIGIN, &shared_clock).unwrap()),
            sealer,
            clock: shared_clock,
            clock_guard,
            entropy,
            settings,
        });
        let root = Root::ensure(&desk.store, &desk.sealer, now, &*desk.entropy).await.unwrap();
        LogTree::open(&desk.store, &desk.sealer, &root, now, &*desk.entropy).await.unwrap();
        // As `server/run.rs` joins them.
        let router = api::router(Arc::clone(&desk)).merge(console::router(Arc::clone(&desk)));
        Self { router, desk, clock }
    }

    pub fn now(&self) -> Timestamp {
        self.clock.now()
    }

    /// A browser session of `person`, as sign-in starts it: the caller with its cookie.
    pub async fn browser(&self, person: &str) -> (Caller, StoredSession) {
        let now = self.now();
        let cookie = CookieValue::fresh(&*self.desk.entropy);
        let link = format!("lnk-{}", BASE64URL_NOPAD.encode(&self.desk.entropy.bytes_32()));
        let mut tx = self.desk.store.begin().await.unwrap();
        let kept = ProviderLink {
            id: link.clone(),
            provider: "dev".to_owned(),
            subject: person.to_owned(),
            sid: Some(format!("sid-of-{person}")),
            sealed: None,
            next_check_at: None,
        };
        tx.link_insert(&kept, now).await.unwrap();
        tx.commit().await.unwrap();
        let new = NewSession {
            email: Some(format!("{person}@example.com")),
            email_verified: true,
            name: Some(person.to_owned()),
            groups: groups_of(person).iter().map(ToString::to_string).collect(),
            authenticated_at: now.minus(Ttl::minutes(3)),
            amr: vec!["pwd".to_owned(), "otp".to_owned()],
            link: Some(link),
            cookie: Some((cookie.hash(), "doorward.localhost".to_owned())),
            ..crate::support::new_session(SessionKind::Browser, Principal::user("dev", person).unwrap(), now)
        };
        let started = session::start(&self.desk, new, None, &facts(None), now).await.unwrap();
        let caller = Caller { cookie: Some(format!("{SESSION_COOKIE}={}", cookie.expose())), ..Caller::default() };
        (caller, started.stored)
    }

    /// `person`, signed in at the command line: with certificate, and what the token answer was.
    pub async fn command_line(&self, person: &str) -> (Caller, Value, KeyPair) {
        let (browser, _) = self.browser(person).await;
        let code = self.code(&browser).await;
        let key = KeyPair::generate().unwrap();
        let answer = self.exchange(&code, &[("csr", &csr(&key))]).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        (Caller { certificate: Some(shown(answer.text("/certificate"))), ..Caller::default() }, answer.body, key)
    }

    /// A code for a browser.
    pub async fn code(&self, browser: &Caller) -> String {
        let answer = self.agree(browser, &[]).await;
        assert_eq!(answer.status, 303, "{answer:?}");
        query_of(answer.header("location"), "code").unwrap()
    }

    /// Says on the page that asks that the program is this browser's person's own, as its form does;
    /// `more` replaces or adds fields.
    pub async fn agree(&self, browser: &Caller, more: &[(&str, &str)]) -> Answer {
        let form = browser.form_token();
        let own = [("form", form.as_str()), ("answer", "agree")];
        let own = own.iter().filter(|(name, _)| !more.iter().any(|(other, _)| other == name));
        let path = authorize_path(&own.chain(more).copied().collect::<Vec<_>>());
        let fields: Vec<(String, String)> =
            form_urlencoded::parse(path.split_once('?').unwrap().1.as_bytes()).into_owned().collect();
        let fields: Vec<(&str, &str)> = fields.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        let mut page = browser.clone();
        page.headers.push(("origin", ORIGIN.to_owned()));
        self.form(&page, "/signin/program", &fields).await
    }

    /// Exchanges a code with the right verifier; `more` replaces or adds fields.
    pub async fn exchange(&self, code: &str, more: &[(&str, &str)]) -> Answer {
        let fields = [
            ("grant_type", "authorization_code"),
            ("code", code),
            ("redirect_uri", REDIRECT),
            ("client_id", "doorward-cli"),
            ("code_verifier", VERIFIER),
        ];
        self.form(&Caller::default(), "/oauth2/token", &merged(&fields, more)).await
    }

    pub async fn refresh(&self, caller: &Caller, token: &str, more: &[(&str, &str)]) -> Answer {
        let fields = [("grant_type", "refresh_token"), ("refresh_token", token), ("client_id", "doorward-cli")];
        self.form(caller, "/oauth2/token", &merged(&fields, more)).await
    }

    pub async fn get(&self, caller: &Caller, path: &str) -> Answer {
        self.send(caller, "GET", path, None, Body::empty()).await
    }

    pub async fn form(&self, caller: &Caller, path: &str, fields: &[(&str, &str)]) -> Answer {
        let mut body = form_urlencoded::Serializer::new(String::new());
        body.extend_pairs(fields);
        let body = Body::from(body.finish());
        self.send(caller, "POST", path, Some("application/x-www-form-urlencoded"), body).await
    }

    pub async fn json(&self, caller: &Caller, path: &str, body: &Value) -> Answer {
        self.send(caller, "POST", path, Some("application/json"), Body::from(body.to_string())).await
    }

    pub async fn send(
        &self,
        caller: &Caller,
        method: &str,
        path: &str,
        content_type: Option<&str>,
        body: Body,
    ) -> Answer {
        let mut request = Request::builder().method(method).uri(path);
        if let Some(content_type) = content_type {
            request = request.header("content-type", content_type);
        }
        if let Some(cookie) = &caller.cookie {
            request = request.header("cookie", cookie);
        }
        if let Some(bearer) = &caller.bearer {
            request = request.header("authorization", format!("Bearer {bearer}"));
        }
        for (name, value) in &caller.headers {
            request = request.header(*name, value);
        }
        let mut request = request.body(body).unwrap();
        request.extensions_mut().insert(Arc::new(facts(caller.certificate.clone())));
        let response = self.router.clone().oneshot(request).await.unwrap();
        let (status, headers) = (response.status(), response.headers().clone());
        let body = to_bytes(response.into_body(), 1 << 20).await.unwrap();
        let lines = headers.get("content-type").is_some_and(|kind| kind == "application/x-ndjson");
        let body = match body.is_empty() {
            true => Value::Null,
            false if lines => Value::String(String::from_utf8(body.to_vec()).unwrap()),
            false if headers["content-type"].as_bytes().starts_with(b"text/html") => {
                Value::String(String::from_utf8(body.to_vec()).unwrap())
            }
            false => serde_json::from_slice(&body).unwrap(),
        };
        assert!(headers.contains_key("doorward-decision"), "{method} {path} has no decision");
        Answer { status, headers, body }
    }

    /// Ends a session in the database alone, as another node would have.
    pub async fn end_elsewhere(&self, id: SessionId) {
        let mut tx = self.desk.store.begin().await.unwrap();
        tx.session_end(id, doorward::model::SessionEnd::Revoked, self.now()).await.unwrap().unwrap();
        tx.commit().await.unwrap();
    }
}

pub fn facts(certificate: Option<ClientCertificate>) -> ConnectionFacts {
    ConnectionFacts { address: IpAddr::V4(Ipv4Addr::new(192, 0, 2, 7)), certificate }
}

/// A certificate of our authority, as the handshake hands it on.
pub fn shown(pem: &str) -> ClientCertificate {
    let (_, block) = x509_parser::pem::parse_x509_pem(pem.as_bytes()).unwrap();
    ClientCertificate::read(&block.contents, Issuer::Ours).unwrap()
}

/// A device's certificate, as the handshake hands it on.
pub fn device(name: &str, now: Timestamp) -> ClientCertificate {
    ClientCertificate {
        issuer: Issuer::Device,
        thumbprint: Thumbprint::of(name.as_bytes()),
        not_before: now.minus(Ttl::hours(1)),
        not_after: now.plus(Ttl::hours(24)),
        session: None,
        spiffe_id: None,
        common_name: name.to_owned(),
    }
}

pub fn csr(key: &KeyPair) -> String {
    CertificateParams::default().serialize_request(key).unwrap().pem().unwrap()
}

pub const VERIFIER: &str = "dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk";

pub fn challenge() -> String {
    BASE64URL_NOPAD.encode(&Sha256::digest(VERIFIER.as_bytes()))
}

/// The way to `/oauth2/authorize` with all that belongs there; `more` replaces or adds fields.
pub fn authorize_path(more: &[(&str, &str)]) -> String {
    let challenge = challenge();
    let fields = [
        ("response_type", "code"),
        ("client_id", "doorward-cli"),
        ("redirect_uri", REDIRECT),
        ("code_challenge", challenge.as_str()),
        ("code_challenge_method", "S256"),
        ("state", "a state & more"),
    ];
    let mut query = form_urlencoded::Serializer::new(String::new());
    query.extend_pairs(merged(&fields, more));
    format!("/oauth2/authorize?{}", query.finish())
}

/// The first fields, with those of the second in place of theirs; an empty value takes one away.
fn merged<'a>(fields: &[(&'a str, &'a str)], more: &[(&'a str, &'a str)]) -> Vec<(&'a str, &'a str)> {
    let kept = fields.iter().filter(|(name, _)| !more.iter().any(|(other, _)| other == name));
    kept.chain(more).filter(|(_, value)| !value.is_empty()).copied().collect()
}

/// A field of a URL's query.
pub fn query_of(url: &str, name: &str) -> Option<String> {
    let (_, query) = url.split_once('?')?;
    form_urlencoded::parse(query.as_bytes()).find(|(key, _)| key == name).map(|(_, value)| value.into_owned())
}
