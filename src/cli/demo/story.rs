//! The story, step by step, with what each has to come to.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use data_encoding::BASE64URL_NOPAD;
use http::{HeaderName, Method, Request, StatusCode};
use http_body_util::{BodyExt, Empty, Limited};
use hyper::body::Incoming;
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::Value;
use tokio::io::AsyncReadExt;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::cli::client::{Answer, ClientError, exchange};
use crate::cli::dial::{self, tls_error};
use crate::cli::exit::Exit;
use crate::cli::failure::Failure;
use crate::wire::{Decision, Problem};

use super::emergency::emergency;
use super::house::House;
use super::person::Person;
use super::proof::proof;
use super::transcript::{Told, Transcript, milliseconds};

/// How long production is asked for in the story, and when that is over for sure.
const HELD: &str = "2s";
const HELD_WAIT: Duration = Duration::from_millis(2100);
/// How soon a stream has to end after its session.
const CUT_MAX: Duration = Duration::from_secs(1);
/// How long it is watched before that is called a failure.
const WATCH_TIMEOUT: Duration = Duration::from_secs(5);
/// How long the record may take to show what was buffered.
const RECORD_TIMEOUT: Duration = Duration::from_secs(3);
const RECORD_INTERVAL: Duration = Duration::from_millis(50);
/// The largest body that is read of an answer over HTTP/2.
const BODY_BYTES_MAX: usize = 64 * 1024;
/// What a caller says of themselves in the story; no service may ever hear it.
const IMPOSTOR: &str = "mallory";

/// A decision that a step has shown.
struct Shown {
    id: String,
    allowed: bool,
}

/// The people, and what they have seen.
pub struct Story<'a> {
    house: &'a House,
    alice: Person,
    bob: Person,
    carol: Person,
    dave: Person,
    shown: Vec<Shown>,
    refused: Option<String>,
}

fn wrong(detail: impl Into<String>) -> Failure {
    Failure::failed(detail)
}

impl<'a> Story<'a> {
    /// Before it begins.
    ///
    /// # Errors
    /// When the people can't have homes.
    pub fn new(house: &'a House) -> Result<Self, Failure> {
        let person = |name| Person::new(house, name);
        let (alice, bob, carol, dave) = (person("alice")?, person("bob")?, person("carol")?, person("dave")?);
        Ok(Self { house, alice, bob, carol, dave, shown: Vec::new(), refused: None })
    }

    /// All of it.
    ///
    /// # Errors
    /// When it can't be written; what goes wrong in a step is told in it.
    pub async fn play(&mut self, transcript: &mut Transcript<'_>) -> Result<(), Failure> {
        let no_certificate = "Without a certificate there is no talking to the service at all";
        transcript.step("no_certificate", no_certificate, async |told| self.no_certificate(told).await).await?;
        transcript.step("sign_in", "Alice, an engineer, signs in", async |told| self.sign_in(told).await).await?;
        transcript.step("allowed", "Allowed: what engineers may do", async |told| self.allowed(told).await).await?;
        let identity = "The service is told who calls by the door, and never by the caller";
        transcript.step("identity", identity, async |told| self.identity(told).await).await?;
        let denied = "Denied: production, and what would help";
        transcript.step("denied", denied, async |told| self.denied(told).await).await?;
        transcript.step("why", "Why, from the record", async |told| self.why(told).await).await?;
        let access = "Just in time: Alice asks, Bob approves, and it ends by itself";
        transcript.step("access", access, async |told| self.access(told).await).await?;
        let others = "Others: Dave is in no group, Carol is in security";
        transcript.step("others", others, async |told| self.others(told).await).await?;
        let revoked = "Revoked: an open stream is cut with its session";
        transcript.step("revoked", revoked, async |told| self.revoked(told).await).await?;
        let emergency_path = "The worst day: custodians open the door, and it is accounted for";
        transcript.step("emergency", emergency_path, async |told| emergency(self, told).await).await?;
        let telemetry = "Health and metrics, on an address of their own";
        transcript.step("telemetry", telemetry, async |told| self.telemetry(told).await).await?;
        let record = "Every decision above is in the record";
        transcript.step("record", record, async |told| self.record(told).await).await?;
        let proven = "The record proves itself to an auditor who trusts nobody";
        let (house, carol, events) = (self.house, &self.carol, self.shown.len());
        transcript.step("proof", proven, async |told| proof(house, carol, told, events).await).await
    }

