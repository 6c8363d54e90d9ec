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
        latents: LatentFormat {
            normalization: Normalization::Factors { scaling_factor: 0.18215, shift_factor: None },
            ..LatentFormat::default()
        },
        concluded: None,
    }
}

fn scaled_by(normalization: Normalization) -> VaeInfo {
    VaeInfo { latents: LatentFormat { normalization, ..LatentFormat::default() }, ..info(2) }
}

fn standardised() -> Normalization {
    Normalization::MeanStd { mean: vec![0.5, -0.25], std: vec![2.0, 3.0], scaling_factor: 0.3611 }
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
    assert_eq!(shape(&[2, 16, 4, 5]).unwrap(), [2, 16, 1, 4, 5], "pictures");
    assert_eq!(shape(&[16, 16, 4, 5]).unwrap(), [1, 16, 16, 4, 5], "a video without its batch axis");
    assert!(shape(&[1, 4, 4, 5]).is_err());
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
    let shifted = scaled_by(Normalization::Factors { scaling_factor: 0.3611, shift_factor: Some(0.1159) });
    let standardised = scaled_by(standardised());

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
    let shifted = scaled_by(Normalization::Factors { scaling_factor: 0.3611, shift_factor: Some(0.1159) });
    let standardised = scaled_by(standardised());
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
    let shifted = scaled_by(Normalization::Factors { scaling_factor: 0.3611, shift_factor: Some(0.1159) });
    let standardised = scaled_by(standardised());
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

/// What FLUX.2's autoencoder says, with two channels.
fn of_flux2() -> Normalization {
    Normalization::BatchNorm {
        running_mean: (0..8).map(|i| i as f32 / 4.0 - 1.0).collect(),
        running_var: (1..9).map(|i| i as f32 / 2.0).collect(),
        eps: 1e-4,
        plain_is_normalized: false,
    }
}

/// PyTorch's kernels may round the last bit in another way.
#[track_caller]
fn assert_close(found: &HostTensor, shape: &[usize], data: &[f32]) {
    assert_eq!((found.shape.as_slice(), found.data.len()), (shape, data.len()));
    for (found, expected) in found.data.iter().zip(data) {
        assert!((found - expected).abs() < 1e-6, "{found} for {expected}");
    }
}

/// Two tokens beside each other, as diffusers' pipelines get them of a transformer.
fn two_tokens() -> HostTensor {
    HostTensor::new(vec![1, 2, 8], (0..16).map(|i| i as f32 / 8.0 - 1.0).collect())
}

/// What a decode makes of latents where `asked` is asked for, and what it says of the request.
fn decoded(
    latents: &HostTensor,
    info: &VaeInfo,
    asked: Scaling,
    size: Option<(usize, usize)>,
) -> (HostTensor, Option<String>) {
    let (height, width) = size.unzip();
    let (scaling, warning) = settle(asked, &latents.shape, info, height, width).unwrap();
    let mut arranged = arrange(latents.clone(), info, height, width).unwrap();
    scaling.apply(&mut arranged, info).unwrap();
    (arranged, warning)
}

/// `expected` is what `Flux2Pipeline` (diffusers 0.42.1) makes of [`two_tokens`] before it decodes, with `bn` of these statistics.
#[test]
fn patches_are_normalised_by_the_statistics_of_the_weights() {
    let expected = [
        -1.707_177_5,
        -1.625_043_6,
        -1.0,
        -0.624_993_74,
        -1.418_589_2,
        -1.133_905_6,
        -0.193_803_58,
        0.280_343_35,
        -0.790_585_2,
        -0.399_529_87,
        0.790_585_2,
        1.332_549_8,
        0.032_286_137,
        0.499_996_87,
        1.903_141_6,
        2.500_022,
    ];
    let flux2 = scaled_by(of_flux2());
    let tokens = two_tokens();
    let columns: Vec<_> = (0..16).map(|i| tokens.data[i % 2 * 8 + i / 2]).collect();
    let patches = HostTensor::new(vec![1, 8, 1, 2], columns.clone());
    let one_patch = HostTensor::new(vec![8, 1, 2], columns);
    let factors = Scaling::Factors { scaling_factor: 0.5, shift_factor: None };
    for asked in [Scaling::Unchanged, Scaling::Model, factors] {
        for (latents, size) in
            [(&tokens, Some((16, 32))), (&patches, None), (&patches, Some((1, 1))), (&one_patch, None)]
        {
            let (out, warning) = decoded(latents, &flux2, asked, size);
            assert_close(&out, &[1, 2, 2, 4], &expected);
            assert_eq!(warning.is_some(), asked == factors, "factors are left out of account, which is said");
        }
        // `Flux2KleinPipeline` hands over what the model takes.
        let plain = HostTensor::new(vec![1, 2, 2, 4], expected.to_vec());
        assert_eq!(decoded(&plain, &flux2, asked, None).0, plain);
    }
    // `BriaFibo2Pipeline` hands over the same without patches, and still normalised.
    let mut fibo = flux2.clone();
    fibo.latents.set_pipeline(Pipeline::BriaFibo2).unwrap();
    let plain = arrange(tokens.clone(), &flux2, Some(16), Some(32)).unwrap();
    assert_close(&decoded(&plain, &fibo, Scaling::Unchanged, None).0, &[1, 2, 2, 4], &expected);
    // And back.
    let mut encoded = HostTensor::new(vec![1, 2, 2, 4], expected.to_vec());
    Scaling::Model.undo(&mut encoded, &flux2).unwrap();
    assert_close(&encoded, &patches.shape, &patches.data);
}

/// `expected` is what `Ideogram4Pipeline` makes of [`two_tokens`].
#[test]
fn ideogram_orders_the_values_of_a_patch_in_another_way() {
    let mut info = scaled_by(of_flux2());
    info.latents.set_pipeline(Pipeline::Ideogram4).unwrap();
    let (out, _) = decoded(&two_tokens(), &info, Scaling::Model, Some((16, 32)));
    let expected = [
        -1.707_177_5,
        -1.418_589_2,
        -1.0,
        -0.193_803_58,
        -0.790_585_2,
        0.032_286_137,
        0.790_585_2,
        1.903_141_6,
        -1.625_043_6,
        -1.133_905_6,
        -0.624_993_74,
        0.280_343_35,
        -0.399_529_87,
        0.499_996_87,
        1.332_549_8,
        2.500_022,
    ];
    assert_close(&out, &[1, 2, 2, 4], &expected);
}

#[test]
fn ernie_adds_its_own_epsilon() {
    let mut info = scaled_by(of_flux2());
    info.latents.set_pipeline(Pipeline::ErnieImage).unwrap();
    let Normalization::BatchNorm { eps, .. } = info.latents.normalization else { panic!("{info:?}") };
    assert_eq!(eps, 1e-5);
    let error = info_of_factors().latents.set_pipeline(Pipeline::ErnieImage).unwrap_err();
    assert!(error.contains("FLUX.2"), "{error}");
}

fn info_of_factors() -> VaeInfo {
    info(4)
}

/// As `QwenImageLayeredPipeline._unpack_latents` and what follows it does with `arange(48)` and two layers.
#[test]
fn layers_are_pictures_and_the_first_is_left_out() {
    let mut layered = info(4);
    layered.latents.layers = true;
    let expected: Vec<f32> = (16..48).map(|i| i as f32).collect();
    let packed = counted(&[1, 3, 16]);
    let out = arrange(packed.clone(), &layered, Some(16), Some(16)).unwrap();
    assert_eq!((out.shape.as_slice(), out.data.as_slice()), (&[2, 4, 2, 2][..], &expected[..]));
    assert_eq!(arranged_shape(&packed.shape, &layered, Some(16), Some(16)).unwrap(), [2, 4, 2, 2]);
    // The same as frames: [layer, channel, row, column] of the packed order, brought to [channel, layer, row, column].
    let frames: Vec<f32> = (0..48).map(|i| (i / 4 % 3 * 16 + i / 12 * 4 + i % 4) as f32).collect();
    for shape in [&[1, 4, 3, 2, 2][..], &[4, 3, 2, 2]] {
        let out = arrange(HostTensor::new(shape.to_vec(), frames.clone()), &layered, None, None).unwrap();
        assert_eq!((out.shape.as_slice(), out.data.as_slice()), (&[2, 4, 2, 2][..], &expected[..]));
        assert_eq!(arranged_shape(shape, &layered, None, None).unwrap(), [2, 4, 2, 2]);
    }
    // One layer is a picture.
    assert_eq!(arranged_shape(&[1, 1, 16], &layered, Some(16), Some(16)).unwrap(), [1, 4, 2, 2]);
    assert_eq!(arranged_shape(&[1, 4, 1, 2, 2], &layered, None, None).unwrap(), [1, 4, 2, 2]);
    // Other models have none.
    assert!(arranged_shape(&[1, 3, 16], &info(4), Some(16), Some(16)).is_err());
    assert!(arranged_shape(&[1, 4, 3, 2, 2], &info(4), None, None).is_err());
}

/// As `QwenImage21Pipeline._unpack_latents(arange(32).reshape(1, 8, 4), 32, 64, 16)`.
#[test]
fn tokens_of_one_latent_each() {
    let mut single = VaeInfo { spatial_factor: 16, ..info(4) };
    single.latents.tokens = Tokens::Single;
    let out = arrange(counted(&[1, 8, 4]), &single, Some(32), Some(64)).unwrap();
    let expected: Vec<f32> = (0..32).map(|i| (i % 8 * 4 + i / 8) as f32).collect();
    assert_eq!((out.shape.as_slice(), out.data.as_slice()), (&[1, 4, 2, 4][..], &expected[..]));
    // Sides are rounded down to pairs.
    assert_eq!(arranged_shape(&[1, 8, 4], &single, Some(63), Some(95)).unwrap(), [1, 4, 2, 4]);
    assert!(arranged_shape(&[1, 15, 4], &single, Some(48), Some(80)).is_err());
}

#[test]
fn a_model_without_factors_takes_latents_as_they_are() {
    let tiny = scaled_by(Normalization::Identity);
    let latents = counted(&[1, 2, 2, 2]);
    let factors = Scaling::Factors { scaling_factor: 0.13025, shift_factor: None };
    for asked in [Scaling::Unchanged, Scaling::Model, factors] {
        let (out, warning) = decoded(&latents, &tiny, asked, None);
        assert_eq!((out, warning.is_some()), (latents.clone(), asked == factors));
    }
    // Factors are taken where there are means too, and that is said.
    let (out, warning) = decoded(&latents, &scaled_by(standardised()), factors, None);
    assert_eq!(out.data[1], 1.0 / 0.13025);
    assert!(warning.unwrap().contains("do_scaling=true"));
}

#[test]
fn other_models_get_latents_as_the_pipeline_has_them() {
    let shifted = scaled_by(Normalization::Factors { scaling_factor: 0.5, shift_factor: Some(0.25) });
    let of_pipeline = HostTensor::new(vec![1, 2, 1, 2], vec![0.5, -1.5, 2.0, 0.0]);
    let of_model = HostTensor::new(vec![1, 2, 1, 2], vec![1.25, -2.75, 4.25, 0.25]);
    let factors = Scaling::Factors { scaling_factor: 0.5, shift_factor: Some(0.25) };
    for (asked, sent) in
        [(Scaling::Model, &of_pipeline), (factors, &of_pipeline), (Scaling::Unchanged, &of_model)]
    {
        let found = super::of_pipeline(asked, sent.clone(), &shifted, None, None).unwrap();
        assert_eq!(found, of_pipeline, "{asked:?}");
    }
    // FLUX.2's stay normalised and lose their patches only; what its model takes is normalised again.
    let flux2 = scaled_by(of_flux2());
    let tokens = two_tokens();
    let plain = arrange(tokens.clone(), &flux2, Some(16), Some(32)).unwrap();
    let found = super::of_pipeline(Scaling::Model, tokens.clone(), &flux2, Some(16), Some(32)).unwrap();
    assert_eq!(found, plain);
    let (taken, _) = decoded(&tokens, &flux2, Scaling::Model, Some((16, 32)));
    let found = super::of_pipeline(Scaling::Model, taken, &flux2, None, None).unwrap();
    assert_close(&found, &plain.shape, &plain.data);
}
