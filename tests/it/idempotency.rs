//! What is asked twice is done once; and who may bar whom.

use doorward::audit::{Actor, EventType};
use doorward::control::idempotency::{self, Key, Turn};
use doorward::control::lock;
use doorward::model::{Principal, Ttl};
use doorward::store::EventFilter;
use serde_json::{Value, json};

use crate::api_house::{Answer, Caller, House};
use crate::support::databases;

async fn keyed(house: &House, caller: &Caller, key: &str, path: &str, body: &Value) -> Answer {
    let mut caller = caller.clone();
    caller.headers.push(("idempotency-key", key.to_owned()));
    house.json(&caller, path, body).await
}

#[tokio::test]
async fn a_repeated_post_is_answered_the_same_and_done_once() {
    for url in databases() {
        let house = House::new(&url).await;
        let (carol, _, _) = house.command_line("carol").await;
        let body = json!({ "principal": "dev|alice", "reason": "a test" });
        let first = keyed(&house, &carol, "k1", "/api/v1/locks", &body).await;
        assert_eq!(first.status, 200, "{first:?}");
        let again = keyed(&house, &carol, "k1", "/api/v1/locks", &body).await;
        assert_eq!((again.status.as_u16(), &again.body), (200, &first.body));
        assert_eq!((first.header("idempotency-replayed"), again.header("idempotency-replayed")), ("", "true"));
        assert_ne!(first.header("doorward-decision"), again.header("doorward-decision"));
        let without = house.json(&carol, "/api/v1/locks", &body).await;
        assert_eq!((without.status.as_u16(), without.text("/reason")), (409, "already_locked"));

        let other = json!({ "principal": "dev|bob", "reason": "a test" });
        let reused = keyed(&house, &carol, "k1", "/api/v1/locks", &other).await;
        assert_eq!((reused.status.as_u16(), reused.text("/reason")), (422, "idempotency_key_reused"));
        // The same key at another route is another.
        assert_eq!(keyed(&house, &carol, "k1", "/api/v1/locks/clear", &body).await.status, 200);
        // A refusal is judged anew: what was refused before may be done now.
        let set = keyed(&house, &carol, "k2", "/api/v1/locks/clear", &body).await;
        assert_eq!((set.status.as_u16(), set.text("/reason")), (409, "not_locked"));
        assert_eq!(keyed(&house, &carol, "k3", "/api/v1/locks", &body).await.status, 200);
        assert_eq!(keyed(&house, &carol, "k2", "/api/v1/locks/clear", &body).await.status, 200);

        // After a day it is forgotten.
        house.clock.advance(Ttl::hours(25));
        assert_eq!(doorward::control::idempotency::sweep(&house.desk, house.now()).await.unwrap(), 4);
    }
}

#[tokio::test]
async fn a_key_belongs_to_its_principal_and_must_be_one() {
    let house = House::new(&databases()[0]).await;
    let (carol, _, _) = house.command_line("carol").await;
    let (alice, _, _) = house.command_line("alice").await;
    let body = json!({ "principal": "dev|dave", "reason": "a test" });
    assert_eq!(keyed(&house, &carol, "k", "/api/v1/locks", &body).await.status, 200);
    assert_eq!(keyed(&house, &alice, "k", "/api/v1/locks", &body).await.status, 403, "not carol's answer");
    let nobody = Caller::default();
    assert_eq!(keyed(&house, &nobody, "k", "/api/v1/locks", &body).await.status, 401);
    // Where nobody need be somebody, a key counts for nobody and is in nobody's way.
    for path in ["check", "drills", "brk_06h01rs2cto0b2afh7rgi8mlb0/close"] {
        let path = format!("/api/v1/breakglass/{path}");
        let (with, without) =
            (keyed(&house, &nobody, "k", &path, &body).await, house.json(&nobody, &path, &body).await);
        assert_eq!((with.status, without.status.as_u16()), (without.status, 400), "{path}: {with:?}");
    }
    for key in ["", "ü", &"x".repeat(256)] {
        assert_eq!(keyed(&house, &carol, key, "/api/v1/locks", &body).await.status, 400, "{key}");
    }
    let mut twice = carol.clone();
    twice.headers.push(("idempotency-key", "a".to_owned()));
    let twice = keyed(&house, &twice, "b", "/api/v1/locks", &body).await;
    assert_eq!(twice.status, 400);
    let long = json!({ "principal": "dev|dave", "reason": "x".repeat(70_000) });
    assert_eq!(keyed(&house, &carol, "long", "/api/v1/locks", &long).await.status, 413);
}

#[tokio::test]
async fn of_fifty_at_once_with_one_key_one_is_done() {
    for url in databases() {
        let house = House::new(&url).await;
        let (carol, _, _) = house.command_line("carol").await;
        let body = json!({ "principal": "dev|alice", "reason": "a test" });
        let all = (0..50).map(|_| keyed(&house, &carol, "k", "/api/v1/locks", &body));
        let answers = futures_join(all).await;
        let fresh = answers.iter().filter(|a| a.status == 200 && a.header("idempotency-replayed").is_empty()).count();
        assert_eq!(fresh, 1);
        for answer in &answers {
            let same = answer.status == 200 || answer.text("/reason") == "in_progress";
            assert!(same, "{answer:?}");
        }
    }
}

