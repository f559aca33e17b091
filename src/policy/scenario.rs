//! A hypothetical question: who, under which circumstances, asks for what. `explain` and the
//! tables of `tests.toml` ask in this form, and the same functions answer as on the data path.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use super::context::{Ambient, DeviceContext, RequestContext, SessionContext};
use super::policy_set::{EntitlementAction, InstallationAction, PolicySet};
use super::subject::{BreakGlassFacts, Facts, Subject};
use super::suggestion;
use super::verdict::Verdict;
use crate::model::{EntitlementName, Principal, PrincipalKind, ServiceName, Timestamp, Ttl};

/// Wednesday, 2026-11-25T12:00:00Z: when nothing else is said. A fixed time, so that a table comes
/// out the same on every day.
pub(super) const NOON: Timestamp = Timestamp::from_seconds(1_795_608_000);

/// Who asks, and how things are.
#[derive(Debug, Clone)]
pub struct Scenario {
    /// Who.
    pub principal: Principal,
    /// Their e-mail.
    pub email: Option<String>,
    /// Whether the provider verified it.
    pub email_verified: bool,
    /// Groups that the provider told.
    pub groups: Vec<String>,
    /// Entitlements held.
    pub entitlements: Vec<EntitlementName>,
    /// A workload's claims.
    pub claims: Option<serde_json::Value>,
    /// Who opened the emergency path.
    pub opener: String,
    /// Who signed for it.
    pub custodians: Vec<String>,
    /// When.
    pub at: Timestamp,
    /// From where.
    pub address: IpAddr,
    /// How they signed in.
    pub amr: Vec<String>,
    /// How long ago.
    pub auth_age: Ttl,
    /// The device and whether it is trusted.
    pub device: Option<(String, bool)>,
    /// The scopes of a token.
    pub scope: Option<Vec<String>>,
}

/// What is asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Question {
    /// A request to a service.
    Request {
        /// The service.
        service: ServiceName,
        /// The method.
        method: String,
        /// The canonical path.
        path: String,
    },
    /// A built-in action on an entitlement.
    Entitlement(EntitlementAction, EntitlementName),
    /// A built-in action on the installation.
    Installation(InstallationAction),
}

/// Why a question can't be asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ScenarioError {
    /// The text names no principal.
    Principal(String),
    /// There is no such service; what there is that is near.
    Service(String, String),
    /// There is no such entitlement; what there is that is near.
    Entitlement(String, String),
    /// The path never reaches a policy.
    Path(String),
}

impl fmt::Display for ScenarioError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let more = |help: &str| if help.is_empty() { String::new() } else { format!("; {help}") };
        match self {
            Self::Principal(text) => write!(
                f,
                "`{}` names nobody; write an e-mail address, an id `<provider>|<subject>`, or `Workload::\"…\"`",
                text.escape_debug()
            ),
            Self::Service(text, help) => write!(f, "there is no service `{}`{}", text.escape_debug(), more(help)),
            Self::Entitlement(text, help) => {
                write!(f, "there is no entitlement `{}`{}", text.escape_debug(), more(help))
            }
            Self::Path(text) => write!(
                f,
                "`{}` is not a canonical path; write it with a leading `/`, and without query, fragment, `//` or dot segments",
                text.escape_debug()
            ),
        }
    }
}

impl std::error::Error for ScenarioError {}

impl Scenario {
    /// A person or workload by e-mail address or id, with nothing said of the rest. An address
    /// counts as verified.
    ///
    /// # Errors
    /// When the text is neither.
    pub fn of(text: &str) -> Result<Self, ScenarioError> {
        let (principal, email) = match Principal::parse(text) {
            Some(principal) => (principal, None),
            None if super::groups::comparable(text).is_some() => {
                let unnamed = Principal::user("email", text);
                (unnamed.ok_or_else(|| ScenarioError::Principal(text.to_owned()))?, Some(text.to_owned()))
            }
            None => return Err(ScenarioError::Principal(text.to_owned())),
        };
        Ok(Self {
            principal,
            email_verified: email.is_some(),
            email,
            groups: Vec::new(),
            entitlements: Vec::new(),
            claims: None,
            opener: "nobody".to_owned(),
            custodians: Vec::new(),
            at: NOON,
            address: IpAddr::V4(Ipv4Addr::LOCALHOST),
            amr: Vec::new(),
            auth_age: Ttl::minutes(1),
            device: None,
            scope: None,
        })
    }

    /// The principal, ready to be judged.
    #[must_use]
    pub fn subject(&self, set: &PolicySet) -> Subject {
        let breakglass = (self.principal.kind() == PrincipalKind::BreakGlass).then_some(BreakGlassFacts {
            opener: &self.opener,
            custodians: &self.custodians,
            reason: "hypothetical",
        });
        set.subject(&Facts {
            principal: &self.principal,
            email: self.email.as_deref(),
            email_verified: self.email_verified,
            name: None,
            groups: &self.groups,
            entitlements: &self.entitlements,
            claims: self.claims.as_ref(),
            breakglass,
        })
    }

