//! The authorization server of the command line, through HTTP, on both engines.

use doorward::identity::certificate::{ClientCertificate, Issuer};
use doorward::identity::token::{Expected, KeySet, verify};
use doorward::model::{SessionId, Ttl};
use rcgen::KeyPair;
use serde_json::{Value, json};

use crate::api_house::{
    Answer, Caller, House, ORIGIN, REDIRECT, VERIFIER, authorize_path, csr, device, query_of, shown,
};
use crate::support::databases;

fn session_of(answer: &Value) -> SessionId {
    SessionId::parse(answer.pointer("/session/id").unwrap().as_str().unwrap()).unwrap()
}

fn assert_refused(answer: &Answer, status: u16, error: &str) {
    assert_eq!((answer.status.as_u16(), answer.text("/error")), (status, error), "{answer:?}");
    assert_eq!(answer.header("cache-control"), "no-store");
    assert_eq!(answer.text("/decision"), answer.header("doorward-decision"));
}

#[tokio::test]
async fn a_code_becomes_a_session_with_the_facts_of_its_browser() {
    for url in databases() {
        let house = House::new(&url).await;
        let (browser, parent) = house.browser("alice").await;
        let code = house.code(&browser).await;
        let key = KeyPair::generate().unwrap();
        let laptop = Caller { certificate: Some(device("laptop-7", house.now())), ..Caller::default() };
        let fields = [
            ("grant_type", "authorization_code"),
            ("code", code.as_str()),
            ("redirect_uri", REDIRECT),
            ("client_id", "doorward-cli"),
            ("code_verifier", VERIFIER),
            ("csr", &csr(&key)),
        ];
        let answer = house.form(&laptop, "/oauth2/token", &fields).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        assert_eq!(answer.header("cache-control"), "no-store");
        assert_eq!(answer.text("/session/kind"), "cli");
        assert_eq!(answer.text("/session/principal/id"), "dev|alice");
        assert_eq!(answer.text("/session/device/id"), "laptop-7");
        assert_eq!(answer.text("/session/authenticated_at"), parent.session.authenticated_at.to_string());
        assert_eq!(answer.body["session"]["groups"], json!(["engineering"]));
        assert_eq!(answer.body["session"]["current"], json!(true));
        assert_eq!(answer.body["expires_in"], json!(900));
        let stored = house.desk.store.session_fetch(session_of(&answer.body)).await.unwrap().unwrap();
        assert_eq!(stored.link, parent.link);
        assert_eq!(stored.session.amr, parent.session.amr);
        assert!(stored.session.expires_at <= parent.session.expires_at);

        let certificate = shown(answer.text("/certificate"));
        assert_eq!(certificate.session, Some(stored.session.id));
        assert_eq!(certificate.not_after, house.now().plus(Ttl::hours(1)));
        let caller = Caller { certificate: Some(certificate), ..Caller::default() };
        let me = house.get(&caller, "/api/v1/whoami").await;
        assert_eq!((me.status.as_u16(), me.text("/principal/email")), (200, "alice@example.com"));
        assert_eq!(me.text("/session/id"), stored.session.id.to_string());
    }
}

#[tokio::test]
async fn an_access_token_is_as_rfc_9068_wants_it_and_bound_to_the_certificate() {
    let house = House::new(&databases()[0]).await;
    let (caller, answer, _) = house.command_line("alice").await;
    let jwks = house.get(&Caller::default(), "/oauth2/jwks").await;
    assert_eq!(jwks.header("cache-control"), "public, max-age=300");
    assert!(jwks.body["keys"].as_array().unwrap().len() >= 2, "current and next are published");
    assert!(jwks.body.to_string().find("\"d\"").is_none(), "no private part is published");
    let expected = Expected { issuer: ORIGIN, audiences: &[ORIGIN], types: &["at+jwt"] };
    let token = answer["access_token"].as_str().unwrap();
    let verified = verify(token, &KeySet::from_json(&jwks.body), &expected, house.now()).unwrap();
    assert_eq!(verified.subject, "dev|alice");
    let claims = verified.claims;
    assert_eq!(claims["client_id"], json!("doorward-cli"));
    assert_eq!(claims["sid"], answer["session"]["id"]);
    assert_eq!(claims["principal"], json!("User::\"dev|alice\""));
    let thumbprint = caller.certificate.as_ref().unwrap().thumbprint;
    assert_eq!(claims["cnf"], json!({ "x5t#S256": thumbprint.to_string() }));
    assert!(claims["exp"].as_i64().unwrap() - claims["iat"].as_i64().unwrap() <= 900);
    assert!(claims["jti"].as_str().unwrap().len() >= 22);
}

