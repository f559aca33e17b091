//! Requests for entitlements, and what approvers answered.
//!
//! INVARIANTS: a request is closed by one guarded statement, so of two who close it one is first;
//! an account answers a request once, and again only where its answer counts no more.

use std::collections::BTreeMap;

use sqlx::FromRow;

use super::engine::{Store, StoreError, Tx};
use crate::model::{
    AccessRequest, Answer, Approval, Circumstances, EntitlementName, GrantId, OpenedAction, Person, Principal,
    PrincipalKind, RequestId, RequestState, SessionId, Timestamp, Ttl,
};

/// Requests on one page of a list at most.
pub const ACCESS_REQUEST_PAGE_MAX: u32 = 200;

macro_rules! columns {
    () => {
        "id, entitlement, principal_kind, principal_id, email, email_verified, name, session, address, reason, \
         ticket, params, length_ms, start_at, emergency, extends, hash, actions, approvals_needed, state, \
         created_at, answer_by, closed_at, grant_id"
    };
}

const INSERT: &str = concat!(
    "insert into access_request (",
    columns!(),
    ", service) values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19, $20, \
     $21, $22, $23, $24, $25)"
);
const FETCH: &str = concat!("select ", columns!(), " from access_request where id = $1");
/// Empty text: any. `id` sorts by time.
const LIST: &str = concat!(
    "select ",
    columns!(),
    " from access_request where ($1 = '' or (principal_kind = $1 and principal_id = $2)) \
     and ($3 = '' or state = $3) and id < $4 order by id desc limit $5"
);
const LIST_OVERDUE: &str = concat!(
    "select ",
    columns!(),
    " from access_request where state = 'pending' and answer_by <= $1 order by answer_by limit $2"
);
const CLOSE: &str = concat!(
    "update access_request set state = $2, closed_at = $3, grant_id = $4 where id = $1 and state = 'pending' \
     and ($2 = 'timed_out' or answer_by > $3) returning ",
    columns!()
);
const CLOSE_EXTENSIONS: &str = concat!(
    "update access_request set state = $2, closed_at = $3 where extends = $1 and state = 'pending' and answer_by > $3 \
     returning ",
    columns!()
);
/// An update that changes nothing: it waits for who changes the row, and makes others wait.
const HOLD: &str = concat!(
    "update access_request set state = state where id = $1 and state = 'pending' and answer_by > $2 returning ",
    columns!()
);
const REBIND: &str = "\
    update access_request set hash = $2, actions = $3, approvals_needed = $4 where id = $1 and state = 'pending'";
/// How often this account was granted this entitlement since a time, and ever.
/// Those that were held when a request was made. The grant of an extension is an earlier request's, which was.
const GRANTED: &str = "\
    select count(*) from access_grant where entitlement = $1 and principal_kind = $2 and principal_id = $3 \
    and created_at >= $4 and active_at <= $5 and request <> $6";

const APPROVAL_INSERT: &str = "\
    insert into access_approval (request, principal_kind, principal_id, email, email_verified, name, answer, reason, \
    hash, time, address, amr, device) values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13) \
    on conflict (request, principal_kind, principal_id) do update set answer = excluded.answer, \
    reason = excluded.reason, hash = excluded.hash, time = excluded.time, address = excluded.address, \
    amr = excluded.amr, device = excluded.device where access_approval.hash <> excluded.hash \
    or access_approval.answer <> excluded.answer or access_approval.time = $14";
const APPROVAL_LIST: &str = "\
    select principal_kind, principal_id, email, email_verified, name, answer, reason, hash, time, address, amr, device, \
    counted from access_approval where request = $1 order by time, principal_id";
const APPROVAL_WEIGH: &str = "\
    update access_approval set counted = $4 where request = $1 and principal_kind = $2 and principal_id = $3";

#[derive(FromRow)]
struct Row {
    id: String,
    entitlement: String,
    principal_kind: String,
    principal_id: String,
    email: Option<String>,
    email_verified: i64,
    name: Option<String>,
    session: String,
    address: String,
    reason: String,
    ticket: Option<String>,
    params: String,
    length_ms: i64,
    start_at: Option<i64>,
    emergency: i64,
    extends: Option<String>,
    hash: String,
    actions: String,
    approvals_needed: i64,
    state: String,
    created_at: i64,
    answer_by: i64,
    closed_at: Option<i64>,
    grant_id: Option<String>,
}

#[derive(FromRow)]
struct ApprovalRow {
    principal_kind: String,
    principal_id: String,
    email: Option<String>,
    email_verified: i64,
    name: Option<String>,
    answer: String,
    reason: Option<String>,
    hash: String,
    time: i64,
    address: Option<String>,
    amr: Option<String>,
    device: Option<String>,
    counted: Option<i64>,
}

