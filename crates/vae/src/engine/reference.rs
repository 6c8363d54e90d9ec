//! The engine to compare others with: each step spelled out in plain loops, with sums in f64.
//!
//! It takes no short cut and shares no code with the fast engines, so that agreement means something. It is meant for
//! small models; a 512×512 picture of a real one takes it many minutes.

mod video;

use super::{Activation, Choice, Conv2dSpec, Engine, GroupNormSpec, Limits, Step, Watch};
use crate::{EngineError, HostTensor, Weight};

/// An engine of plain loops.
#[derive(Clone, Copy, Debug, Default)]
pub struct Reference;

/// `[B, C, H, W]` in C order.
#[derive(Clone, Debug, PartialEq)]
pub struct Tensor {
    batch: usize,
    channels: usize,
    height: usize,
    width: usize,
    data: Vec<f32>,
}

impl Tensor {
    /// A tensor of the same batch, with `plane(image, channel)` for each of its planes.
    fn with_planes(
        &self,
        channels: usize,
        (height, width): (usize, usize),
        mut plane: impl FnMut(usize, usize) -> Vec<f64>,
    ) -> Self {
        let mut data = Vec::with_capacity(self.batch * channels * height * width);
        for image in 0..self.batch {
            for channel in 0..channels {
                data.extend(plane(image, channel).into_iter().map(|x| x as f32));
            }
        }
        Self { batch: self.batch, channels, height, width, data }
    }

    /// The `height * width` values of one channel of one image.
    fn plane(&self, image: usize, channel: usize) -> &[f32] {
        let size = self.height * self.width;
        &self.data[(image * self.channels + channel) * size..][..size]
    }

    fn size(&self) -> (usize, usize) {
        (self.height, self.width)
    }
}

/// A convolution's weights `[out, in, k, k]` and bias.
pub struct Conv2d {
    spec: Conv2dSpec,
    weight: Vec<f32>,
    bias: Vec<f32>,
}

/// A group norm's weights.
pub struct GroupNorm {
    spec: GroupNormSpec,
    weight: Vec<f32>,
    bias: Vec<f32>,
}

/// A linear layer's weights `[out, in]` and bias.
struct Linear {
    weight: Vec<f32>,
    bias: Vec<f32>,
}

/// An attention block's weights.
pub struct Attention {
    norm: GroupNorm,
    to_q: Linear,
    to_k: Linear,
    to_v: Linear,
    to_out: Linear,
}

impl Engine for Reference {
    type Tensor = Tensor;
    type Conv2d = Conv2d;
    type GroupNorm = GroupNorm;
    type Attention = Attention;

    fn describe(&self) -> String {
        "reference, 1 thread".to_owned()
    }

    fn limits(&self) -> Limits {
        Limits { max_tensor_bytes: isize::MAX as usize }
    }

    fn release(&self) {}

    fn shape(&self, x: &Tensor) -> Vec<usize> {
        vec![x.batch, x.channels, x.height, x.width]
    }

    fn explain(&self, _: &Tensor, _: Step<'_, Self>) -> Choice {
        Choice { algorithm: "as defined", reason: "this engine takes no short cut" }
    }

    fn conv2d(&self, spec: Conv2dSpec, weight: Weight, bias: Option<Weight>) -> Result<Conv2d, EngineError> {
        let bias = bias.map_or_else(|| vec![0.0; spec.out_channels], |bias| bias.to_f32());
        Ok(Conv2d { spec, weight: weight.to_f32(), bias })
    }

    fn group_norm(
        &self,
        spec: GroupNormSpec,
        weight: Weight,
        bias: Weight,
    ) -> Result<GroupNorm, EngineError> {
        Ok(GroupNorm { spec, weight: weight.to_f32(), bias: bias.to_f32() })
    }

    fn attention(
        &self,
        norm: GroupNorm,
        to_q: (Weight, Weight),
        to_k: (Weight, Weight),
        to_v: (Weight, Weight),
        to_out: (Weight, Weight),
    ) -> Result<Attention, EngineError> {
        let linear =
            |(weight, bias): (Weight, Weight)| Linear { weight: weight.to_f32(), bias: bias.to_f32() };
        Ok(Attention {
            norm,
            to_q: linear(to_q),
            to_k: linear(to_k),
            to_v: linear(to_v),
            to_out: linear(to_out),
        })
    }

