//! A challenge that waits for its signatures, with the client key that it is bound to; for its
//! owner alone, below the folder of profiles.

use std::io::Write as _;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::cli::context::Context;
use crate::cli::failure::Failure;
use crate::cli::profile;
use crate::model::BreakGlassId;
use crate::wire::Time;

/// What `--resume` needs.
#[derive(Serialize, Deserialize)]
pub struct Pending {
    /// The challenge.
    pub challenge: String,
    /// The client key, PKCS#8 in PEM.
    pub key_pem: String,
    /// The opener's own signature.
    pub opener_signature: Option<String>,
    /// The configuration that it goes by, where one was at hand.
    #[serde(default)]
    pub config: Option<PathBuf>,
    /// The control host.
    pub server: String,
    /// The authorities that vouch for it, where they are not this machine's.
    #[serde(default)]
    pub ca_pem: Option<String>,
    /// The signatures that opened, once they did.
    #[serde(default)]
    pub signatures: Vec<String>,
    /// When it was closed from here, at one node at least: then it opens nothing any more.
    #[serde(default)]
    pub closed_at: Option<Time>,
}

fn path_of(context: &Context, id: BreakGlassId) -> Result<PathBuf, Failure> {
    Ok(profile::home(&context.environment)?.join("breakglass").join(format!("{id}.json")))
}

impl Pending {
    /// Keeps it.
    ///
    /// # Errors
    /// When it can't be written.
    pub fn save(&self, context: &Context, id: BreakGlassId) -> Result<(), Failure> {
        let path = path_of(context, id)?;
        self.write(&path)
    }

    /// Keeps what has changed, in one step.
    ///
    /// # Errors
    /// When it can't be written.
    pub fn update(&self, context: &Context, id: BreakGlassId) -> Result<(), Failure> {
        let path = path_of(context, id)?;
        let fresh = path.with_extension("new");
        let fails = |error: std::io::Error| Failure::failed(format!("writing `{}`: {error}", path.display()));
        match std::fs::remove_file(&fresh) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(fails(error)),
            _ => {}
        }
        self.write(&fresh)?;
        std::fs::rename(&fresh, &path).map_err(fails)
    }

    fn write(&self, path: &Path) -> Result<(), Failure> {
        let fails = |error: std::io::Error| Failure::failed(format!("writing `{}`: {error}", path.display()));
        if let Some(folder) = path.parent() {
            std::fs::DirBuilder::new().recursive(true).mode(0o700).create(folder).map_err(fails)?;
        }
        let text = serde_json::to_string(self).map_err(|error| fails(error.into()))?;
        let mut file =
            std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path).map_err(fails)?;
        file.write_all(text.as_bytes()).map_err(fails)
    }

    /// What was kept.
    ///
    /// # Errors
    /// When there is none of this id on this machine.
    pub fn load(context: &Context, id: BreakGlassId) -> Result<Self, Failure> {
        let path = path_of(context, id)?;
        let text = std::fs::read_to_string(&path).map_err(|_| {
            Failure::usage(format!(
                "`{id}` was not begun on this machine: its client key would be `{}`",
                path.display()
            ))
        })?;
        serde_json::from_str(&text)
            .map_err(|error| Failure::failed(format!("`{}` is damaged: {error}", path.display())))
    }
}
