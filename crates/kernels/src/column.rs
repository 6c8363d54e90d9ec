//! The last step of most kernels: a column of results becomes a vector of channels of some pixels.

use crate::simd::{Op, Simd};
use crate::sink::{PartialsWriter, Sink};

/// Writes `count` results, `ld` values apart, to the channels from `c` on of the pixels `first`, `first + step` and so on,
/// with their statistics.
///
/// # Safety contract of whoever runs it
/// `LANES` values are readable and writable at `results + i * ld` for each `i < count`, by this thread alone; the pixels lie
/// inside the sink's image and `c + LANES` inside its stride; nobody else writes these channels of them, or of the part.
pub(crate) struct WriteColumn<'a> {
    pub(crate) sink: &'a Sink<'a>,
    pub(crate) results: *mut f32,
    pub(crate) ld: usize,
    pub(crate) count: usize,
    pub(crate) first: usize,
    pub(crate) step: usize,
    pub(crate) c: usize,
    pub(crate) partials: &'a PartialsWriter<'a>,
    pub(crate) part: usize,
    /// Values of the part's channels that were written before.
    pub(crate) seen: u32,
}

impl Op for WriteColumn<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let Self { results, ld, count, first, step, c, part, seen, .. } = self;
        // Copies, which the compiler knows that no store changes.
        let (sink, partials) = (*self.sink, *self.partials);
        // SAFETY: whoever made this keeps its contract.
        unsafe {
            let (mut sum, mut abs_max) = (simd.zero(), simd.zero());
            for i in 0..count {
                let p = results.add(i * ld);
                let v = sink.put(simd, first + i * step, c, simd.load(p));
                simd.store(p, v);
                sum = simd.add(sum, v);
                abs_max = simd.max(abs_max, simd.abs(v));
            }
            let mean = simd.mul(sum, simd.splat(1.0 / count as f32));
            let mut m2 = simd.zero();
            for i in 0..count {
                let d = simd.sub(simd.load(results.add(i * ld)), mean);
                m2 = simd.fma(d, d, m2);
            }
            partials.merge(simd, part, c, seen, count as u32, [mean, m2, abs_max]);
        }
    }
}
