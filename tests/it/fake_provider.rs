//! An OpenID Connect provider on loopback that lies on demand: every document, header and claim
//! can be bent, and every question that it is asked is counted.
#![allow(dead_code, reason = "a tool box: each test takes what it needs")]

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair};
use axum::Router;
use axum::extract::{Form, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use data_encoding::{BASE64, BASE64URL_NOPAD};
use doorward::credential::token::public_jwk;
use doorward::identity::provider::ProviderSettings;
use doorward::model::{Clock, Secret};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use url::Url;

use crate::support::TestClock;

pub const CLIENT_ID: &str = "doorward";
pub const CLIENT_SECRET: &str = "s:cret&%";

/// Bends a token's header and claims before it is signed.
pub type Bend = Box<dyn Fn(&mut Value, &mut Value) + Send>;

pub struct Key {
    pub kid: String,
    pair: EcdsaKeyPair,
}

impl Key {
    pub fn new(kid: &str) -> Self {
        let pkcs8 = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &SystemRandom::new()).unwrap();
        let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, pkcs8.as_ref()).unwrap();
        Self { kid: kid.to_owned(), pair }
    }

    pub fn jwk(&self) -> Value {
        public_jwk(&self.kid, self.pair.public_key().as_ref())
    }

    pub fn public_point(&self) -> Vec<u8> {
        self.pair.public_key().as_ref().to_vec()
    }

    /// Signs any header over any claims.
    pub fn sign(&self, header: &Value, claims: &Value) -> String {
        let input = format!(
            "{}.{}",
            BASE64URL_NOPAD.encode(header.to_string().as_bytes()),
            BASE64URL_NOPAD.encode(claims.to_string().as_bytes())
        );
        let signature = self.pair.sign(&SystemRandom::new(), input.as_bytes()).unwrap();
        format!("{input}.{}", BASE64URL_NOPAD.encode(signature.as_ref()))
    }
}

struct Code {
    nonce: String,
    challenge: String,
    redirect_uri: String,
}

pub struct Lies {
    pub discovery: Value,
    pub jwks: Value,
    pub key: Key,
    /// Claims of the person who signs in.
    pub person: Value,
    pub userinfo: Option<Value>,
    pub bend: Option<Bend>,
    /// In place of the ID token that would be made.
    pub raw_id_token: Option<String>,
    /// In place of the token endpoint's answer.
    pub token_answer: Option<(u16, Value)>,
    /// Every endpoint answers 503.
    pub down: bool,
    pub refresh_token: Option<String>,
    pub hits: BTreeMap<&'static str, u32>,
    codes: BTreeMap<String, Code>,
    issued: u32,
}

#[derive(Clone)]
pub struct FakeProvider {
    pub issuer: String,
    pub lies: Arc<Mutex<Lies>>,
    clock: TestClock,
}

impl FakeProvider {
    pub async fn start(clock: &TestClock) -> Self {
        crate::support::install_crypto();
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let issuer = format!("http://{}", listener.local_addr().unwrap());
        let key = Key::new("first");
        let lies = Lies {
            discovery: json!({
                "issuer": issuer,
                "authorization_endpoint": format!("{issuer}/authorize"),
                "token_endpoint": format!("{issuer}/token"),
                "userinfo_endpoint": format!("{issuer}/userinfo"),
                "jwks_uri": format!("{issuer}/jwks"),
                "response_types_supported": ["code"],
                "subject_types_supported": ["public"],
                "id_token_signing_alg_values_supported": ["ES256"],
                "authorization_response_iss_parameter_supported": true,
            }),
            jwks: json!({ "keys": [key.jwk()] }),
            key,
            person: json!({ "sub": "alice", "email": "alice@example.com", "email_verified": true,
                "name": "Alice", "groups": ["eng"], "amr": ["pwd", "otp"], "sid": "sid-1" }),
            userinfo: None,
            bend: None,
            raw_id_token: None,
            token_answer: None,
            down: false,
            refresh_token: Some("refresh-1".to_owned()),
            hits: BTreeMap::new(),
            codes: BTreeMap::new(),
            issued: 0,
        };
        let this = Self { issuer, lies: Arc::new(Mutex::new(lies)), clock: clock.clone() };
        let router = Router::new()
            .route("/.well-known/openid-configuration", get(discovery))
            .route("/jwks", get(jwks))
            .route("/token", post(token))
            .route("/userinfo", get(userinfo))
            .with_state(this.clone());
        tokio::spawn(serve(listener, router));
        this
    }

