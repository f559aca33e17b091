//! Signing in: redirects without a browser, the browser's way over loopback, the device code.

use std::sync::{Arc, Mutex, OnceLock};

use bytes::Bytes;
use data_encoding::BASE64URL_NOPAD;
use doorward::cli::args::LoginArgs;
use doorward::cli::exit::Exit;
use doorward::cli::login;
use doorward::credential::authority::Authority;
use doorward::identity::cookie::CookieValue;
use doorward::model::Ttl;
use doorward::wire::oauth::program_letters;
use http::Response;
use http_body_util::Full;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use serde_json::json;
use sha2::{Digest, Sha256};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::Person;
use super::fake_door::{FakeDoor, Reply, Seen, json_reply, redirect, token_answer};

const SIGNED_IN: &str = "__Host-doorward=AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";

/// What a door does other than it should.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Twist {
    None,
    OtherIssuer,
    NoIssuer,
    OtherState,
    Denied,
    Elsewhere,
    Page,
    Locked,
    ProviderAway,
    /// It is an installation, though its provider is on this machine.
    Installation,
    /// It is a service of one.
    Service,
}

/// The parts of an authorization server that a sign-in meets.
struct Server {
    authority: OnceLock<Arc<Authority>>,
    origin: OnceLock<String>,
    provider: String,
    challenge: Mutex<Option<(String, String)>>,
    polls: Mutex<u32>,
    twist: Twist,
}

impl Server {
    fn answer(&self, seen: &Seen) -> Reply {
        let value = |name: &str| seen.value(name).unwrap_or_default();
        let origin = self.origin.get().unwrap();
        match seen.path.as_str() {
            "/oauth2/authorize" if !seen.header("cookie").is_some_and(|c| c.contains(SIGNED_IN)) => {
                assert_eq!(value("response_type"), "code");
                assert_eq!(value("code_challenge_method"), "S256");
                let return_to: String =
                    form_urlencoded::byte_serialize(format!("{}?{}", seen.path, seen.query).as_bytes()).collect();
                redirect(&format!("/signin?return_to={return_to}&login_hint={}", value("login_hint")))
            }
            "/oauth2/authorize" => {
                *self.challenge.lock().unwrap() = Some((value("code_challenge"), value("redirect_uri")));
                redirect(&format!("/signin/program?{}", seen.query))
            }
            "/signin/program" => {
                assert_eq!((seen.method.as_str(), value("answer").as_str()), ("POST", "agree"));
                assert_eq!(value("form"), CookieValue::parse(&SIGNED_IN[16..]).unwrap().form_token());
                assert_eq!(seen.header("origin"), self.origin.get().map(String::as_str));
                redirect(&self.callback(&value("redirect_uri"), &value("state")))
            }
            "/signin" if self.twist == Twist::Page => Response::new(Full::new(Bytes::from("<html>choose</html>"))),
            "/signin" if self.twist == Twist::Elsewhere => redirect("http://provider.example/auth"),
            "/signin" => {
                let mut reply = redirect(&format!("{}/auth?who={}", self.provider, value("login_hint")));
                let flow = BASE64URL_NOPAD.encode(value("return_to").as_bytes());
                let cookie = format!("__Host-doorward-flow={flow}; Path=/; Secure; HttpOnly");
                reply.headers_mut().insert("set-cookie", cookie.parse().unwrap());
                reply
            }
            "/signin/callback" if self.twist == Twist::Locked => {
                assert!(!seen.header("accept").unwrap().contains("html"), "a program does not ask for a page");
                let decision = "dec_06h01rs2cto0b2afh7rgi8mlbg";
                json_reply(
                    403,
                    &json!({"type": "urn:doorward:problem:locked", "title": "No session was started", "status": 403,
                        "detail": "the principal is locked", "reason": "locked", "decision": decision}),
                )
            }
            "/signin/callback" if self.twist == Twist::ProviderAway => {
                let mut page = Response::new(Full::new(Bytes::from("<html>away</html>")));
                *page.status_mut() = http::StatusCode::BAD_GATEWAY;
                page
            }
            "/signin/callback" => {
                let cookie = seen.header("cookie").unwrap();
                let flow = cookie.strip_prefix("__Host-doorward-flow=").unwrap();
                let return_to = String::from_utf8(BASE64URL_NOPAD.decode(flow.as_bytes()).unwrap()).unwrap();
                let mut reply = redirect(&return_to);
                reply.headers_mut().append("set-cookie", "__Host-doorward-flow=; Max-Age=0".parse().unwrap());
                reply.headers_mut().append("set-cookie", format!("{SIGNED_IN}; Path=/; Secure").parse().unwrap());
                reply
            }
            "/oauth2/device_authorization" => json_reply(
                200,
                &json!({"device_code": "dc", "user_code": "WDJB-MJHT", "verification_uri": format!("{origin}/device"),
                    "verification_uri_complete": format!("{origin}/device?code=WDJB-MJHT"), "expires_in": 600, "interval": 1}),
            ),
            "/oauth2/token" => self.token(seen),
            "/.well-known/oauth-authorization-server" => match self.twist {
                Twist::Installation => json_reply(200, &json!({"issuer": origin})),
                Twist::Service => json_reply(
                    401,
                    &json!({"type": "urn:doorward:problem:no_credential", "title": "Not signed in", "status": 401,
                        "detail": "You are not signed in.", "reason": "no_credential",
                        "decision": "dec_06h01rs2cto0b2afh7rgi8mlbg",
                        "remedy": {"kind": "sign_in", "command": "doorward login"}}),
                ),
                _ => json_reply(200, &json!({"issuer": origin, "doorward_development": true})),
            },
            other => panic!("{other}"),
        }
    }

