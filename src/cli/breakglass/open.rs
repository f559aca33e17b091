//! `doorward breakglass open`: first a client key and a challenge; then, with signatures, the
//! certificate that carries them, under the profile `breakglass` (or the one that was named).

use std::path::Path;

use rcgen::{CertificateParams, CustomExtension, DistinguishedName, DnType, KeyPair};
use serde_json::json;

use crate::cli::args::Format;
use crate::cli::client::Client;
use crate::cli::context::Context;
use crate::cli::exit::Exit;
use crate::cli::failure::Failure;
use crate::cli::origin::Origin;
use crate::cli::profile::{self, Profile, ProfileRecord, SavedSession};
use crate::identity::breakglass::certificate::EVIDENCE_OID;
use crate::model::breakglass::{Challenge, Evidence, SIGN_NAMESPACE, SIGNATURE_BYTES_MAX, Scope};
use crate::model::{BreakGlassId, Principal, Timestamp};
use crate::wire::{BreakGlassChecked, BreakGlassEvidence, Time};

use super::pending::Pending;
use super::sign::{public_key, read, signed};
use super::terms::{Asked, Terms, anonymous, fingerprint};
use super::{OpenArgs, installation, not_opened};

/// The profile that an opening is used under.
const PROFILE: &str = "breakglass";

/// A clock that is further off than this is told of.
const CLOCK_SECONDS: i64 = 5;

/// Makes a challenge, or goes on with one.
///
/// # Errors
/// What was wrong; a failed attempt uses nothing up.
pub async fn run(context: &Context, args: &OpenArgs) -> Result<(), Failure> {
    match args.resume {
        Some(id) => resume(context, args, id).await,
        None => begin(context, args).await,
    }
}

fn told(context: &Context, id: BreakGlassId, state: &str, challenge_file: Option<&str>) -> Result<(), Failure> {
    if context.printer.format() == Format::Json {
        return context
            .printer
            .json(&json!({ "id": id.to_string(), "state": state, "challenge_file": challenge_file }));
    }
    let mut pairs = vec![("id", id.to_string()), ("state", state.to_owned())];
    pairs.extend(challenge_file.map(|file| ("challenge", file.to_owned())));
    context.printer.pairs(&pairs)
}

/// Who opens: with a custodian's key it is that custodian. Under another name the signature would be
/// an ordinary one, and count.
fn opener(args: &OpenArgs) -> Result<Option<String>, Failure> {
    let Some(path) = &args.opener_key else { return Ok(args.opener.clone()) };
    let Some(config) = &args.config else {
        let told = "`--opener-key` proves a custodian's name, and without `--config` nothing here says whose the key \
                    is: give `--opener NAME`, as the custodians' file has it";
        return args.opener.clone().map(Some).ok_or_else(|| Failure::usage(told));
    };
    let (_, breakglass) = installation(config)?;
    let key = public_key(path)?;
    let Some(custodian) = breakglass.rules.custodians.of_key(key.key_data()) else {
        return Err(Failure::usage(format!(
            "`{}` is no custodian's key (`doorward breakglass custodians` lists them): leave out `--opener-key`, and \
             the opener is named as unproven",
            path.display()
        )));
    };
    match &args.opener {
        Some(name) if !custodian.names.contains(name) => Err(Failure::usage(format!(
            "`{}` is the key of `{}`, not of `{}`: whoever opens signs with their own key, or without `--opener-key`",
            path.display(),
            custodian.name(),
            name.escape_debug()
        ))),
        Some(name) => Ok(Some(name.clone())),
        None => Ok(Some(custodian.name().to_owned())),
    }
}

/// Says that the configuration's folder of policies does not have a service. On the worst day that folder may
/// be an old one, or not at hand at all, so it is the nodes that refuse.
fn tell_unknown_service(context: &Context, config: &Path, scope: &Scope) -> Result<(), Failure> {
    let Scope::Services(names) = scope else { return Ok(()) };
    let (config, _) = installation(config)?;
    let Ok(entries) = std::fs::read_dir(&config.policies.dir) else { return Ok(()) };
    let folders = entries.flatten().filter(|entry| entry.path().join("service.toml").is_file());
    let mut known: Vec<String> = folders.filter_map(|entry| entry.file_name().into_string().ok()).collect();
    known.sort();
    let unknown = names.iter().find(|name| !known.iter().any(|known| known == name.as_str()));
    if let Some(name) = unknown.filter(|_| !known.is_empty()) {
        context.printer.talk(&format!(
            "`{}` has no service `{}`, unless it is older than the nodes; there are: {}",
            config.policies.dir.display(),
            name.as_str(),
            known.join(", ")
        ));
    }
    Ok(())
}

