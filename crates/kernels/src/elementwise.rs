//! What is done to each value alone, for graphs in which no convolution takes it over: norms and activations, sums and products,
//! limits, factors, gates.
//!
//! A worker stages some pixels, normalised and activated, works on them where they are, and writes them with their statistics,
//! which every next kernel needs.

use crate::arena::Region;
use crate::clip::Clip;
use crate::column::WriteColumn;
use crate::context::Context;
use crate::conv::{Pre, affine, unit_for};
use crate::features::{Features, PAD, Storage};
use crate::norm::Affine;
use crate::simd::{Op, Simd};
use crate::sink::{Partials, PartialsWriter, Sink};
use crate::source::{PaddingMode, Source, View, Window};
use crate::watch::{Stopped, Watched};

/// Pixels that a task stages together.
const PIXELS: usize = 96;

/// What becomes of `x`, channel by channel.
#[derive(Clone, Copy)]
enum Operation<'a> {
    /// Nothing more than what reading it does.
    None,
    /// `x + other`.
    Add(&'a Features),
    /// `x * other`.
    Multiply(&'a Features),
    /// `x`, but no less than the first and no more than the second.
    Clamp(f32, f32),
    /// `x * scale + shift`, padded to the stride.
    ScaleShift(&'a [f32], &'a [f32]),
    /// The first half of the channels, each times SiLU of its counterpart in the second half.
    SwiGlu,
}

impl Operation<'_> {
    /// Channels of the output.
    fn channels(&self, x: &Features) -> usize {
        match self {
            Self::SwiGlu => x.channels / 2,
            _ => x.channels,
        }
    }

    /// The largest magnitude of an output channel for inputs of these largest magnitudes.
    fn bound(&self, c: usize, x: &[f32]) -> f32 {
        let largest = |other: &Features| other.stats.iter().fold(0.0f32, |most, s| most.max(s.abs_max[c]));
        match *self {
            Self::None => x[c],
            Self::Add(other) => x[c] + largest(other),
            Self::Multiply(other) => x[c] * largest(other),
            Self::Clamp(low, high) => low.abs().max(high.abs()),
            Self::ScaleShift(scale, shift) => x[c] * scale[c].abs() + shift[c].abs(),
            Self::SwiGlu => x[c] * x[x.len() / 2 + c],
        }
    }
}

/// Runs an operation on `pre(x)`, in the memory of `x` if the output is as large.
fn run(
    context: &Context,
    x: Features,
    pre: Pre<'_>,
    operation: Operation<'_>,
    watched: &mut Watched<'_>,
) -> Result<Features, Stopped> {
    if let Operation::Add(other) | Operation::Multiply(other) = operation {
        assert_eq!(x.shape(), other.shape(), "both must have one shape");
    }
    let channels = operation.channels(&x);
    let stride = channels.next_multiple_of(PAD);
    let affine = affine(context, &x, pre)?;
    let bounds = affine.as_ref().map_or_else(|| Affine::units(&x).bound, |affine| affine.bound.clone());
    let mut unit = vec![1.0f32; stride];
    if context.storage == Storage::F16 {
        for (c, unit) in unit.iter_mut().enumerate().take(channels) {
            *unit = unit_for(f64::from(operation.bound(c, &bounds[..x.channels])));
        }
    }
    let inverse_unit: Vec<f32> = unit.iter().map(|u| 1.0 / u).collect();
    let in_place = stride == x.stride && x.storage == context.storage;
    let fresh = if in_place {
        None
    } else {
        let shape = [x.batch, x.height, x.width, channels];
        Some(Features::new(&context.arena, shape, context.storage, unit.clone())?)
    };
    let target = fresh.as_ref().unwrap_or(&x).target();
    let scratch = context.scratch(2 * PIXELS * x.stride * 4)?;
    let pixels = x.height * x.width;
    let per_image = pixels.div_ceil(PIXELS);
    let mut partials = Partials::new(x.batch * per_image, stride);
    let writer = partials.writer();
    let source =
        Source { x: &x, affine: affine.as_ref(), activation: pre.activation, mode: PaddingMode::Zeros };
    let other = match operation {
        Operation::Add(other) | Operation::Multiply(other) => Some(other),
        _ => None,
    };
    let units = other.map(Affine::units);
    let other =
        other.map(|x| Source { x, affine: units.as_ref(), activation: None, mode: PaddingMode::Zeros });
    let bias = vec![0.0; stride];
    watched.run(&context.pool, 0.0..1.0, x.batch * per_image, PIXELS * x.stride, |worker, part| {
        let (image, first) = (part / per_image, part % per_image * PIXELS);
        context.isa.run(Block {
            view: source.view(image).flat(),
            other: other.map(|other| other.view(image).flat()),
            sink: Sink::new(target, image, &bias, None, &inverse_unit),
            operation,
            channels: x.channels,
            first,
            count: PIXELS.min(pixels - first),
            scratch: scratch[worker].region(),
            partials: writer,
            part,
        });
    })?;
    let stats = (0..x.batch).map(|i| partials.merge(i * per_image..(i + 1) * per_image)).collect();
    Ok(match fresh {
        Some(y) => Features { stats, ..y },
        None => Features { unit, stats, ..x },
    })
}

