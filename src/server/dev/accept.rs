//! The accept loop of both development servers.
//!
//! INVARIANT: connections live in a set that this function owns; when it returns, or is dropped,
//! none is left.

use std::future::Future;

use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

/// Open at a time; more wait in the kernel's queue.
const CONNECTIONS_MAX: usize = 4096;

/// Serves each connection with `serve` until `shutdown` comes; open ones are then cut.
pub(super) async fn until<S, F>(listener: TcpListener, shutdown: impl Future<Output = ()>, serve: S)
where
    S: Fn(TcpStream) -> F,
    F: Future<Output = ()> + Send + 'static,
{
    let mut connections = JoinSet::new();
    let mut shutdown = std::pin::pin!(shutdown);
    loop {
        tokio::select! {
            () = &mut shutdown => break,
            Some(_) = connections.join_next(), if !connections.is_empty() => {}
            accepted = listener.accept(), if connections.len() < CONNECTIONS_MAX => match accepted {
                Ok((stream, _)) => {
                    // Small answers should not wait for more (RFC 9293 §3.7.4).
                    let _ = stream.set_nodelay(true);
                    connections.spawn(serve(stream));
                }
                // Out of file descriptors, or the client left already: the next may do better.
                Err(_) => tokio::time::sleep(std::time::Duration::from_millis(20)).await,
            },
        }
    }
    connections.shutdown().await;
}
