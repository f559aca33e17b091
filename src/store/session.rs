//! Sessions, and the cookies of browsers.
//!
//! INVARIANTS: what ended never lives again, since every change is guarded by `ended_at is null`;
//! every change counts `version` up by one, so that a node can tell an older view from a newer.

use std::collections::BTreeMap;

use sqlx::FromRow;

use crate::model::{
    Device, Principal, PrincipalKind, Session, SessionEnd, SessionId, SessionKind, Thumbprint, Timestamp,
};

use super::{Store, StoreError, Tx};

/// Sessions on one page of a list at most.
pub const SESSION_PAGE_MAX: i64 = 200;

/// A session with what only the control plane needs of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredSession {
    /// The session.
    pub session: Session,
    /// The sign-in at a provider that it rests on.
    pub link: Option<String>,
    /// When its newest certificate ends.
    pub certificate_expires_at: Option<Timestamp>,
    /// SHA-256 of the public key of its certificates (SubjectPublicKeyInfo).
    pub certificate_key: Option<[u8; 32]>,
}

/// A cookie as kept: by the hash of its value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredCookie {
    /// SHA-256 of its value.
    pub hash: [u8; 32],
    /// Whose it is.
    pub session: SessionId,
    /// The one host that it is good at.
    pub host: String,
    /// When it ends.
    pub expires_at: Timestamp,
}

/// A certificate that was issued to a session, as remembered with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SessionCertificate {
    /// SHA-256 of its DER.
    pub thumbprint: Thumbprint,
    /// When it ends.
    pub expires_at: Timestamp,
    /// SHA-256 of its public key.
    pub key: [u8; 32],
}

macro_rules! columns {
    () => {
        "id, kind, principal_kind, principal_id, email, email_verified, name, member_of, amr, \
         created_at, authenticated_at, expires_at, version, device_id, device_certificate, \
         certificate, certificate_expires_at, certificate_key, link, claims, ended_at, end_reason"
    };
}

const SESSION_INSERT: &str = concat!(
    "insert into session (",
    columns!(),
    ") values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19, $20, null, null)"
);
const SESSION_FETCH: &str = concat!("select ", columns!(), " from session where id = $1");
const SESSION_LIST: &str = concat!(
    "select ",
    columns!(),
    " from session where ended_at is null and expires_at > $1 and id < $2 order by id desc limit $3"
);
const SESSION_LIST_OF: &str = concat!(
    "select ",
    columns!(),
    " from session where principal_kind = $1 and principal_id = $2 and ended_at is null and expires_at > $3 \
     and id < $4 order by id desc limit $5"
);
const SESSION_LIST_BY_LINK: &str = concat!(
    "select ",
    columns!(),
    " from session where link = $1 and ended_at is null and expires_at > $2 order by id"
);
const SESSION_END: &str = concat!(
    "update session set ended_at = $2, end_reason = $3, version = version + 1 \
     where id = $1 and ended_at is null and expires_at > $2 returning ",
    columns!()
);
const SESSION_CERTIFY: &str = concat!(
    "update session set certificate = $2, certificate_expires_at = $3, certificate_key = $4, version = version + 1 \
     where id = $1 and ended_at is null and expires_at > $5 returning ",
    columns!()
);
const SESSION_REGROUP: &str = concat!(
    "update session set member_of = $2, version = version + 1 \
     where id = $1 and ended_at is null and expires_at > $3 and member_of <> $2 returning ",
    columns!()
);
/// An update that changes nothing: it waits for who changes the row, and makes others wait.
const SESSION_HOLD: &str = concat!(
    "update session set version = version where id = $1 and ended_at is null and expires_at > $2 returning ",
    columns!()
);
/// Sorts after every id of a session, which is base32hex.
const AFTER_ALL: &str = "ses_z";

const COOKIE_INSERT: &str =
    "insert into session_cookie (hash, session, host, created_at, expires_at) values ($1, $2, $3, $4, $5)";
const COOKIE_FETCH: &str = "select hash, session, host, expires_at from session_cookie where hash = $1";

