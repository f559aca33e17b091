//! Just-in-time access on the command line: what is sent, what is printed, and how it ends.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use doorward::cli::access_args::{
    ApproveArgs, DenyArgs, DropArgs, ExtendArgs, GrantsArgs, LockArgs, RequestArgs, RequestsArgs, RevokeArgs, ShowArgs,
    WithdrawArgs,
};
use doorward::cli::args::Format;
use doorward::cli::exit::Exit;
use doorward::cli::printer::Printer;
use doorward::cli::{approval, grants, lock, request, requests};
use doorward::model::{EntitlementName, Ttl};
use serde_json::{Value, json};

use super::fake_door::{FakeDoor, Reply, Seen, json_reply, present};
use super::renewal::sign_in;
use super::{Person, Written};

pub const FIRST: &str = "req_06h01rs2cto0b2afh7rgi8mlb0";
const SECOND: &str = "req_06h01rs2cto0b2afh7rgi8mlb1";
pub const GRANT: &str = "grt_06h01rs2cto0b2afh7rgi8mlb2";

pub fn request_json(id: &str, state: &str) -> Value {
    let now = present();
    json!({
        "id": id, "state": state, "entitlement": "ops-api/deploy-prod",
        "principal": {"kind": "User", "id": "dev|alice", "name": "Alice", "email": "alice@example.com"},
        "reason": "hotfix", "ticket": "OPS-1", "params": {}, "for": "30m", "start": null, "emergency": false,
        "extends": null, "created_at": now.to_string(), "answer_by": now.plus(Ttl::hours(24)).to_string(),
        "approvals_needed": 1, "approvals": [], "hash": "sha256:abc", "actions": ["deploy"], "grant": null,
        "expires_at": null, "added_later": true,
    })
}

pub fn grant_json(state: &str) -> Value {
    let now = present();
    json!({
        "id": GRANT, "request": FIRST, "entitlement": "ops-api/deploy-prod",
        "principal": {"kind": "User", "id": "dev|alice", "name": "Alice", "email": "alice@example.com"},
        "state": state, "params": {}, "actions": ["deploy"], "emergency": false, "created_at": now.to_string(),
        "starts_at": null, "active_at": now.to_string(), "expires_at": now.plus(Ttl::minutes(30)).to_string(),
        "ended_at": null, "end_reason": null, "reviewed": false,
    })
}

pub fn page(items: &[Value]) -> Reply {
    json_reply(200, &json!({ "items": items, "next": null }))
}

/// A door with two requests and a grant, that takes every operation on them.
fn answer(seen: &Seen) -> Reply {
    let post = seen.method == http::Method::POST;
    match seen.path.as_str() {
        "/api/v1/requests" if post => json_reply(200, &request_json(FIRST, "pending")),
        "/api/v1/requests" => page(&[request_json(FIRST, "pending"), request_json(SECOND, "denied")]),
        "/api/v1/grants" => page(&[grant_json("active")]),
        "/api/v1/sessions" => page(&[]),
        path if path == format!("/api/v1/requests/{FIRST}") => json_reply(200, &request_json(FIRST, "pending")),
        path if path == format!("/api/v1/requests/{FIRST}/approvals") => {
            json_reply(200, &request_json(FIRST, "active"))
        }
        path if path == format!("/api/v1/requests/{FIRST}/withdraw") => {
            json_reply(200, &request_json(FIRST, "withdrawn"))
        }
        path if path == format!("/api/v1/grants/{GRANT}/extend") => json_reply(200, &request_json(SECOND, "pending")),
        path if path.starts_with(&format!("/api/v1/grants/{GRANT}")) => json_reply(200, &grant_json("active")),
        "/api/v1/locks" | "/api/v1/locks/clear" => {
            let alice = json!({"kind": "User", "id": "dev|alice", "name": null, "email": null});
            let set = seen.path == "/api/v1/locks";
            let at = present().to_string();
            json_reply(200, &json!({"id": "lck_1", "principal": alice, "reason": "x", "set_at": at, "active": set}))
        }
        _ => json_reply(404, &json!({"type": "t", "title": "Not found", "status": 404, "reason": "not_found"})),
    }
}

