//! Which accounts and which verified e-mail addresses go together, as far as sign-ins, requests and
//! answers tell.

use sqlx::{AnyConnection, FromRow};

use super::access_request::principal_of;
use super::engine::{Store, StoreError, Tx};
use crate::model::{Principal, Timestamp};

/// Addresses of an account, or accounts of an address, that are looked at at most.
const FOUND_MAX: i64 = 100;

const EMAILS: &str = "\
    select email from session where principal_kind = $1 and principal_id = $2 and email_verified = 1 \
    and email is not null and created_at >= $3 union \
    select email from person_email where $1 = 'User' and principal = $2 and seen_at >= $3 union \
    select email from access_request where principal_kind = $1 and principal_id = $2 and email_verified = 1 \
    and email is not null and created_at >= $3 union \
    select email from access_approval where principal_kind = $1 and principal_id = $2 and email_verified = 1 \
    and email is not null and time >= $3 limit $4";
const ACCOUNTS: &str = "\
    select principal_kind, principal_id from session where lower(email) = $1 and email_verified = 1 \
    and created_at >= $2 union \
    select 'User', principal from person_email where lower(email) = $1 and seen_at >= $2 union \
    select principal_kind, principal_id from access_request where lower(email) = $1 and email_verified = 1 \
    and created_at >= $2 union \
    select principal_kind, principal_id from access_approval where lower(email) = $1 and email_verified = 1 \
    and time >= $2 limit $3";

#[derive(FromRow)]
struct Row {
    principal_kind: String,
    principal_id: String,
}

async fn emails(connection: &mut AnyConnection, of: &Principal, since: Timestamp) -> Result<Vec<String>, StoreError> {
    let query = sqlx::query_scalar(EMAILS).bind(of.kind().name()).bind(of.id().to_owned());
    Ok(query.bind(since.millis()).bind(FOUND_MAX).fetch_all(connection).await?)
}

async fn accounts(connection: &mut AnyConnection, email: &str, since: Timestamp) -> Result<Vec<Principal>, StoreError> {
    let query = sqlx::query_as(ACCOUNTS).bind(email.to_owned()).bind(since.millis()).bind(FOUND_MAX);
    let rows: Vec<Row> = query.fetch_all(connection).await?;
    let wrong = |row: &Row| StoreError::Inconsistent {
        table: "session",
        column: "principal_id",
        row: row.principal_id.clone(),
    };
    rows.iter().map(|row| principal_of(&row.principal_kind, &row.principal_id).ok_or_else(|| wrong(row))).collect()
}

impl Store {
    /// The verified addresses of an account since then.
    ///
    /// # Errors
    /// When the database is away.
    pub async fn account_emails(&self, of: &Principal, since: Timestamp) -> Result<Vec<String>, StoreError> {
        emails(&mut *self.pool().acquire().await?, of, since).await
    }

    /// The accounts of a verified address, in small letters, since then.
    ///
    /// # Errors
    /// When the database is away or a row can't be.
    pub async fn email_accounts(&self, email: &str, since: Timestamp) -> Result<Vec<Principal>, StoreError> {
        accounts(&mut *self.pool().acquire().await?, email, since).await
    }
}

impl Tx {
    /// As [`Store::account_emails`].
    ///
    /// # Errors
    /// When the database refuses.
    pub async fn account_emails(&mut self, of: &Principal, since: Timestamp) -> Result<Vec<String>, StoreError> {
        emails(self.connection(), of, since).await
    }

    /// As [`Store::email_accounts`].
    ///
    /// # Errors
    /// When the database refuses or a row can't be.
    pub async fn email_accounts(&mut self, email: &str, since: Timestamp) -> Result<Vec<Principal>, StoreError> {
        accounts(self.connection(), email, since).await
    }
}
