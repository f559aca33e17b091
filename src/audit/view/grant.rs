//! Everything about one grant: asked for, approved, begun, used, prolonged, ended, reviewed.
//!
//! 1. Every event of the grant goes in, and those of requests, since a request is there before its grant.
//! 2. What happened once is a step of the timeline; uses are counted by route and outcome.
//! 3. The end puts steps in their order and reads the state of the grant from them.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::Somebody;
use super::words::words;
use crate::audit::event::{EventType, Outcome};
use crate::audit::format::Entry;
use crate::audit::leaf::PersonalField;
use crate::model::Timestamp;

/// Steps of one timeline at most.
const STEPS_MAX: usize = 2000;
/// Routes that uses are counted by at most.
const ROUTES_MAX: usize = 200;
/// Requests that are remembered until it is known whose they are.
const REQUESTS_MAX: usize = 50_000;
/// Grants that are named when a beginning fits several.
const OTHERS_MAX: usize = 5;
/// How many people review an emergency.
const REVIEWERS: usize = 2;

/// One thing that happened.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Step {
    /// When.
    pub time: String,
    /// `grant.active`
    #[serde(rename = "type")]
    pub kind: String,
    /// In words.
    pub text: String,
    /// Who did it; none: the system.
    #[serde(default)]
    pub by: Option<Somebody>,
    /// `success`, `denied`, `failed`
    pub outcome: String,
    /// `evt_…`
    pub event: String,
    /// The log that holds it.
    pub log: String,
    /// Its number there; none in the first moments.
    #[serde(default)]
    pub seq: Option<i64>,
    /// What is special to the type.
    pub data: Map<String, Value>,
}

/// Uses of one route with one outcome.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Use {
    /// `POST`; none where many routes are told as one.
    #[serde(default)]
    pub method: Option<String>,
    /// The canonical path; none where it was erased or many routes are told as one.
    #[serde(default)]
    pub path: Option<String>,
    /// What the route stands for.
    #[serde(default)]
    pub action: Option<String>,
    /// `success`, `denied`
    pub outcome: String,
    /// Why it was refused.
    #[serde(default)]
    pub reason: Option<String>,
    /// How often.
    pub count: u64,
    /// When first.
    pub first: String,
    /// When last.
    pub last: String,
}

/// The request behind a grant.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AskedFor {
    /// `req_…`
    pub id: String,
    /// When.
    pub time: String,
    /// Why.
    pub reason: String,
    /// The ticket that was named.
    #[serde(default)]
    pub ticket: Option<String>,
    /// The parameters that were asked for, each as `name=value`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub params: Vec<String>,
    /// For how long.
    #[serde(rename = "for")]
    pub length: String,
    /// What an approval names: `sha256:…` of the canonical request.
    pub hash: String,
    /// How many must approve.
    pub approvals_needed: u64,
}

/// Everything about one grant.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GrantView {
    /// `grt_…`
    pub id: String,
    /// `svc/name`
    pub entitlement: String,
    /// Who holds or held it.
    #[serde(default)]
    pub holder: Option<Somebody>,
    /// scheduled, active, expired, revoked, dropped
    pub state: String,
    /// Whether it came without the approvals that it else needs.
    pub emergency: bool,
    /// The request behind it; none where the record here does not have it.
    #[serde(default)]
    pub request: Option<AskedFor>,
    /// Who approved it, extensions included.
    pub approved_by: Vec<Somebody>,
    /// Since when.
    #[serde(default)]
    pub active_at: Option<String>,
    /// Until when, extensions included.
    #[serde(default)]
    pub expires_at: Option<String>,
    /// When it ended.
    #[serde(default)]
    pub ended_at: Option<String>,
    /// Why.
    #[serde(default)]
    pub end_reason: Option<String>,
    /// `none` where it needs none, `open`, `done`
    pub review: String,
    /// Requests that it let through.
    pub allowed: u64,
    /// Requests that were refused under it.
    pub denied: u64,
    /// When it was first used.
    #[serde(default)]
    pub first_use: Option<String>,
    /// When it was last used.
    #[serde(default)]
    pub last_use: Option<String>,
    /// By route and outcome, most first.
    pub uses: Vec<Use>,
    /// Everything else, in its order.
    pub timeline: Vec<Step>,
    /// Events whose content is gone or was left out by the export's filter.
    pub without_content: u64,
    /// Steps that did not fit.
    pub left_out: u64,
}

/// Why there is no view of a grant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NoGrant {
    /// No event is of it.
    Unknown,
    /// The beginning of an id fits several; some of them.
    Several(Vec<String>),
}

#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Route {
    method: Option<String>,
    path: Option<String>,
    action: Option<String>,
    outcome: &'static str,
    reason: Option<String>,
}

struct Tally {
    count: u64,
    first: Timestamp,
    last: Timestamp,
}

/// A step with what it is put in order by.
struct Placed {
    time: Timestamp,
    kind: EventType,
    step: Step,
    subject: Option<Somebody>,
}

