//! The erasure of people from the record: their values and salts go from everywhere, every proof stays,
//! what a rule keeps stays until the rule's time is over, and nobody is tied to who they were; on both
//! engines.

use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use doorward::audit::PersonalField;
use doorward::audit::evidence::Evidence;
use doorward::audit::filter::Filter;
use doorward::audit::format::{ReadLine, cef, csv, ocsf};
use doorward::audit::keep::settings::KeepRule;
use doorward::audit::line::{Withheld, check_line, withheld_line};
use doorward::audit::merkle::leaf_hash;
use doorward::audit::proof::root_by_inclusion;
use doorward::audit::report::{Exception, Gatherer, Period, Population};
use doorward::audit::settings::TypePattern;
use doorward::audit::verify::{Anchor, Verified, Verifier};
use doorward::control::audit::erase::sweep;
use doorward::control::audit::export::{Begun, begin};
use doorward::control::audit::root::Root;
use doorward::control::audit::tree::LogTree;
use doorward::control::session;
use doorward::identity::logout_token::LoggedOut;
use doorward::model::{DecisionId, EventId, Principal, Ttl, UserRef};
use doorward::policy::{PolicySet, load};
use serde_json::{Value, json};
use sqlx::Row;

use crate::api_house::{Answer, Caller, House};
use crate::leaf::decision;
use crate::policy::{settings, shown};
use crate::support::{copy_folder, databases, temporary_folder};

const PATH: &str = "/api/v1/audit/erasures";
/// Where alice acts from when she uses a service.
const ADDRESS: &str = "198.51.100.23";

/// The policies that come with the product, and security administers.
fn policies() -> Arc<PolicySet> {
    static SET: OnceLock<Arc<PolicySet>> = OnceLock::new();
    let made = || {
        let folder = temporary_folder();
        copy_folder(&Path::new(env!("CARGO_MANIFEST_DIR")).join("policies"), folder.path());
        let global = folder.path().join("global.cedar");
        let text = std::fs::read_to_string(&global).unwrap();
        let more = "\n@id(\"security-erases\")\npermit (principal in Group::\"security\", \
                    action == Action::\"administer\", resource == Installation::\"doorward\");\n\
                    @id(\"engineers-review\")\npermit (principal in Group::\"engineering\", \
                    action == Action::\"review\", resource == Installation::\"doorward\");\n";
        std::fs::write(&global, text + more).unwrap();
        Arc::new(load(folder.path(), &settings()).unwrap_or_else(|found| panic!("{}", shown(&found))))
    };
    Arc::clone(SET.get_or_init(made))
}

fn rule(name: &str, types: &[&str], length: Ttl) -> KeepRule {
    let types = types.iter().map(|text| TypePattern::parse(text).unwrap()).collect();
    KeepRule { name: name.to_owned(), types, reason: format!("the law of {name}"), length }
}

async fn house(url: &str, keep: Vec<KeepRule>) -> House {
    let house = House::with(url, |settings| settings.keep = keep).await;
    house.desk.policies.store(policies());
    house
}

/// Everything that is committed gets its number.
async fn number(house: &House) {
    for entry in house.desk.store.log_list().await.unwrap() {
        while house.desk.store.number_pending(entry.log, house.now()).await.unwrap() > 0 {}
    }
}

/// So many decisions about alice, of which the others of the record know nothing.
async fn acts(house: &House, from: u16, count: u16) {
    let store = &house.desk.store;
    let (log, sealing) = (store.own_log().unwrap(), store.sealing().unwrap());
    let made = |number: u16| {
        let mut event = decision(1, &format!("/users/alice/{number}"));
        let now = house.now();
        let mut bytes = *event.id.bytes();
        bytes[..6].copy_from_slice(&now.millis().to_be_bytes()[2..]);
        bytes[14..].copy_from_slice(&number.to_be_bytes());
        event.id = EventId::from_bytes(bytes);
        event.decision = Some(DecisionId::from_bytes(bytes));
        event.time = now;
        event.actor.address = Some(ADDRESS.parse().unwrap());
        sealing.seal(&event)
    };
    let events: Vec<_> = (from..from + count).map(made).collect();
    let mut tx = store.begin().await.unwrap();
    assert_eq!(tx.record_batch(log, &events).await.unwrap(), events.len());
    tx.commit().await.unwrap();
}

/// A life at the door: alice signs in, asks, is answered, is barred and let in again, uses a service.
/// When it is over, nothing of hers is open.
async fn life(house: &House, carol: &Caller) {
    let (alice, _, _) = house.command_line("alice").await;
    let (bob, _, _) = house.command_line("bob").await;
    acts(house, 0, 5).await;
    let asked =
        json!({ "entitlement": "ops-api/deploy-prod", "reason": "it must go out", "ticket": "OPS-1", "for": "2m" });
    let request = house.json(&alice, "/api/v1/requests", &asked).await;
    assert_eq!(request.status, 201, "{request:?}");
    let approvals = format!("/api/v1/requests/{}/approvals", request.text("/id"));
    let approved =
        house.json(&bob, &approvals, &json!({ "answer": "approve", "reason": "for alice@example.com" })).await;
    assert_eq!(approved.status, 200, "{approved:?}");
    let mut keyed = alice.clone();
    keyed.headers.push(("idempotency-key", "of-alice".to_owned()));
    let dropped = house.json(&keyed, &format!("/api/v1/grants/{}/drop", approved.text("/grant")), &json!({})).await;
    assert_eq!(dropped.status, 200, "{dropped:?}");
    let begun = json!({ "service": "metrics", "reviewers": ["Alice@example.com", "dev|bob"] });
    let review = house.json(&alice, "/api/v1/reviews", &begun).await;
    assert_eq!(review.status, 200, "{review:?}");
    let path = format!("/api/v1/reviews/{}", review.text("/id"));
    let decided = json!({ "decision": "keep", "reason": "it is asked for" });
    let decided = house.json(&alice, &format!("{path}/items/1/decision"), &decided).await;
    assert_eq!(decided.status, 200, "{decided:?}");
    assert_eq!(house.json(&alice, &format!("{path}/close"), &json!({})).await.status, 200);
    acts(house, 5, 5).await;
    for path in ["/api/v1/locks", "/api/v1/locks/clear"] {
        let barred = json!({ "principal": "dev|alice", "reason": "a laptop was lost" });
        assert_eq!(house.json(carol, path, &barred).await.status, 200);
        house.clock.advance(Ttl::minutes(2));
    }
    let (store, now) = (&house.desk.store, house.now());
    sign_out_alice(house).await;
    store.notice_channel_open("mail", now).await.unwrap();
    number(house).await;
}