/// Some pixels of an image.
struct Block<'a> {
    view: View<'a>,
    other: Option<View<'a>>,
    sink: Sink<'a>,
    operation: Operation<'a>,
    /// Of the input, without padding.
    channels: usize,
    first: usize,
    count: usize,
    /// `[2][PIXELS][stride of the input]`
    scratch: Region<'a>,
    partials: PartialsWriter<'a>,
    part: usize,
}

impl Op for Block<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let (stride, out_stride) = (self.view.stride, self.sink.stride);
        let window = Window {
            top: 0,
            left: self.first as isize,
            rows: 1,
            columns: self.count,
            first: 0,
            channels: stride,
            pitch: stride,
        };
        let values = self.scratch.nth(0, PIXELS * stride * 4);
        let others = self.scratch.nth(1, PIXELS * stride * 4);
        // SAFETY: the scratch is this worker's, and each half of it has room for all pixels of the block; the block's pixels
        // are this task's alone, and are staged before any of them is written.
        unsafe {
            self.view.stage(simd, window, values.values());
            if let Some(other) = self.other {
                other.stage(simd, window, others.values());
            }
        }
        // SAFETY: as above; the halves do not overlap, and begin at whole values of a buffer.
        let (values, others) = unsafe { (values.values_mut(), others.values_mut()) };
        let values = &mut values[..self.count * stride];
        match self.operation {
            Operation::None => {}
            Operation::Add(_) => each(simd, values, others, |a, b| simd.add(a, b)),
            Operation::Multiply(_) => each(simd, values, others, |a, b| simd.mul(a, b)),
            Operation::Clamp(low, high) => {
                // In this order a NaN stays one. Padding must stay zero.
                for row in values.chunks_exact_mut(stride) {
                    for x in &mut row[..self.channels] {
                        *x = if *x < low {
                            low
                        } else if *x > high {
                            high
                        } else {
                            *x
                        };
                    }
                }
            }
            Operation::ScaleShift(scale, shift) => {
                for row in values.chunks_exact_mut(stride) {
                    each(simd, row, scale, |a, b| simd.mul(a, b));
                    each(simd, row, shift, |a, b| simd.add(a, b));
                }
            }
            Operation::SwiGlu => {
                let half = self.channels / 2;
                // The gates of all pixels first, in vectors, then the products, to where the output's pixels lie.
                let gates = &mut others[..self.count * stride];
                each(simd, gates, values, |_, x| simd.silu(x));
                for pixel in 0..self.count {
                    let (from, to) = (pixel * stride, pixel * out_stride);
                    for c in 0..half {
                        values[to + c] = values[from + c] * gates[from + half + c];
                    }
                    values[to + half..to + out_stride].fill(0.0);
                }
            }
        }
        for c in (0..out_stride).step_by(S::LANES) {
            simd.apart(WriteColumn {
                sink: &self.sink,
                results: values[c..].as_mut_ptr(),
                ld: out_stride,
                count: self.count,
                first: self.first,
                step: 1,
                c,
                partials: &self.partials,
                part: self.part,
                seen: 0,
            });
        }
        self.partials.set_count(self.part, self.count as u32);
    }
}

/// `a = f(a, b)`, vector by vector, of slices of whole vectors. A function and no closure, so that `f` is compiled for the
/// instruction set of its caller.
#[inline(always)]
fn each<S: Simd>(simd: S, a: &mut [f32], b: &[f32], f: impl Fn(S::V, S::V) -> S::V) {
    for (a, b) in a.chunks_exact_mut(S::LANES).zip(b.chunks_exact(S::LANES)) {
        // SAFETY: both chunks have LANES values.
        unsafe { simd.store(a.as_mut_ptr(), f(simd.load(a.as_ptr()), simd.load(b.as_ptr()))) };
    }
}

/// A factor or a term for each channel, padded with zeros; empty stands for `default` everywhere.
fn padded(values: &[f32], default: f32, x: &Features) -> Vec<f32> {
    let fits = values.is_empty() || values.len() == x.channels;
    assert!(fits, "{} values for {} channels", values.len(), x.channels);
    let mut values = if values.is_empty() { vec![default; x.channels] } else { values.to_vec() };
    values.resize(x.stride, 0.0);
    values
}

impl Features {
    /// `activation(norm(x))` alone, in the same memory.
    ///
    /// # Errors
    /// When there is not enough memory, or `watched` is told to stop.
    pub fn apply(self, context: &Context, pre: Pre<'_>, watched: &mut Watched<'_>) -> Result<Self, Stopped> {
        run(context, self, pre, Operation::None, watched)
    }

