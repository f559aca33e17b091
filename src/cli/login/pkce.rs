//! One authorization code flow under way: `state`, PKCE verifier (RFC 7636 §4) and where the
//! answer is to arrive.

use data_encoding::BASE64URL_NOPAD;
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use crate::cli::exit::Exit;
use crate::cli::failure::Failure;
use crate::cli::origin::Origin;
use crate::model::Entropy;
use crate::wire::oauth::{CLI_CLIENT_ID, program_letters};

/// Which of a person's proofs to their provider a sign-in may rest on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Proof {
    /// One that their browser has from before will do.
    Any,
    /// They prove themselves again: whoever signs in over a session that lives wants one of now, since a
    /// policy asks for it.
    New,
}

/// What this side remembers between asking and the answer.
pub struct Flow {
    redirect_uri: String,
    state: String,
    verifier: String,
}

impl Flow {
    /// A new flow whose answer comes to `redirect_uri`.
    #[must_use]
    pub fn start(entropy: &dyn Entropy, redirect_uri: String) -> Self {
        let text = || BASE64URL_NOPAD.encode(&entropy.bytes_32());
        Self { redirect_uri, state: text(), verifier: text() }
    }

    /// Where the answer comes.
    #[must_use]
    pub fn redirect_uri(&self) -> &str {
        &self.redirect_uri
    }

    /// The secret behind the challenge, for the exchange.
    #[must_use]
    pub fn verifier(&self) -> &str {
        &self.verifier
    }

    fn challenge(&self) -> String {
        BASE64URL_NOPAD.encode(&Sha256::digest(self.verifier.as_bytes()))
    }

    /// The letters that the page shows which asks whether this program is the person's own.
    #[must_use]
    pub fn letters(&self) -> String {
        program_letters(&self.challenge())
    }

    /// Path and query that start the flow.
    #[must_use]
    pub fn authorize_path(&self, login_hint: Option<&str>, provider: Option<&str>, proof: Proof) -> String {
        let challenge = self.challenge();
        let mut query = form_urlencoded::Serializer::new(String::new());
        query
            .append_pair("response_type", "code")
            .append_pair("client_id", CLI_CLIENT_ID)
            .append_pair("redirect_uri", &self.redirect_uri)
            .append_pair("code_challenge", &challenge)
            .append_pair("code_challenge_method", "S256")
            .append_pair("state", &self.state);
        let prompt = match proof {
            Proof::Any => None,
            Proof::New => Some("login"),
        };
        for (key, value) in [("login_hint", login_hint), ("provider", provider), ("prompt", prompt)] {
            if let Some(value) = value {
                query.append_pair(key, value);
            }
        }
        format!("/oauth2/authorize?{}", query.finish())
    }

    /// Whether an answer's query is one to this flow.
    #[must_use]
    pub fn is_answer(&self, query: &str) -> bool {
        value(query, "state").is_some_and(|state| state.as_bytes().ct_eq(self.state.as_bytes()).into())
    }

    /// The code in an answer's query.
    ///
    /// # Errors
    /// When it answers another flow or comes from another server, or says no.
    pub fn code(&self, issuer: &Origin, query: &str) -> Result<String, Failure> {
        if !self.is_answer(query) {
            return Err(Failure::failed("an answer came that belongs to another sign-in; start again"));
        }
        // RFC 9207 §2.4: an answer without or with another issuer may be a mix-up.
        if value(query, "iss").as_deref() != Some(issuer.to_string().as_str()) {
            return Err(Failure::failed(format!("an answer came that is not from {issuer}; start again")));
        }
        if let Some(error) = value(query, "error") {
            let exit = if error == "access_denied" { Exit::Denied } else { Exit::Failed };
            let detail = value(query, "error_description").unwrap_or_else(|| "the server said no".to_owned());
            return Err(Failure::new(exit, &error, detail));
        }
        value(query, "code").ok_or_else(|| Failure::failed("an answer came without a code; start again"))
    }
}

fn value(query: &str, name: &str) -> Option<String> {
    let mut values = form_urlencoded::parse(query.as_bytes()).filter(|(key, _)| key == name);
    let first = values.next()?.1.into_owned();
    // Twice the same parameter could be read two ways (RFC 6749 §3.1).
    values.next().is_none().then_some(first)
}
