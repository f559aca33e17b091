//! The client against servers that answer, refuse, lie or aren't there.

use bytes::Bytes;
use doorward::cli::client::{Client, ClientError};
use doorward::cli::exit::Exit;
use doorward::cli::failure::Failure;
use doorward::cli::origin::Origin;
use doorward::wire::Whoami;
use http::Response;
use http_body_util::Full;
use serde_json::json;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpListener;

use super::fake_door::{FakeDoor, json_reply};
use crate::support::{free_port, install_crypto};

fn client(door: &FakeDoor) -> Client {
    Client::new(Origin::parse(&door.origin).unwrap(), Some(&door.ca_pem), None).unwrap()
}

async fn failure(client: &Client, path: &str) -> Failure {
    client.get(path).await.expect_err(path).into()
}

#[tokio::test]
async fn a_refusal_gives_the_exit_code_of_its_reason() {
    let door = FakeDoor::open(|seen| {
        let (status, reason) = seen.query.split_once('-').unwrap();
        let status: u16 = status.parse().unwrap();
        json_reply(status, &json!({"type": "urn:doorward:problem:x", "title": "T", "status": status, "reason": reason}))
    })
    .await;
    let client = client(&door);
    for (query, exit) in [
        ("401-session_ended", Exit::SignedOut),
        ("401-no_credential", Exit::SignedOut),
        ("401-bad_credential", Exit::SignedOut),
        ("403-no_policy_match", Exit::Denied),
        ("403-forbidden_by_policy", Exit::Denied),
        ("400-usage", Exit::Usage),
        ("404-not_found", Exit::Failed),
        ("409-conflict", Exit::Failed),
        ("429-rate_limited", Exit::Failed),
        ("500-internal", Exit::Failed),
        ("503-stale", Exit::Unreachable),
    ] {
        let failure = failure(&client, &format!("/api/v1/x?{query}")).await;
        assert_eq!(failure.exit, exit, "{query}");
        assert_eq!(failure.problem.reason, query.split_once('-').unwrap().1);
    }
}

#[tokio::test]
async fn an_answer_that_can_not_be_used_says_so() {
    let door = FakeDoor::open(|seen| match seen.path.as_str() {
        "/html" => Response::builder().status(500).body(Full::new(Bytes::from("<html>"))).unwrap(),
        "/bare-401" => Response::builder().status(401).body(Full::default()).unwrap(),
        "/redirect" => {
            Response::builder().status(302).header("location", "https://evil.example/").body(Full::default()).unwrap()
        }
        "/large" => Response::new(Full::new(Bytes::from(vec![b' '; 9 * 1024 * 1024]))),
        _ => json_reply(200, &json!({"surprise": true})),
    })
    .await;
    let client = client(&door);
    assert_eq!(failure(&client, "/html").await.exit, Exit::Failed);
    assert_eq!(failure(&client, "/bare-401").await.exit, Exit::SignedOut);
    assert_eq!(failure(&client, "/redirect").await.exit, Exit::Failed);
    assert!(matches!(client.get("/large").await, Err(ClientError::Exchange { .. })));
    let json = client.get("/ok").await.unwrap();
    assert!(matches!(client.read::<Whoami>(&json), Err(ClientError::Answer { .. })));
}

#[tokio::test]
async fn an_oauth_error_is_told_with_its_description() {
    let door =
        FakeDoor::open(|_| json_reply(400, &json!({"error": "access_denied", "error_description": "dave said no"})))
            .await;
    let error = client(&door).form_raw("/oauth2/token", &[("a", "b c&d")]).await.unwrap_err();
    let failure = Failure::from(error);
    assert_eq!(failure.exit, Exit::Denied);
    assert!(failure.problem.detail.unwrap().contains("dave said no"));
    let seen = door.seen();
    assert_eq!(seen[0].body, "a=b+c%26d");
    assert_eq!(seen[0].header("content-type"), Some("application/x-www-form-urlencoded"));
}

#[tokio::test]
async fn a_server_that_is_not_there_or_not_trusted_ends_with_six() {
    install_crypto();
    let origin = Origin::parse(&format!("https://doorward.localhost:{}", free_port())).unwrap();
    let door = FakeDoor::open(|_| json_reply(200, &json!({}))).await;
    let absent = Client::new(origin, Some(&door.ca_pem), None).unwrap();
    assert_eq!(failure(&absent, "/").await.exit, Exit::Unreachable);

    let untrusted = Client::new(Origin::parse(&door.origin).unwrap(), None, None).unwrap();
    let untrusted = failure(&untrusted, "/").await;
    assert_eq!(untrusted.exit, Exit::Unreachable);
    assert!(untrusted.problem.detail.unwrap().contains("DOORWARD_CA"));

    let other_name = format!("https://other.localhost:{}", door.address.port());
    let misnamed = Client::new(Origin::parse(&other_name).unwrap(), Some(&door.ca_pem), None).unwrap();
    let misnamed = failure(&misnamed, "/").await;
    assert_eq!(misnamed.exit, Exit::Unreachable);
    assert!(misnamed.problem.detail.unwrap().contains("another name"));
    assert!(door.seen().is_empty());
}

#[tokio::test]
async fn a_name_below_localhost_is_this_machine_by_either_protocol() {
    // Some machines have no IPv6.
    let Ok(listener) = TcpListener::bind("[::1]:0").await else { return };
    let port = listener.local_addr().unwrap().port();
    let stream = doorward::cli::dial::connect("doorward.localhost", port).await.unwrap();
    assert_eq!(stream.peer_addr().unwrap(), listener.local_addr().unwrap());
}

#[tokio::test]
async fn a_server_that_speaks_no_tls_ends_with_six() {
    install_crypto();
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await.unwrap();
    });
    let client = Client::new(Origin::parse(&format!("https://localhost:{port}")).unwrap(), None, None).unwrap();
    assert_eq!(failure(&client, "/").await.exit, Exit::Unreachable);
}

#[test]
fn a_file_that_is_no_authority_is_wrong_usage() {
    for pem in ["", "not PEM", "-----BEGIN CERTIFICATE-----\n!!\n-----END CERTIFICATE-----\n"] {
        let origin = Origin::parse("https://localhost").unwrap();
        let Err(error) = Client::new(origin, Some(pem), None) else { panic!("{pem:?} was taken") };
        assert_eq!(Failure::from(error).exit, Exit::Usage, "{pem:?}");
    }
}

#[tokio::test]
async fn a_list_is_read_to_its_last_page() {
    let door = FakeDoor::open(|seen| match seen.query.as_str() {
        "all=true" => json_reply(200, &json!({"items": [{"n": 1}, {"n": 2}], "next": "a b&c"})),
        "all=true&cursor=a+b%26c" => json_reply(200, &json!({"items": [{"n": 3}], "next": null})),
        other => panic!("{other}"),
    })
    .await;
    let page = client(&door).list("/api/v1/sessions?all=true").await.unwrap();
    let items: Vec<_> = page.items.iter().map(|item| item.get().to_owned()).collect();
    assert_eq!(items, [r#"{"n":1}"#, r#"{"n":2}"#, r#"{"n":3}"#]);
    assert_eq!(page.next, None);
}