    /// Where it plays.
    pub const fn house(&self) -> &'a House {
        self.house
    }

    /// Who reads the record and reviews.
    pub const fn auditor(&self) -> &Person {
        &self.carol
    }

    async fn no_certificate(&self, told: &mut Told) -> Result<String, Failure> {
        let service = self.house.service();
        let (host, port) = (service.host(), service.port());
        told.asked(&format!("anyone > TLS handshake with {} and no certificate", service.authority()));
        let ca = std::fs::read_to_string(self.house.ca())
            .map_err(|error| wrong(format!("reading the door's authority: {error}")))?;
        let tls = dial::tls_settings(Some(&ca), None).map_err(ClientError::from)?;
        let stream = dial::connect(&host, port).await.map_err(ClientError::from)?;
        let mut byte = [0u8; 1];
        // TLS 1.3 tells a client only after its own last flight (RFC 8446 §4.4.2.4): who reads, learns.
        let ended = match dial::secure(stream, &host, port, tls).await {
            Ok(mut stream) => stream.read(&mut byte).await,
            Err(dial::DialError::Tls { source, .. }) => Err(source),
            Err(other) => return Err(ClientError::from(other).into()),
        };
        let error = match ended {
            Ok(read) => return Err(wrong(format!("the handshake was not refused; {read} bytes came"))),
            Err(error) => error,
        };
        match tls_error(&error) {
            Some(rustls::Error::AlertReceived(rustls::AlertDescription::CertificateRequired)) => {
                told.answered("TLS alert: certificate_required (116)");
            }
            _ => return Err(wrong(format!("expected the alert certificate_required, got: {error}"))),
        }
        match self.house.reached() {
            0 => Ok("refused in the handshake; nothing reached the service".to_owned()),
            some => Err(wrong(format!("{some} requests reached the service"))),
        }
    }

    async fn sign_in(&self, told: &mut Told) -> Result<String, Failure> {
        self.alice.types(told, &["login", "--as", "alice"], Exit::Done).await?;
        let here = self.alice.signed_in().await?;
        let record = &here.session.record;
        if record.principal.email.as_deref() != Some("alice@example.com") {
            return Err(wrong(format!("signed in as {}", record.principal.text())));
        }
        Ok(format!("session {}, with a certificate until {}", record.session, record.certificate_expires_at))
    }

    async fn allowed(&mut self, told: &mut Told) -> Result<String, Failure> {
        let before = self.house.reached();
        let service = self.house.service();
        let status = self.alice.asks(told, service, (Method::GET, "/status"), &[]).await?;
        told.answered(&text_of(&status));
        self.saw(&status, StatusCode::OK)?;
        let staging = (Method::POST, "/v1/deployments/staging");
        let deployed = self.alice.asks(told, service, staging, &[]).await?;
        told.answered(&text_of(&deployed));
        self.saw(&deployed, StatusCode::CREATED)?;
        match self.house.reached() - before {
            2 => Ok("both reached the service, each with a decision of its own".to_owned()),
            other => Err(wrong(format!("{other} requests reached the service, not 2"))),
        }
    }

    async fn identity(&mut self, told: &mut Told) -> Result<String, Failure> {
        let claimed: Vec<(HeaderName, String)> = ["x-forwarded-user", "remote-user", "doorward-assertion"]
            .map(|name| (HeaderName::from_static(name), IMPOSTOR.to_owned()))
            .to_vec();
        let echo = (Method::GET, "/echo/hello");
        let answer = self.alice.asks(told, self.house.service(), echo, &claimed).await?;
        self.saw(&answer, StatusCode::OK)?;
        let received: Value =
            serde_json::from_slice(&answer.body).map_err(|error| wrong(format!("the echo can't be read: {error}")))?;
        let headers = received.get("headers").and_then(Value::as_object);
        let headers = headers.ok_or_else(|| wrong("the echo tells no headers"))?;
        told.answered("the service received:");
        for (name, value) in headers {
            told.answered(&format!("  {name}: {}", short(value.as_str().unwrap_or("(several)"))));
        }
        if let Some((name, _)) = headers.iter().find(|(_, value)| value.to_string().contains(IMPOSTOR)) {
            return Err(wrong(format!("the caller's own `{name}` reached the service")));
        }
        let assertion = headers.get("doorward-assertion").and_then(Value::as_str);
        let claims = assertion.and_then(claims).ok_or_else(|| wrong("there is no assertion that can be read"))?;
        told.answered(&format!("the assertion says: {}", summary(&claims)));
        match claims.get("sub").and_then(Value::as_str) {
            Some(subject) if subject.contains("dev|alice") => {
                Ok("the door's assertion is there; what the caller claimed is not".to_owned())
            }
            other => Err(wrong(format!("the assertion is about {other:?}"))),
        }
    }

    async fn denied(&mut self, told: &mut Told) -> Result<String, Failure> {
        let before = self.house.reached();
        let prod = (Method::POST, "/v1/deployments/prod");
        let answer = self.alice.asks(told, self.house.service(), prod, &[]).await?;
        let problem = self.refusal(told, &answer.body)?;
        self.saw(&answer, StatusCode::FORBIDDEN)?;
        self.refused.clone_from(&problem.decision);
        expect_reason(&problem, "no_policy_match")?;
        let command = problem.remedy.and_then(|remedy| remedy.command).unwrap_or_default();
        if !command.starts_with("doorward request ops-api/deploy-prod ") {
            return Err(wrong(format!("the remedy is `{command}`")));
        }
        match self.house.reached() - before {
            0 => Ok("refused, with the command that asks for it; nothing reached the service".to_owned()),
            some => Err(wrong(format!("{some} requests reached the service"))),
        }
    }

    async fn why(&self, told: &mut Told) -> Result<String, Failure> {
        let decision = self.refused.as_deref().ok_or_else(|| wrong("no refusal was seen before"))?;
        let text = self.alice.types(told, &["why", decision], Exit::Done).await?;
        for part in [decision, "was refused `deploy` on ops-api", "no_policy_match", "ops-api/deploy-prod"] {
            if !text.contains(part) {
                return Err(wrong(format!("`{part}` is not in it")));
            }
        }
        Ok("who, what, when, under which policies, and what would change it".to_owned())
    }

    async fn access(&mut self, told: &mut Told) -> Result<String, Failure> {
        let service = self.house.service();
        let prod = (Method::POST, "/v1/deployments/prod");
        let ask = ["request", "ops-api/deploy-prod", "--reason", "hotfix", "--ticket", "OPS-12", "--for", HELD];
        let asked = self.alice.types(told, &ask, Exit::Done).await?;
        let id = asked.split(|c: char| c != '_' && !c.is_ascii_alphanumeric()).find(|word| word.starts_with("req_"));
        let id = id.ok_or_else(|| wrong("no request is named"))?;
        // Nobody approves their own.
        self.alice.types(told, &["approve", id], Exit::Denied).await?;
        self.bob.types(told, &["login", "--as", "bob"], Exit::Done).await?;
        self.bob.types(told, &["requests", "--to-approve"], Exit::Done).await?;
        self.bob.types(told, &["approve", id, "--reason", "go ahead"], Exit::Done).await?;
        let began = Instant::now();
        let answer = self.alice.asks(told, service, prod.clone(), &[]).await?;
        self.saw(&answer, StatusCode::CREATED)?;
        told.asked(&format!("        … {HELD} later"));
        tokio::time::sleep_until(began + HELD_WAIT).await;
        let answer = self.alice.asks(told, service, prod, &[]).await?;
        let problem = self.refusal(told, &answer.body)?;
        self.saw(&answer, StatusCode::FORBIDDEN)?;
        expect_reason(&problem, "no_policy_match")?;
        let shown = self.alice.types(told, &["show", id], Exit::Done).await?;
        if !shown.contains("expired") {
            return Err(wrong("the request is not shown as expired"));
        }
        Ok("asked, answered by somebody else, used, and over by itself".to_owned())
    }

    async fn others(&mut self, told: &mut Told) -> Result<String, Failure> {
        let service = self.house.service();
        self.dave.types(told, &["login", "--as", "dave"], Exit::Done).await?;
        let answer = self.dave.asks(told, service, (Method::GET, "/status"), &[]).await?;
        let problem = self.refusal(told, &answer.body)?;
        self.saw(&answer, StatusCode::FORBIDDEN)?;
        expect_reason(&problem, "no_policy_match")?;
        if let Some(command) = problem.remedy.and_then(|remedy| remedy.command) {
            return Err(wrong(format!("dave is told of `{command}`")));
        }
        self.carol.types(told, &["login", "--as", "carol"], Exit::Done).await?;
        let answer = self.carol.asks(told, service, (Method::GET, "/admin/users"), &[]).await?;
        told.answered(&text_of(&answer));
        self.saw(&answer, StatusCode::OK)?;
        Ok("dave is refused and told of nothing to ask for; carol administers".to_owned())
    }

    async fn revoked(&mut self, told: &mut Told) -> Result<String, Failure> {
        let service = self.house.service();
        let (host, port) = (service.host(), service.port());
        let here = self.alice.signed_in().await?;
        let session = here.session.record.session.clone();
        // One connection with two requests: of HTTP/2, since a stream of HTTP/1.1 has it for itself.
        let mut tls = (**here.client.tls()).clone();
        tls.alpn_protocols = vec![b"h2".to_vec()];
        let stream = dial::connect(&host, port).await.map_err(ClientError::from)?;
        let stream = dial::secure(stream, &host, port, Arc::new(tls)).await.map_err(ClientError::from)?;
        let (mut sender, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
            .await
            .map_err(|error| wrong(format!("speaking HTTP/2: {error}")))?;
        // Ends with this step, whatever comes of it.
        let mut connections = JoinSet::new();
        connections.spawn(connection);

        told.asked(&format!("alice > GET {service}/events (HTTP/2, left open)"));
        let mut events = send(&mut sender, &format!("{service}/events")).await?;
        told.answered(&events.status().to_string());
        self.note(events.headers(), events.status(), StatusCode::OK)?;
        match events.body_mut().frame().await {
            Some(Ok(frame)) => {
                let data = frame.into_data().unwrap_or_default();
                told.answered(String::from_utf8_lossy(&data).trim_end());
            }
            _ => return Err(wrong("no event came")),
        }

        let arguments = ["revoke", &session, "--reason", "laptop lost"];
        let started = Instant::now();
        let (typed, cut) = tokio::join!(
            self.carol.types(told, &arguments, Exit::Done),
            tokio::time::timeout(WATCH_TIMEOUT, end_of(events.body_mut(), started))
        );
        typed?;
        let Ok((cut, how)) = cut else {
            return Err(wrong(format!("the stream was still open after {} s", WATCH_TIMEOUT.as_secs())));
        };
        // An end like any other would tell the client that it has seen everything.
        let how = how.ok_or_else(|| wrong("the stream ended as if it were complete"))?;
        let after = milliseconds(cut);
        told.answered(&format!("alice's stream ends {after} ms after the command began: {how}"));

        told.asked(&format!("alice > GET {service}/status (on the same connection)"));
        let answer = send(&mut sender, &format!("{service}/status")).await?;
        let (status, headers) = (answer.status(), answer.headers().clone());
        told.answered(&status.to_string());
        let body = Limited::new(answer.into_body(), BODY_BYTES_MAX).collect().await;
        let body = body.map_err(|error| wrong(format!("reading the answer: {error}")))?.to_bytes();
        let problem = self.refusal(told, &body)?;
        self.note(&headers, status, StatusCode::UNAUTHORIZED)?;
        expect_reason(&problem, "session_ended")?;
        drop(sender);
        connections.shutdown().await;
        if cut > CUT_MAX {
            return Err(wrong(format!("the stream was cut only after {after} ms")));
        }
        Ok(format!("the stream was cut after {after} ms, command included; the next request got 401"))
    }

    async fn telemetry(&self, told: &mut Told) -> Result<String, Failure> {
        let address = self.house.telemetry().ok_or_else(|| wrong("it does not listen"))?;
        let mut texts = Vec::new();
        for path in ["/healthz", "/readyz", "/metrics"] {
            told.asked(&format!("anyone > GET http://{address}{path}"));
            let stream = dial::connect(&address.ip().to_string(), address.port()).await.map_err(ClientError::from)?;
            let answer = exchange(stream, &address.to_string(), Method::GET, path, &[], Bytes::new()).await?;
            let text = text_of(&answer);
            told.answered(&answer.status.to_string());
            let counts = ["_total{service=\"ops-api\"", "doorward_handshake_failures_total{"];
            for line in text.lines() {
                if path != "/metrics" || counts.iter().any(|part| line.contains(part)) {
                    told.answered(line);
                }
            }
            if answer.status != StatusCode::OK {
                return Err(wrong(format!("{path} answers {}", answer.status)));
            }
            texts.push(text);
        }
        let metrics = texts.concat();
        for part in ["doorward_requests_allowed", "no_policy_match", "session_ended"] {
            if !metrics.contains(part) {
                return Err(wrong(format!("`{part}` is not counted")));
            }
        }
        Ok("ready, and everything above is counted".to_owned())
    }

    async fn record(&self, told: &mut Told) -> Result<String, Failure> {
        let here = self.carol.signed_in().await?;
        told.asked(&format!("carol, as auditor > GET {}/api/v1/decisions/…", self.house.control()));
        let mut missing = 0;
        for shown in &self.shown {
            let path = format!("/api/v1/decisions/{}", shown.id);
            let asking = async {
                loop {
                    // What was allowed may be on its way into the record still.
                    if let Ok(json) = here.client.get(&path).await {
                        return here.client.read::<Decision>(&json);
                    }
                    tokio::time::sleep(RECORD_INTERVAL).await;
                }
            };
            let found = tokio::time::timeout(RECORD_TIMEOUT, asking).await;
            let line = match found {
                Ok(Ok(decision)) if (decision.outcome == "allow") == shown.allowed && decision.id == shown.id => {
                    line_of(&decision)
                }
                Ok(Ok(decision)) => {
                    missing += 1;
                    format!("{}  is recorded as {}", shown.id, decision.outcome)
                }
                Ok(Err(error)) => return Err(error.into()),
                Err(_) => {
                    missing += 1;
                    format!("{}  is not in the record", shown.id)
                }
            };
            told.answered(&line);
        }
        match (missing, self.shown.len()) {
            (_, 0) => Err(wrong("there was no decision to look for")),
            (0, all) => Ok(format!("{all} of {all}, each as it was answered")),
            (missing, all) => Err(wrong(format!("{missing} of {all} are not as they were answered"))),
        }
    }

    /// Keeps the decision of an answer, and says whether it is the one that was expected.
    ///
    /// # Errors
    /// When it is another one, or names no decision.
    pub fn saw(&mut self, answer: &Answer, expected: StatusCode) -> Result<(), Failure> {
        self.note(&answer.headers, answer.status, expected)
    }

    fn note(&mut self, headers: &http::HeaderMap, status: StatusCode, expected: StatusCode) -> Result<(), Failure> {
        let decision = headers.get("doorward-decision").and_then(|value| value.to_str().ok());
        let decision = decision.ok_or_else(|| wrong(format!("{status} without a decision")))?;
        self.shown.push(Shown { id: decision.to_owned(), allowed: status.is_success() });
        if status == expected { Ok(()) } else { Err(wrong(format!("expected {expected}, got {status}"))) }
    }

    /// Tells a refusal in its parts.
    fn refusal(&self, told: &mut Told, body: &[u8]) -> Result<Problem, Failure> {
        let problem: Problem = serde_json::from_slice(body)
            .map_err(|_| wrong(format!("this is no problem+json: {}", short(&String::from_utf8_lossy(body)))))?;
        told.answered(&format!("reason    {}", problem.reason));
        if let Some(detail) = &problem.detail {
            told.answered(&format!("detail    {detail}"));
        }
        if let Some(command) = problem.remedy.as_ref().and_then(|remedy| remedy.command.as_ref()) {
            told.answered(&format!("remedy    {command}"));
        }
        if let Some(decision) = &problem.decision {
            told.answered(&format!("decision  {decision}"));
        }
        Ok(problem)
    }
}

