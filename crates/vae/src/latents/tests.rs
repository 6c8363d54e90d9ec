use super::*;
use crate::{HostTensor, VaeError, VaeInfo};

fn info(latent_channels: usize) -> VaeInfo {
    VaeInfo {
        class_name: "AutoencoderKL".into(),
        engine: String::new(),
        latent_channels,
        out_channels: 3,
        spatial_factor: 8,
        can_encode: false,
        temporal_factor: None,
        scaling_factor: 0.18215,
        shift_factor: None,
        latents_mean: None,
        latents_std: None,
        concluded: None,
    }
}

/// Values that say where they are.
fn counted(shape: &[usize]) -> HostTensor {
    HostTensor::new(shape.to_vec(), (0..shape.iter().product()).map(|i: usize| i as f32).collect())
}

fn shape_after(shape: &[usize], channels: usize, size: Option<(usize, usize)>) -> Result<Vec<usize>, String> {
    let (height, width) = size.unzip();
    let told = arranged_shape(shape, &info(channels), height, width).map_err(|error| error.to_string());
    let arranged = arrange(counted(shape), &info(channels), height, width)
        .map(|latents| latents.shape)
        .map_err(|error| error.to_string());
    assert_eq!(arranged, told, "the shape is known before the values are there");
    arranged
}

#[test]
fn a_batch_is_taken_as_it_is_whatever_size_is_sent_along() {
    assert_eq!(shape_after(&[2, 4, 5, 7], 4, None).unwrap(), [2, 4, 5, 7]);
    assert_eq!(shape_after(&[2, 4, 5, 7], 4, Some((1, 999))).unwrap(), [2, 4, 5, 7]);
}

#[test]
fn one_image_gains_its_batch_axis() {
    assert_eq!(shape_after(&[4, 5, 7], 4, None).unwrap(), [1, 4, 5, 7]);
    // As SD.Next sends Flux latents: 3-D, with the picture's size.
    assert_eq!(shape_after(&[16, 128, 64], 16, Some((1024, 512))).unwrap(), [1, 16, 128, 64]);
}

#[test]
fn one_frame_of_a_video_is_a_picture() {
    // As a pipeline of a video model, or of one that shares its autoencoder, has the latents of a picture.
    assert_eq!(shape_after(&[1, 16, 1, 5, 7], 16, None).unwrap(), [1, 16, 5, 7]);
    assert_eq!(shape_after(&[3, 16, 1, 5, 7], 16, Some((1, 999))).unwrap(), [3, 16, 5, 7]);
    assert_eq!(shape_after(&[16, 1, 5, 7], 16, None).unwrap(), [1, 16, 5, 7]);
    let latents = arrange(counted(&[2, 4, 1, 2, 3]), &info(4), None, None).unwrap();
    assert_eq!(latents, counted(&[2, 4, 2, 3]), "the values stay where they are");
    // What fits without that is taken as it is.
    assert_eq!(shape_after(&[1, 1, 1, 7], 1, None).unwrap(), [1, 1, 1, 7]);
    for shape in [&[1, 16, 2, 5, 7][..], &[16, 2, 5, 7], &[1, 4, 1, 5, 7], &[1, 1, 16, 5, 7]] {
        let error = shape_after(shape, 16, None).unwrap_err();
        assert!(error.contains(&format!("{shape:?}")), "{error}");
    }
}

#[test]
fn packed_latents_are_unpacked_as_diffusers_does() {
    // torch: x.view(1, 1, 2, 4, 2, 2).permute(0, 3, 1, 4, 2, 5).reshape(1, 4, 2, 4) of arange(32), the first
    // two channels written out.
    let out = arrange(counted(&[1, 2, 16]), &info(4), Some(16), Some(32)).unwrap();
    assert_eq!(out.shape, [1, 4, 2, 4]);
    assert_eq!(out.data[..8], [0., 1., 16., 17., 2., 3., 18., 19.]);
    assert_eq!(out.data[8..16], [4., 5., 20., 21., 6., 7., 22., 23.]);
    // Sizes round down to whole pairs of latents, and the batch comes first.
    assert_eq!(shape_after(&[3, 6, 64], 16, Some((47, 33))).unwrap_err().matches("2 x 2").count(), 1);
    assert_eq!(shape_after(&[3, 6, 64], 16, Some((47, 48))).unwrap(), [3, 16, 4, 6]);
}

