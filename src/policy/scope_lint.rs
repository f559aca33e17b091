//! Policies that Cedar finds nothing wrong with, and whose scope names what there is not here: an action that the file
//! does not decide about, entitlements of a service that has none, an id that nobody has.
//!
//! INVARIANT: conservative. Of several actions all must be such.

use std::collections::BTreeSet;

use cedar_policy::{ActionConstraint, EntityUid, ResourceConstraint};

use super::cedar_file::{CedarFile, Statement};
use super::diagnostic::Report;
use super::load::Draft;
use super::schema::{ENTITLEMENT_ACTIONS, INSTALLATION_ACTIONS, is_builtin};

/// Warns of policies of services that can never match, and of ids in any file that nobody has.
pub(super) fn lint(drafts: &[Draft], global: Option<&CedarFile>, report: &Report) {
    for draft in drafts {
        for statement in &draft.access.statements {
            if let Some((action, why, help)) = unmet(draft, statement) {
                report.warning(
                    &draft.access.source,
                    draft.access.offset_of(statement, &action),
                    format!("the policy `{}` can never match: {why}", statement.name),
                    help,
                );
            }
        }
    }
    for file in global.into_iter().chain(drafts.iter().map(|draft| &draft.access)) {
        for statement in &file.statements {
            ids_of_nobody(file, statement, report);
        }
    }
}

/// The action at which it shows, why nothing is judged by the policy, and what to do.
fn unmet(draft: &Draft, statement: &Statement) -> Option<(EntityUid, String, &'static str)> {
    let named: Vec<EntityUid> = match statement.policy.action_constraint() {
        ActionConstraint::Any => return None,
        ActionConstraint::Eq(uid) => vec![uid],
        ActionConstraint::In(uids) => uids,
    };
    let first = named.first()?.clone();
    let is_installation_only = |uid: &EntityUid| {
        let action = uid.id().unescaped();
        INSTALLATION_ACTIONS.contains(&action) && !ENTITLEMENT_ACTIONS.contains(&action)
    };
    // What names another kind of resource is a contradiction, of which Cedar knows.
    let about_installation = match statement.policy.resource_constraint() {
        ResourceConstraint::Any => true,
        ResourceConstraint::Is(kind) => kind.to_string() == "Installation",
        ResourceConstraint::Eq(_) | ResourceConstraint::In(_) | ResourceConstraint::IsIn(..) => false,
    };
    if about_installation && named.iter().all(is_installation_only) {
        return Some((
            first.clone(),
            format!("`{first}` is done to the installation, and a service's file does not decide about that"),
            "write it into `global.cedar`, with `resource == Installation::\"doorward\"`",
        ));
    }
    let on_entitlements = named.iter().all(|uid| is_builtin(uid.id().unescaped()));
    if draft.entitlements.is_empty() && on_entitlements && !named.iter().all(is_installation_only) {
        return Some((
            first.clone(),
            format!("`{first}` is done to an entitlement, and `{}` has none", draft.name),
            "define one as `[entitlement.NAME]` in its `service.toml`, or remove the policy",
        ));
    }
    None
}

/// Users and workloads whose ids lack one of their halves.
fn ids_of_nobody(file: &CedarFile, statement: &Statement, report: &Report) {
    let literals: BTreeSet<EntityUid> = statement.policy.entity_literals().into_iter().collect();
    for uid in literals {
        let (form, help) = match uid.type_name().to_string().as_str() {
            "User" => (
                "User::\"<provider>|<subject>\"",
                "write the id that `doorward whoami` shows; of a mail address it is asked with `principal is User`, in \
                 `when { principal.email_verified && principal.email == \"…\" }`",
            ),
            "Workload" => ("Workload::\"<issuer>|<rule>\"", "write the names that `workloads.toml` gives them"),
            _ => continue,
        };
        let halves = uid.id().unescaped().split_once('|');
        if halves.is_some_and(|(provider, subject)| !provider.is_empty() && !subject.is_empty()) {
            continue;
        }
        report.warning(
            &file.source,
            file.offset_of(statement, &uid),
            format!("nobody is `{uid}`: an id is written `{form}`"),
            help,
        );
    }
}
