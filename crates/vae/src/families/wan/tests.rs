//! The settings, and what they describe.

use super::*;
use crate::graph::Shape;
use crate::latents::Normalization;

fn config(text: &str) -> Config {
    Config::parse("config.json", text).unwrap()
}

fn describe(text: &str) -> Description {
    description(read(&config(text)).unwrap()).unwrap()
}

/// Wan 2.2's 5B model, as diffusers' `convert_wan_to_diffusers.py` has it, but for its means and deviations.
fn wan22() -> String {
    let zeros = ["0"; 48].join(", ");
    let ones = ["1"; 48].join(", ");
    format!(
        r#"{{"base_dim": 160, "decoder_base_dim": 256, "z_dim": 48, "is_residual": true, "patch_size": 2,
        "in_channels": 12, "out_channels": 12, "scale_factor_spatial": 16, "scale_factor_temporal": 4,
        "dim_mult": [1, 2, 4, 4], "temperal_downsample": [false, true, true], "clip_output": false,
        "latents_mean": [{zeros}], "latents_std": [{ones}]}}"#
    )
}

#[test]
fn an_empty_configuration_is_wan_2_1() {
    let Description { info, decoder, encoder } = describe("{}");
    assert_eq!((info.latent_channels, info.out_channels), (16, 3));
    assert_eq!((info.spatial_factor, info.temporal_factor), (8, Some(4)));
    let Normalization::MeanStd { mean, std, scaling_factor } = info.latents.normalization else { panic!() };
    assert_eq!((mean[0], std[15], scaling_factor), (-0.7571, 1.916, 1.0));
    // A picture goes through a graph of its own, and videos of two latent frames or more.
    let still = decoder.still.unwrap();
    assert_eq!(still.output_shape(Shape([2, 16, 1, 60, 104])).unwrap(), Shape([2, 3, 1, 480, 832]));
    assert!(decoder.graph.output_shape(Shape([1, 16, 1, 60, 104])).is_err());
    for frames in 2..8 {
        let decoded = decoder.graph.output_shape(Shape([1, 16, frames, 60, 104])).unwrap();
        assert_eq!(decoded, Shape([1, 3, 4 * (frames - 1) + 1, 480, 832]));
        let encoded = encoder.graph.output_shape(Shape([1, 3, 4 * (frames - 1) + 1, 485, 839])).unwrap();
        assert_eq!(encoded, Shape([1, 32, frames, 60, 104]));
    }
    assert_eq!(encoder.units, Units { frames: 4, sides: 1 });
    assert_eq!(
        encoder.still.unwrap().output_shape(Shape([1, 3, 1, 17, 8])).unwrap(),
        Shape([1, 32, 1, 2, 1])
    );
}

#[test]
fn wan_2_2_makes_channels_of_patches() {
    let Description { info, decoder, encoder } = describe(&wan22());
    assert_eq!((info.latent_channels, info.out_channels, info.spatial_factor), (48, 3, 16));
    let decoded = decoder.graph.output_shape(Shape([1, 48, 31, 44, 80])).unwrap();
    assert_eq!(decoded, Shape([1, 3, 121, 704, 1280]));
    let encoded = encoder.graph.output_shape(Shape([1, 3, 121, 704, 1280])).unwrap();
    assert_eq!(encoded, Shape([1, 96, 31, 44, 80]));
    assert_eq!(
        decoder.still.unwrap().output_shape(Shape([1, 48, 1, 2, 3])).unwrap(),
        Shape([1, 3, 1, 32, 48])
    );
    assert_eq!(
        encoder.still.unwrap().output_shape(Shape([1, 3, 1, 32, 48])).unwrap(),
        Shape([1, 96, 1, 2, 3])
    );
    assert_eq!(encoder.units, Units { frames: 4, sides: 16 });
}

