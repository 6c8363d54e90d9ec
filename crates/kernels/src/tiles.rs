//! What the kernels in AMX's tile registers share (see [`crate::simd::amx`]): operands that are taken apart into two bf16.

use crate::simd::Simd;
use crate::simd::amx::{Amx, COLUMNS, DEPTH, PARTS, ROWS, STEP};
use crate::source::{View, Window};
use crate::weights::WeightView;

/// Rows that half a product takes, `row` bytes apart.
pub(crate) const RUN: usize = ROWS / 2;

/// Channels of a row of pixels that are staged together before they are taken apart.
const STAGED_CHANNELS: usize = 128;

/// Bytes of a row of `chunks * DEPTH` values that are taken apart: one line more than they need, so that 16 rows do not lie
/// in the same set of the first-level cache.
pub(crate) fn row_size(chunks: usize) -> usize {
    chunks * PARTS + 64
}

/// Values of the line that [`stage_row`] needs.
pub(crate) fn line_size(columns: usize, chunks: usize) -> usize {
    columns * STAGED_CHANNELS.min(chunks * DEPTH)
}

/// Brings `columns` pixels of a row, from (`top`, `left`) on, to `to`, normalised, activated and taken apart, each
/// [`row_size`] bytes; by way of `line`.
///
/// # Safety
/// `to` has room for the pixels, and `line` for [`line_size`] values.
#[inline(always)]
pub(crate) unsafe fn stage_row(
    amx: Amx,
    view: &View<'_>,
    [top, left]: [isize; 2],
    columns: usize,
    line: *mut f32,
    to: *mut u8,
) {
    let chunks = view.stride.div_ceil(DEPTH);
    let pitch = STAGED_CHANNELS.min(chunks * DEPTH);
    let simd = amx.vectors();
    for first in (0..view.stride).step_by(pitch) {
        let channels = pitch.min(view.stride - first);
        let window = Window { top, left, rows: 1, columns, first, channels, pitch };
        // SAFETY: by the caller's promise.
        unsafe {
            if !channels.is_multiple_of(DEPTH) {
                // Channels that only fill up the last chunk are zero.
                line.write_bytes(0, columns * pitch);
            }
            view.stage(simd, window, line);
            for column in 0..columns {
                let from = line.add(column * pitch);
                let to = to.add(column * row_size(chunks) + first * 4);
                for c in (0..channels).step_by(DEPTH) {
                    amx.split([simd.load(from.add(c)), simd.load(from.add(c + DEPTH / 2))], to.add(c * 4));
                }
            }
        }
    }
}

/// Bytes of a panel of 32 output channels.
pub(crate) fn panel_size(chunks: usize, taps: usize) -> usize {
    chunks * taps * STEP
}

/// Packs output channels `first..first + 32` of `[out, in, taps]` weights for products: a [`STEP`] for each row of `taps`,
/// chunk of input channels and tap in the row, with zeros where there is no channel. Each tap is the sum of some of the
/// weights'.
pub(crate) fn pack_panel(
    weight: WeightView<'_>,
    [out_channels, in_channels, weight_taps]: [usize; 3],
    first: usize,
    taps: &[&[usize]],
    in_row: usize,
    out: &mut [u8],
) {
    let chunks = in_channels.div_ceil(DEPTH);
    assert_eq!(out.len(), panel_size(chunks, taps.len()));
    out.fill(0);
    let mut row = vec![0.0f32; in_channels * weight_taps];
    for lane in 0..COLUMNS.min(out_channels.saturating_sub(first)) {
        weight.read((first + lane) * row.len(), &mut row);
        for (index, sources) in taps.iter().enumerate() {
            for (c, values) in row.chunks_exact(weight_taps).enumerate() {
                let value: f32 = sources.iter().map(|&s| values[s]).sum();
                let high = half::bf16::from_f32(value);
                let low = half::bf16::from_f32(value - high.to_f32());
                let step = (index / in_row * chunks + c / DEPTH) * in_row + index % in_row;
                let at = step * STEP + place(c % DEPTH, lane);
                out[at..at + 2].copy_from_slice(&high.to_le_bytes());
                out[at + STEP / 2..at + STEP / 2 + 2].copy_from_slice(&low.to_le_bytes());
            }
        }
    }
}

/// Where a step has the high part of value `k` of a column.
#[inline(always)]
pub(crate) fn place(k: usize, column: usize) -> usize {
    column / 16 * (STEP / 4) + k / 2 * 64 + column % 16 * 4 + k % 2 * 2
}
