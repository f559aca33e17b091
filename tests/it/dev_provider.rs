//! The development provider, spoken to over HTTP as a relying party would.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use data_encoding::{BASE64, BASE64URL_NOPAD};
use doorward::model::{Secret, Ttl};
use doorward::server::dev::provider::{DevProvider, DevProviderLever, DevProviderSettings};
use http_body_util::{BodyExt, Full};
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use sha2::{Digest, Sha256};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use url::Url;

use crate::support::{SeededEntropy, TestClock, install_crypto};

const REDIRECT: &str = "https://doorward.localhost:8443/signin/callback";
const VERIFIER: &str = "dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk";

/// A provider that serves until the value goes.
struct Running {
    issuer: String,
    address: SocketAddr,
    lever: DevProviderLever,
    clock: TestClock,
    tasks: JoinSet<()>,
}

impl Running {
    async fn start() -> Self {
        Self::start_with(None, "127.0.0.1:0", TestClock::new()).await
    }

    async fn start_with(key_file: Option<std::path::PathBuf>, address: &str, clock: TestClock) -> Self {
        install_crypto();
        let settings = DevProviderSettings {
            client_id: "doorward".into(),
            client_secret: Secret::new("s3c:ret".into()),
            redirect_uris: vec![REDIRECT.into()],
            key_file,
        };
        let entropy = Arc::new(SeededEntropy::new(u64::from(std::process::id())));
        let provider =
            DevProvider::bind(address.parse().unwrap(), settings, Arc::new(clock.clone()), entropy).await.unwrap();
        let issuer = provider.issuer().to_owned();
        let address = issuer.strip_prefix("http://").unwrap().parse().unwrap();
        let lever = provider.lever();
        let mut tasks = JoinSet::new();
        tasks.spawn(provider.serve(std::future::pending()));
        Self { issuer, address, lever, clock, tasks }
    }

    async fn send(&self, request: Request<Full<Bytes>>) -> Response<Bytes> {
        let stream = TcpStream::connect(self.address).await.unwrap();
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
        let mut tasks = JoinSet::new();
        tasks.spawn(connection);
        let (head, body) = sender.send_request(request).await.unwrap().into_parts();
        Response::from_parts(head, body.collect().await.unwrap().to_bytes())
    }

    async fn get(&self, path: &str) -> Response<Bytes> {
        let request = Request::get(path).header("host", self.address.to_string());
        self.send(request.body(Full::default()).unwrap()).await
    }

    async fn json(&self, path: &str) -> Value {
        serde_json::from_slice(self.get(path).await.body()).unwrap()
    }

    async fn post(&self, path: &str, authorization: Option<&str>, fields: &[(&str, &str)]) -> Response<Bytes> {
        let form = form_urlencoded::Serializer::new(String::new()).extend_pairs(fields).finish();
        let mut request = Request::post(path)
            .header("host", self.address.to_string())
            .header("content-type", "application/x-www-form-urlencoded");
        if let Some(value) = authorization {
            request = request.header("authorization", value);
        }
        self.send(request.body(Full::from(form)).unwrap()).await
    }

    /// The answer of `/authorize` with some parameters changed; an empty value leaves one out.
    async fn authorize(&self, changes: &[(&str, &str)]) -> Response<Bytes> {
        self.get(&format!("/authorize?{}", authorization_query(changes))).await
    }

    /// What the redirect of `/authorize` says.
    async fn authorized(&self, changes: &[(&str, &str)]) -> BTreeMap<String, String> {
        let response = self.authorize(changes).await;
        assert_eq!(response.status(), 303, "{response:?}");
        let location = response.headers()["location"].to_str().unwrap();
        assert!(location.starts_with(&format!("{REDIRECT}?")), "{location}");
        Url::parse(location).unwrap().query_pairs().into_owned().collect()
    }

    async fn code_for(&self, person: &str) -> String {
        self.authorized(&[("login_hint", person)]).await.remove("code").expect("a code")
    }

