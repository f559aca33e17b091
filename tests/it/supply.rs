//! What is built into the program comes from where it should, under licences that may be used, in
//! versions without known holes, and is listed (a67). `.deny.toml` says the same to cargo-deny, which
//! not every machine has.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::process::Command;

use serde_json::Value;

const CRATES_IO: &str = "registry+https://github.com/rust-lang/crates.io-index";

/// The oldest versions without a hole that we know of (ATTACKS, version floors).
const FLOORS: &[(&str, &str)] = &[
    ("h2", "0.4.16"),
    ("rustls", "0.23.18"),
    ("rustls-webpki", "0.103.13"),
    ("aws-lc-sys", "0.39.0"),
    ("jsonwebtoken", "10.3.0"),
    ("sqlx", "0.8.1"),
    ("tracing-subscriber", "0.3.20"),
    ("bytes", "1.11.1"),
];

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: &str) -> toml::Table {
    std::fs::read_to_string(root().join(path)).unwrap().parse().unwrap()
}

fn cargo(arguments: &[&str]) -> Vec<u8> {
    let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned());
    let output = Command::new(cargo).args(arguments).current_dir(root()).output().expect("cargo starts");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    output.stdout
}

/// Every package that is linked into the program or runs while it is built, on any platform.
fn compiled() -> Vec<Value> {
    let metadata: Value = serde_json::from_slice(&cargo(&["metadata", "--locked", "--format-version", "1"])).unwrap();
    let nodes: BTreeMap<&str, &Value> = metadata["resolve"]["nodes"]
        .as_array()
        .unwrap()
        .iter()
        .map(|node| (node["id"].as_str().unwrap(), node))
        .collect();
    let (mut reached, mut waiting) = (BTreeSet::new(), vec![metadata["resolve"]["root"].as_str().unwrap()]);
    while let Some(one) = waiting.pop() {
        if !reached.insert(one) {
            continue;
        }
        for edge in nodes[one]["deps"].as_array().unwrap() {
            if edge["dep_kinds"].as_array().unwrap().iter().any(|kind| kind["kind"] != "dev") {
                waiting.push(edge["pkg"].as_str().unwrap());
            }
        }
    }
    let all = metadata["packages"].as_array().unwrap();
    all.iter().filter(|package| reached.contains(package["id"].as_str().unwrap())).cloned().collect()
}

fn name(package: &Value) -> &str {
    package["name"].as_str().unwrap()
}

/// Whether an SPDX expression can be met with licences of the list; cargo's older `A/B` is `A OR B`.
fn is_allowed(expression: &str, allowed: &BTreeSet<&str>) -> bool {
    let text = expression.replace('/', " OR ").replace('(', " ( ").replace(')', " ) ");
    let words: Vec<&str> = text.split_whitespace().collect();
    let mut at = 0;
    let met = either(&words, &mut at, allowed);
    met && at == words.len()
}

fn either(words: &[&str], at: &mut usize, allowed: &BTreeSet<&str>) -> bool {
    let mut met = both(words, at, allowed);
    while words.get(*at) == Some(&"OR") {
        *at += 1;
        met |= both(words, at, allowed);
    }
    met
}

fn both(words: &[&str], at: &mut usize, allowed: &BTreeSet<&str>) -> bool {
    let mut met = one(words, at, allowed);
    while words.get(*at) == Some(&"AND") {
        *at += 1;
        met &= one(words, at, allowed);
    }
    met
}

fn one(words: &[&str], at: &mut usize, allowed: &BTreeSet<&str>) -> bool {
    let word = words.get(*at).copied().unwrap_or_default();
    *at += 1;
    if word == "(" {
        let met = either(words, at, allowed);
        assert_eq!(words.get(*at), Some(&")"), "{words:?}");
        *at += 1;
        return met;
    }
    if words.get(*at) == Some(&"WITH") {
        let exception = words.get(*at + 1).copied().unwrap_or_default();
        *at += 2;
        return allowed.contains(format!("{word} WITH {exception}").as_str());
    }
    allowed.contains(word)
}

#[test]
fn a67_licences_are_read_as_spdx_reads_them() {
    let allowed = BTreeSet::from(["MIT", "Apache-2.0 WITH LLVM-exception", "ISC"]);
    for good in ["MIT", "GPL-3.0 OR MIT", "MIT/GPL-3.0", "MIT AND ISC", "(GPL-3.0 OR MIT) AND ISC"] {
        assert!(is_allowed(good, &allowed), "{good}");
    }
    assert!(is_allowed("Apache-2.0 WITH LLVM-exception", &allowed));
    for bad in ["GPL-3.0", "MIT AND GPL-3.0", "Apache-2.0", "MIT WITH LLVM-exception", "(MIT OR ISC) AND GPL-3.0", ""] {
        assert!(!is_allowed(bad, &allowed), "{bad}");
    }
}

