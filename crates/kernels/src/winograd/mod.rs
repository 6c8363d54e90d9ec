//! 3×3 convolutions by Winograd's minimal filtering: fused, tile by tile.
//!
//! A worker takes a block of neighbouring tiles of one image and does everything for it:
//!
//! 1. *input*: reads each `N × N` tile (normalised and activated on the way), transforms it, and writes
//!    `V[N * N][tiles][in]`;
//! 2. *product*: for some output channels at a time, `M[N * N][tiles][chunk] = V · U`, in register tiles;
//! 3. *output*: transforms `M` back, adds bias and residual, gathers statistics, writes the image.
//!
//! `V` and `M` are scratch of the worker: no transformed image ever exists. The filters `U[chunk][N * N][panel][in][NR]`
//! are transformed before, by all workers (see [`filter`]).
//!
//! A nearest 2× upsampling followed by a 3×3 convolution is four 2×2 convolutions on the small image, one for each
//! phase of the output. They share step 1 and some of the products of step 2 (see [`mod@phases`]).
//!
//! Rounding error, relative to `sqrt(Σ w² Σ x²)` over a filter's support: see [`crate::plan`].

mod block;
mod filter;
mod layout;
mod over_time;
mod phases;
mod scheme;
mod steps;
mod tile_filters;
mod tiles;

use crate::conv::{Job, Ready};
use crate::sink::{Partials, Sink};
use crate::watch::{Stopped, Watched};
use block::Block;
use filter::{Filters, TransformPanel};
use layout::{Grid, Layout};
pub(crate) use over_time::run as run_over_time;
use phases::{Phase, phases, products};
pub(crate) use scheme::{F4x3, F5x2, F6x3, F7x2, Near4x3, Near5x2, Scheme};
use steps::{Input, Output};
pub(crate) use tiles::run as run_in_tiles;

/// Output channels of one product: `M` of a block stays in the second-level cache.
const CHUNK: usize = 64;
/// Fewer blocks than this for each worker are shared by all workers, as a worker would wait for about half a block at
/// the end.
const FEW_ROUNDS: usize = 12;
/// The most bytes of a shared `V`: the third-level cache of a few cores.
const SHARED_V: usize = 24 << 20;
/// The most bytes of filters at a time.
const FILTERS: usize = 144 << 20;
/// Rows and columns of tiles, and channels, whose inputs are staged together: they stay in the second-level cache, so
/// that each value is read, normalised and activated about once though neighbouring tiles overlap.
const STAGED: [usize; 2] = [4, 6];
const STAGED_CHANNELS: usize = 32;
/// The most tiles of one block. Many tiles hide the filters' way from memory behind the products; few keep `V` near.
/// With fewer output channels there are fewer filters to fetch, and fewer tiles are better: a quarter of the channels
/// was best, or close to it, at every layer of the SD v1 decoder.
const TILES: std::ops::RangeInclusive<usize> = 24..=96;

