//! The second, plain listener: `/metrics`, `/healthz`, `/readyz`. Its own address is what keeps it
//! apart; it answers nothing else. On loopback it answers no name but this machine's own: a browser here
//! could be led to it by a name that somebody else makes point here.

use std::collections::HashSet;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use axum::Router;
use axum::extract::{Request, State};
use axum::middleware::{Next, from_fn};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use http::header::{ACCEPT, HOST};
use http::uri::Authority;
use http::{HeaderMap, StatusCode};
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use prometheus_client::encoding::text::encode;
use prometheus_client::registry::Registry;
use serde_json::json;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::gateway::worker::Shared;
use crate::store::Keeping;

use super::accept;
use super::gauges::Gauges;
use super::tree::TreeState;

/// Open at a time: scrapers and probes are few, and what they hold open is taken from what the door has.
const CONNECTIONS_MAX: usize = 64;
/// One that asks for nothing for so long is cut, since others may wait for its place.
const HEAD_TIMEOUT: Duration = Duration::from_secs(30);

/// What the listener answers from.
pub struct Telemetry {
    /// The gateway.
    pub shared: Arc<Shared>,
    /// All metrics.
    pub registry: Registry,
    /// Gauges that are set when they are asked for.
    pub gauges: Gauges,
    /// The record's tree.
    pub tree: Arc<TreeState>,
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
    let local = listener.local_addr().is_ok_and(|address| address.ip().is_loopback());
    let router = if local { router.layer(from_fn(own_name)) } else { router };
    accept::until(listener, CONNECTIONS_MAX, stopping.cancelled(), move |stream| {
        let service = TowerToHyperService::new(router.clone());
        async move {
            let mut server = http1::Builder::new();
            server.timer(TokioTimer::new()).header_read_timeout(HEAD_TIMEOUT);
            // A scraper that broke off is its own affair.
            let _ = server.serve_connection(TokioIo::new(stream), service).await;
        }
    })
    .await;
}

/// Lets only requests for an address or `localhost` pass.
async fn own_name(request: Request, next: Next) -> Response {
    // Who sends none is no browser.
    let Some(host) = request.headers().get(HOST) else { return next.run(request).await };
    let host = host.to_str().unwrap_or_default();
    let name = host.parse::<Authority>().map(|authority| authority.host().trim_matches(['[', ']']).to_owned());
    let own = name.is_ok_and(|name| name.eq_ignore_ascii_case("localhost") || name.parse::<IpAddr>().is_ok());
    if own { next.run(request).await } else { StatusCode::MISDIRECTED_REQUEST.into_response() }
}

async fn metrics(State(telemetry): State<Arc<Telemetry>>, headers: HeaderMap) -> Response {
    telemetry.gauges.set(&telemetry.shared, &telemetry.tree);
    let mut text = String::new();
    if encode(&mut text, &telemetry.registry).is_err() {
        return StatusCode::INTERNAL_SERVER_ERROR.into_response();
    }
    let accepted = headers.get(ACCEPT).and_then(|value| value.to_str().ok()).unwrap_or_default();
    if accepted.contains("application/openmetrics-text") {
        let content_type = "application/openmetrics-text; version=1.0.0; charset=utf-8";
        return ([("content-type", content_type)], text).into_response();
    }
    ([("content-type", "text/plain; version=0.0.4; charset=utf-8")], classic(&text)).into_response()
}

/// OpenMetrics in the older text form, for scrapers that do not ask for the newer: there a counter's
/// family has the name of its samples, and there are neither units nor an end mark.
fn classic(text: &str) -> String {
    let counter =
        |line: &str| line.strip_prefix("# TYPE ").and_then(|rest| rest.strip_suffix(" counter").map(str::to_owned));
    let counters: HashSet<String> = text.lines().filter_map(counter).collect();
    let mut out = String::with_capacity(text.len());
    for line in text.lines().filter(|line| !line.starts_with("# UNIT ") && *line != "# EOF") {
        let mut words = line.splitn(4, ' ');
        match (words.next(), words.next(), words.next(), words.next()) {
            (Some("#"), Some(kind), Some(name), Some(rest)) if counters.contains(name) => {
                out.push_str(&format!("# {kind} {name}_total {rest}"));
            }
            _ => out.push_str(line),
        }
        out.push('\n');
    }
    out
}

async fn healthz() -> &'static str {
    "ok\n"
}

/// Answers 200 while requests are judged, recorded and passed on, also into the spool: a load balancer that
/// took every node away the moment the database goes would undo what the spool is for. The words tell of it.
async fn readyz(State(telemetry): State<Arc<Telemetry>>) -> Response {
    let shared = &telemetry.shared;
    let now = shared.clock.now();
    let draining = shared.draining.is_cancelled();
    let stale = shared.directory.confirmed_at().plus(shared.settings.stale_max).is_over(now);
    let emergency = shared.emergency.load(Ordering::Acquire);
    let keeping = shared.recorder.state().keeping;
    let takes_requests = !draining && !stale && !emergency && keeping != Keeping::Nowhere;
    let status = if draining {
        "draining"
    } else if takes_requests && keeping == Keeping::Database {
        "ready"
    } else {
        "degraded"
    };
    let code = if takes_requests { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let body = json!({
        "status": status,
        "record": match keeping {
            Keeping::Database => "ok",
            Keeping::Spool => "spool",
            Keeping::Nowhere => "away",
        },
        "mode": if emergency { "emergency" } else { "normal" },
        "revocations": if stale { "stale" } else { "confirmed" },
    });
    (code, [("content-type", "application/json")], body.to_string()).into_response()
}
