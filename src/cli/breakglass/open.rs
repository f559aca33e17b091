//! `doorward breakglass open`: first a client key and a challenge; then, with signatures, the
//! certificate that carries them, under the profile `breakglass` (or the one that was named).

use rcgen::{CertificateParams, CustomExtension, DistinguishedName, DnType, KeyPair, PublicKeyData};
use serde_json::json;
use sha2::{Digest, Sha256};

use crate::cli::args::Format;
use crate::cli::context::Context;
use crate::cli::failure::Failure;
use crate::cli::profile::{self, Profile, ProfileRecord, SavedSession};
use crate::identity::breakglass::certificate::EVIDENCE_OID;
use crate::model::breakglass::{Challenge, Evidence, SIGNATURE_BYTES_MAX, Scope};
use crate::model::{BreakGlassId, Principal};
use crate::wire::Time;

use super::pending::Pending;
use super::sign::{read, signed};
use super::{OpenArgs, installation};

/// The profile that an opening is used under.
const PROFILE: &str = "breakglass";

/// Makes a challenge, or goes on with one.
///
/// # Errors
/// What was wrong; a failed attempt uses nothing up.
pub fn run(context: &Context, args: &OpenArgs) -> Result<(), Failure> {
    match args.resume {
        Some(id) => resume(context, args, id),
        None => begin(context, args),
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

fn begin(context: &Context, args: &OpenArgs) -> Result<(), Failure> {
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
    let (config, breakglass) = installation(&args.config)?;
    let rules = &breakglass.rules;
    if length > rules.duration_max {
        return Err(Failure::usage(format!(
            "`--for` is {length}; this installation opens for at most {}",
            rules.duration_max
        )));
    }
    let opener = args.opener.clone().or_else(|| context.environment.text("USER").map(str::to_owned));
    let opener = opener.ok_or_else(|| Failure::usage("say who opens: `--opener NAME`"))?;
    let now = context.clock.now();
    let id = BreakGlassId::fresh(now, &*context.entropy);
    let key = KeyPair::generate().map_err(|error| Failure::failed(format!("making a client key: {error}")))?;
    let challenge = Challenge {
        id,
        opener,
        scope,
        reason: reason.trim().to_owned(),
        not_before: now,
        expires: now.plus(length),
        trust_domain: rules.trust_domain.clone(),
        custodians: *rules.custodians.sha256(),
        threshold: rules.threshold,
        client_key: Sha256::digest(key.subject_public_key_info()).into(),
        nonce: context.entropy.bytes_32(),
    };
    if !challenge.is_plain() {
        return Err(Failure::usage(
            "opener and reason are one line of plain text each, of 100 and 1,000 characters at most",
        ));
    }
    let text = challenge.text();
    let opener_signature = args
        .opener_key
        .as_deref()
        .map(|key| signed(context, key, args.passphrase_file.as_deref(), text.as_bytes()))
        .transpose()?;
    let unproven = opener_signature.is_none();
    let pending =
        Pending { challenge: text.clone(), key_pem: key.serialize_pem(), opener_signature, config: config.path };
    pending.save(context, id)?;
    std::fs::write(out, &text).map_err(|error| Failure::failed(format!("writing `{}`: {error}", out.display())))?;
    context.printer.talk(&text);
    if let Ok(code) = qrcode::QrCode::new(text.as_bytes()) {
        let picture = code.render::<qrcode::render::unicode::Dense1x2>().quiet_zone(true).build();
        context.printer.talk(&picture);
    }
    if unproven {
        context
            .printer
            .talk(&format!("`{}` is not proven: a custodian who opens gives `--opener-key`.", challenge.opener));
    }
    context.printer.talk(&format!(
        "{} custodians sign it, anywhere:\n  ssh-keygen -Y sign -n {} -f KEY {}\nThen:\n  doorward breakglass open --resume {id} --signature FILE.sig …",
        rules.threshold, crate::model::breakglass::SIGN_NAMESPACE, out.display()
    ));
    told(context, id, "challenged", Some(&out.display().to_string()))
}

fn resume(context: &Context, args: &OpenArgs, id: BreakGlassId) -> Result<(), Failure> {
    let pending = Pending::load(context, id)?;
    let (config, breakglass) = installation(&pending.config)?;
    let mut signatures: Vec<Vec<u8>> = pending.opener_signature.iter().map(|text| text.clone().into_bytes()).collect();
    for file in &args.signature {
        signatures.push(read(file, SIGNATURE_BYTES_MAX)?);
    }
    let key =
        KeyPair::from_pem(&pending.key_pem).map_err(|error| Failure::failed(format!("the client key: {error}")))?;
    let evidence = Evidence { challenge: pending.challenge.into_bytes(), signatures };
    let print: [u8; 32] = Sha256::digest(key.subject_public_key_info()).into();
    let opening = breakglass
        .rules
        .open(&print, &evidence, context.clock.now())
        .map_err(|error| Failure::failed(format!("{error}. Nothing is used up: correct it and resume again")))?;
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, id.to_string());
    params.custom_extensions = vec![CustomExtension::from_oid_content(EVIDENCE_OID, evidence.to_der())];
    let certificate =
        params.self_signed(&key).map_err(|error| Failure::failed(format!("making the certificate: {error}")))?;
    let name = context.global.profile.as_deref().unwrap_or(PROFILE);
    let profile = Profile::at(&profile::home(&context.environment)?, name)?;
    let expires = Time(opening.challenge.expires);
    let principal = Principal::breakglass(id);
    let record = ProfileRecord {
        server: config.server.origin(&config.server.control_host, config.server.listen),
        session: id.to_string(),
        principal: crate::wire::Principal {
            kind: principal.kind().name().to_owned(),
            id: principal.id().to_owned(),
            name: None,
            email: None,
        },
        expires_at: expires,
        certificate_since: Time(opening.challenge.not_before),
        certificate_expires_at: expires,
        refresh_token: String::new(),
        refresh_token_expires_at: expires,
        audit_key: None,
    };
    let session = SavedSession {
        record,
        key_pem: pending.key_pem,
        certificate_pem: certificate.pem(),
        ca_pem: context.named_ca()?,
    };
    let lock = profile.lock()?;
    profile.save(&lock, &session)?;
    context.printer.talk(&format!(
        "Open until {} for {}, by {}.\nUse it: doorward --profile {name} curl https://…",
        opening.challenge.expires,
        opening.challenge.scope,
        opening.custodians.join(", ")
    ));
    told(context, id, "open", None)
}
