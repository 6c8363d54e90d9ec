"""Real pipelines of diffusers around tiny models with random weights, and with embeddings in the place of prompts."""

from typing import Any

import torch
from diffusers import (
    DDIMScheduler,
    FlowMatchEulerDiscreteScheduler,
    FluxTransformer2DModel,
    HunyuanVideoTransformer3DModel,
    UNet2DConditionModel,
)

STEPS = 2


def random(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)))


def seeded(kind: type, **config: Any) -> Any:
    torch.manual_seed(0)
    return kind(**config).eval().requires_grad_(False)


def unet(**config: Any) -> UNet2DConditionModel:
    return seeded(
        UNet2DConditionModel,
        block_out_channels=(16, 32),
        layers_per_block=1,
        norm_num_groups=4,
        in_channels=4,
        out_channels=4,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        attention_head_dim=8,
        cross_attention_dim=16,
        sample_size=8,
        **config,
    )


def scheduler() -> DDIMScheduler:
    return DDIMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", clip_sample=False, steps_offset=1)


def stable_diffusion(kind: type, vae: Any) -> Any:
    return kind(
        vae=vae,
        text_encoder=None,
        tokenizer=None,
        unet=unet(),
        scheduler=scheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def stable_diffusion_xl(kind: type, vae: Any) -> Any:
    model = unet(
        addition_embed_type="text_time",
        addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=16 + 6 * 8,
        transformer_layers_per_block=(1, 1),
    )
    nothing = {"text_encoder": None, "text_encoder_2": None, "tokenizer": None, "tokenizer_2": None}
    return kind(vae=vae, unet=model, scheduler=scheduler(), add_watermarker=False, **nothing)


def flux(kind: type, vae: Any) -> Any:
    transformer = seeded(
        FluxTransformer2DModel,
        in_channels=64,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=16,
        pooled_projection_dim=16,
        axes_dims_rope=(4, 4, 8),
    )
    nothing = {"text_encoder": None, "text_encoder_2": None, "tokenizer": None, "tokenizer_2": None}
    return kind(vae=vae, transformer=transformer, scheduler=FlowMatchEulerDiscreteScheduler(), **nothing)


def hunyuan_video(kind: type, vae: Any) -> Any:
    transformer = seeded(
        HunyuanVideoTransformer3DModel,
        in_channels=16,
        out_channels=16,
        num_attention_heads=2,
        attention_head_dim=16,
        num_layers=1,
        num_single_layers=1,
        num_refiner_layers=1,
        text_embed_dim=16,
        pooled_projection_dim=16,
        rope_axes_dim=(4, 6, 6),
    )
    nothing = {"text_encoder": None, "text_encoder_2": None, "tokenizer": None, "tokenizer_2": None}
    return kind(vae=vae, transformer=transformer, scheduler=FlowMatchEulerDiscreteScheduler(), **nothing)


PROMPTS = {
    stable_diffusion: {"prompt_embeds": random(1, 4, 16), "negative_prompt_embeds": random(1, 4, 16) / 2},
    stable_diffusion_xl: {
        "prompt_embeds": random(1, 4, 16),
        "negative_prompt_embeds": random(1, 4, 16) / 2,
        "pooled_prompt_embeds": random(1, 16),
        "negative_pooled_prompt_embeds": random(1, 16) / 2,
    },
    flux: {"prompt_embeds": random(1, 4, 16), "pooled_prompt_embeds": random(1, 16)},
    hunyuan_video: {
        "prompt_embeds": random(1, 4, 16),
        "pooled_prompt_embeds": random(1, 16),
        "prompt_attention_mask": torch.ones(1, 4),
        "num_frames": 5,
    },
}


def run(pipeline: Any, family: Any, **arguments: Any) -> Any:
    """What the pipeline makes, as bytes [..., H, W, 3]."""
    pipeline.set_progress_bar_config(disable=True)
    return pipeline(
        num_inference_steps=STEPS,
        generator=torch.Generator().manual_seed(1),
        output_type="np",
        return_dict=False,
        **PROMPTS[family],
        **arguments,
    )[0]
