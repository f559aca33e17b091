//! The database engine: the one place that knows SQLite from PostgreSQL.
//!
//! SQLite runs in WAL mode with `synchronous=FULL`, so that a commit is on the disk when it
//! answers; its transactions take the write lock at their start, so that two of them never
//! deadlock half-way. Its pages have 8 KiB: an event takes one and a half, and each page of a commit is written
//! with calls of its own. Its log of writes is copied back every 2 MiB: that is a millisecond in which a
//! single core does nothing else. The journal of one statement of many rows stays in memory, or it would be a
//! file for each batch. What is deleted is overwritten (`secure_delete`), since people are erased from the
//! record for good. INVARIANT: a transaction that is dropped is rolled back.

use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Once, OnceLock};
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::future::BoxFuture;
use sqlx::ConnectOptions;
use sqlx::any::{AnyConnectOptions, AnyPoolOptions};
use sqlx::postgres::PgConnectOptions;
use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{Any, AnyConnection, AnyPool, Connection, Executor, Transaction};
use tokio::runtime::Handle;

use super::log::{Desk, Log};
pub use super::store_error::StoreError;
use crate::audit::merkle::Hash;
use crate::model::Timestamp;

/// Connections that one node opens to its database at most.
const CONNECTIONS_MAX: u32 = 8;
/// How long an operation waits for a free connection before it fails.
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(2);

/// What may stand behind the `?` of `postgres://…`.
pub(in crate::store) const POSTGRES_OPTIONS: [&str; 18] = [
    "sslmode",
    "ssl-mode",
    "sslrootcert",
    "ssl-root-cert",
    "ssl-ca",
    "sslcert",
    "ssl-cert",
    "sslkey",
    "ssl-key",
    "statement-cache-capacity",
    "host",
    "hostaddr",
    "port",
    "dbname",
    "user",
    "password",
    "application_name",
    "options",
];

pub(in crate::store) static MIGRATIONS: sqlx::migrate::Migrator = sqlx::migrate!("./migrations");

/// Whether this connection takes no writes.
const READ_ONLY: &str = "select pg_is_in_recovery() or current_setting('transaction_read_only') = 'on'";

/// Which engine is behind the pool.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Engine {
    Sqlite,
    Postgres,
}

/// How a statement that is put together for a batch says where its values go. `$1` is what all
/// others say; SQLite looks such a name up by walking all of them, which for the thousand values
/// of a batch costs more than the writing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::store) enum Placeholders {
    /// `$1`, `$2` …
    Numbered,
    /// `?`, one after the other.
    Plain,
}

/// The database of an installation. Clones share one pool.
#[derive(Clone)]
pub struct Store {
    pool: AnyPool,
    /// Where transactions come from. SQLite has one writer at a time: ours take turns for one connection, in the
    /// order of their coming. Its own way is to sleep and ask again, which is slow and starves the unlucky; and
    /// only what nobody else wrote may stay in the memory of a connection.
    writer: AnyPool,
    engine: Engine,
    purpose: Use,
    url: Arc<str>,
    desk: Arc<OnceLock<Desk>>,
}

impl Store {
    /// Opens the database at `sqlite://PATH` or `postgres://…`. Nothing is asked of it yet: a
    /// database that is away shows at the first use. One that takes no writes is away: a standby, or what was a
    /// primary until a moment ago, answers with what was true then.
    ///
    /// # Errors
    /// When the URL is of another kind or can't be read.
    pub fn open(url: &str) -> Result<Self, StoreError> {
        Self::open_for(url, Use::Serve)
    }