async fn scene(format: Format) -> (FakeDoor, Person) {
    let door = FakeDoor::open(answer).await;
    let person = Person::with(&door, format);
    sign_in(&person, &door, Ttl::hours(1), "one");
    (door, person)
}

fn asking() -> RequestArgs {
    RequestArgs {
        entitlement: EntitlementName::parse("ops-api/deploy-prod").unwrap(),
        reason: Some("hotfix".to_owned()),
        length: Some(Ttl::minutes(30)),
        ticket: Some("OPS-1".to_owned()),
        start: None,
        params: vec![("env".to_owned(), "prod".to_owned())],
        emergency: false,
        dry_run: false,
        wait: false,
        timeout: None,
    }
}

#[tokio::test]
async fn a_request_is_sent_once_under_a_key_and_printed_as_it_came() {
    let (door, person) = scene(Format::Json).await;
    request::run(&person.context, &asking()).await.unwrap();
    let sent = door.seen().pop().unwrap();
    let body: Value = serde_json::from_str(&sent.body).unwrap();
    let expected = json!({
        "entitlement": "ops-api/deploy-prod", "reason": "hotfix", "ticket": "OPS-1", "for": "30m",
        "params": {"env": "prod"},
    });
    assert_eq!(body, expected, "nothing is said that was not");
    assert!(sent.header("idempotency-key").is_some_and(|key| key.len() == 64));
    let printed: Value = serde_json::from_str(&person.out.text()).unwrap();
    assert_eq!((&printed["id"], &printed["added_later"]), (&json!(FIRST), &json!(true)));

    let mut twice = asking();
    twice.params.push(("env".to_owned(), "staging".to_owned()));
    assert_eq!(request::run(&person.context, &twice).await.unwrap_err().exit, Exit::Usage);
}

#[tokio::test]
async fn waiting_ends_as_the_request_does() {
    for (state, exit) in [
        ("active", None),
        ("scheduled", None),
        ("denied", Some(Exit::Denied)),
        ("timed_out", Some(Exit::Failed)),
        ("withdrawn", Some(Exit::Failed)),
    ] {
        let looks = AtomicUsize::new(0);
        let door = FakeDoor::open(move |seen| {
            if seen.method == http::Method::POST || looks.fetch_add(1, Ordering::SeqCst) == 0 {
                return json_reply(
                    if seen.method == http::Method::POST { 201 } else { 200 },
                    &request_json(FIRST, "pending"),
                );
            }
            json_reply(200, &request_json(FIRST, state))
        })
        .await;
        let person = Person::with(&door, Format::Json);
        sign_in(&person, &door, Ttl::hours(1), "one");
        let ended = request::run(&person.context, &RequestArgs { wait: true, ..asking() }).await;
        assert_eq!(ended.err().map(|failure| failure.exit), exit, "{state}");
        let printed: Value = serde_json::from_str(&person.out.text()).unwrap();
        assert_eq!(printed["state"], state, "what it came to is printed either way");
    }
}

#[tokio::test]
async fn a_wait_that_runs_out_ends_with_five() {
    let (_door, person) = scene(Format::Table).await;
    let args = RequestArgs { wait: true, timeout: Some(Ttl::millis(1200)), ..asking() };
    let failure = request::run(&person.context, &args).await.unwrap_err();
    assert_eq!(failure.exit, Exit::Pending);
    assert!(person.out.text().contains(FIRST));
}

#[tokio::test]
async fn a_wait_says_at_its_beginning_what_is_to_be_approved_on_a_terminal_or_not() {
    for format in [Format::Table, Format::Json] {
        let person = Arc::new(Mutex::new(Written::default()));
        let (talk, looked) = (Arc::clone(&person), Arc::new(Mutex::new(Vec::new())));
        let seen = Arc::clone(&looked);
        let door = FakeDoor::open(move |asked| {
            if asked.method == http::Method::GET {
                seen.lock().unwrap().push(talk.lock().unwrap().text());
            }
            json_reply(200, &request_json(FIRST, if asked.method == http::Method::GET { "active" } else { "pending" }))
        })
        .await;
        let alice = Person::with(&door, format);
        *person.lock().unwrap() = alice.talk.clone();
        sign_in(&alice, &door, Ttl::hours(1), "one");
        request::run(&alice.context, &RequestArgs { wait: true, ..asking() }).await.unwrap();
        let talks = format!("Waiting up to 10m for an answer to {FIRST}: doorward approve {FIRST}\n");
        // Scripts that read JSON read errors there.
        let expected = if format == Format::Json { String::new() } else { talks };
        assert_eq!(looked.lock().unwrap().concat(), expected, "before it is looked at for the first time");
        assert_eq!(alice.talk.text(), expected);
    }
}

