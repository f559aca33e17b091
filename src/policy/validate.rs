//! Strict validation of the policies against the generated schemas, and of the entities that they
//! name against the services and entitlements that there are.

use std::collections::{BTreeMap, BTreeSet};

use cedar_policy::ffi::DetailedError;
use cedar_policy::{EntityUid, Policy, Schema, SchemaFragment, ValidationMode, ValidationWarning, Validator};

use super::cedar_file::{CedarFile, Statement};
use super::diagnostic::Report;
use super::load::Draft;
use super::schema;
use super::suggestion;
use crate::model::{EntitlementName, ServiceName};

/// What policies may name.
pub(super) struct World {
    pub(super) services: BTreeSet<ServiceName>,
    pub(super) entitlements: BTreeSet<EntitlementName>,
    /// Whether all services could be read.
    pub(super) complete: bool,
}

/// What validation yields beside findings.
pub(super) struct Validated {
    /// Each service's schema in Cedar's notation.
    pub(super) schemas: BTreeMap<ServiceName, String>,
}

/// Validates everything. `None` when a schema could not be built, which is reported.
pub(super) fn validate(
    drafts: &[Draft],
    global: Option<&CedarFile>,
    world: &World,
    report: &Report,
) -> Option<Validated> {
    let mut schemas = BTreeMap::new();
    let mut dead_in: BTreeMap<String, usize> = BTreeMap::new();
    let mut faulty_global = BTreeSet::new();
    if let Some(file) = global {
        for statement in &file.statements {
            check_entities(file, statement, None, world, report);
        }
        let (schema, _) =
            build(&schema::generate([])).map_err(|error| report.file_error(file.source.file(), error, "")).ok()?;
        let judged = validate_file(file, &schema, None, report);
        faulty_global.extend(judged.faulty);
        for id in judged.dead {
            *dead_in.entry(id).or_default() += 1;
        }
    }
    for draft in drafts {
        for statement in &draft.access.statements {
            check_entities(&draft.access, statement, Some(&draft.name), world, report);
        }
        let built = build(&schema::generate(&draft.routes));
        let (schema, text) = built.map_err(|error| report.file_error(draft.source.file(), error, "")).ok()?;
        schemas.insert(draft.name.clone(), text);
        let judged = validate_file(&draft.access, &schema, Some(draft), report);
        for id in judged.dead.difference(&judged.faulty) {
            warn_dead(&draft.access, id, report);
        }
        let judged = global.map(|file| validate_file(file, &schema, None, report)).unwrap_or_default();
        faulty_global.extend(judged.faulty);
        for id in judged.dead {
            *dead_in.entry(id).or_default() += 1;
        }
    }
    // A global policy may have its use in one service only; it is dead when it is so everywhere.
    if let Some(file) = global {
        for (id, count) in &dead_in {
            if *count == drafts.len() + 1 && !faulty_global.contains(id) {
                warn_dead(file, id, report);
            }
        }
    }
    Some(Validated { schemas })
}

fn build(json: &serde_json::Value) -> Result<(Schema, String), String> {
    let failed = |error: String| format!("the schema of this service could not be built: {error}");
    let fragment = SchemaFragment::from_json_value(json.clone()).map_err(|error| failed(error.to_string()))?;
    // Nothing here hides a built-in type, so that their short names say the same.
    let text = fragment.to_cedarschema().map_err(|error| failed(error.to_string()))?.replace("__cedar::", "");
    let schema = Schema::from_schema_fragments([fragment]).map_err(|error| failed(error.to_string()))?;
    Ok((schema, text))
}

/// Ids of a file's policies.
#[derive(Default)]
struct Judged {
    /// They can never match under the schema.
    dead: BTreeSet<String>,
    /// They have errors, which is why they may seem dead.
    faulty: BTreeSet<String>,
}

