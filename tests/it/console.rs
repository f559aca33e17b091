//! The pages: what they need of a visitor, what a form needs, and what they never do (ATTACKS A42,
//! A51, A68, A69).

use doorward::console::{Needs, ROUTES};
use doorward::control::session::{self};
use doorward::identity::breakglass::KnownOpening;
use doorward::identity::cookie::SESSION_COOKIE;
use doorward::model::{BreakGlassId, Ttl};

use crate::api_house::{ORIGIN, shown};
use crate::sign_in_scene::{Browser, Page, Scene};
use crate::support::databases;

async fn scene() -> (Scene, Browser) {
    let scene = Scene::new(&databases()[0]).await;
    let mut browser = Browser::default();
    assert_eq!(scene.sign_in(&mut browser, "/signin").await.location(), "/");
    (scene, browser)
}

pub fn keeps_to_itself(page: &Page) {
    let policy = page.headers["content-security-policy"].to_str().unwrap();
    for needed in ["default-src 'none'", "form-action 'self'", "frame-ancestors 'none'", "base-uri 'none'"] {
        assert!(policy.contains(needed), "{policy}");
    }
    assert!(!policy.contains("unsafe"), "{policy}");
    assert_eq!(page.headers["x-content-type-options"], "nosniff");
    assert_eq!(page.headers["x-frame-options"], "DENY");
    // RFC 9110 §15.5.2; RFC 6797 §7.1.
    assert_eq!(page.headers["strict-transport-security"], "max-age=31536000");
    assert_eq!(page.headers.contains_key("www-authenticate"), page.status == 401, "{page:?}");
    assert_eq!(page.headers["cache-control"], "no-store");
    for never in ["<script", "onclick", "style=", "http://", "javascript:"] {
        assert!(!page.body.contains(never), "{never} in {}", page.body);
    }
}

#[tokio::test]
async fn every_page_keeps_to_itself_and_sends_strangers_to_sign_in() {
    let (scene, mut browser) = scene().await;
    for (method, path, needs) in ROUTES {
        let stranger = scene.send(&mut Browser::default(), method, path, (*method == "POST").then_some(&[])).await;
        keeps_to_itself(&stranger);
        match needs {
            // No form is led to a provider: browsers would stop it there (`form-action`) without a word.
            Needs::Browser if *method == "POST" => {
                assert_eq!(stranger.status, 401, "{method} {path}: {stranger:?}");
                assert!(stranger.body.contains("Your session is over; nothing was sent"), "{}", stranger.body);
                assert!(stranger.body.contains("href=\"/signin?return_to="), "{}", stranger.body);
            }
            Needs::Browser if *path != "/signin/service" => {
                assert!(stranger.location().starts_with("/signin?return_to="), "{method} {path}: {stranger:?}");
            }
            _ => assert_ne!(stranger.status, 500, "{method} {path}: {stranger:?}"),
        }
        if *method == "GET" {
            let page = scene.get(&mut browser, path).await;
            keeps_to_itself(&page);
            // The wrong method is answered by a page too.
            let page = scene.post(&mut browser, path, &[]).await;
            let takes_both = ROUTES.iter().any(|(method, other, _)| *method == "POST" && other == path);
            assert!(page.status == 405 || takes_both, "{path}: {page:?}");
        }
    }
    assert_eq!(scene.get(&mut browser, "/nothing-here").await.status, 404);
    browser.headers.push(("accept", "text/html,application/xhtml+xml,*/*;q=0.8".to_owned()));
    let lost = scene.get(&mut browser, "/nothing-here").await;
    assert_eq!(lost.status, 404);
    assert!(lost.headers["content-type"].to_str().unwrap().starts_with("text/html"), "{lost:?}");
    assert!(lost.body.contains("There is nothing here") && lost.body.contains("href=\"/\""), "{}", lost.body);
    keeps_to_itself(&lost);
    for program in ["/api/v1/nothing-here", "/oauth2/nothing-here", "/.well-known/nothing-here"] {
        let told = scene.get(&mut browser, program).await;
        assert_eq!(
            (told.status.as_u16(), told.headers["content-type"].to_str().unwrap()),
            (404, "application/problem+json")
        );
    }
}