    fn callback(&self, redirect_uri: &str, state: &str) -> String {
        let mut query = form_urlencoded::Serializer::new(String::new());
        match self.twist {
            Twist::Denied => query.append_pair("error", "access_denied").append_pair("error_description", "not you"),
            _ => query.append_pair("code", "the-code"),
        };
        query.append_pair("state", if self.twist == Twist::OtherState { "other" } else { state });
        match self.twist {
            Twist::OtherIssuer => drop(query.append_pair("iss", "https://elsewhere.example")),
            Twist::NoIssuer => {}
            _ => drop(query.append_pair("iss", self.origin.get().unwrap())),
        }
        format!("{redirect_uri}?{}", query.finish())
    }

    fn token(&self, seen: &Seen) -> Reply {
        let value = |name: &str| seen.value(name).unwrap_or_default();
        if value("grant_type").ends_with("device_code") {
            let mut polls = self.polls.lock().unwrap();
            *polls += 1;
            if *polls == 1 {
                return json_reply(400, &json!({"error": "authorization_pending"}));
            }
        } else {
            let (challenge, redirect_uri) = self.challenge.lock().unwrap().clone().unwrap();
            let verifier = value("code_verifier");
            assert!(verifier.len() >= 43);
            assert_eq!(BASE64URL_NOPAD.encode(&Sha256::digest(verifier.as_bytes())), challenge);
            assert_eq!(value("redirect_uri"), redirect_uri);
            assert_eq!(value("code"), "the-code");
        }
        let authority = self.authority.get().unwrap();
        json_reply(200, &token_answer(authority, &value("csr"), Ttl::hours(1), "refresh-1"))
    }
}

async fn door(twist: Twist) -> FakeDoor {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let provider = format!("http://{}", listener.local_addr().unwrap());
    let server = Arc::new(Server {
        authority: OnceLock::new(),
        origin: OnceLock::new(),
        provider,
        challenge: Mutex::new(None),
        polls: Mutex::new(0),
        twist,
    });
    let answering = Arc::clone(&server);
    let door = FakeDoor::open(move |seen| answering.answer(seen)).await;
    server.origin.set(door.origin.clone()).unwrap();
    assert!(server.authority.set(Arc::clone(&door.authority)).is_ok());
    let origin = door.origin.clone();
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let origin = origin.clone();
            tokio::spawn(async move {
                let service = service_fn(|request: http::Request<hyper::body::Incoming>| {
                    assert!(!request.headers().contains_key("cookie"), "the door's cookies are the door's");
                    let known = request.uri().query() == Some("who=alice");
                    let reply = if known {
                        redirect(&format!("{origin}/signin/callback?code=provider-code"))
                    } else {
                        Response::builder().status(404).body(Full::new(Bytes::from("nobody of that name"))).unwrap()
                    };
                    async move { Ok::<_, std::convert::Infallible>(reply) }
                });
                let _ =
                    hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
            });
        }
    });
    door
}

