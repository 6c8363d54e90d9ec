//! Direct convolutions in AMX's tile registers (see [`crate::simd::amx`]).
//!
//! As its parent does it, but a patch is staged as pairs of bf16, a product's rows are two runs of 16 pixels, and its
//! columns 32 output channels. For each row of a filter all channels are gone through, 32 at a time, and for these the
//! row's taps, which read nearly the same pixels.

use super::{Phase, Plane, phases, taps_reach};
use crate::arena::Region;
use crate::column::WriteColumn;
use crate::conv::{Job, Ready};
use crate::simd::Simd;
use crate::simd::amx::{Amx, COLUMNS, DEPTH, Product, TileOp};
use crate::sink::{Partials, PartialsWriter, Sink};
use crate::source::View;
use crate::tiles::{RUN, line_size, pack_panel, panel_size, row_size, stage_row};
use crate::watch::{Stopped, Watched};

/// Output rows of a patch, and runs in each: its staged inputs stay in the second-level cache, 1.3 MB for 512 channels.
const HEIGHT: usize = 16;
const RUNS: usize = 2;
/// Fewer tasks than this for each worker are cut further, into groups of channels: each stages the patch anew.
const FEW_TASKS: usize = 4;

/// Runs `job`, without groups.
pub(crate) fn run(job: &mut Job<'_>, plane: Plane, watched: &mut Watched<'_>) -> Result<Ready, Stopped> {
    let Some(amx) = Amx::new() else { return super::run(job, plane, watched) };
    let context = job.context;
    let (x, y) = (job.source.x, job.y);
    let phases = phases(plane);
    let chunks = x.stride.div_ceil(DEPTH);
    let panels = y.stride.div_ceil(COLUMNS);
    let panel_size = panel_size(chunks, phases[0].taps.len());

    let packed = context.arena.take(phases.len() * panels * panel_size)?;
    let packed = packed.region();
    context.pool.run(phases.len() * panels, |_, index| {
        // SAFETY: the panel is this task's alone.
        let out = unsafe { packed.nth(index, panel_size).bytes_mut() };
        let kernel = &job.kernel;
        let shape = [kernel.out_channels, kernel.in_channels, kernel.taps];
        let phase = &phases[index / panels];
        let taps: Vec<&[usize]> = phase.taps.iter().map(|t| t.sources.as_slice()).collect();
        pack_panel(kernel.weight, shape, index % panels * COLUMNS, &taps, phase.in_row(), out);
    });

    // A phase's own grid of outputs: step 1, or 2 behind an upsampling.
    let Plane { stride, padding, upsample, .. } = plane;
    let grid = [y.height / upsample, y.width / upsample];
    let reach = taps_reach(&phases);
    let runs = grid[1].div_ceil(RUN).min(RUNS);
    let geometry = Geometry {
        stride,
        padding,
        reach,
        upsample,
        grid,
        chunks,
        runs,
        columns: (runs * RUN - 1) * stride[1] + reach[1],
    };
    let patches = [grid[0].div_ceil(HEIGHT), grid[1].div_ceil(runs * RUN)];
    let in_image = patches[0] * patches[1];
    let tasks = FEW_TASKS * context.pool.threads();
    let groups = tasks.div_ceil(x.batch * in_image).min(panels);
    let in_group = panels.div_ceil(groups);
    let groups = panels.div_ceil(in_group);

    let scratch = context.scratch(geometry.scratch())?;
    let parts_per_image = in_image * phases.len();
    let mut partials = Partials::new(x.batch * parts_per_image, y.stride);
    let writer = partials.writer();
    let sinks: Vec<Sink<'_>> = (0..x.batch).map(|image| job.sink(image)).collect();
    let source = job.source;
    let taps = phases[0].taps.len();
    let work = phases.len() * HEIGHT * runs * RUN * taps * x.stride * in_group * COLUMNS;
    watched.run(&context.pool, 0.0..1.0, x.batch * in_image * groups, work, |worker, index| {
        let (part, group) = (index / groups, index % groups);
        let (image, patch) = (part / in_image, part % in_image);
        amx.run(Patch {
            view: source.view(image),
            sink: sinks[image],
            geometry,
            phases: &phases,
            packed,
            panel_size,
            panels,
            group: group * in_group..panels.min((group + 1) * in_group),
            scratch: scratch[worker].region(),
            top: patch / patches[1] * HEIGHT,
            left: patch % patches[1] * runs * RUN,
            partials: writer,
            part: part * phases.len(),
        });
    })?;
    let stats =
        (0..x.batch).map(|i| partials.merge(i * parts_per_image..(i + 1) * parts_per_image)).collect();
    Ok(Ready { stats })
}

#[derive(Clone, Copy)]
struct Geometry {
    stride: [usize; 2],
    padding: [usize; 2],
    reach: [usize; 2],
    upsample: usize,
    /// Output rows and columns of a phase.
    grid: [usize; 2],
    /// Chunks of [`DEPTH`] channels of the input.
    chunks: usize,
    /// Runs of pixels in a row of the patch.
    runs: usize,
    /// Staged columns.
    columns: usize,
}

impl Geometry {
    /// Bytes of a staged patch.
    fn staged(&self) -> usize {
        ((HEIGHT - 1) * self.stride[0] + self.reach[0]) * self.columns * row_size(self.chunks)
    }

