//! `doorward.toml`: what is read, what is refused, and where each refusal points.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use doorward::config::{self, Config, Environment, InitOptions, InitProvider, Problem, Severity, doctor};
use doorward::model::{Secret, Timestamp, Ttl};
use doorward::server::installation;
use tempfile::TempDir;

use crate::support::SeededEntropy;

const NOW: Timestamp = Timestamp::from_seconds(1_795_000_000);

fn options() -> InitOptions {
    InitOptions {
        providers: vec![InitProvider {
            name: "corp".into(),
            issuer: "https://id.example.com".into(),
            client_id: "doorward".into(),
            client_secret: Secret::new("s3cret".into()),
            scopes: vec!["offline_access".into()],
            groups: vec![("eng-all".into(), "engineering".into())],
            allow_loopback: false,
            development: false,
        }],
        ..InitOptions::for_domain("example.com")
    }
}

fn create(dir: &Path, options: &InitOptions) -> PathBuf {
    let examples = [("global.cedar", "// nothing\n"), ("ops-api/service.toml", "description = \"x\"\n")];
    installation::create(dir, options, &examples, NOW, &SeededEntropy::new(1)).unwrap()
}

/// A fresh installation, and what it is loaded from after `change` of its text.
struct Installation {
    dir: TempDir,
    path: PathBuf,
}

impl Installation {
    fn new() -> Self {
        let dir = TempDir::new().unwrap();
        let path = create(dir.path(), &options());
        Self { dir, path }
    }

    fn with(change: impl Fn(String) -> String) -> Self {
        let new = Self::new();
        let text = fs::read_to_string(&new.path).unwrap();
        let changed = change(text.clone());
        assert_ne!(text, changed, "the change changed nothing");
        fs::write(&new.path, changed).unwrap();
        new
    }

    /// With one line put after the header of a section.
    fn adding(section: &str, line: &str) -> Self {
        let header = format!("[{section}]\n");
        Self::with(|text| {
            assert!(text.contains(&header), "{section} is not in the file");
            text.replacen(&header, &format!("{header}{line}\n"), 1)
        })
    }

    fn load_with(&self, variables: &[(&str, &str)]) -> Result<Config, Vec<Problem>> {
        let environment = variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        config::load(&self.path, &environment.collect::<Environment>())
    }

    fn load(&self) -> Result<Config, Vec<Problem>> {
        self.load_with(&[])
    }

    /// The only error, which must say `message` and stand on the line that holds `on`.
    #[track_caller]
    fn refused(&self, on: &str, message: &str) -> Problem {
        self.refused_with(&[], on, message)
    }

    #[track_caller]
    fn refused_with(&self, variables: &[(&str, &str)], on: &str, message: &str) -> Problem {
        let problems = self.load_with(variables).expect_err("the configuration was taken");
        let errors: Vec<_> = problems.iter().filter(|problem| problem.is_error()).collect();
        assert_eq!(errors.len(), 1, "{problems:#?}");
        let problem = errors[0].clone();
        assert!(problem.message.contains(message), "{problem}");
        assert!(problem.help.as_ref().is_some_and(|help| !help.is_empty()), "{problem} has no help");
        if !on.is_empty() {
            let text = fs::read_to_string(&self.path).unwrap();
            let line = text.lines().nth(problem.line.expect("a line") - 1).unwrap();
            assert!(line.contains(on), "{problem}\npoints to `{line}`");
        }
        problem
    }
}

#[test]
fn a_new_installation_is_taken_as_it_is() {
    let new = Installation::new();
    let config = new.load().unwrap_or_else(|problems| panic!("{problems:#?}"));
    assert_eq!(config.warnings, [], "nothing to remark");
    assert_eq!(config.server.control_host, "door.example.com");
    assert_eq!(config.server.listen.to_string(), "127.0.0.1:8443");
    assert_eq!(config.server.drain, Ttl::seconds(30));
    assert_eq!(config.server.origin("door.example.com", config.server.listen), "https://door.example.com:8443");
    assert_eq!(config.session.lifetime, Ttl::hours(12));
    assert_eq!(config.session.recheck, Ttl::minutes(15));
    assert_eq!(config.policies.dir, new.dir.path().join("policies"));
    assert_eq!(config.policies.stale_max, Ttl::seconds(60));
    assert_eq!(config.storage.sqlite_file(), Some(new.dir.path().join("doorward.db")));
    let provider = &config.identity.providers[0];
    assert_eq!(provider.client_secret.as_ref().unwrap().expose(), "s3cret", "without its line end");
    assert_eq!(provider.scopes, ["openid", "profile", "email", "offline_access"]);
    assert_eq!(provider.groups.as_ref().unwrap()["eng-all"], "engineering");
    assert_eq!(provider.groups_claim, "groups");
}

#[test]
fn a_new_installation_without_a_provider_works_and_says_what_is_missing() {
    let dir = TempDir::new().unwrap();
    let path = create(dir.path(), &InitOptions::for_domain("corp.test"));
    let config = config::load(&path, &Environment::default()).unwrap();
    assert_eq!(config.warnings.len(), 1, "{:#?}", config.warnings);
    assert_eq!(config.warnings[0].severity, Severity::Warning);
    assert!(config.warnings[0].message.contains("nobody can sign in"));
}

#[test]
fn a_provider_with_a_wrong_key_is_no_missing_provider() {
    let new = Installation::with(|text| text.replace("client_id = ", "clientid = "));
    let problems = new.load().unwrap_err();
    assert!(problems.iter().all(Problem::is_error), "{problems:#?}");
}

