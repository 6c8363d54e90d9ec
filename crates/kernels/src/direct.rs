//! Direct convolutions: any kernel up to 3×3, any stride and padding, and upsampling ones.
//!
//! A worker takes a patch of the output, stages the inputs it needs (normalised, activated, padded with zeros) as
//! `[rows][columns][in]` in its scratch, and runs register tiles over it: rows of the product are pixels, its depth
//! is every tap's channels in turn. No image is ever unfolded.

mod over_time;
mod tiles;

use crate::arena::Region;
use crate::column::WriteColumn;
use crate::conv::{Job, Kernel, Ready};
use crate::features::Features;
use crate::gemm::{NO_PREFETCH, Tile};
use crate::simd::{Op, Simd};
use crate::sink::{Partials, PartialsWriter, Sink};
use crate::source::{View, Window};
use crate::watch::{Stopped, Watched};

pub(crate) use over_time::run as run_over_time;
pub(crate) use tiles::run as run_in_tiles;

/// Output rows and columns of a patch: its staged inputs stay in the second-level cache for 128 channels. With stride 2
/// there are four times as many, but smaller patches were no faster.
const PATCH_HEIGHT: usize = 8;
const PATCH_WIDTH: usize = 48;

/// One tap: how far from the output's position it reads, and which taps of the filter add up to it.
#[derive(Clone)]
struct Tap {
    y: usize,
    x: usize,
    sources: Vec<usize>,
}

/// The outputs of one phase: all of them, or a quarter behind an upsampling.
struct Phase {
    taps: Vec<Tap>,
    /// First output row and column.
    y: usize,
    x: usize,
}

impl Phase {
    /// Taps in a row.
    fn in_row(&self) -> usize {
        self.taps.iter().filter(|tap| tap.y == self.taps[0].y).count()
    }
}

/// A convolution in the plane: rows, then columns.
#[derive(Clone, Copy)]
pub(crate) struct Plane {
    /// 1 or 3 each.
    pub(crate) kernel: [usize; 2],
    /// 1 or 2 each.
    pub(crate) stride: [usize; 2],
    /// Above and to the left.
    pub(crate) padding: [usize; 2],
    /// 1, or 2 for a nearest upsampling of the input before a 3×3 convolution.
    pub(crate) upsample: usize,
}

/// Runs `job`.
pub(crate) fn run(job: &mut Job<'_>, plane: Plane, watched: &mut Watched<'_>) -> Result<Ready, Stopped> {
    let context = job.context;
    let (mr, nr) = context.isa.tile_shape();
    let x = job.source.x;
    let y = job.y;
    let upsample = plane.upsample;
    let panels = y.stride.div_ceil(nr);
    let phases = phases(plane);
    let taps = phases[0].taps.len();
    let reads = Reads::new(&job.kernel, nr);

    let panel_size = taps * reads.depth * nr;
    let packed = context.arena.take(phases.len() * panels * panel_size * 4)?;
    let packed = packed.region();
    context.pool.run(phases.len() * panels, |_, index| {
        // SAFETY: the panel is this task's alone.
        let out = unsafe { packed.nth(index, panel_size * 4).values_mut() };
        let taps: Vec<&[usize]> = phases[index / panels].taps.iter().map(|t| t.sources.as_slice()).collect();
        let (panel, reads) = (index % panels, &reads);
        pack_panel(&job.kernel, panel * nr, nr, [reads.first(panel), reads.depth], &taps, out);
    });

    // A phase's own grid of outputs: step 1, or 2 behind an upsampling.
    let grid = [y.height / upsample, y.width / upsample];
    let geometry = Geometry::new(x, &phases, plane, grid, mr);
    let staged = geometry.staged();
    let scratch = context.scratch((staged + PATCH_WIDTH.next_multiple_of(mr) * nr) * 4)?;

    let patches_x = grid[1].div_ceil(PATCH_WIDTH);
    let patches = grid[0].div_ceil(PATCH_HEIGHT) * patches_x;
    let parts_per_image = patches * phases.len();
    let mut partials = Partials::new(x.batch * parts_per_image, y.stride);
    let writer = partials.writer();
    let sinks: Vec<Sink<'_>> = (0..x.batch).map(|image| job.sink(image)).collect();
    let source = job.source;
    let work = phases.len() * PATCH_HEIGHT * PATCH_WIDTH * taps * reads.depth * panels * nr;
    watched.run(&context.pool, 0.0..1.0, x.batch * patches, work, |worker, index| {
        let (image, patch) = (index / patches, index % patches);
        context.isa.run(Patch {
            view: source.view(image),
            sink: sinks[image],
            geometry,
            phases: &phases,
            reads: &reads,
            packed,
            panels,
            scratch: scratch[worker].region(),
            staged,
            top: patch / patches_x * PATCH_HEIGHT,
            left: patch % patches_x * PATCH_WIDTH,
            partials: writer,
            part: index * phases.len(),
        });
    })?;
    let stats =
        (0..x.batch).map(|i| partials.merge(i * parts_per_image..(i + 1) * parts_per_image)).collect();
    Ok(Ready { stats })
}

