//! 3×3 convolutions in AMX's tile registers (see [`crate::simd::amx`]), by Winograd's filtering along columns only.
//!
//! Operands come from the second-level cache about as fast as tile registers take them in, so what counts is how often a
//! value that was brought near is used. Along a row the taps therefore stay taps, which read the same pixels one after the
//! other, and only columns are transformed: with `F(4, 3)` half as many multiplications as a direct convolution makes, for
//! 1.5 times as many values.
//!
//! A worker takes a patch of the output, of one of [`SHAPES`]:
//!
//! 1. *input*: reads the patch (normalised and activated), transforms its columns, takes the values apart, and writes
//!    `V[N][tile row][column][channels]`;
//! 2. *product*: for each of the `N` points and each panel of 32 output channels `M[N][panel][tile row][column][32]`;
//! 3. *output*: transforms `M` back, adds bias and residual, gathers statistics, writes the image.

use super::block::inside;
use super::phases::{Phase, phases};
use super::scheme::{MAX, Scheme};
use super::tile_filters::{Panel, panel_size};
use crate::arena::Region;
use crate::conv::{Job, Ready};
use crate::simd::Simd;
use crate::simd::amx::{Amx, COLUMNS, DEPTH, Product, TileOp};
use crate::sink::{Partials, PartialsWriter, Sink};
use crate::source::{View, Window};
use crate::tiles::{RUN, row_size};
use crate::watch::{Stopped, Watched};

/// Tile rows of a patch and runs of pixels in each, the best first: large patches use each filter more often.
const SHAPES: [[usize; 2]; 4] = [[4, 4], [4, 2], [2, 2], [2, 1]];
/// Tasks for each worker that a smaller shape is taken for.
const FEW_TASKS: usize = 4;

/// Runs `job` with scheme `C`: a 3×3 convolution, or an upsampling one if `C::R` is 2.
pub(crate) fn run<C: Scheme>(
    job: &mut Job<'_>,
    scheme: C,
    watched: &mut Watched<'_>,
) -> Result<Ready, Stopped> {
    // Other kernels share products between phases, which some schemes for tiles do not have.
    let Some(amx) = Amx::new() else { unreachable!("the planner asks for tiles first") };
    let context = job.context;
    let (x, y) = (job.source.x, job.y);
    let threads = context.pool.threads();
    let chunks = x.stride.div_ceil(DEPTH);
    let panels = y.stride.div_ceil(COLUMNS);
    let panel_size = panel_size::<C>(chunks);

    // An upsampling convolution's odd phase starts one input earlier, hence the additional one.
    let total = [(x.height + usize::from(C::R == 2)).div_ceil(C::M), x.width.div_ceil(RUN)];
    let patches = |shape: [usize; 2]| [total[0].div_ceil(shape[0]), total[1].div_ceil(shape[1])];
    let count = |shape| x.batch * patches(shape).iter().product::<usize>();
    let enough = FEW_TASKS * threads;
    let shape = SHAPES.into_iter().find(|&shape| count(shape) >= enough).unwrap_or(SHAPES[SHAPES.len() - 1]);
    let patches = patches(shape);
    let in_image = patches[0] * patches[1];
    // Too few patches are cut into groups of output channels, each of which transforms the patch anew.
    let in_group = panels.div_ceil(enough.div_ceil(count(shape)).min(panels));
    let groups = panels.div_ceil(in_group);
    let geometry = Geometry {
        // Patches of about the same size.
        rows: total[0].div_ceil(patches[0]),
        runs: total[1].div_ceil(patches[1]),
        chunks,
        in_group,
    };

    let u = context.arena.take(phases::<C>() * C::N * panels * panel_size)?;
    let u = u.region();
    context.pool.run(phases::<C>() * panels, |_, index| {
        let (phase, panel) = (index / panels, index % panels);
        amx.run(Panel {
            scheme,
            weight: job.kernel.weight,
            channels: [y.channels, x.channels],
            first: panel * COLUMNS,
            phase: Phase::nth(phase),
            chunks,
            // From the panel of the first point on; other panels lie in between.
            out: u.from((phase * C::N * panels + panel) * panel_size),
            plane: panels * panel_size,
        });
    });

    let scratch = context.scratch(geometry.scratch::<C>())?;
    let parts_per_image = in_image * phases::<C>();
    let mut partials = Partials::new(x.batch * parts_per_image, y.stride);
    let writer = partials.writer();
    let sinks: Vec<Sink<'_>> = (0..x.batch).map(|image| job.sink(image)).collect();
    let source = job.source;
    let made = phases::<C>() * C::N * C::R * geometry.rows * geometry.runs * RUN;
    let work = made * x.stride * in_group * COLUMNS;
    watched.run(&context.pool, 0.0..1.0, x.batch * in_image * groups, work, |worker, index| {
        let (part, group) = (index / groups, index % groups);
        let (image, patch) = (part / in_image, part % in_image);
        let [top, left] = [patch / patches[1] * geometry.rows, patch % patches[1] * geometry.runs];
        amx.run(Patch {
            scheme,
            view: source.view(image),
            sink: sinks[image],
            geometry,
            u,
            panels,
            panel_size,
            group: group * in_group..panels.min((group + 1) * in_group),
            scratch: scratch[worker].region(),
            top,
            rows: geometry.rows.min(total[0].saturating_sub(top)),
            left: left * RUN,
            columns: (geometry.runs * RUN).min(x.width.saturating_sub(left * RUN)),
            partials: writer,
            part: part * phases::<C>(),
        });
    })?;
    let stats =
        (0..x.batch).map(|i| partials.merge(i * parts_per_image..(i + 1) * parts_per_image)).collect();
    Ok(Ready { stats })
}