#[test]
fn a_3d_tensor_that_could_be_both_is_what_its_token_count_says() {
    assert_eq!(shape_after(&[16, 64, 64], 16, Some((128, 128))).unwrap(), [16, 16, 16, 16]);
    assert_eq!(shape_after(&[16, 64, 64], 16, Some((512, 512))).unwrap(), [1, 16, 64, 64]);
    assert_eq!(shape_after(&[16, 64, 64], 16, None).unwrap(), [1, 16, 64, 64]);
}

#[test]
fn a_3d_tensor_that_fits_nothing_is_told_both_readings() {
    let error = shape_after(&[1, 4096, 64], 16, None).unwrap_err();
    assert!(error.contains("`height` and `width`") && error.contains("[16, h, w]"), "{error}");
    let error = shape_after(&[1, 4096, 64], 16, Some((512, 512))).unwrap_err();
    assert!(error.contains("32 x 32 tokens") && error.contains("there are 4096"), "{error}");
    let error = shape_after(&[1, 4096, 64], 4, Some((1024, 1024))).unwrap_err();
    assert!(error.contains("its last axis is 64") && error.contains("its first axis is 1"), "{error}");
}

#[test]
fn sizes_no_picture_can_have_are_errors_and_never_overflow() {
    for size in [(0, 0), (usize::MAX, usize::MAX), (15, 1024)] {
        assert!(shape_after(&[1, 4096, 64], 16, Some(size)).is_err());
    }
}

#[test]
fn other_shapes_are_refused() {
    for shape in [&[4][..], &[5, 7], &[1, 3, 5, 7], &[1, 4, 2, 5, 7], &[1, 4, 0, 7], &[4, 0, 7], &[]] {
        let error = shape_after(shape, 4, None).unwrap_err();
        assert!(error.contains(&format!("{shape:?}")), "{error}");
    }
}

#[test]
fn video_latents_keep_their_frames() {
    let video = VaeInfo { temporal_factor: Some(4), ..info(16) };
    let shape = |shape: &[usize]| arrange(counted(shape), &video, Some(1), Some(1)).map(|x| x.shape);
    assert_eq!(shape(&[1, 16, 3, 4, 5]).unwrap(), [1, 16, 3, 4, 5]);
    assert_eq!(shape(&[16, 3, 4, 5]).unwrap(), [1, 16, 3, 4, 5]);
    assert!(shape(&[1, 16, 4, 5]).is_err());
    assert!(shape(&[16, 4, 5]).is_err());
}

#[test]
fn scaling_is_the_pipelines_arithmetic() {
    let scaled = |scaling: Scaling, info: &VaeInfo| {
        let mut latents = HostTensor::new(vec![1, 2, 1, 2], vec![0.7, -1.3, 2.9, -0.0]);
        scaling.apply(&mut latents, info).unwrap();
        latents.data
    };
    let bits = |values: &[f32]| values.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
    let plain = info(2);
    let shifted = VaeInfo { scaling_factor: 0.3611, shift_factor: Some(0.1159), ..info(2) };
    let standardised = VaeInfo {
        latents_mean: Some(vec![0.5, -0.25]),
        latents_std: Some(vec![2.0, 3.0]),
        ..shifted.clone()
    };

    let x = [0.7f32, -1.3, 2.9, -0.0];
    assert_eq!(bits(&scaled(Scaling::Unchanged, &standardised)), bits(&x));
    assert_eq!(bits(&scaled(Scaling::Model, &plain)), bits(&x.map(|x| x / 0.18215)));
    assert_eq!(scaled(Scaling::Model, &shifted), x.map(|x| x / 0.3611 + 0.1159));
    let expected = [
        x[0] * 2.0 / 0.3611 + 0.5,
        x[1] * 2.0 / 0.3611 + 0.5,
        x[2] * 3.0 / 0.3611 - 0.25,
        x[3] * 3.0 / 0.3611 - 0.25,
    ];
    assert_eq!(scaled(Scaling::Model, &standardised), expected);
    let factors = Scaling::Factors { scaling_factor: 0.13025, shift_factor: None };
    assert_eq!(bits(&scaled(factors, &standardised)), bits(&x.map(|x| x / 0.13025)));
}

