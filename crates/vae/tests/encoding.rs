//! Every golden case with an encoder on every engine, stage by stage, and what an encode does besides encoding.

mod common;

use common::{Recorder, TOLERANCE, case, encoding_cases, engines, error, tolerance};
use remote_vae_vae::device::cpu::{Cpu, CpuOptions, Isa};
use remote_vae_vae::latents::Scaling;
use remote_vae_vae::{
    DecodeOptions, DiagonalGaussianDistribution, EncodeOptions, HostTensor, Silent, Source, VaeError,
};

/// In one pass.
fn whole() -> EncodeOptions {
    EncodeOptions { tiling: false, framewise: false, memory: None }
}

fn tiled() -> EncodeOptions {
    EncodeOptions { tiling: true, framewise: true, memory: None }
}

#[test]
fn every_stage_is_what_diffusers_computes() {
    for case in encoding_cases() {
        for (engine, load) in engines() {
            let mut vae = load(case.source()).unwrap();
            assert!(vae.info().can_encode);
            let mut recorder = Recorder { stages: case.encoder_stages.clone(), ..Recorder::default() };
            let moments = vae.encode(case.golden["pixels"].clone(), &whole(), &mut recorder).unwrap();

            let mut worst = ("moments", error(&moments, &case.golden["moments"]));
            for stage in &case.encoder_stages {
                let found = recorder.activations.get(stage);
                let found = found.unwrap_or_else(|| panic!("{} on {engine} shows no {stage}", case.name));
                let error = error(found, &case.golden[stage]);
                assert!(error <= tolerance(&engine), "{} on {engine}: {stage} is off by {error}", case.name);
                if error > worst.1 {
                    worst = (stage, error);
                }
            }
            assert!(
                worst.1 <= tolerance(&engine),
                "{} on {engine}: {} is off by {}",
                case.name,
                worst.0,
                worst.1
            );
            println!("{} on {engine}: at most {:.1e} ({})", case.name, worst.1, worst.0);

            let (first, last) = (recorder.progress[0], recorder.progress[recorder.progress.len() - 1]);
            assert_eq!((first, last), ((0, first.1), (first.1, first.1)), "{} on {engine}", case.name);
            assert!(recorder.progress.is_sorted_by(|a, b| a.0 < b.0), "{} on {engine}", case.name);
        }
    }
}

#[test]
fn the_mode_is_scaled_as_the_pipelines_do_it() {
    for case in encoding_cases() {
        let (_, load) = &engines()[0];
        let vae = load(case.source()).unwrap();
        let posterior = DiagonalGaussianDistribution::new(case.golden["moments"].clone());
        let mut latents = posterior.mode();
        Scaling::Model.undo(&mut latents, vae.info()).unwrap();
        let error = error(&latents, &case.golden["scaled_mode"]);
        assert!(error <= 1e-6, "{} is off by {error}", case.name);
    }
}

#[test]
fn tiles_are_cut_and_blended_as_diffusers_does() {
    assert_pieces("tiled_moments", tiled());
}

#[test]
fn videos_are_cut_in_time_and_blended_as_diffusers_does_by_default() {
    assert_pieces("framewise_moments", EncodeOptions::default());
}

/// Encodes every case that has this tensor with `options`, which cut it into pieces.
fn assert_pieces(name: &str, options: EncodeOptions) {
    let mut changed = 0;
    for case in encoding_cases() {
        let Some(expected) = case.golden.get(name) else { continue };
        // Not always: where the first part in time is the whole clip, nothing of the second is left but a fade at its
        // beginning.
        let whole = &case.golden["moments"];
        let alike = whole.shape == expected.shape && error(whole, expected) < 100.0 * TOLERANCE;
        changed += usize::from(!alike);
        for (engine, load) in engines() {
            let mut vae = load(case.source()).unwrap();
            let mut recorder = Recorder::default();
            let moments = vae.encode(case.golden["pixels"].clone(), &options, &mut recorder).unwrap();
            let error = error(&moments, expected);
            assert!(error <= tolerance(&engine), "{} on {engine} is off by {error}", case.name);

            let (first, last) = (recorder.progress[0], recorder.progress[recorder.progress.len() - 1]);
            assert_eq!((first, last), ((0, first.1), (first.1, first.1)), "{} on {engine}", case.name);
            assert!(recorder.progress.is_sorted_by(|a, b| a.0 < b.0), "{} on {engine}", case.name);
        }
    }
    assert!(changed > 0, "no case has a {name} that is not that of one pass");
}

#[test]
fn what_fits_one_tile_is_encoded_whole() {
    let case = case("tiled");
    for (engine, load) in engines() {
        let mut vae = load(case.source()).unwrap();
        assert_eq!(vae.tile_sample_min_size(), Some(16));
        let pixels = HostTensor::new(vec![1, 3, 16, 15], case.golden["pixels"].data[..3 * 16 * 15].to_vec());
        let moments = vae.encode(pixels.clone(), &tiled(), &mut Silent).unwrap();
        assert_eq!(moments, vae.encode(pixels, &whole(), &mut Silent).unwrap(), "{engine}");
    }
}

