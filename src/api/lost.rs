//! Where there is nothing at the control host, as a person's browser shows it: the words of the refusal, on a page
//! like those of the console.

use askama::Template;
use axum::http::header::{ACCEPT, CONTENT_SECURITY_POLICY, CONTENT_TYPE, REFERRER_POLICY, X_FRAME_OPTIONS};
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};

use crate::model::DecisionId;

/// What is for programs, whoever asks.
const FOR_PROGRAMS: [&str; 3] = ["api", "oauth2", ".well-known"];
const POLICY: &str =
    "default-src 'none'; style-src 'self'; img-src data:; form-action 'self'; frame-ancestors 'none'; base-uri 'none'";

#[derive(Template)]
#[template(
    ext = "html",
    source = r#"<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="robots" content="noindex">
<link rel="icon" href="data:,">
<link rel="stylesheet" href="/console.css">
<title>There is nothing here · Doorward</title>
</head>
<body>
<header><nav aria-label="Doorward"><a href="/">Doorward</a> <a href="/requests">Requests</a></nav></header>
<main>
<h1>There is nothing here</h1>
<p>The address may be mistyped, or what was there is gone.</p>
<p><a class="button" href="/">The front page</a></p>
<dl>
<dt>Reason</dt><dd><code>{{ reason }}</code></dd>
<dt>Decision</dt><dd><code>{{ decision }}</code></dd>
</dl>
</main>
</body>
</html>
"#
)]
struct LostPage<'a> {
    reason: &'a str,
    decision: &'a str,
}

/// Whether a person's browser asks, which says that it reads pages, and not for what is for programs.
pub(super) fn is_a_person(path: &str, headers: &HeaderMap) -> bool {
    let first = path.trim_start_matches('/').split('/').next().unwrap_or_default();
    let html = |value: &HeaderValue| value.as_bytes().windows(9).any(|part| part.eq_ignore_ascii_case(b"text/html"));
    !FOR_PROGRAMS.contains(&first) && headers.get_all(ACCEPT).iter().any(html)
}

/// The page.
pub(super) fn page(reason: &str, decision: DecisionId) -> Response {
    let page = LostPage { reason, decision: &decision.to_string() }.render();
    let body = page.inspect_err(|error| tracing::error!(%error, "a page could not be written")).unwrap_or_default();
    let headers = [
        (CONTENT_TYPE, "text/html; charset=utf-8"),
        (CONTENT_SECURITY_POLICY, POLICY),
        (X_FRAME_OPTIONS, "DENY"),
        (REFERRER_POLICY, "same-origin"),
    ];
    (StatusCode::NOT_FOUND, headers.map(|(name, value)| (name, HeaderValue::from_static(value))), body).into_response()
}
