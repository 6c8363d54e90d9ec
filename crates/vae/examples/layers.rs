//! How fast a model's layers are, decoding and encoding:
//!
//! ```text
//! cargo run --release -p remote-vae-vae --example layers -- FOLDER [SIDE]
//! ```
//!
//! FOLDER is an `AutoencoderKL` as diffusers saves it, SIDE the picture's, in pixels (512). GFLOP/s are those of the layers'
//! definitions, two a multiply-add, however many the algorithm makes; the best of four runs counts.

use std::collections::BTreeMap;
use std::error::Error;
use std::time::Duration;

use remote_vae_vae::device::cpu::{Cpu, CpuOptions};
use remote_vae_vae::{
    DecodeOptions, EncodeOptions, HostTensor, LayerRun, Observer, Source, Vae, VaeError, load,
};

/// Times of kinds of layers, with their multiply-adds.
#[derive(Default)]
struct Layers(BTreeMap<String, (Duration, usize)>);

impl Observer for Layers {
    fn wants_layers(&self) -> bool {
        true
    }

    fn layer(&mut self, layer: LayerRun) {
        let stride = layer.input[2] / layer.output[2].max(1);
        let kind = format!(
            "{}{} {} to {} at {}",
            layer.choice.algorithm,
            if stride == 2 { ", stride 2," } else { "" },
            layer.input[1],
            layer.output[1],
            layer.output[2],
        );
        let sums = self.0.entry(kind).or_default();
        *sums = (sums.0 + layer.time, sums.1 + layer.multiply_adds);
    }
}

impl Layers {
    fn time(&self) -> Duration {
        self.0.values().map(|(time, _)| *time).sum()
    }

    fn print(&self, what: &str) {
        let line = |name: &str, time: Duration, multiply_adds: usize| {
            let rate = 2.0 * multiply_adds as f64 / time.as_secs_f64() / 1e9;
            println!("{name:60} {:8.1} ms {rate:8.0} GFLOP/s", time.as_secs_f64() * 1e3);
        };
        let mut layers: Vec<_> = self.0.iter().collect();
        layers.sort_by_key(|(_, (time, _))| std::cmp::Reverse(*time));
        for (kind, &(time, multiply_adds)) in layers {
            line(&format!("  {kind}"), time, multiply_adds);
        }
        line(what, self.time(), self.0.values().map(|(_, multiply_adds)| multiply_adds).sum());
    }
}

/// Values between -1 and 1 without a pattern.
fn noise(shape: Vec<usize>) -> HostTensor {
    let mut state = 1u64;
    let values = (0..shape.iter().product()).map(|_| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 40) as f32 / (1 << 23) as f32 - 1.0
    });
    let data = values.collect();
    HostTensor::new(shape, data)
}

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let folder = arguments.next().ok_or("expected the folder of an AutoencoderKL")?;
    let side: usize = arguments.next().map_or(Ok(512), |side| side.parse())?;
    let mut vae = load(Source::Folder(folder.into()), Cpu::new(CpuOptions::default())?)?;
    let (channels, factor) = (vae.info().latent_channels, vae.info().spatial_factor);
    println!("{}, {side} x {side} pixels", vae.info().engine);

    let latents = noise(vec![1, channels, side / factor, side / factor]);
    let pixels = noise(vec![1, 3, side, side]);
    let best = |vae: &mut dyn Vae,
                run: &dyn Fn(&mut dyn Vae, &mut Layers) -> Result<HostTensor, VaeError>| {
        let mut best = Layers::default();
        for _ in 0..4 {
            let mut layers = Layers::default();
            run(vae, &mut layers)?;
            if best.0.is_empty() || layers.time() < best.time() {
                best = layers;
            }
        }
        Ok::<_, VaeError>(best)
    };
    best(vae.as_mut(), &|vae, layers| vae.decode(latents.clone(), &DecodeOptions::default(), layers))?
        .print("decode");
    best(vae.as_mut(), &|vae, layers| vae.encode(pixels.clone(), &EncodeOptions::default(), layers))?
        .print("encode");
    Ok(())
}
