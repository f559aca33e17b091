//! Sessions end, are regrouped, listed and revoked; each at once on this node, and on others by
//! the feed.

use std::collections::BTreeSet;

use doorward::control::lock;
use doorward::control::session::{self, StartError};
use doorward::identity::logout_token::LoggedOut;
use doorward::model::{Principal, SessionEnd, SessionId, Ttl};
use doorward::store::RevocationKind;
use rcgen::KeyPair;
use serde_json::json;

use crate::api_house::{House, csr, facts};
use crate::support::databases;

fn id_of(answer: &serde_json::Value) -> SessionId {
    SessionId::parse(answer["session"]["id"].as_str().unwrap()).unwrap()
}

#[tokio::test]
async fn a_revoked_session_is_refused_at_its_next_call_and_its_streams_are_cut() {
    for url in databases() {
        let house = House::new(&url).await;
        let (alice, answer, _) = house.command_line("alice").await;
        let id = id_of(&answer);
        let streams = house.desk.directory.session(id).unwrap().streams.clone();
        let path = format!("/api/v1/sessions/{id}/revoke");
        let ended = house.json(&alice, &path, &json!({ "reason": "laptop lost" })).await;
        assert_eq!((ended.status.as_u16(), ended.text("/state"), ended.text("/end")), (200, "ended", "revoked"));
        assert!(streams.is_cancelled());
        let refused = house.get(&alice, "/api/v1/whoami").await;
        assert_eq!((refused.status.as_u16(), refused.text("/reason")), (401, "session_ended"));
        assert_eq!(refused.text("/remedy/command"), "doorward login");
        let feed = house.desk.store.revocation_since(0, 100).await.unwrap();
        assert!(feed.iter().any(|e| e.kind == RevocationKind::SessionEnded && e.subject == id.to_string()));
    }
}

#[tokio::test]
async fn a_session_that_another_node_ended_is_refused_here() {
    let house = House::new(&databases()[0]).await;
    let (alice, answer, _) = house.command_line("alice").await;
    house.end_elsewhere(id_of(&answer)).await;
    assert_eq!(house.get(&alice, "/api/v1/whoami").await.text("/reason"), "session_ended");
}

#[tokio::test]
async fn of_two_who_end_a_session_one_does_it() {
    for url in databases() {
        let house = House::new(&url).await;
        let (_, answer, _) = house.command_line("alice").await;
        let actor = doorward::audit::Actor::default();
        let now = house.now();
        let ends = (0..20).map(|_| session::end(&house.desk, id_of(&answer), SessionEnd::Logout, &actor, None, now));
        let ended = futures_util::future::join_all(ends).await;
        assert_eq!(ended.into_iter().filter(|result| matches!(result, Ok(Some(_)))).count(), 1);
    }
}

#[tokio::test]
async fn security_may_end_sessions_of_others_and_to_engineers_they_do_not_exist() {
    let house = House::new(&databases()[0]).await;
    let (alice, answer, _) = house.command_line("alice").await;
    let (bob, _, _) = house.command_line("bob").await;
    let (carol, _, _) = house.command_line("carol").await;
    let path = format!("/api/v1/sessions/{}/revoke", id_of(&answer));
    let reason = json!({ "reason": "leaver" });
    let by_bob = house.json(&bob, &path, &reason).await;
    let unknown = format!("/api/v1/sessions/{}/revoke", SessionId::from_bytes([3; 16]));
    let of_nobody = house.json(&bob, &unknown, &reason).await;
    for answer in [&by_bob, &of_nobody] {
        assert_eq!((answer.status.as_u16(), answer.text("/reason")), (404, "not_found"));
    }
    assert_eq!(by_bob.body["detail"], of_nobody.body["detail"], "a48: both look alike");
    assert_eq!(house.get(&alice, "/api/v1/whoami").await.status, 200);
    assert_eq!(house.json(&carol, &path, &reason).await.status, 200);
    assert_eq!(house.get(&alice, "/api/v1/whoami").await.status, 401);
    assert_eq!(house.json(&carol, &path, &reason).await.status, 200, "one that is over is answered the same");
}