#[tokio::test]
async fn a34_a_bound_token_is_no_good_over_another_certificate_or_none() {
    let house = House::new(&databases()[0]).await;
    let (alice, answer, _) = house.command_line("alice").await;
    let (bob, _, _) = house.command_line("bob").await;
    let token = answer["access_token"].as_str().map(str::to_owned);
    let with = |certificate| Caller { certificate, bearer: token.clone(), ..Caller::default() };
    assert_eq!(house.get(&with(alice.certificate.clone()), "/api/v1/whoami").await.status, 200);
    for other in [None, bob.certificate, Some(device("laptop-7", house.now()))] {
        let refused = house.get(&with(other), "/api/v1/whoami").await;
        assert_eq!((refused.status.as_u16(), refused.text("/reason")), (401, "bad_credential"));
    }
}

#[tokio::test]
async fn a40_a_wrong_use_of_a_code_is_refused_and_burns_it() {
    for url in databases() {
        let house = House::new(&url).await;
        let (browser, _) = house.browser("alice").await;
        let wrong = [
            ("code_verifier", "aBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk", 400, "invalid_grant"),
            ("redirect_uri", "http://127.0.0.1:49153/callback", 400, "invalid_grant"),
            ("redirect_uri", "http://[::1]:49152/callback", 400, "invalid_grant"),
        ];
        for (name, value, status, error) in wrong {
            let code = house.code(&browser).await;
            assert_refused(&house.exchange(&code, &[(name, value)]).await, status, error);
            assert_refused(&house.exchange(&code, &[]).await, 400, "invalid_grant");
        }
        // What can't be a verifier, or another client, says nothing about the code: it stays.
        let code = house.code(&browser).await;
        assert_refused(&house.exchange(&code, &[("code_verifier", "")]).await, 400, "invalid_request");
        assert_refused(&house.exchange(&code, &[("code_verifier", "short")]).await, 400, "invalid_request");
        assert_refused(&house.exchange(&code, &[("client_id", "other")]).await, 401, "invalid_client");
        assert_eq!(house.exchange(&code, &[]).await.status, 200);
    }
}

#[tokio::test]
async fn a40_a_replayed_code_ends_the_session_that_came_from_it() {
    for url in databases() {
        let house = House::new(&url).await;
        let (browser, parent) = house.browser("alice").await;
        let code = house.code(&browser).await;
        let key = KeyPair::generate().unwrap();
        let first = house.exchange(&code, &[("csr", &csr(&key))]).await;
        let caller = Caller { certificate: Some(shown(first.text("/certificate"))), ..Caller::default() };
        assert_eq!(house.get(&caller, "/api/v1/whoami").await.status, 200);
        assert_refused(&house.exchange(&code, &[]).await, 400, "invalid_grant");
        let refused = house.get(&caller, "/api/v1/whoami").await;
        assert_eq!((refused.status.as_u16(), refused.text("/reason")), (401, "session_ended"));
        assert_refused(&house.refresh(&caller, first.text("/refresh_token"), &[]).await, 400, "invalid_grant");
        let browser_lives = house.desk.store.session_fetch(parent.session.id).await.unwrap().unwrap();
        assert!(browser_lives.session.is_live(house.now()));
    }
}

#[tokio::test]
async fn a40_a_code_is_good_for_a_minute_and_while_its_browser_session_lives() {
    let house = House::new(&databases()[0]).await;
    let (browser, parent) = house.browser("alice").await;
    let code = house.code(&browser).await;
    house.clock.advance(Ttl::seconds(60));
    assert_refused(&house.exchange(&code, &[]).await, 400, "invalid_grant");
    let code = house.code(&browser).await;
    house.end_elsewhere(parent.session.id).await;
    assert_refused(&house.exchange(&code, &[]).await, 400, "invalid_grant");
}