#[tokio::test]
async fn a51_a_form_needs_our_origin_and_the_token_of_its_session() {
    let (scene, mut browser) = scene().await;
    let token = scene.get(&mut browser, "/").await.hidden("form");
    let mut other = Browser::default();
    scene.sign_in(&mut other, "/signin").await;
    let foreign = scene.get(&mut other, "/").await.hidden("form");
    assert_ne!(token, foreign);
    let id = scene.session(&browser).await.id;
    for form in ["", "x", &foreign, &token[1..]] {
        let page = scene.post(&mut browser, "/signout", &[("form", form)]).await;
        assert_eq!(page.status, 403, "{form}: {page:?}");
    }
    let page = scene.post(&mut browser, "/signout", &[("form", &token), ("form", &token)]).await;
    assert_eq!(page.status, 400, "a field twice");
    // With the right token, from elsewhere: another site, a sibling host, no page at all.
    let elsewhere: [&[(&'static str, &str)]; 7] = [
        &[("origin", "https://evil.example")],
        &[("origin", "https://metrics.doorward.localhost:8443")],
        &[("origin", "null")],
        &[("origin", ORIGIN), ("origin", "https://evil.example")],
        &[("sec-fetch-site", "cross-site")],
        &[("origin", ORIGIN), ("sec-fetch-site", "same-site")],
        &[],
    ];
    for headers in elsewhere {
        let mut sent = browser.clone();
        sent.headers = headers.iter().map(|(name, value)| (*name, (*value).to_owned())).collect();
        let page = scene.send(&mut sent, "POST", "/signout", Some(&[("form", &token)])).await;
        assert_eq!(page.status, 403, "{headers:?}: {page:?}");
    }
    assert!(scene.is_live(id).await);
    // A link or a prefetch signs nobody out.
    assert_eq!(scene.get(&mut browser, &format!("/signout?form={token}")).await.status, 405);
    let page = scene.post(&mut browser, "/signout", &[("form", &token)]).await;
    assert_eq!(page.location(), "/signed-out");
    assert!(!browser.cookies.contains_key(SESSION_COOKIE) && !scene.is_live(id).await);
}

#[tokio::test]
async fn one_ends_ones_own_sessions_and_nobody_elses() {
    let (scene, mut browser) = scene().await;
    let mut second = Browser::default();
    scene.sign_in(&mut second, "/signin").await;
    let second_id = scene.session(&second).await.id;
    scene.fake.with(|lies| lies.person["sub"] = "mallory".into());
    let mut mallory = Browser::default();
    scene.sign_in(&mut mallory, "/signin").await;
    let home = scene.get(&mut mallory, "/").await;
    assert!(!home.body.contains(&second_id.to_string()));
    let form = home.hidden("form");
    let fields = [("form", form.as_str()), ("session", &second_id.to_string())];
    assert_eq!(scene.post(&mut mallory, "/sessions/end", &fields).await.status, 404);
    assert!(scene.is_live(second_id).await);
    let home = scene.get(&mut browser, "/").await;
    assert!(home.body.contains(&second_id.to_string()));
    let fields = [("form", home.hidden("form")), ("session", second_id.to_string())];
    let fields: Vec<(&str, &str)> = fields.iter().map(|(name, value)| (*name, value.as_str())).collect();
    assert_eq!(scene.post(&mut browser, "/sessions/end", &fields).await.location(), "/");
    assert!(!scene.is_live(second_id).await);
}

#[tokio::test]
async fn a68_a_certificate_of_one_session_over_the_cookie_of_another_is_refused() {
    let (scene, mut browser) = scene().await;
    let mut other = Browser::default();
    scene.sign_in(&mut other, "/signin").await;
    let session = scene.session(&other).await;
    let stored = scene.desk.store.session_fetch(session.id).await.unwrap().unwrap();
    let key = rcgen::KeyPair::generate().unwrap();
    let csr = crate::api_house::csr(&key);
    let renewed =
        session::renew(&scene.desk, &stored, csr.as_bytes(), &crate::api_house::facts(None), scene.now()).await;
    browser.certificate = Some(shown(&renewed.unwrap().certificate.unwrap().pem));
    // Refused, and not sent to sign in for ever.
    assert_eq!(scene.get(&mut browser, "/").await.status, 401);
    let mut with_token = Browser { certificate: None, ..browser.clone() };
    with_token.headers.push(("authorization", "Bearer x".to_owned()));
    assert_eq!(scene.get(&mut with_token, "/").await.status, 401);
}

#[tokio::test]
async fn several_providers_are_a_choice_and_an_unknown_one_is_told() {
    let scene = Scene::with(&databases()[0], |corp| {
        let mut partner = corp.clone();
        partner.name = "partner".to_owned();
        partner.issuer = "https://partner.example".to_owned();
        vec![corp, partner]
    })
    .await;
    let mut browser = Browser::default();
    let page = scene.get(&mut browser, "/signin?return_to=/device&login_hint=alice").await;
    assert_eq!(page.status, 200);
    assert!(
        page.body.contains("/signin?provider=partner&#38;return_to=%2Fdevice&#38;login_hint=alice"),
        "{}",
        page.body
    );
    let page = scene.get(&mut browser, "/signin?provider=corp&return_to=/device").await;
    assert!(page.location().starts_with(&scene.fake.issuer));
    for unknown in ["x", "CORP", "corp ", "<script>"] {
        let query = form_urlencoded::Serializer::new(String::new()).append_pair("provider", unknown).finish();
        assert_eq!(scene.get(&mut browser, &format!("/signin?{query}")).await.status, 404, "{unknown}");
    }
}

#[tokio::test]
async fn a_provider_that_is_down_is_a_page_that_says_so() {
    let scene = Scene::new(&databases()[0]).await;
    scene.fake.with(|lies| lies.down = true);
    let page = scene.get(&mut Browser::default(), "/signin").await;
    assert_eq!(page.status, 503);
    assert_eq!(page.headers["retry-after"], "2");
    assert!(page.body.contains("The identity provider can&#39;t be reached"), "{}", page.body);
    assert!(page.body.contains("doorward doctor"));
}

#[tokio::test]
async fn a_device_is_signed_in_only_by_its_owners_word() {
    let (scene, mut browser) = scene().await;
    let asked = scene
        .send(
            &mut Browser { headers: vec![("user-agent", "curl/8 <b>".to_owned())], ..Browser::default() },
            "POST",
            "/oauth2/device_authorization",
            Some(&[("client_id", "doorward-cli")]),
        )
        .await;
    let asked: serde_json::Value = serde_json::from_str(&asked.body).unwrap();
    let (user_code, device_code) = (asked["user_code"].as_str().unwrap(), asked["device_code"].as_str().unwrap());
    assert_eq!(scene.get(&mut browser, "/device").await.status, 200);
    assert_eq!(scene.get(&mut browser, "/device?user_code=ZZZZ-ZZZZ").await.status, 404);
    // A link with the code in it shows who asks and changes nothing.
    let page = scene.get(&mut browser, &format!("/device?user_code={user_code}")).await;
    assert!(page.body.contains("192.0.2.7") && page.body.contains("curl/8 &#60;b&#62;"), "{}", page.body);
    let poll = async || {
        let fields = [
            ("grant_type", "urn:ietf:params:oauth:grant-type:device_code"),
            ("client_id", "doorward-cli"),
            ("device_code", device_code),
        ];
        scene.send(&mut Browser::default(), "POST", "/oauth2/token", Some(&fields)).await
    };
    assert!(poll().await.body.contains("authorization_pending"));
    let form = page.hidden("form");
    let fields = [("form", form.as_str()), ("user_code", user_code), ("answer", "agree")];
    assert_eq!(scene.post(&mut browser, "/device", &fields[1..]).await.status, 403, "without the form's token");
    let page = scene.post(&mut browser, "/device", &fields).await;
    assert_eq!(page.status, 200, "{page:?}");
    assert_eq!(scene.post(&mut browser, "/device", &fields).await.status, 404, "answered once");
    scene.clock.advance(doorward::model::Ttl::seconds(6));
    let got = poll().await;
    assert_eq!(got.status, 200, "{got:?}");
}

#[tokio::test]
async fn the_home_page_names_services_with_the_port_that_people_type() {
    let (scene, mut browser) = scene().await;
    let page = scene.get(&mut browser, "/").await;
    let mut shown = 0;
    for address in page.body.split("https://").skip(1) {
        assert!(address.split(['/', '"']).next().unwrap().ends_with(":8443"), "{address}");
        shown += 1;
    }
    assert!(shown > 0, "{}", page.body);
}

#[tokio::test]
async fn everyone_sees_while_the_emergency_path_is_open_and_no_text_of_it_is_markup() {
    let (scene, mut browser) = scene().await;
    assert!(!scene.get(&mut browser, "/").await.body.contains("emergency path is open"));
    let opening = KnownOpening {
        id: BreakGlassId::from_bytes([7; 16]),
        challenge: None,
        opener: "<script>erin".to_owned(),
        scope: "all services".to_owned(),
        reason: "provider & database".to_owned(),
        custodians: vec!["ann".to_owned()],
        expires: scene.desk.clock.now().plus(Ttl::minutes(10)),
    };
    scene.desk.directory.emergency.know(opening);
    let page = scene.get(&mut browser, "/").await;
    assert!(page.body.contains("emergency path is open") && page.body.contains("brk_"), "{page:?}");
    keeps_to_itself(&page);
}
