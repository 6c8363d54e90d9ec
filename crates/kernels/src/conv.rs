//! Two-dimensional convolutions: what they are, and which kernel does them.

use crate::arena::OutOfMemory;
use crate::context::Context;
use crate::direct::{self, Plane};
use crate::features::{ChannelStats, Features, PAD, Storage, product};
use crate::few_outputs;
use crate::norm::{Affine, Norm};
use crate::plan::{self, Algorithm, Kinds, Plan};
use crate::pointwise;
use crate::simd::amx::Amx;
use crate::sink::Sink;
use crate::source::{Activation, PaddingMode, Source};
use crate::watch::{Stopped, Watched};
use crate::weights::{DType, WeightView};
use crate::winograd;

/// A convolution's weights and geometry.
#[derive(Clone, Copy)]
pub struct Conv2d<'a> {
    /// `[out, in, kernel, kernel]`.
    pub weight: WeightView<'a>,
    /// `[out]`, or empty for none.
    pub bias: &'a [f32],
    /// Input channels.
    pub in_channels: usize,
    /// Output channels.
    pub out_channels: usize,
    /// 1 or 3.
    pub kernel: usize,
    /// Step between outputs.
    pub stride: usize,
    /// Rows and columns around the image: top, bottom, left, right.
    pub padding: [usize; 4],
    /// What stands in them.
    pub padding_mode: PaddingMode,
    /// Groups of channels that do not see each other, 1 for none: `weight` is `[out, in / groups, kernel, kernel]`.
    pub groups: usize,
}

impl Default for Conv2d<'_> {
    /// 1×1, without weights, bias, stride, padding and groups.
    fn default() -> Self {
        Self {
            weight: WeightView::new(DType::F32, &[]),
            bias: &[],
            in_channels: 0,
            out_channels: 0,
            kernel: 1,
            stride: 1,
            padding: [0; 4],
            padding_mode: PaddingMode::Zeros,
            groups: 1,
        }
    }
}

/// What becomes of the input before a convolution.
#[derive(Clone, Copy, Default)]
pub struct Pre<'a> {
    /// Normalised.
    pub norm: Option<Norm<'a>>,
    /// Then activated.
    pub activation: Option<Activation>,
}

/// What a convolution multiplies with, whatever its geometry.
#[derive(Clone, Copy)]
pub(crate) struct Kernel<'a> {
    /// `[out, in / groups, taps]`
    pub(crate) weight: WeightView<'a>,
    /// `[out]`, or empty for none.
    pub(crate) bias: &'a [f32],
    pub(crate) in_channels: usize,
    pub(crate) out_channels: usize,
    pub(crate) taps: usize,
    pub(crate) groups: usize,
}

impl Kernel<'_> {
    /// Input channels that an output sees.
    pub(crate) fn seen(&self) -> usize {
        self.in_channels / self.groups
    }

    /// The first of them for an output.
    pub(crate) fn first_seen(&self, out: usize) -> usize {
        out / (self.out_channels / self.groups) * self.seen()
    }

    /// Refuses groups that do not divide the channels, and weights and biases that are not of these shapes.
    pub(crate) fn check(&self) {
        let Self { in_channels, out_channels, groups, .. } = *self;
        let divides = |channels: usize| groups > 0 && channels.is_multiple_of(groups);
        let whole = divides(in_channels) && divides(out_channels);
        assert!(whole, "{groups} groups of {in_channels} input and {out_channels} output channels");
        check_weights(self.weight, &[out_channels, self.seen(), self.taps], self.bias);
    }
}

/// One convolution on its way through a kernel.
pub(crate) struct Job<'a> {
    pub(crate) context: &'a Context,
    pub(crate) source: Source<'a>,
    pub(crate) kernel: Kernel<'a>,
    /// `[stride of y]`
    pub(crate) bias: &'a [f32],
    pub(crate) y: &'a Features,
    pub(crate) residual_unit: Option<&'a [f32]>,
    /// `[stride of y]`
    pub(crate) inverse_unit: &'a [f32],
}

/// What a kernel returns: its output is written, and these are its statistics.
pub(crate) struct Ready {
    pub(crate) stats: Vec<ChannelStats>,
}

