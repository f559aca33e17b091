//! `[[audit.keep]]`: what an erasure of a person must leave, by which rule, and for how long.

use std::collections::BTreeSet;

use crate::audit::keep::settings::KeepRule;
use crate::audit::settings::TypePattern;
use crate::model::Ttl;

use super::name;
use super::section::{Section, nearest};

/// Rules at most.
const RULES_MAX: usize = 32;
/// The longest reason in characters.
const REASON_CHARS_MAX: usize = 500;
/// How long a rule may keep: a lifetime.
const LENGTH_MAX: Ttl = Ttl::hours(24 * 36500);

pub(in crate::config) fn read(tables: Vec<Section<'_>>, retention: Ttl) -> Vec<KeepRule> {
    if let Some(last) = tables.get(RULES_MAX) {
        let message = format!("{} rules are given", tables.len());
        last.ledger().error(last.place(), message, Some(format!("at most {RULES_MAX} are taken")));
    }
    let mut names = BTreeSet::new();
    tables.into_iter().take(RULES_MAX).filter_map(|table| read_rule(table, retention, &mut names)).collect()
}

fn read_rule(mut section: Section<'_>, retention: Ttl, names: &mut BTreeSet<String>) -> Option<KeepRule> {
    for key in ["name", "types", "reason", "for"] {
        if !section.has(key) {
            section.missing(key, "each `[[audit.keep]]` has a `name`, `types`, a `reason` and `for`");
        }
    }
    let name = name::read_own(&mut section, names, "a refusal names the rule, so each has a name of its own");
    let reason = section.parsed("reason", "the law or rule that wants it, in 1 to 500 characters", |text| {
        let text = text.trim();
        let fits = !text.is_empty() && text.chars().count() <= REASON_CHARS_MAX && !text.contains('\0');
        fits.then(|| text.to_owned())
    });
    let length = section.ttl("for", LENGTH_MAX, Ttl::seconds(1)..=LENGTH_MAX);
    if section.has("for") && length > retention {
        let message = format!("`{}` is longer than `audit.retention`, {retention}", section.path_of("for"));
        let help = "events lose their content when `retention` is over, whoever is in them: make that as long";
        section.ledger().warning(&section.place_of("for"), message, Some(help.to_owned()));
    }
    let types = read_types(&mut section);
    Some(KeepRule { name: name?, types: types?, reason: reason?, length })
}

fn read_types(section: &mut Section<'_>) -> Option<Vec<TypePattern>> {
    let given = section.texts("types")?;
    if given.is_empty() {
        section.error(
            "types",
            format!("`{}` names no event", section.path_of("types")),
            "write `types = [\"breakglass.*\"]`",
        );
        return None;
    }
    let mut types = Vec::with_capacity(given.len());
    for (text, place) in given {
        match TypePattern::parse(&text) {
            Some(pattern) => types.push(pattern),
            None => {
                let near = TypePattern::nearest(|known| nearest(&text, known))
                    .map(|near| format!("; `{near}` is one"))
                    .unwrap_or_default();
                let message = format!("no event is of the type `{}`", text.escape_debug());
                let help = format!("write `*`, `breakglass.*` or `session.start`{near}");
                section.ledger().error(&place, message, Some(help));
            }
        }
    }
    Some(types)
}
