//! What a challenge must say: from a configuration, or from a node that answers without a sign-in.

use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use rcgen::{KeyPair, PublicKeyData};
use sha2::{Digest, Sha256};

use crate::cli::client::Client;
use crate::cli::context::Context;
use crate::cli::failure::Failure;
use crate::cli::origin::Origin;
use crate::model::breakglass::{Challenge, Scope};
use crate::model::{BreakGlassId, Timestamp, Ttl};
use crate::wire::BreakGlassTerms;

use super::installation;

/// The terms of an installation.
pub struct Terms {
    /// Its domain.
    pub trust_domain: String,
    /// SHA-256 of its custodians' file.
    pub custodians: [u8; 32],
    /// What a challenge says of how many must sign.
    pub threshold: u32,
    /// How many must sign now, as far as it is known.
    pub needed: u32,
    /// How long an opening may last.
    pub duration_max: Ttl,
    /// The control host.
    pub server: String,
    /// The configuration that says so, if it was one.
    pub config: Option<PathBuf>,
    /// How many milliseconds this machine's clock is behind the node's, where one was asked; fewer than none
    /// where it is ahead.
    pub behind_ms: Option<i64>,
}

impl Terms {
    /// Those of a configuration; nothing is asked.
    ///
    /// # Errors
    /// When it can't be read or has no emergency path.
    pub fn of_config(path: &Path) -> Result<Self, Failure> {
        let (config, breakglass) = installation(path)?;
        let rules = breakglass.rules;
        Ok(Self {
            trust_domain: rules.trust_domain.clone(),
            custodians: *rules.custodians.sha256(),
            threshold: rules.threshold,
            needed: rules.threshold,
            duration_max: rules.duration_max,
            server: config.server.origin(&config.server.control_host, config.server.listen),
            config: Some(config.path),
            behind_ms: None,
        })
    }

    /// Those that a node tells.
    ///
    /// # Errors
    /// When no server is known, it can't be reached, or it has no emergency path.
    pub async fn of_server(context: &Context) -> Result<Self, Failure> {
        let (client, _) = anonymous(context)?;
        let json = client.get("/api/v1/breakglass/terms").await.map_err(|error| {
            let mut failure = Failure::from(error);
            let told = failure.problem.detail.unwrap_or_default();
            failure.problem.detail =
                Some(format!("{told}; with the configuration at hand, `--config FILE` asks no server"));
            failure
        })?;
        let told: BreakGlassTerms = client.read(&json)?;
        let wrong = || Failure::failed("the server's terms have no SHA-256 of the custodians");
        let custodians = data_encoding::HEXLOWER.decode(told.custodians_sha256.as_bytes()).map_err(|_| wrong())?;
        let seconds = u32::try_from(told.max_duration_seconds).unwrap_or(u32::MAX);
        Ok(Self {
            trust_domain: told.trust_domain,
            custodians: custodians.try_into().map_err(|_| wrong())?,
            threshold: told.threshold,
            needed: told.needed,
            duration_max: Ttl::seconds(seconds),
            server: client.origin().to_string(),
            config: None,
            behind_ms: Some(told.time.0.millis().saturating_sub(context.clock.now().millis())),
        })
    }

    /// Those of `config` if one is named, else those that a node tells.
    ///
    /// # Errors
    /// As the two.
    pub async fn find(context: &Context, config: Option<&Path>) -> Result<Self, Failure> {
        match config {
            Some(path) => Self::of_config(path),
            None => Self::of_server(context).await,
        }
    }

    /// A challenge under these terms.
    ///
    /// # Errors
    /// When opener or reason can't stand in one.
    pub fn challenge(
        &self,
        context: &Context,
        key: &KeyPair,
        asked: Asked,
        now: Timestamp,
    ) -> Result<Challenge, Failure> {
        let Asked { opener, scope, reason, length } = asked;
        let named = |variable| context.environment.text(variable).filter(|name| !name.is_empty()).map(str::to_owned);
        let opener = opener.or_else(|| named("USER")).or_else(|| named("LOGNAME"));
        // A service or a container may have a user without a name.
        let by_number = || std::fs::metadata("/proc/self").ok().map(|own| format!("uid-{}", own.uid()));
        let opener = opener.or_else(by_number);
        let opener = opener.ok_or_else(|| Failure::usage("say who it is: `--opener NAME`"))?;
        let challenge = Challenge {
            id: BreakGlassId::fresh(now, &*context.entropy),
            opener,
            scope,
            reason: reason.trim().to_owned(),
            not_before: now,
            expires: now.plus(length),
            trust_domain: self.trust_domain.clone(),
            custodians: self.custodians,
            threshold: self.threshold,
            client_key: fingerprint(key),
            nonce: context.entropy.bytes_32(),
        };
        if !challenge.is_plain() {
            return Err(Failure::usage(
                "opener and reason are one line of plain text each, of 100 and 1,000 characters at most",
            ));
        }
        Ok(challenge)
    }
}

/// What is wanted.
pub struct Asked {
    /// Who asks; the user of this machine if that is not said.
    pub opener: Option<String>,
    /// What for.
    pub scope: Scope,
    /// Why.
    pub reason: String,
    /// How long.
    pub length: Ttl,
}

/// SHA-256 of a key's SubjectPublicKeyInfo.
pub fn fingerprint(key: &KeyPair) -> [u8; 32] {
    Sha256::digest(key.subject_public_key_info()).into()
}

/// A client that shows nothing, of the server that is named or that somebody was signed in to, and the
/// authorities that vouch for it.
///
/// # Errors
/// When no server is known.
pub fn anonymous(context: &Context) -> Result<(Client, Option<String>), Failure> {
    let saved = context.profile()?.load()?;
    let named = context.named_server()?;
    let server = match (named, &saved) {
        (Some(named), _) => named,
        (None, Some(session)) => {
            Origin::parse(&session.record.server).map_err(|error| Failure::failed(error.to_string()))?
        }
        (None, None) => {
            return Err(Failure::usage(
                "give `--config FILE`, which needs no server, or say which server: `--server https://…`",
            ));
        }
    };
    let ca_pem = context.named_ca()?.or_else(|| saved.and_then(|session| session.ca_pem));
    Ok((Client::new(server, ca_pem.as_deref(), None)?, ca_pem))
}
