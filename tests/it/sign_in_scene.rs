//! A control host with providers, and browsers that keep cookies as browsers do.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::http::{HeaderMap, Request, StatusCode};
use data_encoding::BASE64URL_NOPAD;
use doorward::control::Desk;
use doorward::identity::certificate::ClientCertificate;
use doorward::identity::cookie::SESSION_COOKIE;
use doorward::identity::provider::{ProviderSettings, Providers};
use doorward::model::{Session, SessionId, Timestamp};
use doorward::{api, console};
use sha2::{Digest, Sha256};
use tower::ServiceExt;

use crate::api_house::{House, ORIGIN, facts};
use crate::fake_provider::FakeProvider;
use crate::support::TestClock;

pub struct Scene {
    pub desk: Arc<Desk>,
    pub clock: TestClock,
    pub fake: FakeProvider,
    pub router: Router,
}

/// What a browser got.
#[derive(Debug)]
pub struct Page {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: String,
}

impl Page {
    pub fn location(&self) -> &str {
        assert_eq!(self.status, 303, "{self:?}");
        self.headers["location"].to_str().unwrap()
    }

    /// The value of a hidden field of the page's forms.
    pub fn hidden(&self, name: &str) -> String {
        let start = format!("name=\"{name}\" value=\"");
        let (_, rest) = self.body.split_once(&start).unwrap_or_else(|| panic!("no field `{name}` in {}", self.body));
        rest.split('"').next().unwrap().to_owned()
    }
}

/// A browser at the control host.
#[derive(Clone, Default)]
pub struct Browser {
    pub cookies: BTreeMap<String, String>,
    pub certificate: Option<ClientCertificate>,
    pub headers: Vec<(&'static str, String)>,
}

impl Scene {
    /// With one provider, named `corp`.
    pub async fn new(url: &str) -> Self {
        Self::with(url, |settings| vec![settings]).await
    }

    pub async fn with(url: &str, change: impl FnOnce(ProviderSettings) -> Vec<ProviderSettings>) -> Self {
        let house = House::new(url).await;
        let fake = FakeProvider::start(&house.clock).await;
        let mut this = Self { desk: house.desk, clock: house.clock, fake, router: Router::new() };
        let settings = change(this.fake.settings("corp"));
        this.restart(settings);
        this
    }

    /// The control host anew over the same database, with these providers.
    pub fn restart(&mut self, settings: Vec<ProviderSettings>) {
        let old = &self.desk;
        let providers = Arc::new(Providers::new(settings, ORIGIN, &old.clock).unwrap());
        self.desk = Arc::new(Desk {
            store: old.store.clone(),
            recorder: old.recorder.clone(),
            directory: Arc::clone(&old.directory),
            policies: Arc::clone(&old.policies),
            keys: Arc::clone(&old.keys),
            authority: Arc::clone(&old.authority),
            providers,
            sealer: Arc::clone(&old.sealer),
            clock: Arc::clone(&old.clock),
            clock_guard: Arc::clone(&old.clock_guard),
            entropy: Arc::clone(&old.entropy),
            settings: old.settings.clone(),
        });
        // As `server/run.rs` joins them.
        self.router = api::router(Arc::clone(&self.desk)).merge(console::router(Arc::clone(&self.desk)));
    }

    pub fn now(&self) -> Timestamp {
        use doorward::model::Clock;
        self.clock.now()
    }

    pub async fn get(&self, browser: &mut Browser, path: &str) -> Page {
        self.send(browser, "GET", path, None).await
    }

    /// A form of one of our pages.
    pub async fn post(&self, browser: &mut Browser, path: &str, fields: &[(&str, &str)]) -> Page {
        let mut ours = browser.clone();
        ours.headers.push(("origin", ORIGIN.to_owned()));
        ours.headers.push(("sec-fetch-site", "same-origin".to_owned()));
        let page = self.send(&mut ours, "POST", path, Some(fields)).await;
        browser.cookies = ours.cookies;
        page
    }

