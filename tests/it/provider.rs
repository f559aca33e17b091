//! Providers: what is taken from them and what is not (ATTACKS A35–A40, A70).

use std::collections::BTreeMap;
use std::sync::Arc;

use data_encoding::BASE64URL_NOPAD;
use doorward::identity::groups::{GROUPS_MAX, GroupMap};
use doorward::identity::logout_token::LoggedOut;
use doorward::identity::provider::{
    FlowSecrets, Identity, Provider, ProviderError, Providers, ProvidersError, Rechecked,
};
use doorward::identity::token::{KeySet, TokenError};
use doorward::identity::workload::IssuerSettings;
use doorward::model::{Clock, Secret, Timestamp, Ttl};
use doorward::server::ambient::SystemClock;
use doorward::store::Store;
use serde_json::{Value, json};

use crate::fake_provider::{Bend, CLIENT_ID, FakeProvider, Key};
use crate::support::{TestClock, databases};

const ORIGIN: &str = "https://doorward.example:8443";
const VERIFIER: &str = "vvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvv";

fn clock(clock: &TestClock) -> Arc<dyn Clock> {
    Arc::new(clock.clone())
}

fn secret(text: &str) -> Secret<String> {
    Secret::new(text.to_owned())
}

fn flow() -> FlowSecrets {
    FlowSecrets { state: secret("the-state"), nonce: secret("the-nonce"), verifier: secret(VERIFIER) }
}

struct Scene {
    clock: TestClock,
    fake: FakeProvider,
    providers: Providers,
}

impl Scene {
    async fn new() -> Self {
        let test_clock = TestClock::new();
        let fake = FakeProvider::start(&test_clock).await;
        let providers = Providers::new(vec![fake.settings("corp")], ORIGIN, &clock(&test_clock)).unwrap();
        Self { clock: test_clock, fake, providers }
    }

    fn provider(&self) -> &Arc<Provider> {
        self.providers.get("corp").unwrap()
    }

    fn now(&self) -> Timestamp {
        self.clock.now()
    }

    /// A whole sign-in.
    async fn sign_in(&self) -> Result<Identity, ProviderError> {
        let provider = self.provider();
        let url = provider.authorize_url(&flow(), Some("alice"), Ttl::hours(12), self.now()).await?;
        let answer = self.fake.agree(&url);
        provider.is_answer_of(answer.get("iss").map(String::as_str), self.now()).await?;
        provider.exchange(&answer["code"], &flow().verifier, &flow().nonce, self.now()).await
    }

    /// A sign-in with a bent ID token.
    async fn bent(&self, bend: Bend) -> Result<Identity, ProviderError> {
        self.fake.with(|lies| lies.bend = Some(bend));
        let outcome = self.sign_in().await;
        self.fake.with(|lies| lies.bend = None);
        outcome
    }
}

fn token_error(outcome: Result<Identity, ProviderError>) -> TokenError {
    match outcome {
        Err(ProviderError::Token { source, .. }) => source,
        other => panic!("a refused token was expected, not {other:?}"),
    }
}

#[tokio::test]
async fn a_person_signs_in() {
    let scene = Scene::new().await;
    let alice = scene.sign_in().await.unwrap();
    assert_eq!(alice.principal.to_string(), "User::\"corp|alice\"");
    assert_eq!(alice.email.as_deref(), Some("alice@example.com"));
    assert!(alice.email_verified);
    assert_eq!(alice.name.as_deref(), Some("Alice"));
    assert_eq!(alice.groups, ["engineering"]);
    assert_eq!(alice.amr, ["pwd", "otp"]);
    assert_eq!(alice.authenticated_at, Some(scene.now().minus(Ttl::seconds(60))));
    assert_eq!(alice.sid.as_deref(), Some("sid-1"));
    assert_eq!(alice.refresh_token.unwrap().expose(), "refresh-1");
    scene.sign_in().await.unwrap();
    assert_eq!((scene.fake.hits("discovery"), scene.fake.hits("jwks")), (1, 1), "what is known is not asked again");
}

#[tokio::test]
async fn a_providers_date_says_how_far_our_clock_is_off() {
    // The fake answers with the real time.
    let real = SystemClock.now();
    for (shift, expected) in [(0, 0), (90_000, 90_000), (-3_600_000, -3_600_000)] {
        let shifted = TestClock::at(Timestamp::from_millis(real.millis() + shift));
        let fake = FakeProvider::start(&shifted).await;
        let providers = Providers::new(vec![fake.settings("corp")], ORIGIN, &clock(&shifted)).unwrap();
        let ahead = providers.get("corp").unwrap().clock_ahead(&shifted).await.unwrap().unwrap();
        // The clock by hand stands still while the fake starts.
        assert!((ahead - expected).abs() < 10_000, "{shift}: {ahead}");
    }
    let date = |text: &str| Timestamp::parse_http(text);
    assert_eq!(date("Sun, 22 Nov 2026 10:15:00 GMT"), Timestamp::parse("2026-11-22T10:15:00Z"));
    assert_eq!((date("yesterday"), date("")), (None, None));
}

