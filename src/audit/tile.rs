//! The tree in tiles of 256 hashes (C2SP tlog-tiles): tile (level, index) holds the hashes of the
//! complete subtrees of height 8·level from number 256·index on.
//!
//! INVARIANT: a tile that is full never changes; of each level at most the last one is not full.

use super::merkle::{Frontier, Hash, Node, folded};

/// Hashes of a full tile.
pub const TILE_WIDTH: usize = 256;
/// The height of a tile.
const TILE_HEIGHT: u8 = 8;
/// Levels that a tree can have: 2^56 leaves are more than there will be.
pub const LEVELS_MAX: u8 = 7;

/// A tile's place.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TileId {
    /// 0 for the tiles of leaf hashes.
    pub level: u8,
    /// Its number among those of its level.
    pub index: u64,
}

/// A tile and the hashes that it has so far.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tile {
    /// Where.
    pub id: TileId,
    /// What; at most [`TILE_WIDTH`].
    pub hashes: Vec<Hash>,
}

impl Tile {
    /// The hashes one after the other, as a tile is stored.
    #[must_use]
    pub fn bytes(&self) -> Vec<u8> {
        self.hashes.concat()
    }

    /// A stored tile; none when the bytes are not those of 1 to 256 hashes.
    #[must_use]
    pub fn from_bytes(id: TileId, bytes: &[u8]) -> Option<Self> {
        let (hashes, rest) = bytes.as_chunks::<32>();
        let right = rest.is_empty() && !hashes.is_empty() && hashes.len() <= TILE_WIDTH;
        right.then(|| Self { id, hashes: hashes.to_vec() })
    }

    /// The hash of a node below or in this tile, if the tile has all of it.
    #[must_use]
    pub fn node(&self, node: Node) -> Option<Hash> {
        let (id, first, count) = place(node);
        if id != self.id {
            return None;
        }
        self.hashes.get(first..first + count).map(|hashes| complete(hashes.to_vec()))
    }
}

/// The hash over 2^n hashes that stand side by side.
fn complete(mut hashes: Vec<Hash>) -> Hash {
    while hashes.len() > 1 {
        hashes = hashes.chunks(2).map(folded).collect();
    }
    folded(&hashes)
}

/// The tile that has a node.
#[must_use]
pub fn tile_of(node: Node) -> TileId {
    place(node).0
}

fn place(node: Node) -> (TileId, usize, usize) {
    let (level, height) = (node.level / TILE_HEIGHT, node.level % TILE_HEIGHT);
    let first = node.index << height;
    let within = usize::try_from(first % TILE_WIDTH as u64).unwrap_or(0);
    (TileId { level, index: first / TILE_WIDTH as u64 }, within, 1 << height)
}

/// The right edge of a tree: of each level the tile that is not full yet.
#[derive(Debug, Clone, Default)]
pub struct Edge {
    levels: Vec<Vec<Hash>>,
    frontier: Frontier,
}

impl Edge {
    /// The tiles that a tree of `size` has at its edge, with the number of hashes in each.
    #[must_use]
    pub fn tiles_of(size: u64) -> Vec<(TileId, usize)> {
        let mut tiles = Vec::new();
        let mut count = size;
        for level in 0..LEVELS_MAX {
            let rest = usize::try_from(count % TILE_WIDTH as u64).unwrap_or(0);
            count /= TILE_WIDTH as u64;
            if rest > 0 {
                tiles.push((TileId { level, index: count }, rest));
            }
        }
        tiles
    }

    /// The edge of a tree of `size`, by the tiles of [`Edge::tiles_of`] cut to those numbers.
    #[must_use]
    pub fn of_tiles(size: u64, tiles: &[Tile]) -> Option<Self> {
        let mut edge = Self::default();
        let wanted = Self::tiles_of(size);
        for (id, count) in wanted.iter().rev() {
            let tile = tiles.iter().find(|tile| tile.id == *id)?;
            let hashes = tile.hashes.get(..*count)?;
            while edge.levels.len() <= usize::from(id.level) {
                edge.levels.push(Vec::new());
            }
            for hash in hashes {
                if !edge.frontier.push_node(TILE_HEIGHT * id.level, *hash) {
                    return None;
                }
            }
            *edge.levels.get_mut(usize::from(id.level))? = hashes.to_vec();
        }
        (edge.frontier.size() == size).then_some(edge)
    }

    /// The tree.
    #[must_use]
    pub const fn frontier(&self) -> &Frontier {
        &self.frontier
    }

    /// Appends a leaf; tiles that became full are added to `full`.
    pub fn push(&mut self, leaf: Hash, full: &mut Vec<Tile>) {
        let mut count = self.frontier.size();
        self.frontier.push(leaf);
        let mut hash = leaf;
        for level in 0..LEVELS_MAX {
            let place = usize::from(level);
            if self.levels.len() <= place {
                self.levels.push(Vec::new());
            }
            let Some(hashes) = self.levels.get_mut(place) else { return };
            hashes.push(hash);
            if hashes.len() < TILE_WIDTH {
                return;
            }
            count /= TILE_WIDTH as u64;
            let tile = Tile { id: TileId { level, index: count }, hashes: std::mem::take(hashes) };
            hash = complete(tile.hashes.clone());
            full.push(tile);
        }
    }

    /// The tiles that are not full.
    #[must_use]
    pub fn partial(&self) -> Vec<Tile> {
        let tiles = Self::tiles_of(self.frontier.size());
        let of = |(id, _): (TileId, usize)| Tile {
            id,
            hashes: self.levels.get(usize::from(id.level)).cloned().unwrap_or_default(),
        };
        tiles.into_iter().map(of).collect()
    }
}