#[tokio::test]
async fn a40_plain_and_absent_challenges_are_refused_before_anybody_signs_in() {
    let house = House::new(&databases()[0]).await;
    let (browser, _) = house.browser("alice").await;
    for caller in [&browser, &Caller::default()] {
        for (name, value) in [("code_challenge_method", "plain"), ("code_challenge_method", ""), ("code_challenge", "")]
        {
            let answer = house.get(caller, &authorize_path(&[(name, value)])).await;
            assert_eq!(answer.status, 303);
            let location = answer.header("location");
            assert!(location.starts_with(REDIRECT), "{location}");
            assert_eq!(query_of(location, "error").as_deref(), Some("invalid_request"));
            assert_eq!(query_of(location, "state").as_deref(), Some("a state & more"));
            assert_eq!(query_of(location, "iss").as_deref(), Some(ORIGIN));
            assert_eq!(query_of(location, "code"), None);
        }
    }
}

#[tokio::test]
async fn a41_a_browser_is_only_sent_to_our_client_on_loopback() {
    let house = House::new(&databases()[0]).await;
    let (browser, _) = house.browser("alice").await;
    for redirect in [
        "https://evil.example/callback",
        "http://127.0.0.1:49152/callback?x=y",
        "http://127.0.0.1:49152/callback#x",
        "http://127.0.0.1:49152/callback/",
        "http://127.0.0.1:49152/other",
        "http://127.0.0.1/callback",
        "http://127.0.0.1:/callback",
        "http://127.0.0.1:0/callback",
        "http://127.0.0.1:080/callback",
        "http://127.0.0.1:70000/callback",
        "http://127.0.0.1:80@evil.example/callback",
        "http://127.0.0.1.evil.example:80/callback",
        "http://localhost:49152/callback",
        "http://[::2]:49152/callback",
        "HTTP://127.0.0.1:49152/callback",
        "",
    ] {
        let answer = house.get(&browser, &authorize_path(&[("redirect_uri", redirect)])).await;
        assert_eq!(answer.status, 400, "{redirect}");
        assert!(answer.headers.get("location").is_none(), "{redirect}");
        let answer = house.agree(&browser, &[("redirect_uri", redirect)]).await;
        assert_eq!(answer.status, 400, "{redirect}");
        assert!(answer.headers.get("location").is_none(), "{redirect}");
    }
    let v6 = house.agree(&browser, &[("redirect_uri", "http://[::1]:5/callback")]).await;
    assert!(v6.header("location").starts_with("http://[::1]:5/callback?code="), "{v6:?}");
    let twice = format!("{}&redirect_uri=http%3A%2F%2Fevil.example", authorize_path(&[]));
    assert_eq!(house.get(&browser, &twice).await.status, 400);
}

#[tokio::test]
async fn who_is_not_signed_in_is_sent_to_sign_in_and_back() {
    let house = House::new(&databases()[0]).await;
    let path = authorize_path(&[("login_hint", "alice@example.com")]);
    let answer = house.get(&Caller::default(), &path).await;
    assert_eq!(answer.status, 303);
    let location = answer.header("location");
    assert!(location.starts_with("/signin?return_to="), "{location}");
    assert_eq!(query_of(location, "return_to").as_deref(), Some(path.as_str()));
    assert_eq!(query_of(location, "login_hint").as_deref(), Some("alice@example.com"));
    // A certificate is no browser: nobody gets a code by it. Nor would signing in help, beside a certificate
    // or a token that stay there: who shows one is told so, and not sent in a circle.
    let (certified, _, _) = house.command_line("alice").await;
    let (browser, _) = house.browser("bob").await;
    let both = Caller { cookie: browser.cookie.clone(), ..certified.clone() };
    let tokened = Caller { bearer: Some("nonsense".to_owned()), ..browser };
    for (caller, status) in [(certified, 403), (both, 401), (tokened, 401)] {
        let answer = house.get(&caller, &path).await;
        assert!(answer.header("location").starts_with("/signin/program?"), "{answer:?}");
        let page = house.get(&caller, answer.header("location")).await;
        assert_eq!(page.status, status, "{page:?}");
    }
    // A machine's certificate and an opening's go with nobody's cookie either.
    for issuer in [Issuer::Spiffe, Issuer::BreakGlass] {
        let (browser, _) = house.browser("bob").await;
        let certificate = Some(ClientCertificate { issuer, ..device("laptop-7", house.now()) });
        let beside = Caller { certificate, ..browser };
        let answer = house.get(&beside, &path).await;
        assert!(answer.header("location").starts_with("/signin/program?"), "{issuer:?}: {answer:?}");
        assert_eq!(house.get(&beside, answer.header("location")).await.status, 401, "{issuer:?}");
    }
    // A device names nobody, and a cookie of nobody is replaced.
    let device = Some(device("laptop-7", house.now()));
    let cookie = Some(format!("{}={}", doorward::identity::cookie::SESSION_COOKIE, "A".repeat(43)));
    let stale = Caller { certificate: device, cookie, ..Caller::default() };
    assert!(house.get(&stale, &path).await.header("location").starts_with("/signin?"));
}

