//! `doorward doctor` through the program: it changes nothing, and says what is not there yet.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use serde_json::Value;
use sqlx::{AnyConnection, Connection, Executor};

use crate::crash::PROGRAM;
use crate::support::{free_port, temporary_folder};

fn command(arguments: &[&str]) -> Command {
    let mut command = Command::new(PROGRAM);
    command.args(arguments).env_clear().env("DOORWARD__SERVER__DRAIN", "0s").stdin(Stdio::null());
    command
}

/// What doctor says of the database, and of whether there is a record.
fn seen(dir: &Path) -> (Value, bool) {
    let config = dir.join("doorward.toml");
    let output = command(&["doctor", "-o", "json", "--config", config.to_str().unwrap()]).output().unwrap();
    let told: Value = serde_json::from_slice(&output.stdout).unwrap();
    let items = told["items"].as_array().unwrap();
    let found = |name: &str| items.iter().find(|item| item["name"].as_str().unwrap().starts_with(name)).cloned();
    (found("database").unwrap(), found("record").is_some())
}

#[test]
fn before_the_first_start_there_is_no_database_and_doctor_makes_none() {
    let folder = temporary_folder();
    let dir = folder.path().join("door");
    assert!(command(&["init", "--dir", dir.to_str().unwrap()]).output().unwrap().status.success());
    let file = dir.join("doorward.db");
    let (database, record) = seen(&dir);
    assert_eq!(database["health"], "ok", "{database}");
    assert!(database["detail"].as_str().unwrap().contains("not there yet"), "{database}");
    assert!(!record && !file.exists(), "it changes nothing");
    fs::write(&file, "").unwrap();
    let (database, record) = seen(&dir);
    assert!(database["detail"].as_str().unwrap().contains("not there yet"), "{database}");
    assert_eq!((record, fs::metadata(&file).unwrap().len()), (false, 0));
}

#[tokio::test]
async fn a_database_that_serve_does_not_take_is_no_good_to_doctor_and_both_say_what_to_do() {
    sqlx::any::install_default_drivers();
    let folder = temporary_folder();
    let dir = folder.path().join("door");
    assert!(command(&["init", "--dir", dir.to_str().unwrap()]).output().unwrap().status.success());
    let file = dir.join("doorward.db");
    let mut other = AnyConnection::connect(&format!("sqlite://{}?mode=rwc", file.display())).await.unwrap();
    other.execute("create table session (id integer)").await.unwrap();
    other.close().await.unwrap();
    let refused = |what: &str, fix: &str| {
        let (database, record) = seen(&dir);
        let told = |key: &str| database[key].as_str().unwrap().to_owned();
        assert_eq!((told("health").as_str(), record), ("fail", false), "{database}");
        assert!(told("detail").contains(what) && !told("detail").contains("timed out"), "{database}");
        let config = dir.join("doorward.toml");
        let output = command(&["serve", "--config", config.to_str().unwrap()])
            .env("DOORWARD__SERVER__LISTEN", format!("127.0.0.1:{}", free_port()))
            .env("DOORWARD__TELEMETRY__LISTEN", format!("127.0.0.1:{}", free_port()))
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(1), "{said}");
        let last = said.lines().last().unwrap();
        assert_eq!((last.matches(what).count(), last.matches(fix).count()), (1, 1), "{said}");
    };
    refused("a table `session` that is not doorward's", "give doorward a database of its own");
    fs::write(&file, "no database at all\n".repeat(300)).unwrap();
    refused("file is not a database", "restore a backup");
}

#[test]
fn serve_takes_its_database_from_others() {
    let folder = temporary_folder();
    let dir = folder.path().join("door");
    assert!(command(&["init", "--dir", dir.to_str().unwrap()]).output().unwrap().status.success());
    let file = dir.join("doorward.db");
    fs::write(&file, "").unwrap();
    fs::set_permissions(&file, Permissions::from_mode(0o644)).unwrap();
    let (log, config) = (dir.join("serve.log"), dir.join("doorward.toml"));
    let mut serving = command(&["serve", "--config", config.to_str().unwrap()])
        .env("DOORWARD__SERVER__LISTEN", format!("127.0.0.1:{}", free_port()))
        .env("DOORWARD__TELEMETRY__LISTEN", format!("127.0.0.1:{}", free_port()))
        .stdout(Stdio::null())
        .stderr(fs::File::create(&log).unwrap())
        .spawn()
        .unwrap();
    let told = || fs::read_to_string(&log).unwrap();
    let ready = (0..600).any(|_| {
        std::thread::sleep(Duration::from_millis(50));
        told().contains("\"ready\"")
    });
    let mode = fs::metadata(&file).unwrap().permissions().mode() & 0o777;
    let (database, record) = seen(&dir);
    serving.kill().unwrap();
    serving.wait().unwrap();
    assert!(ready, "{}", told());
    assert_eq!(mode, 0o600);
    assert!(database["detail"].as_str().unwrap().contains("answers") && record, "{database}");
    for line in told().lines() {
        assert!(serde_json::from_str::<Value>(line).is_ok(), "off a terminal every line is JSON: {line}");
    }
}
