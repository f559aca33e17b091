//! The tree over a log: hashes, tiles, proofs and notes, against the definitions of their documents.

use doorward::audit::checkpoint::Checkpoint;
use doorward::audit::merkle::{Frontier, Hash, Node, cover, empty_root, folded, leaf_hash, node_hash};
use doorward::audit::note::{Note, NoteKey, NoteSigner, split_notes};
use doorward::audit::proof::{consistency_ranges, inclusion_ranges, is_consistent, root_by_inclusion};
use doorward::audit::tile::{Edge, TILE_WIDTH, Tile};
use doorward::model::Secret;

/// MTH of RFC 9162 §2.1.1, as it is written there.
fn defined(leaves: &[Hash]) -> Hash {
    match leaves {
        [] => empty_root(),
        [one] => *one,
        many => {
            let half = many.len().next_power_of_two() / 2;
            node_hash(&defined(&many[..half]), &defined(&many[half..]))
        }
    }
}

fn leaves(count: usize) -> Vec<Hash> {
    (0..count).map(|number| leaf_hash(&number.to_be_bytes())).collect()
}

fn grown(leaves: &[Hash]) -> Frontier {
    let mut frontier = Frontier::default();
    leaves.iter().for_each(|leaf| frontier.push(*leaf));
    frontier
}

