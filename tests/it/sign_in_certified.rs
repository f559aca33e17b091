//! Sign-in at a certified OpenID provider of somebody else's making: npm `oidc-provider` under
//! `tests/idp`, which `tests/run` installs. Alone, a test says that it left it out.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use doorward::control::recheck;
use doorward::identity::provider::ProviderSettings;
use doorward::model::{Secret, SessionId, Timestamp, Ttl};
use doorward::outbound::{Client, ClientSettings};
use http::Request;
use serde_json::Value;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};
use url::Url;

use crate::api_house::ORIGIN;
use crate::sign_in_scene::{Browser, Page, Scene};
use crate::support::{databases, sqlite_database};

struct Certified {
    scene: Scene,
    issuer: String,
    outside: Client,
    _process: Child,
}

fn real_time() -> Timestamp {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    Timestamp::from_millis(i64::try_from(since.as_millis()).unwrap())
}

impl Certified {
    /// `None` where it is not installed.
    async fn start(url: &str, options: &[&str]) -> Option<Self> {
        let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/idp");
        if !folder.join("node_modules/oidc-provider").exists() {
            let required = std::env::var("DOORWARD_TEST_REQUIRE_POSTGRES").is_ok_and(|value| value == "1");
            assert!(!required, "the certified provider is missing: `npm ci --prefix tests/idp`");
            println!("note: the certified provider is left out; `npm ci --prefix tests/idp` installs it");
            return None;
        }
        let mut scene = Scene::new(url).await;
        // It reads the machine's clock, so ours shows the same.
        scene.clock.set(real_time());
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let logout = format!("http://{}/oauth2/backchannel_logout", listener.local_addr().unwrap());
        let mut process = Command::new("node")
            .arg("provider.mjs")
            .args(["--redirect-uri", &format!("{ORIGIN}/signin/callback"), "--backchannel-logout-uri", &logout])
            .arg("--until-stdin-ends")
            .args(options)
            .current_dir(folder)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(process.stdout.take().unwrap()).lines();
        let ready = tokio::time::timeout(Duration::from_secs(30), lines.next_line()).await.unwrap().unwrap().unwrap();
        let ready: Value = serde_json::from_str(&ready).unwrap();
        let issuer = ready["issuer"].as_str().unwrap().to_owned();
        let map = ["engineering", "security"].map(|group| (group.to_owned(), group.to_owned()));
        scene.restart(vec![ProviderSettings {
            issuer: issuer.clone(),
            client_secret: Some(Arc::new(Secret::new("secret".to_owned()))),
            groups: Some(BTreeMap::from(map)),
            ..scene.fake.settings("idp")
        }]);
        // Where a connection comes from is known to all that is served.
        let router = scene.router.clone().layer(axum::Extension(Arc::new(crate::api_house::facts(None))));
        tokio::spawn(crate::fake_provider::serve(listener, router));
        let settings = ClientSettings { authorities: Vec::new(), allow_loopback: true };
        let outside = Client::new(settings, Arc::new(scene.clock.clone())).unwrap();
        Some(Self { scene, issuer, outside, _process: process })
    }

    /// Signs in as a browser does: through the provider's own redirects and cookies.
    async fn sign_in(&self, browser: &mut Browser, name: &str) -> Page {
        self.sign_in_from(browser, &format!("/signin?login_hint={name}")).await
    }

    async fn sign_in_from(&self, browser: &mut Browser, path: &str) -> Page {
        let mut there = self.scene.get(browser, path).await.location().to_owned();
        let mut cookies: BTreeMap<String, String> = BTreeMap::new();
        for _ in 0..10 {
            if let Some(path) = there.strip_prefix(ORIGIN) {
                // Never back: a node goes by no time that runs back.
                self.scene.clock.set(real_time().max(self.scene.now()));
                return self.scene.get(browser, path).await;
            }
            let all: Vec<String> = cookies.iter().map(|(name, value)| format!("{name}={value}")).collect();
            let request = Request::get(&there).header("cookie", all.join("; ")).body(Vec::new()).unwrap();
            let answer = self.outside.send(request).await.unwrap();
            for set in answer.headers().get_all("set-cookie") {
                let (name, rest) = set.to_str().unwrap().split_once('=').unwrap();
                cookies.insert(name.to_owned(), rest.split(';').next().unwrap().to_owned());
            }
            let location = answer.headers().get("location").unwrap_or_else(|| panic!("{there}: {answer:?}"));
            there = Url::parse(&there).unwrap().join(location.to_str().unwrap()).unwrap().into();
        }
        panic!("the provider redirects without end");
    }

