//! The register tile that every matrix product here is made of.
//!
//! `C[MR × NR] = Σ_s A_s[MR × k] · B_s[k × NR]`: the rows of `A` lie `lda` apart and are broadcast value by value;
//! `B` is packed as a panel, `NR` values for each `k` in turn. Several segments `s` sum up the taps of a convolution
//! without leaving the registers.

use crate::simd::{LINE, Simd};

/// One register tile's work.
///
/// # Safety contract of whoever runs it
/// * each `segments[s]` is readable at `row * lda + 0..k` for all `MR` rows;
/// * `b` is readable for `segments.len() * k * NR` values;
/// * `c` is writable at `row * ldc + 0..NR` for all `MR` rows, by this thread alone.
pub(crate) struct Tile<'a> {
    pub(crate) segments: &'a [*const f32],
    pub(crate) lda: usize,
    pub(crate) k: usize,
    pub(crate) b: *const f32,
    pub(crate) c: *mut f32,
    pub(crate) ldc: usize,
    /// How many rows are wanted, from the first on. All MR must be there: an instruction set may do more than these.
    pub(crate) rows: usize,
    /// Adds to what `c` holds instead of overwriting it.
    pub(crate) accumulate: bool,
    /// Two places whose lines will be needed soon: while the tile is computed, [`prefetched`] values from each are
    /// brought into the second-level cache. Any address will do; nothing is read.
    pub(crate) prefetch: [*const f32; 2],
}

/// Rows of the smaller tiles, besides MR, that finish a run of rows.
const FINISH: [usize; 5] = [2, 4, 6, 8, 10];

/// How many rows tiles of `mr` rows and the smaller ones compute where `rows` are wanted.
pub(crate) fn rows_computed(rows: usize, mr: usize) -> usize {
    let rest = rows % mr;
    let finish =
        if rest == 0 { 0 } else { FINISH.into_iter().find(|&few| rest <= few).map_or(mr, |few| few.min(mr)) };
    rows - rest + finish
}

/// Lines that a tile of `MR × NR` prefetches from each place in eight steps: the larger the tile, the fewer of them go
/// through the same operands, so that each has to bring in more.
const fn lines(mr: usize, nr: usize) -> usize {
    let lines = mr * nr / 96;
    if lines == 0 { 1 } else { lines }
}

/// Values that a tile of depth `k` prefetches from each place.
pub(crate) fn prefetched<S: Simd>(k: usize) -> usize {
    k / 8 * lines(S::MR, S::NR) * LINE
}

/// For tiles whose operands are in the cache anyway.
pub(crate) const NO_PREFETCH: [*const f32; 2] = [std::ptr::null(); 2];

/// Computes a [`Tile`] in `MR * NV` registers.
///
/// # Safety
/// As [`Tile`] says.
#[inline(always)]
pub(crate) unsafe fn microkernel<S: Simd, const MR: usize, const NV: usize>(simd: S, tile: &Tile) {
    let mut acc = [[simd.zero(); NV]; MR];
    let mut b = tile.b;
    for &a in tile.segments {
        // SAFETY: each row is readable for k values, b for NR values a step (Tile's contract).
        unsafe {
            let rows: [*const f32; MR] = std::array::from_fn(|i| a.add(i * tile.lda));
            // A macro, since a closure would keep the accumulators out of the registers.
            macro_rules! step {
                ($k:expr) => {{
                    let bv: [S::V; NV] = std::array::from_fn(|j| simd.load(b.add(j * S::LANES)));
                    b = b.add(NV * S::LANES);
                    for i in 0..MR {
                        let av = simd.splat(*rows[i].add($k));
                        for j in 0..NV {
                            acc[i][j] = simd.fma(av, bv[j], acc[i][j]);
                        }
                    }
                }};
            }
            let whole = tile.k / 8 * 8;
            for begin in (0..whole).step_by(8) {
                let lines = const { lines(MR, NV * S::LANES) };
                for line in 0..lines {
                    let ahead = (begin / 8 * lines + line) * LINE;
                    simd.prefetch(tile.prefetch[0].wrapping_add(ahead));
                    simd.prefetch(tile.prefetch[1].wrapping_add(ahead));
                }
                for k in begin..begin + 8 {
                    step!(k);
                }
            }
            for k in whole..tile.k {
                step!(k);
            }
        }
    }
    for (i, row) in acc.iter().enumerate() {
        for (j, &v) in row.iter().enumerate() {
            // SAFETY: c is writable for MR rows of NR values (Tile's contract).
            unsafe {
                let c = tile.c.add(i * tile.ldc + j * S::LANES);
                let v = if tile.accumulate { simd.add(simd.load(c), v) } else { v };
                simd.store(c, v);
            }
        }
    }
}
