//! Queries and forms of pages, read within bounds.
//!
//! INVARIANT: a field that is there twice is refused, so that no two readers take different ones.

use axum::body::to_bytes;
use axum::extract::Request;
use axum::http::header::CONTENT_TYPE;

use crate::control::return_to::RETURN_TO_BYTES_MAX;

use super::refusal::PageError;

/// The longest form that is read, in bytes.
const FORM_BYTES_MAX: usize = 32 * 1024;
/// The longest query that is read, in bytes: a place to return to, each of its characters encoded, and room
/// for the rest.
const QUERY_BYTES_MAX: usize = 3 * RETURN_TO_BYTES_MAX + 2 * 1024;
/// Fields at most.
const FIELDS_MAX: usize = 32;

/// The fields of a query or form.
#[derive(Debug)]
pub struct Fields(Vec<(String, String)>);

impl Fields {
    fn parse(bytes: &[u8]) -> Result<Self, PageError> {
        let mut fields: Vec<(String, String)> = Vec::new();
        for (name, value) in form_urlencoded::parse(bytes) {
            if fields.len() == FIELDS_MAX || fields.iter().any(|(known, _)| *known == name) {
                return Err(PageError::Invalid("a field is there twice, or there are too many"));
            }
            // PostgreSQL can't keep it, and nobody means it.
            if name.contains('\0') || value.contains('\0') {
                return Err(PageError::Invalid("a field has a NUL character"));
            }
            fields.push((name.into_owned(), value.into_owned()));
        }
        Ok(Self(fields))
    }

    /// Those of a query.
    ///
    /// # Errors
    /// When it is too long or has a field twice.
    pub fn query(query: Option<&str>) -> Result<Self, PageError> {
        let query = query.unwrap_or_default();
        if query.len() > QUERY_BYTES_MAX {
            return Err(PageError::Invalid("the address is too long"));
        }
        Self::parse(query.as_bytes())
    }

    /// Those of a form.
    ///
    /// # Errors
    /// When it is no form, is too long, or has a field twice.
    pub async fn form(request: Request) -> Result<Self, PageError> {
        let said = request.headers().get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
        let media_type = said.split(';').next().unwrap_or_default().trim();
        if !media_type.eq_ignore_ascii_case("application/x-www-form-urlencoded") {
            return Err(PageError::Invalid("a form is wanted here"));
        }
        let body = to_bytes(request.into_body(), FORM_BYTES_MAX).await;
        Self::parse(&body.map_err(|_| PageError::Invalid("the form is too long or broke off"))?)
    }

    /// Each field with its value, as it came.
    pub fn all(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(name, value)| (name.as_str(), value.as_str()))
    }

    /// Those whose names begin so, by the rest of the name and with what was typed: who left a field empty did not
    /// fill it in.
    pub fn beginning<'a>(&'a self, start: &'a str) -> impl Iterator<Item = (&'a str, &'a str)> {
        let named = self.all().filter_map(move |(name, value)| Some((name.strip_prefix(start)?, value.trim())));
        named.filter(|(_, value)| !value.is_empty())
    }

    /// All but the field of that name, as one text.
    #[must_use]
    pub fn without(&self, left_out: &str) -> String {
        let kept = self.all().filter(|(name, _)| *name != left_out);
        form_urlencoded::Serializer::new(String::new()).extend_pairs(kept).finish()
    }

    /// The value of a field; an empty one is none.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(known, value)| known == name && !value.is_empty()).map(|(_, value)| value.as_str())
    }
}
