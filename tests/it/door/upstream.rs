//! Upstreams that keep what they got: one of raw HTTP/1.1, which answers to the letter what a test
//! told it to, and one of HTTP/2 without TLS.
#![allow(dead_code, reason = "a tool box: each test takes what it needs")]

use std::collections::HashMap;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use http::{HeaderMap, Method, Request, Response};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::Role;

/// A request as it came.
#[derive(Debug, Clone, Default)]
pub struct Received {
    pub connection: usize,
    pub head: String,
    pub body: Vec<u8>,
}

impl Received {
    pub fn line(&self) -> &str {
        self.head.lines().next().unwrap_or_default()
    }

    pub fn target(&self) -> &str {
        self.line().split(' ').nth(1).unwrap_or_default()
    }

    pub fn path(&self) -> &str {
        self.target().split('?').next().unwrap_or_default()
    }

    /// All values of a field, in the order in which they came.
    pub fn all(&self, name: &str) -> Vec<&str> {
        let field = |line: &'_ str| line.split_once(':').is_some_and(|(n, _)| n.eq_ignore_ascii_case(name));
        self.head
            .lines()
            .skip(1)
            .filter(|l| field(l))
            .filter_map(|l| l.split_once(':'))
            .map(|(_, v)| v.trim())
            .collect()
    }

    pub fn one(&self, name: &str) -> Option<&str> {
        let all = self.all(name);
        assert!(all.len() < 2, "`{name}` came {} times: {}", all.len(), self.head);
        all.first().copied()
    }
}

/// What is answered at a path.
#[derive(Debug, Clone)]
pub enum Reply {
    /// These bytes, and the connection goes on.
    Bytes(Vec<u8>),
    /// These bytes, and the connection is closed.
    Close(Vec<u8>),
    /// These bytes before the request's body is read, and it never is.
    Early(Vec<u8>),
    /// These bytes again and again, until nobody takes them any more.
    Flood(Vec<u8>),
    /// Nothing is read or answered any more.
    Stall,
}

#[derive(Default)]
struct Kept {
    seen: Vec<Received>,
    bytes: Vec<Vec<u8>>,
    replies: HashMap<String, Reply>,
}

/// An upstream of raw HTTP/1.1.
#[derive(Clone)]
pub struct RawUpstream {
    pub address: SocketAddr,
    kept: Arc<Mutex<Kept>>,
    /// Connections that are open.
    pub open: Arc<AtomicUsize>,
}

impl RawUpstream {
    pub async fn open() -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let upstream = Self { address: listener.local_addr().unwrap(), kept: Arc::default(), open: Arc::default() };
        let serving = upstream.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let number = {
                    let mut kept = serving.kept.lock().unwrap();
                    kept.bytes.push(Vec::new());
                    kept.bytes.len() - 1
                };
                let one = serving.clone();
                tokio::spawn(async move {
                    one.open.fetch_add(1, Ordering::SeqCst);
                    one.serve(stream, number).await;
                    one.open.fetch_sub(1, Ordering::SeqCst);
                });
            }
        });
        upstream
    }

    pub fn reply(&self, path: &str, reply: Reply) {
        self.kept.lock().unwrap().replies.insert(path.to_owned(), reply);
    }

    pub fn seen(&self) -> Vec<Received> {
        self.kept.lock().unwrap().seen.clone()
    }

    pub fn count(&self) -> usize {
        self.kept.lock().unwrap().seen.len()
    }

    pub fn last(&self) -> Received {
        self.kept.lock().unwrap().seen.last().cloned().expect("a request")
    }

    /// Everything that came on all connections.
    pub fn all_bytes(&self) -> Vec<u8> {
        self.kept.lock().unwrap().bytes.concat()
    }

    async fn more(&self, stream: &mut TcpStream, number: usize, buffer: &mut Vec<u8>) -> bool {
        let mut piece = [0u8; 16 * 1024];
        match stream.read(&mut piece).await {
            Ok(count) if count > 0 => {
                buffer.extend_from_slice(&piece[..count]);
                self.kept.lock().unwrap().bytes[number].extend_from_slice(&piece[..count]);
                true
            }
            _ => false,
        }
    }

    async fn serve(&self, mut stream: TcpStream, number: usize) {
        let mut buffer = Vec::new();
        loop {
            let end = loop {
                if let Some(at) = buffer.windows(4).position(|part| part == b"\r\n\r\n") {
                    break at + 4;
                }
                if !self.more(&mut stream, number, &mut buffer).await {
                    return;
                }
            };
            let head: Vec<u8> = buffer.drain(..end).collect();
            let head = String::from_utf8_lossy(&head[..end - 4]).into_owned();
            let mut received = Received { connection: number, head, body: Vec::new() };
            let index = {
                let mut kept = self.kept.lock().unwrap();
                kept.seen.push(received.clone());
                kept.seen.len() - 1
            };
            let reply = self.kept.lock().unwrap().replies.get(received.path()).cloned();
            match &reply {
                Some(Reply::Stall) => {
                    tokio::time::sleep(Duration::from_secs(60)).await;
                    return;
                }
                Some(Reply::Early(bytes)) => {
                    let _ = stream.write_all(bytes).await;
                    tokio::time::sleep(Duration::from_secs(2)).await;
                    return;
                }
                _ => {}
            }
            if !self.body(&mut stream, number, &mut buffer, &mut received).await {
                return;
            }
            self.kept.lock().unwrap().seen[index].body.clone_from(&received.body);
            let written = match reply {
                Some(Reply::Bytes(bytes)) => stream.write_all(&bytes).await,
                Some(Reply::Flood(bytes)) => {
                    let bytes = bytes.repeat(64);
                    while stream.write_all(&bytes).await.is_ok() {}
                    return;
                }
                Some(Reply::Close(bytes)) => {
                    let _ = stream.write_all(&bytes).await;
                    return;
                }
                _ if received.path() == "/sse" => return events(stream).await,
                _ if received.path() == "/ws" && received.one("upgrade").is_some() => {
                    return websocket(stream, &received).await;
                }
                _ => {
                    let body =
                        if received.body.is_empty() { received.line().as_bytes().to_vec() } else { received.body };
                    let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", body.len());
                    stream.write_all(&[head.as_bytes(), &body].concat()).await
                }
            };
            if written.is_err() {
                return;
            }
        }
    }

    /// Reads the request's body; whether it came whole.
    async fn body(&self, stream: &mut TcpStream, number: usize, buffer: &mut Vec<u8>, of: &mut Received) -> bool {
        if of.one("transfer-encoding").is_some() {
            loop {
                let Some(at) = buffer.windows(2).position(|part| part == b"\r\n") else {
                    if !self.more(stream, number, buffer).await {
                        return false;
                    }
                    continue;
                };
                let size = usize::from_str_radix(&String::from_utf8_lossy(&buffer[..at]), 16).unwrap();
                if size == 0 {
                    // Trailers end with an empty line.
                    while !buffer.windows(4).any(|part| part == b"\r\n\r\n") {
                        if !self.more(stream, number, buffer).await {
                            return false;
                        }
                    }
                    let end = buffer.windows(4).position(|part| part == b"\r\n\r\n").unwrap() + 4;
                    buffer.drain(..end);
                    return true;
                }
                while buffer.len() < at + 2 + size + 2 {
                    if !self.more(stream, number, buffer).await {
                        return false;
                    }
                }
                of.body.extend_from_slice(&buffer[at + 2..at + 2 + size]);
                buffer.drain(..at + 2 + size + 2);
            }
        }
        let length: usize = of.one("content-length").map_or(0, |value| value.parse().unwrap());
        while buffer.len() < length {
            if !self.more(stream, number, buffer).await {
                return false;
            }
        }
        of.body = buffer.drain(..length).collect();
        true
    }
}