#[tokio::test]
async fn everyone_sees_their_own_sessions_and_who_may_end_others_sees_all() {
    let house = House::new(&databases()[0]).await;
    let (alice, _, _) = house.command_line("alice").await;
    let (carol, _, _) = house.command_line("carol").await;
    let whose = |answer: &crate::api_house::Answer| -> BTreeSet<String> {
        let items = answer.body["items"].as_array().unwrap();
        items.iter().map(|item| item["principal"]["id"].as_str().unwrap().to_owned()).collect()
    };
    let own = house.get(&alice, "/api/v1/sessions").await;
    assert_eq!(own.body["items"].as_array().unwrap().len(), 2, "browser and command line");
    let current = own.body["items"].as_array().unwrap().iter().filter(|item| item["current"] == json!(true));
    assert_eq!(current.map(|item| item["kind"].clone()).collect::<Vec<_>>(), [json!("cli")]);
    assert_eq!(own.body["next"], json!(null));
    assert_eq!(whose(&house.get(&alice, "/api/v1/sessions?all=true").await).len(), 1);
    assert_eq!(whose(&house.get(&carol, "/api/v1/sessions").await).len(), 1);
    assert_eq!(whose(&house.get(&carol, "/api/v1/sessions?all=true").await).len(), 2);
    assert_eq!(house.get(&carol, "/api/v1/sessions?all=maybe").await.status, 400);
    assert_eq!(house.get(&carol, "/api/v1/sessions?cursor=x").await.status, 400);
}

#[tokio::test]
async fn a_provider_that_ends_its_session_ends_all_that_came_from_it() {
    for url in databases() {
        let house = House::new(&url).await;
        let (alice, _, _) = house.command_line("alice").await;
        let (bob, _, _) = house.command_line("bob").await;
        let now = house.now();
        let sid = LoggedOut::Sid { sid: "sid-of-alice".to_owned(), subject: None };
        assert_eq!(session::end_by_logout(&house.desk, "other", &sid, now).await.unwrap(), 0);
        assert_eq!(session::end_by_logout(&house.desk, "dev", &sid, now).await.unwrap(), 2);
        assert_eq!(house.get(&alice, "/api/v1/whoami").await.text("/reason"), "session_ended");
        assert_eq!(house.get(&bob, "/api/v1/whoami").await.status, 200);
        let all_of_bob = LoggedOut::Subject("bob".to_owned());
        assert_eq!(session::end_by_logout(&house.desk, "dev", &all_of_bob, now).await.unwrap(), 2);
        assert_eq!(house.get(&bob, "/api/v1/whoami").await.text("/reason"), "session_ended");
    }
}

#[tokio::test]
async fn a43_a_group_that_the_provider_took_away_is_gone_at_once() {
    for url in databases() {
        let house = House::new(&url).await;
        let (carol, answer, _) = house.command_line("carol").await;
        let stored = house.desk.store.session_fetch(id_of(&answer)).await.unwrap().unwrap();
        let link = stored.link.unwrap();
        let groups = ["auditors".to_owned()];
        assert_eq!(session::groups_replace(&house.desk, &link, &groups, house.now()).await.unwrap(), 2);
        assert_eq!(session::groups_replace(&house.desk, &link, &groups, house.now()).await.unwrap(), 0);
        let me = house.get(&carol, "/api/v1/whoami").await;
        assert_eq!(me.body["session"]["groups"], json!(["auditors"]));
        assert!(!me.body["groups"].as_array().unwrap().contains(&json!("security")), "{:?}", me.body);
        let known = house.desk.directory.session(stored.session.id).unwrap();
        assert_eq!((known.session.groups.len(), known.session.version), (1, stored.session.version + 1));
        assert!(!known.streams.is_cancelled(), "the session goes on");
        assert_eq!(session::end_by_link(&house.desk, &link, house.now()).await.unwrap(), 2);
        assert_eq!(house.get(&carol, "/api/v1/whoami").await.text("/reason"), "session_ended");
    }
}

