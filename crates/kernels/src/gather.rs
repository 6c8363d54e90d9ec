//! Values copied to other positions, channels and frames: slices, values behind each other, repetitions, and nearest upsampling.

use std::ops::Range;

use crate::arena::Region;
use crate::clip::Clip;
use crate::column::WriteColumn;
use crate::context::Context;
use crate::conv::unit_for;
use crate::conv3d::Upsampling;
use crate::features::{Features, PAD, Storage};
use crate::norm::Affine;
use crate::rearrange::Axis;
use crate::simd::{Op, Simd};
use crate::sink::{Partials, PartialsWriter, Sink};
use crate::source::{PaddingMode, Source, View, Window};
use crate::watch::{Stopped, Watched};

/// Output pixels that a task makes.
const PIXELS: usize = 96;

/// Where a position of an axis is copied from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Pick {
    /// Which of the parts.
    part: usize,
    /// Its position along the axis.
    index: usize,
}

/// Neighbouring positions that are copied from neighbouring ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Run {
    to: usize,
    from: Pick,
    count: usize,
}

/// What values are put together from: for each axis of the output, where each of its positions is copied from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gather {
    /// Of channels, frames, rows and columns. No more than one of them has other parts than the first.
    axes: [Vec<Pick>; 4],
}

/// The index of an axis in a shape.
fn index(axis: Axis) -> usize {
    match axis {
        Axis::Channel => 0,
        Axis::Time => 1,
        Axis::Height => 2,
        Axis::Width => 3,
    }
}

impl Gather {
    /// All of one value, `[C, F, H, W]`. Pictures have one frame.
    pub fn whole(shape: [usize; 4]) -> Self {
        Self { axes: shape.map(|length| (0..length).map(|index| Pick { part: 0, index }).collect()) }
    }

    /// Values of these shapes, `[C, F, H, W]`, one behind the other.
    ///
    /// # Panics
    /// When there is none, or they differ along other axes.
    pub fn concatenated(shapes: &[[usize; 4]], axis: Axis) -> Self {
        let mut all = Self::whole(shapes[0]);
        for (part, shape) in shapes.iter().enumerate() {
            let along = index(axis);
            let alike = (0..4).all(|other| other == along || shape[other] == shapes[0][other]);
            assert!(alike, "{shape:?} behind {:?}: they differ along other axes", shapes[0]);
            if part > 0 {
                all.axes[along].extend((0..shape[along]).map(|index| Pick { part, index }));
            }
        }
        all
    }

    /// Only these positions of an axis.
    ///
    /// # Panics
    /// When there are fewer.
    #[must_use]
    pub fn sliced(mut self, axis: Axis, range: Range<usize>) -> Self {
        let picks = &mut self.axes[index(axis)];
        *picks = picks[range].to_vec();
        self
    }

    /// An axis several times: each position by itself if `interleaved`, else the whole.
    #[must_use]
    pub fn repeated(mut self, axis: Axis, times: usize, interleaved: bool) -> Self {
        let picks = &mut self.axes[index(axis)];
        *picks = match interleaved {
            true => picks.iter().flat_map(|&pick| std::iter::repeat_n(pick, times)).collect(),
            false => picks.repeat(times),
        };
        self
    }

    /// Enlarged to the nearest.
    #[must_use]
    pub fn upsampled(mut self, upsampling: Upsampling) -> Self {
        if upsampling.time {
            // The first frame stays alone.
            let frames = &mut self.axes[1];
            *frames = (0..2 * frames.len() - 1).map(|frame| frames[frame.div_ceil(2)]).collect();
        }
        match upsampling.space {
            true => self.repeated(Axis::Height, 2, true).repeated(Axis::Width, 2, true),
            false => self,
        }
    }

    /// Of pictures, each on its own.
    ///
    /// # Errors
    /// When there is not enough memory, or `watched` is told to stop.
    ///
    /// # Panics
    /// When the parts are not of the shapes that it is of.
    pub fn pictures(
        &self,
        context: &Context,
        parts: &[&Features],
        watched: &mut Watched<'_>,
    ) -> Result<Features, Stopped> {
        assert_eq!(self.axes[1].len(), 1, "pictures have one frame");
        let alike = parts.iter().all(|part| part.batch == parts[0].batch);
        assert!(alike, "as many pictures of each part");
        let frames: Vec<_> = (0..parts[0].batch).map(|index| Pick { part: 0, index }).collect();
        self.run(context, parts, &frames, watched)
    }

