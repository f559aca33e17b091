//! The Cedar entity types of the house, parsed once, so that an entity's uid can always be made.

use cedar_policy::{EntityId, EntityTypeName, EntityUid};

use crate::model::{EntitlementName, Principal, PrincipalKind};

/// The entity types.
#[derive(Debug, Clone)]
pub(super) struct Kinds {
    user: EntityTypeName,
    workload: EntityTypeName,
    breakglass: EntityTypeName,
    group: EntityTypeName,
    entitlement: EntityTypeName,
    service: EntityTypeName,
    installation: EntityTypeName,
    action: EntityTypeName,
}

fn uid(kind: &EntityTypeName, id: &str) -> EntityUid {
    EntityUid::from_type_name_and_id(kind.clone(), EntityId::new(id))
}

impl Kinds {
    /// `None` if one were not a Cedar name; a test holds that they are.
    pub(super) fn new() -> Option<Self> {
        let kind = |name: &str| name.parse::<EntityTypeName>().ok();
        Some(Self {
            user: kind("User")?,
            workload: kind("Workload")?,
            breakglass: kind("BreakGlass")?,
            group: kind("Group")?,
            entitlement: kind("Entitlement")?,
            service: kind("Service")?,
            installation: kind("Installation")?,
            action: kind("Action")?,
        })
    }

    pub(super) fn principal(&self, principal: &Principal) -> EntityUid {
        let kind = match principal.kind() {
            PrincipalKind::User => &self.user,
            PrincipalKind::Workload => &self.workload,
            PrincipalKind::BreakGlass => &self.breakglass,
        };
        uid(kind, principal.id())
    }

    pub(super) fn group(&self, name: &str) -> EntityUid {
        uid(&self.group, name)
    }

    pub(super) fn entitlement(&self, name: &EntitlementName) -> EntityUid {
        uid(&self.entitlement, &name.to_string())
    }

    pub(super) fn service(&self, name: &str) -> EntityUid {
        uid(&self.service, name)
    }

    /// `Installation::"doorward"`, the only one.
    pub(super) fn installation(&self) -> EntityUid {
        uid(&self.installation, "doorward")
    }

    pub(super) fn action(&self, name: &str) -> EntityUid {
        uid(&self.action, name)
    }
}