#[test]
fn every_commented_default_is_the_default() {
    // Uncommenting what the file shows as defaults must change nothing.
    let plain = Installation::new();
    let shown = Installation::with(|text| {
        let keys = [
            "drain",
            "connections",
            "handshake",
            "header",
            "body_",
            "keep_alive",
            "head",
            "http2",
            "requests",
            "burst",
        ];
        let more = [
            "lifetime",
            "idle",
            "certificate_ttl",
            "recheck",
            "device_code",
            "access",
            "refresh",
            "assertion",
            "key_",
            "stale_max",
        ];
        let starts = |line: &str| {
            keys.iter().chain(&more).any(|key| line.starts_with(&format!("# {key}")) && line.contains(" = "))
        };
        text.lines().map(|line| if starts(line) { &line[2..] } else { line }).collect::<Vec<_>>().join("\n")
    });
    let (plain, shown) = (plain.load().unwrap(), shown.load().unwrap_or_else(|problems| panic!("{problems:#?}")));
    assert_eq!(plain.server.limits, shown.server.limits);
    assert_eq!(plain.server.drain, shown.server.drain);
    assert_eq!(plain.session, shown.session);
    assert_eq!(plain.tokens, shown.tokens);
    assert_eq!(plain.audit.requests, shown.audit.requests);
    assert_eq!(plain.policies.stale_max, shown.policies.stale_max);
}

#[test]
fn init_overwrites_nothing_and_names_what_is_in_the_way() {
    let new = Installation::new();
    let key = new.dir.path().join("keys/ca.key");
    let before = fs::read(&key).unwrap();
    let error = installation::create(new.dir.path(), &options(), &[], NOW, &SeededEntropy::new(9)).unwrap_err();
    assert!(error.to_string().contains("keys/ca.crt"), "{error}");
    assert_eq!(fs::read(&key).unwrap(), before);

    // One file alone is enough, and then nothing else is written.
    let other = TempDir::new().unwrap();
    fs::write(other.path().join("doorward.toml"), "mine").unwrap();
    let error = installation::create(other.path(), &options(), &[], NOW, &SeededEntropy::new(9)).unwrap_err();
    assert!(error.to_string().contains("doorward.toml"), "{error}");
    assert_eq!(fs::read_dir(other.path()).unwrap().count(), 1);
}

#[test]
fn init_keeps_examples_inside_the_policies_folder() {
    let dir = TempDir::new().unwrap();
    for path in ["../out.toml", "/etc/out.toml", "a/../../out.toml"] {
        let error =
            installation::create(dir.path(), &options(), &[(path, "")], NOW, &SeededEntropy::new(1)).unwrap_err();
        assert!(error.to_string().contains("not a path inside"), "{error}");
    }
}

