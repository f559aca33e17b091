//! Grants: approved entitlements in time, and who tends them.
//!
//! INVARIANTS: what is over never changes again, since every change is guarded by `ended_at is
//! null`; whoever counts the holders of an entitlement holds its counter's row until the
//! transaction ends, so two who race for the last place are one after the other.

use sqlx::FromRow;

use super::access_request::{actions_of, actions_text, length_of, params_of, params_text, principal_of};
use super::engine::{Store, StoreError, Tx};
use crate::model::{
    EntitlementName, Grant, GrantEnd, GrantId, GrantState, NodeId, Person, Principal, RequestId, Timestamp, Ttl,
};

/// Grants on one page of a list at most.
pub const GRANT_PAGE_MAX: u32 = 200;

macro_rules! columns {
    () => {
        "id, request, entitlement, principal_kind, principal_id, email, name, params, actions, emergency, reviews, \
         state, created_at, starts_at, length_ms, active_at, expires_at, ended_at, end_reason, idle_ms, used_at"
    };
}

const INSERT: &str = concat!(
    "insert into access_grant (",
    columns!(),
    ", service) values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19, $20, \
     $21, $22)"
);
const FETCH: &str = concat!("select ", columns!(), " from access_grant where id = $1");
/// An update that changes nothing: it waits for who changes the row, and makes others wait.
const HOLD: &str = concat!("update access_grant set state = state where id = $1 returning ", columns!());
const LIST: &str = concat!(
    "select ",
    columns!(),
    " from access_grant where ($1 = '' or (principal_kind = $1 and principal_id = $2)) and id < $3 \
     order by id desc limit $4"
);
const LIST_ACTIVE: &str = concat!(
    "select ",
    columns!(),
    " from access_grant where state = 'active' and expires_at > $1 and id > $2 order by id limit $3"
);
const LIST_ACTIVE_OF: &str = concat!(
    "select ",
    columns!(),
    " from access_grant where state = 'active' and expires_at > $1 and principal_kind = $2 and principal_id = $3 \
     order by id limit $4"
);
/// How long after its end a grant that was not used is written down as over: a use of the last moments
/// may still be under way to the database.
const IDLE_TOLD_WITHIN: Ttl = Ttl::seconds(2);

/// Those that are to be looked at: over by the clock or for want of use, or waiting and due; in the order
/// in which they may begin, so that who waits longest is first.
const LIST_DUE: &str = concat!(
    "select ",
    columns!(),
    " from access_grant where ended_at is null and ((state = 'active' and expires_at <= $1) \
     or (state = 'active' and coalesce(used_at, active_at) + idle_ms <= $2) \
     or (state in ('scheduled', 'queued') and starts_at <= $1)) \
     and (starts_at > $3 or (starts_at = $3 and id > $4)) order by starts_at, id limit $5"
);
/// Changes a grant that is as it was when it was read. `$9`: its last use too, or -1.
const SAVE: &str = concat!(
    "update access_grant set state = $2, active_at = $3, expires_at = $4, ended_at = $5, end_reason = $6 \
     where id = $1 and ended_at is null and state = $7 and coalesce(expires_at, 0) = $8 \
     and ($9 < 0 or coalesce(used_at, 0) = $9) returning ",
    columns!()
);
const POSTPONE: &str = concat!(
    "update access_grant set starts_at = $2, state = 'scheduled' where id = $1 and ended_at is null \
     and state in ('scheduled', 'queued') and starts_at < $2 returning ",
    columns!()
);
const LIST_EMERGENCY: &str =
    concat!("select ", columns!(), " from access_grant where emergency = 1 and id < $1 order by id desc limit $2");
const COUNTER_INSERT: &str =
    "insert into entitlement_counter (entitlement, turns) values ($1, 0) on conflict (entitlement) do nothing";
const COUNTER_TURN: &str = "update entitlement_counter set turns = turns + 1 where entitlement = $1";
const COUNT_ACTIVE: &str =
    "select count(*) from access_grant where entitlement = $1 and state = 'active' and expires_at > $2";
const COUNT_QUEUED: &str =
    "select count(*) from access_grant where entitlement = $1 and state = 'queued' and ended_at is null";
const DUTY_INSERT: &str = "insert into duty (name, node, until) values ($1, $2, $3) on conflict (name) do nothing";
const DUTY_TAKE: &str = "update duty set node = $2, until = $3 where name = $1 and (node = $2 or until <= $4)";
const DUTY_LEAVE: &str = "update duty set until = 0 where name = $1 and node = $2";

