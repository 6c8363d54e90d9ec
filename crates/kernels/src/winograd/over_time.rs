//! 3-D convolutions: Winograd's filtering in the plane, summed up over time before it is transformed back.
//!
//! A worker takes a block of tiles, as for images, and goes through the clip with it frame by frame. The transformed
//! inputs `V` of the last frames are kept in a ring, so that each frame is read and transformed once, and the products
//! with two or three of them are summed up in the registers of one product. Which frames and filters belong together
//! is the [`Schedule`]'s to say. The scratch does not grow with the length of the clip.

use super::block::Block;
use super::filter::{Filters, TransformPanel};
use super::layout::{Grid, Layout};
use super::phases::{Phase, phases, products};
use super::scheme::Scheme;
use super::steps::{InputStep, OutputStep};
use super::{CHUNK, TILES};
use crate::arena::{Buffer, OutOfMemory};
use crate::conv::Job;
use crate::features::ChannelStats;
use crate::gemm::{Tile, prefetched};
use crate::schedule::{MOST, OutputFrame, Schedule};
use crate::simd::{Op, Simd};
use crate::sink::{Partials, Sink};
use crate::source::View;
use crate::watch::{Stop, Stopped, Watched};

/// Bytes of filters that one plane's product goes through for each row of register tiles: half a second-level cache.
const CHUNK_BYTES: usize = 256 << 10;

/// Runs `job`, whose images are the frames of one clip, with scheme `C`: 3×3 in the plane, or behind an upsampling if
/// `C::R` is 2. Returns the statistics of the whole clip.
pub(crate) fn run<C: Scheme>(
    job: &Job<'_>,
    schedule: &Schedule,
    scheme: C,
    watched: &mut Watched<'_>,
) -> Result<ChannelStats, Stopped> {
    let context = job.context;
    let (mr, nr) = context.isa.tile_shape();
    let x = job.source.x;
    let phases = phases::<C>();
    let extra = usize::from(C::R == 2);
    let (tiles_y, tiles_x) = ((x.height + extra).div_ceil(C::M), (x.width + extra).div_ceil(C::M));
    let depth = x.stride;
    let panels = job.y.stride.div_ceil(nr);
    let columns = panels * nr;
    let most_frames = schedule.outputs.iter().map(|output| output.frames().len()).max().unwrap_or(1);
    let chunk = (CHUNK_BYTES / (4 * depth * most_frames)).clamp(nr, CHUNK).next_multiple_of(nr).min(columns);

    let filters = transformed_filters(job, schedule, scheme, chunk / nr)?;

    let threads = context.pool.threads();
    let most = (phases * columns / 8).clamp(*TILES.start(), *TILES.end() / 2);
    let grid = Grid::new([tiles_y, tiles_x], most, threads, mr);
    let blocks = grid.blocks();
    let chunks = columns.div_ceil(chunk);
    let groups = if blocks >= threads { 1 } else { threads.div_ceil(blocks).min(chunks) };

    let tiles = grid.most().next_multiple_of(mr);
    let layout = Layout::new::<C>(tiles, tiles, depth, chunk, false);
    let ring = Ring::new::<C>(layout, x.batch);
    let scratch = context.scratch(ring.bytes())?;

    let frames = schedule.outputs.len();
    let mut partials = Partials::new(frames * blocks * phases, job.y.stride);
    let writer = partials.writer();
    let sinks: Vec<Sink<'_>> = (0..frames).map(|frame| job.sink(frame)).collect();
    let views: Vec<View<'_>> = (0..x.batch).map(|frame| job.source.view(frame)).collect();
    let u = filters.region();
    let seen: usize = schedule.outputs.iter().map(|output| output.frames().len()).sum();
    let work = seen * products::<C>() * grid.most() * depth * columns / groups;
    let stop = watched.stop();
    watched.run(&context.pool, 0.0..1.0, blocks * groups, work, |worker, index| {
        let (block, group) = (index / groups, index % groups);
        context.isa.run(Clip {
            scheme,
            schedule,
            stop: &stop,
            views: &views,
            sinks: &sinks,
            ring,
            block: Block::<C> {
                scheme,
                view: views[0],
                sink: sinks[0],
                u,
                scratch: scratch[worker].region(),
                v: scratch[worker].region(),
                layout: ring.layout,
                tiles: grid.block(block),
                range: 0..grid.block(block).count(),
                first_panel: 0,
                panels,
                chunks: chunks * group / groups..chunks * (group + 1) / groups,
                partials: writer,
                part: block * phases,
            },
            parts_per_frame: blocks * phases,
        });
    })?;
    Ok(partials.merge(0..frames * blocks * phases))
}

/// `U[chunk][phase][plane][panel][filter][in][NR]` for every filter of the schedule.
fn transformed_filters<C: Scheme>(
    job: &Job<'_>,
    schedule: &Schedule,
    scheme: C,
    per_chunk: usize,
) -> Result<Buffer, OutOfMemory> {
    let context = job.context;
    let nr = context.isa.tile_shape().1;
    let depth = job.source.x.stride;
    let panels = job.y.stride.div_ceil(nr);
    let (phases, products) = (phases::<C>(), products::<C>());
    let (count, size) = (schedule.filters.len(), depth * nr);
    let u = context.arena.take(panels * products * count * size * 4)?;
    let region = u.region();
    context.pool.run(panels * phases * count, |_, index| {
        let (panel, filter) = (index / count / phases, index % count);
        let phase = Phase::nth(index / count % phases);
        let begin = panel / per_chunk * per_chunk;
        let in_chunk = per_chunk.min(panels - begin);
        let before = begin * products + phase.before::<C>() * in_chunk + (panel - begin);
        context.isa.run(TransformPanel {
            scheme,
            filters: Filters {
                weight: job.kernel.weight,
                out_channels: job.y.channels,
                in_channels: job.source.x.channels,
                depth,
                time: Some(schedule.filters[filter]),
            },
            first: panel * nr,
            phase,
            // From the panel's first plane on; those of other panels and filters lie in between.
            out: region.from((before * count + filter) * size * 4),
            plane_size: in_chunk * count * size,
        });
    });
    Ok(u)
}

