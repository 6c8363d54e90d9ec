//! What a decode does besides decoding: progress, cancellation, refusals, and inputs no sampler would make.

mod common;

use common::{Recorder, case, cases, engines};
use remote_vae_vae::latents::Normalization;
use remote_vae_vae::{DecodeOptions, HostTensor, Silent, VaeError};

#[test]
fn progress_grows_from_nothing_to_everything() {
    for case in cases() {
        for (engine, load) in engines() {
            let mut recorder = Recorder::default();
            load(case.source())
                .unwrap()
                .decode(case.latents(), &DecodeOptions::default(), &mut recorder)
                .unwrap();
            let total = recorder.progress[0].1;
            assert_eq!(recorder.progress.first(), Some(&(0, total)), "{} on {engine}", case.name);
            assert_eq!(recorder.progress.last(), Some(&(total, total)), "{} on {engine}", case.name);
            assert!(
                recorder.progress.is_sorted_by(|a, b| a.0 < b.0 && a.1 == b.1),
                "{} on {engine}",
                case.name
            );
            // Every layer reports, so that a caller who left is noticed soon.
            assert!(recorder.progress.len() > case.stages.len(), "{} on {engine}", case.name);
        }
    }
}

#[test]
fn a_decode_stops_wherever_it_is_cancelled_and_the_next_one_works() {
    let case = case("sd-like");
    for (_, load) in engines() {
        let mut vae = load(case.source()).unwrap();
        let mut whole = Recorder::default();
        let expected = vae.decode(case.latents(), &DecodeOptions::default(), &mut whole).unwrap();
        for cancel_at in [1, 2, whole.progress.len() / 2 + 1, whole.progress.len()] {
            let mut recorder = Recorder { cancel_at: Some(cancel_at), ..Recorder::default() };
            let result = vae.decode(case.latents(), &DecodeOptions::default(), &mut recorder);
            assert!(matches!(result, Err(VaeError::Cancelled)));
            assert_eq!(recorder.progress.len(), cancel_at);
        }
        vae.release();
        assert_eq!(vae.decode(case.latents(), &DecodeOptions::default(), &mut Silent).unwrap(), expected);
    }
}

#[test]
fn shapes_that_a_model_cannot_decode_are_refused() {
    for (_, load) in engines() {
        let mut vae = load(case("sd-like").source()).unwrap();
        for shape in [
            vec![],
            vec![4, 5, 3],
            vec![1, 16, 5, 3],
            vec![0, 4, 5, 3],
            vec![1, 4, 0, 3],
            vec![1, 4, 5, 0],
            vec![1, 4, 1, 5, 3],
        ] {
            let latents = HostTensor::new(shape.clone(), vec![0.0; shape.iter().product()]);
            let message =
                vae.decode(latents, &DecodeOptions::default(), &mut Silent).unwrap_err().to_string();
            assert!(message.contains(&format!("{shape:?}")) && message.contains("[B, 4, h, w]"), "{message}");
        }
    }
}

#[test]
fn latents_that_are_no_numbers_are_decoded_to_something() {
    for case in ["conv-attention", "one-block", "wide"].map(case) {
        for (engine, load) in engines() {
            let mut vae = load(case.source()).unwrap();
            for poison in [f32::NAN, f32::INFINITY, f32::MIN, f32::MAX, 1e-40] {
                let mut latents = case.latents();
                let middle = latents.data.len() / 2;
                latents.data[middle] = poison;
                let sample = vae.decode(latents, &DecodeOptions::default(), &mut Silent).unwrap();
                let expected = &case.golden["sample"].shape;
                assert_eq!(&sample.shape, expected, "{} on {engine} with {poison}", case.name);
            }
            // Nothing of it stays behind in buffers that are used again.
            let sample = vae.decode(case.latents(), &DecodeOptions::default(), &mut Silent).unwrap();
            assert!(sample.data.iter().all(|x| x.is_finite()), "{} on {engine}", case.name);
        }
    }
}

#[test]
fn a_model_says_what_it_is() {
    for (engine, load) in engines() {
        let flux = load(case("flux-like").source()).unwrap();
        let info = flux.info();
        assert_eq!(
            (info.class_name.as_str(), info.latent_channels, info.out_channels),
            ("AutoencoderKL", 16, 3)
        );
        assert_eq!((info.spatial_factor, info.temporal_factor), (4, None));
        assert_eq!(info.latents.normalization.factors(), Some((0.3611, Some(0.1159))));
        assert!(!info.engine.is_empty(), "{engine}");
        let other = load(case("conv-attention").source()).unwrap();
        let Normalization::MeanStd { mean, std, .. } = &other.info().latents.normalization else {
            panic!("{:?}", other.info().latents);
        };
        assert_eq!((&mean[..], &std[..]), (&[0.1, -0.2, 0.3, -0.4][..], &[1.5, 0.5, 2.0, 1.0][..]));
    }
}
