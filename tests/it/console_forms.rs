//! What becomes of a form of the pages: sent by a key that was meant for the text, sent twice, sent with more than is
//! asked for, refused, and in lists that are longer than a page.

use std::path::Path;
use std::sync::Arc;

use doorward::model::{RequestId, RequestState, Ttl};
use doorward::policy::{PolicySet, load};
use serde_json::json;

use crate::console::keeps_to_itself;
use crate::policy::{settings, shown};
use crate::sign_in_scene::{Browser, Page, Scene};
use crate::support::{copy_folder, databases, temporary_folder};

const ASK: &str = "/requests/new?entitlement=ops-api%2Fdeploy-prod";

async fn scene() -> Scene {
    Scene::with(&databases()[0], |mut corp| {
        corp.groups.as_mut().unwrap().insert("rel".to_owned(), "release-managers".to_owned());
        vec![corp]
    })
    .await
}

async fn person(scene: &Scene, name: &str, groups: &[&str]) -> Browser {
    let email = format!("{name}@example.com");
    scene.fake.with(|lies| {
        lies.person = json!({ "sub": name, "email": email, "email_verified": true, "name": name, "groups": groups });
    });
    let mut browser = Browser::default();
    assert_eq!(scene.sign_in(&mut browser, "/signin").await.location(), "/");
    browser
}

/// Sends the form of this page, filled in with `more` beside what is always there.
async fn send(scene: &Scene, browser: &mut Browser, form: &Page, more: &[(&str, &str)]) -> Page {
    let (token, key) = (form.hidden("form"), form.hidden("key"));
    let own = [
        ("form", token.as_str()),
        ("key", key.as_str()),
        ("entitlement", "ops-api/deploy-prod"),
        ("ticket", "OPS-1"),
        ("for", "10m"),
    ];
    let own = own.into_iter().filter(|(name, _)| !more.iter().any(|(other, _)| other == name));
    let fields: Vec<(&str, &str)> = own.chain(more.iter().copied()).collect();
    scene.post(browser, "/requests", &fields).await
}

fn id_of(page: &Page) -> RequestId {
    RequestId::parse(page.location().strip_prefix("/requests/").unwrap()).unwrap()
}

async fn asked(scene: &Scene, browser: &mut Browser) -> RequestId {
    let form = scene.get(browser, ASK).await;
    id_of(&send(scene, browser, &form, &[("reason", "a hotfix")]).await)
}

/// Whether Enter in a text of one line would press one of several buttons.
fn enter_chooses(page: &Page) -> bool {
    page.body.split("<form").skip(1).any(|form| {
        let form = form.split("</form>").next().unwrap();
        let hidden = ["type=\"hidden\"", "type=\"checkbox\""];
        let mut inputs = form.split("<input").skip(1).map(|input| input.split('>').next().unwrap());
        form.matches("<button").count() > 1 && inputs.any(|input| !hidden.iter().any(|kind| input.contains(kind)))
    })
}

#[tokio::test]
async fn enter_in_a_text_never_presses_one_of_several_buttons() {
    let scene = scene().await;
    let mut alice = person(&scene, "alice", &["eng"]).await;
    let mut bob = person(&scene, "bob", &["eng", "rel"]).await;
    let id = asked(&scene, &mut alice).await;
    let answer = scene.get(&mut bob, &format!("/requests/{id}")).await;
    assert!(
        answer.body.contains("<textarea id=\"reason\" name=\"reason\" rows=\"2\" maxlength=\"1000\">"),
        "{answer:?}"
    );
    assert!(!enter_chooses(&answer), "{}", answer.body);
    for path in ["/", "/requests", "/requests/new", ASK, "/device"] {
        let page = scene.get(&mut alice, path).await;
        assert!(page.status == 200 && !enter_chooses(&page), "{path}: {}", page.body);
        // Who one is, and the way out, is on each.
        assert!(page.body.contains("Signed in as <strong>alice</strong>") && page.body.contains("Sign out"), "{path}");
    }
}

#[tokio::test]
async fn a_form_that_is_sent_twice_makes_one_request() {
    let scene = scene().await;
    let mut alice = person(&scene, "alice", &["eng"]).await;
    let form = scene.get(&mut alice, ASK).await;
    let more = [("reason", "a hotfix")];
    let mut again = alice.clone();
    let (one, two) = tokio::join!(send(&scene, &mut alice, &form, &more), send(&scene, &mut again, &form, &more));
    assert_eq!(id_of(&one), id_of(&two));
    assert_eq!(id_of(&send(&scene, &mut alice, &form, &more).await), id_of(&one), "and later");
    // With something else in it, it is another request: it is said that there is one, and asked for by the next.
    let other = [("reason", "another hotfix")];
    let told = send(&scene, &mut alice, &form, &other).await;
    assert_eq!(told.status, 422, "{told:?}");
    assert!(told.body.contains("Not sent:") && told.body.contains("another hotfix"), "{}", told.body);
    assert_ne!(told.hidden("key"), form.hidden("key"));
    assert_ne!(id_of(&send(&scene, &mut alice, &told, &other).await), id_of(&one));
    // What was refused has used nothing up.
    let form = scene.get(&mut alice, ASK).await;
    assert_eq!(send(&scene, &mut alice, &form, &[("reason", "x"), ("ticket", "wrong")]).await.status, 400);
    id_of(&send(&scene, &mut alice, &form, &[("reason", "x")]).await);
}