fn expect_reason(problem: &Problem, expected: &str) -> Result<(), Failure> {
    if problem.reason == expected {
        return Ok(());
    }
    Err(wrong(format!("expected the reason {expected}, got {}", problem.reason)))
}

async fn send(sender: &mut http2::SendRequest<Empty<Bytes>>, url: &str) -> Result<http::Response<Incoming>, Failure> {
    let request = Request::get(url).body(Empty::new()).map_err(|error| wrong(error.to_string()))?;
    sender.ready().await.map_err(|error| wrong(format!("the connection is gone: {error}")))?;
    sender.send_request(request).await.map_err(|error| wrong(format!("asking over HTTP/2: {error}")))
}

/// Reads until the body ends: after how long, and with what, if not at an end of its own.
async fn end_of(body: &mut Incoming, started: Instant) -> (Duration, Option<String>) {
    loop {
        match body.frame().await {
            Some(Ok(_)) => {}
            Some(Err(error)) => {
                let cause = std::error::Error::source(&error).map(ToString::to_string);
                return (started.elapsed(), Some(cause.unwrap_or_else(|| error.to_string())));
            }
            None => return (started.elapsed(), None),
        }
    }
}

fn text_of(answer: &Answer) -> String {
    String::from_utf8_lossy(&answer.body).trim_end().to_owned()
}

