//! Where the matrices of [`super::tiles`] lie in a worker's memory.

use super::tiles::{BLOCK, KEYS};
use crate::arena::Region;
use crate::simd::amx::{COLUMNS, DEPTH};
use crate::tiles::{line_size, row_size};

/// A worker's memory.
#[derive(Clone, Copy)]
pub(super) struct Scratch {
    /// Rows that are taken apart: the input, later the normalised sums; the queries; the weights of a block of keys.
    pub(super) staged: *mut u8,
    pub(super) queries: *mut u8,
    pub(super) softmax: *mut u8,
    pub(super) line: *mut f32,
    /// `[panel][BLOCK][32]`: the weighted sums of values; scores of a block of keys; a panel's results.
    pub(super) sums: *mut f32,
    pub(super) scores: *mut f32,
    pub(super) results: *mut f32,
    /// For each position its largest score, the sum of exponentials, and what the sums so far are to be multiplied with.
    pub(super) state: [*mut f32; 3],
    /// For each position a vector of sums of its key's squares.
    pub(super) squares: *mut f32,
}

impl Scratch {
    fn parts(chunks: usize) -> [usize; 11] {
        [
            BLOCK * row_size(chunks),
            BLOCK * row_size(chunks),
            BLOCK * row_size(KEYS / DEPTH),
            line_size(BLOCK, chunks) * 4,
            chunks * BLOCK * COLUMNS * 4,
            KEYS / COLUMNS * BLOCK * COLUMNS * 4,
            BLOCK * COLUMNS * 4,
            BLOCK * 4,
            BLOCK * 4,
            BLOCK * 4,
            BLOCK * 64,
        ]
    }

    /// Its bytes.
    pub(super) fn size(chunks: usize) -> usize {
        Self::parts(chunks).iter().sum()
    }

    /// Cuts the region, which has [`Scratch::size`] bytes.
    pub(super) fn new(region: Region<'_>, chunks: usize) -> Self {
        let mut next = region.part(0, Self::size(chunks)).ptr();
        let [staged, queries, softmax, line, sums, scores, results, a, b, c, squares] = Self::parts(chunks)
            .map(|size| {
                let this = next;
                next = next.wrapping_add(size);
                this
            });
        Self {
            staged,
            queries,
            softmax,
            line: line.cast(),
            sums: sums.cast(),
            scores: scores.cast(),
            results: results.cast(),
            state: [a.cast(), b.cast(), c.cast()],
            squares: squares.cast(),
        }
    }
}