/// Takes events and gives the view of one grant.
pub struct GrantCollector {
    /// The id, or how it begins.
    wanted: String,
    id: Option<String>,
    others: BTreeSet<String>,
    steps: Vec<Placed>,
    requests: BTreeMap<String, Vec<Placed>>,
    routes: BTreeMap<Route, Tally>,
    without_content: u64,
    left_out: u64,
}

impl GrantCollector {
    /// Of the grant with this id, or of the one whose id begins so.
    #[must_use]
    pub fn new(wanted: &str) -> Self {
        Self {
            wanted: wanted.to_owned(),
            id: None,
            others: BTreeSet::new(),
            steps: Vec::new(),
            requests: BTreeMap::new(),
            routes: BTreeMap::new(),
            without_content: 0,
            left_out: 0,
        }
    }

    /// An event without content: whose it was can't be told any more.
    pub const fn without_content(&mut self) {
        self.without_content += 1;
    }

    /// The ids of requests that this grant came from or was prolonged by, as far as events told.
    #[must_use]
    pub fn requests(&self) -> BTreeSet<String> {
        self.steps.iter().filter_map(|placed| placed.step.data.get("request")?.as_str().map(str::to_owned)).collect()
    }

    /// Takes an event of any kind.
    pub fn take(&mut self, entry: &Entry<'_>) {
        let kind = entry.clear().kind;
        let Some(grant) = entry.clear().grant.map(|id| id.to_string()) else {
            self.remember(entry);
            return;
        };
        if !grant.starts_with(&self.wanted) {
            return;
        }
        match &self.id {
            None => self.id = Some(grant),
            Some(id) if *id == grant => {}
            Some(_) => {
                if self.others.len() < OTHERS_MAX {
                    self.others.insert(grant);
                }
                return;
            }
        }
        if entry.body.is_null() {
            self.without_content += 1;
            return;
        }
        match kind {
            EventType::DecisionAllow | EventType::DecisionDeny => self.used(entry),
            _ if self.steps.len() >= STEPS_MAX => self.left_out += 1,
            _ => self.steps.push(Placed::of(entry)),
        }
    }

    /// Keeps what happened to a request that has no grant yet.
    fn remember(&mut self, entry: &Entry<'_>) {
        use EventType as T;
        let about = matches!(
            entry.clear().kind,
            T::RequestCreated | T::RequestApproved | T::RequestVoided | T::RequestDenied | T::RequestWithdrawn
        );
        let Some(request) = entry.text("/data/request").filter(|_| about) else { return };
        if !self.requests.contains_key(request) && self.requests.len() >= REQUESTS_MAX {
            self.left_out += 1;
            return;
        }
        let steps = self.requests.entry(request.to_owned()).or_default();
        if steps.len() < STEPS_MAX {
            steps.push(Placed::of(entry));
        }
    }

    fn used(&mut self, entry: &Entry<'_>) {
        let clear = entry.clear();
        let text = |pointer: &str| entry.text(pointer).map(str::to_owned);
        let mut route = Route {
            method: text("/request/method"),
            path: entry.personal(PersonalField::Path).map(str::to_owned),
            action: text("/action"),
            outcome: clear.outcome.name(),
            reason: text("/reason"),
        };
        if !self.routes.contains_key(&route) && self.routes.len() >= ROUTES_MAX {
            route = Route { method: None, path: None, ..route };
        }
        let tally = self.routes.entry(route).or_insert(Tally { count: 0, first: clear.time, last: clear.time });
        tally.count += 1;
        tally.first = tally.first.min(clear.time);
        tally.last = tally.last.max(clear.time);
    }

    /// After the last event of a record that was taken at `as_of`.
    ///
    /// # Errors
    /// When there is no such grant, or several.
    pub fn end(mut self, as_of: Timestamp) -> Result<GrantView, NoGrant> {
        let id = self.id.clone().ok_or(NoGrant::Unknown)?;
        if !self.others.is_empty() {
            self.others.insert(id);
            return Err(NoGrant::Several(self.others.into_iter().collect()));
        }
        for request in self.requests() {
            self.steps.extend(self.requests.remove(&request).unwrap_or_default());
        }
        // What was written by one transaction has one time.
        self.steps.sort_by(|one, other| {
            (one.time, one.rank(), &one.step.event).cmp(&(other.time, other.rank(), &other.step.event))
        });
        let mut view = self.counted(id);
        for placed in &self.steps {
            view.tell(placed);
        }
        view.timeline = self.steps.into_iter().map(|placed| placed.step).collect();
        view.settle(as_of);
        Ok(view)
    }

