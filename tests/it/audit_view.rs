//! The record as people ask it: everything about one grant, and who had access to what on a day. What the
//! server tells is what an export tells.

use std::path::Path;
use std::process::Command;

use doorward::audit::event::Event;
use doorward::audit::format::ReadLine;
use doorward::audit::line::line_of;
use doorward::audit::view::{AccessRow, GrantCollector, GrantView, WhoCollector, WhoFilter};
use doorward::audit::{EventType, Leaf, Outcome};
use doorward::control::audit::root::Root;
use doorward::control::audit::tree::LogTree;
use doorward::model::{BreakGlassId, GrantId, Principal, ServiceName, Timestamp, Ttl};
use doorward::store::{EVENT_PAGE_MAX, EventFilter};
use serde_json::{Value, json};

use crate::api_house::{Answer, Caller, House};
use crate::support::{databases, temporary_folder};

/// Puts an event on record as it is.
async fn record(house: &House, event: Event) {
    let mut tx = house.desk.store.begin().await.unwrap();
    tx.event_append(&event).await.unwrap();
    tx.commit().await.unwrap();
}

/// A request that `who` made now.
async fn used(house: &House, who: &str, grant: Option<&str>, refused: Option<&str>) {
    let now = house.now();
    let mut event = crate::leaf::decision(1, "/v1/deployments/prod");
    event.id = house.desk.event_id(now);
    event.time = now;
    event.actor.principal = Principal::user("dev", who);
    event.actor.email = Some(format!("{who}@example.com").into());
    event.grant = grant.map(|id| GrantId::parse(id).unwrap());
    if let Some(reason) = refused {
        (event.kind, event.outcome) = (EventType::DecisionDeny, Outcome::Denied);
        event.reason = Some(reason.into());
    }
    record(house, event).await;
}

/// Alice's grant, asked for and approved now.
async fn granted(house: &House, alice: &Caller, bob: &Caller, ticket: &str) -> (String, String) {
    let asked = json!({ "entitlement": "ops-api/deploy-prod", "reason": "hotfix", "ticket": ticket, "for": "30m" });
    let made = house.json(alice, "/api/v1/requests", &asked).await;
    house.clock.advance(Ttl::minutes(2));
    let yes = json!({ "answer": "approve", "hash": made.text("/hash"), "reason": "as agreed" });
    let approved = house.json(bob, &format!("/api/v1/requests/{}/approvals", made.text("/id")), &yes).await;
    assert_eq!(approved.status, 200, "{approved:?}");
    (made.text("/id").to_owned(), approved.text("/grant").to_owned())
}

/// Every event as an export would have it.
async fn lines(house: &House) -> Vec<ReadLine> {
    let mut lines = Vec::new();
    for (seq, event) in (0..).zip(house.desk.store.event_list(&EventFilter::default(), EVENT_PAGE_MAX).await.unwrap()) {
        let leaf = event.sealed.leaf(&event.log, seq);
        let text = std::str::from_utf8(&leaf).unwrap();
        lines.push(ReadLine::parse(line_of(text, &Leaf::parse(&leaf).unwrap(), &event.sealed).as_bytes()).unwrap());
    }
    lines
}

fn rows(answer: &Answer) -> Vec<AccessRow> {
    assert_eq!(answer.status, 200, "{answer:?}");
    serde_json::from_value(answer.body["items"].clone()).unwrap()
}

async fn audit_reads(house: &House) -> Vec<String> {
    let filter = EventFilter { kind: Some(EventType::AuditRead), ..EventFilter::default() };
    let found = house.desk.store.event_list(&filter, 100).await.unwrap();
    found.iter().map(|event| event.text("/data/what").unwrap_or_default().to_owned()).collect()
}