    /// Of clips.
    ///
    /// # Errors
    /// When there is not enough memory, or `watched` is told to stop.
    ///
    /// # Panics
    /// When the parts are not of the shapes that it is of.
    pub fn clip(
        &self,
        context: &Context,
        parts: &[&Clip],
        watched: &mut Watched<'_>,
    ) -> Result<Clip, Stopped> {
        let parts: Vec<&Features> = parts.iter().map(|part| &part.frames).collect();
        Ok(Clip::of(self.run(context, &parts, &self.axes[1], watched)?))
    }

    fn run(
        &self,
        context: &Context,
        parts: &[&Features],
        frames: &[Pick],
        watched: &mut Watched<'_>,
    ) -> Result<Features, Stopped> {
        let [channels, _, rows, columns] = &self.axes;
        let sizes = |x: &Features| [x.channels, x.batch, x.height, x.width];
        for (axis, picks) in [channels.as_slice(), frames, rows, columns].into_iter().enumerate() {
            // Along other axes all parts are alike.
            let along = picks.iter().any(|pick| pick.part > 0);
            let inside = |pick: &Pick| match along {
                true => parts.get(pick.part).is_some_and(|x| pick.index < sizes(x)[axis]),
                false => parts.iter().all(|x| pick.index < sizes(x)[axis]),
            };
            assert!(picks.iter().all(inside), "values that no part has");
        }
        let stride = channels.len().next_multiple_of(PAD);
        let mut unit = vec![1.0f32; stride];
        if context.storage == Storage::F16 {
            let bounds: Vec<_> = parts.iter().map(|part| Affine::units(part).bound).collect();
            // Where frames, rows or columns are of several parts, a channel is of all of them.
            let several = [frames, rows, columns].into_iter().flatten().any(|pick| pick.part > 0);
            for (unit, pick) in unit.iter_mut().zip(channels) {
                let bound = match several {
                    true => bounds.iter().fold(0.0f32, |most, bound| most.max(bound[pick.index])),
                    false => bounds[pick.part][pick.index],
                };
                *unit = unit_for(f64::from(bound));
            }
        }
        let inverse_unit: Vec<f32> = unit.iter().map(|u| 1.0 / u).collect();
        let shape = [frames.len(), rows.len(), columns.len(), channels.len()];
        let mut y = Features::new(&context.arena, shape, context.storage, unit)?;
        let units: Vec<_> = parts.iter().map(|part| Affine::units(part)).collect();
        let views: Vec<Vec<View<'_>>> = parts
            .iter()
            .zip(&units)
            .map(|(x, units)| {
                let affine = (x.storage == Storage::F16).then_some(units);
                let source = Source { x, affine, activation: None, mode: PaddingMode::Zeros };
                (0..x.batch).map(|image| source.view(image)).collect()
            })
            .collect();
        let channel_runs = runs(channels);
        let as_they_are = *channels == Self::whole([parts[0].channels, 1, 1, 1]).axes[0];
        let column_runs = runs(columns);
        let widest = parts.iter().map(|part| part.stride).max().unwrap_or(stride);
        let scratch = context.scratch(PIXELS * (stride + widest) * 4)?;
        let per_row = columns.len().div_ceil(PIXELS);
        let per_image = rows.len() * per_row;
        let mut partials = Partials::new(frames.len() * per_image, stride);
        let writer = partials.writer();
        let bias = vec![0.0; stride];
        let target = y.target();
        watched.run(&context.pool, 0.0..1.0, frames.len() * per_image, PIXELS * stride, |worker, part| {
            let (image, at) = (part / per_image, part % per_image);
            let (row, left) = (at / per_row, at % per_row * PIXELS);
            context.isa.run(Copy {
                views: &views,
                frame: frames[image],
                row: rows[row],
                column_runs: &column_runs,
                channel_runs: (!as_they_are).then_some(&channel_runs),
                sink: Sink::new(target, image, &bias, None, &inverse_unit),
                first: row * columns.len() + left,
                columns: left..columns.len().min(left + PIXELS),
                scratch: scratch[worker].region(),
                partials: writer,
                part,
            });
        })?;
        y.stats = (0..frames.len()).map(|i| partials.merge(i * per_image..(i + 1) * per_image)).collect();
        Ok(y)
    }
}

