//! The naive f64 twin of every kernel: plain loops over `[B, C, H, W]`, obviously right, far too slow to use.
//!
//! Tests compare kernels with these, and benchmarks check their results against them before they print a time.

/// Shape `[B, C, H, W]` and values in C order.
#[derive(Clone, Debug)]
pub struct Image {
    /// `[B, C, H, W]`
    pub shape: [usize; 4],
    /// C order.
    pub data: Vec<f64>,
}

impl Image {
    /// From f32 values.
    pub fn new(shape: [usize; 4], data: &[f32]) -> Self {
        assert_eq!(shape.iter().product::<usize>(), data.len());
        Self { shape, data: data.iter().map(|&x| f64::from(x)).collect() }
    }

    fn at(&self, b: usize, c: usize, y: isize, x: isize) -> f64 {
        let [_, channels, height, width] = self.shape;
        if y < 0 || x < 0 || y >= height as isize || x >= width as isize {
            return 0.0;
        }
        self.data[((b * channels + c) * height + y as usize) * width + x as usize]
    }

    fn build(shape: [usize; 4], f: impl Fn(usize, usize, usize, usize) -> f64) -> Self {
        let mut data = Vec::with_capacity(shape.iter().product());
        for b in 0..shape[0] {
            for c in 0..shape[1] {
                for y in 0..shape[2] {
                    for x in 0..shape[3] {
                        data.push(f(b, c, y, x));
                    }
                }
            }
        }
        Self { shape, data }
    }
}

/// PyTorch's `Conv2d`: `weight` is `[out, in, k, k]`, `bias` `[out]` or empty, `padding` top, bottom, left, right.
pub fn conv2d(
    x: &Image,
    weight: &[f32],
    bias: &[f32],
    kernel: usize,
    stride: usize,
    padding: [usize; 4],
) -> Image {
    let [batch, channels, height, width] = x.shape;
    let out = weight.len() / (channels * kernel * kernel);
    let [top, bottom, left, right] = padding;
    let shape = [
        batch,
        out,
        (height + top + bottom - kernel) / stride + 1,
        (width + left + right - kernel) / stride + 1,
    ];
    Image::build(shape, |b, o, y, xx| {
        let mut sum = bias.get(o).map_or(0.0, |&v| f64::from(v));
        for c in 0..channels {
            for ky in 0..kernel {
                for kx in 0..kernel {
                    let w = f64::from(weight[((o * channels + c) * kernel + ky) * kernel + kx]);
                    let iy = (y * stride + ky) as isize - top as isize;
                    let ix = (xx * stride + kx) as isize - left as isize;
                    sum += w * x.at(b, c, iy, ix);
                }
            }
        }
        sum
    })
}

/// Every pixel four times.
pub fn upsample2x(x: &Image) -> Image {
    let [b, c, h, w] = x.shape;
    Image::build([b, c, h * 2, w * 2], |b, c, y, xx| x.at(b, c, (y / 2) as isize, (xx / 2) as isize))
}

/// A causal 3-D convolution of a clip whose `frames` frames are one below the other, in both `x` and the result, with
/// `weight` `[out, in, 3, 3, 3]` and `bias` `[out]` or empty. What lies outside the clip is its nearest value.
pub fn causal_conv3d(x: &Image, frames: usize, weight: &[f32], bias: &[f32]) -> Image {
    let [_, channels, rows, width] = x.shape;
    let height = rows / frames;
    let out = weight.len() / (channels * 27);
    Image::build([1, out, rows, width], |_, o, row, column| {
        let (frame, y) = (row / height, row % height);
        let mut sum = bias.get(o).map_or(0.0, |&v| f64::from(v));
        for c in 0..channels {
            for tap in 0..27 {
                let frame = (frame + tap / 9).saturating_sub(2);
                let y = (y + tap / 3 % 3).saturating_sub(1).min(height - 1);
                let x_ = (column + tap % 3).saturating_sub(1).min(width - 1);
                let w = f64::from(weight[(o * channels + c) * 27 + tap]);
                sum += w * x.at(0, c, (frame * height + y) as isize, x_ as isize);
            }
        }
        sum
    })
}