async fn events(mut stream: TcpStream) {
    let head = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n";
    let mut written = stream.write_all(head.as_bytes()).await;
    for number in 0.. {
        if written.is_err() {
            return;
        }
        let event = format!("data: {number}\n\n");
        written = stream.write_all(format!("{:x}\r\n{event}\r\n", event.len()).as_bytes()).await;
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

async fn websocket(mut stream: TcpStream, request: &Received) {
    let accept = derive_accept_key(request.one("sec-websocket-key").unwrap_or_default().as_bytes());
    let head = format!(
        "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\nsec-websocket-accept: {accept}\r\n\r\n"
    );
    if stream.write_all(head.as_bytes()).await.is_err() {
        return;
    }
    let mut socket = WebSocketStream::from_raw_socket(stream, Role::Server, None).await;
    while let Some(Ok(message)) = socket.next().await {
        if !message.is_close() && socket.send(message).await.is_err() {
            return;
        }
    }
}

/// A request that came by HTTP/2.
#[derive(Debug, Clone)]
pub struct Received2 {
    pub method: Method,
    pub target: String,
    pub headers: HeaderMap,
    pub body: Bytes,
    pub trailers: Option<HeaderMap>,
}

/// An upstream of HTTP/2 without TLS that gives back body and trailers `grpc-status: 0`.
#[derive(Clone)]
pub struct Http2Upstream {
    pub address: SocketAddr,
    seen: Arc<Mutex<Vec<Received2>>>,
}

impl Http2Upstream {
    pub async fn open() -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let upstream = Self { address: listener.local_addr().unwrap(), seen: Arc::default() };
        let seen = Arc::clone(&upstream.seen);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let seen = Arc::clone(&seen);
                tokio::spawn(async move {
                    let service = service_fn(move |request: Request<Incoming>| answer(request, Arc::clone(&seen)));
                    let _ = hyper::server::conn::http2::Builder::new(TokioExecutor::new())
                        .serve_connection(TokioIo::new(stream), service)
                        .await;
                });
            }
        });
        upstream
    }

    pub fn seen(&self) -> Vec<Received2> {
        self.seen.lock().unwrap().clone()
    }
}

type Frames = futures_util::stream::Iter<std::vec::IntoIter<Result<Frame<Bytes>, Infallible>>>;

async fn answer(
    request: Request<Incoming>,
    seen: Arc<Mutex<Vec<Received2>>>,
) -> Result<Response<StreamBody<Frames>>, hyper::Error> {
    let (head, body) = request.into_parts();
    let collected = body.collect().await?;
    let trailers = collected.trailers().cloned();
    let body = collected.to_bytes();
    let kind = head.headers.get("content-type").cloned();
    seen.lock().unwrap().push(Received2 {
        method: head.method,
        target: head.uri.to_string(),
        headers: head.headers,
        body: body.clone(),
        trailers,
    });
    let mut end = HeaderMap::new();
    end.insert("grpc-status", "0".parse().unwrap());
    let frames = vec![Ok(Frame::data(body)), Ok(Frame::trailers(end))];
    let mut response = Response::new(StreamBody::new(futures_util::stream::iter(frames)));
    if let Some(kind) = kind {
        response.headers_mut().insert("content-type", kind);
    }
    Ok(response)
}
