//! 3×3 convolutions by Winograd's minimal filtering: fused, tile by tile.
//!
//! A worker takes a block of neighbouring tiles of one image and does everything for it:
//!
//! 1. *input*: reads each `N × N` tile (normalised and activated on the way), transforms it, and writes
//!    `V[N * N][tiles][in]`;
//! 2. *product*: for some output channels at a time, `M[N * N][tiles][chunk] = V · U`, in register tiles;
//! 3. *output*: transforms `M` back, adds bias and residual, gathers statistics, writes the image.
//!
//! `V` and `M` are scratch of the worker: no transformed image ever exists. The filters `U[panel][N * N][in][NR]`
//! are transformed before, by all workers (see [`filter`]).
//!
//! A nearest 2× upsampling followed by a 3×3 convolution is four 2×2 convolutions on the small image, one for each
//! phase of the output. They share steps 1 and stack their output channels in step 2.
//!
//! Rounding error, relative to `sqrt(Σ w² Σ x²)` over a filter's support: see [`crate::plan`].

mod filter;
mod scheme;

use crate::arena::OutOfMemory;
use crate::conv::{Job, Ready};
use crate::gemm::Tile;
use crate::pool::Shared;
use crate::simd::{Op, Simd};
use crate::sink::{Partials, PartialsWriter, Sink};
use crate::source::{Read, View, with_reader};
use filter::{Filters, TransformPanel};
pub(crate) use scheme::{F4x3, F5x2, F6x3, F7x2, MAX, Scheme};

/// Output channels of one product: `M` of a block stays in the second-level cache.
const CHUNK: usize = 64;
/// Tiles of one block: enough that the filters' way from memory is hidden behind the products.
const TILES: usize = 96;

/// Runs `job` with scheme `C`: a 3×3 convolution, or an upsampling one if `C::R` is 2.
pub(crate) fn run<C: Scheme>(job: &mut Job<'_>, scheme: C) -> Result<Ready, OutOfMemory> {
    let context = job.context;
    let (_, nr) = context.isa.tile_shape();
    let x = job.source.x;
    let phases = if C::R == 2 { 4 } else { 1 };
    // An upsampling convolution's odd phase starts one input earlier, hence the additional one.
    let extra = usize::from(C::R == 2);
    let (tiles_y, tiles_x) = ((x.height + extra).div_ceil(C::M), (x.width + extra).div_ceil(C::M));
    let tiles = tiles_y * tiles_x;
    let depth = x.stride;
    let panels = job.y.stride.div_ceil(nr);
    let columns = panels * nr;

    // Filters.
    let panel_size = C::N * C::N * depth * nr;
    let u = context.arena.take(phases * panels * panel_size * 4)?;
    let u_ptr = Shared::new(u.ptr().cast::<f32>());
    let filters =
        Filters { weight: job.weight, out_channels: job.y.channels, in_channels: x.channels, depth };
    context.pool.run(phases * panels, |_, index| {
        let (phase, panel) = (index / panels, index % panels);
        // SAFETY: the buffer has room for every panel, and each task writes its own.
        let out = unsafe { u_ptr.get().add(index * panel_size) };
        context.isa.run(TransformPanel {
            scheme,
            filters,
            first: panel * nr,
            phase: (phases == 4).then_some([phase / 2, phase % 2]),
            out,
            scratch: &mut Vec::new(),
        });
    });

    // Blocks of tiles of about equal size, the same number for each worker.
    let threads = context.pool.threads();
    let mr = context.isa.tile_shape().0;
    let blocks = tiles.div_ceil(TILES).next_multiple_of(threads).min(tiles.div_ceil(mr));
    // Where there are fewer blocks than workers, they share a block's output channels.
    let chunk = CHUNK.next_multiple_of(nr).min(columns);
    let chunks = phases * columns.div_ceil(chunk);
    let groups = if blocks * x.batch >= threads { 1 } else { threads.div_ceil(blocks * x.batch).min(chunks) };

    let most = tiles.div_ceil(blocks).next_multiple_of(mr);
    let layout = Layout::new(most, depth, chunk, C::N * C::N);
    let scratch = (0..threads).map(|_| context.arena.take(layout.bytes())).collect::<Result<Vec<_>, _>>()?;
    let scratch: Vec<Shared> = scratch.iter().map(|b| Shared::new(b.ptr().cast())).collect();

    let mut partials = Partials::new(x.batch * blocks * phases, job.y.stride);
    let writer = partials.writer();
    let sinks: Vec<Sink<'_>> = (0..x.batch).map(|image| job.sink(image)).collect();
    let source = job.source;
    context.pool.run(x.batch * blocks * groups, |worker, index| {
        let (part, group) = (index / groups, index % groups);
        let (image, block) = (part / blocks, part % blocks);
        let work = Block::<C> {
            scheme,
            view: source.view(image),
            sink: sinks[image],
            u: u_ptr,
            scratch: scratch[worker],
            layout,
            tiles_x,
            first: tiles * block / blocks,
            last: tiles * (block + 1) / blocks,
            phases,
            panels,
            chunks: chunks * group / groups..chunks * (group + 1) / groups,
            partials: writer,
            part: part * phases,
        };
        with_reader!(source, Reader => context.isa.run(WithReader::<C, Reader> { work, reader: std::marker::PhantomData }));
    });
    let stats = (0..x.batch)
        .map(|image| partials.merge(image * blocks * phases..(image + 1) * blocks * phases))
        .collect();
    Ok(Ready { stats })
}