    fn upload(&self, host: &HostTensor) -> Result<Tensor, EngineError> {
        let &[batch, channels, height, width] = host.shape.as_slice() else {
            return Err(EngineError::Unsupported(format!(
                "a tensor of shape {:?}, expected [B, C, H, W]",
                host.shape
            )));
        };
        Ok(Tensor { batch, channels, height, width, data: host.data.clone() })
    }

    fn download(&self, x: &Tensor) -> Result<HostTensor, EngineError> {
        Ok(HostTensor::new(vec![x.batch, x.channels, x.height, x.width], x.data.clone()))
    }

    fn run_conv2d(&self, x: Tensor, conv: &Conv2d, _: &mut Watch<'_>) -> Result<Tensor, EngineError> {
        Ok(convolve(&x, conv))
    }

    fn run_norm_act_conv2d(
        &self,
        x: &Tensor,
        norm: &GroupNorm,
        activation: Activation,
        conv: &Conv2d,
        residual: Option<Tensor>,
        _: &mut Watch<'_>,
    ) -> Result<Tensor, EngineError> {
        let mut x = normalise(x, norm);
        activate(&mut x.data, activation);
        let mut y = convolve(&x, conv);
        if let Some(residual) = residual {
            add(&mut y, &residual);
        }
        Ok(y)
    }

    fn run_upsample2x_conv2d(
        &self,
        x: Tensor,
        conv: &Conv2d,
        _: &mut Watch<'_>,
    ) -> Result<Tensor, EngineError> {
        let (height, width) = (2 * x.height, 2 * x.width);
        let upsampled = x.with_planes(x.channels, (height, width), |image, channel| {
            let plane = x.plane(image, channel);
            (0..height * width).map(|i| f64::from(plane[i / width / 2 * x.width + i % width / 2])).collect()
        });
        Ok(convolve(&upsampled, conv))
    }

    fn run_attention(
        &self,
        x: Tensor,
        attention: &Attention,
        _: &mut Watch<'_>,
    ) -> Result<Tensor, EngineError> {
        let positions = x.height * x.width;
        let mut y = attend(&normalise(&x, &attention.norm), attention, |_| positions);
        add(&mut y, &x);
        Ok(y)
    }
}

fn activate(data: &mut [f32], activation: Activation) {
    if activation == Activation::Silu {
        for x in data {
            *x = (f64::from(*x) / (1.0 + (-f64::from(*x)).exp())) as f32;
        }
    }
}

fn add(y: &mut Tensor, x: &Tensor) {
    assert_eq!((y.channels, y.size()), (x.channels, x.size()), "a residual has the shape it is added to");
    for (y, x) in y.data.iter_mut().zip(&x.data) {
        *y += x;
    }
}

/// `out[o, y, x] = bias[o] + Σ weight[o, i, ky, kx] · padded[i, y · stride + ky, x · stride + kx]`.
fn convolve(x: &Tensor, conv: &Conv2d) -> Tensor {
    let Conv2dSpec { in_channels, out_channels, kernel, stride, padding: [top, bottom, left, right] } =
        conv.spec;
    assert_eq!(x.channels, in_channels, "a convolution has the input channels it was made for");
    let (height, width) = conv.spec.output_size(x.height, x.width);
    let (padded_height, padded_width) = (x.height + top + bottom, x.width + left + right);
    let padded: Vec<f64> = (0..x.batch * in_channels)
        .flat_map(|plane| {
            let plane = x.plane(plane / in_channels, plane % in_channels);
            let mut padded = vec![0.0; padded_height * padded_width];
            for (row, values) in plane.chunks_exact(x.width).enumerate() {
                let start = (row + top) * padded_width + left;
                for (padded, &value) in padded[start..].iter_mut().zip(values) {
                    *padded = f64::from(value);
                }
            }
            padded
        })
        .collect();
    let weight = |o: usize, i: usize, ky: usize, kx: usize| {
        f64::from(conv.weight[((o * in_channels + i) * kernel + ky) * kernel + kx])
    };

    x.with_planes(out_channels, (height, width), |image, o| {
        let mut sums = vec![f64::from(conv.bias[o]); height * width];
        for i in 0..in_channels {
            let plane = &padded[(image * in_channels + i) * padded_height * padded_width..];
            for ky in 0..kernel {
                for kx in 0..kernel {
                    let weight = weight(o, i, ky, kx);
                    for (y, sums) in sums.chunks_exact_mut(width).enumerate() {
                        let row = &plane[(y * stride + ky) * padded_width + kx..];
                        for (sum, value) in sums.iter_mut().zip(row.iter().step_by(stride)) {
                            *sum += weight * value;
                        }
                    }
                }
            }
        }
        sums
    })
}

