//! The rules of the house that a compiler does not check: which room may import which, how files
//! are named, opened and sized, what may stand at the top level, and what must never be in the
//! repository or in the graph of compiled crates. Follows DESIGN §2 and STYLE.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

/// Room → rooms that it may import. The same table as DESIGN §2.
const TABLE: &[(&str, &str)] = &[
    ("model", ""),
    ("policy", "model"),
    ("audit", "model"),
    ("store", "model policy audit"),
    ("outbound", "model"),
    ("identity", "model store outbound"),
    ("notify", "model store outbound"),
    ("credential", "model"),
    ("control", "model policy audit store identity credential notify"),
    ("gateway", "model policy audit store identity credential control"),
    ("wire", "model"),
    ("api", "model wire policy audit identity control"),
    ("console", "model wire policy audit identity control"),
    ("config", "model"),
    ("server", "model policy audit store outbound identity notify credential control gateway wire api console config"),
    ("cli", "model wire policy audit identity credential outbound config server"),
];

/// `config/` parses once into each room's own settings: of any room it may name what is called so.
const SETTINGS_ONLY: &str = "config";

/// What may stand at the top level, beside dotted tool files.
const TOP_LEVEL: &str = "Cargo.toml Cargo.lock src policies migrations certs tests deploy \
                         README.md LICENSE SECURITY.md CHANGELOG.md";

const BANNED_NAMES: &[&str] = &["util", "utils", "common", "helper", "helpers", "misc", "base", "manager"];

/// Where a file must be split.
const LINES_MAX: usize = 600;

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// Paths below the root, as git lists them; of a source tree without git, all that is not built.
fn tracked() -> Vec<PathBuf> {
    if !root().join(".git").exists() {
        let mut files = Vec::new();
        walk(&root(), &mut files);
        return files;
    }
    let output = Command::new("git")
        .args(["-c", "safe.directory=*", "ls-files", "-z", "--cached", "--others", "--exclude-standard"])
        .current_dir(root())
        .output()
        .expect("git starts");
    assert!(output.status.success(), "git ls-files: {}", String::from_utf8_lossy(&output.stderr));
    let listed = String::from_utf8(output.stdout).unwrap();
    let files = listed.split_terminator('\0').map(PathBuf::from);
    // A file that was removed but not yet committed is still listed.
    files.filter(|file| root().join(file).is_file()).collect()
}

fn walk(folder: &Path, files: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).unwrap().flatten() {
        let (path, name) = (entry.path(), entry.file_name());
        if path.is_dir() {
            if name != "target" && name != "node_modules" {
                walk(&path, files);
            }
        } else {
            files.push(path.strip_prefix(root()).unwrap().to_owned());
        }
    }
}

fn text(file: &Path) -> String {
    std::fs::read_to_string(root().join(file)).unwrap()
}

fn rust_files(under: &str) -> Vec<PathBuf> {
    let files: Vec<_> =
        tracked().into_iter().filter(|f| f.starts_with(under) && f.extension().is_some_and(|e| e == "rs")).collect();
    assert!(!files.is_empty(), "there are Rust files under `{under}`");
    files
}

fn report(faults: &[String]) {
    assert!(faults.is_empty(), "{} fault(s):\n  {}", faults.len(), faults.join("\n  "));
}