pub(in crate::store) fn principal_of(kind: &str, id: &str) -> Option<Principal> {
    Principal::stored(PrincipalKind::parse(kind)?, id)
}

pub(in crate::store) fn length_of(millis: i64) -> Option<Ttl> {
    Ttl::parse(&format!("{millis}ms"))
}

pub(in crate::store) fn params_of(text: &str) -> Option<BTreeMap<String, String>> {
    serde_json::from_str(text).ok()
}

pub(in crate::store) fn params_text(params: &BTreeMap<String, String>) -> String {
    serde_json::to_string(params).unwrap_or_else(|_| "{}".to_owned())
}

pub(in crate::store) fn actions_of(text: &str) -> Option<Vec<OpenedAction>> {
    let names: Vec<String> = serde_json::from_str(text).ok()?;
    names.iter().map(|name| OpenedAction::parse(name).ok()).collect()
}

pub(in crate::store) fn actions_text(actions: &[OpenedAction]) -> String {
    let names: Vec<String> = actions.iter().map(ToString::to_string).collect();
    serde_json::to_string(&names).unwrap_or_else(|_| "[]".to_owned())
}

impl TryFrom<Row> for AccessRequest {
    type Error = StoreError;

    fn try_from(row: Row) -> Result<Self, StoreError> {
        let wrong = |column| StoreError::Inconsistent { table: "access_request", column, row: row.id.clone() };
        Ok(Self {
            id: RequestId::parse(&row.id).map_err(|_| wrong("id"))?,
            entitlement: EntitlementName::parse(&row.entitlement).map_err(|_| wrong("entitlement"))?,
            requester: Person {
                principal: principal_of(&row.principal_kind, &row.principal_id).ok_or_else(|| wrong("principal_id"))?,
                email: row.email.clone(),
                email_verified: row.email_verified == 1,
                name: row.name.clone(),
            },
            session: SessionId::parse(&row.session).map_err(|_| wrong("session"))?,
            address: row.address.parse().map_err(|_| wrong("address"))?,
            reason: row.reason.clone(),
            ticket: row.ticket.clone(),
            params: params_of(&row.params).ok_or_else(|| wrong("params"))?,
            length: length_of(row.length_ms).ok_or_else(|| wrong("length_ms"))?,
            start: row.start_at.map(Timestamp::from_millis),
            emergency: row.emergency == 1,
            extends: row.extends.as_deref().map(GrantId::parse).transpose().map_err(|_| wrong("extends"))?,
            hash: row.hash.clone(),
            actions: actions_of(&row.actions).ok_or_else(|| wrong("actions"))?,
            approvals_needed: u32::try_from(row.approvals_needed).map_err(|_| wrong("approvals_needed"))?,
            state: RequestState::parse(&row.state).ok_or_else(|| wrong("state"))?,
            created_at: Timestamp::from_millis(row.created_at),
            answer_by: Timestamp::from_millis(row.answer_by),
            closed_at: row.closed_at.map(Timestamp::from_millis),
            grant: row.grant_id.as_deref().map(GrantId::parse).transpose().map_err(|_| wrong("grant_id"))?,
        })
    }
}

impl TryFrom<ApprovalRow> for Approval {
    type Error = StoreError;

    fn try_from(row: ApprovalRow) -> Result<Self, StoreError> {
        let wrong =
            |column| StoreError::Inconsistent { table: "access_approval", column, row: row.principal_id.clone() };
        Ok(Self {
            by: Person {
                principal: principal_of(&row.principal_kind, &row.principal_id).ok_or_else(|| wrong("principal_id"))?,
                email: row.email.clone(),
                email_verified: row.email_verified == 1,
                name: row.name.clone(),
            },
            answer: Answer::parse(&row.answer).ok_or_else(|| wrong("answer"))?,
            reason: row.reason.clone(),
            hash: row.hash.clone(),
            time: Timestamp::from_millis(row.time),
            came: match (&row.address, &row.amr) {
                (None, None) => None,
                (Some(address), Some(amr)) => Some(Circumstances {
                    address: address.parse().map_err(|_| wrong("address"))?,
                    amr: serde_json::from_str(amr).map_err(|_| wrong("amr"))?,
                    device: row.device.clone(),
                }),
                (Some(_), None) => return Err(wrong("amr")),
                (None, Some(_)) => return Err(wrong("address")),
            },
            counted: match row.counted {
                None => None,
                Some(0) => Some(false),
                Some(1) => Some(true),
                Some(_) => return Err(wrong("counted")),
            },
        })
    }
}

