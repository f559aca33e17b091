//! Streams of the record to receivers outside: in order, at least once, whatever a receiver does; on both
//! engines.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use doorward::audit::line::check_line;
use doorward::audit::settings::{Selection, StreamFormat, TypePattern};
use doorward::audit::{Event, EventType, Outcome};
use doorward::config::{Receiver, Stream};
use doorward::model::{EventId, ServiceName, Ttl};
use doorward::server::stream::{Round, Sender, StreamState};
use doorward::store::EventFilter;
use prometheus_client::registry::Registry;
use serde_json::Value;

use crate::api_house::House;
use crate::leaf::decision;
use crate::support::databases;
use crate::syslog_sink::{Asks, Manner, SyslogSink};

fn stream(receiver: Receiver) -> Stream {
    Stream {
        name: "siem".to_owned(),
        receiver,
        format: StreamFormat::Jsonl,
        selection: Selection::default(),
        from_beginning: false,
        batch: 100,
        interval: Ttl::seconds(1),
        stalled_after: Ttl::minutes(5),
    }
}

fn sender(house: &House, stream: Stream) -> Sender {
    Sender::new(stream, Arc::clone(&house.desk), StreamState::new(&mut Registry::default())).unwrap()
}

/// Numbers what was appended.
async fn number(house: &House) {
    for log in house.desk.store.log_list().await.unwrap() {
        while house.desk.store.number_pending(log.log, house.now()).await.unwrap() > 0 {}
    }
}

/// Puts this event on record, with a number.
async fn happens(house: &House, event: &Event) {
    let mut tx = house.desk.store.begin().await.unwrap();
    tx.event_append(event).await.unwrap();
    tx.commit().await.unwrap();
    number(house).await;
}

fn numbered(house: &House, number: u8, kind: EventType) -> Event {
    Event::new(EventId::from_bytes([number; 16]), house.now(), kind, Outcome::Success).with("number", number)
}

/// Rounds until nothing is left, or nothing goes on.
async fn rounds(sender: &mut Sender) -> Round {
    for _ in 0..100 {
        let round = sender.round().await.unwrap();
        if round != Round::More {
            return round;
        }
    }
    panic!("it never ends");
}

async fn count(house: &House, kind: EventType) -> usize {
    let filter = EventFilter { kind: Some(kind), ..EventFilter::default() };
    house.desk.store.event_list(&filter, 1000).await.unwrap().len()
}

#[tokio::test]
async fn events_reach_a_syslog_receiver_in_order_each_once_and_provable() {
    for url in databases() {
        let house = House::new(&url).await;
        let sink = SyslogSink::start(&house.clock, Asks::Nothing).await;
        let mut sender = sender(&house, stream(Receiver::Syslog(sink.settings())));
        happens(&house, &numbered(&house, 200, EventType::LockSet)).await;
        assert_eq!(rounds(&mut sender).await, Round::Done);
        assert!(sink.got().is_empty(), "a new stream begins with what comes");
        for number in 1..=5 {
            happens(&house, &numbered(&house, number, EventType::LockSet)).await;
        }
        let mut odd = decision(9, "/a\"b]c\\d\nLF");
        odd.outcome = Outcome::Denied;
        happens(&house, &odd).await;
        assert_eq!(rounds(&mut sender).await, Round::Done);
        assert_eq!(rounds(&mut sender).await, Round::Done);
        let got = sink.got();
        assert_eq!(got.len(), 6, "{got:?}");
        let mut before = None;
        for received in &got {
            let line: Value = serde_json::from_str(&received.text).unwrap();
            check_line(&received.text).unwrap();
            assert_eq!(line["type"], received.kind.as_str());
            assert_eq!(line["time"], received.time.as_str());
            assert_eq!((received.host.as_str(), received.app.as_str()), ("doorward.localhost", "doorward"));
            let seq = line["seq"].as_i64().unwrap();
            assert!(received.data.contains(&format!("seq=\"{seq}\"")), "{}", received.data);
            assert!(before.is_none_or(|before| before + 1 == seq));
            before = Some(seq);
        }
        assert_eq!((got[0].priority, got[5].priority), (13 * 8 + 6, 13 * 8 + 4));
        assert!(!got[5].text.contains('\n'));
        assert_eq!(sink.connections.load(Ordering::SeqCst), 1, "one batch, one connection");
    }
}
