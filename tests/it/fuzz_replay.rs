//! The corpora of the fuzz targets on stable, each input also cut, shifted and changed at random: what
//! was found once is never lost again, and what libFuzzer looks for is looked for a little with every run.
//! `DOORWARD_TEST_CASES` makes it longer, `DOORWARD_TEST_SEED` another.

use std::path::Path;

use doorward::model::Entropy;

use crate::support::{SeededEntropy, install_crypto};

#[path = "../fuzz/src/targets.rs"]
mod targets;
#[path = "../fuzz/src/whole.rs"]
mod whole;

/// What readers stumble over, put in anywhere.
const PIECES: &[&[u8]] = &[
    b"",
    b"\0",
    b"\r\n",
    b"\n",
    b" ",
    b"\t",
    b"\"",
    b"\\",
    b"%2e",
    b"%00",
    b"..",
    b"//",
    b";",
    b":",
    b"=",
    b".",
    b"-1",
    b"0",
    b"18446744073709551616",
    b"9223372036854775807",
    b"1e999",
    b"null",
    b"true",
    b"[]",
    b"{}",
    b"[[[[[[[[[[[[[[[[",
    b"\xff\xfe",
    b"\xc0\xae",
    b"\xe2\x80\xae",
    b"\xf0\x9f\x92\xa9",
    b"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA",
    b"\xff\xff\xff\xff",
    b"\x00\x00\x00\x00",
    b"\x80\x80\x80\x80\x00",
];

/// Numbers that follow from a seed.
struct Chance(SeededEntropy);

impl Chance {
    fn below(&self, limit: usize) -> usize {
        let mut bytes = [0; 8];
        self.0.fill(&mut bytes);
        usize::try_from(u64::from_le_bytes(bytes) % u64::try_from(limit.max(1)).unwrap()).unwrap()
    }

    /// An input a few steps away from `data`, some of them towards `other`.
    fn changed(&self, data: &[u8], other: &[u8]) -> Vec<u8> {
        let mut bytes = data.to_vec();
        for _ in 0..=self.below(4) {
            let (at, until) = (self.below(bytes.len() + 1), self.below(bytes.len() + 1));
            let (from, to) = (at.min(until), at.max(until));
            match self.below(7) {
                0 if from < bytes.len() => bytes[from] ^= 1 << self.below(8),
                1 if from < bytes.len() => bytes[from] = u8::try_from(self.below(256)).unwrap(),
                2 => drop(bytes.drain(from..to.min(from + 16))),
                3 => {
                    let twice = bytes[from..to.min(from + 64)].to_vec();
                    bytes.splice(from..from, twice);
                }
                4 => {
                    let start = self.below(other.len() + 1);
                    let piece = other[start..other.len().min(start + 32)].to_vec();
                    bytes.splice(from..to.min(from + 32), piece);
                }
                _ => {
                    let piece = PIECES[self.below(PIECES.len())];
                    bytes.splice(from..to.min(from + self.below(4)), piece.iter().copied());
                }
            }
        }
        bytes
    }
}

/// Runs a target on its corpus and on `cases` changed inputs.
fn replay(name: &str, target: fn(&[u8]), cases: usize) {
    install_crypto();
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz/corpus").join(name);
    let mut entries: Vec<_> = std::fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    entries.sort();
    let inputs: Vec<Vec<u8>> = entries.iter().map(|path| std::fs::read(path).unwrap()).collect();
    assert!(!inputs.is_empty(), "there is nothing in {}", folder.display());
    for data in &inputs {
        target(data);
    }
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let seed = number("DOORWARD_TEST_SEED").unwrap_or(26);
    let times = number("DOORWARD_TEST_CASES").map_or(1, |cases| usize::try_from(cases).unwrap().div_ceil(100));
    let chance = Chance(SeededEntropy::new(seed));
    for case in 0..cases * times {
        let data = &inputs[chance.below(inputs.len())];
        let changed = match case % 8 {
            // Shorter and shifted ones are inputs too.
            0 => data[chance.below(data.len() + 1)..].to_vec(),
            1 => data[..chance.below(data.len() + 1)].to_vec(),
            _ => chance.changed(data, &inputs[chance.below(inputs.len())]),
        };
        let outcome = std::panic::catch_unwind(|| target(&changed));
        assert!(outcome.is_ok(), "{name}, seed {seed}, case {case}: {:?}", changed.escape_ascii().to_string());
    }
}

#[test]
fn a26_the_corpus_of_guard_h1_still_holds() {
    replay("guard_h1", targets::guard_h1, 20_000);
}

#[test]
fn a26_the_corpus_of_guard_h2_still_holds() {
    replay("guard_h2", targets::guard_h2, 20_000);
}

#[test]
fn a26_the_corpus_of_canonical_still_holds() {
    replay("canonical", targets::canonical_target, 20_000);
}

#[test]
fn a26_the_corpus_of_breakglass_still_holds() {
    replay("breakglass", targets::breakglass, 2_000);
}

#[test]
fn a26_the_corpus_of_hygiene_still_holds() {
    replay("hygiene", targets::hygiene, 10_000);
}

#[test]
fn a26_the_corpus_of_cookie_still_holds() {
    replay("cookie", whole::cookie, 20_000);
}

#[test]
fn a26_the_corpus_of_token_still_holds() {
    replay("token", whole::token, 5_000);
}

#[test]
fn a26_the_corpus_of_proof_still_holds() {
    replay("proof", whole::proof, 3_000);
}

#[test]
fn a26_the_corpus_of_certificate_still_holds() {
    replay("certificate", whole::certificate, 10_000);
}

#[test]
fn a26_the_corpus_of_service_toml_still_holds() {
    replay("service_toml", whole::service_toml, 300);
}

#[test]
fn a26_the_corpus_of_cedar_context_still_holds() {
    replay("cedar_context", whole::cedar_context, 500);
}

#[test]
fn a26_the_corpus_of_audit_leaf_still_holds() {
    replay("audit_leaf", whole::audit_leaf, 5_000);
}
