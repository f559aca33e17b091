//! One table of the configuration while it is read. Every key that is asked for is remembered;
//! when the section goes, keys that nobody asked for are errors, with the nearest known spelling.
//!
//! INVARIANT: nothing in a configuration file is ignored: it is used, or it is an error.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fmt::Display;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::model::{Secret, Ttl};

use super::document::{Environment, Node, Value};
use super::problem::{Ledger, Place};
use super::secret;

/// What every section needs while it is read.
pub(in crate::config) struct Reading<'a> {
    pub(in crate::config) ledger: &'a Ledger,
    pub(in crate::config) environment: &'a Environment,
    /// The folder of the configuration file: relative paths start here.
    pub(in crate::config) folder: &'a Path,
    /// Secrets that came from files, as they are met.
    pub(in crate::config) secret_files: RefCell<Vec<(String, PathBuf)>>,
}

/// A table, or its absence.
pub(in crate::config) struct Section<'a> {
    reading: &'a Reading<'a>,
    name: String,
    entries: Option<&'a BTreeMap<String, Node>>,
    place: Place,
    known: Vec<&'static str>,
    /// Keys that were looked for and, where they are not given, not asked for: known too.
    looked_for: RefCell<Vec<&'static str>>,
}

impl<'a> Section<'a> {
    /// The whole file.
    pub(in crate::config) fn root(reading: &'a Reading<'a>, node: &'a Node) -> Self {
        Self::of(reading, String::new(), Some(node))
    }

    fn of(reading: &'a Reading<'a>, name: String, node: Option<&'a Node>) -> Self {
        let entries = node.and_then(|node| match &node.value {
            Value::Table(entries) => Some(entries),
            other => {
                let message = format!("`{name}` is {}, where a table is needed", other.kind());
                reading.ledger.error(&node.place, message, Some(format!("write `[{name}]` and its keys below it")));
                None
            }
        });
        let place = node.map_or(Place::Whole, |node| node.key_place.clone());
        Self { reading, name, entries, place, known: Vec::new(), looked_for: RefCell::default() }
    }

    /// The section's place, for what is missing in it.
    pub(in crate::config) fn place(&self) -> &Place {
        &self.place
    }

