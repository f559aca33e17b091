//! `doorward breakglass init`: custodians beside the configuration, keys that OpenSSH opens, and
//! nothing written where something does not fit.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use doorward::cli::args::{Format, GlobalArgs};
use doorward::cli::breakglass::{BreakGlassCommand, InitArgs, run};
use doorward::cli::context::Context;
use doorward::cli::environment::Environment;
use doorward::cli::exit::Exit;
use doorward::cli::printer::Printer;
use doorward::identity::breakglass::Custodians;

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
