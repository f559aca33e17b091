//! What the door records is enough to judge it anew: `doorward policy replay` against a whole door.

use std::path::Path;
use std::sync::Arc;

use clap::Parser;
use doorward::cli::args::{Arguments, Command, Format, LoginArgs};
use doorward::cli::context::Context;
use doorward::cli::environment::Environment;
use doorward::cli::exit::Exit;
use doorward::cli::policy::{PolicyCommand, replay};
use doorward::cli::printer::Printer;
use doorward::control::session;
use doorward::model::{Clock, Ttl};
use doorward::server::ambient::SystemEntropy;
use serde_json::{Value, json};

use super::fixture::{Door, POLICY, Plan, Speaks, with_door};
use super::grants::grant;
use crate::cli::Written;
use crate::support::{databases, temporary_folder};

const GLOBAL: &str = "@id(\"auditors-read\")\n\
    permit (principal in Group::\"auditors\", action == Action::\"read_audit\", resource);\n";
const ENTITLEMENT: &str = "[entitlement.open]\ndescription = \"Open\"\nmin = \"1s\"\nactions = [\"open\"]\n";
const GRANTED: &str = "\
@id(\"holders-open\") permit (principal in Entitlement::\"app/open\", action == Action::\"open\", resource);
permit (principal is User, action == Action::\"request\", resource == Entitlement::\"app/open\");
permit (principal in Group::\"security\", action == Action::\"approve\", resource == Entitlement::\"app/open\");
";

fn plan(database: Option<String>) -> Plan {
    let change = |dir: &Path| {
        std::fs::write(dir.join("policies/global.cedar"), GLOBAL).unwrap();
        let path = dir.join("policies/app/service.toml");
        let text = std::fs::read_to_string(&path).unwrap();
        std::fs::write(path, format!("{text}\n{ENTITLEMENT}")).unwrap();
        std::fs::write(dir.join("policies/app/access.cedar"), format!("{POLICY}{GRANTED}")).unwrap();
    };
    Plan { database, change: Some(change), ..Plan::default() }
}

/// Someone at a command line of their own.
struct Terminal<'d> {
    door: &'d Door,
    home: tempfile::TempDir,
}

impl<'d> Terminal<'d> {
    async fn of(door: &'d Door, name: &str) -> Self {
        let terminal = Self { door, home: temporary_folder() };
        let (context, ..) = terminal.context(Format::Table);
        let args = LoginArgs {
            device_code: false,
            print_url: false,
            sign_in_as: Some(name.to_owned()),
            provider: None,
            device_certificate: None,
            device_key: None,
        };
        doorward::cli::login::run(&context, &args).await.unwrap();
        terminal
    }

    fn context(&self, format: Format) -> (Context, Written) {
        let ca = self.door.dir.join("keys/ca.crt");
        let out = Written::default();
        let environment = Environment::of(&[
            ("DOORWARD_HOME", self.home.path().to_str().unwrap()),
            ("DOORWARD_SERVER", &self.door.origin),
            ("DOORWARD_CA", ca.to_str().unwrap()),
        ]);
        let context = Context {
            printer: Printer::new(format, false, Box::new(out.clone()), Box::new(std::io::sink())),
            environment,
            global: doorward::cli::args::GlobalArgs { output: format, ..Default::default() },
            clock: Arc::new(self.door.clock.clone()),
            entropy: Arc::new(SystemEntropy),
            banner: Default::default(),
        };
        (context, out)
    }

    async fn replay(&self, dir: &Path, words: &[&str]) -> (Exit, Value) {
        let dir = dir.display().to_string();
        let line = ["doorward", "policy", "replay", "--dir", &dir].into_iter().chain(words.iter().copied());
        let Command::Policy(PolicyCommand::Replay(args)) = Arguments::try_parse_from(line).unwrap().command else {
            panic!("another command")
        };
        let (context, out) = self.context(Format::Json);
        match replay::run(&context, &args).await {
            Ok(()) => (Exit::Done, serde_json::from_str(&out.text()).unwrap()),
            Err(failure) if failure.is_silent() => (failure.exit, serde_json::from_str(&out.text()).unwrap()),
            Err(failure) => (failure.exit, failure.lines().into()),
        }
    }
}

/// A copy of the door's policies, one of whose files is another.
fn copy(door: &Door, file: &str, text: &str) -> tempfile::TempDir {
    let folder = temporary_folder();
    for service in ["app", "web", "rpc"] {
        std::fs::create_dir(folder.path().join(service)).unwrap();
        for name in ["service.toml", "access.cedar"] {
            let name = format!("{service}/{name}");
            std::fs::copy(door.dir.join("policies").join(&name), folder.path().join(&name)).unwrap();
        }
    }
    std::fs::write(folder.path().join("global.cedar"), GLOBAL).unwrap();
    std::fs::write(folder.path().join(file), text).unwrap();
    folder
}

/// `change who path count` of every row.
fn rows(answer: &Value) -> Vec<Value> {
    let row = |item: &Value| {
        json!([item["change"], item["principal"]["id"], item["request"]["path"], item["count"], item["now"]])
    };
    let mut rows: Vec<Value> = answer["items"].as_array().unwrap().iter().map(row).collect();
    rows.sort_by_key(Value::to_string);
    rows
}

#[test]
fn the_past_of_a_door_is_judged_anew_by_those_who_may_read_it() {
    for database in databases() {
        with_door(plan(Some(database)), async |door| {
            let (alice, dave) = (door.sign_in("alice").await, door.sign_in("dave").await);
            let carol = Terminal::of(door, "carol").await;
            let mut client = door.client("app", Some(&alice), Speaks::Http2).await;
            let mut decisions = Vec::new();
            for path in ["/x", "/x", "/admin/x"] {
                decisions.push(client.get(path).await.decision());
            }
            let mut client = door.client("app", Some(&dave), Speaks::Http1).await;
            decisions.push(client.get("/x").await.decision());
            let now = door.clock.now();
            door.running().shared.directory.grant_enter(&grant(&dave, now, now.plus(Ttl::hours(1))));
            let granted = client.get("/granted").await;
            assert_eq!(granted.status, 200);
            decisions.push(granted.decision());
            // Nobody is identified, and no policy asked.
            decisions.push(door.get("web", None, Speaks::Http2, "/x").await.decision());
            for decision in decisions {
                door.recorded(decision).await;
            }

            let same = copy(door, "groups.toml", "[group.nobody]\nmembers = []\n");
            let (exit, answer) = carol.replay(same.path(), &["--since", "1h", "--exit-code"]).await;
            assert_eq!(exit, Exit::Done, "{answer}");
            assert_eq!(answer["summary"]["unchanged"], 5, "{answer}");
            assert_eq!(answer["summary"]["not_replayable"], json!({}));
            assert_eq!(answer["summary"]["not_policy"], json!({ "no_credential": 1 }));

            // Administration opens to engineers, and the rest closes for them.
            let [engineering, security] = ["engineering", "security"].map(|group| format!("Group::\"{group}\""));
            let swapped = POLICY.replace(&engineering, "§").replace(&security, &engineering).replace('§', &security);
            let turned = copy(door, "app/access.cedar", &format!("{swapped}{GRANTED}"));
            let (exit, answer) = carol.replay(turned.path(), &["--since", "1h", "--exit-code"]).await;
            assert_eq!(exit, Exit::Failed);
            assert_eq!(
                rows(&answer),
                [
                    json!(["gain", "dev|alice", "/admin/x", 1, "allowed"]),
                    json!(["lose", "dev|alice", "/x", 2, "no_policy_match"]),
                ]
            );
            assert_eq!(answer["items"][1]["policies"], json!(["security-administers"]));
            let (_, one) = carol.replay(turned.path(), &["--since", "1h", "--limit", "2"]).await;
            assert_eq!(one["summary"]["replayed"].as_u64().unwrap() + 1, 2, "the newest is nobody's: {one}");
            let (_, other) = carol.replay(turned.path(), &["--since", "1h", "--service", "web"]).await;
            assert_eq!(other["summary"]["replayed"], 0);

            // Without the entitlement's policy the grant opens nothing.
            let ungranted = GRANTED.split_once('\n').unwrap().1;
            let closed = copy(door, "app/access.cedar", &format!("{POLICY}{ungranted}"));
            let (_, answer) = carol.replay(closed.path(), &["--since", "1h"]).await;
            assert_eq!(rows(&answer), [json!(["lose", "dev|dave", "/granted", 1, "no_policy_match"])]);

            let engineer = Terminal::of(door, "alice").await;
            assert_eq!(engineer.replay(same.path(), &["--since", "1h"]).await.0, Exit::Denied);
        });
    }
}

#[test]
fn a_sign_in_from_before_the_time_is_found_and_its_groups_are_those_of_that_moment() {
    // Time is moved further than revocations may go unconfirmed.
    let lines = "on_stale = \"continue\"".to_owned();
    with_door(Plan { lines, ..plan(None) }, async |door| {
        let alice = door.sign_in("alice").await;
        let carol = Terminal::of(door, "carol").await;
        // Less than the provider is left alone for: it would give the groups back.
        door.clock.advance(Ttl::minutes(12));
        let mut client = door.client("app", Some(&alice), Speaks::Http2).await;
        let before = client.get("/before").await;
        assert_eq!(before.status, 200);
        let desk = &door.running().desk;
        let stored = desk.store.session_fetch(alice.session).await.unwrap().unwrap();
        let groups = ["security".to_owned()];
        door.clock.advance(Ttl::millis(5));
        let changed = session::groups_replace(desk, stored.link.as_deref().unwrap(), &groups, desk.clock.now()).await;
        assert_eq!(changed.unwrap(), 2, "the browser's session and the one that came from it");
        door.clock.advance(Ttl::millis(5));
        let after = client.get("/after").await;
        assert_eq!(after.status, 403);
        for got in [before, after] {
            door.recorded(got.decision()).await;
        }
        let same = copy(door, "groups.toml", "[group.nobody]\nmembers = []\n");
        let (_, answer) = carol.replay(same.path(), &["--since", "10m"]).await;
        assert_eq!((&answer["summary"]["unchanged"], &answer["items"]), (&json!(2), &json!([])), "{answer}");
    });
}