/// Reports errors of a file: of a service, or else of `global.cedar`.
fn validate_file(file: &CedarFile, schema: &Schema, draft: Option<&Draft>, report: &Report) -> Judged {
    let mut set = cedar_policy::PolicySet::new();
    for statement in &file.statements {
        // Ids are unique by construction.
        let _ = set.add(statement.policy.clone());
    }
    let mut judged = Judged::default();
    let result = Validator::new(schema.clone()).validate(&set, ValidationMode::Strict);
    for error in result.validation_errors() {
        let id = error.policy_id().to_string();
        let mut detailed = DetailedError::from(error);
        detailed.message = spoken(&detailed.message, &id);
        detailed.help = Some(named(file, &id, &help(&detailed, draft))).filter(|help| !help.is_empty());
        let start = file.statement(&id).map_or(0, |statement| statement.start);
        let offset = detailed.source_locations.first().map_or(start, |label| label.loc.start);
        let offset = attribute_offset(file, offset, &detailed);
        report.error(&file.source, offset, detailed.message, detailed.help.unwrap_or_default());
        judged.faulty.insert(id);
    }
    for warning in result.validation_warnings() {
        let id = warning.policy_id().to_string();
        if matches!(warning, ValidationWarning::ImpossiblePolicy(_) | ValidationWarning::InvalidActionApplication(_)) {
            judged.dead.insert(id);
            continue;
        }
        let detailed = DetailedError::from(warning);
        let start = file.statement(&id).map_or(0, |statement| statement.start);
        let offset = detailed.source_locations.first().map_or(start, |label| label.loc.start);
        let help = named(file, &id, &detailed.help.unwrap_or_default());
        report.warning(&file.source, offset, spoken(&detailed.message, &id), help);
    }
    judged
}

fn warn_dead(file: &CedarFile, id: &str, report: &Report) {
    if let Some(statement) = file.statement(id) {
        report.warning(
            &file.source,
            statement.start,
            format!("the policy `{}` can never match", statement.name),
            "its conditions contradict each other or the types; correct or remove it",
        );
    }
}

/// Without the id, which is ours and says nothing to people.
fn spoken(message: &str, id: &str) -> String {
    let stripped = message.strip_prefix(&format!("for policy `{id}`"));
    stripped.map_or(message, |rest| rest.trim_start_matches([',', ':', ' '])).to_owned()
}

/// With the policy's name in the place of its id.
fn named(file: &CedarFile, id: &str, text: &str) -> String {
    file.statement(id).map_or_else(|| text.to_owned(), |statement| text.replace(id, &statement.name))
}

/// The help of Cedar, made to fit this house.
fn help(error: &DetailedError, draft: Option<&Draft>) -> String {
    let said = error.help.clone().unwrap_or_default();
    if let Some(rest) = error.message.strip_prefix("unrecognized action") {
        let Some(draft) = draft else {
            return format!(
                "`global.cedar` holds for all services and may name built-in actions only: {}",
                schema::builtins().iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ")
            );
        };
        // Cedar's own guess is one of several, and not always the same one.
        let word = rest.split('"').nth(1).unwrap_or_default();
        let own = draft.routes.iter().map(|route| route.action.as_str());
        let known: BTreeSet<&str> = own.chain(schema::ENTITLEMENT_ACTIONS).collect();
        return match suggestion::nearest(word, known.iter().copied()) {
            Some(near) => format!("did you mean `Action::\"{near}\"`?"),
            None => suggestion::help(word, known),
        };
    }
    if let Some((attribute, entity_type)) = missing_attribute(&error.message) {
        let known = schema::attributes(entity_type);
        if ["group", "groups", "role", "roles", "team", "teams", "member", "members"]
            .iter()
            .any(|word| suggestion::nearest(attribute, [*word]).is_some())
        {
            return "membership is written `principal in Group::\"name\"`".to_owned();
        }
        if let Some(near) = suggestion::nearest(attribute, known.iter().copied()) {
            return format!("did you mean `{near}`?");
        }
        if !known.is_empty() {
            let known: Vec<String> = known.iter().map(|name| format!("`{name}`")).collect();
            return format!(
                "`{entity_type}` has {}; say `principal is …` where a policy is about one kind of principal",
                known.join(", ")
            );
        }
    }
    said
}