/// How many inputs high and wide the taps of an output are.
fn taps_reach(phases: &[Phase]) -> [usize; 2] {
    let taps = || phases.iter().flat_map(|p| &p.taps);
    [taps().map(|t| t.y + 1).max().unwrap_or(1), taps().map(|t| t.x + 1).max().unwrap_or(1)]
}

fn phases(Plane { kernel: [height, width], upsample, .. }: Plane) -> Vec<Phase> {
    if upsample == 1 {
        let tap = |t: usize| Tap { y: t / width, x: t % width, sources: vec![t] };
        return vec![Phase { taps: (0..height * width).map(tap).collect(), y: 0, x: 0 }];
    }
    // Which filter taps see the same input: even outputs see inputs i - 1, i, i and odd ones i, i, i + 1.
    let seen: [[&[usize]; 2]; 2] = [[&[0], &[1, 2]], [&[0, 1], &[2]]];
    let phase = |py: usize, px: usize| {
        let tap = |j: usize, i: usize| Tap {
            y: py + j,
            x: px + i,
            sources: seen[py][j].iter().flat_map(|y| seen[px][i].iter().map(move |x| y * 3 + x)).collect(),
        };
        Phase { taps: vec![tap(0, 0), tap(0, 1), tap(1, 0), tap(1, 1)], y: py, x: px }
    };
    vec![phase(0, 0), phase(0, 1), phase(1, 0), phase(1, 1)]
}

/// Which input channels the panels of output channels read: all, or those of their groups.
pub(crate) struct Reads {
    /// The first of each panel.
    firsts: Vec<usize>,
    /// How many: as many for each panel, the most that one needs.
    pub(crate) depth: usize,
}

impl Reads {
    pub(crate) fn new(kernel: &Kernel<'_>, nr: usize) -> Self {
        let panel = |first: usize| {
            let last = (first + nr).min(kernel.out_channels) - 1;
            (kernel.first_seen(first), kernel.first_seen(last) + kernel.seen())
        };
        let panels: Vec<_> = (0..kernel.out_channels).step_by(nr).map(panel).collect();
        let depth = panels.iter().map(|(begin, end)| end - begin).max().unwrap_or(1);
        // The last panels may begin before what they need.
        let firsts = panels.iter().map(|(begin, _)| (*begin).min(kernel.in_channels - depth)).collect();
        Self { firsts, depth }
    }

    /// The first input channel of a panel; one that has only padding reads anything.
    #[inline(always)]
    pub(crate) fn first(&self, panel: usize) -> usize {
        self.firsts.get(panel).copied().unwrap_or(0)
    }
}

/// Packs output channels `first..first + nr` of a kernel as `[tap][depth][nr]`, for `depth` input channels from `begin` on,
/// summing up the given source taps, with zeros where there is no channel.
pub(crate) fn pack_panel(
    kernel: &Kernel<'_>,
    first: usize,
    nr: usize,
    [begin, depth]: [usize; 2],
    taps: &[&[usize]],
    out: &mut [f32],
) {
    out.fill(0.0);
    let mut row = vec![0.0; kernel.seen() * kernel.taps];
    for lane in 0..nr.min(kernel.out_channels.saturating_sub(first)) {
        kernel.weight.read((first + lane) * row.len(), &mut row);
        let before = kernel.first_seen(first + lane) - begin;
        for (tap, sources) in taps.iter().enumerate() {
            for (c, values) in row.chunks_exact(kernel.taps).enumerate() {
                out[(tap * depth + before + c) * nr + lane] = sources.iter().map(|&s| values[s]).sum();
            }
        }
    }
}

#[derive(Clone, Copy)]
struct Geometry {
    /// Channels of the input, padded, as they are staged.
    depth: usize,
    stride: [usize; 2],
    padding: [usize; 2],
    reach: [usize; 2],
    upsample: usize,
    /// Output rows and columns of a phase.
    grid: [usize; 2],
    /// Staged rows and columns.
    rows: usize,
    columns: usize,
}

