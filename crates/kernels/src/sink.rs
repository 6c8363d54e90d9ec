//! Writing feature maps: bias and residual added, statistics gathered, stored as f32 or f16.

use std::marker::PhantomData;

use crate::arena::Region;
use crate::features::{ChannelStats, Storage, Target};
use crate::simd::{LINE, Simd};

/// What is known of one channel in a part of an image: how many values, their mean, the sum of squared differences
/// from it, the largest magnitude.
///
/// Parts are merged as Chan, Golub and LeVeque do ("Updating formulae…", 1979), so that a large mean with a small
/// variance loses nothing.
pub(crate) struct Partials {
    /// `[part][mean, m2, abs_max][stride]`
    values: Vec<f32>,
    counts: Vec<u32>,
    stride: usize,
}

impl Partials {
    pub(crate) fn new(parts: usize, stride: usize) -> Self {
        Self { values: vec![0.0; parts * 3 * stride], counts: vec![0; parts], stride }
    }

    /// For workers that each write their own parts and channels.
    pub(crate) fn writer(&mut self) -> PartialsWriter<'_> {
        PartialsWriter {
            values: self.values.as_mut_ptr(),
            counts: self.counts.as_mut_ptr(),
            parts: self.counts.len(),
            stride: self.stride,
            partials: PhantomData,
        }
    }

    /// Merges parts `range` in their order, so that the result does not depend on who computed what.
    pub(crate) fn merge(&self, range: std::ops::Range<usize>) -> ChannelStats {
        let stride = self.stride;
        let mut stats =
            ChannelStats { mean: vec![0.0; stride], m2: vec![0.0; stride], abs_max: vec![0.0; stride] };
        let mut count = 0.0f64;
        for part in range {
            let n = f64::from(self.counts[part]);
            if n == 0.0 {
                continue;
            }
            let values = &self.values[part * 3 * stride..(part + 1) * 3 * stride];
            let total = count + n;
            for c in 0..stride {
                let delta = f64::from(values[c]) - stats.mean[c];
                stats.mean[c] += delta * n / total;
                stats.m2[c] += f64::from(values[stride + c]) + delta * delta * count * n / total;
                stats.abs_max[c] = stats.abs_max[c].max(values[2 * stride + c]);
            }
            count = total;
        }
        stats
    }
}

/// Lets workers write their parts.
#[derive(Clone, Copy)]
pub(crate) struct PartialsWriter<'a> {
    /// `[parts][3][stride]`
    values: *mut f32,
    /// `[parts]`
    counts: *mut u32,
    parts: usize,
    stride: usize,
    partials: PhantomData<&'a mut Partials>,
}

// SAFETY: the addresses are of memory that is borrowed for as long as this lives; whoever writes says which parts and
// channels are its own.
unsafe impl Send for PartialsWriter<'_> {}
// SAFETY: as above.
unsafe impl Sync for PartialsWriter<'_> {}

impl PartialsWriter<'_> {
    /// Merges `count` values with this mean, m2 and largest magnitude into a part's channels from `c` on.
    /// `seen` values were merged before.
    ///
    /// # Safety
    /// `c + LANES <= stride`, and no other worker writes these channels of this part meanwhile.
    #[inline(always)]
    pub(crate) unsafe fn merge<S: Simd>(
        &self,
        simd: S,
        part: usize,
        c: usize,
        seen: u32,
        count: u32,
        [mean, m2, abs_max]: [S::V; 3],
    ) {
        assert!(part < self.parts);
        // SAFETY: `values` holds three rows of `stride` values for each part, and `part` is one of them; the vector ends
        // inside its row by the caller's promise, who alone writes it.
        unsafe {
            let p = self.values.add(part * 3 * self.stride + c);
            let (pm, pq, pa) = (p, p.add(self.stride), p.add(2 * self.stride));
            if seen == 0 {
                simd.store(pm, mean);
                simd.store(pq, m2);
                simd.store(pa, abs_max);
                return;
            }
            let total = (seen + count) as f32;
            let old = simd.load(pm);
            let delta = simd.sub(mean, old);
            simd.store(pm, simd.fma(delta, simd.splat(count as f32 / total), old));
            let weight = simd.splat(seen as f32 * (count as f32 / total));
            let q = simd.add(simd.load(pq), m2);
            simd.store(pq, simd.fma(simd.mul(delta, delta), weight, q));
            simd.store(pa, simd.max(simd.load(pa), abs_max));
        }
    }

    /// States how many pixels a part has: the same number by all workers on this part.
    #[inline(always)]
    pub(crate) fn set_count(&self, part: usize, count: u32) {
        assert!(part < self.parts);
        // SAFETY: `counts` holds one aligned number for each part, and `part` is one of them. They are only touched with
        // atomic operations while there is a writer, so that racing writes are no data race.
        unsafe {
            std::sync::atomic::AtomicU32::from_ptr(self.counts.add(part))
                .store(count, std::sync::atomic::Ordering::Relaxed);
        }
    }
}

