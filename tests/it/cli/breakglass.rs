//! `doorward breakglass init`: custodians beside the configuration, keys that OpenSSH opens, and
//! nothing written where something does not fit.

use std::path::{Path, PathBuf};
use std::process;
use std::sync::Arc;

use clap::Parser as _;
use doorward::cli::args::{Arguments, Command, Format, GlobalArgs};
use doorward::cli::breakglass::{BreakGlassCommand, InitArgs, SignArgs, run};
use doorward::cli::context::Context;
use doorward::cli::environment::Environment;
use doorward::cli::exit::Exit;
use doorward::cli::failure::Failure;
use doorward::cli::printer::Printer;
use doorward::config::InitOptions;
use doorward::identity::breakglass::Custodians;
use doorward::model::{Clock as _, Ttl};
use doorward::server::installation;

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

/// Somebody at a terminal at a time: what is printed, and what is said beside.
fn context(environment: &[(&str, &str)], seed: u64, clock: &TestClock) -> (Context, Written, Written) {
    let (out, talk) = (Written::default(), Written::default());
    let context = Context {
        printer: Printer::new(Format::Json, false, Box::new(out.clone()), Box::new(talk.clone())),
        environment: Environment::of(environment),
        global: GlobalArgs { output: Format::Json, ..GlobalArgs::default() },
        clock: Arc::new(clock.clone()),
        entropy: Arc::new(SeededEntropy::new(seed)),
        banner: Default::default(),
    };
    (context, out, talk)
}

fn init(args: InitArgs) -> Result<String, Exit> {
    let (context, out, _) = context(&[], 5, &TestClock::new());
    run(&context, &BreakGlassCommand::Init(args)).map(|()| out.text()).map_err(|failure| failure.exit)
}

fn installed() -> (tempfile::TempDir, PathBuf) {
    let folder = temporary_folder();
    let dir = folder.path().join("installation");
    let examples = [("global.cedar", "// nothing\n"), ("ops-api/service.toml", "description = \"x\"\n")];
    let (options, now) = (InitOptions::for_domain("example.com"), TestClock::new().now());
    installation::create(&dir, &options, &examples, now, &SeededEntropy::new(1)).unwrap();
    (folder, dir)
}

/// An installation with three custodians, two of whom must sign, and somebody at its machine.
struct Hand {
    dir: PathBuf,
    clock: TestClock,
    _folder: tempfile::TempDir,
}

impl Hand {
    fn new() -> Self {
        let (folder, dir) = installed();
        init(args(&dir, 2, 3)).unwrap();
        Self { dir, clock: TestClock::new(), _folder: folder }
    }

    fn key(&self, number: u32) -> PathBuf {
        self.dir.join(format!("keys/custodian-{number}"))
    }

    /// Runs a command line of `breakglass`, with the options of an opening unless it goes on with one;
    /// answers the id, or how it failed.
    fn open(&self, seed: u64, line: &[&str]) -> Result<String, Failure> {
        self.told(seed, line).map(|(id, _)| id)
    }

    /// The same with what was said beside.
    fn told(&self, seed: u64, line: &[&str]) -> Result<(String, String), Failure> {
        let home = self.dir.join("home");
        let somebody = [("DOORWARD_HOME", home.to_str().unwrap()), ("USER", "zoe")];
        let (context, out, talk) = context(&somebody, seed, &self.clock);
        let challenge = self.dir.join("challenge");
        let begin = ["--reason", "all is down", "--for", "5m", "--challenge-out", challenge.to_str().unwrap()];
        let begin = if line.contains(&"--resume") { &[][..] } else { &begin[..] };
        let line = [&["doorward", "breakglass", "open"][..], begin, line].concat();
        let Command::Breakglass(command) = Arguments::try_parse_from(line).unwrap().command else { unreachable!() };
        run(&context, &command)?;
        let told: serde_json::Value = serde_json::from_str(&out.text()).unwrap();
        Ok((told["id"].as_str().unwrap().to_owned(), talk.text()))
    }

    fn sign(&self, number: u32) -> String {
        let out = self.dir.join(format!("{number}.sig"));
        let sign = SignArgs {
            key: self.key(number),
            challenge: self.dir.join("challenge"),
            out: Some(out.clone()),
            passphrase_file: None,
        };
        run(&context(&[], 9, &self.clock).0, &BreakGlassCommand::Sign(sign)).unwrap();
        out.to_str().unwrap().to_owned()
    }
}

#[test]
fn a_copy_of_the_configuration_beside_the_custodians_is_enough_to_open() {
    let hand = Hand::new();
    let copy = hand.dir.join("copy");
    std::fs::create_dir(&copy).unwrap();
    for file in ["doorward.toml", "custodians"] {
        std::fs::copy(hand.dir.join(file), copy.join(file)).unwrap();
    }
    let config = copy.join("doorward.toml");
    hand.open(5, &["--all", "--config", config.to_str().unwrap()]).unwrap();
    // What is wrong with the emergency path itself is not passed over.
    std::fs::remove_file(copy.join("custodians")).unwrap();
    let refused = hand.open(7, &["--all", "--config", config.to_str().unwrap()]).unwrap_err();
    assert_eq!(refused.exit, Exit::Usage);
}

