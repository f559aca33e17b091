//! `doorward token` under a grant: what is sent, and how a gate ends; of a person and of a job.

use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use clap::Parser;
use doorward::cli::args::{Arguments, Command, Format, TokenArgs};
use doorward::cli::exit::Exit;
use doorward::cli::token;
use doorward::model::{Timestamp, Ttl};
use serde_json::{Value, json};

use super::Person;
use super::access::{FIRST, GRANT, grant_json, page, request_json};
use super::fake_door::{FakeDoor, Reply, Seen, json_reply, present, session_json};
use super::renewal::sign_in;

const JWT: &str = "urn:ietf:params:oauth:token-type:jwt";
const ACCESS_TOKEN: &str = "urn:ietf:params:oauth:token-type:access_token";
const CERTIFICATE: &str = "urn:doorward:params:oauth:token-type:session-certificate";

/// The arguments as they are typed after `token --service ops-api`.
fn args(line: &[&str]) -> TokenArgs {
    let line = ["doorward", "token", "--service", "ops-api"].into_iter().chain(line.iter().copied());
    let Command::Token(args) = Arguments::try_parse_from(line).unwrap().command else { panic!("another command") };
    args
}

fn exchange_answer(token: &str, ends_at: Timestamp) -> Value {
    json!({
        "access_token": token, "issued_token_type": ACCESS_TOKEN, "token_type": "Bearer", "expires_in": 1,
        "expires_at": ends_at.to_string(), "aud": "x", "session": session_json("ses_1", present()), "ca": "",
    })
}

fn service_json(name: &str, action: &str) -> Value {
    json!({
        "name": name, "description": "", "url": "https://x.example", "hosts": ["x.example"], "access": "requestable",
        "actions": [{"name": action, "access": "requestable", "entitlement": null}], "entitlements": [],
    })
}

/// A door whose request is in each of these states in turn, the last for good. An exchanged token is
/// `token-1`, then `token-2` …, and lasts for `length`.
fn gate(states: &'static [&'static str], length: Ttl) -> impl Fn(&Seen) -> Reply + Send + Sync + 'static {
    let (looks, tokens) = (AtomicUsize::new(0), AtomicUsize::new(0));
    move |seen| match seen.path.as_str() {
        "/oauth2/token" => {
            let number = tokens.fetch_add(1, Ordering::SeqCst) + 1;
            json_reply(200, &exchange_answer(&format!("token-{number}"), present().plus(length)))
        }
        "/api/v1/services" => page(&[service_json("wiki", "edit"), service_json("ops-api", "deploy")]),
        "/api/v1/grants" => page(&[grant_json("active")]),
        path if path.starts_with("/api/v1/requests") => {
            let look = looks.fetch_add(1, Ordering::SeqCst).min(states.len() - 1);
            let mut request = request_json(FIRST, states[look]);
            if states[look] == "active" {
                request["grant"] = GRANT.into();
            }
            json_reply(if seen.method == http::Method::POST { 201 } else { 200 }, &request)
        }
        _ => json_reply(404, &json!({"type": "t", "title": "Not found", "status": 404, "reason": "not_found"})),
    }
}

fn exchanges(door: &FakeDoor) -> Vec<Seen> {
    door.seen().into_iter().filter(|seen| seen.path == "/oauth2/token").collect()
}

#[tokio::test]
async fn a_scope_of_nothing_or_no_time_at_all_is_no_token_for_everything() {
    let door = FakeDoor::open(gate(&["active"], Ttl::minutes(5))).await;
    let person = Person::at(&door);
    sign_in(&person, &door, Ttl::hours(1), "one");
    for line in [&["--scope", ""][..], &["--scope", "  "], &["--for", "0s"]] {
        let failure = token::run(&person.context, &args(line)).await.unwrap_err();
        assert_eq!(failure.exit, Exit::Usage, "{line:?}");
    }
    assert!(exchanges(&door).is_empty() && person.out.text().is_empty());
}