/// Where results go: one image.
#[derive(Clone, Copy)]
pub(crate) struct Sink<'a> {
    /// `[height][width][stride]`
    data: Region<'a>,
    storage: Storage,
    pub(crate) stride: usize,
    pub(crate) width: usize,
    bias: &'a [f32],
    /// Units of the residual that the memory holds, when there is one to add.
    residual_unit: Option<&'a [f32]>,
    /// 1 / unit of what is written.
    inverse_unit: &'a [f32],
}

impl<'a> Sink<'a> {
    /// Writes into image `image` of `y`. With `residual_unit`, what the memory holds is added, and has these units.
    pub(crate) fn new(
        y: Target<'a>,
        image: usize,
        bias: &'a [f32],
        residual_unit: Option<&'a [f32]>,
        inverse_unit: &'a [f32],
    ) -> Self {
        assert!(bias.len() >= y.stride && inverse_unit.len() >= y.stride);
        assert!(residual_unit.is_none_or(|unit| unit.len() >= y.stride));
        let data = y.memory.nth(image, y.image_bytes());
        Self { data, storage: y.storage, stride: y.stride, width: y.width, bias, residual_unit, inverse_unit }
    }

    /// Brings the line of channel `c` of `pixel` into the cache.
    #[inline(always)]
    pub(crate) fn prefetch<S: Simd>(&self, simd: S, pixel: usize, c: usize) {
        simd.prefetch(self.data.ptr().wrapping_add((pixel * self.stride + c) * self.storage.size()).cast());
    }

    /// Whether a vector of `S` is a whole line of the cache that nothing needs to be read of: it can be written past the
    /// caches ([`Sink::put_past`]), which otherwise fetch each line before it is overwritten.
    #[inline(always)]
    pub(crate) fn takes_whole_lines<S: Simd>(&self) -> bool {
        self.storage == Storage::F32 && self.residual_unit.is_none() && S::LANES == LINE
    }

    /// As [`Sink::put`], past the caches. [`Simd::publish`] must follow.
    ///
    /// # Safety
    /// As for `put`; the sink [takes whole lines](Sink::takes_whole_lines), and `c` is a multiple of `LANES`.
    #[inline(always)]
    pub(crate) unsafe fn put_past<S: Simd>(&self, simd: S, pixel: usize, c: usize, v: S::V) -> S::V {
        // SAFETY: the vector lies inside the image by the caller's promise, who alone touches it; bias holds `stride` values
        // (checked in `new`). The address is aligned to a vector: buffers begin with a page, and pixels and `c` with a line,
        // as strides are multiples of `PAD`.
        unsafe {
            let v = simd.add(v, simd.load(self.bias.as_ptr().add(c)));
            simd.store_past(self.data.values().add(pixel * self.stride + c), v);
            v
        }
    }

    /// Adds bias and residual to `v`, stores it as the channels from `c` on of `pixel`, and returns the sum.
    ///
    /// # Safety
    /// `pixel` is one of the image's, `c + LANES <= stride`, and nobody else touches these channels of it meanwhile.
    #[inline(always)]
    pub(crate) unsafe fn put<S: Simd>(&self, simd: S, pixel: usize, c: usize, v: S::V) -> S::V {
        // SAFETY: `data` holds `stride` values of the storage for each pixel of the image, so the vector lies inside by the
        // caller's promise, who alone touches it; bias and units hold `stride` values (checked in `new`).
        unsafe {
            let index = pixel * self.stride + c;
            let mut v = simd.add(v, simd.load(self.bias.as_ptr().add(c)));
            match self.storage {
                Storage::F32 => {
                    let p = self.data.values().add(index);
                    if self.residual_unit.is_some() {
                        v = simd.add(v, simd.load(p));
                    }
                    simd.store(p, v);
                }
                Storage::F16 => {
                    let p = self.data.ptr().cast::<u16>().add(index);
                    if let Some(unit) = self.residual_unit {
                        v = simd.fma(simd.load_f16(p), simd.load(unit.as_ptr().add(c)), v);
                    }
                    simd.store_f16(p, simd.mul(v, simd.load(self.inverse_unit.as_ptr().add(c))));
                }
            }
            v
        }
    }
}
