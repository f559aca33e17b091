//! A strict reader for TOML files: every key is asked for by name, what nobody asked for is an
//! error with its place and a suggestion, and every value says where it stands.

use std::collections::BTreeMap;
use std::ops::Range;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::diagnostic::{Report, Source};
use super::suggestion;
use crate::model::Ttl;

/// A table under reading.
pub(super) struct Table<'a> {
    source: &'a Source,
    report: &'a Report,
    name: String,
    start: usize,
    entries: BTreeMap<&'a str, Field<'a>>,
    asked: Vec<&'static str>,
}

/// A value and its place.
#[derive(Clone)]
pub(super) struct Field<'a> {
    source: &'a Source,
    report: &'a Report,
    name: String,
    key: Range<usize>,
    span: Range<usize>,
    value: &'a DeValue<'a>,
}

/// Parses the text; errors of syntax are reported and give nothing.
pub(super) fn parse<'a>(source: &'a Source, report: &Report) -> Option<Spanned<DeTable<'a>>> {
    let (table, errors) = DeTable::parse_recoverable(source.text());
    if errors.is_empty() {
        return Some(table);
    }
    for error in errors {
        let offset = error.span().map_or(0, |span| span.start);
        report.error(source, offset, format!("this is not TOML: {}", error.message().replace('\n', ", ")), "");
    }
    None
}

impl<'a> Table<'a> {
    pub(super) fn root(source: &'a Source, report: &'a Report, table: &'a DeTable<'a>) -> Self {
        Self::new(source, report, String::new(), 0, table)
    }

    fn new(source: &'a Source, report: &'a Report, name: String, start: usize, table: &'a DeTable<'a>) -> Self {
        let entries = table
            .iter()
            .map(|(key, value)| {
                let full =
                    if name.is_empty() { key.get_ref().to_string() } else { format!("{name}.{}", key.get_ref()) };
                let field =
                    Field { source, report, name: full, key: key.span(), span: value.span(), value: value.get_ref() };
                (key.get_ref().as_ref(), field)
            })
            .collect();
        Self { source, report, name, start, entries, asked: Vec::new() }
    }