    /// The settings under which it is trusted.
    pub fn settings(&self, name: &str) -> ProviderSettings {
        ProviderSettings {
            name: name.to_owned(),
            issuer: self.issuer.clone(),
            client_id: CLIENT_ID.to_owned(),
            client_secret: Some(Arc::new(Secret::new(CLIENT_SECRET.to_owned()))),
            scopes: ["openid", "profile", "email"].map(str::to_owned).to_vec(),
            groups_claim: "groups".to_owned(),
            groups: Some(BTreeMap::from([
                ("eng".to_owned(), "engineering".to_owned()),
                ("sec".to_owned(), "security".to_owned()),
            ])),
            bearer_audiences: Vec::new(),
            jwks_file: None,
            ca: None,
            allow_loopback: true,
        }
    }

    pub fn with<T>(&self, change: impl FnOnce(&mut Lies) -> T) -> T {
        change(&mut self.lies.lock().unwrap())
    }

    pub fn hits(&self, endpoint: &str) -> u32 {
        self.with(|lies| lies.hits.get(endpoint).copied().unwrap_or(0))
    }

    /// What a person does at the provider: agrees to the request at this URL. Gives the query of the
    /// answer: code, state, iss.
    pub fn agree(&self, url: &str) -> BTreeMap<String, String> {
        let url = Url::parse(url).unwrap();
        assert!(url.as_str().starts_with(&format!("{}/authorize?", self.issuer)), "{url}");
        let asked: BTreeMap<String, String> = url.query_pairs().into_owned().collect();
        assert_eq!(asked["response_type"], "code");
        assert_eq!(asked["client_id"], CLIENT_ID);
        assert_eq!(asked["code_challenge_method"], "S256");
        assert!(asked["scope"].split(' ').any(|scope| scope == "openid"));
        self.with(|lies| {
            lies.issued += 1;
            let code = format!("code-{}", lies.issued);
            lies.codes.insert(
                code.clone(),
                Code {
                    nonce: asked["nonce"].clone(),
                    challenge: asked["code_challenge"].clone(),
                    redirect_uri: asked["redirect_uri"].clone(),
                },
            );
            BTreeMap::from([
                ("code".to_owned(), code),
                ("state".to_owned(), asked["state"].clone()),
                ("iss".to_owned(), self.issuer.clone()),
            ])
        })
    }

    /// A signed token with these claims on top of issuer and times.
    pub fn token(&self, header: Value, claims: Value) -> String {
        let now = self.clock.now().seconds();
        let mut all = json!({ "iss": self.issuer, "iat": now, "exp": now + 300 });
        all.as_object_mut().unwrap().extend(claims.as_object().unwrap().clone());
        self.with(|lies| {
            let mut whole = json!({ "alg": "ES256", "kid": lies.key.kid });
            whole.as_object_mut().unwrap().extend(header.as_object().unwrap().clone());
            lies.key.sign(&whole, &all)
        })
    }
}

fn count(provider: &FakeProvider, endpoint: &'static str) -> Result<(), StatusCode> {
    provider.with(|lies| {
        *lies.hits.entry(endpoint).or_default() += 1;
        if lies.down { Err(StatusCode::SERVICE_UNAVAILABLE) } else { Ok(()) }
    })
}

fn json_answer(status: u16, value: &Value) -> Response {
    let status = StatusCode::from_u16(status).unwrap();
    (status, [(header::CONTENT_TYPE, "application/json")], value.to_string()).into_response()
}

