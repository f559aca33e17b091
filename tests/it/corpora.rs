//! Published lists of attacks against our readers (a06, a41): lists that others keep, taken from a folder
//! that `DOORWARD_TEST_CORPORA` names, since they are not ours to ship. `tests/corpora/README.md` says
//! which, and `tests/run` gets those that Debian has. Without them only what we wrote down ourselves is
//! tried (`canonical.rs`, `return_to.rs`, `door/paths.rs`).

use std::path::PathBuf;

use doorward::control::return_to::ReturnTo;
use doorward::gateway::canonical::{PathRules, canonical};
use http::Request;

use crate::canonical::{as_a_lenient_upstream, as_a_strict_upstream};

/// The lines of all lists whose name has this word in it, of which there are so many at least; none, with a
/// note, where there is no such list.
fn lines(word: &str, least: usize) -> Option<Vec<String>> {
    let Some(folder) = std::env::var_os("DOORWARD_TEST_CORPORA").map(PathBuf::from) else {
        println!("note: left out; DOORWARD_TEST_CORPORA names no folder with published lists");
        return None;
    };
    let (mut found, mut lists) = (Vec::new(), 0);
    let mut waiting = vec![folder];
    while let Some(folder) = waiting.pop() {
        for entry in std::fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_string_lossy().to_lowercase();
            if path.is_dir() {
                waiting.push(path);
            } else if name.contains(word) && name.ends_with(".txt") {
                let text = String::from_utf8_lossy(&std::fs::read(&path).unwrap()).into_owned();
                found.extend(text.lines().map(str::to_owned));
                lists += 1;
            }
        }
    }
    if lists == 0 {
        println!("note: left out; there is no published list of a {word} in the folder");
        return None;
    }
    found.sort();
    found.dedup();
    assert!(found.len() >= least, "{} lines in {lists} lists of a {word}", found.len());
    Some(found)
}

#[test]
fn a06_no_line_of_a_published_traversal_list_is_read_in_two_ways() {
    let Some(lines) = lines("traversal", 500) else { return };
    let (mut taken, mut refused) = (0, 0);
    for line in &lines {
        let filled = line.replace("{FILE}", "etc/passwd").replace("\\x", "%");
        for target in [format!("/public/{filled}"), format!("/{filled}"), filled.clone(), format!("/x?file={filled}")] {
            let Ok(request) = Request::builder().uri(target.as_str()).header("host", "app").body(()) else {
                refused += 1;
                continue;
            };
            match canonical(&request, PathRules { encoded_slash: false }) {
                Err(_) => refused += 1,
                Ok(read) => {
                    taken += 1;
                    assert_eq!(as_a_lenient_upstream(&read.path), as_a_strict_upstream(&read.path), "{line:?}");
                    assert!(!read.path.split('/').any(|part| part == ".." || part == "."), "{line:?}");
                    let public = target.starts_with("/public/");
                    assert!(!public || read.path.starts_with("/public/"), "{line:?} left its folder: {}", read.path);
                }
            }
        }
    }
    println!("{} lines, {refused} refused, {taken} taken in one reading", lines.len());
    assert!(refused > lines.len(), "most of such a list is refused: {refused} of {}", lines.len());
}

#[test]
fn a41_no_line_of_a_published_redirect_list_leaves_the_host() {
    let Some(lines) = lines("redirect", 50) else { return };
    let here = url::Url::parse("https://doorward.example/signin").unwrap();
    let mut taken = 0;
    for line in &lines {
        let decoded = percent_encoding::percent_decode_str(line).decode_utf8_lossy().into_owned();
        for text in [line.clone(), decoded, format!("/{line}"), line.replace("{target}", "evil.example")] {
            let Some(kept) = ReturnTo::parse(&text) else { continue };
            taken += 1;
            let went = here.join(kept.as_str()).unwrap();
            assert_eq!(went.origin(), here.origin(), "{line:?} leads to {went}");
        }
    }
    println!("{} lines, {taken} spellings taken", lines.len());
}