#[tokio::test]
async fn a35_other_algorithms_and_headers_are_refused() {
    let scene = Scene::new().await;
    scene.sign_in().await.unwrap();
    let claims = json!({ "iss": scene.fake.issuer, "aud": CLIENT_ID, "sub": "alice", "nonce": "the-nonce",
        "iat": scene.now().seconds(), "exp": scene.now().seconds() + 300 });
    let encode = |value: &Value| BASE64URL_NOPAD.encode(value.to_string().as_bytes());
    let mut raw = Vec::new();
    for alg in ["none", "None", "NONE", "nOnE"] {
        raw.push(format!("{}.{}.", encode(&json!({ "alg": alg })), encode(&claims)));
    }
    // HS256 with what everyone can read: the public key in several forms, and the client secret.
    let (jwk, point) = scene.fake.with(|lies| (lies.key.jwk(), lies.key.public_point()));
    for key in [point, jwk.to_string().into_bytes(), jwk["x"].as_str().unwrap().into(), b"s:cret&%".to_vec(), vec![]] {
        let input = format!("{}.{}", encode(&json!({ "alg": "HS256", "kid": "first", "typ": "JWT" })), encode(&claims));
        let key = aws_lc_rs::hmac::Key::new(aws_lc_rs::hmac::HMAC_SHA256, &key);
        let tag = aws_lc_rs::hmac::sign(&key, input.as_bytes());
        raw.push(format!("{input}.{}", BASE64URL_NOPAD.encode(tag.as_ref())));
    }
    raw.extend(["", ".", "..", "a.b.c", "e30.e30.", "e30.e30.e30.e30.e30"].map(str::to_owned));
    raw.push(".".repeat(1_000_000));
    for token in raw {
        scene.fake.with(|lies| lies.raw_id_token = Some(token.clone()));
        token_error(scene.sign_in().await);
    }
    scene.fake.with(|lies| lies.raw_id_token = None);
    let headers: [(&str, Value); 12] = [
        ("alg", json!("ES384")),
        ("alg", json!("RS256")),
        ("alg", json!("EdDSA")),
        ("alg", json!(1)),
        ("crit", json!(["x"])),
        ("crit", json!([])),
        ("b64", json!(false)),
        ("zip", json!("DEF")),
        ("typ", json!("at+jwt")),
        ("typ", json!("logout+jwt")),
        ("typ", json!("token-introspection+jwt")),
        ("typ", json!(["JWT"])),
    ];
    for (name, value) in headers {
        let outcome = scene.bent(Box::new(move |header, _| header[name] = value.clone())).await;
        token_error(outcome);
    }
    scene.sign_in().await.unwrap();
}

#[tokio::test]
async fn a36_keys_come_from_the_issuer_alone_and_unknown_ones_cause_one_fetch_in_thirty_seconds() {
    let scene = Scene::new().await;
    scene.sign_in().await.unwrap();
    let before = scene.fake.hits("jwks");
    let kids = ["../../etc/passwd", "' or 1=1 --", "", "FIRST", "first\u{0}", "unknown"];
    for round in 0..3 {
        for kid in kids {
            let outcome = scene.bent(Box::new(move |header, _| header["kid"] = kid.into())).await;
            assert_eq!(token_error(outcome), TokenError::UnknownKey, "{kid}");
        }
        assert!(scene.fake.hits("jwks") - before <= round + 1, "one fetch in 30 s at most");
        scene.clock.advance(Ttl::seconds(30));
    }
    // A key that the token brings along or points to is never looked at.
    let stranger = Key::new("stranger");
    let headers = [
        json!({ "jwk": stranger.jwk() }),
        json!({ "jku": "https://attacker.example/jwks" }),
        json!({ "x5u": "https://attacker.example/cert" }),
    ];
    for extra in headers {
        let mut header = json!({ "alg": "ES256", "kid": "first" });
        header.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
        let claims = json!({ "iss": scene.fake.issuer, "aud": CLIENT_ID, "sub": "alice", "nonce": "the-nonce",
            "iat": scene.now().seconds(), "exp": scene.now().seconds() + 300 });
        let token = stranger.sign(&header, &claims);
        scene.fake.with(|lies| lies.raw_id_token = Some(token));
        assert_eq!(token_error(scene.sign_in().await), TokenError::Signature);
    }
}

