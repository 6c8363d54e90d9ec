//! Convolutions over clips, in time and in the plane.

use crate::attention::Attention;
use crate::clip::Clip;
use crate::context::Context;
use crate::conv::{Conv2d, Job, Kernel, Pre, affine, output_unit};
use crate::direct::{self, Plane};
use crate::features::Features;
use crate::norm::Affine;
use crate::plan::{self, Algorithm, Kinds, Plan};
use crate::schedule::{Schedule, Time};
use crate::source::{PaddingMode, Source};
use crate::watch::{Stopped, Watched};
use crate::weights::WeightView;
use crate::winograd;

/// How values are repeated before a convolution.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Upsampling {
    /// Each frame but the first twice.
    pub time: bool,
    /// Each value twice along height and width.
    pub space: bool,
}

/// A convolution over a clip: in time, height and width.
#[derive(Clone, Copy)]
pub struct Conv3d<'a> {
    /// `[out, in / groups, kernel]`.
    pub weight: WeightView<'a>,
    /// `[out]`, or empty for none.
    pub bias: &'a [f32],
    /// Input channels.
    pub in_channels: usize,
    /// Output channels.
    pub out_channels: usize,
    /// 1 or 3 along each axis.
    pub kernel: [usize; 3],
    /// The step from one output to the next, 1 or 2 along each axis.
    pub stride: [usize; 3],
    /// What is added around the clip.
    pub padding: Padding3d,
    /// Groups of channels that do not see each other, 1 for none.
    pub groups: usize,
}

/// What is added around a clip.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Padding3d {
    /// Frames: before the first, behind the last. Causal convolutions have two before and none behind.
    pub time: [usize; 2],
    /// What stands in them.
    pub time_mode: PaddingMode,
    /// Rows and columns around each frame: top, bottom, left, right.
    pub space: [usize; 4],
    /// What stands in them.
    pub space_mode: PaddingMode,
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
    /// As [`Conv3d::run`].
    pub fn run(
        &self,
        context: &Context,
        x: &Clip,
        pre: Pre<'_>,
        upsampling: Upsampling,
        residual: Option<Clip>,
        watched: &mut Watched<'_>,
    ) -> Result<Clip, Stopped> {
        self.general().run(context, x, pre, upsampling, residual, watched)
    }

    /// How [`CausalConv3d::run`] would do it, and why.
    pub fn plan(&self, context: &Context, x: &Clip, pre: Pre<'_>) -> Plan {
        self.general().plan(context, x, pre)
    }

    fn general(&self) -> Conv3d<'a> {
        let Self { weight, bias, in_channels, out_channels, stride: Stride { time, space } } = *self;
        let padding = Padding3d {
            time: [2, 0],
            time_mode: PaddingMode::Replicate,
            space: [1; 4],
            space_mode: PaddingMode::Replicate,
        };
        let (kernel, stride) = ([3; 3], [time, space, space]);
        Conv3d { weight, bias, in_channels, out_channels, kernel, stride, padding, groups: 1 }
    }
}