    /// `x + other`, in the memory of `x`.
    ///
    /// # Errors
    /// When there is not enough memory, or `watched` is told to stop.
    ///
    /// # Panics
    /// When they have different shapes.
    pub fn add(self, context: &Context, other: &Self, watched: &mut Watched<'_>) -> Result<Self, Stopped> {
        run(context, self, Pre::default(), Operation::Add(other), watched)
    }

    /// `x * other`, value by value, in the memory of `x`.
    ///
    /// # Errors
    /// When there is not enough memory, or `watched` is told to stop.
    ///
    /// # Panics
    /// When they have different shapes.
    pub fn multiply(
        self,
        context: &Context,
        other: &Self,
        watched: &mut Watched<'_>,
    ) -> Result<Self, Stopped> {
        run(context, self, Pre::default(), Operation::Multiply(other), watched)
    }

    /// Each value, but no less than `low` and no more than `high`, in the same memory. A NaN stays one.
    ///
    /// # Errors
    /// When there is not enough memory, or `watched` is told to stop.
    pub fn clamp(
        self,
        context: &Context,
        low: f32,
        high: f32,
        watched: &mut Watched<'_>,
    ) -> Result<Self, Stopped> {
        run(context, self, Pre::default(), Operation::Clamp(low, high), watched)
    }

    /// `x * scale + shift` with one factor and one term a channel, or none for 1 and 0, in the same memory.
    ///
    /// # Errors
    /// When there is not enough memory, or `watched` is told to stop.
    ///
    /// # Panics
    /// When there are more or fewer of them than channels.
    pub fn scale_shift(
        self,
        context: &Context,
        scale: &[f32],
        shift: &[f32],
        watched: &mut Watched<'_>,
    ) -> Result<Self, Stopped> {
        let (scale, shift) = (padded(scale, 1.0, &self), padded(shift, 0.0, &self));
        run(context, self, Pre::default(), Operation::ScaleShift(&scale, &shift), watched)
    }

    /// The first half of the channels times SiLU of the second half: diffusers' `SwiGLU` behind its projection.
    ///
    /// # Errors
    /// When there is not enough memory, or `watched` is told to stop.
    ///
    /// # Panics
    /// When the number of channels is odd.
    pub fn swiglu(self, context: &Context, watched: &mut Watched<'_>) -> Result<Self, Stopped> {
        assert!(self.channels.is_multiple_of(2), "{} channels have no halves", self.channels);
        run(context, self, Pre::default(), Operation::SwiGlu, watched)
    }
}

impl Clip {
    /// [`Features::apply`]; a group norm is that of all frames together.
    ///
    /// # Errors
    /// As there.
    pub fn apply(self, context: &Context, pre: Pre<'_>, watched: &mut Watched<'_>) -> Result<Self, Stopped> {
        Ok(Self::of(self.frames.apply(context, pre, watched)?))
    }

    /// [`Features::add`].
    ///
    /// # Errors
    /// As there.
    ///
    /// # Panics
    /// As there.
    pub fn add(self, context: &Context, other: &Self, watched: &mut Watched<'_>) -> Result<Self, Stopped> {
        Ok(Self::of(self.frames.add(context, &other.frames, watched)?))
    }

    /// [`Features::multiply`].
    ///
    /// # Errors
    /// As there.
    ///
    /// # Panics
    /// As there.
    pub fn multiply(
        self,
        context: &Context,
        other: &Self,
        watched: &mut Watched<'_>,
    ) -> Result<Self, Stopped> {
        Ok(Self::of(self.frames.multiply(context, &other.frames, watched)?))
    }

    /// [`Features::clamp`].
    ///
    /// # Errors
    /// As there.
    pub fn clamp(
        self,
        context: &Context,
        low: f32,
        high: f32,
        watched: &mut Watched<'_>,
    ) -> Result<Self, Stopped> {
        Ok(Self::of(self.frames.clamp(context, low, high, watched)?))
    }

    /// [`Features::scale_shift`].
    ///
    /// # Errors
    /// As there.
    ///
    /// # Panics
    /// As there.
    pub fn scale_shift(
        self,
        context: &Context,
        scale: &[f32],
        shift: &[f32],
        watched: &mut Watched<'_>,
    ) -> Result<Self, Stopped> {
        Ok(Self::of(self.frames.scale_shift(context, scale, shift, watched)?))
    }

    /// [`Features::swiglu`].
    ///
    /// # Errors
    /// As there.
    ///
    /// # Panics
    /// As there.
    pub fn swiglu(self, context: &Context, watched: &mut Watched<'_>) -> Result<Self, Stopped> {
        Ok(Self::of(self.frames.swiglu(context, watched)?))
    }
}
