//! One event as the record tells it, and what a decision rested on, as far as it is on record.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use serde::Deserialize;
use serde_json::Value;

use super::sign_ins::SignIns;
use crate::audit::json::TEXT_BYTES_MAX;
use crate::audit::{EventType, basis};
use crate::model::{EntitlementName, Principal, PrincipalKind, SessionId, Timestamp};
use crate::policy::{Held, Past};
use crate::wire::Time;

/// An event, of which only what a replay reads is taken.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct Line {
    /// Of a line without content it is missing.
    #[serde(default)]
    pub(super) id: String,
    pub(super) time: Time,
    #[serde(rename = "type")]
    pub(super) kind: String,
    #[serde(default)]
    pub(super) service: Option<String>,
    #[serde(default)]
    pub(super) actor: ActorLine,
    #[serde(default)]
    pub(super) action: Option<String>,
    #[serde(default)]
    pub(super) resource: Option<String>,
    #[serde(default)]
    pub(super) reason: Option<String>,
    #[serde(default)]
    pub(super) decision: Option<String>,
    #[serde(default)]
    grant: Option<String>,
    #[serde(default)]
    request: Option<RequestLine>,
    #[serde(default)]
    pub(super) data: BTreeMap<String, Value>,
    #[serde(default)]
    withheld: Option<String>,
}

/// Who.
#[derive(Debug, Clone, Default, Deserialize)]
pub(super) struct ActorLine {
    #[serde(default)]
    kind: Option<String>,
    #[serde(default)]
    pub(super) principal: Option<String>,
    #[serde(default)]
    pub(super) email: Option<String>,
    #[serde(default)]
    pub(super) session: Option<String>,
    #[serde(default)]
    device: Option<String>,
    #[serde(default)]
    address: Option<String>,
    #[serde(default)]
    certificate: Option<String>,
}

#[derive(Debug, Clone, Deserialize)]
struct RequestLine {
    method: String,
    host: String,
    #[serde(default)]
    path: Option<String>,
}

/// What a decision's event gives.
pub(super) enum Reading {
    /// What it rested on, and whether it was allowed.
    Past(bool, Box<Past>),
    /// It was refused for a reason that no policy of a service has a part in.
    NotPolicy(String),
    /// Something that it rested on is not there.
    NotOnRecord(&'static str),
}

const NO_GROUPS: &str = "no groups on record";
const ERASED: &str = "erased from the record";

impl Line {
    /// Whether it is of that type.
    pub(super) fn is(&self, kind: EventType) -> bool {
        self.kind == kind.name()
    }

    /// The session that it belongs to.
    pub(super) fn session(&self) -> Option<SessionId> {
        SessionId::parse(self.actor.session.as_deref()?).ok()
    }

    /// Texts of a list in its data; `None` where there is no list.
    pub(super) fn texts(&self, key: &str) -> Option<Vec<String>> {
        let list = self.data.get(key)?.as_array()?;
        Some(list.iter().filter_map(Value::as_str).map(str::to_owned).collect())
    }

    /// A text in its data.
    pub(super) fn text(&self, key: &str) -> Option<&str> {
        self.data.get(key)?.as_str()
    }

    /// Whether a refusal is one that policies have a part in. One for another site's page has the
    /// reason of a policy, and none was asked.
    fn is_about_policy(&self) -> bool {
        match self.reason.as_deref() {
            Some("forbidden_by_policy") => self.data.contains_key("policies"),
            Some("no_policy_match" | "device_untrusted" | "no_route" | "scope_insufficient") => true,
            Some(_) | None => false,
        }
    }

    /// Puts together what the decision rested on.
    pub(super) fn reading(&self, sign_ins: &SignIns) -> Reading {
        if self.withheld.is_some() {
            return Reading::NotOnRecord("pruned, or left out of the export");
        }
        let allowed = self.is(EventType::DecisionAllow);
        if !allowed && !self.is_about_policy() {
            return Reading::NotPolicy(self.reason.clone().unwrap_or_else(|| "no reason".to_owned()));
        }
        // Built-in actions: what is allowed of them is not a decision of its own on record, so there
        // would be gains and never a loss.
        if self.service.is_none() {
            return Reading::NotPolicy("of the control host".to_owned());
        }
        if self.actor.principal.is_none() && self.actor.kind.is_none() {
            return Reading::NotPolicy(format!("{} of nobody known", self.reason.as_deref().unwrap_or("allowed")));
        }
        match self.past(allowed, sign_ins) {
            Ok(past) => Reading::Past(allowed, Box::new(past)),
            Err(missing) => Reading::NotOnRecord(missing),
        }
    }

    fn past(&self, allowed: bool, sign_ins: &SignIns) -> Result<Past, &'static str> {
        let principal = self.actor.principal.as_deref().and_then(Principal::parse).ok_or(ERASED)?;
        let address: IpAddr = self.actor.address.as_deref().and_then(|text| text.parse().ok()).ok_or(ERASED)?;
        let request = self.request.as_ref().ok_or("no request on record")?;
        let path = request.path.clone().ok_or(ERASED)?;
        if path.len() > TEXT_BYTES_MAX {
            return Err("a path that was too long to be kept");
        }
        if self.data.contains_key("cut_bytes") {
            return Err("facts that were too long to be kept");
        }
        if allowed && self.grant.is_some() && !self.data.contains_key(basis::GRANTS) {
            return Err("no grants on record");
        }
        let mut past = Past {
            email: self.actor.email.clone(),
            email_verified: false,
            groups: Arc::from([]),
            claims: BTreeMap::new(),
            opening: None,
            held: self.held()?,
            sign_in: None,
            device: self.actor.device.clone(),
            scope: self.texts(basis::SCOPE),
            certificate: self.actor.certificate.is_some(),
            address,
            at: self.time.0,
            method: request.method.clone(),
            host: request.host.clone(),
            path,
            action: self.action.clone(),
            principal,
        };
        match (self.session(), past.principal.kind()) {
            (Some(session), _) => sign_ins.complete(session, &mut past)?,
            (None, PrincipalKind::User) => {
                // A provider's own token, without a session here.
                past.groups = self.texts(basis::GROUPS).ok_or(NO_GROUPS)?.into();
                past.email_verified = self.data.get(basis::EMAIL_VERIFIED).and_then(Value::as_bool).unwrap_or(false);
            }
            // A machine's certificate says all that its rules look at.
            (None, PrincipalKind::Workload) => {}
            (None, PrincipalKind::BreakGlass) => {
                let opening = sign_ins.opening(&past.principal).ok_or("no opening on record")?;
                past.opening = Some(opening.clone());
            }
        }
        Ok(past)
    }

    fn held(&self) -> Result<Vec<Held>, &'static str> {
        let Some(listed) = self.data.get(basis::GRANTS).and_then(Value::as_array) else { return Ok(Vec::new()) };
        let one = |grant: &Value| {
            let text = |key: &str| grant.get(key).and_then(Value::as_str);
            let entitlement = EntitlementName::parse(text(basis::ENTITLEMENT)?).ok()?;
            Some(Held { entitlement, active_at: Timestamp::parse(text(basis::ACTIVE_AT)?)? })
        };
        listed.iter().map(one).collect::<Option<Vec<Held>>>().ok_or("grants that can't be read")
    }
}
