//! The accept loop of the plain listeners: metrics and health, and both development servers.
//!
//! INVARIANT: connections live in a set that this function owns; when it returns, or is dropped,
//! none is left.

use std::future::Future;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

/// How long it rests after a connection could not be taken.
const REST: Duration = Duration::from_millis(20);

/// Serves each connection with `serve` until `shutdown` comes; open ones are then cut. `connections_max` are open
/// at a time, and more wait in the kernel's queue.
pub(in crate::server) async fn until<S, F>(
    listener: TcpListener,
    connections_max: usize,
    shutdown: impl Future<Output = ()>,
    serve: S,
) where
    S: Fn(TcpStream) -> F,
    F: Future<Output = ()> + Send + 'static,
{
    let mut connections = JoinSet::new();
    let mut shutdown = std::pin::pin!(shutdown);
    loop {
        tokio::select! {
            () = &mut shutdown => break,
            Some(_) = connections.join_next(), if !connections.is_empty() => {}
            accepted = listener.accept(), if connections.len() < connections_max => match accepted {
                Ok((stream, _)) => {
                    // Small answers should not wait for more (RFC 9293 §3.7.4).
                    let _ = stream.set_nodelay(true);
                    connections.spawn(serve(stream));
                }
                // Out of file descriptors, or the client left already: the next may do better, but not at once.
                Err(_) => tokio::time::sleep(REST).await,
            },
        }
    }
    connections.shutdown().await;
}
