//! `doorward policy replay`: a past decision, judged anew under policies that may come into force.
//!
//! INVARIANTS: it walks the same way as the data path (host → route → scope → grants → policy), and
//! it judges from what is on record alone. Where the policies of the action read something that no
//! event keeps, it gives no answer: a guess would be taken for the past.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

use serde_json::{Map, Value};

use super::context::{Ambient, DeviceContext, RequestContext, SessionContext};
use super::policy_set::{EntitlementAction, PolicySet};
use super::schema;
use super::service::Service;
use super::settings::ClientCertificate;
use super::subject::{BreakGlassFacts, Facts, Subject};
use super::workloads::{Recognised, SPIFFE_PROVIDER};
use crate::model::{ActionName, EntitlementName, Principal, PrincipalKind, ServiceName, Timestamp};

/// The sign-in that a decision belonged to.
#[derive(Debug, Clone)]
pub struct SignIn {
    /// When the session was started.
    pub created_at: Timestamp,
    /// When the person proved themselves.
    pub authenticated_at: Timestamp,
    /// How.
    pub amr: Arc<[String]>,
}

/// A grant that counted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Held {
    /// What was granted.
    pub entitlement: EntitlementName,
    /// Since when.
    pub active_at: Timestamp,
}

/// The opening of someone on the emergency path.
#[derive(Debug, Clone)]
pub struct Opening {
    /// Who opened.
    pub opener: String,
    /// Who signed.
    pub custodians: Vec<String>,
    /// Why.
    pub reason: String,
}

/// What the record keeps of one decision.
#[derive(Debug, Clone)]
pub struct Past {
    /// Who asked.
    pub principal: Principal,
    /// The e-mail that the provider told.
    pub email: Option<String>,
    /// Whether it was verified.
    pub email_verified: bool,
    /// Groups that the provider told, at that time.
    pub groups: Arc<[String]>,
    /// Claims of a workload.
    pub claims: BTreeMap<String, String>,
    /// The opening of the emergency path.
    pub opening: Option<Opening>,
    /// Grants that counted.
    pub held: Vec<Held>,
    /// The session.
    pub sign_in: Option<SignIn>,
    /// The trusted device that was shown.
    pub device: Option<String>,
    /// Actions that the token was narrowed to.
    pub scope: Option<Vec<String>>,
    /// Whether a client certificate was shown.
    pub certificate: bool,
    /// From where.
    pub address: IpAddr,
    /// When.
    pub at: Timestamp,
    /// The method.
    pub method: String,
    /// The host: lower case, no port.
    pub host: String,
    /// The canonical path.
    pub path: String,
    /// What the route stood for then.
    pub action: Option<String>,
}

/// What comes out now.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Again {
    /// Whether it is allowed.
    pub allow: bool,
    /// Why not, in a word.
    pub reason: Option<&'static str>,
    /// The service of the host.
    pub service: Option<ServiceName>,
    /// What the route stands for.
    pub action: Option<ActionName>,
    /// The route as written.
    pub route: Option<Arc<str>>,
    /// The policies that decide.
    pub policies: Vec<Arc<str>>,
    /// Policies that could not be evaluated.
    pub errors: Vec<String>,
}

impl Again {
    fn refused(self, reason: &'static str) -> Self {
        Self { allow: false, reason: Some(reason), ..self }
    }
}

/// Policies that past decisions are judged by.
#[derive(Debug)]
pub struct Replay<'s> {
    set: &'s PolicySet,
    /// What of a principal an action's policies read and no event keeps; found out once for each.
    unrecorded: HashMap<(ServiceName, String, PrincipalKind), Option<String>>,
}

impl<'s> Replay<'s> {
    /// A replay under these policies.
    #[must_use]
    pub fn new(set: &'s PolicySet) -> Self {
        Self { set, unrecorded: HashMap::new() }
    }

    /// Judges one decision anew.
    ///
    /// # Errors
    /// What would have to be known, and is not on record.
    pub fn judge(&mut self, past: &Past) -> Result<Again, String> {
        let set = self.set;
        let mut again = Again::default();
        let Some(service) = set.service_for_host(&past.host) else { return Ok(again.refused("no_service")) };
        again.service = Some(service.name.clone());
        if service.client_certificate == ClientCertificate::Required && !past.certificate {
            return Ok(again.refused("no_credential"));
        }
        let workload = match past.principal.kind() {
            PrincipalKind::User | PrincipalKind::BreakGlass => None,
            PrincipalKind::Workload => match self.recognised(past)? {
                Some(found) if takes(&found, service) => Some(found),
                Some(_) | None => return Ok(again.refused("no_trust_rule")),
            },
        };
        let Some(matched) = service.route(&past.method, &past.path) else { return Ok(again.refused("no_route")) };
        again.action = Some(matched.action.clone());
        again.route = Some(matched.template.clone());
        if past.scope.as_ref().is_some_and(|scope| !scope.iter().any(|name| name == matched.action.as_str())) {
            return Ok(again.refused("scope_insufficient"));
        }
        self.all_recorded(service, matched.action.as_str(), past.principal.kind())?;
        let base = subject(set, past, workload.as_ref());
        let subject = self.with_grants(base, past, service, &matched.action)?;
        let context = RequestContext {
            method: &past.method,
            path: &past.path,
            host: &past.host,
            params: &matched.params,
            ambient: ambient(past),
        };
        let verdict = service.decide(&subject, &matched.action, &context);
        again.allow = verdict.allow;
        again.reason = (!verdict.allow).then(|| verdict.reason.name());
        again.policies = verdict.policies;
        again.errors = verdict.errors;
        Ok(again)
    }