async fn sign_out_alice(house: &House) {
    let who = LoggedOut::Subject("alice".to_owned());
    session::end_by_logout(&house.desk, "dev", &who, house.now()).await.unwrap();
}

fn alice_herself() -> Principal {
    Principal::user("dev", "alice").unwrap()
}

fn pseudonym(house: &House) -> UserRef {
    house.desk.store.pseudonym(&alice_herself()).unwrap()
}

async fn erase(house: &House, caller: &Caller, person: &str) -> Answer {
    house.json(caller, PATH, &json!({ "person": person, "reason": "request DSR-118" })).await
}

/// Numbers, lets the tree grow, and verifies everything as an auditor does, from an export and with the
/// database's columns compared.
async fn verified(house: &House) -> (Verified, Vec<String>, Evidence) {
    number(house).await;
    let (desk, now) = (&house.desk, house.now());
    let root = Root::open(&desk.store, &desk.sealer).await.unwrap();
    let mut tree = LogTree::open(&desk.store, &desk.sealer, &root, now, &*desk.entropy).await.unwrap();
    while tree.grow(&desk.store, now).await.unwrap().size
        < u64::try_from(desk.store.log_size(desk.store.own_log().unwrap()).await.unwrap()).unwrap()
    {}
    let mut found = Vec::new();
    for columns in [false, true] {
        let Begun { statement, mut evidence, mut export } =
            begin(&desk.store, root.key(), &Filter::default(), now).await.unwrap();
        evidence.statement = statement.sign(root.signer());
        if columns {
            export.compare_columns();
        }
        let anchor = Anchor { key: Some(root.key().clone()), witnessed: Vec::new() };
        let mut verifier = Verifier::new(&evidence, &anchor).unwrap();
        let mut lines = Vec::new();
        while let Some(page) = export.next().await.unwrap() {
            for line in page {
                verifier.take(check_line(&line)).unwrap_or_else(|fault| panic!("{fault}: {line}"));
                lines.push(line);
            }
        }
        found.push((verifier.end().unwrap(), lines, evidence));
    }
    assert_eq!(found[0].0, found[1].0);
    found.remove(0)
}

/// Every text of every table, and of SQLite every byte of its files.
async fn dump(url: &str) -> String {
    sqlx::any::install_default_drivers();
    if let Some(path) = url.strip_prefix("sqlite://") {
        let mut all = String::new();
        for end in ["", "-wal"] {
            let path = PathBuf::from(format!("{path}{end}"));
            all.push_str(&String::from_utf8_lossy(&std::fs::read(path).unwrap_or_default()));
        }
        return all;
    }
    let pool = sqlx::any::AnyPoolOptions::new().max_connections(1).connect(url).await.unwrap();
    let tables: Vec<String> =
        sqlx::query_scalar("select cast(tablename as text) from pg_tables where schemaname = 'public'")
            .fetch_all(&pool)
            .await
            .unwrap();
    assert!(tables.len() > 20, "{tables:?}");
    let mut all = String::new();
    for table in tables {
        let text = format!("select cast(t as text) as line from \"{table}\" t");
        for row in sqlx::query(sqlx::AssertSqlSafe(text)).fetch_all(&pool).await.unwrap() {
            all.push_str(&row.get::<String, _>("line"));
            all.push('\n');
        }
    }
    all
}

fn mentions(dump: &str, what: &str) -> Vec<String> {
    let (dump, what) = (dump.to_lowercase(), what.to_lowercase());
    let around = |at: usize| {
        let around = dump.char_indices().skip_while(|(i, _)| *i + 80 < at).take(200).map(|(_, c)| c);
        around.collect::<String>()
    };
    dump.match_indices(&what).map(|(at, _)| around(at)).collect()
}