/// A value that may be long, such as a token, by its beginning.
fn short(text: &str) -> String {
    const CHARACTERS_MAX: usize = 48;
    if text.chars().count() <= CHARACTERS_MAX {
        return text.to_owned();
    }
    text.chars().take(CHARACTERS_MAX).chain(['…']).collect()
}

/// What a JWT says. Who relies on it checks its signature; here it is only shown.
fn claims(token: &str) -> Option<Value> {
    let claims = token.split('.').nth(1)?;
    serde_json::from_slice(&BASE64URL_NOPAD.decode(claims.as_bytes()).ok()?).ok()
}

/// The claims that a service looks at.
fn summary(claims: &Value) -> String {
    let told = |name: &str| claims.get(name).map(|value| format!("{name}={value}"));
    ["sub", "email", "groups", "aud"].into_iter().filter_map(told).collect::<Vec<_>>().join(" ")
}

/// A decision of the record in one line.
fn line_of(decision: &Decision) -> String {
    let who = decision.principal.as_ref().map_or("-", |principal| principal.id.as_str());
    let what = decision.request.as_ref().map(|request| format!("{} {}", request.method, request.path));
    let why = decision.reason.as_deref().unwrap_or_default();
    format!("{}  {:<5}  {who:<9}  {}  {why}", decision.id, decision.outcome, what.unwrap_or_default())
}
