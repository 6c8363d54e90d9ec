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

mod causal;
mod filter;
mod scheme;

use crate::arena::OutOfMemory;
use crate::conv::{Job, Ready};
use crate::gemm::{Tile, prefetched_lines};
use crate::pool::Shared;
use crate::simd::{Op, Simd};
use crate::sink::{Partials, PartialsWriter, Sink};
use crate::source::{View, Window};
pub(crate) use causal::run as run_causal;
use filter::{Filters, TransformPanel};
pub(crate) use scheme::{F4x3, F5x2, F6x3, F7x2, MAX, Scheme};

/// Output channels of one product: `M` of a block stays in the second-level cache.
const CHUNK: usize = 64;
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

    // Filters.
    let panel_size = C::N * C::N * depth * nr;
    let u = context.arena.take(phases * panels * panel_size * 4)?;
    let u_ptr = Shared::new(u.ptr().cast::<f32>());
    let filters = Filters {
        weight: job.weight,
        out_channels: job.y.channels,
        in_channels: x.channels,
        depth,
        time: None,
    };
    context.pool.run(phases * panels, |_, index| {
        let (phase, panel) = (index / panels, index % panels);
        let begin = panel / per_chunk * per_chunk;
        let count = per_chunk.min(panels - begin);
        // SAFETY: the buffer has room for every panel, and each task writes its own.
        let out =
            unsafe { u_ptr.get().add((phase * panels + begin) * panel_size + (panel - begin) * depth * nr) };
        context.isa.run(TransformPanel {
            scheme,
            filters,
            first: panel * nr,
            phase: (phases == 4).then_some([phase / 2, phase % 2]),
            out,
            plane_size: count * depth * nr,
            scratch: &mut Vec::new(),
        });
    });

    // Blocks of tiles of about equal size, the same number for each worker.
    let threads = context.pool.threads();
    let mr = context.isa.tile_shape().0;
    let most = (phases * columns / 4).clamp(*TILES.start(), *TILES.end());
    let grid = Grid::new([tiles_y, tiles_x], most, threads);
    let blocks = grid.blocks();
    // Where there are fewer blocks than workers, they share a block's output channels.
    let chunks = phases * columns.div_ceil(chunk);
    let groups = if blocks * x.batch >= threads { 1 } else { threads.div_ceil(blocks * x.batch).min(chunks) };

    let layout = Layout::new::<C>(grid.most().next_multiple_of(mr), depth, chunk);
    let scratch = (0..threads).map(|_| context.arena.take(layout.bytes())).collect::<Result<Vec<_>, _>>()?;
    let scratch: Vec<Shared> = scratch.iter().map(|b| Shared::new(b.ptr().cast())).collect();

    let mut partials = Partials::new(x.batch * blocks * phases, job.y.stride);
    let writer = partials.writer();
    let sinks: Vec<Sink<'_>> = (0..x.batch).map(|image| job.sink(image)).collect();
    let source = job.source;
    context.pool.run(x.batch * blocks * groups, |worker, index| {
        let (part, group) = (index / groups, index % groups);
        let (image, block) = (part / blocks, part % blocks);
        context.isa.run(Block::<C> {
            scheme,
            view: source.view(image),
            sink: sinks[image],
            u: u_ptr,
            scratch: scratch[worker],
            layout,
            tiles: grid.block(block),
            phases,
            panels,
            chunks: chunks * group / groups..chunks * (group + 1) / groups,
            partials: writer,
            part: part * phases,
        });
    });
    let stats = (0..x.batch)
        .map(|image| partials.merge(image * blocks * phases..(image + 1) * blocks * phases))
        .collect();
    Ok(Ready { stats })
}

/// Some rows and columns of tiles.
#[derive(Clone, Copy)]
struct Patch {
    top: usize,
    left: usize,
    height: usize,
    width: usize,
}

impl Patch {
    fn count(&self) -> usize {
        self.height * self.width
    }

    /// The row and column of its tile `index`.
    #[inline(always)]
    fn tile(&self, index: usize) -> (usize, usize) {
        (self.top + index / self.width, self.left + index % self.width)
    }
}

