//! A sign-in at a provider, from the first redirect to a verified person, and the later question
//! whether that person is still welcome. The OAuth part is openidconnect's; its tokens are read by
//! `identity/token.rs`, like all tokens.

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use http::StatusCode;
use openidconnect::core::{
    CoreAuthDisplay, CoreAuthPrompt, CoreClientAuthMethod, CoreErrorResponseType, CoreGenderClaim, CoreJsonWebKey,
    CoreJweContentEncryptionAlgorithm, CoreJwsSigningAlgorithm, CoreResponseType, CoreRevocableToken,
    CoreRevocationErrorResponse, CoreTokenIntrospectionResponse, CoreTokenType,
};
use openidconnect::{
    AccessToken, AsyncHttpClient, AuthType, AuthenticationFlow, AuthorizationCode, Client, ClientId, ClientSecret,
    CsrfToken, EmptyAdditionalClaims, EndpointNotSet, EndpointSet, HttpRequest, HttpResponse, IdToken, IssuerUrl,
    JsonWebKeySet, LoginHint, Nonce, OAuth2TokenResponse, PkceCodeChallenge, PkceCodeVerifier, RedirectUrl,
    RefreshToken, RequestTokenError, Scope, StandardErrorResponse, TokenResponse,
};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use subtle::ConstantTimeEq;

use super::provider::{Provider, ProviderError};
use super::provider_claims::{self, Identity};
use super::provider_metadata::Metadata;
use super::token::{self, Expected, TokenError};
use crate::model::{Secret, Timestamp, Ttl};
use crate::outbound::{self, OutboundError};

/// The longest OAuth error code that is repeated to anybody, in characters.
const ERROR_CODE_CHARACTERS_MAX: usize = 64;

/// The `max_age` that no proof of before is good enough for.
pub const ANEW: Ttl = Ttl::seconds(0);
/// The least that a provider is asked for: several ask without end when `max_age` is 0. How old the proof may
/// really be is compared when its answer comes.
const MAX_AGE_MIN: Ttl = Ttl::seconds(60);

/// What binds a sign-in to its answer: each 43 characters of base64url.
#[derive(Debug)]
pub struct FlowSecrets {
    /// `state`: which sign-in the answer is for.
    pub state: Secret<String>,
    /// `nonce`: which sign-in the ID token is for.
    pub nonce: Secret<String>,
    /// PKCE's `code_verifier` (RFC 7636): whose the code is.
    pub verifier: Secret<String>,
}

/// What a provider says of somebody who is signed in.
#[derive(Debug)]
pub enum Rechecked {
    /// Still welcome.
    Valid {
        /// Their groups now; none where the provider said nothing of groups at all.
        groups: Option<Vec<String>>,
        /// The refresh token that replaces the one that was used.
        refresh_token: Option<Secret<String>>,
    },
    /// No longer welcome, with the OAuth error code.
    Refused { error: String },
    /// Nothing can be concluded.
    Unreachable {
        /// For operators.
        why: String,
        /// The refresh token that replaces the one that was used, if the answer came so far.
        refresh_token: Option<Secret<String>>,
    },
}

/// The ID token as it came, until it is verified.
#[derive(Clone, Serialize, Deserialize)]
#[serde(transparent)]
struct RawIdToken(String);

impl fmt::Debug for RawIdToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("RawIdToken(…)")
    }
}

/// The answer of a token endpoint (RFC 6749 §5.1). openidconnect's own type reads the ID token's
/// claims at once and fails whole where one of them is of an odd type.
#[derive(Debug, Serialize, Deserialize)]
struct TokenAnswer {
    access_token: AccessToken,
    token_type: CoreTokenType,
    #[serde(default)]
    refresh_token: Option<RefreshToken>,
    #[serde(default)]
    id_token: Option<RawIdToken>,
}

impl OAuth2TokenResponse for TokenAnswer {
    type TokenType = CoreTokenType;

    fn access_token(&self) -> &AccessToken {
        &self.access_token
    }
    fn token_type(&self) -> &CoreTokenType {
        &self.token_type
    }
    fn expires_in(&self) -> Option<Duration> {
        None
    }
    fn refresh_token(&self) -> Option<&RefreshToken> {
        self.refresh_token.as_ref()
    }
    fn scopes(&self) -> Option<&Vec<Scope>> {
        None
    }
}

