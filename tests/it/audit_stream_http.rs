//! Streams of the record to a webhook and to an OTLP endpoint, and what people see of them through the
//! API; on both engines.

use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::routing::post;
use doorward::audit::line::check_line;
use doorward::audit::settings::StreamFormat;
use doorward::audit::{EventType, Outcome};
use doorward::config::{HttpReceiver, Receiver, Stream};
use doorward::model::{Secret, Timestamp, Ttl};
use doorward::notify::settings::key_of;
use doorward::notify::signature;
use doorward::server::stream::Round;
use opentelemetry_proto::tonic::collector::logs::v1::{
    ExportLogsPartialSuccess, ExportLogsServiceRequest, ExportLogsServiceResponse,
};
use opentelemetry_proto::tonic::common::v1::any_value::Value as Any;
use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue};
use prost::Message;
use serde_json::Value;

use crate::audit_stream::{happens, kept, numbered, quiet, rounds, sender, stream};
use crate::leaf::decision;
use crate::support::databases;

const KEY: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";

/// Head and body of a POST.
type Posted = (HeaderMap, Vec<u8>);

/// What came, and what is answered.
#[derive(Clone)]
struct Sink {
    got: Arc<Mutex<Vec<Posted>>>,
    answer: Arc<Mutex<(u16, Vec<u8>)>>,
    url: String,
}

impl Sink {
    async fn start() -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/v1/its-secret", listener.local_addr().unwrap());
        let sink = Self { got: Arc::default(), answer: Arc::new(Mutex::new((200, Vec::new()))), url };
        let take = |State(sink): State<Self>, headers: HeaderMap, body: Bytes| async move {
            sink.got.lock().unwrap().push((headers, body.to_vec()));
            let (status, body) = sink.answer.lock().unwrap().clone();
            (StatusCode::from_u16(status).unwrap(), body)
        };
        let router = Router::new().route("/v1/its-secret", post(take)).with_state(sink.clone());
        tokio::spawn(crate::fake_provider::serve(listener, router));
        sink
    }

    fn answer(&self, status: u16, body: Vec<u8>) {
        *self.answer.lock().unwrap() = (status, body);
    }

    fn receiver(&self) -> HttpReceiver {
        HttpReceiver {
            url: Arc::new(Secret::new(self.url.clone())),
            key: key_of(KEY).map(Arc::new),
            authorization: Some(Arc::new(Secret::new("Bearer canary\n".to_owned()))),
            authorities: Vec::new(),
            certificate: None,
            allow_loopback: true,
        }
    }
}

#[tokio::test]
async fn lines_reach_a_webhook_signed_and_what_it_does_not_take_comes_again() {
    for url in databases() {
        let house = quiet(&url).await;
        let sink = Sink::start().await;
        let mut sender = sender(&house, stream(Receiver::Webhook(sink.receiver())));
        assert_eq!(rounds(&mut sender).await, Round::Done);
        for number in 1..=8 {
            happens(&house, &numbered(&house, number, EventType::LockSet)).await;
        }
        // Each trial that comes to nothing is made with half as many.
        sink.answer(500, b"its own words".to_vec());
        for _ in 0..7 {
            assert_eq!(sender.round().await.unwrap(), Round::Failed);
        }
        let stored = kept(&house).await;
        let error = stored.error.unwrap();
        assert_eq!((error.as_str(), stored.failures), ("the receiver answered 500", 7));
        assert_eq!(String::from_utf8_lossy(&sink.got.lock().unwrap().last().unwrap().1).lines().count(), 1);
        sink.answer(202, Vec::new());
        sink.got.lock().unwrap().clear();
        assert_eq!(rounds(&mut sender).await, Round::Done);
        let mut seen = Vec::new();
        for (headers, body) in sink.got.lock().unwrap().iter() {
            let header = |name: &str| headers[name].to_str().unwrap().to_owned();
            let at = Timestamp::from_seconds(header("webhook-timestamp").parse().unwrap());
            let key = key_of(KEY).unwrap();
            assert_eq!(header("webhook-signature"), signature::sign(&key, &header("webhook-id"), at, body));
            assert_eq!(header("content-type"), "application/x-ndjson");
            assert_eq!(header("authorization"), "Bearer canary");
            for line in std::str::from_utf8(body).unwrap().lines() {
                check_line(line).unwrap();
                seen.push(serde_json::from_str::<Value>(line).unwrap()["data"]["number"].as_i64().unwrap());
            }
        }
        assert_eq!(seen, (1..=8).collect::<Vec<i64>>());
    }
}

#[tokio::test]
async fn a_receiver_that_is_not_there_tells_nothing_of_its_address() {
    let house = quiet(&databases()[0]).await;
    let sink = Sink::start().await;
    let receiver =
        HttpReceiver { url: Arc::new(Secret::new("https://169.254.169.254/its-secret".to_owned())), ..sink.receiver() };
    let mut sender = sender(&house, stream(Receiver::Webhook(receiver)));
    sender.round().await.unwrap();
    happens(&house, &numbered(&house, 1, EventType::LockSet)).await;
    assert_eq!(sender.round().await.unwrap(), Round::Failed);
    let error = kept(&house).await.error.unwrap();
    assert!(error.contains("link-local") && !error.contains("its-secret"), "{error}");
}