#[derive(FromRow)]
struct Row {
    id: String,
    request: String,
    entitlement: String,
    principal_kind: String,
    principal_id: String,
    email: Option<String>,
    name: Option<String>,
    params: String,
    actions: String,
    emergency: i64,
    reviews: i64,
    state: String,
    created_at: i64,
    starts_at: i64,
    length_ms: i64,
    active_at: Option<i64>,
    expires_at: Option<i64>,
    ended_at: Option<i64>,
    end_reason: Option<String>,
    idle_ms: Option<i64>,
    used_at: Option<i64>,
}

fn state_of(row: &Row) -> Option<GrantState> {
    let time = |millis: Option<i64>| millis.map(Timestamp::from_millis);
    let over = |end| {
        Some(GrantState::Over { from: time(row.active_at), until: time(row.expires_at), end, at: time(row.ended_at)? })
    };
    match row.state.as_str() {
        "scheduled" => Some(GrantState::Scheduled),
        "queued" => Some(GrantState::Queued),
        "active" => Some(GrantState::Active { from: time(row.active_at)?, until: time(row.expires_at)? }),
        "expired" => over(GrantEnd::Expired),
        "revoked" => over(GrantEnd::Revoked),
        "dropped" => over(GrantEnd::Dropped),
        _ => None,
    }
}

impl TryFrom<Row> for Grant {
    type Error = StoreError;

    fn try_from(row: Row) -> Result<Self, StoreError> {
        let wrong = |column| StoreError::Inconsistent { table: "access_grant", column, row: row.id.clone() };
        Ok(Self {
            id: GrantId::parse(&row.id).map_err(|_| wrong("id"))?,
            request: RequestId::parse(&row.request).map_err(|_| wrong("request"))?,
            entitlement: EntitlementName::parse(&row.entitlement).map_err(|_| wrong("entitlement"))?,
            holder: Person {
                principal: principal_of(&row.principal_kind, &row.principal_id).ok_or_else(|| wrong("principal_id"))?,
                email: row.email.clone(),
                email_verified: false,
                name: row.name.clone(),
            },
            params: params_of(&row.params).ok_or_else(|| wrong("params"))?,
            actions: actions_of(&row.actions).ok_or_else(|| wrong("actions"))?,
            emergency: row.emergency == 1,
            reviews: u32::try_from(row.reviews).map_err(|_| wrong("reviews"))?,
            created_at: Timestamp::from_millis(row.created_at),
            starts_at: Timestamp::from_millis(row.starts_at),
            length: length_of(row.length_ms).ok_or_else(|| wrong("length_ms"))?,
            state: state_of(&row).ok_or_else(|| wrong("state"))?,
            end_reason: row.end_reason.clone(),
            idle: match row.idle_ms {
                None => None,
                Some(millis) => Some(length_of(millis).ok_or_else(|| wrong("idle_ms"))?),
            },
            used_at: row.used_at.map(Timestamp::from_millis),
        })
    }
}

/// Whether a grant ends before its time for want of use.
fn is_idle_end(read: &Grant, next: GrantState) -> bool {
    matches!((next, read.state.expires_at()), (GrantState::Over { end: GrantEnd::Expired, at, .. }, Some(until)) if at < until)
}

fn all(rows: Vec<Row>) -> Result<Vec<Grant>, StoreError> {
    rows.into_iter().map(Grant::try_from).collect()
}

impl Store {
    /// The grant of that id.
    ///
    /// # Errors
    /// When the database is away or the row can't be.
    pub async fn grant_fetch(&self, id: GrantId) -> Result<Option<Grant>, StoreError> {
        let row: Option<Row> = sqlx::query_as(FETCH).bind(id.to_string()).fetch_optional(self.pool()).await?;
        row.map(Grant::try_from).transpose()
    }

    /// Grants, newest first: of `principal`, or of everyone; after the one named by `before`.
    ///
    /// # Errors
    /// When the database is away or a row can't be.
    pub async fn grant_list(
        &self,
        principal: Option<&Principal>,
        before: Option<GrantId>,
        limit: u32,
    ) -> Result<Vec<Grant>, StoreError> {
        let rows = sqlx::query_as(LIST)
            .bind(principal.map_or("", |principal| principal.kind().name()))
            .bind(principal.map_or_else(String::new, |principal| principal.id().to_owned()))
            .bind(before.map_or_else(|| "grt_z".to_owned(), |id| id.to_string()))
            .bind(i64::from(limit.min(GRANT_PAGE_MAX + 1)))
            .fetch_all(self.pool())
            .await?;
        all(rows)
    }

