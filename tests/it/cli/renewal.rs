//! Short certificates and their renewal by whichever command comes next.

use std::sync::{Arc, Mutex, OnceLock};

use doorward::cli::exit::Exit;
use doorward::cli::profile::{ProfileRecord, SavedSession};
use doorward::cli::renewal::{Freshness, freshness, signed_in, signing_request};
use doorward::cli::{logout, whoami};
use doorward::credential::authority::Authority;
use doorward::model::{SessionId, Ttl};
use doorward::wire::{Principal, Time};
use rcgen::KeyPair;
use serde_json::json;

use super::Person;
use super::fake_door::{FakeDoor, json_reply, present, session_json, token_answer};
use crate::support::SeededEntropy;

/// A door that renews certificates of an hour for each refresh token once: `one`, then `two` …
async fn renewing_door() -> FakeDoor {
    let authority: Arc<OnceLock<Arc<Authority>>> = Arc::new(OnceLock::new());
    let next = Mutex::new(vec!["four", "three", "two", "one"]);
    let inner = Arc::clone(&authority);
    let door = FakeDoor::open(move |seen| match seen.path.as_str() {
        "/oauth2/token" => {
            let mut next = next.lock().unwrap();
            if seen.value("refresh_token").as_deref() != next.last().copied() {
                return json_reply(400, &json!({"error": "invalid_grant"}));
            }
            next.pop();
            assert_eq!(seen.value("grant_type").as_deref(), Some("refresh_token"));
            assert_eq!(seen.value("client_id").as_deref(), Some("doorward-cli"));
            let request = seen.value("csr").unwrap();
            json_reply(200, &token_answer(inner.get().unwrap(), &request, Ttl::hours(1), next.last().unwrap()))
        }
        "/oauth2/revoke" => json_reply(200, &json!({})),
        "/api/v1/whoami" => {
            let session = session_json("ses_1", present());
            json_reply(
                200,
                &json!({
                    "principal": session["principal"], "session": session, "groups": ["engineering"], "grants": [],
                    "expires_at": session["expires_at"],
                }),
            )
        }
        _ => json_reply(404, &json!({})),
    })
    .await;
    assert!(authority.set(Arc::clone(&door.authority)).is_ok());
    door
}

/// Saves a session whose certificate lasts that long from now.
pub fn sign_in(person: &Person, door: &FakeDoor, lifetime: Ttl, refresh_token: &str) {
    let key_pem = KeyPair::generate().unwrap().serialize_pem();
    let request = signing_request(&key_pem).unwrap();
    let now = present();
    let session = SessionId::fresh(now, &SeededEntropy::new(3));
    let issued = door
        .authority
        .issue_session(request.as_bytes(), session, now, now.plus(lifetime), &SeededEntropy::new(4))
        .unwrap();
    let record = ProfileRecord {
        server: door.origin.clone(),
        session: session.to_string(),
        principal: Principal { kind: "User".to_owned(), id: "dev|alice".to_owned(), name: None, email: None },
        expires_at: Time(now.plus(Ttl::hours(12))),
        certificate_since: Time(now),
        certificate_expires_at: Time(issued.not_after),
        refresh_token: refresh_token.to_owned(),
        refresh_token_expires_at: Time(now.plus(Ttl::hours(12))),
        audit_key: None,
    };
    let saved = SavedSession { record, key_pem, certificate_pem: issued.pem, ca_pem: None };
    let profile = person.context.profile().unwrap();
    profile.save(&profile.lock().unwrap(), &saved).unwrap();
}

#[tokio::test]
async fn a_certificate_is_ending_in_its_last_third() {
    let door = renewing_door().await;
    for (lifetime, left, expected) in [
        (60, 60, Freshness::Fresh),
        (60, 22, Freshness::Fresh),
        (60, 19, Freshness::Ending),
        (60, 0, Freshness::Over),
        // A short one is ending in its last ten minutes, but never in its first half.
        (24, 11, Freshness::Fresh),
        (24, 9, Freshness::Ending),
        (8, 5, Freshness::Fresh),
        (8, 3, Freshness::Ending),
        (1, 1, Freshness::Fresh),
    ] {
        let person = Person::at(&door);
        sign_in(&person, &door, Ttl::minutes(lifetime), "one");
        let saved = person.context.profile().unwrap().load().unwrap().unwrap();
        let at = saved.record.certificate_expires_at.0.minus(Ttl::minutes(left));
        assert_eq!(freshness(&saved, at), expected, "{left}m of {lifetime}m left");
    }
    let person = Person::at(&door);
    sign_in(&person, &door, Ttl::hours(1), "one");
    let mut saved = person.context.profile().unwrap().load().unwrap().unwrap();
    saved.certificate_pem = "nonsense".to_owned();
    assert_eq!(freshness(&saved, present()), Freshness::Over);
}

#[tokio::test]
async fn the_next_command_renews_a_certificate_that_is_ending() {
    let door = renewing_door().await;
    let person = Person::at(&door);
    sign_in(&person, &door, Ttl::hours(1), "one");
    let before = person.context.profile().unwrap().load().unwrap().unwrap();
    signed_in(&person.context).await.unwrap();
    assert_eq!(door.count("/oauth2/token"), 0, "a fresh one is left alone");

    person.clock.advance(Ttl::minutes(45));
    signed_in(&person.context).await.unwrap();
    let after = person.context.profile().unwrap().load().unwrap().unwrap();
    assert_eq!(after.record.refresh_token, "two");
    assert_eq!(after.key_pem, before.key_pem);
    assert_ne!(after.certificate_pem, before.certificate_pem);
    let renewal = door.seen().into_iter().find(|seen| seen.path == "/oauth2/token").unwrap();
    assert!(renewal.certificate.is_some(), "the old one proves who asks");
}

