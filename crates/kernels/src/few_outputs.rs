//! Direct 3×3 convolutions to a few channels, as the last one of a decoder.
//!
//! Three output channels would fill 3 of a register tile's 16 columns. So the columns are all taps of all outputs at
//! once: one product gives, for each input pixel, what it adds to each of the nine outputs around it, and those are then
//! summed up. Nine taps of three outputs fill 27 of 32 columns.

use crate::arena::Region;
use crate::column::WriteColumn;
use crate::conv::{Job, Ready};
use crate::gemm::{NO_PREFETCH, Tile};
use crate::simd::{Op, Simd};
use crate::sink::{Partials, PartialsWriter, Sink};
use crate::source::{View, Window};
use crate::watch::{Stopped, Watched};

/// The most output channels: with more, taps side by side gain little.
pub(crate) const MOST: usize = 4;
const TAPS: usize = 9;
/// Output rows and columns of a patch: its staged inputs stay in the second-level cache for 128 channels.
const PATCH: [usize; 2] = [8, 48];
/// A patch's inputs, with one pixel around it.
const PIXELS: usize = (PATCH[0] + 2) * (PATCH[1] + 2);

/// Runs `job`, a 3×3 convolution with stride 1 that keeps the size, for at most [`MOST`] output channels.
pub(crate) fn run(job: &mut Job<'_>, watched: &mut Watched<'_>) -> Result<Ready, Stopped> {
    let context = job.context;
    let (mr, nr) = context.isa.tile_shape();
    let (x, y) = (job.source.x, job.y);
    let conv = job.kernel;
    let (depth, outputs) = (x.stride, conv.out_channels);
    let panels = (TAPS * outputs).div_ceil(nr);

    // [panel][depth][nr], with column `tap * outputs + output`.
    let mut packed = vec![0.0f32; panels * depth * nr];
    let mut row = vec![0.0f32; conv.in_channels * TAPS];
    for output in 0..outputs {
        conv.weight.read(output * row.len(), &mut row);
        for (c, taps) in row.chunks_exact(TAPS).enumerate() {
            for (tap, &value) in taps.iter().enumerate() {
                let column = tap * outputs + output;
                packed[(column / nr * depth + c) * nr + column % nr] = value;
            }
        }
    }

    let rows = PIXELS.next_multiple_of(mr);
    let layout =
        Layout { depth, products: rows * depth, ld: panels * nr, results: rows * (depth + panels * nr) };
    let scratch = context.scratch((layout.results + PATCH[1] * y.stride) * 4)?;

    let across = y.width.div_ceil(PATCH[1]);
    let patches = y.height.div_ceil(PATCH[0]) * across;
    let mut partials = Partials::new(x.batch * patches, y.stride);
    let writer = partials.writer();
    let sinks: Vec<Sink<'_>> = (0..x.batch).map(|image| job.sink(image)).collect();
    let source = job.source;
    let work = PIXELS * depth * panels * nr;
    watched.run(&context.pool, 0.0..1.0, x.batch * patches, work, |worker, index| {
        let (image, patch) = (index / patches, index % patches);
        let (top, left) = (patch / across * PATCH[0], patch % across * PATCH[1]);
        context.isa.run(Patch {
            view: source.view(image),
            sink: sinks[image],
            packed: &packed,
            panels,
            outputs,
            layout,
            scratch: scratch[worker].region(),
            top,
            left,
            height: PATCH[0].min(y.height - top),
            width: PATCH[1].min(y.width - left),
            partials: writer,
            part: index,
        });
    })?;
    let stats = (0..x.batch).map(|image| partials.merge(image * patches..(image + 1) * patches)).collect();
    Ok(Ready { stats })
}

/// Where things lie in a worker's scratch, in f32 values: the staged inputs first.
#[derive(Clone, Copy)]
struct Layout {
    depth: usize,
    /// `[pixels][ld]`
    products: usize,
    ld: usize,
    /// `[columns][stride of the output]`
    results: usize,
}

struct Patch<'a> {
    view: View<'a>,
    sink: Sink<'a>,
    packed: &'a [f32],
    panels: usize,
    outputs: usize,
    layout: Layout,
    scratch: Region<'a>,
    top: usize,
    left: usize,
    height: usize,
    width: usize,
    partials: PartialsWriter<'a>,
    part: usize,
}

impl Op for Patch<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let Layout { depth, products, ld, results } = self.layout;
        let stride = self.sink.stride;
        let columns = self.width + 2;
        let window = Window {
            top: self.top as isize - 1,
            left: self.left as isize - 1,
            rows: self.height + 2,
            columns,
            first: 0,
            channels: depth,
            pitch: depth,
        };
        let staged = self.scratch.values();
        // SAFETY: the scratch has room for the largest patch's inputs and products, rounded up to register tiles; `packed`
        // holds all panels; pixels, channels and part are this task's own.
        unsafe {
            self.view.stage(simd, window, staged);
            for panel in 0..self.panels {
                for row in (0..window.rows * columns).step_by(S::MR) {
                    simd.tile(&Tile {
                        segments: &[staged.add(row * depth).cast_const()],
                        lda: depth,
                        k: depth,
                        b: self.packed.as_ptr().add(panel * depth * S::NR),
                        c: staged.add(products + row * ld + panel * S::NR),
                        ldc: ld,
                        rows: S::MR,
                        accumulate: false,
                        prefetch: NO_PREFETCH,
                    });
                }
            }
            let products =
                std::slice::from_raw_parts(staged.add(products).cast_const(), window.rows * columns * ld);
            let results = staged.add(results);
            for y in 0..self.height {
                {
                    let sums = std::slice::from_raw_parts_mut(results, self.width * stride);
                    sums.fill(0.0);
                    for tap in 0..TAPS {
                        let first = (y + tap / 3) * columns + tap % 3;
                        let rows = products[first * ld..].chunks_exact(ld);
                        for (sums, row) in sums.chunks_exact_mut(stride).zip(rows) {
                            let row = &row[tap * self.outputs..][..self.outputs];
                            sums.iter_mut().zip(row).for_each(|(sum, &product)| *sum += product);
                        }
                    }
                }
                let line = (self.top + y) * self.sink.width + self.left;
                for c in (0..stride).step_by(S::LANES) {
                    simd.apart(WriteColumn {
                        sink: &self.sink,
                        results: results.add(c),
                        ld: stride,
                        count: self.width,
                        first: line,
                        step: 1,
                        c,
                        partials: &self.partials,
                        part: self.part,
                        seen: (y * self.width) as u32,
                    });
                }
            }
            self.partials.set_count(self.part, (self.height * self.width) as u32);
        }
    }
}