#[tokio::test]
async fn a_person_is_erased_from_everywhere_and_every_proof_stays() {
    for url in databases() {
        let house = house(&url, Vec::new()).await;
        let (carol, _, _) = house.command_line("carol").await;
        life(&house, &carol).await;
        let before = verified(&house).await;
        assert_eq!((before.0.erased, before.0.anchored), (0, true));
        assert!(mentions(&dump(&url).await, "alice").len() > 20);
        let old = pseudonym(&house);

        let mut plan = asked("alice@example.com");
        plan["dry_run"] = json!(true);
        let plan = house.json(&carol, PATH, &plan).await;
        assert_eq!(plan.status, 200, "{plan:?}");
        assert_eq!(plan.text("/pseudonym"), old.to_string());
        let told = house.json(&carol, PATH, &asked("alice@example.com")).await;
        assert_eq!(told.status, 200, "{told:?}");
        for count in ["events", "fields"] {
            assert_eq!(told.body[count], plan.body[count], "{count}");
        }
        // What names her in a text goes once everybody can know that it does.
        assert_eq!((told.text("/state"), told.text("/pseudonym")), ("running", old.to_string().as_str()));
        assert_eq!(verified(&house).await.0.erased_events, 0);
        house.clock.advance(Ttl::seconds(11));
        swept(&house).await;
        let told = house.get(&carol, &format!("{PATH}/{}", told.text("/id"))).await;
        assert_eq!(told.text("/state"), "done", "{told:?}");
        assert!(told.body["events"].as_i64().unwrap() >= 15, "{told:?}");

        // The record holds as before, and says what is gone.
        let after = verified(&house).await;
        assert!(after.0.anchored && after.0.lines > before.0.lines);
        // Of the event that names her in a text, her value went first and then everything.
        assert_eq!(i64::try_from(after.0.erased).unwrap() + 1, told.body["fields"].as_i64().unwrap());
        assert_eq!((after.0.erased_events, &told.body["texts"], after.0.erased_untold), (1, &json!(1), 0));
        for (old, new) in before.1.iter().zip(&after.1) {
            let leaf = |line: &str| serde_json::from_str::<Value>(line).unwrap()["leaf"].clone();
            assert_eq!(leaf(old), leaf(new), "no leaf is another");
        }
        let last: Value = after
            .1
            .iter()
            .map(|line| serde_json::from_str::<Value>(line).unwrap())
            .find(|line| line["type"] == "audit.person_erased")
            .unwrap();
        assert_eq!(last["data"]["pseudonym"], old.to_string());
        assert_eq!((&last["data"]["events"], &last["data"]["fields"]), (&told.body["events"], &told.body["fields"]));
        assert_eq!(last["actor"]["email"], "carol@example.com");
        assert_eq!(last["data"]["reason"], "request DSR-118");

        // An event of hers in the middle of the log is still proven to be in it.
        let hers = after.1.iter().map(|line| serde_json::from_str::<Value>(line).unwrap());
        let hers: Vec<Value> = hers.filter(|line| line["actor"]["id"] == old.to_string()).collect();
        for line in hers.iter().take(3) {
            assert!(line["erased"].as_array().unwrap().contains(&json!("principal")), "{line}");
            assert!(line["actor"].get("email").is_none() && line["personal"].as_object().unwrap().is_empty());
            let (node, seq) = (line["node"].as_str().unwrap(), line["seq"].as_u64().unwrap());
            let proof = house.get(&carol, &format!("/api/v1/audit/inclusion?log={node}&index={seq}")).await;
            let decoded = |text: &Value| data_encoding::BASE64.decode(text.as_str().unwrap().as_bytes()).unwrap();
            let hashes: Vec<_> =
                proof.body["hashes"].as_array().unwrap().iter().map(|hash| decoded(hash).try_into().unwrap()).collect();
            let root = root_by_inclusion(
                seq,
                proof.body["size"].as_u64().unwrap(),
                &leaf_hash(line["leaf"].as_str().unwrap().as_bytes()),
                &hashes,
            );
            assert_eq!(root.unwrap().to_vec(), decoded(&proof.body["root"]));
        }

        // After a while every place that others must read from has let go too.
        house.clock.advance(Ttl::minutes(6));
        let node = house.desk.store.node().unwrap();
        sweep::round(&house.desk, node, house.now()).await.unwrap();
        let dump = dump(&url).await;
        for what in ["alice", ADDRESS] {
            assert_eq!(mentions(&dump, what), Vec::<String>::new(), "{what} in {url}");
        }
    }
}

/// What a person is erased with here, and how the texts that name them are dealt with.
fn asked(person: &str) -> Value {
    json!({ "person": person, "reason": "request DSR-118", "texts": "erase" })
}

async fn swept(house: &House) {
    number(house).await;
    let node = house.desk.store.node().unwrap();
    sweep::round(&house.desk, node, house.now()).await.unwrap();
}

/// Lines of the record in which this pseudonym acts.
async fn trail(house: &House, of: UserRef) -> Vec<Value> {
    let lines = verified(house).await.1;
    let lines = lines.iter().map(|line| serde_json::from_str::<Value>(line).unwrap());
    lines.filter(|line| line["actor"]["id"] == of.to_string()).collect()
}

#[tokio::test]
async fn what_a_rule_keeps_stays_until_its_time_is_over_and_then_goes_by_itself() {
    for url in databases() {
        let keep =
            vec![rule("sign-ins", &["session.*"], Ttl::hours(48)), rule("short", &["session.start"], Ttl::hours(1))];
        let house = house(&url, keep).await;
        let (carol, _, _) = house.command_line("carol").await;
        life(&house, &carol).await;
        let old = pseudonym(&house);
        let told = house.json(&carol, PATH, &asked("dev|alice")).await;
        assert_eq!((told.status.as_u16(), told.text("/state")), (200, "running"), "{told:?}");
        house.clock.advance(Ttl::seconds(11));
        swept(&house).await;
        let told = house.get(&carol, &format!("{PATH}/{}", told.text("/id"))).await;
        assert_eq!(told.text("/state"), "kept", "{told:?}");
        // The longer of two rules counts.
        assert_eq!(told.body["kept"].as_array().unwrap().len(), 1, "{told:?}");
        assert_eq!((told.text("/kept/0/rule"), told.text("/kept/0/reason")), ("sign-ins", "the law of sign-ins"));
        let kept = told.body["kept"][0]["events"].as_i64().unwrap();
        assert!(kept >= 3, "{told:?}");
        let whole = |line: &Value| line["actor"].get("email").is_some();
        let lines = trail(&house, old).await;
        assert!(lines.iter().all(|line| whole(line) == (line["type"] == "session.start")), "{lines:#?}");
        // One day later nothing has gone, after two days all has, and nobody had to ask.
        house.clock.advance(Ttl::hours(24));
        swept(&house).await;
        assert!(trail(&house, old).await.iter().any(whole));
        house.clock.advance(Ttl::hours(25));
        swept(&house).await;
        assert!(!trail(&house, old).await.iter().any(whole));
        let (carol, _, _) = house.command_line("carol").await;
        let now = house.get(&carol, &format!("{PATH}/{}", told.text("/id"))).await;
        assert_eq!((now.text("/state"), now.body["kept"].as_array().unwrap().len()), ("done", 0), "{now:?}");
        assert_eq!(now.body["events"].as_i64().unwrap(), told.body["events"].as_i64().unwrap() + kept);
        let lines = verified(&house).await.1;
        let rules = lines.iter().map(|line| serde_json::from_str::<Value>(line).unwrap());
        let rules: Vec<Value> =
            rules.filter(|line| line["type"] == "audit.erased").map(|line| line["data"]["rules"].clone()).collect();
        assert!(rules.contains(&json!(["sign-ins"])), "{rules:?}");
    }
}

