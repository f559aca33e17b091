//! What can go wrong with the database, and whether waiting helps.

use std::fmt;

use sqlx::migrate::MigrateError;

use super::engine::POSTGRES_OPTIONS;
use super::tables::{OWN_DATABASE, TablesFault};

/// What can go wrong with the database.
#[derive(Debug)]
pub enum StoreError {
    /// The URL is neither `sqlite://…` nor `postgres://…`.
    Url { url: String },
    /// The URL has an option that there is not.
    Option { key: String },
    /// The database could not be reached, or gave an error.
    Database(sqlx::Error),
    /// The migrations could not be applied.
    Migration(MigrateError),
    /// The database has tables that this version can't work with.
    Tables(TablesFault),
    /// An event was to be kept before this node opened its log (`Store::log_open`).
    NoLog,
    /// The idempotency key of the operation was given to another try meanwhile; nothing was done.
    Overtaken,
    /// A row does not say what its table promises. It is never skipped.
    Inconsistent { table: &'static str, column: &'static str, row: String },
}

impl fmt::Display for StoreError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Url { url } => {
                write!(f, "the database URL `{url}` is of no known kind: use `sqlite://PATH` or `postgres://…`")
            }
            Self::Option { key } => write!(
                f,
                "the database URL has an option `{}`, which PostgreSQL connections don't have; there are: {}",
                key.escape_debug(),
                POSTGRES_OPTIONS.join(", ")
            ),
            Self::Database(error) => {
                write!(f, "the database did not do what it was asked: {error}")?;
                remedy(error).map_or(Ok(()), |remedy| write!(f, "; {remedy}"))
            }
            Self::Migration(error) => {
                write!(f, "the database's tables could not be brought up to date: {error}")?;
                remedy_of_migration(error).map_or(Ok(()), |remedy| write!(f, "; {remedy}"))
            }
            Self::Tables(fault) => write!(f, "{fault}; {}", fault.remedy()),
            Self::NoLog => f.write_str("an event can't be kept before this node has opened its log"),
            Self::Overtaken => f.write_str("another try with the same idempotency key was begun meanwhile"),
            Self::Inconsistent { table, column, row } => {
                write!(
                    f,
                    "row `{row}` of `{table}` has a value in `{column}` that can't be there; restore it from a backup"
                )
            }
        }
    }
}

// The driver's errors say their causes themselves, and so does the text above: a source would be said twice.
impl std::error::Error for StoreError {}

impl From<sqlx::Error> for StoreError {
    fn from(error: sqlx::Error) -> Self {
        Self::Database(error)
    }
}

impl StoreError {
    /// Whether the database answered and is not what it must be, so that to wait for it is of no use: tables that
    /// are not this version's, a file that is none of SQLite's, a statement that can't be or may not be done. One
    /// that is away, full, busy or takes no writes may be right again by itself.
    #[must_use]
    pub fn is_wrong(&self) -> bool {
        match self {
            Self::Tables(_) => true,
            Self::Migration(error) => match error {
                MigrateError::VersionMissing(_)
                | MigrateError::VersionMismatch(_)
                | MigrateError::VersionNotPresent(_)
                | MigrateError::VersionTooOld(..)
                | MigrateError::VersionTooNew(..)
                | MigrateError::Dirty(_) => true,
                other => remedy_of_migration(other).is_some(),
            },
            Self::Database(error) => remedy(error).is_some(),
            Self::Url { .. } | Self::Option { .. } | Self::NoLog | Self::Overtaken | Self::Inconsistent { .. } => false,
        }
    }

    /// Whether the statement was refused since something unique is there already.
    #[must_use]
    pub fn is_conflict(&self) -> bool {
        matches!(self, Self::Database(sqlx::Error::Database(error)) if error.is_unique_violation())
    }
}

/// What helps against an error that no waiting ends; none where it may end by itself. Codes are SQLSTATE's of
/// PostgreSQL (five characters; class 42: syntax, rights, names) and SQLite's result codes.
fn remedy(error: &sqlx::Error) -> Option<&'static str> {
    let sqlx::Error::Database(error) = error else { return None };
    let code = error.code()?;
    match &*code {
        "42501" => Some(
            "let its role make tables there (`grant create on schema public to ROLE`), or make it the database's owner",
        ),
        // SQLITE_NOTADB.
        "26" => Some("name an SQLite database in `[storage] url`, or restore a backup of it"),
        state if state.len() == 5 && state.starts_with("42") => Some(OWN_DATABASE),
        _ => None,
    }
}

/// The same of a migration, of which SQLite has one code for whatever is there already, or is not.
fn remedy_of_migration(error: &MigrateError) -> Option<&'static str> {
    let (MigrateError::Execute(error) | MigrateError::ExecuteMigration(error, _)) = error else { return None };
    let sqlite_error = || matches!(error, sqlx::Error::Database(error) if error.code().is_some_and(|code| code == "1"));
    remedy(error).or_else(|| sqlite_error().then_some(OWN_DATABASE))
}