    /// The workload under the trust rules of these policies; none where no rule names it.
    fn recognised(&self, past: &Past) -> Result<Option<Recognised>, String> {
        let workloads = self.set.workloads();
        let provider = past.principal.provider();
        if provider == SPIFFE_PROVIDER {
            return Ok(workloads.recognise_spiffe(past.principal.subject()));
        }
        let Some(issuer) = workloads.issuers().iter().find(|issuer| issuer.name == provider) else { return Ok(None) };
        if let Some(claim) = workloads.claim_unknown(provider, schema::is_claim_recorded) {
            return Err(format!("a trust rule reads the claim `{claim}`, which is not on record"));
        }
        let claims: Map<String, Value> =
            past.claims.iter().map(|(name, value)| (name.clone(), value.clone().into())).collect();
        Ok(workloads.recognise(issuer, &claims).ok())
    }

    /// Makes the subject a member of what was granted and still counts: the same action of its own
    /// service, and an entitlement that its holder might ask for under these policies, too.
    fn with_grants(
        &mut self,
        base: Subject,
        past: &Past,
        service: &Service,
        action: &ActionName,
    ) -> Result<Subject, String> {
        let mut subject = base.clone();
        for held in &past.held {
            let name = &held.entitlement;
            let approved = name.service() != &service.name || past.action.as_deref() == Some(action.as_str());
            if !approved || self.set.entitlement(name).is_none() {
                continue;
            }
            if let Some(owner) = self.set.service(name.service()) {
                self.all_recorded(owner, EntitlementAction::Request.name(), past.principal.kind())?;
            }
            let ambient = Ambient { now: held.active_at, token_scope: None, ..ambient(past) };
            if self.set.entitlement_decide(&base, EntitlementAction::Request, name, &ambient).allow {
                subject = subject.with_entitlement(name);
            }
        }
        Ok(subject)
    }

    fn all_recorded(&mut self, service: &Service, action: &str, kind: PrincipalKind) -> Result<(), String> {
        let key = (service.name.clone(), action.to_owned(), kind);
        let found = self.unrecorded.entry(key).or_insert_with(|| unrecorded(service, action, kind));
        found.clone().map_or(Ok(()), Err)
    }
}

/// What no event keeps and the action's policies read of such a principal.
fn unrecorded(service: &Service, action: &str, kind: PrincipalKind) -> Option<String> {
    let Some(read) = service.principal_attributes(action, kind) else {
        return Some("a policy reads what can't be told".to_owned());
    };
    match kind {
        PrincipalKind::User => {
            read.contains("name").then(|| "a policy reads `principal.name`, which is not on record".to_owned())
        }
        PrincipalKind::Workload => {
            let claim = schema::claims().find(|claim| read.contains(*claim) && !schema::is_claim_recorded(claim))?;
            Some(format!("a policy reads `principal.claims.{claim}`, which is not on record"))
        }
        PrincipalKind::BreakGlass => None,
    }
}

/// Whether the rule lets tokens be had for the service. A certificate is no token.
fn takes(found: &Recognised, service: &Service) -> bool {
    let by_certificate = found.principal.provider() == SPIFFE_PROVIDER;
    by_certificate || found.services.is_empty() || found.services.contains(&service.name)
}

fn subject(set: &PolicySet, past: &Past, workload: Option<&Recognised>) -> Subject {
    let claims = workload.map(|found| serde_json::json!(found.claims));
    set.subject(&Facts {
        principal: workload.map_or(&past.principal, |found| &found.principal),
        email: past.email.as_deref(),
        email_verified: past.email_verified,
        name: None,
        groups: workload.map_or(&past.groups, |found| &found.groups),
        entitlements: &[],
        claims: claims.as_ref(),
        breakglass: past.opening.as_ref().map(|opening| BreakGlassFacts {
            opener: &opening.opener,
            custodians: &opening.custodians,
            reason: &opening.reason,
        }),
    })
}

fn ambient(past: &Past) -> Ambient<'_> {
    Ambient {
        address: past.address,
        now: past.at,
        session: past.sign_in.as_ref().map(|sign_in| SessionContext {
            created_at: sign_in.created_at,
            authenticated_at: sign_in.authenticated_at,
            amr: &sign_in.amr,
        }),
        device: past.device.as_deref().map(|id| DeviceContext { id, trusted: true }),
        token_scope: past.scope.as_deref(),
    }
}