#[tokio::test]
async fn where_a_rule_keeps_everything_the_erasure_is_refused_with_its_name() {
    for url in databases() {
        let house = house(&url, vec![rule("all-of-it", &["*"], Ttl::hours(1000))]).await;
        let (carol, _, _) = house.command_line("carol").await;
        life(&house, &carol).await;
        for dry_run in [false, true] {
            let mut body = asked("alice@example.com");
            body["dry_run"] = json!(dry_run);
            let told = house.json(&carol, PATH, &body).await;
            assert_eq!((told.status.as_u16(), told.text("/reason")), (409, "kept_by_rule"), "{told:?}");
            assert!(told.text("/detail").contains("`all-of-it` (the law of all-of-it)"), "{told:?}");
        }
        assert_eq!(house.get(&carol, PATH).await.body["items"], json!([]));
        assert_eq!(verified(&house).await.0.erased, 0);
        assert_eq!(house.desk.store.account_list_of_email("alice@example.com").await.unwrap().len(), 1);
    }
}

#[tokio::test]
async fn texts_that_name_the_person_go_as_a_whole_or_stay_as_is_said() {
    for url in databases() {
        let house = house(&url, Vec::new()).await;
        let (carol, _, _) = house.command_line("carol").await;
        life(&house, &carol).await;
        // Bob wrote her address when he said yes.
        let told = erase(&house, &carol, "dev|alice").await;
        assert_eq!((told.status.as_u16(), told.text("/reason")), (409, "named_in_texts"), "{told:?}");
        let mut body = asked("dev|alice");
        body["texts"] = json!("keep");
        let told = house.json(&carol, PATH, &body).await;
        assert_eq!((&told.body["texts"], &told.body["texts_left"]), (&json!(0), &json!(1)), "{told:?}");
        let text = |line: &&String| line.contains("for alice@example.com");
        assert_eq!(verified(&house).await.1.iter().filter(text).count(), 1);
    }
    for url in databases() {
        let house = house(&url, Vec::new()).await;
        let (carol, _, _) = house.command_line("carol").await;
        life(&house, &carol).await;
        let told = house.json(&carol, PATH, &asked("dev|alice")).await;
        house.clock.advance(Ttl::seconds(11));
        swept(&house).await;
        let told = house.get(&carol, &format!("{PATH}/{}", told.text("/id"))).await;
        assert_eq!((&told.body["texts"], &told.body["texts_left"]), (&json!(1), &json!(0)), "{told:?}");
        let (verified, lines, evidence) = verified(&house).await;
        assert_eq!(verified.erased_events, 1);
        let withheld: Vec<&String> = lines.iter().filter(|line| line.contains("\"withheld\":\"erased\"")).collect();
        assert_eq!(withheld.len(), 1);
        assert!(withheld[0].contains("request.approved") && !withheld[0].contains("alice"), "{withheld:?}");
        let found = house.get(&carol, "/api/v1/audit/events?type=request.approved").await;
        assert_eq!(found.text("/items/0/withheld"), "erased", "{found:?}");
        // One more, of which no erasure tells: whoever exports hides something.
        let root = Root::open(&house.desk.store, &house.desk.sealer).await.unwrap();
        let anchor = Anchor { key: Some(root.key().clone()), witnessed: Vec::new() };
        let mut verifier = Verifier::new(&evidence, &anchor).unwrap();
        for (place, line) in lines.iter().enumerate() {
            let hidden = withheld_line(
                serde_json::from_str::<Value>(line).unwrap()["leaf"].as_str().unwrap(),
                &check_line(line).unwrap().leaf,
                Withheld::Erased,
            );
            verifier.take(check_line(if place == 3 { &hidden } else { line })).unwrap();
        }
        let fault = verifier.end().unwrap_err();
        assert!(fault.code() == 10 && fault.to_string().contains("2 events have no content"), "{fault}");
    }
}

