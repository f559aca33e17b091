//! OAuth 2.0 answers on paper (RFC 6749 §5, RFC 7662, RFC 8414, RFC 8628).

use std::fmt;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::{Session, Time};

/// Our command line's `client_id`: a public client.
pub const CLI_CLIENT_ID: &str = "doorward-cli";
/// `grant_type` of the device flow (RFC 8628 §3.4).
pub const GRANT_DEVICE_CODE: &str = "urn:ietf:params:oauth:grant-type:device_code";
/// `grant_type` of token exchange (RFC 8693 §2.1).
pub const GRANT_TOKEN_EXCHANGE: &str = "urn:ietf:params:oauth:grant-type:token-exchange";

/// Where a person says whether the program that asks for a session is theirs.
pub const PROGRAM_PATH: &str = "/signin/program";

/// Letters that a program shows beside the page that asks whether it is the person's own: they follow
/// from its PKCE challenge, so another program that asks at the same time shows others. No vowels and
/// no digits, as RFC 8628 §6.1 has it for what people compare.
#[must_use]
pub fn program_letters(code_challenge: &str) -> String {
    const LETTERS: &[u8; 20] = b"BCDFGHJKLMNPQRSTVWXZ";
    let mut hash = Sha256::new();
    hash.update(b"doorward program 1\0");
    hash.update(code_challenge.as_bytes());
    let letter = |byte: &u8| LETTERS.get(usize::from(*byte) % LETTERS.len()).copied().map_or('B', char::from);
    let letters: String = hash.finalize().iter().take(8).map(letter).collect();
    let (first, second) = letters.split_at(4);
    format!("{first}-{second}")
}

/// The answer of `/oauth2/token`. It holds secrets: it is never logged.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokenAnswer {
    /// An RFC 9068 token for the control API.
    pub access_token: String,
    /// `Bearer`
    pub token_type: String,
    /// Seconds that the access token lasts.
    pub expires_in: i64,
    /// Good once; the answer to its use has the next.
    pub refresh_token: String,
    /// Seconds that the refresh token lasts.
    pub refresh_token_expires_in: i64,
    /// The session that was started or renewed.
    pub session: Session,
    /// The session's client certificate in PEM, where a signing request was sent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub certificate: Option<String>,
    /// When the certificate ends.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub certificate_expires_at: Option<Time>,
    /// Our authority's certificate in PEM.
    pub ca: String,
    /// The root key of the record, where there is one.
    #[serde(default)]
    pub audit_key: Option<String>,
}

impl fmt::Debug for TokenAnswer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TokenAnswer(session {}, …)", self.session.id)
    }
}

/// The answer of a token exchange (RFC 8693 §2.2.1). It holds secrets: it is never logged.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExchangeAnswer {
    /// An RFC 9068 token for one service.
    pub access_token: String,
    /// `urn:ietf:params:oauth:token-type:access_token`
    pub issued_token_type: String,
    /// `Bearer`, or `DPoP` where it is bound to a key.
    pub token_type: String,
    /// Seconds that it lasts.
    pub expires_in: i64,
    /// When it ends.
    pub expires_at: Time,
    /// The service; of a job's token for the control API, our address.
    pub aud: String,
    /// Actions that it is narrowed to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scope: Option<String>,
    /// The grant that it ends with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub grant: Option<String>,
    /// What it is bound to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cnf: Option<serde_json::Value>,
    /// The session behind it.
    pub session: Session,
    /// A workload's client certificate in PEM, where a signing request was sent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub certificate: Option<String>,
    /// When the certificate ends.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub certificate_expires_at: Option<Time>,
    /// Our authority's certificate in PEM.
    pub ca: String,
}

impl fmt::Debug for ExchangeAnswer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ExchangeAnswer(for {}, session {}, …)", self.aud, self.session.id)
    }
}

/// The answer of `/oauth2/device_authorization` (RFC 8628 §3.2).
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceAuthorization {
    /// What the device polls with.
    pub device_code: String,
    /// What its owner types, `WDJB-MJHT`.
    pub user_code: String,
    /// Where to type it.
    pub verification_uri: String,
    /// The same with the code in it.
    pub verification_uri_complete: String,
    /// Seconds that both codes last.
    pub expires_in: i64,
    /// Seconds between two polls at least.
    pub interval: i64,
}