fn sign_in_as(name: &str) -> LoginArgs {
    LoginArgs { sign_in_as: Some(name.to_owned()), ..LoginArgs::default() }
}

#[tokio::test]
async fn one_of_the_people_of_dev_signs_in_without_a_browser() {
    let door = door(Twist::None).await;
    let person = Person::at(&door);
    login::run(&person.context, &sign_in_as("alice")).await.unwrap();
    assert!(person.talk.text().contains("Signed in as Alice (dev|alice)"), "{}", person.talk.text());
    assert!(person.talk.text().contains("11h59m from now") || person.talk.text().contains("12h from now"));
    let saved = person.context.profile().unwrap().load().unwrap().unwrap();
    assert_eq!(saved.record.refresh_token, "refresh-1");
    assert_eq!(saved.record.server, door.origin);
    assert_eq!(saved.ca_pem.as_deref(), Some(door.ca_pem.as_str()));
    assert!(saved.key_pem.contains("PRIVATE KEY"));
    assert!(door.seen().iter().all(|seen| !seen.body.contains("PRIVATE")), "the key stays here");
}

#[tokio::test]
async fn who_signs_in_over_a_session_that_lives_proves_themselves_anew() {
    let door = door(Twist::None).await;
    let person = Person::at(&door);
    let asked = || {
        let seen = door.seen();
        let last = seen.iter().rfind(|seen| seen.path == "/oauth2/authorize").unwrap();
        last.value("prompt")
    };
    login::run(&person.context, &sign_in_as("alice")).await.unwrap();
    assert_eq!(asked(), None);
    login::run(&person.context, &sign_in_as("alice")).await.unwrap();
    assert_eq!(asked().as_deref(), Some("login"));
    let by_code = LoginArgs { device_code: true, ..LoginArgs::default() };
    login::run(&person.context, &by_code).await.unwrap();
    let talk = person.talk.text();
    assert!(talk.contains("/signin?max_age=0&return_to=%2Fdevice%3Fcode%3DWDJB-MJHT"), "{talk}");
}

#[tokio::test]
async fn a34_an_answer_of_another_server_or_flow_is_not_taken() {
    for twist in [Twist::OtherIssuer, Twist::NoIssuer, Twist::OtherState] {
        let door = door(twist).await;
        let person = Person::at(&door);
        let failure = login::run(&person.context, &sign_in_as("alice")).await.unwrap_err();
        assert_eq!(failure.exit, Exit::Failed);
        assert_eq!(door.count("/oauth2/token"), 0, "no code is sent anywhere");
        assert!(person.context.profile().unwrap().load().unwrap().is_none());
    }
}

#[tokio::test]
async fn who_is_denied_or_unknown_is_told_so() {
    let refusing = door(Twist::Denied).await;
    let person = Person::at(&refusing);
    let failure = login::run(&person.context, &sign_in_as("alice")).await.unwrap_err();
    assert_eq!(failure.exit, Exit::Denied);
    assert_eq!(failure.problem.detail.as_deref(), Some("not you"));

    let honest = door(Twist::None).await;
    let person = Person::at(&honest);
    let failure = login::run(&person.context, &sign_in_as("zed")).await.unwrap_err();
    assert_eq!(failure.exit, Exit::Failed);
    assert!(failure.problem.detail.unwrap().contains("nobody of that name"));
}

#[tokio::test]
async fn signing_in_by_name_goes_nowhere_but_to_dev() {
    let outside = door(Twist::Elsewhere).await;
    let person = Person::at(&outside);
    let failure = login::run(&person.context, &sign_in_as("alice")).await.unwrap_err();
    assert_eq!(failure.exit, Exit::Usage);
    assert!(failure.problem.detail.unwrap().contains("http://provider.example/auth"));

    let choosing = door(Twist::Page).await;
    let person = Person::at(&choosing);
    let failure = login::run(&person.context, &sign_in_as("alice")).await.unwrap_err();
    let detail = failure.problem.detail.unwrap();
    assert!(detail.contains("--provider") && detail.contains("knows nobody of that name"), "{detail}");

    let mut person = Person::at(&choosing);
    person.context.global.server = Some("https://doorward.example.com".to_owned());
    let failure = login::run(&person.context, &sign_in_as("alice")).await.unwrap_err();
    assert_eq!(failure.exit, Exit::Usage);
}

