//! Decisions of a server's record, newest first, and the sign-ins that they belong to.
//!
//! A session's id says when it was started, so what has to be read of sign-ins is known: from the
//! beginning of the time that was asked for, and further back only for a session that is older.

use std::collections::VecDeque;

use super::line::Line;
use super::sign_ins::{KINDS, SignIns};
use crate::audit::EventType;
use crate::cli::context::Context;
use crate::cli::failure::Failure;
use crate::cli::renewal::{SignedIn, signed_in};
use crate::model::{ServiceName, Timestamp, Ttl};
use crate::wire::{Page, Service};

/// Events of one page.
const PAGE: u32 = 1000;
/// Sign-ins are read back in steps of at least this.
const STEP: Ttl = Ttl::hours(1);
/// The longest that an opening lasts, and some.
const OPENING_MAX: Ttl = Ttl::hours(2);

/// Events of one type, newest first.
struct Stream {
    kind: EventType,
    page: VecDeque<Line>,
    cursor: Option<String>,
    over: bool,
}

impl Stream {
    const fn new(kind: EventType) -> Self {
        Self { kind, page: VecDeque::new(), cursor: None, over: false }
    }
}

/// The record of a server.
pub(super) struct Server<'a> {
    context: &'a Context,
    here: SignedIn,
    since: Timestamp,
    service: Option<ServiceName>,
    allowed: Stream,
    refused: Stream,
    /// Sign-ins are known from here on.
    reached: Timestamp,
}

impl<'a> Server<'a> {
    pub(super) async fn open(
        context: &'a Context,
        since: Timestamp,
        service: Option<ServiceName>,
    ) -> Result<Self, Failure> {
        Ok(Self {
            context,
            here: signed_in(context).await?,
            since,
            service,
            allowed: Stream::new(EventType::DecisionAllow),
            refused: Stream::new(EventType::DecisionDeny),
            reached: since,
        })
    }

    /// The domain under which the server's services are: the longest end of the control host's name
    /// that some service has after its own label.
    pub(super) async fn domain(&self) -> Result<Option<String>, Failure> {
        let page = self.here.client.list("/api/v1/services").await?;
        let mut hosts: Vec<String> = Vec::new();
        for item in &page.items {
            hosts.extend(self.here.client.read::<Service>(item.get())?.hosts);
        }
        let control = self.here.origin.host();
        let mut ends = std::iter::successors(Some(control.as_str()), |name| name.split_once('.').map(|(_, rest)| rest));
        let is_under =
            |domain: &str| hosts.iter().any(|host| host.split_once('.').is_some_and(|(_, rest)| rest == domain));
        Ok(ends.find(|domain| is_under(domain)).map(str::to_owned))
    }

    /// Reads the sign-ins of the time that is looked at.
    pub(super) async fn begin(&mut self, sign_ins: &mut SignIns) -> Result<(), Failure> {
        for kind in KINDS {
            let from = if kind == EventType::BreakGlassOpened { self.since.minus(OPENING_MAX) } else { self.since };
            self.take(kind, from, None, sign_ins).await?;
        }
        Ok(())
    }

    /// Reads further back where the decision's session was started earlier than what is known.
    pub(super) async fn reach(&mut self, line: &Line, sign_ins: &mut SignIns) -> Result<(), Failure> {
        let Some(session) = line.session() else { return Ok(()) };
        if sign_ins.knows(session) || sign_ins.is_full() || session.made_at() >= self.reached {
            return Ok(());
        }
        let from = session.made_at().minus(STEP);
        for kind in [EventType::SessionStart, EventType::SessionGroups] {
            self.take(kind, from, Some(self.reached), sign_ins).await?;
        }
        self.reached = from;
        Ok(())
    }

    async fn take(
        &mut self,
        kind: EventType,
        from: Timestamp,
        to: Option<Timestamp>,
        sign_ins: &mut SignIns,
    ) -> Result<(), Failure> {
        let mut cursor = None;
        loop {
            let page = self.page(kind, from, to, None, cursor.as_deref()).await?;
            page.items.iter().for_each(|line| sign_ins.take(line));
            cursor = page.next;
            if cursor.is_none() || sign_ins.is_full() {
                return Ok(());
            }
        }
    }

    /// The next decision.
    pub(super) async fn next(&mut self) -> Result<Option<Line>, Failure> {
        self.fill(false).await?;
        self.fill(true).await?;
        let (allowed, refused) = (self.allowed.page.front(), self.refused.page.front());
        // Ids sort by the time at which they were made.
        let is_refused = match (allowed, refused) {
            (Some(allowed), Some(refused)) => (refused.time, &refused.id) > (allowed.time, &allowed.id),
            (None, _) => true,
            (Some(_), None) => false,
        };
        Ok(if is_refused { self.refused.page.pop_front() } else { self.allowed.page.pop_front() })
    }

    async fn fill(&mut self, is_refused: bool) -> Result<(), Failure> {
        let stream = if is_refused { &self.refused } else { &self.allowed };
        if stream.over || !stream.page.is_empty() {
            return Ok(());
        }
        let (kind, cursor) = (stream.kind, stream.cursor.clone());
        let page = self.page(kind, self.since, None, self.service.clone(), cursor.as_deref()).await?;
        let stream = if is_refused { &mut self.refused } else { &mut self.allowed };
        stream.over = page.next.is_none();
        stream.cursor = page.next;
        stream.page = page.items.into();
        Ok(())
    }

    async fn page(
        &mut self,
        kind: EventType,
        from: Timestamp,
        to: Option<Timestamp>,
        service: Option<ServiceName>,
        cursor: Option<&str>,
    ) -> Result<Page<Line>, Failure> {
        let mut query = form_urlencoded::Serializer::new(String::new());
        query.append_pair("limit", &PAGE.to_string()).append_pair("type", kind.name());
        query.append_pair("from", &from.to_string());
        if let Some(to) = to {
            query.append_pair("to", &to.to_string());
        }
        if let Some(service) = &service {
            query.append_pair("service", service.as_str());
        }
        if let Some(cursor) = cursor {
            query.append_pair("cursor", cursor);
            // A long past outlives a certificate; whichever request comes next renews it.
            self.here = signed_in(self.context).await?;
        }
        let json = self.here.client.get(&format!("/api/v1/audit/events?{}", query.finish())).await?;
        Ok(self.here.client.read(&json)?)
    }
}
