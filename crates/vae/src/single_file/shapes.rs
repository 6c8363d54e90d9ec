//! The architecture of an autoencoder, as the shapes of its tensors tell it.

use serde_json::{Map, Value, json};

use super::factors::Known;
use super::layout::{FIRST_LAYER, FIRST_VIDEO_LAYER};
use crate::LoadError;
use crate::checkpoint::Checkpoint;
use crate::config::Config;

/// The statistics by which FLUX.2's autoencoder normalises patches.
const STATISTICS: &str = "bn.running_mean";

/// No configuration says more; it keeps products of sizes far from overflow.
const MAX_SIZE: usize = 1 << 20;

/// What can be told of an `AutoencoderKL`, `AutoencoderKLFlux2` or `AutoencoderKLHunyuanVideo`. What belongs to an encoder is `None` where there is
/// none.
#[derive(Debug)]
pub(super) struct Shapes {
    pub(super) is_video: bool,
    /// Whether it normalises patches by statistics of its own, as FLUX.2's.
    pub(super) has_statistics: bool,
    in_channels: Option<usize>,
    out_channels: usize,
    pub(super) latent_channels: usize,
    /// Of the decoder, from the picture's end to the latents' end.
    block_out_channels: Vec<usize>,
    /// The same of the encoder, where that is another.
    encoder_block_out_channels: Option<Vec<usize>>,
    layers_per_block: usize,
    mid_block_add_attention: bool,
    pub(super) use_quant_conv: Option<bool>,
    pub(super) use_post_quant_conv: bool,
}

impl Shapes {
    pub(super) fn of(checkpoint: &Checkpoint) -> Result<Self, LoadError> {
        let is_video = checkpoint.contains(FIRST_VIDEO_LAYER);
        // Convolutions over time have one axis more, and their parameters one level deeper.
        let (first_layer, conv, axes) =
            if is_video { (FIRST_VIDEO_LAYER, ".conv", 5) } else { (FIRST_LAYER, "", 4) };
        let axis = |name: &str, axis: usize| match checkpoint.shape(name) {
            Some(shape) if shape.len() == axes => Ok(shape[axis]),
            found => {
                let time = if is_video { "frames, " } else { "" };
                Err(checkpoint.wrong(format!(
                    "tensor `{name}` has shape {found:?}, expected that of a convolution, [out, in, {time}height, width]"
                )))
            }
        };
        let resnet = |block: usize, layer: usize| {
            format!("decoder.up_blocks.{block}.resnets.{layer}.conv1{conv}.weight")
        };
        let rows = |layer: &dyn Fn(usize) -> String| {
            let blocks = (0..).map(layer).take_while(|name| checkpoint.contains(name));
            blocks.map(|name| axis(&name, 0)).collect::<Result<Vec<_>, _>>()
        };
        let mut block_out_channels = rows(&|block| resnet(block, 0))?;
        block_out_channels.reverse();
        let of_encoder = rows(&|block| format!("encoder.down_blocks.{block}.resnets.0.conv1{conv}.weight"))?;
        let layers = (0..).take_while(|&layer| checkpoint.contains(&resnet(0, layer))).count();
        if layers < 2 {
            return Err(checkpoint.wrong(format!(
                "no decoder that can be served: {layers} layers in its first up block, expected 2 or more"
            )));
        }
        let first = format!("encoder.conv_in{conv}.weight");
        let encodes = checkpoint.contains(&first);
        Ok(Self {
            is_video,
            has_statistics: checkpoint.contains(STATISTICS),
            in_channels: encodes.then(|| axis(&first, 1)).transpose()?,
            out_channels: axis(&format!("decoder.conv_out{conv}.weight"), 0)?,
            latent_channels: axis(first_layer, 1)?,
            encoder_block_out_channels: (encodes && of_encoder != block_out_channels).then_some(of_encoder),
            block_out_channels,
            // A decoder's blocks have one layer more than the configuration says.
            layers_per_block: layers - 1,
            mid_block_add_attention: checkpoint
                .names()
                .any(|name| name.starts_with("decoder.mid_block.attentions.")),
            use_quant_conv: encodes.then(|| checkpoint.contains("quant_conv.weight")),
            use_post_quant_conv: checkpoint.contains("post_quant_conv.weight"),
        })
    }

