//! Whether the tables of a database are ours, and of a version that this one can work with. It is only read: what
//! is another's is left as it was found.

use std::collections::BTreeMap;
use std::fmt;

use super::engine::{MIGRATIONS, Store, StoreError};

/// What helps where somebody else's things are in the way.
pub(in crate::store) const OWN_DATABASE: &str = "give doorward a database of its own in `[storage] url`";

/// The table of applied migrations.
const APPLIED: &str = "_sqlx_migrations";

/// Why the tables of a database can't be worked with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TablesFault {
    /// A later version has brought them up to date.
    Newer { version: i64 },
    /// A migration was applied to them that has another text here.
    Altered { version: i64 },
    /// Somebody else made this one.
    Foreign { table: String },
}

impl fmt::Display for TablesFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Newer { version } => {
                write!(f, "its tables are of a newer version: migration {version} is not known here")
            }
            Self::Altered { version } => {
                write!(f, "migration {version} of its tables has another text than this version's")
            }
            Self::Foreign { table } => write!(f, "it has a table `{}` that is not doorward's", table.escape_debug()),
        }
    }
}

impl TablesFault {
    /// What to do.
    #[must_use]
    pub const fn remedy(&self) -> &'static str {
        match self {
            Self::Newer { .. } => "a newer doorward made it: run that version, or restore a backup",
            Self::Altered { .. } => "another doorward made it: run that version, or restore a backup",
            Self::Foreign { .. } => OWN_DATABASE,
        }
    }
}

impl Store {
    /// Whether there is anything about the tables that can't be worked with. An earlier version's can, and none.
    ///
    /// # Errors
    /// When the database is away.
    pub async fn tables_fault(&self) -> Result<Option<TablesFault>, StoreError> {
        // ORDER: one question, since another node may be making the tables right now, its table of migrations
        // before all others.
        let tables = self.table_names().await?;
        if !tables.iter().any(|table| table == APPLIED) {
            let foreign = tables.into_iter().find(|table| ours().any(|name| name == table));
            return Ok(foreign.map(|table| TablesFault::Foreign { table }));
        }
        let query = "select version, checksum from _sqlx_migrations order by version";
        let applied: Vec<(i64, Vec<u8>)> = sqlx::query_as(query).fetch_all(self.pool()).await?;
        Ok(fault_of(&applied))
    }
}

fn fault_of(applied: &[(i64, Vec<u8>)]) -> Option<TablesFault> {
    let known: BTreeMap<i64, &[u8]> = MIGRATIONS.iter().map(|known| (known.version, &*known.checksum)).collect();
    // Another program's that goes by the same library has other numbers.
    if applied.first().is_some_and(|(version, _)| !known.contains_key(version)) {
        return Some(TablesFault::Foreign { table: APPLIED.to_owned() });
    }
    applied.iter().find_map(|(version, checksum)| match known.get(version) {
        None => Some(TablesFault::Newer { version: *version }),
        Some(text) if *text != checksum.as_slice() => Some(TablesFault::Altered { version: *version }),
        Some(_) => None,
    })
}

/// The names of our tables.
fn ours() -> impl Iterator<Item = &'static str> {
    let lines = MIGRATIONS.iter().flat_map(|migration| migration.sql.as_str().lines());
    lines.filter_map(|line| line.strip_prefix("create table ")?.split([' ', '(']).next())
}