fn of<'a>(attributes: &'a [KeyValue], key: &str) -> &'a Any {
    let found = attributes.iter().find(|attribute| attribute.key == key).unwrap_or_else(|| panic!("{key}"));
    found.value.as_ref().unwrap().value.as_ref().unwrap()
}

fn text(value: &str) -> Any {
    Any::StringValue(value.to_owned())
}

#[tokio::test]
async fn events_reach_an_otlp_endpoint_as_log_records() {
    for url in databases() {
        let house = quiet(&url).await;
        let sink = Sink::start().await;
        let settings = Stream { format: StreamFormat::Ocsf, ..stream(Receiver::Otlp(sink.receiver())) };
        let mut sender = sender(&house, settings);
        assert_eq!(rounds(&mut sender).await, Round::Done);
        let mut event = decision(9, "/v1/deployments/prod");
        event.outcome = Outcome::Denied;
        happens(&house, &event).await;
        happens(&house, &numbered(&house, 2, EventType::LockSet)).await;
        // It says that it took one of two: that is not all.
        let partial = ExportLogsPartialSuccess { rejected_log_records: 1, error_message: "no".to_owned() };
        let answer = ExportLogsServiceResponse { partial_success: Some(partial) };
        sink.answer(200, answer.encode_to_vec());
        assert_eq!(sender.round().await.unwrap(), Round::Failed);
        assert_eq!(kept(&house).await.error.unwrap(), "the receiver rejected 1 of 2 events");
        // What can't be read is no receiver's word; nothing at all is.
        sink.answer(200, b"<html>sign in</html>".to_vec());
        assert_eq!(sender.round().await.unwrap(), Round::Failed);
        assert_eq!(kept(&house).await.error.unwrap(), "the receiver's answer is none of OTLP");
        sink.answer(200, ExportLogsServiceResponse { partial_success: None }.encode_to_vec());
        sink.got.lock().unwrap().clear();
        assert_eq!(rounds(&mut sender).await, Round::Done);
        let mut records = Vec::new();
        for (headers, body) in sink.got.lock().unwrap().iter() {
            assert_eq!(headers["content-type"], "application/x-protobuf");
            let request = ExportLogsServiceRequest::decode(body.as_slice()).unwrap();
            let logs = &request.resource_logs[0];
            let resource = &logs.resource.as_ref().unwrap().attributes;
            assert_eq!(of(resource, "service.name"), &text("doorward"));
            let log = house.desk.store.node().unwrap().to_string();
            assert_eq!(of(resource, "service.instance.id"), &text(&log));
            records.extend(logs.scope_logs[0].log_records.clone());
        }
        assert_eq!(records.len(), 2);
        let record = &records[0];
        assert_eq!((record.event_name.as_str(), record.severity_text.as_str()), ("decision.allow", "WARN"));
        assert_eq!(record.severity_number, 13);
        assert_eq!(record.time_unix_nano, u64::try_from(event.time.millis()).unwrap() * 1_000_000);
        assert_eq!(record.trace_id.len(), 16);
        assert_eq!(record.trace_id[..3], [0x0a, 0xf7, 0x65]);
        assert_eq!(of(&record.attributes, "doorward.service"), &text("ops-api"));
        let Any::IntValue(seq) = of(&record.attributes, "doorward.seq") else { panic!("a number") };
        let Some(AnyValue { value: Some(Any::StringValue(body)) }) = &record.body else { panic!("a text") };
        let body: Value = serde_json::from_str(body).unwrap();
        assert_eq!((&body["class_uid"], &body["metadata"]["sequence"]), (&4002.into(), &(*seq).into()), "{body}");
        assert!(records[1].trace_id.is_empty());
    }
}

#[tokio::test]
async fn who_may_read_the_record_sees_how_streams_are_doing() {
    for url in databases() {
        let house = quiet(&url).await;
        let (carol, _, _) = house.command_line("carol").await;
        assert_eq!(house.get(&carol, "/api/v1/audit/streams").await.body["items"], serde_json::json!([]));
        let sink = Sink::start().await;
        let mut sender = sender(&house, stream(Receiver::Webhook(sink.receiver())));
        assert_eq!(rounds(&mut sender).await, Round::Done);
        sink.answer(503, Vec::new());
        happens(&house, &numbered(&house, 1, EventType::LockSet)).await;
        assert_eq!(sender.round().await.unwrap(), Round::Failed);
        house.clock.advance(Ttl::seconds(30));
        let (alice, _, _) = house.command_line("alice").await;
        assert_eq!(house.get(&alice, "/api/v1/audit/streams").await.status, 403);
        let answer = house.get(&carol, "/api/v1/audit/streams").await;
        let seen = &answer.body["items"][0];
        assert_eq!((answer.text("/items/0/name"), answer.text("/items/0/state")), ("siem", "failing"));
        assert_eq!(answer.text("/items/0/error"), "the receiver answered 503");
        assert!(seen["lag_events"].as_u64().unwrap() >= 1 && seen["lag_seconds"].as_u64().unwrap() >= 30, "{seen}");
        assert_eq!(seen["positions"].as_array().unwrap().len(), 1);
        sink.answer(200, Vec::new());
        assert_eq!(rounds(&mut sender).await, Round::Done);
        let answer = house.get(&carol, "/api/v1/audit/streams").await;
        assert_eq!((answer.text("/items/0/state"), &answer.body["items"][0]["error"]), ("sending", &Value::Null));
        assert!(!answer.body.to_string().contains("its-secret"), "an address may be a secret");
    }
}