    /// Grants that were taken without approval, newest first.
    ///
    /// # Errors
    /// When the database is away or a row can't be.
    pub async fn grant_list_emergency(&self, before: Option<GrantId>, limit: u32) -> Result<Vec<Grant>, StoreError> {
        let before = before.map_or_else(|| "grt_z".to_owned(), |id| id.to_string());
        let query = sqlx::query_as(LIST_EMERGENCY).bind(before).bind(i64::from(limit.min(GRANT_PAGE_MAX + 1)));
        all(query.fetch_all(self.pool()).await?)
    }

    /// Active grants of everyone, in the order of their ids, after `after`.
    ///
    /// # Errors
    /// When the database is away or a row can't be.
    pub async fn grant_list_active(
        &self,
        after: Option<GrantId>,
        limit: u32,
        now: Timestamp,
    ) -> Result<Vec<Grant>, StoreError> {
        let after = after.map_or_else(String::new, |id| id.to_string());
        let query = sqlx::query_as(LIST_ACTIVE).bind(now.millis()).bind(after).bind(i64::from(limit));
        all(query.fetch_all(self.pool()).await?)
    }

    /// Active grants of one principal.
    ///
    /// # Errors
    /// When the database is away or a row can't be.
    pub async fn grant_list_active_of(&self, principal: &Principal, now: Timestamp) -> Result<Vec<Grant>, StoreError> {
        let rows = sqlx::query_as(LIST_ACTIVE_OF)
            .bind(now.millis())
            .bind(principal.kind().name())
            .bind(principal.id().to_owned())
            .bind(i64::from(GRANT_PAGE_MAX))
            .fetch_all(self.pool())
            .await?;
        all(rows)
    }

    /// Grants that are over by the clock or for want of use, or wait and are due, those first that may
    /// begin the longest, after `after`.
    ///
    /// # Errors
    /// When the database is away or a row can't be.
    pub async fn grant_list_due(
        &self,
        after: Option<&Grant>,
        limit: u32,
        now: Timestamp,
    ) -> Result<Vec<Grant>, StoreError> {
        let query = sqlx::query_as(LIST_DUE)
            .bind(now.millis())
            .bind(now.minus(IDLE_TOLD_WITHIN).millis())
            .bind(after.map_or(i64::MIN, |grant| grant.starts_at.millis()))
            .bind(after.map_or_else(String::new, |grant| grant.id.to_string()))
            .bind(i64::from(limit));
        all(query.fetch_all(self.pool()).await?)
    }
}

impl Tx {
    /// Enters a grant.
    ///
    /// # Errors
    /// When the database refuses.
    pub async fn grant_insert(&mut self, grant: &Grant) -> Result<(), StoreError> {
        let holder = &grant.holder;
        sqlx::query(INSERT)
            .bind(grant.id.to_string())
            .bind(grant.request.to_string())
            .bind(grant.entitlement.to_string())
            .bind(holder.principal.kind().name())
            .bind(holder.principal.id().to_owned())
            .bind(holder.email.clone())
            .bind(holder.name.clone())
            .bind(params_text(&grant.params))
            .bind(actions_text(&grant.actions))
            .bind(i64::from(grant.emergency))
            .bind(i64::from(grant.reviews))
            .bind(grant.state.name())
            .bind(grant.created_at.millis())
            .bind(grant.starts_at.millis())
            .bind(grant.length.as_millis())
            .bind(grant.state.active_at().map(Timestamp::millis))
            .bind(grant.state.expires_at().map(Timestamp::millis))
            .bind(grant.state.ended_at().map(Timestamp::millis))
            .bind(grant.end_reason.clone())
            .bind(grant.idle.map(Ttl::as_millis))
            .bind(grant.used_at.map(Timestamp::millis))
            .bind(grant.entitlement.service().as_str().to_owned())
            .execute(self.connection())
            .await?;
        Ok(())
    }