#[tokio::test]
async fn who_is_locked_is_told_so_with_the_decision_and_a_provider_that_is_away_is_unreachable() {
    let locked = door(Twist::Locked).await;
    let failure = login::run(&Person::at(&locked).context, &sign_in_as("alice")).await.unwrap_err();
    assert_eq!((failure.exit, failure.problem.reason.as_str()), (Exit::Denied, "locked"));
    assert_eq!(failure.problem.decision.as_deref(), Some("dec_06h01rs2cto0b2afh7rgi8mlbg"));
    // Nobody is signed in who could ask why; scripts have the decision all the same.
    assert!(!failure.lines().concat().contains("doorward why"), "{:?}", failure.lines());
    assert!(failure.json().contains("dec_06h01rs2cto0b2afh7rgi8mlbg"), "{}", failure.json());
    let away = door(Twist::ProviderAway).await;
    let failure = login::run(&Person::at(&away).context, &sign_in_as("alice")).await.unwrap_err();
    assert_eq!((failure.exit, failure.problem.reason.as_str()), (Exit::Unreachable, "unreachable"));
}

#[tokio::test]
async fn only_a_door_of_dev_is_signed_in_to_by_name_and_a_service_is_no_door() {
    let installation = door(Twist::Installation).await;
    let person = Person::at(&installation);
    let failure = login::run(&person.context, &sign_in_as("alice")).await.unwrap_err();
    assert_eq!(failure.exit, Exit::Usage);
    assert!(failure.problem.detail.unwrap().contains("works against `doorward dev` only"));
    assert_eq!(installation.count("/oauth2/authorize"), 0, "nobody is signed in anywhere");

    let service = door(Twist::Service).await;
    for args in [LoginArgs { print_url: true, ..LoginArgs::default() }, sign_in_as("alice")] {
        let failure = login::run(&Person::at(&service).context, &args).await.unwrap_err();
        assert_eq!(failure.exit, Exit::Usage);
        let told = failure.problem.detail.unwrap();
        assert!(told.contains("is a service") && told.contains("control host"), "{told}");
    }
}

/// Asks the loopback listener for a path and reads the answer whole.
async fn knock(port: &str, path: &str) -> String {
    let mut stream = TcpStream::connect(format!("127.0.0.1:{port}")).await.unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nhost: 127.0.0.1:{port}\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).await.unwrap();
    text
}

#[tokio::test]
async fn the_browsers_answer_is_taken_once_and_only_with_its_state() {
    let door = door(Twist::None).await;
    let person = Person::at(&door);
    let args = LoginArgs { print_url: true, ..LoginArgs::default() };
    let browsing = async {
        let url = loop {
            if let Some(line) = person.out.text().lines().find(|line| line.starts_with("https://")) {
                break url::Url::parse(line).unwrap();
            }
            tokio::task::yield_now().await;
        };
        let query = |name: &str| url.query_pairs().find(|(key, _)| key == name).unwrap().1.into_owned();
        let redirect_uri = query("redirect_uri");
        let port =
            redirect_uri.strip_prefix("http://127.0.0.1:").unwrap().strip_suffix("/callback").unwrap().to_owned();
        // The door would note the challenge when the browser comes by.
        let path = format!("{}?{}", url.path(), url.query().unwrap());
        let client = doorward::cli::client::Client::new(
            doorward::cli::origin::Origin::parse(&door.origin).unwrap(),
            Some(&door.ca_pem),
            None,
        );
        let cookie = [(http::header::COOKIE, SIGNED_IN.to_owned())];
        client.unwrap().send(http::Method::GET, &path, &cookie, Bytes::new()).await.unwrap();

        // What the page shows is shown here too.
        assert!(person.talk.text().contains(&program_letters(&query("code_challenge"))), "{}", person.talk.text());
        let iss: String = form_urlencoded::byte_serialize(door.origin.as_bytes()).collect();
        let state = query("state");
        for wrong in [
            "/".to_owned(),
            "/favicon.ico".to_owned(),
            format!("/callback?code=evil&state=guess&iss={iss}"),
            format!("/callback?code=evil&state={state}&state={state}&iss={iss}"),
        ] {
            assert!(knock(&port, &wrong).await.starts_with("HTTP/1.1 404"), "{wrong}");
        }
        let page = knock(&port, &format!("/callback?code=the-code&state={state}&iss={iss}")).await;
        assert!(page.starts_with("HTTP/1.1 200") && page.contains("You are signed in"), "{page}");
        port
    };
    let (outcome, port) = tokio::join!(login::run(&person.context, &args), browsing);
    outcome.unwrap();
    // The address is data; all else is talk.
    assert_eq!(person.out.text().lines().count(), 1, "{}", person.out.text());
    assert!(!person.talk.text().contains("/oauth2/authorize"), "{}", person.talk.text());
    assert!(person.context.profile().unwrap().load().unwrap().is_some());
    assert!(TcpStream::connect(format!("127.0.0.1:{port}")).await.is_err(), "nobody listens any more");
}

