//! F14 as a property: whatever is done to one place of an export, `audit verify` says so and names the first
//! event that is not what it was; and what is done below a witnessed checkpoint by somebody who has every key
//! is found as well.

use std::fs;
use std::path::Path;
use std::sync::{Arc, OnceLock};

use doorward::audit::evidence::{Head, end_line};
use doorward::audit::filter::Filter;
use doorward::audit::line::check_line;
use doorward::audit::verify::{Anchor, Verifier};
use doorward::audit::{Event, Sealed};
use doorward::cli::args::{Format, GlobalArgs};
use doorward::cli::audit::{AuditCommand, VerifyArgs, run};
use doorward::cli::client::Banner;
use doorward::cli::context::Context;
use doorward::cli::environment::Environment;
use doorward::cli::exit::Exit;
use doorward::cli::printer::Printer;
use doorward::model::EventId;
use proptest::prelude::*;
use serde_json::Value;

use crate::audit_verify::{Exported, node};
use crate::cli::Written;
use crate::leaf::{decision, sealing};
use crate::support::{SeededEntropy, TestClock, sqlite_database, temporary_folder};

const EVENTS: usize = 60;

/// What is done to the file.
#[derive(Debug, Clone)]
enum Change {
    Byte { at: prop::sample::Index, xor: u8 },
    Delete(prop::sample::Index),
    Swap(prop::sample::Index, prop::sample::Index),
    Double(prop::sample::Index, prop::sample::Index),
    Cut(prop::sample::Index),
}

fn change() -> impl Strategy<Value = Change> {
    let any_index = any::<prop::sample::Index>;
    prop_oneof![
        6 => (any_index(), 1..=255u8).prop_map(|(at, xor)| Change::Byte { at, xor }),
        1 => any_index().prop_map(Change::Delete),
        1 => (any_index(), any_index()).prop_map(|(one, other)| Change::Swap(one, other)),
        1 => (any_index(), any_index()).prop_map(|(one, other)| Change::Double(one, other)),
        1 => any_index().prop_map(Change::Cut),
    ]
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

/// An export of one log in one file, line by line with line feeds, and what a witness has of it.
fn whole() -> &'static (Vec<String>, String) {
    static WHOLE: OnceLock<(Vec<String>, String)> = OnceLock::new();
    WHOLE.get_or_init(|| {
        runtime().block_on(async {
            let mut one = node(&sqlite_database(), 1).await;
            one.record(u16::try_from(EVENTS).unwrap()).await;
            let Exported { evidence, lines, .. } = one.export(&Filter::default()).await;
            let witnessed = evidence.checkpoints.concat();
            let head = Head { evidence }.line();
            let all = std::iter::once(head).chain(lines).chain([end_line(EVENTS as u64)]);
            (all.map(|line| format!("{line}\n")).collect(), witnessed)
        })
    })
}

/// How `audit verify` ends, and at which event.
fn verified(folder: &Path, bytes: &[u8]) -> (Exit, Option<u64>) {
    let (file, witness) = (folder.join("export.jsonl"), folder.join("witness"));
    fs::write(&file, bytes).unwrap();
    fs::write(&witness, &whole().1).unwrap();
    let (out, talk) = (Written::default(), Written::default());
    let context = Context {
        printer: Printer::new(Format::Json, false, Box::new(out.clone()), Box::new(talk)),
        environment: Environment::of(&[("DOORWARD_HOME", folder.to_str().unwrap())]),
        global: GlobalArgs { output: Format::Json, ..GlobalArgs::default() },
        clock: Arc::new(TestClock::new()),
        entropy: Arc::new(SeededEntropy::new(1)),
        banner: Banner::default(),
    };
    let args = VerifyArgs { target: file.to_str().unwrap().to_owned(), key: None, checkpoint: Some(witness) };
    let outcome = run(&context, AuditCommand::Verify(args));
    let told: Value = serde_json::from_str(&out.text()).unwrap_or_default();
    (outcome.err().map_or(Exit::Done, |failure| failure.exit), told["index"].as_u64())
}

/// The changed file, and the first event that is not what it was; none where it is not about an event.
fn changed(change: &Change) -> Option<(Vec<u8>, Option<u64>)> {
    let lines = &whole().0;
    let mut all: Vec<&str> = lines.iter().map(String::as_str).collect();
    // Event 0 is in line 1.
    let event = |line: usize| (1..=EVENTS).contains(&line).then(|| line as u64 - 1);
    let line_at = |at: usize| {
        let mut behind = 0;
        lines.iter().position(|line| {
            behind += line.len();
            at < behind
        })
    };
    match change {
        Change::Byte { at, xor } => {
            let mut bytes = lines.concat().into_bytes();
            let at = at.index(bytes.len());
            bytes[at] ^= xor;
            Some((bytes, line_at(at).and_then(event)))
        }
        Change::Delete(at) => {
            let at = 1 + at.index(EVENTS);
            all.remove(at);
            Some((all.concat().into_bytes(), event(at)))
        }
        Change::Swap(one, other) => {
            let (one, other) = (1 + one.index(EVENTS), 1 + other.index(EVENTS));
            all.swap(one, other);
            (one != other).then(|| (all.concat().into_bytes(), event(one.min(other))))
        }
        Change::Double(from, to) => {
            let (from, to) = (1 + from.index(EVENTS), 1 + to.index(EVENTS));
            all.insert(to, all[from]);
            // Beside itself, the second of the two is the one too many.
            Some((all.concat().into_bytes(), event(if to == from { to + 1 } else { to })))
        }
        Change::Cut(at) => {
            let text = lines.concat();
            let at = at.index(text.len());
            Some((text.as_bytes()[..at].to_vec(), line_at(at).and_then(event)))
        }
    }
}