#[tokio::test]
async fn a_rotated_key_is_taken_within_a_minute_and_old_keys_live_on_while_the_provider_is_away() {
    let scene = Scene::new().await;
    scene.sign_in().await.unwrap();
    scene.fake.with(|lies| {
        lies.key = Key::new("second");
        lies.jwks = json!({ "keys": [lies.key.jwk()] });
    });
    assert_eq!(token_error(scene.sign_in().await), TokenError::UnknownKey, "asked for the keys just now");
    scene.clock.advance(Ttl::seconds(30));
    scene.sign_in().await.unwrap();
    // A logout token needs nothing of its provider but the key: what is in memory is good for a day.
    scene.fake.with(|lies| lies.down = true);
    let logout = async || {
        let claims = json!({ "aud": CLIENT_ID, "sub": "alice", "jti": "j1",
            "events": { "http://schemas.openid.net/event/backchannel-logout": {} } });
        scene.provider().logout_token(&scene.fake.token(json!({}), claims), scene.now()).await
    };
    let asked = || (scene.fake.hits("discovery"), scene.fake.hits("jwks"));
    let before = asked();
    scene.clock.advance(Ttl::hours(23));
    logout().await.unwrap();
    assert_eq!(asked(), (before.0 + 1, before.1 + 1), "it was asked for newer ones");
    scene.clock.advance(Ttl::hours(2));
    let outcome = logout().await;
    assert!(matches!(outcome, Err(ProviderError::Unreachable { .. })), "{outcome:?}");
    // Half back: it describes itself again and has no keys to give, which makes the old ones no younger.
    let keys = scene.fake.with(|lies| {
        lies.down = false;
        lies.jwks.take()
    });
    scene.clock.advance(Ttl::seconds(5));
    let outcome = logout().await;
    assert!(matches!(outcome, Err(ProviderError::Metadata { .. })), "{outcome:?}");
    scene.fake.with(|lies| lies.jwks = keys);
    scene.clock.advance(Ttl::seconds(5));
    logout().await.unwrap();
}

#[tokio::test]
async fn a37_times_that_are_absent_or_odd_are_refused() {
    let scene = Scene::new().await;
    let now = scene.now().seconds();
    let claims: [(&str, Value); 17] = [
        ("exp", Value::Null),
        ("exp", json!((now + 300).to_string())),
        ("exp", json!(-1)),
        ("exp", json!(1e300)),
        ("exp", json!(now)),
        ("exp", json!(now - 1)),
        ("exp", json!([now + 300])),
        ("exp", json!(true)),
        ("nbf", json!(now + 1)),
        ("nbf", json!("0")),
        ("nbf", json!(-5)),
        ("iat", Value::Null),
        ("iat", json!("1")),
        ("iat", json!(now + 3600)),
        ("iat", json!(-1)),
        ("iat", json!(1e30)),
        ("events", json!({})),
    ];
    for (name, value) in claims {
        let (label, gone) = (format!("{name} = {value}"), value.is_null());
        let outcome = scene
            .bent(Box::new(move |_, claims| {
                if gone {
                    claims.as_object_mut().unwrap().remove(name);
                } else {
                    claims[name] = value.clone();
                }
            }))
            .await;
        assert!(outcome.is_err(), "{label}");
    }
}

#[tokio::test]
async fn a38_tokens_for_others_and_of_others_are_refused() {
    let scene = Scene::new().await;
    let issuer = scene.fake.issuer.clone();
    let claims: Vec<(&str, Value)> = vec![
        ("aud", json!("another")),
        ("aud", json!([CLIENT_ID, "another"])),
        ("aud", json!(["another", CLIENT_ID])),
        ("aud", json!([])),
        ("aud", json!("Doorward")),
        ("aud", json!({ "0": CLIENT_ID })),
        ("aud", json!(null)),
        ("azp", json!("another")),
        ("azp", json!([CLIENT_ID])),
        ("iss", json!(format!("{issuer}/"))),
        ("iss", json!(issuer.to_uppercase())),
        ("iss", json!([issuer])),
        ("iss", json!("https://accounts.example")),
        ("iss", json!(null)),
        ("sub", json!(null)),
        ("sub", json!("")),
        ("sub", json!(7)),
        ("sub", json!("a\nb")),
        ("sub", json!("x".repeat(256))),
        ("nonce", json!("another")),
        ("nonce", json!(null)),
        ("nonce", json!("the-nonce ")),
        ("nonce", json!(["the-nonce"])),
    ];
    for (name, value) in claims {
        let label = format!("{name} = {value}");
        let outcome = scene.bent(Box::new(move |_, claims| claims[name] = value.clone())).await;
        assert!(matches!(outcome, Err(ProviderError::Token { .. })), "{label}: {outcome:?}");
    }
    let one = scene.bent(Box::new(|_, claims| claims["aud"] = json!([CLIENT_ID]))).await;
    assert_eq!(one.unwrap().subject, "alice");
}

#[tokio::test]
async fn a38_the_answer_of_another_provider_is_refused() {
    let scene = Scene::new().await;
    let provider = scene.provider();
    let issuer = scene.fake.issuer.clone();
    provider.is_answer_of(Some(&issuer), scene.now()).await.unwrap();
    let slash = format!("{issuer}/");
    for iss in [None, Some(""), Some(slash.as_str()), Some("https://attacker.example")] {
        let outcome = provider.is_answer_of(iss, scene.now()).await;
        assert!(matches!(outcome, Err(ProviderError::MixUp { .. })), "{iss:?}: {outcome:?}");
    }
}