    /// The same for whoever only reads, which a standby is good for. An SQLite file is not made, and how it writes
    /// its journal stays as it is; nothing at all is written unless the URL has a `mode` that lets it.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn open_to_read(url: &str) -> Result<Self, StoreError> {
        Self::open_for(url, Use::Read)
    }

    fn open_for(url: &str, purpose: Use) -> Result<Self, StoreError> {
        static DRIVERS: Once = Once::new();
        DRIVERS.call_once(sqlx::any::install_default_drivers);
        // A wrong option is no database that is away.
        Self::check_url(url)?;
        let engine = engine_of(url)?;
        let url = match engine {
            Engine::Sqlite if url.contains("mode=") => url.to_owned(),
            Engine::Sqlite => {
                let mode = if purpose == Use::Read { "ro" } else { "rwc" };
                format!("{url}{}mode={mode}", if url.contains('?') { '&' } else { '?' })
            }
            Engine::Postgres => url.to_owned(),
        };
        let options = url.parse::<AnyConnectOptions>()?.disable_statement_logging();
        let pool = pool_of(engine, CONNECTIONS_MAX, options.clone(), purpose);
        let writer = match engine {
            Engine::Sqlite => pool_of(engine, 1, options, purpose),
            Engine::Postgres => pool.clone(),
        };
        Ok(Self { pool, writer, engine, purpose, url: url.into(), desk: Arc::new(OnceLock::new()) })
    }

    /// Whether a database could be opened at this URL, options included; nothing is asked of it.
    ///
    /// # Errors
    /// When the URL is of another kind, or says something that the engine does not know.
    pub fn check_url(url: &str) -> Result<(), StoreError> {
        match engine_of(url)? {
            Engine::Sqlite => url.parse::<SqliteConnectOptions>().map(drop)?,
            Engine::Postgres => {
                // The driver only warns of what it does not know, with its value: that may be a password.
                let known = |key: &str| POSTGRES_OPTIONS.contains(&key) || key.starts_with("options[");
                let query = url.split_once('?').map(|(_, query)| query.split('#').next().unwrap_or_default());
                let keys = query.into_iter().flat_map(|query| query.split('&')).filter(|pair| !pair.is_empty());
                let mut keys = keys.map(|pair| pair.split('=').next().unwrap_or_default());
                if let Some(key) = keys.find(|key| !known(key)) {
                    return Err(StoreError::Option { key: key.chars().take(40).collect() });
                }
                url.parse::<PgConnectOptions>().map(drop)?;
            }
        }
        Ok(())
    }

    /// Brings the tables up to date.
    ///
    /// # Errors
    /// When the database is away or has tables of another making; of those nothing was changed.
    pub async fn migrate(&self) -> Result<(), StoreError> {
        if let Some(fault) = self.tables_fault().await? {
            return Err(StoreError::Tables(fault));
        }
        if self.engine == Engine::Sqlite {
            return MIGRATIONS.run(&self.pool).await.map_err(StoreError::Migration);
        }
        // An index over years of events takes longer than any request may wait, so this has no bound but its
        // caller's.
        let pool = AnyPoolOptions::new().max_connections(1).acquire_timeout(ACQUIRE_TIMEOUT);
        let pool = pool.after_connect(|connection, _| {
            Box::pin(async move { refuse_read_only(connection, &AtomicBool::new(false)).await })
        });
        let pool = pool.connect_lazy_with(self.url.parse::<AnyConnectOptions>()?.disable_statement_logging());
        let migrated = MIGRATIONS.run(&pool).await.map_err(StoreError::Migration);
        pool.close().await;
        migrated
    }

    /// Asks the database for a sign of life.
    ///
    /// # Errors
    /// When there is none within the time that an operation may wait.
    pub async fn ping(&self) -> Result<(), StoreError> {
        match sqlx::query("select 1").execute(&self.pool).await {
            Ok(_) => Ok(()),
            Err(error) => Err(self.cause(error).await),
        }
    }

    /// Why there is no connection: a pool tries again until its time is over, and then says only that it is.
    async fn cause(&self, error: sqlx::Error) -> StoreError {
        if !matches!(error, sqlx::Error::PoolTimedOut) {
            return error.into();
        }
        let asked = async {
            let options = self.url.parse::<AnyConnectOptions>()?.disable_statement_logging();
            let mut connection = AnyConnection::connect_with(&options).await?;
            match (self.engine, self.purpose) {
                // What is in the file is not looked at before.
                (Engine::Sqlite, _) => {
                    sqlx::query("select count(*) from sqlite_master").execute(&mut connection).await?;
                }
                (Engine::Postgres, Use::Read) => {}
                (Engine::Postgres, Use::Serve) => {
                    let is_read_only: bool = sqlx::query_scalar(READ_ONLY).fetch_one(&mut connection).await?;
                    if is_read_only {
                        return Err(no_writes());
                    }
                }
            }
            connection.close().await
        };
        match tokio::time::timeout(ACQUIRE_TIMEOUT, asked).await {
            Ok(Err(cause)) => cause.into(),
            // There is one for who asks alone, or none in time.
            Ok(Ok(())) | Err(_) => error.into(),
        }
    }

    /// Whether the database only answers questions: a standby, or one that was set so.
    ///
    /// # Errors
    /// When the database is away.
    pub async fn is_read_only(&self) -> Result<bool, StoreError> {
        match self.engine {
            Engine::Sqlite => Ok(false),
            Engine::Postgres => Ok(sqlx::query_scalar(READ_ONLY).fetch_one(&self.pool).await?),
        }
    }

    /// What the database's clock shows; none where that is this machine's.
    ///
    /// # Errors
    /// When the database is away.
    pub async fn clock_fetch(&self) -> Result<Option<Timestamp>, StoreError> {
        match self.engine {
            Engine::Sqlite => Ok(None),
            Engine::Postgres => {
                let query = "select (extract(epoch from clock_timestamp()) * 1000)::bigint";
                let millis: i64 = sqlx::query_scalar(query).fetch_one(&self.pool).await?;
                Ok(Some(Timestamp::from_millis(millis)))
            }
        }
    }

    /// Whether anybody has made our tables yet.
    ///
    /// # Errors
    /// When the database is away.
    pub async fn has_tables(&self) -> Result<bool, StoreError> {
        let query = match self.engine {
            Engine::Sqlite => "select count(*) from sqlite_master where name = '_sqlx_migrations'",
            Engine::Postgres => {
                "select count(*) from pg_catalog.pg_tables where tablename = '_sqlx_migrations' \
                 and schemaname = any (current_schemas(false))"
            }
        };
        match sqlx::query_scalar::<_, i64>(query).fetch_one(&self.pool).await {
            Ok(count) => Ok(count > 0),
            Err(error) => Err(self.cause(error).await),
        }
    }

    /// The names of the tables beside which ours are or would be.
    pub(in crate::store) async fn table_names(&self) -> Result<Vec<String>, StoreError> {
        let query = match self.engine {
            Engine::Sqlite => "select name from sqlite_master where type = 'table'",
            Engine::Postgres => {
                "select tablename::text from pg_catalog.pg_tables where schemaname = current_schema() \
                 or (tablename = '_sqlx_migrations' and schemaname = any (current_schemas(false)))"
            }
        };
        Ok(sqlx::query_scalar(query).fetch_all(&self.pool).await?)
    }

    /// Whether the tables are those of an earlier version, which `migrate` brings up to date.
    ///
    /// # Errors
    /// When the database is away.
    pub async fn is_of_earlier_version(&self) -> Result<bool, StoreError> {
        if !self.has_tables().await? {
            return Ok(false);
        }
        let applied: i64 = sqlx::query_scalar("select count(*) from _sqlx_migrations").fetch_one(&self.pool).await?;
        Ok(usize::try_from(applied).unwrap_or(0) < MIGRATIONS.iter().count())
    }

    /// Begins a transaction that may write.
    ///
    /// # Errors
    /// When no connection is to be had in time.
    pub async fn begin(&self) -> Result<Tx, StoreError> {
        let inner = match self.engine {
            Engine::Sqlite => self.writer.begin_with("begin immediate").await?,
            Engine::Postgres => Beginning(Some(Box::pin(begin_at(self.writer.clone())))).await?,
        };
        Ok(Tx { inner, desk: Arc::clone(&self.desk), engine: self.engine, numbered: None })
    }

    /// What this node seals events with and where it numbers them, once its log is open.
    pub(in crate::store) fn desk(&self) -> &OnceLock<Desk> {
        &self.desk
    }

    /// The pool, for reads outside a transaction.
    pub(in crate::store) const fn pool(&self) -> &AnyPool {
        &self.pool
    }

    /// What people may be told of where the database is: never a password.
    #[must_use]
    pub fn place(&self) -> &str {
        match self.engine {
            Engine::Sqlite => &self.url,
            Engine::Postgres => self.url.rsplit('@').next().unwrap_or("postgres"),
        }
    }

    /// Has the engine let go of what was deleted, as far as that is ours to say: SQLite's log of writes is
    /// emptied into the database; PostgreSQL reclaims rows in its own time.
    ///
    /// # Errors
    /// When the database is away.
    pub async fn let_go(&self) -> Result<(), StoreError> {
        if self.engine == Engine::Sqlite {
            sqlx::query("pragma wal_checkpoint(truncate)").execute(&self.pool).await?;
        }
        Ok(())
    }

    /// Closes all connections once their users are done.
    pub async fn close(&self) {
        self.writer.close().await;
        self.pool.close().await;
    }
}