#[test]
fn init_writes_keys_for_their_owner_only() {
    let new = Installation::new();
    for key in ["ca.key", "server.key", "key-encryption.key", "corp.secret"] {
        let mode = fs::metadata(new.dir.path().join("keys").join(key)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{key}");
    }
    let keys = fs::metadata(new.dir.path().join("keys")).unwrap().permissions().mode();
    assert_eq!(keys & 0o777, 0o700);
}

#[test]
fn a66_an_unknown_key_is_refused_with_its_nearest_spelling() {
    let problem =
        Installation::adding("server", "lisen = \"127.0.0.1:1\"").refused("lisen", "unknown key `lisen` in `[server]`");
    assert_eq!(problem.help.as_deref(), Some("did you mean `listen`?"));
    assert_eq!(problem.column, Some(1));
    let problem = Installation::with(|text| text.replace("[session]", "[sesion]"))
        .refused("[sesion]", "unknown section `sesion`");
    assert_eq!(problem.help.as_deref(), Some("did you mean `session`?"));
    // Also a key that is asked for only where it is given.
    let renamed =
        Installation::with(|text| text.replace("listen = \"127.0.0.1:8443\"", "lissten = \"127.0.0.1:8443\""));
    assert_eq!(renamed.refused("lissten", "unknown key `lissten`").help.as_deref(), Some("did you mean `listen`?"));
    let problem = Installation::adding("server", "zzz = 1").refused("zzz", "unknown key `zzz`");
    let help = problem.help.unwrap();
    assert!(["clock_right_since", "listen", "public_port", "threads"].iter().all(|key| help.contains(key)), "{help}");
    let problem =
        Installation::adding("server.limits", "zzz = 1").refused("zzz", "unknown key `zzz` in `[server.limits]`");
    assert!(problem.help.unwrap().contains("connections_per_address"));
}

#[test]
fn a66_all_problems_are_told_at_once_in_the_order_of_the_file() {
    let new = Installation::with(|text| {
        text.replace("listen = \"127.0.0.1:8443\"", "listen = \"nowhere\"")
            .replace("# lifetime = \"12h\"", "lifetime = \"12 hours\"")
            .replace("# requests = \"durable\"", "requests = \"sometimes\"")
    });
    let problems = new.load().unwrap_err();
    let messages: Vec<_> = problems.iter().map(|problem| problem.message.as_str()).collect();
    assert_eq!(problems.len(), 3, "{problems:#?}");
    assert!(messages[0].contains("server.listen"), "{messages:?}");
    assert!(messages[1].contains("session.lifetime"), "{messages:?}");
    assert!(messages[2].contains("audit.requests"), "{messages:?}");
    assert!(problems.is_sorted_by_key(|problem| problem.line));
}

#[test]
fn a66_bad_syntax_and_empty_files_are_refused_with_a_place() {
    let new = Installation::with(|text| text.replace("[session]", "[session"));
    new.refused("[session", "not TOML");
    let new = Installation::with(|_| String::new());
    let problems = new.load().unwrap_err();
    assert!(problems.iter().any(|problem| problem.message.contains("`server.domain` is missing")), "{problems:#?}");
    let missing = config::load(&new.dir.path().join("none.toml"), &Environment::default()).unwrap_err();
    assert!(missing[0].to_string().contains("doorward init"), "{}", missing[0]);
}

#[test]
fn values_of_the_wrong_kind_or_out_of_bounds_are_refused_where_they_stand() {
    for (section, line, message) in [
        ("server", "threads = \"four\"", "where a whole number is needed"),
        ("server", "threads = 0", "`server.threads` is 0, outside 1 to 1024"),
        ("server", "threads = 99999999999999999999", "too large"),
        ("server", "drain = 30", "`server.drain` is a whole number, where a string is needed"),
        ("server", "drain = \"-1s\"", "which is not a length of time"),
        ("session", "device_code = \"yes\"", "where a boolean is needed"),
        ("session", "lifetime = \"400d\"", "outside 1m to 30d"),
        ("tokens", "access = \"1h\"", "outside 10s to 15m"),
        ("tokens", "assertion = \"5m\"", "outside 5s to 1m"),
        ("trust", "device_ca = \"one.crt\"", "where a list of strings is needed"),
        ("server.limits", "head_bytes = 1e3", "a number with a fraction"),
        ("server.limits", "headers = 101", "`server.limits.headers` is 101, outside 16 to 100"),
        ("policies", "stale_max = 2026-01-01", "a date"),
    ] {
        Installation::adding(section, line).refused(line.split(' ').next().unwrap(), message);
    }
}

#[test]
fn a_length_of_time_without_a_unit_is_told_the_unit() {
    for line in ["drain = 30", "drain = \"30\""] {
        let problem = Installation::adding("server", line).refused("drain", "`server.drain` is ");
        assert!(problem.help.as_ref().is_some_and(|help| help.contains("`\"30s\"`")), "{problem}");
    }
    let new = Installation::new();
    let problem = new.refused_with(&[("DOORWARD__SERVER__DRAIN", "30")], "", "`server.drain` is `30`");
    assert!(problem.to_string().contains(": error: "), "{problem}");
}

#[test]
fn a_database_without_a_folder_is_told_by_check_and_does_not_stop_a_start() {
    assert_eq!(config::check_database_folder(&Installation::new().load().unwrap()), None);
    let gone = Installation::with(|text| text.replace("sqlite://doorward.db", "sqlite:///nonexistent/dir/x.db"));
    let problem = config::check_database_folder(&gone.load().unwrap()).unwrap();
    assert!(problem.message.contains("`/nonexistent/dir`"), "{problem}");
    let folder = Installation::with(|text| text.replace("sqlite://doorward.db", "sqlite://keys"));
    let problem = config::check_database_folder(&folder.load().unwrap()).unwrap();
    assert!(problem.message.contains("names the folder"), "{problem}");
}

#[test]
fn a_spool_that_can_not_be_kept_is_refused_and_one_among_keys_is_told() {
    Installation::adding("audit", "spool = \"/proc/x\"").refused("spool", "no place for the spool");
    let among = Installation::adding("audit", "spool = \"keys\"").load().unwrap();
    let told = |config: &Config| config.warnings.iter().any(|problem| problem.message.contains("the folder of keys"));
    assert!(told(&among), "{:?}", among.warnings);
    assert!(!told(&Installation::adding("audit", "spool = \"doorward.spool\"").load().unwrap()));
}

#[test]
fn what_is_not_built_yet_is_refused_rather_than_ignored() {
    for (section, line, key) in [
        ("keys", "pkcs11 = \"pkcs11:token=x\"", "keys.pkcs11"),
        ("trust.client_ca", "pkcs11 = \"pkcs11:token=x\"", "trust.client_ca.pkcs11"),
    ] {
        let name = key.rsplit('.').next().unwrap();
        Installation::adding(section, line).refused(name, &format!("`{key}` is not built yet; remove it"));
    }
    let proxies = Installation::adding("server", "proxy_protocol_from = [\"10.0.0.0/8\"]");
    proxies.refused("proxy_protocol_from", "not built yet");
    Installation::adding("server", "proxy_protocol_from = []").load().unwrap();
}

#[test]
fn a_variable_overrides_any_key_and_is_named_when_it_is_wrong() {
    let new = Installation::new();
    let config = new
        .load_with(&[
            ("DOORWARD__SERVER__LISTEN", "127.0.0.1:9443"),
            ("DOORWARD__SERVER__THREADS", "3"),
            ("DOORWARD__SERVER__LIMITS__CONNECTIONS", "7"),
            ("DOORWARD__SESSION__DEVICE_CODE", "true"),
            ("DOORWARD__TELEMETRY__LISTEN", "off"),
            ("DOORWARD__IDENTITY__PROVIDER__0__CLIENT_ID", "0123"),
            ("DOORWARD__IDENTITY__PROVIDER__0__CLIENT_SECRET", "from-outside"),
            ("DOORWARD__IDENTITY__PROVIDER__0__SCOPES", "[\"openid\"]"),
            ("DOORWARD_SERVER", "https://unrelated.example.com"),
        ])
        .unwrap_or_else(|problems| panic!("{problems:#?}"));
    assert_eq!(config.server.listen.port(), 9443);
    assert_eq!(config.server.threads, Some(3));
    assert_eq!(config.server.limits.connections, 7);
    assert!(config.session.device_code);
    assert_eq!(config.telemetry.listen, None);
    let provider = &config.identity.providers[0];
    assert_eq!(provider.client_id, "0123", "text stays text");
    assert_eq!(provider.client_secret.as_ref().unwrap().expose(), "from-outside");
    assert_eq!(provider.scopes, ["openid"]);

    for (name, value, message) in [
        ("DOORWARD__SERVER__LISEN", "x", "unknown key `lisen`"),
        ("DOORWARD__SERVER__LISTEN", "x", "`server.listen` is `x`"),
        ("DOORWARD__SERVER__THREADS", "many", "where a whole number is needed"),
        ("DOORWARD__IDENTITY__PROVIDER__7__NAME", "x", "`7` can't be set from here"),
        ("DOORWARD__SERVER", "x", "`server` is a string, where a table is needed"),
        ("DOORWARD____X", "x", "names no key"),
    ] {
        let problems = new.load_with(&[(name, value)]).unwrap_err();
        let problem = problems.iter().find(|problem| problem.message.contains(message));
        let problem = problem.unwrap_or_else(|| panic!("{problems:#?}"));
        assert_eq!(problem.file, Path::new(name));
        assert!(problem.to_string().starts_with(&format!("{name}: ")), "{problem}");
    }
}

#[test]
fn a_secret_in_a_variable_is_read_as_every_other_text() {
    let new = Installation::new();
    let name = "DOORWARD__STORAGE__URL";
    for text in ["postgres://me:secret@db/doorward", "\"postgres://me:secret@db/doorward\""] {
        let config = new.load_with(&[(name, text)]).unwrap();
        assert_eq!(config.storage.url.expose(), "postgres://me:secret@db/doorward");
    }
    let whole = new.load_with(&[("DOORWARD__STORAGE", "{ url = \"postgres://me:secret@db/doorward\" }")]).unwrap();
    assert_eq!(whole.storage.url.expose(), "postgres://me:secret@db/doorward");
    new.refused_with(&[("DOORWARD__IDENTITY__PROVIDER__0__CLIENT_SECRET", "")], "", "is empty");
}

#[test]
fn secrets_come_from_files_and_variables_only() {
    let inline = Installation::with(|text| {
        text.replace("client_secret = { file = \"keys/corp.secret\" }", "client_secret = \"s3cret\"")
    });
    let problem = inline.refused("client_secret", "is a secret and stands in the file itself");
    assert!(!problem.to_string().contains("s3cret"), "{problem}");

    let variable =
        Installation::with(|text| text.replace("{ file = \"keys/corp.secret\" }", "{ env = \"CORP_SECRET\" }"));
    variable.refused("CORP_SECRET", "the variable `CORP_SECRET`, which is not set");
    let config = variable.load_with(&[("CORP_SECRET", "s3cret")]).unwrap();
    assert_eq!(config.identity.providers[0].client_secret.as_ref().unwrap().expose(), "s3cret");

    let both =
        Installation::with(|text| text.replace("{ file = \"keys/corp.secret\" }", "{ file = \"a\", env = \"B\" }"));
    both.refused("client_secret", "needs one source");
    let gone = Installation::with(|text| text.replace("keys/corp.secret", "keys/none.secret"));
    gone.refused("none.secret", "can't be read");
    let empty = Installation::new();
    fs::write(empty.dir.path().join("keys/corp.secret"), "\n").unwrap();
    empty.refused("corp.secret", "is empty");

    let password = Installation::with(|text| {
        text.replace("sqlite://doorward.db", "postgres://me:hunter2@db.example.com/doorward")
    });
    let problem = password.refused("url =", "has a password and stands in the file itself");
    assert!(!problem.to_string().contains("hunter2"), "{problem}");
}

#[test]
fn a_secret_that_others_may_read_is_a_warning() {
    let new = Installation::new();
    for key in ["corp.secret", "ca.key", "server.key", "key-encryption.key"] {
        fs::set_permissions(new.dir.path().join("keys").join(key), Permissions::from_mode(0o640)).unwrap();
    }
    let config = new.load().unwrap();
    assert_eq!(config.warnings.len(), 4, "{:#?}", config.warnings);
    assert!(config.warnings.iter().all(|warning| warning.help.as_ref().unwrap().starts_with("chmod 600 ")));
    let modes = doctor::file_modes(&config);
    let warned = modes.iter().filter(|finding| finding.health == doctor::Health::Warn).count();
    assert_eq!(warned, 4, "{modes:#?}");
}

#[test]
fn the_key_encryption_key_must_be_32_bytes() {
    let new = Installation::new();
    for text in ["c2hvcnQ=", "not base64 at all", &"QUFB".repeat(20)] {
        fs::write(new.dir.path().join("keys/key-encryption.key"), text).unwrap();
        new.refused("key_encryption_key", "not 32 bytes in base64");
    }
}

#[test]
fn a32_keys_and_certificates_that_do_not_fit_are_refused() {
    let new = Installation::new();
    let keys = new.dir.path().join("keys");
    let saved = |name: &str| fs::read(keys.join(name)).unwrap();
    let (server_key, ca_key, ca, server) = (saved("server.key"), saved("ca.key"), saved("ca.crt"), saved("server.crt"));

    fs::write(keys.join("server.key"), &ca_key).unwrap();
    new.refused("key = \"keys/server.key\"", "does not belong to the certificate");
    fs::write(keys.join("server.key"), "").unwrap();
    new.refused("key = \"keys/server.key\"", "has no usable private key");
    fs::remove_file(keys.join("server.key")).unwrap();
    new.refused("key = \"keys/server.key\"", "can't be read");
    fs::write(keys.join("server.key"), &server_key).unwrap();

    fs::write(keys.join("ca.crt"), "").unwrap();
    new.refused("certificate = \"keys/ca.crt\"", "has no certificate in it");
    fs::write(keys.join("ca.crt"), &server).unwrap();
    new.refused("certificate = \"keys/ca.crt\"", "is not an authority's certificate");
    fs::remove_file(keys.join("ca.crt")).unwrap();
    new.refused("certificate = \"keys/ca.crt\"", "can't be read");
    fs::write(keys.join("ca.crt"), &ca).unwrap();
    fs::write(keys.join("ca.key"), &server_key).unwrap();
    new.refused("key = \"keys/ca.key\"", "does not belong to the certificate");
    fs::write(keys.join("ca.key"), &ca_key).unwrap();
    new.load().unwrap();

    let bad = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
    fs::write(keys.join("server.crt"), bad).unwrap();
    new.refused("certificate = \"keys/server.crt\"", "malformed certificate");
    fs::write(keys.join("server.crt"), &server).unwrap();

    Installation::adding("server", "").load().unwrap();
    for (line, on) in [("certificate = \"\"", "certificate"), ("key = \"\"", "key")] {
        let empty = Installation::with(|text| {
            text.replacen(&format!("{on} = \"keys/server.{}\"", if on == "key" { "key" } else { "crt" }), line, 1)
        });
        empty.refused(on, "is empty");
    }
    let device = Installation::adding("trust", "device_ca = [\"keys/ca.crt\", \"keys/none.crt\"]");
    device.refused("none.crt", "can't be read");
}

#[test]
fn a32_a_certificate_that_does_not_cover_the_control_host_is_refused() {
    let other = Installation::with(|text| {
        text.replace("control_host = \"door.example.com\"", "control_host = \"a.b.example.com\"")
    });
    let problem = other.refused("keys/server.crt", "does not cover the control host `a.b.example.com`");
    assert!(problem.message.contains("`*.example.com`"), "{problem}");
    let new = Installation::new();
    let config = new.load().unwrap();
    assert!(config::check_hosts(&config, ["ops-api.example.com"]).is_empty());
    let problems = config::check_hosts(&config, ["ops.elsewhere.test", "door.example.com"]);
    assert_eq!(
        problems.iter().map(|problem| problem.severity).collect::<Vec<_>>(),
        [Severity::Warning, Severity::Error]
    );
}

#[test]
fn the_control_host_belongs_to_the_domain() {
    let other = Installation::with(|text| text.replace("domain = \"example.com\"", "domain = \"example.org\""));
    other.refused("control_host", "which is not `example.org` or a name under it");
    for host in ["Door.example.com", "door.example.com.", "door_.example.com", "door.example.com:8443", "10.0.0.1", ""]
    {
        let bad = Installation::with(|text| {
            text.replace("control_host = \"door.example.com\"", &format!("control_host = \"{host}\""))
        });
        bad.refused("control_host", "which is not a host name in lower case");
    }
}

#[test]
fn a49_a_provider_may_be_on_this_machine_only_where_it_is_said() {
    let issuer = |issuer: &str, line: &str| {
        Installation::with(|text| {
            text.replace(
                "issuer = \"https://id.example.com\"\nclient_id",
                &format!("issuer = \"{issuer}\"\n{line}\nclient_id"),
            )
        })
    };
    for loopback in [
        "https://127.0.0.1:9000",
        "https://localhost",
        "http://[::1]:9000",
        "http://id.localhost",
        "https://0.0.0.0",
        "https://2130706433",
        "https://[::ffff:127.0.0.1]",
    ] {
        issuer(loopback, "").refused("issuer", "is on this machine");
        issuer(loopback, "allow_loopback = true").load().unwrap_or_else(|problems| panic!("{loopback}: {problems:#?}"));
    }
    for link_local in ["https://169.254.169.254", "http://169.254.169.254", "https://[fe80::1]"] {
        issuer(link_local, "allow_loopback = true").refused("issuer", "is a link-local address");
    }
    issuer("http://id.example.com", "allow_loopback = true").refused("issuer", "is not https");
    issuer("ftp://id.example.com", "").refused("issuer", "is not https");
    issuer("https://id.example.com/?a=b", "").refused("issuer", "has a query");
    issuer("https://me@id.example.com", "").refused("issuer", "has a query, a fragment or a user");
    issuer("id.example.com", "").refused("issuer", "is not a URL");
}

#[test]
fn the_development_provider_is_refused_off_loopback() {
    let development = |listen: &str| {
        let dir = TempDir::new().unwrap();
        let mut options = options();
        options.providers[0].development = true;
        options.providers[0].allow_loopback = true;
        options.providers[0].issuer = "http://127.0.0.1:9000".into();
        options.listen = listen.parse().unwrap();
        let path = create(dir.path(), &options);
        Installation { dir, path }
    };
    for listen in ["0.0.0.0:8443", "[::]:8443", "192.0.2.7:8443"] {
        development(listen).refused("development", "signs in whoever asks");
    }
    development("[::1]:8443").load().unwrap();
    let outside = development("127.0.0.1:8443");
    outside.refused_with(&[("DOORWARD__SERVER__LISTEN", "0.0.0.0:8443")], "development", "signs in whoever asks");
}

#[test]
fn a70_providers_have_names_and_issuers_of_their_own() {
    let second = |name: &str, issuer: &str| {
        Installation::with(|text| {
            text + &format!("\n[[identity.provider]]\nname = \"{name}\"\nissuer = \"{issuer}\"\nclient_id = \"x\"\n")
        })
    };
    second("corp", "https://other.example.com").refused("name = \"corp\"", "is given twice");
    second("other", "https://id.example.com/").refused("issuer", "is given twice");
    second("Other|x", "https://other.example.com").refused("Other|x", "`identity.provider.1.name`");
    second("other", "https://other.example.com").load().unwrap();
}

#[test]
fn what_is_issued_does_not_outlive_its_session() {
    let both = Installation::adding("session", "lifetime = \"30m\"\ncertificate_ttl = \"1h\"");
    both.refused("certificate_ttl", "longer than `session.lifetime`, which is 30m");
    let idle = Installation::adding("session", "lifetime = \"30m\"\nidle = \"1h\"");
    idle.refused("idle", "longer than `session.lifetime`");
    let shorter = Installation::adding("session", "lifetime = \"30m\"").load().unwrap();
    assert_eq!(shorter.session.certificate_ttl, Ttl::minutes(30));
    assert_eq!(shorter.session.idle, Ttl::minutes(30));
}

#[test]
fn a37_an_audience_that_id_tokens_are_made_for_is_a_warning() {
    let with = |audience: &str| {
        let line = format!("client_id = \"doorward\"\nbearer_audiences = [\"{audience}\"]");
        Installation::with(|text| text.replacen("client_id = \"doorward\"", &line, 1))
    };
    let warned = with("doorward").load().unwrap().warnings;
    assert!(warned[0].message.contains("`client_id` `doorward`, which ID tokens are made for"), "{warned:#?}");
    assert_eq!(warned.len(), 1, "{warned:#?}");
    assert_eq!(with("https://doorward.example.com").load().unwrap().warnings.len(), 0);
}

#[test]
fn a_list_of_mail_addresses_that_names_nobody_is_a_warning() {
    let mail = |line: &str| {
        let smtp = "[notify.smtp]\nhost = \"mail.example.com\"\nfrom = \"door@example.com\"";
        Installation::with(|text| format!("{text}\n{smtp}\n{line}\n"))
    };
    let warned = mail("to = []").load().unwrap().warnings;
    assert_eq!(warned.len(), 1, "{warned:#?}");
    assert!(warned[0].message.contains("`notify.smtp.to` names nobody") && warned[0].line.is_some(), "{warned:#?}");
    assert_eq!(mail("").load().unwrap().warnings, []);
    mail("to = []\nto_approvers = false").refused("", "`notify.smtp.to` is missing");
}

#[test]
fn the_unit_waits_longer_for_the_end_than_a_gateway_takes() {
    let unit =
        fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/systemd/doorward.service")).unwrap();
    let waits = unit.lines().find_map(|line| line.strip_prefix("TimeoutStopSec=")).unwrap().parse().unwrap();
    let drain = Installation::new().load().unwrap().server.drain;
    let takes = drain.duration() + doorward::server::run::END_MAX;
    assert!(std::time::Duration::from_secs(waits) > takes, "it is killed after {waits} s and may take {takes:?}");
}

#[test]
fn how_long_a_device_code_is_good_is_what_the_file_says() {
    let config = Installation::adding("tokens", "device_code = \"3m\"").load().unwrap();
    let settings = doorward::server::settings::desk_settings(&config, "https://door.example.com", 443);
    assert_eq!(settings.device_code_ttl, Ttl::minutes(3));
}

#[test]
fn databases_are_sqlite_files_or_postgres() {
    let url = |url: &str| Installation::with(|text| text.replace("\"sqlite://doorward.db\"", &format!("\"{url}\"")));
    let relative = url("sqlite://data dir/door?mode=rwc");
    let config = relative.load().unwrap();
    assert_eq!(config.storage.sqlite_file(), Some(relative.dir.path().join("data dir/door")));
    assert!(config.storage.url.expose().ends_with("data%20dir/door?mode=rwc"), "{}", config.storage.url.expose());
    let config = url("postgres://doorward@db.example.com/doorward?sslmode=require").load().unwrap();
    assert_eq!(config.storage.shown(), "postgres://db.example.com/doorward");
    assert_eq!(config.storage.sqlite_file(), None);
    for bad in ["mysql://x", "doorward.db", "sqlite://", "sqlite://:memory:"] {
        url(bad).refused("url", "`storage.url`");
    }
}

#[test]
fn a63_no_secret_shows_in_the_settings() {
    let dir = TempDir::new().unwrap();
    let mut options = options();
    options.providers[0].client_secret = Secret::new("canary-one".into());
    let path = create(dir.path(), &options);
    let environment = [("DOORWARD__STORAGE__URL".to_owned(), "postgres://me:canary-two@db/doorward".to_owned())];
    let environment = environment.into_iter().collect();
    let config = config::load(&path, &environment).unwrap();
    let shown = format!("{config:?}{environment:?}{}", config.storage.shown());
    assert!(!shown.contains("canary"), "{shown}");
}

#[test]
fn doctor_says_how_long_certificates_last() {
    let new = Installation::new();
    let config = new.load().unwrap();
    let health = |now: Timestamp| {
        let findings = doctor::certificates(&config, now);
        assert_eq!(findings.len(), 2, "{findings:#?}");
        assert!(findings.iter().all(|finding| (finding.health == doctor::Health::Ok) == finding.fix.is_none()));
        findings[0].health
    };
    let day = Ttl::hours(24);
    assert_eq!(health(NOW), doctor::Health::Ok);
    assert_eq!(health(NOW.plus(Ttl::hours(24 * 370))), doctor::Health::Warn);
    assert_eq!(health(NOW.plus(Ttl::hours(24 * 397))), doctor::Health::Fail);
    assert_eq!(health(NOW.minus(day)), doctor::Health::Fail, "not yet valid");
}

#[tokio::test]
async fn doctor_says_whether_upstreams_listen() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let open = listener.local_addr().unwrap().port();
    let closed = {
        let gone = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        gone.local_addr().unwrap().port()
    };
    let asked = [("a".to_owned(), "127.0.0.1".to_owned(), open), ("b".to_owned(), "127.0.0.1".to_owned(), closed)];
    let findings = doctor::upstreams(&asked).await;
    assert_eq!(findings[0].health, doctor::Health::Ok);
    assert_eq!(findings[1].health, doctor::Health::Fail);
    assert!(findings[1].to_string().contains("fix: start the upstream"), "{}", findings[1]);
}