#[tokio::test]
async fn a38_a_provider_that_describes_itself_as_another_is_refused() {
    for (name, value) in [
        ("issuer", "https://accounts.example"),
        ("issuer", "SAME/"),
        ("authorization_endpoint", "javascript:alert(1)"),
        ("authorization_endpoint", "https://user@provider.example/authorize"),
        ("authorization_endpoint", "ftp://provider.example/"),
    ] {
        let scene = Scene::new().await;
        let value = value.replace("SAME", &scene.fake.issuer);
        scene.fake.with(|lies| lies.discovery[name] = value.clone().into());
        let outcome = scene.sign_in().await;
        assert!(matches!(outcome, Err(ProviderError::Metadata { .. })), "{name} = {value}: {outcome:?}");
    }
}

#[tokio::test]
async fn a39_identity_is_issuer_and_subject_and_only_true_verifies_an_email() {
    let scene = Scene::new().await;
    let odd: Vec<(Value, Value, Option<&str>, bool)> = vec![
        (json!("a@example.com"), json!(true), Some("a@example.com"), true),
        (json!("a@example.com"), json!("true"), Some("a@example.com"), false),
        (json!("a@example.com"), json!(1), Some("a@example.com"), false),
        (json!("a@example.com"), json!("True"), Some("a@example.com"), false),
        (json!("a@example.com"), json!([true]), Some("a@example.com"), false),
        (json!("a@example.com"), json!(null), Some("a@example.com"), false),
        (json!("a@example.com"), json!(false), Some("a@example.com"), false),
        (json!("A@Example.COM"), json!(true), Some("A@Example.COM"), true),
        (json!("a@b@example.com"), json!(true), None, false),
        (json!("a\n@example.com"), json!(true), None, false),
        (json!("a b@example.com"), json!(true), None, false),
        (json!("@example.com"), json!(true), None, false),
        (json!("a@"), json!(true), None, false),
        (json!("nobody"), json!(true), None, false),
        (json!(["a@example.com"]), json!(true), None, false),
        (json!(format!("{}@example.com", "x".repeat(300))), json!(true), None, false),
    ];
    for (email, verified, expected, is_verified) in odd {
        let label = format!("{email} {verified}");
        let identity = scene
            .bent(Box::new(move |_, claims| {
                claims["email"] = email.clone();
                claims["email_verified"] = verified.clone();
            }))
            .await
            .unwrap();
        assert_eq!((identity.email.as_deref(), identity.email_verified), (expected, is_verified), "{label}");
        assert_eq!(identity.principal.to_string(), "User::\"corp|alice\"", "{label}");
    }
    // The same address at another subject is another person.
    let other = scene.bent(Box::new(|_, claims| claims["sub"] = "mallory".into())).await.unwrap();
    assert_eq!(other.principal.to_string(), "User::\"corp|mallory\"");
}

#[tokio::test]
async fn a40_a_code_is_good_once_and_only_with_its_verifier() {
    let scene = Scene::new().await;
    let provider = scene.provider();
    let url = provider.authorize_url(&flow(), None, Ttl::hours(12), scene.now()).await.unwrap();
    assert!(url.contains("code_challenge=") && !url.contains(VERIFIER), "{url}");
    let answer = scene.fake.agree(&url);
    let other = secret("wwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwww");
    let outcome = provider.exchange(&answer["code"], &other, &flow().nonce, scene.now()).await;
    assert!(matches!(&outcome, Err(ProviderError::Refused { error, .. }) if error == "invalid_grant"), "{outcome:?}");
    let answer = scene.fake.agree(&url);
    provider.exchange(&answer["code"], &flow().verifier, &flow().nonce, scene.now()).await.unwrap();
    let again = provider.exchange(&answer["code"], &flow().verifier, &flow().nonce, scene.now()).await;
    assert!(matches!(again, Err(ProviderError::Refused { .. })), "{again:?}");
}

#[tokio::test]
async fn a_provider_that_is_down_says_so_and_is_not_beaten() {
    let scene = Scene::new().await;
    scene.fake.with(|lies| lies.down = true);
    assert!(matches!(scene.sign_in().await, Err(ProviderError::Unreachable { .. })));
    for _ in 0..20 {
        assert!(matches!(scene.sign_in().await, Err(ProviderError::AskedJustNow { .. })));
    }
    assert_eq!(scene.fake.hits("discovery"), 1);
    scene.clock.advance(Ttl::seconds(5));
    scene.fake.with(|lies| lies.down = false);
    scene.sign_in().await.unwrap();
}