/// How an image's tiles are cut into blocks: `rows × columns` blocks of about equal size.
#[derive(Clone, Copy)]
struct Grid {
    tiles: [usize; 2],
    cuts: [usize; 2],
}

impl Grid {
    /// The cut into blocks of at most `most` tiles that makes the least idle time and the squarest blocks.
    fn new(tiles: [usize; 2], most: usize, threads: usize) -> Self {
        let mut best = (f64::INFINITY, [1, 1]);
        for rows in 1..=tiles[0] {
            for columns in 1..=tiles[1] {
                let (height, width) = (tiles[0].div_ceil(rows), tiles[1].div_ceil(columns));
                if height * width > most {
                    continue;
                }
                let blocks = rows * columns;
                // Rounds in which every worker does a largest block, each with its own filters to fetch (worth about
                // a dozen tiles), and inputs that neighbouring blocks both read.
                let rounds = blocks.div_ceil(threads) as f64;
                let edges = 0.1 * (height + width) as f64;
                let cost = rounds * ((height * width) as f64 + 12.0 + edges);
                if cost < best.0 {
                    best = (cost, [rows, columns]);
                }
                break;
            }
        }
        Self { tiles, cuts: best.1 }
    }

    fn blocks(&self) -> usize {
        self.cuts[0] * self.cuts[1]
    }

    /// Tiles of the largest block.
    fn most(&self) -> usize {
        self.tiles[0].div_ceil(self.cuts[0]) * self.tiles[1].div_ceil(self.cuts[1])
    }

    fn block(&self, index: usize) -> Patch {
        let part = |axis: usize, i: usize| {
            let begin = self.tiles[axis] * i / self.cuts[axis];
            (begin, self.tiles[axis] * (i + 1) / self.cuts[axis] - begin)
        };
        let (top, height) = part(0, index / self.cuts[1]);
        let (left, width) = part(1, index % self.cuts[1]);
        Patch { top, left, height, width }
    }
}

/// Where the staged input, `V` and `M` lie in a worker's scratch, in f32 values.
#[derive(Clone, Copy)]
struct Layout {
    depth: usize,
    chunk: usize,
    v: usize,
    /// From one of the `N * N` planes of `V` to the next.
    v_plane: usize,
    m_plane: usize,
    m: usize,
    end: usize,
}

impl Layout {
    fn new<C: Scheme>(tiles: usize, depth: usize, chunk: usize) -> Self {
        let planes = C::N * C::N;
        // Planes a multiple of 4 KiB apart would all fall into the same few lines of the cache.
        let apart = |size: usize| size.next_multiple_of(1024) + 16;
        let (v_plane, m_plane) = (apart(tiles * depth), apart(tiles * chunk));
        let side = |tiles: usize| tiles * C::M + C::N - C::M;
        let v = side(STAGED[0]) * side(STAGED[1]) * STAGED_CHANNELS;
        let m = v + planes * v_plane;
        Self { depth, chunk, v, v_plane, m_plane, m, end: m + planes * m_plane }
    }

    fn bytes(&self) -> usize {
        self.end * 4
    }
}

struct Block<'a, C: Scheme> {
    scheme: C,
    view: View,
    sink: Sink<'a>,
    u: Shared,
    scratch: Shared,
    layout: Layout,
    tiles: Patch,
    phases: usize,
    panels: usize,
    /// Which chunks of output channels, over all phases.
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
            self.input(simd);
            for chunk in self.chunks.clone() {
                self.product(simd, chunk);
                self.output(simd, chunk);
            }
        }
        let _ = self.scheme;
    }
}

