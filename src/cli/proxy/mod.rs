//! `doorward proxy`: plain HTTP/1.1 on loopback for programs that can't do mutual TLS, and the
//! session's certificate onward.
//!
//! INVARIANTS (ATTACKS A72): it listens on loopback or a 0600 socket only; over TCP, where any
//! local user and any web page can knock, every request needs the secret of this run; a browser's
//! request is refused even with it; only hosts that the door has are reached, and no tunnel is made
//! to anywhere. The secret goes no further than this process.

mod admit;
mod forward;

use std::collections::BTreeSet;
use std::fs::{self, Permissions};
use std::io::{ErrorKind, Write};
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::UnixStream as StdUnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use data_encoding::BASE64URL_NOPAD;
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::model::Secret;
use crate::wire::Service;

use super::args::{Format, ProxyArgs};
use super::context::Context;
use super::exit::Exit;
use super::failure::Failure;
use super::printer::plain;
use super::renewal::{SignedIn, signed_in};

pub use self::admit::{Admission, Denial, Target};
pub use self::forward::{Door, Onward};

/// The user of the proxy's address; the password is the secret.
pub const PROXY_USER: &str = "doorward";
/// How long a client may take to send a request's head.
const HEADER_TIMEOUT: Duration = Duration::from_secs(30);
/// The most clients at a time; more wait to be accepted.
const CONNECTIONS_MAX: usize = 256;
/// How often the saved session is looked at again, and its certificate renewed where that is due.
const SESSION_PAUSE: Duration = Duration::from_secs(5);
/// The server is asked for its hosts each time that the session was looked at so often.
const HOSTS_EVERY: u32 = 6;

/// Where clients knock.
enum Knocker {
    Tcp(TcpListener),
    Unix(UnixListener),
}

/// A socket that is removed at the end.
struct SocketFile(PathBuf);

impl Drop for SocketFile {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Stream for T {}

impl Knocker {
    async fn accept(&self) -> std::io::Result<Box<dyn Stream>> {
        match self {
            Self::Tcp(listener) => {
                let (stream, _) = listener.accept().await?;
                let _ = stream.set_nodelay(true);
                Ok(Box::new(stream))
            }
            Self::Unix(listener) => Ok(Box::new(listener.accept().await?.0)),
        }
    }
}

/// Runs the proxy until it is interrupted.
///
/// # Errors
/// When nobody is signed in, the server can't be asked, or the address can't be listened on.
pub async fn run(context: &Context, args: &ProxyArgs) -> Result<(), Failure> {
    let here = signed_in(context).await?;
    let (knocker, place, admission, _socket) = listening(context, args, &here).await?;
    let tracker = TaskTracker::new();
    let end = CancellationToken::new();
    let first = onward(&here, 0).await?;
    told(context, &place, &first)?;
    let door = Door {
        admission,
        server: here.origin.clone(),
        onward: ArcSwap::from_pointee(first),
        tracker: tracker.clone(),
        end: end.clone(),
    };
    let outcome = served(context, &door, &knocker).await;
    end.cancel();
    tracker.close();
    tracker.wait().await;
    outcome
}

async fn served(context: &Context, door: &Door, knocker: &Knocker) -> Result<(), Failure> {
    let fails = |error: std::io::Error| Failure::failed(format!("waiting for signals: {error}"));
    let mut terminate = signal(SignalKind::terminate()).map_err(fails)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(fails)?;
    let refreshing = refresh(context, door);
    tokio::pin!(refreshing);
    let mut clients = FuturesUnordered::new();
    loop {
        tokio::select! {
            _ = terminate.recv() => return Ok(()),
            _ = interrupt.recv() => return Ok(()),
            () = &mut refreshing => {}
            Some(()) = clients.next(), if !clients.is_empty() => {}
            accepted = knocker.accept(), if clients.len() < CONNECTIONS_MAX => match accepted {
                Ok(stream) => clients.push(client(door, stream)),
                // Out of descriptors: a pause, so that this does not spin.
                Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
            },
        }
    }
}

/// Serves one client's connection to its end.
pub async fn client(door: &Door, stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static) {
    let kept = std::sync::Mutex::new(None);
    let service = service_fn(|request| forward::answer(door, &kept, request));
    // How a client's connection ends is the client's business.
    let _ = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIMEOUT)
        .serve_connection(TokioIo::new(stream), service)
        .with_upgrades()
        .await;
}

