//! Membership at the door: what an active grant permits, and that it ends with it; a28, a56.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};

use doorward::identity::directory::Directory;
use doorward::model::{
    Clock, EntitlementName, Entropy, Grant, GrantEnd, GrantId, GrantState, OpenedAction, Person as Holder, Principal,
    RequestId, SessionId, Timestamp, Ttl,
};
use doorward::server::ambient::SystemEntropy;
use futures_util::{SinkExt, StreamExt};
use http::Method;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use tokio_tungstenite::tungstenite::Message;

use super::fixture::{Door, Http, Person, Plan, Speaks, full, host, with_door};

pub const POLICY: &str = r#"
permit (principal in Entitlement::"app/open", action == Action::"open", resource);
permit (principal is User, action == Action::"request", resource == Entitlement::"app/open");
permit (principal in Group::"engineering", action == Action::"approve", resource == Entitlement::"app/open");
"#;

pub fn plan() -> Plan {
    let change = |dir: &Path| {
        let folder = dir.join("policies/app");
        std::fs::write(folder.join("access.cedar"), POLICY).unwrap();
        let path = folder.join("service.toml");
        let text = std::fs::read_to_string(&path).unwrap();
        let table = "[entitlement.open]\ndescription = \"Open\"\nmin = \"1s\"\nactions = [\"open\"]\n";
        std::fs::write(path, format!("{text}\n{table}")).unwrap();
    };
    Plan { change: Some(change), ..Plan::default() }
}

pub(super) fn grant(person: &Person, from: Timestamp, until: Timestamp) -> Grant {
    let entropy: &dyn Entropy = &SystemEntropy;
    Grant {
        id: GrantId::fresh(from, entropy),
        request: RequestId::fresh(from, entropy),
        entitlement: EntitlementName::parse("app/open").unwrap(),
        holder: Holder { principal: person.principal.clone(), email: None, email_verified: false, name: None },
        params: BTreeMap::new(),
        actions: vec![OpenedAction::parse("open").unwrap()],
        emergency: false,
        reviews: 0,
        created_at: from,
        starts_at: from,
        length: until.since(from),
        state: GrantState::Active { from, until },
        end_reason: None,
        idle: None,
        used_at: None,
    }
}

async fn events(door: &Door, person: &Person) -> (Http, Incoming) {
    let mut client = door.client("app", Some(person), Speaks::Http2).await;
    let request = client.request(Method::GET, "/sse").body(full("")).unwrap();
    let response = client.send(request).await.unwrap();
    assert_eq!(response.status(), 200);
    let mut body = response.into_body();
    assert!(body.frame().await.unwrap().is_ok());
    (client, body)
}

/// Reads until the stream is cut, and says when that was.
pub async fn cut(body: &mut Incoming) -> Instant {
    let read = async { while let Some(Ok(_)) = body.frame().await {} };
    tokio::time::timeout(Duration::from_secs(10), read).await.expect("a stream outlived its grant");
    Instant::now()
}

#[test]
fn a_grant_that_wants_a_fresh_sign_in_to_be_asked_for_counts_if_it_was_fresh_when_it_began() {
    // A moved clock leaves the feed of revocations behind for a moment: not what is tried here.
    let plan = Plan { lines: "on_stale = \"continue\"".to_owned(), ..plan() };
    with_door(plan, async |door| {
        let asks = "action == Action::\"request\", resource == Entitlement::\"app/open\")";
        let fresh = format!("{asks} when {{ context has session && context.session.auth_age_seconds < 60 }}");
        door.write("app/access.cedar", &POLICY.replace(asks, &fresh));
        door.running().reload().unwrap();
        let directory = &door.running().shared.directory;
        let dave = door.sign_in("dave").await;
        let began = door.clock.now();
        let held = grant(&dave, began, began.plus(Ttl::hours(1)));
        directory.grant_enter(&held);
        assert_eq!(door.get("app", Some(&dave), Speaks::Http2, "/x").await.status, 200);
        door.clock.advance(Ttl::seconds(90));
        assert_eq!(door.get("app", Some(&dave), Speaks::Http2, "/x").await.status, 200, "it has begun by then");
        let again = door.sign_in("dave").await;
        assert_eq!(door.get("app", Some(&again), Speaks::Http2, "/x").await.status, 200);
        // One that began when the sign-in was older could not have been asked for.
        directory.grant_leave(&dave.principal, held.id);
        let now = door.clock.now();
        directory.grant_enter(&grant(&dave, now, now.plus(Ttl::hours(1))));
        assert_eq!(door.get("app", Some(&again), Speaks::Http2, "/x").await.status, 200);
        assert_eq!(door.get("app", Some(&dave), Speaks::Http2, "/x").await.status, 403);
    });
}