impl<C: Scheme> Block<'_, C> {
    /// Step 1.
    ///
    /// # Safety
    /// The scratch holds what `layout` says.
    #[inline(always)]
    unsafe fn input<S: Simd>(&self, simd: S) {
        let block = self.tiles;
        let staged = self.scratch.get();
        for top in (0..block.height).step_by(STAGED[0]) {
            for left in (0..block.width).step_by(STAGED[1]) {
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
                            let to = staged.add(self.layout.v + row * self.layout.depth + first);
                            self.transform(simd, from, window.columns, channels, to);
                        }
                    }
                }
            }
        }
    }

    /// `Bᵀ d B` of one tile, channel by channel.
    ///
    /// # Safety
    /// `from` is readable for `N` rows of `N` pixels of `channels` values, rows `columns` pixels apart; `to` is writable
    /// for `channels` values in each plane of V.
    #[inline(always)]
    unsafe fn transform<S: Simd>(
        &self,
        simd: S,
        from: *const f32,
        columns: usize,
        channels: usize,
        to: *mut f32,
    ) {
        for c in (0..channels).step_by(S::LANES) {
            if c % LINE == 0 {
                // The lines written next, which lie in as many pages as there are planes: this tile's, or those of
                // the tile after it.
                let next = if c + LINE < channels {
                    to.wrapping_add(c + LINE)
                } else {
                    to.wrapping_add(self.layout.depth)
                };
                for plane in 0..C::N * C::N {
                    simd.prefetch(next.wrapping_add(plane * self.layout.v_plane));
                }
            }
            let mut tmp = [[simd.zero(); MAX]; MAX];
            for (y, row) in tmp.iter_mut().enumerate().take(C::N) {
                let mut d = [simd.zero(); MAX];
                for (x, d) in d.iter_mut().enumerate().take(C::N) {
                    // SAFETY: by the caller's promise.
                    *d = unsafe { simd.load(from.add((y * columns + x) * channels + c)) };
                }
                *row = C::input(simd, d);
            }
            for x in 0..C::N {
                let column = C::input(simd, std::array::from_fn(|y| tmp[y][x]));
                for (y, &value) in column.iter().enumerate().take(C::N) {
                    // SAFETY: by the caller's promise.
                    unsafe { simd.store(to.add((y * C::N + x) * self.layout.v_plane + c), value) };
                }
            }
        }
    }

    /// The phase, the first panel within it, and how many panels a chunk has.
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
        let tiles = self.tiles.count();
        let depth = self.layout.depth;
        let panel_size = depth * S::NR;
        let u = self.u.get().wrapping_add((phase * self.panels + first) * planes * panel_size).cast_const();
        // Values that one tile prefetches.
        let ahead = prefetched_lines(depth) * 16;
        for plane in 0..planes {
            let u = u.wrapping_add(plane * count * panel_size);
            let v = self.scratch.get().wrapping_add(self.layout.v + plane * self.layout.v_plane).cast_const();
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
        // The image's rows and columns that this phase writes: every one, or every second.
        let step = if self.phases == 4 { 2 } else { 1 };
        let (py, px) = (phase / 2, phase % 2);
        let begin = first_panel * S::NR;
        let end = (begin + count * S::NR).min(self.sink.stride);
        let mut seen = 0u32;
        for tile in 0..self.tiles.count() {
            let (tile_y, tile_x) = self.tiles.tile(tile);
            // An odd phase's first output comes before the image.
            let top = (tile_y * C::M) as isize - py as isize;
            let left = (tile_x * C::M) as isize - px as isize;
            let ys = inside(top, C::M, self.view.height);
            let xs = inside(left, C::M, self.view.width);
            let pixels = (ys.len() * xs.len()) as u32;
            if pixels == 0 {
                continue;
            }
            let row = tile * self.layout.chunk;
            for c in (begin..end).step_by(S::LANES) {
                if c % LINE == 0 {
                    // The lines read and written next: this tile's next channels; of M, or else those of the tile after.
                    let m = self.layout.m
                        + row
                        + if c + LINE < end { c + LINE - begin } else { self.layout.chunk };
                    for plane in 0..C::N * C::N {
                        simd.prefetch(self.scratch.get().wrapping_add(m + plane * self.layout.m_plane));
                    }
                    for y in ys.clone() {
                        let line = (top + y as isize) as usize * step + py;
                        for x in xs.clone() {
                            let pixel = line * self.sink.width + (left + x as isize) as usize * step + px;
                            self.sink.prefetch(simd, pixel, c + LINE);
                        }
                    }
                }
                let mut tmp = [[simd.zero(); MAX]; MAX];
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
                    let line = (top + y as isize) as usize * step + py;
                    for x in xs.clone() {
                        let pixel = line * self.sink.width + (left + x as isize) as usize * step + px;
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