/// Positions in as few runs as can be.
fn runs(picks: &[Pick]) -> Vec<Run> {
    let mut runs: Vec<Run> = Vec::new();
    for (to, &from) in picks.iter().enumerate() {
        match runs.last_mut() {
            Some(run) if run.from.part == from.part && run.from.index + run.count == from.index => {
                run.count += 1;
            }
            _ => runs.push(Run { to, from, count: 1 }),
        }
    }
    runs
}

/// Some output pixels of a row.
struct Copy<'a> {
    /// Of each part's images.
    views: &'a [Vec<View<'a>>],
    frame: Pick,
    row: Pick,
    column_runs: &'a [Run],
    /// None where pixels are copied whole.
    channel_runs: Option<&'a Vec<Run>>,
    sink: Sink<'a>,
    /// The first pixel.
    first: usize,
    columns: Range<usize>,
    /// The output's pixels, then some of the input's.
    scratch: Region<'a>,
    partials: PartialsWriter<'a>,
    part: usize,
}

impl Op for Copy<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let (stride, count) = (self.sink.stride, self.columns.len());
        let results = self.scratch.part(0, count * stride * 4);
        // The first run that reaches into the columns.
        let skipped = self.column_runs.partition_point(|run| run.to + run.count <= self.columns.start);
        for run in &self.column_runs[skipped..] {
            if run.to >= self.columns.end {
                break;
            }
            let (begin, end) = (run.to.max(self.columns.start), (run.to + run.count).min(self.columns.end));
            let from = run.from.index + begin - run.to;
            let part = self.frame.part.max(self.row.part).max(run.from.part);
            let window = |first: usize, channels: usize, pitch: usize| Window {
                top: self.row.index as isize,
                left: from as isize,
                rows: 1,
                columns: end - begin,
                first,
                channels,
                pitch,
            };
            let to = results.part((begin - self.columns.start) * stride * 4, (end - begin) * stride * 4);
            let Some(channel_runs) = self.channel_runs else {
                // SAFETY: the scratch is this worker's, and has room for the output's pixels, whose stride is the input's.
                unsafe {
                    self.views[part][self.frame.index].stage(simd, window(0, stride, stride), to.values());
                }
                continue;
            };
            // SAFETY: this part of the scratch is this worker's, and begins at a whole value of a buffer.
            let to = unsafe { to.values_mut() };
            to.fill(0.0);
            for channels in channel_runs {
                let view = &self.views[part.max(channels.from.part)][self.frame.index];
                // Whole vectors.
                let first = channels.from.index / PAD * PAD;
                let width = (channels.from.index + channels.count).next_multiple_of(PAD) - first;
                let pixels = self.scratch.part(PIXELS * stride * 4, (end - begin) * width * 4);
                // SAFETY: the scratch is this worker's, and has room for as many pixels of the widest part behind the output's;
                // nobody writes to the parts.
                let pixels = unsafe {
                    view.stage(simd, window(first, width, width), pixels.values());
                    pixels.values_mut()
                };
                for (to, pixel) in to.chunks_exact_mut(stride).zip(pixels.chunks_exact(width)) {
                    let from = &pixel[channels.from.index - first..][..channels.count];
                    to[channels.to..][..channels.count].copy_from_slice(from);
                }
            }
        }
        // SAFETY: the results are this worker's, and begin at a whole value of a buffer.
        let results = unsafe { results.values_mut() };
        for c in (0..stride).step_by(S::LANES) {
            simd.apart(WriteColumn {
                sink: &self.sink,
                results: results[c..].as_mut_ptr(),
                ld: stride,
                count,
                first: self.first,
                step: 1,
                c,
                partials: &self.partials,
                part: self.part,
                seen: 0,
            });
        }
        self.partials.set_count(self.part, count as u32);
    }
}
