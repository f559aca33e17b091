//! The accept loop of one data-path thread.
//!
//! Each thread has its own socket on the shared port (`SO_REUSEPORT`), its own tasks and pools.
//! A client that stalls in its handshake is a task of its own and keeps nobody else waiting.

use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::TcpListener;

use crate::model::address::counted_address;

use super::connection::serve;
use super::worker::{Shared, Worker};

/// Connections that the kernel keeps while they wait to be accepted.
const BACKLOG: i32 = 1024;
/// How long to wait after an accept that failed for want of file descriptors.
const PAUSE: Duration = Duration::from_millis(50);
/// How long connections have to end once they must.
const LAST_MOMENT: Duration = Duration::from_secs(1);

/// Opens one listening socket on `address`; several may be open on one port.
///
/// # Errors
/// When the port is taken by someone else or may not be used.
pub fn open(address: SocketAddr) -> io::Result<std::net::TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

/// Whether a port is free for us alone: with `SO_REUSEPORT` another gateway of the same user would
/// share it in silence.
///
/// # Errors
/// When it is taken.
pub fn probe(address: SocketAddr) -> io::Result<()> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.bind(&address.into())?;
    socket.listen(1)
}

/// Accepts connections until draining begins, then waits for those under way, at most for the
/// drain time.
pub async fn run(shared: Arc<Shared>, listener: std::net::TcpListener) -> io::Result<()> {
    let worker = Rc::new(Worker::new(Arc::clone(&shared)));
    let listener = TcpListener::from_std(listener)?;
    worker.beside.spawn_local(Rc::clone(&worker).sweep());
    let untaken = Rc::clone(&worker.untaken);
    worker.beside.spawn_local(async move { untaken.run().await });
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = shared.draining.cancelled() => break,
        };
        match accepted {
            Ok((stream, peer)) => {
                let Some(counted) = shared.admit(counted_address(peer.ip())) else {
                    shared.metrics.handshake_failed("too_many_connections");
                    continue;
                };
                if stream.set_nodelay(true).is_ok() {
                    worker.tasks.spawn_local(serve(Rc::clone(&worker), stream, peer, counted));
                }
            }
            Err(error) => {
                tracing::warn!(%error, "a connection could not be accepted");
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
    drop(listener);
    worker.tasks.close();
    // `stopping` is cancelled when the drain time is over, which ends every connection; what has
    // not heard of it soon ends with the thread.
    tokio::select! {
        () = worker.tasks.wait() => {}
        () = shared.stopping.cancelled() => {
            let _ = tokio::time::timeout(LAST_MOMENT, worker.tasks.wait()).await;
        }
    }
    Ok(())
}