#[test]
fn a_growing_tree_has_the_root_of_the_definition() {
    let all = leaves(300);
    for size in 0..=300 {
        assert_eq!(grown(&all[..size]).root(), defined(&all[..size]), "{size}");
    }
    assert_eq!(
        data_encoding::HEXLOWER.encode(&empty_root()),
        "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    );
}

#[test]
fn left_part_leaves_and_right_part_lead_to_the_root() {
    let all = leaves(70);
    let of = |begin, end| -> Vec<Hash> {
        cover(begin, end)
            .iter()
            .map(|node| defined(&all[(node.index << node.level) as usize..((node.index + 1) << node.level) as usize]))
            .collect()
    };
    for from in 0..=70u64 {
        for to in from..=70 {
            let mut tree = Frontier::with_peaks(from, &of(0, from)).unwrap();
            all[from as usize..to as usize].iter().for_each(|leaf| tree.push(*leaf));
            for (node, hash) in cover(to, 70).iter().zip(of(to, 70)) {
                assert!(tree.push_node(node.level, hash));
            }
            assert_eq!((tree.size(), tree.root()), (70, defined(&all)), "{from}..{to}");
        }
    }
    assert_eq!(Frontier::with_peaks(3, &of(0, 4)), None);
}

#[test]
fn proofs_of_inclusion_and_consistency_hold_and_no_others() {
    let all = leaves(40);
    let hash = |(begin, end): (u64, u64)| defined(&all[begin as usize..end as usize]);
    for size in 1..=40u64 {
        let root = defined(&all[..size as usize]);
        for index in 0..size {
            let proof: Vec<Hash> = inclusion_ranges(index, size).unwrap().into_iter().map(hash).collect();
            assert_eq!(root_by_inclusion(index, size, &all[index as usize], &proof), Some(root));
            let mut long = proof.clone();
            long.push(root);
            assert_ne!(root_by_inclusion(index, size, &all[index as usize], &long), Some(root));
            if let Some((_, short)) = proof.split_last() {
                assert_ne!(root_by_inclusion(index, size, &all[index as usize], short), Some(root));
            }
        }
        for old in 1..=size {
            let before = defined(&all[..old as usize]);
            let proof: Vec<Hash> = consistency_ranges(old, size).unwrap().into_iter().map(hash).collect();
            assert!(is_consistent(old, &before, size, &root, &proof), "{old} of {size}");
            let other = leaf_hash(b"other");
            assert!(!is_consistent(old, &other, size, &root, &proof));
            assert!(old == size || !is_consistent(old, &before, size, &other, &proof));
        }
        assert_eq!((inclusion_ranges(size, size), consistency_ranges(0, size)), (None, None));
        assert_eq!(consistency_ranges(size + 1, size), None);
    }
}

#[test]
fn tiles_keep_the_edge_and_every_complete_subtree() {
    let all = leaves(70_000);
    let (mut edge, mut full) = (Edge::default(), Vec::new());
    for (count, leaf) in all.iter().enumerate() {
        let size = count as u64;
        if [0, 1, 255, 256, 257, 65_535, 65_536, 65_537, 69_999].contains(&size) {
            let mut tiles: Vec<Tile> = full.clone();
            tiles.extend(edge.partial());
            let again = Edge::of_tiles(size, &tiles).unwrap();
            assert_eq!(again.frontier(), edge.frontier(), "{size}");
            assert_eq!(edge.frontier().root(), grown(&all[..count]).root(), "{size}");
        }
        edge.push(*leaf, &mut full);
    }
    assert!(full.iter().all(|tile| tile.hashes.len() == TILE_WIDTH));
    let mut tiles = full;
    tiles.extend(edge.partial());
    for node in [
        Node { level: 0, index: 69_999 },
        Node { level: 5, index: 77 },
        Node { level: 8, index: 200 },
        Node { level: 12, index: 3 },
    ] {
        let id = doorward::audit::tile::tile_of(node);
        let tile = tiles.iter().find(|tile| tile.id == id).unwrap();
        let of = &all[(node.index << node.level) as usize..((node.index + 1) << node.level) as usize];
        assert_eq!(tile.node(node), Some(defined(of)), "{node:?}");
        assert_eq!(Tile::from_bytes(id, &tile.bytes()).as_ref(), Some(tile));
    }
    assert_eq!(folded(&edge.frontier().peaks()), edge.frontier().root());
}

fn signer(name: &str, seed: u8) -> NoteSigner {
    NoteSigner::of_seed(name, &Secret::new(vec![seed; 32])).unwrap()
}

#[test]
fn the_example_key_of_the_specification_is_read() {
    // C2SP signed-note and golang.org/x/mod/sumdb/note name keys in this form.
    let text = "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW";
    assert_eq!(NoteKey::parse(text).unwrap().to_string(), text);
    let note = "If you think cryptography is the answer to your problem,\n\
                then you don't know what your problem is.\n\n\
                — PeterNeumann x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZInNIuGUgYN1FFYC2pZSNXgKvqfqdngotpRZb6KE6RyyBwJnAM=\n";
    Note::parse(note).unwrap().verify(&NoteKey::parse(text).unwrap()).unwrap();
}

#[test]
fn a_note_with_one_byte_changed_is_none_of_the_keys() {
    let signer = signer("doorward-00/nod_1", 7);
    let checkpoint = Checkpoint { origin: "doorward-00/nod_1".into(), size: 1234, root: leaf_hash(b"x") };
    let note = checkpoint.sign(&signer);
    assert_eq!(Checkpoint::open(&note, signer.key()).unwrap(), checkpoint);
    for at in 0..note.len() {
        for bit in [1u8, 2, 4, 8, 16, 32, 64, 128] {
            let mut bytes = note.clone().into_bytes();
            bytes[at] ^= bit;
            if let Ok(text) = String::from_utf8(bytes) {
                assert!(Checkpoint::open(&text, signer.key()).is_err(), "byte {at}, bit {bit}: {text}");
            }
        }
    }
    assert!(Checkpoint::open(&note, self::signer("doorward-00/nod_1", 8).key()).is_err());
    assert!(NoteKey::parse(&format!("{} ", signer.key())).is_err());
}

#[test]
fn a_file_of_notes_is_divided_and_what_is_torn_is_named() {
    let signer = signer("doorward-00/nod_1", 7);
    let notes: Vec<String> = (1..5)
        .map(|size| Checkpoint { origin: "doorward-00/nod_1".into(), size, root: leaf_hash(&[1]) }.sign(&signer))
        .collect();
    let file = notes.concat();
    assert_eq!(split_notes(&file).unwrap(), notes.iter().map(String::as_str).collect::<Vec<_>>());
    assert_eq!(split_notes("").unwrap(), Vec::<&str>::new());
    let whole: Vec<usize> =
        (1..notes.len()).map(|count| notes[..count].iter().map(String::len).sum::<usize>()).collect();
    for length in 1..file.len() {
        let Some(cut) = file.get(..length) else { continue };
        assert_eq!(split_notes(cut).is_ok(), whole.contains(&length), "cut at {length}");
    }
}
