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
    let [batch, channels, height, width] = x.shape;
    let tokens = height * width;
    let linear = |input: &dyn Fn(usize, usize) -> f64, (weight, bias): (&[f32], &[f32])| -> Vec<f64> {
        let mut out = Vec::with_capacity(tokens * channels);
        for t in 0..tokens {
            for o in 0..channels {
                let sum: f64 = (0..channels).map(|c| input(t, c) * f64::from(weight[o * channels + c])).sum();
                out.push(sum + f64::from(bias[o]));
            }
        }
        out
    };
    let mut y = x.clone();
    for b in 0..batch {
        let plane = |t: usize, c: usize| normed.data[(b * channels + c) * tokens + t];
        let [q, k, v] = [0, 1, 2].map(|i| linear(&plane, layers[i]));
        let mut mixed = vec![0.0; tokens * channels];
        for t in 0..tokens {
            let scores: Vec<f64> = (0..(t / area + 1) * area)
                .map(|s| {
                    let dot: f64 = (0..channels).map(|c| q[t * channels + c] * k[s * channels + c]).sum();
                    dot / (channels as f64).sqrt()
                })
                .collect();
            let largest = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            let exponentials: Vec<f64> = scores.iter().map(|s| (s - largest).exp()).collect();
            let total: f64 = exponentials.iter().sum();
            for (s, e) in exponentials.iter().enumerate() {
                for c in 0..channels {
                    mixed[t * channels + c] += e / total * v[s * channels + c];
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
