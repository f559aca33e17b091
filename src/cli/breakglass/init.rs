//! `doorward breakglass init`: who may open the door, written beside the configuration.
//!
//! ORDER: everything is made and checked before anything is written; the custodians' file is there
//! before the configuration names it, so that a reload in between sees nothing half-done.

use std::fs::OpenOptions;
use std::io::Write;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, fchown};
use std::path::{Path, PathBuf};

use serde_json::json;
use ssh_key::private::{Ed25519Keypair, KeypairData};
use ssh_key::{Cipher, Kdf, LineEnding, PrivateKey, PublicKey};
use zeroize::Zeroizing;

use crate::cli::args::Format;
use crate::cli::context::Context;
use crate::cli::failure::Failure;
use crate::identity::breakglass::Custodians;
use crate::model::breakglass::SIGN_NAMESPACE;

use super::InitArgs;
use super::sign::{PASSPHRASE, read};

/// The custodians' file, beside the configuration.
const FILE: &str = "custodians";
/// The largest public key file and configuration that are read.
const KEY_BYTES_MAX: usize = 16 * 1024;
const CONFIG_BYTES_MAX: usize = 1024 * 1024;
/// Rounds of bcrypt-pbkdf under which a new key is sealed: what ssh-keygen takes.
const SEAL_ROUNDS: u32 = 16;

/// A key that was made here.
struct Made {
    path: PathBuf,
    private: Zeroizing<String>,
    public: String,
}