#[tokio::test]
async fn everything_about_one_grant_is_in_one_view() {
    for url in databases() {
        let house = House::new(&url).await;
        let (alice, _, _) = house.command_line("alice").await;
        let (bob, _, _) = house.command_line("bob").await;
        let (carol, _, _) = house.command_line("carol").await;
        let (other_request, other) = granted(&house, &alice, &bob, "OPS-1").await;
        let (request, grant) = granted(&house, &alice, &bob, "OPS-2").await;
        let began = house.now();
        house.clock.advance(Ttl::minutes(1));
        let first = house.now();
        for _ in 0..3 {
            used(&house, "alice", Some(&grant), None).await;
            house.clock.advance(Ttl::minutes(1));
        }
        let last = house.now();
        used(&house, "alice", Some(&grant), None).await;
        used(&house, "alice", Some(&other), None).await;
        used(&house, "alice", None, None).await;
        let revoke = json!({ "reason": "done early" });
        let revoked = house.json(&alice, &format!("/api/v1/grants/{grant}/revoke"), &revoke).await;
        assert_eq!(revoked.status, 200, "{revoked:?}");
        house.clock.advance(Ttl::minutes(1));
        used(&house, "alice", Some(&grant), Some("session_ended")).await;

        let path = format!("/api/v1/audit/grants/{grant}");
        assert_eq!(house.get(&alice, &path).await.status, 403, "whose it is does not matter");
        let answer = house.get(&carol, &path).await;
        let view: GrantView = serde_json::from_value(answer.body.clone()).unwrap();
        assert_eq!((view.state.as_str(), view.entitlement.as_str()), ("revoked", "ops-api/deploy-prod"));
        assert_eq!(view.end_reason.as_deref(), Some("done early"));
        assert_eq!(view.holder.as_ref().unwrap().told(), "alice@example.com");
        let asked = view.request.clone().unwrap();
        assert_eq!((asked.id, asked.reason, asked.ticket.as_deref()), (request, "hotfix".to_owned(), Some("OPS-2")));
        assert!(asked.hash.starts_with("sha256:"));
        assert_eq!(view.approved_by.iter().map(|by| by.told()).collect::<Vec<_>>(), ["bob@example.com"]);
        assert_eq!(view.active_at, Some(began.to_string()));
        assert_eq!(view.expires_at, Some(began.plus(Ttl::minutes(30)).to_string()));
        assert_eq!((view.allowed, view.denied), (4, 1));
        assert_eq!((view.first_use.clone(), view.last_use.clone()), (Some(first.to_string()), Some(last.to_string())));
        let uses: Vec<_> =
            view.uses.iter().map(|used| (used.count, used.path.as_deref().unwrap(), used.reason.as_deref())).collect();
        let route = "/v1/deployments/prod";
        assert_eq!(uses, [(4, route, None), (1, route, Some("session_ended"))]);
        let steps: Vec<_> = view.timeline.iter().map(|step| step.kind.as_str()).collect();
        assert_eq!(steps, ["request.created", "request.approved", "grant.active", "grant.revoked"]);
        assert!(view.timeline[1].text.starts_with("as agreed · sha256:"), "{}", view.timeline[1].text);
        assert_eq!((view.review.as_str(), view.without_content, view.left_out), ("none", 0, 0));
        assert!(!answer.body.to_string().contains(&other_request));
        assert_eq!(audit_reads(&house).await, [format!("grant {grant}")]);

        // An export tells the same, also by the beginning of the id.
        let lines = lines(&house).await;
        let offline = |wanted: &str| {
            let mut collector = GrantCollector::new(wanted);
            lines.iter().for_each(|line| collector.take(&line.entry()));
            collector.end(house.now())
        };
        let mut of_export = offline(&grant).unwrap();
        // Their numbers in the log come a moment later.
        let mut view = view;
        view.timeline.iter_mut().chain(&mut of_export.timeline).for_each(|step| step.seq = None);
        assert_eq!(of_export, view);
        let shared = grant.chars().zip(other.chars()).take_while(|(one, two)| one == two).count();
        assert_eq!(offline(&grant[..=shared]).unwrap().id, grant);
        assert!(offline(&grant[..shared]).is_err(), "it fits two grants");

        for (id, status) in [("grt_06h01rs2cto0b2afh7rgi8mlb0", 404), ("nonsense", 404), (&grant[..9], 404)] {
            let answer = house.get(&carol, &format!("/api/v1/audit/grants/{id}")).await;
            assert_eq!(answer.status.as_u16(), status, "{id}: {answer:?}");
        }
    }
}

