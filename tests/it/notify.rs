//! Notices from the record to a webhook and to a mail server, on both engines.

use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::routing::post;
use data_encoding::BASE64;
use doorward::audit::{Event, EventType, Outcome};
use doorward::model::{Clock, EventId, Principal, Secret, Timestamp, Ttl};
use doorward::notify::audience::nobody;
use doorward::notify::delivery::{PAUSES, Round};
use doorward::notify::settings::key_of;
use doorward::notify::{
    Alert, Channels, Counted, EventPattern, Format, Notice, NotifySettings, SmtpSettings, SmtpTls, WebhookSettings,
    signature,
};
use doorward::store::{EventFilter, Log, NoticeState, Store};
use prometheus_client::registry::Registry;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};

use crate::store_record::opened;
use crate::support::{SeededEntropy, TestClock, databases, install_crypto};

const ORIGIN: &str = "https://control.example.com";
const KEY: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";

/// Head and body of a message.
type Message = (HeaderMap, Vec<u8>);
/// A status, and the pause that goes with it.
type Answer = (u16, Option<&'static str>);

/// What a receiver got, and what it answers.
#[derive(Clone, Default)]
struct Receiver {
    got: Arc<Mutex<Vec<Message>>>,
    answers: Arc<Mutex<Vec<Answer>>>,
}

impl Receiver {
    async fn start(&self) -> String {
        let take = |State(receiver): State<Self>, headers: HeaderMap, body: Bytes| async move {
            receiver.got.lock().unwrap().push((headers, body.to_vec()));
            let (status, pause) = receiver.answers.lock().unwrap().pop().unwrap_or((204, None));
            let mut headers = HeaderMap::new();
            if let Some(pause) = pause {
                headers.insert("retry-after", pause.parse().unwrap());
            }
            (StatusCode::from_u16(status).unwrap(), headers)
        };
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/hook/its-secret", listener.local_addr().unwrap());
        let router = Router::new().route("/hook/its-secret", post(take)).with_state(self.clone());
        tokio::spawn(crate::fake_provider::serve(listener, router));
        url
    }

    fn bodies(&self) -> Vec<serde_json::Value> {
        self.got.lock().unwrap().iter().map(|(_, body)| serde_json::from_slice(body).unwrap()).collect()
    }
}

fn webhook(url: &str, events: &[&str], format: Format) -> WebhookSettings {
    WebhookSettings {
        name: "operations".into(),
        url: Arc::new(Secret::new(url.to_owned())),
        key: key_of(KEY).map(Arc::new),
        events: events.iter().map(|text| EventPattern::parse(text).unwrap()).collect(),
        format,
        authorities: Vec::new(),
        allow_loopback: true,
    }
}

fn of_webhook(url: &str, events: &[&str]) -> NotifySettings {
    NotifySettings { webhooks: vec![webhook(url, events, Format::Standard)], smtp: None }
}

struct House {
    round: Round,
    clock: TestClock,
    store: Store,
    log: Log,
    counted: Counted,
}

impl House {
    async fn open(url: &str, node: u8, settings: &NotifySettings) -> Self {
        install_crypto();
        let clock = TestClock::new();
        let (store, log) = opened(url, node).await;
        let counted = Counted::new(&mut Registry::default());
        let shared: Arc<dyn Clock> = Arc::new(clock.clone());
        let channels = Channels::new(settings, ORIGIN, &shared, counted.clone()).unwrap();
        let round = Round {
            store: store.clone(),
            channels: Arc::new(channels),
            clock: shared,
            entropy: Arc::new(SeededEntropy::new(u64::from(node))),
            audience: nobody(),
        };
        for channel in round.channels.iter() {
            store.notice_channel_open(channel.name(), clock.now()).await.unwrap();
        }
        Self { round, clock, store, log, counted }
    }

    async fn happens(&self, number: u8, kind: EventType) -> EventId {
        let event = event(number, kind, self.clock.now());
        let mut tx = self.store.begin().await.unwrap();
        tx.event_append(&event).await.unwrap();
        tx.commit().await.unwrap();
        self.store.number_pending(self.log, self.clock.now()).await.unwrap();
        event.id
    }

    async fn go(&self) -> usize {
        let mut tried = 0;
        for channel in self.round.channels.iter() {
            tried += self.round.run(channel).await.unwrap();
        }
        tried
    }

    async fn dead(&self) -> usize {
        let dead = EventFilter { kind: Some(EventType::NoticeDead), ..EventFilter::default() };
        self.store.event_list(&dead, 100).await.unwrap().len()
    }
}

fn event(number: u8, kind: EventType, now: Timestamp) -> Event {
    let mut event = Event::new(EventId::from_bytes([number; 16]), now, kind, Outcome::Success)
        .with("entitlement", "ops-api/deploy-prod")
        .with("request", "req_01")
        .with("for", "30m")
        .with("reason", "fix <!channel> & more\nBcc: mallory@example.com")
        .with("token", "canary-never-told");
    event.actor.principal = Principal::user("dev", "alice");
    event.actor.email = Some("alice@example.com".into());
    event
}

#[tokio::test]
async fn a_committed_request_is_told_once_signed_and_without_what_is_not_listed() {
    for url in databases() {
        let receiver = Receiver::default();
        let house = House::open(&url, 1, &of_webhook(&receiver.start().await, &["request.*"])).await;
        let id = house.happens(1, EventType::RequestCreated).await;
        house.happens(2, EventType::GrantActive).await;
        assert_eq!(house.go().await, 1);
        assert_eq!(house.go().await, 0);
        let (headers, body) = receiver.got.lock().unwrap()[0].clone();
        let text = |name: &str| headers[name].to_str().unwrap().to_owned();
        assert_eq!(text("webhook-id"), id.to_string());
        // Reckoned here by the document, and not by the code that is tested.
        let key = BASE64.decode(KEY.strip_prefix("whsec_").unwrap().as_bytes()).unwrap();
        let key = aws_lc_rs::hmac::Key::new(aws_lc_rs::hmac::HMAC_SHA256, &key);
        let signed = [format!("{id}.{}.", house.clock.now().seconds()).as_bytes(), &body].concat();
        let expected = BASE64.encode(aws_lc_rs::hmac::sign(&key, &signed).as_ref());
        assert_eq!(text("webhook-signature"), format!("v1,{expected}"));
        let body = String::from_utf8(body).unwrap();
        assert!(!body.contains("canary"), "{body}");
        let value: serde_json::Value = serde_json::from_str(&body).unwrap();
        assert_eq!(value["type"], "request.created");
        assert_eq!(value["data"]["actor"], "alice@example.com");
        assert_eq!(value["data"]["text"], "alice@example.com asks for ops-api/deploy-prod for 30m");
        assert_eq!(value["data"]["link"], format!("{ORIGIN}/requests/req_01"));
        assert_eq!(house.counted.of("delivered"), 1);
    }
}

#[test]
fn a_signature_is_that_of_the_standards_own_example() {
    // The example of the Standard Webhooks reference libraries.
    let body = br#"{"test": 2432232314}"#;
    let at = Timestamp::from_seconds(1_614_265_330);
    let signed = signature::sign(&key_of(KEY).unwrap(), "msg_p5jXN8AQM9LWM0D4loKWxJek", at, body);
    assert_eq!(signed, "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=");
    for wrong in ["MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "whsec_", "whsec_AAAA", "whsec_not base64 at all, no"] {
        assert!(key_of(wrong).is_none(), "{wrong}");
    }
}

#[tokio::test]
async fn what_is_not_taken_is_tried_again_with_growing_pauses_and_then_given_up_on_record() {
    for url in databases() {
        let receiver = Receiver::default();
        receiver.answers.lock().unwrap().extend([(500, None); 64]);
        let house = House::open(&url, 1, &of_webhook(&receiver.start().await, &["*"])).await;
        house.happens(1, EventType::LockSet).await;
        assert_eq!(house.go().await, 1);
        for pause in PAUSES {
            assert_eq!(house.go().await, 0, "not before {pause}");
            house.clock.advance(pause);
            house.clock.advance(Ttl::millis(u32::try_from(pause.as_millis() / 4).unwrap() + 1));
            assert_eq!(house.go().await, 1, "after {pause}");
        }
        assert_eq!(receiver.bodies().len(), PAUSES.len() + 1);
        assert_eq!(house.store.notice_count("operations", NoticeState::Dead).await.unwrap(), 1);
        let dead = house.store.notice_list(Some(NoticeState::Dead), None, 10).await.unwrap();
        assert_eq!(dead[0].error.as_deref(), Some("the receiver answered 500"));
        assert_eq!(house.dead().await, 1);
        // The news of it goes the same way, and its death makes no more news.
        house.store.number_pending(house.log, house.clock.now()).await.unwrap();
        assert_eq!(house.go().await, 1);
        for pause in PAUSES {
            house.clock.advance(pause);
            house.clock.advance(pause);
            house.go().await;
        }
        assert_eq!(house.dead().await, 1);
    }
}

#[tokio::test]
async fn a_receiver_that_is_gone_is_not_asked_again_and_one_that_asks_for_a_pause_gets_it() {
    for url in databases() {
        let receiver = Receiver::default();
        *receiver.answers.lock().unwrap() = vec![(410, None), (429, Some("900"))];
        let house = House::open(&url, 1, &of_webhook(&receiver.start().await, &["*"])).await;
        house.happens(1, EventType::LockSet).await;
        assert_eq!(house.go().await, 1);
        house.clock.advance(Ttl::seconds(899));
        assert_eq!(house.go().await, 0);
        house.clock.advance(Ttl::seconds(1));
        assert_eq!(house.go().await, 1);
        assert_eq!(house.store.notice_count("operations", NoticeState::Dead).await.unwrap(), 1);
    }
}

#[tokio::test]
async fn two_nodes_tell_each_event_once_and_a_new_channel_begins_at_the_present() {
    for url in databases() {
        let receiver = Receiver::default();
        let settings = of_webhook(&receiver.start().await, &["request.created"]);
        let (store, log) = opened(&url, 1).await;
        let mut tx = store.begin().await.unwrap();
        tx.event_append(&event(200, EventType::RequestCreated, TestClock::new().now())).await.unwrap();
        tx.commit().await.unwrap();
        store.number_pending(log, TestClock::new().now()).await.unwrap();
        let first = House::open(&url, 1, &settings).await;
        // This node's log is opened after the channel: it is read from its start.
        let second = House::open(&url, 2, &settings).await;
        for number in 0..20 {
            first.happens(number, EventType::RequestCreated).await;
            second.happens(100 + number, EventType::RequestCreated).await;
        }
        for _ in 0..4 {
            tokio::join!(first.go(), second.go());
        }
        let mut told: Vec<String> =
            receiver.bodies().iter().map(|body| body["data"]["event"].as_str().unwrap().to_owned()).collect();
        told.sort_unstable();
        assert_eq!(told.len(), 40);
        told.dedup();
        assert_eq!(told.len(), 40);
    }
}

#[tokio::test]
async fn a49_a_notice_goes_to_no_address_that_is_forbidden_and_its_own_address_is_told_to_nobody() {
    let url = &databases()[0];
    let mut settings = of_webhook("https://169.254.169.254/hook/its-secret", &["*"]);
    settings.webhooks[0].allow_loopback = false;
    let house = House::open(url, 1, &settings).await;
    house.happens(1, EventType::LockSet).await;
    assert_eq!(house.go().await, 1);
    let waiting = house.store.notice_list(None, None, 10).await.unwrap();
    assert_eq!(waiting[0].state, NoticeState::Waiting);
    let error = waiting[0].error.clone().unwrap();
    assert!(error.contains("169.254.169.254") && !error.contains("its-secret"), "{error}");
}

#[test]
fn a_reason_can_neither_call_a_channel_nor_write_a_header() {
    let data = event(1, EventType::RequestCreated, Timestamp::from_seconds(0)).data.to_map();
    let alert = Alert {
        id: EventId::from_bytes([1; 16]),
        time: Timestamp::from_seconds(0),
        kind: "request.created",
        actor: Some("eve\r\nBcc: x@example.com <!here>".into()),
        service: None,
        data,
    };
    let notice = Notice::of_alert(alert);
    let slack = notice.slack(ORIGIN);
    let text = slack.to_string();
    assert!(!text.contains("<!"), "{text}");
    assert!(slack["text"].as_str().unwrap().contains("&lt;!here&gt;"));
    assert!(text.contains(&format!("<{ORIGIN}/requests/req_01|Open in Doorward>")));
    assert!(!notice.headline().contains(['\r', '\n']));
    assert!(!text.contains("canary"));
}

/// A mail server that takes one mail: gives the envelope and the text as they were said.
async fn mail_server(listener: tokio::net::TcpListener) -> Vec<String> {
    let (stream, _) = listener.accept().await.unwrap();
    let mut stream = BufReader::new(stream);
    let mut said = Vec::new();
    stream.write_all(b"220 sink\r\n").await.unwrap();
    let mut in_text = false;
    loop {
        let mut line = String::new();
        if stream.read_line(&mut line).await.unwrap() == 0 {
            return said;
        }
        let line = line.trim_end().to_owned();
        said.push(line.clone());
        let answer: &[u8] = match line.split(' ').next().unwrap() {
            "." if in_text => {
                in_text = false;
                b"250 taken\r\n"
            }
            _ if in_text => continue,
            "DATA" => {
                in_text = true;
                b"354 go on\r\n"
            }
            "QUIT" => return said,
            _ => b"250 sink\r\n",
        };
        stream.write_all(answer).await.unwrap();
    }
}

fn smtp(port: u16) -> NotifySettings {
    let settings = SmtpSettings {
        host: "localhost".into(),
        port,
        tls: SmtpTls::None,
        from: "doorward@example.com".into(),
        login: None,
        to: vec!["team@example.com".into(), "second@example.com".into()],
        to_approvers: false,
        events: vec![EventPattern::parse("request.created").unwrap()],
        authorities: Vec::new(),
        allow_loopback: true,
    };
    NotifySettings { webhooks: Vec::new(), smtp: Some(settings) }
}

#[tokio::test]
async fn a_mail_arrives_with_its_link_and_no_header_of_the_requesters_own() {
    for url in databases() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let house = House::open(&url, 1, &smtp(listener.local_addr().unwrap().port())).await;
        let id = house.happens(1, EventType::RequestCreated).await;
        let server = tokio::spawn(mail_server(listener));
        assert_eq!(house.go().await, 1);
        let said = server.await.unwrap();
        let has = |wanted: &str| said.iter().any(|line| line.contains(wanted));
        for wanted in [
            "RCPT TO:<team@example.com>",
            "RCPT TO:<second@example.com>",
            &format!("Message-ID: <{id}@example.com>"),
            "Subject: [doorward] alice@example.com asks for ops-api/deploy-prod",
            &format!("{ORIGIN}/requests/req_01"),
        ] {
            assert!(has(wanted), "{wanted}: {said:?}");
        }
        assert!(!said.iter().any(|line| line.starts_with("Bcc:") || line.contains("canary")), "{said:?}");
        assert_eq!(house.store.notice_count("mail", NoticeState::Delivered).await.unwrap(), 1);
    }
}

