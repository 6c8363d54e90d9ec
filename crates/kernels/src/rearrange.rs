//! Space into depth and back: blocks of positions become channels of one position, or channels become positions.

mod run;

use crate::clip::Clip;
use crate::context::Context;
use crate::features::{Features, PAD, Storage};
use crate::norm::Affine;
use crate::sink::{Partials, Sink};
use crate::source::{PaddingMode, Source, View};
use crate::watch::{Stopped, Watched};
use run::Run;

/// An axis of a block of positions and their channels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Axis {
    /// Channels.
    Channel,
    /// Frames of a block.
    Time,
    /// Rows of a block.
    Height,
    /// Columns of a block.
    Width,
}

/// How blocks of positions are channels of one position.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shuffle {
    /// Frames, rows and columns of a block.
    pub block: [usize; 3],
    /// In which order a position's channels are those of its block: the slowest axis first. PyTorch's `PixelShuffle` is
    /// `[Channel, Time, Height, Width]`; diffusers' `unpatchify` of Wan 2.2 and of LTX-2 has width before height; the upsampling
    /// of HunyuanVideo 1.5 has the channel last.
    pub order: [Axis; 4],
}

impl Shuffle {
    /// PyTorch's `PixelShuffle` with blocks of `block` frames, rows and columns.
    pub fn pixels(block: [usize; 3]) -> Self {
        Self { block, order: [Axis::Channel, Axis::Time, Axis::Height, Axis::Width] }
    }

    /// Positions of a block.
    fn positions(&self) -> usize {
        self.block.iter().product()
    }

    fn check(&self) {
        let Self { block, order } = self;
        assert!(block.iter().all(|side| (1..=16).contains(side)), "a block of {block:?}: there are 1 to 16");
        let all = [Axis::Channel, Axis::Time, Axis::Height, Axis::Width];
        assert!(
            all.iter().all(|axis| order.contains(axis)),
            "an order of {order:?}: each axis is there once"
        );
    }

    /// For each position of a block, in the order of frames, rows and columns, which of the packed channels each of its
    /// `channels` channels is.
    fn table(&self, channels: usize) -> Vec<usize> {
        let [frames, rows, columns] = self.block;
        let mut table = Vec::with_capacity(self.positions() * channels);
        for position in 0..self.positions() {
            for c in 0..channels {
                let packed = self.order.iter().fold(0, |packed, axis| {
                    let (at, size) = match axis {
                        Axis::Channel => (c, channels),
                        Axis::Time => (position / (rows * columns), frames),
                        Axis::Height => (position / columns % rows, rows),
                        Axis::Width => (position % columns, columns),
                    };
                    packed * size + at
                });
                table.push(packed);
            }
        }
        table
    }
}

/// Which way values go.
#[derive(Clone, Copy, PartialEq)]
enum Way {
    /// Channels become positions.
    Apart,
    /// Positions become channels.
    Together,
}

/// Output pixels that a task makes.
const PIXELS: usize = 96;

/// One rearrangement.
struct Plan {
    way: Way,
    /// Frames, rows, columns of a block: all ones for one that only changes channels.
    block: [usize; 3],
    /// Apart: for each position of a block and output channel the input channel. Together: for each position of a block and
    /// input channel the output channel.
    table: Vec<usize>,
    /// Output channels.
    channels: usize,
    /// What each value is multiplied with.
    factor: f32,
    /// Output frames at the beginning that are left out.
    dropped: usize,
}