/// Where `V` and `M` lie in a worker's scratch, in f32 values.
#[derive(Clone, Copy)]
struct Layout {
    depth: usize,
    chunk: usize,
    /// From one of the `N * N` planes of `V` to the next.
    v_plane: usize,
    m_plane: usize,
    m: usize,
    end: usize,
}

impl Layout {
    fn new(tiles: usize, depth: usize, chunk: usize, planes: usize) -> Self {
        // Planes a multiple of 4 KiB apart would all fall into the same few lines of the cache.
        let apart = |size: usize| size.next_multiple_of(1024) + 16;
        let (v_plane, m_plane) = (apart(tiles * depth), apart(tiles * chunk));
        let m = planes * v_plane;
        Self { depth, chunk, v_plane, m_plane, m, end: m + planes * m_plane }
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
    tiles_x: usize,
    /// Tiles `first..last` of the image.
    first: usize,
    last: usize,
    phases: usize,
    panels: usize,
    /// Which chunks of output channels, over all phases.
    chunks: std::ops::Range<usize>,
    partials: PartialsWriter,
    /// The part of the statistics that phase 0 of this block writes.
    part: usize,
}

struct WithReader<'a, C: Scheme, R: Read> {
    work: Block<'a, C>,
    reader: std::marker::PhantomData<R>,
}

impl<C: Scheme, R: Read> Op for WithReader<'_, C, R> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let b = &self.work;
        // SAFETY: the scratch holds what `layout` says for `last - first` tiles rounded up to MR; U holds all panels.
        unsafe {
            b.input::<S, R>(simd);
            for chunk in b.chunks.clone() {
                b.product(simd, chunk);
                b.output(simd, chunk);
            }
        }
        let _ = b.scheme;
    }
}

impl<C: Scheme> Block<'_, C> {
    /// Step 1.
    ///
    /// # Safety
    /// The scratch holds what `layout` says.
    #[inline(always)]
    unsafe fn input<S: Simd, R: Read>(&self, simd: S) {
        // Half a cache line or a whole one at a time, so that every line is read and written once.
        const GROUP: usize = 16;
        let (height, width) = (self.view.height as isize, self.view.width as isize);
        for tile in self.first..self.last {
            let top = (tile / self.tiles_x * C::M) as isize - 1;
            let left = (tile % self.tiles_x * C::M) as isize - 1;
            let v = self.scratch.get();
            let row = (tile - self.first) * self.layout.depth;
            for c in (0..self.layout.depth).step_by(GROUP) {
                let mut tmp = [[[simd.zero(); MAX]; MAX]; 4];
                let vectors = GROUP / S::LANES;
                for y in 0..C::N {
                    let mut d = [[simd.zero(); MAX]; 4];
                    let py = top + y as isize;
                    if py >= 0 && py < height {
                        for x in 0..C::N {
                            let px = left + x as isize;
                            if px >= 0 && px < width {
                                let pixel = (py * width + px) as usize;
                                for j in 0..vectors {
                                    // SAFETY: the pixel lies inside the image; c + GROUP <= stride = depth.
                                    d[j][x] =
                                        unsafe { self.view.load::<S, R>(simd, pixel, c + j * S::LANES) };
                                }
                            }
                        }
                    }
                    for j in 0..vectors {
                        tmp[j][y] = C::input(simd, d[j]);
                    }
                }
                for x in 0..C::N {
                    for j in 0..vectors {
                        let column = C::input(simd, std::array::from_fn(|y| tmp[j][y][x]));
                        for (y, &value) in column.iter().enumerate().take(C::N) {
                            let at = (y * C::N + x) * self.layout.v_plane + row + c + j * S::LANES;
                            // SAFETY: inside V: plane < N * N, row of one of the block's tiles, c inside depth.
                            unsafe { simd.store(v.add(at), value) };
                        }
                    }
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
        let tiles = self.last - self.first;
        for plane in 0..planes {
            for panel in 0..count {
                let index = phase * self.panels + first + panel;
                for row in (0..tiles).step_by(S::MR) {
                    // SAFETY: V has MR rows from `row` on (its tiles are rounded up to MR), M too; the panel is
                    // one of U's.
                    unsafe {
                        let v = self.scratch.get().add(plane * self.layout.v_plane + row * self.layout.depth);
                        let m = self.scratch.get().add(
                            self.layout.m
                                + plane * self.layout.m_plane
                                + row * self.layout.chunk
                                + panel * S::NR,
                        );
                        let b = self.u.get().add((index * planes + plane) * self.layout.depth * S::NR);
                        simd.tile(&Tile {
                            segments: &[v.cast_const()],
                            lda: self.layout.depth,
                            k: self.layout.depth,
                            b: b.cast_const(),
                            c: m,
                            ldc: self.layout.chunk,
                            accumulate: false,
                        });
                    }
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
        for tile in self.first..self.last {
            // An odd phase's first output comes before the image.
            let top = (tile / self.tiles_x * C::M) as isize - py as isize;
            let left = (tile % self.tiles_x * C::M) as isize - px as isize;
            let ys = inside(top, C::M, self.view.height);
            let xs = inside(left, C::M, self.view.width);
            let pixels = (ys.len() * xs.len()) as u32;
            if pixels == 0 {
                continue;
            }
            let row = (tile - self.first) * self.layout.chunk;
            for c in (begin..end).step_by(S::LANES) {
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