#[tokio::test]
async fn a_grant_that_nobody_ended_is_over_at_its_time_and_its_extension_counts() {
    let house = House::new(&databases()[0]).await;
    let (alice, _, _) = house.command_line("alice").await;
    let (bob, _, _) = house.command_line("bob").await;
    let (_, grant) = granted(&house, &alice, &bob, "OPS-1").await;
    let began = house.now();
    house.clock.advance(Ttl::minutes(5));
    let more = house.json(&alice, &format!("/api/v1/grants/{grant}/extend"), &json!({ "for": "20m" })).await;
    assert_eq!(more.status, 200, "{more:?}");
    let yes = json!({ "answer": "approve", "hash": more.text("/hash") });
    let approved = house.json(&bob, &format!("/api/v1/requests/{}/approvals", more.text("/id")), &yes).await;
    assert_eq!(approved.status, 200, "{approved:?}");
    house.clock.advance(Ttl::hours(2));
    let (carol, _, _) = house.command_line("carol").await;
    let answer = house.get(&carol, &format!("/api/v1/audit/grants/{grant}")).await;
    let end = began.plus(Ttl::minutes(50)).to_string();
    assert_eq!((answer.text("/state"), answer.text("/ended_at")), ("expired", end.as_str()), "{answer:?}");
    let steps: Vec<_> = answer.body["timeline"].as_array().unwrap().iter().map(|step| step["type"].clone()).collect();
    let expected = [
        "request.created",
        "request.approved",
        "grant.active",
        "request.created",
        "request.approved",
        "grant.extended",
    ];
    assert_eq!(steps, expected);
    // A day later it is on that day's list, until the end that it had with its extension.
    let day = house.get(&carol, &format!("/api/v1/audit/who?from={began}")).await;
    assert_eq!(rows(&day)[0].to, Some(end));
}

fn on_the_day(house: &House) -> (Timestamp, Timestamp) {
    let midnight = Timestamp::from_millis(house.now().millis() - house.now().millis().rem_euclid(86_400_000));
    (midnight, midnight.plus(Ttl::hours(24)))
}

