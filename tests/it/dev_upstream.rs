//! The sample upstream: what it says it received is what was sent, on every protocol.

use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use doorward::server::dev::upstream::{DevUpstream, RequestCount};
use futures_util::stream;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::{Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio_tungstenite::tungstenite::Message;
use tokio_util::sync::CancellationToken;

use crate::support::TestClock;

type Body = http_body_util::combinators::BoxBody<Bytes, std::convert::Infallible>;

struct Running {
    address: SocketAddr,
    count: RequestCount,
    stop: CancellationToken,
    tasks: JoinSet<()>,
}

fn bytes(text: impl Into<Bytes>) -> Body {
    Full::new(text.into()).boxed()
}

impl Running {
    async fn start() -> Self {
        let upstream = DevUpstream::bind("127.0.0.1:0".parse().unwrap(), Arc::new(TestClock::new())).await.unwrap();
        let (address, count, stop) = (upstream.address(), upstream.count(), CancellationToken::new());
        let mut tasks = JoinSet::new();
        tasks.spawn(upstream.serve(stop.clone().cancelled_owned()));
        Self { address, count, stop, tasks }
    }

    async fn http1(&mut self, request: Request<Body>) -> Response<Incoming> {
        let stream = TcpStream::connect(self.address).await.unwrap();
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
        self.tasks.spawn(async { drop(connection.await) });
        sender.send_request(request).await.unwrap()
    }

    async fn http2(&mut self, request: Request<Body>) -> Response<Incoming> {
        let stream = TcpStream::connect(self.address).await.unwrap();
        let io = TokioIo::new(stream);
        let (mut sender, connection) = hyper::client::conn::http2::handshake(TokioExecutor::new(), io).await.unwrap();
        self.tasks.spawn(async { drop(connection.await) });
        sender.send_request(request).await.unwrap()
    }

    /// Sends these bytes and reads until the upstream closes.
    async fn raw(&self, text: &str) -> String {
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        stream.write_all(text.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    }
}

async fn json(response: Response<Incoming>) -> Value {
    serde_json::from_slice(&response.into_body().collect().await.unwrap().to_bytes()).unwrap()
}

#[tokio::test]
async fn echo_tells_exactly_what_came_over_http_1() {
    let upstream = Running::start().await;
    let answer = upstream
        .raw(
            "PUT /echo//a%2Fb/../%C3%A4;x?q=%20&q=2 HTTP/1.1\r\nHost: ops-api.doorward.localhost\r\n\
             X-Twice: one\r\nX-Twice: two\r\nContent-Length: 5\r\nConnection: close\r\n\r\nhello",
        )
        .await;
    let body: Value = serde_json::from_str(answer.split_once("\r\n\r\n").unwrap().1).unwrap();
    assert_eq!(body["method"], "PUT");
    assert_eq!(body["path"], "/echo//a%2Fb/../%C3%A4;x?q=%20&q=2");
    assert_eq!(body["body_bytes"], 5);
    assert_eq!(body["headers"]["host"], "ops-api.doorward.localhost");
    assert_eq!(body["headers"]["x-twice"], serde_json::json!(["one", "two"]));
    assert_eq!(body.as_object().unwrap().len(), 4);
    assert_eq!(upstream.count.total(), 1);
}

#[tokio::test]
async fn echo_tells_exactly_what_came_over_http_2() {
    let mut upstream = Running::start().await;
    let parts = (0..100).map(|_| Ok(Frame::data(Bytes::from_static(&[7; 1000]))));
    let request = Request::post("http://ops-api.doorward.localhost/echo/x%2Fy?z")
        .header("x-one", "1")
        .body(BodyExt::boxed(StreamBody::new(stream::iter(parts))))
        .unwrap();
    let response = upstream.http2(request).await;
    assert_eq!(response.version(), hyper::Version::HTTP_2);
    let body = json(response).await;
    assert_eq!(body["path"], "/echo/x%2Fy?z");
    assert_eq!(body["body_bytes"], 100_000);
    assert_eq!(body["headers"][":authority"], "ops-api.doorward.localhost");
    assert_eq!(body["headers"]["x-one"], "1");
}

#[tokio::test]
async fn a_preface_in_two_pieces_is_http_2_and_a_method_that_starts_alike_is_not() {
    let upstream = Running::start().await;
    let mut stream = TcpStream::connect(upstream.address).await.unwrap();
    stream.set_nodelay(true).unwrap();
    stream.write_all(b"PR").await.unwrap();
    tokio::task::yield_now().await;
    stream.write_all(b"I * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").await.unwrap();
    let mut frame = [0u8; 9];
    stream.read_exact(&mut frame).await.unwrap();
    assert_eq!(frame[3], 4, "a SETTINGS frame comes back");

    let answer = upstream.raw("PRO /echo/x HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").await;
    assert!(answer.contains("\"method\":\"PRO\""), "{answer}");
}

#[tokio::test]
async fn the_routes_of_the_sample_service_answer() {
    let mut upstream = Running::start().await;
    let request = |method: &str, path: &str| {
        let host = "ops-api.doorward.localhost:8443";
        Request::builder().method(method).uri(path).header("host", host).body(bytes("")).unwrap()
    };
    let status = json(upstream.http1(request("GET", "/status")).await).await;
    assert_eq!((&status["service"], &status["status"]), (&"ops-api".into(), &"ok".into()));

    let deployed = upstream.http1(request("POST", "/v1/deployments/prod")).await;
    assert_eq!(deployed.status(), 201);
    assert_eq!(deployed.headers()["location"], "/v1/deployments/prod/deploy-1");
    assert_eq!(json(deployed).await["environment"], "prod");

    for (method, path) in
        [("GET", "/admin/users"), ("DELETE", "/d/abc"), ("POST", "/v1/deployments/a/b"), ("POST", "/")]
    {
        let body = json(upstream.http1(request(method, path)).await).await;
        assert_eq!(
            (&body["service"], &body["method"], &body["path"]),
            (&"ops-api".into(), &method.into(), &path.into())
        );
    }
}

#[tokio::test]
async fn an_injected_basic_header_is_seen_and_its_password_is_not_told() {
    let mut upstream = Running::start().await;
    let request = Request::get("/reports")
        .header("host", "legacy.doorward.localhost")
        .header("authorization", "Basic bGVnYWN5OmNhbmFyeQ==")
        .body(bytes(""))
        .unwrap();
    let body = json(upstream.http1(request).await).await;
    assert_eq!(body["signed_in_upstream_as"], "legacy");
    assert!(!body.to_string().contains("canary"));
}

#[tokio::test]
async fn events_come_at_once_and_then_one_a_second_until_it_stops() {
    let mut upstream = Running::start().await;
    for version in [1, 2] {
        let request = Request::get("http://ops-api/events").header("host", "ops-api").body(bytes("")).unwrap();
        let response = if version == 1 { upstream.http1(request).await } else { upstream.http2(request).await };
        assert_eq!(response.headers()["content-type"], "text/event-stream");
        let mut body = response.into_body();
        for number in 1..=2 {
            let frame = body.frame().await.unwrap().unwrap().into_data().unwrap();
            assert!(frame.starts_with(format!("id: {number}\ndata: {{").as_bytes()), "{frame:?}");
            assert!(frame.ends_with(b"\n\n"));
        }
        if version == 2 {
            upstream.stop.cancel();
            while let Some(Ok(_)) = body.frame().await {}
        }
    }
}

#[tokio::test]
async fn a_websocket_echoes_and_is_cut_when_the_upstream_stops() {
    use futures_util::{SinkExt, StreamExt};
    let upstream = Running::start().await;
    let stream = TcpStream::connect(upstream.address).await.unwrap();
    let (mut socket, answer) = tokio_tungstenite::client_async("ws://ops-api/ws", stream).await.unwrap();
    assert_eq!(answer.status(), 101);
    for message in [Message::text("hello"), Message::binary(vec![1u8; 100_000])] {
        socket.send(message.clone()).await.unwrap();
        assert_eq!(socket.next().await.unwrap().unwrap(), message);
    }
    upstream.stop.cancel();
    assert!(!matches!(socket.next().await, Some(Ok(Message::Text(_) | Message::Binary(_)))));
    let refused = upstream_without_upgrade().await;
    assert!(refused.starts_with("HTTP/1.1 4"), "{refused}");
}

async fn upstream_without_upgrade() -> String {
    Running::start().await.raw("GET /ws HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").await
}

#[tokio::test]
async fn grpc_messages_come_back_with_a_status_in_the_trailers() {
    let mut upstream = Running::start().await;
    let request = Request::post("http://grpc/pkg.Service/Method")
        .header("content-type", "application/grpc+proto")
        .header("te", "trailers")
        .body(bytes(&b"\0\0\0\0\x01x"[..]))
        .unwrap();
    let response = upstream.http2(request).await;
    assert_eq!(response.headers()["content-type"], "application/grpc+proto");
    let collected = response.into_body().collect().await.unwrap();
    assert_eq!(collected.trailers().unwrap()["grpc-status"], "0");
    assert_eq!(collected.to_bytes(), &b"\0\0\0\0\x01x"[..]);
}
