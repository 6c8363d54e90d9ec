//! Each kernel at the shapes of the SD v1 decoder, and of its encoder's downsamplers, for a 512×512 picture.
//!
//!     cargo bench -p remote-vae-kernels [-- FILTER]
//!
//! `Gelem/s` are GFLOP/s of the layer's definition, whatever the algorithm saves; below each figure of criterion's stands
//! how that compares with the peak of multiply-adds, which is measured first. A result is checked before it is timed.

use std::time::{Duration, Instant};

use criterion::{Criterion, Throughput};
use remote_vae_kernels::{
    Activation, Attention, Context, Conv2d, DType, Features, GroupNorm, Numerics, Pre, Storage, Watched,
    WeightView,
};

/// The largest difference from strict arithmetic, in deviations of the output, of f32 and of f16 storage.
const BOUNDS: [f64; 2] = [1e-3, 1e-2];

fn main() {
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let mut contexts: Vec<Context> = Vec::new();
    for threads in [1, threads] {
        if contexts.iter().all(|context| context.pool.threads() != threads) {
            contexts.push(Context::new(threads).expect("threads"));
        }
    }
    let mut criterion = Criterion::default()
        .sample_size(10)
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_secs(3))
        .configure_from_args();
    for context in &contexts {
        let plural = if context.pool.threads() == 1 { "" } else { "s" };
        let threads = format!("{} thread{plural}", context.pool.threads());
        let peak = context.multiply_add_peak();
        println!("\n{}, {threads}: multiply-add peak {:.0} GFLOP/s\n", context.isa.name(), peak / 1e9);
        let mut bench = Bench { criterion: &mut criterion, context, threads, peak };
        bench.all();
    }
    criterion.final_summary();
}

struct Bench<'a> {
    criterion: &'a mut Criterion,
    context: &'a Context,
    threads: String,
    /// Operations a second.
    peak: f64,
}

/// How a convolution is called.
#[derive(Clone, Copy, PartialEq)]
enum Call {
    NormSilu,
    Upsampled,
    /// As an encoder's downsampler: stride 2, zeros below and to the right.
    Strided,
    Pointwise,
}

impl Call {
    /// Side of the input for an output of this side.
    fn input(self, side: usize) -> usize {
        match self {
            Self::Upsampled => side / 2,
            Self::Strided => side * 2,
            Self::NormSilu | Self::Pointwise => side,
        }
    }
}

impl Bench<'_> {
    fn all(&mut self) {
        for (in_channels, out_channels, side) in [
            (4, 512, 64),
            (512, 512, 64),
            (512, 512, 128),
            (512, 256, 256),
            (256, 256, 256),
            (256, 128, 512),
            (128, 128, 512),
            (128, 3, 512),
        ] {
            self.conv("3x3 norm silu", Layer::new(in_channels, out_channels, side, Call::NormSilu));
        }
        for (channels, side) in [(512, 128), (256, 256)] {
            self.conv("3x3 upsampled", Layer::new(channels, channels, side, Call::Upsampled));
        }
        for (channels, side) in [(128, 256), (256, 128), (512, 64)] {
            self.conv("3x3 stride 2", Layer::new(channels, channels, side, Call::Strided));
        }
        for (in_channels, out_channels, side) in [(512, 256, 256), (256, 128, 512)] {
            self.conv("1x1", Layer::new(in_channels, out_channels, side, Call::Pointwise));
        }
        self.attention(512, 64);
    }

    fn conv(&mut self, group: &str, layer: Layer) {
        let Layer { in_channels, out_channels, side, call, .. } = layer;
        let name = format!("{in_channels} to {out_channels} at {side}");
        let strict = Numerics::Strict;
        let variants: &[(&str, Numerics, Storage)] = match call {
            Call::NormSilu => &[
                ("", Numerics::Fast, Storage::F32),
                (" strict", strict, Storage::F32),
                (" f16", Numerics::Fast, Storage::F16),
            ],
            _ => &[("", Numerics::Fast, Storage::F32)],
        };
        for &(variant, numerics, storage) in variants {
            let (context, exact) = (self.with(numerics, storage), self.with(strict, Storage::F32));
            let checked = std::cell::Cell::new(false);
            self.time(&format!("{group}{variant}"), &name, layer.operations(), |iterations| {
                if !checked.replace(true) {
                    layer.check(&context, &exact);
                }
                (0..iterations).map(|_| layer.run(&context).0).sum()
            });
        }
    }

    fn attention(&mut self, channels: usize, side: usize) {
        let context = self.with(Numerics::Fast, Storage::F32);
        let weights: Vec<Vec<u8>> = (0..4).map(|seed| bytes(&values(channels * channels, seed))).collect();
        let bias = vec![0.1; channels];
        let linear = |i: usize| (WeightView::new(DType::F32, &weights[i]), bias.as_slice());
        let norm = norm(channels);
        let attention = Attention {
            norm: Some((&norm).into()),
            heads: 1,
            to_q: linear(0),
            to_k: linear(1),
            to_v: linear(2),
            to_out: linear(3),
        };
        let data = values(channels * side * side, 9);
        let positions = side * side;
        let operations = 2 * positions * channels * (4 * channels + 2 * positions);
        self.time("attention", &format!("{channels} over {side} x {side}"), operations, |iterations| {
            let run = || {
                let x =
                    Features::from_nchw(&context.arena, [1, channels, side, side], &data).expect("memory");
                let start = Instant::now();
                let y = attention.run(&context, x, &mut Watched::unwatched()).expect("memory");
                let time = start.elapsed();
                drop(y);
                time
            };
            (0..iterations).map(|_| run()).sum()
        });
    }

    /// The same threads' count and instruction set, otherwise configured.
    fn with(&self, numerics: Numerics, storage: Storage) -> Context {
        let mut context = Context::new(self.context.pool.threads()).expect("threads");
        (context.numerics, context.storage) = (numerics, storage);
        context
    }

    /// Has criterion time `run(iterations)`, and says what the best of it is against the peak.
    fn time(&mut self, group: &str, name: &str, operations: usize, run: impl Fn(u64) -> Duration) {
        let mut best = f64::INFINITY;
        let mut group = self.criterion.benchmark_group(format!("{group}, {}", self.threads));
        group.throughput(Throughput::Elements(operations as u64));
        group.bench_function(name, |bencher| {
            bencher.iter_custom(|iterations| {
                let time = run(iterations);
                best = best.min(time.as_secs_f64() / iterations as f64);
                time
            });
        });
        group.finish();
        if best.is_finite() {
            let speed = operations as f64 / best;
            println!(
                "{:24}best:   {:.0} GFLOP/s, {:.0} % of the peak\n",
                "",
                speed / 1e9,
                100.0 * speed / self.peak
            );
        }
    }
}