#[tokio::test]
async fn a_refusal_of_an_oauth_endpoint_has_its_status_for_scripts() {
    let refuse = |_: &Seen| json_reply(400, &json!({"error": "invalid_scope", "error_description": "no such action"}));
    let door = FakeDoor::open(refuse).await;
    let person = Person::at(&door);
    sign_in(&person, &door, Ttl::hours(1), "one");
    let failure = token::run(&person.context, &args(&["--scope", "nope"])).await.unwrap_err();
    let told: Value = serde_json::from_str(&failure.json()).unwrap();
    assert_eq!((&told["status"], &told["reason"]), (&json!(400), &json!("invalid_scope")));
}

#[tokio::test]
async fn a_token_of_a_grant_may_name_it_by_its_beginning() {
    for named in [GRANT, &GRANT[..9]] {
        let door = FakeDoor::open(gate(&["active"], Ttl::minutes(5))).await;
        let person = Person::at(&door);
        sign_in(&person, &door, Ttl::hours(1), "one");
        token::run(&person.context, &args(&["--grant", named, "--for", "5m"])).await.unwrap();
        let sent = exchanges(&door).pop().unwrap();
        assert_eq!((sent.value("grant").as_deref(), sent.value("lifetime").as_deref()), (Some(GRANT), Some("300")));
        assert_eq!(person.out.text(), "token-1\n");
        for wrong in ["", "req_06h", "grt_06H"] {
            let failure = token::run(&person.context, &args(&["--grant", wrong])).await.unwrap_err();
            assert_eq!(failure.exit, Exit::Usage, "{wrong}");
        }
    }
}

#[tokio::test]
async fn a_gate_asks_waits_and_prints_a_token_of_what_was_granted() {
    let door = FakeDoor::open(gate(&["pending", "pending", "scheduled", "active"], Ttl::minutes(5))).await;
    let person = Person::at(&door);
    sign_in(&person, &door, Ttl::hours(1), "one");
    let line =
        ["--request", "deploy-prod", "--reason", "hotfix", "--ticket", "OPS-1", "--for", "30m", "--param", "env=prod"];
    token::run(&person.context, &args(&[&line[..], &["--scope", "deploy", "--wait"]].concat())).await.unwrap();
    let asked = door.seen().into_iter().find(|seen| seen.path == "/api/v1/requests").unwrap();
    let asked: Value = serde_json::from_str(&asked.body).unwrap();
    let expected = json!({
        "entitlement": "ops-api/deploy-prod", "reason": "hotfix", "ticket": "OPS-1", "for": "30m",
        "params": {"env": "prod"},
    });
    assert_eq!(asked, expected);
    let sent = exchanges(&door).pop().unwrap();
    let value = |name: &str| sent.value(name);
    assert_eq!(value("grant").as_deref(), Some(GRANT));
    assert_eq!(value("scope").as_deref(), Some("deploy"));
    assert_eq!(value("lifetime"), None, "what was said is how long the access is needed");
    assert_eq!(value("subject_token_type").as_deref(), Some(CERTIFICATE));
    assert_eq!(person.out.text(), "token-1\n", "nothing else is on standard output");
    let talk = person.talk.text();
    assert!(talk.contains(&format!("doorward approve {FIRST}")) && talk.contains("is approved"), "{talk}");
}

