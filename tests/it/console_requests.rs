//! Requests on pages: asked for, looked at, answered, given back; and what must not answer them
//! (ATTACKS A50, A51, A52, A54).

use doorward::model::{RequestId, RequestState};
use serde_json::json;

use crate::api_house::ORIGIN;
use crate::console::keeps_to_itself;
use crate::sign_in_scene::{Browser, Page, Scene};
use crate::support::databases;

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

/// Sends the ask form filled in; gives what came.
async fn ask(scene: &Scene, browser: &mut Browser, reason: &str, ticket: &str) -> Page {
    let form = scene.get(browser, ASK).await.hidden("form");
    let fields = [
        ("form", form.as_str()),
        ("entitlement", "ops-api/deploy-prod"),
        ("reason", reason),
        ("ticket", ticket),
        ("for", "10m"),
    ];
    scene.post(browser, "/requests", &fields).await
}

fn id_of(page: &Page) -> RequestId {
    RequestId::parse(page.location().strip_prefix("/requests/").unwrap()).unwrap()
}

async fn state(scene: &Scene, id: RequestId) -> RequestState {
    scene.desk.store.access_request_fetch(id).await.unwrap().unwrap().state
}

#[tokio::test]
async fn what_is_asked_for_on_a_page_is_approved_on_another_used_and_given_back() {
    let scene = scene().await;
    let mut alice = person(&scene, "alice", &["eng"]).await;
    let mut bob = person(&scene, "bob", &["eng", "rel"]).await;
    // What may be asked for leads to its form.
    let offers = scene.get(&mut alice, "/requests/new").await;
    assert!(offers.body.contains("/requests/new?entitlement=ops-api/deploy-prod"), "{}", offers.body);
    let home = scene.get(&mut alice, "/").await;
    assert!(home.body.contains("Ask for ops-api/deploy-prod"), "{}", home.body);
    // What is wrong is said beside what was typed, and nothing is sent.
    let wrong = ask(&scene, &mut alice, "a hotfix & more", "ops 1").await;
    assert_eq!(wrong.status, 400);
    assert!(wrong.body.contains("Not sent:") && wrong.body.contains("a hotfix &#38; more"), "{}", wrong.body);
    keeps_to_itself(&wrong);
    let id = id_of(&ask(&scene, &mut alice, "a <script>hotfix", "OPS-1").await);
    let own = scene.get(&mut alice, &format!("/requests/{id}")).await;
    assert!(own.body.contains("nobody answers what they asked for themselves") && own.body.contains("Take it back"));
    assert!(!own.body.contains("Approve for"), "{}", own.body);
    // Bob sees that it waits, and exactly what it is.
    let home = scene.get(&mut bob, "/").await;
    assert!(home.body.contains("1 request waits for your answer"), "{}", home.body);
    let list = scene.get(&mut bob, "/requests").await;
    assert!(list.body.contains(&format!("/requests/{id}")) && list.body.contains("alice asks for ops-api/deploy-prod"));
    let page = scene.get(&mut bob, &format!("/requests/{id}")).await;
    keeps_to_itself(&page);
    for wanted in [
        "alice asks for ops-api/deploy-prod",
        "a &#60;script&#62;hotfix",
        "OPS-1",
        "Approve for 10m",
        "never held it before",
        "outside working hours",
        "POST /v1/deployments/",
        "0 of 1",
    ] {
        assert!(page.body.contains(wanted), "{wanted}: {}", page.body);
    }
    let (form, hash) = (page.hidden("form"), page.hidden("hash"));
    let answer = [("form", form.as_str()), ("hash", &hash), ("answer", "approve"), ("reason", "as agreed")];
    let answered = scene.post(&mut bob, &format!("/requests/{id}/answer"), &answer).await;
    assert_eq!(answered.location(), format!("/requests/{id}"));
    let page = scene.get(&mut bob, &format!("/requests/{id}")).await;
    assert!(page.body.contains("active") && page.body.contains("as agreed") && !page.body.contains("Approve for"));
    // Alice holds it, and gives it back.
    let page = scene.get(&mut alice, &format!("/requests/{id}")).await;
    assert!(page.body.contains("Give it back now"), "{}", page.body);
    let grant = page.body.split("/grants/").nth(1).unwrap().split('/').next().unwrap().to_owned();
    let form = page.hidden("form");
    let dropped = scene.post(&mut alice, &format!("/grants/{grant}/drop"), &[("form", &form)]).await;
    assert_eq!(dropped.location(), format!("/requests/{id}"));
    let page = scene.get(&mut alice, "/requests").await;
    assert!(page.body.contains("dropped"), "{}", page.body);
    // And one that nobody answered is taken back.
    let id = id_of(&ask(&scene, &mut alice, "again", "OPS-2").await);
    let taken = scene.post(&mut alice, &format!("/requests/{id}/withdraw"), &[("form", &form)]).await;
    assert_eq!(taken.location(), format!("/requests/{id}"));
    assert_eq!(state(&scene, id).await, RequestState::Withdrawn);
}