impl<'a> Conv3d<'a> {
    /// `conv(upsample(pre(x)))`, plus `residual`, whose memory becomes the result's. Behind an upsampling there are
    /// convolutions without stride only, and behind one in the plane 3×3 that keep its size.
    ///
    /// # Errors
    /// When there is not enough memory, or `watched` is told to stop.
    ///
    /// # Panics
    /// When shapes do not fit together, or the geometry is one that there is none of.
    pub fn run(
        &self,
        context: &Context,
        x: &Clip,
        pre: Pre<'_>,
        upsampling: Upsampling,
        residual: Option<Clip>,
        watched: &mut Watched<'_>,
    ) -> Result<Clip, Stopped> {
        if let Some(conv) = self.of_each_frame().filter(|_| !upsampling.time) {
            return match upsampling.space {
                false => conv.run_on_clip(context, x, pre, residual, watched),
                true => conv.run_upsampled_on_clip(context, x, pre, residual, watched),
            };
        }
        let x = &x.frames;
        let kernel = self.kernel();
        self.check(x, upsampling);
        let affine = affine(context, x, pre)?;
        let affine = affine.as_ref();
        let Padding3d { time, time_mode, space: [top, bottom, left, right], space_mode } = self.padding;
        let schedule = Schedule::new(
            x.batch,
            Time {
                kernel: self.kernel[0],
                stride: self.stride[0],
                padding: time,
                mode: time_mode,
                upsampled: upsampling.time,
            },
        );
        let plane = Plane {
            kernel: [self.kernel[1], self.kernel[2]],
            stride: [self.stride[1], self.stride[2]],
            padding: [top, left],
            upsample: if upsampling.space { 2 } else { 1 },
        };
        let side = |length: usize, padding: usize, axis: usize| {
            (length * plane.upsample + padding - plane.kernel[axis]) / plane.stride[axis] + 1
        };
        let [height, width] = [side(x.height, top + bottom, 0), side(x.width, left + right, 1)];
        let shape = [schedule.outputs.len(), height, width, self.out_channels];
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
        // A mirrored border that was enlarged twice is the border itself.
        let enlarged = upsampling.space && space_mode == PaddingMode::Reflect;
        let mode = if enlarged { PaddingMode::Replicate } else { space_mode };
        let job = Job {
            context,
            source: Source { x, affine, activation: pre.activation, mode },
            kernel,
            bias: &bias,
            y: &y,
            residual_unit: residual_unit.as_deref(),
            inverse_unit: &inverse_unit,
        };
        let algorithm = self.plan_with(context, x, affine).algorithm;
        let stats = match (algorithm, upsampling.space) {
            (Algorithm::Winograd6, false) => {
                winograd::run_over_time(&job, &schedule, winograd::F6x3, watched)
            }
            (Algorithm::Winograd4, false) => {
                winograd::run_over_time(&job, &schedule, winograd::F4x3, watched)
            }
            (Algorithm::Winograd6, true) => winograd::run_over_time(&job, &schedule, winograd::F7x2, watched),
            (Algorithm::Winograd4, true) => winograd::run_over_time(&job, &schedule, winograd::F5x2, watched),
            (Algorithm::Direct | Algorithm::Tiles | Algorithm::WinogradTiles, _) => {
                direct::run_over_time(&job, &schedule, plane, watched)
            }
        }?;
        y.stats = vec![stats];
        Ok(Clip { frames: y })
    }

    /// How [`Conv3d::run`] would do it, and why.
    pub fn plan(&self, context: &Context, x: &Clip, pre: Pre<'_>) -> Plan {
        if let Some(conv) = self.of_each_frame() {
            return conv.plan(context, &x.frames, pre);
        }
        match affine(context, &x.frames, pre) {
            Ok(affine) => self.plan_with(context, &x.frames, affine.as_ref()),
            Err(_) => Plan::without_memory(),
        }
    }

    fn plan_with(&self, context: &Context, x: &Features, affine: Option<&Affine>) -> Plan {
        let kinds = Kinds { winograd: self.kernel == [3; 3] && self.keeps_frames(), tiles: false };
        plan::choose(context, &self.kernel(), kinds, x, affine)
    }

    /// Whether it is 3×3 in the plane, and keeps the size of frames.
    fn keeps_frames(&self) -> bool {
        self.kernel[1..] == [3; 2] && self.stride[1..] == [1; 2] && self.padding.space == [1; 4]
    }