#[test]
fn doctor_tells_how_far_the_clock_is_off_and_who_said_so() {
    let told = |millis: i64| {
        let told = [("dev".to_owned(), 0), ("corp".to_owned(), millis)];
        doctor::clock(&told).unwrap()
    };
    for (millis, health) in [
        (0, doctor::Health::Ok),
        (-5_000, doctor::Health::Ok),
        (5_001, doctor::Health::Warn),
        (-60_000, doctor::Health::Warn),
        (60_001, doctor::Health::Fail),
        (-7_200_000, doctor::Health::Fail),
        (i64::MIN, doctor::Health::Fail),
    ] {
        let finding = told(millis);
        assert_eq!(finding.health, health, "{finding}");
    }
    let finding = told(-90_000);
    assert!(finding.detail.contains("90 s behind the provider `corp`"), "{finding}");
    assert!(finding.fix.unwrap().contains("NTP"));
    assert_eq!(doctor::clock(&[]), None);
    let database = doctor::clock_of_database(600_000);
    assert_eq!((database.health, database.name.as_str()), (doctor::Health::Fail, "clock and database"));
    assert!(database.detail.contains("600 s ahead of the database"), "{database}");
    assert_eq!(doctor::clock_of_database(-5_000).health, doctor::Health::Ok);
}