impl TokenResponse<EmptyAdditionalClaims, CoreGenderClaim, CoreJweContentEncryptionAlgorithm, CoreJwsSigningAlgorithm>
    for TokenAnswer
{
    fn id_token(
        &self,
    ) -> Option<
        &IdToken<EmptyAdditionalClaims, CoreGenderClaim, CoreJweContentEncryptionAlgorithm, CoreJwsSigningAlgorithm>,
    > {
        None
    }
}

type OidcErrorResponse = StandardErrorResponse<CoreErrorResponseType>;
/// Our client at a provider, its endpoints for authorization and tokens set or not yet.
type OidcClient<Endpoint> = Client<
    EmptyAdditionalClaims,
    CoreAuthDisplay,
    CoreGenderClaim,
    CoreJweContentEncryptionAlgorithm,
    CoreJsonWebKey,
    CoreAuthPrompt,
    OidcErrorResponse,
    TokenAnswer,
    CoreTokenIntrospectionResponse,
    CoreRevocableToken,
    CoreRevocationErrorResponse,
    Endpoint,
    EndpointNotSet,
    EndpointNotSet,
    EndpointNotSet,
    Endpoint,
    EndpointNotSet,
>;

/// Our client as openidconnect asks through it.
struct Asking<'a>(&'a outbound::Client);

impl<'c> AsyncHttpClient<'c> for Asking<'_> {
    type Error = OutboundError;
    type Future = Pin<Box<dyn Future<Output = Result<HttpResponse, OutboundError>> + Send + 'c>>;

    fn call(&'c self, request: HttpRequest) -> Self::Future {
        Box::pin(self.0.send(request))
    }
}

impl Provider {
    fn oidc(&self, metadata: &Metadata) -> Result<OidcClient<EndpointSet>, ProviderError> {
        let metadata_error =
            |why: &str| ProviderError::Metadata { provider: Arc::clone(&self.name), why: why.to_owned() };
        let issuer = IssuerUrl::new(self.issuer().to_owned()).map_err(|_| metadata_error("its issuer is not a URL"))?;
        let redirect = RedirectUrl::new(self.redirect_uri.clone())
            .map_err(|_| metadata_error("our own address, `server.control_host`, makes no URL"))?;
        let token_endpoint =
            metadata.token_endpoint().cloned().ok_or_else(|| metadata_error("it names no `token_endpoint`"))?;
        let mut client = OidcClient::<EndpointNotSet>::new(
            ClientId::new(self.client_id().to_owned()),
            issuer,
            JsonWebKeySet::default(),
        )
        .set_auth_uri(metadata.authorization_endpoint().clone())
        .set_token_uri(token_endpoint)
        .set_redirect_uri(redirect);
        if let Some(secret) = &self.settings.client_secret {
            client = client.set_client_secret(ClientSecret::new(secret.expose().clone()));
        }
        // OIDC Discovery §3: without a list it is client_secret_basic.
        let basic = metadata
            .token_endpoint_auth_methods_supported()
            .is_none_or(|methods| methods.contains(&CoreClientAuthMethod::ClientSecretBasic));
        Ok(client.set_auth_type(if basic { AuthType::BasicAuth } else { AuthType::RequestBody }))
    }

    /// Where to send a browser so that its person signs in here. One who proved themselves longer than
    /// `max_age` ago is to do so again, and with it the provider must tell when that was (OIDC Core §3.1.2.1).
    ///
    /// # Errors
    /// When the provider can't be asked for its description, or it is of no use.
    pub async fn authorize_url(
        &self,
        flow: &FlowSecrets,
        login_hint: Option<&str>,
        max_age: Ttl,
        now: Timestamp,
    ) -> Result<String, ProviderError> {
        let metadata = self.metadata(now).await?;
        let client = self.oidc(&metadata)?;
        let verifier = PkceCodeVerifier::new(flow.verifier.expose().clone());
        let state = CsrfToken::new(flow.state.expose().clone());
        let nonce = Nonce::new(flow.nonce.expose().clone());
        let mut request = client
            .authorize_url(
                AuthenticationFlow::<CoreResponseType>::AuthorizationCode,
                move || state.clone(),
                move || nonce.clone(),
            )
            .set_pkce_challenge(PkceCodeChallenge::from_code_verifier_sha256(&verifier))
            .set_max_age(max_age.max(MAX_AGE_MIN).duration());
        if max_age == ANEW {
            request = request.add_prompt(CoreAuthPrompt::Login);
        }
        for scope in self.settings.scopes.iter().filter(|scope| *scope != "openid") {
            request = request.add_scope(Scope::new(scope.clone()));
        }
        if let Some(hint) = login_hint {
            request = request.set_login_hint(LoginHint::new(hint.to_owned()));
        }
        let (url, _, _) = request.url();
        Ok(url.into())
    }