#[test]
fn f14_an_export_that_was_not_touched_is_whole() {
    let folder = temporary_folder();
    assert_eq!(verified(folder.path(), whole().0.concat().as_bytes()), (Exit::Done, None));
}

#[test]
fn a_file_that_ends_within_its_last_line_is_cut_and_one_with_another_byte_there_is_altered() {
    let folder = temporary_folder();
    let bytes = whole().0.concat().into_bytes();
    let last = whole().0.last().unwrap().len();
    for cut in [1, 2, 10, last - 1, last] {
        assert_eq!(verified(folder.path(), &bytes[..bytes.len() - cut]).0, Exit::Passed(12), "{cut} bytes less");
    }
    // The line feed, a bracket, a digit; and what was put behind.
    for back in [1, 2, 4] {
        let mut flipped = bytes.clone();
        let at = flipped.len() - back;
        flipped[at] ^= 1;
        assert_eq!(verified(folder.path(), &flipped).0, Exit::Passed(10), "{back} from the end");
    }
    assert_eq!(verified(folder.path(), &[&bytes[..], b"{"].concat()).0, Exit::Passed(10));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn f14_every_change_of_one_place_is_found_and_the_first_bad_event_is_named(change in change()) {
        let Some((bytes, expected)) = changed(&change) else { return Ok(()) };
        let folder = temporary_folder();
        let (exit, index) = verified(folder.path(), &bytes);
        prop_assert!(matches!(exit, Exit::Passed(10..=13)), "{change:?}: {exit:?}");
        if expected.is_some() {
            prop_assert_eq!(index, expected, "{:?}: {:?}", change, exit);
        }
    }
}

/// What somebody with every key makes of the record.
#[derive(Debug, Clone)]
enum Rewriting {
    Change(usize),
    Delete(usize),
    Swap(usize),
    Double(usize),
    Cut(usize),
}

fn rewriting() -> impl Strategy<Value = (Rewriting, usize)> {
    let one = prop_oneof![
        (0..EVENTS).prop_map(Rewriting::Change),
        (0..EVENTS).prop_map(Rewriting::Delete),
        (0..EVENTS - 1).prop_map(Rewriting::Swap),
        (0..EVENTS).prop_map(Rewriting::Double),
        (1..EVENTS).prop_map(Rewriting::Cut),
    ];
    (one, 0..4usize)
}

fn event(number: usize) -> Event {
    let mut event = decision(u8::try_from(number).unwrap(), &format!("/{number}"));
    let mut bytes = *event.id.bytes();
    bytes[14..].copy_from_slice(&u16::try_from(number).unwrap().to_be_bytes());
    event.id = EventId::from_bytes(bytes);
    event
}

fn sealed(events: &[Event]) -> Vec<Sealed> {
    let sealing = sealing(1);
    events.iter().map(|event| sealing.seal(event)).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn f14_what_is_rewritten_below_a_witnessed_checkpoint_with_every_key_is_found((rewriting, more) in rewriting()) {
        let outcome = runtime().block_on(async {
            let honest: Vec<Event> = (0..EVENTS).map(event).collect();
            let mut one = node(&sqlite_database(), 1).await;
            one.keep(&sealed(&honest)).await;
            let witnessed = one.export(&Filter::default()).await.evidence.checkpoints;

            let mut other = honest;
            match rewriting {
                Rewriting::Change(at) => other[at].reason = Some("another".into()),
                Rewriting::Delete(at) => drop(other.remove(at)),
                Rewriting::Swap(at) => other.swap(at, at + 1),
                Rewriting::Double(at) => {
                    // An event is in the record once; a second one of it has another id.
                    let mut twice = other[at].clone();
                    twice.id = EventId::from_bytes([200; 16]);
                    other.insert(at, twice);
                }
                Rewriting::Cut(at) => other.truncate(at),
            }
            other.extend((EVENTS..EVENTS + more).map(event));
            // The same seeds give the same keys.
            let mut two = node(&sqlite_database(), 1).await;
            let size = two.keep(&sealed(&other)).await;
            let Exported { evidence, lines, .. } = two.export(&Filter::default()).await;
            let verify = |witnessed: Vec<String>| {
                let mut verifier = Verifier::new(&evidence, &Anchor { key: None, witnessed })?;
                lines.iter().try_for_each(|line| verifier.take(check_line(line)))?;
                verifier.end()
            };
            // The node's own; the installation's is of the same keys and sizes.
            (size, verify(Vec::new()), verify(witnessed[1..].to_vec()))
        });
        let (size, alone, anchored) = outcome;
        prop_assert!(alone.is_ok(), "by itself it holds: {alone:?}");
        let code = anchored.as_ref().err().map(doorward::audit::verify::Fault::code);
        prop_assert_eq!(code, Some(if size < EVENTS as u64 { 12 } else { 13 }), "{:?}", anchored);
    }
}
