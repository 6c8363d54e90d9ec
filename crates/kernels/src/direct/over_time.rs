//! Convolutions over time, directly: the register tiles run over the taps of all frames that an output frame sees.
//!
//! A worker takes a patch of the frame and goes through the clip with it. The staged inputs of the last frames are kept
//! in a ring, so that each is read once.

use super::*;
use crate::features::ChannelStats;
use crate::schedule::{MOST, OutputFrame, Schedule};
use crate::watch::Stop;

/// Taps of one output: nine in each of three frames.
const MOST_TAPS: usize = 9 * MOST;

/// Runs `job`, whose images are the frames of one clip. Returns the statistics of the whole clip.
pub(crate) fn run(
    job: &Job<'_>,
    schedule: &Schedule,
    plane: Plane,
    watched: &mut Watched<'_>,
) -> Result<ChannelStats, Stopped> {
    let context = job.context;
    let (mr, nr) = context.isa.tile_shape();
    let (x, y) = (job.source.x, job.y);
    let panels = y.stride.div_ceil(nr);
    let phases = phases(plane);
    let taps = phases[0].taps.len();
    let filters = schedule.filters.len();

    // [phase][panel][filter][tap][in][nr]: the filters that an output frame needs follow each other.
    let reads = Reads::new(&job.kernel, nr);
    let in_plane: usize = plane.kernel.iter().product();
    let filter_size = taps * reads.depth * nr;
    let packed = context.arena.take(phases.len() * panels * filters * filter_size * 4)?;
    let packed = packed.region();
    context.pool.run(phases.len() * panels * filters, |_, index| {
        let (panel, filter) = (index / filters, index % filters);
        // SAFETY: the panel of this filter is this task's alone.
        let out = unsafe { packed.nth(index, filter_size * 4).values_mut() };
        let sources: Vec<Vec<usize>> = phases[panel / panels]
            .taps
            .iter()
            .map(|tap| {
                let in_frame = |t: usize| tap.sources.iter().map(move |&source| t * in_plane + source);
                schedule.filters[filter].indices().flat_map(in_frame).collect()
            })
            .collect();
        let sources: Vec<&[usize]> = sources.iter().map(Vec::as_slice).collect();
        let panel = panel % panels;
        pack_panel(&job.kernel, panel * nr, nr, [reads.first(panel), reads.depth], &sources, out);
    });

    let grid = [y.height / plane.upsample, y.width / plane.upsample];
    let geometry = Geometry::new(x, &phases, plane, grid, mr);
    let staged = geometry.staged();
    let slots = x.batch.min(MOST);
    let results = PATCH_WIDTH.next_multiple_of(mr) * nr;
    let scratch = context.scratch((slots * staged + results) * 4)?;

    let patches_x = grid[1].div_ceil(PATCH_WIDTH);
    let patches = grid[0].div_ceil(PATCH_HEIGHT) * patches_x;
    let frames = schedule.outputs.len();
    let mut partials = Partials::new(frames * patches * phases.len(), y.stride);
    let writer = partials.writer();
    let sinks: Vec<Sink<'_>> = (0..frames).map(|frame| job.sink(frame)).collect();
    let views: Vec<View<'_>> = (0..x.batch).map(|frame| job.source.view(frame)).collect();
    let products: usize = schedule.outputs.iter().map(|output| output.frames().len()).sum();
    let work = products * phases.len() * taps * PATCH_HEIGHT * PATCH_WIDTH * reads.depth * panels * nr;
    let stop = watched.stop();
    watched.run(&context.pool, 0.0..1.0, patches, work, |worker, index| {
        context.isa.run(Clip {
            schedule,
            stop: &stop,
            views: &views,
            sinks: &sinks,
            slots,
            patch: Patch {
                view: views[0],
                sink: sinks[0],
                geometry,
                phases: &phases,
                reads: &reads,
                packed,
                panels,
                scratch: scratch[worker].region(),
                staged,
                top: index / patches_x * PATCH_HEIGHT,
                left: index % patches_x * PATCH_WIDTH,
                partials: writer,
                part: index * phases.len(),
            },
            parts_per_frame: patches * phases.len(),
        });
    })?;
    Ok(partials.merge(0..frames * patches * phases.len()))
}