/// Rows that one sweep takes at most.
const SWEEP_MAX: i64 = 500;
/// What a row that is still there rests on stays too.
const SWEEP: [&str; 3] = [
    "delete from session_cookie where hash in (select hash from session_cookie where expires_at <= $1 limit $2)",
    "delete from session where id in (select id from session where expires_at <= $1 \
     and not exists (select 1 from session_cookie where session_cookie.session = session.id) \
     and not exists (select 1 from refresh_token where refresh_token.session = session.id) \
     and not exists (select 1 from oauth_code where oauth_code.parent = session.id or oauth_code.issued = session.id) \
     and not exists (select 1 from device_code where device_code.parent = session.id or device_code.issued = session.id) \
     and not exists (select 1 from service_handover where service_handover.session = session.id) limit $2)",
    "delete from provider_link where id in (select id from provider_link where created_at <= $1 \
     and not exists (select 1 from session where session.link = provider_link.id) limit $2)",
];

#[derive(FromRow)]
struct SessionRow {
    id: String,
    kind: String,
    principal_kind: String,
    principal_id: String,
    email: Option<String>,
    email_verified: i64,
    name: Option<String>,
    member_of: String,
    amr: String,
    created_at: i64,
    authenticated_at: i64,
    expires_at: i64,
    version: i64,
    device_id: Option<String>,
    device_certificate: Option<String>,
    certificate: Option<String>,
    certificate_expires_at: Option<i64>,
    certificate_key: Option<Vec<u8>>,
    link: Option<String>,
    claims: Option<String>,
    ended_at: Option<i64>,
    end_reason: Option<String>,
}

#[derive(FromRow)]
struct CookieRow {
    hash: Vec<u8>,
    session: String,
    host: String,
    expires_at: i64,
}

impl TryFrom<SessionRow> for StoredSession {
    type Error = StoreError;

    fn try_from(row: SessionRow) -> Result<Self, StoreError> {
        let wrong = |column| StoreError::Inconsistent { table: "session", column, row: row.id.clone() };
        let kind = PrincipalKind::parse(&row.principal_kind).ok_or_else(|| wrong("principal_kind"))?;
        let thumbprint = |text: &Option<String>, column| {
            text.as_deref().map(|text| Thumbprint::parse(text).ok_or_else(|| wrong(column))).transpose()
        };
        let device = match (&row.device_id, thumbprint(&row.device_certificate, "device_certificate")?) {
            (Some(id), Some(certificate)) => Some(Device { id: id.clone(), certificate }),
            (None, None) => None,
            _ => return Err(wrong("device_id")),
        };
        let ended = match (row.ended_at, row.end_reason.as_deref()) {
            (Some(at), Some(why)) => {
                Some((SessionEnd::parse(why).ok_or_else(|| wrong("end_reason"))?, Timestamp::from_millis(at)))
            }
            (None, None) => None,
            _ => return Err(wrong("ended_at")),
        };
        let key: Option<[u8; 32]> = row
            .certificate_key
            .as_deref()
            .map(|bytes| bytes.try_into().map_err(|_| wrong("certificate_key")))
            .transpose()?;
        let session = Session {
            id: SessionId::parse(&row.id).map_err(|_| wrong("id"))?,
            kind: SessionKind::parse(&row.kind).ok_or_else(|| wrong("kind"))?,
            principal: Principal::stored(kind, &row.principal_id).ok_or_else(|| wrong("principal_id"))?,
            email: row.email.clone(),
            email_verified: row.email_verified == 1,
            name: row.name.clone(),
            groups: serde_json::from_str(&row.member_of).map_err(|_| wrong("member_of"))?,
            created_at: Timestamp::from_millis(row.created_at),
            authenticated_at: Timestamp::from_millis(row.authenticated_at),
            amr: serde_json::from_str(&row.amr).map_err(|_| wrong("amr"))?,
            expires_at: Timestamp::from_millis(row.expires_at),
            version: row.version,
            device,
            certificate: thumbprint(&row.certificate, "certificate")?,
            claims: match &row.claims {
                None => BTreeMap::new(),
                Some(text) => serde_json::from_str(text).map_err(|_| wrong("claims"))?,
            },
            ended,
        };
        Ok(Self {
            session,
            link: row.link.clone(),
            certificate_expires_at: row.certificate_expires_at.map(Timestamp::from_millis),
            certificate_key: key,
        })
    }
}

impl TryFrom<CookieRow> for StoredCookie {
    type Error = StoreError;

    fn try_from(row: CookieRow) -> Result<Self, StoreError> {
        let wrong =
            |column| StoreError::Inconsistent { table: "session_cookie", column, row: format!("of {}", row.session) };
        Ok(Self {
            hash: row.hash.as_slice().try_into().map_err(|_| wrong("hash"))?,
            session: SessionId::parse(&row.session).map_err(|_| wrong("session"))?,
            host: row.host.clone(),
            expires_at: Timestamp::from_millis(row.expires_at),
        })
    }
}