#[test]
fn who_only_looks_at_a_database_does_not_make_it() {
    let url = |url: &str| {
        let new = Installation::with(|text| text.replace("\"sqlite://doorward.db\"", &format!("\"{url}\"")));
        new.load().unwrap().storage.url_to_look().expose().clone()
    };
    assert!(url("sqlite://door").ends_with("/door?mode=rw"));
    assert!(url("sqlite://door?mode=rwc").ends_with("/door?mode=rw"));
    let postgres = "postgres://doorward@db.example.com/doorward?sslmode=require";
    assert_eq!(url(postgres), postgres);
}

/// With a stream of these lines at the end of the file, and a webhook's secret beside it.
fn streaming(lines: &str) -> Installation {
    let new = Installation::with(|text| format!("{text}\n[[audit.stream]]\n{lines}\n"));
    fs::write(new.dir.path().join("keys/stream.secret"), "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw\n").unwrap();
    new
}

#[test]
fn streams_of_the_record_are_read_each_with_what_its_kind_has() {
    let new = streaming(
        "name = \"siem\"\nkind = \"syslog\"\naddress = \"log.example.com\"\nformat = \"cef\"\ntypes = [\"decision.*\", \"lock.set\"]\n\
         services = [\"ops-api\"]\nfrom = \"beginning\"\nca = \"keys/ca.crt\"\ncertificate = \"keys/server.crt\"\n\
         key = \"keys/server.key\"\nbatch = 7\ninterval = \"5s\"\nstalled_after = \"1m\"\n\
         [[audit.stream]]\nname = \"hook\"\nkind = \"webhook\"\nurl = \"https://hooks.example.com/x\"\nsecret = { file = \"keys/stream.secret\" }\n\
         [[audit.stream]]\nname = \"otel\"\nkind = \"otlp\"\nurl = { file = \"keys/url\" }\nauthorization = { env = \"OTLP\" }",
    );
    fs::write(new.dir.path().join("keys/url"), "https://otlp.example.com/v1/logs").unwrap();
    let config = new.load_with(&[("OTLP", "Bearer canary")]).unwrap_or_else(|problems| panic!("{problems:#?}"));
    let streams = &config.audit.streams;
    assert_eq!(streams.len(), 3);
    let config::Receiver::Syslog(syslog) = &streams[0].receiver else { panic!("syslog") };
    assert_eq!((syslog.address().as_str(), syslog.authorities.len()), ("log.example.com:6514", 1));
    assert!(syslog.certificate.is_some() && streams[0].from_beginning);
    assert_eq!((streams[0].format.name(), streams[0].batch, streams[0].selection.types.len()), ("cef", 7, 2));
    let config::Receiver::Webhook(webhook) = &streams[1].receiver else { panic!("webhook") };
    assert!(webhook.key.is_some() && webhook.authorization.is_none());
    assert_eq!((streams[1].format.name(), streams[1].batch, streams[1].from_beginning), ("jsonl", 500, false));
    assert_eq!((streams[1].interval, streams[1].stalled_after), (Ttl::seconds(1), Ttl::minutes(5)));
    let config::Receiver::Otlp(otlp) = &streams[2].receiver else { panic!("otlp") };
    assert_eq!(otlp.url.expose(), "https://otlp.example.com/v1/logs");
    assert!(!format!("{config:?}").contains("canary"));
    assert!(config.secret_files.iter().any(|(_, file)| file.ends_with("keys/server.key")), "doctor looks at its mode");
}

