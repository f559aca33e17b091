//! Pages of lists (`?cursor=…&limit=…`).

use std::cmp::Ordering;
use std::fmt::Display;

use crate::wire::Page;

use super::answer::ApiError;
use super::fields::Fields;

/// What a page holds where nothing is said, and at most.
const PAGE: usize = 50;
const PAGE_MAX: usize = 200;

/// How many a page is to hold.
pub(super) fn limit(fields: &Fields) -> Result<usize, ApiError> {
    match fields.get("limit").map(str::parse::<usize>) {
        None => Ok(PAGE),
        Some(Ok(limit @ 1..=PAGE_MAX)) => Ok(limit),
        Some(_) => Err(ApiError::Invalid(format!("`limit` is a number from 1 to {PAGE_MAX}"))),
    }
}

/// After which thing a page begins: the `next` of the page before.
pub(super) fn cursor<T, E: Display>(
    fields: &Fields,
    parse: impl FnOnce(&str) -> Result<T, E>,
) -> Result<Option<T>, ApiError> {
    let read = fields.get("cursor").map(parse).transpose();
    read.map_err(|error| ApiError::Invalid(format!("in `cursor`: {error}")))
}

/// How a list that is in memory as a whole is sorted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Order {
    /// By name, or by id and so by time.
    Ascending,
    /// By id without its prefix, and so by time.
    NewestFirst,
}

impl Order {
    fn compare(self, one: &str, other: &str) -> Ordering {
        let bare = |id: &'_ str| id.find('_').map_or(0, |at| at + 1);
        match self {
            Self::Ascending => one.cmp(other),
            Self::NewestFirst => other[bare(other)..].cmp(&one[bare(one)..]),
        }
    }
}

/// A page of a list that is in memory as a whole; its cursor is the `key` of the last thing on it,
/// which need not be there any more when the next page is asked for.
///
/// # Errors
/// When `limit` is no number of that range, or something else is asked.
pub(super) fn of_whole<T>(
    query: Option<&str>,
    mut items: Vec<T>,
    order: Order,
    key: impl Fn(&T) -> &str,
) -> Result<Page<T>, ApiError> {
    let fields = Fields::of_list(query, &["cursor", "limit"])?;
    let limit = limit(&fields)?;
    if let Some(cursor) = fields.get("cursor") {
        items.retain(|item| order.compare(key(item), cursor) == Ordering::Greater);
    }
    items.sort_by(|one, other| order.compare(key(one), key(other)));
    let more = items.len() > limit;
    items.truncate(limit);
    let next = items.last().filter(|_| more).map(|item| key(item).to_owned());
    Ok(Page { items, next })
}
