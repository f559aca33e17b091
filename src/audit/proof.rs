//! Proofs that a leaf is in a tree, and that one tree is the beginning of another (RFC 9162 §2.1.3
//! and §2.1.4): which subtrees they consist of, and how they are checked.
//!
//! INVARIANT: a check takes exactly as many hashes as its proof has; one too many or too few is no
//! proof.

use super::merkle::{Hash, node_hash};

/// Leaves `begin..end` whose hash a proof has.
pub type Range = (u64, u64);

/// The ranges whose hashes prove leaf `index` of a tree of `size`, from the leaf upwards. None when
/// there is no such leaf.
#[must_use]
pub fn inclusion_ranges(index: u64, size: u64) -> Option<Vec<Range>> {
    if index >= size {
        return None;
    }
    let mut ranges = Vec::new();
    let (mut begin, mut end) = (0, size);
    while end - begin > 1 {
        let middle = begin + split(end - begin);
        if index < middle {
            ranges.push((middle, end));
            end = middle;
        } else {
            ranges.push((begin, middle));
            begin = middle;
        }
    }
    ranges.reverse();
    Some(ranges)
}

/// The ranges whose hashes prove that the tree of size `old` is the beginning of that of size
/// `new`. None when it can't be: `old` is none, or larger.
#[must_use]
pub fn consistency_ranges(old: u64, new: u64) -> Option<Vec<Range>> {
    if old == 0 || old > new {
        return None;
    }
    let mut ranges = Vec::new();
    let (mut begin, mut end, mut whole) = (0, new, true);
    while end != old {
        let middle = begin + split(end - begin);
        if old <= middle {
            ranges.push((middle, end));
            end = middle;
        } else {
            ranges.push((begin, middle));
            begin = middle;
            whole = false;
        }
    }
    if !whole {
        ranges.push((begin, end));
    }
    ranges.reverse();
    Some(ranges)
}

/// The largest power of two below `size`.
const fn split(size: u64) -> u64 {
    if size < 2 { 0 } else { 1 << (size - 1).ilog2() }
}

/// The root that `proof` leads to from leaf `index`, in a tree of `size` (RFC 9162 §2.1.3.2).
#[must_use]
pub fn root_by_inclusion(index: u64, size: u64, leaf: &Hash, proof: &[Hash]) -> Option<Hash> {
    if index >= size {
        return None;
    }
    let (mut at, mut last) = (index, size - 1);
    let mut hash = *leaf;
    for other in proof {
        if last == 0 {
            return None;
        }
        if at & 1 == 1 || at == last {
            hash = node_hash(other, &hash);
            while at & 1 == 0 && at != 0 {
                at >>= 1;
                last >>= 1;
            }
        } else {
            hash = node_hash(&hash, other);
        }
        at >>= 1;
        last >>= 1;
    }
    (last == 0).then_some(hash)
}

/// Whether `proof` shows that the tree of size `old` with root `old_root` is the beginning of that
/// of size `new` with `new_root` (RFC 9162 §2.1.4.2).
#[must_use]
pub fn is_consistent(old: u64, old_root: &Hash, new: u64, new_root: &Hash, proof: &[Hash]) -> bool {
    if old == new {
        return proof.is_empty() && old_root == new_root;
    }
    if old == 0 || old > new {
        return false;
    }
    let mut rest = proof.iter();
    let (mut at, mut last) = (old - 1, new - 1);
    while at & 1 == 1 {
        at >>= 1;
        last >>= 1;
    }
    let first = if old.is_power_of_two() { Some(old_root) } else { rest.next() };
    let Some(first) = first else { return false };
    let (mut small, mut large) = (*first, *first);
    for other in rest {
        if last == 0 {
            return false;
        }
        if at & 1 == 1 || at == last {
            small = node_hash(other, &small);
            large = node_hash(other, &large);
            while at & 1 == 0 && at != 0 {
                at >>= 1;
                last >>= 1;
            }
        } else {
            large = node_hash(&large, other);
        }
        at >>= 1;
        last >>= 1;
    }
    last == 0 && small == *old_root && large == *new_root
}