#[test]
fn pixels_that_a_model_cannot_encode_are_refused() {
    for (_, load) in engines() {
        let mut vae = load(case("sd-like").source()).unwrap();
        for (shape, part) in [
            (vec![], "[B, 3, H, W]"),
            (vec![3, 16, 16], "[B, 3, H, W]"),
            (vec![1, 4, 16, 16], "[B, 3, H, W]"),
            (vec![0, 3, 16, 16], "[B, 3, H, W]"),
            (vec![1, 3, 16, 7], "sides of 8 pixels at least"),
            (vec![1, 3, 0, 16], "sides of 8 pixels at least"),
            (vec![1, 3, 1, 16, 16], "[B, 3, H, W]"),
        ] {
            let pixels = HostTensor::new(shape.clone(), vec![0.0; shape.iter().product()]);
            let message = vae.encode(pixels, &whole(), &mut Silent).unwrap_err().to_string();
            assert!(message.contains(&format!("{shape:?}")) && message.contains(part), "{message}");
        }
        let mut video = load(case("video").source()).unwrap();
        for (shape, part) in [
            (vec![1, 3, 16, 16], "[B, 3, F, H, W]"),
            (vec![1, 4, 5, 16, 16], "[B, 3, F, H, W]"),
            (vec![1, 3, 0, 16, 16], "[B, 3, F, H, W]"),
            (vec![0, 3, 5, 16, 16], "[B, 3, F, H, W]"),
            (vec![1, 3, 5, 7, 16], "sides of 8 pixels at least"),
        ] {
            let pixels = HostTensor::new(shape.clone(), vec![0.0; shape.iter().product()]);
            let message = video.encode(pixels, &whole(), &mut Silent).unwrap_err().to_string();
            assert!(message.contains(&format!("{shape:?}")) && message.contains(part), "{message}");
        }
        let mut untiled = load(case("sd-like").source()).unwrap();
        assert!(
            untiled.encode(HostTensor::new(vec![1, 3, 8, 8], vec![0.0; 192]), &tiled(), &mut Silent).is_ok()
        );
    }
}

#[test]
fn a_decoder_alone_decodes_and_says_that_it_cannot_encode() {
    let case = case("many-positions");
    for (engine, load) in engines() {
        let mut vae = load(case.source()).unwrap();
        assert!(!vae.info().can_encode);
        let pixels = HostTensor::new(vec![1, 3, 8, 8], vec![0.0; 192]);
        let message = vae.encode(pixels, &whole(), &mut Silent).unwrap_err().to_string();
        assert!(message.contains("a decoder only"), "{engine}: {message}");
    }
}

#[test]
fn a_video_decoder_alone_decodes_and_says_that_it_cannot_encode() {
    let case = case("video-batch");
    let folder = tempfile::tempdir().unwrap();
    std::fs::copy(case.folder.join("config.json"), folder.path().join("config.json")).unwrap();
    let name = "diffusion_pytorch_model.safetensors";
    let bytes = std::fs::read(case.folder.join(name)).unwrap();
    let all = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let of_decoder = all
        .tensors()
        .into_iter()
        .filter(|(name, _)| !name.starts_with("encoder.") && !name.starts_with("quant_conv."));
    safetensors::serialize_to_file(of_decoder, None, &folder.path().join(name)).unwrap();
    for (engine, load) in engines() {
        let mut vae = load(Source::Folder(folder.path().to_path_buf())).unwrap();
        assert!(!vae.info().can_encode && vae.tile_sample_min_size().is_none());
        let message =
            vae.encode(case.golden["pixels"].clone(), &whole(), &mut Silent).unwrap_err().to_string();
        assert!(message.contains("a decoder only"), "{engine}: {message}");
        let sample = vae.decode(case.latents(), &DecodeOptions::default(), &mut Silent).unwrap();
        assert!(error(&sample, &case.golden["sample"]) <= tolerance(&engine), "{engine}");
    }
}

#[test]
fn an_encode_stops_where_it_is_cancelled() {
    for case in [case("sd-like"), case("video")] {
        for (_, load) in engines() {
            let mut vae = load(case.source()).unwrap();
            let mut recorder = Recorder { cancel_at: Some(5), ..Recorder::default() };
            let result = vae.encode(case.golden["pixels"].clone(), &whole(), &mut recorder);
            assert!(matches!(result, Err(VaeError::Cancelled)));
            assert_eq!(recorder.progress.len(), 5);
        }
    }
}

/// Whatever the number of threads, and however little of the processor each of them gets.
#[test]
fn an_encode_repeats_bit_for_bit() {
    for name in ["wide", "sd-like", "video-batch"] {
        let case = case(name);
        for isa in Isa::available() {
            for threads in [1, 2, 5, 8] {
                let options = CpuOptions { isa: Some(isa), threads: Some(threads), ..CpuOptions::default() };
                let mut vae = remote_vae_vae::load(case.source(), Cpu::new(options).unwrap()).unwrap();
                let mut encode = || vae.encode(case.golden["pixels"].clone(), &whole(), &mut Silent).unwrap();
                let first = encode();
                assert!(error(&first, &case.golden["moments"]) <= tolerance(isa.name()));
                for _ in 0..3 {
                    assert_eq!(encode(), first, "{name} with {threads} threads of {}", isa.name());
                }
            }
        }
    }
}

#[test]
fn pixels_that_are_no_numbers_are_encoded_to_something() {
    let case = case("wide");
    for (engine, load) in engines() {
        let mut vae = load(case.source()).unwrap();
        for poison in [f32::NAN, f32::INFINITY, f32::MIN, f32::MAX, 1e-40] {
            let mut pixels = case.golden["pixels"].clone();
            let middle = pixels.data.len() / 2;
            pixels.data[middle] = poison;
            let moments = vae.encode(pixels, &whole(), &mut Silent).unwrap();
            // Neither must the noise of a sample break on it.
            DiagonalGaussianDistribution::new(moments).sample(0);
        }
        let moments = vae.encode(case.golden["pixels"].clone(), &whole(), &mut Silent).unwrap();
        assert!(error(&moments, &case.golden["moments"]) <= tolerance(&engine), "{engine}");
    }
}