    /// Sees that an answer came from this provider and no other (RFC 9207 §2.4).
    ///
    /// # Errors
    /// When it names another issuer, or none although this provider always names itself.
    pub async fn is_answer_of(&self, iss: Option<&str>, now: Timestamp) -> Result<(), ProviderError> {
        let mix_up = || ProviderError::MixUp { provider: Arc::clone(&self.name) };
        match iss {
            Some(iss) if iss == self.issuer() => Ok(()),
            Some(_) => Err(mix_up()),
            None => {
                let metadata = self.metadata(now).await?;
                let announced = metadata.additional_metadata().authorization_response_iss_parameter_supported;
                if announced { Err(mix_up()) } else { Ok(()) }
            }
        }
    }

    /// Turns the code of an answer into a person. The caller has matched `state` to the browser.
    ///
    /// # Errors
    /// When the provider can't be asked or refuses the code, or its ID token does not hold.
    pub async fn exchange(
        &self,
        code: &str,
        verifier: &Secret<String>,
        nonce: &Secret<String>,
        now: Timestamp,
    ) -> Result<Identity, ProviderError> {
        let metadata = self.metadata(now).await?;
        let client = self.oidc(&metadata)?;
        let http = Asking(&self.client);
        let answer = client
            .exchange_code(AuthorizationCode::new(code.to_owned()))
            .set_pkce_verifier(PkceCodeVerifier::new(verifier.expose().clone()))
            .request_async(&http)
            .await
            .map_err(|error| self.token_endpoint_error(error))?;
        let raw = answer.id_token.as_ref().ok_or_else(|| self.token_error(TokenError::Malformed))?;
        let mut claims = self.id_token_claims(&raw.0, now).await?;
        let told = claims.get("nonce").and_then(Value::as_str).unwrap_or_default();
        if !bool::from(told.as_bytes().ct_eq(nonce.expose().as_bytes())) {
            return Err(self.token_error(TokenError::Claim("nonce")));
        }
        self.complete_claims(&mut claims, &metadata, &answer.access_token).await?;
        let mut identity = self.identity(&claims, now)?;
        identity.refresh_token = answer.refresh_token.map(|token| Secret::new(token.secret().clone()));
        Ok(identity)
    }

    /// Asks whether `subject` is still welcome, and for their groups of now.
    pub async fn recheck(&self, refresh_token: &Secret<String>, subject: &str, now: Timestamp) -> Rechecked {
        let unreachable = |error: ProviderError| Rechecked::Unreachable { why: error.to_string(), refresh_token: None };
        let metadata = match self.metadata(now).await {
            Ok(metadata) => metadata,
            Err(error) => return unreachable(error),
        };
        let client = match self.oidc(&metadata) {
            Ok(client) => client,
            Err(error) => return unreachable(error),
        };
        let token = RefreshToken::new(refresh_token.expose().clone());
        let http = Asking(&self.client);
        let answer = match client.exchange_refresh_token(&token).request_async(&http).await {
            Ok(answer) => answer,
            Err(error) => {
                return match self.token_endpoint_error(error) {
                    ProviderError::Refused { error, .. } if is_about_the_person(&error) => Rechecked::Refused { error },
                    error => unreachable(error),
                };
            }
        };
        let rotated = answer.refresh_token.as_ref().map(|token| Secret::new(token.secret().clone()));
        match self.groups_of_now(&answer, &metadata, subject, now).await {
            Ok(groups) => Rechecked::Valid { groups, refresh_token: rotated },
            Err(ProviderError::Token { source: TokenError::Claim("sub"), .. }) => {
                Rechecked::Refused { error: "another_subject".to_owned() }
            }
            Err(error) => Rechecked::Unreachable { why: error.to_string(), refresh_token: rotated },
        }
    }

    /// The groups that a refreshed answer tells; none when it tells nothing of the person.
    async fn groups_of_now(
        &self,
        answer: &TokenAnswer,
        metadata: &Metadata,
        subject: &str,
        now: Timestamp,
    ) -> Result<Option<Vec<String>>, ProviderError> {
        let mut claims = match &answer.id_token {
            Some(raw) => self.id_token_claims(&raw.0, now).await?,
            None if metadata.userinfo_endpoint().is_some() => {
                Map::from_iter([("sub".to_owned(), Value::String(subject.to_owned()))])
            }
            None => return Ok(None),
        };
        self.complete_claims(&mut claims, metadata, &answer.access_token).await?;
        let identity = self.identity(&claims, now)?;
        // OIDC Core §12.2: the answer is about the same person, or it is worth nothing.
        if identity.subject == subject {
            Ok(Some(identity.groups))
        } else {
            Err(self.token_error(TokenError::Claim("sub")))
        }
    }