#[tokio::test]
async fn what_is_asked_for_is_never_wider_than_what_was_typed() {
    let scene = scene().await;
    let mut alice = person(&scene, "alice", &["eng"]).await;
    let form = scene.get(&mut alice, ASK).await;
    let wider = send(&scene, &mut alice, &form, &[("reason", "a hotfix"), ("param.region", "north")]).await;
    assert_eq!(wider.status, 400, "{wider:?}");
    assert!(
        wider.body.contains("has no parameter <code>region</code>") && wider.body.contains("a hotfix"),
        "{wider:?}"
    );
    keeps_to_itself(&wider);
    // The same field left empty says nothing.
    id_of(&send(&scene, &mut alice, &form, &[("reason", "a hotfix"), ("param.region", "")]).await);
}

#[tokio::test]
async fn an_answer_that_is_not_taken_keeps_what_was_said() {
    let scene = scene().await;
    let mut alice = person(&scene, "alice", &["eng"]).await;
    let mut bob = person(&scene, "bob", &["eng", "rel"]).await;
    let id = asked(&scene, &mut alice).await;
    let page = scene.get(&mut bob, &format!("/requests/{id}")).await;
    let form = page.hidden("form");
    let fields = [("form", form.as_str()), ("hash", "sha256:00"), ("answer", "approve"), ("reason", "as we said")];
    let told = scene.post(&mut bob, &format!("/requests/{id}/answer"), &fields).await;
    assert_eq!(told.status, 409, "{told:?}");
    assert!(told.body.contains("Not sent:") && told.body.contains(">as we said</textarea>"), "{}", told.body);
    assert!(told.body.contains("role=\"alert\"") && told.body.contains("Approve for"), "{}", told.body);
    keeps_to_itself(&told);
}

#[tokio::test]
async fn all_that_waits_is_found_however_long_the_list() {
    let scene = scene().await;
    let mut alice = person(&scene, "alice", &["eng"]).await;
    let mut bob = person(&scene, "bob", &["eng", "rel"]).await;
    let mut all = Vec::new();
    for _ in 0..27 {
        all.push(asked(&scene, &mut alice).await.to_string());
        scene.clock.advance(Ttl::seconds(1));
    }
    assert!(scene.get(&mut bob, "/").await.body.contains("25 or more requests wait for your answer"));
    let first = scene.get(&mut bob, "/requests").await;
    let older = first.body.split("waiting_before=").nth(1).expect("a link to the rest").split('"').next().unwrap();
    let rest = scene.get(&mut bob, &format!("/requests?waiting_before={older}")).await;
    let found = |page: &Page, id: &String| page.body.contains(&format!("/requests/{id}\""));
    assert!(all.iter().all(|id| found(&first, id) != found(&rest, id)), "each on one of them");
    assert_eq!(scene.get(&mut bob, "/requests?waiting_before=x").await.status, 400);
}

#[tokio::test]
async fn a_grant_that_is_to_begin_can_be_given_back() {
    let scene = scene().await;
    let mut alice = person(&scene, "alice", &["eng"]).await;
    let mut bob = person(&scene, "bob", &["eng", "rel"]).await;
    let start = scene.now().plus(Ttl::minutes(30)).to_string();
    let body = json!({ "entitlement": "ops-api/deploy-prod", "reason": "tonight", "ticket": "OPS-1", "start": start });
    let id = api(&scene, &alice, "/api/v1/requests", &body).await;
    let page = scene.get(&mut bob, &format!("/requests/{id}")).await;
    let (form, hash) = (page.hidden("form"), page.hidden("hash"));
    let fields = [("form", form.as_str()), ("hash", hash.as_str()), ("answer", "approve")];
    scene.post(&mut bob, &format!("/requests/{id}/answer"), &fields).await.location();
    let page = scene.get(&mut alice, &format!("/requests/{id}")).await;
    assert!(page.body.contains("scheduled") && page.body.contains("Give it back now"), "{}", page.body);
    let grant = page.body.split("/grants/").nth(1).unwrap().split('/').next().unwrap().to_owned();
    let form = page.hidden("form");
    scene.post(&mut alice, &format!("/grants/{grant}/drop"), &[("form", &form)]).await.location();
    let page = scene.get(&mut alice, &format!("/requests/{id}")).await;
    assert!(page.body.contains("dropped") && !page.body.contains("Give it back now"), "{}", page.body);
}