#[tokio::test]
async fn who_had_access_on_a_day_and_how() {
    for url in databases() {
        let house = House::new(&url).await;
        let (alice, _, _) = house.command_line("alice").await;
        let (bob, _, _) = house.command_line("bob").await;
        let (_, unused) = granted(&house, &alice, &bob, "OPS-1").await;
        let (from, to) = on_the_day(&house);
        house.clock.advance(Ttl::minutes(1));
        used(&house, "bob", None, None).await;
        house.clock.advance(Ttl::minutes(1));
        used(&house, "bob", None, None).await;
        used(&house, "dave", None, Some("no_policy_match")).await;
        // An opening of the emergency path, used twice.
        let opening = BreakGlassId::from_bytes(*house.desk.event_id(house.now()).bytes());
        let mut opened =
            Event::new(house.desk.event_id(house.now()), house.now(), EventType::BreakGlassOpened, Outcome::Success)
                .with("id", opening.to_string())
                .with("custodians", vec!["ann", "ben"])
                .with("scope", "all services")
                .with("reason", "all is down")
                .with("not_before", house.now().to_string())
                .with("expires", house.now().plus(Ttl::minutes(20)).to_string());
        opened.actor.principal = Some(Principal::breakglass(opening));
        record(&house, opened).await;
        for _ in 0..2 {
            let mut event = crate::leaf::decision(1, "/admin/");
            (event.id, event.time) = (house.desk.event_id(house.now()), house.now());
            event.actor.principal = Some(Principal::breakglass(opening));
            event.actor.email = None;
            event.service = Some(ServiceName::parse("ops-api").unwrap());
            record(&house, event).await;
        }
        // A grant that begins a minute before midnight is held on both days.
        house.clock.advance(to.since(house.now()));
        house.clock.advance(Ttl::minutes(3));
        let after = house.now();
        // What they signed in for is over by now.
        let (bob, _, _) = house.command_line("bob").await;
        let (carol, _, _) = house.command_line("carol").await;
        let path = format!("/api/v1/audit/who?from={from}&to={to}");
        assert_eq!(house.get(&bob, &path).await.status, 403);
        let day = rows(&house.get(&carol, &path).await);
        let told = |row: &AccessRow| {
            let what = row.entitlement.clone().or_else(|| row.service.clone()).unwrap_or_default();
            let approved = row.approved_by.iter().map(|approval| approval.by.told().to_owned());
            let approved: Vec<String> = approved.chain(row.custodians.clone()).collect();
            (row.person.told().to_owned(), what, row.how.clone(), approved.join("+"), row.uses.count)
        };
        let mut found: Vec<_> = day.iter().map(told).collect();
        found.sort();
        let text = |parts: [&str; 4], count: u64| {
            let [who, what, how, approved] = parts.map(str::to_owned);
            (who, what, how, approved, count)
        };
        let opener = day.iter().find(|row| row.how == "break_glass").unwrap().person.told().to_owned();
        let mut expected = vec![
            text(["alice@example.com", "ops-api/deploy-prod", "grant", "bob@example.com"], 0),
            text(["bob@example.com", "ops-api", "standing", ""], 2),
            text([&opener, "", "break_glass", "ann+ben"], 2),
        ];
        expected.sort();
        assert_eq!(found, expected);
        let of_alice = day.iter().find(|row| row.grant.as_deref() == Some(&unused)).unwrap();
        assert_eq!((of_alice.reason.as_deref(), of_alice.ticket.as_deref()), (Some("hotfix"), Some("OPS-1")));

        // By person, in each way to name one; by service, which an opening for all is of, too.
        let id = &of_alice.person.id;
        for person in [id.as_str(), "dev|alice", "User::%22dev%7Calice%22", "ALICE@example.com"] {
            let only = rows(&house.get(&carol, &format!("{path}&person={person}")).await);
            assert_eq!(only.iter().map(|row| row.grant.as_deref()).collect::<Vec<_>>(), [Some(unused.as_str())]);
        }
        assert_eq!(rows(&house.get(&carol, &format!("{path}&service=ops-api")).await).len(), 3);
        assert_eq!(rows(&house.get(&carol, &format!("{path}&service=other")).await).len(), 1);
        assert!(rows(&house.get(&carol, &format!("{path}&person=nobody@example.com")).await).is_empty());
        assert!(rows(&house.get(&carol, &format!("/api/v1/audit/who?from={to}&to={after}")).await).is_empty());

        // Page by page it is the same.
        let (mut paged, mut cursor) = (Vec::new(), String::new());
        loop {
            let page = house.get(&carol, &format!("{path}&limit=1{cursor}")).await;
            paged.extend(rows(&page));
            match page.body["next"].as_str() {
                Some(next) => cursor = format!("&cursor={next}"),
                None => break,
            }
        }
        assert_eq!(paged, day);
        // Who is looked for by an e-mail is not on record by it.
        let reads = audit_reads(&house).await;
        assert!(reads.iter().any(|what| what.contains("\"service\":\"other\"")), "{reads:?}");
        assert!(!reads.concat().contains('@') && !reads.concat().contains("dev|alice"), "{reads:?}");

        // An export tells the same.
        let mut collector =
            WhoCollector::new(WhoFilter { from: Some(from), to: Some(to), service: None, person: None });
        lines(&house).await.iter().for_each(|line| collector.take(&line.entry()));
        assert_eq!(collector.end(house.now()), day);
    }
}

#[tokio::test]
async fn a_grant_over_midnight_is_held_on_both_days() {
    for url in databases() {
        let house = House::new(&url).await;
        let (_, to) = on_the_day(&house);
        house.clock.advance(to.minus(Ttl::minutes(10)).since(house.now()));
        let (alice, _, _) = house.command_line("alice").await;
        let (bob, _, _) = house.command_line("bob").await;
        let (_, grant) = granted(&house, &alice, &bob, "OPS-1").await;
        used(&house, "alice", Some(&grant), None).await;
        let began = house.now();
        house.clock.advance(Ttl::hours(2));
        used(&house, "alice", Some(&grant), None).await;
        let ends = began.plus(Ttl::minutes(30));
        let (carol, _, _) = house.command_line("carol").await;
        let days = [(to.minus(Ttl::hours(24)), to, began, to), (to, to.plus(Ttl::hours(24)), to, ends)];
        for (from, until, since, over) in days {
            let found = rows(&house.get(&carol, &format!("/api/v1/audit/who?from={from}&to={until}")).await);
            assert_eq!(found.len(), 1, "{found:?}");
            assert_eq!((&found[0].from, &found[0].to), (&Some(since.to_string()), &Some(over.to_string())));
            assert_eq!(found[0].uses.count, 1, "uses count on their day");
        }
    }
}