/// Each image and group of channels to mean 0 and variance 1, then the affine part of each channel.
fn normalise(x: &Tensor, norm: &GroupNorm) -> Tensor {
    let GroupNormSpec { channels, groups, eps } = norm.spec;
    assert_eq!(x.channels, channels, "a norm has the channels it was made for");
    let size = channels / groups;
    let statistics: Vec<(f64, f64)> = (0..x.batch * groups)
        .map(|group| {
            let values: Vec<f64> = (0..size)
                .flat_map(|channel| x.plane(group / groups, group % groups * size + channel))
                .map(|&value| f64::from(value))
                .collect();
            let mean = values.iter().sum::<f64>() / values.len() as f64;
            let variance =
                values.iter().map(|value| (value - mean).powi(2)).sum::<f64>() / values.len() as f64;
            (mean, 1.0 / (variance + f64::from(eps)).sqrt())
        })
        .collect();
    x.with_planes(channels, x.size(), |image, channel| {
        let (mean, scale) = statistics[image * groups + channel / size];
        let (weight, bias) = (f64::from(norm.weight[channel]), f64::from(norm.bias[channel]));
        x.plane(image, channel)
            .iter()
            .map(|&value| (f64::from(value) - mean) * scale * weight + bias)
            .collect()
    })
}

/// `to_out(softmax(q kᵀ / sqrt(C)) v)` for the positions of each image, of which position `p` sees the first `seen(p)`.
fn attend(x: &Tensor, attention: &Attention, seen: impl Fn(usize) -> usize) -> Tensor {
    let (channels, positions) = (x.channels, x.height * x.width);
    // [positions][channels]
    let mut outputs: Vec<Vec<Vec<f64>>> = Vec::new();
    for image in 0..x.batch {
        let tokens: Vec<Vec<f64>> = (0..positions)
            .map(|position| (0..channels).map(|c| f64::from(x.plane(image, c)[position])).collect())
            .collect();
        let project = |layer: &Linear| tokens.iter().map(|token| linear(token, layer)).collect::<Vec<_>>();
        let (q, k, v) = (project(&attention.to_q), project(&attention.to_k), project(&attention.to_v));
        let output = q.iter().enumerate().map(|(position, q)| {
            let seen = &k[..seen(position)];
            let logits: Vec<f64> = seen.iter().map(|k| dot(q, k) / (channels as f64).sqrt()).collect();
            let max = logits.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            let weights: Vec<f64> = logits.iter().map(|logit| (logit - max).exp()).collect();
            let total: f64 = weights.iter().sum();
            let mut mixed = vec![0.0; channels];
            for (weight, v) in weights.iter().zip(&v) {
                for (mixed, v) in mixed.iter_mut().zip(v) {
                    *mixed += weight / total * v;
                }
            }
            linear(&mixed, &attention.to_out)
        });
        outputs.push(output.collect());
    }
    x.with_planes(channels, x.size(), |image, channel| {
        outputs[image].iter().map(|token| token[channel]).collect()
    })
}

fn linear(x: &[f64], layer: &Linear) -> Vec<f64> {
    let rows = layer.weight.chunks_exact(x.len());
    rows.zip(&layer.bias)
        .map(|(row, &bias)| {
            row.iter().zip(x).map(|(&weight, x)| f64::from(weight) * x).sum::<f64>() + f64::from(bias)
        })
        .collect()
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}
