//! The configuration as a tree in which every value knows where it came from: a byte of the file
//! or an environment variable. Overrides are laid over the file here, before anything is read.
//!
//! `DOORWARD__SECTION__KEY` sets `key` of `[section]`; deeper levels and elements of lists follow
//! the same way (`DOORWARD__IDENTITY__PROVIDER__0__CLIENT_ID`). The value is read as TOML and, if
//! it is none, taken as a string.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::problem::{Ledger, Place};

/// What every override starts with.
const OVERRIDE_PREFIX: &str = "DOORWARD__";

/// A value and where it stands.
#[derive(Debug, Clone)]
pub(in crate::config) struct Node {
    pub(in crate::config) value: Value,
    /// Where the value stands.
    pub(in crate::config) place: Place,
    /// Where its key stands.
    pub(in crate::config) key_place: Place,
    /// The text of an override, for where a string is wanted and `0123` should stay one.
    pub(in crate::config) raw: Option<String>,
}

#[derive(Debug, Clone)]
pub(in crate::config) enum Value {
    Text(String),
    Integer(i64),
    Boolean(bool),
    Array(Vec<Node>),
    Table(BTreeMap<String, Node>),
    /// A kind of value that no key takes, or a number out of bounds.
    Other(&'static str),
}

impl Value {
    /// As it is called in messages.
    pub(in crate::config) const fn kind(&self) -> &'static str {
        match self {
            Self::Text(_) => "a string",
            Self::Integer(_) => "a whole number",
            Self::Boolean(_) => "a boolean",
            Self::Array(_) => "a list",
            Self::Table(_) => "a table",
            Self::Other(kind) => kind,
        }
    }
}

/// Reads the file's text; a syntax error is noted and gives nothing.
pub(in crate::config) fn parse(text: &str, ledger: &Ledger) -> Option<Node> {
    match DeTable::parse(text) {
        Ok(table) => {
            let entries = entries(table.into_inner(), &|span| Place::Offset(span.start));
            Some(Node { value: Value::Table(entries), place: Place::Whole, key_place: Place::Whole, raw: None })
        }
        Err(error) => {
            let place = error.span().map_or(Place::Whole, |span| Place::Offset(span.start));
            ledger.error(
                &place,
                format!("this is not TOML: {}", error.message().replace('\n', ", ")),
                Some("strings are quoted; tables are `[section]`, lists of tables `[[section.item]]`".into()),
            );
            None
        }
    }
}

/// Lays `DOORWARD__…` variables over the tree, in the order of their names.
pub(in crate::config) fn apply_overrides<'v>(
    root: &mut Node,
    variables: impl Iterator<Item = (&'v str, &'v str)>,
    ledger: &Ledger,
) {
    for (name, text) in variables {
        let Some(rest) = name.strip_prefix(OVERRIDE_PREFIX) else {
            continue;
        };
        let place = Place::Variable(name.into());
        let segments: Vec<String> = rest.split("__").map(str::to_ascii_lowercase).collect();
        if segments.iter().any(String::is_empty) {
            ledger.error(
                &place,
                "this variable names no key".into(),
                Some("write `DOORWARD__SECTION__KEY`, for example `DOORWARD__SERVER__LISTEN`".into()),
            );
            continue;
        }
        let leaf = override_value(text, &place);
        if let Err(at) = put(root, &segments, leaf, &place) {
            ledger.error(
                &place,
                format!("`{at}` can't be set from here: it is not a table or an element of a list that the file has"),
                Some("list elements are counted from 0 and must exist; set the whole list instead: `[…]`".into()),
            );
        }
    }
}

fn override_value(text: &str, place: &Place) -> Node {
    let value = match DeValue::parse(text) {
        Ok(parsed) => node_value(parsed.into_inner(), &|_| place.clone()),
        Err(_) => Value::Text(text.to_owned()),
    };
    Node { value, place: place.clone(), key_place: place.clone(), raw: Some(text.to_owned()) }
}

/// Sets the value at the end of `segments`, making tables on the way.
fn put(target: &mut Node, segments: &[String], leaf: Node, place: &Place) -> Result<(), String> {
    let Some((first, rest)) = segments.split_first() else {
        *target = leaf;
        return Ok(());
    };
    let next = match &mut target.value {
        Value::Table(entries) => entries.entry(first.clone()).or_insert_with(|| Node {
            value: Value::Table(BTreeMap::new()),
            place: place.clone(),
            key_place: place.clone(),
            raw: None,
        }),
        Value::Array(items) => {
            first.parse::<usize>().ok().and_then(|index| items.get_mut(index)).ok_or_else(|| first.clone())?
        }
        _ => return Err(first.clone()),
    };
    put(next, rest, leaf, place)
}

fn entries(table: DeTable<'_>, place: &dyn Fn(Range<usize>) -> Place) -> BTreeMap<String, Node> {
    table
        .into_iter()
        .map(|(key, value)| {
            let key_place = place(key.span());
            (key.into_inner().into_owned(), node(value, key_place, place))
        })
        .collect()
}

fn node(value: Spanned<DeValue<'_>>, key_place: Place, place: &dyn Fn(Range<usize>) -> Place) -> Node {
    let at = place(value.span());
    Node { value: node_value(value.into_inner(), place), place: at, key_place, raw: None }
}

fn node_value(value: DeValue<'_>, place: &dyn Fn(Range<usize>) -> Place) -> Value {
    match value {
        DeValue::String(text) => Value::Text(text.into_owned()),
        DeValue::Integer(number) => i64::from_str_radix(number.as_str(), number.radix())
            .map_or(Value::Other("a number that is too large"), Value::Integer),
        DeValue::Float(_) => Value::Other("a number with a fraction"),
        DeValue::Boolean(flag) => Value::Boolean(flag),
        DeValue::Datetime(_) => Value::Other("a date"),
        DeValue::Array(items) => Value::Array(
            items
                .into_iter()
                .map(|item| {
                    let at = place(item.span());
                    node(item, at, place)
                })
                .collect(),
        ),
        DeValue::Table(table) => Value::Table(entries(table, place)),
    }
}

/// Where the value at a dotted path stands (`identity.provider.0.issuer`), else its nearest parent.
pub(in crate::config) fn place_of(root: &Node, dotted: &str) -> Place {
    let mut at = root;
    for segment in dotted.split('.') {
        let next = match &at.value {
            Value::Table(entries) => entries.get(segment),
            Value::Array(items) => segment.parse::<usize>().ok().and_then(|index| items.get(index)),
            _ => None,
        };
        match next {
            Some(next) => at = next,
            None => break,
        }
    }
    at.place.clone()
}

/// The variables that may override or hold secrets, as a value: ordered, so that loading twice
/// gives the same answer.
#[derive(Clone, Default)]
pub struct Environment(BTreeMap<Arc<str>, Arc<str>>);

impl Environment {
    /// Those of this process. Variables that are not Unicode are left out.
    #[must_use]
    #[expect(clippy::disallowed_methods, reason = "config is one of the places that may read the environment")]
    pub fn of_process() -> Self {
        std::env::vars_os()
            .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
            .collect()
    }

    /// The value of the variable of this name.
    #[must_use]
    pub fn var(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(|value| &**value)
    }

    /// All variables in the order of their names.
    pub fn vars(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(name, value)| (&**name, &**value))
    }
}

impl FromIterator<(String, String)> for Environment {
    fn from_iter<I: IntoIterator<Item = (String, String)>>(variables: I) -> Self {
        Self(variables.into_iter().map(|(name, value)| (name.into(), value.into())).collect())
    }
}

/// Names only: values may be secrets.
impl std::fmt::Debug for Environment {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}