    pub(in crate::config) fn ledger(&self) -> &'a Ledger {
        self.reading.ledger
    }

    /// Whether the key is given.
    pub(in crate::config) fn has(&self, key: &'static str) -> bool {
        self.looked_for.borrow_mut().push(key);
        self.entries.is_some_and(|entries| entries.contains_key(key))
    }

    /// Whether no element of a list is given.
    pub(in crate::config) fn lists_none(&self, key: &str) -> bool {
        let node = self.entries.and_then(|entries| entries.get(key));
        node.is_none_or(|node| matches!(&node.value, Value::Array(items) if items.is_empty()))
    }

    /// Whether the key's value is a plain string in the file.
    pub(in crate::config) fn is_text(&self, key: &str) -> bool {
        let node = self.entries.and_then(|entries| entries.get(key));
        node.is_some_and(|node| matches!((&node.value, &node.place), (Value::Text(_), Place::Offset(_))))
    }

    /// Where the key's value stands, else where the section does.
    pub(in crate::config) fn place_of(&self, key: &str) -> Place {
        self.entries.and_then(|entries| entries.get(key)).map_or_else(|| self.place.clone(), |node| node.place.clone())
    }

    /// Notes an error at a key.
    pub(in crate::config) fn error(&self, key: &str, message: String, help: &str) {
        self.reading.ledger.error(&self.place_of(key), message, Some(help.to_owned()));
    }

    /// Notes that a key must be given.
    pub(in crate::config) fn missing(&self, key: &str, help: &str) {
        let message = format!("`{}` is missing", self.path_of(key));
        self.reading.ledger.error(&self.place, message, Some(help.to_owned()));
    }

    /// The table under a key.
    pub(in crate::config) fn section(&mut self, key: &'static str) -> Section<'a> {
        let node = self.node(key);
        Section::of(self.reading, self.path_of(key), node)
    }

    /// The tables of a list of tables (`[[key]]`), each with the number that its path has.
    pub(in crate::config) fn sections(&mut self, key: &'static str) -> Vec<Section<'a>> {
        let Some(node) = self.node(key) else {
            return Vec::new();
        };
        let name = self.path_of(key);
        let Value::Array(items) = &node.value else {
            self.wrong_kind(key, node, "a list of tables", &format!("write `[[{name}]]` before the keys of each"));
            return Vec::new();
        };
        let each = |(index, item)| Section::of(self.reading, format!("{name}.{index}"), Some(item));
        items.iter().enumerate().map(each).collect()
    }

    /// A key of something that does not exist yet: giving it is an error, for it would be ignored.
    pub(in crate::config) fn not_built(&mut self, key: &'static str) {
        let path = self.path_of(key);
        if let Some(node) = self.node(key) {
            self.reading.ledger.error(
                &node.key_place,
                format!("`{path}` is not built yet; remove it"),
                Some("a setting that has no effect is refused, so that nobody relies on it".into()),
            );
        }
    }

    /// Counts a key as known without judging its value, where another error stands in the way of that.
    pub(in crate::config) fn skip(&mut self, key: &'static str) {
        self.known.push(key);
    }

    pub(in crate::config) fn text(&mut self, key: &'static str) -> Option<String> {
        let node = self.node(key)?;
        match (&node.value, &node.raw) {
            (Value::Text(text), _) | (_, Some(text)) => Some(text.clone()),
            _ => {
                self.wrong_kind(key, node, "a string", "put it in double quotes");
                None
            }
        }
    }

    /// A string that `parse` turns into a value; what it should look like is told by `form`.
    pub(in crate::config) fn parsed<T>(
        &mut self,
        key: &'static str,
        form: &str,
        parse: impl FnOnce(&str) -> Option<T>,
    ) -> Option<T> {
        let text = self.text(key)?;
        let value = parse(&text);
        if value.is_none() {
            let message = format!("`{}` is `{}`, which is not {form}", self.path_of(key), text.escape_debug());
            self.error(key, message, &format!("give {form}"));
        }
        value
    }

    pub(in crate::config) fn ttl(&mut self, key: &'static str, default: Ttl, bounds: RangeInclusive<Ttl>) -> Ttl {
        let form = "a length of time such as `90s`, `15m`, `1h30m` or `1d`";
        if let Some((number, message)) = self.bare_number(key, form) {
            self.skip(key);
            self.error(key, message, &format!("write `\"{number}s\"` where seconds are meant"));
            return default;
        }
        let Some(value) = self.parsed(key, form, Ttl::parse) else {
            return default;
        };
        if self.within(key, value, &bounds, "") { value } else { default }
    }

    /// A number where a unit is needed too, and what is wrong with it.
    fn bare_number(&self, key: &str, form: &str) -> Option<(String, String)> {
        let node = self.entries?.get(key)?;
        let path = self.path_of(key);
        match (&node.value, &node.raw) {
            (Value::Integer(number), None) if *number >= 0 => {
                Some((number.to_string(), format!("`{path}` is a whole number, where a string is needed")))
            }
            (Value::Text(text), _) | (_, Some(text)) => {
                let bare = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
                bare.then(|| (text.clone(), format!("`{path}` is `{text}`, which is not {form}")))
            }
            _ => None,
        }
    }

    pub(in crate::config) fn count(&mut self, key: &'static str, default: u32, bounds: RangeInclusive<u32>) -> u32 {
        self.count_bounded(key, default, bounds, "")
    }

    /// As [`Section::count`], with the reason for its bounds as the end of the help.
    pub(in crate::config) fn count_bounded(
        &mut self,
        key: &'static str,
        default: u32,
        bounds: RangeInclusive<u32>,
        why: &str,
    ) -> u32 {
        let Some(node) = self.node(key) else {
            return default;
        };
        let Value::Integer(number) = node.value else {
            self.wrong_kind(key, node, "a whole number", "write digits without quotes");
            return default;
        };
        let within = self.within(key, number, &(i64::from(*bounds.start())..=i64::from(*bounds.end())), why);
        if within { u32::try_from(number).unwrap_or(default) } else { default }
    }

    pub(in crate::config) fn flag(&mut self, key: &'static str) -> bool {
        let Some(node) = self.node(key) else {
            return false;
        };
        match node.value {
            Value::Boolean(flag) => flag,
            _ => {
                self.wrong_kind(key, node, "a boolean", "write `true` or `false` without quotes");
                false
            }
        }
    }

    pub(in crate::config) fn path(&mut self, key: &'static str) -> Option<PathBuf> {
        let text = self.text(key)?;
        if text.is_empty() {
            self.error(key, format!("`{}` is empty", self.path_of(key)), "give a path, or leave the key out");
            return None;
        }
        // A relative path starts at the file that holds it, not where the process happened to start.
        Some(self.reading.folder.join(text))
    }

    /// A list of strings; each with the place where it stands.
    pub(in crate::config) fn texts(&mut self, key: &'static str) -> Option<Vec<(String, Place)>> {
        let node = self.node(key)?;
        let Value::Array(items) = &node.value else {
            self.wrong_kind(key, node, "a list of strings", "write `[\"one\", \"two\"]`");
            return None;
        };
        let mut texts = Vec::with_capacity(items.len());
        for item in items {
            match &item.value {
                Value::Text(text) => texts.push((text.clone(), item.place.clone())),
                _ => self.wrong_kind(key, item, "a string", "put it in double quotes"),
            }
        }
        Some(texts)
    }

    pub(in crate::config) fn paths(&mut self, key: &'static str) -> Vec<PathBuf> {
        self.texts(key).unwrap_or_default().into_iter().map(|(text, _)| self.reading.folder.join(text)).collect()
    }

    /// A table of strings to strings, whose keys are the user's own.
    pub(in crate::config) fn text_map(&mut self, key: &'static str) -> Option<BTreeMap<String, String>> {
        let node = self.node(key)?;
        let Value::Table(entries) = &node.value else {
            self.wrong_kind(key, node, "a table of strings", "write `{ \"theirs\" = \"ours\" }`");
            return None;
        };
        let mut map = BTreeMap::new();
        for (name, item) in entries {
            match &item.value {
                Value::Text(text) => {
                    map.insert(name.clone(), text.clone());
                }
                _ => self.wrong_kind(key, item, "a string", "put it in double quotes"),
            }
        }
        Some(map)
    }

    /// A secret, given as `{ file = "…" }` or `{ env = "…" }`.
    pub(in crate::config) fn secret(&mut self, key: &'static str) -> Option<Arc<Secret<String>>> {
        let node = self.node(key)?;
        let path = self.path_of(key);
        if let (Value::Text(_), Place::Offset(_)) = (&node.value, &node.place) {
            let help = "write `{ file = \"path\" }` or `{ env = \"VARIABLE\" }`, so that this file can be shown around";
            self.reading.ledger.error(
                &node.place,
                format!("`{path}` is a secret and stands in the file itself"),
                Some(help.into()),
            );
            return None;
        }
        if let Value::Table(_) = node.value {
            let mut source = Section::of(self.reading, path, Some(node));
            return secret::read(&mut source);
        }
        // An override from the environment is outside the file already. What stands there in quotes, or within a
        // list or table, was read as TOML; everything else is the secret as it is.
        match (&node.value, &node.raw) {
            (Value::Text(text), _) | (_, Some(text)) if text.is_empty() => {
                self.error(key, format!("the secret `{path}` is empty"), "put the secret there");
                None
            }
            (Value::Text(text), _) | (_, Some(text)) => Some(Arc::new(Secret::new(text.clone()))),
            _ => {
                self.wrong_kind(key, node, "a secret", "write `{ file = \"path\" }` or `{ env = \"VARIABLE\" }`");
                None
            }
        }
    }

    /// Notes that this secret came from a file.
    pub(in crate::config) fn note_file(&self, file: &Path) {
        self.reading.secret_files.borrow_mut().push((self.name.clone(), file.to_path_buf()));
    }

    pub(in crate::config) fn environment(&self) -> &'a Environment {
        self.reading.environment
    }

    pub(in crate::config) fn folder(&self) -> &'a Path {
        self.reading.folder
    }

    /// The dotted path of a key of this section.
    pub(in crate::config) fn path_of(&self, key: &str) -> String {
        if self.name.is_empty() { key.to_owned() } else { format!("{}.{key}", self.name) }
    }

    /// The section's own dotted path.
    pub(in crate::config) fn name(&self) -> &str {
        &self.name
    }

    fn node(&mut self, key: &'static str) -> Option<&'a Node> {
        self.known.push(key);
        self.entries?.get(key)
    }

    fn within<T: PartialOrd + Display>(&self, key: &str, value: T, bounds: &RangeInclusive<T>, why: &str) -> bool {
        let within = bounds.contains(&value);
        if !within {
            let (least, most) = (bounds.start(), bounds.end());
            let message = format!("`{}` is {value}, outside {least} to {most}", self.path_of(key));
            self.error(key, message, &format!("give something from {least} to {most}{why}"));
        }
        within
    }

    fn wrong_kind(&self, key: &str, node: &Node, wanted: &str, help: &str) {
        let message = format!("`{}` is {}, where {wanted} is needed", self.path_of(key), node.value.kind());
        self.reading.ledger.error(&node.place, message, Some(help.to_owned()));
    }
}