    pub async fn send(&self, browser: &mut Browser, method: &str, path: &str, fields: Option<&[(&str, &str)]>) -> Page {
        let mut request = Request::builder().method(method).uri(path);
        if !browser.cookies.is_empty() {
            let all: Vec<String> = browser.cookies.iter().map(|(name, value)| format!("{name}={value}")).collect();
            request = request.header("cookie", all.join("; "));
        }
        for (name, value) in &browser.headers {
            request = request.header(*name, value);
        }
        let mut body = Body::empty();
        if let Some(fields) = fields {
            request = request.header("content-type", "application/x-www-form-urlencoded");
            let text = form_urlencoded::Serializer::new(String::new()).extend_pairs(fields).finish();
            body = Body::from(text);
        }
        let mut request = request.body(body).unwrap();
        request.extensions_mut().insert(Arc::new(facts(browser.certificate.clone())));
        let response = self.router.clone().oneshot(request).await.unwrap();
        let (status, headers) = (response.status(), response.headers().clone());
        let body = String::from_utf8(to_bytes(response.into_body(), 1 << 20).await.unwrap().to_vec()).unwrap();
        for set in headers.get_all("set-cookie") {
            browser.keep(set.to_str().unwrap());
        }
        assert!(headers.contains_key("doorward-decision"), "{method} {path} has no decision");
        Page { status, headers, body }
    }

    /// The whole way through the provider, from `path` to where the browser is sent in the end.
    pub async fn sign_in(&self, browser: &mut Browser, path: &str) -> Page {
        let begun = self.get(browser, path).await;
        let answer = self.answer(begun.location());
        self.get(browser, &answer).await
    }

    /// The way back from the provider, where the person agreed.
    pub fn answer(&self, location: &str) -> String {
        callback(&self.fake.agree(location))
    }

    /// The session behind a browser's cookie.
    pub async fn session(&self, browser: &Browser) -> Session {
        let hash = Sha256::digest(browser.cookies[SESSION_COOKIE].as_bytes()).into();
        let cookie = self.desk.store.session_cookie_fetch(&hash).await.unwrap().unwrap();
        self.desk.store.session_fetch(cookie.session).await.unwrap().unwrap().session
    }

    pub async fn is_live(&self, id: SessionId) -> bool {
        let stored = self.desk.store.session_fetch(id).await.unwrap().unwrap().session.is_live(self.now());
        let known = self.desk.directory.session(id).unwrap().session.is_live(self.now());
        assert_eq!(stored, known, "this node obeys what is committed");
        stored
    }
}

impl Browser {
    /// Keeps a cookie as browsers do that know the prefix `__Host-`.
    fn keep(&mut self, set: &str) {
        let mut parts = set.split("; ");
        let (name, value) = parts.next().unwrap().split_once('=').unwrap();
        let attributes: Vec<&str> = parts.collect();
        assert!(name.starts_with("__Host-"), "{set}");
        for needed in ["Path=/", "Secure", "HttpOnly", "SameSite=Lax"] {
            assert!(attributes.contains(&needed), "{set}");
        }
        assert!(!attributes.iter().any(|attribute| attribute.starts_with("Domain")), "{set}");
        if attributes.contains(&"Max-Age=0") {
            self.cookies.remove(name);
        } else {
            self.cookies.insert(name.to_owned(), value.to_owned());
        }
    }
}

/// Our callback with these fields.
pub fn callback(answer: &BTreeMap<String, String>) -> String {
    let query = form_urlencoded::Serializer::new(String::new()).extend_pairs(answer).finish();
    format!("/signin/callback?{query}")
}

/// What a service host sends along for a browser with this flow cookie.
pub fn binding(flow: &str) -> String {
    BASE64URL_NOPAD.encode(&Sha256::digest(flow.as_bytes()))
}