    fn ambient(&self) -> Ambient<'_> {
        let authenticated_at = self.at.minus(self.auth_age);
        let session = (self.principal.kind() != PrincipalKind::BreakGlass).then_some(SessionContext {
            created_at: authenticated_at,
            authenticated_at,
            amr: &self.amr,
        });
        Ambient {
            address: self.address,
            now: self.at,
            session,
            device: self.device.as_ref().map(|(id, trusted)| DeviceContext { id, trusted: *trusted }),
            token_scope: self.scope.as_deref(),
        }
    }

    /// Asks.
    ///
    /// # Errors
    /// When the question is about something that there isn't.
    pub fn ask(&self, set: &PolicySet, question: &Question) -> Result<Answer, ScenarioError> {
        for name in &self.entitlements {
            known_entitlement(set, name)?;
        }
        let subject = self.subject(set);
        let ambient = self.ambient();
        match question {
            Question::Request { service, method, path } => {
                check_path(path)?;
                let Some(service) = set.service(service) else {
                    let names: Vec<&str> = set.services().map(|service| service.name.as_str()).collect();
                    let help = suggestion::help(service.as_str(), names);
                    return Err(ScenarioError::Service(service.to_string(), help));
                };
                let resource = format!("Service::\"{}\"", service.name);
                let Some(matched) = service.route(method, path) else {
                    return Ok(Answer {
                        subject,
                        action: None,
                        route: None,
                        params: Vec::new(),
                        resource,
                        verdict: None,
                        remedies: Vec::new(),
                    });
                };
                let host = service.hosts.first().map(String::as_str).unwrap_or_default();
                let context = RequestContext { method, path, host, params: &matched.params, ambient };
                let verdict = service.decide(&subject, &matched.action, &context);
                let remedies = match verdict.allow {
                    true => Vec::new(),
                    false => service.remedy(set, &subject, &matched.action, &context),
                };
                let action = Some(matched.action.to_string());
                Ok(Answer {
                    subject,
                    action,
                    route: Some(matched.template),
                    params: matched.params,
                    resource,
                    verdict: Some(verdict),
                    remedies,
                })
            }
            Question::Entitlement(action, name) => {
                known_entitlement(set, name)?;
                let verdict = set.entitlement_decide(&subject, *action, name, &ambient);
                let resource = format!("Entitlement::\"{name}\"");
                Ok(Answer::builtin(subject, action.name(), resource, verdict))
            }
            Question::Installation(action) => {
                let verdict = set.installation_decide(&subject, *action, &ambient);
                Ok(Answer::builtin(subject, action.name(), "Installation::\"doorward\"".to_owned(), verdict))
            }
        }
    }
}

fn known_entitlement(set: &PolicySet, name: &EntitlementName) -> Result<(), ScenarioError> {
    if set.entitlement(name).is_some() {
        return Ok(());
    }
    let names: Vec<String> = set.entitlements().map(|entitlement| entitlement.name.to_string()).collect();
    let text = name.to_string();
    let help = suggestion::help(&text, names.iter().map(String::as_str));
    Err(ScenarioError::Entitlement(text, help))
}

fn check_path(path: &str) -> Result<(), ScenarioError> {
    let odd = |c: char| c == '?' || c == '#' || c == '\\' || c.is_control() || c == ' ';
    let mut segments = path.split('/').skip(1).peekable();
    let mut canonical = path.starts_with('/') && !path.contains(odd);
    while let Some(segment) = segments.next() {
        canonical &= segment != "." && segment != ".." && !(segment.is_empty() && segments.peek().is_some());
    }
    if canonical { Ok(()) } else { Err(ScenarioError::Path(path.to_owned())) }
}

/// What came out.
#[derive(Debug, Clone)]
pub struct Answer {
    /// Who was judged.
    pub subject: Subject,
    /// The action; none where no route takes the request.
    pub action: Option<String>,
    /// The route as written.
    pub route: Option<Arc<str>>,
    /// What the route's `{name}`s matched.
    pub params: Vec<(Arc<str>, String)>,
    /// The Cedar resource.
    pub resource: String,
    /// The verdict; none where no route takes the request.
    pub verdict: Option<Verdict>,
    /// Entitlements that would change a refusal.
    pub remedies: Vec<EntitlementName>,
}

impl Answer {
    fn builtin(subject: Subject, action: &str, resource: String, verdict: Verdict) -> Self {
        Self {
            subject,
            action: Some(action.to_owned()),
            route: None,
            params: Vec::new(),
            resource,
            verdict: Some(verdict),
            remedies: Vec::new(),
        }
    }

    /// Whether it is allowed.
    #[must_use]
    pub fn allow(&self) -> bool {
        self.verdict.as_ref().is_some_and(|verdict| verdict.allow)
    }

    /// The reason of a refusal, as refusals name it.
    #[must_use]
    pub fn reason(&self) -> Option<&'static str> {
        match &self.verdict {
            None => Some("no_route"),
            Some(verdict) if verdict.allow => None,
            Some(verdict) => Some(verdict.reason.name()),
        }
    }

    /// The policies that decided.
    #[must_use]
    pub fn policies(&self) -> &[Arc<str>] {
        self.verdict.as_ref().map_or(&[], |verdict| &verdict.policies)
    }

    /// Policies that could not be evaluated.
    #[must_use]
    pub fn errors(&self) -> &[String] {
        self.verdict.as_ref().map_or(&[], |verdict| &verdict.errors)
    }
}