    /// Bytes of all scratch: the staged patch, a row before it is taken apart, the results of two rows.
    fn scratch(&self) -> usize {
        self.staged() + (line_size(self.columns, self.chunks) + 2 * self.runs * RUN * COLUMNS) * 4
    }
}

struct Patch<'a> {
    view: View<'a>,
    sink: Sink<'a>,
    geometry: Geometry,
    phases: &'a [Phase],
    packed: Region<'a>,
    panel_size: usize,
    panels: usize,
    /// The panels of this task.
    group: std::ops::Range<usize>,
    scratch: Region<'a>,
    top: usize,
    left: usize,
    partials: PartialsWriter<'a>,
    part: usize,
}

impl TileOp for Patch<'_> {
    #[inline(always)]
    fn run(self, amx: Amx) {
        // SAFETY: the scratch holds what `Geometry` says; `packed` holds all panels.
        unsafe {
            self.stage(amx);
            for phase in 0..self.phases.len() {
                self.phase(amx, phase);
            }
        }
    }
}

impl Patch<'_> {
    /// Output rows and columns.
    #[inline(always)]
    fn size(&self) -> [usize; 2] {
        let g = self.geometry;
        [HEIGHT.min(g.grid[0] - self.top), (g.runs * RUN).min(g.grid[1] - self.left)]
    }

    /// Brings the inputs of this patch into the scratch, taken apart.
    ///
    /// # Safety
    /// The scratch holds what `Geometry` says.
    #[inline(always)]
    unsafe fn stage(&self, amx: Amx) {
        let g = self.geometry;
        let rows = (self.size()[0] - 1) * g.stride[0] + g.reach[0];
        let staged = self.scratch.ptr();
        let line = staged.wrapping_add(g.staged()).cast::<f32>();
        for row in 0..rows {
            let top = (self.top * g.stride[0] + row) as isize - g.padding[0] as isize;
            let left = (self.left * g.stride[1]) as isize - g.padding[1] as isize;
            let to = staged.wrapping_add(row * g.columns * row_size(g.chunks));
            // SAFETY: the line behind the patch and every staged pixel lie in the scratch.
            unsafe { stage_row(amx, &self.view, [top, left], g.columns, line, to) };
        }
    }

    /// Computes and writes one phase of the patch.
    ///
    /// # Safety
    /// As for `stage`, which has run; `packed` holds all panels.
    #[inline(always)]
    unsafe fn phase(&self, amx: Amx, index: usize) {
        let g = self.geometry;
        let phase = &self.phases[index];
        let [height, width] = self.size();
        let taps = &phase.taps;
        let in_row = phase.in_row();
        let runs = width.div_ceil(RUN);
        // Where a run of the patch reads for the first tap.
        let pixel = |run: usize| {
            let (row, column) =
                (run / runs * g.stride[0] + taps[0].y, run % runs * RUN * g.stride[1] + taps[0].x);
            (row * g.columns + column) * row_size(g.chunks)
        };
        // SAFETY: runs lie in the staged patch, whose columns reach to the end of the last run; results behind it.
        unsafe {
            let staged = self.scratch.ptr();
            let results = staged.add(g.staged()).cast::<f32>().add(line_size(g.columns, g.chunks));
            for panel in self.group.clone() {
                let b = self.packed.ptr().add((index * self.panels + panel) * self.panel_size);
                let mut products = 0;
                // As many rows as whole products make.
                let rows_at_once = 1 + runs % 2;
                for top in (0..height).step_by(rows_at_once) {
                    let rows = rows_at_once.min(height - top);
                    for run in (0..rows * runs).step_by(2) {
                        let (first, other) = (top * runs + run, top * runs + (run + 1).min(rows * runs - 1));
                        let mut starts = [std::ptr::null(); 3];
                        let starts = &mut starts[..taps.len() / in_row];
                        for (row, start) in starts.iter_mut().enumerate() {
                            *start =
                                staged.add(pixel(first) + row * g.columns * row_size(g.chunks)).cast_const();
                        }
                        let product = Product::new(
                            starts,
                            [g.chunks, in_row],
                            [g.stride[1] * row_size(g.chunks), row_size(g.chunks)],
                            pixel(other) as isize - pixel(first) as isize,
                        );
                        let to = results.add(run * RUN * COLUMNS);
                        amx.product(&product, b.cast_const(), to, product.ahead(b, products));
                        products += 1;
                    }
                    for row in 0..rows {
                        let line = ((self.top + top + row) * g.upsample + phase.y) * self.sink.width
                            + self.left * g.upsample
                            + phase.x;
                        let begin = panel * COLUMNS;
                        for c in (begin..(begin + COLUMNS).min(self.sink.stride)).step_by(16) {
                            amx.vectors().apart(WriteColumn {
                                sink: &self.sink,
                                results: results.add(row * runs * RUN * COLUMNS + c - begin),
                                ld: COLUMNS,
                                count: width,
                                first: line,
                                step: g.upsample,
                                c,
                                partials: &self.partials,
                                part: self.part + index,
                                seen: ((top + row) * width) as u32,
                            });
                        }
                    }
                }
            }
            // Every group of channels states the same number.
            self.partials.set_count(self.part + index, (height * width) as u32);
        }
    }
}