fn engine_of(url: &str) -> Result<Engine, StoreError> {
    if url.starts_with("sqlite:") {
        Ok(Engine::Sqlite)
    } else if url.starts_with("postgres://") || url.starts_with("postgresql://") {
        Ok(Engine::Postgres)
    } else {
        let scheme: String = url.split("://").next().unwrap_or_default().chars().take(40).collect();
        Err(StoreError::Url { url: format!("{scheme}://…") })
    }
}

/// What a connection is opened for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Use {
    /// To go by what it says and to write.
    Serve,
    /// To look.
    Read,
}

/// Gives up a connection that takes no writes. `told` is whether that was said already: it is at each change.
async fn refuse_read_only(connection: &mut AnyConnection, told: &AtomicBool) -> Result<(), sqlx::Error> {
    let is_read_only: bool = sqlx::query_scalar(READ_ONLY).fetch_one(connection).await?;
    if is_read_only != told.swap(is_read_only, Ordering::Relaxed) {
        if is_read_only {
            tracing::error!("the database takes no writes: it is a standby, or set read-only, and counts as away");
        } else {
            tracing::warn!("the database takes writes again");
        }
    }
    if is_read_only {
        return Err(no_writes());
    }
    Ok(())
}

fn no_writes() -> sqlx::Error {
    sqlx::Error::Configuration("the database takes no writes: a standby, or set read-only".into())
}