#[tokio::test]
async fn what_can_not_be_asked_is_told() {
    let house = House::new(&databases()[0]).await;
    let (carol, _, _) = house.command_line("carol").await;
    for (query, part) in [
        ("from=yesterday", "`from` is a time"),
        ("from=2026-11-22T10:00:00Z&to=2026-11-22T10:00:00Z", "the time is empty"),
        ("from=2020-11-22T10:00:00Z&to=2026-11-22T10:00:00Z", "ask for 400d at most"),
        ("service=No%20Service", "`service` is the name of a service"),
        ("cursor=x", "`cursor` is the `next` of an answer before"),
        ("limit=0", "`limit` is a number"),
    ] {
        let answer = house.get(&carol, &format!("/api/v1/audit/who?{query}")).await;
        assert_eq!(answer.status, 400, "{query}: {answer:?}");
        assert!(answer.text("/detail").contains(part), "{query}: {answer:?}");
    }
    let today = house.get(&carol, "/api/v1/audit/who").await;
    assert_eq!((today.status.as_u16(), &today.body["next"]), (200, &Value::Null));
}

#[tokio::test]
async fn the_missing_events_of_an_export_are_those_that_it_would_have_had() {
    for url in databases() {
        let house = House::new(&url).await;
        let (alice, _, _) = house.command_line("alice").await;
        let (carol, _, _) = house.command_line("carol").await;
        for _ in 0..20 {
            used(&house, "alice", None, None).await;
        }
        let desk = &house.desk;
        let root = Root::open(&desk.store, &desk.sealer).await.unwrap();
        let mut tree = LogTree::open(&desk.store, &desk.sealer, &root, house.now(), &*desk.entropy).await.unwrap();
        let log = desk.store.own_log().unwrap();
        while desk.store.number_pending(log, house.now()).await.unwrap() > 0 {}
        tree.grow(&desk.store, house.now()).await.unwrap();
        let text = |answer: &Answer| answer.body.as_str().unwrap().to_owned();
        let whole = text(&house.get(&carol, "/api/v1/audit/export?service=ops-api").await);
        let lines: Vec<&str> = whole.lines().collect();
        let (events, node) = (lines.len() - 2, log.node());
        // The record has grown since, and it changes nothing.
        used(&house, "alice", None, None).await;
        while desk.store.number_pending(log, house.now()).await.unwrap() > 0 {}
        tree.grow(&desk.store, house.now()).await.unwrap();
        for (from, to) in [(0, events), (7, events), (7, 9), (events, events)] {
            let path = format!("/api/v1/audit/export?service=ops-api&rest={node}:{from}-{to}");
            let rest = text(&house.get(&carol, &path).await);
            let mut expected: Vec<String> = lines[1 + from..=to].iter().map(|line| (*line).to_owned()).collect();
            expected.push(format!("{{\"end\":{{\"lines\":{}}}}}", to - from));
            assert_eq!(rest.lines().collect::<Vec<_>>(), expected, "{from}-{to}");
            assert_eq!(house.get(&alice, &path).await.status, 403);
        }
        let filter = EventFilter { kind: Some(EventType::AuditExported), ..EventFilter::default() };
        let exports = desk.store.event_list(&filter, 10).await.unwrap();
        assert_eq!(exports.len(), 5, "each is on record");
        assert_eq!(exports[0].body.pointer("/data/resumed"), Some(&json!(true)));
        let other = "nod_7777777777777777777777777s";
        for (rest, part) in [
            ("x".to_owned(), "`rest` names leaves of logs"),
            (format!("{node}:9-7"), "`rest` names leaves of logs"),
            (format!("{node}:0-100000"), "this installation does not have"),
            (format!("{other}:0-1"), "this installation does not have"),
        ] {
            let answer = house.get(&carol, &format!("/api/v1/audit/export?rest={rest}")).await;
            assert_eq!(answer.status, 400, "{rest}: {answer:?}");
            assert!(answer.text("/detail").contains(part), "{rest}: {answer:?}");
        }
    }
}