impl<'a> Job<'a> {
    pub(crate) fn sink(&self, image: usize) -> Sink<'a> {
        Sink::new(self.y.target(), image, self.bias, self.residual_unit, self.inverse_unit)
    }
}

impl Conv2d<'_> {
    /// Height and width of the output.
    ///
    /// # Panics
    /// When the image, with its padding, is smaller than the kernel, or the stride is 0.
    pub fn output_size(&self, height: usize, width: usize) -> (usize, usize) {
        let [top, bottom, left, right] = self.padding;
        let side = |length: usize, padding: [usize; 2]| {
            let padded = padding.into_iter().try_fold(length, usize::checked_add);
            let steps = padded.and_then(|padded| padded.checked_sub(self.kernel)?.checked_div(self.stride));
            let Some(steps) = steps else {
                panic!(
                    "a convolution with a kernel of {0}×{0} and stride {1} of an image of {height}×{width} with \
                     padding {2:?}: the stride must be at least 1, and the padded image no smaller than the kernel",
                    self.kernel, self.stride, self.padding
                )
            };
            steps + 1
        };
        (side(height, [top, bottom]), side(width, [left, right]))
    }

    /// Refuses geometry that the kernels do not have.
    fn check(&self, x: &Features) {
        let Self { kernel, stride, padding, padding_mode, in_channels, .. } = *self;
        assert!(matches!(kernel, 1 | 3), "a kernel of {kernel}×{kernel}: there are 1×1 and 3×3");
        assert!(matches!(stride, 1 | 2), "a stride of {stride}: there are 1 and 2");
        assert!(padding.iter().all(|&side| side < 3), "padding {padding:?}: there is none of more than 2");
        assert_eq!(x.channels, in_channels, "channels of the input and of the weights");
        self.kernel().check();
        let [top, bottom, left, right] = padding;
        let mirrors = x.height > top.max(bottom) && x.width > left.max(right);
        assert!(
            padding_mode != PaddingMode::Reflect || mirrors,
            "an image is reflected over less than its size"
        );
    }

    /// Whether it keeps the size of the image with a 3×3 kernel: what Winograd's filtering is for.
    pub(crate) fn is_same3x3(&self) -> bool {
        self.kernel == 3 && self.stride == 1 && self.padding == [1; 4]
    }

    /// Whether its taps are done side by side.
    fn is_few_outputs(&self) -> bool {
        self.is_same3x3() && self.groups == 1 && self.out_channels <= few_outputs::MOST
    }

    /// `conv(pre(x))`, plus `residual`, whose memory becomes the result's.
    ///
    /// # Errors
    /// When there is not enough memory, or `watched` is told to stop.
    ///
    /// # Panics
    /// When shapes do not fit together, or the kernel, stride or padding is one that there is none of.
    pub fn run(
        &self,
        context: &Context,
        x: &Features,
        pre: Pre<'_>,
        residual: Option<Features>,
        watched: &mut Watched<'_>,
    ) -> Result<Features, Stopped> {
        self.run_behind(context, x, pre, residual, 1, watched)
    }

    /// `conv(upsample(pre(x)))`, plus `residual`, whose memory becomes the result's, for a nearest upsampling by 1 or 2. Behind
    /// one by 2 there are 3×3 convolutions that keep the size only.
    ///
    /// # Errors
    /// When there is not enough memory, or `watched` is told to stop.
    ///
    /// # Panics
    /// As [`Conv2d::run`].
    pub fn run_behind(
        &self,
        context: &Context,
        x: &Features,
        pre: Pre<'_>,
        residual: Option<Features>,
        upsample: usize,
        watched: &mut Watched<'_>,
    ) -> Result<Features, Stopped> {
        self.check(x);
        let same = upsample == 1 || self.is_same3x3();
        assert!(same, "behind an upsampling there are 3×3 convolutions that keep the size only");
        let affine = affine(context, x, pre)?;
        let affine = affine.as_ref();
        let algorithm = self.plan_with(context, x, affine).algorithm;
        let plane = self.plane(upsample);
        self.with(context, x, pre.activation, affine, residual, upsample, |job| match (algorithm, upsample) {
            (Algorithm::Winograd6, 1) => winograd::run(job, winograd::F6x3, watched),
            (Algorithm::Winograd4, 1) => winograd::run(job, winograd::F4x3, watched),
            (Algorithm::WinogradTiles, 1) => winograd::run_in_tiles(job, winograd::Near4x3, watched),
            (Algorithm::Winograd6, _) => winograd::run(job, winograd::F7x2, watched),
            (Algorithm::Winograd4, _) => winograd::run(job, winograd::F5x2, watched),
            (Algorithm::WinogradTiles, _) => winograd::run_in_tiles(job, winograd::Near5x2, watched),
            (Algorithm::Tiles, _) => direct::run_in_tiles(job, plane, watched),
            (Algorithm::Direct, 1) if self.is_few_outputs() => few_outputs::run(job, watched),
            (Algorithm::Direct, _) => direct::run(job, plane, watched),
        })
    }

    /// How [`Conv2d::run`] and [`Conv2d::run_upsampled`] would do it, and why.
    pub fn plan(&self, context: &Context, x: &Features, pre: Pre<'_>) -> Plan {
        match affine(context, x, pre) {
            Ok(affine) => self.plan_with(context, x, affine.as_ref()),
            Err(OutOfMemory(_)) => Plan::without_memory(),
        }
    }

    fn plan_with(&self, context: &Context, x: &Features, affine: Option<&Affine>) -> Plan {
        let kinds = Kinds { winograd: self.is_same3x3(), tiles: true };
        plan::choose(context, &self.kernel(), kinds, x, affine)
    }

    /// `conv(nearest_upsample_2x(x))` for a 3×3 convolution that keeps the size.
    ///
    /// # Errors
    /// When there is not enough memory, or `watched` is told to stop.
    ///
    /// # Panics
    /// When it is not such a convolution, or shapes do not fit together.
    pub fn run_upsampled(
        &self,
        context: &Context,
        x: &Features,
        watched: &mut Watched<'_>,
    ) -> Result<Features, Stopped> {
        self.run_behind(context, x, Pre::default(), None, 2, watched)
    }

    /// A 1×1 convolution that uses up its input; where the output is no larger it takes the input's memory.
    ///
    /// # Errors
    /// When there is not enough memory, or `watched` is told to stop.
    ///
    /// # Panics
    /// When it is not such a convolution, or shapes do not fit together.
    pub fn run_pointwise(
        &self,
        context: &Context,
        x: Features,
        watched: &mut Watched<'_>,
    ) -> Result<Features, Stopped> {
        self.check(&x);
        let whole = self.kernel == 1 && self.stride == 1 && self.padding == [0; 4] && self.groups == 1;
        assert!(whole, "a 1×1 convolution without stride, padding and groups");
        let affine = affine(context, &x, Pre::default())?;
        let (bias, unit) = output_unit(context, &self.kernel(), &x, affine.as_ref(), None);
        let amx = (self.plan_with(context, &x, affine.as_ref()).algorithm == Algorithm::Tiles)
            .then(Amx::new)
            .flatten();
        pointwise::run(context, &self.kernel(), amx, x, &bias, unit, watched)
    }

    /// Prepares the output and runs a kernel.
    #[allow(clippy::too_many_arguments, reason = "one private place where all parts of a job meet")]
    fn with(
        &self,
        context: &Context,
        x: &Features,
        activation: Option<Activation>,
        affine: Option<&Affine>,
        residual: Option<Features>,
        upsample: usize,
        kernel: impl FnOnce(&mut Job<'_>) -> Result<Ready, Stopped>,
    ) -> Result<Features, Stopped> {
        let (height, width) = self.output_size(x.height * upsample, x.width * upsample);
        let (bias, unit) = output_unit(context, &self.kernel(), x, affine, residual.as_ref());
        let inverse_unit: Vec<f32> = unit.iter().map(|u| 1.0 / u).collect();
        let (mut y, residual_unit) = match residual {
            Some(mut y) => {
                let shape = [y.batch, y.height, y.width, y.channels];
                assert_eq!(shape, [x.batch, height, width, self.out_channels], "the residual and the output");
                assert_eq!(y.storage, context.storage, "the residual's storage and the output's");
                let old = std::mem::replace(&mut y.unit, unit);
                (y, Some(old))
            }
            None => {
                let shape = [x.batch, height, width, self.out_channels];
                (Features::new(&context.arena, shape, context.storage, unit)?, None)
            }
        };
        // A mirrored border that was enlarged twice is the border itself.
        let enlarged = upsample == 2 && self.padding_mode == PaddingMode::Reflect;
        let mode = if enlarged { PaddingMode::Replicate } else { self.padding_mode };
        let ready = kernel(&mut Job {
            context,
            source: Source { x, affine, activation, mode },
            kernel: self.kernel(),
            bias: &bias,
            y: &y,
            residual_unit: residual_unit.as_deref(),
            inverse_unit: &inverse_unit,
        })?;
        y.stats = ready.stats;
        Ok(y)
    }

    /// As the direct kernels see it, behind an enlargement by `upsample`.
    fn plane(&self, upsample: usize) -> Plane {
        let [top, _, left, _] = self.padding;
        Plane { kernel: [self.kernel; 2], stride: [self.stride; 2], padding: [top, left], upsample }
    }

    fn kernel(&self) -> Kernel<'_> {
        Kernel {
            weight: self.weight,
            bias: self.bias,
            in_channels: self.in_channels,
            out_channels: self.out_channels,
            taps: self.kernel * self.kernel,
            groups: self.groups,
        }
    }
}

