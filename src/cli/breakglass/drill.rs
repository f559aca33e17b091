//! `doorward breakglass drill`: the whole path with real custodians and real nodes, opening nothing.

use rcgen::KeyPair;
use serde_json::json;

use crate::cli::args::Format;
use crate::cli::client::Client;
use crate::cli::context::Context;
use crate::cli::exit::Exit;
use crate::cli::failure::Failure;
use crate::cli::origin::Origin;
use crate::model::breakglass::{Challenge, Evidence, SIGN_NAMESPACE, SIGNATURE_BYTES_MAX, Scope};
use crate::model::{BreakGlassId, Ttl};
use crate::wire::{BreakGlassDrill, BreakGlassEvidence, DrillChannel};

use super::nodes::nodes;
use super::pending::Pending;
use super::sign::{read, signed};
use super::terms::{Asked, Terms};
use super::{DrillArgs, installation, not_opened};

/// How long custodians have to sign.
const LENGTH: Ttl = Ttl::hours(1);

/// Begins a drill, or brings what was signed to every node.
///
/// # Errors
/// What was wrong; nothing is used up.
pub async fn run(context: &Context, args: &DrillArgs) -> Result<(), Failure> {
    let id = match args.resume {
        Some(id) => id,
        None => begin(context, args)?,
    };
    if args.resume.is_none() && args.key.is_empty() {
        return Ok(());
    }
    finish(context, args, id).await
}

fn begin(context: &Context, args: &DrillArgs) -> Result<BreakGlassId, Failure> {
    let terms = Terms::of_config(&args.config)?;
    let key = KeyPair::generate().map_err(|error| Failure::failed(format!("making a client key: {error}")))?;
    let asked = Asked {
        opener: args.opener.clone(),
        scope: Scope::Drill,
        reason: args.reason.clone(),
        length: LENGTH.min(terms.duration_max),
    };
    let challenge = terms.challenge(context, &key, asked, context.clock.now())?;
    let (id, text) = (challenge.id, challenge.text());
    let pending = Pending {
        challenge: text.clone(),
        key_pem: key.serialize_pem(),
        opener_signature: None,
        config: terms.config.clone(),
        server: terms.server.clone(),
        ca_pem: context.named_ca()?,
        signatures: Vec::new(),
        closed_at: None,
    };
    pending.save(context, id)?;
    if !args.key.is_empty() {
        return Ok(id);
    }
    let out = &args.challenge_out;
    std::fs::write(out, &text).map_err(|error| Failure::failed(format!("writing `{}`: {error}", out.display())))?;
    context.printer.talk_lines(text.trim_end());
    context.printer.talk_lines(&format!(
        "{} custodians sign it, anywhere:\n  ssh-keygen -Y sign -n {SIGN_NAMESPACE} -f KEY {}\nThen:\n  doorward breakglass drill --config {} --resume {id} --signature FILE.sig …",
        terms.needed,
        out.display(),
        args.config.display(),
    ));
    if context.printer.format() == Format::Json {
        let told = json!({ "id": id.to_string(), "state": "challenged", "challenge_file": out.display().to_string() });
        context.printer.json(&told)?;
    }
    Ok(id)
}

async fn finish(context: &Context, args: &DrillArgs, id: BreakGlassId) -> Result<(), Failure> {
    let pending = Pending::load(context, id)?;
    let (_, breakglass) = installation(&args.config)?;
    let mut signatures: Vec<String> = Vec::new();
    for file in &args.signature {
        signatures.push(String::from_utf8_lossy(&read(file, SIGNATURE_BYTES_MAX)?).into_owned());
    }
    for key in &args.key {
        let passphrase = args.passphrase_file.as_deref();
        signatures.push(signed(context, key, passphrase, SIGN_NAMESPACE, pending.challenge.as_bytes())?);
    }
    let challenge = Challenge::parse(pending.challenge.as_bytes())
        .map_err(|error| Failure::failed(format!("the kept challenge: {error}")))?;
    if challenge.scope != Scope::Drill {
        return Err(Failure::usage(format!("`{id}` is an opening, not a drill: `breakglass open --resume {id}`")));
    }
    let now = context.clock.now();
    let evidence = Evidence {
        challenge: pending.challenge.clone().into_bytes(),
        signatures: signatures.iter().map(|text| text.clone().into_bytes()).collect(),
    };
    // First here, by the configuration alone, as it would be on the worst day.
    breakglass
        .rules
        .open(&challenge.client_key, &evidence, now)
        .map_err(|error| not_opened(&error.to_string(), error.is_final()))?;
    let origin = match context.named_server()? {
        Some(named) => named,
        None => Origin::parse(&pending.server).map_err(|error| Failure::failed(error.to_string()))?,
    };
    let client = Client::new(origin, context.named_ca()?.or(pending.ca_pem).as_deref(), None)?;
    let body = BreakGlassEvidence {
        client_key_sha256: data_encoding::HEXLOWER.encode(&challenge.client_key),
        challenge: pending.challenge,
        signatures,
    };
    tell(context, args, id, &client, &body).await
}