fn program(folder: &Path, arguments: &[&str]) -> (Option<i32>, String, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_doorward"))
        .arg("audit")
        .args(arguments)
        .current_dir(folder)
        .env_clear()
        .env("DOORWARD_HOME", folder)
        .output()
        .unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (output.status.code(), text(output.stdout), text(output.stderr))
}

#[tokio::test]
async fn without_a_server_an_export_is_asked_and_one_that_does_not_hold_tells_nothing() {
    let house = House::new(&databases()[0]).await;
    let (alice, _, _) = house.command_line("alice").await;
    let (bob, _, _) = house.command_line("bob").await;
    let (carol, _, _) = house.command_line("carol").await;
    let (_, id) = granted(&house, &alice, &bob, "OPS-1").await;
    used(&house, "alice", Some(&id), None).await;
    let desk = &house.desk;
    let root = Root::open(&desk.store, &desk.sealer).await.unwrap();
    let mut tree = LogTree::open(&desk.store, &desk.sealer, &root, house.now(), &*desk.entropy).await.unwrap();
    while desk.store.number_pending(desk.store.own_log().unwrap(), house.now()).await.unwrap() > 0 {}
    tree.grow(&desk.store, house.now()).await.unwrap();
    let key = root.key().to_string();
    let text = house.get(&carol, "/api/v1/audit/export").await.body.as_str().unwrap().to_owned();
    let denied = house.get(&carol, "/api/v1/audit/export?type=decision.deny").await.body.as_str().unwrap().to_owned();
    let folder = temporary_folder();
    let write = |name: &str, text: &str| std::fs::write(folder.path().join(name), text).unwrap();
    write("record.jsonl", &text);
    write("altered.jsonl", &text.replacen("dev|alice", "dev|alicf", 1));
    write("denied.jsonl", &denied);
    let all = ["--from", "2026-11-01T00:00:00Z", "--to", "2026-12-31T00:00:00Z"];
    let who = |input: &str, more: &[&str]| {
        program(folder.path(), &[&["who", "--in", input, "--key", &key, "-o", "json"], &all[..], more].concat())
    };
    let (code, out, talk) = who("record.jsonl", &[]);
    assert_eq!((code, talk.as_str()), (Some(0), ""), "{out}");
    let page: Value = serde_json::from_str(&out).unwrap();
    let rows: Vec<AccessRow> = serde_json::from_value(page["items"].clone()).unwrap();
    assert_eq!(rows.len(), 1, "{out}");
    assert_eq!((rows[0].grant.as_deref(), rows[0].uses.count), (Some(id.as_str()), 1));
    assert_eq!(rows[0].approved_by[0].by.told(), "bob@example.com");
    assert_eq!(who("record.jsonl", &["--person", "nobody"]).1, "{\n  \"items\": [],\n  \"next\": null\n}\n");

    let grant = |input: &str, id: &str| program(folder.path(), &["grant", id, "--in", input, "--key", &key]);
    let (code, out, talk) = grant("record.jsonl", &id);
    assert_eq!((code, talk.as_str()), (Some(0), ""));
    assert!(out.contains("grant.active") && out.contains("ops-api/deploy-prod"), "{out}");
    assert_eq!(grant("record.jsonl", "grt_vvvv").0, Some(1));
    assert_eq!(grant("record.jsonl", "req_0").0, Some(2));

    for (code, out, talk) in [who("altered.jsonl", &[]), grant("altered.jsonl", &id)] {
        assert_eq!(code, Some(10), "{talk}");
        assert!(out.is_empty() && talk.contains("altered"), "{out} {talk}");
    }
    let (code, _, talk) = who("denied.jsonl", &[]);
    assert_eq!(code, Some(2), "{talk}");
    assert!(talk.contains("the export has not every event of that time"), "{talk}");
    for (arguments, part) in [
        (vec!["who", "--on", "yesterday", "--in", "record.jsonl"], "is no day"),
        (vec!["who", "--from", "now", "--in", "record.jsonl"], "is no time"),
        (vec!["who", "--on", "2026-11-20", "--to", "2026-11-21T00:00:00Z"], "cannot be used with"),
        (vec!["who", "--key", "x"], "--in"),
    ] {
        let (code, _, talk) = program(folder.path(), &arguments);
        assert_eq!(code, Some(2), "{arguments:?}: {talk}");
        assert!(talk.contains(part), "{arguments:?}: {talk}");
    }
}