#[tokio::test]
async fn what_an_emergency_would_take_is_no_approval_and_a_review_afterwards() {
    let carol = json!({"kind": "User", "id": "dev|carol", "name": "Carol", "email": null});
    let plan = move |needed: u32| {
        json!({
            "entitlement": "ops-api/deploy-prod", "for": "30m", "start": null, "approvals_needed": needed,
            "approvers": [carol], "actions": ["deploy"], "idle": null, "earliest_start": null, "break": null,
        })
    };
    let door = FakeDoor::open(move |seen| json_reply(200, &plan(u32::from(!seen.body.contains("emergency"))))).await;
    let lines = async |emergency: bool| {
        let person = Person::at(&door);
        sign_in(&person, &door, Ttl::hours(1), "one");
        request::run(&person.context, &RequestArgs { emergency, dry_run: true, ..asking() }).await.unwrap();
        assert_eq!(person.talk.text(), "Nothing was asked for.\n");
        let text = person.out.text();
        text.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect::<Vec<_>>()
    };
    for (emergency, expected) in [
        (true, ["approvals skipped in an emergency; two people review it afterwards", "passed over Carol (dev|carol)"]),
        (false, ["approvals 1", "could approve Carol (dev|carol)"]),
    ] {
        let told = lines(emergency).await;
        for line in expected {
            assert!(told.iter().any(|told| told == line), "{line} in {told:?}");
        }
    }
}

#[tokio::test]
async fn an_id_may_be_cut_short_where_it_is_one_things() {
    let (_door, person) = scene(Format::Json).await;
    let show = async |id: &str| requests::show(&person.context, &ShowArgs { id: id.to_owned() }).await;
    show(FIRST).await.unwrap();
    show(&GRANT[..9]).await.unwrap();
    let several = show(&FIRST[..20]).await.unwrap_err();
    assert_eq!(several.exit, Exit::Usage);
    let told = several.problem.detail.unwrap();
    assert!(told.contains(FIRST) && told.contains(SECOND), "{told}");
    assert_eq!(show("req_v").await.unwrap_err().exit, Exit::Failed);
    for wrong in
        ["", "req_", "req_XYZ", "ses_06h0", "nonsense", "req_06h01rs2cto0b2afh7rgi8mlb0000", "req_w", "req_../x"]
    {
        assert_eq!(show(wrong).await.unwrap_err().exit, Exit::Usage, "{wrong}");
    }
}

#[tokio::test]
async fn an_approval_names_what_was_looked_at() {
    let (door, person) = scene(Format::Json).await;
    let args = ApproveArgs { id: FIRST[..30].to_owned(), reason: None, yes: false };
    approval::approve(&person.context, &args).await.unwrap();
    let sent = door.seen().pop().unwrap();
    assert_eq!(serde_json::from_str::<Value>(&sent.body).unwrap(), json!({"answer": "approve", "hash": "sha256:abc"}));
    assert_eq!(door.seen()[0].path, format!("/api/v1/requests/{FIRST}"), "it is fetched before");
    let printed: Value = serde_json::from_str(&person.out.text()).unwrap();
    assert_eq!(printed["state"], "active");

    let no = DenyArgs { id: FIRST.to_owned(), reason: Some("freeze".to_owned()) };
    approval::deny(&person.context, &no).await.unwrap();
    let sent = door.seen().pop().unwrap();
    assert_eq!(serde_json::from_str::<Value>(&sent.body).unwrap(), json!({"answer": "deny", "reason": "freeze"}));
    approval::withdraw(&person.context, &WithdrawArgs { id: FIRST.to_owned() }).await.unwrap();
    assert!(door.seen().pop().unwrap().path.ends_with("/withdraw"));
}