/// Every `time`-th frame and every `space`-th row and column of a clip as for [`causal_conv3d`], from the first on.
pub fn stride_clip(x: &Image, frames: usize, time: usize, space: usize) -> Image {
    let [_, channels, rows, width] = x.shape;
    let height = rows / frames;
    let shown = height.div_ceil(space);
    let shape = [1, channels, frames.div_ceil(time) * shown, width.div_ceil(space)];
    Image::build(shape, |_, c, row, column| {
        let (frame, y) = (row / shown * time, row % shown * space);
        x.at(0, c, (frame * height + y) as isize, (column * space) as isize)
    })
}

/// A clip as for [`causal_conv3d`] with every frame but the first twice, and with every pixel four times.
pub fn upsample_clip(x: &Image, frames: usize, time: bool, space: bool) -> Image {
    let [_, channels, rows, width] = x.shape;
    let (height, scale) = (rows / frames, if space { 2 } else { 1 });
    let shown = if time { 2 * frames - 1 } else { frames };
    Image::build([1, channels, shown * height * scale, width * scale], |_, c, row, column| {
        let (frame, y) = (row / (height * scale), row % (height * scale));
        let frame = if time { frame.div_ceil(2) } else { frame };
        x.at(0, c, (frame * height + y / scale) as isize, (column / scale) as isize)
    })
}

/// PyTorch's `GroupNorm`, then SiLU if asked.
pub fn group_norm(x: &Image, groups: usize, eps: f64, weight: &[f32], bias: &[f32], silu: bool) -> Image {
    let [_, channels, height, width] = x.shape;
    let per_group = channels / groups;
    let pixels = height * width;
    let mut out = x.clone();
    for (group, values) in out.data.chunks_exact_mut(per_group * pixels).enumerate() {
        let n = values.len() as f64;
        let mean = values.iter().sum::<f64>() / n;
        let var = values.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / n;
        for (i, value) in values.iter_mut().enumerate() {
            let c = group % groups * per_group + i / pixels;
            let v = (*value - mean) / (var + eps).sqrt() * f64::from(weight[c]) + f64::from(bias[c]);
            *value = if silu { v / (1.0 + (-v).exp()) } else { v };
        }
    }
    out
}

/// `a + b`.
pub fn add(a: &Image, b: &Image) -> Image {
    assert_eq!(a.shape, b.shape);
    Image { shape: a.shape, data: a.data.iter().zip(&b.data).map(|(a, b)| a + b).collect() }
}

/// `x + to_out(softmax(q kᵀ / sqrt(C)) v)` over the positions of each image, `q`, `k`, `v` from `normed`; each layer
/// is `[C, C]` weights and `[C]` biases, in the order q, k, v, out.
pub fn attention(x: &Image, normed: &Image, layers: [(&[f32], &[f32]); 4]) -> Image {
    attention_over(x, normed, layers, x.shape[2] * x.shape[3])
}

/// [`attention`] where each position sees those of its own `area` positions and of all areas before it: a clip whose
/// frames of that area are one below the other.
pub fn attention_over(x: &Image, normed: &Image, layers: [(&[f32], &[f32]); 4], area: usize) -> Image {
    attention_with_heads(x, normed, layers, area, 1)
}

/// What is read around an image along one axis, for `i` outside of `0..length`: nothing for zeros.
fn around(mode: crate::PaddingMode, i: isize, length: usize) -> Option<usize> {
    let last = length as isize - 1;
    let at = match mode {
        crate::PaddingMode::Zeros => i,
        crate::PaddingMode::Replicate => i.clamp(0, last),
        crate::PaddingMode::Reflect if i < 0 => -i,
        crate::PaddingMode::Reflect if i > last => 2 * last - i,
        crate::PaddingMode::Reflect => i,
    };
    (0..=last).contains(&at).then_some(at as usize)
}

/// The geometry of [`conv3d`].
#[derive(Clone, Copy, Debug)]
pub struct Geometry {
    /// In time, height and width.
    pub kernel: [usize; 3],
    /// In time, height and width.
    pub stride: [usize; 3],
    /// What is added around the clip.
    pub padding: crate::Padding3d,
    /// Groups of channels.
    pub groups: usize,
}

