//! `doorward logout`: ends the session at the server, then removes what it left on this machine.
//! The second happens even where the first can't.

use crate::model::BreakGlassId;
use crate::wire::oauth::CLI_CLIENT_ID;

use super::client::Client;
use super::context::Context;
use super::dial::Identity;
use super::exit::Exit;
use super::failure::Failure;
use super::renewal::{Freshness, freshness};

/// Signs out.
///
/// # Errors
/// Exit 3 when nobody is signed in; exit 6 when the server was not reached (key and certificate
/// are gone all the same).
pub async fn run(context: &Context) -> Result<(), Failure> {
    let profile = context.profile()?;
    let lock = profile.lock()?;
    let Some(session) = profile.load_locked(&lock)? else { return Err(context.nobody_signed_in()) };
    if BreakGlassId::parse(&session.record.session).is_ok() {
        // No server keeps a session of it: it ends by a statement that is signed, or by itself.
        profile.remove(&lock)?;
        context.printer.talk(&format!(
            "The opening's profile is removed from this machine. The opening goes on until {}: `doorward breakglass close {}` ends it.",
            session.record.expires_at, session.record.session
        ));
        return Ok(());
    }
    let origin = context.server_of(&session)?;
    let ca_pem = context.named_ca()?.or_else(|| session.ca_pem.clone());
    let usable = freshness(&session, context.clock.now()) != Freshness::Over;
    let identity =
        usable.then(|| Identity { certificate_pem: session.certificate_pem.clone(), key_pem: session.key_pem.clone() });
    let fields = [
        ("token", session.record.refresh_token.as_str()),
        ("token_type_hint", "refresh_token"),
        ("client_id", CLI_CLIENT_ID),
    ];
    let revoked = match Client::new(origin, ca_pem.as_deref(), identity.as_ref()) {
        Ok(client) => client.form_raw("/oauth2/revoke", &fields).await.map(|_| ()),
        Err(error) => Err(error),
    };
    profile.remove(&lock)?;
    match revoked.map_err(Failure::from) {
        Ok(()) => {
            context.printer.talk(&format!("Signed out of {}.", session.record.server));
            Ok(())
        }
        // The server ended it before: that is what was wanted.
        Err(failure) if failure.exit == Exit::SignedOut => {
            context.printer.talk(&format!("The session at {} had ended already.", session.record.server));
            Ok(())
        }
        Err(mut failure) => {
            let detail = failure.problem.detail.take().unwrap_or_default();
            failure.problem.detail = Some(format!(
                "key and certificate are removed from this machine, but the server was not told ({detail}); the session \
                 {} ends by itself at {}",
                session.record.session, session.record.expires_at
            ));
            Err(failure)
        }
    }
}
