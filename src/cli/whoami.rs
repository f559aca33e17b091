//! `doorward whoami`: who is signed in, as the server sees it.

use crate::model::BreakGlassId;
use crate::wire::Whoami;

use super::args::Format;
use super::context::Context;
use super::exit::Exit;
use super::failure::Failure;
use super::printer::left;
use super::renewal::signed_in;

/// Prints principal, session, groups and active grants.
///
/// # Errors
/// When nobody is signed in, or the server can't be asked.
pub async fn run(context: &Context) -> Result<(), Failure> {
    let here = signed_in(context).await?;
    let held = &here.session.record;
    if held.session.starts_with(BreakGlassId::PREFIX) {
        let profile = here.profile.name();
        let told = format!(
            "nobody is signed in: the profile `{profile}` holds the opening `{}`, until {}; it is used with \
             `doorward --profile {profile} curl …`",
            held.session, held.expires_at.0
        );
        return Err(Failure::new(Exit::SignedOut, "no_credential", told));
    }
    let json = here.client.get("/api/v1/whoami").await?;
    if context.printer.format() == Format::Json {
        return context.printer.resource(&json);
    }
    let whoami: Whoami = here.client.read(&json)?;
    let now = context.clock.now();
    let principal = &whoami.principal;
    let mut pairs = vec![("principal", principal.text())];
    let mut add = |name, value: Option<String>| pairs.extend(value.map(|value| (name, value)));
    add("name", principal.name.clone());
    add("email", principal.email.clone());
    add("groups", Some(listed(&whoami.groups)));
    add("session", Some(whoami.session.id.clone()));
    add("device", whoami.session.device.as_ref().map(|device| device.id.clone()));
    add("ends", Some(format!("{}, in {}", whoami.expires_at, left(whoami.expires_at.0, now))));
    for grant in &whoami.grants {
        add("grant", Some(format!("{} {}, {} left", grant.id, grant.entitlement, left(grant.expires_at.0, now))));
    }
    add("server", Some(here.origin.to_string()));
    context.printer.pairs(&pairs)
}

/// Names with commas between; `-` for none.
pub(in crate::cli) fn listed(names: &[String]) -> String {
    if names.is_empty() { "-".to_owned() } else { names.join(", ") }
}
