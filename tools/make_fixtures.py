"""Writes the golden fixtures: small models, inputs, and what diffusers makes of them stage by stage.

    python tools/make_fixtures.py            # needs torch, diffusers, safetensors; takes seconds

Each case is a folder of `fixtures/vae`: a diffusers checkpoint, and `golden.safetensors` with what diffusers computes in
f32 from the weights as they are in the file:

* `pipeline_latents`, as a sampler puts them out, and for some cases `packed_latents`, the same in Flux's layout;
* `latents`, scaled as the pipelines do just before decoding;
* the output of every observed layer under its checkpoint name (`decoder.conv_in`, `decoder.up_blocks.0`, ...);
* `sample`, what `decode` returns (of video, in one pass over all frames), and for some cases `tiled_sample`, the same
  after `enable_tiling()`, and `framewise_sample`, the same a few frames at a time, which is diffusers' default;
* for cases that encode, `pixels`, the output of every observed layer of the encoder, `moments`, which is what
  `encode` makes its distribution of (of video, in one pass over all frames), `scaled_mode`, its mode as the pipelines scale
  it, and for some cases `tiled_moments` and `framewise_moments`. Other cases have no encoder in their checkpoint.

`fixtures/vae/manifest.json` lists the cases with what each one covers.
"""

import json
import shutil
from pathlib import Path

import diffusers
import torch
from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution
from make_checkpoint import write_checkpoint
from safetensors.torch import load_file, save_file

FIXTURES = Path(__file__).parent.parent / "fixtures" / "vae"

# Stages worth a tensor in every case, with the up and down blocks; the others are added by `every_stage`.
STAGES = (
    "post_quant_conv",
    "decoder.conv_in",
    "decoder.mid_block",
    "encoder.conv_in",
    "encoder.mid_block",
    "encoder.conv_out",
    "quant_conv",
)
BLOCKS = (
    "UpDecoderBlock2D",
    "DownEncoderBlock2D",
    "HunyuanVideoUpBlock3D",
    "HunyuanVideoDownBlock3D",
    "AutoencoderTinyBlock",
)
LAYERS = ("ResnetBlock2D", "Attention", "Upsample2D", "Downsample2D", "HunyuanVideoResnetBlockCausal3D")

DECODER_TENSORS = ("pipeline_latents", "packed_latents", "latents", "sample", "tiled_sample", "framewise_sample")
ENCODER_TENSORS = ("pixels", "moments", "scaled_mode", "tiled_moments", "framewise_moments")


def config(blocks: list[int], layers: int = 1, groups: int = 4, **settings) -> dict:
    """A configuration with only the keys that matter; the rest is left to diffusers' defaults."""
    return {
        "_class_name": "AutoencoderKL",
        "block_out_channels": blocks,
        "down_block_types": ["DownEncoderBlock2D"] * len(blocks),
        "up_block_types": ["UpDecoderBlock2D"] * len(blocks),
        "layers_per_block": layers,
        "norm_num_groups": groups,
        **settings,
    }


def video_config(blocks: list[int], layers: int = 1, groups: int = 4, **settings) -> dict:
    """The same for HunyuanVideo."""
    return {
        "_class_name": "AutoencoderKLHunyuanVideo",
        "block_out_channels": blocks,
        "down_block_types": ["HunyuanVideoDownBlock3D"] * len(blocks),
        "up_block_types": ["HunyuanVideoUpBlock3D"] * len(blocks),
        "layers_per_block": layers,
        "norm_num_groups": groups,
        **settings,
    }


def tiny_config(channels: list[int], encoder: list[int], decoder: list[int], **settings) -> dict:
    """The same for a tiny autoencoder."""
    return {
        "_class_name": "AutoencoderTiny",
        "encoder_block_out_channels": channels,
        "decoder_block_out_channels": channels,
        "num_encoder_blocks": encoder,
        "num_decoder_blocks": decoder,
        **settings,
    }


def flux2_config(blocks: list[int], decoder: list[int] | None = None, **settings) -> dict:
    """The same for FLUX.2's autoencoder, whose decoder may have other widths."""
    return {
        **config(blocks, **settings),
        "_class_name": "AutoencoderKLFlux2",
        "decoder_block_out_channels": decoder,
    }


