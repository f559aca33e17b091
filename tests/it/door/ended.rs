//! What ends a person's access, in every way in, within its bound (a43); and providers that are not whom
//! their name says (a70).

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use doorward::config;
use doorward::control::recheck;
use doorward::model::{Clock, Secret, Ttl};
use doorward::server::ambient::SystemEntropy;
use doorward::server::dev::provider::{DevProvider, DevProviderSettings};
use doorward::server::run::{Start, start};
use http::Method;
use http_body_util::BodyExt;
use serde_json::json;

use super::exchange::{body, of_person, used};
use super::fixture::{BOTH, Door, Http, Person, Plan, Speaks, full, with_door, with_stopping_door};
use super::upstream::Reply;

/// Everything that a person has open or could use.
struct Access {
    person: Person,
    clients: Vec<Http>,
    stream: hyper::body::Incoming,
    _stream_client: Http,
    token: String,
}

impl Access {
    async fn of(door: &Door, name: &str) -> Self {
        let person = door.sign_in(name).await;
        let mut clients = Vec::new();
        for speaks in BOTH {
            let mut client = door.client("app", Some(&person), speaks).await;
            assert_eq!(client.get("/x").await.status, 200);
            clients.push(client);
        }
        let mut stream_client = door.client("app", Some(&person), Speaks::Http2).await;
        let request = stream_client.request(Method::GET, "/long").body(full("")).unwrap();
        let mut stream = stream_client.send(request).await.unwrap().into_body();
        assert!(stream.frame().await.unwrap().is_ok());
        let answer = body(&of_person(door, &person, &[], &[("audience", "app")]).await);
        let token = answer["access_token"].as_str().unwrap().to_owned();
        assert_eq!(used(door, "app", Some(&person), &token, "/x").await.status, 200);
        Self { person, clients, stream, _stream_client: stream_client, token }
    }

    /// Nothing of it is of any use any more, and nothing of it reaches the upstream.
    async fn ended(mut self, door: &Door, what: &str) {
        let before = door.raw.count();
        for client in &mut self.clients {
            let got = client.get("/x").await;
            assert_eq!((got.status.as_u16(), got.reason().as_str()), (401, "session_ended"), "{what}");
        }
        let cut = tokio::time::timeout(Duration::from_secs(1), async {
            while let Some(Ok(_)) = self.stream.frame().await {}
        });
        cut.await.unwrap_or_else(|_| panic!("{what}: a stream is still open"));
        assert_eq!(used(door, "app", Some(&self.person), &self.token, "/x").await.status, 401, "{what}");
        let mut control = door.client("", Some(&self.person), Speaks::Http1).await;
        assert_eq!(control.get("/api/v1/whoami").await.reason(), "session_ended", "{what}");
        let exchange = of_person(door, &self.person, &[], &[("audience", "app")]).await;
        // RFC 6749 §5.2: who shows it is nobody any more.
        assert_eq!(exchange.status, 401, "{what}: {}", exchange.text());
        assert_eq!(body(&exchange)["error"], "invalid_client", "{what}");
        assert_eq!(door.raw.count(), before, "{what}");
    }
}

#[test]
fn a43_whoever_is_signed_out_or_disabled_is_out_everywhere_within_the_bound() {
    let plan = Plan { environment: vec![("DOORWARD__SESSION__CERTIFICATE_TTL", "12h".to_owned())], ..Plan::default() };
    with_door(plan, async |door| {
        door.raw.reply("/long", Reply::Bytes(b"HTTP/1.1 200 OK\r\ncontent-length: 1000000\r\n\r\nbegin".to_vec()));
        let desk = Arc::clone(&door.running().desk);
        // At once: on one's own word.
        let alice = Access::of(door, "alice").await;
        let path = format!("/api/v1/sessions/{}/revoke", alice.person.session);
        let mut control = door.client("", Some(&alice.person), Speaks::Http1).await;
        let sent = json!({ "reason": "leaving" }).to_string();
        let headers = [("content-type", "application/json")];
        assert_eq!(control.ask(Method::POST, &path, &headers, sent.as_bytes()).await.status, 200);
        alice.ended(door, "signed out").await;
        // Disabled at the provider: at the next time that it is asked, which is `recheck` away at most.
        let bob = Access::of(door, "bob").await;
        let alice = Access::of(door, "alice").await;
        door.lever.disable("bob");
        assert_eq!(door.get("app", Some(&bob.person), Speaks::Http2, "/x").await.status, 200, "not asked yet");
        door.clock.advance(Ttl::minutes(15));
        door.settled().await;
        recheck::recheck_due(&desk, door.clock.now()).await.unwrap();
        bob.ended(door, "disabled").await;
        assert_eq!(
            door.get("app", Some(&alice.person), Speaks::Http2, "/x").await.status,
            200,
            "who is not disabled goes on"
        );
        // A group that is taken away: the session goes on without it, on connections that are open too.
        door.lever.set_groups("alice", &[]);
        door.clock.advance(Ttl::minutes(15));
        door.settled().await;
        recheck::recheck_due(&desk, door.clock.now()).await.unwrap();
        let Access { mut clients, person, .. } = alice;
        for client in &mut clients {
            assert_eq!(client.get("/x").await.reason(), "no_policy_match");
        }
        let answer = body(&of_person(door, &person, &[], &[("audience", "app")]).await);
        let token = answer["access_token"].as_str().unwrap();
        assert_eq!(used(door, "app", Some(&person), token, "/x").await.reason(), "no_policy_match");
    });
}