#[tokio::test]
async fn a_gate_asks_for_nothing_where_the_token_could_not_be_made_afterwards() {
    let door = FakeDoor::open(gate(&["active"], Ttl::minutes(15))).await;
    let person = Person::at(&door);
    sign_in(&person, &door, Ttl::hours(1), "one");
    let path = file(&person, "own-token");
    let job = ["--subject-token-file", path.to_str().unwrap()];
    for who in [&[][..], &job] {
        // An action of another service is none of this one.
        for (scope, wrong) in [("deploy nope", "`nope`"), ("edit", "`edit`")] {
            let line = [who, &["--request", "deploy-prod", "--scope", scope, "--wait"]].concat();
            let failure = token::run(&person.context, &args(&line)).await.unwrap_err();
            assert_eq!((failure.exit, failure.problem.reason.as_str()), (Exit::Usage, "invalid_scope"));
            let told = failure.problem.detail.unwrap();
            assert!(told.contains(wrong) && told.contains("nothing was asked for"), "{told}");
        }
        assert_eq!(door.count("/api/v1/requests"), 0, "{who:?}");
        token::run(&person.context, &args(&[who, &["--request", "deploy-prod", "--scope", "deploy"]].concat()))
            .await
            .unwrap();
        door.seen.lock().unwrap().clear();
    }
}

#[tokio::test]
async fn a_certificate_that_works_stays_until_a_new_one_has_come_with_its_key() {
    let answers = AtomicUsize::new(0);
    let door = FakeDoor::open(move |_| match answers.fetch_add(1, Ordering::SeqCst) {
        number @ (0 | 3) => {
            let mut answer = exchange_answer("token", present().plus(Ttl::minutes(5)));
            answer["certificate"] = format!("certificate {number}").into();
            answer["ca"] = "authority".into();
            json_reply(200, &answer)
        }
        1 => json_reply(400, &json!({"error": "invalid_grant", "error_description": "the token was used"})),
        _ => json_reply(200, &exchange_answer("token", present().plus(Ttl::minutes(5)))),
    })
    .await;
    let person = Person::at(&door);
    let (path, out) = (file(&person, "own-token"), person.home.path().join("out/door"));
    let line = ["--subject-token-file", path.to_str().unwrap(), "--certificate-out", out.to_str().unwrap()];
    let run = async || token::run(&person.context, &args(&line)).await;
    let files = || {
        let mut names: Vec<_> =
            std::fs::read_dir(&out).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort_unstable();
        assert_eq!(names, ["ca.crt", "client.crt", "client.key"], "nothing else stays");
        names.into_iter().map(|name| std::fs::read_to_string(out.join(name)).unwrap()).collect::<Vec<_>>()
    };
    run().await.unwrap();
    let first = files();
    assert!(first[1] == "certificate 0" && first[2].contains("PRIVATE KEY"), "{:?}", first[1]);
    for name in ["ca.crt", "client.crt", "client.key"] {
        assert_eq!(std::fs::metadata(out.join(name)).unwrap().permissions().mode() & 0o777, 0o600, "{name}");
    }
    // A refusal, and an answer without a certificate.
    for _ in 0..2 {
        run().await.unwrap_err();
        assert_eq!(files(), first);
    }
    run().await.unwrap();
    let next = files();
    assert!(next[1] == "certificate 3" && next[2] != first[2]);
    // What can't be written is told before the token is spent.
    std::fs::remove_file(out.join("client.crt")).unwrap();
    std::fs::create_dir(out.join("client.crt")).unwrap();
    let spent = door.count("/oauth2/token");
    assert!(run().await.unwrap_err().problem.detail.unwrap().contains("client.crt"));
    assert_eq!(door.count("/oauth2/token"), spent);
    assert_eq!(std::fs::read_to_string(out.join("client.key")).unwrap(), next[2]);
}

#[tokio::test]
async fn a_token_is_not_asked_for_longer_than_any_lasts() {
    let door = FakeDoor::open(gate(&["active"], Ttl::minutes(5))).await;
    let person = Person::at(&door);
    sign_in(&person, &door, Ttl::hours(1), "one");
    let failure = token::run(&person.context, &args(&["--for", "16m"])).await.unwrap_err();
    assert_eq!(failure.exit, Exit::Usage);
    assert!(failure.problem.detail.as_deref().unwrap().contains("a token lasts 15m at most"), "{failure:?}");
    assert!(exchanges(&door).is_empty());
}

