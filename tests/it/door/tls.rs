//! What is settled in the handshake: a27, a29, a33.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use doorward::credential::authority::{Authority, IssuedWithKey};
use doorward::model::{Clock, Ttl};
use doorward::server::ambient::SystemEntropy;
use http::Method;
use rustls::HandshakeKind;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_rustls::{TlsAcceptor, TlsConnector};

use super::fixture::{Plan, Speaks, full, host, service_toml, with_door};

#[test]
fn a27_no_session_is_resumed() {
    with_door(Plan::default(), async |door| {
        let alice = door.sign_in("alice").await;
        for versions in [vec![&rustls::version::TLS13], vec![&rustls::version::TLS12]] {
            let mut roots = rustls::RootCertStore::empty();
            roots.add(rustls::pki_types::CertificateDer::from_pem_slice(door.ca_pem.as_bytes()).unwrap()).unwrap();
            let chain =
                vec![rustls::pki_types::CertificateDer::from_pem_slice(alice.certificate_pem.as_bytes()).unwrap()];
            let key = rustls::pki_types::PrivateKeyDer::from_pem_slice(alice.key_pem.as_bytes()).unwrap();
            let mut config = rustls::ClientConfig::builder_with_protocol_versions(&versions)
                .with_root_certificates(roots)
                .with_client_auth_cert(chain, key)
                .unwrap();
            config.enable_early_data = true;
            let connector = TlsConnector::from(Arc::new(config));
            for service in ["app", "app", "web", "app"] {
                let stream = tokio::net::TcpStream::connect(door.address).await.unwrap();
                let name = rustls::pki_types::ServerName::try_from(host(service)).unwrap();
                let mut stream = connector.connect(name, stream).await.unwrap();
                let request = format!("GET /x HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\r\n", host(service));
                stream.write_all(request.as_bytes()).await.unwrap();
                let mut got = Vec::new();
                stream.read_to_end(&mut got).await.unwrap();
                assert!(got.starts_with(b"HTTP/1.1 200 "));
                let tls = stream.get_ref().1;
                assert!(
                    matches!(
                        tls.handshake_kind(),
                        Some(HandshakeKind::Full | HandshakeKind::FullWithHelloRetryRequest)
                    ),
                    "{:?}",
                    tls.handshake_kind()
                );
                assert!(!tls.is_early_data_accepted());
            }
        }
    });
}

#[test]
fn a29_the_name_of_the_connection_and_of_the_request_must_be_one_service() {
    with_door(Plan::default(), async |door| {
        let alice = door.sign_in("alice").await;
        for (asked, named) in [("web", "app"), ("app", "web"), ("app", ""), ("app", "unknown")] {
            let request = format!("GET /x HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\r\n", host(named));
            let got = door.bytes(asked, Some(&alice), request.as_bytes()).await;
            assert!(got.starts_with("HTTP/1.1 421 "), "{asked} {named}: {got}");
            let mut client = door.client(asked, Some(&alice), Speaks::Http2).await;
            let request = http::Request::builder()
                .method(Method::GET)
                .uri(format!("https://{}:{}/x", host(named), door.address.port()))
                .body(full(""))
                .unwrap();
            assert_eq!(client.send(request).await.unwrap().status(), 421, "{asked} {named}");
        }
        // Without a certificate there is no way in by the name that asks for none.
        let request = format!("GET /x HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\r\n", host("app"));
        let got = door.bytes("web", None, request.as_bytes()).await;
        assert!(got.starts_with("HTTP/1.1 421 "), "{got}");
        assert_eq!(door.raw.count(), 0);
        // Where one is demanded nothing is answered without it.
        if let Ok(mut stream) = door.connect("app", None, Speaks::Http1).await {
            let _ = stream.write_all(request.as_bytes()).await;
            let mut got = Vec::new();
            assert!(stream.read_to_end(&mut got).await.is_err() && got.is_empty(), "{got:?}");
        }
        // Unknown names, and none.
        for name in ["unknown.doorward.localhost", "127.0.0.1"] {
            assert!(door.connect_with(door.tls(Some(&alice)), name).await.is_err(), "{name}");
        }
        assert_eq!(door.raw.count(), 0);
    });
}

