//! Filters into the Winograd domain, packed for the register tile.
//!
//! Done anew for each layer of each decode: kept for good they would need seven times the memory of the weights.

use super::phases::Phase;
use super::scheme::{MAX, Scheme};
use crate::arena::Region;
use crate::schedule::TimeTaps;
use crate::simd::{Op, Simd};
use crate::weights::WeightView;

/// The filters of one layer: `[out, in, 3, 3]`, read as they are, or as the four 2×2 filters of an upsampling convolution.
#[derive(Clone, Copy)]
pub(crate) struct Filters<'a> {
    pub(crate) weight: WeightView<'a>,
    pub(crate) out_channels: usize,
    pub(crate) in_channels: usize,
    /// Input channels padded: the depth of the products.
    pub(crate) depth: usize,
    /// For causal 3-D convolutions, `[out, in, 3, 3, 3]`: which taps of time are summed up.
    pub(crate) time: Option<TimeTaps>,
}

/// How many input channels are read at a time.
const BLOCK: usize = 32;

/// The most vectors of a panel.
const MAX_VECTORS: usize = 4;

/// Transforms one panel of `NR` output channels.
pub(crate) struct TransformPanel<'a, C: Scheme> {
    pub(crate) scheme: C,
    pub(crate) filters: Filters<'a>,
    /// The first output channel of the panel.
    pub(crate) first: usize,
    pub(crate) phase: Phase,
    /// Where the panel begins: `[depth][NR]` values for each plane that is the phase's own. What lies between the planes is
    /// other tasks'.
    pub(crate) out: Region<'a>,
    /// From one plane to the next.
    pub(crate) plane_size: usize,
}

/// How the three taps of a filter become the two of an output phase. A nearest 2× upsampling shows the filter each
/// input twice: even outputs see inputs `i - 1, i, i` and odd ones `i, i, i + 1`.
const PHASE_TAPS: [[[bool; 3]; 2]; 2] =
    [[[true, false, false], [false, true, true]], [[true, true, false], [false, false, true]]];

impl<C: Scheme> Op for TransformPanel<'_, C> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let Filters { weight, out_channels, in_channels, depth, time } = self.filters;
        let taps = if time.is_some() { 27 } else { 9 };
        let vectors = S::NR / S::LANES;
        let mut scratch = vec![0.0f32; BLOCK * (9 * S::NR + taps)];
        let (transposed, row) = scratch.split_at_mut(BLOCK * 9 * S::NR);
        let mut half = [[[simd.zero(); 3]; MAX]; MAX_VECTORS];
        let own = self.phase.own::<C>();
        // The last plane's panel ends inside the region.
        let planes = own.as_slice().len();
        let out = self.out.part(0, ((planes - 1) * self.plane_size + depth * S::NR) * 4).values();
        for begin in (0..depth).step_by(BLOCK) {
            let width = BLOCK.min(depth - begin);
            let real = in_channels.saturating_sub(begin).min(width);
            // [in][tap][NR], zero where there is no channel.
            transposed[..width * 9 * S::NR].fill(0.0);
            for lane in 0..S::NR.min(out_channels.saturating_sub(self.first)) {
                let row = &mut row[..real * taps];
                weight.read(((self.first + lane) * in_channels + begin) * taps, row);
                for (i, row) in row.chunks_exact(taps).enumerate() {
                    for tap in 0..9 {
                        transposed[(i * 9 + tap) * S::NR + lane] = match time {
                            None => row[tap],
                            Some(time) => time.sum(|t| row[t * 9 + tap]),
                        };
                    }
                }
            }
            for i in 0..width {
                // G g, by columns, for each vector of the panel ...
                for (v, half) in half.iter_mut().enumerate().take(vectors) {
                    let load = |tap: usize| {
                        let at = (i * 9 + tap) * S::NR + v * S::LANES;
                        // SAFETY: `transposed` holds `width * 9 * NR` values.
                        unsafe { simd.load(transposed[at..at + S::LANES].as_ptr()) }
                    };
                    let g = effective::<S, C>(self.phase, simd, load);
                    for (n, half) in half.iter_mut().enumerate().take(C::N) {
                        for x in 0..C::R {
                            let mut sum = simd.mul(g[0][x], simd.splat(C::G[n][0]));
                            for y in 1..C::R {
                                sum = simd.fma(g[y][x], simd.splat(C::G[n][y]), sum);
                            }
                            half[x] = sum;
                        }
                    }
                }
                // ... then (G g) Gᵀ, by rows. A plane's vectors are written together, as they share a line: the
                // planes lie a power of two apart and would push each other out of the cache in between.
                for (index, &plane) in own.as_slice().iter().enumerate() {
                    let (n, m) = (plane / C::N, plane % C::N);
                    let at = index * self.plane_size + (begin + i) * S::NR;
                    for (v, half) in half.iter().enumerate().take(vectors) {
                        let mut sum = simd.mul(half[n][0], simd.splat(C::G[m][0]));
                        for x in 1..C::R {
                            sum = simd.fma(half[n][x], simd.splat(C::G[m][x]), sum);
                        }
                        // SAFETY: `out` has room for `depth * NR` values in each plane (see above), which are this task's
                        // own, and `begin + i < depth`; panels and planes begin at whole lines.
                        unsafe { simd.store_past(out.add(at + v * S::LANES), sum) };
                    }
                }
            }
        }
        simd.publish();
        let _ = self.scheme;
    }
}

/// The `R × R` filter that the scheme sees.
#[inline(always)]
pub(super) fn effective<S: Simd, C: Scheme>(
    phase: Phase,
    simd: S,
    load: impl Fn(usize) -> S::V,
) -> [[S::V; 3]; 3] {
    let mut g = [[simd.zero(); 3]; 3];
    for y in 0..3 {
        for x in 0..3 {
            let value = load(y * 3 + x);
            if C::R == 3 {
                g[y][x] = value;
                continue;
            }
            for j in 0..2 {
                for i in 0..2 {
                    if PHASE_TAPS[phase.py][j][y] && PHASE_TAPS[phase.px][i][x] {
                        g[j][i] = simd.add(g[j][i], value);
                    }
                }
            }
        }
    }
    g
}