#[tokio::test]
async fn what_the_id_token_leaves_out_comes_from_userinfo_of_the_same_subject() {
    let scene = Scene::new().await;
    scene.fake.with(|lies| {
        lies.person = json!({ "sub": "alice" });
        lies.userinfo = Some(json!({ "sub": "alice", "email": "alice@example.com", "email_verified": true,
            "name": "Alice", "groups": ["sec", "unknown"] }));
    });
    let alice = scene.sign_in().await.unwrap();
    assert_eq!((alice.email.as_deref(), alice.email_verified), (Some("alice@example.com"), true));
    assert_eq!(alice.groups, ["security"]);
    scene.fake.with(|lies| lies.userinfo.as_mut().unwrap()["sub"] = "mallory".into());
    assert_eq!(token_error(scene.sign_in().await), TokenError::Claim("sub"));
    // Groups that could not be asked for must not pass for none.
    scene.fake.with(|lies| lies.userinfo = None);
    assert!(matches!(scene.sign_in().await, Err(ProviderError::Unreachable { .. })));
}

#[tokio::test]
async fn a_verification_of_one_source_does_not_vouch_for_the_email_of_another() {
    let scene = Scene::new().await;
    scene.fake.with(|lies| {
        lies.person = json!({ "sub": "alice", "email_verified": true, "groups": [] });
        lies.userinfo = Some(json!({ "sub": "alice", "email": "ceo@example.com" }));
    });
    let alice = scene.sign_in().await.unwrap();
    assert_eq!((alice.email.as_deref(), alice.email_verified), (Some("ceo@example.com"), false));
}

#[tokio::test]
async fn a43_a_recheck_tells_new_groups_refusals_and_an_absent_provider_apart() {
    let scene = Scene::new().await;
    let token = scene.sign_in().await.unwrap().refresh_token.unwrap();
    scene.fake.with(|lies| lies.person["groups"] = json!(["sec"]));
    let provider = scene.provider();
    let (groups, token) = match provider.recheck(&token, "alice", scene.now()).await {
        Rechecked::Valid { groups, refresh_token } => (groups, refresh_token.unwrap()),
        other => panic!("{other:?}"),
    };
    assert_eq!(groups.unwrap(), ["security"]);
    // The answer is about somebody else.
    assert!(matches!(provider.recheck(&token, "bob", scene.now()).await, Rechecked::Refused { .. }));
    let current = || scene.fake.with(|lies| secret(lies.refresh_token.as_ref().unwrap()));
    for error in ["temporarily_unavailable", "invalid_client", "server_error", "invalid_request"] {
        scene.fake.with(|lies| lies.token_answer = Some((400, json!({ "error": error }))));
        let outcome = provider.recheck(&current(), "alice", scene.now()).await;
        assert!(matches!(outcome, Rechecked::Unreachable { .. }), "{error}: {outcome:?}");
    }
    scene.fake.with(|lies| lies.token_answer = Some((200, json!({ "unexpected": true }))));
    assert!(matches!(provider.recheck(&current(), "alice", scene.now()).await, Rechecked::Unreachable { .. }));
    scene.fake.with(|lies| lies.token_answer = Some((400, json!({ "error": "invalid_grant" }))));
    assert!(matches!(provider.recheck(&current(), "alice", scene.now()).await, Rechecked::Refused { .. }));
    scene.fake.with(|lies| (lies.token_answer, lies.down) = (None, true));
    assert!(matches!(provider.recheck(&current(), "alice", scene.now()).await, Rechecked::Unreachable { .. }));
}

#[tokio::test]
async fn a_rotated_refresh_token_is_kept_even_where_the_rest_of_the_answer_is_no_use() {
    let scene = Scene::new().await;
    let token = scene.sign_in().await.unwrap().refresh_token.unwrap();
    scene.fake.with(|lies| lies.bend = Some(Box::new(|_, claims| claims["exp"] = json!(1))));
    match scene.provider().recheck(&token, "alice", scene.now()).await {
        Rechecked::Unreachable { refresh_token: Some(_), .. } => {}
        other => panic!("{other:?}"),
    }
}

#[test]
fn a70_groups_of_a_provider_never_become_those_of_another() {
    let own = GroupMap::new("partner".to_owned(), None);
    assert_eq!(own.local(&json!(["security", "corp|security"])), ["partner|corp|security", "partner|security"]);
    let map = BTreeMap::from([("sec".to_owned(), "security".to_owned())]);
    let mapped = GroupMap::new("corp".to_owned(), Some(map));
    assert_eq!(mapped.local(&json!(["sec", "security", "partner|security", "SEC", " sec", "sec"])), ["security"]);
    assert_eq!(mapped.local(&json!("sec")), ["security"]);
    assert_eq!(GroupMap::new("corp".to_owned(), Some(BTreeMap::new())).local(&json!(["sec"])), Vec::<String>::new());
    for odd in [json!(null), json!(true), json!({ "sec": true }), json!([["sec"], { "sec": 1 }, 7, "", "a\nb"])] {
        assert!(mapped.local(&odd).is_empty() && own.local(&odd).is_empty(), "{odd}");
    }
    let many: Vec<String> = (0..10_000).map(|n| format!("g{n}")).collect();
    assert_eq!(own.local(&json!(many)).len(), GROUPS_MAX);
    assert!(own.local(&json!(["x".repeat(1000)])).is_empty());
}

