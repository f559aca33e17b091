//! Fresh PostgreSQL databases for tests, on the server that `DOORWARD_TEST_POSTGRES` names
//! (`tests/run` starts a throw-away one with fsync on; any other may be given).
//!
//! INVARIANT: under `tests/run` no test passes by leaving PostgreSQL out; alone, a test says that
//! it did.

use std::sync::atomic::{AtomicU32, Ordering};

use doorward::model::Timestamp;
use doorward::store::{Store, Use};
use sqlx::postgres::{PgConnectOptions, PgConnection};
use sqlx::{AssertSqlSafe, Connection, Executor};
use url::Url;

use crate::access_world::cut;

/// Names the server: `postgres://user[:password]@host:port/database`, with the right to create databases.
const SERVER: &str = "DOORWARD_TEST_POSTGRES";
/// `1` where leaving PostgreSQL out is a failure.
const REQUIRED: &str = "DOORWARD_TEST_REQUIRE_POSTGRES";

/// The URL of the server, if there is one.
pub fn server() -> Option<Url> {
    match std::env::var(SERVER) {
        Ok(text) => Some(Url::parse(&text).unwrap_or_else(|e| panic!("{SERVER} is not a URL: {e}"))),
        Err(_) if std::env::var(REQUIRED).is_ok_and(|v| v == "1") => {
            panic!("{SERVER} is not set, and {REQUIRED}=1 demands PostgreSQL: start the tests with `tests/run`")
        }
        Err(_) => {
            println!("note: PostgreSQL is left out, since {SERVER} is not set (`tests/run` starts one)");
            None
        }
    }
}

/// The URL of a new, empty database, if there is a server. May be called inside or outside a
/// runtime, so the connection has a thread and a runtime of its own.
pub fn fresh_database() -> Option<String> {
    static NUMBER: AtomicU32 = AtomicU32::new(0);
    let mut url = server()?;
    let number = NUMBER.fetch_add(1, Ordering::SeqCst);
    // The folder's random part keeps the name new where a server outlives the test run.
    let folder = crate::support::temporary_folder();
    let random: String = folder
        .path()
        .file_name()
        .and_then(|name| name.to_str())
        .unwrap()
        .chars()
        .filter(char::is_ascii_alphanumeric)
        .map(|c| c.to_ascii_lowercase())
        .collect();
    let name = format!("{random}_{}_{number}", std::process::id());
    let options: PgConnectOptions = url.as_str().parse().unwrap();
    let statement = format!("create database {name} template template0 encoding 'UTF8'");
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let mut connection =
                PgConnection::connect_with(&options).await.expect("the PostgreSQL server of the tests answers");
            connection.execute(AssertSqlSafe(statement)).await.expect("it lets us create a database");
            connection.close().await.unwrap();
        });
    })
    .join()
    .unwrap();
    url.set_path(&name);
    Some(url.into())
}

/// Its output is shown at the end of a run (`.config/nextest.toml`).
#[test]
fn postgresql_is_part_of_this_run() {
    server();
}

#[tokio::test]
async fn a_fresh_postgresql_database_can_be_used_from_inside_a_runtime() {
    let Some(url) = fresh_database() else { return };
    let mut connection = PgConnection::connect(&url).await.unwrap();
    let tables: i64 =
        sqlx::query_scalar("select count(*) from information_schema.tables where table_schema = 'public'")
            .fetch_one(&mut connection)
            .await
            .unwrap();
    assert_eq!(tables, 0);
}

#[tokio::test]
async fn a_transaction_whose_caller_goes_away_while_it_begins_is_not_left_open() {
    let Some(url) = fresh_database() else { return };
    let store = Store::open(&url).unwrap();
    store.migrate().await.unwrap();
    let mut connection = PgConnection::connect(&url).await.unwrap();
    let open = "select count(*) from pg_stat_activity where datname = current_database() \
                and pid <> pg_backend_pid() and state <> 'idle'";
    // It begins within three polls: the connection's sign of life, `BEGIN`, and its answer.
    for round in 0..40u8 {
        let polls = round % 4 + 1;
        let _ = cut(usize::from(polls), store.begin()).await;
        // Until the server has seen what was sent, and the pool has the connection back.
        let mut left = 1;
        for looks in 0..2000 {
            left = sqlx::query_scalar::<_, i64>(open).fetch_one(&mut connection).await.unwrap();
            if left == 0 && looks > 20 {
                break;
            }
            tokio::task::yield_now().await;
        }
        assert_eq!(left, 0, "after {polls} polls a transaction is left open");
        // What is written without a transaction is there for everybody.
        let hash = [round; 32];
        let used = store.use_once(&hash, Timestamp::from_seconds(4_000_000_000)).await.unwrap();
        let other = Store::open(&url).unwrap().use_once(&hash, Timestamp::from_seconds(4_000_000_000)).await.unwrap();
        assert_eq!((used, other), (Use::First, Use::Again));
    }
}

#[tokio::test]
async fn a_database_that_takes_no_writes_is_away_for_a_server_and_good_for_a_reader() {
    let Some(url) = fresh_database() else { return };
    let store = Store::open(&url).unwrap();
    store.migrate().await.unwrap();
    store.close().await;
    let name = Url::parse(&url).unwrap().path().trim_start_matches('/').to_owned();
    let mut administrator = PgConnection::connect(server().unwrap().as_str()).await.unwrap();
    let mut set = async |on: &str| {
        let text = format!("alter database {name} set default_transaction_read_only = {on}");
        administrator.execute(AssertSqlSafe(text)).await.unwrap();
    };
    set("on").await;
    let store = Store::open(&url).unwrap();
    assert!(store.ping().await.is_err(), "a standby answers, too");
    assert!(store.migrate().await.is_err());
    let reader = Store::open_to_read(&url).unwrap();
    assert!(reader.is_read_only().await.unwrap() && reader.has_tables().await.unwrap());
    reader.close().await;
    // What it was told once is not for ever.
    set("off").await;
    store.ping().await.unwrap();
    store.migrate().await.unwrap();
    assert!(!store.is_read_only().await.unwrap());
    store.close().await;
}
