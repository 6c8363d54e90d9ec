//! `AutoencoderTiny`: TAESD and its kin, small models for previews, of `autoencoder_tiny.py` and `models/autoencoders/vae.py`.

use super::{Family, refused};
use crate::config::Config;
use crate::graph::{Activation, Conv, Graph, GraphError, NodeId, Op, Scope, Upsample};
use crate::latents::{LatentFormat, Normalization};
use crate::model::{Description, Half};
use crate::{LoadError, VaeInfo};

pub(super) const FAMILY: Family = Family {
    class_name: "AutoencoderTiny",
    describe: |config| AutoencoderTinyConfig::read(config)?.description().map_err(refused(config)),
    read_latents: None,
};

/// Limits that no real model comes near.
const MAX_CHANNELS: usize = 1 << 14;
const MAX_BLOCKS: usize = 64;
const MAX_STAGES: usize = 8;

/// `tanh(x / 3) * 3`, to which a decoder brings its latents.
const LATENT_RANGE: f64 = 3.0;

/// What `config.json` says of an `AutoencoderTiny`. Its `latent_magnitude` and `latent_shift` are of no use for decoding or
/// encoding.
#[derive(Clone, Debug, PartialEq)]
struct AutoencoderTinyConfig {
    in_channels: usize,
    out_channels: usize,
    latent_channels: usize,
    /// Channels of all stages of each half.
    encoder_channels: usize,
    decoder_channels: usize,
    /// Blocks of each stage.
    num_encoder_blocks: Vec<usize>,
    num_decoder_blocks: Vec<usize>,
    scaling_factor: f32,
    shift_factor: Option<f32>,
}

impl AutoencoderTinyConfig {
    /// Reads and checks the settings. Defaults are those of the constructor in diffusers.
    fn read(config: &Config) -> Result<Self, LoadError> {
        let half = |channels_key: &str, blocks_key: &str, default: &[usize]| {
            let channels = config.sizes(channels_key, &[64; 4], MAX_CHANNELS)?;
            let blocks = config.sizes(blocks_key, default, MAX_BLOCKS)?;
            if blocks.len() > MAX_STAGES || blocks.len() != channels.len() {
                let expected = format!("as many numbers as `{channels_key}` has, {MAX_STAGES} at most");
                return Err(config.refuse(blocks_key, &expected));
            }
            // diffusers builds others, which then cannot run.
            if channels.iter().any(|&other| other != channels[0]) {
                return Err(config.refuse(channels_key, "the same number for each stage"));
            }
            Ok((channels[0], blocks))
        };
        let (encoder_channels, num_encoder_blocks) =
            half("encoder_block_out_channels", "num_encoder_blocks", &[1, 3, 3, 3])?;
        let (decoder_channels, num_decoder_blocks) =
            half("decoder_block_out_channels", "num_decoder_blocks", &[3, 3, 3, 1])?;
        if num_encoder_blocks.len() != num_decoder_blocks.len() {
            return Err(config.refuse("num_encoder_blocks", "as many stages as the decoder has"));
        }
        for (key, expected) in [("act_fn", "relu"), ("upsample_fn", "nearest")] {
            if config.text(key, expected)? != expected {
                return Err(config.refuse(key, &format!("{expected:?}")));
            }
        }
        if config.size("upsampling_scaling_factor", 2, MAX_STAGES)? != 2 {
            return Err(config.refuse("upsampling_scaling_factor", "2"));
        }
        let scaling_factor = config.number("scaling_factor", 1.0)?;
        if scaling_factor == 0.0 {
            return Err(config.refuse("scaling_factor", "a number other than zero"));
        }
        Ok(Self {
            in_channels: config.size("in_channels", 3, MAX_CHANNELS)?,
            out_channels: config.size("out_channels", 3, MAX_CHANNELS)?,
            latent_channels: config.size("latent_channels", 4, MAX_CHANNELS)?,
            encoder_channels,
            decoder_channels,
            num_encoder_blocks,
            num_decoder_blocks,
            scaling_factor,
            // No shift and a shift of zero are the same, but one changes -0.0.
            shift_factor: config.optional_number("shift_factor")?.filter(|&shift| shift != 0.0),
        })
    }

