//! Bodies and queries, read within bounds.
//!
//! INVARIANTS: a form or query that names a field twice is refused (RFC 6749 §3.1), an unknown key of
//! a JSON body too; nothing over-long is read to its end.

use std::error::Error;
use std::sync::Arc;

use axum::body::to_bytes;
use axum::extract::{FromRequest, Request};
use axum::http::HeaderMap;
use axum::http::header::CONTENT_TYPE;
use http_body_util::LengthLimitError;
use serde::de::DeserializeOwned;

use crate::control::Desk;

use super::answer::{ApiError, OauthFailure};

/// The longest body that is read, in bytes.
pub const BODY_BYTES_MAX: usize = 64 * 1024;
/// Fields of a form or query at most.
const FIELDS_MAX: usize = 32;
/// The longest query that is read, in bytes.
const QUERY_BYTES_MAX: usize = 8 * 1024;

/// The fields of a form or query.
#[derive(Debug)]
pub struct Fields(Vec<(String, String)>);

impl Fields {
    /// Reads `a=b&c=d`.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(text: &[u8]) -> Result<Self, &'static str> {
        let mut fields: Vec<(String, String)> = Vec::new();
        for (key, value) in form_urlencoded::parse(text) {
            if fields.len() == FIELDS_MAX {
                return Err("there are too many fields");
            }
            if fields.iter().any(|(known, _)| *known == key) {
                return Err("a field is there twice");
            }
            fields.push((key.into_owned(), value.into_owned()));
        }
        Ok(Self(fields))
    }

    /// Reads a query.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn query(text: Option<&str>) -> Result<Self, &'static str> {
        let text = text.unwrap_or_default();
        if text.len() > QUERY_BYTES_MAX { Err("the query is too long") } else { Self::parse(text.as_bytes()) }
    }

    /// Reads a query that has nothing but known fields.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn of_known(text: Option<&str>, known: &[&str]) -> Result<Self, ApiError> {
        let fields = Self::query(text).map_err(|what| ApiError::Invalid(what.to_owned()))?;
        match fields.0.iter().find(|(key, _)| !known.contains(&key.as_str())) {
            Some((key, _)) => {
                let known = known.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ");
                Err(ApiError::Invalid(format!("unknown parameter `{}`; known here: {known}", shown(key))))
            }
            None => Ok(fields),
        }
    }

    /// Reads the query of a list: what is there is known and has a value.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn of_list(text: Option<&str>, known: &[&str]) -> Result<Self, ApiError> {
        let fields = Self::of_known(text, known)?;
        match fields.0.iter().find(|(_, value)| value.is_empty()) {
            Some((key, _)) => {
                Err(ApiError::Invalid(format!("`{}` is empty: give it a value, or leave it out", shown(key))))
            }
            None => Ok(fields),
        }
    }

    /// The value of a field; nothing when it is missing or empty (RFC 6749 §3.1).
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(key, value)| key == name && !value.is_empty()).map(|(_, value)| value.as_str())
    }

    /// The value of a field, or an empty text.
    #[must_use]
    pub fn text(&self, name: &str) -> String {
        self.get(name).unwrap_or_default().to_owned()
    }
}

/// As much of a key as an answer repeats.
fn shown(key: &str) -> String {
    key.chars().filter(|c| !c.is_control()).take(40).collect()
}

enum ReadError {
    TooLarge,
    Broken,
}

async fn read(request: Request) -> Result<bytes::Bytes, ReadError> {
    to_bytes(request.into_body(), BODY_BYTES_MAX).await.map_err(|error| {
        let too_large = error.source().is_some_and(|source| source.is::<LengthLimitError>());
        if too_large { ReadError::TooLarge } else { ReadError::Broken }
    })
}

/// Whether the body says it is of this media type, parameters aside.
fn is_of_type(headers: &HeaderMap, media_type: &str) -> bool {
    let said = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    said.split(';').next().unwrap_or_default().trim().eq_ignore_ascii_case(media_type)
}

/// The form that an OAuth endpoint is sent.
pub struct Form(pub Fields);

impl FromRequest<Arc<Desk>> for Form {
    type Rejection = OauthFailure;

    async fn from_request(request: Request, _: &Arc<Desk>) -> Result<Self, OauthFailure> {
        Self::read(request).await
    }
}

impl Form {
    /// Reads the form of a request.
    ///
    /// # Errors
    /// When the body is of another kind, too long, or names a field twice.
    pub async fn read(request: Request) -> Result<Self, OauthFailure> {
        if !is_of_type(request.headers(), "application/x-www-form-urlencoded") {
            return Err(OauthFailure::Form("send the body as `application/x-www-form-urlencoded`"));
        }
        let body = read(request).await.map_err(|error| match error {
            ReadError::TooLarge => OauthFailure::TooLarge,
            ReadError::Broken => OauthFailure::Form("the body could not be read"),
        })?;
        Fields::parse(&body).map(Self).map_err(OauthFailure::Form)
    }
}

/// The JSON that the API is sent.
pub struct Json<T>(pub T);

impl<T: DeserializeOwned> FromRequest<Arc<Desk>> for Json<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, _: &Arc<Desk>) -> Result<Self, ApiError> {
        // The media type is demanded because a page of another site can't send it unasked.
        if !is_of_type(request.headers(), "application/json") {
            return Err(ApiError::MediaType("application/json"));
        }
        let body = read(request).await.map_err(|error| match error {
            ReadError::TooLarge => ApiError::TooLarge,
            ReadError::Broken => ApiError::Invalid("the body could not be read".to_owned()),
        })?;
        // PostgreSQL can't keep it, and nobody means it.
        if has_nul(&body) {
            return Err(ApiError::Invalid("the body has a NUL character".to_owned()));
        }
        let read = serde_json::from_slice(&body);
        read.map(Self).map_err(|error| ApiError::Invalid(format!("the body is not what is wanted here: {error}")))
    }
}

/// Whether a text in this JSON has U+0000: JSON can only write it as an escape (RFC 8259 §7).
fn has_nul(json: &[u8]) -> bool {
    let mut bytes = json.iter();
    while let Some(byte) = bytes.next() {
        // The character after a backslash is never the beginning of another escape.
        if *byte == b'\\' && bytes.as_slice().starts_with(b"u0000") {
            return true;
        }
        if *byte == b'\\' {
            bytes.next();
        }
    }
    false
}