pub async fn futures_join<F: Future<Output = Answer>>(all: impl Iterator<Item = F>) -> Vec<Answer> {
    let mut all: Vec<_> = all.map(Box::pin).collect();
    let mut done = Vec::new();
    std::future::poll_fn(move |context| {
        all.retain_mut(|one| match one.as_mut().poll(context) {
            std::task::Poll::Ready(answer) => {
                done.push(answer);
                false
            }
            std::task::Poll::Pending => true,
        });
        if all.is_empty() { std::task::Poll::Ready(std::mem::take(&mut done)) } else { std::task::Poll::Pending }
    })
    .await
}

#[tokio::test]
async fn a_locked_person_is_refused_at_once_until_it_is_lifted() {
    for url in databases() {
        let house = House::new(&url).await;
        let (carol, _, _) = house.command_line("carol").await;
        let (alice, _, _) = house.command_line("alice").await;
        assert_eq!(house.get(&alice, "/api/v1/whoami").await.status, 200);
        // By the name that her provider told, which she alone has.
        let body = json!({ "principal": "ALICE@example.com", "reason": "laptop lost" });
        let set = house.json(&carol, "/api/v1/locks", &body).await;
        assert_eq!((set.status.as_u16(), set.text("/principal/id")), (200, "dev|alice"), "{set:?}");
        let refused = house.get(&alice, "/api/v1/whoami").await;
        assert_eq!((refused.status.as_u16(), refused.text("/reason")), (403, "locked"));
        let listed = house.get(&carol, "/api/v1/locks").await;
        assert_eq!(listed.body["items"][0]["reason"], "laptop lost");
        let (bob, _, _) = house.command_line("bob").await;
        assert_eq!(house.get(&bob, "/api/v1/locks").await.body["items"], json!([]), "who is barred is not for all");
        let cleared =
            house.json(&carol, "/api/v1/locks/clear", &json!({ "principal": "alice", "reason": "found" })).await;
        assert_eq!((cleared.status.as_u16(), &cleared.body["active"]), (200, &json!(false)));
        assert_eq!(house.get(&alice, "/api/v1/whoami").await.status, 200);
        for (body, status) in [
            (json!({ "principal": "", "reason": "x" }), 404),
            (json!({ "principal": "dev|alice", "reason": " " }), 400),
            (json!({ "principal": "dev|alice", "reason": "x".repeat(1001) }), 400),
            (json!({ "principal": "dev|alice" }), 400),
            (json!({ "principal": "dev|alice", "reason": "x", "id": "lck_1" }), 400),
        ] {
            assert_eq!(house.json(&carol, "/api/v1/locks", &body).await.status.as_u16(), status, "{body}");
        }
    }
}

#[tokio::test]
async fn a_lock_on_somebody_who_was_never_here_says_so_and_one_on_no_provider_is_refused() {
    for url in databases() {
        let house = House::new(&url).await;
        let (carol, _, _) = house.command_line("carol").await;
        house.command_line("bob").await;
        let ask = async |path: &str, whom: &str| {
            house.json(&carol, path, &json!({ "principal": whom, "reason": "laptop lost" })).await
        };
        let near = json!("User::\"dev|bob\"");
        for (whom, known, near) in [
            ("dev|bobb", false, &near),
            ("dev|bob@example.com", false, &near),
            ("dev|somebody-else", false, &Value::Null),
            ("dev|bob", true, &Value::Null),
        ] {
            let set = ask("/api/v1/locks", whom).await;
            assert_eq!((set.status.as_u16(), &set.body["known"]), (200, &json!(known)), "{set:?}");
            assert_eq!(&set.body["near"], near, "{set:?}");
        }
        for whom in ["DEV|bob", "User::\"corp|bob\"", "Workload::\"ci|main\""] {
            let refused = ask("/api/v1/locks", whom).await;
            assert_eq!(refused.status, 400, "{refused:?}");
            assert!(refused.text("/detail").contains("no provider or issuer"), "{refused:?}");
        }
        for whom in ["User::\"dev\"", "BreakGlass::\"bob\""] {
            assert_eq!(ask("/api/v1/locks", whom).await.status, 404, "{whom}");
        }
        // A bar that outlived its provider can be lifted.
        let (desk, gone) = (&house.desk, Principal::user("corp", "bob").unwrap());
        let by = Actor::default();
        lock::set(&desk.store, by, &gone, "a test", house.now(), &*desk.entropy).await.unwrap();
        assert_eq!(ask("/api/v1/locks/clear", "corp|bob").await.status, 200);
        assert_eq!(ask("/api/v1/locks/clear", "corp|bob").await.status, 400);
    }
}