    async fn redeem(&self, code: &str) -> Response<Bytes> {
        let fields = [
            ("grant_type", "authorization_code"),
            ("code", code),
            ("redirect_uri", REDIRECT),
            ("code_verifier", VERIFIER),
        ];
        self.post("/token", Some(&basic("doorward", "s3c%3Aret")), &fields).await
    }

    async fn signed_in(&self, person: &str) -> Value {
        let response = self.redeem(&self.code_for(person).await).await;
        assert_eq!(response.status(), 200, "{response:?}");
        serde_json::from_slice(response.body()).unwrap()
    }

    async fn refresh(&self, tokens: &Value) -> (u16, Value) {
        let fields = [("grant_type", "refresh_token"), ("refresh_token", tokens["refresh_token"].as_str().unwrap())];
        let response = self.post("/token", Some(&basic("doorward", "s3c%3Aret")), &fields).await;
        (response.status().as_u16(), serde_json::from_slice(response.body()).unwrap())
    }

    async fn userinfo(&self, tokens: &Value) -> Response<Bytes> {
        let request = Request::get("/userinfo")
            .header("host", self.address.to_string())
            .header("authorization", format!("Bearer {}", tokens["access_token"].as_str().unwrap()));
        self.send(request.body(Full::default()).unwrap()).await
    }

    /// The claims of an ID token, verified against the key set that is published.
    async fn claims(&self, tokens: &Value) -> Value {
        let set: jsonwebtoken::jwk::JwkSet = serde_json::from_value(self.json("/jwks").await).unwrap();
        let token = tokens["id_token"].as_str().unwrap();
        let kid = jsonwebtoken::decode_header(token).unwrap().kid.unwrap();
        let key = jsonwebtoken::DecodingKey::from_jwk(set.find(&kid).unwrap()).unwrap();
        let mut validation = jsonwebtoken::Validation::new(jsonwebtoken::Algorithm::ES256);
        validation.validate_exp = false;
        validation.set_audience(&["doorward"]);
        validation.set_issuer(&[&self.issuer]);
        jsonwebtoken::decode::<Value>(token, &key, &validation).unwrap().claims
    }
}

fn basic(id: &str, secret: &str) -> String {
    format!("Basic {}", BASE64.encode(format!("{id}:{secret}").as_bytes()))
}

fn authorization_query(changes: &[(&str, &str)]) -> String {
    let challenge = BASE64URL_NOPAD.encode(&Sha256::digest(VERIFIER));
    let mut parameters = BTreeMap::from([
        ("response_type", "code"),
        ("client_id", "doorward"),
        ("redirect_uri", REDIRECT),
        ("scope", "openid profile email"),
        ("state", "st&te"),
        ("nonce", "n0nce"),
        ("code_challenge", challenge.as_str()),
        ("code_challenge_method", "S256"),
        ("login_hint", "alice"),
    ]);
    for (name, value) in changes {
        parameters.insert(name, value);
    }
    parameters.retain(|_, value| !value.is_empty());
    form_urlencoded::Serializer::new(String::new()).extend_pairs(parameters).finish()
}