#[tokio::test]
async fn a_mail_server_without_tls_gets_nothing_where_tls_is_wanted() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut settings = smtp(listener.local_addr().unwrap().port());
    settings.smtp.as_mut().unwrap().tls = SmtpTls::Starttls;
    let house = House::open(&databases()[0], 1, &settings).await;
    house.happens(1, EventType::RequestCreated).await;
    let server = tokio::spawn(mail_server(listener));
    assert_eq!(house.go().await, 1);
    let said = server.await.unwrap();
    assert!(!said.iter().any(|line| line.starts_with("MAIL") || line.starts_with("DATA")), "{said:?}");
    assert_eq!(house.store.notice_count("mail", NoticeState::Waiting).await.unwrap(), 1);
}

#[tokio::test]
async fn an_alert_is_told_at_once_without_any_database() {
    install_crypto();
    let receiver = Receiver::default();
    let clock: Arc<dyn Clock> = Arc::new(TestClock::new());
    let settings = of_webhook(&receiver.start().await, &["breakglass.*"]);
    let channels = Channels::new(&settings, ORIGIN, &clock, Counted::new(&mut Registry::default())).unwrap();
    let (alerts, queue) = doorward::notify::Alerts::new();
    let alert = Alert {
        id: EventId::from_bytes([9; 16]),
        time: clock.now(),
        kind: "breakglass.opened",
        actor: None,
        service: Some("ops-api".into()),
        data: event(1, EventType::BreakGlassOpened, clock.now())
            .with("opener", "dana")
            .with("scope", "ops-api")
            .data
            .to_map(),
    };
    alerts.alert_now(alert);
    // Everything is told when the last sender is gone.
    drop(alerts);
    doorward::notify::alert::run(queue, Arc::new(channels), clock, tokio_util::sync::CancellationToken::new()).await;
    let got = receiver.bodies();
    assert_eq!(got.len(), 1);
    assert_eq!(got[0]["data"]["text"], "EMERGENCY: dana opened the emergency path to ops-api");
    assert_eq!(got[0]["data"]["event"], EventId::from_bytes([9; 16]).to_string());
}
