//! The settings, and what they describe.

use super::*;
use crate::config::Config;
use crate::graph::Shape;

#[test]
fn an_empty_configuration_is_the_real_one() {
    let Description { info, decoder, encoder } =
        (FAMILY.describe)(&Config::parse("config.json", "{}").unwrap()).unwrap();
    assert_eq!((info.latent_channels, info.out_channels), (64, 4));
    assert_eq!((info.spatial_factor, info.temporal_factor, info.latents.tokens), (16, None, Tokens::Single));
    assert_eq!(decoder.graph.output_shape(Shape([1, 64, 1, 64, 48])).unwrap(), Shape([1, 4, 1, 1024, 768]));
    assert_eq!(encoder.graph.output_shape(Shape([1, 4, 1, 1024, 768])).unwrap(), Shape([1, 128, 1, 64, 48]));
    assert_eq!(encoder.units, Units { frames: 1, sides: 16 });
    let tensors: Vec<_> = (0..decoder.graph.nodes().len()).flat_map(|id| decoder.graph.tensors(id)).collect();
    for (name, shape) in [
        ("decoder.conv_in.weight", vec![1152, 64, 3, 3]),
        ("decoder.up_blocks.2.resnets.0.conv_shortcut.weight", vec![576, 1152, 1, 1]),
        ("decoder.up_blocks.3.upsampler.resample.1.weight", vec![288, 288, 3, 3]),
        ("decoder.mid_block.attentions.0.norm.gamma", vec![1152]),
        ("decoder.conv_out.weight", vec![4, 144, 3, 3]),
    ] {
        assert!(tensors.iter().any(|tensor| tensor.name == name && tensor.shape == shape), "{name}");
    }
    // 17 TFLOP for 1024 by 1024 pixels.
    let work = 2e-12 * decoder.graph.work(Shape([1, 64, 1, 64, 64])) as f64;
    assert!((16.5..17.5).contains(&work), "{work}");
}