#[tokio::test]
async fn who_is_locked_is_refused_and_starts_nothing() {
    let house = House::new(&databases()[0]).await;
    let (browser, _) = house.browser("alice").await;
    let code = house.code(&browser).await;
    let (alice, answer, _) = house.command_line("alice").await;
    house.desk.directory.lock(&Principal::user("dev", "alice").unwrap());
    let refused = house.get(&alice, "/api/v1/whoami").await;
    assert_eq!((refused.status.as_u16(), refused.text("/reason")), (403, "locked"));
    assert_eq!(house.exchange(&code, &[]).await.text("/error"), "access_denied");
    let token = answer["refresh_token"].as_str().unwrap();
    assert_eq!(house.refresh(&alice, token, &[]).await.text("/error"), "access_denied");
    house.desk.directory.unlock(&Principal::user("dev", "alice").unwrap());
    assert_eq!(house.refresh(&alice, token, &[]).await.status, 200, "a refused refresh uses nothing up");
    assert!(lock::list(&house.desk.store).await.unwrap().is_empty());
}

#[tokio::test]
async fn a_cookie_is_good_at_its_host_and_until_its_session_ends() {
    for url in databases() {
        let house = House::new(&url).await;
        let (browser, stored) = house.browser("alice").await;
        assert_eq!(house.get(&browser, "/api/v1/whoami").await.status, 200);
        let value = browser.cookie.as_deref().unwrap().split_once('=').unwrap().1;
        let hash = doorward::identity::cookie::CookieValue::parse(value).unwrap().hash();
        let now = house.now();
        let here = session::fetch_by_cookie(&house.desk, &hash, "doorward.localhost", now).await.unwrap();
        assert_eq!(here.unwrap().session.id, stored.session.id);
        let elsewhere = session::fetch_by_cookie(&house.desk, &hash, "ops-api.doorward.localhost", now).await.unwrap();
        assert!(elsewhere.is_none());
        house.clock.advance(Ttl::hours(12));
        assert_eq!(house.get(&browser, "/api/v1/whoami").await.status, 401);
    }
}

#[tokio::test]
async fn what_happened_to_a_session_is_on_record() {
    let house = House::new(&databases()[0]).await;
    let (alice, answer, key) = house.command_line("alice").await;
    let token = answer["refresh_token"].as_str().unwrap();
    house.refresh(&alice, token, &[("csr", &csr(&key))]).await;
    let path = format!("/api/v1/sessions/{}/revoke", id_of(&answer));
    house.json(&alice, &path, &json!({ "reason": "done" })).await;
    let filter = doorward::store::EventFilter { session: Some(id_of(&answer)), ..Default::default() };
    let events = house.desk.store.event_list(&filter, 100).await.unwrap();
    let mut kinds: Vec<&str> = events.iter().map(|event| event.clear().kind.name()).collect();
    kinds.sort_unstable();
    let expected =
        ["credential.issued", "session.end", "session.renewed", "session.start", "token.issued", "token.issued"];
    assert_eq!(kinds, expected);
    let secrets = [token, answer["access_token"].as_str().unwrap()];
    for event in &events {
        assert!(secrets.iter().all(|secret| !event.sealed.body().contains(secret)));
    }
}

#[tokio::test]
async fn sessions_come_newest_first_and_page_by_page() {
    for url in databases() {
        let house = House::new(&url).await;
        let mut made = Vec::new();
        for _ in 0..5 {
            house.clock.advance(Ttl::seconds(1));
            made.push(house.browser("alice").await.1.session.id);
        }
        made.reverse();
        let (store, now) = (&house.desk.store, house.now());
        let mut read = Vec::new();
        let mut before = None;
        loop {
            let page = store.session_list(None, before, 2, now).await.unwrap();
            let Some(last) = page.last() else { break };
            before = Some(last.session.id);
            read.extend(page.iter().map(|stored| stored.session.id));
        }
        assert_eq!(read, made);
    }
}

#[tokio::test]
async fn a_session_that_starts_while_its_sign_in_ends_is_ended_too() {
    for url in databases() {
        let house = House::new(&url).await;
        for _ in 0..10 {
            let (browser, stored) = house.browser("alice").await;
            let code = house.code(&browser).await;
            let link = stored.link.unwrap();
            let (answer, ended) =
                tokio::join!(house.exchange(&code, &[]), session::end_by_link(&house.desk, &link, house.now()));
            assert!(ended.unwrap() >= 1);
            assert!(house.desk.store.session_list_by_link(&link, house.now()).await.unwrap().is_empty(), "{answer:?}");
        }
    }
}