impl fmt::Debug for DeviceAuthorization {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "DeviceAuthorization({}, …)", self.verification_uri)
    }
}

/// An error of an OAuth endpoint (RFC 6749 §5.2).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OauthError {
    /// `invalid_grant`, `authorization_pending`, …
    pub error: String,
    /// What to do, for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error_description: Option<String>,
    /// `dec_…`, where the refusal was recorded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub decision: Option<String>,
}

impl OauthError {
    /// An error whose description has only what it may have (RFC 6749 §5.2), whatever was quoted in it:
    /// visible ASCII and blanks, without `"` and `\`.
    #[must_use]
    pub fn new(error: &str, description: &str, decision: Option<String>) -> Self {
        let plain = |c: char| match c {
            '"' => '\'',
            '\\' => '/',
            ' '..='~' => c,
            _ => '?',
        };
        let description = description.chars().map(plain).collect();
        Self { error: error.to_owned(), error_description: Some(description), decision }
    }
}

impl fmt::Display for OauthError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.error_description {
            Some(description) => write!(f, "{}: {description}", self.error),
            None => f.write_str(&self.error),
        }
    }
}

/// The answer of `/oauth2/introspect` (RFC 7662 §2.2). Of a token that is not good there is only
/// `active: false`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Introspection {
    /// Whether the token is good at this moment.
    pub active: bool,
    /// Actions that it is narrowed to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scope: Option<String>,
    /// Who asked for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client_id: Option<String>,
    /// `Bearer`
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token_type: Option<String>,
    /// When it ends, seconds since 1970.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exp: Option<i64>,
    /// When it was made, seconds since 1970.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub iat: Option<i64>,
    /// The principal's Cedar id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sub: Option<String>,
    /// The one audience.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub aud: Option<String>,
    /// This server.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub iss: Option<String>,
    /// The token's own id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub jti: Option<String>,
    /// The session that it belongs to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sid: Option<String>,
    /// The grant that it ends with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub grant: Option<String>,
    /// The certificate that it is bound to (RFC 8705 §3.2).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cnf: Option<serde_json::Value>,
    /// Who acts by it for its subject (RFC 8693 §4.1), nested.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub act: Option<serde_json::Value>,
    /// Who may come to act by it (RFC 8693 §4.4).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub may_act: Option<serde_json::Value>,
}

/// What clients read first (RFC 8414 §2).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServerMetadata {
    /// Our origin, without a slash at its end.
    pub issuer: String,
    /// Where browsers are sent.
    pub authorization_endpoint: String,
    /// Where codes are exchanged.
    pub token_endpoint: String,
    /// Where our public keys are.
    pub jwks_uri: String,
    /// Where devices without a browser start; absent where that is not allowed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device_authorization_endpoint: Option<String>,
    /// RFC 7009.
    pub revocation_endpoint: String,
    /// RFC 7662.
    pub introspection_endpoint: String,
    /// `code`
    pub response_types_supported: Vec<String>,
    /// `query`
    pub response_modes_supported: Vec<String>,
    /// What `/oauth2/token` takes.
    pub grant_types_supported: Vec<String>,
    /// `none`: public clients.
    pub token_endpoint_auth_methods_supported: Vec<String>,
    /// `none`: it is open to nobody but the token's holder.
    pub revocation_endpoint_auth_methods_supported: Vec<String>,
    /// `S256`
    pub code_challenge_methods_supported: Vec<String>,
    /// RFC 9207.
    pub authorization_response_iss_parameter_supported: bool,
    /// RFC 8705 §3.3.
    pub tls_client_certificate_bound_access_tokens: bool,
    /// The algorithms of what `jwks_uri` publishes (OpenID Connect Discovery §3).
    pub id_token_signing_alg_values_supported: Vec<String>,
    /// `public` (OpenID Connect Discovery §3).
    pub subject_types_supported: Vec<String>,
    /// RFC 9449 §5.1.
    #[serde(default)]
    pub dpop_signing_alg_values_supported: Vec<String>,
    /// Whether a provider is the one of `doorward dev`, which signs in whoever asks; absent where none is. A
    /// parameter of ours, as RFC 8414 §2 lets there be.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub doorward_development: Option<bool>,
}