impl Plan {
    /// `x` is one clip if `clip`, else images each of which is one frame.
    fn run(
        &self,
        context: &Context,
        x: &Features,
        clip: bool,
        watched: &mut Watched<'_>,
    ) -> Result<Features, Stopped> {
        let [frames, rows, columns] = self.block;
        let (all_frames, height, width) = match self.way {
            Way::Apart => (x.batch * frames, x.height * rows, x.width * columns),
            Way::Together => {
                let whole = x.batch.is_multiple_of(frames)
                    && x.height.is_multiple_of(rows)
                    && x.width.is_multiple_of(columns);
                let sizes = [x.batch, x.height, x.width];
                assert!(whole, "{sizes:?} frames, rows and columns are not whole blocks of {:?}", self.block);
                (x.batch / frames, x.height / rows, x.width / columns)
            }
        };
        assert!(clip || frames == 1, "images have one frame each");
        assert!(self.dropped < all_frames, "no frame would be left");
        let batch = all_frames - self.dropped;
        let stride = self.channels.next_multiple_of(PAD);
        let mut unit = vec![1.0f32; stride];
        let bounds = Affine::units(x).bound;
        if context.storage == Storage::F16 {
            for (c, unit) in unit.iter_mut().enumerate().take(self.channels) {
                *unit = crate::conv::unit_for(f64::from(self.bound(c, x.channels, &bounds)));
            }
        }
        let inverse_unit: Vec<f32> = unit.iter().map(|u| 1.0 / u).collect();
        let mut y =
            Features::new(&context.arena, [batch, height, width, self.channels], context.storage, unit)?;
        let per_image = height * width.div_ceil(PIXELS);
        let scratch = context.scratch((x.stride + PIXELS * stride) * 4)?;
        let mut partials = Partials::new(batch * per_image, stride);
        let writer = partials.writer();
        let units = (x.storage == Storage::F16).then(|| Affine::units(x));
        let source = Source { x, affine: units.as_ref(), activation: None, mode: PaddingMode::Zeros };
        let views: Vec<View<'_>> = (0..x.batch).map(|image| source.view(image)).collect();
        let bias = vec![0.0; stride];
        let target = y.target();
        watched.run(&context.pool, 0.0..1.0, batch * per_image, PIXELS * stride, |worker, part| {
            let (image, run) = (part / per_image, part % per_image);
            let (row, left) = (run / width.div_ceil(PIXELS), run % width.div_ceil(PIXELS) * PIXELS);
            context.isa.run(Run {
                plan: self,
                views: &views,
                in_channels: x.channels,
                sink: Sink::new(target, image, &bias, None, &inverse_unit),
                at: [image + self.dropped, row, left],
                count: PIXELS.min(width - left),
                scratch: scratch[worker].region(),
                partials: writer,
                part,
            });
        })?;
        y.stats = (0..batch).map(|i| partials.merge(i * per_image..(i + 1) * per_image)).collect();
        Ok(y)
    }

    /// The largest magnitude of an output channel.
    fn bound(&self, c: usize, in_channels: usize, bounds: &[f32]) -> f32 {
        match self.way {
            Way::Apart => {
                let sources = self.table.iter().skip(c).step_by(self.channels);
                sources.fold(0.0f32, |most, &from| most.max(bounds[from])) * self.factor
            }
            Way::Together => {
                let sources = self.table.iter().enumerate().filter(|&(_, &to)| to == c);
                sources.map(|(index, _)| bounds[index % in_channels]).sum::<f32>() * self.factor
            }
        }
    }
}

/// Channels become positions.
fn depth_to_space(x: &Features, shuffle: Shuffle, dropped: usize) -> Plan {
    shuffle.check();
    let positions = shuffle.positions();
    assert!(x.channels.is_multiple_of(positions), "{} channels are not blocks of {positions}", x.channels);
    let channels = x.channels / positions;
    let table = shuffle.table(channels);
    Plan { way: Way::Apart, block: shuffle.block, table, channels, factor: 1.0, dropped }
}

/// Positions become channels.
fn space_to_depth(x: &Features, shuffle: Shuffle) -> Plan {
    shuffle.check();
    let (table, channels) = (shuffle.table(x.channels), x.channels * shuffle.positions());
    Plan { way: Way::Together, block: shuffle.block, table, channels, factor: 1.0, dropped: 0 }
}

/// Each channel several times, one after the other.
fn repeat_channels(x: &Features, times: usize) -> Plan {
    assert!(times > 0, "each channel at least once");
    let channels = x.channels * times;
    let table = (0..channels).map(|c| c / times).collect();
    Plan { way: Way::Apart, block: [1; 3], table, channels, factor: 1.0, dropped: 0 }
}

/// The mean of each so many neighbouring channels.
fn mean_channels(x: &Features, count: usize) -> Plan {
    assert!(
        count > 0 && x.channels.is_multiple_of(count),
        "{} channels are not groups of {count}",
        x.channels
    );
    let table = (0..x.channels).map(|c| c / count).collect();
    let channels = x.channels / count;
    Plan { way: Way::Together, block: [1; 3], table, channels, factor: 1.0 / count as f32, dropped: 0 }
}

