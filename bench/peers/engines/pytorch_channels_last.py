"""PyTorch with diffusers, in the layout that its convolutions like best."""

from pathlib import Path

import numpy as np
import torch
from engines import pytorch

prepare = pytorch.prepare


def load(folder: Path, latents: np.ndarray, threads: int):
    return pytorch.load(folder, latents, threads, torch.channels_last)