#[tokio::test]
async fn who_comes_again_gets_a_new_trail_that_nothing_ties_to_the_old_one() {
    for url in databases() {
        let house = house(&url, Vec::new()).await;
        let (carol, _, _) = house.command_line("carol").await;
        life(&house, &carol).await;
        let first = pseudonym(&house);
        let mut other = crate::access_world::Node::start(&url, &house.clock, 2, 7).await;
        assert_eq!(house.json(&carol, PATH, &asked("dev|alice")).await.status, 200);
        let second = pseudonym(&house);
        assert_ne!(first, second);
        // A node that runs hears of it, one that starts reads it.
        assert_eq!(other.desk().store.pseudonym(&alice_herself()).unwrap(), first);
        other.follow().await;
        assert_eq!(other.desk().store.pseudonym(&alice_herself()).unwrap(), second);
        let third = House::node(&url, house.clock.clone(), 3, 9, |_| ()).await;
        assert_eq!(third.desk.store.pseudonym(&alice_herself()).unwrap(), second);

        let (_, answer, _) = house.command_line("alice").await;
        assert_eq!(answer["session"]["principal"]["id"], "dev|alice");
        house.clock.advance(Ttl::minutes(10));
        swept(&house).await;
        let lines = trail(&house, second).await;
        assert!(
            lines.len() >= 2 && lines.iter().all(|line| line["actor"]["email"] == "alice@example.com"),
            "{lines:#?}"
        );
        assert!(trail(&house, first).await.iter().all(|line| line["actor"].get("email").is_none()));
        let found = house.get(&carol, "/api/v1/audit/events?actor=dev%7Calice&limit=1000").await;
        assert!(found.body["items"].as_array().unwrap().iter().all(|event| event["actor"]["id"] == second.to_string()));
        // Nothing that is kept has both pseudonyms in it.
        for line in verified(&house).await.1 {
            assert!(!(line.contains(&first.to_string()) && line.contains(&second.to_string())), "{line}");
        }
        // The new trail is erased as the old one was.
        sign_out_alice(&house).await;
        number(&house).await;
        let again = house.json(&carol, PATH, &asked("dev|alice")).await;
        assert_eq!((again.status.as_u16(), again.text("/pseudonym")), (200, second.to_string().as_str()), "{again:?}");
        assert!(![first, second].contains(&pseudonym(&house)));
    }
}

#[tokio::test]
async fn what_lay_in_a_spool_is_erased_when_it_is_merged() {
    for url in databases() {
        let house = house(&url, Vec::new()).await;
        let (carol, _, _) = house.command_line("carol").await;
        life(&house, &carol).await;
        let (store, sealing) = (&house.desk.store, house.desk.store.sealing().unwrap());
        let mut late = decision(9, "/users/alice/late");
        late.id = EventId::fresh(house.now(), &*house.desk.entropy);
        late.time = house.now();
        let late = sealing.seal(&late);
        let old = pseudonym(&house);
        assert_eq!(house.json(&carol, PATH, &asked("dev|alice")).await.status, 200);
        house.clock.advance(Ttl::minutes(10));
        swept(&house).await;
        // A node that was away comes back a week later.
        house.clock.advance(Ttl::hours(24 * 7));
        let mut tx = store.begin().await.unwrap();
        tx.record_merge(store.own_log().unwrap(), &[late], house.now()).await.unwrap();
        tx.commit().await.unwrap();
        assert!(trail(&house, old).await.iter().any(|line| line["actor"].get("email").is_some()));
        swept(&house).await;
        let lines = trail(&house, old).await;
        assert!(lines.iter().all(|line| line["actor"].get("email").is_none()), "{lines:#?}");
    }
}

/// Events of all logs in which this pseudonym acts, and how many of them have no e-mail any more.
async fn counted(house: &House, of: UserRef) -> (usize, usize) {
    let (mut all, mut erased) = (0, 0);
    for entry in house.desk.store.log_list().await.unwrap() {
        let mut from = 0;
        loop {
            let page = house.desk.store.event_range(entry.log, from, u64::MAX / 2, 1000).await.unwrap();
            let Some(last) = page.last() else { break };
            from = u64::try_from(last.seq.unwrap() + 1).unwrap();
            let theirs: Vec<_> = page.iter().filter(|event| event.clear().actor == Some(of)).collect();
            all += theirs.len();
            erased += theirs.iter().filter(|event| event.personal(PersonalField::Email).is_none()).count();
        }
    }
    (all, erased)
}

#[tokio::test]
async fn an_erasure_that_a_crash_breaks_off_anywhere_is_gone_on_with_and_loses_nothing() {
    for url in databases() {
        let house = house(&url, Vec::new()).await;
        let (carol, _, _) = house.command_line("carol").await;
        // Three logs, with hundreds of events of each person.
        let mut nodes = Vec::new();
        for node in 2..=3u8 {
            nodes.push(House::node(&url, house.clock.clone(), node, u64::from(node) + 50, |_| ()).await);
        }
        let people: Vec<String> = (0..8).map(|number| format!("crash{number}")).collect();
        for (position, person) in people.iter().enumerate() {
            for (log, of) in std::iter::once(&house).chain(&nodes).enumerate() {
                let (store, sealing) = (&of.desk.store, of.desk.store.sealing().unwrap());
                let made = |number: u16| {
                    let mut event = decision(1, "/private");
                    let mut bytes = *event.id.bytes();
                    (bytes[10], bytes[11], bytes[13]) = (position as u8, log as u8, 1);
                    bytes[14..].copy_from_slice(&number.to_be_bytes());
                    event.id = EventId::from_bytes(bytes);
                    event.actor.principal = Principal::user("dev", person);
                    event.actor.email = Some(format!("{person}@example.com").into());
                    sealing.seal(&event)
                };
                let mut tx = store.begin().await.unwrap();
                let events: Vec<_> = (0..60u16).map(made).collect();
                tx.record_batch(store.own_log().unwrap(), &events).await.unwrap();
                tx.commit().await.unwrap();
            }
        }
        let mut begun = 0;
        for (position, person) in people.iter().enumerate() {
            let of = house.desk.store.pseudonym(&Principal::user("dev", person).unwrap()).unwrap();
            // Postponed to the sweep of another node: with an engine that answers later, a cut comes earlier.
            let name = format!("dev|{person}");
            let _ = crate::access_world::cut(20 + position * 60, erase(&house, &carol, &name)).await;
            // A commit that was on its way when its caller went away may come to its end.
            tokio::time::sleep(std::time::Duration::from_millis(250)).await;
            let erasure = house.desk.store.erasure_of(of).await.unwrap();
            let mut gone = 0;
            if erasure.is_some() {
                begun += 1;
                house.clock.advance(Ttl::minutes(2));
                sweep::round(&nodes[0].desk, nodes[0].desk.store.node().unwrap(), house.now()).await.unwrap();
                let erasure = house.desk.store.erasure_of(of).await.unwrap().unwrap();
                assert_eq!((erasure.state.name(), erasure.events, erasure.fields), ("done", 180, 900), "{person}");
                gone = 180;
            }
            let (all, erased) = counted(&house, of).await;
            assert_eq!((all, erased), (180, gone), "{person}: all or nothing");
            house.clock.advance(Ttl::minutes(6));
            swept(&house).await;
        }
        assert!(begun > 0 && begun < people.len(), "{begun} of {} were begun", people.len());
        // What was erased, batch by batch, is on record once.
        for node in &nodes {
            verified(node).await;
        }
        let lines = verified(&house).await.1;
        let lines = lines.iter().map(|line| serde_json::from_str::<Value>(line).unwrap());
        let batches: Vec<Value> = lines.filter(|line| line["type"] == "audit.erased").collect();
        let sum: i64 = batches.iter().map(|line| line["data"]["count"].as_i64().unwrap()).sum();
        assert_eq!(sum, i64::try_from(begun).unwrap() * 180);
        assert!(batches.len() >= 3 * begun);
    }
}

