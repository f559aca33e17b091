//! How a 401 tells a client where tokens come from (RFC 6750 §3, RFC 9728 §5.1).

/// Where a host says what it is to clients that come with tokens (RFC 9728 §3).
pub const METADATA_PATH: &str = "/.well-known/oauth-protected-resource";

/// Where that is for the host of `origin`, which has no slash at its end.
#[must_use]
pub fn metadata_url(origin: &str) -> String {
    format!("{origin}{METADATA_PATH}")
}

/// The value of `WWW-Authenticate` at the control host; `is_refused` where a credential was shown, which did not hold.
#[must_use]
pub fn bearer(origin: &str, is_refused: bool) -> String {
    let error = if is_refused { ", error=\"invalid_token\"" } else { "" };
    format!("Bearer realm=\"doorward\", resource_metadata=\"{}\"{error}", metadata_url(origin))
}