#[tokio::test]
async fn a47_of_fifty_who_use_one_code_at_once_one_gets_in() {
    for url in databases() {
        let house = House::new(&url).await;
        let (browser, _) = house.browser("alice").await;
        let code = house.code(&browser).await;
        let answers = futures_util::future::join_all((0..50).map(|_| house.exchange(&code, &[]))).await;
        let successes = answers.iter().filter(|answer| answer.status == 200).count();
        assert_eq!(successes, 1);
    }
}

#[tokio::test]
async fn a47_of_fifty_who_use_one_refresh_token_at_once_one_gets_the_next() {
    for url in databases() {
        let house = House::new(&url).await;
        let (caller, answer, _) = house.command_line("alice").await;
        let token = answer["refresh_token"].as_str().unwrap();
        let answers = futures_util::future::join_all((0..50).map(|_| house.refresh(&caller, token, &[]))).await;
        assert_eq!(answers.iter().filter(|answer| answer.status == 200).count(), 1);
        // Two who hold one token can't be told apart: the session is over.
        assert_eq!(house.get(&caller, "/api/v1/whoami").await.text("/reason"), "session_ended");
    }
}

#[tokio::test]
async fn a_refresh_gives_the_next_token_and_certificate_and_reuse_ends_the_session() {
    for url in databases() {
        let house = House::new(&url).await;
        let (caller, first, key) = house.command_line("alice").await;
        house.clock.advance(Ttl::minutes(50));
        let token = first["refresh_token"].as_str().unwrap();
        let second = house.refresh(&caller, token, &[("csr", &csr(&key))]).await;
        assert_eq!(second.status, 200, "{second:?}");
        assert_eq!(session_of(&second.body), session_of(&first));
        assert_ne!(second.text("/refresh_token"), token);
        let renewed = Caller { certificate: Some(shown(second.text("/certificate"))), ..Caller::default() };
        assert_eq!(house.get(&renewed, "/api/v1/whoami").await.status, 200);
        assert_eq!(house.get(&caller, "/api/v1/whoami").await.status, 200, "the old one is good until its own end");
        house.clock.advance(Ttl::minutes(10));
        assert_eq!(house.get(&caller, "/api/v1/whoami").await.text("/reason"), "bad_credential");

        assert_refused(&house.refresh(&renewed, token, &[]).await, 400, "invalid_grant");
        let refused = house.get(&renewed, "/api/v1/whoami").await;
        assert_eq!((refused.status.as_u16(), refused.text("/reason")), (401, "session_ended"));
        assert_refused(&house.refresh(&renewed, second.text("/refresh_token"), &[]).await, 400, "invalid_grant");
        let stored = house.desk.store.session_fetch(session_of(&first)).await.unwrap().unwrap();
        assert_eq!(stored.session.ended.map(|(why, _)| why.name()), Some("refresh_reused"));
    }
}

#[tokio::test]
async fn a34_a_refresh_token_is_worth_nothing_without_the_key_of_its_session() {
    let house = House::new(&databases()[0]).await;
    let (caller, answer, key) = house.command_line("alice").await;
    let (bob, _, _) = house.command_line("bob").await;
    let token = answer["refresh_token"].as_str().unwrap();
    let nobody = Caller::default();
    let thief = csr(&KeyPair::generate().unwrap());
    assert_refused(&house.refresh(&nobody, token, &[]).await, 401, "invalid_client");
    assert_refused(&house.refresh(&nobody, token, &[("csr", &thief)]).await, 401, "invalid_client");
    assert_refused(&house.refresh(&bob, token, &[("csr", &csr(&key))]).await, 401, "invalid_client");
    // None of that used it up: its owner goes on.
    let answer = house.refresh(&nobody, token, &[("csr", &csr(&key))]).await;
    assert_eq!(answer.status, 200);
    let by_connection = house.refresh(&caller, answer.text("/refresh_token"), &[]).await;
    assert_eq!(by_connection.status, 200);
}