#[tokio::test]
async fn an_ended_session_is_told_as_by_every_other_command() {
    let answer = json!({ "error": "invalid_client", "error_description": "the session of this certificate is over" });
    let door = FakeDoor::open(move |_| json_reply(401, &answer)).await;
    let person = Person::at(&door);
    sign_in(&person, &door, Ttl::hours(1), "one");
    let failure = token::run(&person.context, &args(&[])).await.unwrap_err();
    assert_eq!((failure.exit, failure.problem.reason.as_str()), (Exit::SignedOut, "session_ended"));
    let told = failure.lines();
    assert_eq!(told[0], "error: The session is over (session_ended): the session of this certificate is over");
    assert!(told[1].contains("doorward login"), "{told:?}");
}

#[tokio::test]
async fn what_the_server_can_not_read_is_wrong_usage_in_the_words_of_the_command() {
    for (error, description, part) in [
        (
            "invalid_target",
            "there is no service of that name for this subject; give one `audience`",
            "`doorward services` lists what `--service` may name",
        ),
        ("invalid_scope", "the service has no action `nope`", "no action `nope`"),
        ("invalid_request", "`scope` names no action", "`--scope` names no action"),
    ] {
        let answer = json!({ "error": error, "error_description": description });
        let door = FakeDoor::open(move |_| json_reply(400, &answer)).await;
        let person = Person::at(&door);
        sign_in(&person, &door, Ttl::hours(1), "one");
        let failure = token::run(&person.context, &args(&[])).await.unwrap_err();
        assert_eq!(failure.exit, Exit::Usage, "{error}");
        let told = failure.lines().concat();
        assert!(told.contains(part) && !told.contains("audience"), "{told}");
    }
}

#[tokio::test]
async fn a_gate_that_stays_shut_prints_no_token() {
    let table: &[(&[&str], &[&str], Exit)] = &[
        (&["pending", "denied"], &["--wait"], Exit::Denied),
        (&["pending", "withdrawn"], &["--wait"], Exit::Failed),
        // Nobody said no, and it is not pending any more: as of `request --wait`.
        (&["pending", "timed_out"], &["--wait"], Exit::Failed),
        (&["pending", "active", "revoked"], &[], Exit::Pending),
        (&["scheduled", "revoked"], &["--wait"], Exit::Failed),
        (&["pending"], &["--wait", "--timeout", "1s"], Exit::Pending),
        (&["approved"], &["--wait", "--timeout", "1s"], Exit::Pending),
        (&["approved"], &[], Exit::Pending),
    ];
    for (states, flags, exit) in table {
        let door = FakeDoor::open(gate(states, Ttl::minutes(5))).await;
        let person = Person::with(&door, Format::Json);
        sign_in(&person, &door, Ttl::hours(1), "one");
        let line = [&["--request", "ops-api/deploy-prod"][..], flags].concat();
        let failure = token::run(&person.context, &args(&line)).await.unwrap_err();
        assert_eq!(failure.exit, *exit, "{states:?} {flags:?}");
        let told = failure.problem.detail.unwrap();
        assert!(told.contains(FIRST), "{told}");
        assert_eq!((person.out.text(), person.talk.text()), (String::new(), String::new()));
        assert!(exchanges(&door).is_empty());
    }
    // What was never granted is of no service but its own.
    let door = FakeDoor::open(gate(&["active"], Ttl::minutes(5))).await;
    let person = Person::at(&door);
    sign_in(&person, &door, Ttl::hours(1), "one");
    for wrong in ["wiki/edit", "Deploy Prod", "", "a/b/c"] {
        let failure = token::run(&person.context, &args(&["--request", wrong])).await.unwrap_err();
        assert_eq!(failure.exit, Exit::Usage, "{wrong}");
    }
    assert!(door.seen().is_empty());
}

