//! The control API and the OAuth endpoints: HTTP in front of the operations of `control/`.
//!
//! INVARIANTS: handlers decide nothing, they read the request, call one operation and write its
//! answer; every answer passes `decided.rs`, which names the decision, writes refusals and puts
//! them on record; every route stands in one table, from which router, OpenAPI document and the
//! access test are made.

mod access_request;
mod answer;
mod audit;
mod audit_stream;
mod audit_view;
mod breakglass;
mod caller;
mod convergence;
mod credential;
mod decided;
mod decision;
mod discovery;
mod erasure;
mod fields;
mod grant;
mod idempotent;
mod lock;
mod lost;
mod notice;
mod oauth;
pub mod openapi;
mod paging;
mod review;
mod schema;
mod service;
mod session;
mod shape;

use std::sync::Arc;

use axum::Router;
use axum::middleware::from_fn_with_state;
use axum::routing::{MethodRouter, get, post};

use crate::control::Desk;

pub use decided::{DECISION_HEADER, decided};

/// What a route needs of its caller.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Needs {
    /// Nothing: public, or it checks what is in the request itself.
    Nobody,
    /// A browser that is signed in, else it is sent to sign in.
    Browser,
    /// A session, proven.
    Session,
    /// A session, proven by its certificate.
    Certificate,
}

/// One route of the control host.
#[derive(Debug, Clone, Copy)]
pub struct Route {
    /// `GET` or `POST`.
    pub method: &'static str,
    /// With `{parameters}`, as axum and OpenAPI both write them.
    pub path: &'static str,
    /// What it needs of its caller.
    pub needs: Needs,
}

macro_rules! routes {
    ($($method:ident $path:literal $needs:ident => $handler:path;)*) => {
        /// Every route of this room.
        pub const ROUTES: &[Route] = &[
            $(Route { method: method!($method), path: $path, needs: Needs::$needs },)*
        ];

        fn table() -> Vec<(&'static str, MethodRouter<Arc<Desk>>)> {
            vec![$(($path, $method($handler)),)*]
        }
    };
}
macro_rules! method {
    (get) => {
        "GET"
    };
    (post) => {
        "POST"
    };
}

routes! {
    get "/api/v1/whoami" Session => session::whoami;
    get "/api/v1/services" Session => service::list;
    get "/api/v1/entitlements" Session => service::entitlements;
    get "/api/v1/sessions" Session => session::list;
    post "/api/v1/sessions/{id}/revoke" Session => session::revoke;
    get "/api/v1/requests" Session => access_request::list;
    post "/api/v1/requests" Session => access_request::create;
    get "/api/v1/requests/{id}" Session => access_request::fetch;
    get "/api/v1/requests/{id}/approvals" Session => access_request::approvals;
    post "/api/v1/requests/{id}/approvals" Session => access_request::answer;
    post "/api/v1/requests/{id}/withdraw" Session => access_request::withdraw;
    get "/api/v1/grants" Session => grant::list;
    get "/api/v1/grants/{id}" Session => grant::fetch;
    post "/api/v1/grants/{id}/extend" Session => grant::extend;
    post "/api/v1/grants/{id}/drop" Session => grant::drop;
    post "/api/v1/grants/{id}/revoke" Session => grant::revoke;
    get "/api/v1/credentials" Session => credential::list;
    get "/api/v1/credentials/{id}" Session => credential::fetch;
    post "/api/v1/credentials/{id}/revoke" Session => credential::revoke;
    get "/api/v1/leases" Session => credential::leases;
    get "/api/v1/locks" Session => lock::list;
    post "/api/v1/locks" Session => lock::set;
    post "/api/v1/locks/clear" Session => lock::clear;
    get "/api/v1/notices" Session => notice::list;
    post "/api/v1/notices/{id}/retry" Session => notice::retry;
    get "/api/v1/reviews" Session => review::list;
    post "/api/v1/reviews" Session => review::start;
    get "/api/v1/reviews/{id}" Session => review::fetch;
    post "/api/v1/reviews/{id}/items/{item}/decision" Session => review::decide;
    post "/api/v1/reviews/{id}/close" Session => review::close;
    get "/api/v1/breakglass" Session => breakglass::list;
    get "/api/v1/breakglass/terms" Nobody => breakglass::terms;
    post "/api/v1/breakglass/check" Nobody => breakglass::check;
    post "/api/v1/breakglass/drills" Nobody => breakglass::drill;
    get "/api/v1/breakglass/{id}" Session => breakglass::fetch;
    post "/api/v1/breakglass/{id}/close" Nobody => breakglass::close;
    post "/api/v1/breakglass/{id}/reviews" Session => breakglass::review;
    get "/api/v1/decisions/{id}" Session => decision::fetch;
    get "/api/v1/audit/events" Session => audit::events;
    get "/api/v1/audit/export" Session => audit::export;
    get "/api/v1/audit/who" Session => audit_view::who;
    get "/api/v1/audit/grants/{id}" Session => audit_view::grant;
    get "/api/v1/audit/logs" Session => audit::logs;
    get "/api/v1/audit/checkpoint" Session => audit::checkpoint;
    get "/api/v1/audit/inclusion" Session => audit::inclusion;
    get "/api/v1/audit/consistency" Session => audit::consistency;
    get "/api/v1/audit/streams" Session => audit_stream::list;
    get "/api/v1/audit/schema" Session => audit_stream::event_schema;
    get "/api/v1/audit/erasures" Session => erasure::list;
    post "/api/v1/audit/erasures" Session => erasure::create;
    get "/api/v1/audit/erasures/{id}" Session => erasure::fetch;
    get "/api/v1/policies/convergence" Session => convergence::list;
    get "/api/v1/openapi.json" Nobody => openapi::document;
    get "/oauth2/authorize" Browser => oauth::authorize;
    post "/oauth2/token" Nobody => oauth::token;
    post "/oauth2/device_authorization" Nobody => oauth::device_authorization;
    post "/oauth2/introspect" Certificate => oauth::introspect;
    post "/oauth2/revoke" Nobody => oauth::revoke;
    get "/oauth2/jwks" Nobody => discovery::jwks;
    get "/.well-known/oauth-authorization-server" Nobody => discovery::server;
    get "/.well-known/openid-configuration" Nobody => discovery::server;
    get "/.well-known/oauth-protected-resource" Nobody => discovery::resource;
}

/// This room's routes, to be merged with pages and wrapped by [`decided`].
pub fn routes(desk: Arc<Desk>) -> Router {
    let mut router = Router::new();
    for (route, (path, handler)) in ROUTES.iter().zip(table()) {
        // A key counts for one principal: where nobody need be one, there is none to count for.
        let handler = match route.needs {
            Needs::Nobody => handler,
            Needs::Browser | Needs::Session | Needs::Certificate => {
                handler.route_layer(from_fn_with_state(Arc::clone(&desk), idempotent::once))
            }
        };
        router = router.route(path, handler);
    }
    router.with_state(desk)
}

/// The whole control host without pages.
pub fn router(desk: Arc<Desk>) -> Router {
    decided(routes(Arc::clone(&desk)), desk)
}