#[tokio::test]
async fn a_refused_approval_ends_with_four_and_one_too_late_with_one() {
    for (status, reason, exit) in [
        (403, "self_approval", Exit::Denied),
        (403, "no_policy_match", Exit::Denied),
        (409, "not_pending", Exit::Failed),
        (404, "not_found", Exit::Failed),
        (503, "unavailable", Exit::Unreachable),
    ] {
        let door = FakeDoor::open(move |seen| match seen.method {
            http::Method::GET => json_reply(200, &request_json(FIRST, "pending")),
            _ => json_reply(status, &json!({"type": "t", "title": "No", "status": status, "reason": reason})),
        })
        .await;
        let person = Person::at(&door);
        sign_in(&person, &door, Ttl::hours(1), "one");
        let args = ApproveArgs { id: FIRST.to_owned(), reason: None, yes: true };
        assert_eq!(approval::approve(&person.context, &args).await.unwrap_err().exit, exit, "{reason}");
    }
}

#[tokio::test]
async fn grants_are_listed_with_the_time_left_and_ended_by_their_ids() {
    let (door, person) = scene(Format::Table).await;
    grants::run(&person.context, &GrantsArgs { mine: true, all: false }).await.unwrap();
    let text = person.out.text();
    assert!(text.contains(GRANT) && (text.contains("29m") || text.contains("30m")), "{text}");
    let id = GRANT[..10].to_owned();
    let args = ExtendArgs { id: id.clone(), length: Ttl::minutes(15) };
    grants::extend(&person.context, &args).await.unwrap();
    assert_eq!(door.seen().pop().unwrap().body, r#"{"for":"15m"}"#);
    grants::drop(&person.context, &DropArgs { id: id.clone() }).await.unwrap();
    assert!(door.seen().pop().unwrap().path.ends_with("/drop"));
    let args = RevokeArgs { id: id.clone(), reason: "wrong cluster".to_owned() };
    grants::revoke(&person.context, &args).await.unwrap();
    let sent = door.seen().pop().unwrap();
    assert_eq!((sent.path.ends_with("/revoke"), sent.body.as_str()), (true, r#"{"reason":"wrong cluster"}"#));
    let lease = RevokeArgs { id: "lea_06h0".to_owned(), reason: "x".to_owned() };
    assert_eq!(grants::revoke(&person.context, &lease).await.unwrap_err().exit, Exit::Failed);
}

#[tokio::test]
async fn lists_ask_for_what_was_wanted() {
    let (door, person) = scene(Format::Table).await;
    let all = RequestsArgs { mine: false, to_approve: false, all: true, state: Some("timed_out".to_owned()) };
    requests::run(&person.context, &all).await.unwrap();
    assert_eq!(door.seen().pop().unwrap().query, "all=true&state=timed_out");
    let waiting = RequestsArgs { mine: false, to_approve: true, all: false, state: None };
    requests::run(&person.context, &waiting).await.unwrap();
    assert_eq!(door.seen().pop().unwrap().query, "to_approve=true");
    let text = person.out.text();
    assert!(text.contains("APPROVALS") && text.contains("0/1") && text.contains("to answer"), "{text}");
}

#[tokio::test]
async fn lists_show_the_parameters_and_fit_the_terminal() {
    let long = "deploy-pipeline/promote-prod";
    let (mut request, mut grant) = (request_json(FIRST, "pending"), grant_json("active"));
    (request["entitlement"], grant["entitlement"]) = (json!(long), json!(long));
    request["params"] = json!({"pipeline": "web", "note": "it's \"b\" stage=dev"});
    grant["params"] = json!({"pipeline": "two words"});
    let door = FakeDoor::open(move |seen| match seen.path.as_str() {
        "/api/v1/requests" => page(&[request.clone(), request_json(SECOND, "denied")]),
        _ => page(std::slice::from_ref(&grant)),
    })
    .await;
    let all = RequestsArgs { mine: false, to_approve: false, all: true, state: None };
    let held = GrantsArgs { mine: true, all: false };
    for columns in [80, 100, 160, 240] {
        let mut person = Person::at(&door);
        let (out, talk) = (Box::new(person.out.clone()), Box::new(person.talk.clone()));
        person.context.printer = Printer::new(Format::Table, true, out, talk).with_width(columns);
        sign_in(&person, &door, Ttl::hours(1), "one");
        requests::run(&person.context, &all).await.unwrap();
        grants::run(&person.context, &held).await.unwrap();
        let text = person.out.text();
        assert!(text.lines().all(|line| line.chars().count() <= usize::from(columns)), "{columns}\n{text}");
        for told in [FIRST, SECOND, GRANT, long, "dev|alice", "hotfix", "0/1", "PARAMS", "pipeline=web"] {
            assert!(text.contains(told), "{told} at {columns}\n{text}");
        }
    }
    // Off a terminal each is one line, and what nobody asked for is no column.
    let person = Person::at(&door);
    sign_in(&person, &door, Ttl::hours(1), "one");
    requests::run(&person.context, &all).await.unwrap();
    grants::run(&person.context, &held).await.unwrap();
    let text = person.out.text();
    let lines: Vec<&str> = text.lines().collect();
    assert!(
        lines.len() == 5 && lines[1].contains(r#"  note="it\'s \"b\" stage=dev" pipeline=web  dev|alice"#),
        "{text}"
    );
    assert!(lines[4].contains("  'pipeline=two words'  dev|alice"), "{text}");
    let (_door, person) = scene(Format::Table).await;
    requests::run(&person.context, &all).await.unwrap();
    assert!(!person.out.text().contains("PARAMS"), "{}", person.out.text());
}

#[tokio::test]
async fn a_lock_is_set_and_lifted_by_any_name() {
    let (door, person) = scene(Format::Table).await;
    let args = LockArgs { principal: "alice@example.com".to_owned(), reason: "laptop lost".to_owned() };
    lock::lock(&person.context, &args).await.unwrap();
    lock::unlock(&person.context, &args).await.unwrap();
    let bodies: Vec<_> = door.seen().into_iter().map(|seen| (seen.path, seen.body)).collect();
    let body = r#"{"principal":"alice@example.com","reason":"laptop lost"}"#.to_owned();
    assert_eq!(bodies, [("/api/v1/locks".to_owned(), body.clone()), ("/api/v1/locks/clear".to_owned(), body)]);
    assert!(person.talk.text().contains("dev|alice"));
}

#[tokio::test]
async fn a_lock_on_somebody_who_was_never_here_is_doubted_aloud() {
    fn misspelt(seen: &Seen) -> Reply {
        if seen.path != "/api/v1/locks" {
            return answer(seen);
        }
        let whom = json!({"kind": "User", "id": "dev|alcie", "name": null, "email": null});
        let near = "User::\"dev|alice\"";
        json_reply(
            200,
            &json!({"id": "lck_1", "principal": whom, "reason": "x", "set_at": present().to_string(), "active": true,
                "known": false, "near": near}),
        )
    }
    for format in [Format::Table, Format::Json] {
        let door = FakeDoor::open(misspelt).await;
        let person = Person::with(&door, format);
        sign_in(&person, &door, Ttl::hours(1), "one");
        let args = LockArgs { principal: "dev|alcie".to_owned(), reason: "laptop lost".to_owned() };
        lock::lock(&person.context, &args).await.unwrap();
        let talk = person.talk.text();
        assert!(talk.contains("nobody has come here as User::\"dev|alcie\""), "{talk}");
        assert!(talk.contains("Did you mean User::\"dev|alice\"?"), "{talk}");
        assert_eq!(person.out.text().contains("\"known\""), format == Format::Json);
    }
}

#[tokio::test]
async fn an_approval_of_what_was_asked_before_it_changed_is_void_and_counts_for_nothing() {
    let bob = json!({"kind": "User", "id": "dev|bob", "name": "Bob", "email": null});
    let approval = move |hash: &str| {
        let at = present().to_string();
        json!({"by": bob, "answer": "approve", "reason": "fine", "time": at, "hash": hash})
    };
    for (hash, count, word) in [("sha256:abc", 1, "approved"), ("sha256:before", 0, "void")] {
        let mut whole = request_json(FIRST, "pending");
        (whole["approvals"], whole["approvals_needed"]) = (json!([approval(hash)]), json!(2));
        let listed = whole.clone();
        let door = FakeDoor::open(move |seen| match seen.path.as_str() {
            "/api/v1/requests" => page(std::slice::from_ref(&listed)),
            _ => json_reply(200, &whole),
        })
        .await;
        let person = Person::at(&door);
        sign_in(&person, &door, Ttl::hours(1), "one");
        requests::show(&person.context, &ShowArgs { id: FIRST.to_owned() }).await.unwrap();
        let shown = person.out.text();
        let lines: Vec<String> =
            shown.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect();
        assert!(lines.contains(&format!("approvals {count} of 2")), "{shown}");
        assert!(lines.iter().any(|line| line.starts_with(&format!("{word} by Bob"))), "{shown}");
        requests::run(&person.context, &RequestsArgs { mine: false, to_approve: false, all: true, state: None })
            .await
            .unwrap();
        assert!(person.out.text().contains(&format!(" {count}/2 ")), "{}", person.out.text());
    }
}

#[tokio::test]
async fn no_more_approvals_are_told_than_it_takes_and_what_it_waits_for_that_has_them_all() {
    let approval = |name: &str, counts: bool| {
        let by = json!({"kind": "User", "id": format!("dev|{name}"), "name": name, "email": null});
        let at = present().to_string();
        json!({"by": by, "answer": "approve", "reason": null, "time": at, "hash": "sha256:abc", "counts": counts})
    };
    let table: &[(&str, &[bool], &str, bool)] = &[
        ("pending", &[true, true], "2/2", true),
        ("pending", &[true, false], "1/2", false),
        ("active", &[true, true, true], "2/2", false),
        ("active", &[false, true, true], "2/2", false),
        ("denied", &[false, true], "1/2", false),
    ];
    for (state, counts, count, settles) in table {
        let mut whole = request_json(FIRST, state);
        let given: Vec<Value> = ["bob", "eve", "joe"].iter().zip(*counts).map(|(who, it)| approval(who, *it)).collect();
        (whole["approvals"], whole["approvals_needed"]) = (json!(given), json!(2));
        let listed = whole.clone();
        let door = FakeDoor::open(move |seen| match seen.path.as_str() {
            "/api/v1/requests" => page(std::slice::from_ref(&listed)),
            _ => json_reply(200, &whole),
        })
        .await;
        let person = Person::at(&door);
        sign_in(&person, &door, Ttl::hours(1), "one");
        requests::show(&person.context, &ShowArgs { id: FIRST.to_owned() }).await.unwrap();
        let shown = person.out.text();
        assert!(shown.contains(&count.replace('/', " of ")), "{state}: {shown}");
        assert_eq!(shown.contains(&format!("doorward approve {FIRST}")), *settles, "{state}: {shown}");
        assert_eq!(shown.contains("did not count"), *state != "pending" && counts.contains(&false), "{shown}");
        let args = RequestsArgs { mine: false, to_approve: false, all: true, state: None };
        requests::run(&person.context, &args).await.unwrap();
        assert!(person.out.text().contains(&format!(" {count} ")), "{state}: {}", person.out.text());
    }
}

#[tokio::test]
async fn an_approval_that_counts_no_more_is_told_and_what_the_request_waits_for() {
    let approval = |name: &str, counts: bool| {
        let by = json!({"kind": "User", "id": format!("dev|{name}"), "name": name, "email": null});
        let at = present().to_string();
        json!({"by": by, "answer": "approve", "reason": null, "time": at, "hash": "sha256:abc", "counts": counts})
    };
    let mut whole = request_json(FIRST, "pending");
    (whole["approvals"], whole["approvals_needed"]) =
        (json!([approval("bob", false), approval("eve", true)]), json!(2));
    for format in [Format::Table, Format::Json] {
        let shown = whole.clone();
        let door = FakeDoor::open(move |_| json_reply(200, &shown)).await;
        let person = Person::with(&door, format);
        sign_in(&person, &door, Ttl::hours(1), "one");
        let args = ApproveArgs { id: FIRST.to_owned(), reason: None, yes: true };
        approval::approve(&person.context, &args).await.unwrap();
        assert!(person.talk.text().contains(&format!("{FIRST} waits for 1 more")), "{}", person.talk.text());
        let shown = person.out.text();
        if format == Format::Table {
            let lines: Vec<&str> = shown.lines().filter(|line| line.contains("doesn't count any more")).collect();
            assert!(matches!(lines[..], [line] if line.contains("dev|bob")), "{shown}");
            assert!(shown.contains("1 of 2"), "{shown}");
        }
    }
}
