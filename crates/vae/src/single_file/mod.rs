//! Autoencoders that come as one `.safetensors` file, without a configuration.
//!
//! Three things are found out from names and shapes, before any tensor is read: where in the file the autoencoder is
//! (`first_stage_model.` or `vae.` in a full checkpoint), whether its layers have diffusers' names or the original ones,
//! and its configuration. The shapes tell all of the architecture. They do not tell the factors by which latents are
//! scaled: those are known for the model that the rest of a full checkpoint belongs to, and otherwise assumed, which is
//! said in the log.

mod factors;
mod original;

use std::path::Path;

use serde_json::{Map, Value, json};
use tracing::info;

use crate::checkpoint::Checkpoint;
use crate::config::Config;
use crate::{Factors, LoadError, families};

/// Where autoencoders are in full checkpoints: those of the original code bases, and those of newer models.
const PREFIXES: [&str; 3] = ["", "first_stage_model.", "vae."];

/// The first layer of every decoder of pictures that we know.
const FIRST_LAYER: &str = "decoder.conv_in.weight";

/// The same of HunyuanVideo's, whose own files have diffusers' names too.
const FIRST_VIDEO_LAYER: &str = "decoder.conv_in.conv.weight";

/// Opens the file at `path`. `factors` are those that the user gives; what they say need not be assumed.
pub(crate) fn open(path: &Path, factors: Factors) -> Result<(Config, Checkpoint), LoadError> {
    let mut checkpoint = Checkpoint::open_file(path)?;
    let model = factors::Model::of(&checkpoint);
    let first = |prefix: &&str| {
        [FIRST_LAYER, FIRST_VIDEO_LAYER].iter().any(|layer| checkpoint.contains(&format!("{prefix}{layer}")))
    };
    let Some(prefix) = PREFIXES.into_iter().find(first) else {
        return Err(checkpoint.wrong(format!(
            "no autoencoder that we know: there is no tensor `{FIRST_LAYER}`, neither as it is nor after \
             `first_stage_model.` or `vae.`"
        )));
    };
    checkpoint.rename(|name| name.strip_prefix(prefix).map(str::to_owned));
    original::rename(&mut checkpoint)?;

    if let Some(config) = beside(path) {
        return Ok((config, checkpoint));
    }
    if checkpoint.contains(FIRST_VIDEO_LAYER) {
        // There is one model of this family, and its configuration is what diffusers takes where nothing is said.
        info!("{}: an autoencoder of HunyuanVideo", path.display());
        let class_name = Value::from("AutoencoderKLHunyuanVideo");
        return Ok((Config::of(path, Map::from_iter([("_class_name".to_owned(), class_name)])), checkpoint));
    }
    let shapes = Shapes::of(&checkpoint)?;
    let known = factors::find(path, model, &shapes, factors, &checkpoint)?;
    let config = Config::of(path, shapes.config(&known));
    Ok((config, checkpoint))
}

/// The `config.json` in the folder of the file, if it is that of an autoencoder: in the folder of a pipeline or of
/// another model there may be one that means something else.
fn beside(path: &Path) -> Option<Config> {
    let path = path.with_file_name("config.json");
    let config = Config::read(&path).ok()?;
    let ours = config.class_name().is_ok_and(|class| families::CLASS_NAMES.contains(&class));
    ours.then(|| {
        info!("{}: this is the configuration", path.display());
        config
    })
}

/// The architecture of an `AutoencoderKL`, as the shapes of its tensors tell it.
struct Shapes {
    in_channels: usize,
    out_channels: usize,
    latent_channels: usize,
    /// From the picture's end to the latents' end.
    block_out_channels: Vec<usize>,
    layers_per_block: usize,
    mid_block_add_attention: bool,
    use_quant_conv: bool,
    use_post_quant_conv: bool,
}

impl Shapes {
    fn of(checkpoint: &Checkpoint) -> Result<Self, LoadError> {
        let axis = |name: &str, axis: usize| {
            match checkpoint.shape(name) {
            Some(shape) if shape.len() == 4 => Ok(shape[axis]),
            found => Err(checkpoint.wrong(format!(
                "tensor `{name}` has shape {found:?}, expected that of a convolution, [out, in, height, width]"
            ))),
        }
        };
        let resnet =
            |block: usize, layer: usize| format!("decoder.up_blocks.{block}.resnets.{layer}.conv1.weight");
        let mut block_out_channels = Vec::new();
        while checkpoint.contains(&resnet(block_out_channels.len(), 0)) {
            block_out_channels.push(axis(&resnet(block_out_channels.len(), 0), 0)?);
        }
        block_out_channels.reverse();
        let layers = (0..).take_while(|&layer| checkpoint.contains(&resnet(0, layer))).count();
        if layers < 2 {
            return Err(checkpoint.wrong(format!(
                "no decoder that we know: {layers} layers in its first up block, expected 2 or more"
            )));
        }
        let out_channels = axis("decoder.conv_out.weight", 0)?;
        let first = "encoder.conv_in.weight";
        Ok(Self {
            in_channels: if checkpoint.contains(first) { axis(first, 1)? } else { out_channels },
            out_channels,
            latent_channels: axis(FIRST_LAYER, 1)?,
            block_out_channels,
            // A decoder's blocks have one layer more than the configuration says.
            layers_per_block: layers - 1,
            mid_block_add_attention: checkpoint
                .names()
                .any(|name| name.starts_with("decoder.mid_block.attentions.")),
            use_quant_conv: checkpoint.contains("quant_conv.weight"),
            use_post_quant_conv: checkpoint.contains("post_quant_conv.weight"),
        })
    }

    /// The configuration as diffusers would write it.
    fn config(&self, known: &factors::Known) -> Map<String, Value> {
        let blocks = self.block_out_channels.len();
        let values = json!({
            "_class_name": "AutoencoderKL",
            "in_channels": self.in_channels,
            "out_channels": self.out_channels,
            "latent_channels": self.latent_channels,
            "block_out_channels": self.block_out_channels,
            "down_block_types": vec!["DownEncoderBlock2D"; blocks],
            "up_block_types": vec!["UpDecoderBlock2D"; blocks],
            "layers_per_block": self.layers_per_block,
            "mid_block_add_attention": self.mid_block_add_attention,
            "use_quant_conv": self.use_quant_conv,
            "use_post_quant_conv": self.use_post_quant_conv,
            "scaling_factor": known.scaling_factor,
            "shift_factor": known.shift_factor,
            "sample_size": known.sample_size,
        });
        match values {
            Value::Object(values) => values,
            _ => Map::new(),
        }
    }
}
