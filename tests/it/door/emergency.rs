//! What comes after an opening, through the whole door: closing, its memory, review, drills; a59.

use std::path::Path;
use std::time::Duration;

use doorward::audit::EventType;
use doorward::control::breakglass::{self, CloseError, CloseRequest, Presented};
use doorward::identity::breakglass::{ClosedBy, ClosingError, EmergencyState, KnownOpening, SignatureFault};
use doorward::model::breakglass::{Challenge, Evidence, SIGN_NAMESPACE, Scope};
use doorward::model::closing::{CLOSE_NAMESPACE, Closing};
use doorward::model::{BreakGlassId, Clock, Timestamp, Ttl};
use doorward::server::ambient::SystemClock;
use http_body_util::BodyExt;
use hyper::Method;

use crate::support::temporary_folder;

use super::breakglass::{certificate, challenge, evidence, prepared, rules, signed};
use super::fixture::{Door, Person, Plan, Speaks, with_door};

const HERE: std::net::IpAddr = std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);

pub(super) fn plan() -> Plan {
    Plan { change: Some(prepared), ..Plan::default() }
}

pub(super) fn opened(dir: &Path, signers: &[&str]) -> (Challenge, Evidence, Person) {
    let rules = rules(dir, 2);
    let (key, asked) = challenge(&rules, Scope::All, SystemClock.now());
    let evidence = evidence(dir, &asked, signers);
    let person = certificate(&key, &evidence);
    (asked, evidence, person)
}

pub(super) fn closing(dir: &Path, who: &str, id: BreakGlassId, namespace: &str) -> CloseRequest {
    let closing = Closing { id, trust_domain: "doorward.localhost".to_owned(), time: SystemClock.now() };
    let text = closing.text();
    CloseRequest { signature: signed(dir, who, namespace, &text), statement: text.into_bytes(), evidence: None }
}

pub(super) async fn close(door: &Door, id: BreakGlassId, request: &CloseRequest) -> Result<(), CloseError> {
    let desk = &door.running().desk;
    breakglass::close(desk, id, request, HERE, desk.clock.now()).await.map(drop)
}

#[test]
fn a59_a_closed_opening_is_over_at_once_and_stays_so() {
    with_door(plan(), async |door| {
        let (asked, _, person) = opened(&door.dir, &["ann", "ben"]);
        let mut client = door.client("app", Some(&person), Speaks::Http2).await;
        assert_eq!(client.get("/x").await.status, 200);
        let other = door.client("app", Some(&person), Speaks::Http1).await;
        // Somebody who is no custodian, another namespace and another opening close nothing.
        let stranger = closing(&door.dir, "dot", asked.id, CLOSE_NAMESPACE);
        let refused = close(door, asked.id, &stranger).await;
        assert!(
            matches!(refused, Err(CloseError::Closing(ClosingError::Signature(SignatureFault::NotACustodian(_))))),
            "{refused:?}"
        );
        let wrong = closing(&door.dir, "cid", asked.id, SIGN_NAMESPACE);
        let refused = close(door, asked.id, &wrong).await;
        assert!(
            matches!(refused, Err(CloseError::Closing(ClosingError::Signature(SignatureFault::Namespace { .. })))),
            "{refused:?}"
        );
        let (elsewhere, ..) = opened(&door.dir, &["ann", "ben"]);
        let another = closing(&door.dir, "cid", elsewhere.id, CLOSE_NAMESPACE);
        assert!(matches!(close(door, asked.id, &another).await, Err(CloseError::OtherOpening)));
        assert_eq!(client.get("/x").await.status, 200);
        // Any one custodian closes; the next request on the open connection is refused.
        close(door, asked.id, &closing(&door.dir, "cid", asked.id, CLOSE_NAMESPACE)).await.unwrap();
        let refused = client.get("/x").await;
        assert_eq!((refused.status.as_u16(), refused.reason().as_str()), (401, "session_ended"));
        let told = refused.problem();
        assert!(told["detail"].as_str().unwrap().contains("The opening"), "{told}");
        assert_eq!(told["remedy"]["kind"], "none");
        drop(other);
        // A node that starts again has not forgotten it.
        let remembered = EmergencyState::default();
        remembered.keep_in(door.dir.join("breakglass.closed")).unwrap();
        assert!(remembered.is_closed(asked.id) && !remembered.is_closed(elsewhere.id));
    });
}

#[test]
fn a_closing_cuts_open_streams() {
    with_door(plan(), async |door| {
        let (asked, _, person) = opened(&door.dir, &["ann", "ben"]);
        let mut client = door.client("app", Some(&person), Speaks::Http1).await;
        let request = client.request(Method::GET, "/sse").body(super::fixture::full("")).unwrap();
        let mut body = client.send(request).await.unwrap().into_body();
        for _ in 0..3 {
            assert!(body.frame().await.unwrap().is_ok());
        }
        close(door, asked.id, &closing(&door.dir, "ann", asked.id, CLOSE_NAMESPACE)).await.unwrap();
        let cut = async { while let Some(Ok(_)) = body.frame().await {} };
        tokio::time::timeout(Duration::from_secs(1), cut).await.expect("a stream outlived its opening");
    });
}