#[test]
fn a_custodian_who_opens_under_another_name_is_refused_and_their_signature_never_counts() {
    let hand = Hand::new();
    let (config, key) = (hand.dir.join("doorward.toml"), hand.key(1));
    let (config, key) = (config.to_str().unwrap(), key.to_str().unwrap());
    let proven = ["--all", "--config", config, "--opener-key", key];
    // Somebody else's name, somebody else's key, and nobody to say whose key it is.
    let other = hand.open(6, &[&proven[..], &["--opener", "zoe"]].concat()).unwrap_err();
    assert_eq!(other.exit, Exit::Usage);
    assert!(other.problem.detail.unwrap().contains("is the key of `custodian-1`, not of `zoe`"));
    let made = process::Command::new("ssh-keygen")
        .args(["-q", "-t", "ed25519", "-N", "", "-f"])
        .arg(hand.dir.join("stranger"))
        .status()
        .unwrap();
    assert!(made.success());
    let stranger = hand.dir.join("stranger");
    let strange = hand.open(6, &["--all", "--config", config, "--opener-key", stranger.to_str().unwrap()]).unwrap_err();
    assert_eq!(strange.exit, Exit::Usage);
    assert!(strange.problem.detail.unwrap().contains("no custodian's key"));
    let unnamed = hand.open(6, &["--all", "--opener-key", key]).unwrap_err();
    assert_eq!(unnamed.exit, Exit::Usage);
    assert!(unnamed.problem.detail.unwrap().contains("`--opener NAME`"));

    // With no name, the key says it, whoever the user of the machine is; and it takes two others.
    let id = hand.open(7, &proven).unwrap();
    let challenge = std::fs::read_to_string(hand.dir.join("challenge")).unwrap();
    assert!(challenge.contains("custodian-1") && !challenge.contains("zoe"), "{challenge}");
    let (second, third) = (hand.sign(2), hand.sign(3));
    let few = hand.open(8, &["--resume", &id, "--signature", &second]).unwrap_err();
    assert!(few.problem.detail.unwrap().contains("`custodian-1` opens and does not count"));
    hand.open(8, &["--resume", &id, "--signature", &second, "--signature", &third]).unwrap();

    // What was begun by a program that did not ask is not gone on with.
    let id = hand.open(10, &["--all", "--config", config]).unwrap();
    let (first, second) = (hand.sign(1), hand.sign(2));
    let kept = hand.dir.join(format!("home/breakglass/{id}.json"));
    let mut pending: serde_json::Value = serde_json::from_slice(&std::fs::read(&kept).unwrap()).unwrap();
    pending["opener_signature"] = std::fs::read_to_string(&first).unwrap().into();
    std::fs::write(&kept, pending.to_string()).unwrap();
    let counted = hand.open(11, &["--resume", &id, "--signature", &second]).unwrap_err();
    assert_eq!(counted.exit, Exit::Usage);
    assert!(counted.problem.detail.unwrap().contains("who would count for their own opening"));
}

#[test]
fn a_service_that_the_configuration_has_not_is_told_and_left_to_the_nodes() {
    let hand = Hand::new();
    let config = hand.dir.join("doorward.toml");
    let told =
        |seed, name: &str| hand.told(seed, &["--service", name, "--config", config.to_str().unwrap()]).unwrap().1;
    let (unknown, known) = (told(6, "nope"), told(7, "ops-api"));
    assert!(unknown.contains("has no service `nope`") && unknown.contains("there are: ops-api"), "{unknown}");
    assert!(!known.contains("has no service"), "{known}");
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
    let public = |passphrase: &str| {
        process::Command::new("ssh-keygen").args(["-y", "-P", passphrase, "-f"]).arg(&key).output().unwrap()
    };
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
        assert!(!dir.join("custodians").exists() && !dir.join("keys").exists());
    }
}

#[test]
fn only_what_can_be_corrected_is_said_to_be_resumed() {
    let hand = Hand::new();
    let (config, key) = (hand.dir.join("doorward.toml"), hand.key(1));
    let proven = ["--all", "--config", config.to_str().unwrap(), "--opener-key", key.to_str().unwrap()];
    let id = hand.open(6, &proven).unwrap();
    let (second, third) = (hand.sign(2), hand.sign(3));
    let few = hand.open(7, &["--resume", &id, "--signature", &second]).unwrap_err().lines().concat();
    assert!(few.contains("1 of 2 custodians have signed") && few.contains("correct it and resume again"), "{few}");
    hand.clock.advance(Ttl::minutes(11));
    let over = hand.open(8, &["--resume", &id, "--signature", &second, "--signature", &third]).unwrap_err();
    let over = over.lines().concat();
    assert!(over.contains("make a new one") && !over.contains("resume again"), "{over}");
}

#[test]
fn what_was_closed_here_is_not_gone_on_with_here() {
    let hand = Hand::new();
    let config = hand.dir.join("doorward.toml");
    let id = hand.open(6, &["--all", "--config", config.to_str().unwrap()]).unwrap();
    let (first, second) = (hand.sign(1), hand.sign(2));
    let resume = ["--resume", &id, "--signature", &first, "--signature", &second];
    hand.open(7, &resume).unwrap();
    let kept = hand.dir.join(format!("home/breakglass/{id}.json"));
    let mut pending: serde_json::Value = serde_json::from_slice(&std::fs::read(&kept).unwrap()).unwrap();
    let closed = hand.clock.now().to_string();
    pending["closed_at"] = closed.clone().into();
    std::fs::write(&kept, pending.to_string()).unwrap();
    let refused = hand.open(8, &resume).unwrap_err();
    assert_eq!(refused.exit, Exit::Failed);
    let told = refused.problem.detail.unwrap();
    assert!(told.contains(&format!("was closed at {closed}")) && told.contains("begin another"), "{told}");
}