/// Which requests are wanted. Empty: all, newest first.
#[derive(Debug, Clone, Copy, Default)]
pub struct AccessRequestFilter<'a> {
    /// Only of this principal.
    pub principal: Option<&'a Principal>,
    /// Only in this state, as stored.
    pub state: Option<RequestState>,
    /// Older than this one: the last of the page before.
    pub before: Option<RequestId>,
}

impl Store {
    /// The request of that id.
    ///
    /// # Errors
    /// When the database is away or the row can't be.
    pub async fn access_request_fetch(&self, id: RequestId) -> Result<Option<AccessRequest>, StoreError> {
        let row: Option<Row> = sqlx::query_as(FETCH).bind(id.to_string()).fetch_optional(self.pool()).await?;
        row.map(AccessRequest::try_from).transpose()
    }

    /// The newest requests that pass `filter`, at most `limit` or [`ACCESS_REQUEST_PAGE_MAX`].
    ///
    /// # Errors
    /// When the database is away or a row can't be.
    pub async fn access_request_list(
        &self,
        filter: &AccessRequestFilter<'_>,
        limit: u32,
    ) -> Result<Vec<AccessRequest>, StoreError> {
        let rows: Vec<Row> = sqlx::query_as(LIST)
            .bind(filter.principal.map_or("", |principal| principal.kind().name()))
            .bind(filter.principal.map_or_else(String::new, |principal| principal.id().to_owned()))
            .bind(filter.state.map_or("", RequestState::name))
            .bind(filter.before.map_or_else(|| "req_z".to_owned(), |id| id.to_string()))
            .bind(i64::from(limit.min(ACCESS_REQUEST_PAGE_MAX + 1)))
            .fetch_all(self.pool())
            .await?;
        rows.into_iter().map(AccessRequest::try_from).collect()
    }

    /// Pending requests whose time is over.
    ///
    /// # Errors
    /// When the database is away or a row can't be.
    pub async fn access_request_overdue(&self, now: Timestamp, limit: u32) -> Result<Vec<AccessRequest>, StoreError> {
        let query = sqlx::query_as(LIST_OVERDUE).bind(now.millis()).bind(i64::from(limit));
        let rows: Vec<Row> = query.fetch_all(self.pool()).await?;
        rows.into_iter().map(AccessRequest::try_from).collect()
    }

    /// What approvers answered, oldest first.
    ///
    /// # Errors
    /// When the database is away or a row can't be.
    pub async fn access_approval_list(&self, id: RequestId) -> Result<Vec<Approval>, StoreError> {
        let rows: Vec<ApprovalRow> = sqlx::query_as(APPROVAL_LIST).bind(id.to_string()).fetch_all(self.pool()).await?;
        rows.into_iter().map(Approval::try_from).collect()
    }

    /// How often whoever asks had held the entitlement when they asked, by grants that were made since a time;
    /// what came of the request itself is not among them.
    ///
    /// # Errors
    /// When the database is away.
    pub async fn grants_held(&self, request: &AccessRequest, since: Timestamp) -> Result<i64, StoreError> {
        let principal = &request.requester.principal;
        Ok(sqlx::query_scalar(GRANTED)
            .bind(request.entitlement.to_string())
            .bind(principal.kind().name())
            .bind(principal.id().to_owned())
            .bind(since.millis())
            .bind(request.created_at.millis())
            .bind(request.id.to_string())
            .fetch_one(self.pool())
            .await?)
    }
}

impl Tx {
    /// Enters a request.
    ///
    /// # Errors
    /// When the database refuses.
    pub async fn access_request_insert(&mut self, request: &AccessRequest) -> Result<(), StoreError> {
        let requester = &request.requester;
        sqlx::query(INSERT)
            .bind(request.id.to_string())
            .bind(request.entitlement.to_string())
            .bind(requester.principal.kind().name())
            .bind(requester.principal.id().to_owned())
            .bind(requester.email.clone())
            .bind(i64::from(requester.email_verified))
            .bind(requester.name.clone())
            .bind(request.session.to_string())
            .bind(request.address.to_string())
            .bind(request.reason.clone())
            .bind(request.ticket.clone())
            .bind(params_text(&request.params))
            .bind(request.length.as_millis())
            .bind(request.start.map(Timestamp::millis))
            .bind(i64::from(request.emergency))
            .bind(request.extends.map(|id| id.to_string()))
            .bind(request.hash.clone())
            .bind(actions_text(&request.actions))
            .bind(i64::from(request.approvals_needed))
            .bind(request.state.name())
            .bind(request.created_at.millis())
            .bind(request.answer_by.millis())
            .bind(request.closed_at.map(Timestamp::millis))
            .bind(request.grant.map(|id| id.to_string()))
            .bind(request.entitlement.service().as_str().to_owned())
            .execute(self.connection())
            .await?;
        Ok(())
    }

