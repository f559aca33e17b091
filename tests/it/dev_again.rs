//! A folder of `doorward dev` that is used again: where it listens then, and that its files say so.

use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::sync::Arc;

use doorward::config::{self, Environment};
use doorward::model::{Clock, Entropy};
use doorward::server::dev::door::{DevError, DevOptions, Parts, prepare, remembered};

use crate::support::{SeededEntropy, TestClock, install_crypto, temporary_folder};

fn loopback(port: u16) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], port))
}

async fn made(dir: &Path, port: u16) -> Result<Parts, DevError> {
    install_crypto();
    let options = DevOptions { dir: dir.to_path_buf(), listen: loopback(port), database: None };
    let (clock, entropy): (Arc<dyn Clock>, Arc<dyn Entropy>) =
        (Arc::new(TestClock::new()), Arc::new(SeededEntropy::new(3)));
    prepare(&options, &clock, &entropy).await
}

/// That the configuration says what listens, and every service leads to the sample upstream.
fn assert_true(parts: &Parts) {
    let told = config::load(&parts.config, &Environment::default()).unwrap_or_else(|problems| panic!("{problems:?}"));
    assert_eq!(told.server.listen, parts.listen);
    assert_eq!(remembered(&parts.dir), Some(parts.listen));
    let text = std::fs::read_to_string(&parts.config).unwrap();
    assert!(text.contains(&format!("https://doorward.localhost:{}/signin/callback\n", parts.listen.port())), "{text}");
    let service = std::fs::read_to_string(parts.dir.join("policies/ops-api/service.toml")).unwrap();
    assert!(service.contains(&format!("\"http://{}\"", parts.upstream.address())), "{service}");
}

#[tokio::test]
async fn with_port_0_a_folder_keeps_its_ports_where_they_are_free_and_takes_others_where_not() {
    let folder = temporary_folder();
    let dir = folder.path().join("door");
    let first = made(&dir, 0).await.unwrap();
    let (listen, upstream, issuer) = (first.listen, first.upstream.address(), first.provider.issuer().to_owned());
    assert_true(&first);
    drop(first);
    let again = made(&dir, 0).await.unwrap();
    assert_eq!((again.listen, again.upstream.address()), (listen, upstream));
    drop(again);
    let telemetry =
        config::load(&dir.join("doorward.toml"), &Environment::default()).unwrap().telemetry.listen.unwrap();
    let taken = [listen, upstream, telemetry].map(|address| TcpListener::bind(address).unwrap());
    let moved = made(&dir, 0).await.unwrap();
    assert!(moved.listen != listen && moved.upstream.address() != upstream);
    // People are known by their provider's address: it stays.
    assert_eq!(moved.provider.issuer(), issuer);
    assert_true(&moved);
    let other = config::load(&moved.config, &Environment::default()).unwrap().telemetry.listen.unwrap();
    assert!(other != telemetry && other != moved.listen);
    drop((moved, taken));
    // What was asked for by its port is obeyed, or refused.
    let asked = TcpListener::bind(loopback(0)).unwrap();
    let port = asked.local_addr().unwrap().port();
    assert!(matches!(made(&dir, port).await, Err(DevError::Taken { address, .. }) if address == loopback(port)));
    drop(asked);
    let there = made(&dir, port).await.unwrap();
    assert_eq!(there.listen, loopback(port));
    assert_true(&there);
    let provider = there.provider.issuer().trim_start_matches("http://").parse::<SocketAddr>().unwrap();
    drop(there);
    let _provider = TcpListener::bind(provider).unwrap();
    assert!(matches!(made(&dir, 0).await, Err(DevError::ProviderTaken { .. })));
}