/// PyTorch's `Conv3d` of a clip as for [`causal_conv3d`], with `weight` `[out, in / groups, kernel]` and `bias` `[out]` or
/// empty, padded along each axis on its own. Returns the frames of the result, one below the other, and their number.
pub fn conv3d(x: &Image, frames: usize, weight: &[f32], bias: &[f32], geometry: Geometry) -> (Image, usize) {
    let Geometry { kernel, stride, padding, groups } = geometry;
    let [_, channels, rows, width] = x.shape;
    let height = rows / frames;
    let taps: usize = kernel.iter().product();
    let seen = channels / groups;
    let out = weight.len() / (seen * taps);
    let [top, bottom, left, right] = padding.space;
    let pads = [padding.time, [top, bottom], [left, right]];
    let modes = [padding.time_mode, padding.space_mode, padding.space_mode];
    let sides = [frames, height, width];
    let size: [usize; 3] =
        std::array::from_fn(|i| (sides[i] + pads[i][0] + pads[i][1] - kernel[i]) / stride[i] + 1);
    let y = Image::build([1, out, size[0] * size[1], size[2]], |_, o, row, column| {
        let at = [row / size[1], row % size[1], column];
        let mut sum = bias.get(o).map_or(0.0, |&v| f64::from(v));
        for c in 0..seen {
            for tap in 0..taps {
                let taps = [tap / (kernel[1] * kernel[2]), tap / kernel[2] % kernel[1], tap % kernel[2]];
                let read: [Option<usize>; 3] = std::array::from_fn(|i| {
                    around(modes[i], (at[i] * stride[i] + taps[i]) as isize - pads[i][0] as isize, sides[i])
                });
                let [Some(frame), Some(y), Some(x_)] = read else { continue };
                let from = o / (out / groups) * seen + c;
                let w = f64::from(weight[(o * seen + c) * kernel.iter().product::<usize>() + tap]);
                sum += w * x.at(0, from, (frame * height + y) as isize, x_ as isize);
            }
        }
        sum
    });
    (y, size[0])
}

/// Normalisation of each position over its channels, with a weight and a bias for each channel.
pub fn channel_norm(x: &Image, kind: crate::ChannelNormKind, weight: &[f32], bias: &[f32]) -> Image {
    let [batch, channels, height, width] = x.shape;
    let pixels = height * width;
    let mut out = x.clone();
    for (b, pixel) in (0..batch).flat_map(|b| (0..pixels).map(move |pixel| (b, pixel))) {
        let at = |c: usize| (b * channels + c) * pixels + pixel;
        let values: Vec<f64> = (0..channels).map(|c| x.data[at(c)]).collect();
        let count = channels as f64;
        let mean = values.iter().sum::<f64>() / count;
        let squares = |offset: f64| values.iter().map(|v| (v - offset) * (v - offset)).sum::<f64>();
        let (offset, divisor) = match kind {
            crate::ChannelNormKind::Length { eps } => (0.0, squares(0.0).sqrt().max(eps) / count.sqrt()),
            crate::ChannelNormKind::RootMeanSquare { eps } => (0.0, (squares(0.0) / count + eps).sqrt()),
            crate::ChannelNormKind::Layer { eps } => (mean, (squares(mean) / count + eps).sqrt()),
        };
        for c in 0..channels {
            let v = (values[c] - offset) / divisor;
            out.data[at(c)] = v * f64::from(weight[c]) + f64::from(bias[c]);
        }
    }
    out
}

/// The activations by their definitions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activation {
    /// `max(x, 0)`.
    Relu,
    /// The hyperbolic tangent.
    Tanh,
    /// `x Φ(x)`.
    Gelu,
    /// Its approximation by a hyperbolic tangent.
    GeluTanh,
    /// `x * sigmoid(x)`.
    Silu,
}

impl Activation {
    /// Those that need no exponential of their own: all but SiLU.
    pub const ALL: [Self; 4] = [Self::Relu, Self::Tanh, Self::Gelu, Self::GeluTanh];

    /// Of one value.
    pub fn of(self, x: f64) -> f64 {
        match self {
            Self::Relu => x.max(0.0),
            Self::Tanh => x.tanh(),
            Self::Gelu => x * 0.5 * (1.0 + erf(x / 2f64.sqrt())),
            Self::GeluTanh => {
                let inner = (2.0 / std::f64::consts::PI).sqrt() * (x + 0.044_715 * x * x * x);
                0.5 * x * (1.0 + inner.tanh())
            }
            Self::Silu => x / (1.0 + (-x).exp()),
        }
    }
}

/// The error function: `2 / sqrt(π) e^(-x²) Σ 2^n x^(2n+1) / (2n+1)!!`, whose terms all have one sign.
fn erf(x: f64) -> f64 {
    if x.abs() > 6.0 {
        return x.signum();
    }
    let (mut term, mut sum, mut n) = (x, x, 0.0);
    while term.abs() > 1e-18 * sum.abs() {
        n += 1.0;
        term *= 2.0 * x * x / (2.0 * n + 1.0);
        sum += term;
    }
    2.0 / std::f64::consts::PI.sqrt() * (-x * x).exp() * sum
}