    /// The same as a convolution of one frame after the other, if it sees one at a time.
    fn of_each_frame(&self) -> Option<Conv2d<'a>> {
        let Self { weight, bias, in_channels, out_channels, kernel, stride, padding, groups } = *self;
        let alone = kernel[0] == 1 && stride[0] == 1 && padding.time == [0; 2];
        (alone && kernel[1] == kernel[2] && stride[1] == stride[2]).then_some(Conv2d {
            weight,
            bias,
            in_channels,
            out_channels,
            kernel: kernel[1],
            stride: stride[1],
            padding: padding.space,
            padding_mode: padding.space_mode,
            groups,
        })
    }

    /// Refuses geometry that the kernels do not have. What is only in time, [`Schedule::new`] refuses.
    fn check(&self, x: &Features, upsampling: Upsampling) {
        let Self { kernel, stride, in_channels, .. } = *self;
        let Padding3d { space: [top, bottom, left, right], space_mode, .. } = self.padding;
        assert!(kernel.iter().all(|side| matches!(side, 1 | 3)), "a kernel of {kernel:?}: there are 1 and 3");
        assert!(stride.iter().all(|step| matches!(step, 1 | 2)), "a stride of {stride:?}: there are 1 and 2");
        let still = upsampling == Upsampling::default();
        assert!(still || stride == [1; 3], "a convolution with a stride is not behind an upsampling");
        let same = !upsampling.space || self.keeps_frames();
        assert!(same, "behind an upsampling there are 3×3 convolutions that keep the size only");
        for (length, [before, after], side) in
            [(x.height, [top, bottom], kernel[1]), (x.width, [left, right], kernel[2])]
        {
            assert!(before.max(after) < 3, "padding of {before} and {after}: there is none of more than 2");
            let padded = length + before + after;
            assert!(
                padded >= side,
                "a kernel of {side} over {padded} padded rows or columns: it must be no larger"
            );
            let mirrors = space_mode != PaddingMode::Reflect || length > before.max(after);
            assert!(mirrors, "a frame is reflected over less than its size");
        }
        assert_eq!(x.channels, in_channels, "channels of the input and of the weights");
        self.kernel().check();
    }

    fn kernel(&self) -> Kernel<'a> {
        Kernel {
            weight: self.weight,
            bias: self.bias,
            in_channels: self.in_channels,
            out_channels: self.out_channels,
            taps: self.kernel.iter().product(),
            groups: self.groups,
        }
    }
}

impl Conv2d<'_> {
    /// [`Conv2d::run`] on every frame of a clip, whose group norm is that of all frames together.
    ///
    /// # Errors
    /// When there is not enough memory, or `watched` is told to stop.
    ///
    /// # Panics
    /// As [`Conv2d::run`].
    pub fn run_on_clip(
        &self,
        context: &Context,
        x: &Clip,
        pre: Pre<'_>,
        residual: Option<Clip>,
        watched: &mut Watched<'_>,
    ) -> Result<Clip, Stopped> {
        let residual = residual.map(|clip| clip.frames);
        Ok(Clip::of(self.run(context, &x.frames, pre, residual, watched)?))
    }

    /// [`Conv2d::run_upsampled`] on every frame of a clip, of `pre(x)` and plus `residual`.
    ///
    /// # Errors
    /// When there is not enough memory, or `watched` is told to stop.
    ///
    /// # Panics
    /// As [`Conv2d::run_upsampled`].
    pub fn run_upsampled_on_clip(
        &self,
        context: &Context,
        x: &Clip,
        pre: Pre<'_>,
        residual: Option<Clip>,
        watched: &mut Watched<'_>,
    ) -> Result<Clip, Stopped> {
        let residual = residual.map(|clip| clip.frames);
        Ok(Clip::of(self.run_behind(context, &x.frames, pre, residual, 2, watched)?))
    }

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
    /// [`Attention::run`] in each frame of a clip, which sees itself only. A group norm is that of all frames together.
    ///
    /// # Errors
    /// When there is not enough memory, or `watched` is told to stop.
    ///
    /// # Panics
    /// As [`Attention::run`].
    pub fn run_in_frames(
        &self,
        context: &Context,
        x: Clip,
        watched: &mut Watched<'_>,
    ) -> Result<Clip, Stopped> {
        Ok(Clip::of(self.run(context, x.frames, watched)?))
    }

    /// [`Attention::run`] over all positions of a clip, each of which sees all others.
    ///
    /// # Errors
    /// When there is not enough memory, or `watched` is told to stop.
    ///
    /// # Panics
    /// As [`Attention::run`].
    pub fn run_on_clip(
        &self,
        context: &Context,
        x: Clip,
        watched: &mut Watched<'_>,
    ) -> Result<Clip, Stopped> {
        let (image, frames) = x.stacked();
        Ok(Clip::unstacked(self.run(context, image, watched)?, frames))
    }

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
