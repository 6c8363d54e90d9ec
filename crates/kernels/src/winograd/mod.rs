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
//! phase of the output. They share steps 1 and stack their output channels in step 2.
//!
//! Rounding error, relative to `sqrt(Σ w² Σ x²)` over a filter's support: see [`crate::plan`].

mod blocks;
mod causal;
mod filter;
mod scheme;

use crate::arena::OutOfMemory;
use crate::conv::{Job, Ready};
use crate::gemm::{Tile, prefetched};
use crate::pool::Shared;
use crate::simd::{Op, Simd};
use crate::sink::{Partials, PartialsWriter, Sink};
use crate::source::{View, Window};
use blocks::{Grid, Layout, Patch};
pub(crate) use causal::run as run_causal;
use filter::{Filters, TransformPanel};
pub(crate) use scheme::{F4x3, F5x2, F6x3, F7x2, MAX, Scheme};

/// Output channels of one product: `M` of a block stays in the second-level cache.
const CHUNK: usize = 64;
/// Fewer blocks than this for each worker are shared by all workers, as a worker would wait for about half a block at
/// the end.
const FEW_ROUNDS: usize = 12;
/// The most bytes of a shared `V`: the third-level cache of a few cores.
const SHARED_V: usize = 24 << 20;
/// The most bytes of filters at a time, as far as they belong to different phases.
const FILTERS: usize = 144 << 20;
/// Rows and columns of tiles, and channels, whose inputs are staged together: they stay in the second-level cache, so
/// that each value is read, normalised and activated about once though neighbouring tiles overlap.
const STAGED: [usize; 2] = [4, 6];
const STAGED_CHANNELS: usize = 32;
/// f32 values in a line of the cache.
const LINE: usize = 16;
/// The most tiles of one block. Many tiles hide the filters' way from memory behind the products; few keep `V` near.
/// With fewer output channels there are fewer filters to fetch, and fewer tiles are better: a quarter of the channels
/// was best, or close to it, at every layer of the SD v1 decoder.
const TILES: std::ops::RangeInclusive<usize> = 24..=96;

/// Runs `job` with scheme `C`: a 3×3 convolution, or an upsampling one if `C::R` is 2.
pub(crate) fn run<C: Scheme>(job: &mut Job<'_>, scheme: C) -> Result<Ready, OutOfMemory> {
    let context = job.context;
    let (_, nr) = context.isa.tile_shape();
    let x = job.source.x;
    let phases = if C::R == 2 { 4 } else { 1 };
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
    // Shared blocks are cut into runs of tiles for each chunk of channels.
    let runs = if shared { grid.most().div_ceil(*TILES.end()) } else { 1 };
    let (tiles, in_run) = (grid.most().next_multiple_of(mr), grid.most().div_ceil(runs).next_multiple_of(mr));
    let layout = Layout::new::<C>(tiles, in_run, depth, chunk, shared);
    let scratch = (0..threads).map(|_| context.arena.take(layout.bytes())).collect::<Result<Vec<_>, _>>()?;
    let scratch: Vec<Shared> = scratch.iter().map(|b| Shared::new(b.ptr().cast())).collect();
    let v = if shared { Some(context.arena.take(layout.v_bytes::<C>())?) } else { None };
    let v = v.as_ref().map(|v| Shared::new(v.ptr().cast()));

    let mut partials = Partials::new(x.batch * blocks * runs * phases, job.y.stride);
    let writer = partials.writer();
    let sinks: Vec<Sink<'_>> = (0..x.batch).map(|image| job.sink(image)).collect();
    let source = job.source;

    // The filters of some phases at a time, so that they do not outgrow the image.
    let filters = Filters {
        weight: job.weight,
        out_channels: job.y.channels,
        in_channels: x.channels,
        depth,
        time: None,
    };
    let panel_size = C::N * C::N * depth * nr;
    let together = (FILTERS / (panels * panel_size * 4)).clamp(1, phases);
    let u = context.arena.take(together * panels * panel_size * 4)?;
    let u = Shared::new(u.ptr().cast::<f32>());
    for first_phase in (0..phases).step_by(together) {
        let together = together.min(phases - first_phase);
        context.pool.run(together * panels, |_, index| {
            let (phase, panel) = (index / panels, index % panels);
            let begin = panel / per_chunk * per_chunk;
            let count = per_chunk.min(panels - begin);
            // SAFETY: the buffer has room for every panel, and each task writes its own.
            let out =
                unsafe { u.get().add((phase * panels + begin) * panel_size + (panel - begin) * depth * nr) };
            context.isa.run(TransformPanel {
                scheme,
                filters,
                first: panel * nr,
                phase: (phases == 4).then_some([(first_phase + phase) / 2, (first_phase + phase) % 2]),
                out,
                plane_size: count * depth * nr,
            });
        });
        let chunks = together * columns.div_ceil(chunk);
        // Run `run` of block `part / runs`, counted over all images.
        let block = |worker: usize, part: usize, run: usize| {
            let (image, tiles) = (part / blocks, grid.block(part % blocks));
            let count = tiles.count();
            Block::<C> {
                scheme,
                view: source.view(image),
                sink: sinks[image],
                u,
                scratch: scratch[worker],
                v: v.unwrap_or(scratch[worker]),
                layout,
                tiles,
                range: count.min(run * in_run)..count.min((run + 1) * in_run),
                phases,
                first_phase,
                panels,
                chunks: 0..chunks,
                partials: writer,
                part: (part * runs + run) * phases,
            }
        };
        if !shared {
            context.pool.run(x.batch * blocks, |worker, part| context.isa.run(block(worker, part, 0)));
            continue;
        }
        for part in 0..x.batch * blocks {
            context.pool.run(block(0, part, 0).windows(), |worker, window| {
                context.isa.run(Input { block: block(worker, part, 0), window });
            });
            context.pool.run(chunks * runs, |worker, index| {
                let (chunk, run) = (index / runs, index % runs);
                context.isa.run(Output { block: block(worker, part, run), chunk });
            });
        }
    }
    let parts = blocks * runs * phases;
    let stats = (0..x.batch).map(|image| partials.merge(image * parts..(image + 1) * parts)).collect();
    Ok(Ready { stats })
}

