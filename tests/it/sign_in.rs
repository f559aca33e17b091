//! Sign-in at a provider, the hand-over to service hosts, re-check and logout, on both databases
//! (ATTACKS A40–A43, A48, A70).

use std::collections::BTreeMap;

use doorward::audit::{EventType, PersonalField};
use doorward::control::browser::{self, RedeemError};
use doorward::control::recheck::{self, LogoutError};
use doorward::identity::cookie::{FLOW_COOKIE, SESSION_COOKIE};
use doorward::model::{DecisionId, Principal, Secret, SessionEnd, SessionKind, Ttl};
use doorward::store::EventFilter;
use serde_json::{Value, json};

use crate::api_house::{authorize_path, device, facts, query_of};
use crate::fake_provider::CLIENT_ID;
use crate::sign_in_scene::{Browser, Page, Scene, binding, callback};
use crate::support::databases;

const HOST: &str = "metrics.doorward.localhost";

async fn events(scene: &Scene, kind: EventType) -> usize {
    let filter = EventFilter { kind: Some(kind), ..EventFilter::default() };
    scene.desk.store.event_list(&filter, 1000).await.unwrap().len()
}

#[tokio::test]
async fn a_browser_signs_in_and_goes_where_it_wanted() {
    for url in databases() {
        let scene = Scene::new(&url).await;
        let mut browser = Browser { certificate: Some(device("laptop-7", scene.now())), ..Browser::default() };
        let page = scene.get(&mut browser, "/").await;
        assert_eq!(page.location(), "/signin?return_to=%2F");
        let page = scene.sign_in(&mut browser, "/signin?return_to=/device?user_code=X&login_hint=alice").await;
        assert_eq!(page.location(), "/device?user_code=X");
        let session = scene.session(&browser).await;
        assert_eq!(session.kind, SessionKind::Browser);
        assert_eq!(session.principal.to_string(), "User::\"corp|alice\"");
        assert_eq!(session.groups, ["engineering"]);
        assert_eq!(session.amr, ["pwd", "otp"]);
        assert_eq!(session.authenticated_at, scene.now().minus(Ttl::seconds(60)));
        assert_eq!(session.device.as_ref().unwrap().id, "laptop-7");
        assert_eq!(events(&scene, EventType::SessionStart).await, 1);
        let home = scene.get(&mut browser, "/").await;
        assert_eq!(home.status, 200, "{home:?}");
        assert!(home.body.contains("Alice") && home.body.contains("engineering"), "{}", home.body);
    }
}

#[tokio::test]
async fn a40_an_answer_is_good_once_and_in_the_browser_that_began() {
    for url in databases() {
        let scene = Scene::new(&url).await;
        let mut alice = Browser::default();
        let location = scene.get(&mut alice, "/signin").await.location().to_owned();
        let good = scene.answer(&location);
        // Another browser, with a flow of its own or with none: login CSRF.
        let mut mallory = Browser::default();
        assert_eq!(scene.get(&mut mallory, &good).await.status, 400);
        scene.get(&mut mallory, "/signin").await;
        assert_eq!(scene.get(&mut mallory, &good).await.status, 400);
        assert!(!mallory.cookies.contains_key(SESSION_COOKIE));
        assert_eq!(scene.get(&mut alice, &good).await.status, 303);
        assert!(events(&scene, EventType::SignInFailed).await >= 1, "a failed sign-in is on record");
        // Replayed by the same browser.
        assert_eq!(scene.get(&mut alice, &good).await.status, 400);
        assert_eq!(scene.fake.hits("token"), 1, "a code is exchanged once");
        // Over after ten minutes.
        let location = scene.get(&mut alice, "/signin").await.location().to_owned();
        let late = scene.answer(&location);
        scene.clock.advance(Ttl::minutes(10));
        assert_eq!(scene.get(&mut alice, &late).await.status, 400);
        // Without state, with another's, or with fields twice.
        let location = scene.get(&mut alice, "/signin").await.location().to_owned();
        let answer = scene.fake.agree(&location);
        for (name, value) in [("state", ""), ("state", "x"), ("iss", "https://attacker.example"), ("code", "")] {
            let mut browser = alice.clone();
            let location = scene.get(&mut browser, "/signin").await.location().to_owned();
            let mut answer = scene.fake.agree(&location);
            answer.insert(name.to_owned(), value.to_owned());
            let page = scene.get(&mut browser, &callback(&answer)).await;
            assert!(page.status.is_client_error() || page.status == 502, "{name}: {page:?}");
        }
        let twice = format!("{}&state=x", callback(&answer));
        assert_eq!(scene.get(&mut alice, &twice).await.status, 400);
        assert_eq!(events(&scene, EventType::SessionStart).await, 1);
    }
}

