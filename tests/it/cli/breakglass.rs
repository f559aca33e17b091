//! `doorward breakglass init`: custodians beside the configuration, keys that OpenSSH opens, and
//! nothing written where something does not fit.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use doorward::cli::args::{Format, GlobalArgs};
use doorward::cli::breakglass::{BreakGlassCommand, InitArgs, OpenArgs, SignArgs, run};
use doorward::cli::context::Context;
use doorward::cli::environment::Environment;
use doorward::cli::exit::Exit;
use doorward::cli::printer::Printer;
use doorward::identity::breakglass::Custodians;
use doorward::model::{BreakGlassId, Ttl};

use crate::support::{SeededEntropy, TestClock, temporary_folder};

use super::Written;

const CONFIG: &str = "# ours\n[server]\nlisten = \"127.0.0.1:0\" # anywhere\n";

fn args(dir: &Path, threshold: u32, generate: u32) -> InitArgs {
    InitArgs {
        threshold,
        custodian: Vec::new(),
        generate: Some(generate),
        out: Some(dir.join("keys")),
        passphrase_file: None,
        config: dir.join("doorward.toml"),
    }
}

fn init(args: InitArgs) -> Result<String, Exit> {
    let out = Written::default();
    let context = Context {
        printer: Printer::new(Format::Json, false, Box::new(out.clone()), Box::new(Written::default())),
        environment: Environment::of(&[]),
        global: GlobalArgs { output: Format::Json, ..GlobalArgs::default() },
        clock: Arc::new(TestClock::new()),
        entropy: Arc::new(SeededEntropy::new(5)),
        banner: Default::default(),
    };
    run(&context, &BreakGlassCommand::Init(args)).map(|()| out.text()).map_err(|failure| failure.exit)
}

fn folder() -> (tempfile::TempDir, PathBuf) {
    let folder = temporary_folder();
    let dir = folder.path().to_path_buf();
    std::fs::write(dir.join("doorward.toml"), CONFIG).unwrap();
    (folder, dir)
}

#[test]
fn custodians_are_written_and_sealed_keys_are_openssh_keys() {
    let (_folder, dir) = folder();
    std::fs::write(dir.join("passphrase"), "correct horse\n").unwrap();
    let told = init(InitArgs { passphrase_file: Some(dir.join("passphrase")), ..args(&dir, 2, 3) }).unwrap();
    let told: serde_json::Value = serde_json::from_str(&told).unwrap();
    assert_eq!(told["custodians"], serde_json::json!(["custodian-1", "custodian-2", "custodian-3"]));
    let custodians = Custodians::parse(&std::fs::read(dir.join("custodians")).unwrap()).unwrap();
    assert_eq!(custodians.count(), 3);
    let config = std::fs::read_to_string(dir.join("doorward.toml")).unwrap();
    assert!(config.starts_with(CONFIG), "{config}");
    assert!(config.ends_with("[breakglass]\ncustodians = \"custodians\"\nthreshold = 2\n"), "{config}");
    // OpenSSH opens the key with its passphrase, and only with that.
    let key = dir.join("keys/custodian-1");
    let public =
        |passphrase: &str| Command::new("ssh-keygen").args(["-y", "-P", passphrase, "-f"]).arg(&key).output().unwrap();
    let opened = public("correct horse");
    assert!(opened.status.success(), "{}", String::from_utf8_lossy(&opened.stderr));
    let written = std::fs::read_to_string(dir.join("keys/custodian-1.pub")).unwrap();
    assert!(written.starts_with(String::from_utf8_lossy(&opened.stdout).split(" custodian").next().unwrap().trim()));
    assert!(!public("wrong").status.success());
    // A second time there is something already, and nothing changes.
    assert_eq!(init(args(&dir, 2, 3)), Err(Exit::Usage));
    assert_eq!(std::fs::read_to_string(dir.join("doorward.toml")).unwrap(), config);
}

#[test]
fn a_threshold_below_two_or_above_the_custodians_writes_nothing() {
    for (threshold, generate) in [(1, 3), (4, 3), (0, 3)] {
        let (_folder, dir) = folder();
        assert_eq!(init(args(&dir, threshold, generate)), Err(Exit::Usage), "{threshold} of {generate}");
        assert_eq!(std::fs::read_to_string(dir.join("doorward.toml")).unwrap(), CONFIG);
        assert!(!dir.join("custodians").exists() && !dir.join("keys/custodian-1").exists());
    }
}

