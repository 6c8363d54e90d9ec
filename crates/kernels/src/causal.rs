//! Clips of frames, and the convolutions over them that are causal in time.

use crate::arena::OutOfMemory;
use crate::attention::Attention;
use crate::context::Context;
use crate::conv::{Conv2d, Job, Kernel, Pre, check_weights, output_unit};
use crate::direct;
use crate::features::{ChannelStats, Features, product};
use crate::norm::Affine;
use crate::plan::{self, Algorithm, Kinds, Plan};
use crate::schedule::Schedule;
use crate::source::{Edge, Source};
use crate::watch::{Stopped, Watched};
use crate::weights::WeightView;
use crate::winograd;

/// The feature maps of one clip.
pub struct Clip {
    /// Its images are the frames; its statistics have one entry, of all frames together.
    frames: Features,
}

impl Clip {
    /// From `[C, F, H, W]` values in C order, in the context's storage.
    ///
    /// # Errors
    /// When there is not enough memory.
    ///
    /// # Panics
    /// When the shape is not that of as many values as there are, or has none.
    pub fn from_cfhw(context: &Context, shape: [usize; 4], data: &[f32]) -> Result<Self, OutOfMemory> {
        let [channels, frames, height, width] = shape;
        assert_eq!(product(&shape), Some(data.len()), "{} values for the shape {shape:?}", data.len());
        if context.is_rehearsal() {
            let frames = Features::from_nchw(&context.arena, [frames, channels, height, width], data)?;
            return Ok(Self::of(frames.stored(context)?));
        }
        let data = swapped(data, [channels, frames], height * width);
        let frames = Features::from_nchw(&context.arena, [frames, channels, height, width], &data)?;
        Ok(Self::of(frames.stored(context)?))
    }

    /// To `[C, F, H, W]` values in C order.
    pub fn to_cfhw(&self) -> Vec<f32> {
        let [frames, channels, height, width] = self.frames.shape();
        if self.frames.buffer.is_rehearsal() {
            return self.frames.to_nchw();
        }
        swapped(&self.frames.to_nchw(), [frames, channels], height * width)
    }

    /// `[C, F, H, W]`.
    pub fn shape(&self) -> [usize; 4] {
        let [frames, channels, height, width] = self.frames.shape();
        [channels, frames, height, width]
    }

    /// The statistics of its channels.
    pub fn stats(&self) -> &ChannelStats {
        &self.frames.stats[0]
    }

    /// A clip of frames that have statistics one by one.
    fn of(mut frames: Features) -> Self {
        let merged = ChannelStats::merged(&frames.stats, frames.height * frames.width);
        frames.stats = vec![merged];
        Self { frames }
    }

    /// The same memory as one image, frame below frame, and back.
    fn stacked(mut self) -> (Features, usize) {
        let frames = self.frames.batch;
        self.frames.batch = 1;
        self.frames.height *= frames;
        (self.frames, frames)
    }

    fn unstacked(mut image: Features, frames: usize) -> Self {
        image.height /= frames;
        image.batch = frames;
        Self { frames: image }
    }

    /// Norm and units of the whole clip, for each of its frames; none for plain f32.
    fn affine(&self, pre: Pre<'_>) -> Option<Affine> {
        let affine = crate::conv::affine(&self.frames, pre)?;
        Some(if pre.norm.is_some() { affine.for_each_of(self.frames.batch) } else { affine })
    }
}

/// `[a, b, size]` values to `[b, a, size]`.
fn swapped(data: &[f32], [a, b]: [usize; 2], size: usize) -> Vec<f32> {
    let mut out = Vec::with_capacity(data.len());
    for j in 0..b {
        for i in 0..a {
            out.extend_from_slice(&data[(i * b + j) * size..][..size]);
        }
    }
    out
}

/// How values are repeated before a convolution.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Upsampling {
    /// Each frame but the first twice.
    pub time: bool,
    /// Each value twice along height and width.
    pub space: bool,
}

/// A 3×3×3 convolution that sees the frame and the two before it. Before the beginning the first frame is repeated, and
/// around each frame its border, so that the clip keeps its size without a stride.
#[derive(Clone, Copy)]
pub struct CausalConv3d<'a> {
    /// `[out, in, 3, 3, 3]`.
    pub weight: WeightView<'a>,
    /// `[out]`, or empty for none.
    pub bias: &'a [f32],
    /// Input channels.
    pub in_channels: usize,
    /// Output channels.
    pub out_channels: usize,
    /// The step from one output to the next.
    pub stride: Stride,
}

/// The step from one output of a convolution over a clip to the next, 1 or 2 along each axis: of `n` positions
/// `(n - 1) / step + 1` are made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stride {
    /// In frames.
    pub time: usize,
    /// In rows and columns.
    pub space: usize,
}

impl Default for Stride {
    fn default() -> Self {
        Self { time: 1, space: 1 }
    }
}

