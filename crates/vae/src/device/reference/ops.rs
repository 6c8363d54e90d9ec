//! Each operation, as it is defined.

use super::{Value, conv};
use crate::graph::{Activation, Attention, Axis, BlockOrder, Blocks, Extent, Op, Shape, Upsample};

/// The value of a node, of this `shape`, from those of its inputs and its tensors.
pub(crate) fn eval(op: &Op, inputs: &[&Value], weights: &[Vec<f64>], shape: Shape) -> Value {
    let x = inputs[0];
    let each = |map: &dyn Fn(f64) -> f64| Value { shape, data: x.data.iter().map(|&x| map(x)).collect() };
    let both = |map: &dyn Fn(f64, f64) -> f64| {
        let data = x.data.iter().zip(&inputs[1].data).map(|(&a, &b)| map(a, b)).collect();
        Value { shape, data }
    };
    match op {
        Op::Input { .. } => x.clone(),
        Op::Conv(conv) => conv::convolve(x, conv, weights, shape),
        Op::Linear(_) => by_position(x, shape, |position| linear(position, &weights[0], weights.get(1))),
        Op::GroupNorm { groups, eps } => group_norm(x, *groups, *eps, weights),
        Op::RmsNorm { eps, floor, .. } => by_position(x, shape, |position| {
            let mean_square = position.iter().map(|x| x * x).sum::<f64>() / position.len() as f64;
            let divisor = (mean_square + eps).sqrt().max(*floor);
            let scale = |c: usize| weights.first().map_or(1.0, |weight| weight[c]);
            position.iter().enumerate().map(|(c, x)| x / divisor * scale(c)).collect()
        }),
        Op::LayerNorm { eps } => by_position(x, shape, |position| {
            let (mean, variance) = moments(position);
            let normalise =
                |(c, x): (usize, &f64)| (x - mean) / (variance + eps).sqrt() * weights[0][c] + weights[1][c];
            position.iter().enumerate().map(normalise).collect()
        }),
        Op::ScaleShift => by_position(x, shape, |position| {
            position.iter().enumerate().map(|(c, x)| x * weights[0][c] + weights[1][c]).collect()
        }),
        Op::Affine { scale, shift } => each(&|x| x * scale + shift),
        Op::Clamp { min, max } => each(&|x| if x.is_nan() { x } else { x.max(*min).min(*max) }),
        Op::Activation(Activation::SwiGlu) => by_position(x, shape, |position| {
            let (gate, value) = position.split_at(position.len() / 2);
            gate.iter().zip(value).map(|(&gate, value)| activated(gate, Activation::Silu) * value).collect()
        }),
        Op::Activation(activation) => each(&|x| activated(x, *activation)),
        Op::Add => both(&|a, b| a + b),
        Op::Mul => both(&|a, b| a * b),
        Op::Concat(axis) => concatenate(inputs, *axis, shape),
        Op::Slice { axis, start, .. } => {
            Value::of_positions(shape, |at| x.at(moved(at, *axis, |i| i + start)))
        }
        Op::Repeat { axis, times, interleaved } => {
            let length = x.shape.axis(*axis);
            Value::of_positions(shape, |at| {
                x.at(moved(at, *axis, |i| if *interleaved { i / times } else { i % length }))
            })
        }
        Op::Upsample(Upsample { frames, sides }) => Value::of_positions(shape, |[n, c, f, h, w]| {
            // The first frame stays alone, each other one is there twice.
            let f = if *frames { f.div_ceil(2) } else { f };
            let side = |i: usize| if *sides { i / 2 } else { i };
            x.at([n, c, f, side(h), side(w)])
        }),
        Op::DepthToSpace(blocks) => Value::of_positions(shape, |[n, c, f, h, w]| {
            let [t, y, z] = blocks.factors;
            let channel = blocks.channel(c, [f % t, h % y, w % z], shape.channels());
            x.at([n, channel, f / t, h / y, w / z])
        }),
        Op::SpaceToDepth(blocks) => Value::of_positions(shape, |[n, c, f, h, w]| {
            let (channel, [t, y, z]) = blocks.position(c, x.shape.channels());
            let [ft, fy, fz] = blocks.factors;
            x.at([n, channel, f * ft + t, h * fy + y, w * fz + z])
        }),
        Op::Attention(attention) => attend([inputs[0], inputs[1], inputs[2]], attention),
    }
}

fn activated(x: f64, activation: Activation) -> f64 {
    match activation {
        Activation::Silu | Activation::SwiGlu => x / (1.0 + (-x).exp()),
        Activation::Relu => {
            if x < 0.0 {
                0.0
            } else {
                x
            }
        }
        Activation::Tanh { scale } => (x / scale).tanh() * scale,
        Activation::Gelu => 0.5 * x * (1.0 + erf(x / std::f64::consts::SQRT_2)),
    }
}

/// The error function: its Taylor series near zero, and the continued fraction of its complement elsewhere.
fn erf(x: f64) -> f64 {
    if x.abs() < 2.5 {
        let (mut term, mut sum) = (x, x);
        for n in 1..100 {
            let n = f64::from(n);
            term *= -x * x / n;
            sum += term / (2.0 * n + 1.0);
        }
        return sum * std::f64::consts::FRAC_2_SQRT_PI;
    }
    let z = x.abs();
    let fraction = (1..=200).rev().fold(z, |rest, n| z + f64::from(n) / 2.0 / rest);
    let complement = (-z * z).exp() / fraction / std::f64::consts::PI.sqrt();
    (1.0 - complement).copysign(x)
}

