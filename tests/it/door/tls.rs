//! What is settled in the handshake: a27, a29, a33.

use std::sync::Arc;
use std::time::Duration;

use http::Method;
use rustls::HandshakeKind;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_rustls::TlsConnector;

use super::fixture::{Plan, Speaks, full, host, with_door};

#[test]
fn a27_no_session_is_resumed() {
    with_door(Plan::default(), async |door| {
        let alice = door.sign_in("alice").await;
        for versions in [vec![&rustls::version::TLS13], vec![&rustls::version::TLS12]] {
            let mut roots = rustls::RootCertStore::empty();
            use rustls::pki_types::pem::PemObject;
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