#[test]
fn what_is_forbidden_unless_an_entitlement_is_held_says_so_and_opens_with_it() {
    with_door(plan(), async |door| {
        let forbid = "permit (principal is User, action == Action::\"open\", resource);\n\
                      forbid (principal, action == Action::\"open\", resource)\n\
                      unless { principal in Entitlement::\"app/open\" };\n";
        door.write("app/access.cedar", &format!("{POLICY}{forbid}"));
        door.running().reload().unwrap();
        let dave = door.sign_in("dave").await;
        let refused = door.get("app", Some(&dave), Speaks::Http2, "/x").await;
        assert_eq!((refused.status.as_u16(), refused.reason().as_str()), (403, "forbidden_by_policy"));
        let problem = refused.problem();
        assert_eq!(
            (&problem["remedy"]["kind"], &problem["remedy"]["entitlement"]),
            (&"request_access".into(), &"app/open".into())
        );
        assert!(problem["detail"].as_str().unwrap().contains("while you hold `app/open`"), "{problem}");
        let now = door.clock.now();
        door.running().shared.directory.grant_enter(&grant(&dave, now, now.plus(Ttl::hours(1))));
        assert_eq!(door.get("app", Some(&dave), Speaks::Http2, "/x").await.status, 200);
    });
}

#[test]
fn a52_what_another_service_opens_since_is_not_opened_by_a_grant_and_what_it_forbids_to_holders_is() {
    with_door(plan(), async |door| {
        let dave = door.sign_in("dave").await;
        let directory = &door.running().shared.directory;
        let now = door.clock.now();
        let approved = |actions: &[&str]| Grant {
            actions: actions.iter().map(|action| OpenedAction::parse(action).unwrap()).collect(),
            ..grant(&dave, now, now.plus(Ttl::hours(1)))
        };
        let asked = async |service: &str, path: &str| {
            let got = door.get(service, Some(&dave), Speaks::Http2, path).await;
            (got.status.as_u16(), if got.status == 200 { String::new() } else { got.reason() })
        };
        let is = |status: u16, reason: &str| (status, reason.to_owned());
        let put = |service: &str, text: &str| {
            door.write(&format!("{service}/access.cedar"), text);
            door.running().reload().unwrap();
        };
        let before = approved(&["open"]);
        directory.grant_enter(&before);
        put(
            "web",
            "permit (principal in Entitlement::\"app/open\", action == Action::\"open\", resource is Service);\n",
        );
        assert_eq!(asked("app", "/x").await, is(200, ""));
        assert_eq!(asked("web", "/x").await, is(403, "no_policy_match"), "nobody approved `web/open`");
        directory.grant_enter(&approved(&["open", "web/open"]));
        assert_eq!(asked("web", "/x").await, is(200, ""));
        assert_eq!(asked("web", "/admin/x").await, is(403, "no_policy_match"));

        // Held for one thing, it bars from another, wherever that is.
        let people =
            |action: &str| format!("permit (principal is User, action == Action::\"{action}\", resource is Service)");
        let holders = |action: &str| {
            format!("forbid (principal in Entitlement::\"app/open\", action == Action::\"{action}\", resource);")
        };
        put("web", &format!("{};\n{}\n", people("open"), holders("open")));
        assert_eq!(asked("web", "/x").await, is(403, "forbidden_by_policy"));
        put("web", &format!("{} unless {{ principal in Entitlement::\"app/open\" }};\n", people("open")));
        assert_eq!(asked("web", "/x").await, is(403, "no_policy_match"));
        put("app", &format!("{POLICY}{};\n{}\n", people("manage"), holders("manage")));
        assert_eq!(asked("app", "/admin/x").await, is(403, "forbidden_by_policy"));
    });
}

#[test]
fn a56_a_grant_opens_on_the_same_connection_and_ends_to_the_moment_with_its_streams() {
    with_door(plan(), async |door| {
        let dave = door.sign_in("dave").await;
        let directory = &door.running().shared.directory;
        let mut client = door.client("app", Some(&dave), Speaks::Http2).await;
        let refused = client.get("/x").await;
        assert_eq!((refused.status.as_u16(), refused.reason().as_str()), (403, "no_policy_match"));
        assert_eq!(refused.problem()["remedy"]["entitlement"], "app/open");

        let now = door.clock.now();
        let mut held = grant(&dave, now, now.plus(Ttl::millis(2500)));
        directory.grant_enter(&held);
        let allowed = client.get("/x").await;
        assert_eq!(allowed.status, 200);
        assert_eq!(door.recorded(allowed.decision()).await.clear().grant, Some(held.id));
        // What was not approved is not opened, whatever the policies say of the entitlement.
        assert_eq!(client.get("/admin/x").await.status, 403);

        let (_kept, mut body) = events(door, &dave).await;
        let stream = door.connect("app", Some(&dave), Speaks::Http1).await.unwrap();
        let url = format!("wss://{}:{}/ws", host("app"), door.address.port());
        let (mut socket, _) = tokio_tungstenite::client_async(url, stream).await.unwrap();
        // An extension moves the end of what is open, and interrupts nothing.
        let until = now.plus(Ttl::millis(4000));
        held.state = GrantState::Active { from: now, until };
        directory.grant_enter(&held);
        tokio::time::sleep(now.plus(Ttl::millis(3000)).since(door.clock.now()).duration()).await;
        assert_eq!(client.get("/x").await.status, 200);
        socket.send(Message::text("still here")).await.unwrap();
        assert_eq!(socket.next().await.unwrap().unwrap(), Message::text("still here"));

        let end = Instant::now() + until.since(door.clock.now()).duration();
        let closed = async { while let Some(Ok(_)) = socket.next().await {} };
        let (ended, ()) = tokio::join!(cut(&mut body), closed);
        let late = ended.saturating_duration_since(end);
        assert!(late < Duration::from_secs(1), "cut {late:?} after the end");
        assert!(until.is_over(door.clock.now()), "cut before its end");
        let over = client.get("/x").await;
        assert_eq!((over.status.as_u16(), over.reason().as_str()), (403, "no_policy_match"));
    });
}