async fn discovery(State(provider): State<FakeProvider>) -> Response {
    match count(&provider, "discovery") {
        Ok(()) => json_answer(200, &provider.with(|lies| lies.discovery.clone())),
        Err(status) => status.into_response(),
    }
}

async fn jwks(State(provider): State<FakeProvider>) -> Response {
    match count(&provider, "jwks") {
        Ok(()) => json_answer(200, &provider.with(|lies| lies.jwks.clone())),
        Err(status) => status.into_response(),
    }
}

async fn userinfo(State(provider): State<FakeProvider>, headers: HeaderMap) -> Response {
    if let Err(status) = count(&provider, "userinfo") {
        return status.into_response();
    }
    assert_eq!(headers[header::AUTHORIZATION], "Bearer access-1");
    match provider.with(|lies| lies.userinfo.clone()) {
        Some(claims) => json_answer(200, &claims),
        None => StatusCode::NOT_FOUND.into_response(),
    }
}

async fn token(
    State(provider): State<FakeProvider>,
    headers: HeaderMap,
    Form(asked): Form<BTreeMap<String, String>>,
) -> Response {
    if let Err(status) = count(&provider, "token") {
        return status.into_response();
    }
    if let Some((status, value)) = provider.with(|lies| lies.token_answer.clone()) {
        return json_answer(status, &value);
    }
    let refused = |error: &str| json_answer(400, &json!({ "error": error }));
    let basic = BASE64.encode(format!("{CLIENT_ID}:s%3Acret%26%25").as_bytes());
    if headers.get(header::AUTHORIZATION).is_none_or(|value| *value != format!("Basic {basic}")) {
        return json_answer(401, &json!({ "error": "invalid_client" }));
    }
    let nonce = match asked["grant_type"].as_str() {
        "authorization_code" => {
            let Some(code) = provider.with(|lies| lies.codes.remove(&asked["code"])) else {
                return refused("invalid_grant");
            };
            let challenge = BASE64URL_NOPAD.encode(&Sha256::digest(asked["code_verifier"].as_bytes()));
            if challenge != code.challenge || asked["redirect_uri"] != code.redirect_uri {
                return refused("invalid_grant");
            }
            Some(code.nonce)
        }
        "refresh_token" if provider.with(|lies| lies.refresh_token.as_ref() == Some(&asked["refresh_token"])) => {
            provider.with(|lies| {
                lies.issued += 1;
                lies.refresh_token = Some(format!("refresh-{}", lies.issued + 1));
            });
            None
        }
        _ => return refused("invalid_grant"),
    };
    let now = provider.clock.now().seconds();
    provider.with(|lies| {
        let mut header = json!({ "alg": "ES256", "typ": "JWT", "kid": lies.key.kid });
        let mut claims = json!({ "iss": provider.issuer, "aud": CLIENT_ID, "iat": now, "exp": now + 300,
            "auth_time": now - 60 });
        if let Some(nonce) = nonce {
            claims["nonce"] = nonce.into();
        }
        claims.as_object_mut().unwrap().extend(lies.person.as_object().unwrap().clone());
        if let Some(bend) = &lies.bend {
            bend(&mut header, &mut claims);
        }
        let id_token = lies.raw_id_token.clone().unwrap_or_else(|| lies.key.sign(&header, &claims));
        let mut answer = json!({ "access_token": "access-1", "token_type": "Bearer", "expires_in": 300,
            "id_token": id_token });
        if let Some(token) = &lies.refresh_token {
            answer["refresh_token"] = token.clone().into();
        }
        json_answer(200, &answer)
    })
}

/// Serves a router over plain HTTP/1.1 until the test is over.
pub async fn serve(listener: tokio::net::TcpListener, router: Router) {
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        let service = hyper_util::service::TowerToHyperService::new(router.clone());
        let io = hyper_util::rt::TokioIo::new(stream);
        tokio::spawn(hyper::server::conn::http1::Builder::new().serve_connection(io, service));
    }
}