fn error_of(response: &Response<Bytes>) -> String {
    let body: Value = serde_json::from_slice(response.body()).unwrap();
    body["error"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn the_four_people_sign_in_with_their_groups() {
    let provider = Running::start().await;
    for (name, groups) in [
        ("alice", &["engineering"][..]),
        ("bob", &["engineering", "release-managers"]),
        ("carol", &["security", "auditors"]),
        ("dave", &[]),
    ] {
        let tokens = provider.signed_in(name).await;
        let claims = provider.claims(&tokens).await;
        assert_eq!(claims["sub"], name);
        assert_eq!(claims["email"], format!("{name}@example.com"));
        assert_eq!(claims["email_verified"], true);
        assert_eq!(claims["nonce"], "n0nce");
        assert_eq!(claims["groups"], serde_json::json!(groups));
        assert_eq!(claims["auth_time"], claims["iat"]);
        let userinfo = provider.userinfo(&tokens).await;
        let userinfo: Value = serde_json::from_slice(userinfo.body()).unwrap();
        assert_eq!(userinfo["sub"], name);
        assert_eq!(userinfo["groups"], claims["groups"]);
    }
}

#[tokio::test]
async fn discovery_names_endpoints_that_are_there() {
    let provider = Running::start().await;
    let document = provider.json("/.well-known/openid-configuration").await;
    assert_eq!(document["issuer"], provider.issuer);
    assert_eq!(document["authorization_response_iss_parameter_supported"], true);
    for (name, value) in document.as_object().unwrap() {
        if name.ends_with("_endpoint") || name == "jwks_uri" {
            let path = value.as_str().unwrap().strip_prefix(&provider.issuer).unwrap();
            assert_ne!(provider.get(path).await.status(), 404, "{name}");
        }
    }
}

#[tokio::test]
async fn a_relying_party_library_understands_it() {
    use openidconnect::core::{CoreIdToken, CoreIdTokenVerifier, CoreJsonWebKeySet, CoreProviderMetadata};
    use openidconnect::{ClientId, ClientSecret, Nonce};
    let provider = Running::start().await;
    let document = provider.json("/.well-known/openid-configuration").await;
    let metadata: CoreProviderMetadata = serde_json::from_value(document).unwrap();
    let keys: CoreJsonWebKeySet = serde_json::from_value(provider.json("/jwks").await).unwrap();
    let tokens = provider.signed_in("alice").await;
    let token: CoreIdToken = tokens["id_token"].as_str().unwrap().parse().unwrap();
    let seconds = doorward::model::Clock::now(&provider.clock).seconds();
    let present = move || std::time::UNIX_EPOCH + std::time::Duration::from_secs(seconds.unsigned_abs());
    let verifier = CoreIdTokenVerifier::new_confidential_client(
        ClientId::new("doorward".into()),
        ClientSecret::new("s3c:ret".into()),
        metadata.issuer().clone(),
        keys,
    )
    .set_allowed_algs([openidconnect::core::CoreJwsSigningAlgorithm::EcdsaP256Sha256])
    .set_time_fn(move || present().into());
    let claims = token.claims(&verifier, &Nonce::new("n0nce".into())).unwrap();
    assert_eq!(claims.subject().as_str(), "alice");
    assert_eq!(claims.email_verified(), Some(true));
}

#[tokio::test]
async fn the_answer_carries_state_and_issuer() {
    let provider = Running::start().await;
    let answer = provider.authorized(&[]).await;
    assert_eq!(answer["state"], "st&te");
    assert_eq!(answer["iss"], provider.issuer);
}

#[tokio::test]
async fn without_a_known_name_a_page_with_four_buttons_asks() {
    let provider = Running::start().await;
    for hint in ["", "mallory"] {
        let response = provider.authorize(&[("login_hint", hint), ("state", "\"><script>alert(1)</script>")]).await;
        assert_eq!(response.status(), 200);
        let page = String::from_utf8(response.body().to_vec()).unwrap();
        assert_eq!(page.matches("<button name=\"login_hint\"").count(), 4);
        assert!(!page.contains("<script"), "{page}");
        assert!(page.contains("&lt;script&gt;"), "the state comes along, escaped");
        assert!(response.headers()["content-security-policy"].to_str().unwrap().contains("default-src 'none'"));
    }
    let answer = provider.authorized(&[("login_hint", ""), ("prompt", "none")]).await;
    assert_eq!(answer["error"], "login_required");
}

#[tokio::test]
async fn nothing_is_redirected_to_where_nothing_is_registered() {
    let provider = Running::start().await;
    for redirect in [
        "https://doorward.localhost:8443/signin/callback/",
        "https://doorward.localhost:8443/signin/callback?x=1",
        "https://doorward.localhost/signin/callback",
        "https://evil.example.com/",
        "",
    ] {
        let response = provider.authorize(&[("redirect_uri", redirect)]).await;
        assert_eq!(response.status(), 400, "{redirect}");
        assert!(!response.headers().contains_key("location"));
    }
    assert_eq!(provider.authorize(&[("client_id", "other")]).await.status(), 400);
    // Given twice is not given.
    let twice = format!("/authorize?{}&redirect_uri=https%3A%2F%2Fevil.example.com%2F", authorization_query(&[]));
    assert_eq!(provider.get(&twice).await.status(), 400);

    provider.lever.register_redirect_uri("https://other.example.com/callback");
    let response = provider.authorize(&[("redirect_uri", "https://other.example.com/callback")]).await;
    assert_eq!(response.status(), 303);
}

#[tokio::test]
async fn a40_pkce_must_be_there_with_s256_and_match() {
    let provider = Running::start().await;
    for changes in [
        &[("code_challenge", "")][..],
        &[("code_challenge_method", "plain")],
        &[("code_challenge_method", "")],
        &[("code_challenge", "short")],
    ] {
        assert_eq!(provider.authorized(changes).await["error"], "invalid_request", "{changes:?}");
    }
    assert_eq!(provider.authorized(&[("scope", "profile")]).await["error"], "invalid_scope");
    assert_eq!(provider.authorized(&[("response_type", "token")]).await["error"], "unsupported_response_type");

    let code = provider.code_for("alice").await;
    let wrong = "x".repeat(43);
    let fields = [
        ("grant_type", "authorization_code"),
        ("code", code.as_str()),
        ("redirect_uri", REDIRECT),
        ("code_verifier", wrong.as_str()),
    ];
    let response = provider.post("/token", Some(&basic("doorward", "s3c%3Aret")), &fields).await;
    assert_eq!((response.status().as_u16(), error_of(&response).as_str()), (400, "invalid_grant"));
    assert_eq!(provider.redeem(&code).await.status(), 400, "the failed attempt used the code up");
}

#[tokio::test]
async fn a40_a_code_is_used_once_and_its_replay_ends_what_it_gave() {
    let provider = Running::start().await;
    let code = provider.code_for("alice").await;
    let first = provider.redeem(&code).await;
    let tokens: Value = serde_json::from_slice(first.body()).unwrap();
    assert_eq!(provider.refresh(&tokens).await.0, 200);
    assert_eq!(error_of(&provider.redeem(&code).await), "invalid_grant");
    assert_eq!(provider.refresh(&tokens).await.1["error"], "invalid_grant");
    assert_eq!(provider.userinfo(&tokens).await.status(), 401);
}

#[tokio::test]
async fn a_code_is_over_after_a_minute() {
    let provider = Running::start().await;
    let (early, late) = (provider.code_for("alice").await, provider.code_for("alice").await);
    provider.clock.advance(Ttl::seconds(59));
    assert_eq!(provider.redeem(&early).await.status(), 200);
    provider.clock.advance(Ttl::seconds(1));
    assert_eq!(error_of(&provider.redeem(&late).await), "invalid_grant");
}

#[tokio::test]
async fn the_client_proves_itself_by_basic_or_post_and_not_by_both() {
    let provider = Running::start().await;
    let code = provider.code_for("alice").await;
    let grant = [
        ("grant_type", "authorization_code"),
        ("code", code.as_str()),
        ("redirect_uri", REDIRECT),
        ("code_verifier", VERIFIER),
    ];
    let with =
        |id, secret| grant.iter().copied().chain([("client_id", id), ("client_secret", secret)]).collect::<Vec<_>>();
    for (authorization, fields) in [
        (None, grant.to_vec()),
        (None, with("doorward", "wrong")),
        (None, with("other", "s3c:ret")),
        (Some(basic("doorward", "wrong")), grant.to_vec()),
        (Some("Bearer x".to_owned()), grant.to_vec()),
        (Some(basic("doorward", "s3c%3Aret")), with("doorward", "s3c:ret")),
    ] {
        let response = provider.post("/token", authorization.as_deref(), &fields).await;
        assert_eq!((response.status().as_u16(), error_of(&response).as_str()), (401, "invalid_client"));
    }
    // None of the refused attempts touched the code.
    let response = provider.post("/token", None, &with("doorward", "s3c:ret")).await;
    assert_eq!(response.status(), 200, "{response:?}");
}

#[tokio::test]
async fn a43_a_disabled_person_is_refused_everywhere_and_new_groups_come_with_a_refresh() {
    let provider = Running::start().await;
    let tokens = provider.signed_in("bob").await;
    provider.lever.set_groups("bob", &["engineering"]);
    let (status, refreshed) = provider.refresh(&tokens).await;
    assert_eq!(status, 200);
    let claims = provider.claims(&refreshed).await;
    assert_eq!(claims["groups"], serde_json::json!(["engineering"]));
    assert_eq!(claims["nonce"], Value::Null);

    provider.lever.disable("bob");
    assert_eq!(provider.refresh(&tokens).await.1["error"], "invalid_grant");
    assert_eq!(provider.refresh(&refreshed).await.1["error"], "invalid_grant");
    assert_eq!(provider.userinfo(&tokens).await.status(), 401);
    assert_eq!(provider.authorized(&[("login_hint", "bob")]).await["error"], "access_denied");
    provider.lever.enable("bob");
    assert_eq!(provider.refresh(&tokens).await.0, 200);
}

#[tokio::test]
async fn signing_out_ends_the_sign_in_and_leads_back_to_a_known_origin_only() {
    let provider = Running::start().await;
    let tokens = provider.signed_in("alice").await;
    let out = |target: &str| {
        let query = form_urlencoded::Serializer::new(String::new())
            .append_pair("id_token_hint", tokens["id_token"].as_str().unwrap())
            .append_pair("post_logout_redirect_uri", target)
            .append_pair("state", "s")
            .finish();
        format!("/end_session?{query}")
    };
    let response = provider.get(&out("https://evil.example.com/")).await;
    assert_eq!(response.status(), 200);
    assert_eq!(provider.refresh(&tokens).await.1["error"], "invalid_grant");
    let response = provider.get(&out("https://doorward.localhost:8443/signed-out")).await;
    assert_eq!(response.headers()["location"], "https://doorward.localhost:8443/signed-out?state=s");
}

#[tokio::test]
async fn tokens_of_one_kind_are_not_taken_for_another() {
    let provider = Running::start().await;
    let tokens = provider.signed_in("alice").await;
    for kind in ["access_token", "id_token"] {
        let swapped = serde_json::json!({ "refresh_token": tokens[kind] });
        assert_eq!(provider.refresh(&swapped).await.1["error"], "invalid_grant", "{kind}");
    }
    let swapped = serde_json::json!({ "access_token": tokens["refresh_token"] });
    assert_eq!(provider.userinfo(&swapped).await.status(), 401);
    provider.clock.advance(Ttl::hours(1));
    assert_eq!(provider.userinfo(&tokens).await.status(), 401, "an access token ends");
}

#[tokio::test]
async fn a_kept_key_outlives_a_restart_and_so_do_sign_ins() {
    use std::os::unix::fs::PermissionsExt;
    let folder = crate::support::temporary_folder();
    let file = folder.path().join("provider.key");
    let mut first = Running::start_with(Some(file.clone()), "127.0.0.1:0", TestClock::new()).await;
    let (keys, tokens) = (first.json("/jwks").await, first.signed_in("carol").await);
    assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    let address = first.address.to_string();
    first.tasks.shutdown().await;
    let second = Running::start_with(Some(file), &address, first.clock).await;
    assert_eq!(second.json("/jwks").await, keys);
    assert_eq!(second.refresh(&tokens).await.0, 200);
}

#[tokio::test]
async fn it_listens_on_loopback_only_and_answers_to_its_own_name_only() {
    install_crypto();
    let settings = DevProviderSettings {
        client_id: "doorward".into(),
        client_secret: Secret::new("x".into()),
        redirect_uris: Vec::new(),
        key_file: None,
    };
    let clock = Arc::new(TestClock::new());
    let bound = DevProvider::bind("0.0.0.0:0".parse().unwrap(), settings, clock, Arc::new(SeededEntropy::new(1))).await;
    assert!(bound.unwrap_err().to_string().contains("loopback only"));

    let provider = Running::start().await;
    for host in ["evil.example.com", "localhost", "127.0.0.1"] {
        let request = Request::get("/authorize").header("host", host).body(Full::default()).unwrap();
        assert_eq!(provider.send(request).await.status(), 421, "{host}");
    }
}