/// A word or one sign of Rust source, with its line; comments, strings and characters are left out.
fn tokens(source: &str) -> Vec<(usize, String)> {
    let chars: Vec<char> = source.chars().collect();
    let at = |i: usize| chars.get(i).copied().unwrap_or('\0');
    let (mut found, mut i, mut line) = (Vec::new(), 0, 1);
    while i < chars.len() {
        let start = i;
        let c = at(i);
        if c == '/' && at(i + 1) == '/' {
            while i < chars.len() && at(i) != '\n' {
                i += 1;
            }
        } else if c == '/' && at(i + 1) == '*' {
            let mut depth = 0;
            while i < chars.len() {
                match (at(i), at(i + 1)) {
                    ('/', '*') => (depth, i) = (depth + 1, i + 2),
                    ('*', '/') => (depth, i) = (depth - 1, i + 2),
                    _ => i += 1,
                }
                if depth == 0 {
                    break;
                }
            }
        } else if let Some(hashes) = raw_string(&chars, i) {
            let close: String = std::iter::once('"').chain(std::iter::repeat_n('#', hashes)).collect();
            while at(i) != '"' {
                i += 1;
            }
            i += 1;
            while i < chars.len() && !close.chars().enumerate().all(|(k, c)| at(i + k) == c) {
                i += 1;
            }
            i += close.len();
        } else if c == '"' {
            i += 1;
            while i < chars.len() && at(i) != '"' {
                i += if at(i) == '\\' { 2 } else { 1 };
            }
            i += 1;
        } else if c == '\'' && (at(i + 1) == '\\' || at(i + 2) == '\'') {
            // A character; a lifetime is neither escaped nor closed after one.
            i += if at(i + 1) == '\\' { 3 } else { 2 };
            while i < chars.len() && at(i) != '\'' {
                i += 1;
            }
            i += 1;
        } else if c.is_alphanumeric() || c == '_' {
            while at(i).is_alphanumeric() || at(i) == '_' {
                i += 1;
            }
            found.push((line, chars[start..i].iter().collect()));
        } else {
            i += 1;
            if c == ':' && at(i) == ':' {
                i += 1;
                found.push((line, "::".to_owned()));
            } else if !c.is_whitespace() {
                found.push((line, c.to_string()));
            }
        }
        line += chars[start..i.min(chars.len())].iter().filter(|c| **c == '\n').count();
    }
    found
}

/// The number of `#` when a raw string (`r"`, `br#"` …) starts at `i`.
fn raw_string(chars: &[char], i: usize) -> Option<usize> {
    let before = i.checked_sub(1).map_or(' ', |k| chars[k]);
    let rest = &chars[i..];
    let rest = if rest.first() == Some(&'b') { &rest[1..] } else { rest };
    if before.is_alphanumeric() || before == '_' || rest.first() != Some(&'r') {
        return None;
    }
    let hashes = rest[1..].iter().take_while(|c| **c == '#').count();
    (rest.get(1 + hashes) == Some(&'"')).then_some(hashes)
}

/// Every path that the tokens after `crate ::` spell, groups taken apart: `{a::B, c}` is two.
fn paths(tokens: &[(usize, String)], prefix: &[String], found: &mut Vec<Vec<String>>) -> usize {
    let is = |i: usize, sign: &str| tokens.get(i).is_some_and(|t| t.1 == sign);
    let mut path = prefix.to_vec();
    let mut i = 0;
    loop {
        if is(i, "{") {
            i += 1;
            while i < tokens.len() && !is(i, "}") {
                i += paths(&tokens[i..], &path, found);
                while i < tokens.len() && !is(i, ",") && !is(i, "}") {
                    i += 1; // `as Name`
                }
                i += usize::from(is(i, ","));
            }
            return i + 1;
        }
        let word = tokens.get(i).map(|t| t.1.clone()).unwrap_or_default();
        if word.chars().next().is_some_and(|c| c.is_alphanumeric() || c == '_' || c == '*') {
            path.push(word);
            i += 1;
        }
        if is(i, "::") {
            i += 1;
        } else {
            found.push(path);
            return i;
        }
    }
}

/// What in `source`, a file of `room` whose module lies `depth` below the crate, breaks the table.
fn import_faults(room: &str, depth: usize, source: &str) -> Vec<String> {
    let table: BTreeMap<_, _> = TABLE.iter().copied().collect();
    let tokens = tokens(source);
    let mut faults = Vec::new();
    let mut supers = 0;
    for (i, (line, word)) in tokens.iter().enumerate() {
        match word.as_str() {
            "super" => supers += 1,
            "::" => {}
            _ => supers = 0,
        }
        if supers >= depth && word == "super" {
            faults.push(format!("{line}: `super` reaches out of the room: write `crate::`"));
        }
        if word != "crate" || tokens.get(i + 1).is_none_or(|next| next.1 != "::") {
            continue;
        }
        let mut found = Vec::new();
        paths(&tokens[i + 2..], &[], &mut found);
        for path in found {
            let Some(target) = path.first().map(String::as_str) else { continue };
            if target == "*" {
                faults.push(format!("{line}: `crate::*` hides what is imported"));
            }
            let settings = path.iter().any(|part| part.ends_with("Settings") || part == "settings");
            let allowed = target == room
                || !table.contains_key(target)
                || table[room].split(' ').any(|row| row == target)
                || (room == SETTINGS_ONLY && settings && target != "server" && target != "cli");
            if !allowed {
                faults.push(format!("{line}: `{room}` may not import `{}`", path.join("::")));
            }
        }
    }
    faults
}

