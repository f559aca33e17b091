//! A long answer of the server, line by line: it is never whole in memory.

use http::{Method, Request, StatusCode, header};
use http_body_util::{BodyExt, Empty, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::timeout;

use crate::cli::client::{Client, ClientError};
use crate::cli::dial;
use crate::cli::failure::Failure;
use crate::wire::Problem;

/// How long the server may be silent.
const SILENCE_MAX: Duration = Duration::from_secs(60);
/// The longest line: the evidence of an export is one.
const LINE_BYTES_MAX: usize = 64 * 1024 * 1024;
/// The longest refusal that is read.
const REFUSAL_BYTES_MAX: usize = 1024 * 1024;

/// Gets `path` and gives its lines, without their line feeds, to `each`.
///
/// # Errors
/// When there is no answer, it is a refusal, it breaks off, or `each` fails.
pub async fn lines(
    client: &Client,
    path: &str,
    mut each: impl FnMut(&[u8]) -> Result<(), Failure>,
) -> Result<(), Failure> {
    let origin = client.origin();
    let (host, port) = (origin.host(), origin.port());
    let stream = dial::connect(&host, port).await.map_err(ClientError::from)?;
    let stream = dial::secure(stream, &host, port, Arc::clone(client.tls())).await.map_err(ClientError::from)?;
    let server = origin.to_string();
    let failed = |source: hyper::Error| ClientError::Exchange { server: server.clone(), source: source.into() };
    let request = Request::builder()
        .method(Method::GET)
        .uri(path)
        .header(header::HOST, origin.authority())
        .header(header::USER_AGENT, concat!("doorward/", env!("CARGO_PKG_VERSION")))
        .body(Empty::<bytes::Bytes>::new())
        .map_err(|error| Failure::failed(error.to_string()))?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(failed)?;
    let slow = || ClientError::Slow { server: server.clone() };
    let reading = async {
        let response = timeout(SILENCE_MAX, sender.send_request(request)).await.map_err(|_| slow())?.map_err(failed)?;
        let status = response.status();
        if status != StatusCode::OK {
            let body = Limited::new(response.into_body(), REFUSAL_BYTES_MAX).collect().await;
            let body = body.map_err(|error| Failure::failed(error.to_string()))?.to_bytes();
            let mut problem: Problem = serde_json::from_slice(&body)
                .map_err(|_| Failure::failed(format!("`{server}` answered {status} without a reason")))?;
            problem.status = status.as_u16();
            return Err(ClientError::Refused(Box::new(problem)).into());
        }
        let mut body = response.into_body();
        let mut rest: Vec<u8> = Vec::new();
        while let Some(frame) = timeout(SILENCE_MAX, body.frame()).await.map_err(|_| slow())? {
            let Ok(data) = frame.map_err(failed)?.into_data() else { continue };
            let mut pieces = data.split(|byte| *byte == b'\n');
            if let Some(first) = pieces.next() {
                rest.extend_from_slice(first);
            }
            for piece in pieces {
                each(&rest)?;
                rest.clear();
                rest.extend_from_slice(piece);
            }
            if rest.len() > LINE_BYTES_MAX {
                return Err(Failure::failed(format!("`{server}` sent a line without an end")));
            }
        }
        if rest.is_empty() { Ok(()) } else { Err(Failure::failed(format!("the answer of `{server}` broke off"))) }
    };
    tokio::pin!(connection, reading);
    tokio::select! {
        done = &mut reading => done,
        // The connection's end hands its error, or the rest of the answer, to the one who reads.
        _ = &mut connection => reading.await,
    }
}