/// A key of carol's at `/api/v1/locks`, as the API makes it.
fn key_of(body: &Value) -> Key {
    let carol = Principal::user("dev", "carol").unwrap();
    Key::of(&carol, "/api/v1/locks", "k", body.to_string().as_bytes())
}

/// How often somebody was locked, as the record has it.
async fn locked(house: &House) -> usize {
    let filter = EventFilter { kind: Some(EventType::LockSet), ..EventFilter::default() };
    house.desk.store.event_list(&filter, 100).await.unwrap().len()
}

#[tokio::test]
async fn what_was_done_and_not_answered_is_not_done_a_second_time() {
    for url in databases() {
        let house = House::new(&url).await;
        let (carol, _, _) = house.command_line("carol").await;
        let body = json!({ "principal": "dev|alice", "reason": "a test" });
        // As the API does it, until its answer would be kept: there the node dies, or it fails.
        let Turn::First(taken) = idempotency::take(&house.desk, key_of(&body), house.now()).await.unwrap() else {
            panic!("the key is free")
        };
        let locking = house.json(&carol, "/api/v1/locks", &body);
        assert_eq!(taken.within(locking).await.status, 200);
        let again = keyed(&house, &carol, "k", "/api/v1/locks", &body).await;
        assert_eq!((again.status.as_u16(), again.text("/reason")), (409, "already_done"), "{again:?}");
        // What failed gives its key back only where nothing was done.
        idempotency::release_undone(&house.desk, taken).await.unwrap();
        let again = keyed(&house, &carol, "k", "/api/v1/locks", &body).await;
        assert_eq!(again.text("/reason"), "already_done");
        house.clock.advance(Ttl::minutes(30));
        let again = keyed(&house, &carol, "k", "/api/v1/locks", &body).await;
        assert_eq!(again.text("/reason"), "already_done");
        assert_eq!(locked(&house).await, 1);
    }
}

#[tokio::test]
async fn what_was_begun_and_not_done_can_be_begun_again_and_its_first_try_is_too_late() {
    for url in databases() {
        let house = House::new(&url).await;
        let (carol, _, _) = house.command_line("carol").await;
        let body = json!({ "principal": "dev|alice", "reason": "a test" });
        let Turn::First(slow) = idempotency::take(&house.desk, key_of(&body), house.now()).await.unwrap() else {
            panic!("the key is free")
        };
        house.clock.advance(Ttl::minutes(1));
        let early = keyed(&house, &carol, "k", "/api/v1/locks", &body).await;
        assert_eq!((early.status.as_u16(), early.text("/reason")), (409, "in_progress"));
        house.clock.advance(Ttl::minutes(1));
        let other = json!({ "principal": "dev|bob", "reason": "a test" });
        assert_eq!(keyed(&house, &carol, "k", "/api/v1/locks", &other).await.status, 422, "for the same alone");
        let done = keyed(&house, &carol, "k", "/api/v1/locks", &body).await;
        assert_eq!(done.status, 200, "{done:?}");
        // The first comes to its commit after all: its key is another's, so nothing of it is kept.
        let unlocking = json!({ "principal": "dev|alice", "reason": "too late" });
        let late = slow.within(house.json(&carol, "/api/v1/locks/clear", &unlocking)).await;
        assert_eq!(late.status, 503, "{late:?}");
        assert_eq!(house.json(&carol, "/api/v1/locks", &body).await.text("/reason"), "already_locked");
        // A failure that did nothing gives its key back, and the first's is not there to be given.
        idempotency::release_undone(&house.desk, slow).await.unwrap();
        let again = keyed(&house, &carol, "k", "/api/v1/locks", &body).await;
        assert_eq!((again.status.as_u16(), again.header("idempotency-replayed")), (200, "true"));
        assert_eq!(locked(&house).await, 1);
    }
}

#[tokio::test]
async fn a_caller_who_leaves_before_the_answer_does_nothing_twice() {
    for url in databases() {
        let house = House::new(&url).await;
        let (carol, _, _) = house.command_line("carol").await;
        let body = json!({ "principal": "dev|alice", "reason": "a test" });
        // Each waits longer than the one before, on a slow machine too, and all of them within a session.
        for tried in 0..100 {
            let mut asking = Box::pin(keyed(&house, &carol, "k", "/api/v1/locks", &body));
            for _ in 0..tried + tried * tried / 8 {
                if tokio::time::timeout(std::time::Duration::from_micros(50), &mut asking).await.is_ok() {
                    break;
                }
            }
            drop(asking);
            if locked(&house).await > 0 {
                break;
            }
            house.clock.advance(Ttl::minutes(3));
        }
        let again = keyed(&house, &carol, "k", "/api/v1/locks", &body).await;
        let replayed = again.status == 200 && again.header("idempotency-replayed") == "true";
        assert!(replayed || ["already_done", "in_progress"].contains(&again.text("/reason")), "{again:?}");
        assert_eq!(locked(&house).await, 1);
    }
}