#[tokio::test]
async fn no_address_is_printed_of_a_door_that_is_not_there() {
    let door = door(Twist::None).await;
    let mut person = Person::at(&door);
    person.context.global.server = Some("https://127.0.0.1:1".to_owned());
    let args = LoginArgs { print_url: true, ..LoginArgs::default() };
    let failure = login::run(&person.context, &args).await.unwrap_err();
    assert_eq!(failure.exit, Exit::Unreachable);
    assert_eq!(person.talk.text(), "");
}

#[tokio::test]
async fn a_file_without_authorities_is_named() {
    let door = door(Twist::None).await;
    let mut person = Person::at(&door);
    let file = person.home.path().join("notes.txt");
    std::fs::write(&file, "no certificate").unwrap();
    person.context.global.ca = Some(file.clone());
    let failure = login::run(&person.context, &sign_in_as("alice")).await.unwrap_err();
    assert_eq!(failure.exit, Exit::Usage);
    let detail = failure.problem.detail.unwrap();
    assert!(detail.contains(&file.display().to_string()) && detail.contains("no certificate in it"), "{detail}");
}

#[tokio::test]
async fn a_device_code_is_shown_and_asked_for_until_somebody_answered() {
    let door = door(Twist::None).await;
    let person = Person::at(&door);
    let args = LoginArgs { device_code: true, ..LoginArgs::default() };
    login::run(&person.context, &args).await.unwrap();
    assert!(person.talk.text().contains("WDJB-MJHT"));
    assert_eq!(door.count("/oauth2/token"), 2);
    assert!(person.context.profile().unwrap().load().unwrap().is_some());
}

#[tokio::test]
async fn a_device_certificate_is_shown_at_sign_in_and_needs_its_key() {
    use crate::support::SeededEntropy;
    use doorward::cli::renewal::signing_request;
    use doorward::model::SessionId;

    let door = door(Twist::None).await;
    let person = Person::at(&door);
    let key = rcgen::KeyPair::generate().unwrap().serialize_pem();
    let now = super::present();
    let device = door
        .authority
        .issue_session(
            signing_request(&key).unwrap().as_bytes(),
            SessionId::fresh(now, &SeededEntropy::new(5)),
            now,
            now.plus(Ttl::hours(1)),
            &SeededEntropy::new(6),
        )
        .unwrap();
    let (certificate_file, key_file) = (person.home.path().join("device.pem"), person.home.path().join("device.key"));
    std::fs::write(&certificate_file, &device.pem).unwrap();
    std::fs::write(&key_file, &key).unwrap();
    let mut args = sign_in_as("alice");
    args.device_certificate = Some(certificate_file);
    assert_eq!(login::run(&person.context, &args).await.unwrap_err().exit, Exit::Usage);
    args.device_key = Some(key_file);
    login::run(&person.context, &args).await.unwrap();
    let token = door.seen().into_iter().find(|seen| seen.path == "/oauth2/token").unwrap();
    assert_eq!(token.certificate, Some(device.der));
}
