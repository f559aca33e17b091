//! Certificates and keys that are no good, through the program itself (a32): it does not start, says which
//! file and what to do, and a running one keeps what it has.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use tokio::process::{Child, Command};
use tokio_rustls::TlsConnector;

use crate::crash::PROGRAM;
use crate::support::{free_port, install_crypto, temporary_folder};

struct House {
    _folder: tempfile::TempDir,
    dir: PathBuf,
    port: u16,
    telemetry: u16,
}

impl House {
    async fn new() -> Self {
        let folder = temporary_folder();
        let dir = folder.path().join("door");
        let this = Self { _folder: folder, dir, port: free_port(), telemetry: free_port() };
        let made = this.command(&["init", "--dir", this.dir.to_str().unwrap()]).output().await.unwrap();
        assert_eq!(made.status.code(), Some(0), "{}", String::from_utf8_lossy(&made.stderr));
        this
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(PROGRAM);
        command
            .args(arguments)
            .env_clear()
            .env("DOORWARD__SERVER__LISTEN", format!("127.0.0.1:{}", self.port))
            .env("DOORWARD__TELEMETRY__LISTEN", format!("127.0.0.1:{}", self.telemetry))
            .env("DOORWARD__SERVER__DRAIN", "0s")
            .stdin(Stdio::null())
            .kill_on_drop(true);
        command
    }

