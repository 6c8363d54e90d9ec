//! How an image is cut into blocks of tiles, and how a block's intermediate results lie in memory.

use super::phases::places;
use super::scheme::Scheme;
use super::{STAGED, STAGED_CHANNELS};
use crate::gemm::rows_computed;

/// Some rows and columns of tiles.
#[derive(Clone, Copy)]
pub(super) struct Patch {
    pub(super) top: usize,
    pub(super) left: usize,
    pub(super) height: usize,
    pub(super) width: usize,
}

impl Patch {
    pub(super) fn count(&self) -> usize {
        self.height * self.width
    }

    /// The row and column of its tile `index`.
    #[inline(always)]
    pub(super) fn tile(&self, index: usize) -> (usize, usize) {
        (self.top + index / self.width, self.left + index % self.width)
    }
}

/// How an image's tiles are cut into blocks: `rows × columns` blocks of about equal size.
#[derive(Clone, Copy)]
pub(super) struct Grid {
    tiles: [usize; 2],
    cuts: [usize; 2],
}

impl Grid {
    /// The cut into blocks of at most `most` tiles that makes the least idle time, the fewest rows of register tiles that
    /// nobody wants, and the squarest blocks.
    pub(super) fn new(tiles: [usize; 2], most: usize, threads: usize, mr: usize) -> Self {
        let mut best = (f64::INFINITY, [1, 1]);
        for rows in 1..=tiles[0] {
            for columns in 1..=tiles[1] {
                let (height, width) = (tiles[0].div_ceil(rows), tiles[1].div_ceil(columns));
                if height * width > most {
                    continue;
                }
                let blocks = rows * columns;
                // Rounds in which every worker does a largest block, each with its own filters to fetch (worth about
                // a dozen tiles), and inputs that neighbouring blocks both read.
                let rounds = blocks.div_ceil(threads) as f64;
                let edges = 0.1 * (height + width) as f64;
                let cost = rounds * (rows_computed(height * width, mr) as f64 + 12.0 + edges);
                if cost < best.0 {
                    best = (cost, [rows, columns]);
                }
                break;
            }
        }
        Self { tiles, cuts: best.1 }
    }

    pub(super) fn blocks(&self) -> usize {
        self.cuts[0] * self.cuts[1]
    }

    /// Tiles of the largest block.
    pub(super) fn most(&self) -> usize {
        self.tiles[0].div_ceil(self.cuts[0]) * self.tiles[1].div_ceil(self.cuts[1])
    }

    pub(super) fn block(&self, index: usize) -> Patch {
        let part = |axis: usize, i: usize| {
            let begin = self.tiles[axis] * i / self.cuts[axis];
            (begin, self.tiles[axis] * (i + 1) / self.cuts[axis] - begin)
        };
        let (top, height) = part(0, index / self.cuts[1]);
        let (left, width) = part(1, index % self.cuts[1]);
        Patch { top, left, height, width }
    }
}

/// Where the staged input, `V` and `M` lie in a worker's scratch, in f32 values.
#[derive(Clone, Copy)]
pub(super) struct Layout {
    pub(super) depth: usize,
    pub(super) chunk: usize,
    pub(super) v: usize,
    /// From one of the `N * N` planes of `V` to the next.
    pub(super) v_plane: usize,
    pub(super) m_plane: usize,
    pub(super) m: usize,
    pub(super) end: usize,
}

impl Layout {
    /// For `V` of `tiles` tiles, which lies in memory of its own if it is shared, and `M` of `in_run` tiles.
    pub(super) fn new<C: Scheme>(
        tiles: usize,
        in_run: usize,
        depth: usize,
        chunk: usize,
        shared: bool,
    ) -> Self {
        let planes = C::N * C::N;
        // Planes a multiple of 4 KiB apart would all fall into the same few lines of the cache.
        let apart = |size: usize| size.next_multiple_of(1024) + 16;
        let (v_plane, m_plane) = (apart(tiles * depth), apart(in_run * chunk));
        let side = |tiles: usize| tiles * C::M + C::N - C::M;
        let staged = side(STAGED[0]) * side(STAGED[1]) * STAGED_CHANNELS;
        let (v, m) = if shared { (0, staged) } else { (staged, staged + planes * v_plane) };
        Self { depth, chunk, v, v_plane, m_plane, m, end: m + places::<C>() * m_plane }
    }

    /// Bytes of a shared `V`.
    pub(super) fn v_bytes<C: Scheme>(&self) -> usize {
        C::N * C::N * self.v_plane * 4
    }

    /// Bytes of a worker's scratch.
    pub(super) fn bytes(&self) -> usize {
        self.end * 4
    }
}
