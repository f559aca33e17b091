//! What a person can do about a refusal: the contract's `remedy`, the ready command, and the page where access
//! can be asked for.

use serde_json::{Value, json};

use crate::model::EntitlementName;

use super::refusal::{Refusal, UpstreamFault};

/// What the person can do about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Remedy {
    /// Ask for one of these.
    RequestAccess(Vec<Offer>),
    /// Sign in.
    SignIn,
    /// Sign in again: the session is good, and too old for this.
    StepUp,
    /// Show a trusted device.
    Device,
    /// Try again later.
    Retry,
    /// Nothing.
    None,
}

/// An entitlement that would help and may be asked for, with the ready command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Offer {
    /// Its name.
    pub name: EntitlementName,
    /// The command; what the asker fills in is in capitals.
    pub command: String,
    /// The same with nothing of the request in it, for the record: that has the path as a personal field, and what
    /// stood in it anywhere else would outlive its erasure.
    pub recorded: String,
    /// The parameters that the request's path knows, for the form that asks.
    pub params: Vec<(String, String)>,
}

impl Refusal {
    /// What can be done about it.
    #[must_use]
    pub fn remedy(&self) -> Remedy {
        match self {
            Self::NoCredential
            | Self::BadCredential(_)
            | Self::SignInOver(_)
            | Self::BadProof(_)
            | Self::SessionEnded => Remedy::SignIn,
            Self::DeviceUntrusted => Remedy::Device,
            Self::SignInTooOld(_) => Remedy::StepUp,
            Self::NoPolicyMatch { remedies } | Self::Forbidden { remedies } if !remedies.is_empty() => {
                Remedy::RequestAccess(remedies.clone())
            }
            Self::RateLimited { .. }
            | Self::NonceWanted
            | Self::Stale
            | Self::Emergency
            | Self::AuditUnavailable
            | Self::Unsettled
            | Self::Upstream(UpstreamFault::Unreachable | UpstreamFault::Busy | UpstreamFault::Refused) => {
                Remedy::Retry
            }
            Self::Ambiguous(_)
            | Self::Misdirected
            | Self::GrantOver(_)
            | Self::OpeningOver
            | Self::OpeningElsewhere
            | Self::OpeningShort
            | Self::Locked
            | Self::NoRoute
            | Self::NoPolicyMatch { .. }
            | Self::Forbidden { .. }
            | Self::CrossSite
            | Self::ScopeInsufficient { .. }
            | Self::Upstream(UpstreamFault::Slow | UpstreamFault::Broken | UpstreamFault::NoUpgrade)
            | Self::FieldsTooMany
            | Self::HeadTooLarge
            | Self::BodyTooLarge
            | Self::BodyBroken
            | Self::BodySlow
            | Self::Internal => Remedy::None,
        }
    }
}

impl Remedy {
    /// The remedy as JSON of the contract.
    #[must_use]
    pub fn to_json(&self) -> Value {
        self.json(|offer| &offer.command)
    }

    /// The same for the record.
    #[must_use]
    pub fn to_record(&self) -> Value {
        self.json(|offer| &offer.recorded)
    }

    fn json(&self, command: impl Fn(&Offer) -> &str) -> Value {
        match self {
            Self::RequestAccess(offers) => {
                let first = offers.first();
                let mut json = json!({
                    "kind": "request_access",
                    "entitlement": first.map(|offer| offer.name.to_string()),
                    "command": first.map(command),
                });
                if let (true, Some(object)) = (offers.len() > 1, json.as_object_mut()) {
                    let names: Vec<String> = offers.iter().map(|offer| offer.name.to_string()).collect();
                    object.insert("entitlements".to_owned(), json!(names));
                }
                json
            }
            Self::SignIn => json!({ "kind": "sign_in", "command": "doorward login" }),
            Self::StepUp => json!({ "kind": "step_up", "command": "doorward login" }),
            Self::Device => json!({ "kind": "device" }),
            Self::Retry => json!({ "kind": "retry" }),
            Self::None => json!({ "kind": "none" }),
        }
    }

    /// The one command that would help, where there is one.
    #[must_use]
    pub fn command(&self) -> Option<String> {
        match self {
            Self::RequestAccess(offers) => offers.first().map(|offer| offer.command.clone()),
            Self::SignIn | Self::StepUp => Some("doorward login".to_owned()),
            Self::Device | Self::Retry | Self::None => None,
        }
    }

    /// What can be asked for, each with the page of the control host at `origin` where that is done.
    #[must_use]
    pub fn pages(&self, origin: &str) -> Vec<(String, String)> {
        let Self::RequestAccess(offers) = self else { return Vec::new() };
        offers.iter().map(|offer| (offer.name.to_string(), offer.page(origin))).collect()
    }
}

impl Offer {
    fn page(&self, origin: &str) -> String {
        let mut query = form_urlencoded::Serializer::new(String::new());
        query.append_pair("entitlement", &self.name.to_string());
        for (name, value) in &self.params {
            query.append_pair(&format!("param.{name}"), value);
        }
        format!("{origin}/requests/new?{}", query.finish())
    }
}

/// The sentence that names what would help.
#[must_use]
pub fn while_held(remedies: &[Offer]) -> String {
    let names: Vec<String> = remedies.iter().map(|offer| format!("`{}`", offer.name)).collect();
    format!("It would be permitted while you hold {}, which you may ask for.", names.join(" or "))
}