/// An upstream of TLS that closes after each answer, and how the handshakes with it went.
async fn tls_upstream(leaf: &IssuedWithKey) -> (u16, Arc<Mutex<Vec<HandshakeKind>>>) {
    let chain = vec![CertificateDer::from(leaf.certificate.der.clone())];
    let key = PrivateKeyDer::from_pem_slice(leaf.key_pem.as_bytes()).unwrap();
    let config = rustls::ServerConfig::builder().with_no_client_auth().with_single_cert(chain, key).unwrap();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let handshakes = Arc::new(Mutex::new(Vec::new()));
    let kept = Arc::clone(&handshakes);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let Ok(mut stream) = acceptor.accept(stream).await else { continue };
            let Ok(1..) = stream.read(&mut [0u8; 4096]).await else { continue };
            kept.lock().unwrap().push(stream.get_ref().1.handshake_kind().unwrap());
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 2\r\n\r\nok").await;
            let _ = stream.shutdown().await;
        }
    });
    (port, handshakes)
}

#[test]
fn an_upstreams_certificate_is_judged_by_the_doors_clock_and_authorities_of_now_at_each_connection() {
    with_door(Plan::default(), async |door| {
        let alice = door.sign_in("alice").await;
        let (now, entropy) = (door.clock.now(), SystemEntropy);
        let authority = || Authority::generate("upstreams", now, Ttl::hours(24), &entropy).unwrap();
        let (made, other) = (authority(), authority());
        let issuer = Authority::load(&made.certificate.pem, &made.key_pem).unwrap();
        let leaf = issuer.issue_server(&["localhost".to_owned()], now, Ttl::minutes(5), &entropy).unwrap();
        let (port, handshakes) = tls_upstream(&leaf).await;
        let url = format!("\"https://localhost:{port}\"");
        door.write("app/service.toml", &service_toml(&url, "", "[upstream_tls]\nca = \"upstream.pem\""));
        let trust = |pem: &str| {
            door.write("app/upstream.pem", pem);
            door.running().reload().unwrap();
        };
        let mut client = door.client("app", Some(&alice), Speaks::Http2).await;
        trust(&made.certificate.pem);
        for _ in 0..3 {
            let got = client.get("/x").await;
            assert_eq!((got.status.as_u16(), got.text().as_str()), (200, "ok"));
        }
        // The same name, and another authority in it.
        trust(&other.certificate.pem);
        assert_eq!(client.get("/x").await.reason(), "upstream_unavailable");
        trust(&made.certificate.pem);
        assert_eq!(client.get("/x").await.status, 200);
        door.clock.advance(Ttl::minutes(6));
        door.settled().await;
        let got = client.get("/x").await;
        assert_eq!((got.status.as_u16(), got.reason().as_str()), (502, "upstream_unavailable"), "{got:?}");
        let handshakes = handshakes.lock().unwrap();
        assert_eq!(handshakes.len(), 4);
        let whole = |kind: &HandshakeKind| *kind != HandshakeKind::Resumed;
        assert!(handshakes.iter().all(whole), "{handshakes:?}");
    });
}

#[test]
fn a33_old_protocols_are_refused() {
    with_door(Plan::default(), async |door| {
        let name = host("web").into_bytes();
        for (record, version) in [([3u8, 0], [3u8, 0]), ([3, 1], [3, 1]), ([3, 1], [3, 2])] {
            let mut sni = vec![0, 0];
            let list = name.len() + 3;
            sni.extend(u16::try_from(list + 2).unwrap().to_be_bytes());
            sni.extend(u16::try_from(list).unwrap().to_be_bytes());
            sni.push(0);
            sni.extend(u16::try_from(name.len()).unwrap().to_be_bytes());
            sni.extend(&name);
            let mut hello = version.to_vec();
            hello.extend([7u8; 32]);
            hello.extend([0, 0, 4, 0xc0, 0x13, 0, 0x2f, 1, 0]);
            hello.extend(u16::try_from(sni.len()).unwrap().to_be_bytes());
            hello.extend(sni);
            let mut message = vec![1, 0];
            message.extend(u16::try_from(hello.len()).unwrap().to_be_bytes());
            message.extend(hello);
            let mut bytes = vec![22, record[0], record[1]];
            bytes.extend(u16::try_from(message.len()).unwrap().to_be_bytes());
            bytes.extend(message);
            let mut stream = tokio::net::TcpStream::connect(door.address).await.unwrap();
            stream.write_all(&bytes).await.unwrap();
            let mut got = Vec::new();
            let _ = tokio::time::timeout(Duration::from_secs(12), stream.read_to_end(&mut got)).await.unwrap();
            // An alert or nothing, never a ServerHello.
            assert_ne!(got.first(), Some(&22), "{got:?}");
        }
        let snapshot = door.running().shared.snapshot.load();
        for config in [&snapshot.tls.required, &snapshot.tls.optional] {
            assert_eq!(config.max_early_data_size, 0);
        }
    });
}