impl<'a> CausalConv3d<'a> {
    /// `conv(upsample(pre(x)))`, plus `residual`, whose memory becomes the result's. A convolution with a stride is not
    /// behind an upsampling.
    ///
    /// # Errors
    /// When there is not enough memory, or `watched` is told to stop.
    ///
    /// # Panics
    /// When shapes do not fit together, or the stride is not 1 or 2, or stands behind an upsampling.
    pub fn run(
        &self,
        context: &Context,
        x: &Clip,
        pre: Pre<'_>,
        upsampling: Upsampling,
        residual: Option<Clip>,
        watched: &mut Watched<'_>,
    ) -> Result<Clip, Stopped> {
        let x_affine = x.affine(pre);
        let (affine, x) = (x_affine.as_ref(), &x.frames);
        assert_eq!(x.channels, self.in_channels, "channels of the input and of the weights");
        check_weights(self.weight, &[self.out_channels, self.in_channels, 3, 3, 3], self.bias);
        let Stride { time, space } = self.stride;
        assert!([time, space].iter().all(|step| matches!(step, 1 | 2)), "a stride of 1 or 2");
        let alone = self.stride == Stride::default() || upsampling == Upsampling::default();
        assert!(alone, "a convolution with a stride is not behind an upsampling");
        let schedule =
            if time == 2 { Schedule::strided(x.batch) } else { Schedule::new(x.batch, upsampling.time) };
        let upsample = if upsampling.space { 2 } else { 1 };
        let [height, width] = [x.height, x.width].map(|side| (side * upsample).div_ceil(space));
        let shape = [schedule.outputs.len(), height, width, self.out_channels];
        let kernel = self.kernel();
        let residual = residual.map(|clip| clip.frames);
        let (bias, unit) = output_unit(context, &kernel, x, affine, residual.as_ref());
        let inverse_unit: Vec<f32> = unit.iter().map(|u| 1.0 / u).collect();
        let (mut y, residual_unit) = match residual {
            Some(mut y) => {
                assert_eq!([y.batch, y.height, y.width, y.channels], shape, "the residual and the output");
                assert_eq!(y.storage, context.storage, "the residual's storage and the output's");
                let old = std::mem::replace(&mut y.unit, unit);
                (y, Some(old))
            }
            None => (Features::new(&context.arena, shape, context.storage, unit)?, None),
        };
        let job = Job {
            context,
            source: Source { x, affine, silu: pre.silu, edge: Edge::Replicate },
            weight: self.weight,
            bias: &bias,
            y: &y,
            residual_unit: residual_unit.as_deref(),
            inverse_unit: &inverse_unit,
        };
        let algorithm = self.plan_with(context, x, affine).algorithm;
        let stats = match (algorithm, upsampling.space) {
            (Algorithm::Winograd6, false) => winograd::run_causal(&job, &schedule, winograd::F6x3, watched),
            (Algorithm::Winograd4, false) => winograd::run_causal(&job, &schedule, winograd::F4x3, watched),
            (Algorithm::Winograd6, true) => winograd::run_causal(&job, &schedule, winograd::F7x2, watched),
            (Algorithm::Winograd4, true) => winograd::run_causal(&job, &schedule, winograd::F5x2, watched),
            (Algorithm::Direct | Algorithm::Tiles | Algorithm::WinogradTiles, _) => {
                direct::run_causal(&job, &schedule, upsample, space, watched)
            }
        }?;
        y.stats = vec![stats];
        Ok(Clip { frames: y })
    }

    /// How [`CausalConv3d::run`] would do it, and why.
    pub fn plan(&self, context: &Context, x: &Clip, pre: Pre<'_>) -> Plan {
        self.plan_with(context, &x.frames, x.affine(pre).as_ref())
    }

    fn plan_with(&self, context: &Context, x: &Features, affine: Option<&Affine>) -> Plan {
        let kinds = Kinds { winograd: self.stride.space == 1, tiles: false };
        plan::choose(context, &self.kernel(), kinds, x, x.batch * x.height * x.width, affine)
    }

    fn kernel(&self) -> Kernel<'a> {
        Kernel {
            weight: self.weight,
            bias: self.bias,
            in_channels: self.in_channels,
            out_channels: self.out_channels,
            taps: 27,
        }
    }
}

impl Conv2d<'_> {
    /// [`Conv2d::run_pointwise`] on every frame of a clip.
    ///
    /// # Errors
    /// When there is not enough memory, or `watched` is told to stop.
    ///
    /// # Panics
    /// As [`Conv2d::run_pointwise`].
    pub fn run_pointwise_on_clip(
        &self,
        context: &Context,
        x: Clip,
        watched: &mut Watched<'_>,
    ) -> Result<Clip, Stopped> {
        Ok(Clip::of(self.run_pointwise(context, x.frames, watched)?))
    }
}

impl Attention<'_> {
    /// [`Attention::run`] over all positions of a clip, each of which sees its own frame and those before it.
    ///
    /// # Errors
    /// When there is not enough memory, or `watched` is told to stop.
    pub fn run_causal(&self, context: &Context, x: Clip, watched: &mut Watched<'_>) -> Result<Clip, Stopped> {
        let area = x.frames.height * x.frames.width;
        let (image, frames) = x.stacked();
        Ok(Clip::unstacked(self.run_seeing(context, image, area, watched)?, frames))
    }
}