    /// The value of a key, if it is there.
    pub(super) fn take(&mut self, key: &'static str) -> Option<Field<'a>> {
        self.asked.push(key);
        self.entries.remove(key)
    }

    /// The value of a key that must be there.
    pub(super) fn require(&mut self, key: &'static str, help: &str) -> Option<Field<'a>> {
        let field = self.take(key);
        if field.is_none() {
            self.error(format!("{}`{key}` is missing", self.prefix()), help);
        }
        field
    }

    /// All that is left, for tables whose keys are names.
    pub(super) fn rest(&mut self) -> impl Iterator<Item = (&'a str, Field<'a>)> + use<'a> {
        std::mem::take(&mut self.entries).into_iter()
    }

    /// Whatever nobody asked for is an error.
    pub(super) fn finish(self) {
        for (key, field) in &self.entries {
            let help = suggestion::help(key, self.asked.iter().copied());
            self.report.error(
                self.source,
                field.key.start,
                format!("{}unknown key `{}`", self.prefix(), key.escape_debug()),
                help,
            );
        }
    }

    pub(super) fn error(&self, message: impl Into<String>, help: impl Into<String>) {
        self.report.error(self.source, self.start, message, help);
    }

    fn prefix(&self) -> String {
        if self.name.is_empty() { String::new() } else { format!("in `{}`: ", self.name) }
    }

    pub(super) fn text(&mut self, key: &'static str) -> Option<&'a str> {
        self.take(key)?.text()
    }

    pub(super) fn boolean(&mut self, key: &'static str, default: bool) -> bool {
        self.take(key).and_then(|field| field.boolean()).unwrap_or(default)
    }

    pub(super) fn duration(&mut self, key: &'static str) -> Option<Ttl> {
        self.take(key)?.duration()
    }

    pub(super) fn list(&mut self, key: &'static str) -> Vec<Field<'a>> {
        self.take(key).map(|field| field.list()).unwrap_or_default()
    }

    pub(super) fn texts(&mut self, key: &'static str) -> Vec<String> {
        self.list(key).iter().filter_map(Field::text).map(str::to_owned).collect()
    }
}

impl<'a> Field<'a> {
    /// The dotted name of the key.
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// Where the value starts.
    pub(super) const fn start(&self) -> usize {
        self.span.start
    }

    /// Where the key starts.
    pub(super) const fn key_start(&self) -> usize {
        self.key.start
    }

    pub(super) fn error(&self, message: impl Into<String>, help: impl Into<String>) {
        self.report.error(self.source, self.span.start, message, help);
    }

    pub(super) fn warning(&self, message: impl Into<String>, help: impl Into<String>) {
        self.report.warning(self.source, self.span.start, message, help);
    }

    fn mismatch(&self, wanted: &str) {
        self.error(format!("`{}` must be {wanted}, not {}", self.name, kind(self.value)), "");
    }

    pub(super) fn text(&self) -> Option<&'a str> {
        if let DeValue::String(text) = self.value {
            return Some(text.as_ref());
        }
        self.mismatch("a text in quotes");
        None
    }

    pub(super) const fn is_text(&self) -> bool {
        matches!(self.value, DeValue::String(_))
    }

    pub(super) fn boolean(&self) -> Option<bool> {
        if let DeValue::Boolean(value) = self.value {
            return Some(*value);
        }
        self.mismatch("`true` or `false`");
        None
    }

    /// A whole number within the bounds.
    pub(super) fn number(&self, bounds: std::ops::RangeInclusive<u64>) -> Option<u64> {
        let DeValue::Integer(number) = self.value else {
            self.mismatch("a whole number");
            return None;
        };
        let parsed = u64::from_str_radix(number.as_str(), number.radix()).ok();
        if let Some(value) = parsed.filter(|value| bounds.contains(value)) {
            return Some(value);
        }
        self.error(format!("`{}` must be from {} to {}", self.name, bounds.start(), bounds.end()), "");
        None
    }

    pub(super) fn small_number(&self, bounds: std::ops::RangeInclusive<u32>) -> Option<u32> {
        let wide = u64::from(*bounds.start())..=u64::from(*bounds.end());
        self.number(wide).and_then(|value| u32::try_from(value).ok())
    }

    /// A length of time greater than zero.
    pub(super) fn duration(&self) -> Option<Ttl> {
        if let DeValue::Integer(number) = self.value {
            let help = format!("write `\"{}s\"` where seconds are meant", number.as_str());
            self.error(format!("`{}` must be a text in quotes, not a number", self.name), help);
            return None;
        }
        let text = self.text()?;
        let parsed = Ttl::parse(text).filter(|ttl| *ttl > Ttl::ZERO);
        if parsed.is_none() {
            let bare = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
            self.error(
                format!("`{}` is not a length of time: `{}`", self.name, text.escape_debug()),
                match bare {
                    true => format!("write `\"{text}s\"` where seconds are meant"),
                    false => "write `90s`, `15m`, `1h30m` or `1d`, and more than nothing".to_owned(),
                },
            );
        }
        parsed
    }

    pub(super) fn list(&self) -> Vec<Self> {
        let DeValue::Array(items) = self.value else {
            self.mismatch("a list in `[…]`");
            return Vec::new();
        };
        items
            .iter()
            .map(|item| Self { key: item.span(), span: item.span(), value: item.get_ref(), ..self.clone() })
            .collect()
    }

    pub(super) fn table(&self) -> Option<Table<'a>> {
        self.table_like("")
    }

    /// A table; `help` says how it is written.
    pub(super) fn table_like(&self, help: &str) -> Option<Table<'a>> {
        let DeValue::Table(table) = self.value else {
            self.error(format!("`{}` must be a table, not {}", self.name, kind(self.value)), help);
            return None;
        };
        Some(Table::new(self.source, self.report, self.name.clone(), self.span.start, table))
    }

    /// One of a few words.
    pub(super) fn choice<T: Copy>(&self, choices: &[(&'static str, T)]) -> Option<T> {
        let text = self.text()?;
        if let Some((_, value)) = choices.iter().find(|(word, _)| *word == text) {
            return Some(*value);
        }
        let help = suggestion::help(text, choices.iter().map(|(word, _)| *word));
        self.error(format!("`{}` can't be `{}`", self.name, text.escape_debug()), help);
        None
    }

    /// The value as JSON: for claims, which are whatever a provider says.
    pub(super) fn json(&self) -> serde_json::Value {
        json(self.value)
    }
}

fn json(value: &DeValue<'_>) -> serde_json::Value {
    match value {
        DeValue::String(text) => text.as_ref().into(),
        DeValue::Boolean(value) => (*value).into(),
        DeValue::Integer(number) => i64::from_str_radix(number.as_str(), number.radix()).ok().into(),
        DeValue::Float(number) => number.as_str().parse::<f64>().ok().into(),
        DeValue::Datetime(time) => time.to_string().into(),
        DeValue::Array(items) => items.iter().map(|item| json(item.get_ref())).collect(),
        DeValue::Table(table) => {
            table.iter().map(|(key, value)| (key.get_ref().to_string(), json(value.get_ref()))).collect()
        }
    }
}

fn kind(value: &DeValue<'_>) -> &'static str {
    match value {
        DeValue::String(_) => "a text",
        DeValue::Integer(_) | DeValue::Float(_) => "a number",
        DeValue::Boolean(_) => "`true` or `false`",
        DeValue::Datetime(_) => "a time",
        DeValue::Array(_) => "a list",
        DeValue::Table(_) => "a table",
    }
}