impl Drop for Section<'_> {
    /// Keys that nobody asked for are errors; on drop, so that no reader can forget to say so.
    fn drop(&mut self) {
        let Some(entries) = self.entries else { return };
        let mut spellings = self.looked_for.take();
        spellings.extend(&self.known);
        spellings.sort_unstable();
        spellings.dedup();
        for (key, node) in entries {
            if self.known.contains(&key.as_str()) {
                continue;
            }
            let (what, within) = match (&node.value, self.name.is_empty()) {
                (Value::Table(_) | Value::Array(_), true) => ("section", String::new()),
                (_, true) => ("key", " outside every section".into()),
                (_, false) => ("key", format!(" in `[{}]`", self.name)),
            };
            let help = match nearest(key, &spellings) {
                Some(near) => format!("did you mean `{near}`?"),
                None => format!("known here: {}", spellings.join(", ")),
            };
            let message = format!("unknown {what} `{}`{within}", key.escape_debug());
            self.reading.ledger.error(&node.key_place, message, Some(help));
        }
    }
}

/// The known word that is at most a third of its length away.
pub(in crate::config) fn nearest<'k>(word: &str, known: &[&'k str]) -> Option<&'k str> {
    let word: String = word.chars().take(64).collect::<String>().to_ascii_lowercase().replace('-', "_");
    known
        .iter()
        .map(|candidate| (edits(&word, candidate), *candidate))
        .filter(|(distance, candidate)| *distance <= (candidate.len() / 3).max(1))
        .min()
        .map(|(_, candidate)| candidate)
}

/// Levenshtein's distance, one row at a time.
fn edits(left: &str, right: &str) -> usize {
    let right: Vec<char> = right.chars().collect();
    let mut row: Vec<usize> = (0..=right.len()).collect();
    for (index, l) in left.chars().enumerate() {
        let mut diagonal = index;
        let mut before = index + 1;
        let mut next = vec![before];
        for (r, above) in right.iter().zip(row.iter().skip(1)) {
            let cost = (diagonal + usize::from(l != *r)).min(above + 1).min(before + 1);
            diagonal = *above;
            before = cost;
            next.push(cost);
        }
        row = next;
    }
    row.last().copied().unwrap_or(0)
}