    fn file(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// What `serve` and `check` say: both refuse with exit 2.
    async fn refused(&self, variables: &[(&str, &str)]) -> String {
        let config = self.file("doorward.toml");
        let mut told = String::new();
        for command in ["check", "serve"] {
            let mut command = self.command(&[command, "--config", config.to_str().unwrap()]);
            let ended = tokio::time::timeout(Duration::from_secs(20), command.envs(variables.iter().copied()).output());
            let output = ended.await.expect("it started").unwrap();
            let text =
                format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
            assert_eq!(output.status.code(), Some(2), "{text}");
            told.push_str(&text);
        }
        told
    }

    fn serve(&self, log: &Path) -> Child {
        let config = self.file("doorward.toml");
        let log = std::fs::File::create(log).unwrap();
        self.command(&["serve", "--config", config.to_str().unwrap()])
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap()
    }

    /// Whether the control host answers a handshake, under this authority.
    async fn answers(&self, ca: &[u8]) -> bool {
        let mut roots = rustls::RootCertStore::empty();
        for certificate in CertificateDer::pem_slice_iter(ca) {
            roots.add(certificate.unwrap()).unwrap();
        }
        let config = rustls::ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
        let Ok(stream) = tokio::net::TcpStream::connect(("127.0.0.1", self.port)).await else { return false };
        let text = std::fs::read_to_string(self.file("doorward.toml")).unwrap();
        let host = text.lines().find_map(|line| line.strip_prefix("control_host = \"")?.strip_suffix('"')).unwrap();
        let name = ServerName::try_from(host.to_owned()).unwrap();
        TlsConnector::from(Arc::new(config)).connect(name, stream).await.is_ok()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a32_serve_does_not_start_with_an_authority_or_key_that_is_no_good() {
    let house = House::new().await;
    let read = |name: &str| std::fs::read(house.file(name)).unwrap();
    let names = ["keys/ca.crt", "keys/ca.key", "keys/server.crt", "keys/server.key"];
    let whole: Vec<Vec<u8>> = names.iter().map(|name| read(name)).collect();
    let [ca, ca_key, server, server_key] = &whole[..] else { panic!() };
    let half = |bytes: &[u8]| bytes[..bytes.len() / 2].to_vec();
    let cases: Vec<(&str, Vec<u8>)> = vec![
        ("keys/ca.crt", Vec::new()),
        ("keys/ca.crt", b"no certificate\n".to_vec()),
        ("keys/ca.crt", half(ca)),
        ("keys/ca.crt", server.clone()),
        ("keys/ca.key", Vec::new()),
        ("keys/ca.key", server_key.clone()),
        ("keys/server.crt", Vec::new()),
        ("keys/server.crt", half(server)),
        ("keys/server.crt", ca.clone()),
        ("keys/server.key", Vec::new()),
        ("keys/server.key", ca_key.clone()),
        ("keys/server.key", half(server_key)),
    ];
    for (name, bytes) in cases {
        let before = read(name);
        std::fs::write(house.file(name), &bytes).unwrap();
        let told = house.refused(&[]).await;
        assert!(told.contains(name.rsplit('/').next().unwrap()), "{name}: {told}");
        std::fs::write(house.file(name), before).unwrap();
    }
    // Not there at all.
    std::fs::rename(house.file("keys/ca.crt"), house.file("keys/away.crt")).unwrap();
    assert!(house.refused(&[]).await.contains("ca.crt"));
    std::fs::rename(house.file("keys/away.crt"), house.file("keys/ca.crt")).unwrap();
    // An option that is empty is no default.
    for variable in ["DOORWARD__TRUST__CLIENT_CA__CERTIFICATE", "DOORWARD__SERVER__TLS__KEY"] {
        let told = house.refused(&[(variable, "")]).await;
        assert!(told.contains("empty") || told.contains("can't be read"), "{variable}: {told}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a32_a_reload_with_an_authority_or_key_that_is_no_good_keeps_the_old() {
    install_crypto();
    let house = House::new().await;
    let log = house.file("serve.log");
    let mut serving = house.serve(&log);
    let ca = std::fs::read(house.file("keys/ca.crt")).unwrap();
    let told = || std::fs::read_to_string(&log).unwrap_or_default();
    let within = async |what: &str, holds: &(dyn Fn() -> bool + Sync)| {
        for _ in 0..200 {
            if holds() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!("{what}: {}", told());
    };
    for _ in 0..200 {
        if house.answers(&ca).await {
            break;
        }
        assert!(serving.try_wait().unwrap().is_none(), "{}", told());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    for (name, bytes) in [("keys/ca.crt", &b""[..]), ("keys/server.key", b"no key"), ("keys/server.crt", &ca)] {
        let before = std::fs::read(house.file(name)).unwrap();
        let length = told().len();
        std::fs::write(house.file(name), bytes).unwrap();
        let pid = serving.id().unwrap().to_string();
        assert!(std::process::Command::new("kill").args(["-HUP", &pid]).status().unwrap().success());
        let file = name.rsplit('/').next().unwrap();
        within(name, &|| told()[length..].contains(file)).await;
        assert!(house.answers(&ca).await, "{name}: {}", told());
        std::fs::write(house.file(name), before).unwrap();
    }
    assert!(serving.try_wait().unwrap().is_none(), "{}", told());
    serving.kill().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn check_refuses_what_a_start_would_refuse() {
    let house = House::new().await;
    // A port of the machine's own address and of all of its addresses is one port.
    let port = house.port.to_string();
    let (all, own) = (format!("0.0.0.0:{port}"), format!("127.0.0.1:{port}"));
    let told = house.refused(&[("DOORWARD__SERVER__LISTEN", &all), ("DOORWARD__TELEMETRY__LISTEN", &own)]).await;
    assert!(told.contains("where the door itself listens"), "{told}");
    // A typing error in a URL is no database that is away.
    for url in ["sqlite://doorward.db?mode=rwx", "sqlite://doorward.db?foo=bar", "postgres://h/db?sslmode=bogus"] {
        let told = house.refused(&[("DOORWARD__STORAGE__URL", url)]).await;
        assert!(told.contains("storage.url"), "{url}: {told}");
    }
    // What a service names outside its own file.
    let wiki = house.file("policies/legacy-wiki/service.toml");
    let whole = std::fs::read_to_string(&wiki).unwrap();
    let cases = [
        ("secret = { file = \"upstream-password\" }", "secret = { file = \"not-there\" }", "not-there"),
        ("secret = { file = \"upstream-password\" }", "secret = { env = \"NOT_SET\" }", "NOT_SET"),
    ];
    for (from, to, named) in cases {
        std::fs::write(&wiki, whole.replace(from, to)).unwrap();
        let told = house.refused(&[]).await;
        assert!(told.contains(named) && told.contains("legacy-wiki/service.toml"), "{told}");
    }
    std::fs::write(&wiki, format!("{whole}\n[upstream_tls]\nca = \"no-such-ca.pem\"\n")).unwrap();
    let told = house.refused(&[]).await;
    assert!(told.contains("no-such-ca.pem"), "{told}");
    std::fs::write(&wiki, whole).unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn init_refuses_a_domain_that_its_own_check_would_refuse() {
    let house = House::new().await;
    for domain in ["Example.com", "bad_domain", "1.2.3.4", ""] {
        let dir = house.file("other");
        let output =
            house.command(&["init", "--dir", dir.to_str().unwrap(), "--domain", domain]).output().await.unwrap();
        assert_eq!(output.status.code(), Some(2), "{domain}");
        assert!(!dir.exists());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn check_tells_all_that_serve_would_refuse_in_one_run_each_with_its_place() {
    let house = House::new().await;
    let config = house.file("doorward.toml");
    let whole = std::fs::read_to_string(&config).unwrap();
    let items = async || {
        let mut check = house.command(&["check", "-o", "json", "--config", config.to_str().unwrap()]);
        let output = check.output().await.unwrap();
        let told = String::from_utf8_lossy(&output.stderr).into_owned();
        let list: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{told}"));
        (output.status.code(), list["items"].as_array().unwrap().clone(), told)
    };
    // An unknown key hides neither a policy that is no good nor a database without a folder.
    let bad = whole.replacen("[server]\n", "[server]\nlisen = \"x\"\n", 1);
    let url = bad.lines().find(|line| line.starts_with("url = ")).unwrap().to_owned();
    let bad = bad.replacen(&url, "url = \"sqlite://nodir/x.db\"", 1);
    std::fs::write(&config, &bad).unwrap();
    let global = house.file("policies/global.cedar");
    let policies = std::fs::read_to_string(&global).unwrap();
    std::fs::write(&global, format!("{policies}\npermit (nobody);\n")).unwrap();
    let (code, found, told) = items().await;
    assert_eq!(code, Some(2));
    for (file, message) in [("doorward.toml", "lisen"), ("global.cedar", ""), ("doorward.toml", "nodir")] {
        let item = found.iter().find(|item| {
            let text = |key: &str| item[key].as_str().unwrap_or_default();
            text("file").ends_with(file) && text("message").contains(message) && text("severity") == "error"
        });
        let item = item.unwrap_or_else(|| panic!("{file} {message}: {found:#?}"));
        assert!(item["line"].is_u64() && item["column"].is_u64(), "{item}");
        assert!(told.contains(file), "the failure is told as every other: {told}");
    }
    std::fs::write(&global, policies).unwrap();
    // What only the driver or the disk knows has its place, too.
    for (line, message) in [
        ("url = \"postgres://door@localhost/door?sslmode=wat\"", "`storage.url`: "),
        ("url = \"postgres://door@localhost/door?wat=1\"", "`storage.url`: the database URL has an option `wat`"),
    ] {
        std::fs::write(&config, whole.replacen(&url, line, 1)).unwrap();
        let (code, mut found, _) = items().await;
        found.retain(|item| item["severity"] == "error");
        let at = whole.lines().position(|line| line == url).unwrap() + 1;
        assert_eq!((code, found.len()), (Some(2), 1), "{found:#?}");
        assert_eq!((found[0]["line"].as_u64(), found[0]["column"].as_u64()), (u64::try_from(at).ok(), Some(7)));
        let told = found[0]["message"].as_str().unwrap();
        assert!(told.starts_with(message) && !told.contains("error with configuration"), "{told}");
    }
}
