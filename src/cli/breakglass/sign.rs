//! Signing a challenge with an OpenSSH private key, as `ssh-keygen -Y sign` would.

use std::path::{Path, PathBuf};

use serde_json::json;
use ssh_key::{HashAlg, LineEnding, PrivateKey, PublicKey};
use zeroize::Zeroizing;

use crate::cli::args::Format;
use crate::cli::context::Context;
use crate::cli::failure::Failure;
use crate::model::breakglass::{CHALLENGE_BYTES_MAX, Challenge, SIGN_NAMESPACE};

use super::SignArgs;

/// The variable that has a key's passphrase where no file does.
pub(super) const PASSPHRASE: &str = "DOORWARD_PASSPHRASE";

/// Reads a challenge, prints it and signs it.
///
/// # Errors
/// When it is none, or the key can't be used.
pub fn run(context: &Context, args: &SignArgs) -> Result<(), Failure> {
    let bytes = read(&args.challenge, CHALLENGE_BYTES_MAX)?;
    Challenge::parse(&bytes).map_err(|error| Failure::usage(format!("`{}`: {error}", args.challenge.display())))?;
    context.printer.talk_lines(String::from_utf8_lossy(&bytes).trim_end());
    let signature = signed(context, &args.key, args.passphrase_file.as_deref(), SIGN_NAMESPACE, &bytes)?;
    let out = args.out.clone().unwrap_or_else(|| {
        let mut name = args.challenge.clone().into_os_string();
        name.push(".sig");
        PathBuf::from(name)
    });
    std::fs::write(&out, signature)
        .map_err(|error| Failure::failed(format!("writing `{}`: {error}", out.display())))?;
    match context.printer.format() {
        Format::Json => context.printer.json(&json!({ "signature": out })),
        Format::Table | Format::Junit => context.printer.line(&out.display().to_string()),
    }
}

/// A small file.
pub(super) fn read(path: &Path, bytes_max: usize) -> Result<Vec<u8>, Failure> {
    let bytes =
        std::fs::read(path).map_err(|error| Failure::usage(format!("reading `{}`: {error}", path.display())))?;
    if bytes.len() > bytes_max {
        return Err(Failure::usage(format!("`{}` is larger than {bytes_max} bytes", path.display())));
    }
    Ok(bytes)
}

/// The signature of this key over a text, in PEM armour.
pub(super) fn signed(
    context: &Context,
    path: &Path,
    passphrase_file: Option<&Path>,
    namespace: &str,
    text: &[u8],
) -> Result<String, Failure> {
    let wrong = |error: ssh_key::Error| Failure::usage(format!("the key `{}`: {error}", path.display()));
    let key = private_key(context, path, passphrase_file)?;
    let signature = key.sign(namespace, HashAlg::Sha512, text).map_err(wrong)?;
    signature.to_pem(LineEnding::LF).map_err(wrong)
}

/// The public half of a private key; a sealed one has it in the clear.
pub(super) fn public_key(path: &Path) -> Result<PublicKey, Failure> {
    let key = PrivateKey::from_openssh(&*Zeroizing::new(read(path, 64 * 1024)?));
    let key = key.map_err(|error| Failure::usage(format!("the key `{}`: {error}", path.display())))?;
    Ok(key.public_key().clone())
}

fn private_key(context: &Context, path: &Path, passphrase_file: Option<&Path>) -> Result<PrivateKey, Failure> {
    let wrong = |error: ssh_key::Error| Failure::usage(format!("the key `{}`: {error}", path.display()));
    let text = Zeroizing::new(read(path, 64 * 1024)?);
    let mut key = PrivateKey::from_openssh(&*text).map_err(wrong)?;
    if key.is_encrypted() {
        let passphrase = match passphrase_file {
            Some(file) => Zeroizing::new(String::from_utf8_lossy(&read(file, 4096)?).trim_end_matches(['\r', '\n']).to_owned()),
            None => Zeroizing::new(
                context
                    .environment
                    .text(PASSPHRASE)
                    .ok_or_else(|| {
                        Failure::usage(format!(
                            "`{}` has a passphrase: give `--passphrase-file` or `DOORWARD_PASSPHRASE`, or sign with ssh-keygen",
                            path.display()
                        ))
                    })?
                    .to_owned(),
            ),
        };
        key = key
            .decrypt(passphrase.as_bytes())
            .map_err(|_| Failure::usage(format!("the passphrase does not open `{}`", path.display())))?;
    }
    Ok(key)
}
