//! What is special to the type of an event: a few named values.
//!
//! Two of these are made on the way of every request, so it is one small list with names that are not
//! copied, in the order in which they are written; a JSON map would be five allocations.

use std::borrow::Cow;

use serde_json::{Map, Value};

/// Named values, each name once, by name.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Data(Vec<(Cow<'static, str>, Value)>);

impl Data {
    /// Sets the value of this name.
    pub fn insert(&mut self, name: impl Into<Cow<'static, str>>, value: Value) {
        let name = name.into();
        match self.0.binary_search_by(|(known, _)| known.cmp(&name)) {
            Ok(place) => {
                if let Some(known) = self.0.get_mut(place) {
                    known.1 = value;
                }
            }
            Err(place) => self.0.insert(place, (name, value)),
        }
    }

    /// The values by name.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Value)> {
        self.0.iter().map(|(name, value)| (&**name, value))
    }

    /// Whether there is none.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The same as a JSON object.
    #[must_use]
    pub fn to_map(&self) -> Map<String, Value> {
        self.iter().map(|(name, value)| (name.to_owned(), value.clone())).collect()
    }
}

impl Extend<(String, Value)> for Data {
    fn extend<I: IntoIterator<Item = (String, Value)>>(&mut self, values: I) {
        values.into_iter().for_each(|(name, value)| self.insert(name, value));
    }
}