/// Value by value.
pub fn map(x: &Image, f: impl Fn(f64) -> f64) -> Image {
    Image { shape: x.shape, data: x.data.iter().map(|&v| f(v)).collect() }
}

/// Value by value, with the channel.
pub fn map_channels(x: &Image, f: impl Fn(usize, f64) -> f64) -> Image {
    let [b, c, h, w] = x.shape;
    Image::build([b, c, h, w], |b, c, y, xx| f(c, x.at(b, c, y as isize, xx as isize)))
}

/// `a * b`, value by value.
pub fn multiply(a: &Image, b: &Image) -> Image {
    assert_eq!(a.shape, b.shape);
    Image { shape: a.shape, data: a.data.iter().zip(&b.data).map(|(a, b)| a * b).collect() }
}

/// The first half of the channels times SiLU of the second.
pub fn swiglu(x: &Image) -> Image {
    let [b, c, h, w] = x.shape;
    Image::build([b, c / 2, h, w], |b, channel, y, xx| {
        let at = |c: usize| x.at(b, c, y as isize, xx as isize);
        at(channel) * Activation::Silu.of(at(c / 2 + channel))
    })
}

/// Channels of a clip as for [`causal_conv3d`] into blocks of `block` frames, rows and columns. Which packed channel stands for
/// channel `c` of `channels` at a position of the block, `packed` says.
pub fn depth_to_space(
    x: &Image,
    frames: usize,
    block: [usize; 3],
    packed: impl Fn(usize, [usize; 3], usize) -> usize,
) -> Image {
    let [_, channels, rows, width] = x.shape;
    let height = rows / frames;
    let [ft, fy, fx] = block;
    let out = channels / (ft * fy * fx);
    let tall = height * fy;
    Image::build([1, out, frames * ft * tall, width * fx], |_, c, row, column| {
        let (frame, y) = (row / tall, row % tall);
        let from = packed(c, [frame % ft, y % fy, column % fx], out);
        x.at(0, from, (frame / ft * height + y / fy) as isize, (column / fx) as isize)
    })
}

/// [`attention_over`] with `heads` heads: each mixes its own channels of the values by its own scores.
pub fn attention_with_heads(
    x: &Image,
    normed: &Image,
    layers: [(&[f32], &[f32]); 4],
    area: usize,
    heads: usize,
) -> Image {
    let [batch, channels, height, width] = x.shape;
    let (tokens, head) = (height * width, channels / heads);
    let linear = |input: &dyn Fn(usize, usize) -> f64, (weight, bias): (&[f32], &[f32])| -> Vec<f64> {
        let product = |t: usize, o: usize| {
            let sum: f64 = (0..channels).map(|c| input(t, c) * f64::from(weight[o * channels + c])).sum();
            sum + bias.get(o).map_or(0.0, |&b| f64::from(b))
        };
        (0..tokens * channels).map(|i| product(i / channels, i % channels)).collect()
    };
    let mut y = x.clone();
    for b in 0..batch {
        let plane = |t: usize, c: usize| normed.data[(b * channels + c) * tokens + t];
        let [q, k, v] = [0, 1, 2].map(|i| linear(&plane, layers[i]));
        let mut mixed = vec![0.0; tokens * channels];
        for (t, first) in (0..tokens).flat_map(|t| (0..heads).map(move |h| (t, h * head))) {
            let scores: Vec<f64> = (0..(t / area + 1) * area)
                .map(|s| {
                    let own = first..first + head;
                    own.map(|c| q[t * channels + c] * k[s * channels + c]).sum::<f64>() / (head as f64).sqrt()
                })
                .collect();
            let largest = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            let total: f64 = scores.iter().map(|s| (s - largest).exp()).sum();
            for (s, score) in scores.iter().enumerate() {
                for c in first..first + head {
                    mixed[t * channels + c] += (score - largest).exp() / total * v[s * channels + c];
                }
            }
        }
        let out = linear(&|t, c| mixed[t * channels + c], layers[3]);
        for t in 0..tokens {
            for c in 0..channels {
                y.data[(b * channels + c) * tokens + t] += out[t * channels + c];
            }
        }
    }
    y
}
