//! The names of layers in the latent diffusion code base, whose files Stable Diffusion, SDXL and Flux were released as.
//!
//! The mapping is that of diffusers' `convert_ldm_vae_checkpoint` (`loaders/single_file_utils.py`). Attention weights have
//! the shape of 1x1 convolutions there, which [`Checkpoint::linear`] takes as it is.

use crate::LoadError;
use crate::checkpoint::Checkpoint;

/// Gives the tensors diffusers' names, if they have the original ones.
pub(super) fn rename(checkpoint: &mut Checkpoint) -> Result<(), LoadError> {
    // FLUX.2's are parts of the halves.
    checkpoint.rename(|name| {
        let name = match name.split_once('.') {
            Some(("encoder", rest)) if rest.starts_with("quant_conv.") => rest,
            Some(("decoder", rest)) if rest.starts_with("post_quant_conv.") => rest,
            _ => name,
        };
        Some(name.to_owned())
    })?;
    if !checkpoint.names().any(|name| name.starts_with("decoder.mid.")) {
        return Ok(());
    }
    // Models that take attention outside of the middle too were never served by diffusers, and would decode to noise.
    if let Some(name) = checkpoint.names().find(|name| is_attention_of_a_block(name)) {
        return Err(checkpoint.wrong(format!(
            "`{name}` is attention outside of the middle of the autoencoder, which diffusers' AutoencoderKL does not \
             have"
        )));
    }
    let up_blocks = checkpoint.names().filter_map(up_block).map(|index| index + 1).max().unwrap_or(0);
    checkpoint.rename(|name| Some(diffusers_name(name, up_blocks)))
}

/// What diffusers calls a layer of attention today, which had other names before version 0.13; any other name stays.
pub(super) fn todays_name(name: &str) -> String {
    let todays = |layer: &str| match layer {
        "query" => Some("to_q"),
        "key" => Some("to_k"),
        "value" => Some("to_v"),
        "proj_attn" => Some("to_out.0"),
        _ => None,
    };
    let new = name.contains(".attentions.").then(|| {
        let (rest, parameter) = name.rsplit_once('.')?;
        let (block, layer) = rest.rsplit_once('.')?;
        Some(format!("{block}.{}.{parameter}", todays(layer)?))
    });
    new.flatten().unwrap_or_else(|| name.to_owned())
}

fn is_attention_of_a_block(name: &str) -> bool {
    matches!(name.split('.').collect::<Vec<_>>()[..], ["decoder", "up", _, "attn", ..])
}

/// The index of the up block that a tensor belongs to.
fn up_block(name: &str) -> Option<usize> {
    // No model has more, and a sum of what a file says may not overflow.
    name.strip_prefix("decoder.up.")?.split_once('.')?.0.parse().ok().filter(|&index| index < 64)
}

/// What diffusers calls the tensor `name` of a decoder with so many `up_blocks`; a name that is no original one stays.
fn diffusers_name(name: &str, up_blocks: usize) -> String {
    let parts: Vec<&str> = name.split('.').collect();
    // diffusers counts up blocks from the latents on, the original from the picture on.
    let up =
        |index: &str| index.parse().ok().and_then(|index| up_blocks.checked_sub(1usize.checked_add(index)?));
    // Convolutions over time have their parameters one level deeper, in `conv`.
    let new = match parts[..] {
        [half, "norm_out", parameter] => Some(format!("{half}.conv_norm_out.{parameter}")),
        [half, "mid", "attn_1", layer, ref rest @ ..] => {
            attention_layer(layer).map(|layer| format!("{half}.mid_block.attentions.0.{layer}{}", tail(rest)))
        }
        [half, "mid", block @ ("block_1" | "block_2"), layer, ref rest @ ..] => {
            let index = usize::from(block == "block_2");
            Some(format!("{half}.mid_block.resnets.{index}.{}{}", resnet_layer(layer), tail(rest)))
        }
        [half, "down", block, "block", index, layer, ref rest @ ..] => {
            let layer = resnet_layer(layer);
            Some(format!("{half}.down_blocks.{block}.resnets.{index}.{layer}{}", tail(rest)))
        }
        [half, "down", block, "downsample", ref rest @ ..] => {
            Some(format!("{half}.down_blocks.{block}.downsamplers.0{}", tail(rest)))
        }
        [half, "up", block, "block", index, layer, ref rest @ ..] => {
            let layer = resnet_layer(layer);
            up(block).map(|block| format!("{half}.up_blocks.{block}.resnets.{index}.{layer}{}", tail(rest)))
        }
        [half, "up", block, "upsample", ref rest @ ..] => {
            up(block).map(|block| format!("{half}.up_blocks.{block}.upsamplers.0{}", tail(rest)))
        }
        _ => None,
    };
    new.unwrap_or_else(|| name.to_owned())
}

