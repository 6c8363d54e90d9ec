"""PyTorch with diffusers, as people run it."""

from pathlib import Path

import numpy as np
import torch
from export import SD_V1, Export


def prepare(export: Export) -> None:
    """Runs the checkpoint as it is."""


def load(folder: Path, latents: np.ndarray, threads: int, memory_format: torch.memory_format = torch.contiguous_format):
    torch.set_num_threads(threads)
    vae = SD_V1.reference.to(memory_format=memory_format)
    latents = torch.from_numpy(latents).contiguous(memory_format=memory_format)

    @torch.inference_mode()
    def decode() -> np.ndarray:
        return vae.decode(latents, return_dict=False)[0].numpy()

    return torch.__version__, decode
