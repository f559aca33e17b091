//! Who is judged: the Cedar entity of a principal, built once per change of session, groups or
//! grants and reused for many decisions.
//!
//! INVARIANT: groups are flattened here, so "in" is one look-up; a group of `groups.toml` is
//! given by e-mail only when the provider verified the address.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use cedar_policy::{Entities, Entity, EntityUid, RestrictedExpression};

use super::groups::Groups;
use super::kinds::Kinds;
use super::schema;
use crate::model::{EntitlementName, Principal, PrincipalKind};

/// What is known of a principal when it is to be judged.
#[derive(Debug, Clone)]
pub struct Facts<'a> {
    /// Who.
    pub principal: &'a Principal,
    /// The e-mail that the provider told.
    pub email: Option<&'a str>,
    /// Whether the provider said `email_verified: true`.
    pub email_verified: bool,
    /// The name that the provider told.
    pub name: Option<&'a str>,
    /// Groups as policies name them.
    pub groups: &'a [String],
    /// Entitlements of active grants.
    pub entitlements: &'a [EntitlementName],
    /// A workload's claims.
    pub claims: Option<&'a serde_json::Value>,
    /// The opening of someone on the emergency path.
    pub breakglass: Option<BreakGlassFacts<'a>>,
}

/// The opening that a break-glass principal stands on.
#[derive(Debug, Clone)]
pub struct BreakGlassFacts<'a> {
    /// Who opened.
    pub opener: &'a str,
    /// Who signed.
    pub custodians: &'a [String],
    /// Why.
    pub reason: &'a str,
}

/// A principal ready to be judged under one version of the policies.
#[derive(Debug, Clone)]
pub struct Subject {
    principal: Principal,
    version: Arc<str>,
    groups: Vec<String>,
    entitlements: Vec<EntitlementName>,
    attributes: Vec<(String, RestrictedExpression)>,
    uid: EntityUid,
    kinds: Kinds,
    entities: Entities,
}

impl Subject {
    pub(super) fn new(facts: &Facts<'_>, groups: &Groups, version: &Arc<str>, kinds: &Kinds) -> Self {
        let email = facts.email.filter(|_| facts.email_verified);
        let groups: BTreeSet<String> = match facts.principal.kind() {
            // The emergency path has no groups: its policies name it and nothing else.
            PrincipalKind::BreakGlass => BTreeSet::new(),
            PrincipalKind::User | PrincipalKind::Workload => groups.of(facts.principal, email, facts.groups),
        };
        let subject = Self {
            principal: facts.principal.clone(),
            version: version.clone(),
            groups: groups.into_iter().collect(),
            entitlements: facts.entitlements.to_vec(),
            attributes: attributes(facts),
            uid: kinds.principal(facts.principal),
            kinds: kinds.clone(),
            entities: Entities::empty(),
        };
        subject.with_entities()
    }

    fn with_entities(mut self) -> Self {
        let groups = self.groups.iter().map(|group| self.kinds.group(group));
        let entitlements = self.entitlements.iter().map(|name| self.kinds.entitlement(name));
        let parents: HashSet<EntityUid> = match self.principal.kind() {
            PrincipalKind::BreakGlass => HashSet::new(),
            PrincipalKind::User | PrincipalKind::Workload => groups.chain(entitlements).collect(),
        };
        let attributes: HashMap<String, RestrictedExpression> = self.attributes.iter().cloned().collect();
        // Attributes are plain values and can't fail to evaluate. Were one to, membership stays, and
        // a policy that reads an attribute fails, which refuses.
        let entity = Entity::new(self.uid.clone(), attributes, parents.clone())
            .unwrap_or_else(|_| Entity::new_no_attrs(self.uid.clone(), parents));
        self.entities = Entities::from_entities([entity], None).unwrap_or_default();
        self
    }

    /// Who is judged.
    #[must_use]
    pub const fn principal(&self) -> &Principal {
        &self.principal
    }

    /// All groups, those of `groups.toml` included; sorted.
    #[must_use]
    pub fn groups(&self) -> &[String] {
        &self.groups
    }

    /// Entitlements held by active grants.
    #[must_use]
    pub fn entitlements(&self) -> &[EntitlementName] {
        &self.entitlements
    }

    /// The version of the policies that it was built for; a subject of another version is to be
    /// built anew, since `groups.toml` may have changed.
    #[must_use]
    pub const fn policy_version(&self) -> &Arc<str> {
        &self.version
    }

    /// The same principal, holding one entitlement more.
    #[must_use]
    pub fn with_entitlement(&self, name: &EntitlementName) -> Self {
        self.with_entitlements(std::slice::from_ref(name))
    }

    /// The same principal, holding these entitlements too.
    #[must_use]
    pub fn with_entitlements(&self, names: &[EntitlementName]) -> Self {
        let mut held = self.clone();
        for name in names {
            if !held.entitlements.contains(name) {
                held.entitlements.push(name.clone());
            }
        }
        held.with_entities()
    }

    pub(super) const fn uid(&self) -> &EntityUid {
        &self.uid
    }

    pub(super) const fn entities(&self) -> &Entities {
        &self.entities
    }
}

fn attributes(facts: &Facts<'_>) -> Vec<(String, RestrictedExpression)> {
    let text = |value: &str| RestrictedExpression::new_string(value.to_owned());
    let provider = ("provider".to_owned(), text(facts.principal.provider()));
    match facts.principal.kind() {
        PrincipalKind::User => vec![
            provider,
            // Empty unless verified, so that no rule on an address can be met by an unproven one.
            ("email".to_owned(), text(facts.email.filter(|_| facts.email_verified).unwrap_or_default())),
            ("email_verified".to_owned(), RestrictedExpression::new_bool(facts.email_verified)),
            ("name".to_owned(), text(facts.name.unwrap_or_default())),
        ],
        PrincipalKind::Workload => {
            let told = facts.claims.and_then(serde_json::Value::as_object);
            let claims = schema::claims().filter_map(|claim| {
                let value = told?.get(claim)?.as_str()?;
                Some((claim.to_owned(), text(value)))
            });
            let claims = RestrictedExpression::new_record(claims);
            std::iter::once(provider).chain(claims.ok().map(|claims| ("claims".to_owned(), claims))).collect()
        }
        PrincipalKind::BreakGlass => {
            let Some(opening) = &facts.breakglass else { return Vec::new() };
            let custodians = RestrictedExpression::new_set(opening.custodians.iter().map(|name| text(name)));
            vec![
                ("opener".to_owned(), text(opening.opener)),
                ("custodians".to_owned(), custodians),
                ("reason".to_owned(), text(opening.reason)),
            ]
        }
    }
}
