//! Events as OTLP log records (OTLP 1.x, `opentelemetry.proto.collector.logs.v1`). The types are those that
//! OpenTelemetry generates from its protocol files.
//!
//! A record's body is the event's line. What one looks for by stands beside it as attributes, the type
//! of the event is the record's `event_name`, and its trace leads from the record to the spans of the
//! same request.

use data_encoding::HEXLOWER_PERMISSIVE;
use opentelemetry_proto::tonic::collector::logs::v1::{ExportLogsServiceRequest, ExportLogsServiceResponse};
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::common::v1::{AnyValue, InstrumentationScope, KeyValue};
use opentelemetry_proto::tonic::logs::v1::{LogRecord, ResourceLogs, ScopeLogs, SeverityNumber};
use opentelemetry_proto::tonic::resource::v1::Resource;
use prost::Message;

use super::batch::{Batch, Item};
use crate::audit::Outcome;
use crate::model::{ServiceName, Timestamp};

/// Bytes of a trace id.
const TRACE_ID_BYTES: usize = 16;

/// The request for a batch, in protobuf.
#[must_use]
pub fn request(batch: &Batch, host: &str) -> Vec<u8> {
    let resource_logs = if batch.items.is_empty() { Vec::new() } else { vec![resource_logs(batch, host)] };
    ExportLogsServiceRequest { resource_logs }.encode_to_vec()
}

/// How many records the receiver says that it rejected; an empty answer says none. `None` of an answer that
/// can't be read: whoever gave it, a page for signing in perhaps, is no receiver of records.
#[must_use]
pub fn rejected(answer: &[u8]) -> Option<u64> {
    let answer = ExportLogsServiceResponse::decode(answer).ok()?;
    Some(answer.partial_success.map_or(0, |partial| u64::try_from(partial.rejected_log_records).unwrap_or(0)))
}

fn resource_logs(batch: &Batch, host: &str) -> ResourceLogs {
    let attributes = vec![
        text("service.name", "doorward"),
        text("service.version", env!("CARGO_PKG_VERSION")),
        text("service.instance.id", &batch.log.to_string()),
        text("server.address", host),
    ];
    let scope = InstrumentationScope {
        name: "doorward.audit".to_owned(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        ..InstrumentationScope::default()
    };
    ResourceLogs {
        resource: Some(Resource { attributes, ..Resource::default() }),
        scope_logs: vec![ScopeLogs {
            scope: Some(scope),
            log_records: batch.items.iter().map(|item| record(batch, item)).collect(),
            ..ScopeLogs::default()
        }],
        ..ResourceLogs::default()
    }
}

fn record(batch: &Batch, item: &Item) -> LogRecord {
    let clear = &item.clear;
    let (severity, severity_text) = match clear.outcome {
        Outcome::Success => (SeverityNumber::Info, "INFO"),
        Outcome::Denied => (SeverityNumber::Warn, "WARN"),
        Outcome::Failed => (SeverityNumber::Error, "ERROR"),
    };
    let mut attributes = vec![
        text("doorward.event.id", &clear.id.to_string()),
        text("doorward.event.type", clear.kind.name()),
        text("doorward.event.outcome", clear.outcome.name()),
        text("doorward.log", &batch.log.to_string()),
        KeyValue { value: Some(AnyValue { value: Some(Value::IntValue(item.seq)) }), ..text("doorward.seq", "") },
    ];
    if let Some(service) = &clear.service {
        attributes.push(text("doorward.service", ServiceName::as_str(service)));
    }
    let time = nanoseconds(clear.time);
    let trace_id = item.trace_id.as_ref().and_then(|text| HEXLOWER_PERMISSIVE.decode(text.as_bytes()).ok());
    LogRecord {
        time_unix_nano: time,
        observed_time_unix_nano: time,
        severity_number: severity.into(),
        severity_text: severity_text.to_owned(),
        event_name: clear.kind.name().to_owned(),
        body: Some(AnyValue { value: Some(Value::StringValue(item.line.clone())) }),
        attributes,
        trace_id: trace_id.filter(|id| id.len() == TRACE_ID_BYTES).unwrap_or_default(),
        ..LogRecord::default()
    }
}

fn nanoseconds(time: Timestamp) -> u64 {
    u64::try_from(time.millis()).unwrap_or(0).saturating_mul(1_000_000)
}

fn text(key: &str, value: &str) -> KeyValue {
    KeyValue {
        key: key.to_owned(),
        value: Some(AnyValue { value: Some(Value::StringValue(value.to_owned())) }),
        ..KeyValue::default()
    }
}