/// Where the transformed inputs of several frames lie in a worker's scratch.
#[derive(Clone, Copy)]
struct Ring {
    /// Of the first frame's, with everything else.
    layout: Layout,
    slots: usize,
    /// Values of one frame's transformed input.
    v: usize,
}

impl Ring {
    fn new<C: Scheme>(layout: Layout, frames: usize) -> Self {
        Self { layout, slots: frames.min(MOST), v: C::N * C::N * layout.v_plane }
    }

    /// Where the transformed input of `frame` begins.
    fn v(&self, frame: usize) -> usize {
        match frame % self.slots {
            0 => self.layout.v,
            slot => self.layout.end + (slot - 1) * self.v,
        }
    }

    fn bytes(&self) -> usize {
        (self.layout.end + (self.slots - 1) * self.v) * 4
    }
}

/// One block of tiles through the whole clip.
struct Clip<'a, C: Scheme> {
    scheme: C,
    schedule: &'a Schedule,
    stop: &'a Stop,
    views: &'a [View<'a>],
    sinks: &'a [Sink<'a>],
    ring: Ring,
    /// The first frame's; the others differ in what they read and write.
    block: Block<'a, C>,
    /// From a block's part of the statistics to its part of the next frame's.
    parts_per_frame: usize,
}

impl<C: Scheme> Op for Clip<'_, C> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(mut self, simd: S) {
        let first_part = self.block.part;
        let mut ready = 0;
        for (t, output) in self.schedule.outputs.iter().enumerate() {
            if self.stop.is_set() {
                return;
            }
            let newest = output.frames().iter().fold(0, |newest, &frame| newest.max(frame));
            while ready <= newest {
                self.block.view = self.views[ready];
                self.block.layout.v = self.ring.v(ready);
                simd.apart(InputStep { block: &self.block, windows: 0..self.block.windows() });
                ready += 1;
            }
            self.block.sink = self.sinks[t];
            self.block.part = first_part + t * self.parts_per_frame;
            for chunk in self.block.chunks.clone() {
                for phase in Phase::all::<C>() {
                    // SAFETY: the scratch holds what the ring says for the block's tiles rounded up to MR; U holds all
                    // panels of all filters; every frame that an output sees is one of the last in the ring.
                    unsafe { self.product(simd, chunk, phase, output) };
                    simd.apart(OutputStep { block: &self.block, chunk, phase });
                }
            }
        }
        let _ = self.scheme;
    }
}

impl<C: Scheme> Clip<'_, C> {
    /// `M = Σ V[frame] · U[filter]` over what the output frame sees.
    ///
    /// # Safety
    /// The scratch holds what the ring says, the frames' V are written, and U holds all panels of all filters.
    #[inline(always)]
    unsafe fn product<S: Simd>(&self, simd: S, chunk: usize, phase: Phase, output: &OutputFrame) {
        let layout = self.ring.layout;
        let (_, count) = self.block.chunk_panels(chunk, S::NR);
        let tiles = self.block.tiles.count();
        let depth = layout.depth;
        let size = depth * S::NR;
        let filters = self.schedule.filters.len();
        let u = self.block.filters(chunk, phase, S::NR, filters * size).wrapping_add(output.first * size);
        let scratch = self.block.scratch.values();
        let mut segments = [std::ptr::null::<f32>(); MOST];
        let segments = &mut segments[..output.frames().len()];
        // Values that one tile prefetches.
        let ahead = prefetched::<S>(depth);
        let v_of = |frame, plane: usize| {
            scratch.wrapping_add(self.ring.v(frame) + plane * layout.v_plane).cast_const()
        };
        let newest = output.frames().iter().fold(0, |newest, &frame| newest.max(frame));
        let own = phase.own::<C>();
        let own = own.as_slice();
        for (index, &plane) in own.iter().enumerate() {
            let u = u.wrapping_add(index * count * filters * size);
            let place = phase.place::<C>(plane / C::N, plane % C::N);
            let m = scratch.wrapping_add(layout.m + place * layout.m_plane);
            // What the next plane needs comes in while this one is computed.
            let following = own.get(index + 1).copied().unwrap_or(0);
            let mut next = [v_of(newest, following), u.wrapping_add(count * filters * size)];
            for row in (0..tiles).step_by(S::MR) {
                for panel in 0..count {
                    for (segment, &frame) in segments.iter_mut().zip(output.frames()) {
                        *segment = v_of(frame, plane).wrapping_add(row * depth);
                    }
                    // SAFETY: each V has MR rows from `row` on (its tiles are rounded up to MR), M too; the panel and
                    // the filters that follow each other in it are U's.
                    unsafe {
                        simd.tile(&Tile {
                            segments,
                            lda: depth,
                            k: depth,
                            b: u.wrapping_add(panel * filters * size),
                            c: m.wrapping_add(row * layout.chunk + panel * S::NR),
                            ldc: layout.chunk,
                            rows: (tiles - row).min(S::MR),
                            accumulate: false,
                            prefetch: next,
                        });
                    }
                    next = next.map(|p| p.wrapping_add(ahead));
                }
            }
        }
    }
}
