//! An upstream that costs as little as it can: HTTP/1.1 keep-alive, a body that is there already.

use std::convert::Infallible;
use std::net::SocketAddr;

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;

/// The largest body that a path may ask for.
const BODY_BYTES_MAX: usize = 64 << 20;

/// Listens until the process is ended; prints its address first.
pub async fn serve(listen: SocketAddr, bytes: usize) {
    let listener = tokio::net::TcpListener::bind(listen).await.expect("the address is free");
    println!("{}", serde_json::json!({"address": listener.local_addr().unwrap().to_string()}));
    let zeroes = Bytes::from(vec![b'0'; BODY_BYTES_MAX]);
    loop {
        let Ok((stream, _)) = listener.accept().await else { continue };
        let _ = stream.set_nodelay(true);
        let zeroes = zeroes.clone();
        let answer = service_fn(move |request: Request<Incoming>| {
            let asked = request.uri().path().rsplit('/').next().and_then(|last| last.parse().ok());
            let body = zeroes.slice(..asked.unwrap_or(bytes).min(BODY_BYTES_MAX));
            async move { Ok::<_, Infallible>(Response::new(Full::new(body))) }
        });
        tokio::task::spawn_local(async move {
            let _ = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), answer).await;
        });
    }
}
