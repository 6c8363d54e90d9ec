//! Every golden case on every engine, stage by stage: what we decode is what diffusers decodes.

mod common;

use common::{Recorder, TOLERANCE, case, cases, engines, error, tolerance};
use remote_vae_vae::latents::{Normalization, Scaling, arrange};
use remote_vae_vae::{DecodeOptions, Silent};

const WHOLE: DecodeOptions = DecodeOptions { tiling: false, framewise: false, lean: false, memory: None };
const TILED: DecodeOptions = DecodeOptions { tiling: true, framewise: true, lean: false, memory: None };

#[test]
fn every_stage_is_what_diffusers_computes() {
    for case in cases() {
        for (engine, load) in engines() {
            let mut vae =
                load(case.source()).unwrap_or_else(|error| panic!("{} on {engine}: {error}", case.name));
            let mut recorder = Recorder { stages: case.stages.clone(), ..Recorder::default() };
            let sample = vae.decode(case.latents(), &WHOLE, &mut recorder).unwrap();

            let mut worst = ("sample", error(&sample, &case.golden["sample"]));
            for stage in &case.stages {
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
        }
    }
}

#[test]
fn pipeline_latents_become_the_scaled_latents_of_diffusers() {
    let mut packed = 0;
    for case in cases() {
        let (_, load) = &engines()[0];
        let vae = load(case.source()).unwrap();
        let expected = case.latents();
        for layout in ["pipeline_latents", "packed_latents"] {
            let Some(latents) = case.golden.get(layout).cloned() else { continue };
            packed += usize::from(layout == "packed_latents");
            let pixels = |axis: usize| Some(expected.shape[axis] * vae.info().spatial_factor);
            let mut latents = arrange(latents, vae.info(), pixels(2), pixels(3)).unwrap();
            Scaling::Model.apply(&mut latents, vae.info()).unwrap();
            // PyTorch's square roots in f32 may be off by one in the last place; all else is the same, bit for bit.
            if matches!(vae.info().latents.normalization, Normalization::BatchNorm { .. }) {
                let error = error(&latents, &expected);
                assert!(error <= 1e-6, "{} {layout} is off by {error}", case.name);
                continue;
            }
            assert!(latents == expected, "{} {layout}", case.name);
        }
    }
    assert!(packed > 0, "no case has packed latents");
}

#[test]
fn tiles_are_cut_and_blended_as_diffusers_does() {
    assert_pieces("tiled_sample", TILED);
}

#[test]
fn videos_are_cut_in_time_and_blended_as_diffusers_does_by_default() {
    assert_pieces("framewise_sample", DecodeOptions::default());
}

/// Decodes every case that has this tensor with `options`, which cut it into pieces.
fn assert_pieces(name: &str, options: DecodeOptions) {
    let mut cut = 0;
    for case in cases() {
        let Some(expected) = case.golden.get(name) else { continue };
        cut += 1;
        assert!(error(&case.golden["sample"], expected) > 100.0 * TOLERANCE, "cutting changes the picture");
        for (engine, load) in engines() {
            let mut vae = load(case.source()).unwrap();
            let mut recorder = Recorder::default();
            let sample = vae.decode(case.latents(), &options, &mut recorder).unwrap();
            let error = error(&sample, expected);
            assert!(error <= tolerance(&engine), "{} on {engine} is off by {error}", case.name);

            let (first, last) = (recorder.progress[0], recorder.progress[recorder.progress.len() - 1]);
            assert_eq!((first, last), ((0, first.1), (first.1, first.1)), "{} on {engine}", case.name);
            assert!(recorder.progress.is_sorted_by(|a, b| a.0 < b.0), "{} on {engine}", case.name);
        }
    }
    assert!(cut > 0, "no case has {name}");
}

#[test]
fn what_fits_one_tile_is_decoded_whole() {
    let case = case("tiled");
    for (engine, load) in engines() {
        let mut vae = load(case.source()).unwrap();
        let side = vae.tile_latent_min_size().unwrap();
        let mut latents = case.latents();
        latents.shape = vec![1, 4, side, side];
        latents.data.truncate(4 * side * side);
        let tiled = vae.decode(latents.clone(), &TILED, &mut Silent).unwrap();
        assert_eq!(tiled, vae.decode(latents, &DecodeOptions::default(), &mut Silent).unwrap(), "{engine}");
    }
}

#[test]
fn a_batch_is_its_images() {
    let mut batches = 0;
    for case in cases().into_iter().filter(|case| case.latents().shape[0] > 1) {
        batches += 1;
        for (engine, load) in engines() {
            let mut vae = load(case.source()).unwrap();
            let mut latents = case.latents();
            let size = latents.data.len() / latents.shape[0];
            latents.shape[0] = 1;
            latents.data = latents.data.split_off(latents.data.len() - size);
            let alone = vae.decode(latents, &DecodeOptions::default(), &mut Silent).unwrap();

            let mut expected = case.golden["sample"].clone();
            expected.shape[0] = 1;
            expected.data = expected.data.split_off(expected.data.len() - alone.data.len());
            assert!(error(&alone, &expected) <= tolerance(&engine), "{} on {engine}", case.name);
        }
    }
    assert!(batches > 0, "no case is a batch");
}