    /// The request if it is pending at `now`, and until this transaction ends nobody closes it.
    ///
    /// # Errors
    /// When the database refuses or the row can't be.
    pub async fn access_request_hold(
        &mut self,
        id: RequestId,
        now: Timestamp,
    ) -> Result<Option<AccessRequest>, StoreError> {
        let query = sqlx::query_as(HOLD).bind(id.to_string()).bind(now.millis());
        let row: Option<Row> = query.fetch_optional(self.connection()).await?;
        row.map(AccessRequest::try_from).transpose()
    }

    /// Closes a pending request; `None` when it was closed already.
    ///
    /// # Errors
    /// When the database refuses or the row can't be.
    pub async fn access_request_close(
        &mut self,
        id: RequestId,
        end: RequestState,
        grant: Option<GrantId>,
        now: Timestamp,
    ) -> Result<Option<AccessRequest>, StoreError> {
        let row: Option<Row> = sqlx::query_as(CLOSE)
            .bind(id.to_string())
            .bind(end.name())
            .bind(now.millis())
            .bind(grant.map(|id| id.to_string()))
            .fetch_optional(self.connection())
            .await?;
        row.map(AccessRequest::try_from).transpose()
    }

    /// Closes the pending requests for more of a grant.
    ///
    /// # Errors
    /// When the database refuses or a row can't be.
    pub async fn access_request_close_extensions(
        &mut self,
        grant: GrantId,
        end: RequestState,
        now: Timestamp,
    ) -> Result<Vec<AccessRequest>, StoreError> {
        let query = sqlx::query_as(CLOSE_EXTENSIONS).bind(grant.to_string()).bind(end.name()).bind(now.millis());
        let rows: Vec<Row> = query.fetch_all(self.connection()).await?;
        rows.into_iter().map(AccessRequest::try_from).collect()
    }

    /// Binds a pending request to what its entitlement is and opens now: older answers stop counting.
    ///
    /// # Errors
    /// When the database refuses.
    pub async fn access_request_rebind(
        &mut self,
        id: RequestId,
        hash: &str,
        actions: &[OpenedAction],
        approvals_needed: u32,
    ) -> Result<(), StoreError> {
        let query = sqlx::query(REBIND).bind(id.to_string()).bind(hash.to_owned()).bind(actions_text(actions));
        query.bind(i64::from(approvals_needed)).execute(self.connection()).await?;
        Ok(())
    }

    /// Enters an answer, instead of one of another kind, to what the request was before, or of that time,
    /// which counts no more. `false` when this account has answered so already.
    ///
    /// # Errors
    /// When the database refuses.
    pub async fn access_approval_insert(
        &mut self,
        id: RequestId,
        approval: &Approval,
        instead_of: Option<Timestamp>,
    ) -> Result<bool, StoreError> {
        let (by, came) = (&approval.by, approval.came.as_ref());
        let done = sqlx::query(APPROVAL_INSERT)
            .bind(id.to_string())
            .bind(by.principal.kind().name())
            .bind(by.principal.id().to_owned())
            .bind(by.email.clone())
            .bind(i64::from(by.email_verified))
            .bind(by.name.clone())
            .bind(approval.answer.name())
            .bind(approval.reason.clone())
            .bind(approval.hash.clone())
            .bind(approval.time.millis())
            .bind(came.map(|came| came.address.to_string()))
            .bind(came.map(|came| serde_json::json!(came.amr).to_string()))
            .bind(came.and_then(|came| came.device.clone()))
            .bind(instead_of.map_or(-1, Timestamp::millis))
            .execute(self.connection())
            .await?;
        Ok(done.rows_affected() == 1)
    }

    /// Writes down of each of these answers whether it counted: one of `counted` for one of `given`.
    ///
    /// # Errors
    /// When the database refuses.
    pub async fn access_approval_weigh(
        &mut self,
        id: RequestId,
        given: &[Approval],
        counted: &[bool],
    ) -> Result<(), StoreError> {
        for (approval, counted) in given.iter().zip(counted) {
            let by = &approval.by.principal;
            sqlx::query(APPROVAL_WEIGH)
                .bind(id.to_string())
                .bind(by.kind().name())
                .bind(by.id().to_owned())
                .bind(i64::from(*counted))
                .execute(self.connection())
                .await?;
        }
        Ok(())
    }

    /// What approvers answered, oldest first, as this transaction sees it.
    ///
    /// # Errors
    /// When the database refuses or a row can't be.
    pub async fn access_approval_list(&mut self, id: RequestId) -> Result<Vec<Approval>, StoreError> {
        let query = sqlx::query_as(APPROVAL_LIST).bind(id.to_string());
        let rows: Vec<ApprovalRow> = query.fetch_all(self.connection()).await?;
        rows.into_iter().map(Approval::try_from).collect()
    }
}