/// The rest of a name, each part with the dot before it.
fn tail(parts: &[&str]) -> String {
    parts.iter().map(|part| format!(".{part}")).collect()
}

fn attention_layer(layer: &str) -> Option<&'static str> {
    Some(match layer {
        "norm" => "group_norm",
        "q" => "to_q",
        "k" => "to_k",
        "v" => "to_v",
        "proj_out" => "to_out.0",
        _ => return None,
    })
}

fn resnet_layer(layer: &str) -> &str {
    if layer == "nin_shortcut" { "conv_shortcut" } else { layer }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[test]
    fn names_become_what_diffusers_makes_of_them() {
        let file = concat!(env!("CARGO_MANIFEST_DIR"), "/../../fixtures/original-names.json");
        let models: BTreeMap<String, BTreeMap<String, String>> =
            serde_json::from_slice(&std::fs::read(file).unwrap()).unwrap();
        for (model, up_blocks, tensors) in [("sd-v1", 4, 248), ("wide", 2, 124)] {
            let names = &models[model];
            assert_eq!(names.len(), tensors, "{model}");
            for (original, expected) in names {
                assert_eq!(&diffusers_name(original, up_blocks), expected);
                // What is diffusers' already stays.
                assert_eq!(&diffusers_name(expected, up_blocks), expected);
            }
        }
    }

    /// As ComfyUI's repackaged file of HunyuanVideo's autoencoder has them, and what its loader expects there.
    #[test]
    fn convolutions_over_time_are_one_level_deeper() {
        for (original, expected) in [
            ("decoder.mid.block_2.conv1.conv.weight", "decoder.mid_block.resnets.1.conv1.conv.weight"),
            ("decoder.mid.attn_1.proj_out.bias", "decoder.mid_block.attentions.0.to_out.0.bias"),
            (
                "decoder.up.3.block.0.nin_shortcut.conv.bias",
                "decoder.up_blocks.0.resnets.0.conv_shortcut.conv.bias",
            ),
            ("decoder.up.1.upsample.conv.conv.weight", "decoder.up_blocks.2.upsamplers.0.conv.conv.weight"),
            (
                "encoder.down.0.downsample.conv.conv.bias",
                "encoder.down_blocks.0.downsamplers.0.conv.conv.bias",
            ),
            ("encoder.down.2.block.1.norm2.weight", "encoder.down_blocks.2.resnets.1.norm2.weight"),
            ("decoder.conv_in.conv.weight", "decoder.conv_in.conv.weight"),
        ] {
            assert_eq!(diffusers_name(original, 4), expected);
            assert_eq!(diffusers_name(expected, 4), expected);
        }
    }

    #[test]
    fn odd_names_stay_as_they_are() {
        for name in [
            "",
            ".",
            "decoder",
            "decoder.up.x.block.0.conv1.weight",
            "decoder.up.4.block.0.conv1.weight",
            "decoder.up.18446744073709551615.upsample.conv.bias",
            "decoder.mid.attn_1.rope.weight",
            "decoder.mid.block_3.conv1.weight",
            "loss.logvar",
        ] {
            assert_eq!(diffusers_name(name, 4), name);
        }
        assert_eq!(up_block("decoder.up.18446744073709551615.upsample.conv.bias"), None);
        assert_eq!(up_block("decoder.up.3.block.0.conv1.weight"), Some(3));
    }
}