#[tokio::test]
async fn a40_fifty_answers_at_once_start_one_session() {
    for url in databases() {
        let scene = Scene::new(&url).await;
        let mut alice = Browser::default();
        let location = scene.get(&mut alice, "/signin").await.location().to_owned();
        let good = scene.answer(&location);
        let mut browsers = vec![alice; 50];
        let pages = futures_util::future::join_all(browsers.iter_mut().map(|browser| scene.get(browser, &good))).await;
        let done = pages.iter().filter(|page| page.status == 303).count();
        assert_eq!(done, 1);
        assert_eq!(events(&scene, EventType::SessionStart).await, 1);
    }
}

#[tokio::test]
async fn a_person_who_declines_gets_a_page_that_says_so() {
    let scene = Scene::new(&databases()[0]).await;
    let mut browser = Browser::default();
    let location = scene.get(&mut browser, "/signin").await.location().to_owned();
    let mut answer = scene.fake.agree(&location);
    answer.remove("code");
    answer.insert("error".to_owned(), "access_denied<script>".to_owned());
    let page = scene.get(&mut browser, &callback(&answer)).await;
    assert_eq!(page.status, 403);
    assert!(page.body.contains("access_denied") && !page.body.contains("<script>"), "{}", page.body);
    let decision = page.headers["doorward-decision"].to_str().unwrap();
    assert!(page.body.contains(decision), "the page names its decision");
}

#[tokio::test]
async fn a41_no_page_sends_a_browser_elsewhere() {
    let scene = Scene::new(&databases()[0]).await;
    let mut browser = Browser::default();
    for trick in ["//evil.example", "/\\evil.example", "https://evil.example", "/%0d%0aSet-Cookie:x=y", "/a/..//evil"] {
        let query = form_urlencoded::Serializer::new(String::new()).append_pair("return_to", trick).finish();
        assert_eq!(scene.get(&mut browser, &format!("/signin?{query}")).await.status, 400, "{trick}");
        let query = format!("{query}&host={HOST}&binding={}", binding("x"));
        assert_eq!(scene.get(&mut browser, &format!("/signin/service?{query}")).await.status, 400, "{trick}");
    }
}

