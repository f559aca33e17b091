//! The Merkle tree of a log (RFC 9162 §2.1): how leaves and nodes are hashed, and what is kept of a
//! tree to let it grow.
//!
//! INVARIANT: a leaf is hashed under 0x00 and a node under 0x01, so neither can pass for the other.
//! INVARIANT: the peaks of a frontier are the complete subtrees of its size, left to right, each
//! smaller than the one before it: nothing else of the tree is needed to append or to tell the root.

use sha2::{Digest, Sha256};

/// One hash of the tree.
pub type Hash = [u8; 32];

/// The hash of a leaf's bytes.
#[must_use]
pub fn leaf_hash(leaf: &[u8]) -> Hash {
    let mut hash = Sha256::new();
    hash.update([0]);
    hash.update(leaf);
    hash.finalize().into()
}

/// The hash of a node by its children's.
#[must_use]
pub fn node_hash(left: &Hash, right: &Hash) -> Hash {
    let mut bytes = [0u8; 65];
    let [prefix, rest @ ..] = &mut bytes;
    *prefix = 1;
    for (target, source) in rest.iter_mut().zip(left.iter().chain(right)) {
        *target = *source;
    }
    Sha256::digest(bytes).into()
}

/// The root of a tree without leaves.
#[must_use]
pub fn empty_root() -> Hash {
    Sha256::digest([]).into()
}

/// A complete subtree: 2^level leaves, of which the first has the number `index << level`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Node {
    /// Its height; a leaf's is 0.
    pub level: u8,
    /// Its number among the subtrees of that height.
    pub index: u64,
}

/// The fewest complete subtrees that cover the leaves `begin..end`, left to right.
#[must_use]
pub fn cover(begin: u64, end: u64) -> Vec<Node> {
    let mut nodes = Vec::new();
    let mut at = begin;
    while at < end {
        let fits = (end - at).ilog2();
        let level = fits.min(at.trailing_zeros());
        nodes.push(Node { level: u8::try_from(level).unwrap_or(63), index: at >> level });
        at += 1 << level;
    }
    nodes
}

/// The hash over subtrees that stand side by side, the last one the smallest: the root of a whole
/// tree by its peaks, or of any subtree by its cover.
#[must_use]
pub fn folded(hashes: &[Hash]) -> Hash {
    let mut from_right = hashes.iter().rev();
    let Some(last) = from_right.next() else {
        return empty_root();
    };
    from_right.fold(*last, |right, left| node_hash(left, &right))
}

/// A tree as far as it has grown.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Frontier {
    size: u64,
    peaks: Vec<(u8, Hash)>,
}

impl Frontier {
    /// The tree whose first `size` leaves have these peaks, left to right.
    #[must_use]
    pub fn with_peaks(size: u64, peaks: &[Hash]) -> Option<Self> {
        let nodes = cover(0, size);
        if nodes.len() != peaks.len() {
            return None;
        }
        let peaks = nodes.iter().zip(peaks).map(|(node, hash)| (node.level, *hash)).collect();
        Some(Self { size, peaks })
    }

    /// How many leaves it has.
    #[must_use]
    pub const fn size(&self) -> u64 {
        self.size
    }

    /// Appends a leaf by its hash.
    pub fn push(&mut self, leaf: Hash) {
        self.grow(0, leaf);
    }

    /// Appends a complete subtree of this height; says whether it fits where the tree ends.
    pub fn push_node(&mut self, level: u8, hash: Hash) -> bool {
        let fits = level < 63 && self.size.trailing_zeros() >= u32::from(level);
        if fits {
            self.grow(level, hash);
        }
        fits
    }

    fn grow(&mut self, level: u8, hash: Hash) {
        self.size += 1 << level;
        let (mut level, mut hash) = (level, hash);
        while let Some((below, left)) = self.peaks.last()
            && *below == level
        {
            hash = node_hash(left, &hash);
            level += 1;
            self.peaks.pop();
        }
        self.peaks.push((level, hash));
    }

    /// The peaks, left to right.
    #[must_use]
    pub fn peaks(&self) -> Vec<Hash> {
        self.peaks.iter().map(|(_, hash)| *hash).collect()
    }

    /// The tree's root.
    #[must_use]
    pub fn root(&self) -> Hash {
        folded(&self.peaks())
    }
}