impl Features {
    /// Channels into blocks of rows and columns: PyTorch's `PixelShuffle`, in any order.
    ///
    /// # Errors
    /// When there is not enough memory, or `watched` is told to stop.
    ///
    /// # Panics
    /// When the channels are not whole blocks, or a block has more than one frame.
    pub fn depth_to_space(
        &self,
        context: &Context,
        shuffle: Shuffle,
        watched: &mut Watched<'_>,
    ) -> Result<Self, Stopped> {
        depth_to_space(self, shuffle, 0).run(context, self, false, watched)
    }

    /// Blocks of rows and columns into channels: PyTorch's `PixelUnshuffle`, in any order.
    ///
    /// # Errors
    /// When there is not enough memory, or `watched` is told to stop.
    ///
    /// # Panics
    /// When rows and columns are not whole blocks, or a block has more than one frame.
    pub fn space_to_depth(
        &self,
        context: &Context,
        shuffle: Shuffle,
        watched: &mut Watched<'_>,
    ) -> Result<Self, Stopped> {
        space_to_depth(self, shuffle).run(context, self, false, watched)
    }

    /// Each channel `times` times, one after the other: PyTorch's `repeat_interleave`.
    ///
    /// # Errors
    /// When there is not enough memory, or `watched` is told to stop.
    ///
    /// # Panics
    /// When `times` is 0.
    pub fn repeat_channels(
        &self,
        context: &Context,
        times: usize,
        watched: &mut Watched<'_>,
    ) -> Result<Self, Stopped> {
        repeat_channels(self, times).run(context, self, false, watched)
    }

    /// The mean of each `count` neighbouring channels.
    ///
    /// # Errors
    /// When there is not enough memory, or `watched` is told to stop.
    ///
    /// # Panics
    /// When the channels are not whole groups of `count`.
    pub fn mean_channels(
        &self,
        context: &Context,
        count: usize,
        watched: &mut Watched<'_>,
    ) -> Result<Self, Stopped> {
        mean_channels(self, count).run(context, self, false, watched)
    }
}

impl Clip {
    /// Channels into blocks of frames, rows and columns, in any order, without the first `dropped` frames of what they make.
    ///
    /// # Errors
    /// When there is not enough memory, or `watched` is told to stop.
    ///
    /// # Panics
    /// When the channels are not whole blocks, or no frame is left.
    pub fn depth_to_space(
        &self,
        context: &Context,
        shuffle: Shuffle,
        dropped: usize,
        watched: &mut Watched<'_>,
    ) -> Result<Self, Stopped> {
        let plan = depth_to_space(&self.frames, shuffle, dropped);
        Ok(Self::of(plan.run(context, &self.frames, true, watched)?))
    }

    /// Blocks of frames, rows and columns into channels, in any order.
    ///
    /// # Errors
    /// When there is not enough memory, or `watched` is told to stop.
    ///
    /// # Panics
    /// When frames, rows and columns are not whole blocks.
    pub fn space_to_depth(
        &self,
        context: &Context,
        shuffle: Shuffle,
        watched: &mut Watched<'_>,
    ) -> Result<Self, Stopped> {
        Ok(Self::of(space_to_depth(&self.frames, shuffle).run(context, &self.frames, true, watched)?))
    }

    /// [`Features::repeat_channels`].
    ///
    /// # Errors
    /// As there.
    ///
    /// # Panics
    /// As there.
    pub fn repeat_channels(
        &self,
        context: &Context,
        times: usize,
        watched: &mut Watched<'_>,
    ) -> Result<Self, Stopped> {
        Ok(Self::of(repeat_channels(&self.frames, times).run(context, &self.frames, true, watched)?))
    }

    /// [`Features::mean_channels`].
    ///
    /// # Errors
    /// As there.
    ///
    /// # Panics
    /// As there.
    pub fn mean_channels(
        &self,
        context: &Context,
        count: usize,
        watched: &mut Watched<'_>,
    ) -> Result<Self, Stopped> {
        Ok(Self::of(mean_channels(&self.frames, count).run(context, &self.frames, true, watched)?))
    }
}
