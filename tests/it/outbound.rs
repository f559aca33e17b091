//! The client for the outside: where it goes, and where it never does (ATTACKS A49).

use std::net::IpAddr;
use std::sync::Arc;

use axum::Router;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
use doorward::outbound::address::{Forbidden, check};
use doorward::outbound::{Client, ClientSettings, OutboundError};
use proptest::prelude::*;

use crate::support::{TestClock, install_crypto};

fn client(allow_loopback: bool) -> Client {
    install_crypto();
    Client::new(ClientSettings { authorities: Vec::new(), allow_loopback }, Arc::new(TestClock::new())).unwrap()
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

#[test]
fn a49_link_local_and_metadata_addresses_are_refused_in_every_notation() {
    let never = [
        "169.254.169.254",
        "169.254.0.1",
        "169.254.255.255",
        "fe80::1",
        "febf::1",
        "::ffff:169.254.169.254",
        "::169.254.169.254",
        "64:ff9b::169.254.169.254",
        "64:ff9b:1::169.254.169.254",
        "2002:a9fe:a9fe::1",
        "::ffff:0:169.254.169.254",
        "100.100.100.200",
        "168.63.129.16",
        "192.0.0.192",
        "fd00:ec2::254",
        "fd20:ce::254",
        "::ffff:100.100.100.200",
    ];
    let no_host = [
        "0.0.0.0",
        "0.1.2.3",
        "::",
        "255.255.255.255",
        "224.0.0.1",
        "239.255.255.255",
        "240.0.0.1",
        "ff02::1",
        "::ffff:0.0.0.0",
        "2001:0:a9fe:a9fe::1",
        "2002:e000:1::",
    ];
    for address in never {
        for allow_loopback in [false, true] {
            let why = check(ip(address), allow_loopback);
            assert!(matches!(why, Err(Forbidden::LinkLocal | Forbidden::Metadata)), "{address}: {why:?}");
        }
    }
    for address in no_host {
        assert_eq!(check(ip(address), true), Err(Forbidden::NoHost), "{address}");
    }
}

#[test]
fn a49_this_machine_is_spoken_to_only_where_the_settings_say_so() {
    for address in ["127.0.0.1", "127.255.255.254", "::1", "::ffff:127.0.0.1", "64:ff9b::127.0.0.1", "2002:7f00:1::"] {
        assert_eq!(check(ip(address), false), Err(Forbidden::Loopback), "{address}");
        assert_eq!(check(ip(address), true), Ok(()), "{address}");
    }
    for address in ["10.0.0.1", "172.16.0.1", "192.168.1.1", "fd12:3456::1", "1.1.1.1", "2606:4700::1111"] {
        assert_eq!(check(ip(address), false), Ok(()), "{address}");
    }
}

proptest! {
    #[test]
    fn a49_an_ipv4_address_is_judged_alike_however_ipv6_carries_it(octets: [u8; 4], allow: bool) {
        let v4 = std::net::Ipv4Addr::from(octets);
        let [a, b, c, d] = octets;
        let (high, low) = (u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d]));
        let plain = check(v4.into(), allow);
        prop_assert_eq!(check(v4.to_ipv6_mapped().into(), allow), plain);
        let nat64 = std::net::Ipv6Addr::new(0x64, 0xff9b, 0, 0, 0, 0, high, low);
        prop_assert_eq!(check(nat64.into(), allow), plain);
    }
}

#[tokio::test]
async fn a49_urls_that_lead_to_this_machine_by_a_trick_are_refused() {
    let client = client(false);
    let tricks = [
        "https://localhost/",
        "https://LOCALHOST./",
        "https://a.localhost/",
        "https://127.0.0.1/",
        "https://2130706433/",
        "https://0x7f000001/",
        "https://0x7f.1/",
        "https://0177.0.0.1/",
        "https://127.1/",
        "https://[::1]/",
        "https://[::ffff:127.0.0.1]/",
        "https://[::ffff:7f00:1]/",
        "https://0.0.0.0/",
        "https://[::]/",
        "https://169.254.169.254/latest/meta-data/",
        "https://[fe80::1]/",
        "https://user@example.com/",
        "https://user:secret@example.com/",
        "https://@example.com/",
        "https://example.com@127.0.0.1/",
        "http://127.0.0.1/",
        "http://localhost/",
        "http://example.com/",
        "ftp://example.com/",
        "file:///etc/passwd",
    ];
    for url in tricks {
        let Ok(uri) = url.parse::<http::Uri>() else { continue };
        let request = http::Request::get(uri).body(Vec::new()).unwrap();
        let error = client.send(request).await.unwrap_err();
        assert!(matches!(error, OutboundError::Address { .. } | OutboundError::Url { .. }), "{url}: {error}");
        assert!(!error.to_string().contains("secret"), "{error}");
    }
}

