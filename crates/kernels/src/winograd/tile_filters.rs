//! Filters for [`super::tiles`]: transformed along columns, and taken apart into two bf16.

use super::filter::effective;
use super::phases::Phase;
use super::scheme::Scheme;
use crate::arena::Region;
use crate::simd::Simd;
use crate::simd::amx::{Amx, COLUMNS, DEPTH, STEP, TileOp};
use crate::tiles::place;
use crate::weights::WeightView;

/// Bytes of the filters of a panel of 32 output channels for one point: a [`STEP`] for each chunk of input channels and tap.
pub(super) fn panel_size<C: Scheme>(chunks: usize) -> usize {
    chunks * C::R * STEP
}

/// Transforms one panel of 32 output channels.
pub(super) struct Panel<'a, C: Scheme> {
    pub(super) scheme: C,
    /// `[out, in, 3, 3]`
    pub(super) weight: WeightView<'a>,
    /// Out, in.
    pub(super) channels: [usize; 2],
    /// The first output channel of the panel.
    pub(super) first: usize,
    pub(super) phase: Phase,
    pub(super) chunks: usize,
    /// Where the panel goes for the first point: [`panel_size`] bytes.
    pub(super) out: Region<'a>,
    /// Bytes from one point's to the next's.
    pub(super) plane: usize,
}

impl<C: Scheme> TileOp for Panel<'_, C> {
    #[inline(always)]
    fn run(self, amx: Amx) {
        let simd = amx.vectors();
        // The last point's panel ends inside the region.
        let size = (C::N - 1) * self.plane + panel_size::<C>(self.chunks);
        let out = self.out.part(0, size).ptr();
        let [out_channels, in_channels] = self.channels;
        // [in][tap][out] of a chunk, zero where there is no channel.
        let mut transposed = vec![0.0f32; DEPTH * 9 * COLUMNS];
        let mut row = vec![0.0f32; DEPTH * 9];
        for chunk in 0..self.chunks {
            let real = in_channels.saturating_sub(chunk * DEPTH).min(DEPTH);
            if real < DEPTH {
                transposed.fill(0.0);
            }
            for lane in 0..COLUMNS.min(out_channels.saturating_sub(self.first)) {
                let row = &mut row[..real * 9];
                self.weight.read(((self.first + lane) * in_channels + chunk * DEPTH) * 9, row);
                for (at, &value) in row.iter().enumerate() {
                    transposed[at * COLUMNS + lane] = value;
                }
            }
            for pair in 0..DEPTH / 2 {
                for half in 0..2 {
                    let at = |k: usize| ((pair * 2 + k) * 9) * COLUMNS + half * 16;
                    let g = [
                        self.filter(simd, &transposed[at(0)..at(0) + 8 * COLUMNS + 16]),
                        self.filter(simd, &transposed[at(1)..at(1) + 8 * COLUMNS + 16]),
                    ];
                    for x in 0..C::R {
                        for point in 0..C::N {
                            let mut u = [simd.zero(); 2];
                            for (u, g) in u.iter_mut().zip(&g) {
                                for y in 0..C::R {
                                    *u = simd.fma(g[y][x], simd.splat(C::G[point][y]), *u);
                                }
                            }
                            let step = point * self.plane + (chunk * C::R + x) * STEP;
                            let at = step + place(2 * pair, 16 * half);
                            // SAFETY: `out` has room for the panel of each point (see above), which is this task's own; `at` and
                            // what lies half a step behind it are 64 bytes of the step.
                            unsafe { amx.split_pairs(u, out.add(at), STEP / 2) };
                        }
                    }
                }
            }
        }
        let _ = self.scheme;
    }
}

impl<C: Scheme> Panel<'_, C> {
    /// The filters that the scheme sees, of 16 output channels whose taps lie [`COLUMNS`] values apart.
    #[inline(always)]
    fn filter<S: Simd>(&self, simd: S, taps: &[f32]) -> [[S::V; 3]; 3] {
        let mut g = [simd.zero(); 9];
        for (tap, g) in g.iter_mut().enumerate() {
            // SAFETY: 16 values of the slice.
            *g = unsafe { simd.load(taps[tap * COLUMNS..][..16].as_ptr()) };
        }
        effective::<_, C>(self.phase, simd, |tap| g[tap])
    }
}