/// A place with three custodians of whom two must sign, and somebody at work there.
struct Place {
    dir: PathBuf,
    clock: TestClock,
    _folder: tempfile::TempDir,
}

impl Place {
    fn new() -> Self {
        let (folder, dir) = folder();
        std::fs::write(dir.join("passphrase"), "correct horse\n").unwrap();
        init(InitArgs { passphrase_file: Some(dir.join("passphrase")), ..args(&dir, 2, 3) }).unwrap();
        Self { dir, clock: TestClock::new(), _folder: folder }
    }

    fn run(&self, command: BreakGlassCommand) -> Result<serde_json::Value, Vec<String>> {
        let out = Written::default();
        let context = Context {
            printer: Printer::new(Format::Json, false, Box::new(out.clone()), Box::new(Written::default())),
            environment: Environment::of(&[("DOORWARD_HOME", self.dir.to_str().unwrap())]),
            global: GlobalArgs { output: Format::Json, ..GlobalArgs::default() },
            clock: Arc::new(self.clock.clone()),
            entropy: Arc::new(SeededEntropy::new(6)),
            banner: Default::default(),
        };
        let outcome = run(&context, &command).map_err(|failure| failure.lines());
        outcome.map(|()| serde_json::from_str(&out.text()).unwrap_or_default())
    }

    fn key(&self, number: u32) -> PathBuf {
        self.dir.join(format!("keys/custodian-{number}"))
    }

    /// A challenge of this opener, who signs with the first custodian's key.
    fn asked(&self, opener: &str) -> BreakGlassId {
        let open = OpenArgs {
            reason: Some("all is down".to_owned()),
            length: Some(Ttl::minutes(10)),
            challenge_out: Some(self.dir.join("challenge")),
            opener: Some(opener.to_owned()),
            opener_key: Some(self.key(1)),
            config: Some(self.dir.join("doorward.toml")),
            all: true,
            ..self.resumed(None, &[])
        };
        let told = self.run(BreakGlassCommand::Open(open)).unwrap();
        BreakGlassId::parse(told["id"].as_str().unwrap()).unwrap()
    }

    fn resumed(&self, resume: Option<BreakGlassId>, signers: &[u32]) -> OpenArgs {
        OpenArgs {
            service: Vec::new(),
            all: false,
            reason: None,
            length: None,
            challenge_out: None,
            opener: None,
            opener_key: None,
            passphrase_file: Some(self.dir.join("passphrase")),
            config: None,
            resume,
            signature: signers.iter().map(|number| self.dir.join(format!("{number}.sig"))).collect(),
        }
    }

    fn resume(&self, id: BreakGlassId, signers: &[u32]) -> Result<serde_json::Value, String> {
        for number in signers {
            let sign = SignArgs {
                key: self.key(*number),
                challenge: self.dir.join("challenge"),
                out: Some(self.dir.join(format!("{number}.sig"))),
                passphrase_file: Some(self.dir.join("passphrase")),
            };
            self.run(BreakGlassCommand::Sign(sign)).unwrap();
        }
        self.run(BreakGlassCommand::Open(self.resumed(Some(id), signers))).map_err(|lines| lines.concat())
    }
}

#[test]
fn an_opener_who_signs_under_a_name_that_is_not_theirs_opens_nothing() {
    let place = Place::new();
    let id = place.asked("erin");
    let refused = place.resume(id, &[2]).unwrap_err();
    assert!(refused.contains("`erin` is no name of the custodian who signed with `--opener-key`"), "{refused}");
    assert!(!place.dir.join("profiles").join("breakglass").exists());
}

#[test]
fn only_what_can_be_corrected_is_said_to_be_resumed() {
    let place = Place::new();
    let id = place.asked("custodian-1");
    let few = place.resume(id, &[2]).unwrap_err();
    assert!(few.contains("1 of 2 custodians have signed") && few.contains("correct it and resume again"), "{few}");
    place.clock.advance(Ttl::minutes(11));
    let over = place.resume(id, &[2, 3]).unwrap_err();
    assert!(over.contains("make a new one") && !over.contains("resume again"), "{over}");
}