/// Mean, and variance without Bessel's correction.
fn moments(values: &[f64]) -> (f64, f64) {
    let count = values.len() as f64;
    let mean = values.iter().sum::<f64>() / count;
    (mean, values.iter().map(|value| (value - mean).powi(2)).sum::<f64>() / count)
}

/// Each image and group of channels to mean 0 and variance 1, then the affine part of each channel.
fn group_norm(x: &Value, groups: usize, eps: f64, weights: &[Vec<f64>]) -> Value {
    let size = x.shape.channels() / groups;
    // The channels of a group are neighbours.
    let in_group = size * x.positions();
    let statistics: Vec<(f64, f64)> = x.data.chunks_exact(in_group).map(moments).collect();
    Value::of_planes(x.shape, |item, channel| {
        let (mean, variance) = statistics[item * groups + channel / size];
        let scale = weights[0][channel] / (variance + eps).sqrt();
        x.plane(item, channel).iter().map(|value| (value - mean) * scale + weights[1][channel]).collect()
    })
}

/// What `map` makes of the channels of each position.
fn by_position(x: &Value, shape: Shape, map: impl Fn(&[f64]) -> Vec<f64>) -> Value {
    let (positions, channels) = (x.positions(), shape.channels());
    let mut data = vec![0.0; shape.batch() * channels * positions];
    let mut position = vec![0.0; x.shape.channels()];
    for item in 0..shape.batch() {
        for at in 0..positions {
            for (c, value) in position.iter_mut().enumerate() {
                *value = x.plane(item, c)[at];
            }
            for (c, value) in map(&position).into_iter().enumerate() {
                data[(item * channels + c) * positions + at] = value;
            }
        }
    }
    Value { shape, data }
}

fn linear(x: &[f64], weight: &[f64], bias: Option<&Vec<f64>>) -> Vec<f64> {
    let rows = weight.chunks_exact(x.len()).enumerate();
    rows.map(|(o, row)| dot(row, x) + bias.map_or(0.0, |bias| bias[o])).collect()
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

/// A position with another index along one axis.
fn moved(mut at: [usize; 5], axis: Axis, map: impl Fn(usize) -> usize) -> [usize; 5] {
    at[axis as usize] = map(at[axis as usize]);
    at
}

fn concatenate(inputs: &[&Value], axis: Axis, shape: Shape) -> Value {
    Value::of_positions(shape, |mut at| {
        let index = &mut at[axis as usize];
        let mut part = 0;
        while *index >= inputs[part].shape.axis(axis) {
            *index -= inputs[part].shape.axis(axis);
            part += 1;
        }
        inputs[part].at(at)
    })
}

impl Blocks {
    /// The channel of blocks that holds the position `[t, y, x]` of a block, of a channel of `channels`.
    fn channel(self, channel: usize, [t, y, x]: [usize; 3], channels: usize) -> usize {
        let [_, height, width] = self.factors;
        let row_first = (t * height + y) * width + x;
        match self.order {
            BlockOrder::ChannelFirst => channel * self.size() + row_first,
            BlockOrder::ColumnFirst => channel * self.size() + (t * width + x) * height + y,
            BlockOrder::ChannelLast => row_first * channels + channel,
        }
    }

    /// The way back: which channel of `channels`, and which position of a block.
    fn position(self, channel: usize, channels: usize) -> (usize, [usize; 3]) {
        let [_, height, width] = self.factors;
        let of_row_first = |i: usize| [i / (height * width), i / width % height, i % width];
        let inside = channel % self.size();
        match self.order {
            BlockOrder::ChannelFirst => (channel / self.size(), of_row_first(inside)),
            BlockOrder::ColumnFirst => {
                let position = [inside / (height * width), inside % height, inside / height % width];
                (channel / self.size(), position)
            }
            BlockOrder::ChannelLast => (channel % channels, of_row_first(channel / channels)),
        }
    }
}

/// `softmax(q kᵀ / sqrt(C / heads)) v` for the positions of each item.
fn attend([q, k, v]: [&Value; 3], attention: &Attention) -> Value {
    let shape = q.shape;
    let (channels, positions) = (shape.channels(), q.positions());
    let [_, height, width] = shape.space();
    let (size, area) = (channels / attention.heads, height * width);
    let seen = |position: usize| match attention.extent {
        Extent::All => 0..positions,
        Extent::Frame => position / area * area..(position / area + 1) * area,
        Extent::Causal => 0..(position / area + 1) * area,
    };
    let mut out = Value { shape, data: vec![0.0; q.data.len()] };
    for item in 0..shape.batch() {
        for head in 0..attention.heads {
            let of = |x: &Value| -> Vec<Vec<f64>> {
                let channel = |c: usize| head * size + c;
                (0..positions).map(|at| (0..size).map(|c| x.plane(item, channel(c))[at]).collect()).collect()
            };
            let (q, k, v) = (of(q), of(k), of(v));
            for (position, q) in q.iter().enumerate() {
                let seen = seen(position);
                let logits: Vec<f64> =
                    k[seen.clone()].iter().map(|k| dot(q, k) / (size as f64).sqrt()).collect();
                let max = logits.iter().copied().fold(f64::NEG_INFINITY, f64::max);
                let weights: Vec<f64> = logits.iter().map(|logit| (logit - max).exp()).collect();
                let total: f64 = weights.iter().sum();
                for c in 0..size {
                    let mixed = weights.iter().zip(&v[seen.clone()]);
                    let mixed = mixed.map(|(weight, v)| weight / total * v[c]).sum();
                    out.data[(item * channels + head * size + c) * positions + position] = mixed;
                }
            }
        }
    }
    out
}