#[tokio::test]
async fn a42_a_cookie_is_new_at_sign_in_and_two_of_them_are_none() {
    for url in databases() {
        let scene = Scene::new(&url).await;
        let mut browser = Browser::default();
        // Fixation: a value that somebody else planted is worth nothing and is replaced.
        let planted = "A".repeat(43);
        browser.cookies.insert(SESSION_COOKIE.to_owned(), planted.clone());
        scene.sign_in(&mut browser, "/signin").await;
        assert_ne!(browser.cookies[SESSION_COOKIE], planted);
        let first = (browser.clone(), scene.session(&browser).await);
        scene.sign_in(&mut browser, "/signin").await;
        assert_ne!(browser.cookies[SESSION_COOKIE], first.0.cookies[SESSION_COOKIE]);
        assert!(!scene.is_live(first.1.id).await, "signing in anew ends the former session");
        let mut old = first.0;
        assert_eq!(scene.get(&mut old, "/").await.location(), "/signin?return_to=%2F");
        // Tossed: the same name twice, in one field or two.
        let value = browser.cookies[SESSION_COOKIE].clone();
        let mut twice = Browser::default();
        twice.headers.push(("cookie", format!("{SESSION_COOKIE}={value}; {SESSION_COOKIE}={planted}")));
        assert_eq!(scene.get(&mut twice, "/").await.status, 401);
        let mut crumbs = browser.clone();
        crumbs.headers.push(("cookie", format!("{SESSION_COOKIE}={value}")));
        assert_eq!(scene.get(&mut crumbs, "/").await.status, 401);
        let mut broken = Browser::default();
        broken.headers.push(("cookie", format!("{SESSION_COOKIE}=\u{e9}")));
        assert_eq!(scene.get(&mut broken, "/").await.status, 401);
        assert_eq!(scene.get(&mut browser, "/").await.status, 200);
        // What a sibling host set is no business of ours, whatever bytes it has.
        let mut sibling = browser.clone();
        sibling.headers.push(("cookie", "tr\u{e9}s=\u{e9}; other".to_owned()));
        assert_eq!(scene.get(&mut sibling, "/").await.status, 200);
    }
}

#[tokio::test]
async fn two_tabs_may_sign_in_at_once() {
    let scene = Scene::new(&databases()[0]).await;
    let mut browser = Browser::default();
    let first = scene.get(&mut browser, "/signin?return_to=/first").await.location().to_owned();
    let second = scene.get(&mut browser, "/signin?return_to=/second").await.location().to_owned();
    let (first, second) = (scene.answer(&first), scene.answer(&second));
    assert_eq!(scene.get(&mut browser, &second).await.location(), "/second");
    assert_eq!(scene.get(&mut browser, &first).await.location(), "/first");
}

#[tokio::test]
async fn a_sign_in_that_is_refused_is_found_under_the_decision_that_it_names() {
    for url in databases() {
        let scene = Scene::new(&url).await;
        let recorded = async |page: &Page| {
            let id = DecisionId::parse(page.headers["doorward-decision"].to_str().unwrap()).unwrap();
            let found = scene.desk.store.decision_fetch(&id).await.unwrap().expect("the decision is on record");
            let who = found.personal(PersonalField::Principal).map(str::to_owned);
            (found.clear().kind, found.text("/reason").unwrap().to_owned(), who)
        };
        let mut browser = Browser::default();
        let junk = scene.get(&mut browser, "/signin/callback?state=x&code=y").await;
        assert_eq!(recorded(&junk).await, (EventType::SignInFailed, "flow_unknown".to_owned(), None));
        scene.desk.directory.lock(&Principal::user("corp", "alice").unwrap());
        let location = scene.get(&mut browser, "/signin").await.location().to_owned();
        // A program gets what programs read.
        browser.headers.push(("accept", "application/problem+json, application/json;q=0.9".to_owned()));
        let locked = scene.get(&mut browser, &scene.answer(&location)).await;
        let whose = Some("User::\"corp|alice\"".to_owned());
        assert_eq!(recorded(&locked).await, (EventType::SignInFailed, "locked".to_owned(), whose));
        assert_eq!(locked.headers["content-type"], "application/problem+json");
        let problem: Value = serde_json::from_str(&locked.body).unwrap();
        assert_eq!((&problem["status"], &problem["reason"]), (&json!(403), &json!("locked")));
        assert_eq!(problem["decision"], locked.headers["doorward-decision"].to_str().unwrap());
        browser.headers = vec![("accept", "text/html,application/xhtml+xml,*/*;q=0.8".to_owned())];
        let page = scene.get(&mut browser, "/signin/callback?state=x&code=y").await;
        assert!(page.headers["content-type"].to_str().unwrap().starts_with("text/html"), "{page:?}");
        let unknown = scene.get(&mut browser, "/signin?provider=nope").await;
        assert_eq!(recorded(&unknown).await, (EventType::DecisionDeny, "no_provider".to_owned(), None));
        let fields: &[(&str, &str)] = &[("logout_token", "x")];
        let logout = scene.send(&mut Browser::default(), "POST", "/oauth2/backchannel_logout", Some(fields)).await;
        assert_eq!(logout.status, 400);
        assert_eq!(recorded(&logout).await, (EventType::DecisionDeny, "bad_credential".to_owned(), None));
    }
}

