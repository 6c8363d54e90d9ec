//! Some output pixels of a rearrangement.

use super::{Plan, Way};
use crate::arena::Region;
use crate::column::WriteColumn;
use crate::simd::{Op, Simd};
use crate::sink::{PartialsWriter, Sink};
use crate::source::{View, Window};

/// Some output pixels of a row.
pub(super) struct Run<'a> {
    pub(super) plan: &'a Plan,
    pub(super) views: &'a [View<'a>],
    pub(super) in_channels: usize,
    pub(super) sink: Sink<'a>,
    /// Output frame, row and first column.
    pub(super) at: [usize; 3],
    pub(super) count: usize,
    /// One input pixel, then the output's.
    pub(super) scratch: Region<'a>,
    pub(super) partials: PartialsWriter<'a>,
    pub(super) part: usize,
}

impl Op for Run<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let Plan { way, block: [frames, rows, columns], ref table, channels, factor, .. } = *self.plan;
        let (stride, in_stride) = (self.sink.stride, self.views[0].stride);
        let [frame, row, left] = self.at;
        let pixel = self.scratch.part(0, in_stride * 4);
        let results = self.scratch.part(in_stride * 4, self.count * stride * 4);
        // SAFETY: the scratch is this worker's; its two parts do not overlap, and begin at whole values of a buffer.
        let results = unsafe { results.values_mut() };
        results.fill(0.0);
        let read = |frame: usize, row: usize, column: usize| {
            let window = Window {
                top: row as isize,
                left: column as isize,
                rows: 1,
                columns: 1,
                first: 0,
                channels: in_stride,
                pitch: in_stride,
            };
            // SAFETY: the part has room for one pixel, and is this worker's; nobody writes to the input.
            unsafe {
                self.views[frame].stage(simd, window, pixel.values());
                std::slice::from_raw_parts(pixel.values().cast_const(), in_stride)
            }
        };
        for i in 0..self.count {
            let result = &mut results[i * stride..][..channels];
            let column = left + i;
            match way {
                Way::Apart => {
                    let position = (frame % frames * rows + row % rows) * columns + column % columns;
                    let from = read(frame / frames, row / rows, column / columns);
                    for (to, &c) in result.iter_mut().zip(&table[position * channels..][..channels]) {
                        *to = from[c] * factor;
                    }
                }
                Way::Together => {
                    for position in 0..frames * rows * columns {
                        let from = read(
                            frame * frames + position / (rows * columns),
                            row * rows + position / columns % rows,
                            column * columns + position % columns,
                        );
                        let to = &table[position * self.in_channels..][..self.in_channels];
                        for (&c, &value) in to.iter().zip(from) {
                            result[c] += value * factor;
                        }
                    }
                }
            }
        }
        for c in (0..stride).step_by(S::LANES) {
            simd.apart(WriteColumn {
                sink: &self.sink,
                results: results[c..].as_mut_ptr(),
                ld: stride,
                count: self.count,
                first: row * self.sink.width + left,
                step: 1,
                c,
                partials: &self.partials,
                part: self.part,
                seen: 0,
            });
        }
        self.partials.set_count(self.part, self.count as u32);
    }
}