/// Of "attribute `x` on entity type `T` not found".
fn missing_attribute(message: &str) -> Option<(&str, &str)> {
    let rest = message.strip_prefix("attribute `")?;
    let (attribute, rest) = rest.split_once('`')?;
    let (_, rest) = rest.split_once("entity type `")?;
    Some((attribute, rest.split_once('`')?.0))
}

/// Cedar marks the whole expression; people look for the attribute.
fn attribute_offset(file: &CedarFile, offset: usize, error: &DetailedError) -> usize {
    let Some(attribute) = error.message.strip_prefix("attribute `").and_then(|rest| rest.split('`').next()) else {
        return offset;
    };
    let end = error.source_locations.first().map_or(offset, |label| label.loc.end);
    let marked = file.source.text().get(offset..end).unwrap_or_default();
    let last = attribute.rsplit('.').next().unwrap_or(attribute);
    marked.rfind(last).map_or(offset, |found| offset + found)
}

/// Entitlements that a policy names.
pub(super) fn entitlements_named(policy: &Policy) -> Vec<EntitlementName> {
    let literals = policy.entity_literals().into_iter();
    literals
        .filter(|uid| uid.type_name().to_string() == "Entitlement")
        .filter_map(|uid| EntitlementName::parse(uid.id().unescaped()).ok())
        .collect()
}

/// Entities that don't exist, or that this file does not decide about.
fn check_entities(
    file: &CedarFile,
    statement: &Statement,
    service: Option<&ServiceName>,
    world: &World,
    report: &Report,
) {
    let literals: BTreeSet<EntityUid> = statement.policy.entity_literals().into_iter().collect();
    for uid in literals {
        let id = uid.id().unescaped().to_owned();
        let found = match uid.type_name().to_string().as_str() {
            "Service" => check_service(&id, service, world),
            "Entitlement" if world.complete => check_entitlement(&id, world),
            "Installation" => check_installation(&id, service),
            _ => None,
        };
        if let Some((message, help)) = found {
            report.error(&file.source, file.offset_of(statement, &uid), message, help);
        }
    }
}

fn check_service(id: &str, service: Option<&ServiceName>, world: &World) -> Option<(String, String)> {
    match service {
        Some(own) if own.as_str() != id => {
            let message = format!("this file decides about `{own}` only, not about `{}`", id.escape_debug());
            Some((message, "each service has its own file; what holds for all belongs into `global.cedar`".to_owned()))
        }
        Some(_) => None,
        None if world.services.iter().any(|name| name.as_str() == id) => None,
        None => {
            let help = suggestion::help(id, world.services.iter().map(ServiceName::as_str));
            Some((format!("there is no service `{}`", id.escape_debug()), help))
        }
    }
}

fn check_entitlement(id: &str, world: &World) -> Option<(String, String)> {
    let names: Vec<String> = world.entitlements.iter().map(ToString::to_string).collect();
    if names.iter().any(|name| name == id) {
        return None;
    }
    let mut help = suggestion::help(id, names.iter().map(String::as_str));
    if help.is_empty() {
        "define it as `[entitlement.NAME]` in the `service.toml`, and name it `<service>/<name>`".clone_into(&mut help);
    }
    Some((format!("there is no entitlement `{}`", id.escape_debug()), help))
}

fn check_installation(id: &str, service: Option<&ServiceName>) -> Option<(String, String)> {
    if service.is_some() {
        let help = "what may be done to the installation is decided by `global.cedar` alone".to_owned();
        return Some(("a service's file can't decide about the installation".to_owned(), help));
    }
    (id != "doorward").then(|| {
        (format!("there is no installation `{}`", id.escape_debug()), "it is `Installation::\"doorward\"`".to_owned())
    })
}