fn all(rows: Vec<SessionRow>) -> Result<Vec<StoredSession>, StoreError> {
    rows.into_iter().map(StoredSession::try_from).collect()
}

/// A list of texts as its column holds it.
fn listed(texts: &[String]) -> String {
    serde_json::Value::from(texts).to_string()
}

impl Store {
    /// The session of that id, live or ended.
    ///
    /// # Errors
    /// When the database is away or the row is inconsistent.
    pub async fn session_fetch(&self, id: SessionId) -> Result<Option<StoredSession>, StoreError> {
        let row: Option<SessionRow> =
            sqlx::query_as(SESSION_FETCH).bind(id.to_string()).fetch_optional(self.pool()).await?;
        row.map(StoredSession::try_from).transpose()
    }

    /// Live sessions, newest first: of `principal`, or of everyone; after the one named by `before`.
    ///
    /// # Errors
    /// When the database is away or a row is inconsistent.
    pub async fn session_list(
        &self,
        principal: Option<&Principal>,
        before: Option<SessionId>,
        limit: i64,
        now: Timestamp,
    ) -> Result<Vec<StoredSession>, StoreError> {
        let before = before.map_or_else(|| AFTER_ALL.to_owned(), |id| id.to_string());
        let limit = limit.clamp(1, SESSION_PAGE_MAX + 1);
        let query = match principal {
            Some(principal) => sqlx::query_as(SESSION_LIST_OF)
                .bind(principal.kind().name())
                .bind(principal.id().to_owned())
                .bind(now.millis()),
            None => sqlx::query_as(SESSION_LIST).bind(now.millis()),
        };
        all(query.bind(before).bind(limit).fetch_all(self.pool()).await?)
    }

    /// Live sessions that rest on one sign-in at a provider.
    ///
    /// # Errors
    /// When the database is away or a row is inconsistent.
    pub async fn session_list_by_link(&self, link: &str, now: Timestamp) -> Result<Vec<StoredSession>, StoreError> {
        let query = sqlx::query_as(SESSION_LIST_BY_LINK).bind(link.to_owned()).bind(now.millis());
        all(query.fetch_all(self.pool()).await?)
    }

    /// The cookie whose value has that hash.
    ///
    /// # Errors
    /// When the database is away or the row is inconsistent.
    pub async fn session_cookie_fetch(&self, hash: &[u8; 32]) -> Result<Option<StoredCookie>, StoreError> {
        let row: Option<CookieRow> =
            sqlx::query_as(COOKIE_FETCH).bind(hash.to_vec()).fetch_optional(self.pool()).await?;
        row.map(StoredCookie::try_from).transpose()
    }
}

impl Tx {
    /// The newest live session of a principal, as this transaction sees it.
    ///
    /// # Errors
    /// When the database refused or the row is inconsistent.
    pub async fn session_newest(
        &mut self,
        principal: &Principal,
        now: Timestamp,
    ) -> Result<Option<StoredSession>, StoreError> {
        let query = sqlx::query_as(SESSION_LIST_OF).bind(principal.kind().name()).bind(principal.id().to_owned());
        let query = query.bind(now.millis()).bind(AFTER_ALL.to_owned()).bind(1_i64);
        let row: Option<SessionRow> = query.fetch_optional(self.connection()).await?;
        row.map(StoredSession::try_from).transpose()
    }

    /// Enters a new session.
    ///
    /// # Errors
    /// When the database refused.
    pub async fn session_insert(&mut self, new: &StoredSession) -> Result<(), StoreError> {
        let session = &new.session;
        let device = session.device.as_ref();
        let claims = (!session.claims.is_empty()).then(|| serde_json::json!(session.claims).to_string());
        sqlx::query(SESSION_INSERT)
            .bind(session.id.to_string())
            .bind(session.kind.name())
            .bind(session.principal.kind().name())
            .bind(session.principal.id().to_owned())
            .bind(session.email.clone())
            .bind(i64::from(session.email_verified))
            .bind(session.name.clone())
            .bind(listed(&session.groups))
            .bind(listed(&session.amr))
            .bind(session.created_at.millis())
            .bind(session.authenticated_at.millis())
            .bind(session.expires_at.millis())
            .bind(session.version)
            .bind(device.map(|device| device.id.clone()))
            .bind(device.map(|device| device.certificate.to_string()))
            .bind(session.certificate.map(|thumbprint| thumbprint.to_string()))
            .bind(new.certificate_expires_at.map(Timestamp::millis))
            .bind(new.certificate_key.map(|key| key.to_vec()))
            .bind(new.link.clone())
            .bind(claims)
            .execute(self.connection())
            .await?;
        Ok(())
    }

