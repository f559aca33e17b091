//! What every command starts from: flags, environment and profile, met once. A flag goes before
//! the environment, and that before what the profile remembers.

use std::fs;
use std::sync::Arc;

use crate::model::{Clock, Entropy};

use super::args::GlobalArgs;
use super::client::Banner;
use super::environment::Environment;
use super::failure::Failure;
use super::origin::Origin;
use super::printer::Printer;
use super::profile::{self, Profile, ProfileError, SavedSession};

/// The profile that is used where none is named.
const DEFAULT_PROFILE: &str = "default";

/// A command's surroundings.
pub struct Context {
    /// Where data and talk go.
    pub printer: Printer,
    /// The environment.
    pub environment: Environment,
    /// Flags that every command takes.
    pub global: GlobalArgs,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// Chance.
    pub entropy: Arc<dyn Entropy>,
    /// What answers say of the emergency path, for the end of the command.
    pub banner: Banner,
}

impl From<ProfileError> for Failure {
    fn from(error: ProfileError) -> Self {
        let text = error.to_string();
        match error {
            ProfileError::Name(_) | ProfileError::Home => Self::usage(text),
            ProfileError::File { .. } | ProfileError::Damaged { .. } | ProfileError::Locked(_) => Self::failed(text),
        }
    }
}

impl Context {
    /// The profile that was asked for.
    ///
    /// # Errors
    /// When its name is none, or there is no home folder.
    pub fn profile(&self) -> Result<Profile, Failure> {
        let home = profile::home(&self.environment)?;
        Ok(Profile::at(&home, self.profile_name())?)
    }

    fn profile_name(&self) -> &str {
        let asked = self.global.profile.as_deref();
        asked.or_else(|| self.environment.text("DOORWARD_PROFILE")).unwrap_or(DEFAULT_PROFILE)
    }

    /// The server that a flag or the environment names.
    ///
    /// # Errors
    /// When it is not the address of one.
    pub fn named_server(&self) -> Result<Option<Origin>, Failure> {
        let asked = self.global.server.as_deref();
        let asked = asked.or_else(|| self.environment.text("DOORWARD_SERVER"));
        asked.map(|text| Origin::parse(text).map_err(|error| Failure::usage(error.to_string()))).transpose()
    }

    /// The authorities that a flag or the environment names, PEM.
    ///
    /// # Errors
    /// When the file can't be read.
    pub fn named_ca(&self) -> Result<Option<String>, Failure> {
        let asked = self.global.ca.clone().or_else(|| self.environment.path("DOORWARD_CA"));
        asked
            .map(|path| {
                let fails = |what: &dyn std::fmt::Display| {
                    Failure::usage(format!("reading the authorities in `{}`: {what}", path.display()))
                };
                let pem = fs::read_to_string(&path).map_err(|error| fails(&error))?;
                if !pem.contains("-----BEGIN CERTIFICATE-----") {
                    return Err(fails(&"there is no certificate in it; the file of `dev` and `init` is `keys/ca.crt`"));
                }
                Ok(pem)
            })
            .transpose()
    }

    /// The command that signs in under this profile.
    #[must_use]
    pub fn sign_in_command(&self, server: Option<&str>) -> String {
        let mut command = "doorward login".to_owned();
        if let Some(server) = server {
            command.push_str(&format!(" --server {server}"));
        }
        if self.profile_name() != DEFAULT_PROFILE {
            command.push_str(&format!(" --profile {}", self.profile_name()));
        }
        command
    }

    /// Exit 3: nobody is signed in.
    #[must_use]
    pub fn nobody_signed_in(&self) -> Failure {
        let server = self.named_server().ok().flatten().map_or_else(|| "https://…".to_owned(), |s| s.to_string());
        let command = self.sign_in_command(Some(&server));
        let detail = format!("nobody is signed in under the profile `{}`", self.profile_name());
        Failure::signed_out("no_credential", detail, &command)
    }

    /// The server of a saved session, which must be the one that was named, if one was.
    ///
    /// # Errors
    /// Exit 3 when the session is one with another server.
    pub fn server_of(&self, session: &SavedSession) -> Result<Origin, Failure> {
        let saved = Origin::parse(&session.record.server)
            .map_err(|error| Failure::failed(format!("the profile `{}`: {error}", self.profile_name())))?;
        match self.named_server()? {
            Some(named) if named != saved => Err(Failure::signed_out(
                "no_credential",
                format!("the profile `{}` is signed in to {saved}, not to {named}", self.profile_name()),
                &self.sign_in_command(Some(&named.to_string())),
            )),
            _ => Ok(saved),
        }
    }
}