CASES = {
    "sd-like": dict(
        covers="4 latent channels, quant convs, 4 blocks, a batch, odd sizes, every stage, old attention names",
        config=config([8, 8, 16, 16], layers=2),
        latents=(2, 4, 5, 2),
        pixels=(2, 3, 45, 30),
        old_attention_names=True,
        every_stage=True,
    ),
    "flux-like": dict(
        covers="16 latent channels, packed latents, no quant convs, scaling and shift factor, explicit nulls, f16 file",
        config=config(
            [8, 16, 16],
            latent_channels=16,
            use_quant_conv=False,
            use_post_quant_conv=False,
            scaling_factor=0.3611,
            shift_factor=0.1159,
            latents_mean=None,
            latents_std=None,
        ),
        latents=(1, 16, 6, 8),
        pixels=(1, 3, 20, 33),
        packed=True,
        dtype="float16",
        variant="fp16",
    ),
    "no-mid-attention": dict(
        covers="a mid block without attention, three layers a block, swish, bf16 file",
        config=config([12, 24], layers=3, groups=6, mid_block_add_attention=False, act_fn="swish"),
        latents=(1, 4, 9, 5),
        pixels=(1, 3, 11, 18),
        dtype="bfloat16",
    ),
    "conv-attention": dict(
        covers="attention weights in the shapes of 1x1 convolutions under their old names, latents_mean and _std",
        config=config(
            [8, 16],
            scaling_factor=0.5,
            latents_mean=[0.1, -0.2, 0.3, -0.4],
            latents_std=[1.5, 0.5, 2.0, 1.0],
        ),
        latents=(1, 4, 7, 11),
        pixels=(2, 3, 14, 22),
        old_attention_names=True,
        conv_attention=True,
    ),
    "one-block": dict(
        covers="no upsampling at all, 2 latent channels, one pixel, a batch",
        config=config([16], groups=4, latent_channels=2, use_post_quant_conv=False),
        latents=(3, 2, 1, 1),
        pixels=(3, 3, 1, 1),
        every_stage=True,
    ),
    "many-positions": dict(
        covers="a batch that is decoded in parts, and more positions than fit one tile of anything",
        config=config([8, 8], groups=2, latent_channels=3, out_channels=1),
        latents=(2, 3, 47, 53),
        only=("decoder.mid_block",),
    ),
    "faint": dict(
        covers="activations so small that every norm's eps matters",
        config=config([8, 16]),
        latents=(1, 4, 5, 4),
        pixels=(1, 3, 9, 8),
        faint=True,
    ),
    "wide": dict(
        covers="channel counts like the real ones: wide enough for every blocked path of a fast kernel",
        config=config([32, 64], groups=32),
        latents=(1, 4, 13, 9),
        pixels=(1, 3, 27, 19),
        dtype="float16",
    ),
    "tiled": dict(
        covers="tiles of 8 latents: a batch, last tiles of every kind, one of them smaller than what is blended",
        config=config([8, 16], sample_size=16),
        latents=(2, 4, 13, 22),
        pixels=(2, 3, 26, 45),
        only=("post_quant_conv", "quant_conv"),
        tiled=True,
    ),
    "video": dict(
        covers="HunyuanVideo: 16 latent channels, 4 blocks, 3 latent frames and 9 frames, odd sizes, every stage",
        config=video_config([8, 8, 16, 16], layers=2, latent_channels=16),
        latents=(1, 16, 3, 5, 3),
        pixels=(1, 3, 9, 27, 19),
        every_stage=True,
    ),
    "video-framewise": dict(
        covers="11 latent frames, and 30 frames, a few at a time and blended; 3 blocks that double or halve the picture",
        config=video_config([4, 8, 8], groups=2, latent_channels=4),
        latents=(1, 4, 11, 2, 3),
        pixels=(1, 3, 30, 9, 17),
        only=("post_quant_conv", "quant_conv"),
        framewise=True,
    ),
    "video-tiled": dict(
        covers="tiles in space within parts in time; sides that are no multiple of 8, which tiles cut off and passes do not",
        config=video_config([4, 4, 8], groups=2, latent_channels=4),
        latents=(1, 4, 5, 33, 1),
        pixels=(1, 3, 17, 10, 261),
        only=("post_quant_conv", "quant_conv"),
        framewise=True,
        tiled=True,
    ),
    "video-batch": dict(
        covers="a batch of videos, a block that changes time only, no attention, 2 latent frames, 5 frames, bf16 file",
        config=video_config([8, 8, 8, 8], latent_channels=4, spatial_compression_ratio=4, mid_block_add_attention=False),
        latents=(2, 4, 2, 3, 2),
        pixels=(2, 3, 5, 14, 9),
        dtype="bfloat16",
    ),
    "video-still": dict(
        covers="one latent frame, two positions; one frame",
        config=video_config([16, 32, 32], groups=4, latent_channels=4),
        latents=(1, 4, 1, 1, 2),
        pixels=(1, 3, 1, 16, 9),
        dtype="float16",
    ),
    "flux2": dict(
        covers="FLUX.2: statistics of patches, packed latents, an epsilon that matters, tiles",
        config=flux2_config([8, 16, 16], latent_channels=8, batch_norm_eps=0.01, sample_size=32),
        latents=(2, 8, 14, 22),
        pixels=(2, 3, 40, 56),
        packed=True,
        tiled=True,
    ),
    "flux2-small": dict(
        covers="FLUX.2's small decoder: narrower than its encoder, bf16 file",
        config=flux2_config([64, 64], [32, 64], groups=32, latent_channels=4),
        latents=(1, 4, 6, 10),
        pixels=(1, 3, 24, 20),
        dtype="bfloat16",
    ),
    "tiny": dict(
        covers="AutoencoderTiny: a batch, stages of different length, odd sizes, which its encoder rounds up",
        config=tiny_config([16] * 4, [1, 2, 1, 2], [2, 1, 2, 1]),
        latents=(2, 4, 5, 3),
        pixels=(2, 3, 33, 22),
    ),
    "tiny-flux": dict(
        covers="AutoencoderTiny: 16 latent channels, 3 stages, a scaling factor, f16 file",
        config=tiny_config([16] * 3, [1, 1, 1], [1, 1, 1], latent_channels=16, scaling_factor=0.5),
        latents=(1, 16, 9, 11),
        pixels=(1, 3, 20, 16),
        dtype="float16",
    ),
}


