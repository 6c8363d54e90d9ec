//! Files that are not what is looked for, by the tensors that only they have. The names are those of the releases, of
//! diffusers' classes and of the layouts that UIs keep.

use crate::LoadError;
use crate::checkpoint::Checkpoint;

/// A kind of file: the last parts of names of tensors of which one is enough, and what such a file is.
type Kind = (&'static [&'static str], &'static str);

/// Those whose tensors look like the autoencoders that are served come first, then other autoencoders, then the rest.
const KINDS: &[Kind] = &[
    (&["bn.running_mean"], "FLUX.2's autoencoder (AutoencoderKLFlux2), which normalises latents by `bn`"),
    (
        &[
            "decoder.upsamples.0.upsamples.0.residual.2.weight",
            "decoder.up_blocks.0.upsampler.resample.1.weight",
        ],
        "the autoencoder of Wan 2.2 or Qwen-Image 2.1",
    ),
    (
        &["decoder.middle.0.residual.0.gamma", "decoder.mid_block.resnets.0.norm1.gamma"],
        "the autoencoder of Wan or Qwen-Image, which have the same tensors",
    ),
    (
        &[
            "decoder.up_blocks.0.res_blocks.0.conv1.conv.weight",
            "decoder.conv_in_x_t.weight",
            "per_channel_statistics.mean-of-means",
            "per_channel_statistics.std-of-means",
        ],
        "an autoencoder of LTX-Video",
    ),
    (
        &[
            "decoder.mid_block.resnets.0.norm1.norm_layer.weight",
            "decoder.mid.block_1.norm1.norm_layer.weight",
        ],
        "CogVideoX's autoencoder (AutoencoderKLCogVideoX)",
    ),
    (
        &[
            "blocks.2.blocks.3.stack.5.weight",
            "layers.4.layers.1.attn_block.attn.qkv.weight",
            "decoder.block_in.resnets.0.norm1.norm_layer.weight",
        ],
        "Mochi's autoencoder (AutoencoderKLMochi)",
    ),
    (
        &["decoder.unpatcher3d.wavelets", "decoder.conv_in.conv_s.weight"],
        "the autoencoder of Cosmos (AutoencoderKLCosmos)",
    ),
    (&["decoder.temp_conv_in.weight"], "Allegro's autoencoder (AutoencoderKLAllegro)"),
    (&["decoder.mid_block.convs.0.conv1.weight"], "the autoencoder of EasyAnimate (AutoencoderKLMagvit)"),
    (
        &[
            "decoder.time_conv_out.weight",
            "decoder.conv_out.time_mix_conv.weight",
            "decoder.mid_block.resnets.0.spatial_res_block.conv1.weight",
        ],
        "the autoencoder of Stable Video Diffusion (AutoencoderKLTemporalDecoder)",
    ),
    (
        &["decoder.condition_encoder.layers.0.weight"],
        "an autoencoder for inpainting (AsymmetricAutoencoderKL)",
    ),
    (&["decoder_unet.conv_in.weight", "ckpt.embed_image.f.weight"], "the consistency decoder"),
    (&["decoder.transformer_blocks.0.scale1"], "MiniMax-H3's autoencoder (AutoencoderKLMiniMaxH3)"),
    (
        &["decoder.stages.0.op_list.0.main.conv.conv.weight", "decoder.up_blocks.0.1.conv1.weight"],
        "a deep compression autoencoder, as Sana's (AutoencoderDC)",
    ),
    (
        &[
            "taesd_decoder.1.weight",
            "taesd_encoder.0.weight",
            "decoder.layers.2.conv.0.weight",
            "decoder.3.conv.0.weight",
        ],
        "a tiny autoencoder (TAESD and its kin, AutoencoderTiny)",
    ),
    (&["decoder.22.bias"], "a tiny autoencoder of videos (TAEHV)"),
    (&["vquantizer.codebook.weight"], "the first stage of Stable Cascade (PaellaVQModel)"),
    (
        &["backbone.1.0.block.0.1.num_batches_tracked", "blocks.11.num_batches_tracked"],
        "a part of Stable Cascade",
    ),
    (
        &["quantize.embedding.weight"],
        "an autoencoder with a codebook (VQModel), as latent diffusion's and Amused's",
    ),
    (&["decoder.conv1.weight_g", "decoder.layers.1.layers.0.beta"], "an autoencoder of sound"),
    (&["latents", "latent_tensor", "latent"], "a file of latents, not a model"),
    (&["lora_down.weight", "lora_A.weight", "lora_up.weight"], "a LoRA, which changes another model"),
    (&["control_model.input_blocks.0.0.weight", "controlnet_cond_embedding.conv_in.weight"], "a ControlNet"),
    (
        &[
            "double_blocks.0.img_attn.qkv.weight",
            "joint_blocks.0.x_block.attn.qkv.weight",
            "transformer_blocks.0.attn.to_q.weight",
            "input_blocks.0.0.weight",
            "down_blocks.0.attentions.0.proj_in.weight",
            "time_embedding.linear_1.weight",
        ],
        "a diffusion model without its autoencoder",
    ),
    (
        &[
            "text_model.encoder.layers.0.self_attn.q_proj.weight",
            "encoder.block.0.layer.0.SelfAttention.q.weight",
            "transformer.resblocks.0.attn.in_proj_weight",
            "model.layers.0.self_attn.q_proj.weight",
        ],
        "a text encoder",
    ),
];

/// What the file is, if it is none of those that are served.
pub(crate) fn of(checkpoint: &Checkpoint) -> Option<&'static str> {
    let ends = |name: &str, part: &str| {
        name.strip_suffix(part).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
    };
    let has = |parts: &[&str]| checkpoint.names().any(|name| parts.iter().any(|part| ends(name, part)));
    if let Some((_, kind)) = KINDS.iter().find(|(parts, _)| has(parts)) {
        return Some(kind);
    }
    // Of these, the shape of the first layer tells: from how many latent channels it leads.
    let latents = |layer: &str| checkpoint.shape(layer).and_then(|shape| shape.get(1)).copied();
    match (latents("decoder.conv_in.conv.weight"), latents("decoder.conv_in.weight")) {
        (Some(32), _) => Some("the autoencoder of HunyuanVideo 1.5 (AutoencoderKLHunyuanVideo15)"),
        (Some(128), _) => Some("an autoencoder of LTX-Video"),
        (_, Some(64)) => Some("the autoencoder of HunyuanImage 2.1 (AutoencoderKLHunyuanImage)"),
        _ => None,
    }
}

/// The error with what the file probably is.
pub(crate) fn explained(error: LoadError, checkpoint: &Checkpoint) -> LoadError {
    match (error, of(checkpoint)) {
        (LoadError::Weights { path, message }, Some(kind)) => {
            LoadError::Weights { path, message: format!("{message}; this is probably {kind}") }
        }
        (error, _) => error,
    }
}
