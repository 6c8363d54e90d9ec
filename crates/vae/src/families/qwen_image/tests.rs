//! The settings, and what they describe.

use super::*;
use crate::LoadError;
use crate::config::Config;
use crate::graph::{ConvWeight, Op, Shape};
use crate::latents::Normalization;

fn read(text: &str) -> Result<Description, LoadError> {
    (FAMILY.describe)(&Config::parse("config.json", text).unwrap())
}

#[test]
fn an_empty_configuration_is_the_real_one() {
    let Description { info, decoder, encoder } = read("{}").unwrap();
    assert_eq!((info.latent_channels, info.out_channels), (16, 3));
    assert_eq!((info.spatial_factor, info.temporal_factor, info.latents.layers), (8, None, false));
    assert_eq!(decoder.graph.output_shape(Shape([1, 16, 1, 128, 96])).unwrap(), Shape([1, 3, 1, 1024, 768]));
    assert_eq!(encoder.graph.output_shape(Shape([1, 3, 1, 1025, 775])).unwrap(), Shape([1, 32, 1, 128, 96]));
    assert!(!decoder.graph.is_video() && decoder.still.is_none());
}

#[test]
fn a_picture_sees_the_last_tap_of_each_weight_and_no_convolution_in_time() {
    let Description { decoder, .. } = read("{}").unwrap();
    let mut taps = 0;
    for node in decoder.graph.nodes() {
        let Op::Conv(conv) = node.op else { continue };
        assert!(!node.name.ends_with("time_conv"));
        taps += usize::from(conv.weight == ConvWeight::LastTap(3));
    }
    // conv_in, two of each of 14 residual blocks, conv_out.
    assert_eq!(taps, 30);
    // 4.7 TFLOP for 1024 by 1024 pixels, against 10.5 of AutoencoderKL.
    let work = 2e-12 * decoder.graph.work(Shape([1, 16, 1, 128, 128])) as f64;
    assert!((4.6..4.8).contains(&work), "{work}");
}

#[test]
fn layers_have_alpha() {
    let Description { info, encoder, .. } = read(r#"{"input_channels": 4}"#).unwrap();
    assert_eq!((info.out_channels, encoder.graph.in_channels(), info.latents.layers), (4, 4, true));
}

#[test]
fn a_scaling_factor_alone_takes_the_place_of_mean_and_deviation() {
    let normalization = |text: &str| read(text).unwrap().info.latents.normalization;
    assert_eq!(
        normalization(r#"{"scaling_factor": 8.0064}"#),
        Normalization::Factors { scaling_factor: 8.0064, shift_factor: None }
    );
    let zeros = ["0"; 16].join(", ");
    let both = format!(r#"{{"latents_mean": [{zeros}], "scaling_factor": 2}}"#);
    let Normalization::MeanStd { mean, std, scaling_factor } = normalization(&both) else { panic!() };
    assert_eq!((mean[0], std[0], scaling_factor), (0.0, 2.8184, 2.0));
}

#[test]
fn what_cannot_be_built_is_refused_by_key() {
    for (text, parts) in [
        (r#"{"is_residual": true}"#, ["`is_residual` is true", "no setting of an AutoencoderKLQwenImage"]),
        (r#"{"patch_size": 2}"#, ["`patch_size` is 2", "no setting"]),
        (r#"{"decoder_base_dim": 144}"#, ["`decoder_base_dim` is 144", "no setting"]),
        (r#"{"input_channels": 12}"#, ["`input_channels` is 12", "3 or 4"]),
        (r#"{"attn_scales": [1.0]}"#, ["`attn_scales` is [1.0]", "empty list"]),
        (r#"{"z_dim": 4}"#, ["`latents_mean` is missing", "4 numbers"]),
    ] {
        let message = read(text).err().unwrap().to_string();
        for part in parts {
            assert!(message.contains(part), "{message:?} does not say {part:?}");
        }
    }
}