#[tokio::test]
async fn who_can_t_be_erased_is_refused_and_told_why() {
    for url in databases() {
        let house = house(&url, Vec::new()).await;
        let (carol, _, _) = house.command_line("carol").await;
        let (bob, _, _) = house.command_line("bob").await;
        let refused = async |caller: &Caller, body: Value, status: u16, reason: &str, detail: &str| {
            let told = house.json(caller, PATH, &body).await;
            assert_eq!((told.status.as_u16(), told.text("/reason")), (status, reason), "{body}: {told:?}");
            assert!(told.text("/detail").contains(detail), "{body}: {told:?}");
        };
        let of = |person: &str| json!({ "person": person, "reason": "DSR-118" });
        // Somebody signed in, with something asked for; and barred.
        let (alice, _, _) = house.command_line("alice").await;
        let ask = json!({ "entitlement": "ops-api/deploy-prod", "reason": "a test", "ticket": "OPS-1" });
        let request = house.json(&alice, "/api/v1/requests", &ask).await;
        refused(&carol, of("dev|alice"), 409, "still_open", "2 live sessions").await;
        sign_out_alice(&house).await;
        refused(&carol, of("dev|alice"), 409, "still_open", "1 pending request (").await;
        let withdrawn = format!("/api/v1/requests/{}/approvals", request.text("/id"));
        assert_eq!(house.json(&bob, &withdrawn, &json!({ "answer": "deny" })).await.status, 200);
        house.json(&carol, "/api/v1/locks", &json!({ "principal": "dev|alice", "reason": "x" })).await;
        refused(&carol, of("dev|alice"), 409, "still_open", "1 lock, which an erasure would lift").await;
        house.json(&carol, "/api/v1/locks/clear", &json!({ "principal": "dev|alice", "reason": "x" })).await;
        number(&house).await;
        // Whose approval still counts: as somebody new they could give a second one.
        let (twice, _, _) = house.command_line("alice").await;
        let ask = json!({ "entitlement": "deploy-pipeline/promote-frozen", "reason": "a test", "ticket": "INC-1" });
        let request = house.json(&twice, "/api/v1/requests", &ask).await;
        assert_eq!(request.status, 201, "{request:?}");
        let path = format!("/api/v1/requests/{}", request.text("/id"));
        let approved = house.json(&bob, &format!("{path}/approvals"), &json!({ "answer": "approve" })).await;
        assert_eq!((approved.status.as_u16(), approved.text("/state")), (200, "pending"), "{approved:?}");
        refused(&carol, of("dev|bob"), 409, "still_open", "1 approval that counts for a pending request").await;
        let withdrawn = house.json(&twice, &format!("{path}/withdraw"), &json!({})).await;
        assert_eq!(withdrawn.status, 200, "{withdrawn:?}");
        let told = house.json(&carol, PATH, &of("dev|bob")).await;
        assert!(!told.text("/detail").contains("approvals"), "{told:?}");
        sign_out_alice(&house).await;
        number(&house).await;
        // Nobody, by its form or in fact; not a person; not allowed.
        refused(&carol, of("dev|nobody"), 404, "not_found", "nobody of that name").await;
        refused(&carol, of("nobody@example.com"), 404, "not_found", "nobody of that name").await;
        refused(&carol, of("usr_06h01rs2cto0b2afh7rgi8mlb0"), 404, "not_found", "nobody of that name").await;
        refused(&carol, of("alice"), 400, "invalid_request", "name the person as").await;
        refused(&carol, of("Workload::\"ci|build\""), 400, "invalid_request", "not a person").await;
        refused(&carol, json!({ "person": "dev|alice", "reason": "  " }), 400, "invalid_request", "give a reason")
            .await;
        for reason in ["as alice@example.com asked", "Alice asked", "account dev|alice"] {
            let body = json!({ "person": "dev|alice", "reason": reason });
            refused(&carol, body, 400, "invalid_request", "the reason names the person").await;
        }
        refused(&bob, of("dev|alice"), 403, "no_policy_match", "administer").await;
        assert_eq!(house.get(&bob, PATH).await.status, 403);
        assert_eq!(house.json(&carol, PATH, &json!({ "person": "dev|alice" })).await.status, 400);
        // Two accounts of one address.
        let now = house.now();
        let twin = session::NewSession {
            email: Some("Alice@example.com".to_owned()),
            ..crate::support::new_session(
                doorward::model::SessionKind::Browser,
                Principal::user("other", "a-1").unwrap(),
                now,
            )
        };
        let started = session::start(&house.desk, twin, None, &crate::api_house::facts(None), now).await.unwrap();
        refused(&carol, of("alice@example.com"), 409, "ambiguous_person", "2 accounts have had that address").await;
        house.end_elsewhere(started.stored.session.id).await;
        // An opening of the emergency path whose opener calls themselves as she is called.
        let id = crate::emergency_review::opened(&house, "Alice").await;
        refused(&carol, of("dev|alice"), 409, "still_open", &format!("breakglass close {id}")).await;
        house.clock.advance(Ttl::minutes(11));
        // Done once, with one answer under one key, and not a second time.
        let mut keyed = carol.clone();
        keyed.headers.push(("idempotency-key", "once".to_owned()));
        let old = pseudonym(&house);
        let told = house.json(&keyed, PATH, &of("dev|alice")).await;
        assert_eq!(told.status, 200, "{told:?}");
        assert_eq!(house.json(&keyed, PATH, &of("dev|alice")).await.body, told.body);
        refused(&carol, of("dev|alice"), 404, "not_found", "nobody of that name").await;
        refused(&carol, of(&old.to_string()), 409, "already_erased", told.text("/id")).await;
        let listed = house.get(&carol, &format!("{PATH}?limit=1")).await;
        assert_eq!(listed.text("/items/0/id"), told.text("/id"), "{listed:?}");
        assert_eq!(house.get(&carol, &format!("{PATH}/{}", told.text("/id"))).await.status, 200);
        assert_eq!(house.get(&carol, &format!("{PATH}/ers_x")).await.status, 404);
        assert_eq!(house.get(&carol, &format!("{PATH}?cursor=x")).await.status, 400);
    }
}