/// Runs `job` with scheme `C`: a 3×3 convolution, or an upsampling one if `C::R` is 2.
pub(crate) fn run<C: Scheme>(
    job: &mut Job<'_>,
    scheme: C,
    watched: &mut Watched<'_>,
) -> Result<Ready, Stopped> {
    const { assert!(C::R == 3 || C::G[1][1] == C::G[1][0], "phases share the products at the point 1") };
    let context = job.context;
    let (_, nr) = context.isa.tile_shape();
    let x = job.source.x;
    let phases = phases::<C>();
    // An upsampling convolution's odd phase starts one input earlier, hence the additional one.
    let extra = usize::from(C::R == 2);
    let (tiles_y, tiles_x) = ((x.height + extra).div_ceil(C::M), (x.width + extra).div_ceil(C::M));
    let depth = x.stride;
    let panels = job.y.stride.div_ceil(nr);
    let columns = panels * nr;

    let chunk = CHUNK.next_multiple_of(nr).min(columns);
    let per_chunk = chunk / nr;

    // Blocks of tiles of about equal size: one for a worker at a time, or, where that would be a few for each and
    // leave workers waiting at the end, larger ones that all workers share.
    let threads = context.pool.threads();
    let mr = context.isa.tile_shape().0;
    let most = (phases * columns / 4).next_multiple_of(mr).clamp(*TILES.start(), *TILES.end());
    let mut grid = Grid::new([tiles_y, tiles_x], most, threads, mr);
    let shared = grid.blocks() * x.batch < FEW_ROUNDS * threads;
    if shared {
        let fits = SHARED_V / (C::N * C::N * depth * 4);
        grid = Grid::new([tiles_y, tiles_x], fits.max(*TILES.end()), 1, mr);
    }
    let blocks = grid.blocks();
    let chunks = panels.div_ceil(per_chunk);
    let (products, panel_size) = (products::<C>(), depth * nr);
    // The filters of some chunks at a time, so that they do not outgrow the image.
    let together = (FILTERS / (per_chunk * products * panel_size * 4)).clamp(1, chunks);
    // Shared blocks are cut into runs of tiles for each chunk of channels.
    let runs = if shared { grid.most().div_ceil(*TILES.end()) } else { 1 };
    let (tiles, in_run) = (grid.most().next_multiple_of(mr), grid.most().div_ceil(runs).next_multiple_of(mr));
    let layout = Layout::new::<C>(tiles, in_run, depth, chunk, shared);
    let scratch = context.scratch(layout.bytes())?;
    let v = if shared { Some(context.arena.take(layout.v_bytes::<C>())?) } else { None };
    let v = v.as_ref().map(|v| v.region());

    let mut partials = Partials::new(x.batch * blocks * runs * phases, job.y.stride);
    let writer = partials.writer();
    let sinks: Vec<Sink<'_>> = (0..x.batch).map(|image| job.sink(image)).collect();
    let source = job.source;

    let filters = Filters {
        weight: job.kernel.weight,
        out_channels: job.y.channels,
        in_channels: x.channels,
        depth,
        time: None,
    };
    let u = context.arena.take((together * per_chunk).min(panels) * products * panel_size * 4)?;
    let u = u.region();
    let all_chunks = chunks;
    for first_chunk in (0..all_chunks).step_by(together) {
        let chunks = first_chunk..all_chunks.min(first_chunk + together);
        let first_panel = first_chunk * per_chunk;
        let in_u = panels.min(chunks.end * per_chunk) - first_panel;
        context.pool.run(in_u * phases, |_, index| {
            let (panel, phase) = (index / phases, Phase::nth(index % phases));
            let begin = panel / per_chunk * per_chunk;
            let count = per_chunk.min(in_u - begin);
            let at = begin * products + phase.before::<C>() * count + (panel - begin);
            context.isa.run(TransformPanel {
                scheme,
                filters,
                first: (first_panel + panel) * nr,
                phase,
                // From the panel's first plane on; those of other panels lie in between.
                out: u.from(at * panel_size * 4),
                plane_size: count * panel_size,
            });
        });
        // Run `run` of block `part / runs`, counted over all images.
        let block = |worker: usize, part: usize, run: usize| {
            let (image, tiles) = (part / blocks, grid.block(part % blocks));
            let count = tiles.count();
            Block::<C> {
                scheme,
                view: source.view(image),
                sink: sinks[image],
                u,
                scratch: scratch[worker].region(),
                v: v.unwrap_or(scratch[worker].region()),
                layout,
                tiles,
                range: count.min(run * in_run)..count.min((run + 1) * in_run),
                first_panel,
                panels,
                chunks: chunks.clone(),
                partials: writer,
                part: (part * runs + run) * phases,
            }
        };
        // The share of all work that is done when these chunks are done for so many blocks.
        let share = |blocks_done: usize| {
            let parts = (x.batch * blocks) as f64;
            (chunks.start as f64 + chunks.len() as f64 * blocks_done as f64 / parts) / all_chunks as f64
        };
        if !shared {
            let share = share(0)..share(x.batch * blocks);
            let work = grid.most() * products * depth * columns / all_chunks * chunks.len();
            watched.run(&context.pool, share, x.batch * blocks, work, |worker, part| {
                context.isa.run(block(worker, part, 0));
            })?;
            continue;
        }
        for part in 0..x.batch * blocks {
            let begin = share(part);
            watched.run(&context.pool, begin..begin, block(0, part, 0).windows(), 1, |worker, window| {
                context.isa.run(Input { block: block(worker, part, 0), window });
            })?;
            let work = in_run * products * depth * chunk;
            watched.run(
                &context.pool,
                begin..share(part + 1),
                chunks.len() * runs,
                work,
                |worker, index| {
                    let (chunk, run) = (chunks.start + index / runs, index % runs);
                    context.isa.run(Output { block: block(worker, part, run), chunk });
                },
            )?;
        }
    }
    let parts = blocks * runs * phases;
    let stats = (0..x.batch).map(|image| partials.merge(image * parts..(image + 1) * parts)).collect();
    Ok(Ready { stats })
}