#[tokio::test]
async fn a34_what_names_a_session_is_no_proof_of_it() {
    let house = House::new(&databases()[0]).await;
    let (alice, answer, _) = house.command_line("alice").await;
    let named = [
        answer["session"]["id"].as_str().unwrap().to_owned(),
        alice.certificate.as_ref().unwrap().thumbprint.to_string(),
        answer["refresh_token"].as_str().unwrap().to_owned(),
        "dev|alice".to_owned(),
    ];
    for text in named {
        let cookie = format!("{}={text}", doorward::identity::cookie::SESSION_COOKIE);
        for caller in [
            Caller { bearer: Some(text.clone()), ..Caller::default() },
            Caller { cookie: Some(cookie), ..Caller::default() },
            // Nor beside what is good.
            Caller { bearer: Some(text.clone()), ..alice.clone() },
        ] {
            let refused = house.get(&caller, "/api/v1/whoami").await;
            assert_eq!((refused.status.as_u16(), refused.text("/reason")), (401, "bad_credential"), "{text}");
        }
    }
}

#[tokio::test]
async fn nothing_outlives_its_session() {
    let house = House::with(&databases()[0], |settings| settings.lifetime = Ttl::minutes(30)).await;
    let (browser, parent) = house.browser("alice").await;
    house.clock.advance(Ttl::minutes(20));
    let code = house.code(&browser).await;
    let key = KeyPair::generate().unwrap();
    let answer = house.exchange(&code, &[("csr", &csr(&key))]).await;
    assert_eq!(answer.text("/session/expires_at"), parent.session.expires_at.to_string());
    assert_eq!(answer.text("/certificate_expires_at"), parent.session.expires_at.to_string());
    assert_eq!(answer.body["expires_in"], json!(600));
    assert_eq!(answer.body["refresh_token_expires_in"], json!(600));
    house.clock.advance(Ttl::minutes(10));
    let caller = Caller { certificate: Some(shown(answer.text("/certificate"))), ..Caller::default() };
    assert_eq!(house.get(&caller, "/api/v1/whoami").await.status, 401);
    assert_refused(&house.refresh(&Caller::default(), answer.text("/refresh_token"), &[]).await, 400, "invalid_grant");
}

#[tokio::test]
async fn an_unused_session_is_over_after_its_idle_time() {
    let house = House::with(&databases()[0], |settings| settings.idle = Some(Ttl::minutes(20))).await;
    let (caller, answer, key) = house.command_line("alice").await;
    house.clock.advance(Ttl::minutes(20));
    assert_eq!(house.get(&caller, "/api/v1/whoami").await.status, 401);
    let token = answer["refresh_token"].as_str().unwrap();
    assert_refused(&house.refresh(&Caller::default(), token, &[("csr", &csr(&key))]).await, 400, "invalid_grant");
}

async fn device_start(house: &House) -> Answer {
    let asker = Caller { headers: vec![("user-agent", "doorward/0.1 build-host-3".to_owned())], ..Caller::default() };
    house.form(&asker, "/oauth2/device_authorization", &[("client_id", "doorward-cli")]).await
}

async fn device_poll(house: &House, code: &str) -> Answer {
    let fields = [
        ("grant_type", "urn:ietf:params:oauth:grant-type:device_code"),
        ("device_code", code),
        ("client_id", "doorward-cli"),
    ];
    house.form(&Caller::default(), "/oauth2/token", &fields).await
}

mod page {
    //! What the page of the device flow does for its visitor.

    use std::sync::Arc;

    use doorward::control::caller::{Caller, Evidence, Provenance, Shown, prove};
    use doorward::control::oauth::device::{self, Answer, AnswerError, Asking};
    use doorward::identity::cookie::CookieValue;

    use crate::api_house::{self, House, facts};

    pub async fn visitor(house: &House, browser: &api_house::Caller) -> Caller {
        let value = browser.cookie.as_deref().unwrap().split_once('=').unwrap().1;
        let evidence = Evidence {
            connection: &Arc::new(facts(None)),
            cookie: Shown::One(CookieValue::parse(value).unwrap().hash()),
            bearer: Shown::Absent,
            provenance: Provenance::OurPage,
        };
        prove(&house.desk, evidence, house.now()).await.unwrap()
    }