#[tokio::test]
async fn who_is_locked_gets_no_session() {
    let scene = Scene::new(&databases()[0]).await;
    let mut browser = Browser::default();
    scene.desk.directory.lock(&doorward::model::Principal::user("corp", "alice").unwrap());
    let page = scene.sign_in(&mut browser, "/signin").await;
    assert_eq!(page.status, 403, "{page:?}");
    assert!(!browser.cookies.contains_key(SESSION_COOKIE));
}

#[tokio::test]
async fn a_browser_is_handed_over_to_a_service_host() {
    for url in databases() {
        let scene = Scene::new(&url).await;
        let mut browser = Browser::default();
        // The service host's own flow cookie, which the control host never sees.
        let flow = "f".repeat(43);
        let way = format!("/signin/service?host={HOST}&return_to=%2Fgraphs%3Fx%3D1&binding={}", binding(&flow));
        let begun = scene.get(&mut browser, &way).await;
        let page = scene.sign_in(&mut browser, begun.location()).await;
        assert_eq!(page.location(), way);
        let location = scene.get(&mut browser, &way).await.location().to_owned();
        let code = location.strip_prefix(&format!("https://{HOST}:8443/.doorward/callback?code=")).unwrap().to_owned();
        let redeem = |code: String, host: &'static str, flow: String| {
            let (desk, now) = (scene.desk.clone(), scene.now());
            async move { browser::redeem(&desk, &code, host, &flow, now).await }
        };
        let redeemed = redeem(code.clone(), HOST, flow.clone()).await.unwrap();
        assert_eq!(redeemed.return_to, "/graphs?x=1");
        let session = scene.session(&browser).await.id;
        assert_eq!(redeemed.session, session);
        let entry = scene.desk.directory.cookie(&redeemed.cookie.hash()).unwrap();
        assert_eq!((entry.session, &*entry.host), (session, HOST));
        // Once; and the cookie of a service host is none at the control host.
        assert!(matches!(redeem(code, HOST, flow.clone()).await, Err(RedeemError::Unknown)));
        let mut other = Browser::default();
        other.cookies.insert(SESSION_COOKIE.to_owned(), redeemed.cookie.expose());
        assert_eq!(scene.get(&mut other, "/").await.status, 303);
        // Another browser, another host, too late: and a code that was tried is used up.
        let fresh = async |browser: &mut Browser| {
            let location = scene.get(browser, &way).await.location().to_owned();
            location.rsplit_once('=').unwrap().1.to_owned()
        };
        for (host, cookie) in
            [(HOST, "g".repeat(43)), ("legacy-wiki.doorward.localhost", flow.clone()), (HOST, String::new())]
        {
            let code = fresh(&mut browser).await;
            assert!(redeem(code.clone(), host, cookie).await.is_err(), "{host}");
            assert!(redeem(code, HOST, flow.clone()).await.is_err());
        }
        let code = fresh(&mut browser).await;
        scene.clock.advance(Ttl::minutes(1));
        assert!(redeem(code, HOST, flow.clone()).await.is_err());
        // The end of the session is the end of its codes.
        let code = fresh(&mut browser).await;
        let home = scene.get(&mut browser, "/").await;
        scene.post(&mut browser, "/signout", &[("form", &home.hidden("form"))]).await;
        assert!(redeem(code, HOST, flow).await.is_err());
    }
}

