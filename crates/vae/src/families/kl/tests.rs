//! The settings, and what they describe.

use super::*;

fn read(text: &str) -> Result<AutoencoderKLConfig, LoadError> {
    AutoencoderKLConfig::read(&Config::parse("config.json", text).unwrap(), &DEFAULTS)
}

#[test]
fn an_empty_configuration_is_diffusers_constructor_without_arguments() {
    let expected = AutoencoderKLConfig {
        in_channels: 3,
        out_channels: 3,
        latent_channels: 4,
        block_out_channels: vec![64],
        decoder_block_out_channels: vec![64],
        layers_per_block: 1,
        norm_num_groups: 32,
        mid_block_add_attention: true,
        use_quant_conv: true,
        use_post_quant_conv: true,
        scaling_factor: 0.18215,
        shift_factor: None,
        latents_mean: None,
        latents_std: None,
        sample_size: 32,
    };
    assert_eq!(expected.spatial_factor(), 1);
    assert_eq!(read("{}").unwrap(), expected);
}

#[test]
fn the_real_configurations_are_read() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tools/configs/");
    let read = |name: &str| read(&std::fs::read_to_string(format!("{folder}{name}.json")).unwrap()).unwrap();
    let sd = read("sd-v1");
    assert_eq!((sd.latent_channels, sd.scaling_factor, sd.shift_factor), (4, 0.18215, None));
    assert!(sd.use_post_quant_conv && sd.spatial_factor() == 8);
    assert_eq!(sd.sample_size, 256);
    let sdxl = AutoencoderKLConfig { scaling_factor: 0.13025, sample_size: 512, ..sd.clone() };
    assert_eq!(sdxl, read("sdxl"));
    let flux = AutoencoderKLConfig {
        latent_channels: 16,
        scaling_factor: 0.3611,
        shift_factor: Some(0.1159),
        use_quant_conv: false,
        use_post_quant_conv: false,
        sample_size: 1024,
        ..sd
    };
    assert_eq!(flux, read("flux"));
}

#[test]
fn what_cannot_be_built_is_refused_by_key() {
    for (text, parts) in [
        (r#"{"latent_channels": 0}"#, ["`latent_channels` is 0", "from 1"]),
        (r#"{"norm_num_groups": 48}"#, ["`block_out_channels` is missing", "which is 48"]),
        (r#"{"block_out_channels": [32, 48]}"#, ["`block_out_channels` is [32,48]", "which is 32"]),
        (r#"{"block_out_channels": [32,32,32,32,32,32,32,32,32]}"#, ["`block_out_channels`", "at most 8"]),
        (r#"{"block_out_channels": [32, 64]}"#, ["`up_block_types` is missing", "2 times"]),
        (r#"{"up_block_types": ["AttnUpDecoderBlock2D"]}"#, ["AttnUp", "\"UpDecoderBlock2D\""]),
        (r#"{"down_block_types": ["DownBlock2D"]}"#, ["`down_block_types`", "\"DownEncoderBlock2D\""]),
        (r#"{"act_fn": "gelu"}"#, ["`act_fn` is \"gelu\"", "\"silu\""]),
        (r#"{"scaling_factor": 0}"#, ["`scaling_factor` is 0", "other than zero"]),
        (r#"{"latents_mean": [1, 2, 3]}"#, ["`latents_mean` is [1,2,3]", "4 numbers"]),
    ] {
        let message = read(text).unwrap_err().to_string();
        for part in parts {
            assert!(message.contains(part), "{message:?} does not say {part:?}");
        }
    }
}