/// The largest patch.
#[derive(Clone, Copy)]
struct Geometry {
    /// Tile rows.
    rows: usize,
    /// Runs of [`RUN`] pixels in a row.
    runs: usize,
    /// Chunks of [`DEPTH`] input channels.
    chunks: usize,
    /// Panels of output channels.
    in_group: usize,
}

impl Geometry {
    /// Columns of V: one more to each side.
    fn columns(&self) -> usize {
        self.runs * RUN + 2
    }

    /// Bytes of V.
    fn v<C: Scheme>(&self) -> usize {
        C::N * self.rows * self.columns() * row_size(self.chunks)
    }

    /// Values of one chunk's channels of the patch before they are transformed.
    fn staged<C: Scheme>(&self) -> usize {
        (self.rows * C::M + C::N - C::M) * self.columns() * DEPTH
    }

    /// Pixels of M for a point and a panel: products make two runs at a time.
    fn pixels(&self) -> usize {
        (self.rows * self.runs).next_multiple_of(2) * RUN
    }

    /// Bytes of all scratch: V, staged values, M.
    fn scratch<C: Scheme>(&self) -> usize {
        self.v::<C>() + (self.staged::<C>() + C::N * self.in_group * self.pixels() * COLUMNS) * 4
    }
}

struct Patch<'a, C: Scheme> {
    scheme: C,
    view: View<'a>,
    sink: Sink<'a>,
    geometry: Geometry,
    u: Region<'a>,
    panels: usize,
    panel_size: usize,
    /// The panels of this task.
    group: std::ops::Range<usize>,
    scratch: Region<'a>,
    /// The first tile row, and how many.
    top: usize,
    rows: usize,
    /// The first column, and how many.
    left: usize,
    columns: usize,
    partials: PartialsWriter<'a>,
    part: usize,
}

impl<C: Scheme> TileOp for Patch<'_, C> {
    #[inline(always)]
    fn run(self, amx: Amx) {
        if self.rows == 0 || self.columns == 0 {
            return;
        }
        // SAFETY: the scratch holds what `Geometry` says; U holds all panels.
        unsafe {
            self.input(amx);
            for phase in Phase::all::<C>() {
                self.product(amx, phase);
                for panel in self.group.clone() {
                    self.output(amx.vectors(), phase, panel);
                }
            }
        }
        let _ = self.scheme;
    }
}