    /// The grant of that id, which nobody else changes until this transaction ends. ORDER: after the requests
    /// that the transaction holds, as whoever approves an extension does.
    ///
    /// # Errors
    /// When the database refuses or the row can't be.
    pub async fn grant_hold(&mut self, id: GrantId) -> Result<Option<Grant>, StoreError> {
        let row: Option<Row> = sqlx::query_as(HOLD).bind(id.to_string()).fetch_optional(self.connection()).await?;
        row.map(Grant::try_from).transpose()
    }

    /// Gives a grant its next state if it is still as it was read; `None` when someone was first. One
    /// that ends for want of use must not have been used since either.
    ///
    /// # Errors
    /// When the database refuses or the row can't be.
    pub async fn grant_save(
        &mut self,
        read: &Grant,
        next: GrantState,
        end_reason: Option<&str>,
    ) -> Result<Option<Grant>, StoreError> {
        let row: Option<Row> = sqlx::query_as(SAVE)
            .bind(read.id.to_string())
            .bind(next.name())
            .bind(next.active_at().map(Timestamp::millis))
            .bind(next.expires_at().map(Timestamp::millis))
            .bind(next.ended_at().map(Timestamp::millis))
            .bind(end_reason.map(str::to_owned))
            .bind(read.state.name())
            .bind(read.state.expires_at().map_or(0, Timestamp::millis))
            .bind(if is_idle_end(read, next) { read.used_at.map_or(0, Timestamp::millis) } else { -1 })
            .fetch_optional(self.connection())
            .await?;
        row.map(Grant::try_from).transpose()
    }

    /// A grant that waits may not begin before `until`; `None` where it does not wait, or waits longer.
    ///
    /// # Errors
    /// When the database refuses or the row can't be.
    pub async fn grant_postpone(&mut self, id: GrantId, until: Timestamp) -> Result<Option<Grant>, StoreError> {
        let query = sqlx::query_as(POSTPONE).bind(id.to_string()).bind(until.millis());
        let row: Option<Row> = query.fetch_optional(self.connection()).await?;
        row.map(Grant::try_from).transpose()
    }

    /// Until this transaction ends nobody else counts the holders of the entitlement.
    pub(in crate::store) async fn entitlement_turn(&mut self, name: &EntitlementName) -> Result<(), StoreError> {
        sqlx::query(COUNTER_INSERT).bind(name.to_string()).execute(self.connection()).await?;
        sqlx::query(COUNTER_TURN).bind(name.to_string()).execute(self.connection()).await?;
        Ok(())
    }

    /// How many wait for a place of the entitlement; until this transaction ends nobody else counts.
    ///
    /// # Errors
    /// When the database refuses.
    pub async fn grant_count_queued(&mut self, name: &EntitlementName) -> Result<i64, StoreError> {
        self.entitlement_turn(name).await?;
        Ok(sqlx::query_scalar(COUNT_QUEUED).bind(name.to_string()).fetch_one(self.connection()).await?)
    }

    /// How many hold the entitlement at `now`; until this transaction ends nobody else counts.
    ///
    /// # Errors
    /// When the database refuses.
    pub async fn grant_count_held(&mut self, name: &EntitlementName, now: Timestamp) -> Result<i64, StoreError> {
        self.entitlement_turn(name).await?;
        let name = name.to_string();
        Ok(sqlx::query_scalar(COUNT_ACTIVE).bind(name).bind(now.millis()).fetch_one(self.connection()).await?)
    }

    /// Takes a duty that only one node may have, until `until`. `false` while another has it.
    ///
    /// # Errors
    /// When the database refuses.
    pub async fn duty_take(
        &mut self,
        name: &str,
        node: NodeId,
        until: Timestamp,
        now: Timestamp,
    ) -> Result<bool, StoreError> {
        let (name, node) = (name.to_owned(), node.to_string());
        let insert = sqlx::query(DUTY_INSERT).bind(name.clone()).bind(node.clone()).bind(until.millis());
        insert.execute(self.connection()).await?;
        let take = sqlx::query(DUTY_TAKE).bind(name).bind(node).bind(until.millis()).bind(now.millis());
        Ok(take.execute(self.connection()).await?.rows_affected() == 1)
    }

    /// Leaves a duty, if this node has it, to whichever node asks for it next.
    ///
    /// # Errors
    /// When the database refuses.
    pub async fn duty_leave(&mut self, name: &str, node: NodeId) -> Result<(), StoreError> {
        let leave = sqlx::query(DUTY_LEAVE).bind(name.to_owned()).bind(node.to_string());
        leave.execute(self.connection()).await?;
        Ok(())
    }
}