#[tokio::test]
async fn a51_only_a_form_of_ours_answers_a_request() {
    let scene = scene().await;
    let mut alice = person(&scene, "alice", &["eng"]).await;
    let mut bob = person(&scene, "bob", &["eng", "rel"]).await;
    let id = id_of(&ask(&scene, &mut alice, "a hotfix", "OPS-1").await);
    let foreign = scene.get(&mut alice, &format!("/requests/{id}")).await.hidden("form");
    let page = scene.get(&mut bob, &format!("/requests/{id}")).await;
    // Framed by nobody, so that nobody is led to press a button that they don't see.
    keeps_to_itself(&page);
    let (form, hash) = (page.hidden("form"), page.hidden("hash"));
    let answer = format!("/requests/{id}/answer");
    let good = [("form", form.as_str()), ("hash", hash.as_str()), ("answer", "approve")];
    let elsewhere: [&[(&'static str, &str)]; 8] = [
        &[("origin", "https://evil.example")],
        &[("origin", "https://ops-api.doorward.localhost:8443")],
        &[("origin", "null")],
        &[("origin", ORIGIN), ("origin", "https://evil.example")],
        &[("sec-fetch-site", "cross-site")],
        &[("origin", ORIGIN), ("sec-fetch-site", "same-site")],
        &[("origin", "http://doorward.localhost:8443")],
        &[],
    ];
    for headers in elsewhere {
        let mut sent = bob.clone();
        sent.headers = headers.iter().map(|(name, value)| (*name, (*value).to_owned())).collect();
        let got = scene.send(&mut sent, "POST", &answer, Some(&good)).await;
        assert_eq!(got.status, 403, "{headers:?}: {got:?}");
    }
    for wrong in ["", "x", &foreign, &form[1..]] {
        let fields = [("form", wrong), ("hash", hash.as_str()), ("answer", "approve")];
        let got = scene.post(&mut bob, &answer, &fields).await;
        assert_eq!(got.status, 403, "{wrong}: {got:?}");
    }
    // A link, a prefetch, a picture of another site: all are GET.
    let query = format!("{answer}?form={form}&hash={hash}&answer=approve");
    for method in ["GET", "HEAD"] {
        let got = scene.send(&mut bob.clone(), method, &query, None).await;
        assert_eq!(got.status, 405, "{method}: {got:?}");
    }
    let mut prefetch = bob.clone();
    prefetch.headers = vec![("purpose", "prefetch".to_owned()), ("sec-purpose", "prefetch".to_owned())];
    assert_eq!(scene.get(&mut prefetch, &format!("/requests/{id}")).await.status, 200);
    // Nor the API with the cookie of a page elsewhere, nor a form where JSON is wanted.
    let api = format!("/api/v1/requests/{id}/approvals");
    let mut crossing = bob.clone();
    crossing.headers = vec![("origin", "https://evil.example".to_owned())];
    let got = scene.send(&mut crossing, "POST", &api, Some(&[("answer", "approve")])).await;
    assert!(matches!(got.status.as_u16(), 403 | 415), "{got:?}");
    // Without a session a form is not kept for later: it is told so, with what was typed and the way back.
    let said = [&good[..], &[("reason", "a <b> & more")]].concat();
    let got = scene.post(&mut Browser::default(), &answer, &said).await;
    assert_eq!(got.status, 401, "{got:?}");
    assert!(got.body.contains(&format!("href=\"/signin?return_to=%2Frequests%2F{id}\"")), "{}", got.body);
    assert!(got.body.contains("readonly>a &#60;b&#62; &#38; more</textarea>"), "{}", got.body);
    // Another site's page has no words of its own shown on ours.
    let mut crossing = Browser { headers: vec![("origin", "https://evil.example".to_owned())], ..Browser::default() };
    let got = scene.send(&mut crossing, "POST", &answer, Some(&said)).await;
    assert!(got.status == 401 && !got.body.contains("more</textarea>"), "{got:?}");
    assert_eq!(state(&scene, id).await, RequestState::Pending, "none of it answered anything");
    // What was looked at is what is approved.
    let other = [("form", form.as_str()), ("hash", "sha256:00"), ("answer", "approve")];
    let got = scene.post(&mut bob, &answer, &other).await;
    assert_eq!(got.status, 409, "{got:?}");
    let got = scene.post(&mut bob, &answer, &[("form", form.as_str()), ("answer", "approve")]).await;
    assert_eq!(got.status, 400, "an approval that says of what is wanted");
    assert_eq!(state(&scene, id).await, RequestState::Pending);
    assert_eq!(scene.post(&mut bob, &answer, &good).await.location(), format!("/requests/{id}"));
    assert_eq!(state(&scene, id).await, RequestState::Approved);
    assert_eq!(scene.post(&mut bob, &answer, &good).await.status, 409, "answered once");
}

#[tokio::test]
async fn a_form_with_a_nul_character_is_refused_before_it_meets_a_database() {
    let scene = scene().await;
    let mut alice = person(&scene, "alice", &["eng"]).await;
    let refused = ask(&scene, &mut alice, "a\0b", "OPS-1").await;
    assert_eq!(refused.status, 400, "{refused:?}");
    assert!(refused.body.contains("NUL"), "{}", refused.body);
}

#[tokio::test]
async fn a_refusal_in_a_browser_leads_to_the_form_that_helps() {
    use doorward::gateway::refusal::{Form, Refusal};
    use doorward::gateway::remedy::Offer;
    use doorward::model::{DecisionId, EntitlementName};
    use http_body_util::BodyExt;
    let name = EntitlementName::parse("ops-api/deploy-prod").unwrap();
    let command = "doorward request ops-api/deploy-prod";
    let offer = Offer { name, command: command.to_owned(), recorded: command.to_owned(), params: Vec::new() };
    let page = async |refusal: Refusal| {
        let decision = DecisionId::from_bytes([7; 16]);
        let response = refusal.response(decision, Form::Page, ORIGIN, ORIGIN);
        String::from_utf8(response.into_body().collect().await.unwrap().to_bytes().to_vec()).unwrap()
    };
    let params = vec![("pipeline".to_owned(), "two words&".to_owned())];
    let with_params = page(Refusal::NoPolicyMatch { remedies: vec![Offer { params, ..offer.clone() }] }).await;
    assert!(with_params.contains("deploy-prod&#38;param.pipeline=two+words%26\""), "{with_params}");
    let helped = page(Refusal::NoPolicyMatch { remedies: vec![offer] }).await;
    let link = format!("href=\"{ORIGIN}/requests/new?entitlement=ops-api%2Fdeploy-prod\"");
    assert!(helped.contains(&link), "{helped}");
    let helpless = page(Refusal::NoPolicyMatch { remedies: Vec::new() }).await;
    assert!(!helpless.contains("href="), "{helpless}");
}

#[tokio::test]
async fn the_form_has_the_parameters_of_the_link_and_nothing_else_of_it() {
    let scene = scene().await;
    let mut alice = person(&scene, "alice", &["eng"]).await;
    let link = "/requests/new?entitlement=deploy-pipeline%2Fpromote-prod&param.pipeline=two+words%22&param.other=x&reason=made-up";
    let form = scene.get(&mut alice, link).await;
    assert_eq!(form.status, 200);
    assert!(
        form.body.contains("name=\"param.pipeline\"") && form.body.contains("value=\"two words&#34;\""),
        "{form:?}"
    );
    assert!(!form.body.contains("param.other") && !form.body.contains("made-up"), "{}", form.body);
    // What is not taken is told.
    assert!(form.body.contains("<code>other</code>"), "{}", form.body);
}

#[tokio::test]
async fn a50_a54_nobody_answers_their_own_request_and_others_dont_exist_for_strangers() {
    let scene = scene().await;
    let mut bob = person(&scene, "bob", &["eng", "rel"]).await;
    let id = id_of(&ask(&scene, &mut bob, "my own", "OPS-1").await);
    let form = scene.get(&mut bob, &format!("/requests/{id}")).await.hidden("form");
    let hash = scene.desk.store.access_request_fetch(id).await.unwrap().unwrap().hash;
    for verdict in ["approve", "deny"] {
        let fields = [("form", form.as_str()), ("hash", hash.as_str()), ("answer", verdict)];
        let got = scene.post(&mut bob, &format!("/requests/{id}/answer"), &fields).await;
        assert!(got.status == 403 && got.body.contains("self_approval"), "{got:?}");
    }
    let mut stranger = person(&scene, "dave", &[]).await;
    assert_eq!(scene.get(&mut stranger, &format!("/requests/{id}")).await.status, 404);
    assert_eq!(scene.get(&mut stranger, ASK).await.status, 404, "it does not exist for who may not ask");
    let own = scene.get(&mut stranger, "/").await.hidden("form");
    for path in [format!("/requests/{id}/answer"), format!("/requests/{id}/withdraw")] {
        let fields = [("form", own.as_str()), ("hash", hash.as_str()), ("answer", "deny")];
        assert_eq!(scene.post(&mut stranger, &path, &fields).await.status, 404, "{path}");
    }
    // Another engineer may ask for it and still sees nothing of bob's.
    let mut alice = person(&scene, "alice", &["eng"]).await;
    assert_eq!(scene.get(&mut alice, &format!("/requests/{id}")).await.status, 404);
    assert!(!scene.get(&mut alice, "/requests").await.body.contains(&id.to_string()));
    assert_eq!(state(&scene, id).await, RequestState::Pending);
}
