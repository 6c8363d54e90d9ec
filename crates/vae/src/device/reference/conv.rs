//! Convolutions, as they are defined.

use super::Value;
use crate::graph::{Conv, Pad, PadMode, Shape};

/// `out[o, t, y, x] = bias[o] + Σ weight[o, i, kt, ky, kx] · padded[i, t · st + kt, y · sh + ky, x · sw + kx]`.
pub(super) fn convolve(x: &Value, conv: &Conv, weights: &[Vec<f64>], shape: Shape) -> Value {
    let padded = pad(x, conv.pad);
    let [_, height, width] = padded.shape.space();
    let [frames, rows, columns] = shape.space();
    let [kt, kh, kw] = conv.kernel;
    let (inputs, outputs) = (x.shape.channels() / conv.groups, conv.out_channels / conv.groups);
    let (weight, bias) = (&weights[0], weights.get(1));
    Value::of_planes(shape, |item, o| {
        let mut sums = vec![bias.map_or(0.0, |bias| bias[o]); frames * rows * columns];
        for i in 0..inputs {
            let plane = padded.plane(item, o / outputs * inputs + i);
            for tap in 0..kt * kh * kw {
                let (t, y, x) = (tap / (kh * kw), tap / kw % kh, tap % kw);
                let weight = weight[(o * inputs + i) * kt * kh * kw + tap];
                for (line, sums) in sums.chunks_exact_mut(columns).enumerate() {
                    let frame = line / rows * conv.stride[0] + t;
                    let row = line % rows * conv.stride[1] + y;
                    let row = &plane[(frame * height + row) * width + x..];
                    for (sum, value) in sums.iter_mut().zip(row.iter().step_by(conv.stride[2])) {
                        *sum += weight * value;
                    }
                }
            }
        }
        sums
    })
}

/// The value with padding around its frames, rows and columns.
fn pad(x: &Value, pad: [Pad; 3]) -> Value {
    if pad.iter().all(|pad| pad.before + pad.after == 0) {
        return x.clone();
    }
    let space = x.shape.space();
    let padded: [usize; 3] = std::array::from_fn(|axis| space[axis] + pad[axis].before + pad[axis].after);
    // Where each position of the padded axis comes from.
    let sources: [Vec<Option<usize>>; 3] =
        std::array::from_fn(|axis| (0..padded[axis]).map(|at| source(at, space[axis], pad[axis])).collect());
    Value::of_positions(x.shape.with_space(padded), |[n, c, f, h, w]| {
        match (sources[0][f], sources[1][h], sources[2][w]) {
            (Some(f), Some(h), Some(w)) => x.at([n, c, f, h, w]),
            _ => 0.0,
        }
    })
}

/// Which position of an axis of this length stands at `at` behind its padding; `None` for a zero.
fn source(at: usize, length: usize, pad: Pad) -> Option<usize> {
    let inside = at.checked_sub(pad.before).filter(|&at| at < length);
    match pad.mode {
        _ if inside.is_some() => inside,
        PadMode::Zeros => None,
        PadMode::Replicate if at < pad.before => Some(0),
        PadMode::Replicate => Some(length - 1),
        PadMode::Reflect if at < pad.before => Some(pad.before - at),
        PadMode::Reflect => Some(2 * (length - 1) - (at - pad.before)),
    }
}