#[test]
fn a28_a_grant_that_is_ended_cuts_its_streams_at_once_and_never_lives_again() {
    with_door(plan(), async |door| {
        let dave = door.sign_in("dave").await;
        let directory = &door.running().shared.directory;
        let now = door.clock.now();
        let (first, second) =
            (grant(&dave, now, now.plus(Ttl::minutes(10))), grant(&dave, now, now.plus(Ttl::minutes(5))));
        directory.grant_enter(&first);
        directory.grant_enter(&second);
        let mut client = door.client("app", Some(&dave), Speaks::Http2).await;
        assert_eq!(client.get("/x").await.status, 200);
        let (_kept, mut body) = events(door, &dave).await;
        // Grants add up: the end of one cuts nothing that another permits.
        directory.grant_leave(&dave.principal, first.id);
        for _ in 0..3 {
            assert!(body.frame().await.unwrap().is_ok());
        }
        assert_eq!(client.get("/x").await.status, 200);
        let revoked = Instant::now();
        let over = GrantState::Over { from: Some(now), until: Some(now), end: GrantEnd::Revoked, at: now };
        directory.grant_enter(&Grant { state: over, ..second.clone() });
        let ended = cut(&mut body).await;
        assert!(ended.duration_since(revoked) < Duration::from_secs(1), "{:?}", ended.duration_since(revoked));
        assert_eq!(client.get("/x").await.status, 403);
        // An older view of it that arrives late changes nothing.
        directory.grant_enter(&second);
        directory.grant_enter(&first);
        assert_eq!(client.get("/x").await.status, 403);
    });
}

/// A clock that ran ahead is put right and the node begins again: what was granted before ends so much
/// earlier, and what is granted from now on lasts as long as it says (`clock_right_since`).
#[test]
fn f7_a_grant_of_after_a_clock_was_put_right_is_not_shortened() {
    let person = Person {
        key_pem: String::new(),
        certificate_pem: String::new(),
        session: SessionId::from_bytes([7; 16]),
        principal: Principal::user("dev", "dave").unwrap(),
    };
    let now = Timestamp::from_seconds(1_795_341_600);
    let directory = Directory::default();
    directory.began_behind(now.plus(Ttl::minutes(11)), now);
    // Half an hour, given one minute before its end by the clock that was ahead.
    let before = grant(&person, now.plus(Ttl::minutes(10)), now.plus(Ttl::minutes(40)));
    directory.grant_enter(&before);
    directory.confirm(now);
    let later = now.plus(Ttl::seconds(5));
    let after = grant(&person, later, later.plus(Ttl::minutes(2)));
    directory.grant_enter(&after);
    let end = |id| directory.grant(&person.principal, id).unwrap().expires_at;
    assert_eq!(end(before.id), now.plus(Ttl::minutes(29)));
    assert_eq!(end(after.id), later.plus(Ttl::minutes(2)));
    // Told of again, also once the time has come at which the first one says that it began.
    directory.confirm(now.plus(Ttl::minutes(12)));
    directory.grant_enter(&before);
    assert_eq!(end(before.id), now.plus(Ttl::minutes(29)));
}

#[test]
fn a28_a_request_that_is_cut_under_way_is_told_what_ended() {
    with_door(plan(), async |door| {
        door.raw.reply("/stall", super::upstream::Reply::Stall);
        let directory = &door.running().shared.directory;
        for (what, told) in
            [("grant", (403, "no_policy_match")), ("lock", (403, "locked")), ("session", (401, "session_ended"))]
        {
            let dave = door.sign_in("dave").await;
            let now = door.running().desk.clock.now();
            let held = grant(&dave, now, now.plus(Ttl::minutes(10)));
            directory.grant_enter(&held);
            let mut client = door.client("app", Some(&dave), Speaks::Http2).await;
            let before = door.raw.count();
            let ending = async {
                while door.raw.count() == before {
                    tokio::time::sleep(Duration::from_millis(10)).await;
                }
                match what {
                    "grant" => directory.grant_leave(&dave.principal, held.id),
                    "lock" => directory.lock(&dave.principal),
                    _ => door.revoke(&dave).await,
                }
            };
            let (got, ()) = tokio::join!(client.get("/stall"), ending);
            assert_eq!((got.status.as_u16(), got.reason().as_str()), told, "{what}");
            directory.unlock(&dave.principal);
            directory.grant_leave(&dave.principal, held.id);
        }
    });
}