#[test]
fn a_room_imports_only_the_rooms_of_its_row() {
    let rooms: BTreeSet<_> = TABLE.iter().map(|row| row.0).collect();
    let mut faults = Vec::new();
    for file in rust_files("src") {
        let parts: Vec<_> = file.iter().map(|part| part.to_str().unwrap()).collect();
        let [_, room, rest @ ..] = parts.as_slice() else { continue };
        if rest.is_empty() {
            if !["lib.rs", "main.rs"].contains(room) {
                faults.push(format!("{}: a file of `src` belongs into a room", file.display()));
            }
            continue;
        }
        if !rooms.contains(room) {
            faults.push(format!("{}: the room `{room}` has no row in the table", file.display()));
            continue;
        }
        let depth = parts.len() - 1 - usize::from(rest.last() == Some(&"mod.rs"));
        faults
            .extend(import_faults(room, depth, &text(&file)).iter().map(|fault| format!("{}:{fault}", file.display())));
    }
    report(&faults);
}

#[test]
fn the_reader_of_imports_sees_every_spelling() {
    let bad = [
        "use crate::store::Store;",
        "use crate::{model::Ttl, store::{Store, Tx}};",
        "use crate::{model::{self, Ttl}, gateway};",
        "fn f() -> crate::store::Store { todo() }",
        "macro_rules! m { () => { $crate::control::f() } }",
        "use super::super::store;",
        "/* r\" */ use crate::store::Store; // \"",
        "const A: char = '\"'; use crate::cli::Printer;",
        "const A: &str = r#\"a\"b\"#; use crate::api as b;",
        "fn f<'a>(x: &'a str) { crate::server::run(x) }",
        "use crate::*;",
    ];
    for source in bad {
        assert_ne!(import_faults("policy", 2, source), Vec::<String>::new(), "{source}");
    }
    let good = [
        "use crate::model::{Ttl, Timestamp as Time}; use crate::policy::Verdict; use super::set::PolicySet;",
        "// use crate::store::Store;",
        "const A: &str = \"crate::store::Store\";",
        "pub(in crate::policy) fn f() {} pub(crate) fn g() {}",
    ];
    for source in good {
        assert_eq!(import_faults("policy", 2, source), Vec::<String>::new(), "{source}");
    }
    assert_eq!(import_faults("config", 2, "use crate::gateway::Settings; use crate::policy::LoadSettings;").len(), 0);
    assert_eq!(import_faults("config", 2, "use crate::gateway::pipeline;").len(), 1);
}

#[test]
fn every_file_says_what_it_is_for_and_is_not_too_long() {
    let mut faults = Vec::new();
    for file in rust_files("src").into_iter().chain(rust_files("tests")) {
        let text = text(&file);
        let entry = file == Path::new("src/main.rs");
        if !entry && !text.starts_with("//! ") {
            faults.push(format!("{}: opens with `//!`: what it is for", file.display()));
        }
        let lines = text.lines().count();
        if file.starts_with("src") && lines > LINES_MAX {
            faults.push(format!("{}: {lines} lines; split it (at most {LINES_MAX})", file.display()));
        }
        let stem = file.file_stem().unwrap().to_str().unwrap();
        if BANNED_NAMES.contains(&stem) {
            faults.push(format!("{}: a name that says nothing", file.display()));
        }
    }
    report(&faults);
}

#[test]
fn an_exception_to_a_lint_is_expected_and_has_a_reason() {
    let mut faults = Vec::new();
    for file in rust_files("src") {
        let tokens = tokens(&text(&file));
        for (i, (line, word)) in tokens.iter().enumerate() {
            let opens = |at: usize, sign: &str| tokens.get(at).is_some_and(|t| t.1 == sign);
            let attribute = i > 0 && opens(i - 1, "[") && opens(i + 1, "(");
            if !attribute || (word != "allow" && word != "expect") {
                continue;
            }
            if word == "allow" {
                faults.push(format!(
                    "{}:{line}: `expect` instead of `allow`, so that it goes when it is not needed",
                    file.display()
                ));
            }
            let body = tokens[i..].iter().take_while(|t| t.1 != "]");
            if !body.into_iter().any(|t| t.1 == "reason") {
                faults.push(format!("{}:{line}: an exception without `reason = \"…\"`", file.display()));
            }
        }
    }
    report(&faults);
}