impl Geometry {
    /// `grid` of a phase, `mr` rows of a register tile.
    fn new(x: &Features, phases: &[Phase], plane: Plane, grid: [usize; 2], mr: usize) -> Self {
        let Plane { stride, padding, upsample, .. } = plane;
        let reach = taps_reach(phases);
        Self {
            depth: x.stride,
            stride,
            padding,
            reach,
            upsample,
            grid,
            rows: (PATCH_HEIGHT - 1) * stride[0] + reach[0],
            // The last register tile of a row may read past the patch's last column.
            columns: (PATCH_WIDTH.next_multiple_of(mr) - 1) * stride[1] + reach[1],
        }
    }

    /// Values that are staged for a patch.
    fn staged(&self) -> usize {
        self.rows * self.columns * self.depth
    }
}

struct Patch<'a> {
    view: View<'a>,
    sink: Sink<'a>,
    geometry: Geometry,
    phases: &'a [Phase],
    reads: &'a Reads,
    /// `[phase][panel][tap][channel][nr]`
    packed: Region<'a>,
    panels: usize,
    scratch: Region<'a>,
    /// Staged values; the register tiles' results lie behind them.
    staged: usize,
    top: usize,
    left: usize,
    partials: PartialsWriter<'a>,
    part: usize,
}

impl Op for Patch<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        // SAFETY: the scratch holds `staged` values and a row of register tiles; `packed` holds all panels.
        unsafe {
            self.stage(simd);
            for phase in 0..self.phases.len() {
                self.phase(simd, phase);
            }
        }
    }
}

impl Patch<'_> {
    /// Output rows and columns.
    #[inline(always)]
    fn size(&self) -> [usize; 2] {
        let g = self.geometry;
        [PATCH_HEIGHT.min(g.grid[0] - self.top), PATCH_WIDTH.min(g.grid[1] - self.left)]
    }

    /// Copies the inputs of this patch into the scratch, ready for use.
    ///
    /// # Safety
    /// The scratch holds `rows * columns * depth` values.
    #[inline(always)]
    unsafe fn stage<S: Simd>(&self, simd: S) {
        let g = self.geometry;
        let window = Window {
            top: (self.top * g.stride[0]) as isize - g.padding[0] as isize,
            left: (self.left * g.stride[1]) as isize - g.padding[1] as isize,
            rows: (self.size()[0] - 1) * g.stride[0] + g.reach[0],
            columns: g.columns,
            first: 0,
            channels: g.depth,
            pitch: g.depth,
        };
        // SAFETY: the scratch has room for every row of the largest patch, and depth is the image's stride.
        unsafe { self.view.stage(simd, window, self.scratch.values()) };
    }

    /// Computes and writes one phase of the patch.
    ///
    /// # Safety
    /// As for `stage`, which has run; `packed` holds all panels.
    #[inline(always)]
    unsafe fn phase<S: Simd>(&self, simd: S, index: usize) {
        let g = self.geometry;
        let phase = &self.phases[index];
        let [height, width] = self.size();
        let depth = self.reads.depth;
        let panel_size = phase.taps.len() * depth * S::NR;
        let mut segments = [std::ptr::null::<f32>(); 9];
        let segments = &mut segments[..phase.taps.len()];
        for panel in 0..self.panels {
            let begin = panel * S::NR;
            let end = (begin + S::NR).min(self.sink.stride);
            let first = self.reads.first(panel);
            for row in 0..height {
                // SAFETY: everything staged lies in the scratch; a register tile past the last column reads
                // columns that were staged for it, and writes into rows that the scratch has room for.
                unsafe {
                    let results = self.scratch.values().add(self.staged);
                    for column in (0..width).step_by(S::MR) {
                        for (segment, tap) in segments.iter_mut().zip(&phase.taps) {
                            let at = (row * g.stride[0] + tap.y) * g.columns + column * g.stride[1] + tap.x;
                            *segment = self.scratch.values().add(at * g.depth + first).cast_const();
                        }
                        simd.tile(&Tile {
                            segments,
                            lda: g.stride[1] * g.depth,
                            k: depth,
                            b: self
                                .packed
                                .values()
                                .add((index * self.panels + panel) * panel_size)
                                .cast_const(),
                            c: results.add(column * S::NR),
                            ldc: S::NR,
                            rows: S::MR,
                            accumulate: false,
                            prefetch: NO_PREFETCH,
                        });
                    }
                    let line = ((self.top + row) * g.upsample + phase.y) * self.sink.width
                        + self.left * g.upsample
                        + phase.x;
                    for c in (begin..end).step_by(S::LANES) {
                        simd.apart(WriteColumn {
                            sink: &self.sink,
                            results: results.add(c - begin),
                            ld: S::NR,
                            count: width,
                            first: line,
                            step: g.upsample,
                            c,
                            partials: &self.partials,
                            part: self.part + index,
                            seen: (row * width) as u32,
                        });
                    }
                }
            }
        }
        self.partials.set_count(self.part + index, (height * width) as u32);
    }
}
