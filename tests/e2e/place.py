"""Where things are: the checkout, the binary under test, the cache."""

import functools
import hashlib
import json
import os
import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "remote-vae"
DEMO = ROOT / "assets" / "demo-vae"
# The photograph that the embedded model was not trained on, and its latents.
PHOTOGRAPH = ROOT / "assets" / "astronaut.png"
# What a photograph kept out of training must come back with, in dB. The shipped model measures 27.11 (assets/README.md).
PHOTOGRAPH_PSNR = 27.0
PHOTOGRAPH_LATENTS = ROOT / "assets" / "demo-latents" / "astronaut.safetensors"


@functools.cache
def binary() -> Path:
    """The release build of `remote-vae`; `./test` builds it before these tests run."""
    command = ["cargo", "metadata", "--locked", "--offline", "--no-deps", "--format-version", "1"]
    metadata = json.loads(subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE).stdout)
    path = Path(metadata["target_directory"]) / "release" / "remote-vae"
    assert path.exists(), f"{path} is missing; run `cargo build --release` first"
    return path


def clean_environment(**extra: str) -> dict[str, str]:
    """The environment without what would configure `remote-vae` behind a test's back."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith("REMOTE_VAE")}
    return kept | extra


def digest(*parts: bytes | str | Path) -> str:
    """One name for a number of contents: text, bytes, or the files at the paths."""
    total = hashlib.sha256()
    for part in parts:
        content = part.read_bytes() if isinstance(part, Path) else part.encode() if isinstance(part, str) else part
        total.update(hashlib.sha256(content).digest())
    return total.hexdigest()[:24]