def observed_modules(model: torch.nn.Module, every_stage: bool, only: tuple[str, ...] | None):
    """The layers whose outputs are kept, by their names in the checkpoint."""
    for name, module in model.named_modules():
        kind = type(module).__name__
        coarse = name in STAGES or kind in BLOCKS
        if kind == "Attention" and isinstance(model, diffusers.AutoencoderKLHunyuanVideo):
            continue  # sees the clip as one row of positions
        if (name in only) if only else (coarse or (every_stage and kind in LAYERS)):
            yield name, module


def is_of_encoder(stage: str) -> bool:
    return stage.startswith("encoder.") or stage == "quant_conv"


def scale(latents: torch.Tensor, model: torch.nn.Module) -> torch.Tensor:
    """What Flux2Pipeline, StableDiffusionXLPipeline (with mean and std) and FluxPipeline (with a shift) do before `vae.decode`."""
    config = model.config
    if isinstance(model, diffusers.AutoencoderKLFlux2):
        mean, std = statistics(model)
        return diffusers.Flux2Pipeline._unpatchify_latents(latents * std + mean)
    if config.get("latents_mean") is not None and config.get("latents_std") is not None:
        mean = torch.tensor(config.latents_mean).view(1, -1, 1, 1)
        std = torch.tensor(config.latents_std).view(1, -1, 1, 1)
        return latents * std / config.scaling_factor + mean
    latents = latents / config.scaling_factor
    return latents if config.get("shift_factor") is None else latents + config.shift_factor


def statistics(model: torch.nn.Module) -> tuple[torch.Tensor, torch.Tensor]:
    """As Flux2Pipeline takes them from the weights."""
    variance = model.bn.running_var.view(1, -1, 1, 1)
    return model.bn.running_mean.view(1, -1, 1, 1), torch.sqrt(variance + model.config.batch_norm_eps)


def scale_encoded(latents: torch.Tensor, model: torch.nn.Module) -> torch.Tensor:
    """What the same pipelines do just after `vae.encode`."""
    config = model.config
    if isinstance(model, diffusers.AutoencoderKLFlux2):
        mean, std = statistics(model)
        return (diffusers.Flux2Pipeline._patchify_latents(latents) - mean) / std
    if config.get("latents_mean") is not None and config.get("latents_std") is not None:
        mean = torch.tensor(config.latents_mean).view(1, -1, 1, 1)
        std = torch.tensor(config.latents_std).view(1, -1, 1, 1)
        return (latents - mean) * config.scaling_factor / std
    return (latents - (config.get("shift_factor") or 0.0)) * config.scaling_factor


