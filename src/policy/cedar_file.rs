//! One `.cedar` file: its policies, each with its place and the name that people read.

use std::str::FromStr;
use std::sync::Arc;

use cedar_policy::ffi::DetailedError;
use cedar_policy::{EntityUid, Policy, PolicyId, PolicySet};

use super::diagnostic::{Report, Source};

/// A policy and where it stands.
#[derive(Debug, Clone)]
pub(super) struct Statement {
    pub(super) policy: Policy,
    /// The `@id` annotation, else `<file>:<line>`.
    pub(super) name: Arc<str>,
    /// Byte offsets of its text.
    pub(super) start: usize,
    pub(super) end: usize,
}

/// A parsed file.
#[derive(Debug, Clone)]
pub(super) struct CedarFile {
    pub(super) source: Source,
    pub(super) statements: Vec<Statement>,
}

impl CedarFile {
    /// Parses the file; `label` is its name as policies are named by (`ops-api/access.cedar`).
    /// A file that does not parse, or holds no policy, is reported.
    pub(super) fn parse(source: &Source, label: &str, report: &Report) -> Option<Self> {
        let set = match PolicySet::from_str(source.text()) {
            Ok(set) => set,
            Err(errors) => {
                for error in errors.iter() {
                    report_detailed(source, 0, &DetailedError::from(error), report);
                }
                return None;
            }
        };
        if let Some(template) = set.templates().next() {
            let offset = source.text().find("?principal").or_else(|| source.text().find("?resource")).unwrap_or(0);
            let message = format!("the policy `{}` is a template", template.id());
            report.error(
                source,
                offset,
                message,
                "write the principal or resource itself; templates are not used here",
            );
            return None;
        }
        let places = statements(source.text());
        if places.is_empty() {
            report.error(
                source,
                0,
                "the file holds no policy",
                "write at least one `permit`, or restore the file: an empty one is taken for half-written",
            );
            return None;
        }
        let mut statements = Vec::with_capacity(places.len());
        for (index, (start, end)) in places.into_iter().enumerate() {
            // The parser numbers policies in the order of the text.
            let Some(policy) = set.policy(&PolicyId::new(format!("policy{index}"))) else {
                report.error(source, start, "this policy could not be located", "put each policy on lines of its own");
                return None;
            };
            let id = PolicyId::new(format!("{label}#{index}"));
            let name = match policy.annotation("id").filter(|id| !id.is_empty()) {
                Some(annotation) => annotation.into(),
                None => format!("{label}:{}", source.place(start).0).into(),
            };
            statements.push(Statement { policy: policy.new_id(id), name, start, end });
        }
        if statements.len() != set.num_of_policies() {
            report.error(
                source,
                0,
                "the policies of this file could not be told apart",
                "put each on lines of its own",
            );
            return None;
        }
        Some(Self { source: source.clone(), statements })
    }

    /// The statement that the policy id names.
    pub(super) fn statement(&self, id: &str) -> Option<&Statement> {
        self.statements.iter().find(|statement| AsRef::<str>::as_ref(statement.policy.id()) == id)
    }

    /// Where a statement names an entity; its start if it is spelt in an unusual way.
    pub(super) fn offset_of(&self, statement: &Statement, uid: &EntityUid) -> usize {
        let text = self.source.text().get(statement.start..statement.end).unwrap_or_default();
        text.find(&uid.to_string()).map_or(statement.start, |found| statement.start + found)
    }
}

/// Reports an error of the Cedar crates at its place, in the words of the house.
pub(super) fn report_detailed(source: &Source, fallback: usize, error: &DetailedError, report: &Report) {
    let offset = error.source_locations.first().map_or(fallback, |label| label.loc.start);
    let label = error.source_locations.first().and_then(|label| label.label.clone());
    let help = error.help.clone().or(label).unwrap_or_default();
    report.error(source, offset, error.message.clone(), help);
}

/// The byte ranges of the statements: Cedar ends each with `;`, which stands elsewhere only in
/// strings and comments.
fn statements(text: &str) -> Vec<(usize, usize)> {
    let mut found = Vec::new();
    let mut start = None;
    let mut characters = text.char_indices().peekable();
    while let Some((offset, character)) = characters.next() {
        let is_comment = character == '/' && characters.peek().is_some_and(|(_, next)| *next == '/');
        if is_comment {
            while characters.next_if(|(_, next)| *next != '\n').is_some() {}
            continue;
        }
        if character.is_whitespace() {
            continue;
        }
        if character == ';' {
            if let Some(start) = start.take() {
                found.push((start, offset + 1));
            }
            continue;
        }
        start.get_or_insert(offset);
        if character == '"' {
            while let Some((_, inside)) = characters.next() {
                match inside {
                    '\\' => drop(characters.next()),
                    '"' => break,
                    _ => {}
                }
            }
        }
    }
    found
}