/// The id of what a POST of the API made.
async fn api(scene: &Scene, browser: &Browser, path: &str, body: &serde_json::Value) -> String {
    use axum::body::{Body, to_bytes};
    use tower::ServiceExt;
    let cookies: Vec<String> = browser.cookies.iter().map(|(name, value)| format!("{name}={value}")).collect();
    let request = axum::http::Request::post(path)
        .header("cookie", cookies.join("; "))
        .header("origin", crate::api_house::ORIGIN)
        .header("content-type", "application/json")
        .extension(Arc::new(crate::api_house::facts(None)))
        .body(Body::from(body.to_string()))
        .unwrap();
    let response = scene.router.clone().oneshot(request).await.unwrap();
    assert_eq!(response.status(), 201);
    let body = to_bytes(response.into_body(), 1 << 20).await.unwrap();
    serde_json::from_slice::<serde_json::Value>(&body).unwrap()["id"].as_str().unwrap().to_owned()
}

/// The policies that come with the product, and this rule of the sample service.
fn with_rule(rule: &str) -> Arc<PolicySet> {
    let (from, to) = (Path::new(env!("CARGO_MANIFEST_DIR")).join("policies"), temporary_folder());
    copy_folder(&from, to.path());
    let file = to.path().join("ops-api/access.cedar");
    let text = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, format!("{text}\n{rule}\n")).unwrap();
    Arc::new(load(to.path(), &settings()).unwrap_or_else(|found| panic!("{}", shown(&found))))
}

#[tokio::test]
async fn the_form_says_how_many_must_approve_for_who_looks_at_it() {
    let scene = scene().await;
    scene.desk.policies.store(with_rule(
        "@id(\"managers-at-once\")\npermit (principal in Group::\"release-managers\", action == Action::\"auto_approve\", \
         resource == Entitlement::\"ops-api/deploy-prod\");",
    ));
    let mut alice = person(&scene, "alice", &["eng"]).await;
    let mut bob = person(&scene, "bob", &["eng", "rel"]).await;
    let page = scene.get(&mut alice, ASK).await;
    assert!(page.body.contains("It needs 1 approval."), "{}", page.body);
    let page = scene.get(&mut bob, ASK).await;
    assert!(page.body.contains("It is granted at once.") && !page.body.contains("1 approval"), "{}", page.body);
}

#[tokio::test]
async fn an_approver_who_signed_in_long_ago_finds_the_request_and_is_told_to_sign_in_again() {
    let scene = scene().await;
    scene.desk.policies.store(with_rule(
        "@id(\"lately\")\nforbid (principal, action == Action::\"approve\", resource) \
         unless { context has session && context.session.auth_age_seconds < 600 };",
    ));
    let mut alice = person(&scene, "alice", &["eng"]).await;
    let mut bob = person(&scene, "bob", &["eng", "rel"]).await;
    let id = asked(&scene, &mut alice).await;
    let form = scene.get(&mut bob, &format!("/requests/{id}")).await;
    assert!(form.body.contains("Approve for"), "{}", form.body);
    scene.clock.advance(Ttl::minutes(11));
    assert!(scene.get(&mut bob, "/requests").await.body.contains(&id.to_string()));
    let page = scene.get(&mut bob, &format!("/requests/{id}")).await;
    let again = format!("href=\"/signin?max_age=0&#38;return_to=%2Frequests%2F{id}\"");
    assert!(page.status == 200 && page.body.contains(&again) && !page.body.contains("Approve for"), "{}", page.body);
    let (token, hash) = (form.hidden("form"), form.hidden("hash"));
    let fields = [("form", token.as_str()), ("hash", hash.as_str()), ("answer", "approve"), ("reason", "as we said")];
    let answer = format!("/requests/{id}/answer");
    let told = scene.post(&mut bob, &answer, &fields).await;
    assert!(told.status == 403 && told.body.contains(&again) && told.body.contains("as we said"), "{told:?}");
    // A program is told in its own words.
    let mut program = bob.clone();
    program.headers.push(("accept", "application/json".to_owned()));
    let told: serde_json::Value = serde_json::from_str(&scene.post(&mut program, &answer, &fields).await.body).unwrap();
    assert_eq!((&told["reason"], &told["remedy"]["kind"]), (&json!("no_policy_match"), &json!("step_up")));
    assert_eq!(scene.desk.store.access_request_fetch(id).await.unwrap().unwrap().state, RequestState::Pending);
    // To others it is as if it were not there.
    let mut dave = person(&scene, "dave", &["eng"]).await;
    assert_eq!(scene.get(&mut dave, &format!("/requests/{id}")).await.status, 404);
    // And after signing in again it is approved.
    let mut bob = person(&scene, "bob", &["eng", "rel"]).await;
    let form = scene.get(&mut bob, &format!("/requests/{id}")).await.hidden("form");
    let fields = [("form", form.as_str()), ("hash", hash.as_str()), ("answer", "approve")];
    assert_eq!(scene.post(&mut bob, &answer, &fields).await.location(), format!("/requests/{id}"));
}