def golden(folder: Path, case: dict, seed: int) -> dict[str, torch.Tensor]:
    """Decodes (and encodes) the case with diffusers in f32 and returns inputs, stages and results."""
    family = getattr(diffusers, case["config"]["_class_name"])
    model = family.from_pretrained(folder, variant=case.get("variant"), torch_dtype=torch.float32)
    tensors = {}
    for name, module in observed_modules(model, case.get("every_stage", False), case.get("only")):
        module.register_forward_hook(lambda _m, _i, output, name=name: tensors.__setitem__(name, output.clone()))
    latents = torch.randn(case["latents"], generator=torch.Generator().manual_seed(seed))
    if isinstance(model, diffusers.AutoencoderKLFlux2):
        latents = diffusers.Flux2Pipeline._patchify_latents(latents)
    tensors["pipeline_latents"] = latents
    if case.get("packed"):
        if isinstance(model, diffusers.AutoencoderKLFlux2):
            tensors["packed_latents"] = diffusers.Flux2Pipeline._pack_latents(latents)
        else:
            tensors["packed_latents"] = diffusers.FluxPipeline._pack_latents(latents, *case["latents"])
    tensors["latents"] = scale(latents, model)
    with torch.no_grad():
        if case.get("tiled"):  # first, so that the layers' outputs that stay are those of the whole picture
            model.enable_tiling()
            tensors["tiled_sample"] = model.decode(tensors["latents"]).sample
            model.disable_tiling()
        if case.get("framewise"):
            tensors["framewise_sample"] = model.decode(tensors["latents"]).sample
            model.use_framewise_decoding = False
        tensors["sample"] = model.decode(tensors["latents"]).sample
        if case.get("pixels"):
            tensors["pixels"] = torch.rand(case["pixels"], generator=torch.Generator().manual_seed(seed)) * 2 - 1
            if case.get("tiled"):
                model.enable_tiling()
                tensors["tiled_moments"] = model.encode(tensors["pixels"]).latent_dist.parameters
                model.disable_tiling()
            if case.get("framewise"):
                tensors["framewise_moments"] = model.encode(tensors["pixels"]).latent_dist.parameters
                model.use_framewise_encoding = False
            encoded = model.encode(tensors["pixels"])
            if isinstance(model, diffusers.AutoencoderTiny):  # gives latents, not a distribution
                certain = torch.full_like(encoded.latents, -30.0)
                parameters = torch.cat([encoded.latents, certain], dim=1)
                posterior = DiagonalGaussianDistribution(parameters, deterministic=True)
            else:
                posterior = encoded.latent_dist
            tensors["moments"] = posterior.parameters
            tensors["scaled_mode"] = scale_encoded(posterior.mode(), model)
    return {name: value.contiguous() for name, value in tensors.items()}


def make_faint(folder: Path) -> None:
    """Scales the layers that write to the trunk and into each second norm, so that variances are near eps."""
    path = folder / "diffusion_pytorch_model.safetensors"
    weights = load_file(path)
    for name, value in weights.items():
        layer = name.rsplit(".", 1)[0]
        if layer.endswith(("conv_in", "conv1", "conv2", "conv_shortcut", "to_out.0")) or name.endswith("conv.bias"):
            value *= 1e-3
    save_file(weights, path, metadata={"format": "pt"})


def reshape_attention(folder: Path) -> None:
    """Gives attention weights the shape of 1x1 convolutions, as files converted by early scripts have them."""
    path = folder / "diffusion_pytorch_model.safetensors"
    weights = load_file(path)
    for name, value in weights.items():
        if ".attentions." in name and value.ndim == 2:
            weights[name] = value[:, :, None, None].contiguous()
    save_file(weights, path, metadata={"format": "pt"})


def drop_encoder(folder: Path) -> None:
    """Leaves the decoder's weights only: half the size, and a decoder must not ask for more."""
    for path in folder.glob("*.safetensors"):
        weights = load_file(path)
        kept = {name: value for name, value in weights.items() if not name.startswith(("encoder.", "quant_conv."))}
        save_file(kept, path, metadata={"format": "pt"})


def main() -> None:
    torch.use_deterministic_algorithms(True)
    manifest = {}
    for seed, (name, case) in enumerate(CASES.items(), start=1):
        folder = FIXTURES / name
        shutil.rmtree(folder, ignore_errors=True)
        write_checkpoint(
            case["config"],
            folder,
            seed=seed,
            dtype=case.get("dtype", "float32"),
            variant=case.get("variant"),
            old_attention_names=case.get("old_attention_names", False),
        )
        if case.get("faint"):
            make_faint(folder)
        tensors = golden(folder, case, seed)
        if case.get("conv_attention"):
            reshape_attention(folder)
        if not case.get("pixels"):
            drop_encoder(folder)
        save_file(tensors, folder / "golden.safetensors")
        stages = sorted(set(tensors) - {*DECODER_TENSORS, *ENCODER_TENSORS})
        manifest[name] = {
            "covers": case["covers"],
            "stages": [stage for stage in stages if not is_of_encoder(stage)],
            "encoder_stages": [stage for stage in stages if is_of_encoder(stage)],
        }
    made_with = {"torch": torch.__version__.split("+")[0], "diffusers": diffusers.__version__}
    manifest = {"made_by": "tools/make_fixtures.py", "made_with": made_with, "cases": manifest}
    (FIXTURES / "manifest.json").write_text(json.dumps(manifest, indent=2) + "\n")


if __name__ == "__main__":
    main()