/// One patch through the whole clip.
struct Clip<'a> {
    schedule: &'a Schedule,
    stop: &'a Stop,
    views: &'a [View<'a>],
    sinks: &'a [Sink<'a>],
    /// Staged frames that the scratch has room for; the register tiles' results lie behind them.
    slots: usize,
    /// The first frame's; the others differ in what they read and write.
    patch: Patch<'a>,
    /// From a patch's part of the statistics to its part of the next frame's.
    parts_per_frame: usize,
}

impl Op for Clip<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(mut self, simd: S) {
        let (base, first_part) = (self.patch.scratch, self.patch.part);
        let mut ready = 0;
        for (t, output) in self.schedule.outputs.iter().enumerate() {
            if self.stop.is_set() {
                return;
            }
            let newest = output.frames().iter().fold(0, |newest, &frame| newest.max(frame));
            // SAFETY: the scratch holds `slots` staged frames and a row of register tiles; `packed` holds all panels
            // of all filters; every frame that an output sees is one of the last in the ring.
            unsafe {
                while ready <= newest {
                    self.patch.view = self.views[ready];
                    self.patch.scratch = base.nth(ready % self.slots, self.patch.staged * 4);
                    self.patch.stage(simd);
                    ready += 1;
                }
                self.patch.scratch = base;
                self.patch.sink = self.sinks[t];
                self.patch.part = first_part + t * self.parts_per_frame;
                for phase in 0..self.patch.phases.len() {
                    self.phase(simd, phase, output);
                }
            }
        }
    }
}

impl Clip<'_> {
    /// Computes and writes one phase of the patch in one output frame.
    ///
    /// # Safety
    /// The scratch holds `slots` staged frames and a row of register tiles; the frames that the output sees are staged;
    /// `packed` holds all panels of all filters.
    #[inline(always)]
    unsafe fn phase<S: Simd>(&self, simd: S, index: usize, output: &OutputFrame) {
        let patch = &self.patch;
        let g = patch.geometry;
        let phase = &patch.phases[index];
        let [height, width] = patch.size();
        let filters = self.schedule.filters.len();
        let filter_size = phase.taps.len() * patch.reads.depth * S::NR;
        let base = patch.scratch.values();
        let mut segments = [std::ptr::null::<f32>(); MOST_TAPS];
        let segments = &mut segments[..output.frames().len() * phase.taps.len()];
        for panel in 0..patch.panels {
            let begin = panel * S::NR;
            let end = (begin + S::NR).min(patch.sink.stride);
            let filter = (index * patch.panels + panel) * filters + output.first;
            let first = patch.reads.first(panel);
            for row in 0..height {
                // SAFETY: everything staged lies in the scratch; a register tile past the last column reads columns
                // that were staged for it, and writes into rows that the scratch has room for.
                unsafe {
                    let results = base.add(self.slots * patch.staged);
                    for column in (0..width).step_by(S::MR) {
                        let mut segment = segments.iter_mut();
                        for &frame in output.frames() {
                            let staged = base.add(frame % self.slots * patch.staged);
                            for (tap, segment) in phase.taps.iter().zip(&mut segment) {
                                let at =
                                    (row * g.stride[0] + tap.y) * g.columns + column * g.stride[1] + tap.x;
                                *segment = staged.add(at * g.depth + first).cast_const();
                            }
                        }
                        simd.tile(&Tile {
                            segments,
                            lda: g.stride[1] * g.depth,
                            k: patch.reads.depth,
                            b: patch.packed.values().add(filter * filter_size).cast_const(),
                            c: results.add(column * S::NR),
                            ldc: S::NR,
                            rows: S::MR,
                            accumulate: false,
                            prefetch: NO_PREFETCH,
                        });
                    }
                    let line = ((patch.top + row) * g.upsample + phase.y) * patch.sink.width
                        + patch.left * g.upsample
                        + phase.x;
                    for c in (begin..end).step_by(S::LANES) {
                        simd.apart(WriteColumn {
                            sink: &patch.sink,
                            results: results.add(c - begin),
                            ld: S::NR,
                            count: width,
                            first: line,
                            step: g.upsample,
                            c,
                            partials: &patch.partials,
                            part: patch.part + index,
                            seen: (row * width) as u32,
                        });
                    }
                }
            }
        }
        patch.partials.set_count(patch.part + index, (height * width) as u32);
    }
}