#[test]
fn a59_a_drill_opens_nothing_and_is_on_record() {
    with_door(plan(), async |door| {
        let rules = rules(&door.dir, 2);
        let (key, asked) = challenge(&rules, Scope::Drill, SystemClock.now());
        let both = evidence(&door.dir, &asked, &["ann", "cid"]);
        let person = certificate(&key, &both);
        let shaken = door.connect("app", Some(&person), Speaks::Http1).await;
        if let Ok(stream) = shaken {
            drop(stream);
            let told = tokio::time::timeout(Duration::from_secs(5), async {
                door.connect("app", Some(&person), Speaks::Http1).await.map(drop)
            });
            let _ = told.await;
        }
        let desk = &door.running().desk;
        let presented = Presented { client_key: asked.client_key, evidence: both.clone() };
        let drilled = breakglass::drill(desk, &presented, HERE, desk.clock.now()).await.unwrap();
        assert!(drilled.recorded && drilled.custodians == ["ann", "cid"]);
        let recorded = async |kind| desk.store.emergency_events(kind, |_| true).await.unwrap().len();
        assert_eq!(recorded(EventType::BreakGlassDrilled).await, 1);
        assert_eq!(recorded(EventType::BreakGlassOpened).await, 0);
        // One signature is no drill, and an opening is none either.
        let one = Evidence { signatures: both.signatures[..1].to_vec(), ..both };
        let few = Presented { client_key: asked.client_key, evidence: one };
        assert!(breakglass::drill(desk, &few, HERE, desk.clock.now()).await.is_err());
        let (asked, evidence, _) = opened(&door.dir, &["ann", "ben"]);
        let open = Presented { client_key: asked.client_key, evidence };
        assert!(breakglass::drill(desk, &open, HERE, desk.clock.now()).await.is_err());
    });
}

#[test]
fn while_an_opening_waits_for_its_review_the_next_needs_one_more_where_that_is_said() {
    fn blocking(dir: &Path) {
        prepared(dir);
        let path = dir.join("doorward.toml");
        let text = std::fs::read_to_string(&path).unwrap();
        std::fs::write(&path, format!("{text}review_blocks = true\n")).unwrap();
    }
    with_door(Plan { change: Some(blocking), ..Plan::default() }, async |door| {
        let emergency = &door.running().desk.directory.emergency;
        let (first, _, person) = opened(&door.dir, &["ann", "ben"]);
        assert_eq!(door.get("app", Some(&person), Speaks::Http1, "/x").await.status, 200);
        emergency.put_unreviewed(&[BreakGlassId::from_bytes([9; 16])]);
        assert_eq!(door.get("app", Some(&person), Speaks::Http1, "/x").await.status, 200);
        emergency.put_unreviewed(&[first.id]);
        // The opening itself goes on, also where it is another one that waits; another one with two signatures is not enough now.
        assert_eq!(door.get("app", Some(&person), Speaks::Http1, "/x").await.status, 200);
        let (_, _, second) = opened(&door.dir, &["ann", "cid"]);
        let refused = door.get("app", Some(&second), Speaks::Http1, "/x").await;
        assert_eq!(refused.reason(), "bad_credential");
        let (_, _, third) = opened(&door.dir, &["ann", "ben", "cid"]);
        assert_eq!(door.get("app", Some(&third), Speaks::Http1, "/x").await.status, 200);
        emergency.reviewed(first.id);
        let (_, _, fourth) = opened(&door.dir, &["ben", "cid"]);
        assert_eq!(door.get("app", Some(&fourth), Speaks::Http1, "/x").await.status, 200);
    });
}