#[tokio::test]
async fn a_logout_and_renewals_of_the_same_moment_wait_for_each_other_and_the_sessions_end() {
    for url in databases() {
        let house = House::new(&url).await;
        for _ in 0..10 {
            let (browser, stored) = house.browser("alice").await;
            let mut held = Vec::new();
            for _ in 0..2 {
                let code = house.code(&browser).await;
                let request = csr(&KeyPair::generate().unwrap());
                let answer = house.exchange(&code, &[("csr", &request)]).await;
                let stored = house.desk.store.session_fetch(id_of(&answer.body)).await.unwrap().unwrap();
                held.push((stored, request));
            }
            // The newest first, against the order of the logout.
            held.reverse();
            let (now, connection) = (house.now(), facts(None));
            let who = LoggedOut::Sid { sid: "sid-of-alice".to_owned(), subject: None };
            let renewals =
                held.iter().map(|(stored, csr)| session::renew(&house.desk, stored, csr.as_bytes(), &connection, now));
            let (renewed, ended) = tokio::join!(
                futures_util::future::join_all(renewals),
                session::end_by_logout(&house.desk, "dev", &who, now)
            );
            assert_eq!(ended.unwrap(), 3, "browser and two command lines");
            assert!(renewed.iter().all(|one| matches!(one, Ok(_) | Err(StartError::Ended))), "{renewed:?}");
            let link = stored.link.unwrap();
            assert!(house.desk.store.session_list_by_link(&link, now).await.unwrap().is_empty());
        }
    }
}

#[tokio::test]
async fn who_is_still_signed_in_elsewhere_is_not_forgotten_when_one_sign_in_is_refused() {
    for url in databases() {
        let house = House::new(&url).await;
        let (_, first) = house.browser("bob").await;
        let (_, second) = house.browser("bob").await;
        let bob = &first.session.principal;
        session::end_by_link(&house.desk, &first.link.unwrap(), house.now()).await.unwrap();
        assert!(house.desk.store.person_fetch(bob).await.unwrap().is_some(), "an approver who can be told");
        session::end_by_link(&house.desk, &second.link.unwrap(), house.now()).await.unwrap();
        assert!(house.desk.store.person_fetch(bob).await.unwrap().is_none());
    }
}

#[tokio::test]
async fn a_verified_address_links_accounts_for_ninety_days_whatever_became_of_the_session() {
    for url in databases() {
        let house = House::new(&url).await;
        let (_, stored) = house.browser("alice").await;
        let (store, alice) = (&house.desk.store, &stored.session.principal);
        let link = stored.link.unwrap();
        session::end_by_link(&house.desk, &link, house.now()).await.unwrap();
        house.clock.advance(Ttl::hours(48));
        while session::sweep(&house.desk, house.now()).await.unwrap() > 0 {}
        assert!(store.session_fetch(stored.session.id).await.unwrap().is_none());
        let told = async || {
            let since = house.now().minus(Ttl::hours(24 * 90));
            let emails = store.account_emails(alice, since).await.unwrap();
            (emails, store.email_accounts("alice@example.com", since).await.unwrap())
        };
        assert_eq!(told().await, (vec!["alice@example.com".to_owned()], vec![alice.clone()]));
        house.clock.advance(Ttl::hours(24 * 90));
        assert_eq!(told().await, (vec![], vec![]));
        assert_eq!(session::sweep(&house.desk, house.now()).await.unwrap(), 1);
    }
}

#[tokio::test]
async fn what_is_long_over_is_forgotten_and_what_is_not_stays() {
    for url in databases() {
        let house = House::new(&url).await;
        let (_, old, _) = house.command_line("alice").await;
        house.clock.advance(Ttl::hours(20));
        let (bob, fresh, _) = house.command_line("bob").await;
        // The certificate and the token that alice had: they are over, and nothing more is told of them.
        assert_eq!(session::sweep(&house.desk, house.now()).await.unwrap(), 2);
        house.clock.advance(Ttl::hours(16));
        // Code, refresh token, cookie, two sessions, one sign-in.
        assert!(session::sweep(&house.desk, house.now()).await.unwrap() >= 6);
        let fetch = async |answer| house.desk.store.session_fetch(id_of(answer)).await.unwrap();
        assert!(fetch(&old).await.is_none());
        assert!(fetch(&fresh).await.is_some());
        assert_eq!(house.get(&bob, "/api/v1/whoami").await.status, 401);
    }
}
