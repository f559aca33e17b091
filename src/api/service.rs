//! `services`, `entitlements`.

use std::sync::Arc;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;

use crate::control::{Desk, service};
use crate::wire::Page;

use super::caller::Proven;
use super::decided::json;
use super::shape::{self, Requestable};

const JSON: &str = "application/json";

/// All services, with what the caller may do with each.
pub async fn list(State(desk): State<Arc<Desk>>, Proven { caller, now }: Proven) -> Response {
    let found = service::list(&desk, &caller, now);
    let items = found.iter().map(|reachable| {
        let url = reachable.service.hosts.first().map(|host| desk.settings.url_of(host));
        shape::service(reachable, url.unwrap_or_default())
    });
    json(StatusCode::OK, JSON, &Page::whole(items.collect()))
}

/// All entitlements, with whether the caller may ask for each.
pub async fn entitlements(State(desk): State<Arc<Desk>>, Proven { caller, now }: Proven) -> Response {
    let found = service::entitlements(&desk, &caller, now);
    let items = found
        .iter()
        .map(|(definition, may)| shape::entitlement(definition, if *may { Requestable::Yes } else { Requestable::No }));
    json(StatusCode::OK, JSON, &Page::whole(items.collect()))
}
