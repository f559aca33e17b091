//! `doorward breakglass close`: a signed statement that an opening is over, brought to each node.

use p256::SecretKey;
use p256::elliptic_curve::sec1::ToEncodedPoint;
use p256::pkcs8::DecodePrivateKey;
use serde_json::json;
use ssh_key::private::{EcdsaKeypair, KeypairData};
use ssh_key::{HashAlg, LineEnding, PrivateKey};

use crate::cli::args::Format;
use crate::cli::client::Client;
use crate::cli::context::Context;
use crate::cli::exit::Exit;
use crate::cli::failure::Failure;
use crate::cli::origin::Origin;
use crate::model::BreakGlassId;
use crate::model::breakglass::Challenge;
use crate::model::closing::{CLOSE_NAMESPACE, Closing};
use crate::wire::{BreakGlassClose, BreakGlassClosed, BreakGlassEvidence, Time};

use super::CloseArgs;
use super::nodes::nodes;
use super::pending::Pending;
use super::sign::signed;
use super::terms::{Terms, anonymous};

/// Closes an opening at every node that is named.
///
/// # Errors
/// Exit 4 when a node does not take the statement; exit 6 when one can't be reached.
pub async fn run(context: &Context, args: &CloseArgs) -> Result<(), Failure> {
    let (statement, client) = match &args.key {
        Some(key) => {
            let terms = Terms::find(context, args.config.as_deref()).await?;
            let text = closing(context, args, terms.trust_domain.clone()).text();
            let passphrase = args.passphrase_file.as_deref();
            let signature = signed(context, key, passphrase, CLOSE_NAMESPACE, text.as_bytes())?;
            let client = client_of(context, &terms)?;
            (BreakGlassClose { statement: text, signature, evidence: None }, client)
        }
        None => by_client_key(context, args)?,
    };
    let path = format!("/api/v1/breakglass/{}/close", args.id);
    let (mut closed, mut failed) = (Vec::new(), Vec::new());
    for node in nodes(&client, &args.node)? {
        let answer = async {
            let json = node.client.post(&path, &statement).await?;
            node.client.read::<BreakGlassClosed>(&json)
        };
        match answer.await {
            Ok(answer) => {
                context.printer.talk(&format!("{}: closed by {}", node.name, answer.by));
                closed.push(node.name);
            }
            Err(error) => {
                let failure = Failure::from(error);
                let why = failure.problem.detail.clone().unwrap_or_else(|| failure.problem.title.clone());
                context.printer.talk(&format!("{}: not closed: {why}", node.name));
                failed.push((node.name, why, failure.exit));
            }
        }
    }
    if !closed.is_empty() {
        closed_here(context, args.id);
    }
    let open: Vec<_> = failed.iter().map(|(name, why, _)| json!({ "node": name, "error": why })).collect();
    let state = if failed.is_empty() { "closed" } else { "open" };
    let told = json!({ "id": args.id.to_string(), "state": state, "nodes": closed, "failed": open });
    if context.printer.format() == Format::Json {
        context.printer.json(&told)?;
    }
    match failed.iter().map(|(_, _, exit)| *exit).max_by_key(|exit| *exit == Exit::Denied) {
        None => Ok(()),
        Some(exit) => Err(Failure::new(
            exit,
            "still_open",
            format!(
                "`{}` is not closed everywhere; nodes that were not reached honour it until it ends by itself",
                args.id
            ),
        )),
    }
}

/// Keeps that it is closed, where it was begun on this machine: it is not gone on with here. It is closed all
/// the same where that can't be kept.
fn closed_here(context: &Context, id: BreakGlassId) {
    let Ok(mut pending) = Pending::load(context, id) else { return };
    pending.closed_at.get_or_insert(Time(context.clock.now()));
    if let Err(failure) = pending.update(context, id) {
        let why = failure.problem.detail.unwrap_or_default();
        context.printer.talk(&format!("that it is closed could not be kept here: {why}"));
    }
}

fn closing(context: &Context, args: &CloseArgs, trust_domain: String) -> Closing {
    Closing { id: args.id, trust_domain, time: context.clock.now() }
}

/// The server that is named, else the one of the configuration.
fn client_of(context: &Context, terms: &Terms) -> Result<Client, Failure> {
    if context.named_server()?.is_some() || terms.config.is_none() {
        return anonymous(context).map(|(client, _)| client);
    }
    let origin = Origin::parse(&terms.server).map_err(|error| Failure::failed(error.to_string()))?;
    Ok(Client::new(origin, context.named_ca()?.as_deref(), None)?)
}

/// The statement signed by the opening's own client key, with what opened it.
fn by_client_key(context: &Context, args: &CloseArgs) -> Result<(BreakGlassClose, Client), Failure> {
    let pending = Pending::load(context, args.id).map_err(|mut failure| {
        let told = failure.problem.detail.unwrap_or_default();
        failure.problem.detail = Some(format!("{told}; a custodian closes from anywhere with `--key KEY`"));
        failure
    })?;
    if pending.signatures.is_empty() {
        return Err(Failure::usage(format!("`{}` was never opened here: there is nothing to close", args.id)));
    }
    let challenge = Challenge::parse(pending.challenge.as_bytes())
        .map_err(|error| Failure::failed(format!("the kept challenge: {error}")))?;
    let text = closing(context, args, challenge.trust_domain.clone()).text();
    let wrong = |error: &dyn std::fmt::Display| Failure::failed(format!("signing with the client key: {error}"));
    let secret = SecretKey::from_pkcs8_pem(&pending.key_pem).map_err(|error| wrong(&error))?;
    let public = secret.public_key().to_encoded_point(false);
    let pair = KeypairData::Ecdsa(EcdsaKeypair::NistP256 { public, private: secret.into() });
    let key = PrivateKey::new(pair, "").map_err(|error| wrong(&error))?;
    let signature = key.sign(CLOSE_NAMESPACE, HashAlg::Sha512, text.as_bytes()).map_err(|error| wrong(&error))?;
    let signature = signature.to_pem(LineEnding::LF).map_err(|error| wrong(&error))?;
    let evidence = BreakGlassEvidence {
        client_key_sha256: data_encoding::HEXLOWER.encode(&challenge.client_key),
        challenge: pending.challenge,
        signatures: pending.signatures,
    };
    let origin = match context.named_server()? {
        Some(named) => named,
        None => Origin::parse(&pending.server).map_err(|error| Failure::failed(error.to_string()))?,
    };
    let ca_pem = context.named_ca()?.or(pending.ca_pem);
    let client = Client::new(origin, ca_pem.as_deref(), None)?;
    Ok((BreakGlassClose { statement: text, signature, evidence: Some(evidence) }, client))
}
