//! The corpus of the fuzz targets, replayed on stable: what was found once is never lost again.

use std::path::Path;

#[path = "../fuzz/src/targets.rs"]
mod targets;

/// Runs a target on its corpus; gives how many inputs there were.
fn replay(name: &str, target: fn(&[u8])) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz/corpus").join(name);
    let mut inputs = 0;
    for entry in std::fs::read_dir(&folder).unwrap() {
        let data = std::fs::read(entry.unwrap().path()).unwrap();
        target(&data);
        // Shorter and shifted ones are inputs too.
        for place in 0..data.len().min(64) {
            target(&data[place..]);
            target(&data[..data.len() - place]);
        }
        inputs += 1;
    }
    assert!(inputs > 0, "there is nothing in {}", folder.display());
}

#[test]
fn a26_the_corpus_of_guard_h1_still_holds() {
    replay("guard_h1", targets::guard_h1);
}

#[test]
fn a26_the_corpus_of_guard_h2_still_holds() {
    replay("guard_h2", targets::guard_h2);
}

#[test]
fn a26_the_corpus_of_canonical_still_holds() {
    replay("canonical", targets::canonical_target);
}

#[test]
fn a59_the_corpus_of_breakglass_still_holds() {
    replay("breakglass", targets::breakglass);
}

#[test]
fn a26_the_corpus_of_hygiene_still_holds() {
    replay("hygiene", targets::hygiene);
}
