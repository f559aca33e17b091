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

    /// A statement in one line, without its comments and its `@id`, which say nothing of what it does: two that
    /// mean different things are different lines. What is in a string stays as it is.
    pub(super) fn line(&self, statement: &Statement) -> String {
        let text = self.source.text().get(statement.start..statement.end).unwrap_or_default();
        let tokens: Vec<Token<'_>> = tokens(text).collect();
        let (mut kept, mut rest) = (Vec::new(), tokens.as_slice());
        // Annotations stand first, each as `@key` or `@key("value")`.
        while let [at, key, more @ ..] = rest
            && at.text == "@"
        {
            let has_value = more.first().is_some_and(|token| token.text == "(");
            let (annotation, after) = rest.split_at(rest.len().min(if has_value { 5 } else { 2 }));
            if key.text != "id" {
                kept.extend(annotation);
            }
            rest = after;
        }
        kept.extend(rest);
        let mut line = String::new();
        for token in kept {
            let is_tight = line.is_empty() || line.ends_with('(') || token.text == ")";
            // Where an annotation went from between two words, they are two still.
            let is_apart = token.is_apart || (line.ends_with(is_word) && token.text.starts_with(is_word));
            if is_apart && !is_tight {
                line.push(' ');
            }
            for character in token.text.chars() {
                // A line break, which only a string has, as it could be typed.
                if character.is_control() {
                    line.extend(character.escape_debug());
                } else {
                    line.push(character);
                }
            }
        }
        line
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

/// The byte ranges of the statements: Cedar ends each with `;`.
fn statements(text: &str) -> Vec<(usize, usize)> {
    let mut found = Vec::new();
    let mut start = None;
    for token in tokens(text) {
        if token.text == ";" {
            found.extend(start.take().map(|start| (start, token.offset + 1)));
        } else {
            start.get_or_insert(token.offset);
        }
    }
    found
}

/// A word, a string with its quotes, or one sign.
struct Token<'t> {
    offset: usize,
    text: &'t str,
    /// Whether a blank or a comment stands before it.
    is_apart: bool,
}

/// The tokens of a text that Cedar has read, by its grammar: what it takes for a blank or a comment is none.
fn tokens(text: &str) -> impl Iterator<Item = Token<'_>> {
    let mut end = 0;
    std::iter::from_fn(move || {
        let mut rest = text.get(end..)?.trim_start();
        while rest.starts_with("//") {
            let after = rest.find(['\n', '\r']).and_then(|line_end| rest.get(line_end..));
            rest = after.unwrap_or_default().trim_start();
        }
        let first = rest.chars().next()?;
        let length = match first {
            '"' => string_bytes(rest),
            first if is_word(first) => rest.find(|character| !is_word(character)).unwrap_or(rest.len()),
            first => first.len_utf8(),
        };
        let (before, offset) = (end, text.len() - rest.len());
        end = offset + length;
        Some(Token { offset, text: text.get(offset..end)?, is_apart: offset > before })
    })
}

fn is_word(character: char) -> bool {
    character.is_ascii_alphanumeric() || character == '_'
}

/// The length of the string that a text begins with, both quotes counted.
fn string_bytes(text: &str) -> usize {
    let mut is_escaped = false;
    for (offset, character) in text.char_indices().skip(1) {
        match character {
            _ if is_escaped => is_escaped = false,
            '\\' => is_escaped = true,
            '"' => return offset + 1,
            _ => {}
        }
    }
    text.len()
}