    pub async fn asking(house: &House, user_code: &str) -> Result<Asking, AnswerError> {
        device::asking(&house.desk, user_code, house.now()).await
    }

    pub async fn answer(
        house: &House,
        browser: &api_house::Caller,
        user_code: &str,
        answer: Answer,
    ) -> Result<(), AnswerError> {
        let visitor = visitor(house, browser).await;
        device::answer(&house.desk, &visitor, user_code, answer, house.now()).await
    }
}

#[tokio::test]
async fn a_device_is_signed_in_once_its_owner_agrees() {
    use doorward::control::oauth::device::Answer;
    for url in databases() {
        let house = House::new(&url).await;
        let (browser, _) = house.browser("alice").await;
        let started = device_start(&house).await;
        assert_eq!(started.status, 200, "{started:?}");
        assert_eq!((&started.body["interval"], &started.body["expires_in"]), (&json!(5), &json!(600)));
        let (code, user_code) = (started.text("/device_code"), started.text("/user_code"));
        assert_eq!(started.text("/verification_uri_complete"), format!("{ORIGIN}/device?user_code={user_code}"));

        assert_eq!(device_poll(&house, code).await.text("/error"), "authorization_pending");
        assert_eq!(device_poll(&house, code).await.text("/error"), "slow_down");
        house.clock.advance(Ttl::seconds(9));
        assert_eq!(device_poll(&house, code).await.text("/error"), "slow_down", "it must wait ten seconds now");
        house.clock.advance(Ttl::seconds(15));

        let asking = page::asking(&house, &user_code.to_lowercase().replace('-', " ")).await.unwrap();
        assert_eq!(
            (asking.address.to_string().as_str(), asking.agent.as_str()),
            ("192.0.2.7", "doorward/0.1 build-host-3")
        );
        page::answer(&house, &browser, user_code, Answer::Agree).await.unwrap();
        assert!(page::answer(&house, &browser, user_code, Answer::Refuse).await.is_err(), "it is answered");
        let granted = device_poll(&house, code).await;
        assert_eq!((granted.status.as_u16(), granted.text("/session/principal/id")), (200, "dev|alice"));
        let id = session_of(&granted.body);
        assert!(house.desk.store.session_fetch(id).await.unwrap().unwrap().session.is_live(house.now()));

        // A second use of the code: whoever was first may not be the device.
        assert_refused(&device_poll(&house, code).await, 400, "invalid_grant");
        assert!(!house.desk.store.session_fetch(id).await.unwrap().unwrap().session.is_live(house.now()));
    }
}

#[tokio::test]
async fn a_device_gets_nothing_when_its_owner_refuses_or_is_too_late() {
    use doorward::control::oauth::device::Answer;
    let house = House::new(&databases()[0]).await;
    let (browser, _) = house.browser("alice").await;
    let started = device_start(&house).await;
    page::answer(&house, &browser, started.text("/user_code"), Answer::Refuse).await.unwrap();
    assert_refused(&device_poll(&house, started.text("/device_code")).await, 400, "access_denied");
    let started = device_start(&house).await;
    house.clock.advance(Ttl::minutes(10));
    assert!(page::answer(&house, &browser, started.text("/user_code"), Answer::Agree).await.is_err());
    assert_refused(&device_poll(&house, started.text("/device_code")).await, 400, "expired_token");
    assert!(page::asking(&house, "AAAA-AAAA").await.is_err());
}

#[tokio::test]
async fn a_device_code_is_good_as_long_as_the_installation_says() {
    use doorward::control::oauth::device::Answer;
    let house = House::with(&databases()[0], |settings| settings.device_code_ttl = Ttl::minutes(3)).await;
    let (browser, _) = house.browser("alice").await;
    let (in_time, late) = (device_start(&house).await, device_start(&house).await);
    assert_eq!(in_time.body["expires_in"], json!(180));
    house.clock.advance(Ttl::seconds(179));
    page::answer(&house, &browser, in_time.text("/user_code"), Answer::Agree).await.unwrap();
    assert_eq!(device_poll(&house, in_time.text("/device_code")).await.status, 200);
    house.clock.advance(Ttl::seconds(1));
    assert!(page::answer(&house, &browser, late.text("/user_code"), Answer::Agree).await.is_err());
    assert_refused(&device_poll(&house, late.text("/device_code")).await, 400, "expired_token");
}