async fn begin(context: &Context, args: &OpenArgs) -> Result<(), Failure> {
    let (Some(reason), Some(length), Some(out)) = (&args.reason, args.length, &args.challenge_out) else {
        return Err(Failure::usage("`--reason`, `--for` and `--challenge-out` are needed"));
    };
    let scope = match (args.all, args.service.as_slice()) {
        (true, _) => Scope::All,
        (false, []) => return Err(Failure::usage("say what is to be opened: `--service NAME` or `--all`")),
        (false, names) => {
            let mut names = names.to_vec();
            names.sort_by(|one, other| one.as_str().cmp(other.as_str()));
            names.dedup();
            Scope::Services(names)
        }
    };
    let opener = opener(args)?;
    if let Some(config) = &args.config {
        tell_unknown_service(context, config, &scope)?;
    }
    let terms = Terms::find(context, args.config.as_deref()).await?;
    if length > terms.duration_max {
        return Err(Failure::usage(format!(
            "`--for` is {length}; this installation opens for at most {}",
            terms.duration_max
        )));
    }
    if let Some(behind) = terms.behind_ms.map(|millis| millis / 1000).filter(|behind| behind.abs() >= CLOCK_SECONDS) {
        let (seconds, way) = (behind.abs(), if behind > 0 { "behind" } else { "ahead of" });
        context.printer.talk(&format!(
            "This machine's clock is {seconds} s {way} the server's, which judges by its own: set it right first."
        ));
    }
    let key = KeyPair::generate().map_err(|error| Failure::failed(format!("making a client key: {error}")))?;
    let asked = Asked { opener, scope, reason: reason.clone(), length };
    let challenge = terms.challenge(context, &key, asked, context.clock.now())?;
    let id = challenge.id;
    let text = challenge.text();
    let opener_signature = args
        .opener_key
        .as_deref()
        .map(|key| signed(context, key, args.passphrase_file.as_deref(), SIGN_NAMESPACE, text.as_bytes()))
        .transpose()?;
    let unproven = opener_signature.is_none();
    let ca_pem = match &terms.config {
        Some(_) => context.named_ca()?,
        None => anonymous(context)?.1,
    };
    let pending = Pending {
        challenge: text.clone(),
        key_pem: key.serialize_pem(),
        opener_signature,
        config: terms.config.clone(),
        server: terms.server.clone(),
        ca_pem,
        signatures: Vec::new(),
        closed_at: None,
    };
    // ORDER: first what may fail, so that no client key is left of a challenge that nobody got.
    std::fs::write(out, &text).map_err(|error| Failure::failed(format!("writing `{}`: {error}", out.display())))?;
    pending.save(context, id)?;
    context.printer.talk_lines(text.trim_end());
    if let Some(picture) = picture(context, &text) {
        context.printer.talk_lines(&picture);
    }
    if unproven {
        context
            .printer
            .talk(&format!("`{}` is not proven: a custodian who opens gives `--opener-key`.", challenge.opener));
    }
    context.printer.talk_lines(&format!(
        "{} custodians sign it, anywhere:\n  ssh-keygen -Y sign -n {} -f KEY {}\nThen:\n  doorward breakglass open --resume {id} --signature FILE.sig …",
        terms.needed, SIGN_NAMESPACE, out.display()
    ));
    told(context, id, "challenged", Some(&out.display().to_string()))
}

/// The challenge for a camera; none where it would be broken lines, or nobody looks.
fn picture(context: &Context, text: &str) -> Option<String> {
    let width = context.printer.talk_width().filter(|_| context.printer.format() != Format::Json)?;
    let code = qrcode::QrCode::new(text.as_bytes()).ok()?;
    let picture = code.render::<qrcode::render::unicode::Dense1x2>().quiet_zone(true).build();
    picture.lines().all(|line| line.chars().count() <= usize::from(width)).then_some(picture)
}

/// What custodians signed, judged by the configuration or by a node.
struct Judged {
    custodians: Vec<String>,
    opener_proven: bool,
    server: String,
}

