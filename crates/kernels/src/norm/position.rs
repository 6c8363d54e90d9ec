//! The factors of norms over the channels of each position.

use super::ChannelNormKind;
use crate::arena::{Buffer, OutOfMemory, Region};
use crate::context::Context;
use crate::features::{ChannelStats, Features};
use crate::simd::{Op, Simd};
use crate::sink::{Partials, PartialsWriter};
use crate::source::{PaddingMode, Source, View, Window};

/// Positions that a task does together.
const BLOCK: usize = 256;

/// For each position of each image the two factors `a` and `b` of `x * a + b`, which normalise it.
pub(crate) struct Positions {
    /// `[batch][height * width][2]`
    factors: Buffer,
    /// Of the normalised values, before weight and bias; one for each image.
    pub(crate) stats: Vec<ChannelStats>,
}

impl Positions {
    /// Reads `x` once.
    pub(super) fn new(context: &Context, x: &Features, kind: ChannelNormKind) -> Result<Self, OutOfMemory> {
        let pixels = x.height * x.width;
        let factors = context.arena.take(x.batch * pixels * 8)?;
        let scratch = context.scratch(BLOCK * x.stride * 4)?;
        let per_image = pixels.div_ceil(BLOCK);
        let mut partials = Partials::new(x.batch * per_image, x.stride);
        let writer = partials.writer();
        let units = super::Affine::units(x);
        let mode = PaddingMode::Zeros;
        let source = Source { x, affine: Some(&units), activation: None, mode };
        context.pool.run(x.batch * per_image, |worker, part| {
            let (image, first) = (part / per_image, part % per_image * BLOCK);
            context.isa.run(Measure {
                view: source.view(image).flat(),
                channels: x.channels,
                kind,
                first,
                count: BLOCK.min(pixels - first),
                scratch: scratch[worker].region(),
                factors: factors
                    .region()
                    .nth(image, pixels * 8)
                    .part(first * 8, BLOCK.min(pixels - first) * 8),
                partials: writer,
                part,
            });
        });
        let stats = (0..x.batch).map(|i| partials.merge(i * per_image..(i + 1) * per_image)).collect();
        Ok(Self { factors, stats })
    }

    /// The factors of one image of `pixels` positions.
    pub(crate) fn of_image(&self, image: usize, pixels: usize) -> Region<'_> {
        self.factors.region().nth(image, pixels * 8)
    }
}

/// The factors of some positions of an image, and the statistics of what they make.
struct Measure<'a> {
    view: View<'a>,
    channels: usize,
    kind: ChannelNormKind,
    first: usize,
    count: usize,
    /// `[BLOCK][stride]`
    scratch: Region<'a>,
    /// `[count][2]`
    factors: Region<'a>,
    partials: PartialsWriter<'a>,
    part: usize,
}

impl Op for Measure<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let stride = self.view.stride;
        let window = Window {
            top: 0,
            left: self.first as isize,
            rows: 1,
            columns: self.count,
            first: 0,
            channels: stride,
            pitch: stride,
        };
        let rows = self.scratch.part(0, self.count * stride * 4);
        // SAFETY: the rows are this worker's alone, and hold the window of the block's positions.
        unsafe { self.view.stage(simd, window, rows.values()) };
        // SAFETY: the rows are this worker's, and these factors this task's alone; both begin at a whole value of a buffer.
        let (rows, factors) = unsafe { (rows.values_mut(), self.factors.values_mut()) };
        for (row, factors) in rows.chunks_exact_mut(stride).zip(factors.chunks_exact_mut(2)) {
            factors.copy_from_slice(&self.factors_of(simd, &row[..self.channels]));
            for x in &mut row[..self.channels] {
                *x = *x * factors[0] + factors[1];
            }
        }
        for c in (0..stride).step_by(S::LANES) {
            let (mut sum, mut largest) = (simd.zero(), simd.zero());
            for row in rows.chunks_exact(stride) {
                let v = vector(simd, &row[c..c + S::LANES]);
                sum = simd.add(sum, v);
                largest = simd.max(largest, simd.abs(v));
            }
            let mean = simd.mul(sum, simd.splat(1.0 / self.count as f32));
            let mut m2 = simd.zero();
            for row in rows.chunks_exact(stride) {
                let apart = simd.sub(vector(simd, &row[c..c + S::LANES]), mean);
                m2 = simd.fma(apart, apart, m2);
            }
            // SAFETY: `c + LANES <= stride`, as strides are multiples of all LANES; the part is this task's alone.
            unsafe { self.partials.merge(simd, self.part, c, 0, self.count as u32, [mean, m2, largest]) };
        }
        self.partials.set_count(self.part, self.count as u32);
    }
}

impl Measure<'_> {
    /// `a` and `b` for the values of a position.
    #[inline(always)]
    fn factors_of<S: Simd>(&self, simd: S, values: &[f32]) -> [f32; 2] {
        let count = self.channels as f64;
        match self.kind {
            ChannelNormKind::Length { eps } => {
                let length = squares(simd, values, 0.0).sqrt().max(eps);
                [(count.sqrt() / length) as f32, 0.0]
            }
            ChannelNormKind::RootMeanSquare { eps } => {
                [(1.0 / (squares(simd, values, 0.0) / count + eps).sqrt()) as f32, 0.0]
            }
            ChannelNormKind::Layer { eps } => {
                let mean = sum(simd, values) / count;
                let inverse = 1.0 / (squares(simd, values, mean as f32) / count + eps).sqrt();
                [inverse as f32, (-mean * inverse) as f32]
            }
        }
    }
}

/// A slice of LANES values.
#[inline(always)]
fn vector<S: Simd>(simd: S, values: &[f32]) -> S::V {
    assert!(values.len() == S::LANES);
    // SAFETY: the slice has LANES values.
    unsafe { simd.load(values.as_ptr()) }
}

/// `Σ x`
#[inline(always)]
fn sum<S: Simd>(simd: S, values: &[f32]) -> f64 {
    let whole = values.chunks_exact(S::LANES);
    let rest: f32 = whole.remainder().iter().sum();
    let mut sum = simd.zero();
    for values in whole {
        sum = simd.add(sum, vector(simd, values));
    }
    f64::from(simd.sum(sum) + rest)
}

/// `Σ (x - offset)²`
#[inline(always)]
fn squares<S: Simd>(simd: S, values: &[f32], offset: f32) -> f64 {
    let whole = values.chunks_exact(S::LANES);
    let rest: f32 = whole.remainder().iter().map(|x| (x - offset) * (x - offset)).sum();
    let mut sum = simd.zero();
    for values in whole {
        let v = simd.sub(vector(simd, values), simd.splat(offset));
        sum = simd.fma(v, v, sum);
    }
    f64::from(simd.sum(sum) + rest)
}