#[tokio::test]
async fn a47_of_fifty_polls_of_an_agreed_device_one_gets_in() {
    use doorward::control::oauth::device::Answer;
    for url in databases() {
        let house = House::new(&url).await;
        let (browser, _) = house.browser("alice").await;
        let started = device_start(&house).await;
        page::answer(&house, &browser, started.text("/user_code"), Answer::Agree).await.unwrap();
        let code = started.text("/device_code");
        let answers = futures_util::future::join_all((0..50).map(|_| device_poll(&house, code))).await;
        assert_eq!(answers.iter().filter(|answer| answer.status == 200).count(), 1);
    }
}

#[tokio::test]
async fn where_device_codes_are_not_allowed_there_are_none() {
    let house = House::with(&databases()[0], |settings| settings.device_code = false).await;
    assert_refused(&device_start(&house).await, 400, "unauthorized_client");
    assert_refused(&device_poll(&house, "whatever").await, 400, "unauthorized_client");
    let metadata = house.get(&Caller::default(), "/.well-known/oauth-authorization-server").await;
    assert!(metadata.body.get("device_authorization_endpoint").is_none());
    let exchange = "urn:ietf:params:oauth:grant-type:token-exchange";
    assert_eq!(metadata.body["grant_types_supported"], json!(["authorization_code", "refresh_token", exchange]));
}

#[tokio::test]
async fn the_metadata_says_what_is_there() {
    let house = House::new(&databases()[0]).await;
    let nobody = Caller::default();
    let metadata = house.get(&nobody, "/.well-known/oauth-authorization-server").await;
    assert_eq!(metadata.text("/issuer"), ORIGIN);
    // Only a door that signs in whoever asks says so.
    assert_eq!(metadata.body.get("doorward_development"), None);
    let development = House::with(&databases()[0], |settings| settings.development = true).await;
    let development = development.get(&nobody, "/.well-known/oauth-authorization-server").await;
    assert_eq!(development.body["doorward_development"], json!(true));
    assert_eq!(metadata.body["code_challenge_methods_supported"], json!(["S256"]));
    assert_eq!(metadata.body["authorization_response_iss_parameter_supported"], json!(true));
    assert_eq!(metadata.body, house.get(&nobody, "/.well-known/openid-configuration").await.body);
    for name in
        ["token_endpoint", "jwks_uri", "revocation_endpoint", "introspection_endpoint", "authorization_endpoint"]
    {
        let path = metadata.body[name].as_str().unwrap().strip_prefix(ORIGIN).unwrap().to_owned();
        assert!(doorward::api::ROUTES.iter().any(|route| route.path == path), "{path}");
    }
    let resource = house.get(&nobody, "/.well-known/oauth-protected-resource").await;
    assert_eq!(resource.body["authorization_servers"], json!([ORIGIN]));
}

#[tokio::test]
async fn a_client_that_authenticates_is_refused_in_the_scheme_that_it_used() {
    let house = House::new(&databases()[0]).await;
    for (shown, challenge) in [
        ("Basic eDp5", "Basic realm=\"doorward\""),
        ("Digest username=\"x\"", "Digest realm=\"doorward\""),
        ("a\"b c", "Bearer realm=\"doorward\""),
        ("Bearer x", "Bearer realm=\"doorward\""),
    ] {
        let caller = Caller { headers: vec![("authorization", shown.to_owned())], ..Caller::default() };
        let answer = house.form(&caller, "/oauth2/token", &[("grant_type", "refresh_token")]).await;
        assert_refused(&answer, 401, "invalid_client");
        assert!(answer.header("www-authenticate").starts_with(challenge), "{answer:?}");
    }
}