/// A convolution with its weights and input.
struct Layer {
    in_channels: usize,
    out_channels: usize,
    /// Of the output.
    side: usize,
    call: Call,
    weight: Vec<u8>,
    bias: Vec<f32>,
    norm: GroupNorm,
    data: Vec<f32>,
}

impl Layer {
    fn new(in_channels: usize, out_channels: usize, side: usize, call: Call) -> Self {
        let taps = if call == Call::Pointwise { 1 } else { 9 };
        let input = call.input(side);
        Self {
            in_channels,
            out_channels,
            side,
            call,
            weight: bytes(&values(in_channels * out_channels * taps, 1)),
            bias: vec![0.1; out_channels],
            norm: norm(in_channels),
            data: values(in_channels * input * input, 2),
        }
    }

    fn kernel(&self) -> usize {
        if self.call == Call::Pointwise { 1 } else { 3 }
    }

    fn operations(&self) -> usize {
        2 * self.kernel().pow(2) * self.in_channels * self.out_channels * self.side.pow(2)
    }

    /// Runs it once; only the kernel is timed.
    fn run(&self, context: &Context) -> (Duration, Features) {
        let kernel = self.kernel();
        let conv = Conv2d {
            weight: WeightView::new(DType::F32, &self.weight),
            bias: &self.bias,
            in_channels: self.in_channels,
            out_channels: self.out_channels,
            kernel,
            stride: if self.call == Call::Strided { 2 } else { 1 },
            padding: if self.call == Call::Strided { [0, 1, 0, 1] } else { [kernel / 2; 4] },
            ..Conv2d::default()
        };
        let input = self.call.input(self.side);
        let shape = [1, self.in_channels, input, input];
        let x = Features::from_nchw(&context.arena, shape, &self.data).expect("memory");
        let x = x.stored(context).expect("memory");
        let pre = Pre { norm: Some((&self.norm).into()), activation: Some(Activation::Silu) };
        let start = Instant::now();
        let y = match self.call {
            Call::NormSilu => conv.run(context, &x, pre, None, &mut Watched::unwatched()),
            Call::Strided => conv.run(context, &x, Pre::default(), None, &mut Watched::unwatched()),
            Call::Upsampled => conv.run_upsampled(context, &x, &mut Watched::unwatched()),
            Call::Pointwise => conv.run_pointwise(context, x, &mut Watched::unwatched()),
        };
        (start.elapsed(), y.expect("memory"))
    }

    fn check(&self, context: &Context, strict: &Context) {
        let (found, expected) = (self.run(context).1.to_nchw(), self.run(strict).1.to_nchw());
        let square = expected.iter().map(|&x| f64::from(x).powi(2)).sum::<f64>() / expected.len() as f64;
        let largest = found.iter().zip(&expected).map(|(a, b)| f64::from((a - b).abs())).fold(0.0, f64::max)
            / square.sqrt();
        let bound = BOUNDS[usize::from(context.storage == Storage::F16)];
        assert!(largest <= bound, "wrong by {largest:.1e} of the output's deviation");
    }
}

/// GroupNorm divides channels into at most 32 groups.
fn norm(channels: usize) -> GroupNorm {
    GroupNorm { groups: channels.min(32), eps: 1e-6, weight: vec![1.0; channels], bias: vec![0.0; channels] }
}

/// Pseudorandom values in [-0.5, 0.5), by a linear congruential generator with the constants of Numerical Recipes.
fn values(count: usize, seed: u32) -> Vec<f32> {
    let mut state = seed;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) as f32 / (1 << 24) as f32 - 0.5
    };
    (0..count).map(|_| next()).collect()
}

fn bytes(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}