    async fn lever(&self, what: &str, body: &str) {
        let request = Request::post(format!("{}/_test/{what}", self.issuer)).body(body.as_bytes().to_vec()).unwrap();
        assert_eq!(self.outside.send(request).await.unwrap().status(), 204);
    }

    /// Comes to the next check. Tokens end in an hour, so the clock may run ahead of the machine's.
    async fn recheck(&self) {
        self.scene.clock.advance(Ttl::minutes(15));
        assert!(recheck::recheck_due(&self.scene.desk, self.scene.now()).await.unwrap() > 0);
    }

    async fn id(&self, browser: &Browser) -> SessionId {
        self.scene.session(browser).await.id
    }
}

#[tokio::test]
async fn a43_a_certified_provider_signs_in_changes_groups_logs_out_and_refuses() {
    for url in databases() {
        let Some(certified) = Certified::start(&url, &[]).await else { return };
        let scene = &certified.scene;
        let mut alice = Browser::default();
        assert_eq!(certified.sign_in(&mut alice, "alice").await.location(), "/");
        let session = scene.session(&alice).await;
        assert_eq!(session.principal.to_string(), "User::\"idp|alice\"");
        assert_eq!((session.email.as_deref(), session.email_verified), (Some("alice@example.com"), true));
        assert_eq!(session.groups, ["engineering"]);
        // It tells when its people proved themselves, and asks them anew.
        assert!(session.authenticated_at > scene.now().minus(Ttl::minutes(1)), "{session:?}");
        let anew = certified.sign_in_from(&mut alice, "/signin?login_hint=alice&max_age=0").await;
        assert_eq!(anew.location(), "/");
        let session = scene.session(&alice).await;
        assert!(session.authenticated_at > scene.now().minus(Ttl::minutes(1)), "{session:?}");
        // The provider tells us by itself, while its clock and ours are one.
        certified.lever("logout/alice", "").await;
        assert!(!scene.is_live(session.id).await);
        assert_eq!(scene.get(&mut alice, "/").await.location(), "/signin?return_to=%2F");
        certified.sign_in(&mut alice, "alice").await;
        certified.lever("groups/alice", "[\"security\", \"unmapped\"]").await;
        certified.recheck().await;
        assert_eq!(scene.session(&alice).await.groups, ["security"]);
        // Disabled: refused when asked.
        let mut bob = Browser::default();
        certified.sign_in(&mut bob, "bob").await;
        let id = certified.id(&bob).await;
        certified.lever("disable/bob", "").await;
        certified.recheck().await;
        assert!(!scene.is_live(id).await);
        assert_eq!(certified.sign_in(&mut bob, "bob").await.status, 403);
    }
}

#[tokio::test]
async fn a_certified_provider_with_other_choices_signs_in_too() {
    for options in [
        &["--conform-id-token"][..],
        &["--alg", "ES256", "--auth-method", "client_secret_post"],
        &["--conform-id-token", "--alg", "ES256"],
    ] {
        let Some(certified) = Certified::start(&sqlite_database(), options).await else { return };
        let mut carol = Browser::default();
        assert_eq!(certified.sign_in(&mut carol, "carol").await.location(), "/", "{options:?}");
        let session = certified.scene.session(&carol).await;
        assert_eq!(session.email.as_deref(), Some("carol@example.com"), "{options:?}");
        assert_eq!(session.groups, ["security"], "{options:?}");
        certified.recheck().await;
        assert!(certified.scene.is_live(session.id).await, "{options:?}");
        assert_eq!(certified.scene.session(&carol).await.groups, ["security"], "{options:?}");
    }
}