/// Keeps what is needed onward fresh: the certificate, and which hosts there are.
async fn refresh(context: &Context, door: &Door) {
    let mut looked: u32 = 0;
    loop {
        tokio::time::sleep(SESSION_PAUSE).await;
        looked = looked.wrapping_add(1);
        let old = door.onward.load_full();
        let here = match signed_in(context).await {
            Ok(here) if here.origin == door.server => Ok(here),
            Ok(_) => {
                let detail = "the profile is signed in to another server now";
                Err(Failure::new(Exit::SignedOut, "session_ended", detail))
            }
            Err(failure) => Err(failure),
        };
        let fresh = match here {
            Ok(here) => {
                let same = here.session.certificate_pem == old.certificate_pem;
                if same && old.ended.is_none() && !looked.is_multiple_of(HOSTS_EVERY) {
                    continue;
                }
                // The same certificate: connections that stand go on being used.
                onward(&here, if same { old.generation } else { old.generation + 1 }).await
            }
            Err(failure) => Err(failure),
        };
        match fresh {
            Ok(new) => door.onward.store(Arc::new(new)),
            Err(failure) if failure.exit == Exit::SignedOut => {
                if old.ended.is_none() {
                    context.printer.failure(&failure);
                }
                let ended = failure.problem.detail.unwrap_or(failure.problem.title);
                door.onward.store(Arc::new(Onward { ended: Some(ended), ..(*old).clone() }));
            }
            // The server can't be reached for now: the old state is good until it ends.
            Err(_) => {}
        }
    }
}

async fn onward(here: &SignedIn, generation: u64) -> Result<Onward, Failure> {
    let page = here.client.list("/api/v1/services").await?;
    let mut hosts = BTreeSet::new();
    for item in &page.items {
        let service: Service = here.client.read(item.get())?;
        hosts.extend(service.hosts.into_iter().map(|host| host.to_ascii_lowercase()));
    }
    Ok(Onward {
        generation,
        tls: Arc::clone(here.client.tls()),
        certificate_pem: here.session.certificate_pem.clone(),
        hosts,
        ended: None,
    })
}

async fn listening(
    context: &Context,
    args: &ProxyArgs,
    here: &SignedIn,
) -> Result<(Knocker, String, Admission, Option<SocketFile>), Failure> {
    let port = here.origin.port();
    if let Some(path) = &args.socket {
        let listener = bind_socket(path)?;
        return Ok((
            Knocker::Unix(listener),
            path.display().to_string(),
            Admission::by_socket(port),
            Some(SocketFile(path.clone())),
        ));
    }
    let asked = args.listen.unwrap_or(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)));
    let fails = |error: std::io::Error| {
        Failure::usage(format!("listening on {asked}: {error}; leave `--listen` out for a free port"))
    };
    let listener = TcpListener::bind(asked).await.map_err(fails)?;
    let address = listener.local_addr().map_err(fails)?;
    let secret = BASE64URL_NOPAD.encode(&context.entropy.bytes_32());
    let place = format!("http://{PROXY_USER}:{secret}@{address}");
    Ok((Knocker::Tcp(listener), place, Admission::by_secret(port, Secret::new(secret)), None))
}

/// Listens on a socket that only this user can open, from its first moment on.
fn bind_socket(path: &Path) -> Result<UnixListener, Failure> {
    let fails = |error: &dyn std::fmt::Display| Failure::usage(format!("listening on `{}`: {error}", path.display()));
    match fs::symlink_metadata(path) {
        Ok(metadata) if !metadata.file_type().is_socket() => return Err(fails(&"a file that is no socket is there")),
        Ok(_) if StdUnixStream::connect(path).is_ok() => return Err(fails(&"another program listens there")),
        Ok(_) => {} // left behind by a program that is gone: replaced below
        Err(error) if error.kind() == ErrorKind::NotFound => {}
        Err(error) => return Err(fails(&error)),
    }
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or_else(|| Path::new("."));
    // Made in a folder that nobody else can enter, closed to others, and only then put in place.
    let folder = tempfile::Builder::new().prefix(".doorward-").tempdir_in(parent).map_err(|error| {
        // The name of a folder that was not made says nothing to anybody.
        let cause = std::io::Error::from(error.kind());
        fails(&format!("making it in `{}`: {cause}", parent.display()))
    })?;
    let inside = folder.path().join("s");
    let listener = UnixListener::bind(&inside).map_err(|error| fails(&error))?;
    fs::set_permissions(&inside, Permissions::from_mode(0o600)).map_err(|error| fails(&error))?;
    fs::rename(&inside, path).map_err(|error| fails(&error))?;
    Ok(listener)
}

fn told(context: &Context, place: &str, onward: &Onward) -> Result<(), Failure> {
    if context.printer.format() == Format::Json {
        return context.printer.json(&serde_json::json!({ "proxy": place, "hosts": onward.hosts }));
    }
    context.printer.line(place)?;
    let hosts: Vec<_> = onward.hosts.iter().map(|host| plain(&format!("http://{host}/"))).collect();
    context.printer.talk_lines(&format!(
        "Use this as the HTTP proxy for: {}\nEnd it with Ctrl-C. Whoever has the address acts as you.",
        if hosts.is_empty() { "(there are no services yet)".to_owned() } else { hosts.join(" ") }
    ));
    let _ = std::io::stderr().flush();
    Ok(())
}