#[tokio::test]
async fn erased_values_are_shown_as_erased_in_every_form() {
    let url = crate::support::sqlite_database();
    let house = house(&url, Vec::new()).await;
    let (carol, _, _) = house.command_line("carol").await;
    life(&house, &carol).await;
    let old = pseudonym(&house);
    assert_eq!(house.json(&carol, PATH, &asked("dev|alice")).await.status, 200);
    house.clock.advance(Ttl::seconds(11));
    swept(&house).await;
    let lines = verified(&house).await.1;
    let of = |kind: &str| {
        let found =
            lines.iter().find(|line| line.contains(&old.to_string()) && line.contains(&format!("\"type\":\"{kind}\"")));
        ReadLine::parse(found.unwrap().as_bytes()).unwrap()
    };
    let decision = of("decision.allow");
    let row = csv::row(&decision.entry());
    assert_eq!(row.matches("erased").count(), 5, "{row}");
    let row = cef::line(&decision.entry());
    assert!(row.contains("suser=erased") && row.contains("request=erased") && !row.contains("src="), "{row}");
    let object: Value = serde_json::from_str(&ocsf::line(&of("session.start").entry())).unwrap();
    assert_eq!(object["actor"]["user"]["name"], "erased", "{object}");
    assert!(
        object["unmapped"]["erased"].as_array().unwrap().contains(&json!("address"))
            && object.get("src_endpoint").is_none()
    );
    let barred = of("lock.set");
    let object: Value = serde_json::from_str(&ocsf::line(&barred.entry())).unwrap();
    assert_eq!(object["actor"]["user"]["email_addr"], "carol@example.com", "the other one stays: {object}");
    assert!(csv::row(&barred.entry()).contains("erased"));
    // A decision of hers is explained as that of a person who was erased.
    let id = decision.entry().text("/decision").unwrap().to_owned();
    let why = house.get(&carol, &format!("/api/v1/decisions/{id}")).await;
    assert_eq!((why.text("/erased"), why.body["principal"].is_null()), (old.to_string().as_str(), true), "{why:?}");
    // Reports list the erasure and count what is gone.
    let mut gatherer = Gatherer::new(Period { from: None, to: None }, house.now());
    for line in &lines {
        gatherer.take(&check_line(line).unwrap(), ReadLine::parse(line.as_bytes()).as_ref());
    }
    let gathered = gatherer.end();
    assert_eq!(gathered.populations[&Population::Erasures].count, 1);
    assert!(gathered.totals.erased >= 10 && gathered.totals.pruned == 0, "{:?}", gathered.totals);
    assert_eq!(gathered.found[&Exception::PrunedEarly].count, 0);
    let row = &gathered.found[&Exception::PeopleErased].rows[0];
    assert!(row.note.contains("1 events as a whole"), "{row:?}");
    assert!(row.event.as_ref().unwrap().who.as_ref().unwrap().contains("dev|carol"), "{row:?}");
}

#[test]
fn a_rule_that_keeps_nothing_is_none() {
    for good in ["*", "breakglass.*", "session.start", "audit.*"] {
        assert!(TypePattern::parse(good).is_some(), "{good}");
    }
    for bad in ["", "session", "session.", ".*", "sess.*", "session.st*", "session.started", "*.*"] {
        assert!(TypePattern::parse(bad).is_none(), "{bad}");
    }
}

