//! The register tile that every matrix product here is made of.
//!
//! `C[MR × NR] = Σ_s A_s[MR × k] · B_s[k × NR]`: the rows of `A` lie `lda` apart and are broadcast value by value;
//! `B` is packed as a panel, `NR` values for each `k` in turn. Several segments `s` sum up the taps of a convolution
//! without leaving the registers.

use crate::simd::Simd;

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
    /// Adds to what `c` holds instead of overwriting it.
    pub(crate) accumulate: bool,
}

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
            for k in 0..tile.k {
                let bv: [S::V; NV] = std::array::from_fn(|j| simd.load(b.add(j * S::LANES)));
                b = b.add(NV * S::LANES);
                for i in 0..MR {
                    let av = simd.splat(*rows[i].add(k));
                    for j in 0..NV {
                        acc[i][j] = simd.fma(av, bv[j], acc[i][j]);
                    }
                }
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