#[test]
fn what_is_wrong_with_a_stream_is_told_once_and_where_it_stands() {
    let syslog = "name = \"siem\"\nkind = \"syslog\"\naddress = \"log.example.com:6514\"\n";
    for (lines, on, message) in [
        ("kind = \"syslog\"\naddress = \"a:1\"", "[[audit.stream]]", "`audit.stream.0.name` is missing"),
        ("name = \"siem\"\naddress = \"a:1\"", "[[audit.stream]]", "`audit.stream.0.kind` is missing"),
        ("name = \"siem\"\nkind = \"kafka\"\nurl = \"x\"", "kind", "`kafka`"),
        ("name = \"Siem\"\nkind = \"syslog\"\naddress = \"a:1\"", "name", "`Siem`"),
        ("name = \"siem\"\nkind = \"syslog\"", "[[audit.stream]]", "`audit.stream.0.address` is missing"),
        ("name = \"siem\"\nkind = \"syslog\"\naddress = \"a:b\"", "address", "`a:b`"),
        ("name = \"siem\"\nkind = \"syslog\"\naddress = \"tls://a:1\"", "address", "`tls://a:1`"),
        ("name = \"siem\"\nkind = \"otlp\"\nurl = \"http://a/v1/logs\"", "url", "is not https"),
        ("name = \"siem\"\nkind = \"webhook\"\nurl = \"https://a/\"", "[[audit.stream]]", "secret` is missing"),
        (
            "name = \"siem\"\nkind = \"webhook\"\nurl = \"https://a/\"\nsecret = { file = \"keys/ca.crt\" }",
            "secret",
            "no key of Standard Webhooks",
        ),
        (
            "name = \"siem\"\nkind = \"otlp\"\nurl = \"https://a/\"\nauthorization = \"Bearer x\"",
            "authorization",
            "stands in the file itself",
        ),
        (&format!("{syslog}format = \"leef\""), "format", "`leef`"),
        (&format!("{syslog}from = \"yesterday\""), "from", "`yesterday`"),
        (&format!("{syslog}types = [\"decision.maybe\"]"), "types", "`decision.maybe`"),
        (&format!("{syslog}types = [\"nothing.*\"]"), "types", "`nothing.*`"),
        (&format!("{syslog}services = [\"Ops\"]"), "services", "`Ops`"),
        (&format!("{syslog}batch = 0"), "batch", "outside 1 to 1000"),
        (&format!("{syslog}interval = \"1ms\""), "interval", "outside"),
        (&format!("{syslog}certificate = \"keys/server.crt\""), "certificate", "go together"),
        (
            &format!("{syslog}certificate = \"keys/server.crt\"\nkey = \"keys/ca.key\""),
            "certificate",
            "does not belong to",
        ),
        (&format!("{syslog}ca = \"keys/server.crt\""), "ca", "not an authority's"),
        (&format!("{syslog}url = \"https://a/\""), "url", "unknown key `url`"),
        (&format!("{syslog}[[audit.stream]]\n{syslog}"), "name", "given twice"),
    ] {
        streaming(lines).refused(on, message);
    }
}