#[test]
fn custodians_that_were_changed_are_told_and_put_on_record() {
    with_door(plan(), async |door| {
        let desk = &door.running().desk;
        let config = door.dir.join("doorward.toml");
        let warnings = || -> Vec<String> {
            let loaded = doorward::config::load(&config, &doorward::config::Environment::default()).unwrap();
            loaded.warnings.iter().map(ToString::to_string).filter(|it| it.contains("custodians")).collect()
        };
        let recorded = async |count: usize| {
            for _ in 0..100 {
                let kind = EventType::BreakGlassCustodiansChanged;
                let found = desk.store.emergency_events(kind, |_| true).await.unwrap();
                if found.len() >= count && door.dir.join("breakglass.recorded").exists() {
                    return found;
                }
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
            panic!("it is not on record");
        };
        assert_eq!(recorded(1).await[0].body["data"]["threshold"], 2);
        assert_eq!(warnings(), Vec::<String>::new());
        // Somebody puts another key into the file.
        let file = door.dir.join("custodians");
        let text = std::fs::read_to_string(&file).unwrap();
        let dot = std::fs::read_to_string(door.dir.join("dot.pub")).unwrap();
        let without = text.lines().filter(|line| !line.starts_with("ben ")).collect::<Vec<_>>().join("\n");
        std::fs::write(&file, format!("{without}\ndot namespaces=\"{SIGN_NAMESPACE}\" {dot}")).unwrap();
        let told = warnings();
        assert!(told.iter().any(|it| it.contains("`dot SHA256:") && it.contains("`ben SHA256:")), "{told:?}");
        door.running().reload().unwrap();
        let event = &recorded(2).await[0];
        assert!(event.body["data"]["added"][0].as_str().unwrap().starts_with("dot SHA256:"), "{}", event.body);
        assert!(event.body["data"]["removed"][0].as_str().unwrap().starts_with("ben SHA256:"), "{}", event.body);
    });
}

#[test]
fn a_file_of_closings_that_was_changed_by_hand_is_not_passed_over() {
    let folder = temporary_folder();
    let path = folder.path().join("breakglass.closed");
    let id = BreakGlassId::from_bytes([7; 16]);
    let state = EmergencyState::default();
    state.keep_in(path.clone()).unwrap();
    state.close(id, &ClosedBy::Client, Timestamp::from_seconds(1_790_000_000)).unwrap();
    state.close(id, &ClosedBy::Client, Timestamp::from_seconds(1_790_000_001)).unwrap();
    let text = std::fs::read_to_string(&path).unwrap();
    assert_eq!(text.lines().count(), 1, "{text}");
    // What was being written when the machine stopped was told to nobody.
    std::fs::write(&path, format!("{text}brk_06h0")).unwrap();
    let again = EmergencyState::default();
    again.keep_in(path.clone()).unwrap();
    assert!(again.is_closed(id));
    // What comes after it is a line of its own.
    let other = BreakGlassId::from_bytes([8; 16]);
    again.close(other, &ClosedBy::Client, Timestamp::from_seconds(1_790_000_002)).unwrap();
    let third = EmergencyState::default();
    third.keep_in(path.clone()).unwrap();
    assert!(third.is_closed(id) && third.is_closed(other));
    std::fs::write(&path, format!("nonsense\n{text}")).unwrap();
    assert!(EmergencyState::default().keep_in(path).unwrap_err().to_string().contains("line 1"));
}

#[test]
fn no_number_of_closings_opens_again_what_was_closed() {
    let state = EmergencyState::default();
    let now = Timestamp::from_seconds(1_790_000_000);
    let id = |number: u16| {
        let mut bytes = [0; 16];
        bytes[14..].copy_from_slice(&number.to_be_bytes());
        BreakGlassId::from_bytes(bytes).at(now)
    };
    let [ann, ben] = ["ann", "ben"].map(|name| ClosedBy::Custodian(name.to_owned()));
    let opening = |number| KnownOpening {
        id: id(number),
        challenge: None,
        opener: "opal".to_owned(),
        scope: "all".to_owned(),
        reason: "a fire".to_owned(),
        custodians: Vec::new(),
        expires: now.plus(Ttl::minutes(30)),
    };
    state.know(opening(7));
    for number in 0..1_000 {
        assert!(state.can_close(id(number), &ann, now));
        state.close(id(number), &ann, now).unwrap();
    }
    assert!(!state.can_close(id(1_000), &ann, now));
    assert!(state.can_close(id(8), &ann, now), "what is closed may be closed again");
    assert!(state.is_closed(id(0)) && state.is_closed(id(999)));
    // Who fills their own share is in nobody's way, and closes all the same what was opened here.
    for by in [&ben, &ClosedBy::Client] {
        assert!(state.can_close(id(1_000), by, now), "{by}");
    }
    state.know(opening(2_000));
    assert!(state.can_close(id(2_000), &ann, now));
    // Nothing is open under any of them any more, and what was closed is not told to have run out.
    let later = now.plus(Ttl::hours(2));
    assert!(state.can_close(id(1_000), &ann, later));
    assert!(state.is_closed(id(7)) && !state.is_closed(id(8)));
    let over: Vec<BreakGlassId> = state.newly_over(later).into_iter().map(|it| it.id).collect();
    assert_eq!(over, [id(2_000)]);
}

#[test]
fn a_closing_that_the_disk_did_not_take_is_written_when_it_is_said_again() {
    let folder = temporary_folder();
    let path = folder.path().join("later").join("breakglass.closed");
    let (id, time) = (BreakGlassId::from_bytes([7; 16]), Timestamp::from_seconds(1_790_000_000));
    let state = EmergencyState::default();
    state.keep_in(path.clone()).unwrap();
    state.close(id, &ClosedBy::Client, time).unwrap_err();
    assert!(state.is_closed(id), "it is obeyed all the same");
    std::fs::create_dir(folder.path().join("later")).unwrap();
    state.close(id, &ClosedBy::Client, time).unwrap();
    let again = EmergencyState::default();
    again.keep_in(path).unwrap();
    assert!(again.is_closed(id));
}
