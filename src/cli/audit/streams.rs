//! `doorward audit streams` and `audit schema`: who gets the record as it grows, and what its events look
//! like.

use crate::audit::schema::line;
use crate::cli::args::Format;
use crate::cli::context::Context;
use crate::cli::failure::Failure;
use crate::cli::renewal::signed_in;
use crate::model::Ttl;
use crate::wire::{AuditStream, Page};

/// Lists streams.
///
/// # Errors
/// When nobody is signed in, the server can't be asked, or one may not read the record (exit 4).
pub async fn list(context: &Context) -> Result<(), Failure> {
    let here = signed_in(context).await?;
    let json = here.client.get("/api/v1/audit/streams").await?;
    if context.printer.format() == Format::Json {
        return context.printer.resource(&json);
    }
    let page: Page<AuditStream> = here.client.read(&json)?;
    if page.items.is_empty() {
        context.printer.talk("Nobody gets the record: there is no `[[audit.stream]]` in doorward.toml.");
        return Ok(());
    }
    let row = |stream: &AuditStream| {
        let position = |position: &crate::wire::AuditStreamPosition| format!("{}/{}", position.next, position.size);
        vec![
            stream.name.clone(),
            stream.kind.clone(),
            stream.format.clone(),
            stream.state.clone(),
            stream.positions.iter().map(position).collect::<Vec<_>>().join(" "),
            format!("{} events, {}", stream.lag_events, length(stream.lag_seconds)),
            stream.sent_at.map_or_else(|| "never".to_owned(), |at| at.to_string()),
            stream.error.clone().unwrap_or_default(),
        ]
    };
    let rows: Vec<_> = page.items.iter().map(row).collect();
    context.printer.table(&["STREAM", "KIND", "FORMAT", "STATE", "POSITION", "LAG", "LAST TAKEN", "ERROR"], &rows)
}

fn length(seconds: u64) -> Ttl {
    Ttl::seconds(u32::try_from(seconds).unwrap_or(u32::MAX))
}

/// Prints the schema of an event, as this program writes it; asks nobody.
///
/// # Errors
/// When standard output is gone.
pub fn schema(context: &Context) -> Result<(), Failure> {
    context.printer.json(&line())
}