    /// The class that has these tensors.
    pub(super) fn class_name(&self) -> &'static str {
        match (self.is_video, self.has_statistics) {
            (true, _) => "AutoencoderKLHunyuanVideo",
            (false, true) => "AutoencoderKLFlux2",
            (false, false) => "AutoencoderKL",
        }
    }

    /// In what `config` is of another model, if it is: what it says, and what the tensors are.
    pub(super) fn difference(&self, config: &Config) -> Option<String> {
        let class = config.class_name().unwrap_or_default();
        if class != self.class_name() {
            return Some(format!(
                "it is of {}, and the tensors of {}",
                class.escape_debug(),
                self.class_name()
            ));
        }
        let size = |key: &str, default: usize| config.size(key, default, MAX_SIZE).ok();
        // diffusers' defaults, which differ from class to class.
        let (latents, blocks, layers): (usize, &[usize], usize) = match (self.is_video, self.has_statistics) {
            (true, _) => (16, &[128, 256, 512, 512], 2),
            (false, true) => (32, &[128, 256, 512, 512], 2),
            (false, false) => (4, &[64], 1),
        };
        let sizes = [
            ("in_channels", size("in_channels", 3), self.in_channels),
            ("out_channels", size("out_channels", 3), Some(self.out_channels)),
            ("latent_channels", size("latent_channels", latents), Some(self.latent_channels)),
            ("layers_per_block", size("layers_per_block", layers), Some(self.layers_per_block)),
        ];
        for (key, said, found) in sizes {
            if let Some(found) = found
                && said != Some(found)
            {
                return Some(said_and_found(key, said, found));
            }
        }
        let of_encoder = self.encoder_block_out_channels.as_ref().unwrap_or(&self.block_out_channels);
        let said = config.sizes("block_out_channels", blocks, MAX_SIZE).ok();
        // Of a decoder alone nothing tells how wide its encoder is.
        let has_encoder = self.in_channels.is_some() || !self.has_statistics;
        if has_encoder && said.as_ref() != Some(of_encoder) {
            return Some(said_and_found("block_out_channels", said, of_encoder));
        }
        if self.has_statistics {
            let key = "decoder_block_out_channels";
            let said = config.sizes(key, said.as_deref().unwrap_or(blocks), MAX_SIZE).ok();
            if said.as_ref() != Some(&self.block_out_channels) {
                return Some(said_and_found(key, said, &self.block_out_channels));
            }
        }
        let mut flags = vec![("mid_block_add_attention", self.mid_block_add_attention)];
        if !self.is_video {
            flags.push(("use_post_quant_conv", self.use_post_quant_conv));
            flags.extend(self.use_quant_conv.map(|found| ("use_quant_conv", found)));
        }
        flags.into_iter().find_map(|(key, found)| {
            let said = config.boolean(key, true).ok();
            (said != Some(found)).then(|| said_and_found(key, said, found))
        })
    }

    /// The configuration as diffusers would write it.
    pub(super) fn config(&self, known: &Known) -> Map<String, Value> {
        let blocks = self.block_out_channels.len();
        let of_encoder = self.encoder_block_out_channels.as_ref().unwrap_or(&self.block_out_channels);
        let mut values = json!({
            "_class_name": self.class_name(),
            "in_channels": self.in_channels.unwrap_or(self.out_channels),
            "out_channels": self.out_channels,
            "latent_channels": self.latent_channels,
            "block_out_channels": of_encoder,
            "down_block_types": vec!["DownEncoderBlock2D"; blocks],
            "up_block_types": vec!["UpDecoderBlock2D"; blocks],
            "layers_per_block": self.layers_per_block,
            "mid_block_add_attention": self.mid_block_add_attention,
            "use_quant_conv": self.use_quant_conv.unwrap_or(true),
            "use_post_quant_conv": self.use_post_quant_conv,
            "sample_size": known.sample_size,
        });
        if self.has_statistics {
            values["decoder_block_out_channels"] = json!(self.block_out_channels);
        }
        match values {
            Value::Object(values) => values,
            _ => Map::new(),
        }
    }
}

fn said_and_found(key: &str, said: Option<impl std::fmt::Debug>, found: impl std::fmt::Debug) -> String {
    match said {
        Some(said) => format!("its `{key}` is {said:?}, and that of the tensors {found:?}"),
        None => format!("its `{key}` cannot be read"),
    }
}