    /// The session of that id, live or ended, as this transaction sees it.
    ///
    /// # Errors
    /// When the database is away or the row is inconsistent.
    pub async fn session_fetch(&mut self, id: SessionId) -> Result<Option<StoredSession>, StoreError> {
        let row: Option<SessionRow> =
            sqlx::query_as(SESSION_FETCH).bind(id.to_string()).fetch_optional(self.connection()).await?;
        row.map(StoredSession::try_from).transpose()
    }

    /// The session of that id if it is live at `now`, and until this transaction ends nobody ends
    /// or changes it.
    ///
    /// # Errors
    /// When the database is away or the row is inconsistent.
    pub async fn session_hold(&mut self, id: SessionId, now: Timestamp) -> Result<Option<StoredSession>, StoreError> {
        let query = sqlx::query_as(SESSION_HOLD).bind(id.to_string()).bind(now.millis());
        let row: Option<SessionRow> = query.fetch_optional(self.connection()).await?;
        row.map(StoredSession::try_from).transpose()
    }

    /// Ends a session that is live at `now`; `None` when it was over already.
    ///
    /// # Errors
    /// When the database refused.
    pub async fn session_end(
        &mut self,
        id: SessionId,
        why: SessionEnd,
        now: Timestamp,
    ) -> Result<Option<StoredSession>, StoreError> {
        let query = sqlx::query_as(SESSION_END).bind(id.to_string()).bind(now.millis()).bind(why.name());
        let row: Option<SessionRow> = query.fetch_optional(self.connection()).await?;
        row.map(StoredSession::try_from).transpose()
    }

    /// Remembers the newest certificate of a session that is live at `now`; `None` when it is over.
    ///
    /// # Errors
    /// When the database refused.
    pub async fn session_certify(
        &mut self,
        id: SessionId,
        certificate: &SessionCertificate,
        now: Timestamp,
    ) -> Result<Option<StoredSession>, StoreError> {
        let query = sqlx::query_as(SESSION_CERTIFY)
            .bind(id.to_string())
            .bind(certificate.thumbprint.to_string())
            .bind(certificate.expires_at.millis())
            .bind(certificate.key.to_vec())
            .bind(now.millis());
        let row: Option<SessionRow> = query.fetch_optional(self.connection()).await?;
        row.map(StoredSession::try_from).transpose()
    }

    /// Gives a session that is live at `now` other groups; `None` when it is over or has just these.
    ///
    /// # Errors
    /// When the database refused.
    pub async fn session_regroup(
        &mut self,
        id: SessionId,
        groups: &[String],
        now: Timestamp,
    ) -> Result<Option<StoredSession>, StoreError> {
        let query = sqlx::query_as(SESSION_REGROUP).bind(id.to_string()).bind(listed(groups)).bind(now.millis());
        let row: Option<SessionRow> = query.fetch_optional(self.connection()).await?;
        row.map(StoredSession::try_from).transpose()
    }

    /// Enters a browser's cookie.
    ///
    /// # Errors
    /// When the database refused.
    pub async fn session_cookie_insert(&mut self, cookie: &StoredCookie, now: Timestamp) -> Result<(), StoreError> {
        sqlx::query(COOKIE_INSERT)
            .bind(cookie.hash.to_vec())
            .bind(cookie.session.to_string())
            .bind(cookie.host.clone())
            .bind(now.millis())
            .bind(cookie.expires_at.millis())
            .execute(self.connection())
            .await?;
        Ok(())
    }

    /// Forgets cookies and sessions that have been over since `before`, and sign-ins that none
    /// rests on. A small batch at a time; gives how many rows went.
    ///
    /// # Errors
    /// When the database refused.
    pub async fn session_sweep(&mut self, before: Timestamp) -> Result<u64, StoreError> {
        let mut gone = 0;
        for statement in SWEEP {
            let query = sqlx::query(statement).bind(before.millis()).bind(SWEEP_MAX);
            gone += query.execute(self.connection()).await?.rows_affected();
        }
        Ok(gone)
    }
}
