//! Times the convolutions of the SD v1 decoder at 512×512, one by one, in seconds of processor time over all threads,
//! so that a busy machine does not matter much.
use remote_vae_kernels::{Context, Conv2d, DType, Features, GroupNorm, Pre, WeightView};

fn main() {
    let threads: usize = std::env::args().nth(1).map_or(2, |s| s.parse().expect("threads"));
    let context = Context::new(threads).expect("threads");
    println!("{:?}", context.isa);
    for (cin, cout, size, up) in [
        (512, 512, 64, false),
        (512, 512, 128, false),
        (512, 512, 128, true),
        (512, 256, 256, false),
        (256, 256, 256, false),
        (256, 256, 256, true),
        (256, 128, 512, false),
        (128, 128, 512, false),
        (128, 3, 512, false),
    ] {
        let raw: Vec<u8> =
            (0..cin * cout * 9).flat_map(|i| ((i * 7919 % 1000) as f32 / 1e3 - 0.5).to_le_bytes()).collect();
        let bias = vec![0.1; cout];
        let conv = Conv2d {
            weight: WeightView::new(DType::F32, &raw),
            bias: &bias,
            in_channels: cin,
            out_channels: cout,
            kernel: 3,
            stride: 1,
            padding: [1; 4],
        };
        let data: Vec<f32> = (0..cin * size * size).map(|i| ((i * 31 % 997) as f32 / 997.0) - 0.5).collect();
        let x = Features::from_nchw(&context.arena, [1, cin, size, size], &data).expect("memory");
        let norm = GroupNorm { groups: 32, eps: 1e-6, weight: vec![1.0; cin], bias: vec![0.0; cin] };
        let mut best = f64::INFINITY;
        for _ in 0..4 {
            let start = cpu_seconds();
            let y = if up {
                conv.run_upsampled(&context, &x)
            } else {
                conv.run(&context, &x, Pre { norm: Some(&norm), silu: true }, None)
            };
            let seconds = cpu_seconds() - start;
            drop(y);
            best = best.min(seconds);
        }
        let out = if up { 2 * size } else { size };
        let flops = 2.0 * 9.0 * (cin * cout * out * out) as f64;
        println!(
            "{cin:4} -> {cout:4} at {size:4}{} {:8.1} ms {:7.1} GFLOP/s",
            if up { " up" } else { "   " },
            best * 1e3,
            flops / best / 1e9
        );
    }
}

/// Processor time of all threads of this process (Linux).
fn cpu_seconds() -> f64 {
    let mut nanoseconds = 0u64;
    for task in std::fs::read_dir("/proc/self/task").expect("Linux") {
        let text = std::fs::read_to_string(task.expect("task").path().join("schedstat")).expect("schedstat");
        nanoseconds += text.split(' ').next().and_then(|s| s.parse::<u64>().ok()).expect("a number");
    }
    nanoseconds as f64 * 1e-9
}