    fn description(self) -> Result<Description, GraphError> {
        const WHOLE: &str =
            "its tiles are blended in a way of their own, and it takes little memory as a whole";
        let half = |graph: Graph| Half { graph, tiling: Err(WHOLE), framewise: None };
        let normalization = match (self.scaling_factor, self.shift_factor) {
            (1.0, None) => Normalization::Identity,
            (scaling_factor, shift_factor) => Normalization::Factors { scaling_factor, shift_factor },
        };
        Ok(Description {
            decoder: half(Graph::build(false, self.latent_channels, |root, x| self.decoder(root, x))?),
            encoder: half(Graph::build(false, self.in_channels, |root, x| self.encoder(root, x))?),
            info: VaeInfo {
                class_name: FAMILY.class_name.to_owned(),
                latent_channels: self.latent_channels,
                out_channels: self.out_channels,
                spatial_factor: 1 << (self.num_decoder_blocks.len() - 1),
                latents: LatentFormat { normalization, ..LatentFormat::default() },
                ..VaeInfo::default()
            },
        })
    }

    /// `DecoderTiny`.
    fn decoder(&self, root: &Scope<'_>, x: NodeId) -> NodeId {
        let mut layers =
            Layers { scope: root.pp("decoder.layers"), next: 0, channels: self.decoder_channels };
        let mut x = root.activation(x, Activation::Tanh { scale: LATENT_RANGE });
        x = layers.conv(x, Conv::same_2d(layers.channels, 3));
        x = layers.relu(x);
        let last = self.num_decoder_blocks.len() - 1;
        for (stage, &blocks) in self.num_decoder_blocks.iter().enumerate() {
            x = layers.blocks(x, blocks);
            x = if stage == last {
                layers.conv(x, Conv::same_2d(self.out_channels, 3))
            } else {
                let upsampled = layers.upsample(x);
                layers.conv(upsampled, Conv { bias: false, ..Conv::same_2d(layers.channels, 3) })
            };
        }
        // From [0, 1].
        root.op(Op::Affine { scale: 2.0, shift: -1.0 }, &[x])
    }

    /// `EncoderTiny`.
    fn encoder(&self, root: &Scope<'_>, x: NodeId) -> NodeId {
        let mut layers =
            Layers { scope: root.pp("encoder.layers"), next: 0, channels: self.encoder_channels };
        // To [0, 1].
        let mut x = root.op(Op::Affine { scale: 0.5, shift: 0.5 }, &[x]);
        for (stage, &blocks) in self.num_encoder_blocks.iter().enumerate() {
            let conv = Conv::same_2d(layers.channels, 3);
            let strided = Conv { stride: [1, 2, 2], bias: false, ..conv };
            x = layers.conv(x, if stage == 0 { conv } else { strided });
            x = layers.blocks(x, blocks);
        }
        layers.conv(x, Conv::same_2d(self.latent_channels, 3))
    }
}

/// The layers of a half, which are counted through in the checkpoint.
struct Layers<'a> {
    scope: Scope<'a>,
    next: usize,
    channels: usize,
}

impl<'a> Layers<'a> {
    fn next(&mut self) -> Scope<'a> {
        self.next += 1;
        self.scope.pp(self.next - 1)
    }

    fn conv(&mut self, x: NodeId, conv: Conv) -> NodeId {
        let scope = self.next();
        scope.stage(scope.conv(x, conv))
    }

    fn relu(&mut self, x: NodeId) -> NodeId {
        self.next().activation(x, Activation::Relu)
    }

    fn upsample(&mut self, x: NodeId) -> NodeId {
        self.next().upsample(x, Upsample { frames: false, sides: true })
    }

    /// `AutoencoderTinyBlock` by `AutoencoderTinyBlock`: three convolutions with ReLU between and behind them, and a residual.
    fn blocks(&mut self, mut x: NodeId, count: usize) -> NodeId {
        for _ in 0..count {
            let scope = self.next();
            let conv = |x, index: usize| scope.pp("conv").pp(index).conv(x, Conv::same_2d(self.channels, 3));
            let hidden = scope.activation(conv(x, 0), Activation::Relu);
            let hidden = scope.activation(conv(hidden, 2), Activation::Relu);
            let sum = scope.add(conv(hidden, 4), x);
            x = scope.stage(scope.activation(sum, Activation::Relu));
        }
        x
    }
}