#[tokio::test]
async fn a70_a_providers_name_keeps_its_first_issuer_and_an_issuer_has_one_name() {
    let test_clock = TestClock::new();
    let (first, second) = (FakeProvider::start(&test_clock).await, FakeProvider::start(&test_clock).await);
    let providers = |list| Providers::new(list, ORIGIN, &clock(&test_clock));
    let twice = providers(vec![first.settings("a"), first.settings("b")]);
    assert!(matches!(twice, Err(ProvidersError::IssuerTwice { .. })));
    let names = providers(vec![first.settings("a"), second.settings("a")]);
    assert!(matches!(names, Err(ProvidersError::NameTwice { .. })));
    for url in databases() {
        let store = Store::open(&url).unwrap();
        store.migrate().await.unwrap();
        let now = test_clock.now();
        providers(vec![first.settings("corp")]).unwrap().hold_issuers(&store, now).await.unwrap();
        providers(vec![first.settings("corp")]).unwrap().hold_issuers(&store, now).await.unwrap();
        let changed = providers(vec![second.settings("corp")]).unwrap().hold_issuers(&store, now).await;
        assert!(matches!(changed, Err(ProvidersError::IssuerChanged { .. })), "{changed:?}");
        providers(vec![first.settings("corp"), second.settings("new")])
            .unwrap()
            .hold_issuers(&store, now)
            .await
            .unwrap();
    }
}

#[tokio::test]
async fn a_providers_own_token_is_taken_where_it_is_configured_so() {
    let test_clock = TestClock::new();
    let fake = FakeProvider::start(&test_clock).await;
    let mut settings = fake.settings("corp");
    let now = test_clock.now();
    let token = fake.token(json!({ "typ": "at+jwt" }), json!({ "aud": "api", "sub": "alice", "groups": ["eng"] }));
    let none = Providers::new(vec![settings.clone()], ORIGIN, &clock(&test_clock)).unwrap();
    assert_eq!(none.verify_bearer(&token, now).unwrap_err(), TokenError::Claim("iss"));
    settings.bearer_audiences = vec!["api".to_owned()];
    let providers = Providers::new(vec![settings], ORIGIN, &clock(&test_clock)).unwrap();
    assert_eq!(providers.verify_bearer(&token, now).unwrap_err(), TokenError::UnknownKey);
    providers.wanted().await;
    providers.tend(now).await;
    let bearer = providers.verify_bearer(&token, now).unwrap();
    assert_eq!(bearer.identity.principal.to_string(), "User::\"corp|alice\"");
    assert_eq!(bearer.identity.groups, ["engineering"]);
    assert_eq!(bearer.expires_at, now.plus(Ttl::seconds(300)));
    let wrong: [(Value, Value); 6] = [
        (json!({}), json!({ "aud": "other", "sub": "alice" })),
        (json!({}), json!({ "aud": ["api", "other"], "sub": "alice" })),
        (json!({ "typ": "logout+jwt" }), json!({ "aud": "api", "sub": "alice" })),
        (json!({}), json!({ "aud": "api", "sub": "alice", "events": {} })),
        (json!({}), json!({ "aud": "api", "sub": "alice", "exp": now.seconds() })),
        (json!({}), json!({ "aud": CLIENT_ID, "sub": "alice", "nonce": "n" })),
    ];
    for (header, claims) in wrong {
        assert!(providers.verify_bearer(&fake.token(header, claims.clone()), now).is_err(), "{claims}");
    }
    // A flood of unknown keys: one fetch in 30 s.
    let before = fake.hits("jwks");
    for n in 0..200 {
        let token = fake.token(json!({ "kid": format!("k{n}") }), json!({ "aud": "api", "sub": "alice" }));
        assert_eq!(providers.verify_bearer(&token, now).unwrap_err(), TokenError::UnknownKey);
        providers.tend(now).await;
    }
    assert_eq!(fake.hits("jwks"), before);
    fake.with(|lies| {
        lies.key = Key::new("second");
        lies.jwks = json!({ "keys": [lies.key.jwk()] });
    });
    test_clock.advance(Ttl::seconds(31));
    let token = fake.token(json!({}), json!({ "aud": "api", "sub": "alice" }));
    assert!(providers.verify_bearer(&token, test_clock.now()).is_err());
    providers.tend(test_clock.now()).await;
    providers.verify_bearer(&token, test_clock.now()).unwrap();
    // Away for a day: old keys are good for so long and no longer.
    fake.with(|lies| lies.down = true);
    test_clock.advance(Ttl::hours(23));
    providers.tend(test_clock.now()).await;
    let token = fake.token(json!({}), json!({ "aud": "api", "sub": "alice" }));
    providers.verify_bearer(&token, test_clock.now()).unwrap();
    test_clock.advance(Ttl::hours(2));
    let token = fake.token(json!({}), json!({ "aud": "api", "sub": "alice" }));
    assert_eq!(providers.verify_bearer(&token, test_clock.now()).unwrap_err(), TokenError::UnknownKey);
}