struct Block<'a, C: Scheme> {
    scheme: C,
    view: View,
    sink: Sink<'a>,
    u: Shared,
    scratch: Shared,
    /// What `V` lies in: the worker's scratch, or memory that all workers share.
    v: Shared,
    layout: Layout,
    tiles: Patch,
    /// Which of the tiles the products and outputs are of; the inputs are of all.
    range: std::ops::Range<usize>,
    phases: usize,
    /// The phase whose filters U begins with.
    first_phase: usize,
    panels: usize,
    /// Which chunks of output channels, over all phases that U holds.
    chunks: std::ops::Range<usize>,
    partials: PartialsWriter,
    /// The part of the statistics that phase 0 of this block writes.
    part: usize,
}

impl<C: Scheme> Op for Block<'_, C> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        // SAFETY: the scratch holds what `layout` says for the block's tiles rounded up to MR; U holds all panels.
        unsafe {
            self.input(simd, 0..self.windows());
            for chunk in self.chunks.clone() {
                self.product(simd, chunk);
                self.output(simd, chunk);
            }
        }
        let _ = self.scheme;
    }
}

/// Step 1 for one window of a shared block.
struct Input<'a, C: Scheme> {
    block: Block<'a, C>,
    window: usize,
}

impl<C: Scheme> Op for Input<'_, C> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        // SAFETY: scratch and V hold what `layout` says; each window's tiles are this task's own.
        unsafe { self.block.input(simd, self.window..self.window + 1) }
    }
}

/// Steps 2 and 3 for one chunk of a shared block's run.
struct Output<'a, C: Scheme> {
    block: Block<'a, C>,
    chunk: usize,
}

impl<C: Scheme> Op for Output<'_, C> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        // SAFETY: scratch and V hold what `layout` says, V is written, U holds all panels; each run's tiles and each
        // chunk's channels are this task's own.
        unsafe {
            self.block.product(simd, self.chunk);
            self.block.output(simd, self.chunk);
        }
    }
}