/// A pool of at most so many connections, each set up as this house wants it.
fn pool_of(engine: Engine, connections: u32, options: AnyConnectOptions, purpose: Use) -> AnyPool {
    let must_write = engine == Engine::Postgres && purpose == Use::Serve;
    let told = Arc::new(AtomicBool::new(false));
    let told_before = Arc::clone(&told);
    AnyPoolOptions::new()
        .max_connections(connections)
        .acquire_timeout(ACQUIRE_TIMEOUT)
        // A file does not hang up, and the question below is a sign of life, too.
        .test_before_acquire(engine == Engine::Postgres && !must_write)
        .after_connect(move |connection, _| {
            let told = Arc::clone(&told);
            Box::pin(async move {
                if engine == Engine::Sqlite && purpose == Use::Read {
                    connection.execute("pragma busy_timeout = 5000; pragma temp_store = memory;").await?;
                } else if engine == Engine::Sqlite {
                    connection
                        .execute(
                            "pragma page_size = 8192; pragma journal_mode = wal; pragma synchronous = full; \
                             pragma busy_timeout = 5000; pragma foreign_keys = on; \
                             pragma secure_delete = on; pragma wal_autocheckpoint = 256; pragma temp_store = memory;",
                        )
                        .await?;
                    if connections > 1 {
                        // Two megabytes for each that reads would be most of what a gateway at rest takes; what
                        // they read is in the system's memory besides.
                        connection.execute("pragma cache_size = -512;").await?;
                    }
                } else {
                    connection.execute("set statement_timeout = '5s'; set lock_timeout = '2s';").await?;
                }
                if must_write { refuse_read_only(connection, &told).await } else { Ok(()) }
            })
        })
        // A full or failing disk makes SQLite roll back by itself; the driver then still counts a
        // transaction and refuses every other one on that connection. A primary becomes a standby under its
        // connections, or the name leads to another server: what those say is old, and never ends.
        .before_acquire(move |connection, _| {
            let told = Arc::clone(&told_before);
            Box::pin(async move {
                if must_write {
                    refuse_read_only(connection, &told).await?;
                }
                Ok(!connection.is_in_transaction())
            })
        })
        // A log line would name statements of thousands of characters, and waits are measured
        // where they matter.
        .connect_lazy_with(options)
}