    fn counted(&self, id: String) -> GrantView {
        let of = |outcome: Outcome| self.routes.iter().filter(move |(route, _)| route.outcome == outcome.name());
        let sum = |outcome| of(outcome).map(|(_, tally)| tally.count).sum();
        let first = of(Outcome::Success).map(|(_, tally)| tally.first).min();
        let last = of(Outcome::Success).map(|(_, tally)| tally.last).max();
        let mut uses: Vec<Use> = self
            .routes
            .iter()
            .map(|(route, tally)| Use {
                method: route.method.clone(),
                path: route.path.clone(),
                action: route.action.clone(),
                outcome: route.outcome.to_owned(),
                reason: route.reason.clone(),
                count: tally.count,
                first: tally.first.to_string(),
                last: tally.last.to_string(),
            })
            .collect();
        uses.sort_by_key(|use_| std::cmp::Reverse(use_.count));
        GrantView {
            id,
            entitlement: String::new(),
            holder: None,
            state: "unknown".to_owned(),
            emergency: false,
            request: None,
            approved_by: Vec::new(),
            active_at: None,
            expires_at: None,
            ended_at: None,
            end_reason: None,
            review: "none".to_owned(),
            allowed: sum(Outcome::Success),
            denied: sum(Outcome::Denied),
            first_use: first.map(|time| time.to_string()),
            last_use: last.map(|time| time.to_string()),
            uses,
            timeline: Vec::new(),
            without_content: self.without_content,
            left_out: self.left_out,
        }
    }
}

impl Placed {
    fn of(entry: &Entry<'_>) -> Self {
        let clear = entry.clear();
        let data = entry.body.get("data").and_then(Value::as_object).cloned().unwrap_or_default();
        let subject = Somebody::subject(entry);
        let step = Step {
            time: clear.time.to_string(),
            kind: clear.kind.name().to_owned(),
            text: words(clear.kind, entry),
            by: Somebody::actor(entry),
            outcome: clear.outcome.name().to_owned(),
            event: clear.id.to_string(),
            log: entry.log.to_string(),
            seq: entry.seq,
            data,
        };
        Self { time: clear.time, kind: clear.kind, step, subject }
    }

    /// What comes first of what happened at once.
    const fn rank(&self) -> u8 {
        match self.kind {
            EventType::RequestCreated => 0,
            EventType::RequestVoided => 1,
            EventType::RequestApproved => 2,
            _ => 3,
        }
    }

    fn text(&self, key: &str) -> Option<String> {
        self.step.data.get(key).and_then(Value::as_str).map(str::to_owned)
    }
}

impl GrantView {
    /// What one step says of the whole.
    fn tell(&mut self, placed: &Placed) {
        use EventType as T;
        let step = &placed.step;
        if let Some(entitlement) = placed.text("entitlement") {
            self.entitlement = entitlement;
        }
        if let Some(subject) = &placed.subject {
            self.holder.get_or_insert_with(|| subject.clone()).learn(subject);
        }
        match placed.kind {
            T::RequestCreated if self.request.is_none() => {
                self.request = Some(AskedFor {
                    id: placed.text("request").unwrap_or_default(),
                    time: step.time.clone(),
                    reason: placed.text("reason").unwrap_or_default(),
                    ticket: placed.text("ticket"),
                    params: step
                        .data
                        .get("params")
                        .and_then(|params| Vec::deserialize(params).ok())
                        .unwrap_or_default(),
                    length: placed.text("for").unwrap_or_default(),
                    hash: placed.text("hash").unwrap_or_default(),
                    approvals_needed: step.data.get("approvals_needed").and_then(Value::as_u64).unwrap_or(0),
                });
            }
            T::RequestApproved => {
                if let Some(by) = step.by.as_ref().filter(|by| self.approved_by.iter().all(|known| known.id != by.id)) {
                    self.approved_by.push(by.clone());
                }
            }
            T::GrantScheduled | T::GrantActive | T::GrantExtended => {
                self.emergency |= step.data.get("emergency").and_then(Value::as_bool) == Some(true);
                self.state = if placed.kind == T::GrantScheduled { "scheduled" } else { "active" }.to_owned();
                self.expires_at = placed.text("expires_at").or_else(|| self.expires_at.take());
                if placed.kind == T::GrantActive {
                    self.active_at = Some(step.time.clone());
                }
            }
            T::GrantExpired | T::GrantRevoked | T::GrantDropped => {
                let word = step.kind.rsplit('.').next().unwrap_or_default();
                self.state = word.to_owned();
                self.end_reason = placed.text("reason");
                // A sweep records an end that was reached a little before.
                let reached = self.expires_at.clone().filter(|_| placed.kind == T::GrantExpired);
                self.ended_at = reached.filter(|end| *end < step.time).or_else(|| Some(step.time.clone()));
            }
            _ => {}
        }
    }

    /// What follows from all steps.
    fn settle(&mut self, as_of: Timestamp) {
        let over = self.expires_at.as_deref().and_then(Timestamp::parse).is_some_and(|end| end.is_over(as_of));
        if over && self.state == "active" {
            self.state = "expired".to_owned();
            self.ended_at.clone_from(&self.expires_at);
        }
        let holder = self.holder.as_ref().map(|holder| holder.id.as_str());
        let reviews = self.timeline.iter().filter(|step| step.kind == EventType::BreakGlassReviewed.name());
        let reviewers: BTreeSet<&str> =
            reviews.filter_map(|step| Some(step.by.as_ref()?.id.as_str())).filter(|by| Some(*by) != holder).collect();
        let done = reviewers.len() >= REVIEWERS;
        self.review = match (self.emergency, done) {
            (false, _) => "none",
            (true, false) => "open",
            (true, true) => "done",
        }
        .to_owned();
    }
}
