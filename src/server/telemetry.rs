//! The second, plain listener: `/metrics`, `/healthz`, `/readyz`. Its own address is what keeps it
//! apart; it answers nothing else.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use http::StatusCode;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use prometheus_client::encoding::text::encode;
use prometheus_client::registry::Registry;
use serde_json::json;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::gateway::worker::Shared;

use super::gauges::Gauges;

/// What the listener answers from.
pub struct Telemetry {
    /// The gateway.
    pub shared: Arc<Shared>,
    /// All metrics.
    pub registry: Registry,
    /// Gauges that are set when they are asked for.
    pub gauges: Gauges,
}

/// Opens the listener.
///
/// # Errors
/// When the address is taken or may not be used.
pub async fn open(address: SocketAddr) -> io::Result<TcpListener> {
    TcpListener::bind(address).await
}

/// Answers until `stopping`.
pub async fn run(telemetry: Arc<Telemetry>, listener: TcpListener, stopping: CancellationToken) {
    let router = Router::new()
        .route("/metrics", get(metrics))
        .route("/healthz", get(healthz))
        .route("/readyz", get(readyz))
        .with_state(telemetry);
    let tasks = TaskTracker::new();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = stopping.cancelled() => break,
        };
        let Ok((stream, _)) = accepted else {
            continue;
        };
        let service = TowerToHyperService::new(router.clone());
        let stopping = stopping.clone();
        tasks.spawn(async move {
            let connection =
                http1::Builder::new().timer(TokioTimer::new()).serve_connection(TokioIo::new(stream), service);
            tokio::select! {
                // A scraper that broke off is its own affair.
                _ = connection => {}
                () = stopping.cancelled() => {}
            }
        });
    }
    tasks.close();
    tasks.wait().await;
}

async fn metrics(State(telemetry): State<Arc<Telemetry>>) -> Response {
    telemetry.gauges.set(&telemetry.shared);
    let mut text = String::new();
    match encode(&mut text, &telemetry.registry) {
        Ok(()) => {
            let content_type = "application/openmetrics-text; version=1.0.0; charset=utf-8";
            ([("content-type", content_type)], text).into_response()
        }
        Err(_) => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    }
}

async fn healthz() -> &'static str {
    "ok\n"
}

/// Ready means: requests are judged, recorded and passed on at this moment.
async fn readyz(State(telemetry): State<Arc<Telemetry>>) -> Response {
    let shared = &telemetry.shared;
    let now = shared.clock.now();
    let draining = shared.draining.is_cancelled();
    let stale = shared.directory.confirmed_at().plus(shared.settings.stale_max).is_over(now);
    let away = shared.recorder.state().away;
    let status = if draining {
        "draining"
    } else if stale || away {
        "degraded"
    } else {
        "ready"
    };
    let code = if status == "ready" { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let body = json!({
        "status": status,
        "record": if away { "away" } else { "ok" },
        "revocations": if stale { "stale" } else { "confirmed" },
    });
    (code, [("content-type", "application/json")], body.to_string()).into_response()
}