#[test]
fn a67_what_is_compiled_is_under_licences_that_may_be_used_and_from_one_source() {
    let deny = read(".deny.toml");
    let listed = deny["licenses"]["allow"].as_array().unwrap();
    let allowed: BTreeSet<&str> = listed.iter().map(|name| name.as_str().unwrap()).collect();
    let packages = compiled();
    assert!(packages.len() > 300, "{}", packages.len());
    let mut faults = Vec::new();
    for package in &packages {
        if name(package) != "doorward" && package["source"] != CRATES_IO {
            faults.push(format!("{} comes from {}", name(package), package["source"]));
        }
        match package["license"].as_str() {
            Some(licence) if is_allowed(licence, &allowed) => {}
            licence => faults.push(format!("{} is under {licence:?}: not in `.deny.toml`", name(package))),
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

#[test]
fn a67_the_lock_file_names_one_source_a_checksum_each_and_no_version_with_a_known_hole() {
    let version = |text: &str| -> Vec<u64> {
        let plain = text.split(['-', '+']).next().unwrap();
        plain.split('.').map(|part| part.parse().unwrap()).collect()
    };
    let mut seen = BTreeSet::new();
    for file in ["Cargo.lock", "tests/fuzz/Cargo.lock", "tests/fuzz/whole/Cargo.lock"] {
        for package in read(file)["package"].as_array().unwrap() {
            let (name, number) = (package["name"].as_str().unwrap(), package["version"].as_str().unwrap());
            if name.starts_with("doorward") {
                continue;
            }
            assert_eq!(package["source"].as_str(), Some(CRATES_IO), "{file}: {name}");
            assert_eq!(package["checksum"].as_str().map(str::len), Some(64), "{file}: {name}");
            if let Some((_, floor)) = FLOORS.iter().find(|(known, _)| *known == name) {
                assert!(version(number) >= version(floor), "{file}: {name} {number} is older than {floor}");
                seen.insert(name.to_owned());
            }
        }
    }
    let wanted: BTreeSet<String> = FLOORS.iter().map(|(name, _)| (*name).to_owned()).collect();
    assert_eq!(seen, wanted, "each floor is of something that is there");
}

#[test]
fn a67_the_bill_of_materials_lists_what_is_compiled_and_is_the_same_each_time() {
    let Ok(python) = Command::new("python3").args(["-c", "import tomllib"]).output() else {
        println!("python3 is missing: the bill of materials is not tried");
        return;
    };
    assert!(python.status.success(), "deploy/release/sbom.py needs Python 3.11: {python:?}");
    let bill = || {
        let script = root().join("deploy/release/sbom.py");
        let output = Command::new("python3").arg(script).env("SOURCE_DATE_EPOCH", "1795917600").output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        output.stdout
    };
    let first = bill();
    assert_eq!(first, bill(), "the same commit gives the same bytes");
    let bom: Value = serde_json::from_slice(&first).unwrap();
    assert_eq!((&bom["bomFormat"], &bom["specVersion"]), (&"CycloneDX".into(), &"1.6".into()));
    assert_eq!(bom["metadata"]["timestamp"], "2026-11-29T02:00:00Z");
    assert_eq!(bom["metadata"]["component"]["name"], "doorward");
    let listed: BTreeSet<(&str, &str)> = bom["components"]
        .as_array()
        .unwrap()
        .iter()
        .map(|it| (it["name"].as_str().unwrap(), it["version"].as_str().unwrap()))
        .collect();
    let packages = compiled();
    let built: BTreeSet<(&str, &str)> = packages
        .iter()
        .filter(|package| name(package) != "doorward")
        .map(|package| (name(package), package["version"].as_str().unwrap()))
        .collect();
    assert_eq!(listed, built);
    for component in bom["components"].as_array().unwrap() {
        assert_eq!(component["hashes"][0]["content"].as_str().unwrap().len(), 64, "{component}");
        assert!(component["licenses"][0]["expression"].is_string(), "{component}");
    }
    let reach: BTreeSet<&str> =
        bom["dependencies"].as_array().unwrap().iter().map(|it| it["ref"].as_str().unwrap()).collect();
    assert_eq!(reach.len(), built.len() + 1, "each has its place in the graph");
}
