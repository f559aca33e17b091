//! The erasure of people from the record: their values and salts go from everywhere, every proof stays,
//! what a rule keeps stays until the rule's time is over, and nobody is tied to who they were; on both
//! engines.

use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use doorward::audit::evidence::Evidence;
use doorward::audit::filter::Filter;
use doorward::audit::keep::{KeepRule, TypePattern};
use doorward::audit::line::check_line;
use doorward::audit::merkle::leaf_hash;
use doorward::audit::proof::root_by_inclusion;
use doorward::audit::verify::{Anchor, Verified, Verifier};
use doorward::audit::{Event, EventType, Outcome};
use doorward::control::audit::erase::sweep;
use doorward::control::audit::export::{Begun, begin};
use doorward::control::audit::root::Root;
use doorward::control::audit::tree::LogTree;
use doorward::control::session;
use doorward::model::{EventId, NodeId, Principal, Timestamp, Ttl, UserRef};
use doorward::policy::{PolicySet, load};
use serde_json::{Value, json};
use sqlx::Row;

use crate::api_house::{Answer, Caller, House};
use crate::leaf::decision;
use crate::policy::{settings, shown};
use crate::support::{databases, temporary_folder};

const PATH: &str = "/api/v1/audit/erasures";
/// Where alice acts from when she uses a service.
const ADDRESS: &str = "198.51.100.23";

/// The policies that come with the product, and security administers.
fn policies() -> Arc<PolicySet> {
    static SET: OnceLock<Arc<PolicySet>> = OnceLock::new();
    let made = || {
        let folder = temporary_folder();
        copy(&Path::new(env!("CARGO_MANIFEST_DIR")).join("policies"), folder.path());
        let global = folder.path().join("global.cedar");
        let text = std::fs::read_to_string(&global).unwrap();
        let more = "\n@id(\"security-administers\")\npermit (principal in Group::\"security\", \
                    action == Action::\"administer\", resource == Installation::\"doorward\");\n";
        std::fs::write(&global, text + more).unwrap();
        Arc::new(load(folder.path(), &settings()).unwrap_or_else(|found| panic!("{}", shown(&found))))
    };
    Arc::clone(SET.get_or_init(made))
}

fn copy(from: &Path, to: &Path) {
    for entry in std::fs::read_dir(from).unwrap().flatten() {
        let target = to.join(entry.file_name());
        if entry.path().is_dir() {
            std::fs::create_dir(&target).unwrap();
            copy(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), &target).unwrap();
        }
    }
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
        json!({ "entitlement": "ops-api/deploy-prod", "reason": "alice must deploy", "ticket": "OPS-1", "for": "2m" });
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
    acts(house, 5, 5).await;
    for path in ["/api/v1/locks", "/api/v1/locks/clear"] {
        let barred = json!({ "principal": "dev|alice", "reason": "a laptop was lost" });
        assert_eq!(house.json(carol, path, &barred).await.status, 200);
        house.clock.advance(Ttl::minutes(2));
    }
    let (store, now) = (&house.desk.store, house.now());
    session::end_by_principal(&house.desk, &alice_herself(), now).await.unwrap();
    store.notice_channel_open("mail", now).await.unwrap();
    number(house).await;
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

        let plan = json!({ "person": "alice@example.com", "reason": "request DSR-118", "dry_run": true });
        let plan = house.json(&carol, PATH, &plan).await;
        assert_eq!(plan.status, 200, "{plan:?}");
        assert_eq!(plan.text("/pseudonym"), old.to_string());
        let told = erase(&house, &carol, "alice@example.com").await;
        assert_eq!(told.status, 200, "{told:?}");
        for count in ["events", "fields"] {
            assert_eq!(told.body[count], plan.body[count], "{count}");
        }
        assert_eq!((told.text("/state"), told.text("/pseudonym")), ("done", old.to_string().as_str()));
        assert!(told.body["events"].as_i64().unwrap() >= 15, "{told:?}");

        // The record holds as before, and says what is gone.
        let after = verified(&house).await;
        assert!(after.0.anchored && after.0.lines > before.0.lines);
        assert_eq!(i64::try_from(after.0.erased).unwrap(), told.body["fields"].as_i64().unwrap());
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
        for what in ["alice@example.com", "dev|alice", ADDRESS, "alice's laptop", "/users/alice"] {
            assert_eq!(mentions(&dump, what), Vec::<String>::new(), "{what} in {url}");
        }
    }
}