#[tokio::test]
async fn a37_an_id_token_is_no_bearer_token_even_where_the_client_itself_is_an_audience() {
    let test_clock = TestClock::new();
    let fake = FakeProvider::start(&test_clock).await;
    let mut settings = fake.settings("corp");
    settings.bearer_audiences = vec![CLIENT_ID.to_owned(), "api".to_owned()];
    let providers = Providers::new(vec![settings], ORIGIN, &clock(&test_clock)).unwrap();
    let now = test_clock.now();
    let take = |typ: Value, claims: Value| providers.verify_bearer(&fake.token(json!({ "typ": typ }), claims), now);
    take(json!("JWT"), json!({ "aud": "api", "sub": "alice" })).unwrap_err();
    providers.tend(now).await;
    for typ in [json!("JWT"), json!("at+jwt")] {
        for claim in ["nonce", "at_hash", "c_hash"] {
            for aud in [json!(CLIENT_ID), json!([CLIENT_ID])] {
                let mut claims = json!({ "aud": aud, "sub": "alice" });
                claims[claim] = json!("n-0S6_WzA2Mj");
                let refused = take(typ.clone(), claims.clone()).unwrap_err();
                assert_eq!(refused, TokenError::Claim(claim), "{typ} {claims}");
                // Of an API it may say what it likes: no ID token is made for that.
                claims["aud"] = json!("api");
                take(typ.clone(), claims).unwrap();
            }
        }
        // Installations have it: an access token for the client is taken still.
        take(typ, json!({ "aud": CLIENT_ID, "sub": "alice" })).unwrap();
    }
}

#[tokio::test]
async fn f5_a_key_that_changed_without_its_name_is_taken_within_a_minute() {
    for named in [true, false] {
        let test_clock = TestClock::new();
        let fake = FakeProvider::start(&test_clock).await;
        let name = if named { json!("first") } else { Value::Null };
        let rotate = || {
            fake.with(|lies| {
                lies.key = Key::new("first");
                let mut jwk = lies.key.jwk();
                jwk["kid"] = name.clone();
                jwk.as_object_mut().unwrap().retain(|_, value| !value.is_null());
                lies.jwks = json!({ "keys": [jwk] });
            });
        };
        rotate();
        let mut settings = fake.settings("corp");
        settings.bearer_audiences = vec!["api".to_owned()];
        let providers = Providers::new(vec![settings], ORIGIN, &clock(&test_clock)).unwrap();
        let provider = providers.get("corp").unwrap();
        let issuer = IssuerSettings { issuer: fake.issuer.clone(), jwks_file: None, ca: None, allow_loopback: true };
        let logout = || {
            let claims = json!({ "aud": CLIENT_ID, "sub": "alice", "jti": "j1",
                "events": { "http://schemas.openid.net/event/backchannel-logout": {} } });
            fake.token(json!({ "kid": name }), claims)
        };
        let bearer = || fake.token(json!({ "kid": name }), json!({ "aud": "api", "sub": "alice" }));
        let now = test_clock.now();
        provider.logout_token(&logout(), now).await.unwrap();
        providers.verify_bearer(&bearer(), now).unwrap();
        providers.workloads().verify(&bearer(), &issuer, "api", now).await.unwrap();
        rotate();
        let before = fake.hits("jwks");
        for _ in 0..20 {
            provider.logout_token(&logout(), now).await.unwrap_err();
            providers.verify_bearer(&bearer(), now).unwrap_err();
            providers.workloads().verify(&bearer(), &issuer, "api", now).await.unwrap_err();
            providers.tend(now).await;
        }
        assert_eq!(fake.hits("jwks"), before, "a flood fetches nothing");
        test_clock.advance(Ttl::seconds(31));
        let now = test_clock.now();
        providers.tend(now).await;
        providers.verify_bearer(&bearer(), now).unwrap();
        provider.logout_token(&logout(), now).await.unwrap();
        providers.workloads().verify(&bearer(), &issuer, "api", now).await.unwrap();
        rotate();
        test_clock.advance(Ttl::seconds(31));
        provider.logout_token(&logout(), test_clock.now()).await.unwrap();
    }
}