async fn server(router: Router) -> String {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let origin = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(crate::fake_provider::serve(listener, router));
    origin
}

#[tokio::test]
async fn a49_a_redirect_is_an_answer_and_not_followed() {
    let router = Router::new()
        .route("/", get(|| async { (StatusCode::FOUND, [(header::LOCATION, "/elsewhere")]).into_response() }))
        .route("/elsewhere", get(|| async { "never" }));
    let answer = client(true).get(&server(router).await, None).await.unwrap();
    assert_eq!(answer.status(), 302);
    assert!(answer.body().is_empty());
}

#[tokio::test]
async fn a24_an_answer_larger_than_a_mebibyte_is_not_read() {
    let router = Router::new()
        .route("/fits", get(|| async { vec![b'x'; 1024 * 1024] }))
        .route("/large", get(|| async { vec![b'x'; 1024 * 1024 + 1] }));
    let (origin, client) = (server(router).await, client(true));
    assert_eq!(client.get(&format!("{origin}/fits"), None).await.unwrap().body().len(), 1024 * 1024);
    let error = client.get(&format!("{origin}/large"), None).await.unwrap_err();
    assert!(matches!(error, OutboundError::TooLarge { .. }), "{error}");
}

#[tokio::test]
async fn what_is_asked_arrives_whole() {
    let echo = |request: axum::extract::Request| async move {
        let host = request.headers()[header::HOST].to_str().unwrap().to_owned();
        let token = request.headers()[header::AUTHORIZATION].to_str().unwrap().to_owned();
        format!("{host} {} {token}", request.uri())
    };
    let origin = server(Router::new().route("/a/b", get(echo))).await;
    let answer = client(true).get(&format!("{origin}/a/b?c=d%20e"), Some("t0ken")).await.unwrap();
    let host = origin.strip_prefix("http://").unwrap();
    assert_eq!(String::from_utf8(answer.into_body()).unwrap(), format!("{host} /a/b?c=d%20e Bearer t0ken"));
}

#[tokio::test(start_paused = true)]
async fn a_server_that_says_nothing_is_left_after_ten_seconds() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let origin = format!("http://{}", listener.local_addr().unwrap());
    let started = tokio::time::Instant::now();
    let client = client(true);
    let (error, _connection) = tokio::join!(client.get(&origin, None), listener.accept());
    let error = error.unwrap_err();
    assert!(matches!(error, OutboundError::Timeout { .. }), "{error}");
    assert_eq!(started.elapsed().as_secs(), 10);
}

#[tokio::test]
async fn a_certificate_of_an_unknown_authority_is_refused_and_of_a_configured_one_taken() {
    use doorward::credential::authority::Authority;
    use doorward::model::{Clock, Ttl};
    use rustls::pki_types::pem::PemObject;
    use rustls::pki_types::{CertificateDer, PrivateKeyDer};
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    install_crypto();
    let (clock, entropy) = (TestClock::new(), crate::support::SeededEntropy::new(1));
    let made = Authority::generate("outside", clock.now(), Ttl::hours(24), &entropy).unwrap();
    let authority = Authority::load(&made.certificate.pem, &made.key_pem).unwrap();
    let leaf = authority.issue_server(&["localhost".to_owned()], clock.now(), Ttl::hours(2), &entropy).unwrap();
    let chain = vec![CertificateDer::from(leaf.certificate.der.clone())];
    let key = PrivateKeyDer::from_pem_slice(leaf.key_pem.as_bytes()).unwrap();
    let config = rustls::ServerConfig::builder().with_no_client_auth().with_single_cert(chain, key).unwrap();
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("https://localhost:{}/", listener.local_addr().unwrap().port());
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            if let Ok(mut stream) = acceptor.accept(stream).await {
                let mut head = [0u8; 1024];
                let _ = stream.read(&mut head).await;
                let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await;
                let _ = stream.shutdown().await;
            }
        }
    });
    let error = client(true).get(&url, None).await.unwrap_err();
    assert!(matches!(error, OutboundError::Connect { .. }), "{error}");
    let settings = ClientSettings { authorities: vec![authority.der().clone()], allow_loopback: true };
    let trusting = Client::new(settings, Arc::new(clock.clone())).unwrap();
    assert_eq!(trusting.get(&url, None).await.unwrap().body(), b"ok");
    // The end of a certificate is judged by our clock, and not by that of the machine.
    clock.advance(Ttl::hours(3));
    assert!(trusting.get(&url, None).await.is_err());
}