/// A table that nobody thought of would keep people who were erased.
#[test]
fn every_table_stands_in_the_runbook_of_erasure() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let runbook = std::fs::read_to_string(root.join("deploy/runbooks/erasure.md")).unwrap();
    let mut tables = 0;
    for file in std::fs::read_dir(root.join("migrations")).unwrap().flatten() {
        let text = std::fs::read_to_string(file.path()).unwrap();
        for line in text.lines().filter_map(|line| line.strip_prefix("create table ")) {
            let table = line.split(' ').next().unwrap();
            assert!(
                runbook.contains(&format!("`{table}`")),
                "say in deploy/runbooks/erasure.md what is erased in `{table}`, what stays and why; and erase it in `store/erasure_person.rs`"
            );
            tables += 1;
        }
    }
    assert!(tables > 30, "{tables}");
}

/// The paths of bob's requests in the record, as it is told.
async fn paths_of_bob(house: &House) -> Vec<String> {
    let lines = verified(house).await.1;
    let lines = lines.iter().map(|line| serde_json::from_str::<Value>(line).unwrap());
    let bobs = lines.filter(|line| line["actor"]["principal"].as_str().is_some_and(|who| who.contains("dev|bob")));
    bobs.filter_map(|line| line["request"]["path"].as_str().map(str::to_owned)).collect()
}

#[tokio::test]
async fn a_path_in_which_somebody_else_names_the_person_goes_alone_or_stays_as_is_said() {
    let named =
        ["/echo/alice@example.com", "/echo/alice%40example.com", "/echo/ALICE@Example.com/x", "/echo/dev%7Calice"];
    let other = ["/echo/malice@example.com", "/echo/alice", "/echo/alice@example.community"];
    for (url, texts) in databases().into_iter().map(|url| (url, "erase")).chain([(databases().remove(0), "keep")]) {
        let house = house(&url, Vec::new()).await;
        let (carol, _, _) = house.command_line("carol").await;
        house.command_line("alice").await;
        for (number, path) in named.iter().chain(&other).enumerate() {
            let mut event = decision(u8::try_from(number).unwrap() + 1, path);
            event.actor.principal = Principal::user("dev", "bob");
            event.actor.email = Some("bob@example.com".into());
            event.actor.device = None;
            crate::audit_stream::happens(&house, &event).await;
        }
        sign_out_alice(&house).await;
        number(&house).await;
        let mut body = json!({ "person": "alice@example.com", "reason": "request DSR-118", "dry_run": true });
        let plan = house.json(&carol, PATH, &body).await;
        assert_eq!((&plan.body["texts"], &plan.body["paths"]), (&json!(0), &json!(named.len())), "{plan:?}");
        body["dry_run"] = json!(false);
        let told = house.json(&carol, PATH, &body).await;
        assert_eq!((told.status.as_u16(), told.text("/reason")), (409, "named_in_texts"), "{told:?}");
        body["texts"] = json!(texts);
        assert_eq!(house.json(&carol, PATH, &body).await.status, 200);
        house.clock.advance(Ttl::seconds(11));
        swept(&house).await;
        let left = paths_of_bob(&house).await;
        if texts == "keep" {
            assert_eq!(left.len(), named.len() + other.len(), "{left:?}");
            continue;
        }
        assert_eq!(left, other, "{url}");
        let lines = verified(&house).await.1;
        let lines = lines.iter().map(|line| serde_json::from_str::<Value>(line).unwrap());
        let paths: i64 =
            lines.filter_map(|line| line["data"]["paths"].as_i64().filter(|_| line["type"] == "audit.erased")).sum();
        assert_eq!(paths, i64::try_from(named.len()).unwrap());
    }
}

#[tokio::test]
async fn a_dry_run_judges_the_reason_and_what_stands_for_the_erased_is_nobody() {
    let url = databases().remove(0);
    let house = house(&url, vec![rule("sign-ins", &["session.*"], Ttl::hours(48))]).await;
    let (carol, _, _) = house.command_line("carol").await;
    life(&house, &carol).await;
    for dry_run in [true, false] {
        for reason in ["alice@example.com asked", "\u{200b}\u{3164}"] {
            let body = json!({ "person": "dev|alice", "reason": reason, "texts": "keep", "dry_run": dry_run });
            assert_eq!(house.json(&carol, PATH, &body).await.status, 400, "{reason}");
        }
    }
    let old = pseudonym(&house);
    let told = house.json(&carol, PATH, &asked("dev|alice")).await;
    assert_eq!(told.status, 200, "{told:?}");
    for person in [format!("(erased)|{old}"), "alice@example.com".to_owned()] {
        let again = house.json(&carol, PATH, &asked(&person)).await;
        assert_eq!((again.status.as_u16(), again.text("/reason")), (409, "already_erased"), "{again:?}");
        assert!(again.text("/detail").contains("`sign-ins` keeps"), "{again:?}");
    }
}

#[tokio::test]
async fn a_refusal_to_read_the_record_says_what_was_refused() {
    let house = house(&databases().remove(0), Vec::new()).await;
    let (alice, _, _) = house.command_line("alice").await;
    let (carol, _, _) = house.command_line("carol").await;
    for (path, action) in
        [("/api/v1/audit/events", "read_audit"), ("/api/v1/audit/streams", "read_audit"), (PATH, "administer")]
    {
        house.clock.advance(Ttl::seconds(1));
        assert_eq!(house.get(&alice, path).await.status, 403, "{path}");
        number(&house).await;
        let denied = house.get(&carol, "/api/v1/audit/events?type=decision.deny&limit=1").await;
        assert_eq!(
            (denied.text("/items/0/action"), denied.text("/items/0/resource")),
            (action, "Installation::\"doorward\""),
            "{denied:?}"
        );
    }
}