#[tokio::test]
async fn an_issuer_that_cannot_be_reached_has_its_keys_in_a_file() {
    let test_clock = TestClock::new();
    let fake = FakeProvider::start(&test_clock).await;
    let folder = crate::support::temporary_folder();
    let path = folder.path().join("jwks.json");
    std::fs::write(&path, fake.with(|lies| lies.jwks.to_string())).unwrap();
    let mut settings = fake.settings("corp");
    settings.bearer_audiences = vec!["api".to_owned()];
    settings.jwks_file = Some(path.clone());
    fake.with(|lies| lies.down = true);
    let providers = Providers::new(vec![settings.clone()], ORIGIN, &clock(&test_clock)).unwrap();
    let token = fake.token(json!({}), json!({ "aud": "api", "sub": "alice" }));
    providers.verify_bearer(&token, test_clock.now()).unwrap();
    // A new file is read when a key is wanted that the old one has not.
    fake.with(|lies| lies.key = Key::new("second"));
    std::fs::write(&path, fake.with(|lies| json!({ "keys": [lies.key.jwk()] })).to_string()).unwrap();
    let token = fake.token(json!({}), json!({ "aud": "api", "sub": "alice" }));
    providers.verify_bearer(&token, test_clock.now()).unwrap_err();
    providers.tend(test_clock.now()).await;
    providers.verify_bearer(&token, test_clock.now()).unwrap();
    assert_eq!(fake.hits("jwks") + fake.hits("discovery"), 0);
    for text in ["", "[]", "{}", "{\"keys\": 7}"] {
        std::fs::write(&path, text).unwrap();
        let refused = Providers::new(vec![settings.clone()], ORIGIN, &clock(&test_clock));
        assert!(matches!(refused, Err(ProvidersError::File { .. })), "{text}: {refused:?}");
    }
}

#[tokio::test]
async fn a43_a_logout_token_must_be_one() {
    let scene = Scene::new().await;
    let now = scene.now().seconds();
    let good = json!({ "aud": CLIENT_ID, "sub": "alice", "sid": "sid-1", "jti": "j1",
        "events": { "http://schemas.openid.net/event/backchannel-logout": {} } });
    let provider = scene.provider();
    for typ in [json!({ "typ": "logout+jwt" }), json!({ "typ": "JWT" }), json!({})] {
        let token = provider.logout_token(&scene.fake.token(typ, good.clone()), scene.now()).await.unwrap();
        assert_eq!(token.who, LoggedOut::Sid { sid: "sid-1".to_owned(), subject: Some("alice".to_owned()) });
    }
    let mut subject = good.clone();
    subject.as_object_mut().unwrap().remove("sid");
    let token = provider.logout_token(&scene.fake.token(json!({}), subject), scene.now()).await.unwrap();
    assert_eq!(token.who, LoggedOut::Subject("alice".to_owned()));
    let bad: Vec<(&str, Value)> = vec![
        ("nonce", json!("n")),
        ("events", json!({})),
        ("events", Value::Null),
        ("events", json!([])),
        ("events", json!({ "http://schemas.openid.net/event/backchannel-logout": true })),
        ("aud", json!("other")),
        ("aud", json!([CLIENT_ID, "other"])),
        ("jti", Value::Null),
        ("jti", json!(1)),
        ("iat", json!(now - 301)),
        ("iat", json!(now + 120)),
        ("iat", json!("x")),
        ("exp", json!(now)),
        ("iss", json!("https://other.example")),
        ("sid", json!(7)),
    ];
    for (name, value) in bad {
        let mut claims = good.clone();
        claims[name] = value.clone();
        let outcome = provider.logout_token(&scene.fake.token(json!({}), claims), scene.now()).await;
        assert!(outcome.is_err(), "{name} = {value}");
    }
    let mut endless = good.clone();
    endless
        .as_object_mut()
        .unwrap()
        .extend([("iss".to_owned(), json!(scene.fake.issuer)), ("iat".to_owned(), json!(now))]);
    let token = scene.fake.with(|lies| lies.key.sign(&json!({ "alg": "ES256", "kid": lies.key.kid }), &endless));
    // Some providers give it no end; then its age is one.
    assert!(provider.logout_token(&token, scene.now()).await.is_ok());
    let outcome = provider.logout_token(&token, scene.now().plus(Ttl::hours(1))).await;
    assert!(matches!(outcome, Err(ProviderError::Token { source: TokenError::Expired, .. })), "{outcome:?}");
    for typ in ["at+jwt", "secevent+jwt"] {
        let outcome = provider.logout_token(&scene.fake.token(json!({ "typ": typ }), good.clone()), scene.now()).await;
        assert!(outcome.is_err(), "{typ}");
    }
}

#[test]
fn a35_a_key_that_is_for_something_else_verifies_nothing() {
    let jwk = Key::new("first").jwk();
    let count = |name: &str, value: Value| {
        let mut jwk = jwk.clone();
        jwk[name] = value;
        KeySet::from_json(&json!({ "keys": [jwk] })).count()
    };
    for (name, value, usable) in [
        ("use", json!("sig"), 1),
        ("use", json!("enc"), 0),
        ("key_ops", json!(["verify"]), 1),
        ("key_ops", json!(["sign", "verify"]), 1),
        ("key_ops", json!(["encrypt"]), 0),
        ("key_ops", json!(["VERIFY"]), 0),
        ("key_ops", json!([]), 0),
        ("key_ops", json!("verify"), 0),
        ("kty", json!("oct"), 0),
        ("crv", json!("P-521"), 0),
        ("crv", json!("P-384"), 0),
        ("alg", json!("ES384"), 0),
        ("alg", json!("HS256"), 0),
        ("alg", json!("none"), 0),
    ] {
        assert_eq!(count(name, value.clone()), usable, "{name} = {value}");
    }
}