    /// The claims of an ID token that holds (OIDC Core §3.1.3.7), its nonce aside.
    async fn id_token_claims(&self, raw: &str, now: Timestamp) -> Result<Map<String, Value>, ProviderError> {
        let expected = Expected { issuer: self.issuer(), audiences: &[self.client_id()], types: &["jwt", ""] };
        let verified = self.verified(raw, now, |keys| token::verify(raw, keys, &expected, now)).await?;
        let claim = |name: &'static str| self.token_error(TokenError::Claim(name));
        if verified.issued_at.is_none() {
            return Err(claim("iat"));
        }
        if verified.claims.get("azp").is_some_and(|azp| azp.as_str() != Some(self.client_id())) {
            return Err(claim("azp"));
        }
        if verified.claims.contains_key("events") {
            return Err(claim("events"));
        }
        Ok(verified.claims)
    }

    fn identity(&self, claims: &Map<String, Value>, now: Timestamp) -> Result<Identity, ProviderError> {
        provider_claims::identity(&self.name, claims, &self.settings.groups_claim, &self.groups, now)
            .ok_or_else(|| self.token_error(TokenError::Claim("sub")))
    }

    /// Adds what the ID token leaves out and the userinfo endpoint tells (OIDC Core §5.3). Where it
    /// can't be asked there is no answer at all: groups that are not known must not pass for none.
    async fn complete_claims(
        &self,
        claims: &mut Map<String, Value>,
        metadata: &Metadata,
        access_token: &AccessToken,
    ) -> Result<(), ProviderError> {
        let groups_claim = self.settings.groups_claim.as_str();
        let Some(endpoint) = metadata.userinfo_endpoint() else { return Ok(()) };
        if claims.contains_key(groups_claim) && claims.contains_key("email") {
            return Ok(());
        }
        let answer = self
            .client
            .get(endpoint.as_str(), Some(access_token.secret()))
            .await
            .map_err(|error| self.unreachable(error))?;
        if answer.status() != StatusCode::OK {
            return Err(self.unreachable(format!("its userinfo endpoint answered {}", answer.status())));
        }
        let told: Map<String, Value> = serde_json::from_slice(answer.body())
            .map_err(|_| self.unreachable("its userinfo endpoint answered with no JSON object"))?;
        // OIDC Core §5.3.2: without this an access token of another person could be slipped in.
        if told.get("sub") != claims.get("sub") {
            return Err(self.token_error(TokenError::Claim("sub")));
        }
        let mut take = |names: &[&str]| {
            // E-mail and its verification are one statement and come from one place.
            if names.first().is_some_and(|first| claims.contains_key(*first)) {
                return;
            }
            for name in names {
                match told.get(*name) {
                    Some(value) => claims.insert((*name).to_owned(), value.clone()),
                    None => claims.remove(*name),
                };
            }
        };
        take(&[groups_claim]);
        take(&["email", "email_verified"]);
        take(&["name", "preferred_username"]);
        Ok(())
    }

    fn token_endpoint_error(&self, error: RequestTokenError<OutboundError, OidcErrorResponse>) -> ProviderError {
        match error {
            RequestTokenError::ServerResponse(response) => {
                let code: &str = response.error().as_ref();
                let plain = |c: &char| c.is_ascii_graphic();
                let error = code.chars().filter(plain).take(ERROR_CODE_CHARACTERS_MAX).collect();
                ProviderError::Refused { provider: Arc::clone(&self.name), error }
            }
            RequestTokenError::Request(error) => self.unreachable(error),
            // The body may hold tokens: only where it failed is told.
            RequestTokenError::Parse(error, _) => {
                self.unreachable(format!("its token endpoint's answer can't be read at `{}`", error.path()))
            }
            RequestTokenError::Other(_) => self.unreachable("its token endpoint's answer is none"),
        }
    }
}

/// Whether an OAuth error is about the person, and not about us or the provider's day. Only the
/// former ends a session: a client secret that ran out must not sign everybody out.
fn is_about_the_person(error: &str) -> bool {
    matches!(
        error,
        "invalid_grant"
            | "access_denied"
            | "login_required"
            | "interaction_required"
            | "consent_required"
            | "account_selection_required"
    )
}