/// Writes custodians and threshold, and makes keys for those who have none.
///
/// # Errors
/// Exit 2 when names, keys or threshold don't fit, or something of that name is there already.
pub fn run(context: &Context, args: &InitArgs) -> Result<(), Failure> {
    let config = String::from_utf8(read(&args.config, CONFIG_BYTES_MAX)?)
        .map_err(|_| Failure::usage(format!("`{}` is not UTF-8", args.config.display())))?;
    let parsed: toml::Table = config.parse().map_err(|error| {
        Failure::usage(format!("`{}` can't be read; `doorward check` says where: {error}", args.config.display()))
            .in_lines()
    })?;
    if parsed.contains_key("breakglass") {
        return Err(Failure::usage(format!(
            "`{}` has a `[breakglass]` already; change its custodians' file and `threshold` there",
            args.config.display()
        )));
    }
    let folder = args.config.parent().filter(|path| !path.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let file = folder.join(FILE);
    if file.symlink_metadata().is_ok() {
        return Err(Failure::usage(format!(
            "`{}` is there already; name it in a `[breakglass]` section of `{}`, or move it away",
            file.display(),
            args.config.display()
        )));
    }
    let made = keys(context, args)?;
    let mut text = String::from("# Who may open the door on the worst day (ssh-keygen(1), ALLOWED SIGNERS).\n");
    for (name, path) in &args.custodian {
        let public = String::from_utf8_lossy(&read(path, KEY_BYTES_MAX)?).trim().to_owned();
        let key = PublicKey::from_openssh(&public)
            .map_err(|error| Failure::usage(format!("the public key `{}`: {error}", path.display())))?;
        text.push_str(&line(name, &key)?);
    }
    for (number, key) in (1..).zip(&made) {
        let public = PublicKey::from_openssh(&key.public).map_err(|error| Failure::failed(error.to_string()))?;
        text.push_str(&line(&format!("custodian-{number}"), &public)?);
    }
    let custodians = Custodians::parse(text.as_bytes()).map_err(|error| Failure::usage(error.to_string()))?;
    let count = custodians.count();
    if args.threshold < 2 || usize::try_from(args.threshold).unwrap_or(usize::MAX) > count {
        return Err(Failure::usage(format!(
            "a threshold is 2 to the number of custodians, which is {count}; {} was asked for",
            args.threshold
        )));
    }
    if let Some(out) = &args.out {
        std::fs::create_dir_all(out).map_err(|error| Failure::usage(format!("making `{}`: {error}", out.display())))?;
    }
    for key in &made {
        write_new(&key.path, key.private.as_bytes(), 0o600)?;
        write_new(&public_path(&key.path), format!("{}\n", key.public).as_bytes(), 0o644)?;
    }
    write_new(&file, text.as_bytes(), 0o644)?;
    append(&args.config, &config, args.threshold)?;
    tell(context, args, &custodians, &file, &made)
}

fn tell(
    context: &Context,
    args: &InitArgs,
    custodians: &Custodians,
    file: &Path,
    made: &[Made],
) -> Result<(), Failure> {
    let names: Vec<&str> = custodians.keys().iter().map(|key| key.name()).collect();
    let keys: Vec<String> = made.iter().map(|key| key.path.display().to_string()).collect();
    if context.printer.format() == Format::Json {
        let body = json!({ "custodians": names, "threshold": args.threshold, "file": file.display().to_string(), "keys": keys });
        return context.printer.resource(&body.to_string());
    }
    context.printer.talk(&format!(
        "{} of {} custodians open the door: {}. They stand in `{}`; `{}` names it.",
        args.threshold,
        custodians.count(),
        names.join(", "),
        file.display(),
        args.config.display()
    ));
    if !made.is_empty() {
        let sealed = if args.passphrase_file.is_some() || context.environment.text(PASSPHRASE).is_some() {
            "sealed with the passphrase"
        } else {
            "NOT sealed: neither `--passphrase-file` nor DOORWARD_PASSPHRASE was given"
        };
        context.printer.talk(&format!("Give each custodian one of these keys, and keep none ({sealed}):"));
    }
    keys.iter().try_for_each(|key| context.printer.line(key))
}

/// Keys for custodians who have none.
fn keys(context: &Context, args: &InitArgs) -> Result<Vec<Made>, Failure> {
    let Some(out) = &args.out else { return Ok(Vec::new()) };
    let passphrase = match &args.passphrase_file {
        None => context.environment.text(PASSPHRASE).map(|text| Zeroizing::new(text.to_owned())),
        Some(file) => {
            let text = String::from_utf8_lossy(&read(file, 4096)?).trim_end_matches(['\r', '\n']).to_owned();
            if text.is_empty() {
                return Err(Failure::usage(format!("`{}` holds no passphrase", file.display())));
            }
            Some(Zeroizing::new(text))
        }
    };
    let wrong = |error: ssh_key::Error| Failure::failed(format!("making a key: {error}"));
    let mut made = Vec::new();
    for number in 1..=args.generate.unwrap_or(0) {
        let name = format!("custodian-{number}");
        let path = out.join(&name);
        if path.exists() {
            return Err(Failure::usage(format!("`{}` is there already; keys are never overwritten", path.display())));
        }
        let pair = Ed25519Keypair::from_seed(&context.entropy.bytes_32());
        let key = PrivateKey::new(KeypairData::from(pair), name).map_err(wrong)?;
        let public = key.public_key().to_openssh().map_err(wrong)?;
        let key = match &passphrase {
            None => key,
            Some(passphrase) => {
                let random = context.entropy.bytes_32();
                let (salt, rest) = random.split_at(16);
                let check = rest.first_chunk::<4>().map_or(0, |bytes| u32::from_be_bytes(*bytes));
                let kdf = Kdf::Bcrypt { salt: salt.to_vec(), rounds: SEAL_ROUNDS };
                key.encrypt_with(Cipher::Aes256Ctr, kdf, check, passphrase.as_bytes()).map_err(wrong)?
            }
        };
        made.push(Made { path, private: key.to_openssh(LineEnding::LF).map_err(wrong)?, public });
    }
    Ok(made)
}

/// One line of the custodians' file.
fn line(name: &str, key: &PublicKey) -> Result<String, Failure> {
    if name.is_empty() || name.chars().any(|c| c.is_whitespace() || c.is_control() || "\",*?!#".contains(c)) {
        return Err(Failure::usage(format!(
            "`{}` can't be a custodian's name: letters, digits, `.`, `-`, `@`",
            name.escape_debug()
        )));
    }
    let mut bare = key.clone();
    bare.set_comment("");
    let text = bare.to_openssh().map_err(|error| Failure::failed(error.to_string()))?;
    Ok(format!("{name} namespaces=\"{SIGN_NAMESPACE}\" {}\n", text.trim()))
}

fn public_path(path: &Path) -> PathBuf {
    let mut name = path.to_path_buf().into_os_string();
    name.push(".pub");
    name.into()
}

fn write_new(path: &Path, bytes: &[u8], mode: u32) -> Result<(), Failure> {
    let taken = |error: std::io::Error| Failure::usage(format!("writing `{}`: {error}", path.display()));
    let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(path).map_err(taken)?;
    file.write_all(bytes).and_then(|()| file.sync_all()).map_err(taken)
}

/// The configuration with the new section at its end, in one step; what was there stays as it is.
fn append(path: &Path, config: &str, threshold: u32) -> Result<(), Failure> {
    // What a link leads to is changed, and the link stays one.
    let path = &std::fs::canonicalize(path).unwrap_or_else(|_| path.to_path_buf());
    let failed = |error: std::io::Error| Failure::failed(format!("writing `{}`: {error}", path.display()));
    let feed = if config.ends_with('\n') || config.is_empty() { "" } else { "\n" };
    let text = format!(
        "{config}{feed}\n# The way in when everything else is down: so many custodians sign one challenge.\n\
         [breakglass]\ncustodians = \"{FILE}\"\nthreshold = {threshold}\n"
    );
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut file = tempfile::NamedTempFile::new_in(folder).map_err(failed)?;
    file.write_all(text.as_bytes()).and_then(|()| file.as_file().sync_all()).map_err(failed)?;
    let about = std::fs::metadata(path).map_err(failed)?;
    // Whoever reads it now goes on reading it: root may keep the owner, anybody else is the owner.
    let mine = file.as_file().metadata().map_err(failed)?;
    if (about.uid(), about.gid()) != (mine.uid(), mine.gid()) {
        fchown(file.as_file(), Some(about.uid()), Some(about.gid())).map_err(failed)?;
    }
    file.as_file().set_permissions(about.permissions()).map_err(failed)?;
    file.persist(path).map_err(|error| failed(error.error))?;
    Ok(())
}
