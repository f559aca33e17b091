//! Signing keys and other secrets of the installation, sealed. This room never opens them.
//!
//! INVARIANT: a key's row never changes; which key signs follows from `signs_from`.

use sqlx::FromRow;

use super::engine::{Store, StoreError, Tx};
use crate::model::{KeyId, Timestamp};

/// A signing key as it is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SealedKey {
    /// Its id, which is its name in the key set.
    pub id: KeyId,
    /// `ES256`
    pub algorithm: String,
    /// Its public point, uncompressed.
    pub public_point: Vec<u8>,
    /// From when on it signs.
    pub signs_from: Timestamp,
    /// When it was made.
    pub created_at: Timestamp,
    /// Its PKCS#8, sealed.
    pub sealed: Vec<u8>,
}

const LIST: &str = "\
    select id, algorithm, public_point, signs_from, created_at, sealed \
    from signing_key order by signs_from, id";
const HOLD: &str = "update counter set value = value + 1 where name = 'signing_key'";
const INSERT: &str = "\
    insert into signing_key (id, algorithm, public_point, signs_from, created_at, sealed) \
    values ($1, $2, $3, $4, $5, $6)";
const DELETE: &str = "delete from signing_key where id = $1";
const SECRET_FETCH: &str = "select sealed from installation_secret where purpose = $1";
const SECRET_INSERT: &str = "\
    insert into installation_secret (purpose, sealed, created_at) values ($1, $2, $3) \
    on conflict (purpose) do nothing";

#[derive(FromRow)]
struct Row {
    id: String,
    algorithm: String,
    public_point: Vec<u8>,
    signs_from: i64,
    created_at: i64,
    sealed: Vec<u8>,
}

impl TryFrom<Row> for SealedKey {
    type Error = StoreError;

    fn try_from(row: Row) -> Result<Self, StoreError> {
        Ok(Self {
            id: KeyId::parse(&row.id).map_err(|_| StoreError::Inconsistent {
                table: "signing_key",
                column: "id",
                row: row.id.clone(),
            })?,
            algorithm: row.algorithm,
            public_point: row.public_point,
            signs_from: Timestamp::from_millis(row.signs_from),
            created_at: Timestamp::from_millis(row.created_at),
            sealed: row.sealed,
        })
    }
}

impl Store {
    /// All signing keys, in the order in which they sign. A row whose id is none is given as an
    /// error beside the others: it can't be anybody's key, and must not take the rest away.
    ///
    /// # Errors
    /// When the database is away.
    pub async fn signing_key_list(&self) -> Result<Vec<Result<SealedKey, StoreError>>, StoreError> {
        let rows: Vec<Row> = sqlx::query_as(LIST).fetch_all(self.pool()).await?;
        Ok(rows.into_iter().map(SealedKey::try_from).collect())
    }

    /// A secret of the installation, sealed.
    ///
    /// # Errors
    /// When the database is away.
    pub async fn installation_secret_fetch(&self, purpose: &str) -> Result<Option<Vec<u8>>, StoreError> {
        Ok(sqlx::query_scalar(SECRET_FETCH).bind(purpose).fetch_optional(self.pool()).await?)
    }
}

impl Tx {
    /// Holds the signing keys, so that two nodes don't both make the next one, and gives them as
    /// [`Store::signing_key_list`] does.
    ///
    /// # Errors
    /// When the database is away.
    pub async fn signing_key_hold(&mut self) -> Result<Vec<Result<SealedKey, StoreError>>, StoreError> {
        sqlx::query(HOLD).execute(self.connection()).await?;
        let rows: Vec<Row> = sqlx::query_as(LIST).fetch_all(self.connection()).await?;
        Ok(rows.into_iter().map(SealedKey::try_from).collect())
    }

    /// Keeps a new key.
    ///
    /// # Errors
    /// When the database refuses.
    pub async fn signing_key_insert(&mut self, key: &SealedKey) -> Result<(), StoreError> {
        sqlx::query(INSERT)
            .bind(key.id.to_string())
            .bind(key.algorithm.as_str())
            .bind(key.public_point.as_slice())
            .bind(key.signs_from.millis())
            .bind(key.created_at.millis())
            .bind(key.sealed.as_slice())
            .execute(self.connection())
            .await?;
        Ok(())
    }

    /// Removes a key whose last token has ended.
    ///
    /// # Errors
    /// When the database refuses.
    pub async fn signing_key_delete(&mut self, id: &KeyId) -> Result<(), StoreError> {
        sqlx::query(DELETE).bind(id.to_string()).execute(self.connection()).await?;
        Ok(())
    }

    /// Keeps a secret of the installation unless there is one already, and gives the one that is.
    ///
    /// # Errors
    /// When the database refuses.
    pub async fn installation_secret_keep(
        &mut self,
        purpose: &str,
        sealed: &[u8],
        now: Timestamp,
    ) -> Result<Vec<u8>, StoreError> {
        sqlx::query(SECRET_INSERT).bind(purpose).bind(sealed).bind(now.millis()).execute(self.connection()).await?;
        Ok(sqlx::query_scalar(SECRET_FETCH).bind(purpose).fetch_one(self.connection()).await?)
    }
}