#[test]
fn a_witness_is_one_of_file_webhook_and_syslog_receiver() {
    let with = |witness: &str| Installation::adding("audit", &format!("witnesses = [{witness}]"));
    let config = with("{ syslog = \"[::1]:7000\", ca = \"keys/ca.crt\", allow_loopback = true }").load().unwrap();
    let config::Witness::Syslog(settings) = &config.audit.witnesses[0] else { panic!("syslog") };
    assert_eq!((settings.address().as_str(), settings.allow_loopback), ("[::1]:7000", true));
    with("{ syslog = \"a:1\", file = \"w\" }").refused("witnesses", "only one of them");
    with("{ syslog = \"a:0\" }").refused("witnesses", "`a:0`");
    with("{ allow_loopback = true }").refused("witnesses", "is missing");
    with("{ file = \"nodir/w\" }").refused("witnesses", "nodir` for the witness is not there");
    with("{ file = \"keys\" }").refused("witnesses", "is a folder, where a file is needed");
    with("{ file = \"keys/w\" }").load().unwrap();
    for (host, why) in [
        ("127.0.0.1", "it is this machine"),
        ("[::1]", "it is this machine"),
        ("door.localhost", "it is this machine"),
        ("169.254.169.254", "it is link-local"),
    ] {
        with(&format!("{{ webhook = \"https://{host}/\" }}")).refused("witnesses", why);
    }
    with("{ webhook = \"https://127.0.0.1/\", allow_loopback = true }").load().unwrap();
}

