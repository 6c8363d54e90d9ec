"""The models under test, and what diffusers makes of them: every expectation comes from there."""

import functools
import io
import json
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import diffusers
import numpy as np
import torch
from diffusers import AutoencoderKL, AutoencoderKLHunyuanVideo
from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution
from place import CACHE, DEMO, ROOT, digest

TOOLS = ROOT / "tools"


@dataclass(frozen=True)
class Model:
    """A served model: `name` in the URL, and its factors as its users know them."""

    name: str
    latent_channels: int
    scaling_factor: float
    shift_factor: float | None = None
    # How its checkpoint is written: arguments of tools/make_checkpoint.py. None for the embedded model.
    recipe: tuple[str, ...] | None = None

    @functools.cached_property
    def folder(self) -> Path:
        if self.recipe is None:
            return DEMO
        folder = built(self.name, self.recipe)
        # As in a container's volume: what nobody can write to is mapped, and no part of the memory that tests look at.
        for weights in folder.glob("*.safetensors"):
            weights.chmod(0o444)
        return folder

    @functools.cached_property
    def reference(self) -> AutoencoderKL | AutoencoderKLHunyuanVideo:
        """The same files, loaded by diffusers and run in float32."""
        family = getattr(diffusers, json.loads((self.folder / "config.json").read_text())["_class_name"])
        return family.from_pretrained(self.folder, low_cpu_mem_usage=False).eval().requires_grad_(False)

    def latents(self, *shape: int, dtype: torch.dtype = torch.float16, seed: int = 0) -> torch.Tensor:
        """Latents as a pipeline hands them out (scaled, near unit variance): [B, C, h, w] for shape (B, h, w), and
        [B, C, f, h, w] for (B, f, h, w)."""
        batch, *rest = shape
        generator = torch.Generator().manual_seed(seed)
        return torch.randn(batch, self.latent_channels, *rest, generator=generator).to(dtype)

    def unscaled(self, latents: torch.Tensor) -> torch.Tensor:
        """What the decoder sees of pipeline latents, in float32."""
        return latents.float() / self.scaling_factor + (self.shift_factor or 0.0)

    def decoded(self, latents: torch.Tensor, tiling: bool = False, framewise: bool = True) -> torch.Tensor:
        """diffusers' float32 decode of unscaled latents. Kept on disk, named by everything that decides it.

        `tiling` is what `enable_tiling()` does; `framewise` is for videos, whose default it is.
        """
        return self._kept("", lambda one: self.reference.decode(one).sample, latents, tiling, framewise)

    def posterior(
        self, pixels: torch.Tensor, tiling: bool = False, framewise: bool = True
    ) -> DiagonalGaussianDistribution:
        """What diffusers encodes pixels [B, 3, H, W] (video: [B, 3, F, H, W]) in [-1, 1] to, in float32. Kept on disk.

        `tiling` and `framewise` as for `decoded`.
        """
        encode = lambda one: self.reference.encode(one).latent_dist.parameters
        return DiagonalGaussianDistribution(self._kept("encode ", encode, pixels, tiling, framewise))

    def _kept(self, task: str, run, tensor: torch.Tensor, tiling: bool, framewise: bool) -> torch.Tensor:
        """What `run` makes of each item of a batch, from the disk if it was made before."""
        tensor = tensor.float().contiguous()
        versions = f"{task}{torch.__version__} {diffusers.__version__} {list(tensor.shape)}"
        versions += " tiling" * tiling + " whole" * (not framewise)
        file = CACHE / "references" / f"{digest(versions, self.key, tensor.numpy().tobytes())}.npy"
        if not file.exists():
            self.reference.use_tiling = tiling
            if tensor.ndim == 5:
                self.reference.use_framewise_decoding = self.reference.use_framewise_encoding = framewise
            # One picture at a time: what diffusers gives must not depend on the batch.
            content = io.BytesIO()
            np.save(content, torch.cat([run(one[None]) for one in tensor]).numpy())
            write_whole(file, content.getvalue())
        return torch.from_numpy(np.load(file))

    def scaled(self, latents: torch.Tensor) -> torch.Tensor:
        """Encoded latents as pipelines work with them: the way back from `unscaled`."""
        return (latents - (self.shift_factor or 0.0)) * self.scaling_factor

    @functools.cached_property
    def key(self) -> str:
        """Names the weights."""
        if self.recipe is None:
            return digest(*sorted(path for path in DEMO.iterdir() if path.is_file()))
        return self.folder.name


def write_whole(file: Path, content: bytes) -> None:
    """Writes a file that others never see half written."""
    file.parent.mkdir(parents=True, exist_ok=True)
    part = file.with_suffix(".part")
    part.write_bytes(content)
    part.rename(file)


def built(name: str, recipe: tuple[str, ...]) -> Path:
    """The folder of a checkpoint, built when the scripts that make it have changed."""
    scripts = [TOOLS / "make_checkpoint.py", TOOLS / "random_weights.py", TOOLS / "constraints.txt"]
    key = digest(" ".join(recipe), *scripts, TOOLS / "configs" / f"{recipe[0]}.json")
    folder = CACHE / "checkpoints" / f"{name}-{key}"
    if not folder.exists():
        for outdated in folder.parent.glob(f"{name}-{'?' * len(key)}*"):
            shutil.rmtree(outdated)
        part = folder.with_name(folder.name + ".part")
        command = [sys.executable, TOOLS / "make_checkpoint.py", recipe[0], part, *recipe[1:]]
        subprocess.run(command, check=True)
        part.rename(folder)
    return folder


# The real configurations, with what is peculiar to their real files: SD v1's is float32 and carries the old attention
# names, SDXL's is float16 under its own name, Flux's is bfloat16 and has no quantisation convolutions.
SD_V1 = Model("sd-v1", 4, 0.18215, recipe=("sd-v1", "--old-attention-names"))
SDXL = Model("sdxl", 4, 0.13025, recipe=("sdxl", "--seed", "1", "--dtype", "float16", "--old-attention-names"))
FLUX = Model("flux", 16, 0.3611, 0.1159, recipe=("flux", "--seed", "2", "--dtype", "bfloat16"))
REAL = [SD_V1, SDXL, FLUX]

# Videos: the real configuration, and the same with an eighth of its channels.
HUNYUAN_VIDEO = Model("hunyuan-video", 16, 0.476986, recipe=("hunyuan-video", "--seed", "3", "--dtype", "float16"))
NARROW_VIDEO = Model("narrow-video", 16, 0.476986, recipe=("hunyuan-video-narrow", "--seed", "4"))
VIDEO = [HUNYUAN_VIDEO, NARROW_VIDEO]

# Pictures with alpha. It is small: what it is for is the fourth channel.
ALPHA = Model("alpha", 16, 0.5, recipe=("alpha", "--seed", "5"))


def demo() -> Model:
    """The embedded model, with the factors that its own configuration states."""
    config = AutoencoderKL.load_config(DEMO)
    shift = config.get("shift_factor")
    return Model("demo", config["latent_channels"], config["scaling_factor"], shift)