impl<C: Scheme> Patch<'_, C> {
    /// Where V is, the staged values, and M.
    #[inline(always)]
    fn scratch(&self) -> (*mut u8, *mut f32, *mut f32) {
        let v = self.scratch.ptr();
        let staged = v.wrapping_add(self.geometry.v::<C>()).cast::<f32>();
        (v, staged, staged.wrapping_add(self.geometry.staged::<C>()))
    }

    /// Runs of pixels in a row of this patch.
    #[inline(always)]
    fn runs(&self) -> usize {
        self.columns.div_ceil(RUN)
    }

    /// Where V has a pixel.
    #[inline(always)]
    fn v_at(&self, point: usize, row: usize, column: usize) -> usize {
        ((point * self.rows + row) * self.geometry.columns() + column) * row_size(self.geometry.chunks)
    }

    /// Step 1.
    ///
    /// # Safety
    /// The scratch holds what `Geometry` says.
    #[inline(always)]
    unsafe fn input(&self, amx: Amx) {
        let simd = amx.vectors();
        let (v, staged, _) = self.scratch();
        let columns = self.runs() * RUN + 2;
        for first in (0..self.view.stride).step_by(DEPTH) {
            let channels = DEPTH.min(self.view.stride - first);
            let window = Window {
                top: (self.top * C::M) as isize - 1,
                left: self.left as isize - 1,
                rows: self.rows * C::M + C::N - C::M,
                columns,
                first,
                channels,
                pitch: DEPTH,
            };
            // SAFETY: the window lies in the scratch, and every pixel that is written in V.
            unsafe {
                if channels < DEPTH {
                    staged.write_bytes(0, window.rows * columns * DEPTH);
                }
                self.view.stage(simd, window, staged);
                for row in 0..self.rows {
                    for column in 0..columns {
                        let from = staged.add((row * C::M * columns + column) * DEPTH).cast_const();
                        let first_half = transform::<_, C>(simd, from, columns * DEPTH);
                        let other_half = transform::<_, C>(simd, from.add(DEPTH / 2), columns * DEPTH);
                        for point in 0..C::N {
                            let to = v.add(self.v_at(point, row, column) + first * 4);
                            amx.split([first_half[point], other_half[point]], to);
                        }
                    }
                }
            }
        }
    }

    /// Where M has the results of a point for a panel.
    #[inline(always)]
    fn m_at(&self, point: usize, panel: usize) -> usize {
        (point * self.group.len() + panel - self.group.start) * self.geometry.pixels() * COLUMNS
    }

    /// Step 2.
    ///
    /// # Safety
    /// The scratch holds what `Geometry` says, V is written, and U holds all panels.
    #[inline(always)]
    unsafe fn product(&self, amx: Amx, phase: Phase) {
        let (v, _, m) = self.scratch();
        let runs = self.runs();
        let pixel = row_size(self.geometry.chunks);
        for point in 0..C::N {
            // Where a run reads for the first tap; an odd phase's taps begin one pixel later.
            let at = |run: usize| self.v_at(point, run / runs, run % runs * RUN + phase.px);
            for panel in self.group.clone() {
                let index = (phase.index() * C::N + point) * self.panels + panel;
                let b = self.u.ptr().wrapping_add(index * self.panel_size).cast_const();
                for (number, run) in (0..self.rows * runs).step_by(2).enumerate() {
                    let other = (run + 1).min(self.rows * runs - 1);
                    // SAFETY: runs and their taps lie in V; M has room for two runs at each even one.
                    unsafe {
                        let starts = [v.add(at(run)).cast_const()];
                        let second = at(other) as isize - at(run) as isize;
                        let product = Product::new(&starts, [self.geometry.chunks, C::R], [pixel; 2], second);
                        let c = m.add(self.m_at(point, panel) + run * RUN * COLUMNS);
                        amx.product(&product, b, c, product.ahead(b, number));
                    }
                }
            }
        }
    }

    /// Step 3 for one panel.
    ///
    /// # Safety
    /// The scratch holds what `Geometry` says, and M is written.
    #[inline(always)]
    unsafe fn output<S: Simd>(&self, simd: S, phase: Phase, panel: usize) {
        const VECTORS: usize = 2;
        /// Pixels ahead whose lines are prefetched.
        const SOON: usize = 6;
        let (_, _, m) = self.scratch();
        let step = if C::R == 2 { 2 } else { 1 };
        let part = self.part + phase.index();
        let begin = panel * COLUMNS;
        let vectors = (self.sink.stride - begin).min(COLUMNS) / S::LANES;
        let past = self.sink.takes_whole_lines::<S>();
        let mut seen = 0u32;
        for row in 0..self.rows {
            // An odd phase's first output comes before the image.
            let top = ((self.top + row) * C::M) as isize - phase.py as isize;
            let ys = inside(top, C::M, self.view.height);
            let pixels = (ys.len() * self.columns) as u32;
            if pixels == 0 {
                continue;
            }
            let line = |y: usize| ((top + y as isize) as usize * step + phase.py) * self.sink.width;
            let column = |x: usize| (self.left + x) * step + phase.px;
            let at = |x: usize, point: usize| {
                m.wrapping_add(self.m_at(point, panel) + (row * self.runs() * RUN + x) * COLUMNS)
            };
            let mut sum = [simd.zero(); VECTORS];
            let mut abs_max = [simd.zero(); VECTORS];
            for x in 0..self.columns {
                if !past {
                    for y in ys.clone() {
                        for vector in 0..vectors {
                            let pixel = line(y) + column(x + SOON);
                            self.sink.prefetch(simd, pixel, begin + vector * S::LANES);
                        }
                    }
                }
                for vector in 0..vectors {
                    let c = vector * S::LANES;
                    // SAFETY: inside M; inside the output image, whose pixels' channels are this task's own.
                    unsafe {
                        let values: [S::V; MAX] = std::array::from_fn(|point| {
                            if point < C::N { simd.load(at(x, point).add(c)) } else { simd.zero() }
                        });
                        let values = C::output(simd, values);
                        for y in ys.clone() {
                            let pixel = line(y) + column(x);
                            let value = if past {
                                self.sink.put_past(simd, pixel, begin + c, values[y])
                            } else {
                                self.sink.put(simd, pixel, begin + c, values[y])
                            };
                            // For the second pass, below.
                            simd.store(at(x, y).add(c), value);
                            sum[vector] = simd.add(sum[vector], value);
                            abs_max[vector] = simd.max(abs_max[vector], simd.abs(value));
                        }
                    }
                }
            }
            for vector in 0..vectors {
                let mean = simd.mul(sum[vector], simd.splat(1.0 / pixels as f32));
                let mut m2 = simd.zero();
                for y in ys.clone() {
                    for x in 0..self.columns {
                        // SAFETY: inside M, and written above.
                        let d = simd.sub(unsafe { simd.load(at(x, y).add(vector * S::LANES)) }, mean);
                        m2 = simd.fma(d, d, m2);
                    }
                }
                let c = begin + vector * S::LANES;
                // SAFETY: this task's part and channels.
                unsafe { self.partials.merge(simd, part, c, seen, pixels, [mean, m2, abs_max[vector]]) };
            }
            seen += pixels;
        }
        if past {
            simd.publish();
        }
        // Every group of channels states the same number.
        self.partials.set_count(part, seen);
    }
}

/// `Bᵀ d` of a column of a tile whose rows are `pitch` values apart.
///
/// # Safety
/// `from` is readable for a vector in each of `N` rows.
#[inline(always)]
unsafe fn transform<S: Simd, C: Scheme>(simd: S, from: *const f32, pitch: usize) -> [S::V; MAX] {
    let mut d = [simd.zero(); MAX];
    for (y, d) in d.iter_mut().enumerate().take(C::N) {
        // SAFETY: by the caller's promise.
        *d = unsafe { simd.load(from.add(y * pitch)) };
    }
    C::input(simd, d)
}