async fn begin_at(pool: AnyPool) -> Result<Transaction<'static, Any>, sqlx::Error> {
    pool.begin().await
}

/// A transaction that is being begun. Whoever waits for it may go away while `BEGIN` is under way; the
/// driver would then give the connection back to the pool with the transaction open, and whatever is
/// written on it next would not be kept. So it is brought to its end, and rolled back.
struct Beginning(Option<BoxFuture<'static, Result<Transaction<'static, Any>, sqlx::Error>>>);

impl Future for Beginning {
    type Output = Result<Transaction<'static, Any>, sqlx::Error>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let Some(begin) = self.0.as_mut() else { return Poll::Pending };
        let done = begin.as_mut().poll(context);
        if done.is_ready() {
            self.0 = None;
        }
        done
    }
}

impl Drop for Beginning {
    fn drop(&mut self) {
        if let (Some(begin), Ok(runtime)) = (self.0.take(), Handle::try_current()) {
            // It ends by itself: the pool and the server both bound how long it may take.
            runtime.spawn(async move { drop(begin.await) });
        }
    }
}

/// One transaction. Dropped, it is as if it had never been.
pub struct Tx {
    inner: Transaction<'static, Any>,
    desk: Arc<OnceLock<Desk>>,
    engine: Engine,
    /// The leaves that were numbered in this node's log: from which number on, and their hashes.
    numbered: Option<(i64, Vec<Hash>)>,
}

impl Tx {
    /// Makes everything done in it durable at once; where it is done under an idempotency key, that it is
    /// done too.
    ///
    /// # Errors
    /// When the database refused, or the key is another try's by now; then nothing of it happened.
    pub async fn commit(mut self) -> Result<(), StoreError> {
        self.idempotency_done().await?;
        let numbered = self.numbered.take();
        self.inner.commit().await?;
        if let (Some((first, hashes)), Some(desk)) = (numbered, self.desk.get()) {
            desk.fresh.push(first, hashes);
        }
        Ok(())
    }

    /// Keeps the hash of a leaf for the tree, if it is numbered in this node's log.
    pub(in crate::store) fn leaf_numbered(&mut self, log: Log, seq: i64, hash: Hash) {
        if self.desk.get().is_none_or(|desk| desk.log != log) {
            return;
        }
        match &mut self.numbered {
            Some((first, hashes)) if *first + i64::try_from(hashes.len()).unwrap_or(0) == seq => hashes.push(hash),
            other => *other = Some((seq, vec![hash])),
        }
    }

    /// The connection for a statement of one of this room's files.
    pub(in crate::store) fn connection(&mut self) -> &mut AnyConnection {
        &mut self.inner
    }

    /// What a statement for a batch has where its values go.
    pub(in crate::store) const fn placeholders(&self) -> Placeholders {
        match self.engine {
            Engine::Sqlite => Placeholders::Plain,
            Engine::Postgres => Placeholders::Numbered,
        }
    }

    /// What this node seals events with and where it numbers them.
    pub(in crate::store) fn desk(&self) -> Result<Desk, StoreError> {
        self.desk.get().cloned().ok_or(StoreError::NoLog)
    }
}