#[test]
fn every_tensor_of_the_real_models_has_the_shape_that_diffusers_gives_it() {
    let names = |graph: &Graph| -> Vec<_> {
        (0..graph.nodes().len())
            .flat_map(|id| graph.tensors(id))
            .map(|tensor| (tensor.name, tensor.shape))
            .collect()
    };
    let Description { decoder, encoder, .. } = describe(&wan22());
    let [decoder, encoder] = [names(&decoder.graph), names(&encoder.graph)];
    for (tensors, name, shape) in [
        (&decoder, "decoder.up_blocks.0.upsampler.time_conv.weight", vec![2048, 1024, 3, 1, 1]),
        (&decoder, "decoder.up_blocks.2.upsampler.resample.1.weight", vec![512, 512, 3, 3]),
        (&decoder, "decoder.up_blocks.3.resnets.0.conv_shortcut.weight", vec![256, 512, 1, 1, 1]),
        (&decoder, "decoder.conv_out.weight", vec![12, 256, 3, 3, 3]),
        (&encoder, "encoder.conv_in.weight", vec![160, 12, 3, 3, 3]),
        (&encoder, "encoder.down_blocks.1.downsampler.time_conv.weight", vec![320, 320, 3, 1, 1]),
        (&encoder, "quant_conv.weight", vec![96, 96, 1, 1, 1]),
    ] {
        assert!(tensors.contains(&(name.to_owned(), shape)), "{name}");
    }
}

#[test]
fn what_cannot_be_built_is_refused_by_key() {
    for (text, parts) in [
        (r#"{"out_channels": 12}"#, ["`out_channels` is 12", "enlarge pictures"]),
        (r#"{"in_channels": 1}"#, ["`in_channels` is 1", "3 or 4"]),
        (r#"{"patch_size": 2, "in_channels": 3}"#, ["`in_channels` is 3", "12 or 16"]),
        (r#"{"patch_size": 0}"#, ["`patch_size` is 0", "from 1"]),
        (
            r#"{"patch_size": 2, "in_channels": 12, "out_channels": 12, "scale_factor_spatial": 8}"#,
            ["`scale_factor_spatial` is 8", "16"],
        ),
        (r#"{"attn_scales": [0.5]}"#, ["`attn_scales` is [0.5]", "empty list"]),
        (r#"{"dim_mult": [4]}"#, ["`dim_mult` is [4]", "2 to 8"]),
        (r#"{"dim_mult": [1, 1, 1, 1, 1, 1, 1, 1, 1]}"#, ["`dim_mult`", "2 to 8"]),
        (r#"{"dim_mult": [1, 2, 4]}"#, ["`temperal_downsample` is missing", "2 times"]),
        (r#"{"dim_mult": [1, 2, 4, 4000]}"#, ["`dim_mult`", "16384"]),
        (r#"{"base_dim": 9, "dim_mult": [1, 1, 1, 1]}"#, ["`dim_mult`", "even"]),
        (r#"{"is_residual": true, "dim_mult": [3, 2, 4, 4]}"#, ["`dim_mult`", "evenly"]),
        (r#"{"temperal_downsample": [true, true, true]}"#, ["`temperal_downsample` is", "true twice"]),
        (r#"{"temperal_downsample": [1, 1, 1]}"#, ["`temperal_downsample` is", "3 times true or false"]),
        (r#"{"scale_factor_temporal": 8}"#, ["`scale_factor_temporal` is 8", "4"]),
        (r#"{"z_dim": 48}"#, ["`latents_mean` is missing", "48 numbers"]),
        (r#"{"latents_mean": [1, 2, 3]}"#, ["`latents_mean` is [1,2,3]", "16 numbers"]),
        (r#"{"scaling_factor": 0}"#, ["`scaling_factor` is 0", "other than zero"]),
    ] {
        let message = read(&config(text)).unwrap_err().to_string();
        for part in parts {
            assert!(message.contains(part), "{message:?} does not say {part:?}");
        }
    }
}
