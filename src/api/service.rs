//! `services`, `entitlements`.

use std::sync::Arc;

use axum::extract::{RawQuery, State};
use axum::response::Response;

use crate::control::{Desk, service};
use crate::wire::{Entitlement, Service};

use super::answer::ApiError;
use super::caller::Proven;
use super::decided::answered;
use super::paging::{self, Order};
use super::shape::{self, Requestable};

/// All services, with what the caller may do with each: `?cursor=…&limit=…`
pub async fn list(
    State(desk): State<Arc<Desk>>,
    Proven { caller, now }: Proven,
    RawQuery(query): RawQuery,
) -> Result<Response, ApiError> {
    let found = service::list(&desk, &caller, now);
    let items = found.iter().map(|reachable| {
        let url = reachable.service.hosts.first().map(|host| desk.settings.url_of(host));
        shape::service(reachable, url.unwrap_or_default())
    });
    let page =
        paging::of_whole(query.as_deref(), items.collect(), Order::Ascending, |service: &Service| &service.name)?;
    Ok(answered(&page))
}

/// All entitlements, with whether the caller may ask for each: `?cursor=…&limit=…`
pub async fn entitlements(
    State(desk): State<Arc<Desk>>,
    Proven { caller, now }: Proven,
    RawQuery(query): RawQuery,
) -> Result<Response, ApiError> {
    let found = service::entitlements(&desk, &caller, now);
    let items = found
        .iter()
        .map(|(definition, may)| shape::entitlement(definition, if *may { Requestable::Yes } else { Requestable::No }));
    let page = paging::of_whole(query.as_deref(), items.collect(), Order::Ascending, |entitlement: &Entitlement| {
        &entitlement.name
    })?;
    Ok(answered(&page))
}
