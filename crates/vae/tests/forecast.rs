//! What a decode or encode takes is known before it begins: predictions against the engine's own books.

mod common;

use common::{Recorder, case, cases, encoding_cases};
use remote_vae_vae::device::cpu::{Cpu, CpuOptions, Isa, Numerics, Storage};
use remote_vae_vae::{DecodeOptions, EncodeOptions, HostTensor, Silent, VaeError, VaeInfo, load};

/// Cases that differ in what they do, not in what they show of it.
const CASES: [&str; 6] = ["sd-like", "conv-attention", "tiled", "video", "video-framewise", "video-tiled"];

/// Engines that take memory in different ways.
fn engines() -> Vec<Cpu> {
    [(Isa::best(), Storage::F32, Numerics::Fast, 2), (Isa::best(), Storage::F16, Numerics::Strict, 3)]
        .map(|(isa, storage, numerics, threads)| {
            let options = CpuOptions { isa: Some(isa), storage, numerics, threads: Some(threads) };
            Cpu::new(options).unwrap()
        })
        .into()
}

/// Values as a sampler gives them: no two alike, of about unit variance, without extremes.
fn values(shape: &[usize]) -> HostTensor {
    let count = shape.iter().product();
    let value = |i: usize| ((i.wrapping_mul(2_654_435_761) % 1000) as f32 / 500.0 - 1.0) * 1.7;
    HostTensor::new(shape.to_vec(), (0..count).map(value).collect())
}

/// Latents of several sizes and batches; what needs more than one tile, or part of a video, is among them.
fn latents(info: &VaeInfo) -> Vec<Vec<usize>> {
    let c = info.latent_channels;
    match info.temporal_factor {
        None => vec![vec![1, c, 3, 5], vec![3, c, 8, 10], vec![1, c, 24, 20]],
        Some(_) => {
            vec![vec![2, c, 1, 3, 5], vec![1, c, 6, 4, 4], vec![1, c, 2, 4, 34]]
        }
    }
}

#[track_caller]
fn assert_close(predicted: usize, real: usize, what: &str) {
    let ratio = predicted as f64 / real as f64;
    assert!((1.0 / 1.15..=1.15).contains(&ratio), "{what}: predicted {predicted} bytes, it took {real}");
}

#[test]
fn decodes_take_what_was_predicted() {
    let (mut checked, mut exact) = (0, 0);
    for case in cases().into_iter().filter(|case| CASES.contains(&case.name.as_str())) {
        for engine in engines() {
            let mut vae = load(case.source(), engine).unwrap();
            let forecaster = vae.forecaster().unwrap();
            for shape in latents(vae.info()) {
                for (tiling, framewise, lean) in
                    [(false, false, false), (false, true, false), (false, true, true), (true, true, false)]
                {
                    let options = DecodeOptions { tiling, framewise, lean, memory: None };
                    let what = format!("{} {shape:?} {options:?} on {}", case.name, vae.info().engine);
                    let mut recorder = Recorder::default();
                    let decoded = vae.decode(values(&shape), &options, &mut recorder);
                    let forecast = forecaster.decode(&shape, &options);
                    if matches!(decoded, Err(VaeError::Input(_))) {
                        let same = forecast.unwrap_err().to_string() == decoded.unwrap_err().to_string();
                        assert!(same, "{what}: refused for different reasons");
                        continue;
                    }
                    let pixels = decoded.unwrap();
                    let forecast = forecast.unwrap();
                    let real = vae.peak_memory().unwrap();
                    assert_close(forecast.engine_memory, real, &what);
                    assert_eq!(recorder.progress.last(), Some(&(forecast.work, forecast.work)), "{what}");
                    assert!(forecast.host_memory >= pixels.data.len() * 4, "{what}");
                    assert_eq!(
                        forecaster.decode(&shape, &options).unwrap(),
                        forecast,
                        "{what}: the next one differs"
                    );
                    checked += 1;
                    exact += usize::from(forecast.engine_memory == real);
                }
            }
        }
    }
    println!("{checked} decodes, {exact} predicted to the byte");
    assert!(checked > 50 && exact * 10 > checked * 9, "{exact} of {checked}");
}

#[test]
fn encodes_take_what_was_predicted() {
    let mut checked = 0;
    for case in encoding_cases().into_iter().filter(|case| CASES.contains(&case.name.as_str())) {
        for engine in engines() {
            let mut vae = load(case.source(), engine).unwrap();
            let forecaster = vae.forecaster().unwrap();
            let shapes = match vae.info().temporal_factor {
                None => vec![vec![3, 3, 40, 56], vec![1, 3, 64, 160]],
                Some(_) => vec![vec![1, 3, 21, 16, 24], vec![2, 3, 2, 16, 264]],
            };
            for shape in shapes {
                for tiling in [false, true] {
                    let options = EncodeOptions { tiling, ..EncodeOptions::default() };
                    let what = format!("{} {shape:?} {options:?}", case.name);
                    let mut recorder = Recorder::default();
                    let encoded = vae.encode(values(&shape), &options, &mut recorder);
                    let forecast = forecaster.encode(&shape, &options);
                    if matches!(encoded, Err(VaeError::Input(_))) {
                        assert!(forecast.is_err(), "{what}");
                        continue;
                    }
                    encoded.unwrap();
                    let forecast = forecast.unwrap();
                    assert_close(forecast.engine_memory, vae.peak_memory().unwrap(), &what);
                    assert_eq!(recorder.progress.last(), Some(&(forecast.work, forecast.work)), "{what}");
                    checked += 1;
                }
            }
        }
    }
    assert!(checked > 10, "{checked}");
}

#[test]
fn lean_takes_about_half() {
    let vae = load(case("wide").source(), Cpu::new(CpuOptions::default()).unwrap()).unwrap();
    let forecaster = vae.forecaster().unwrap();
    let shape = [1, vae.info().latent_channels, 128, 128];
    let memory = |lean| {
        forecaster.decode(&shape, &DecodeOptions { lean, ..DecodeOptions::default() }).unwrap().engine_memory
    };
    let ratio = memory(true) as f64 / memory(false) as f64;
    assert!((0.45..0.75).contains(&ratio), "{ratio}");
}

#[test]
fn lean_is_storage_in_f16() {
    let case = case("sd-like");
    let decode = |storage, lean| {
        let engine = Cpu::new(CpuOptions { storage, ..CpuOptions::default() }).unwrap();
        let options = DecodeOptions { lean, ..DecodeOptions::default() };
        load(case.source(), engine).unwrap().decode(case.latents(), &options, &mut Silent).unwrap()
    };
    let lean = decode(Storage::F32, true);
    assert_eq!(lean, decode(Storage::F16, false));
    assert_eq!(lean, decode(Storage::F16, true), "it cannot be leaner");
    assert_ne!(lean, decode(Storage::F32, false));
}