async fn tell(
    context: &Context,
    args: &DrillArgs,
    id: BreakGlassId,
    client: &Client,
    body: &BreakGlassEvidence,
) -> Result<(), Failure> {
    let (mut items, mut rows, mut failed) = (Vec::new(), Vec::new(), Vec::new());
    let mut channels = Channels::default();
    for node in nodes(client, &args.node)? {
        let answer = async {
            let json = node.client.post("/api/v1/breakglass/drills", body).await?;
            node.client.read::<BreakGlassDrill>(&json)
        };
        match answer.await {
            Ok(done) => {
                let took = Ttl::seconds(u32::try_from(done.took_seconds.max(0)).unwrap_or(u32::MAX));
                let recorded = if done.recorded { "yes" } else { "no" };
                let verdict = "would open".to_owned();
                rows.push(vec![
                    node.name.clone(),
                    verdict,
                    took.to_string(),
                    recorded.to_owned(),
                    done.custodians.join(", "),
                ]);
                channels.take(&node.name, done.channels.as_deref());
                items.push(json!({
                    "node": node.name, "verified": true, "took_seconds": done.took_seconds,
                    "recorded": done.recorded, "custodians": done.custodians, "channels": done.channels,
                }));
            }
            Err(error) => {
                let failure = Failure::from(error);
                let why = failure.problem.detail.clone().unwrap_or_else(|| failure.problem.title.clone());
                rows.push(vec![
                    node.name.clone(),
                    format!("failed: {why}"),
                    String::new(),
                    String::new(),
                    String::new(),
                ]);
                items.push(json!({ "node": node.name, "verified": false, "error": why }));
                failed.push(failure.exit);
            }
        }
    }
    let state = if failed.is_empty() { "drilled" } else { "failed" };
    if context.printer.format() == Format::Json {
        context.printer.json(&json!({ "id": id.to_string(), "state": state, "nodes": items }))?;
    } else {
        context.printer.table(&["NODE", "VERDICT", "TOOK", "RECORDED", "SIGNED BY"], &rows)?;
        if !channels.rows.is_empty() {
            context.printer.line("")?;
            context.printer.table(&["NODE", "CHANNEL", "TEST MESSAGE"], &channels.rows)?;
        }
    }
    match failed.into_iter().max_by_key(|exit| *exit == Exit::Denied) {
        None if channels.failed > 0 => Err(Failure::new(
            Exit::Failed,
            "channels_failed",
            "the door would have opened, but not everybody would have been told: see what the channels say",
        )),
        None => {
            context.printer.talk(&format!("Nothing was opened. {}", channels.told()));
            Ok(())
        }
        Some(exit) => Err(Failure::new(exit, "drill_failed", "the emergency path would not have worked everywhere")),
    }
}

/// What became of the test messages.
#[derive(Default)]
struct Channels {
    rows: Vec<Vec<String>>,
    taken: usize,
    failed: usize,
    /// Nodes that sent theirs when they were shown the drill before.
    before: usize,
}

impl Channels {
    fn take(&mut self, node: &str, channels: Option<&[DrillChannel]>) {
        let Some(channels) = channels else {
            self.before += 1;
            return;
        };
        for channel in channels {
            let said = match (channel.state.as_str(), &channel.error) {
                ("taken", _) => {
                    self.taken += 1;
                    "taken".to_owned()
                }
                ("not_asked", _) => "none: it is not told of openings".to_owned(),
                (_, why) => {
                    self.failed += 1;
                    format!("failed: {}", why.as_deref().unwrap_or("nobody knows why"))
                }
            };
            self.rows.push(vec![node.to_owned(), channel.name.clone(), said]);
        }
    }

    fn told(&self) -> String {
        match (self.taken, self.before) {
            (0, 0) => "No channel of `[notify]` would be told of an opening: nobody would know.".to_owned(),
            (0, _) => "Channels were tested when this drill was shown before.".to_owned(),
            (1, _) => "One channel took a test message.".to_owned(),
            (many, _) => format!("{many} channels took a test message."),
        }
    }
}