async fn judged(pending: &Pending, key: &KeyPair, evidence: &Evidence, now: Timestamp) -> Result<Judged, Failure> {
    if let Some(path) = &pending.config {
        let (config, breakglass) = installation(path)?;
        let opening = breakglass.rules.open(&fingerprint(key), evidence, now);
        let opening = opening.map_err(|error| not_opened(&error.to_string(), error.is_final()))?;
        let server = config.server.origin(&config.server.control_host, config.server.listen);
        return Ok(Judged { custodians: opening.custodians, opener_proven: opening.opener_proven, server });
    }
    let origin = Origin::parse(&pending.server).map_err(|error| Failure::failed(error.to_string()))?;
    let client = Client::new(origin, pending.ca_pem.as_deref(), None)?;
    let text = |bytes: &Vec<u8>| String::from_utf8_lossy(bytes).into_owned();
    let body = BreakGlassEvidence {
        client_key_sha256: data_encoding::HEXLOWER.encode(&fingerprint(key)),
        challenge: pending.challenge.clone(),
        signatures: evidence.signatures.iter().map(text).collect(),
    };
    let json = client.post("/api/v1/breakglass/check", &body).await.map_err(|error| {
        let failure = Failure::from(error);
        if failure.exit != Exit::Denied {
            return failure;
        }
        not_opened(&failure.problem.detail.unwrap_or_default(), failure.problem.reason == "challenge_over")
    })?;
    let checked: BreakGlassChecked = client.read(&json)?;
    let server = pending.server.clone();
    Ok(Judged { custodians: checked.custodians, opener_proven: checked.opener_proven, server })
}

async fn resume(context: &Context, args: &OpenArgs, id: BreakGlassId) -> Result<(), Failure> {
    let mut pending = Pending::load(context, id)?;
    let challenge = Challenge::parse(pending.challenge.as_bytes())
        .map_err(|error| Failure::failed(format!("the kept challenge: {error}")))?;
    if challenge.scope == Scope::Drill {
        return Err(Failure::usage(format!("`{id}` is a drill: `breakglass drill --resume {id}`")));
    }
    if let Some(at) = pending.closed_at {
        // Nodes that the statement has not reached would honour it, and no node that it has.
        return Err(Failure::failed(format!(
            "`{id}` was closed at {at}, and what is closed does not open again: begin another, with \
             `doorward breakglass open --reason …`"
        )));
    }
    let mut signatures: Vec<Vec<u8>> = pending.opener_signature.iter().map(|text| text.clone().into_bytes()).collect();
    for file in &args.signature {
        signatures.push(read(file, SIGNATURE_BYTES_MAX)?);
    }
    let key =
        KeyPair::from_pem(&pending.key_pem).map_err(|error| Failure::failed(format!("the client key: {error}")))?;
    let evidence = Evidence { challenge: pending.challenge.clone().into_bytes(), signatures };
    let judged = judged(&pending, &key, &evidence, context.clock.now()).await?;
    if pending.opener_signature.is_some() && !judged.opener_proven {
        // The opener's own signature would be one of the M.
        return Err(Failure::usage(format!(
            "`{}` is no name of the custodian who signed with `--opener-key`, who would count for their own opening: begin a new one, with `--opener` as the file of custodians has it",
            challenge.opener
        )));
    }
    pending.signatures = evidence.signatures.iter().map(|it| String::from_utf8_lossy(it).into_owned()).collect();
    pending.update(context, id)?;
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, id.to_string());
    params.custom_extensions = vec![CustomExtension::from_oid_content(EVIDENCE_OID, evidence.to_der())];
    let certificate =
        params.self_signed(&key).map_err(|error| Failure::failed(format!("making the certificate: {error}")))?;
    let name = context.global.profile.as_deref().unwrap_or(PROFILE);
    let profile = Profile::at(&profile::home(&context.environment)?, name)?;
    let expires = Time(challenge.expires);
    let principal = Principal::breakglass(id);
    let record = ProfileRecord {
        server: judged.server,
        session: id.to_string(),
        principal: crate::wire::Principal {
            kind: principal.kind().name().to_owned(),
            id: principal.id().to_owned(),
            name: None,
            email: None,
        },
        expires_at: expires,
        certificate_since: Time(challenge.not_before),
        certificate_expires_at: expires,
        refresh_token: String::new(),
        refresh_token_expires_at: expires,
        audit_key: None,
    };
    let session = SavedSession {
        record,
        key_pem: pending.key_pem,
        certificate_pem: certificate.pem(),
        ca_pem: context.named_ca()?.or_else(|| pending.ca_pem.clone()),
    };
    let lock = profile.lock()?;
    if let Some(before) = profile.load_locked(&lock).ok().flatten().map(|saved| saved.record)
        && !before.expires_at.0.is_over(context.clock.now())
        && before.session != id.to_string()
    {
        if BreakGlassId::parse(&before.session).is_err() {
            return Err(Failure::usage(format!(
                "the profile `{name}` holds a session of {}: resume without `--profile`, or name one that is free",
                before.server
            )));
        }
        context.printer.talk(&format!(
            "The profile `{name}` held the opening {}, which goes on: `doorward breakglass close {}` ends it.",
            before.session, before.session
        ));
    }
    profile.save(&lock, &session)?;
    context.printer.talk_lines(&format!(
        "Open until {} for {}, by {}.\nUse it: doorward --profile {name} curl https://…",
        challenge.expires,
        challenge.scope,
        judged.custodians.join(", ")
    ));
    told(context, id, "open", None)
}
