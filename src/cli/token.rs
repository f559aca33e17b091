//! `doorward token`: a token for one service, alone on standard output.
//!
//! A person's comes from the session of the profile, whose certificate it is bound to; a pipeline's
//! from the token that its own issuer gave it, for which nobody needs to be signed in. INVARIANT: the
//! token is the only thing that is written to standard output, and its key never leaves this machine.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use rcgen::KeyPair;
use x509_parser::pem::parse_x509_pem;

use crate::model::Thumbprint;
use crate::wire::ExchangeAnswer;
use crate::wire::oauth::{CLI_CLIENT_ID, GRANT_TOKEN_EXCHANGE};

use super::args::{Format, TokenArgs};
use super::client::Client;
use super::context::Context;
use super::failure::Failure;
use super::renewal::{signed_in, signing_request};

const TYPE_JWT: &str = "urn:ietf:params:oauth:token-type:jwt";
const TYPE_CERTIFICATE: &str = "urn:doorward:params:oauth:token-type:session-certificate";
/// The largest file with a token that is read, in bytes.
const FILE_BYTES_MAX: u64 = 64 * 1024;

/// Gets a token and prints it.
///
/// # Errors
/// When nobody is signed in and no token was given, or the server says no.
pub async fn run(context: &Context, args: &TokenArgs) -> Result<(), Failure> {
    let lifetime = args.length.map(|length| length.as_seconds().max(1).to_string());
    let mut fields =
        vec![("grant_type", GRANT_TOKEN_EXCHANGE), ("client_id", CLI_CLIENT_ID), ("audience", &args.service)];
    fields.extend(args.scope.as_deref().map(|scope| ("scope", scope)));
    fields.extend(lifetime.as_deref().map(|seconds| ("lifetime", seconds)));
    let answer = match &args.subject_token_file {
        Some(path) => of_pipeline(context, args, path, fields).await?,
        None => of_session(context, args, fields).await?,
    };
    if context.printer.format() == Format::Json {
        return context.printer.json(&answer);
    }
    context.printer.line(&answer.access_token)
}

async fn of_session(
    context: &Context,
    args: &TokenArgs,
    mut fields: Vec<(&str, &str)>,
) -> Result<ExchangeAnswer, Failure> {
    if args.certificate_out.is_some() {
        return Err(Failure::usage(
            "`--certificate-out` goes with `--subject-token-file`: a session has its certificate already",
        ));
    }
    let here = signed_in(context).await?;
    let (_, block) = parse_x509_pem(here.session.certificate_pem.as_bytes())
        .map_err(|error| Failure::failed(format!("reading the session's certificate: {error}")))?;
    let thumbprint = Thumbprint::of(&block.contents).to_string();
    fields.extend([("subject_token", thumbprint.as_str()), ("subject_token_type", TYPE_CERTIFICATE)]);
    Ok(here.client.form("/oauth2/token", &fields).await?)
}

async fn of_pipeline(
    context: &Context,
    args: &TokenArgs,
    path: &Path,
    mut fields: Vec<(&str, &str)>,
) -> Result<ExchangeAnswer, Failure> {
    let Some(origin) = context.named_server()? else {
        return Err(Failure::usage("which server? name it with `--server https://doorward.example.com`"));
    };
    let ca = context.named_ca()?;
    let client = Client::new(origin, ca.as_deref(), None)?;
    let token = read(path)?;
    fields.extend([("subject_token", token.as_str()), ("subject_token_type", TYPE_JWT)]);
    let Some(folder) = &args.certificate_out else { return Ok(client.form("/oauth2/token", &fields).await?) };
    let key = KeyPair::generate().map_err(|error| Failure::failed(format!("making a key: {error}")))?;
    let key_pem = key.serialize_pem();
    let request = signing_request(&key_pem)?;
    fields.push(("csr", &request));
    // ORDER: the folder first, since the token is good for one exchange.
    fs::create_dir_all(folder).map_err(|error| unwritten(folder, &error))?;
    write(&folder.join("client.key"), &key_pem)?;
    let answer: ExchangeAnswer = client.form("/oauth2/token", &fields).await?;
    let Some(certificate) = &answer.certificate else {
        return Err(Failure::failed("the server made no certificate"));
    };
    write(&folder.join("client.crt"), certificate)?;
    write(&folder.join("ca.crt"), ca.as_deref().unwrap_or(&answer.ca))?;
    Ok(answer)
}

/// Reads the token of a file, of `/dev/stdin` too.
pub(super) fn read(path: &Path) -> Result<String, Failure> {
    let wrong =
        |what: &dyn std::fmt::Display| Failure::usage(format!("reading the token in `{}`: {what}", path.display()));
    if fs::metadata(path).map_err(|error| wrong(&error))?.len() > FILE_BYTES_MAX {
        return Err(wrong(&"the file is larger than 64 KiB"));
    }
    let text = fs::read_to_string(path).map_err(|error| wrong(&error))?;
    match text.trim() {
        "" => Err(wrong(&"the file is empty")),
        token => Ok(token.to_owned()),
    }
}

fn unwritten(path: &Path, error: &std::io::Error) -> Failure {
    Failure::failed(format!("writing `{}`: {error}", path.display()))
}

/// Writes a file for its owner alone.
fn write(path: &Path, text: &str) -> Result<(), Failure> {
    let opened = fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path);
    opened.and_then(|mut file| file.write_all(text.as_bytes())).map_err(|error| unwritten(path, &error))
}