#[tokio::test]
async fn a47_fifty_redemptions_of_one_code_give_one_cookie() {
    for url in databases() {
        let scene = Scene::new(&url).await;
        let mut browser = Browser::default();
        scene.sign_in(&mut browser, "/signin").await;
        let flow = "f".repeat(43);
        let way = format!("/signin/service?host={HOST}&binding={}", binding(&flow));
        let location = scene.get(&mut browser, &way).await.location().to_owned();
        let code = location.rsplit_once('=').unwrap().1;
        let now = scene.now();
        let all = (0..50).map(|_| browser::redeem(&scene.desk, code, HOST, &flow, now));
        let done = futures_util::future::join_all(all).await.iter().filter(|outcome| outcome.is_ok()).count();
        assert_eq!(done, 1);
    }
}

#[tokio::test]
async fn a_host_that_wants_client_certificates_or_is_unknown_gets_no_browser() {
    let scene = Scene::new(&databases()[0]).await;
    let mut browser = Browser::default();
    scene.sign_in(&mut browser, "/signin").await;
    for host in [
        "ops-api.doorward.localhost",
        "evil.example",
        "doorward.localhost",
        "metrics.doorward.localhost.evil.example",
        "",
    ] {
        let way = format!("/signin/service?host={host}&binding={}", binding("x"));
        let page = scene.get(&mut browser, &way).await;
        assert!(page.status == 404 || page.status == 400, "{host}: {page:?}");
    }
    let page = scene.get(&mut browser, &format!("/signin/service?host={HOST}&binding=short")).await;
    assert_eq!(page.status, 400);
}

#[tokio::test]
async fn a43_a_recheck_replaces_groups_and_ends_what_the_provider_refuses() {
    for url in databases() {
        let scene = Scene::new(&url).await;
        let mut browser = Browser::default();
        scene.sign_in(&mut browser, "/signin").await;
        let id = scene.session(&browser).await.id;
        assert_eq!(recheck::recheck_due(&scene.desk, scene.now()).await.unwrap(), 0, "not due yet");
        scene.clock.advance(Ttl::minutes(15));
        scene.fake.with(|lies| lies.person["groups"] = json!(["sec"]));
        assert_eq!(recheck::recheck_due(&scene.desk, scene.now()).await.unwrap(), 1);
        assert_eq!(scene.session(&browser).await.groups, ["security"]);
        assert_eq!(scene.desk.directory.session(id).unwrap().session.groups, ["security"]);
        assert_eq!(events(&scene, EventType::SessionGroups).await, 1);
        // The rotated refresh token is the one that is used next.
        scene.clock.advance(Ttl::minutes(15));
        assert_eq!(recheck::recheck_due(&scene.desk, scene.now()).await.unwrap(), 1);
        assert!(scene.is_live(id).await);
        assert_eq!(events(&scene, EventType::SessionGroups).await, 1, "equal groups are no change");
        // Away: nothing changes, and it is asked again soon.
        scene.fake.with(|lies| lies.down = true);
        scene.clock.advance(Ttl::minutes(15));
        recheck::recheck_due(&scene.desk, scene.now()).await.unwrap();
        assert!(scene.is_live(id).await);
        assert_eq!(recheck::recheck_due(&scene.desk, scene.now()).await.unwrap(), 0);
        scene.clock.advance(Ttl::minutes(1));
        scene.fake.with(|lies| (lies.down, lies.refresh_token) = (false, None));
        assert_eq!(recheck::recheck_due(&scene.desk, scene.now()).await.unwrap(), 1);
        assert!(!scene.is_live(id).await, "the provider refused");
        assert_eq!(scene.session(&browser).await.ended.unwrap().0, SessionEnd::Provider);
        scene.clock.advance(Ttl::hours(1));
        assert_eq!(recheck::recheck_due(&scene.desk, scene.now()).await.unwrap(), 0, "nobody is asked about it again");
    }
}