/// A second provider, without a map of groups, at a port that is written down.
fn second(dir: &Path) {
    let port = crate::support::free_port();
    std::fs::write(dir.join("second.port"), port.to_string()).unwrap();
    std::fs::write(dir.join("keys/second.secret"), "s3cret").unwrap();
    let path = dir.join("doorward.toml");
    let text = std::fs::read_to_string(&path).unwrap();
    let provider = format!(
        "\n[[identity.provider]]\nname = \"second\"\nissuer = \"http://127.0.0.1:{port}\"\nclient_id = \"doorward\"\n\
         client_secret = {{ file = \"keys/second.secret\" }}\nscopes = [\"groups\", \"offline_access\"]\n\
         groups_claim = \"groups\"\nallow_loopback = true\n"
    );
    std::fs::write(path, format!("{text}{provider}")).unwrap();
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(dir.join("keys/second.secret"), std::fs::Permissions::from_mode(0o600)).unwrap();
}

async fn second_provider(door: &Door) -> DevProvider {
    let port: u16 = std::fs::read_to_string(door.dir.join("second.port")).unwrap().parse().unwrap();
    let settings = DevProviderSettings {
        client_id: "doorward".into(),
        client_secret: Secret::new("s3cret".into()),
        redirect_uris: vec![format!("{}/signin/callback", door.origin)],
        key_file: None,
    };
    let clock: Arc<dyn Clock> = Arc::new(door.clock.clone());
    DevProvider::bind(([127, 0, 0, 1], port).into(), settings, clock, Arc::new(SystemEntropy)).await.unwrap()
}

#[test]
fn a70_what_a_second_provider_says_of_groups_is_its_own_and_a_name_keeps_its_issuer() {
    with_stopping_door(Plan { change: Some(second), ..Plan::default() }, async |mut door| {
        let provider = second_provider(&door).await;
        let serving = tokio::spawn(provider.serve(std::future::pending()));
        // The same word of two providers: of the first it is mapped, of the second nobody said what it means.
        let (carol, other) =
            (door.sign_in_at("carol", Some("dev")).await, door.sign_in_at("carol", Some("second")).await);
        assert_eq!((carol.principal.id(), other.principal.id()), ("dev|carol", "second|carol"));
        for speaks in BOTH {
            assert_eq!(door.get("app", Some(&carol), speaks, "/admin/x").await.status, 200);
            let got = door.get("app", Some(&other), speaks, "/admin/x").await;
            assert_eq!((got.status.as_u16(), got.reason().as_str()), (403, "no_policy_match"));
        }
        let me = door.client("", Some(&other), Speaks::Http1).await.get("/api/v1/whoami").await;
        let groups = body(&me)["groups"].clone();
        assert!(
            groups.as_array().unwrap().iter().all(|group| group.as_str().unwrap().starts_with("second|")),
            "{groups}"
        );
        assert!(groups.to_string().contains("second|security"), "{groups}");
        // Nor may they do over the installation what security and auditors may.
        let events = door.client("", Some(&other), Speaks::Http1).await.get("/api/v1/audit/events").await;
        assert_eq!(events.status, 403);
        // The name is given to another issuer: it does not start, since its people would be others.
        let running = door.running.take().unwrap();
        tokio::task::block_in_place(|| running.stop());
        serving.abort();
        let path = door.dir.join("doorward.toml");
        let text = std::fs::read_to_string(&path).unwrap();
        let port = std::fs::read_to_string(door.dir.join("second.port")).unwrap();
        let again = async |text: &str| {
            std::fs::write(&path, text).unwrap();
            let environment: config::Environment =
                [("DOORWARD__SERVER__DRAIN".to_owned(), "0s".to_owned())].into_iter().collect();
            let loaded = config::load(&path, &environment).unwrap();
            let (clock, entropy) = (Arc::new(door.clock.clone()), Arc::new(SystemEntropy));
            let begin = Start { config: loaded, environment, listener: None, clock, entropy };
            tokio::task::block_in_place(|| start(begin))
        };
        let other = crate::support::free_port().to_string();
        let refused = again(&text.replace(&format!("127.0.0.1:{port}\""), &format!("127.0.0.1:{other}\""))).await;
        let told = refused.err().expect("a name with another issuer was taken").to_string();
        assert!(told.contains("second") && told.contains(&port) && told.contains(&other), "{told}");
        let swapped = again(&text.replace("name = \"second\"", "name = \"third\"")).await;
        // Another name for the same issuer is another provider, and its people are others again.
        swapped.map(|running| tokio::task::block_in_place(|| running.stop())).unwrap_or_else(|error| panic!("{error}"));
        door
    });
}