#[test]
fn what_was_scaled_can_be_scaled_back() {
    let shifted = VaeInfo { scaling_factor: 0.3611, shift_factor: Some(0.1159), ..info(2) };
    let standardised = VaeInfo {
        latents_mean: Some(vec![0.5, -0.25]),
        latents_std: Some(vec![2.0, 3.0]),
        ..shifted.clone()
    };
    let factors = Scaling::Factors { scaling_factor: -2.0, shift_factor: Some(0.5) };
    let expected = counted(&[2, 2, 1, 3]);
    for (scaling, info) in [
        (Scaling::Unchanged, &shifted),
        (Scaling::Model, &shifted),
        (Scaling::Model, &standardised),
        (factors, &shifted),
    ] {
        let mut latents = expected.clone();
        scaling.apply(&mut latents, info).unwrap();
        assert_eq!(latents == expected, scaling == Scaling::Unchanged);
        scaling.undo(&mut latents, info).unwrap();
        for (found, expected) in latents.data.iter().zip(&expected.data) {
            assert!((found - expected).abs() < 1e-5, "{scaling:?}: {found} for {expected}");
        }
    }
}

#[test]
fn factors_that_make_no_sense_are_refused() {
    let mut latents = counted(&[1, 2, 1, 2]);
    for scaling_factor in [0.0, f32::NAN, f32::INFINITY] {
        let scaling = Scaling::Factors { scaling_factor, shift_factor: None };
        assert!(matches!(scaling.apply(&mut latents, &info(2)), Err(VaeError::Input(_))));
        assert!(matches!(scaling.undo(&mut latents, &info(2)), Err(VaeError::Input(_))));
    }
    let scaling = Scaling::Factors { scaling_factor: 1.0, shift_factor: Some(f32::NAN) };
    assert!(matches!(scaling.apply(&mut latents, &info(2)), Err(VaeError::Input(_))));
}

#[test]
fn factors_that_make_latents_infinite_are_known_before() {
    let shifted = VaeInfo { scaling_factor: 0.3611, shift_factor: Some(0.1159), ..info(2) };
    let standardised = VaeInfo {
        latents_mean: Some(vec![0.5, -0.25]),
        latents_std: Some(vec![2.0, 3.0]),
        ..shifted.clone()
    };
    let factors = |scaling_factor, shift_factor| Scaling::Factors { scaling_factor, shift_factor };
    for (scaling, largest, info) in [
        (Scaling::Unchanged, f32::MAX, &shifted),
        (Scaling::Model, 1.0, &shifted),
        (Scaling::Model, 1e38, &shifted),
        (Scaling::Model, f32::MAX, &shifted),
        (Scaling::Model, 3e37, &standardised),
        (Scaling::Model, 1e38, &standardised),
        (factors(-1e-38, None), 2.0, &shifted),
        (factors(-1e-38, None), 10.0, &shifted),
        (factors(1.0, Some(-3e38)), 1e38, &shifted),
        (factors(1.0, Some(-3e38)), 1e37, &shifted),
    ] {
        let mut latents = HostTensor::new(vec![1, 2, 1, 2], vec![largest, -largest, largest, -largest]);
        scaling.apply(&mut latents, info).unwrap();
        let overflown = latents.data.iter().any(|value| !value.is_finite());
        assert_eq!(scaling.overflows(largest, info), overflown, "{scaling:?} {largest}");
    }
}
