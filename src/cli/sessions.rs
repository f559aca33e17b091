//! `doorward sessions`: which sign-ins are live.

use crate::wire::Session;

use super::args::{Format, SessionsArgs};
use super::context::Context;
use super::failure::Failure;
use super::printer::left;
use super::renewal::signed_in;

/// Prints live sessions: one's own, or all that one may revoke or audit.
///
/// # Errors
/// When nobody is signed in, or the server can't be asked.
pub async fn run(context: &Context, args: &SessionsArgs) -> Result<(), Failure> {
    let here = signed_in(context).await?;
    let path = if args.all { "/api/v1/sessions?all=true" } else { "/api/v1/sessions" };
    let page = here.client.list(path).await?;
    if context.printer.format() == Format::Json {
        return context.printer.page(&page);
    }
    let now = context.clock.now();
    let mut rows = Vec::new();
    for item in &page.items {
        let session: Session = here.client.read(item.get())?;
        rows.push(vec![
            session.id.clone(),
            session.principal.id.clone(),
            session.kind.clone(),
            session.device.map_or_else(|| "-".to_owned(), |device| device.id),
            session.created_at.to_string(),
            left(session.expires_at.0, now),
            if session.current { "yes".to_owned() } else { String::new() },
        ]);
    }
    context.printer.table(&["SESSION", "PRINCIPAL", "KIND", "DEVICE", "SINCE", "LEFT", "CURRENT"], &rows)
}
