//! A new installation: `config::write_installation` knows the files, `credential` makes what is in
//! them. `doorward init` and `doorward dev` both come through here.

use std::fmt;
use std::path::{Path, PathBuf};

use crate::config::{InitError, InitKeys, InitOptions, write_installation};
use crate::credential::authority::{Authority, AuthorityError};
use crate::model::{Entropy, Secret, Timestamp, Ttl};

/// How long the authority lasts: ten years.
const AUTHORITY_LIFETIME: Ttl = Ttl::hours(24 * 3650);
/// How long the door's first certificate lasts: browsers take no more than 398 days.
const SERVER_LIFETIME: Ttl = Ttl::hours(24 * 397);

/// Why there is no new installation.
#[derive(Debug)]
pub enum CreateError {
    /// Files are in the way or can't be written.
    Files(InitError),
    /// Keys or certificates could not be made.
    Keys(AuthorityError),
}

impl fmt::Display for CreateError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Files(error) => error.fmt(f),
            Self::Keys(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for CreateError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Files(error) => Some(error),
            Self::Keys(error) => Some(error),
        }
    }
}

/// Makes keys and certificates and writes a whole installation; answers its `doorward.toml`.
///
/// # Errors
/// When anything that would be written exists (nothing is written then), or can't be written.
pub fn create(
    dir: &Path,
    options: &InitOptions,
    examples: &[(&str, &str)],
    now: Timestamp,
    entropy: &dyn Entropy,
) -> Result<PathBuf, CreateError> {
    let name = format!("Doorward {}", options.domain);
    let own = Authority::generate(&name, now, AUTHORITY_LIFETIME, entropy).map_err(CreateError::Keys)?;
    let authority = Authority::load(&own.certificate.pem, &own.key_pem).map_err(CreateError::Keys)?;
    let server = authority
        .issue_server(&options.certificate_names(), now, SERVER_LIFETIME, entropy)
        .map_err(CreateError::Keys)?;
    let keys = InitKeys {
        ca_certificate: own.certificate.pem,
        ca_key: Secret::new(own.key_pem),
        server_certificate: server.certificate.pem,
        server_key: Secret::new(server.key_pem),
        key_encryption_key: Secret::new(entropy.bytes_32()),
    };
    write_installation(dir, options, &keys, examples).map_err(CreateError::Files)
}