/// A file with this text.
fn file(person: &Person, text: &str) -> PathBuf {
    let path = person.home.path().join("job.jwt");
    std::fs::write(&path, format!("{text}\n")).unwrap();
    path
}

#[tokio::test]
async fn a_job_spends_its_token_on_a_session_asks_in_it_and_exchanges_that() {
    let door = FakeDoor::open(gate(&["pending", "active"], Ttl::minutes(15))).await;
    let person = Person::at(&door);
    let path = file(&person, "own-token");
    let line = ["--subject-token-file", path.to_str().unwrap(), "--request", "deploy-prod", "--wait"];
    token::run(&person.context, &args(&line)).await.unwrap();
    assert_eq!(person.out.text(), "token-2\n");
    let sent = exchanges(&door);
    let shown = |seen: &Seen| ["audience", "subject_token", "subject_token_type", "grant"].map(|name| seen.value(name));
    let some = |text: &str| Some(text.to_owned());
    assert_eq!(shown(&sent[0]), [some(&door.origin), some("own-token"), some(JWT), None]);
    assert_eq!(shown(&sent[1]), [some("ops-api"), some("token-1"), some(ACCESS_TOKEN), some(GRANT)]);
    assert!(sent.iter().all(|seen| seen.header("authorization").is_none()));
    // What the session is for is said with the token that is good once, and not again.
    let wanted = |seen: &Seen| ["wanted_audience", "wanted_scope", "wanted_request"].map(|name| seen.value(name));
    let posted = door.seen().into_iter().find(|seen| seen.path == "/api/v1/requests").unwrap().body;
    assert_eq!(wanted(&sent[0]), [some("ops-api"), None, Some(posted)]);
    assert_eq!(wanted(&sent[1]), [None, None, None]);
    let asked: Vec<_> = door.seen().into_iter().filter(|seen| seen.path.starts_with("/api/")).collect();
    assert!(asked.len() > 1 && asked.iter().all(|seen| seen.header("authorization") == Some("Bearer token-1")));

    // One that names its grant whole spends the token on what it wants; a beginning has to be looked up.
    for (named, exchanged) in [(GRANT, 1), (&GRANT[..9], 2)] {
        let door = FakeDoor::open(gate(&["active"], Ttl::minutes(15))).await;
        let person = Person::at(&door);
        let path = file(&person, "own-token");
        let line = ["--subject-token-file", path.to_str().unwrap(), "--grant", named];
        token::run(&person.context, &args(&line)).await.unwrap();
        let sent = exchanges(&door);
        assert_eq!((sent.len(), sent[exchanged - 1].value("grant").as_deref()), (exchanged, Some(GRANT)), "{named}");
    }
}

#[tokio::test]
async fn a_job_whose_wish_is_refused_with_its_token_asks_for_nothing_and_says_why() {
    for (word, exit) in [
        ("access_denied", Exit::Denied),
        ("invalid_scope", Exit::Usage),
        ("invalid_target", Exit::Usage),
        ("not_found", Exit::Failed),
        ("too_soon", Exit::Failed),
    ] {
        let answer = json!({ "error": word, "error_description": "that is how it is" });
        let door = FakeDoor::open(move |_| json_reply(400, &answer)).await;
        let person = Person::at(&door);
        let path = file(&person, "own-token");
        let line = ["--subject-token-file", path.to_str().unwrap(), "--request", "deploy-prod", "--scope", "deploy"];
        let failure = token::run(&person.context, &args(&line)).await.unwrap_err();
        assert_eq!((failure.exit, failure.problem.reason.as_str()), (exit, word));
        assert!(failure.problem.detail.unwrap().contains("that is how it is"), "{word}");
        assert_eq!((door.seen().len(), exchanges(&door).len()), (1, 1), "{word}");
    }
}

