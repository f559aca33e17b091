//! `doorward audit report` against a server: what is asked of it, and what comes of answers that break off
//! or are not true.

use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use doorward::audit::filter::Filter;
use doorward::audit::report::FrameworkName;
use doorward::cli::args::Format;
use doorward::cli::audit::{AuditCommand, FilterArgs, ReportArgs, ReportFormat, TailArgs, run};
use doorward::cli::exit::Exit;
use doorward::cli::failure::Failure;
use doorward::model::{Timestamp, Ttl};
use http::Response;
use http_body_util::Full;
use serde_json::{Value, json};

use super::Person;
use super::fake_door::{FakeDoor, json_reply};
use super::renewal::sign_in;
use crate::audit_report::exported;

fn asking(key: &str, out: Option<PathBuf>) -> ReportArgs {
    ReportArgs {
        framework: FrameworkName::Soc2,
        from: Some("2026-11-22T10:00:00Z".to_owned()),
        to: None,
        format: ReportFormat::Html,
        out,
        input: None,
        key: Some(key.to_owned()),
        checkpoint: None,
    }
}

/// Runs it where it makes a runtime of its own.
async fn report(person: Person, args: ReportArgs) -> (Person, Result<(), Failure>) {
    let task = move || {
        let outcome = run(&person.context, AuditCommand::Report(args));
        (person, outcome)
    };
    tokio::task::spawn_blocking(task).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_report_of_a_server_asks_for_the_period_and_links_to_its_proofs() {
    let (text, key) = exported(&Filter::default()).await;
    let door = FakeDoor::open(move |_| Response::new(Full::new(Bytes::from(text.clone())))).await;
    let person = Person::with(&door, Format::Table);
    sign_in(&person, &door, Ttl::hours(1), "one");
    let out = person.home.path().join("soc2.html");
    let (person, outcome) = report(person, asking(&key, Some(out.clone()))).await;
    assert!(outcome.is_ok(), "{outcome:?}");
    let asked = door.seen().into_iter().find(|seen| seen.path == "/api/v1/audit/export").unwrap();
    assert_eq!(asked.query, "from=2026-11-22T10%3A00%3A00.000Z");
    let page = std::fs::read_to_string(&out).unwrap();
    assert!(page.contains(&format!("href=\"{}/api/v1/audit/inclusion?log=nod_", door.origin)));
    assert!(page.contains("held from outside by the root key"));
    let said = person.talk.text();
    assert!(said.starts_with("12 controls over ") && said.contains("soc2.html"), "{said}");
    assert_eq!(person.out.text(), "");
}

#[tokio::test(flavor = "multi_thread")]
async fn openings_of_before_the_period_are_asked_of_the_server_or_the_report_says_that_it_lacks_them() {
    let review = |time: &str| json!({ "by": { "kind": "user", "id": "dev|bob" }, "finding": "x", "time": time });
    let opening = |id: &str, kind: &str, reviews: Vec<Value>| {
        json!({
            "id": id, "kind": kind, "state": "expired", "opener": "erin", "opener_proven": false, "scope": "app",
            "reason": "x", "custodians": ["ann", "ben"], "opened_at": "2026-11-01T10:00:00Z",
            "expires": "2026-11-01T10:30:00Z", "reviewed": reviews.len() > 1, "reviews_missing": 0, "reviews": reviews,
        })
    };
    let items = [
        opening("brk_1", "custodians", vec![review("2026-11-02T10:00:00Z")]),
        opening("brk_2", "custodians", vec![review("2026-11-02T10:00:00Z"), review("2026-11-03T10:00:00Z")]),
        // The second came after the record was taken.
        opening("brk_3", "custodians", vec![review("2026-11-02T10:00:00Z"), review("2099-11-03T10:00:00Z")]),
        opening("grt_4", "approvals_skipped", Vec::new()),
    ];
    let listed = json!({ "items": items, "next": null });
    let from = Some(Timestamp::from_millis(crate::audit_report::START));
    let (text, key) = exported(&Filter { from, ..Filter::default() }).await;
    for (status, listed) in [(200, listed), (403, json!({}))] {
        let text = text.clone();
        let door = FakeDoor::open(move |seen| match seen.path.as_str() {
            "/api/v1/breakglass" => json_reply(status, &listed),
            _ => Response::new(Full::new(Bytes::from(text.clone()))),
        })
        .await;
        let person = Person::with(&door, Format::Table);
        sign_in(&person, &door, Ttl::hours(1), "one");
        let out = person.home.path().join("soc2.html");
        let (_person, outcome) = report(person, asking(&key, Some(out.clone()))).await;
        assert!(outcome.is_ok(), "{outcome:?}");
        let page = std::fs::read_to_string(&out).unwrap();
        let has = |id: &str| page.contains(&format!("{id}, opened before the period, at 2026-11-01T10:00:00"));
        let found = ["brk_1", "brk_2", "brk_3", "grt_4"].map(has);
        assert_eq!(found, [status == 200, false, status == 200, false], "{status}");
        assert_eq!(page.contains("an opening of the emergency path before that stays an exception"), status == 403);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_breaks_off_or_is_not_true_gives_no_report() {
    let (text, key) = exported(&Filter::default()).await;
    let lines: Vec<&str> = text.lines().collect();
    let without_end = lines[..lines.len() - 1].join("\n") + "\n";
    for (answer, exit, part) in [
        (without_end, Exit::Failed, "broke off before its end"),
        (text.replacen("dev|alice", "dev|alicf", 1), Exit::Passed(10), "no report is made"),
        ("{}\n".to_owned(), Exit::Failed, "something else than an export"),
    ] {
        let door = FakeDoor::open(move |_| Response::new(Full::new(Bytes::from(answer.clone())))).await;
        let person = Person::with(&door, Format::Table);
        sign_in(&person, &door, Ttl::hours(1), "one");
        let (person, outcome) = report(person, asking(&key, None)).await;
        let failure = outcome.unwrap_err();
        assert_eq!(failure.exit, exit, "{failure:?}");
        assert!(failure.lines().concat().contains(part), "{failure:?}");
        assert_eq!(person.out.text(), "", "half a report is none");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_are_listed_with_position_lag_and_error_and_a_schema_asks_nobody() {
    let stream = serde_json::json!({
        "name": "siem", "kind": "syslog", "format": "jsonl", "state": "stalled", "sent": 40,
        "sent_at": "2026-11-22T09:00:00.000Z", "lag_events": 19, "lag_seconds": 3600, "failing_since": null,
        "failures": 9, "error": "no connection to `log`", "positions": [{ "log": "nod_1", "next": 40, "size": 59 }],
    });
    let text = serde_json::json!({ "items": [stream], "next": null }).to_string();
    let door = FakeDoor::open(move |_| Response::new(Full::new(Bytes::from(text.clone())))).await;
    let person = Person::with(&door, Format::Table);
    sign_in(&person, &door, Ttl::hours(1), "one");
    let ran = tokio::task::spawn_blocking(move || {
        let outcome = run(&person.context, AuditCommand::Streams);
        (person, outcome)
    });
    let (person, outcome) = ran.await.unwrap();
    assert!(outcome.is_ok(), "{outcome:?}");
    insta::assert_snapshot!(person.out.text(), @r"
    STREAM  KIND    FORMAT  STATE    POSITION  LAG            LAST TAKEN                ERROR
    siem    syslog  jsonl   stalled  40/59     19 events, 1h  2026-11-22T09:00:00.000Z  no connection to `log`
    ");
    assert_eq!(door.seen().last().unwrap().path, "/api/v1/audit/streams");
    let before = door.seen().len();
    let person = Person::with(&door, Format::Table);
    run(&person.context, AuditCommand::Schema).unwrap();
    let schema: serde_json::Value = serde_json::from_str(&person.out.text()).unwrap();
    assert_eq!(schema["$schema"], "https://json-schema.org/draft/2020-12/schema");
    assert_eq!(door.seen().len(), before);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_follows_the_record_goes_on_after_a_server_that_could_not_answer() {
    let asked = AtomicUsize::new(0);
    let door = FakeDoor::open(move |_| match asked.fetch_add(1, Ordering::Relaxed) {
        0 => json_reply(200, &json!({ "items": [], "next": "place-1" })),
        1 => json_reply(503, &json!({ "type": "t", "title": "Unavailable", "status": 503, "reason": "unavailable" })),
        2 => json_reply(200, &json!({ "items": [{ "id": "evt_1", "type": "lock.set" }], "next": "place-2" })),
        _ => json_reply(403, &json!({ "type": "t", "title": "Denied", "status": 403, "reason": "no_policy_match" })),
    })
    .await;
    let person = Person::with(&door, Format::Table);
    sign_in(&person, &door, Ttl::hours(1), "one");
    let ran = tokio::task::spawn_blocking(move || {
        let args = TailArgs { filter: FilterArgs::default(), follow: true, lines: 0 };
        let outcome = run(&person.context, AuditCommand::Tail(args));
        (person, outcome)
    });
    let (person, outcome) = ran.await.unwrap();
    assert_eq!(outcome.unwrap_err().exit, Exit::Denied);
    assert!(person.out.text().contains("lock.set"), "{}", person.out.text());
    assert_eq!(
        person.talk.text(),
        "error: Unavailable (unavailable)\n  it is asked again until it answers; nothing is missed\n"
    );
    let places: Vec<String> =
        door.seen().into_iter().map(|seen| seen.query).filter(|query| query.contains("place")).collect();
    assert!(places[0].starts_with("after=place-1&") && places[1] == places[0], "{places:?}");
    assert!(places[2].starts_with("after=place-2&"), "{places:?}");
}