#[tokio::test]
async fn a_certificate_that_is_over_is_renewed_without_being_shown() {
    let door = renewing_door().await;
    let person = Person::at(&door);
    sign_in(&person, &door, Ttl::hours(1), "one");
    person.clock.advance(Ttl::hours(3));
    signed_in(&person.context).await.unwrap();
    assert_eq!(door.seen()[0].path, "/oauth2/token");
    assert!(door.seen()[0].certificate.is_none());
}

#[tokio::test]
async fn commands_at_the_same_time_use_a_refresh_token_once() {
    let door = renewing_door().await;
    let person = Person::at(&door);
    sign_in(&person, &door, Ttl::hours(1), "one");
    person.clock.advance(Ttl::minutes(45));
    let (a, b, c) = tokio::join!(signed_in(&person.context), signed_in(&person.context), signed_in(&person.context));
    for result in [a, b, c] {
        assert!(result.is_ok(), "{:?}", result.err());
    }
    let tokens: Vec<_> = door.seen().iter().filter_map(|seen| seen.value("refresh_token")).collect();
    assert_eq!(tokens, ["one"], "who waited for the lock found it renewed");
}

#[tokio::test]
async fn a_session_that_ended_at_the_server_ends_with_three() {
    let door = renewing_door().await;
    let person = Person::at(&door);
    sign_in(&person, &door, Ttl::hours(1), "used before");
    person.clock.advance(Ttl::hours(2));
    let Err(failure) = signed_in(&person.context).await else { panic!("it goes on") };
    assert_eq!(failure.exit, Exit::SignedOut);
    assert_eq!(failure.problem.reason, "session_ended");
    assert!(failure.problem.remedy.unwrap().command.unwrap().starts_with("doorward login"));
}

#[tokio::test]
async fn while_the_server_is_away_a_certificate_is_used_to_its_end() {
    let door = renewing_door().await;
    let person = Person::at(&door);
    sign_in(&person, &door, Ttl::hours(1), "one");
    let profile = person.context.profile().unwrap();
    let mut saved = profile.load().unwrap().unwrap();
    let absent = format!("https://doorward.localhost:{}", crate::support::free_port());
    saved.record.server.clone_from(&absent);
    profile.save(&profile.lock().unwrap(), &saved).unwrap();
    let mut person = person;
    person.context.global.server = Some(absent);
    person.clock.advance(Ttl::minutes(50));
    assert!(signed_in(&person.context).await.is_ok());
    person.clock.advance(Ttl::minutes(20));
    let Err(failure) = signed_in(&person.context).await else { panic!("it goes on") };
    assert_eq!(failure.exit, Exit::Unreachable);
}

#[tokio::test]
async fn whoever_is_not_signed_in_is_told_how_to() {
    let door = renewing_door().await;
    let mut person = Person::at(&door);
    person.context.global.profile = Some("work".to_owned());
    let failure = whoami::run(&person.context).await.unwrap_err();
    assert_eq!(failure.exit, Exit::SignedOut);
    let command = failure.problem.remedy.unwrap().command.unwrap();
    assert_eq!(command, format!("doorward login --server {} --profile work", door.origin));
}

#[tokio::test]
async fn a_session_with_another_server_is_not_used() {
    let door = renewing_door().await;
    let mut person = Person::at(&door);
    sign_in(&person, &door, Ttl::hours(1), "one");
    person.context.global.server = Some("https://elsewhere.example".to_owned());
    let failure = whoami::run(&person.context).await.unwrap_err();
    assert_eq!(failure.exit, Exit::SignedOut);
    assert!(door.seen().is_empty());
}

#[tokio::test]
async fn whoami_shows_the_certificate_and_prints_who() {
    let door = renewing_door().await;
    let person = Person::at(&door);
    sign_in(&person, &door, Ttl::hours(1), "one");
    whoami::run(&person.context).await.unwrap();
    assert!(door.seen()[0].certificate.is_some());
    let text = person.out.text();
    for part in ["User::\"dev|alice\"", "engineering", "Alice"] {
        assert!(text.contains(part), "{text}");
    }
}

#[tokio::test]
async fn signing_out_tells_the_server_and_removes_the_key() {
    let door = renewing_door().await;
    let person = Person::at(&door);
    sign_in(&person, &door, Ttl::hours(1), "one");
    logout::run(&person.context).await.unwrap();
    let seen = door.seen();
    assert_eq!((seen[0].path.as_str(), seen[0].value("token").as_deref()), ("/oauth2/revoke", Some("one")));
    assert!(!person.context.profile().unwrap().key_path().exists());
    assert_eq!(logout::run(&person.context).await.unwrap_err().exit, Exit::SignedOut);
}

#[tokio::test]
async fn signing_out_removes_the_key_even_if_the_server_is_away() {
    let door = renewing_door().await;
    let mut person = Person::at(&door);
    sign_in(&person, &door, Ttl::hours(1), "one");
    let profile = person.context.profile().unwrap();
    let mut saved = profile.load().unwrap().unwrap();
    let absent = format!("https://doorward.localhost:{}", crate::support::free_port());
    saved.record.server.clone_from(&absent);
    profile.save(&profile.lock().unwrap(), &saved).unwrap();
    person.context.global.server = Some(absent);
    let failure = logout::run(&person.context).await.unwrap_err();
    assert_eq!(failure.exit, Exit::Unreachable);
    assert!(failure.problem.detail.unwrap().contains("removed from this machine"));
    assert!(!profile.key_path().exists());
}