/// Refuses weights and biases that are not of this shape.
pub(crate) fn check_weights(weight: WeightView<'_>, shape: &[usize], bias: &[f32]) {
    assert_eq!(product(shape), Some(weight.len()), "{} weights for the shape {shape:?}", weight.len());
    assert!(bias.is_empty() || bias.len() == shape[0], "{} biases for {} outputs", bias.len(), shape[0]);
}

/// The bias, padded, and for each output channel a unit in which no value can overflow: the largest that the
/// weights can make of inputs within their known bounds, as a power of two, is put at f16's largest.
///
/// A bound by absolute sums is a few hundred times what is ever reached; f16 keeps its full precision over a range
/// of 2^30, so nothing is lost by it.
pub(crate) fn output_unit(
    context: &Context,
    kernel: &Kernel<'_>,
    x: &Features,
    affine: Option<&Affine>,
    residual: Option<&Features>,
) -> (Vec<f32>, Vec<f32>) {
    let stride = kernel.out_channels.next_multiple_of(PAD);
    let mut bias = kernel.bias.to_vec();
    bias.resize(stride, 0.0);
    if context.storage == Storage::F32 {
        return (bias, vec![1.0; stride]);
    }
    let bounds = affine.map_or_else(|| Affine::units(x).bound, |a| a.bound.clone());
    let taps = kernel.taps;
    let unit = std::sync::Mutex::new(vec![1.0f32; stride]);
    context.pool.run(kernel.out_channels, |_, out| {
        let mut row = vec![0.0; kernel.seen() * taps];
        kernel.weight.read(out * row.len(), &mut row);
        let mut bound = f64::from(bias[out].abs());
        for (taps, &largest) in row.chunks_exact(taps).zip(&bounds[kernel.first_seen(out)..]) {
            bound += taps.iter().map(|w| f64::from(w.abs())).sum::<f64>() * f64::from(largest);
        }
        if let Some(residual) = residual {
            bound += residual.stats.iter().map(|s| f64::from(s.abs_max[out])).fold(0.0, f64::max);
        }
        unit.lock().unwrap_or_else(std::sync::PoisonError::into_inner)[out] = unit_for(bound);
    });
    (bias, unit.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner))
}

/// The power of two in which values up to `bound` fit into f16 (largest 65504).
pub(crate) fn unit_for(bound: f64) -> f32 {
    if !bound.is_finite() || bound <= 0.0 {
        return 1.0;
    }
    let exponent = (bound / 32768.0).log2().ceil().clamp(-60.0, 100.0);
    exponent.exp2() as f32
}

/// Norm and units as one multiplication and addition; none for plain f32.
pub(crate) fn affine(context: &Context, x: &Features, pre: Pre<'_>) -> Result<Option<Affine>, OutOfMemory> {
    Ok(match (pre.norm, x.storage) {
        (Some(norm), _) => Some(Affine::norm(context, x, norm)?),
        (None, Storage::F16) => Some(Affine::units(x)),
        (None, Storage::F32) if pre.activation.is_some() => Some(Affine::units(x)),
        (None, Storage::F32) => None,
    })
}
