//! Sign-in at the provider that comes with `doorward dev`.

use std::sync::Arc;

use doorward::control::recheck;
use doorward::identity::provider::ProviderSettings;
use doorward::model::{Secret, Ttl};
use doorward::outbound::{Client, ClientSettings};
use doorward::server::dev::provider::{DevProvider, DevProviderLever, DevProviderSettings};

use crate::api_house::ORIGIN;
use crate::sign_in_scene::{Browser, Page, Scene};
use crate::support::{SeededEntropy, databases};

struct Dev {
    scene: Scene,
    lever: DevProviderLever,
    outside: Client,
}

impl Dev {
    async fn start(url: &str) -> Self {
        let mut scene = Scene::new(url).await;
        let settings = DevProviderSettings {
            client_id: "doorward".into(),
            client_secret: Secret::new("s3c:ret".into()),
            redirect_uris: vec![format!("{ORIGIN}/signin/callback")],
            key_file: None,
        };
        let (clock, entropy) = (Arc::new(scene.clock.clone()), Arc::new(SeededEntropy::new(3)));
        let provider =
            DevProvider::bind("127.0.0.1:0".parse().unwrap(), settings, clock.clone(), entropy).await.unwrap();
        let lever = provider.lever();
        scene.restart(vec![ProviderSettings {
            name: "dev".to_owned(),
            issuer: provider.issuer().to_owned(),
            client_id: "doorward".to_owned(),
            client_secret: Some(Arc::new(Secret::new("s3c:ret".to_owned()))),
            groups: None,
            ..scene.fake.settings("dev")
        }]);
        tokio::spawn(provider.serve(std::future::pending()));
        let outside = Client::new(ClientSettings { authorities: Vec::new(), allow_loopback: true }, clock).unwrap();
        Self { scene, lever, outside }
    }

    async fn sign_in(&self, browser: &mut Browser, name: &str) -> Page {
        let begun = self.scene.get(browser, &format!("/signin?login_hint={name}")).await;
        let answer = self.outside.get(begun.location(), None).await.unwrap();
        let back = answer.headers()["location"].to_str().unwrap();
        self.scene.get(browser, back.strip_prefix(ORIGIN).unwrap()).await
    }
}

#[tokio::test]
async fn people_of_the_dev_provider_sign_in_change_groups_and_are_disabled() {
    for url in databases() {
        let dev = Dev::start(&url).await;
        let (mut alice, mut carol) = (Browser::default(), Browser::default());
        assert_eq!(dev.sign_in(&mut alice, "alice").await.location(), "/");
        assert_eq!(dev.sign_in(&mut carol, "carol").await.location(), "/");
        let session = dev.scene.session(&alice).await;
        assert_eq!(session.principal.to_string(), "User::\"dev|alice\"");
        assert!(session.email_verified);
        assert_eq!(session.groups, ["dev|engineering"]);
        dev.lever.set_groups("carol", &["security"]);
        dev.lever.disable("alice");
        dev.scene.clock.advance(Ttl::minutes(15));
        assert_eq!(recheck::recheck_due(&dev.scene.desk, dev.scene.now()).await.unwrap(), 2);
        assert!(!dev.scene.is_live(session.id).await);
        assert_eq!(dev.scene.session(&carol).await.groups, ["dev|security"]);
        assert_eq!(dev.sign_in(&mut alice, "alice").await.status, 403);
        dev.lever.enable("alice");
        assert_eq!(dev.sign_in(&mut alice, "alice").await.location(), "/");
    }
}
