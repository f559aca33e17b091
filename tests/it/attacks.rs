//! The list of attack classes against the tests that are named after them: each class has a test, or a
//! reason why there is nothing to try.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// A01 to A72.
const CLASSES: std::ops::RangeInclusive<u32> = 1..=72;

/// Classes that may be without a test, and why.
const NOTHING_TO_TRY: &[(u32, &str)] = &[
    (11, "no service rewrites paths: what is judged is what is sent (a08, a09)"),
    (31, "no revocation lists are read: a session's end and a lock are asked on every request (a28, a53)"),
];

/// The classes that a test's name speaks of: `a06_a07_x` two, `a12_to_a17_x` six.
fn classes_of(name: &str) -> BTreeSet<u32> {
    let number = |part: &str| part.strip_prefix('a').filter(|rest| rest.len() == 2).and_then(|rest| rest.parse().ok());
    let parts: Vec<&str> = name.split('_').collect();
    let mut found = BTreeSet::new();
    for (at, part) in parts.iter().enumerate() {
        match (number(part), parts.get(at + 1), parts.get(at + 2).and_then(|next| number(next))) {
            (Some(from), Some(&"to"), Some(until)) => found.extend(from..=until),
            (Some(one), ..) => drop(found.insert(one)),
            (None, ..) if *part == "to" => {}
            _ => break,
        }
    }
    found
}

/// The names of all tests.
fn names(folder: &Path, found: &mut Vec<String>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            names(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let text = std::fs::read_to_string(&path).unwrap();
            let mut is_test = false;
            for line in text.lines().map(str::trim_start).filter(|line| !line.starts_with("//")) {
                // `#[test]` and `#[tokio::test…]`, with other attributes between it and the function.
                if line.starts_with("#[") {
                    is_test |= line.contains("test]") || line.contains("::test(");
                    continue;
                }
                let name = line.split("fn ").nth(1).and_then(|rest| rest.split('(').next());
                found.extend(name.filter(|_| is_test).map(str::to_owned));
                is_test = false;
            }
        }
    }
}

#[test]
fn every_attack_class_has_a_test_or_a_reason() {
    let mut all = Vec::new();
    names(&Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it"), &mut all);
    let mut tests: BTreeMap<u32, usize> = BTreeMap::new();
    for name in &all {
        for class in classes_of(name) {
            *tests.entry(class).or_default() += 1;
        }
    }
    let reason = |class: u32| NOTHING_TO_TRY.iter().find(|(known, _)| *known == class).map(|(_, why)| *why);
    let missing: Vec<u32> = CLASSES.filter(|class| !tests.contains_key(class) && reason(*class).is_none()).collect();
    assert!(missing.is_empty(), "no test is named after {missing:?}");
    let stale: Vec<u32> = tests.keys().copied().filter(|class| reason(*class).is_some()).collect();
    assert!(stale.is_empty(), "a reason is given why there is nothing to try, and there are tests: {stale:?}");
    assert!(tests.keys().all(|class| CLASSES.contains(class)), "{tests:?}");
    for class in CLASSES {
        println!("A{class:02} {} {}", tests.get(&class).copied().unwrap_or(0), reason(class).unwrap_or_default());
    }
}

/// `tests/faults` runs some of these by name, and a name that is nobody's runs nothing.
#[test]
fn every_test_that_the_faults_name_is_there() {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests");
    let mut all = Vec::new();
    names(&tests.join("it"), &mut all);
    let mut named = 0;
    for entry in std::fs::read_dir(tests.join("faults")).unwrap().flatten() {
        let is_path = |text: &&str| {
            text.split("::").nth(1).is_some_and(|name| !name.is_empty())
                && text.bytes().all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'_' | b':'))
        };
        let text = std::fs::read_to_string(entry.path()).unwrap_or_default();
        for path in text.split('"').filter(is_path) {
            let name = path.rsplit("::").next().unwrap();
            assert!(all.iter().any(|known| known == name), "{}: there is no test {path}", entry.path().display());
            named += 1;
        }
    }
    assert!(named > 10, "{named}");
}

#[test]
fn the_classes_of_a_name_are_read_as_they_are_meant() {
    let read = |name: &str| classes_of(name).into_iter().collect::<Vec<_>>();
    assert_eq!(read("a08_the_path_judged_is_the_path_sent"), [8]);
    assert_eq!(read("a06_a07_a08_no_spelling_of_a_path_gets_around_a_rule"), [6, 7, 8]);
    assert_eq!(read("a12_to_a16_a_message_that_can_be_read_in_two_ways"), [12, 13, 14, 15, 16]);
    assert_eq!(read("a_grant_of_a_job"), Vec::<u32>::new());
    assert_eq!(read("a34_a_token_of_a70"), [34]);
}