#[tokio::test]
async fn a57_a_clock_that_ran_ahead_puts_off_no_check_at_a_provider() {
    for url in databases() {
        let scene = Scene::new(&url).await;
        scene.sign_in(&mut Browser::default(), "/signin").await;
        scene.clock.step(3_600_000);
        let asked = recheck::recheck_due(&scene.desk, scene.now()).await.unwrap();
        scene.clock.step(-3_600_000);
        scene.clock.advance(Ttl::minutes(15));
        let asked = (asked, recheck::recheck_due(&scene.desk, scene.now()).await.unwrap());
        assert_eq!(asked, (0, 1), "it is due when it was");
    }
}

#[tokio::test]
async fn of_several_nodes_one_asks() {
    for url in databases() {
        let scene = Scene::new(&url).await;
        let mut browser = Browser::default();
        scene.sign_in(&mut browser, "/signin").await;
        let before = scene.fake.hits("token");
        scene.clock.advance(Ttl::minutes(15));
        let now = scene.now();
        futures_util::future::join_all((0..8).map(|_| recheck::recheck_due(&scene.desk, now))).await;
        assert_eq!(scene.fake.hits("token") - before, 1);
        let id = scene.session(&browser).await.id;
        assert!(scene.is_live(id).await, "a refresh token that is used twice would end it");
    }
}

#[tokio::test]
async fn the_sessions_of_a_provider_that_was_removed_end_at_their_next_check() {
    let mut scene = Scene::new(&databases()[0]).await;
    let mut browser = Browser::default();
    scene.sign_in(&mut browser, "/signin").await;
    let id = scene.session(&browser).await.id;
    scene.restart(Vec::new());
    scene.clock.advance(Ttl::minutes(15));
    recheck::recheck_due(&scene.desk, scene.now()).await.unwrap();
    assert!(!scene.is_live(id).await);
    assert_eq!(scene.get(&mut browser, "/signin").await.status, 503, "nobody can sign in, and the page says so");
}

fn logout_claims(more: Value) -> Value {
    let mut claims = json!({ "aud": CLIENT_ID, "sub": "alice", "sid": "sid-1", "jti": "j1",
        "events": { "http://schemas.openid.net/event/backchannel-logout": {} } });
    claims.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    claims
}

#[tokio::test]
async fn a43_a_logout_at_the_provider_ends_the_sessions_that_rest_on_it_once() {
    for url in databases() {
        let scene = Scene::new(&url).await;
        let (mut alice, mut other) = (Browser::default(), Browser::default());
        scene.sign_in(&mut alice, "/signin").await;
        scene.fake.with(|lies| lies.person["sid"] = "sid-2".into());
        scene.sign_in(&mut other, "/signin").await;
        let (first, second) = (scene.session(&alice).await.id, scene.session(&other).await.id);
        let mut nobody = Browser::default();
        let post = async |token: &str| {
            scene
                .send(&mut Browser::default(), "POST", "/oauth2/backchannel_logout", Some(&[("logout_token", token)]))
                .await
        };
        let bad = [
            scene.fake.token(json!({}), logout_claims(json!({ "nonce": "n" }))),
            scene.fake.token(json!({}), logout_claims(json!({ "aud": "other" }))),
            scene.fake.token(json!({}), logout_claims(json!({ "iss": "https://other.example" }))),
            scene.fake.token(json!({ "alg": "none" }), logout_claims(json!({}))),
            "x".to_owned(),
            String::new(),
        ];
        for token in bad {
            assert_eq!(post(&token).await.status, 400);
        }
        assert!(scene.is_live(first).await);
        let token = scene.fake.token(json!({ "typ": "logout+jwt" }), logout_claims(json!({})));
        let page = post(&token).await;
        assert_eq!(page.status, 200, "{page:?}");
        assert_eq!(page.headers["cache-control"], "no-store");
        assert!(!scene.is_live(first).await && scene.is_live(second).await);
        assert_eq!(scene.get(&mut alice, "/").await.status, 303);
        assert_eq!(post(&token).await.status, 400, "replayed");
        assert_eq!(events(&scene, EventType::TokenRevoked).await, 1, "and that is on record");
        // By subject: all of the person's.
        let mut claims = logout_claims(json!({ "jti": "j2" }));
        claims.as_object_mut().unwrap().remove("sid");
        let token = scene.fake.token(json!({}), claims);
        assert_eq!(recheck::logout(&scene.desk, &token, &facts(None), scene.now()).await.unwrap(), 1);
        assert!(!scene.is_live(second).await);
        assert_eq!(scene.get(&mut nobody, "/oauth2/backchannel_logout").await.status, 405);
    }
}