#[tokio::test]
async fn a_withdrawn_refresh_token_ends_its_session() {
    let house = House::new(&databases()[0]).await;
    let (caller, answer, _) = house.command_line("alice").await;
    let nobody = Caller::default();
    let fields = |token| vec![("token", token), ("client_id", "doorward-cli")];
    assert_eq!(house.form(&nobody, "/oauth2/revoke", &fields("unknown")).await.status, 200);
    let access = answer["access_token"].as_str().unwrap();
    // An access token is withdrawn alone: the certificate beside it goes on.
    let with_token = Caller { bearer: Some(access.to_owned()), ..caller.clone() };
    assert_eq!(house.get(&with_token, "/api/v1/whoami").await.status, 200);
    assert_eq!(house.form(&nobody, "/oauth2/revoke", &fields(access)).await.status, 200);
    assert_eq!(house.get(&with_token, "/api/v1/whoami").await.text("/reason"), "bad_credential");
    assert_eq!(house.form(&caller, "/oauth2/introspect", &[("token", access)]).await.body["active"], json!(false));
    assert_eq!(house.get(&caller, "/api/v1/whoami").await.status, 200);
    let token = answer["refresh_token"].as_str().unwrap();
    assert_eq!(house.form(&nobody, "/oauth2/revoke", &fields(token)).await.status, 200);
    assert_eq!(house.get(&caller, "/api/v1/whoami").await.text("/reason"), "session_ended");
    assert_eq!(house.form(&nobody, "/oauth2/revoke", &fields(token)).await.status, 200, "it is withdrawn already");
}

#[tokio::test]
async fn a_session_may_ask_of_its_own_tokens_and_no_others() {
    let house = House::new(&databases()[0]).await;
    let (alice, answer, _) = house.command_line("alice").await;
    let (bob, _, _) = house.command_line("bob").await;
    let fields = [("token", answer["access_token"].as_str().unwrap())];
    let own = house.form(&alice, "/oauth2/introspect", &fields).await;
    assert_eq!((&own.body["active"], own.text("/sub")), (&json!(true), "dev|alice"));
    assert_eq!(own.body["cnf"]["x5t#S256"], json!(alice.certificate.as_ref().unwrap().thumbprint.to_string()));
    assert_eq!(house.form(&bob, "/oauth2/introspect", &fields).await.body, json!({ "active": false }));
    assert_eq!(house.form(&alice, "/oauth2/introspect", &[("token", "x.y.z")]).await.body, json!({ "active": false }));
    assert_refused(&house.form(&Caller::default(), "/oauth2/introspect", &fields).await, 401, "invalid_client");
    house.clock.advance(Ttl::minutes(15));
    assert_eq!(house.form(&alice, "/oauth2/introspect", &fields).await.body, json!({ "active": false }));
}

#[tokio::test]
async fn what_is_no_grant_of_ours_is_told_so() {
    let house = House::new(&databases()[0]).await;
    let nobody = Caller::default();
    let ask = async |fields: &[(&str, &str)]| house.form(&nobody, "/oauth2/token", fields).await;
    let exchange = "urn:ietf:params:oauth:grant-type:token-exchange";
    assert_refused(&ask(&[("grant_type", exchange)]).await, 400, "invalid_request");
    assert_refused(&ask(&[("grant_type", "password")]).await, 400, "unsupported_grant_type");
    assert_refused(&ask(&[]).await, 400, "invalid_request");
    let twice = [("grant_type", "refresh_token"), ("grant_type", "refresh_token")];
    assert_refused(&ask(&twice).await, 400, "invalid_request");
    let long = "x".repeat(70_000);
    assert_refused(&ask(&[("grant_type", &long)]).await, 413, "invalid_request");
    assert_refused(&house.json(&nobody, "/oauth2/token", &json!({})).await, 400, "invalid_request");
    let basic =
        Caller { headers: vec![("authorization", "Basic ZG9vcndhcmQtY2xpOg==".to_owned())], ..Caller::default() };
    assert_refused(&house.form(&basic, "/oauth2/token", &twice[..1]).await, 401, "invalid_client");
}

#[tokio::test]
async fn a_signing_request_that_can_not_be_used_starts_nothing() {
    let house = House::new(&databases()[0]).await;
    let (browser, _) = house.browser("alice").await;
    let code = house.code(&browser).await;
    for bad in ["rubbish!", "-----BEGIN CERTIFICATE REQUEST-----\nAAAA\n-----END CERTIFICATE REQUEST-----", "AAAA"] {
        assert_refused(&house.exchange(&code, &[("csr", bad)]).await, 400, "invalid_request");
    }
    assert_eq!(house.exchange(&code, &[]).await.status, 200, "the code was not used up");
}