impl<C: Scheme> Block<'_, C> {
    /// How many windows the inputs are staged in.
    fn windows(&self) -> usize {
        self.tiles.height.div_ceil(STAGED[0]) * self.tiles.width.div_ceil(STAGED[1])
    }

    /// Step 1, for some windows.
    ///
    /// # Safety
    /// The scratch and `V` hold what `layout` says.
    #[inline(always)]
    unsafe fn input<S: Simd>(&self, simd: S, windows: std::ops::Range<usize>) {
        let block = self.tiles;
        let staged = self.scratch.get();
        // Made once: clearing it for every tile would be a fifth of the transform.
        let mut half = [[simd.zero(); MAX]; MAX];
        let across = block.width.div_ceil(STAGED[1]);
        for window in windows {
            let (top, left) = (window / across * STAGED[0], window % across * STAGED[1]);
            {
                let height = STAGED[0].min(block.height - top);
                let width = STAGED[1].min(block.width - left);
                for first in (0..self.layout.depth).step_by(STAGED_CHANNELS) {
                    let channels = STAGED_CHANNELS.min(self.layout.depth - first);
                    let window = Window {
                        top: ((block.top + top) * C::M) as isize - 1,
                        left: ((block.left + left) * C::M) as isize - 1,
                        rows: height * C::M + C::N - C::M,
                        columns: width * C::M + C::N - C::M,
                        first,
                        channels,
                        pitch: channels,
                    };
                    // SAFETY: the scratch begins with room for the largest window.
                    unsafe { self.view.stage(simd, window, staged) };
                    for tile in 0..height * width {
                        let (y, x) = (tile / width, tile % width);
                        let corner = (y * C::M * window.columns + x * C::M) * channels;
                        let row = (top + y) * block.width + left + x;
                        // SAFETY: the tile lies inside the window, its row inside V.
                        unsafe {
                            let from = staged.add(corner).cast_const();
                            let to = self.v.get().add(self.layout.v + row * self.layout.depth + first);
                            self.transform(simd, &mut half, from, window.columns, channels, to);
                        }
                    }
                }
            }
        }
    }

    /// `Bᵀ d B` of one tile, channel by channel, by way of `half`.
    ///
    /// # Safety
    /// `from` is readable for `N` rows of `N` pixels of `channels` values, rows `columns` pixels apart; `to` is writable
    /// for `channels` values in each plane of V.
    #[inline(always)]
    unsafe fn transform<S: Simd>(
        &self,
        simd: S,
        half: &mut [[S::V; MAX]; MAX],
        from: *const f32,
        columns: usize,
        channels: usize,
        to: *mut f32,
    ) {
        for c in (0..channels).step_by(S::LANES) {
            for (y, row) in half.iter_mut().enumerate().take(C::N) {
                let mut d = [simd.zero(); MAX];
                for (x, d) in d.iter_mut().enumerate().take(C::N) {
                    // SAFETY: by the caller's promise.
                    *d = unsafe { simd.load(from.add((y * columns + x) * channels + c)) };
                }
                *row = C::input(simd, d);
            }
            for x in 0..C::N {
                let column = C::input(simd, std::array::from_fn(|y| half[y][x]));
                for (y, &value) in column.iter().enumerate().take(C::N) {
                    // SAFETY: by the caller's promise.
                    unsafe { simd.store(to.add((y * C::N + x) * self.layout.v_plane + c), value) };
                }
            }
        }
    }

    /// The phase, counted from the first of U, the first panel within it, and how many panels a chunk has.
    #[inline(always)]
    fn chunk_panels(&self, chunk: usize, nr: usize) -> (usize, usize, usize) {
        let per_chunk = self.layout.chunk / nr;
        let chunks_per_phase = self.panels.div_ceil(per_chunk);
        let (phase, first) = (chunk / chunks_per_phase, chunk % chunks_per_phase * per_chunk);
        (phase, first, per_chunk.min(self.panels - first))
    }

    /// Step 2.
    ///
    /// # Safety
    /// The scratch holds what `layout` says, V is written, and U holds all panels.
    #[inline(always)]
    unsafe fn product<S: Simd>(&self, simd: S, chunk: usize) {
        let planes = C::N * C::N;
        let (phase, first, count) = self.chunk_panels(chunk, S::NR);
        let tiles = self.range.len();
        let depth = self.layout.depth;
        let panel_size = depth * S::NR;
        let u = self.u.get().wrapping_add((phase * self.panels + first) * planes * panel_size).cast_const();
        // Values that one tile prefetches.
        let ahead = prefetched::<S>(depth);
        for plane in 0..planes {
            let u = u.wrapping_add(plane * count * panel_size);
            let v = self.layout.v + plane * self.layout.v_plane + self.range.start * depth;
            let v = self.v.get().wrapping_add(v).cast_const();
            let m = self.scratch.get().wrapping_add(self.layout.m + plane * self.layout.m_plane);
            // What the next plane needs comes in while this one is computed: its panels follow this one's.
            let mut next = [v.wrapping_add(self.layout.v_plane), u.wrapping_add(count * panel_size)];
            for row in (0..tiles).step_by(S::MR) {
                for panel in 0..count {
                    // SAFETY: V has MR rows from `row` on (its tiles are rounded up to MR), M too; the panel is
                    // one of U's.
                    unsafe {
                        simd.tile(&Tile {
                            segments: &[v.add(row * depth)],
                            lda: depth,
                            k: depth,
                            b: u.add(panel * panel_size),
                            c: m.add(row * self.layout.chunk + panel * S::NR),
                            ldc: self.layout.chunk,
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

    /// Step 3.
    ///
    /// # Safety
    /// The scratch holds what `layout` says, and M is written.
    #[inline(always)]
    unsafe fn output<S: Simd>(&self, simd: S, chunk: usize) {
        let (phase, first_panel, count) = self.chunk_panels(chunk, S::NR);
        let phase = self.first_phase + phase;
        // The image's rows and columns that this phase writes: every one, or every second.
        let step = if self.phases == 4 { 2 } else { 1 };
        let (py, px) = (phase / 2, phase % 2);
        let begin = first_panel * S::NR;
        let end = (begin + count * S::NR).min(self.sink.stride);
        // Where the outputs of a tile lie: the first row and column, and which of them are inside the image.
        let place = |tile: usize| {
            let (tile_y, tile_x) = self.tiles.tile(tile);
            // An odd phase's first output comes before the image.
            let top = (tile_y * C::M) as isize - py as isize;
            let left = (tile_x * C::M) as isize - px as isize;
            (top, left, inside(top, C::M, self.view.height), inside(left, C::M, self.view.width))
        };
        let line_of = |top: isize, y: usize| (top + y as isize) as usize * step + py;
        let pixel_of = |line: usize, left: isize, x: usize| {
            line * self.sink.width + (left + x as isize) as usize * step + px
        };
        let mut tmp = [[simd.zero(); MAX]; MAX];
        let mut seen = 0u32;
        let mut following = place(self.range.start);
        for tile in self.range.clone() {
            let (top, left, ys, xs) = following;
            following = if tile + 1 < self.range.end { place(tile + 1) } else { (0, 0, 0..0, 0..0) };
            let pixels = (ys.len() * xs.len()) as u32;
            if pixels == 0 {
                continue;
            }
            let row = (tile - self.range.start) * self.layout.chunk;
            for c in (begin..end).step_by(S::LANES) {
                if c % LINE == 0 {
                    // The lines read and written next: this tile's next channels; of M, or else those of the tile after.
                    let m = self.layout.m
                        + row
                        + if c + LINE < end { c + LINE - begin } else { self.layout.chunk };
                    for plane in 0..C::N * C::N {
                        simd.prefetch(self.scratch.get().wrapping_add(m + plane * self.layout.m_plane));
                    }
                    // ... of the image likewise.
                    let (channel, (top, left, ys, xs)) = if c + LINE < end {
                        (c + LINE, (top, left, ys.clone(), xs.clone()))
                    } else {
                        (begin, following.clone())
                    };
                    for y in ys {
                        let line = line_of(top, y);
                        for x in xs.clone() {
                            self.sink.prefetch(simd, pixel_of(line, left, x), channel);
                        }
                    }
                }
                for x in 0..C::N {
                    let column = std::array::from_fn(|y| {
                        if y < C::N {
                            let at = self.layout.m + (y * C::N + x) * self.layout.m_plane + row + c - begin;
                            // SAFETY: inside M.
                            unsafe { simd.load(self.scratch.get().add(at)) }
                        } else {
                            simd.zero()
                        }
                    });
                    let column = C::output(simd, column);
                    for y in 0..C::M {
                        tmp[y][x] = column[y];
                    }
                }
                let mut sum = simd.zero();
                let mut abs_max = simd.zero();
                for y in ys.clone() {
                    let values = C::output(simd, tmp[y]);
                    tmp[y] = values;
                    let line = line_of(top, y);
                    for x in xs.clone() {
                        let pixel = pixel_of(line, left, x);
                        // SAFETY: inside the output image; this block alone writes this pixel's channels.
                        let v = unsafe { self.sink.put(simd, pixel, c, values[x]) };
                        tmp[y][x] = v;
                        sum = simd.add(sum, v);
                        abs_max = simd.max(abs_max, simd.abs(v));
                    }
                }
                let mean = simd.mul(sum, simd.splat(1.0 / pixels as f32));
                let mut m2 = simd.zero();
                for y in ys.clone() {
                    for x in xs.clone() {
                        let d = simd.sub(tmp[y][x], mean);
                        m2 = simd.fma(d, d, m2);
                    }
                }
                // SAFETY: this block's part and this chunk's channels.
                unsafe { self.partials.merge(simd, self.part + phase, c, seen, pixels, [mean, m2, abs_max]) };
            }
            seen += pixels;
        }
        // SAFETY: this block's part; every chunk of the phase states the same number.
        unsafe { self.partials.set_count(self.part + phase, seen) };
    }
}

/// Which of `count` positions from `start` on lie in `0..size`.
#[inline(always)]
fn inside(start: isize, count: usize, size: usize) -> std::ops::Range<usize> {
    let begin = (-start).clamp(0, count as isize) as usize;
    let end = (size as isize - start).clamp(begin as isize, count as isize) as usize;
    begin..end
}