#[test]
fn a_rule_of_what_an_erasure_must_leave_is_read_and_a_bad_one_refused_where_it_stands() {
    let with = |rule: &str| {
        let rule = rule.to_owned();
        Installation::with(move |text| format!("{text}\n[[audit.keep]]\n{rule}\n"))
    };
    let whole =
        "name = \"emergencies\"\ntypes = [\"breakglass.*\", \"grant.active\"]\nreason = \"the law\"\nfor = \"30d\"";
    let config = with(whole).load().unwrap();
    let rule = &config.audit.keep[0];
    assert_eq!((rule.name.as_str(), rule.reason.as_str(), rule.types.len()), ("emergencies", "the law", 2));
    for (from, to, on, message) in [
        ("\"breakglass.*\"", "\"break_glass.*\"", "types", "no event is of the type `break_glass.*`"),
        ("[\"breakglass.*\", \"grant.active\"]", "[]", "types", "`audit.keep.0.types` names no event"),
        ("\"emergencies\"", "\"The Law\"", "name", "`audit.keep.0.name`"),
        ("\"the law\"", "\" \"", "reason", "`audit.keep.0.reason`"),
        ("\"30d\"", "\"for ever\"", "for", "`audit.keep.0.for`"),
        ("for = \"30d\"", "", "[[audit.keep]]", "`audit.keep.0.for` is missing"),
        ("for = ", "during = \"1d\"\nfor = ", "during", "unknown"),
    ] {
        with(&whole.replace(from, to)).refused(on, message);
    }
    with(&format!("{whole}\n[[audit.keep]]\n{whole}")).refused("name", "the name `emergencies` is given twice");
}