#[tokio::test]
async fn a_jobs_wait_ends_with_its_session_unless_a_fresh_token_comes() {
    // A session that is as good as over when it begins.
    let door = FakeDoor::open(gate(&["pending"], Ttl::millis(1))).await;
    let person = Person::at(&door);
    let path = file(&person, "own-token");
    let line = ["--subject-token-file", path.to_str().unwrap(), "--request", "deploy-prod", "--wait"];
    let failure = token::run(&person.context, &args(&line)).await.unwrap_err();
    assert_eq!(failure.exit, Exit::Pending);
    let told = failure.problem.detail.unwrap();
    assert!(told.contains(FIRST) && told.contains("--subject-token-file"), "{told}");
    assert_eq!(exchanges(&door).len(), 1, "a token is not spent twice");

    // With each look a new token is in the file.
    let written: Arc<Mutex<Option<PathBuf>>> = Arc::default();
    let (inner, answer, count) =
        (Arc::clone(&written), gate(&["pending", "pending", "active"], Ttl::millis(1)), AtomicUsize::new(0));
    let door = FakeDoor::open(move |seen| {
        if let (true, Some(path)) = (seen.path.starts_with("/api/"), &*inner.lock().unwrap()) {
            std::fs::write(path, format!("fresh-{}", count.fetch_add(1, Ordering::SeqCst))).unwrap();
        }
        answer(seen)
    })
    .await;
    let person = Person::at(&door);
    let path = file(&person, "own-token");
    *written.lock().unwrap() = Some(path.clone());
    let line = ["--subject-token-file", path.to_str().unwrap(), "--request", "deploy-prod", "--wait"];
    token::run(&person.context, &args(&line)).await.unwrap();
    let spent: Vec<_> = exchanges(&door).iter().map(|seen| seen.value("subject_token").unwrap()).collect();
    assert_eq!(spent, ["own-token", "fresh-0", "fresh-1", "fresh-2"], "the last for the token itself");
    assert_eq!(person.out.text(), "token-4\n");
}

#[tokio::test]
async fn a_token_is_handed_on_to_a_workload_which_sends_it_with_its_own() {
    let door = FakeDoor::open(gate(&["active"], Ttl::minutes(5))).await;
    let person = Person::at(&door);
    sign_in(&person, &door, Ttl::hours(1), "one");
    token::run(&person.context, &args(&["--scope", "deploy", "--may-act", "ci|main"])).await.unwrap();
    let sent = exchanges(&door).pop().unwrap();
    assert_eq!((sent.value("may_act").as_deref(), sent.value("scope").as_deref()), (Some("ci|main"), Some("deploy")));
    assert_eq!(sent.value("actor_token"), None);
    // What is handed on is said: a workload gets no token for everything.
    let line = ["doorward", "token", "--service", "ops-api", "--may-act", "ci|main"];
    assert!(Arguments::try_parse_from(line).is_err());

    let (handed, own) = (person.home.path().join("handed.jwt"), person.home.path().join("own.jwt"));
    std::fs::write(&handed, "handed.on.token\n").unwrap();
    std::fs::write(&own, "own.job.token\n").unwrap();
    let files = ["--subject-token-file", handed.to_str().unwrap(), "--actor-token-file", own.to_str().unwrap()];
    token::run(&person.context, &args(&files)).await.unwrap();
    let sent = exchanges(&door).pop().unwrap();
    let value = |name: &str| sent.value(name).unwrap_or_default();
    assert_eq!(
        (value("subject_token").as_str(), value("subject_token_type").as_str()),
        ("handed.on.token", ACCESS_TOKEN)
    );
    assert_eq!((value("actor_token").as_str(), value("actor_token_type").as_str()), ("own.job.token", JWT));
    assert_eq!(person.out.text(), "token-1\ntoken-2\n");
    for more in [&["--actor-token-file", "x"][..], &[&files[..], &["--grant", GRANT]].concat()] {
        let line = ["doorward", "token", "--service", "ops-api"].into_iter().chain(more.iter().copied());
        assert!(Arguments::try_parse_from(line).is_err(), "{more:?}");
    }
}
