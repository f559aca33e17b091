//! Streams of the record to receivers outside: in order, at least once, whatever a receiver does; on both
//! engines.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use doorward::audit::line::check_line;
use doorward::audit::settings::{Selection, StreamFormat, TypePattern};
use doorward::audit::{Event, EventType, Outcome};
use doorward::config::{Receiver, Stream, Witness};
use doorward::control::audit::{retention, stream as streams};
use doorward::model::{Clock, EventId, ServiceName, Ttl};
use doorward::notify::{EventPattern, Notice};
use doorward::outbound::syslog::{Message, Severity, Syslog};
use doorward::server::stream::{Round, Sender, StreamState};
use doorward::server::tree::Keeper;
use doorward::store::{EventFilter, StoredStream};
use prometheus_client::registry::Registry;
use serde_json::Value;

use crate::access_world::cut;
use crate::api_house::House;
use crate::leaf::decision;
use crate::support::{TestClock, databases};
use crate::syslog_sink::{Asks, Manner, SyslogSink};

pub fn stream(receiver: Receiver) -> Stream {
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

pub fn sender(house: &House, stream: Stream) -> Sender {
    Sender::new(stream, Arc::clone(&house.desk), StreamState::new(&mut Registry::default())).unwrap()
}

/// A house of which everything so far is numbered.
pub async fn quiet(url: &str) -> House {
    let house = House::new(url).await;
    number(&house).await;
    house
}

/// Numbers what was appended.
async fn number(house: &House) {
    for log in house.desk.store.log_list().await.unwrap() {
        while house.desk.store.number_pending(log.log, house.now()).await.unwrap() > 0 {}
    }
}

/// Puts this event on record, with a number.
pub async fn happens(house: &House, event: &Event) {
    let mut tx = house.desk.store.begin().await.unwrap();
    tx.event_append(event).await.unwrap();
    tx.commit().await.unwrap();
    number(house).await;
}

pub fn numbered(house: &House, number: u8, kind: EventType) -> Event {
    Event::new(EventId::from_bytes([number; 16]), house.now(), kind, Outcome::Success).with("number", number)
}

/// Rounds until nothing is left, or nothing goes on.
pub async fn rounds(sender: &mut Sender) -> Round {
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
        let house = quiet(&url).await;
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

pub async fn kept(house: &House) -> StoredStream {
    house.desk.store.stream_fetch("siem").await.unwrap().unwrap()
}

/// The `number` of each event that came, in their order.
fn numbers(sink: &SyslogSink) -> Vec<i64> {
    let lines = sink.got().into_iter().map(|received| serde_json::from_str::<Value>(&received.text).unwrap());
    lines.filter_map(|line| line["data"]["number"].as_i64()).collect()
}

/// So many frames of a kilobyte and more.
fn frames(count: usize) -> Vec<u8> {
    let text = "x".repeat(1000);
    let mut frames = Vec::new();
    let time = TestClock::new().now();
    for _ in 0..count {
        let message =
            Message { severity: Severity::Error, time, host: "", process: "a b", kind: "k", data: &[], text: &text };
        message.push_frame(&mut frames);
    }
    frames
}

#[tokio::test(start_paused = true)]
async fn a61_a_receiver_that_hangs_trickles_lies_or_ends_early_is_left_in_time_and_has_taken_nothing() {
    for (manner, count, seconds, said) in [
        (Manner::Silent, 1, 5, "did not answer"),
        (Manner::Open, 1, 10, "did not answer"),
        (Manner::Trickle, 4000, 10, "did not answer"),
        (Manner::Short, 4000, 1, "broke off"),
        (Manner::Polite, 4000, 1, "broke off"),
        (Manner::Chatty, 1, 1, "it answers"),
    ] {
        let clock = TestClock::new();
        let sink = SyslogSink::start(&clock, Asks::Nothing).await;
        sink.behave(manner);
        let syslog = Syslog::new(&sink.settings(), Arc::new(clock)).unwrap();
        let started = tokio::time::Instant::now();
        let error = syslog.deliver(&frames(count)).await.unwrap_err().to_string();
        assert!(error.contains(said), "{manner:?}: {error}");
        assert!(started.elapsed().as_secs() <= seconds, "{manner:?}: {:?}", started.elapsed());
    }
}

#[tokio::test]
async fn a_message_has_only_what_its_fields_may_hold() {
    let clock = TestClock::new();
    let sink = SyslogSink::start(&clock, Asks::Nothing).await;
    let syslog = Syslog::new(&sink.settings(), Arc::new(clock.clone())).unwrap();
    let long = "k".repeat(100);
    let message = Message {
        severity: Severity::Warning,
        time: clock.now(),
        host: "",
        process: "nod 1\n",
        kind: &long,
        data: &[("a", Some("q\"b\\c]d\n")), ("b", None)],
        text: "<1>1 ] [x] ä",
    };
    let mut frames = Vec::new();
    message.push_frame(&mut frames);
    syslog.deliver(&frames).await.unwrap();
    let got = sink.got().remove(0);
    assert_eq!((got.host.as_str(), got.process.as_str(), got.kind.len()), ("-", "nod1", 32));
    assert!(got.data.ends_with(r#"[doorward@32473 a="q\"b\\c\]d "]"#), "{}", got.data);
    assert_eq!(got.text, "<1>1 ] [x] ä");
}

#[tokio::test]
async fn a_receiver_that_asks_for_a_certificate_gets_it_and_one_of_an_unknown_authority_gets_nothing() {
    let clock = TestClock::new();
    let sink = SyslogSink::start(&clock, Asks::Certificate).await;
    let with = Syslog::new(&sink.settings_with_certificate(), Arc::new(clock.clone())).unwrap();
    with.deliver(&frames(3)).await.unwrap();
    assert_eq!(sink.got().len(), 3);
    let without = Syslog::new(&sink.settings(), Arc::new(clock.clone())).unwrap();
    for count in [0, 3] {
        let error = without.deliver(&frames(count)).await.unwrap_err().to_string();
        assert!(error.contains("CertificateRequired"), "{error}");
    }
    let mut settings = sink.settings_with_certificate();
    settings.authorities.clear();
    let error = Syslog::new(&settings, Arc::new(clock.clone())).unwrap().deliver(&frames(3)).await.unwrap_err();
    assert!(error.to_string().contains("UnknownIssuer"), "{error}");
    let settings = doorward::outbound::settings::SyslogSettings { allow_loopback: false, ..sink.settings() };
    let error = Syslog::new(&settings, Arc::new(clock)).unwrap().deliver(&frames(3)).await.unwrap_err();
    assert!(error.to_string().contains("allow_loopback"), "{error}");
    assert_eq!(sink.got().len(), 3);
}

#[tokio::test]
async fn a61_a_stream_that_hangs_holds_up_neither_another_stream_nor_the_door() {
    let house = quiet(&databases()[0]).await;
    let (carol, _, _) = house.command_line("carol").await;
    let (hung, good) =
        (SyslogSink::start(&house.clock, Asks::Nothing).await, SyslogSink::start(&house.clock, Asks::Nothing).await);
    hung.behave(Manner::Silent);
    let mut first = sender(&house, stream(Receiver::Syslog(hung.settings())));
    let mut second = sender(&house, Stream { name: "other".to_owned(), ..stream(Receiver::Syslog(good.settings())) });
    first.round().await.unwrap();
    second.round().await.unwrap();
    happens(&house, &numbered(&house, 1, EventType::LockSet)).await;
    let started = Instant::now();
    let ((), round) = tokio::join!(
        async {
            while hung.connections.load(Ordering::SeqCst) == 0 {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            assert_eq!(rounds(&mut second).await, Round::Done);
            assert_eq!(house.get(&carol, "/api/v1/whoami").await.status, 200);
            assert!(started.elapsed() < Duration::from_secs(4), "{:?}", started.elapsed());
        },
        first.round()
    );
    assert_eq!(round.unwrap(), Round::Failed);
    assert!(started.elapsed() < Duration::from_secs(8), "{:?}", started.elapsed());
    assert!(numbers(&good).contains(&1));
    assert!(numbers(&hung).is_empty());
}

#[tokio::test]
async fn a_receiver_that_stands_still_is_told_of_once_and_that_it_takes_events_again_once() {
    for url in databases() {
        let house = quiet(&url).await;
        let sink = SyslogSink::start(&house.clock, Asks::Nothing).await;
        let settings = stream(Receiver::Syslog(sink.settings()));
        let mut sender = sender(&house, settings);
        sender.round().await.unwrap();
        sink.behave(Manner::Chatty);
        happens(&house, &numbered(&house, 1, EventType::LockSet)).await;
        for minute in 0..8 {
            assert_eq!(sender.round().await.unwrap(), Round::Failed);
            number(&house).await;
            assert_eq!(count(&house, EventType::AuditStreamStalled).await, usize::from(minute >= 5), "{minute}");
            house.clock.advance(Ttl::minutes(1));
        }
        let stream = kept(&house).await;
        assert_eq!((stream.failures, stream.sent), (8, 0));
        assert!(stream.error.unwrap().contains("it answers"));
        sink.behave(Manner::Good);
        // Its own news is sent like everything else, and makes none.
        for _ in 0..5 {
            assert_eq!(rounds(&mut sender).await, Round::Done);
            number(&house).await;
            house.clock.advance(Ttl::minutes(10));
        }
        assert_eq!(count(&house, EventType::AuditStreamStalled).await, 1);
        let filter = EventFilter { kind: Some(EventType::AuditStreamStalled), ..EventFilter::default() };
        let stalled = house.desk.store.event_list(&filter, 1).await.unwrap().remove(0);
        let notice = Notice::of_event(&stalled);
        assert!(EventPattern::parse("audit.stream_stalled").unwrap().wants(&notice.kind));
        assert_eq!(notice.headline(), "Stream siem of the record stands still: its receiver takes nothing");
        assert!(notice.data["error"].as_str().unwrap().contains("it answers") && notice.data["lag"].is_number());
        assert_eq!(count(&house, EventType::AuditStreamRecovered).await, 1);
        let kinds: Vec<_> = sink.got().into_iter().map(|received| received.kind).collect();
        assert_eq!(kinds, ["lock.set", "audit.stream_stalled", "audit.stream_recovered"]);
        let stream = kept(&house).await;
        assert_eq!((stream.failures, stream.error, stream.stalled_at, stream.sent), (0, None, None, 3));
    }
}

#[tokio::test]
async fn a_sender_that_is_killed_at_any_point_loses_nothing_and_keeps_the_order() {
    for url in databases() {
        let house = quiet(&url).await;
        let sink = SyslogSink::start(&house.clock, Asks::Nothing).await;
        sender(&house, stream(Receiver::Syslog(sink.settings()))).round().await.unwrap();
        for polls in 1..=40 {
            happens(&house, &numbered(&house, polls, EventType::LockSet)).await;
            let mut killed = sender(&house, stream(Receiver::Syslog(sink.settings())));
            let _ = cut(usize::from(polls), killed.round()).await;
        }
        // As after a start: the same node, nothing in memory.
        let mut sender = sender(&house, stream(Receiver::Syslog(sink.settings())));
        assert_eq!(rounds(&mut sender).await, Round::Done);
        let mut seen = Vec::new();
        for number in numbers(&sink) {
            if !seen.contains(&number) {
                seen.push(number);
            }
        }
        assert_eq!(seen, (1..=40).collect::<Vec<i64>>());
    }
}

#[tokio::test]
async fn one_of_two_nodes_sends_and_the_other_goes_on_where_it_was() {
    for url in databases() {
        let clock = TestClock::new();
        let one = House::node(&url, clock.clone(), 1, 42, |_| {}).await;
        let two = House::node(&url, clock.clone(), 2, 43, |_| {}).await;
        let sink = SyslogSink::start(&clock, Asks::Nothing).await;
        let mut first = sender(&one, stream(Receiver::Syslog(sink.settings())));
        let mut second = sender(&two, stream(Receiver::Syslog(sink.settings())));
        assert_eq!(rounds(&mut first).await, Round::Done);
        assert_eq!(second.round().await.unwrap(), Round::Standby);
        happens(&one, &numbered(&one, 1, EventType::LockSet)).await;
        happens(&two, &numbered(&two, 2, EventType::LockSet)).await;
        assert_eq!(second.round().await.unwrap(), Round::Standby);
        assert_eq!(rounds(&mut first).await, Round::Done);
        assert_eq!(numbers(&sink).len(), 2, "one sends the logs of both");
        // The first one is gone without a word.
        happens(&two, &numbered(&two, 3, EventType::LockSet)).await;
        assert_eq!(second.round().await.unwrap(), Round::Standby);
        clock.advance(Ttl::seconds(61));
        assert_eq!(rounds(&mut second).await, Round::Done);
        assert_eq!(numbers(&sink).last(), Some(&3));
        // It comes back, and the second one stops in good order.
        assert_eq!(first.round().await.unwrap(), Round::Standby);
        let over = tokio_util::sync::CancellationToken::new();
        over.cancel();
        second.run(over).await;
        happens(&one, &numbered(&one, 4, EventType::LockSet)).await;
        assert_eq!(rounds(&mut first).await, Round::Done);
        let mut all = numbers(&sink);
        all.sort_unstable();
        assert_eq!(all, [1, 2, 3, 4]);
    }
}

#[tokio::test]
async fn a_stream_carries_what_it_is_to_and_begins_where_it_is_told() {
    for url in databases() {
        let house = quiet(&url).await;
        happens(&house, &numbered(&house, 1, EventType::LockSet)).await;
        happens(&house, &numbered(&house, 2, EventType::GrantActive)).await;
        let about = |number: u8, service: &str| {
            let mut event = numbered(&house, number, EventType::GrantActive);
            event.service = Some(ServiceName::parse(service).unwrap());
            event
        };
        happens(&house, &about(3, "ops-api")).await;
        happens(&house, &about(4, "elsewhere")).await;
        let sink = SyslogSink::start(&house.clock, Asks::Nothing).await;
        let selection = Selection {
            types: vec![TypePattern::parse("grant.*").unwrap(), TypePattern::parse("lock.cleared").unwrap()],
            services: vec![ServiceName::parse("ops-api").unwrap()],
        };
        let whole = stream(Receiver::Syslog(sink.settings()));
        let settings = Stream { selection, from_beginning: true, format: StreamFormat::Cef, ..whole };
        let mut sender = sender(&house, settings);
        assert_eq!(rounds(&mut sender).await, Round::Done);
        let got = sink.got();
        assert_eq!(got.len(), 1);
        assert!(got[0].text.starts_with("CEF:0|Doorward|"), "{}", got[0].text);
        assert_eq!(kept(&house).await.format, "cef");
        let seen = streams::StreamSeen::of(&house.desk.store, kept(&house).await).await.unwrap();
        assert_eq!((seen.lag_events(), seen.state(house.now()).name()), (0, "sending"));
        house.clock.advance(Ttl::minutes(3));
        assert_eq!(seen.state(house.now()).name(), "unattended");
    }
}

#[tokio::test]
async fn what_is_pruned_before_it_was_sent_is_told_with_its_count() {
    for url in databases() {
        let house = quiet(&url).await;
        let sink = SyslogSink::start(&house.clock, Asks::Nothing).await;
        let mut sender = sender(&house, stream(Receiver::Syslog(sink.settings())));
        sender.round().await.unwrap();
        sink.behave(Manner::Chatty);
        for number in 1..=3 {
            happens(&house, &numbered(&house, number, EventType::LockSet)).await;
        }
        house.clock.advance(Ttl::hours(48));
        assert_eq!(sender.round().await.unwrap(), Round::Failed);
        retention::prune(&house.desk, Ttl::hours(24), house.now()).await.unwrap();
        number(&house).await;
        let filter = EventFilter { kind: Some(EventType::AuditStreamGap), ..EventFilter::default() };
        let gaps = house.desk.store.event_list(&filter, 10).await.unwrap();
        assert_eq!(gaps.len(), 1);
        assert_eq!((gaps[0].text("/data/stream"), gaps[0].body["data"]["count"].as_i64()), (Some("siem"), Some(3)));
        // The leaves come all the same, so that numbers have no gap.
        sink.behave(Manner::Good);
        assert_eq!(rounds(&mut sender).await, Round::Done);
        let withheld = |text: &str| serde_json::from_str::<Value>(text).unwrap()["withheld"] == "pruned";
        assert_eq!(sink.got().iter().filter(|received| withheld(&received.text)).count(), 3);
        // One that nobody has configured any more is not waited for.
        happens(&house, &numbered(&house, 9, EventType::LockSet)).await;
        house.clock.advance(Ttl::hours(48));
        retention::prune(&house.desk, Ttl::hours(24), house.now()).await.unwrap();
        assert_eq!(count(&house, EventType::AuditStreamGap).await, 1);
    }
}

#[tokio::test]
async fn a_syslog_witness_has_every_checkpoint_and_gets_later_what_it_did_not_take() {
    for url in databases() {
        let house = quiet(&url).await;
        let sink = SyslogSink::start(&house.clock, Asks::Nothing).await;
        sink.behave(Manner::Chatty);
        let keeper = || Arc::new(Keeper::new(vec![Witness::Syslog(sink.settings())], Ttl::hours(24 * 400)));
        let first = keeper();
        first.open(&house.desk, house.now()).await.unwrap();
        happens(&house, &numbered(&house, 1, EventType::LockSet)).await;
        first.attend(&house.desk).await;
        assert!(first.state.lag().events > 0);
        assert!(sink.got().is_empty());
        // Another process, after a restart.
        sink.behave(Manner::Good);
        let second = keeper();
        second.open(&house.desk, house.now()).await.unwrap();
        second.attend(&house.desk).await;
        assert_eq!(second.state.lag().events, 0);
        let got = sink.got();
        let name = format!("{}", house.desk.store.node().unwrap());
        let of_node: Vec<_> = got.iter().filter(|received| received.process == name).collect();
        assert!(!of_node.is_empty() && got.iter().any(|received| received.process == "installation"), "{got:?}");
        let last: Value = serde_json::from_str(&of_node.last().unwrap().text).unwrap();
        let log = doorward::audit::checkpoint::LogName::parse(&name).unwrap();
        let kept = house.desk.store.checkpoint_last(log).await.unwrap().unwrap();
        assert_eq!(last["note"], kept.note.as_str());
        assert_eq!(last["size"], kept.size);
        let before = got.len();
        second.attend(&house.desk).await;
        assert_eq!(sink.got().len(), before, "each once");
    }
}