#[test]
fn the_top_level_is_as_designed() {
    let tops: BTreeSet<_> =
        tracked().iter().filter_map(|f| f.iter().next().and_then(|part| part.to_str().map(str::to_owned))).collect();
    let faults: Vec<_> = tops
        .iter()
        .filter(|top| !top.starts_with('.') && !TOP_LEVEL.split_whitespace().any(|known| known == *top))
        .cloned()
        .collect();
    report(&faults);
}

#[test]
fn no_private_key_and_no_path_of_a_machine_is_in_the_repository() {
    let mut faults = Vec::new();
    for file in tracked() {
        let Ok(text) = std::fs::read_to_string(root().join(&file)) else { continue };
        if holds_private_key(&text) {
            faults.push(format!("{}: a private key", file.display()));
        }
        for (number, line) in text.lines().enumerate() {
            if ["work", "root"].iter().any(|top| names_folder(line, top)) {
                faults.push(format!("{}:{}: a path of somebody's machine", file.display(), number + 1));
            }
        }
    }
    report(&faults);
}

#[test]
fn a_private_key_and_a_path_of_a_machine_would_be_seen() {
    let key = format!("-----BEGIN EC {}\n{}", "PRIVATE KEY-----", "MHcCAQEEIBase64".repeat(4));
    assert!(holds_private_key(&key));
    assert!(holds_private_key(&key.replace('\n', "\\n")), "in a string literal");
    assert!(!holds_private_key("assert!(pem.starts_with(\"-----BEGIN PRIVATE KEY-----\"))"));
    let path = format!("open(\"{}\")", ["", "root", "x"].join("/"));
    assert!(names_folder(&path, "root"));
    assert!(!names_folder("https://example.com/root/x and target/root/x", "root"));
}

/// Whether a PEM head of a private key is followed by what could be one.
fn holds_private_key(text: &str) -> bool {
    text.split("-----BEGIN ").skip(1).any(|rest| {
        let Some((label, body)) = rest.split_once("-----") else { return false };
        let body = body.trim_start_matches(['\\', 'n', 'r', '\n', '\r', ' ', '"']);
        let encoded = body.chars().take_while(|c| c.is_ascii_alphanumeric() || "+/=".contains(*c)).count();
        label.ends_with("PRIVATE KEY") && encoded >= 32
    })
}

/// Whether the line names something below `/<top>/` as an absolute path.
fn names_folder(line: &str, top: &str) -> bool {
    let folder = format!("/{top}/");
    line.match_indices(&folder).any(|(at, _)| {
        let before = line[..at].chars().next_back().unwrap_or(' ');
        !before.is_alphanumeric() && !"._-*}>/".contains(before)
    })
}

/// The names of all crates that are compiled into the program, on any platform.
fn compiled() -> BTreeSet<String> {
    let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned());
    let output = Command::new(cargo)
        .args(["tree", "--locked", "--target", "all", "--edges", "normal,build", "--prefix", "none", "--format", "{p}"])
        .current_dir(root())
        .output()
        .expect("cargo starts");
    assert!(output.status.success(), "cargo tree: {}", String::from_utf8_lossy(&output.stderr));
    let listed = String::from_utf8(output.stdout).unwrap();
    listed.lines().filter_map(|line| line.split(' ').next().map(str::to_owned)).collect()
}

#[test]
fn one_tls_one_provider_of_cryptography_and_one_http_client_are_compiled() {
    let compiled = compiled();
    for wanted in ["doorward", "rustls", "aws-lc-rs", "hyper"] {
        assert!(compiled.contains(wanted), "the list of compiled crates names `{wanted}`, else it is not the list");
    }
    for banned in ["ring", "openssl", "openssl-sys", "native-tls", "reqwest"] {
        assert!(
            !compiled.contains(banned),
            "`{banned}` is compiled: `cargo tree -i {banned} --target all -e normal,build` says why"
        );
    }
}
