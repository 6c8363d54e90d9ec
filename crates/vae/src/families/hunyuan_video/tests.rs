//! The settings, and what they describe.

use super::*;
use crate::graph::Shape;

fn read(text: &str) -> Result<HunyuanVideoConfig, LoadError> {
    HunyuanVideoConfig::read(&Config::parse("config.json", text).unwrap())
}

#[test]
fn an_empty_configuration_is_the_real_one() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tools/configs/");
    let real = read(&std::fs::read_to_string(format!("{folder}hunyuan-video.json")).unwrap()).unwrap();
    assert_eq!(read("{}").unwrap(), real);
    let steps: Vec<_> = (0..4).map(|block| real.upsampling(block)).collect();
    let step = |frames, sides| Upsample { frames, sides };
    assert_eq!(steps, [step(false, true), step(true, true), step(true, true), step(false, false)]);
}

#[test]
fn clips_grow_and_shrink_by_the_factors() {
    let Description { decoder, encoder, .. } = read("{}").unwrap().description().unwrap();
    let decoded = decoder.graph.output_shape(Shape([1, 16, 3, 40, 64])).unwrap();
    assert_eq!(decoded, Shape([1, 3, 9, 320, 512]));
    // What is left over at the end becomes one more.
    let encoded = encoder.graph.output_shape(Shape([1, 3, 7, 17, 8])).unwrap();
    assert_eq!(encoded, Shape([1, 32, 2, 3, 1]));
}

#[test]
fn what_cannot_be_built_is_refused_by_key() {
    for (text, parts) in [
        (r#"{"norm_num_groups": 48}"#, ["`block_out_channels` is missing", "which is 48"]),
        (r#"{"block_out_channels": [32, 48, 64, 64]}"#, ["`block_out_channels`", "which is 32"]),
        (r#"{"block_out_channels": [32, 32, 64]}"#, ["`up_block_types` is missing", "3 times"]),
        (r#"{"up_block_types": ["UpDecoderBlock2D"]}"#, ["UpDecoderBlock2D", "4 times"]),
        (r#"{"act_fn": "gelu"}"#, ["`act_fn` is \"gelu\"", "\"silu\""]),
        (r#"{"scaling_factor": 0}"#, ["`scaling_factor` is 0", "other than zero"]),
        (r#"{"temporal_compression_ratio": 8}"#, ["`temporal_compression_ratio` is 8", "4"]),
        (r#"{"spatial_compression_ratio": 12}"#, ["`spatial_compression_ratio` is 12", "such as 8"]),
        (r#"{"spatial_compression_ratio": 64}"#, ["`spatial_compression_ratio` is 64", "such as 16"]),
    ] {
        let message = read(text).unwrap_err().to_string();
        for part in parts {
            assert!(message.contains(part), "{message:?} does not say {part:?}");
        }
    }
}