#[tokio::test]
async fn a43_a_logout_ends_also_what_the_provider_gave_no_session_id_for() {
    for url in databases() {
        let scene = Scene::new(&url).await;
        let (mut alice, mut bob) = (Browser::default(), Browser::default());
        scene.fake.with(|lies| lies.person.as_object_mut().unwrap().remove("sid"));
        scene.sign_in(&mut alice, "/signin").await;
        scene.fake.with(|lies| lies.person["sub"] = "bob".into());
        scene.sign_in(&mut bob, "/signin").await;
        let (first, other) = (scene.session(&alice).await.id, scene.session(&bob).await.id);
        let token = scene.fake.token(json!({}), logout_claims(json!({})));
        assert_eq!(recheck::logout(&scene.desk, &token, &facts(None), scene.now()).await.unwrap(), 1);
        assert!(!scene.is_live(first).await && scene.is_live(other).await);
    }
}

#[tokio::test]
async fn a_provider_is_asked_for_a_proof_of_now_where_the_client_wants_one() {
    for url in databases() {
        let scene = Scene::new(&url).await;
        let mut browser = Browser::default();
        let begun = scene.get(&mut browser, "/signin").await;
        assert_eq!(query_of(begun.location(), "max_age").as_deref(), Some("43200"), "as long as a session lasts");
        assert_eq!(query_of(begun.location(), "prompt"), None);
        scene.sign_in(&mut browser, "/signin").await;
        // The provider saw the person a minute ago.
        let ordinary = [authorize_path(&[]), authorize_path(&[("max_age", "61")])];
        for path in &ordinary {
            let page = scene.get(&mut browser, path).await;
            assert!(page.location().starts_with("/signin/program?"), "{page:?}");
        }
        for more in [("prompt", "login"), ("prompt", "consent login"), ("max_age", "60"), ("max_age", "0")] {
            let former = scene.session(&browser).await.id;
            let sent = scene.get(&mut browser, &authorize_path(&[more])).await.location().to_owned();
            let begun = scene.get(&mut browser, &sent).await;
            let asked = if more == ("max_age", "60") { ("60", None) } else { ("60", Some("login")) };
            let max_age = query_of(begun.location(), "max_age");
            assert_eq!(max_age.as_deref(), Some(asked.0), "{more:?}");
            assert_eq!(query_of(begun.location(), "prompt").as_deref(), asked.1, "{more:?}");
            let answer = scene.answer(begun.location());
            let back = scene.get(&mut browser, &answer).await.location().to_owned();
            let page = scene.get(&mut browser, &back).await;
            assert!(page.location().starts_with("/signin/program?"), "it is asked once: {page:?}");
            assert_ne!(scene.session(&browser).await.id, former);
        }
        let page = scene.get(&mut browser, &authorize_path(&[("max_age", "soon")])).await;
        assert!(page.location().contains("error=invalid_request"), "{page:?}");
        assert_eq!(scene.get(&mut browser, "/signin?max_age=soon").await.status, 400);
    }
}

