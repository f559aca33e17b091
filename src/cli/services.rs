//! `doorward services`: what there is, and for each whether it is allowed, can be asked for, or is
//! denied.

use crate::wire::{Access, Service};

use super::args::Format;
use super::context::Context;
use super::failure::Failure;
use super::renewal::signed_in;
use super::table;
use super::whoami::listed;

/// Prints the services.
///
/// # Errors
/// When nobody is signed in, or the server can't be asked.
pub async fn run(context: &Context) -> Result<(), Failure> {
    let here = signed_in(context).await?;
    let page = here.client.list("/api/v1/services").await?;
    if context.printer.format() == Format::Json {
        return context.printer.page(&page);
    }
    let (mut rows, mut healths) = (Vec::new(), Vec::new());
    for item in &page.items {
        let service: Service = here.client.read(item.get())?;
        let actions = |access| -> Vec<String> {
            service.actions.iter().filter(|action| action.access == access).map(|action| action.name.clone()).collect()
        };
        rows.push(vec![
            service.name.clone(),
            service.access.to_string(),
            service.url.clone(),
            listed(&actions(Access::Allowed)),
            listed(&service.entitlements),
            service.description.clone(),
        ]);
        let health = service.health.as_ref();
        let health = health.map(|it| format!("{}, {} of {}", it.state, it.healthy, it.upstreams));
        healths.push(health.unwrap_or_default());
    }
    if rows.is_empty() {
        context.printer.talk("There are no services behind this door yet.");
        return Ok(());
    }
    let mut header = vec!["SERVICE", "ACCESS", "URL", "ALLOWED ACTIONS", "CAN BE ASKED FOR", "DESCRIPTION"];
    table::insert(&mut header, &mut rows, (2, "UPSTREAMS"), healths);
    context.printer.table(&header, &rows)
}