#[tokio::test]
async fn a_silent_sign_in_is_no_proof_of_now() {
    for url in databases() {
        let scene = Scene::new(&url).await;
        let mut browser = Browser::default();
        // A browser of which somebody took `max_age` away, or a provider that does not heed it.
        let hours_ago = |hours: u32| scene.now().minus(Ttl::hours(hours)).seconds();
        let told = hours_ago(1);
        scene.fake.with(|lies| lies.bend = Some(Box::new(move |_, claims| claims["auth_time"] = told.into())));
        let page = scene.sign_in(&mut browser, "/signin?max_age=0").await;
        assert_eq!(page.status, 403, "{page:?}");
        assert!(page.body.contains("sign out there"), "{}", page.body);
        scene.sign_in(&mut browser, "/signin").await;
        assert_eq!(scene.session(&browser).await.authenticated_at.seconds(), told);
        let told = hours_ago(13);
        scene.fake.with(|lies| lies.bend = Some(Box::new(move |_, claims| claims["auth_time"] = told.into())));
        scene.sign_in(&mut browser, "/signin").await;
        assert_eq!(scene.session(&browser).await.authenticated_at.seconds(), told, "old, and known to be old");
        // One that does not tell: people sign in, and nobody takes it for a proof of now.
        scene.fake.with(|lies| {
            lies.bend = Some(Box::new(|_, claims| _ = claims.as_object_mut().unwrap().remove("auth_time")));
        });
        for path in ["/signin", "/signin?max_age=0"] {
            scene.sign_in(&mut browser, path).await;
            assert_eq!(scene.session(&browser).await.authenticated_at, scene.now().minus(Ttl::hours(12)), "{path}");
        }
    }
}

#[tokio::test]
async fn a47_fifty_deliveries_of_one_logout_token_are_obeyed_once() {
    for url in databases() {
        let scene = Scene::new(&url).await;
        let mut alice = Browser::default();
        scene.sign_in(&mut alice, "/signin").await;
        let token = scene.fake.token(json!({}), logout_claims(json!({})));
        let (now, connection) = (scene.now(), facts(None));
        let all = (0..50).map(|_| recheck::logout(&scene.desk, &token, &connection, now));
        let outcomes = futures_util::future::join_all(all).await;
        assert_eq!(outcomes.iter().filter(|outcome| outcome.is_ok()).count(), 1);
        assert!(outcomes.iter().all(|outcome| matches!(outcome, Ok(1) | Err(LogoutError::Replayed))), "{outcomes:?}");
        assert_eq!(events(&scene, EventType::SessionEnd).await, 1);
    }
}

#[tokio::test]
async fn what_is_over_is_forgotten() {
    for url in databases() {
        let scene = Scene::new(&url).await;
        let mut browser = Browser::default();
        for _ in 0..3 {
            scene.get(&mut browser, "/signin").await;
        }
        assert_eq!(recheck::sweep(&scene.desk, scene.now()).await.unwrap(), 0);
        scene.clock.advance(Ttl::minutes(10));
        assert_eq!(recheck::sweep(&scene.desk, scene.now()).await.unwrap(), 3);
    }
}

#[tokio::test]
async fn a63_nothing_of_a_sign_in_is_kept_in_the_clear() {
    let url = databases()[0].clone();
    let scene = Scene::new(&url).await;
    let mut browser = Browser::default();
    let location = scene.get(&mut browser, "/signin").await.location().to_owned();
    let asked: BTreeMap<String, String> = url::Url::parse(&location).unwrap().query_pairs().into_owned().collect();
    let mut secrets = vec![asked["state"].clone(), asked["nonce"].clone(), browser.cookies[FLOW_COOKIE].clone()];
    let answer = scene.answer(&location);
    scene.get(&mut browser, &answer).await;
    secrets.extend([browser.cookies[SESSION_COOKIE].clone(), "refresh-1".to_owned(), "access-1".to_owned()]);
    let path = url.strip_prefix("sqlite://").unwrap();
    for file in [path.to_owned(), format!("{path}-wal")] {
        let bytes = std::fs::read(file).unwrap();
        for secret in &secrets {
            let found = bytes.windows(secret.len()).any(|window| window == secret.as_bytes());
            assert!(!found, "{secret} is in the database");
        }
    }
    assert_eq!(format!("{:?}", Secret::new("x".to_owned())), "Secret(…)");
}
